//! Peak memory of long runs: what the host binds, one packed K and V, the caches of the threads, and little more; nothing
//! grows with the product of the lengths.
//!
//! Comes in: a kernel and a length, each measured in a process of its own (this program again, without the test harness).
//! Goes out: the most memory that the process ever held, beside that of a short run and what the problem needs.
//! Deliberately not done: hosts other than Linux, where the peak is not read; results (`specs_verify.rs`).

mod common;

use std::process::Command;

use attn_compiler::artifact::DType;
use attn_compiler::pipeline;
use attn_compiler::target::Target;
use attn_runtime::{LoadedKernel, NamedInput, NamedOutput, RunOptions, Tensor};
use common::*;

const TEXT: &str = "attention long {
  dims B, Hq, Hkv, S, D
  heads grouped
  input q    : float[B, Hq, S, D]
  input k, v : float[B, Hkv, S, D]
  score  = dot(q, k) / sqrt(D)
  mask   = MASK
  weight = softmax(score)
  return weight @ v, lse
}";
const LONG: usize = 65536;
const SHORT: usize = 64;
const D: usize = 64;
const THREADS: usize = 2;
/// The argument before a case and a length, in a process that measures.
const MEASURE: &str = "--measure";

/// Name, mask, query heads, key heads.
const CASES: [(&str, &str, usize, usize); 3] = [
    ("window", "j in (i - 256, i]", 1, 1),
    ("window of groups", "j in (i - 256, i]", 4, 2),
    ("causal", "j <= i", 1, 1),
];

/// Runs once, as a host would: nothing is held but what is bound.
fn measured(mask: &str, heads: (usize, usize), len: usize) {
    let front = front("long.attn", &TEXT.replace("MASK", mask));
    let sizes = [("Hq", heads.0 as i64), ("Hkv", heads.1 as i64), ("D", D as i64)];
    let artifact = pipeline::emit(&plan(&front, &key("long", DType::F32, &sizes)), &mut ()).expect("code");
    let kernel = LoadedKernel::load(artifact).expect("a kernel");
    let tensor = |heads: usize, seed: u32| {
        let mut t = Tensor::zeros(DType::F32, &[1, heads, len, D]).expect("an input");
        let mut state = seed;
        for x in t.as_mut_slice::<f32>().expect("f32") {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *x = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
        }
        t
    };
    let (q, k, v) = (tensor(heads.0, 1), tensor(heads.1, 2), tensor(heads.1, 3));
    let mut o = Tensor::zeros(DType::F32, &[1, heads.0, len, D]).expect("an output");
    let mut lse = Tensor::zeros(DType::F32, &[1, heads.0, len]).expect("an output");
    let inputs: [NamedInput; 3] = [("q", q.view()), ("k", k.view()), ("v", v.view())];
    let mut outputs: [NamedOutput; 2] = [("o", o.view_mut()), ("lse", lse.view_mut())];
    kernel.run(&inputs, &mut outputs, &[], &RunOptions::threads(THREADS).expect("threads")).expect("a run");
    assert!(o.as_slice::<f32>().expect("f32").iter().all(|x| x.abs() <= 1.0), "averages of values");
}

/// Most bytes that this process ever held.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kib| kib << 10)
}

/// The peak of a case at a length, in a process of its own.
fn peak_of(case: usize, len: usize) -> usize {
    let program = std::env::current_exe().expect("this program");
    let out = Command::new(program).args([MEASURE, &case.to_string(), &len.to_string()]).output();
    let out = out.expect("a process");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    text.trim().parse().unwrap_or_else(|_| panic!("a number of bytes, found {text:?}"))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, case, len] = args.as_slice()
        && first == MEASURE
    {
        let (_, mask, hq, hkv) = CASES[case.parse::<usize>().expect("a number")];
        measured(mask, (hq, hkv), len.parse().expect("a length"));
        println!("{}", peak().expect("a peak"));
        return;
    }
    if peak().is_none() {
        println!("peak memory is not measured here: there is no /proc/self/status");
        return;
    }
    let Target::Cpu(facts) = host() else { panic!("the host is a CPU") };
    for (n, (name, _, hq, hkv)) in CASES.into_iter().enumerate() {
        let row = LONG * D * 4;
        let bound = hq * 2 * row + hkv * 2 * row + hq * LONG * 4;
        let packed = hkv * 2 * row;
        let base = peak_of(n, SHORT);
        let allowed = bound + packed + THREADS * 2 * facts.l2 + base;
        let found = peak_of(n, LONG);
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        println!(
            "{name}, S = {LONG}: {:.1} MiB, expected {:.1} (bound {:.1}, packed {:.1}, short run {:.1})",
            mib(found),
            mib(allowed),
            mib(bound),
            mib(packed),
            mib(base)
        );
        assert!(found as f64 <= 1.1 * allowed as f64, "{name} holds more than it needs");
        assert!(found > bound, "{name}: the peak was not read");
    }
}
