//! `attnc fmt`: the text of a file in one style, comments and blank-line groups kept.
//!
//! Comes in: a text that parses. Goes out: the same tokens, one clause a line, two spaces a level, `=` of
//! neighbouring `score mask weight` clauses and `:` of neighbouring inputs in one column, lines broken before
//! operators where they exceed [`WIDTH`]. What holds: formatting twice changes nothing more, and no token is
//! added, dropped or moved. Line breaks that the author put before an operator or after a comma stay. Not done:
//! adding or dropping parentheses, sorting, respelling numbers.

mod layout;

use std::collections::HashMap;

use super::ast::{Clause, ClauseKind, DefKind, File, Item};
use super::token::{Token, TokenKind, tokens};
use crate::diagnostic::{Diagnostics, SourceMap};

/// Widest line, where it can be helped.
pub const WIDTH: usize = 110;

/// The text in the one style; its diagnostics if it does not parse.
pub fn format(text: &str) -> Result<String, Diagnostics> {
    let mut map = SourceMap::default();
    let id = map.add("<text>", text);
    let (file, diagnostics) = super::parse(&map, id);
    if diagnostics.has_errors() {
        return Err(diagnostics);
    }
    let tokens = tokens(text);
    Ok(layout::render(&lines(&tokens, &starts(&file))))
}

/// What stands on a line; decides alignment and spacing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A comment of its own.
    Comment,
    /// `score`, `mask` or `weight`.
    Equation,
    /// `input` or `cache`.
    Tensor,
    /// A definition.
    Def(DefKind),
    /// A kernel or branch up to its brace.
    Header,
    /// Any other clause or item, or a closing brace.
    Other,
}

/// A logical line: a clause, the head of a block, a closing brace, or a comment.
#[derive(Clone, Debug)]
struct Line<'a> {
    role: Role,
    depth: usize,
    blank_before: bool,
    tokens: Vec<Token<'a>>,
}

/// Offsets at which a logical line begins.
fn starts(file: &File) -> HashMap<usize, Role> {
    let mut out = HashMap::new();
    for item in &file.items {
        match item {
            // The keyword lies before the span: `lines` finds it.
            Item::Use(import) => drop(out.insert(import.target.span.start, Role::Other)),
            Item::Def(def) => drop(out.insert(def.span.0.start, Role::Def(def.kind))),
            Item::Kernel(kernel) => {
                out.insert(kernel.span.0.start, Role::Header);
                clause_starts(&kernel.clauses, &mut out);
            }
        }
    }
    out
}

fn clause_starts(clauses: &[Clause], out: &mut HashMap<usize, Role>) {
    for clause in clauses {
        let role = match &clause.kind {
            ClauseKind::Score(_) | ClauseKind::Mask(_) | ClauseKind::Weight(_) => Role::Equation,
            ClauseKind::Input(_) | ClauseKind::Cache(_) => Role::Tensor,
            ClauseKind::Branch { clauses, .. } => {
                clause_starts(clauses, out);
                Role::Header
            }
            _ => Role::Other,
        };
        out.insert(clause.span.start, role);
    }
}

/// Cuts the tokens into logical lines.
fn lines<'a>(tokens: &[Token<'a>], starts: &HashMap<usize, Role>) -> Vec<Line<'a>> {
    let mut cutter = Cutter { lines: Vec::new(), blocks: Vec::new(), after_use: false };
    let mut at = 0;
    while at < tokens.len() {
        // Comments up to the next other token: whether that token begins a line decides what they belong to.
        let n_comments = tokens[at..].iter().take_while(|t| t.kind == TokenKind::Comment).count();
        let next = at + n_comments;
        let role = tokens.get(next).map_or(Some(Role::Other), |_| cutter.role(tokens, next, starts));
        for comment in &tokens[at..next] {
            let is_alone = comment.n_newlines > 0 || cutter.lines.is_empty();
            cutter.take(*comment, (is_alone && role.is_some()).then_some(Role::Comment));
        }
        if let Some(token) = tokens.get(next) {
            cutter.take(*token, role);
        }
        at = next + 1;
    }
    cutter.lines
}

struct Cutter<'a> {
    lines: Vec<Line<'a>>,
    /// Open braces; true for the braces of a kernel or branch.
    blocks: Vec<bool>,
    /// The last token was the keyword of an import.
    after_use: bool,
}

impl<'a> Cutter<'a> {
    /// The role of the line that token `n`, no comment, begins; `None` if it continues one.
    fn role(&mut self, tokens: &[Token<'a>], n: usize, starts: &HashMap<usize, Role>) -> Option<Role> {
        let token = tokens[n];
        if std::mem::take(&mut self.after_use) {
            return None;
        }
        if token.is("}") && self.blocks.last() == Some(&true) {
            return Some(Role::Other);
        }
        if token.is_word("use") && self.blocks.is_empty() {
            let path = tokens[n + 1..].iter().find(|t| t.kind != TokenKind::Comment);
            self.after_use = path.is_some_and(|path| starts.contains_key(&path.start));
            return self.after_use.then_some(Role::Other);
        }
        starts.get(&token.start).copied()
    }

    fn take(&mut self, token: Token<'a>, role: Option<Role>) {
        if token.is("}") {
            self.blocks.pop();
        }
        if let Some(role) = role {
            let depth = self.blocks.iter().filter(|is_block| **is_block).count();
            let opens = self.lines.last().is_none_or(|l| l.role == Role::Header);
            let blank_before = token.n_newlines > 1 && !opens && !token.is("}");
            self.lines.push(Line { role, depth, blank_before, tokens: vec![token] });
        } else if let Some(line) = self.lines.last_mut() {
            line.tokens.push(token);
        }
        if token.is("{") {
            let is_block = self.lines.last().is_some_and(|l| l.role == Role::Header);
            self.blocks.push(is_block);
        }
    }
}
