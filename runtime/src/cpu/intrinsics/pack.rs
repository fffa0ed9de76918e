//! Packing of K and V tiles into panels of [`PANEL`] columns: `pack_k`, `pack_v`.
//!
//! In: a strided tile of any storage type. Out: f32 panels for `gemm`. Afterwards: missing columns of the
//! last panel are 0; `pack_v` says whether an element was NaN or infinite. Reads exactly the elements of
//! the tile, never beyond. Not here: row-major tiles (`rows.rs`).
//!
//! Both packings are one operation, "panels of a matrix (t, x)": for K, t is the feature and x the key; for
//! V, t is the key and x the feature. Unit stride along x is a copy, along t a transposition of 16 x 16
//! blocks, anything else goes element by element.

use super::convert::read;
use super::rows::load_span;
use super::simd::{LANES, Simd};
use attn_compiler::artifact::{DType, PANEL};

/// A matrix of `n_t` by `n_x` elements of `dtype`, strides in elements.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub src: *const u8,
    pub dtype: DType,
    pub n_t: usize,
    pub n_x: usize,
    pub stride_t: isize,
    pub stride_x: isize,
}

/// `dst[(x / 32) * panel_stride + t * 32 + x % 32] = src[t, x]`, zero for x beyond `n_x` in the last panel.
/// Returns whether an element is NaN or infinite (always false where `CHECK` is false).
///
/// # Safety
/// The features of `S`; all elements readable; `dst` holds the panels.
#[inline(always)]
pub(super) unsafe fn pack<S: Simd, const CHECK: bool>(s: Source, dst: *mut f32, panel_stride: usize) -> bool {
    let mut bad = false;
    let mut x = 0;
    while x < s.n_x {
        let n = (s.n_x - x).min(LANES);
        // SAFETY: column x is inside the source; its lanes are inside the panel.
        unsafe {
            let to = dst.add(x / PANEL * panel_stride + x % PANEL);
            let from = s.src.offset(x as isize * s.stride_x * s.dtype.size() as isize);
            let part = Source { src: from, n_x: n, ..s };
            bad |= match (s.stride_t, s.stride_x) {
                (_, 1) => copy_columns::<S, CHECK>(part, to),
                (1, _) => transpose_columns::<S, CHECK>(part, to),
                _ => gather_columns::<S, CHECK>(part, to),
            };
        }
        x += LANES;
    }
    if x % PANEL != 0 {
        // SAFETY: the upper half of the last panel.
        unsafe {
            let to = dst.add(x / PANEL * panel_stride + LANES);
            (0..s.n_t).for_each(|t| to.add(t * PANEL).write_bytes(0, LANES));
        }
    }
    bad
}

/// Is a lane NaN or infinite?
#[inline(always)]
unsafe fn not_finite<S: Simd>(v: S::V) -> bool {
    // SAFETY: the features of `S`, promised by the caller. NaN and inf times 0 are NaN.
    unsafe {
        let zero = S::splat(0.0);
        S::any(S::lt(S::select(S::eq(S::mul(v, zero), zero), zero, S::splat(-1.0)), zero))
    }
}

/// At most sixteen columns, contiguous along x.
#[inline(always)]
unsafe fn copy_columns<S: Simd, const CHECK: bool>(s: Source, dst: *mut f32) -> bool {
    // SAFETY: as for `pack`.
    unsafe {
        let step = s.stride_t * s.dtype.size() as isize;
        // NaN once, NaN for ever: the sum of v * 0 is 0 for finite elements.
        let mut taint = S::splat(0.0);
        for t in 0..s.n_t {
            let v = load_span::<S>(s.src.offset(t as isize * step), s.dtype, s.n_x);
            if CHECK {
                taint = S::fma(v, S::splat(0.0), taint);
            }
            S::store(dst.add(t * PANEL), v);
        }
        CHECK && not_finite::<S>(taint)
    }
}

/// At most sixteen columns, contiguous along t: blocks of sixteen t are read along t and transposed.
#[inline(always)]
unsafe fn transpose_columns<S: Simd, const CHECK: bool>(s: Source, dst: *mut f32) -> bool {
    // SAFETY: as for `pack`.
    unsafe {
        let size = s.dtype.size() as isize;
        let mut taint = S::splat(0.0);
        let mut t = 0;
        while t < s.n_t {
            let n = (s.n_t - t).min(LANES);
            let mut block = [S::splat(0.0); LANES];
            for (x, row) in block.iter_mut().enumerate().take(s.n_x) {
                let from = s.src.offset((x as isize * s.stride_x + t as isize) * size);
                *row = load_span::<S>(from, s.dtype, n);
                if CHECK {
                    taint = S::fma(*row, S::splat(0.0), taint);
                }
            }
            S::transpose(&mut block);
            for (i, &row) in block.iter().enumerate().take(n) {
                S::store(dst.add((t + i) * PANEL), row);
            }
            t += LANES;
        }
        CHECK && not_finite::<S>(taint)
    }
}

/// At most sixteen columns, no unit stride.
#[inline(always)]
unsafe fn gather_columns<S: Simd, const CHECK: bool>(s: Source, dst: *mut f32) -> bool {
    // SAFETY: as for `pack`.
    unsafe {
        let mut bad = false;
        for t in 0..s.n_t {
            let mut lanes = [0f32; LANES];
            for (x, lane) in lanes.iter_mut().enumerate().take(s.n_x) {
                *lane = read(s.src, s.dtype, t as isize * s.stride_t + x as isize * s.stride_x);
                bad |= !lane.is_finite();
            }
            S::store(dst.add(t * PANEL), S::load(lanes.as_ptr()));
        }
        CHECK && bad
    }
}
