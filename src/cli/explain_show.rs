//! The report of `explain` for people and for machines.

use attn_compiler::expr::eval::Value;
use attn_compiler::sema::CheckedKernel;
use attn_compiler::target::{CpuFacts, Target};
use serde_json::{Value as Json, json};

use super::explain::{LayerReport, Report, Roofline, Tiles, Verdict};
use super::positions;
use super::ring_work::RingWork;
use super::study::Study;
use super::table::{Table, short};
use super::traffic::Moved;

/// One object.
pub fn json(r: &Report<'_>) -> Json {
    let s = &r.study.attend().schedule;
    let origin = r.study.picked.origin_of(&r.study.attend().attention.name);
    let layer = |l: &LayerReport| json!({ "text": l.text, "tiles": l.first, "tiles_all": l.all, "by_head": l.by_head, "by_batch": l.by_batch });
    let bytes: f64 = r.moved.iter().map(|m| m.bytes).sum();
    let caches = facts(r).map(|f| json!({ "l1d": f.l1d, "l2": f.l2, "l3": f.l3 }));
    let (rotary, derived) = positions::json(&r.turned, &r.made);
    json!({
        "rotary": rotary, "derived": derived,
        "schema": 1, "kernel": r.spec.name, "attention": r.study.attend().attention.name, "target": r.study.plan.target.to_string(),
        "dims": r.study.sizes(), "conventions": r.spec.conventions(),
        "schedule": {
            "text": s.to_string(), "origin": origin.word(), "origin_file": origin.path(),
            "tile_q": s.tile_q, "tile_kv": s.tile_kv, "heads": s.heads, "order": s.order.name(), "direct": s.direct, "runs": r.runs,
            "sram_bytes": s.sram_bytes(),
            "budget_bytes": s.budget, "caches": caches,
            "buffers": s.sram.iter().map(|b| json!({ "name": b.name, "bytes": b.bytes })).collect::<Vec<_>>(),
        },
        "mask": layer(&r.mask), "clauses": r.clauses.iter().map(layer).collect::<Vec<_>>(),
        "unknown_tensors": r.unknown, "exact": r.unknown.is_empty(),
        "tiles_without_pairs": r.mask.hollow, "pairs": r.mask.pairs, "pairs_executed": r.mask.executed, "pairs_without_mask": r.pairs_without_mask,
        "flops_useful": r.useful_flops, "flops_executed": r.executed_flops,
        "bytes": bytes, "tensors": moved_json(&r.moved),
        "intensity": r.useful_flops.unwrap_or(r.executed_flops) / bytes.max(1.0),
        "ensures": verdicts_json(&r.verdicts), "warnings": r.warnings, "ring": r.ring.as_ref().map(RingWork::json),
        "roofline": roofline_json(r.roofline),
    })
}

/// Bytes by tensor.
pub fn moved_json(moved: &[Moved]) -> Json {
    moved.iter().map(|m| json!({ "name": m.name, "use": m.used.name(), "bytes": m.bytes })).collect()
}

/// Promises.
pub fn verdicts_json(verdicts: &[Verdict]) -> Json {
    verdicts.iter().map(|v| json!({ "text": v.text, "holds": v.holds, "words": v.words })).collect()
}

/// Null where it was not asked for.
pub fn roofline_json(roofline: Option<Roofline>) -> Json {
    roofline.map_or(Json::Null, |(gflops, gbs, ms)| json!({ "gflops": gflops, "gbs": gbs, "ms": ms }))
}

fn facts<'a>(r: &Report<'a>) -> Option<&'a CpuFacts> {
    match &r.study.plan.target {
        Target::Cpu(facts) => Some(facts),
        Target::Gpu(_) => None,
    }
}

/// For people.
pub fn text(r: &Report<'_>) -> String {
    let ring = r.ring.as_ref().map_or_else(String::new, RingWork::text);
    let rows = positions::text(&r.turned, &r.made);
    [
        head(r.study, r.spec, &r.study.attend().attention.name),
        schedule(r),
        rows,
        tiles(r),
        work(r),
        ring,
        promises(&r.verdicts),
    ]
    .into_iter()
    .filter(|s| !s.is_empty())
    .collect::<Vec<_>>()
    .join("\n")
}

/// Name, target, sizes, parameters, conventions.
pub fn head(study: &Study, spec: &CheckedKernel, name: &str) -> String {
    let sizes: Vec<String> = study.sizes().iter().map(|(name, n)| format!("{name} = {n}")).collect();
    let mut out = format!("{name} for {}\n  sizes  {}\n", study.plan.target, sizes.join(", "));
    let given = &study.chosen.params;
    let params: Vec<String> = spec
        .params
        .iter()
        .filter_map(|p| Some((p, given.get(&p.name).copied().or(p.default)?)))
        .map(|(p, value)| {
            format!("{}{} = {}", if p.is_static { "static " } else { "" }, p.name, words(value))
        })
        .collect();
    if !params.is_empty() {
        out += &format!("  params {}\n", params.join(", "));
    }
    let conventions = spec.conventions();
    if !conventions.is_empty() {
        out += "\nConventions\n";
        conventions.iter().for_each(|line| out += &format!("  {line}\n"));
    }
    out
}

fn words(value: Value) -> String {
    match value {
        Value::Bool(x) => x.to_string(),
        Value::Int(x) => x.to_string(),
        Value::Float(x) => x.to_string(),
    }
}

fn schedule(r: &Report<'_>) -> String {
    let s = &r.study.attend().schedule;
    let origin = r.study.picked.origin_of(&r.study.attend().attention.name);
    let runs = match r.runs {
        Some(1) => "  the keys are one run at these sizes\n".to_string(),
        Some(n) => format!("  the keys fall into {n} runs at these sizes, whose results are merged\n"),
        None => String::new(),
    };
    if matches!(r.study.plan.target, Target::Gpu(_)) {
        // What lies where on a GPU stands in its model.
        return format!("Schedule\n  {s}\n  from {origin}\n{runs}");
    }
    let mut table = Table::new(&["  buffer", "bytes", "of L1", "of L2"]);
    let share = |bytes: usize, cache: Option<usize>| {
        cache.map_or("?".to_string(), |n| format!("{:.1}%", 100.0 * bytes as f64 / n.max(1) as f64))
    };
    let (l1, l2) = (facts(r).map(|f| f.l1d), facts(r).map(|f| f.l2));
    let mut row = |name: &str, bytes: usize| {
        table.row([format!("  {name}"), bytes.to_string(), share(bytes, l1), share(bytes, l2)]);
    };
    s.sram.iter().for_each(|b| row(&b.name, b.bytes));
    row("together", s.sram_bytes());
    format!("Schedule\n  {s}\n  from {origin}\n{runs}  budget {} bytes of L2\n{table}", s.budget)
}

fn percent(part: f64, whole: f64) -> String {
    format!("{:.1}%", 100.0 * part / whole.max(1.0))
}

fn tiles(r: &Report<'_>) -> String {
    let by_plane = r.mask.by_head || r.mask.by_batch;
    let title = if by_plane { "  head 0, batch 0" } else { "  every head" };
    let mut table = Table::new(&[title, "full", "partial", "skipped", "skipped %"]);
    let mut row = |text: &str, t: Tiles| {
        let skipped = percent(t.empty as f64, t.total() as f64);
        table.row([
            format!("  {text}"),
            t.full.to_string(),
            t.partial.to_string(),
            t.empty.to_string(),
            skipped,
        ]);
    };
    row("mask", r.mask.first);
    if r.clauses.len() > 1 {
        r.clauses.iter().for_each(|l| row(&clip(&l.text), l.first));
    }
    if by_plane {
        row("all heads and batches", r.mask.all);
    }
    let s = &r.study.attend().schedule;
    format!("Tiles of {} queries by {} keys\n{table}", s.tile_q, s.tile_kv)
}

/// A clause on one line, short enough for a table.
fn clip(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= 60 { line } else { line.chars().take(57).collect::<String>() + "..." }
}

fn work(r: &Report<'_>) -> String {
    let mut table = Table::new(&["Work", ""]);
    let mut row = |name: &str, text: String| table.row([format!("  {name}"), text]);
    let all = r.pairs_without_mask;
    match r.mask.pairs {
        Some(n) => row("pairs in the mask", format!("{n} of {all} ({})", percent(n as f64, all))),
        None => row("pairs in the mask", "not counted".into()),
    }
    row("pairs executed", format!("{} ({})", r.mask.executed, percent(r.mask.executed, all)));
    flops_rows(&mut table, r.useful_flops, Some(r.executed_flops));
    moved_rows(&mut table, &r.moved, r.useful_flops.unwrap_or(r.executed_flops), r.roofline);
    table.to_string()
}

/// Useful work, and how much more is executed: a bound where the useful is not known.
pub fn flops_rows(table: &mut Table, useful: Option<f64>, executed: Option<f64>) {
    let mut row = |name: &str, text: String| table.row([format!("  {name}"), text]);
    let giga = |n: f64| format!("{} G", short(n / 1e9));
    if let Some(n) = useful {
        row("FLOPs useful", giga(n));
    }
    let words = match (executed, useful) {
        (Some(n), Some(useful)) => format!("{}, {}x the useful", giga(n), short(n / useful.max(1.0))),
        (Some(n), None) => format!("{} at most", giga(n)),
        (None, _) => "not counted".into(),
    };
    row("FLOPs executed", words);
}

/// Bytes by tensor and together, what work there is for each byte, and the roofline.
pub fn moved_rows(table: &mut Table, moved: &[Moved], flops: f64, roofline: Option<Roofline>) {
    let bytes: f64 = moved.iter().map(|m| m.bytes).sum();
    let mut row = |name: &str, text: String| table.row([format!("  {name}"), text]);
    for m in moved {
        row(&format!("{} {}", m.name, m.used.name()), format!("{} MB", short(m.bytes / 1e6)));
    }
    row("bytes moved", format!("{} MB", short(bytes / 1e6)));
    row("arithmetic intensity", format!("{} FLOPs a byte", short(flops / bytes.max(1.0))));
    if let Some((gflops, gbs, ms)) = roofline {
        row("roofline", format!("{} ms at {} GFLOP/s and {} GB/s", short(ms), short(gflops), short(gbs)));
    }
}

/// Promises; empty where there are none.
pub fn promises(verdicts: &[Verdict]) -> String {
    if verdicts.is_empty() {
        return String::new();
    }
    let mut out = String::from("Promises\n");
    for v in verdicts {
        let verdict = match v.holds {
            Some(true) => "holds",
            Some(false) => "BROKEN",
            None => "unknown",
        };
        let words = if v.words == verdict { String::new() } else { format!(": {}", v.words) };
        out += &format!("  {}  {verdict}{words}\n", v.text);
    }
    out
}
