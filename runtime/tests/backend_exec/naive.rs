//! Intrinsics in plain Rust: those that expressions and results need do their work, the others write down the
//! arguments that they got.

use std::cell::RefCell;

use attn_compiler::artifact::{DType, Intrinsic, MathFn};
use attn_compiler::expr::UnaryOp;
use attn_compiler::expr::eval::{Value, unary};

thread_local! {
    static CALLS: RefCell<Vec<(Intrinsic, Vec<u64>)>> = const { RefCell::new(Vec::new()) };
}

/// The calls recorded on this thread since the last time.
pub fn take_calls() -> Vec<(Intrinsic, Vec<u64>)> {
    CALLS.with(|calls| calls.take())
}

fn record(f: Intrinsic, args: &[u64]) {
    CALLS.with(|calls| calls.borrow_mut().push((f, args.to_vec())));
}

/// One argument as 64 bits.
trait Bits {
    fn bits(self) -> u64;
}

impl Bits for i64 {
    fn bits(self) -> u64 {
        self as u64
    }
}
impl Bits for u32 {
    fn bits(self) -> u64 {
        u64::from(self)
    }
}
impl Bits for f32 {
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}

macro_rules! recorder {
    ($name:ident, $f:ident, ($($arg:ident: $ty:ty),*) $(-> $ret:ty = $value:expr)?) => {
        extern "C" fn $name($($arg: $ty),*) $(-> $ret)? {
            record(Intrinsic::$f, &[$($arg.bits()),*]);
            $($value)?
        }
    };
}

recorder!(gemm, Gemm, (c: i64, ldc: i64, a: i64, lda: i64, b: i64, ps: i64, rows: i64, k: i64, n: i64, rs: i64, acc: u32));
recorder!(softmax_step, SoftmaxStep, (s: i64, lds: i64, rows: i64, cols: i64, scale: f32, m: i64, l: i64, alpha: i64, fl: u32));
recorder!(weight_step, WeightStep, (kind: u32, s: i64, lds: i64, rows: i64, cols: i64, scale: f32, m: i64, fl: u32));
recorder!(gemm_skip_zero, GemmSkipZero, (c: i64, ldc: i64, a: i64, lda: i64, b: i64, ps: i64, rows: i64, k: i64, n: i64, rs: i64, acc: u32));
recorder!(gemm_columns, GemmColumns, (c: i64, ldc: i64, a: i64, lda: i64, b: i64, dtype: u32, sx: i64, st: i64, rows: i64, k: i64, n: i64, acc: u32, next: i64));
recorder!(gemm_rows, GemmRows, (c: i64, ldc: i64, a: i64, lda: i64, b: i64, dtype: u32, st: i64, sx: i64, rows: i64, k: i64, n: i64, rs: i64, acc: u32, skip: u32, next: i64));
recorder!(pack_k, PackK, (dst: i64, src: i64, dtype: u32, n: i64, d: i64, sk: i64, sd: i64));
recorder!(pack_v, PackV, (dst: i64, ps: i64, src: i64, dtype: u32, n: i64, d: i64, sk: i64, sd: i64) -> i64 = 1);
recorder!(load_rows, LoadRows, (dst: i64, ldd: i64, src: i64, dtype: u32, rows: i64, d: i64, sr: i64, sd: i64));
recorder!(store_vec, StoreVec, (src: i64, dst: i64, dtype: u32, n: i64, stride: i64));
recorder!(finish_softmax, FinishSoftmax, (rows: i64, m: i64, l: i64, sink: f32, inv: i64, lse: i64));
recorder!(gemm_pairs, GemmPairs, (c: i64, ldc: i64, a: i64, lda: i64, b: i64, ps: i64, rows: i64, k: i64, n: i64, rs: i64, acc: u32));
recorder!(gemm_pairs_skip_zero, GemmPairsSkipZero, (c: i64, ldc: i64, a: i64, lda: i64, b: i64, ps: i64, rows: i64, k: i64, n: i64, rs: i64, acc: u32));
recorder!(columns_pairs, ColumnsPairs, (c: i64, ldc: i64, a: i64, lda: i64, b: i64, sx: i64, st: i64, rows: i64, k: i64, n: i64, acc: u32, next: i64));
recorder!(rows_pairs, RowsPairs, (c: i64, ldc: i64, a: i64, lda: i64, b: i64, st: i64, sx: i64, rows: i64, k: i64, n: i64, rs: i64, acc: u32, skip: u32, next: i64));
recorder!(pack_k_pairs, PackKPairs, (dst: i64, src: i64, n: i64, d: i64, sk: i64, sd: i64));
recorder!(pack_v_pairs, PackVPairs, (dst: i64, ps: i64, src: i64, n: i64, d: i64, sk: i64, sd: i64) -> i64 = 1);
recorder!(load_pairs, LoadPairs, (dst: i64, ldd: i64, src: i64, rows: i64, d: i64, sr: i64, sd: i64));
recorder!(round_pairs, RoundPairs, (dst: i64, ldd: i64, src: i64, lds: i64, rows: i64, cols: i64));

/// f32 to f32, and every argument recorded.
extern "C" fn store_rows(
    src: *const f32,
    lds: i64,
    dst: *mut f32,
    dtype: u32,
    rows: i64,
    d: i64,
    stride_row: i64,
    stride_d: i64,
    row_scale: *const f32,
) {
    let head = [src as u64, lds as u64, dst as u64, u64::from(dtype), rows as u64, d as u64];
    record(
        Intrinsic::StoreRows,
        &[&head[..], &[stride_row as u64, stride_d as u64, row_scale as u64]].concat(),
    );
    assert_eq!(dtype, DType::F32 as u32, "tests store f32");
    for r in 0..rows {
        for x in 0..d {
            // SAFETY: the caller passes a tile and a tensor of these sizes; the tests size both.
            unsafe {
                let scale = if row_scale.is_null() { 1.0 } else { *row_scale.offset(r as isize) };
                let to = dst.offset((r * stride_row + x * stride_d) as isize);
                *to = *src.offset((r * lds + x) as isize) * scale;
            }
        }
    }
}

/// The operation of a code.
fn op(code: u32) -> UnaryOp {
    const OPS: [(MathFn, UnaryOp); 8] = [
        (MathFn::Exp, UnaryOp::Exp),
        (MathFn::Exp2, UnaryOp::Exp2),
        (MathFn::Log, UnaryOp::Log),
        (MathFn::Log2, UnaryOp::Log2),
        (MathFn::Tanh, UnaryOp::Tanh),
        (MathFn::Sigmoid, UnaryOp::Sigmoid),
        (MathFn::Sin, UnaryOp::Sin),
        (MathFn::Cos, UnaryOp::Cos),
    ];
    OPS.iter().find(|(f, _)| *f as u32 == code).expect("a known code").1
}

extern "C" fn math1(code: u32, x: f32) -> f32 {
    unary(op(code), Value::Float(f64::from(x))).float() as f32
}

extern "C" fn vmath(code: u32, s: *mut f32, lds: i64, rows: i64, cols: i64) {
    record(Intrinsic::VMath, &[u64::from(code), s as u64, lds as u64, rows as u64, cols as u64]);
    for (r, c) in (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))) {
        // SAFETY: the caller passes a tile that holds its rows.
        unsafe {
            let x = s.offset((r * lds + c) as isize);
            *x = math1(code, *x);
        }
    }
}

extern "C" fn pow(x: f32, y: f32) -> f32 {
    f64::from(x).powf(f64::from(y)) as f32
}

extern "C" fn half_to_f32(bits: u32) -> f32 {
    half::f16::from_bits(bits as u16).to_f32()
}

extern "C" fn fill(dst: *mut f32, n: i64, value: f32) {
    // SAFETY: the caller passes room for n values.
    (0..n as isize).for_each(|i| unsafe { *dst.offset(i) = value });
}

/// Intrinsics that have no naive form: `agree` runs those of the runtime.
extern "C" fn elsewhere() {
    std::process::abort()
}

/// The table, in the order of [`Intrinsic::ALL`].
pub fn table() -> &'static [usize; Intrinsic::ALL.len()] {
    static TABLE: std::sync::OnceLock<[usize; Intrinsic::ALL.len()]> = std::sync::OnceLock::new();
    TABLE.get_or_init(|| Intrinsic::ALL.map(|f| address(f) as usize))
}

fn address(f: Intrinsic) -> *const () {
    match f {
        Intrinsic::Gemm => gemm as *const (),
        Intrinsic::SoftmaxStep => softmax_step as *const (),
        Intrinsic::WeightStep => weight_step as *const (),
        Intrinsic::GemmSkipZero => gemm_skip_zero as *const (),
        Intrinsic::GemmColumns => gemm_columns as *const (),
        Intrinsic::GemmRows => gemm_rows as *const (),
        Intrinsic::PackK => pack_k as *const (),
        Intrinsic::PackV => pack_v as *const (),
        Intrinsic::LoadRows => load_rows as *const (),
        Intrinsic::GemmPairs => gemm_pairs as *const (),
        Intrinsic::GemmPairsSkipZero => gemm_pairs_skip_zero as *const (),
        Intrinsic::ColumnsPairs => columns_pairs as *const (),
        Intrinsic::RowsPairs => rows_pairs as *const (),
        Intrinsic::PackKPairs => pack_k_pairs as *const (),
        Intrinsic::PackVPairs => pack_v_pairs as *const (),
        Intrinsic::LoadPairs => load_pairs as *const (),
        Intrinsic::RoundPairs => round_pairs as *const (),
        Intrinsic::StoreRows => store_rows as *const (),
        Intrinsic::StoreVec => store_vec as *const (),
        Intrinsic::FinishSoftmax => finish_softmax as *const (),
        Intrinsic::VMath => vmath as *const (),
        Intrinsic::Math1 => math1 as *const (),
        Intrinsic::Pow => pow as *const (),
        Intrinsic::HalfToF32 => half_to_f32 as *const (),
        Intrinsic::Fill => fill as *const (),
        _ => elsewhere as *const (),
    }
}
