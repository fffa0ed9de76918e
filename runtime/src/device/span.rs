//! The memory that a strided tensor spans, and its elements in it as runs of bytes.
//!
//! Comes in: a checked view of host memory. Goes out: a [`Span`] (bytes from the lowest element to the highest, where
//! index 0 stands in them, runs of neighbouring elements), and copies of the elements to and from an image of those
//! bytes. What holds: only bytes of elements are read or written; what lies between strided rows belongs to others.
//! Strides stay what they were, negative and zero ones too: an image is addressed as the host's memory is.
//! Deliberately not done: packing. A broadcast dim takes no memory, a sliced one takes that of its gaps.

use std::marker::PhantomData;

use crate::error::RuntimeError;
use crate::geometry::{Geometry, MAX_RANK};
use crate::tensor::{TensorView, TensorViewMut};

/// Whether bytes were copied.
type Copied = Result<(), RuntimeError>;

/// Where the elements of a tensor lie in the bytes that it spans.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Bytes in all; 0 for an empty tensor.
    pub bytes: usize,
    /// Offset of the element at index 0.
    pub first: usize,
    /// Bytes of a run.
    pub run: usize,
    /// Number and distance in bytes of the runs, innermost first.
    outer: [(usize, usize); MAX_RANK],
    n_outer: usize,
}

impl Span {
    /// The span of a shape with strides whose extent is known not to overflow.
    pub fn of(geometry: &Geometry) -> Span {
        let size = geometry.dtype().size();
        let (low, high) = geometry.byte_range(0);
        let mut span = Span {
            bytes: high.wrapping_sub(low),
            first: 0usize.wrapping_sub(low),
            run: size,
            outer: [(1, 0); MAX_RANK],
            n_outer: 0,
        };
        if geometry.count() == 0 {
            return Span { bytes: 0, first: 0, ..span };
        }
        let mut dims = [(0usize, 0usize); MAX_RANK];
        let mut n = 0;
        for (&len, &stride) in geometry.shape().iter().zip(geometry.strides()) {
            // Indices of a broadcast dim name the same elements.
            if len > 1 && stride != 0 {
                dims[n] = (stride.unsigned_abs() * size, len);
                n += 1;
            }
        }
        dims[..n].sort_unstable();
        for &(distance, len) in &dims[..n] {
            if span.n_outer == 0 && distance == span.run {
                span.run *= len;
            } else {
                span.outer[span.n_outer] = (len, distance);
                span.n_outer += 1;
            }
        }
        span
    }

    /// The elements lie side by side.
    #[cfg(any(test, feature = "cuda"))]
    pub fn is_one_run(&self) -> bool {
        self.n_outer == 0
    }

    /// Calls `f` with the offset of every run, ascending along the innermost.
    pub fn for_each_run<E>(&self, f: &mut dyn FnMut(usize) -> Result<(), E>) -> Result<(), E> {
        if self.bytes == 0 {
            return Ok(());
        }
        let outer = &self.outer[..self.n_outer];
        let mut index = [0usize; MAX_RANK];
        loop {
            f(index.iter().zip(outer).map(|(i, (_, distance))| i * distance).sum())?;
            let Some(d) = (0..outer.len()).find(|&d| index[d] + 1 < outer[d].0) else { return Ok(()) };
            index[d] += 1;
            index[..d].fill(0);
        }
    }
}

/// The elements of a tensor in the host's memory, to be read.
pub(crate) struct Elements<'a> {
    low: *const u8,
    pub span: Span,
    life: PhantomData<&'a [u8]>,
}

impl<'a> Elements<'a> {
    /// Those of a view that is only read.
    pub fn of(view: &TensorView<'a>) -> Elements<'a> {
        let span = Span::of(view.geometry());
        Elements { low: view.first().wrapping_sub(span.first), span, life: PhantomData }
    }

    /// What is in a view that will be written.
    pub fn of_mut(view: &'a mut TensorViewMut<'_>) -> Elements<'a> {
        let span = Span::of(view.geometry());
        Elements { low: view.first_mut().wrapping_sub(span.first), span, life: PhantomData }
    }

    /// Contiguous bytes: a table.
    pub fn of_bytes(bytes: &'a [u8]) -> Elements<'a> {
        let span =
            Span { bytes: bytes.len(), first: 0, run: bytes.len(), outer: [(1, 0); MAX_RANK], n_outer: 0 };
        Elements { low: bytes.as_ptr(), span, life: PhantomData }
    }

    /// Calls `f` with the offset in the span and the bytes of every run.
    pub fn for_each_run(&self, f: &mut dyn FnMut(usize, &[u8]) -> Copied) -> Copied {
        self.span.for_each_run(&mut |at| {
            // SAFETY: a run consists of elements of the view, which lie in memory that is borrowed for 'a, initialised,
            // and written by nobody meanwhile (exclusively borrowed where it came from a view to be written).
            f(at, unsafe { std::slice::from_raw_parts(self.low.wrapping_add(at), self.span.run) })
        })
    }

    /// The bytes from the lowest element to the highest; 0 between them.
    #[cfg(any(test, feature = "cuda"))]
    pub fn image(&self) -> Result<Vec<u8>, RuntimeError> {
        let mut image = zeroed(self.span.bytes)?;
        self.for_each_run(&mut |at, run| {
            image[at..at + run.len()].copy_from_slice(run);
            Ok(())
        })?;
        Ok(image)
    }
}

/// Writes the elements of an image of `Span::of` the view's geometry; what lies between them is left alone.
pub(crate) fn scatter(image: &[u8], view: &mut TensorViewMut<'_>) {
    let span = Span::of(view.geometry());
    let low = view.first_mut().wrapping_sub(span.first);
    let _: Result<(), ()> = span.for_each_run(&mut |at| {
        let Some(run) = image.get(at..at + span.run) else { return Err(()) };
        // SAFETY: a run consists of elements of the view, which are exclusively borrowed; an image is memory of its own.
        unsafe { std::ptr::copy_nonoverlapping(run.as_ptr(), low.wrapping_add(at), span.run) };
        Ok(())
    });
}

/// Zero bytes. Errors: the host has not that many.
pub(crate) fn zeroed(len: usize) -> Result<Vec<u8>, RuntimeError> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| {
        RuntimeError::unsupported(format!(
            "the host has no {len} bytes of memory left to copy a tensor through; use shorter sequences"
        ))
    })?;
    bytes.resize(len, 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use attn_compiler::artifact::DType;

    fn offsets(span: &Span) -> Vec<usize> {
        let mut at = vec![];
        let _: Result<(), ()> = span.for_each_run(&mut |x| {
            at.push(x);
            Ok(())
        });
        at
    }

    #[test]
    fn runs_are_as_long_as_they_can_be() {
        let span = Span::of(&Geometry::contiguous(DType::F32, &[2, 3, 4]).unwrap());
        assert_eq!((span.bytes, span.first, span.run, span.is_one_run()), (96, 0, 96, true));
        // Rows of 4 of a buffer whose rows have 6, every second of them, axes swapped.
        let rows = Geometry::strided(DType::F16, &[4, 3], &[1, 12]).unwrap();
        let span = Span::of(&rows);
        assert_eq!((span.bytes, span.first, span.run), ((2 * 12 + 4) * 2, 0, 8));
        assert_eq!(offsets(&span), [0, 24, 48]);
    }

    #[test]
    fn negative_and_zero_strides() {
        let span = Span::of(&Geometry::strided(DType::F32, &[3, 2, 5], &[-4, 1, 0]).unwrap());
        assert_eq!((span.bytes, span.first, span.run), (40, 32, 8));
        assert_eq!(offsets(&span), [0, 16, 32]);
        let broadcast = Span::of(&Geometry::strided(DType::I8, &[7], &[0]).unwrap());
        assert_eq!((broadcast.bytes, broadcast.first, offsets(&broadcast)), (1, 0, vec![0]));
        let empty = Span::of(&Geometry::strided(DType::I8, &[7, 0], &[-9, 3]).unwrap());
        assert_eq!((empty.bytes, empty.first, offsets(&empty)), (0, 0, vec![]));
    }

    #[test]
    fn images_hold_elements_and_leave_gaps_alone() {
        let mut data: Vec<i32> = (0..12).collect();
        let view = TensorView::strided(&data, 10, &[3, 2], &[-4, 1]).unwrap();
        let image = Elements::of(&view).image().unwrap();
        let ints: Vec<i32> = image.chunks(4).map(|b| i32::from_ne_bytes(b.try_into().unwrap())).collect();
        assert_eq!(ints, [2, 3, 0, 0, 6, 7, 0, 0, 10, 11]);
        let new: Vec<u8> = (100..110i32).flat_map(i32::to_ne_bytes).collect();
        scatter(&new, &mut TensorViewMut::strided(&mut data, 10, &[3, 2], &[-4, 1]).unwrap());
        assert_eq!(data, [0, 1, 100, 101, 4, 5, 104, 105, 8, 9, 108, 109]);
    }
}
