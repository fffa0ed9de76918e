//! Expressions of the syntax tree to typed expressions: names resolved, definitions inlined.
//!
//! Comes in: an expression and the names in scope. Goes out: a typed tree, or an erroneous node and at least one
//! diagnostic. What holds: recursion is bounded by [`MAX_DEPTH`], whatever the text. Not here: calls (`calls.rs`),
//! typing rules (`ops.rs`), what may stand in which clause (`clauses.rs` and its siblings).

use std::collections::{HashMap, HashSet};

use crate::diagnostic::{Code, Diagnostic, SourceMap, Span};
use crate::expr::BinaryOp;
use crate::expr::UnaryOp;
use crate::expr::eval::Value;
use crate::syntax::ast::{self, ExprKind, InfixOp, Number, PrefixOp};

use super::derived::MadeFact;
use super::hir::{Expr, IndexVar, Kind, MAX_DEPTH, Size, Type, Uses};
use super::model::{
    CacheFact, DimFact, Elem, InitHir, KernelKind, ParamFact, RecurBody, RingFact, RowsFact, TensorFact,
};
use super::modules::{DefId, ModuleId, Modules};
use super::report::Report;
use super::rotate::Rotation;
use super::rows::RowOp;
use super::suggest::nearest;
use crate::artifact::DType;
use crate::expr::Ty;

/// What a name of a kernel stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Position in `params`.
    Param(usize),
    /// Position in `dims`.
    Dim(usize),
    /// Position in `tensors`.
    Tensor(usize),
    /// Position in `lets`.
    Let(usize),
    /// Position in `states`.
    State(usize),
    /// The result of a branch, by position.
    Branch(usize),
    /// A name bound by the host that no expression reads (`pages`, `kv_len`, `s0`).
    Bound,
}

/// A `let` of a scalar or row.
pub(crate) struct Let {
    /// Its value, inlined at each use.
    pub value: Expr,
}

/// A recurrence state.
pub(crate) struct State {
    /// Name.
    pub name: String,
    /// Rows and columns.
    pub ty: Type,
    /// Where it begins.
    pub init: InitHir,
}

/// A definition being inlined.
pub(crate) struct Frame {
    /// Where its names are looked up.
    pub module: ModuleId,
    /// Its parameters.
    pub args: HashMap<String, Expr>,
}

/// The state of a check of one kernel.
pub(crate) struct Elab<'a> {
    /// Files.
    pub map: &'a SourceMap,
    /// Definitions.
    pub modules: &'a Modules,
    /// Diagnostics.
    pub report: Report,
    /// The kernel's module.
    pub module: ModuleId,
    /// Kind of the kernel.
    pub kind: KernelKind,
    /// Names in scope, with their places.
    pub names: HashMap<String, (Entry, Span)>,
    /// Names that were read.
    pub used: HashSet<String>,
    /// Definitions that were called.
    pub used_defs: HashSet<DefId>,
    /// Parameters.
    pub params: Vec<ParamFact>,
    /// Dims.
    pub dims: Vec<DimFact>,
    /// Tensors.
    pub tensors: Vec<TensorFact>,
    /// Caches among them.
    pub caches: Vec<CacheFact>,
    /// Lets.
    pub lets: Vec<Let>,
    /// States.
    pub states: Vec<State>,
    /// The sequence dim of a recurrence.
    pub step_dim: Option<Size>,
    /// The rows of a recurrence that have the most of batch and head dims; results have their dims.
    pub step_rows: Option<RowsFact>,
    /// The body of a recurrence.
    pub recurrence: Option<RecurBody>,
    /// Definitions being inlined, outermost first.
    pub frames: Vec<Frame>,
    /// Nodes made.
    pub steps: u32,
    /// A limit was passed; nothing further is elaborated.
    pub stopped: bool,
    /// Inside `return`: `weight @ v` has a meaning, and each `v` is noted here.
    pub values: Option<Vec<Expr>>,
    /// Inside the `return` of a kernel of branches: the length of each branch's row, if it is known.
    pub results: Option<Vec<Option<Size>>>,
    /// Rotations seen so far.
    pub rotations: Vec<Rotation>,
    /// What `map` and `rotate` do to rows, in the order of the text.
    pub row_ops: Vec<RowOp>,
    /// `distribute`
    pub ring: Option<RingFact>,
    /// Tensors that lets make, in the order of the text.
    pub made: Vec<MadeFact>,
    /// Lengths of rows that a rotation changed, by tensor.
    pub row_sizes: HashMap<usize, Size>,
    depth: u32,
}

impl<'a> Elab<'a> {
    /// An empty scope.
    pub fn new(map: &'a SourceMap, modules: &'a Modules, module: ModuleId, kind: KernelKind) -> Elab<'a> {
        Elab {
            map,
            modules,
            report: Report::default(),
            module,
            kind,
            names: HashMap::new(),
            used: HashSet::new(),
            used_defs: HashSet::new(),
            params: Vec::new(),
            dims: Vec::new(),
            tensors: Vec::new(),
            caches: Vec::new(),
            lets: Vec::new(),
            states: Vec::new(),
            step_dim: None,
            step_rows: None,
            recurrence: None,
            frames: Vec::new(),
            steps: 0,
            stopped: false,
            values: None,
            results: None,
            rotations: Vec::new(),
            row_ops: Vec::new(),
            ring: None,
            made: Vec::new(),
            row_sizes: HashMap::new(),
            depth: 0,
        }
    }

    /// The text of a span, blanks and line ends collapsed.
    pub fn text(&self, span: Span) -> String {
        self.map.text(span).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Declares a name; a second declaration or a reserved word is reported.
    pub fn declare(&mut self, name: &ast::Name, entry: Entry) -> bool {
        if let Some(var) = IndexVar::from_name(&name.node) {
            let message = format!("`{}` is an index variable and cannot be declared", var.name());
            self.report.error(Code::ReservedName, name.span, message, "choose another name");
            return false;
        }
        if matches!(name.node.as_str(), "true" | "false" | "none") {
            let message = format!("`{}` cannot be declared", name.node);
            self.report.error(Code::ReservedName, name.span, message, "a word of the language");
            return false;
        }
        if let Some((_, first)) = self.names.get(&name.node) {
            let d = Diagnostic::error(
                Code::DuplicateName,
                name.span,
                format!("`{}` is declared twice", name.node),
            )
            .label("declared again here")
            .context(*first, "first declared here")
            .help("rename one of them");
            self.report.push(d);
            return false;
        }
        self.names.insert(name.node.clone(), (entry, name.span));
        true
    }

    /// Types an expression.
    pub fn expr(&mut self, e: &ast::Expr) -> Expr {
        if self.stopped {
            return self.err(e.span);
        }
        if self.depth >= MAX_DEPTH {
            let d = Diagnostic::error(Code::InlineLimit, e.span, "this expression is nested too deeply")
                .label(format!("over {MAX_DEPTH} levels"))
                .help("name parts of it with `let`, or pass the value as an input");
            self.stopped = true;
            self.report.push(d);
            return self.err(e.span);
        }
        self.depth += 1;
        let out = self.expr_kind(e);
        self.depth -= 1;
        out
    }

    fn expr_kind(&mut self, e: &ast::Expr) -> Expr {
        match &e.node {
            ExprKind::Number(Number::Int(x)) => self.constant(Value::Int(*x), e.span),
            ExprKind::Number(Number::Float(x)) => self.constant(Value::Float(*x), e.span),
            ExprKind::Str(_) => {
                self.misplaced(e.span, "a string has no value here", "only `use` takes a string")
            }
            ExprKind::Name(name) => self.name(name, e.span),
            ExprKind::Call { name, args } => self.call(name, args, e.span),
            ExprKind::Index { base, index } => self.index(base, index, e.span),
            ExprKind::List(_) => self.misplaced(
                e.span,
                "a list has no value here",
                "lists stand in options, `test` and `rotate ... at`",
            ),
            ExprKind::Prefix { op, operand } => {
                let x = self.expr(operand);
                match op {
                    PrefixOp::Neg => self.signed(UnaryOp::Neg, &x, e.span),
                    PrefixOp::Not => self.not(&x, e.span),
                }
            }
            ExprKind::Infix { op, left, right } => self.infix(*op, left, right, e.span),
            ExprKind::In { value, interval } => self.interval(value, interval, e.span),
            ExprKind::Ternary { cond, then, otherwise } => {
                let (c, a, b) = (self.expr(cond), self.expr(then), self.expr(otherwise));
                self.select(&c, &a, &b, e.span)
            }
            ExprKind::Paren(inner) => self.expr(inner),
        }
    }

    /// Reports a construct that has no place here.
    pub fn misplaced(&mut self, span: Span, message: &str, help: &str) -> Expr {
        self.report.push(Diagnostic::error(Code::WrongPlace, span, message).label("not here").help(help));
        self.err(span)
    }

    fn name(&mut self, name: &str, span: Span) -> Expr {
        if let Some(frame) = self.frames.last()
            && let Some(arg) = frame.args.get(name)
        {
            return arg.clone();
        }
        match name {
            "true" => return self.constant(Value::Bool(true), span),
            "false" => return self.constant(Value::Bool(false), span),
            _ => {}
        }
        if let Some(var) = IndexVar::from_name(name) {
            if self.is_recurrence() && matches!(var, IndexVar::J | IndexVar::Row) {
                let help = "`i` is the step, plus the run-time `start`";
                return self.misplaced(span, &format!("a recurrence has no `{}`", var.name()), help);
            }
            return self.node(Kind::Index(var), Type::Int, span, Uses::of_index(var));
        }
        if !self.frames.is_empty() {
            return self.err(span); // reported by `Modules::check_names`
        }
        let Some((entry, _)) = self.names.get(name).copied() else { return self.unknown(name, span) };
        self.used.insert(name.to_string());
        match entry {
            Entry::Param(n) => self.param(n, span),
            Entry::Dim(n) => self.dim(n, span),
            Entry::Tensor(n) => self.tensor(n, span),
            Entry::Let(n) => self.lets[n].value.clone(),
            Entry::State(n) => {
                let ty = self.states[n].ty.clone();
                self.node(Kind::State(n), ty, span, Uses::STEP)
            }
            Entry::Branch(n) => match &self.results {
                Some(rows) => {
                    let ty = rows[n].clone().map_or(Type::Error, Type::Row);
                    self.node(Kind::Branch(n), ty, span, Uses::ROWS)
                }
                None => self.misplaced(span, "a branch is a result, not a number", "return it"),
            },
            Entry::Bound => self.misplaced(
                span,
                "this name is bound by the host and read by a clause only",
                "declare it as an `input` to read it",
            ),
        }
    }

    fn param(&mut self, n: usize, span: Span) -> Expr {
        let p = &self.params[n];
        let ty = match p.ty {
            Ty::Bool => Type::Bool,
            Ty::Int => Type::Int,
            Ty::Float => Type::Float,
        };
        let uses = if p.is_static { Uses::STATIC } else { Uses::PARAM };
        self.node(Kind::Param(n), ty, span, uses)
    }

    fn dim(&mut self, n: usize, span: Span) -> Expr {
        let value = self.dims[n].fixed().map(Value::Int);
        let node = self.node(Kind::Dim(n), Type::Int, span, Uses::DIM);
        match value {
            Some(_) if !node.is_error() => std::sync::Arc::new(super::hir::Node { value, ..(*node).clone() }),
            _ => node,
        }
    }

    fn tensor(&mut self, n: usize, span: Span) -> Expr {
        let t = &self.tensors[n];
        let Some(last) = t.shape.last().cloned() else { return self.load(n, Vec::new(), span) };
        if let (KernelKind::Recurrence, Some(step)) = (self.kind, &self.step_dim)
            && last.same(step)
        {
            let ty = match t.elem {
                Elem::Of(DType::Bit) => Type::Bool,
                e if e.is_float() => Type::Float,
                _ => Type::Int,
            };
            return self.node(Kind::AtStep(n), ty, span, Uses::STEP);
        }
        let last = self.row_sizes.get(&n).cloned().unwrap_or(last);
        self.node(Kind::Row(n, Vec::new()), Type::Row(last), span, Uses::ROWS)
    }

    /// An element of a tensor.
    pub fn load(&mut self, n: usize, index: Vec<Expr>, span: Span) -> Expr {
        let (ty, uses) = match self.tensors[n].elem {
            Elem::Of(DType::Bit) => (Type::Bool, Uses::INT_LOAD),
            e if e.is_float() => (Type::Float, Uses::FLOAT_LOAD),
            _ => (Type::Int, Uses::INT_LOAD),
        };
        self.node(Kind::Load(n, index), ty, span, uses)
    }

    fn index(&mut self, base: &ast::Expr, index: &[ast::Expr], span: Span) -> Expr {
        let base_expr = self.expr(base);
        let mut at = match &base_expr.kind {
            Kind::Row(_, before) => before.clone(),
            _ => Vec::new(),
        };
        let first = at.len();
        for x in index {
            let x = self.expr(x);
            at.push(self.want_int(&x, "an index"));
        }
        let tensor = match &base_expr.kind {
            Kind::Row(n, _) | Kind::AtStep(n) => *n,
            Kind::Error => return self.err(span),
            _ => {
                let message = format!("{} cannot be indexed", base_expr.ty.words());
                let d = Diagnostic::error(Code::WrongIndex, base.span, message)
                    .label("not a tensor")
                    .help("brackets follow an input, a cache or a derived tensor");
                self.report.push(d);
                return self.err(span);
            }
        };
        if at.iter().any(|x| x.is_error()) {
            return self.err(span);
        }
        self.indexed(tensor, at, first, span)
    }

    fn indexed(&mut self, tensor: usize, at: Vec<Expr>, first: usize, span: Span) -> Expr {
        let t = &self.tensors[tensor];
        let (rank, name) = (t.shape.len(), t.name.clone());
        if at.len() > rank || at.len() + 1 < rank {
            let message = format!("`{name}` has {rank} dims, but {} are indexed", at.len());
            let hint = self.index_hint(tensor);
            let mut d = Diagnostic::error(Code::WrongIndex, span, message)
                .label(format!("`{name}` is {}", self.tensors[tensor].type_text()))
                .note("all dims give a number, all but the last a row");
            if first == 0 && self.frames.is_empty() {
                d = d.suggest(span, hint, "index every dim");
            }
            self.report.push(d);
            return self.err(span);
        }
        if !self.check_ranges(tensor, &at) {
            return self.err(span);
        }
        if at.len() == rank {
            return self.load(tensor, at, span);
        }
        let last = self.tensors[tensor].shape[rank - 1].clone();
        let row = if self.tensors[tensor].elem.is_float() { Uses::FLOAT_LOAD } else { Uses::INT_LOAD };
        self.node(Kind::Row(tensor, at), Type::Row(last), span, Uses::ROWS.or(row))
    }

    /// Constant indices against the sizes that the text fixes.
    fn check_ranges(&mut self, tensor: usize, at: &[Expr]) -> bool {
        for (d, x) in at.iter().enumerate() {
            let (Some(x_value), size) = (x.int(), self.tensors[tensor].shape[d].clone()) else { continue };
            let n = size.known();
            if x_value < 0 || n.is_some_and(|n| x_value >= n) {
                let message = format!(
                    "index {x_value} is not in 0..{}",
                    n.map_or(size.text.clone(), |n| n.to_string())
                );
                let label = format!("dim {d} of `{}` is {}", self.tensors[tensor].name, size.text);
                self.report.error(Code::IndexRange, x.span, message, label);
                return false;
            }
        }
        true
    }

    /// `name[b, h, i, j]` with the index variable that each dim suggests.
    pub fn index_hint(&self, tensor: usize) -> String {
        let t = &self.tensors[tensor];
        let rank = t.shape.len();
        let word = |d: usize, s: &Size| -> String {
            let head = s.text.to_ascii_uppercase();
            match head.chars().next() {
                _ if s.known() == Some(1) => "0".into(),
                Some('B') => "b".into(),
                Some('H') => "h".into(),
                Some('S' | 'T') if head.contains('K') || (d > 0 && d + 1 == rank && rank > 3) => "j".into(),
                Some('S' | 'T') => "i".into(),
                _ => "0".into(),
            }
        };
        let parts: Vec<String> = t.shape.iter().enumerate().map(|(d, s)| word(d, s)).collect();
        format!("{}[{}]", t.name, parts.join(", "))
    }

    fn infix(&mut self, op: InfixOp, left: &ast::Expr, right: &ast::Expr, span: Span) -> Expr {
        if matches!(op, InfixOp::Or) {
            self.warn_mixed(left, right, span);
        }
        if op == InfixOp::MatMul
            && self.values.is_some()
            && matches!(&left.node, ExprKind::Name(n) if n == "weight")
        {
            return self.weighted(right, span);
        }
        let (a, b) = (self.expr(left), self.expr(right));
        match op {
            InfixOp::Or => self.logic(BinaryOp::Or, &a, &b, span),
            InfixOp::And => self.logic(BinaryOp::And, &a, &b, span),
            InfixOp::Eq => self.compare(BinaryOp::Eq, &a, &b, span),
            InfixOp::Ne => self.compare(BinaryOp::Ne, &a, &b, span),
            InfixOp::Lt => self.compare(BinaryOp::Lt, &a, &b, span),
            InfixOp::Le => self.compare(BinaryOp::Le, &a, &b, span),
            InfixOp::Gt => self.compare(BinaryOp::Lt, &b, &a, span),
            InfixOp::Ge => self.compare(BinaryOp::Le, &b, &a, span),
            InfixOp::Add => self.arith(BinaryOp::Add, &a, &b, span),
            InfixOp::Sub => self.arith(BinaryOp::Sub, &a, &b, span),
            InfixOp::Mul => self.arith(BinaryOp::Mul, &a, &b, span),
            InfixOp::Div => self.arith(BinaryOp::Div, &a, &b, span),
            InfixOp::IDiv => self.int_division(BinaryOp::IDiv, &a, &b, span),
            InfixOp::Mod => self.int_division(BinaryOp::Mod, &a, &b, span),
            InfixOp::Pow => self.power(&a, &b, span),
            InfixOp::MatMul => self.matmul(&a, &b, span),
        }
    }

    /// `weight @ v` in a `return`: a row of v's length.
    fn weighted(&mut self, value: &ast::Expr, span: Span) -> Expr {
        let v = self.expr(value);
        let v = self.want_row(&v);
        let Type::Row(n) = &v.ty else { return self.err(span) };
        let out = self.node(Kind::Weighted(v.clone()), Type::Row(n.clone()), span, v.uses);
        self.values.get_or_insert_default().push(v);
        out
    }

    fn matmul(&mut self, a: &Expr, b: &Expr, span: Span) -> Expr {
        match (&a.ty, &b.ty) {
            (Type::Error, _) | (_, Type::Error) => self.err(span),
            (Type::Row(n), Type::Mat(r, c)) if n.same(r) => {
                let ty = Type::Row(c.clone());
                self.node(Kind::VecMat(a.clone(), b.clone()), ty, span, Uses::NONE)
            }
            (Type::Row(n), Type::Mat(r, _)) => self.length_mismatch(&n.clone(), &r.clone(), span),
            _ if self.kind == KernelKind::Recurrence => {
                let message =
                    format!("`@` takes a row and a matrix, not {} and {}", a.ty.words(), b.ty.words());
                self.report.error(Code::TypeMismatch, span, message, "not row @ matrix");
                self.err(span)
            }
            _ => self.misplaced(
                span,
                "`@` stands only in `return weight @ v` and in recurrences",
                "`dot(x, y)` is the dot of two rows",
            ),
        }
    }

    /// `a & b | c` without parentheses: legal, and often not what was meant.
    fn warn_mixed(&mut self, left: &ast::Expr, right: &ast::Expr, span: Span) {
        for side in [left, right] {
            if matches!(&side.node, ExprKind::Infix { op: InfixOp::And, .. }) {
                let text = self.text(side.span);
                let whole = self.text(span);
                let read = whole.replacen(&text, &format!("({text})"), 1);
                let d =
                    Diagnostic::warning(Code::MixedAndOr, span, "`&` is mixed with `|` without parentheses")
                        .label(format!("read as `{read}`"))
                        .note("`&` binds tighter than `|`")
                        .suggest(side.span, format!("({text})"), "write the parentheses");
                self.report.push(d);
            }
        }
    }

    fn interval(&mut self, value: &ast::Expr, interval: &ast::Interval, span: Span) -> Expr {
        let (x, lo, hi) = (self.expr(value), self.expr(&interval.lo), self.expr(&interval.hi));
        let at = interval.lo.span.to(interval.hi.span);
        if let (Some(l), Some(h)) = (lo.int(), hi.int()) {
            let first = l.saturating_add(i64::from(!interval.lo_included));
            let last = h.saturating_sub(i64::from(!interval.hi_included));
            if first > last {
                let d = Diagnostic::warning(Code::EmptyInterval, at, "this interval is always empty")
                    .label("no value lies inside")
                    .help("swap the ends, or include them with `[` and `]`");
                self.report.push(d);
            }
        }
        let lower = if interval.lo_included { BinaryOp::Le } else { BinaryOp::Lt };
        let upper = if interval.hi_included { BinaryOp::Le } else { BinaryOp::Lt };
        let a = self.compare(lower, &lo, &x, span);
        let b = self.compare(upper, &x, &hi, span);
        self.logic(BinaryOp::And, &a, &b, span)
    }

    fn unknown(&mut self, name: &str, span: Span) -> Expr {
        let mut d = Diagnostic::error(Code::UnknownName, span, format!("nothing is called `{name}`"))
            .label("not declared");
        let words = IndexVar::ALL.iter().map(|(n, _)| *n);
        if let Some(n) = nearest(name, self.names.keys().map(String::as_str).chain(words)) {
            d = d.suggest(span, n.clone(), format!("did you mean `{n}`?"));
        } else if matches!(name, "score" | "weight" | "lse" | "max_logit") {
            d = d.help(format!("`{name}` is a result; it stands in `weight` or `return` only"));
        } else if self.modules.find_def(self.module, name).is_some() {
            d = d.suggest(span, format!("{name}()"), "it is a definition: call it");
        } else {
            d = d.help("declare it as a dim, an input, a parameter or a `let`");
        }
        self.report.push(d);
        self.err(span)
    }
}
