//! Rows that GPUs multiply as 16-bit parts: how exact the products are, and when nothing is rounded.
//!
//! Comes in: attentions over rows that their kernels make, and of f32 with `dot = tf32`. What is tested: errors against the f64
//! reference that products of one part could not have; that `dot = exact` keeps f32 products; which tensors are copied.
//! Deliberately not here: the gallery (`gpu_sim.rs`).

mod common;

use std::path::Path;

use attn_compiler::artifact::DType;
use attn_compiler::pipeline;
use attn_compiler::target::GpuArch;
use attn_compiler_gpu::report::Products;
use common::gpu::{Subject, subjects_of};
use common::{compare, reference};

const ARCHS: [GpuArch; 2] = [GpuArch::Sm80, GpuArch::Sm90a];

/// Rotary attention with its lse, and room for another clause.
fn rope(clause: &str) -> Subject {
    let text = format!(
        "attention turned {{
  dims B, Hq, Hkv, Sq, Sk, D
  input q    : float[B, Hq, Sq, D]
  input k, v : float[B, Hkv, Sk, D]
  heads grouped
  align bottom_right
  rotate q, k by rope(theta = 10K) at i
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i
  weight = softmax(score)
  {clause}
  return weight @ v, lse
}}
"
    );
    let mut all = subjects_of(Path::new("turned.attn"), &text, false);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// The largest errors of `o` and `lse`, which are within the gates.
fn errors(subject: &Subject, arch: GpuArch, float: DType, n: i64) -> (f64, f64) {
    let compiled = subject.compile(arch, float, 64).unwrap_or_else(|no| panic!("{}", no.text));
    assert!(["mma.sync", "wgmma"].iter().any(|p| compiled.ptx().contains(p)), "{}", compiled.what);
    let point = subject.at(n, n, 64).expect("a size");
    let problem = compiled.problem(&point);
    let kernel = compiled.load().expect("PTX that the simulator takes");
    let out = compiled.run(&kernel, &problem, 5).expect("a run");
    compare(&compiled.plan.kernel, float, &problem, &out)
        .unwrap_or_else(|e| panic!("{}: {e}", compiled.what));
    let truth = reference(&compiled.plan.kernel, &problem.inputs);
    let error = |name: &str, n: usize| {
        let (found, right) = (out[n].view().to_f64_vec(), truth.outputs[name].to_f64_vec());
        found.iter().zip(&right).map(|(x, r)| (x - r).abs()).fold(0.0, f64::max)
    };
    (error("o", 0), error("lse", 1))
}

/// Rounding turned rows to bf16 alone puts lse off by 1e-3.
#[test]
fn turned_rows_lose_nothing_that_16_bits_hold() {
    for arch in ARCHS {
        for float in [DType::Bf16, DType::F16] {
            let (_, lse) = errors(&rope(""), arch, float, 129);
            assert!(lse < 3e-5, "{} {float}: lse is off by {lse:.2e}", arch.name());
        }
    }
}

/// tf32 itself would be off by about 5e-4.
#[test]
fn tf32_is_better_than_its_name() {
    for arch in ARCHS {
        let (o, lse) = errors(&rope("numerics { dot = tf32 }"), arch, DType::F32, 129);
        assert!(o < 5e-5 && lse < 3e-5, "{}: {o:.2e}, {lse:.2e}", arch.name());
    }
}

#[test]
fn exact_products_stay_exact() {
    let subject = rope("numerics { dot = exact }");
    for arch in ARCHS {
        let plan =
            pipeline::plan(&subject.spec, &subject.key(arch, DType::Bf16, 64), &mut ()).expect("a plan");
        let said = attn_compiler_gpu::report::launches(&plan.program, arch).expect("a report");
        let attend = said.iter().find(|l| l.name == "attend").expect("a launch");
        assert!(matches!(attend.products, Products::Exact(_)), "{}: {:?}", arch.name(), attend.products);
        assert!(plan.program.tensors.iter().all(|t| !t.name.ends_with("_rest")));
    }
}

/// Rows of a cache are bf16 already: a copy of them has no rest. Rows that are turned have one.
#[test]
fn exact_rows_have_no_rest() {
    let path = common::root().join("dsl-examples/chunked_prefill.attn");
    let text = std::fs::read_to_string(&path).expect("an example");
    let subject = subjects_of(&path, &text, true).remove(0);
    let names = |subject: &Subject| {
        let plan = pipeline::plan(&subject.spec, &subject.key(GpuArch::Sm80, DType::Bf16, 64), &mut ())
            .expect("a plan");
        let made = plan.program.tensors.iter().filter(|t| t.dtype == DType::Bf16);
        made.map(|t| t.name.clone()).filter(|n| n.ends_with("_rest")).collect::<Vec<_>>()
    };
    assert_eq!(names(&subject), ["q_rotated_rest"]);
    assert_eq!(names(&rope("")), ["q_rotated_rest", "k_rotated_rest"]);
}
