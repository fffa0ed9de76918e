//! What happens before what: vector clocks over threads.
//!
//! Comes in: releases and acquires (barriers, mbarriers, syncs of a warp). Goes out: whether an access by one thread is
//! ordered before another thread's. What holds: a stamp names a component and its epoch; a thread knows a stamp if its
//! clock has reached that epoch. Components are the threads of the block, then pseudo threads for work that the machine
//! does by itself: products of a warpgroup, copies that an mbarrier or a bulk group tracks. A second clock (`px`)
//! counts what a proxy fence lies behind: what the asynchronous proxy may read. Method: Flanagan and Freund, "FastTrack"
//! (2009).

use std::rc::Rc;

/// A component (12 bits) and an epoch (20 bits); 0 is no access.
pub(crate) type Stamp = u32;

const EPOCH_BITS: u32 = 20;

pub(crate) fn stamp(component: usize, epoch: u32) -> Stamp {
    ((component as u32) << EPOCH_BITS) | (epoch & ((1 << EPOCH_BITS) - 1))
}

pub(crate) fn component(stamp: Stamp) -> usize {
    (stamp >> EPOCH_BITS) as usize
}

pub(crate) fn epoch(stamp: Stamp) -> u32 {
    stamp & ((1 << EPOCH_BITS) - 1)
}

/// What was observed of each component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    hb: Vec<u32>,
    px: Vec<u32>,
}

fn join(into: &mut Vec<u32>, from: &[u32]) {
    if into.len() < from.len() {
        into.resize(from.len(), 0);
    }
    into.iter_mut().zip(from).for_each(|(a, b)| *a = (*a).max(*b));
}

fn raise(into: &mut Vec<u32>, at: usize, epoch: u32) {
    if into.len() <= at {
        into.resize(at + 1, 0);
    }
    into[at] = into[at].max(epoch);
}

fn reached(clock: &[u32], at: usize) -> u32 {
    clock.get(at).copied().unwrap_or(0)
}

impl Clock {
    fn join(&mut self, other: &Clock) {
        join(&mut self.hb, &other.hb);
        join(&mut self.px, &other.px);
    }

    /// Work of a pseudo thread up to `epoch` is done, and seen by both proxies.
    pub fn note(&mut self, component: usize, epoch: u32, both: bool) {
        raise(&mut self.hb, component, epoch);
        if both {
            raise(&mut self.px, component, epoch);
        }
    }
}

#[derive(Clone, Debug)]
struct Thread {
    base: Rc<Clock>,
    /// Epoch of its own accesses from here on.
    own: u32,
    /// Its own accesses that a proxy fence follows.
    fenced: u32,
}

/// The clocks of a block.
pub(crate) struct Clocks {
    threads: Vec<Thread>,
    components: usize,
    /// Components or epochs do not fit a stamp any more.
    pub exhausted: bool,
}

impl Clocks {
    /// `threads` in units of whole warps, then one component for each warpgroup.
    pub fn new(threads: usize) -> Self {
        let base = Rc::new(Clock::default());
        let each = Thread { base, own: 1, fenced: 0 };
        Self { threads: vec![each; threads], components: threads + threads.div_ceil(128), exhausted: false }
    }

    /// The component of a warpgroup's products.
    pub fn warpgroup(&self, group: usize) -> usize {
        self.threads.len() + group
    }

    /// A new pseudo thread.
    pub fn component(&mut self) -> usize {
        self.components += 1;
        self.exhausted |= self.components > 1 << (32 - EPOCH_BITS);
        self.components - 1
    }

    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// The stamp of an access by a thread now.
    #[inline]
    pub fn now(&self, thread: usize) -> Stamp {
        stamp(thread, self.threads[thread].own)
    }

    /// Whether `s` is ordered before what `thread` does now.
    #[inline]
    pub fn knows(&self, thread: usize, s: Stamp) -> bool {
        let at = component(s);
        at == thread || s == 0 || reached(&self.threads[thread].base.hb, at) >= epoch(s)
    }

    /// Whether a proxy fence lies between `s` and what `thread` does now.
    #[inline]
    pub fn fenced(&self, thread: usize, s: Stamp) -> bool {
        let at = component(s);
        let t = &self.threads[thread];
        let reach = reached(&t.base.px, at);
        let reach = if at == thread { reach.max(t.fenced) } else { reach };
        s == 0 || reach >= epoch(s)
    }

    /// What `thread` did and saw goes into `clock`; later accesses get a new epoch.
    pub fn release(&mut self, thread: usize, clock: &mut Clock) {
        let t = &mut self.threads[thread];
        clock.join(&t.base);
        raise(&mut clock.hb, thread, t.own);
        raise(&mut clock.px, thread, t.fenced);
        t.own += 1;
        self.exhausted |= t.own >> EPOCH_BITS != 0;
    }

    /// `thread` sees what is in `clock`.
    pub fn acquire(&mut self, thread: usize, clock: &Clock) {
        let t = &mut self.threads[thread];
        let known = |a: &[u32], b: &[u32]| b.iter().enumerate().all(|(n, e)| reached(a, n) >= *e);
        if !known(&t.base.hb, &clock.hb) || !known(&t.base.px, &clock.px) {
            Rc::make_mut(&mut t.base).join(clock);
        }
    }

    /// Several threads see what is in `clock`; those that stood alike still stand alike.
    pub fn acquire_all(&mut self, threads: impl Iterator<Item = usize>, clock: &Clock) {
        let mut last: Option<(Rc<Clock>, Rc<Clock>)> = None;
        for n in threads {
            match &last {
                Some((from, to)) if Rc::ptr_eq(from, &self.threads[n].base) => {
                    self.threads[n].base = to.clone();
                }
                _ => {
                    let from = self.threads[n].base.clone();
                    self.acquire(n, clock);
                    last = Some((from, self.threads[n].base.clone()));
                }
            }
        }
    }

    /// What several threads did and saw goes into `clock`.
    pub fn release_all(&mut self, threads: impl Iterator<Item = usize>, clock: &mut Clock) {
        let mut last: Option<Rc<Clock>> = None;
        for n in threads {
            let t = &mut self.threads[n];
            if !last.as_ref().is_some_and(|l| Rc::ptr_eq(l, &t.base)) {
                clock.join(&t.base);
                last = Some(t.base.clone());
            }
            raise(&mut clock.hb, n, t.own);
            raise(&mut clock.px, n, t.fenced);
            t.own += 1;
            self.exhausted |= t.own >> EPOCH_BITS != 0;
        }
    }

    /// All of `threads` wait for each other.
    pub fn sync(&mut self, threads: &[usize]) {
        let mut clock = Clock::default();
        self.release_all(threads.iter().copied(), &mut clock);
        let shared = Rc::new(clock);
        threads.iter().for_each(|n| self.threads[*n].base = shared.clone());
    }

    /// A thread's clock becomes exactly `clock`, which already holds all that it knew.
    pub fn adopt(&mut self, thread: usize, clock: &Rc<Clock>) {
        self.threads[thread].base = clock.clone();
    }

    /// fence.proxy.async: all that `thread` did and saw may be read by the asynchronous proxy.
    pub fn proxy_fence(&mut self, thread: usize) {
        let t = &mut self.threads[thread];
        t.fenced = t.own;
        t.own += 1;
        if t.base.hb.iter().enumerate().any(|(n, e)| reached(&t.base.px, n) < *e) {
            let base = Rc::make_mut(&mut t.base);
            let hb = base.hb.clone();
            join(&mut base.px, &hb);
        }
    }

    /// `thread` saw work of a pseudo thread up to `epoch` end.
    pub fn note(&mut self, thread: usize, component: usize, epoch: u32) {
        let t = &mut self.threads[thread];
        if reached(&t.base.hb, component) < epoch || reached(&t.base.px, component) < epoch {
            Rc::make_mut(&mut t.base).note(component, epoch, true);
        }
    }
}

impl Clock {
    /// Sees what another clock saw.
    pub fn merge(&mut self, other: &Clock) {
        self.join(other);
    }
}
