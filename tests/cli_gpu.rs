//! What `attnc build` and `attnc explain` say with the LLVM worker, ptxas and nvdisasm at hand: `ATTN_LLVM`, `ATTN_PTXAS` and
//! `ATTN_NVDISASM` must name them, as `tests/run` sets them. What needs none of them stands in `tests/cmd/gpu.md`.

use std::path::Path;
use std::process::{Command, Output};

const CAUSAL: &str = "dsl-examples/causal.attn";

/// `attnc` with its tools. Panics without them: a test that is skipped would read as passed.
fn attnc(line: &str) -> Output {
    for tool in ["ATTN_LLVM", "ATTN_PTXAS", "ATTN_NVDISASM"] {
        let path = std::env::var(tool).unwrap_or_default();
        assert!(
            Path::new(&path).is_file(),
            "{tool} must be the path of a tool, and is `{path}`: run tests/run, or eval \"$(tests/run --setup-only)\" first"
        );
    }
    without_tools(line, &[])
}

/// `attnc` without these variables' tools: they name files that are not there.
fn without_tools(line: &str, missing: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnc"));
    command.args(line.split_whitespace()).current_dir(env!("CARGO_MANIFEST_DIR"));
    missing.iter().for_each(|name| _ = command.env(name, "/none"));
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ok(line: &str) -> Vec<u8> {
    let out = attnc(line);
    assert!(out.status.success(), "{line}: {}", text(&out.stderr));
    out.stdout
}

#[test]
fn every_stage_of_a_gpu_kernel_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    for (target, product) in [("sm_80", "HMMA"), ("sm_90a", "MMA")] {
        let kinds = ["simt", "mlir", "llvm-ir", "ptx", "cubin", "sass"];
        let files = kinds.map(|kind| format!("{kind}={}", dir.path().join(kind).display()));
        let build = format!("build {CAUSAL} --target {target} --dtype bf16 --at D=64");
        assert!(ok(&format!("{build} --emit={}", files.join(","))).is_empty());
        let [simt, mlir, llvm, ptx, cubin, sass] =
            kinds.map(|kind| std::fs::read(dir.path().join(kind)).expect(kind));
        assert!(text(&simt).contains("kernel attn_attend {"));
        assert!(text(&mlir).contains("llvm.func"));
        assert!(text(&llvm).contains("nvptx64") && text(&llvm).contains("define"));
        assert!(text(&ptx).contains(&format!(".target {target}")));
        assert!(cubin.starts_with(b"\x7fELF"));
        assert!(text(&sass).contains(product), "{target} has no {product}");
        assert_eq!(ok(&format!("{build} --emit=cubin")), cubin, "to standard output as it is");
    }
}

#[test]
fn a_plain_build_shows_registers_and_a_timed_one_its_stages() {
    let said = text(&ok(&format!("build {CAUSAL} --target sm_80 --dtype bf16 --at D=64")));
    let row = said.lines().find(|l| l.trim_start().starts_with("attn_attend")).expect("a row");
    let numbers: Vec<u32> = row.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    let [threads, registers, spilled, shared, stack] = numbers[..] else { panic!("{said}") };
    assert!(threads == 128 && (32..=255).contains(&registers) && shared > 0, "{said}");
    assert_eq!((spilled, stack), (0, 0), "{said}");
    let out = attnc(&format!("build {CAUSAL} --target sm_90a --time-passes --emit=schedule"));
    assert!(out.status.success(), "{}", text(&out.stderr));
    for stage in ["lower", "simt", "mlir", "ptx", "text to PTX", "ptxas"] {
        assert!(
            text(&out.stderr).lines().any(|l| l.trim_start().starts_with(stage)),
            "{stage}: {}",
            text(&out.stderr)
        );
    }
}

#[test]
fn explain_takes_registers_from_ptxas() {
    let said = ok(&format!(
        "explain {CAUSAL} --target sm_80 --dtype bf16 --at B=1,H=8,Sq=1024,Sk=1024,D=128 --json"
    ));
    let json: serde_json::Value = serde_json::from_slice(&said).expect("JSON");
    let (gpu, launch) = (&json["gpu"], &json["gpu"]["launches"][0]);
    assert_eq!(gpu["registers_from"], "ptxas");
    assert!(launch["registers"].as_i64() > launch["tile_registers"].as_i64(), "{launch}");
    // 16 query tiles of 8 heads; 4 B H S^2 D / 2 and half of the diagonal.
    assert_eq!(launch["blocks"], 128.0);
    assert_eq!(launch["flops_useful"], 4.0 * 8.0 * 128.0 * (1024.0 * 1025.0 / 2.0));
}

#[test]
fn explain_says_in_which_order_loops_multiply() {
    for (target, orders) in [
        ("sm_80", serde_json::json!([])),
        ("sm_90a", serde_json::json!([{ "turns": true, "overlaps": true }])),
    ] {
        let said = ok(&format!(
            "explain {CAUSAL} --target {target} --dtype bf16 --at B=1,H=8,Sq=1024,Sk=1024,D=128 --json"
        ));
        let json: serde_json::Value = serde_json::from_slice(&said).expect("JSON");
        assert_eq!(json["gpu"]["launches"][0]["orders"], orders, "{target}");
    }
}

#[test]
fn missing_tools_are_named_with_their_remedy() {
    let build = format!("build {CAUSAL} --target sm_80 --at D=64");
    for (kind, missing, remedy) in [
        ("ptx", "ATTN_LLVM", "cargo build --release -p attn-llvm-worker"),
        ("cubin=/dev/null", "ATTN_PTXAS", "pip install nvidia-cuda-nvcc-cu12"),
        ("sass", "ATTN_NVDISASM", "pip install nvidia-cuda-nvdisasm"),
    ] {
        let out = without_tools(&format!("{build} --emit={kind}"), &[missing]);
        assert_eq!(out.status.code(), Some(1), "{kind}");
        assert!(
            text(&out.stderr).contains(missing) && text(&out.stderr).contains(remedy),
            "{}",
            text(&out.stderr)
        );
    }
    let out = without_tools(&build, &["ATTN_PTXAS"]);
    assert!(out.status.success(), "a build needs no ptxas: {}", text(&out.stderr));
    let said = text(&out.stdout);
    let line = said.lines().find(|l| l.starts_with("registers and spills are not known")).expect("a line");
    assert!(line.contains("pip install nvidia-cuda-nvcc-cu12"), "{said}");
}
