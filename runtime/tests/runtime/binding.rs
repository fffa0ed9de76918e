//! Bad input of every kind: each is one error that names the thing, what was expected and what was found.

use attn_compiler::artifact::{BindCheck, DType, RequireSpec, TensorRole};
use attn_compiler::expr::eval::Value;
use attn_compiler::expr::{BinaryOp, ExprId, Ty};
use attn_runtime::{
    DataFault, ErrorKind, LoadedKernel, RunOptions, RuntimeError, Tensor, TensorView, TensorViewMut,
};
use half::f16;

use crate::kernels::{Maker, RET, add_kernel};

/// Runs on one thread; inputs and outputs are owned tensors by name.
fn run(
    kernel: &LoadedKernel,
    inputs: &[(&str, &Tensor)],
    outputs: &mut [(&str, &mut Tensor)],
    params: &[(&str, Value)],
) -> Result<(), RuntimeError> {
    let inputs: Vec<_> = inputs.iter().map(|(name, t)| (*name, t.view())).collect();
    let mut outputs: Vec<_> = outputs.iter_mut().map(|(name, t)| (*name, t.view_mut())).collect();
    kernel.run(&inputs, &mut outputs, params, &RunOptions::threads(1)?)
}

#[track_caller]
fn refused(result: Result<(), RuntimeError>, fault: DataFault, says: &[&str]) {
    let err = result.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Data(fault), "{err}");
    for text in says {
        assert!(err.to_string().contains(text), "expected `{text}` in: {err}");
    }
}

fn zeros(dtype: DType, shape: &[usize]) -> Tensor {
    Tensor::zeros(dtype, shape).unwrap()
}

fn ints(data: &[i32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(data, shape).unwrap()
}

/// A kernel that does nothing with what `make` declares.
fn idle(make: impl FnOnce(&mut Maker)) -> LoadedKernel {
    let mut m = Maker::new();
    make(&mut m);
    let one = m.pool.int(1);
    m.launch(&[one], 0, &RET);
    LoadedKernel::load(m.finish()).unwrap()
}

#[test]
fn names_are_matched_with_a_hint() {
    let kernel = LoadedKernel::load(add_kernel().finish()).unwrap();
    let (x, mut y, mut z) = (zeros(DType::F32, &[4]), zeros(DType::F32, &[4]), zeros(DType::F32, &[4]));
    let near = run(&kernel, &[("xs", &x)], &mut [("y", &mut y)], &[]);
    refused(near, DataFault::Name, &["no input `xs`", "did you mean `x`?"]);
    let far = run(&kernel, &[("query", &x)], &mut [("y", &mut y)], &[]);
    refused(far, DataFault::Name, &["its inputs are x"]);
    let missing = run(&kernel, &[], &mut [("y", &mut y)], &[]);
    refused(missing, DataFault::Missing, &["input `x` (f32, 1 dims) is not bound"]);
    let twice = run(&kernel, &[("x", &x), ("x", &x)], &mut [("y", &mut y)], &[]);
    refused(twice, DataFault::Name, &["input `x` is bound twice"]);
    let no_output = run(&kernel, &[("x", &x)], &mut [], &[]);
    refused(no_output, DataFault::Missing, &["output `y`"]);
    let extra = run(&kernel, &[("x", &x)], &mut [("y", &mut y), ("lse", &mut z)], &[]);
    refused(extra, DataFault::Name, &["no output `lse`"]);
    let side = run(&kernel, &[("x", &x), ("y", &z)], &mut [("y", &mut y)], &[]);
    refused(side, DataFault::Name, &["no input `y`"]);
}

#[test]
fn dtypes_and_ranks_are_checked() {
    let kernel = LoadedKernel::load(add_kernel().finish()).unwrap();
    let mut y = zeros(DType::F32, &[4]);
    let x = Tensor::from_slice(&[f16::ONE; 4], &[4]).unwrap();
    refused(
        run(&kernel, &[("x", &x)], &mut [("y", &mut y)], &[]),
        DataFault::DType,
        &["`x` holds f16, expected f32"],
    );
    let x = zeros(DType::F32, &[2, 2]);
    let result = run(&kernel, &[("x", &x)], &mut [("y", &mut y)], &[]);
    refused(result, DataFault::Rank, &["`x` has 2 dims [2, 2], expected 1: (N)"]);
    let (x, mut bits) = (zeros(DType::F32, &[4]), Tensor::from_bools(&[true; 4], &[4]).unwrap());
    let result = run(&kernel, &[("x", &x)], &mut [("y", &mut bits)], &[]);
    refused(result, DataFault::DType, &["`y` holds bit, expected f32"]);
}

#[test]
fn dims_must_agree_and_both_tensors_are_named() {
    let kernel = LoadedKernel::load(add_kernel().finish()).unwrap();
    let (x, mut y) = (zeros(DType::F32, &[4]), zeros(DType::F32, &[5]));
    let result = run(&kernel, &[("x", &x)], &mut [("y", &mut y)], &[]);
    refused(result, DataFault::Size, &["`y` axis 0 (N) is 5", "`x` axis 0 gave N = 4"]);
}

#[test]
fn fixed_and_derived_sizes_are_compared_in_the_order_of_the_layout() {
    let kernel = idle(|m| {
        let n = m.dim("N");
        let (d, two) = (m.pool.int(64), m.pool.int(2));
        let twice = m.pool.binary(BinaryOp::Mul, n, two);
        m.input("q", DType::F32, &[n, d]);
        m.tensors[0].layout = vec![1, 0];
        m.input("twice", DType::F32, &[twice]);
    });
    let (q, good, bad) = (zeros(DType::F32, &[64, 3]), zeros(DType::F32, &[6]), zeros(DType::F32, &[7]));
    run(&kernel, &[("q", &q), ("twice", &good)], &mut [], &[]).unwrap();
    let result = run(&kernel, &[("q", &q), ("twice", &bad)], &mut [], &[]);
    refused(result, DataFault::Size, &["`twice` axis 0 is 7, expected 6", "follows from the other dims"]);
    let swapped = zeros(DType::F32, &[3, 64]);
    let long = zeros(DType::F32, &[128]);
    let result = run(&kernel, &[("q", &swapped), ("twice", &long)], &mut [], &[]);
    refused(result, DataFault::Size, &["`q` axis 0 is 3, expected 64", "(64, N)", "fixed by the plan"]);
}

#[test]
fn lengths_and_bytes_are_bounded() {
    let kernel = LoadedKernel::load(add_kernel().finish()).unwrap();
    let (one, mut y) = ([0f32], [0f32; 4]);
    let bind = |n: usize, y: &mut [f32]| {
        let x = TensorView::strided(&one, 0, &[n], &[0]).unwrap();
        let mut outputs = [("y", TensorViewMut::new(y, &[4]).unwrap())];
        kernel.run(&[("x", x)], &mut outputs, &[], &RunOptions::default())
    };
    refused(bind(1 << 30, &mut y), DataFault::Size, &["`x` axis 0 (N) is 1073741824", "below 2^30"]);
    refused(bind((1 << 30) - 1, &mut y), DataFault::Size, &["gave N = 1073741823"]);
    let huge = idle(|m| {
        let (a, b) = (m.dim("A"), m.dim("B"));
        m.input("x", DType::F32, &[a, b]);
        m.tensor("w", TensorRole::Workspace, DType::F32, &[a, b, a]);
    });
    let x = TensorView::strided(&one, 0, &[1 << 29, 1 << 20], &[0, 0]).unwrap();
    let result = huge.run(&[("x", x)], &mut [], &[], &RunOptions::default());
    refused(result, DataFault::Size, &["`w`", "more bytes than an address can count"]);
    let x = TensorView::strided(&one, 0, &[1 << 15, 1 << 20], &[0, 0]).unwrap();
    let err = huge.run(&[("x", x)], &mut [], &[], &RunOptions::default()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported, "{err}");
    let negative = idle(|m| {
        let (n, ten) = (m.dim("N"), m.pool.int(10));
        let less = m.pool.binary(BinaryOp::Sub, n, ten);
        m.input("x", DType::F32, &[n]);
        m.tensor("w", TensorRole::Workspace, DType::F32, &[less]);
    });
    let x = zeros(DType::F32, &[9]);
    refused(run(&negative, &[("x", &x)], &mut [], &[]), DataFault::Size, &["dim 0 of `w` would be -1"]);
}

#[test]
fn parameters_are_typed_ranged_and_named() {
    let kernel = idle(|m| {
        m.param("window", Ty::Int, None);
        m.param("cap", Ty::Float, Some(Value::Float(50.0)));
        m.param("causal", Ty::Bool, Some(Value::Bool(true)));
        let n = m.dim("N");
        m.input("x", DType::F32, &[n]);
    });
    let x = zeros(DType::F32, &[1]);
    let with = |params: &[(&str, Value)]| run(&kernel, &[("x", &x)], &mut [], params);
    let window = ("window", Value::Int(512));
    with(&[window]).unwrap();
    with(&[window, ("cap", Value::Int(3)), ("causal", Value::Bool(false))]).unwrap();
    with(&[window, ("cap", Value::Float(f64::INFINITY))]).unwrap();
    refused(with(&[]), DataFault::Missing, &["parameter `window` has no default"]);
    refused(with(&[("windwo", Value::Int(1))]), DataFault::Name, &["did you mean `window`?"]);
    refused(
        with(&[window, ("temp", Value::Int(1))]),
        DataFault::Name,
        &["its parameters are window, cap, causal"],
    );
    refused(with(&[window, window]), DataFault::Name, &["`window` is given twice"]);
    refused(with(&[("window", Value::Float(2.0))]), DataFault::DType, &["`window` is an int, found a float"]);
    refused(
        with(&[window, ("causal", Value::Int(1))]),
        DataFault::DType,
        &["`causal` is a bool, found an int"],
    );
    refused(with(&[("window", Value::Int(1 << 31))]), DataFault::Value, &["`window` is 2147483648"]);
    refused(with(&[window, ("cap", Value::Float(1e39))]), DataFault::Value, &["beyond the range of f32"]);
    refused(with(&[window, ("N", Value::Int(1))]), DataFault::Name, &["`N` is a dim"]);
}

#[test]
fn conditions_are_evaluated_again_when_lengths_change() {
    let kernel = idle(|m| {
        let n = m.dim("Sq");
        let four = m.pool.int(4);
        let cond = m.pool.binary(BinaryOp::Le, n, four);
        m.requires.push(RequireSpec { cond, message: "Sq must be in 1..4; plan for prefill".to_string() });
        m.input("x", DType::F32, &[n]);
    });
    let (short, long) = (zeros(DType::F32, &[4]), zeros(DType::F32, &[5]));
    for _ in 0..2 {
        run(&kernel, &[("x", &short)], &mut [], &[]).unwrap();
        let result = run(&kernel, &[("x", &long)], &mut [], &[]);
        refused(result, DataFault::Condition, &["Sq must be in 1..4; plan for prefill", "here Sq = 5"]);
    }
}

#[test]
fn sorted_and_monotone_name_the_first_offender() {
    let make = |order: u8| {
        idle(|m| {
            let (b, n) = (m.dim("B"), m.dim("S"));
            m.input("doc", DType::I32, &[b, n]);
            m.tensors[0].order = order;
        })
    };
    let (sorted, monotone) = (make(1), make(2));
    let bind = |kernel: &LoadedKernel, rows: &[i32]| {
        run(kernel, &[("doc", &ints(rows, &[2, rows.len() / 2]))], &mut [], &[])
    };
    bind(&sorted, &[0, 0, 3, 1, 1, 1]).unwrap();
    bind(&sorted, &[]).unwrap();
    bind(&monotone, &[3, 2, 2, 0, 0, 9]).unwrap();
    let said = ["doc[1, 2] = 4 follows doc[1, 1] = 5", "sorted"];
    refused(
        bind(&sorted, &[0, 1, 2, 3, 5, 4, 3, 2]),
        DataFault::Fact,
        &["doc[1, 1] = 4 follows doc[1, 0] = 5"],
    );
    refused(bind(&sorted, &[0, 1, 2, 4, 5, 4]), DataFault::Fact, &said);
    refused(bind(&monotone, &[3, 2, 2, 0, 9, 8]), DataFault::Fact, &["doc[1, 2] = 8 follows", "monotone"]);
    refused(bind(&monotone, &[3, 4, 2, 0, 0, 0]), DataFault::Fact, &["doc[0, 1] = 4 follows doc[0, 0] = 3"]);
    // Only an unsafe call skips the check.
    let bad = ints(&[1, 0], &[2, 1]);
    let transposed = TensorView::strided(bad.as_slice::<i32>().unwrap(), 0, &[1, 2], &[2, 1]).unwrap();
    let options = RunOptions::default();
    refused(sorted.run(&[("doc", transposed)], &mut [], &[], &options), DataFault::Fact, &["doc[0, 1] = 0"]);
    // SAFETY: the kernel is a bare `ret`: it relies on nothing.
    unsafe { sorted.run_trusting_facts(&[("doc", transposed)], &mut [], &[], &options) }.unwrap();
}

#[test]
fn order_is_along_the_last_declared_dim_whatever_the_layout() {
    let kernel = idle(|m| {
        let (b, n) = (m.dim("B"), m.dim("S"));
        m.input("doc", DType::I64, &[b, n]);
        m.tensors[0].layout = vec![1, 0];
        m.tensors[0].order = 1;
    });
    // Bound as [S, B]: column b is a sequence.
    let good = Tensor::from_slice(&[5i64, 0, 6, 1, 7, 2], &[3, 2]).unwrap();
    run(&kernel, &[("doc", &good)], &mut [], &[]).unwrap();
    let bad = Tensor::from_slice(&[5i64, 0, 6, 1, 7, 0], &[3, 2]).unwrap();
    refused(
        run(&kernel, &[("doc", &bad)], &mut [], &[]),
        DataFault::Fact,
        &["doc[1, 2] = 0 follows doc[1, 1] = 1"],
    );
}

/// `x[table[b]]` with x of `f32[N]` and table of `i32[B]`; and the constant shift of the index.
fn indexed(shift: i64) -> LoadedKernel {
    idle(|m| {
        let (n, b) = (m.dim("N"), m.dim("B"));
        let x = m.input("x", DType::F32, &[n]);
        let table = m.input("table", DType::I32, &[b]);
        let at = m.index("b", b);
        let page = m.pool.load(table, vec![at], Ty::Int);
        let shift = m.pool.int(shift);
        let index = m.pool.binary(BinaryOp::Add, page, shift);
        m.checks.push(BindCheck::Index { tensor: table, dim: 0, index: at, text: "table[b]".to_string() });
        m.checks.push(BindCheck::Index { tensor: x, dim: 0, index, text: "x[table[b]]".to_string() });
    })
}

#[test]
fn index_tensors_are_scanned_and_the_first_bad_element_is_named() {
    let kernel = indexed(0);
    let x = zeros(DType::F32, &[10]);
    let bind =
        |table: &[i32]| run(&kernel, &[("x", &x), ("table", &ints(table, &[table.len()]))], &mut [], &[]);
    bind(&[0, 9, 3]).unwrap();
    let says = ["index of `x[table[b]]` leaves `x`", "indices 0 to 9", "`table[1]` is 10"];
    refused(bind(&[3, 10, 11]), DataFault::Index, &says);
    refused(bind(&[3, 3, -1]), DataFault::Index, &["`table[2]` is -1"]);
    bind(&[9; 3]).unwrap();
    bind(&[]).unwrap();
    let (none, table) = (zeros(DType::F32, &[0]), ints(&[0], &[1]));
    refused(
        run(&kernel, &[("x", &none), ("table", &table)], &mut [], &[]),
        DataFault::Index,
        &["dim 0 is empty"],
    );
    run(&kernel, &[("x", &none), ("table", &ints(&[], &[0]))], &mut [], &[]).unwrap();
}

#[test]
fn index_arithmetic_is_followed_and_overflow_is_refused() {
    let kernel = indexed(-2);
    let x = zeros(DType::F32, &[10]);
    let bind =
        |table: &[i32]| run(&kernel, &[("x", &x), ("table", &ints(table, &[table.len()]))], &mut [], &[]);
    bind(&[2, 11]).unwrap();
    refused(bind(&[2, 1]), DataFault::Index, &["`table[1]` is 1"]);
    let wild = indexed(i64::MAX);
    let table = ints(&[0, 1], &[2]);
    refused(run(&wild, &[("x", &x), ("table", &table)], &mut [], &[]), DataFault::Index, &["leaves `x`"]);
}

#[test]
fn a_proof_is_forgotten_when_lengths_change() {
    let kernel = indexed(0);
    let table = ints(&[7], &[1]);
    run(&kernel, &[("x", &zeros(DType::F32, &[8])), ("table", &table)], &mut [], &[]).unwrap();
    let short = zeros(DType::F32, &[7]);
    refused(
        run(&kernel, &[("x", &short), ("table", &table)], &mut [], &[]),
        DataFault::Index,
        &["`table[0]` is 7"],
    );
}

#[test]
fn divisors_must_be_positive() {
    let kernel = idle(|m| {
        let n = m.dim("N");
        m.input("x", DType::F32, &[n]);
        let block = m.param("block", Ty::Int, Some(Value::Int(16)));
        m.checks.push(BindCheck::Divisor { divisor: block, text: "i div block".to_string() });
    });
    let x = zeros(DType::F32, &[1]);
    let with = |block: i64| run(&kernel, &[("x", &x)], &mut [], &[("block", Value::Int(block))]);
    with(3).unwrap();
    refused(with(-3), DataFault::Divisor, &["divisor of `i div block` may be zero or negative"]);
    refused(with(0), DataFault::Divisor, &["divisor of `i div block` may be zero or negative"]);
}

#[test]
fn table_entries_that_do_not_fit_are_named() {
    let kernel = idle(|m| {
        let n = m.dim("N");
        m.input("x", DType::F32, &[n]);
        let p = m.param("p", Ty::Int, Some(Value::Int(1)));
        let var = m.pool.add_var("t", Ty::Int);
        let index: ExprId = m.pool.var(var);
        let value = m.pool.binary(BinaryOp::Mul, index, p);
        let zero = m.pool.int(0);
        let role = TensorRole::Table { vars: vec![var], origin: vec![zero], value };
        m.tensor("t", role, DType::I32, &[n]);
    });
    let x = zeros(DType::F32, &[4]);
    let with = |p: i64| run(&kernel, &[("x", &x)], &mut [], &[("p", Value::Int(p))]);
    with(1000).unwrap();
    refused(with(1 << 30), DataFault::Value, &["entry [2] of table `t` would be 2147483648"]);
    with(7).unwrap();
}

#[test]
fn written_memory_overlaps_nothing() {
    let kernel = LoadedKernel::load(add_kernel().finish()).unwrap();
    let mut buffer = [1f32; 8];
    let base = buffer.as_mut_ptr().cast::<u8>();
    let bind = |x_at: usize, y_at: usize| {
        // SAFETY: the buffer outlives the views, nobody else touches it, and a run that is accepted writes only
        // memory that is not read.
        let (x, y) = unsafe {
            (
                TensorView::from_raw(base, 8, DType::F32, x_at, &[4], &[1]).unwrap(),
                TensorViewMut::from_raw(base, 8, DType::F32, y_at, &[4], &[1]).unwrap(),
            )
        };
        kernel.run(&[("x", x)], &mut [("y", y)], &[], &RunOptions::default())
    };
    bind(0, 4).unwrap();
    bind(4, 0).unwrap();
    for (x_at, y_at) in [(0, 0), (0, 3), (3, 0), (1, 4)] {
        refused(bind(x_at, y_at), DataFault::Overlap, &["output `y` shares memory with `x`"]);
    }
}

#[test]
fn errors_leave_outputs_untouched_and_the_kernel_usable() {
    let kernel = LoadedKernel::load(add_kernel().finish()).unwrap();
    let x = Tensor::from_slice(&[1f32, 2.0], &[2]).unwrap();
    let mut y = Tensor::from_slice(&[-1f32, -1.0], &[2]).unwrap();
    assert!(run(&kernel, &[("x", &x)], &mut [("y", &mut y)], &[("c", Value::Bool(true))]).is_err());
    assert_eq!(y.as_slice::<f32>().unwrap(), [-1.0, -1.0]);
    run(&kernel, &[("x", &x)], &mut [("y", &mut y)], &[]).unwrap();
    assert_eq!(y.as_slice::<f32>().unwrap(), [2.0, 3.0]);
}

#[test]
fn parameters_given_at_load_become_defaults() {
    let load = |params: &[(&str, Value)]| LoadedKernel::load_with(add_kernel().finish(), params);
    let kernel = load(&[("c", Value::Int(5))]).unwrap();
    let x = Tensor::from_slice(&[1f32, 2.0], &[2]).unwrap();
    let mut y = zeros(DType::F32, &[2]);
    run(&kernel, &[("x", &x)], &mut [("y", &mut y)], &[]).unwrap();
    assert_eq!(y.as_slice::<f32>().unwrap(), [6.0, 7.0]);
    run(&kernel, &[("x", &x)], &mut [("y", &mut y)], &[("c", Value::Float(0.5))]).unwrap();
    assert_eq!(y.as_slice::<f32>().unwrap(), [1.5, 2.5]);
    refused(load(&[("d", Value::Int(5))]).map(drop), DataFault::Name, &["did you mean `c`?"]);
    refused(load(&[("c", Value::Bool(true))]).map(drop), DataFault::DType, &["`c` is a float, found a bool"]);
    refused(load(&[("N", Value::Int(5))]).map(drop), DataFault::Name, &["`N` is a dim"]);
}
