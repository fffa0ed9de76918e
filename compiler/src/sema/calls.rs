//! Calls in expressions: builtin functions and definitions, which are inlined.
//!
//! Comes in: a call of the syntax tree. Goes out: the typed tree of its value. What holds: arguments are typed
//! once, in the caller's scope; a definition's body sees its parameters and the index variables only. Not here:
//! calls that are clauses in disguise (`softmax`, `topk`, `rope`), which `clauses.rs` and its siblings read.

use std::collections::HashMap;

use crate::diagnostic::{Code, Diagnostic, Span};
use crate::expr::{BinaryOp, UnaryOp};
use crate::syntax::ast::{self, Arg, DefKind};

use super::elab::{Elab, Frame};
use super::hir::{Expr, Kind, NormOver, Size, Type, Uses};
use super::model::{KernelKind, TensorKind};
use super::modules::DefId;
use super::suggest::nearest;

/// Functions of one float, elementwise on rows.
const MATH: [(&str, UnaryOp); 12] = [
    ("floor", UnaryOp::Floor),
    ("ceil", UnaryOp::Ceil),
    ("exp", UnaryOp::Exp),
    ("exp2", UnaryOp::Exp2),
    ("log", UnaryOp::Log),
    ("log2", UnaryOp::Log2),
    ("sqrt", UnaryOp::Sqrt),
    ("rsqrt", UnaryOp::Rsqrt),
    ("tanh", UnaryOp::Tanh),
    ("sigmoid", UnaryOp::Sigmoid),
    ("sin", UnaryOp::Sin),
    ("cos", UnaryOp::Cos),
];

/// The other builtin functions.
const OTHER: [&str; 12] = [
    "abs",
    "min",
    "max",
    "softcap",
    "clamp",
    "pow",
    "rand_block",
    "int",
    "float",
    "dot",
    "outer",
    "srms_norm",
];

/// Calls that stand in one clause only, and where.
const ELSEWHERE: [(&str, &str); 16] = [
    ("softmax", "it stands in `weight = softmax(score)`"),
    ("relu", "it stands in `weight = relu(score)`; elsewhere write `max(x, 0)`"),
    ("topk", "it stands in `select i = topk(...)`"),
    ("topk_blocks", "it stands in `select j = topk_blocks(...)`"),
    ("blocks", "it stands in `select j = blocks(...)`"),
    ("rope", "it stands in `rotate q by rope(...) at i`"),
    ("lrpe", "it stands in `rotate q by lrpe(...) at i`"),
    ("cumsum", "it stands alone in `let F = cumsum(x)`"),
    ("mean_pool", "it stands alone in `let kc = mean_pool(k, ...)`"),
    ("segment", "it stands alone in `let doc = segment(cu)`"),
    ("concat", "it stands alone in `let kk = concat(k, extra)`"),
    ("scatter", "it stands in `return`"),
    ("merge", "it stands in `return`"),
    ("cast", "it stands in `return`"),
    ("silu", "it stands in `map q by silu`; elsewhere write `x * sigmoid(x)`"),
    ("ring", "it stands in `distribute ring(...)`"),
];

/// True for the name of a builtin function, wherever it may stand.
pub(crate) fn is_builtin(name: &str) -> bool {
    builtin_names().any(|n| n == name)
}

fn builtin_names() -> impl Iterator<Item = &'static str> {
    MATH.iter().map(|m| m.0).chain(OTHER).chain(ELSEWHERE.iter().map(|e| e.0))
}

impl Elab<'_> {
    /// Types a call.
    pub fn call(&mut self, name: &ast::Name, args: &[Arg], span: Span) -> Expr {
        let module = self.frames.last().map_or(self.module, |f| f.module);
        if let Some(def) = self.modules.find_def(module, &name.node) {
            return self.inline(def, args, span);
        }
        if let Some((_, op)) = MATH.iter().find(|(n, _)| *n == name.node) {
            let Some([x]) = self.arguments(&name.node, ["x"], args, span) else { return self.err(span) };
            return self.math(*op, &x, span);
        }
        match name.node.as_str() {
            "abs" => match self.arguments("abs", ["x"], args, span) {
                Some([x]) => self.signed(UnaryOp::Abs, &x, span),
                None => self.err(span),
            },
            "int" => match self.arguments("int", ["x"], args, span) {
                Some([x]) => self.truncate(&x, span),
                None => self.err(span),
            },
            "float" => match self.arguments("float", ["x"], args, span) {
                Some([x]) => self.widen(&x),
                None => self.err(span),
            },
            "pow" => match self.arguments("pow", ["x", "y"], args, span) {
                Some([x, y]) => self.arith(BinaryOp::Pow, &x, &y, span),
                None => self.err(span),
            },
            "min" => self.fold_many(BinaryOp::Min, args, span),
            "max" => self.fold_many(BinaryOp::Max, args, span),
            "softcap" => self.softcap(args, span),
            "clamp" => self.clamp(args, span),
            "rand_block" => self.rand_block(args, span),
            "dot" => self.dot(args, span),
            "outer" => self.outer(args, span),
            "srms_norm" => self.norm(args, span),
            "scatter" | "merge" if self.results.is_some() => self.of_branches(&name.node, args, span),
            _ => self.unknown_call(name, span),
        }
    }

    fn unknown_call(&mut self, name: &ast::Name, span: Span) -> Expr {
        if let Some((_, help)) = ELSEWHERE.iter().find(|(n, _)| *n == name.node) {
            return self.misplaced(span, &format!("`{}` has no place in this expression", name.node), help);
        }
        if self.frames.is_empty() {
            let d = unknown_function(name, self.modules.visible_defs(self.module));
            self.report.push(d);
        }
        self.err(span)
    }

    /// Binds arguments to parameters, all required, and types them.
    fn arguments<const N: usize>(
        &mut self,
        what: &str,
        params: [&str; N],
        args: &[Arg],
        span: Span,
    ) -> Option<[Expr; N]> {
        let bound = self.bind(what, &params, N, args, span)?;
        let typed: Vec<Expr> = bound.into_iter().flatten().map(|e| self.expr(e)).collect();
        typed.try_into().ok()
    }

    /// Binds arguments by position and name; the first `required` parameters must be given.
    pub fn bind<'e>(
        &mut self,
        what: &str,
        params: &[&str],
        required: usize,
        args: &'e [Arg],
        span: Span,
    ) -> Option<Vec<Option<&'e ast::Expr>>> {
        let mut out: Vec<Option<&ast::Expr>> = vec![None; params.len()];
        let signature = format!("{what}({})", params.join(", "));
        for (n, arg) in args.iter().enumerate() {
            let slot = match &arg.name {
                None => n,
                Some(name) => match params.iter().position(|p| *p == name.node) {
                    Some(slot) => slot,
                    None => {
                        self.unknown_argument(&signature, name, params);
                        return None;
                    }
                },
            };
            if slot >= params.len() || out[slot].is_some() {
                let message = match slot < params.len() {
                    true => format!("`{}` of `{what}` is given twice", params[slot]),
                    false => {
                        format!("`{what}` takes {} arguments, but {} are given", params.len(), args.len())
                    }
                };
                let d = Diagnostic::error(Code::WrongArguments, arg.value.span, message)
                    .label("one too many")
                    .help(format!("`{signature}`"));
                self.report.push(d);
                return None;
            }
            out[slot] = Some(&arg.value);
        }
        if let Some(missing) = (0..required).find(|n| out[*n].is_none()) {
            let message = format!("`{what}` lacks its argument `{}`", params[missing]);
            let d = Diagnostic::error(Code::WrongArguments, span, message)
                .label("an argument is missing")
                .help(format!("`{signature}`"));
            self.report.push(d);
            return None;
        }
        Some(out)
    }

    fn unknown_argument(&mut self, signature: &str, name: &ast::Name, params: &[&str]) {
        let message = format!("no argument is called `{}`", name.node);
        let mut d = Diagnostic::error(Code::WrongArguments, name.span, message)
            .label("not a parameter")
            .help(format!("`{signature}`"));
        if let Some(n) = nearest(&name.node, params.iter().copied()) {
            d = d.suggest(name.span, n.clone(), format!("did you mean `{n}`?"));
        }
        self.report.push(d);
    }

    fn fold_many(&mut self, op: BinaryOp, args: &[Arg], span: Span) -> Expr {
        let name = if op == BinaryOp::Min { "min" } else { "max" };
        if args.len() < 2 || args.iter().any(|a| a.name.is_some()) {
            let d =
                Diagnostic::error(Code::WrongArguments, span, format!("`{name}` takes two or more numbers"))
                    .label("too few, or named")
                    .help(format!("`{name}(x, y)`"));
            self.report.push(d);
            return self.err(span);
        }
        let mut out = self.expr(&args[0].value);
        for arg in &args[1..] {
            let x = self.expr(&arg.value);
            out = self.arith(op, &out, &x, span);
        }
        out
    }

    fn softcap(&mut self, args: &[Arg], span: Span) -> Expr {
        let Some([x, c]) = self.arguments("softcap", ["x", "c"], args, span) else { return self.err(span) };
        let quotient = self.arith(BinaryOp::Div, &x, &c, span);
        let capped = self.math(UnaryOp::Tanh, &quotient, span);
        self.arith(BinaryOp::Mul, &c, &capped, span)
    }

    fn clamp(&mut self, args: &[Arg], span: Span) -> Expr {
        let Some([x, lo, hi]) = self.arguments("clamp", ["x", "lo", "hi"], args, span) else {
            return self.err(span);
        };
        let low = self.arith(BinaryOp::Max, &x, &lo, span);
        self.arith(BinaryOp::Min, &low, &hi, span)
    }

    fn rand_block(&mut self, args: &[Arg], span: Span) -> Expr {
        let params = ["row", "col", "ncols", "head", "n", "seed", "exclude"];
        let Some(bound) = self.bind("rand_block", &params, 6, args, span) else { return self.err(span) };
        let mut ints = Vec::new();
        for (e, name) in bound[..6].iter().zip(params) {
            let Some(e) = e else { return self.err(span) };
            let x = self.expr(e);
            ints.push(self.want_int(&x, &format!("`{name}` of `rand_block`")));
        }
        let except = match bound[6] {
            Some(e) if !matches!(&e.node, ast::ExprKind::Name(n) if n == "none") => {
                let x = self.expr(e);
                Some(self.want_bool(&x))
            }
            _ => None,
        };
        if ints.iter().chain(&except).any(|x| x.is_error()) {
            return self.err(span);
        }
        let Ok(ints) = <[Expr; 6]>::try_from(ints) else { return self.err(span) };
        let kind = match except {
            Some(e) => Kind::RandBlockExcept(Box::new(ints), e),
            None => Kind::RandBlock(Box::new(ints)),
        };
        self.node(kind, Type::Bool, span, Uses::NONE)
    }

    fn dot(&mut self, args: &[Arg], span: Span) -> Expr {
        let Some([x, y]) = self.arguments("dot", ["x", "y"], args, span) else { return self.err(span) };
        let (x, y) = (self.want_row(&x), self.want_row(&y));
        match (&x.ty, &y.ty) {
            (Type::Row(n), Type::Row(m)) if n.same(m) => {
                self.node(Kind::Dot(x.clone(), y.clone()), Type::Float, span, Uses::DOT)
            }
            (Type::Row(n), Type::Row(m)) => self.length_mismatch(&n.clone(), &m.clone(), span),
            _ => self.err(span),
        }
    }

    /// Asks for a row of floats.
    pub fn want_row(&mut self, e: &Expr) -> Expr {
        let tensor = match (&e.kind, &e.ty) {
            (_, Type::Error) => return e.clone(),
            (Kind::Row(t, _), Type::Row(_)) => Some(*t),
            (_, Type::Row(_)) => None,
            _ => return self.expected("a row of numbers", e),
        };
        if let Some(t) =
            tensor.filter(|t| !self.tensors[*t].elem.is_float() && self.tensors[*t].kind != TensorKind::Cache)
        {
            let fact = &self.tensors[t];
            let message = format!(
                "`{}` holds {}, and a row to be multiplied holds floats",
                fact.name,
                fact.elem.name()
            );
            let d = Diagnostic::error(Code::TypeMismatch, e.span, message)
                .label(format!("{} here", fact.elem.name()))
                .help("declare it `float`, or as a `cache ... scale f16 per (token, head)`");
            self.report.push(d);
            return self.err(e.span);
        }
        e.clone()
    }

    fn outer(&mut self, args: &[Arg], span: Span) -> Expr {
        if self.kind != KernelKind::Recurrence {
            return self.misplaced(
                span,
                "`outer` makes a matrix, and only recurrences have states",
                "use `dot(q, k)` in a score",
            );
        }
        let Some([x, y]) = self.arguments("outer", ["x", "y"], args, span) else { return self.err(span) };
        let (x, y) = (self.want_row(&x), self.want_row(&y));
        match (&x.ty, &y.ty) {
            (Type::Row(n), Type::Row(m)) => {
                let ty = Type::Mat(n.clone(), m.clone());
                self.node(Kind::Outer(x.clone(), y.clone()), ty, span, Uses::NONE)
            }
            _ => self.err(span),
        }
    }

    fn norm(&mut self, args: &[Arg], span: Span) -> Expr {
        let params = ["x", "over", "eps"];
        let Some(bound) = self.bind("srms_norm", &params, 1, args, span) else { return self.err(span) };
        let Some(x) = bound[0] else { return self.err(span) };
        let x = self.expr(x);
        let x = self.want_row(&x);
        let dims = bound[1].map_or(Some(Vec::new()), |over| self.norm_dims(over));
        let eps = bound[2].map_or(Some(1e-6), |e| self.norm_eps(e));
        match (dims, eps) {
            (Some(dims), Some(eps)) if !x.is_error() => {
                let over = std::sync::Arc::new(NormOver { dims, eps });
                self.node(Kind::Norm(x.clone(), over), x.ty.clone(), span, Uses::NONE)
            }
            _ => self.err(span),
        }
    }

    /// A constant that keeps the root of a zero row away from 0.
    fn norm_eps(&mut self, e: &ast::Expr) -> Option<f64> {
        let x = self.expr(e);
        let x = self.widen(&x);
        let value = x.value.map(|v| v.float()).filter(|v| *v >= 0.0);
        if value.is_none() && !x.is_error() {
            self.report.error(Code::WrongArguments, e.span, "`eps` is a constant", "for instance 1e-6");
        }
        value
    }

    fn norm_dims(&mut self, over: &ast::Expr) -> Option<Vec<Size>> {
        let ast::ExprKind::List(dims) = &over.node else {
            self.report.error(
                Code::WrongArguments,
                over.span,
                "`over` takes a list of dims",
                "write `[H, D]`",
            );
            return None;
        };
        let mut sizes = Vec::new();
        for d in dims {
            let x = self.expr(d);
            let x = self.want_int(&x, "a dim of `over`");
            if x.is_error() {
                return None;
            }
            let dim = if let Kind::Dim(n) = x.kind { Some(n) } else { None };
            sizes.push(Size { expr: x, text: self.text(d.span), dim });
        }
        Some(sizes)
    }

    /// Types the body of a definition with its parameters bound.
    pub fn inline(&mut self, def: DefId, args: &[Arg], span: Span) -> Expr {
        self.used_defs.insert(def);
        if self.modules.is_recursive(def) {
            return self.err(span);
        }
        match self.bind_definition(def, args, span) {
            Some(values) => self.inline_bound(def, values, span),
            None => self.err(span),
        }
    }

    /// As [`Elab::inline`], with arguments that are typed already, one for each parameter.
    pub fn inline_values(&mut self, def: DefId, values: Vec<Expr>, span: Span) -> Expr {
        self.used_defs.insert(def);
        if self.modules.is_recursive(def) {
            return self.err(span);
        }
        let modules = self.modules;
        let params = modules.def(def).1.params.iter().map(|p| p.name.node.clone());
        self.inline_bound(def, params.zip(values).collect(), span)
    }

    /// The parameters of a definition with what a call gives them.
    pub fn bind_definition(&mut self, def: DefId, args: &[Arg], span: Span) -> Option<HashMap<String, Expr>> {
        let modules = self.modules;
        let (_, ast) = modules.def(def);
        let names: Vec<&str> = ast.params.iter().map(|p| p.name.node.as_str()).collect();
        let required = ast.params.iter().rposition(|p| p.default.is_none()).map_or(0, |n| n + 1);
        let bound = self.bind(&ast.name.node, &names, required, args, span)?;
        let mut values = HashMap::new();
        for (param, arg) in ast.params.iter().zip(bound) {
            let value = match (arg, &param.default) {
                (Some(e), _) | (None, Some(e)) => self.expr(e),
                (None, None) => self.err(span),
            };
            values.insert(param.name.node.clone(), self.check_argument(param, value));
        }
        Some(values)
    }

    fn inline_bound(&mut self, def: DefId, values: HashMap<String, Expr>, span: Span) -> Expr {
        let modules = self.modules;
        let (home, ast) = modules.def(def);
        self.report.calls.push((ast.name.node.clone(), span));
        self.frames.push(Frame { module: home, args: values });
        let out = if ast.kind == DefKind::Position {
            self.misplaced(
                span,
                "a `position` has no value of its own",
                "it stands in `rotate q by p(...) at i`",
            )
        } else {
            let body = self.expr(&ast.body);
            match ast.kind {
                DefKind::Mask => self.want_bool(&body),
                DefKind::Score => self.widen(&body),
                DefKind::Fn | DefKind::Position => body,
            }
        };
        self.frames.pop();
        self.report.calls.pop();
        out
    }

    fn check_argument(&mut self, param: &ast::Param, value: Expr) -> Expr {
        let Some(ty) = &param.ty else { return value };
        match ty.node.as_str() {
            "int" => self.want_int(&value, &format!("`{}`", param.name.node)),
            "float" => self.widen(&value),
            "bool" => self.want_bool(&value),
            _ => value,
        }
    }
}

/// The diagnostic for a call of an unknown function.
pub(crate) fn unknown_function(name: &ast::Name, defs: Vec<String>) -> Diagnostic {
    let d =
        Diagnostic::error(Code::UnknownFunction, name.span, format!("no function is called `{}`", name.node))
            .label("not defined here");
    let mut names: Vec<&str> = defs.iter().map(String::as_str).collect();
    for name in builtin_names() {
        names.push(name);
    }
    let near = nearest(&name.node, names);
    match near {
        Some(n) => d.suggest(name.span, n.clone(), format!("did you mean `{n}`?")),
        None => d.help("define it (`fn f(x) = ...`), or import it (`use std.mask`, `use std.score`)"),
    }
}
