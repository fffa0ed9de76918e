//! Every specification of the shared folder and every example parses without a diagnostic.

use std::path::{Path, PathBuf};

use attn_compiler::diagnostic::SourceMap;
use attn_compiler::diagnostic::render::{Style, human};
use attn_compiler::syntax::parse;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn attn_files(dir: &Path) -> Vec<PathBuf> {
    let list = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{} must be readable: {e}", dir.display()));
    let mut files: Vec<PathBuf> = list.map(|f| f.expect("a directory entry").path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "attn"));
    files.sort();
    assert!(!files.is_empty(), "{} holds no .attn file", dir.display());
    files
}

#[test]
fn specs_and_examples_parse() {
    let shared = std::env::var("ATTN_SHARED").map_or_else(|_| root().join("../shared"), PathBuf::from);
    for file in [shared.join("specs"), root().join("dsl-examples"), root().join("tests/goldens/specs")]
        .iter()
        .flat_map(|d| attn_files(d))
    {
        let mut map = SourceMap::default();
        let text = std::fs::read_to_string(&file).expect("a readable file");
        let id = map.add(file.display().to_string(), text);
        let (tree, diagnostics) = parse(&map, id);
        let said: Vec<String> =
            diagnostics.items().iter().map(|d| human(&map, d, Style { color: false, ascii: true })).collect();
        assert!(said.is_empty(), "{}", said.join("\n"));
        assert!(!tree.items.is_empty());
    }
}

#[test]
fn broken_text_is_explained() {
    let text = "attention a {\n  dims B, S\n  scores = dot(q, k)\n  mask = j <= i && j == 0\n  weight = softmax(score\n  let x = 1 < 2 < 3\n}\n";
    let mut map = SourceMap::default();
    let id = map.add("a.attn", text);
    let (_, diagnostics) = parse(&map, id);
    let said: Vec<String> =
        diagnostics.items().iter().map(|d| human(&map, d, Style { color: false, ascii: true })).collect();
    let codes: Vec<&str> = diagnostics.items().iter().map(|d| d.code.id()).collect();
    assert_eq!(codes, ["E0006", "E0007", "E0002", "E0004"], "{}", said.join("\n"));
}
