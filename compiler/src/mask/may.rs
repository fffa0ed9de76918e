//! From normal form to expressions: whether a tile can hold a pair, and the hulls of its keys and queries.
//!
//! Comes in: a node of [`Normal`]. Goes out: bool and int nodes over the corners. A node is opened into
//! conjunctions while they are few; beyond that `or` is the union of its parts (exact) and `and` the
//! intersection of what groups of its parts allow (sound).

use std::collections::HashMap;

use super::MAX_CONJUNCTIONS;
use super::forms::Forms;
use super::normal::{Conj, Node, NodeId, Normal};
use super::solve::{Solved, solve};
use crate::expr::{BinaryOp, ExprId, Op, Pool, Ty, UnaryOp};

/// True if some pair of the box can satisfy the node.
pub(super) fn may(f: &mut Forms, normal: &mut Normal, node: NodeId) -> ExprId {
    may_part(f, normal, node, &mut HashMap::new())
}

fn may_part(f: &mut Forms, normal: &mut Normal, node: NodeId, done: &mut HashMap<NodeId, ExprId>) -> ExprId {
    if let Some(&known) = done.get(&node) {
        return known;
    }
    let made = match normal.nodes[node as usize].clone() {
        Node::Choice(c, a, b) => {
            let (a, b) = (may_part(f, normal, a, done), may_part(f, normal, b, done));
            choose(f.pool, c, a, b)
        }
        Node::Or(items) if normal.dnf(node, MAX_CONJUNCTIONS).is_none() => {
            let parts: Vec<_> = items.into_iter().map(|x| may_part(f, normal, x, done)).collect();
            parts.into_iter().fold(f.pool.bool(false), |any, x| f.pool.or(any, x))
        }
        Node::And(items) => match normal.dnf(node, MAX_CONJUNCTIONS) {
            Some(conjs) => any_of(f, normal, &conjs),
            None => in_groups(f, normal, items, done),
        },
        _ => {
            let conjs = normal.dnf(node, MAX_CONJUNCTIONS).unwrap_or_else(|| vec![vec![]]);
            any_of(f, normal, &conjs)
        }
    };
    done.insert(node, made);
    made
}

/// `c ? a : b` with the constant cases as `and` and `or`.
fn choose(pool: &mut Pool, c: ExprId, a: ExprId, b: ExprId) -> ExprId {
    let not = pool.not(c);
    match (pool.as_bool(a), pool.as_bool(b)) {
        (Some(true), _) => pool.or(c, b),
        (Some(false), _) => pool.and(not, b),
        (_, Some(true)) => pool.or(not, a),
        (_, Some(false)) => pool.and(c, a),
        _ => pool.select(c, a, b),
    }
}

/// A conjunction too large to open: its parts joined in groups that stay small.
fn in_groups(
    f: &mut Forms,
    normal: &mut Normal,
    items: Vec<NodeId>,
    done: &mut HashMap<NodeId, ExprId>,
) -> ExprId {
    let mut all = f.pool.bool(true);
    let mut opened: Vec<Vec<Conj>> = Vec::new();
    for item in items {
        match normal.dnf(item, MAX_CONJUNCTIONS) {
            Some(conjs) => opened.push(conjs),
            None => {
                let part = may_part(f, normal, item, done);
                all = f.pool.and(all, part);
            }
        }
    }
    // Smallest first, so that single atoms sharpen as many parts as possible.
    opened.sort_by_key(Vec::len);
    let singles = opened.iter().take_while(|c| c.len() == 1).count();
    let base = opened[..singles]
        .iter()
        .try_fold(vec![vec![]], |acc, c| normal.product(&acc, c, MAX_CONJUNCTIONS))
        .unwrap_or_else(|| vec![vec![]]);
    let mut group = base.clone();
    for conjs in &opened[singles..] {
        match normal.product(&group, conjs, MAX_CONJUNCTIONS) {
            Some(joined) => group = joined,
            None => {
                let part = any_of(f, normal, &group);
                all = f.pool.and(all, part);
                group = normal.product(&base, conjs, MAX_CONJUNCTIONS).unwrap_or_else(|| conjs.clone());
            }
        }
    }
    let part = any_of(f, normal, &group);
    f.pool.and(all, part)
}

fn any_of(f: &mut Forms, normal: &Normal, conjs: &[Conj]) -> ExprId {
    let mut any = f.pool.bool(false);
    for conj in conjs {
        let solved = solved(f, normal, conj, false);
        let here = all_of(f.pool, &solved.conditions);
        any = f.pool.or(any, here);
    }
    any
}

fn solved(f: &mut Forms, normal: &Normal, conj: &Conj, tight: bool) -> Solved {
    let lits: Vec<_> = conj.iter().map(|&x| normal.lits[x as usize].clone()).collect();
    solve(f, &lits, tight)
}

fn all_of(pool: &mut Pool, conditions: &[ExprId]) -> ExprId {
    conditions.iter().fold(pool.bool(true), |all, &c| pool.and(all, c))
}

/// `!x` with the negation pushed to the comparisons of ints.
pub(super) fn negated(pool: &mut Pool, x: ExprId) -> ExprId {
    match *pool.op(x) {
        Op::Bool(b) => pool.bool(!b),
        Op::Unary(UnaryOp::Not, y) => y,
        Op::Binary(op @ (BinaryOp::And | BinaryOp::Or), a, b) => {
            let (a, b) = (negated(pool, a), negated(pool, b));
            if op == BinaryOp::And { pool.or(a, b) } else { pool.and(a, b) }
        }
        Op::Binary(op, a, b) if pool.ty(a) == Ty::Int => match op {
            BinaryOp::Lt => pool.le(b, a),
            BinaryOp::Le => pool.lt(b, a),
            BinaryOp::Eq => pool.ne(a, b),
            BinaryOp::Ne => pool.eq(a, b),
            _ => pool.not(x),
        },
        Op::Select(c, a, b) => {
            let (a, b) = (negated(pool, a), negated(pool, b));
            choose(pool, c, a, b)
        }
        _ => pool.not(x),
    }
}

/// Inclusive bounds of something; `lo > hi` where it is empty.
type Hull = (ExprId, ExprId);

/// Hulls of the keys and of the queries of the pairs that satisfy the node, within the box.
pub(super) fn hulls(f: &mut Forms, normal: &mut Normal, node: NodeId, may: ExprId) -> (Hull, Hull) {
    let [i_lo, i_hi, j_lo, j_hi] = f.corners.0;
    let Some(conjs) = normal.dnf(node, MAX_CONJUNCTIONS) else {
        // Too many conjunctions: the whole box, or nothing.
        let keys = guarded(f.pool, may, (j_lo, j_hi), (j_lo, j_hi));
        return (keys, guarded(f.pool, may, (i_lo, i_hi), (i_lo, i_hi)));
    };
    let parts: Vec<Solved> = conjs.iter().map(|c| solved(f, normal, c, true)).collect();
    let keys = union(f, &parts, (j_lo, j_hi), |s| &s.zone.y);
    let queries = union(f, &parts, (i_lo, i_hi), |s| &s.zone.x);
    (keys, queries)
}

/// The hull where `cond` holds, and an empty one beside the box where not.
fn guarded(pool: &mut Pool, cond: ExprId, hull: Hull, whole: Hull) -> Hull {
    let (after, before) = (pool.add_int(whole.1, 1), pool.add_int(whole.0, -1));
    (pool.select(cond, hull.0, after), pool.select(cond, hull.1, before))
}

fn union(f: &mut Forms, parts: &[Solved], whole: Hull, of: impl Fn(&Solved) -> &super::zone::Range) -> Hull {
    let mut all: Option<Hull> = None;
    for part in parts {
        let range = of(part);
        let lo = f.collapse(&range.lo, Pool::max).and_then(|x| f.node(&x)).unwrap_or(whole.0);
        let hi = f.collapse(&range.hi, Pool::min).and_then(|x| f.node(&x)).unwrap_or(whole.1);
        // Conditions that say no more than `lo <= hi` need not be asked again.
        let mut implied = Vec::new();
        for gap in super::zone::sums(&range.lo, &range.hi, -1) {
            implied.push(f.le0(&gap));
        }
        let single = parts.len() == 1;
        let asked: Vec<_> =
            part.conditions.iter().copied().filter(|c| !(single && implied.contains(c))).collect();
        let cond = all_of(f.pool, &asked);
        let here = guarded(f.pool, cond, (lo, hi), whole);
        all = Some(match all {
            None => here,
            Some((l, h)) => (f.pool.min(l, here.0), f.pool.max(h, here.1)),
        });
    }
    all.unwrap_or_else(|| {
        let never = f.pool.bool(false);
        guarded(f.pool, never, whole, whole)
    })
}
