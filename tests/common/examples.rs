//! The examples, a target that is the same on every host, and the points of a kernel's `test` grid.
//!
//! Comes in: `dsl-examples/*.attn`. Goes out: names, texts, plan keys, sizes. What holds: nothing depends on the
//! machine. Deliberately not done: made-up tensors (see the parent).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use attn_compiler::artifact::DType;
use attn_compiler::expr::eval::Value;
use attn_compiler::sema::model::TestGrid;
use attn_compiler::sema::{CheckedKernel, PlanKey};
use attn_compiler::target::{CpuArch, CpuFacts, Target};

/// A fixed x86-64 with AVX-512 sized vectors.
pub fn fixed_target() -> Target {
    let arch = CpuArch::X86_64 { sse41: true, fma: true };
    Target::Cpu(CpuFacts { arch, l1d: 32 << 10, l2: 1 << 20, l3: 32 << 20, vector_bits: 512, pairs: false })
}

/// Name and text of every example, sorted by name.
pub fn examples() -> Vec<(String, String)> {
    let dir = super::root().join("dsl-examples");
    let entries = std::fs::read_dir(&dir).expect("dsl-examples must be readable");
    let mut found: Vec<(String, String)> = entries
        .map(|e| e.expect("a directory entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "attn"))
        .map(|p| {
            let stem = p.file_stem().expect("a name").to_string_lossy().into_owned();
            (stem, std::fs::read_to_string(&p).expect("a readable example"))
        })
        .collect();
    found.sort();
    assert!(found.len() >= 10, "only {} examples in {}", found.len(), dir.display());
    found
}

/// Every `.attn` file of the gallery and of the shared specifications, sorted, with its text.
pub fn gallery_and_specs() -> Vec<(PathBuf, String)> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a readable specification");
        (path, text)
    };
    let mut files = Vec::new();
    for folder in [super::root().join("dsl-examples"), super::shared().join("specs")] {
        let entries = std::fs::read_dir(&folder).expect("a readable folder");
        let paths = entries.map(|e| e.expect("a directory entry").path());
        files.extend(paths.filter(|p| p.extension().is_some_and(|e| e == "attn")));
    }
    files.sort();
    files.into_iter().map(read).collect()
}

/// Kernels of a text: keyword, name, own text.
pub fn kernels(text: &str) -> Vec<(String, String, String)> {
    let mut out: Vec<(String, String, String)> = Vec::new();
    for line in text.lines() {
        for keyword in ["attention", "recurrence"] {
            if let Some(rest) = line.strip_prefix(keyword).and_then(|rest| rest.strip_prefix(' ')) {
                let name = rest.split(['(', ' ', '{']).next().unwrap_or("");
                out.push((keyword.into(), name.into(), String::new()));
            }
        }
        if let Some((_, _, body)) = out.last_mut() {
            body.push_str(line);
            body.push('\n');
        }
    }
    out
}

/// Size of a dim that no grid names: language.md, rule 13, but for the feature dim, which the caller chooses.
fn default_size(name: &str, features: i64) -> i64 {
    match name {
        "B" => 2,
        "H" | "Hq" => 4,
        "Hkv" => 2,
        "D" | "Dv" | "Dk" | "R" | "Dr" => features,
        _ => 256,
    }
}

/// f32, every optional input present, head counts and feature dims of rule 13; lengths are not part of a key.
pub fn example_key(kernel: &CheckedKernel, features: i64) -> PlanKey {
    let dims = kernel.specialised_dims().filter(|d| d.fixed().is_none() && !d.derived());
    PlanKey {
        kernel: kernel.name.clone(),
        target: fixed_target(),
        float: DType::F32,
        dims: dims.map(|d| (d.name.clone(), default_size(&d.name, features))).collect(),
        statics: BTreeMap::new(),
        present: kernel.inputs().filter(|t| t.optional).map(|t| t.name.clone()).collect::<BTreeSet<_>>(),
        shard: None,
        schedules: Default::default(),
    }
}

/// One point of a grid: every dim's size, and the parameters that the grid sets.
#[derive(Clone, Debug)]
pub struct Point {
    /// Sizes by name, defaults included.
    pub dims: BTreeMap<String, i64>,
    /// Parameters by name.
    pub params: BTreeMap<String, Value>,
}

impl Point {
    /// Pages for the rows of every paged cache, and two that nobody reads.
    pub fn page(&mut self, kernel: &CheckedKernel) {
        for cache in &kernel.caches {
            let Some(pages) = &cache.pages else { continue };
            let shape = &kernel.tensors[cache.tensor].shape;
            let name = |n: Option<usize>| kernel.dims[n.expect("a dim")].name.clone();
            let rows = self.dims[&name(shape[shape.len() - 2].dim)];
            let batch = self.dims[&name(shape[0].dim)];
            let n = (rows + pages.size - 1) / pages.size;
            self.dims.insert(name(Some(pages.per_entry)), n);
            self.dims.insert(name(pages.shape[0].dim), n * batch + 2);
        }
    }

    /// Largest size but for heads and features: what decides how long an evaluation takes.
    pub fn longest(&self) -> i64 {
        self.dims.values().copied().max().unwrap_or(0)
    }
}

/// All points of a kernel's `test` clauses, shortest first; one at the default sizes if there is no clause.
pub fn grid(kernel: &CheckedKernel, features: i64) -> Vec<Point> {
    let names = kernel.dims.iter().filter(|d| d.fixed().is_none() && !d.derived());
    let dims = names.map(|d| (d.name.clone(), default_size(&d.name, features))).collect();
    let start = Point { dims, params: BTreeMap::new() };
    let mut points: Vec<Point> = kernel.tests.iter().flat_map(|grid| product(grid, &start)).collect();
    if points.is_empty() {
        points.push(start);
    }
    points.iter_mut().for_each(|point| point.page(kernel));
    points.sort_by_key(Point::longest);
    points
}

fn product(grid: &TestGrid, start: &Point) -> Vec<Point> {
    grid.axes.iter().fold(vec![start.clone()], |points, axis| {
        let set = |point: &Point, value: Value| {
            let mut point = point.clone();
            match value {
                Value::Int(size) if point.dims.contains_key(&axis.name) => {
                    point.dims.insert(axis.name.clone(), size);
                }
                value => {
                    point.params.insert(axis.name.clone(), value);
                }
            }
            point
        };
        points.iter().flat_map(|p| axis.values.iter().map(|&v| set(p, v)).collect::<Vec<_>>()).collect()
    })
}
