//! Decoding of arithmetic, logic, comparison and selection.
//!
//! Comes in: modifiers and operands. Goes out: an [`Op`]. What holds: as [`super`] says.

use super::{Build, Mods, Res};
use crate::ast::Arg;
use crate::isa::*;

fn count(args: &[Arg], n: usize) -> Res<()> {
    if args.len() == n { Ok(()) } else { Err(format!("expected {n} operands, found {}", args.len())) }
}

/// The modifiers of floating-point arithmetic.
fn fmode(mods: &mut Mods, ty: Ty) -> Res<FMode> {
    let rnd = mods.rnd().unwrap_or(Rnd::Nearest);
    let mode = FMode {
        rnd,
        ftz: mods.flag("ftz"),
        sat: mods.flag("sat"),
        relu: mods.flag("relu"),
        nan: mods.flag("NaN"),
        abs: mods.flag("abs"),
        xorsign: mods.flag("xorsign"),
    };
    mods.hints(&["noftz"]);
    if rnd == Rnd::Away || (rnd != Rnd::Nearest && ty != Ty::F32) {
        return Err("this rounding is not modelled for this type".into());
    }
    Ok(mode)
}

impl Build {
    pub fn mov(&mut self, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let ty = mods.ty()?;
        mods.finish()?;
        count(args, 2)?;
        if ty == Ty::Pred {
            return Ok(Op::MovPred { d: self.pdst(&args[0])?, a: self.psrc(&args[1])? });
        }
        let parts = |list: &[Arg]| match ty.bits() as usize / list.len().max(1) {
            bits @ (8 | 16 | 32) if bits * list.len() == ty.bits() as usize => Ok(bits as u32),
            _ => Err(format!("{} parts of {} bits", list.len(), ty.bits())),
        };
        match (&args[0], &args[1]) {
            (Arg::Vector(list), a) => {
                let bits = parts(list)?;
                let d: Res<Vec<Option<Row>>> = list
                    .iter()
                    .map(|x| if *x == Arg::Sink { Ok(None) } else { self.dst(x).map(Some) })
                    .collect();
                Ok(Op::Unpack { d: d?, a: self.src(a, ty)?, bits })
            }
            (d, Arg::Vector(list)) => {
                let bits = parts(list)?;
                let part = match bits {
                    8 => Ty::B8,
                    16 => Ty::B16,
                    _ => Ty::B32,
                };
                let parts = list.iter().map(|x| self.src(x, part)).collect::<Res<_>>()?;
                Ok(Op::Pack { d: self.dst(d)?, parts, bits })
            }
            (d, Arg::Name(name)) if name.starts_with("%clock") || name.starts_with("%globaltimer") => {
                Ok(Op::Clock { d: self.dst(d)?, bits: ty.bits() })
            }
            (d, a) => {
                let a = self.src(a, ty)?;
                Ok(Op::Mov { d: self.dst(d)?, a })
            }
        }
    }

    pub fn arith(&mut self, name: &str, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let ty = mods.ty()?;
        if ty == Ty::Pred {
            return Err("arithmetic on predicates".into());
        }
        if ty.integer() {
            self.int_arith(name, mods, ty, args)
        } else {
            self.float_arith(name, mods, ty, args)
        }
    }

    fn int_arith(&mut self, name: &str, mut mods: Mods, ty: Ty, args: &[Arg]) -> Res<Op> {
        let (sat, cc) = (mods.flag("sat"), mods.flag("cc"));
        let part = mods.pick(&[("lo", 0), ("hi", 1), ("wide", 2)]);
        mods.finish()?;
        if part == Some(2) && ty.bits() == 64 {
            return Err("there is no result wide enough".into());
        }
        if sat && ty != Ty::S32 {
            return Err("`.sat` is for .s32".into());
        }
        if matches!(name, "abs" | "neg") {
            count(args, 2)?;
            let f = if name == "abs" { Int1::Abs } else { Int1::Neg };
            return Ok(Op::Int1 { f, ty, d: self.dst(&args[0])?, a: self.src(&args[1], ty)? });
        }
        if cc || matches!(name, "addc" | "subc") {
            count(args, 3)?;
            if !matches!(name, "add" | "sub" | "addc" | "subc") {
                return Err("`.cc` is modelled for add and sub only".into());
            }
            return Ok(Op::Carry {
                sub: name.starts_with("sub"),
                ty,
                use_cc: name.ends_with('c'),
                set_cc: cc,
                d: self.dst(&args[0])?,
                a: self.src(&args[1], ty)?,
                b: self.src(&args[2], ty)?,
            });
        }
        if name == "mad" {
            count(args, 4)?;
            let f = match part {
                Some(0) => Int3::MadLo,
                Some(1) => Int3::MadHi { sat },
                Some(2) => Int3::MadWide,
                _ => return Err("mad needs .lo, .hi or .wide".into()),
            };
            let wide = if part == Some(2) && ty.bits() == 32 { Ty::U64 } else { ty };
            let (d, a) = (self.dst(&args[0])?, self.src(&args[1], ty)?);
            return Ok(Op::Int3 { f, ty, d, a, b: self.src(&args[2], ty)?, c: self.src(&args[3], wide)? });
        }
        count(args, 3)?;
        let f = match (name, part) {
            ("add", None) => Int2::Add { sat },
            ("sub", None) => Int2::Sub { sat },
            ("mul", Some(0)) => Int2::MulLo,
            ("mul", Some(1)) => Int2::MulHi,
            ("mul", Some(2)) => Int2::MulWide,
            ("div", None) => Int2::Div,
            ("min", None) => Int2::Min,
            ("max", None) => Int2::Max,
            _ => return Err(format!("`{name}` with these modifiers is not known")),
        };
        Ok(Op::Int2 { f, ty, d: self.dst(&args[0])?, a: self.src(&args[1], ty)?, b: self.src(&args[2], ty)? })
    }

    fn float_arith(&mut self, name: &str, mut mods: Mods, ty: Ty, args: &[Arg]) -> Res<Op> {
        let approximate = name == "div" && (mods.flag("approx") | mods.flag("full"));
        let mode = fmode(&mut mods, ty)?;
        mods.finish()?;
        if approximate && ty != Ty::F32 {
            return Err("approximate division is for .f32".into());
        }
        if matches!(name, "abs" | "neg") {
            count(args, 2)?;
            let f = if name == "abs" { F1::Abs } else { F1::Neg };
            // `.abs` is an opcode here, not a modifier.
            return Ok(Op::F1 { f, ty, mode, d: self.dst(&args[0])?, a: self.src(&args[1], ty)? });
        }
        if matches!(name, "fma" | "mad") {
            count(args, 4)?;
            let (d, a) = (self.dst(&args[0])?, self.src(&args[1], ty)?);
            return Ok(Op::Fma { ty, mode, d, a, b: self.src(&args[2], ty)?, c: self.src(&args[3], ty)? });
        }
        count(args, 3)?;
        let f = match name {
            "add" => F2::Add,
            "sub" => F2::Sub,
            "mul" => F2::Mul,
            "div" => F2::Div,
            "min" => F2::Min,
            "max" => F2::Max,
            _ => return Err(format!("`{name}` has no floating-point form")),
        };
        Ok(Op::F2 {
            f,
            ty,
            mode,
            d: self.dst(&args[0])?,
            a: self.src(&args[1], ty)?,
            b: self.src(&args[2], ty)?,
        })
    }

    /// tidy: long match (one arm for each opcode).
    pub fn bits(&mut self, name: &str, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        if matches!(name, "and" | "or" | "xor" | "not") && mods.flag("pred") {
            mods.finish()?;
            return self.pred_logic(name, args);
        }
        let n = match name {
            "not" | "cnot" | "popc" | "clz" | "brev" | "bfind" => 2,
            "bfe" | "sad" | "shf" | "prmt" | "dp4a" => 4,
            "bfi" => 5,
            "lop3" => 5,
            _ => 3,
        };
        if name == "lop3" && args.len() != 5 {
            return Err("lop3 takes d, a, b, c and a table; a second destination is not modelled".into());
        }
        if name != "lop3" {
            count(args, n)?;
        }
        let shift = mods.flag("shiftamt");
        let left = mods.pick(&[("l", true), ("r", false)]);
        let clamp = mods.pick(&[("clamp", true), ("wrap", false)]);
        let prmt = mods.pick(&[
            ("f4e", Prmt::F4e),
            ("b4e", Prmt::B4e),
            ("rc8", Prmt::Rc8),
            ("ecl", Prmt::Ecl),
            ("ecr", Prmt::Ecr),
            ("rc16", Prmt::Rc16),
        ]);
        let ty = mods.ty()?;
        let d = self.dst(&args[0])?;
        let a = self.src(&args[1], ty)?;
        let one = |f| Ok(Op::Int1 { f, ty, d, a });
        match name {
            "not" => return mods.finish().and_then(|()| one(Int1::Not)),
            "cnot" => return mods.finish().and_then(|()| one(Int1::Cnot)),
            "popc" => return mods.finish().and_then(|()| one(Int1::Popc)),
            "clz" => return mods.finish().and_then(|()| one(Int1::Clz)),
            "brev" => return mods.finish().and_then(|()| one(Int1::Brev)),
            "bfind" => return mods.finish().and_then(|()| one(Int1::Bfind { shift })),
            _ => {}
        }
        let shifts = matches!(name, "shl" | "shr");
        let b = self.src(&args[2], if shifts || name == "bfe" { Ty::B32 } else { ty })?;
        if n == 3 {
            mods.finish()?;
            let f = match name {
                "and" => Int2::And,
                "or" => Int2::Or,
                "xor" => Int2::Xor,
                "shl" => Int2::Shl,
                "shr" => Int2::Shr,
                "rem" => Int2::Rem,
                _ => return Err(format!("`{name}` with these modifiers is not known")),
            };
            return Ok(Op::Int2 { f, ty, d, a, b });
        }
        if name == "bfi" {
            mods.finish()?;
            let (c, e) = (self.src(&args[3], Ty::B32)?, self.src(&args[4], Ty::B32)?);
            return Ok(Op::Bfi { ty, d, a, b, c, e });
        }
        let c = self.src(&args[3], if name == "sad" { ty } else { Ty::B32 })?;
        let f = match (name, left, clamp) {
            ("sad", ..) => Int3::Sad,
            ("bfe", ..) => Int3::Bfe,
            ("shf", Some(true), Some(clamp)) => Int3::ShfL { clamp },
            ("shf", Some(false), Some(clamp)) => Int3::ShfR { clamp },
            ("prmt", ..) => Int3::Prmt(prmt.unwrap_or(Prmt::Generic)),
            ("dp4a", ..) => Int3::Dp4a { a_signed: ty.signed(), b_signed: mods.ty()?.signed() },
            ("lop3", ..) => match args.get(4) {
                Some(Arg::Int(lut)) if (0..256).contains(lut) => Int3::Lop3(*lut as u8),
                _ => return Err("lop3 needs an immediate table of 8 bits".into()),
            },
            _ => return Err(format!("`{name}` with these modifiers is not known")),
        };
        mods.finish()?;
        Ok(Op::Int3 { f, ty, d, a, b, c })
    }

    fn pred_logic(&mut self, name: &str, args: &[Arg]) -> Res<Op> {
        if name == "not" {
            count(args, 2)?;
            let a = self.psrc(&args[1])?;
            return Ok(Op::MovPred { d: self.pdst(&args[0])?, a: PSrc { negated: !a.negated, ..a } });
        }
        count(args, 3)?;
        let f = match name {
            "and" => Combine::And,
            "or" => Combine::Or,
            _ => Combine::Xor,
        };
        Ok(Op::PredBin { f, d: self.pdst(&args[0])?, a: self.psrc(&args[1])?, b: self.psrc(&args[2])? })
    }

    pub fn functions(&mut self, name: &str, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let approx = mods.flag("approx");
        let ty = mods.ty()?;
        let mode = fmode(&mut mods, ty)?;
        mods.finish()?;
        if name == "copysign" {
            count(args, 3)?;
            // d takes the sign of a and the magnitude of b.
            let (d, a) = (self.dst(&args[0])?, self.src(&args[1], ty)?);
            return Ok(Op::F2 { f: F2::CopySign, ty, mode, d, a, b: self.src(&args[2], ty)? });
        }
        count(args, 2)?;
        let f = match name {
            "ex2" => F1::Ex2,
            "lg2" => F1::Lg2,
            "rcp" => F1::Rcp,
            "rsqrt" => F1::Rsqrt,
            "sqrt" => F1::Sqrt,
            "tanh" => F1::Tanh,
            "sin" => F1::Sin,
            _ => F1::Cos,
        };
        if !approx && !matches!(f, F1::Rcp | F1::Sqrt) {
            return Err(format!("`{name}` needs `.approx`"));
        }
        if mode.rnd != Rnd::Nearest {
            return Err("only .rn and .approx are modelled".into());
        }
        Ok(Op::F1 { f, ty, mode, d: self.dst(&args[0])?, a: self.src(&args[1], ty)? })
    }

    pub fn compare(&mut self, name: &str, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        use Cmp::*;
        let cmp = mods.pick(&[
            ("eq", Eq),
            ("ne", Ne),
            ("lt", Lt),
            ("le", Le),
            ("gt", Gt),
            ("ge", Ge),
            ("lo", Lt),
            ("ls", Le),
            ("hi", Gt),
            ("hs", Ge),
            ("equ", Equ),
            ("neu", Neu),
            ("ltu", Ltu),
            ("leu", Leu),
            ("gtu", Gtu),
            ("geu", Geu),
            ("num", Num),
            ("nan", Nan),
        ]);
        let cmp = cmp.ok_or("a comparison is missing")?;
        let bool_op = mods.pick(&[("and", Combine::And), ("or", Combine::Or), ("xor", Combine::Xor)]);
        let ftz = mods.flag("ftz");
        let set = if name == "set" { Some(mods.ty()?) } else { None };
        let ty = mods.ty()?;
        mods.finish()?;
        count(args, if bool_op.is_some() { 4 } else { 3 })?;
        if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
            return Err("comparisons of packed halves are not modelled".into());
        }
        let combine = match bool_op {
            Some(f) => Some((f, self.psrc(&args[3])?)),
            None => None,
        };
        let (p, q, set) = match (&args[0], set) {
            (d, Some(to)) => (None, None, Some((to, self.dst(d)?))),
            (Arg::Pair(p, q), None) => (Some(self.pdst(p)?), Some(self.pdst(q)?), None),
            (p, None) => (Some(self.pdst(p)?), None, None),
        };
        let (a, b) = (self.src(&args[1], ty)?, self.src(&args[2], ty)?);
        Ok(Op::Setp(Box::new(Setp { cmp, combine, ty, ftz, p, q, a, b, set })))
    }

    pub fn select(&mut self, name: &str, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        count(args, 4)?;
        let ftz = mods.flag("ftz");
        let ty = mods.ty()?;
        let d = self.dst(&args[0])?;
        let (a, b) = (self.src(&args[1], ty)?, self.src(&args[2], ty)?);
        if name == "selp" {
            mods.finish()?;
            return Ok(Op::Selp { ty, d, a, b, p: self.psrc(&args[3])? });
        }
        let by = mods.ty()?;
        mods.finish()?;
        let _flushed_zero_is_a_zero_too = ftz;
        Ok(Op::Slct { ty, float: by == Ty::F32, d, a, b, c: self.src(&args[3], by)? })
    }
}
