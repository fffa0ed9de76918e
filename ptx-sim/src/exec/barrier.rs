//! The sixteen barriers of a block.
//!
//! Comes in: warps that arrive, alone or to wait. Goes out: warps that go on. What holds: a barrier completes when as many
//! threads (whole warps) have arrived as were asked for, or all warps that have not ended where no count is given; all
//! that arrive in one phase ask for the same count, and no warp arrives twice.

use std::rc::Rc;

use super::block::{Block, Flow};
use super::clock::Clock;
use super::warp::Wait;
use crate::fault::{Exec, FaultKind, trouble};
use crate::isa::Row;

#[derive(Default)]
pub(crate) struct Bar {
    /// `Some(None)`: all warps that have not ended.
    expected: Option<Option<u32>>,
    arrived: Vec<usize>,
    waiting: Vec<usize>,
    clock: Clock,
}

impl Bar {
    pub fn describe(&self, id: u32) -> String {
        let want = match self.expected.flatten() {
            Some(n) => format!("{n}"),
            None => "all".into(),
        };
        format!("barrier {id}: {} of {want} threads have arrived", self.arrived.len() * 32)
    }
}

impl Block<'_> {
    pub fn bar(
        &mut self,
        w: usize,
        id: Row,
        count: Option<Row>,
        [arrive, aligned]: [bool; 2],
        m: u32,
    ) -> Exec<Flow> {
        let what = if aligned { "an aligned barrier" } else { "a barrier" };
        self.warps[w].together(m, what)?;
        let id = self.warps[w].uniform(id, m, "the barrier's number")? as usize;
        let count = match count {
            Some(row) => Some(self.warps[w].uniform(row, m, "the barrier's count")? as u32),
            None => None,
        };
        let most = self.warps.len() as u32 * 32;
        if id >= self.bars.len() {
            return trouble(FaultKind::BarrierMismatch, format!("barrier {id}: there are 16"));
        }
        if count.is_some_and(|c| c == 0 || !c.is_multiple_of(32) || c > most) {
            let detail = format!("barrier {id}: {count:?} is no multiple of 32 up to {most}");
            return trouble(FaultKind::BarrierMismatch, detail);
        }
        let bar = &mut self.bars[id];
        if bar.expected.is_some_and(|e| e.unwrap_or(most) != count.unwrap_or(most)) {
            let detail =
                format!("barrier {id}: this warp asks for {count:?} threads, others for another count");
            return trouble(FaultKind::BarrierMismatch, detail);
        }
        if bar.arrived.contains(&w) {
            let detail = format!("barrier {id}: the warp arrives twice in one phase");
            return trouble(FaultKind::BarrierMismatch, detail);
        }
        bar.expected = Some(count);
        bar.arrived.push(w);
        self.clocks.release_all(w * 32..w * 32 + 32, &mut bar.clock);
        if !arrive {
            bar.waiting.push(w);
        }
        if self.complete_bar(id)? || arrive {
            return Ok(if arrive { Flow::Next } else { Flow::Jumped });
        }
        Ok(Flow::Parked(id as u32))
    }

    /// Lets the warps of a barrier go on if it is complete.
    fn complete_bar(&mut self, id: usize) -> Exec<bool> {
        let live = self.warps.iter().filter(|w| w.live != 0).count();
        let bar = &mut self.bars[id];
        let Some(expected) = bar.expected else { return Ok(false) };
        let want = expected.map_or(live, |c| c as usize / 32);
        if bar.arrived.len() > want {
            let detail = format!("barrier {id}: more warps arrive than the {want} that were asked for");
            return trouble(FaultKind::BarrierMismatch, detail);
        }
        if bar.arrived.len() < want {
            return Ok(false);
        }
        let bar = std::mem::take(bar);
        let clock = Rc::new(bar.clock);
        for w in &bar.waiting {
            (w * 32..w * 32 + 32).for_each(|t| self.clocks.adopt(t, &clock));
            self.warps[*w].wait = Wait::No;
            self.warps[*w].advance();
        }
        self.event();
        Ok(true)
    }

    /// A warp that ends is not waited for by barriers without a count.
    pub fn barriers_after_exit(&mut self) -> Exec<()> {
        for id in 0..self.bars.len() {
            if self.bars[id].expected == Some(None) {
                self.complete_bar(id)?;
            }
        }
        Ok(())
    }
}
