//! `attnc bench`: numbers to be quoted. Inputs are made up (rule 13), the arithmetic peak is measured beside.

use std::collections::BTreeMap;

use attn_compiler::artifact::DType;
use attn_runtime::cpu::{facts, peak};
use indicatif::{ProgressBar, ProgressStyle};

use super::args::{KernelArgs, parse_dtype};
use super::data::Scalars;
use super::measure;
use super::problem::{Problem, Request};
use super::run::{execute, options, origin};
use super::session;
use super::table::{Table, short};
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(ui: &Ui, args: &Args) -> Result<(), Failure> {
    let chosen = session::choose(ui, &args.kernel)?;
    let at: BTreeMap<String, i64> = args.kernel.at.iter().cloned().collect();
    let request = Request {
        chosen: &chosen,
        at: &at,
        float: Some(args.dtype),
        bound: Default::default(),
        seed: Some(args.seed),
    };
    let problem = Problem::new(ui, request)?;
    if !problem.defaulted.is_empty() {
        ui.note(&format!("made up: {}; give lengths with --at", problem.defaulted.join(", ")));
    }
    let plan = problem.plan(ui)?;
    let mut outputs = problem.outputs()?;
    let options = options(&args.kernel)?;
    let threads = match args.kernel.threads {
        Some(n) => n,
        None => attn_runtime::default_threads()?,
    };
    let bar = progress(ui);
    let times = execute(&problem, &plan, &mut outputs, &options, measure::MANY, |share| {
        bar.set_position((share * 100.0) as u64);
    });
    bar.finish_and_clear();
    let times = times?;
    let pairs = work::pairs(&problem, work::MAX_CELLS)?;
    let of_pairs = pairs.zip(problem.ir.attentions().next()).map(|(n, a)| work::flops(a, n));
    let scalars = Scalars::new(&problem.ir, &problem.inputs_where(&|_| false)?)?;
    let flops = work::recurrence_flops(&problem.ir, &scalars).or(of_pairs);
    let gflops = flops.map(|n| n / times.median_ms() / 1e6);
    let peak = peak::fma_peak_gflops(facts::host_isa()?, threads.get());
    let fraction = gflops.map(|g| g / peak);
    let compile_ms = plan.stats().total.as_secs_f64() * 1e3;
    if args.json {
        let report = serde_json::json!({
            "schema": 1, "kernel": problem.ir.name, "dims": problem.dims, "dtype": args.dtype.name(),
            "median_ms": times.median_ms(), "min_ms": times.min_ms(), "iqr_ms": times.iqr_ms(),
            "runs": times.runs(), "pairs": pairs, "gflops": gflops, "peak_gflops": peak,
            "fraction_of_peak": fraction, "compile_ms": compile_ms, "compile_origin": origin(&plan),
            "threads": threads.get(), "schedule": plan.words(), "schedule_origin": plan.schedule_origin().word(),
            "schedule_file": plan.schedule_origin().path(), "target": plan.artifact().target,
        });
        return ui::print(&report.to_string());
    }
    let or_unknown = |x: Option<f64>| x.map_or("not counted (too many pairs)".into(), short);
    let mut table = Table::of_facts("kernel", &problem.ir.name);
    table.row(["sizes".into(), format!("{}, {}", problem.sizes(), args.dtype)]);
    table.row(["median_ms".into(), short(times.median_ms())]);
    table.row(["min_ms".into(), short(times.min_ms())]);
    table.row(["iqr_ms".into(), short(times.iqr_ms())]);
    table.row(["runs".into(), times.runs().to_string()]);
    table.row(["gflops".into(), or_unknown(gflops)]);
    table.row(["peak_gflops".into(), short(peak)]);
    table.row(["fraction_of_peak".into(), or_unknown(fraction)]);
    table.row(["compile_ms".into(), format!("{} {}", short(compile_ms), origin(&plan))]);
    table.row(["threads".into(), threads.to_string()]);
    for (n, line) in plan.words().lines().enumerate() {
        table.row([if n == 0 { "schedule".into() } else { String::new() }, line.to_string()]);
    }
    table.row(["schedule from".into(), plan.schedule_origin().to_string()]);
    ui::print(&table.to_string())
}

/// A bar on a terminal, nothing elsewhere.
fn progress(ui: &Ui) -> ProgressBar {
    if !ui.draws_progress() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("measuring {bar:30} {pos}%").unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(100).with_style(style)
}
