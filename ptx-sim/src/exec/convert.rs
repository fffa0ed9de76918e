//! Conversions.
//!
//! Comes in: a decoded `cvt`. Goes out: a row. What holds: one rounding; float to integer saturates as the machine does and
//! a NaN becomes 0; with `.sat` floats end in [0, 1].

use half::bf16;

use super::fp::{self, decode, encode, flush, round};
use super::warp::{Warp, lanes};
use crate::fault::Exec;
use crate::isa::*;

pub(crate) fn cvt(w: &mut Warp, c: &Cvt, m: u32) -> Exec<()> {
    let keep = u64::MAX >> (64 - c.d_bits);
    if let Some(b) = c.b {
        let fast = c.to == Ty::Bf16x2 && c.rnd == Rnd::Nearest && !c.relu && !c.satfinite;
        if fast {
            return w.map2(c.d, c.a, b, m, |x, y| pair_bf16(x) << 16 | pair_bf16(y));
        }
        let bits = c.to.bits() / 2;
        return w.map2(c.d, c.a, b, m, |x, y| half_of(c, x) << bits | half_of(c, y));
    }
    if c.from.integer() {
        return from_int(w, c, keep, m);
    }
    match (c.from, c.to) {
        (Ty::F16x2, Ty::E4m3x2 | Ty::E5m2x2) => w.map1(c.d, c.a, m, |x| {
            let one = |h: u64| u64::from(fp::encode8(relu(c, decode(h, Ty::F16)), c.to == Ty::E4m3x2));
            one(x >> 16 & 0xFFFF) << 8 | one(x & 0xFFFF)
        }),
        (Ty::E4m3x2 | Ty::E5m2x2, _) => w.map1(c.d, c.a, m, |x| {
            let e4m3 = c.from == Ty::E4m3x2;
            let one = |h: u64| encode(relu(c, fp::decode8(h as u8, e4m3)), Ty::F16, Rnd::Nearest);
            one(x >> 8 & 0xFF) << 16 | one(x & 0xFF)
        }),
        (_, to) if to.integer() => w.map1(c.d, c.a, m, |x| to_int(c, source(c, x)) & keep),
        (Ty::F32, Ty::F32) | (Ty::F64, Ty::F64) if c.integral.is_none() && !c.sat && !c.ftz => {
            w.map1(c.d, c.a, m, |x| x & c.to.mask())
        }
        _ => w.map1(c.d, c.a, m, |x| to_float(c, source(c, x)) & keep),
    }
}

#[inline]
fn pair_bf16(x: u64) -> u64 {
    let v = f32::from_bits(x as u32);
    if v.is_nan() { 0x7FFF } else { u64::from(bf16::from_f32(v).to_bits()) }
}

fn relu(c: &Cvt, x: f64) -> f64 {
    if c.relu && x < 0.0 { 0.0 } else { x }
}

/// One half of a packed result.
fn half_of(c: &Cvt, x: u64) -> u64 {
    let x = relu(c, f64::from(f32::from_bits(x as u32)));
    match c.to {
        Ty::E4m3x2 | Ty::E5m2x2 => u64::from(fp::encode8(x, c.to == Ty::E4m3x2)),
        to => {
            let max = if to == Ty::F16x2 { fp::F16.max } else { fp::BF16.max };
            let x = if c.satfinite && !x.is_nan() { x.clamp(-max, max) } else { x };
            encode(x, to, c.rnd)
        }
    }
}

fn source(c: &Cvt, bits: u64) -> f64 {
    if c.from == Ty::F32 && c.ftz {
        return f64::from(flush(f32::from_bits(bits as u32)));
    }
    decode(bits, c.from)
}

fn integral(x: f64, rnd: Rnd) -> f64 {
    match rnd {
        Rnd::Zero => x.trunc(),
        Rnd::Down => x.floor(),
        Rnd::Up => x.ceil(),
        _ => x.round_ties_even(),
    }
}

fn to_int(c: &Cvt, x: f64) -> u64 {
    if x.is_nan() {
        return 0;
    }
    let whole = integral(x, c.integral.unwrap_or(Rnd::Zero));
    let bits = c.to.bits();
    if c.to.signed() {
        let top = i64::MAX >> (64 - bits);
        return (whole as i64).clamp(-top - 1, top) as u64;
    }
    (whole as u64).min(c.to.mask())
}

fn to_float(c: &Cvt, x: f64) -> u64 {
    let mut x = match c.integral {
        Some(rnd) => integral(x, rnd),
        None => x,
    };
    if c.sat {
        x = if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) };
    }
    x = relu(c, x);
    if c.to == Ty::Tf32 {
        return if x.is_nan() {
            0x7FFF_FFFF
        } else {
            u64::from((round(x, fp::TF32, c.rnd) as f32).to_bits())
        };
    }
    let bits = encode(x, c.to, c.rnd);
    if c.to == Ty::F32 && c.ftz { u64::from(flush(f32::from_bits(bits as u32)).to_bits()) } else { bits }
}

fn from_int(w: &mut Warp, c: &Cvt, keep: u64, m: u32) -> Exec<()> {
    let shift = 64 - c.from.bits();
    let x = *w.get(c.a, m)?;
    let out = w.slot(c.d, m)?;
    for l in lanes(m) {
        let value = if c.from.signed() {
            i128::from(((x[l] << shift) as i64) >> shift)
        } else {
            i128::from(x[l] & c.from.mask())
        };
        out[l] = int_to(c, value) & keep;
    }
    Ok(())
}

fn int_to(c: &Cvt, value: i128) -> u64 {
    if c.to.integer() {
        let top = c.to.mask();
        let value = match (c.sat, c.to.signed()) {
            (false, _) => value,
            (true, true) => value.clamp(-i128::from(top >> 1) - 1, i128::from(top >> 1)),
            (true, false) => value.clamp(0, i128::from(top)),
        };
        // A signed narrow result fills a wider register with its sign.
        return if c.to.signed() {
            let shift = 64 - c.to.bits();
            ((((value as u64) << shift) as i64) >> shift) as u64
        } else {
            value as u64 & top
        };
    }
    if c.to == Ty::F32 && c.rnd == Rnd::Nearest {
        return u64::from((value as f32).to_bits());
    }
    // An integer of 64 bits may not fit f64: the last bit says so.
    let near = value as f64;
    let rest = value - near as i128;
    let exact = fp::add_sticky(near, rest as f64);
    let x = if rest != 0 && exact == near {
        if near.to_bits() & 1 == 1 {
            near
        } else if (rest > 0) == (near > 0.0) {
            f64::from_bits(near.to_bits() + 1)
        } else {
            f64::from_bits(near.to_bits() - 1)
        }
    } else {
        exact
    };
    if c.to == Ty::F64 {
        return near.to_bits();
    }
    let x = if c.sat { x.clamp(0.0, 1.0) } else { x };
    encode(x, c.to, c.rnd)
}
