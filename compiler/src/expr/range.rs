//! Ranges of integer expressions over boxes of their variables: what an index can be, at most.
//!
//! Comes in: an expression, and for each variable and tensor the interval its values lie in. Goes out: an
//! interval that contains every value (sound, not always tight). Used to prove indices in range when sizes
//! and parameters are known; tile classification is the work of `crate::mask`, which knows about `i - j`.

use rustc_hash::FxHashMap;

use super::eval::floor_div;
use super::{BinaryOp, ExprId, Op, Pool, TensorId, UnaryOp, VarId};

/// Inclusive bounds; empty if `lo > hi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Smallest value.
    pub lo: i64,
    /// Largest value.
    pub hi: i64,
}

impl Range {
    /// Every 64-bit integer.
    pub const ALL: Range = Range { lo: i64::MIN, hi: i64::MAX };

    /// One value.
    pub fn point(x: i64) -> Range {
        Range { lo: x, hi: x }
    }

    fn union(self, other: Range) -> Range {
        Range { lo: self.lo.min(other.lo), hi: self.hi.max(other.hi) }
    }

    fn of(corners: &[Option<i64>]) -> Range {
        let mut it = corners.iter().copied();
        let mut out = match it.next().flatten() {
            Some(x) => Range::point(x),
            None => return Range::ALL,
        };
        for x in it {
            match x {
                Some(x) => out = out.union(Range::point(x)),
                None => return Range::ALL,
            }
        }
        out
    }

    /// True if every value lies in `0..n`.
    pub fn within(self, n: i64) -> bool {
        self.lo >= 0 && self.hi < n
    }
}

/// Where ranges of leaves come from.
pub trait RangeEnv {
    /// Interval of an int variable.
    fn var(&self, var: VarId) -> Range;
    /// Interval of the values of an integer tensor.
    fn tensor(&self, tensor: TensorId) -> Range;
}

/// The range of an int expression; [`Range::ALL`] where nothing is known.
pub fn range(pool: &Pool, root: ExprId, env: &dyn RangeEnv) -> Range {
    // Ends and sizes are often leaves.
    match pool.op(root) {
        Op::Int(_) | Op::Var(_) => node(pool, root, env, &|_| Range::ALL),
        _ => ranges(pool, &[root], env)[&root],
    }
}

/// The range of every node below `roots`; [`Range::ALL`] where nothing is known and for nodes that are not ints.
pub fn ranges(pool: &Pool, roots: &[ExprId], env: &dyn RangeEnv) -> FxHashMap<ExprId, Range> {
    let mut known: FxHashMap<ExprId, Range> = FxHashMap::default();
    for id in pool.reachable(roots) {
        let r = node(pool, id, env, &|x| known[&x]);
        known.insert(id, r);
    }
    known
}

/// The range of one node from those of its operands.
pub fn node(pool: &Pool, id: ExprId, env: &dyn RangeEnv, known: &dyn Fn(ExprId) -> Range) -> Range {
    match pool.op(id) {
        Op::Int(x) => Range::point(*x),
        Op::Var(v) => env.var(*v),
        Op::Load(t, _, _) => env.tensor(*t),
        Op::Unary(UnaryOp::Neg, x) => {
            let x = known(*x);
            Range::of(&[x.lo.checked_neg(), x.hi.checked_neg()])
        }
        Op::Unary(UnaryOp::Abs, x) => abs(known(*x)),
        Op::Binary(op, a, b) => binary(*op, known(*a), known(*b)),
        Op::Select(_, a, b) => known(*a).union(known(*b)),
        _ => Range::ALL,
    }
}

fn abs(x: Range) -> Range {
    match (x.lo.checked_abs(), x.hi.checked_abs()) {
        (Some(a), Some(b)) if x.lo <= 0 && x.hi >= 0 => Range { lo: 0, hi: a.max(b) },
        (Some(a), Some(b)) => Range { lo: a.min(b), hi: a.max(b) },
        _ => Range::ALL,
    }
}

fn binary(op: BinaryOp, a: Range, b: Range) -> Range {
    use BinaryOp::*;
    let corners = |f: &dyn Fn(i64, i64) -> Option<i64>| {
        Range::of(&[f(a.lo, b.lo), f(a.lo, b.hi), f(a.hi, b.lo), f(a.hi, b.hi)])
    };
    match op {
        Add => corners(&i64::checked_add),
        Sub => corners(&i64::checked_sub),
        Mul => corners(&i64::checked_mul),
        Min => Range { lo: a.lo.min(b.lo), hi: a.hi.min(b.hi) },
        Max => Range { lo: a.lo.max(b.lo), hi: a.hi.max(b.hi) },
        IDiv if b.lo > 0 => corners(&|x, y| Some(floor_div(x, y))),
        Mod if b.lo > 0 => {
            let same_quotient = b.lo == b.hi && floor_div(a.lo, b.lo) == floor_div(a.hi, b.lo);
            if same_quotient {
                // The base may lie below every i64; the remainders do not.
                let base = floor_div(a.lo, b.lo).wrapping_mul(b.lo);
                Range { lo: a.lo.wrapping_sub(base), hi: a.hi.wrapping_sub(base) }
            } else {
                Range { lo: 0, hi: b.hi - 1 }
            }
        }
        _ => Range::ALL,
    }
}
