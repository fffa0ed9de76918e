//! Which stage of the compiler is wrong about a case: the dense reference, then the tile IR as it is after
//! lowering and after every pass, in the interpreter, then the machine code.
//!
//! Comes in: a problem that the machine code gets wrong. Goes out: a sentence that names the first stage whose
//! results leave the gate. What holds: every stage sees the same data and the same gate. The programs are read
//! back from their text, so that a wrong text is found too.

use std::time::Duration;

use attn_compiler::pipeline::{self, Observer, Stage};
use attn_compiler::tile_ir::{interp, text};
use attn_compiler::tolerance;

use super::problem::Problem;
use super::ui::Failure;
use super::{compare, reference};

/// Keeps the text of the tile IR after each stage.
#[derive(Default)]
struct Texts(Vec<(Stage, String)>);

impl Observer for Texts {
    fn stage(&mut self, stage: Stage, _: Duration, text: &dyn Fn() -> String) {
        if matches!(stage, Stage::Lower | Stage::Pass(_)) {
            self.0.push((stage, text()));
        }
    }
}

/// Names the first stage that disagrees with the reference.
pub fn bisect(problem: &Problem) -> Result<String, Failure> {
    let inputs = problem.inputs()?;
    let a = &problem.attention;
    let truth = reference::evaluate(a, &inputs)?;
    let mut texts = Texts::default();
    if let Err(err) = pipeline::plan(problem.kernel.spec()?, &problem.key, &mut texts) {
        return Err(Failure::bug(format!(
            "the pipeline compiled this case before and refuses it now: {err}"
        )));
    }
    for (stage, printed) in &texts.0 {
        let name = stage.name();
        let program = match text::parse(printed) {
            Ok(program) => program,
            Err(err) => return Ok(format!("the text after `{name}` cannot be read back: {err}")),
        };
        let results = match interp::run(&program, &inputs, Some(1)) {
            Ok(results) => results,
            Err(err) => return Ok(format!("`{name}` is the first stage that is wrong: {err}")),
        };
        for output in &a.outputs {
            let Some(view) = results.get(&output.name) else {
                return Ok(format!(
                    "`{name}` is the first stage that is wrong: output `{}` is lost",
                    output.name
                ));
            };
            let found = compare::canonical_host(a, output, view);
            let wanted = compare::expected(output, &truth);
            let gate = compare::gate(a, output, problem.float, truth.max_abs_score, wanted);
            let report = tolerance::check_gate(&found, wanted, gate);
            if !report.ok {
                return Ok(format!(
                    "`{name}` is the first stage that is wrong: output `{}` has max abs error {:.2e}, rel L2 {:.2e}",
                    output.name, report.max_abs, report.rel_l2
                ));
            }
        }
    }
    Ok(format!(
        "{} stages of the tile IR agree with the reference: the code generator or an intrinsic is wrong",
        texts.0.len()
    ))
}
