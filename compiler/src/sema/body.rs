//! The body of an attention or of a branch: score, mask, weight, return.
//!
//! Comes in: the clauses of a block, its tensors and lets already in scope. Goes out: the typed [`Body`], the
//! outputs and the conventions in force. What holds: the score is one float with at least one dot, the mask one
//! bool of indices, parameters and integer or bit tensors. Not here: what of it can be compiled.

use crate::artifact::DType;
use crate::diagnostic::{Code, Diagnostic, Span};
use crate::syntax::ast::{self, ExprKind};

use super::choice::{BranchFact, Choices};
use super::clauses::Clauses;
use super::declare::end_of;
use super::elab::Elab;
use super::hir::{Expr, Kind, Type, Uses, find, find_use};
use super::model::*;
use super::relative::{RelativeFact, is_relative};
use super::roles::{Roles, first_tensor};
use super::suggest::nearest;

/// What a block comes to.
pub(crate) struct CheckedBody {
    /// The typed body, if nothing of it is missing.
    pub body: Option<Body>,
    /// Results.
    pub outputs: Vec<OutputFact>,
    /// Alignment.
    pub align: AlignFact,
    /// Heads.
    pub heads: HeadsFact,
    /// Conjuncts of the mask.
    pub mask_clauses: Vec<MaskClause>,
    /// What cannot be compiled yet.
    pub unsupported: Vec<UnsupportedClause>,
    /// Branches of a kernel that is made of them.
    pub branches: Vec<BranchFact>,
    /// How queries and keys are chosen.
    pub choices: Choices,
}

/// Checks the score, mask, weight and return of a block called `name` at `at`.
pub(crate) fn check_body(elab: &mut Elab<'_>, clauses: &Clauses<'_>, at: Span) -> CheckedBody {
    let mut unsupported = Vec::new();
    missing(elab, clauses, at);
    let score = clauses.score.map(|(e, span)| (score(elab, e), span));
    let mask = clauses.mask.map(|(e, span)| (mask(elab, e), e, span));
    let weight = clauses.weight.and_then(|(e, _)| weight(elab, e));
    let dropout = elab.dropout(clauses);
    let (outputs, values) = results(elab, clauses, weight.as_ref(), &mut unsupported);
    let mut roles = score.as_ref().map(|(e, _)| elab.roles(e)).unwrap_or_default();
    let value = value_rows(elab, &mut roles, &values);
    let mut exprs: Vec<(&Expr, Span)> = Vec::new();
    exprs.extend(mask.as_ref().map(|(e, _, span)| (e, *span)));
    exprs.extend(score.as_ref().map(|(e, span)| (e, *span)));
    let fallback = clauses.score.map_or(at, |s| s.1);
    let align = elab.align(clauses.align, &roles, &exprs, fallback);
    let heads = elab.heads(clauses.heads, &roles, fallback);
    elab.specialise(&roles);
    for (e, at) in &exprs {
        excluded_blocks(e, *at, &mut unsupported);
    }
    let epilogues = outputs.iter().filter_map(|o| match &o.kind {
        OutputHir::O { epilogue, .. } => epilogue.as_ref(),
        _ => None,
    });
    let read: Vec<&Expr> = exprs.iter().map(|(e, _)| *e).chain(epilogues).collect();
    elab.settle_segments(&roles, &read);
    let mut mask_clauses = Vec::new();
    if let Some((typed, ast, _)) = &mask {
        split(elab, ast, typed, &mut mask_clauses);
    }
    let body = match (score, weight, roles.dots.first()) {
        (Some((score, _)), Some(weight), Some(&(_, key))) if !score.is_error() => Some(Body {
            score: score.clone(),
            mask: mask.map(|(e, _, _)| e),
            weight,
            dropout,
            dots: dots(&score, &roles),
            relative: relative_dots(&score, &roles),
            value: value.unwrap_or(key),
            value_row: values.first().cloned(),
        }),
        _ => None,
    };
    let (branches, choices) = (Vec::new(), Choices::default());
    CheckedBody { body, outputs, align, heads, mask_clauses, unsupported, branches, choices }
}

fn missing(elab: &mut Elab<'_>, clauses: &Clauses<'_>, at: Span) {
    let last = clauses.all.last().map_or(end_of(at), |c| end_of(c.span));
    let mut say = |what: &str, line: &str, why: &str| {
        let d = Diagnostic::error(Code::MissingClause, at, format!("there is no `{what}`"))
            .label(why)
            .suggest(last, format!("\n  {line}"), "for instance");
        elab.report.push(d);
    };
    if clauses.score.is_none() {
        say("score", "score  = dot(q, k) / sqrt(D)", "an attention needs a score for each pair");
    }
    if clauses.weight.is_none() {
        say("weight", "weight = softmax(score)", "nothing says how scores become weights");
    }
    if clauses.result.is_none() {
        say("return", "return weight @ v", "nothing is returned");
    }
}

fn score(elab: &mut Elab<'_>, e: &ast::Expr) -> Expr {
    let typed = elab.expr(e);
    let typed = elab.widen(&typed);
    if !typed.is_error() && !typed.uses.any(Uses::DOT) {
        let d = Diagnostic::error(Code::BadScore, e.span, "this score has no dot")
            .label("nothing says which rows meet")
            .note("a score depends on a query row and a key row through `dot(x, y)`")
            .help("for instance `score = dot(q, k) / sqrt(D)`");
        elab.report.push(d);
        return elab.err(e.span);
    }
    no_nested_dot(elab, &typed);
    typed
}

/// A dot inside an index or inside another dot's rows.
fn no_nested_dot(elab: &mut Elab<'_>, e: &Expr) {
    let nested = find(e, &mut |n| match &n.kind {
        Kind::Load(_, index) => index.iter().find_map(|x| find_use(x, Uses::DOT)).map(|x| x.span),
        Kind::Dot(x, y) => find_use(x, Uses::DOT).or_else(|| find_use(y, Uses::DOT)).map(|x| x.span),
        _ => None,
    });
    if let Some(span) = nested {
        let d = Diagnostic::error(Code::BadScore, span, "a dot cannot stand inside an index or another dot")
            .label("this dot")
            .help("indices are ints of b, h, i, j; rows are tensors and elementwise arithmetic");
        elab.report.push(d);
    }
}

fn mask(elab: &mut Elab<'_>, e: &ast::Expr) -> Expr {
    let typed = elab.expr(e);
    let typed = elab.want_bool(&typed);
    for (what, reason) in [
        (Uses::DOT, "a mask cannot depend on a dot"),
        (Uses::FLOAT_LOAD, "a mask cannot read a float tensor"),
    ] {
        if let Some(at) = find_use(&typed, what) {
            let at = if at.span.source == e.span.source { at.span } else { e.span };
            let d = Diagnostic::error(Code::BadMask, at, reason)
                .label("not an index, a parameter, or an integer or bit tensor")
                .note("a mask is a bool of indices, parameters and integer or bit tensors, so that tiles can be skipped")
                .help("put it into the score: a score of -inf (`log` of 0) takes no part; or pass a `bit` tensor");
            elab.report.push(d);
            return elab.err(e.span);
        }
    }
    if let (Some(crate::expr::eval::Value::Bool(false)), false) = (typed.value, typed.is_error()) {
        let d = Diagnostic::warning(Code::EmptyInterval, e.span, "this mask is always false")
            .label("no pair is ever seen")
            .help("every row returns 0");
        elab.report.push(d);
    }
    typed
}

fn weight(elab: &mut Elab<'_>, e: &ast::Expr) -> Option<WeightHir> {
    let mut inner = e;
    while let ExprKind::Paren(x) = &inner.node {
        inner = x;
    }
    match &inner.node {
        ExprKind::Name(n) if n == "score" => Some(WeightHir::Plain),
        ExprKind::Call { name, args } => match name.node.as_str() {
            "softmax" => softmax(elab, args, inner.span),
            "sigmoid" => unnormalised(elab, "sigmoid", args, inner.span).then_some(WeightHir::Sigmoid),
            "relu" => unnormalised(elab, "relu", args, inner.span).then_some(WeightHir::Relu),
            other => {
                let near = nearest(other, ["softmax", "sigmoid", "relu"]);
                bad_weight(elab, name.span, near);
                None
            }
        },
        ExprKind::Name(n) => {
            bad_weight(elab, e.span, nearest(n, ["score", "softmax", "sigmoid", "relu"]));
            None
        }
        _ => {
            bad_weight(elab, e.span, None);
            None
        }
    }
}

fn bad_weight(elab: &mut Elab<'_>, span: Span, near: Option<String>) {
    let mut d = Diagnostic::error(Code::BadWeight, span, "this is not a weight")
        .label("expected softmax(score), sigmoid(score), relu(score) or score")
        .note("only softmax is normalised over j");
    d = match near {
        Some(n) => d.suggest(span, n.clone(), format!("did you mean `{n}`?")),
        None => d.help("put arithmetic on scores into `score = ...`"),
    };
    elab.report.push(d);
}

fn unnormalised(elab: &mut Elab<'_>, what: &str, args: &[ast::Arg], span: Span) -> bool {
    let bound = elab.bind(what, &["score"], 1, args, span);
    bound.is_some_and(|b| b[0].is_some_and(|e| the_score(elab, e)))
}

/// The argument of a weight is the name `score`.
fn the_score(elab: &mut Elab<'_>, e: &ast::Expr) -> bool {
    if matches!(&e.node, ExprKind::Name(n) if n == "score") {
        return true;
    }
    let text = elab.text(e.span);
    let d = Diagnostic::error(Code::BadWeight, e.span, "the weight is a function of `score`")
        .label("expected `score`")
        .suggest(e.span, "score", format!("write `score`, and move `{text}` into the score clause"));
    elab.report.push(d);
    false
}

fn softmax(elab: &mut Elab<'_>, args: &[ast::Arg], span: Span) -> Option<WeightHir> {
    let bound = elab.bind("softmax", &["score", "sink"], 1, args, span)?;
    if !bound[0].is_some_and(|e| the_score(elab, e)) {
        return None;
    }
    let Some(e) = bound[1] else { return Some(WeightHir::Softmax(None)) };
    let sink = elab.expr(e);
    let sink = elab.widen(&sink);
    let row = Uses::I.or(Uses::J).or(Uses::ROW).or(Uses::DOT);
    if let Some(at) = find_use(&sink, row) {
        let d = Diagnostic::error(Code::BadWeight, at.span, "a sink is one logit for each head")
            .label("depends on the position")
            .help("a sink may depend on b, h, dims, parameters and tensors: `sink = sink[h]`");
        elab.report.push(d);
        return None;
    }
    if sink.is_error() { None } else { Some(WeightHir::Softmax(Some(sink))) }
}

/// The results, and the value tensors of each `weight @ v`.
fn results(
    elab: &mut Elab<'_>,
    clauses: &Clauses<'_>,
    weight: Option<&WeightHir>,
    unsupported: &mut Vec<UnsupportedClause>,
) -> (Vec<OutputFact>, Vec<Expr>) {
    let mut outputs: Vec<OutputFact> = Vec::new();
    let mut values = Vec::new();
    let Some((exprs, span)) = clauses.result else { return (outputs, values) };
    for e in exprs {
        let Some(output) = result(elab, e, weight, &mut values, unsupported) else { continue };
        if let Some(first) = outputs.iter().find(|o| o.name == output.name) {
            let d = Diagnostic::error(
                Code::BadReturn,
                e.span,
                format!("two results are called `{}`", output.name),
            )
            .label("the second")
            .context(first.span, "the first")
            .note("a returned expression is called `o`")
            .help("return it once, or write a second kernel");
            elab.report.push(d);
            continue;
        }
        if let Some((entry, at)) = elab.names.get(&output.name)
            && matches!(entry, super::elab::Entry::Tensor(_))
        {
            let message = format!("a result and an input are both called `{}`", output.name);
            let d = Diagnostic::error(Code::BadReturn, e.span, message)
                .label("the host binds both by name")
                .context(*at, "the input")
                .help("rename the input");
            elab.report.push(d);
        }
        outputs.push(output);
    }
    if outputs.is_empty() && exprs.is_empty() {
        elab.report.error(Code::BadReturn, span, "nothing is returned", "for instance `return weight @ v`");
    }
    (outputs, values)
}

fn result(
    elab: &mut Elab<'_>,
    e: &ast::Expr,
    weight: Option<&WeightHir>,
    values: &mut Vec<Expr>,
    unsupported: &mut Vec<UnsupportedClause>,
) -> Option<OutputFact> {
    let mut inner = e;
    while let ExprKind::Paren(x) = &inner.node {
        inner = x;
    }
    let text = elab.text(e.span);
    let make =
        |name: &str, kind| Some(OutputFact { name: name.into(), text: text.clone(), span: e.span, kind });
    match &inner.node {
        ExprKind::Name(n) if n == "lse" => {
            if !matches!(weight, Some(WeightHir::Softmax(_)) | None) {
                let d = Diagnostic::error(
                    Code::BadReturn,
                    e.span,
                    "`lse` is the normaliser of softmax, and this weight has none",
                )
                .label("no sum of exponentials is formed")
                .help("return `max_logit`, or use `weight = softmax(score)`");
                elab.report.push(d);
            }
            make("lse", OutputHir::Lse)
        }
        ExprKind::Name(n) if n == "max_logit" => make("max_logit", OutputHir::MaxLogit),
        ExprKind::Name(n) => {
            let n = n.clone();
            bad_result(elab, e, &n);
            None
        }
        _ => {
            let (core, cast) = uncast(elab, inner)?;
            let plain = matches!(&core.node, ExprKind::Infix { op: ast::InfixOp::MatMul, left, .. }
                if matches!(&left.node, ExprKind::Name(n) if n == "weight"));
            let n_before = values.len();
            let typed = weighted_expr(elab, core, values)?;
            if values.len() > n_before + 1 {
                unsupported.push(UnsupportedClause {
                    clause: format!("return {text}"),
                    span: e.span,
                    nearest: "one `weight @ v` in a result; write a branch for each".into(),
                });
            }
            make("o", OutputHir::O { cast, epilogue: (!plain).then_some(typed) })
        }
    }
}

fn bad_result(elab: &mut Elab<'_>, e: &ast::Expr, name: &str) {
    let mut d = Diagnostic::error(Code::BadReturn, e.span, format!("`{name}` is not a result"))
        .label("expected weight @ v, lse or max_logit");
    d = match nearest(name, ["lse", "max_logit"]) {
        Some(n) => d.suggest(e.span, n.clone(), format!("did you mean `{n}`?")),
        None if name == "weight" => d.help("the weights are never stored: return `weight @ v`"),
        None => d.suggest(e.span, format!("weight @ {name}"), "weigh its rows"),
    };
    elab.report.push(d);
}

/// `cast(x, f16)` as x and f16.
pub(crate) fn uncast<'e>(elab: &mut Elab<'_>, e: &'e ast::Expr) -> Option<(&'e ast::Expr, Option<DType>)> {
    let ExprKind::Call { name, args } = &e.node else { return Some((e, None)) };
    if name.node != "cast" {
        return Some((e, None));
    }
    let bound = elab.bind("cast", &["x", "dtype"], 2, args, e.span)?;
    let (Some(x), Some(to)) = (bound[0], bound[1]) else { return None };
    let dtype = match &to.node {
        ExprKind::Name(n) => DType::from_name(n).filter(|d| d.is_float()),
        _ => None,
    };
    if dtype.is_none() {
        let d = Diagnostic::error(Code::BadReturn, to.span, "a result is cast to a float type")
            .label("expected f32, f16, bf16 or f64")
            .help("for instance `cast(weight @ v, f32)`");
        elab.report.push(d);
        return None;
    }
    let mut x = x;
    while let ExprKind::Paren(inner) = &x.node {
        x = inner;
    }
    Some((x, dtype))
}

/// Types a result in which `weight @ v` stands for a row.
fn weighted_expr(elab: &mut Elab<'_>, e: &ast::Expr, values: &mut Vec<Expr>) -> Option<Expr> {
    elab.values = Some(Vec::new());
    let typed = elab.expr(e);
    let found = elab.values.take().unwrap_or_default();
    if typed.is_error() {
        return None;
    }
    if found.is_empty() || !matches!(typed.ty, Type::Row(_)) {
        let d = Diagnostic::error(Code::BadReturn, e.span, "this is not a result")
            .label(if found.is_empty() { "no `weight @ v` in it".into() } else { typed.ty.words() })
            .help("return `weight @ v`, perhaps times a gate, or `lse`, or `max_logit`");
        elab.report.push(d);
        return None;
    }
    values.extend(found);
    Some(typed)
}

/// Roles of the values; an output learns its value's roles.
fn value_rows(elab: &mut Elab<'_>, roles: &mut Roles, values: &[Expr]) -> Option<RowsFact> {
    let query = roles.dots.first()?.0;
    let mut first = None;
    for v in values {
        let tensor = first_tensor(v)?;
        let rows = match roles.keys.iter().find(|k| k.tensor == tensor) {
            Some(k) => Some(*k),
            None => elab.key(roles, tensor, query, v.span),
        };
        first = first.or(rows);
    }
    first
}

/// The dots of a score with the roles of the tensors in them.
pub(crate) fn dots(score: &Expr, roles: &Roles) -> Vec<DotFact> {
    let mut out: Vec<DotFact> = Vec::new();
    let _: Option<()> = find(score, &mut |n| {
        if let Kind::Dot(x, y) = &n.kind
            && let (Some(tx), Some(ty)) = (first_tensor(x), first_tensor(y))
            && !is_relative(y)
            && let Some(&(rx, ry)) = roles.dots.iter().find(|(a, b)| a.tensor == tx && b.tensor == ty)
            && !out.iter().any(|d| d.is(x, y))
        {
            out.push(DotFact { x: rx, y: ry, x_row: x.clone(), y_row: y.clone() });
        }
        None
    });
    out
}

/// The dots of a query with a row that both positions choose.
fn relative_dots(score: &Expr, roles: &Roles) -> Vec<RelativeFact> {
    let mut out = Vec::new();
    let Some(&(rows, _)) = roles.dots.first() else { return out };
    let _: Option<()> = find(score, &mut |n| {
        if let Kind::Dot(x, y) = &n.kind
            && is_relative(y)
            && let Some(tensor) = first_tensor(x)
        {
            let (rows, x, y) = (RowsFact { tensor, ..rows }, x.clone(), y.clone());
            out.push(RelativeFact { rows, x, y });
        }
        None
    });
    out
}

fn excluded_blocks(e: &Expr, at: Span, unsupported: &mut Vec<UnsupportedClause>) {
    let found = find(e, &mut |n| matches!(n.kind, Kind::RandBlockExcept(..)).then_some(n.span));
    if let Some(span) = found {
        unsupported.push(UnsupportedClause {
            clause: "rand_block(exclude = ...)".into(),
            span: if span.source == at.source { span } else { at },
            nearest: "rand_block without `exclude`".into(),
        });
    }
}

/// Top-level conjuncts with their texts.
fn split(elab: &Elab<'_>, ast: &ast::Expr, typed: &Expr, out: &mut Vec<MaskClause>) {
    match (&ast.node, &typed.kind) {
        (ExprKind::Paren(inner), _) => split(elab, inner, typed, out),
        (ExprKind::Infix { op: ast::InfixOp::And, left, right }, Kind::Binary(_, a, b)) => {
            split(elab, left, a, out);
            split(elab, right, b, out);
        }
        _ => out.push(MaskClause { text: elab.text(ast.span), span: ast.span, expr: typed.clone() }),
    }
}
