//! Scalar conversion between f32 and the storage types, bit for bit what the vector instructions do.
//!
//! In: the bits of one element. Out: an f32, or the bits nearest to one (ties to even). Afterwards: NaN
//! stays NaN, made quiet; integers saturate. Not here: vectors (`simd.rs`), strides (`pack.rs`, `rows.rs`).

use attn_compiler::artifact::DType;
use attn_compiler::f8;

/// The storage type behind a code that an intrinsic received; `None` for a code that is not one.
pub(super) fn dtype_of(code: u32) -> Option<DType> {
    use DType::*;
    [F32, F16, Bf16, F64, I8, I32, I64, Bit, F8E4M3].into_iter().find(|&d| d as u32 == code)
}

/// binary16 to f32, exact.
#[inline]
pub(super) fn f16_to_f32(h: u16) -> f32 {
    let (sign, exp, frac) = ((h as u32 & 0x8000) << 16, (h as u32 >> 10) & 0x1f, h as u32 & 0x3ff);
    let magnitude = match (exp, frac) {
        (0, f) => (f as f32 * f32::from_bits(0x3380_0000)).to_bits(), // subnormal: f * 2^-24
        (31, 0) => 0x7f80_0000,
        (31, f) => 0x7fc0_0000 | (f << 13),
        (e, f) => ((e + 112) << 23) | (f << 13),
    };
    f32::from_bits(sign | magnitude)
}

/// f32 to binary16, nearest even; beyond 65504 (rounded) infinite.
#[inline]
pub(super) fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let (sign, magnitude) = ((bits >> 16) as u16 & 0x8000, bits & 0x7fff_ffff);
    let half = if magnitude > 0x7f80_0000 {
        0x7e00 | (magnitude >> 13) as u16 & 0x3ff
    } else if magnitude >= 0x4780_0000 {
        0x7c00 // 2^16 and beyond
    } else if magnitude < 0x3880_0000 {
        // Below 2^-14: adding 1/2 puts the units of 2^-24 at the bottom of the significand, rounded.
        ((f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()) as u16
    } else {
        let odd = (magnitude >> 13) & 1;
        ((magnitude - (112 << 23) + 0xfff + odd) >> 13) as u16
    };
    sign | half
}

/// bfloat16 to f32, exact.
#[inline]
pub(super) fn bf16_to_f32(b: u16) -> f32 {
    f32::from_bits((b as u32) << 16)
}

/// f32 to bfloat16, nearest even.
#[inline]
pub(super) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16 }
}

/// Reads element `idx` of storage type `dtype`.
///
/// # Safety
/// `src` must be valid for reading that element; alignment is not needed.
#[inline]
pub(super) unsafe fn read(src: *const u8, dtype: DType, idx: isize) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let p = src.offset(idx * dtype.size() as isize);
        match dtype {
            DType::F32 => p.cast::<f32>().read_unaligned(),
            DType::F16 => f16_to_f32(p.cast::<u16>().read_unaligned()),
            DType::Bf16 => bf16_to_f32(p.cast::<u16>().read_unaligned()),
            DType::F64 => p.cast::<f64>().read_unaligned() as f32,
            DType::I8 => p.cast::<i8>().read() as f32,
            DType::I32 => p.cast::<i32>().read_unaligned() as f32,
            DType::I64 => p.cast::<i64>().read_unaligned() as f32,
            DType::Bit => f32::from(u8::from(p.read() != 0)),
            DType::F8E4M3 => f8::decode(p.read()),
        }
    }
}

/// Writes `x` as element `idx` of storage type `dtype`: nearest even; integers saturate, NaN as 0; a bit is
/// `x != 0`.
///
/// # Safety
/// `dst` must be valid for writing that element; alignment is not needed.
#[inline]
pub(super) unsafe fn write(dst: *mut u8, dtype: DType, idx: isize, x: f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let p = dst.offset(idx * dtype.size() as isize);
        match dtype {
            DType::F32 => p.cast::<f32>().write_unaligned(x),
            DType::F16 => p.cast::<u16>().write_unaligned(f32_to_f16(x)),
            DType::Bf16 => p.cast::<u16>().write_unaligned(f32_to_bf16(x)),
            DType::F64 => p.cast::<f64>().write_unaligned(x as f64),
            DType::I8 => p.cast::<i8>().write(x.round_ties_even() as i8),
            DType::I32 => p.cast::<i32>().write_unaligned(x.round_ties_even() as i32),
            DType::I64 => p.cast::<i64>().write_unaligned(x.round_ties_even() as i64),
            DType::Bit => p.write(u8::from(x != 0.0)),
            DType::F8E4M3 => p.write(f8::encode(x)),
        }
    }
}
