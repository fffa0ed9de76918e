//! Expressions as scalar values: bool as i8 (0 or 1), int as i64, float as f32.
//!
//! Comes in: an expression whose variables are bound or are scalar arguments. Goes out: its value, as
//! `expr::eval` defines it with every float rounded to f32. Nothing branches: all operations are total, so both
//! sides of a choice are computed. Not here: loads from tensors (`load`), division (`intdiv`).

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};

use crate::artifact::{Intrinsic, MathFn};
use crate::expr::{BinaryOp, ExprId, FloatBits, Op, Ty, UnaryOp};

use super::BackendError;
use super::emitter::{Emitter, Key, Result};
use super::intdiv::Part;

/// From here on every f32 is an integer.
const NO_FRACTION: f64 = 8_388_608.0;

impl Emitter<'_, '_> {
    /// The value of an expression, computed here unless it is remembered.
    pub fn scalar(&mut self, root: ExprId) -> Result<Value> {
        let mut stack = vec![root];
        while let Some(&id) = stack.last() {
            if self.recall(Key::Expr(id)).is_some() {
                stack.pop();
                continue;
            }
            let operands = self.pool().operands(id);
            let known: Vec<Value> = operands.iter().filter_map(|&x| self.recall(Key::Expr(x))).collect();
            if known.len() == operands.len() {
                let value = self.apply(id, &known)?;
                self.remember(Key::Expr(id), value);
                stack.pop();
            } else {
                stack.extend(operands.into_iter().filter(|&x| self.recall(Key::Expr(x)).is_none()));
            }
        }
        let lost = || BackendError::internal("scalar", "a computed value is remembered", self.print(root));
        self.recall(Key::Expr(root)).ok_or_else(lost)
    }

    /// One node on the values of its operands.
    pub fn apply(&mut self, id: ExprId, operands: &[Value]) -> Result<Value> {
        let pool = self.pool();
        match (pool.op(id), operands) {
            (Op::Int(x), _) => Ok(self.int(*x)),
            (Op::Float(FloatBits(bits)), _) => Ok(self.float(f64::from_bits(*bits))),
            (Op::Bool(x), _) => Ok(self.b.ins().iconst(types::I8, i64::from(*x))),
            (Op::Var(v), _) => match self.recall(Key::Var(*v)).or_else(|| self.scalar_arg(*v)) {
                Some(value) => Ok(value),
                None => Err(BackendError::internal("scalar", "a variable has a value here", self.print(id))),
            },
            (Op::Load(t, ids, ty), index) => self.load_element(*t, (ids, index), *ty),
            (Op::Unary(op, x), &[v]) => self.unary(*op, pool.ty(*x), v),
            (Op::Binary(op, a, b), &[x, y]) => self.binary(*op, (*a, x), (*b, y)),
            (Op::Select(..), &[c, a, b]) => Ok(self.b.ins().select(c, a, b)),
            (Op::RandBlock(_), _) => Err(BackendError::unsupported(
                self.print(id),
                "random blocks are drawn when arguments are bound; a pass replaces them by a table",
            )),
            _ => Err(BackendError::internal("scalar", "operands fit the operation", self.print(id))),
        }
    }

    fn unary(&mut self, op: UnaryOp, ty: Ty, x: Value) -> Result<Value> {
        use UnaryOp::*;
        if let Some(f) = math_fn(op) {
            return self.math1(f, x);
        }
        Ok(match op {
            Neg if ty == Ty::Int => self.b.ins().ineg(x),
            Neg => self.b.ins().fneg(x),
            Abs if ty == Ty::Int => self.b.ins().iabs(x),
            Abs => self.b.ins().fabs(x),
            Not => self.b.ins().bxor_imm_u(x, 1),
            Floor => self.round(x, false),
            Ceil => self.round(x, true),
            Rsqrt => {
                let (one, root) = (self.float(1.0), self.b.ins().sqrt(x));
                self.b.ins().fdiv(one, root)
            }
            ToFloat => self.b.ins().fcvt_from_sint(types::F32, x),
            ToInt => self.b.ins().fcvt_to_sint_sat(types::I64, x),
            // Floats are f32 here.
            Round32 => x,
            Sqrt | Exp | Exp2 | Log | Log2 | Tanh | Sigmoid | Sin | Cos => self.b.ins().sqrt(x),
        })
    }

    /// Floor or ceil. Without an instruction for it: through an integer, where there is a fraction at all.
    fn round(&mut self, x: Value, up: bool) -> Value {
        if self.isa.rounds {
            return if up { self.b.ins().ceil(x) } else { self.b.ins().floor(x) };
        }
        let whole = self.b.ins().fcvt_to_sint_sat(types::I32, x);
        let near = self.b.ins().fcvt_from_sint(types::F32, whole);
        let one = self.float(1.0);
        let (wrong, other) = if up {
            (self.b.ins().fcmp(FloatCC::LessThan, near, x), self.b.ins().fadd(near, one))
        } else {
            (self.b.ins().fcmp(FloatCC::LessThan, x, near), self.b.ins().fsub(near, one))
        };
        let rounded = self.b.ins().select(wrong, other, near);
        let signed = self.b.ins().fcopysign(rounded, x);
        let (size, limit) = (self.b.ins().fabs(x), self.float(NO_FRACTION));
        let fraction = self.b.ins().fcmp(FloatCC::LessThan, size, limit);
        self.b.ins().select(fraction, signed, x)
    }

    /// An elementary function of one value.
    pub fn math1(&mut self, f: MathFn, x: Value) -> Result<Value> {
        let code = self.b.ins().iconst(types::I32, f as i64);
        self.call(Intrinsic::Math1, &[code, x])
    }

    fn binary(&mut self, op: BinaryOp, (a, x): (ExprId, Value), (b, y): (ExprId, Value)) -> Result<Value> {
        match self.pool().ty(a) {
            Ty::Bool => self.bool_binary(op, x, y, a),
            Ty::Float => self.float_binary(op, x, y, a),
            Ty::Int if matches!(op, BinaryOp::IDiv | BinaryOp::Mod) => {
                let part = if op == BinaryOp::IDiv { Part::Quotient } else { Part::Remainder };
                let (rx, ry) = (self.range(a), self.range(b));
                Ok(self.floored(part, (x, rx), (y, ry)))
            }
            Ty::Int => self.int_binary(op, x, y, a),
        }
    }

    fn bool_binary(&mut self, op: BinaryOp, x: Value, y: Value, at: ExprId) -> Result<Value> {
        Ok(match op {
            BinaryOp::And => self.b.ins().band(x, y),
            BinaryOp::Or => self.b.ins().bor(x, y),
            BinaryOp::Eq => self.b.ins().icmp(IntCC::Equal, x, y),
            BinaryOp::Ne => self.b.ins().icmp(IntCC::NotEqual, x, y),
            _ => return Err(self.ill_typed(op, at)),
        })
    }

    fn int_binary(&mut self, op: BinaryOp, x: Value, y: Value, at: ExprId) -> Result<Value> {
        use BinaryOp::*;
        if let Some(cc) = int_cc(op) {
            return Ok(self.b.ins().icmp(cc, x, y));
        }
        Ok(match op {
            Add => self.b.ins().iadd(x, y),
            Sub => self.b.ins().isub(x, y),
            Mul => self.b.ins().imul(x, y),
            Min => self.b.ins().smin(x, y),
            Max => self.b.ins().smax(x, y),
            _ => return Err(self.ill_typed(op, at)),
        })
    }

    fn float_binary(&mut self, op: BinaryOp, x: Value, y: Value, at: ExprId) -> Result<Value> {
        use BinaryOp::*;
        if let Some(cc) = float_cc(op) {
            return Ok(self.b.ins().fcmp(cc, x, y));
        }
        Ok(match op {
            Add => self.b.ins().fadd(x, y),
            Sub => self.b.ins().fsub(x, y),
            Mul => self.b.ins().fmul(x, y),
            Div => self.b.ins().fdiv(x, y),
            Min => {
                let less = self.b.ins().fcmp(FloatCC::LessThan, y, x);
                self.b.ins().select(less, y, x)
            }
            Max => {
                let less = self.b.ins().fcmp(FloatCC::LessThan, x, y);
                self.b.ins().select(less, y, x)
            }
            Pow => self.call(Intrinsic::Pow, &[x, y])?,
            _ => return Err(self.ill_typed(op, at)),
        })
    }

    pub fn ill_typed(&self, op: BinaryOp, at: ExprId) -> BackendError {
        BackendError::internal("expressions", format!("{op:?} fits the type of its operands"), self.print(at))
    }

    /// The value of a float in memory.
    pub fn load_float(&mut self, address: Value) -> Value {
        self.b.ins().load(types::F32, MemFlagsData::trusted(), address, 0)
    }
}

/// The elementary function behind an operation.
pub(super) fn math_fn(op: UnaryOp) -> Option<MathFn> {
    use UnaryOp::*;
    Some(match op {
        Exp => MathFn::Exp,
        Exp2 => MathFn::Exp2,
        Log => MathFn::Log,
        Log2 => MathFn::Log2,
        Tanh => MathFn::Tanh,
        Sigmoid => MathFn::Sigmoid,
        Sin => MathFn::Sin,
        Cos => MathFn::Cos,
        Neg | Not | Abs | Floor | Ceil | Sqrt | Rsqrt | ToFloat | ToInt | Round32 => return None,
    })
}

/// Comparison of ints.
pub(super) fn int_cc(op: BinaryOp) -> Option<IntCC> {
    Some(match op {
        BinaryOp::Lt => IntCC::SignedLessThan,
        BinaryOp::Le => IntCC::SignedLessThanOrEqual,
        BinaryOp::Eq => IntCC::Equal,
        BinaryOp::Ne => IntCC::NotEqual,
        _ => return None,
    })
}

/// Comparison of floats: NaN is unequal to everything and neither smaller nor larger than anything.
pub(super) fn float_cc(op: BinaryOp) -> Option<FloatCC> {
    Some(match op {
        BinaryOp::Lt => FloatCC::LessThan,
        BinaryOp::Le => FloatCC::LessThanOrEqual,
        BinaryOp::Eq => FloatCC::Equal,
        BinaryOp::Ne => FloatCC::NotEqual,
        _ => return None,
    })
}
