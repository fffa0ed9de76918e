//! What the documents say is true: every block of code is read by the part of the compiler that it belongs to, every
//! link leads somewhere, every code, verb, option and environment variable exists and is documented.
//!
//! Not here: that commands do what is said of them; `tests/cmd` runs them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use attn_compiler::diagnostic::Code;
use attn_compiler::diagnostic::render::{Style, human};
use attn_compiler::sema::no_files;
use attn_compiler::{attn_ir, pipeline, tile_ir};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{} must be readable: {e}", path.display()))
}

/// The documents: every Markdown file of the root, of `docs/` and of the tests' folders.
fn documents() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for dir in ["", "docs", "tests/goldens", "tests/oracles"] {
        let entries = std::fs::read_dir(root().join(dir)).expect("a readable folder");
        let paths = entries.map(|e| e.expect("an entry").path());
        files.extend(paths.filter(|p| p.extension().is_some_and(|e| e == "md")));
    }
    files.sort();
    assert!(files.len() >= 12, "only {} documents were found", files.len());
    files.into_iter().map(|p| (p.clone(), read(&p))).collect()
}

/// A fenced block: its language and its text.
struct Block {
    place: String,
    language: String,
    text: String,
}

/// Splits a document into its fenced blocks and the prose around them.
fn split(path: &Path, text: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut prose, mut open) = (Vec::<Block>::new(), String::new(), false);
    for (n, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), open) {
            (Some(_), true) => open = false,
            (Some(language), false) => {
                let place = format!("{}:{}", path.display(), n + 1);
                blocks.push(Block { place, language: language.trim().into(), text: String::new() });
                open = true;
            }
            (None, true) => {
                let block = blocks.last_mut().expect("an open block");
                block.text += line;
                block.text += "\n";
            }
            (None, false) => {
                prose += line;
                prose += "\n";
            }
        }
    }
    assert!(!open, "{}: a block is never closed", path.display());
    (blocks, prose)
}

fn blocks(language: &str) -> Vec<Block> {
    let all = documents().into_iter().flat_map(|(path, text)| split(&path, &text).0);
    all.filter(|b| b.language == language).collect()
}

#[test]
fn specifications_are_correct() {
    let blocks = blocks("attn");
    assert!(blocks.len() >= 12, "only {} specifications were found", blocks.len());
    for block in blocks {
        let front = pipeline::front(&block.place, &block.text, &mut no_files, &mut ());
        let style = Style { color: false, ascii: true };
        let said: Vec<String> =
            front.diagnostics.items().iter().map(|d| human(&front.map, d, style)).collect();
        assert!(said.is_empty(), "{}", said.join("\n"));
        assert!(!front.checked.kernels.is_empty(), "{} holds no kernel", block.place);
    }
}

#[test]
fn programs_are_read_and_valid() {
    let tiles = blocks("tile");
    assert!(!tiles.is_empty());
    for block in tiles {
        let program = tile_ir::text::parse(&block.text).unwrap_or_else(|e| panic!("{}: {e}", block.place));
        tile_ir::verify::verify(&program).unwrap_or_else(|e| panic!("{}: {e}", block.place));
    }
    let attentions = blocks("attnir");
    assert!(!attentions.is_empty());
    for block in attentions {
        let attention = attn_ir::text::parse(&block.text).unwrap_or_else(|e| panic!("{}: {e}", block.place));
        assert_eq!(attn_ir::text::print(&attention), block.text, "{}", block.place);
    }
}

#[test]
fn blocks_have_a_language_that_is_tested_or_known() {
    let known = ["attn", "attnir", "tile", "sh", "text", "rust,no_run", ""];
    for (path, text) in documents() {
        for block in split(&path, &text).0 {
            assert!(known.contains(&block.language.as_str()), "{}: `{}`", block.place, block.language);
        }
    }
}

/// The anchor that a heading gets on a page.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut n_links = 0;
    for (path, text) in documents() {
        let prose = split(&path, &text).1;
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") {
                continue;
            }
            n_links += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.with_file_name("").join(file) };
            assert!(file.exists(), "{}: the link {target} leads nowhere", path.display());
            if !heading.is_empty() {
                let there = read(&file);
                let found = there.lines().filter(|l| l.starts_with('#')).any(|l| {
                    let title = l.trim_start_matches('#');
                    anchor(title) == heading
                });
                assert!(found, "{}: {target}: there is no such heading", path.display());
            }
        }
    }
    assert!(n_links > 80, "only {n_links} links were found");
}

#[test]
fn every_code_is_listed_with_its_title() {
    let text = read(&root().join("docs/errors.md"));
    for code in Code::ALL {
        let row = format!("| [{0}](../compiler/src/codes/{0}.md) | {1} |", code.id(), code.title());
        assert_eq!(text.matches(&row).count(), 1, "docs/errors.md must hold the row\n{row}");
    }
    let rows = text.lines().filter(|l| l.starts_with("| [")).count();
    assert_eq!(rows, Code::ALL.len(), "docs/errors.md lists a code that does not exist");
}

fn attnc(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_attnc")).args(args).output().expect("attnc starts");
    assert!(out.status.success(), "attnc {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("help is text")
}

/// The verbs that `attnc --help` lists.
fn verbs() -> BTreeSet<String> {
    let help = attnc(&["--help"]);
    let list =
        help.split("Commands:").nth(1).and_then(|s| s.split("Options:").next()).expect("a list of commands");
    let first_words = list.lines().filter(|l| l.starts_with("  ") && !l.starts_with("   "));
    let verbs: BTreeSet<String> =
        first_words.filter_map(|l| l.split_whitespace().next()).map(String::from).collect();
    assert!(verbs.contains("run") && verbs.contains("test"), "{help}");
    verbs
}

#[test]
fn verbs_exist() {
    let verbs = verbs();
    let mut n_seen = 0;
    let names =
        ["README.md", "CONTRIBUTING.md", "docs/cli.md", "docs/language.md", "docs/abi.md", "docs/errors.md"];
    for (path, text) in names.map(|name| (PathBuf::from(name), read(&root().join(name)))) {
        let (blocks, prose) = split(&path, &text);
        let commands = blocks.iter().filter(|b| b.language == "sh").flat_map(|b| b.text.lines());
        let in_prose = prose.split('`').skip(1).step_by(2);
        for command in commands.chain(in_prose) {
            let Some(rest) = command.trim().strip_prefix("attnc ") else { continue };
            let verb: String = rest.chars().take_while(|c| c.is_ascii_lowercase()).collect();
            if !verb.is_empty() {
                n_seen += 1;
                assert!(verbs.contains(&verb), "{}: there is no verb `{verb}`: {command}", path.display());
            }
        }
    }
    assert!(n_seen > 15, "only {n_seen} commands were found");
}

#[test]
fn options_exist() {
    let text = read(&root().join("docs/cli.md"));
    let mut n_sections = 0;
    for section in text.split("\n## `attnc ").skip(1) {
        let (verb, body) = section.split_once('`').expect("a heading in backticks");
        let body = body.split("\n## ").next().unwrap_or(body);
        let mut help = attnc(&["help", verb]);
        if verb == "cache" {
            help += &attnc(&["cache", "list", "--help"]);
            help += &attnc(&["cache", "clear", "--help"]);
        }
        for option in body.split(|c: char| c.is_whitespace() || "`=,|()".contains(c)) {
            let is_option =
                option.strip_prefix("--").is_some_and(|o| o.starts_with(|c: char| c.is_ascii_lowercase()));
            if is_option {
                assert!(help.contains(option), "docs/cli.md: `attnc {verb}` has no option {option}");
            }
        }
        n_sections += 1;
    }
    assert!(n_sections >= 5, "only {n_sections} verbs are described");
}

/// String literals that name a variable of ours, in the Rust files below `dir`.
fn variables(dir: &Path, out: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            variables(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = read(&path);
            for (at, _) in text.match_indices("\"ATTN_") {
                let name: String =
                    text[at + 1..].chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
                let is_literal = text[at + 1 + name.len()..].starts_with('"');
                // What `build.rs` sets is read when compiling.
                if is_literal && !text[..at].ends_with("env!(") {
                    out.insert(name);
                }
            }
        }
    }
}

#[test]
fn environment_variables_are_documented() {
    let mut read_by_sources = BTreeSet::new();
    for dir in ["src", "compiler/src", "runtime/src"] {
        variables(&root().join(dir), &mut read_by_sources);
    }
    let text = read(&root().join("docs/cli.md"));
    let rows = text.lines().filter_map(|l| l.strip_prefix("| `ATTN_")?.split('`').next());
    let documented: BTreeSet<String> = rows.map(|name| format!("ATTN_{name}")).collect();
    assert_eq!(documented, read_by_sources, "docs/cli.md, Environment");

    let mut read_by_tests = BTreeSet::new();
    for dir in ["tests", "compiler/tests", "runtime/tests"] {
        variables(&root().join(dir), &mut read_by_tests);
    }
    let contributing = read(&root().join("CONTRIBUTING.md"));
    // A test speaks to its own child process through ATTN_TEST_*.
    for name in read_by_tests.difference(&read_by_sources).filter(|n| !n.starts_with("ATTN_TEST_")) {
        assert!(
            name == "ATTN_" || contributing.contains(name.as_str()),
            "CONTRIBUTING.md must tell of {name}"
        );
    }
}
