//! From a plan to an artifact, by the backend of its target.
//!
//! Comes in: a plan whose tile IR is final. Goes out: an [`Artifact`]. What holds: this is the only place that
//! chooses a backend; Cranelift works in this process, LLVM in its own (`llvm.rs`).

use attn_compiler::artifact::Artifact;
use attn_compiler::diagnostic::SourceMap;
use attn_compiler::pipeline::{self, Observer, Plan};

use crate::error::Error;

/// Makes the code of a plan. `map` holds the texts that errors point into.
///
/// # Errors
/// An operation that the target has no code for yet, no LLVM worker, or a bug of ours.
pub fn emit(map: &SourceMap, plan: &Plan, observer: &mut dyn Observer) -> Result<Artifact, Error> {
    pipeline::emit_each(plan, observer, &attn_runtime::on_threads).map_err(|err| Error::of_compile(map, err))
}
