//! What every operation means: evaluation of expressions with f64 floats and i64 ints.
//!
//! The reference of the whole project rests on this file; constant folding uses the same functions, so a
//! folded program and an unfolded one agree to the bit.

use super::rand::{rand_block_columns_except, rand_block_contains};
use super::{BinaryOp, ExprId, FloatBits, Op, Pool, TensorId, Ty, UnaryOp, VarId};

/// The value of an expression.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Value {
    /// Of type bool.
    Bool(bool),
    /// Of type int.
    Int(i64),
    /// Of type float.
    Float(f64),
}

impl Value {
    /// The int; 0 for other types (the verifier has excluded them).
    pub fn int(self) -> i64 {
        if let Value::Int(x) = self { x } else { 0 }
    }

    /// The float; NaN for other types.
    pub fn float(self) -> f64 {
        if let Value::Float(x) = self { x } else { f64::NAN }
    }

    /// The bool; false for other types.
    pub fn bool(self) -> bool {
        matches!(self, Value::Bool(true))
    }

    /// The type of the value.
    pub fn ty(self) -> Ty {
        match self {
            Value::Bool(_) => Ty::Bool,
            Value::Int(_) => Ty::Int,
            Value::Float(_) => Ty::Float,
        }
    }
}

/// Where variables and tensor elements get their values.
pub trait Env {
    /// The value of a variable.
    fn var(&self, var: VarId) -> Value;
    /// The element of a tensor. Indices may be out of range where a guard has excluded the element: any value
    /// of the right type may be returned then.
    fn load(&self, tensor: TensorId, index: &[i64]) -> Value;
}

/// Evaluates one expression; branches not taken are not evaluated, so guarded loads stay guarded.
pub fn eval(pool: &Pool, id: ExprId, env: &dyn Env) -> Value {
    match pool.op(id) {
        Op::Int(x) => Value::Int(*x),
        Op::Float(FloatBits(b)) => Value::Float(f64::from_bits(*b)),
        Op::Bool(x) => Value::Bool(*x),
        Op::Var(v) => env.var(*v),
        Op::Load(t, idx, _) => {
            let at: Vec<i64> = idx.iter().map(|&x| eval(pool, x, env).int()).collect();
            env.load(*t, &at)
        }
        Op::Unary(op, x) => unary(*op, eval(pool, *x, env)),
        Op::Binary(BinaryOp::And, a, b) => {
            Value::Bool(eval(pool, *a, env).bool() && eval(pool, *b, env).bool())
        }
        Op::Binary(BinaryOp::Or, a, b) => {
            Value::Bool(eval(pool, *a, env).bool() || eval(pool, *b, env).bool())
        }
        Op::Binary(op, a, b) => binary(*op, eval(pool, *a, env), eval(pool, *b, env)),
        Op::Select(c, a, b) => eval(pool, if eval(pool, *c, env).bool() { *a } else { *b }, env),
        Op::RandBlock(args) => {
            let [row, col, ncols, head, n, seed] = std::array::from_fn(|k| eval(pool, args[k], env).int());
            Value::Bool(rand_block_contains(row, col, ncols, head, n, seed))
        }
        Op::RandBlockExcept(args) => {
            let [row, col, ncols, head, n, seed] = std::array::from_fn(|k| eval(pool, args[k], env).int());
            let Op::Var(var) = *pool.op(args[1]) else { return Value::Bool(false) };
            let excluded = |col| eval(pool, args[6], &With { env, var, value: Value::Int(col) }).bool();
            Value::Bool(rand_block_columns_except(row, ncols, head, n, seed, excluded).contains(&col))
        }
    }
}

/// Another value for one variable.
struct With<'a> {
    env: &'a dyn Env,
    var: VarId,
    value: Value,
}

impl Env for With<'_> {
    fn var(&self, var: VarId) -> Value {
        if var == self.var { self.value } else { self.env.var(var) }
    }

    fn load(&self, tensor: TensorId, index: &[i64]) -> Value {
        self.env.load(tensor, index)
    }
}

/// The value of a unary operation.
pub fn unary(op: UnaryOp, x: Value) -> Value {
    use UnaryOp::*;
    match (op, x) {
        (Neg, Value::Int(x)) => Value::Int(x.wrapping_neg()),
        (Abs, Value::Int(x)) => Value::Int(x.wrapping_abs()),
        (Not, x) => Value::Bool(!x.bool()),
        (ToFloat, x) => Value::Float(x.int() as f64),
        (ToInt, x) => Value::Int(x.float() as i64),
        (op, x) => Value::Float(float_unary(op, x.float())),
    }
}

fn float_unary(op: UnaryOp, x: f64) -> f64 {
    use UnaryOp::*;
    match op {
        Neg => -x,
        Abs => x.abs(),
        Floor => x.floor(),
        Ceil => x.ceil(),
        Sqrt => x.sqrt(),
        Rsqrt => 1.0 / x.sqrt(),
        Exp => x.exp(),
        Exp2 => x.exp2(),
        Log => log(x, f64::ln),
        Log2 => log(x, f64::log2),
        Tanh => x.tanh(),
        Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Sin => x.sin(),
        Cos => x.cos(),
        Round32 => f64::from(x as f32),
        Not | ToFloat | ToInt => f64::NAN,
    }
}

/// Logarithm with language.md's rule: -inf at and below 0.
fn log(x: f64, f: impl Fn(f64) -> f64) -> f64 {
    if x <= 0.0 { f64::NEG_INFINITY } else { f(x) }
}

/// The value of a binary operation.
pub fn binary(op: BinaryOp, a: Value, b: Value) -> Value {
    use BinaryOp::*;
    match (op, a, b) {
        (And, a, b) => Value::Bool(a.bool() && b.bool()),
        (Or, a, b) => Value::Bool(a.bool() || b.bool()),
        (_, Value::Int(a), Value::Int(b)) => int_binary(op, a, b),
        (Eq, Value::Bool(a), Value::Bool(b)) => Value::Bool(a == b),
        (Ne, Value::Bool(a), Value::Bool(b)) => Value::Bool(a != b),
        (op, a, b) => float_binary(op, a.float(), b.float()),
    }
}

fn int_binary(op: BinaryOp, a: i64, b: i64) -> Value {
    use BinaryOp::*;
    Value::Int(match op {
        Add => a.wrapping_add(b),
        Sub => a.wrapping_sub(b),
        Mul => a.wrapping_mul(b),
        IDiv => floor_div(a, b),
        Mod => a.wrapping_sub(b.wrapping_mul(floor_div(a, b))),
        Min => a.min(b),
        Max => a.max(b),
        Lt => return Value::Bool(a < b),
        Le => return Value::Bool(a <= b),
        Eq => return Value::Bool(a == b),
        Ne => return Value::Bool(a != b),
        Div => return Value::Float(a as f64 / b as f64),
        Pow => return Value::Float((a as f64).powf(b as f64)),
        And | Or => return Value::Bool(false),
    })
}

fn float_binary(op: BinaryOp, a: f64, b: f64) -> Value {
    use BinaryOp::*;
    Value::Float(match op {
        Add => a + b,
        Sub => a - b,
        Mul => a * b,
        Div => a / b,
        Min => {
            if b < a {
                b
            } else {
                a
            }
        }
        Max => {
            if b > a {
                b
            } else {
                a
            }
        }
        Pow => a.powf(b),
        Lt => return Value::Bool(a < b),
        Le => return Value::Bool(a <= b),
        Eq => return Value::Bool(a == b),
        Ne => return Value::Bool(a != b),
        IDiv | Mod | And | Or => f64::NAN,
    })
}

/// Floored division; 0 where the divisor is 0, so that evaluation is total.
pub fn floor_div(a: i64, b: i64) -> i64 {
    if b == 0 {
        return 0;
    }
    let q = a.wrapping_div(b);
    if a.wrapping_rem(b) != 0 && ((a < 0) != (b < 0)) { q - 1 } else { q }
}
