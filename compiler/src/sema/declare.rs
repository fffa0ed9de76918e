//! Parameters, dims and tensors of a kernel.
//!
//! Comes in: their declarations. Goes out: the facts in the scope of an [`Elab`]. What holds: sizes are int
//! expressions over earlier dims, statics and parameters; defaults are constants; layouts are permutations.
//! Not here: what a dim is for (`roles.rs`), caches' pages and scales (`cache.rs`).

use crate::artifact::DType;
use crate::attn_ir::Fact;
use crate::diagnostic::{Code, Diagnostic, Span};
use crate::expr::Ty;
use crate::expr::eval::Value;
use crate::syntax::ast::{self, Attr, ExprKind, Spanned, TensorDecl, TensorType};

use super::elab::{Elab, Entry};
use super::hir::{Expr, Size, Type, Uses, find_use};
use super::model::{DimFact, DimSize, Elem, ParamFact, TensorFact, TensorKind};
use super::suggest::nearest;

/// Most dims of a tensor.
const MAX_RANK: usize = 8;

impl Elab<'_> {
    /// Declares a kernel parameter.
    pub fn declare_param(&mut self, p: &ast::Param) {
        let default = p.default.as_ref().map(|e| (self.expr(e), e.span));
        let named = p.ty.as_ref().and_then(|t| self.scalar_type(t));
        let inferred = default.as_ref().and_then(|(e, _)| match e.ty {
            Type::Bool => Some(Ty::Bool),
            Type::Int => Some(Ty::Int),
            Type::Float => Some(Ty::Float),
            _ => None,
        });
        if p.ty.is_none() && inferred.is_none() && default.is_none() {
            let d = Diagnostic::error(
                Code::BadParam,
                p.name.span,
                format!("`{}` has neither a type nor a default", p.name.node),
            )
            .label("of which type?")
            .suggest(end_of(p.name.span), ": int", "give it a type");
            self.report.push(d);
        }
        let ty = named.or(inferred).unwrap_or(Ty::Int);
        let default = default.and_then(|(e, span)| self.param_default(&p.name.node, ty, &e, span));
        let n = self.params.len();
        self.params.push(ParamFact {
            name: p.name.node.clone(),
            is_static: p.is_static,
            ty,
            default,
            span: p.name.span,
        });
        self.declare(&p.name, Entry::Param(n));
    }

    fn scalar_type(&mut self, t: &ast::Name) -> Option<Ty> {
        match t.node.as_str() {
            "int" => Some(Ty::Int),
            "float" => Some(Ty::Float),
            "bool" => Some(Ty::Bool),
            other => {
                let d = Diagnostic::error(Code::BadParam, t.span, format!("a parameter cannot be `{other}`"))
                    .label("expected int, float or bool");
                let near = nearest(other, ["int", "float", "bool"]);
                let word = near
                    .unwrap_or_else(|| if other.starts_with('i') { "int".into() } else { "float".into() });
                self.report.push(d.suggest(t.span, word.clone(), format!("write `{word}`")));
                None
            }
        }
    }

    fn param_default(&mut self, name: &str, ty: Ty, e: &Expr, span: Span) -> Option<Value> {
        let e = match ty {
            Ty::Int => self.want_int(e, &format!("the default of `{name}`")),
            Ty::Float => self.widen(e),
            Ty::Bool => self.want_bool(e),
        };
        if e.value.is_none() && !e.is_error() {
            let message = format!("the default of `{name}` is not a constant");
            let d = Diagnostic::error(Code::BadParam, span, message)
                .label("not a constant")
                .help("defaults are numbers, or arithmetic on numbers");
            self.report.push(d);
        }
        e.value
    }

    /// Declares a dim.
    pub fn declare_dim(&mut self, d: &ast::DimDecl) {
        let mut fact = DimFact {
            name: d.name.node.clone(),
            size: DimSize::Free,
            text: String::new(),
            bounds: None,
            specialised: false,
            span: d.name.span,
        };
        match (&d.value, &d.upto) {
            (Some(lo), Some(hi)) => fact.bounds = self.bounds(lo, hi),
            (Some(value), None) => {
                fact.text = self.text(value.span);
                let e = self.size_expr(value);
                if e.int().is_some_and(|n| n < 1) {
                    let message = format!("dim `{}` is {}", d.name.node, e.int().unwrap_or(0));
                    self.report.push(
                        Diagnostic::error(Code::BadDim, value.span, message)
                            .label("sizes are at least 1")
                            .help("leave the size out to read it from the bound tensors"),
                    );
                } else {
                    fact.size = DimSize::Given(e);
                }
            }
            _ => {}
        }
        let n = self.dims.len();
        if self.declare(&d.name, Entry::Dim(n)) {
            self.dims.push(fact);
        }
    }

    fn bounds(&mut self, lo: &ast::Expr, hi: &ast::Expr) -> Option<(i64, i64)> {
        let (l, h) = (self.size_expr(lo), self.size_expr(hi));
        let (Some(l_value), Some(h_value)) = (l.int(), h.int()) else {
            if !l.is_error() && !h.is_error() {
                let d = Diagnostic::error(
                    Code::BadDim,
                    lo.span.to(hi.span),
                    "the bounds of a dim are not constants",
                )
                .label("expected numbers")
                .help("write for instance `Sq = 1..8`");
                self.report.push(d);
            }
            return None;
        };
        if l_value < 0 || l_value > h_value || h_value > 1 << 40 {
            let d = Diagnostic::error(
                Code::BadDim,
                lo.span.to(hi.span),
                format!("{l_value}..{h_value} is not a range of sizes"),
            )
            .label("both ends are included, and lie in 0..2^40");
            let d = if l_value > h_value && h_value >= 0 {
                d.suggest(lo.span.to(hi.span), format!("{h_value}..{l_value}"), "swap the ends")
            } else {
                d.help("write for instance `Sq = 1..8`")
            };
            self.report.push(d);
            return None;
        }
        Some((l_value, h_value))
    }

    /// An int over dims, statics and parameters.
    pub fn size_expr(&mut self, e: &ast::Expr) -> Expr {
        let x = self.expr(e);
        let x = self.want_int(&x, "a size");
        let other =
            Uses::INDEX.or(Uses::INT_LOAD).or(Uses::FLOAT_LOAD).or(Uses::DOT).or(Uses::STEP).or(Uses::ROWS);
        if let Some(at) = find_use(&x, other) {
            let d = Diagnostic::error(Code::BadDim, at.span, "a size depends on dims and parameters only")
                .label("not known before the launch")
                .help("make it a dim or a parameter");
            self.report.push(d);
            return self.err(e.span);
        }
        x
    }

    /// The size of one dim of a tensor.
    pub fn size(&mut self, e: &ast::Expr) -> Size {
        let expr = self.size_expr(e);
        let mut inner = e;
        while let ExprKind::Paren(x) = &inner.node {
            inner = x;
        }
        let dim = match &expr.kind {
            super::hir::Kind::Dim(n) => Some(*n),
            _ => None,
        };
        if expr.int().is_some_and(|n| n < 1) && dim.is_none() {
            let message = format!("a size of {}", expr.int().unwrap_or(0));
            self.report.error(Code::BadDim, e.span, message, "sizes are at least 1");
        }
        Size { expr, text: self.text(inner.span), dim }
    }

    /// The element type and sizes of a declaration.
    pub fn tensor_type(&mut self, ty: &TensorType) -> Option<(Elem, Vec<Size>)> {
        let elem = match ty.dtype.node.as_str() {
            "float" => Some(Elem::Float),
            name => DType::from_name(name).map(Elem::Of),
        };
        let shape: Vec<Size> = ty.dims.iter().map(|e| self.size(e)).collect();
        if elem.is_none() {
            let known = ["float", "f32", "f16", "bf16", "f64", "f8e4m3", "i8", "i32", "i64", "bit"];
            let name = &ty.dtype.node;
            let alias = match name.as_str() {
                "bool" => Some("bit".to_string()),
                "int" | "int32" => Some("i32".into()),
                "int64" => Some("i64".into()),
                "int8" => Some("i8".into()),
                "float32" => Some("f32".into()),
                "float16" | "half" => Some("f16".into()),
                "fp8" | "f8" | "e4m3" | "float8_e4m3fn" => Some("f8e4m3".into()),
                "bfloat16" => Some("bf16".into()),
                "float64" | "double" => Some("f64".into()),
                _ => nearest(name, known),
            };
            let mut d = Diagnostic::error(
                Code::BadTensorType,
                ty.dtype.span,
                format!("no element type is called `{name}`"),
            )
            .label("unknown type")
            .help(format!("there are {}", known.join(", ")));
            if let Some(n) = alias {
                d = d.suggest(ty.dtype.span, n.clone(), format!("did you mean `{n}`?"));
            }
            self.report.push(d);
        }
        if shape.len() > MAX_RANK {
            let message = format!("{} dims are more than {MAX_RANK}", shape.len());
            self.report.error(Code::BadTensorType, ty.dtype.span, message, "too many dims");
            return None;
        }
        Some((elem?, shape))
    }

    /// Declares inputs; `prefix` is the branch that they stand in.
    pub fn declare_inputs(&mut self, decl: &TensorDecl, kind: TensorKind, prefix: &str) {
        let typed = self.tensor_type(&decl.ty);
        for name in &decl.names {
            let n = self.tensors.len();
            let declared = self.declare(name, Entry::Tensor(n));
            let Some((elem, shape)) = typed.clone() else {
                if declared {
                    self.declare_erroneous(name);
                }
                continue;
            };
            if !declared {
                continue;
            }
            let layout = (0..shape.len()).collect();
            self.tensors.push(TensorFact {
                name: format!("{prefix}{}", name.node),
                kind,
                elem,
                shape,
                layout,
                fact: Fact::None,
                optional: false,
                learn: false,
                span: name.span,
            });
            self.attributes(n, &decl.attrs);
        }
    }

    /// A name whose declaration was in error stands for an erroneous value.
    pub fn declare_erroneous(&mut self, name: &ast::Name) {
        let value = self.err(name.span);
        self.lets.push(super::elab::Let { value });
        self.names.insert(name.node.clone(), (Entry::Let(self.lets.len() - 1), name.span));
        self.used.insert(name.node.clone());
    }

    fn attributes(&mut self, n: usize, attrs: &[Spanned<Attr>]) {
        for (at, attr) in attrs.iter().enumerate() {
            let same =
                |a: &Spanned<Attr>| std::mem::discriminant(&a.node) == std::mem::discriminant(&attr.node);
            if attrs[..at].iter().any(same) {
                let d = Diagnostic::error(Code::BadAttribute, attr.span, "this attribute stands twice")
                    .label("again");
                self.report.push(d.suggest(attr.span, "", "remove it"));
                continue;
            }
            match &attr.node {
                Attr::Learn if !self.tensors[n].elem.is_float() => {
                    self.bad_attribute(
                        n,
                        attr.span,
                        "`learn` wants a gradient, and only floats have one",
                        "remove it, or make the input a float",
                    );
                }
                Attr::Learn => self.tensors[n].learn = true,
                Attr::Sorted | Attr::Monotone
                    if self.tensors[n].elem.is_float() || self.tensors[n].shape.is_empty() =>
                {
                    self.bad_attribute(
                        n,
                        attr.span,
                        "only tensors of ints are promised to be in order",
                        "make the input `i32[...]`",
                    );
                }
                Attr::Sorted => self.tensors[n].fact = Fact::Sorted,
                Attr::Monotone => {
                    if self.tensors[n].fact == Fact::None {
                        self.tensors[n].fact = Fact::Monotone;
                    }
                }
                Attr::Optional => self.tensors[n].optional = true,
                Attr::Layout(names) => self.layout(n, names, attr.span),
                Attr::Paged(_) | Attr::Len(_) | Attr::Scale { .. }
                    if self.tensors[n].kind != TensorKind::Cache =>
                {
                    self.bad_attribute(
                        n,
                        attr.span,
                        "`paged`, `len` and `scale` belong to a `cache`",
                        "declare it with `cache` instead of `input`",
                    );
                }
                Attr::Paged(_) | Attr::Len(_) | Attr::Scale { .. } => {}
            }
        }
    }

    fn bad_attribute(&mut self, n: usize, span: Span, message: &str, help: &str) {
        let label = format!("`{}` is {}", self.tensors[n].name, self.tensors[n].type_text());
        self.report.push(Diagnostic::error(Code::BadAttribute, span, message).label(label).help(help));
    }

    fn layout(&mut self, n: usize, names: &[ast::Name], span: Span) {
        let shape: Vec<String> = self.tensors[n].shape.iter().map(|s| s.text.clone()).collect();
        let order: Option<Vec<usize>> =
            names.iter().map(|name| shape.iter().position(|s| *s == name.node)).collect();
        let distinct = order.as_ref().is_some_and(|o| (0..o.len()).all(|a| !o[..a].contains(&o[a])));
        for name in names {
            self.used.insert(name.node.clone());
        }
        match order {
            Some(order) if distinct && order.len() == shape.len() => self.tensors[n].layout = order,
            _ => {
                let message =
                    format!("this layout is not an order of the dims of `{}`", self.tensors[n].name);
                let d = Diagnostic::error(Code::BadLayout, span, message)
                    .label(format!("its dims are {}", shape.join(", ")))
                    .note("`layout` names the same dims, each once, in the order of the bound tensor")
                    .suggest(span, format!("layout ({})", shape.join(", ")), "name every dim once");
                self.report.push(d);
            }
        }
    }
}

/// The empty span after a span.
pub(crate) fn end_of(span: Span) -> Span {
    Span { start: span.end, ..span }
}

/// The empty span before a span.
pub(crate) fn start_of(span: Span) -> Span {
    Span { end: span.start, ..span }
}
