//! The contract between the compiler and the runtime. Imports nothing but the scalar expressions of
//! `crate::expr`, in which sizes, tables and launch conditions are written.
//!
//! What comes out of a backend is an [`Artifact`]: an ordered list of launches over named workspace
//! buffers, with everything the runtime must know to check arguments and to launch. Nothing about
//! attention is said here: the runtime is told sizes, strides, tables and code, never masks or heads.
//!
//! Two parts follow: the data of an artifact, and the table of *tile intrinsics* that a CPU kernel
//! calls through a pointer in its arguments (see `docs/abi.md`).

use serde::{Deserialize, Serialize};

use crate::expr::eval::Value;
use crate::expr::{ExprId, Pool, TensorId, Ty, VarId};

/// Everything the runtime is told about a kernel. All expressions live in `pool`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Artifact {
    /// Kernel name.
    pub name: String,
    /// What the code was made for, as [`crate::target::Target`] prints it.
    pub target: String,
    /// Sizes, tables, conditions.
    pub pool: Pool,
    /// Run-time lengths, then parameters, in argument order.
    pub scalars: Vec<ScalarSpec>,
    /// Tensor table in argument order; `TensorId(n)` is the n-th.
    pub tensors: Vec<TensorSpec>,
    /// Launch conditions over dims and params.
    pub requires: Vec<RequireSpec>,
    /// Indices and divisors that must be proved when arguments are bound.
    pub checks: Vec<BindCheck>,
    /// What the contents of int tensors must fulfil.
    pub demands: Vec<ContentDemand>,
    /// Interval of each index variable that occurs in `checks`: (variable, lowest, highest), int expressions over dims,
    /// params, int tensors and other such variables.
    pub check_vars: Vec<(VarId, ExprId, ExprId)>,
    /// In order.
    pub launches: Vec<LaunchSpec>,
    /// Position-independent machine code of all launches, without relocations.
    pub code: Vec<u8>,
    /// The schedule in words, for `explain`, `bench` and traces.
    pub schedule: String,
}

/// A run-time scalar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScalarSpec {
    /// Name that the host binds.
    pub name: String,
    /// Its variable; the pool knows the type.
    pub var: VarId,
    /// A length read from tensors, or a parameter of the kernel.
    pub is_dim: bool,
    /// Default of a parameter.
    pub default: Option<Value>,
    /// An int parameter that may hold any 64 bits: it only keys random words. Others fit 32 bits.
    pub wide: bool,
}

/// What a tensor of the argument table is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TensorRole {
    /// Bound by the host, read only.
    Input,
    /// Bound by the host, written.
    Output,
    /// Bound by the host among the outputs, read and written in place.
    Updated,
    /// Made at bind: entry at (vars - origin) is `value`.
    Table {
        /// One int variable for each dim.
        vars: Vec<VarId>,
        /// First value of each variable.
        origin: Vec<ExprId>,
        /// The entry.
        value: ExprId,
    },
    /// Contiguous scratch shared by the launches, 64-byte aligned.
    Workspace,
}

/// A tensor of the argument table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name that the host binds.
    pub name: String,
    /// Role.
    pub role: TensorRole,
    /// Storage type.
    pub dtype: DType,
    /// Logical sizes over dims and params.
    pub shape: Vec<ExprId>,
    /// The logical dim at each axis of the bound tensor.
    pub layout: Vec<usize>,
    /// 1: never decreases along the last dim. 2: never decreases or never increases. 0: nothing promised.
    pub order: u8,
}

/// A condition on dims and params.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequireSpec {
    /// Bool expression.
    pub cond: ExprId,
    /// What is wrong and how to mend it.
    pub message: String,
}

/// Something about an expression over index variables that interval arithmetic must prove at bind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum BindCheck {
    /// `index` lies in 0..size of that dim of the tensor.
    Index {
        /// Indexed tensor.
        tensor: TensorId,
        /// Which dim.
        dim: usize,
        /// Int expression.
        index: ExprId,
        /// The text of the access, for the error.
        text: String,
    },
    /// The divisor of a `div` or `mod` is positive: the tile classes of the mask rest on it.
    Divisor {
        /// Int expression.
        divisor: ExprId,
        /// The text of the division, for the error.
        text: String,
    },
}

/// Something that the contents of bound int tensors must fulfil before anything is launched. Expressions are over
/// dims and params.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ContentDemand {
    /// Every element lies in `lo..=hi`.
    Within {
        /// The tensor.
        tensor: TensorId,
        /// Lowest, and what it is in words.
        lo: (ExprId, String),
        /// Highest, and what it is in words.
        hi: (ExprId, String),
    },
    /// In row b of `table`, the first `ceil(len[b] / size)` entries lie in 0..size of dim 0 of `pool`. With `written`,
    /// no entry that covers one of the last `written` of the `len[b]` places is named twice by the first entries of
    /// all rows together, and no row with such an entry names any page twice.
    Pages {
        /// Int `[batch, pages]`.
        table: TensorId,
        /// Int `[batch]`.
        len: TensorId,
        /// Places of a page.
        size: i64,
        /// Tensor of pages.
        pool: TensorId,
        /// Places at the end of each row that are written.
        written: Option<ExprId>,
    },
}

/// One launch: `code[entry..]` is `extern "C" fn(args: *const u64, scratch: *mut u8, task: i64)`, called once for
/// each task in 0..product of `grid`, in ascending order of starting, on any threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// Name for traces.
    pub name: String,
    /// Extents over dims and params, outermost first.
    pub grid: Vec<ExprId>,
    /// Bytes of 64-byte aligned scratch that each running task needs.
    pub scratch_bytes: usize,
    /// Byte offset of the function in `code`; 0 where `device` says how to launch.
    pub entry: usize,
    /// How a GPU launches it; none for a CPU.
    pub device: Option<DeviceLaunch>,
}

/// One launch on a GPU: `code` is PTX text, the product of `grid` the number of tasks. A block does the task `%ctaid.x`, and
/// as many are launched as there are tasks; or it is persistent. No block is launched where there is no task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLaunch {
    /// Name of the entry in the PTX.
    pub kernel: String,
    /// Threads of a block, in one dimension.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block; 0 for none.
    pub shared_bytes: u32,
    /// Words of the argument block ([`ArgLayout`]) that are the kernel's parameters, in order: 64 bits each. Addresses
    /// are those of the device.
    pub words: Vec<u32>,
    /// Blocks take one task after another: any number of them does all, at most as many as there are tasks, best as many
    /// as the device holds at once. Word 0 is the address of a counter of 32 bits, 0 before a launch and after it.
    pub persistent: bool,
    /// A form of it that reads tensors by maps, to be taken where every map can be made: see [`TensorMapSpec`].
    pub mapped: Option<Box<MappedLaunch>>,
}

/// A launch whose kernel takes tensor maps, behind its words, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedLaunch {
    /// The launch; it has no other form.
    pub launch: DeviceLaunch,
    /// Maps, 128 bytes each.
    pub maps: Vec<TensorMapSpec>,
}

/// A tiled tensor map (`cuTensorMapEncodeTiled`) of a tensor of f16 or bf16: the column dim first, then the others
/// from the last to the first; boxes of `box_cols` x `box_rows`, 1 along the other dims; 128-byte swizzle, zeros out of range. It can be made
/// where columns lie without gaps, the address and the other strides are multiples of 16 bytes, and strides are positive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMapSpec {
    /// Which tensor of the table.
    pub tensor: u32,
    /// Its dim along which rows run.
    pub row_dim: u32,
    /// Its dim along which columns run.
    pub col_dim: u32,
    /// Rows of a box, at most 256.
    pub box_rows: u32,
    /// Columns of a box: 64.
    pub box_cols: u32,
}

/// Where things lie in the argument block, an array of 64-bit words:
/// word 0 is the address of the table of intrinsics, on a GPU that of a counter ([`DeviceLaunch::persistent`]); then for each tensor its address, its sizes and its strides
/// (elements, logical dim order); then one word for each scalar (int, f32 bits zero-extended, or 0/1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgLayout {
    /// First word of each tensor and its rank.
    pub tensors: Vec<(usize, usize)>,
    /// Word of each scalar.
    pub scalars: Vec<usize>,
    /// Words in all.
    pub words: usize,
}

impl ArgLayout {
    /// Lays out tensors of these ranks and this many scalars.
    pub fn new(ranks: impl IntoIterator<Item = usize>, n_scalars: usize) -> ArgLayout {
        let mut words = 1;
        let mut tensors = Vec::new();
        for rank in ranks {
            tensors.push((words, rank));
            words += 1 + 2 * rank;
        }
        let scalars = (words..words + n_scalars).collect();
        ArgLayout { tensors, scalars, words: words + n_scalars }
    }

    /// Word that holds the address of tensor `t`.
    pub fn address(&self, t: usize) -> usize {
        self.tensors[t].0
    }

    /// Word that holds the size of dim `d` of tensor `t`.
    pub fn size(&self, t: usize, d: usize) -> usize {
        self.tensors[t].0 + 1 + d
    }

    /// Word that holds the stride of dim `d` of tensor `t`, in elements.
    pub fn stride(&self, t: usize, d: usize) -> usize {
        let (first, rank) = self.tensors[t];
        first + 1 + rank + d
    }
}

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
    /// Eight-bit float e4m3 ([`crate::f8`]).
    F8E4M3 = 8,
}

impl DType {
    /// Bytes of one element in memory.
    #[inline]
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::I8 | DType::Bit | DType::F8E4M3 => 1,
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
            DType::F8E4M3 => "f8e4m3",
        }
    }

    /// The inverse of [`DType::name`].
    pub fn from_name(name: &str) -> Option<DType> {
        use DType::*;
        [F32, F16, Bf16, F64, I8, I32, I64, Bit, F8E4M3].into_iter().find(|d| d.name() == name)
    }

    /// The type of an element in an expression.
    pub const fn value_ty(self) -> Ty {
        match self {
            DType::F32 | DType::F16 | DType::Bf16 | DType::F64 | DType::F8E4M3 => Ty::Float,
            DType::I8 | DType::I32 | DType::I64 => Ty::Int,
            DType::Bit => Ty::Bool,
        }
    }

    /// True for the types whose elements are floats.
    pub const fn is_float(self) -> bool {
        self.may_be_float() || matches!(self, DType::F8E4M3)
    }

    /// True for the types that `float` may bind to.
    pub const fn may_be_float(self) -> bool {
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
/// are in elements; `dtype` is a [`DType`] code. Counts, strides and leading dimensions are `i64`, counts at
/// least 0; codes (`dtype`, `kind`, `fn`) and flags are 32-bit; scalars are `f32`. A code that does not exist
/// writes nothing. The same bits on every ISA, but for the sign and payload of a NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u32)]
pub enum Intrinsic {
    /// `gemm(c, ldc, a, lda, b, panel_stride, rows, k, n, row_scale, accumulate)`
    ///
    /// `C[r, x] = sum_t A[r, t] * B[t, x]` for r < rows, x < n rounded up to 16, t < k. B is packed in
    /// panels of [`PANEL`] columns: element (t, x) is at `b[(x / 32) * panel_stride + t * 32 + x % 32]`.
    /// With `accumulate != 0` the product is added to `C[r, x] * row_scale[r]` (1 if `row_scale` is null).
    /// The order of the sum over t is ascending, one FMA chain per element that starts at 0; the old C comes
    /// last, as `fma(C, row_scale, sum)`. C is not read where `accumulate` is 0. Only panels 0..ceil(n / 32)
    /// of B are read.
    Gemm = 0,
    /// `softmax_step(s, lds, rows, cols, scale, row_max, row_sum, alpha, floor_unmasked)`
    ///
    /// One online-softmax step (Milakov and Gimelshein 2018) over columns 0..cols of each row, in place:
    /// `m' = max(m, max_c s*scale)`, `p = exp(s*scale - m')` (0 where s is -inf, and everywhere if m' is
    /// -inf), `alpha = exp(m - m')` (0 if m is -inf; 1 if unchanged), `l = alpha * l + sum_c p`, `m = m'`.
    /// With `floor_unmasked != 0`, p of a score above -inf is at least `f32::MIN_POSITIVE`, so that p == 0
    /// says exactly "masked" (used with [`Intrinsic::GemmSkipZero`]). NaN scores propagate to p and l; m passes
    /// over them. Weights below 2^-126 are 0 without the floor. Columns from `cols` up to the next multiple of
    /// 16 are overwritten with 0, whatever they held. Any finite scale; -inf is masked whatever the scale.
    SoftmaxStep = 1,
    /// `weight_step(kind, s, lds, rows, cols, scale, row_max, floor_unmasked)`
    ///
    /// Unnormalised weights in place: kind 0 sigmoid, 1 relu, 2 the score itself, of `s*scale`; 0 where s
    /// is -inf. `row_max[r] = max(row_max[r], max_c s*scale)`. With `floor_unmasked != 0` a weight of magnitude
    /// below `f32::MIN_POSITIVE` whose score is not -inf becomes `f32::MIN_POSITIVE`. Padding and NaN as in
    /// [`Intrinsic::SoftmaxStep`].
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
    /// the missing features of the last panel. Returns 1 if any element is NaN or infinite (as f32), else 0.
    PackV = 5,
    /// `load_rows(dst, ldd, src, dtype, rows, d, stride_row, stride_d)`
    ///
    /// Converts rows to f32, zero in columns d..ldd.
    LoadRows = 6,
    /// `store_rows(src, lds, dst, dtype, rows, d, stride_row, stride_d, row_scale)`
    ///
    /// `dst[r, x] = src[r, x] * row_scale[r]` rounded to nearest even in the storage type. Where
    /// `row_scale[r]` is 0 the stored row is 0 whatever `src` holds. Null `row_scale` means 1. Integer types
    /// saturate and take NaN as 0; a bit is `value != 0`.
    StoreRows = 7,
    /// `store_vec(src, dst, dtype, n, stride)`: n f32 values to a strided vector.
    StoreVec = 8,
    /// `finish_softmax(rows, row_max, row_sum, sink, inv_sum, lse)`
    ///
    /// With a sink logit (f32 scalar, -inf when there is none): `m' = max(m, sink)`,
    /// `l' = l*exp(m - m') + exp(sink - m')`, `inv_sum[r] = exp(m - m') / l'` (0 where l' is 0),
    /// `lse[r] = m' + ln(l')` (-inf where l' is 0). NaN propagates.
    FinishSoftmax = 9,
    /// `vmath(fn, s, lds, rows, cols)`: `s[r, c]` becomes its [`MathFn`] for c < cols. Other columns are not touched.
    VMath = 10,
    /// `math1(fn, x) -> f32`: [`MathFn`] of one value, the same bits as `vmath`.
    Math1 = 11,
    /// `pow(x, y) -> f32`, at most 1 ulp from the exact value.
    Pow = 12,
    /// `half_to_f32(bits: i32) -> f32`: the low 16 bits as IEEE binary16.
    HalfToF32 = 13,
    /// `transpose(dst, ldd, src, lds, rows, cols)`
    ///
    /// `dst[c, x] = src[x, c]` for c < cols, x < rows; 0 for c < cols, rows <= x < ldd. At most ldd rows. Leading
    /// dimensions may be 1 too (vectors). The bits of every element are kept.
    Transpose = 14,
    /// `scan_rows(s, lds, rows, cols, decay)`
    ///
    /// `s[r, c] = fma(decay[r], s[r - 1, c], s[r, c])` in place for r = 1.. ascending, c < cols; 1 for every decay
    /// if `decay` is null; `decay[0]` is not read. Other columns are not touched. `lds` may be 1.
    ScanRows = 15,
    /// `reduce_rows(op, dst, src, lds, rows, cols)`
    ///
    /// `dst[r]` from columns c < cols of row r of `src`; `lds` may be 1. Op 0: the largest, -inf of none. 1: the
    /// sum, 0 of none: sixteen partial sums (c % 16, c ascending, from 0), then those as a tree of distances 8,
    /// 4, 2, 1. 2: the largest magnitude, 0 of none. A maximum is NaN if any element is; one that is zero is +0.
    ReduceRows = 16,
    /// `random(s, lds, rows, cols, row0, col0, stream, offset, seed, threshold, keep_scale)`
    ///
    /// `s[r, c] = keep ? s[r, c] * keep_scale : +0` in place for c < cols, whatever a dropped element held. Kept
    /// are the words that are at least `threshold` (cut to 0..=2^32). The word of (r, c): with j = col0 + c, word
    /// j mod 4 of Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011) for the counter (j div 4, row0 + r, stream,
    /// offset), of each the low 32 bits, and the key `seed` (low word first). Positions are i64 and wrap.
    Random = 17,
    /// `prefix_sum(hi, lo, src, dtype, n, stride)`
    ///
    /// With s the f64 sum of elements 0..=i of a strided vector, added in ascending order: `hi[i] = f32(s)`,
    /// `lo[i] = f32(s - hi[i])`, 0 where `hi[i]` is not finite. f64 elements are not rounded to f32.
    PrefixSum = 18,
    /// `top_k(indices, ranks, src, dtype, n, stride, m, width)`
    ///
    /// The positions of the min(m, n, width) largest elements (as f32) of a strided vector, ascending, as i32 in
    /// `indices[0..width]`, -1 in what is left; of equal ones the first. NaN counts as -inf, -0 as 0. Unless
    /// `ranks` is null, `ranks[i]` is the place of i in `indices` or -1, for i < n. Time O(n), no memory.
    TopK = 19,
    /// `keep_largest(best, at, ldb, src, lds, rows, cols, first, m)`
    ///
    /// Puts columns c < cols of row r of `src` into the list of the m largest of the row: `best[r, 0..m]` descending,
    /// `at[r, 0..m]` their positions as f32, -inf and -1 where nothing stands; both with leading dimension `ldb` >= m.
    /// Column c is at `first + c`. Of equal elements those in the list stay before later ones; -inf and NaN are not
    /// taken.
    KeepLargest = 20,
    /// `mark(dst, ldd, at, lda, rows, cols, first)`
    ///
    /// `dst[r, c] = 1` if `first + c` is among `at[r, 0..lda]`, else 0, for c < cols.
    Mark = 21,
    /// `gemm_columns(c, ldc, a, lda, b, dtype, stride_x, stride_t, rows, k, n, accumulate, next)`
    ///
    /// `C[r, x] = sum_t A[r, t] * B(t, x)` for r < rows, x < n, t < k, where B(t, x) is element
    /// `x * stride_x + t * stride_t` of a tensor, as f32; the old C is added with `accumulate != 0`. For few rows: the
    /// tensor is read where it lies. Sixteen partial sums (t % 16, t ascending, FMA from 0), then those as a tree of
    /// distances 8, 4, 2, 1. At `next`, unless it is null, begins what is read soon, as many bytes as this product reads: it
    /// may be asked for, and need not be there.
    GemmColumns = 22,
    /// `gemm_rows(c, ldc, a, lda, b, dtype, stride_t, stride_x, rows, k, n, row_scale, accumulate, skip_zero, next)`
    ///
    /// As `gemm`, and as `gemm_skip_zero` with `skip_zero != 0`, for a B whose element (t, x) is element
    /// `t * stride_t + x * stride_x` of a tensor, as f32; bit for bit what it would be after packing. For few rows. With
    /// `skip_zero` an A of `f32::MIN_POSITIVE` (a floored weight) counts as 0 unless something not finite is met.
    GemmRows = 23,
    /// `affine(s, lds, rows, cols, scale, factor, term, step, keep_zero)`
    ///
    /// `s[r, c] = fma(s[r, c], scale * factor[c], term[c + r * step])` for c < cols; 1 for every factor if that is
    /// null, and the product alone if `term` is. With `keep_zero`, +0 where `s[r, c]` is 0. Other columns are not touched.
    Affine = 24,
    /// `band(s, lds, rows, cols, period, from, from_step, to, to_step)`
    ///
    /// `s[r, c] = -inf` for c < cols unless `from + p * from_step <= c < to + p * to_step`, p = r % period (r where the
    /// period is not positive). Other columns are not touched.
    Band = 25,
    /// `gemm_pairs(c, ldc, a, lda, b, panel_stride, rows, k, n, row_scale, accumulate)`
    ///
    /// As `gemm`, for A and B of bf16 in pairs: A is row-major bf16 (`lda` in elements), element (t, x) of B is bf16 at
    /// `b[(x / 32) * panel_stride + (t / 2) * 64 + (x % 32) * 2 + t % 2]`. Each pair t, t + 1 with t even adds the product
    /// of t + 1, then that of t, each rounded once; where k is odd both operands are zero at k. Where an instruction does
    /// it (AVX-512 BF16), subnormal bf16, products and sums count as zero.
    GemmPairs = 26,
    /// `gemm_pairs_skip_zero(..)`: as `gemm_pairs`, with the exception of `gemm_skip_zero`.
    GemmPairsSkipZero = 27,
    /// `pack_k_pairs(dst, src, n_keys, d, stride_key, stride_d)`
    ///
    /// Keys of bf16 as the B of `gemm_pairs` with t the feature and x the key, `panel_stride` 32 d; d is even; zero for the
    /// missing keys of the last panel.
    PackKPairs = 28,
    /// `pack_v_pairs(dst, panel_stride, src, n_keys, d, stride_key, stride_d) -> i64`
    ///
    /// Values of bf16 as the B of `gemm_pairs` with t the key and x the feature; zero for the missing features of the last
    /// panel, and for key `n_keys` where that is odd. Returns 1 if any element is NaN or infinite, else 0.
    PackVPairs = 29,
    /// `load_pairs(dst, ldd, src, rows, d, stride_row, stride_d)`
    ///
    /// Copies rows of bf16, zero in columns d..ldd.
    LoadPairs = 30,
    /// `round_pairs(dst, ldd, src, lds, rows, cols)`
    ///
    /// Rounds c < cols of rows of f32 to bf16, to nearest even; zero up to the next multiple of 16.
    RoundPairs = 31,
    /// `columns_pairs(c, ldc, a, lda, b, stride_x, stride_t, rows, k, n, accumulate, next)`
    ///
    /// As `gemm_columns`, for A of bf16 (`lda` in elements) and a tensor of bf16, with even k: sixteen partial sums of pairs
    /// ((t / 2) % 16, in the order of `gemm_pairs`).
    ColumnsPairs = 32,
    /// `rows_pairs(c, ldc, a, lda, b, stride_t, stride_x, rows, k, n, row_scale, accumulate, skip_zero, next)`
    ///
    /// As `gemm_rows`, for A of bf16 (zero at k where that is odd) and a tensor of bf16: bit for bit `gemm_pairs` after
    /// packing, as far as both sum over the same k at once.
    RowsPairs = 33,
    /// `fill(dst, n, value)`: n contiguous f32 values become `value`; n is a multiple of 16.
    Fill = 34,
}

impl Intrinsic {
    /// Every intrinsic, in table order.
    pub const ALL: [Intrinsic; 35] = {
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
            Transpose,
            ScanRows,
            ReduceRows,
            Random,
            PrefixSum,
            TopK,
            KeepLargest,
            Mark,
            GemmColumns,
            GemmRows,
            Affine,
            Band,
            GemmPairs,
            GemmPairsSkipZero,
            PackKPairs,
            PackVPairs,
            LoadPairs,
            RoundPairs,
            ColumnsPairs,
            RowsPairs,
            Fill,
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
