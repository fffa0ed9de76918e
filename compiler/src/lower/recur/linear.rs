//! Recognises updates that are linear in their own state: `s = decay * s + sum of factor * outer(x, y)`.
//!
//! Comes in: a recurrence. Goes out: for each state its decay, its terms and the rows that are multiplied with it;
//! or nothing where one state or read has another form. What holds: decay and factors are float expressions over b,
//! h and t that read no state. Not here: what is done with them.

use crate::attn_ir::recur::{NodeId, RecurOp, Recurrence, Shape};
use crate::expr::{BinaryOp, ExprId, Op, Pool, UnaryOp, VarId};

/// One state.
pub struct Linear {
    /// Which.
    pub state: usize,
    /// Factor of the old state.
    pub decay: ExprId,
    /// What is added.
    pub terms: Vec<Term>,
    /// Positions in the recurrence's reads, and the row that is multiplied with the state there.
    pub reads: Vec<(usize, NodeId)>,
}

/// `factor * outer(x, y)`; without `y`, `factor * x` for a state that is a row.
pub struct Term {
    /// A number for each step.
    pub factor: ExprId,
    /// As long as the state has rows.
    pub x: NodeId,
    /// As long as the state has columns.
    pub y: Option<NodeId>,
}

/// What an expression is in terms of one state.
struct Sum {
    decay: ExprId,
    terms: Vec<Term>,
}

/// Every state, if all have this form.
pub fn of(pool: &mut Pool, r: &Recurrence) -> Option<Vec<Linear>> {
    let mut parts = Vec::new();
    for (state, value) in &r.updates {
        let Sum { decay, terms } = node(pool, r, *value, *state)?;
        parts.push(Linear { state: *state, decay, terms, reads: Vec::new() });
    }
    if (0..r.states.len()).any(|s| !parts.iter().any(|p| p.state == s)) {
        return None;
    }
    for (n, read) in r.reads.iter().enumerate() {
        let (row, state) = match r.node(read.node).op {
            RecurOp::VecMat(x, m) => (x, m),
            RecurOp::Dot(x, y) if r.reads_state(x) => (y, x),
            RecurOp::Dot(x, y) => (x, y),
            _ => return None,
        };
        let RecurOp::State(s) = r.node(state).op else { return None };
        if r.reads_state(row) {
            return None;
        }
        parts.iter_mut().find(|p| p.state == s)?.reads.push((n, row));
    }
    Some(parts)
}

fn node(pool: &mut Pool, r: &Recurrence, id: NodeId, state: usize) -> Option<Sum> {
    let (zero, one) = (pool.float(0.0), pool.float(1.0));
    let term = |x, y| Some(Sum { decay: zero, terms: vec![Term { factor: one, x, y }] });
    match &r.node(id).op {
        RecurOp::State(n) if *n == state => Some(Sum { decay: one, terms: vec![] }),
        RecurOp::Outer(x, y) if !r.reads_state(*x) && !r.reads_state(*y) => term(*x, Some(*y)),
        RecurOp::Row(_) if matches!(r.states[state].shape, Shape::Row(_)) => term(id, None),
        RecurOp::Map { args, value } => {
            let args = args.clone();
            arithmetic(pool, r, *value, &args, state)
        }
        _ => None,
    }
}

fn arithmetic(
    pool: &mut Pool,
    r: &Recurrence,
    e: ExprId,
    args: &[(VarId, NodeId)],
    state: usize,
) -> Option<Sum> {
    let vars: Vec<VarId> = args.iter().map(|a| a.0).collect();
    let number = |pool: &Pool, x: ExprId| !pool.depends_on(x, &vars);
    match *pool.op(e) {
        Op::Var(v) => node(pool, r, args.iter().find(|a| a.0 == v)?.1, state),
        Op::Unary(UnaryOp::Neg, x) => {
            let x = arithmetic(pool, r, x, args, state)?;
            let minus = pool.float(-1.0);
            Some(scaled(pool, x, BinaryOp::Mul, minus))
        }
        Op::Binary(op @ (BinaryOp::Add | BinaryOp::Sub), a, b) => {
            let (a, b) = (arithmetic(pool, r, a, args, state)?, arithmetic(pool, r, b, args, state)?);
            let minus = pool.float(-1.0);
            let b = if op == BinaryOp::Sub { scaled(pool, b, BinaryOp::Mul, minus) } else { b };
            let zero = |x: ExprId| pool.as_const(x).is_some_and(|v| v.float() == 0.0);
            // A sum with 0 would hide an exponential.
            let decay = match (zero(a.decay), zero(b.decay)) {
                (true, _) => b.decay,
                (_, true) => a.decay,
                _ => pool.binary(BinaryOp::Add, a.decay, b.decay),
            };
            let mut terms = a.terms;
            terms.extend(b.terms);
            Some(Sum { decay, terms })
        }
        Op::Binary(BinaryOp::Mul, a, b) if number(pool, a) => {
            let b = arithmetic(pool, r, b, args, state)?;
            Some(scaled(pool, b, BinaryOp::Mul, a))
        }
        Op::Binary(op @ (BinaryOp::Mul | BinaryOp::Div), a, b) if number(pool, b) => {
            let a = arithmetic(pool, r, a, args, state)?;
            Some(scaled(pool, a, op, b))
        }
        _ => None,
    }
}

fn scaled(pool: &mut Pool, sum: Sum, op: BinaryOp, by: ExprId) -> Sum {
    let mut scale = |x: ExprId| match (op, pool.as_const(x)) {
        (_, Some(v)) if v.float() == 0.0 => x,
        (BinaryOp::Mul, Some(v)) if v.float() == 1.0 => by,
        (BinaryOp::Mul, Some(v)) => match pool.as_const(by) {
            Some(w) => pool.float(v.float() * w.float()),
            None => pool.binary(op, x, by),
        },
        _ => pool.binary(op, x, by),
    };
    let decay = scale(sum.decay);
    let terms = sum.terms.into_iter().map(|t| Term { factor: scale(t.factor), ..t }).collect();
    Sum { decay, terms }
}
