//! Linear forms over pool nodes: the arithmetic of the analysis, and how a form becomes an expression again.
//!
//! Comes in: int expressions. Goes out: `c + sum(coef * node)` with each node once, so that what cancels is seen
//! to cancel (`i - j` of two positions with the same offset), and comparisons `form <= 0` decided at compile
//! time where the form is constant or follows from the box being non-empty. A form whose numbers leave the
//! 64-bit range is `wild`: it is never emitted and a bound made of it is dropped, which is always sound here,
//! because every condition that is built is a necessary one.

use crate::expr::{ExprId, Pool};

/// `c + sum(coef * node)`; nodes ascending, coefficients not 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Lin {
    pub c: i128,
    pub terms: Vec<(ExprId, i128)>,
    wild: bool,
}

/// Beyond this a number is not trusted to stay exact.
const LIMIT: i128 = 1 << 60;

impl Lin {
    pub fn int(c: i128) -> Lin {
        Lin { c, terms: vec![], wild: c.abs() > LIMIT }
    }

    pub fn node(id: ExprId) -> Lin {
        Lin { c: 0, terms: vec![(id, 1)], wild: false }
    }

    pub fn is_wild(&self) -> bool {
        self.wild
    }

    pub fn as_int(&self) -> Option<i128> {
        (self.terms.is_empty() && !self.wild).then_some(self.c)
    }

    pub fn coef(&self, id: ExprId) -> i128 {
        self.terms.iter().find(|t| t.0 == id).map_or(0, |t| t.1)
    }

    /// `self + k * other`
    pub fn plus(&self, other: &Lin, k: i128) -> Lin {
        let scaled = |x: i128| x.saturating_mul(k);
        let mut out = self.clone();
        out.c = out.c.saturating_add(scaled(other.c));
        for &(id, coef) in &other.terms {
            match out.terms.binary_search_by_key(&id, |t| t.0) {
                Ok(at) => out.terms[at].1 = out.terms[at].1.saturating_add(scaled(coef)),
                Err(at) => out.terms.insert(at, (id, scaled(coef))),
            }
        }
        out.wild |= other.wild || out.c.abs() > LIMIT || out.terms.iter().any(|t| t.1.abs() > LIMIT);
        out.terms.retain(|t| t.1 != 0);
        out
    }

    pub fn add(&self, other: &Lin) -> Lin {
        self.plus(other, 1)
    }

    pub fn sub(&self, other: &Lin) -> Lin {
        self.plus(other, -1)
    }

    pub fn scale(&self, k: i128) -> Lin {
        Lin::int(0).plus(self, k)
    }

    pub fn add_int(&self, c: i128) -> Lin {
        self.plus(&Lin::int(c), 1)
    }

    /// The form without the given terms.
    pub fn without(&self, ids: &[ExprId]) -> Lin {
        let mut out = self.clone();
        out.terms.retain(|t| !ids.contains(&t.0));
        out
    }

    /// Greatest common divisor of the coefficients; 0 without terms.
    pub fn gcd(&self) -> i128 {
        self.terms.iter().fold(0, |g, t| gcd(g, t.1))
    }

    /// `self <= 0` divided through: the coefficients have no common divisor and the constant is rounded up.
    pub fn tightened(&self) -> Lin {
        let g = self.gcd();
        if g <= 1 || self.wild {
            return self.clone();
        }
        let terms = self.terms.iter().map(|t| (t.0, t.1 / g)).collect();
        Lin { c: -(-self.c).div_euclid(g), terms, wild: false }
    }
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a.abs() } else { gcd(b, a % b) }
}

/// The corners of the box as nodes: `i_lo, i_hi, j_lo, j_hi`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Corners(pub [ExprId; 4]);

impl Corners {
    /// `lin <= 0` for every non-empty box: `Some(true)`; for none: `Some(false)`.
    pub fn decide(&self, lin: &Lin) -> Option<bool> {
        if lin.wild || lin.terms.iter().any(|t| !self.0.contains(&t.0)) {
            return None;
        }
        let [a, b, c, d] = self.0.map(|id| lin.coef(id));
        if a + b != 0 || c + d != 0 {
            return None;
        }
        match lin.c {
            x if x <= 0 && a >= 0 && c >= 0 => Some(true),
            x if x > 0 && a <= 0 && c <= 0 => Some(false),
            _ => None,
        }
    }

    /// The bool expression `lin <= 0`, or `true` where the form is wild.
    ///
    /// Terms made of corners alone (`positions`) stand on one side and the rest (parameters) on the other, so
    /// that a parameter as large as the 64-bit range meets no sum that overflows: `i_lo - j_hi < window`.
    pub fn le0(&self, pool: &mut Pool, lin: &Lin, positions: &[ExprId]) -> ExprId {
        let lin = lin.tightened();
        if let Some(known) = self.decide(&lin) {
            return pool.bool(known);
        }
        let (corners, rest) = sides(&lin, positions);
        if corners.terms.is_empty() || rest.terms.is_empty() {
            let (mut left, mut right) = (lin.clone(), lin.scale(-1));
            left.terms.retain(|t| t.1 > 0);
            right.terms.retain(|t| t.1 > 0);
            let on_left = left.terms.is_empty() || (!right.terms.is_empty() && lin.c > 0);
            return self.compare(pool, left, right, lin.c, on_left);
        }
        if rest.terms.iter().all(|t| t.1 < 0) {
            return self.compare(pool, rest.scale(-1), corners.scale(-1), lin.c, false);
        }
        self.compare(pool, corners, rest, lin.c, true)
    }

    /// `left + c <= right`, with the constant kept on the side that is asked for.
    fn compare(&self, pool: &mut Pool, mut left: Lin, mut right: Lin, c: i128, on_left: bool) -> ExprId {
        let strict = c == 1 && !left.terms.is_empty() && !right.terms.is_empty();
        (left.c, right.c) = match (strict, on_left) {
            (true, _) => (0, 0),
            (false, true) => (c, 0),
            (false, false) => (0, -c),
        };
        match (self.expr(pool, &left), self.expr(pool, &right)) {
            (Some(a), Some(b)) if strict => pool.lt(a, b),
            (Some(a), Some(b)) => pool.le(a, b),
            _ => pool.bool(true),
        }
    }

    /// The form as an expression; `None` where it is wild.
    pub fn expr(&self, pool: &mut Pool, lin: &Lin) -> Option<ExprId> {
        if lin.wild {
            return None;
        }
        let mut sum: Option<ExprId> = None;
        let positive = lin.terms.iter().filter(|t| t.1 > 0);
        let negative = lin.terms.iter().filter(|t| t.1 < 0);
        for &(id, coef) in positive {
            let term = scaled(pool, id, coef)?;
            sum = Some(sum.map_or(term, |s| pool.add(s, term)));
        }
        let c = i64::try_from(lin.c).ok()?;
        let mut constant_done = c == 0;
        for &(id, coef) in negative {
            let term = scaled(pool, id, -coef)?;
            let from = sum.unwrap_or_else(|| {
                constant_done = true;
                pool.int(c)
            });
            sum = Some(pool.sub(from, term));
        }
        match sum {
            Some(s) if constant_done => Some(s),
            Some(s) => Some(pool.add_int(s, c)),
            None => Some(pool.int(c)),
        }
    }
}

/// Terms that are positions, and minus the others, both without the constant.
fn sides(lin: &Lin, positions: &[ExprId]) -> (Lin, Lin) {
    let (mut corners, mut rest) = (lin.clone(), lin.scale(-1));
    corners.terms.retain(|t| positions.contains(&t.0));
    rest.terms.retain(|t| !positions.contains(&t.0));
    corners.c = 0;
    rest.c = 0;
    (corners, rest)
}

fn scaled(pool: &mut Pool, id: ExprId, coef: i128) -> Option<ExprId> {
    let k = i64::try_from(coef).ok()?;
    let k = pool.int(k);
    Some(pool.mul(id, k))
}
