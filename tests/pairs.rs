//! Products of bf16 in pairs (`schedule::pairs`), on every machine: where there is no instruction for them the same
//! kernels run by the same intrinsics, slower. Against the dense f64 reference, within the tolerances of bf16.

mod common;

use attn_compiler::artifact::DType;
use attn_compiler::pipeline::{self, Front, Plan};
use attn_compiler::target::Target;
use attn_runtime::{LoadedKernel, Tensor};
use common::*;

/// Calls of few and of many query rows, odd lengths, and no keys that a row sees.
const LENGTHS: [(i64, i64); 7] = [(1, 1), (1, 131), (3, 70), (8, 65), (33, 200), (70, 71), (130, 40)];

fn text(score: &str, mask: &str, outputs: &str, more: &str) -> String {
    format!(
        "attention paired(w: int = 50) {{
  dims B, Hq, Hkv, Sq, Sk, D, Dv
  input q : float[B, Hq, Sq, D]
  input k : float[B, Hkv, Sk, D]
  input v : float[B, Hkv, Sk, Dv]
  heads grouped
  align bottom_right
  score  = {score}
  mask   = {mask}
  weight = softmax(score)
  return {outputs}
  {more}
}}"
    )
}

const DOT: &str = "dot(q, k) / sqrt(D)";
const ALL: &str = "weight @ v, lse, max_logit";

/// A plan for a CPU like this one that has the instruction, or has not.
fn planned(front: &Front, sizes: [i64; 4], dtype: DType, pairs: bool) -> Plan {
    let [hq, hkv, d, dv] = sizes;
    let mut key = key("paired", dtype, &[("Hq", hq), ("Hkv", hkv), ("D", d), ("Dv", dv)]);
    let Target::Cpu(facts) = &mut key.target else { panic!("the host is a CPU") };
    facts.pairs = pairs;
    plan(front, &key)
}

fn loaded(plan: &Plan) -> LoadedKernel {
    let artifact = pipeline::emit(plan, &mut ()).unwrap_or_else(|e| panic!("{e}"));
    LoadedKernel::load(artifact).unwrap_or_else(|e| panic!("{e}"))
}

fn check(text: &str, sizes: [i64; 4], products: Option<&str>) {
    let front = front("paired.attn", text);
    let plan = planned(&front, sizes, DType::Bf16, true);
    assert_eq!(plan.attends[0].schedule.pairs.words(), products, "{text}");
    let said = plan.schedule_text();
    assert!(products.is_none_or(|p| said.contains(&format!("bf16 products = {p}"))), "{said}");
    let kernel = loaded(&plan);
    for (sq, sk) in LENGTHS {
        let dims = [("B", 2), ("Sq", sq), ("Sk", sk), ("Dv", sizes[3])];
        let problem = problem(&plan.kernel, &dims, &|_| (0, 2), (sq * 31 + sk) as u64);
        let out = run(&kernel, &plan.kernel, &problem, 2);
        verify(
            &plan.kernel,
            DType::Bf16,
            &problem,
            &out,
            &format!("{sizes:?}, Sq = {sq}, Sk = {sk}\n{text}"),
        );
    }
}

#[test]
fn scores_and_values() {
    let both = Some("scores and values");
    check(&text(DOT, "j <= i", ALL, ""), [4, 2, 40, 40], both);
    check(&text(DOT, "j <= i", ALL, ""), [3, 3, 128, 128], both);
    check(&text(DOT, "true", ALL, ""), [7, 1, 64, 33], both);
    // A dot that is not scaled is summed in chains of features.
    check(&text("dot(q, k)", "j <= i", "weight @ v", ""), [4, 2, 80, 20], both);
    check(&text(DOT, "j in (i - w, i]", "weight @ v, lse", ""), [4, 4, 32, 64], both);
    check(
        &text("softcap(dot(q, k) / sqrt(D), 5.0) - 0.02 * float(i - j)", "j <= i", ALL, ""),
        [4, 1, 32, 32],
        both,
    );
    check(&text(DOT, "j < i", ALL, "numerics { split = fixed(64) }"), [4, 2, 32, 32], both);
}

#[test]
fn one_of_both() {
    check(&text(DOT, "j <= i", ALL, ""), [4, 2, 33, 64], Some("values"));
    let turned = text(DOT, "j <= i", "weight @ v, lse", "")
        .replace("  score", "  rotate q, k by rope(theta = 10K) at i\n  score");
    check(&turned, [4, 2, 64, 64], Some("values"));
    // A dot takes pairs only if both of its sides are bf16: rounding one of them would gain nothing.
    let one = text(DOT, "j <= i", "weight @ v", "")
        .replace("k : float", "k : f32")
        .replace("  score", "  rotate q, k by rope(theta = 10K) at i\n  score");
    check(&one, [4, 2, 64, 64], Some("values"));
    let scores = text(DOT, "j <= i", "weight @ v", "").replace("v : float", "v : f32");
    check(&scores, [4, 2, 32, 32], Some("scores"));
    // Where no output weighs the values, there is one product.
    check(&text(DOT, "j <= i", "lse, max_logit", ""), [4, 2, 32, 32], Some("scores and values"));
}

/// Rows that are made of bf16 are rounded to it once where no logarithm of a sum is asked for.
#[test]
fn rows_that_are_made() {
    let both = Some("scores and values");
    let (turned, one) = ("rotate q, k by rope(theta = 10K) at i", "rotate q by rope(theta = 10K) at i");
    let with = |clause: &str, outputs: &str, more: &str| {
        text(DOT, "j <= i", outputs, more).replace("  score", &format!("  {clause}\n  score"))
    };
    check(&with(turned, "weight @ v", ""), [4, 2, 64, 64], both);
    check(&with(one, "weight @ v", ""), [4, 4, 32, 32], both);
    // What may make scores large, and their errors with them, stays f32.
    for clause in ["map q, k by exp", "map q, k by silu", "map q by relu"] {
        check(&with(clause, "weight @ v", ""), [4, 1, 40, 40], Some("values"));
    }
    let plain = with(turned, "weight @ v", "").replace(DOT, "dot(q, k)");
    check(&plain, [4, 2, 64, 64], Some("values"));
    // Nor are weights rounded where the result is not.
    check(&with(turned, "cast(weight @ v, f32)", ""), [4, 2, 64, 64], None);
    check(&text(DOT, "j <= i", "cast(weight @ v, f32)", ""), [4, 2, 64, 64], Some("scores"));
    check(&with(turned, "weight @ v, max_logit", ""), [4, 2, 64, 64], Some("values"));
    check(&with(turned, "weight @ v", "numerics { dot = exact }"), [4, 2, 64, 64], None);
    let front = front("paired.attn", &with(turned, "weight @ v", ""));
    for (dtype, pairs) in [(DType::F32, true), (DType::F16, true), (DType::Bf16, false)] {
        let plan = planned(&front, [4, 2, 64, 64], dtype, pairs);
        assert_eq!(plan.attends[0].schedule.pairs.words(), None, "{dtype} {pairs}");
    }
}

/// Other types, machines without the instruction and `dot = exact` multiply f32.
#[test]
fn none() {
    check(&text(DOT, "j <= i", ALL, "numerics { dot = exact }"), [4, 2, 32, 32], None);
    let front = front("paired.attn", &text(DOT, "j <= i", ALL, ""));
    for (dtype, pairs) in [(DType::F32, true), (DType::F16, true), (DType::Bf16, false)] {
        let plan = planned(&front, [4, 2, 32, 32], dtype, pairs);
        assert_eq!(plan.attends[0].schedule.pairs.words(), None, "{dtype} {pairs}");
    }
}

/// Branches over the same keys pack them once for each way in which they are multiplied.
#[test]
fn branches_that_multiply_the_same_keys_in_two_ways() {
    let text = "attention paired {
  dims B, Hq, Hkv, Sq, Sk, D, Dv
  input q : float[B, Hq, Sq, D]
  input r : f32[B, Hq, Sq, D]
  input k : float[B, Hkv, Sk, D]
  input v : float[B, Hkv, Sk, Dv]
  branch one {
    heads grouped
    align bottom_right
    score  = dot(q, k) / sqrt(D)
    mask   = j <= i
    weight = softmax(score)
    return weight @ v
  }
  branch two {
    heads grouped
    align bottom_right
    score  = dot(r, k) / sqrt(D)
    mask   = j <= i + 3
    weight = softmax(score)
    return weight @ v
  }
  return one + two
}";
    let front = front("paired.attn", text);
    let plan = planned(&front, [4, 2, 32, 32], DType::Bf16, true);
    let words: Vec<_> = plan.attends.iter().map(|a| a.schedule.pairs.words()).collect();
    assert_eq!(words, [Some("scores and values"), Some("values")]);
    let kernel = loaded(&plan);
    for (sq, sk) in [(2, 60), (70, 70)] {
        let problem = problem(&plan.kernel, &[("B", 1), ("Sq", sq), ("Sk", sk)], &|_| (0, 2), 5);
        let out = run(&kernel, &plan.kernel, &problem, 2);
        verify(&plan.kernel, DType::Bf16, &problem, &out, text);
    }
}

/// What a mask hides may be NaN or infinite; a NaN that is seen comes out, in the rows that see it alone.
#[test]
fn values_that_are_not_finite() {
    let front = front("paired.attn", &text(DOT, "j <= i", "weight @ v", ""));
    let plan = planned(&front, [2, 1, 32, 48], DType::Bf16, true);
    let kernel = loaded(&plan);
    for sq in [3i64, 70] {
        let dims = [("B", 1), ("Sq", sq), ("Sk", sq + 20)];
        let mut problem = problem(&plan.kernel, &dims, &|_| (0, 2), 77);
        let clean = run(&kernel, &plan.kernel, &problem, 1);
        let at = problem.tensors.iter().position(|(n, _)| n == "v").expect("v");
        let shape = problem.tensors[at].1.shape().to_vec();
        let mut elements = problem.tensors[at].1.view().to_f64_vec();
        // The last key, which the last query alone sees.
        let last = elements.len() - 48;
        elements[last + 5] = f64::NAN;
        elements[last + 6] = f64::INFINITY;
        let bytes: Vec<u8> = elements.iter().flat_map(|&x| half::bf16::from_f64(x).to_le_bytes()).collect();
        problem.tensors[at].1 = Tensor::from_bytes(DType::Bf16, &bytes, &shape).expect("a tensor");
        let out = run(&kernel, &plan.kernel, &problem, 1);
        let (clean, out) = (clean[0].view().to_f64_vec(), out[0].view().to_f64_vec());
        for (n, (x, y)) in clean.iter().zip(&out).enumerate() {
            let (row, feature) = (n / 48 % sq as usize, n % 48);
            match (row as i64 == sq - 1, feature) {
                (true, 5) => assert!(y.is_nan(), "row {row}"),
                (true, 6) => assert!(y.is_nan() || *y == f64::INFINITY, "row {row}: {y}"),
                _ => assert!(x == y || row as i64 == sq - 1, "row {row}, feature {feature}: {x} and {y}"),
            }
        }
    }
}

/// The interpreter, which knows nothing of how pairs lie, finds what the machine finds.
#[test]
fn programs_agree_with_their_interpreter() {
    let front = front("paired.attn", &text(DOT, "j <= i", "weight @ v, lse", ""));
    let plan = planned(&front, [4, 2, 16, 16], DType::Bf16, true);
    for (sq, sk) in [(3, 37), (20, 35)] {
        let dims = [("B", 1), ("Sq", sq), ("Sk", sk)];
        let problem = problem(&plan.kernel, &dims, &|_| (0, 2), 11);
        let found =
            attn_compiler::tile_ir::interp::run(&plan.program, &problem.inputs, Some(3)).expect("it runs");
        let out: Vec<Tensor> = problem
            .outputs
            .iter()
            .map(|(name, dtype, shape)| {
                let layout: Vec<usize> = (0..shape.len()).collect();
                bound(*dtype, found[name].data(), shape, &layout)
            })
            .collect();
        verify(&plan.kernel, DType::Bf16, &problem, &out, &format!("Sq = {sq}, Sk = {sk}"));
    }
}
