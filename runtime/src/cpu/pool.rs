//! The private pool: threads that wait for work and take part in it.
//!
//! Comes in: a body and a number of indices. Goes out: the body called once for each index, all calls ended; a panic
//! of a call comes out in the caller. What holds: nothing is allocated for a call; the caller takes indices from the
//! start and waits only for threads that have taken one, so a thread that is slow to wake delays nobody. A thread
//! without work looks for some for [`AWAKE`] before it sleeps: launches that follow each other need no waking.
//! A thread that is woken on its caller's processor leaves it (`placement.rs`).
//! Deliberately not done: pinning, stealing parts of a call, ending threads before the process ends.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::placement;
use super::threads::Parallel;
use crate::error::RuntimeError;

/// How long a thread looks for work before it sleeps.
pub const AWAKE: Duration = Duration::from_micros(50);
/// How long it does so without letting others run.
const ALERT: Duration = Duration::from_micros(5);

/// The threads and what they share; one for the process.
pub(crate) struct Pool {
    queue: Mutex<Queue>,
    /// Grows with every job: seen without the lock.
    posted: AtomicUsize,
    /// For threads: there is a job.
    work: Condvar,
    /// For callers: calls of some job have ended, or a thread has begun.
    ended: Condvar,
}

/// What a job calls, without its lifetime.
type Body = *const (dyn Fn(usize) + Sync);

/// What the lock guards: also every field of every job, but for `running`.
struct Queue {
    /// Jobs with indices left, oldest first; they lie on the stacks of their callers.
    first: *mut Job,
    last: *mut Job,
    threads: usize,
    /// Threads that have begun to look for work.
    begun: usize,
    asleep: usize,
}

// SAFETY: jobs are reached under the lock only, and live until their callers have seen that no call is running.
unsafe impl Send for Queue {}

/// One call of [`Parallel::run`]. Reached by address only, never as a whole: `running` is read without the lock.
struct Job {
    body: Body,
    /// Indices not yet taken.
    next: usize,
    n: usize,
    /// Where the caller runs.
    caller: Option<usize>,
    /// Calls that other threads have begun and not ended.
    running: AtomicUsize,
    /// The caller sleeps until `running` is 0.
    sleeps: bool,
    panic: Option<Box<dyn Any + Send>>,
    after: *mut Job,
}

static POOL: Pool = Pool {
    queue: Mutex::new(Queue {
        first: ptr::null_mut(),
        last: ptr::null_mut(),
        threads: 0,
        begun: 0,
        asleep: 0,
    }),
    posted: AtomicUsize::new(0),
    work: Condvar::new(),
    ended: Condvar::new(),
};

impl Pool {
    /// The pool, with threads enough for `n` calls at once, the caller's among them. Threads are kept. Errors: the host
    /// refuses them.
    pub fn of_at_least(n: usize) -> Result<&'static Pool, RuntimeError> {
        Pool::starting(n)?;
        // A thread allocates while it begins: that is over when the first run of this width is.
        let mut queue = POOL.lock();
        while queue.begun < queue.threads {
            queue = POOL.ended.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(&POOL)
    }

    /// The same pool at once: threads that have yet to begin take part when they have. To wait for them is to sleep, and
    /// who sleeps may be woken on the processor where the thread began.
    pub fn starting(n: usize) -> Result<&'static Pool, RuntimeError> {
        let mut queue = POOL.lock();
        while queue.threads + 1 < n {
            let named = std::thread::Builder::new().name(format!("attnc-{}", queue.threads));
            let spawned = named.spawn(|| POOL.work());
            spawned.map_err(|err| {
                RuntimeError::unsupported(format!(
                    "the host refuses {n} threads: {err}; set ATTN_NUM_THREADS lower"
                ))
            })?;
            queue.threads += 1;
        }
        Ok(&POOL)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does for ever.
    fn work(&self) {
        self.lock().begun += 1;
        self.ended.notify_all();
        // It may have begun, or been woken, where its caller runs.
        let mut placed = false;
        loop {
            let seen = self.posted.load(Ordering::Relaxed);
            let mut queue = self.lock();
            while let Some((job, index, body)) = queue.take() {
                // SAFETY: the job is counted as running, and the lock is held.
                let caller = unsafe { (*job).caller };
                drop(queue);
                if let Some(caller) = caller.filter(|_| !placed) {
                    placement::leave(caller);
                }
                placed = true;
                // SAFETY: the job is counted as running, so its caller keeps the body until `end`.
                let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*body)(index) }));
                queue = self.lock();
                self.end(job, result.err());
            }
            drop(queue);
            if self.await_posted(seen) {
                continue;
            }
            let mut queue = self.lock();
            if queue.first.is_null() {
                queue.asleep += 1;
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.asleep -= 1;
                placed = false;
            }
        }
    }

    /// Looks for a while whether something is posted after `seen`.
    fn await_posted(&self, seen: usize) -> bool {
        let posted = || self.posted.load(Ordering::Relaxed) != seen;
        wait_awake(&posted)
    }

    /// Ends a call of a job, under the lock. The caller may drop the job at once afterwards.
    fn end(&self, job: *mut Job, panic: Option<Box<dyn Any + Send>>) {
        // SAFETY: the job lives while `running` is not 0, and is reached under the lock, which is held; the last access is
        // the one that lets go.
        let wakes = unsafe {
            if panic.is_some() {
                (*job).panic = panic;
            }
            let sleeps = (*job).sleeps;
            (*job).running.fetch_sub(1, Ordering::Release) == 1 && sleeps
        };
        if wakes {
            self.ended.notify_all();
        }
    }
}

impl Queue {
    /// The next index of the oldest job, counted as running.
    fn take(&mut self) -> Option<(*mut Job, usize, Body)> {
        let job = self.first;
        if job.is_null() {
            return None;
        }
        // SAFETY: a job in the queue is alive: its caller takes it out, under the lock, before it returns.
        unsafe {
            let index = self.take_from(job);
            (*job).running.fetch_add(1, Ordering::Relaxed);
            Some((job, index, (*job).body))
        }
    }

    /// The next index of a job that has one; with the last one the job leaves the queue.
    ///
    /// # Safety
    /// The job is alive.
    unsafe fn take_from(&mut self, job: *mut Job) -> usize {
        // SAFETY: promised by the caller; fields but `running` are reached under the lock, which `self` proves.
        let (index, n) = unsafe {
            let index = (*job).next;
            (*job).next = index + 1;
            (index, (*job).n)
        };
        if index + 1 == n {
            self.remove(job);
        }
        index
    }

    fn append(&mut self, job: *mut Job) {
        if self.last.is_null() {
            self.first = job;
        } else {
            // SAFETY: as in `take`.
            unsafe { (*self.last).after = job };
        }
        self.last = job;
    }

    /// Takes a job out, if it is there.
    fn remove(&mut self, job: *mut Job) {
        let (mut before, mut at) = (ptr::null_mut::<Job>(), self.first);
        while !at.is_null() && at != job {
            // SAFETY: as in `take`.
            (before, at) = (at, unsafe { (*at).after });
        }
        if at.is_null() {
            return;
        }
        // SAFETY: as in `take`; both are in the queue.
        unsafe {
            if before.is_null() {
                self.first = (*job).after;
            } else {
                (*before).after = (*job).after;
            }
        }
        if self.last == job {
            self.last = before;
        }
    }
}

/// Asks again and again for [`AWAKE`].
fn wait_awake(done: &dyn Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        let waited = start.elapsed();
        if waited > AWAKE {
            return false;
        }
        if waited > ALERT {
            std::thread::yield_now();
        }
    }
}

impl Parallel for Pool {
    fn run(&self, n_threads: usize, body: &(dyn Fn(usize) + Sync)) {
        self.call(n_threads, body, true);
    }
}

/// The pool without its sleepers: threads that happen to be awake take part, none is woken. For calls that are over
/// before a thread has woken.
pub(crate) struct Awake(pub &'static Pool);

impl Parallel for Awake {
    fn run(&self, n_threads: usize, body: &(dyn Fn(usize) + Sync)) {
        self.0.call(n_threads, body, false);
    }
}

impl Pool {
    fn call(&self, n_threads: usize, body: &(dyn Fn(usize) + Sync), wakes: bool) {
        if n_threads <= 1 {
            (0..n_threads).for_each(body);
            return;
        }
        // SAFETY: only the lifetime changes; the job that holds it is gone from every thread before this returns.
        let body_ptr = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(
                ptr::from_ref(body),
            )
        };
        let mut job = Job {
            body: body_ptr,
            next: 1,
            n: n_threads,
            caller: placement::processor(),
            running: AtomicUsize::new(0),
            sleeps: false,
            panic: None,
            after: ptr::null_mut(),
        };
        let job = &raw mut job;
        self.post(job, if wakes { n_threads - 1 } else { 0 });
        let own = self.take_part(job, body);
        // SAFETY: the job is alive.
        let running = unsafe { &raw const (*job).running };
        // SAFETY: as above; `running` is atomic.
        let idle = || unsafe { (*running).load(Ordering::Acquire) == 0 };
        if !wait_awake(&idle) {
            let mut queue = self.lock();
            // SAFETY: the job is alive and the lock is held.
            unsafe { (*job).sleeps = true };
            while !idle() {
                queue = self.ended.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
        // SAFETY: no thread has the job any more: it is out of the queue, and no call is running.
        let other = unsafe { std::mem::take(&mut (*job).panic) };
        if let Some(panic) = own.err().or(other) {
            resume_unwind(panic);
        }
    }

    /// Puts a job into the queue and wakes threads, at most so many.
    fn post(&self, job: *mut Job, wanted: usize) {
        let mut queue = self.lock();
        queue.append(job);
        self.posted.fetch_add(1, Ordering::Relaxed);
        let asleep = queue.asleep;
        drop(queue);
        if asleep > 0 && asleep <= wanted {
            self.work.notify_all();
        } else {
            (0..asleep.min(wanted)).for_each(|_| self.work.notify_one());
        }
    }

    /// The caller's part: index 0, then what no thread has taken. The job is out of the queue afterwards.
    fn take_part(&self, job: *mut Job, body: &(dyn Fn(usize) + Sync)) -> std::thread::Result<()> {
        let mut index = 0;
        loop {
            let done = catch_unwind(AssertUnwindSafe(|| body(index)));
            let mut queue = self.lock();
            // SAFETY: the job is the caller's own, and the lock is held.
            unsafe {
                if done.is_err() || (*job).next == (*job).n {
                    queue.remove(job);
                    return done;
                }
                index = queue.take_from(job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(n: usize) -> Vec<AtomicUsize> {
        (0..n).map(|_| AtomicUsize::new(0)).collect()
    }

    #[test]
    fn every_index_is_called_once_also_from_many_callers() {
        let pool = Pool::of_at_least(4).unwrap();
        std::thread::scope(|scope| {
            for caller in 0..4 {
                scope.spawn(move || {
                    for round in 0..300 {
                        let n = (caller + round) % 7;
                        let calls = calls(n);
                        pool.run(n, &|t| _ = calls[t].fetch_add(1, Ordering::Relaxed));
                        assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                        if round % 100 == 0 {
                            std::thread::sleep(2 * AWAKE);
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn calls_that_wake_nobody_are_done_by_the_caller() {
        let pool = Pool::of_at_least(3).unwrap();
        for n in [2, 3, 9] {
            std::thread::sleep(2 * AWAKE);
            let calls = calls(n);
            Awake(pool).run(n, &|t| _ = calls[t].fetch_add(1, Ordering::Relaxed));
            assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn calls_within_calls_end() {
        let pool = Pool::of_at_least(3).unwrap();
        let calls = calls(12);
        pool.run(3, &|a| pool.run(4, &|b| _ = calls[a * 4 + b].fetch_add(1, Ordering::Relaxed)));
        assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn a_panic_of_any_call_comes_out_in_the_caller_and_the_pool_goes_on() {
        let pool = Pool::of_at_least(2).unwrap();
        for bad in 0..3 {
            let run = || pool.run(3, &|t| assert!(t != bad, "call {t}"));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
            let calls = calls(3);
            pool.run(3, &|t| _ = calls[t].fetch_add(1, Ordering::Relaxed));
            assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }
}
