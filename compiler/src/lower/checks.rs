//! What must be proved when arguments are bound: every index in range, every divisor not zero.
//!
//! Comes in: an attention after tabulation, or a derived tensor. Goes out: one [`BindCheck`] for each indexed dim of an input and each
//! divisor that is not a constant, over the attention's own index variables with their intervals. The runtime
//! proves them by interval arithmetic from the actual lengths, parameters and table contents.

use crate::artifact::{BindCheck, ContentDemand};
use crate::attn_ir::{Attention, Demand, Derive, Weight};
use crate::expr::print::print;
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, VarId};
use crate::tile_ir::{TensorDecl, TensorKind};

use super::guards;

/// Checks, and the interval of each index variable.
#[derive(Clone, Debug)]
pub struct Checks {
    /// In order of first occurrence.
    pub checks: Vec<BindCheck>,
    /// (variable, lowest, highest)
    pub vars: Vec<(VarId, ExprId, ExprId)>,
    /// What contents must fulfil.
    pub demands: Vec<ContentDemand>,
}

impl Checks {
    /// Nothing to be proved.
    pub fn none() -> Checks {
        Checks { checks: Vec::new(), vars: Vec::new(), demands: Vec::new() }
    }

    /// Adds what a kernel demands of the contents of its tensors.
    pub fn add_demands(&mut self, demands: &[Demand]) {
        self.demands.extend(demands.iter().cloned().map(|d| match d {
            Demand::Within { tensor, lo, hi } => ContentDemand::Within { tensor, lo, hi },
            Demand::Pages { table, len, size, pool, written } => {
                ContentDemand::Pages { table, len, size, pool, written }
            }
        }));
    }

    /// Adds the checks of the score, the mask and the sink.
    pub fn add_attention(&mut self, attn: &Attention, pool: &mut Pool, tensors: &[TensorDecl]) {
        // A masked pair loads nothing for the score.
        let mut roots = vec![(attn.score, Some(attn.mask)), (attn.mask, None)];
        if let Weight::Softmax { sink: Some(sink) } = attn.weight {
            roots.push((sink, None));
        }
        self.checks.extend(of(pool, &roots, tensors));
        self.vars.extend(intervals(attn, pool));
    }

    /// Adds the checks of a derived tensor of this shape.
    pub fn add_derived(&mut self, d: &Derive, shape: &[ExprId], pool: &mut Pool, tensors: &[TensorDecl]) {
        let unguarded = |x: &ExprId| (*x, None);
        if of(pool, &d.checks.iter().map(unguarded).collect::<Vec<_>>(), tensors).is_empty() {
            return;
        }
        // Derived tensors share their variables: here each has its own interval.
        let zero = pool.int(0);
        let mut own = Vec::new();
        let summed = d.sum.iter().copied();
        for (var, extent) in d.index.iter().copied().zip(shape.iter().copied()).chain(summed) {
            let fresh = pool.add_var("at", Ty::Int);
            own.push((var, pool.var(fresh)));
            self.vars.push((fresh, zero, pool.add_int(extent, -1)));
        }
        let roots: Vec<_> = d.checks.iter().map(|&c| (pool.substitute(c, &own), None)).collect();
        self.checks.extend(of(pool, &roots, tensors));
    }
}

/// The checks of some expressions, each evaluated only where a condition holds: loads of bound tensors, divisors.
fn of(pool: &mut Pool, roots: &[(ExprId, Option<ExprId>)], tensors: &[TensorDecl]) -> Vec<BindCheck> {
    let name = |t: TensorId| tensors[t.0 as usize].name.clone();
    let bound = |t: TensorId| {
        matches!(tensors[t.0 as usize].kind, TensorKind::Input | TensorKind::Updated)
    };
    let proofs = guards::prove(pool, roots, &|t| tensors[t.0 as usize].shape.clone());
    let mut checks = Vec::new();
    for id in pool.reachable(&roots.iter().map(|r| r.0).collect::<Vec<_>>()) {
        match pool.op(id).clone() {
            Op::Load(tensor, index, _) if bound(tensor) => {
                let text = print(pool, id, &name);
                for (dim, &at) in index.iter().enumerate() {
                    let (low, high) = proofs.get(&id).map_or((false, false), |p| p[dim]);
                    if low && high {
                        continue;
                    }
                    let index = cut(pool, at, (low, high), tensors[tensor.0 as usize].shape[dim]);
                    checks.push(BindCheck::Index { tensor, dim, index, text: text.clone() });
                }
            }
            Op::Binary(BinaryOp::IDiv | BinaryOp::Mod, _, divisor)
                if pool.as_int(divisor).is_none_or(|c| c == 0) =>
            {
                checks.push(BindCheck::Divisor { divisor, text: print(pool, id, &name) });
            }
            _ => {}
        }
    }
    checks
}

/// The index where it is not proved by guards: cut at the ends at which it is.
fn cut(pool: &mut Pool, index: ExprId, (low, high): (bool, bool), size: ExprId) -> ExprId {
    let zero = pool.int(0);
    if low {
        return pool.max(index, zero);
    }
    if high {
        let last = pool.add_int(size, -1);
        return pool.min(index, last);
    }
    index
}

/// The interval of each index variable of an attention.
pub fn intervals(attn: &Attention, pool: &mut Pool) -> Vec<(VarId, ExprId, ExprId)> {
    let zero = pool.int(0);
    let b_hi = pool.add_int(attn.batch, -1);
    let h_hi = pool.int(attn.n_heads - 1);
    let row_hi = pool.add_int(attn.seq_q, -1);
    let i_hi = pool.add(attn.offset, row_hi);
    let j_hi = pool.add_int(attn.seq_k, -1);
    let ix = attn.index;
    vec![
        (ix.b, zero, b_hi),
        (ix.h, zero, h_hi),
        (ix.i, attn.offset, i_hi),
        (ix.j, zero, j_hi),
        (ix.row, zero, row_hi),
    ]
}
