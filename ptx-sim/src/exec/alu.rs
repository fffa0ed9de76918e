//! Integer arithmetic, logic, comparison, selection and moves.
//!
//! Comes in: an operation, the lanes that execute it. Goes out: rows. What holds: operands are cut to the width of the
//! instruction's type before they are used, results are cut to it after. Not here: floats ([`super::float`]).

use super::float;
use super::warp::{Warp, lanes};
use crate::fault::{Exec, FaultKind, lane_trouble};
use crate::isa::*;

/// A value of `bits` bits with its sign.
#[inline]
fn sext(v: u64, bits: u32) -> i64 {
    ((v << (64 - bits)) as i64) >> (64 - bits)
}

pub(crate) fn int1(w: &mut Warp, f: Int1, ty: Ty, d: Row, a: Row, m: u32) -> Exec<()> {
    let (mask, bits) = (ty.mask(), ty.bits());
    match f {
        Int1::Abs => w.map1(d, a, m, |x| sext(x, bits).unsigned_abs() & mask),
        Int1::Neg => w.map1(d, a, m, |x| x.wrapping_neg() & mask),
        Int1::Not => w.map1(d, a, m, |x| !x & mask),
        Int1::Cnot => w.map1(d, a, m, |x| u64::from(x & mask == 0)),
        Int1::Popc => w.map1(d, a, m, |x| u64::from((x & mask).count_ones())),
        Int1::Clz => w.map1(d, a, m, |x| u64::from((x & mask).leading_zeros() - (64 - bits))),
        Int1::Brev => w.map1(d, a, m, |x| (x & mask).reverse_bits() >> (64 - bits)),
        Int1::Bfind { shift } => w.map1(d, a, m, |x| {
            let x = x & mask;
            let negative = ty.signed() && sext(x, bits) < 0;
            let x = if negative { !x & mask } else { x };
            match x {
                0 => 0xFFFF_FFFF,
                _ if shift => u64::from(x.leading_zeros() - (64 - bits)),
                _ => u64::from(63 - x.leading_zeros()),
            }
        }),
    }
}

/// tidy: long match (one arm for each operation and signedness).
pub(crate) fn int2(w: &mut Warp, f: Int2, ty: Ty, [d, a, b]: [Row; 3], m: u32) -> Exec<()> {
    let (mask, bits, signed) = (ty.mask(), ty.bits(), ty.signed());
    match f {
        Int2::Add { sat: false } => w.map2(d, a, b, m, |x, y| x.wrapping_add(y) & mask),
        Int2::Sub { sat: false } => w.map2(d, a, b, m, |x, y| x.wrapping_sub(y) & mask),
        Int2::Add { sat: true } => {
            w.map2(d, a, b, m, |x, y| u64::from((x as i32).saturating_add(y as i32) as u32))
        }
        Int2::Sub { sat: true } => {
            w.map2(d, a, b, m, |x, y| u64::from((x as i32).saturating_sub(y as i32) as u32))
        }
        Int2::MulLo => w.map2(d, a, b, m, |x, y| x.wrapping_mul(y) & mask),
        Int2::MulHi if signed => w.map2(d, a, b, m, |x, y| {
            ((i128::from(sext(x, bits)) * i128::from(sext(y, bits))) >> bits) as u64 & mask
        }),
        Int2::MulHi => {
            w.map2(d, a, b, m, |x, y| ((u128::from(x & mask) * u128::from(y & mask)) >> bits) as u64)
        }
        Int2::MulWide if signed => {
            let wide = u64::MAX >> (64 - 2 * bits);
            w.map2(d, a, b, m, |x, y| sext(x, bits).wrapping_mul(sext(y, bits)) as u64 & wide)
        }
        Int2::MulWide => w.map2(d, a, b, m, |x, y| (x & mask).wrapping_mul(y & mask)),
        Int2::Div | Int2::Rem => divide(w, matches!(f, Int2::Div), ty, [d, a, b], m),
        Int2::Min if signed => w.map2(d, a, b, m, |x, y| sext(x, bits).min(sext(y, bits)) as u64 & mask),
        Int2::Min => w.map2(d, a, b, m, |x, y| (x & mask).min(y & mask)),
        Int2::Max if signed => w.map2(d, a, b, m, |x, y| sext(x, bits).max(sext(y, bits)) as u64 & mask),
        Int2::Max => w.map2(d, a, b, m, |x, y| (x & mask).max(y & mask)),
        Int2::And => w.map2(d, a, b, m, |x, y| x & y & mask),
        Int2::Or => w.map2(d, a, b, m, |x, y| (x | y) & mask),
        Int2::Xor => w.map2(d, a, b, m, |x, y| (x ^ y) & mask),
        Int2::Shl => w.map2(d, a, b, m, |x, y| {
            let n = y as u32;
            if n >= bits { 0 } else { x << n & mask }
        }),
        Int2::Shr if signed => w.map2(d, a, b, m, |x, y| {
            let n = (y as u32).min(bits - 1);
            (sext(x, bits) >> n) as u64 & mask
        }),
        Int2::Shr => w.map2(d, a, b, m, |x, y| {
            let n = y as u32;
            if n >= bits { 0 } else { (x & mask) >> n }
        }),
    }
}

fn divide(w: &mut Warp, quotient: bool, ty: Ty, [d, a, b]: [Row; 3], m: u32) -> Exec<()> {
    let (mask, bits) = (ty.mask(), ty.bits());
    let divisors = *w.get(b, m)?;
    if let Some(l) = lanes(m).find(|l| divisors[*l] & mask == 0) {
        return lane_trouble(FaultKind::Value, l as u32, "division by zero gives no defined value");
    }
    w.map2(d, a, b, m, |x, y| {
        if y & mask == 0 {
            return 0;
        }
        let value = if ty.signed() {
            let (x, y) = (sext(x, bits), sext(y, bits));
            if quotient { x.wrapping_div(y) as u64 } else { x.wrapping_rem(y) as u64 }
        } else {
            let (x, y) = (x & mask, y & mask);
            if quotient { x / y } else { x % y }
        };
        value & mask
    })
}

/// tidy: long match (one arm for each operation).
pub(crate) fn int3(w: &mut Warp, f: Int3, ty: Ty, r: [Row; 4], m: u32) -> Exec<()> {
    let (mask, bits, signed) = (ty.mask(), ty.bits(), ty.signed());
    match f {
        Int3::MadLo => w.map3(r, m, |x, y, z| x.wrapping_mul(y).wrapping_add(z) & mask),
        Int3::MadHi { sat } => w.map3(r, m, |x, y, z| {
            let product = if signed {
                ((i128::from(sext(x, bits)) * i128::from(sext(y, bits))) >> bits) as u64
            } else {
                ((u128::from(x & mask) * u128::from(y & mask)) >> bits) as u64
            };
            if sat {
                return u64::from((product as i32).saturating_add(z as i32) as u32);
            }
            product.wrapping_add(z) & mask
        }),
        Int3::MadWide => {
            let wide = u64::MAX >> (64 - 2 * bits);
            w.map3(r, m, |x, y, z| {
                let product = if signed {
                    sext(x, bits).wrapping_mul(sext(y, bits)) as u64
                } else {
                    (x & mask).wrapping_mul(y & mask)
                };
                product.wrapping_add(z) & wide
            })
        }
        Int3::Sad => w.map3(r, m, |x, y, z| {
            let gap =
                if signed { sext(x, bits).abs_diff(sext(y, bits)) } else { (x & mask).abs_diff(y & mask) };
            gap.wrapping_add(z) & mask
        }),
        Int3::Bfe => w.map3(r, m, |x, y, z| bfe(x & mask, y as u32 & 0xFF, z as u32 & 0xFF, ty)),
        Int3::ShfL { clamp } => w.map3(r, m, |lo, hi, n| {
            let n = if clamp { (n as u32).min(32) } else { n as u32 & 31 };
            let both = (hi & 0xFFFF_FFFF) << 32 | (lo & 0xFFFF_FFFF);
            both.checked_shl(n).unwrap_or(0) >> 32 & 0xFFFF_FFFF
        }),
        Int3::ShfR { clamp } => w.map3(r, m, |lo, hi, n| {
            let n = if clamp { (n as u32).min(32) } else { n as u32 & 31 };
            ((hi & 0xFFFF_FFFF) << 32 | (lo & 0xFFFF_FFFF)) >> n & 0xFFFF_FFFF
        }),
        Int3::Lop3(lut) => w.map3(r, m, |x, y, z| {
            let mut out = 0;
            for n in (0..8).filter(|n| lut >> n & 1 == 1) {
                let pick = |v: u64, bit: u8| if n >> bit & 1 == 1 { v } else { !v };
                out |= pick(x, 2) & pick(y, 1) & pick(z, 0);
            }
            out & mask
        }),
        Int3::Prmt(mode) => w.map3(r, m, |x, y, z| prmt(x, y, z, mode)),
        Int3::Dp4a { a_signed, b_signed } => w.map3(r, m, |x, y, z| {
            let byte = |v: u64, n: u32, signed: bool| {
                let b = (v >> (8 * n)) as u8;
                if signed { i64::from(b as i8) } else { i64::from(b) }
            };
            let dot: i64 = (0..4).map(|n| byte(x, n, a_signed) * byte(y, n, b_signed)).sum();
            (dot as u64).wrapping_add(z) & 0xFFFF_FFFF
        }),
    }
}

fn bfe(x: u64, pos: u32, len: u32, ty: Ty) -> u64 {
    let msb = ty.bits() - 1;
    let sign_at = (pos + len).saturating_sub(1).min(msb);
    let sign = ty.signed() && len > 0 && x >> sign_at & 1 == 1;
    let mut out = 0;
    for i in 0..=msb {
        let bit = if i < len && pos + i <= msb { x >> (pos + i) & 1 } else { u64::from(sign) };
        out |= bit << i;
    }
    out
}

pub(crate) fn bfi(w: &mut Warp, ty: Ty, [d, a, b, c, e]: [Row; 5], m: u32) -> Exec<()> {
    let len = *w.get(e, m)?;
    let field = |pos: u32, len: u32| {
        let ones = if len >= 64 { u64::MAX } else { (1u64 << len) - 1 };
        if pos >= 64 { 0 } else { ones << pos }
    };
    let (x, y, pos) = (*w.get(a, m)?, *w.get(b, m)?, *w.get(c, m)?);
    let out = w.slot(d, m)?;
    for l in lanes(m) {
        let (p, n) = (pos[l] as u32 & 0xFF, len[l] as u32 & 0xFF);
        let mask = field(p, n) & ty.mask();
        out[l] = (y[l] & !mask | x[l].checked_shl(p).unwrap_or(0) & mask) & ty.mask();
    }
    Ok(())
}

fn prmt(x: u64, y: u64, z: u64, mode: Prmt) -> u64 {
    let both = (y & 0xFFFF_FFFF) << 32 | (x & 0xFFFF_FFFF);
    let s = (z & 3) as u32;
    let mut out = 0;
    for n in 0..4u32 {
        let (select, replicate) = match mode {
            Prmt::Generic => {
                let nibble = (z >> (4 * n)) as u32;
                (nibble & 7, nibble & 8 != 0)
            }
            Prmt::F4e => (s + n, false),
            Prmt::B4e => ((8 + s - n) & 7, false),
            Prmt::Rc8 => (s, false),
            Prmt::Ecl => (n.max(s), false),
            Prmt::Ecr => (n.min(s), false),
            Prmt::Rc16 => ((s & 1) * 2 + (n & 1), false),
        };
        let byte = both >> (8 * select) & 0xFF;
        let byte = if !replicate {
            byte
        } else if byte & 0x80 != 0 {
            0xFF
        } else {
            0
        };
        out |= byte << (8 * n);
    }
    out
}

/// add.cc, addc, sub.cc, subc. The flag is the carry out of an addition, the borrow of a subtraction.
pub(crate) fn carry(w: &mut Warp, op: [bool; 3], ty: Ty, [d, a, b]: [Row; 3], m: u32) -> Exec<()> {
    let [sub, use_cc, set_cc] = op;
    let (x, y) = (*w.get(a, m)?, *w.get(b, m)?);
    let (old, mask) = (w.carry, u128::from(ty.mask()));
    let mut flags = 0;
    let out = w.slot(d, m)?;
    for l in lanes(m) {
        let c = u128::from(use_cc && old >> l & 1 == 1);
        let (x, y) = (u128::from(x[l]) & mask, u128::from(y[l]) & mask);
        let (value, flag) =
            if sub { (x.wrapping_sub(y + c), x < y + c) } else { (x + y + c, x + y + c > mask) };
        out[l] = (value & mask) as u64;
        flags |= u32::from(flag) << l;
    }
    if set_cc {
        w.carry = w.carry & !m | flags;
    }
    Ok(())
}

/// setp and set.
pub(crate) fn compare(w: &mut Warp, s: &Setp, m: u32) -> Exec<()> {
    let (x, y) = (*w.get(s.a, m)?, *w.get(s.b, m)?);
    let mut bits = 0;
    for l in lanes(m) {
        let ordering = if s.ty.integer() {
            Some(if s.ty.signed() {
                sext(x[l], s.ty.bits()).cmp(&sext(y[l], s.ty.bits()))
            } else {
                (x[l] & s.ty.mask()).cmp(&(y[l] & s.ty.mask()))
            })
        } else {
            float::operand(x[l], s.ty, s.ftz).partial_cmp(&float::operand(y[l], s.ty, s.ftz))
        };
        bits |= u32::from(holds(s.cmp, ordering)) << l;
    }
    let third = match s.combine {
        Some((f, c)) => Some((f, w.pred(c, m)?)),
        None => None,
    };
    let with = |t: u32| match third {
        None => t,
        Some((Combine::And, c)) => t & c,
        Some((Combine::Or, c)) => t | c,
        Some((Combine::Xor, c)) => t ^ c,
    };
    if let Some(p) = s.p {
        w.set_pred(p, m, with(bits));
    }
    if let Some(q) = s.q {
        w.set_pred(q, m, with(!bits));
    }
    if let Some((to, d)) = s.set {
        let truth = if to == Ty::F32 { u64::from(1f32.to_bits()) } else { to.mask() };
        let bits = with(bits);
        let out = w.slot(d, m)?;
        lanes(m).for_each(|l| out[l] = if bits >> l & 1 == 1 { truth } else { 0 });
    }
    Ok(())
}

fn holds(cmp: Cmp, ordering: Option<std::cmp::Ordering>) -> bool {
    let Some(o) = ordering else {
        return matches!(cmp, Cmp::Equ | Cmp::Neu | Cmp::Ltu | Cmp::Leu | Cmp::Gtu | Cmp::Geu | Cmp::Nan);
    };
    match cmp {
        Cmp::Eq | Cmp::Equ => o.is_eq(),
        Cmp::Ne | Cmp::Neu => o.is_ne(),
        Cmp::Lt | Cmp::Ltu => o.is_lt(),
        Cmp::Le | Cmp::Leu => o.is_le(),
        Cmp::Gt | Cmp::Gtu => o.is_gt(),
        Cmp::Ge | Cmp::Geu => o.is_ge(),
        Cmp::Num => true,
        Cmp::Nan => false,
    }
}

pub(crate) fn selp(w: &mut Warp, ty: Ty, [d, a, b]: [Row; 3], p: PSrc, m: u32) -> Exec<()> {
    let bits = w.pred(p, m)?;
    // Only the chosen operand of a lane is read.
    let x = *w.get(a, m & bits)?;
    let y = *w.get(b, m & !bits)?;
    let out = w.slot(d, m)?;
    lanes(m).for_each(|l| out[l] = if bits >> l & 1 == 1 { x[l] } else { y[l] } & ty.mask());
    Ok(())
}

/// d = c >= 0 ? a : b.
pub(crate) fn slct(w: &mut Warp, ty: Ty, float: bool, r: [Row; 4], m: u32) -> Exec<()> {
    w.map3(r, m, |x, y, z| {
        let first = if float { f32::from_bits(z as u32) >= 0.0 } else { z as u32 as i32 >= 0 };
        (if first { x } else { y }) & ty.mask()
    })
}

pub(crate) fn pack(w: &mut Warp, d: Row, parts: &[Row], bits: u32, m: u32) -> Exec<()> {
    let mut values = [0u64; 32];
    let mask = u64::MAX >> (64 - bits);
    for (n, row) in parts.iter().enumerate() {
        let part = w.get(*row, m)?;
        for l in 0..32 {
            values[l] |= (part[l] & mask) << (n as u32 * bits);
        }
    }
    w.put(d, m, &values)
}

pub(crate) fn unpack(w: &mut Warp, d: &[Option<Row>], a: Row, bits: u32, m: u32) -> Exec<()> {
    let whole = *w.get(a, m)?;
    let mask = u64::MAX >> (64 - bits);
    for (n, row) in d.iter().enumerate() {
        if let Some(row) = row {
            w.put(*row, m, &whole.map(|x| x >> (n as u32 * bits) & mask))?;
        }
    }
    Ok(())
}
