//! Whole vectors of tensors: `prefix_sum`, `top_k`.
//!
//! In: strided elements of a storage type. Out: contiguous f32 sums in two parts, or i32 positions. Afterwards:
//! the same bits on every machine, since sums are sequential and selection compares integers. Not here: tiles.

use super::convert::read;
use attn_compiler::artifact::DType;

/// A strided vector of `n` elements.
#[derive(Clone, Copy)]
pub(super) struct Vector {
    pub src: *const u8,
    pub dtype: DType,
    pub n: usize,
    pub stride: isize,
}

impl Vector {
    /// The key of an element.
    ///
    /// # Safety
    /// The element is readable.
    #[inline(always)]
    unsafe fn key(self, dtype: DType, i: usize) -> u32 {
        // SAFETY: the caller's promise.
        key(unsafe { read(self.src, dtype, i as isize * self.stride) })
    }
}

/// `hi[i] + lo[i]` is the sum of elements 0..=i; see `Intrinsic::PrefixSum`.
///
/// # Safety
/// The elements are readable; `hi` and `lo` hold `n` values each.
#[inline(always)]
pub(super) unsafe fn prefix_sum(hi: *mut f32, lo: *mut f32, v: Vector) {
    let mut sum = 0f64;
    for i in 0..v.n {
        // SAFETY: the caller's promise.
        unsafe {
            let at = i as isize * v.stride;
            sum += match v.dtype {
                DType::F64 => v.src.cast::<f64>().offset(at).read_unaligned(),
                dtype => f64::from(read(v.src, dtype, at)),
            };
            let high = sum as f32;
            *hi.add(i) = high;
            *lo.add(i) = if high.is_finite() { (sum - f64::from(high)) as f32 } else { 0.0 };
        }
    }
}

/// An integer that is ordered as the elements are: NaN as -inf, -0 as 0.
#[inline(always)]
fn key(x: f32) -> u32 {
    let x = if x.is_nan() { f32::NEG_INFINITY } else { x + 0.0 };
    let bits = x.to_bits();
    if x.is_sign_negative() { !bits } else { bits | 1 << 31 }
}

/// The positions of the largest elements; see `Intrinsic::TopK`.
///
/// # Safety
/// The elements are readable; `indices` holds `width` values, `ranks` is null or holds `v.n`.
#[inline(always)]
pub(super) unsafe fn top_k(indices: *mut i32, ranks: *mut i32, v: Vector, m: usize, width: usize) {
    let m = m.min(v.n).min(width);
    // SAFETY: the caller's promise.
    unsafe {
        match v.dtype {
            DType::F32 if v.stride == 1 => {
                select(|i| key(v.src.cast::<f32>().add(i).read_unaligned()), indices, ranks, (v.n, m, width))
            }
            DType::F32 => select(|i| v.key(DType::F32, i), indices, ranks, (v.n, m, width)),
            dtype => select(|i| v.key(dtype, i), indices, ranks, (v.n, m, width)),
        }
    }
}

/// [`top_k`] over keys; m <= n, m <= width.
///
/// # Safety
/// As for `top_k`.
#[inline(always)]
unsafe fn select(
    at: impl Fn(usize) -> u32,
    indices: *mut i32,
    ranks: *mut i32,
    (n, m, width): (usize, usize, usize),
) {
    let (least, mut ties) = if m == 0 { (u32::MAX, 0) } else { threshold(&at, n, m) };
    let mut taken = 0;
    for i in 0..n {
        let key = at(i);
        let tie = key == least && ties > 0;
        let take = taken < m && (key > least || tie);
        ties -= usize::from(tie);
        // SAFETY: as above; taken < m <= width.
        unsafe {
            if take {
                *indices.add(taken) = i as i32;
            }
            if !ranks.is_null() {
                *ranks.add(i) = if take { taken as i32 } else { -1 };
            }
        }
        taken += usize::from(take);
    }
    // SAFETY: the row has `width` values.
    (taken..width).for_each(|k| unsafe { *indices.add(k) = -1 });
}

/// The m-th largest of n keys (0 < m <= n), and how many equal to it are among the m largest. One byte of the
/// keys at a time, from the top: the keys that share the bytes found so far are counted by their next one.
#[inline(always)]
fn threshold(at: &impl Fn(usize) -> u32, n: usize, m: usize) -> (u32, usize) {
    let (mut prefix, mut known, mut left) = (0u32, 0u32, m);
    for shift in [24, 16, 8, 0] {
        let mut counts = [0usize; 256];
        for key in (0..n).map(at) {
            if key & known == prefix {
                counts[(key >> shift) as usize & 255] += 1;
            }
        }
        let mut byte = 255;
        while byte > 0 && counts[byte] < left {
            left -= counts[byte];
            byte -= 1;
        }
        prefix |= (byte as u32) << shift;
        known |= 255 << shift;
    }
    (prefix, left)
}
