//! `numerics`, `schedule`, `ensure` and `test`.
//!
//! Comes in: their clauses. Goes out: facts for the tools. What holds: every option name and value is one that the
//! language knows. Not here: whether a promise holds or a tile fits, which needs a target.

use crate::attn_ir::Products;
use crate::diagnostic::{Code, Diagnostic, Span};
use crate::expr::Ty;
use crate::expr::eval::Value;
use crate::syntax::ast::{self, Arg, ExprKind, InfixOp, OptionDecl};

use super::elab::Elab;
use super::model::*;
use super::suggest::nearest;

/// Values of `dot` in `numerics`.
const DOTS: [&str; 4] = ["exact", "tf32", "fp8", "int8"];

impl Elab<'_> {
    fn unknown_option(&mut self, name: &ast::Name, what: &str, known: &[&str]) {
        let mut d =
            Diagnostic::error(Code::BadOption, name.span, format!("`{what}` has no option `{}`", name.node))
                .label("unknown option")
                .help(format!("there are {}", known.join(", ")));
        if let Some(n) = nearest(&name.node, known.iter().copied()) {
            d = d.suggest(name.span, n.clone(), format!("did you mean `{n}`?"));
        }
        self.report.push(d);
    }

    fn bad_value(&mut self, span: Span, option: &str, expected: &str) {
        let message = format!("`{option}` does not take this value");
        let d = Diagnostic::error(Code::BadOption, span, message).label(format!("expected {expected}"));
        self.report.push(d.help(format!("for instance `{option} = {}`", example(expected))));
    }

    fn repeated(&mut self, options: &[OptionDecl]) {
        for (n, o) in options.iter().enumerate() {
            if options[..n].iter().any(|p| p.name.node == o.name.node) {
                let message = format!("`{}` is given twice", o.name.node);
                self.report.error(Code::BadOption, o.name.span, message, "the second one");
            }
        }
    }

    /// `numerics { ... }`
    pub fn numerics(
        &mut self,
        options: &[OptionDecl],
        unsupported: &mut Vec<UnsupportedClause>,
    ) -> NumericsFact {
        let known = ["dot", "grad", "split", "batch_invariant", "guard"];
        let mut fact = NumericsFact::default();
        self.repeated(options);
        for o in options {
            let (name, span) = (o.name.node.as_str(), o.name.span);
            if !known.contains(&name) {
                self.unknown_option(&o.name, "numerics", &known);
                continue;
            }
            let word = o.value.as_ref().and_then(word_of);
            let at = o.value.as_ref().map_or(span, |v| v.span);
            let mut refuse = |clause: String, nearest: &str| {
                unsupported.push(UnsupportedClause { clause, span: span.to(at), nearest: nearest.into() });
            };
            match (name, word) {
                ("dot", Some("exact")) => fact.products = Products::Exact,
                ("dot", Some("tf32")) => fact.products = Products::Tf32,
                ("dot", Some(w)) if DOTS.contains(&w) => {
                    refuse(format!("numerics dot = {w}"), "`dot = exact`")
                }
                ("dot", w) => {
                    let near = w.and_then(|w| nearest(w, DOTS));
                    self.bad_word(at, "dot", "exact, tf32, fp8 or int8", near);
                }
                ("grad", Some("deterministic")) => fact.deterministic_grad = true,
                ("grad", w) => {
                    let near = w.and_then(|w| nearest(w, ["deterministic"]));
                    self.bad_word(at, "grad", "deterministic", near);
                }
                ("guard", Some("nonfinite")) => fact.guard_nonfinite = Some(span.to(at)),
                ("guard", w) => {
                    let near = w.and_then(|w| nearest(w, ["nonfinite"]));
                    self.bad_word(at, "guard", "nonfinite", near);
                }
                ("batch_invariant", Some("true") | None) if o.value.is_none() || word == Some("true") => {
                    fact.batch_invariant = true;
                }
                ("batch_invariant", Some("false")) => {}
                ("batch_invariant", _) => self.bad_value(at, "batch_invariant", "true or false"),
                _ => {
                    fact.split = self.split(o.value.as_ref(), at);
                }
            }
        }
        fact
    }

    fn bad_word(&mut self, span: Span, option: &str, expected: &str, near: Option<String>) {
        match near {
            Some(n) => {
                let message = format!("`{option}` does not take this value");
                let d = Diagnostic::error(Code::BadOption, span, message)
                    .label(format!("expected {expected}"))
                    .suggest(span, n.clone(), format!("did you mean `{n}`?"));
                self.report.push(d);
            }
            None => self.bad_value(span, option, expected),
        }
    }

    /// `split = fixed(512)`
    fn split(&mut self, value: Option<&ast::Expr>, at: Span) -> Option<i64> {
        let size = match value.map(|v| &v.node) {
            Some(ExprKind::Call { name, args }) if name.node == "fixed" && args.len() == 1 => {
                Some(self.expr(&args[0].value))
            }
            _ => None,
        };
        match size.and_then(|s| s.int()) {
            Some(n) if n > 0 => Some(n),
            _ => {
                self.bad_value(at, "split", "fixed(512)");
                None
            }
        }
    }

    /// `schedule cpu { tile = [64, 64] }`
    pub fn schedule(
        &mut self,
        target: &ast::Name,
        args: &[Arg],
        options: &[OptionDecl],
        span: Span,
    ) -> Option<ScheduleFact> {
        let known: &[&str] = match target.node.as_str() {
            "cpu" => &["tile"],
            "gpu" => &["tile", "stages", "warps", "split"],
            other => {
                let d = Diagnostic::error(
                    Code::BadOption,
                    target.span,
                    format!("there is no schedule for `{other}`"),
                )
                .label("expected cpu or gpu");
                let near = nearest(other, ["cpu", "gpu"]).unwrap_or_else(|| "cpu".into());
                self.report.push(d.suggest(target.span, near.clone(), format!("write `{near}`")));
                return None;
            }
        };
        for arg in args {
            let arch = word_of(&arg.value);
            let fine = target.node == "gpu"
                && arch.is_some_and(|a| crate::target::GpuArch::ALL.iter().any(|g| g.name() == a));
            if !fine {
                self.bad_value(arg.value.span, "schedule gpu", "sm_80, sm_86, sm_89 or sm_90a");
            }
        }
        self.repeated(options);
        let mut fact = ScheduleFact { target: target.node.clone(), tile: None, options: Vec::new(), span };
        for o in options {
            let name = o.name.node.as_str();
            let at = o.value.as_ref().map_or(o.name.span, |v| v.span);
            if !known.contains(&name) {
                self.unknown_option(&o.name, &format!("schedule {}", target.node), known);
            } else if name == "tile" {
                fact.tile = self.tile(o.value.as_ref(), at);
            } else {
                let value = o.value.as_ref().map(|v| self.expr(v)).and_then(|v| v.int());
                match value {
                    Some(n) if (1..=4096).contains(&n) => fact.options.push((name.into(), n)),
                    _ => self.bad_value(at, name, "a small positive number"),
                }
            }
        }
        Some(fact)
    }

    fn tile(&mut self, value: Option<&ast::Expr>, at: Span) -> Option<(i64, i64)> {
        let sizes: Vec<Option<i64>> = match value.map(|v| &v.node) {
            Some(ExprKind::List(items)) => items.iter().map(|e| self.expr(e).int()).collect(),
            _ => Vec::new(),
        };
        match sizes[..] {
            [Some(q), Some(kv)] if (1..=65536).contains(&q) && (1..=65536).contains(&kv) => Some((q, kv)),
            _ => {
                self.bad_value(at, "tile", "[rows, keys]");
                None
            }
        }
    }

    /// `ensure ...`
    pub fn ensure(&mut self, promise: &ast::Expr, at: &[Arg], span: Span) -> Option<Ensure> {
        let promise = match &promise.node {
            ExprKind::Name(n) if n == "rows_nonempty" => Promise::RowsNonempty,
            ExprKind::Infix { op: InfixOp::Le | InfixOp::Lt, left, right } => {
                self.bound_promise(left, right)?
            }
            _ => {
                let near = match &promise.node {
                    ExprKind::Name(n) => nearest(n, ["rows_nonempty"]),
                    _ => None,
                };
                self.bad_promise(promise.span, near);
                return None;
            }
        };
        let at = at.iter().filter_map(|a| self.setting(a)).collect();
        Some(Ensure { promise, at, span })
    }

    fn bad_promise(&mut self, span: Span, near: Option<String>) {
        let mut d = Diagnostic::error(Code::BadEnsure, span, "this is not a promise that can be checked")
            .label("expected rows_nonempty, work <= x, or sram <= bytes");
        d = match near {
            Some(n) => d.suggest(span, n.clone(), format!("did you mean `{n}`?")),
            None => d.help("for instance `ensure work <= 0.16 at (S = 4096)` or `ensure sram <= 96Ki`"),
        };
        self.report.push(d);
    }

    fn bound_promise(&mut self, left: &ast::Expr, right: &ast::Expr) -> Option<Promise> {
        let what = word_of(left).unwrap_or("").to_string();
        if what != "work" && what != "sram" {
            self.bad_promise(left.span, nearest(&what, ["work", "sram"]));
            return None;
        }
        let limit = self.expr(right);
        match (what.as_str(), limit.value) {
            ("work", Some(Value::Float(x))) if x >= 0.0 => Some(Promise::Work(x)),
            ("work", Some(Value::Int(x))) if x >= 0 => Some(Promise::Work(x as f64)),
            ("sram", Some(Value::Int(x))) if x > 0 => Some(Promise::Sram(x)),
            _ if limit.is_error() => None,
            _ => {
                let expected =
                    if what == "work" { "a number from 0 to 1" } else { "a number of bytes, as 96Ki" };
                let d = Diagnostic::error(
                    Code::BadEnsure,
                    right.span,
                    format!("`{what}` is bounded by {expected}"),
                )
                .label("not such a constant")
                .help("for instance `ensure work <= 0.16 at (S = 4096)` or `ensure sram <= 96Ki`");
                self.report.push(d);
                None
            }
        }
    }

    /// `S = 4096` of an `ensure`: a dim or parameter and its value.
    fn setting(&mut self, arg: &Arg) -> Option<(String, Value)> {
        let name = self.setting_name(arg, Code::BadEnsure)?;
        let value = self.setting_value(&name, &arg.value, Code::BadEnsure)?;
        Some((name, value))
    }

    fn setting_name(&mut self, arg: &Arg, code: Code) -> Option<String> {
        let Some(name) = &arg.name else {
            let d = Diagnostic::error(code, arg.value.span, "this value has no name")
                .label("of which dim or parameter?")
                .help("write for instance `Sq = [1, 17, 256]`");
            self.report.push(d);
            return None;
        };
        let known: Vec<String> = self
            .dims
            .iter()
            .map(|d| d.name.clone())
            .chain(self.params.iter().map(|p| p.name.clone()))
            .chain((code == Code::BadTest).then(|| "grad".to_string()))
            .collect();
        if known.contains(&name.node) {
            self.used.insert(name.node.clone());
            return Some(name.node.clone());
        }
        let mut d =
            Diagnostic::error(code, name.span, format!("`{}` is neither a dim nor a parameter", name.node))
                .label("unknown")
                .help(format!("there are {}", known.join(", ")));
        if let Some(n) = nearest(&name.node, known.iter().map(String::as_str)) {
            d = d.suggest(name.span, n.clone(), format!("did you mean `{n}`?"));
        }
        self.report.push(d);
        None
    }

    fn setting_value(&mut self, name: &str, e: &ast::Expr, code: Code) -> Option<Value> {
        let x = self.expr(e);
        let ty = self.params.iter().find(|p| p.name == name).map_or(Ty::Int, |p| p.ty);
        let value = match (ty, x.value) {
            (Ty::Float, Some(Value::Int(n))) => Some(Value::Float(n as f64)),
            (ty, Some(v)) if v.ty() == ty => Some(v),
            _ => None,
        };
        let Some(value) = value else {
            if !x.is_error() {
                let message = format!("`{name}` does not take this value");
                let expected = format!("expected a constant {}", crate::expr::print::ty_name(ty));
                let d = Diagnostic::error(code, e.span, message).label(expected);
                self.report.push(d.help("values are numbers, `true`, `false`, or lists of them"));
            }
            return None;
        };
        if let (Some(dim), Value::Int(n)) = (self.dims.iter().find(|d| d.name == name), value) {
            let fixed = dim.fixed().is_some_and(|f| f != n);
            let outside = dim.bounds.is_some_and(|(lo, hi)| n < lo || n > hi) || !(0..=1 << 40).contains(&n);
            if fixed || outside {
                let message = format!("dim `{name}` cannot be {n}");
                let d = Diagnostic::error(code, e.span, message)
                    .label(if fixed { "the text fixes another size" } else { "outside its bounds" })
                    .context(dim.span, "declared here")
                    .help("choose a size that the declaration allows");
                self.report.push(d);
                return None;
            }
        }
        Some(value)
    }

    /// `test (Sq = [1, 17], grad = true)`
    pub fn test(&mut self, args: &[Arg], span: Span) -> TestGrid {
        let mut grid = TestGrid { axes: Vec::new(), grad: false, span };
        for arg in args {
            let Some(name) = self.setting_name(arg, Code::BadTest) else { continue };
            if name == "grad" && !self.params.iter().any(|p| p.name == "grad") {
                match self.expr(&arg.value).value {
                    Some(Value::Bool(x)) => grid.grad = x,
                    _ => self.report.error(
                        Code::BadTest,
                        arg.value.span,
                        "`grad` is true or false",
                        "expected a bool",
                    ),
                }
                continue;
            }
            let items: Vec<&ast::Expr> = match &arg.value.node {
                ExprKind::List(items) => items.iter().collect(),
                _ => vec![&arg.value],
            };
            if items.is_empty() {
                self.report.error(
                    Code::BadTest,
                    arg.value.span,
                    format!("`{name}` has no values"),
                    "an empty list runs nothing",
                );
                continue;
            }
            let values: Vec<Value> =
                items.iter().filter_map(|e| self.setting_value(&name, e, Code::BadTest)).collect();
            if grid.axes.iter().any(|a| a.name == name) {
                self.report.error(Code::BadTest, arg.value.span, format!("`{name}` is given twice"), "again");
            } else if values.len() == items.len() {
                grid.axes.push(TestAxis { name, values });
            }
        }
        let product = grid.axes.iter().try_fold(1usize, |n, a| n.checked_mul(a.values.len()));
        if product.is_none_or(|n| n > 100_000) {
            self.report.error(
                Code::BadTest,
                span,
                "this grid has over 100000 points",
                "the product of its axes",
            );
        }
        grid
    }
}

/// The word that an expression is.
pub(crate) fn word_of(e: &ast::Expr) -> Option<&str> {
    match &e.node {
        ExprKind::Name(n) => Some(n),
        _ => None,
    }
}

fn example(expected: &str) -> &str {
    match expected {
        "a small positive number" => "2",
        "[rows, keys]" => "[64, 64]",
        other => other.split([',', ' ']).next().unwrap_or(other),
    }
}
