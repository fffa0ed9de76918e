//! Characters of a PTX text: white space, comments, names, numbers.
//!
//! Comes in: the text. Goes out: pieces of it with their lines. What holds: the cursor never stands inside of a comment.
//! Not here: statements ([`crate::parse`]).

use crate::ast::Arg;
use crate::fault::ParseError;

/// A place in the text.
pub(crate) struct Cursor<'a> {
    src: &'a [u8],
    pub pos: usize,
    pub line: u32,
}

type Result<T> = std::result::Result<T, ParseError>;

fn is_name(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || c == b'$' || c == b'%'
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { src: text.as_bytes(), pos: 0, line: 1 }
    }

    /// An error at this line, with the rest of the line as its text.
    pub fn error(&self, message: impl Into<String>) -> ParseError {
        let rest = &self.src[self.pos.min(self.src.len())..];
        let end = rest.iter().position(|c| *c == b'\n').unwrap_or(rest.len()).min(120);
        ParseError {
            line: self.line,
            text: String::from_utf8_lossy(&rest[..end]).trim().to_string(),
            message: message.into(),
        }
    }

    /// The character here, 0 at the end.
    pub fn peek(&self) -> u8 {
        self.at(0)
    }

    pub fn at(&self, ahead: usize) -> u8 {
        self.src.get(self.pos + ahead).copied().unwrap_or(0)
    }

    pub fn done(&self) -> bool {
        self.pos >= self.src.len()
    }

    fn bump(&mut self) {
        if self.peek() == b'\n' {
            self.line += 1;
        }
        self.pos += 1;
    }

    /// Skips white space and comments.
    pub fn skip(&mut self) {
        loop {
            match (self.peek(), self.at(1)) {
                (b' ' | b'\t' | b'\r' | b'\n', _) => self.bump(),
                (b'/', b'/') => {
                    while !self.done() && self.peek() != b'\n' {
                        self.bump();
                    }
                }
                (b'/', b'*') => {
                    while !self.done() && (self.peek(), self.at(1)) != (b'*', b'/') {
                        self.bump();
                    }
                    self.pos += 2;
                }
                _ => return,
            }
        }
    }

    /// Skips to the end of the line.
    pub fn skip_line(&mut self) {
        while !self.done() && self.peek() != b'\n' {
            self.bump();
        }
    }

    /// Skips a block in braces.
    pub fn skip_block(&mut self) -> Result<()> {
        self.expect(b'{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.peek() {
                0 if self.done() => return Err(self.error("a block that is not closed")),
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => {}
            }
            self.bump();
        }
        Ok(())
    }

    /// Takes `c` if it is next.
    pub fn eat(&mut self, c: u8) -> bool {
        self.skip();
        let found = self.peek() == c;
        if found {
            self.bump();
        }
        found
    }

    pub fn expect(&mut self, c: u8) -> Result<()> {
        if self.eat(c) { Ok(()) } else { Err(self.error(format!("expected `{}`", c as char))) }
    }

    /// A name; `%tid.x` is one name.
    pub fn name(&mut self) -> Result<String> {
        self.skip();
        let start = self.pos;
        while is_name(self.peek()) {
            self.bump();
        }
        if self.pos == start {
            return Err(self.error("expected a name"));
        }
        let special = self.src[start] == b'%' && self.peek() == b'.';
        if special && matches!(self.at(1), b'x' | b'y' | b'z') && !is_name(self.at(2)) {
            self.pos += 2;
        }
        Ok(self.slice(start))
    }

    /// A word of an opcode or directive: letters, digits, `_`, `::`.
    pub fn word(&mut self) -> Result<String> {
        let start = self.pos;
        loop {
            if is_name(self.peek()) {
                self.bump();
            } else if self.peek() == b':' && self.at(1) == b':' {
                self.pos += 2;
            } else {
                break;
            }
        }
        if self.pos == start { Err(self.error("expected a word")) } else { Ok(self.slice(start)) }
    }

    pub fn slice(&self, start: usize) -> String {
        String::from_utf8_lossy(&self.src[start..self.pos]).into_owned()
    }

    /// Text between two places, white space folded.
    pub fn folded(&self, start: usize, end: usize) -> String {
        let text = String::from_utf8_lossy(&self.src[start..end]).into_owned();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// A string in quotes.
    pub fn string(&mut self) -> Result<String> {
        self.expect(b'"')?;
        let start = self.pos;
        while !self.done() && self.peek() != b'"' {
            self.bump();
        }
        let text = self.slice(start);
        self.expect(b'"')?;
        Ok(text)
    }

    /// An unsigned integer.
    pub fn integer(&mut self) -> Result<u64> {
        match self.number()? {
            Arg::Int(v) if (0..=i128::from(u64::MAX)).contains(&v) => Ok(v as u64),
            _ => Err(self.error("expected an unsigned integer")),
        }
    }

    /// A numeric literal with its sign.
    pub fn number(&mut self) -> Result<Arg> {
        self.skip();
        let negative = self.peek() == b'-';
        if negative {
            self.bump();
            self.skip();
        }
        let start = self.pos;
        while self.peek().is_ascii_alphanumeric()
            || self.peek() == b'.'
            || (matches!(self.peek(), b'+' | b'-')
                && matches!(self.src[self.pos - 1], b'e' | b'E')
                && self.src[start..self.pos].contains(&b'.'))
        {
            self.bump();
        }
        let text = self.slice(start);
        let bad = || self.error(format!("`{text}` is not a number"));
        let lower = text.to_ascii_lowercase();
        let value = if let Some(hex) = lower.strip_prefix("0f").filter(|h| h.len() == 8) {
            Arg::F32(u32::from_str_radix(hex, 16).map_err(|_| bad())?)
        } else if let Some(hex) = lower.strip_prefix("0d").filter(|h| h.len() == 16) {
            Arg::F64(f64::from_bits(u64::from_str_radix(hex, 16).map_err(|_| bad())?))
        } else if lower.contains('.') {
            Arg::F64(lower.parse().map_err(|_| bad())?)
        } else {
            let digits = lower.strip_suffix('u').filter(|d| !d.is_empty()).unwrap_or(&lower);
            let (digits, radix) = match digits.as_bytes() {
                [b'0', b'x', ..] => (&digits[2..], 16),
                [b'0', b'b', ..] => (&digits[2..], 2),
                [b'0', _, ..] => (&digits[1..], 8),
                _ => (digits, 10),
            };
            Arg::Int(i128::from_str_radix(digits, radix).map_err(|_| bad())?)
        };
        Ok(match value {
            Arg::Int(v) if negative => Arg::Int(-v),
            Arg::F64(v) if negative => Arg::F64(-v),
            Arg::F32(v) if negative => Arg::F32(v ^ 0x8000_0000),
            other => other,
        })
    }
}
