//! The house rules of ARCHITECTURE.md, as tests: sizes, headers, who may import whom, where `unsafe` may stand.

use std::path::{Path, PathBuf};

/// Longest file.
const MAX_FILE_LINES: usize = 800;
/// Longest function; an exhaustive match with one call per arm may say `tidy: long match` in its doc comment.
const MAX_FN_LINES: usize = 80;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the project with its text and its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for dir in ["src", "compiler", "ptx-sim", "runtime", "tests", "benches", "fuzz"] {
        walk(&root().join(dir), &mut files);
    }
    assert!(files.len() > 50, "the walk found only {} files", files.len());
    files
}

fn walk(dir: &Path, out: &mut Vec<(String, String)>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if !path.ends_with("target") {
                walk(&path, out);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).expect("a readable source file");
            let name = path.strip_prefix(root()).expect("inside the root").display().to_string();
            out.push((name, text));
        }
    }
}

fn none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn files_are_short_and_introduced() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        if lines > MAX_FILE_LINES {
            found.push(format!("{name}: {lines} lines"));
        }
        if !text.trim_start().starts_with("//!") {
            found.push(format!("{name}: no `//!` header"));
        }
    }
    none(found, "files have at most 800 lines and open with `//!`");
}

#[test]
fn functions_are_short() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let trimmed = line.trim_start();
            let is_fn = trimmed.starts_with("fn ")
                || (trimmed.contains(" fn ")
                    && (trimmed.starts_with("pub")
                        || trimmed.starts_with("unsafe")
                        || trimmed.starts_with("const ")));
            if !is_fn || !line.trim_end().ends_with('{') {
                continue;
            }
            let indent = line.len() - trimmed.len();
            let end = lines[n + 1..]
                .iter()
                .position(|l| l.len() - l.trim_start().len() == indent && l.trim() == "}");
            let length = end.map_or(0, |e| e + 2);
            let excused = lines[n.saturating_sub(6)..n].iter().any(|l| l.contains("tidy: long match"));
            if length > MAX_FN_LINES && !excused {
                found.push(format!("{name}:{}: {length} lines", n + 1));
            }
        }
    }
    none(found, "functions have at most 80 lines");
}

#[test]
fn unsafe_stands_in_the_runtime_and_the_worker_only() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let places = ["runtime/", "compiler/gpu/worker/", "tests/tidy.rs"];
        let allowed = places.iter().any(|place| name.starts_with(place));
        for (n, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
            let uses = words.iter().any(|word| code.contains(word));
            if uses && !allowed {
                found.push(format!("{name}:{}", n + 1));
            }
        }
    }
    none(found, "`unsafe` stands in runtime/ and compiler/gpu/worker/ only");
}

/// `who` (a path prefix) must not mention any of `what` outside comments.
fn must_not_mention(who: &str, what: &[&str], rule: &str) {
    let mut found = Vec::new();
    let mut seen = 0;
    for (name, text) in sources().into_iter().filter(|(name, _)| name.starts_with(who)) {
        seen += 1;
        for (n, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if let Some(word) = what.iter().find(|w| code.contains(**w)) {
                found.push(format!("{name}:{}: {word}", n + 1));
            }
        }
    }
    assert!(seen > 0, "{who} holds no file: the rule `{rule}` checks nothing");
    none(found, rule);
}

#[test]
fn the_line_has_no_arrow_back() {
    let above_attn_ir = ["crate::syntax", "crate::sema"];
    must_not_mention("compiler/src/attn_ir", &above_attn_ir, "attn_ir imports nothing above it");
    must_not_mention("compiler/src/mask", &above_attn_ir, "mask imports nothing above attn_ir");
    must_not_mention(
        "compiler/src/schedule",
        &["crate::syntax", "crate::sema", "crate::tile_ir", "crate::backend"],
        "schedule reads attn_ir only",
    );
    must_not_mention(
        "compiler/src/lower",
        &["crate::syntax", "crate::sema", "crate::backend"],
        "lower reads attn_ir, mask and schedule",
    );
    let above_tile_ir = ["crate::syntax", "crate::sema", "crate::schedule", "crate::lower", "crate::mask"];
    must_not_mention("compiler/src/passes", &above_tile_ir, "passes read tile_ir only");
    must_not_mention(
        "compiler/src/backend",
        &above_tile_ir,
        "backends import tile_ir, target facts and artifact, nothing above",
    );
    must_not_mention("compiler/src/backend", &["crate::attn_ir"], "backends know nothing of attention");
    must_not_mention(
        "compiler/src/expr",
        &["crate::attn_ir", "crate::tile_ir", "crate::mask"],
        "expressions stand alone",
    );
    must_not_mention("compiler/src", &["attn_runtime"], "the compiler never names the runtime");
    must_not_mention(
        "compiler/src",
        &["std::fs", "std::thread", "std::net", "std::process"],
        "the compiler is pure",
    );
}

/// Mechanisms that are expressions or generic steps, never cases.
const MECHANISMS: [&str; 24] = [
    "rope",
    "rotary",
    "yarn",
    "lrpe",
    "xpos",
    "alibi",
    "t5",
    "longt5",
    "bigbird",
    "longformer",
    "colt5",
    "lightning",
    "transnormer",
    "retention",
    "mla",
    "nsa",
    "moba",
    "gqa",
    "mqa",
    "causal",
    "sliding",
    "window",
    "kv_cache",
    "ring",
];

/// The words of the identifiers of a line of code, lower case: `KvCache` and `kv_cache` are both `kv_cache`.
fn words(code: &str) -> Vec<String> {
    let mut words = Vec::new();
    let outside: Vec<&str> = code.split('"').step_by(2).collect();
    for part in outside.join(" ").split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        let mut word = String::new();
        for (n, c) in part.chars().enumerate() {
            if c.is_ascii_uppercase() && n > 0 && !word.ends_with('_') {
                word.push('_');
            }
            word.push(c.to_ascii_lowercase());
        }
        words.push(format!("_{word}_"));
    }
    words
}

#[test]
fn no_mechanism_is_known_by_name_below_the_attention_ir() {
    let below = [
        "compiler/src/attn_ir",
        "compiler/src/mask",
        "compiler/src/schedule",
        "compiler/src/lower",
        "compiler/src/tile_ir",
        "compiler/src/passes",
        "compiler/src/backend",
        "compiler/src/expr",
        "compiler/src/artifact.rs",
        "runtime/src",
    ];
    let mut found = Vec::new();
    for (name, text) in sources() {
        if !below.iter().any(|who| name.starts_with(who)) || name.contains("test") {
            continue;
        }
        for (n, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let known = words(&format!("{code} {}", name.replace(['/', '.'], " ")));
            let named = |m: &&&str| known.iter().any(|w| w.contains(&format!("_{m}_")));
            if let Some(word) = MECHANISMS.iter().find(named) {
                found.push(format!("{name}:{}: {word}", n + 1));
            }
        }
    }
    none(found, "mechanisms are expressions and generic steps: nothing below the attention IR names one");
}

#[test]
fn words_of_identifiers_are_found() {
    assert!(words("let is_causal = KvCache::new(\"rope\");").contains(&"_is_causal_".to_string()));
    assert!(words("KvCache").contains(&"_kv_cache_".to_string()));
    assert!(!words("let x = \"causal\";").iter().any(|w| w.contains("causal")));
}

#[test]
fn nothing_is_left_undone() {
    let words = ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "XXX"];
    let mut found = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| name != "tests/tidy.rs") {
        for (n, line) in text.lines().enumerate() {
            if words.iter().any(|w| line.contains(w)) || line.contains("unreachable!()") {
                found.push(format!("{name}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    none(found, "no stub, no skipped test, no bare unreachable!()");
}

#[test]
fn ci_runs_the_command_of_the_readme() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect(name);
    let (command, tests) = ("tests/run", "cargo test --release --workspace --locked");
    assert!(
        read("README.md").contains(&format!("All tests:\n\n```sh\n{command}\n```")),
        "README.md gives `{command}`"
    );
    assert!(read(".ci/run").lines().any(|l| l.trim() == command), ".ci/run calls `{command}`");
    assert!(read(command).lines().any(|l| l.starts_with(tests)), "{command} calls `{tests}`");
}
