//! The interactive page of `attnc view --html`: one file, no network.
//!
//! Comes in: a [`Scene`]. Goes out: HTML with the scene as JSON in a script tag; `view.html` holds style and code.

use attn_compiler::mask::host::{Class, TileMap};
use serde_json::json;

use super::picture::escape;
use super::view::Scene;

const TEMPLATE: &str = include_str!("view.html");

/// The page; `head` is shown first.
pub fn html(scene: &Scene, head: i64) -> String {
    let layers: Vec<_> = scene
        .layers
        .iter()
        .map(|l| {
            let cells: Vec<_> = l
                .cells
                .iter()
                .map(|list| {
                    let map: serde_json::Map<_, _> =
                        list.iter().map(|(q, k, hex)| (format!("{q},{k}"), json!(hex))).collect();
                    json!(map)
                })
                .collect();
            json!({ "text": l.text, "heads": l.heads.iter().map(digits).collect::<Vec<_>>(), "cells": cells })
        })
        .collect();
    let g = &scene.grid;
    let data = json!({
        "schema": 1, "kernel": scene.kernel, "sizes": scene.sizes, "head": head, "n_heads": scene.n_heads,
        "seq_q": g.seq_q, "seq_k": g.seq_k, "offset": g.offset, "tile_q": g.tile_q, "tile_kv": g.tile_kv,
        "layers": layers, "unknown": scene.unknown,
    });
    // `</` would end the script element early.
    let data = data.to_string().replace("</", "<\\/");
    TEMPLATE.replace("{{title}}", &escape(&scene.kernel)).replace("{{data}}", &data)
}

/// One digit a tile: 0 empty, 1 partial, 2 full.
fn digits(map: &TileMap) -> String {
    map.class
        .iter()
        .map(|c| match c {
            Class::Empty => '0',
            Class::Partial => '1',
            Class::Full => '2',
        })
        .collect()
}
