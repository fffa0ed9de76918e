//! What must be proved when arguments are bound: every index in range, every divisor not zero.
//!
//! Comes in: an attention after tabulation. Goes out: one [`BindCheck`] for each indexed dim of an input and each
//! divisor that is not a constant, over the attention's own index variables with their intervals. The runtime
//! proves them by interval arithmetic from the actual lengths, parameters and table contents.

use crate::artifact::BindCheck;
use crate::attn_ir::{Attention, Weight};
use crate::expr::print::print;
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, VarId};

/// Checks, and the interval of each index variable.
pub struct Checks {
    /// In order of first occurrence.
    pub checks: Vec<BindCheck>,
    /// (variable, lowest, highest)
    pub vars: Vec<(VarId, ExprId, ExprId)>,
}

/// Collects the checks of the score, the mask and the sink.
pub fn collect(attn: &Attention, pool: &mut Pool) -> Checks {
    let mut roots = vec![attn.score, attn.mask];
    if let Weight::Softmax { sink: Some(sink) } = attn.weight {
        roots.push(sink);
    }
    let name = |t: TensorId| {
        attn.tensors.get(t.0 as usize).map_or_else(|| format!("table{}", t.0), |t| t.name.clone())
    };
    let mut checks = Vec::new();
    for id in pool.reachable(&roots) {
        match pool.op(id) {
            Op::Load(tensor, index, _) if (tensor.0 as usize) < attn.tensors.len() => {
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
    Checks { checks, vars: intervals(attn, pool) }
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
