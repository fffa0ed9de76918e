//! The report of `tune` for people and for machines.

use std::path::Path;

use attn_compiler::schedule::Schedule;
use attn_compiler::schedule::candidates::Knob;
use serde_json::{Value as Json, json};

use super::super::table::{Table, short};
use super::race::MARGIN;
use super::{Outcome, Tried};

/// What is being varied.
pub fn knob(knob: Knob) -> &'static str {
    match knob {
        Knob::Tile => "tile sizes",
        Knob::Heads => "heads of a tile",
        Knob::Direct => "packing",
        Knob::Order => "order of query tiles",
    }
}

/// `tile [64, 128], heads 2, direct 8, descending`
fn words(s: &Schedule) -> String {
    let (q, kv, heads, direct, order) = (s.tile_q, s.tile_kv, s.heads, s.direct, s.order.name());
    format!("tile [{q}, {kv}], heads {heads}, direct {direct}, {order}")
}

/// What differs from the automatic schedules, with names where there are several; `automatic` where nothing does.
fn difference(o: &Outcome<'_>, schedules: &[Schedule]) -> String {
    let one = o.names.len() == 1;
    let differing: Vec<String> = o
        .names
        .iter()
        .zip(schedules.iter().zip(&o.automatic))
        .filter(|(_, (s, automatic))| s != automatic)
        .map(|(name, (s, _))| if one { words(s) } else { format!("{name}: {}", words(s)) })
        .collect();
    match (differing.is_empty(), one) {
        (true, true) => format!("{} (automatic)", words(&o.automatic[0])),
        (true, false) => "automatic".to_string(),
        (false, _) => differing.join("; "),
    }
}

/// For people.
pub fn text(o: &Outcome<'_>, out: Option<&Path>) -> String {
    let mut table = Table::new(&["schedule", "laps", "median_ms", "gflops", "of automatic"]);
    let mut tried: Vec<&Tried> = o.tried.iter().collect();
    let key = |t: &Tried| t.of_automatic.unwrap_or(f64::INFINITY);
    tried.sort_by(|a, b| key(a).total_cmp(&key(b)));
    for t in tried {
        let name = difference(o, &t.schedules);
        let Some(ms) = t.median_ms() else {
            let why = t.refused.clone().unwrap_or_default();
            table.row([name, "0".into(), format!("refused: {why}")]);
            continue;
        };
        let gflops = o.flops.map_or("not counted".into(), |n| short(n / ms / 1e6));
        table.row([
            name,
            t.times.len().to_string(),
            short(ms),
            gflops,
            short(t.of_automatic.unwrap_or(f64::NAN)),
        ]);
    }
    let mut out_text = format!(
        "{} at {}, {}, {} threads\n\n{table}\n",
        o.problem.ir.name,
        o.problem.sizes(),
        o.problem.float,
        o.threads
    );
    out_text += &verdict(o);
    if let Some(path) = &o.stored {
        out_text += &format!("kept for this CPU in {}\n", path.display());
    }
    if o.forgotten {
        out_text += "an earlier winner for these sizes was forgotten\n";
    }
    if let Some(path) = out {
        out_text += &format!("written to {}\n", path.display());
    }
    out_text
}

fn verdict(o: &Outcome<'_>) -> String {
    if o.better {
        let gain = 100.0 * (1.0 - o.best_ms / o.automatic_ms);
        return format!(
            "best: {}\nmeasured again side by side: {} ms, and {} ms with the automatic schedule ({gain:.1} % better)\n",
            difference(o, &o.best),
            short(o.best_ms),
            short(o.automatic_ms)
        );
    }
    let stays = if o.names.len() == 1 { format!(": {}", words(&o.automatic[0])) } else { String::new() };
    format!(
        "the automatic schedule stays{}\nnothing is better by more than {:.0} % in the median, in the lower quartile, and \
         in two of three rounds\n",
        stays,
        MARGIN * 100.0
    )
}

fn fields(names: &[&str], schedules: &[Schedule]) -> Json {
    let of = |(name, s): (&&str, &Schedule)| {
        json!({
            "attention": name, "tile_q": s.tile_q, "tile_kv": s.tile_kv, "heads": s.heads, "direct": s.direct,
            "order": s.order.name(), "split": s.split, "sram_bytes": s.sram_bytes(),
        })
    };
    names.iter().zip(schedules).map(of).collect()
}

/// For machines.
pub fn json(o: &Outcome<'_>, out: Option<&Path>) -> String {
    let gflops = |ms: Option<f64>| o.flops.zip(ms).map(|(n, ms)| n / ms / 1e6);
    let candidate = |t: &Tried| {
        json!({
            "schedules": fields(&o.names, &t.schedules), "laps": t.times.len(), "median_ms": t.median_ms(), "of_automatic": t.of_automatic,
            "gflops": gflops(t.median_ms()), "refused": t.refused,
        })
    };
    let median_ms = if o.better { o.best_ms } else { o.automatic_ms };
    json!({
        "schema": 1, "kernel": o.problem.ir.name, "dims": o.problem.dims, "dtype": o.problem.float.name(),
        "threads": o.threads, "cpu": o.tuning.as_ref().map(|t| t.cpu()), "at": o.tuning.as_ref().map(|t| t.at()),
        "automatic": { "schedules": fields(&o.names, &o.automatic), "median_ms": o.automatic_ms,
                       "gflops": gflops(Some(o.automatic_ms)) },
        "winner": { "schedules": fields(&o.names, o.chosen()), "median_ms": median_ms,
                    "gflops": gflops(Some(median_ms)), "automatic": !o.better },
        "candidates": o.tried.iter().map(candidate).collect::<Vec<_>>(),
        "stored": o.stored.as_ref().map(|p| p.display().to_string()), "forgotten": o.forgotten,
        "file": out.map(|p| p.display().to_string()),
    })
    .to_string()
}
