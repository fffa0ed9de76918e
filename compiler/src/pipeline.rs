//! The straight line on one page: from the text of a specification to an [`Artifact`].
//!
//! ```text
//! front     text -> syntax -> sema                     Front: checked kernels, diagnostics
//! plan      instantiate -> attn_ir -> tabulate -> schedule -> lower -> tile_ir -> passes
//!                                                      Plan: everything decided, printable; its text is the cache key
//! emit      tile_ir -> Cranelift -> machine code       Artifact
//! ```
//!
//! Each arrow is one call below; after each the [`Observer`] is told, and can ask for the text. The tile IR is
//! verified after lowering and after every pass.

mod ways;

use std::time::{Duration, Instant};

use crate::artifact::{Artifact, DeviceLaunch, LaunchSpec, RequireSpec, ScalarSpec, TensorRole, TensorSpec};
use crate::attn_ir::{self, Attention, Fact};
use crate::backend::cpu::{self, BackendError};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Internal, SourceId, SourceMap, Unsupported};
use crate::ensure;
use crate::lower::checks::Checks;
use crate::lower::{self, Table};
use crate::passes::PASSES;
use crate::schedule::sweep::Sweep;
use crate::schedule::{self, Schedule};
use crate::sema::{self, Checked, CheckedKernel, PlanKey};
use crate::target::Target;
use ways::Ways;

use crate::tile_ir::{self, Program, ScalarArg, TensorDecl, TensorKind};

/// Version that is part of every cache key: the release, and a hash of the compiler's sources (see `build.rs`).
pub const COMPILER_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("ATTN_COMPILER_SOURCES"));

/// A stage, as `--emit`, `--print-ir-after` and `--time-passes` name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Parsing and checking.
    Front,
    /// `attnir`
    AttnIr,
    /// Tables of positions taken out.
    Tabulate,
    /// `schedule`
    Schedule,
    /// `tile`, before passes.
    Lower,
    /// A pass.
    Pass(&'static str),
    /// `clif`, `asm`, and the code.
    Emit,
    /// `simt`, of kernels for a GPU.
    Simt,
    /// `mlir`, of kernels for a GPU.
    Mlir,
    /// `ptx`, made by the LLVM worker.
    Ptx,
}

impl Stage {
    /// Name in options and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Front => "front",
            Stage::AttnIr => "attn-ir",
            Stage::Tabulate => "tabulate",
            Stage::Schedule => "schedule",
            Stage::Lower => "lower",
            Stage::Pass(name) => name,
            Stage::Emit => "emit",
            Stage::Simt => "simt",
            Stage::Mlir => "mlir",
            Stage::Ptx => "ptx",
        }
    }
}

/// What is told after each stage: how long it took, and how to get its text.
pub trait Observer {
    /// Called once for each stage, in order.
    fn stage(&mut self, stage: Stage, took: Duration, text: &dyn Fn() -> String);
}

/// An observer that looks away.
impl Observer for () {
    fn stage(&mut self, _: Stage, _: Duration, _: &dyn Fn() -> String) {}
}

/// The three kinds of failure, never mixed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CompileError {
    /// The author's text or the plan is wrong.
    #[error("{}", .0.message)]
    Spec(Box<Diagnostic>),
    /// A clause that the target cannot run yet.
    #[error("{0}")]
    Unsupported(Box<Unsupported>),
    /// Our bug.
    #[error(transparent)]
    Internal(Box<Internal>),
}

impl From<sema::CompileError> for CompileError {
    fn from(e: sema::CompileError) -> Self {
        match e {
            sema::CompileError::Spec(d) => CompileError::Spec(d),
            sema::CompileError::Unsupported(u) => CompileError::Unsupported(u),
        }
    }
}

/// A file that was read and checked.
#[derive(Clone, Debug)]
pub struct Front {
    /// Its text and that of everything it uses.
    pub map: SourceMap,
    /// The file itself.
    pub source: SourceId,
    /// Kernels without errors.
    pub checked: Checked,
    /// What there is to say.
    pub diagnostics: Diagnostics,
}

/// Gives the text of a file named in `use "other.attn"`, or says why not.
pub type Resolver<'a> = sema::Resolver<'a>;

/// Parses and checks one file.
pub fn front(name: &str, text: &str, resolver: &mut Resolver, observer: &mut dyn Observer) -> Front {
    let start = Instant::now();
    let mut map = SourceMap::default();
    let source = map.add(name, text);
    let (checked, diagnostics) = sema::check(&mut map, source, resolver);
    observer.stage(Stage::Front, start.elapsed(), &|| text.to_string());
    Front { map, source, checked, diagnostics }
}

/// Everything decided for one kernel on one target.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is computed, as written: the reference evaluates this.
    pub kernel: attn_ir::Kernel,
    /// How each attention of the kernel is computed, in order.
    pub attends: Vec<AttendPlan>,
    /// How each recurrence of the kernel is computed, in order.
    pub recurs: Vec<RecurPlan>,
    /// Tensors that `rope` turns: for reports.
    pub turns: Vec<sema::TurnFact>,
    /// What must be proved when arguments are bound.
    pub checks: Checks,
    /// After all passes.
    pub program: Program,
    /// Target.
    pub target: Target,
}

/// One attention of a kernel and what was decided about it.
#[derive(Clone, Debug)]
pub struct AttendPlan {
    /// As written.
    pub attention: Attention,
    /// The mask's top-level clauses: text, place, expression in `attention.pool`.
    pub mask_clauses: sema::MaskClauses,
    /// How.
    pub schedule: Schedule,
    /// How calls of few rows are, where that is in another way.
    pub sweep: Option<Sweep>,
}

/// What was decided about one recurrence of a kernel.
#[derive(Clone, Debug)]
pub struct RecurPlan {
    /// How.
    pub form: lower::recur::Form,
    /// Its launches in the program; passes keep launches.
    pub launches: std::ops::Range<usize>,
}

impl Plan {
    /// The schedules in words, a line for each attention and each recurrence.
    pub fn schedule_text(&self) -> String {
        let mut lines: Vec<String> =
            self.attends.iter().map(|a| line(&a.schedule, a.sweep.as_ref())).collect();
        lines.extend(self.recurs.iter().map(|r| r.form.to_string()));
        lines.join("\n")
    }

    /// The text whose hash names the kernel in the cache: the program, the target, the compiler.
    pub fn key_text(&self) -> String {
        format!("{}\n{}\nattnc {COMPILER_VERSION}\n", tile_ir::text::print(&self.program), self.target)
    }
}

/// How an attention is computed, in words.
fn line(schedule: &Schedule, sweep: Option<&Sweep>) -> String {
    let sweep = sweep.map_or_else(String::new, |s| format!(", {}", s.words(schedule)));
    format!("{schedule}{sweep}")
}

/// From a checked kernel to a tile IR program ready for code generation.
///
/// # Errors
/// A wrong plan, a schedule that does not fit, a clause without code, or an invariant of ours that broke.
pub fn plan(
    kernel: &CheckedKernel,
    key: &PlanKey,
    observer: &mut dyn Observer,
) -> Result<Plan, CompileError> {
    let mut clock = Clock { observer, start: Instant::now() };
    let instance = sema::instantiate_with_clauses(kernel, key)?;
    let ir = instance.kernel;
    clock.stage(Stage::AttnIr, &|| attn_ir::text::print_kernel(&ir));
    known_overrides(kernel, key, &ir)?;
    let stored = lower::stored::Stored::of(&ir);
    let prepared = match &key.target {
        Target::Cpu(_) => None,
        Target::Gpu(_) => lower::operands::prepare(&ir, &stored),
    };
    let narrowed = match &key.target {
        Target::Cpu(facts) => lower::operands::narrowed(&ir, &stored, facts),
        Target::Gpu(_) => None,
    };
    let lowered = prepared.as_ref().map(|p| &p.kernel).or(narrowed.as_ref()).unwrap_or(&ir);
    let mut program = lower::declare(&lower::Names {
        name: &lowered.name,
        pool: &lowered.pool,
        dims: &lowered.dims,
        params: &lowered.params,
        tensors: &lowered.tensors,
    });
    let ways = Ways::of(&program, lowered, &stored, (kernel, key))?;
    let mut checks = Checks::none();
    let (mut attends, mut recurs) = (Vec::new(), Vec::new());
    let mut clauses = instance.mask_clauses.into_iter();
    for step in &lowered.steps {
        match step {
            attn_ir::Step::Derive(d) if stored.replaces(d.out) => {
                program.tensors[d.out.0 as usize].shape.fill(program.pool.int(0));
            }
            attn_ir::Step::Derive(d) => {
                let (pool, shape) = (&mut program.pool, &lowered.tensor(d.out).shape);
                checks.add_derived(d, shape, pool, &program.tensors);
                ways.derive(&mut program, lowered, d);
            }
            attn_ir::Step::Top(top) => {
                checks.add_top(top, &mut program);
                lower::choose::top(&mut program, top);
            }
            attn_ir::Step::Count(count) => {
                checks.add_count(count, &mut program);
                lower::choose::count(&mut program, count);
            }
            attn_ir::Step::Rank(rank) => {
                checks.add_rank(rank, &mut program);
                lower::rank::rank(&mut program, rank);
            }
            attn_ir::Step::Accumulate(s) => lower::accumulate::accumulate(&mut program, s),
            attn_ir::Step::Recur(r) => {
                checks.add_recurrence(r, &mut program.pool, &program.tensors);
                let first = program.launches.len();
                let form =
                    lower::recur::recurrence(&mut program, r).map_err(|e| no_blocks(kernel, key, e))?;
                clock.stage(Stage::Schedule, &|| format!("{form}\n"));
                recurs.push(RecurPlan { form, launches: first..program.launches.len() });
            }
            attn_ir::Step::Write(w) => lower::write::write(&mut program, w),
            attn_ir::Step::Attend(attention) => {
                let mut tabulated = (**attention).clone();
                tabulated.pool = program.pool.clone();
                let value_factor = match &prepared {
                    Some(prepared) => prepared.factors.get(attends.len()).copied().flatten(),
                    None => stored.read(&mut tabulated),
                };
                let (first, n_before) = (program.tensors.len() as u32, n_tables(&program));
                let tables = lower::tabulate::tabulate(&mut tabulated, first, n_before)
                    .map_err(|e| not_tabulable(kernel, key, &e))?;
                clock.stage(Stage::Tabulate, &|| attn_ir::text::print(&tabulated));
                let Some((schedule, sweep)) = ways.get(attends.len()) else {
                    return Err(internal("schedule", "each attention has a schedule", &attention.name));
                };
                clock.stage(Stage::Schedule, &|| line(schedule, sweep.map(|s| s.sweep)));
                program.pool = tabulated.pool.clone();
                program.tensors.extend(tables.iter().map(Table::declare));
                checks.add_attention(&tabulated, &mut program.pool, &program.tensors);
                let (attn, tables) = (&tabulated, &tables[..]);
                let input = lower::Input { attn, tables, schedule, value_factor, sweep, when: None };
                lower::attention(&mut program, &input);
                let mask_clauses = clauses.next().unwrap_or_default();
                let written = ir.attentions().nth(attends.len()).unwrap_or(attention).clone();
                let (schedule, sweep) = (schedule.clone(), sweep.map(|s| s.sweep.clone()));
                attends.push(AttendPlan { attention: written, mask_clauses, schedule, sweep });
            }
        }
    }
    checks.add_demands(&ir.demands);
    verify(&program, "lower")?;
    clock.stage(Stage::Lower, &|| tile_ir::text::print(&program));
    for pass in PASSES.iter().filter(|p| (p.when)(&key.target)) {
        let before = program.launches.clone();
        (pass.run)(&mut program);
        // What a pass left alone has been verified.
        if program.launches != before {
            verify(&program, pass.name)?;
        }
        clock.stage(Stage::Pass(pass.name), &|| tile_ir::text::print(&program));
    }
    let mut plan = Plan {
        kernel: ir,
        turns: instance.turns,
        attends,
        recurs,
        checks,
        program,
        target: key.target.clone(),
    };
    match ensure::check(&mut plan, kernel).into_iter().next() {
        Some(broken) => Err(CompileError::Spec(Box::new(broken))),
        None => Ok(plan),
    }
}

fn n_tables(program: &Program) -> usize {
    program.tensors.iter().filter(|t| t.name.starts_with("table")).count()
}

/// From a plan to machine code.
///
/// # Errors
/// An operation without code, or an invariant of ours that broke.
pub fn emit(plan: &Plan, observer: &mut dyn Observer) -> Result<Artifact, CompileError> {
    emit_each(plan, observer, &cpu::in_order)
}

/// As [`emit`], with the launches compiled by `each`, which may use threads; the code does not depend on it.
///
/// # Errors
/// Those of [`emit`].
pub fn emit_each(
    plan: &Plan,
    observer: &mut dyn Observer,
    each: cpu::Each<'_>,
) -> Result<Artifact, CompileError> {
    let start = Instant::now();
    let Target::Cpu(facts) = &plan.target else { return Err(not_here(&plan.target)) };
    let code = cpu::emit_each(&plan.program, facts, cpu::Listing::default(), each)
        .map_err(|e| backend_error(&plan.target, e))?;
    let listing = || match cpu::emit_listing(&plan.program, facts, cpu::Listing { clif: true, asm: true }) {
        Ok(code) => format!("{}\n{}", code.clif, code.asm),
        Err(e) => e.to_string(),
    };
    let launches = plan.program.launches.iter().enumerate().map(|(n, launch)| LaunchSpec {
        name: launch.name.clone(),
        grid: launch.grid.iter().map(|(_, extent)| *extent).collect(),
        scratch_bytes: code.scratch_bytes[n],
        entry: code.entries[n],
        device: None,
    });
    let artifact = assemble(plan, launches.collect(), code.code);
    observer.stage(Stage::Emit, start.elapsed(), &listing);
    Ok(artifact)
}

/// The artifact of a plan for a GPU, from the PTX of its kernels and how each launch is launched.
pub fn assemble_device(plan: &Plan, ptx: String, devices: Vec<DeviceLaunch>) -> Artifact {
    let launches = plan.program.launches.iter().zip(devices).map(|(launch, device)| LaunchSpec {
        name: launch.name.clone(),
        grid: launch.grid.iter().map(|(_, extent)| *extent).collect(),
        scratch_bytes: 0,
        entry: 0,
        device: Some(device),
    });
    assemble(plan, launches.collect(), ptx.into_bytes())
}

/// All that the runtime is told of a plan.
fn assemble(plan: &Plan, launches: Vec<LaunchSpec>, code: Vec<u8>) -> Artifact {
    let program = &plan.program;
    let wide = tile_ir::wide::wide_params(program);
    let scalar = |a: &ScalarArg, is_dim| {
        let (name, wide) = (a.name.clone(), wide.contains(&a.var));
        ScalarSpec { name, var: a.var, is_dim, default: a.default, wide }
    };
    let scalars =
        |args: &[ScalarArg], is_dim| args.iter().map(|a| scalar(a, is_dim)).collect::<Vec<ScalarSpec>>();
    Artifact {
        name: program.name.clone(),
        target: plan.target.to_string(),
        scalars: [scalars(&program.dims, true), scalars(&program.params, false)].concat(),
        tensors: program.tensors.iter().map(tensor_spec).collect(),
        requires: program
            .requires
            .iter()
            .map(|r| RequireSpec { cond: r.cond, message: r.message.clone() })
            .collect(),
        checks: plan.checks.checks.clone(),
        demands: plan.checks.demands.clone(),
        check_vars: plan.checks.vars.clone(),
        launches,
        code,
        schedule: plan.schedule_text(),
        pool: program.pool.clone(),
    }
}

/// Plan and emit.
///
/// # Errors
/// Those of [`plan`] and [`emit`].
pub fn compile(
    kernel: &CheckedKernel,
    key: &PlanKey,
    observer: &mut dyn Observer,
) -> Result<Artifact, CompileError> {
    emit(&plan(kernel, key, observer)?, observer)
}

/// Tells the observer and restarts the clock, so that the time of printing is not counted.
struct Clock<'a> {
    observer: &'a mut dyn Observer,
    start: Instant,
}

impl Clock<'_> {
    fn stage(&mut self, stage: Stage, text: &dyn Fn() -> String) {
        self.observer.stage(stage, self.start.elapsed(), text);
        self.start = Instant::now();
    }
}

fn tensor_spec(t: &TensorDecl) -> TensorSpec {
    let role = match &t.kind {
        TensorKind::Input => TensorRole::Input,
        TensorKind::Output => TensorRole::Output,
        TensorKind::Updated => TensorRole::Updated,
        TensorKind::Workspace => TensorRole::Workspace,
        TensorKind::Table { vars, origin, value } => {
            TensorRole::Table { vars: vars.clone(), origin: origin.clone(), value: *value }
        }
    };
    let order = match t.fact {
        Fact::None => 0,
        Fact::Sorted => 1,
        Fact::Monotone => 2,
    };
    TensorSpec {
        name: t.name.clone(),
        role,
        dtype: t.dtype,
        shape: t.shape.clone(),
        layout: t.layout.clone(),
        order,
    }
}

/// Machine code comes from here, PTX from `attn-compiler-gpu`.
fn not_here(target: &Target) -> CompileError {
    internal("emit", "the caller takes a GPU's plan to attn-compiler-gpu", &target.to_string())
}

fn not_tabulable(kernel: &CheckedKernel, key: &PlanKey, e: &lower::tabulate::NotTabulable) -> CompileError {
    CompileError::Unsupported(Box::new(Unsupported {
        clause: e.text.clone(),
        target: key.target.to_string(),
        nearest:
            "make the rounded expression depend on one integer expression of the positions, such as `i - j`"
                .into(),
        span: Some(kernel.span),
    }))
}

fn no_blocks(kernel: &CheckedKernel, key: &PlanKey, why: String) -> CompileError {
    CompileError::Unsupported(Box::new(Unsupported {
        clause: "recurrence".into(),
        target: key.target.to_string(),
        nearest: format!("{why}; updates made of `outer(x, y)`, `x @ s` on the right and numbers work"),
        span: Some(kernel.span),
    }))
}

/// Every schedule that is decided belongs to an attention.
fn known_overrides(kernel: &CheckedKernel, key: &PlanKey, ir: &attn_ir::Kernel) -> Result<(), CompileError> {
    let known: Vec<&str> = ir.attentions().map(|a| a.name.as_str()).collect();
    let Some(name) = key.schedules.stranger(&known) else { return Ok(()) };
    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
    let message =
        format!("a schedule is given for `{name}`; the attentions of `{}` are {known}", kernel.name);
    let d = Diagnostic::error(Code::BadSchedule, kernel.span, message).label("this kernel");
    Err(CompileError::Spec(Box::new(d)))
}

fn bad_schedule(kernel: &CheckedKernel, key: &PlanKey, e: &schedule::ScheduleError) -> CompileError {
    let target = key.target.family();
    let clause = kernel.schedules.iter().find(|s| s.target == target).map_or(kernel.span, |s| s.span);
    let d = Diagnostic::error(Code::BadSchedule, clause, e.to_string()).label("this schedule");
    CompileError::Spec(Box::new(d))
}

fn verify(program: &Program, stage: &str) -> Result<(), CompileError> {
    tile_ir::verify::verify(program).map_err(|e| internal(stage, e.invariant, &e.op))
}

fn backend_error(target: &Target, e: BackendError) -> CompileError {
    match e {
        BackendError::Unsupported { op, why } => CompileError::Unsupported(Box::new(Unsupported {
            clause: op,
            target: target.to_string(),
            nearest: why,
            span: None,
        })),
        BackendError::Internal { stage, invariant, op } => internal(stage, &invariant, &op),
    }
}

fn internal(stage: &str, invariant: &str, op: &str) -> CompileError {
    CompileError::Internal(Box::new(Internal {
        stage: stage.into(),
        invariant: invariant.into(),
        op: op.into(),
    }))
}
