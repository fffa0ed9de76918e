//! How made-up numbers of a recurrence are drawn, so that a thousand steps stay within f32.
//!
//! Comes in: a kernel and an input. Goes out: a [`Draw`], a function of a normal number. What holds: rows over the
//! sequence have a length of about 1 (an update such as the delta rule amplifies longer ones), numbers under an
//! exponential make it fall, other numbers of an update lie between 0 and 1. Attentions are not touched.

use super::{Kernel, Step};
use crate::artifact::DType;
use crate::expr::eval::{Env, Value, eval};
use crate::expr::{ExprId, Op, TensorId, Ty, UnaryOp, VarId};

/// What a normal number becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// Itself.
    Normal,
    /// Divided by the root of this size.
    Row(ExprId),
    /// Its magnitude, negative or positive.
    Signed(f64),
    /// Between 0 and 1.
    Share,
}

impl Draw {
    /// The number; `size` evaluates a size.
    pub fn of(self, x: f64, size: &dyn Fn(ExprId) -> i64) -> f64 {
        match self {
            Draw::Normal => x,
            Draw::Row(n) => x / (size(n).max(1) as f64).sqrt(),
            Draw::Signed(sign) => sign * x.abs(),
            Draw::Share => x.abs() / (1.0 + x.abs()),
        }
    }
}

/// How an input is drawn.
pub fn draw(kernel: &Kernel, id: TensorId) -> Draw {
    let t = kernel.tensor(id);
    let recurrences = || kernel.recurrences();
    if recurrences().next().is_none() || !t.dtype.is_float() {
        return Draw::Normal;
    }
    if let Some((rows, _)) = kernel.roles.iter().find(|(rows, _)| rows.tensor == id) {
        return Draw::Row(t.shape[rows.feature]);
    }
    if recurrences().any(|r| r.states.iter().any(|s| s.init == super::recur::Init::Tensor(id))) {
        return Draw::Normal;
    }
    let mut roots: Vec<ExprId> = recurrences().flat_map(super::recur::Recurrence::update_exprs).collect();
    // Dots and the like of an update stand in tensors of their own.
    for step in &kernel.steps {
        if let Step::Derive(d) = step
            && loads(kernel, d.out, &roots)
        {
            roots.push(d.value);
        }
    }
    let own = |e: ExprId| loads(kernel, id, &[e]);
    if !roots.iter().any(|e| own(*e)) {
        return Draw::Normal;
    }
    let exponent = |e: ExprId| match kernel.pool.op(e) {
        Op::Unary(UnaryOp::Exp | UnaryOp::Exp2, x) if own(*x) => Some(*x),
        _ => None,
    };
    match kernel.pool.reachable(&roots).into_iter().find_map(exponent) {
        Some(x) => {
            let rises = eval(&kernel.pool, x, &Probe { kernel, id }).float() > 0.0;
            Draw::Signed(if rises { -1.0 } else { 1.0 })
        }
        None => Draw::Share,
    }
}

fn loads(kernel: &Kernel, id: TensorId, roots: &[ExprId]) -> bool {
    let load = |e: ExprId| matches!(kernel.pool.op(e), Op::Load(t, ..) if *t == id);
    kernel.pool.reachable(roots).into_iter().any(load)
}

/// The input is 1, other tensors are 0.
struct Probe<'a> {
    kernel: &'a Kernel,
    id: TensorId,
}

impl Env for Probe<'_> {
    fn var(&self, var: VarId) -> Value {
        match self.kernel.pool.var_info(var).ty {
            Ty::Bool => Value::Bool(true),
            Ty::Int => Value::Int(1),
            Ty::Float => Value::Float(1.0),
        }
    }

    fn load(&self, tensor: TensorId, _: &[i64]) -> Value {
        match self.kernel.tensor(tensor).dtype {
            DType::Bit => Value::Bool(false),
            d if d.is_float() => Value::Float(if tensor == self.id { 1.0 } else { 0.0 }),
            _ => Value::Int(0),
        }
    }
}
