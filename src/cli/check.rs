//! `attnc check`: everything there is to say about a specification, without making code.
//!
//! Comes in: a file. Goes out: its diagnostics on standard error, a summary on standard output. What holds:
//! without `--target` and `--at` only the text is checked; with one of them every kernel is planned too, so that
//! clauses that the target cannot run and promises that do not hold are errors. Deliberately not done: code.

use std::collections::BTreeMap;
use std::path::PathBuf;

use attn_compiler::artifact::DType;
use attn_compiler::diagnostic::{Diagnostic, Severity, SourceMap, render};
use attn_compiler::pipeline::{self, CompileError};
use attn_compiler::sema::CheckedKernel;
use attn_compiler::target::Target as Compiled;
use attn_compiler_gpu::report::LaunchReport;
use attnc::{Kernel, Target, emit};
use serde_json::{Value as Json, json};

use super::args::{KernelArgs, parse_dim, parse_dtype, parse_pair};
use super::device_report;
use super::session::{self, Chosen};
use super::ui::{self, Failure, Status, Ui};
use super::{sizes, source};

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    /// The specification; - is standard input
    #[arg(value_name = "FILE.attn")]
    file: PathBuf,
    /// Only this kernel
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Sizes of dims, such as Sq=2048,D=64; plans every kernel
    #[arg(long, value_name = "DIM=N", value_delimiter = ',', value_parser = parse_dim)]
    at: Vec<(String, i64)>,
    /// Values of parameters, such as window=512
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',', value_parser = parse_pair)]
    param: Vec<(String, String)>,
    /// What it must run on: cpu, cuda, sm_80, sm_86, sm_89, sm_90a; plans every kernel
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// What `float` is: f32, f16, bf16
    #[arg(long, value_name = "DTYPE", value_parser = parse_dtype, default_value = "f32")]
    dtype: DType,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was found in one file.
#[derive(Default)]
struct Findings {
    diagnostics: Vec<Diagnostic>,
    /// Errors without a place in the text.
    placeless: Vec<String>,
    dropped: usize,
    kernels: Vec<Found>,
    bug: bool,
}

/// What was found of one kernel.
struct Found {
    name: String,
    /// None where only the text was checked.
    planned: Option<bool>,
    /// What a GPU runs it on.
    launches: Vec<LaunchReport>,
}

impl Found {
    fn json(&self) -> Json {
        let launches: Vec<Json> = self.launches.iter().map(device_report::json).collect();
        match launches.is_empty() {
            true => json!({ "name": self.name, "planned": self.planned }),
            false => json!({ "name": self.name, "planned": self.planned, "launches": launches }),
        }
    }
}

impl Findings {
    fn count(&self, severity: Severity) -> usize {
        let placed = self.diagnostics.iter().filter(|d| d.severity == severity).count();
        placed + if severity == Severity::Error { self.placeless.len() + self.dropped } else { 0 }
    }

    fn json(&self, map: &SourceMap, file: &str, planned: bool) -> Json {
        let line = |d: &Diagnostic| serde_json::from_str::<Json>(&render::json(map, d)).unwrap_or(Json::Null);
        let kernels: Vec<Json> = self.kernels.iter().map(Found::json).collect();
        json!({
            "schema": 1, "file": file, "ok": self.count(Severity::Error) == 0, "planned": planned,
            "kernels": kernels, "errors": self.count(Severity::Error), "warnings": self.count(Severity::Warning),
            "diagnostics": self.diagnostics.iter().map(line).collect::<Vec<_>>(), "messages": self.placeless,
        })
    }
}

/// Does it.
pub fn run(ui: &Ui, args: &Args) -> Result<(), Failure> {
    let target = args.target.as_deref().map(Target::named).transpose();
    let target = target.map_err(|err| Failure::usage(err.to_string()))?;
    let (name, text) = source::read(&args.file)?;
    let front = pipeline::front(&name, &text, &mut source::beside, &mut ());
    let mut found = Findings {
        diagnostics: front.diagnostics.items().to_vec(),
        dropped: front.diagnostics.dropped,
        ..Findings::default()
    };
    let planned = (target.is_some() || !args.at.is_empty()) && !front.diagnostics.has_errors();
    let wanted = wanted_kernels(args, &name, &front.checked.kernels, front.diagnostics.has_errors())?;
    if planned {
        let kernel = source::kernel(&args.file, &name, &text)?;
        let target = target.unwrap_or_default();
        for spec in &wanted {
            let (planned, launches) = match plan(&kernel, spec, args, &target) {
                Ok(launches) => (true, launches),
                Err(refusal) => {
                    found.note(refusal)?;
                    (false, Vec::new())
                }
            };
            found.kernels.push(Found { name: spec.name.clone(), planned: Some(planned), launches });
        }
    } else {
        found.kernels = wanted
            .iter()
            .map(|k| Found { name: k.name.clone(), planned: None, launches: Vec::new() })
            .collect();
    }
    report(ui, args, &found, &front.map, &name, planned)
}

fn report(
    ui: &Ui,
    args: &Args,
    found: &Findings,
    map: &SourceMap,
    name: &str,
    planned: bool,
) -> Result<(), Failure> {
    found.diagnostics.iter().for_each(|d| ui.diagnostic(map, d));
    found.placeless.iter().for_each(|text| ui.say_error(text));
    if found.dropped > 0 {
        ui.note(&format!("{} more diagnostics were left out", found.dropped));
    }
    let (errors, warnings) = (found.count(Severity::Error), found.count(Severity::Warning));
    if args.json {
        ui::print(&found.json(map, name, planned).to_string())?;
    } else if errors == 0 {
        let n = found.kernels.len();
        let line = format!("ok: {n} {}, {warnings} {}\n", plural(n, "kernel"), plural(warnings, "warning"));
        let target = args.target.as_deref().unwrap_or_default();
        let on_gpu = found.kernels.iter().filter(|k| !k.launches.is_empty());
        let launches = on_gpu.map(|k| device_report::text(&k.name, target, &k.launches));
        ui::print(&(line + &launches.collect::<String>()))?;
    } else {
        ui.note(&format!("{errors} {}, {warnings} {}", plural(errors, "error"), plural(warnings, "warning")));
    }
    match (errors, found.bug) {
        (_, true) => Err(Failure::said(Status::Bug)),
        (0, _) => Ok(()),
        _ => Err(Failure::said(Status::Wrong)),
    }
}

fn plural(n: usize, word: &str) -> String {
    if n == 1 { word.to_string() } else { format!("{word}s") }
}

/// The kernels to look at. Errors: there is none of the name given.
fn wanted_kernels<'a>(
    args: &Args,
    file: &str,
    kernels: &'a [CheckedKernel],
    broken: bool,
) -> Result<Vec<&'a CheckedKernel>, Failure> {
    let Some(name) = &args.kernel else { return Ok(kernels.iter().collect()) };
    match kernels.iter().find(|k| k.name == *name) {
        Some(kernel) => Ok(vec![kernel]),
        None if broken => Ok(Vec::new()),
        None => {
            let known: Vec<&str> = kernels.iter().map(|k| k.name.as_str()).collect();
            let failure = Failure::usage(format!("--kernel {name}: {file} holds no such kernel"));
            Err(failure.help(format!("it holds {}", known.join(", "))))
        }
    }
}

/// Why a kernel cannot be planned.
enum Refusal {
    Compile(CompileError),
    Arguments(Failure),
}

impl Findings {
    /// Errors: the command line is wrong, which ends the verb.
    fn note(&mut self, refusal: Refusal) -> Result<(), Failure> {
        match refusal {
            Refusal::Arguments(failure) => return Err(failure),
            Refusal::Compile(CompileError::Spec(d)) => self.diagnostics.push(*d),
            Refusal::Compile(CompileError::Unsupported(u)) => match u.diagnostic() {
                Some(d) => self.diagnostics.push(d),
                None => self.placeless.push(u.to_string()),
            },
            Refusal::Compile(CompileError::Internal(bug)) => {
                self.bug = true;
                self.placeless.push(bug.to_string());
            }
        }
        Ok(())
    }
}

/// Plans one kernel for the target, at the sizes given and defaults for the others.
///
/// Goes out: what a GPU runs its launches on; nothing for a CPU.
fn plan(
    kernel: &Kernel,
    spec: &CheckedKernel,
    args: &Args,
    target: &Target,
) -> Result<Vec<LaunchReport>, Refusal> {
    let fail = |err: attnc::Error| Refusal::Arguments(err.into());
    let kernel = kernel.clone().select(&spec.name).map_err(fail)?;
    let chosen = Chosen { kernel, target: target.clone(), params: BTreeMap::new(), ranks: None };
    let kernel_args = KernelArgs {
        file: args.file.clone(),
        kernel: None,
        at: args.at.clone(),
        param: args.param.clone(),
        target: String::new(),
        threads: None,
        sim_seed: 0,
        ranks: None,
        schedules: Default::default(),
    };
    let params = session::given_params(spec, &kernel_args).map_err(Refusal::Arguments)?;
    let chosen = chosen.with_params(&params);
    let at: BTreeMap<String, i64> = args.at.iter().cloned().collect();
    let all = spec.inputs().filter(|t| t.optional).map(|t| t.name.clone()).collect();
    let settled = sizes::settle(&chosen, &at, args.dtype, all).map_err(|err| match err {
        sizes::Unsettled::Compile(err) => Refusal::Compile(err),
        sizes::Unsettled::Facade(err) => fail(err),
    })?;
    let plan = pipeline::plan(spec, &settled.key, &mut ()).map_err(Refusal::Compile)?;
    match &plan.target {
        Compiled::Gpu(arch) => emit::gpu_report(&plan, *arch).map_err(Refusal::Compile),
        Compiled::Cpu(_) => Ok(Vec::new()),
    }
}
