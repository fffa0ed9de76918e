//! Row steps of attention: `softmax_step`, `weight_step`, `finish_softmax`.
//!
//! In: a tile of scores (-inf says masked) and running row statistics. Out: weights in place of the scores,
//! statistics moved on (online softmax: Milakov and Gimelshein 2018). Afterwards: columns from `cols` up to
//! the next multiple of 16 hold 0. Sums run over sixteen lanes (lane x % 16 in ascending x) that are added
//! as a tree of distances 8, 4, 2, 1: the same bits on every instruction set.
//!
//! Rows go in groups of sixteen, so that maxima, rescaling factors and sums of a group are one vector.
//! Exponents are taken in base 2: with `c = scale * log2(e)` and `M = m * log2(e)`, `p = 2^(s*c - M)` in one
//! rounding and `alpha = 2^(M_old - M_new)`, so that tiles of one row agree to the last bit about the frame.
//! Where |m| is beyond [`FRAME_LIMIT`] (a finite "masked" like -1e30 in every column), the rounding of M
//! would matter: there `s*scale - m` is taken first. Not here: masks, sinks inside the loop.

use super::exp::{LOG2_E, exp, exp2_fast};
use super::math::{log, sigmoid};
use super::simd::{LANES, Simd};

/// Largest |row maximum| for which `s*c - M` is used.
const FRAME_LIMIT: f32 = 1_048_576.0;

/// A tile of scores.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub s: *mut f32,
    pub lds: usize,
    pub rows: usize,
    pub cols: usize,
}

impl Tile {
    /// Rows row..row + 16, as many as there are.
    #[inline(always)]
    unsafe fn group(self, row: usize) -> Tile {
        // SAFETY: `row` is inside the tile.
        unsafe { Tile { s: self.s.add(row * self.lds), rows: (self.rows - row).min(LANES), ..self } }
    }
}

/// Applies `$f(x) -> x` to each vector of a row, lanes beyond the last column being `$fill` on the way in.
macro_rules! for_row {
    ($S:ident, $p:expr, $cols:expr, $fill:expr, |$x:ident, $at:ident| $body:expr) => {{
        let (row, cols): (*mut f32, usize) = ($p, $cols);
        let full = cols / LANES * LANES;
        let mut col = 0;
        while col < full {
            let $at = row.add(col);
            let $x = $S::load($at);
            $body;
            col += LANES;
        }
        if full < cols {
            let $at = row.add(full);
            let $x = $S::select($S::first(cols - full), $S::load($at), $S::splat($fill));
            $body;
        }
    }};
}

/// `s = s * scale`, -inf staying -inf whatever the scale.
#[inline(always)]
unsafe fn apply_scale<S: Simd>(t: Tile, scale: f32) {
    // SAFETY: the caller's tile.
    unsafe {
        let masked = S::splat(f32::NEG_INFINITY);
        for r in 0..t.rows {
            for_row!(S, t.s.add(r * t.lds), t.cols, f32::NEG_INFINITY, |x, at| {
                S::store(at, S::select(S::eq(x, masked), masked, S::mul(x, S::splat(scale))))
            });
        }
    }
}

/// `s = s - shift[r]`.
#[inline(always)]
unsafe fn apply_shift<S: Simd>(t: Tile, shift: &[f32; LANES]) {
    // SAFETY: the caller's tile, of at most sixteen rows.
    unsafe {
        for (r, &shift) in shift.iter().enumerate().take(t.rows) {
            for_row!(S, t.s.add(r * t.lds), t.cols, f32::NEG_INFINITY, |x, at| {
                S::store(at, S::sub(x, S::splat(shift)))
            });
        }
    }
}

/// The maximum of each row of a group; NaN is passed over, -inf for no columns.
#[inline(always)]
unsafe fn group_maxima<S: Simd>(t: Tile) -> S::V {
    // SAFETY: the caller's tile, of at most sixteen rows.
    unsafe {
        let mut maxima = [S::splat(f32::NEG_INFINITY); LANES];
        for (r, max) in maxima.iter_mut().enumerate().take(t.rows) {
            let mut m = S::splat(f32::NEG_INFINITY);
            for_row!(S, t.s.add(r * t.lds), t.cols, f32::NEG_INFINITY, |x, _at| m = S::max(x, m));
            *max = m;
        }
        S::tree_maxima(maxima)
    }
}

/// `p = 2^(s*c - shift[r])` in place; returns the sum of each row.
#[inline(always)]
unsafe fn group_weights<S: Simd, const FLOOR: bool>(t: Tile, c: f32, shift: &[f32; LANES]) -> S::V {
    // SAFETY: the caller's tile, of at most sixteen rows.
    unsafe {
        let masked = S::splat(f32::NEG_INFINITY);
        let floor = S::splat(f32::MIN_POSITIVE);
        let (c, mut sums) = (S::splat(c), [S::splat(0.0); LANES]);
        for (r, total) in sums.iter_mut().enumerate().take(t.rows) {
            let shift = S::splat(-shift[r]);
            let mut sum = S::splat(0.0);
            for_row!(S, t.s.add(r * t.lds), t.cols, f32::NEG_INFINITY, |x, at| {
                let mut p = exp2_fast::<S>(S::fma(x, c, shift));
                if FLOOR {
                    p = S::select(S::eq(x, masked), p, S::max(floor, p));
                }
                sum = S::add(sum, p);
                S::store(at, p);
            });
            *total = sum;
        }
        S::tree_sums(sums)
    }
}

/// One online-softmax step; see `Intrinsic::SoftmaxStep`.
///
/// # Safety
/// The features of `S`; the tile and the `rows` values behind each pointer are valid.
#[inline(always)]
pub(super) unsafe fn softmax_step<S: Simd, const FLOOR: bool>(
    tile: Tile,
    mut scale: f32,
    row_max: *mut f32,
    row_sum: *mut f32,
    alpha: *mut f32,
) {
    // SAFETY: the caller's promise; a group stays inside the rows.
    unsafe {
        // Only for a positive scale is the maximum of the products the product of the maximum.
        if scale <= 0.0 || scale.is_nan() {
            apply_scale::<S>(tile, scale);
            scale = 1.0;
        }
        let mut row = 0;
        while row < tile.rows {
            let t = tile.group(row);
            let n = t.rows;
            let m_old = S::load_first(row_max.add(row), n);
            let l_old = S::load_first(row_sum.add(row), n);
            let m_new = S::max(S::mul(group_maxima::<S>(t), S::splat(scale)), m_old);
            let (l, factor) = group_step::<S, FLOOR>(t, scale, m_old, m_new, l_old);
            S::store_first(row_max.add(row), m_new, n);
            S::store_first(row_sum.add(row), l, n);
            S::store_first(alpha.add(row), factor, n);
            row += LANES;
        }
    }
}

/// The step of one group once its maxima are known: weights in place, `(l, alpha)` back.
#[inline(always)]
unsafe fn group_step<S: Simd, const FLOOR: bool>(
    t: Tile,
    scale: f32,
    m_old: S::V,
    m_new: S::V,
    l_old: S::V,
) -> (S::V, S::V) {
    // SAFETY: as for `softmax_step`.
    unsafe {
        let (zero, masked) = (S::splat(0.0), S::splat(f32::NEG_INFINITY));
        let log2_e = S::splat(LOG2_E);
        // A row without a score keeps its -inf; measured from 0, its weights are 2^-inf = 0.
        let shift = S::select(S::eq(m_new, masked), zero, m_new);
        let size = S::max(shift, S::sub(zero, shift));
        let mut shifts = [0.0; LANES];
        let (exponent, sum);
        if S::any(S::lt(S::splat(FRAME_LIMIT), size)) {
            S::store(shifts.as_mut_ptr(), shift);
            apply_scale::<S>(t, scale);
            apply_shift::<S>(t, &shifts);
            exponent = S::mul(S::sub(m_old, shift), log2_e);
            sum = group_weights::<S, FLOOR>(t, LOG2_E, &[0.0; LANES]);
        } else {
            let frame = S::mul(shift, log2_e);
            S::store(shifts.as_mut_ptr(), frame);
            exponent = S::sub(S::mul(m_old, log2_e), frame);
            sum = group_weights::<S, FLOOR>(t, scale * LOG2_E, &shifts);
        }
        let moved = S::select(S::eq(m_old, masked), zero, exp2_fast::<S>(exponent));
        let alpha =
            S::select(S::lt(masked, S::select(S::eq(m_old, m_new), m_new, masked)), S::splat(1.0), moved);
        (S::fma(alpha, l_old, sum), alpha)
    }
}

/// Which weight `weight_step` computes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// max(x, 0)
    Relu,
    /// x
    Score,
}

/// Unnormalised weights in place; see `Intrinsic::WeightStep`.
///
/// # Safety
/// The features of `S`; the tile and `rows` values behind `row_max` are valid.
#[inline(always)]
pub(super) unsafe fn weight_step<S: Simd>(
    kind: Weight,
    tile: Tile,
    scale: f32,
    row_max: *mut f32,
    floor: bool,
) {
    // SAFETY: the caller's promise; a group stays inside the rows.
    unsafe {
        let (zero, masked) = (S::splat(0.0), S::splat(f32::NEG_INFINITY));
        let least = S::splat(f32::MIN_POSITIVE);
        apply_scale::<S>(tile, scale);
        let mut row = 0;
        while row < tile.rows {
            let t = tile.group(row);
            let m = S::max(group_maxima::<S>(t), S::load_first(row_max.add(row), t.rows));
            S::store_first(row_max.add(row), m, t.rows);
            for r in 0..t.rows {
                for_row!(S, t.s.add(r * t.lds), t.cols, f32::NEG_INFINITY, |x, at| {
                    let mut p = match kind {
                        Weight::Sigmoid => sigmoid::<S>(x),
                        Weight::Relu => S::max(zero, x),
                        Weight::Score => x,
                    };
                    if floor {
                        let size = S::max(p, S::sub(zero, p));
                        p = S::select(S::lt(size, least), least, p);
                    }
                    S::store(at, S::select(S::eq(x, masked), zero, p))
                });
            }
            row += LANES;
        }
    }
}

/// Ends a softmax; see `Intrinsic::FinishSoftmax`.
///
/// # Safety
/// The features of `S`; `rows` values behind each pointer.
#[inline(always)]
pub(super) unsafe fn finish_softmax<S: Simd>(
    rows: usize,
    row_max: *const f32,
    row_sum: *const f32,
    sink: f32,
    inv_sum: *mut f32,
    lse: *mut f32,
) {
    // SAFETY: the caller's promise; partial loads and stores stay inside the rows.
    unsafe {
        let (zero, masked, sink) = (S::splat(0.0), S::splat(f32::NEG_INFINITY), S::splat(sink));
        let mut row = 0;
        while row < rows {
            let n = (rows - row).min(LANES);
            let (m, l) = (S::load_first(row_max.add(row), n), S::load_first(row_sum.add(row), n));
            let m_new = S::max(sink, m);
            let origin = S::select(S::eq(m_new, masked), zero, m_new);
            let moved = exp::<S>(S::sub(m, origin));
            let total = S::fma(l, moved, exp::<S>(S::sub(sink, origin)));
            let empty = S::eq(total, zero);
            S::store_first(inv_sum.add(row), S::select(empty, zero, S::div(moved, total)), n);
            S::store_first(lse.add(row), S::select(empty, masked, S::add(m_new, log::<S>(total))), n);
            row += LANES;
        }
    }
}
