//! [`Simd`] in plain Rust: a vector is an array. For machines without a kernel of their own, and as the
//! plainest statement of what each operation means.
//!
//! In: lanes. Out: lanes, the same bits as the vector instruction sets. Not fast where `f32::mul_add` is a
//! library call.

use super::convert::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::simd::{LANES, Simd, simd_ops};
use std::array::from_fn;

/// No instruction set in particular.
pub(super) struct Portable;

type Lanes = [f32; LANES];

/// Applies a function of bits lane by lane.
#[inline(always)]
fn bits2(a: Lanes, b: Lanes, f: impl Fn(i32, i32) -> i32) -> Lanes {
    from_fn(|i| f32::from_bits(f(a[i].to_bits() as i32, b[i].to_bits() as i32) as u32))
}

impl Simd for Portable {
    type V = Lanes;
    type M = [bool; LANES];
    const ROWS: usize = 4;
    const COLS: usize = 1;

    simd_ops! {
        load(p: *const f32) -> Lanes { p.cast::<Lanes>().read_unaligned() }
        store(p: *mut f32, v: Lanes) { p.cast::<Lanes>().write_unaligned(v) }
        load_first(p: *const f32, n: usize) -> Lanes { from_fn(|i| if i < n { *p.add(i) } else { 0.0 }) }
        store_first(p: *mut f32, v: Lanes, n: usize) { p.copy_from_nonoverlapping(v.as_ptr(), n.min(LANES)) }
        load_f16(p: *const u16) -> Lanes { from_fn(|i| f16_to_f32(p.add(i).read_unaligned())) }
        store_f16(p: *mut u16, v: Lanes) { (0..LANES).for_each(|i| p.add(i).write_unaligned(f32_to_f16(v[i]))) }
        load_bf16(p: *const u16) -> Lanes { from_fn(|i| bf16_to_f32(p.add(i).read_unaligned())) }
        store_bf16(p: *mut u16, v: Lanes) { (0..LANES).for_each(|i| p.add(i).write_unaligned(f32_to_bf16(v[i]))) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Lanes {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn splat_bits(x: i32) -> Lanes {
        [f32::from_bits(x as u32); LANES]
    }
    #[inline(always)]
    unsafe fn add(a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn fnma(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        from_fn(|i| (-a[i]).mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn round(a: Lanes) -> Lanes {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn to_int(a: Lanes) -> Lanes {
        a.map(|x| f32::from_bits(x.round_ties_even() as i32 as u32))
    }
    #[inline(always)]
    unsafe fn from_int(a: Lanes) -> Lanes {
        a.map(|x| x.to_bits() as i32 as f32)
    }
    #[inline(always)]
    unsafe fn lt(a: Lanes, b: Lanes) -> Self::M {
        from_fn(|i| a[i] < b[i])
    }
    #[inline(always)]
    unsafe fn eq(a: Lanes, b: Lanes) -> Self::M {
        from_fn(|i| a[i] == b[i])
    }
    #[inline(always)]
    unsafe fn first(n: usize) -> Self::M {
        from_fn(|i| i < n)
    }
    #[inline(always)]
    unsafe fn select(m: Self::M, a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| if m[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn any(m: Self::M) -> bool {
        m.contains(&true)
    }
    #[inline(always)]
    unsafe fn and(a: Lanes, b: Lanes) -> Lanes {
        bits2(a, b, |x, y| x & y)
    }
    #[inline(always)]
    unsafe fn xor(a: Lanes, b: Lanes) -> Lanes {
        bits2(a, b, |x, y| x ^ y)
    }
    #[inline(always)]
    unsafe fn add_i(a: Lanes, b: Lanes) -> Lanes {
        bits2(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn sub_i(a: Lanes, b: Lanes) -> Lanes {
        bits2(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    unsafe fn lt_u(a: Lanes, b: Lanes) -> Self::M {
        from_fn(|i| a[i].to_bits() < b[i].to_bits())
    }
    #[inline(always)]
    unsafe fn mul_even(a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| {
            let product = u64::from(a[i & !1].to_bits()) * u64::from(b[i & !1].to_bits());
            f32::from_bits((product >> (32 * (i & 1))) as u32)
        })
    }
    #[inline(always)]
    unsafe fn odd_to_even(a: Lanes) -> Lanes {
        from_fn(|i| a[i | 1])
    }
    #[inline(always)]
    unsafe fn merge_even(a: Lanes, b: Lanes) -> Lanes {
        from_fn(|i| if i % 2 == 0 { a[i] } else { b[i - 1] })
    }
    #[inline(always)]
    unsafe fn shl<const N: u32>(a: Lanes) -> Lanes {
        bits2(a, a, |x, _| x << N)
    }
    #[inline(always)]
    unsafe fn sra<const N: u32>(a: Lanes) -> Lanes {
        bits2(a, a, |x, _| x >> N)
    }
    #[inline(always)]
    unsafe fn transpose(rows: &mut [Lanes; LANES]) {
        let old = *rows;
        *rows = from_fn(|i| from_fn(|j| old[j][i]));
    }
}
