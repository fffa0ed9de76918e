//! A scanner of brackets, operators and line starts that knows comments and strings and nothing else.
//!
//! `limits` and `recover` run on it, so it must get through any text: it never fails.

use super::clause::CLAUSES;

/// What the scanner reports, with byte offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `(`, `[` or `{`
    Open(usize),
    /// `)`, `]` or `}`
    Close(usize),
    /// A character of an operator, or a word operator.
    Operator(usize),
    /// The first character of a line that is not white space.
    LineStart(usize),
    /// A string without its closing quote on the line.
    UnclosedString(usize),
}

/// An iterator of [`Event`]s.
pub struct Scanner<'a> {
    text: &'a str,
    pos: usize,
    at_line_start: bool,
}

impl<'a> Scanner<'a> {
    /// At the start of the text.
    pub fn new(text: &'a str) -> Self {
        Scanner { text, pos: 0, at_line_start: true }
    }
}

impl Iterator for Scanner<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let bytes = self.text.as_bytes();
        loop {
            let pos = self.pos;
            let byte = *bytes.get(pos)?;
            if byte == b'\n' {
                self.at_line_start = true;
            } else if self.text[pos..].starts_with("//") {
                self.pos += self.text[pos..].find('\n').unwrap_or(self.text.len() - pos);
                continue;
            } else if self.at_line_start && !byte.is_ascii_whitespace() {
                self.at_line_start = false;
                return Some(Event::LineStart(pos));
            }
            // The next character, not the next byte: offsets stay on character boundaries.
            self.pos += self.text[pos..].chars().next().map_or(1, char::len_utf8);
            match byte {
                b'(' | b'[' | b'{' => return Some(Event::Open(pos)),
                b')' | b']' | b'}' => return Some(Event::Close(pos)),
                b'"' => {
                    let rest = &self.text[self.pos..];
                    let end = rest.find(['"', '\n']);
                    match end {
                        Some(n) if rest.as_bytes()[n] == b'"' => self.pos += n + 1,
                        _ => {
                            self.pos += end.unwrap_or(rest.len());
                            return Some(Event::UnclosedString(pos));
                        }
                    }
                }
                b'+' | b'-' | b'*' | b'/' | b'^' | b'&' | b'|' | b'!' | b'<' | b'>' | b'?' | b'@' => {
                    return Some(Event::Operator(pos));
                }
                b if b.is_ascii_alphabetic() || b == b'_' => {
                    let len = word_len(&self.text[pos..]);
                    self.pos = pos + len;
                    if matches!(&self.text[pos..pos + len], "div" | "mod" | "in") {
                        return Some(Event::Operator(pos));
                    }
                }
                _ => {}
            }
        }
    }
}

/// Bytes of the word at the start of the text.
pub fn word_len(text: &str) -> usize {
    text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count()
}

/// The clause keyword with which the text starts, if what follows can begin a clause.
pub fn clause_start(text: &str) -> Option<&'static str> {
    let word = &text[..word_len(text)];
    let keyword = CLAUSES.iter().copied().find(|k| *k == word)?;
    let rest = text[word.len()..].trim_start();
    let next = rest.bytes().next();
    let fits = match keyword {
        "score" | "mask" | "weight" => next == Some(b'=') && !rest.starts_with("=="),
        "dropout" | "test" => next == Some(b'('),
        "numerics" => next == Some(b'{'),
        "return" | "ensure" => next.is_some(),
        _ => next.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_'),
    };
    fits.then_some(keyword)
}

/// The item keyword with which the text starts, if what follows can begin an item.
pub fn item_start(text: &str) -> Option<&'static str> {
    let word = &text[..word_len(text)];
    let keyword = ["use", "mask", "score", "fn", "position", "attention", "recurrence"]
        .into_iter()
        .find(|k| *k == word)?;
    let next = text[word.len()..].trim_start().bytes().next();
    next.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_' || b == b'"').then_some(keyword)
}
