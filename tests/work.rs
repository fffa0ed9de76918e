//! Work executed follows work useful: no tile without a pair is worked on, and what is worked on is little more than the
//! pairs of the mask.
//!
//! All counts are those of `attnc explain`, which `compiler/tests/tiles_match_classes.rs` holds against lowered programs.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use attnc::Tensor;
use attnc::io::save;
use serde_json::Value as Json;

use common::examples::{gallery_and_specs, kernels};

/// The attentions of a kernel as `explain` tells them.
fn explain(file: &Path, more: &[&str]) -> Vec<Json> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnc"));
    command.arg("explain").arg(file).arg("--json").args(more);
    let out = command.output().expect("attnc runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{} {more:?}: {said}", file.display());
    let json: Json = serde_json::from_slice(&out.stdout).expect("one object");
    json["attentions"].as_array().cloned().unwrap_or_else(|| vec![json])
}

fn ratio(report: &Json) -> f64 {
    report["flops_executed"].as_f64().expect("a number") / report["flops_useful"].as_f64().expect("a number")
}

/// A kernel of one mask, written to a file.
fn kernel(dir: &Path, params: &str, inputs: &str, mask: &str) -> PathBuf {
    let file = dir.join("k.attn");
    let text = format!(
        "attention k{params} {{
  dims B, H, S, D
  input q, k, v : float[B, H, S, D]
  {inputs}
  score  = dot(q, k) / sqrt(D)
  mask   = {mask}
  weight = softmax(score)
  return weight @ v
}}"
    );
    std::fs::write(&file, text).expect("a scratch file");
    file
}

/// The acceptance limits: causal, windows of 256, documents of 256 tokens on average, at the head sizes in use.
#[test]
fn executed_work_is_little_more_than_useful_work() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    for d in [64, 128] {
        let at = format!("B=1,H=2,S=4096,D={d}");
        let causal = kernel(dir.path(), "", "", "j <= i");
        let found = ratio(&explain(&causal, &["--at", &at])[0]);
        assert!(found < 1.1, "causal, D = {d}: {found}");
        for (params, mask) in [
            ("(w: int = 256)", "j in (i - w, i]"),
            ("", "j in (i - 256, i]"),
            ("(w: int = 256)", "j <= i & i - j < w"),
            ("(w: int = 128)", "abs(i - j) <= w"),
            ("(w: int = 256)", "j <= i & (i - j < w | j < 4)"),
        ] {
            let file = kernel(dir.path(), params, "", mask);
            let found = ratio(&explain(&file, &["--at", &at])[0]);
            assert!(found < 1.35, "{mask}, D = {d}: {found}");
        }
    }
}

/// Lengths of documents with a mean of 256 tokens, from equal ones to a long tail.
fn documents(kind: usize, total: usize) -> Vec<i32> {
    let mut state = 0x9e37_79b9_u32 + kind as u32;
    let mut next = |n: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % n
    };
    let (mut ids, mut doc) = (Vec::new(), 0);
    while ids.len() < total {
        let length = match kind {
            0 => 256,
            1 => 128 + next(257),
            2 => 1 + next(511),
            _ if next(4) == 0 => 512 + next(257),
            _ => 64 + next(150),
        };
        ids.extend(std::iter::repeat_n(doc, length.min(total - ids.len())));
        doc += 1;
    }
    ids
}

#[test]
fn documents_of_256_tokens() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let file = kernel(dir.path(), "", "input doc : i32[S] sorted", "j <= i & doc[i] == doc[j]");
    let npy = dir.path().join("doc.npy");
    let mut found = Vec::new();
    for kind in 0..4 {
        let ids = documents(kind, 8192);
        let ids = Tensor::from_slice(&ids, &[8192]).expect("8192 ids");
        save(&npy, &[("doc".to_string(), &ids)]).expect("a file");
        let bind = format!("doc={}", npy.display());
        let reports = explain(&file, &["--at", "B=1,H=2,S=8192,D=64", "--bind", &bind]);
        found.push(ratio(&reports[0]));
    }
    println!("equal, 128 to 384, 1 to 511, a long tail: {found:.3?}");
    assert!(found.iter().all(|&r| r < 1.35), "{found:.3?}");
}

/// `--kernel NAME`, and the parameter that has no default.
fn chosen<'a>(name: &'a str, body: &str) -> Vec<&'a str> {
    let seen: &[&str] = if body.contains("(seen: int)") { &["--param", "seen=65"] } else { &[] };
    [&["--kernel", name], seen].concat()
}

/// The kernels of the gallery and of the shared specifications whose masks read no tensor.
#[test]
fn no_static_mask_executes_an_empty_tile() {
    let (mut n_kernels, mut n_static) = (0, 0);
    for (file, text) in gallery_and_specs() {
        for (_, name, body) in kernels(&text).iter().filter(|k| k.0 == "attention") {
            n_kernels += 1;
            for report in explain(&file, &chosen(name, body)) {
                if report["exact"] != true {
                    continue;
                }
                n_static += 1;
                let mask = &report["mask"];
                assert_eq!(report["tiles_without_pairs"], 0, "{} {name}: {mask}", file.display());
            }
        }
    }
    println!("{n_kernels} kernels, {n_static} attentions with static masks");
    assert!(n_kernels > 60 && n_static > 45, "{n_kernels} kernels, {n_static} with static masks");
}

/// Useful and executed work of every kernel, recurrences too; the gallery's pages show them.
#[test]
fn every_kernel_is_explained() {
    let mut n_kernels = 0;
    for (file, text) in gallery_and_specs() {
        for (_, name, body) in kernels(&text) {
            for report in explain(&file, &[&chosen(&name, &body)[..], &["--random"]].concat()) {
                let (useful, executed) = (report["flops_useful"].as_f64(), report["flops_executed"].as_f64());
                let (Some(useful), Some(executed)) = (useful, executed) else {
                    panic!("{} {name}: {report}", file.display())
                };
                // Products in chunks may need fewer operations than steps, never as few as half.
                assert!(executed >= 0.5 * useful, "{} {name}: {executed} of {useful}", file.display());
            }
            n_kernels += 1;
        }
    }
    println!("{n_kernels} kernels");
    assert!(n_kernels > 80, "{n_kernels} kernels");
}
