//! Takes a positive constant factor out of the score, so that the softmax step applies it for nothing.
//!
//! `dot / sqrt(D)` becomes the score `dot` with scale `1 / sqrt(D)`: no map is needed then. Only a positive
//! finite constant is taken: -inf must stay -inf. Anything else keeps its order of operations.

use crate::expr::eval::Value;
use crate::expr::{BinaryOp, ExprId, Op, Pool};

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

fn positive(pool: &Pool, id: ExprId) -> Option<f64> {
    match pool.as_const(id) {
        Some(Value::Float(c)) if c > 0.0 && c.is_normal() && (c as f32).is_normal() => Some(c),
        _ => None,
    }
}
