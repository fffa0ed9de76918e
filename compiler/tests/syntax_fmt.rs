//! `print` and `fmt`: what they write reads back as the same tree, comments stay, formatting twice is formatting once.

use std::path::{Path, PathBuf};

use attn_compiler::diagnostic::SourceMap;
use attn_compiler::diagnostic::render::{Style, human};
use attn_compiler::syntax::{ast, format, parse, print, stdlib};

/// The tree of a text that must parse.
fn tree(text: &str) -> ast::File {
    let mut map = SourceMap::default();
    let id = map.add("a.attn", text);
    let (file, diagnostics) = parse(&map, id);
    let said: Vec<String> =
        diagnostics.items().iter().map(|d| human(&map, d, Style { color: false, ascii: true })).collect();
    assert!(!diagnostics.has_errors(), "{}\n{text}", said.join("\n"));
    file
}

fn formatted(text: &str) -> String {
    format(text).unwrap_or_else(|d| panic!("{:?}\n{text}", d.items()))
}

/// Every specification, the standard library, and a few texts with comments in odd places.
fn samples() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let shared = std::env::var("ATTN_SHARED").map_or_else(|_| root.join("../shared"), PathBuf::from);
    let mut out: Vec<(String, String)> = Vec::new();
    for dir in [shared.join("specs"), root.join("dsl-examples")] {
        let list = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        for entry in list {
            let path = entry.expect("a directory entry").path();
            if path.extension().is_some_and(|e| e == "attn") {
                out.push((
                    path.display().to_string(),
                    std::fs::read_to_string(&path).expect("a readable file"),
                ));
            }
        }
    }
    assert!(out.len() >= 21, "only {} specifications in {}", out.len(), shared.display());
    for name in stdlib::NAMES {
        out.push((name.into(), stdlib::source(name).expect("a module").into()));
    }
    out.push(("comments".into(), COMMENTED.into()));
    out
}

const COMMENTED: &str = "// head\n\n\nuse // why\n std.mask\nfn f(x) // one\n = // two\n x + 1\n// between\n\n\
attention a( // params\n  n: int = 1 // last\n) { // open\n\n  // first\n  dims B, S // sizes\n\n\n  // second\n  \
score = dot(q, // inside\n    k)\n  // before the mask\n  mask = j <= i // past\n    // own line\n    & j > n\n  // tail\n}\n// end";

#[test]
fn printed_text_reads_back_as_the_same_tree() {
    for (name, text) in samples() {
        let file = tree(&text);
        let printed = print::file(&file);
        assert_eq!(tree(&printed), file, "{name}:\n{printed}");
        assert_eq!(print::file(&tree(&printed)), printed, "{name}: printing is stable");
    }
}

#[test]
fn formatting_keeps_the_tree_and_is_idempotent() {
    for (name, text) in samples() {
        let once = formatted(&text);
        assert_eq!(tree(&once), tree(&text), "{name}:\n{once}");
        assert_eq!(formatted(&once), once, "{name}");
    }
}

#[test]
fn formatting_keeps_comments_in_order() {
    let comments = |text: &str| {
        text.lines().filter_map(|l| l.find("//").map(|n| l[n..].to_string())).collect::<Vec<_>>()
    };
    for (name, text) in samples() {
        assert_eq!(comments(&formatted(&text)), comments(&text), "{name}");
    }
    assert!(comments(COMMENTED).len() >= 14);
}

#[test]
fn formatting_follows_the_style() {
    let text = "attention   a(n:int=1,static m:bool=n>0?true:false){dims B,S=1..8 input q:float[B,S] layout(S,B)\ninput k,v:float[B,S]\n\
let x=-1+n\nscore=dot(q,k)/sqrt(S)\n\n\nmask=!(j<=i)&j in[i-n,i)\nweight=softmax(score,sink=-x)\nreturn(weight@v),lse numerics{dot=exact}test(S=[1,2])}";
    let want = "\
attention a(n: int = 1, static m: bool = n > 0 ? true : false) {
  dims B, S = 1..8
  input q    : float[B, S] layout (S, B)
  input k, v : float[B, S]
  let x = -1 + n
  score = dot(q, k) / sqrt(S)

  mask   = !(j <= i) & j in [i - n, i)
  weight = softmax(score, sink = -x)
  return (weight @ v), lse
  numerics { dot = exact }
  test (S = [1, 2])
}
";
    assert_eq!(formatted(text), want);
}

#[test]
fn wide_lines_break_before_their_loosest_operator() {
    let term = "j in (i - some_rather_long_name, i]";
    let text = format!("attention a {{\n  mask = {term} & {term} | {term} & {term} | {term}\n}}\n");
    let out = formatted(&text);
    let want =
        format!("attention a {{\n  mask = {term} & {term}\n       | {term} & {term}\n       | {term}\n}}\n");
    assert_eq!(out, want);
}

#[test]
fn the_standard_library_is_formatted() {
    for name in stdlib::NAMES {
        let text = stdlib::source(name).expect("a module");
        assert_eq!(formatted(text), text, "{name}");
        assert!(text.lines().all(|l| l.chars().count() <= 110), "{name} has a line that is too wide");
    }
}

#[test]
fn text_that_does_not_parse_is_not_formatted() {
    let diagnostics = format("attention a { mask = }").expect_err("an expression is missing");
    assert!(diagnostics.has_errors());
    assert_eq!(formatted(""), "");
    assert_eq!(formatted("  \n// only\n\n"), "// only\n");
}
