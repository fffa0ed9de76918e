//! What is known of indices where they are used, so that no code checks it again.
//!
//! Comes in: bounds of variables as loops and the grid bind them, the values of variables that statements define. Goes
//! out: proofs that an index lies in a dim, that a tensor has elements, that neighbours lie side by side. What holds: a
//! tensor's sizes are the values of its shape (binding refuses others), and a task runs only where no side of the grid is
//! empty, so what is proved of expressions holds of the words that the code would compare. Nothing is proved of an index
//! that depends on memory: bounds of what a table holds say nothing of an empty one, and others may write what is read.
//! Not here: the checks that remain (`load.rs`, `vload.rs`).

use rustc_hash::{FxHashMap, FxHashSet};

use crate::expr::range::Range;
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, VarId};
use crate::tile_ir::TensorKind;

use super::emitter::Emitter;

/// Steps of a proof, so that none runs along a chain of definitions for long.
const MOST_STEPS: usize = 16;

/// What was bound.
#[derive(Clone, Default)]
pub(super) struct Facts {
    /// Variables that are at least 0 and below the value of an expression.
    below: FxHashMap<VarId, ExprId>,
    /// Values of variables.
    values: FxHashMap<VarId, ExprId>,
    /// Variables that lengths and parameters alone decide, and places in loops over such.
    pure: FxHashSet<VarId>,
    /// Sides of the grid, which are not empty.
    sides: Vec<ExprId>,
}

impl Facts {
    /// Nothing is known of `var` from here on.
    pub fn forget(&mut self, var: VarId) {
        self.below.remove(&var);
        self.values.remove(&var);
        self.pure.remove(&var);
    }
}

/// The value of a count where it is not 0: that of `cond ? n : 0` is n.
fn where_some(pool: &Pool, count: ExprId) -> ExprId {
    let is_none = |e: ExprId| pool.as_int(e) == Some(0);
    match *pool.op(count) {
        Op::Select(_, n, none) if is_none(none) => n,
        Op::Select(_, none, n) if is_none(none) => n,
        _ => count,
    }
}

impl Emitter<'_, '_> {
    /// `var` counts from 0 and stays below `end`.
    pub fn note_below(&mut self, var: VarId, end: ExprId) {
        let end = where_some(self.pool(), end);
        self.facts.below.insert(var, end);
        self.facts.pure.insert(var);
    }

    /// `var` counts from `first` and stays below `end`.
    pub fn note_between(&mut self, var: VarId, first: ExprId, end: ExprId) {
        self.facts.below.insert(var, end);
        if self.is_pure(first) {
            self.facts.pure.insert(var);
        }
    }

    /// `var` stands for `value`.
    pub fn note_value(&mut self, var: VarId, value: ExprId) {
        if self.is_pure(value) {
            self.facts.values.insert(var, value);
            self.facts.pure.insert(var);
        }
    }

    /// The grid has a side of `extent`.
    pub fn note_side(&mut self, extent: ExprId) {
        let extent = where_some(self.pool(), extent);
        self.facts.sides.push(extent);
    }

    /// Is `index` proved to lie in a dim of a tensor?
    pub fn lies_in(&self, index: ExprId, t: TensorId, dim: usize) -> bool {
        let Some(&size) = self.tensor(t).ok().and_then(|decl| decl.shape.get(dim)) else { return false };
        let Range { lo, hi } = self.range(index);
        lo >= 0
            && (self.pool().as_int(size).is_some_and(|size| hi < size)
                || self.is_below(index, size, MOST_STEPS))
            && self.is_pure(index)
    }

    /// Does an expression depend on lengths, parameters and pure variables alone?
    fn is_pure(&self, id: ExprId) -> bool {
        let given = |v: VarId| self.program.dims.iter().chain(&self.program.params).any(|a| a.var == v);
        self.pool().reachable(&[id]).iter().all(|&node| match *self.pool().op(node) {
            Op::Var(v) => self.facts.pure.contains(&v) || given(v),
            Op::Load(..) | Op::RandBlock(..) => false,
            _ => true,
        })
    }

    /// Is a tensor proved to have elements?
    pub fn has_elements(&self, t: TensorId) -> bool {
        self.tensor(t).is_ok_and(|decl| decl.shape.iter().all(|&size| self.is_positive(size)))
    }

    /// Are neighbours along the last dim proved to lie side by side? Memory of ours is laid out so.
    pub fn is_dense(&self, t: TensorId, dim: usize) -> bool {
        self.tensor(t).is_ok_and(|decl| {
            matches!(decl.kind, TensorKind::Workspace | TensorKind::Table { .. })
                && dim + 1 == decl.shape.len()
        })
    }

    fn is_positive(&self, size: ExprId) -> bool {
        let pool = self.pool();
        let pieces = |side: ExprId| match *pool.op(side) {
            // ceil(size / n)
            Op::Binary(BinaryOp::IDiv, up, n) => match (pool.op(up), pool.as_int(n)) {
                (&Op::Binary(BinaryOp::Add, a, b), Some(n)) => {
                    (a == size && pool.as_int(b) == Some(n - 1))
                        || (b == size && pool.as_int(a) == Some(n - 1))
                }
                _ => false,
            },
            _ => false,
        };
        self.range(size).lo > 0 || self.facts.sides.iter().any(|&side| side == size || pieces(side))
    }

    /// `x < size`, of an `x` that is not negative.
    fn is_below(&self, x: ExprId, size: ExprId, steps: usize) -> bool {
        let Some(steps) = steps.checked_sub(1) else { return false };
        match *self.pool().op(x) {
            Op::Var(v) => match (self.facts.values.get(&v), self.facts.below.get(&v)) {
                (Some(&value), _) => self.is_below(value, size, steps),
                (None, Some(&end)) => self.is_at_most(end, steps, &|pool, e| self.same(pool, e, size)),
                (None, None) => false,
            },
            Op::Binary(BinaryOp::Add, a, b) => {
                self.sum_is_below((a, b), size, steps) || self.sum_is_below((b, a), size, steps)
            }
            Op::Binary(BinaryOp::Min, a, b) => self.is_below(a, size, steps) || self.is_below(b, size, steps),
            _ => false,
        }
    }

    /// `first + by < size`: `by` stays below `size - first`.
    fn sum_is_below(&self, (first, by): (ExprId, ExprId), size: ExprId, steps: usize) -> bool {
        let Op::Var(v) = *self.pool().op(by) else { return false };
        let Some(&end) = self.facts.below.get(&v) else { return false };
        self.is_at_most(end, steps, &|pool, e| match *pool.op(e) {
            Op::Binary(BinaryOp::Sub, all, before) => {
                self.same(pool, all, size) && self.same(pool, before, first)
            }
            _ => false,
        })
    }

    /// Is `e`, where it is above 0, at most something that `fits`?
    fn is_at_most(&self, e: ExprId, steps: usize, fits: &dyn Fn(&Pool, ExprId) -> bool) -> bool {
        let (pool, Some(steps)) = (self.pool(), steps.checked_sub(1)) else { return false };
        if fits(pool, e) {
            return true;
        }
        match *pool.op(e) {
            Op::Var(v) => self.facts.values.get(&v).is_some_and(|&value| self.is_at_most(value, steps, fits)),
            Op::Binary(BinaryOp::Min, a, b) => {
                self.is_at_most(a, steps, fits) || self.is_at_most(b, steps, fits)
            }
            Op::Binary(BinaryOp::Max, a, b) => {
                // The larger of x and 0 is x where it is above 0.
                let none = |e: ExprId| pool.as_int(e).is_some_and(|n| n <= 0);
                (none(a) && self.is_at_most(b, steps, fits)) || (none(b) && self.is_at_most(a, steps, fits))
            }
            _ => false,
        }
    }

    /// The same expression, variables of known value replaced by it.
    fn same(&self, pool: &Pool, a: ExprId, b: ExprId) -> bool {
        let known = |mut e: ExprId| {
            for _ in 0..MOST_STEPS {
                let Op::Var(v) = *pool.op(e) else { break };
                let Some(&value) = self.facts.values.get(&v) else { break };
                e = value;
            }
            e
        };
        a == b || known(a) == known(b)
    }
}
