//! Binding by name: the macros `dims!`, `bind!`, `outputs!`, and what may be bound.
//!
//! Comes in: tensors in the caller's variables. Goes out: arrays of (name, view) on the stack, so that a run
//! allocates nothing. Deliberately not done: any check; names, types and sizes are checked by the run.

use attn_runtime::{Tensor, TensorView, TensorViewMut};

/// A tensor to be read, by name.
pub type Input<'a> = (&'a str, TensorView<'a>);

/// A tensor to be written, by name.
pub type Output<'a> = (&'a str, TensorViewMut<'a>);

/// Something that can be bound as an input.
pub trait AsInput {
    /// The view that the kernel reads.
    fn as_input(&self) -> TensorView<'_>;
}

impl AsInput for Tensor {
    fn as_input(&self) -> TensorView<'_> {
        self.view()
    }
}

impl AsInput for TensorView<'_> {
    fn as_input(&self) -> TensorView<'_> {
        *self
    }
}

/// Something that can be bound as an output.
pub trait AsOutput {
    /// The view that the kernel writes.
    fn as_output(&mut self) -> TensorViewMut<'_>;
}

impl AsOutput for Tensor {
    fn as_output(&mut self) -> TensorViewMut<'_> {
        self.view_mut()
    }
}

impl AsOutput for TensorViewMut<'_> {
    fn as_output(&mut self) -> TensorViewMut<'_> {
        self.reborrow()
    }
}

/// Sizes by name: `dims! { B: 4, Sq: 1, Sk: 8192 }`. Values are anything that casts to `i64`.
#[macro_export]
macro_rules! dims {
    ($($name:ident : $size:expr),* $(,)?) => {
        [$((stringify!($name), ($size) as i64)),*]
    };
}

/// Inputs by name: `bind! { q, k, v }`, `bind! { q: my_query, "heavy.q": other }`. Values are a [`Tensor`], a
/// [`TensorView`], or references to them.
#[macro_export]
macro_rules! bind {
    (@one $name:ident) => {
        (stringify!($name), { use $crate::AsInput as _; $name.as_input() })
    };
    (@one $name:ident $value:expr) => {
        (stringify!($name), { use $crate::AsInput as _; ($value).as_input() })
    };
    (@one $name:literal $value:expr) => {
        ($name, { use $crate::AsInput as _; ($value).as_input() })
    };
    ($($name:tt $(: $value:expr)?),* $(,)?) => {
        [$($crate::bind!(@one $name $($value)?)),*]
    };
}

/// Outputs by name: `outputs! { o, lse }`, `outputs! { o: my_output }`. Values are a [`Tensor`], a
/// [`TensorViewMut`], or mutable references to them.
#[macro_export]
macro_rules! outputs {
    (@one $name:ident) => {
        (stringify!($name), { use $crate::AsOutput as _; $name.as_output() })
    };
    (@one $name:ident $value:expr) => {
        (stringify!($name), { use $crate::AsOutput as _; ($value).as_output() })
    };
    (@one $name:literal $value:expr) => {
        ($name, { use $crate::AsOutput as _; ($value).as_output() })
    };
    ($($name:tt $(: $value:expr)?),* $(,)?) => {
        [$($crate::outputs!(@one $name $($value)?)),*]
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macros_take_tensors_views_and_references() {
        let q = Tensor::from_slice(&[1f32, 2.0], &[2]).unwrap();
        let data = [3f32];
        let k = TensorView::new(&data, &[1]).unwrap();
        let by_reference = &q;
        let inputs = bind! { q, k, v: by_reference, "heavy.q": q };
        let names: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["q", "k", "v", "heavy.q"]);
        assert_eq!(inputs[2].1.to_f64_vec(), [1.0, 2.0]);

        let mut o = Tensor::zeros(attn_compiler::artifact::DType::F32, &[2]).unwrap();
        let mut memory = [0f32; 3];
        let mut lse = TensorViewMut::new(&mut memory, &[3]).unwrap();
        let outputs = outputs! { o, lse: lse };
        assert_eq!(outputs.map(|(name, view)| (name, view.shape().len())), [("o", 1), ("lse", 1)]);
        assert_eq!(dims! { B: 4usize, Sq: 1 }, [("B", 4), ("Sq", 1)]);
    }
}
