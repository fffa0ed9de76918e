//! Elementary functions of f32, the polynomials of the CPU's (`runtime/src/cpu/intrinsics/{exp,math}.rs`): at most 2 ulp.
//!
//! Sines and cosines are reduced in f64, so they hold for every f32 below 2^30.

use super::Lower;
use crate::simt_ir::{Bin, Cast, Cmp, Op, Ty, Un, Val};

/// (2^f - 1) / f on [-1/2, 1/2].
const EXP2: [f32; 6] =
    [std::f32::consts::LN_2, 0.240_226_48, 0.055_503_596, 0.009_618_5, 0.001_339_097_2, 0.000_153_288_87];
/// (e^r - 1 - r) / r^2 on [-ln(2)/2, ln(2)/2].
const EXP: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_262, 0.008_368_672, 0.001_382_100_8];
/// (ln(1+f) - f) / f^2 on [sqrt(1/2) - 1, sqrt(2) - 1].
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
/// (log2(1+f) - f log2(e)) / f^2 on the same interval.
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
/// (tanh(x)/x - 1) / x^2 in x^2, |x| <= 0.625.
const TANH: [f32; 6] =
    [-0.333_333_3, 0.133_332_22, -0.053_948_462, 0.021_708_751, -0.008_195_098, 0.002_157_669_3];
/// (sin(x)/x - 1) / x^2 in x^2, |x| <= pi/4.
const SIN: [f32; 4] = [-0.166_666_67, 0.008_333_38, -0.000_198_535_11, 2.837_513_2e-6];
/// (cos(x) - 1 + x^2/2) / x^4 in x^2, |x| <= pi/4.
const COS: [f32; 3] = [0.041_666_646, -0.001_388_730_1, 2.443_067e-5];
/// pi/2 as a sum of two f64.
const HALF_PI: [f64; 2] = [std::f64::consts::FRAC_PI_2, 6.123_233_995_736_766e-17];
/// ln(2) cut to 16 bits, and the rest.
const LN2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];

impl Lower<'_> {
    fn poly(&mut self, x: Val, c: &[f32]) -> Val {
        let Some((last, rest)) = c.split_last() else { return x };
        let mut y = self.b.f32(*last);
        for c in rest.iter().rev() {
            let c = self.b.f32(*c);
            y = self.b.fma(y, x, c);
        }
        y
    }

    /// `-a * b + c`
    fn fnma(&mut self, a: Val, b: Val, c: Val) -> Val {
        let a = self.b.un(Un::FNeg, a);
        self.b.fma(a, b, c)
    }

    /// A float within bounds; NaN stays.
    fn bounded(&mut self, x: Val, lo: f32, hi: f32) -> Val {
        let (lo, hi) = (self.b.f32(lo), self.b.f32(hi));
        let small = self.b.cmp(Cmp::FLt, x, lo);
        let x = self.b.select(small, lo, x);
        let large = self.b.cmp(Cmp::FLt, hi, x);
        self.b.select(large, hi, x)
    }

    /// `p * 2^n` for integral n, rounded once also where the result is subnormal.
    fn scale(&mut self, p: Val, n: Val) -> Val {
        let n = self.b.cast(Cast::FToSi, Ty::I32, n);
        let half = self.b.bin_int(Bin::AShr, n, 1);
        let other = self.b.bin(Bin::Sub, n, half);
        let mut y = p;
        for part in [half, other] {
            let biased = self.b.bin_int(Bin::Add, part, 127);
            let bits = self.b.bin_int(Bin::Shl, biased, 23);
            let factor = self.b.cast(Cast::Bits, Ty::F32, bits);
            y = self.b.bin(Bin::FMul, y, factor);
        }
        y
    }

    pub(super) fn exp(&mut self, x: Val) -> Val {
        let x = self.bounded(x, -110.0, 90.0);
        let log2e = self.b.f32(std::f32::consts::LOG2_E);
        let t = self.b.bin(Bin::FMul, x, log2e);
        let n = self.b.un(Un::Rint, t);
        let [high, low] = LN2.map(|c| self.b.f32(c));
        let r = self.fnma(n, high, x);
        let r = self.fnma(n, low, r);
        let (square, p) = (self.b.bin(Bin::FMul, r, r), self.poly(r, &EXP));
        let p = self.b.fma(square, p, r);
        let one = self.b.f32(1.0);
        let p = self.b.bin(Bin::FAdd, p, one);
        self.scale(p, n)
    }

    pub(super) fn exp2(&mut self, x: Val) -> Val {
        let x = self.bounded(x, -160.0, 130.0);
        let n = self.b.un(Un::Rint, x);
        let f = self.b.bin(Bin::FSub, x, n);
        let (p, one) = (self.poly(f, &EXP2), self.b.f32(1.0));
        let p = self.b.fma(p, f, one);
        self.scale(p, n)
    }

    /// x > 0 as 2^e (1 + f), 1 + f in [sqrt(1/2), sqrt(2)).
    fn split(&mut self, x: Val) -> (Val, Val) {
        let (least, up) = (self.b.f32(f32::MIN_POSITIVE), self.b.f32(8_388_608.0));
        let small = self.b.cmp(Cmp::FLt, x, least);
        let raised = self.b.bin(Bin::FMul, x, up);
        let x = self.b.select(small, raised, x);
        let bits = self.b.cast(Cast::Bits, Ty::I32, x);
        let root = i64::from(std::f32::consts::FRAC_1_SQRT_2.to_bits());
        let e = self.b.bin_int(Bin::Sub, bits, root);
        let e = self.b.bin_int(Bin::AShr, e, 23);
        let moved = self.b.bin_int(Bin::Shl, e, 23);
        let f = self.b.bin(Bin::Sub, bits, moved);
        let f = self.b.cast(Cast::Bits, Ty::F32, f);
        let one = self.b.f32(1.0);
        let f = self.b.bin(Bin::FSub, f, one);
        let e = self.b.cast(Cast::SiToF, Ty::F32, e);
        let (by, zero) = (self.b.f32(23.0), self.b.f32(0.0));
        let by = self.b.select(small, by, zero);
        (self.b.bin(Bin::FSub, e, by), f)
    }

    /// -inf at 0 and below, inf at inf, NaN at NaN, else `y`.
    fn log_edges(&mut self, x: Val, y: Val) -> Val {
        let (zero, inf, minus) = (self.b.f32(0.0), self.b.f32(f32::INFINITY), self.b.f32(f32::NEG_INFINITY));
        let positive = self.b.cmp(Cmp::FLt, zero, x);
        let finite = self.b.cmp(Cmp::FLt, x, inf);
        let number = self.b.cmp(Cmp::FEq, x, x);
        let y = self.b.select(finite, y, x);
        let low = self.b.select(number, minus, x);
        self.b.select(positive, y, low)
    }

    pub(super) fn log(&mut self, x: Val) -> Val {
        let (e, f) = self.split(x);
        let (square, p) = (self.b.bin(Bin::FMul, f, f), self.poly(f, &LN));
        let tail = self.b.bin(Bin::FMul, square, p);
        let [high, low] = LN2.map(|c| self.b.f32(c));
        let low = self.b.fma(e, low, tail);
        let near = self.b.bin(Bin::FAdd, f, low);
        let y = self.b.fma(e, high, near);
        self.log_edges(x, y)
    }

    pub(super) fn log2(&mut self, x: Val) -> Val {
        let (e, f) = self.split(x);
        let (square, p) = (self.b.bin(Bin::FMul, f, f), self.poly(f, &LB));
        let tail = self.b.bin(Bin::FMul, square, p);
        let (rest, log2e) = (self.b.f32(1.925_963e-8), self.b.f32(std::f32::consts::LOG2_E));
        let low = self.b.fma(f, rest, tail);
        let near = self.b.fma(f, log2e, low);
        let y = self.b.bin(Bin::FAdd, e, near);
        self.log_edges(x, y)
    }

    /// The magnitude of `y` with the sign of `x`.
    fn signed(&mut self, y: Val, x: Val) -> Val {
        let bits = self.b.cast(Cast::Bits, Ty::I32, x);
        let sign = self.b.bin_int(Bin::And, bits, i64::from(i32::MIN));
        let y = self.b.cast(Cast::Bits, Ty::I32, y);
        let y = self.b.bin(Bin::Or, y, sign);
        self.b.cast(Cast::Bits, Ty::F32, y)
    }

    pub(super) fn tanh(&mut self, x: Val) -> Val {
        let size = self.b.un(Un::FAbs, x);
        let z = self.b.bin(Bin::FMul, x, x);
        let (zs, p) = (self.b.bin(Bin::FMul, z, size), self.poly(z, &TANH));
        let near = self.b.fma(zs, p, size);
        let double = self.b.bin(Bin::FAdd, size, size);
        let e = self.exp(double);
        let (one, two, limit) = (self.b.f32(1.0), self.b.f32(2.0), self.b.f32(0.625));
        let below = self.b.bin(Bin::FAdd, e, one);
        let part = self.b.bin(Bin::FDiv, two, below);
        let far = self.b.bin(Bin::FSub, one, part);
        let close = self.b.cmp(Cmp::FLt, size, limit);
        let y = self.b.select(close, near, far);
        self.signed(y, x)
    }

    pub(super) fn sigmoid(&mut self, x: Val) -> Val {
        let (zero, one) = (self.b.f32(0.0), self.b.f32(1.0));
        let size = self.b.un(Un::FAbs, x);
        let minus = self.b.un(Un::FNeg, size);
        let e = self.exp(minus);
        let negative = self.b.cmp(Cmp::FLt, x, zero);
        let top = self.b.select(negative, e, one);
        let below = self.b.bin(Bin::FAdd, one, e);
        self.b.bin(Bin::FDiv, top, below)
    }

    /// Sine (0) or cosine (1).
    pub(super) fn trig(&mut self, x: Val, quarter: i64) -> Val {
        let wide = self.b.cast(Cast::FExt, Ty::F64, x);
        let by = self.b.def(Ty::F64, Op::Float(std::f64::consts::FRAC_2_PI));
        let t = self.b.bin(Bin::FMul, wide, by);
        let n = self.b.un(Un::Rint, t);
        let minus = self.b.un(Un::FNeg, n);
        let mut r = wide;
        for part in HALF_PI {
            let part = self.b.def(Ty::F64, Op::Float(part));
            r = self.b.fma(minus, part, r);
        }
        let r = self.b.cast(Cast::FTrunc, Ty::F32, r);
        let n = self.b.cast(Cast::FTrunc, Ty::F32, n);
        let z = self.b.bin(Bin::FMul, r, r);
        let (zr, p) = (self.b.bin(Bin::FMul, z, r), self.poly(z, &SIN));
        let sine = self.b.fma(zr, p, r);
        let half = self.b.f32(-0.5);
        let (zz, p, low) = (self.b.bin(Bin::FMul, z, z), self.poly(z, &COS), self.b.bin(Bin::FMul, z, half));
        let tail = self.b.fma(zz, p, low);
        let one = self.b.f32(1.0);
        let cosine = self.b.bin(Bin::FAdd, one, tail);
        let q = self.b.cast(Cast::FToSi, Ty::I32, n);
        let q = self.b.bin_int(Bin::Add, q, quarter);
        let odd = self.b.bin_int(Bin::And, q, 1);
        let zero = self.b.i32(0);
        let even = self.b.cmp(Cmp::Eq, odd, zero);
        let y = self.b.select(even, sine, cosine);
        let second = self.b.bin_int(Bin::And, q, 2);
        let sign = self.b.bin_int(Bin::Shl, second, 30);
        let bits = self.b.cast(Cast::Bits, Ty::I32, y);
        let bits = self.b.bin(Bin::Xor, bits, sign);
        self.b.cast(Cast::Bits, Ty::F32, bits)
    }

    fn f64(&mut self, x: f64) -> Val {
        self.b.def(Ty::F64, Op::Float(x))
    }

    fn poly64(&mut self, x: Val, c: &[f64]) -> Val {
        let Some((last, rest)) = c.split_last() else { return x };
        let mut y = self.f64(*last);
        for c in rest.iter().rev() {
            let c = self.f64(*c);
            y = self.b.fma(y, x, c);
        }
        y
    }

    /// log2 of a positive finite f32, in f64 to 1e-13: 2 atanh((m - 1) / (m + 1)) of the significand.
    fn log2_wide(&mut self, x: Val) -> Val {
        let wide = self.b.cast(Cast::FExt, Ty::F64, x);
        let bits = self.b.cast(Cast::Bits, Ty::I64, wide);
        let root = std::f64::consts::FRAC_1_SQRT_2.to_bits() as i64;
        let e = self.b.bin_int(Bin::Sub, bits, root);
        let e = self.b.bin_int(Bin::AShr, e, 52);
        let moved = self.b.bin_int(Bin::Shl, e, 52);
        let m = self.b.bin(Bin::Sub, bits, moved);
        let m = self.b.cast(Cast::Bits, Ty::F64, m);
        let one = self.f64(1.0);
        let (above, below) = (self.b.bin(Bin::FSub, m, one), self.b.bin(Bin::FAdd, m, one));
        let s = self.b.bin(Bin::FDiv, above, below);
        let z = self.b.bin(Bin::FMul, s, s);
        let odd: Vec<f64> = (0..9).map(|n| 2.0 * std::f64::consts::LOG2_E / f64::from(2 * n + 1)).collect();
        let p = self.poly64(z, &odd);
        let e = self.b.cast(Cast::SiToF, Ty::F64, e);
        self.b.fma(s, p, e)
    }

    /// 2^t in f64 to 1e-12, t within -1000..1000.
    fn exp2_wide(&mut self, t: Val) -> Val {
        let n = self.b.un(Un::Rint, t);
        let f = self.b.bin(Bin::FSub, t, n);
        let mut term = 1.0;
        let c: Vec<f64> = (0..12)
            .map(|n| {
                term *= if n == 0 { 1.0 } else { std::f64::consts::LN_2 / f64::from(n) };
                term
            })
            .collect();
        let p = self.poly64(f, &c);
        let narrow = self.b.cast(Cast::FTrunc, Ty::F32, n);
        let n = self.b.cast(Cast::FToSi, Ty::I64, narrow);
        let biased = self.b.bin_int(Bin::Add, n, 1023);
        let bits = self.b.bin_int(Bin::Shl, biased, 52);
        let factor = self.b.cast(Cast::Bits, Ty::F64, bits);
        self.b.bin(Bin::FMul, p, factor)
    }

    /// x^y, through f64.
    pub(super) fn pow(&mut self, x: Val, y: Val) -> Val {
        let (zero, one, infinity) = (self.b.f32(0.0), self.b.f32(1.0), self.b.f32(f32::INFINITY));
        let size = self.b.un(Un::FAbs, x);
        let (is_zero, is_infinite) = (self.b.cmp(Cmp::FEq, size, zero), self.b.cmp(Cmp::FEq, size, infinity));
        let log = self.log2_wide(size);
        let (low, high) = (self.f64(f64::NEG_INFINITY), self.f64(f64::INFINITY));
        let log = self.b.select(is_zero, low, log);
        let log = self.b.select(is_infinite, high, log);
        let wide = self.b.cast(Cast::FExt, Ty::F64, y);
        let t = self.b.bin(Bin::FMul, wide, log);
        let (least, most) = (self.f64(-1000.0), self.f64(1000.0));
        let (small, large) = (self.b.cmp(Cmp::FLt, t, least), self.b.cmp(Cmp::FLt, most, t));
        let t = self.b.select(small, least, t);
        let t = self.b.select(large, most, t);
        let p = self.exp2_wide(t);
        let p = self.b.cast(Cast::FTrunc, Ty::F32, p);
        let number = self.b.cmp(Cmp::FEq, t, t);
        let nan = self.b.f32(f32::NAN);
        let p = self.b.select(number, p, nan);
        let p = self.signed_power(x, y, p);
        let (to_zero, of_one) = (self.b.cmp(Cmp::FEq, y, zero), self.b.cmp(Cmp::FEq, x, one));
        let trivial = self.b.bin(Bin::Or, to_zero, of_one);
        self.b.select(trivial, one, p)
    }

    /// The power of a negative number from that of its magnitude: NaN unless y is an integer, negative where it is odd.
    fn signed_power(&mut self, x: Val, y: Val, p: Val) -> Val {
        let (zero, half, nan) = (self.b.f32(0.0), self.b.f32(0.5), self.b.f32(f32::NAN));
        let near = self.b.un(Un::Rint, y);
        let integer = self.b.cmp(Cmp::FEq, near, y);
        let halved = self.b.bin(Bin::FMul, y, half);
        let near = self.b.un(Un::Rint, halved);
        let odd = self.b.cmp(Cmp::FNe, near, halved);
        let minus = self.b.un(Un::FNeg, p);
        let with_sign = self.b.select(odd, minus, p);
        let of_negative = self.b.select(integer, with_sign, nan);
        let negative = self.b.cmp(Cmp::FLt, x, zero);
        self.b.select(negative, of_negative, p)
    }
}
