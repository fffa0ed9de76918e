//! Which positions a rank holds (math.md 2.11).
//!
//! Comes in: a length, a number of ranks, a layout. Goes out: runs of positions. What holds: every position is held by
//! exactly one rank; chunks differ by at most one, so that every length fits every number of ranks.

use attn_compiler::sema::model::RingLayout;

/// `len` positions from `first` on, `step` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Position of the first.
    pub first: usize,
    /// Distance of neighbours.
    pub step: usize,
    /// How many.
    pub len: usize,
}

/// How far apart the positions of a run lie: a constant of the compiled kernel.
pub fn step(layout: RingLayout, ranks: usize) -> usize {
    if layout == RingLayout::Striped { ranks } else { 1 }
}

/// The runs of one rank, ascending. Empty ones are left out.
pub fn runs(layout: RingLayout, length: usize, ranks: usize, rank: usize) -> Vec<Run> {
    let chunk = |n: usize, of: usize| {
        let at = |n: usize| (n as u128 * length as u128 / of as u128) as usize;
        Run { first: at(n), step: 1, len: at(n + 1) - at(n) }
    };
    let mut runs = match layout {
        RingLayout::Contiguous => vec![chunk(rank, ranks)],
        RingLayout::Striped => {
            vec![Run { first: rank, step: ranks, len: length.saturating_sub(rank).div_ceil(ranks) }]
        }
        RingLayout::Zigzag => vec![chunk(rank, 2 * ranks), chunk(2 * ranks - 1 - rank, 2 * ranks)],
    };
    runs.retain(|r| r.len > 0);
    // Neighbours are one run: the last rank of a zigzag, and the only one of any ring.
    runs.dedup_by(|next, run| {
        let joined = run.step == next.step && run.first + run.len * run.step == next.first;
        run.len += if joined { next.len } else { 0 };
        joined
    });
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_has_one_rank() {
        for (_, layout) in RingLayout::ALL {
            for length in [0, 1, 2, 7, 16, 64, 65] {
                for ranks in 1..=9 {
                    let mut seen = vec![0; length];
                    let mut sizes = Vec::new();
                    for rank in 0..ranks {
                        let runs = runs(layout, length, ranks, rank);
                        sizes.push(runs.iter().map(|r| r.len).sum::<usize>());
                        runs.iter().for_each(|r| (0..r.len).for_each(|n| seen[r.first + n * r.step] += 1));
                    }
                    assert!(seen.iter().all(|n| *n == 1), "{layout:?} {length} {ranks}");
                    let spread = sizes.iter().max().unwrap() - sizes.iter().min().unwrap();
                    assert!(spread <= 2, "{layout:?} {length} {ranks}: {sizes:?}");
                }
            }
        }
    }
}
