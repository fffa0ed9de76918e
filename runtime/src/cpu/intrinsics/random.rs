//! Random dropping of elements: `random`.
//!
//! In: a tile and the place of its first element in a matrix of random words. Out: the tile with dropped elements
//! 0 and the others scaled. Afterwards: what happens to an element depends on its place alone, never on the tile.
//!
//! Words come from Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2,
//! 3"). A chunk is sixteen words of a row, which are four blocks; sixteen chunks, of whatever rows, are made at a
//! time: lane n of a vector belongs to chunk n, and a transposition gives each chunk its words in order. Products
//! are 64 bits wide, so the even and the odd chunks go through the rounds apart.

use super::simd::{LANES, Simd};
use super::tiles::Tile;
use attn_compiler::expr::rand::{PHILOX_M, PHILOX_ROUNDS, PHILOX_W};

/// Words of a block.
const WORDS: usize = 4;

/// What the words depend on beside the column, and what is done with them.
#[derive(Clone, Copy)]
pub(super) struct Draw {
    pub row0: i64,
    pub col0: i64,
    pub stream: i64,
    pub offset: i64,
    pub seed: i64,
    pub threshold: i64,
    pub keep_scale: f32,
}

/// Drops and scales in place.
///
/// # Safety
/// The features of `S`; the tile is valid.
#[inline(always)]
pub(super) unsafe fn random<S: Simd>(t: Tile, d: Draw) {
    // Words before the first column that share its block.
    let skip = (d.col0 & 3) as usize;
    let chunks = (skip + t.cols).div_ceil(LANES);
    let all = if t.cols == 0 { 0 } else { chunks * t.rows };
    let (mut row, mut chunk) = (0, 0);
    for done in (0..all).step_by(LANES) {
        let n = (all - done).min(LANES);
        let (mut places, mut first, mut rows) = ([(0, 0); LANES], [0u32; LANES], [0u32; LANES]);
        for i in 0..n {
            places[i] = (row, chunk);
            first[i] = ((d.col0 >> 2) as u32).wrapping_add((chunk * LANES / WORDS) as u32);
            rows[i] = d.row0.wrapping_add(row as i64) as u32;
            chunk += 1;
            if chunk == chunks {
                (row, chunk) = (row + 1, 0);
            }
        }
        // SAFETY: the caller's promise; the places are of chunks that hold columns of the tile.
        unsafe {
            let words = words::<S>(&first, &rows, d);
            for (&(row, chunk), &words) in places.iter().zip(&words).take(n) {
                apply::<S>(t, d, words, row, (chunk * LANES, skip));
            }
        }
    }
}

/// The sixteen words of each of sixteen chunks, which start at block `first` of row `rows`.
#[inline(always)]
unsafe fn words<S: Simd>(first: &[u32; LANES], rows: &[u32; LANES], d: Draw) -> [S::V; LANES] {
    // SAFETY: the features of `S`, promised by the caller; the arrays hold sixteen values.
    unsafe {
        let (first, rows) = (S::load(first.as_ptr().cast()), S::load(rows.as_ptr().cast()));
        let mut out = [S::splat(0.0); LANES];
        for q in 0..LANES / WORDS {
            let at = S::add_i(first, S::splat_bits(q as i32));
            let even = blocks::<S>(at, rows, d);
            let odd = blocks::<S>(S::odd_to_even(at), S::odd_to_even(rows), d);
            for w in 0..WORDS {
                out[q * WORDS + w] = S::merge_even(even[w], odd[w]);
            }
        }
        S::transpose(&mut out);
        out
    }
}

/// The four words of eight blocks, in even lanes; what is in odd lanes does not matter and is never read.
#[inline(always)]
unsafe fn blocks<S: Simd>(at: S::V, row: S::V, d: Draw) -> [S::V; WORDS] {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        let bits = |x: u32| S::splat_bits(x as i32);
        let mut key = [d.seed as u32, (d.seed as u64 >> 32) as u32];
        let (m0, m1) = (bits(PHILOX_M[0]), bits(PHILOX_M[1]));
        let mut c = [at, row, bits(d.stream as u32), bits(d.offset as u32)];
        for _ in 0..PHILOX_ROUNDS {
            let (p0, p1) = (S::mul_even(c[0], m0), S::mul_even(c[2], m1));
            let c0 = S::xor(S::xor(S::odd_to_even(p1), c[1]), bits(key[0]));
            let c2 = S::xor(S::xor(S::odd_to_even(p0), c[3]), bits(key[1]));
            c = [c0, p1, c2, p0];
            key = [key[0].wrapping_add(PHILOX_W[0]), key[1].wrapping_add(PHILOX_W[1])];
        }
        c
    }
}

/// Drops and scales the elements of one row whose words are number `word` up to `word` + 16, the first column
/// having word `skip`.
#[inline(always)]
unsafe fn apply<S: Simd>(t: Tile, d: Draw, words: S::V, row: usize, (word, skip): (usize, usize)) {
    // SAFETY: as for `random`; lanes before the first and after the last column are cut off.
    unsafe {
        let before = skip.saturating_sub(word);
        let after = (skip + t.cols - word).min(LANES);
        let to = t.s.add(row * t.lds + word + before - skip);
        let n = after - before;
        let mut words = words;
        if before > 0 {
            let mut moved = [0f32; 2 * LANES];
            S::store(moved.as_mut_ptr(), words);
            words = S::load(moved.as_ptr().add(before));
        }
        let least = S::splat_bits(d.threshold.clamp(0, i64::from(u32::MAX)) as u32 as i32);
        let zero = S::splat(0.0);
        let kept = if d.threshold > i64::from(u32::MAX) {
            zero
        } else {
            let scaled = S::mul(S::load_first(to, n), S::splat(d.keep_scale));
            S::select(S::lt_u(words, least), zero, scaled)
        };
        S::store_first(to, kept, n);
    }
}
