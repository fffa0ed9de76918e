//! From normal form to expressions: whether a tile can hold a pair, and the hulls of its keys and queries.
//!
//! Comes in: a node of [`Normal`]. Goes out: bool and int nodes over the corners. A node is opened into
//! conjunctions while they are few; beyond that `or` is the union of its parts (exact) and `and` the
//! intersection of what groups of its parts allow (sound).

use std::collections::HashMap;

use super::forms::Forms;
use super::normal::{Conj, Lit, Node, NodeId, Normal};
use super::solve;
use super::zone::{Range, Zone, sums};
use crate::expr::{BinaryOp, ExprId, Op, Pool, Ty, UnaryOp};

/// Largest number of conjunctions that a disjunctive form may have; larger masks are judged part by part.
const MAX_CONJUNCTIONS: usize = 64;

/// Turns nodes of one [`Normal`] into expressions.
pub(super) struct Parts<'a, 'f> {
    pub f: &'a mut Forms<'f>,
    pub normal: &'a mut Normal,
    judged: HashMap<NodeId, ExprId>,
    solved: HashMap<Conj, Vec<ExprId>>,
}

impl<'a, 'f> Parts<'a, 'f> {
    pub fn new(f: &'a mut Forms<'f>, normal: &'a mut Normal) -> Self {
        Parts { f, normal, judged: HashMap::new(), solved: HashMap::new() }
    }

    /// True if some pair of the box can satisfy the node.
    pub fn may(&mut self, node: NodeId) -> ExprId {
        if let Some(&known) = self.judged.get(&node) {
            return known;
        }
        let made = match (self.normal.nodes[node as usize].clone(), self.dnf(node)) {
            (Node::Choice(c, a, b), _) => {
                let (a, b) = (self.may(a), self.may(b));
                choose(self.f.pool, c, a, b)
            }
            (_, Some(conjs)) => self.any_of(&conjs),
            (Node::And(items), None) => self.in_groups(items),
            (Node::Or(items), None) => {
                let parts: Vec<_> = items.into_iter().map(|x| self.may(x)).collect();
                parts.into_iter().fold(self.f.pool.bool(false), |any, x| self.f.pool.or(any, x))
            }
            _ => self.f.pool.bool(true),
        };
        self.judged.insert(node, made);
        made
    }

    fn dnf(&mut self, node: NodeId) -> Option<Vec<Conj>> {
        self.normal.dnf(node, MAX_CONJUNCTIONS)
    }

    /// A conjunction too large to open: its parts joined in groups that stay small.
    fn in_groups(&mut self, items: Vec<NodeId>) -> ExprId {
        let mut all = self.f.pool.bool(true);
        let mut opened: Vec<Vec<Conj>> = Vec::new();
        for item in items {
            match self.dnf(item) {
                Some(conjs) => opened.push(conjs),
                None => {
                    let part = self.may(item);
                    all = self.f.pool.and(all, part);
                }
            }
        }
        // Smallest first: what is a single conjunction sharpens every group.
        opened.sort_by_key(Vec::len);
        let n_single = opened.iter().take_while(|c| c.len() == 1).count();
        let joined = |normal: &Normal, a: &[Conj], b: &[Conj]| normal.product(a, b, MAX_CONJUNCTIONS);
        let base = opened[..n_single]
            .iter()
            .try_fold(vec![vec![]], |acc, c| joined(self.normal, &acc, c))
            .unwrap_or_else(|| vec![vec![]]);
        let mut group = base.clone();
        for conjs in &opened[n_single..] {
            match joined(self.normal, &group, conjs) {
                Some(larger) => group = larger,
                None => {
                    let part = self.any_of(&group);
                    all = self.f.pool.and(all, part);
                    group = joined(self.normal, &base, conjs).unwrap_or_else(|| conjs.clone());
                }
            }
        }
        let part = self.any_of(&group);
        self.f.pool.and(all, part)
    }

    fn any_of(&mut self, conjs: &[Conj]) -> ExprId {
        let mut any = self.f.pool.bool(false);
        for conj in conjs {
            let conditions = self.conditions(conj);
            let here = all_of(self.f.pool, &conditions);
            any = self.f.pool.or(any, here);
        }
        any
    }

    fn lits(&self, conj: &Conj) -> Vec<Lit> {
        conj.iter().map(|&x| self.normal.lits[x as usize].clone()).collect()
    }

    fn conditions(&mut self, conj: &Conj) -> Vec<ExprId> {
        if let Some(known) = self.solved.get(conj) {
            return known.clone();
        }
        let made = solve::conditions(self.f, &self.lits(conj));
        self.solved.insert(conj.clone(), made.clone());
        made
    }

    /// Hulls of the keys and of the queries of the pairs that satisfy the node, within the box; the whole box
    /// (or nothing) for a node of too many conjunctions.
    pub fn hulls(&mut self, node: NodeId) -> (Hull, Hull) {
        let [i_lo, i_hi, j_lo, j_hi] = self.f.corners.0;
        let Some(conjs) = self.dnf(node) else {
            let may = self.may(node);
            let keys = guarded(self.f.pool, may, (j_lo, j_hi), (j_lo, j_hi));
            return (keys, guarded(self.f.pool, may, (i_lo, i_hi), (i_lo, i_hi)));
        };
        let mut parts = Vec::new();
        for conj in &conjs {
            let conditions = self.conditions(conj);
            if !conditions.iter().any(|&c| self.f.pool.as_bool(c) == Some(false)) {
                parts.push((conditions, solve::bounds_of(self.f, &self.lits(conj))));
            }
        }
        let keys = self.union(&parts, (j_lo, j_hi), |zone| &zone.y);
        (keys, self.union(&parts, (i_lo, i_hi), |zone| &zone.x))
    }

    fn union(&mut self, parts: &[(Vec<ExprId>, Zone)], whole: Hull, of: fn(&Zone) -> &Range) -> Hull {
        let f = &mut *self.f;
        let mut all: Option<Hull> = None;
        for (conditions, zone) in parts {
            let range = of(zone);
            let lo = f.collapse(&range.lo, Pool::max).and_then(|x| f.node(&x)).unwrap_or(whole.0);
            let hi = f.collapse(&range.hi, Pool::min).and_then(|x| f.node(&x)).unwrap_or(whole.1);
            let mut asked = conditions.clone();
            if parts.len() == 1 {
                // Conditions that say no more than `lo <= hi` need not be asked again.
                let implied: Vec<_> = sums(&range.lo, &range.hi, -1).iter().map(|gap| f.le0(gap)).collect();
                asked.retain(|c| !implied.contains(c));
            }
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
}

/// Inclusive bounds of something; `lo > hi` where it is empty.
pub(super) type Hull = (ExprId, ExprId);

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

/// The hull where `cond` holds, and an empty one beside the box where not.
fn guarded(pool: &mut Pool, cond: ExprId, hull: Hull, whole: Hull) -> Hull {
    let (after, before) = (pool.add_int(whole.1, 1), pool.add_int(whole.0, -1));
    (pool.select(cond, hull.0, after), pool.select(cond, hull.1, before))
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
