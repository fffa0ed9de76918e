//! A run on arguments of the lengths and parameters of an earlier run allocates nothing: no kernel of the gallery and
//! no shared specification does, on one thread or several, also when the contents of its arguments change.
//!
//! Comes in: every kernel, small sizes, made-up inputs. Goes out: the number of allocations of the whole process, pool
//! threads included, during many runs after the first. Without the test harness, whose threads allocate when they like.
//! Deliberately not done: judging results (`specs_verify.rs`, `goldens.rs`), runs that fail.

mod common;

use std::alloc::System;

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::{Kernel, Origin};
use attn_compiler::expr::eval::Value;
use attn_compiler::pipeline;
use attn_compiler::sema::{CheckedKernel, PlanKey};
use attn_runtime::{LoadedKernel, NamedInput, NamedOutput, RunOptions, Tensor};
use common::examples::{example_key, gallery_and_specs, grid};
use common::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTER: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// More than a queue that grows by blocks could hide.
const RUNS: usize = 80;

/// Allocations, counting those that grow, while `f` runs.
fn allocations(f: impl FnOnce()) -> usize {
    let region = Region::new(COUNTER);
    f();
    let change = region.change();
    change.allocations + change.reallocations
}

/// A kernel of a file, planned for the host, with its problem.
struct Case {
    what: String,
    ir: Kernel,
    kernel: LoadedKernel,
    params: Vec<(String, Value)>,
    problem: Problem,
}

impl Case {
    fn new(file: &str, kernel: &CheckedKernel, float: DType) -> Case {
        let what = format!("{file} {} {float}", kernel.name);
        let point = &grid(kernel, 32)[0];
        let mut key = PlanKey { target: host(), float, ..example_key(kernel, 32) };
        let mut params = Vec::new();
        for p in &kernel.params {
            match point.params.get(&p.name) {
                Some(&value) if p.is_static => _ = key.statics.insert(p.name.clone(), value),
                Some(&value) => params.push((p.name.clone(), value)),
                None if p.default.is_none() => params.push((p.name.clone(), Value::Int(65))),
                None => {}
            }
        }
        let plan = pipeline::plan(kernel, &key, &mut ()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let artifact = pipeline::emit(&plan, &mut ()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let loaded = LoadedKernel::load(artifact).unwrap_or_else(|e| panic!("{what}: {e}"));
        let bounded = |name: &str, size: i64| {
            let bounds = plan.kernel.dims.iter().find(|d| d.name == name).and_then(|d| d.bounds);
            // Lengths that no grid chose are longer than need be.
            let size = if size == 256 { 70 } else { size };
            bounds.map_or(size, |(lo, hi)| size.clamp(lo, hi))
        };
        let dims: Vec<(&str, i64)> = point.dims.iter().map(|(n, v)| (n.as_str(), bounded(n, *v))).collect();
        let problem = problem(&plan.kernel, &dims, &|_| (0, 0), 5);
        Case { what, ir: plan.kernel, kernel: loaded, params, problem }
    }

    /// What is updated in place, after room for the outputs.
    fn written(&self) -> Vec<(&str, Tensor)> {
        let outputs = self.ir.outputs().map(|(_, t)| t).zip(&self.problem.outputs);
        let room = outputs.map(|(t, (name, dtype, shape))| {
            let memory: Vec<usize> = t.layout.iter().map(|&d| shape[d]).collect();
            (name.as_str(), Tensor::zeros(*dtype, &memory).expect("an output"))
        });
        let all = self.ir.inputs().map(|(_, t)| t).zip(&self.problem.tensors);
        let updated = all.filter(|(t, _)| t.origin == Origin::Updated);
        room.chain(updated.map(|(_, (name, tensor))| (name.as_str(), tensor.clone()))).collect()
    }

    /// What is read; with other contents, caches hold fewer keys, where they hold some.
    fn read(&self, other: bool) -> Vec<(&str, Tensor)> {
        let all = self.ir.inputs().map(|(_, t)| t).zip(&self.problem.tensors);
        let read = all.filter(|(t, _)| t.origin != Origin::Updated);
        read.map(|(_, (name, tensor))| match tensor.as_slice::<i32>() {
            Ok(lengths) if other && ["kv_len", "ctx"].contains(&name.as_str()) => {
                let fewer: Vec<i32> = lengths.iter().map(|&n| (n - 1).max(n.min(1))).collect();
                (name.as_str(), Tensor::from_slice(&fewer, tensor.shape()).expect("lengths"))
            }
            _ => (name.as_str(), tensor.clone()),
        })
        .collect()
    }

    /// Allocations of many runs after the first, on some threads.
    fn count(&self, threads: usize) -> usize {
        let mut written = self.written();
        let [read, other] = [self.read(false), self.read(true)];
        let [read, other] = [views_of(&read), views_of(&other)];
        let mut outputs: Vec<NamedOutput> = written.iter_mut().map(|(n, t)| (*n, t.view_mut())).collect();
        let params: Vec<(&str, Value)> = self.params.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        let options = RunOptions::threads(threads).expect("threads");
        let mut run = |inputs: &[NamedInput]| {
            let result = self.kernel.run(inputs, &mut outputs, &params, &options);
            result.unwrap_or_else(|e| panic!("{}: {e}", self.what));
        };
        run(&read);
        allocations(|| (0..RUNS).for_each(|n| run(if n % 2 == 0 { &other } else { &read })))
    }
}

fn views_of<'a>(all: &'a [(&'a str, Tensor)]) -> Vec<NamedInput<'a, 'a>> {
    all.iter().map(|(name, tensor)| (*name, tensor.view())).collect()
}

fn main() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))), 1, "the counter counts");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in gallery_and_specs() {
        let front = front(&path.display().to_string(), &text);
        for kernel in &front.checked.kernels {
            let case =
                Case::new(&path.file_name().expect("a name").display().to_string(), kernel, DType::F32);
            for threads in [1, 2] {
                seen += 1;
                let n = case.count(threads);
                if n > 0 {
                    wrong.push(format!("{}, {threads} threads: {n} in {RUNS} runs", case.what));
                }
            }
        }
    }
    assert!(seen > 150, "only {seen} cases");
    assert!(wrong.is_empty(), "{} of {seen} cases allocate:\n{}", wrong.len(), wrong.join("\n"));
    println!("runs_allocate_nothing_after_the_first ... ok ({seen} cases)");
}
