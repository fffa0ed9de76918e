//! Query heads of a group as rows of one tile, and keys read where they lie: head counts, sinks, terms and masks by
//! head, lengths around the limits, against the dense f64 reference.

mod common;

use attn_compiler::artifact::DType;
use attn_compiler::pipeline;
use attn_runtime::LoadedKernel;
use common::*;

/// (query heads, key heads): grouped, one key head, odd groups, a prime beyond a tile, none shared.
const HEADS: [(i64, i64); 6] = [(4, 2), (7, 1), (14, 2), (71, 1), (3, 3), (24, 3)];
const LENGTHS: [(i64, i64); 7] = [(1, 1), (1, 130), (3, 70), (8, 65), (33, 200), (70, 70), (130, 40)];

fn text(score: &str, mask: &str, weight: &str, outputs: &str, more: &str) -> String {
    format!(
        "attention shared(w: int = 50) {{
  dims B, Hq, Hkv, Sq, Sk, D
  input q     : float[B, Hq, Sq, D]
  input k, v  : float[B, Hkv, Sk, D]
  input slope : f32[Hq]
  input sink  : f32[Hq]
  heads grouped
  align bottom_right
  score  = {score}
  mask   = {mask}
  weight = {weight}
  return {outputs}
  {more}
}}"
    )
}

fn check(text: &str, dtype: DType, shares: bool) {
    let front = front("shared.attn", text);
    for (hq, hkv) in HEADS {
        let key = key("shared", dtype, &[("Hq", hq), ("Hkv", hkv), ("D", 40)]);
        let plan = plan(&front, &key);
        let heads = plan.attends[0].schedule.heads;
        let group = hq / hkv;
        assert_eq!(heads > 1, shares && group > 1, "{hq} over {hkv}: {heads} heads share\n{text}");
        let artifact = pipeline::emit(&plan, &mut ()).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let kernel = LoadedKernel::load(artifact).unwrap_or_else(|e| panic!("{e}\n{text}"));
        for (sq, sk) in LENGTHS {
            let dims = [("B", 2), ("Sq", sq), ("Sk", sk)];
            let problem = problem(&plan.kernel, &dims, &|_| (0, 2), (hq * 1000 + sq * 31 + sk) as u64);
            let out = run(&kernel, &plan.kernel, &problem, 2);
            let what = format!("{hq} over {hkv}, Sq = {sq}, Sk = {sk}, {dtype}\n{text}");
            verify(&plan.kernel, dtype, &problem, &out, &what);
        }
    }
}

const DOT: &str = "dot(q, k) / sqrt(D)";
const SLOPED: &str = "dot(q, k) / sqrt(D) + 0.1 * slope[h] * float(j - i)";
const ALL: &str = "weight @ v, lse, max_logit";

#[test]
fn plain_and_by_head() {
    for dtype in [DType::F32, DType::Bf16] {
        check(&text(DOT, "j <= i", "softmax(score)", ALL, ""), dtype, true);
        check(&text(SLOPED, "j in (i - w, i]", "softmax(score)", "weight @ v, lse", ""), dtype, true);
    }
    check(&text(SLOPED, "j <= i", "sigmoid(score)", "weight @ v", ""), DType::F32, true);
    // What differs from head to head keeps its own tiles.
    check(&text(DOT, "j <= i & (h mod 2 == 0 | j > 3)", "softmax(score)", ALL, ""), DType::F32, false);
}

#[test]
fn sinks_and_splits() {
    let sink = "softmax(score, sink = sink[h])";
    check(&text(DOT, "j <= i", sink, "weight @ v, lse", ""), DType::F32, true);
    // The largest score of a row has no sink in it.
    check(&text(DOT, "j <= i", sink, ALL, ""), DType::F32, false);
    let split = "numerics { split = fixed(64) }";
    check(&text(SLOPED, "j <= i", "softmax(score)", ALL, split), DType::F32, true);
    check(&text(SLOPED, "j < i", sink, "weight @ v, lse", split), DType::F16, true);
}

/// Branches over the same keys of which one shares tiles and the other does not, and one has two dots with them.
#[test]
fn branches_over_the_same_keys() {
    let text = "attention shared {
  dims B, Hq, Hkv, Sq, Sk, D
  input q, r : float[B, Hq, Sq, D]
  input k, v : float[B, Hkv, Sk, D]
  input bias : float[Hq, Sk]
  input keep : bit[Hq, Sk]
  branch one {
    heads grouped
    align bottom_right
    score  = dot(q, k) / sqrt(D)
    mask   = keep[h, j]
    weight = softmax(score)
    return weight @ v
  }
  branch two {
    heads grouped
    align bottom_right
    score  = dot(q, k) / sqrt(D) + dot(r, k) * bias[h, j] / D
    weight = softmax(score)
    return weight @ v
  }
  return one + two
}";
    let front = front("shared.attn", text);
    let key = key("shared", DType::F32, &[("Hq", 8), ("Hkv", 2), ("D", 16)]);
    let plan = plan(&front, &key);
    assert_eq!(plan.attends.iter().map(|a| a.schedule.heads).collect::<Vec<_>>(), [1, 4]);
    let artifact = pipeline::emit(&plan, &mut ()).unwrap_or_else(|e| panic!("{e}"));
    let packs = artifact.launches.iter().filter(|l| l.name.starts_with("pack_k")).count();
    assert_eq!(packs, 1, "the keys are packed once");
    let kernel = LoadedKernel::load(artifact).unwrap_or_else(|e| panic!("{e}"));
    for (sq, sk) in LENGTHS {
        let problem = problem(&plan.kernel, &[("B", 2), ("Sq", sq), ("Sk", sk)], &|_| (0, 2), sq as u64);
        let out = run(&kernel, &plan.kernel, &problem, 2);
        verify(&plan.kernel, DType::F32, &problem, &out, &format!("Sq = {sq}, Sk = {sk}"));
    }
}
