//! mbarriers: counts of arrivals and bytes, phases, parity.
//!
//! Comes in: an mbarrier instruction, or bytes that a copy brought. Goes out: phases that complete. What holds: a phase
//! completes when no arrival and no byte is pending; who sees it complete sees all that those who arrived did before, and
//! the copies that it tracked. Parity p is complete when the current phase has the other parity. A failed wait puts the
//! warp to sleep until something happens. An arrival into a phase whose predecessor nobody saw complete is a fault, as
//! the PTX ISA demands.

use std::rc::Rc;

use super::access::{Place, blame, place};
use super::block::{Block, Flow};
use super::clock::Clock;
use super::copy::{Kind, Pending};
use super::warp::{Wait, lanes};
use crate::fault::{Exec, FaultKind, lane_trouble, trouble};
use crate::isa::*;

/// Largest count and largest number of pending bytes.
const LIMIT: i64 = (1 << 20) - 1;

pub(crate) struct MBar {
    expected: i64,
    pending: i64,
    tx: i64,
    phase: u32,
    /// Somebody saw the last phase complete.
    observed: bool,
    /// The pseudo thread of the copies that it tracks.
    component: usize,
    clock: Clock,
    done: Rc<Clock>,
}

impl MBar {
    pub fn describe(&self, addr: u32) -> String {
        format!(
            "mbarrier at shared {addr:#x} in phase {} (parity {}): {} arrivals and {} bytes are missing",
            self.phase,
            self.phase & 1,
            self.pending,
            self.tx
        )
    }
}

impl Block<'_> {
    /// The shared address of an mbarrier operand.
    pub fn mbar_addr(&mut self, addr: &Addr, base: u64) -> Exec<u32> {
        match place(addr, base)? {
            Place::Shared(at) => {
                self.shared.aligned(at, 8)?;
                Ok(at)
            }
            _ => trouble(FaultKind::Mbarrier, "mbarriers lie in shared memory"),
        }
    }

    fn mbar(&mut self, addr: u32) -> Exec<&mut MBar> {
        match self.mbars.get_mut(&addr) {
            Some(b) => Ok(b),
            None => trouble(FaultKind::Mbarrier, format!("no mbarrier was initialised at shared {addr:#x}")),
        }
    }

    pub fn mbarrier(&mut self, w: usize, mbar: &Mbar, m: u32) -> Exec<Flow> {
        if let MbarOp::PendingCount { d, state } = &mbar.op {
            self.warps[w].map1(*d, *state, m, |s| s >> 32)?;
            return Ok(Flow::Next);
        }
        let bases = *self.warps[w].get(mbar.addr.base, m)?;
        let mut addrs = [0; 32];
        for l in lanes(m) {
            addrs[l] = blame(self.mbar_addr(&mbar.addr, bases[l]), l)?;
        }
        if let MbarOp::Wait { p, parity, state } = &mbar.op {
            return self.mbar_wait(w, mbar, (*p, *parity, *state), &addrs, m);
        }
        for l in lanes(m) {
            blame(self.mbar_lane(w, l, mbar, addrs[l], m), l)?;
        }
        Ok(Flow::Next)
    }

    fn value(&self, w: usize, l: usize, row: Row, m: u32) -> Exec<i64> {
        Ok(self.warps[w].get(row, m)?[l] as u32 as i64)
    }

    fn mbar_lane(&mut self, w: usize, l: usize, mbar: &Mbar, addr: u32, m: u32) -> Exec<()> {
        let thread = w * 32 + l;
        if !matches!(mbar.op, MbarOp::Init { .. }) {
            self.mbar(addr)?;
            self.shared.claimed(&self.clocks, thread, addr)?;
        }
        match &mbar.op {
            MbarOp::Init { count } => {
                let count = self.value(w, l, *count, m)?;
                self.init(thread, addr, count)
            }
            MbarOp::Inval => {
                self.mbars.remove(&addr);
                self.shared.disclaim(&self.clocks, thread, addr)
            }
            MbarOp::ExpectTx { bytes } => {
                let bytes = self.value(w, l, *bytes, m)?;
                self.expect(addr, bytes)
            }
            MbarOp::CompleteTx { bytes } => {
                let bytes = self.value(w, l, *bytes, m)?;
                self.mbar(addr)?.tx -= bytes;
                self.advance_phase(addr)
            }
            MbarOp::Arrive { state, count, expect, drop, no_complete } => {
                let count = match count {
                    Some(row) => self.value(w, l, *row, m)?,
                    None => 1,
                };
                if let Some(row) = expect {
                    let bytes = self.value(w, l, *row, m)?;
                    self.expect(addr, bytes)?;
                }
                let b = self.mbar(addr)?;
                let token = u64::from(b.phase) | (b.pending.max(0) as u64) << 32;
                if *drop {
                    b.expected -= count;
                }
                if *no_complete && b.pending <= count && b.tx == 0 {
                    return trouble(FaultKind::Mbarrier, ".noComplete would complete the phase");
                }
                if !mbar.relaxed {
                    let mut clock = std::mem::take(&mut self.mbar(addr)?.clock);
                    self.clocks.release(thread, &mut clock);
                    self.mbar(addr)?.clock = clock;
                }
                if let Some(row) = state {
                    self.warps[w].put(*row, 1 << l, &[token; 32])?;
                }
                self.arrive(addr, count)
            }
            MbarOp::CpArrive { no_inc } => {
                if !no_inc {
                    self.mbar(addr)?.pending += 1;
                }
                let ops = self.copies[thread].take_all();
                let warp = &self.warps[w];
                let pc = warp.splits[warp.cur].pc;
                let mut clock = Clock::default();
                self.clocks.release(thread, &mut clock);
                self.pending.push(Pending { pc, kind: Kind::CpArrive { thread, mbar: addr, ops, clock } });
                Ok(())
            }
            MbarOp::Wait { .. } | MbarOp::PendingCount { .. } => Ok(()),
        }
    }

    fn init(&mut self, thread: usize, addr: u32, count: i64) -> Exec<()> {
        if !(1..=LIMIT).contains(&count) {
            return trouble(FaultKind::Mbarrier, format!("an mbarrier of {count} arrivals"));
        }
        if self.mbars.contains_key(&addr) {
            return trouble(
                FaultKind::Mbarrier,
                "mbarrier.init over a valid mbarrier: mbarrier.inval it first",
            );
        }
        self.shared.claim(&self.clocks, thread, addr)?;
        let component = self.clocks.component();
        let bar = MBar {
            expected: count,
            pending: count,
            tx: 0,
            phase: 0,
            observed: true,
            component,
            clock: Clock::default(),
            done: Rc::default(),
        };
        self.mbars.insert(addr, bar);
        Ok(())
    }

    fn expect(&mut self, addr: u32, bytes: i64) -> Exec<()> {
        let b = self.mbar(addr)?;
        b.tx += bytes;
        if b.tx.abs() > LIMIT {
            return trouble(FaultKind::Mbarrier, format!("{} bytes are expected; the most is {LIMIT}", b.tx));
        }
        Ok(())
    }

    fn arrive(&mut self, addr: u32, count: i64) -> Exec<()> {
        let b = self.mbar(addr)?;
        if b.pending < count {
            let detail =
                format!("{count} arrivals at an mbarrier that waits for {} in phase {}", b.pending, b.phase);
            return trouble(FaultKind::Mbarrier, detail);
        }
        if !b.observed {
            let detail = format!(
                "an arrival in phase {}, but no wait has seen phase {} complete",
                b.phase,
                b.phase - 1
            );
            return trouble(FaultKind::Mbarrier, detail);
        }
        b.pending -= count;
        self.advance_phase(addr)
    }

    fn advance_phase(&mut self, addr: u32) -> Exec<()> {
        let b = self.mbar(addr)?;
        if b.pending == 0 && b.tx == 0 {
            b.phase += 1;
            b.pending = b.expected;
            b.observed = false;
            b.done = Rc::new(b.clock.clone());
            self.event();
        }
        Ok(())
    }

    /// The component and epoch of copies that the mbarrier tracks now.
    pub fn tracked(&mut self, addr: u32) -> Exec<(usize, u32)> {
        let b = self.mbar(addr)?;
        Ok((b.component, b.phase + 1))
    }

    /// Bytes of a copy arrived.
    pub fn complete_tx(&mut self, addr: u32, bytes: usize) -> Exec<()> {
        let b = self.mbar(addr)?;
        b.tx -= bytes as i64;
        let (component, epoch) = (b.component, b.phase + 1);
        b.clock.note(component, epoch, true);
        self.event();
        self.advance_phase(addr)
    }

    /// The arrival of cp.async.mbarrier.arrive; what the thread did before the copies is seen too.
    pub fn copies_arrive(&mut self, addr: u32, clock: &Clock) -> Exec<()> {
        let b = self.mbar(addr)?;
        b.clock.merge(clock);
        let (component, epoch) = (b.component, b.phase + 1);
        b.clock.note(component, epoch, false);
        self.event();
        self.arrive(addr, 1)
    }

    fn mbar_wait(
        &mut self,
        w: usize,
        mbar: &Mbar,
        (p, parity, state): (PRow, Option<Row>, Option<Row>),
        addrs: &[u32; 32],
        m: u32,
    ) -> Exec<Flow> {
        let want = match (parity, state) {
            (Some(row), _) | (None, Some(row)) => *self.warps[w].get(row, m)?,
            (None, None) => [0; 32],
        };
        let mut bits = 0;
        let mut failed = None;
        for l in lanes(m) {
            let thread = w * 32 + l;
            blame(self.mbar(addrs[l]).map(|_| ()), l)?;
            blame(self.shared.claimed(&self.clocks, thread, addrs[l]), l)?;
            let b = self.mbar(addrs[l])?;
            let complete = if parity.is_some() {
                let wanted = want[l] as u32;
                if wanted > 1 {
                    let detail = format!("a parity of {wanted}");
                    return lane_trouble(FaultKind::Value, l as u32, detail);
                }
                b.phase & 1 != wanted
            } else {
                b.phase > want[l] as u32
            };
            if complete {
                b.observed = true;
                bits |= 1 << l;
            } else {
                failed = Some(addrs[l]);
            }
        }
        if !mbar.relaxed {
            self.acquire_phase(w, addrs, bits);
        }
        self.warps[w].set_pred(p, m, bits);
        match failed {
            Some(addr) if self.warps[w].alone() => Ok(Flow::Sleep(Wait::Doze { events: self.events, addr })),
            _ => Ok(Flow::Next),
        }
    }

    fn acquire_phase(&mut self, w: usize, addrs: &[u32; 32], bits: u32) {
        let mut rest = bits;
        while rest != 0 {
            let addr = addrs[rest.trailing_zeros() as usize];
            let same = lanes(rest).filter(|l| addrs[*l] == addr).fold(0, |s, l| s | 1 << l);
            if let Some(b) = self.mbars.get(&addr) {
                self.clocks.acquire_all(lanes(same).map(|l| w * 32 + l), &b.done);
            }
            rest &= !same;
        }
    }
}
