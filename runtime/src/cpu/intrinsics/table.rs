//! The tables of function pointers that CPU kernels receive, one per instruction set.
//!
//! In: an [`Isa`]. Out: its [`IntrinsicTable`], in the order of [`Intrinsic::ALL`]. Afterwards: entry i may
//! be called with the matching `*Fn` type, on a machine that has the instruction set. This is where the
//! generic kernels meet `#[target_feature]`: each entry is a wrapper into which everything is inlined.
//!
//! A count, stride or leading dimension is `i64` (a negative count is taken as 0), a code or flag is `u32`
//! or `i32`, every pointer is thin. An unknown code writes nothing (`vmath`: NaN): kernels come from our
//! own compiler, and an intrinsic has no way to fail.
#![allow(clippy::too_many_arguments, reason = "the ABI of the intrinsics is flat")]

use super::convert::{dtype_of, f16_to_f32};
use super::isa::Isa;
use super::signatures::*;
use super::{
    affine, direct, gemm, largest, math, pack, pairs, probe, random, rows, softmax, stream, tiles, vectors,
};
use attn_compiler::artifact::{DType, Intrinsic};

/// Function pointers in the order of [`Intrinsic::ALL`]: what a kernel gets a pointer to.
#[repr(transparent)]
pub struct IntrinsicTable([*const (); Intrinsic::ALL.len()]);

// SAFETY: the pointers are to functions, which any thread may call; the table is never written.
unsafe impl Sync for IntrinsicTable {}

impl IntrinsicTable {
    /// The address of the first entry.
    pub fn as_ptr(&self) -> *const *const () {
        self.0.as_ptr()
    }

    /// The address of one intrinsic.
    pub fn entry(&self, intrinsic: Intrinsic) -> *const () {
        self.0[intrinsic as usize]
    }
}

/// Accessors that give entries their types back, for callers in Rust.
macro_rules! typed_entries {
    ($($method:ident, $intrinsic:ident, $ty:ty;)*) => {
        impl IntrinsicTable {
            $(
                #[doc = concat!("[`Intrinsic::", stringify!($intrinsic), "`] under its type.")]
                pub fn $method(&self) -> $ty {
                    // SAFETY: `isa_table!` put a function of exactly this type at this place.
                    unsafe { std::mem::transmute::<*const (), $ty>(self.entry(Intrinsic::$intrinsic)) }
                }
            )*
        }
    };
}

typed_entries! {
    gemm, Gemm, GemmFn;
    softmax_step, SoftmaxStep, SoftmaxStepFn;
    weight_step, WeightStep, WeightStepFn;
    gemm_skip_zero, GemmSkipZero, GemmFn;
    pack_k, PackK, PackKFn;
    pack_v, PackV, PackVFn;
    load_rows, LoadRows, LoadRowsFn;
    store_rows, StoreRows, StoreRowsFn;
    store_vec, StoreVec, StoreVecFn;
    finish_softmax, FinishSoftmax, FinishSoftmaxFn;
    vmath, VMath, VMathFn;
    math1, Math1, Math1Fn;
    pow, Pow, PowFn;
    half_to_f32, HalfToF32, HalfToF32Fn;
    transpose, Transpose, TransposeFn;
    scan_rows, ScanRows, ScanRowsFn;
    reduce_rows, ReduceRows, ReduceRowsFn;
    random, Random, RandomFn;
    prefix_sum, PrefixSum, PrefixSumFn;
    top_k, TopK, TopKFn;
    keep_largest, KeepLargest, KeepLargestFn;
    mark, Mark, MarkFn;
    gemm_columns, GemmColumns, GemmColumnsFn;
    gemm_rows, GemmRows, GemmRowsFn;
    affine, Affine, AffineFn;
    band, Band, BandFn;
    gemm_pairs, GemmPairs, GemmFn;
    gemm_pairs_skip_zero, GemmPairsSkipZero, GemmFn;
    pack_k_pairs, PackKPairs, PackKPairsFn;
    pack_v_pairs, PackVPairs, PackVPairsFn;
    load_pairs, LoadPairs, LoadPairsFn;
    round_pairs, RoundPairs, RoundPairsFn;
    columns_pairs, ColumnsPairs, ColumnsPairsFn;
    rows_pairs, RowsPairs, RowsPairsFn;
    fill, Fill, FillFn;
}

/// A count or a leading dimension.
#[inline(always)]
fn count(n: i64) -> usize {
    usize::try_from(n).unwrap_or(0)
}

/// Defines the entries for pairs of bf16, which an instruction set may have on top of another.
macro_rules! pair_entries {
    ($simd:ty $(, #[$feature:meta])?) => {
        isa_table! { @wrap $simd, [$(#[$feature])?],
            fn gemm_pairs(c: *mut f32, ldc: i64, a: *const f32, lda: i64, b: *const f32, panel_stride: i64,
                rows: i64, k: i64, n: i64, row_scale: *const f32, accumulate: i32) {
                gemm::gemm::<$simd, false, true>(gemm::Gemm {
                    c, ldc: count(ldc), a, lda: count(lda) / 2, b, panel_stride: count(panel_stride) / 2,
                    rows: count(rows), k: count(k).div_ceil(2), n: count(n), row_scale, accumulate: accumulate != 0,
                })
            }
            fn gemm_pairs_skip_zero(c: *mut f32, ldc: i64, a: *const f32, lda: i64, b: *const f32,
                panel_stride: i64, rows: i64, k: i64, n: i64, row_scale: *const f32, accumulate: i32) {
                gemm::gemm::<$simd, true, true>(gemm::Gemm {
                    c, ldc: count(ldc), a, lda: count(lda) / 2, b, panel_stride: count(panel_stride) / 2,
                    rows: count(rows), k: count(k).div_ceil(2), n: count(n), row_scale, accumulate: accumulate != 0,
                })
            }
            fn pack_k_pairs(dst: *mut f32, src: *const u8, n_keys: i64, d: i64, stride_key: i64, stride_d: i64) {
                let (stride_t, stride_x) = (stride_d as isize, stride_key as isize);
                let source = pack::Source {
                    src, dtype: DType::Bf16, n_t: count(d), n_x: count(n_keys), stride_t, stride_x,
                };
                pairs::pack_k::<$simd>(source, dst)
            }
            fn pack_v_pairs(dst: *mut f32, panel_stride: i64, src: *const u8, n_keys: i64, d: i64,
                stride_key: i64, stride_d: i64) -> i64 {
                let (stride_t, stride_x) = (stride_key as isize, stride_d as isize);
                let source = pack::Source {
                    src, dtype: DType::Bf16, n_t: count(n_keys), n_x: count(d), stride_t, stride_x,
                };
                i64::from(pairs::pack_v::<$simd>(source, dst, count(panel_stride) / 2))
            }
            fn load_pairs(dst: *mut u16, ldd: i64, src: *const u8, rows: i64, d: i64, stride_row: i64, stride_d: i64) {
                let (stride_row, stride_d) = (stride_row as isize, stride_d as isize);
                let shape = rows::Strided {
                    dtype: DType::Bf16, rows: count(rows), d: count(d), stride_row, stride_d,
                };
                pairs::load_pairs(dst, count(ldd), src, shape)
            }
            fn round_pairs(dst: *mut u16, ldd: i64, src: *const f32, lds: i64, rows: i64, cols: i64) {
                pairs::round_pairs::<$simd>((dst, count(ldd)), (src, count(lds)), count(rows), count(cols))
            }
            fn columns_pairs(c: *mut f32, ldc: i64, a: *const f32, lda: i64, b: *const u8, stride_x: i64,
                stride_t: i64, rows: i64, k: i64, n: i64, accumulate: i32, next: *const u8) {
                let product = direct::Direct {
                    c, ldc: count(ldc), a, lda: count(lda) / 2, b, dtype: DType::Bf16, row_bytes: stride_x as isize * 2,
                    stride_element: stride_t as isize, rows: count(rows), k: count(k) / 2, n: count(n),
                    row_scale: std::ptr::null(), accumulate: accumulate != 0, ahead: stream::ahead_unless(next), next, asks: false,
                };
                if product.is_asked() {
                    columns_pairs_asking(&product)
                } else {
                    pairs::columns_pairs::<$simd, false>(product)
                }
            }
            fn rows_pairs(c: *mut f32, ldc: i64, a: *const f32, lda: i64, b: *const u8, stride_t: i64,
                stride_x: i64, rows: i64, k: i64, n: i64, row_scale: *const f32, accumulate: i32, skip_zero: i32,
                next: *const u8) {
                let product = direct::Direct {
                    c, ldc: count(ldc), a, lda: count(lda) / 2, b, dtype: DType::Bf16, row_bytes: stride_t as isize * 2,
                    stride_element: stride_x as isize, rows: count(rows), k: count(k), n: count(n),
                    row_scale, accumulate: accumulate != 0, ahead: stream::ahead_unless(next), next, asks: false,
                };
                match (product.is_asked(), skip_zero != 0) {
                    (true, skip) => rows_pairs_asking(&product, i32::from(skip)),
                    (false, true) => pairs::rows_pairs::<$simd, true, false>(product),
                    (false, false) => pairs::rows_pairs::<$simd, false, false>(product),
                }
            }
            fn columns_pairs_asking(product: &direct::Direct) {
                pairs::columns_pairs::<$simd, true>(*product)
            }
            fn rows_pairs_asking(product: &direct::Direct, skip_zero: i32) {
                if skip_zero != 0 {
                    pairs::rows_pairs::<$simd, true, true>(*product)
                } else {
                    pairs::rows_pairs::<$simd, false, true>(*product)
                }
            }
        }

        /// The entries of the table from `GemmPairs` on, in the order of `Intrinsic::ALL`.
        pub(super) const PAIR_ENTRIES: [*const (); 8] = [
            gemm_pairs as GemmFn as *const (),
            gemm_pairs_skip_zero as GemmFn as *const (),
            pack_k_pairs as PackKPairsFn as *const (),
            pack_v_pairs as PackVPairsFn as *const (),
            load_pairs as LoadPairsFn as *const (),
            round_pairs as RoundPairsFn as *const (),
            columns_pairs as ColumnsPairsFn as *const (),
            rows_pairs as RowsPairsFn as *const (),
        ];
    };
}

/// Defines a module with the wrappers and the table of one instruction set.
macro_rules! isa_table {
    ($name:ident, $simd:ty $(, #[$feature:meta])?) => {
        mod $name {
            use super::*;

            isa_table! { @wrap $simd, [$(#[$feature])?],
                fn gemm(c: *mut f32, ldc: i64, a: *const f32, lda: i64, b: *const f32, panel_stride: i64,
                    rows: i64, k: i64, n: i64, row_scale: *const f32, accumulate: i32) {
                    gemm::gemm::<$simd, false, false>(gemm::Gemm {
                        c, ldc: count(ldc), a, lda: count(lda), b, panel_stride: count(panel_stride),
                        rows: count(rows), k: count(k), n: count(n), row_scale, accumulate: accumulate != 0,
                    })
                }
                fn gemm_skip_zero(c: *mut f32, ldc: i64, a: *const f32, lda: i64, b: *const f32,
                    panel_stride: i64, rows: i64, k: i64, n: i64, row_scale: *const f32, accumulate: i32) {
                    gemm::gemm::<$simd, true, false>(gemm::Gemm {
                        c, ldc: count(ldc), a, lda: count(lda), b, panel_stride: count(panel_stride),
                        rows: count(rows), k: count(k), n: count(n), row_scale, accumulate: accumulate != 0,
                    })
                }
                fn softmax_step(s: *mut f32, lds: i64, rows: i64, cols: i64, scale: f32, row_max: *mut f32,
                    row_sum: *mut f32, alpha: *mut f32, floor_unmasked: i32) {
                    let tile = softmax::Tile { s, lds: count(lds), rows: count(rows), cols: count(cols) };
                    if floor_unmasked != 0 {
                        softmax::softmax_step::<$simd, true>(tile, scale, row_max, row_sum, alpha)
                    } else {
                        softmax::softmax_step::<$simd, false>(tile, scale, row_max, row_sum, alpha)
                    }
                }
                fn weight_step(kind: u32, s: *mut f32, lds: i64, rows: i64, cols: i64, scale: f32,
                    row_max: *mut f32, floor_unmasked: i32) {
                    let tile = softmax::Tile { s, lds: count(lds), rows: count(rows), cols: count(cols) };
                    let floor = floor_unmasked != 0;
                    match kind {
                        0 => softmax::weight_step::<$simd>(softmax::Weight::Sigmoid, tile, scale, row_max, floor),
                        1 => softmax::weight_step::<$simd>(softmax::Weight::Relu, tile, scale, row_max, floor),
                        2 => softmax::weight_step::<$simd>(softmax::Weight::Score, tile, scale, row_max, floor),
                        _ => {}
                    }
                }
                fn pack_k(dst: *mut f32, src: *const u8, dtype: u32, n_keys: i64, d: i64, stride_key: i64,
                    stride_d: i64) {
                    if let Some(dtype) = dtype_of(dtype) {
                        let (stride_t, stride_x) = (stride_d as isize, stride_key as isize);
                        let (n_t, n_x) = (count(d), count(n_keys));
                        let source = pack::Source { src, dtype, n_t, n_x, stride_t, stride_x };
                        pack::pack::<$simd, false>(source, dst, n_t * attn_compiler::artifact::PANEL);
                    }
                }
                fn pack_v(dst: *mut f32, panel_stride: i64, src: *const u8, dtype: u32, n_keys: i64, d: i64,
                    stride_key: i64, stride_d: i64) -> i64 {
                    let Some(dtype) = dtype_of(dtype) else { return 0 };
                    let (stride_t, stride_x) = (stride_key as isize, stride_d as isize);
                    let (n_t, n_x) = (count(n_keys), count(d));
                    let source = pack::Source { src, dtype, n_t, n_x, stride_t, stride_x };
                    i64::from(pack::pack::<$simd, true>(source, dst, count(panel_stride)))
                }
                fn load_rows(dst: *mut f32, ldd: i64, src: *const u8, dtype: u32, rows: i64, d: i64,
                    stride_row: i64, stride_d: i64) {
                    if let Some(dtype) = dtype_of(dtype) {
                        let (stride_row, stride_d) = (stride_row as isize, stride_d as isize);
                        let shape = rows::Strided { dtype, rows: count(rows), d: count(d), stride_row, stride_d };
                        rows::load_rows::<$simd>(dst, count(ldd), src, shape)
                    }
                }
                fn store_rows(src: *const f32, lds: i64, dst: *mut u8, dtype: u32, rows: i64, d: i64,
                    stride_row: i64, stride_d: i64, row_scale: *const f32) {
                    if let Some(dtype) = dtype_of(dtype) {
                        let (stride_row, stride_d) = (stride_row as isize, stride_d as isize);
                        let shape = rows::Strided { dtype, rows: count(rows), d: count(d), stride_row, stride_d };
                        rows::store_rows::<$simd>(src, count(lds), dst, shape, row_scale)
                    }
                }
                fn store_vec(src: *const f32, dst: *mut u8, dtype: u32, n: i64, stride: i64) {
                    if let Some(dtype) = dtype_of(dtype) {
                        rows::store_vec(src, dst, dtype, count(n), stride as isize)
                    }
                }
                fn finish_softmax(rows: i64, row_max: *const f32, row_sum: *const f32, sink: f32,
                    inv_sum: *mut f32, lse: *mut f32) {
                    softmax::finish_softmax::<$simd>(count(rows), row_max, row_sum, sink, inv_sum, lse)
                }
                fn vmath(function: u32, s: *mut f32, lds: i64, rows: i64, cols: i64) {
                    let tile = tiles::Tile { s, lds: count(lds), rows: count(rows), cols: count(cols) };
                    math::vmath::<$simd>(function, tile)
                }
                fn math1(function: u32, x: f32) -> f32 {
                    math::math1::<$simd>(function, x)
                }
                fn pow(x: f32, y: f32) -> f32 {
                    math::pow(x, y)
                }
                fn half_to_f32(bits: i32) -> f32 {
                    f16_to_f32(bits as u16)
                }
                fn transpose(dst: *mut f32, ldd: i64, src: *const f32, lds: i64, rows: i64, cols: i64) {
                    let s = src.cast_mut();
                    let tile = tiles::Tile { s, lds: count(lds), rows: count(rows), cols: count(cols) };
                    tiles::transpose::<$simd>(dst, count(ldd), tile)
                }
                fn scan_rows(s: *mut f32, lds: i64, rows: i64, cols: i64, decay: *const f32) {
                    let tile = tiles::Tile { s, lds: count(lds), rows: count(rows), cols: count(cols) };
                    tiles::scan_rows::<$simd>(tile, decay)
                }
                fn reduce_rows(op: u32, dst: *mut f32, src: *const f32, lds: i64, rows: i64, cols: i64) {
                    let s = src.cast_mut();
                    let tile = tiles::Tile { s, lds: count(lds), rows: count(rows), cols: count(cols) };
                    match op {
                        0 => tiles::reduce_rows::<$simd>(tiles::Reduce::Max, dst, tile),
                        1 => tiles::reduce_rows::<$simd>(tiles::Reduce::Sum, dst, tile),
                        2 => tiles::reduce_rows::<$simd>(tiles::Reduce::MaxAbs, dst, tile),
                        _ => {}
                    }
                }
                fn random(s: *mut f32, lds: i64, rows: i64, cols: i64, row0: i64, col0: i64, stream: i64,
                    offset: i64, seed: i64, threshold: i64, keep_scale: f32) {
                    let tile = tiles::Tile { s, lds: count(lds), rows: count(rows), cols: count(cols) };
                    let draw = random::Draw { row0, col0, stream, offset, seed, threshold, keep_scale };
                    random::random::<$simd>(tile, draw)
                }
                fn prefix_sum(hi: *mut f32, lo: *mut f32, src: *const u8, dtype: u32, n: i64, stride: i64) {
                    if let Some(dtype) = dtype_of(dtype) {
                        let v = vectors::Vector { src, dtype, n: count(n), stride: stride as isize };
                        vectors::prefix_sum(hi, lo, v)
                    }
                }
                fn top_k(indices: *mut i32, ranks: *mut i32, src: *const u8, dtype: u32, n: i64, stride: i64,
                    m: i64, width: i64) {
                    if let Some(dtype) = dtype_of(dtype) {
                        let v = vectors::Vector { src, dtype, n: count(n), stride: stride as isize };
                        vectors::top_k(indices, ranks, v, count(m), count(width))
                    }
                }
                fn keep_largest(best: *mut f32, at: *mut f32, ldb: i64, src: *const f32, lds: i64, rows: i64,
                    cols: i64, first: i64, m: i64) {
                    let tile = tiles::Tile { s: src.cast_mut(), lds: count(lds), rows: count(rows), cols: count(cols) };
                    largest::keep(best, at, count(ldb), tile, first, count(m))
                }
                fn mark(dst: *mut f32, ldd: i64, at: *const f32, lda: i64, rows: i64, cols: i64, first: i64) {
                    let tile = tiles::Tile { s: dst, lds: count(ldd), rows: count(rows), cols: count(cols) };
                    largest::mark(tile, at, count(lda), first)
                }
                fn gemm_columns(c: *mut f32, ldc: i64, a: *const f32, lda: i64, b: *const u8, dtype: u32,
                    stride_x: i64, stride_t: i64, rows: i64, k: i64, n: i64, accumulate: i32, next: *const u8) {
                    if let Some(dtype) = dtype_of(dtype) {
                        let product = direct::Direct {
                            c, ldc: count(ldc), a, lda: count(lda), b, dtype, row_bytes: stride_x as isize * dtype.size() as isize,
                            stride_element: stride_t as isize, rows: count(rows), k: count(k), n: count(n),
                            row_scale: std::ptr::null(), accumulate: accumulate != 0, ahead: stream::ahead_unless(next), next, asks: false,
                        };
                        if product.is_asked() {
                            gemm_columns_asking(&product)
                        } else {
                            direct::gemm_columns::<$simd>(product)
                        }
                    }
                }
                fn gemm_rows(c: *mut f32, ldc: i64, a: *const f32, lda: i64, b: *const u8, dtype: u32,
                    stride_t: i64, stride_x: i64, rows: i64, k: i64, n: i64, row_scale: *const f32,
                    accumulate: i32, skip_zero: i32, next: *const u8) {
                    if let Some(dtype) = dtype_of(dtype) {
                        let product = direct::Direct {
                            c, ldc: count(ldc), a, lda: count(lda), b, dtype, row_bytes: stride_t as isize * dtype.size() as isize,
                            stride_element: stride_x as isize, rows: count(rows), k: count(k), n: count(n),
                            row_scale, accumulate: accumulate != 0, ahead: stream::ahead_unless(next), next, asks: false,
                        };
                        match (product.is_asked(), skip_zero != 0) {
                            (true, skip) => gemm_rows_asking(&product, i32::from(skip)),
                            (false, true) => direct::gemm_rows::<$simd, true>(product),
                            (false, false) => direct::gemm_rows::<$simd, false>(product),
                        }
                    }
                }
                fn gemm_columns_asking(product: &direct::Direct) {
                    direct::gemm_columns_asking::<$simd>(*product)
                }
                fn gemm_rows_asking(product: &direct::Direct, skip_zero: i32) {
                    if skip_zero != 0 {
                        direct::gemm_rows_asking::<$simd, true>(*product)
                    } else {
                        direct::gemm_rows_asking::<$simd, false>(*product)
                    }
                }
                fn band(s: *mut f32, lds: i64, rows: i64, cols: i64, period: i64, from: i64, from_step: i64,
                    to: i64, to_step: i64) {
                    let tile = tiles::Tile { s, lds: count(lds), rows: count(rows), cols: count(cols) };
                    affine::band::<$simd>(tile, period, (from, from_step), (to, to_step))
                }
                fn affine(s: *mut f32, lds: i64, rows: i64, cols: i64, scale: f32, factor: *const f32,
                    term: *const f32, step: i64, keep_zero: i32) {
                    let tile = tiles::Tile { s, lds: count(lds), rows: count(rows), cols: count(cols) };
                    let with = affine::Affine { scale, factor, term, step: step as isize };
                    if keep_zero != 0 {
                        affine::affine::<$simd, true>(tile, with)
                    } else {
                        affine::affine::<$simd, false>(tile, with)
                    }
                }
                fn fill(dst: *mut f32, n: i64, value: f32) {
                    tiles::fill::<$simd>(dst, count(n), value)
                }
                fn fma_loop(iterations: usize) -> f32 {
                    probe::fma_loop::<$simd>(iterations)
                }
                fn read_loop(data: *const f32, n: usize) -> f32 {
                    probe::read_loop::<$simd>(std::slice::from_raw_parts(data, n))
                }
            }

            pair_entries!($simd $(, #[$feature])?);

            /// The measuring loops of this instruction set.
            pub(super) const PROBE: Probe =
                Probe { fma_loop, read_loop, flops: probe::flops_per_iteration::<$simd>() };

            /// The table of this instruction set, in the order of `Intrinsic::ALL`.
            pub(super) static TABLE: IntrinsicTable = IntrinsicTable(ENTRIES);

            pub(super) const ENTRIES: [*const (); Intrinsic::ALL.len()] = [
                gemm as GemmFn as *const (),
                softmax_step as SoftmaxStepFn as *const (),
                weight_step as WeightStepFn as *const (),
                gemm_skip_zero as GemmFn as *const (),
                pack_k as PackKFn as *const (),
                pack_v as PackVFn as *const (),
                load_rows as LoadRowsFn as *const (),
                store_rows as StoreRowsFn as *const (),
                store_vec as StoreVecFn as *const (),
                finish_softmax as FinishSoftmaxFn as *const (),
                vmath as VMathFn as *const (),
                math1 as Math1Fn as *const (),
                pow as PowFn as *const (),
                half_to_f32 as HalfToF32Fn as *const (),
                transpose as TransposeFn as *const (),
                scan_rows as ScanRowsFn as *const (),
                reduce_rows as ReduceRowsFn as *const (),
                random as RandomFn as *const (),
                prefix_sum as PrefixSumFn as *const (),
                top_k as TopKFn as *const (),
                keep_largest as KeepLargestFn as *const (),
                mark as MarkFn as *const (),
                gemm_columns as GemmColumnsFn as *const (),
                gemm_rows as GemmRowsFn as *const (),
                affine as AffineFn as *const (),
                band as BandFn as *const (),
                PAIR_ENTRIES[0],
                PAIR_ENTRIES[1],
                PAIR_ENTRIES[2],
                PAIR_ENTRIES[3],
                PAIR_ENTRIES[4],
                PAIR_ENTRIES[5],
                PAIR_ENTRIES[6],
                PAIR_ENTRIES[7],
                fill as FillFn as *const (),
            ];
        }
    };
    (@wrap $simd:ty, $features:tt, $(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {
        $(isa_table! { @one $features, fn $name($($arg: $ty),*) $(-> $ret)? $body })*
    };
    (@one [$(#[$feature:meta])?], fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block) => {
        // Each by itself: beside another a loop would lose registers.
        #[inline(never)]
        $(#[$feature])?
        unsafe extern "C" fn $name($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the features are those of the table, and the caller keeps the intrinsic's contract.
            #[allow(unused_unsafe, reason = "some bodies are safe")]
            unsafe { $body }
        }
    };
}

#[cfg(target_arch = "x86_64")]
isa_table!(avx512, crate::cpu::intrinsics::avx512::Avx512<false>, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]);
/// The table of AVX-512 with other entries for pairs.
#[cfg(target_arch = "x86_64")]
mod avx512bf16 {
    use super::*;

    pair_entries!(crate::cpu::intrinsics::avx512::Avx512<true>, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c")]);

    pub(super) static TABLE: IntrinsicTable = {
        let mut entries = super::avx512::ENTRIES;
        let mut n = 0;
        while n < PAIR_ENTRIES.len() {
            entries[Intrinsic::GemmPairs as usize + n] = PAIR_ENTRIES[n];
            n += 1;
        }
        IntrinsicTable(entries)
    };
}
#[cfg(target_arch = "x86_64")]
isa_table!(avx2, crate::cpu::intrinsics::avx2::Avx2, #[target_feature(enable = "avx2,fma,f16c")]);
#[cfg(target_arch = "aarch64")]
isa_table!(neon, crate::cpu::intrinsics::neon::Neon);
isa_table!(portable, crate::cpu::intrinsics::portable::Portable);

/// Measuring loops of an instruction set that this machine has.
pub(crate) struct Probe {
    fma_loop: unsafe extern "C" fn(usize) -> f32,
    read_loop: unsafe extern "C" fn(*const f32, usize) -> f32,
    flops: usize,
}

impl Probe {
    /// `None` where the machine lacks the instruction set.
    pub(crate) fn new(isa: Isa) -> Option<Probe> {
        match isa {
            isa if !isa.is_available() => None,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 => Some(avx512::PROBE),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(avx2::PROBE),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(neon::PROBE),
            _ => Some(portable::PROBE),
        }
    }

    /// Of the best instruction set there is.
    pub(crate) fn best() -> Probe {
        Isa::available().into_iter().find_map(Probe::new).unwrap_or(portable::PROBE)
    }

    /// Operations of one iteration of [`Probe::fma`].
    pub(crate) fn fma_flops(&self) -> usize {
        self.flops
    }

    /// Runs FMAs in registers.
    pub(crate) fn fma(&self, iterations: usize) -> f32 {
        // SAFETY: a probe exists only where its instruction set is available.
        unsafe { (self.fma_loop)(iterations) }
    }

    /// Reads all of `data`.
    pub(crate) fn read(&self, data: &[f32]) -> f32 {
        // SAFETY: as above; the slice is valid for its length.
        unsafe { (self.read_loop)(data.as_ptr(), data.len()) }
    }
}

/// The intrinsics of an instruction set. One that is not compiled for this architecture gets the portable
/// table; calling into a table needs `isa.is_available()`.
pub fn table(isa: Isa) -> &'static IntrinsicTable {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => &avx512bf16::TABLE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &avx512::TABLE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &avx2::TABLE,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => &neon::TABLE,
        _ => &portable::TABLE,
    }
}
