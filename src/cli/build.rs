//! `attnc build`: every stage of a kernel as text, and how long each stage takes.
//!
//! Comes in: a file, sizes, a target. Goes out: the kinds of `--emit`, to standard output or to files; texts after
//! stages to standard error (`--print-ir-after`) or numbered files (`--dump-dir`). What holds: names of kinds and
//! passes are checked before anything is compiled; the tile IR is verified after every pass, always. Only what
//! is asked for is made: `--emit=ast` works for every target. `-o` writes the kernel itself, as a package.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use attn_compiler::artifact::{Artifact, DType};
use attn_compiler::backend::cpu::{self, Listing};
use attn_compiler::diagnostic::SourceMap;
use attn_compiler::pipeline::{self, Plan};
use attn_compiler::syntax::words::nearest;
use attn_compiler::syntax::{self, print};
use attn_compiler::target::Target;
use attn_compiler::{attn_ir, tile_ir};
use attn_runtime::cache::Cache;
use attn_runtime::package::Package;
use attn_runtime::{Device, LoadedKernel};
use attnc::schedules::{self, Picked};
use attnc::{Origin, emit};

use super::args::{KernelArgs, parse_dtype};
use super::device_code::{self, Machine};
use super::fmt::write_whole;
use super::session::{self, Chosen};
use super::sizes::{self, Settled, Unsettled};
use super::source;
use super::stages::{self, Stages};
use super::table::Table;
use super::ui::{self, Failure, Ui};

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    kernel: KernelArgs,
    /// What to write: ast, attnir, schedule, schedule-file, tile; for a CPU clif, asm; for a GPU simt, mlir, llvm-ir, ptx, cubin, sass; to standard output, or to a file
    #[arg(long, value_name = "KIND[=PATH],...", value_delimiter = ',', value_parser = parse_emit)]
    emit: Vec<Emit>,
    /// Write the kernel as a package, one file that a program loads without attnc's compiler
    #[arg(short, long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
    /// What `float` is: f32, f16, bf16
    #[arg(long, value_name = "DTYPE", value_parser = parse_dtype, default_value = "f32")]
    dtype: DType,
    /// An optional input that will be bound
    #[arg(long, value_name = "INPUT", value_delimiter = ',')]
    with: Vec<String>,
    /// Print the text after these stages or passes to standard error; `all` for every one
    #[arg(long, value_name = "PASS,...", value_delimiter = ',', value_parser = parse_pass)]
    print_ir_after: Vec<String>,
    /// Write the text after every stage to numbered files in this directory
    #[arg(long, value_name = "DIR")]
    dump_dir: Option<PathBuf>,
    /// Print how long each stage took
    #[arg(long)]
    time_passes: bool,
}

/// What `--emit` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Ast,
    AttnIr,
    Schedule,
    ScheduleFile,
    Tile,
    Simt,
    Mlir,
    LlvmIr,
    Clif,
    Asm,
    Ptx,
    Cubin,
    Sass,
}

const KINDS: [(&str, Kind); 13] = [
    ("ast", Kind::Ast),
    ("attnir", Kind::AttnIr),
    ("schedule", Kind::Schedule),
    ("schedule-file", Kind::ScheduleFile),
    ("tile", Kind::Tile),
    ("clif", Kind::Clif),
    ("asm", Kind::Asm),
    ("simt", Kind::Simt),
    ("mlir", Kind::Mlir),
    ("llvm-ir", Kind::LlvmIr),
    ("ptx", Kind::Ptx),
    ("cubin", Kind::Cubin),
    ("sass", Kind::Sass),
];

/// `KIND[=PATH]`
#[derive(Clone, Debug)]
struct Emit {
    kind: Kind,
    name: &'static str,
    path: Option<PathBuf>,
}

impl Emit {
    fn is_binary_to_stdout(&self) -> bool {
        self.kind == Kind::Cubin && self.path.is_none()
    }
}

fn parse_emit(text: &str) -> Result<Emit, String> {
    let (word, path) = text.split_once('=').map_or((text, None), |(k, p)| (k, Some(p)));
    let Some(&(name, kind)) = KINDS.iter().find(|(name, _)| *name == word) else {
        return Err(unknown("kind", word, &KINDS.map(|(name, _)| name)));
    };
    if path == Some("") {
        return Err(format!("a path is expected after `{word}=`"));
    }
    Ok(Emit { kind, name, path: path.filter(|p| *p != "-").map(PathBuf::from) })
}

fn parse_pass(text: &str) -> Result<String, String> {
    let names = stages::names();
    let known = names.iter().copied().chain(["all"]).collect::<Vec<_>>();
    if known.contains(&text) { Ok(text.to_string()) } else { Err(unknown("stage or pass", text, &known)) }
}

fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    let meant =
        nearest(word, known.iter().copied()).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
    format!("there is no {what} `{word}`{meant} (there are {})", known.join(", "))
}

/// Does it.
pub fn run(ui: &Ui, args: &Args) -> Result<(), Failure> {
    if args.emit.iter().any(Emit::is_binary_to_stdout) {
        let alone = args.emit.iter().filter(|e| e.path.is_none()).count() == 1;
        let alone = alone && args.out.is_none() && !args.time_passes;
        device_code::binary_to_stdout("cubin", alone)?;
    }
    let mut stages = Stages::new(&args.print_ir_after, args.dump_dir.is_some());
    let (front, text) = source::front(ui, &args.kernel.file, &mut stages)?;
    let name = &front.map.file(front.source).name;
    let chosen = session::select(source::kernel(&args.kernel.file, name, &text)?, &args.kernel)?;
    let at: BTreeMap<String, i64> = args.kernel.at.iter().cloned().collect();
    let last = last_wanted(args);
    let present = args.with.iter().cloned().collect();
    let mut work = Work {
        ast: print::file(&syntax::parse(&front.map, front.source).0),
        attention: None,
        plan: None,
        picked: Picked::default(),
        artifact: None,
        machine: Machine::default(),
    };
    if last > Kind::Ast {
        let settled =
            sizes::settle(&chosen, &at, args.dtype, present).map_err(|err| err.failure(ui, &chosen))?;
        sizes::check_bounds(&settled)?;
        settled.picked.notes().iter().for_each(|note| ui.note(note));
        work.compile(&chosen, settled, last, &mut stages).map_err(|err| match err {
            Unsettled::Compile(err) => sizes::refused(ui, &chosen, err),
            Unsettled::Facade(err) => err.into(),
        })?;
    }
    ui.text(&stages.printed());
    if let Some(dir) = &args.dump_dir {
        stages.dump(dir)?;
    }
    let out = work.write(args, chosen.kernel.sources())?;
    let packed = args.out.as_ref().map(|path| work.pack(&chosen, path)).transpose()?;
    if args.time_passes {
        ui.text(&timings(ui, &chosen, work, &stages, args)?);
    }
    if args.emit.iter().any(Emit::is_binary_to_stdout) {
        return ui::print_bytes(&out);
    }
    let out = String::from_utf8(out).map_err(|_| Failure::bug("a text is not UTF-8"))?;
    let out = [Some(out), packed].into_iter().flatten().filter(|text| !text.is_empty());
    let out = out.collect::<Vec<_>>().join("\n");
    if out.is_empty() { Ok(()) } else { ui::print(&out) }
}

/// How far the kernel must be compiled.
fn last_wanted(args: &Args) -> Kind {
    let all = args.emit.is_empty()
        || args.out.is_some()
        || args.time_passes
        || args.dump_dir.is_some()
        || !args.print_ir_after.is_empty();
    if all { Kind::Asm } else { args.emit.iter().map(|e| e.kind).max().unwrap_or(Kind::Asm) }
}

/// What was made.
struct Work {
    ast: String,
    attention: Option<String>,
    plan: Option<Plan>,
    picked: Picked,
    artifact: Option<Artifact>,
    machine: Machine,
}

impl Work {
    fn compile(
        &mut self,
        chosen: &Chosen,
        settled: Settled,
        last: Kind,
        stages: &mut Stages,
    ) -> Result<(), Unsettled> {
        self.attention = Some(attn_ir::text::print_kernel(&settled.ir));
        if last >= Kind::Schedule {
            if last >= Kind::Clif {
                emit::prepare(&settled.key.target);
            }
            let spec = chosen.kernel.spec().map_err(Unsettled::Facade)?;
            let plan = pipeline::plan(spec, &settled.key, stages).map_err(Unsettled::Compile)?;
            if last >= Kind::Clif {
                let artifact = emit::emit(chosen.kernel.sources(), &plan, stages);
                self.artifact = Some(artifact.map_err(Unsettled::Facade)?);
            }
            self.plan = Some(plan);
            self.picked = settled.picked;
        }
        Ok(())
    }

    /// The text or the bytes of a kind. Errors: the target has no such stage; it was not reached, which is a bug.
    fn kind(&self, kind: Kind, map: &SourceMap) -> Result<Vec<u8>, Failure> {
        let missing = || Failure::bug(format!("{kind:?} was asked for and not made"));
        let plan = self.plan.as_ref().ok_or_else(missing);
        let artifact = || self.artifact.as_ref().ok_or_else(missing);
        let text = match kind {
            Kind::Ast => self.ast.clone(),
            Kind::AttnIr => self.attention.clone().ok_or_else(missing)?,
            Kind::Schedule => schedule_text(plan?, &self.picked),
            Kind::ScheduleFile => schedule_file(plan?)?,
            Kind::Tile => tile_ir::text::print(&plan?.program),
            Kind::Ptx => device_code::ptx(artifact()?, &plan?.target)?,
            Kind::Cubin => return Ok(self.machine.cubin(artifact()?, &plan?.target, "cubin")?.to_vec()),
            Kind::Sass => self.machine.sass(artifact()?, &plan?.target)?,
            Kind::Clif => listing(plan?, Listing { clif: true, asm: false })?,
            Kind::Asm => listing(plan?, Listing { clif: false, asm: true })?,
            Kind::Simt => device_code::simt(plan?, map)?,
            Kind::Mlir => device_code::mlir(plan?, map)?,
            Kind::LlvmIr => device_code::llvm_ir(plan?, map)?,
        };
        Ok(text.into_bytes())
    }

    /// Writes the files, returns what goes to standard output.
    fn write(&self, args: &Args, map: &SourceMap) -> Result<Vec<u8>, Failure> {
        let to_stdout = args.emit.iter().filter(|e| e.path.is_none()).count();
        let mut out = Vec::new();
        for emit in &args.emit {
            let text = self.kind(emit.kind, map)?;
            match &emit.path {
                Some(path) => write_whole(path, &text)?,
                None if to_stdout == 1 => out.extend(text),
                None => out.extend(
                    [format!("// ----- {} -----\n", emit.name).as_bytes(), text.trim_ascii_end(), b"\n\n"]
                        .concat(),
                ),
            }
        }
        match (&self.artifact, &self.plan) {
            (Some(a), Some(plan)) if args.emit.is_empty() => Ok(self.summary(a, &plan.target)?.into_bytes()),
            _ => Ok(out),
        }
    }

    /// One line, and for a GPU what its assembler says.
    fn summary(&self, a: &Artifact, target: &Target) -> Result<String, Failure> {
        let line = |what| {
            format!("ok: {} for {}: {}, {} bytes of {what}", a.name, a.target, a.schedule, a.code.len())
        };
        match target {
            Target::Cpu(_) => Ok(line("machine code")),
            Target::Gpu(arch) => {
                Ok(format!("{}\n{}", line("PTX"), self.machine.figures(a, *arch)?.trim_end()))
            }
        }
    }

    /// Writes the package, with the values of parameters in it; says what it is.
    fn pack(&self, chosen: &Chosen, path: &Path) -> Result<String, Failure> {
        let artifact =
            self.artifact.clone().ok_or_else(|| Failure::bug("nothing was emitted to be packed"))?;
        let (_, params) = chosen.split_params(chosen.kernel.spec()?);
        let params: Vec<_> = params.iter().map(|(name, v)| (name.as_str(), *v)).collect();
        let kernel = LoadedKernel::load_on(artifact, &params, &Device::Absent)?;
        let bytes = Package::write(kernel.artifact())?;
        write_whole(path, &bytes)?;
        let package = Package::read(&bytes)?;
        Ok(format!("{}: {} bytes, hash {}", path.display(), bytes.len(), package.hash()))
    }
}

/// The decisions and the budget behind them.
fn schedule_text(plan: &Plan, picked: &Picked) -> String {
    let mut text = String::new();
    for a in &plan.attends {
        let (s, origin) = (&a.schedule, picked.origin_of(&a.attention.name));
        text += &format!("{s}\n  {:<14} {origin}\n", "from");
        for stage in &s.sram {
            text += &format!("  {:<14} {:>9} bytes\n", stage.name, stage.bytes);
        }
        let place = if matches!(plan.target, Target::Gpu(_)) { "shared memory" } else { "L2" };
        let (name, bytes) = ("together", s.sram_bytes());
        text += &format!("  {name:<14} {bytes:>9} bytes of {} available in {place}\n", s.budget);
    }
    text
}

/// What `--schedule-file` reads.
fn schedule_file(plan: &Plan) -> Result<String, Failure> {
    if plan.attends.is_empty() {
        let message = format!(
            "--emit=schedule-file: kernel `{}` has no attention whose schedule could be pinned",
            plan.kernel.name
        );
        return Err(Failure::usage(message).help("recurrences have no schedule to choose"));
    }
    let attentions = plan.attends.iter().map(|a| (a.attention.name.as_str(), &a.schedule));
    Ok(schedules::schedule_file(&plan.kernel.name, attentions))
}

fn listing(plan: &Plan, which: Listing) -> Result<String, Failure> {
    let Target::Cpu(facts) = &plan.target else {
        let message = format!("--emit=clif and asm are stages for a CPU, and the target is {}", plan.target);
        return Err(Failure::usage(message).help("a GPU has --emit=mlir"));
    };
    let code = cpu::emit_listing(&plan.program, facts, which).map_err(|err| Failure::bug(err.to_string()))?;
    Ok(if which.clif { code.clif } else { code.asm })
}

/// The table of `--time-passes`: every stage, then loading, then the whole way again from the disk cache.
fn timings(ui: &Ui, chosen: &Chosen, work: Work, stages: &Stages, args: &Args) -> Result<String, Failure> {
    let mut table = Table::new(&["stage", "ms"]);
    let ms = |d: Duration| format!("{:.3}", d.as_secs_f64() * 1e3);
    let mut total = Duration::ZERO;
    for (stage, took) in stages.times() {
        total += took;
        table.row([stage.name().to_string(), ms(took)]);
    }
    let artifact = work.artifact.ok_or_else(|| Failure::bug("nothing was emitted to be timed"))?;
    if let Some(Plan { target: Target::Gpu(arch), .. }) = work.plan {
        table.row(["text to PTX".to_string(), ms(total)]);
        let took = work.machine.time(&artifact, arch)?;
        table.row(["ptxas".to_string(), took.map_or("not found".into(), ms)]);
        return Ok(table.to_string());
    }
    let start = Instant::now();
    LoadedKernel::load_on(artifact, &[], &chosen.target.device()?)?;
    let load = start.elapsed();
    table.row(["load".to_string(), ms(load)]);
    table.row(["text to callable machine code".to_string(), ms(total + load)]);
    let dir = tempfile::tempdir().map_err(|err| Failure::wrong(format!("no temporary directory: {err}")))?;
    let (cache, warning) = Cache::at(dir.path(), 1 << 30);
    warning.iter().for_each(|w| ui.warn(&w.to_string()));
    let at: Vec<(&str, i64)> = args.kernel.at.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let kernel = chosen.kernel.clone().with_cache(Arc::new(cache));
    let kernel = args.with.iter().fold(kernel, |k, name| k.with_input(name));
    let settled = sizes::settle(
        chosen,
        &args.kernel.at.iter().cloned().collect(),
        args.dtype,
        args.with.iter().cloned().collect(),
    );
    let settled = settled.map_err(|err| err.failure(ui, chosen))?;
    let dims: Vec<(&str, i64)> = settled.key.dims.iter().map(|(n, v)| (n.as_str(), *v)).chain(at).collect();
    kernel.plan(&dims, args.dtype)?;
    let again = kernel.plan(&dims, args.dtype)?;
    if again.stats().origin == Origin::IndexHit {
        table.row(["loading it from the disk cache".to_string(), ms(again.stats().total)]);
    }
    Ok(table.to_string())
}
