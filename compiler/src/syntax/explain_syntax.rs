//! Turns a parser error into words: what was expected, what was found, and the likely fix.
//!
//! Comes in: the piece of text that did not parse, its tokens, and pest's error at its furthest position. Goes
//! out: one diagnostic with a caret. Habits from other languages are recognised first; an interval, a bracket left
//! open and an operand left out have words of their own; what remains is worded from what the grammar could have
//! taken. Nothing is parsed here.

use std::sync::{Mutex, PoisonError};

use pest::Parser as _;
use pest::error::{Error, ErrorVariant, InputLocation};

use super::clause::CLAUSES;
use super::parse::{Grammar, Rule};
use super::token::{Token, TokenKind};
use crate::diagnostic::{Code, Diagnostic, SourceId, Span};

/// What did not parse.
pub(super) struct Piece<'a> {
    /// The whole text of the file.
    pub text: &'a str,
    /// Which file.
    pub source: SourceId,
    /// The tokens of the piece, without comments.
    pub tokens: &'a [Token<'a>],
    /// First byte of the piece.
    pub start: usize,
}

impl Piece<'_> {
    fn span(&self, start: usize, end: usize) -> Span {
        Span { source: self.source, start, end }
    }

    fn of(&self, n: usize) -> Span {
        self.tokens.get(n).map_or(self.span(self.end(), self.end()), |t| self.span(t.start, t.end()))
    }

    /// One past the last token.
    fn end(&self) -> usize {
        self.tokens.last().map_or(self.start, Token::end)
    }

    fn is(&self, n: usize, text: &str) -> bool {
        self.tokens.get(n).is_some_and(|t| t.text == text && t.kind != TokenKind::Str)
    }

    /// Does a line begin with token `n`?
    fn begins_line(&self, n: usize) -> bool {
        let Some(token) = self.tokens.get(n) else { return false };
        let line = self.text[..token.start].rfind('\n').map_or(0, |at| at + 1);
        self.text[line..token.start].trim().is_empty()
    }

    /// Is the token before `n` this one?
    fn follows(&self, n: usize, text: &str) -> bool {
        n.checked_sub(1).is_some_and(|m| self.is(m, text))
    }

    /// The brackets open before token `n`, outermost first.
    fn open_before(&self, n: usize) -> Vec<usize> {
        let mut open = Vec::new();
        for (m, token) in self.tokens.iter().enumerate().take(n) {
            if token.is_open() {
                open.push(m);
            } else if token.is_close() {
                open.pop();
            }
        }
        open
    }
}

/// Byte offset of a pest error in the text that was parsed.
fn location(error: &Error<Rule>) -> usize {
    match error.location {
        InputLocation::Pos(p) => p,
        InputLocation::Span((p, _)) => p,
    }
}

/// The error of a text that does not parse, with the punctuation that was tried: pest counts rules alone, unless
/// asked for details, and can be asked for the whole process only, hence the lock.
pub(super) fn detailed(rule: Rule, text: &str) -> Option<Error<Rule>> {
    static DETAIL: Mutex<()> = Mutex::new(());
    let _guard = DETAIL.lock().unwrap_or_else(PoisonError::into_inner);
    pest::set_error_detail(true);
    let result = Grammar::parse(rule, text);
    pest::set_error_detail(false);
    result.err()
}

/// The diagnostic for a pest error in a text that begins at byte `base` of the file.
pub(super) fn explain(piece: &Piece, base: usize, error: &Error<Rule>) -> Diagnostic {
    let at_rule = piece.tokens.partition_point(|t| t.end() <= base + location(error));
    let attempts = error.parse_attempts();
    let at_token = attempts.map_or(0, |a| piece.tokens.partition_point(|t| t.end() <= base + a.max_position));
    let n = at_rule.max(at_token);
    if let ErrorVariant::CustomError { message } = &error.variant {
        // The limits of `limits.rs` lie far below those of pest; said plainly if they should not.
        return Diagnostic::error(Code::TooLarge, piece.of(n), format!("the parser gave up: {message}"));
    }
    foreign(piece, n)
        .or_else(|| strange(piece, n))
        .or_else(|| interval(piece, n))
        .or_else(|| unclosed(piece, n))
        .unwrap_or_else(|| general(piece, n, error, at_token > at_rule))
}

/// The diagnostic for a token outside of every item.
pub(super) fn outside(piece: &Piece, span: Span) -> Diagnostic {
    strange(piece, 0).unwrap_or_else(|| {
        let found = piece.text.get(span.start..span.end).unwrap_or("");
        Diagnostic::error(
            Code::Syntax,
            span,
            format!("expected an import, a definition or a kernel, found `{found}`"),
        )
        .label("nothing of the file begins so")
    })
}

/// Operators of other languages, with their form here: what stands at token `n` (or began before it).
fn foreign(piece: &Piece, n: usize) -> Option<Diagnostic> {
    let found = |first: usize, last: usize, here: &str, why: &str| {
        let span = piece.of(first).to(piece.of(last));
        let text = piece.text.get(span.start..span.end).unwrap_or("");
        let d = Diagnostic::error(Code::ForeignOperator, span, format!("there is no operator `{text}`"));
        Some(d.label(why.to_string()).suggest(span, here, format!("write `{here}`")))
    };
    let pair = |a: &str, b: &str| -> Option<(usize, usize)> {
        // Without white space between them: `x * *y` lacks an operand, `x ** y` is a habit.
        let joined =
            |m: usize| piece.is(m, a) && piece.is(m + 1, b) && piece.of(m).end == piece.of(m + 1).start;
        [n.checked_sub(1), Some(n)].into_iter().flatten().find(|m| joined(*m)).map(|m| (m, m + 1))
    };
    let doubled = [
        ("&", "&", "&", "both must hold: `&`"),
        ("|", "|", "|", "one must hold: `|`"),
        ("*", "*", "^", "power is `^`"),
        ("<", ">", "!=", "inequality is `!=`"),
        ("==", "=", "==", "equality is `==`"),
        ("!=", "=", "!=", "inequality is `!=`"),
        (":", "=", "=", "a definition is `=`"),
        ("=", ">", ">=", "at least is `>=`"),
        ("=", "<", "<=", "at most is `<=`"),
    ];
    for (a, b, here, why) in doubled {
        if let Some((first, last)) = pair(a, b) {
            return found(first, last, here, why);
        }
    }
    let token = piece.tokens.get(n)?;
    // `not` and `if` are names to the grammar, which then stumbles over the operand.
    let n = if piece.follows(n, "not") || piece.follows(n, "if") { n - 1 } else { n };
    let token = piece.tokens.get(n).unwrap_or(token);
    match token.text {
        "and" => found(n, n, "&", "both must hold: `&`"),
        "or" => found(n, n, "|", "one must hold: `|`"),
        "not" => found(n, n, "!", "negation is `!`"),
        "%" => found(n, n, "mod", "the remainder is `mod`"),
        "~" => found(n, n, "!", "negation is `!`"),
        "≤" => found(n, n, "<=", "at most is `<=`"),
        "≥" => found(n, n, ">=", "at least is `>=`"),
        "≠" => found(n, n, "!=", "inequality is `!=`"),
        "∧" => found(n, n, "&", "both must hold: `&`"),
        "∨" => found(n, n, "|", "one must hold: `|`"),
        "¬" => found(n, n, "!", "negation is `!`"),
        "∈" => found(n, n, "in", "membership is `in`"),
        "×" | "·" => found(n, n, "*", "the product is `*`"),
        "−" => found(n, n, "-", "minus is the ASCII `-`"),
        "=" if n > 1 && piece.tokens[n - 1].ends_operand() => {
            let d = Diagnostic::error(Code::ForeignOperator, piece.of(n), "`=` does not compare")
                .label("a definition or a named argument cannot stand here");
            Some(d.suggest(piece.of(n), "==", "compare with `==`"))
        }
        "if" | "else" | "where" => Some(
            Diagnostic::error(Code::ForeignOperator, piece.of(n), format!("there is no `{}`", token.text))
                .label("a choice is written otherwise")
                .help("write `condition ? value : other`"),
        ),
        _ => None,
    }
}

/// Characters that have no meaning, terminators, comments and strings of other languages.
fn strange(piece: &Piece, n: usize) -> Option<Diagnostic> {
    let token = piece.tokens.get(n)?;
    let error = |message: String, label: &str| {
        Diagnostic::error(Code::Syntax, piece.of(n), message).label(label.to_string())
    };
    match token.text {
        ";" => {
            let d = error("no terminator is needed".into(), "a clause ends where the next keyword begins");
            Some(d.suggest(piece.of(n), "", "remove it"))
        }
        "#" => {
            let d = error("`#` has no meaning here".into(), "a comment begins with `//`");
            Some(d.suggest(piece.of(n), "//", "begin the comment with `//`"))
        }
        "*" if piece.follows(n, "/") => {
            Some(error("there are no block comments".into(), "`/*` has no meaning"))
                .map(|d| d.help("begin each line of the comment with `//`"))
        }
        "'" => Some(error("strings stand in double quotes".into(), "`'` has no meaning here")),
        "." if piece.tokens.get(n + 1).is_some_and(|t| t.kind == TokenKind::Number) => {
            let d = error("a number begins with a digit".into(), "write a digit before the point");
            Some(d.suggest(piece.of(n), "0.", "write `0.`"))
        }
        "." => Some(error("`.` has no meaning here".into(), "neither fields nor methods exist"))
            .map(|d| d.help("definitions of `use std.mask` are called by their own name: `causal()`")),
        text if token.kind == TokenKind::Punct && !is_known(text) => {
            let shown: String = text.chars().flat_map(char::escape_debug).collect();
            Some(error(format!("the character `{shown}` has no meaning"), "remove or replace it"))
        }
        text if token.kind == TokenKind::Number && !is_number(text) => Some(
            error(format!("`{text}` is not a number"), "after the digits only a suffix may follow")
                .help("numbers read `64`, `0.5`, `1e-5`, `10K`, `2M`, `4Ki`, `1Mi`"),
        ),
        _ => None,
    }
}

fn is_known(punct: &str) -> bool {
    matches!(punct, "<=" | ">=" | "==" | "!=" | "..")
        || punct.len() == 1 && "+-*/@^&|!<>?:,=()[]{}".contains(punct)
}

fn is_number(text: &str) -> bool {
    let digits = text.trim_end_matches(['i', 'K', 'M']);
    let suffix = &text[digits.len()..];
    matches!(suffix, "" | "K" | "M" | "Ki" | "Mi") && digits.parse::<f64>().is_ok()
}

/// An interval that is broken: `in` without a bracket, no comma, no closing bracket.
fn interval(piece: &Piece, n: usize) -> Option<Diagnostic> {
    let help = "an interval reads `j in (lo, hi]`: `(` and `)` leave the end out, `[` and `]` take it in";
    if piece.follows(n, "in") && !piece.is(n, "(") && !piece.is(n, "[") {
        let d = Diagnostic::error(Code::BrokenInterval, piece.of(n), "`in` takes an interval");
        return Some(d.label("expected `(` or `[`").help(help));
    }
    let open = *piece.open_before(n).last()?;
    if !piece.follows(open, "in") {
        return None;
    }
    let commas = commas_of(piece, open, n);
    let before_comma = commas == 0 && piece.tokens.get(n).is_none_or(|t| t.is_close() || t.is(".."));
    if before_comma && piece.tokens.get(n.wrapping_sub(1)).is_some_and(Token::ends_operand) {
        let d = Diagnostic::error(Code::BrokenInterval, piece.of(n), "this interval has one end")
            .label("expected `,` and the upper end")
            .context(piece.of(open), "the interval begins here");
        return Some(d.help(help));
    }
    if commas == 1 && piece.tokens[n - 1].ends_operand() && !piece.is(n, ",") {
        let d = Diagnostic::error(Code::BrokenInterval, piece.of(n), "this interval is not closed")
            .label("expected `]` or `)`")
            .context(piece.of(open), "the interval begins here");
        return Some(d.help(help));
    }
    None
}

/// Commas directly between the bracket at `open` and token `n`.
fn commas_of(piece: &Piece, open: usize, n: usize) -> usize {
    let (mut depth, mut commas) = (0usize, 0);
    for token in &piece.tokens[open + 1..n] {
        if token.is_open() {
            depth += 1;
        } else if token.is_close() {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && token.is(",") {
            commas += 1;
        }
    }
    commas
}

/// A bracket that is open where the piece ends, or closed by the wrong one.
fn unclosed(piece: &Piece, n: usize) -> Option<Diagnostic> {
    let open = piece.open_before(n).last().copied();
    let after_operand = n > 0 && (piece.tokens[n - 1].ends_operand() || piece.tokens[n - 1].is_open());
    let Some(open) = open else {
        let token = piece.tokens.get(n).filter(|t| t.is_close() && after_operand)?;
        let d =
            Diagnostic::error(Code::Unclosed, piece.of(n), format!("this `{}` closes nothing", token.text));
        return Some(d.label("no bracket is open here").suggest(piece.of(n), "", "remove it"));
    };
    let bracket = piece.tokens[open].text;
    let partner = match bracket {
        "(" => ")",
        "[" => "]",
        _ => "}",
    };
    let at_end = n >= piece.tokens.len();
    let is_wrong = piece.tokens.get(n).is_some_and(|t| t.is_close() && t.text != partner);
    if !after_operand || !at_end && !is_wrong {
        return None;
    }
    let d = Diagnostic::error(Code::Unclosed, piece.of(open), format!("this `{bracket}` is never closed"))
        .label("opened here")
        .context(piece.of(n), format!("expected `{partner}`"));
    let insert = piece.span(piece.tokens[n - 1].end(), piece.tokens[n - 1].end());
    Some(if is_wrong {
        d.suggest(piece.of(n), partner, format!("close it with `{partner}`"))
    } else {
        d.suggest(insert, partner, "close it")
    })
}

/// Whatever is left: what the grammar could have taken.
fn general(piece: &Piece, n: usize, error: &Error<Rule>, by_token: bool) -> Diagnostic {
    let keyword = piece.tokens.first().map_or("", |t| t.text);
    let in_brackets = piece.open_before(n).last().map(|open| piece.tokens[*open].text);
    let expected = if by_token { punctuation(error) } else { expectation(error, in_brackets) };
    let found = match piece.tokens.get(n) {
        None => "the end of the clause".to_string(),
        Some(token) => format!("`{}`", token.text),
    };
    let message = match &expected {
        Some(expected) => format!("expected {expected}, found {found}"),
        None => format!("{found} does not continue `{keyword}`"),
    };
    let label = expected.map_or("unexpected".to_string(), |expected| format!("expected {expected}"));
    let d = Diagnostic::error(Code::Syntax, piece.of(n), message).label(label);
    let is_item = matches!(keyword, "use" | "fn" | "position" | "attention" | "recurrence");
    let is_def = is_item || piece.tokens.get(1).is_some_and(|t| t.kind == TokenKind::Word);
    // A word that begins clauses, in the place of one: that is the clause that was meant.
    let begun = piece.tokens.get(n).filter(|t| n > 0 && piece.begins_line(n) && CLAUSES.contains(&t.text));
    match (begun.and_then(|t| form(t.text, false)), form(keyword, is_def)) {
        (Some(form), _) | (None, Some(form)) => d.help(format!("the form is {form}")),
        (None, None) => d,
    }
}

/// What the grammar could have taken, in human words, without repetition; `None` if only punctuation fits.
fn expectation(error: &Error<Rule>, bracket: Option<&str>) -> Option<String> {
    let ErrorVariant::ParsingError { positives, .. } = &error.variant else { return None };
    let mut words: Vec<&'static str> = Vec::new();
    for rule in positives {
        let word = describe(*rule);
        if !word.is_empty() && !words.contains(&word) {
            words.push(word);
        }
    }
    if words.contains(&"an expression") {
        words.retain(|w| *w != "a name");
    }
    if words.contains(&"an operator") {
        words.retain(|w| *w != "arguments in parentheses");
        match bracket {
            Some("(") => words.extend(["`,`", "`)`"]),
            Some("[") => words.extend(["`,`", "`]`"]),
            _ => {}
        }
    }
    alternatives(&words)
}

/// The punctuation that would have fitted, in quotes.
fn punctuation(error: &Error<Rule>) -> Option<String> {
    let attempts = error.parse_attempts()?;
    let mut words = Vec::new();
    for token in attempts.expected_tokens() {
        let token = token.to_string();
        if [",", ":", "=", "(", ")", "[", "]", "{", "}", ".."].contains(&token.as_str()) {
            words.push(format!("`{token}`"));
        }
    }
    alternatives(&words)
}

fn alternatives<T: AsRef<str>>(words: &[T]) -> Option<String> {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        [] => None,
        [one] => Some((*one).into()),
        [head @ .., last] => Some(format!("{} or {last}", head.join(", "))),
    }
}

fn describe(rule: Rule) -> &'static str {
    use Rule::*;
    match rule {
        expr | num | str | call | paren | list | neg | not => "an expression",
        ident | word | path | names | ty_name | arg_name => "a name",
        ternary | or | and | le | ge | eq | ne | lt | gt | add | sub | mul | div | idiv | mod_ | matmul
        | pow | index | within | DIV | MOD | IN => "an operator",
        clause | dims | heads | align | mode | cache | append | input | map_ | rotate | let_ | select
        | branch | state | score | mask | weight | drop | numerics | distribute | schedule | ensure
        | test | return_ | update | one_clause => "a clause",
        attr | learn | sorted | monotone | optional | paged | contiguous | scale | layout => "an attribute",
        file | import | def | kernel | one_def | one_import => "`use`, a definition or a kernel",
        type_ => "a type such as `float[B, H, S, D]`",
        open => "`[` or `(`",
        close => "`]` or `)`",
        args => "arguments in parentheses",
        arg => "an argument",
        options | option => "settings in braces",
        sig | param => "parameters",
        dim | upto => "a dim",
        AT => "`at`",
        BY => "`by`",
        PER => "`per`",
        EOI => "the next clause",
        _ => "",
    }
}

/// How a clause or an item reads.
pub(super) fn form(keyword: &str, is_item: bool) -> Option<&'static str> {
    Some(match (keyword, is_item) {
        ("use", _) => "`use std.mask` or `use \"other.attn\"`",
        ("mask", true) => "`mask name(x) = condition`",
        ("score", true) => "`score name(x) = number`",
        ("fn", _) => "`fn name(x) = value`",
        ("position", _) => "`position name(f) = [first, second]`",
        ("attention", _) => "`attention name(n: int = 1) { ... }`",
        ("recurrence", _) => "`recurrence name(n: int = 1) { ... }`",
        ("dims", _) => "`dims B, H = 8, Sq = 1..8`",
        ("heads", _) => "`heads grouped`, `interleaved`, `mqa` or `map by h mod 2`",
        ("align", _) => "`align bottom_right`, `top_left` or `none`",
        ("mode", _) => "`mode decode`",
        ("input", _) => "`input q, k : float[B, H, S, D]`, then attributes",
        ("cache", _) => "`cache k, v : float[B, H, S, D] paged (size = 16, table = pages, len = kv_len)`",
        ("append", _) => "`append k_new, v_new`",
        ("map", _) => "`map q, k by silu`",
        ("rotate", _) => "`rotate q, k by rope(theta = 10K) at i`",
        ("let", _) => "`let name = value`",
        ("select", _) => "`select j = topk(x, n = 8)`",
        ("branch", _) => "`branch name { ... }`",
        ("state", _) => "`state s : f32[D, Dv] = s0`",
        ("score", false) => "`score = number`",
        ("mask", false) => "`mask = condition`",
        ("weight", _) => "`weight = softmax(score)`",
        ("dropout", _) => "`dropout (0.1, seed, offset)`",
        ("numerics", _) => "`numerics { dot = exact }`",
        ("distribute", _) => "`distribute ring(axis = S)`",
        ("schedule", _) => "`schedule cpu { tile = [64, 64] }`",
        ("ensure", _) => "`ensure rows_nonempty` or `ensure work <= 0.16 at (S = 4096)`",
        ("test", _) => "`test (S = [1, 17, 256])`",
        ("return", _) => "`return weight @ v, lse`",
        _ => return None,
    })
}
