//! Timing: warm-up, then as many runs as it takes.

use std::time::{Duration, Instant};

use super::ui::Failure;

/// Times of single runs.
#[derive(Clone, Debug)]
pub struct Times {
    sorted_ms: Vec<f64>,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Times {
        times.sort_unstable();
        Times { sorted_ms: times.into_iter().map(|t| t.as_secs_f64() * 1e3).collect() }
    }

    /// Of times in milliseconds; there is at least one.
    pub fn of_ms(times: &[f64]) -> Times {
        let mut sorted_ms = times.to_vec();
        sorted_ms.sort_unstable_by(f64::total_cmp);
        Times { sorted_ms }
    }

    /// The value below which a share of the runs lies, by linear interpolation.
    pub fn quantile(&self, share: f64) -> f64 {
        let at = share * (self.sorted_ms.len() - 1) as f64;
        let (low, high) = (self.sorted_ms[at.floor() as usize], self.sorted_ms[at.ceil() as usize]);
        low + (high - low) * at.fract()
    }

    /// Median.
    pub fn median_ms(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Fastest.
    pub fn min_ms(&self) -> f64 {
        self.sorted_ms[0]
    }

    /// Distance of the quartiles.
    pub fn iqr_ms(&self) -> f64 {
        self.quantile(0.75) - self.quantile(0.25)
    }

    /// How many.
    pub fn runs(&self) -> usize {
        self.sorted_ms.len()
    }
}

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Warm-up: at least one run, until this long has passed.
    pub warm_up: Duration,
    /// At least this many runs.
    pub min_runs: usize,
    /// At most this many.
    pub max_runs: usize,
    /// Between the two: until this long has passed.
    pub total: Duration,
}

/// For a look: a warm-up and a few runs.
pub const FEW: Effort =
    Effort { warm_up: Duration::ZERO, min_runs: 1, max_runs: 15, total: Duration::from_millis(300) };

/// For a number to be quoted.
pub const MANY: Effort = Effort {
    warm_up: Duration::from_millis(200),
    min_runs: 5,
    max_runs: 10_000,
    total: Duration::from_secs(2),
};

/// Runs and times; `progress` is told the share that is done.
pub fn measure(
    effort: Effort,
    mut run: impl FnMut() -> Result<(), Failure>,
    mut progress: impl FnMut(f64),
) -> Result<Times, Failure> {
    let start = Instant::now();
    run()?;
    while start.elapsed() < effort.warm_up {
        run()?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < effort.min_runs || (times.len() < effort.max_runs && start.elapsed() < effort.total) {
        let before = Instant::now();
        run()?;
        times.push(before.elapsed());
        progress((start.elapsed().as_secs_f64() / effort.total.as_secs_f64()).min(1.0));
    }
    Ok(Times::of(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_known_times() {
        let times = Times::of((1..=5).rev().map(Duration::from_millis).collect());
        assert_eq!((times.min_ms(), times.median_ms(), times.iqr_ms(), times.runs()), (1.0, 3.0, 2.0, 5));
    }

    #[test]
    fn at_least_and_at_most() {
        let effort = Effort { warm_up: Duration::ZERO, min_runs: 3, max_runs: 5, total: Duration::ZERO };
        let mut n = 0;
        let times = measure(
            effort,
            || {
                n += 1;
                Ok(())
            },
            |_| {},
        )
        .unwrap();
        assert_eq!((n, times.runs()), (4, 3));
    }
}
