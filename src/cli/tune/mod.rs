//! `attnc tune`: measures schedules of a kernel at given sizes and keeps the best for this CPU.
//!
//! Comes in: a file, sizes. Goes out: a table, a winner beside the cached kernels (or none), a schedule file where one is asked
//! for. What holds: candidates lie around the compiler's own choice and fit as it does; one knob is turned after the
//! other, for one attention after the other, from the best so far; the winner is measured anew, side by side
//! with the automatic schedule, and must be better by the rule of [`race::better`], else the automatic schedule stays.
//! Inputs are made up. Not here: schedules of recurrences, which have none to choose; rings.

mod race;
mod show;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::Attention;
use attn_compiler::schedule::candidates::{Knob, Lengths, candidates};
use attn_compiler::schedule::{Schedule, choose};
use attn_compiler::target::Target;
use attn_runtime::{RunOptions, Tensor, TensorView};
use attnc::schedules::{self, Tuning, Winning};
use attnc::{ErrorKind, Plan, Schedules};
use indicatif::{ProgressBar, ProgressStyle};

use super::args::{KernelArgs, parse_dtype};
use super::data::Scalars;
use super::fmt::write_whole;
use super::measure::Times;
use super::problem::{Problem, Request};
use super::run::options;
use super::session;
use super::ui::{self, Failure, Ui};
use super::work;

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    kernel: KernelArgs,
    /// What `float` is: f32, f16, bf16
    #[arg(long, value_name = "DTYPE", value_parser = parse_dtype, default_value = "f32")]
    dtype: DType,
    /// Seed of the made-up inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Seconds to measure, about; every candidate runs three times at least
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Write the winner to a schedule file as well
    #[arg(short, long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
    /// Keep nothing beside the cache
    #[arg(long)]
    no_store: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|s| (0.0..=86_400.0).contains(s));
    seconds.ok_or_else(|| "expected seconds, 0 to 86400".into())
}

/// Share of the time that is spent on each knob; the rest is for the last comparison.
const SHARES: [(Knob, f64); 4] =
    [(Knob::Tile, 0.5), (Knob::Heads, 0.2), (Knob::Direct, 0.05), (Knob::Order, 0.05)];
const LAST_SHARE: f64 = 0.2;
/// One lap takes at least so long: short kernels run several times in one.
const LAP: Duration = Duration::from_millis(2);
const MOST_REPEATS: usize = 1000;

/// Schedules that were measured, those of all attentions.
pub struct Tried {
    pub schedules: Vec<Schedule>,
    /// Times of laps, in milliseconds of one run.
    pub times: Vec<f64>,
    /// Of the time of the automatic schedule, in the same rounds; from race to race by what was the best before.
    pub of_automatic: Option<f64>,
    /// Why it was not measured.
    pub refused: Option<String>,
}

impl Tried {
    /// None where nothing was measured.
    pub fn median_ms(&self) -> Option<f64> {
        (!self.times.is_empty()).then(|| Times::of_ms(&self.times).median_ms())
    }
}

/// What came out.
pub struct Outcome<'a> {
    pub problem: &'a Problem,
    pub names: Vec<&'a str>,
    pub automatic: Vec<Schedule>,
    pub automatic_ms: f64,
    pub best: Vec<Schedule>,
    pub best_ms: f64,
    /// By the rule; else the automatic schedule stays.
    pub better: bool,
    pub tried: Vec<Tried>,
    pub flops: Option<f64>,
    pub threads: usize,
    pub tuning: Option<Tuning>,
    pub stored: Option<PathBuf>,
    pub forgotten: bool,
}

impl Outcome<'_> {
    /// What is to be used.
    pub fn chosen(&self) -> &[Schedule] {
        if self.better { &self.best } else { &self.automatic }
    }

    fn file(&self) -> String {
        let attentions = self.names.iter().copied().zip(self.chosen());
        let median_ms = if self.better { self.best_ms } else { self.automatic_ms };
        let (dims, threads) = (self.problem.sizes(), self.threads);
        let winning = Winning { dims, threads, median_ms, automatic_ms: self.automatic_ms };
        match &self.tuning {
            Some(tuning) => tuning.file(attentions, &winning),
            None => schedules::schedule_file(&self.problem.ir.name, attentions),
        }
    }
}

/// Does it.
pub fn run(ui: &Ui, args: &Args) -> Result<(), Failure> {
    if args.kernel.schedules.schedule.is_some() || args.kernel.schedules.schedule_file.is_some() {
        let message = "--schedule and --schedule-file choose schedules, and `tune` finds them";
        return Err(Failure::usage(message).help("leave them out; `attnc bench` measures one schedule"));
    }
    let mut chosen = session::choose(ui, &args.kernel)?;
    chosen.kernel = chosen.kernel.schedules(Schedules::automatic());
    let spec = chosen.kernel.spec()?;
    if spec.ring.is_some() {
        let message = format!("kernel `{}` runs on a ring, and a ring is not tuned", spec.name);
        return Err(
            Failure::wrong(message).help("tune the same kernel without `distribute`, and pin its file")
        );
    }
    let at: BTreeMap<String, i64> = args.kernel.at.iter().cloned().collect();
    let (float, seed) = (Some(args.dtype), Some(args.seed));
    let problem =
        Problem::new(ui, Request { chosen: &chosen, at: &at, float, bound: Default::default(), seed })?;
    if !problem.defaulted.is_empty() {
        ui.note(&format!("made up: {}; give lengths with --at", problem.defaulted.join(", ")));
    }
    // Everything that is wrong with the kernel is said here.
    problem.plan(ui)?;
    let mut outcome = tune(ui, args, &problem)?;
    keep(ui, args, &mut outcome);
    let text = outcome.file();
    if let Some(path) = &args.out {
        write_whole(path, text.as_bytes())?;
    }
    ui::print(&if args.json {
        show::json(&outcome, args.out.as_deref())
    } else {
        show::text(&outcome, args.out.as_deref())
    })
}

/// Stores the winner, or forgets an older one that wins no more.
fn keep(ui: &Ui, args: &Args, outcome: &mut Outcome<'_>) {
    let Some(tuning) = outcome.tuning.clone().filter(|_| !args.no_store) else { return };
    let cache = outcome.problem.kernel.cache();
    if !outcome.better {
        outcome.forgotten = tuning.forget(cache);
        return;
    }
    match tuning.store(cache, &outcome.file()) {
        Ok(path) => outcome.stored = Some(path),
        Err(err) => ui.warn(&format!("{err}; write a file with -o and pin it with --schedule-file")),
    }
}

/// Measures.
fn tune<'a>(ui: &Ui, args: &Args, problem: &'a Problem) -> Result<Outcome<'a>, Failure> {
    let attentions: Vec<&Attention> = problem.ir.attentions().collect();
    if attentions.is_empty() {
        let message = format!(
            "kernel `{}` has no attention to tune: recurrences run in chunks of a fixed size, or step by step",
            problem.ir.name
        );
        return Err(Failure::wrong(message).help("`attnc explain` tells how it is computed"));
    }
    let Target::Cpu(facts) = &problem.key.target else {
        return Err(Failure::usage("schedules are measured on this host: they need --target cpu"));
    };
    let mut automatic = Vec::new();
    for a in &attentions {
        automatic
            .push(choose(a, facts).map_err(|err| Failure::bug(format!("it was planned before: {err}")))?);
    }
    let lengths = lengths(problem, &attentions)?;
    let options = options(&args.kernel)?;
    let threads = match args.kernel.threads {
        Some(n) => n.get(),
        None => attn_runtime::default_threads()?.get(),
    };
    let names: Vec<&str> = attentions.iter().map(|a| a.name.as_str()).collect();
    let bar = progress(ui, args.seconds);
    let mut track = Track::new(problem, &names, &options, args.seconds, &bar)?;
    let mut best = automatic.clone();
    for (at, attention) in attentions.iter().enumerate() {
        for (knob, share) in SHARES {
            let share = share / attentions.len() as f64;
            bar.set_message(format!("{} of {}", show::knob(knob), names[at]));
            let others = candidates(attention, facts, &best[at], lengths[at], knob);
            best = track.turn(best, at, others, share)?;
        }
    }
    bar.set_message("the best against the automatic schedule");
    let (best_ms, automatic_ms, better) = track.last(&best, &automatic)?;
    bar.finish_and_clear();
    let tried = track.tried;
    let dims: Vec<(&str, i64)> = problem.dims.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let tuning = problem.kernel.tuning(&problem.key, &dims)?;
    let flops = work::pairs(problem, work::MAX_CELLS)?.map(|n| work::flops(attentions[0], n));
    let (stored, forgotten) = (None, false);
    Ok(Outcome {
        problem,
        names,
        automatic,
        automatic_ms,
        best,
        best_ms,
        better,
        tried,
        flops,
        threads,
        tuning,
        stored,
        forgotten,
    })
}

/// Query rows and keys of each attention.
fn lengths(problem: &Problem, attentions: &[&Attention]) -> Result<Vec<Lengths>, Failure> {
    let scalars = Scalars::new(&problem.ir, &problem.inputs_where(&|_| false)?)?;
    let of = |a: &&Attention| {
        let size = |id| scalars.size(&a.pool, id) as i64;
        Lengths { seq_q: size(a.seq_q), seq_k: size(a.capacity()) }
    };
    Ok(attentions.iter().map(of).collect())
}

/// Where races are run: tensors, and what was tried so far.
struct Track<'a> {
    problem: &'a Problem,
    names: &'a [&'a str],
    inputs: Vec<(&'a str, TensorView<'a>)>,
    outputs: Vec<(String, Tensor)>,
    options: &'a RunOptions<'a>,
    seconds: f64,
    start: Instant,
    bar: &'a ProgressBar,
    tried: Vec<Tried>,
}

impl<'a> Track<'a> {
    fn new(
        problem: &'a Problem,
        names: &'a [&'a str],
        options: &'a RunOptions<'a>,
        seconds: f64,
        bar: &'a ProgressBar,
    ) -> Result<Track<'a>, Failure> {
        let (inputs, outputs) = (problem.views()?, problem.outputs()?);
        let (start, tried) = (Instant::now(), Vec::new());
        Ok(Track { problem, names, inputs, outputs, options, seconds, start, bar, tried })
    }

    /// The best so far and what one attention may have in its place; what won, which is the best so far unless another is
    /// better by the rule.
    fn turn(
        &mut self,
        best: Vec<Schedule>,
        at: usize,
        others: Vec<Schedule>,
        share: f64,
    ) -> Result<Vec<Schedule>, Failure> {
        let mut entered = vec![best.clone()];
        for other in others {
            let mut schedules = best.clone();
            schedules[at] = other;
            entered.push(schedules);
        }
        if entered.len() == 1 && !self.tried.is_empty() {
            return Ok(best);
        }
        let (entered, laps) = self.race(entered, share)?;
        let first = laps.first();
        let won = first != 0 && race::better(&laps.0[first], &laps.0[0]);
        Ok(if won { entered[first].clone() } else { best })
    }

    /// Medians of the best and of the automatic schedule, measured anew, and whether the best is better.
    fn last(&mut self, best: &[Schedule], automatic: &[Schedule]) -> Result<(f64, f64, bool), Failure> {
        if best == automatic {
            let known = self.tried.iter().find(|t| t.schedules == automatic).and_then(Tried::median_ms);
            let known = known.unwrap_or(f64::INFINITY);
            return Ok((known, known, false));
        }
        let (_, laps) = self.race(vec![automatic.to_vec(), best.to_vec()], LAST_SHARE)?;
        let median = |n| laps.median(n).unwrap_or(f64::INFINITY);
        Ok((median(1), median(0), laps.0.len() == 2 && race::better(&laps.0[1], &laps.0[0])))
    }

    /// Plans and measures; those that cannot be planned are noted and left out.
    fn race(
        &mut self,
        entered: Vec<Vec<Schedule>>,
        share: f64,
    ) -> Result<(Vec<Vec<Schedule>>, race::Laps), Failure> {
        let (mut ready, mut plans) = (Vec::new(), Vec::new());
        for schedules in entered {
            match self.plan(&schedules)? {
                Ok(plan) => {
                    plans.push(plan);
                    ready.push(schedules);
                }
                Err(why) => {
                    let (times, of_automatic) = (Vec::new(), None);
                    self.tried.push(Tried { schedules, times, of_automatic, refused: Some(why) });
                }
            }
        }
        let budget = Duration::from_secs_f64(self.seconds * share);
        let (inputs, bar, seconds, start) = (&self.inputs, self.bar, self.seconds, self.start);
        let params: Vec<_> = self.problem.params.iter().map(|(name, v)| (name.as_str(), *v)).collect();
        let mut outputs: Vec<_> =
            self.outputs.iter_mut().map(|(name, t)| (name.as_str(), t.view_mut())).collect();
        let mut lap = |plan: &Plan, repeats: usize| -> Result<Duration, Failure> {
            let before = Instant::now();
            for _ in 0..repeats {
                plan.run_with(inputs, &mut outputs, &params, self.options)?;
            }
            Ok(before.elapsed())
        };
        lap(&plans[0], 1)?;
        let once = lap(&plans[0], 1)?;
        let repeats = (LAP.as_secs_f64() / once.as_secs_f64().max(1e-9)).ceil() as usize;
        let repeats = repeats.clamp(1, MOST_REPEATS);
        let laps = race::race(
            plans.len(),
            budget,
            |who| Ok(lap(&plans[who], repeats)?.as_secs_f64() * 1e3 / repeats as f64),
            |_| bar.set_position((start.elapsed().as_secs_f64() / seconds.max(1e-3) * 100.0) as u64),
        )?;
        let base = self.tried.iter().find(|t| t.schedules == ready[0]).and_then(|t| t.of_automatic);
        for (schedules, times) in ready.iter().zip(&laps.0) {
            // Many plans in turn find colder caches than few: only the same rounds are compared.
            let same_rounds = Times::of_ms(&laps.0[0][..times.len()]).median_ms();
            let ratio = base.unwrap_or(1.0) * Times::of_ms(times).median_ms() / same_rounds;
            self.note(schedules, times, ratio);
        }
        Ok((ready, laps))
    }

    /// Adds times to what is known of these schedules.
    fn note(&mut self, schedules: &[Schedule], times: &[f64], ratio: f64) {
        match self.tried.iter_mut().find(|t| t.schedules == schedules && t.refused.is_none()) {
            Some(tried) => {
                tried.times.extend(times);
                tried.of_automatic = Some(ratio);
            }
            None => {
                let (schedules, times) = (schedules.to_vec(), times.to_vec());
                self.tried.push(Tried { schedules, times, of_automatic: Some(ratio), refused: None });
            }
        }
    }

    /// A plan with these schedules, outside the cache; or why there is none, such as a promise that it breaks.
    fn plan(&self, schedules: &[Schedule]) -> Result<Result<Plan, String>, Failure> {
        let decided = schedules::pinned(self.names.iter().copied().zip(schedules));
        let kernel = self.problem.kernel.clone().schedules(Schedules::given(decided)).without_cache();
        let dims: Vec<(&str, i64)> = self.problem.dims.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        match kernel.plan(&dims, self.problem.float) {
            Ok(plan) => Ok(Ok(plan)),
            Err(err) if err.kind() == ErrorKind::Internal => Err(err.into()),
            Err(err) => {
                let said = err.diagnostics().first().map_or_else(|| err.to_string(), |d| d.message.clone());
                Ok(Err(said))
            }
        }
    }
}

/// A bar on a terminal, nothing elsewhere.
fn progress(ui: &Ui, seconds: f64) -> ProgressBar {
    if !ui.draws_progress() || seconds == 0.0 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("tuning {bar:30} {pos}% {wide_msg}");
    ProgressBar::new(100).with_style(style.unwrap_or(ProgressStyle::default_bar()))
}
