//! Parts of tensors, and copies.
//!
//! Comes in: views. Goes out: views of some indices of an axis, owned copies, and values written element by element.
//! What holds: as for every view, each element of a part lies inside the borrowed memory. Not here: arithmetic.

use attn_compiler::artifact::DType;
use half::{bf16, f16};

use super::{TensorView, TensorViewMut};
use crate::error::{DataFault, RuntimeError};

fn outside(axis: usize, shape: &[usize], first: usize, step: usize, len: usize) -> RuntimeError {
    let message = format!(
        "{len} indices from {first} on, {step} apart, are not in axis {axis} of a tensor of shape {shape:?}; take fewer"
    );
    RuntimeError::data(DataFault::Size, message)
}

impl<'a> TensorView<'a> {
    /// Indices `first`, `first + step`, ..: `len` of them, of one axis. Errors: an index or the axis is not there.
    pub fn every(
        &self,
        axis: usize,
        first: usize,
        step: usize,
        len: usize,
    ) -> Result<TensorView<'a>, RuntimeError> {
        let (geometry, offset) = self
            .geometry
            .every(axis, first, step, len)
            .ok_or_else(|| outside(axis, self.shape(), first, step, len))?;
        // `offset` is that of an element of this view, or 0 where the part is empty.
        Ok(TensorView { first: self.first.wrapping_offset(offset), geometry, ..*self })
    }
}

impl<'a> TensorViewMut<'a> {
    /// As [`TensorView::permuted`], for the whole borrow.
    pub fn into_permuted(self, order: &[usize]) -> Result<TensorViewMut<'a>, RuntimeError> {
        let geometry = self.geometry.permuted(order)?;
        Ok(TensorViewMut { geometry, ..self })
    }

    /// As [`TensorView::every`].
    pub fn every(
        &mut self,
        axis: usize,
        first: usize,
        step: usize,
        len: usize,
    ) -> Result<TensorViewMut<'_>, RuntimeError> {
        let (geometry, offset) = self
            .geometry
            .every(axis, first, step, len)
            .ok_or_else(|| outside(axis, self.shape(), first, step, len))?;
        let part = self.reborrow();
        Ok(TensorViewMut { first: part.first.wrapping_offset(offset), geometry, ..part })
    }

    /// As [`TensorView::permuted`].
    pub fn permuted(&mut self, order: &[usize]) -> Result<TensorViewMut<'_>, RuntimeError> {
        let geometry = self.geometry.permuted(order)?;
        Ok(TensorViewMut { geometry, ..self.reborrow() })
    }

    /// Writes all elements in row-major order of the index, rounded to the storage type. Errors: another number of
    /// values; a type that is not a float.
    pub fn assign(&mut self, values: &[f32]) -> Result<(), RuntimeError> {
        self.geometry.check_count(values.len())?;
        let geometry = self.geometry;
        if !geometry.dtype().is_float() {
            let message = format!("float values cannot be written to a tensor of {}", geometry.dtype());
            return Err(RuntimeError::data(DataFault::DType, message));
        }
        let mut next = values.iter();
        geometry.for_each_index(&mut |index| {
            let (Some(at), Some(&x)) = (geometry.offset_of(index), next.next()) else { return };
            match geometry.dtype() {
                DType::F16 => self.write(at, f16::from_f32(x)),
                DType::Bf16 => self.write(at, bf16::from_f32(x)),
                DType::F8E4M3 => self.write(at, super::F8E4M3::from_f32(x)),
                DType::F64 => self.write(at, f64::from(x)),
                _ => self.write(at, x),
            }
        });
        Ok(())
    }

    /// The element `at` elements from the first; `at` must be the offset of an index that is in range.
    fn write<T: bytemuck::Pod>(&mut self, at: isize, x: T) {
        debug_assert!(size_of::<T>() == self.geometry.dtype().size() && self.geometry.spans(at));
        // SAFETY: construction checked that every element lies in the mutably borrowed memory and is aligned; the
        // caller passes the offset of such an element and a T of the dtype's size.
        unsafe { self.first.cast::<T>().offset(at).write(x) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_copies() {
        let data: Vec<f32> = (0..24).map(|n| n as f32).collect();
        let whole = TensorView::new(&data, &[2, 3, 4]).unwrap();
        let part = whole.permuted(&[2, 0, 1]).unwrap().every(0, 1, 2, 2).unwrap();
        assert_eq!(part.shape(), [2, 2, 3]);
        assert_eq!(part.to_f64_vec(), [1., 5., 9., 13., 17., 21., 3., 7., 11., 15., 19., 23.]);
        assert_eq!(part.to_tensor().unwrap().view().to_f64_vec(), part.to_f64_vec());
        assert!(whole.every(0, 0, 2, 2).is_err() && whole.every(3, 0, 1, 1).is_err());
        assert!(whole.every(1, 3, 1, 0).unwrap().to_f64_vec().is_empty());
    }

    #[test]
    fn values_are_written_where_they_belong() {
        let mut data = [bf16::ZERO; 6];
        let mut view = TensorViewMut::new(&mut data, &[2, 3]).unwrap();
        let mut turned = view.permuted(&[1, 0]).unwrap();
        turned.every(0, 0, 2, 2).unwrap().assign(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!(turned.assign(&[1.0]).is_err());
        assert_eq!(data.map(f32::from), [1.0, 0.0, 3.0, 2.0, 0.0, 4.0]);
    }
}
