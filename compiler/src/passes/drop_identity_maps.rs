//! `map s[r, c] = x where x is s[r, c]` does nothing and goes; an `if` left without statements goes too.
//!
//! Before: `if full { map s = s } else { map s = mask ? s : -inf }`. After: `if !full { map s = .. }`.

use super::rewrite_blocks;
use crate::expr::Op;
use crate::tile_ir::{Access, Program, Stmt};

/// Runs the pass.
pub fn run(program: &mut Program) {
    rewrite_blocks(program, &mut |pool, stmt| match stmt {
        Stmt::Map { dst, ref reads, value, .. } => {
            let same = match pool.op(value) {
                Op::Var(v) => {
                    reads.iter().any(|(w, buf, access)| w == v && *buf == dst && *access == Access::Tile)
                }
                _ => false,
            };
            if same { vec![] } else { vec![stmt] }
        }
        Stmt::If { cond, then, otherwise } if then.is_empty() && !otherwise.is_empty() => {
            vec![Stmt::If { cond: pool.not(cond), then: otherwise, otherwise: vec![] }]
        }
        Stmt::If { ref then, ref otherwise, .. } if then.is_empty() && otherwise.is_empty() => vec![],
        other => vec![other],
    });
}
