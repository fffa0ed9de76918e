//! `attnc explain`: what the compiler has decided for a kernel, and what it saves.
//!
//! Comes in: a file and sizes. Goes out: conventions, schedule and cache budget, tiles by mask clause, useful and
//! executed work, bytes, promises; as text or one JSON object. What holds: pairs are counted exactly, or not given;
//! what depends on tensors that are not bound is marked as a bound over all contents. Recurrences have no mask: what
//! is said of them is in `explain_recur`. Deliberately not done: running the kernel.

use attn_compiler::diagnostic::{Code, Severity};
use attn_compiler::ensure;
use attn_compiler::expr::ExprId;
use attn_compiler::mask::host::Class;
use attn_compiler::pipeline;
use attn_compiler::sema::CheckedKernel;
use attn_compiler::sema::model::{Ensure, Promise};
use attn_compiler::target::Target;
use serde_json::{Value as Json, json};

use super::explain_gpu::{self, Attended};
use super::explain_recur;
use super::explain_show as show;
use super::positions::{self, Made, Turned};
use super::ring_work::{self, RingWork};
use super::study::{Study, StudyArgs};
use super::tiles::Ground;
use super::traffic::{self, Moved};
use super::ui::{self, Failure, Ui};
use super::work::{self, MAX_CELLS};

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub study: StudyArgs,
    /// Measure the peaks of this host and give the roofline time
    #[arg(long)]
    pub roofline: bool,
    /// Tokens of training, for what rotary positions reach, where their scaling does not name its original length
    #[arg(long, value_name = "N")]
    pub train_length: Option<f64>,
    /// Rotary base of training, if it is another than the one written
    #[arg(long, value_name = "THETA")]
    pub train_base: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Tiles by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tiles {
    /// Every pair is in the mask.
    pub full: u64,
    /// The element predicate decides.
    pub partial: u64,
    /// Skipped.
    pub empty: u64,
}

impl Tiles {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.full + self.partial + self.empty
    }

    fn add(&mut self, other: Tiles, times: u64) {
        self.full += other.full * times;
        self.partial += other.partial * times;
        self.empty += other.empty * times;
    }
}

/// The mask, or one of its clauses.
pub struct LayerReport {
    /// As written; `mask` for all of it.
    pub text: String,
    /// Of batch entry 0, head 0.
    pub first: Tiles,
    /// Of all batch entries and heads.
    pub all: Tiles,
    /// It differs from head to head.
    pub by_head: bool,
    /// It differs from batch entry to batch entry.
    pub by_batch: bool,
    /// Pairs of the executed tiles, over all batch entries and heads.
    pub executed: f64,
    /// Pairs in it, over all batch entries and heads; none if not counted.
    pub pairs: Option<u64>,
    /// Tiles that are worked on without holding a pair, over all batch entries and heads; none if not counted.
    pub hollow: Option<u64>,
    /// (b, h, row) of a row that sees no key, if the pairs were counted.
    pub empty_row: Option<(i64, i64, i64)>,
}

/// A promise and whether it holds.
pub struct Verdict {
    /// As written.
    pub text: String,
    /// Whether it holds; none if it cannot be told.
    pub holds: Option<bool>,
    /// In words.
    pub words: String,
}

/// What there is to be told.
pub struct Report<'a> {
    /// The kernel at its sizes.
    pub study: &'a Study,
    /// The kernel as checked.
    pub spec: &'a CheckedKernel,
    /// The whole mask.
    pub mask: LayerReport,
    /// Its clauses.
    pub clauses: Vec<LayerReport>,
    /// Tensors that the mask reads and that are not bound.
    pub unknown: Vec<String>,
    /// b * h * seq_q * seq_k
    pub pairs_without_mask: f64,
    /// FLOPs of the pairs in the mask.
    pub useful_flops: Option<f64>,
    /// FLOPs of the executed tiles.
    pub executed_flops: f64,
    /// Bytes by tensor.
    pub moved: Vec<Moved>,
    /// Into how many runs the keys fall at these sizes, where sizes say.
    pub runs: Option<i64>,
    /// Promises.
    pub verdicts: Vec<Verdict>,
    /// What is worth a look.
    pub warnings: Vec<String>,
    /// See [`roofline`].
    pub roofline: Option<Roofline>,
    /// Rotary positions.
    pub turned: Vec<Turned>,
    /// Derived tensors.
    pub made: Vec<Made>,
    /// Work of each rank, for distributed kernels whose mask is known.
    pub ring: Option<RingWork>,
}

/// (GFLOP/s, GB/s, ms)
pub type Roofline = (f64, f64, f64);

/// Does it.
pub fn run(ui: &Ui, args: &Args) -> Result<(), Failure> {
    let study = Study::any(ui, &args.study)?;
    let reports = study.each(&args.study, || {
        let report = report(&study, args)?;
        report.warnings.iter().for_each(|w| ui.warn(w));
        let attended = Attended {
            useful: report.useful_flops,
            executed: report.executed_flops,
            pairs: report.mask.executed,
        };
        Ok(((show::text(&report), show::json(&report)), attended))
    })?;
    let (reports, attended): (Vec<(String, Json)>, Vec<Attended>) = reports.into_iter().unzip();
    let (mut texts, mut objects): (Vec<String>, Vec<Json>) = reports.into_iter().unzip();
    let mut useful = attended.iter().map(|a| a.useful).sum::<Option<f64>>();
    let mut recurrence = None;
    if !study.plan.recurs.is_empty() && args.study.branch.is_none() {
        let report = explain_recur::report(&study, args)?;
        texts.push(explain_recur::text(&report));
        useful = useful.map(|n| n + report.useful_flops());
        recurrence = Some(explain_recur::json(&report));
    }
    let gpu = explain_gpu::report(ui, &study, &attended, useful)?;
    if !args.json {
        texts.extend(gpu.map(|gpu| gpu.text()));
        return ui::print(&texts.join("\n"));
    }
    let mut object = match (objects.len(), recurrence) {
        (1, None) => objects.remove(0),
        (0, Some(object)) => object,
        (_, None) => json!({ "schema": 1, "attentions": objects }),
        (_, Some(object)) => json!({ "schema": 1, "attentions": objects, "recurrence": object }),
    };
    if let Some(gpu) = gpu {
        object["gpu"] = gpu.json();
    }
    ui::print(&object.to_string())
}

fn report<'a>(study: &'a Study, args: &Args) -> Result<Report<'a>, Failure> {
    let attention = &study.attend().attention;
    let spec = study.chosen.kernel.spec()?;
    let mut ground = study.ground()?;
    let mut left = MAX_CELLS;
    let mask = layer(&mut ground, attention.mask, "mask", study, Some(&mut left));
    let clauses: Vec<LayerReport> = study
        .attend()
        .mask_clauses
        .iter()
        .map(|(text, _, clause)| layer(&mut ground, *clause, text, study, None))
        .collect();
    let moved = traffic::of(study)?;
    let planes = attention.n_heads.max(0) as f64;
    let keys = ground.keys() as f64;
    let mut report = Report {
        study,
        spec,
        unknown: ground.unknown(attention.mask).into_iter().map(String::from).collect(),
        pairs_without_mask: planes * ground.grid.seq_q as f64 * keys,
        useful_flops: mask.pairs.map(|n| work::flops(attention, n)),
        executed_flops: work::flops(attention, 1) * mask.executed,
        moved,
        runs: runs(study)?,
        verdicts: spec.ensures.iter().map(|e| verdict(study, spec, e, &mask)).collect(),
        warnings: Vec::new(),
        ring: ring_work::count(study)?,
        roofline: None,
        turned: positions::turned(study, args.train_length, args.train_base)?,
        made: positions::made(study),
        mask,
        clauses,
    };
    report.warnings = warnings(&report);
    let flops = report.useful_flops.unwrap_or(report.executed_flops);
    report.roofline = roofline(study, args, flops, &report.moved)?;
    Ok(report)
}

/// Into how many runs the keys of the attention fall, where sizes say.
fn runs(study: &Study) -> Result<Option<i64>, Failure> {
    let pipeline::AttendPlan { attention, schedule, sweep, .. } = study.attend();
    let mut pool = attention.pool.clone();
    let queries = study.scalars()?.size(&pool, attention.seq_q) as i64;
    let few = sweep.as_ref().filter(|_| queries <= schedule.direct).map(|s| s.schedule(schedule));
    let schedule = few.as_ref().unwrap_or(schedule);
    let Some(fill) = schedule.fill else { return Ok(None) };
    let runs = fill.runs(attention, &mut pool, (schedule.tile_q, schedule.heads));
    Ok(Some(study.scalars()?.size(&pool, runs) as i64))
}

/// Tiles and pairs of a mask over every (b, h) where it differs.
fn layer(
    ground: &mut Ground<'_>,
    mask: ExprId,
    text: &str,
    study: &Study,
    count: Option<&mut u64>,
) -> LayerReport {
    let attention = &study.attend().attention;
    let mut layer = ground.layer(mask);
    let (n_b, n_h, times) = ground.distinct(mask);
    let depends = |var| attention.pool.depends_on(mask, &[var]);
    let mut report = LayerReport {
        text: text.to_string(),
        first: Tiles::default(),
        all: Tiles::default(),
        by_head: depends(attention.index.h),
        by_batch: depends(attention.index.b),
        executed: 0.0,
        pairs: count.is_some().then_some(0),
        hollow: count.is_some().then_some(0),
        empty_row: None,
    };
    let mut left = count;
    for b in 0..n_b {
        for h in 0..n_h {
            ground.choose(b, h);
            let map = ground.map(&mut layer);
            let n = |class| map.count(class) as u64;
            let tiles = Tiles { full: n(Class::Full), partial: n(Class::Partial), empty: n(Class::Empty) };
            if (b, h) == (0, 0) {
                report.first = tiles;
            }
            report.all.add(tiles, times as u64);
            report.executed += ensure::area(&map, &ground.grid) * times as f64;
            let counted = match (&mut left, report.pairs) {
                (Some(left), Some(_)) => ground.count(&mut layer, &map, left),
                _ => None,
            };
            let add = |sum: Option<u64>, n: Option<u64>| Some(sum? + n? * times as u64);
            report.pairs = add(report.pairs, counted.map(|c| c.pairs));
            report.hollow = add(report.hollow, counted.map(|c| c.hollow));
            let empty = counted.and_then(|c| c.empty_row).map(|row| (b, h, row));
            report.empty_row = report.empty_row.or(empty);
        }
    }
    report
}

/// Whether a promise holds.
fn verdict(study: &Study, spec: &CheckedKernel, promise: &Ensure, mask: &LayerReport) -> Verdict {
    let text = study.chosen.kernel.sources().text(promise.span).trim().to_string();
    if promise.promise == Promise::RowsNonempty {
        let (holds, words) = match (mask.pairs, mask.empty_row) {
            (_, Some((b, h, row))) => {
                (Some(false), format!("row {row} of batch entry {b}, head {h} sees no key at these sizes"))
            }
            (Some(_), None) => (Some(true), "every row sees a key at these sizes".to_string()),
            (None, None) => (None, "not counted: it depends on tensors, or on too many pairs".to_string()),
        };
        return Verdict { text, holds, words };
    }
    let mut alone = spec.clone();
    alone.ensures = vec![promise.clone()];
    // The check adds launch conditions to the plan that it is given: a copy.
    let mut plan = study.plan.clone();
    match ensure::check(&mut plan, &alone).into_iter().find(|d| d.severity == Severity::Error) {
        Some(broken) => {
            let notes = broken.notes.iter().map(|n| format!("; {n}")).collect::<String>();
            let holds = (broken.code != Code::UnprovablePromise).then_some(false);
            Verdict { text, holds, words: broken.message + &notes }
        }
        None => Verdict { text, holds: Some(true), words: "holds".to_string() },
    }
}

/// What is worth a look.
fn warnings(report: &Report<'_>) -> Vec<String> {
    let mut out = Vec::new();
    let all = report.pairs_without_mask.max(1.0);
    if let Some(pairs) = report.mask.pairs {
        let share = pairs as f64 / all;
        if report.mask.all.empty == 0 && share < 0.5 && report.mask.all.total() > 1 {
            out.push(format!(
                "no tile is skipped, though only {:.1} % of the pairs are in the mask: its pairs are spread finer than \
                 the tiles; a smaller tile (`schedule cpu {{ tile = [..] }}`) or a blockwise mask would help",
                share * 100.0
            ));
        } else if report.mask.executed > 4.0 * pairs as f64 && pairs > 0 {
            out.push(format!(
                "the executed tiles hold {:.1} times the pairs of the mask; a smaller tile follows it more closely",
                report.mask.executed / pairs as f64
            ));
        }
        if let Some(n) = report.mask.hollow.filter(|&n| n > 0) {
            let of = report.mask.all.total() - report.mask.all.empty;
            out.push(format!("{n} of the {of} executed tiles hold no pair: the analysis cannot tell"));
        }
        if pairs == 0 && all > 1.0 {
            out.push("no pair at all is in the mask at these sizes: every output is 0".to_string());
        }
    }
    if !report.unknown.is_empty() {
        out.push(format!(
            "the mask reads {}: these counts hold for every content and skip little; --bind or --random give data",
            report.unknown.join(", ")
        ));
    }
    out
}

/// Peaks of this host, and the time that useful work and bytes take at least; only where it is asked for.
pub fn roofline(
    study: &Study,
    args: &Args,
    flops: f64,
    moved: &[Moved],
) -> Result<Option<Roofline>, Failure> {
    use attn_runtime::cpu::{facts, peak};
    if !args.roofline {
        return Ok(None);
    }
    if !matches!(study.plan.target, Target::Cpu(_)) {
        return Err(Failure::usage("--roofline measures this host: it needs --target cpu"));
    }
    let available = || std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = args.study.kernel.threads.map_or_else(available, |n| n.get());
    let gflops = peak::fma_peak_gflops(facts::host_isa()?, threads);
    let gbs = peak::read_bandwidth_gbs(threads);
    let bytes: f64 = moved.iter().map(|m| m.bytes).sum();
    let ms = (flops / (gflops * 1e6)).max(bytes / (gbs * 1e6));
    Ok(Some((gflops, gbs, ms)))
}
