//! Text form of expressions: infix, with every shared subexpression named once.
//!
//! Comes in: a pool and a root. Goes out: one line. `[%0 = i div 64] %0 < j & %0 != 3` defines `%0` and uses
//! it twice, so that the length of the text is linear in the size of the DAG. Float constants always show a
//! point, an exponent or a name (`inf`, `nan`), ints never do. [`super::parse`] reads the text back to the same node.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use super::{BinaryOp, ExprId, FloatBits, Op, Pool, TensorId, Ty, UnaryOp};

/// Prints an expression; `tensor` gives the names of tensors.
pub fn print(pool: &Pool, root: ExprId, tensor: &dyn Fn(TensorId) -> String) -> String {
    let mut uses: HashMap<ExprId, usize> = HashMap::new();
    let order = post_order(pool, root);
    for &id in &order {
        for x in pool.operands(id) {
            *uses.entry(x).or_default() += 1;
        }
    }
    let mut printer = Printer { pool, tensor, names: HashMap::new() };
    let mut defs = String::new();
    for &id in &order {
        let shared = uses.get(&id).is_some_and(|&n| n > 1);
        if shared && !pool.operands(id).is_empty() && expanded_size(pool, id, &printer.names) > 3 {
            let text = printer.expr(id, 0);
            let name = printer.names.len();
            let sep = if name == 0 { "" } else { ", " };
            let _ = write!(defs, "{sep}%{name} = {text}");
            printer.names.insert(id, name);
        }
    }
    let body = printer.expr(root, 0);
    if defs.is_empty() { body } else { format!("[{defs}] {body}") }
}

/// Every node below the root, operands first and from left to right: an order that the numbering of nodes does
/// not change.
fn post_order(pool: &Pool, root: ExprId) -> Vec<ExprId> {
    let mut order = Vec::new();
    let mut seen = HashSet::from([root]);
    let mut stack = vec![(root, pool.operands(root))];
    while let Some((id, operands)) = stack.last_mut() {
        if operands.is_empty() {
            order.push(*id);
            stack.pop();
            continue;
        }
        let next = operands.remove(0);
        if seen.insert(next) {
            stack.push((next, pool.operands(next)));
        }
    }
    order
}

fn expanded_size(pool: &Pool, id: ExprId, names: &HashMap<ExprId, usize>) -> usize {
    if names.contains_key(&id) {
        return 1;
    }
    1 + pool.operands(id).iter().map(|&x| expanded_size(pool, x, names)).sum::<usize>()
}

struct Printer<'a> {
    pool: &'a Pool,
    tensor: &'a dyn Fn(TensorId) -> String,
    names: HashMap<ExprId, usize>,
}

/// Binding strength of an infix operator, or `None` for the ones written as calls.
pub(super) fn infix(op: BinaryOp) -> Option<(u8, &'static str)> {
    use BinaryOp::*;
    Some(match op {
        Or => (1, "|"),
        And => (2, "&"),
        Lt => (4, "<"),
        Le => (4, "<="),
        Eq => (4, "=="),
        Ne => (4, "!="),
        Add => (5, "+"),
        Sub => (5, "-"),
        Mul => (6, "*"),
        Div => (6, "/"),
        IDiv => (6, "div"),
        Mod => (6, "mod"),
        Min | Max | Pow => return None,
    })
}

/// Names of the unary functions written as calls.
pub(super) const UNARY_CALLS: [(&str, UnaryOp); 16] = [
    ("abs", UnaryOp::Abs),
    ("floor", UnaryOp::Floor),
    ("ceil", UnaryOp::Ceil),
    ("sqrt", UnaryOp::Sqrt),
    ("rsqrt", UnaryOp::Rsqrt),
    ("exp", UnaryOp::Exp),
    ("exp2", UnaryOp::Exp2),
    ("log", UnaryOp::Log),
    ("log2", UnaryOp::Log2),
    ("tanh", UnaryOp::Tanh),
    ("sigmoid", UnaryOp::Sigmoid),
    ("sin", UnaryOp::Sin),
    ("cos", UnaryOp::Cos),
    ("float", UnaryOp::ToFloat),
    ("int", UnaryOp::ToInt),
    ("round32", UnaryOp::Round32),
];

impl Printer<'_> {
    /// Prints with parentheses if the operator binds less tightly than `min`.
    fn expr(&self, id: ExprId, min: u8) -> String {
        if let Some(n) = self.names.get(&id) {
            return format!("%{n}");
        }
        let (level, text) = match self.pool.op(id) {
            Op::Int(x) => (if *x < 0 { 7 } else { 9 }, x.to_string()),
            Op::Float(FloatBits(b)) => {
                let x = f64::from_bits(*b);
                (if x.is_sign_negative() { 7 } else { 9 }, float_text(x))
            }
            Op::Bool(x) => (9, x.to_string()),
            Op::Var(v) => (9, self.pool.var_info(*v).name.clone()),
            Op::Load(t, idx, _) => (9, format!("{}[{}]", (self.tensor)(*t), self.list(idx))),
            Op::Unary(UnaryOp::Neg, x) => (7, format!("-({})", self.expr(*x, 0))),
            Op::Unary(UnaryOp::Not, x) => (7, format!("!{}", self.expr(*x, 8))),
            Op::Unary(op, x) => (9, format!("{}({})", unary_name(*op), self.expr(*x, 0))),
            Op::Binary(op, a, b) => self.binary(*op, *a, *b),
            Op::Select(c, a, b) => {
                (0, format!("{} ? {} : {}", self.expr(*c, 1), self.expr(*a, 1), self.expr(*b, 0)))
            }
            Op::RandBlock(args) => (9, format!("rand_block({})", self.list(&args[..]))),
            Op::RandBlockExcept(args) => (9, format!("rand_block_except({})", self.list(&args[..]))),
        };
        if level < min { format!("({text})") } else { text }
    }

    fn binary(&self, op: BinaryOp, a: ExprId, b: ExprId) -> (u8, String) {
        match infix(op) {
            Some((level, sym)) => {
                let left = if level == 4 { 5 } else { level };
                (level, format!("{} {sym} {}", self.expr(a, left), self.expr(b, level + 1)))
            }
            None => {
                let name = match op {
                    BinaryOp::Min => "min",
                    BinaryOp::Max => "max",
                    _ => "pow",
                };
                (9, format!("{name}({}, {})", self.expr(a, 0), self.expr(b, 0)))
            }
        }
    }

    fn list(&self, ids: &[ExprId]) -> String {
        ids.iter().map(|&x| self.expr(x, 0)).collect::<Vec<_>>().join(", ")
    }
}

fn unary_name(op: UnaryOp) -> &'static str {
    UNARY_CALLS.iter().find(|(_, o)| *o == op).map_or("neg", |(name, _)| name)
}

/// A float that reads back to the same bits and is never taken for an int.
pub fn float_text(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf".into() } else { "-inf".into() };
    }
    format!("{x:?}")
}

/// The name of a type.
pub fn ty_name(ty: Ty) -> &'static str {
    match ty {
        Ty::Bool => "bool",
        Ty::Int => "int",
        Ty::Float => "float",
    }
}
