//! Sixteen elements along a row of a tensor, as vectors: what products with rows where they lie know of types and strides.
//!
//! In: the address of a row. Out: its elements as f32 (pairs of bf16: `pairs.rs`), and how rows of the kind are best read.
//! Not here: the products (`direct.rs`).

use std::marker::PhantomData;

use attn_compiler::artifact::DType;

use super::convert::read;
use super::element::{Element, load_first};
use super::simd::{LANES, Simd};
use super::stream::LINE;

/// Sixteen elements along a row of a tensor.
pub(super) trait Span: Copy {
    /// Bytes between neighbours along a row where that is known and small: what is worth asking for ahead.
    const SIZE: usize;
    /// Rows that a vector of A meets at once: many where the work, few where memory takes the time, since rows at once
    /// are streams at once.
    const TOGETHER: usize;
    /// Rows of A from which on rows of usual lengths are loaded whole before they are used.
    const HELD: usize;
    /// Whether what is read soon is asked for (`Direct::next`).
    const ASKS: bool = false;
    /// Whether what was loaded has to arrive before more is asked for ([`Simd::settle`]).
    const SETTLES: bool = false;
    /// Elements `t..t + n` of the row at `row`, at most 16; zero beyond.
    ///
    /// # Safety
    /// The features of `S`; those elements are readable.
    unsafe fn first<S: Simd>(self, row: *const u8, t: usize, n: usize) -> S::V;

    /// `sum` and the product of a vector of A with one of the row.
    ///
    /// # Safety
    /// The features of `S`.
    #[inline(always)]
    unsafe fn add_product<S: Simd>(a: S::V, b: S::V, sum: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::fma(a, b, sum) }
    }

    /// Elements `t..t + 16`.
    ///
    /// # Safety
    /// As for `first`.
    #[inline(always)]
    unsafe fn vector<S: Simd>(self, row: *const u8, t: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { self.first::<S>(row, t, LANES) }
    }

    /// Whether [`Span::pair`] gives the even elements and the odd ones, not the first sixteen and the others.
    const ALTERNATE: bool = false;

    /// Elements `t..t + 32`.
    ///
    /// # Safety
    /// As for `first`.
    #[inline(always)]
    unsafe fn pair<S: Simd>(self, row: *const u8, t: usize) -> (S::V, S::V) {
        // SAFETY: the caller's promise.
        unsafe { (self.vector::<S>(row, t), self.vector::<S>(row, t + LANES)) }
    }
}

/// One after the other.
pub(super) struct Contiguous<E>(pub PhantomData<E>);

impl<E> Clone for Contiguous<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Contiguous<E> {}

impl<E: Element> Span for Contiguous<E> {
    const SIZE: usize = E::SIZE as usize;
    const TOGETHER: usize = if E::SIZE < 4 { 4 / E::SIZE as usize } else { 1 };
    const HELD: usize = match E::SIZE {
        4 => 2,
        2 => 1,
        _ => usize::MAX,
    };
    const SETTLES: bool = E::SIZE == 4;

    #[inline(always)]
    unsafe fn first<S: Simd>(self, row: *const u8, t: usize, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { load_first::<S, E>(row.offset(t as isize * E::SIZE), n) }
    }

    #[inline(always)]
    unsafe fn vector<S: Simd>(self, row: *const u8, t: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { E::load::<S>(row.offset(t as isize * E::SIZE)) }
    }

    const ALTERNATE: bool = E::ALTERNATE;

    #[inline(always)]
    unsafe fn pair<S: Simd>(self, row: *const u8, t: usize) -> (S::V, S::V) {
        // SAFETY: the caller's promise.
        unsafe { E::load_pair::<S>(row.offset(t as isize * E::SIZE)) }
    }
}

/// As another, but for [`Span::ASKS`]: in functions of their own, since every line beside the loops of the others costs
/// them registers.
#[derive(Clone, Copy)]
pub(super) struct Asking<P>(pub P);

impl<P: Span> Span for Asking<P> {
    const SIZE: usize = P::SIZE;
    const TOGETHER: usize = P::TOGETHER;
    const HELD: usize = P::HELD;
    const ASKS: bool = true;
    const SETTLES: bool = P::SETTLES;
    const ALTERNATE: bool = P::ALTERNATE;

    #[inline(always)]
    unsafe fn first<S: Simd>(self, row: *const u8, t: usize, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { self.0.first::<S>(row, t, n) }
    }

    #[inline(always)]
    unsafe fn add_product<S: Simd>(a: S::V, b: S::V, sum: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { P::add_product::<S>(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn vector<S: Simd>(self, row: *const u8, t: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { self.0.vector::<S>(row, t) }
    }

    #[inline(always)]
    unsafe fn pair<S: Simd>(self, row: *const u8, t: usize) -> (S::V, S::V) {
        // SAFETY: the caller's promise.
        unsafe { self.0.pair::<S>(row, t) }
    }
}

/// At a distance, of any type.
#[derive(Clone, Copy)]
pub(super) struct Scattered {
    pub dtype: DType,
    pub stride: isize,
}

impl Span for Scattered {
    const SIZE: usize = LINE;
    const TOGETHER: usize = 1;
    const HELD: usize = usize::MAX;

    #[inline(always)]
    unsafe fn first<S: Simd>(self, row: *const u8, t: usize, n: usize) -> S::V {
        let mut lanes = [0f32; LANES];
        // SAFETY: the caller's promise; the array holds sixteen values.
        unsafe {
            for (u, lane) in lanes.iter_mut().enumerate().take(n) {
                *lane = read(row, self.dtype, (t + u) as isize * self.stride);
            }
            S::load(lanes.as_ptr())
        }
    }
}
