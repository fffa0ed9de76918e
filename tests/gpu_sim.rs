//! Every kernel of the gallery and of the shared specifications as PTX for sm_80 and sm_90a, executed in the simulator
//! and compared with the f64 reference at the tolerances of math.md.
//!
//! Comes in: their texts, with few heads. What is tested: lengths 1 to 300, Sq != Sk, grouped heads; bf16 at all of them, f16
//! and f32 at two; few queries over runs of many keys; two orders of warps, blocks and copies for each, twenty for the kernels of [`SCHEDULES`], which are of every
//! distinct schedule; that no order changes a bit, nor how many persistent blocks there are (the seed says so too). `ATTN_SIM_SWEEP=1` takes every dtype at all lengths, in twenty orders each.
//! `ATTN_LLVM` names the worker, `tests/run` sets it. Deliberately not here: what ptxas says (`gpu_ptxas.rs`), whether faults
//! are noticed (`gpu_mutants.rs`), GPUs.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use attn_compiler::artifact::DType;
use attn_compiler::pipeline;
use attn_compiler::target::GpuArch;
use attn_runtime::Tensor;
use common::compare;
use common::examples::Point;
use common::gpu::{Compiled, Subject, subjects, subjects_of};
use rayon::prelude::*;

/// What is executed: the portable target and the one with instructions of its own.
const ARCHS: [GpuArch; 2] = [GpuArch::Sm80, GpuArch::Sm90a];
/// Queries and keys: one length, then two.
const LENGTHS: [(i64, i64); 8] =
    [(1, 1), (17, 17), (64, 64), (129, 129), (300, 300), (1, 300), (17, 129), (129, 64)];
/// Lengths of the dtypes that are not run at all of them.
const FEW: [(i64, i64); 2] = [(17, 17), (129, 129)];
/// Lengths for twenty orders.
const ORDERED: [(i64, i64); 2] = [(17, 17), (129, 129)];

/// Kernels of every distinct schedule, and of every kind of step: products on tensor cores, exact products, decoding,
/// caches, states, chosen rows, made rows.
const SCHEDULES: [&str; 30] = [
    "bias/biased",
    "minilm/minilm",
    "causal/causal",
    "bidirectional/bidirectional",
    "swa_sinks/swa_sinks",
    "softcap/softcap_window",
    "sigmoid/sigmoid_attn",
    "bigbird/bigbird",
    "block_mask/block_mask",
    "doc_causal/doc_causal",
    "longformer_global/longformer_global",
    "04_gemma2/gemma2",
    "dropout/dropout",
    "t5/t5_decoder",
    "gqa_decode/gqa_decode",
    "gqa_decode_int8/gqa_decode_int8",
    "09_gqa_decode_int8/gqa_decode_int8",
    "chunked_prefill/chunked_prefill",
    "mla/mla",
    "tree/tree",
    "rope/rope",
    "14_yarn/yarn_gqa",
    "fox/fox",
    "longt5_tglobal/longt5_tglobal",
    "linear_normalised/linear_normalised",
    "gated_delta/gated_delta",
    "transnormer/transnormer",
    "colt5/colt5",
    "moba/moba",
    "nsa/nsa",
];

/// Few queries, and keys that fall into runs: two with a rest, some that are no multiple, a tile's end.
const RUNS: [(i64, i64); 3] = [(1, 600), (5, 1100), (17, 521)];
/// As [`RUNS`] for exact products.
const FEW_RUNS: [(i64, i64); 1] = [(2, 600)];

/// Kernels whose keys fall into runs: a sink for each head, weights that are not normalised, the largest score.
const RUNNING: &str = "attention sunk {
  dims B, Hq, Hkv, Sq, Sk, D
  input q    : float[B, Hq, Sq, D]
  input k, v : float[B, Hkv, Sk, D]
  input sink : f32[Hq]
  heads grouped
  align bottom_right
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i
  weight = softmax(score, sink = sink[h])
  return weight @ v, lse
}
attention summed {
  dims B, Hq, Hkv, Sq, Sk, D
  input q    : float[B, Hq, Sq, D]
  input k, v : float[B, Hkv, Sk, D]
  input keep : bit[B, Sk]
  heads grouped
  score  = dot(q, k) / sqrt(D)
  mask   = keep[b, j] & j mod 32 == 3
  weight = sigmoid(score)
  return weight @ v
}
attention topped {
  dims B, Hq, Hkv, Sq, Sk, D
  input q    : float[B, Hq, Sq, D]
  input k, v : float[B, Hkv, Sk, D]
  heads grouped
  align bottom_right
  score  = dot(q, k) / sqrt(D)
  mask   = j < i - 300
  weight = softmax(score, sink = 0.25)
  return weight @ v, lse, max_logit
}
";

/// Whether everything is to be run.
fn sweep() -> bool {
    std::env::var_os("ATTN_SIM_SWEEP").is_some()
}

/// Feature dims where the text leaves them open.
const FEATURES: i64 = 64;
/// As [`FEATURES`] for kernels without products on tensor cores: exact ones are slow to simulate.
fn exact_features(float: DType) -> i64 {
    if float == DType::F32 { 40 } else { 24 }
}

/// What came of one kernel.
#[derive(Default)]
struct Found {
    runs: usize,
    wrong: Vec<String>,
}

impl Found {
    fn and(mut self, other: Found) -> Found {
        self.runs += other.runs;
        self.wrong.extend(other.wrong);
        self
    }
}

/// One kernel of one dtype on every architecture.
fn check(subject: &Subject, float: DType, lengths: &[(i64, i64)], seeds: u64) -> Found {
    let mut found = Found::default();
    let mut made: Vec<Compiled> = Vec::new();
    let features = features(subject, float);
    for arch in ARCHS {
        let compiled = subject.compile(arch, float, features);
        match compiled {
            // Text that differs in the name of its target alone would do the same again.
            Ok(compiled) if made.iter().any(|m| instructions(m) == instructions(&compiled)) => {}
            Ok(compiled) => made.push(compiled),
            Err(no) => found.wrong.push(format!("{} {} {float}: {}", subject.name, arch.name(), no.text)),
        }
    }
    let mut seen = BTreeSet::new();
    for &(queries, keys) in lengths {
        let Some(point) = subject.at(queries, keys, features) else { continue };
        if seen.insert(point.dims.clone()) {
            found = found.and(check_at(&made, &point, seeds));
        }
    }
    found
}

/// Feature dims for a kernel: fewer if no architecture multiplies on tensor cores.
fn features(subject: &Subject, float: DType) -> i64 {
    let has_products = |arch: GpuArch| {
        let plan = pipeline::plan(&subject.spec, &subject.key(arch, float, FEATURES), &mut ()).ok()?;
        let code = attn_compiler_gpu::emit(&plan.program, arch).ok()?;
        Some(["mma.sync", "wgmma"].iter().any(|p| code.mlir().contains(p)))
    };
    let has = ARCHS.into_iter().any(|arch| has_products(arch) == Some(true));
    if has { FEATURES } else { exact_features(float) }
}

/// The schedules of a kernel, without the bytes that they take.
fn schedules(subject: &Subject, float: DType) -> BTreeSet<String> {
    let features = features(subject, float);
    let plan = |arch| pipeline::plan(&subject.spec, &subject.key(arch, float, features), &mut ());
    let texts = ARCHS.into_iter().filter_map(|arch| Some(plan(arch).ok()?.schedule_text()));
    let parts = |line: &str| {
        line.split(", ").filter(|p| !p.starts_with("sram")).map(str::to_string).collect::<Vec<_>>().join(", ")
    };
    texts.flat_map(|t| t.lines().map(parts).collect::<Vec<_>>()).collect()
}

/// All lines but the one that names the target.
fn instructions(compiled: &Compiled) -> Vec<&str> {
    compiled.ptx().lines().filter(|l| !l.starts_with(".target")).collect()
}

/// At one size: every order on every architecture; equal bits need no second comparison.
fn check_at(made: &[Compiled], point: &Point, seeds: u64) -> Found {
    let mut found = Found::default();
    let Some(first) = made.first() else { return found };
    let problem = first.problem(point);
    let mut right: Option<Vec<Tensor>> = None;
    for compiled in made {
        let place = |seed: u64| format!("{} {} seed {seed}", compiled.what, sizes(point));
        let kernel = match compiled.load() {
            Ok(kernel) => kernel,
            Err(e) => {
                found.wrong.push(format!("{}: {e}", compiled.what));
                continue;
            }
        };
        let mut of_first_seed: Option<Vec<Tensor>> = None;
        for seed in 0..seeds {
            found.runs += 1;
            let out = match compiled.run(&kernel, &problem, seed) {
                Ok(out) => out,
                Err(e) => {
                    found.wrong.push(format!("{}: {e}", place(seed)));
                    break;
                }
            };
            if of_first_seed.as_ref().is_some_and(|first| !same(first, &out)) {
                found.wrong.push(format!("{}: other bits than with seed 0", place(seed)));
                break;
            }
            if !right.as_ref().is_some_and(|right| same(right, &out)) {
                if let Err(e) = compare(&compiled.plan.kernel, compiled.float, &problem, &out) {
                    found.wrong.push(format!("{}: {e}", place(seed)));
                    break;
                }
                right = Some(out.clone());
            }
            of_first_seed.get_or_insert(out);
        }
    }
    found
}

fn same(a: &[Tensor], b: &[Tensor]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.bytes() == b.bytes())
}

fn sizes(point: &Point) -> String {
    let sizes: Vec<String> = point.dims.iter().map(|(n, v)| format!("{n}={v}")).collect();
    sizes.join(",")
}

/// A kernel, its dtype, lengths, and how many orders.
type Job<'a> = (&'a Subject, DType, &'a [(i64, i64)], u64);

/// Runs all, tells how long it took and panics with everything that is wrong.
fn all(what: &str, jobs: Vec<Job<'_>>) {
    let (start, n) = (Instant::now(), jobs.len());
    let found: Found = jobs
        .into_par_iter()
        .map(|(subject, float, lengths, seeds)| {
            let start = Instant::now();
            let found = check(subject, float, lengths, seeds);
            if std::env::var_os("ATTN_SIM_TIMES").is_some() {
                println!(
                    "{:8.2} s {:5} runs {} {float}",
                    start.elapsed().as_secs_f64(),
                    found.runs,
                    subject.name
                );
            }
            found
        })
        .reduce(Found::default, Found::and);
    println!("{what}: {n} kernels, {} runs in {:.1} s", found.runs, start.elapsed().as_secs_f64());
    assert!(found.runs >= n, "{what}: {} runs of {n} kernels\n{}", found.runs, found.wrong.join("\n"));
    assert!(found.wrong.is_empty(), "{what}: {} wrong\n{}", found.wrong.len(), found.wrong.join("\n"));
}

/// Every kernel in one dtype.
fn every_kernel(float: DType, lengths: &'static [(i64, i64)]) {
    let subjects = subjects();
    let (lengths, seeds) = if sweep() { (&LENGTHS[..], 20) } else { (lengths, 2) };
    all(&format!("{float}"), subjects.iter().map(|s| (s, float, lengths, seeds)).collect());
}

#[test]
fn every_kernel_in_bf16() {
    every_kernel(DType::Bf16, &LENGTHS);
}

#[test]
fn every_kernel_in_f16() {
    every_kernel(DType::F16, &FEW);
}

#[test]
fn every_kernel_in_f32() {
    every_kernel(DType::F32, &FEW);
}

#[test]
fn every_schedule_in_twenty_orders() {
    let subjects = subjects();
    let mut jobs = Vec::new();
    for name in SCHEDULES {
        let subject = subjects.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{name} is gone"));
        for float in [DType::Bf16, DType::F32] {
            jobs.push((subject, float, &ORDERED[..], 20));
        }
    }
    all("twenty orders", jobs);
}

/// The runs of a query tile are merged by another launch.
#[test]
fn runs_of_keys() {
    let own = subjects_of(Path::new("runs.attn"), RUNNING, false);
    let all_others = subjects();
    let named = ["causal/causal", "gqa_decode/gqa_decode", "minilm/minilm"];
    let others = all_others.iter().filter(|s| named.contains(&s.name.as_str()) && s.at(1, 600, 64).is_some());
    let mut jobs: Vec<Job<'_>> = Vec::new();
    for subject in own.iter().chain(others) {
        for arch in ARCHS {
            let key = subject.key(arch, DType::Bf16, FEATURES);
            let plan = pipeline::plan(&subject.spec, &key, &mut ()).unwrap_or_else(|e| panic!("{e}"));
            let fills = plan.attends.iter().any(|a| a.schedule.fill.is_some());
            assert!(fills, "{}: {}", subject.name, plan.schedule_text());
        }
        jobs.push((subject, DType::Bf16, &RUNS[..], 3));
        jobs.push((subject, DType::F32, &FEW_RUNS[..], 2));
    }
    assert!(jobs.len() >= 10);
    all("runs of keys", jobs);
}

#[test]
fn twenty_orders_are_run_for_every_distinct_schedule() {
    let subjects = subjects();
    let of =
        |s: &Subject| [DType::Bf16, DType::F32].into_iter().flat_map(|f| schedules(s, f)).collect::<Vec<_>>();
    let chosen = subjects.iter().filter(|s| SCHEDULES.contains(&s.name.as_str()));
    let covered: BTreeSet<String> = chosen.flat_map(of).collect();
    let mut left: Vec<String> = Vec::new();
    for subject in &subjects {
        let others = of(subject).into_iter().filter(|text| !covered.contains(text));
        left.extend(others.map(|text| format!("{}: {text}", subject.name)));
    }
    println!("{} schedules: {covered:#?}", covered.len());
    assert!(left.is_empty(), "not in SCHEDULES:\n{}", left.join("\n"));
}
