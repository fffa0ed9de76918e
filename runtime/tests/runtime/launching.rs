//! Loading and launching: results, threads, concurrency, memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use attn_compiler::artifact::{DType, TensorRole};
use attn_compiler::expr::eval::{Value, eval};
use attn_compiler::expr::rand::rand_block_contains;
use attn_compiler::expr::{BinaryOp, ExprId, Op, Ty, UnaryOp};
use attn_compiler::pipeline;
use attn_compiler::sema::PlanKey;
use attn_runtime::cpu::facts::host_target;
use attn_runtime::{ErrorKind, LoadedKernel, Parallel, RunOptions, Serial, TensorView, TensorViewMut};

use crate::allocations;
use crate::kernels::{Maker, RET, add_kernel, table_kernel};

fn run(kernel: &LoadedKernel, x: &[f32], c: f64, options: &RunOptions<'_>) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len()];
    let inputs = [("x", TensorView::new(x, &[x.len()]).unwrap())];
    let n = x.len();
    let mut outputs = [("y", TensorViewMut::new(&mut y, &[n]).unwrap())];
    kernel.run(&inputs, &mut outputs, &[("c", Value::Float(c))], options).unwrap();
    y
}

#[test]
fn every_task_runs_once_on_any_number_of_threads() {
    let kernel = LoadedKernel::load(add_kernel().finish()).unwrap();
    let x: Vec<f32> = (0..1000).map(|n| n as f32).collect();
    let expected: Vec<f32> = x.iter().map(|v| v + 2.5).collect();
    for threads in [1, 2, 3, 8] {
        assert_eq!(
            run(&kernel, &x, 2.5, &RunOptions::threads(threads).unwrap()),
            expected,
            "{threads} threads"
        );
    }
    assert_eq!(run(&kernel, &x, 2.5, &RunOptions::default()), expected);
    assert_eq!(run(&kernel, &[], 2.5, &RunOptions::default()), [0f32; 0]);
}

#[test]
fn strides_reach_the_kernel() {
    let kernel = LoadedKernel::load(add_kernel().finish()).unwrap();
    let data = [1f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    let mut out = [0f32; 6];
    let backwards = TensorView::strided(&data, 4, &[3], &[-2]).unwrap();
    let mut outputs = [("y", TensorViewMut::strided(&mut out, 1, &[3], &[2]).unwrap())];
    kernel.run(&[("x", backwards)], &mut outputs, &[], &RunOptions::default()).unwrap();
    assert_eq!(out, [0.0, 6.0, 0.0, 4.0, 0.0, 2.0]);
    let broadcast = TensorView::strided(&data, 1, &[3], &[0]).unwrap();
    let mut outputs = [("y", TensorViewMut::strided(&mut out, 5, &[3], &[-1]).unwrap())];
    kernel.run(&[("x", broadcast)], &mut outputs, &[], &RunOptions::default()).unwrap();
    assert_eq!(out, [0.0, 6.0, 0.0, 3.0, 3.0, 3.0]);
}

#[test]
fn a_second_run_does_not_allocate() {
    let kernel = LoadedKernel::load(add_kernel().finish()).unwrap();
    let x = [1f32; 64];
    let mut y = [0f32; 64];
    let options = RunOptions::threads(1).unwrap();
    let mut once = |c: f64| {
        let inputs = [("x", TensorView::new(&x, &[64]).unwrap())];
        let mut outputs = [("y", TensorViewMut::new(&mut y, &[64]).unwrap())];
        kernel.run(&inputs, &mut outputs, &[("c", Value::Float(c))], &options).unwrap();
    };
    let before = allocations();
    once(1.0);
    assert!(allocations() > before, "the counter counts");
    let before = allocations();
    once(1.0);
    once(1.0);
    assert_eq!(allocations(), before);
}

/// A real kernel, so that tables, workspace, checks and requirements are there too.
#[test]
fn a_second_run_of_a_compiled_kernel_does_not_allocate() {
    let text = "
attention docs(window: int = 4) {
  dims B, H = 2, S, D = 16
  input q, k, v : float[B, H, S, D]
  input doc : i32[B, S] sorted
  input bias : f32[40]
  score  = dot(q, k) / sqrt(D) + bias[doc[b, i]]
  mask   = j <= i & j > i - window & doc[b, i] == doc[b, j]
  weight = softmax(score)
  return weight @ v
}";
    let front = pipeline::front("docs.attn", text, &mut |_, _| Err("no files".to_string()), &mut ());
    assert!(!front.diagnostics.has_errors(), "{:?}", front.diagnostics);
    let key = PlanKey {
        kernel: "docs".to_string(),
        target: host_target().unwrap(),
        float: DType::F32,
        dims: Default::default(),
        statics: Default::default(),
        present: Default::default(),
        shard: None,
        schedules: Default::default(),
    };
    let artifact = pipeline::compile(&front.checked.kernels[0], &key, &mut ()).unwrap();
    let kernel = LoadedKernel::load(artifact).unwrap();
    let (x, bias, mut o) = ([0.5f32; 2 * 33 * 16], [0f32; 40], [0f32; 2 * 33 * 16]);
    let doc: Vec<i32> = (0..33).collect();
    let options = RunOptions::threads(1).unwrap();
    let mut once = || {
        let rows = TensorView::new(&x, &[1, 2, 33, 16]).unwrap();
        let doc = TensorView::new(&doc, &[1, 33]).unwrap();
        let bias = TensorView::new(&bias, &[40]).unwrap();
        let inputs = [("q", rows), ("k", rows), ("v", rows), ("doc", doc), ("bias", bias)];
        let mut outputs = [("o", TensorViewMut::new(&mut o, &[1, 2, 33, 16]).unwrap())];
        kernel.run(&inputs, &mut outputs, &[("window", Value::Int(7))], &options).unwrap();
    };
    once();
    let before = allocations();
    once();
    assert_eq!(allocations(), before);
    assert!(o.iter().all(|x| *x == 0.5));
}

#[test]
fn concurrent_runs_do_not_disturb_each_other() {
    let kernel = LoadedKernel::load(add_kernel().finish()).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let kernel = kernel.clone();
            scope.spawn(move || {
                let x: Vec<f32> = (0..100 + worker).map(|n| n as f32).collect();
                for round in 0..50 {
                    let c = f64::from(worker as u32 * 100 + round);
                    let y = run(&kernel, &x, c, &RunOptions::threads(1 + worker % 3).unwrap());
                    assert!(y.iter().zip(&x).all(|(y, x)| *y == x + c as f32));
                }
            });
        }
    });
}

/// Pools that break the contract of `Parallel`: calls left out, doubled, at once, with indices that do not exist.
struct Hostile(AtomicUsize);

impl Parallel for Hostile {
    fn run(&self, n_threads: usize, body: &(dyn Fn(usize) + Sync)) {
        match self.0.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => {}
            1 => body(n_threads + 7),
            _ => std::thread::scope(|s| {
                for _ in 0..4 {
                    s.spawn(|| body(0));
                }
            }),
        }
    }
}

#[test]
fn a_pool_that_breaks_its_contract_changes_no_result() {
    let kernel = LoadedKernel::load(add_kernel().finish()).unwrap();
    let x: Vec<f32> = (0..333).map(|n| n as f32).collect();
    let hostile = Hostile(AtomicUsize::new(0));
    let pools: [&dyn Parallel; 2] = [&hostile, &Serial];
    for parallel in pools {
        for _ in 0..6 {
            let options = RunOptions { parallel: Some(parallel), ..RunOptions::threads(4).unwrap() };
            let y = run(&kernel, &x, 1.0, &options);
            assert!(y.iter().zip(&x).all(|(y, x)| *y == x + 1.0));
        }
    }
}

#[test]
fn too_many_threads_are_refused() {
    assert!(RunOptions::threads(0).is_err());
    assert!(RunOptions::threads(1025).unwrap_err().to_string().contains("expected 1 to 1024"));
}

#[test]
fn launches_run_in_order_through_a_workspace() {
    // First launch: w = x + c. Second: y = w + c.
    let mut m = Maker::new();
    let n = m.dim("N");
    m.param("c", Ty::Float, Some(Value::Float(1.0)));
    m.input("x", DType::F32, &[n]);
    m.output("y", DType::F32, &[n]);
    m.tensor("w", TensorRole::Workspace, DType::F32, &[n]);
    let l = m.layout();
    let step = |from: usize, to: usize| {
        let (sx, sy) = (l.stride(from, 0), l.stride(to, 0));
        crate::kernels::add_code(l.address(from), sx, l.address(to), sy, l.scalars[1])
    };
    m.launch(&[n], 64, &step(0, 2));
    m.launch(&[n], 128, &step(2, 1));
    let kernel = LoadedKernel::load(m.finish()).unwrap();
    for len in [5usize, 1000, 3] {
        let x = vec![1f32; len];
        assert_eq!(run(&kernel, &x, 10.0, &RunOptions::threads(2).unwrap()), vec![21f32; len]);
    }
    assert_eq!(kernel.workspace_bytes(&[("N", 17)], &[]).unwrap(), 128);
    assert!(kernel.workspace_bytes(&[], &[]).unwrap_err().to_string().contains("`N` is not given"));
    assert!(kernel.workspace_bytes(&[("N", -1)], &[]).is_err());
}

/// A kernel `y[n] = t[n]` for a table t of `f32[N]`, with an int parameter `p` and a float one that must be 0.
fn with_table(value: impl FnOnce(&mut Maker, ExprId, ExprId) -> ExprId) -> LoadedKernel {
    let mut m = Maker::new();
    let n = m.dim("N");
    m.param("zero", Ty::Float, Some(Value::Float(0.0)));
    let p = m.param("p", Ty::Int, Some(Value::Int(0)));
    let y = m.output("y", DType::F32, &[n]);
    let var = m.pool.add_var("t", Ty::Int);
    let index = m.pool.var(var);
    let value = value(&mut m, index, p);
    let role = TensorRole::Table { vars: vec![var], origin: vec![p], value };
    let t = m.tensor("t", role, DType::F32, &[n]);
    table_kernel(&mut m, n, t, y, 1);
    LoadedKernel::load(m.finish()).unwrap()
}

fn run_table(kernel: &LoadedKernel, n: usize, p: i64) -> Vec<f32> {
    let mut y = vec![f32::NAN; n];
    let mut outputs = [("y", TensorViewMut::new(&mut y, &[n]).unwrap())];
    kernel.run(&[], &mut outputs, &[("p", Value::Int(p))], &RunOptions::default()).unwrap();
    y
}

#[test]
fn tables_start_at_their_origin_and_follow_parameters() {
    let kernel = with_table(|m, index, _| {
        let x = m.pool.unary(UnaryOp::ToFloat, index);
        m.pool.unary(UnaryOp::Exp, x)
    });
    for (n, p) in [(4, 0), (4, -2), (6, -2), (0, 3), (4, 0)] {
        let expected: Vec<f32> = (0..n as i64).map(|k| ((p + k) as f64).exp() as f32).collect();
        assert_eq!(run_table(&kernel, n, p), expected, "N = {n}, p = {p}");
    }
}

#[test]
fn tables_of_random_blocks_agree_with_the_definition() {
    let kernel = with_table(|m, index, p| {
        let [row, ncols, head, n] = [3, 40, 1, 7].map(|x| m.pool.int(x));
        let drawn = m.pool.rand_block([row, index, ncols, head, n, p]);
        let (one, zero) = (m.pool.float(1.0), m.pool.float(0.0));
        m.pool.select(drawn, one, zero)
    });
    for seed in [0i64, 5] {
        let expected: Vec<f32> =
            (0..40).map(|k| f32::from(u8::from(rand_block_contains(3, seed + k, 40, 1, 7, seed)))).collect();
        assert_eq!(run_table(&kernel, 40, seed), expected);
    }
}

#[test]
fn tables_of_a_million_columns_are_drawn_once() {
    // 2000 draws of 2000 columns each cost milliseconds; one draw for each of a million columns would take hours.
    let kernel = with_table(|m, index, _| {
        let [row, ncols, head, n, seed] = [0, 1 << 20, 0, 2000, 9].map(|x| m.pool.int(x));
        let drawn = m.pool.rand_block([row, index, ncols, head, n, seed]);
        let (one, zero) = (m.pool.float(1.0), m.pool.float(0.0));
        m.pool.select(drawn, one, zero)
    });
    let y = run_table(&kernel, 1 << 20, 0);
    assert_eq!(y.iter().sum::<f32>(), 2000.0);
}

#[test]
fn table_evaluation_agrees_with_the_reference() {
    struct At(i64, i64, attn_compiler::expr::VarId);
    impl attn_compiler::expr::eval::Env for At {
        fn var(&self, var: attn_compiler::expr::VarId) -> Value {
            Value::Int(if var == self.2 { self.0 } else { self.1 })
        }
        fn load(&self, _: attn_compiler::expr::TensorId, _: &[i64]) -> Value {
            Value::Int(0)
        }
    }
    let mut reference = None;
    let kernel = with_table(|m, index, p| {
        let three = m.pool.int(3);
        let quotient = m.pool.binary(BinaryOp::IDiv, index, three);
        let rest = m.pool.binary(BinaryOp::Mod, index, three);
        let near = m.pool.binary(BinaryOp::Lt, rest, p);
        let far = m.pool.binary(BinaryOp::Lt, p, quotient);
        let either = m.pool.binary(BinaryOp::Or, near, far);
        let x = m.pool.unary(UnaryOp::ToFloat, quotient);
        let y = m.pool.unary(UnaryOp::Sigmoid, x);
        let value = m.pool.select(either, x, y);
        let Op::Var(var) = *m.pool.op(index) else { panic!("an index is a variable") };
        reference = Some((m.pool.clone(), value, var));
        value
    });
    let (pool, value, var) = reference.unwrap();
    for p in [-7i64, 0, 2] {
        let expected: Vec<f32> =
            (0..20).map(|k| eval(&pool, value, &At(p + k, p, var)).float() as f32).collect();
        assert_eq!(run_table(&kernel, 20, p), expected);
    }
}

#[test]
fn a_broken_artifact_is_our_bug_and_a_foreign_one_unsupported() {
    let internal = |m: Maker, what: &str| {
        let err = LoadedKernel::load(m.finish()).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Internal, "{what}: {err}");
        assert!(err.to_string().contains(what), "{what}: {err}");
    };
    let mut m = add_kernel();
    m.launches[0].entry = m.code.len();
    internal(m, "past the code");
    let mut m = add_kernel();
    m.tensors[0].layout = vec![1];
    internal(m, "layout");
    let mut m = add_kernel();
    m.tensors[0].shape = vec![ExprId(99)];
    internal(m, "expression 99");
    let mut m = add_kernel();
    m.tensors[1].dtype = DType::Bit;
    internal(m, "is `bit`");
    let mut m = add_kernel();
    m.dim("M");
    internal(m, "dim `M` is not the size of any bound tensor");
    let mut m = add_kernel();
    let stray = m.pool.add_var("stray", Ty::Int);
    let stray = m.pool.var(stray);
    m.launches[0].grid.push(stray);
    internal(m, "reads `stray`");
    let mut m = add_kernel();
    let n = m.pool.int(0);
    let load = m.pool.load(attn_compiler::expr::TensorId(0), vec![n], Ty::Int);
    m.launches[0].grid.push(load);
    internal(m, "loads a tensor");
    let mut artifact = add_kernel().finish();
    artifact.target = "cpu aarch64 simd128".to_string();
    assert_eq!(LoadedKernel::load(artifact).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_kernel_without_launches_or_with_a_bare_return_runs() {
    let mut m = Maker::new();
    let n = m.dim("N");
    m.input("x", DType::F32, &[n]);
    m.launch(&[n, n], 0, &RET);
    let kernel = LoadedKernel::load(m.finish()).unwrap();
    let x = [0f32; 9];
    kernel.run(&[("x", TensorView::new(&x, &[9]).unwrap())], &mut [], &[], &RunOptions::default()).unwrap();
}
