//! `affine` and `band`. The first: a tile times a number or a value for each column, plus a value for each column or diagonal.
//! The second: -inf in what lies before and behind one run of columns of each row.
//!
//! In: a tile in place, vectors. Out: the tile. Afterwards: nothing but its columns below `cols` was written, not one
//! element beyond what they need was read. Not here: anything that is not a product and a sum; maps are generated code.

use super::simd::{LANES, Simd};
use super::tiles::Tile;

/// What is done to every element.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    pub scale: f32,
    /// Null, or a value for each column.
    pub factor: *const f32,
    /// Null, or what is added to row 0; to row r what lies `r * step` elements further on.
    pub term: *const f32,
    pub step: isize,
}

/// `s[r, c] = fma(s[r, c], scale * factor[c], term[c + r * step])`; with `KEEP_ZERO`, +0 where `s[r, c]` is 0.
///
/// # Safety
/// The features of `S`; the tile is valid, the vectors are null or hold what its rows and columns read.
#[inline(always)]
pub(super) unsafe fn affine<S: Simd, const KEEP_ZERO: bool>(t: Tile, with: Affine) {
    // SAFETY: the caller's promise; the last vector of a row is cut to the columns that there are.
    unsafe {
        let scale = S::splat(with.scale);
        for r in 0..t.rows {
            let row = t.s.add(r * t.lds);
            let mut c = 0;
            while c < t.cols {
                let n = (t.cols - c).min(LANES);
                let x = first::<S>(row.add(c), n);
                let factor = match with.factor.is_null() {
                    true => scale,
                    false => S::mul(scale, first::<S>(with.factor.add(c), n)),
                };
                let mut y = match with.term.is_null() {
                    true => S::mul(x, factor),
                    false => {
                        let term = with.term.offset(c as isize + r as isize * with.step);
                        S::fma(x, factor, first::<S>(term, n))
                    }
                };
                if KEEP_ZERO {
                    let zero = S::splat(0.0);
                    y = S::select(S::eq(x, zero), zero, y);
                }
                if n == LANES {
                    S::store(row.add(c), y)
                } else {
                    S::store_first(row.add(c), y, n)
                }
                c += LANES;
            }
        }
    }
}

/// -inf in columns outside `from.0 + p * from.1 .. to.0 + p * to.1`, p = r % period.
///
/// # Safety
/// The features of `S`; the tile is valid.
#[inline(always)]
pub(super) unsafe fn band<S: Simd>(t: Tile, period: i64, from: (i64, i64), to: (i64, i64)) {
    let clamped = |x: i64| x.clamp(0, t.cols as i64) as usize;
    let mut p = 0i64;
    for r in 0..t.rows {
        let at = |end: (i64, i64)| clamped(end.0.saturating_add(p.saturating_mul(end.1)));
        let (first, end) = (at(from), at(to).max(at(from)));
        // SAFETY: the caller's promise: both runs lie among the columns.
        unsafe {
            let row = t.s.add(r * t.lds);
            off::<S>(row, first);
            off::<S>(row.add(end), t.cols - end);
        }
        p += 1;
        if p == period {
            p = 0;
        }
    }
}

/// -inf in `n` values.
#[inline(always)]
unsafe fn off<S: Simd>(p: *mut f32, n: usize) {
    let mut c = 0;
    // SAFETY: the caller's promise.
    unsafe {
        let off = S::splat(f32::NEG_INFINITY);
        while c + LANES <= n {
            S::store(p.add(c), off);
            c += LANES;
        }
        if c < n {
            S::store_first(p.add(c), off, n - c);
        }
    }
}

#[inline(always)]
unsafe fn first<S: Simd>(p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { if n == LANES { S::load(p) } else { S::load_first(p, n) } }
}
