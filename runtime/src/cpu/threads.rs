//! Threads: how many, and who runs them.
//!
//! Comes in: a body and a number of threads. Goes out: the body called once for each thread index, all calls
//! ended. Hosts with a pool of their own implement [`Parallel`]; the default is a private rayon pool, never the
//! global one. Deliberately not done: pinning, spawning a thread per launch.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock, RwLock};

use rayon::{ThreadPool, ThreadPoolBuilder};

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

/// The private pool.
#[derive(Clone, Debug)]
pub(crate) struct RayonPool(Arc<ThreadPool>);

/// Pools made so far, ascending by size; a pool serves every smaller number of threads.
static POOLS: RwLock<Vec<RayonPool>> = RwLock::new(Vec::new());

impl RayonPool {
    /// A pool of at least `n` threads, made on first use and kept.
    pub fn of_at_least(n: usize) -> Result<RayonPool, RuntimeError> {
        let fits = |pools: &[RayonPool]| pools.iter().find(|p| p.0.current_num_threads() >= n).cloned();
        if let Some(pool) = fits(&POOLS.read().unwrap_or_else(|e| e.into_inner())) {
            return Ok(pool);
        }
        let mut pools = POOLS.write().unwrap_or_else(|e| e.into_inner());
        if let Some(pool) = fits(&pools) {
            return Ok(pool);
        }
        let made = ThreadPoolBuilder::new().num_threads(n).thread_name(|t| format!("attnc-{t}")).build();
        let pool = RayonPool(Arc::new(made.map_err(|err| {
            RuntimeError::unsupported(format!(
                "the host refuses {n} threads: {err}; set ATTN_NUM_THREADS lower"
            ))
        })?));
        pools.push(pool.clone());
        pools.sort_by_key(|p| p.0.current_num_threads());
        Ok(pool)
    }
}

impl Parallel for RayonPool {
    fn run(&self, n_threads: usize, body: &(dyn Fn(usize) + Sync)) {
        self.0.install(|| split(0, n_threads, body));
    }
}

/// Forks by halves; `join` keeps its jobs on the stack.
fn split(lo: usize, hi: usize, body: &(dyn Fn(usize) + Sync)) {
    match hi - lo {
        0 => {}
        1 => body(lo),
        n => {
            let mid = lo + n / 2;
            rayon::join(|| split(lo, mid, body), || split(mid, hi, body));
        }
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_index_is_called_once() {
        for n in [0, 1, 2, 3, 7] {
            let calls: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            let body = |t: usize| {
                calls[t].fetch_add(1, Ordering::Relaxed);
            };
            RayonPool::of_at_least(2).unwrap().run(n, &body);
            Serial.run(n, &body);
            assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 2));
        }
    }

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
