//! Bounds of int forms over a zone: what a term can be, at most, anywhere in a tile.
//!
//! Comes in: a form and a closed zone. Goes out: lists of lower and upper bounds that read neither i nor j, and
//! a condition under which they hold. Quotients and sorted tables are monotone, so their bounds stand at the
//! ends of their argument's; every index is clamped into the tensor, so a bound may be evaluated where the
//! element is guarded. Elements of other tensors are bounded where the tile meets at most two of them per dim.

use std::collections::HashSet;

use super::TensorFacts;
use super::forms::{Forms, Join};
use super::lin::Lin;
use super::zone::{Range, Zone, sums};
use crate::attn_ir::Fact;
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, UnaryOp};

/// Bounds of a quantity; an empty list: none is known.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub lo: Vec<Lin>,
    pub hi: Vec<Lin>,
    /// Bool node under which the bounds hold.
    pub known: ExprId,
}

impl Bounds {
    fn exact(f: &mut Forms, x: Lin) -> Bounds {
        Bounds { lo: vec![x.clone()], hi: vec![x], known: f.pool.bool(true) }
    }

    fn unknown(f: &mut Forms) -> Bounds {
        Bounds { lo: vec![], hi: vec![], known: f.pool.bool(true) }
    }

    fn known_if(mut self, f: &mut Forms, cond: ExprId) -> Bounds {
        self.known = f.pool.and(self.known, cond);
        self
    }
}

/// Bounds of a form; the zone is closed.
pub(super) fn of(f: &mut Forms, zone: &Zone, lin: &Lin) -> Bounds {
    let (varying, rest) = f.split(lin);
    let (a, b) = (lin.coef(f.i), lin.coef(f.j));
    let mut out = Bounds::exact(f, rest);
    if a != 0 || b != 0 {
        let lo = zone.least(a, b);
        let hi = zone.least(-a, -b).iter().map(|x| x.scale(-1)).collect();
        let known = out.known;
        out = sum(f, out, &Bounds { lo, hi, known }, 1);
    }
    for (term, k) in varying {
        if term != f.i && term != f.j {
            let of_term = of_term(f, zone, term);
            out = sum(f, out, &of_term, k);
        }
    }
    out
}

/// `a + k * b`
fn sum(f: &mut Forms, a: Bounds, b: &Bounds, k: i128) -> Bounds {
    let (lo, hi) = if k > 0 { (&b.lo, &b.hi) } else { (&b.hi, &b.lo) };
    let mut range = Range::default();
    range.join(f, Range { lo: sums(&a.lo, lo, k), hi: sums(&a.hi, hi, k) });
    Bounds { lo: range.lo, hi: range.hi, known: a.known }.known_if(f, b.known)
}

/// The ends of a form as one bound each; `None` where one is not known.
pub(super) fn ends(f: &mut Forms, zone: &Zone, lin: &Lin) -> Option<(Lin, Lin, ExprId)> {
    let b = of(f, zone, lin);
    let (lo, hi) = (f.collapse(&b.lo, Pool::max)?, f.collapse(&b.hi, Pool::min)?);
    (!lo.is_wild() && !hi.is_wild()).then_some((lo, hi, b.known))
}

fn of_term(f: &mut Forms, zone: &Zone, term: ExprId) -> Bounds {
    match f.pool.op(term).clone() {
        Op::Binary(BinaryOp::IDiv, x, by) if f.uniform(by) => {
            let (x, by) = (f.lin(x), f.lin(by));
            let inner = of(f, zone, &x);
            let mut map = |list: &[Lin]| list.iter().map(|x| f.div(x, &by)).collect();
            Bounds { lo: map(&inner.lo), hi: map(&inner.hi), known: inner.known }
        }
        Op::Binary(BinaryOp::Mod, x, by) if f.uniform(by) => modulo(f, zone, x, by),
        Op::Binary(op @ (BinaryOp::Mul | BinaryOp::Min | BinaryOp::Max), a, b) => two(f, zone, op, a, b),
        Op::Unary(UnaryOp::Abs, x) => {
            let x = f.lin(x);
            let negated = x.scale(-1);
            corner_values(f, zone, &[x, negated], |pool, [a, b]| pool.max(a, b))
        }
        Op::Select(_, a, b) => {
            let (a, b) = (f.lin(a), f.lin(b));
            let (a, b) = (of(f, zone, &a), of(f, zone, &b));
            let mut either = |x: &[Lin], y: &[Lin], inner: Join, outer: Join| {
                let (x, y) = (f.collapse(x, inner), f.collapse(y, inner));
                x.zip(y).map(|(x, y)| f.combine(&x, &y, outer)).into_iter().collect::<Vec<_>>()
            };
            let lo = either(&a.lo, &b.lo, Pool::max, Pool::min);
            let hi = either(&a.hi, &b.hi, Pool::min, Pool::max);
            Bounds { lo, hi, known: a.known }.known_if(f, b.known)
        }
        Op::Load(t, index, Ty::Int) => load(f, zone, t, &index),
        _ => Bounds::unknown(f),
    }
}

fn modulo(f: &mut Forms, zone: &Zone, x: ExprId, by: ExprId) -> Bounds {
    let (x, by) = (f.lin(x), f.lin(by));
    let Some((lo, hi, known)) = ends(f, zone, &x) else {
        let hi = vec![by.add_int(-1)];
        return Bounds { lo: vec![Lin::int(0)], hi, known: f.pool.bool(true) };
    };
    let (q_lo, q_hi) = (f.div(&lo, &by), f.div(&hi, &by));
    let (m_lo, m_hi) = (f.modulo(&lo, &by), f.modulo(&hi, &by));
    let (Some(q_lo), Some(q_hi)) = (f.node(&q_lo), f.node(&q_hi)) else { return Bounds::unknown(f) };
    let same = f.pool.eq(q_lo, q_hi);
    let (Some(m_lo), Some(m_hi), Some(by)) = (f.node(&m_lo), f.node(&m_hi), f.node(&by)) else {
        return Bounds::unknown(f);
    };
    let (zero, last) = (f.pool.int(0), f.pool.add_int(by, -1));
    let (lo, hi) = (f.pool.select(same, m_lo, zero), f.pool.select(same, m_hi, last));
    Bounds { lo: vec![f.lin(lo)], hi: vec![f.lin(hi)], known }
}

fn two(f: &mut Forms, zone: &Zone, op: BinaryOp, a: ExprId, b: ExprId) -> Bounds {
    let (a, b) = (f.lin(a), f.lin(b));
    let (Some((a_lo, a_hi, a_known)), Some((b_lo, b_hi, b_known))) = (ends(f, zone, &a), ends(f, zone, &b))
    else {
        return Bounds::unknown(f);
    };
    let make = |f: &mut Forms, x: &Lin, y: &Lin| {
        let (x, y) = (f.node(x)?, f.node(y)?);
        Some(f.pool.binary(op, x, y))
    };
    let pairs = [(&a_lo, &b_lo), (&a_lo, &b_hi), (&a_hi, &b_lo), (&a_hi, &b_hi)];
    let Some(corners) = pairs.into_iter().map(|(x, y)| make(f, x, y)).collect::<Option<Vec<_>>>() else {
        return Bounds::unknown(f);
    };
    let (lo, hi) =
        if op == BinaryOp::Mul { hull(f, &corners) } else { (Lin::node(corners[0]), Lin::node(corners[3])) };
    let known = f.pool.and(a_known, b_known);
    Bounds { lo: vec![lo], hi: vec![hi], known }
}

/// Smallest and largest of some nodes.
fn hull(f: &mut Forms, nodes: &[ExprId]) -> (Lin, Lin) {
    let mut distinct = nodes.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let lo = distinct.iter().copied().reduce(|x, y| f.pool.min(x, y));
    let hi = distinct.iter().copied().reduce(|x, y| f.pool.max(x, y));
    let form = |f: &mut Forms, x: Option<ExprId>| x.map_or(Lin::int(i128::MAX), |x| f.lin(x));
    (form(f, lo), form(f, hi))
}

/// `|x|` from the ends of `x` and `-x`.
fn corner_values(
    f: &mut Forms,
    zone: &Zone,
    [x, negated]: &[Lin; 2],
    larger: impl Fn(&mut Pool, [ExprId; 2]) -> ExprId,
) -> Bounds {
    let (Some((lo, hi, known)), Some((n_lo, n_hi, _))) = (ends(f, zone, x), ends(f, zone, negated)) else {
        return Bounds::unknown(f);
    };
    let (Some(lo), Some(hi), Some(n_lo), Some(n_hi)) =
        (f.node(&lo), f.node(&hi), f.node(&n_lo), f.node(&n_hi))
    else {
        return Bounds::unknown(f);
    };
    let least = larger(f.pool, [lo, n_lo]);
    let zero = f.pool.int(0);
    let (least, most) = (f.pool.max(least, zero), larger(f.pool, [hi, n_hi]));
    Bounds { lo: vec![f.lin(least)], hi: vec![f.lin(most)], known }
}

/// `x` brought into `0..n`.
fn clamp(pool: &mut Pool, x: ExprId, n: ExprId) -> ExprId {
    if let (Some(x_at), Some(n)) = (pool.as_int(x), pool.as_int(n))
        && (0..n).contains(&x_at)
    {
        return x;
    }
    let (last, zero) = (pool.add_int(n, -1), pool.int(0));
    let below = pool.min(x, last);
    pool.max(below, zero)
}

/// The mask with the indices of loads that read neither i nor j clamped: a condition built from it may be
/// evaluated where the mask would not have got to the load.
pub(super) fn guard_uniform_loads(f: &mut Forms, mask: ExprId) -> ExprId {
    let nodes = f.pool.reachable(&[mask]);
    let uniform: HashSet<ExprId> = nodes.into_iter().filter(|&id| f.uniform(id)).collect();
    guard(f.pool, mask, &uniform, f.facts.tensors)
}

fn guard(
    pool: &mut Pool,
    root: ExprId,
    uniform: &HashSet<ExprId>,
    tensors: &dyn Fn(TensorId) -> TensorFacts,
) -> ExprId {
    pool.rewrite(root, &mut |pool, id| {
        let Op::Load(t, index, ty) = pool.op(id).clone() else { return None };
        if !uniform.contains(&id) {
            return None;
        }
        let shape = tensors(t).shape;
        let at = index.iter().zip(&shape).map(|(&x, &n)| {
            let x = guard(pool, x, uniform, tensors);
            clamp(pool, x, n)
        });
        let at = at.collect();
        Some(pool.load(t, at, ty))
    })
}

/// The elements of a load that a tile can meet: for each index its ends, clamped.
struct Elements {
    /// First and last index of each dim.
    ends: Vec<[ExprId; 2]>,
    /// The index forms' own conditions.
    known: ExprId,
}

fn elements(f: &mut Forms, zone: &Zone, tensor: TensorId, index: &[ExprId]) -> Option<Elements> {
    let shape = f.tensor(tensor).shape;
    let mut out = Elements { ends: vec![], known: f.pool.bool(true) };
    for (&x, &n) in index.iter().zip(&shape) {
        let lin = f.lin(x);
        let (lo, hi, known) = ends(f, zone, &lin)?;
        let (lo, hi) = (f.node(&lo)?, f.node(&hi)?);
        out.ends.push([clamp(f.pool, lo, n), clamp(f.pool, hi, n)]);
        out.known = f.pool.and(out.known, known);
    }
    (out.ends.len() == index.len()).then_some(out)
}

/// Every element that the tile can meet, where each index takes at most two values, and the condition for that.
pub(super) fn corner_elements(
    f: &mut Forms,
    zone: &Zone,
    tensor: TensorId,
    index: &[ExprId],
    ty: Ty,
) -> Option<(Vec<ExprId>, ExprId)> {
    let Elements { ends, known } = elements(f, zone, tensor, index)?;
    let (corners, narrow) = corners(f, &ends);
    let known = f.pool.and(known, narrow);
    Some((corners.into_iter().map(|at| f.pool.load(tensor, at, ty)).collect(), known))
}

/// Every choice of one of two ends in each place, and the condition that nothing lies between the ends. Where
/// more than two places vary, only the first ends, and the condition that they are the only ones.
fn corners(f: &mut Forms, ends: &[[ExprId; 2]]) -> (Vec<Vec<ExprId>>, ExprId) {
    let n_varying = ends.iter().filter(|[lo, hi]| lo != hi).count();
    let span = i128::from(n_varying <= 2);
    let mut known = f.pool.bool(true);
    let mut corners: Vec<Vec<ExprId>> = vec![vec![]];
    for &[lo, hi] in ends {
        let gap = f.lin(hi).sub(&f.lin(lo)).add_int(-span);
        let narrow = f.le0(&gap);
        known = f.pool.and(known, narrow);
        let choices = if lo == hi || span == 0 { vec![lo] } else { vec![lo, hi] };
        corners = corners
            .iter()
            .flat_map(|c| choices.iter().map(move |&x| c.iter().copied().chain([x]).collect()))
            .collect();
    }
    (corners, known)
}

/// `rand_block` for every choice of operands that the tile can meet, and the condition under which these are all.
pub(super) fn random(f: &mut Forms, zone: &Zone, args: &[ExprId; 6]) -> Option<(Vec<ExprId>, ExprId)> {
    let mut known = f.pool.bool(true);
    let mut operands = Vec::new();
    for &x in args {
        let lin = f.lin(x);
        let (lo, hi, holds) = ends(f, zone, &lin)?;
        known = f.pool.and(known, holds);
        operands.push([f.node(&lo)?, f.node(&hi)?]);
    }
    let (corners, narrow) = corners(f, &operands);
    let known = f.pool.and(known, narrow);
    let nodes = corners.iter().map(|at| f.pool.rand_block(std::array::from_fn(|k| at[k]))).collect();
    Some((nodes, known))
}

fn load(f: &mut Forms, zone: &Zone, tensor: TensorId, index: &[ExprId]) -> Bounds {
    let fact = f.tensor(tensor).fact;
    let leading_uniform = index.split_last().is_some_and(|(_, rest)| rest.iter().all(|&x| f.uniform(x)));
    if fact == Fact::None || !leading_uniform {
        let Some((nodes, known)) = corner_elements(f, zone, tensor, index, Ty::Int) else {
            return Bounds::unknown(f);
        };
        let (lo, hi) = hull(f, &nodes);
        return Bounds { lo: vec![lo], hi: vec![hi], known };
    }
    let Some(Elements { ends, known }) = elements(f, zone, tensor, index) else { return Bounds::unknown(f) };
    let [first, last] = [0, 1].map(|side| {
        let at = ends.iter().map(|e| e[side]).collect();
        f.pool.load(tensor, at, Ty::Int)
    });
    let (lo, hi) =
        if fact == Fact::Sorted { (Lin::node(first), Lin::node(last)) } else { hull(f, &[first, last]) };
    Bounds { lo: vec![lo], hi: vec![hi], known }
}
