//! Small tensors made by a `let`: `cumsum`, `mean_pool`, `segment`, `concat`.
//!
//! Comes in: the value of a `let`. Goes out: a tensor in scope with the shape and type of the result, and a
//! [`MadeFact`]. What holds: the arguments are tensors that have such a result. Not here: the steps that compute
//! it (`made.rs`).

use std::sync::Arc;

use crate::artifact::DType;
use crate::attn_ir::Fact;
use crate::diagnostic::{Code, Diagnostic, Span};
use crate::expr::BinaryOp;
use crate::expr::eval::Value;
use crate::syntax::ast::{self, Arg, ExprKind, Spanned};

use super::elab::{Elab, Entry};
use super::hir::{Expr, Kind, Node, Size, Type, Uses, find};
use super::model::{Elem, TensorFact, TensorKind, UnsupportedClause};
use super::options::word_of;
use super::roles::Roles;

/// A derived tensor: element type, shape, promise.
type Derived = (Elem, Vec<Size>, Fact, Made);

/// How a `let` makes a tensor; tensors are positions in the kernel's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Made {
    /// Sums of all elements up to and with each, along the last dim.
    Cumsum(usize),
    /// Row w is the mean of rows `w * stride ..` of which there are `block`; windows lie wholly inside.
    MeanPool {
        /// Pooled.
        x: usize,
        /// Rows of a window.
        block: i64,
        /// Rows between the starts of windows.
        stride: i64,
    },
    /// The number of the sequence in which each position lies, from cumulative lengths.
    Segment(usize),
    /// The rows of one and then of the other.
    Concat(usize, usize),
}

impl Made {
    /// What is read.
    pub fn sources(&self) -> Vec<usize> {
        match *self {
            Made::Cumsum(x) | Made::MeanPool { x, .. } | Made::Segment(x) => vec![x],
            Made::Concat(x, y) => vec![x, y],
        }
    }
}

/// A tensor that a `let` makes.
#[derive(Clone, Debug)]
pub(crate) struct MadeFact {
    /// Position in the kernel's tensors.
    pub tensor: usize,
    /// How.
    pub made: Made,
    /// The value of the `let`. `map` and `rotate` that stand before it act before it.
    pub span: Span,
}

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
            Some((elem, shape, fact, made)) => {
                if let Made::Segment(cu) = made {
                    // Ids are in order only if the lengths are: verified at every bind.
                    self.tensors[cu].fact = Fact::Sorted;
                }
                if !self.is_recurrence() {
                    self.made.push(MadeFact { tensor: n, made, span: value.span });
                } else {
                    let nearest = format!("compute `{}` on the host and declare it as an `input`", name.node);
                    out.push(UnsupportedClause { clause: what.into(), span: value.span, nearest });
                }
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
        Some((Elem::Of(DType::F32), t.shape.clone(), Fact::None, Made::Cumsum(n)))
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
        // None where the sequence is shorter than a window.
        let none = self.constant(Value::Int(0), span);
        let expr = self.arith(BinaryOp::Max, &expr, &none, span);
        let text = format!("max(({} - {block}) div {stride} + 1, 0)", old.text);
        shape[at] = Size { expr, text, dim: None };
        Some((elem, shape, Fact::None, Made::MeanPool { x: n, block, stride }))
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
        // As long as the sequence that they are read along, which `settle_segments` finds.
        let expr = Arc::new(Node::new(Kind::Error, Type::Int, span, Uses::NONE));
        let size = Size { expr, text: format!("segment({})", t.name), dim: None };
        Some((Elem::Of(DType::I32), vec![size], Fact::Sorted, Made::Segment(n)))
    }

    /// Gives ids of sequences the length of the sequence that they are read along: the keys' if any index in their
    /// brackets reads `j`, else the query's. Ids that nobody reads are not made.
    pub fn settle_segments(&mut self, roles: &Roles, exprs: &[&Expr]) {
        let Some(&(x, y)) = roles.dots.first() else { return };
        let [queries, keys] = [x, y].map(|r| self.tensors[r.tensor].shape[r.seq].clone());
        let made = std::mem::take(&mut self.made);
        for fact in made {
            if let Made::Segment(_) = fact.made
                && matches!(self.tensors[fact.tensor].shape[0].expr.kind, Kind::Error)
            {
                let mut read = Uses::NONE;
                for e in exprs {
                    let _: Option<()> = find(e, &mut |n| {
                        if let Kind::Load(t, index) = &n.kind
                            && *t == fact.tensor
                        {
                            read = index.iter().fold(read.or(Uses::ROWS), |u, x| u.or(x.uses));
                        }
                        None
                    });
                }
                if read == Uses::NONE {
                    continue;
                }
                self.tensors[fact.tensor].shape[0] =
                    if read.any(Uses::J) { keys.clone() } else { queries.clone() };
            }
            self.made.push(fact);
        }
    }

    fn concat(&mut self, args: &[Arg], span: Span) -> Option<Derived> {
        let bound = self.bind("concat", &["x", "y"], 2, args, span)?;
        let (x, y) = (bound[0]?, bound[1]?);
        let (a, b) = (self.tensor_argument(x)?, self.tensor_argument(y)?);
        let (ta, tb) = (self.tensors[a].clone(), self.tensors[b].clone());
        let rank = ta.shape.len();
        let fits = rank == tb.shape.len()
            && rank >= 2
            && ta.elem.is_float()
            && ta.elem == tb.elem
            && (0..rank).all(|d| d + 2 == rank || ta.shape[d].same(&tb.shape[d]));
        if !fits {
            let d = Diagnostic::error(
                Code::BadDerived,
                span,
                "these tensors cannot be joined along their sequence",
            )
            .label(format!("{} and {}", ta.type_text(), tb.type_text()))
            .help("all dims but the sequence, and the element types, floats, must be the same");
            self.report.push(d);
            return None;
        }
        let mut shape = ta.shape.clone();
        let (s, t) = (&ta.shape[rank - 2], &tb.shape[rank - 2]);
        let expr = self.arith(BinaryOp::Add, &s.expr, &t.expr, span);
        shape[rank - 2] = Size { expr, text: format!("{} + {}", s.text, t.text), dim: None };
        Some((ta.elem, shape, Fact::None, Made::Concat(a, b)))
    }
}
