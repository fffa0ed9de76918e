//! Decoding of loads, stores, atomics, conversions of addresses and cache hints.
//!
//! Comes in: modifiers and operands. Goes out: an [`Op`]. What holds: as [`super`] says; cache operators and policies change
//! nothing and are dropped.

use super::{Build, Mods, Res};
use crate::ast::Arg;
use crate::isa::*;

const SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("shared::cluster", Space::Shared),
    ("local", Space::Local),
    ("param", Space::Param),
    ("param::entry", Space::Param),
    ("const", Space::Const),
];

fn vector(mods: &mut Mods) -> usize {
    mods.pick(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1)
}

/// Refuses a wrong number of operands; a trailing cache policy is allowed with its modifier.
fn operands(mods: &mut Mods, args: &[Arg], n: usize) -> Res<()> {
    let policy = usize::from(mods.flag("L2::cache_hint"));
    if args.len() == n + policy {
        Ok(())
    } else {
        Err(format!("expected {} operands, found {}", n + policy, args.len()))
    }
}

impl Build {
    pub fn load(&mut self, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        operands(&mut mods, args, 2)?;
        let sem = mods.sem();
        let space = mods.pick(SPACES).unwrap_or(Space::Generic);
        mods.cache();
        let n = vector(&mut mods);
        let ty = mods.ty()?;
        mods.finish()?;
        let list = match &args[0] {
            Arg::Vector(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        if list.len() != n {
            return Err(format!("{} destinations for {n} elements", list.len()));
        }
        let mut d = Vec::new();
        for arg in list {
            d.push(if *arg == Arg::Sink { None } else { Some(self.dst_bits(arg)?) });
        }
        Ok(Op::Ld(Box::new(Ld { ty, sem, addr: self.addr(&args[1], space)?, d })))
    }

    pub fn store(&mut self, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        operands(&mut mods, args, 2)?;
        let sem = mods.sem();
        let space = mods.pick(SPACES).unwrap_or(Space::Generic);
        mods.cache();
        let n = vector(&mut mods);
        let ty = mods.ty()?;
        mods.finish()?;
        if matches!(space, Space::Const | Space::Param) {
            return Err("constants and parameters cannot be written".into());
        }
        let a = self.srcs(&args[1], ty)?;
        if a.len() != n {
            return Err(format!("{} sources for {n} elements", a.len()));
        }
        Ok(Op::St(Box::new(St { ty, sem, addr: self.addr(&args[0], space)?, a })))
    }

    pub fn atomic(&mut self, name: &str, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let returns = name == "atom";
        let sem = match mods.sem() {
            Sem::Weak => Sem::Relaxed,
            sem => sem,
        };
        let space = mods.pick(SPACES).unwrap_or(Space::Generic);
        let op = mods.pick(&[
            ("add", AtomOp::Add),
            ("min", AtomOp::Min),
            ("max", AtomOp::Max),
            ("and", AtomOp::And),
            ("or", AtomOp::Or),
            ("xor", AtomOp::Xor),
            ("exch", AtomOp::Exch),
            ("cas", AtomOp::Cas),
            ("inc", AtomOp::Inc),
            ("dec", AtomOp::Dec),
        ]);
        let op = op.ok_or("an operation is missing")?;
        let n = vector(&mut mods);
        mods.hints(&["noftz"]);
        operands(&mut mods, args, 1 + usize::from(returns) + 1 + usize::from(op == AtomOp::Cas))?;
        let ty = mods.ty()?;
        mods.finish()?;
        let (d, rest) = if returns { (Some(self.dsts(&args[0])?), &args[1..]) } else { (None, args) };
        let b = self.srcs(&rest[1], ty)?;
        if b.len() != n || d.as_ref().is_some_and(|d| d.len() != n) {
            return Err(format!("expected {n} elements"));
        }
        let c = if op == AtomOp::Cas { Some(self.src(&rest[2], ty)?) } else { None };
        Ok(Op::Atom(Box::new(Atom { op, ty, sem, addr: self.addr(&rest[0], space)?, d, b, c })))
    }

    pub fn spaces(&mut self, name: &str, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let to = mods.flag("to");
        let space = mods.pick(SPACES).unwrap_or(Space::Generic);
        if name == "isspacep" {
            mods.finish()?;
            return match args {
                [p, a] => Ok(Op::IsSpace { space, p: self.pdst(p)?, a: self.src(a, Ty::U64)? }),
                _ => Err("expected 2 operands".into()),
            };
        }
        let ty = mods.ty()?;
        mods.finish()?;
        match (name, args) {
            ("cvta", [d, a]) if space != Space::Generic => {
                let a = self.src(a, ty)?;
                Ok(Op::Cvta { to_generic: !to, space, d: self.dst(d)?, a })
            }
            ("mapa", [d, a, cta]) => {
                let (a, cta) = (self.src(a, ty)?, self.src(cta, Ty::U32)?);
                Ok(Op::Mapa { d: self.dst(d)?, a, cta })
            }
            ("getctarank", [d, _]) => Ok(Op::Mov { d: self.dst(d)?, a: self.constant(0) }),
            _ => Err("operands do not fit".into()),
        }
    }

    pub fn hint(&mut self, name: &str, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        if name == "createpolicy" {
            mods.hints(&[
                "range",
                "fractional",
                "cvt",
                "global",
                "L2",
                "b64",
                "L2::evict_last",
                "L2::evict_normal",
                "L2::evict_first",
                "L2::evict_unchanged",
            ]);
            mods.finish()?;
            let d = self.dst(args.first().ok_or("expected a destination")?)?;
            return Ok(Op::Mov { d, a: self.constant(0x12F0_0000_0000_0000) });
        }
        mods.hints(&[
            "global",
            "local",
            "const",
            "param",
            "tensormap",
            "L1",
            "L2",
            "L2::evict_last",
            "L2::evict_normal",
            "L1::evict_normal",
            "global::L2",
        ]);
        mods.finish()?;
        Ok(Op::Nop)
    }
}
