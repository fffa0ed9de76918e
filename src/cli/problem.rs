//! A kernel with everything that one run needs: sizes, dtype, tensors, the steps that the reference evaluates.
//!
//! Comes in: a chosen kernel, tensors from files, `--at`, `--random`. Goes out: a [`Problem`]. What holds: every
//! dim has a size (from `--at`, else from a bound tensor, else made up and listed in `defaulted`), every input
//! that will be bound has a tensor. Whether the tensors fit the kernel is checked where they are bound.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::{Kernel as Ir, Origin, Rows, Side};
use attn_compiler::expr::eval::Value;
use attn_compiler::expr::{Op, TensorId};
use attn_compiler::host::Inputs;
use attn_compiler::pipeline::CompileError;
use attn_compiler::sema::model::{Elem, TensorFact};
use attn_compiler::sema::{self, CheckedKernel, PlanKey};
use attn_runtime::{Tensor, TensorView};
use attnc::Kernel;
use attnc::io::HostTensor;

use super::data::{self, Scalars};
use super::planned::Planned;
use super::random;
use super::session::Chosen;
use super::ui::{Failure, Ui};

/// Sizes of made-up runs where nothing is given: language.md, rule 13.
const BATCH: i64 = 2;
const HEADS: i64 = 4;
const KV_HEADS: i64 = 2;
const FEATURES: i64 = 64;
const LENGTH: i64 = 256;

/// What is asked.
pub struct Request<'a> {
    /// Kernel, parameters, target.
    pub chosen: &'a Chosen,
    /// Sizes given.
    pub at: &'a BTreeMap<String, i64>,
    /// What `float` is, if it was said.
    pub float: Option<DType>,
    /// Tensors from files.
    pub bound: BTreeMap<String, HostTensor>,
    /// Make up the inputs that no file gives.
    pub seed: Option<u64>,
}

/// See the head of this file.
pub struct Problem {
    /// Knows its parameters and which optional inputs are there.
    pub kernel: Kernel,
    /// What the kernel computes.
    pub ir: Ir,
    /// How it was planned.
    pub key: PlanKey,
    /// What `float` is.
    pub float: DType,
    /// Every dim.
    pub dims: BTreeMap<String, i64>,
    /// Dims that were made up.
    pub defaulted: Vec<String>,
    /// Run-time parameters that were given.
    pub params: HashMap<String, Value>,
    /// Tensors in the order of the declarations, axes as bound.
    pub tensors: Vec<(String, HostTensor)>,
    /// Ranks that were asked for.
    ranks: Option<NonZeroUsize>,
}

impl Problem {
    /// Settles sizes and tensors.
    pub fn new(ui: &Ui, request: Request<'_>) -> Result<Problem, Failure> {
        let chosen = request.chosen;
        let spec = chosen.kernel.spec()?;
        check_params(spec, chosen)?;
        check_bound(spec, &request)?;
        let float = float_type(spec, &request);
        let mut dims = request.at.clone();
        for fact in spec.inputs() {
            if let Some(tensor) = request.bound.get(&fact.name) {
                data::read_dims(spec, fact, &tensor.shape(), &mut dims);
            }
        }
        let optional =
            |t: &&TensorFact| t.optional && (request.seed.is_some() || request.bound.contains_key(&t.name));
        let present: BTreeSet<String> = spec.inputs().filter(optional).map(|t| t.name.clone()).collect();
        let (statics, params) = chosen.split_params(spec);
        let target = chosen.target.resolve()?;
        let mut key = PlanKey {
            kernel: spec.name.clone(),
            target,
            float,
            dims: BTreeMap::new(),
            statics,
            present,
            shard: None,
            schedules: Default::default(),
        };
        let mut defaulted = Vec::new();
        if request.seed.is_some() {
            // The roles of dims do not depend on their sizes; with 1 every division of head counts goes through.
            let ir = match sema::instantiate(spec, &guessed(spec, &key, &dims)) {
                Ok(ir) => ir,
                Err(_) => instantiate(ui, &chosen.kernel, &with_unknown(spec, &key, &dims, 1))?,
            };
            defaulted = make_up_dims(spec, &ir, &mut dims);
        }
        key.dims = specialised(spec, &dims);
        let ir = instantiate(ui, &chosen.kernel, &key)?;
        let mut kernel = chosen.kernel.clone();
        for name in &key.present {
            kernel = kernel.with_input(name);
        }
        let lengths: Vec<(&str, i64)> = dims.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        key.schedules = kernel.pick_schedules(&key, &lengths)?.overrides().clone();
        let params = params.into_iter().collect();
        let tensors = Vec::new();
        let mut problem =
            Problem { kernel, ir, key, float, dims, defaulted, params, tensors, ranks: chosen.ranks };
        problem.fill(request.bound, request.seed)?;
        Ok(problem)
    }

    /// Tensors for every input of the attention.
    fn fill(&mut self, mut bound: BTreeMap<String, HostTensor>, seed: Option<u64>) -> Result<(), Failure> {
        let scalars = match seed {
            Some(_) => Some(Scalars::new(&self.ir, &self.scalar_inputs())?),
            None => None,
        };
        let spec = self.kernel.spec()?;
        for (id, decl) in self.ir.inputs() {
            let tensor = match (bound.remove(&decl.name), seed, &scalars) {
                (Some(tensor), ..) => tensor,
                (None, Some(seed), Some(scalars)) => {
                    let logical = scalars.shape(&self.ir.pool, &decl.shape);
                    let shape = data::bound_shape(&logical, &decl.layout);
                    let longest = longest(spec, &self.dims);
                    random::tensor(&self.ir, scalars, id, &shape, &random::Asked { seed, longest })?.into()
                }
                (None, ..) => return Err(missing(&decl.name)),
            };
            self.tensors.push((decl.name.clone(), tensor));
        }
        Ok(())
    }

    /// Dims and params without tensors, for the evaluation of sizes.
    fn scalar_inputs(&self) -> Inputs {
        let dims = self.dims.iter().map(|(name, n)| (name.clone(), *n)).collect();
        Inputs { dims, params: self.params.clone(), tensors: HashMap::new() }
    }

    /// Everything in the form that the reference executors take. Copies every tensor.
    pub fn inputs(&self) -> Result<Inputs, Failure> {
        self.inputs_where(&|_| true)
    }

    /// As [`Problem::inputs`], with some of the tensors.
    pub fn inputs_where(&self, wanted: &dyn Fn(TensorId) -> bool) -> Result<Inputs, Failure> {
        let mut inputs = self.scalar_inputs();
        for ((id, decl), (name, tensor)) in self.ir.inputs().zip(&self.tensors) {
            if wanted(id) {
                let view = data::logical(&tensor.view()?, &decl.layout)?;
                inputs.tensors.insert(name.clone(), data::host_view(&view)?);
            }
        }
        Ok(inputs)
    }

    /// The tensors that are only read, as they are bound.
    pub fn views(&self) -> Result<Vec<(&str, TensorView<'_>)>, Failure> {
        let read = self.ir.inputs().zip(&self.tensors).filter(|((_, t), _)| t.origin == Origin::Host);
        read.map(|(_, (name, t))| Ok((name.as_str(), t.view()?))).collect()
    }

    /// Compiles, or finds in the cache.
    pub fn plan(&self, ui: &Ui) -> Result<Planned, Failure> {
        let dims: Vec<(&str, i64)> = self.dims.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        let planned = match self.kernel.spec()?.ring {
            None => self.kernel.plan(&dims, self.float).map(Planned::One),
            Some(ring) => {
                let ranks = Planned::ranks(self.ranks, ring.ranks);
                self.kernel.plan_ring(&dims, self.float, ranks).map(Planned::Ring)
            }
        };
        let plan = planned.map_err(|err| ui.error(self.kernel.sources(), err))?;
        plan.warnings().iter().for_each(|w| ui.warn(w));
        Ok(plan)
    }

    /// Zeroed outputs, named, in the order of `return`; then copies of what a run updates in place.
    pub fn outputs(&self) -> Result<Vec<(String, Tensor)>, Failure> {
        let scalars = Scalars::new(&self.ir, &self.scalar_inputs())?;
        let mut outputs = Vec::new();
        for (_, out) in self.ir.outputs() {
            let shape = data::bound_shape(&scalars.shape(&self.ir.pool, &out.shape), &out.layout);
            outputs.push((out.name.clone(), Tensor::zeros(out.dtype, &shape)?));
        }
        for ((_, t), (name, tensor)) in self.ir.inputs().zip(&self.tensors) {
            if t.origin == Origin::Updated {
                outputs.push((name.clone(), tensor.copy()?));
            }
        }
        Ok(outputs)
    }

    /// `B = 2, S = 256`, in the order of the declarations.
    pub fn sizes(&self) -> String {
        let sizes: Vec<String> = self
            .ir
            .dims
            .iter()
            .filter_map(|d| {
                let size = self.dims.get(&d.name).copied().or_else(|| self.ir.pool.as_int(d.size));
                Some(format!("{} = {}", d.name, size?))
            })
            .collect();
        sizes.join(", ")
    }
}

/// Every parameter has a value.
fn check_params(spec: &CheckedKernel, chosen: &Chosen) -> Result<(), Failure> {
    match spec.params.iter().find(|p| p.default.is_none() && !chosen.params.contains_key(&p.name)) {
        None => Ok(()),
        Some(p) => Err(Failure::wrong(format!(
            "parameter `{0}` has no value and no default; give it with --param {0}=VALUE, or in a `test` clause",
            p.name
        ))),
    }
}

fn missing(name: &str) -> Failure {
    Failure::wrong(format!("input `{name}` is not bound"))
        .help(format!("--bind {name}=FILE, or --random to make up what no file gives"))
}

/// Every bound name is an input of the right rank, and every other input is optional or made up.
fn check_bound(spec: &CheckedKernel, request: &Request<'_>) -> Result<(), Failure> {
    for (name, tensor) in &request.bound {
        let Some(fact) = spec.inputs().find(|t| t.name == *name) else {
            let known: Vec<&str> = spec.inputs().map(|t| t.name.as_str()).collect();
            return Err(Failure::wrong(format!("kernel `{}` has no input `{name}`", spec.name))
                .help(format!("it has {}", known.join(", "))));
        };
        let shape = tensor.shape();
        if shape.len() != fact.shape.len() {
            let found = data::describe(tensor.dtype(), &shape);
            let sizes = spec.bound_shape(fact);
            let axes: Vec<&str> = fact.layout.iter().map(|&d| sizes[d].text.as_str()).collect();
            return Err(Failure::wrong(format!("input `{name}` is {found}, which has {} dims", shape.len()))
                .help(format!("the kernel reads {} with axes ({})", fact.type_text(), axes.join(", "))));
        }
    }
    if request.seed.is_none() {
        let unbound = |t: &&TensorFact| !t.optional && !request.bound.contains_key(&t.name);
        if let Some(fact) = spec.inputs().find(unbound) {
            return Err(missing(&fact.name));
        }
    }
    Ok(())
}

/// `--dtype`, else the type of the first bound `float` input, else f32.
fn float_type(spec: &CheckedKernel, request: &Request<'_>) -> DType {
    let of_file = || {
        let mut floats = spec.inputs().filter(|t| t.elem == Elem::Float);
        floats.find_map(|t| request.bound.get(&t.name)).map(HostTensor::dtype)
    };
    request.float.or_else(of_file).filter(|d| d.may_be_float()).unwrap_or(DType::F32)
}

/// The kernel of a key; diagnostics are printed.
fn instantiate(ui: &Ui, kernel: &Kernel, key: &PlanKey) -> Result<Ir, Failure> {
    sema::instantiate(kernel.spec()?, key).map_err(|err| match err.diagnostic() {
        Some(d) => {
            ui.diagnostic(kernel.sources(), &d);
            match err {
                sema::CompileError::Unsupported(_) => Failure::unsupported(),
                sema::CompileError::Spec(_) => Failure::said(super::Status::Wrong),
            }
        }
        None => Failure::wrong(CompileError::from(err).to_string()),
    })
}

/// The dims that a plan is specialised for, as far as they are known.
pub fn specialised(spec: &CheckedKernel, dims: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    let is_run_time = |name: &str| spec.dims.iter().any(|d| d.name == name && !d.specialised);
    dims.iter().filter(|(name, _)| !is_run_time(name)).map(|(name, n)| (name.clone(), *n)).collect()
}

/// A key with a size for every specialised dim: what is not known gets `unknown`.
pub fn with_unknown(
    spec: &CheckedKernel,
    key: &PlanKey,
    dims: &BTreeMap<String, i64>,
    unknown: i64,
) -> PlanKey {
    let mut key = key.clone();
    key.dims = specialised(spec, dims);
    for d in spec.specialised_dims().filter(|d| !d.derived()) {
        let (lo, hi) = d.bounds.unwrap_or((1, i64::MAX));
        key.dims.entry(d.name.clone()).or_insert(unknown.clamp(lo, hi));
    }
    key
}

/// A key from which the roles of dims can be read: unknown head counts are multiples of the known ones.
pub fn guessed(spec: &CheckedKernel, key: &PlanKey, dims: &BTreeMap<String, i64>) -> PlanKey {
    let multiple = specialised(spec, dims)
        .values()
        .filter(|n| (1..=1024).contains(*n))
        .fold(FEATURES, |m, &n| if m % n == 0 { m } else { m.saturating_mul(n).min(1 << 30) });
    with_unknown(spec, key, dims, multiple)
}

/// Gives every free dim a size by its role; the run-time lengths among them are returned, `S = 256`.
pub fn make_up_dims(spec: &CheckedKernel, ir: &Ir, dims: &mut BTreeMap<String, i64>) -> Vec<String> {
    let name_of = |rows: Rows, dim: Option<usize>| -> Option<String> {
        let decl = ir.tensor(rows.tensor);
        let fact = spec.inputs().find(|t| t.name == decl.name)?;
        fact.shape[dim?].dim.map(|n| spec.dims[n].name.clone())
    };
    let fixed = |name: &str| spec.dims.iter().find(|d| d.name == name).and_then(|d| d.fixed());
    let of = |side| ir.roles.iter().filter(move |r| r.1 == side).map(|r| r.0);
    let key_side: Vec<Rows> = of(Side::Key).collect();
    let q_heads = of(Side::Query).find_map(|rows| name_of(rows, rows.head));
    let known = |dims: &BTreeMap<String, i64>, name: &Option<String>| {
        name.as_ref().and_then(|n| dims.get(n).copied().or_else(|| fixed(n)))
    };
    let kv_heads = key_side.iter().find_map(|rows| name_of(*rows, rows.head));
    let n_kv = known(dims, &kv_heads);
    let n_q = known(dims, &q_heads).unwrap_or(n_kv.map_or(HEADS, |kv| kv * (HEADS / KV_HEADS)));
    let n_kv = n_kv.unwrap_or(if n_q % KV_HEADS == 0 { KV_HEADS } else { 1 });
    let mut give = |name: Option<String>, size: i64| {
        if let Some(name) = name.filter(|name| is_free(spec, name)) {
            dims.entry(name).or_insert(size);
        }
    };
    give(q_heads, n_q);
    for rows in &key_side {
        give(name_of(*rows, rows.head), n_kv);
    }
    for rows in of(Side::Query).chain(key_side.iter().copied()) {
        give(name_of(rows, Some(rows.feature)), FEATURES);
        give(name_of(rows, rows.batch), BATCH);
    }
    let mut made = Vec::new();
    make_up_pages(spec, dims, &mut made);
    for d in &ir.dims {
        let run_time = matches!(ir.pool.op(d.size), Op::Var(_)) && is_free(spec, &d.name);
        if run_time && !dims.contains_key(&d.name) {
            let size = d.bounds.map_or(LENGTH, |(lo, hi)| LENGTH.clamp(lo, hi));
            dims.insert(d.name.clone(), size);
            made.push(format!("{} = {size}", d.name));
        }
    }
    made
}

/// Pages for the rows that are asked for, as many for each batch entry, and two that nobody uses.
fn make_up_pages(spec: &CheckedKernel, dims: &mut BTreeMap<String, i64>, made: &mut Vec<String>) {
    for cache in &spec.caches {
        let Some(pages) = &cache.pages else { continue };
        let shape = &spec.tensors[cache.tensor].shape;
        let name = |n: Option<usize>| n.map_or("", |n| spec.dims[n].name.as_str()).to_string();
        let (seq, batch) = (name(shape[shape.len() - 2].dim), name(shape[0].dim));
        let (per_entry, count) = (name(Some(pages.per_entry)), name(pages.shape[0].dim));
        if !dims.contains_key(&per_entry) {
            let rows = *dims.entry(seq.clone()).or_insert_with(|| {
                made.push(format!("{seq} = {LENGTH}"));
                LENGTH
            });
            dims.insert(per_entry.clone(), (rows.max(0) + pages.size - 1) / pages.size);
        }
        let batch = dims.get(&batch).copied().unwrap_or(BATCH);
        let used = dims[&per_entry].saturating_mul(batch);
        dims.entry(count).or_insert(used.saturating_add(2));
    }
}

/// The largest length of a sequence that is asked for, where caches have lengths.
pub fn longest(spec: &CheckedKernel, dims: &BTreeMap<String, i64>) -> Option<i64> {
    let cache = spec.caches.iter().find(|c| c.len.is_some())?;
    let shape = &spec.tensors[cache.tensor].shape;
    let dim = shape[shape.len() - 2].dim?;
    dims.get(&spec.dims[dim].name).copied()
}

fn is_free(spec: &CheckedKernel, name: &str) -> bool {
    spec.dims.iter().any(|d| d.name == name && d.fixed().is_none() && !d.derived())
}
