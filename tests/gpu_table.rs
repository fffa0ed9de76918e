//! `docs/gpu.md`: which kernel of the gallery runs how on which architecture, worked out by the compiler.
//!
//! Comes in: the gallery, every architecture, f32, f16 and bf16. Goes out: the table between the marks of the page.
//! `GPU_TABLE_UPDATE=1 cargo test --release --test gpu_table` writes it anew; otherwise it must be what it would be. What
//! holds: no LLVM is needed, since products are decided before it. Deliberately not here: whether results are right
//! (`gpu_sim.rs`), whether ptxas takes the code (`gpu_ptxas.rs`).

mod common;

use std::fmt::Write as _;

use attn_compiler::artifact::DType;
use attn_compiler::pipeline::{self, CompileError};
use attn_compiler::target::GpuArch;
use attn_compiler_gpu::{GpuCode, GpuError};
use common::gpu::{Subject, subjects};
use common::root;
use rayon::prelude::*;

const BEGIN: &str = "<!-- made by tests/gpu_table.rs: begin -->\n";
const END: &str = "<!-- made by tests/gpu_table.rs: end -->\n";
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

/// What a product on tensor cores is in MLIR.
const PRODUCTS: [&str; 2] = ["mma.sync", "wgmma"];

/// How a kernel runs, in words.
fn how(subject: &Subject, arch: GpuArch, float: DType) -> String {
    let key = subject.key(arch, float, 64);
    let plan = match pipeline::plan(&subject.spec, &key, &mut ()) {
        Ok(plan) => plan,
        Err(CompileError::Unsupported(u)) => return format!("unsupported: {u}"),
        Err(e) => panic!("{} {} {float}: {e}", subject.name, arch.name()),
    };
    match attn_compiler_gpu::emit(&plan.program, arch) {
        Ok(code) => in_words(&code),
        Err(GpuError::Unsupported { op, why }) => format!("unsupported: {op}: {why}"),
        Err(e) => panic!("{} {} {float}: {e}", subject.name, arch.name()),
    }
}

/// From the code of the attentions; a kernel without any has none on tensor cores.
fn in_words(code: &GpuCode) -> String {
    let mlir = code.mlir();
    let functions: Vec<&str> = mlir.split("llvm.func @").skip(1).collect();
    let names = code.launches.iter().map(|l| l.kernel.as_str()).filter(|n| n.contains("attend"));
    let on_cores = |name: &str| {
        let own = functions.iter().find(|f| f.starts_with(&format!("{name}(")));
        let own = own.unwrap_or_else(|| panic!("no function {name}"));
        PRODUCTS.iter().any(|p| own.contains(p))
    };
    let attends: Vec<bool> = names.map(on_cores).collect();
    match (attends.iter().any(|on| *on), attends.iter().all(|on| *on)) {
        (true, true) => "tensor cores".into(),
        (true, false) => {
            let n = attends.iter().filter(|on| **on).count();
            format!("tensor cores in {n} of {} attentions", attends.len())
        }
        (false, _) => "exact f32".into(),
    }
}

/// The cell of an architecture: dtypes that run alike are told together.
fn cell(subject: &Subject, arch: GpuArch) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for float in DTYPES {
        let how = how(subject, arch, float).replace(['|', '\n'], " ");
        match groups.iter_mut().find(|(h, _)| *h == how) {
            Some((_, dtypes)) => dtypes.push(float.name()),
            None => groups.push((how, vec![float.name()])),
        }
    }
    let parts: Vec<String> =
        groups.iter().map(|(how, dtypes)| format!("{}: {how}", dtypes.join(", "))).collect();
    parts.join("; ")
}

/// The whole table. A row tells architectures that run alike together.
fn table() -> String {
    let subjects: Vec<Subject> = subjects().into_iter().filter(|s| s.in_gallery).collect();
    let mut out = String::from("| kernel |");
    GpuArch::ALL.iter().for_each(|arch| _ = write!(out, " {} |", arch.name()));
    out.push_str("\n| --- |");
    GpuArch::ALL.iter().for_each(|_| out.push_str(" --- |"));
    out.push('\n');
    let rows: Vec<String> = subjects
        .par_iter()
        .map(|subject| {
            let cells: Vec<String> = GpuArch::ALL.iter().map(|&arch| cell(subject, arch)).collect();
            let (file, kernel) = subject.name.split_once('/').expect("a file");
            format!("| [{kernel}](gallery/{file}.md) | {} |\n", cells.join(" | "))
        })
        .collect();
    out + &rows.concat()
}

#[test]
fn the_table_is_what_the_compiler_says() {
    let path = root().join("docs/gpu.md");
    let page = std::fs::read_to_string(&path).expect("docs/gpu.md");
    let (head, rest) = page.split_once(BEGIN).expect("the mark before the table");
    let (found, tail) = rest.split_once(END).expect("the mark after the table");
    let wanted = table();
    if std::env::var_os("GPU_TABLE_UPDATE").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{wanted}{END}{tail}")).expect("a writable page");
        return;
    }
    let differ = found.lines().zip(wanted.lines()).find(|(a, b)| a != b);
    assert!(
        found == wanted,
        "docs/gpu.md is stale: run with GPU_TABLE_UPDATE=1 and read the difference; first: {differ:?}"
    );
}
