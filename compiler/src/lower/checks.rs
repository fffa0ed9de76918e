//! What must be proved when arguments are bound: every index in range, every divisor not zero.
//!
//! Comes in: an attention after tabulation, or a derived tensor. Goes out: one [`BindCheck`] for each indexed dim of an input and each
//! divisor that is not a constant, over the attention's own index variables with their intervals. The runtime
//! proves them by interval arithmetic from the actual lengths, parameters and table contents.

use crate::artifact::BindCheck;
use crate::attn_ir::recur::{RecurOp, Recurrence};
use crate::attn_ir::{Attention, Derive, Weight};
use crate::expr::print::print;
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, VarId};
use crate::tile_ir::{TensorDecl, TensorKind};

/// Checks, and the interval of each index variable.
#[derive(Clone, Debug)]
pub struct Checks {
    /// In order of first occurrence.
    pub checks: Vec<BindCheck>,
    /// (variable, lowest, highest)
    pub vars: Vec<(VarId, ExprId, ExprId)>,
}

impl Checks {
    /// Nothing to be proved.
    pub fn none() -> Checks {
        Checks { checks: Vec::new(), vars: Vec::new() }
    }

    /// Adds the checks of the score, the mask and the sink.
    pub fn add_attention(&mut self, attn: &Attention, pool: &mut Pool, tensors: &[TensorDecl]) {
        let mut roots = vec![attn.score, attn.mask];
        if let Weight::Softmax { sink: Some(sink) } = attn.weight {
            roots.push(sink);
        }
        self.checks.extend(of(pool, &roots, tensors));
        self.vars.extend(intervals(attn, pool));
    }

    /// Adds the checks of the rows and numbers of a recurrence.
    pub fn add_recurrence(&mut self, r: &Recurrence, pool: &mut Pool, tensors: &[TensorDecl]) {
        let zero = pool.int(0);
        let n_heads = pool.int(r.heads.unwrap_or(1));
        let one = pool.int(1);
        for node in &r.nodes {
            let (value, length) = match node.op {
                RecurOp::Scalar(e) | RecurOp::Map { value: e, .. } => (e, 1),
                RecurOp::Row(e) => (e, node.shape.len() as i64),
                _ => continue,
            };
            if of(pool, &[value], tensors).is_empty() {
                continue;
            }
            let length = pool.int(length);
            let extents = [r.batch.unwrap_or(one), n_heads, r.steps, length];
            let mut own = Vec::new();
            for (var, extent) in [r.vars.b, r.vars.h, r.vars.t, r.vars.x].into_iter().zip(extents) {
                let fresh = pool.add_var("at", Ty::Int);
                own.push((var, pool.var(fresh)));
                self.vars.push((fresh, zero, pool.add_int(extent, -1)));
            }
            let root = pool.substitute(value, &own);
            self.checks.extend(of(pool, &[root], tensors));
        }
    }

    /// Adds the checks of a derived tensor of this shape.
    pub fn add_derived(&mut self, d: &Derive, shape: &[ExprId], pool: &mut Pool, tensors: &[TensorDecl]) {
        if of(pool, &d.checks, tensors).is_empty() {
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
        let roots: Vec<ExprId> = d.checks.iter().map(|&c| pool.substitute(c, &own)).collect();
        self.checks.extend(of(pool, &roots, tensors));
    }
}

/// The checks of some expressions: loads of inputs, divisors.
fn of(pool: &Pool, roots: &[ExprId], tensors: &[TensorDecl]) -> Vec<BindCheck> {
    let name = |t: TensorId| tensors[t.0 as usize].name.clone();
    let mut checks = Vec::new();
    for id in pool.reachable(roots) {
        match pool.op(id) {
            Op::Load(tensor, index, _) if bound_or_made(&tensors[tensor.0 as usize]) => {
                let text = print(pool, id, &name);
                checks.extend(index.iter().enumerate().map(|(dim, &index)| BindCheck::Index {
                    tensor: *tensor,
                    dim,
                    index,
                    text: text.clone(),
                }));
            }
            Op::Binary(BinaryOp::IDiv | BinaryOp::Mod, _, divisor)
                if pool.as_int(*divisor).is_none_or(|c| c == 0) =>
            {
                checks.push(BindCheck::Divisor { divisor: *divisor, text: print(pool, id, &name) });
            }
            _ => {}
        }
    }
    checks
}

/// Tables are as large as what indexes them; everything else is checked.
fn bound_or_made(t: &TensorDecl) -> bool {
    matches!(t.kind, TensorKind::Input | TensorKind::Workspace)
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
