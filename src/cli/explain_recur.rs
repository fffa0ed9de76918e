//! What `explain` says of recurrences: how steps are computed, the states, useful and executed work, bytes.
//!
//! Comes in: a study of a kernel with recurrences. Goes out: one report for all of them, as text or JSON. What holds:
//! useful work is that of the steps one by one, executed work that of the recurrences' launches; what is made before
//! and after them (derived rows, norms of results) is in the bytes and not in the work.

use attn_compiler::attn_ir::recur::{Recurrence, Shape};
use attn_compiler::expr::ExprId;
use attn_compiler::lower::recur::Form;
use attn_compiler::sema::CheckedKernel;
use serde_json::{Value as Json, json};

use super::data::Scalars;
use super::executed;
use super::explain::{self, Args, Roofline, Verdict};
use super::explain_show as show;
use super::positions::{self, Made, Turned};
use super::study::Study;
use super::table::{Table, short};
use super::traffic::{self, Moved};
use super::ui::Failure;
use super::work;

/// Bytes of an element of a state.
const ELEMENT: f64 = 4.0;

/// A state of a recurrence.
struct State {
    name: String,
    shape: Vec<i64>,
    /// Over all b and h.
    bytes: f64,
}

/// One recurrence.
struct Recurring {
    form: Form,
    steps: usize,
    /// How many (b, h): each has its states.
    times: f64,
    states: Vec<State>,
    /// Operations of its launches; none if not counted.
    executed: Option<f64>,
}

/// What there is to be told.
pub struct Report<'a> {
    study: &'a Study,
    spec: &'a CheckedKernel,
    recurrences: Vec<Recurring>,
    useful_flops: f64,
    moved: Vec<Moved>,
    verdicts: Vec<Verdict>,
    roofline: Option<Roofline>,
    turned: Vec<Turned>,
    made: Vec<Made>,
}

impl Report<'_> {
    /// Of the steps one by one.
    pub fn useful_flops(&self) -> f64 {
        self.useful_flops
    }

    /// Of all recurrences.
    fn executed_flops(&self) -> Option<f64> {
        self.recurrences.iter().map(|r| r.executed).sum()
    }
}

/// Counts.
pub fn report<'a>(study: &'a Study, args: &Args) -> Result<Report<'a>, Failure> {
    let (plan, spec) = (&study.plan, study.chosen.kernel.spec()?);
    let scalars = study.scalars()?;
    let mut recurrences = Vec::new();
    for (r, how) in plan.kernel.recurrences().zip(&plan.recurs) {
        let executed = executed::flops(study, how.launches.clone())?;
        recurrences.push(recurring(study, &scalars, r, how.form, executed));
    }
    let useful_flops = work::recurrence_flops(&plan.kernel, &scalars).unwrap_or(0.0);
    let moved = traffic::of(study)?;
    let verdict = |text: &str| Verdict {
        text: text.trim().to_string(),
        holds: None,
        words: "not checked: promises are about the tiles of attentions".into(),
    };
    let sources = study.chosen.kernel.sources();
    Ok(Report {
        roofline: explain::roofline(study, args, useful_flops, &moved)?,
        turned: positions::turned(study, args.train_length, args.train_base)?,
        made: positions::made(study),
        verdicts: spec.ensures.iter().map(|e| verdict(sources.text(e.span))).collect(),
        study,
        spec,
        recurrences,
        useful_flops,
        moved,
    })
}

fn recurring(
    study: &Study,
    scalars: &Scalars,
    r: &Recurrence,
    form: Form,
    executed: Option<f64>,
) -> Recurring {
    let size = |id: ExprId| scalars.size(&study.plan.kernel.pool, id);
    let times = r.batch.map_or(1, size) as f64 * r.heads.unwrap_or(1) as f64;
    let shape = |shape: Shape| match shape {
        Shape::Scalar => vec![],
        Shape::Row(n) => vec![n],
        Shape::Mat(n, c) => vec![n, c],
    };
    let states = r.states.iter().map(|s| State {
        name: s.name.clone(),
        shape: shape(s.shape),
        bytes: ELEMENT * s.shape.len() as f64 * times,
    });
    Recurring { form, steps: size(r.steps), times, states: states.collect(), executed }
}

/// One object.
pub fn json(r: &Report<'_>) -> Json {
    let bytes: f64 = r.moved.iter().map(|m| m.bytes).sum();
    let (rotary, derived) = positions::json(&r.turned, &r.made);
    let texts: Vec<String> = r.recurrences.iter().map(|x| x.form.to_string()).collect();
    json!({
        "rotary": rotary, "derived": derived,
        "schema": 1, "kernel": r.spec.name, "target": r.study.plan.target.to_string(),
        "dims": r.study.sizes(), "conventions": r.spec.conventions(),
        "schedule": { "text": texts.join("\n") },
        "recurrences": r.recurrences.iter().map(recurring_json).collect::<Vec<_>>(),
        "flops_useful": r.useful_flops, "flops_executed": r.executed_flops(),
        "bytes": bytes, "tensors": show::moved_json(&r.moved),
        "intensity": r.useful_flops / bytes.max(1.0),
        "ensures": show::verdicts_json(&r.verdicts), "roofline": show::roofline_json(r.roofline),
    })
}

fn recurring_json(r: &Recurring) -> Json {
    let form = match r.form {
        Form::Chunked(steps) => json!({ "kind": "chunked", "steps": steps }),
        Form::Stepwise => json!({ "kind": "stepwise" }),
    };
    let state = |s: &State| json!({ "name": s.name, "shape": s.shape, "bytes": s.bytes });
    json!({
        "form": form, "steps": r.steps, "states": r.states.iter().map(state).collect::<Vec<_>>(),
        "flops_executed": r.executed,
    })
}

/// For people.
pub fn text(r: &Report<'_>) -> String {
    let head = show::head(r.study, r.spec, &r.spec.name);
    let rows = positions::text(&r.turned, &r.made);
    let mut table = Table::new(&["Work", ""]);
    show::flops_rows(&mut table, Some(r.useful_flops), r.executed_flops());
    show::moved_rows(&mut table, &r.moved, r.useful_flops, r.roofline);
    [head, schedule(r), rows, table.to_string(), show::promises(&r.verdicts)]
        .into_iter()
        .filter(|s| !s.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

fn schedule(r: &Report<'_>) -> String {
    let mut out = String::from("Schedule\n");
    for x in &r.recurrences {
        out += &format!("  {}\n  {} steps for each of {} (b, h)\n", x.form, x.steps, x.times);
        let mut table = Table::new(&["  state", "shape", "bytes of a (b, h)", "MB of all"]);
        for s in &x.states {
            let shape: Vec<String> = s.shape.iter().map(i64::to_string).collect();
            let one = s.bytes / x.times.max(1.0);
            table.row([format!("  {}", s.name), shape.join(" x "), one.to_string(), short(s.bytes / 1e6)]);
        }
        out += &table.to_string();
    }
    out
}
