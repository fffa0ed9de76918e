//! Which of several schedules is the fastest, with as few runs as it takes.
//!
//! Comes in: contestants, each with a way to be timed once, and a time budget. Goes out: their times. What holds: in a round everyone
//! who is left runs once, begun by another each time, so that a drift of the machine meets all alike; after each
//! block of rounds the slower half leaves, and whoever is clearly slower; contestant 0, with which the others are compared, stays to the
//! end. Not here: what is run.
//!
//! [`better`] is the rule for "faster, and not by noise".

use std::time::{Duration, Instant};

use super::super::measure::Times;
use super::super::ui::Failure;

/// A candidate must be faster by more than this share in the median.
pub const MARGIN: f64 = 0.02;
/// A contestant leaves whose lower quartile lies above the best by more than this share, divided by the square root of
/// the rounds: after the few first rounds little is known.
const CLEARLY: f64 = 0.5;
/// Rounds of the first block, and most of one.
const ROUNDS: (usize, usize) = (4, 16);
/// Rounds for which time does not run out.
const LEAST: usize = 2;
/// Most rounds of a race.
const MOST_ROUNDS: usize = 64;

/// Times of each contestant; of those who left early there are fewer.
pub struct Laps(pub Vec<Vec<f64>>);

impl Laps {
    /// Median, if there is one.
    pub fn median(&self, n: usize) -> Option<f64> {
        (!self.0[n].is_empty()).then(|| Times::of_ms(&self.0[n]).median_ms())
    }

    /// The contestant of the lowest median among those who were in the last round.
    pub fn first(&self) -> usize {
        let most = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let finished = (0..self.0.len()).filter(|&n| self.0[n].len() == most);
        let by_median = |a: &usize, b: &usize| {
            let of = |n: usize| self.median(n).unwrap_or(f64::INFINITY);
            of(*a).total_cmp(&of(*b))
        };
        finished.min_by(by_median).unwrap_or(0)
    }
}

/// Whether the first of two that ran side by side is faster: its median by more than [`MARGIN`], its lower quartile
/// too, and it won two of three rounds.
pub fn better(times: &[f64], base: &[f64]) -> bool {
    let n = times.len().min(base.len());
    if n == 0 {
        return false;
    }
    let (a, b) = (Times::of_ms(times), Times::of_ms(base));
    let won = times.iter().zip(base).filter(|(x, y)| x < y).count();
    a.median_ms() < b.median_ms() * (1.0 - MARGIN) && a.quantile(0.25) < b.quantile(0.25) && 3 * won >= 2 * n
}

/// Runs a race. `time` runs one contestant once and gives milliseconds; `progress` is told who is left.
pub fn race(
    n: usize,
    budget: Duration,
    mut time: impl FnMut(usize) -> Result<f64, Failure>,
    mut progress: impl FnMut(usize),
) -> Result<Laps, Failure> {
    let mut laps = Laps(vec![Vec::new(); n]);
    let mut left: Vec<usize> = (0..n).collect();
    let start = Instant::now();
    let (mut block, mut round) = (ROUNDS.0, 0);
    // Caches and pages of each are warm before any is timed.
    for &who in &left {
        time(who)?;
        progress(left.len());
    }
    loop {
        for _ in 0..block {
            // Every round is whole.
            if round >= LEAST && start.elapsed() >= budget {
                return Ok(laps);
            }
            for k in 0..left.len() {
                let who = left[(k + round) % left.len()];
                laps.0[who].push(time(who)?);
            }
            round += 1;
            progress(left.len());
        }
        if start.elapsed() >= budget || round >= MOST_ROUNDS {
            return Ok(laps);
        }
        drop_slow(&mut left, &laps);
        if left.len() < 2 {
            return Ok(laps);
        }
        block = (block * 2).min(ROUNDS.1);
    }
}

/// The slower half leaves, and who is clearly slower than the best; 0 stays.
fn drop_slow(left: &mut Vec<usize>, laps: &Laps) {
    // The rest of a machine only ever slows a lap down.
    let quartile = |who: usize| Times::of_ms(&laps.0[who]).quantile(0.25);
    left.sort_by(|a, b| quartile(*a).total_cmp(&quartile(*b)));
    let rounds = laps.0[left[0]].len() as f64;
    let most = quartile(left[0]) * (1.0 + CLEARLY / rounds.sqrt());
    let keep = left.len().div_ceil(2).max(2);
    let mut place = 0;
    left.retain(|&who| {
        place += 1;
        who == 0 || (place <= keep && quartile(who) <= most)
    });
    left.sort_unstable();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A race over made-up speeds with some noise; how often each ran.
    fn made_up(speeds: &[f64]) -> (Laps, usize) {
        let mut calls = 0;
        let laps = race(
            speeds.len(),
            Duration::from_secs(3600),
            |who| {
                calls += 1;
                Ok(speeds[who] * (1.0 + 0.001 * (calls % 7) as f64))
            },
            |_| {},
        );
        (laps.unwrap(), calls)
    }

    #[test]
    fn the_fastest_wins_and_the_slow_leave_early() {
        let speeds = [1.0, 3.0, 0.9, 1.5, 2.0, 0.97, 4.0, 1.01];
        let (laps, calls) = made_up(&speeds);
        assert_eq!(laps.first(), 2);
        assert_eq!((laps.0[6].len(), laps.0[1].len()), (4, 4), "clearly slower after the first block");
        assert_eq!(laps.0[0].len(), laps.0[2].len(), "the one compared with stays");
        assert!(calls < 64 * 4, "{calls}");
        assert!(better(&laps.0[2], &laps.0[0]) && !better(&laps.0[0], &laps.0[2]));
    }

    #[test]
    fn time_that_is_out_ends_a_race_after_two_rounds() {
        let laps = race(3, Duration::ZERO, |who| Ok(who as f64 + 1.0), |_| {}).unwrap();
        assert_eq!(laps.0.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
        assert_eq!(race(1, Duration::ZERO, |_| Ok(1.0), |_| {}).unwrap().first(), 0);
    }

    #[test]
    fn noise_is_not_better() {
        let base = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        assert!(!better(&[0.99; 6], &base), "within the margin");
        assert!(better(&[0.97; 6], &base));
        assert!(!better(&[0.5, 0.5, 0.5, 1.1, 1.1, 1.1], &base), "wins half of the rounds");
        let bimodal = [0.5, 0.5, 0.5, 0.5, 2.0, 2.0];
        assert!(better(&bimodal, &base), "wins two of three");
        assert!(!better(&[], &[]));
    }

    #[test]
    fn a_failure_ends_it() {
        let failed = race(2, Duration::from_secs(1), |_| Err(Failure::wrong("no")), |_| {});
        assert!(failed.is_err());
    }
}
