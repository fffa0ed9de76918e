//! The passes over the tile IR, in order. Each is one file, one function, one name; each keeps the program
//! valid (it is verified after every one that changed it) and its meaning (the interpreter agrees before and after).

mod affine;
mod band;
mod drop_identity_maps;
mod fold_branches;
mod reciprocals;
mod split_math;

use crate::target::Target;
use crate::tile_ir::{Program, Stmt};

/// A pass.
pub struct Pass {
    /// Name in `--print-ir-after` and `--time-passes`.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Whether it is wanted for a target.
    pub when: fn(&Target) -> bool,
    /// Does it.
    pub run: fn(&mut Program),
}

/// Every pass, in order.
pub const PASSES: [Pass; 6] = [
    Pass {
        name: "fold-branches",
        about: "takes the branch whose condition is known",
        when: |_| true,
        run: fold_branches::run,
    },
    Pass {
        name: "drop-identity-maps",
        about: "removes maps that write what they read",
        when: |_| true,
        run: drop_identity_maps::run,
    },
    Pass {
        name: "reciprocals",
        about: "multiplies elements with the reciprocal of what divides all of them",
        when: |_| true,
        run: reciprocals::run,
    },
    Pass {
        name: "split-math",
        about: "takes elementary functions of whole tiles out of maps, for the vector intrinsics",
        when: |target| matches!(target, Target::Cpu(_)),
        run: split_math::run,
    },
    Pass {
        name: "affine",
        about: "computes what maps add to or multiply scores with once for each column or diagonal, for the vector intrinsics",
        when: |target| matches!(target, Target::Cpu(_)),
        run: affine::run,
    },
    Pass {
        name: "band",
        about: "masks one run of columns of each row without comparing every element",
        when: |target| matches!(target, Target::Cpu(_)),
        run: band::run,
    },
];

/// Rewrites every block of a program, innermost first: `f` maps one statement to what replaces it.
pub(crate) fn rewrite_blocks(
    program: &mut Program,
    f: &mut dyn FnMut(&mut crate::expr::Pool, Stmt) -> Vec<Stmt>,
) {
    let mut launches = std::mem::take(&mut program.launches);
    for launch in &mut launches {
        let body = std::mem::take(&mut launch.body);
        launch.body = rewrite_block(&mut program.pool, body, f);
    }
    program.launches = launches;
}

fn rewrite_block(
    pool: &mut crate::expr::Pool,
    block: Vec<Stmt>,
    f: &mut dyn FnMut(&mut crate::expr::Pool, Stmt) -> Vec<Stmt>,
) -> Vec<Stmt> {
    let mut out = Vec::with_capacity(block.len());
    for stmt in block {
        let stmt = match stmt {
            Stmt::For { var, lo, hi, body } => Stmt::For { var, lo, hi, body: rewrite_block(pool, body, f) },
            Stmt::If { cond, then, otherwise } => Stmt::If {
                cond,
                then: rewrite_block(pool, then, f),
                otherwise: rewrite_block(pool, otherwise, f),
            },
            other => other,
        };
        out.extend(f(pool, stmt));
    }
    out
}
