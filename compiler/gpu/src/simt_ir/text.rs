//! Text form of the SIMT IR: [`print`] writes a whole [`super::Kernel`], [`parse`] reads it back.
//!
//! What holds: printing is total (an ill-formed kernel prints too: what has no type is marked `?`) and stable (it depends on
//! the kernel alone). A text reads back to an equal kernel, with the same numbers of values and slots; so does the text of
//! a kernel that [`super::verify`] refuses, as long as its values have types. Not here: judging what the text says.
//!
//! An instruction is one line, a block is indented by two spaces. To add one: its words in `print::Printer::head`, the same
//! in `parse::Parser::inst` (or a row in a table below, for an operation of known form).

mod parse;
mod print;
#[cfg(test)]
mod tests;

pub use parse::{TextError, parse, parse_module};
pub use print::{place, print, print_module};

use super::{Bin, Cast, Cmp, Ty, Un};

/// Names of the types.
const TYPES: [(&str, Ty); 8] = [
    ("i1", Ty::I1),
    ("i8", Ty::I8),
    ("i16", Ty::I16),
    ("i32", Ty::I32),
    ("i64", Ty::I64),
    ("f16", Ty::F16),
    ("f32", Ty::F32),
    ("f64", Ty::F64),
];

/// Operations on two operands.
const BINS: [(&str, Bin); 17] = [
    ("add", Bin::Add),
    ("sub", Bin::Sub),
    ("mul", Bin::Mul),
    ("sdiv", Bin::SDiv),
    ("and", Bin::And),
    ("or", Bin::Or),
    ("xor", Bin::Xor),
    ("shl", Bin::Shl),
    ("lshr", Bin::LShr),
    ("ashr", Bin::AShr),
    ("smin", Bin::SMin),
    ("smax", Bin::SMax),
    ("fadd", Bin::FAdd),
    ("fsub", Bin::FSub),
    ("fmul", Bin::FMul),
    ("fdiv", Bin::FDiv),
    ("fmax", Bin::FMax),
];

/// Comparisons.
const CMPS: [(&str, Cmp); 9] = [
    ("eq", Cmp::Eq),
    ("ne", Cmp::Ne),
    ("slt", Cmp::Slt),
    ("sle", Cmp::Sle),
    ("ult", Cmp::Ult),
    ("feq", Cmp::FEq),
    ("fne", Cmp::FNe),
    ("flt", Cmp::FLt),
    ("fle", Cmp::FLe),
];

/// Operations on one float.
const UNS: [(&str, Un); 7] = [
    ("fneg", Un::FNeg),
    ("fabs", Un::FAbs),
    ("sqrt", Un::Sqrt),
    ("floor", Un::Floor),
    ("ceil", Un::Ceil),
    ("rint", Un::Rint),
    ("ex2", Un::Ex2),
];

/// Changes of type.
const CASTS: [(&str, Cast); 9] = [
    ("sext", Cast::SExt),
    ("zext", Cast::ZExt),
    ("trunc", Cast::Trunc),
    ("si_to_f", Cast::SiToF),
    ("f_to_si", Cast::FToSi),
    ("fext", Cast::FExt),
    ("ftrunc", Cast::FTrunc),
    ("bits", Cast::Bits),
    ("to_bf16", Cast::ToBf16),
];

fn name_of<T: PartialEq>(table: &[(&'static str, T)], x: T) -> &'static str {
    table.iter().find(|(_, y)| *y == x).map_or("?", |(name, _)| name)
}

fn by_name<T: Copy>(table: &[(&'static str, T)], name: &str) -> Option<T> {
    table.iter().find(|(n, _)| *n == name).map(|(_, x)| *x)
}
