//! Promises about contents: `sorted` and `monotone`, verified along the last dim in linear time.
//!
//! Comes in: bound tensors with a promise. Goes out: nothing, or an error that names the first element that
//! breaks it. What holds: a mask analysis that used the promise is right. NaN breaks every order.

use std::ops::ControlFlow;

use attn_compiler::artifact::DType;
use half::{bf16, f16};

use super::Call;
use super::names::Places;
use crate::error::{DataFault, RuntimeError};
use crate::signature::Signature;
use crate::tensor::{Element, F8E4M3, TensorView};

/// Verifies the promise of every bound input.
pub(super) fn verify_orders(
    sig: &Signature,
    call: &Call<'_, '_, '_>,
    places: &Places,
) -> Result<(), RuntimeError> {
    for &t in &sig.inputs {
        let spec = &sig.artifact.tensors[t];
        if spec.order == 0 {
            continue;
        }
        // Logical order, so that "the last dim" is the last one declared.
        let view = logical(sig, &call.inputs[places[t]].1, t)?;
        let monotone = spec.order == 2;
        let broken = match spec.dtype {
            DType::F32 => first_break::<f32>(&view, monotone),
            DType::F16 => first_break::<f16>(&view, monotone),
            DType::Bf16 => first_break::<bf16>(&view, monotone),
            DType::F64 => first_break::<f64>(&view, monotone),
            DType::I8 => first_break::<i8>(&view, monotone),
            DType::I32 => first_break::<i32>(&view, monotone),
            DType::I64 => first_break::<i64>(&view, monotone),
            DType::Bit => first_break::<u8>(&view, monotone),
            DType::F8E4M3 => first_break::<F8E4M3>(&view, monotone),
        };
        if let Some((row, at)) = broken {
            return Err(describe(&spec.name, monotone, &view, row, at));
        }
    }
    Ok(())
}

/// The view with its axes in the order of the logical dims.
pub(super) fn logical<'a>(
    sig: &Signature,
    view: &TensorView<'a>,
    t: usize,
) -> Result<TensorView<'a>, RuntimeError> {
    let mut order = [0; crate::tensor::MAX_RANK];
    let layout = &sig.artifact.tensors[t].layout;
    for (axis, &d) in layout.iter().enumerate() {
        order[d] = axis;
    }
    view.permuted(&order[..layout.len()])
}

/// Offset of the row and position in it of the first element that breaks the order.
fn first_break<T: bytemuck::AnyBitPattern + PartialOrd>(
    view: &TensorView<'_>,
    monotone: bool,
) -> Option<(isize, usize)> {
    let (n, stride) = view.geometry().last_run();
    let scan = |row: isize| {
        let at = |x: usize| view.read::<T>(row + x as isize * stride);
        let falls = monotone && n > 1 && at(n - 1) < at(0);
        // NaN is in no order.
        let in_order = |a: T, b: T| a.partial_cmp(&b).is_some_and(|o| o.is_le());
        let bad =
            (1..n).find(|&x| if falls { !in_order(at(x), at(x - 1)) } else { !in_order(at(x - 1), at(x)) });
        bad.map(|x| (row, x))
    };
    match view.geometry().for_each_row(&mut |_, row| match scan(row) {
        Some(found) => ControlFlow::Break(found),
        None => ControlFlow::Continue(()),
    }) {
        ControlFlow::Break(found) => Some(found),
        ControlFlow::Continue(()) => None,
    }
}

fn describe(name: &str, monotone: bool, view: &TensorView<'_>, row: isize, at: usize) -> RuntimeError {
    let mut lead = Vec::new();
    let _ = view.geometry().for_each_row(&mut |index, offset| {
        if offset == row {
            lead = index.to_vec();
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    let element = |x: usize| {
        let mut index = lead.clone();
        index.push(x);
        (index.clone(), view.get(&index).unwrap_or(f64::NAN))
    };
    let ((before, a), (here, b)) = (element(at - 1), element(at));
    let promise = if monotone { "monotone (never turns around)" } else { "sorted (never decreases)" };
    RuntimeError::data(
        DataFault::Fact,
        format!(
            "`{name}` is declared {promise} along its last dim, but {name}{here:?} = {b} follows {name}{before:?} = {a}; \
             sort it, or drop the promise from the specification"
        ),
    )
}

/// Smallest and largest element of an integer tensor; `None` if it is empty.
pub(super) fn min_max(view: &TensorView<'_>) -> Option<(i64, i64)> {
    match view.dtype() {
        DType::I8 => scan_ints(view, |x: i8| i64::from(x)),
        DType::I32 => scan_ints(view, |x: i32| i64::from(x)),
        DType::I64 => scan_ints(view, |x: i64| x),
        _ => Some((i64::MIN, i64::MAX)),
    }
}

fn scan_ints<T: Element + Ord>(view: &TensorView<'_>, widen: fn(T) -> i64) -> Option<(i64, i64)> {
    let (n, stride) = view.geometry().last_run();
    let mut bounds: Option<(T, T)> = None;
    let _: ControlFlow<()> = view.geometry().for_each_row(&mut |_, row| {
        let first = view.read::<T>(row);
        let (mut lo, mut hi) = bounds.unwrap_or((first, first));
        for x in 0..n {
            let value = view.read::<T>(row + x as isize * stride);
            (lo, hi) = (lo.min(value), hi.max(value));
        }
        bounds = Some((lo, hi));
        ControlFlow::Continue(())
    });
    bounds.map(|(lo, hi)| (widen(lo), widen(hi)))
}
