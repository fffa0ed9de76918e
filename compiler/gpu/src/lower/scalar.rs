//! Expressions as values: bool as I1, int as I32 where its range fits and else I64, float as F32.
//!
//! Comes in: an expression whose variables are bound or are scalar arguments. Goes out: its value, as `expr::eval` defines
//! it with every float rounded to f32. Nothing branches: all operations are total, both sides of a choice are computed.

use attn_compiler::expr::range::Range;
use attn_compiler::expr::{BinaryOp, ExprId, FloatBits, Op as E, Ty as ExprTy, UnaryOp, VarId};

use super::{Key, Lower, Result, narrow};
use crate::GpuError;
use crate::simt_ir::{Bin, Cast, Cmp, Op, Ty, Un, Val};

impl Lower<'_> {
    /// The value of an expression, computed here unless it is remembered.
    pub(super) fn scalar(&mut self, root: ExprId) -> Result<Val> {
        for id in self.program.pool.reachable(&[root]) {
            if self.recall(Key::Expr(id)).is_none() {
                let value = self.apply(id)?;
                self.remember(Key::Expr(id), value);
            }
        }
        self.known(root)
    }

    fn known(&self, id: ExprId) -> Result<Val> {
        let lost = || GpuError::internal("scalar", "operands come first", self.print(id));
        self.recall(Key::Expr(id)).ok_or_else(lost)
    }

    /// An int expression as I32, whatever its range: counts and sizes.
    pub(super) fn int32(&mut self, id: ExprId) -> Result<Val> {
        let v = self.scalar(id)?;
        if self.b.ty(v) == Ty::I32 {
            return Ok(v);
        }
        // What does not fit is cut to what does, so that a wrong count stays wrong.
        let (low, high) = (self.b.i64(i64::from(i32::MIN)), self.b.i64(i64::from(i32::MAX)));
        let v = self.b.bin(Bin::SMax, v, low);
        let v = self.b.bin(Bin::SMin, v, high);
        Ok(self.b.cast(Cast::Trunc, Ty::I32, v))
    }

    /// An int expression as I64.
    pub(super) fn int64(&mut self, id: ExprId) -> Result<Val> {
        let v = self.scalar(id)?;
        Ok(self.b.cast(Cast::SExt, Ty::I64, v))
    }

    /// A count of rows or columns, cut to 0..=most.
    pub(super) fn count(&mut self, id: ExprId, most: i64) -> Result<Val> {
        let Range { lo, hi } = self.range(id);
        let mut v = self.int32(id)?;
        if lo < 0 {
            let zero = self.b.i32(0);
            v = self.b.bin(Bin::SMax, v, zero);
        }
        if hi > most {
            let most = self.b.i32(most.min(i64::from(i32::MAX)));
            v = self.b.bin(Bin::SMin, v, most);
        }
        Ok(v)
    }

    /// A word of the argument block: a parameter of the kernel.
    pub(super) fn word(&mut self, word: usize) -> Val {
        let word = word as u32;
        if let Some(known) = self.recall(Key::Word(word)) {
            return known;
        }
        let nth = self.words.iter().position(|w| *w == word).unwrap_or_else(|| {
            self.words.push(word);
            self.words.len() - 1
        });
        let v = self.b.def(Ty::I64, Op::Param(nth as u32));
        self.remember(Key::Word(word), v);
        v
    }

    /// A scalar argument.
    fn argument(&mut self, var: VarId, at: ExprId) -> Result<Val> {
        let args = self.program.dims.iter().chain(&self.program.params);
        let Some(nth) = args.into_iter().position(|a| a.var == var) else {
            return Err(GpuError::internal("scalar", "a variable has a value here", self.print(at)));
        };
        let word = self.word(self.layout.scalars[nth]);
        Ok(match self.program.pool.var_info(var).ty {
            ExprTy::Bool => {
                let zero = self.b.i64(0);
                self.b.cmp(Cmp::Ne, word, zero)
            }
            ExprTy::Int if narrow(self.range(at)) => self.b.cast(Cast::Trunc, Ty::I32, word),
            ExprTy::Int => word,
            ExprTy::Float => {
                let bits = self.b.cast(Cast::Trunc, Ty::I32, word);
                self.b.cast(Cast::Bits, Ty::F32, bits)
            }
        })
    }

    /// One node; its operands are known.
    fn apply(&mut self, id: ExprId) -> Result<Val> {
        let program = self.program;
        let pool = &program.pool;
        match pool.op(id) {
            E::Int(x) if narrow(Range::point(*x)) => Ok(self.b.i32(*x)),
            E::Int(x) => Ok(self.b.i64(*x)),
            E::Float(FloatBits(bits)) => Ok(self.b.f32(f64::from_bits(*bits) as f32)),
            E::Bool(x) => Ok(self.b.bool(*x)),
            E::Var(v) => match self.recall(Key::Var(*v)) {
                Some(value) => Ok(value),
                None => self.argument(*v, id),
            },
            E::Load(t, index, ty) => {
                let index = index.iter().map(|x| self.known(*x)).collect::<Result<Vec<_>>>()?;
                self.load_element(*t, &index, *ty)
            }
            E::Unary(op, x) => self.unary(*op, *x, id),
            E::Binary(op, a, b) => self.binary(*op, *a, *b, id),
            E::Select(c, a, b) => {
                let (c, a, b) = (self.known(*c)?, self.known(*a)?, self.known(*b)?);
                if pool.ty(id) == ExprTy::Int {
                    let (a, b) = self.same_width(a, b);
                    let v = self.b.select(c, a, b);
                    return Ok(self.fitted(v, id));
                }
                Ok(self.b.select(c, a, b))
            }
            E::RandBlock(_) | E::RandBlockExcept(_) => Err(GpuError::unsupported(
                self.print(id),
                "random blocks are drawn when arguments are bound; a pass replaces them by a table",
            )),
        }
    }

    /// Two ints of the wider of their widths.
    pub(super) fn same_width(&mut self, a: Val, b: Val) -> (Val, Val) {
        if self.b.ty(a) == self.b.ty(b) {
            return (a, b);
        }
        (self.b.cast(Cast::SExt, Ty::I64, a), self.b.cast(Cast::SExt, Ty::I64, b))
    }

    /// An int in the width of its node.
    fn fitted(&mut self, v: Val, id: ExprId) -> Val {
        match (self.b.ty(v), narrow(self.range(id))) {
            (Ty::I64, true) => self.b.cast(Cast::Trunc, Ty::I32, v),
            (Ty::I32, false) => self.b.cast(Cast::SExt, Ty::I64, v),
            _ => v,
        }
    }

    fn unary(&mut self, op: UnaryOp, operand: ExprId, id: ExprId) -> Result<Val> {
        use UnaryOp::*;
        let x = self.known(operand)?;
        let int = self.program.pool.ty(operand) == ExprTy::Int;
        Ok(match op {
            Neg | Abs if int => {
                // The width of the result, in which the sign can change.
                let x = self.fitted(x, id);
                let x = if narrow(self.range(id)) { x } else { self.b.cast(Cast::SExt, Ty::I64, x) };
                let zero = self.b.def(self.b.ty(x), Op::Int(0));
                let negative = self.b.bin(Bin::Sub, zero, x);
                if op == Neg { negative } else { self.b.bin(Bin::SMax, x, negative) }
            }
            Neg => self.b.un(Un::FNeg, x),
            Abs => self.b.un(Un::FAbs, x),
            Not => {
                let yes = self.b.bool(true);
                self.b.bin(Bin::Xor, x, yes)
            }
            Floor => self.b.un(Un::Floor, x),
            Ceil => self.b.un(Un::Ceil, x),
            Sqrt => self.b.un(Un::Sqrt, x),
            Rsqrt => {
                let (one, root) = (self.b.f32(1.0), self.b.un(Un::Sqrt, x));
                self.b.bin(Bin::FDiv, one, root)
            }
            ToFloat => self.b.cast(Cast::SiToF, Ty::F32, x),
            ToInt => {
                let ty = if narrow(self.range(id)) { Ty::I32 } else { Ty::I64 };
                self.b.cast(Cast::FToSi, ty, x)
            }
            Round32 => x,
            Exp => self.exp(x),
            Exp2 => self.exp2(x),
            Log => self.log(x),
            Log2 => self.log2(x),
            Tanh => self.tanh(x),
            Sigmoid => self.sigmoid(x),
            Sin => self.trig(x, 0),
            Cos => self.trig(x, 1),
        })
    }

    fn binary(&mut self, op: BinaryOp, a: ExprId, b: ExprId, id: ExprId) -> Result<Val> {
        let (x, y) = (self.known(a)?, self.known(b)?);
        match self.program.pool.ty(a) {
            ExprTy::Bool => {
                let op = match op {
                    BinaryOp::And => Bin::And,
                    BinaryOp::Or => Bin::Or,
                    BinaryOp::Eq => return Ok(self.b.cmp(Cmp::Eq, x, y)),
                    BinaryOp::Ne => return Ok(self.b.cmp(Cmp::Ne, x, y)),
                    _ => return Err(self.ill_typed(id)),
                };
                Ok(self.b.bin(op, x, y))
            }
            ExprTy::Float => self.float_binary(op, x, y, id),
            ExprTy::Int => self.int_binary(op, (a, x), (b, y), id),
        }
    }

    fn ill_typed(&self, id: ExprId) -> GpuError {
        GpuError::internal("scalar", "an operation fits the type of its operands", self.print(id))
    }

    fn float_binary(&mut self, op: BinaryOp, x: Val, y: Val, id: ExprId) -> Result<Val> {
        use BinaryOp::*;
        Ok(match op {
            Add => self.b.bin(Bin::FAdd, x, y),
            Sub => self.b.bin(Bin::FSub, x, y),
            Mul => self.b.bin(Bin::FMul, x, y),
            Div => self.b.bin(Bin::FDiv, x, y),
            Min => {
                let less = self.b.cmp(Cmp::FLt, y, x);
                self.b.select(less, y, x)
            }
            Max => {
                let less = self.b.cmp(Cmp::FLt, x, y);
                self.b.select(less, y, x)
            }
            Lt => self.b.cmp(Cmp::FLt, x, y),
            Le => self.b.cmp(Cmp::FLe, x, y),
            Eq => self.b.cmp(Cmp::FEq, x, y),
            Ne => self.b.cmp(Cmp::FNe, x, y),
            Pow => self.pow(x, y),
            IDiv | Mod | And | Or => return Err(self.ill_typed(id)),
        })
    }

    fn int_binary(
        &mut self,
        op: BinaryOp,
        (a, x): (ExprId, Val),
        (b, y): (ExprId, Val),
        id: ExprId,
    ) -> Result<Val> {
        use BinaryOp::*;
        let (mut x, mut y) = self.same_width(x, y);
        if let Some(cmp) = match op {
            Lt => Some(Cmp::Slt),
            Le => Some(Cmp::Sle),
            Eq => Some(Cmp::Eq),
            Ne => Some(Cmp::Ne),
            _ => None,
        } {
            return Ok(self.b.cmp(cmp, x, y));
        }
        if !narrow(self.range(id)) {
            x = self.b.cast(Cast::SExt, Ty::I64, x);
            y = self.b.cast(Cast::SExt, Ty::I64, y);
        }
        let v = match op {
            Add => self.constants_last(Bin::Add, x, y),
            Sub => self.constants_last(Bin::Sub, x, y),
            Mul => self.b.bin(Bin::Mul, x, y),
            Min => self.b.bin(Bin::SMin, x, y),
            Max => self.b.bin(Bin::SMax, x, y),
            IDiv | Mod => self.floored(op == IDiv, (a, x), (b, y)),
            _ => return Err(self.ill_typed(id)),
        };
        Ok(self.fitted(v, id))
    }

    /// A sum or difference, with the constants of columns added last: else each column plus its constant is a value of its
    /// own that does not change in a loop, and takes a register all through it.
    pub(super) fn constants_last(&mut self, op: Bin, x: Val, y: Val) -> Val {
        let (a, of_x) = self.sums.get(&x).copied().unwrap_or((x, 0));
        let (b, of_y) = self.sums.get(&y).copied().unwrap_or((y, 0));
        let base = self.b.bin(op, a, b);
        match if op == Bin::Add { of_x + of_y } else { of_x - of_y } {
            0 => base,
            constant => self.and_constant(base, constant),
        }
    }

    /// A value plus a constant, which is remembered.
    pub(super) fn and_constant(&mut self, base: Val, constant: i64) -> Val {
        let v = self.b.bin_int(Bin::Add, base, constant);
        self.sums.insert(v, (base, constant));
        v
    }

    /// Floored quotient or remainder; 0 where the divisor is 0.
    fn floored(&mut self, quotient: bool, (a, x): (ExprId, Val), (b, y): (ExprId, Val)) -> Val {
        let (from, by) = (self.range(a), self.range(b));
        if by.lo == by.hi && by.lo > 0 && (by.lo as u64).is_power_of_two() {
            let shift = i64::from(by.lo.trailing_zeros());
            return match quotient {
                true => self.b.bin_int(Bin::AShr, x, shift),
                false => self.b.bin_int(Bin::And, x, by.lo - 1),
            };
        }
        let (zero, one) = (self.b.def(self.b.ty(y), Op::Int(0)), self.b.def(self.b.ty(y), Op::Int(1)));
        let none = self.b.cmp(Cmp::Eq, y, zero);
        let safe = if by.lo > 0 || by.hi < 0 { y } else { self.b.select(none, one, y) };
        let q = self.b.bin(Bin::SDiv, x, safe);
        let back = self.b.bin(Bin::Mul, q, safe);
        let r = self.b.bin(Bin::Sub, x, back);
        let (mut q, mut r) = (q, r);
        if from.lo < 0 || by.lo < 0 {
            let some = self.b.cmp(Cmp::Ne, r, zero);
            let signs = self.b.bin(Bin::Xor, r, safe);
            let differ = self.b.cmp(Cmp::Slt, signs, zero);
            let off = self.b.bin(Bin::And, some, differ);
            let (less, more) = (self.b.bin(Bin::Sub, q, one), self.b.bin(Bin::Add, r, safe));
            q = self.b.select(off, less, q);
            r = self.b.select(off, more, r);
        }
        let v = if quotient { q } else { r };
        if by.lo > 0 || by.hi < 0 { v } else { self.b.select(none, zero, v) }
    }
}
