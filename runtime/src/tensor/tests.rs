//! View checks against brute force: a view is accepted exactly if each of its elements lies in the slice.

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

/// Every element position that the view would touch, in wide arithmetic.
fn positions(offset: usize, shape: &[usize], strides: &[isize]) -> Vec<i128> {
    let mut all = vec![offset as i128];
    for (&n, &s) in shape.iter().zip(strides) {
        all = all.iter().flat_map(|&at| (0..n).map(move |i| at + i as i128 * s as i128)).collect();
    }
    all
}

fn view_input() -> impl Strategy<Value = (usize, usize, Vec<usize>, Vec<isize>)> {
    let stride =
        prop_oneof![8 => -9isize..10, 1 => Just(isize::MAX), 1 => Just(isize::MIN), 1 => Just(1 << 40)];
    (0usize..60, 0usize..50, prop::collection::vec((0usize..5, stride), 0..5)).prop_map(
        |(len, offset, dims)| {
            let (shape, strides) = dims.into_iter().unzip();
            (len, offset, shape, strides)
        },
    )
}

proptest! {
    #[test]
    fn accepted_exactly_if_every_element_is_inside((len, offset, shape, strides) in view_input()) {
        let data: Vec<i32> = (0..len as i32).collect();
        let at = positions(offset, &shape, &strides);
        let inside = at.iter().all(|&p| (0..len as i128).contains(&p));
        let view = TensorView::strided(&data, offset, &shape, &strides);
        prop_assert_eq!(view.is_ok(), inside);
        if let Ok(view) = view {
            let expected: Vec<f64> = at.iter().map(|&p| p as f64).collect();
            prop_assert_eq!(view.to_f64_vec(), expected);
        }
    }

    #[test]
    fn accepted_mutable_views_never_alias((len, offset, shape, strides) in view_input()) {
        let mut data = vec![0f32; len];
        let at = positions(offset, &shape, &strides);
        if TensorViewMut::strided(&mut data, offset, &shape, &strides).is_ok() {
            let mut sorted = at.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), at.len());
            prop_assert!(at.iter().all(|&p| (0..len as i128).contains(&p)));
        }
    }

    #[test]
    fn permuted_row_major_tensors_may_be_written(
        shape in prop::collection::vec(0usize..5, 4),
        order in Just(vec![0usize, 1, 2, 3]).prop_shuffle(),
    ) {
        let g = Geometry::contiguous(DType::F32, &shape).unwrap().permuted(&order).unwrap();
        let mut data = vec![0f32; shape.iter().product()];
        prop_assert!(TensorViewMut::strided(&mut data, 0, g.shape(), g.strides()).is_ok());
    }

    #[test]
    fn byte_range_covers_exactly_the_elements((len, offset, shape, strides) in view_input()) {
        let data = vec![0i64; len];
        if let Ok(view) = TensorView::strided(&data, offset, &shape, &strides) {
            let at = positions(offset, &shape, &strides);
            let (lo, hi) = view.geometry().byte_range(view.first() as usize);
            let base = data.as_ptr() as usize;
            match (at.iter().min(), at.iter().max()) {
                (Some(&a), Some(&b)) => {
                    prop_assert_eq!(lo, base + a as usize * 8);
                    prop_assert_eq!(hi, base + (b as usize + 1) * 8);
                }
                _ => prop_assert_eq!(lo, hi),
            }
        }
    }
}

#[test]
fn strides_that_overflow_are_refused() {
    let data = [0f32; 4];
    for stride in [isize::MAX, isize::MIN, isize::MAX / 2 + 1] {
        let err = TensorView::strided(&data, 0, &[3], &[stride]).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Data(DataFault::View));
    }
    let err = TensorView::strided(&data, 0, &[usize::MAX, usize::MAX], &[0, 0]).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Data(DataFault::Size));
    assert!(TensorView::strided(&data, usize::MAX, &[1], &[1]).is_err());
}

#[test]
fn overlapping_mutable_strides_are_refused() {
    let mut data = [0f32; 16];
    for (shape, strides) in [([4, 4], [0, 1]), ([4, 4], [1, 1]), ([2, 4], [3, 1]), ([4, 2], [2, -2])] {
        let err = TensorViewMut::strided(&mut data, 6, &shape, &strides).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Data(DataFault::View), "{shape:?} {strides:?}: {err}");
    }
    assert!(TensorViewMut::strided(&mut data, 3, &[4, 4], &[4, -1]).is_ok());
}

#[test]
fn bits_are_verified_and_named() {
    assert!(TensorView::from_bits(&[0, 1, 1], &[3]).is_ok());
    let err = TensorView::from_bits(&[0, 1, 2], &[3]).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Data(DataFault::Fact));
    assert!(err.to_string().contains("byte 2 is 2"), "{err}");
    assert!(Tensor::from_bytes(DType::Bit, &[255], &[1]).is_err());
    let bits = Tensor::from_bools(&[true, false], &[2]).unwrap();
    assert_eq!(bits.view().to_f64_vec(), [1.0, 0.0]);
}

#[test]
fn wrong_counts_ranks_and_dtypes_are_named() {
    let err = TensorView::new(&[1f32, 2.0], &[3]).unwrap_err();
    assert!(err.to_string().contains("needs 3 elements, the slice has 2"), "{err}");
    assert!(TensorView::new(&[1f32], &[1; 9]).is_err());
    assert!(TensorView::strided(&[1f32], 0, &[1], &[]).is_err());
    assert!(Tensor::from_bytes(DType::F32, &[0; 6], &[1]).is_err());
    let tensor = Tensor::zeros(DType::F16, &[2, 0, 3]).unwrap();
    assert_eq!(tensor.as_slice::<f16>().unwrap().len(), 0);
    assert!(tensor.as_slice::<bf16>().unwrap_err().to_string().contains("holds f16, not bf16"));
    assert!(Tensor::zeros(DType::F64, &[1 << 40, 1 << 30]).is_err());
}

#[test]
fn misaligned_foreign_memory_is_refused() {
    let data = [0f32; 4];
    let odd = data.as_ptr().cast::<u8>().wrapping_add(1);
    // SAFETY: the three elements named are never read; only the address is looked at.
    let view = unsafe { TensorView::from_raw(odd, 3, DType::F32, 0, &[3], &[1]) };
    assert_eq!(view.unwrap_err().kind(), ErrorKind::Data(DataFault::View));
}

#[test]
fn halves_read_as_numbers() {
    let h = [f16::from_f32(1.5), f16::from_f32(-2.0)];
    assert_eq!(TensorView::new(&h, &[2]).unwrap().to_f64_vec(), [1.5, -2.0]);
    let b = Tensor::from_slice(&[bf16::from_f32(3.0)], &[]).unwrap();
    assert_eq!(b.view().get(&[]), Some(3.0));
    assert_eq!(b.view().get(&[0]), None);
}
