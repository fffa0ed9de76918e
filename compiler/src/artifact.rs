//! The contract between the compiler and the runtime, free of other imports.
//!
//! What comes out of a backend is an [`Artifact`]: an ordered list of launches over named workspace
//! buffers, with everything the runtime must know to check arguments and to launch. Nothing about
//! attention is said here: the runtime is told sizes, strides, tables and code, never masks or heads.
//!
//! Two parts follow: the data of an artifact, and the table of *tile intrinsics* that a CPU kernel
//! calls through a pointer in its arguments (see `docs/abi.md`).

use serde::{Deserialize, Serialize};

/// Storage type of tensor elements. The discriminant is the code that intrinsics receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u32)]
pub enum DType {
    /// IEEE binary32.
    F32 = 0,
    /// IEEE binary16.
    F16 = 1,
    /// bfloat16.
    Bf16 = 2,
    /// IEEE binary64.
    F64 = 3,
    /// Signed byte.
    I8 = 4,
    /// Signed 32-bit integer.
    I32 = 5,
    /// Signed 64-bit integer.
    I64 = 6,
    /// A truth value, one byte per element, 0 or 1.
    Bit = 7,
}

impl DType {
    /// Bytes of one element in memory.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::I8 | DType::Bit => 1,
        }
    }

    /// The name used in `.attn` text, files and messages.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::F64 => "f64",
            DType::I8 => "i8",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::Bit => "bit",
        }
    }

    /// The inverse of [`DType::name`].
    pub fn from_name(name: &str) -> Option<DType> {
        use DType::*;
        [F32, F16, Bf16, F64, I8, I32, I64, Bit].into_iter().find(|d| d.name() == name)
    }

    /// True for the types that `float` may bind to on a target.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::Bf16 | DType::F64)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Lanes of one packed panel: keys for the K panel, features for the V panel.
pub const PANEL: usize = 32;

/// The tile intrinsics, in the order of the table of function pointers that a CPU kernel receives.
///
/// Conventions for all: `extern "C"`, never unwind, no allocation; every tile is row-major `f32`,
/// 64-byte aligned, its leading dimension (`ld*`, in elements) a multiple of 16; strides of tensors
/// are in elements; `dtype` is a [`DType`] code; counts are `i64` and at least 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u32)]
pub enum Intrinsic {
    /// `gemm(c, ldc, a, lda, b, panel_stride, rows, k, n, row_scale, accumulate)`
    ///
    /// `C[r, x] = sum_t A[r, t] * B[t, x]` for r < rows, x < n rounded up to 16, t < k. B is packed in
    /// panels of [`PANEL`] columns: element (t, x) is at `b[(x / 32) * panel_stride + t * 32 + x % 32]`.
    /// With `accumulate != 0` the product is added to `C[r, x] * row_scale[r]` (1 if `row_scale` is null).
    /// The order of the sum over t is ascending, one FMA chain per element: the same bits on every ISA.
    Gemm = 0,
    /// `softmax_step(s, lds, rows, cols, scale, row_max, row_sum, alpha, floor_unmasked)`
    ///
    /// One online-softmax step (Milakov and Gimelshein 2018) over columns 0..cols of each row, in place:
    /// `m' = max(m, max_c s*scale)`, `p = exp(s*scale - m')` (0 where s is -inf, and everywhere if m' is
    /// -inf), `alpha = exp(m - m')` (0 if m is -inf; 1 if unchanged), `l = alpha * l + sum_c p`, `m = m'`.
    /// With `floor_unmasked != 0`, p of a score above -inf is at least `f32::MIN_POSITIVE`, so that p == 0
    /// says exactly "masked" (used with [`Intrinsic::GemmSkipZero`]). NaN scores propagate to p and l.
    SoftmaxStep = 1,
    /// `weight_step(kind, s, lds, rows, cols, scale, row_max, floor_unmasked)`
    ///
    /// Unnormalised weights in place: kind 0 sigmoid, 1 relu, 2 the score itself, of `s*scale`; 0 where s
    /// is -inf. `row_max[r] = max(row_max[r], max_c s*scale)`.
    WeightStep = 2,
    /// `gemm_skip_zero(c, ldc, a, lda, b, panel_stride, rows, k, n, row_scale, accumulate)`
    ///
    /// As `gemm`, but pairs with `A[r, t] == 0` contribute nothing even where B is NaN or infinite.
    GemmSkipZero = 3,
    /// `pack_k(dst, src, dtype, n_keys, d, stride_key, stride_d)`
    ///
    /// `dst[(j / 32) * d * 32 + x * 32 + j % 32] = src[j * stride_key + x * stride_d]` as f32 for j < n_keys,
    /// zero for the missing keys of the last panel.
    PackK = 4,
    /// `pack_v(dst, panel_stride, src, dtype, n_keys, d, stride_key, stride_d) -> i64`
    ///
    /// `dst[(x / 32) * panel_stride + j * 32 + x % 32] = src[j * stride_key + x * stride_d]` as f32, zero for
    /// the missing features of the last panel. Returns 1 if any element is NaN or infinite, else 0.
    PackV = 5,
    /// `load_rows(dst, ldd, src, dtype, rows, d, stride_row, stride_d)`
    ///
    /// Converts rows to f32, zero in columns d..ldd.
    LoadRows = 6,
    /// `store_rows(src, lds, dst, dtype, rows, d, stride_row, stride_d, row_scale)`
    ///
    /// `dst[r, x] = src[r, x] * row_scale[r]` rounded to nearest even in the storage type. Where
    /// `row_scale[r]` is 0 the stored row is 0 whatever `src` holds. Null `row_scale` means 1.
    StoreRows = 7,
    /// `store_vec(src, dst, dtype, n, stride)`: n f32 values to a strided vector.
    StoreVec = 8,
    /// `finish_softmax(rows, row_max, row_sum, sink, inv_sum, lse)`
    ///
    /// With a sink logit (f32 scalar, -inf when there is none): `m' = max(m, sink)`,
    /// `l' = l*exp(m - m') + exp(sink - m')`, `inv_sum[r] = exp(m - m') / l'` (0 where l' is 0),
    /// `lse[r] = m' + ln(l')` (-inf where l' is 0). NaN propagates.
    FinishSoftmax = 9,
    /// `vmath(fn, dst, src, n)`: [`MathFn`] of n contiguous f32 values; `dst` may equal `src`.
    VMath = 10,
    /// `math1(fn, x) -> f32`: [`MathFn`] of one value, the same bits as `vmath`.
    Math1 = 11,
    /// `pow(x, y) -> f32`, correctly rounded to 1 ulp.
    Pow = 12,
    /// `half_to_f32(bits: i32) -> f32`: the low 16 bits as IEEE binary16.
    HalfToF32 = 13,
}

impl Intrinsic {
    /// Every intrinsic, in table order.
    pub const ALL: [Intrinsic; 14] = {
        use Intrinsic::*;
        [
            Gemm,
            SoftmaxStep,
            WeightStep,
            GemmSkipZero,
            PackK,
            PackV,
            LoadRows,
            StoreRows,
            StoreVec,
            FinishSoftmax,
            VMath,
            Math1,
            Pow,
            HalfToF32,
        ]
    };
}

/// Elementary functions behind [`Intrinsic::VMath`] and [`Intrinsic::Math1`]: f32 in, f32 out, at most
/// 2 ulp from the exact value over the whole range (sin and cos: for |x| up to 2^20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u32)]
pub enum MathFn {
    /// e^x
    Exp = 0,
    /// 2^x
    Exp2 = 1,
    /// natural logarithm; -inf at 0 and below
    Log = 2,
    /// base-2 logarithm; -inf at 0 and below
    Log2 = 3,
    /// hyperbolic tangent
    Tanh = 4,
    /// 1 / (1 + e^-x)
    Sigmoid = 5,
    /// sine, radians
    Sin = 6,
    /// cosine, radians
    Cos = 7,
}
