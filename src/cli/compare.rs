//! Results against the reference or against a given tensor, within the tolerances of math.md, section 4.
//!
//! Comes in: what a kernel wrote. Goes out: a [`Check`] for each output. What holds: the errors are of the stored
//! values, NaN and infinities must stand in the same places. Gates of unnormalised weights scale with the
//! largest output, since nothing bounds it.

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::evaluate::{Given, Results};
use attn_compiler::attn_ir::{self, Kernel};
use attn_compiler::host::View;
use attn_compiler::tolerance::{self, Report};
use attn_runtime::{RuntimeError, Tensor, TensorView};

use super::data;
use super::problem::Problem;
use super::reference;
use super::table::short;
use super::ui::Failure;

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

/// Elements of a bound output in the logical order of its dims.
pub fn elements(declared: &attn_ir::Tensor, view: &TensorView<'_>) -> Result<Vec<f64>, RuntimeError> {
    Ok(data::logical(view, &declared.layout)?.to_f64_vec())
}

/// Every output, and every tensor updated in place, against the reference. What a run left in the updated tensors is
/// compared with what the reference writes, and is what the reference goes on with.
pub fn verify(problem: &Problem, outputs: &[(String, Tensor)]) -> Result<(Vec<Check>, Results), Failure> {
    let kernel = &problem.ir;
    let mut given = Given::new();
    for (_, declared) in kernel.updated() {
        if let Some((_, tensor)) = outputs.iter().find(|(name, _)| *name == declared.name) {
            let view = data::logical(&tensor.view(), &declared.layout)?;
            given.insert(declared.name.clone(), data::host_view(&view)?);
        }
    }
    let truth = reference::evaluate_given(kernel, problem.inputs()?, &given)?;
    let mut checks = with_reference(kernel, problem.float, outputs, &truth)?;
    for (_, declared) in kernel.updated() {
        let name = &declared.name;
        let found = given.get(name).map_or_else(Vec::new, View::to_f64_vec);
        let wanted = truth.outputs.get(name).map_or_else(Vec::new, View::to_f64_vec);
        let report = tolerance::check_gate(&found, &wanted, tolerance::stored_gate(declared.dtype));
        checks.push(Check { output: name.clone(), with: "f64 reference".into(), report });
    }
    Ok((checks, truth))
}

/// Every output against the reference.
fn with_reference(
    kernel: &Kernel,
    float: DType,
    outputs: &[(String, Tensor)],
    reference: &Results,
) -> Result<Vec<Check>, RuntimeError> {
    let mut checks = Vec::new();
    for ((_, declared), (name, tensor)) in kernel.outputs().zip(outputs) {
        let found = elements(declared, &tensor.view())?;
        let wanted = reference.outputs.get(name).map_or_else(Vec::new, View::to_f64_vec);
        let (measure, max) = (kernel.measure(name), reference.max_abs_score);
        let shape = reference.outputs.get(name).map_or(&[][..], View::shape);
        let gate = tolerance::gate(measure, declared.dtype, float, max, &wanted)
            .of_products(kernel.products(), max)
            .in_groups(kernel.groups(shape));
        let report = tolerance::check_gate(&found, &wanted, gate);
        checks.push(Check { output: name.clone(), with: "f64 reference".into(), report });
    }
    Ok(checks)
}
