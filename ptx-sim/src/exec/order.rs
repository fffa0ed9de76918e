//! Order that accesses and fences make: release, acquire, fences around relaxed accesses.
//!
//! Comes in: a strong access or a fence of a thread. Goes out: clocks that saw more. What holds: who acquires at an address
//! (or reads it relaxed and fences after) saw all that those did who released there (or fenced and wrote it relaxed
//! after). As in the PTX ISA's memory model, morally strong accesses only; scopes are taken as wide enough.

use std::collections::BTreeMap;

use super::access::Place;
use super::block::Block;
use super::clock::Clock;
use super::warp::lanes;
use crate::isa::{Fence, Sem};

/// Clocks of addresses and fences.
#[derive(Default)]
pub(crate) struct Order {
    /// What was released at an address of global (`false`) or shared memory.
    at: BTreeMap<(bool, u64), Clock>,
    /// What each thread did before its last fence.
    fenced: BTreeMap<usize, Clock>,
    /// What each thread read relaxed since.
    seen: BTreeMap<usize, Clock>,
}

fn key(at: Place) -> Option<(bool, u64)> {
    match at {
        Place::Global(at) => Some((false, at)),
        Place::Shared(at) => Some((true, u64::from(at))),
        Place::Local(_) | Place::Param(_) => None,
    }
}

impl Block<'_> {
    /// Before a strong write.
    pub fn publish(&mut self, thread: usize, at: Place, sem: Sem) {
        let Some(key) = key(at) else { return };
        match sem {
            Sem::Release | Sem::AcqRel => {
                let clock = self.order.at.entry(key).or_default();
                self.clocks.release(thread, clock);
            }
            Sem::Relaxed | Sem::Acquire => {
                if let Some(before) = self.order.fenced.get(&thread) {
                    self.order.at.entry(key).or_default().merge(before);
                }
            }
            Sem::Weak => {}
        }
    }

    /// After a strong read.
    pub fn observe(&mut self, thread: usize, at: Place, sem: Sem) {
        let Some(clock) = key(at).and_then(|key| self.order.at.get(&key)) else { return };
        match sem {
            Sem::Acquire | Sem::AcqRel => self.clocks.acquire(thread, clock),
            Sem::Relaxed | Sem::Release => self.order.seen.entry(thread).or_default().merge(clock),
            Sem::Weak => {}
        }
    }

    pub fn fence(&mut self, w: usize, kind: Fence, m: u32) {
        for thread in lanes(m).map(|l| w * 32 + l) {
            match kind {
                Fence::Proxy => self.clocks.proxy_fence(thread),
                Fence::Thread => {
                    if let Some(seen) = self.order.seen.remove(&thread) {
                        self.clocks.acquire(thread, &seen);
                    }
                    let mut before = Clock::default();
                    self.clocks.release(thread, &mut before);
                    self.order.fenced.insert(thread, before);
                }
                // One block needs no order of mbarrier.init beyond a barrier.
                Fence::MbarrierInit | Fence::Other => {}
            }
        }
    }
}
