//! Decoding of control flow, barriers, fences and what warps do together.
//!
//! Comes in: modifiers and operands. Goes out: an [`Op`]. What holds: as [`super`] says.

use super::{Build, Mods, Res};
use crate::ast::Arg;
use crate::isa::*;

impl Build {
    pub fn control(&mut self, name: &str, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        mods.hints(&["uni"]);
        mods.finish()?;
        match (name, args) {
            ("bra", [label]) => self.branch(label),
            ("ret" | "exit", []) => Ok(Op::Exit),
            ("trap", []) => Ok(Op::Trap),
            _ => Err("operands do not fit".into()),
        }
    }

    pub fn sync(&mut self, name: &str, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        match name {
            "bar" | "barrier" => self.barrier(name, mods, args),
            "membar" => {
                let proxy = mods.flag("proxy");
                mods.hints(&["cta", "gl", "sys", "alias"]);
                mods.finish()?;
                Ok(Op::Fence(if proxy { Fence::Other } else { Fence::Thread }))
            }
            "fence" => fence(mods),
            "nanosleep" => {
                mods.hints(&["u32"]);
                mods.finish()?;
                Ok(Op::Nop)
            }
            "griddepcontrol" => {
                mods.hints(&["launch_dependents", "wait"]);
                mods.finish()?;
                Ok(Op::Nop)
            }
            _ => {
                let inc = mods.pick(&[("inc", true), ("dec", false)]);
                mods.hints(&["sync", "aligned", "u32"]);
                mods.finish()?;
                match (inc, args) {
                    (Some(inc), [Arg::Int(n)]) if (0..=512).contains(n) => {
                        Ok(Op::SetMaxNReg { inc, count: *n as u32 })
                    }
                    _ => Err("setmaxnreg takes .inc or .dec and an immediate".into()),
                }
            }
        }
    }

    fn barrier(&mut self, name: &str, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        if mods.flag("warp") {
            mods.hints(&["sync"]);
            mods.finish()?;
            return match args {
                [mask] => Ok(Op::WarpSync { mask: self.src(mask, Ty::B32)? }),
                _ => Err("expected a mask".into()),
            };
        }
        if mods.flag("cluster") {
            let wait =
                mods.pick(&[("wait", true), ("arrive", false)]).ok_or(".arrive or .wait is missing")?;
            let relaxed = mods.flag("relaxed");
            mods.hints(&["acquire", "release", "aligned"]);
            mods.finish()?;
            return Ok(Op::ClusterBar { wait, relaxed });
        }
        mods.hints(&["cta"]);
        let aligned = mods.flag("aligned") || name == "bar";
        let arrive = match mods.pick(&[("sync", false), ("arrive", true)]) {
            Some(arrive) => arrive,
            None => return Err("only .sync and .arrive are modelled".into()),
        };
        mods.finish()?;
        let (id, count) = match args {
            [id] if !arrive => (id, None),
            [id, count] => (id, Some(self.src(count, Ty::B32)?)),
            _ => return Err("expected a barrier and a thread count".into()),
        };
        Ok(Op::Bar { id: self.src(id, Ty::B32)?, count, arrive, aligned })
    }

    pub fn warp(&mut self, name: &str, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        if name == "activemask" {
            mods.hints(&["b32"]);
            mods.finish()?;
            return match args {
                [d] => Ok(Op::ActiveMask { d: self.dst(d)? }),
                _ => Err("expected a destination".into()),
            };
        }
        if !mods.flag("sync") {
            return Err("the form without .sync is gone since sm_70".into());
        }
        match name {
            "shfl" => self.shuffle(mods, args),
            "vote" => self.vote(mods, args),
            "elect" => {
                mods.finish()?;
                let [Arg::Pair(d, p), mask] = args else {
                    return Err("expected `d|p, mask`".into());
                };
                let d = if **d == Arg::Sink { None } else { Some(self.dst(d)?) };
                Ok(Op::Elect { d, p: self.pdst(p)?, mask: self.src(mask, Ty::B32)? })
            }
            "redux" => {
                let op = mods.pick(&[
                    ("add", AtomOp::Add),
                    ("min", AtomOp::Min),
                    ("max", AtomOp::Max),
                    ("and", AtomOp::And),
                    ("or", AtomOp::Or),
                    ("xor", AtomOp::Xor),
                ]);
                let ty = mods.ty()?;
                mods.finish()?;
                match (op, args) {
                    (Some(op), [d, a, mask]) if ty.integer() => {
                        let (a, mask) = (self.src(a, ty)?, self.src(mask, Ty::B32)?);
                        Ok(Op::Redux { op, ty, d: self.dst(d)?, a, mask })
                    }
                    _ => Err("redux of integers: expected `d, a, mask`".into()),
                }
            }
            _ => {
                let all = mods.pick(&[("all", true), ("any", false)]).ok_or(".all or .any is missing")?;
                let ty = mods.ty()?;
                mods.finish()?;
                let [d, a, mask] = args else {
                    return Err("expected `d, a, mask`".into());
                };
                let (a, mask) = (self.src(a, ty)?, self.src(mask, Ty::B32)?);
                let (d, p) = match d {
                    Arg::Pair(d, p) => (self.dst(d)?, Some(self.pdst(p)?)),
                    d => (self.dst(d)?, None),
                };
                Ok(Op::Match { all, ty, d, p, a, mask })
            }
        }
    }

    fn shuffle(&mut self, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let mode =
            mods.pick(&[("up", Shfl::Up), ("down", Shfl::Down), ("bfly", Shfl::Bfly), ("idx", Shfl::Idx)]);
        mods.hints(&["b32"]);
        mods.finish()?;
        let (Some(mode), [d, a, b, c, mask]) = (mode, args) else {
            return Err("expected a mode and `d, a, b, c, mask`".into());
        };
        let (d, p) = match d {
            Arg::Pair(d, p) => (self.dst(d)?, Some(self.pdst(p)?)),
            d => (self.dst(d)?, None),
        };
        let a = self.src(a, Ty::B32)?;
        let (b, c) = (self.src(b, Ty::B32)?, self.src(c, Ty::B32)?);
        Ok(Op::Shfl { mode, d, p, a, b, c, mask: self.src(mask, Ty::B32)? })
    }

    fn vote(&mut self, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let mode = mods.pick(&[
            ("all", Vote::All),
            ("any", Vote::Any),
            ("uni", Vote::Uni),
            ("ballot", Vote::Ballot),
        ]);
        mods.hints(&["pred", "b32"]);
        mods.finish()?;
        let (Some(mode), [d, a, mask]) = (mode, args) else {
            return Err("expected a mode and `d, a, mask`".into());
        };
        let a = self.psrc(a)?;
        let mask = self.src(mask, Ty::B32)?;
        Ok(match mode {
            Vote::Ballot => Op::Vote { mode, d: self.dst(d)?, p: P_FALSE, a, mask },
            _ => Op::Vote { mode, d: 0, p: self.pdst(d)?, a, mask },
        })
    }
}

fn fence(mut mods: Mods) -> Res<Op> {
    let kind = if mods.flag("proxy") {
        let kind = mods.pick(&[
            ("async", Fence::Proxy),
            ("async.shared", Fence::Proxy),
            ("async::generic", Fence::Proxy),
            ("alias", Fence::Other),
            ("tensormap::generic", Fence::Other),
        ]);
        let kind = kind.ok_or("the proxy is not known")?;
        if mods.flag("global") {
            Fence::Other
        } else {
            mods.hints(&["shared::cta", "shared::cluster", "sync_restrict::shared::cta"]);
            mods.hints(&["sync_restrict::shared::cluster"]);
            kind
        }
    } else if mods.flag("mbarrier_init") {
        Fence::MbarrierInit
    } else {
        Fence::Thread
    };
    mods.hints(&["sc", "acq_rel", "acquire", "release", "cta", "cluster", "gpu", "sys"]);
    mods.finish()?;
    Ok(Op::Fence(kind))
}
