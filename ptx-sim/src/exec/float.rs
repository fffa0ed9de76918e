//! Floating-point arithmetic.
//!
//! Comes in: an operation with its modifiers. Goes out: rows. What holds: add, sub, mul, div, fma and sqrt are rounded once,
//! in every rounding mode for f32; approximate functions are computed in f64 and rounded, so they are closer than the
//! machine's; `.ftz` flushes operands and results. NaNs come out canonical from f16, bf16 and min/max.

use super::fp::{self, add_sticky, decode, encode, flush};
use super::warp::Warp;
use crate::fault::{Exec, FaultKind, trouble};
use crate::isa::*;

/// A source operand as f64.
#[inline]
pub(crate) fn operand(bits: u64, ty: Ty, ftz: bool) -> f64 {
    if ty == Ty::F32 && ftz { f64::from(flush(f32::from_bits(bits as u32))) } else { decode(bits, ty) }
}

#[inline]
fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

#[inline]
fn b(x: f32) -> u64 {
    u64::from(x.to_bits())
}

/// Saturation, relu and flushing of a result.
#[inline]
fn finish(bits: u64, ty: Ty, mode: FMode) -> u64 {
    if ty != Ty::F32 {
        return finish_half(bits, ty, mode);
    }
    let mut x = f(bits);
    if mode.ftz {
        x = flush(x);
    }
    if mode.sat {
        x = if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 };
    }
    b(x)
}

fn finish_half(bits: u64, ty: Ty, mode: FMode) -> u64 {
    if !mode.sat && !mode.relu {
        return bits;
    }
    let x = decode(bits, ty);
    let x = match (x.is_nan(), mode.sat) {
        (true, true) => 0.0,
        (true, false) => return bits,
        (false, true) => x.clamp(0.0, 1.0),
        (false, false) => x.max(0.0),
    };
    encode(x, ty, Rnd::Nearest)
}

/// Applies a function of one half to both.
fn halves1(ty: Ty, x: u64, f: impl Fn(Ty, u64) -> u64) -> u64 {
    let half = if ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
    f(half, x & 0xFFFF) | f(half, x >> 16 & 0xFFFF) << 16
}

fn packed(ty: Ty) -> bool {
    matches!(ty, Ty::F16x2 | Ty::Bf16x2)
}

pub(crate) fn one(w: &mut Warp, op: F1, ty: Ty, mode: FMode, [d, a]: [Row; 2], m: u32) -> Exec<()> {
    match (op, ty) {
        (F1::Ex2, Ty::F32) => w.map1(d, a, m, |x| finish(b(exp2(operand(x, ty, mode.ftz))), ty, mode)),
        (F1::Neg, Ty::F32) if !mode.ftz => w.map1(d, a, m, |x| x & 0xFFFF_FFFF ^ 0x8000_0000),
        (F1::Abs, Ty::F32) if !mode.ftz => w.map1(d, a, m, |x| x & 0x7FFF_FFFF),
        _ if packed(ty) => w.map1(d, a, m, |x| halves1(ty, x, |half, x| scalar1(op, half, mode, x))),
        _ => w.map1(d, a, m, |x| scalar1(op, ty, mode, x)),
    }
}

fn exp2(x: f64) -> f32 {
    x.exp2() as f32
}

fn scalar1(op: F1, ty: Ty, mode: FMode, bits: u64) -> u64 {
    let sign = 1u64 << (ty.bits() - 1);
    let x = operand(bits, ty, mode.ftz);
    let value = match op {
        F1::Abs | F1::Neg => {
            let whole = if ty == Ty::F32 { b(x as f32) } else { bits & ty.mask() };
            return if op == F1::Abs { whole & !sign } else { whole ^ sign };
        }
        F1::Ex2 => x.exp2(),
        F1::Lg2 => x.log2(),
        F1::Rcp => 1.0 / x,
        F1::Rsqrt => 1.0 / x.sqrt(),
        F1::Sqrt => x.sqrt(),
        F1::Tanh => x.tanh(),
        F1::Sin => x.sin(),
        F1::Cos => x.cos(),
    };
    let bits = if ty == Ty::F32 { b(value as f32) } else { encode(value, ty, Rnd::Nearest) };
    finish(bits, ty, mode)
}

/// tidy: long match (the common cases first, then one arm for the rest).
pub(crate) fn two(w: &mut Warp, op: F2, ty: Ty, mode: FMode, [d, x, y]: [Row; 3], m: u32) -> Exec<()> {
    let plain = ty == Ty::F32 && mode.rnd == Rnd::Nearest && !mode.sat;
    if plain && !mode.ftz {
        match op {
            F2::Add => return w.map2(d, x, y, m, |p, q| b(f(p) + f(q))),
            F2::Sub => return w.map2(d, x, y, m, |p, q| b(f(p) - f(q))),
            F2::Mul => return w.map2(d, x, y, m, |p, q| b(f(p) * f(q))),
            _ => {}
        }
    }
    if plain && mode.ftz {
        match op {
            F2::Add => return w.map2(d, x, y, m, |p, q| b(flush(flush(f(p)) + flush(f(q))))),
            F2::Sub => return w.map2(d, x, y, m, |p, q| b(flush(flush(f(p)) - flush(f(q))))),
            F2::Mul => return w.map2(d, x, y, m, |p, q| b(flush(flush(f(p)) * flush(f(q))))),
            _ => {}
        }
    }
    if packed(ty) {
        let half = if ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
        return w.map2(d, x, y, m, |p, q| {
            scalar2(op, half, mode, p & 0xFFFF, q & 0xFFFF)
                | scalar2(op, half, mode, p >> 16 & 0xFFFF, q >> 16 & 0xFFFF) << 16
        });
    }
    w.map2(d, x, y, m, |p, q| scalar2(op, ty, mode, p, q))
}

fn scalar2(op: F2, ty: Ty, mode: FMode, p: u64, q: u64) -> u64 {
    let (x, y) = (operand(p, ty, mode.ftz), operand(q, ty, mode.ftz));
    if op == F2::CopySign {
        let sign = 1u64 << (ty.bits() - 1);
        return q & ty.mask() & !sign | p & sign;
    }
    if matches!(op, F2::Min | F2::Max) {
        let negative = mode.xorsign && (x.is_sign_negative() != y.is_sign_negative());
        let (x, y) = if mode.abs { (x.abs(), y.abs()) } else { (x, y) };
        let value = fp::least(x, y, mode.nan, op == F2::Max);
        let value = if mode.xorsign { value.copysign(if negative { -1.0 } else { 1.0 }) } else { value };
        return finish(encode(value, ty, Rnd::Nearest), ty, mode);
    }
    if ty == Ty::F64 {
        return match op {
            F2::Add => x + y,
            F2::Sub => x - y,
            F2::Mul => x * y,
            _ => x / y,
        }
        .to_bits();
    }
    let value = match op {
        F2::Add => add_sticky(x, y),
        F2::Sub => add_sticky(x, -y),
        F2::Mul => x * y,
        // The quotient of two f32 is never so close to a tie in f64 that its error matters.
        _ => x / y,
    };
    finish(encode(value, ty, mode.rnd), ty, mode)
}

pub(crate) fn fma(w: &mut Warp, ty: Ty, mode: FMode, r: [Row; 4], m: u32) -> Exec<()> {
    if ty == Ty::F32 && mode.rnd == Rnd::Nearest && !mode.sat {
        return if mode.ftz {
            w.map3(r, m, |x, y, z| b(flush(flush(f(x)).mul_add(flush(f(y)), flush(f(z))))))
        } else {
            w.map3(r, m, |x, y, z| b(f(x).mul_add(f(y), f(z))))
        };
    }
    if packed(ty) {
        let half = if ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
        return w.map3(r, m, |x, y, z| {
            scalar_fma(half, mode, x & 0xFFFF, y & 0xFFFF, z & 0xFFFF)
                | scalar_fma(half, mode, x >> 16 & 0xFFFF, y >> 16 & 0xFFFF, z >> 16 & 0xFFFF) << 16
        });
    }
    if ty == Ty::Tf32 {
        return trouble(FaultKind::Value, "no arithmetic on .tf32");
    }
    w.map3(r, m, |x, y, z| scalar_fma(ty, mode, x, y, z))
}

fn scalar_fma(ty: Ty, mode: FMode, x: u64, y: u64, z: u64) -> u64 {
    let (x, y, z) = (operand(x, ty, mode.ftz), operand(y, ty, mode.ftz), operand(z, ty, mode.ftz));
    if ty == Ty::F64 {
        return x.mul_add(y, z).to_bits();
    }
    // The product of two f32 is exact in f64.
    finish(encode(add_sticky(x * y, z), ty, mode.rnd), ty, mode)
}
