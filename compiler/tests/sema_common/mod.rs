//! Shared by the tests of `sema`: specifications by name, plan keys, printed expressions.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::Attention;
use attn_compiler::diagnostic::render::{Style, human};
use attn_compiler::diagnostic::{Diagnostics, SourceMap};
use attn_compiler::expr::print::print;
use attn_compiler::expr::{ExprId, TensorId};
use attn_compiler::sema::{Checked, PlanKey, check};
use attn_compiler::target::{CpuArch, CpuFacts, Target};

/// Checks a text that has no files beside it.
pub fn check_text(text: &str) -> (SourceMap, Checked, Diagnostics) {
    let mut map = SourceMap::default();
    let id = map.add("test.attn", text);
    let (checked, diagnostics) = check(&mut map, id, &mut attn_compiler::sema::no_files);
    (map, checked, diagnostics)
}

/// All diagnostics as a person sees them.
pub fn rendered(map: &SourceMap, diagnostics: &Diagnostics) -> String {
    let style = Style { color: false, ascii: true };
    diagnostics.items().iter().map(|d| human(map, d, style)).collect()
}

/// A CPU without any particular feature.
pub fn cpu() -> Target {
    let arch = CpuArch::X86_64 { sse41: true, fma: true };
    Target::Cpu(CpuFacts { arch, l1d: 32 << 10, l2: 1 << 20, l3: 8 << 20, vector_bits: 256, pairs: false })
}

/// A plan key for f32 with these sizes.
pub fn key(kernel: &str, dims: &[(&str, i64)]) -> PlanKey {
    PlanKey {
        kernel: kernel.into(),
        target: cpu(),
        float: DType::F32,
        dims: dims.iter().map(|(n, x)| (n.to_string(), *x)).collect(),
        statics: BTreeMap::new(),
        present: BTreeSet::new(),
        shard: None,
        schedules: Default::default(),
    }
}

/// An expression of an attention as text.
pub fn text(a: &Attention, e: ExprId) -> String {
    print(&a.pool, e, &|t: TensorId| a.tensor(t).name.clone())
}

/// The specifications of the shared folder: file stem and text, in order.
pub fn specs() -> Vec<(String, String)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var("ATTN_SHARED").map_or(root, std::path::PathBuf::from);
    let list = std::fs::read_dir(shared.join("specs")).expect("the shared specifications must be readable");
    let mut files: Vec<std::path::PathBuf> = list.map(|f| f.expect("a directory entry").path()).collect();
    files.sort();
    let stem =
        |p: &std::path::Path| p.file_stem().map_or(String::new(), |s| s.to_string_lossy().into_owned());
    files.iter().map(|p| (stem(p), std::fs::read_to_string(p).expect("a readable file"))).collect()
}

/// The text of one specification.
pub fn spec(stem: &str) -> String {
    specs().into_iter().find(|(s, _)| s == stem).map(|(_, t)| t).expect("a specification of this name")
}
