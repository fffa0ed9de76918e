//! Everything that makes a launch safe: what the host binds against what the kernel expects.
//!
//! Comes in: named views and parameters. Goes out: a [`RunContext`] whose argument block is complete. What
//! holds afterwards: names, dtypes, ranks and sizes agree; lengths, counts and bytes do not overflow; launch
//! conditions, promised facts, indices and divisors were verified; nothing written overlaps anything else. The
//! same lengths and parameters as before bind without allocating. Deliberately not done: copying, converting or
//! broadcasting what was bound wrongly.

mod args;
mod checks;
mod context;
mod demands;
mod facts;
mod names;
mod sizes;
mod tables;

use attn_compiler::expr::eval::Value;

pub(crate) use args::fill_bound;
pub(crate) use context::{RunContext, tensor_bytes};

use crate::error::RuntimeError;
use crate::signature::Signature;
use crate::tensor::{TensorView, TensorViewMut};

/// A tensor to be read, by name.
pub type NamedInput<'a, 'v> = (&'a str, TensorView<'v>);
/// A tensor to be written, or updated in place, by name.
pub type NamedOutput<'a, 'v> = (&'a str, TensorViewMut<'v>);
/// A parameter, by name.
pub type NamedParam<'a> = (&'a str, Value);

/// Whether `sorted` and `monotone` are verified. Indices are always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Facts {
    /// In time linear in the tensor.
    Verify,
    /// Promised by the caller of an unsafe function.
    Trust,
}

/// What one call binds.
pub(crate) struct Call<'c, 'n, 'v> {
    pub inputs: &'c [NamedInput<'c, 'c>],
    pub outputs: &'c mut [NamedOutput<'n, 'v>],
    pub params: &'c [NamedParam<'c>],
    pub facts: Facts,
}

/// Checks the call and fills the context; see the head of this file for what holds afterwards.
pub(crate) fn bind(
    sig: &Signature,
    ctx: &mut RunContext,
    call: &mut Call<'_, '_, '_>,
) -> Result<(), RuntimeError> {
    check(sig, ctx, call)?;
    args::check_overlap(sig, call, &ctx.bound)?;
    args::fill(sig, call, ctx);
    Ok(())
}

/// All of [`bind`] but the last: that nothing written overlaps anything else, and the argument block.
///
/// Contents are read of inputs with a promised order, of those that checks scan, and of those that demands name.
pub(crate) fn check(
    sig: &Signature,
    ctx: &mut RunContext,
    call: &Call<'_, '_, '_>,
) -> Result<(), RuntimeError> {
    names::match_tensors(sig, call.inputs, call.outputs, &mut ctx.bound)?;
    sizes::check_types(sig, call, &ctx.bound)?;
    names::read_params(sig, call.params, &mut ctx.values)?;
    sizes::read_dims(sig, call, ctx)?;
    let changed = !ctx.ready || ctx.values != ctx.prepared;
    if changed {
        ctx.ready = false;
        sizes::evaluate(sig, ctx)?;
    }
    sizes::compare(sig, call, ctx)?;
    if changed {
        checks::requirements(sig, ctx)?;
        context::prepare(sig, ctx)?;
    }
    if call.facts == Facts::Verify {
        facts::verify_orders(sig, call, &ctx.bound)?;
    }
    demands::check(sig, call, ctx)?;
    checks::proofs(sig, call, ctx)
}

/// Writes every word of the argument block but word 0, for a call that was checked.
pub(crate) fn fill(sig: &Signature, ctx: &mut RunContext, call: &mut Call<'_, '_, '_>) {
    args::fill(sig, call, ctx);
}

/// Puts values in the place of the parameters' defaults.
pub(crate) fn set_defaults(sig: &mut Signature, params: &[NamedParam<'_>]) -> Result<(), RuntimeError> {
    let defaults = names::given_params(sig, params)?;
    for (n, value) in defaults {
        sig.artifact.scalars[n].default = Some(value);
    }
    Ok(())
}

/// Bytes of workspace and tables for dims given by name.
pub(crate) fn workspace_bytes(
    sig: &Signature,
    dims: &[(&str, i64)],
    params: &[NamedParam<'_>],
) -> Result<usize, RuntimeError> {
    let mut ctx = RunContext::new(sig);
    names::read_params(sig, params, &mut ctx.values)?;
    names::given_dims(sig, dims, &mut ctx.values)?;
    sizes::evaluate(sig, &mut ctx)?;
    checks::requirements(sig, &ctx)?;
    context::made_bytes(sig, &ctx)
}
