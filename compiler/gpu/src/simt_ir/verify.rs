//! Checks a kernel. An error cites the number of the invariant.
//!
//! | | |
//! |---|---|
//! | S1 | A value is defined once, before its uses, in a block that encloses them |
//! | S2 | Operands and results have the types that the operation wants |
//! | S3 | A `BreakIf` stands directly in the body of a loop, or in choices inside it |
//! | S4 | Addresses are I64 in global and I32 in shared memory |
//! | S5 | Barriers, shuffles, fragment operations stand where control is uniform: no condition around them depends on the thread in a way that splits a warp (for shuffles, fragments and barriers that count threads), a warpgroup (for its products and registers) or the block (for its barrier) |
//! | S6 | Parameters are among those of the kernel, block sizes a multiple of 32 and at most 1024 |
//! | S7 | Maps are among those of the kernel, barriers have numbers 1 to 15 and whole warps |
//!
//! S5 is decided by how far values differ: the same for the block, for a warpgroup, for a warp, or for each lane.

use super::{
    Async, AtomicInc, Bin, Bulk, Cast, Cmp, Inst, Kernel, Mbar, Op, Slot, Space, Ty, Val, Wgmma, WgmmaLeft,
};
use crate::GpuError;

/// How far a value may differ between threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Spread {
    /// The same in all threads of a block.
    Block,
    /// The same in all threads of a warpgroup.
    Group,
    /// The same in all lanes of a warp.
    Warp,
    /// Any.
    Lane,
}

struct Verifier<'a> {
    kernel: &'a Kernel,
    defined: Vec<bool>,
    spread: Vec<Spread>,
    slots: Vec<Spread>,
    loops: u32,
}

/// Checks every invariant.
///
/// # Errors
/// The first invariant that does not hold, and where.
pub fn verify(kernel: &Kernel) -> Result<(), GpuError> {
    let bad_block = kernel.threads == 0 || kernel.threads > 1024 || !kernel.threads.is_multiple_of(32);
    let mut v = Verifier {
        kernel,
        defined: vec![false; kernel.vals.len()],
        spread: vec![Spread::Block; kernel.vals.len()],
        slots: vec![Spread::Block; kernel.slots.len()],
        loops: 0,
    };
    if bad_block {
        return Err(v.broken("S6", "block sizes", &format!("{} threads", kernel.threads)));
    }
    // What slots hold feeds back through loops: spreads only grow, so this ends.
    loop {
        let before = (v.slots.clone(), v.spread.clone());
        v.defined.fill(false);
        v.block(&kernel.body, Spread::Block, false)?;
        if before == (v.slots.clone(), v.spread.clone()) {
            break;
        }
    }
    v.defined.fill(false);
    v.block(&kernel.body, Spread::Block, true)
}

impl Verifier<'_> {
    fn broken(&self, number: &str, what: &str, op: &str) -> GpuError {
        GpuError::internal("simt_ir", format!("{number}: {what}"), format!("{}: {op}", self.kernel.name))
    }

    fn ty(&self, v: Val) -> Ty {
        self.kernel.vals.get(v.0 as usize).copied().unwrap_or(Ty::I1)
    }

    fn used(&self, v: Val, op: &dyn std::fmt::Debug) -> Result<Spread, GpuError> {
        match self.defined.get(v.0 as usize) {
            Some(true) => Ok(self.spread[v.0 as usize]),
            _ => Err(self.broken("S1", "a value is defined where it is used", &format!("{v:?} in {op:?}"))),
        }
    }

    fn block(&mut self, insts: &[Inst], control: Spread, judge: bool) -> Result<(), GpuError> {
        let mut made = Vec::new();
        let done = insts.iter().try_for_each(|inst| self.inst(inst, control, judge, &mut made));
        made.iter().for_each(|v: &Val| self.defined[v.0 as usize] = false);
        done
    }

    fn define(&mut self, v: Val, spread: Spread, made: &mut Vec<Val>) -> Result<(), GpuError> {
        match self.defined.get_mut(v.0 as usize) {
            Some(known @ false) => *known = true,
            _ => return Err(self.broken("S1", "a value is defined once", &format!("{v:?}"))),
        }
        let old = &mut self.spread[v.0 as usize];
        *old = (*old).max(spread);
        made.push(v);
        Ok(())
    }

    fn at_most(
        &self,
        most: Spread,
        control: Spread,
        judge: bool,
        op: &dyn std::fmt::Debug,
    ) -> Result<(), GpuError> {
        if judge && control > most {
            return Err(self.broken("S5", "control is uniform here", &format!("{op:?}")));
        }
        Ok(())
    }

    /// One arm for each kind (tidy: long match).
    fn inst(
        &mut self,
        inst: &Inst,
        control: Spread,
        judge: bool,
        made: &mut Vec<Val>,
    ) -> Result<(), GpuError> {
        match inst {
            Inst::Def(v, op) => {
                let spread = self.op(*v, op, control, judge)?;
                self.define(*v, spread, made)
            }
            Inst::Set(slot, v) => {
                let spread = self.used(*v, inst)?.max(control);
                self.slot_is(*slot, self.ty(*v), inst)?;
                let old = &mut self.slots[slot.0 as usize];
                *old = (*old).max(spread);
                Ok(())
            }
            Inst::Store(space, addr, v) => {
                self.used(*v, inst)?;
                self.used(*addr, inst)?;
                self.address(*space, *addr, inst)
            }
            Inst::Bar => self.at_most(Spread::Block, control, judge, inst),
            Inst::WarpBar => self.at_most(Spread::Warp, control, judge, inst),
            Inst::If { cond, then, otherwise } => {
                let spread = self.used(*cond, &"if")?.max(control);
                self.typed(*cond, Ty::I1, &"if")?;
                self.block(then, spread, judge)?;
                self.block(otherwise, spread, judge)
            }
            Inst::Loop { body, .. } => {
                let spread = self.breaks(body).max(control);
                self.loops += 1;
                let done = self.block(body, spread, judge);
                self.loops -= 1;
                done
            }
            Inst::BreakIf(v) => {
                self.used(*v, inst)?;
                self.typed(*v, Ty::I1, inst)?;
                if self.loops == 0 {
                    return Err(self.broken("S3", "a break stands in a loop", &format!("{inst:?}")));
                }
                Ok(())
            }
            Inst::Mma(mma) => {
                self.at_most(Spread::Warp, control, judge, inst)?;
                for v in mma.a.iter().chain(&mma.b) {
                    self.used(*v, inst)?;
                    self.typed(*v, Ty::I32, inst)?;
                }
                for slot in mma.d {
                    self.slot_is(slot, Ty::F32, inst)?;
                    self.slots[slot.0 as usize] = Spread::Lane;
                }
                Ok(())
            }
            Inst::LdMatrix(load) => {
                self.at_most(Spread::Warp, control, judge, inst)?;
                self.used(load.addr, inst)?;
                self.typed(load.addr, Ty::I32, inst)?;
                load.dst.iter().try_for_each(|v| {
                    self.define(*v, Spread::Lane, made)?;
                    self.typed(*v, Ty::I32, inst)
                })
            }
            Inst::AtomicInc(AtomicInc { dst, at, most }) => {
                self.used(*at, inst)?;
                self.used(*most, inst)?;
                self.typed(*most, Ty::I32, inst)?;
                self.address(Space::Global, *at, inst)?;
                self.define(*dst, Spread::Lane, made)?;
                self.typed(*dst, Ty::I32, inst)
            }
            Inst::Async(Async::Copy { dst, src, bytes }) => {
                for v in [dst, src, bytes] {
                    self.used(*v, inst)?;
                }
                self.typed(*bytes, Ty::I32, inst)?;
                self.address(Space::Shared, *dst, inst)?;
                self.address(Space::Global, *src, inst)
            }
            Inst::Async(_) => Ok(()),
            Inst::Wgmma(op) => self.wgmma(op, control, judge, inst),
            Inst::NamedBar { id, threads, .. } => {
                if !(1..16).contains(id) || *threads == 0 || !threads.is_multiple_of(32) {
                    return Err(self.broken("S7", "a barrier of whole warps", &format!("{inst:?}")));
                }
                self.at_most(Spread::Warp, control, judge, inst)
            }
            Inst::Registers { .. } => self.at_most(Spread::Group, control, judge, inst),
            Inst::Mbar(op) => self.mbar(op, inst),
            Inst::Bulk(Bulk::Store { src, map, coords }) => self.boxed(*map, coords, &[*src], inst),
            Inst::Bulk(Bulk::Commit | Bulk::WaitRead(_)) => Ok(()),
        }
    }

    fn mbar(&mut self, op: &Mbar, inst: &Inst) -> Result<(), GpuError> {
        let places: Vec<Val> = match op {
            Mbar::FenceInit => vec![],
            Mbar::Init { at, .. } | Mbar::ArriveExpect { at, .. } | Mbar::Arrive { at } => vec![*at],
            Mbar::Wait { at, parity } => vec![*at, *parity],
            Mbar::Copy { dst, map, coords, bar } => return self.boxed(*map, coords, &[*dst, *bar], inst),
        };
        self.places(&places, inst)
    }

    /// A box of a tensor: its map, coordinates, and places in shared memory.
    fn boxed(&mut self, map: u32, coords: &[Val], places: &[Val], inst: &Inst) -> Result<(), GpuError> {
        if map >= self.kernel.n_maps || !(1..=5).contains(&coords.len()) {
            return Err(self.broken("S7", "a map of the kernel, 1 to 5 coordinates", &format!("{inst:?}")));
        }
        self.places(&[places, coords].concat(), inst)
    }

    /// Values in I32.
    fn places(&mut self, places: &[Val], inst: &Inst) -> Result<(), GpuError> {
        for v in places {
            self.used(*v, inst)?;
            self.typed(*v, Ty::I32, inst)?;
        }
        Ok(())
    }

    /// A warpgroup's operations stand where control is the same for the block.
    fn wgmma(&mut self, op: &Wgmma, control: Spread, judge: bool, inst: &Inst) -> Result<(), GpuError> {
        let (slots, values) = match op {
            Wgmma::Fence | Wgmma::Commit | Wgmma::ProxyFence => (&[][..], vec![]),
            Wgmma::Wait(_, slots) => (&slots[..], vec![]),
            Wgmma::Product { d, a, b, .. } => {
                let left: Vec<(Val, Ty)> = match a {
                    WgmmaLeft::Shared(v) => vec![(*v, Ty::I64)],
                    WgmmaLeft::Registers(all) => all.iter().map(|v| (*v, Ty::I32)).collect(),
                };
                if d.is_empty() || !d.len().is_multiple_of(4) || d.len() > 128 {
                    return Err(self.broken("S2", "a product has 8 to 256 columns", &format!("{inst:?}")));
                }
                (&d[..], [vec![(*b, Ty::I64)], left].concat())
            }
        };
        if !matches!(op, Wgmma::ProxyFence) {
            self.at_most(Spread::Group, control, judge, inst)?;
        }
        for (v, ty) in values {
            self.used(v, inst)?;
            self.typed(v, ty, inst)?;
        }
        for slot in slots {
            self.slot_is(*slot, Ty::F32, inst)?;
            self.slots[slot.0 as usize] = Spread::Lane;
        }
        Ok(())
    }

    /// How far the conditions of the breaks of a loop differ, as known so far.
    fn breaks(&self, body: &[Inst]) -> Spread {
        // A value that is nowhere defined is told of where it is used.
        let spread = |v: &Val| self.spread.get(v.0 as usize).copied().unwrap_or(Spread::Block);
        let of = |inst: &Inst| match inst {
            Inst::BreakIf(v) => spread(v),
            Inst::If { cond, then, otherwise } => {
                let inner = self.breaks(then).max(self.breaks(otherwise));
                let leaves = has_break(then) || has_break(otherwise);
                if leaves { inner.max(spread(cond)) } else { Spread::Block }
            }
            _ => Spread::Block,
        };
        body.iter().map(of).max().unwrap_or(Spread::Block)
    }

    fn typed(&self, v: Val, ty: Ty, op: &dyn std::fmt::Debug) -> Result<(), GpuError> {
        if self.ty(v) == ty {
            return Ok(());
        }
        Err(self.broken("S2", &format!("{v:?} is {ty:?}, not {:?}", self.ty(v)), &format!("{op:?}")))
    }

    fn slot_is(&self, slot: Slot, ty: Ty, op: &dyn std::fmt::Debug) -> Result<(), GpuError> {
        match self.kernel.slots.get(slot.0 as usize) {
            Some(known) if *known == ty => Ok(()),
            _ => Err(self.broken("S2", "a slot keeps its type", &format!("{op:?}"))),
        }
    }

    fn address(&self, space: Space, addr: Val, op: &dyn std::fmt::Debug) -> Result<(), GpuError> {
        let wanted = if space == Space::Global { Ty::I64 } else { Ty::I32 };
        if self.ty(addr) == wanted {
            return Ok(());
        }
        Err(self.broken("S4", "an address has the width of its space", &format!("{op:?}")))
    }

    /// Checks an operation; how far its value differs.
    fn op(&mut self, v: Val, op: &Op, control: Spread, judge: bool) -> Result<Spread, GpuError> {
        let ty = self.ty(v);
        let operands: Vec<Val> = operands(op);
        let mut spread = Spread::Block;
        for x in &operands {
            spread = spread.max(self.used(*x, op)?);
        }
        let good = match op {
            Op::Int(_) => matches!(ty, Ty::I1 | Ty::I8 | Ty::I16 | Ty::I32 | Ty::I64),
            Op::Float(_) => matches!(ty, Ty::F32 | Ty::F64),
            Op::Param(n) => ty == Ty::I64 && *n < self.kernel.n_params,
            Op::Tid | Op::Ctaid | Op::Nctaid | Op::SharedBase => ty == Ty::I32,
            Op::Bin(b, x, y) => self.ty(*x) == ty && self.ty(*y) == ty && is_float(ty) == float_bin(*b),
            Op::Un(_, x) => self.ty(*x) == ty && is_float(ty),
            Op::Cmp(c, x, y) => {
                let float = matches!(c, Cmp::FEq | Cmp::FNe | Cmp::FLt | Cmp::FLe);
                ty == Ty::I1 && self.ty(*x) == self.ty(*y) && is_float(self.ty(*x)) == float
            }
            Op::Select(c, x, y) => self.ty(*c) == Ty::I1 && self.ty(*x) == ty && self.ty(*y) == ty,
            Op::Fma(x, y, z) => [x, y, z].iter().all(|x| self.ty(**x) == ty) && is_float(ty),
            Op::Cast(c, x) => cast_fits(*c, self.ty(*x), ty),
            Op::Load(space, addr) => {
                self.address(*space, *addr, op)?;
                ty != Ty::I1
            }
            Op::Get(slot) => self.kernel.slots.get(slot.0 as usize) == Some(&ty),
            Op::Pack { low, high, .. } => {
                ty == Ty::I32 && [low, high].iter().all(|x| self.ty(**x) == Ty::F32)
            }
            Op::Shfl(x, mask) => {
                self.at_most(Spread::Warp, control, judge, op)?;
                matches!(ty, Ty::I32 | Ty::F32) && self.ty(*x) == ty && (1..32).contains(mask)
            }
            Op::Uniform(x) => {
                self.at_most(Spread::Warp, control, judge, op)?;
                ty == Ty::I32 && self.ty(*x) == ty
            }
        };
        if !good {
            return Err(self.broken(
                "S2",
                "operands and results fit the operation",
                &format!("{v:?}: {ty:?} = {op:?}"),
            ));
        }
        Ok(match op {
            Op::Tid => Spread::Lane,
            Op::Get(slot) => self.slots[slot.0 as usize],
            Op::Uniform(_) => spread.min(Spread::Warp),
            // The number of the warp is made of the thread's by a shift of 5, that of the warpgroup by a shift of 7.
            Op::Bin(Bin::LShr, x, by) if self.is_tid(*x) && self.is_int(*by, 5) => Spread::Warp,
            Op::Bin(Bin::LShr, x, by) if self.is_tid(*x) && self.is_int(*by, 7) => Spread::Group,
            _ => spread,
        })
    }

    fn is_tid(&self, v: Val) -> bool {
        self.definition(&self.kernel.body, v).is_some_and(|op| *op == Op::Tid)
    }

    fn is_int(&self, v: Val, x: i64) -> bool {
        self.definition(&self.kernel.body, v).is_some_and(|op| *op == Op::Int(x))
    }

    /// What defines a value at the top of the body, where `Tid` stands.
    fn definition<'k>(&self, insts: &'k [Inst], v: Val) -> Option<&'k Op> {
        insts.iter().find_map(|inst| match inst {
            Inst::Def(w, op) if *w == v => Some(op),
            _ => None,
        })
    }
}

fn has_break(insts: &[Inst]) -> bool {
    insts.iter().any(|inst| match inst {
        Inst::BreakIf(_) => true,
        Inst::If { then, otherwise, .. } => has_break(then) || has_break(otherwise),
        _ => false,
    })
}

fn operands(op: &Op) -> Vec<Val> {
    match op {
        Op::Int(_) | Op::Float(_) | Op::Param(_) | Op::Get(_) => vec![],
        Op::Tid | Op::Ctaid | Op::Nctaid | Op::SharedBase => vec![],
        Op::Un(_, a) | Op::Cast(_, a) | Op::Load(_, a) | Op::Shfl(a, _) | Op::Uniform(a) => {
            vec![*a]
        }
        Op::Bin(_, a, b) | Op::Cmp(_, a, b) => vec![*a, *b],
        Op::Pack { low, high, .. } => vec![*low, *high],
        Op::Select(a, b, c) | Op::Fma(a, b, c) => vec![*a, *b, *c],
    }
}

fn is_float(ty: Ty) -> bool {
    matches!(ty, Ty::F16 | Ty::F32 | Ty::F64)
}

fn float_bin(op: Bin) -> bool {
    matches!(op, Bin::FAdd | Bin::FSub | Bin::FMul | Bin::FDiv | Bin::FMax)
}

fn cast_fits(cast: Cast, from: Ty, to: Ty) -> bool {
    let (a, b) = (from.bytes(), to.bytes());
    match cast {
        Cast::SExt | Cast::ZExt => !is_float(from) && !is_float(to) && (a < b || from == Ty::I1),
        Cast::Trunc => !is_float(from) && !is_float(to) && (a > b || to == Ty::I1),
        Cast::SiToF => !is_float(from) && is_float(to),
        Cast::FToSi => from == Ty::F32 && matches!(to, Ty::I32 | Ty::I64),
        Cast::FExt => is_float(from) && is_float(to) && a < b,
        Cast::FTrunc => is_float(from) && is_float(to) && a > b,
        Cast::Bits => a == b && from != Ty::I1 && to != Ty::I1,
        Cast::ToBf16 => from == Ty::F32 && to == Ty::I16,
    }
}
