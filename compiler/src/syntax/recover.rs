//! Several errors from one file: cuts a broken file into items and clauses and parses each on its own.
//!
//! A piece starts at a line that begins with an item keyword (outside braces) or a clause keyword (inside). Pieces
//! that parse stay in the tree; each that does not gives one diagnostic. If every piece parses, the fault lies
//! between them (a missing brace, text outside items) and the error of the whole file is reported.

use pest::Parser as _;
use pest::error::{Error, InputLocation};

use super::ast::*;
use super::explain_syntax::explain;
use super::parse::{Cx, Grammar, Rule, children, def, import, kernel_head};
use super::scan::{Event, Scanner, clause_start, item_start};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, SourceId, Span};

/// Parses a file that does not parse as a whole.
pub(super) fn file(text: &str, source: SourceId, whole: &Error<Rule>, out: &mut Diagnostics) -> File {
    let before = out.items().len();
    if let Some(d) = unbalanced(text, source) {
        out.push(d);
    }
    let mut file = File::default();
    let items = pieces(text, 0, text.len(), 0, item_start);
    for (start, end) in items {
        let r = Recovery { text, source };
        if let Some(item) = r.item(start, end, out) {
            file.items.push(item);
        }
    }
    if out.items().len() == before {
        let at = location(whole);
        out.push(explain(text, source, at, 0, whole));
    }
    file
}

/// Byte offset of a pest error.
pub(super) fn location(error: &Error<Rule>) -> usize {
    match error.location {
        InputLocation::Pos(p) => p,
        InputLocation::Span((p, _)) => p,
    }
}

struct Recovery<'a> {
    text: &'a str,
    source: SourceId,
}

impl<'a> Recovery<'a> {
    fn cx(&self, start: usize, end: usize) -> Cx<'a> {
        Cx { source: self.source, base: start, text: &self.text[start..end] }
    }

    fn parse<T>(
        &self,
        rule: Rule,
        (start, end): (usize, usize),
        out: &mut Diagnostics,
        build: impl FnOnce(Cx<'a>, pest::iterators::Pair<'a, Rule>, &mut Diagnostics) -> Option<T>,
    ) -> Option<T> {
        let cx = self.cx(start, end);
        match Grammar::parse(rule, cx.text) {
            Ok(mut pairs) => pairs.next().and_then(|p| build(cx, p, out)),
            Err(error) => {
                let at = start + location(&error);
                out.push(explain(self.text, self.source, at, start, &error));
                None
            }
        }
    }

    fn item(&self, start: usize, end: usize, out: &mut Diagnostics) -> Option<Item> {
        let piece = (start, end);
        match item_start(&self.text[start..])? {
            "use" => self.parse(Rule::one_import, piece, out, |cx, p, _| {
                children(p).into_iter().next().map(|p| Item::Use(import(cx, p)))
            }),
            "attention" | "recurrence" => self.kernel(start, end, out).map(Item::Kernel),
            _ => self.parse(Rule::one_def, piece, out, |cx, p, out| {
                children(p).into_iter().next().map(|p| Item::Def(def(cx, p, out)))
            }),
        }
    }

    fn kernel(&self, start: usize, end: usize, out: &mut Diagnostics) -> Option<Kernel> {
        let open = start + self.text[start..end].find('{')?;
        let span = Span { source: self.source, start, end };
        let head = self.parse(Rule::kernel_head, (start, open), out, |cx, p, out| {
            Some(kernel_head(cx, &mut children(p), span, out))
        });
        let close = closing(self.text, open, end);
        let clauses = self.clauses(open + 1, close, out);
        let mut kernel = head?;
        kernel.clauses = clauses;
        super::clause::refuse_unknown(&kernel, out);
        Some(kernel)
    }

    fn clauses(&self, start: usize, end: usize, out: &mut Diagnostics) -> Vec<Clause> {
        let mut list = Vec::new();
        let found = pieces(self.text, start, end, 0, |t| clause_start(t));
        if let Some(&(first, _)) = found.first() {
            self.stray(start, first, out);
        } else {
            self.stray(start, end, out);
        }
        for (s, e) in found {
            if clause_start(&self.text[s..]) == Some("branch") && self.text[s..e].contains('{') {
                list.extend(self.branch(s, e, out));
                continue;
            }
            let clause = self.parse(Rule::one_clause, (s, e), out, |cx, p, out| {
                children(p).into_iter().next().map(|p| super::clause::clause(cx, p, out))
            });
            list.extend(clause);
        }
        list
    }

    fn branch(&self, start: usize, end: usize, out: &mut Diagnostics) -> Option<Clause> {
        let open = start + self.text[start..end].find('{')?;
        let name = self.parse(Rule::branch_head, (start, open), out, |cx, p, _| {
            children(p).into_iter().next().map(|p| cx.name(&p))
        });
        let clauses = self.clauses(open + 1, closing(self.text, open, end), out);
        let span = Span { source: self.source, start, end };
        Some(Clause { kind: ClauseKind::Branch { name: name?, clauses }, span })
    }

    /// Text before the first clause that is neither white space nor a comment.
    fn stray(&self, start: usize, end: usize, out: &mut Diagnostics) {
        for event in Scanner::new(&self.text[start..end]) {
            if let Event::LineStart(at) = event {
                let at = start + at;
                let error = Grammar::parse(Rule::one_clause, &self.text[at..end]).err();
                if let Some(error) = error {
                    out.push(explain(self.text, self.source, at + location(&error), at, &error));
                }
                return;
            }
        }
    }
}

/// Runs of text that start at a line accepted by `starts`, at bracket depth `depth` within `start..end`.
fn pieces(
    text: &str,
    start: usize,
    end: usize,
    depth: usize,
    starts: impl Fn(&str) -> Option<&'static str>,
) -> Vec<(usize, usize)> {
    let mut at = Vec::new();
    let mut level = 0usize;
    for event in Scanner::new(&text[start..end]) {
        match event {
            Event::Open(_) => level += 1,
            Event::Close(_) => level = level.saturating_sub(1),
            Event::LineStart(pos) => {
                // A bracket left open on an earlier line must not swallow the clauses after it: a line that
                // starts like a clause is taken for one unless it lies in braces.
                let braces = open_braces(&text[start..start + pos]);
                if braces == depth && starts(&text[start + pos..end]).is_some() {
                    level = depth;
                    at.push(start + pos);
                }
            }
            Event::Operator(_) | Event::UnclosedString(_) => {}
        }
    }
    let _ = level;
    at.iter().enumerate().map(|(n, &s)| (s, at.get(n + 1).copied().unwrap_or(end))).collect()
}

fn open_braces(text: &str) -> usize {
    let mut level = 0usize;
    for event in Scanner::new(text) {
        match event {
            Event::Open(p) if text.as_bytes()[p] == b'{' => level += 1,
            Event::Close(p) if text.as_bytes()[p] == b'}' => level = level.saturating_sub(1),
            _ => {}
        }
    }
    level
}

/// Offset of the brace that closes the one at `open`, or the end.
fn closing(text: &str, open: usize, end: usize) -> usize {
    let mut level = 0usize;
    for event in Scanner::new(&text[open..end]) {
        match event {
            Event::Open(p) if text.as_bytes()[open + p] == b'{' => level += 1,
            Event::Close(p) if text.as_bytes()[open + p] == b'}' => {
                level -= 1;
                if level == 0 {
                    return open + p;
                }
            }
            _ => {}
        }
    }
    end
}

/// A brace or string without its partner.
fn unbalanced(text: &str, source: SourceId) -> Option<Diagnostic> {
    let mut open = Vec::new();
    let at = |pos: usize, message: &str| {
        let span = Span { source, start: pos, end: pos + 1 };
        Diagnostic::error(Code::Unclosed, span, message.to_string())
    };
    for event in Scanner::new(text) {
        match event {
            Event::UnclosedString(p) => {
                return Some(at(p, "this string is never closed").label("opened here"));
            }
            Event::Open(p) if text.as_bytes()[p] == b'{' => open.push(p),
            Event::Close(p) if text.as_bytes()[p] == b'}' && open.pop().is_none() => {
                return Some(at(p, "this `}` closes nothing").label("remove it"));
            }
            _ => {}
        }
    }
    let p = open.pop()?;
    Some(at(p, "this `{` is never closed").label("opened here").help("add a `}` after the last clause"))
}
