//! `if true { a } else { b }` becomes `a`; an `if` without statements goes.
//!
//! Before: `if true { map s = .. } else { map s = .. }`. After: `map s = ..`. A kernel without a mask loses its
//! tile classification here.

use super::rewrite_blocks;
use crate::tile_ir::{Program, Stmt};

/// Runs the pass.
pub fn run(program: &mut Program) {
    rewrite_blocks(program, &mut |pool, stmt| match stmt {
        Stmt::If { cond, then, otherwise } => match pool.as_bool(cond) {
            Some(true) => then,
            Some(false) => otherwise,
            None if then.is_empty() && otherwise.is_empty() => vec![],
            None => vec![Stmt::If { cond, then, otherwise }],
        },
        other => vec![other],
    });
}
