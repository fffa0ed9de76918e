//! Limits that every text must keep before it is parsed: size, nesting, operators of one clause.
//!
//! The parser, the tree and everything after it are recursive; with these limits none of them can overflow the
//! stack. Comments and strings do not count.

use super::scan::{Event, Scanner, clause_start};
use crate::diagnostic::{Code, Diagnostic, SourceId, Span};

/// Largest file in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting of brackets.
pub const MAX_NESTING: usize = 128;
/// Most operators in one clause or definition.
pub const MAX_OPERATORS: usize = 512;

/// The first limit that the text breaks.
pub fn check(text: &str, source: SourceId) -> Option<Diagnostic> {
    let at = |start: usize, message: String| {
        let span = Span { source, start, end: (start + 1).min(text.len()) };
        Diagnostic::error(Code::TooLarge, span, message)
    };
    if text.len() > MAX_BYTES {
        return Some(at(0, format!("the file has {} bytes, the most is {MAX_BYTES}", text.len())));
    }
    let mut depth = 0usize;
    let mut operators = 0usize;
    for event in Scanner::new(text) {
        match event {
            Event::Open(pos) => {
                depth += 1;
                if depth > MAX_NESTING {
                    return Some(at(pos, format!("brackets are nested deeper than {MAX_NESTING} levels")));
                }
            }
            Event::Close(_) => depth = depth.saturating_sub(1),
            Event::Operator(pos) => {
                operators += 1;
                if operators > MAX_OPERATORS {
                    let d = at(pos, format!("one clause has more than {MAX_OPERATORS} operators"));
                    return Some(d.help("give parts of it names with `let`, `fn` or `mask`"));
                }
            }
            Event::LineStart(pos) if clause_start(&text[pos..]).is_some() => operators = 0,
            Event::LineStart(_) | Event::UnclosedString(_) => {}
        }
    }
    None
}
