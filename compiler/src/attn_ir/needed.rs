//! Which steps and inputs some tensors hang on.
//!
//! Comes in: a kernel and tensors of it. Goes out: the steps that make them, directly or not, and the host's tensors
//! that those read. What holds: the steps stand in order. Not here: evaluation.

use std::collections::BTreeSet;

use super::{Kernel, Origin, Step, Weight};
use crate::expr::{ExprId, Op, Pool, TensorId};

/// Tensors that an expression loads.
fn loads(pool: &Pool, roots: &[ExprId]) -> Vec<TensorId> {
    let load = |id: ExprId| match pool.op(id) {
        Op::Load(t, ..) => Some(*t),
        _ => None,
    };
    pool.reachable(roots).into_iter().filter_map(load).collect()
}

/// What a step reads; of an attention first the rows of its dots and of the values.
pub fn reads(kernel: &Kernel, step: &Step) -> Vec<TensorId> {
    match step {
        Step::Derive(d) => loads(&kernel.pool, &[d.value]),
        Step::Accumulate(s) => vec![s.source],
        Step::Top(t) => vec![t.source],
        Step::Count(c) => vec![c.lists],
        Step::Recur(r) => loads(&kernel.pool, &r.exprs()),
        Step::Write(w) => {
            let places = w.place.iter().chain(w.scale.iter().flat_map(|s| &s.place));
            let roots: Vec<ExprId> = places.copied().chain([w.value]).collect();
            loads(&kernel.pool, &roots)
        }
        Step::Rank(r) => {
            let rows = r.dots.iter().flat_map(|d| [d.x.tensor, d.y.tensor]);
            rows.chain(loads(&kernel.pool, &[r.value, r.seen])).collect()
        }
        Step::Attend(a) => {
            let sink = if let Weight::Softmax { sink } = a.weight { sink } else { None };
            let roots: Vec<ExprId> = [a.score, a.mask].into_iter().chain(sink).collect();
            let rows = a.dots.iter().flat_map(|d| [d.x.tensor, d.y.tensor]);
            rows.chain([a.value.tensor]).chain(loads(&a.pool, &roots)).collect()
        }
    }
}

/// What a step makes.
fn makes(kernel: &Kernel, step: &Step) -> Vec<TensorId> {
    match step {
        Step::Derive(d) => vec![d.out],
        Step::Accumulate(s) => vec![s.hi, s.lo],
        Step::Top(t) => vec![t.indices, t.ranks],
        Step::Count(c) => vec![c.out],
        Step::Rank(r) => vec![r.out, r.any],
        Step::Recur(r) => {
            let reads = r.reads.iter().map(|x| x.rows.tensor);
            reads.chain(r.states.iter().filter_map(|s| s.last)).collect()
        }
        Step::Write(w) => [Some(w.out), w.scale.as_ref().map(|s| s.out)].into_iter().flatten().collect(),
        Step::Attend(a) => a.outputs.iter().filter_map(|o| kernel.find(&o.name)).collect(),
    }
}

/// The kernel with those of its steps alone on which `wanted` hang, and the host's tensors that they read.
pub fn needed(kernel: &Kernel, wanted: &[TensorId]) -> (Kernel, Vec<TensorId>) {
    let mut tensors: BTreeSet<TensorId> = wanted.iter().copied().collect();
    let mut steps = Vec::new();
    for step in kernel.steps.iter().rev() {
        if makes(kernel, step).iter().any(|t| tensors.contains(t)) {
            tensors.extend(reads(kernel, step));
            steps.push(step.clone());
        }
    }
    steps.reverse();
    // Attentions are evaluated with every input bound.
    if steps.iter().any(|s| matches!(s, Step::Attend(_))) {
        tensors.extend(kernel.inputs().map(|(id, _)| id));
    }
    let host = |t: &TensorId| matches!(kernel.tensor(*t).origin, Origin::Host | Origin::Updated);
    let inputs = tensors.into_iter().filter(host).collect();
    (Kernel { steps, ..kernel.clone() }, inputs)
}
