//! `recurrence`: states, their updates, and what is returned of them.
//!
//! Comes in: the clauses of a recurrence. Goes out: a [`RecurBody`] and outputs. What holds (language.md, rule 8):
//! states are rows or matrices of floats, each updated once to a value of its own shape, in the order of the text;
//! `return` sees the updated states; `i` is the step plus the run-time parameter `start`. Not here: the chunked form.

use crate::artifact::DType;
use crate::diagnostic::{Code, Diagnostic, Span};
use crate::expr::Ty;
use crate::expr::eval::Value;
use crate::syntax::ast::{self, ClauseKind, ExprKind};

use super::body::{CheckedBody, uncast};
use super::clauses::Clauses;
use super::declare::end_of;
use super::elab::{Elab, Entry, State};
use super::hir::{Expr, Size, Type, Uses};
use super::model::*;
use super::options::word_of;
use super::suggest::nearest;

impl Elab<'_> {
    /// Finds the sequence dim and declares the states.
    pub fn declare_states(&mut self, clauses: &Clauses<'_>) {
        let first = |least: usize| self.tensors.iter().find(|t| t.shape.len() >= least);
        self.step_dim = first(3).or_else(|| first(2)).map(|t| t.shape[t.shape.len() - 2].clone());
        let ranked = (0..self.tensors.len()).filter_map(|n| self.step_roles(n));
        let dims = |r: &RowsFact| usize::from(r.batch.is_some()) + usize::from(r.head.is_some());
        self.step_rows = ranked.rev().max_by_key(dims);
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
            let init = match init {
                Some(init) => self.initial(init, &ty),
                None => InitHir::Zeros,
            };
            let n = self.states.len();
            self.states.push(State { name: name.node.clone(), ty, init });
            self.declare(name, Entry::State(n));
        }
    }

    /// Roles of the dims of a tensor of rows over the sequence: [batch, heads, sequence, feature], leading ones
    /// optional. One leading dim is the batch if its name begins with B or it is that of a tensor with both, else
    /// the heads.
    pub fn step_roles(&self, tensor: usize) -> Option<RowsFact> {
        let (t, step) = (&self.tensors[tensor], self.step_dim.as_ref()?);
        let rank = t.shape.len();
        let fits = (2..=4).contains(&rank) && t.shape[rank - 2].same(step) && !t.shape[rank - 1].same(step);
        let (batch, head) = self.leading(&t.shape, 2);
        fits.then(|| RowsFact { tensor, batch, head, seq: rank - 2, feature: rank - 1 })
    }

    /// The batch and head dims of a shape that ends with `own` dims of another kind.
    fn leading(&self, shape: &[Size], own: usize) -> (Option<usize>, Option<usize>) {
        let both = self.tensors.iter().filter(|t| t.shape.len() == 4).map(|t| &t.shape[0]);
        match shape.len().saturating_sub(own) {
            0 => (None, None),
            1 if shape[0].text.starts_with('B') || both.into_iter().any(|b| b.same(&shape[0])) => {
                (Some(0), None)
            }
            1 => (None, Some(0)),
            _ => (Some(0), Some(1)),
        }
    }

    /// `= s0`: a name that the host may bind, an input, or a number.
    fn initial(&mut self, init: &ast::Expr, ty: &Type) -> InitHir {
        let Some(shape) = self.state_shape(ty) else { return InitHir::Zeros };
        let name = ast::Spanned { node: word_of(init).unwrap_or("").to_string(), span: init.span };
        match self.names.get(&name.node).copied() {
            Some((Entry::Tensor(n), _)) => {
                self.used.insert(name.node.clone());
                let t = &self.tensors[n];
                let fits = t.elem == Elem::Of(DType::F32)
                    && t.shape.len() == shape.len()
                    && t.shape.iter().zip(&shape).all(|(a, b)| a.same(b));
                if !fits {
                    let wanted: Vec<&str> = shape.iter().map(|s| s.text.as_str()).collect();
                    let message = format!("a state begins with an `f32[{}]`", wanted.join(", "));
                    let label = format!("`{}` is {}", t.name, t.type_text());
                    let d = Diagnostic::error(Code::BadState, init.span, message).label(label);
                    self.report.push(d.help("the state's own dims stand behind those of batch and heads"));
                }
                InitHir::Tensor(n)
            }
            None if !name.node.is_empty() => {
                let n = self.tensors.len();
                if !self.declare(&name, Entry::Bound) {
                    return InitHir::Zeros;
                }
                self.tensors.push(TensorFact {
                    name: name.node.clone(),
                    kind: TensorKind::Input,
                    elem: Elem::Of(DType::F32),
                    layout: (0..shape.len()).collect(),
                    shape,
                    fact: crate::attn_ir::Fact::None,
                    optional: true,
                    learn: false,
                    span: init.span,
                });
                InitHir::Tensor(n)
            }
            _ => {
                let x = self.expr(init);
                let x = self.widen(&x);
                let moves = Uses::INDEX.or(Uses::FLOAT_LOAD).or(Uses::INT_LOAD).or(Uses::STEP);
                if x.uses.any(moves) {
                    let d = Diagnostic::error(Code::BadState, init.span, "a state begins with one number")
                        .label("depends on the position or on a tensor")
                        .help("write `= s0`: an optional input of the state's shape");
                    self.report.push(d);
                }
                InitHir::Number(x)
            }
        }
    }

    /// The dims of a state's tensor.
    fn state_shape(&self, ty: &Type) -> Option<Vec<Size>> {
        let rows = self.step_rows?;
        let of = |d: Option<usize>| d.map(|d| self.tensors[rows.tensor].shape[d].clone());
        let mut shape: Vec<Size> = of(rows.batch).into_iter().chain(of(rows.head)).collect();
        match ty {
            Type::Row(n) => shape.push(n.clone()),
            Type::Mat(r, c) => shape.extend([r.clone(), c.clone()]),
            _ => return None,
        }
        Some(shape)
    }

    /// Checks a recurrence.
    pub fn recurrence(&mut self, kernel: &ast::Kernel, clauses: &Clauses<'_>) -> CheckedBody {
        let at = kernel.name.span;
        if self.states.is_empty() && !clauses.any(|k| matches!(k, ClauseKind::State { .. })) {
            let d = Diagnostic::error(Code::MissingClause, at, "there is no `state`")
                .label("a recurrence carries a state")
                .help("for instance `state s : f32[D, Dv] = s0`");
            self.report.push(d);
        }
        let updates = self.updates(clauses, at);
        let outputs = self.recurrence_results(clauses, at);
        self.specialise_recurrence();
        self.heads_are_shared_by_all();
        self.recurrence_body(updates, &outputs, at);
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

    /// The new value of each state that is updated.
    fn updates(&mut self, clauses: &Clauses<'_>, at: Span) -> Vec<(usize, Expr)> {
        let mut values: Vec<(usize, Expr)> = Vec::new();
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
            values.push((n, value_expr.clone()));
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
        values
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
            let mut kind = OutputHir::Other;
            if let Some((Entry::State(n), _)) = plain.and_then(|w| self.names.get(w)).copied() {
                self.used.insert(name.clone());
                kind = OutputHir::State(n);
            } else if matches!(&e.node, ExprKind::Name(n) if n == "lse" || n == "max_logit") {
                let d = Diagnostic::error(Code::BadReturn, e.span, "a recurrence has no scores")
                    .label("only attentions return it")
                    .help("return `q @ s` and the state");
                self.report.push(d);
                continue;
            } else {
                let Some((inner, cast)) = uncast(self, e) else { continue };
                let x = self.expr(inner);
                if matches!(x.ty, Type::Row(_)) {
                    kind = OutputHir::Row(x.clone(), cast);
                }
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
            outputs.push(OutputFact { name, text: self.text(e.span), span: e.span, kind });
        }
        outputs
    }

    /// Feature dims, state dims and head counts of a recurrence.
    fn specialise_recurrence(&mut self) {
        let mut sizes = Vec::new();
        for n in 0..self.tensors.len() {
            let Some(rows) = self.step_roles(n).filter(|_| self.tensors[n].elem.is_float()) else { continue };
            let shape = &self.tensors[n].shape;
            sizes.push(shape[rows.feature].clone());
            sizes.extend(rows.head.map(|d| shape[d].clone()));
        }
        for state in &self.states {
            match &state.ty {
                Type::Row(n) => sizes.push(n.clone()),
                Type::Mat(r, c) => sizes.extend([r.clone(), c.clone()]),
                _ => {}
            }
        }
        for size in sizes {
            self.specialise_expr(&size.expr, 0);
        }
    }

    /// There is one state for each (b, h): every tensor over the sequence has all heads, or none.
    fn heads_are_shared_by_all(&mut self) {
        let Some(rows) = self.step_rows else { return };
        let wanted = |d: Option<usize>| d.map(|d| self.tensors[rows.tensor].shape[d].clone());
        let (batch, heads) = (wanted(rows.batch), wanted(rows.head));
        let mut wrong = Vec::new();
        for (n, t) in self.tensors.iter().enumerate() {
            let Some((b, h)) = self.step_leading(n) else { continue };
            let differs = |d: Option<usize>, want: &Option<Size>| {
                d.zip(want.as_ref()).is_some_and(|(d, w)| !t.shape[d].same(w))
            };
            if differs(b, &batch) || differs(h, &heads) {
                wrong.push((t.span, t.name.clone(), t.type_text()));
            }
        }
        for (span, name, text) in wrong {
            let message = format!("`{name}` has other batch or head dims than the state");
            let d = Diagnostic::error(Code::BadState, span, message).label(text);
            let base = self.tensors[rows.tensor].type_text();
            self.report.push(d.help(format!("there is one state for each (b, h) of {base}")));
        }
    }

    /// Batch and head dims of a tensor over the sequence, of rows or of numbers.
    fn step_leading(&self, tensor: usize) -> Option<(Option<usize>, Option<usize>)> {
        if let Some(rows) = self.step_roles(tensor) {
            return Some((rows.batch, rows.head));
        }
        let (t, step) = (&self.tensors[tensor], self.step_dim.as_ref()?);
        let rank = t.shape.len();
        let at_step = (1..=3).contains(&rank) && t.shape[rank - 1].same(step);
        at_step.then(|| self.leading(&t.shape, 1))
    }

    fn recurrence_body(&mut self, updates: Vec<(usize, Expr)>, outputs: &[OutputFact], at: Span) {
        let Some(rows) = self.step_rows else {
            if self.report.n_errors == 0 {
                let d = Diagnostic::error(Code::BadState, at, "no input runs over a sequence")
                    .label("steps over what?")
                    .help("for instance `input k : float[B, H, S, D]`");
                self.report.push(d);
            }
            return;
        };
        let start = self.start(&updates, outputs);
        let fact = |s: &State| StateFact { name: s.name.clone(), ty: s.ty.clone(), init: s.init.clone() };
        let states = self.states.iter().map(fact).collect();
        self.recurrence = Some(RecurBody { states, updates, rows, start });
    }

    /// The run-time parameter `start`, declared by the author or here, if anything reads `i`.
    fn start(&mut self, updates: &[(usize, Expr)], outputs: &[OutputFact]) -> Option<usize> {
        let results = outputs.iter().filter_map(|o| match &o.kind {
            OutputHir::Row(e, _) => Some(e),
            _ => None,
        });
        let mut exprs = updates.iter().map(|u| &u.1).chain(results);
        let turned = self.row_ops.iter().any(|op| op.uses().any(Uses::I));
        if !turned && !exprs.any(|e| e.uses.any(Uses::I)) {
            return None;
        }
        let name = "start";
        match self.names.get(name).copied() {
            Some((Entry::Param(n), _)) if self.params[n].ty == Ty::Int && !self.params[n].is_static => {
                self.used.insert(name.into());
                Some(n)
            }
            Some((_, span)) => {
                let d = Diagnostic::error(Code::BadState, span, "`start` is the position of the first step")
                    .label("a run-time int parameter, or nothing else")
                    .help("rename it: where `i` is read, the host may give `start`");
                self.report.push(d);
                None
            }
            None => {
                let span = self.tensors[self.step_rows?.tensor].span;
                let default = Some(Value::Int(0));
                self.params.push(ParamFact {
                    name: name.into(),
                    is_static: false,
                    ty: Ty::Int,
                    default,
                    span,
                });
                Some(self.params.len() - 1)
            }
        }
    }
}

fn at_end(clauses: &Clauses<'_>, at: Span) -> Span {
    clauses.all.last().map_or(at, |c| c.span)
}
