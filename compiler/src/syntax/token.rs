//! Tokens for whatever must look at a text without parsing it: limits, recovery, explanation, formatter.
//!
//! Comes in: any text. Goes out: its words, numbers, strings, punctuation and comments in order, each with the
//! number of line ends before it. What holds: the tokens joined are the text without the white space between
//! them; it never fails, unknown characters become punctuation; the work is linear. The parser is pest's and does
//! not see these.

/// Bytes of the word at the start of the text.
pub(super) fn word_len(text: &str) -> usize {
    text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count()
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A name or keyword.
    Word,
    /// A number with its suffix.
    Number,
    /// A string with its quotes.
    Str,
    /// An operator or bracket.
    Punct,
    /// `// ...` without the line end.
    Comment,
}

/// One token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    /// What it is.
    pub kind: TokenKind,
    /// As written.
    pub text: &'a str,
    /// Its first byte.
    pub start: usize,
    /// Line ends between it and the token before.
    pub n_newlines: usize,
}

impl Token<'_> {
    /// One past its last byte.
    pub(super) fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// `(`, `[` or `{`.
    pub(super) fn is_open(&self) -> bool {
        self.is("(") || self.is("[") || self.is("{")
    }

    /// `)`, `]` or `}`.
    pub(super) fn is_close(&self) -> bool {
        self.is(")") || self.is("]") || self.is("}")
    }

    /// A string whose closing quote is missing on its line.
    pub(super) fn is_unclosed_string(&self) -> bool {
        self.kind == TokenKind::Str && (self.text.len() < 2 || !self.text.ends_with('"'))
    }

    /// Is it this operator or bracket?
    pub(super) fn is(&self, punct: &str) -> bool {
        self.kind == TokenKind::Punct && self.text == punct
    }

    /// Is it this word?
    pub(super) fn is_word(&self, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text == word
    }

    /// Can an operand end here?
    pub(super) fn ends_operand(&self) -> bool {
        match self.kind {
            TokenKind::Word => !matches!(self.text, "div" | "mod" | "in" | "at" | "by" | "return" | "ensure"),
            TokenKind::Number | TokenKind::Str => true,
            TokenKind::Punct => matches!(self.text, ")" | "]"),
            TokenKind::Comment => false,
        }
    }
}

/// All tokens of a text.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut out = Vec::new();
    let (mut at, mut n_newlines) = (0, 0);
    while let Some(c) = text[at..].chars().next() {
        if c.is_whitespace() {
            n_newlines += usize::from(c == '\n');
            at += c.len_utf8();
            continue;
        }
        let (kind, len) = token(&text[at..], c);
        let shown = &text[at..at + len];
        let shown = if kind == TokenKind::Comment { shown.trim_end() } else { shown };
        out.push(Token { kind, text: shown, start: at, n_newlines });
        n_newlines = 0;
        at += len;
    }
    out
}

/// Kind and length of the token with which `rest` begins.
fn token(rest: &str, first: char) -> (TokenKind, usize) {
    if rest.starts_with("//") {
        return (TokenKind::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if first == '"' {
        // A string without its closing quote ends with its line.
        let end = rest[1..].find(['"', '\n']).map_or(rest.len(), |end| end + 1);
        return (TokenKind::Str, end + usize::from(rest[end..].starts_with('"')));
    }
    if first.is_ascii_digit() {
        return (TokenKind::Number, number_len(rest.as_bytes()));
    }
    match word_len(rest) {
        0 => (TokenKind::Punct, punct_len(rest, first)),
        len => (TokenKind::Word, len),
    }
}

fn punct_len(rest: &str, first: char) -> usize {
    let two = ["<=", ">=", "==", "!=", ".."];
    if two.iter().any(|op| rest.starts_with(op)) { 2 } else { first.len_utf8() }
}

/// Digits, fraction, exponent, suffix; `1..8` is three tokens.
fn number_len(bytes: &[u8]) -> usize {
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut len = digits(0);
    if bytes.get(len) == Some(&b'.') && digits(len + 1) > 0 {
        len += 1 + digits(len + 1);
    }
    if bytes.get(len) == Some(&b'e') {
        let sign = usize::from(matches!(bytes.get(len + 1), Some(b'+' | b'-')));
        let n = bytes.get(len + 1 + sign..).map_or(0, |_| digits(len + 1 + sign));
        len += if n > 0 { 1 + sign + n } else { 0 };
    }
    len + bytes[len..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ranges_and_operators() {
        let list = |text| tokens(text).iter().map(|t| t.text).collect::<Vec<_>>();
        assert_eq!(list("Sq=1..8"), ["Sq", "=", "1", "..", "8"]);
        assert_eq!(list("1e-5+10Ki"), ["1e-5", "+", "10Ki"]);
        assert_eq!(list("a<=b!=c // x\n!d"), ["a", "<=", "b", "!=", "c", "// x", "!", "d"]);
        assert_eq!(tokens("a\n\n b")[1].n_newlines, 2);
    }
}
