//! Which warp steps when, and when it is over.
//!
//! Comes in: a block. Goes out: a block that ended, or the fault. What holds: warps run in bursts of random length in random
//! order; work in flight ends early or as late as possible, as the launch asks; when nobody can go on and nothing is in
//! flight it is a deadlock, told with what each warp waits for.

use super::block::{Block, Flow};
use super::warp::{Wait, Warp};
use crate::fault::{Fault, FaultKind, Site, Trouble, Waiting};
use crate::host::Lateness;

/// Rounds of letting every waiting warp test again before it is a deadlock.
const FUTILE_ROUNDS: u32 = 3;
/// Bursts of warps that a late copy outlasts.
const PATIENCE: u32 = 500;

impl Block<'_> {
    /// Runs the block to its end.
    pub fn run(&mut self) -> Result<(), Fault> {
        let mut ready = Vec::with_capacity(self.warps.len());
        loop {
            ready.clear();
            ready.extend((0..self.warps.len()).filter(|w| self.runnable(*w)));
            if ready.is_empty() {
                if self.warps.iter().all(|w| w.live == 0) {
                    break;
                }
                self.unblock()?;
                continue;
            }
            let w = ready[self.rng.below(ready.len())];
            let burst = 1 << (2 * self.rng.below(5));
            self.burst(w, burst)?;
            if self.clocks.exhausted {
                let detail =
                    "too many syncs for one block: the simulator counts a million a thread".to_string();
                return Err(
                    self.fault(w, Trouble { kind: FaultKind::StepBudget, lane: None, detail, row: None })
                );
            }
            self.complete_early()?;
        }
        self.finish()
    }

    fn runnable(&self, w: usize) -> bool {
        let warp = &self.warps[w];
        warp.live != 0
            && match &warp.wait {
                Wait::No => true,
                Wait::Bar(_) => false,
                Wait::Wgmma(seq) => self.products.all_issued(w, *seq),
                Wait::Cluster(phase) => self.cluster.phase >= *phase,
                Wait::Registers(need) => self.register_pool.is_some_and(|p| p >= *need),
                Wait::Doze { events, .. } => *events != self.events,
            }
    }

    fn burst(&mut self, w: usize, steps: u32) -> Result<(), Fault> {
        self.warps[w].wait = Wait::No;
        for _ in 0..steps {
            if self.warps[w].live == 0 {
                return Ok(());
            }
            self.stats.steps += 1;
            if self.stats.steps > self.options.max_steps {
                return Err(Fault::StepBudget {
                    kernel: self.kernel.name.clone(),
                    block: self.id,
                    steps: self.options.max_steps,
                    waiting: self.waiting(),
                });
            }
            match self.step(w) {
                Ok(Flow::Next | Flow::Jumped) => {}
                Ok(Flow::Stay(wait) | Flow::Sleep(wait)) => {
                    self.warps[w].wait = wait;
                    return Ok(());
                }
                Ok(Flow::Parked(id)) => {
                    self.warps[w].wait = Wait::Bar(id);
                    return Ok(());
                }
                Err(t) => return Err(self.fault(w, *t)),
            }
        }
        Ok(())
    }

    /// Lets copies end that need not be late.
    fn complete_early(&mut self) -> Result<(), Fault> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.patience += 1;
        let due = match self.options.lateness {
            Lateness::Late => false,
            Lateness::Early => true,
            Lateness::Random => self.rng.below(4) == 0,
        };
        // A loop that waits without an mbarrier keeps its warp running: no copy may take forever.
        if due || self.patience > PATIENCE {
            self.patience = 0;
            self.complete_one()?;
        }
        Ok(())
    }

    /// One copy in flight ends, whichever the seed says.
    fn complete_one(&mut self) -> Result<(), Fault> {
        let n = self.rng.below(self.pending.len());
        let pc = self.pending[n].pc;
        self.complete(n).map_err(|t| self.fault_at(0, pc, *t))
    }

    /// Nobody can go on: something in flight ends, or everybody tests again, or it is a deadlock.
    fn unblock(&mut self) -> Result<(), Fault> {
        if !self.pending.is_empty() {
            return self.complete_one();
        }
        let dozing = self.warps.iter().any(|w| w.live != 0 && matches!(w.wait, Wait::Doze { .. }));
        if dozing && self.futile < FUTILE_ROUNDS {
            self.futile += 1;
            self.events += 1;
            return Ok(());
        }
        Err(Fault::Deadlock { kernel: self.kernel.name.clone(), block: self.id, waiting: self.waiting() })
    }

    /// The end of the block: loads must be over, stores end now.
    fn finish(&mut self) -> Result<(), Fault> {
        if let Some(load) = self.pending.first() {
            let detail = "the block ended while a copy into its shared memory was on its way".to_string();
            let trouble = Trouble { kind: FaultKind::PendingAtExit, lane: None, detail, row: None };
            let pc = load.pc;
            return Err(self.fault_at(0, pc, trouble));
        }
        self.finish_bulk().map_err(|t| self.fault(0, *t))
    }

    fn fault(&self, w: usize, t: Trouble) -> Fault {
        let warp = &self.warps[w];
        let pc = warp.splits.get(warp.cur).map_or(0, |s| s.pc);
        self.fault_at(w, pc, t)
    }

    fn fault_at(&self, w: usize, pc: u32, t: Trouble) -> Fault {
        let inst = &self.kernel.code[pc as usize];
        let mut detail = t.detail;
        if let Some((_, name)) = self.kernel.row_names.iter().find(|(r, _)| Some(*r) == t.row) {
            detail = detail.replacen("a register", &format!("register `{name}`"), 1);
        }
        let site = Site {
            kernel: self.kernel.name.clone(),
            line: inst.line,
            text: inst.text.clone(),
            block: self.id,
            thread: t.lane.map(|l| self.thread_id(w * 32 + l as usize)),
        };
        Fault::Execution { kind: t.kind, site, detail }
    }

    fn waiting(&self) -> Vec<Waiting> {
        let line = |w: &Warp| w.splits.get(w.cur).map_or(0, |s| self.kernel.code[s.pc as usize].line);
        let alive = self.warps.iter().enumerate().filter(|(_, w)| w.live != 0);
        alive.map(|(n, w)| Waiting { warp: n, line: line(w), reason: self.reason(&w.wait) }).collect()
    }

    fn reason(&self, wait: &Wait) -> String {
        match wait {
            Wait::No => "it runs".into(),
            Wait::Bar(id) => self.bars[*id as usize].describe(*id),
            Wait::Wgmma(seq) => format!("wgmma number {seq} in every warp of the warpgroup"),
            Wait::Cluster(phase) => format!("phase {phase} of barrier.cluster"),
            Wait::Registers(need) => format!("{need} registers in the pool"),
            Wait::Doze { addr, .. } => match self.mbars.get(addr) {
                Some(b) => b.describe(*addr),
                None => format!("mbarrier at shared {addr:#x}"),
            },
        }
    }
}
