//! `recurrence`: states, their updates, and what is returned of them.
//!
//! Comes in: the clauses of a recurrence. Goes out: outputs. What holds (language.md, rule 8): states are rows or
//! matrices of floats, each updated once to a value of its own shape; `return` sees the updated states. Not here:
//! the chunked form.

use crate::artifact::DType;
use crate::diagnostic::{Code, Diagnostic, Span};
use crate::syntax::ast::{self, ClauseKind, ExprKind};

use super::body::CheckedBody;
use super::clauses::Clauses;
use super::declare::end_of;
use super::elab::{Elab, Entry, State};
use super::hir::Type;
use super::model::*;
use super::options::word_of;
use super::suggest::nearest;

impl Elab<'_> {
    /// Finds the sequence dim and declares the states.
    pub fn declare_states(&mut self, clauses: &Clauses<'_>) {
        let first = self.tensors.iter().find(|t| t.shape.len() >= 3);
        self.step_dim = first.map(|t| t.shape[t.shape.len() - 2].clone());
        for clause in &clauses.all {
            let ClauseKind::State { name, ty, init } = &clause.kind else { continue };
            let Some((elem, shape)) = self.tensor_type(ty) else {
                self.declare_erroneous(name);
                continue;
            };
            let ty = match (&shape[..], elem) {
                ([n], Elem::Of(DType::F32)) => Type::Row(n.clone()),
                ([n, m], Elem::Of(DType::F32)) => Type::Mat(n.clone(), m.clone()),
                (_, e) if e != Elem::Of(DType::F32) => {
                    let d = Diagnostic::error(Code::BadState, ty.dtype.span, "a state is kept in f32")
                        .label(format!("not {}", e.name()))
                        .suggest(ty.dtype.span, "f32", "write `f32`");
                    self.report.push(d);
                    Type::Error
                }
                _ => {
                    let message = format!("a state has one or two dims, not {}", shape.len());
                    let d = Diagnostic::error(Code::BadState, name.span, message)
                        .label("one state for each (b, h)");
                    self.report.push(d.help("batch and heads are implied: write `f32[D, Dv]`"));
                    Type::Error
                }
            };
            if let Some(init) = init {
                self.initial(init);
            }
            let n = self.states.len();
            self.states.push(State { ty });
            self.declare(name, Entry::State(n));
        }
    }

    /// `= s0`: a name that the host may bind, or a number.
    fn initial(&mut self, init: &ast::Expr) {
        match word_of(init) {
            Some(word) if !self.names.contains_key(word) => {
                let name = ast::Spanned { node: word.to_string(), span: init.span };
                self.declare(&name, Entry::Bound);
            }
            _ => {
                let x = self.expr(init);
                if matches!(x.ty, Type::Bool) {
                    self.expected("a number, a row or a matrix", &x);
                }
            }
        }
    }

    /// Checks a recurrence.
    pub fn recurrence(
        &mut self,
        kernel: &ast::Kernel,
        clauses: &Clauses<'_>,
        out: &mut Vec<UnsupportedClause>,
    ) -> CheckedBody {
        let at = kernel.name.span;
        let nearest = "an `attention` kernel".into();
        out.push(UnsupportedClause { clause: "recurrence".into(), span: at, nearest });
        if self.states.is_empty() && !clauses.any(|k| matches!(k, ClauseKind::State { .. })) {
            let d = Diagnostic::error(Code::MissingClause, at, "there is no `state`")
                .label("a recurrence carries a state")
                .help("for instance `state s : f32[D, Dv] = s0`");
            self.report.push(d);
        }
        self.updates(clauses, at);
        let outputs = self.recurrence_results(clauses, at);
        self.specialise_recurrence();
        CheckedBody {
            branches: Vec::new(),
            choices: super::choice::Choices::default(),
            body: None,
            outputs,
            align: AlignFact::default(),
            heads: HeadsFact { map: HeadMap::Same, span: at, words: String::new() },
            mask_clauses: Vec::new(),
            unsupported: Vec::new(),
        }
    }

    fn updates(&mut self, clauses: &Clauses<'_>, at: Span) {
        let mut updated: Vec<(usize, Span)> = Vec::new();
        for clause in &clauses.all {
            let ClauseKind::Update { name, value } = &clause.kind else { continue };
            let value_expr = self.expr(value);
            let Some((Entry::State(n), _)) = self.names.get(&name.node).copied() else {
                self.not_a_state(name);
                continue;
            };
            if let Some((_, first)) = updated.iter().find(|(m, _)| *m == n) {
                let d = Diagnostic::error(
                    Code::BadState,
                    clause.span,
                    format!("`{}` is updated twice", name.node),
                )
                .label("the second update")
                .context(*first, "the first one")
                .help("write one update");
                self.report.push(d);
            }
            updated.push((n, clause.span));
            let fits = match (&self.states[n].ty, &value_expr.ty) {
                (Type::Error, _) | (_, Type::Error) => true,
                (Type::Row(a), Type::Row(b)) => a.same(b),
                (Type::Mat(a, b), Type::Mat(c, d)) => a.same(c) && b.same(d),
                _ => false,
            };
            if !fits {
                let (want, found) = (self.states[n].ty.words(), value_expr.ty.words());
                let d = Diagnostic::error(
                    Code::BadState,
                    value.span,
                    format!("`{}` is {want}, but its update is {found}", name.node),
                )
                .label(found)
                .help("`outer(x, y)` makes a matrix, `x @ s` a row");
                self.report.push(d);
            }
        }
        for (n, (name, span)) in self.state_names().into_iter().enumerate() {
            if !updated.iter().any(|(m, _)| *m == n) {
                let d = Diagnostic::error(Code::BadState, span, format!("`{name}` is never updated"))
                    .label("stays as it begins")
                    .suggest(
                        end_of(at_end(clauses, at)),
                        format!("\n  {name} = {name} + outer(k, v)"),
                        "for instance",
                    );
                self.report.push(d);
            }
        }
    }

    fn state_names(&self) -> Vec<(String, Span)> {
        let mut out: Vec<(usize, String, Span)> = self
            .names
            .iter()
            .filter_map(|(name, (entry, span))| match entry {
                Entry::State(n) => Some((*n, name.clone(), *span)),
                _ => None,
            })
            .collect();
        out.sort_by_key(|s| s.0);
        out.into_iter().map(|(_, name, span)| (name, span)).collect()
    }

    fn not_a_state(&mut self, name: &ast::Name) {
        if matches!(self.names.get(&name.node), Some((Entry::Let(n), _)) if self.lets[*n].value.is_error()) {
            return;
        }
        let mut d = Diagnostic::error(Code::BadState, name.span, format!("`{}` is not a state", name.node))
            .label("only states are updated");
        let states: Vec<String> = self.state_names().into_iter().map(|s| s.0).collect();
        d = match nearest(&name.node, states.iter().map(String::as_str)) {
            Some(n) => d.suggest(name.span, n.clone(), format!("did you mean `{n}`?")),
            None => d.help("declare it with `state`, or write `let` for a name"),
        };
        self.report.push(d);
    }

    fn recurrence_results(&mut self, clauses: &Clauses<'_>, at: Span) -> Vec<OutputFact> {
        let mut outputs: Vec<OutputFact> = Vec::new();
        let Some((exprs, _)) = clauses.result else {
            let d = Diagnostic::error(Code::MissingClause, at, "there is no `return`")
                .label("nothing is returned")
                .suggest(end_of(at_end(clauses, at)), "\n  return q @ s", "for instance");
            self.report.push(d);
            return outputs;
        };
        for e in exprs {
            let plain = word_of(e).filter(|w| matches!(self.names.get(*w), Some((Entry::State(_), _))));
            let name = plain.unwrap_or("o").to_string();
            if plain.is_some() {
                self.used.insert(name.clone());
            } else if matches!(&e.node, ExprKind::Name(n) if n == "lse" || n == "max_logit") {
                let d = Diagnostic::error(Code::BadReturn, e.span, "a recurrence has no scores")
                    .label("only attentions return it")
                    .help("return `q @ s` and the state");
                self.report.push(d);
                continue;
            } else {
                let x = self.expr(e);
                if !matches!(x.ty, Type::Row(_) | Type::Error) {
                    let d = Diagnostic::error(
                        Code::BadReturn,
                        e.span,
                        format!("a recurrence returns rows and states, not {}", x.ty.words()),
                    )
                    .label(x.ty.words())
                    .help("`q @ s` is a row");
                    self.report.push(d);
                    continue;
                }
            }
            if outputs.iter().any(|o| o.name == name) {
                let d =
                    Diagnostic::error(Code::BadReturn, e.span, format!("two results are called `{name}`"))
                        .label("the second")
                        .note("a returned expression is called `o`")
                        .help("return it once");
                self.report.push(d);
                continue;
            }
            outputs.push(OutputFact { name, text: self.text(e.span), span: e.span, kind: OutputHir::Other });
        }
        outputs
    }

    /// Feature dims and head counts of a recurrence.
    fn specialise_recurrence(&mut self) {
        let mut sizes = Vec::new();
        for t in self.tensors.iter().filter(|t| t.shape.len() >= 3 && t.elem.is_float()) {
            let rank = t.shape.len();
            let rows = !self.step_dim.as_ref().is_some_and(|s| s.same(&t.shape[rank - 1]));
            if rows {
                sizes.push(t.shape[rank - 1].clone());
                sizes.push(t.shape[rank - 3].clone());
            }
        }
        for size in sizes {
            self.specialise_expr(&size.expr, 0);
        }
    }
}

fn at_end(clauses: &Clauses<'_>, at: Span) -> Span {
    clauses.all.last().map_or(at, |c| c.span)
}
