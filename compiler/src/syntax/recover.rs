//! Several errors from one file: cuts a broken file into items and clauses and parses each on its own.
//!
//! Comes in: a text that the grammar refuses as a whole, and its tokens. Goes out: the tree of the pieces that
//! parse, and one diagnostic for each that does not. An item begins at a line that starts like one, whatever
//! braces were left open before it; a clause begins with its keyword, whatever brackets were. If every piece
//! parses, the fault lies between them and the error of the whole file is reported. The work is linear but for
//! the nesting of branches.

use pest::Parser as _;
use pest::error::Error;
use pest::iterators::Pair;

use super::ast::*;
use super::clause::CLAUSES;
use super::explain_syntax::{self, Piece};
use super::parse::{Cx, Grammar, Rule, children, def, import, kernel_head};
use super::token::{Token, TokenKind};
use super::words::nearest;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, SourceId, Span};

/// The keywords with which an item may begin.
pub(super) const ITEMS: [&str; 7] = ["use", "mask", "score", "fn", "position", "attention", "recurrence"];

/// Parses a file that does not parse as a whole.
pub(super) fn file(
    text: &str,
    source: SourceId,
    tokens: &[Token],
    whole: &Error<Rule>,
    out: &mut Diagnostics,
) -> File {
    // Comments do not matter from here on.
    let tokens: Vec<Token> = tokens.iter().filter(|t| t.kind != TokenKind::Comment).copied().collect();
    let n_before = out.items().len() + out.dropped;
    let outline = Outline::new(text, &tokens);
    let mut r = Recovery { text, source, tokens: &tokens, closing: &outline.closing, out };
    r.report_brackets(&outline);
    let mut file = File::default();
    r.stray_items(0, outline.items.first().copied().unwrap_or(tokens.len()));
    for (n, &start) in outline.items.iter().enumerate() {
        let end = outline.items.get(n + 1).copied().unwrap_or(tokens.len());
        file.items.extend(r.item(start, end));
    }
    if r.out.items().len() + r.out.dropped == n_before {
        let piece = Piece { text, source, tokens: &tokens, start: 0 };
        r.out.push(explain_syntax::explain(&piece, 0, whole));
    }
    file
}

/// Where items begin and which brace closes which.
struct Outline {
    /// Index of the first token of each item.
    items: Vec<usize>,
    /// For each `{` the index of its `}`, or of the first token after what it holds if it has none.
    closing: Vec<usize>,
    unclosed: Vec<usize>,
    stray: Vec<usize>,
}

impl Outline {
    fn new(text: &str, tokens: &[Token]) -> Outline {
        let mut o = Outline {
            items: vec![],
            closing: vec![tokens.len(); tokens.len()],
            unclosed: vec![],
            stray: vec![],
        };
        let mut open: Vec<usize> = Vec::new();
        for (n, token) in tokens.iter().enumerate() {
            // In open braces only a line without indentation can be the next item.
            let is_flush = token.start == 0 || text.as_bytes()[token.start - 1] == b'\n';
            if is_item_start(tokens, n) && (open.is_empty() || is_flush) {
                // Only the outermost brace is reported: the inner ones are closed by the same remedy.
                o.unclosed.extend(open.first());
                open.drain(..).for_each(|brace| o.closing[brace] = n);
                o.items.push(n);
            }
            if token.is("{") {
                open.push(n);
            } else if token.is("}") {
                match open.pop() {
                    Some(brace) => o.closing[brace] = n,
                    None => o.stray.push(n),
                }
            }
        }
        o.unclosed.extend(open.first());
        o
    }
}

fn begins_line(tokens: &[Token], n: usize) -> bool {
    n == 0 || tokens[n].n_newlines > 0
}

/// Does a line that starts like an item begin here?
fn is_item_start(tokens: &[Token], n: usize) -> bool {
    let fits = |at: usize, test: fn(&Token) -> bool| tokens.get(n + at).is_some_and(test);
    let is_word = |t: &Token| t.kind == TokenKind::Word;
    if tokens[n].kind != TokenKind::Word || !begins_line(tokens, n) && !tokens[n - 1].is("}") {
        return false;
    }
    match tokens[n].text {
        "attention" | "recurrence" | "fn" | "position" => fits(1, is_word),
        "mask" | "score" => fits(1, is_word) && fits(2, |t| t.is("(")),
        "use" => fits(1, |t| matches!(t.kind, TokenKind::Word | TokenKind::Str)),
        _ => false,
    }
}

/// Does a clause begin here? With its keyword and what must follow it, or as `word =`, or as an unknown word at
/// the start of a line where no operand can stand.
fn is_clause_start(tokens: &[Token], n: usize, is_nested: bool) -> bool {
    let token = &tokens[n];
    let continues =
        n > 0 && !tokens[n - 1].ends_operand() && !tokens[n - 1].is("{") && !tokens[n - 1].is("}");
    if token.kind != TokenKind::Word || !begins_line(tokens, n) && (continues || is_nested) {
        return false;
    }
    let next = tokens.get(n + 1);
    let is = |punct: &str| next.is_some_and(|t| t.is(punct));
    let is_word = next.is_some_and(|t| t.kind == TokenKind::Word);
    match token.text {
        "score" | "mask" | "weight" => is("="),
        "dropout" | "test" => is("("),
        "numerics" => is("{"),
        "return" | "ensure" => next.is_some() && !is("="),
        "div" | "mod" | "in" | "at" | "by" => false,
        word if CLAUSES.contains(&word) => is_word,
        // The rest only where brackets are closed: `n = 3` and `a` begin lines inside them, too.
        _ if is_nested || continues => false,
        "learn" | "sorted" | "monotone" | "optional" | "paged" | "layout" | "scale" | "per" | "len" => false,
        _ => is("=") || begins_line(tokens, n),
    }
}

struct Recovery<'a, 'o> {
    text: &'a str,
    source: SourceId,
    tokens: &'a [Token<'a>],
    closing: &'a [usize],
    out: &'o mut Diagnostics,
}

impl<'a> Recovery<'a, '_> {
    fn span(&self, n: usize) -> Span {
        let token = &self.tokens[n];
        Span { source: self.source, start: token.start, end: token.end() }
    }

    /// From the first byte of token `start` to the last of the token before `end`.
    fn bytes(&self, start: usize, end: usize) -> (usize, usize) {
        let from = self.tokens.get(start).map_or(self.text.len(), |t| t.start);
        let to = end.checked_sub(1).and_then(|n| self.tokens.get(n)).map_or(from, Token::end);
        (from, to.max(from))
    }

    fn report_brackets(&mut self, outline: &Outline) {
        for &n in &outline.unclosed {
            let d = Diagnostic::error(Code::Unclosed, self.span(n), "this `{` is never closed")
                .label("opened here");
            let after = self.bytes(0, outline.closing[n]).1;
            let at = Span { source: self.source, start: after, end: after };
            self.out.push(d.suggest(at, "\n}", "close it after the last clause"));
        }
        for &n in &outline.stray {
            let d = Diagnostic::error(Code::Unclosed, self.span(n), "this `}` closes nothing");
            self.out.push(d.label("no brace is open here").suggest(self.span(n), "", "remove it"));
        }
        for n in (0..self.tokens.len()).filter(|n| self.tokens[*n].is_unclosed_string()) {
            let span = self.span(n);
            let at = Span { start: span.end, ..span };
            let d = Diagnostic::error(Code::Unclosed, span, "this string is never closed");
            self.out.push(d.label("its line ends before its closing `\"`").suggest(at, "\"", "close it"));
        }
    }

    /// Parses a piece by one rule and builds its node; an error goes to the sink, once for each piece.
    fn parse<T>(
        &mut self,
        rule: Rule,
        (start, end): (usize, usize),
        build: impl FnOnce(Cx<'a>, Pair<'a, Rule>, &mut Diagnostics) -> Option<T>,
    ) -> Option<T> {
        let (from, to) = self.bytes(start, end);
        let cx = Cx { source: self.source, base: from, text: &self.text[from..to] };
        match Grammar::parse(rule, cx.text) {
            Ok(mut pairs) => pairs.next().and_then(|p| build(cx, p, self.out)),
            // Nobody reads the thousandth error; counting it is enough.
            Err(_) if self.out.dropped > 0 => {
                self.out.dropped += 1;
                None
            }
            Err(error) => {
                let tokens = &self.tokens[start..end.max(start)];
                if !tokens.iter().any(Token::is_unclosed_string) {
                    let piece = Piece { text: self.text, source: self.source, tokens, start: from };
                    let error = explain_syntax::detailed(rule, cx.text).unwrap_or(error);
                    self.out.push(explain_syntax::explain(&piece, from, &error));
                }
                None
            }
        }
    }

    fn item(&mut self, start: usize, end: usize) -> Option<Item> {
        match self.tokens[start].text {
            "use" => {
                // The path is one token of the grammar, several here; anything after it is stray.
                let path = self.path_end(start + 1, end);
                self.stray_items(path, end);
                self.parse(Rule::one_import, (start, path), |cx, p, _| {
                    children(p).into_iter().next().map(|p| Item::Use(import(cx, p)))
                })
            }
            "attention" | "recurrence" => self.kernel(start, end).map(Item::Kernel),
            _ => self.parse(Rule::one_def, (start, end), |cx, p, out| {
                children(p).into_iter().next().map(|p| Item::Def(def(cx, p, out)))
            }),
        }
    }

    fn path_end(&self, start: usize, end: usize) -> usize {
        let mut at = start + 1;
        while at + 1 < end && self.tokens[at].is(".") {
            at += 2;
        }
        at.min(end)
    }

    fn kernel(&mut self, start: usize, end: usize) -> Option<Kernel> {
        let Some(open) = (start..end).find(|n| self.tokens[*n].is("{")) else {
            self.parse(Rule::kernel_head, (start, end), |_, _, _| Some(()))?;
            let span = self.span(start + 1);
            let d = Diagnostic::error(Code::Syntax, span, "a kernel has its clauses in braces");
            self.out.push(d.label("no `{` follows").help("`attention name { dims ... }`"));
            return None;
        };
        let close = self.closing[open].min(end);
        let (from, to) = self.bytes(start, (close + 1).min(end));
        let span = Span { source: self.source, start: from, end: to };
        let head = self.parse(Rule::kernel_head, (start, open), |cx, p, out| {
            Some(kernel_head(cx, &mut children(p), span, out))
        });
        let clauses = self.clauses(open + 1, close);
        self.stray_items(close + 1, end);
        let mut kernel = head?;
        kernel.clauses = clauses;
        super::clause::refuse_unknown(&kernel, self.out);
        Some(kernel)
    }

    /// The clauses between two braces.
    fn clauses(&mut self, start: usize, end: usize) -> Vec<Clause> {
        let mut found = Vec::new();
        let (mut n, mut depth) = (start, 0usize);
        while n < end {
            let token = &self.tokens[n];
            // What follows a keyword belongs to it: `let y = ...`, `heads map by ...`.
            let is_named =
                n > start && found.last() == Some(&(n - 1)) && CLAUSES.contains(&self.tokens[n - 1].text);
            if n == start || !is_named && is_clause_start(self.tokens, n, depth > 0) {
                depth = 0;
                found.push(n);
            }
            if token.is("{") {
                // Braces of a branch, of numerics or a schedule: nothing in them begins a clause of this block.
                n = self.closing[n].min(end);
            } else if token.is_open() {
                depth += 1;
            } else if token.is_close() {
                depth = depth.saturating_sub(1);
            }
            n += 1;
        }
        let mut list = Vec::new();
        for (k, &s) in found.iter().enumerate() {
            let e = found.get(k + 1).copied().unwrap_or(end);
            list.extend(self.clause(s, e));
        }
        list
    }

    fn clause(&mut self, start: usize, end: usize) -> Option<Clause> {
        let token = self.tokens[start];
        let brace = (start..end.min(start + 4)).find(|n| self.tokens[*n].is("{"));
        if let (Some(open), "branch") = (brace, token.text) {
            return self.branch(start, open, end);
        }
        let next_is_equals = self.tokens[start..end].get(1).is_some_and(|t| t.is("="));
        if token.kind == TokenKind::Word && !CLAUSES.contains(&token.text) && !next_is_equals {
            let d = unknown(token.text, self.span(start), "clause", CLAUSES.iter().copied());
            self.out.push(d);
            return None;
        }
        self.parse(Rule::one_clause, (start, end), |cx, p, out| {
            children(p).into_iter().next().map(|p| super::clause::clause(cx, p, out))
        })
    }

    fn branch(&mut self, start: usize, open: usize, end: usize) -> Option<Clause> {
        let name = self.parse(Rule::branch_head, (start, open), |cx, p, _| {
            children(p).into_iter().next().map(|p| cx.name(&p))
        });
        let close = self.closing[open].min(end);
        let clauses = self.clauses(open + 1, close);
        if close + 1 < end {
            self.parse(Rule::one_clause, (close + 1, end), |_, _, _| Some(()));
        }
        let (from, to) = self.bytes(start, (close + 1).min(end));
        let span = Span { source: self.source, start: from, end: to };
        Some(Clause { kind: ClauseKind::Branch { name: name?, clauses }, span })
    }

    /// Tokens where an item should begin: the first of them is reported, braces were reported before.
    fn stray_items(&mut self, start: usize, end: usize) {
        let Some(n) = (start..end).find(|n| !self.tokens[*n].is("}")) else { return };
        let token = self.tokens[n];
        let span = self.span(n);
        let next_is_equals = self.tokens.get(n + 1).is_some_and(|t| t.is("="));
        if token.kind == TokenKind::Word && ITEMS.contains(&token.text) && !next_is_equals {
            let form = explain_syntax::form(token.text, true).unwrap_or("a name follows");
            let message = format!("`{}` is not followed by what it needs", token.text);
            self.out.push(Diagnostic::error(Code::Syntax, span, message).help(form));
        } else if token.kind == TokenKind::Word && CLAUSES.contains(&token.text) {
            let message = format!("`{}` stands outside of a kernel", token.text);
            let d =
                Diagnostic::error(Code::UnknownClause, span, message).label("a clause belongs into braces");
            self.out.push(d.help("clauses stand in `attention name { ... }` or `recurrence name { ... }`"));
        } else if token.kind == TokenKind::Word {
            self.out.push(unknown(token.text, span, "item", ITEMS.iter().copied()));
        } else {
            let piece = Piece {
                text: self.text,
                source: self.source,
                tokens: &self.tokens[n..end],
                start: span.start,
            };
            self.out.push(explain_syntax::outside(&piece, span));
        }
    }
}

/// A word that begins nothing.
fn unknown(
    word: &str,
    span: Span,
    what: &str,
    known: impl Iterator<Item = &'static str> + Clone,
) -> Diagnostic {
    let d = Diagnostic::error(Code::UnknownClause, span, format!("no {what} begins with `{word}`"));
    match nearest(word, known.clone()) {
        Some(near) => d.label("unknown keyword").suggest(span, near, format!("did you mean `{near}`?")),
        None => {
            let list: Vec<&str> = known.collect();
            d.label("unknown keyword").help(format!("a {what} begins with one of: {}", list.join(", ")))
        }
    }
}
