//! Divides by what is the same for all elements of a map once, and multiplies each element with the reciprocal.
//!
//! Before: `map s[r, c] = x / 8.0 / cap`. After: `map s[r, c] = x * 0.125 * (1.0 / cap)`.
//!
//! What holds: values differ by the rounding of the reciprocal and of the product. A constant whose reciprocal is no normal
//! f32 divides as before; of a divisor that is known only when the kernel runs, 0 and infinity give what the division gives,
//! and magnitudes beyond 2^126 or below 2^-126 lose bits with their reciprocal. Deliberately not done: quotients of positions,
//! which may be rounded down to a bucket; divisors that follow the row or the column.

use rustc_hash::FxHashMap;

use super::rewrite_blocks;
use crate::expr::eval::Value;
use crate::expr::{BinaryOp, ExprId, Op, Pool, VarId};
use crate::tile_ir::{Program, Stmt};

/// Runs the pass.
pub fn run(program: &mut Program) {
    rewrite_blocks(program, &mut |pool, mut stmt| {
        if let Stmt::Map { row, col, reads, value, .. } = &mut stmt {
            let read: Vec<VarId> = reads.iter().map(|read| read.0).collect();
            *value = multiplied(pool, *value, &read, [*row, *col]);
        }
        vec![stmt]
    });
}

/// The expression with products for quotients of what was read.
fn multiplied(pool: &mut Pool, root: ExprId, read: &[VarId], at: [VarId; 2]) -> ExprId {
    let order = pool.reachable(&[root]);
    let mut new: FxHashMap<ExprId, ExprId> = FxHashMap::default();
    for id in order {
        let by = match *pool.op(id) {
            Op::Binary(BinaryOp::Div, a, b) if pool.depends_on(a, read) => {
                let same = !pool.depends_on(b, read) && !pool.depends_on(b, &at);
                same.then(|| reciprocal(pool, b)).flatten().map(|by| (a, by))
            }
            _ => None,
        };
        let made = match by {
            Some((a, by)) => pool.mul(new[&a], by),
            None => pool.remade(id, &|x| new[&x]),
        };
        new.insert(id, made);
    }
    new[&root]
}

/// `1 / b`, which is the same for all elements.
fn reciprocal(pool: &mut Pool, b: ExprId) -> Option<ExprId> {
    if let Some(Value::Float(divisor)) = pool.as_const(b) {
        let normal = (divisor as f32).is_normal() && ((1.0 / divisor) as f32).is_normal();
        return normal.then(|| pool.float(1.0 / divisor));
    }
    let one = pool.float(1.0);
    Some(pool.binary(BinaryOp::Div, one, b))
}
