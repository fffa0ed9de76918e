//! Reads the text of [`super::print`] back into a pool, and holds the token reader of every IR text.
//!
//! Comes in: text whose variables are already in the pool and whose tensors `tensor` knows with their element
//! type. Goes out: the node, or an error with the byte offset. Nesting is limited, so no text overflows the stack.

use super::print::{UNARY_CALLS, infix};
use super::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, UnaryOp};

/// Deepest nesting of parentheses and operators that IR text may have.
const MAX_DEPTH: usize = 200;

/// What is wrong with IR text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {message}")]
pub struct ParseError {
    /// Byte offset in the text.
    pub at: usize,
    /// What was expected and found.
    pub message: String,
}

/// A token of IR text.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A name: letters, digits, `_` and `.`, or `%` with digits.
    Word(String),
    /// Integer literal.
    Int(i64),
    /// Float literal.
    Float(f64),
    /// Punctuation or operator.
    Sym(&'static str),
}

const SYMBOLS: [&str; 28] = [
    "<=", ">=", "==", "!=", "->", "..", "<-", "+=", "(", ")", "[", "]", "{", "}", ",", ":", ";", "=", "<",
    ">", "+", "-", "*", "/", "&", "|", "!", "?",
];

/// A reader of tokens with one token of look-ahead.
pub struct Reader<'a> {
    text: &'a str,
    pos: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of the text.
    pub fn new(text: &'a str) -> Self {
        Reader { text, pos: 0, depth: 0 }
    }

    /// An error at the present position.
    pub fn error<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError { at: self.pos, message: message.into() })
    }

    fn skip_space(&mut self) {
        loop {
            let rest = &self.text[self.pos..];
            let trimmed = rest.trim_start();
            self.pos += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.pos += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// The next token without taking it; `None` at the end.
    pub fn peek(&mut self) -> Result<Option<Token>, ParseError> {
        let save = self.pos;
        let token = self.next()?;
        self.pos = save;
        Ok(token)
    }

    /// Takes the next token; `None` at the end.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Token>, ParseError> {
        self.skip_space();
        let rest = &self.text[self.pos..];
        let Some(first) = rest.chars().next() else { return Ok(None) };
        if first.is_ascii_digit() {
            return self.number().map(Some);
        }
        if first.is_ascii_alphabetic() || first == '_' || first == '%' {
            let len = rest
                .char_indices()
                .skip(1)
                .find(|(_, c)| !(c.is_ascii_alphanumeric() || *c == '_' || *c == '.'))
                .map_or(rest.len(), |(n, _)| n);
            let len = rest[..len].find("..").unwrap_or(len);
            self.pos += len;
            return Ok(Some(Token::Word(rest[..len].to_string())));
        }
        match SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            Some(sym) => {
                self.pos += sym.len();
                Ok(Some(Token::Sym(sym)))
            }
            None => self.error(format!("unexpected character {first:?}")),
        }
    }

    fn number(&mut self) -> Result<Token, ParseError> {
        let bytes = &self.text.as_bytes()[self.pos..];
        let mut len = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
        let mut float = false;
        if bytes.get(len) == Some(&b'.') && bytes.get(len + 1).is_some_and(u8::is_ascii_digit) {
            float = true;
            len += 1 + bytes[len + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        }
        if bytes.get(len) == Some(&b'e') {
            let sign = usize::from(matches!(bytes.get(len + 1), Some(b'+' | b'-')));
            let digits = bytes[len + 1 + sign..].iter().take_while(|b| b.is_ascii_digit()).count();
            if digits > 0 {
                float = true;
                len += 1 + sign + digits;
            }
        }
        let text = &self.text[self.pos..self.pos + len];
        let token =
            if float { text.parse().ok().map(Token::Float) } else { text.parse().ok().map(Token::Int) };
        match token {
            Some(token) => {
                self.pos += len;
                Ok(token)
            }
            None => self.error(format!("`{text}` is not a 64-bit number")),
        }
    }

    /// Takes the symbol if it is next.
    pub fn eat(&mut self, sym: &str) -> Result<bool, ParseError> {
        let is = matches!(self.peek()?, Some(Token::Sym(s)) if s == sym);
        if is {
            self.next()?;
        }
        Ok(is)
    }

    /// Takes the word if it is next.
    pub fn eat_word(&mut self, word: &str) -> Result<bool, ParseError> {
        let is = matches!(self.peek()?, Some(Token::Word(w)) if w == word);
        if is {
            self.next()?;
        }
        Ok(is)
    }

    /// Takes the symbol or fails.
    pub fn expect(&mut self, sym: &str) -> Result<(), ParseError> {
        if self.eat(sym)? { Ok(()) } else { self.expected(&format!("`{sym}`")) }
    }

    /// Takes the word or fails.
    pub fn expect_word(&mut self, word: &str) -> Result<(), ParseError> {
        if self.eat_word(word)? { Ok(()) } else { self.expected(&format!("`{word}`")) }
    }

    /// Takes any word.
    pub fn word(&mut self) -> Result<String, ParseError> {
        match self.peek()? {
            Some(Token::Word(w)) => {
                self.next()?;
                Ok(w)
            }
            _ => self.expected("a name"),
        }
    }

    /// Takes an integer literal with an optional minus.
    pub fn integer(&mut self) -> Result<i64, ParseError> {
        let negative = self.eat("-")?;
        if negative && self.eat_min_magnitude() {
            return Ok(i64::MIN);
        }
        match self.peek()? {
            Some(Token::Int(x)) => {
                self.next()?;
                Ok(if negative { -x } else { x })
            }
            _ => self.expected("an integer"),
        }
    }

    /// Takes the magnitude of the smallest integer, which is no token since no 64-bit integer holds it.
    fn eat_min_magnitude(&mut self) -> bool {
        self.skip_space();
        let rest = self.text[self.pos..].strip_prefix("9223372036854775808");
        let is = rest.is_some_and(|r| !r.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '.'));
        self.pos += if is { 19 } else { 0 };
        is
    }

    /// Takes a string literal in double quotes, in which `\\`, `\"` and `\n` are escapes.
    pub fn string(&mut self) -> Result<String, ParseError> {
        self.skip_space();
        let Some(body) = self.text[self.pos..].strip_prefix('"') else {
            return self.error("expected a string in double quotes");
        };
        let mut out = String::new();
        let mut escaped = false;
        for (n, c) in body.char_indices() {
            match c {
                _ if escaped => {
                    out.push(if c == 'n' { '\n' } else { c });
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    self.pos += n + 2;
                    return Ok(out);
                }
                _ => out.push(c),
            }
        }
        self.error("a string without an end")
    }

    /// An error that names what is next.
    pub fn expected<T>(&mut self, what: &str) -> Result<T, ParseError> {
        let found = match self.peek()? {
            None => "the end".into(),
            Some(Token::Word(w)) => format!("`{w}`"),
            Some(Token::Int(x)) => format!("`{x}`"),
            Some(Token::Float(x)) => format!("`{x}`"),
            Some(Token::Sym(s)) => format!("`{s}`"),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    /// Fails unless the text is used up.
    pub fn end(&mut self) -> Result<(), ParseError> {
        if self.peek()?.is_none() { Ok(()) } else { self.expected("the end") }
    }
}

/// Looks up a tensor by name: its id and the type of its elements.
pub type TensorLookup<'a> = dyn Fn(&str) -> Option<(TensorId, Ty)> + 'a;

/// Reads one expression at the reader's position.
pub fn expr(reader: &mut Reader, pool: &mut Pool, tensor: &TensorLookup) -> Result<ExprId, ParseError> {
    let mut parser = ExprParser { reader, pool, tensor, shared: Vec::new() };
    if parser.reader.eat("[")? {
        loop {
            let name = parser.reader.word()?;
            parser.reader.expect("=")?;
            let value = parser.ternary()?;
            parser.shared.push((name, value));
            if !parser.reader.eat(",")? {
                break;
            }
        }
        parser.reader.expect("]")?;
    }
    parser.ternary()
}

struct ExprParser<'r, 'a, 'p> {
    reader: &'r mut Reader<'a>,
    pool: &'p mut Pool,
    tensor: &'p TensorLookup<'p>,
    shared: Vec<(String, ExprId)>,
}

impl ExprParser<'_, '_, '_> {
    fn ternary(&mut self) -> Result<ExprId, ParseError> {
        self.reader.depth += 1;
        if self.reader.depth > MAX_DEPTH {
            return self.reader.error("nested too deeply");
        }
        let c = self.infix(1)?;
        let value = if self.reader.eat("?")? {
            let a = self.infix(1)?;
            self.reader.expect(":")?;
            let b = self.ternary()?;
            self.typed(c, Ty::Bool)?;
            self.same(a, b)?;
            self.pool.select(c, a, b)
        } else {
            c
        };
        self.reader.depth -= 1;
        Ok(value)
    }

    fn infix(&mut self, min: u8) -> Result<ExprId, ParseError> {
        let mut left = self.prefix()?;
        while let Some((op, level)) = self.operator()? {
            if level < min {
                break;
            }
            self.reader.next()?;
            let right = self.infix(level + 1)?;
            left = self.make(op, left, right)?;
        }
        Ok(left)
    }

    fn operator(&mut self) -> Result<Option<(BinaryOp, u8)>, ParseError> {
        use BinaryOp::*;
        let text = match self.reader.peek()? {
            Some(Token::Sym(s)) => s.to_string(),
            Some(Token::Word(w)) => w,
            _ => return Ok(None),
        };
        let ops = [Or, And, Lt, Le, Eq, Ne, Add, Sub, Mul, Div, IDiv, Mod];
        Ok(ops
            .into_iter()
            .find_map(|op| infix(op).filter(|(_, sym)| *sym == text).map(|(level, _)| (op, level))))
    }

    fn make(&mut self, op: BinaryOp, a: ExprId, b: ExprId) -> Result<ExprId, ParseError> {
        use BinaryOp::*;
        self.same(a, b)?;
        let ty = self.pool.ty(a);
        let fits = match op {
            And | Or => ty == Ty::Bool,
            IDiv | Mod => ty == Ty::Int,
            Div | Pow => ty == Ty::Float,
            Eq | Ne => true,
            _ => ty != Ty::Bool,
        };
        if !fits {
            return self.reader.error(format!("{op:?} does not take operands of type {ty:?}"));
        }
        Ok(self.pool.binary(op, a, b))
    }

    fn same(&self, a: ExprId, b: ExprId) -> Result<(), ParseError> {
        if self.pool.ty(a) == self.pool.ty(b) {
            return Ok(());
        }
        self.reader.error(format!("operands of types {:?} and {:?}", self.pool.ty(a), self.pool.ty(b)))
    }

    fn typed(&self, x: ExprId, ty: Ty) -> Result<(), ParseError> {
        if self.pool.ty(x) == ty { Ok(()) } else { self.reader.error(format!("expected {ty:?}")) }
    }

    fn prefix(&mut self) -> Result<ExprId, ParseError> {
        self.reader.depth += 1;
        if self.reader.depth > MAX_DEPTH {
            return self.reader.error("nested too deeply");
        }
        let value = if self.reader.eat("!")? {
            let x = self.prefix()?;
            self.typed(x, Ty::Bool)?;
            self.pool.not(x)
        } else if self.reader.eat("-")? {
            self.negated()?
        } else {
            self.atom()?
        };
        self.reader.depth -= 1;
        Ok(value)
    }

    fn negated(&mut self) -> Result<ExprId, ParseError> {
        if self.reader.eat_min_magnitude() {
            return Ok(self.pool.int(i64::MIN));
        }
        if let Some(Token::Int(x)) = self.reader.peek()? {
            self.reader.next()?;
            return Ok(self.pool.int(-x));
        }
        let x = self.prefix()?;
        if self.pool.ty(x) == Ty::Bool {
            return self.reader.error("`-` of a bool");
        }
        Ok(self.pool.unary(UnaryOp::Neg, x))
    }

    fn atom(&mut self) -> Result<ExprId, ParseError> {
        if self.reader.eat("(")? {
            let x = self.ternary()?;
            self.reader.expect(")")?;
            return Ok(x);
        }
        match self.reader.peek()? {
            Some(Token::Int(x)) => {
                self.reader.next()?;
                Ok(self.pool.int(x))
            }
            Some(Token::Float(x)) => {
                self.reader.next()?;
                Ok(self.pool.float(x))
            }
            Some(Token::Word(w)) => {
                self.reader.next()?;
                self.name(&w)
            }
            _ => self.reader.expected("an expression"),
        }
    }

    fn name(&mut self, w: &str) -> Result<ExprId, ParseError> {
        match w {
            "true" | "false" => return Ok(self.pool.bool(w == "true")),
            "inf" => return Ok(self.pool.float(f64::INFINITY)),
            "nan" => return Ok(self.pool.float(f64::NAN)),
            _ => {}
        }
        if let Some((_, value)) = self.shared.iter().find(|(name, _)| name == w) {
            return Ok(*value);
        }
        if self.reader.eat("(")? {
            let args = self.list(")")?;
            return self.call(w, &args);
        }
        if self.reader.eat("[")? {
            let Some((id, ty)) = (self.tensor)(w) else {
                return self.reader.error(format!("no tensor `{w}`"));
            };
            let idx = self.list("]")?;
            for &x in &idx {
                self.typed(x, Ty::Int)?;
            }
            return Ok(self.pool.load(id, idx, ty));
        }
        match self.pool.find_var(w) {
            Some(v) => Ok(self.pool.var(v)),
            None => self.reader.error(format!("no variable `{w}`")),
        }
    }

    fn list(&mut self, close: &str) -> Result<Vec<ExprId>, ParseError> {
        let mut items = Vec::new();
        if self.reader.eat(close)? {
            return Ok(items);
        }
        loop {
            items.push(self.ternary()?);
            if !self.reader.eat(",")? {
                break;
            }
        }
        self.reader.expect(close)?;
        Ok(items)
    }

    fn call(&mut self, name: &str, args: &[ExprId]) -> Result<ExprId, ParseError> {
        if let (Some((_, op)), [x]) = (UNARY_CALLS.iter().find(|(n, _)| *n == name), args) {
            let wanted = match op {
                UnaryOp::Abs => self.pool.ty(*x),
                UnaryOp::ToFloat => Ty::Int,
                _ => Ty::Float,
            };
            self.typed(*x, wanted)?;
            return Ok(self.pool.unary(*op, *x));
        }
        match (name, args) {
            ("min", [a, b]) => self.make(BinaryOp::Min, *a, *b),
            ("max", [a, b]) => self.make(BinaryOp::Max, *a, *b),
            ("pow", [a, b]) => self.make(BinaryOp::Pow, *a, *b),
            ("rand_block", [a, b, c, d, e, f]) => {
                for x in args {
                    self.typed(*x, Ty::Int)?;
                }
                Ok(self.pool.intern(Op::RandBlock(Box::new([*a, *b, *c, *d, *e, *f]))))
            }
            ("rand_block_except", [a, b, c, d, e, f, g]) => {
                for x in &args[..6] {
                    self.typed(*x, Ty::Int)?;
                }
                self.typed(*g, Ty::Bool)?;
                Ok(self.pool.intern(Op::RandBlockExcept(Box::new([*a, *b, *c, *d, *e, *f, *g]))))
            }
            _ => self.reader.error(format!("no function `{name}` of {} operands", args.len())),
        }
    }
}
