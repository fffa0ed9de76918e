//! Symbolic intervals: bounds of an int expression over variables that run over intervals, as expressions.
//!
//! Comes in: an expression and the first and last value of each variable. Goes out: its first and last value, where
//! it is made of +, -, min, max, |x|, division by a positive constant and what is the same everywhere; sound, not
//! tight. Not here: numbers (`range.rs`).

use super::{BinaryOp, ExprId, Op, Pool, UnaryOp, VarId};

/// A variable, its first and its last value.
pub type Between = (VarId, ExprId, ExprId);

/// Symbolic bounds of an int expression made of +, -, min, max, constants and uniform values.
pub fn interval(pool: &mut Pool, bounds: &[Between], id: ExprId) -> Option<(ExprId, ExprId)> {
    let vars: Vec<VarId> = bounds.iter().map(|b| b.0).collect();
    if !pool.depends_on(id, &vars) {
        return Some((id, id));
    }
    match pool.op(id).clone() {
        Op::Var(v) => bounds.iter().find(|(w, _, _)| *w == v).map(|(_, lo, hi)| (*lo, *hi)),
        Op::Unary(UnaryOp::Neg, x) => {
            let (lo, hi) = interval(pool, bounds, x)?;
            Some((pool.unary(UnaryOp::Neg, hi), pool.unary(UnaryOp::Neg, lo)))
        }
        Op::Unary(UnaryOp::Abs, x) => {
            let (lo, hi) = interval(pool, bounds, x)?;
            let (zero, low) = (pool.int(0), pool.unary(UnaryOp::Neg, lo));
            Some((zero, pool.max(low, hi)))
        }
        Op::Binary(op, a, b) => binary(pool, bounds, op, a, b),
        _ => None,
    }
}

fn binary(
    pool: &mut Pool,
    bounds: &[Between],
    op: BinaryOp,
    a: ExprId,
    b: ExprId,
) -> Option<(ExprId, ExprId)> {
    let (al, ah) = interval(pool, bounds, a)?;
    let (bl, bh) = interval(pool, bounds, b)?;
    match op {
        BinaryOp::Add => Some((pool.add(al, bl), pool.add(ah, bh))),
        BinaryOp::Sub => Some((pool.sub(al, bh), pool.sub(ah, bl))),
        BinaryOp::Min => Some((pool.min(al, bl), pool.min(ah, bh))),
        BinaryOp::Max => Some((pool.max(al, bl), pool.max(ah, bh))),
        BinaryOp::IDiv if pool.as_int(b).is_some_and(|c| c > 0) => Some((pool.idiv(al, b), pool.idiv(ah, b))),
        _ => None,
    }
}
