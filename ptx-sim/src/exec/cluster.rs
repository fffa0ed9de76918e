//! barrier.cluster in a cluster of one block.
//!
//! Comes in: warps that arrive, and later wait. Goes out: warps that go on. What holds: a phase completes when every warp that
//! has not ended has arrived; a wait without an arrival, and an arrival over an arrival, are faults.

use std::rc::Rc;

use super::block::{Block, Flow};
use super::clock::Clock;
use super::warp::Wait;
use crate::fault::{Exec, FaultKind, trouble};

#[derive(Default)]
pub(crate) struct ClusterBar {
    /// Phases that completed.
    pub phase: u32,
    arrived: Vec<usize>,
    /// For each warp that has not waited yet, the phase that it waits for.
    open: Vec<(usize, u32)>,
    clock: Clock,
    done: Rc<Clock>,
}

impl Block<'_> {
    pub fn cluster_bar(&mut self, w: usize, wait: bool, relaxed: bool, m: u32) -> Exec<Flow> {
        self.warps[w].together(m, "barrier.cluster")?;
        let open = self.cluster.open.iter().position(|(warp, _)| *warp == w);
        match (wait, open) {
            (false, Some(_)) => {
                trouble(FaultKind::BarrierMismatch, "barrier.cluster: the warp arrives twice without a wait")
            }
            (true, None) => {
                trouble(FaultKind::BarrierMismatch, "barrier.cluster: the warp waits without an arrival")
            }
            (false, None) => {
                if !relaxed {
                    self.clocks.release_all(w * 32..w * 32 + 32, &mut self.cluster.clock);
                }
                self.cluster.arrived.push(w);
                self.cluster.open.push((w, self.cluster.phase + 1));
                self.complete_cluster();
                Ok(Flow::Next)
            }
            (true, Some(n)) => {
                let target = self.cluster.open[n].1;
                if self.cluster.phase < target {
                    return Ok(Flow::Stay(Wait::Cluster(target)));
                }
                self.cluster.open.swap_remove(n);
                self.clocks.acquire_all(w * 32..w * 32 + 32, &self.cluster.done);
                Ok(Flow::Next)
            }
        }
    }

    /// Ends the phase if all warps that have not ended are here.
    pub fn complete_cluster(&mut self) {
        let missing =
            (0..self.warps.len()).any(|w| self.warps[w].live != 0 && !self.cluster.arrived.contains(&w));
        if !missing && !self.cluster.arrived.is_empty() {
            self.cluster.phase += 1;
            self.cluster.arrived.clear();
            self.cluster.done = Rc::new(self.cluster.clock.clone());
            self.event();
        }
    }
}
