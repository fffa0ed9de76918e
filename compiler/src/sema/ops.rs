//! Typed constructors: each makes one node of the typed tree or reports why it has no meaning.
//!
//! Comes in: typed operands. Goes out: a node; an erroneous operand gives an erroneous node without a further
//! message. What holds: ints widen to floats where a float is wanted, nothing narrows; the trees stay within
//! [`MAX_NODES`] and [`MAX_DEPTH`]; constant int arithmetic that overflows 64 bits is reported.

use std::sync::Arc;

use crate::diagnostic::{Code, Diagnostic, Span};
use crate::expr::eval::{Value, binary as eval_binary, unary as eval_unary};
use crate::expr::{BinaryOp, UnaryOp};

use super::elab::Elab;
use super::hir::{Expr, Kind, MAX_DEPTH, MAX_NODES, Node, Size, Type, Uses};
use super::lower::checked_int;

/// Most nodes made while checking one kernel.
const MAX_STEPS: u32 = 400_000;

impl Elab<'_> {
    /// A node that was already reported.
    pub fn err(&self, span: Span) -> Expr {
        Arc::new(Node::new(Kind::Error, Type::Error, span, Uses::NONE))
    }

    /// A node, within the limits of size and depth.
    pub fn node(&mut self, kind: Kind, ty: Type, span: Span, own: Uses) -> Expr {
        let node = Node::new(kind, ty, span, own);
        self.steps += 1;
        if node.size > MAX_NODES || node.depth > MAX_DEPTH || self.steps > MAX_STEPS {
            if !self.stopped {
                self.stopped = true;
                let d = Diagnostic::error(
                    Code::InlineLimit,
                    span,
                    "this expression is too large after inlining",
                )
                .label(format!("over {MAX_NODES} nodes or {MAX_DEPTH} levels"))
                .note("definitions and lets are inlined at each use: doubling uses double the expression")
                .help("compute the value once on the host and pass it as an input");
                self.report.push(d);
            }
            return self.err(span);
        }
        Arc::new(node)
    }

    /// A constant.
    pub fn constant(&mut self, value: Value, span: Span) -> Expr {
        let ty = match value {
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Float(_) => Type::Float,
        };
        self.node(Kind::Const(value), ty, span, Uses::NONE)
    }

    /// Keeps a node and notes its value.
    fn with_value(&self, e: Expr, value: Option<Value>) -> Expr {
        if value.is_none() || e.is_error() {
            return e;
        }
        Arc::new(Node { value, ..(*e).clone() })
    }

    /// Widens an int; floats and rows pass; anything else is reported.
    pub fn widen(&mut self, e: &Expr) -> Expr {
        match e.ty {
            Type::Int => {
                let value = e.value.map(|v| Value::Float(v.int() as f64));
                let node =
                    self.node(Kind::Unary(UnaryOp::ToFloat, e.clone()), Type::Float, e.span, Uses::NONE);
                self.with_value(node, value)
            }
            Type::Float | Type::Error => e.clone(),
            _ => self.expected("a float", e),
        }
    }

    /// Asks for an int.
    pub fn want_int(&mut self, e: &Expr, what: &str) -> Expr {
        match e.ty {
            Type::Int | Type::Error => e.clone(),
            Type::Float => {
                let text = self.text(e.span);
                let d = Diagnostic::error(
                    Code::Narrowing,
                    e.span,
                    format!("{what} must be an int, and this is a float"),
                )
                .label("a float")
                .note("nothing narrows silently")
                .suggest(e.span, format!("int({text})"), "convert it, toward zero");
                self.report.push(d);
                self.err(e.span)
            }
            _ => self.expected("an int", e),
        }
    }

    /// Asks for a bool.
    pub fn want_bool(&mut self, e: &Expr) -> Expr {
        match e.ty {
            Type::Bool | Type::Error => e.clone(),
            Type::Int => {
                let text = self.text(e.span);
                let d = Diagnostic::error(Code::TypeMismatch, e.span, "expected a bool, found an int")
                    .label("an int")
                    .suggest(e.span, format!("{text} != 0"), "compare it");
                self.report.push(d);
                self.err(e.span)
            }
            _ => self.expected("a bool", e),
        }
    }

    /// Reports a type other than the expected one; for a row, with the index that would make it a number.
    pub fn expected(&mut self, what: &str, e: &Expr) -> Expr {
        if e.is_error() {
            return e.clone();
        }
        let found = e.ty.words();
        let mut d = Diagnostic::error(Code::TypeMismatch, e.span, format!("expected {what}, found {found}"))
            .label(found.clone());
        match (&e.kind, &e.ty) {
            (Kind::Row(t, index), Type::Row(_)) if index.is_empty() => {
                let call = self.index_hint(*t);
                d = d.suggest(e.span, call, "index it");
            }
            (_, Type::Row(_)) => d = d.help("`dot(x, y)` is the only reduction over a feature dim"),
            (_, Type::Bool) => {
                let text = self.text(e.span);
                d = d.suggest(e.span, format!("({text} ? 1 : 0)"), "choose numbers for true and false");
            }
            _ => {}
        }
        self.report.push(d);
        self.err(e.span)
    }

    /// `+ - * /` and `min max pow`, on numbers, rows and matrices.
    pub fn arith(&mut self, op: BinaryOp, a: &Expr, b: &Expr, span: Span) -> Expr {
        if a.is_error() || b.is_error() {
            return self.err(span);
        }
        match (&a.ty, &b.ty) {
            (Type::Int, Type::Int) if !matches!(op, BinaryOp::Div | BinaryOp::Pow) => {
                self.int_arith(op, a, b, span)
            }
            (x, y) if x.is_number() && y.is_number() => {
                let (a, b) = (self.widen(a), self.widen(b));
                let value = a.value.zip(b.value).map(|(x, y)| eval_binary(op, x, y));
                let node = self.node(Kind::Binary(op, a, b), Type::Float, span, Uses::NONE);
                self.with_value(node, value)
            }
            _ => self.elementwise(op, a, b, span),
        }
    }

    fn int_arith(&mut self, op: BinaryOp, a: &Expr, b: &Expr, span: Span) -> Expr {
        let value = match (a.int(), b.int()) {
            (Some(x), Some(y)) => match checked_int(op, x, y) {
                Ok(_) => Some(eval_binary(op, Value::Int(x), Value::Int(y))),
                Err(message) => {
                    self.report.error(Code::Overflow, span, message, "this has no value");
                    return self.err(span);
                }
            },
            _ => None,
        };
        let node = self.node(Kind::Binary(op, a.clone(), b.clone()), Type::Int, span, Uses::NONE);
        self.with_value(node, value)
    }

    /// Rows with rows of the same length, matrices likewise, and either with numbers.
    fn elementwise(&mut self, op: BinaryOp, a: &Expr, b: &Expr, span: Span) -> Expr {
        let (a, b) = (self.row_operand(a, &b.ty), self.row_operand(b, &a.ty));
        if a.is_error() || b.is_error() {
            return self.err(span);
        }
        let ty = match (&a.ty, &b.ty) {
            (Type::Row(n), Type::Row(m)) if !n.same(m) => return self.length_mismatch(n, m, span),
            (Type::Mat(r, c), Type::Mat(s, d)) if !r.same(s) => return self.length_mismatch(r, s, span),
            (Type::Mat(r, c), Type::Mat(s, d)) if !c.same(d) => return self.length_mismatch(c, d, span),
            (Type::Row(_), Type::Mat(..)) | (Type::Mat(..), Type::Row(_)) => {
                let message = format!("{} and {} cannot be combined elementwise", a.ty.words(), b.ty.words());
                let d = Diagnostic::error(Code::RowMismatch, span, message)
                    .label("a row and a matrix")
                    .help("`row @ matrix` multiplies, `outer(x, y)` makes a matrix of two rows");
                self.report.push(d);
                return self.err(span);
            }
            (Type::Row(n), _) | (_, Type::Row(n)) => Type::Row(n.clone()),
            (Type::Mat(r, c), _) | (_, Type::Mat(r, c)) => Type::Mat(r.clone(), c.clone()),
            _ => Type::Float,
        };
        self.node(Kind::Binary(op, a, b), ty, span, Uses::NONE)
    }

    fn row_operand(&mut self, e: &Expr, other: &Type) -> Expr {
        match (&e.ty, other) {
            (Type::Row(_), Type::Bool) | (Type::Bool, _) => self.expected("a number", e),
            (Type::Int, _) => self.widen(e),
            _ => e.clone(),
        }
    }

    /// Two lengths that must be one.
    pub fn length_mismatch(&mut self, n: &Size, m: &Size, span: Span) -> Expr {
        let message = format!("a length of {} meets a length of {}", n.text, m.text);
        let d = Diagnostic::error(Code::RowMismatch, span, message)
            .label("both must be the same dim, expression or number")
            .help("declare both tensors with the same dim");
        self.report.push(d);
        self.err(span)
    }

    /// `div` and `mod`.
    pub fn int_division(&mut self, op: BinaryOp, a: &Expr, b: &Expr, span: Span) -> Expr {
        let name = if op == BinaryOp::IDiv { "div" } else { "mod" };
        let (a, b) = (
            self.want_int(a, &format!("an operand of `{name}`")),
            self.want_int(b, &format!("an operand of `{name}`")),
        );
        if a.is_error() || b.is_error() {
            return self.err(span);
        }
        if b.int() == Some(0) {
            let d = Diagnostic::error(Code::DivisionByZero, b.span, format!("`{name}` by 0"))
                .label("this divisor is 0")
                .help("a divisor must be a positive constant, or is checked before launch");
            self.report.push(d);
            return self.err(span);
        }
        self.int_arith(op, &a, &b, span)
    }

    /// `< <= == !=` (the others are written with operands swapped).
    pub fn compare(&mut self, op: BinaryOp, a: &Expr, b: &Expr, span: Span) -> Expr {
        if a.is_error() || b.is_error() {
            return self.err(span);
        }
        let (a, b) = match (&a.ty, &b.ty) {
            (Type::Int, Type::Int) => (a.clone(), b.clone()),
            (Type::Bool, Type::Bool) if matches!(op, BinaryOp::Eq | BinaryOp::Ne) => (a.clone(), b.clone()),
            (x, y) if x.is_number() && y.is_number() => (self.widen(a), self.widen(b)),
            (x, y) => {
                let odd = if x.is_number() || matches!((x, y), (Type::Bool, Type::Bool)) { b } else { a };
                let want = if matches!((x, y), (Type::Bool, Type::Bool)) {
                    "a number to compare"
                } else {
                    "a number"
                };
                self.expected(want, odd);
                return self.err(span);
            }
        };
        let value = a.value.zip(b.value).map(|(x, y)| eval_binary(op, x, y));
        let node = self.node(Kind::Binary(op, a, b), Type::Bool, span, Uses::NONE);
        self.with_value(node, value)
    }

    /// `&` and `|`.
    pub fn logic(&mut self, op: BinaryOp, a: &Expr, b: &Expr, span: Span) -> Expr {
        let (a, b) = (self.want_bool(a), self.want_bool(b));
        if a.is_error() || b.is_error() {
            return self.err(span);
        }
        let value = a.value.zip(b.value).map(|(x, y)| eval_binary(op, x, y));
        let node = self.node(Kind::Binary(op, a, b), Type::Bool, span, Uses::NONE);
        self.with_value(node, value)
    }

    /// `!x`
    pub fn not(&mut self, x: &Expr, span: Span) -> Expr {
        let x = self.want_bool(x);
        if x.is_error() {
            return self.err(span);
        }
        let value = x.value.map(|v| eval_unary(UnaryOp::Not, v));
        let node = self.node(Kind::Unary(UnaryOp::Not, x), Type::Bool, span, Uses::NONE);
        self.with_value(node, value)
    }

    /// `-x` and `abs(x)`: int, float, row or matrix.
    pub fn signed(&mut self, op: UnaryOp, x: &Expr, span: Span) -> Expr {
        if matches!(x.ty, Type::Bool) {
            self.expected("a number", x);
        }
        if matches!(x.ty, Type::Bool | Type::Error) {
            return self.err(span);
        }
        if x.int() == Some(i64::MIN) {
            let message = "the opposite of the smallest int overflows a 64-bit int";
            self.report.error(Code::Overflow, span, message, "this has no value");
            return self.err(span);
        }
        let value = x.value.map(|v| eval_unary(op, v));
        let node = self.node(Kind::Unary(op, x.clone()), x.ty.clone(), span, Uses::NONE);
        self.with_value(node, value)
    }

    /// An elementary function of a float, or of each element of a row or matrix.
    pub fn math(&mut self, op: UnaryOp, x: &Expr, span: Span) -> Expr {
        let x = match x.ty {
            Type::Row(_) | Type::Mat(..) => x.clone(),
            _ => self.widen(x),
        };
        if x.is_error() {
            return self.err(span);
        }
        let value = x.value.map(|v| eval_unary(op, v));
        let node = self.node(Kind::Unary(op, x.clone()), x.ty.clone(), span, Uses::NONE);
        self.with_value(node, value)
    }

    /// `int(x)`
    pub fn truncate(&mut self, x: &Expr, span: Span) -> Expr {
        match x.ty {
            Type::Int => return x.clone(),
            Type::Float | Type::Error => {}
            _ => {
                self.expected("a number", x);
            }
        }
        if !matches!(x.ty, Type::Float) {
            return self.err(span);
        }
        if let Some(Value::Float(v)) = x.value
            && (v.is_nan() || v.abs() >= 9.2e18)
        {
            let message = format!("`int` of {v} has no value");
            self.report.error(Code::Overflow, span, message, "not a 64-bit int");
            return self.err(span);
        }
        let value = x.value.map(|v| eval_unary(UnaryOp::ToInt, v));
        let node = self.node(Kind::Unary(UnaryOp::ToInt, x.clone()), Type::Int, span, Uses::NONE);
        self.with_value(node, value)
    }

    /// `c ? a : b`: both of one type, ints widened.
    pub fn select(&mut self, c: &Expr, a: &Expr, b: &Expr, span: Span) -> Expr {
        let c = self.want_bool(c);
        if c.is_error() || a.is_error() || b.is_error() {
            return self.err(span);
        }
        let (a, b) = match (&a.ty, &b.ty) {
            (Type::Int, Type::Float) | (Type::Float, Type::Int) => (self.widen(a), self.widen(b)),
            (Type::Int, Type::Int) | (Type::Float, Type::Float) | (Type::Bool, Type::Bool) => {
                (a.clone(), b.clone())
            }
            (Type::Row(n), Type::Row(m)) if n.same(m) => (a.clone(), b.clone()),
            (x, y) => {
                let message = format!("the two sides of `? :` are {} and {}", x.words(), y.words());
                self.report.error(Code::TypeMismatch, span, message, "both must have one type");
                return self.err(span);
            }
        };
        let ty = a.ty.clone();
        let value = match c.value {
            Some(Value::Bool(true)) => a.value,
            Some(Value::Bool(false)) => b.value,
            _ => None,
        };
        let node = self.node(Kind::Select(c, a, b), ty, span, Uses::NONE);
        self.with_value(node, value)
    }

    /// `x ^ y`: an int to a small int constant stays an int, everything else is a float power.
    pub fn power(&mut self, x: &Expr, y: &Expr, span: Span) -> Expr {
        match (&x.ty, y.int()) {
            (Type::Int, Some(n @ 0..=62)) if x.value.is_some() || n <= 4 => {
                let mut out = self.constant(Value::Int(1), span);
                for k in 0..n {
                    out = if k == 0 { x.clone() } else { self.int_arith(BinaryOp::Mul, &out, x, span) };
                }
                out
            }
            _ => self.arith(BinaryOp::Pow, x, y, span),
        }
    }
}
