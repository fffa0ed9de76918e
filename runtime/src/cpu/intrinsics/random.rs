//! Random dropping of elements: `random`.
//!
//! In: a tile and the place of its first element in a matrix of random words. Out: the tile with dropped elements
//! 0 and the others scaled. Afterwards: what happens to an element depends on its place alone, never on the tile.
//!
//! Words come from Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2,
//! 3"), sixteen blocks at a time as plain integer loops, which the compiler turns into vectors.

use super::simd::LANES;
use super::tiles::Tile;
use attn_compiler::expr::rand::{PHILOX_M, PHILOX_ROUNDS, PHILOX_W};

/// Columns whose words are made at a time: four for each block.
const CHUNK: usize = 4 * LANES;

/// What the words depend on beside the column.
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

/// Sixteen words.
type Words = [u32; LANES];

/// High and low halves of `m * x`.
#[inline(always)]
fn product(m: u32, x: Words) -> (Words, Words) {
    let wide = x.map(|x| u64::from(m) * u64::from(x));
    (wide.map(|w| (w >> 32) as u32), wide.map(|w| w as u32))
}

/// `a ^ b ^ k` in each lane.
#[inline(always)]
fn mix(a: Words, b: Words, k: u32) -> Words {
    std::array::from_fn(|n| a[n] ^ b[n] ^ k)
}

/// The words of blocks `block`, `block + 1`, ...: word w of block n is at `[w][n]`.
#[inline(always)]
fn blocks(block: u32, rest: [u32; 3], seed: i64) -> [Words; 4] {
    let mut key = [seed as u32, (seed as u64 >> 32) as u32];
    let first = std::array::from_fn(|n| block.wrapping_add(n as u32));
    let mut c = [first, [rest[0]; LANES], [rest[1]; LANES], [rest[2]; LANES]];
    for _ in 0..PHILOX_ROUNDS {
        let (high0, low0) = product(PHILOX_M[0], c[0]);
        let (high1, low1) = product(PHILOX_M[1], c[2]);
        c = [mix(high1, c[1], key[0]), low1, mix(high0, c[3], key[1]), low0];
        key = [key[0].wrapping_add(PHILOX_W[0]), key[1].wrapping_add(PHILOX_W[1])];
    }
    c
}

/// Drops and scales in place.
///
/// # Safety
/// The tile is valid.
#[inline(always)]
pub(super) unsafe fn random(t: Tile, d: Draw) {
    let none = d.threshold > i64::from(u32::MAX);
    let least = d.threshold.clamp(0, i64::from(u32::MAX)) as u32;
    // Elements before the first one that share its block.
    let skip = (d.col0 & 3) as usize;
    for r in 0..t.rows {
        let row = d.row0.wrapping_add(r as i64) as u32;
        let mut at = 0;
        // `at` counts words from the first block on, the first column's is number `skip`.
        while at < skip + t.cols {
            let block = ((d.col0 >> 2) as u32).wrapping_add((at / 4) as u32);
            let words = blocks(block, [row, d.stream as u32, d.offset as u32], d.seed);
            let mut factor = [0u32; CHUNK];
            for (n, slot) in factor.iter_mut().enumerate() {
                *slot = if words[n % 4][n / 4] >= least && !none { u32::MAX } else { 0 };
            }
            let first = skip.saturating_sub(at);
            let last = (skip + t.cols - at).min(CHUNK);
            // SAFETY: the caller's tile; columns at + first - skip .. at + last - skip are inside the row.
            let elements = unsafe {
                let start = t.s.add(r * t.lds + at + first - skip);
                std::slice::from_raw_parts_mut(start, last - first)
            };
            for (x, &keep) in elements.iter_mut().zip(&factor[first..]) {
                *x = f32::from_bits((*x * d.keep_scale).to_bits() & keep);
            }
            at += CHUNK;
        }
    }
}
