//! Loops that measure the machine: FMAs in registers, reads of memory.
//!
//! In: an amount of work. Out: a value that depends on all of it, so that nothing is optimised away. Not
//! here: clocks and threads (`cpu/peak.rs`).

use super::simd::{LANES, Simd};

/// f32 values between what is read and what is asked for: 8 KiB.
const AHEAD: usize = 2048;

/// Floating-point operations of one iteration of [`fma_loop`]: an FMA is two.
pub(super) const fn flops_per_iteration<S: Simd>() -> usize {
    2 * LANES * S::ROWS * S::COLS
}

/// `iterations` times one FMA on each of `S::ROWS * S::COLS` independent accumulators.
///
/// # Safety
/// The features of `S`.
#[inline(always)]
pub(super) unsafe fn fma_loop<S: Simd>(iterations: usize) -> f32 {
    // SAFETY: the caller's promise; the array holds sixteen values.
    unsafe {
        match S::ROWS * S::COLS {
            16 => fma_chains::<S, 16>(iterations),
            6 => fma_chains::<S, 6>(iterations),
            _ => fma_chains::<S, 4>(iterations),
        }
    }
}

#[inline(always)]
unsafe fn fma_chains<S: Simd, const N: usize>(iterations: usize) -> f32 {
    // SAFETY: as for `fma_loop`.
    unsafe {
        let mut acc = [S::splat(1.0); N];
        let (factor, term) = (S::splat(std::hint::black_box(0.999)), S::splat(std::hint::black_box(1e-3)));
        for _ in 0..iterations {
            for a in &mut acc {
                *a = S::fma(*a, factor, term);
            }
        }
        let mut lanes = [0f32; LANES];
        let mut sum = S::splat(0.0);
        for a in acc {
            sum = S::add(sum, a);
        }
        S::store(lanes.as_mut_ptr(), sum);
        lanes.iter().sum()
    }
}

/// Reads `data` once, in vectors.
///
/// # Safety
/// The features of `S`.
#[inline(always)]
pub(super) unsafe fn read_loop<S: Simd>(data: &[f32]) -> f32 {
    // SAFETY: the caller's promise; each chunk is four vectors.
    unsafe {
        let mut acc = [S::splat(0.0); 4];
        for chunk in data.chunks_exact(4 * LANES) {
            for line in 0..4 {
                S::prefetch(chunk.as_ptr().wrapping_add(AHEAD + line * LANES).cast());
            }
            for (i, a) in acc.iter_mut().enumerate() {
                *a = S::add(*a, S::load(chunk.as_ptr().add(i * LANES)));
            }
        }
        let mut lanes = [0f32; LANES];
        S::store(lanes.as_mut_ptr(), S::add(S::add(acc[0], acc[1]), S::add(acc[2], acc[3])));
        lanes.iter().sum()
    }
}
