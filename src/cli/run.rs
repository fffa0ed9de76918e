//! `attnc run`: compile, run, check, save.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::evaluate::Results;
use attn_compiler::attn_ir::{self, Measure};
use attn_compiler::tolerance;
use attn_runtime::{RunOptions, Tensor};
use attnc::io::{HostTensor, TensorFile, load, save};
use attnc::{LaunchReport, Origin, Plan, Target};

use super::args::{BindArg, KernelArgs, NamedSource, parse_bind, parse_dtype, parse_named};
use super::compare::{self, Check};
use super::measure::{self, Times};
use super::planned::Planned;
use super::problem::{Problem, Request};
use super::session::{self, Chosen};
use super::table::{Table, short};
use super::ui::{self, Failure, Status, Ui};
use super::{data, simulated, work};

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    kernel: KernelArgs,
    /// Bind an input: q=q.npy, q=x.npz:q, q=x.safetensors:layer.q; a file alone binds every input that it holds
    #[arg(long, value_name = "[NAME=]FILE", value_parser = parse_bind)]
    bind: Vec<BindArg>,
    /// Save an output: o=o.npy, o=x.npz, o=x.safetensors:name
    #[arg(short, long = "out", value_name = "NAME=FILE", value_parser = parse_named)]
    out: Vec<NamedSource>,
    /// What `float` is: f32, f16, bf16 [default: the type of the bound tensors, else f32]
    #[arg(long, value_name = "DTYPE", value_parser = parse_dtype)]
    dtype: Option<DType>,
    /// Make up the inputs that no file gives
    #[arg(long)]
    random: bool,
    /// Seed of the made-up inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Compare every output with the dense f64 reference
    #[arg(long)]
    verify: bool,
    /// Compare an output with a tensor from elsewhere: o=torch.npy
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_named)]
    against: Vec<NamedSource>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What happened, for the reports.
struct Outcome<'a> {
    problem: &'a Problem,
    plan: &'a Planned,
    outputs: &'a [(String, Tensor)],
    times: Times,
    /// What each did, if it was simulated.
    launches: Vec<LaunchReport>,
    pairs: Option<u64>,
    checks: Vec<Check>,
    saved: Vec<(String, String)>,
}

/// Does it.
pub fn run(ui: &Ui, args: &Args) -> Result<(), Failure> {
    let chosen = session::choose(ui, &args.kernel)?;
    check_names(&chosen, args)?;
    let bound = read_bound(ui, &chosen, &args.bind)?;
    let at: BTreeMap<String, i64> = args.kernel.at.iter().cloned().collect();
    let seed = args.random.then_some(args.seed);
    let problem = Problem::new(ui, Request { chosen: &chosen, at: &at, float: args.dtype, bound, seed })?;
    if !problem.defaulted.is_empty() {
        ui.note(&format!("made up: {}; give lengths with --at", problem.defaulted.join(", ")));
    }
    let plan = problem.plan(ui)?;
    let mut outputs = problem.outputs()?;
    let options = options(&args.kernel)?;
    let (times, launches) = match chosen.target {
        Target::Sim(_) => simulate(&problem, &plan, &mut outputs, &options)?,
        _ => (execute(&problem, &plan, &mut outputs, &options, measure::FEW, |_| {})?, vec![]),
    };
    let pairs = work::pairs(&problem, work::MAX_CELLS)?;
    let mut checks = Vec::new();
    if args.verify || !args.against.is_empty() {
        let (found, truth) = compare::verify(&problem, &outputs)?;
        if args.verify {
            checks = found;
        }
        for against in &args.against {
            checks.push(compare_with(&problem, &outputs, against, &truth)?);
        }
    }
    let saved = save_outputs(&outputs, &args.out)?;
    let failed = checks.iter().any(|c| !c.report.ok);
    let outcome =
        Outcome { problem: &problem, plan: &plan, outputs: &outputs, times, launches, pairs, checks, saved };
    ui::print(&if args.json { outcome.json() } else { outcome.text() })?;
    if failed { Err(Failure::said(Status::Failed)) } else { Ok(()) }
}

/// `--threads`, `--sim-seed`
pub fn options(args: &KernelArgs) -> Result<RunOptions<'static>, Failure> {
    let options = match args.threads {
        Some(n) => RunOptions::threads(n.get()).map_err(|err| Failure::usage(err.to_string()))?,
        None => RunOptions::default(),
    };
    Ok(RunOptions { sim_seed: args.sim_seed, ..options })
}

/// Binds and runs as often as `effort` says.
pub fn execute(
    problem: &Problem,
    plan: &Planned,
    outputs: &mut [(String, Tensor)],
    options: &RunOptions<'_>,
    effort: measure::Effort,
    progress: impl FnMut(f64),
) -> Result<Times, Failure> {
    let inputs = problem.views()?;
    let params: Vec<_> = problem.params.iter().map(|(name, v)| (name.as_str(), *v)).collect();
    let mut views: Vec<_> = outputs.iter_mut().map(|(name, t)| (name.as_str(), t.view_mut())).collect();
    measure::measure(effort, || Ok(plan.run(&inputs, &mut views, &params, options)?), progress)
}

/// Binds and runs once in the simulator, whose launches tell what they did.
fn simulate(
    problem: &Problem,
    plan: &Planned,
    outputs: &mut [(String, Tensor)],
    options: &RunOptions<'_>,
) -> Result<(Times, Vec<LaunchReport>), Failure> {
    let launches = Mutex::new(Vec::new());
    let keep = |report: &LaunchReport| {
        launches.lock().unwrap_or_else(PoisonError::into_inner).push(report.clone());
    };
    let start = Instant::now();
    execute_once(problem, plan, outputs, &RunOptions { on_launch: Some(&keep), ..*options })?;
    let times = Times::of_ms(&[start.elapsed().as_secs_f64() * 1e3]);
    Ok((times, launches.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

/// Binds and runs once.
pub fn execute_once(
    problem: &Problem,
    plan: &Planned,
    outputs: &mut [(String, Tensor)],
    options: &RunOptions<'_>,
) -> Result<(), Failure> {
    let params: Vec<_> = problem.params.iter().map(|(name, v)| (name.as_str(), *v)).collect();
    let mut views: Vec<_> = outputs.iter_mut().map(|(name, t)| (name.as_str(), t.view_mut())).collect();
    Ok(plan.run(&problem.views()?, &mut views, &params, options)?)
}

/// Names of outputs are outputs, before anything is read or compiled.
fn check_names(chosen: &Chosen, args: &Args) -> Result<(), Failure> {
    let spec = chosen.kernel.spec()?;
    for (option, named) in
        args.out.iter().map(|n| ("-o", n)).chain(args.against.iter().map(|n| ("--against", n)))
    {
        let outputs = spec.outputs.iter().map(|o| o.name.as_str());
        let known: Vec<&str> = outputs.chain(spec.updated().map(|t| t.name.as_str())).collect();
        if !known.contains(&&*named.name) {
            let message = format!("{option} {}: kernel `{}` has no such output", named.name, spec.name);
            return Err(Failure::usage(message).help(format!("it returns {}", known.join(", "))));
        }
        named.source.check_extension()?;
    }
    Ok(())
}

/// Reads every tensor that `--bind` names. A name given explicitly wins over a whole file.
fn read_bound(ui: &Ui, chosen: &Chosen, binds: &[BindArg]) -> Result<BTreeMap<String, HostTensor>, Failure> {
    let spec = chosen.kernel.spec()?;
    let mut bound = BTreeMap::new();
    for bind in binds {
        if let BindArg::One(named) = bind {
            if bound.contains_key(&named.name) {
                return Err(Failure::usage(format!("--bind {}: it is bound twice", named.name)));
            }
            bound.insert(named.name.clone(), load(&named.source, &named.name)?);
        }
    }
    for bind in binds {
        let BindArg::All(path) = bind else { continue };
        let mut file = TensorFile::open(path)?;
        let names = file.names();
        let mut n_found = 0;
        for fact in spec.inputs().filter(|t| names.contains(&t.name)) {
            n_found += 1;
            if !bound.contains_key(&fact.name) {
                bound.insert(fact.name.clone(), file.read(&fact.name)?);
            }
        }
        if n_found == 0 {
            let message = format!("--bind {}: it holds no input of `{}` by name", path.display(), spec.name);
            return Err(Failure::wrong(message).help("say which is which: --bind q=FILE:NAME"));
        }
        let left = names.iter().filter(|n| spec.inputs().all(|t| t.name != **n)).count();
        if left > 0 {
            ui.note(&format!("{}: {n_found} inputs bound, {left} other tensors left alone", path.display()));
        }
    }
    Ok(bound)
}

/// An output against a tensor of a file, in the gate of the output.
fn compare_with(
    problem: &Problem,
    outputs: &[(String, Tensor)],
    against: &NamedSource,
    truth: &Results,
) -> Result<Check, Failure> {
    let given = load(&against.source, &against.name)?;
    let written = problem.ir.outputs().chain(problem.ir.updated());
    let found = written.zip(outputs).find(|((_, declared), _)| declared.name == against.name);
    let Some(((_, declared), (_, tensor))) = found else {
        return Err(Failure::bug(format!("output `{}` was checked and is not there", against.name)));
    };
    if given.shape() != tensor.shape() {
        return Err(Failure::wrong(format!(
            "--against {}: {} is {}, the output is {}",
            against.name,
            against.source,
            data::describe(given.dtype(), &given.shape()),
            data::describe(tensor.dtype(), tensor.shape()),
        )));
    }
    let wanted = compare::elements(declared, &given.view()?)?;
    let ours = compare::elements(declared, &tensor.view())?;
    let measure = problem.ir.measure(&declared.name);
    let max = truth.max_abs_score;
    let mut gate = tolerance::gate(measure, declared.dtype, problem.float, max, &wanted)
        .of_products(problem.ir.products(), max);
    if given.dtype().size() < tensor.dtype().size() && measure == Measure::Average {
        gate = tolerance::output_gate(given.dtype(), max);
    }
    if declared.origin == attn_ir::Origin::Updated {
        gate = tolerance::stored_gate(declared.dtype);
    }
    let report = tolerance::check_gate(&ours, &wanted, gate);
    Ok(Check { output: against.name.clone(), with: against.source.to_string(), report })
}

/// Writes the outputs that were asked for, all tensors of a file at once.
fn save_outputs(
    outputs: &[(String, Tensor)],
    wanted: &[NamedSource],
) -> Result<Vec<(String, String)>, Failure> {
    let mut files: BTreeMap<PathBuf, Vec<(String, &Tensor)>> = BTreeMap::new();
    let mut saved = Vec::new();
    for out in wanted {
        let Some((name, tensor)) = outputs.iter().find(|(name, _)| *name == out.name) else { continue };
        let member = out.source.member.clone().unwrap_or_else(|| name.clone());
        let tensors = files.entry(out.source.path.clone()).or_default();
        if tensors.iter().any(|(other, _)| *other == member) {
            return Err(Failure::usage(format!(
                "-o {name}={}: this name is taken by another output",
                out.source
            )));
        }
        tensors.push((member, tensor));
        saved.push((name.clone(), out.source.to_string()));
    }
    files.iter().try_for_each(|(path, tensors)| save(path, tensors))?;
    Ok(saved)
}

/// `cache hit` or not.
pub fn origin(plan: &Plan) -> &'static str {
    match plan.stats().origin {
        Origin::IndexHit | Origin::KernelHit => "from the cache",
        Origin::Package => "from a package",
        Origin::Compiled => "compiled now",
    }
}

impl Outcome<'_> {
    fn gflops(&self) -> Option<f64> {
        if !self.launches.is_empty() {
            return None;
        }
        let flops = work::flops(self.problem.ir.attentions().next()?, self.pairs?);
        Some(flops / self.times.median_ms() / 1e6)
    }

    fn text(&self) -> String {
        let p = self.problem;
        let mut table = Table::of_facts("kernel", &p.ir.name);
        table.row(["sizes".into(), p.sizes()]);
        for (name, tensor) in &p.tensors {
            table.row([format!("input {name}"), data::describe(tensor.dtype(), &tensor.shape())]);
        }
        for (name, tensor) in self.outputs {
            let file =
                self.saved.iter().find(|(n, _)| n == name).map_or(String::new(), |(_, f)| format!(" -> {f}"));
            table.row([format!("output {name}"), data::describe(tensor.dtype(), tensor.shape()) + &file]);
        }
        for (n, line) in self.plan.words().lines().enumerate() {
            table.row([if n == 0 { "schedule".into() } else { String::new() }, line.to_string()]);
        }
        table.row(["schedule from".into(), self.plan.schedule_origin().to_string()]);
        let compile = self.plan.stats().total.as_secs_f64() * 1e3;
        table.row(["compile".into(), format!("{} ms, {}", short(compile), origin(self.plan))]);
        let runs = self.times.runs();
        if self.launches.is_empty() {
            table.row(["run".into(), format!("{} ms, median of {runs}", short(self.times.median_ms()))]);
        } else {
            table.row(["simulated".into(), format!("in {} ms", short(self.times.median_ms()))]);
        }
        if let (Some(pairs), Some(gflops)) = (self.pairs, self.gflops()) {
            table.row(["useful work".into(), format!("{pairs} pairs, {} GFLOP/s", short(gflops))]);
        }
        let mut text = table.to_string();
        if let Some(log) = self.plan.device_log() {
            text += &format!("\n{log}\n");
        }
        if !self.launches.is_empty() {
            text += &format!("\n{}", simulated::text(&self.launches));
        }
        if !self.checks.is_empty() {
            let mut table = Table::new(&Check::TITLES);
            self.checks.iter().for_each(|c| table.row(c.cells()));
            text += &format!("\n{table}");
        }
        text
    }

    fn json(&self) -> String {
        let p = self.problem;
        let tensor = |name: &str, dtype: DType, shape: &[usize]| serde_json::json!({ "name": name, "dtype": dtype.name(), "shape": shape });
        let inputs: Vec<_> = p.tensors.iter().map(|(n, t)| tensor(n, t.dtype(), &t.shape())).collect();
        let outputs: Vec<_> = self.outputs.iter().map(|(n, t)| tensor(n, t.dtype(), t.shape())).collect();
        let saved: BTreeMap<_, _> = self.saved.iter().cloned().collect();
        serde_json::json!({
            "schema": 1, "kernel": p.ir.name, "dims": p.dims, "dtype": p.float.name(),
            "inputs": inputs, "outputs": outputs, "saved": saved,
            "schedule": self.plan.words(), "schedule_origin": self.plan.schedule_origin().word(),
            "schedule_file": self.plan.schedule_origin().path(), "target": self.plan.artifact().target,
            "compile_ms": self.plan.stats().total.as_secs_f64() * 1e3,
            "cache_hit": self.plan.stats().origin != Origin::Compiled,
            "run_ms": self.times.median_ms(), "runs": self.times.runs(),
            "pairs": self.pairs, "gflops": self.gflops(),
            "launches": simulated::json(&self.launches), "device_log": self.plan.device_log(),
            "checks": self.checks.iter().map(Check::json).collect::<Vec<_>>(),
        })
        .to_string()
    }
}
