//! Lowering of a [`Recurrence`].
//!
//! Comes in: states, updates, reads. Goes out: launches. Where every update is linear in its own state with factors
//! that depend on no state, and every read is a row times a state, whole chunks of steps are products of tiles
//! (`chunked`); everything else runs step by step on blocks of 32 columns of the states (`stepwise`). Both give the
//! same result. Not here: what the host binds.

mod chunked;
mod decay;
mod emit;
mod linear;
mod rows;
mod stepwise;

use crate::attn_ir::recur::Recurrence;
use crate::expr::Op;
use crate::tile_ir::Program;

/// How a recurrence is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Chunks of this many steps.
    Chunked(i64),
    /// One step after the other.
    Stepwise,
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Form::Chunked(n) => write!(f, "chunks of {n} steps as products"),
            Form::Stepwise => f.write_str("step by step, 32 columns of the state at a time"),
        }
    }
}

/// Adds the launches to the program, whose pool extends the recurrence's.
///
/// # Errors
/// What cannot be computed on blocks of columns, in words.
pub fn recurrence(program: &mut Program, r: &Recurrence) -> Result<Form, String> {
    match linear::of(&mut program.pool, r) {
        Some(parts) => {
            for part in &parts {
                chunked::state(program, r, part);
            }
            Ok(Form::Chunked(chunked::STEPS))
        }
        None => stepwise::steps(program, r).map(|()| Form::Stepwise),
    }
}

/// True if the expression loads an element of a tensor.
fn loads(program: &Program, e: crate::expr::ExprId) -> bool {
    program.pool.reachable(&[e]).iter().any(|n| matches!(program.pool.op(*n), Op::Load(..)))
}
