//! What a launch costs beside its work: a run of a tiny problem, and how long the pool's threads take to begin.
//!
//! In: nothing (`ATTN_NUM_THREADS` should be unset). Out: medians in microseconds: a run of causal attention over 16 x 16
//! pairs of 64 features on one thread; runs of several such heads on one thread and two, with the pool awake (runs follow
//! each other) and asleep (a millisecond apart); and from a call until another thread has begun, awake and asleep.
//! Not here: kernels (`intrinsics_bench/`, `attnc bench`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use attn_compiler::artifact::DType;
use attn_compiler::pipeline;
use attn_compiler::sema::PlanKey;
use attn_runtime::cpu::facts::host_target;
use attn_runtime::{LoadedKernel, RunOptions, Tensor, on_threads};

const TEXT: &str = "attention causal {
  dims H, S, D
  input q, k, v : float[H, S, D]
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i
  weight = softmax(score)
  return weight @ v, lse
}";

/// Long enough for threads of the pool to fall asleep.
const PAUSE: Duration = Duration::from_millis(1);

fn kernel(heads: i64) -> LoadedKernel {
    let front = pipeline::front("causal.attn", TEXT, &mut |_, _| Err("no files".into()), &mut ());
    let spec = front.checked.kernel(Some("causal")).expect("a correct text");
    let key = PlanKey {
        kernel: "causal".into(),
        target: host_target().expect("a known host"),
        float: DType::F32,
        dims: BTreeMap::from([("H".into(), heads), ("D".into(), 64)]),
        statics: BTreeMap::new(),
        present: BTreeSet::new(),
        shard: None,
        schedules: Default::default(),
    };
    let artifact = pipeline::compile(spec, &key, &mut ()).expect("code");
    LoadedKernel::load(artifact).expect("a kernel")
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// Median of `n` runs, `pause` apart.
fn median_of(n: usize, pause: Option<Duration>, mut run: impl FnMut()) -> f64 {
    (0..10).for_each(|_| run());
    let mut times = Vec::new();
    for _ in 0..n {
        pause.into_iter().for_each(std::thread::sleep);
        let start = Instant::now();
        run();
        times.push(start.elapsed());
    }
    median(times)
}

fn runs(heads: usize, len: usize) {
    let kernel = kernel(heads as i64);
    let shape = [heads, len, 64];
    let x: Vec<f32> = (0..heads * len * 64).map(|n| (n % 17) as f32 / 17.0 - 0.5).collect();
    let x = Tensor::from_slice(&x, &shape).expect("an input");
    let mut o = Tensor::zeros(DType::F32, &shape).expect("an output");
    let mut lse = Tensor::zeros(DType::F32, &shape[..2]).expect("an output");
    let inputs = [("q", x.view()), ("k", x.view()), ("v", x.view())];
    let mut outputs = [("o", o.view_mut()), ("lse", lse.view_mut())];
    print!("H = {heads}, {len} x {len}:");
    for threads in [1, 2] {
        let options = RunOptions::threads(threads).expect("a number of threads");
        let mut run = || kernel.run(&inputs, &mut outputs, &[], &options).expect("a run");
        let awake = median_of(5000, None, &mut run);
        let asleep = median_of(300, Some(PAUSE), &mut run);
        print!("   {threads} threads {awake:.2} us, a millisecond apart {asleep:.2} us");
    }
    println!();
}

/// From a call until another thread has begun its part, which the caller waits for.
fn begin(pause: Option<Duration>) -> f64 {
    let mut times = Vec::new();
    for _ in 0..500 {
        pause.into_iter().for_each(std::thread::sleep);
        let began = AtomicU64::new(0);
        let caller = std::thread::current().id();
        let start = Instant::now();
        on_threads(2, &|_| {
            if std::thread::current().id() != caller {
                began.store((start.elapsed().as_nanos() as u64).max(1), Ordering::Relaxed);
            }
            // Neither goes on before the other thread is here.
            while began.load(Ordering::Relaxed) == 0 {
                std::hint::spin_loop();
            }
        });
        times.push(Duration::from_nanos(began.load(Ordering::Relaxed)));
    }
    median(times)
}

fn main() {
    runs(1, 16);
    for (heads, len) in [(2, 16), (8, 16), (8, 32), (8, 64), (8, 128)] {
        runs(heads, len);
    }
    if attn_runtime::default_threads().is_ok_and(|n| n.get() > 1) {
        println!(
            "another thread begins after: awake {:.2} us, asleep {:.2} us",
            begin(None),
            begin(Some(PAUSE))
        );
    }
}
