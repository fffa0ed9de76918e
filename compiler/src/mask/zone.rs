//! Difference bounds over i, j and i - j, with symbolic bounds.
//!
//! Comes in: lower and upper bounds, each a list of forms (the largest lower and the smallest upper one count).
//! Goes out: the conditions under which integers i, j satisfy all of them, and the tightest bounds that follow.
//! Both are exact: with one origin and two variables a difference-bound matrix (Dill 1989, Mine 2001) has only
//! 2-cycles and 3-cycles, and one round of shortest paths closes it. Within a closed zone the minimum of
//! `a*i + b*j` is also exact: three nodes always route a flow from a single source or to a single sink, whose
//! shortest-path tree is one point of the zone.

use super::forms::{Forms, Join};
use super::lin::Lin;
use crate::expr::Pool;

/// Bounds of one quantity.
#[derive(Clone, Debug, Default)]
pub(super) struct Range {
    /// Lower bounds; all hold.
    pub lo: Vec<Lin>,
    /// Upper bounds; all hold.
    pub hi: Vec<Lin>,
}

/// Bounds of one side that are kept; further ones are dropped, which only loosens the zone.
const MAX_BOUNDS: usize = 4;

impl Range {
    /// Adds a lower bound unless one at least as high is there.
    pub fn add_lo(&mut self, f: &mut Forms, x: Lin) {
        if self.lo.len() < MAX_BOUNDS && !x.is_wild() && !self.lo.iter().any(|l| f.proves(&x.sub(l))) {
            self.lo.retain(|l| !f.proves(&l.sub(&x)));
            self.lo.push(x);
        }
    }

    /// Adds an upper bound unless one at least as low is there.
    pub fn add_hi(&mut self, f: &mut Forms, x: Lin) {
        if self.hi.len() < MAX_BOUNDS && !x.is_wild() && !self.hi.iter().any(|h| f.proves(&h.sub(&x))) {
            self.hi.retain(|h| !f.proves(&x.sub(h)));
            self.hi.push(x);
        }
    }

    /// Adds a bound above or below.
    pub fn add(&mut self, f: &mut Forms, above: bool, x: Lin) {
        if above { self.add_hi(f, x) } else { self.add_lo(f, x) }
    }

    /// Adds all bounds of another range.
    pub fn join(&mut self, f: &mut Forms, other: Range) {
        other.lo.into_iter().for_each(|x| self.add_lo(f, x));
        other.hi.into_iter().for_each(|x| self.add_hi(f, x));
    }
}

/// `a + k * b` for every pair.
pub(super) fn sums(a: &[Lin], b: &[Lin], k: i128) -> Vec<Lin> {
    a.iter().flat_map(|x| b.iter().map(move |y| x.plus(y, k))).collect()
}

/// More pairs of bounds than this are compared as one largest with one smallest.
const MAX_PAIRS: usize = 4;

/// `lo - hi` for every pair of bounds; as one form where that would be many.
pub(super) fn gaps(f: &mut Forms, lo: &[Lin], hi: &[Lin], out: &mut Vec<Lin>) {
    let mut open = Vec::new();
    for x in lo {
        open.extend(hi.iter().map(|y| f.gap(x, y)));
    }
    open.retain(|gap| !f.proves(gap));
    if open.len() <= MAX_PAIRS {
        out.append(&mut open);
    } else if let (Some(lo), Some(hi)) = (f.collapse(lo, Pool::max), f.collapse(hi, Pool::min)) {
        out.push(lo.sub(&hi));
    }
}

/// Bounds of a difference, as one where they would be many.
fn difference(f: &mut Forms, (a, fold_a): (&[Lin], Join), (b, fold_b): (&[Lin], Join)) -> Vec<Lin> {
    if a.len() * b.len() <= MAX_PAIRS {
        return sums(a, b, -1);
    }
    let (a, b) = (f.collapse(a, fold_a), f.collapse(b, fold_b));
    a.zip(b).map(|(a, b)| a.sub(&b)).into_iter().collect()
}

/// Bounds of two quantities x, y and of x - y.
#[derive(Clone, Debug, Default)]
pub(super) struct Zone {
    pub x: Range,
    pub y: Range,
    /// Of `x - y`.
    pub d: Range,
}

impl Zone {
    /// The forms that must be 0 or less for the zone not to be empty.
    pub fn conditions(&self, f: &mut Forms, out: &mut Vec<Lin>) {
        gaps(f, &self.x.lo, &self.x.hi, out);
        gaps(f, &self.y.lo, &self.y.hi, out);
        self.relation_conditions(f, out);
    }

    /// Those of them in which bounds of `x - y` take part.
    pub fn relation_conditions(&self, f: &mut Forms, out: &mut Vec<Lin>) {
        gaps(f, &self.d.lo, &self.d.hi, out);
        if !self.d.lo.is_empty() {
            let most = difference(f, (&self.x.hi, Pool::min), (&self.y.lo, Pool::max));
            gaps(f, &self.d.lo, &most, out);
        }
        if !self.d.hi.is_empty() {
            let least = difference(f, (&self.x.lo, Pool::max), (&self.y.hi, Pool::min));
            gaps(f, &least, &self.d.hi, out);
        }
    }

    /// The tightest bounds that follow.
    pub fn closed(&self, f: &mut Forms) -> Zone {
        let implied = |lo, hi| Range { lo, hi };
        let mut out = self.clone();
        let (x, y, d) = (&self.x, &self.y, &self.d);
        out.x.join(f, implied(sums(&y.lo, &d.lo, 1), sums(&y.hi, &d.hi, 1)));
        out.y.join(f, implied(sums(&x.lo, &d.hi, -1), sums(&x.hi, &d.lo, -1)));
        out.d.join(f, implied(sums(&x.lo, &y.hi, -1), sums(&x.hi, &y.lo, -1)));
        out
    }

    /// Lower bounds of `a*x + b*y` in a closed zone; an empty list where there is none.
    pub fn least(&self, a: i128, b: i128) -> Vec<Lin> {
        let scaled = |v: &[Lin], k: i128| -> Vec<Lin> {
            if k == 0 { vec![Lin::int(0)] } else { v.iter().map(|l| l.scale(k)).collect() }
        };
        let one = |r: &Range, k: i128| if k >= 0 { scaled(&r.lo, k) } else { scaled(&r.hi, k) };
        if a == 0 || b == 0 || (a > 0) == (b > 0) {
            return sums(&one(&self.x, a), &one(&self.y, b), 1);
        }
        // a*x + b*y = t*(x - y) + (a - t)*x + (b + t)*y, with t the smaller of the two in size.
        let t = if a.abs() <= b.abs() { a } else { -b };
        sums(&one(&self.d, t), &sums(&one(&self.x, a - t), &one(&self.y, b + t), 1), 1)
    }
}
