//! The argument block, and the last check before it: nothing written overlaps anything else.
//!
//! Comes in: a call that has passed every other check. Goes out: the words of
//! [`attn_compiler::artifact::ArgLayout`]. The overlap test compares byte ranges, so two interleaved views of
//! one buffer are refused too. Deliberately not done: the address of the intrinsics (word 0), which the kernel
//! writes, and addresses on a device, which take the place of the host's when they are known.

use attn_compiler::expr::eval::Value;

use super::Call;
use super::context::RunContext;
use super::names::Places;
use super::sizes::axis_of;
use crate::error::{DataFault, RuntimeError};
use crate::geometry::Geometry;
use crate::signature::Signature;

pub(super) fn check_overlap(
    sig: &Signature,
    call: &Call<'_, '_, '_>,
    places: &Places,
) -> Result<(), RuntimeError> {
    let input = |t: usize| {
        let view = &call.inputs[places[t]].1;
        view.geometry().byte_range(view.first() as usize)
    };
    let output = |t: usize| {
        let view = &call.outputs[places[t]].1;
        view.geometry().byte_range(view.first() as usize)
    };
    for (n, &o) in sig.outputs.iter().enumerate() {
        let others =
            sig.inputs.iter().map(|&t| (t, input(t))).chain(sig.outputs[..n].iter().map(|&t| (t, output(t))));
        for (t, other) in others {
            if overlap(output(o), other) {
                let name = |t: usize| &sig.artifact.tensors[t].name;
                let message = format!(
                    "output `{}` shares memory with `{}`; give the output memory of its own",
                    name(o),
                    name(t)
                );
                return Err(RuntimeError::data(DataFault::Overlap, message));
            }
        }
    }
    Ok(())
}

/// Do two byte ranges share a byte? Empty ones share none.
fn overlap(a: (usize, usize), b: (usize, usize)) -> bool {
    a.0 < a.1 && b.0 < b.1 && a.0 < b.1 && b.0 < a.1
}

/// Writes every word but word 0.
pub(super) fn fill(sig: &Signature, call: &mut Call<'_, '_, '_>, ctx: &mut RunContext) {
    for &t in &sig.inputs {
        let view = &call.inputs[ctx.bound[t]].1;
        fill_bound(sig, &mut ctx.args, t, view.first() as u64, view.geometry());
    }
    for &t in &sig.outputs {
        let view = &mut call.outputs[ctx.bound[t]].1;
        let first = view.first_mut() as u64;
        fill_bound(sig, &mut ctx.args, t, first, view.geometry());
    }
    for (n, &t) in sig.tables.iter().enumerate() {
        let first = ctx.tables[n].buf.bytes_mut().as_mut_ptr() as u64;
        fill_contiguous(sig, ctx, t, first);
    }
    for (n, &t) in sig.workspaces.iter().enumerate() {
        let first = (ctx.workspace.bytes_mut().as_mut_ptr() as u64).wrapping_add(ctx.workspace_at[n] as u64);
        fill_contiguous(sig, ctx, t, first);
    }
    for (n, s) in sig.artifact.scalars.iter().enumerate() {
        ctx.args[sig.layout.scalars[n]] = match ctx.values[s.var.0 as usize] {
            Value::Int(x) => x as u64,
            Value::Float(x) => u64::from((x as f32).to_bits()),
            Value::Bool(x) => u64::from(x),
        };
    }
}

/// Writes the words of a bound tensor.
pub(crate) fn fill_bound(sig: &Signature, args: &mut [u64], t: usize, first: u64, geometry: &Geometry) {
    args[sig.layout.address(t)] = first;
    for d in 0..geometry.shape().len() {
        let axis = axis_of(sig, t, d);
        args[sig.layout.size(t, d)] = geometry.shape()[axis] as u64;
        args[sig.layout.stride(t, d)] = geometry.strides()[axis] as u64;
    }
}

fn fill_contiguous(sig: &Signature, ctx: &mut RunContext, t: usize, first: u64) {
    ctx.args[sig.layout.address(t)] = first;
    let mut stride = 1u64;
    for d in (0..sig.artifact.tensors[t].shape.len()).rev() {
        let size = ctx.sizes[t][d] as u64;
        ctx.args[sig.layout.size(t, d)] = size;
        ctx.args[sig.layout.stride(t, d)] = stride;
        stride = stride.wrapping_mul(size.max(1));
    }
}
