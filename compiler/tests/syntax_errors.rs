//! What is said about broken text: the code, the place of the caret, the words, and the fix, which must parse.

use attn_compiler::diagnostic::render::{Style, human, line_column};
use attn_compiler::diagnostic::{Code, Diagnostic, SourceMap};
use attn_compiler::syntax::parse;

struct Case {
    /// The broken text.
    text: &'static str,
    code: Code,
    /// Line and column of the caret.
    at: (usize, usize),
    /// Part of what is printed.
    says: &'static str,
    /// The suggested edit makes the text parse.
    fixes: bool,
}

fn diagnose(text: &str) -> (Vec<Diagnostic>, String) {
    let mut map = SourceMap::default();
    let id = map.add("a.attn", text);
    let (_, diagnostics) = parse(&map, id);
    let shown =
        diagnostics.items().iter().map(|d| human(&map, d, Style { color: false, ascii: true })).collect();
    (diagnostics.items().to_vec(), shown)
}

const fn case(text: &'static str, code: Code, at: (usize, usize), says: &'static str, fixes: bool) -> Case {
    Case { text, code, at, says, fixes }
}

const CASES: &[Case] = &[
    // Operators of other languages.
    case("mask f() = j <= i && j > 4", Code::ForeignOperator, (1, 19), "write `&`", true),
    case("mask f() = j <= i || j > 4", Code::ForeignOperator, (1, 19), "write `|`", true),
    case("mask f() = j <= i and j > 4", Code::ForeignOperator, (1, 19), "write `&`", true),
    case("mask f() = j <= i or j > 4", Code::ForeignOperator, (1, 19), "write `|`", true),
    case("mask f() = not j", Code::ForeignOperator, (1, 12), "write `!`", true),
    case("fn f(x) = x % 2", Code::ForeignOperator, (1, 13), "write `mod`", true),
    case("fn f(x) = x ** 2", Code::ForeignOperator, (1, 13), "write `^`", true),
    case("mask f() = j \u{2264} i", Code::ForeignOperator, (1, 14), "write `<=`", true),
    case("mask f() = j <> i", Code::ForeignOperator, (1, 14), "write `!=`", true),
    case("mask f() = (j = i)", Code::ForeignOperator, (1, 15), "compare with `==`", true),
    case("attention a {\n  mask = j = i\n}", Code::ForeignOperator, (2, 12), "compare with `==`", true),
    case("fn f(x) = if x > 0 then 1", Code::ForeignOperator, (1, 11), "condition ? value : other", false),
    // Chains.
    case("mask f() = 0 <= j < i", Code::ComparisonChain, (1, 12), "compare twice", true),
    case("mask f(n) = j in [0, i] in [0, n]", Code::ComparisonChain, (1, 13), "", false),
    // Intervals.
    case("mask f(W) = j in i - W", Code::BrokenInterval, (1, 18), "expected `(` or `[`", false),
    case("mask f(W) = j in (i - W]", Code::BrokenInterval, (1, 24), "one end", false),
    case("mask f(W) = j in (i - W, i", Code::BrokenInterval, (1, 27), "not closed", false),
    // Brackets and strings.
    case("mask f() = (j <= i", Code::Unclosed, (1, 12), "never closed", true),
    case("mask f() = (j <= i]", Code::Unclosed, (1, 12), "close it with `)`", true),
    case("mask f() = j <= i)", Code::Unclosed, (1, 18), "closes nothing", true),
    case("use \"other.attn", Code::Unclosed, (1, 5), "string is never closed", true),
    case("attention a {\n  mask = j <= i\n", Code::Unclosed, (1, 13), "never closed", true),
    case("attention a {\n}\n}\n", Code::Unclosed, (3, 1), "closes nothing", true),
    case(
        "attention a {\n  weight = softmax(score\n  return lse\n}",
        Code::Unclosed,
        (2, 19),
        "close it",
        true,
    ),
    // Missing pieces.
    case("mask f() = ", Code::Syntax, (1, 11), "expected an expression", false),
    case(
        "attention a {\n  mask =\n  weight = score\n}",
        Code::Syntax,
        (2, 9),
        "expected an expression",
        false,
    ),
    case("mask f() = j <=", Code::Syntax, (1, 16), "expected an expression, found the end", false),
    case("attention a {\n  mask = j <= * i\n}", Code::Syntax, (2, 15), "found `*`", false),
    case(
        "attention a {\n  input q float[B]\n}",
        Code::Syntax,
        (2, 11),
        "expected `,` or `:`, found `float`",
        false,
    ),
    case("attention a {\n  rotate q by rope()\n}", Code::Syntax, (2, 21), "expected `at`", false),
    case("mask f() = f(1 2)", Code::Syntax, (1, 16), "an operator, `,` or `)`", false),
    case("attention a", Code::Syntax, (1, 11), "in braces", false),
    // Words.
    case("attention a {\n  scroe = 1\n}", Code::UnknownClause, (2, 3), "did you mean `score`", true),
    case("attention a {\n  inptu q : float[B]\n}", Code::UnknownClause, (2, 3), "did you mean `input`", true),
    case("atention a {\n}", Code::UnknownClause, (1, 1), "did you mean `attention`", true),
    case("score = 1", Code::UnknownClause, (1, 1), "outside of a kernel", false),
    case("attention a {\n  zzz = 1\n}", Code::UnknownClause, (2, 3), "let zzz", false),
    // Characters.
    case("fn f(x) = x;", Code::Syntax, (1, 12), "no terminator is needed", true),
    case("fn f(x) = x + .5", Code::Syntax, (1, 15), "begins with a digit", true),
    case("fn f(x) = x $ 2", Code::Syntax, (1, 13), "`$` has no meaning", false),
    case("fn f(x) = x + \0", Code::Syntax, (1, 15), "has no meaning", false),
    case("# head\nfn f(x) = x", Code::Syntax, (1, 1), "begins with `//`", true),
    case("fn f(x) = 10k", Code::Syntax, (1, 11), "is not a number", false),
    // Numbers.
    case("fn f(x) = 99999999999999999999", Code::BadNumber, (1, 11), "does not fit", false),
    case("fn f(x) = 9e999", Code::BadNumber, (1, 11), "does not fit", false),
];

#[test]
fn broken_texts_get_the_right_code_caret_words_and_fix() {
    let mut wrong = Vec::new();
    for case in CASES {
        let (list, shown) = diagnose(case.text);
        let Some(first) = list.first() else {
            wrong.push(format!("accepted: {}", case.text));
            continue;
        };
        let at = line_column(case.text, first.span().start);
        if (first.code, at) != (case.code, case.at) || !shown.contains(case.says) || list.len() != 1 {
            wrong.push(format!(
                "wanted {:?} {:?} {:?}, got {:?} {at:?}\n{shown}",
                case.code, case.at, case.says, first.code
            ));
        }
        if case.fixes {
            let mut fixed = case.text.to_string();
            let Some(s) = first.suggestions.first() else {
                wrong.push(format!("no fix:\n{shown}"));
                continue;
            };
            fixed.replace_range(s.span.start..s.span.end, &s.replacement);
            let (left, shown) = diagnose(&fixed);
            if !left.is_empty() {
                wrong.push(format!("the fix does not parse: {fixed}\n{shown}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n----\n"));
}

#[test]
fn several_errors_are_reported_and_what_parses_is_kept() {
    let text = "use std.mask\nmask f() = j <\nattention a(n: int = ) {\n  dims B, S\n  score = dot(q, k\n  mask = j && i\n  \
branch x {\n    let y = = 1\n    weight = score\n  }\n  return lse\n}\nfn g(x) = x\nattention b {\n  let z = 1\n";
    let mut map = SourceMap::default();
    let id = map.add("a.attn", text);
    let (file, diagnostics) = parse(&map, id);
    let mut lines: Vec<usize> =
        diagnostics.items().iter().map(|d| line_column(text, d.span().start).0).collect();
    lines.sort_unstable();
    assert_eq!(lines, [2, 3, 5, 6, 8, 14], "{}", diagnose(text).1);
    assert_eq!(file.items.len(), 3, "use, g and b are whole: {file:?}");
}

#[test]
fn every_code_is_explained_by_an_example_that_fails_and_one_that_parses() {
    for code in Code::ALL {
        let text = code.explanation();
        assert!(!text.trim().is_empty(), "{} has no explanation", code.id());
        for (fails, example) in examples(text) {
            let (list, shown) = diagnose(&example);
            let is_syntax = code.id().starts_with("E000");
            if fails && is_syntax {
                assert!(list.iter().any(|d| d.code == *code), "{}: the example shows\n{shown}", code.id());
            } else {
                assert!(list.is_empty(), "{}: an example does not parse\n{shown}", code.id());
            }
        }
        if code.id().starts_with("E000") {
            let kinds: Vec<bool> = examples(text).iter().map(|(fails, _)| *fails).collect();
            assert!(kinds.contains(&true) && kinds.contains(&false), "{} lacks an example", code.id());
        }
    }
}

/// The examples of an explanation: whether each is to fail, and its text.
fn examples(markdown: &str) -> Vec<(bool, String)> {
    let mut out = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in markdown.lines() {
        match (line, &mut open) {
            ("```", Some(_)) => out.extend(open.take()),
            ("```attn", None) => open = Some((false, String::new())),
            ("```attn,fail", None) => open = Some((true, String::new())),
            (line, Some((_, text))) => *text += &format!("{line}\n"),
            _ => {}
        }
    }
    out
}
