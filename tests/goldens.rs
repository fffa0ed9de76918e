//! Every golden through the facade: other people's attention, to the tolerance of its class.
//!
//! `tests/goldens/README.md` says what the files hold. A golden whose kernel the CPU target cannot run yet stands
//! in [`UNSUPPORTED`] with the clause that the compiler names: the test fails if one of them starts to work, if
//! the compiler gives another reason, and if a golden that is not in the list stops working. Distributed kernels run
//! on rings of [`RANKS`] ranks.
//!
//! With `GOLDENS_UPDATE=1` the errors seen go to `tests/goldens/errors.json`, from which `tests/oracles/page.py` writes
//! `docs/goldens.md`. Without it every golden must have an entry and stand in the page; the figures depend on the machine.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use attn_compiler::artifact::TensorRole;
use attn_compiler::attn_ir::evaluate::evaluate;
use attn_compiler::expr::Ty;
use attn_compiler::host::{Data, Inputs, View};
use attn_compiler::sema::{self, CheckedKernel, PlanKey};
use attn_compiler::tolerance::{Gate, Report, check_gate};
use attnc::io::{HostTensor, TensorFile};
use attnc::{
    DType, Error, ErrorKind, Input, Kernel, Output, Plan, RingPlan, RunOptions, Target, Tensor, Value,
};
use serde_json::json;

/// (beginning of the golden's name, clause that the compiler names)
const UNSUPPORTED: &[(&str, &str)] = &[];

/// Numbers of ranks of a distributed kernel.
const RANKS: [usize; 4] = [1, 2, 4, 8];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

/// A golden in memory.
struct Golden {
    name: String,
    meta: HashMap<String, String>,
    tensors: BTreeMap<String, HostTensor>,
}

impl Golden {
    fn read(path: &Path) -> Golden {
        let mut file = TensorFile::open(path).unwrap();
        let tensors = file.names().into_iter().map(|n| (n.clone(), file.read(&n).unwrap())).collect();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Golden { name, meta: file.metadata(), tensors }
    }

    fn json(&self, key: &str) -> serde_json::Value {
        serde_json::from_str(&self.meta[key]).unwrap()
    }

    fn list(&self, key: &str) -> Vec<String> {
        self.json(key).as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_string()).collect()
    }

    /// Sizes by name, also those that only the shapes of bound tensors tell (pages).
    fn all_dims(&self, spec: &CheckedKernel) -> HashMap<String, i64> {
        let mut dims: HashMap<String, i64> = self.dims().into_iter().collect();
        for fact in spec.inputs() {
            let Some(tensor) = self.tensors.get(&fact.name) else { continue };
            let shape = tensor.shape();
            for (axis, size) in spec.bound_shape(fact).iter().enumerate() {
                if let Some(n) = size.dim {
                    dims.entry(spec.dims[n].name.clone()).or_insert(shape[axis] as i64);
                }
            }
        }
        dims
    }

    /// Names of the tensors that a run updates in place.
    fn updated(&self) -> Vec<String> {
        if self.meta.contains_key("updated") { self.list("updated") } else { vec![] }
    }

    fn dims(&self) -> Vec<(String, i64)> {
        self.json("dims").as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.as_i64().unwrap())).collect()
    }

    fn dtype(&self) -> DType {
        DType::from_name(&self.meta["dtype"]).unwrap()
    }

    /// The tensor that an output is compared with: of its name, or torch's (`o_torch`).
    fn wanted(&self, output: &str) -> Option<&HostTensor> {
        self.tensors.get(output).or_else(|| self.tensors.get(&format!("{output}_torch")))
    }

    /// Shape of an output; one that the file leaves out is a vector of rows, `o` without its last dim.
    fn output_shape(&self, name: &str) -> Vec<usize> {
        match self.wanted(name) {
            Some(tensor) => tensor.shape(),
            None => self.wanted("o").unwrap().shape().split_last().map_or(vec![], |(_, rows)| rows.to_vec()),
        }
    }

    fn values(&self, name: &str) -> Vec<f64> {
        self.tensors[name].view().unwrap().to_f64_vec()
    }

    /// The kernel with the parameters of the golden, in their declared types.
    fn kernel(&self) -> (Kernel, BTreeMap<String, Value>) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&self.meta["spec"]);
        let mut kernel = Kernel::from_file(path).unwrap().select(&self.meta["kernel"]).unwrap();
        let mut params = BTreeMap::new();
        for (name, value) in self.json("params").as_object().unwrap() {
            let declared = kernel.spec().unwrap().params.iter().find(|p| p.name == *name).unwrap().ty;
            let value = match declared {
                Ty::Int => Value::Int(value.as_i64().unwrap()),
                Ty::Float => Value::Float(value.as_f64().unwrap()),
                Ty::Bool => Value::Bool(value.as_bool().unwrap()),
            };
            kernel = kernel.param(name, value);
            params.insert(name.clone(), value);
        }
        let optional: Vec<String> =
            kernel.spec().unwrap().inputs().filter(|t| t.optional).map(|t| t.name.clone()).collect();
        for name in optional.into_iter().filter(|name| self.tensors.contains_key(name)) {
            kernel = kernel.with_input(&name);
        }
        (kernel, params)
    }
}

/// The largest |score| over the pairs that are not masked, by the dense reference: f32 gates scale with it.
fn max_abs_score(golden: &Golden, kernel: &Kernel, params: &BTreeMap<String, Value>) -> f64 {
    let spec = kernel.spec().unwrap();
    let is_static = |name: &str| spec.params.iter().any(|p| p.name == name && p.is_static);
    let run_time = |name: &str| spec.dims.iter().any(|d| d.name == name && !d.specialised);
    let present = spec.inputs().filter(|t| t.optional && golden.tensors.contains_key(&t.name));
    let key = PlanKey {
        kernel: spec.name.clone(),
        target: Target::host().resolve().unwrap(),
        float: golden.dtype(),
        dims: golden.dims().into_iter().filter(|(name, _)| !run_time(name)).collect(),
        statics: params.iter().filter(|(n, _)| is_static(n)).map(|(n, v)| (n.clone(), *v)).collect(),
        present: present.map(|t| t.name.clone()).collect(),
        shard: None,
        schedules: Default::default(),
    };
    let ir = sema::instantiate(spec, &key).unwrap();
    let params = params.iter().map(|(n, v)| (n.clone(), *v)).collect();
    let mut inputs = Inputs { dims: golden.all_dims(spec), params, tensors: HashMap::new() };
    for (_, decl) in ir.inputs() {
        let bound = golden.tensors[&decl.name].view().unwrap();
        let axis = |dim| decl.layout.iter().position(|&d| d == dim).unwrap();
        let order: Vec<usize> = (0..decl.layout.len()).map(axis).collect();
        let view = bound.permuted(&order).unwrap();
        let elements = view.to_f64_vec();
        let data = match decl.dtype.value_ty() {
            Ty::Float => Data::Float(elements),
            Ty::Int => Data::Int(elements.into_iter().map(|x| x as i64).collect()),
            Ty::Bool => Data::Bool(elements.into_iter().map(|x| x != 0.0).collect()),
        };
        inputs.tensors.insert(decl.name.clone(), View::contiguous(view.shape().to_vec(), data).unwrap());
    }
    evaluate(&ir, inputs).unwrap().max_abs_score
}

/// The gate of an output in a tolerance class, as `tests/goldens/README.md` tells it.
fn gate(class: &str, output: &str, max_abs_score: f64, wanted: &[f64]) -> Gate {
    if let Some(dtype) = class.strip_suffix("_linear") {
        let largest = wanted.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        // States are f32 whatever the type of the rows.
        let (eps, rel_l2) = match (dtype, output) {
            ("f16", "o") => (2f64.powi(-10), 2e-3),
            ("bf16", "o") => (2f64.powi(-7), 1e-2),
            _ => (f64::from(f32::EPSILON), 5e-6),
        };
        return Gate { atol: 8.0 * eps * largest, rtol: 0.0, rel_l2: Some(rel_l2), groups: 1 };
    }
    let scale = (max_abs_score / 4.0).max(1.0);
    let lse = output == "lse";
    let (atol, rtol, rel_l2) = match (class, lse) {
        ("f32", false) => (2e-6 * scale, 1e-5, Some(2e-6)),
        ("f32", true) => (1e-5 * scale, 0.0, None),
        ("f16", false) => (2e-3, 2e-3, Some(1e-3)),
        ("bf16", false) => (1.5e-2, 1.6e-2, Some(6e-3)),
        ("f16" | "bf16", true) => (1e-4, 0.0, None),
        other => panic!("no gate for {other:?}"),
    };
    Gate { atol, rtol, rel_l2, groups: 1 }
}

/// What came of a golden: how far it was off, which clause is not supported, or what went wrong.
enum Outcome {
    Right(Seen),
    Unsupported(String),
    Wrong(String),
}

/// The largest errors of all outputs, and of all rings.
#[derive(Default)]
struct Seen {
    max_abs: f64,
    /// Output of `max_abs`, and the gate that it was held to.
    output: String,
    gate: Option<Gate>,
    /// Relative L2 of `o`.
    rel_l2: f64,
    n_compared: usize,
}

impl Seen {
    fn add(&mut self, output: &str, report: &Report) {
        self.n_compared += 1;
        if report.max_abs > self.max_abs || self.output.is_empty() {
            (self.max_abs, self.output, self.gate) = (report.max_abs, output.to_string(), Some(report.gate));
        }
        if output == "o" {
            self.rel_l2 = self.rel_l2.max(report.rel_l2);
        }
    }

    /// One entry of `errors.json`, figures to two digits.
    fn entry(&self, class: &str) -> serde_json::Value {
        let short = |x: f64| format!("{x:.1e}").parse::<f64>().unwrap();
        let gate = self.gate.as_ref().map(|g| {
            json!({ "class": class, "atol": short(g.atol), "rtol": short(g.rtol), "rel_l2": g.rel_l2.map(short) })
        });
        json!({ "max_abs": short(self.max_abs), "output": self.output, "rel_l2_of_o": short(self.rel_l2), "gate": gate })
    }
}

/// What a golden runs on: one device, or a ring.
enum Runner {
    One(Plan),
    Ring(RingPlan),
}

impl Runner {
    fn all(golden: &Golden) -> Result<Vec<Runner>, Error> {
        let (kernel, _) = golden.kernel();
        let dims = golden.dims();
        let dims: Vec<(&str, i64)> = dims.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        let kernel = kernel.without_cache();
        if kernel.spec()?.ring.is_none() {
            return Ok(vec![Runner::One(kernel.plan(&dims, golden.dtype())?)]);
        }
        RANKS.iter().map(|&n| Ok(Runner::Ring(kernel.plan_ring(&dims, golden.dtype(), n)?))).collect()
    }

    /// Name and type of every output; a shard has others than the ring, whose results are f32.
    fn outputs(&self, golden: &Golden) -> Vec<(String, DType)> {
        match self {
            Runner::Ring(_) => golden.list("outputs").into_iter().map(|name| (name, DType::F32)).collect(),
            Runner::One(plan) => {
                let outputs = plan.artifact().tensors.iter().filter(|t| t.role == TensorRole::Output);
                outputs.map(|t| (t.name.clone(), t.dtype)).collect()
            }
        }
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> Result<(), Error> {
        match self {
            Runner::One(plan) => plan.run(inputs, outputs),
            Runner::Ring(plan) => plan.run(inputs, outputs, &[], &RunOptions::threads(1).unwrap()),
        }
    }
}

fn run(golden: &Golden) -> Outcome {
    let runners = match Runner::all(golden) {
        Ok(runners) => runners,
        Err(err) if err.kind() == ErrorKind::Unsupported => return Outcome::Unsupported(err.to_string()),
        Err(err) => return Outcome::Wrong(err.to_string()),
    };
    let (kernel, params) = golden.kernel();
    let scores = max_abs_score(golden, &kernel, &params);
    let mut seen = Seen::default();
    for runner in &runners {
        let outcome =
            results(golden, runner).and_then(|outputs| compare(golden, &outputs, scores, &mut seen));
        if let Err(why) = outcome {
            return Outcome::Wrong(why);
        }
    }
    match golden.list("outputs").len() * runners.len() {
        n if n == seen.n_compared => Outcome::Right(seen),
        n => Outcome::Wrong(format!("{} outputs of {n} were compared", seen.n_compared)),
    }
}

/// Outputs and updated tensors after one run, by name.
fn results(golden: &Golden, runner: &Runner) -> Result<Vec<(String, Tensor)>, String> {
    let mut inputs = golden.list("inputs");
    let updated = golden.updated();
    inputs.retain(|name| !updated.contains(name));
    let inputs: Vec<_> =
        inputs.iter().map(|name| (name.as_str(), golden.tensors[name].view().unwrap())).collect();
    let zeros = |(name, dtype): (String, DType)| {
        let tensor = Tensor::zeros(dtype, &golden.output_shape(&name)).unwrap();
        (name, tensor)
    };
    let mut outputs: Vec<(String, Tensor)> = runner.outputs(golden).into_iter().map(zeros).collect();
    outputs.extend(updated.iter().map(|name| (name.clone(), golden.tensors[name].copy().unwrap())));
    let mut views: Vec<_> = outputs.iter_mut().map(|(name, t)| (name.as_str(), t.view_mut())).collect();
    runner.run(&inputs, &mut views).map_err(|err| err.to_string())?;
    drop(views);
    Ok(outputs)
}

/// Holds the results to the gates of the golden's class.
fn compare(
    golden: &Golden,
    results: &[(String, Tensor)],
    scores: f64,
    seen: &mut Seen,
) -> Result<(), String> {
    let class = &golden.meta["tolerance_class"];
    let updated = golden.updated();
    for name in &updated {
        let (_, found) = results.iter().find(|(n, _)| n == name).unwrap();
        let wanted = golden.tensors[&format!("{name}.after")].copy().unwrap();
        if found.bytes() != wanted.bytes() {
            return Err(format!("`{name}` is not what it should be after the run"));
        }
    }
    for (name, tensor) in results.iter().filter(|(name, _)| !updated.contains(name)) {
        let Some(wanted) = golden.wanted(name) else { continue };
        let (found, shape) = (tensor.view().to_f64_vec(), tensor.shape().to_vec());
        let wanted = wanted.view().unwrap().to_f64_vec();
        // A recurrence is right for each (b, h).
        let heads = if class.ends_with("_linear") { shape[0] * shape[1] } else { 1 };
        let report = check_gate(&found, &wanted, gate(class, name, scores, &wanted).in_groups(heads));
        if !report.ok {
            return Err(describe(name, &report));
        }
        seen.add(name, &report);
        if name == "o" && golden.tensors.contains_key("o_low") {
            seen.n_compared += 1;
            let distance = |x: &[f64]| x.iter().zip(&wanted).fold(0.0f64, |m, (x, r)| m.max((x - r).abs()));
            let (ours, theirs) = (distance(&found), distance(&golden.values("o_low")));
            if ours > 2.0 * theirs + 1e-5 {
                return Err(format!("o is off by {ours:.2e}, torch in the same type by {theirs:.2e}"));
            }
        }
    }
    Ok(())
}

fn describe(name: &str, r: &Report) -> String {
    format!(
        "{name}: max abs error {:.2e}, relative L2 {:.2e}, {} NaN or infinite, worst at {}; allowed {:?}",
        r.max_abs, r.rel_l2, r.n_nonfinite, r.worst, r.gate
    )
}

#[test]
fn every_golden_is_right_or_listed_with_its_reason() {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    paths.sort();
    assert!(paths.len() > 50, "{} goldens; are they checked out?", paths.len());
    let (mut complaints, mut errors) = (Vec::new(), BTreeMap::new());
    let (mut n_right, mut n_unsupported) = (0, 0);
    for path in paths {
        let golden = Golden::read(&path);
        if golden.meta["kind"] == "table" {
            continue;
        }
        let name = &golden.name;
        let listed = UNSUPPORTED.iter().find(|(prefix, _)| name.starts_with(prefix));
        match (run(&golden), listed) {
            (Outcome::Right(seen), None) => {
                n_right += 1;
                errors.insert(name.clone(), seen.entry(&golden.meta["tolerance_class"]));
            }
            (Outcome::Unsupported(reason), Some((_, clause))) if reason.contains(&format!("`{clause}`")) => {
                n_unsupported += 1;
            }
            (Outcome::Right(_), Some(_)) => {
                complaints.push(format!("{name} works now: take it out of UNSUPPORTED"))
            }
            (Outcome::Unsupported(reason), listed) => {
                let first = reason.lines().next().unwrap_or("");
                complaints.push(format!("{name} is unsupported for another reason than {listed:?}: {first}"));
            }
            (Outcome::Wrong(why), _) => complaints.push(format!("{name}: {why}")),
        }
    }
    println!("{n_right} goldens right, {n_unsupported} unsupported and listed");
    assert!(complaints.is_empty(), "{}\n({n_right} right)", complaints.join("\n"));
    recorded(&errors);
}

/// Every golden that ran has an entry in `errors.json`, which is written anew if asked for, and stands in the page.
fn recorded(errors: &BTreeMap<String, serde_json::Value>) {
    let path = folder().join("errors.json");
    if std::env::var_os("GOLDENS_UPDATE").is_some_and(|v| v == "1") {
        let target = Target::host().resolve().unwrap().to_string();
        let lines: Vec<String> =
            errors.iter().map(|(name, entry)| format!("    {}: {entry}", json!(name))).collect();
        let text = format!(
            "{{\n  \"target\": {},\n  \"goldens\": {{\n{}\n  }}\n}}\n",
            json!(target),
            lines.join(",\n")
        );
        std::fs::write(&path, text).unwrap();
        println!("{} written; now run tests/oracles/page.py", path.display());
        return;
    }
    let help = "run this test with GOLDENS_UPDATE=1, then tests/oracles/page.py";
    let known: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).expect(help)).unwrap();
    let known: BTreeSet<&String> = known["goldens"].as_object().unwrap().keys().collect();
    let other: Vec<_> = known.symmetric_difference(&errors.keys().collect()).copied().collect();
    assert!(other.is_empty(), "{} is of other goldens, {other:?}: {help}", path.display());
    let page = folder().join("../../docs/goldens.md");
    let page = std::fs::read_to_string(page).unwrap();
    let missing: Vec<_> = known.iter().filter(|name| !page.contains(&format!("| `{name}` |"))).collect();
    assert!(missing.is_empty(), "docs/goldens.md does not name {missing:?}: {help}");
}
