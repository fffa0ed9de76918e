//! Threads: how many, and who runs them.
//!
//! Comes in: a body and a number of threads. Goes out: the body called once for each thread index, all calls
//! ended. Hosts with a pool of their own implement [`Parallel`]; the default is a private pool (`pool.rs`).
//! Deliberately not done: pinning, spawning a thread per launch.

use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pool::Pool;
use crate::error::{DataFault, RuntimeError};

/// Most threads that a run may ask for.
pub const MAX_THREADS: usize = 1024;

/// Something that runs a body on several threads.
pub trait Parallel: Sync {
    /// Calls `body(t)` for every t in `0..n_threads`, on any threads, in any order, and returns when all have
    /// ended. An implementation that leaves calls out is slow, never wrong: the caller does what is left.
    fn run(&self, n_threads: usize, body: &(dyn Fn(usize) + Sync));
}

/// Everything on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn run(&self, n_threads: usize, body: &(dyn Fn(usize) + Sync)) {
        (0..n_threads).for_each(body);
    }
}

/// Starts the threads of a run that names none, `most` of them at most, and does not wait for them: a thread that has begun by the time there is
/// work is woken on an idle processor, a new one may begin on the caller's and take its time. Refused threads are an
/// error of the first run.
pub fn start_threads(most: usize) {
    if let Ok(n) = default_threads() {
        let _ = Pool::starting(n.get().min(most));
    }
}

/// Calls `body` once for each number below `n`, on the threads of a run that names none. For work beside runs.
pub fn on_threads(n: usize, body: &(dyn Fn(usize) + Sync)) {
    let threads = default_threads().map_or(1, NonZeroUsize::get).min(n);
    match Pool::starting(threads) {
        Ok(pool) if threads > 1 => {
            let next = AtomicUsize::new(0);
            pool.run(threads, &|_| {
                loop {
                    let n_th = next.fetch_add(1, Ordering::Relaxed);
                    if n_th >= n {
                        return;
                    }
                    body(n_th);
                }
            });
        }
        _ => (0..n).for_each(body),
    }
}

/// Threads of a run that names none: `ATTN_NUM_THREADS`, else what the host grants this process. Read once.
pub fn default_threads() -> Result<NonZeroUsize, RuntimeError> {
    static DEFAULT: OnceLock<Result<NonZeroUsize, RuntimeError>> = OnceLock::new();
    DEFAULT.get_or_init(|| threads_from(std::env::var("ATTN_NUM_THREADS").ok().as_deref())).clone()
}

fn threads_from(setting: Option<&str>) -> Result<NonZeroUsize, RuntimeError> {
    match setting.map(str::trim) {
        None | Some("") => Ok(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)),
        Some(text) => match text.parse::<NonZeroUsize>() {
            Ok(n) if n.get() <= MAX_THREADS => Ok(n),
            _ => Err(RuntimeError::data(
                DataFault::Value,
                format!("ATTN_NUM_THREADS is `{text}`, expected 1 to {MAX_THREADS}; mend or unset it"),
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_nonsense_is_refused() {
        assert_eq!(threads_from(Some("3")).unwrap().get(), 3);
        assert!(threads_from(None).unwrap().get() >= 1);
        for bad in ["0", "-1", "many", "99999"] {
            let err = threads_from(Some(bad)).unwrap_err();
            assert!(err.to_string().contains(bad), "{err}");
        }
    }
}
