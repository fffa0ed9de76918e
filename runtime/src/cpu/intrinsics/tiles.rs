//! Steps between f32 tiles: `fill`, `transpose`, `scan_rows`, `reduce_rows`.
//!
//! In: row-major tiles, or vectors as tiles of one column. Out: another tile, the same one, or a vector.
//! Afterwards: nothing but what the contract names was touched; the order of every sum is fixed. Not here: the
//! steps of a softmax (`softmax.rs`).

use super::simd::{LANES, Simd};

/// A tile or a vector.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub s: *mut f32,
    pub lds: usize,
    pub rows: usize,
    pub cols: usize,
}

/// `dst[..n] = value` for whole vectors.
///
/// # Safety
/// The features of `S`; `n` values are writable.
#[inline(always)]
pub(super) unsafe fn fill<S: Simd>(dst: *mut f32, n: usize, value: f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let value = S::splat(value);
        for x in (0..n / LANES * LANES).step_by(LANES) {
            S::store(dst.add(x), value);
        }
    }
}

/// `dst[c, x] = src[x, c]`; 0 for x from `src.rows` up to `ldd`.
///
/// # Safety
/// The features of `S`; `src` is readable, `src.cols` rows of `ldd` values are writable, the two do not overlap.
#[inline(always)]
pub(super) unsafe fn transpose<S: Simd>(dst: *mut f32, ldd: usize, src: Tile) {
    // SAFETY: the caller's promise: every block is cut to the rows and columns that there are.
    unsafe {
        for c in (0..src.cols).step_by(LANES) {
            let width = (src.cols - c).min(LANES);
            for x in (0..ldd).step_by(LANES) {
                let height = src.rows.saturating_sub(x).min(LANES);
                let mut block = [S::splat(0.0); LANES];
                for (i, row) in block.iter_mut().enumerate().take(height) {
                    *row = S::load_first(src.s.add((x + i) * src.lds + c), width);
                }
                S::transpose(&mut block);
                let n = (ldd - x).min(LANES);
                for (i, &row) in block.iter().enumerate().take(width) {
                    S::store_first(dst.add((c + i) * ldd + x), row, n);
                }
            }
        }
    }
}

/// `s[r, c] = fma(decay[r], s[r - 1, c], s[r, c])` for r = 1..; null `decay` means 1.
///
/// # Safety
/// The features of `S`; the tile is valid, `decay` is null or holds a value for each row.
#[inline(always)]
pub(super) unsafe fn scan_rows<S: Simd>(t: Tile, decay: *const f32) {
    // SAFETY: the caller's promise; columns are cut to those that there are.
    unsafe {
        let mut col = 0;
        while col + 4 * LANES <= t.cols {
            scan_columns::<S, 4>(t, col, LANES, decay);
            col += 4 * LANES;
        }
        while col < t.cols {
            scan_columns::<S, 1>(t, col, (t.cols - col).min(LANES), decay);
            col += LANES;
        }
    }
}

/// `W` vectors of columns from `col` on, of which the last one has `n` lanes.
#[inline(always)]
unsafe fn scan_columns<S: Simd, const W: usize>(t: Tile, col: usize, n: usize, decay: *const f32) {
    // SAFETY: as for `scan_rows`.
    unsafe {
        let mut above = [S::splat(0.0); W];
        for r in 0..t.rows {
            let factor = S::splat(if decay.is_null() || r == 0 { 1.0 } else { *decay.add(r) });
            for (w, above) in above.iter_mut().enumerate() {
                let at = t.s.add(r * t.lds + col + w * LANES);
                let v = S::load_first(at, n);
                *above = if r == 0 { v } else { S::fma(factor, *above, v) };
                S::store_first(at, *above, n);
            }
        }
    }
}

/// Which reduction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reduce {
    /// The largest.
    Max,
    /// The sum.
    Sum,
    /// The largest magnitude.
    MaxAbs,
}

/// A reduction of each row.
///
/// # Safety
/// The features of `S`; the tile is readable, `dst` holds a value for each row and does not overlap it.
#[inline(always)]
pub(super) unsafe fn reduce_rows<S: Simd>(op: Reduce, dst: *mut f32, t: Tile) {
    // SAFETY: the caller's promise; a group stays inside the rows.
    unsafe {
        let mut row = 0;
        while row < t.rows {
            let n = (t.rows - row).min(LANES);
            let group = Tile { s: t.s.add(row * t.lds), rows: n, ..t };
            let result = if op == Reduce::Sum { sums::<S>(group) } else { maxima::<S>(op, group) };
            S::store_first(dst.add(row), result, n);
            row += LANES;
        }
    }
}

/// The sum of each of at most sixteen rows.
#[inline(always)]
unsafe fn sums<S: Simd>(t: Tile) -> S::V {
    // SAFETY: as for `reduce_rows`.
    unsafe {
        let mut sums = [S::splat(0.0); LANES];
        for (r, sum) in sums.iter_mut().enumerate().take(t.rows) {
            for c in (0..t.cols).step_by(LANES) {
                *sum = S::add(*sum, S::load_first(t.s.add(r * t.lds + c), (t.cols - c).min(LANES)));
            }
        }
        S::tree_sums(sums)
    }
}

/// The maximum of each of at most sixteen rows. A NaN is carried beside it: a maximum passes over one.
#[inline(always)]
unsafe fn maxima<S: Simd>(op: Reduce, t: Tile) -> S::V {
    // SAFETY: as for `reduce_rows`.
    unsafe {
        let zero = S::splat(0.0);
        let least = if op == Reduce::Max { S::splat(f32::NEG_INFINITY) } else { zero };
        let magnitude = S::splat_bits(0x7fff_ffff);
        let (mut maxima, mut taints) = ([least; LANES], [zero; LANES]);
        for (r, (max, taint)) in maxima.iter_mut().zip(&mut taints).enumerate().take(t.rows) {
            for c in (0..t.cols).step_by(LANES) {
                let n = (t.cols - c).min(LANES);
                let x = S::load_first(t.s.add(r * t.lds + c), n);
                *taint = S::select(S::eq(x, x), *taint, x);
                let x = if op == Reduce::Max { x } else { S::and(x, magnitude) };
                *max = S::max(S::select(S::first(n), x, least), *max);
            }
        }
        // Of a NaN, whatever it is, the sum is one; and the sum with +0 leaves no -0.
        S::add(S::tree_maxima(maxima), S::tree_sums(taints))
    }
}
