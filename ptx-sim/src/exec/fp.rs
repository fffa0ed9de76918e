//! Numbers: rounding to any format, halves, eight-bit floats.
//!
//! Comes in: f64 values and bits. Goes out: bits of a format. What holds: [`round`] is exact for every rounding mode, given
//! a value that is exact or carries a sticky last bit.

use half::{bf16, f16};

use crate::isa::{AtomOp, Rnd, Ty};

/// A binary format: bits of precision with the hidden one, least exponent of a normal number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub precision: i32,
    pub min_exp: i32,
    pub max: f64,
}

pub(crate) const F32: Format = Format { precision: 24, min_exp: -126, max: f32::MAX as f64 };
pub(crate) const F16: Format = Format { precision: 11, min_exp: -14, max: 65504.0 };
pub(crate) const BF16: Format = Format { precision: 8, min_exp: -126, max: 3.389_531_389_251_535_5e38 };
pub(crate) const TF32: Format = Format { precision: 11, min_exp: -126, max: 3.401_162_134_214_653e38 };
pub(crate) const E4M3: Format = Format { precision: 4, min_exp: -6, max: 448.0 };
pub(crate) const E5M2: Format = Format { precision: 3, min_exp: -14, max: 57344.0 };

/// `x` rounded to a format, as f64.
pub(crate) fn round(x: f64, format: Format, mode: Rnd) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exp = ((x.to_bits() >> 52 & 0x7FF) as i32 - 1023).max(format.min_exp);
    // Below: a power of two that is never subnormal in f64.
    let ulp = f64::from_bits(((exp - format.precision + 1 + 1023).max(1) as u64) << 52);
    let scaled = x / ulp;
    let whole = match mode {
        Rnd::Nearest => scaled.round_ties_even(),
        Rnd::Zero => scaled.trunc(),
        Rnd::Down => scaled.floor(),
        Rnd::Up => scaled.ceil(),
        Rnd::Away => scaled.round(),
    };
    let y = (whole * ulp).copysign(x);
    if y.abs() > format.max {
        let stays = match mode {
            Rnd::Zero => true,
            Rnd::Down => x > 0.0,
            Rnd::Up => x < 0.0,
            _ => false,
        };
        return if stays { format.max.copysign(x) } else { f64::INFINITY.copysign(x) };
    }
    y
}

/// `a + b` with a last bit that says whether the sum was exact: rounding it once more rounds the exact sum.
pub(crate) fn add_sticky(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    let back = sum - a;
    let err = (a - (sum - back)) + (b - back);
    if err == 0.0 || sum.to_bits() & 1 == 1 {
        return sum;
    }
    // Towards the exact value: away from zero if the error has the sign of the sum.
    if (err > 0.0) == (sum > 0.0) {
        f64::from_bits(sum.to_bits() + 1)
    } else {
        f64::from_bits(sum.to_bits() - 1)
    }
}

/// Bits of a 16 or 32 bit format as f64.
pub(crate) fn decode(bits: u64, ty: Ty) -> f64 {
    match ty {
        Ty::F16 | Ty::F16x2 => f16::from_bits(bits as u16).to_f64(),
        Ty::Bf16 | Ty::Bf16x2 => bf16::from_bits(bits as u16).to_f64(),
        Ty::F64 => f64::from_bits(bits),
        _ => f64::from(f32::from_bits(bits as u32)),
    }
}

/// The bits of a value in a format, rounded; a NaN becomes the canonical one.
pub(crate) fn encode(x: f64, ty: Ty, mode: Rnd) -> u64 {
    match ty {
        Ty::F64 => x.to_bits(),
        Ty::F16 | Ty::F16x2 => {
            if x.is_nan() {
                return 0x7FFF;
            }
            u64::from(f16::from_f64(round(x, F16, mode)).to_bits())
        }
        Ty::Bf16 | Ty::Bf16x2 => {
            if x.is_nan() {
                return 0x7FFF;
            }
            u64::from((round(x, BF16, mode) as f32).to_bits() >> 16)
        }
        _ => {
            if x.is_nan() {
                return 0x7FFF_FFFF;
            }
            u64::from((round(x, F32, mode) as f32).to_bits())
        }
    }
}

/// An eight-bit float as f64.
pub(crate) fn decode8(bits: u8, e4m3: bool) -> f64 {
    let (mant_bits, bias) = if e4m3 { (3, 7) } else { (2, 15) };
    let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
    let exp = i32::from(bits & 0x7F) >> mant_bits;
    let mant = f64::from(bits & ((1 << mant_bits) - 1));
    let scale = f64::from(1 << mant_bits);
    if e4m3 && bits & 0x7F == 0x7F {
        return f64::NAN;
    }
    if !e4m3 && exp == 31 {
        return if mant == 0.0 { sign * f64::INFINITY } else { f64::NAN };
    }
    if exp == 0 {
        sign * mant / scale * 2f64.powi(1 - bias)
    } else {
        sign * (1.0 + mant / scale) * 2f64.powi(exp - bias)
    }
}

/// The eight-bit float nearest to `x`, saturating.
pub(crate) fn encode8(x: f64, e4m3: bool) -> u8 {
    let (format, mant_bits, bias) = if e4m3 { (E4M3, 3, 7) } else { (E5M2, 2, 15) };
    if x.is_nan() {
        return 0x7F;
    }
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let y = round(x, format, Rnd::Nearest).abs().min(format.max);
    if y == 0.0 {
        return sign;
    }
    let exp = ((y.to_bits() >> 52) as i32 - 1023).max(1 - bias);
    let mant = (y / 2f64.powi(exp - mant_bits)) as u32;
    let whole = if mant >> mant_bits == 0 {
        mant
    } else {
        ((exp + bias) as u32) << mant_bits | mant & ((1 << mant_bits) - 1)
    };
    sign | whole as u8
}

/// Zero of the same sign for a subnormal f32.
pub(crate) fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// The smaller or larger of two; a NaN loses unless `nan`; -0 is below +0.
pub(crate) fn least(a: f64, b: f64, nan: bool, max: bool) -> f64 {
    if a.is_nan() || b.is_nan() {
        if nan || (a.is_nan() && b.is_nan()) {
            return f64::NAN;
        }
        return if a.is_nan() { b } else { a };
    }
    let a_first = if a == b { a.is_sign_negative() } else { a < b };
    if a_first == max { b } else { a }
}

/// add, min and max of atomics on floats.
pub(crate) fn combine(op: AtomOp, ty: Ty, old: u64, b: u64) -> u64 {
    if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
        let half = if ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
        let lo = combine(op, half, old & 0xFFFF, b & 0xFFFF);
        return lo | combine(op, half, old >> 16 & 0xFFFF, b >> 16 & 0xFFFF) << 16;
    }
    if ty == Ty::F32 && op == AtomOp::Add {
        return u64::from((f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits());
    }
    let (x, y) = (decode(old, ty), decode(b, ty));
    let value = match op {
        AtomOp::Min => least(x, y, false, false),
        AtomOp::Max => least(x, y, false, true),
        _ if ty == Ty::F64 => x + y,
        _ => add_sticky(x, y),
    };
    encode(value, ty, Rnd::Nearest)
}
