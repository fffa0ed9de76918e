//! Work of each rank of a ring, step by step (math.md 2.11).
//!
//! Comes in: a kernel at sizes, the tensors that its mask reads. Goes out: for each rank and step the pairs of its
//! queries and the keys that are with it then, at batch 0, head 0. What holds: pairs are counted one by one, by the
//! mask alone, so that any mask and layout is told the truth about. The ring is as fast as its slowest rank in every
//! step: the sum over steps of the largest count is the critical path; pairs / ranks is ideal.

use attnc::ring::{Run, runs};

use super::planned::Planned;
use super::study::Study;
use super::table::{Table, short};
use super::ui::Failure;
use super::work::MAX_CELLS;

/// Pairs by rank and step.
pub struct RingWork {
    /// Layout in the text.
    pub layout: &'static str,
    /// `pairs[rank][step]`
    pub pairs: Vec<Vec<u64>>,
}

impl RingWork {
    /// Sum over steps of the largest count of a rank.
    pub fn critical(&self) -> u64 {
        let steps = self.pairs.first().map_or(0, Vec::len);
        (0..steps).map(|t| self.pairs.iter().map(|r| r[t]).max().unwrap_or(0)).sum()
    }

    /// Pairs of all ranks over the number of ranks.
    pub fn ideal(&self) -> f64 {
        self.pairs.iter().flatten().sum::<u64>() as f64 / self.pairs.len().max(1) as f64
    }

    /// For people.
    pub fn text(&self) -> String {
        let steps = self.pairs.first().map_or(0, Vec::len);
        let titles: Vec<String> =
            std::iter::once("  rank".to_string()).chain((0..steps).map(|t| format!("step {t}"))).collect();
        let mut table = Table::new(&titles.iter().map(String::as_str).collect::<Vec<_>>());
        for (rank, steps) in self.pairs.iter().enumerate() {
            let cells = std::iter::once(format!("  {rank}")).chain(steps.iter().map(u64::to_string));
            table.row(cells);
        }
        let over = self.critical() as f64 / self.ideal().max(1.0);
        format!(
            "Ring of {} ranks, {}: pairs at batch 0, head 0\n{table}  critical path {} pairs, {} of the ideal {}\n",
            self.pairs.len(),
            self.layout,
            self.critical(),
            short(over),
            short(self.ideal()),
        )
    }

    /// For machines.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "ranks": self.pairs.len(), "layout": self.layout, "pairs": self.pairs,
            "critical_path": self.critical(), "ideal": self.ideal(),
        })
    }
}

/// Counts, if the kernel is distributed, its mask is known, and the pairs are not too many.
pub fn count(study: &Study) -> Result<Option<RingWork>, Failure> {
    let Some(ring) = study.chosen.kernel.spec()?.ring else { return Ok(None) };
    let ground = study.ground()?;
    let mask = study.attend().attention.mask;
    let (seq_q, seq_k) = (ground.grid.seq_q.max(0) as usize, ground.grid.seq_k.max(0) as usize);
    let cells = (seq_q as u64).saturating_mul(seq_k as u64);
    if !ground.unknown(mask).is_empty() || seq_q != seq_k || cells > MAX_CELLS / 4 {
        return Ok(None);
    }
    let ranks = Planned::ranks(study.chosen.ranks, ring.ranks);
    let held: Vec<Vec<Run>> = (0..ranks).map(|r| runs(ring.layout, seq_k, ranks, r)).collect();
    let owner = owners(&held, seq_k);
    let mut layer = ground.layer(mask);
    ground.bind(&mut layer);
    let keys: Vec<i64> = (0..seq_k as i64).collect();
    let mut pairs = vec![vec![0u64; ranks]; ranks];
    for row in 0..seq_q {
        let rank = owner[row];
        let Some(inside) = ground.cells(&mut layer, row as i64, &keys) else { return Ok(None) };
        for (key, &source) in owner.iter().enumerate() {
            // In step t a rank holds the keys of rank - t.
            pairs[rank][(rank + ranks - source) % ranks] += u64::from(inside(key));
        }
    }
    Ok(Some(RingWork { layout: ring.layout.name(), pairs }))
}

/// The rank that holds each position.
fn owners(held: &[Vec<Run>], length: usize) -> Vec<usize> {
    let mut owner = vec![0; length];
    for (rank, runs) in held.iter().enumerate() {
        for run in runs {
            (0..run.len).for_each(|n| owner[run.first + n * run.step] = rank);
        }
    }
    owner
}

#[cfg(test)]
mod tests {
    use attn_compiler::sema::model::RingLayout;

    use super::*;

    /// The figures of math.md 2.11 for a causal mask, N = 64, P = 4.
    #[test]
    fn causal_work_by_layout() {
        for (layout, critical) in
            [(RingLayout::Contiguous, 904), (RingLayout::Striped, 544), (RingLayout::Zigzag, 520)]
        {
            let held: Vec<Vec<Run>> = (0..4).map(|r| runs(layout, 64, 4, r)).collect();
            let owner = owners(&held, 64);
            let mut pairs = vec![vec![0u64; 4]; 4];
            for i in 0..64 {
                for j in 0..=i {
                    pairs[owner[i]][(owner[i] + 4 - owner[j]) % 4] += 1;
                }
            }
            let work = RingWork { layout: layout.name(), pairs };
            assert_eq!((work.critical(), work.ideal()), (critical, 520.0), "{layout:?}");
        }
    }
}
