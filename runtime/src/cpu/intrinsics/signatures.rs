//! The types of the intrinsics, under the C convention of the platform.
//!
//! In: nothing. Out: a `*Fn` type for each kind of entry of the table; what the arguments mean stands with
//! `attn_compiler::artifact::Intrinsic`. Not here: the functions (`table.rs`).

/// `gemm` and `gemm_skip_zero`.
pub type GemmFn = unsafe extern "C" fn(
    c: *mut f32,
    ldc: i64,
    a: *const f32,
    lda: i64,
    b: *const f32,
    panel_stride: i64,
    rows: i64,
    k: i64,
    n: i64,
    row_scale: *const f32,
    accumulate: i32,
);
/// `gemm_columns`.
pub type GemmColumnsFn = unsafe extern "C" fn(
    c: *mut f32,
    ldc: i64,
    a: *const f32,
    lda: i64,
    b: *const u8,
    dtype: u32,
    stride_x: i64,
    stride_t: i64,
    rows: i64,
    k: i64,
    n: i64,
    accumulate: i32,
    next: *const u8,
);
/// `gemm_rows`.
pub type GemmRowsFn = unsafe extern "C" fn(
    c: *mut f32,
    ldc: i64,
    a: *const f32,
    lda: i64,
    b: *const u8,
    dtype: u32,
    stride_t: i64,
    stride_x: i64,
    rows: i64,
    k: i64,
    n: i64,
    row_scale: *const f32,
    accumulate: i32,
    skip_zero: i32,
    next: *const u8,
);
/// `fill`.
pub type FillFn = unsafe extern "C" fn(dst: *mut f32, n: i64, value: f32);
/// `pack_k_pairs`.
pub type PackKPairsFn =
    unsafe extern "C" fn(dst: *mut f32, src: *const u8, n_keys: i64, d: i64, stride_key: i64, stride_d: i64);
/// `pack_v_pairs`.
pub type PackVPairsFn = unsafe extern "C" fn(
    dst: *mut f32,
    panel_stride: i64,
    src: *const u8,
    n_keys: i64,
    d: i64,
    stride_key: i64,
    stride_d: i64,
) -> i64;
/// `load_pairs`.
pub type LoadPairsFn = unsafe extern "C" fn(
    dst: *mut u16,
    ldd: i64,
    src: *const u8,
    rows: i64,
    d: i64,
    stride_row: i64,
    stride_d: i64,
);
/// `round_pairs`.
pub type RoundPairsFn =
    unsafe extern "C" fn(dst: *mut u16, ldd: i64, src: *const f32, lds: i64, rows: i64, cols: i64);
/// `columns_pairs`.
pub type ColumnsPairsFn = unsafe extern "C" fn(
    c: *mut f32,
    ldc: i64,
    a: *const f32,
    lda: i64,
    b: *const u8,
    stride_x: i64,
    stride_t: i64,
    rows: i64,
    k: i64,
    n: i64,
    accumulate: i32,
    next: *const u8,
);
/// `rows_pairs`.
pub type RowsPairsFn = unsafe extern "C" fn(
    c: *mut f32,
    ldc: i64,
    a: *const f32,
    lda: i64,
    b: *const u8,
    stride_t: i64,
    stride_x: i64,
    rows: i64,
    k: i64,
    n: i64,
    row_scale: *const f32,
    accumulate: i32,
    skip_zero: i32,
    next: *const u8,
);
/// `softmax_step`.
pub type SoftmaxStepFn = unsafe extern "C" fn(
    s: *mut f32,
    lds: i64,
    rows: i64,
    cols: i64,
    scale: f32,
    row_max: *mut f32,
    row_sum: *mut f32,
    alpha: *mut f32,
    floor_unmasked: i32,
);
/// `weight_step`.
pub type WeightStepFn = unsafe extern "C" fn(
    kind: u32,
    s: *mut f32,
    lds: i64,
    rows: i64,
    cols: i64,
    scale: f32,
    row_max: *mut f32,
    floor_unmasked: i32,
);
/// `pack_k`.
pub type PackKFn = unsafe extern "C" fn(
    dst: *mut f32,
    src: *const u8,
    dtype: u32,
    n_keys: i64,
    d: i64,
    stride_key: i64,
    stride_d: i64,
);
/// `pack_v`.
pub type PackVFn = unsafe extern "C" fn(
    dst: *mut f32,
    panel_stride: i64,
    src: *const u8,
    dtype: u32,
    n_keys: i64,
    d: i64,
    stride_key: i64,
    stride_d: i64,
) -> i64;
/// `load_rows`.
pub type LoadRowsFn = unsafe extern "C" fn(
    dst: *mut f32,
    ldd: i64,
    src: *const u8,
    dtype: u32,
    rows: i64,
    d: i64,
    stride_row: i64,
    stride_d: i64,
);
/// `store_rows`.
pub type StoreRowsFn = unsafe extern "C" fn(
    src: *const f32,
    lds: i64,
    dst: *mut u8,
    dtype: u32,
    rows: i64,
    d: i64,
    stride_row: i64,
    stride_d: i64,
    row_scale: *const f32,
);
/// `store_vec`.
pub type StoreVecFn = unsafe extern "C" fn(src: *const f32, dst: *mut u8, dtype: u32, n: i64, stride: i64);
/// `finish_softmax`.
pub type FinishSoftmaxFn = unsafe extern "C" fn(
    rows: i64,
    row_max: *const f32,
    row_sum: *const f32,
    sink: f32,
    inv_sum: *mut f32,
    lse: *mut f32,
);
/// `vmath`.
pub type VMathFn = unsafe extern "C" fn(function: u32, s: *mut f32, lds: i64, rows: i64, cols: i64);
/// `math1`.
pub type Math1Fn = unsafe extern "C" fn(function: u32, x: f32) -> f32;
/// `pow`.
pub type PowFn = unsafe extern "C" fn(x: f32, y: f32) -> f32;
/// `half_to_f32`.
pub type HalfToF32Fn = unsafe extern "C" fn(bits: i32) -> f32;
/// `transpose`.
pub type TransposeFn =
    unsafe extern "C" fn(dst: *mut f32, ldd: i64, src: *const f32, lds: i64, rows: i64, cols: i64);
/// `scan_rows`.
pub type ScanRowsFn = unsafe extern "C" fn(s: *mut f32, lds: i64, rows: i64, cols: i64, decay: *const f32);
/// `affine`.
pub type AffineFn = unsafe extern "C" fn(
    s: *mut f32,
    lds: i64,
    rows: i64,
    cols: i64,
    scale: f32,
    factor: *const f32,
    term: *const f32,
    step: i64,
    keep_zero: i32,
);
/// `band`.
pub type BandFn = unsafe extern "C" fn(
    s: *mut f32,
    lds: i64,
    rows: i64,
    cols: i64,
    period: i64,
    from: i64,
    from_step: i64,
    to: i64,
    to_step: i64,
);
/// `reduce_rows`.
pub type ReduceRowsFn =
    unsafe extern "C" fn(op: u32, dst: *mut f32, src: *const f32, lds: i64, rows: i64, cols: i64);
/// `random`.
pub type RandomFn = unsafe extern "C" fn(
    s: *mut f32,
    lds: i64,
    rows: i64,
    cols: i64,
    row0: i64,
    col0: i64,
    stream: i64,
    offset: i64,
    seed: i64,
    threshold: i64,
    keep_scale: f32,
);
/// `prefix_sum`.
pub type PrefixSumFn =
    unsafe extern "C" fn(hi: *mut f32, lo: *mut f32, src: *const u8, dtype: u32, n: i64, stride: i64);
/// `top_k`.
pub type TopKFn = unsafe extern "C" fn(
    indices: *mut i32,
    ranks: *mut i32,
    src: *const u8,
    dtype: u32,
    n: i64,
    stride: i64,
    m: i64,
    width: i64,
);
/// `keep_largest`.
pub type KeepLargestFn = unsafe extern "C" fn(
    best: *mut f32,
    at: *mut f32,
    ldb: i64,
    src: *const f32,
    lds: i64,
    rows: i64,
    cols: i64,
    first: i64,
    m: i64,
);
/// `mark`.
pub type MarkFn =
    unsafe extern "C" fn(dst: *mut f32, ldd: i64, at: *const f32, lda: i64, rows: i64, cols: i64, first: i64);
