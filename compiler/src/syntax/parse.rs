//! Text to syntax tree.
//!
//! Comes in: one file of a [`SourceMap`]. Goes out: a tree and diagnostics. The whole file is parsed by one rule;
//! if that fails, `recover` cuts the file into items and clauses, each is parsed on its own, and every one that
//! fails gives its own diagnostic while the rest stays in the tree. Size and nesting are limited beforehand, so
//! that no input overflows the stack of the recursive parser.

use std::num::NonZeroUsize;
use std::sync::Once;

use pest::Parser as _;
use pest::iterators::Pair;

use super::ast::*;
use super::expr::expr;
use super::token::tokens;
use super::{limits, recover};
use crate::diagnostic::{Diagnostics, SourceId, SourceMap, Span};

/// The pest parser of `attn.pest`.
#[derive(pest_derive::Parser)]
#[grammar = "syntax/attn.pest"]
pub(super) struct Grammar;

/// Parses one file. The tree holds what could be read, also when there are errors.
pub fn parse(map: &SourceMap, source: SourceId) -> (File, Diagnostics) {
    let mut diagnostics = Diagnostics::default();
    let text = &map.file(source).text;
    if let Some(d) = limits::check_size(text, source) {
        diagnostics.push(d);
        return (File::default(), diagnostics);
    }
    let tokens = tokens(text);
    if let Some(d) = limits::check_depth(&tokens, source) {
        diagnostics.push(d);
        return (File::default(), diagnostics);
    }
    limit_calls();
    let cx = Cx { source, base: 0, text };
    let file = match Grammar::parse(Rule::file, text) {
        Ok(mut pairs) => match pairs.next() {
            Some(pair) => file(cx, pair, &mut diagnostics),
            None => File::default(),
        },
        Err(error) => recover::file(text, source, &tokens, &error, &mut diagnostics),
    };
    diagnostics.sort();
    (file, diagnostics)
}

/// Bounds the work of a parse. The limit is one number for the whole process, so it is set once, to what the
/// largest text may take: the grammar backtracks by a word or two, about a hundred calls a byte.
fn limit_calls() {
    static SET: Once = Once::new();
    SET.call_once(|| pest::set_call_limit(NonZeroUsize::new(limits::MAX_BYTES * 400)));
}

/// Where a piece of text starts in its file.
#[derive(Clone, Copy)]
pub(super) struct Cx<'a> {
    pub source: SourceId,
    pub base: usize,
    pub text: &'a str,
}

impl Cx<'_> {
    /// The text of a span of this piece.
    pub(super) fn slice(&self, span: Span) -> &str {
        self.text.get(span.start - self.base..span.end - self.base).unwrap_or("")
    }

    pub(super) fn span(self, pair: &Pair<Rule>) -> Span {
        let s = pair.as_span();
        // Blanks and comments before an optional part that is missing belong to the pair, not to what was written.
        let end = s.start() + written(s.as_str()).len();
        Span { source: self.source, start: self.base + s.start(), end: self.base + end }
    }

    pub(super) fn name(self, pair: &Pair<Rule>) -> Name {
        Spanned { node: pair.as_str().to_string(), span: self.span(pair) }
    }
}

/// The text without the blanks and comments at its end.
fn written(text: &str) -> &str {
    let mut text = text.trim_end();
    loop {
        let line = text.rfind('\n').map_or(0, |n| n + 1);
        match text[line..].find("//") {
            Some(at) if !text[line..line + at].contains('"') => text = text[..line + at].trim_end(),
            _ => return text,
        }
    }
}

fn file(cx: Cx, pair: Pair<Rule>, out: &mut Diagnostics) -> File {
    let mut items = Vec::new();
    for p in pair.into_inner() {
        match p.as_rule() {
            Rule::import => items.push(Item::Use(import(cx, p))),
            Rule::def => items.push(Item::Def(def(cx, p, out))),
            Rule::kernel => items.push(Item::Kernel(kernel(cx, p, out))),
            _ => {}
        }
    }
    File { items }
}

/// The inner pairs that are not bare keywords.
pub(super) fn children(pair: Pair<Rule>) -> Vec<Pair<Rule>> {
    pair.into_inner().filter(|p| !is_keyword(p.as_rule())).collect()
}

fn is_keyword(rule: Rule) -> bool {
    use Rule::*;
    matches!(
        rule,
        USE | MASK
            | SCORE
            | FN
            | POSITION
            | ATTENTION
            | RECURRENCE
            | DIMS
            | HEADS
            | ALIGN
            | MODE
            | INPUT
            | CACHE
            | APPEND
            | ROTATE
            | MAP
            | LET
            | SELECT
            | BRANCH
            | STATE
            | WEIGHT
            | DROPOUT
            | NUMERICS
            | DISTRIBUTE
            | SCHEDULE
            | ENSURE
            | TEST
            | RETURN
            | BY
            | AT
            | DIV
            | MOD
            | IN
            | LEARN
            | SORTED
            | MONOTONE
            | OPTIONAL
            | PAGED
            | LEN
            | SCALE
            | PER
            | LAYOUT
            | EOI
    )
}

pub(super) fn import(cx: Cx, pair: Pair<Rule>) -> Use {
    let span = cx.span(&pair);
    let target = children(pair).into_iter().next().map(|p| {
        let node = match p.as_rule() {
            Rule::str => UseTarget::File(p.as_str().trim_matches('"').to_string()),
            _ => UseTarget::Path(p.as_str().split('.').map(str::to_string).collect()),
        };
        Spanned { node, span: cx.span(&p) }
    });
    Use { target: target.unwrap_or(Spanned { node: UseTarget::Path(vec![]), span }) }
}

pub(super) fn def(cx: Cx, pair: Pair<Rule>, out: &mut Diagnostics) -> Def {
    let span = cx.span(&pair);
    let mut kids = children(pair).into_iter();
    let kind = match kids.next().map(|p| p.as_str().to_string()).as_deref() {
        Some("mask") => DefKind::Mask,
        Some("score") => DefKind::Score,
        Some("position") => DefKind::Position,
        _ => DefKind::Fn,
    };
    let (mut name, mut params_, mut body) = (None, Vec::new(), None);
    for p in kids {
        match p.as_rule() {
            Rule::ident => name = Some(cx.name(&p)),
            Rule::sig => params_ = params(cx, p, out),
            _ => body = Some(expr(cx, p, out)),
        }
    }
    let name = name.unwrap_or(Spanned { node: String::new(), span });
    let body = body.unwrap_or(Spanned { node: ExprKind::Name(String::new()), span });
    Def { kind, name, params: params_, body, span: Place(span) }
}

pub(super) fn params(cx: Cx, pair: Pair<Rule>, out: &mut Diagnostics) -> Vec<Param> {
    let mut list = Vec::new();
    for p in children(pair) {
        let mut param = Param {
            is_static: false,
            name: Spanned { node: String::new(), span: cx.span(&p) },
            ty: None,
            default: None,
        };
        for k in p.into_inner() {
            match k.as_rule() {
                Rule::STATIC => param.is_static = true,
                Rule::ident => param.name = cx.name(&k),
                Rule::ty_name => param.ty = Some(cx.name(&k)),
                _ => param.default = Some(expr(cx, k, out)),
            }
        }
        list.push(param);
    }
    list
}

/// Kind, name and parameters of a kernel from the pairs of its head.
pub(super) fn kernel_head(cx: Cx, kids: &mut Vec<Pair<Rule>>, span: Span, out: &mut Diagnostics) -> Kernel {
    let mut kernel = Kernel {
        kind: KernelKind::Attention,
        name: Spanned { node: String::new(), span },
        params: Vec::new(),
        clauses: Vec::new(),
        span: Place(span),
    };
    for p in kids.extract_if(.., |p| p.as_rule() != Rule::clause) {
        match p.as_rule() {
            Rule::kernel_kind if p.as_str() == "recurrence" => kernel.kind = KernelKind::Recurrence,
            Rule::ident => kernel.name = cx.name(&p),
            Rule::sig => kernel.params = params(cx, p, out),
            _ => {}
        }
    }
    kernel
}

fn kernel(cx: Cx, pair: Pair<Rule>, out: &mut Diagnostics) -> Kernel {
    let span = cx.span(&pair);
    let mut kids = children(pair);
    let mut kernel = kernel_head(cx, &mut kids, span, out);
    kernel.clauses = kids.into_iter().map(|p| super::clause::clause(cx, p, out)).collect();
    super::clause::refuse_unknown(&kernel, out);
    kernel
}
