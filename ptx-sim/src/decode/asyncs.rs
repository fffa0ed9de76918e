//! Decoding of asynchronous copies and mbarriers.
//!
//! Comes in: modifiers and operands. Goes out: an [`Op`]. What holds: as [`super`] says; multicast and im2col are refused.

use super::{Build, Mods, Res};
use crate::ast::Arg;
use crate::isa::*;

/// Whether the parts name shared memory of this block (a cluster holds one block).
fn shared(mods: &mut Mods) -> Space {
    let named = mods.flag("shared") | mods.flag("shared::cta") | mods.flag("shared::cluster");
    if named { Space::Shared } else { Space::Generic }
}

impl Build {
    /// Opcodes that begin with `cp`.
    pub fn copies(&mut self, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let reduce = mods.flag("reduce");
        if !mods.flag("async") {
            return Err("only cp.async and its kin are known".into());
        }
        if mods.flag("bulk") {
            return self.bulk(mods, args, reduce);
        }
        if mods.flag("commit_group") {
            mods.finish()?;
            return if args.is_empty() { Ok(Op::CpCommit) } else { Err("no operands expected".into()) };
        }
        if mods.flag("wait_all") {
            mods.finish()?;
            return Ok(Op::CpWait { pending: None });
        }
        if mods.flag("wait_group") {
            mods.finish()?;
            return match args {
                [Arg::Int(n)] => Ok(Op::CpWait { pending: Some(*n as u32) }),
                _ => Err("expected an immediate".into()),
            };
        }
        if mods.flag("mbarrier") {
            let good = mods.flag("arrive") & mods.flag("b64");
            let no_inc = mods.flag("noinc");
            let space = shared(&mut mods);
            mods.finish()?;
            return match args {
                [a] if good => {
                    let op = MbarOp::CpArrive { no_inc };
                    Ok(Op::Mbar(Box::new(Mbar { addr: self.addr(a, space)?, relaxed: false, op })))
                }
                _ => Err("expected cp.async.mbarrier.arrive.b64 and an address".into()),
            };
        }
        self.cp_async(mods, args)
    }

    fn cp_async(&mut self, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let cg = mods.pick(&[("ca", false), ("cg", true)]).ok_or(".ca or .cg is missing")?;
        let spaces = (mods.flag("shared") | mods.flag("shared::cta")) & mods.flag("global");
        let policy = usize::from(mods.flag("L2::cache_hint"));
        mods.cache();
        mods.finish()?;
        let (Some(Arg::Int(size)), true) = (args.get(2), spaces) else {
            return Err("expected .shared.global and `[dst], [src], size`".into());
        };
        if !matches!(size, 4 | 8 | 16) || (cg && *size != 16) {
            return Err("the size is 4, 8 or 16 bytes; 16 with .cg".into());
        }
        let (src_size, ignore) = match args.len() - policy {
            3 => (None, None),
            4 if self.is_pred(&args[3]) => (None, Some(self.psrc(&args[3])?)),
            4 => (Some(self.src(&args[3], Ty::B32)?), None),
            _ => return Err("too many operands".into()),
        };
        let (dst, src) = (self.addr(&args[0], Space::Shared)?, self.addr(&args[1], Space::Global)?);
        Ok(Op::CpAsync(Box::new(CpAsync { dst, src, size: *size as u32, src_size, ignore })))
    }

    fn bulk(&mut self, mut mods: Mods, args: &[Arg], reduce: bool) -> Res<Op> {
        if mods.flag("commit_group") {
            return mods.finish().map(|()| Op::BulkCommit);
        }
        if mods.flag("wait_group") {
            let read = mods.flag("read");
            mods.finish()?;
            return match args {
                [Arg::Int(n)] => Ok(Op::BulkWait { pending: *n as u32, read }),
                _ => Err("expected an immediate".into()),
            };
        }
        if mods.flag("prefetch") {
            mods.hints(&["tensor", "L2", "global", "L2::cache_hint", "tile", "1d", "2d", "3d", "4d", "5d"]);
            return mods.finish().map(|()| Op::Nop);
        }
        let tensor = mods.flag("tensor");
        let rank = mods.pick(&[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)]);
        let policy = usize::from(mods.flag("L2::cache_hint"));
        mods.hints(&["tile"]);
        // The order of the two spaces is the direction.
        let store = match (mods.next(), mods.next()) {
            (Some("shared::cluster" | "shared::cta"), Some("global")) => false,
            (Some("global"), Some("shared::cta")) => true,
            _ => return Err("copies between these spaces are not modelled".into()),
        };
        let done = if store { mods.flag("bulk_group") } else { mods.flag("mbarrier::complete_tx::bytes") };
        if !done {
            return Err("the completion mechanism is missing".into());
        }
        let reduction = self.reduction(&mut mods, reduce, tensor)?;
        mods.finish()?;
        if tensor != rank.is_some() || (reduce && !store) {
            return Err("this form of bulk copy is not modelled".into());
        }
        let shared_arg = usize::from(store);
        let (s, g) = (&args.get(shared_arg), &args.get(1 - shared_arg));
        let (Some(s), Some(g)) = (s, g) else {
            return Err("operands are missing".into());
        };
        let shared = self.addr(s, Space::Shared)?;
        let (global, coords) = match (tensor, *g) {
            (true, Arg::Tensor(base, off, list)) => {
                if Some(list.len()) != rank {
                    return Err("as many coordinates as dimensions".into());
                }
                let place = Arg::Addr(base.clone(), *off);
                let rows = list.iter().map(|a| self.src(a, Ty::S32)).collect::<Res<Vec<_>>>()?;
                (self.addr(&place, Space::Generic)?, rows)
            }
            (false, Arg::Addr(..)) => (self.addr(g, Space::Global)?, Vec::new()),
            _ => return Err("expected `[map, {coordinates}]` or `[address]`".into()),
        };
        let mut rest = args[2..].iter();
        let size = match tensor {
            true => None,
            false => Some(self.src(rest.next().ok_or("a size is missing")?, Ty::U32)?),
        };
        let mbar = match store {
            true => None,
            false => Some(self.addr(rest.next().ok_or("an mbarrier is missing")?, Space::Shared)?),
        };
        if rest.len() != policy {
            return Err("operands do not fit the modifiers".into());
        }
        Ok(Op::Bulk(Box::new(Bulk { coords, tensor, store, reduce: reduction, shared, global, size, mbar })))
    }

    fn reduction(&self, mods: &mut Mods, reduce: bool, tensor: bool) -> Res<Option<(AtomOp, Ty)>> {
        if !reduce {
            return Ok(None);
        }
        let op = mods.pick(&[
            ("add", AtomOp::Add),
            ("min", AtomOp::Min),
            ("max", AtomOp::Max),
            ("and", AtomOp::And),
            ("or", AtomOp::Or),
            ("xor", AtomOp::Xor),
        ]);
        let op = op.ok_or("an operation is missing")?;
        mods.hints(&["noftz"]);
        // A tensor reduction takes its type from the map.
        let ty = if tensor { Ty::F32 } else { mods.ty()? };
        Ok(Some((op, ty)))
    }

    pub fn mbarrier(&mut self, mut mods: Mods, args: &[Arg]) -> Res<Op> {
        let what = mods.next().unwrap_or("");
        let expect = mods.flag("expect_tx");
        let parity = mods.flag("parity");
        let no_complete = mods.flag("noComplete");
        let relaxed = mods.flag("relaxed");
        mods.hints(&["release", "acquire", "cta", "cluster"]);
        let space = shared(&mut mods);
        if !mods.flag("b64") {
            return Err("mbarriers are .b64".into());
        }
        mods.finish()?;
        let u32_at = |b: &mut Self, n: usize| match args.get(n) {
            Some(a) => b.src(a, Ty::U32).map(Some),
            None => Ok(None),
        };
        let needed = |row: Option<Row>| row.ok_or_else(|| "an operand is missing".to_string());
        let first = args.first().ok_or("operands are missing")?;
        let second = args.get(1);
        let (place, op) = match what {
            "init" => (first, MbarOp::Init { count: needed(u32_at(self, 1)?)? }),
            "inval" => (first, MbarOp::Inval),
            "expect_tx" | "complete_tx" => {
                let bytes = needed(u32_at(self, 1)?)?;
                let expect = what == "expect_tx";
                (first, if expect { MbarOp::ExpectTx { bytes } } else { MbarOp::CompleteTx { bytes } })
            }
            "arrive" | "arrive_drop" => {
                let state = if *first == Arg::Sink { None } else { Some(self.dst(first)?) };
                let third = u32_at(self, 2)?;
                let (count, expect) = if expect { (None, Some(needed(third)?)) } else { (third, None) };
                let drop = what == "arrive_drop";
                let op = MbarOp::Arrive { state, count, expect, drop, no_complete };
                (second.ok_or("an address is missing")?, op)
            }
            "test_wait" | "try_wait" => {
                let p = self.pdst(first)?;
                let third = args.get(2).ok_or("a phase is missing")?;
                let (parity, state) = if parity {
                    (Some(self.src(third, Ty::U32)?), None)
                } else {
                    (None, Some(self.src(third, Ty::B64)?))
                };
                let op = MbarOp::Wait { p, parity, state };
                (second.ok_or("an address is missing")?, op)
            }
            "pending_count" => {
                let state = self.src(second.ok_or("a state is missing")?, Ty::B64)?;
                let op = MbarOp::PendingCount { d: self.dst(first)?, state };
                let addr = Addr { space: Space::Shared, base: state, off: 0, bits: 64 };
                return Ok(Op::Mbar(Box::new(Mbar { addr, relaxed, op })));
            }
            other => return Err(format!("`mbarrier.{other}` is not known")),
        };
        Ok(Op::Mbar(Box::new(Mbar { addr: self.addr(place, space)?, relaxed, op })))
    }
}
