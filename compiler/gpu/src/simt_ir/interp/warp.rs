//! A warp: its values and slots, and its way through structured control.
//!
//! Comes in: the body of a kernel. Goes out: one instruction after the other, with the lanes that execute it. What holds: the
//! lanes for which a condition holds go first, then the others, then all together; a loop is left when its last lane has
//! left it.

use super::values::{Lanes, lanes};
use super::{Exec, Inst, Kernel, Trouble, Val, trouble};
use crate::simt_ir::Slot;

/// Instructions of a block that a warp is in.
struct Frame<'k> {
    insts: &'k [Inst],
    /// The next one.
    at: usize,
    /// Lanes that are in it.
    mask: u32,
    kind: Kind<'k>,
}

enum Kind<'k> {
    /// Left at its end.
    Once,
    /// Begun again at its end.
    Loop,
    /// The other side follows, for these lanes.
    Then(&'k [Inst], u32),
}

/// What a warp does.
#[derive(Clone, Copy, Debug)]
pub(super) enum State<'k> {
    Ready,
    /// At a barrier, until others let it go.
    Waits(&'k Inst),
    /// Until an instruction does not ask for another try.
    Polls(&'k Inst),
    Ended,
}

impl PartialEq for State<'_> {
    /// The same kind of state.
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// What a slot holds.
#[derive(Clone)]
struct Held {
    value: Lanes,
    /// Lanes that have written it.
    known: u32,
    /// The group of products that writes it, until a wait names it.
    group: Option<u32>,
}

/// A warp.
pub(super) struct Warp<'k> {
    frames: Vec<Frame<'k>>,
    vals: Vec<Lanes>,
    slots: Vec<Held>,
    pub state: State<'k>,
    /// The control instruction that it is at.
    pub current: Option<&'k Inst>,
    /// Products that it has issued.
    pub products: usize,
    /// Groups of products that it has ended.
    pub groups: u32,
}

impl<'k> Warp<'k> {
    pub fn new(kernel: &'k Kernel) -> Warp<'k> {
        let empty = Held { value: [0; 32], known: 0, group: None };
        let mut warp = Warp {
            frames: Vec::new(),
            vals: vec![[0; 32]; kernel.vals.len()],
            slots: vec![empty; kernel.slots.len()],
            state: State::Ready,
            current: None,
            products: 0,
            groups: 0,
        };
        warp.restart(kernel);
        warp
    }

    /// At the beginning of the kernel, nothing written.
    pub fn restart(&mut self, kernel: &'k Kernel) {
        self.frames = vec![Frame { insts: &kernel.body, at: 0, mask: super::ALL, kind: Kind::Once }];
        self.slots.iter_mut().for_each(|held| (held.known, held.group) = (0, None));
        (self.state, self.current, self.products, self.groups) = (State::Ready, None, 0, 0);
    }

    /// The next instruction that is no control, and the lanes that execute it; none at the end of the kernel. `left` is
    /// how many may still follow.
    pub fn advance(&mut self, left: &mut u64) -> Exec<Option<(&'k Inst, u32)>> {
        loop {
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            let done = frame.at == frame.insts.len() || frame.mask == 0;
            match (done, &frame.kind) {
                (true, Kind::Loop) if frame.mask != 0 => frame.at = 0,
                (true, Kind::Then(insts, mask)) => {
                    *frame = Frame { insts, at: 0, mask: *mask, kind: Kind::Once };
                    continue;
                }
                (true, _) => {
                    self.frames.pop();
                    continue;
                }
                (false, _) => {}
            }
            *left = match left.checked_sub(1) {
                Some(left) => left,
                None => return trouble("the launch takes too many instructions: it may never end"),
            };
            // A loop without instructions begins again.
            let Some(inst) = frame.insts.get(frame.at) else { continue };
            frame.at += 1;
            let mask = frame.mask;
            match inst {
                Inst::If { cond, then, otherwise } => {
                    let holds = self.holding(*cond, mask);
                    let kind = Kind::Then(otherwise, mask & !holds);
                    self.frames.push(Frame { insts: then, at: 0, mask: holds, kind });
                }
                Inst::Loop { body, .. } => {
                    self.frames.push(Frame { insts: body, at: 0, mask, kind: Kind::Loop });
                }
                Inst::BreakIf(cond) => {
                    let leaves = self.holding(*cond, mask);
                    self.leave(leaves);
                }
                _ => return Ok(Some((inst, mask))),
            }
            self.current = Some(inst);
        }
    }

    /// The last instruction that [`Warp::advance`] gave comes again.
    pub fn step_back(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.at = frame.at.saturating_sub(1);
        }
    }

    /// Lanes of `mask` for which a condition holds.
    fn holding(&self, cond: Val, mask: u32) -> u32 {
        let value = self.val(cond);
        lanes(mask).filter(|l| value[*l] & 1 == 1).fold(0, |all, l| all | 1 << l)
    }

    /// Lanes leave the innermost loop.
    fn leave(&mut self, leaves: u32) {
        for frame in self.frames.iter_mut().rev() {
            frame.mask &= !leaves;
            if let Kind::Loop = frame.kind {
                return;
            }
        }
    }

    pub fn val(&self, v: Val) -> &Lanes {
        &self.vals[v.0 as usize]
    }

    pub fn define(&mut self, v: Val, mask: u32, value: &Lanes) {
        put(&mut self.vals[v.0 as usize], mask, value);
    }

    /// What a slot holds. Errors: a lane has not written it, or a product is on its way to it.
    pub fn get(&self, slot: Slot, mask: u32) -> Exec<&Lanes> {
        let held = &self.slots[slot.0 as usize];
        self.arrived(slot)?;
        match lanes(mask & !held.known).next() {
            None => Ok(&held.value),
            Some(l) => Err(Trouble { lane: Some(l), why: format!("s{} is read and was never set", slot.0) }),
        }
    }

    /// Changes a slot. Errors: a product is on its way to it.
    pub fn set(&mut self, slot: Slot, mask: u32, value: &Lanes) -> Exec<()> {
        self.arrived(slot)?;
        self.put_product(slot, mask, value, None);
        Ok(())
    }

    fn arrived(&self, slot: Slot) -> Exec<()> {
        match self.slots[slot.0 as usize].group {
            None => Ok(()),
            Some(_) => trouble(format!("a product is on its way to s{}, and no wait has named it", slot.0)),
        }
    }

    /// What a slot holds, whether or not products are on their way to it: products follow each other.
    pub fn sum(&self, slot: Slot) -> Exec<&Lanes> {
        let held = &self.slots[slot.0 as usize];
        if held.known == super::ALL {
            return Ok(&held.value);
        }
        trouble(format!("a product adds to s{}, which was never set", slot.0))
    }

    /// A slot gets the result of a product of this group, or one that has come.
    pub fn put_product(&mut self, slot: Slot, mask: u32, value: &Lanes, group: Option<u32>) {
        let held = &mut self.slots[slot.0 as usize];
        put(&mut held.value, mask, value);
        held.known |= mask;
        held.group = group;
    }

    /// The product that is on its way to a slot has come, if its group is among the first `groups`.
    pub fn await_product(&mut self, slot: Slot, groups: u32) {
        let held = &mut self.slots[slot.0 as usize];
        held.group = held.group.filter(|group| *group >= groups);
    }
}

fn put(to: &mut Lanes, mask: u32, value: &Lanes) {
    if mask == super::ALL {
        *to = *value;
    } else {
        lanes(mask).for_each(|l| to[l] = value[l]);
    }
}
