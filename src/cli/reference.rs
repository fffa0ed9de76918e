//! The dense f64 reference, on all threads.
//!
//! Comes in: a kernel with its data. Goes out: its outputs. The rows of each (b, h) of an attention are divided into
//! blocks, long enough that gathering the keys does not dominate.

use attn_compiler::attn_ir::dense::{Dense, RowResults};
use attn_compiler::attn_ir::evaluate::{Given, Results, evaluate_with};
use attn_compiler::attn_ir::{Attention, Kernel};
use attn_compiler::host::{BindError, Inputs};
use rayon::prelude::*;

/// Query rows of a task.
const ROWS: usize = 64;

/// Evaluates every step of a kernel.
pub fn evaluate(kernel: &Kernel, inputs: Inputs) -> Result<Results, BindError> {
    evaluate_given(kernel, inputs, &Given::new())
}

/// As [`evaluate`]; what writes leave is `given`, as far as it is.
pub fn evaluate_given(kernel: &Kernel, inputs: Inputs, given: &Given) -> Result<Results, BindError> {
    evaluate_with(kernel, inputs, given, &mut attend)
}

/// Evaluates every row of an attention.
fn attend(attention: &Attention, inputs: &Inputs) -> Result<RowResults, BindError> {
    let dense = Dense::new(attention, inputs)?;
    let sizes = dense.sizes();
    let blocks = sizes.seq_q.div_ceil(ROWS);
    let parts: Vec<RowResults> = (0..sizes.batch * sizes.n_heads * blocks)
        .into_par_iter()
        .map(|n| {
            let (bh, block) = (n / blocks, n % blocks);
            dense.rows(bh / sizes.n_heads, bh % sizes.n_heads, block * ROWS..(block + 1) * ROWS)
        })
        .collect();
    let mut all = RowResults::default();
    for part in parts {
        all.o.extend(part.o);
        all.lse.extend(part.lse);
        all.max_logit.extend(part.max_logit);
        all.max_abs_score = all.max_abs_score.max(part.max_abs_score);
    }
    Ok(all)
}
