//! Launching: tasks of one grid handed out in ascending order to threads.
//!
//! Comes in: an entry point, a number of tasks, the argument block, one scratch buffer for each thread. Goes
//! out: every task run exactly once, all ended, their writes visible to the caller. What holds: no allocation.
//! Deliberately not done: work stealing between launches (each starts when the one before has ended).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::exec_mem::EntryFn;
use super::threads::Parallel;
use crate::aligned::AlignedBuf;

/// Scratch of one running thread. Locked while a thread uses it, which also orders the thread's writes before
/// the end of the launch.
pub(crate) type Scratch = Mutex<AlignedBuf>;

/// Runs tasks `0..n_tasks` on at most `scratch.len()` threads.
///
/// # Safety
/// `entry` is kernel code for which `args` is a valid argument block and each scratch buffer is large enough,
/// for every task below `n_tasks`, also when tasks run at the same time.
pub(crate) unsafe fn launch(
    entry: EntryFn,
    n_tasks: usize,
    args: &[u64],
    scratch: &[Scratch],
    parallel: &dyn Parallel,
) {
    let next = AtomicUsize::new(0);
    let body = |t: usize| {
        // A scratch that is taken means that the pool called one index twice at once: others do its tasks.
        let Some(Ok(mut scratch)) = scratch.get(t).map(|s| s.try_lock()) else { return };
        let bytes = scratch.bytes_mut().as_mut_ptr();
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= n_tasks {
                return;
            }
            // SAFETY: promised by the caller; this scratch is locked, so no other task uses it meanwhile.
            unsafe { entry(args.as_ptr(), bytes, task as i64) };
        }
    };
    let n_threads = scratch.len().min(n_tasks);
    if n_threads <= 1 {
        body(0);
        return;
    }
    parallel.run(n_threads, &body);
    // Whatever the pool left out; and taking every lock once makes all writes of the tasks visible here.
    body(0);
    for s in scratch {
        drop(s.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
