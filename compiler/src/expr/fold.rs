//! Constructors: each builds one node, folding constants and a fixed list of identities.
//!
//! Identities hold exactly: on ints and bools any algebraic one, on floats only those that keep the bits
//! (`x * 1`, `x / 1`, double negation). After construction no node has only constant operands.

use super::eval::{Value, binary, unary};
use super::{BinaryOp, ExprId, FloatBits, Op, Pool, TensorId, Ty, UnaryOp, VarId};

impl Pool {
    /// Integer constant.
    pub fn int(&mut self, x: i64) -> ExprId {
        self.intern(Op::Int(x))
    }

    /// Float constant. There is one NaN: its sign and payload differ between machines and mean nothing.
    pub fn float(&mut self, x: f64) -> ExprId {
        let x = if x.is_nan() { f64::NAN } else { x };
        self.intern(Op::Float(FloatBits(x.to_bits())))
    }

    /// Bool constant.
    pub fn bool(&mut self, x: bool) -> ExprId {
        self.intern(Op::Bool(x))
    }

    /// A constant of any type.
    pub fn constant(&mut self, value: Value) -> ExprId {
        match value {
            Value::Bool(x) => self.bool(x),
            Value::Int(x) => self.int(x),
            Value::Float(x) => self.float(x),
        }
    }

    /// A variable as an expression.
    pub fn var(&mut self, var: VarId) -> ExprId {
        self.intern(Op::Var(var))
    }

    /// The element of a tensor.
    pub fn load(&mut self, tensor: TensorId, index: Vec<ExprId>, ty: Ty) -> ExprId {
        self.intern(Op::Load(tensor, index.into(), ty))
    }

    /// BigBird's random blocks; operands row, col, ncols, head, n, seed.
    pub fn rand_block(&mut self, args: [ExprId; 6]) -> ExprId {
        self.intern(Op::RandBlock(Box::new(args)))
    }

    /// The value, if the node is a constant.
    pub fn as_const(&self, id: ExprId) -> Option<Value> {
        match self.op(id) {
            Op::Int(x) => Some(Value::Int(*x)),
            Op::Float(b) => Some(Value::Float(f64::from_bits(b.0))),
            Op::Bool(x) => Some(Value::Bool(*x)),
            _ => None,
        }
    }

    /// The int, if the node is an integer constant.
    pub fn as_int(&self, id: ExprId) -> Option<i64> {
        if let Op::Int(x) = self.op(id) { Some(*x) } else { None }
    }

    /// The bool, if the node is a bool constant.
    pub fn as_bool(&self, id: ExprId) -> Option<bool> {
        if let Op::Bool(x) = self.op(id) { Some(*x) } else { None }
    }

    /// A unary operation.
    pub fn unary(&mut self, op: UnaryOp, x: ExprId) -> ExprId {
        if let Some(v) = self.as_const(x) {
            return self.constant(unary(op, v));
        }
        match (op, self.op(x)) {
            (UnaryOp::Neg, Op::Unary(UnaryOp::Neg, y)) | (UnaryOp::Not, Op::Unary(UnaryOp::Not, y)) => *y,
            (UnaryOp::Neg, Op::Binary(BinaryOp::Sub, a, b)) if self.ty(x) == Ty::Int => {
                let (a, b) = (*a, *b);
                self.binary(BinaryOp::Sub, b, a)
            }
            _ => self.intern(Op::Unary(op, x)),
        }
    }

    /// A binary operation.
    pub fn binary(&mut self, op: BinaryOp, a: ExprId, b: ExprId) -> ExprId {
        if let (Some(x), Some(y)) = (self.as_const(a), self.as_const(b)) {
            return self.constant(binary(op, x, y));
        }
        let folded = match self.ty(a) {
            Ty::Int => self.fold_int(op, a, b),
            Ty::Bool => self.fold_bool(op, a, b),
            Ty::Float => self.fold_float(op, a, b),
        };
        folded.unwrap_or_else(|| self.intern(Op::Binary(op, a, b)))
    }

    fn fold_int(&mut self, op: BinaryOp, a: ExprId, b: ExprId) -> Option<ExprId> {
        use BinaryOp::*;
        let (ca, cb) = (self.as_int(a), self.as_int(b));
        if a == b {
            return match op {
                Sub => Some(self.int(0)),
                Min | Max => Some(a),
                Le | Eq => Some(self.bool(true)),
                Lt | Ne => Some(self.bool(false)),
                _ => None,
            };
        }
        match (op, ca, cb) {
            (Add, Some(0), _) => Some(b),
            (Add | Sub, _, Some(0)) => Some(a),
            (Mul, Some(1), _) => Some(b),
            (Mul | IDiv, _, Some(1)) => Some(a),
            (Mul, Some(0), _) | (Mul, _, Some(0)) | (Mod, _, Some(1)) => Some(self.int(0)),
            (Add, Some(_), None) => Some(self.binary(Add, b, a)),
            (Sub, _, Some(c)) if c != i64::MIN => {
                let c = self.int(-c);
                Some(self.binary(Add, a, c))
            }
            (Add, None, Some(c)) => self.fold_add_const(a, c),
            (Min | Max, Some(_), None) => Some(self.binary(op, b, a)),
            _ => None,
        }
    }

    /// `(x + c1) + c2` and `(c1 - x) + c2`, where the sum of constants does not overflow.
    fn fold_add_const(&mut self, a: ExprId, c: i64) -> Option<ExprId> {
        let Op::Binary(op, x, y) = *self.op(a) else { return None };
        match op {
            BinaryOp::Add => {
                let c = self.int(self.as_int(y)?.checked_add(c)?);
                Some(self.binary(BinaryOp::Add, x, c))
            }
            BinaryOp::Sub => {
                let c = self.int(self.as_int(x)?.checked_add(c)?);
                Some(self.intern(Op::Binary(BinaryOp::Sub, c, y)))
            }
            _ => None,
        }
    }

    fn fold_bool(&mut self, op: BinaryOp, a: ExprId, b: ExprId) -> Option<ExprId> {
        use BinaryOp::*;
        if a == b && matches!(op, And | Or) {
            return Some(a);
        }
        match (op, self.as_bool(a), self.as_bool(b)) {
            (And, Some(true), _) | (Or, Some(false), _) => Some(b),
            (And, _, Some(true)) | (Or, _, Some(false)) => Some(a),
            (And, Some(false), _) | (And, _, Some(false)) => Some(self.bool(false)),
            (Or, Some(true), _) | (Or, _, Some(true)) => Some(self.bool(true)),
            _ => None,
        }
    }

    fn fold_float(&mut self, op: BinaryOp, a: ExprId, b: ExprId) -> Option<ExprId> {
        let is = |id: ExprId, x: f64| matches!(self.as_const(id), Some(Value::Float(y)) if y == x);
        match op {
            BinaryOp::Mul if is(a, 1.0) => Some(b),
            BinaryOp::Mul | BinaryOp::Div | BinaryOp::Pow if is(b, 1.0) => Some(a),
            BinaryOp::Pow if is(b, 2.0) => Some(self.intern(Op::Binary(BinaryOp::Mul, a, a))),
            _ => None,
        }
    }

    /// `c ? a : b`.
    pub fn select(&mut self, c: ExprId, a: ExprId, b: ExprId) -> ExprId {
        match self.as_bool(c) {
            Some(true) => a,
            Some(false) => b,
            None if a == b => a,
            None if self.as_bool(a) == Some(true) && self.as_bool(b) == Some(false) => c,
            None => self.intern(Op::Select(c, a, b)),
        }
    }
}

/// Short names for the operations that lowering and analysis write all the time.
macro_rules! shorthand {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {
        impl Pool {
            $($(#[$doc])* pub fn $name(&mut self, a: ExprId, b: ExprId) -> ExprId {
                self.binary(BinaryOp::$op, a, b)
            })*
        }
    };
}

shorthand! {
    /// `a + b`
    add = Add;
    /// `a - b`
    sub = Sub;
    /// `a * b`
    mul = Mul;
    /// floored `a div b`
    idiv = IDiv;
    /// `a mod b`
    modulo = Mod;
    /// smaller
    min = Min;
    /// larger
    max = Max;
    /// `a < b`
    lt = Lt;
    /// `a <= b`
    le = Le;
    /// `a == b`
    eq = Eq;
    /// `a != b`
    ne = Ne;
    /// `a & b`
    and = And;
    /// `a | b`
    or = Or;
}

impl Pool {
    /// `!a`
    pub fn not(&mut self, a: ExprId) -> ExprId {
        self.unary(UnaryOp::Not, a)
    }

    /// `a + c` for a constant.
    pub fn add_int(&mut self, a: ExprId, c: i64) -> ExprId {
        let c = self.int(c);
        self.add(a, c)
    }

    /// `ceil(a / c)` for a positive constant.
    pub fn ceil_div(&mut self, a: ExprId, c: i64) -> ExprId {
        let up = self.add_int(a, c - 1);
        let c = self.int(c);
        self.idiv(up, c)
    }
}
