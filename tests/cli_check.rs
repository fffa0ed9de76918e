//! `check`, `fmt`, `build` and `explain`, driven as a user drives them: exit codes, both streams, counts by hand.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CAUSAL: &str = "
attention causal {
  dims B, H, Sq, Sk, D
  input q    : float[B, H, Sq, D]
  input k, v : float[B, H, Sk, D]
  align bottom_right
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i
  weight = softmax(score)
  return weight @ v, lse
}
";

fn attnc(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_attnc")).args(args).output().expect("the binary runs")
}

fn out(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned()
}

fn err(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("k.attn");
    std::fs::write(&path, text).expect("a temporary file");
    path.display().to_string()
}

fn specs() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("dsl-examples");
    let entries = std::fs::read_dir(dir).expect("the examples");
    let found: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    found.into_iter().filter(|p| p.extension().is_some_and(|e| e == "attn")).collect()
}

#[test]
fn every_example_passes_check_and_fmt_settles_it() {
    assert!(!specs().is_empty());
    let dir = tempfile::tempdir().expect("a directory");
    for path in specs() {
        let name = path.display().to_string();
        let o = attnc(&["check", &name]);
        assert!(o.status.success() && out(&o).starts_with("ok: "), "{name}: {}", err(&o));
        let copy = file(dir.path(), &std::fs::read_to_string(&path).expect("an example"));
        assert!(attnc(&["fmt", &copy]).status.success(), "{name}");
        let o = attnc(&["fmt", "--check", &copy]);
        assert!(o.status.success(), "{name} is not formatted by fmt: {}", out(&o));
        std::fs::write(&copy, CAUSAL.replace("score  =", "score=")).expect("a temporary file");
        let o = attnc(&["fmt", "--check", &copy]);
        assert!(o.status.code() == Some(1) && out(&o).contains("k.attn"), "{}", out(&o));
    }
}

#[test]
fn a_target_that_cannot_run_a_kernel_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let name = file(dir.path(), CAUSAL);
    assert_eq!(attnc(&["check", &name, "--target", "cpu"]).status.code(), Some(0));
    let fp8 = CAUSAL.replace("return", "numerics { dot = fp8 }\n  return");
    let fp8 = file(dir.path(), &fp8);
    let o = attnc(&["check", &fp8, "--target", "sm_80"]);
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("sm_80") && err(&o).contains("fp8"), "{}", err(&o));
    assert_eq!(attnc(&["check", &name, "--target", "tpu"]).status.code(), Some(2));
    let name = file(dir.path(), &CAUSAL.replace("lse", "lsee"));
    let o = attnc(&["check", &name, "--json"]);
    assert_eq!(o.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_str(&out(&o)).expect("JSON");
    assert_eq!((json["schema"].as_i64(), json["ok"].as_bool()), (Some(1), Some(false)));
}

#[test]
fn every_kind_is_written_and_wrong_names_are_mended() {
    let dir = tempfile::tempdir().expect("a directory");
    let name = file(dir.path(), CAUSAL);
    for kind in ["ast", "attnir", "schedule", "tile", "clif", "asm"] {
        let o = attnc(&["build", &name, "--emit", kind]);
        assert!(o.status.success() && !out(&o).trim().is_empty(), "{kind}: {}", err(&o));
    }
    let o = attnc(&["build", &name, "--emit=tiel"]);
    assert_eq!(o.status.code(), Some(2));
    assert!(err(&o).contains("did you mean `tile`?"), "{}", err(&o));
    let dumps = dir.path().join("dumps").display().to_string();
    let o = attnc(&["build", &name, "--dump-dir", &dumps, "--print-ir-after", "lower", "--time-passes"]);
    assert!(o.status.success(), "{}", err(&o));
    for part in ["after lower", "text to callable machine code", "disk cache"] {
        assert!(err(&o).contains(part), "{part} is missing in {}", err(&o));
    }
    assert!(Path::new(&dumps).join("00-front.attn").exists());
}

/// Full, partial and empty tiles of `j <= i` on a square, by the corners of each tile.
fn by_hand(n: i64, tile_q: i64, tile_kv: i64) -> (u64, u64, u64) {
    let (mut full, mut partial, mut empty) = (0, 0, 0);
    for i in (0..n).step_by(tile_q as usize) {
        for j in (0..n).step_by(tile_kv as usize) {
            let (i_hi, j_hi) = ((i + tile_q).min(n) - 1, (j + tile_kv).min(n) - 1);
            match () {
                () if j > i_hi => empty += 1,
                () if j_hi <= i => full += 1,
                () => partial += 1,
            }
        }
    }
    (full, partial, empty)
}

#[test]
fn explain_counts_what_a_hand_counts() {
    let dir = tempfile::tempdir().expect("a directory");
    let name = file(dir.path(), CAUSAL);
    let o = attnc(&["explain", &name, "--at", "B=2,H=4,Sq=1Ki,Sk=1024,D=64", "--json"]);
    assert!(o.status.success(), "{}", err(&o));
    let json: serde_json::Value = serde_json::from_str(&out(&o)).expect("JSON");
    assert_eq!(json["schema"], 1);
    let tile = |name: &str| json["schedule"][name].as_i64().expect("a tile size");
    let (full, partial, empty) = by_hand(1024, tile("tile_q"), tile("tile_kv"));
    assert_eq!(json["mask"]["tiles"]["full"], full);
    assert_eq!(json["mask"]["tiles"]["partial"], partial);
    assert_eq!(json["mask"]["tiles"]["empty"], empty);
    assert_eq!(json["mask"]["tiles_all"]["full"], 8 * full);
    let pairs = 8 * 1024 * 1025 / 2;
    assert_eq!(json["pairs"], pairs);
    assert_eq!(json["flops_useful"].as_f64(), Some(pairs as f64 * 2.0 * 128.0));
    // Of each tile of queries, the keys up to the end of the last panel of 32 that it sees.
    let (rows, panel) = (tile("tile_q"), 32);
    let keys = |i: i64| ((i + rows) + panel - 1) / panel * panel;
    let executed: i64 = (0..1024).step_by(rows as usize).map(|i| 8 * rows * keys(i)).sum();
    assert_eq!(json["pairs_executed"].as_f64(), Some(executed as f64));
    assert_eq!(json["tiles_without_pairs"], 0);
}
