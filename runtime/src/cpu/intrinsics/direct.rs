//! Products with rows of a tensor where they lie: `gemm_columns` and `gemm_rows`, for few rows of A.
//!
//! In: A row-major f32, a tensor of any storage type by strides. Out: C. Afterwards: every element of the tensor was read
//! from memory once for each eight rows of A or fewer, and nothing was written but C; the bits depend on neither the
//! instruction set nor the sizes of the other dimensions. Not here: many rows, for which packing pays (`pack.rs`, `gemm.rs`).

use std::convert::identity;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::atomic::{Ordering, compiler_fence};

use attn_compiler::artifact::DType;

use super::element::{Bf16, F8E4M3, F16, F32, I8};
use super::simd::{LANES, Simd};
use super::span::{Asking, Contiguous, Scattered, Span};
use super::stream::{Ahead, LINE};

/// Bytes of rows of 16 bits and fewer that several passes of [`gemm_rows`] read from the first level.
pub(super) const CLOSE: usize = 8 << 10;
/// The same for f32: nothing is asked from memory in all passes but the first, so they are short where memory takes the
/// time.
const CLOSE_F32: usize = 4 << 10;

/// The arguments of both products.
#[derive(Clone, Copy)]
pub(super) struct Direct {
    pub c: *mut f32,
    pub ldc: usize,
    pub a: *const f32,
    pub lda: usize,
    /// The tensor, its type, bytes from row to row, and elements from one to the next along a row.
    pub b: *const u8,
    pub dtype: DType,
    pub row_bytes: isize,
    pub stride_element: isize,
    pub rows: usize,
    pub k: usize,
    pub n: usize,
    pub row_scale: *const f32,
    pub accumulate: bool,
    /// What is asked for ahead of its use ([`super::stream::ahead`]).
    pub ahead: Ahead,
    /// Where what is read soon begins, as many bytes as this product reads; null where nobody knows.
    pub next: *const u8,
    /// Whether this pass over the rows asks for it.
    pub asks: bool,
}

impl Direct {
    /// Is it known what is read soon, and of a type that is asked for?
    #[inline(always)]
    pub(super) fn is_asked(&self) -> bool {
        let known = matches!(self.dtype, DType::F32 | DType::F16 | DType::Bf16 | DType::I8 | DType::F8E4M3);
        known && self.stride_element == 1 && !self.next.is_null()
    }

    /// Rows whose elements are no neighbours.
    #[inline(always)]
    fn scattered(&self) -> Scattered {
        Scattered { dtype: self.dtype, stride: self.stride_element }
    }

    /// Row `n` of the tensor.
    #[inline(always)]
    pub(super) unsafe fn row(self, n: usize) -> *const u8 {
        // SAFETY: the caller asks for a row that there is.
        unsafe { self.b.offset(n as isize * self.row_bytes) }
    }

    /// Asks for what lies ahead of the elements `t..t + 32` of a row: a line with every line that is used and in that
    /// order, since only so do the requests of the machine's own prefetchers and ours make one stream.
    #[inline(always)]
    pub(super) unsafe fn ask<S: Simd, P: Span>(self, row: *const u8, t: usize) {
        if self.ahead.near == 0 {
            return;
        }
        let at = row.wrapping_add(self.ahead.near + t * P::SIZE);
        // SAFETY: the features are there; the address need not be valid.
        unsafe {
            match P::SIZE {
                1 | 2 => S::prefetch_near(at),
                4 => {
                    S::prefetch_near(at);
                    S::prefetch_near(at.wrapping_add(LINE));
                }
                _ => {}
            }
        }
    }

    /// Asks for a line of what is used [`Ahead::far`] after this row, or of the next row where that is further away.
    #[inline(always)]
    pub(super) unsafe fn ask_far<S: Simd>(self, row: *const u8) {
        if self.ahead.far > 0 {
            let next = self.row_bytes.unsigned_abs() > self.ahead.far;
            let at = row.wrapping_offset(if next { self.row_bytes } else { self.ahead.far as isize });
            // SAFETY: the features are there; the address need not be valid.
            unsafe { S::prefetch(at) };
        }
    }

    /// Asks for a part of what is read soon, the `bytes` from byte `from` on.
    #[inline(always)]
    pub(super) unsafe fn ask_next<S: Simd>(self, from: usize, bytes: usize) {
        for line in (0..bytes).step_by(LINE) {
            // SAFETY: the features are there; the address need not be valid.
            unsafe { S::prefetch(self.next.wrapping_add(from + line)) };
        }
    }

    /// The same product from row `row` of A and C on.
    #[inline(always)]
    pub(super) unsafe fn below(self, row: usize) -> Direct {
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

/// Calls a kernel with the span of the tensor's rows, made by `$of` from that of its type where elements are neighbours;
/// `$otherwise` elsewhere.
macro_rules! with_span {
    ($g:ident, $of:path, $span:ident => $call:expr, $otherwise:expr) => {
        with_span!(@types [F32, F16, Bf16, I8, F8E4M3], $g, $of, $span => $call, $otherwise)
    };
    (@types [$($ty:ident),*], $g:ident, $of:path, $span:ident => $call:expr, $otherwise:expr) => {
        match $g.dtype {
            $(DType::$ty if $g.stride_element == 1 => {
                let $span = $of(Contiguous::<$ty>(PhantomData));
                $call
            })*
            _ => $otherwise,
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
    unsafe { with_span!(g, identity, span => columns::<S, _>(g, span), columns::<S, _>(g, g.scattered())) }
}

/// As [`gemm_columns`] where [`Direct::is_asked`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn gemm_columns_asking<S: Simd>(g: Direct) {
    // SAFETY: the caller's promise.
    unsafe { with_span!(g, Asking, span => columns::<S, _>(g, span), ()) }
}

/// Elements of A whose order is that of [`Span::pair`], all rows of a block together.
const ALTERNATED: usize = 2048;

/// Room for them, on a line.
#[repr(align(64))]
struct Scratch([f32; ALTERNATED]);

/// Where the rows of A that meet pairs lie, and how many of their elements do: a multiple of 32.
#[derive(Clone, Copy)]
struct Paired {
    a: *const f32,
    lda: usize,
    k: usize,
}

#[inline(always)]
pub(super) unsafe fn columns<S: Simd, P: Span>(g: Direct, span: P) {
    // SAFETY: as for `gemm_columns`.
    unsafe {
        match g.k {
            _ if !S::HOLDS || P::HELD == usize::MAX || g.ahead.near > 0 => columns_of::<S, P, ANY>(g, span),
            64 => columns_of::<S, P, 64>(g, span),
            128 => columns_of::<S, P, 128>(g, span),
            _ => columns_of::<S, P, ANY>(g, span),
        }
    }
}

/// A length of rows that is not known beforehand.
const ANY: usize = 0;

/// The product with rows of `K` elements.
#[inline(always)]
unsafe fn columns_of<S: Simd, P: Span, const K: usize>(g: Direct, span: P) {
    // SAFETY: as for `gemm_columns`.
    unsafe {
        let mut row = 0;
        while row < g.rows {
            let here = g.below(row);
            // The remainder of a row in code of its own: beside it the sums would not stay in registers.
            let rest = K == ANY && (!g.k.is_multiple_of(2 * LANES) || (P::ALTERNATE && g.k > ALTERNATED / 8));
            row += match (here.rows, rest) {
                (1, false) => column_blocks::<S, P, 1, 16, K, false>(here, span),
                (2 | 3, false) => column_blocks::<S, P, 2, 8, K, false>(here, span),
                (4..8, false) => column_blocks::<S, P, 4, 4, K, false>(here, span),
                (8.., false) => column_blocks::<S, P, 8, 2, K, false>(here, span),
                (1, true) => column_blocks::<S, P, 1, 16, K, true>(here, span),
                (2 | 3, true) => column_blocks::<S, P, 2, 8, K, true>(here, span),
                _ => column_blocks::<S, P, 4, 4, K, true>(here, span),
            };
        }
    }
}

/// `R` rows of A, all columns, `X` at a time (`R * X` is 16); gives `R`. Without `REST` all of a row goes in pairs.
#[inline(always)]
unsafe fn column_blocks<
    S: Simd,
    P: Span,
    const R: usize,
    const X: usize,
    const K: usize,
    const REST: bool,
>(
    g: Direct,
    span: P,
) -> usize {
    // SAFETY: as for `gemm_columns`; R rows are there.
    unsafe {
        let mut scratch = MaybeUninit::<Scratch>::uninit();
        let alternated = (&raw mut (*scratch.as_mut_ptr()).0).cast::<f32>();
        let mut pairs = Paired { a: g.a, lda: g.lda, k: g.k / (2 * LANES) * (2 * LANES) };
        if P::ALTERNATE {
            // Rows side by side: at a distance of half a page they would share the places of a cache.
            let k = pairs.k.min(ALTERNATED / R);
            pairs = Paired { a: alternated, lda: k, k };
            for r in 0..R {
                for t in (0..pairs.k).step_by(2 * LANES) {
                    let a = g.a.add(r * g.lda + t);
                    let (even, odd) = S::unzip(S::load(a), S::load(a.add(LANES)));
                    let to = alternated.add(r * pairs.lda + t);
                    S::store(to, even);
                    S::store(to.add(LANES), odd);
                }
            }
        }
        let mut x = 0;
        while x < g.n {
            let mut sums = [S::splat(0.0); R];
            for (n, sums) in sums.iter_mut().enumerate() {
                let first = x + n * X;
                if first >= g.n {
                    break;
                }
                // Columns that are not there repeat the last one and are not stored.
                let rows: [*const u8; X] = std::array::from_fn(|u| g.row((first + u).min(g.n - 1)));
                let mut acc = column_block::<S, P, R, X, K>(g, pairs, span, (first, rows));
                if REST {
                    acc = column_rest::<S, P, R, X>(g, pairs.k, span, rows, acc);
                }
                let mut all = [S::splat(0.0); LANES];
                for (lane, sum) in all.iter_mut().zip(acc.as_flattened()) {
                    *lane = *sum;
                }
                *sums = S::tree_sums(all);
                if P::SETTLES && g.ahead.near > 0 {
                    S::settle();
                }
            }
            store_columns::<S, R>(g, x, by_row::<S, R>(sums));
            x += LANES;
        }
        R
    }
}

/// `R` vectors of `R` values for each of sixteen columns in turn, as a vector of sixteen columns for each of `R` rows.
#[inline(always)]
unsafe fn by_row<S: Simd, const R: usize>(mut v: [S::V; R]) -> [S::V; R] {
    let mut apart = 1;
    // SAFETY: the features of `S` by the callers' promise.
    unsafe {
        while apart < R {
            let of = v;
            for i in 0..R / 2 {
                (v[i], v[R / 2 + i]) = S::unzip(of[2 * i], of[2 * i + 1]);
            }
            apart *= 2;
        }
    }
    v
}

/// Sixteen columns of C from `x` on, or as many as there are.
#[inline(always)]
unsafe fn store_columns<S: Simd, const R: usize>(g: Direct, x: usize, sums: [S::V; R]) {
    let n = LANES.min(g.n - x);
    // SAFETY: as for `gemm_columns`.
    unsafe {
        for (r, &sum) in sums.iter().enumerate() {
            let c = g.c.add(r * g.ldc + x);
            let before = if g.accumulate { S::load_first(c, n) } else { S::splat(0.0) };
            let sum = if g.accumulate { S::add(before, sum) } else { sum };
            if n == LANES { S::store(c, sum) } else { S::store_first(c, sum, n) }
        }
    }
}

/// The products of `R` rows of A with `X` rows of the tensor as far as they go in pairs, lane by lane.
#[inline(always)]
unsafe fn column_block<S: Simd, P: Span, const R: usize, const X: usize, const K: usize>(
    g: Direct,
    pairs: Paired,
    span: P,
    (first, rows): (usize, [*const u8; X]),
) -> [[S::V; R]; X] {
    // SAFETY: as for `gemm_columns`.
    unsafe {
        let known = if R < P::HELD { ANY } else { K };
        if P::ASKS && known == ANY {
            let bytes = g.k * P::SIZE;
            g.ask_next::<S>(first * bytes, X * bytes);
        }
        match (known, P::TOGETHER.min(X)) {
            (64, _) if R < 8 => columns_held::<S, P, R, X, 2, 4>(g, pairs, span, (first, rows)),
            (64, _) => columns_held::<S, P, R, X, 2, 2>(g, pairs, span, (first, rows)),
            (128, _) if R < 8 => columns_held::<S, P, R, X, 4, 2>(g, pairs, span, (first, rows)),
            (128, _) => columns_held::<S, P, R, X, 4, 1>(g, pairs, span, (first, rows)),
            (_, 4) => columns_together::<S, P, R, X, 4>(g, pairs, span, rows),
            (_, 2) => columns_together::<S, P, R, X, 2>(g, pairs, span, rows),
            (_, _) => columns_together::<S, P, R, X, 1>(g, pairs, span, rows),
        }
    }
}

/// The same, `T` rows of the tensor at once.
#[inline(always)]
unsafe fn columns_together<S: Simd, P: Span, const R: usize, const X: usize, const T: usize>(
    g: Direct,
    pairs: Paired,
    span: P,
    rows: [*const u8; X],
) -> [[S::V; R]; X] {
    // SAFETY: as for `gemm_columns`.
    unsafe {
        let zero = S::splat(0.0);
        let mut acc = [[zero; R]; X];
        for (acc, rows) in acc.chunks_exact_mut(T).zip(rows.chunks_exact(T)) {
            let mut t = 0;
            while t < pairs.k {
                let mut b = [(zero, zero); T];
                for (b, &row) in b.iter_mut().zip(rows) {
                    g.ask::<S, P>(row, t);
                    *b = span.pair::<S>(row, t);
                }
                for r in 0..R {
                    let a = pairs.a.add(r * pairs.lda + t);
                    let (first, second) = (S::load(a), S::load(a.add(LANES)));
                    for (sums, b) in acc.iter_mut().zip(&b) {
                        sums[r] = P::add_product::<S>(first, b.0, sums[r]);
                    }
                    for (sums, b) in acc.iter_mut().zip(&b) {
                        sums[r] = P::add_product::<S>(second, b.1, sums[r]);
                    }
                }
                t += 2 * LANES;
            }
        }
        acc
    }
}

/// The same for rows of `N` pairs of vectors: `T` rows are loaded, one after the other, before any of them is used.
///
/// What waits for memory then leaves the processor's windows to the loads behind it, and a vector of A is loaded once
/// for `T` rows.
#[inline(always)]
unsafe fn columns_held<S: Simd, P: Span, const R: usize, const X: usize, const N: usize, const T: usize>(
    g: Direct,
    pairs: Paired,
    span: P,
    (first, rows): (usize, [*const u8; X]),
) -> [[S::V; R]; X] {
    // SAFETY: as for `gemm_columns`.
    unsafe {
        let zero = S::splat(0.0);
        let mut acc = [[zero; R]; X];
        let bytes = N * 2 * LANES * P::SIZE;
        for (n, (acc, rows)) in acc.chunks_exact_mut(T).zip(rows.chunks_exact(T)).enumerate() {
            let mut held = [[(zero, zero); N]; T];
            // Loads keep their order: rows that are read in turn would be as many streams.
            compiler_fence(Ordering::SeqCst);
            for (u, (held, &row)) in held.iter_mut().zip(rows).enumerate() {
                if P::ASKS {
                    g.ask_next::<S>((first + n * T + u) * bytes, bytes);
                } else {
                    g.ask_far::<S>(row);
                }
                for (n, b) in held.iter_mut().enumerate() {
                    *b = span.pair::<S>(row, n * 2 * LANES);
                }
                compiler_fence(Ordering::SeqCst);
            }
            for r in 0..R {
                for n in 0..N {
                    let a = pairs.a.add(r * pairs.lda + n * 2 * LANES);
                    let (first, second) = (S::load(a), S::load(a.add(LANES)));
                    for (sums, b) in acc.iter_mut().zip(&held) {
                        sums[r] = P::add_product::<S>(first, b[n].0, sums[r]);
                    }
                    for (sums, b) in acc.iter_mut().zip(&held) {
                        sums[r] = P::add_product::<S>(second, b[n].1, sums[r]);
                    }
                }
            }
        }
        acc
    }
}

/// Adds the products of the elements from `from` on.
#[inline(always)]
unsafe fn column_rest<S: Simd, P: Span, const R: usize, const X: usize>(
    g: Direct,
    from: usize,
    span: P,
    rows: [*const u8; X],
    mut acc: [[S::V; R]; X],
) -> [[S::V; R]; X] {
    // SAFETY: as for `gemm_columns`.
    unsafe {
        for (sums, &row) in acc.iter_mut().zip(&rows) {
            for t in (from..g.k).step_by(LANES) {
                let n = LANES.min(g.k - t);
                let b = span.first::<S>(row, t, n);
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = P::add_product::<S>(S::load_first(g.a.add(r * g.lda + t), n), b, *sum);
                }
            }
        }
        acc
    }
}

/// `C[r, x] = row_scale[r] C[r, x] + sum_t A[r, t] (row t)[x]`.
///
/// # Safety
/// The features of `S`; pointers and sizes as `Intrinsic::GemmRows` says.
#[inline(always)]
pub(super) unsafe fn gemm_rows<S: Simd, const SKIP: bool>(g: Direct) {
    // SAFETY: the caller's promise.
    unsafe {
        with_span!(g, identity, span => rows::<S, _, SKIP>(g, span), rows::<S, _, SKIP>(g, g.scattered()))
    }
}

/// As [`gemm_rows`] where [`Direct::is_asked`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn gemm_rows_asking<S: Simd, const SKIP: bool>(g: Direct) {
    // SAFETY: the caller's promise.
    unsafe { with_span!(g, Asking, span => rows::<S, _, SKIP>(g, span), ()) }
}

#[inline(always)]
unsafe fn rows<S: Simd, P: Span, const SKIP: bool>(g: Direct, span: P) {
    // SAFETY: as for `gemm_rows`.
    unsafe {
        let close = if P::SIZE == 4 { CLOSE_F32 } else { CLOSE };
        let chunk = (close / (g.n * P::SIZE).max(1)).max(8);
        let mut t = 0;
        loop {
            let k = chunk.min(g.k - t);
            let mut here = Direct { a: g.a.add(t), b: g.row(t), k, ..g };
            if P::ASKS {
                here.next = g.next.wrapping_add(t * g.n * P::SIZE);
            }
            if t > 0 {
                (here.row_scale, here.accumulate) = (std::ptr::null(), true);
            }
            close_rows::<S, P, SKIP>(here, span);
            t += k;
            // A sum of nothing still scales C.
            if t >= g.k {
                return;
            }
        }
    }
}

/// The product with rows of which all but the first pass come from the first level.
#[inline(always)]
unsafe fn close_rows<S: Simd, P: Span, const SKIP: bool>(g: Direct, span: P) {
    let wide = g.n >= 8 * LANES;
    // SAFETY: as for `gemm_rows`.
    unsafe {
        let mut row = 0;
        while row < g.rows {
            let mut here = g.below(row);
            here.asks = P::ASKS && row == 0;
            row += match here.rows {
                1 if wide => row_blocks::<S, P, 1, 8, SKIP>(here, span),
                1 => row_blocks::<S, P, 1, 4, SKIP>(here, span),
                _ if wide => row_blocks::<S, P, 2, 8, SKIP>(here, span),
                2 | 3 => row_blocks::<S, P, 2, 4, SKIP>(here, span),
                _ => row_blocks::<S, P, 4, 4, SKIP>(here, span),
            };
        }
    }
}

/// `R` rows of A, all columns, `W` vectors at a time, at last one; gives `R`.
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
        for (r, sums) in acc.iter_mut().enumerate() {
            if P::ALTERNATE && W > 1 {
                for two in sums.chunks_exact_mut(2) {
                    (two[0], two[1]) = S::zip(two[0], two[1]);
                }
            }
            let scale = S::splat(if g.row_scale.is_null() { 1.0 } else { *g.row_scale.add(r) });
            for (w, &mut sum) in sums.iter_mut().enumerate() {
                let c = g.c.add(r * g.ldc + x + w * LANES);
                S::store(c, if g.accumulate { S::fma(S::load(c), scale, sum) } else { sum });
            }
        }
    }
}

/// Which weights take part in [`row_sums`]: all of them.
pub(super) const EVERY: u8 = 0;
/// Those that are not zero: what the others meet is not looked at.
pub(super) const BUT_ZERO: u8 = 1;
/// All, with 0 in the place of `f32::MIN_POSITIVE`.
pub(super) const BUT_FLOORED: u8 = 2;

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
            if P::ASKS && g.asks {
                g.ask_next::<S>((t * g.n + x) * P::SIZE, W * LANES * P::SIZE);
            }
            let mut weights = [zero; R];
            for (r, a) in weights.iter_mut().enumerate() {
                *a = S::splat(*g.a.add(r * g.lda + t));
                if WHICH == BUT_FLOORED {
                    *a = S::select(S::eq(*a, S::splat(f32::MIN_POSITIVE)), zero, *a);
                }
            }
            for w in (0..W).step_by(2) {
                let at = x + w * LANES;
                g.ask::<S, P>(row, at);
                if W == 1 {
                    let b = if FULL { span.vector::<S>(row, at) } else { span.first::<S>(row, at, g.n - at) };
                    meet::<S, R, W, WHICH>(&mut acc, 0, &weights, b);
                } else {
                    let (first, second) = span.pair::<S>(row, at);
                    meet::<S, R, W, WHICH>(&mut acc, w, &weights, first);
                    meet::<S, R, W, WHICH>(&mut acc, w + 1, &weights, second);
                }
            }
        }
        acc
    }
}

/// Adds the products of a vector of a row with the weights of `R` rows of A.
#[inline(always)]
unsafe fn meet<S: Simd, const R: usize, const W: usize, const WHICH: u8>(
    acc: &mut [[S::V; W]; R],
    w: usize,
    weights: &[S::V; R],
    b: S::V,
) {
    // SAFETY: the features of `S` by the callers' promise.
    unsafe {
        let zero = S::splat(0.0);
        for (sums, &a) in acc.iter_mut().zip(weights) {
            let b = if WHICH == BUT_ZERO { S::select(S::eq(a, zero), zero, b) } else { b };
            sums[w] = S::fma(a, b, sums[w]);
        }
    }
}

/// Is every lane of every vector finite?
#[inline(always)]
pub(super) unsafe fn finite<S: Simd>(vectors: &[S::V]) -> bool {
    let mut lanes = [0f32; LANES];
    // SAFETY: the features of `S` by the callers' promise; the array holds sixteen values.
    unsafe {
        let zero = S::splat(0.0);
        // Four chains: one would take as long as the product.
        let mut taints = [zero; 4];
        for (n, &v) in vectors.iter().enumerate() {
            taints[n % 4] = S::fma(v, zero, taints[n % 4]);
        }
        let taint = S::add(S::add(taints[0], taints[1]), S::add(taints[2], taints[3]));
        S::store(lanes.as_mut_ptr(), taint);
    }
    lanes.iter().all(|x| !x.is_nan())
}
