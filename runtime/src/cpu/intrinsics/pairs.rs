//! Two bf16 in the place of each f32, for machines that multiply such pairs in one instruction: loading, rounding and
//! packing them, and products with rows of a tensor where they lie.
//!
//! In: bf16 of tensors, or f32 weights that are rounded. Out: tiles, panels, C. What holds: a pair is two neighbours
//! along k, the first in the low half of the word; where k is odd the last one meets a zero. The bits of a product
//! are those of [`Simd::dot_pairs`] on every machine. Not here: the product with panels, which is that of `gemm.rs`.

use attn_compiler::artifact::{DType, PANEL};

use super::direct::{BUT_FLOORED, BUT_ZERO, CLOSE, Direct, EVERY, columns, finite};
use super::element::Bf16;
use super::pack::{self, Source};
use super::rows::Strided;
use super::simd::{LANES, Simd};
use super::span::{Asking, Contiguous, Span};

/// Elements of a vector of pairs.
const PAIRS: usize = 2 * LANES;

/// Element `at` of a tensor, its bits.
#[inline(always)]
unsafe fn bits(src: *const u8, at: isize) -> u16 {
    // SAFETY: the caller's promise: it is readable.
    unsafe { src.cast::<u16>().offset(at).read_unaligned() }
}

/// Copies rows of bf16; zero in columns d..ldd. All sizes in elements.
///
/// # Safety
/// The elements are readable, `dst` holds rows x ldd of them.
#[inline(always)]
pub(super) unsafe fn load_pairs(dst: *mut u16, ldd: usize, src: *const u8, shape: Strided) {
    // SAFETY: the caller's promise; d is cut to ldd.
    unsafe {
        let d = shape.d.min(ldd);
        for r in 0..shape.rows {
            let (from, to) = (src.cast::<u16>().offset(r as isize * shape.stride_row), dst.add(r * ldd));
            if shape.stride_d == 1 {
                std::ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast::<u8>(), 2 * d);
            } else {
                (0..d).for_each(|x| *to.add(x) = bits(from.cast(), x as isize * shape.stride_d));
            }
            to.add(d).write_bytes(0, ldd - d);
        }
    }
}

/// `dst[r, c] = src[r, c]` rounded to bf16 for c < cols, zero up to the next multiple of sixteen.
///
/// # Safety
/// The features of `S`; both tiles hold their rows, of a multiple of sixteen elements.
#[inline(always)]
pub(super) unsafe fn round_pairs<S: Simd>(
    (dst, ldd): (*mut u16, usize),
    (src, lds): (*const f32, usize),
    rows: usize,
    cols: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let full = cols / LANES * LANES;
        for r in 0..rows {
            let (from, to) = (src.add(r * lds), dst.add(r * ldd));
            for c in (0..full).step_by(LANES) {
                S::store_bf16(to.add(c), S::load(from.add(c)));
            }
            if full < cols {
                let rest = S::select(S::first(cols - full), S::load(from.add(full)), S::splat(0.0));
                S::store_bf16(to.add(full), rest);
            }
        }
    }
}

/// Packs keys: word (x / 2, j) of the panels holds features x and x + 1 of key j. `s.n_t` counts features, an even
/// number; strides in elements of the tensor.
///
/// # Safety
/// As for [`pack::pack`], of words.
#[inline(always)]
pub(super) unsafe fn pack_k<S: Simd>(s: Source, dst: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let words = s.n_t / 2;
        if s.stride_t == 1 && s.stride_x % 2 == 0 {
            let as_words = Source { dtype: DType::F32, n_t: words, stride_x: s.stride_x / 2, ..s };
            pack::pack::<S, false>(as_words, dst, words * PANEL);
            return;
        }
        for x in 0..s.n_x.next_multiple_of(PANEL) {
            for t in 0..words {
                let at = x as isize * s.stride_x + 2 * t as isize * s.stride_t;
                let pair = if x < s.n_x { [bits(s.src, at), bits(s.src, at + s.stride_t)] } else { [0; 2] };
                let to = dst.cast::<u16>().add(2 * ((x / PANEL * words + t) * PANEL + x % PANEL));
                to.cast::<[u16; 2]>().write_unaligned(pair);
            }
        }
    }
}

/// Packs values: word (j / 2, x) of the panels holds feature x of keys j and j + 1, zero for one that is not there.
/// `s.n_t` counts keys; the stride of the panels is in words. Returns whether an element is NaN or infinite.
///
/// # Safety
/// As for [`pack::pack`], of words.
#[inline(always)]
pub(super) unsafe fn pack_v<S: Simd>(s: Source, dst: *mut f32, panel_stride: usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = S::splat(0.0);
        // NaN once, NaN for ever: what is finite times 0 adds 0.
        let mut taint = zero;
        for t in (0..s.n_t).step_by(2) {
            let first = s.src.cast::<u16>().offset(t as isize * s.stride_t).cast::<u8>();
            let second = (t + 1 < s.n_t).then(|| first.cast::<u16>().offset(s.stride_t).cast::<u8>());
            for x in (0..s.n_x).step_by(PAIRS) {
                let n = (s.n_x - x).min(PAIRS);
                let a = row_part::<S>(first, x, n, s.stride_x);
                let b = second.map_or(zero, |row| row_part::<S>(row, x, n, s.stride_x));
                let (even, odd) = S::weave(a, b);
                taint = S::dot_pairs(even, zero, S::dot_pairs(odd, zero, taint));
                let (low, high) = S::unweave(even, odd);
                let to = dst.add(x / PANEL * panel_stride + t / 2 * PANEL);
                S::store(to, low);
                S::store(to.add(LANES), high);
            }
        }
        !finite::<S>(&[taint])
    }
}

/// Elements `x..x + n` of a row, at most thirty-two; zero beyond.
#[inline(always)]
unsafe fn row_part<S: Simd>(row: *const u8, x: usize, n: usize, stride: isize) -> S::V {
    // SAFETY: the caller's promise: the elements are readable; the array holds thirty-two.
    unsafe {
        let from = row.cast::<u16>().offset(x as isize * stride);
        if stride == 1 && n == PAIRS {
            return S::load(from.cast());
        }
        if stride == 1 && n.is_multiple_of(2) {
            return S::load_first(from.cast(), n / 2);
        }
        let mut lanes = [0u16; PAIRS];
        for (u, lane) in lanes.iter_mut().enumerate().take(n) {
            *lane = bits(from.cast(), u as isize * stride);
        }
        S::load(lanes.as_ptr().cast())
    }
}

/// Pairs along a row of a tensor: one word after the other.
#[derive(Clone, Copy)]
struct Words;

impl Span for Words {
    const SIZE: usize = 4;
    const TOGETHER: usize = 2;
    const HELD: usize = 1;
    const SETTLES: bool = false;

    #[inline(always)]
    unsafe fn first<S: Simd>(self, row: *const u8, t: usize, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_first(row.cast::<f32>().add(t), n) }
    }

    #[inline(always)]
    unsafe fn vector<S: Simd>(self, row: *const u8, t: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(row.cast::<f32>().add(t)) }
    }

    #[inline(always)]
    unsafe fn add_product<S: Simd>(a: S::V, b: S::V, sum: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::dot_pairs(a, b, sum) }
    }
}

/// Pairs of elements at a distance.
#[derive(Clone, Copy)]
struct ScatteredPairs {
    stride: isize,
}

impl Span for ScatteredPairs {
    const SIZE: usize = super::stream::LINE;
    const TOGETHER: usize = 1;
    const HELD: usize = usize::MAX;
    const SETTLES: bool = false;

    #[inline(always)]
    unsafe fn first<S: Simd>(self, row: *const u8, t: usize, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { row_part::<S>(row, 2 * t, 2 * n, self.stride) }
    }

    #[inline(always)]
    unsafe fn add_product<S: Simd>(a: S::V, b: S::V, sum: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::dot_pairs(a, b, sum) }
    }
}

/// `C[r, x] = A[r, ..] . row x`, added to C where asked; `a`, `lda` and `k` in words.
///
/// # Safety
/// The features of `S`; pointers and sizes as `Intrinsic::ColumnsPairs` says.
#[inline(always)]
pub(super) unsafe fn columns_pairs<S: Simd, const ASKS: bool>(g: Direct) {
    // SAFETY: the caller's promise.
    unsafe {
        if ASKS {
            columns::<S, _>(g, Asking(Words));
        } else if g.stride_element == 1 {
            columns::<S, _>(g, Words);
        } else {
            columns::<S, _>(g, ScatteredPairs { stride: g.stride_element });
        }
    }
}

/// `C[r, x] = row_scale[r] C[r, x] + sum_t A[r, t] (row t)[x]`; `a` and `lda` in words, `k` counts rows.
///
/// # Safety
/// The features of `S`; pointers and sizes as `Intrinsic::RowsPairs` says.
#[inline(always)]
pub(super) unsafe fn rows_pairs<S: Simd, const SKIP: bool, const ASKS: bool>(g: Direct) {
    // SAFETY: the caller's promise.
    unsafe {
        let chunk = (CLOSE / (2 * g.n).max(1)).max(8) / 2 * 2;
        let mut t = 0;
        loop {
            let k = chunk.min(g.k - t);
            let mut here = Direct { a: g.a.add(t / 2), b: g.row(t), k, ..g };
            if ASKS {
                here.next = g.next.wrapping_add(t * g.n * 2);
            }
            if t > 0 {
                (here.row_scale, here.accumulate) = (std::ptr::null(), true);
            }
            close_rows::<S, SKIP, ASKS>(here);
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
unsafe fn close_rows<S: Simd, const SKIP: bool, const ASKS: bool>(g: Direct) {
    let wide = g.n >= 8 * LANES;
    // SAFETY: as for `rows_pairs`.
    unsafe {
        let mut row = 0;
        while row < g.rows {
            let mut here = g.below(row);
            here.asks = ASKS && row == 0;
            row += match here.rows {
                1 if wide => row_blocks::<S, 1, 8, SKIP, ASKS>(here),
                1 => row_blocks::<S, 1, 4, SKIP, ASKS>(here),
                _ if wide => row_blocks::<S, 2, 8, SKIP, ASKS>(here),
                2 | 3 => row_blocks::<S, 2, 4, SKIP, ASKS>(here),
                _ => row_blocks::<S, 4, 4, SKIP, ASKS>(here),
            };
        }
    }
}

/// `R` rows of A, all columns, `W` vectors at a time, at last two; gives `R`.
#[inline(always)]
unsafe fn row_blocks<S: Simd, const R: usize, const W: usize, const SKIP: bool, const ASKS: bool>(
    g: Direct,
) -> usize {
    // SAFETY: as for `rows_pairs`; R rows are there.
    unsafe {
        let mut x = 0;
        while x < g.n {
            if g.stride_element == 1 && x + W * LANES <= g.n {
                row_block::<S, R, W, SKIP, true, ASKS>(g, x);
                x += W * LANES;
            } else {
                row_block::<S, R, 2, SKIP, false, ASKS>(g, x);
                x += PAIRS;
            }
        }
        R
    }
}

/// `R` rows by `W` vectors from column `x` on, or by what is left of two. With `SKIP` as the product with f32.
#[inline(always)]
unsafe fn row_block<
    S: Simd,
    const R: usize,
    const W: usize,
    const SKIP: bool,
    const FULL: bool,
    const ASKS: bool,
>(
    g: Direct,
    x: usize,
) {
    // SAFETY: as for `rows_pairs`.
    unsafe {
        let mut acc = if SKIP {
            row_sums::<S, R, W, BUT_FLOORED, FULL, ASKS>(g, x)
        } else {
            row_sums::<S, R, W, EVERY, FULL, ASKS>(g, x)
        };
        if SKIP && !finite::<S>(acc.as_flattened()) {
            acc = row_sums::<S, R, W, BUT_ZERO, FULL, ASKS>(g, x);
        }
        for (r, sums) in acc.iter_mut().enumerate() {
            let scale = S::splat(if g.row_scale.is_null() { 1.0 } else { *g.row_scale.add(r) });
            for two in sums.chunks_exact_mut(2) {
                (two[0], two[1]) = S::unweave(two[0], two[1]);
            }
            for (w, &sum) in sums.iter().enumerate().filter(|(w, _)| x + w * LANES < g.n) {
                let c = g.c.add(r * g.ldc + x + w * LANES);
                S::store(c, if g.accumulate { S::fma(S::load(c), scale, sum) } else { sum });
            }
        }
    }
}

#[inline(always)]
unsafe fn row_sums<
    S: Simd,
    const R: usize,
    const W: usize,
    const WHICH: u8,
    const FULL: bool,
    const ASKS: bool,
>(
    g: Direct,
    x: usize,
) -> [[S::V; W]; R] {
    // SAFETY: as for `rows_pairs`.
    unsafe {
        let mut acc = [[S::splat(0.0); W]; R];
        let even = g.k / 2 * 2;
        for t in (0..even).step_by(2) {
            two_rows::<S, R, W, WHICH, FULL, true, ASKS>(&mut acc, g, t, x);
        }
        if even < g.k {
            two_rows::<S, R, W, WHICH, FULL, false, ASKS>(&mut acc, g, even, x);
        }
        acc
    }
}

/// Thirty-two elements of a row from `at` on, or those that there are.
#[inline(always)]
unsafe fn part<S: Simd, const FULL: bool>(g: Direct, row: *const u8, at: usize) -> S::V {
    // SAFETY: as for `rows_pairs`.
    unsafe {
        if FULL {
            S::load(row.cast::<u16>().add(at).cast())
        } else {
            row_part::<S>(row, at, (g.n - at).min(PAIRS), g.stride_element)
        }
    }
}

/// Adds the products with rows t and t + 1, or with row t alone.
#[inline(always)]
unsafe fn two_rows<
    S: Simd,
    const R: usize,
    const W: usize,
    const WHICH: u8,
    const FULL: bool,
    const BOTH: bool,
    const ASKS: bool,
>(
    acc: &mut [[S::V; W]; R],
    g: Direct,
    t: usize,
    x: usize,
) {
    // SAFETY: as for `rows_pairs`; row t is there, and the one after it where `BOTH` says so.
    unsafe {
        let zero = S::splat(0.0);
        let (first, second) = (g.row(t), g.row(if BOTH { t + 1 } else { t }));
        if ASKS && g.asks {
            for row in [t, t + 1] {
                g.ask_next::<S>((row * g.n + x) * 2, W * LANES * 2);
            }
        }
        let mut weights = [zero; R];
        for (r, a) in weights.iter_mut().enumerate() {
            *a = S::splat_bits(*g.a.add(r * g.lda + t / 2).cast::<i32>());
            if WHICH == BUT_FLOORED {
                *a = S::pairs_unfloored(*a);
            }
        }
        for w in (0..W).step_by(2) {
            let at = x + w * LANES;
            g.ask::<S, Contiguous<Bf16>>(first, at);
            g.ask::<S, Contiguous<Bf16>>(second, at);
            let a = part::<S, FULL>(g, first, at);
            let b = if BOTH { part::<S, FULL>(g, second, at) } else { zero };
            let (even, odd) = S::weave(a, b);
            for (sums, &weight) in acc.iter_mut().zip(&weights) {
                for (sum, b) in sums[w..w + 2].iter_mut().zip([even, odd]) {
                    let b = if WHICH == BUT_ZERO { S::pairs_where(weight, b) } else { b };
                    *sum = S::dot_pairs(weight, b, *sum);
                }
            }
        }
    }
}
