//! Where warps wait for each other: the barrier of the block, named barriers, barriers in shared memory.
//!
//! Comes in: arrivals. Goes out: whether a warp goes on. What holds: a barrier of the block is the same instruction for all
//! its warps; those that meet at a named barrier agree on how many they are; a phase of a barrier in shared memory ends
//! when no arrival and no byte is missing, and the next begins.

use std::collections::BTreeMap;

use super::values::lanes;
use super::warp::State;
use super::{Block, Exec, Flow, Inst, Mbar, WARP, blame, trouble, whole};
use crate::simt_ir::text;

/// Barriers of a block that some have arrived at.
#[derive(Default)]
pub(super) struct Barriers<'k> {
    /// The barrier of the block, and the warps that wait there.
    block: Option<(&'k Inst, Vec<usize>)>,
    named: BTreeMap<u32, Named>,
}

struct Named {
    /// Threads that meet.
    threads: u32,
    arrived: u32,
    waiting: Vec<usize>,
}

/// A barrier in shared memory.
pub(super) struct MBar {
    /// Arrivals of a phase.
    count: u32,
    /// Arrivals and bytes that are missing.
    pending: u32,
    bytes: i64,
    phase: u64,
}

impl MBar {
    pub fn new(count: u32) -> MBar {
        MBar { count, pending: count, bytes: 0, phase: 0 }
    }

    /// Bytes are expected, or (negative) have come.
    pub fn expect(&mut self, bytes: i64) {
        self.bytes += bytes;
        self.turn();
    }

    pub fn arrive(&mut self, bytes: u32) -> Result<(), String> {
        self.bytes += i64::from(bytes);
        self.pending = self.pending.checked_sub(1).ok_or_else(|| {
            format!("more than the {} arrivals of a phase, while bytes are missing", self.count)
        })?;
        self.turn();
        Ok(())
    }

    fn turn(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.pending = self.count;
            self.phase += 1;
        }
    }

    /// Has the phase of this parity ended?
    fn ended(&self, parity: u64) -> bool {
        self.phase & 1 != parity & 1
    }
}

impl<'k> Block<'k, '_> {
    /// All threads of the block.
    pub fn bar(&mut self, w: usize, inst: &'k Inst, mask: u32) -> Exec<Flow> {
        whole(mask)?;
        let (first, waiting) = self.barriers.block.get_or_insert_with(|| (inst, Vec::new()));
        if !std::ptr::eq(*first, inst) {
            let other = text::place(self.kernel, first);
            return trouble(format!("warp {} waits at another barrier of the block, {other}", waiting[0]));
        }
        if waiting.len() + 1 < self.warps.len() {
            waiting.push(w);
            return Ok(Flow::Wait);
        }
        let waiting = std::mem::take(waiting);
        self.barriers.block = None;
        self.let_go(&waiting);
        Ok(Flow::Next)
    }

    /// So many threads, of which this warp waits or not.
    pub fn named_bar(&mut self, w: usize, (wait, id, threads): (bool, u32, u32), mask: u32) -> Exec<Flow> {
        whole(mask)?;
        let new = || Named { threads, arrived: 0, waiting: Vec::new() };
        let named = self.barriers.named.entry(id).or_insert_with(new);
        if named.threads != threads {
            return trouble(format!("others meet at barrier {id} as {} threads", named.threads));
        }
        named.arrived += WARP;
        if named.arrived < threads {
            if wait {
                named.waiting.push(w);
            }
            return Ok(if wait { Flow::Wait } else { Flow::Next });
        }
        let waiting = self.barriers.named.remove(&id).map(|n| n.waiting).unwrap_or_default();
        self.let_go(&waiting);
        Ok(Flow::Next)
    }

    fn let_go(&mut self, waiting: &[usize]) {
        waiting.iter().for_each(|w| self.warps[*w].state = State::Ready);
    }

    /// Barriers in shared memory, but for copies.
    pub fn mbar(&mut self, w: usize, op: &Mbar, mask: u32) -> Exec<Flow> {
        let place = match op {
            Mbar::FenceInit | Mbar::Copy { .. } => return Ok(Flow::Next),
            Mbar::Init { at, .. }
            | Mbar::ArriveExpect { at, .. }
            | Mbar::Arrive { at }
            | Mbar::Wait { at, .. } => *self.warps[w].val(*at),
        };
        for l in lanes(mask) {
            let at = place[l] as u32;
            let done = match op {
                Mbar::Init { count, .. } => self.shared.init_mbar(at, *count),
                Mbar::ArriveExpect { bytes, .. } => self.shared.mbar(at).and_then(|b| b.arrive(*bytes)),
                Mbar::Wait { parity, .. } => {
                    let parity = self.warps[w].val(*parity)[l];
                    match self.shared.mbar(at).map(|b| b.ended(parity)) {
                        Ok(false) => return Ok(Flow::Again),
                        other => other.map(|_| ()),
                    }
                }
                _ => self.shared.mbar(at).and_then(|b| b.arrive(0)),
            };
            blame(l, done)?;
        }
        Ok(Flow::Next)
    }

    /// What is missing at the barrier in shared memory that a warp waits at.
    pub fn awaited(&self, w: usize, inst: &Inst) -> Option<String> {
        let Inst::Mbar(Mbar::Wait { at, parity }) = inst else { return None };
        let (at, parity) = (self.warps[w].val(*at), self.warps[w].val(*parity));
        (0..32).find_map(|l| {
            let bar = self.shared.known_mbar(at[l] as u32)?;
            let (n, bytes, phase) = (bar.pending, bar.bytes, bar.phase);
            let what = format!("{n} arrivals and {bytes} bytes of phase {phase} of the barrier at {}", at[l]);
            (!bar.ended(parity[l])).then(|| format!(" for {what}"))
        })
    }
}
