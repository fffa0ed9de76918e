//! The machine: one block at a time, its warps in random order.
//!
//! Comes in: a decoded kernel, memory, a seed. Goes out: what the kernel leaves in memory, or the first thing that it must
//! not do. What holds: [`block::Block::run`] executes instructions of warps one by one; what the machine does later
//! (copies, products) is marked in shadows of registers and shared memory until a wait covers it. Not here: time.

pub(crate) mod access;
pub(crate) mod alu;
pub(crate) mod barrier;
pub(crate) mod block;
pub(crate) mod bulk;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod collect;
pub(crate) mod convert;
pub(crate) mod copy;
pub(crate) mod float;
pub(crate) mod fp;
pub(crate) mod global;
pub(crate) mod matrix;
pub(crate) mod mbarrier;
pub(crate) mod order;
pub(crate) mod sched;
pub(crate) mod shared;
pub(crate) mod warp;
pub(crate) mod wgmma;

/// A seeded generator (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}
