//! Results against the reference or against a given tensor, within the tolerances of math.md, section 4.
//!
//! Comes in: what a kernel wrote. Goes out: a [`Check`] for each output. What holds: the errors are of the stored
//! values, NaN and infinities must stand in the same places. Gates of unnormalised weights scale with the
//! largest output, since nothing bounds it.

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::dense::RowResults;
use attn_compiler::attn_ir::{Attention, Output, OutputKind, Weight};
use attn_compiler::host::{View, unflatten};
use attn_compiler::tolerance::{self, Gate, Report};
use attn_runtime::{RuntimeError, Tensor, TensorView};

use super::data;
use super::table::short;

/// One comparison.
#[derive(Clone, Debug)]
pub struct Check {
    /// Output.
    pub output: String,
    /// What it was compared with.
    pub with: String,
    /// Errors and verdict.
    pub report: Report,
}

impl Check {
    /// A row of a table: output, reference, errors, gates, verdict.
    pub fn cells(&self) -> [String; 6] {
        let (r, gate) = (&self.report, self.report.gate);
        let relative = if gate.rtol == 0.0 { String::new() } else { format!(" + {} |x|", short(gate.rtol)) };
        let l2 = gate.rel_l2.map_or(String::new(), |l2| format!(", rel L2 {}", short(l2)));
        let verdict = match (r.ok, r.n_nonfinite) {
            (true, _) => "ok".to_string(),
            (false, 0) => format!("FAILED at element {}", r.worst),
            (false, n) => format!("FAILED: {n} NaN or infinite, first at {}", r.worst),
        };
        let allowed = format!("<= {}{relative}{l2}", short(gate.atol));
        [self.output.clone(), self.with.clone(), short(r.max_abs), short(r.rel_l2), allowed, verdict]
    }

    /// Titles of [`Check::cells`].
    pub const TITLES: [&str; 6] = ["output", "against", "max abs error", "rel L2", "allowed", "verdict"];

    /// For machines.
    pub fn json(&self) -> serde_json::Value {
        let r = &self.report;
        serde_json::json!({
            "output": self.output, "against": self.with, "max_abs": r.max_abs, "rel_l2": r.rel_l2,
            "atol": r.gate.atol, "rtol": r.gate.rtol, "rel_l2_gate": r.gate.rel_l2,
            "n_nonfinite": r.n_nonfinite, "worst": r.worst, "ok": r.ok,
        })
    }
}

/// The gate of an output; `float` is what the inputs hold, `values` what it is compared with.
pub fn gate(
    attention: &Attention,
    output: &Output,
    float: DType,
    max_abs_score: f64,
    values: &[f64],
) -> Gate {
    match (output.kind, attention.weight) {
        (OutputKind::Lse | OutputKind::MaxLogit, _) => tolerance::lse_gate(float, max_abs_score),
        (OutputKind::O, Weight::Softmax { .. } | Weight::Sigmoid) => {
            tolerance::output_gate(output.dtype, max_abs_score)
        }
        (OutputKind::O, Weight::Relu | Weight::Plain) => {
            let largest = values.iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
            let (eps, rel_l2) = match output.dtype {
                DType::F64 => (f64::EPSILON, 1e-12),
                DType::F16 => (2f64.powi(-10), 2e-3),
                DType::Bf16 => (2f64.powi(-7), 1e-2),
                _ => (f64::from(f32::EPSILON), 5e-6),
            };
            let plain = tolerance::output_gate(output.dtype, max_abs_score);
            Gate { atol: plain.atol.max(8.0 * eps * largest), rtol: plain.rtol, rel_l2: Some(rel_l2) }
        }
    }
}

/// Logical dims of an output in the order of the reference: batch, head, row, feature.
fn canonical_dims(attention: &Attention, output: &Output) -> Vec<usize> {
    let query = attention.dots[0].x;
    let dims = [query.batch, query.head, Some(query.seq)].into_iter().flatten();
    match output.kind {
        OutputKind::O => dims.chain([query.feature]).collect(),
        // The query's dims without the feature dim.
        OutputKind::Lse | OutputKind::MaxLogit => {
            dims.map(|dim| if dim < query.feature { dim } else { dim - 1 }).collect()
        }
    }
}

/// Elements of a bound output as the reference orders them.
pub fn canonical(
    attention: &Attention,
    output: &Output,
    view: &TensorView<'_>,
) -> Result<Vec<f64>, RuntimeError> {
    let mut order = canonical_dims(attention, output);
    if output.kind == OutputKind::O {
        let axes = data::axes_of(&attention.tensor(attention.dots[0].x.tensor).layout);
        order.iter_mut().for_each(|dim| *dim = axes[*dim]);
    }
    Ok(view.permuted(&order)?.to_f64_vec())
}

/// Elements of an output of the interpreter, whose axes are the logical dims, as the reference orders them.
pub fn canonical_host(attention: &Attention, output: &Output, view: &View) -> Vec<f64> {
    let order = canonical_dims(attention, output);
    let shape: Vec<usize> = order.iter().map(|&dim| view.shape()[dim]).collect();
    let n: usize = shape.iter().product();
    let element = |at: usize| {
        let mut index = vec![0; order.len()];
        for (n, &dim) in unflatten(at, &shape).iter().zip(&order) {
            index[dim] = *n as i64;
        }
        view.get(&index).map_or(f64::NAN, |x| x.float())
    };
    (0..n).map(element).collect()
}

/// What the reference says an output holds.
pub fn expected<'a>(output: &Output, reference: &'a RowResults) -> &'a [f64] {
    match output.kind {
        OutputKind::O => &reference.o,
        OutputKind::Lse => &reference.lse,
        OutputKind::MaxLogit => &reference.max_logit,
    }
}

/// Every output against the reference.
pub fn with_reference(
    attention: &Attention,
    float: DType,
    outputs: &[(String, Tensor)],
    reference: &RowResults,
) -> Result<Vec<Check>, RuntimeError> {
    let mut checks = Vec::new();
    for (declared, (name, tensor)) in attention.outputs.iter().zip(outputs) {
        let found = canonical(attention, declared, &tensor.view())?;
        let wanted = expected(declared, reference);
        let gate = gate(attention, declared, float, reference.max_abs_score, wanted);
        let report = tolerance::check_gate(&found, wanted, gate);
        checks.push(Check { output: name.clone(), with: "f64 reference".into(), report });
    }
    Ok(checks)
}
