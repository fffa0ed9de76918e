//! Sizes and elements: between files, kernels and the two reference executors.
//!
//! Comes in: tensors as they are bound (axes in the `layout` of the declaration). Goes out: dims by name, and
//! views in the logical order of dims. Not here: checks; binding does them with better words.

use std::collections::BTreeMap;

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::{Kernel, evaluate};
use attn_compiler::expr::eval::{Env, Value, eval};
use attn_compiler::expr::{ExprId, Pool, TensorId, Ty, VarId};
use attn_compiler::host::{BindError, Data, Inputs, View};
use attn_compiler::sema::CheckedKernel;
use attn_compiler::sema::model::TensorFact;
use attn_runtime::{RuntimeError, TensorView};

/// The axis of the bound tensor at which each logical dim stands.
pub fn axes_of(layout: &[usize]) -> Vec<usize> {
    (0..layout.len()).map(|dim| layout.iter().position(|&d| d == dim).unwrap_or(dim)).collect()
}

/// Adds the dims that a bound tensor gives, as far as its rank agrees with the declaration.
pub fn read_dims(spec: &CheckedKernel, fact: &TensorFact, shape: &[usize], dims: &mut BTreeMap<String, i64>) {
    let sizes = spec.bound_shape(fact);
    if sizes.len() != shape.len() {
        return;
    }
    for (dim, axis) in axes_of(&fact.layout).into_iter().enumerate() {
        if let Some(named) = sizes[dim].dim.map(|n| &spec.dims[n]) {
            dims.entry(named.name.clone()).or_insert(shape[axis] as i64);
        }
    }
}

/// A bound tensor in the logical order of its dims.
pub fn logical<'a>(view: &TensorView<'a>, layout: &[usize]) -> Result<TensorView<'a>, RuntimeError> {
    view.permuted(&axes_of(layout))
}

/// A copy for the reference executors.
pub fn host_view(view: &TensorView<'_>) -> Result<View, BindError> {
    let elements = view.to_f64_vec();
    let data = match view.dtype().value_ty() {
        Ty::Float => Data::Float(elements),
        Ty::Int => Data::Int(elements.into_iter().map(|x| x as i64).collect()),
        Ty::Bool => Data::Bool(elements.into_iter().map(|x| x != 0.0).collect()),
    };
    View::contiguous(view.shape().to_vec(), data)
}

/// Values of the variables of a kernel: dims and params as bound, index variables 0.
pub struct Scalars(Vec<Value>);

impl Scalars {
    /// Errors: a dim or parameter without a value.
    pub fn new(kernel: &Kernel, inputs: &Inputs) -> Result<Scalars, BindError> {
        Ok(Scalars(evaluate::scalars(kernel, inputs)?))
    }

    /// A size; 0 where the expression gives a negative one.
    pub fn size(&self, pool: &Pool, id: ExprId) -> usize {
        usize::try_from(eval(pool, id, self).int()).unwrap_or(0)
    }

    /// Sizes of logical dims.
    pub fn shape(&self, pool: &Pool, shape: &[ExprId]) -> Vec<usize> {
        shape.iter().map(|&id| self.size(pool, id)).collect()
    }
}

impl Env for Scalars {
    fn var(&self, var: VarId) -> Value {
        self.0.get(var.0 as usize).copied().unwrap_or(Value::Int(0))
    }

    fn load(&self, _: TensorId, _: &[i64]) -> Value {
        Value::Int(0)
    }
}

/// Sizes of the bound tensor for logical sizes.
pub fn bound_shape(logical: &[usize], layout: &[usize]) -> Vec<usize> {
    layout.iter().map(|&dim| logical[dim]).collect()
}

/// The shape as people write it: `f32 [2, 4, 256, 64]`.
pub fn describe(dtype: DType, shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("{dtype} [{}]", sizes.join(", "))
}
