//! Every stage of every example as text, beside its source, in `snapshots/<stage>/NAME.snap`, and what users are
//! told for typical mistakes, in `snapshots/diagnostics/`.
//!
//! What holds: the target is fixed, so that the texts are the same on every host. After a wanted change run with
//! `INSTA_UPDATE=always` and read the difference.

mod common;

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir;
use attn_compiler::backend::cpu::{Listing, emit_listing};
use attn_compiler::diagnostic::render::{Style, human};
use attn_compiler::diagnostic::{Diagnostic, SourceMap};
use attn_compiler::pipeline::{self, CompileError, Front, Plan, Stage};
use attn_compiler::sema;
use attn_compiler::syntax;
use attn_compiler::target::{GpuArch, Target};
use attn_compiler::tile_ir;
use attn_compiler_gpu::kernels;
use attn_compiler_gpu::simt_ir::text;
use common::examples::{example_key, examples};
use common::gpu::subjects_of;
use common::{front, root};

/// Compares with, or writes, `snapshots/<stage>/<name>.snap`.
fn snapshot(stage: &str, name: &str, source: &str, output: &str) {
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(root().join("snapshots").join(stage));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let text = format!("{}\n\n=== {stage} ===\n{}", source.trim_end(), output.trim_end());
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// The plan of every kernel of every example, and the tile IR as lowering left it.
fn planned(mut each: impl FnMut(&str, &str, &Plan, &str)) {
    for (name, text) in examples() {
        let front = front(&name, &text);
        for kernel in &front.checked.kernels {
            let mut lowered = Lowered(String::new());
            let plan = pipeline::plan(kernel, &example_key(kernel, 32), &mut lowered)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let snapshot = match front.checked.kernels.len() {
                1 => name.clone(),
                _ => format!("{name}.{}", kernel.name),
            };
            each(&snapshot, &text, &plan, &lowered.0);
        }
    }
}

/// Keeps the tile IR after lowering.
struct Lowered(String);

impl pipeline::Observer for Lowered {
    fn stage(&mut self, stage: Stage, _: std::time::Duration, text: &dyn Fn() -> String) {
        if stage == Stage::Lower {
            self.0 = text();
        }
    }
}

#[test]
fn ast() {
    for (name, text) in examples() {
        let mut map = SourceMap::default();
        let source = map.add(name.as_str(), text.as_str());
        let (file, said) = syntax::parse(&map, source);
        assert!(!said.has_errors(), "{name}");
        snapshot("ast", &name, &text, &syntax::print::file(&file));
    }
}

#[test]
fn attnir() {
    planned(|name, source, plan, _| {
        let text = format!(
            "{}\n--- schedule ---\n{}",
            attn_ir::text::print_kernel(&plan.kernel).trim_end(),
            plan.schedule_text()
        );
        snapshot("attnir", name, source, &text);
    });
}

#[test]
fn tile() {
    planned(|name, source, _, lowered| snapshot("tile", name, source, lowered));
}

#[test]
fn passes() {
    planned(|name, source, plan, _| {
        snapshot("passes", name, source, &tile_ir::text::print(&plan.program));
    });
}

/// Examples whose CLIF is kept: it is long, and what the others would add is in their tile IR.
const CLIF: &[&str] = &[
    "alibi",
    "bias",
    "bidirectional",
    "bigbird",
    "bigbird_plan",
    "causal",
    "dilated_heads",
    "doc_causal",
    "dropout",
    "gqa_decode",
    "lightning",
    "longformer",
    "minilm",
    "nsa",
    "prefix_lm",
    "rope",
    "sigmoid",
    "softcap",
    "swa_sinks",
    "t5",
];

#[test]
fn clif() {
    planned(|name, source, plan, _| {
        if !CLIF.contains(&name) {
            return;
        }
        let Target::Cpu(facts) = &plan.target else { panic!("{name} is planned for a CPU") };
        let code = emit_listing(&plan.program, facts, Listing { clif: true, asm: false })
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        snapshot("clif", name, source, &code.clif);
    });
}

/// A correct kernel; each mistake replaces one part of it.
const GOOD: &str = "\
attention swa(window: int = 64) {
  dims B, Hq, Hkv, S, D
  input q    : float[B, Hq, S, D]
  input k, v : float[B, Hkv, S, D]
  input doc  : i32[B, S]
  heads grouped
  score  = dot(q, k) / sqrt(D)
  mask   = j in (i - window, i] & doc[b, i] == doc[b, j]
  weight = softmax(score)
  return weight @ v, lse
}
";

/// Examples whose SIMT IR is kept, by the name of the snapshot: products of warps, those of warpgroups whose operands come by
/// tensor maps, exact products; feature dims of 16 and 64.
const SIMT: [(&str, &str, GpuArch, DType, i64); 3] = [
    ("bidirectional", "bidirectional", GpuArch::Sm80, DType::Bf16, 16),
    ("bidirectional.sm_90a", "bidirectional", GpuArch::Sm90a, DType::Bf16, 64),
    ("block_diagonal", "block_diagonal", GpuArch::Sm80, DType::F32, 16),
];

#[test]
fn simt() {
    for (snap, name, arch, float, features) in SIMT {
        let path = root().join(format!("dsl-examples/{name}.attn"));
        let source = std::fs::read_to_string(&path).expect("an example");
        let subject = &subjects_of(&path, &source, true)[0];
        let plan = pipeline::plan(&subject.spec, &subject.key(arch, float, features), &mut ());
        let plan = plan.unwrap_or_else(|e| panic!("{snap}: {e}"));
        let made = kernels(&plan.program, arch).unwrap_or_else(|e| panic!("{snap}: {e}"));
        // Of two forms of a launch the last.
        let kernel = made.kernels.last().expect("a kernel");
        snapshot("simt", snap, &source, &text::print(kernel));
    }
}

/// Examples whose PTX for sm_80 is kept: products on tensor cores, exact products, a recurrence; feature dims of 16.
const PTX: [(&str, DType); 3] =
    [("bidirectional", DType::Bf16), ("block_diagonal", DType::F32), ("linear", DType::F32)];

/// Needs the LLVM worker, which `ATTN_LLVM` names; `tests/run` sets it.
#[test]
fn ptx() {
    for (name, float) in PTX {
        let path = root().join(format!("dsl-examples/{name}.attn"));
        let text = std::fs::read_to_string(&path).expect("an example");
        let subject = &subjects_of(&path, &text, true)[0];
        let compiled = subject.compile(GpuArch::Sm80, float, 16);
        let compiled = compiled.unwrap_or_else(|no| panic!("{name}: {}", no.text));
        snapshot("ptx", name, &text, &compiled.ptx().replace('\t', "  "));
    }
}

/// Name, what is replaced, by what.
const MISTAKES: [(&str, &str, &str); 17] = [
    ("misspelt_name", "(i - window, i]", "(i - windwo, i]"),
    ("misspelt_keyword", "  weight = softmax", "  wieght = softmax"),
    ("missing_brace", "lse\n}\n", "lse\n"),
    ("python_and", "] & doc", "] and doc"),
    ("double_ampersand", "] & doc", "] && doc"),
    ("and_mixed_with_or", "] & doc[b, i] == doc[b, j]", "] & doc[b, i] == doc[b, j] | j < 4"),
    ("wrong_rank", "doc[b, i] ==", "doc[i] =="),
    ("mask_is_a_number", "= j in (i - window, i] & doc[b, i] == doc[b, j]", "= i - j"),
    ("unknown_dtype", ": i32[B, S]", ": int32[B, S]"),
    ("heads_not_said", "  heads grouped\n", ""),
    ("unknown_function", "softmax(score)", "softmaxx(score)"),
    ("no_weight", "  weight = softmax(score)\n", ""),
    ("no_return", "  return weight @ v, lse\n", ""),
    ("two_masks", "  weight =", "  mask = j <= i\n  weight ="),
    ("unknown_output", ", lse\n", ", lsee\n"),
    ("schedule_tile_of_zero", "  return", "  schedule cpu { tile = [0, 64] }\n  return"),
    ("schedule_without_target", "  return", "  schedule { tile = [4, 64] }\n  return"),
];

fn rendered(front: &Front, d: &Diagnostic) -> String {
    human(&front.map, d, Style { color: false, ascii: true })
}

/// What is said about a text: errors and warnings, or those of a plan for it.
fn told(text: &str) -> String {
    let front = pipeline::front("swa.attn", text, &mut sema::no_files, &mut ());
    let said: String = front.diagnostics.items().iter().map(|d| rendered(&front, d)).collect();
    if front.diagnostics.has_errors() {
        return said;
    }
    let kernel = front.checked.kernel(None).expect("one kernel");
    match pipeline::plan(kernel, &example_key(kernel, 32), &mut ()) {
        Ok(_) => said,
        Err(CompileError::Spec(d)) => said + &rendered(&front, &d),
        Err(CompileError::Unsupported(u)) => {
            said + &u.diagnostic().map_or_else(|| u.to_string(), |d| rendered(&front, &d))
        }
        Err(CompileError::Internal(bug)) => panic!("{bug}"),
    }
}

#[test]
fn diagnostics() {
    assert_eq!(told(GOOD), "");
    for (name, from, to) in MISTAKES {
        assert!(GOOD.contains(from), "{name}: `{from}` is not in the text");
        let text = GOOD.replace(from, to);
        let said = told(&text);
        assert!(!said.is_empty(), "{name}: nothing is said about\n{text}");
        snapshot("diagnostics", name, &text, &said);
    }
}
