//! What `explain` says of a GPU: of each launch what it executes, what a block takes, and what limits it.
//!
//! Comes in: a study for a GPU, useful work. Goes out: one report of all launches, as text or JSON, by the arithmetic of
//! `gpu_model`. What holds: nothing is measured; registers are ptxas's where it and the LLVM worker are found, else a
//! guess that is marked as one.

use attn_compiler::expr::ExprId;
use attn_compiler::expr::eval::eval;
use attn_compiler::target::{GpuArch, Target};
use attn_compiler_gpu::report::{LaunchReport, Products, Tile};
use attnc::{ErrorKind, emit, llvm, nvidia};
use serde_json::{Value as Json, json};

use super::device_counts::{self, Counts};
use super::device_report;
use super::executed;
use super::gpu_model::{self as model, Block, Bounds, Machine, Residence, Work};
use super::sizes;
use super::study::Study;
use super::table::{Table, short};
use super::traffic::Named;
use super::ui::{Failure, Ui};

/// Registers of a thread beside its tiles, where ptxas is not there to count them.
const OTHER_REGISTERS: i64 = 40;

/// Work of an attention, from its mask.
#[derive(Clone, Copy, Debug)]
pub struct Attended {
    /// FLOPs of the pairs in the mask, if they were counted.
    pub useful: Option<f64>,
    /// FLOPs of the executed tiles; at most.
    pub executed: f64,
    /// Pairs of the executed tiles; at most.
    pub pairs: f64,
}

/// One launch.
struct Line {
    launch: LaunchReport,
    useful: Option<f64>,
    /// None where loops depend on what tensors hold and it is no attention.
    work: Option<Work>,
    /// The work is an upper bound.
    bound: bool,
    /// Bytes that blocks ask for.
    asked: f64,
    registers: u32,
    blocks: f64,
    residence: Residence,
    waves: f64,
    bounds: Option<Bounds>,
}

/// All launches.
pub struct Report {
    machine: Machine,
    lines: Vec<Line>,
    useful: Option<f64>,
    /// Why registers are a guess.
    guessed: Option<String>,
}

/// Makes the report; nothing for a CPU. `attended` holds the attentions in the order of the plan, or fewer.
pub fn report(
    ui: &Ui,
    study: &Study,
    attended: &[Attended],
    useful: Option<f64>,
) -> Result<Option<Report>, Failure> {
    let Target::Gpu(arch) = &study.plan.target else { return Ok(None) };
    let machine = Machine::of(*arch);
    let launches =
        emit::gpu_report(&study.plan, *arch).map_err(|err| sizes::refused(ui, &study.chosen, err))?;
    let (figures, guessed) = match counted_registers(study, *arch) {
        Ok(figures) => (figures, None),
        Err(err) if err.kind() == ErrorKind::Unsupported => (Vec::new(), Some(err.to_string())),
        Err(err) => return Err(err.into()),
    };
    let program = &study.plan.program;
    let weighing = program.launches.iter().filter(|l| device_counts::weighs(&l.body)).count();
    let known = weighing == attended.len() && weighing == study.plan.attends.len();
    let mut attended = attended.iter();
    let mut lines = Vec::new();
    for (launch, report) in program.launches.iter().zip(launches) {
        let of = if known && device_counts::weighs(&launch.body) { attended.next().copied() } else { None };
        let found = figures.iter().find(|f| f.entry == report.entry);
        // One block fits always: ptxas is told how many threads it has.
        let most = (65536 / i64::from(report.threads.max(1)) / 8 * 8).min(255);
        let guess = (report.tile_registers() + OTHER_REGISTERS).min(most) as u32;
        let registers = found.map_or(guess, |f| f.registers);
        let block = Block { threads: report.threads, registers, shared: report.shared_bytes };
        let blocks = executed::tasks(study, launch)?;
        if blocks == 0.0 && !device_counts::weighs(&launch.body) {
            // It is not launched.
            continue;
        }
        let residence = model::residence(&machine, &block);
        let counts = device_counts::of(study, launch, &report)?;
        let together = machine.sms * f64::from(residence.blocks.max(1));
        let mut line = Line {
            useful: of.and_then(|a| a.useful),
            work: None,
            bound: counts.is_none(),
            asked: 0.0,
            registers,
            blocks,
            residence,
            waves: model::waves(&machine, blocks, residence.blocks),
            bounds: None,
            launch: report,
        };
        line.fill(study, &machine, (counts, of), (blocks, together))?;
        lines.push(line);
    }
    Ok(Some(Report { machine, lines, useful, guessed }))
}

/// What ptxas says of every kernel of the plan.
fn counted_registers(study: &Study, arch: GpuArch) -> Result<Vec<nvidia::Figures>, attnc::Error> {
    nvidia::ptxas()?;
    let code = emit::gpu_code(study.chosen.kernel.sources(), &study.plan, arch)?;
    Ok(nvidia::assemble(&llvm::to_ptx(&code.modules, arch)?, arch)?.figures)
}

impl Line {
    /// How many blocks take its tasks, if they are persistent.
    fn persistent_blocks(&self, sms: f64) -> Option<f64> {
        self.launch.persistent.then(|| self.blocks.min(sms * f64::from(self.residence.blocks.max(1))))
    }

    /// Work, bytes and bounds, from what was counted in the tile IR or at least from the mask.
    fn fill(
        &mut self,
        study: &Study,
        machine: &Machine,
        (counts, of): (Option<Counts>, Option<Attended>),
        (blocks, together): (f64, f64),
    ) -> Result<(), Failure> {
        let whole = sizes_of_tensors(study)?;
        let tensor_cores = matches!(self.launch.products, Products::TensorCores(_));
        let work = match (counts, of) {
            (Some(counts), _) => {
                let written: f64 = counts.written.iter().sum();
                let read = counts.read.iter().zip(&whole);
                let bytes: f64 =
                    read.map(|(&asked, &n)| model::from_memory(machine, asked, n, together)).sum();
                self.asked = counts.read.iter().sum::<f64>() + written;
                Work {
                    products: counts.products,
                    tensor_cores,
                    exps: counts.exps,
                    bytes: bytes + written,
                    blocks,
                }
            }
            // Tensors decide which tiles there are: those that may be, and every tensor once.
            (None, Some(of)) => {
                self.asked = whole.iter().sum();
                Work { products: of.executed, tensor_cores, exps: of.pairs, bytes: self.asked, blocks }
            }
            (None, None) => return Ok(()),
        };
        self.bounds = Some(model::bounds(machine, &work));
        self.work = Some(work);
        Ok(())
    }

    fn json(&self) -> Json {
        let mut object = device_report::json(&self.launch);
        let more = json!({
            "registers": self.registers, "flops_useful": self.useful,
            "flops_executed": self.work.map(|w| w.products), "exps": self.work.map(|w| w.exps), "upper_bound": self.bound,
            "bytes_asked": self.work.map(|_| self.asked), "bytes_memory": self.work.map(|w| w.bytes),
            "blocks": self.work.map(|w| w.blocks), "blocks_per_sm": self.residence.blocks,
            "blocks_limited_by": self.residence.limit, "occupancy": self.residence.occupancy, "waves": self.waves,
            "products_ms": self.bounds.map(|b| b.products), "exp_ms": self.bounds.map(|b| b.exps),
            "memory_ms": self.bounds.map(|b| b.memory), "ms": self.bounds.map(|b| b.ms),
            "limiter": self.bounds.map(|b| b.limiter),
        });
        if let (Json::Object(object), Json::Object(more)) = (&mut object, more) {
            object.extend(more);
        }
        object
    }
}

/// Bytes of every tensor of the program.
fn sizes_of_tensors(study: &Study) -> Result<Vec<f64>, Failure> {
    let (program, env) = (&study.plan.program, Named::new(study)?);
    let size = |id: &ExprId| eval(&program.pool, *id, &env).int().max(0) as f64;
    let bytes =
        program.tensors.iter().map(|t| t.shape.iter().map(size).product::<f64>() * t.dtype.size() as f64);
    Ok(bytes.collect())
}

impl Report {
    fn ms(&self) -> Option<f64> {
        self.lines.iter().map(|l| l.bounds.map(|b| b.ms)).sum()
    }

    /// One object.
    pub fn json(&self) -> Json {
        let m = &self.machine;
        json!({
            "machine": {
                "name": m.name, "sms": m.sms, "ghz": m.ghz, "tensor_tflops": m.tensor_tflops, "f32_tflops": m.f32_tflops(),
                "ex2_tera": m.ex2_tera(), "tbs": m.tbs, "l2_bytes": m.l2,
            },
            "launches": self.lines.iter().map(Line::json).collect::<Vec<_>>(),
            "registers_from": if self.guessed.is_none() { "ptxas" } else { "guess" },
            "flops_useful": self.useful, "ms": self.ms(),
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let m = &self.machine;
        let mut out = format!(
            "Model of {}: {} SMs at {} GHz, {} TFLOP/s bf16, {} f32, {} T ex2/s, {} TB/s, {} MB of L2\n",
            m.name,
            m.sms,
            m.ghz,
            m.tensor_tflops,
            short(m.f32_tflops()),
            short(m.ex2_tera()),
            m.tbs,
            short(m.l2 / 1048576.0)
        );
        out += &self.bounds_table();
        out += &self.blocks_table();
        out += &self.tiles_table();
        for l in &self.lines {
            if let Products::Exact(why) = &l.launch.products {
                out += &format!("  {} multiplies in exact f32: {why}\n", l.launch.name);
            }
            if let Some(blocks) = l.persistent_blocks(m.sms) {
                out +=
                    &format!("  {} has {blocks} persistent blocks for {} tasks\n", l.launch.name, l.blocks);
            }
            for order in &l.launch.orders {
                out += &format!("  {} {order}\n", l.launch.name);
            }
        }
        out += "  assumed: blocks that run together read the same rows from memory once, and a tensor that fits half of the \
                L2 comes once; bounds are work by peak, at full clocks\n";
        if let Some(why) = &self.guessed {
            out += &format!("  ~ registers: those of tiles and {OTHER_REGISTERS}; {why}\n");
        }
        if let (Some(ms), Some(useful)) = (self.ms(), self.useful) {
            let tflops = useful / (ms.max(f64::MIN_POSITIVE) * 1e9);
            out += &format!("  roofline {} ms, {} TFLOP/s of useful work\n", short(ms), short(tflops));
        }
        out
    }

    fn bounds_table(&self) -> String {
        let mut table = Table::new(&[
            "  launch",
            "useful G",
            "executed G",
            "asked MB",
            "memory MB",
            "products ms",
            "exp ms",
            "memory ms",
            "limiter",
        ]);
        for l in &self.lines {
            let bound = if l.bound { "<= " } else { "" };
            let of = |x: Option<f64>| x.map_or("?".to_string(), |x| format!("{bound}{}", short(x)));
            table.row([
                format!("  {}", l.launch.name),
                l.useful.map_or("-".to_string(), |x| short(x / 1e9)),
                of(l.work.map(|w| w.products / 1e9)),
                of(l.work.map(|_| l.asked / 1e6)),
                of(l.work.map(|w| w.bytes / 1e6)),
                of(l.bounds.map(|b| b.products)),
                of(l.bounds.map(|b| b.exps)),
                of(l.bounds.map(|b| b.memory)),
                l.bounds.map_or("?", |b| b.limiter).to_string(),
            ]);
        }
        table.to_string()
    }

    fn blocks_table(&self) -> String {
        let guess = if self.guessed.is_some() { "~" } else { "" };
        let mut table = Table::new(&[
            "  launch",
            "products on",
            "blocks",
            "threads",
            "registers",
            "shared",
            "blocks/SM",
            "limited by",
            "occupancy",
            "waves",
        ]);
        for l in &self.lines {
            let on = match &l.launch.products {
                Products::None => "-",
                Products::TensorCores(_) => "tensor cores",
                Products::Exact(_) => "exact f32",
            };
            table.row([
                format!("  {}", l.launch.name),
                on.to_string(),
                l.blocks.to_string(),
                l.launch.threads.to_string(),
                format!("{guess}{}", l.registers),
                l.launch.shared_bytes.to_string(),
                l.residence.blocks.to_string(),
                l.residence.limit.to_string(),
                format!("{:.0}%", 100.0 * l.residence.occupancy),
                short(l.waves),
            ]);
        }
        table.to_string()
    }

    /// Tiles of launches that multiply.
    fn tiles_table(&self) -> String {
        let mut table = Table::new(&["  launch", "tile", "shape", "registers", "shared"]);
        let mut any = false;
        for l in self.lines.iter().filter(|l| l.launch.products != Products::None) {
            let (vectors, tiles): (Vec<&Tile>, Vec<&Tile>) =
                l.launch.tiles.iter().partition(|t| t.shape.1 == 1);
            for t in tiles {
                any = true;
                let shape = format!("{} x {}", t.shape.0, t.shape.1);
                let (registers, shared) = (t.registers.to_string(), t.shared_bytes.to_string());
                table.row([format!("  {}", l.launch.name), t.name.clone(), shape, registers, shared]);
            }
            let sum = |f: fn(&Tile) -> i64| vectors.iter().map(|t| f(t)).sum::<i64>().to_string();
            let (registers, shared) = (sum(|t| t.registers), sum(|t| t.shared_bytes));
            table.row([
                format!("  {}", l.launch.name),
                format!("{} vectors", vectors.len()),
                String::new(),
                registers,
                shared,
            ]);
            let rest = "right operands, gaps, exchange".to_string();
            let shared = l.launch.other_bytes().to_string();
            table.row([format!("  {}", l.launch.name), rest, String::new(), String::new(), shared]);
        }
        if any { table.to_string() } else { String::new() }
    }
}
