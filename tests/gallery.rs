//! The pages of `docs/gallery/`: one for each example, generated from it; and the verb that copies examples out.
//!
//! A page holds the leading comment, a picture of the mask drawn by `attnc view`, the text, and commands to try.
//! `GALLERY_UPDATE=1 cargo test --release --test gallery` writes them anew; otherwise they must be what they would be.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn attnc(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnc"));
    command.args(args).current_dir(dir).env("ATTN_CACHE_DIR", dir.join("cache"));
    command.output().expect("attnc runs")
}

fn examples() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(root().join("dsl-examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "attn") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_string();
            all.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    all.sort();
    all
}

/// The leading comment, and the rest of the text.
fn split(text: &str) -> (String, String) {
    let n = text.lines().take_while(|l| l.starts_with("//")).count();
    let comment: Vec<&str> = text.lines().take(n).map(|l| l.trim_start_matches('/').trim()).collect();
    (comment.join(" "), text.lines().skip(n).collect::<Vec<_>>().join("\n"))
}

/// Names of the kernels of a text.
fn kernels(text: &str) -> Vec<String> {
    let head = |line: &str| {
        let rest = line.strip_prefix("attention ").or_else(|| line.strip_prefix("recurrence "))?;
        Some(rest.split(['(', ' ', '{']).next()?.to_string())
    };
    text.lines().filter_map(head).collect()
}

/// Draws the mask of an example's first kernel, if it has one to look at.
fn picture(name: &str, text: &str, scratch: &Path) -> Option<String> {
    let file = root().join(format!("dsl-examples/{name}.attn"));
    let svg = scratch.join(format!("{name}.svg"));
    let kernel = kernels(text).first()?.clone();
    let lengths = ["Sq=512,Sk=512", "S=512", "T=512"];
    for at in lengths {
        let args =
            ["view", file.to_str()?, "--kernel", &kernel, "--at", at, "--random", "--svg", svg.to_str()?];
        if attnc(&args, scratch).status.success() && svg.exists() {
            return std::fs::read_to_string(&svg).ok().filter(|s| s.len() < 200_000);
        }
    }
    None
}

/// What `attnc explain` says of the first kernel of an example on made-up inputs: lengths, executed over useful FLOPs.
fn work(name: &str, text: &str, scratch: &Path) -> (String, f64) {
    let file = root().join(format!("dsl-examples/{name}.attn"));
    let (file, kernel) = (file.to_str().expect("a path"), &kernels(text)[0]);
    for at in ["S=1024", "Sq=1024,Sk=1024", "T=1024", "Sq=1,Sk=1024", ""] {
        let mut args = vec!["explain", file, "--kernel", kernel, "--random", "--json"];
        if !at.is_empty() {
            args.extend(["--at", at]);
        }
        if text.contains("(seen: int)") {
            args.extend(["--param", "seen=65"]);
        }
        let out = attnc(&args, scratch);
        if !out.status.success() {
            continue;
        }
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("one object");
        let parts = json["attentions"].as_array().cloned().unwrap_or_else(|| vec![json]);
        let sum = |key: &str| parts.iter().map(|part| part[key].as_f64().expect("a number")).sum::<f64>();
        return (at.replace(',', ", ").replace('=', " = "), sum("flops_executed") / sum("flops_useful"));
    }
    panic!("{name} is not explained")
}

fn page(name: &str, text: &str, has_picture: bool, (at, ratio): &(String, f64)) -> String {
    let (about, body) = split(text);
    let mut out = format!("# {name}\n\n{about}\n\n");
    let sizes = if at.is_empty() { String::new() } else { format!(" at {at}") };
    let _ = write!(
        out,
        "Executed over useful work{sizes}, made-up inputs: {ratio:.2} (`attnc explain` tells where the rest goes).\n\n"
    );
    if has_picture {
        let _ = write!(
            out,
            "![Tiles of {name}: dark ones run without any mask code, others never run]({name}.svg)\n\n"
        );
    }
    let _ = write!(out, "```attn\n{}\n```\n\n", body.trim());
    let kernel = kernels(text);
    let choose = if kernel.len() > 1 { format!(" --kernel {}", kernel[0]) } else { String::new() };
    let _ = write!(
        out,
        "```sh\nattnc gallery {name}                                # copies the file here\nattnc test {name}.attn\n\
         attnc run {name}.attn{choose} --random --verify\n```\n"
    );
    out
}

fn index(all: &[(String, String)], works: &[(String, f64)]) -> String {
    let mut out = String::from(
        "# Gallery\n\nOne example for each mechanism; every one is a test. `attnc gallery` lists them, `attnc gallery NAME` \
         copies one. Work is FLOPs executed over FLOPs useful at 1024 tokens of made-up inputs, for recurrences\n\
         those of their chunks over those of their steps; small windows, chunks and selections of the examples cost\n\
         more than large ones would.\n\n| example | what it is | work |\n| --- | --- | --- |\n",
    );
    for ((name, text), (_, ratio)) in all.iter().zip(works) {
        let about = split(text).0.replace('|', "\\|");
        let _ = writeln!(out, "| [{name}]({name}.md) | {about} | {ratio:.2} |");
    }
    out
}

#[test]
fn pages_are_those_of_the_examples() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = root().join("docs/gallery");
    let update = std::env::var_os("GALLERY_UPDATE").is_some();
    let mut wanted: Vec<(String, String)> = Vec::new();
    let all = examples();
    let works: Vec<(String, f64)> = all.iter().map(|(name, text)| work(name, text, scratch.path())).collect();
    wanted.push(("README.md".into(), index(&all, &works)));
    for ((name, text), work) in all.iter().zip(&works) {
        let drawn = picture(name, text, scratch.path());
        wanted.push((format!("{name}.md"), page(name, text, drawn.is_some(), work)));
        wanted.extend(drawn.map(|svg| (format!("{name}.svg"), svg)));
    }
    if update {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        wanted.iter().for_each(|(file, text)| std::fs::write(folder.join(file), text).unwrap());
        return;
    }
    let stale: Vec<&str> = wanted
        .iter()
        .filter(|(file, text)| std::fs::read_to_string(folder.join(file)).ok().as_ref() != Some(text))
        .map(|(file, _)| file.as_str())
        .collect();
    assert!(stale.is_empty(), "run with GALLERY_UPDATE=1 and look at the difference: {stale:?}");
    let n_files = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(n_files, wanted.len(), "a page of an example that is gone");
}

#[test]
fn the_verb_lists_and_copies() {
    let dir = tempfile::tempdir().unwrap();
    let listed = attnc(&["gallery"], dir.path());
    let text = String::from_utf8(listed.stdout).unwrap();
    for (name, _) in examples() {
        assert!(text.lines().any(|l| l.trim_start().starts_with(&name)), "{name} is not listed");
    }
    assert!(attnc(&["gallery", "causal"], dir.path()).status.success());
    let copied = std::fs::read_to_string(dir.path().join("causal.attn")).unwrap();
    assert!(copied.contains("attention causal"));
    let again = attnc(&["gallery", "causal"], dir.path());
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force"));
    assert!(attnc(&["gallery", "causal", "--force"], dir.path()).status.success());
    let unknown = attnc(&["gallery", "no_such"], dir.path());
    assert_eq!(unknown.status.code(), Some(2));
}
