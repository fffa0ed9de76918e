//! Calls of few query rows over keys whose heads lie side by side, or that lie in pages: several key heads in one task, in the
//! order of memory. Against the dense f64 reference for every kind of score, mask, weight and output, at lengths around those
//! of a product, a step and a run; that threads change no bit; that pages are read where they lie, and nothing is copied.
//!
//! Deliberately not here: caches that are appended to (`serving.rs`), how many runs there are (`runs_of_keys.rs`).

mod common;

use attn_compiler::artifact::DType;
use attn_compiler::expr::eval::{Env, Value, eval};
use attn_compiler::expr::{TensorId, VarId};
use attn_compiler::pipeline::{self, Plan};
use attn_compiler::target::Target;
use attn_runtime::{LoadedKernel, Tensor};
use common::*;

const TEXT: &str = "attention few {
  dims B, Hq, Hkv, Sq, Sk, D
  input q     : float[B, Hq, Sq, D]
  input k, v  : {elem}[B, Hkv, Sk, D] {layout}
  input slope : f32[Hq]
  heads grouped
  align bottom_right
  score  = {score}
  mask   = {mask}
  weight = {weight}
  return {outputs}
}";

/// What is computed, and over what.
#[derive(Clone, Copy)]
struct Spec {
    elem: &'static str,
    layout: &'static str,
    score: &'static str,
    mask: &'static str,
    weight: &'static str,
    outputs: &'static str,
}

const PLAIN: Spec = Spec {
    elem: "float",
    layout: "layout (B, Sk, Hkv, D)",
    score: "dot(q, k) / sqrt(D)",
    mask: "j <= i",
    weight: "softmax(score)",
    outputs: "weight @ v, lse, max_logit",
};

/// The same cache in pages.
const PAGED: &str = "attention few {
  dims B, Hq, Hkv, Sq, Sk, D
  input q     : float[B, Hq, Sq, D]
  cache k, v  : {elem}[B, Hkv, Sk, D] paged (size = {size}, table = pages, len = kv_len) {scale}
  input slope : f32[Hq]
  heads grouped
  align bottom_right
  score  = dot(q, k) / sqrt(D) + slope[h] * float(j - i)
  mask   = {mask}
  weight = softmax(score)
  return weight @ v, lse
}";

impl Spec {
    fn text(self) -> String {
        let text = TEXT.replace("{elem}", self.elem).replace("{layout}", self.layout);
        let text = text.replace("{score}", self.score).replace("{mask}", self.mask);
        text.replace("{weight}", self.weight).replace("{outputs}", self.outputs)
    }
}

fn made(text: &str, dtype: DType, (hq, hkv, d): (i64, i64, i64)) -> (Plan, LoadedKernel) {
    let plan = plan(&front("few.attn", text), &key("few", dtype, &[("Hq", hq), ("Hkv", hkv), ("D", d)]));
    let artifact = pipeline::emit(&plan, &mut ()).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let kernel = LoadedKernel::load(artifact).unwrap_or_else(|e| panic!("{e}\n{text}"));
    (plan, kernel)
}

fn bytes(out: &[Tensor]) -> Vec<&[u8]> {
    out.iter().map(Tensor::bytes).collect()
}

/// How many key heads a task takes, 0 where there is no sweep.
fn key_heads(plan: &Plan) -> i64 {
    plan.attends[0].sweep.as_ref().map_or(0, |s| s.key_heads)
}

/// Against the reference, at all lengths; 1, 2 and 3 threads give the same bits.
fn check(text: &str, dtype: DType, heads: (i64, i64, i64), expected: i64) {
    let (plan, kernel) = made(text, dtype, heads);
    assert_eq!(key_heads(&plan), expected, "{heads:?}\n{text}");
    for (b, sq, sk) in [(1, 1, 1), (2, 1, 33), (1, 3, 257), (2, 2, 300), (3, 1, 1100), (1, 40, 90)] {
        let dims = [
            ("B", b),
            ("Sq", sq),
            ("Sk", sk),
            ("max_pages", (sk + 31) / 16),
            ("n_pages", b * (sk + 63) / 16),
        ];
        let what = format!("{heads:?} B = {b}, Sq = {sq}, Sk = {sk}, {dtype}\n{text}");
        let p = problem(&plan.kernel, &dims, &|_| (0, 2), (sk * 31 + sq) as u64);
        let out = run(&kernel, &plan.kernel, &p, 2);
        verify(&plan.kernel, dtype, &p, &out, &what);
        for threads in [1, 3] {
            assert_eq!(bytes(&run(&kernel, &plan.kernel, &p, threads)), bytes(&out), "{threads}: {what}");
        }
    }
}

#[test]
fn heads_of_a_token_side_by_side() {
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        check(&PLAIN.text(), dtype, (8, 4, 64), 4);
        check(&PLAIN.text(), dtype, (6, 2, 40), 2);
    }
    // Each head has keys of its own, or a number of heads that is no power of two.
    check(&PLAIN.text(), DType::F32, (5, 5, 128), 5);
    check(&PLAIN.text(), DType::Bf16, (9, 3, 128), 3);
}

#[test]
fn heads_one_after_the_other_stay_so() {
    check(&Spec { layout: "", ..PLAIN }.text(), DType::F32, (8, 4, 64), 0);
    check(&PLAIN.text(), DType::F32, (8, 1, 64), 0);
}

#[test]
fn every_kind_of_score_mask_and_weight() {
    let heads = (8, 4, 32);
    let of = |s: Spec, dtype, expected| check(&s.text(), dtype, heads, expected);
    let alibi = "dot(q, k) / sqrt(D) + slope[h] * float(j - i)";
    of(Spec { score: alibi, ..PLAIN }, DType::F32, 4);
    of(Spec { score: "tanh(dot(q, k) / 5.0) * 5.0", ..PLAIN }, DType::Bf16, 4);
    of(Spec { mask: "true", ..PLAIN }, DType::F32, 4);
    of(Spec { mask: "j <= i & j mod 3 != 1", ..PLAIN }, DType::F32, 4);
    let sink = "softmax(score, sink = slope[h])";
    of(Spec { weight: sink, outputs: "weight @ v, lse", ..PLAIN }, DType::F32, 4);
    of(Spec { weight: "sigmoid(score)", outputs: "weight @ v", ..PLAIN }, DType::F32, 4);
    of(Spec { weight: "relu(score)", outputs: "weight @ v, max_logit", ..PLAIN }, DType::F16, 4);
    // Heads that share keys have largest scores and sinks of their own: a task for each.
    of(Spec { weight: sink, ..PLAIN }, DType::F32, 0);
    check(&Spec { weight: sink, ..PLAIN }.text(), DType::F32, (3, 3, 32), 3);
    // What each head sees is its own, or near it.
    of(Spec { mask: "j <= i & (h mod 2 == 0 | j mod 2 == 0)", ..PLAIN }, DType::F32, 0);
    of(Spec { mask: "j in (i - 64, i]", ..PLAIN }, DType::F32, 0);
}

#[test]
fn pages_are_read_where_they_lie() {
    let text = |elem: &str, size: i64, mask: &str, scale: &str| {
        let text = PAGED.replace("{elem}", elem).replace("{size}", &size.to_string());
        text.replace("{mask}", mask).replace("{scale}", scale)
    };
    let (scaled, all) = ("scale f16 per (token, head)", "j <= i");
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        check(&text("float", 16, all, ""), dtype, (8, 4, 64), 4);
        check(&text("float", 32, all, ""), dtype, (4, 2, 128), 2);
        check(&text("i8", 16, all, scaled), dtype, (8, 2, 64), 2);
    }
    check(&text("f8e4m3", 64, all, ""), DType::Bf16, (4, 2, 32), 2);
    check(&text("i8", 48, all, "scale f32 per (head)"), DType::F32, (4, 2, 32), 2);
    // Keys near a row, and one key head: a task for each head, which reads pages all the same.
    check(&text("float", 16, "j in (i - 64, i]", ""), DType::F32, (8, 4, 32), 1);
    check(&text("i8", 32, all, scaled), DType::F32, (4, 1, 32), 1);
    // Pages that are no whole number of vectors are joined first.
    check(&text("float", 8, all, ""), DType::F32, (4, 2, 32), 0);
}

/// Stored integers whose heads lie side by side, without pages.
#[test]
fn scales_belong_to_their_heads() {
    let text = PAGED
        .replace("paged (size = {size}, table = pages, len = kv_len)", "layout (B, Sk, Hkv, D) len = kv_len");
    let text = text.replace("{elem}", "i8").replace("{mask}", "j <= i");
    check(&text.replace("{scale}", "scale f16 per (token, head)"), DType::F32, (8, 4, 64), 4);
    check(&text.replace("{scale}", "scale f32 per (token)"), DType::Bf16, (4, 2, 32), 2);
}

struct At<'a>(&'a Plan, i64);

impl Env for At<'_> {
    fn var(&self, var: VarId) -> Value {
        Value::Int(if self.0.program.pool.var_info(var).name == "Sq" { self.1 } else { 64 })
    }
    fn load(&self, _: TensorId, _: &[i64]) -> Value {
        panic!("sizes depend on lengths alone")
    }
}

/// Tasks of the launches that join pages, and elements of what they make.
fn joined(plan: &Plan, sq: i64) -> (i64, i64) {
    let program = &plan.program;
    let size = |id: &_| eval(&program.pool, *id, &At(plan, sq)).int();
    let launches =
        program.launches.iter().filter(|l| l.name.ends_with("_rows") && l.name.starts_with("derive"));
    let tasks = launches.map(|l| l.grid.iter().map(|(_, n)| size(n)).product::<i64>()).sum();
    let made = program.tensors.iter().filter(|t| t.name == "k_rows" || t.name == "v_rows");
    (tasks, made.map(|t| t.shape.iter().map(size).product::<i64>()).sum())
}

/// Where lengths promise many rows, keys are packed, and that is all.
#[test]
fn calls_of_many_rows_alone_have_no_sweep() {
    let paged = PAGED.replace("{elem}", "i8").replace("{size}", "16").replace("{mask}", "j <= i");
    let paged = paged.replace("{scale}", "scale f16 per (token, head)");
    for text in [PLAIN.text(), paged] {
        for queries in ["Sq = 64, Sk", "Sq = 40..500, Sk"] {
            let (plan, _) = made(&text.replace("Sq, Sk", queries), DType::F32, (8, 4, 64));
            let attends = plan.program.launches.iter().filter(|l| l.name.starts_with("attend"));
            assert_eq!((key_heads(&plan), attends.count()), (0, 1), "{queries} {text}");
        }
    }
}

/// A cache too small for the rows of several key heads: heads one after the other, pages in place all the same.
#[test]
fn a_small_cache_takes_fewer_heads() {
    let paged = PAGED.replace("{elem}", "float").replace("{size}", "16").replace("{mask}", "j <= i");
    let paged = paged.replace("{scale}", "");
    for (text, hq, hkv, d, expected) in
        [(PLAIN.text(), 64, 2, 512, 0), (paged, 64, 2, 512, 1), (PLAIN.text(), 128, 64, 256, 32)]
    {
        let mut key = key("few", DType::F32, &[("Hq", hq), ("Hkv", hkv), ("D", d)]);
        let Target::Cpu(facts) = &mut key.target else { panic!("a CPU") };
        facts.l2 = 256 << 10;
        assert_eq!(key_heads(&plan(&front("few.attn", &text), &key)), expected, "{hkv} {text}");
    }
}

#[test]
fn only_calls_of_many_rows_join_pages() {
    let text = PAGED.replace("{elem}", "float").replace("{size}", "16").replace("{scale}", "");
    let text = text.replace("{mask}", "j <= i");
    let (plan, _) = made(&text, DType::F32, (8, 4, 64));
    assert_eq!(joined(&plan, 16), (0, 0));
    assert!(joined(&plan, 17).0 > 0 && joined(&plan, 17).1 > 0);
    // Where lengths promise few rows there is no such launch at all.
    let (few, _) = made(&text.replace("Sq, Sk", "Sq = 1..8, Sk"), DType::F32, (8, 4, 64));
    assert_eq!(joined(&few, 8), (0, 0));
    assert!(few.program.launches.iter().all(|l| l.name.starts_with("attend") || l.name == "merge"));
}
