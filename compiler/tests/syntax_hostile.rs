//! Texts that no person writes: each must be answered quickly, without a panic and without overflowing the stack.

use std::time::{Duration, Instant};

use attn_compiler::diagnostic::render::{Style, human};
use attn_compiler::diagnostic::{Code, SourceMap};
use attn_compiler::syntax::{format, parse, print};

const MIB: usize = 1 << 20;

/// A clause in a kernel, so that the expression parser is reached.
fn in_mask(expr: &str) -> String {
    format!("attention a {{\n  dims B\n  mask = {expr}\n}}\n")
}

/// Parses on a stack of 2 MiB, as a test thread or a host's thread has, and renders what is said.
fn answer(text: String) -> (Vec<Code>, Duration) {
    let work = move || {
        let started = Instant::now();
        let mut map = SourceMap::default();
        let id = map.add("hostile.attn", text.clone());
        let (file, diagnostics) = parse(&map, id);
        let took = started.elapsed();
        for d in diagnostics.items() {
            assert!(d.span().end <= text.len(), "{d:?}");
        }
        for d in diagnostics.items().iter().take(1) {
            assert!(!human(&map, d, Style { color: false, ascii: true }).is_empty());
        }
        assert!(diagnostics.has_errors() || print::file(&file).len() <= 4 * text.len() + 64);
        let formatted = format(&text);
        assert_eq!(formatted.is_err(), diagnostics.has_errors());
        (diagnostics.items().iter().map(|d| d.code).collect(), took)
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(work).expect("a thread");
    thread.join().expect("no panic")
}

#[test]
fn deep_and_long_texts_are_refused_quickly() {
    let cases = [
        ("parentheses", in_mask(&"(".repeat(100_000))),
        ("closed parentheses", in_mask(&format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000)))),
        ("brackets", in_mask(&"[".repeat(100_000))),
        ("braces", "attention a {".repeat(20_000)),
        ("branches", format!("attention a {{ {} }}", "branch x { ".repeat(10_000))),
        ("minus signs", "-".repeat(MIB)),
        ("minus signs in an expression", in_mask(&"-".repeat(MIB - 100))),
        ("bangs", in_mask(&"!".repeat(100_000))),
        ("a long chain", in_mask(&vec!["a"; 100_000].join(" | "))),
        ("a chain on many lines", in_mask(&vec!["mask"; 100_000].join("\n + "))),
        ("powers", in_mask(&vec!["2"; 100_000].join(" ^ "))),
        ("conditions", in_mask(&"a ? b : ".repeat(50_000))),
        ("nested conditions", in_mask(&"a ? ".repeat(50_000))),
        ("indices", in_mask(&format!("a{}", "[0]".repeat(100_000)))),
        ("intervals", in_mask(&format!("a{}", " in [0, 1]".repeat(50_000)))),
        ("word operators", in_mask(&vec!["a"; 100_000].join(" div "))),
        ("too large", "// x\n".repeat(300_000)),
        ("quotes", "\"".repeat(MIB)),
        ("unclosed braces on lines", "attention a {\n".repeat(50_000)),
        ("broken clauses", format!("attention a {{\n{}}}", "  score = =\n".repeat(60_000))),
        ("broken items", "mask f() = =\n".repeat(60_000)),
        ("stray words", "foo\n".repeat(200_000)),
    ];
    for (name, text) in cases {
        let (codes, took) = answer(text);
        assert!(!codes.is_empty(), "{name} is accepted");
        assert!(took < Duration::from_secs(5), "{name} takes {took:?}");
    }
}

#[test]
fn large_texts_that_are_right_are_accepted_quickly() {
    let cases = [
        ("comments", "// x\n".repeat(200_000)),
        ("white space", " \n".repeat(MIB / 2)),
        ("definitions", "mask f() = j <= i\n".repeat(50_000)),
        ("clauses", format!("attention a {{\n{}}}", "  mask = j <= i & j > 4\n".repeat(40_000))),
        ("one wide clause", format!("attention a {{ dims {} }}", vec!["Abc"; 150_000].join(", "))),
        ("parameters", format!("attention a({}) {{ }}", vec!["n: int"; 100_000].join(", "))),
    ];
    for (name, text) in cases {
        let (codes, took) = answer(text);
        assert_eq!(codes, [], "{name}");
        assert!(took < Duration::from_secs(10), "{name} takes {took:?}");
    }
}

#[test]
fn nesting_up_to_the_limit_is_parsed() {
    let (codes, _) = answer(in_mask(&format!("{}j <= i{}", "(".repeat(120), ")".repeat(120))));
    assert_eq!(codes, []);
    let (codes, _) = answer(in_mask(&vec!["j <= i"; 250].join(" | ")));
    assert_eq!(codes, [], "a chain of `|` is as deep as it is long, whatever its terms are");
}

#[test]
fn strange_characters_are_named_not_fatal() {
    for text in [
        "",
        "\0",
        "attention a {\0}",
        "é",
        "attention é { }",
        "\u{feff}use std.mask",
        "mask f() = \u{2264}",
        "\"",
        "/",
    ] {
        let (codes, _) = answer(text.to_string());
        assert_eq!(codes.is_empty(), text.is_empty(), "{text:?}: {codes:?}");
    }
}
