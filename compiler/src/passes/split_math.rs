//! Takes elementary functions that vary over a tile out of maps, so that whole tiles go through the vector
//! intrinsics.
//!
//! Before: `map s = tanh(x / 50.0) * 50.0 where x = s`.
//! After: `map s = x / 50.0 where x = s; math s = tanh(s); map s = y * 50.0 where y = s`.
//!
//! Done where the map's value is a chain: exactly one elementary function of the written tile, whose argument
//! holds every read of that tile, so that the tile itself can carry the intermediate value and no further
//! buffer is needed. Where nothing of the tile is read, exactly one function that varies from element to element.
//! Any other shape keeps its scalar calls.

use super::rewrite_blocks;
use crate::artifact::MathFn;
use crate::expr::{ExprId, Op, Pool, Ty, UnaryOp, VarId};
use crate::tile_ir::{Access, Program, Stmt};

/// Runs the pass.
pub fn run(program: &mut Program) {
    rewrite_blocks(program, &mut |pool, stmt| match split(pool, &stmt) {
        Some(parts) => parts,
        None => vec![stmt],
    });
}

fn split(pool: &mut Pool, stmt: &Stmt) -> Option<Vec<Stmt>> {
    let Stmt::Map { dst, rows, cols, row, col, reads, value } = stmt else { return None };
    let (dst, rows, cols) = (*dst, *rows, *cols);
    let tile_vars: Vec<VarId> =
        reads.iter().filter(|(_, b, a)| *b == dst && *a == Access::Tile).map(|r| r.0).collect();
    let varying = if tile_vars.is_empty() { vec![*row, *col] } else { tile_vars.clone() };
    let (call, f, argument) = elementary_calls(pool, *value, &varying)?;
    let carried = pool.add_var("y", Ty::Float);
    let y = pool.var(carried);
    let outer = pool.rewrite(*value, &mut |_, n| (n == call).then_some(y));
    if pool.depends_on(outer, &tile_vars) {
        return None;
    }
    let (first, seconds) = (reads_of(pool, argument, reads), reads_of(pool, outer, reads));
    let mut parts = vec![
        Stmt::Map { dst, rows, cols, row: *row, col: *col, reads: first, value: argument },
        Stmt::Math { f, dst, rows, cols },
    ];
    if outer == y {
        return Some(parts);
    }
    let (row2, col2) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
    let (r2, c2) = (pool.var(row2), pool.var(col2));
    let mut renamed = vec![(*row, r2), (*col, c2)];
    let mut reads2 = vec![(carried, dst, Access::Tile)];
    for (var, buf, access) in seconds {
        let fresh = pool.add_var("x", Ty::Float);
        renamed.push((var, pool.var(fresh)));
        reads2.push((fresh, buf, access));
    }
    let value = pool.substitute(outer, &renamed);
    parts.push(Stmt::Map { dst, rows, cols, row: row2, col: col2, reads: reads2, value });
    Some(parts)
}

fn reads_of(
    pool: &Pool,
    value: ExprId,
    reads: &[(VarId, crate::tile_ir::BufId, Access)],
) -> Vec<(VarId, crate::tile_ir::BufId, Access)> {
    let used = pool.free_vars(value);
    reads.iter().filter(|(v, _, _)| used.contains(v)).copied().collect()
}

/// The one call whose argument depends on what varies, if it is the only one.
fn elementary_calls(pool: &Pool, value: ExprId, varying: &[VarId]) -> Option<(ExprId, MathFn, ExprId)> {
    let mut found = None;
    for id in pool.reachable(&[value]) {
        let Op::Unary(op, x) = *pool.op(id) else { continue };
        let Some(f) = math_fn(op) else { continue };
        if !pool.depends_on(x, varying) {
            continue;
        }
        if found.is_some() {
            return None;
        }
        found = Some((id, f, x));
    }
    found
}

fn math_fn(op: UnaryOp) -> Option<MathFn> {
    Some(match op {
        UnaryOp::Exp => MathFn::Exp,
        UnaryOp::Exp2 => MathFn::Exp2,
        UnaryOp::Log => MathFn::Log,
        UnaryOp::Log2 => MathFn::Log2,
        UnaryOp::Tanh => MathFn::Tanh,
        UnaryOp::Sigmoid => MathFn::Sigmoid,
        UnaryOp::Sin => MathFn::Sin,
        UnaryOp::Cos => MathFn::Cos,
        _ => return None,
    })
}
