//! What the integration tests share: compiling a specification from text, making up tensors, and running a kernel
//! beside the dense f64 reference.

#![allow(dead_code)]

pub mod examples;
pub mod gpu;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::dense::{Dense, RowResults};
use attn_compiler::attn_ir::evaluate::{Given, Results, evaluate_with};
use attn_compiler::attn_ir::made_up;
use attn_compiler::attn_ir::{self, Attention, Demand, Fact, Kernel, Origin};
use attn_compiler::diagnostic::render::{Style, human};
use attn_compiler::expr::eval::{Env, Value, eval};
use attn_compiler::expr::{TensorId, VarId};
use attn_compiler::host::{BindError, Data, Inputs, View, round_to};
use attn_compiler::pipeline::{self, Front, Plan};
use attn_compiler::sema::PlanKey;
use attn_compiler::target::Target;
use attn_compiler::tolerance;
use attn_runtime::{LoadedKernel, NamedInput, NamedOutput, NamedParam, RunOptions, RuntimeError, Tensor};

/// Root of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The shared folder with `specs/`.
pub fn shared() -> PathBuf {
    std::env::var("ATTN_SHARED").map_or_else(|_| root().join("../shared"), PathBuf::from)
}

/// The text of a specification of the shared folder.
pub fn spec(file: &str) -> String {
    let path = shared().join("specs").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{} must be readable: {e}", path.display()))
}

/// Parses and checks; panics with the rendered diagnostics if there are errors.
pub fn front(name: &str, text: &str) -> Front {
    let mut resolver = |from: &str, file: &str| {
        let path = Path::new(from).parent().unwrap_or(Path::new(".")).join(file);
        std::fs::read_to_string(&path).map_err(|e| e.to_string())
    };
    let front = pipeline::front(name, text, &mut resolver, &mut ());
    let said = said(&front);
    assert!(!front.diagnostics.has_errors(), "{said}");
    front
}

/// The diagnostics of a front, rendered.
pub fn said(front: &Front) -> String {
    let style = Style { color: false, ascii: true };
    front.diagnostics.items().iter().map(|d| human(&front.map, d, style)).collect()
}

/// A plan key for the host CPU.
pub fn key(kernel: &str, float: DType, dims: &[(&str, i64)]) -> PlanKey {
    PlanKey {
        kernel: kernel.into(),
        target: host(),
        float,
        dims: dims.iter().map(|(n, v)| ((*n).to_string(), *v)).collect(),
        statics: BTreeMap::new(),
        present: BTreeSet::new(),
        shard: None,
        schedules: Default::default(),
    }
}

/// The host as a target.
pub fn host() -> Target {
    attn_runtime::cpu::facts::host_target().expect("a known host")
}

/// Plans a kernel or panics.
pub fn plan(front: &Front, key: &PlanKey) -> Plan {
    let kernel = front.checked.kernel(Some(&key.kernel)).expect("the kernel exists");
    pipeline::plan(kernel, key, &mut ()).unwrap_or_else(|e| panic!("{}: {e}", key.kernel))
}

/// A small deterministic generator (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let (a, b) = (self.unit().max(1e-300), self.unit());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    /// In lo..=hi.
    pub fn int(&mut self, lo: i64, hi: i64) -> i64 {
        lo + (self.bits() % (hi - lo + 1).max(1) as u64) as i64
    }
}

/// Values of dims and params.
struct Scalars(HashMap<VarId, Value>);

impl Env for Scalars {
    fn var(&self, var: VarId) -> Value {
        self.0.get(&var).copied().unwrap_or(Value::Int(0))
    }

    fn load(&self, _: TensorId, _: &[i64]) -> Value {
        Value::Int(0)
    }
}

/// Made-up arguments for a kernel, in the f64 form of the reference and as tensors.
pub struct Problem {
    /// For the reference.
    pub inputs: Inputs,
    /// For the kernel, in the order of its inputs.
    pub tensors: Vec<(String, Tensor)>,
    /// Shapes of the outputs, dims in logical order.
    pub outputs: Vec<(String, DType, Vec<usize>)>,
}

/// How integer tensors are filled: by name, an inclusive range; others are in 0..=`default`.
pub type IntRange<'a> = &'a dyn Fn(&str) -> (i64, i64);

/// Makes up every input of a kernel: normal floats, integers in `ints`, bits with probability a half.
pub fn problem(ir: &Kernel, dims: &[(&str, i64)], ints: IntRange, seed: u64) -> Problem {
    let mut rng = Rng(seed);
    let mut scalars = Scalars(HashMap::new());
    let mut inputs = Inputs::default();
    for (name, var) in ir.runtime_dims() {
        let size = dims.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("a size for {name}")).1;
        scalars.0.insert(var, Value::Int(size));
        inputs.dims.insert(name, size);
    }
    let sizes = |t: &attn_ir::Tensor| -> Vec<usize> {
        t.shape.iter().map(|&id| eval(&ir.pool, id, &scalars).int() as usize).collect()
    };
    let mut tensors = Vec::new();
    for (id, t) in ir.inputs() {
        let shape = sizes(t);
        let n: usize = shape.iter().product();
        let draw = made_up::draw(ir, id);
        let size = |e| eval(&ir.pool, e, &scalars).int();
        // Scales of bytes make rows about as large as normal numbers.
        let is_scale = t.name.ends_with("_scale");
        let tame = |x: f64| if is_scale { x.abs() * 0.015 } else { draw.of(x, &size) };
        let data = match demanded(ir, t, &scalars, n) {
            Some(data) => data,
            None => fill(&mut rng, (t.dtype, t.fact), n, ints(&t.name), &tame),
        };
        tensors.push((t.name.clone(), bound(t.dtype, &data, &shape, &t.layout)));
        inputs.tensors.insert(t.name.clone(), View::contiguous(shape, data).expect("the right count"));
    }
    let outputs = ir.outputs().map(|(_, t)| (t.name.clone(), t.dtype, sizes(t))).collect();
    Problem { inputs, tensors, outputs }
}

/// Lengths, the first as long as can be and each next shorter, and tables of pages of one's own, backwards.
fn demanded(ir: &Kernel, t: &attn_ir::Tensor, scalars: &Scalars, n: usize) -> Option<Data> {
    let is = |id: &TensorId| ir.tensor(*id).name == t.name;
    let size = |id| eval(&ir.pool, id, scalars).int();
    ir.demands.iter().find_map(|d| match d {
        Demand::Within { tensor, lo, hi } if is(tensor) => {
            let (lo, hi) = (size(lo.0), size(hi.0));
            Some(Data::Int((0..n as i64).map(|b| (hi - b * 7).max(lo)).collect()))
        }
        Demand::Pages { table, pool, .. } if is(table) => {
            let pages = size(ir.tensor(*pool).shape[0]).max(1);
            Some(Data::Int((0..n as i64).map(|at| (pages - 1 - at).rem_euclid(pages)).collect()))
        }
        _ => None,
    })
}

fn fill(
    rng: &mut Rng,
    (dtype, fact): (DType, Fact),
    n: usize,
    (lo, hi): (i64, i64),
    tame: &dyn Fn(f64) -> f64,
) -> Data {
    match dtype {
        DType::Bit => Data::Bool((0..n).map(|_| rng.bits() & 1 == 1).collect()),
        DType::I8 | DType::I32 | DType::I64 => {
            let mut v: Vec<i64> = (0..n).map(|_| rng.int(lo, hi)).collect();
            if fact != Fact::None {
                v.sort_unstable();
            }
            Data::Int(v)
        }
        _ => Data::Float((0..n).map(|_| round_to(dtype, tame(rng.normal()))).collect()),
    }
}

/// A tensor as the host would bind it: axes in the order of `layout`.
pub fn bound(dtype: DType, data: &Data, shape: &[usize], layout: &[usize]) -> Tensor {
    let memory: Vec<usize> = layout.iter().map(|&d| shape[d]).collect();
    let n: usize = shape.iter().product();
    let at = |mut flat: usize| {
        let mut index = vec![0; shape.len()];
        for axis in (0..memory.len()).rev() {
            index[layout[axis]] = flat % memory[axis];
            flat /= memory[axis];
        }
        index.iter().zip(shape).fold(0, |acc, (&i, &s)| acc * s + i)
    };
    let mut bytes = Vec::with_capacity(n * dtype.size());
    for flat in 0..n {
        push(&mut bytes, dtype, data.value(at(flat)));
    }
    Tensor::from_bytes(dtype, &bytes, &memory).expect("a tensor")
}

fn push(bytes: &mut Vec<u8>, dtype: DType, value: Value) {
    match (dtype, value) {
        (DType::F32, v) => bytes.extend((v.float() as f32).to_le_bytes()),
        (DType::F64, v) => bytes.extend(v.float().to_le_bytes()),
        (DType::F16, v) => bytes.extend(half::f16::from_f64(v.float()).to_le_bytes()),
        (DType::F8E4M3, v) => bytes.push(attn_compiler::f8::encode(v.float() as f32)),
        (DType::Bf16, v) => bytes.extend(half::bf16::from_f64(v.float()).to_le_bytes()),
        (DType::I8, v) => bytes.push(v.int() as i8 as u8),
        (DType::I32, v) => bytes.extend((v.int() as i32).to_le_bytes()),
        (DType::I64, v) => bytes.extend(v.int().to_le_bytes()),
        (DType::Bit, v) => bytes.push(u8::from(v.bool())),
    }
}

/// Runs a kernel on a problem; outputs in order, then what is updated in place, as tensors in memory order.
pub fn run(kernel: &LoadedKernel, ir: &Kernel, problem: &Problem, threads: usize) -> Vec<Tensor> {
    let options = RunOptions::threads(threads).expect("threads");
    run_with(kernel, ir, problem, &[], &options).unwrap_or_else(|e| panic!("{e}"))
}

/// As [`run`], with parameters and options; or what the runtime said.
pub fn run_with(
    kernel: &LoadedKernel,
    ir: &Kernel,
    problem: &Problem,
    params: &[NamedParam],
    options: &RunOptions,
) -> Result<Vec<Tensor>, RuntimeError> {
    let mut out: Vec<Tensor> = Vec::new();
    for ((_, t), (_, dtype, shape)) in ir.outputs().zip(&problem.outputs) {
        let memory: Vec<usize> = t.layout.iter().map(|&d| shape[d]).collect();
        out.push(Tensor::zeros(*dtype, &memory).expect("an output"));
    }
    let mut names: Vec<&str> = problem.outputs.iter().map(|(n, ..)| n.as_str()).collect();
    let mut inputs: Vec<NamedInput> = Vec::new();
    for ((_, t), (name, tensor)) in ir.inputs().zip(&problem.tensors) {
        if t.origin == Origin::Updated {
            names.push(name);
            out.push(tensor.clone());
        } else {
            inputs.push((name, tensor.view()));
        }
    }
    let mut outputs: Vec<NamedOutput> =
        names.into_iter().zip(&mut out).map(|(n, t)| (n, t.view_mut())).collect();
    kernel.run(&inputs, &mut outputs, params, options)?;
    drop(outputs);
    Ok(out)
}

/// All rows of an attention, on all threads.
fn attend(a: &Attention, inputs: &Inputs) -> Result<RowResults, BindError> {
    use rayon::prelude::*;
    let dense = Dense::new(a, inputs)?;
    let sizes = dense.sizes();
    let jobs = sizes.batch * sizes.n_heads;
    let each = |n: usize| dense.rows(n / sizes.n_heads, n % sizes.n_heads, 0..sizes.seq_q);
    let parts: Vec<RowResults> = (0..jobs).into_par_iter().map(each).collect();
    let mut all = RowResults::default();
    for part in parts {
        all.o.extend(part.o);
        all.lse.extend(part.lse);
        all.max_logit.extend(part.max_logit);
        all.max_abs_score = all.max_abs_score.max(part.max_abs_score);
    }
    Ok(all)
}

/// What the reference says of a problem.
pub fn reference(ir: &Kernel, inputs: &Inputs) -> Results {
    reference_given(ir, inputs, &Given::new())
}

/// What the reference says where writes leave what is given.
pub fn reference_given(ir: &Kernel, inputs: &Inputs, given: &Given) -> Results {
    evaluate_with(ir, inputs.clone(), given, &mut attend).unwrap_or_else(|e| panic!("{}: {e}", ir.name))
}

/// Compares every output with the reference; panics naming the output and the figures.
pub fn verify(ir: &Kernel, float: DType, problem: &Problem, out: &[Tensor], what: &str) {
    compare(ir, float, problem, out).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
}

/// Compares every output with the reference, or names the first that is wrong and the figures.
pub fn compare(ir: &Kernel, float: DType, problem: &Problem, out: &[Tensor]) -> Result<(), String> {
    let n_outputs = problem.outputs.len();
    let mut given = Given::new();
    for ((_, t), tensor) in ir.updated().zip(&out[n_outputs..]) {
        let elements = tensor.view().to_f64_vec();
        let data = match t.dtype {
            DType::I8 => Data::Int(elements.into_iter().map(|x| x as i64).collect()),
            _ => Data::Float(elements),
        };
        given.insert(
            t.name.clone(),
            View::contiguous(tensor.shape().to_vec(), data).expect("the right count"),
        );
    }
    let truth = reference_given(ir, &problem.inputs, &given);
    for (_, t) in ir.updated() {
        let (got, want) = (given[&t.name].to_f64_vec(), truth.outputs[&t.name].to_f64_vec());
        let report = tolerance::check_gate(&got, &want, tolerance::stored_gate(t.dtype));
        if !report.ok {
            return Err(format!("{}: {report:?}", t.name));
        }
    }
    for ((_, t), tensor) in ir.outputs().zip(out) {
        let inverse: Vec<usize> =
            (0..t.layout.len()).map(|d| t.layout.iter().position(|&x| x == d).expect("a dim")).collect();
        let logical = tensor.view().permuted(&inverse).expect("a permutation");
        let wanted = &truth.outputs[&t.name];
        assert_eq!(logical.shape(), wanted.shape(), "{}: shape of {}", ir.name, t.name);
        let (got, want) = (logical.to_f64_vec(), wanted.to_f64_vec());
        let gate = tolerance::gate(ir.measure(&t.name), t.dtype, float, truth.max_abs_score, &want)
            .of_products(ir.products(), truth.max_abs_score)
            .in_groups(ir.groups(wanted.shape()));
        let report = tolerance::check_gate(&got, &want, gate);
        if !report.ok {
            return Err(format!("{}: {report:?} (max score {:.2})", t.name, truth.max_abs_score));
        }
    }
    Ok(())
}
