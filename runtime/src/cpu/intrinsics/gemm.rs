//! The product of a row-major tile with packed panels: `gemm` and `gemm_skip_zero`, and both for pairs of bf16.
//!
//! In: A row-major, B in panels of [`PANEL`] columns, C row-major, all f32; or two bf16 in the place of each f32 of A and
//! B, along k. Out: C. Afterwards: element (r, x) is one chain of fused multiply-adds over ascending t that starts at zero
//! (of pairs, the second comes first), and, when accumulating, a last one that adds `C[r, x] * row_scale[r]`; so the bits
//! depend neither on the instruction set nor on the sizes of the other dimensions. Not here: packing (`pack.rs`), blocking
//! for caches (the generated loops do that).
//!
//! The register block is `S::ROWS` (at most 8) rows by `S::COLS` vectors; few rows (decode) get more columns instead,
//! so that enough chains run at a time to hide the latency of an FMA.

use super::simd::{LANES, Simd};
use attn_compiler::artifact::PANEL;

/// Steps of k between two tests of the loop; also keeps the trip count short enough to be predicted.
const UNROLL: usize = 4;

/// The arguments of `gemm`, as the table's entry receives them; of pairs, those of the words that hold them.
#[derive(Clone, Copy)]
pub(super) struct Gemm {
    pub c: *mut f32,
    pub ldc: usize,
    pub a: *const f32,
    pub lda: usize,
    pub b: *const f32,
    pub panel_stride: usize,
    pub rows: usize,
    pub k: usize,
    pub n: usize,
    pub row_scale: *const f32,
    pub accumulate: bool,
}

impl Gemm {
    /// The same product from row `row` and column `col` on; `col` is a multiple of 16.
    #[inline(always)]
    unsafe fn at(self, row: usize, col: usize) -> Gemm {
        // SAFETY: `row` and `col` are inside the tile, so the sums stay inside the allocations.
        unsafe {
            Gemm {
                c: self.c.add(row * self.ldc + col),
                a: self.a.add(row * self.lda),
                b: self.b.add(col / PANEL * self.panel_stride + col % PANEL),
                row_scale: if self.row_scale.is_null() { self.row_scale } else { self.row_scale.add(row) },
                ..self
            }
        }
    }
}

/// `C = A B` or `C = row_scale C + A B`, of elements or `PAIRS` of them.
///
/// # Safety
/// The features of `S`; pointers and sizes as `Intrinsic::Gemm` says.
#[inline(always)]
pub(super) unsafe fn gemm<S: Simd, const SKIP: bool, const PAIRS: bool>(g: Gemm) {
    // SAFETY: the caller's promise; every block below starts inside rows x round_up(n, 16).
    unsafe {
        let n = g.n.next_multiple_of(LANES);
        match g.rows {
            0 => {}
            1 if S::COLS == 2 => few_rows::<S, 1, 8, SKIP, PAIRS>(g, n),
            2 if S::COLS == 2 => few_rows::<S, 2, 4, SKIP, PAIRS>(g, n),
            3 if S::COLS == 2 => few_rows::<S, 3, 4, SKIP, PAIRS>(g, n),
            1 => few_rows::<S, 1, 4, SKIP, PAIRS>(g, n),
            2 => few_rows::<S, 2, 2, SKIP, PAIRS>(g, n),
            _ => {
                let step = S::COLS * LANES;
                let mut col = 0;
                while col + step <= n {
                    if S::COLS == 2 {
                        all_rows::<S, 2, SKIP, PAIRS>(g, col);
                    } else {
                        all_rows::<S, 1, SKIP, PAIRS>(g, col);
                    }
                    col += step;
                }
                if col < n {
                    all_rows::<S, 1, SKIP, PAIRS>(g, col);
                }
            }
        }
    }
}

/// `R` rows, all columns, `W` vectors at a time.
#[inline(always)]
unsafe fn few_rows<S: Simd, const R: usize, const W: usize, const SKIP: bool, const PAIRS: bool>(
    g: Gemm,
    n: usize,
) {
    // SAFETY: as for `gemm`.
    unsafe {
        let mut col = 0;
        while col + W * LANES <= n {
            block::<S, R, W, SKIP, PAIRS>(g.at(0, col));
            col += W * LANES;
        }
        while col + PANEL <= n {
            block::<S, R, 2, SKIP, PAIRS>(g.at(0, col));
            col += PANEL;
        }
        if col < n {
            block::<S, R, 1, SKIP, PAIRS>(g.at(0, col));
        }
    }
}

/// `W` vectors of columns from `col` on, all rows.
#[inline(always)]
unsafe fn all_rows<S: Simd, const W: usize, const SKIP: bool, const PAIRS: bool>(g: Gemm, col: usize) {
    // SAFETY: as for `gemm`.
    unsafe {
        let mut row = 0;
        while row < g.rows {
            let rest = g.rows - row;
            // The last two blocks share their rows evenly: a block of one row would wait for its own FMAs.
            let height = if rest <= S::ROWS { rest } else { S::ROWS.min(rest.div_ceil(2)) };
            let here = g.at(row, col);
            match height {
                1 => block::<S, 1, W, SKIP, PAIRS>(here),
                2 => block::<S, 2, W, SKIP, PAIRS>(here),
                3 => block::<S, 3, W, SKIP, PAIRS>(here),
                4 => block::<S, 4, W, SKIP, PAIRS>(here),
                5 => block::<S, 5, W, SKIP, PAIRS>(here),
                6 => block::<S, 6, W, SKIP, PAIRS>(here),
                7 => block::<S, 7, W, SKIP, PAIRS>(here),
                _ => block::<S, 8, W, SKIP, PAIRS>(here),
            }
            row += height;
        }
    }
}

/// The micro kernel: `R` rows by `W` vectors, kept in registers over the whole of k.
#[inline(always)]
unsafe fn block<S: Simd, const R: usize, const W: usize, const SKIP: bool, const PAIRS: bool>(g: Gemm) {
    // SAFETY: as for `gemm`; `g` starts at this block.
    unsafe {
        let mut acc = [[S::splat(0.0); W]; R];
        let mut a = g.a;
        let mut b = g.b;
        for _ in 0..g.k / UNROLL {
            for u in 0..UNROLL {
                step::<S, R, W, SKIP, PAIRS>(&mut acc, g, a.add(u), b.add(u * PANEL));
            }
            a = a.add(UNROLL);
            b = b.add(UNROLL * PANEL);
        }
        for u in 0..g.k % UNROLL {
            step::<S, R, W, SKIP, PAIRS>(&mut acc, g, a.add(u), b.add(u * PANEL));
        }
        for (r, row) in acc.iter().enumerate() {
            let scale = S::splat(if g.row_scale.is_null() { 1.0 } else { *g.row_scale.add(r) });
            for (w, &sum) in row.iter().enumerate() {
                let c = g.c.add(r * g.ldc + w * LANES);
                S::store(c, if g.accumulate { S::fma(S::load(c), scale, sum) } else { sum });
            }
        }
    }
}

/// One t of the micro kernel: `a` points at A[0, t], `b` at B[t, 0].
#[inline(always)]
unsafe fn step<S: Simd, const R: usize, const W: usize, const SKIP: bool, const PAIRS: bool>(
    acc: &mut [[S::V; W]; R],
    g: Gemm,
    a: *const f32,
    b: *const f32,
) {
    // SAFETY: as for `gemm`; t < k.
    unsafe {
        let mut bv = [S::splat(0.0); W];
        for (w, v) in bv.iter_mut().enumerate() {
            *v = S::load(b.add(w * LANES / PANEL * g.panel_stride + w * LANES % PANEL));
        }
        for (r, row) in acc.iter_mut().enumerate() {
            let at = a.add(r * g.lda);
            let av = if PAIRS { S::splat_bits(*at.cast::<i32>()) } else { S::splat(*at) };
            for (w, sum) in row.iter_mut().enumerate() {
                *sum = match (PAIRS, SKIP) {
                    (true, true) => S::dot_pairs(av, S::pairs_where(av, bv[w]), *sum),
                    (true, false) => S::dot_pairs(av, bv[w], *sum),
                    (false, true) => {
                        let zero = S::eq(av, S::splat(0.0));
                        S::fma(av, S::select(zero, S::splat(0.0), bv[w]), *sum)
                    }
                    (false, false) => S::fma(av, bv[w], *sum),
                };
            }
        }
    }
}
