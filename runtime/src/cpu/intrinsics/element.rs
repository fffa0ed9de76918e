//! Storage types that are loaded and stored sixteen at a time: f32, binary16, bfloat16, e4m3, signed bytes.
//!
//! In: contiguous elements. Out: sixteen lanes, or the other way round. Afterwards: not one element beyond
//! the span was touched. Not here: other types and strides, which go element by element (`convert.rs`).

use attn_compiler::f8;

use super::simd::{LANES, Simd};

/// A storage type.
pub(super) trait Element {
    /// Bytes of one element, at most 4.
    const SIZE: isize;
    /// Sixteen contiguous elements as f32.
    ///
    /// # Safety
    /// The features of `S`; the elements are readable.
    unsafe fn load<S: Simd>(src: *const u8) -> S::V;
    /// Whether [`Element::load_pair`] gives the even elements and the odd ones, not the first sixteen and the others.
    const ALTERNATE: bool = false;
    /// Thirty-two contiguous elements as f32.
    ///
    /// # Safety
    /// The features of `S`; the elements are readable.
    #[inline(always)]
    unsafe fn load_pair<S: Simd>(src: *const u8) -> (S::V, S::V) {
        // SAFETY: the caller's promise.
        unsafe { (Self::load::<S>(src), Self::load::<S>(src.offset(LANES as isize * Self::SIZE))) }
    }
    /// Sixteen contiguous elements from f32, rounded to nearest even.
    ///
    /// # Safety
    /// The features of `S`; the elements are writable.
    unsafe fn store<S: Simd>(dst: *mut u8, v: S::V);
}

/// IEEE binary32.
pub(super) struct F32;
/// IEEE binary16.
pub(super) struct F16;
/// bfloat16.
pub(super) struct Bf16;
/// Signed byte.
pub(super) struct I8;

/// Implements [`Element`] with a pair of methods of [`Simd`].
macro_rules! element {
    ($name:ident, $size:literal, $load:ident, $store:ident) => {
        impl Element for $name {
            const SIZE: isize = $size;
            #[inline(always)]
            unsafe fn load<S: Simd>(src: *const u8) -> S::V {
                // SAFETY: the caller's promise.
                unsafe { S::$load(src.cast()) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(dst: *mut u8, v: S::V) {
                // SAFETY: the caller's promise.
                unsafe { S::$store(dst.cast(), v) }
            }
        }
    };
}

element!(F32, 4, load, store);
element!(F16, 2, load_f16, store_f16);

impl Element for Bf16 {
    const SIZE: isize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(src: *const u8) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16(src.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(dst: *mut u8, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { S::store_bf16(dst.cast(), v) }
    }

    const ALTERNATE: bool = true;
    /// A shift and a mask; widening would take a shuffle and a shift for each half.
    #[inline(always)]
    unsafe fn load_pair<S: Simd>(src: *const u8) -> (S::V, S::V) {
        // SAFETY: the caller's promise; the first element is the low half of a word on every machine that is supported.
        unsafe {
            let words = S::load(src.cast());
            (S::shl::<16>(words), S::and(words, S::splat_bits(0xffff_0000_u32 as i32)))
        }
    }
}

/// Eight-bit float e4m3.
pub(super) struct F8E4M3;

/// Every value of e4m3.
static F8_VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut bits = 0;
    while bits < 256 {
        values[bits] = f8::decode(bits as u8);
        bits += 1;
    }
    values
};

impl Element for F8E4M3 {
    const SIZE: isize = 1;
    #[inline(always)]
    unsafe fn load<S: Simd>(src: *const u8) -> S::V {
        // SAFETY: the caller's promise; the copy holds sixteen values.
        unsafe {
            let bytes = src.cast::<[u8; LANES]>().read();
            S::load(bytes.map(|b| F8_VALUES[usize::from(b)]).as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(dst: *mut u8, v: S::V) {
        let mut lanes = [0f32; LANES];
        // SAFETY: the caller's promise; the copy holds sixteen values.
        unsafe {
            S::store(lanes.as_mut_ptr(), v);
            dst.cast::<[u8; LANES]>().write(lanes.map(f8::encode));
        }
    }
}

impl Element for I8 {
    const SIZE: isize = 1;
    #[inline(always)]
    unsafe fn load<S: Simd>(src: *const u8) -> S::V {
        // SAFETY: the caller's promise; the copy holds sixteen values.
        unsafe {
            let bytes = src.cast::<[i8; LANES]>().read();
            S::load(bytes.map(f32::from).as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(dst: *mut u8, v: S::V) {
        let mut lanes = [0f32; LANES];
        // SAFETY: the caller's promise; the copy holds sixteen values.
        unsafe {
            S::store(lanes.as_mut_ptr(), v);
            dst.cast::<[i8; LANES]>().write(lanes.map(|x| x.round_ties_even() as i8));
        }
    }
}

/// `n <= 16` contiguous elements, zero beyond.
///
/// # Safety
/// The features of `S`; `n` elements are readable.
#[inline(always)]
pub(super) unsafe fn load_first<S: Simd, E: Element>(src: *const u8, n: usize) -> S::V {
    // SAFETY: the copy holds sixteen elements of at most four bytes, the source `n`.
    unsafe {
        if n == LANES {
            return E::load::<S>(src);
        }
        let mut copy = [0u32; LANES];
        copy.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(src, n * E::SIZE as usize);
        E::load::<S>(copy.as_ptr().cast())
    }
}

/// Lanes 0..n (n <= 16) to contiguous elements.
///
/// # Safety
/// The features of `S`; `n` elements are writable.
#[inline(always)]
pub(super) unsafe fn store_first<S: Simd, E: Element>(dst: *mut u8, v: S::V, n: usize) {
    // SAFETY: the copy holds sixteen elements of at most four bytes, the destination `n`.
    unsafe {
        if n == LANES {
            return E::store::<S>(dst, v);
        }
        let mut copy = [0u32; LANES];
        E::store::<S>(copy.as_mut_ptr().cast(), v);
        dst.copy_from_nonoverlapping(copy.as_ptr().cast(), n * E::SIZE as usize);
    }
}
