//! [`Simd`] on AArch64 NEON: a vector is four registers.
//!
//! In: lanes. Out: lanes, the same bits as AVX-512 (but for the payload of a NaN, which the architectures
//! choose differently). binary16 goes through the scalar conversions: the vector ones are not stable Rust.

use super::convert::{f16_to_f32, f32_to_f16};
use super::simd::{LANES, Simd, simd_ops};
use std::arch::aarch64::*;
use std::array::from_fn;

/// NEON, which every AArch64 machine has.
pub(super) struct Neon;

/// Lanes 0..4, 4..8, 8..12 and 12..16.
type Quad = [float32x4_t; 4];
type MaskQuad = [uint32x4_t; 4];

/// Applies `$f` to each register.
macro_rules! each {
    ($f:expr, $($v:expr),+) => { [$f($($v[0]),+), $f($($v[1]),+), $f($($v[2]),+), $f($($v[3]),+)] };
}

/// Reinterprets for an integer operation.
macro_rules! as_int {
    ($f:expr, $($v:expr),+) => {
        [
            vreinterpretq_f32_s32($f($(vreinterpretq_s32_f32($v[0])),+)),
            vreinterpretq_f32_s32($f($(vreinterpretq_s32_f32($v[1])),+)),
            vreinterpretq_f32_s32($f($(vreinterpretq_s32_f32($v[2])),+)),
            vreinterpretq_f32_s32($f($(vreinterpretq_s32_f32($v[3])),+)),
        ]
    };
}

/// The lanes as an array.
#[inline(always)]
unsafe fn lanes(v: Quad) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    // SAFETY: `out` holds sixteen values.
    unsafe { Neon::store(out.as_mut_ptr(), v) };
    out
}

impl Simd for Neon {
    type V = Quad;
    type M = MaskQuad;
    const ROWS: usize = 6;
    const COLS: usize = 1;

    simd_ops! {
        splat(x: f32) -> Quad { [vdupq_n_f32(x); 4] }
        splat_bits(x: i32) -> Quad { [vreinterpretq_f32_s32(vdupq_n_s32(x)); 4] }
        load(p: *const f32) -> Quad { [vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))] }
        store(p: *mut f32, v: Quad) { {
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
            vst1q_f32(p.add(8), v[2]);
            vst1q_f32(p.add(12), v[3])
        } }
        load_first(p: *const f32, n: usize) -> Quad { {
            let mut a = [0f32; LANES];
            a.as_mut_ptr().copy_from_nonoverlapping(p, n.min(LANES));
            Self::load(a.as_ptr())
        } }
        store_first(p: *mut f32, v: Quad, n: usize) { p.copy_from_nonoverlapping(lanes(v).as_ptr(), n.min(LANES)) }
        load_f16(p: *const u16) -> Quad { {
            let a: [f32; LANES] = from_fn(|i| f16_to_f32(p.add(i).read_unaligned()));
            Self::load(a.as_ptr())
        } }
        store_f16(p: *mut u16, v: Quad) { {
            let a = lanes(v);
            (0..LANES).for_each(|i| p.add(i).write_unaligned(f32_to_f16(a[i])))
        } }
        load_bf16(p: *const u16) -> Quad { [widen_bf16(p), widen_bf16(p.add(4)), widen_bf16(p.add(8)), widen_bf16(p.add(12))] }
        store_bf16(p: *mut u16, v: Quad) { {
            vst1_u16(p, bf16_bits(v[0]));
            vst1_u16(p.add(4), bf16_bits(v[1]));
            vst1_u16(p.add(8), bf16_bits(v[2]));
            vst1_u16(p.add(12), bf16_bits(v[3]))
        } }
        add(a: Quad, b: Quad) -> Quad { each!(vaddq_f32, a, b) }
        sub(a: Quad, b: Quad) -> Quad { each!(vsubq_f32, a, b) }
        mul(a: Quad, b: Quad) -> Quad { each!(vmulq_f32, a, b) }
        div(a: Quad, b: Quad) -> Quad { each!(vdivq_f32, a, b) }
        fma(a: Quad, b: Quad, c: Quad) -> Quad { each!(vfmaq_f32, c, a, b) }
        fnma(a: Quad, b: Quad, c: Quad) -> Quad { each!(vfmsq_f32, c, a, b) }
        max(a: Quad, b: Quad) -> Quad { Self::select(each!(vcgtq_f32, a, b), a, b) }
        min(a: Quad, b: Quad) -> Quad { Self::select(each!(vcltq_f32, a, b), a, b) }
        round(a: Quad) -> Quad { each!(vrndnq_f32, a) }
        to_int(a: Quad) -> Quad {
            [
                vreinterpretq_f32_s32(vcvtnq_s32_f32(a[0])),
                vreinterpretq_f32_s32(vcvtnq_s32_f32(a[1])),
                vreinterpretq_f32_s32(vcvtnq_s32_f32(a[2])),
                vreinterpretq_f32_s32(vcvtnq_s32_f32(a[3])),
            ]
        }
        from_int(a: Quad) -> Quad {
            [
                vcvtq_f32_s32(vreinterpretq_s32_f32(a[0])),
                vcvtq_f32_s32(vreinterpretq_s32_f32(a[1])),
                vcvtq_f32_s32(vreinterpretq_s32_f32(a[2])),
                vcvtq_f32_s32(vreinterpretq_s32_f32(a[3])),
            ]
        }
        lt(a: Quad, b: Quad) -> MaskQuad { each!(vcltq_f32, a, b) }
        eq(a: Quad, b: Quad) -> MaskQuad { each!(vceqq_f32, a, b) }
        first(n: usize) -> MaskQuad { {
            let idx: [u32; LANES] = from_fn(|i| i as u32);
            let n = vdupq_n_u32(n.min(LANES) as u32);
            from_fn(|i| vcltq_u32(vld1q_u32(idx.as_ptr().add(4 * i)), n))
        } }
        select(m: MaskQuad, a: Quad, b: Quad) -> Quad { each!(vbslq_f32, m, a, b) }
        any(m: MaskQuad) -> bool { vmaxvq_u32(vorrq_u32(vorrq_u32(m[0], m[1]), vorrq_u32(m[2], m[3]))) != 0 }
        and(a: Quad, b: Quad) -> Quad { as_int!(vandq_s32, a, b) }
        xor(a: Quad, b: Quad) -> Quad { as_int!(veorq_s32, a, b) }
        add_i(a: Quad, b: Quad) -> Quad { as_int!(vaddq_s32, a, b) }
        sub_i(a: Quad, b: Quad) -> Quad { as_int!(vsubq_s32, a, b) }
        lt_u(a: Quad, b: Quad) -> MaskQuad {
            each!(|x, y| vcltq_u32(vreinterpretq_u32_f32(x), vreinterpretq_u32_f32(y)), a, b)
        }
        mul_even(a: Quad, b: Quad) -> Quad {
            each!(
                |x, y| {
                    let even = |v| vmovn_u64(vreinterpretq_u64_f32(v));
                    vreinterpretq_f32_u64(vmull_u32(even(x), even(y)))
                },
                a,
                b
            )
        }
        odd_to_even(a: Quad) -> Quad { each!(|x| vtrn2q_f32(x, x), a) }
        merge_even(a: Quad, b: Quad) -> Quad { each!(vtrn1q_f32, a, b) }
        transpose(rows: &mut [Quad; LANES]) { transpose16(rows) }
    }

    #[inline(always)]
    unsafe fn shl<const N: u32>(a: Quad) -> Quad {
        // SAFETY: register arithmetic; NEON is there by the trait's contract.
        unsafe {
            let count = vdupq_n_s32(N as i32);
            as_int!(|x| vshlq_s32(x, count), a)
        }
    }

    #[inline(always)]
    unsafe fn sra<const N: u32>(a: Quad) -> Quad {
        // SAFETY: register arithmetic; NEON is there by the trait's contract. A negative count shifts right.
        unsafe {
            let count = vdupq_n_s32(-(N as i32));
            as_int!(|x| vshlq_s32(x, count), a)
        }
    }
}

/// Four bfloat16 values as f32.
#[inline(always)]
unsafe fn widen_bf16(p: *const u16) -> float32x4_t {
    // SAFETY: the caller's pointer covers four values.
    unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p))) }
}

/// The bfloat16 bits of each lane: nearest even, NaN made quiet.
#[inline(always)]
unsafe fn bf16_bits(v: float32x4_t) -> uint16x4_t {
    // SAFETY: register arithmetic; NEON is there, as for every caller.
    unsafe {
        let bits = vreinterpretq_u32_f32(v);
        let high = vshrq_n_u32::<16>(bits);
        let odd = vandq_u32(high, vdupq_n_u32(1));
        let up = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
        let quiet = vorrq_u32(high, vdupq_n_u32(0x40));
        vmovn_u32(vbslq_u32(vceqq_f32(v, v), vshrq_n_u32::<16>(up), quiet))
    }
}

/// 16 x 16 transposition as sixteen of 4 x 4.
#[inline(always)]
unsafe fn transpose16(r: &mut [Quad; LANES]) {
    // SAFETY: register shuffles; NEON is there, as for every caller.
    unsafe {
        let old = *r;
        for rows in 0..4 {
            for cols in 0..4 {
                let [a, b, c, d] = from_fn(|i| old[4 * rows + i][cols]);
                let (ab, cd) = (vtrnq_f32(a, b), vtrnq_f32(c, d));
                r[4 * cols][rows] = vcombine_f32(vget_low_f32(ab.0), vget_low_f32(cd.0));
                r[4 * cols + 1][rows] = vcombine_f32(vget_low_f32(ab.1), vget_low_f32(cd.1));
                r[4 * cols + 2][rows] = vcombine_f32(vget_high_f32(ab.0), vget_high_f32(cd.0));
                r[4 * cols + 3][rows] = vcombine_f32(vget_high_f32(ab.1), vget_high_f32(cd.1));
            }
        }
    }
}
