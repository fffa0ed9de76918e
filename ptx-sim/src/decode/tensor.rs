//! Decoding of ldmatrix, stmatrix, mma and wgmma.
//!
//! Comes in: modifiers and operands. Goes out: an [`Op`]. What holds: the shapes are those listed in the crate's README, and
//! every fragment has as many registers as its shape says.

use super::{Build, Mods, Res};
use crate::ast::Arg;
use crate::isa::*;

fn mma_ty(word: &str) -> Option<MmaTy> {
    Some(match word {
        "f16" => MmaTy::F16,
        "bf16" => MmaTy::Bf16,
        "tf32" => MmaTy::Tf32,
        "s8" => MmaTy::S8,
        "u8" => MmaTy::U8,
        "e4m3" => MmaTy::E4m3,
        "e5m2" => MmaTy::E5m2,
        _ => return None,
    })
}

fn next_ty(mods: &mut Mods) -> Res<MmaTy> {
    let word = mods.next().unwrap_or("");
    mma_ty(word).ok_or_else(|| format!("element type `.{word}` is not modelled"))
}

fn length(list: &[Row], n: u32, what: &str) -> Res<()> {
    if list.len() as u32 == n {
        Ok(())
    } else {
        Err(format!("{what} has {} registers, expected {n}", list.len()))
    }
}

/// An operand that is +1 or -1.
fn sign(arg: &Arg) -> Res<bool> {
    match arg {
        Arg::Int(1) => Ok(false),
        Arg::Int(-1) => Ok(true),
        _ => Err("a scale is the immediate 1 or -1".into()),
    }
}

/// An operand that is 0 or 1.
fn zero_one(arg: &Arg) -> Res<bool> {
    match arg {
        Arg::Int(0) => Ok(false),
        Arg::Int(1) => Ok(true),
        _ => Err("a transpose is the immediate 0 or 1".into()),
    }
}

impl Build {
    pub fn matrix(&mut self, name: &str, mods: Mods, args: &[Arg]) -> Res<Op> {
        match name {
            "mma" => self.mma(mods, args),
            "wgmma" => self.wgmma(mods, args),
            _ => self.matrix_copy(name == "ldmatrix", mods, args),
        }
    }

    fn matrix_copy(&mut self, load: bool, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let n = mods.pick(&[("x1", 1), ("x2", 2), ("x4", 4)]).ok_or(".x1, .x2 or .x4 is missing")?;
        let trans = mods.flag("trans");
        let generic = !(mods.flag("shared") | mods.flag("shared::cta"));
        if !(mods.flag("sync") & mods.flag("aligned") & mods.flag("m8n8") & mods.flag("b16")) {
            return Err("only .sync.aligned.m8n8 of .b16 is modelled".into());
        }
        mods.finish()?;
        let space = if generic { Space::Generic } else { Space::Shared };
        match (load, args) {
            (true, [d, a]) => {
                let d = self.dsts(d)?;
                length(&d, n, "the destination")?;
                Ok(Op::Ldmatrix { addr: self.addr(a, space)?, d, trans })
            }
            (false, [a, d]) => {
                let d = self.srcs(d, Ty::B32)?;
                length(&d, n, "the source")?;
                Ok(Op::Stmatrix { addr: self.addr(a, space)?, a: d, trans })
            }
            _ => Err("expected 2 operands".into()),
        }
    }

    fn mma(&mut self, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        if !(mods.flag("sync") & mods.flag("aligned")) {
            return Err("mma is .sync.aligned".into());
        }
        let k = mods.pick(&[("m16n8k4", 4), ("m16n8k8", 8), ("m16n8k16", 16), ("m16n8k32", 32)]);
        let k = k.ok_or("shapes m16n8k4, m16n8k8, m16n8k16 and m16n8k32 are modelled")?;
        if !(mods.flag("row") & mods.flag("col")) {
            return Err("mma is .row.col".into());
        }
        mods.hints(&["satfinite"]);
        let acc = mods.ty()?;
        let (a_ty, b_ty) = (next_ty(&mut mods)?, next_ty(&mut mods)?);
        if mods.ty()? != acc {
            return Err("accumulators of two types are not modelled".into());
        }
        mods.finish()?;
        let [d, a, b, c] = args else {
            return Err("expected 4 operands".into());
        };
        let good = match a_ty {
            MmaTy::F16 => matches!(k, 8 | 16) && matches!(acc, Ty::F32 | Ty::F16),
            MmaTy::Bf16 => matches!(k, 8 | 16) && acc == Ty::F32,
            MmaTy::Tf32 => matches!(k, 4 | 8) && acc == Ty::F32,
            MmaTy::S8 | MmaTy::U8 => matches!(k, 16 | 32) && acc == Ty::S32,
            MmaTy::E4m3 | MmaTy::E5m2 => k == 32 && acc == Ty::F32,
        };
        if !good || a_ty.bytes() != b_ty.bytes() {
            return Err("this combination of shape and types is not modelled".into());
        }
        let (d, a) = (self.dsts(d)?, self.srcs(a, Ty::B32)?);
        let (b, c) = (self.srcs(b, Ty::B32)?, self.srcs(c, acc)?);
        let acc_regs = if acc == Ty::F16 { 2 } else { 4 };
        let bytes = k * a_ty.bytes();
        length(&d, acc_regs, "d")?;
        length(&c, acc_regs, "c")?;
        length(&a, bytes / 8, "a")?;
        length(&b, bytes / 16, "b")?;
        Ok(Op::Mma(Box::new(Mma { k, a_ty, b_ty, acc, d, a, b, c })))
    }

    fn wgmma(&mut self, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let what = mods.next().unwrap_or("");
        if !(mods.flag("sync") & mods.flag("aligned")) {
            return Err("wgmma is .sync.aligned".into());
        }
        match (what, args) {
            ("fence", []) => mods.finish().map(|()| Op::WgmmaFence),
            ("commit_group", []) => mods.finish().map(|()| Op::WgmmaCommit),
            ("wait_group", [Arg::Int(n)]) => {
                mods.finish()?;
                Ok(Op::WgmmaWait { pending: *n as u32 })
            }
            ("mma_async", _) => self.mma_async(mods, args),
            _ => Err(format!("`wgmma.{what}` with these operands is not known")),
        }
    }

    fn mma_async(&mut self, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let shape = mods.next().unwrap_or("");
        let dims = shape.strip_prefix("m64n").and_then(|s| s.split_once('k'));
        let dims = dims.and_then(|(n, k)| Some((n.parse::<u32>().ok()?, k.parse::<u32>().ok()?)));
        let (n, k) = dims.ok_or_else(|| format!("shape `.{shape}` is not known"))?;
        let f32_acc = match mods.ty()? {
            Ty::F32 => true,
            Ty::F16 => false,
            _ => return Err("accumulators are .f32 or .f16".into()),
        };
        let (a_ty, b_ty) = (next_ty(&mut mods)?, next_ty(&mut mods)?);
        mods.finish()?;
        let floats = !matches!(a_ty, MmaTy::S8 | MmaTy::U8);
        if !floats || a_ty.bytes() != b_ty.bytes() || k * a_ty.bytes() != 32 {
            return Err("this combination of shape and types is not modelled".into());
        }
        if n == 0 || n > 256 || !n.is_multiple_of(8) {
            return Err("n is a multiple of 8 up to 256".into());
        }
        let halves = a_ty.bytes() == 2;
        let from_regs = matches!(args.get(1), Some(Arg::Vector(_)));
        let expected = 6 + if !halves { 0 } else { 2 - usize::from(from_regs) };
        if args.len() != expected {
            return Err(format!("expected {expected} operands, found {}", args.len()));
        }
        let d = self.dsts(&args[0])?;
        length(&d, if f32_acc { n / 2 } else { n / 4 }, "d")?;
        let a = if from_regs {
            let regs = self.srcs(&args[1], Ty::B32)?;
            length(&regs, 4, "a")?;
            WgmmaA::Regs(regs)
        } else {
            WgmmaA::Desc(self.src(&args[1], Ty::B64)?)
        };
        let (trans_a, trans_b) = match (halves, from_regs) {
            (false, _) => (false, false),
            (true, true) => (false, zero_one(&args[6])?),
            (true, false) => (zero_one(&args[6])?, zero_one(&args[7])?),
        };
        Ok(Op::Wgmma(Box::new(Wgmma {
            n,
            k,
            a_ty,
            b_ty,
            f32_acc,
            d,
            a,
            b: self.src(&args[2], Ty::B64)?,
            scale_d: self.psrc(&args[3])?,
            neg_a: sign(&args[4])?,
            neg_b: sign(&args[5])?,
            trans_a,
            trans_b,
        })))
    }
}
