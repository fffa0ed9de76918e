//! Dtypes, ranks and sizes: dims are read from the tensors, everything else is compared with them.
//!
//! Comes in: bound views and parameter values. Goes out: the value of every dim, the size of every tensor.
//! What holds: a dim has one value wherever it occurs; it is in 0..2^30; element counts and bytes of all
//! tensors fit an address. Views have their memory axes in the order of the spec's `layout`.

use attn_compiler::expr::VarId;
use attn_compiler::expr::eval::{Value, eval};

use super::Call;
use super::context::{RunContext, Scalars};
use super::names::Places;
use crate::error::{DataFault, RuntimeError};
use crate::geometry::Geometry;
use crate::signature::Signature;

/// Lengths stay below this, so that 32-bit index arithmetic has room.
pub(super) const MAX_LENGTH: i64 = 1 << 30;

/// The view bound to tensor `t`, which is an input or an output.
pub(super) fn geometry<'c>(
    sig: &Signature,
    call: &'c Call<'_, '_, '_>,
    places: &Places,
    t: usize,
) -> &'c Geometry {
    if is_input(sig, t) { call.inputs[places[t]].1.geometry() } else { call.outputs[places[t]].1.geometry() }
}

fn is_input(sig: &Signature, t: usize) -> bool {
    matches!(sig.artifact.tensors[t].role, attn_compiler::artifact::TensorRole::Input)
}

/// Inputs, then outputs.
fn bound(sig: &Signature) -> impl Iterator<Item = usize> + '_ {
    sig.inputs.iter().chain(&sig.outputs).copied()
}

/// The axis of the bound tensor that holds logical dim `d`.
pub(super) fn axis_of(sig: &Signature, t: usize, d: usize) -> usize {
    sig.artifact.tensors[t].layout.iter().position(|&x| x == d).unwrap_or(d)
}

pub(super) fn check_types(
    sig: &Signature,
    call: &Call<'_, '_, '_>,
    places: &Places,
) -> Result<(), RuntimeError> {
    for t in bound(sig) {
        let (spec, found) = (&sig.artifact.tensors[t], geometry(sig, call, places, t));
        if found.dtype() != spec.dtype {
            let message = format!(
                "`{}` holds {found}, expected {}; convert it, or plan the kernel for {found}",
                spec.name,
                spec.dtype,
                found = found.dtype()
            );
            return Err(RuntimeError::data(DataFault::DType, message));
        }
        if found.shape().len() != spec.shape.len() {
            let message = format!(
                "`{}` has {} dims {:?}, expected {}: {}",
                spec.name,
                found.shape().len(),
                found.shape(),
                spec.shape.len(),
                expected_shape(sig, t)
            );
            return Err(RuntimeError::data(DataFault::Rank, message));
        }
    }
    Ok(())
}

/// `(B, Hq, Sq, 64)`, in the order of the bound axes.
fn expected_shape(sig: &Signature, t: usize) -> String {
    let spec = &sig.artifact.tensors[t];
    let names: Vec<String> = spec.layout.iter().map(|&d| dim_text(sig, t, d)).collect();
    format!("({})", names.join(", "))
}

/// The size expression of a dim as text.
fn dim_text(sig: &Signature, t: usize, d: usize) -> String {
    let size = sig.artifact.tensors[t].shape[d];
    match (sig.bare_dim(t, d), sig.artifact.pool.as_int(size)) {
        (Some(v), _) => sig.artifact.pool.var_info(v).name.clone(),
        (None, Some(n)) => n.to_string(),
        (None, None) => "a derived size".to_string(),
    }
}

/// Reads every dim from the first tensor that has it; later ones must agree.
pub(super) fn read_dims(
    sig: &Signature,
    call: &Call<'_, '_, '_>,
    ctx: &mut RunContext,
) -> Result<(), RuntimeError> {
    ctx.sources.fill(None);
    for t in bound(sig) {
        for d in 0..sig.artifact.tensors[t].shape.len() {
            let Some(v) = sig.bare_dim(t, d) else { continue };
            let axis = axis_of(sig, t, d);
            let found = geometry(sig, call, &ctx.bound, t).shape()[axis] as i64;
            let slot = v.0 as usize;
            match ctx.sources[slot] {
                Some(first) if ctx.values[slot] != Value::Int(found) => {
                    return Err(disagreement(sig, v, first, ctx.values[slot].int(), (t, axis), found));
                }
                Some(_) => {}
                None => {
                    check_length(sig, t, axis, v, found)?;
                    ctx.values[slot] = Value::Int(found);
                    ctx.sources[slot] = Some((t, axis));
                }
            }
        }
    }
    Ok(())
}

fn check_length(sig: &Signature, t: usize, axis: usize, v: VarId, found: i64) -> Result<(), RuntimeError> {
    if (0..MAX_LENGTH).contains(&found) {
        return Ok(());
    }
    let (tensor, dim) = (&sig.artifact.tensors[t].name, &sig.artifact.pool.var_info(v).name);
    let message =
        format!("`{tensor}` axis {axis} ({dim}) is {found}; lengths must be below 2^30, split the sequence");
    Err(RuntimeError::data(DataFault::Size, message))
}

fn disagreement(
    sig: &Signature,
    v: VarId,
    (first, first_axis): (usize, usize),
    expected: i64,
    (t, axis): (usize, usize),
    found: i64,
) -> RuntimeError {
    let name = |t: usize| &sig.artifact.tensors[t].name;
    let dim = &sig.artifact.pool.var_info(v).name;
    let message = format!(
        "`{}` axis {axis} ({dim}) is {found}, but `{}` axis {first_axis} gave {dim} = {expected}; \
         bind tensors that agree",
        name(t),
        name(first)
    );
    RuntimeError::data(DataFault::Size, message)
}

/// Evaluates the sizes of all tensors into `ctx.sizes`; counts and bytes are checked.
pub(super) fn evaluate(sig: &Signature, ctx: &mut RunContext) -> Result<(), RuntimeError> {
    for (t, spec) in sig.artifact.tensors.iter().enumerate() {
        let mut bytes = Some(spec.dtype.size());
        for (d, &size) in spec.shape.iter().enumerate() {
            let n = eval(&sig.artifact.pool, size, &Scalars(&ctx.values)).int();
            let Ok(n) = usize::try_from(n) else {
                let message = format!(
                    "dim {d} of `{}` would be {n}; with these lengths the kernel has no meaning",
                    spec.name
                );
                return Err(RuntimeError::data(DataFault::Size, message));
            };
            ctx.sizes[t][d] = n;
            bytes = bytes.and_then(|b| b.checked_mul(n));
        }
        if bytes.is_none_or(|b| isize::try_from(b).is_err()) {
            let shape = &ctx.sizes[t][..spec.shape.len()];
            let message = format!(
                "`{}` with shape {shape:?} has more bytes than an address can count; use shorter lengths",
                spec.name
            );
            return Err(RuntimeError::data(DataFault::Size, message));
        }
    }
    Ok(())
}

/// Every bound view has exactly the sizes evaluated.
pub(super) fn compare(
    sig: &Signature,
    call: &Call<'_, '_, '_>,
    ctx: &RunContext,
) -> Result<(), RuntimeError> {
    for t in bound(sig) {
        let spec = &sig.artifact.tensors[t];
        let found = geometry(sig, call, &ctx.bound, t).shape();
        for (axis, &d) in spec.layout.iter().enumerate() {
            if found[axis] != ctx.sizes[t][d] {
                return Err(wrong_size(sig, t, axis, ctx.sizes[t][d], found));
            }
        }
    }
    Ok(())
}

fn wrong_size(sig: &Signature, t: usize, axis: usize, expected: usize, found: &[usize]) -> RuntimeError {
    let spec = &sig.artifact.tensors[t];
    let fixed = sig.artifact.pool.as_int(spec.shape[spec.layout[axis]]).is_some();
    let why = if fixed {
        "this size is fixed by the plan: plan again for another"
    } else {
        "it follows from the other dims"
    };
    let message = format!(
        "`{}` axis {axis} is {}, expected {expected}; shape found {found:?}, expected {}; {why}",
        spec.name,
        found[axis],
        expected_shape(sig, t)
    );
    RuntimeError::data(DataFault::Size, message)
}
