//! Limits that every text must keep before it is parsed: size, nesting of brackets, depth of expressions.
//!
//! The parser, the tree and everything after it are recursive; with these limits none of them can overflow the
//! stack. The depth of an expression is bounded from its tokens: operators of one list element, which may chain,
//! and what is nested in it. Comments and strings do not count.

use super::token::{Token, TokenKind};
use crate::diagnostic::{Code, Diagnostic, SourceId, Span};

/// Largest file in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting of brackets.
pub const MAX_NESTING: usize = 128;
/// Deepest expression: its operators, those of its deepest part, and so on.
pub const MAX_DEPTH: usize = 256;

/// Refuses a text that is too large to be looked at.
pub(super) fn check_size(text: &str, source: SourceId) -> Option<Diagnostic> {
    (text.len() > MAX_BYTES).then(|| {
        let span = Span { source, start: 0, end: 0 };
        let message = format!("the file has {} bytes, the most is {MAX_BYTES}", text.len());
        Diagnostic::error(Code::TooLarge, span, message).help("import parts of it with `use \"part.attn\"`")
    })
}

/// Refuses the first expression that is nested too deeply or chains too many operators.
pub(super) fn check_depth(tokens: &[Token], source: SourceId) -> Option<Diagnostic> {
    let mut groups = vec![Group::default()];
    let mut ends_operand = false;
    for token in tokens.iter().filter(|t| t.kind != TokenKind::Comment) {
        let (message, help) = match step(&mut groups, token, ends_operand) {
            None => {
                ends_operand = token.ends_operand();
                continue;
            }
            Some(Limit::Nesting) => (
                format!("brackets are nested deeper than {MAX_NESTING} levels"),
                "give parts of the expression names with `let`, `fn` or `mask`",
            ),
            Some(Limit::Depth) => (
                format!("an expression chains or nests more than {MAX_DEPTH} operators"),
                "give parts of it names with `let`, `fn` or `mask`, or put its cases into an input tensor",
            ),
        };
        let span = Span { source, start: token.start, end: token.end() };
        return Some(Diagnostic::error(Code::TooLarge, span, message).label("here").help(help));
    }
    None
}

enum Limit {
    Nesting,
    Depth,
}

/// What stands in one pair of brackets.
#[derive(Default)]
struct Group {
    /// `|`, `&` and `?` of the current element.
    n_loose: usize,
    /// Other operators since the last of these, and the most between two of them.
    n_tight: usize,
    most_tight: usize,
    /// Depth of the deepest bracket of the current element.
    inner: usize,
    /// Depth of the deepest element before.
    before: usize,
}

impl Group {
    fn depth(&self) -> usize {
        self.before.max(self.n_loose + self.most_tight.max(self.n_tight) + self.inner)
    }

    fn loose_operator(&mut self) {
        self.n_loose += 1;
        self.most_tight = self.most_tight.max(self.n_tight);
        self.n_tight = 0;
    }

    fn next_element(&mut self) {
        *self = Group { before: self.depth(), ..Group::default() };
    }

    /// A new clause: what came before is no part of it.
    fn restart(&mut self) {
        *self = Group::default();
    }
}

fn step(groups: &mut Vec<Group>, token: &Token, ends_operand: bool) -> Option<Limit> {
    let nesting = groups.len();
    let top = groups.last_mut()?;
    if token.is_open() {
        // An index binds to what precedes it, like an operator.
        top.n_tight += usize::from(token.is("[") && ends_operand);
        if nesting > MAX_NESTING {
            return Some(Limit::Nesting);
        }
        groups.push(Group::default());
    } else if token.is_close() {
        let depth = top.depth() + 1;
        if nesting > 1 {
            groups.pop();
        }
        let outer = groups.last_mut()?;
        if token.is("}") { outer.restart() } else { outer.inner = outer.inner.max(depth) }
    } else if token.is(",") {
        top.next_element();
    } else if token.is("=") {
        top.restart();
    } else if token.is("|") || token.is("&") || token.is("?") {
        top.loose_operator();
    } else if is_operator(token) {
        top.n_tight += 1;
    } else if ends_operand && !token.is(":") && token.kind != TokenKind::Punct {
        // Two operands side by side: a clause or an attribute begins.
        top.restart();
    }
    groups.last().filter(|g| g.depth() > MAX_DEPTH).map(|_| Limit::Depth)
}

fn is_operator(token: &Token) -> bool {
    match token.kind {
        TokenKind::Punct => !matches!(token.text, ":" | ";" | "." | ".."),
        TokenKind::Word => matches!(token.text, "div" | "mod" | "in"),
        TokenKind::Number | TokenKind::Str | TokenKind::Comment => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::token::tokens;

    fn is_refused(text: &str) -> bool {
        check_depth(&tokens(text), SourceId(0)).is_some()
    }

    #[test]
    fn depth_adds_up_over_nesting_and_restarts_with_each_clause() {
        let chain = |n: usize| vec!["a"; n].join(" | ");
        assert!(!is_refused(&chain(250)) && is_refused(&chain(260)));
        assert!(
            is_refused(&format!("({}) | {}", chain(130), chain(130))),
            "the chain on the right is the outer one"
        );
        assert!(!is_refused(&format!("f({}, {})", chain(130), chain(130))), "beside each other");
        assert!(!is_refused(&format!("mask = {}\nmask = {}", chain(200), chain(200))));
        assert!(is_refused(&format!("mask = {}", "- ".repeat(300))));
        assert!(is_refused(&"(".repeat(129)) && !is_refused(&"(".repeat(128)));
    }
}
