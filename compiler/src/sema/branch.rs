//! `branch`: several attentions in one kernel, and how their results combine.
//!
//! Comes in: the branches of a kernel and its `return`. Goes out: a [`BranchFact`] for each branch, checked as an
//! attention of its own, and outputs, each a row made of the branches' rows. What holds: routed branches are put back
//! by `scatter`, every branch is returned, rows that meet have the same batch, heads and sequence. Not here: how
//! branches run.

use crate::diagnostic::{Code, Diagnostic, Span};
use crate::syntax::ast::{self, Arg, ClauseKind, ExprKind, InfixOp, PrefixOp};

use super::body::{CheckedBody, check_body, uncast};
use super::choice::{BranchFact, Choices};
use super::clauses::{Block, Clauses, collect};
use super::elab::{Elab, Entry};
use super::hir::{Expr, Kind, Size, Type, Uses, find};
use super::model::*;
use super::options::word_of;
use super::suggest::nearest;

/// A branch and whether anything returns it.
struct Branch {
    fact: BranchFact,
    returned: bool,
}

impl Branch {
    fn routed(&self) -> bool {
        self.fact.choices.queries.is_some()
    }
}

fn named<'b>(branches: &'b mut [Branch], name: &str) -> Option<&'b mut Branch> {
    branches.iter_mut().find(|b| b.fact.name == name)
}

impl Elab<'_> {
    /// Checks a kernel made of branches.
    pub fn branches(
        &mut self,
        clauses: &Clauses<'_>,
        at: Span,
        out: &mut Vec<UnsupportedClause>,
    ) -> CheckedBody {
        let mut branches: Vec<Branch> = Vec::new();
        for clause in &clauses.all {
            match &clause.kind {
                ClauseKind::Branch { name, clauses: inner } => {
                    let fact = self.branch(name, inner, out);
                    if self.declare(name, Entry::Branch(branches.len())) {
                        branches.push(Branch { fact, returned: false });
                    }
                }
                ClauseKind::Score(_)
                | ClauseKind::Mask(_)
                | ClauseKind::Weight(_)
                | ClauseKind::Select { .. } => {
                    let word = clause.kind.keyword().to_string();
                    let d = Diagnostic::error(
                        Code::BadBranch,
                        clause.span,
                        format!("`{word}` stands beside branches"),
                    )
                    .label("of which branch?")
                    .help("move it into a branch: the kernel only combines their results");
                    self.report.push(d);
                }
                _ => {}
            }
        }
        let outputs = self.combined(clauses, at, &mut branches);
        for b in branches.iter().filter(|b| !b.returned) {
            let message = format!("branch `{}` is never returned", b.fact.name);
            let d = Diagnostic::warning(Code::Unused, b.fact.span, message)
                .label("unused branch")
                .help("return it, or remove it");
            self.report.push(d);
        }
        CheckedBody {
            body: None,
            outputs,
            align: AlignFact::default(),
            heads: HeadsFact { map: HeadMap::Same, span: at, words: String::new() },
            mask_clauses: Vec::new(),
            unsupported: Vec::new(),
            branches: branches.into_iter().map(|b| b.fact).collect(),
            choices: Choices::default(),
        }
    }

    /// Checks one branch in a scope of its own.
    fn branch(
        &mut self,
        name: &ast::Name,
        inner: &[ast::Clause],
        out: &mut Vec<UnsupportedClause>,
    ) -> BranchFact {
        let outside = self.names.clone();
        let (n_ops, made_outside) = (self.row_ops.len(), self.made.clone());
        let inner = collect(self, inner, Block::Branch);
        self.scope(&inner, &format!("{}.", name.node), out);
        let choices = self.selects(&inner);
        let checked = check_body(self, &inner, name.span);
        if let Some(body) = &checked.body {
            self.check_rotations(&body.dots);
            self.check_choices(&choices, body);
            self.choices_unsupported(&choices, body, out);
        }
        self.one_row(&checked.outputs, name);
        let mut own: Vec<String> = self.names.keys().filter(|n| !outside.contains_key(*n)).cloned().collect();
        own.sort();
        for name in &own {
            let (entry, span) = self.names[name];
            if !self.used.remove(name) && self.report.n_errors == 0 {
                self.warn_unused_name(name, entry, span);
            }
        }
        self.names = outside;
        let row_ops = self.row_ops.clone();
        self.row_ops.truncate(n_ops);
        let made = std::mem::replace(&mut self.made, made_outside);
        out.extend(checked.unsupported);
        BranchFact {
            name: name.node.clone(),
            span: name.span,
            body: checked.body,
            align: checked.align,
            heads: checked.heads,
            mask_clauses: checked.mask_clauses,
            row_ops,
            made,
            choices,
            outputs: checked.outputs,
        }
    }

    /// A branch gives one row.
    fn one_row(&mut self, outputs: &[OutputFact], name: &ast::Name) {
        if let Some(other) = outputs.iter().find(|o| !matches!(o.kind, OutputHir::O { .. })) {
            let message = format!("branch `{}` returns more than its row", name.node);
            let d = Diagnostic::error(Code::BadBranch, other.span, message)
                .label("a branch gives one row")
                .help("remove it: `merge(a, b)` forms the lse of its branches itself");
            self.report.push(d);
        }
    }

    fn combined(&mut self, clauses: &Clauses<'_>, at: Span, branches: &mut [Branch]) -> Vec<OutputFact> {
        let mut outputs: Vec<OutputFact> = Vec::new();
        let Some((exprs, _)) = clauses.result else {
            let d = Diagnostic::error(Code::MissingClause, at, "there is no `return`")
                .label("nothing is returned")
                .help("return the branches, or arithmetic on them");
            self.report.push(d);
            return outputs;
        };
        for e in exprs {
            let plain = word_of(e).map(str::to_string);
            let Some((core, cast)) = uncast(self, e) else { continue };
            let n_errors = self.report.n_errors;
            if !self.combination(core, branches) {
                let names: Vec<&str> = branches.iter().map(|b| b.fact.name.as_str()).collect();
                let mut d = Diagnostic::error(Code::BadReturn, e.span, "this is not a result of branches")
                    .label("expected a branch, scatter(branch), merge(a, b) or arithmetic on them");
                d = match plain.as_deref().and_then(|w| nearest(w, names)) {
                    Some(n) => d.suggest(e.span, n.clone(), format!("did you mean `{n}`?")),
                    None => d.help("return what the branches return"),
                };
                self.report.push(d);
                continue;
            }
            let name = plain.unwrap_or_else(|| "o".into());
            if outputs.iter().any(|o| o.name == name) {
                let d =
                    Diagnostic::error(Code::BadReturn, e.span, format!("two results are called `{name}`"))
                        .label("the second")
                        .note("a returned expression is called `o`")
                        .help("return it once");
                self.report.push(d);
                continue;
            }
            let fine = self.report.n_errors == n_errors;
            let kind = if fine { self.combined_row(core, cast, branches) } else { OutputHir::Other };
            outputs.push(OutputFact { name, text: self.text(e.span), span: e.span, kind });
        }
        outputs
    }

    /// The typed row of a combination.
    fn combined_row(
        &mut self,
        e: &ast::Expr,
        cast: Option<crate::artifact::DType>,
        branches: &[Branch],
    ) -> OutputHir {
        let row = |b: &Branch| -> Option<Size> {
            let body = b.fact.body.as_ref()?;
            Some(self.tensors[body.value.tensor].shape[body.value.feature].clone())
        };
        self.results = Some(branches.iter().map(row).collect());
        let value = self.expr(e);
        self.results = None;
        let mut used: Vec<usize> = Vec::new();
        let _: Option<()> = find(&value, &mut |n| {
            if let Kind::Branch(b) = n.kind {
                used.push(b);
            }
            None
        });
        let Some(&of) = used.first() else { return OutputHir::Other };
        for &other in &used[1..] {
            self.same_places(&branches[of].fact, &branches[other].fact, e.span);
        }
        OutputHir::Combined { cast, value, of }
    }

    /// Rows that meet have the same batch and sequence; how many heads there are, a plan knows.
    fn same_places(&mut self, a: &BranchFact, b: &BranchFact, at: Span) {
        let (Some(x), Some(y)) = (a.body.as_ref(), b.body.as_ref()) else { return };
        let (Some(x), Some(y)) = (x.dots.first().map(|d| d.x), y.dots.first().map(|d| d.x)) else { return };
        let shape = |r: RowsFact| &self.tensors[r.tensor].shape;
        let alike = x.batch.is_some() == y.batch.is_some()
            && x.head.is_some() == y.head.is_some()
            && shape(x).len() == shape(y).len()
            && (0..x.feature).all(|d| Some(d) == x.head || shape(x)[d].same(&shape(y)[d]));
        if alike {
            return;
        }
        let label = format!(
            "rows of {} and of {}",
            self.tensors[x.tensor].type_text(),
            self.tensors[y.tensor].type_text()
        );
        let message = format!("the rows of `{}` and `{}` do not meet", a.name, b.name);
        let d = Diagnostic::error(Code::BadReturn, at, message)
            .label(label)
            .help("combine branches of the same batch, heads and sequence; return the others by themselves");
        self.report.push(d);
    }

    /// True if the expression is made of branches; marks those that it returns.
    fn combination(&mut self, e: &ast::Expr, branches: &mut [Branch]) -> bool {
        match &e.node {
            ExprKind::Paren(x) => self.combination(x, branches),
            ExprKind::Prefix { op: PrefixOp::Neg, operand } => self.combination(operand, branches),
            ExprKind::Name(name) => {
                let Some(b) = named(branches, name) else { return false };
                b.returned = true;
                if b.routed() {
                    let d = Diagnostic::error(
                        Code::BadBranch,
                        e.span,
                        format!("the rows of `{name}` are routed"),
                    )
                    .label("not in their places")
                    .context(b.fact.span, "selects its queries")
                    .suggest(e.span, format!("scatter({name})"), "put the rows back");
                    self.report.push(d);
                }
                true
            }
            ExprKind::Call { name, args } if name.node == "scatter" && args.len() == 1 => {
                let branch = word_of(&args[0].value).and_then(|w| named(branches, w));
                let Some(b) = branch else { return false };
                b.returned = true;
                if !b.routed() {
                    let inner = word_of(&args[0].value).unwrap_or("").to_string();
                    let d = Diagnostic::error(
                        Code::BadBranch,
                        e.span,
                        format!("the rows of `{inner}` are already in their places"),
                    )
                    .label("nothing to scatter")
                    .suggest(e.span, inner, "return it as it is");
                    self.report.push(d);
                }
                true
            }
            ExprKind::Call { name, args } if name.node == "merge" && args.len() >= 2 => {
                args.iter().all(|a| self.merged(&a.value, branches))
            }
            ExprKind::Ternary { then, otherwise, .. } => {
                self.side(then, branches)
                    & self.side(otherwise, branches)
                    & (reads_branch(then, branches) | reads_branch(otherwise, branches))
            }
            ExprKind::Infix {
                op: InfixOp::Add | InfixOp::Sub | InfixOp::Mul | InfixOp::Div,
                left,
                right,
            } => {
                let reads = reads_branch(left, branches) || reads_branch(right, branches);
                reads && self.side(left, branches) && self.side(right, branches)
            }
            _ => false,
        }
    }

    /// A side of arithmetic: made of branches, or a number or row of its own.
    fn side(&mut self, e: &ast::Expr, branches: &mut [Branch]) -> bool {
        if reads_branch(e, branches) {
            return self.combination(e, branches);
        }
        let x = self.expr(e);
        matches!(x.ty, Type::Int | Type::Float | Type::Row(_) | Type::Error)
    }

    /// An operand of `merge`: a branch of a softmax, as it is.
    fn merged(&mut self, e: &ast::Expr, branches: &mut [Branch]) -> bool {
        let word = match &e.node {
            ExprKind::Call { name, args } if name.node == "scatter" && args.len() == 1 => {
                word_of(&args[0].value)
            }
            _ => word_of(e),
        };
        let Some(b) = word.and_then(|w| named(branches, w)) else { return false };
        let softmax = b.fact.body.as_ref().is_none_or(|b| matches!(b.weight, WeightHir::Softmax(_)));
        let plain = |o: &OutputFact| matches!(&o.kind, OutputHir::O { epilogue: None, .. });
        let gated = b.fact.choices.queries.as_ref().is_some_and(|q| q.gate.is_some());
        let why = match () {
            _ if !softmax => Some("its weights are not normalised: there is no lse"),
            _ if !b.fact.outputs.iter().all(plain) || gated => Some("its rows are scaled after the softmax"),
            _ => None,
        };
        if let Some(why) = why {
            let message = format!("`{}` cannot be merged by its lse", b.fact.name);
            let d = Diagnostic::error(Code::BadBranch, e.span, message)
                .label(why)
                .context(b.fact.span, "this branch")
                .help("merge branches that return `weight @ v` of a softmax; combine others by arithmetic");
            self.report.push(d);
        }
        self.combination(e, branches)
    }

    /// `scatter(x)` and `merge(a, b, ...)` in a `return` that [`Elab::combination`] accepted.
    pub fn of_branches(&mut self, what: &str, args: &[Arg], span: Span) -> Expr {
        let rows: Vec<Expr> = args.iter().map(|a| self.expr(&a.value)).collect();
        match (what, &rows[..]) {
            (_, rows) if rows.iter().any(|r| r.is_error()) => self.err(span),
            ("scatter", [row]) => row.clone(),
            ("merge", [first, rest @ ..]) => {
                let Type::Row(n) = first.ty.clone() else { return self.err(span) };
                for r in rest {
                    if let Type::Row(m) = &r.ty
                        && !n.same(m)
                    {
                        return self.length_mismatch(&n, &m.clone(), span);
                    }
                }
                self.node(Kind::Merge(rows), Type::Row(n), span, Uses::ROWS)
            }
            _ => self.err(span),
        }
    }
}

fn reads_branch(e: &ast::Expr, branches: &[Branch]) -> bool {
    let mut found = false;
    super::modules::walk(e, &mut |x| {
        found |= matches!(&x.node, ExprKind::Name(n) if branches.iter().any(|b| b.fact.name == *n))
    });
    found
}
