//! Small tensors made by a `let`: `cumsum`, `mean_pool`, `segment`, `concat`.
//!
//! Comes in: the value of a `let`. Goes out: a tensor in scope with the shape and type of the result. What holds:
//! the arguments are tensors that have such a result. Not here: how it is computed.

use std::sync::Arc;

use crate::artifact::DType;
use crate::attn_ir::Fact;
use crate::diagnostic::{Code, Diagnostic, Span};
use crate::expr::BinaryOp;
use crate::expr::eval::Value;
use crate::syntax::ast::{self, Arg, ExprKind, Spanned};

use super::choice::PoolFact;
use super::elab::{Elab, Entry};
use super::hir::{Kind, Node, Size, Type, Uses};
use super::model::{Elem, TensorFact, TensorKind, UnsupportedClause};
use super::options::word_of;

/// A derived tensor: element type, shape, promise.
type Derived = (Elem, Vec<Size>, Fact);

impl Elab<'_> {
    /// Declares the tensor if the value makes one; false for every other value.
    pub fn derived_tensor(
        &mut self,
        name: &ast::Name,
        value: &ast::Expr,
        out: &mut Vec<UnsupportedClause>,
    ) -> bool {
        let mut inner = value;
        while let ExprKind::Paren(x) = &inner.node {
            inner = x;
        }
        let ExprKind::Call { name: function, args } = &inner.node else { return false };
        let what = function.node.as_str();
        if !matches!(what, "cumsum" | "mean_pool" | "segment" | "concat")
            || self.modules.find_def(self.module, what).is_some()
        {
            return false;
        }
        let made = match what {
            "cumsum" => self.cumsum(args, inner.span),
            "mean_pool" => self.mean_pool(args, inner.span),
            "segment" => self.segment(args, inner.span),
            _ => self.concat(args, inner.span),
        };
        let n = self.tensors.len();
        match made {
            Some((elem, shape, fact)) => {
                if self.declare(name, Entry::Tensor(n)) {
                    let layout = (0..shape.len()).collect();
                    let (kind, span) = (TensorKind::Derived, name.span);
                    let name = name.node.clone();
                    let (optional, learn) = (false, false);
                    self.tensors.push(TensorFact {
                        name,
                        kind,
                        elem,
                        shape,
                        layout,
                        fact,
                        optional,
                        learn,
                        span,
                    });
                }
            }
            None => self.declare_erroneous(name),
        }
        if what == "mean_pool" {
            return true;
        }
        let nearest = format!("compute `{}` on the host and declare it as an `input`", name.node);
        out.push(UnsupportedClause { clause: what.into(), span: value.span, nearest });
        true
    }

    /// The tensor that an argument names.
    fn tensor_argument(&mut self, e: &ast::Expr) -> Option<usize> {
        match word_of(e) {
            Some(word) => self.named_tensor(&Spanned { node: word.to_string(), span: e.span }),
            None => {
                let d =
                    Diagnostic::error(Code::BadDerived, e.span, "a derived tensor is made of named tensors")
                        .label("expected the name of a tensor")
                        .help("name it with `let` or declare it as an `input`");
                self.report.push(d);
                None
            }
        }
    }

    fn refuse(&mut self, span: Span, what: &str, n: usize, expected: &str) -> Option<Derived> {
        let label = format!("`{}` is {}", self.tensors[n].name, self.tensors[n].type_text());
        let message = format!("`{what}` takes {expected}");
        let d = Diagnostic::error(Code::BadDerived, span, message).label(label);
        self.report.push(d.help(format!("declare it as {expected}")));
        None
    }

    fn cumsum(&mut self, args: &[Arg], span: Span) -> Option<Derived> {
        let bound = self.bind("cumsum", &["x"], 1, args, span)?;
        let e = bound[0]?;
        let n = self.tensor_argument(e)?;
        let t = &self.tensors[n];
        if !t.elem.is_float() || t.shape.is_empty() {
            return self.refuse(e.span, "cumsum", n, "a float tensor over the sequence");
        }
        Some((Elem::Of(DType::F32), t.shape.clone(), Fact::None))
    }

    fn mean_pool(&mut self, args: &[Arg], span: Span) -> Option<Derived> {
        let bound = self.bind("mean_pool", &["x", "block", "stride"], 3, args, span)?;
        let (x, block, stride) = (bound[0]?, bound[1]?, bound[2]?);
        let n = self.tensor_argument(x)?;
        let (block, stride) = (self.positive(block, "block")?, self.positive(stride, "stride")?);
        let t = &self.tensors[n];
        if !t.elem.is_float() || t.shape.len() < 2 {
            return self.refuse(x.span, "mean_pool", n, "a tensor of float rows");
        }
        let (elem, mut shape) = (t.elem, t.shape.clone());
        let at = shape.len() - 2;
        let old = shape[at].clone();
        let block_node = self.constant(Value::Int(block), span);
        let stride_node = self.constant(Value::Int(stride), span);
        let one = self.constant(Value::Int(1), span);
        let room = self.arith(BinaryOp::Sub, &old.expr, &block_node, span);
        let windows = self.int_division(BinaryOp::IDiv, &room, &stride_node, span);
        let expr = self.arith(BinaryOp::Add, &windows, &one, span);
        let none = self.constant(Value::Int(0), span);
        let expr = self.arith(BinaryOp::Max, &expr, &none, span);
        shape[at] = Size { expr, text: format!("({} - {block}) div {stride} + 1", old.text), dim: None };
        self.pools.push(PoolFact { tensor: self.tensors.len(), source: n, block, stride });
        Some((elem, shape, Fact::None))
    }

    /// A positive constant.
    pub fn positive(&mut self, e: &ast::Expr, what: &str) -> Option<i64> {
        let x = self.expr(e);
        match x.int() {
            Some(n) if (1..=1 << 30).contains(&n) => Some(n),
            _ => {
                if !x.is_error() {
                    let message = format!("`{what}` is a positive constant");
                    let d =
                        Diagnostic::error(Code::BadDerived, e.span, message).label("not a positive constant");
                    self.report.push(d.help(format!("for instance `{what} = 64`")));
                }
                None
            }
        }
    }

    fn segment(&mut self, args: &[Arg], span: Span) -> Option<Derived> {
        let bound = self.bind("segment", &["cu"], 1, args, span)?;
        let e = bound[0]?;
        let n = self.tensor_argument(e)?;
        let t = &self.tensors[n];
        if t.elem.is_float() || t.elem == Elem::Of(DType::Bit) || t.shape.len() != 1 {
            return self.refuse(e.span, "segment", n, "cumulative lengths, `i32[N]`");
        }
        // As long as the sequence that the lengths add up to: no dim says so.
        let expr = Arc::new(Node::new(Kind::Error, Type::Int, span, Uses::NONE));
        let size = Size { expr, text: format!("segment({})", t.name), dim: None };
        Some((Elem::Of(DType::I32), vec![size], Fact::Sorted))
    }

    fn concat(&mut self, args: &[Arg], span: Span) -> Option<Derived> {
        let bound = self.bind("concat", &["x", "y"], 2, args, span)?;
        let (x, y) = (bound[0]?, bound[1]?);
        let (a, b) = (self.tensor_argument(x)?, self.tensor_argument(y)?);
        let (ta, tb) = (self.tensors[a].clone(), self.tensors[b].clone());
        let rank = ta.shape.len();
        let fits = rank == tb.shape.len()
            && rank >= 2
            && ta.elem == tb.elem
            && (0..rank).all(|d| d + 2 == rank || ta.shape[d].same(&tb.shape[d]));
        if !fits {
            let d = Diagnostic::error(
                Code::BadDerived,
                span,
                "these tensors cannot be joined along their sequence",
            )
            .label(format!("{} and {}", ta.type_text(), tb.type_text()))
            .help("all dims but the sequence, and the element types, must be the same");
            self.report.push(d);
            return None;
        }
        let mut shape = ta.shape.clone();
        let (s, t) = (&ta.shape[rank - 2], &tb.shape[rank - 2]);
        let expr = self.arith(BinaryOp::Add, &s.expr, &t.expr, span);
        shape[rank - 2] = Size { expr, text: format!("{} + {}", s.text, t.text), dim: None };
        Some((ta.elem, shape, Fact::None))
    }
}
