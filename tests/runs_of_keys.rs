//! Few query rows over many keys: the keys fall into runs that tasks of their own take. Against the dense f64 reference at
//! lengths around those at which another run begins; that threads and the order of a batch change no bit; that one run is
//! what a kernel without runs computes, bit for bit, and takes no memory.
//!
//! Deliberately not here: runs that the text fixes (`shared_tiles.rs`, `serving.rs`), GPUs (`gpu_sim.rs`).

mod common;

use attn_compiler::artifact::DType;
use attn_compiler::expr::eval::{Env, Value, eval};
use attn_compiler::expr::{TensorId, VarId};
use attn_compiler::host::{Data, View};
use attn_compiler::pipeline::{self, Plan};
use attn_compiler::tile_ir::{TensorDecl, TensorKind};
use attn_runtime::{LoadedKernel, Tensor};
use common::*;

const TEXT: &str = "attention runs {
  dims B, Hq, Hkv, Sq, Sk, D
  input q    : float[B, Hq, Sq, D]
  input k, v : float[B, Hkv, Sk, D]
  input sink : f32[Hq]
  input keep : bit[B, Sk]
  heads grouped
  align bottom_right
  score  = dot(q, k) / sqrt(D)
  mask   = {mask}
  weight = {weight}
  return {outputs}
  {more}
}";
const ALL: &str = "weight @ v, lse, max_logit";
const SINK: &str = "softmax(score, sink = sink[h])";
/// Batch, queries, keys: a run below two, two, some, the most, many rows that are packed.
const LENGTHS: [(i64, i64, i64); 7] =
    [(1, 1, 2047), (1, 1, 2048), (2, 3, 5000), (3, 1, 4133), (1, 1, 17000), (1, 70, 3100), (40, 1, 2100)];

fn text(mask: &str, weight: &str, outputs: &str, more: &str) -> String {
    let text = TEXT.replace("{mask}", mask).replace("{weight}", weight);
    text.replace("{outputs}", outputs).replace("{more}", more)
}

struct Made {
    plan: Plan,
    kernel: LoadedKernel,
}

fn made(text: &str, dtype: DType, (hq, hkv): (i64, i64)) -> Made {
    let name = if text.contains("attention cached") { "cached" } else { "runs" };
    let plan = plan(&front("runs.attn", text), &key(name, dtype, &[("Hq", hq), ("Hkv", hkv), ("D", 24)]));
    let artifact = pipeline::emit(&plan, &mut ()).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let kernel = LoadedKernel::load(artifact).unwrap_or_else(|e| panic!("{e}\n{text}"));
    Made { plan, kernel }
}

/// Lengths by name.
struct At<'a>(&'a Plan, &'a [(&'a str, i64)]);

impl Env for At<'_> {
    fn var(&self, var: VarId) -> Value {
        let name = &self.0.program.pool.var_info(var).name;
        Value::Int(self.1.iter().find(|(n, _)| n == name).expect("a length").1)
    }
    fn load(&self, _: TensorId, _: &[i64]) -> Value {
        panic!("sizes depend on lengths alone")
    }
}

/// Runs that a kernel makes at some lengths, by the coordinate of its grid; 0 where it knows none.
fn runs(plan: &Plan, dims: &[(&str, i64)]) -> i64 {
    let pool = &plan.program.pool;
    let grids = plan.program.launches.iter().flat_map(|l| &l.grid);
    let part = grids.into_iter().find(|(var, _)| pool.var_info(*var).name == "part");
    part.map_or(0, |(_, extent)| eval(pool, *extent, &At(plan, dims)).int())
}

/// Elements of partial results, and tasks of their merge.
fn merged(plan: &Plan, dims: &[(&str, i64)]) -> (i64, i64) {
    let program = &plan.program;
    let size = |id| eval(&program.pool, id, &At(plan, dims)).int();
    let partial = |t: &&TensorDecl| t.name.starts_with("part_") && t.kind == TensorKind::Workspace;
    let elements = program.tensors.iter().filter(partial);
    let elements = elements.map(|t| t.shape.iter().map(|&n| size(n)).product::<i64>()).sum();
    let merge = program.launches.iter().find(|l| l.name == "merge").expect("a merge");
    (elements, merge.grid.iter().map(|(_, n)| size(*n)).product())
}

fn bytes(out: &[Tensor]) -> Vec<&[u8]> {
    out.iter().map(Tensor::bytes).collect()
}

/// Against the reference at all lengths, and the same bits on other numbers of threads.
fn check(text: &str, dtype: DType, heads: (i64, i64), most: &[i64; 7]) {
    let made = made(text, dtype, heads);
    let ir = &made.plan.kernel;
    for ((b, sq, sk), expected) in LENGTHS.into_iter().zip(most) {
        let dims = [("B", b), ("Sq", sq), ("Sk", sk)];
        let what = format!("{heads:?} B = {b}, Sq = {sq}, Sk = {sk}, {dtype}\n{text}");
        let found = runs(&made.plan, &dims);
        assert_eq!(found, *expected, "{what}");
        let d_and_vectors = |n: i64| n * b * heads.0 * sq;
        let vectors = 24 + 1 + i64::from(text.contains("max_logit"));
        let (elements, tasks) = merged(&made.plan, &dims);
        let vectors = if text.contains("softmax") { vectors } else { 24 };
        assert_eq!(elements, if found > 1 { d_and_vectors(found * vectors) } else { 0 }, "{what}");
        assert_eq!(tasks > 0, found > 1, "{what}");
        let mut p = problem(ir, &dims, &|_| (0, 2), (sk * 31 + sq) as u64);
        sparse(&mut p);
        let out = run(&made.kernel, ir, &p, 2);
        verify(ir, dtype, &p, &out, &what);
        for threads in [1, 3, 5] {
            assert_eq!(bytes(&run(&made.kernel, ir, &p, threads)), bytes(&out), "{threads} threads: {what}");
        }
    }
}

/// The tensor `keep` sees a few keys of the second half, so that whole runs see none, and entry 1 sees none at all.
fn sparse(p: &mut Problem) {
    let Some(at) = p.tensors.iter().position(|(n, _)| n == "keep") else { return };
    let shape = p.tensors[at].1.shape().to_vec();
    let (b, n) = (shape[0], shape[1]);
    let kept = |i: usize| i / n != 1 && i % n > n / 2 && i % 97 == 5;
    let data = Data::Bool((0..b * n).map(kept).collect());
    p.tensors[at].1 = bound(DType::Bit, &data, &shape, &[0, 1]);
    p.inputs.tensors.insert("keep".into(), View::contiguous(shape, data).expect("the right count"));
}

/// Of 4 heads over 2, all of a group in a tile: 2 tiles of heads, so 16 runs fill 32 tasks.
const OF_TWO: [i64; 7] = [1, 2, 4, 4, 16, 3, 1];

#[test]
fn plain_masked_and_without_any_key() {
    for dtype in [DType::F32, DType::Bf16] {
        check(&text("j <= i", "softmax(score)", ALL, ""), dtype, (4, 2), &OF_TWO);
    }
    check(&text("true", "softmax(score)", "weight @ v, lse", ""), DType::F32, (4, 2), &OF_TWO);
    check(&text("keep[b, j]", "softmax(score)", ALL, ""), DType::F32, (4, 2), &OF_TWO);
    check(&text("j < i - 3 & keep[b, j]", "softmax(score)", ALL, ""), DType::F16, (4, 2), &OF_TWO);
}

#[test]
fn sinks_take_part_once() {
    check(&text("j <= i", SINK, "weight @ v, lse", ""), DType::F32, (4, 2), &OF_TWO);
    check(&text("keep[b, j]", SINK, "weight @ v, lse", ""), DType::F32, (4, 2), &OF_TWO);
    // Heads with sinks of their own and a largest score have tiles of their own: 4 of them.
    check(&text("j <= i", SINK, ALL, ""), DType::F32, (4, 2), &[1, 2, 4, 2, 8, 3, 1]);
    // As have heads that share no keys.
    check(&text("j <= i", SINK, "weight @ v, lse", ""), DType::F32, (3, 3), &[1, 2, 4, 3, 10, 3, 1]);
    check(
        &text("j <= i", "softmax(score, sink = 0.5)", "weight @ v", ""),
        DType::F32,
        (8, 1),
        &[1, 2, 4, 4, 16, 3, 1],
    );
}

#[test]
fn weights_that_are_not_normalised() {
    check(&text("j <= i", "sigmoid(score)", "weight @ v", ""), DType::F32, (4, 2), &OF_TWO);
    check(&text("keep[b, j]", "relu(score)", "weight @ v", ""), DType::F32, (4, 2), &OF_TWO);
}

/// One run is what the attention computes without runs, bit for bit; several are not.
#[test]
fn one_run_changes_no_bit() {
    for (mask, weight, outputs) in [
        ("j <= i", "softmax(score)", ALL),
        ("j <= i", SINK, "weight @ v, lse"),
        ("keep[b, j]", "softmax(score, sink = -1.0)", ALL),
        ("j <= i", "sigmoid(score)", "weight @ v"),
    ] {
        let fills = made(&text(mask, weight, outputs, ""), DType::F32, (4, 2));
        let never = text(mask, weight, outputs, "numerics { batch_invariant = true }");
        let never = made(&never, DType::F32, (4, 2));
        for (b, sq, sk, same) in
            [(2, 1, 1, true), (1, 3, 2047, true), (16, 1, 2100, true), (1, 1, 4096, false)]
        {
            let dims = [("B", b), ("Sq", sq), ("Sk", sk)];
            assert_eq!((runs(&fills.plan, &dims) == 1, runs(&never.plan, &dims)), (same, 0));
            let p = problem(&fills.plan.kernel, &dims, &|_| (0, 2), 3);
            let [a, b] = [&fills, &never].map(|m| run(&m.kernel, &m.plan.kernel, &p, 2));
            assert_eq!(bytes(&a) == bytes(&b), same, "{mask} {weight} {dims:?}");
        }
    }
}

const CACHED: &str = "attention cached {
  dims B, Hq, Hkv, Sq, Sk, D
  heads grouped
  align bottom_right
  input q    : float[B, Hq, Sq, D]
  cache k, v : float[B, Hkv, Sk, D] {how}
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i
  weight = softmax(score)
  return weight @ v, lse
}";

/// With lengths of their own the keys that a sequence has fall into its runs; another order of the batch gives the same rows.
#[test]
fn every_sequence_has_runs_of_its_own() {
    for how in ["len = kv_len", "paged (size = 16, table = pages, len = kv_len)"] {
        for dtype in [DType::F32, DType::Bf16] {
            let made = made(&CACHED.replace("{how}", how), dtype, (4, 2));
            let ir = &made.plan.kernel;
            let dims = [("B", 5), ("Sq", 2), ("Sk", 6144), ("max_pages", 384), ("n_pages", 2000)];
            assert_eq!(runs(&made.plan, &dims), 3, "{how}");
            let mut p = problem(ir, &dims, &|_| (0, 0), 9);
            let lengths = [0i64, 2, 6144, 3000, 1025];
            let mut go = |order: [usize; 5], what: &str| {
                of_batch(&mut p, "kv_len", &order.map(|b| lengths[b]));
                let out = run(&made.kernel, ir, &p, 2);
                verify(ir, dtype, &p, &out, &format!("{how} {dtype} {what}"));
                out
            };
            let out = go([0, 1, 2, 3, 4], "as they are");
            assert!(out[0].view().to_f64_vec()[..4 * 2 * 24].iter().all(|x| *x == 0.0));
            // Keys of the same length at another place of the batch: entry 2 is as long as entry 3 was.
            let turned = go([0, 1, 3, 2, 4], "turned");
            let row = |out: &[Tensor], b: usize| {
                let x = out[0].view().to_f64_vec();
                x[b * 192..(b + 1) * 192].to_vec()
            };
            for b in [0, 1, 4] {
                assert_eq!(
                    row(&out, b),
                    row(&turned, b),
                    "entry {b} does not depend on what the others hold"
                );
            }
        }
    }
}

fn of_batch(p: &mut Problem, name: &str, values: &[i64]) {
    let at = p.tensors.iter().position(|(n, _)| n == name).expect("lengths");
    let shape = vec![values.len()];
    let data = Data::Int(values.to_vec());
    let dtype = p.tensors[at].1.dtype();
    p.tensors[at].1 = bound(dtype, &data, &shape, &[0]);
    p.inputs.tensors.insert(name.into(), View::contiguous(shape, data).expect("the right count"));
}
