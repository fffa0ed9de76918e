//! Whole kernels, written by hand, over seeds: no faults, right results, the expected instructions, no bank conflicts.

mod common;

use attn_ptx_sim::Report;
use common::runs::{self, check};
use common::text;

const SEEDS: u64 = 6;

/// Runs a kernel over seeds; the report of the last.
fn all(name: &str) -> Report {
    let text = text(name);
    let mut last = Report::default();
    for seed in 0..SEEDS {
        last = check(name, &text, seed).unwrap_or_else(|e| panic!("{name}, seed {seed}: {e}"));
    }
    last
}

fn no_conflicts(report: &Report) {
    assert!(report.bank_conflicts.is_empty(), "{:?}", report.bank_conflicts);
}

#[test]
fn every_kernel_of_the_folder_is_run() {
    let folder = format!("{}/tests/ptx", env!("CARGO_MANIFEST_DIR"));
    for file in std::fs::read_dir(folder).expect("the folder") {
        let name = file.expect("an entry").file_name().to_string_lossy().replace(".ptx", "");
        assert!(runs::KERNELS.contains(&name.as_str()), "{name} is not run");
    }
}

#[test]
fn vector_add() {
    assert_eq!(all("vector_add").count("add.rn.f32"), 10);
}

#[test]
fn reduce() {
    assert_eq!(all("reduce").count("shfl.sync.bfly"), 4 * 8 * 5);
}

#[test]
fn gemm_mma() {
    let report = all("gemm_mma");
    assert_eq!(report.count("mma.sync"), 2 * 3 * 4 * 32);
    no_conflicts(&report);
}

#[test]
fn gemm_cp_async() {
    let report = all("gemm_cp_async");
    assert_eq!(report.count("cp.async.cg"), 2 * 4 * 3 * 8);
    no_conflicts(&report);
}

#[test]
fn named_barriers() {
    all("named_barriers");
}

#[test]
fn flash_mma() {
    no_conflicts(&all("flash_mma"));
}

#[test]
fn flash_mma_of_other_lengths() {
    for (seed, lengths) in [(1, 1), (17, 17), (64, 64), (5, 129), (130, 63)].into_iter().enumerate() {
        let got = runs::flash_mma(&text("flash_mma"), lengths, seed as u64);
        got.unwrap_or_else(|e| panic!("{lengths:?}: {e}"));
    }
}

#[test]
fn tma_pipeline() {
    assert_eq!(all("tma_pipeline").count("cp.async.bulk.tensor.2d.shared"), 5);
}

#[test]
fn wgmma_gemm() {
    assert_eq!(all("wgmma_gemm").count("wgmma.mma_async"), 2 * 4 * 4 * 4);
}

#[test]
fn flash_wgmma() {
    assert_eq!(all("flash_wgmma").count("wgmma.mma_async"), 2 * 8 * 5 * 8);
}
