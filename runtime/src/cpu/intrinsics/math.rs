//! Elementary functions: `vmath`, `math1`, `pow`.
//!
//! In: f32 values. Out: the function of each, at most 2 ulp from the exact value (see [`MathFn`]).
//! Afterwards: a value has the same bits alone (`math1`), inside a long vector and on every instruction
//! set. Sine and cosine beyond 2^20 and `pow` go through the f64 functions of the platform.

use super::exp::{exp, exp2, poly};
use super::simd::{LANES, Simd};
use super::tiles::Tile;
use attn_compiler::artifact::MathFn;

/// (ln(1+f) - f) / f^2 on [sqrt(1/2) - 1, sqrt(2) - 1]; relative error of the logarithm 7.7e-10.
const LN: [f32; 10] = [
    -0.5,
    0.333_333_13,
    -0.250_000_12,
    0.200_020_73,
    -0.166_678_53,
    0.142_202_32,
    -0.124_082_394,
    0.118_862_66,
    -0.116_603_65,
    0.067_324_616,
];
/// (log2(1+f) - f log2(e)) / f^2 on the same interval; 7.9e-10.
const LB: [f32; 10] = [
    -0.721_347_5,
    0.480_898_08,
    -0.360_674_6,
    0.288_568_1,
    -0.240_449_8,
    0.205_158_26,
    -0.179_195_76,
    0.171_597_7,
    -0.167_469_81,
    0.096_152_91,
];
/// (tanh(x)/x - 1) / x^2 in x^2, |x| <= 0.625; 2.1e-10.
const TANH: [f32; 6] =
    [-0.333_333_3, 0.133_332_22, -0.053_948_462, 0.021_708_751, -0.008_195_098, 0.002_157_669_3];
/// (sin(x)/x - 1) / x^2 in x^2, |x| <= pi/4; 1.6e-10.
const SIN: [f32; 4] = [-0.166_666_67, 0.008_333_38, -0.000_198_535_11, 2.837_513_2e-6];
/// (cos(x) - 1 + x^2/2) / x^4 in x^2, |x| <= pi/4; 1.1e-10.
const COS: [f32; 3] = [0.041_666_646, -0.001_388_730_1, 2.443_067e-5];
/// pi/2 in three parts.
const HALF_PI: [f32; 3] = [1.570_796_4, -4.371_139e-8, -1.715_124_5e-15];
/// Largest |x| for which the three parts suffice.
const TRIG_LIMIT: f32 = 1_048_576.0;

/// Splits x > 0 into 2^e (1 + f), 1 + f in [sqrt(1/2), sqrt(2)).
#[inline(always)]
unsafe fn split<S: Simd>(x: S::V) -> (S::V, S::V) {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        let small = S::lt(x, S::splat(f32::MIN_POSITIVE));
        let x = S::select(small, S::mul(x, S::splat(8_388_608.0)), x);
        let e = S::sra::<23>(S::sub_i(x, S::splat(std::f32::consts::FRAC_1_SQRT_2)));
        let f = S::sub(S::sub_i(x, S::shl::<23>(e)), S::splat(1.0));
        let e = S::sub(S::from_int(e), S::select(small, S::splat(23.0), S::splat(0.0)));
        (e, f)
    }
}

/// -inf at 0 and below, inf at inf, NaN at NaN, else `y`.
#[inline(always)]
unsafe fn log_edges<S: Simd>(x: S::V, y: S::V) -> S::V {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        let positive = S::lt(S::splat(0.0), x);
        let finite = S::lt(x, S::splat(f32::INFINITY));
        let y = S::select(finite, y, x); // inf and NaN pass through
        let at_most_zero = S::select(S::eq(x, x), S::splat(f32::NEG_INFINITY), x);
        S::select(positive, y, at_most_zero)
    }
}

/// Natural logarithm.
#[inline(always)]
pub(super) unsafe fn log<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        let (e, f) = split::<S>(x);
        let tail = S::mul(S::mul(f, f), poly::<S, 10>(f, LN));
        let low = S::fma(e, S::splat(1.428_606_8e-6), tail);
        let y = S::fma(e, S::splat(0.693_145_75), S::add(f, low));
        log_edges::<S>(x, y)
    }
}

/// Base-2 logarithm.
#[inline(always)]
unsafe fn log2<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        let (e, f) = split::<S>(x);
        let tail = S::mul(S::mul(f, f), poly::<S, 10>(f, LB));
        let low = S::fma(f, S::splat(1.925_963e-8), tail);
        let y = S::add(e, S::fma(f, S::splat(std::f32::consts::LOG2_E), low));
        log_edges::<S>(x, y)
    }
}

/// Hyperbolic tangent: an odd polynomial up to 0.625, 1 - 2 / (e^2x + 1) beyond.
#[inline(always)]
unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        let sign = S::and(x, S::splat(-0.0));
        let size = S::xor(x, sign);
        let z = S::mul(x, x);
        let near = S::fma(S::mul(z, size), poly::<S, 6>(z, TANH), size);
        // As bits: NaN is beyond too.
        let beyond = S::lt_u(S::splat(0.625f32.next_down()), size);
        // Capped scores are small, mostly, and the quotient costs more than all else.
        if !S::any(beyond) {
            return S::xor(near, sign);
        }
        let e = exp::<S>(S::add(size, size));
        let far = S::sub(S::splat(1.0), S::div(S::splat(2.0), S::add(e, S::splat(1.0))));
        S::xor(S::select(beyond, far, near), sign)
    }
}

/// Logistic function, from e^-|x| so that neither side overflows: `top / (1 + e)`, the quotient corrected
/// for its own rounding and for that of `1 + e`.
#[inline(always)]
pub(super) unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        let (one, sign_bit) = (S::splat(1.0), S::splat(-0.0));
        let sign = S::and(x, sign_bit);
        let e = exp::<S>(S::xor(S::xor(x, sign), sign_bit));
        let top = S::select(S::lt(x, S::splat(0.0)), e, one);
        let below = S::add(one, e);
        let lost = S::add(S::sub(one, below), e);
        let inverse = S::div(one, below);
        let y = S::mul(top, inverse);
        let rest = S::fnma(y, lost, S::fnma(y, below, top));
        S::fma(rest, inverse, y)
    }
}

/// sin(x + quarter * pi/2) for |x| <= 2^20.
#[inline(always)]
unsafe fn sin_quarter<S: Simd>(x: S::V, quarter: i32) -> S::V {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        let n = S::round(S::mul(x, S::splat(std::f32::consts::FRAC_2_PI)));
        let mut r = x;
        for part in HALF_PI {
            r = S::fnma(n, S::splat(part), r);
        }
        let z = S::mul(r, r);
        let sine = S::fma(S::mul(z, r), poly::<S, 4>(z, SIN), r);
        let tail = S::fma(S::mul(z, z), poly::<S, 3>(z, COS), S::mul(z, S::splat(-0.5)));
        let cosine = S::add(S::splat(1.0), tail);
        let q = S::add_i(S::to_int(n), S::splat_bits(quarter));
        // Bits 0 and 1 of q choose the function and the sign; from_int tells zero from not zero.
        let even = S::eq(S::from_int(S::and(q, S::splat_bits(1))), S::splat(0.0));
        let sign = S::shl::<30>(S::and(q, S::splat_bits(2)));
        S::xor(S::select(even, sine, cosine), sign)
    }
}

/// Function `f` of sixteen values.
#[inline(always)]
unsafe fn apply<S: Simd>(f: MathFn, x: S::V) -> S::V {
    // SAFETY: the features of `S`, promised by the caller.
    unsafe {
        match f {
            MathFn::Exp => exp::<S>(x),
            MathFn::Exp2 => exp2::<S>(x),
            MathFn::Log => log::<S>(x),
            MathFn::Log2 => log2::<S>(x),
            MathFn::Tanh => tanh::<S>(x),
            MathFn::Sigmoid => sigmoid::<S>(x),
            MathFn::Sin => trig::<S>(x, 0),
            MathFn::Cos => trig::<S>(x, 1),
        }
    }
}

/// Sine (0) or cosine (1), lanes beyond [`TRIG_LIMIT`] in f64.
#[inline(always)]
unsafe fn trig<S: Simd>(x: S::V, quarter: i32) -> S::V {
    // SAFETY: the features of `S`, promised by the caller; the arrays hold sixteen values.
    unsafe {
        let y = sin_quarter::<S>(x, quarter);
        let size = S::xor(x, S::and(x, S::splat(-0.0)));
        if !S::any(S::lt(S::splat(TRIG_LIMIT), size)) {
            return y;
        }
        let (mut xs, mut ys) = ([0f32; LANES], [0f32; LANES]);
        S::store(xs.as_mut_ptr(), x);
        S::store(ys.as_mut_ptr(), y);
        for (x, y) in xs.iter().zip(&mut ys).filter(|(x, _)| x.abs() > TRIG_LIMIT) {
            let x = f64::from(*x);
            *y = (if quarter == 0 { x.sin() } else { x.cos() }) as f32;
        }
        S::load(ys.as_ptr())
    }
}

/// The function of a code that an intrinsic received.
pub(super) fn math_fn_of(code: u32) -> Option<MathFn> {
    use MathFn::*;
    [Exp, Exp2, Log, Log2, Tanh, Sigmoid, Sin, Cos].into_iter().find(|&f| f as u32 == code)
}

/// `s[r, c] = f(s[r, c])`; an unknown code gives NaN.
///
/// # Safety
/// The features of `S`; the tile holds its rows.
#[inline(always)]
pub(super) unsafe fn vmath<S: Simd>(code: u32, tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match math_fn_of(code) {
            Some(MathFn::Exp) => each::<S>(MathFn::Exp, tile),
            Some(MathFn::Exp2) => each::<S>(MathFn::Exp2, tile),
            Some(MathFn::Log) => each::<S>(MathFn::Log, tile),
            Some(MathFn::Log2) => each::<S>(MathFn::Log2, tile),
            Some(MathFn::Tanh) => each::<S>(MathFn::Tanh, tile),
            Some(MathFn::Sigmoid) => each::<S>(MathFn::Sigmoid, tile),
            Some(MathFn::Sin) => each::<S>(MathFn::Sin, tile),
            Some(MathFn::Cos) => each::<S>(MathFn::Cos, tile),
            None => {
                for r in 0..tile.rows {
                    (0..tile.cols).for_each(|c| *tile.s.add(r * tile.lds + c) = f32::NAN);
                }
            }
        }
    }
}

/// The loops of one function; `f` is a constant at each call, so its `match` is gone from them.
#[inline(always)]
unsafe fn each<S: Simd>(f: MathFn, tile: Tile) {
    // Whole rows are one run.
    let (rows, cols) =
        if tile.cols == tile.lds { (1, tile.rows * tile.cols) } else { (tile.rows, tile.cols) };
    let full = cols / LANES * LANES;
    // SAFETY: the caller's promise; the last vector touches only what is left.
    unsafe {
        for r in 0..rows {
            let s = tile.s.add(r * tile.lds);
            let mut c = 0;
            while c < full {
                S::store(s.add(c), apply::<S>(f, S::load(s.add(c))));
                c += LANES;
            }
            if full < cols {
                let x = S::load_first(s.add(full), cols - full);
                S::store_first(s.add(full), apply::<S>(f, x), cols - full);
            }
        }
    }
}

/// One value of a function; an unknown code gives NaN.
///
/// # Safety
/// The features of `S`.
#[inline(always)]
pub(super) unsafe fn math1<S: Simd>(code: u32, x: f32) -> f32 {
    let mut y = [0f32; LANES];
    // SAFETY: the features are the caller's promise; the array holds sixteen values.
    unsafe {
        match math_fn_of(code) {
            Some(f) => S::store(y.as_mut_ptr(), apply::<S>(f, S::splat(x))),
            None => return f32::NAN,
        }
    }
    y[0]
}

/// x^y through f64, whose error is far below half an ulp of f32.
pub(super) fn pow(x: f32, y: f32) -> f32 {
    f64::from(x).powf(f64::from(y)) as f32
}
