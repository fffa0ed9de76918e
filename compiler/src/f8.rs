//! Eight-bit floats: e4m3 (Micikevicius et al. 2022), four bits of exponent with bias 7, three of significand.
//!
//! Comes in: bits, or an f32. Goes out: the other. What holds: there are no infinities, 0x7f and 0xff are NaN, the
//! largest magnitude is 448; conversion to bits rounds to nearest even and saturates (infinities too), NaN stays NaN.
//! Every value is an f32 exactly. Not here: the name and size of the type, which `artifact` knows.

/// The largest magnitude.
pub const MAX: f32 = 448.0;

/// The value of some bits.
pub const fn decode(bits: u8) -> f32 {
    let (exponent, fraction) = (((bits >> 3) & 15) as u32, (bits & 7) as u32);
    let magnitude = match (exponent, fraction) {
        (15, 7) => f32::NAN,
        // Multiples of 2^-9.
        (0, f) => f as f32 * 0.001953125,
        (e, f) => f32::from_bits((e + 120) << 23 | f << 20),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The bits of the nearest value.
pub fn encode(x: f32) -> u8 {
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    let x = x.abs();
    if x.is_nan() {
        return sign | 0x7f;
    }
    if x >= MAX {
        return sign | 0x7e;
    }
    // Below 2^-6 the steps are 2^-9, above each power of two has eight of them. A carry goes into the exponent.
    let bits = if x < 0.015625 {
        (x * 512.0).round_ties_even() as u32
    } else {
        let bits = x.to_bits();
        let odd = bits >> 20 & 1;
        ((bits + 0x7_ffff + odd) >> 20) - (120 << 3)
    };
    sign | bits.min(0x7e) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition: sign, 2^(e - 7), 1 + f / 8.
    fn exact(bits: u8) -> f64 {
        let (e, f) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
        let value = if e == 0 { f / 8.0 * 2f64.powi(-6) } else { (1.0 + f / 8.0) * 2f64.powi(e - 7) };
        if bits & 0x80 == 0 { value } else { -value }
    }

    #[test]
    fn every_value_is_what_the_format_says_and_comes_back() {
        for bits in 0..=255u8 {
            let x = decode(bits);
            if bits & 0x7f == 0x7f {
                assert!(x.is_nan());
                continue;
            }
            assert_eq!(f64::from(x), exact(bits), "{bits:#x}");
            assert_eq!(encode(x), bits, "{bits:#x}");
        }
        assert_eq!((decode(0x7e), decode(0x01), decode(0x08)), (448.0, 2f32.powi(-9), 2f32.powi(-6)));
    }

    #[test]
    fn values_between_go_to_the_nearest_ties_to_even() {
        for bits in 0..0x7e_u8 {
            let (a, b) = (decode(bits), decode(bits + 1));
            let middle = (a + b) / 2.0;
            let even = if bits & 1 == 0 { bits } else { bits + 1 };
            for (x, wanted) in [
                (middle, even),
                (f32::from_bits(middle.to_bits() - 1), bits),
                (f32::from_bits(middle.to_bits() + 1), bits + 1),
            ] {
                assert_eq!(encode(x), wanted, "{x:e} between {a} and {b}");
                assert_eq!(encode(-x), wanted | 0x80, "{:e}", -x);
            }
        }
    }

    #[test]
    fn what_is_too_large_saturates_and_nan_stays() {
        for x in [448.0, 460.0, 464.0, 1e30, f32::INFINITY] {
            assert_eq!((encode(x), encode(-x)), (0x7e, 0xfe), "{x}");
        }
        assert!(decode(encode(f32::NAN)).is_nan());
        assert_eq!((encode(0.0), encode(-0.0), encode(1e-10)), (0, 0x80, 0));
    }
}
