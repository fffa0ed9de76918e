//! What a GPU runs the launches of a kernel on, in words and as JSON.
//!
//! Comes in: the backend's report of each launch. Goes out: a line for each, and objects. Not here: time (`explain_gpu`).

use attn_compiler_gpu::report::{LaunchReport, Products};
use serde_json::{Value as Json, json};

/// `tensor cores, bf16`; `exact f32: ` and why; `no products`.
pub fn words(launch: &LaunchReport) -> String {
    match &launch.products {
        Products::None => "no products".to_string(),
        Products::TensorCores(dtype) => format!("tensor cores, {}", dtype.name()),
        Products::Exact(why) => format!("exact f32: {why}"),
    }
}

/// A line for each launch of a kernel.
pub fn text(kernel: &str, target: &str, launches: &[LaunchReport]) -> String {
    let width = launches.iter().map(|l| l.name.chars().count()).max().unwrap_or(0);
    let line = |l: &LaunchReport| format!("  {:<width$}  {}\n", l.name, words(l));
    format!("{kernel} for {target}\n{}", launches.iter().map(line).collect::<String>())
}

/// One object.
pub fn json(launch: &LaunchReport) -> Json {
    let (products, dtype, why) = match &launch.products {
        Products::None => ("none", None, None),
        Products::TensorCores(dtype) => ("tensor cores", Some(dtype.name()), None),
        Products::Exact(why) => ("exact f32", None, Some(why.to_string())),
    };
    let tile = |t: &attn_compiler_gpu::report::Tile| {
        json!({
            "name": t.name, "rows": t.shape.0, "cols": t.shape.1, "registers": t.registers, "shared_bytes": t.shared_bytes,
        })
    };
    let order =
        |o: &attn_compiler_gpu::report::LoopOrder| json!({ "turns": o.turns, "overlaps": o.overlaps });
    json!({
        "name": launch.name, "entry": launch.entry, "products": products, "dtype": dtype, "why": why,
        "threads": launch.threads, "persistent": launch.persistent, "shared_bytes": launch.shared_bytes, "tile_registers": launch.tile_registers(),
        "tiles": launch.tiles.iter().map(tile).collect::<Vec<_>>(), "other_shared_bytes": launch.other_bytes(),
        "orders": launch.orders.iter().map(order).collect::<Vec<_>>(),
    })
}
