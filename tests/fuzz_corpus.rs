//! The corpus of `fuzz/`, the examples and the specifications of the goldens through the fuzz targets, and a short
//! random walk around them: tokens deleted, doubled and swapped.

#[path = "common/fuzz_entry.rs"]
mod fuzz_entry;

use std::path::{Path, PathBuf};

/// Files of a folder below the root, in order.
fn files(dir: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("a directory entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    paths.into_iter().map(|p| (p.clone(), std::fs::read(&p).expect("a readable file"))).collect()
}

/// Runs a target on its corpus and on the specifications; a panic is shown below the file's name.
fn whole_corpus(target: &str, entry: fn(&[u8])) {
    for dir in [format!("fuzz/corpus/{target}"), "dsl-examples".into(), "tests/goldens/specs".into()] {
        for (path, data) in files(&dir) {
            println!("{}", path.display());
            entry(&data);
        }
    }
}

#[test]
fn parse() {
    whole_corpus("parse", fuzz_entry::parse);
}

#[test]
fn format() {
    whole_corpus("format", fuzz_entry::format);
}

#[test]
fn compile() {
    whole_corpus("compile", fuzz_entry::compile);
}

/// Words, runs of blanks and single symbols.
fn tokens(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for c in text.chars() {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        match out.last_mut() {
            Some(t) if word(c) && t.chars().all(word) => t.push(c),
            _ => out.push(c.to_string()),
        }
    }
    out
}

/// SplitMix64.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 1) as usize
}

/// One to four edits.
fn mutate(tokens: &mut Vec<String>, state: &mut u64) {
    for _ in 0..=next(state) % 4 {
        if tokens.is_empty() {
            return;
        }
        let (a, b) = (next(state) % tokens.len(), next(state) % tokens.len());
        match next(state) % 4 {
            0 => drop(tokens.remove(a)),
            1 => tokens.insert(b, tokens[a].clone()),
            2 => tokens.swap(a, b),
            _ => tokens[a] = tokens[b].clone(),
        }
    }
}

#[test]
fn a_random_walk_around_the_specifications() {
    let n = if cfg!(debug_assertions) { 300 } else { 2000 };
    let seeds: Vec<String> = ["dsl-examples", "tests/goldens/specs"]
        .iter()
        .flat_map(|dir| files(dir))
        .map(|(_, data)| String::from_utf8(data).expect("specifications are UTF-8"))
        .collect();
    let mut state = 1;
    for _ in 0..n {
        let mut tokens = tokens(&seeds[next(&mut state) % seeds.len()]);
        mutate(&mut tokens, &mut state);
        let text = tokens.concat();
        println!("---\n{text}");
        fuzz_entry::parse(text.as_bytes());
        fuzz_entry::format(text.as_bytes());
        fuzz_entry::compile(text.as_bytes());
    }
}
