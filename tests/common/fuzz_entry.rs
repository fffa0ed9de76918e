//! What the fuzz targets of `fuzz/` do with bytes, and `tests/fuzz_corpus.rs` with the corpus. Comes in: anything.
//! What holds: a bug of ours panics, everything else returns. Deliberately not done: running machine code.

use std::collections::{BTreeMap, BTreeSet};

use attn_compiler::artifact::DType;
use attn_compiler::diagnostic::SourceMap;
use attn_compiler::diagnostic::render::{Style, human};
use attn_compiler::expr::eval::Value;
use attn_compiler::pipeline::{self, CompileError};
use attn_compiler::sema::{self, CheckedKernel, PlanKey};
use attn_compiler::syntax;
use attn_compiler::target::{CpuArch, CpuFacts, Target};

/// The bytes as text; what is not UTF-8 is replaced.
fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// A text that parses is printed, and the print parses to the same tree.
pub fn parse(data: &[u8]) {
    let text = text(data);
    let mut map = SourceMap::default();
    let source = map.add("fuzz.attn", text.as_str());
    let (file, said) = syntax::parse(&map, source);
    for d in said.items() {
        human(&map, d, Style { color: false, ascii: true });
    }
    if said.has_errors() {
        return;
    }
    let printed = syntax::print::file(&file);
    let source = map.add("printed.attn", printed.as_str());
    let (again, said) = syntax::parse(&map, source);
    assert!(!said.has_errors(), "the print does not parse:\n{printed}");
    assert_eq!(file, again, "the print means something else:\n{printed}");
}

/// Formatting a formatted text changes nothing.
pub fn format(data: &[u8]) {
    if let Ok(once) = syntax::format(&text(data)) {
        match syntax::format(&once) {
            Ok(twice) => assert_eq!(once, twice, "formatting is not idempotent"),
            Err(_) => panic!("a formatted text does not parse:\n{once}"),
        }
    }
}

/// Parses, checks, plans at fixed dims and emits; an internal error is a bug.
pub fn compile(data: &[u8]) {
    let text = text(data);
    let front = pipeline::front("fuzz.attn", &text, &mut sema::no_files, &mut ());
    for d in front.diagnostics.items() {
        human(&front.map, d, Style { color: false, ascii: true });
    }
    for kernel in &front.checked.kernels {
        let made = pipeline::plan(kernel, &key(kernel), &mut ());
        match made.and_then(|plan| pipeline::emit(&plan, &mut ())) {
            Ok(_) | Err(CompileError::Spec(_) | CompileError::Unsupported(_)) => {}
            Err(CompileError::Internal(bug)) => panic!("{bug}\n{text}"),
        }
    }
}

fn key(kernel: &CheckedKernel) -> PlanKey {
    let arch = CpuArch::X86_64 { sse41: true, fma: true };
    let facts = CpuFacts { arch, l1d: 32 << 10, l2: 1 << 20, l3: 32 << 20, vector_bits: 512, pairs: false };
    let statics = kernel.params.iter().filter(|p| p.is_static && p.default.is_none());
    PlanKey {
        kernel: kernel.name.clone(),
        target: Target::Cpu(facts),
        float: DType::F32,
        dims: kernel.specialised_dims().map(|d| (d.name.clone(), 8)).collect::<BTreeMap<_, _>>(),
        statics: statics.map(|p| (p.name.clone(), Value::Int(2))).collect(),
        present: BTreeSet::new(),
        shard: None,
        schedules: Default::default(),
    }
}
