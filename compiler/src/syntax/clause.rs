//! Clauses: pest pairs to [`ClauseKind`].

use pest::iterators::Pair;

use super::ast::*;
use super::expr::{args, expr};
use super::parse::{Cx, Rule, children};
use super::words::nearest;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Span};

/// The keywords with which a clause may begin.
pub const CLAUSES: [&str; 23] = [
    "dims",
    "heads",
    "align",
    "mode",
    "cache",
    "append",
    "input",
    "map",
    "rotate",
    "let",
    "select",
    "branch",
    "state",
    "score",
    "mask",
    "weight",
    "dropout",
    "numerics",
    "distribute",
    "schedule",
    "ensure",
    "test",
    "return",
];

/// One clause.
pub(super) fn clause(cx: Cx, pair: Pair<Rule>, out: &mut Diagnostics) -> Clause {
    let span = cx.span(&pair);
    let Some(inner) = pair.into_inner().next() else {
        return Clause { kind: ClauseKind::Return(vec![]), span };
    };
    let mut b = Builder { cx, out, span };
    Clause { kind: b.kind(inner), span }
}

/// In an attention, `name = ...` is a misspelt clause; in a recurrence it must name a state.
pub(super) fn refuse_unknown(kernel: &Kernel, out: &mut Diagnostics) {
    let states: Vec<&str> = kernel
        .clauses
        .iter()
        .filter_map(|c| {
            if let ClauseKind::State { name, .. } = &c.kind { Some(name.node.as_str()) } else { None }
        })
        .collect();
    unknown_in(&kernel.clauses, kernel.kind, &states, out);
}

fn unknown_in(clauses: &[Clause], kind: KernelKind, states: &[&str], out: &mut Diagnostics) {
    for c in clauses {
        match &c.kind {
            ClauseKind::Branch { clauses, .. } => unknown_in(clauses, kind, states, out),
            ClauseKind::Update { name, .. } if !states.contains(&name.node.as_str()) => {
                out.push(unknown_clause(name, kind));
            }
            _ => {}
        }
    }
}

fn unknown_clause(name: &Name, kind: KernelKind) -> Diagnostic {
    let d =
        Diagnostic::error(Code::UnknownClause, name.span, format!("no clause begins with `{}`", name.node))
            .label("expected the keyword of a clause");
    let d = match nearest(&name.node, CLAUSES.iter().copied()) {
        Some(word) => d.suggest(name.span, word, format!("did you mean `{word}`?")),
        None => d.help(format!("to name a value, write `let {} = ...`", name.node)),
    };
    match kind {
        KernelKind::Recurrence => {
            d.note("in a recurrence, `name = ...` updates a state declared with `state name : ...`")
        }
        KernelKind::Attention => d,
    }
}

struct Builder<'a> {
    cx: Cx<'a>,
    out: &'a mut Diagnostics,
    span: Span,
}

impl Builder<'_> {
    fn kind(&mut self, pair: Pair<Rule>) -> ClauseKind {
        let rule = pair.as_rule();
        match rule {
            Rule::dims => ClauseKind::Dims(children(pair).into_iter().map(|p| self.dim(p)).collect()),
            Rule::input => ClauseKind::Input(self.tensor(pair)),
            Rule::cache => ClauseKind::Cache(self.tensor(pair)),
            Rule::schedule => self.schedule(pair),
            Rule::ensure => self.ensure(pair),
            Rule::branch => self.branch(pair),
            Rule::state => self.state(pair),
            Rule::drop => ClauseKind::Dropout(self.first_args(pair)),
            Rule::test => ClauseKind::Test(self.first_args(pair)),
            Rule::numerics => {
                ClauseKind::Numerics(children(pair).into_iter().flat_map(|p| self.options(p)).collect())
            }
            Rule::return_ => ClauseKind::Return(children(pair).into_iter().map(|p| self.expr(p)).collect()),
            _ => self.simple(rule, pair),
        }
    }

    /// Clauses made of a few names and expressions in a fixed order.
    fn simple(&mut self, rule: Rule, pair: Pair<Rule>) -> ClauseKind {
        let mut kids = children(pair).into_iter();
        let mut next = || kids.next();
        match rule {
            Rule::heads => {
                let scheme = self.name_of(next());
                ClauseKind::Heads { scheme, by: next().map(|p| self.expr(p)) }
            }
            Rule::align => ClauseKind::Align(self.name_of(next())),
            Rule::mode => ClauseKind::Mode(self.name_of(next())),
            Rule::append => ClauseKind::Append(self.names_of(next())),
            Rule::map_ => {
                let names = self.names_of(next());
                ClauseKind::Map { names, by: self.name_of(next()) }
            }
            Rule::rotate => {
                let names = self.names_of(next());
                let by = self.expr_of(next());
                ClauseKind::Rotate { names, by, at: self.expr_of(next()) }
            }
            Rule::let_ => {
                let name = self.name_of(next());
                ClauseKind::Let { name, value: self.expr_of(next()) }
            }
            Rule::select => {
                let name = self.name_of(next());
                ClauseKind::Select { name, by: self.expr_of(next()) }
            }
            Rule::update => {
                let name = self.name_of(next());
                ClauseKind::Update { name, value: self.expr_of(next()) }
            }
            Rule::score => ClauseKind::Score(self.expr_of(next())),
            Rule::mask => ClauseKind::Mask(self.expr_of(next())),
            Rule::weight => ClauseKind::Weight(self.expr_of(next())),
            _ => ClauseKind::Distribute(self.expr_of(next())),
        }
    }

    fn expr(&mut self, pair: Pair<Rule>) -> Expr {
        expr(self.cx, pair, self.out)
    }

    fn expr_of(&mut self, pair: Option<Pair<Rule>>) -> Expr {
        match pair {
            Some(p) => self.expr(p),
            None => Spanned { node: ExprKind::Name(String::new()), span: self.span },
        }
    }

    fn name_of(&self, pair: Option<Pair<Rule>>) -> Name {
        pair.map_or(Spanned { node: String::new(), span: self.span }, |p| self.cx.name(&p))
    }

    fn names_of(&self, pair: Option<Pair<Rule>>) -> Vec<Name> {
        pair.map_or(vec![], |p| p.into_inner().map(|n| self.cx.name(&n)).collect())
    }

    fn dim(&mut self, pair: Pair<Rule>) -> DimDecl {
        let mut kids = pair.into_inner();
        let name = self.name_of(kids.next());
        let (mut value, mut upto) = (None, None);
        for p in kids {
            match p.as_rule() {
                Rule::upto => upto = p.into_inner().next().map(|e| self.expr(e)),
                _ => value = Some(self.expr(p)),
            }
        }
        DimDecl { name, value, upto }
    }

    fn tensor(&mut self, pair: Pair<Rule>) -> TensorDecl {
        let mut decl = TensorDecl {
            names: Vec::new(),
            ty: TensorType { dtype: Spanned { node: String::new(), span: self.span }, dims: Vec::new() },
            attrs: Vec::new(),
        };
        for p in children(pair) {
            match p.as_rule() {
                Rule::names => decl.names = self.names_of(Some(p)),
                Rule::type_ => decl.ty = self.ty(p),
                _ => decl.attrs.push(self.attr(p)),
            }
        }
        decl
    }

    fn ty(&mut self, pair: Pair<Rule>) -> TensorType {
        let mut kids = pair.into_inner();
        let dtype = self.name_of(kids.next());
        TensorType { dtype, dims: kids.map(|p| self.expr(p)).collect() }
    }

    fn attr(&mut self, pair: Pair<Rule>) -> Spanned<Attr> {
        let span = self.cx.span(&pair);
        let Some(inner) = pair.into_inner().next() else { return Spanned { node: Attr::Learn, span } };
        let rule = inner.as_rule();
        let mut kids = children(inner).into_iter();
        let node = match rule {
            Rule::learn => Attr::Learn,
            Rule::sorted => Attr::Sorted,
            Rule::monotone => Attr::Monotone,
            Rule::optional => Attr::Optional,
            Rule::paged => Attr::Paged(kids.next().map_or(vec![], |p| args(self.cx, p, self.out))),
            Rule::contiguous => Attr::Len(self.name_of(kids.next())),
            Rule::scale => {
                let dtype = self.name_of(kids.next());
                Attr::Scale { dtype, per: self.names_of(kids.next()) }
            }
            _ => Attr::Layout(self.names_of(kids.next())),
        };
        Spanned { node, span }
    }

    fn first_args(&mut self, pair: Pair<Rule>) -> Vec<Arg> {
        children(pair).into_iter().next().map_or(vec![], |p| args(self.cx, p, self.out))
    }

    fn options(&mut self, pair: Pair<Rule>) -> Vec<OptionDecl> {
        pair.into_inner()
            .map(|p| {
                let mut kids = p.into_inner();
                let name = self.name_of(kids.next());
                OptionDecl { name, value: kids.next().map(|e| self.expr(e)) }
            })
            .collect()
    }

    fn schedule(&mut self, pair: Pair<Rule>) -> ClauseKind {
        let mut kids = children(pair).into_iter();
        let target = self.name_of(kids.next());
        let (mut list, mut options) = (Vec::new(), Vec::new());
        for p in kids {
            match p.as_rule() {
                Rule::args => list = args(self.cx, p, self.out),
                _ => options = self.options(p),
            }
        }
        ClauseKind::Schedule { target, args: list, options }
    }

    fn ensure(&mut self, pair: Pair<Rule>) -> ClauseKind {
        let mut kids = children(pair).into_iter();
        let promise = self.expr_of(kids.next());
        let at = kids.next().map_or(vec![], |p| args(self.cx, p, self.out));
        ClauseKind::Ensure { promise, at }
    }

    fn branch(&mut self, pair: Pair<Rule>) -> ClauseKind {
        let mut kids = children(pair).into_iter();
        let name = self.name_of(kids.next());
        let clauses = kids.map(|p| clause(self.cx, p, self.out)).collect();
        ClauseKind::Branch { name, clauses }
    }

    fn state(&mut self, pair: Pair<Rule>) -> ClauseKind {
        let mut kids = children(pair).into_iter();
        let name = self.name_of(kids.next());
        let ty = match kids.next() {
            Some(p) => self.ty(p),
            None => TensorType { dtype: name.clone(), dims: vec![] },
        };
        ClauseKind::State { name, ty, init: kids.next().map(|p| self.expr(p)) }
    }
}
