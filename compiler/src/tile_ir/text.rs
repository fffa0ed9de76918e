//! Text form of the tile IR: [`print`] writes a whole [`super::Program`], [`parse`] reads it back.
//!
//! What holds: printing is total (an ill-formed program prints too, marked where an index is out of range) and
//! stable (it depends on the program alone, never on hash order or on the numbering of pool nodes), and
//! everything that affects code is in the text, since the kernel cache is keyed by its hash. The text of a
//! program that [`super::verify`] accepts reads back to a program of the same text. Pool nodes and variables
//! may be numbered differently after reading. Not here: judging what the text says; that is the verifier's.

mod parse;
mod print;
#[cfg(test)]
mod tests;

pub use parse::parse;
pub(crate) use parse::{dtype, fact, layout, ty};
pub(crate) use print::{fact_text, layout_text, value_text};
pub use print::{print, stmt_head};
