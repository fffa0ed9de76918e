//! A syntax tree as canonical text.
//!
//! Comes in: any [`File`] or part of one, also one that no parser made. Goes out: text with one clause a line,
//! such that parsing it gives the same tree again, but for spans and for parentheses that the tree lacked and
//! the precedence of operators demands. Comments and the author's spacing are `fmt`'s business, not this file's.

use super::ast::*;

/// The whole file, ending in a newline; empty for an empty file.
pub fn file(file: &File) -> String {
    let mut out = Printer::default();
    for item in &file.items {
        out.item(item);
    }
    out.text
}

/// One clause on a line, without the newline; a branch takes several lines.
pub fn clause(clause: &Clause) -> String {
    let mut out = Printer::default();
    out.clause(clause);
    out.text.trim_end().to_string()
}

/// One expression.
pub fn expr(expr: &Expr) -> String {
    let mut out = Printer::default();
    out.expr(expr, LOOSEST);
    out.text
}

/// How tightly an expression binds; an operand that binds looser than its place is put in parentheses.
type Binding = u8;

const LOOSEST: Binding = 0;
const TERNARY: Binding = 1;
const OR: Binding = 2;
const AND: Binding = 3;
const NOT: Binding = 4;
const COMPARE: Binding = 5;
const SUM: Binding = 6;
const PRODUCT: Binding = 7;
const NEG: Binding = 8;
const POWER: Binding = 9;
const PRIMARY: Binding = 10;

fn binding(expr: &Expr) -> Binding {
    match &expr.node {
        ExprKind::Ternary { .. } => TERNARY,
        ExprKind::Infix { op, .. } => infix_binding(*op),
        ExprKind::Prefix { op: PrefixOp::Not, .. } => NOT,
        ExprKind::Prefix { op: PrefixOp::Neg, .. } => NEG,
        ExprKind::In { .. } => COMPARE,
        ExprKind::Number(_)
        | ExprKind::Str(_)
        | ExprKind::Name(_)
        | ExprKind::Call { .. }
        | ExprKind::Index { .. }
        | ExprKind::List(_)
        | ExprKind::Paren(_) => PRIMARY,
    }
}

fn infix_binding(op: InfixOp) -> Binding {
    use InfixOp::*;
    match op {
        Or => OR,
        And => AND,
        Eq | Ne | Lt | Le | Gt | Ge => COMPARE,
        Add | Sub => SUM,
        Mul | Div | IDiv | Mod | MatMul => PRODUCT,
        Pow => POWER,
    }
}

#[derive(Default)]
struct Printer {
    text: String,
    depth: usize,
}

impl Printer {
    fn put(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Everything with a separator between neighbours.
    fn list<T>(&mut self, items: &[T], separator: &str, mut each: impl FnMut(&mut Self, &T)) {
        for (n, item) in items.iter().enumerate() {
            if n > 0 {
                self.put(separator);
            }
            each(self, item);
        }
    }

    fn names(&mut self, names: &[Name]) {
        self.list(names, ", ", |p, name| p.put(&name.node));
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Use(import) => match &import.target.node {
                UseTarget::Path(parts) => self.put(&format!("use {}", parts.join("."))),
                UseTarget::File(name) => self.put(&format!("use \"{name}\"")),
            },
            Item::Def(def) => {
                self.put(&format!("{} {}", def.kind.keyword(), def.name.node));
                self.params(&def.params);
                self.put(" = ");
                self.expr(&def.body, LOOSEST);
            }
            Item::Kernel(kernel) => {
                let keyword = match kernel.kind {
                    KernelKind::Attention => "attention",
                    KernelKind::Recurrence => "recurrence",
                };
                self.put(&format!("{keyword} {}", kernel.name.node));
                if !kernel.params.is_empty() {
                    self.params(&kernel.params);
                }
                self.block(&kernel.clauses);
            }
        }
        self.put("\n");
    }

    fn params(&mut self, params: &[Param]) {
        self.put("(");
        self.list(params, ", ", |p, param| {
            p.put(if param.is_static { "static " } else { "" });
            p.put(&param.name.node);
            if let Some(ty) = &param.ty {
                p.put(&format!(": {}", ty.node));
            }
            if let Some(default) = &param.default {
                p.put(" = ");
                p.expr(default, LOOSEST);
            }
        });
        self.put(")");
    }

    fn block(&mut self, clauses: &[Clause]) {
        self.put(" {\n");
        self.depth += 1;
        for clause in clauses {
            self.put(&"  ".repeat(self.depth));
            self.clause(clause);
            self.put("\n");
        }
        self.depth -= 1;
        self.put(&"  ".repeat(self.depth));
        self.put("}");
    }

    /// Keyword, then what follows it; an exhaustive match with one line or call per clause.
    fn clause(&mut self, clause: &Clause) {
        self.put(clause.kind.keyword());
        match &clause.kind {
            ClauseKind::Dims(dims) => {
                self.put(" ");
                self.list(dims, ", ", Printer::dim);
            }
            ClauseKind::Heads { scheme, by } => {
                self.put(&format!(" {}", scheme.node));
                if let Some(by) = by {
                    self.after(" by ", by);
                }
            }
            ClauseKind::Align(word) | ClauseKind::Mode(word) => self.put(&format!(" {}", word.node)),
            ClauseKind::Input(decl) | ClauseKind::Cache(decl) => self.tensor(decl),
            ClauseKind::Append(names) => {
                self.put(" ");
                self.names(names);
            }
            ClauseKind::Map { names, by } => {
                self.put(" ");
                self.names(names);
                self.put(&format!(" by {}", by.node));
            }
            ClauseKind::Rotate { names, by, at } => {
                self.put(" ");
                self.names(names);
                self.after(" by ", by);
                self.after(" at ", at);
            }
            ClauseKind::Let { name, value } | ClauseKind::Select { name, by: value } => {
                self.put(&format!(" {}", name.node));
                self.after(" = ", value);
            }
            ClauseKind::Branch { name, clauses } => {
                self.put(&format!(" {}", name.node));
                self.block(clauses);
            }
            ClauseKind::State { name, ty, init } => {
                self.put(&format!(" {} : ", name.node));
                self.ty(ty);
                if let Some(init) = init {
                    self.after(" = ", init);
                }
            }
            ClauseKind::Update { value, .. }
            | ClauseKind::Score(value)
            | ClauseKind::Mask(value)
            | ClauseKind::Weight(value) => self.after(" = ", value),
            ClauseKind::Dropout(args) | ClauseKind::Test(args) => {
                self.put(" ");
                self.args(args);
            }
            ClauseKind::Numerics(options) => self.options(options),
            ClauseKind::Distribute(call) => self.after(" ", call),
            ClauseKind::Schedule { target, args, options } => {
                self.put(&format!(" {}", target.node));
                if !args.is_empty() {
                    self.put(" ");
                    self.args(args);
                }
                self.options(options);
            }
            ClauseKind::Ensure { promise, at } => {
                self.after(" ", promise);
                if !at.is_empty() {
                    self.put(" at ");
                    self.args(at);
                }
            }
            ClauseKind::Return(values) => {
                self.put(" ");
                self.list(values, ", ", |p, value| p.expr(value, LOOSEST));
            }
        }
    }

    fn after(&mut self, lead: &str, value: &Expr) {
        self.put(lead);
        self.expr(value, LOOSEST);
    }

    fn dim(&mut self, dim: &DimDecl) {
        self.put(&dim.name.node);
        if let Some(value) = &dim.value {
            self.after(" = ", value);
        }
        if let Some(upto) = &dim.upto {
            self.after("..", upto);
        }
    }

    fn tensor(&mut self, decl: &TensorDecl) {
        self.put(" ");
        self.names(&decl.names);
        self.put(" : ");
        self.ty(&decl.ty);
        for attr in &decl.attrs {
            self.put(" ");
            self.attr(&attr.node);
        }
    }

    fn ty(&mut self, ty: &TensorType) {
        self.put(&ty.dtype.node);
        self.bracketed(&ty.dims);
    }

    fn bracketed(&mut self, items: &[Expr]) {
        self.put("[");
        self.list(items, ", ", |p, item| p.expr(item, LOOSEST));
        self.put("]");
    }

    fn attr(&mut self, attr: &Attr) {
        match attr {
            Attr::Learn => self.put("learn"),
            Attr::Sorted => self.put("sorted"),
            Attr::Monotone => self.put("monotone"),
            Attr::Optional => self.put("optional"),
            Attr::Paged(args) => {
                self.put("paged ");
                self.args(args);
            }
            Attr::Len(name) => self.put(&format!("len = {}", name.node)),
            Attr::Scale { dtype, per } => {
                self.put(&format!("scale {} per (", dtype.node));
                self.names(per);
                self.put(")");
            }
            Attr::Layout(names) => {
                self.put("layout (");
                self.names(names);
                self.put(")");
            }
        }
    }

    fn options(&mut self, options: &[OptionDecl]) {
        if options.is_empty() {
            return self.put(" {}");
        }
        self.put(" { ");
        self.list(options, ", ", |p, option| {
            p.put(&option.name.node);
            if let Some(value) = &option.value {
                p.after(" = ", value);
            }
        });
        self.put(" }");
    }

    fn args(&mut self, args: &[Arg]) {
        self.put("(");
        self.list(args, ", ", |p, arg| {
            if let Some(name) = &arg.name {
                p.put(&format!("{} = ", name.node));
            }
            p.expr(&arg.value, LOOSEST);
        });
        self.put(")");
    }

    /// An expression in a place that takes nothing looser than `place`.
    fn expr(&mut self, expr: &Expr, place: Binding) {
        if binding(expr) < place {
            self.put("(");
            self.bare(expr);
            self.put(")");
        } else {
            self.bare(expr);
        }
    }

    fn bare(&mut self, expr: &Expr) {
        match &expr.node {
            ExprKind::Number(number) => self.number(*number),
            ExprKind::Str(text) => self.put(&format!("\"{text}\"")),
            ExprKind::Name(name) => self.put(name),
            ExprKind::Call { name, args } => {
                self.put(&name.node);
                self.args(args);
            }
            ExprKind::Index { base, index } => {
                self.expr(base, PRIMARY);
                self.bracketed(index);
            }
            ExprKind::List(items) => self.bracketed(items),
            ExprKind::Paren(inner) => {
                self.put("(");
                self.expr(inner, LOOSEST);
                self.put(")");
            }
            ExprKind::Prefix { op: PrefixOp::Not, operand } => {
                self.put("!");
                self.expr(operand, NOT);
            }
            ExprKind::Prefix { op: PrefixOp::Neg, operand } => {
                self.put("-");
                self.expr(operand, NEG);
            }
            ExprKind::Infix { op, left, right } => self.infix(*op, left, right),
            ExprKind::In { value, interval } => {
                self.expr(value, SUM);
                self.put(if interval.lo_included { " in [" } else { " in (" });
                self.expr(&interval.lo, LOOSEST);
                self.put(", ");
                self.expr(&interval.hi, LOOSEST);
                self.put(if interval.hi_included { "]" } else { ")" });
            }
            ExprKind::Ternary { cond, then, otherwise } => {
                self.expr(cond, OR);
                self.put(" ? ");
                self.expr(then, LOOSEST);
                self.put(" : ");
                self.expr(otherwise, TERNARY);
            }
        }
    }

    /// Left operands may bind as tightly as the operator, right ones must bind tighter; `^` is the other way
    /// round and takes a minus on its right; comparisons take neither.
    fn infix(&mut self, op: InfixOp, left: &Expr, right: &Expr) {
        let own = infix_binding(op);
        let (left_place, right_place) = match own {
            POWER => (PRIMARY, NEG),
            COMPARE => (SUM, SUM),
            _ => (own, own + 1),
        };
        self.expr(left, left_place);
        self.put(&format!(" {} ", op.symbol()));
        self.expr(right, right_place);
    }

    fn number(&mut self, number: Number) {
        match number {
            Number::Int(value) => self.put(&value.to_string()),
            // Debug of f64 always has a point or an exponent, and reads back as the same number.
            Number::Float(value) => self.put(&format!("{value:?}")),
        }
    }
}
