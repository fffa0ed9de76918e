//! Exponentials on [`Simd`] vectors: the fast one inside softmax and the accurate one everywhere else.
//!
//! In: lanes. Out: lanes. The polynomials are minimax fits (Remez by Lawson's weights) of relative error,
//! their coefficients rounded to f32 one after the other and the rest refitted. Not here: loops.

use super::simd::Simd;

/// log2(e)
pub(super) const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln(2) cut to 16 bits, so that its product with a small integer is exact.
const LN2_HIGH: f32 = 0.693_145_75;
/// ln(2) - LN2_HIGH
const LN2_LOW: f32 = 1.428_606_8e-6;
/// (2^f - 1) / f on [-1/2, 1/2] (the first happens to be the f32 nearest to ln 2); relative error of 2^f 3.0e-9.
const EXP2: [f32; 6] =
    [std::f32::consts::LN_2, 0.240_226_48, 0.055_503_596, 0.009_618_5, 0.001_339_097_2, 0.000_153_288_87];
/// (e^r - 1 - r) / r^2 on [-ln(2)/2, ln(2)/2]; relative error of e^r 3.1e-9.
const EXP: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_262, 0.008_368_672, 0.001_382_100_8];

/// Horner's scheme, ascending coefficients.
#[inline(always)]
pub(super) unsafe fn poly<S: Simd, const N: usize>(x: S::V, c: [f32; N]) -> S::V {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        let mut y = S::splat(c[N - 1]);
        for i in (0..N - 1).rev() {
            y = S::fma(y, x, S::splat(c[i]));
        }
        y
    }
}

/// 2^t for t < 127, relative error at most 1.2e-7; 0 below 2^-126 (and at -inf), NaN for NaN.
#[inline(always)]
pub(super) unsafe fn exp2_fast<S: Simd>(t: S::V) -> S::V {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        let (n, f) = S::exp2_split(t);
        S::exp2_join(S::fma(poly::<S, 6>(f, EXP2), f, S::splat(1.0)), n, t)
    }
}

/// `p * 2^n` for integral -252 < n < 254, rounded once also where the result is subnormal.
#[inline(always)]
unsafe fn scale<S: Simd>(p: S::V, n: S::V) -> S::V {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        let n = S::to_int(n);
        let half = S::sra::<1>(n);
        let bias = S::splat_bits(127);
        let first = S::shl::<23>(S::add_i(half, bias));
        let second = S::shl::<23>(S::add_i(S::sub_i(n, half), bias));
        S::mul(S::mul(p, first), second)
    }
}

/// e^x to 1 ulp, subnormal results included.
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        // The order of arguments lets NaN through both bounds.
        let x = S::max(S::splat(-110.0), S::min(S::splat(90.0), x));
        let n = S::round(S::mul(x, S::splat(LOG2_E)));
        let r = S::fnma(n, S::splat(LN2_LOW), S::fnma(n, S::splat(LN2_HIGH), x));
        let p = S::fma(S::mul(r, r), poly::<S, 5>(r, EXP), r);
        scale::<S>(S::add(p, S::splat(1.0)), n)
    }
}

/// 2^x to 1 ulp, subnormal results included.
#[inline(always)]
pub(super) unsafe fn exp2<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        let x = S::max(S::splat(-160.0), S::min(S::splat(130.0), x));
        let n = S::round(x);
        let f = S::sub(x, n);
        scale::<S>(S::fma(poly::<S, 6>(f, EXP2), f, S::splat(1.0)), n)
    }
}
