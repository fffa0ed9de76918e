//! Operations on the values of a warp: one of each lane, in the low bits of 64, zeros above.
//!
//! Comes in: operands. Goes out: results. What holds: ints wrap; floats are rounded once; a NaN that is made here or loses
//! its type is the canonical one of PTX (0x7FFF, 0x7FFFFFFF). Not here: memory.

use half::{bf16, f16};

use super::{Exec, Trouble, trouble};
use crate::simt_ir::{Bin, Cast, Cmp, Ty, Un};

/// A value in each lane.
pub(super) type Lanes = [u64; 32];
/// All lanes of a warp.
pub(super) const ALL: u32 = u32::MAX;

/// The lanes of a mask.
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| mask >> l & 1 == 1)
}

const fn width(ty: Ty) -> u32 {
    match ty {
        Ty::I1 => 1,
        _ => ty.bytes() * 8,
    }
}

/// The bits that a value of a type may have.
pub(super) const fn bits_of(ty: Ty) -> u64 {
    u64::MAX >> (64 - width(ty))
}

/// As a signed int.
fn signed(x: u64, ty: Ty) -> i64 {
    let above = 64 - width(ty);
    ((x << above) as i64) >> above
}

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn d(x: u64) -> f64 {
    f64::from_bits(x)
}

/// The bits of a float of a type; a NaN becomes the canonical one.
pub(super) fn float_bits(ty: Ty, x: f64) -> u64 {
    match ty {
        Ty::F64 => x.to_bits(),
        Ty::F16 if x.is_nan() => 0x7FFF,
        Ty::F16 => u64::from(f16::from_f64(x).to_bits()),
        _ if x.is_nan() => 0x7FFF_FFFF,
        _ => u64::from((x as f32).to_bits()),
    }
}

/// A float as f64.
fn float(ty: Ty, x: u64) -> f64 {
    match ty {
        Ty::F64 => d(x),
        Ty::F16 => f16::from_bits(x as u16).to_f64(),
        _ => f64::from(f(x)),
    }
}

fn map1(a: &Lanes, f: impl Fn(u64) -> u64) -> Lanes {
    std::array::from_fn(|l| f(a[l]))
}

fn map2(a: &Lanes, b: &Lanes, f: impl Fn(u64, u64) -> u64) -> Lanes {
    std::array::from_fn(|l| f(a[l], b[l]))
}

/// Two floats. An f16 is computed in f32, which has more than twice its bits: rounding twice is rounding once.
fn floats(
    ty: Ty,
    a: &Lanes,
    b: &Lanes,
    of32: impl Fn(f32, f32) -> f32,
    of64: impl Fn(f64, f64) -> f64,
) -> Lanes {
    let half = |x: u64| f16::from_bits(x as u16).to_f32();
    match ty {
        Ty::F64 => map2(a, b, |x, y| of64(d(x), d(y)).to_bits()),
        Ty::F16 => map2(a, b, |x, y| float_bits(ty, f64::from(of32(half(x), half(y))))),
        _ => map2(a, b, |x, y| u64::from(of32(f(x), f(y)).to_bits())),
    }
}

/// The larger; of a number and NaN the number; +0 is above -0.
fn larger(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() {
        return if x.is_nan() { y } else { x };
    }
    if x > y || (x == y && x.is_sign_positive()) { x } else { y }
}

/// One arm for each operation. Errors: a divisor of 0, a shift by the width or more.
pub(super) fn bin(op: Bin, ty: Ty, a: &Lanes, b: &Lanes, mask: u32) -> Exec<Lanes> {
    let keep = bits_of(ty);
    let ints = |f: &dyn Fn(i64, i64) -> i64| map2(a, b, |x, y| f(signed(x, ty), signed(y, ty)) as u64 & keep);
    let refuse = |bad: &dyn Fn(u64) -> bool, why: &str| match lanes(mask).find(|l| bad(b[*l])) {
        Some(l) => Err(Trouble { lane: Some(l), why: why.into() }),
        None => Ok(()),
    };
    if matches!(op, Bin::Shl | Bin::LShr | Bin::AShr) {
        refuse(&|y| y >= u64::from(width(ty)), "a shift by the width of the value or more")?;
    }
    if op == Bin::SDiv {
        refuse(&|y| y == 0, "a division by 0")?;
    }
    Ok(match op {
        Bin::Add => map2(a, b, |x, y| x.wrapping_add(y) & keep),
        Bin::Sub => map2(a, b, |x, y| x.wrapping_sub(y) & keep),
        Bin::Mul => map2(a, b, |x, y| x.wrapping_mul(y) & keep),
        Bin::SDiv => ints(&|x, y| if y == 0 { 0 } else { x.wrapping_div(y) }),
        Bin::And => map2(a, b, |x, y| x & y),
        Bin::Or => map2(a, b, |x, y| x | y),
        Bin::Xor => map2(a, b, |x, y| x ^ y),
        Bin::Shl => map2(a, b, |x, y| x.wrapping_shl(y as u32) & keep),
        Bin::LShr => map2(a, b, |x, y| x.wrapping_shr(y as u32)),
        Bin::AShr => map2(a, b, |x, y| signed(x, ty).wrapping_shr(y as u32) as u64 & keep),
        Bin::SMin => ints(&|x, y| x.min(y)),
        Bin::SMax => ints(&|x, y| x.max(y)),
        Bin::FAdd => floats(ty, a, b, |x, y| x + y, |x, y| x + y),
        Bin::FSub => floats(ty, a, b, |x, y| x - y, |x, y| x - y),
        Bin::FMul => floats(ty, a, b, |x, y| x * y, |x, y| x * y),
        Bin::FDiv => floats(ty, a, b, |x, y| x / y, |x, y| x / y),
        Bin::FMax => map2(a, b, |x, y| float_bits(ty, larger(float(ty, x), float(ty, y)))),
    })
}

/// `a * b + c`, rounded once.
pub(super) fn fma(ty: Ty, a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    match ty {
        Ty::F64 => std::array::from_fn(|l| d(a[l]).mul_add(d(b[l]), d(c[l])).to_bits()),
        // The product of two f16 is exact in f64, and so is its sum with a third but for what cannot change a half.
        Ty::F16 => {
            std::array::from_fn(|l| float_bits(ty, float(ty, a[l]).mul_add(float(ty, b[l]), float(ty, c[l]))))
        }
        _ => std::array::from_fn(|l| u64::from(f(a[l]).mul_add(f(b[l]), f(c[l])).to_bits())),
    }
}

/// Zero of the same sign for a subnormal.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// Errors: an operation that this type does not have.
pub(super) fn un(op: Un, ty: Ty, a: &Lanes) -> Exec<Lanes> {
    let sign = 1 << (width(ty) - 1);
    let rounded = |f: fn(f64) -> f64| map1(a, |x| float_bits(ty, f(float(ty, x))));
    Ok(match op {
        Un::FNeg => map1(a, |x| x ^ sign),
        Un::FAbs => map1(a, |x| x & !sign),
        // The root of an f32 or f16, rounded to f64 and then to its type, is rounded correctly: f64 has twice the bits.
        Un::Sqrt => rounded(f64::sqrt),
        Un::Floor => rounded(f64::floor),
        Un::Ceil => rounded(f64::ceil),
        Un::Rint => rounded(f64::round_ties_even),
        Un::Ex2 if ty == Ty::F32 => map1(a, |x| {
            let y = f64::from(flush(f(x))).exp2() as f32;
            u64::from(flush(y).to_bits())
        }),
        Un::Ex2 => return trouble("ex2 is of f32"),
    })
}

/// A comparison of values of a type.
pub(super) fn cmp(op: Cmp, ty: Ty, a: &Lanes, b: &Lanes) -> Lanes {
    let ints = |f: fn(&i64, &i64) -> bool| map2(a, b, |x, y| u64::from(f(&signed(x, ty), &signed(y, ty))));
    let floats = |f: fn(&f64, &f64) -> bool| map2(a, b, |x, y| u64::from(f(&float(ty, x), &float(ty, y))));
    match op {
        Cmp::Eq => ints(i64::eq),
        Cmp::Ne => ints(i64::ne),
        Cmp::Slt => ints(i64::lt),
        Cmp::Sle => ints(i64::le),
        Cmp::Ult => map2(a, b, |x, y| u64::from(x < y)),
        Cmp::FEq => floats(f64::eq),
        Cmp::FNe => floats(f64::ne),
        Cmp::FLt => floats(f64::lt),
        Cmp::FLe => floats(f64::le),
    }
}

/// A change of type.
pub(super) fn cast(cast: Cast, from: Ty, to: Ty, a: &Lanes) -> Lanes {
    let keep = bits_of(to);
    match cast {
        Cast::SExt => map1(a, |x| signed(x, from) as u64 & keep),
        Cast::ZExt | Cast::Bits => *a,
        Cast::Trunc => map1(a, |x| x & keep),
        Cast::SiToF if to == Ty::F32 => map1(a, |x| u64::from((signed(x, from) as f32).to_bits())),
        Cast::SiToF => map1(a, |x| float_bits(to, signed(x, from) as f64)),
        Cast::FToSi if to == Ty::I64 => map1(a, |x| f(x) as i64 as u64),
        Cast::FToSi => map1(a, |x| u64::from(f(x) as i32 as u32)),
        Cast::FExt | Cast::FTrunc => map1(a, |x| float_bits(to, float(from, x))),
        Cast::ToBf16 => map1(a, to_bf16),
    }
}

/// The bits of an f32 as a bf16.
fn to_bf16(x: u64) -> u64 {
    let x = f(x);
    if x.is_nan() { 0x7FFF } else { u64::from(bf16::from_f32(x).to_bits()) }
}

/// Two f32 as 16-bit floats, the first in the low half.
pub(super) fn pack(is_bf16: bool, low: &Lanes, high: &Lanes) -> Lanes {
    let one = |x: u64| if is_bf16 { to_bf16(x) } else { float_bits(Ty::F16, f64::from(f(x))) };
    map2(low, high, |x, y| one(x) | one(y) << 16)
}
