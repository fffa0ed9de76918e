//! `attnc test`: every kernel's `test` grid against the dense f64 reference.

use std::collections::{BTreeMap, HashMap};

use attn_compiler::artifact::DType;
use attn_compiler::sema::CheckedKernel;
use attn_compiler::sema::model::Elem;
use attn_runtime::RunOptions;
use indicatif::{ProgressBar, ProgressStyle};

use super::args::{KernelArgs, parse_dtype};
use super::bisect;
use super::cases::{self, Case};
use super::compare::{self, Check};
use super::planned::Planned;
use super::problem::{Problem, Request};
use super::run::{execute_once, options};
use super::session::{self, Chosen};
use super::table::Table;
use super::ui::{self, Failure, Status, Ui};

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    kernel: KernelArgs,
    /// What `float` is, one after the other
    #[arg(
        long, value_name = "DTYPE,...", value_parser = parse_dtype, value_delimiter = ',',
        default_values = ["f32", "f16", "bf16"]
    )]
    dtype: Vec<DType>,
    /// Seed of the made-up inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where a case fails, run every stage of the compiler on it and name the first that disagrees
    #[arg(long)]
    bisect: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a case ended.
enum Verdict {
    /// Compared, right or wrong.
    Checked(Vec<Check>),
    /// Not compared: what stood in the way.
    Stopped(Failure),
    /// Asked for, and not there yet on any target.
    Missing(&'static str),
}

struct Row {
    kernel: String,
    case: String,
    dtype: Option<DType>,
    verdict: Verdict,
}

impl Row {
    fn failed(&self) -> bool {
        matches!(&self.verdict, Verdict::Checked(checks) if checks.iter().any(|c| !c.report.ok))
    }

    fn word(&self) -> &'static str {
        match &self.verdict {
            Verdict::Checked(_) if self.failed() => "FAILED",
            Verdict::Checked(_) => "ok",
            Verdict::Stopped(failure) if !failure.is_unsupported() => "error",
            Verdict::Stopped(_) | Verdict::Missing(_) => "unsupported",
        }
    }
}

/// Does it.
pub fn run(ui: &Ui, args: &Args) -> Result<(), Failure> {
    let target = session::target(&args.kernel)?;
    let file = session::open(ui, &args.kernel.file)?;
    let names: Vec<String> = match &args.kernel.kernel {
        Some(name) => vec![name.clone()],
        None => file.specs().iter().map(|k| k.name.clone()).collect(),
    };
    let schedules = args.kernel.schedules.schedules()?;
    let mut rows = Vec::new();
    let bar = progress(ui);
    for name in names {
        let kernel = file.clone().select(&name).map_err(|err| Failure::usage(err.to_string()))?;
        let mut kernel = kernel.target(target.clone())?;
        if let Some(schedules) = &schedules {
            kernel = kernel.schedules(schedules.clone());
        }
        let chosen = Chosen { kernel, target: target.clone(), params: BTreeMap::new(), ranks: None };
        let params = session::given_params(chosen.kernel.spec()?, &args.kernel)?;
        test_kernel(ui, args, &chosen.with_params(&params), &bar, &mut rows)?;
    }
    bar.finish_and_clear();
    ui::print(&if args.json { json(&rows) } else { text(&rows) })?;
    let stopped = rows.iter().find_map(|r| match &r.verdict {
        Verdict::Stopped(failure) => Some(failure.status()),
        _ => None,
    });
    match stopped {
        _ if rows.iter().any(Row::failed) => Err(Failure::said(Status::Failed)),
        Some(status) => Err(Failure::said(status)),
        None => Ok(()),
    }
}

/// All cases of one kernel. A kernel that cannot be compiled has one row that says so.
fn test_kernel(
    ui: &Ui,
    args: &Args,
    chosen: &Chosen,
    bar: &ProgressBar,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let spec = chosen.kernel.spec()?;
    let all = cases::cases(spec).map_err(|n| {
        Failure::wrong(format!(
            "the test clauses of `{}` have {n} cases, at most {}",
            spec.name,
            cases::MAX_CASES
        ))
    })?;
    let dtypes = dtypes(spec, &args.dtype);
    bar.inc_length((all.len() * dtypes.len()) as u64);
    let options = options(&args.kernel)?;
    for &dtype in dtypes {
        let mut plans = HashMap::new();
        for case in &all {
            bar.set_message(format!("{} {} {dtype}", spec.name, case.label));
            let verdict = match check(ui, args, chosen, case, dtype, &options, &mut plans) {
                Ok((ran, problem)) => {
                    if args.bisect && is_wrong(&ran) {
                        let found = bar.suspend(|| bisect::bisect(&problem));
                        ui.note(&format!("{} ({}, {dtype}): {}", spec.name, case.label, found?));
                    }
                    ran.map_or_else(Verdict::Stopped, Verdict::Checked)
                }
                Err(failure) => Verdict::Stopped(failure),
            };
            // A diagnostic is about the kernel, not about the case: once is enough.
            let said = matches!(&verdict, Verdict::Stopped(failure) if failure.was_said());
            rows.push(Row {
                kernel: spec.name.clone(),
                case: case.label.clone(),
                dtype: Some(dtype),
                verdict,
            });
            bar.inc(1);
            if said {
                return Ok(());
            }
        }
    }
    if cases::wants_gradients(spec) {
        let verdict = Verdict::Missing("gradients: there is no backward pass yet");
        rows.push(Row { kernel: spec.name.clone(), case: "grad = true".into(), dtype: None, verdict });
    }
    Ok(())
}

/// The dtypes asked for; one of them where no input is `float`, since it changes nothing then.
fn dtypes<'a>(spec: &CheckedKernel, asked: &'a [DType]) -> &'a [DType] {
    let any_float = spec.inputs().any(|t| t.elem == Elem::Float);
    if any_float { asked } else { &asked[..asked.len().min(1)] }
}

/// Some stage of the compiler is: results leave their gates, or a device found a fault.
fn is_wrong(ran: &Result<Vec<Check>, Failure>) -> bool {
    match ran {
        Ok(checks) => checks.iter().any(|c| !c.report.ok),
        Err(failure) => failure.status() == Status::Bug,
    }
}

/// Runs one case and compares every output; what became of it. Cases with the same plan key share a plan.
fn check(
    ui: &Ui,
    args: &Args,
    chosen: &Chosen,
    case: &Case,
    dtype: DType,
    options: &RunOptions<'_>,
    plans: &mut HashMap<String, Planned>,
) -> Result<(Result<Vec<Check>, Failure>, Problem), Failure> {
    let chosen = chosen.with_params(&case.params);
    let mut at: BTreeMap<String, i64> = args.kernel.at.iter().cloned().collect();
    at.extend(case.dims.clone());
    let request = Request {
        chosen: &chosen,
        at: &at,
        float: Some(dtype),
        bound: BTreeMap::new(),
        seed: Some(args.seed),
    };
    let problem = Problem::new(ui, request)?;
    let key = format!("{:?}", problem.key);
    let plan = match plans.get(&key) {
        Some(plan) => plan.clone(),
        None => {
            let plan = problem.plan(ui)?;
            plans.insert(key, plan.clone());
            plan
        }
    };
    let mut outputs = problem.outputs()?;
    let ran = execute_once(&problem, &plan, &mut outputs, options)
        .and_then(|()| compare::verify(&problem, &outputs).map(|(checks, _)| checks));
    Ok((ran, problem))
}

fn progress(ui: &Ui) -> ProgressBar {
    if !ui.draws_progress() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:20} {pos}/{len} {wide_msg}");
    ProgressBar::new(0).with_style(style.unwrap_or(ProgressStyle::default_bar()))
}

/// The check with the largest error in units of its gate.
fn worst(checks: &[Check]) -> Option<&Check> {
    let share = |c: &Check| match (c.report.ok, c.report.gate.rel_l2) {
        (false, _) => f64::INFINITY,
        (true, Some(gate)) => c.report.rel_l2 / gate,
        (true, None) => c.report.max_abs / c.report.gate.atol,
    };
    checks.iter().max_by(|a, b| share(a).total_cmp(&share(b)))
}

fn text(rows: &[Row]) -> String {
    let mut table =
        Table::new(&["kernel", "case", "dtype", "verdict", "worst", "max abs error", "rel L2", "allowed"]);
    for row in rows {
        let dtype = row.dtype.map_or(String::new(), |d| d.to_string());
        let mut cells = vec![row.kernel.clone(), row.case.clone(), dtype, row.word().to_string()];
        match &row.verdict {
            Verdict::Checked(checks) => {
                if let Some(c) = worst(checks) {
                    let [output, _, max_abs, rel_l2, allowed, _] = c.cells();
                    cells.extend([output, max_abs, rel_l2, allowed]);
                }
            }
            Verdict::Stopped(failure) => cells.push(failure.text().to_string()),
            Verdict::Missing(why) => cells.push((*why).to_string()),
        }
        table.row(cells);
    }
    let count = |word: &str| rows.iter().filter(|r| r.word() == word).count();
    let (ok, failed, errors, unsupported) =
        (count("ok"), count("FAILED"), count("error"), count("unsupported"));
    format!("{table}\n{ok} ok, {failed} failed, {errors} errors, {unsupported} unsupported\n")
}

fn json(rows: &[Row]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let (checks, why) = match &row.verdict {
                Verdict::Checked(checks) => (checks.iter().map(Check::json).collect(), None),
                Verdict::Stopped(failure) => (vec![], Some(failure.text())),
                Verdict::Missing(why) => (vec![], Some(*why)),
            };
            serde_json::json!({
                "kernel": row.kernel, "case": row.case, "dtype": row.dtype.map(DType::name),
                "verdict": row.word().to_lowercase(), "checks": checks, "reason": why,
            })
        })
        .collect();
    serde_json::json!({ "schema": 1, "cases": rows }).to_string()
}
