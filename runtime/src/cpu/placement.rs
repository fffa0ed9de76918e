//! On which processor a thread runs: not on that of its caller.
//!
//! Comes in: the caller's processor. Goes out: nothing; the calling thread may run elsewhere afterwards. What holds: the
//! processors that a thread may use are the same before and after. Why: hosts that tell their guests nothing of shared
//! caches make the scheduler wake a thread where its caller runs, though others are idle, and leave both there for
//! milliseconds (a compilation on two threads took longer than on one). Not here: pinning, NUMA.

#[cfg(target_os = "linux")]
use rustix::thread::{sched_getaffinity, sched_getcpu, sched_setaffinity};

/// The processor at hand, where the host says so.
#[cfg(target_os = "linux")]
pub(crate) fn processor() -> Option<usize> {
    Some(sched_getcpu())
}

/// Moves the calling thread away from `caller`, if it runs there and may run elsewhere.
#[cfg(target_os = "linux")]
pub(crate) fn leave(caller: usize) {
    if sched_getcpu() != caller {
        return;
    }
    let Ok(all) = sched_getaffinity(None) else { return };
    let mut others = all;
    others.unset(caller);
    // Where the host refuses, the thread stays: slower, not wrong.
    if others.count() > 0 && sched_setaffinity(None, &others).is_ok() {
        let _ = sched_setaffinity(None, &all);
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn processor() -> Option<usize> {
    None
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn leave(_: usize) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_leaves_may_run_where_it_might_before() {
        let before = sched_getaffinity(None).unwrap();
        for _ in 0..100 {
            leave(processor().unwrap());
        }
        let after = sched_getaffinity(None).unwrap();
        let processors = |set: &rustix::thread::CpuSet| {
            (0..rustix::thread::CpuSet::MAX_CPU).map(|n| set.is_set(n)).collect::<Vec<_>>()
        };
        assert_eq!(processors(&before), processors(&after));
        // Somebody else's processor is none of its business.
        leave(usize::MAX);
    }
}
