//! Products with rows of a tensor where they lie: `gemm_columns` and `gemm_rows`, for few rows of A.
//!
//! In: A row-major f32, a tensor of any storage type by strides. Out: C. Afterwards: every element of the tensor was read
//! from memory once for each eight rows of A or fewer, and nothing was written but C; the bits depend on neither the
//! instruction set nor the sizes of the other dimensions. Not here: many rows, for which packing pays (`pack.rs`, `gemm.rs`).

use attn_compiler::artifact::DType;

use super::convert::read;
use super::element::{Bf16, Element, F8E4M3, F16, F32, I8, load_first};
use super::simd::{LANES, Simd};

/// Sixteen elements along a row of a tensor.
trait Span: Copy {
    /// Elements `t..t + n` of the row at `row`, at most 16; zero beyond.
    ///
    /// # Safety
    /// The features of `S`; those elements are readable.
    unsafe fn first<S: Simd>(self, row: *const u8, t: usize, n: usize) -> S::V;

    /// Elements `t..t + 16`.
    ///
    /// # Safety
    /// As for `first`.
    #[inline(always)]
    unsafe fn vector<S: Simd>(self, row: *const u8, t: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { self.first::<S>(row, t, LANES) }
    }
}

/// One after the other.
struct Contiguous<E>(std::marker::PhantomData<E>);

impl<E> Clone for Contiguous<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Contiguous<E> {}

impl<E: Element> Span for Contiguous<E> {
    #[inline(always)]
    unsafe fn first<S: Simd>(self, row: *const u8, t: usize, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { load_first::<S, E>(row.offset(t as isize * E::SIZE), n) }
    }

    #[inline(always)]
    unsafe fn vector<S: Simd>(self, row: *const u8, t: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { E::load::<S>(row.offset(t as isize * E::SIZE)) }
    }
}

/// At a distance, of any type.
#[derive(Clone, Copy)]
struct Scattered {
    dtype: DType,
    stride: isize,
}

impl Span for Scattered {
    #[inline(always)]
    unsafe fn first<S: Simd>(self, row: *const u8, t: usize, n: usize) -> S::V {
        let mut lanes = [0f32; LANES];
        // SAFETY: the caller's promise; the array holds sixteen values.
        unsafe {
            for (u, lane) in lanes.iter_mut().enumerate().take(n) {
                *lane = read(row, self.dtype, (t + u) as isize * self.stride);
            }
            S::load(lanes.as_ptr())
        }
    }
}

/// Bytes ahead of the rows at hand that are asked for: what the first level's own prefetcher does not reach.
const AHEAD: isize = 16 << 10;
const LINE: usize = 64;

/// The arguments of both products.
#[derive(Clone, Copy)]
pub(super) struct Direct {
    pub c: *mut f32,
    pub ldc: usize,
    pub a: *const f32,
    pub lda: usize,
    /// The tensor, its type, and its strides in elements from row to row and along a row.
    pub b: *const u8,
    pub dtype: DType,
    pub stride_row: isize,
    pub stride_element: isize,
    pub rows: usize,
    pub k: usize,
    pub n: usize,
    pub row_scale: *const f32,
    pub accumulate: bool,
}

impl Direct {
    /// Row `n` of the tensor.
    #[inline(always)]
    unsafe fn row(self, n: usize) -> *const u8 {
        // SAFETY: the caller asks for a row that there is.
        unsafe { self.b.offset(n as isize * self.stride_row * self.dtype.size() as isize) }
    }

    /// Asks for the elements `x..x + n` of a row that lies about [`AHEAD`] bytes further on.
    #[inline(always)]
    unsafe fn ask<S: Simd>(self, row: *const u8, x: usize, n: usize) {
        let size = self.dtype.size();
        let at = row.wrapping_offset(AHEAD).wrapping_add(x * size);
        for line in (0..n * size).step_by(LINE) {
            // SAFETY: the features are there; the address need not be valid.
            unsafe { S::prefetch(at.wrapping_add(line)) };
        }
    }

    /// The same product from row `row` of A and C on.
    #[inline(always)]
    unsafe fn below(self, row: usize) -> Direct {
        // SAFETY: `row` is inside the tile.
        unsafe {
            Direct {
                c: self.c.add(row * self.ldc),
                a: self.a.add(row * self.lda),
                row_scale: if self.row_scale.is_null() { self.row_scale } else { self.row_scale.add(row) },
                rows: self.rows - row,
                ..self
            }
        }
    }
}

/// Calls a kernel with the span of the tensor's rows.
macro_rules! with_span {
    ($g:ident, $span:ident => $call:expr) => {
        match $g.dtype {
            DType::F32 if $g.stride_element == 1 => {
                let $span = Contiguous::<F32>(std::marker::PhantomData);
                $call
            }
            DType::F16 if $g.stride_element == 1 => {
                let $span = Contiguous::<F16>(std::marker::PhantomData);
                $call
            }
            DType::Bf16 if $g.stride_element == 1 => {
                let $span = Contiguous::<Bf16>(std::marker::PhantomData);
                $call
            }
            DType::I8 if $g.stride_element == 1 => {
                let $span = Contiguous::<I8>(std::marker::PhantomData);
                $call
            }
            DType::F8E4M3 if $g.stride_element == 1 => {
                let $span = Contiguous::<F8E4M3>(std::marker::PhantomData);
                $call
            }
            dtype => {
                let $span = Scattered { dtype, stride: $g.stride_element };
                $call
            }
        }
    };
}

/// `C[r, x] = A[r, ..] . row x`, added to C where asked.
///
/// # Safety
/// The features of `S`; pointers and sizes as `Intrinsic::GemmColumns` says.
#[inline(always)]
pub(super) unsafe fn gemm_columns<S: Simd>(g: Direct) {
    // SAFETY: the caller's promise.
    unsafe { with_span!(g, span => columns::<S, _>(g, span)) }
}

#[inline(always)]
unsafe fn columns<S: Simd, P: Span>(g: Direct, span: P) {
    // SAFETY: as for `gemm_columns`.
    unsafe {
        let mut row = 0;
        while row < g.rows {
            let here = g.below(row);
            row += match here.rows {
                1 => column_blocks::<S, P, 1, 16>(here, span),
                2 | 3 => column_blocks::<S, P, 2, 8>(here, span),
                4..8 => column_blocks::<S, P, 4, 4>(here, span),
                _ => column_blocks::<S, P, 8, 2>(here, span),
            };
        }
    }
}

/// `R` rows of A, all columns, `X` at a time (`R * X` is 16); gives `R`.
#[inline(always)]
unsafe fn column_blocks<S: Simd, P: Span, const R: usize, const X: usize>(g: Direct, span: P) -> usize {
    // SAFETY: as for `gemm_columns`; R rows are there.
    unsafe {
        let mut x = 0;
        while x < g.n {
            let width = X.min(g.n - x);
            let mut rows = [g.b; X];
            for (u, row) in rows.iter_mut().enumerate() {
                // Columns that are not there repeat the last one and are not stored.
                *row = g.row(x + u.min(width - 1));
                g.ask::<S>(*row, 0, g.k);
            }
            let mut sums = [0f32; LANES];
            S::store(sums.as_mut_ptr(), column_block::<S, P, R, X>(g, span, rows));
            for r in 0..R {
                let c = g.c.add(r * g.ldc + x);
                for u in 0..width {
                    let sum = sums[r * X + u];
                    *c.add(u) = if g.accumulate { *c.add(u) + sum } else { sum };
                }
            }
            x += width;
        }
        R
    }
}

/// The sums of `R` rows of A with `X` rows of the tensor: lane `r * X + x`.
#[inline(always)]
unsafe fn column_block<S: Simd, P: Span, const R: usize, const X: usize>(
    g: Direct,
    span: P,
    rows: [*const u8; X],
) -> S::V {
    // SAFETY: as for `gemm_columns`.
    unsafe {
        let mut acc = [[S::splat(0.0); X]; R];
        let full = g.k / LANES * LANES;
        let mut t = 0;
        while t < full {
            let mut a = [S::splat(0.0); R];
            for (r, v) in a.iter_mut().enumerate() {
                *v = S::load(g.a.add(r * g.lda + t));
            }
            for (x, &row) in rows.iter().enumerate() {
                let b = span.vector::<S>(row, t);
                for (r, sums) in acc.iter_mut().enumerate() {
                    sums[x] = S::fma(a[r], b, sums[x]);
                }
            }
            t += LANES;
        }
        let n = g.k - full;
        for (x, &row) in rows.iter().enumerate().filter(|_| n > 0) {
            let b = span.first::<S>(row, full, n);
            for (r, sums) in acc.iter_mut().enumerate() {
                sums[x] = S::fma(S::load_first(g.a.add(r * g.lda + full), n), b, sums[x]);
            }
        }
        let mut all = [S::splat(0.0); LANES];
        for (lane, sum) in all.iter_mut().zip(acc.as_flattened()) {
            *lane = *sum;
        }
        S::tree_sums(all)
    }
}

/// `C[r, x] = row_scale[r] C[r, x] + sum_t A[r, t] (row t)[x]`.
///
/// # Safety
/// The features of `S`; pointers and sizes as `Intrinsic::GemmRows` says.
#[inline(always)]
pub(super) unsafe fn gemm_rows<S: Simd, const SKIP: bool>(g: Direct) {
    // SAFETY: the caller's promise.
    unsafe { with_span!(g, span => rows::<S, _, SKIP>(g, span)) }
}

#[inline(always)]
unsafe fn rows<S: Simd, P: Span, const SKIP: bool>(g: Direct, span: P) {
    // SAFETY: as for `gemm_rows`.
    unsafe {
        let mut row = 0;
        while row < g.rows {
            let here = g.below(row);
            row += match here.rows {
                1 => row_blocks::<S, P, 1, 8, SKIP>(here, span),
                2 | 3 => row_blocks::<S, P, 2, 4, SKIP>(here, span),
                4..8 => row_blocks::<S, P, 4, 4, SKIP>(here, span),
                _ => row_blocks::<S, P, 8, 2, SKIP>(here, span),
            };
        }
    }
}

/// `R` rows of A, all columns, `W` vectors at a time; gives `R`.
#[inline(always)]
unsafe fn row_blocks<S: Simd, P: Span, const R: usize, const W: usize, const SKIP: bool>(
    g: Direct,
    span: P,
) -> usize {
    // SAFETY: as for `gemm_rows`; R rows are there.
    unsafe {
        let mut x = 0;
        while x < g.n {
            if x + W * LANES <= g.n {
                row_block::<S, P, R, W, SKIP, true>(g, span, x);
                x += W * LANES;
            } else if x + LANES <= g.n {
                row_block::<S, P, R, 1, SKIP, true>(g, span, x);
                x += LANES;
            } else {
                row_block::<S, P, R, 1, SKIP, false>(g, span, x);
                x += LANES;
            }
        }
        R
    }
}

/// `R` rows by `W` vectors from column `x` on (or a single one that is not `FULL`), kept in registers over the whole of
/// k. With `SKIP`, weights of zero are only looked for where something that is not finite came out, and weights that stand
/// for what is too small (`f32::MIN_POSITIVE`, see `SoftmaxStep`) count only there.
#[inline(always)]
unsafe fn row_block<S: Simd, P: Span, const R: usize, const W: usize, const SKIP: bool, const FULL: bool>(
    g: Direct,
    span: P,
    x: usize,
) {
    // SAFETY: as for `gemm_rows`.
    unsafe {
        let mut acc = if SKIP {
            row_sums::<S, P, R, W, BUT_FLOORED, FULL>(g, span, x)
        } else {
            row_sums::<S, P, R, W, EVERY, FULL>(g, span, x)
        };
        if SKIP && !finite::<S>(acc.as_flattened()) {
            acc = row_sums::<S, P, R, W, BUT_ZERO, FULL>(g, span, x);
        }
        for (r, sums) in acc.iter().enumerate() {
            let scale = S::splat(if g.row_scale.is_null() { 1.0 } else { *g.row_scale.add(r) });
            for (w, &sum) in sums.iter().enumerate() {
                let c = g.c.add(r * g.ldc + x + w * LANES);
                S::store(c, if g.accumulate { S::fma(S::load(c), scale, sum) } else { sum });
            }
        }
    }
}

/// Which weights take part in [`row_sums`]: all of them.
const EVERY: u8 = 0;
/// Those that are not zero: what the others meet is not looked at.
const BUT_ZERO: u8 = 1;
/// All, with 0 in the place of `f32::MIN_POSITIVE`.
const BUT_FLOORED: u8 = 2;

#[inline(always)]
unsafe fn row_sums<S: Simd, P: Span, const R: usize, const W: usize, const WHICH: u8, const FULL: bool>(
    g: Direct,
    span: P,
    x: usize,
) -> [[S::V; W]; R] {
    // SAFETY: as for `gemm_rows`.
    unsafe {
        let zero = S::splat(0.0);
        let mut acc = [[zero; W]; R];
        for t in 0..g.k {
            let row = g.row(t);
            g.ask::<S>(row, x, W * LANES);
            let mut b = [zero; W];
            for (w, v) in b.iter_mut().enumerate() {
                let at = x + w * LANES;
                *v = if FULL { span.vector::<S>(row, at) } else { span.first::<S>(row, at, g.n - at) };
            }
            for (r, sums) in acc.iter_mut().enumerate() {
                let weight = *g.a.add(r * g.lda + t);
                let floored = WHICH == BUT_FLOORED && weight == f32::MIN_POSITIVE;
                let a = S::splat(if floored { 0.0 } else { weight });
                for (sum, &b) in sums.iter_mut().zip(&b) {
                    let b = if WHICH == BUT_ZERO { S::select(S::eq(a, zero), zero, b) } else { b };
                    *sum = S::fma(a, b, *sum);
                }
            }
        }
        acc
    }
}

/// Is every lane of every vector finite?
#[inline(always)]
unsafe fn finite<S: Simd>(vectors: &[S::V]) -> bool {
    let mut lanes = [0f32; LANES];
    // SAFETY: the features of `S` by the callers' promise; the array holds sixteen values.
    unsafe {
        let zero = S::splat(0.0);
        let mut taint = zero;
        for &v in vectors {
            taint = S::fma(v, zero, taint);
        }
        S::store(lanes.as_mut_ptr(), taint);
    }
    lanes.iter().all(|x| !x.is_nan())
}
