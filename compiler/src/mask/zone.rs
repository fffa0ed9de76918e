//! Difference bounds over i, j and i - j, with symbolic bounds.
//!
//! Comes in: lower and upper bounds, each a list of forms (the largest lower and the smallest upper one count).
//! Goes out: the conditions under which integers i, j satisfy all of them, and the tightest bounds that follow.
//! Both are exact: with one origin and two variables a difference-bound matrix (Dill 1989, Mine 2001) has only
//! 2-cycles and 3-cycles, and one round of shortest paths closes it. Within a closed zone the minimum of
//! `a*i + b*j` is also exact: three nodes always route a flow from a single source or to a single sink, whose
//! shortest-path tree is one point of the zone.

use super::forms::Forms;
use super::lin::Lin;

/// Bounds of one quantity.
#[derive(Clone, Debug, Default)]
pub(super) struct Range {
    /// Lower bounds; all hold.
    pub lo: Vec<Lin>,
    /// Upper bounds; all hold.
    pub hi: Vec<Lin>,
}

impl Range {
    /// Adds a lower bound unless one at least as high is there.
    pub fn add_lo(&mut self, f: &mut Forms, x: Lin) {
        if !x.is_wild() && !self.lo.iter().any(|l| f.proves(&x.sub(l))) {
            self.lo.retain(|l| !f.proves(&l.sub(&x)));
            self.lo.push(x);
        }
    }

    /// Adds an upper bound unless one at least as low is there.
    pub fn add_hi(&mut self, f: &mut Forms, x: Lin) {
        if !x.is_wild() && !self.hi.iter().any(|h| f.proves(&h.sub(&x))) {
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
    pub fn conditions(&self, out: &mut Vec<Lin>) {
        out.extend(sums(&self.x.lo, &self.x.hi, -1));
        out.extend(sums(&self.y.lo, &self.y.hi, -1));
        self.relation_conditions(out);
    }

    /// Those of them in which bounds of `x - y` take part.
    pub fn relation_conditions(&self, out: &mut Vec<Lin>) {
        out.extend(sums(&self.d.lo, &self.d.hi, -1));
        out.extend(sums(&self.d.lo, &sums(&self.x.hi, &self.y.lo, -1), -1));
        out.extend(sums(&sums(&self.x.lo, &self.y.hi, -1), &self.d.hi, -1));
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
