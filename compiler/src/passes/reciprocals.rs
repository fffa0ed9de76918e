//! Divides by what is the same for all elements of a map once, and multiplies each element with the reciprocal.
//!
//! Before: `map s[r, c] = x / 8.0 / cap`. After: `map s[r, c] = x * 0.125 * (1.0 / cap)`.
//!
//! What holds: values differ by the rounding of the reciprocal and of the product. A constant whose reciprocal is no normal
//! f32 divides as before; of a divisor that is known only when the kernel runs, 0 and infinity give what the division gives,
//! magnitudes beyond 2^126 lose bits with their reciprocal, and that of one below 2^-128 is infinite. Deliberately not done: quotients of positions,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{Ty, UnaryOp};

    #[test]
    fn what_was_read_is_multiplied_and_positions_are_divided() {
        let mut pool = Pool::default();
        let mut var = |name: &str, ty| {
            let var = pool.add_var(name, ty);
            (var, pool.var(var))
        };
        let ((x, of_tile), (row, _), (col, at)) = (var("x", Ty::Float), var("r", Ty::Int), var("c", Ty::Int));
        let (_, cap) = var("cap", Ty::Float);
        let mut div = |a, b| pool.binary(BinaryOp::Div, a, b);
        let capped = div(of_tile, cap);
        let position = pool.unary(UnaryOp::ToFloat, at);
        let by = [49.0, 8.0, 0.0, 1e39].map(|n| pool.float(n));
        let [by_49, by_8, by_0, by_huge] = by;
        let quotients = [position, of_tile].map(|a| pool.binary(BinaryOp::Div, a, by_49));
        let nested = pool.binary(BinaryOp::Div, capped, by_8);
        let kept = [(of_tile, by_0), (of_tile, by_huge), (of_tile, position), (cap, of_tile)];
        for (a, b) in kept {
            let quotient = pool.binary(BinaryOp::Div, a, b);
            assert_eq!(multiplied(&mut pool, quotient, &[x], [row, col]), quotient);
        }
        assert_eq!(multiplied(&mut pool, quotients[0], &[x], [row, col]), quotients[0], "a position");
        let (part, one, eighth) = (pool.float(1.0 / 49.0), pool.float(1.0), pool.float(0.125));
        let product = pool.mul(of_tile, part);
        assert_eq!(multiplied(&mut pool, quotients[1], &[x], [row, col]), product);
        let inverse = pool.binary(BinaryOp::Div, one, cap);
        let product = pool.mul(of_tile, inverse);
        let product = pool.mul(product, eighth);
        assert_eq!(multiplied(&mut pool, nested, &[x], [row, col]), product);
    }
}
