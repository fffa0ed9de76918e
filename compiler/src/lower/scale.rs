//! Takes a positive constant factor out of the score, so that the softmax step applies it for nothing.
//!
//! `dot / sqrt(D)` becomes the score `dot` with scale `1 / sqrt(D)`: no map is needed then. Only a positive
//! finite constant is taken: -inf must stay -inf. Anything else keeps its order of operations.
//!
//! Also decides how a dot is summed: one chain over all features where the score is scaled down, chains of
//! [`CHUNK`] features where it is not and rounding errors of a long chain would reach the weights at full size.

use crate::expr::eval::Value;
use crate::expr::{BinaryOp, ExprId, Op, Pool, VarId};

/// The score without its factor, and the factor.
pub fn split(pool: &Pool, score: ExprId) -> (ExprId, f64) {
    match *pool.op(score) {
        Op::Binary(BinaryOp::Mul, x, c) | Op::Binary(BinaryOp::Mul, c, x) if positive(pool, c).is_some() => {
            (x, positive(pool, c).unwrap_or(1.0))
        }
        Op::Binary(BinaryOp::Div, x, c) if positive(pool, c).is_some_and(|c| (1.0 / c).is_normal()) => {
            (x, 1.0 / positive(pool, c).unwrap_or(1.0))
        }
        _ => (score, 1.0),
    }
}

/// Features of one chain of a dot that is not scaled down: the error of k chains is 1 / sqrt(k) of that of one.
pub const CHUNK: i64 = 32;

/// How many features of a dot go into one chain: all `d`, or [`CHUNK`] if the dot is not scaled.
pub fn chain(pool: &Pool, score: ExprId, dot: VarId, d: i64) -> i64 {
    if d <= CHUNK || is_scaled(pool, score, dot, d) { d } else { CHUNK }
}

/// Does a factor near `1 / sqrt(d)` follow a dot over `d` features?
pub fn is_scaled(pool: &Pool, score: ExprId, dot: VarId, d: i64) -> bool {
    let plain = |id: ExprId| matches!(pool.op(id), Op::Var(v) if *v == dot);
    // The scale of a stored row belongs to the row, not to the score.
    let is_dot = |id: ExprId| match *pool.op(id) {
        Op::Binary(BinaryOp::Mul, x, y) => {
            (plain(x) && pool.as_const(y).is_none()) || (plain(y) && pool.as_const(x).is_none())
        }
        _ => plain(id),
    };
    pool.reachable(&[score]).into_iter().any(|id| match *pool.op(id) {
        Op::Binary(BinaryOp::Mul | BinaryOp::Div, x, y) if is_dot(x) || is_dot(y) => {
            split(pool, id).1 * (d as f64).sqrt() <= 2.0
        }
        _ => false,
    })
}

fn positive(pool: &Pool, id: ExprId) -> Option<f64> {
    match pool.as_const(id) {
        Some(Value::Float(c)) if c > 0.0 && c.is_normal() && (c as f32).is_normal() => Some(c),
        _ => None,
    }
}
