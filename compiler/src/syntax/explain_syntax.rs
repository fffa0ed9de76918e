//! Turns a parser error into words: what was expected, what was found, and the likely fix.

use pest::error::{Error, ErrorVariant};

use super::clause::CLAUSES;
use super::parse::Rule;
use super::scan::word_len;
use super::words::nearest;
use crate::diagnostic::{Code, Diagnostic, SourceId, Span};

/// The diagnostic for a pest error at byte `at`, in a piece that starts at `piece`.
pub(super) fn explain(
    text: &str,
    source: SourceId,
    at: usize,
    piece: usize,
    error: &Error<Rule>,
) -> Diagnostic {
    let at = at.min(text.len());
    let found = token_at(text, at);
    let span = Span { source, start: at, end: at + found.len() };
    let piece_word = &text[at..at + word_len(&text[at..])];
    let line_start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let starts_line = at == piece || text[line_start..at].trim().is_empty();
    let defines = text[at + piece_word.len()..].trim_start().starts_with('=') || at == piece;
    if starts_line && defines && !CLAUSES.contains(&piece_word) && !piece_word.is_empty() {
        let d = Diagnostic::error(
            Code::UnknownClause,
            span,
            format!("no clause or item begins with `{piece_word}`"),
        );
        let words = CLAUSES.iter().copied().chain(["use", "fn", "position", "attention", "recurrence"]);
        return match nearest(piece_word, words) {
            Some(word) => d.suggest(span, word, format!("did you mean `{word}`?")),
            None => d.label("expected a keyword"),
        };
    }
    let expected = expectation(error);
    let found_text = if found.is_empty() { "the end of the text".to_string() } else { format!("`{found}`") };
    let message = format!("expected {expected}, found {found_text}");
    let d = Diagnostic::error(Code::Syntax, span, message).label(format!("expected {expected}"));
    with_fix(d, text, at, span)
}

/// Habits from other languages, and their form here.
fn with_fix(d: Diagnostic, text: &str, at: usize, span: Span) -> Diagnostic {
    let rest = &text[at..];
    let before = text[..at].trim_end();
    let wider =
        |back: usize, ahead: usize| Span { source: span.source, start: before.len() - back, end: at + ahead };
    if rest.starts_with('&') && before.ends_with('&') {
        return d.suggest(wider(1, 1), "&", "conjunction is `&`");
    }
    if rest.starts_with("&&") {
        return d.suggest(wider(0, 2), " &", "conjunction is `&`");
    }
    if rest.starts_with('|') && before.ends_with('|') {
        return d.suggest(wider(1, 1), "|", "disjunction is `|`");
    }
    if rest.starts_with("||") {
        return d.suggest(wider(0, 2), " |", "disjunction is `|`");
    }
    if rest.starts_with('=') && !rest.starts_with("==") {
        let one = Span { source: span.source, start: at, end: at + 1 };
        return d.suggest(one, "==", "equality is `==`");
    }
    if rest.starts_with(';') {
        let one = Span { source: span.source, start: at, end: at + 1 };
        return d.suggest(one, "", "no terminator is needed");
    }
    if rest.starts_with('%') {
        let one = Span { source: span.source, start: at, end: at + 1 };
        return d.suggest(one, "mod", "the remainder is `mod`");
    }
    match &rest[..word_len(rest)] {
        "and" => d.suggest(span, "&", "conjunction is `&`"),
        "or" => d.suggest(span, "|", "disjunction is `|`"),
        "not" => d.suggest(span, "!", "negation is `!`"),
        _ => d,
    }
}

/// The word, number or character at a position.
fn token_at(text: &str, at: usize) -> &str {
    let rest = &text[at..];
    let word = word_len(rest);
    let len = if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) };
    rest[..len].trim_end()
}

/// What the grammar could have taken, in human words, without repetition.
fn expectation(error: &Error<Rule>) -> String {
    let ErrorVariant::ParsingError { positives, .. } = &error.variant else { return "something else".into() };
    let mut words: Vec<&'static str> = Vec::new();
    for rule in positives {
        let word = describe(*rule);
        if !word.is_empty() && !words.contains(&word) {
            words.push(word);
        }
    }
    match words.as_slice() {
        [] => "something else".into(),
        [one] => (*one).into(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
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
        args => "`(`",
        arg => "an argument",
        options | option => "options in braces",
        sig | param => "parameters",
        dim | upto => "a dim",
        AT => "`at`",
        BY => "`by`",
        PER => "`per`",
        EOI => "the end of the clause",
        _ => "",
    }
}
