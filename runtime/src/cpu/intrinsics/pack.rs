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
use super::element::{Bf16, Element, F8E4M3, F16, F32, I8, load_first};
use super::simd::{LANES, Simd};
use attn_compiler::artifact::{DType, PANEL};

/// Rows between what is copied and what is asked for ahead.
const AHEAD: isize = 16;

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
    // SAFETY: the caller's promise.
    unsafe {
        let used = s.n_x.next_multiple_of(LANES);
        if !used.is_multiple_of(PANEL) {
            let to = dst.add(used / PANEL * panel_stride + LANES);
            (0..s.n_t).for_each(|t| to.add(t * PANEL).write_bytes(0, LANES));
        }
        match s.dtype {
            DType::F32 => pack_as::<S, F32, CHECK>(s, dst, panel_stride),
            DType::F16 => pack_as::<S, F16, CHECK>(s, dst, panel_stride),
            DType::Bf16 => pack_as::<S, Bf16, CHECK>(s, dst, panel_stride),
            DType::I8 => pack_as::<S, I8, CHECK>(s, dst, panel_stride),
            DType::F8E4M3 => pack_as::<S, F8E4M3, CHECK>(s, dst, panel_stride),
            _ => gather::<S, CHECK>(s, dst, panel_stride),
        }
    }
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

/// Packs by strides.
#[inline(always)]
unsafe fn pack_as<S: Simd, E: Element, const CHECK: bool>(
    s: Source,
    dst: *mut f32,
    panel_stride: usize,
) -> bool {
    // SAFETY: as for `pack`.
    unsafe {
        match (s.stride_t, s.stride_x) {
            (_, 1) => copy_rows::<S, E, CHECK>(s, dst, panel_stride),
            (1, _) => {
                let mut bad = false;
                for x in (0..s.n_x).step_by(LANES) {
                    let part = Source {
                        src: s.src.offset(x as isize * s.stride_x * E::SIZE),
                        n_x: (s.n_x - x).min(LANES),
                        ..s
                    };
                    let to = dst.add(x / PANEL * panel_stride + x % PANEL);
                    bad |= transpose_columns::<S, E, CHECK>(part, to);
                }
                bad
            }
            _ => gather::<S, CHECK>(s, dst, panel_stride),
        }
    }
}

/// Contiguous along x: reads row after row, as they lie in memory.
#[inline(always)]
unsafe fn copy_rows<S: Simd, E: Element, const CHECK: bool>(
    s: Source,
    dst: *mut f32,
    panel_stride: usize,
) -> bool {
    // SAFETY: as for `pack`.
    unsafe {
        // NaN once, NaN for ever: the sum of v * 0 is 0 for finite elements.
        let mut taint = S::splat(0.0);
        for t in 0..s.n_t {
            let (from, to) = (s.src.offset(t as isize * s.stride_t * E::SIZE), dst.add(t * PANEL));
            let mut x = 0;
            while x < s.n_x {
                let v = load_first::<S, E>(from.offset(x as isize * E::SIZE), (s.n_x - x).min(LANES));
                S::prefetch(from.wrapping_offset((AHEAD * s.stride_t + x as isize) * E::SIZE));
                if CHECK {
                    taint = S::fma(v, S::splat(0.0), taint);
                }
                S::store(to.add(x / PANEL * panel_stride + x % PANEL), v);
                x += LANES;
            }
        }
        CHECK && not_finite::<S>(taint)
    }
}

/// At most sixteen columns, contiguous along t: blocks of sixteen t are read along t and transposed.
#[inline(always)]
unsafe fn transpose_columns<S: Simd, E: Element, const CHECK: bool>(s: Source, dst: *mut f32) -> bool {
    // SAFETY: as for `pack`.
    unsafe {
        let mut taint = S::splat(0.0);
        let mut t = 0;
        while t < s.n_t {
            let n = (s.n_t - t).min(LANES);
            let from = s.src.offset(t as isize * E::SIZE);
            let mut block = [S::splat(0.0); LANES];
            if n == LANES && s.n_x == LANES {
                for (x, row) in block.iter_mut().enumerate() {
                    *row = E::load::<S>(from.offset(x as isize * s.stride_x * E::SIZE));
                }
                // The same block of the next sixteen columns: no hardware follows sixteen streams.
                for x in LANES..2 * LANES {
                    S::prefetch(from.wrapping_offset(x as isize * s.stride_x * E::SIZE));
                }
            } else {
                for (x, row) in block.iter_mut().enumerate().take(s.n_x) {
                    *row = load_first::<S, E>(from.offset(x as isize * s.stride_x * E::SIZE), n);
                }
            }
            if CHECK {
                for &row in &block {
                    taint = S::fma(row, S::splat(0.0), taint);
                }
            }
            S::transpose(&mut block);
            if n == LANES {
                for (i, &row) in block.iter().enumerate() {
                    S::store(dst.add((t + i) * PANEL), row);
                }
            } else {
                for (i, &row) in block.iter().enumerate().take(n) {
                    S::store(dst.add((t + i) * PANEL), row);
                }
            }
            t += LANES;
        }
        CHECK && not_finite::<S>(taint)
    }
}

/// Any type, any strides, element by element.
#[inline(always)]
unsafe fn gather<S: Simd, const CHECK: bool>(s: Source, dst: *mut f32, panel_stride: usize) -> bool {
    // SAFETY: as for `pack`.
    unsafe {
        let mut bad = false;
        for (t, x) in (0..s.n_t).flat_map(|t| (0..s.n_x).step_by(LANES).map(move |x| (t, x))) {
            let mut lanes = [0f32; LANES];
            for (i, lane) in lanes.iter_mut().enumerate().take(s.n_x - x) {
                *lane = read(s.src, s.dtype, t as isize * s.stride_t + (x + i) as isize * s.stride_x);
                bad |= !lane.is_finite();
            }
            S::store(dst.add(x / PANEL * panel_stride + t * PANEL + x % PANEL), S::load(lanes.as_ptr()));
        }
        CHECK && bad
    }
}
