//! Kernels for GPUs, by the line that users take: plan, MLIR, the worker, PTX, an artifact.
//!
//! Comes in: a `.attn` file of the gallery or of the shared specifications. Goes out: its kernels with few heads
//! ([`Subject`]), their code ([`Compiled`]), sizes to run them at. What holds: nothing depends on the machine; that
//! something has no code is told as such ([`Refusal`]), a missing worker is a panic that says what to set. Not here:
//! running and comparing (`tests/gpu_*.rs`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use attn_compiler::artifact::{Artifact, DType};
use attn_compiler::expr::eval::Value;
use attn_compiler::pipeline::{self, CompileError, Front, Plan};
use attn_compiler::sema::{CheckedKernel, PlanKey};
use attn_compiler::target::{GpuArch, Target};
use attn_runtime::{Device, LoadedKernel, RuntimeError, Tensor};
use attnc::{ErrorKind, RunOptions};

use super::examples::{Point, example_key, gallery_and_specs, grid};
use super::{Problem, front, problem, root, run_with};

/// Names of dims that are lengths of queries, or of everything.
const QUERIES: [&str; 4] = ["S", "T", "Sq", "Tq"];
/// Names of dims that are lengths of keys.
const KEYS: [&str; 3] = ["Sk", "Tk", "Sp"];

/// A kernel to compile for GPUs.
pub struct Subject {
    /// `file/kernel`.
    pub name: String,
    /// Whether it is of the gallery.
    pub in_gallery: bool,
    /// The kernel.
    pub spec: CheckedKernel,
    front: Arc<Front>,
}

/// Why there is no code.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Refused by name; otherwise a bug.
    pub is_unsupported: bool,
    /// All that was said.
    pub text: String,
}

/// A kernel's code.
pub struct Compiled {
    /// `file/kernel sm_80 bf16`.
    pub what: String,
    /// Everything decided.
    pub plan: Plan,
    /// What the runtime loads.
    pub artifact: Artifact,
    /// What `float` is.
    pub float: DType,
}

/// Every kernel of the gallery, and those of the shared specifications with fewer heads where their texts fix many.
pub fn subjects() -> Vec<Subject> {
    let mut out = Vec::new();
    for (path, text) in gallery_and_specs() {
        let in_gallery = path.starts_with(root().join("dsl-examples"));
        let text = if in_gallery { text } else { few_heads(&text) };
        out.extend(subjects_of(&path, &text, in_gallery));
    }
    assert!(out.len() > 90, "only {} kernels", out.len());
    out
}

/// The kernels of one text.
pub fn subjects_of(path: &Path, text: &str, in_gallery: bool) -> Vec<Subject> {
    let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
    let front = Arc::new(front(&path.to_string_lossy(), text));
    let subject = |spec: &CheckedKernel| Subject {
        name: format!("{stem}/{}", spec.name),
        in_gallery,
        spec: spec.clone(),
        front: Arc::clone(&front),
    };
    front.checked.kernels.iter().map(subject).collect()
}

/// The text with its counts of heads, and feature dims of 256 and more, left to the plan.
fn few_heads(text: &str) -> String {
    let free = |line: &str| {
        let dims: Vec<&str> = line.split(", ").collect();
        let open = |dim: &&str| {
            let (name, size) = dim.split_once(" = ")?;
            let is_heads = name.trim_start().trim_start_matches("dims ").starts_with('H');
            let size = size.parse::<i64>().ok()?;
            (is_heads || size >= 256).then(|| name.to_string())
        };
        dims.iter().map(|d| open(d).unwrap_or_else(|| (*d).to_string())).collect::<Vec<_>>().join(", ")
    };
    let lines = text.lines().map(|l| if l.trim_start().starts_with("dims ") { free(l) } else { l.into() });
    lines.collect::<Vec<_>>().join("\n")
}

impl Subject {
    /// Sizes that are no lengths: heads, features, counts.
    fn start(&self, features: i64) -> Point {
        let mut point = grid(&self.spec, features)[0].clone();
        for (name, size) in [("H", 2), ("Hq", 4), ("Hkv", 2), ("Hl", 1), ("Hh", 2)] {
            if self.spec.dims.iter().any(|d| d.name == name && d.fixed().is_none()) {
                point.dims.insert(name.into(), size);
            }
        }
        point.params = BTreeMap::new();
        for p in self.spec.params.iter().filter(|p| p.default.is_none()) {
            point.params.insert(p.name.clone(), Value::Int(65));
        }
        point
    }

    /// The key of a plan.
    pub fn key(&self, arch: GpuArch, float: DType, features: i64) -> PlanKey {
        let start = self.start(features);
        let mut key = example_key(&self.spec, features);
        for (name, size) in &mut key.dims {
            *size = start.dims.get(name).copied().unwrap_or(*size);
        }
        let statics = self.spec.params.iter().filter(|p| p.is_static && p.default.is_none());
        key.statics = statics.map(|p| (p.name.clone(), start.params[&p.name])).collect();
        PlanKey { target: Target::Gpu(arch), float, ..key }
    }

    /// The code. Errors: there is none.
    pub fn compile(&self, arch: GpuArch, float: DType, features: i64) -> Result<Compiled, Refusal> {
        let plan = pipeline::plan(&self.spec, &self.key(arch, float, features), &mut ());
        let plan = plan.map_err(|err| Refusal {
            is_unsupported: matches!(err, CompileError::Unsupported(_)),
            text: err.to_string(),
        })?;
        let artifact = attnc::emit::emit(&self.front.map, &plan, &mut ()).map_err(|err| {
            let said = err.to_string();
            assert!(
                !said.contains("LLVM worker `attnc-llvm`, which is not found"),
                "{said}; tests/run sets it"
            );
            Refusal { is_unsupported: err.kind() == ErrorKind::Unsupported, text: said }
        })?;
        let what = format!("{} {} {float}", self.name, arch.name());
        Ok(Compiled { what, plan, artifact, float })
    }

    /// Sizes for a number of queries and one of keys; none if the kernel has no such sizes.
    pub fn at(&self, queries: i64, keys: i64, features: i64) -> Option<Point> {
        let has = |names: &[&str]| self.spec.dims.iter().any(|d| names.contains(&d.name.as_str()));
        if queries != keys && !has(&KEYS) {
            return None;
        }
        let mut point = self.start(features);
        let batch = if queries > 64 { 1 } else { 2 };
        for dim in self.spec.dims.iter().filter(|d| d.fixed().is_none() && !d.derived()) {
            let length = match dim.name.as_str() {
                "B" => batch,
                name if QUERIES.contains(&name) => queries,
                name if KEYS.contains(&name) => keys,
                _ => continue,
            };
            let within = dim.bounds.map_or(length, |(lo, hi)| length.clamp(lo, hi));
            point.dims.insert(dim.name.clone(), within);
        }
        let rows = QUERIES.iter().find_map(|q| point.dims.get(*q)).copied().unwrap_or(1);
        let appends = self.spec.caches.iter().any(|c| c.appended.is_some() || c.len.is_some());
        if appends && rows > keys {
            return None;
        }
        point.page(&self.spec);
        Some(point)
    }
}

impl Compiled {
    /// The PTX.
    pub fn ptx(&self) -> &str {
        std::str::from_utf8(&self.artifact.code).expect("PTX is text")
    }

    /// Loaded into the simulator.
    pub fn load(&self) -> Result<LoadedKernel, RuntimeError> {
        LoadedKernel::load_on(self.artifact.clone(), &[], &Device::Simulator)
    }

    /// Made-up arguments at these sizes.
    pub fn problem(&self, point: &Point) -> Problem {
        let dims: Vec<(&str, i64)> = point.dims.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        let seed = dims.iter().fold(11, |acc, (_, v)| acc * 31 + *v as u64);
        let mut problem = problem(&self.plan.kernel, &dims, &|name| range(name, point), seed);
        let defaults = self.plan.program.params.iter();
        let asked = point.params.iter().filter(|(n, _)| defaults.clone().any(|p| p.name == **n));
        problem.inputs.params.extend(asked.map(|(n, v)| (n.clone(), *v)));
        problem
    }

    /// Runs in the simulator; outputs as the tests' [`super::run`] gives them.
    pub fn run(
        &self,
        kernel: &LoadedKernel,
        problem: &Problem,
        sim_seed: u64,
    ) -> Result<Vec<Tensor>, RuntimeError> {
        let params: Vec<(&str, Value)> =
            problem.inputs.params.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        let options = RunOptions { sim_seed, ..RunOptions::default() };
        run_with(kernel, &self.plan.kernel, problem, &params, &options)
    }
}

/// Range of an int input: counts are small, bytes take all their values, ids few, lists of blocks of 32 end with -1, positions lie in their table, all
/// else in 0..=length.
fn range(name: &str, point: &Point) -> (i64, i64) {
    let size = |names: &[&str]| names.iter().find_map(|n| point.dims.get(*n)).copied();
    let lengths = QUERIES.iter().chain(&KEYS).filter_map(|n| point.dims.get(*n));
    let longest = lengths.max().copied().unwrap_or(1);
    match name {
        // Rows stored as bytes.
        "k" | "v" => (-127, 127),
        "count" => (0, 2),
        "doc" => (0, 7),
        "kv_len" | "ctx" => (size(&["Sq", "T"]).unwrap_or(1).min(longest), size(&["Sk"]).unwrap_or(1)),
        "list" => (-1, (size(&["S"]).unwrap_or(1) - 1) / 32),
        "pos" => (0, size(&["L"]).map_or(longest, |n| n - 1)),
        _ => (0, longest),
    }
}

/// Entries of a PTX text, with theirs.
pub fn entries(ptx: &str) -> Vec<(&str, &str)> {
    const HEAD: &str = ".visible .entry ";
    let starts: Vec<usize> = ptx.match_indices(HEAD).map(|(at, _)| at).collect();
    let ends = starts.iter().copied().skip(1).chain([ptx.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| {
            let text = &ptx[start..end];
            (text[HEAD.len()..].split(['(', '\n']).next().unwrap_or("").trim(), text)
        })
        .collect()
}
