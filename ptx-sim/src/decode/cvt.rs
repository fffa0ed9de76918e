//! Decoding of conversions.
//!
//! Comes in: modifiers and operands of `cvt`. Goes out: an [`Op::Cvt`]. What holds: combinations that the PTX ISA does not
//! have are mostly refused; ptxas refuses the rest.

use super::{Build, Mods, Res};
use crate::ast::Arg;
use crate::isa::*;

impl Build {
    pub fn cvt(&mut self, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let integral =
            mods.pick(&[("rni", Rnd::Nearest), ("rzi", Rnd::Zero), ("rmi", Rnd::Down), ("rpi", Rnd::Up)]);
        let rnd = mods.rnd();
        let (ftz, sat) = (mods.flag("ftz"), mods.flag("sat"));
        let (satfinite, relu) = (mods.flag("satfinite"), mods.flag("relu"));
        let to = mods.ty()?;
        let from = mods.ty()?;
        mods.finish()?;
        let packs = matches!(to, Ty::F16x2 | Ty::Bf16x2 | Ty::E4m3x2 | Ty::E5m2x2) && from == Ty::F32;
        if args.len() != if packs { 3 } else { 2 } {
            return Err(format!("expected {} operands", if packs { 3 } else { 2 }));
        }
        let fp8 = |t| matches!(t, Ty::E4m3x2 | Ty::E5m2x2);
        if fp8(to) && !(satfinite && matches!(from, Ty::F32 | Ty::F16x2)) {
            return Err("conversions to fp8 are .satfinite and from .f32 or .f16x2".into());
        }
        if fp8(from) && to != Ty::F16x2 {
            return Err("conversions from fp8 go to .f16x2".into());
        }
        if from.integer() && to.integer() && (rnd.is_some() || integral.is_some()) {
            return Err("integer conversions do not round".into());
        }
        if !from.integer() && to.integer() && integral.is_none() {
            return Err("float to integer needs .rni, .rzi, .rmi or .rpi".into());
        }
        if rnd == Some(Rnd::Away) && to != Ty::Tf32 {
            return Err(".rna is for .tf32".into());
        }
        let (d, d_bits) = self.dst_bits(&args[0])?;
        let a = self.src(&args[1], from)?;
        let b = if packs { Some(self.src(&args[2], from)?) } else { None };
        let rnd = rnd.unwrap_or(Rnd::Nearest);
        Ok(Op::Cvt(Box::new(Cvt { to, from, integral, rnd, ftz, sat, satfinite, relu, d, d_bits, a, b })))
    }
}
