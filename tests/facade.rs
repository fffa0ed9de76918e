//! The facade from a host program: compile, cache, run, and what it says to wrong use.

use std::sync::Arc;

use attnc::compiler::diagnostic::Severity;
use attnc::runtime::cache::Cache;
use attnc::{DType, ErrorKind, Kernel, Origin, Plan, RunOptions, Target, Tensor, Value, bind, dims, outputs};

const WINDOW: &str = "
attention swa(window: int = 4) {
  dims B, Hq = 4, Hkv = 2, Sq, Sk, D = 16
  input q    : float[B, Hq, Sq, D]
  input k, v : float[B, Hkv, Sk, D]
  heads grouped
  align bottom_right
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i & j in (i - window, i]
  weight = softmax(score)
  return weight @ v, lse
}
";

fn kernel() -> Kernel {
    Kernel::from_source("window.attn", WINDOW).unwrap().without_cache()
}

/// Small pseudo-random numbers, the same every time.
fn noise(shape: &[usize], seed: u32) -> Tensor {
    let mut state = seed.wrapping_mul(2654435761).wrapping_add(12345);
    let n = shape.iter().product();
    let data: Vec<f32> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
    .take(n)
    .collect();
    Tensor::from_slice(&data, shape).unwrap()
}

struct Sizes {
    batch: usize,
    sq: usize,
    sk: usize,
}

/// The definition, in f64, element by element.
fn reference(n: &Sizes, window: i64, q: &Tensor, k: &Tensor, v: &Tensor) -> (Vec<f64>, Vec<f64>) {
    let (q, k, v) = (q.view(), k.view(), v.view());
    let (mut o, mut lse) = (vec![], vec![]);
    for b in 0..n.batch {
        for h in 0..4 {
            for row in 0..n.sq {
                let i = row as i64 + n.sk as i64 - n.sq as i64;
                let seen = (0..n.sk).filter(|&j| j as i64 <= i && j as i64 > i - window);
                let scored: Vec<(usize, f64)> = seen
                    .map(|j| {
                        let at =
                            |x: usize| q.get(&[b, h, row, x]).unwrap() * k.get(&[b, h / 2, j, x]).unwrap();
                        (j, ((0..16).map(at).sum::<f64>() / 4.0).exp())
                    })
                    .collect();
                let sum: f64 = scored.iter().map(|(_, p)| p).sum();
                lse.push(sum.ln());
                for x in 0..16 {
                    let value = |(j, p): &(usize, f64)| p * v.get(&[b, h / 2, *j, x]).unwrap();
                    let total: f64 = scored.iter().map(value).sum();
                    o.push(if sum > 0.0 { total / sum } else { 0.0 });
                }
            }
        }
    }
    (o, lse)
}

fn assert_close(found: &Tensor, expected: &[f64], what: &str) {
    for (n, (a, b)) in found.view().to_f64_vec().iter().zip(expected).enumerate() {
        let same = a == b || (a - b).abs() <= 1e-5 * (1.0 + b.abs());
        assert!(same, "{what}: element {n} is {a}, expected {b}");
    }
}

fn run_and_compare(plan: &Plan, n: &Sizes, window: i64) {
    let (q, k, v) = (
        noise(&[n.batch, 4, n.sq, 16], 1),
        noise(&[n.batch, 2, n.sk, 16], 2),
        noise(&[n.batch, 2, n.sk, 16], 3),
    );
    let mut o = Tensor::zeros(DType::F32, &[n.batch, 4, n.sq, 16]).unwrap();
    let mut lse = Tensor::zeros(DType::F32, &[n.batch, 4, n.sq]).unwrap();
    let options = RunOptions::default();
    let params = [("window", Value::Int(window))];
    plan.run_with(&bind! { q, k, v }, &mut outputs! { o, lse }, &params, &options).unwrap();
    let (want_o, want_lse) = reference(n, window, &q, &k, &v);
    assert_close(&o, &want_o, "o");
    assert_close(&lse, &want_lse, "lse");
}

#[test]
fn one_plan_serves_every_length_and_parameter() {
    let plan = kernel().plan(&[], DType::F32).unwrap();
    for (batch, sq, sk, window) in
        [(1, 1, 1, 1), (2, 7, 7, 3), (1, 3, 40, 16), (2, 70, 70, 1000), (1, 9, 5, 4), (0, 3, 3, 1)]
    {
        run_and_compare(&plan, &Sizes { batch, sq, sk }, window);
    }
}

#[test]
fn parameters_of_the_kernel_are_defaults_of_the_plan() {
    let plan = kernel().param("window", 2).target(Target::host()).unwrap().plan(&[], DType::F32).unwrap();
    let (q, k, v) = (noise(&[1, 4, 8, 16], 1), noise(&[1, 2, 8, 16], 2), noise(&[1, 2, 8, 16], 3));
    let mut o = Tensor::zeros(DType::F32, &[1, 4, 8, 16]).unwrap();
    let mut lse = Tensor::zeros(DType::F32, &[1, 4, 8]).unwrap();
    plan.run(&bind! { q, k, v }, &mut outputs! { o, lse }).unwrap();
    let (want, _) = reference(&Sizes { batch: 1, sq: 8, sk: 8 }, 2, &q, &k, &v);
    assert_close(&o, &want, "o");
}

#[test]
fn threads_share_a_plan_and_agree_to_the_bit() {
    let plan = kernel().plan(&[], DType::F32).unwrap();
    let run = |plan: &Plan, threads: usize| {
        let (q, k, v) = (noise(&[2, 4, 65, 16], 1), noise(&[2, 2, 65, 16], 2), noise(&[2, 2, 65, 16], 3));
        let mut o = Tensor::zeros(DType::F32, &[2, 4, 65, 16]).unwrap();
        let mut lse = Tensor::zeros(DType::F32, &[2, 4, 65]).unwrap();
        let options = RunOptions::threads(threads).unwrap();
        plan.run_with(&bind! { q, k, v }, &mut outputs! { o, lse }, &[], &options).unwrap();
        (o.bytes().to_vec(), lse.bytes().to_vec())
    };
    let expected = run(&plan, 1);
    std::thread::scope(|scope| {
        for threads in [1, 2, 3, 4] {
            let (plan, expected, run) = (plan.clone(), &expected, &run);
            scope.spawn(move || (0..5).for_each(|_| assert_eq!(&run(&plan, threads), expected)));
        }
    });
}

#[test]
fn plans_come_from_the_cache_and_lengths_make_no_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, warning) = Cache::at(&dir.path().join("c"), 1 << 30);
    assert_eq!(warning, None);
    let cache = Arc::new(cache);
    let plan = |text: &str, window: i64, sq: i64| {
        let kernel = Kernel::from_source("k.attn", text).unwrap().with_cache(cache.clone());
        let plan = kernel.param("window", window).plan(&dims! { B: 1, Sq: sq, Sk: 64 }, DType::F32).unwrap();
        assert!(plan.warnings().is_empty());
        plan
    };
    let origin = |text: &str, window: i64, sq: i64| {
        let plan = plan(text, window, sq);
        run_and_compare(&plan, &Sizes { batch: 1, sq: 5, sk: 9 }, 3);
        plan.stats().origin
    };
    assert_eq!(origin(WINDOW, 4, 64), Origin::Compiled);
    assert_eq!(origin(WINDOW, 4, 64), Origin::IndexHit);
    assert_eq!(origin(WINDOW, 9, 1), Origin::IndexHit, "other lengths and parameters are the same plan");
    assert!(plan(WINDOW, 4, 64).stats().stages.is_empty(), "a hit runs no stage");
    let commented = format!("// The same kernel in other words.\n{WINDOW}");
    assert_eq!(origin(&commented, 4, 64), Origin::KernelHit);
    assert_eq!(origin(&commented, 4, 64), Origin::IndexHit);
    let other = plan(&WINDOW.replace("sqrt(D)", "2"), 4, 64);
    assert_eq!(other.stats().origin, Origin::Compiled);
}

#[test]
fn workspace_is_known_when_lengths_are() {
    let plan = kernel().plan(&dims! { B: 2, Sq: 100, Sk: 100 }, DType::F32).unwrap();
    let known = plan.workspace_bytes().unwrap();
    assert_eq!(plan.workspace_bytes_at(&dims! { B: 2, Sq: 100, Sk: 100 }).unwrap(), known);
    assert!(plan.workspace_bytes_at(&dims! { B: 2, Sq: 100, Sk: 1000 }).unwrap() > known);
    assert_eq!(kernel().plan(&dims! { B: 2 }, DType::F32).unwrap().workspace_bytes(), None);
    assert!(!plan.schedule().is_empty());
    assert_eq!(plan.output_names().collect::<Vec<_>>(), ["o", "lse"]);
}

#[track_caller]
fn refused<T>(result: Result<T, attnc::Error>, kind: ErrorKind, says: &[&str]) {
    let Err(err) = result else { panic!("accepted") };
    assert_eq!(err.kind(), kind, "{err}");
    for text in says {
        assert!(err.to_string().contains(text), "expected `{text}` in: {err}");
    }
}

#[test]
fn wrong_use_is_said_in_words() {
    refused(Kernel::from_file("no/such.attn"), ErrorKind::Io, &["cannot read no/such.attn"]);
    let broken = WINDOW.replace("lse", "lsee").replace("window, i]", "windwo, i]");
    let err = Kernel::from_source("w.attn", &broken).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Spec);
    assert!(err.diagnostics().iter().all(|d| d.severity == Severity::Error) && !err.diagnostics().is_empty());
    assert!(err.to_string().contains("w.attn:"), "{err}");
    refused(
        kernel().param("windwo", 3).plan(&[], DType::F32),
        ErrorKind::Data,
        &["no parameter `windwo`", "window"],
    );
    refused(kernel().param("window", 3.5).plan(&[], DType::F32), ErrorKind::Data, &["`window` is an int"]);
    refused(kernel().plan(&dims! { Z: 3 }, DType::F32), ErrorKind::Spec, &["no dim `Z`"]);
    refused(kernel().plan(&[], DType::I32), ErrorKind::Spec, &["`float` cannot be i32"]);
    refused(kernel().plan(&dims! { B: -1, Sq: 1, Sk: 1 }, DType::F32), ErrorKind::Data, &["`B` is -1"]);
    refused(kernel().with_input("bias").plan(&[], DType::F32), ErrorKind::Spec, &["no input `bias`"]);
    refused(kernel().select("causal"), ErrorKind::Data, &["no kernel `causal`", "window.attn holds swa"]);
    refused(Target::named("tpu"), ErrorKind::Data, &["targets are cpu, sm_80"]);
    let gpu = kernel().target(Target::named("sm_80").unwrap()).unwrap();
    // The worker that LLVM runs in is found by ATTN_LLVM, which tests/run sets.
    assert_eq!(gpu.plan(&[], DType::F32).unwrap().artifact().target, "sm_80");
    let two = format!("{WINDOW}{}", WINDOW.replace("swa", "other"));
    let two = Kernel::from_source("two.attn", &two).unwrap().without_cache();
    refused(two.plan(&[], DType::F32), ErrorKind::Data, &["choose a kernel", "swa, other"]);
    two.select("other").unwrap().plan(&[], DType::F32).unwrap();
}

#[test]
fn files_import_what_lies_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("near.attn"), "mask near(w) = j <= i & j > i - w\n").unwrap();
    let text = WINDOW.replace("j <= i & j in (i - window, i]", "near(window)");
    let file = dir.path().join("uses.attn");
    std::fs::write(&file, format!("use \"near.attn\"\n{text}")).unwrap();
    let plan = Kernel::from_file(&file).unwrap().without_cache().plan(&[], DType::F32).unwrap();
    run_and_compare(&plan, &Sizes { batch: 1, sq: 20, sk: 20 }, 5);
    let elsewhere = Kernel::from_source("uses.attn", &format!("use \"near.attn\"\n{text}"));
    refused(elsewhere, ErrorKind::Spec, &["near.attn", "Kernel::from_file"]);
}
