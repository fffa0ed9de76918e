//! Which stage of the compiler is wrong about a case: the dense reference, then the tile IR as it is after
//! lowering and after every pass, in its interpreter, then for a GPU the SIMT IR in its own, then the machine code or PTX.
//!
//! Comes in: a problem that the machine code gets wrong. Goes out: a sentence that names the first stage whose
//! results leave the gate. What holds: every stage sees the same data and the same gate. The programs are read
//! back from their text, so that a wrong text is found too.

use std::time::Duration;

use attn_compiler::attn_ir::evaluate::Results;
use attn_compiler::host::Inputs;
use attn_compiler::pipeline::{self, Observer, Plan, Stage};
use attn_compiler::target::Target;
use attn_compiler::tile_ir::{interp, text};
use attn_compiler::tolerance;
use attn_compiler_gpu::simt_ir::interp::MAX_STEPS;
use attn_runtime::{RunOptions, TensorViewMut};
use attnc::{emit, simt};

use super::compare;
use super::problem::Problem;
use super::reference;
use super::ui::Failure;

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
    let truth = reference::evaluate(&problem.ir, inputs.clone())?;
    let (stages, plan) = stages(problem)?;
    let wrong =
        |stage: Stage, why: String| Ok(format!("`{}` is the first stage that is wrong: {why}", stage.name()));
    for (stage, printed) in &stages {
        if let Err(why) = check(problem, printed, &inputs, &truth) {
            return wrong(*stage, why);
        }
    }
    let n = stages.len();
    if let Target::Gpu(_) = plan.target {
        if let Err(why) = check_simt(problem, &plan)? {
            return wrong(Stage::Simt, why);
        }
        return Ok(format!(
            "{n} stages of the tile IR and the SIMT IR agree with the reference: its MLIR, the LLVM worker or what runs the \
             PTX is wrong"
        ));
    }
    Ok(format!(
        "{n} stages of the tile IR agree with the reference: the code generator or an intrinsic is wrong"
    ))
}

/// The text of the tile IR after lowering and after every pass, and the plan.
fn stages(problem: &Problem) -> Result<(Vec<(Stage, String)>, Plan), Failure> {
    let mut texts = Texts::default();
    let plan = pipeline::plan(problem.kernel.spec()?, &problem.key, &mut texts)
        .map_err(|err| Failure::bug(format!("this case was compiled before and is refused now: {err}")))?;
    Ok((texts.0, plan))
}

/// Interprets the SIMT IR of a plan and compares its outputs; what is wrong with it.
fn check_simt(problem: &Problem, plan: &Plan) -> Result<Result<(), String>, Failure> {
    let Target::Gpu(arch) = plan.target else { return Ok(Ok(())) };
    let kernels = emit::gpu_kernels(problem.kernel.sources(), plan, arch)?;
    let kernel = match simt::load(simt::artifact(plan, kernels), MAX_STEPS) {
        Ok(kernel) => kernel,
        Err(err) => return Ok(Err(err.to_string())),
    };
    let mut outputs = problem.outputs()?;
    let params: Vec<_> = problem.params.iter().map(|(name, v)| (name.as_str(), *v)).collect();
    let mut views: Vec<(&str, TensorViewMut<'_>)> =
        outputs.iter_mut().map(|(name, t)| (name.as_str(), t.view_mut())).collect();
    if let Err(err) = kernel.run(&problem.views()?, &mut views, &params, &RunOptions::default()) {
        return Ok(Err(err.to_string()));
    }
    let (checks, _) = compare::verify(problem, &outputs)?;
    let wrong = checks.iter().find(|c| !c.report.ok);
    Ok(wrong.map_or(Ok(()), |c| Err(told(&c.output, c.report.max_abs, c.report.rel_l2))))
}

fn told(output: &str, max_abs: f64, rel_l2: f64) -> String {
    format!("output `{output}` has max abs error {max_abs:.2e}, relative L2 {rel_l2:.2e}")
}

/// Interprets one program and compares its outputs; what is wrong with it.
fn check(problem: &Problem, printed: &str, inputs: &Inputs, truth: &Results) -> Result<(), String> {
    let program = text::parse(printed).map_err(|err| format!("its text cannot be read back: {err}"))?;
    let results = interp::run(&program, inputs, Some(1)).map_err(|err| err.to_string())?;
    for (_, output) in problem.ir.outputs() {
        let lost = || format!("output `{}` is lost", output.name);
        let found = results.get(&output.name).ok_or_else(lost)?.to_f64_vec();
        let wanted = truth.outputs.get(&output.name).ok_or_else(lost)?.to_f64_vec();
        let measure = problem.ir.measure(&output.name);
        let max = truth.max_abs_score;
        let gate = tolerance::gate(measure, output.dtype, problem.float, max, &wanted)
            .of_products(problem.ir.products(), max);
        let report = tolerance::check_gate(&found, &wanted, gate);
        if !report.ok {
            return Err(told(&output.name, report.max_abs, report.rel_l2));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use attn_compiler::artifact::DType;
    use attn_compiler::target::GpuArch;

    use super::*;
    use crate::cli::problem::Request;
    use crate::cli::session::Chosen;
    use crate::cli::ui::{ColorChoice, ErrorFormat, Ui};

    fn problem(mask: &str) -> Problem {
        problem_on(mask, None)
    }

    fn problem_on(mask: &str, arch: Option<GpuArch>) -> Problem {
        let text = format!(
            "attention a {{ dims B, H, S, D  input q, k, v : float[B, H, S, D]  score = dot(q, k) / sqrt(D)
             mask = {mask}  weight = softmax(score)  return weight @ v, lse }}"
        );
        let target = arch.map_or(attnc::Target::host(), attnc::Target::Gpu);
        let kernel = attnc::Kernel::from_source("a.attn", &text).unwrap();
        let chosen = Chosen { kernel, target, params: BTreeMap::new(), ranks: None };
        let at = BTreeMap::from([("S".to_string(), 40), ("D".to_string(), 16), ("B".to_string(), 1)]);
        let float = Some(if arch.is_some() { DType::Bf16 } else { DType::F32 });
        let request = Request { chosen: &chosen, at: &at, float, bound: BTreeMap::new(), seed: Some(3) };
        let ui = Ui::new(ColorChoice::Never, ErrorFormat::Human);
        Problem::new(&ui, request).unwrap_or_else(|err| panic!("{err:?}"))
    }

    #[test]
    fn stages_that_agree_leave_the_code_generator() {
        let found = bisect(&problem("j <= i")).unwrap();
        assert!(found.contains("code generator"), "{found}");
    }

    #[test]
    fn a_program_of_another_mask_is_found_out() {
        let (right, wrong) = (problem("j <= i"), problem("j <= i + 1"));
        let inputs = right.inputs().unwrap();
        let truth = reference::evaluate(&right.ir, inputs.clone()).unwrap();
        let (texts, _) = stages(&wrong).unwrap();
        for (stage, text) in &texts {
            let why = check(&right, text, &inputs, &truth).expect_err(stage.name());
            assert!(why.contains("max abs error"), "{why}");
        }
        let broken = stages(&right).unwrap().0[0].1.replacen('{', "", 1);
        assert!(check(&right, &broken, &inputs, &truth).unwrap_err().contains("read back"));
    }

    #[test]
    fn on_a_gpu_the_simt_ir_is_a_stage() {
        for arch in [GpuArch::Sm80, GpuArch::Sm90a] {
            let (right, wrong) = (problem_on("j <= i", Some(arch)), problem_on("j <= i + 1", Some(arch)));
            let found = bisect(&right).unwrap();
            assert!(found.contains("the SIMT IR agree with the reference"), "{found}");
            // The tile IR's stages are those of the right mask: what is wrong is below them.
            let (_, plan) = stages(&wrong).unwrap();
            let why = check_simt(&right, &plan).unwrap().expect_err("another mask");
            assert!(why.contains("output `o` has max abs error"), "{why}");
        }
    }
}
