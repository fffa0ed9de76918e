//! A tile map as text, PNG and SVG.
//!
//! Comes in: a [`Scene`] and one of its maps. Goes out: text or bytes. Large maps are reduced: a square of several
//! tiles is empty or full only if all of them are.

use std::fmt::Write;

use attn_compiler::mask::host::{Class, TileGrid, TileMap};

use super::ui::Failure;
use super::view::Scene;

/// Colours of empty, partial and full tiles.
pub const COLORS: [[u8; 3]; 3] = [[0xf1, 0xf3, 0xf5], [0x74, 0xc0, 0xfc], [0x1c, 0x5d, 0xb6]];

/// Most squares along the longer side of a PNG.
const MAX_SIDE: i64 = 1024;

fn rank(class: Class) -> usize {
    match class {
        Class::Empty => 0,
        Class::Partial => 1,
        Class::Full => 2,
    }
}

/// A map as squares of equal sides in positions, at most `most` along the longer side, so that pictures keep the
/// proportions of the mask whatever the shape of a tile.
struct Squares {
    rows: usize,
    cols: usize,
    class: Vec<Class>,
    /// Some square holds several tiles.
    merged: bool,
}

impl Squares {
    fn of(grid: &TileGrid, map: &TileMap, most: i64) -> Squares {
        let longer = grid.seq_q.max(grid.seq_k);
        let side = grid.tile_q.min(grid.tile_kv).max((longer + most - 1) / most).max(1);
        let count = |n: i64| ((n + side - 1) / side) as usize;
        let tiles = |at: usize, n: i64, tile: i64| {
            let (lo, hi) = (at as i64 * side, ((at as i64 + 1) * side).min(n) - 1);
            (lo / tile) as usize..(hi / tile) as usize + 1
        };
        let (rows, cols) = (count(grid.seq_q), count(grid.seq_k));
        let mut class = Vec::with_capacity(rows * cols);
        for y in 0..rows {
            for x in 0..cols {
                let (qs, ks) = (tiles(y, grid.seq_q, grid.tile_q), tiles(x, grid.seq_k, grid.tile_kv));
                let all = |c| qs.clone().all(|q| ks.clone().all(|k| map.at(q, k) == c));
                class.push(match (all(Class::Empty), all(Class::Full)) {
                    (true, _) => Class::Empty,
                    (_, true) => Class::Full,
                    _ => Class::Partial,
                });
            }
        }
        Squares { rows, cols, class, merged: side > grid.tile_q || side > grid.tile_kv }
    }
}

/// One character a square of tiles, with a legend and the counts.
pub fn terminal(scene: &Scene, map: &TileMap, head: i64, width: usize, color: bool) -> String {
    let mut out = String::new();
    let grid = &scene.grid;
    let _ = writeln!(out, "{} at {}, head {head} of {}", scene.kernel, scene.sizes, scene.n_heads);
    if map.class.is_empty() {
        out.push_str("no tiles: a length is 0\n");
        return out;
    }
    // A character is about twice as high as wide: two columns a square keep squares square.
    let Squares { rows, cols, class, merged } = Squares::of(grid, map, (width / 2) as i64);
    let edge = "─".repeat(cols * 2);
    let _ = writeln!(out, "┌{edge}┐ keys →");
    for y in 0..rows {
        out.push('│');
        for x in 0..cols {
            out.push_str(&square(class[y * cols + x], color));
        }
        out.push_str("│\n");
    }
    let _ = writeln!(out, "└{edge}┘");
    let tiles = map.class.len();
    let share = |c| map.count(c) as f64 * 100.0 / tiles as f64;
    let _ = writeln!(
        out,
        "{} full {} ({:.1} %)   {} partial {} ({:.1} %)   {} skipped {} ({:.1} %)",
        square(Class::Full, color),
        map.count(Class::Full),
        share(Class::Full),
        square(Class::Partial, color),
        map.count(Class::Partial),
        share(Class::Partial),
        square(Class::Empty, color),
        map.count(Class::Empty),
        share(Class::Empty),
    );
    let _ = writeln!(
        out,
        "tiles of {} queries x {} keys; {} x {} tiles{}",
        grid.tile_q,
        grid.tile_kv,
        map.n_q_tiles,
        map.n_k_tiles,
        if merged { ", several to a square" } else { "" }
    );
    out
}

fn square(class: Class, color: bool) -> String {
    if !color {
        return ["··", "▒▒", "██"][rank(class)].to_string();
    }
    let [r, g, b] = COLORS[rank(class)];
    match class {
        Class::Empty => "\x1b[2m··\x1b[0m".to_string(),
        _ => format!("\x1b[38;2;{r};{g};{b}m██\x1b[0m"),
    }
}

/// A PNG: each square of tiles a block of pixels with a thin gap, about 768 pixels on its longer side.
pub fn png(scene: &Scene, map: &TileMap) -> Result<Vec<u8>, Failure> {
    if map.class.is_empty() {
        return Err(Failure::wrong("there is nothing to draw: a length is 0"));
    }
    let Squares { rows, cols, class, .. } = Squares::of(&scene.grid, map, MAX_SIDE);
    let scale = (768 / rows.max(cols)).clamp(1, 32);
    let (w, h) = (cols * scale, rows * scale);
    let mut pixels = Vec::with_capacity(w * h * 3);
    for y in 0..h {
        for x in 0..w {
            let gap = scale >= 6 && (x % scale == 0 || y % scale == 0);
            let class = class[y / scale * cols + x / scale];
            pixels.extend(if gap { [0xff; 3] } else { COLORS[rank(class)] });
        }
    }
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, w as u32, h as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let write = |mut encoder: png::Writer<&mut Vec<u8>>| {
        encoder.write_image_data(&pixels)?;
        encoder.finish()
    };
    encoder
        .write_header()
        .and_then(write)
        .map_err(|e| Failure::bug(format!("the PNG cannot be written: {e}")))?;
    Ok(out)
}

/// An SVG with axes, counts and a legend; runs of equal squares are one rectangle.
pub fn svg(scene: &Scene, map: &TileMap, head: i64) -> String {
    let Squares { rows, cols, class, .. } = Squares::of(&scene.grid, map, 256);
    let side = 640.0 / rows.max(cols).max(1) as f64;
    let (w, h) = (cols as f64 * side, rows as f64 * side);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {:.0}\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n",
        w + 60.0,
        h + 90.0
    );
    let title = format!("{} at {}, head {head}", scene.kernel, scene.sizes);
    let _ = writeln!(out, "<title>{}</title>", escape(&title));
    let _ = writeln!(out, "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>");
    let _ = writeln!(out, "<text x=\"40\" y=\"22\" fill=\"#212529\">{}</text>", escape(&title));
    let _ = writeln!(out, "<g transform=\"translate(40 36)\">");
    for y in 0..rows {
        let mut x = 0;
        while x < cols && !map.class.is_empty() {
            let this = class[y * cols + x];
            let run = (x..cols).take_while(|n| class[y * cols + n] == this).count();
            let [r, g, b] = COLORS[rank(this)];
            let _ = writeln!(
                out,
                "<rect x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{:.2}\" fill=\"#{r:02x}{g:02x}{b:02x}\"/>",
                x as f64 * side,
                y as f64 * side,
                run as f64 * side,
                side
            );
            x += run;
        }
    }
    let _ = writeln!(out, "<rect width=\"{w:.2}\" height=\"{h:.2}\" fill=\"none\" stroke=\"#868e96\"/>");
    let legend = format!(
        "full {}, partial {}, skipped {} tiles of {} x {}",
        map.count(Class::Full),
        map.count(Class::Partial),
        map.count(Class::Empty),
        scene.grid.tile_q,
        scene.grid.tile_kv
    );
    let _ = writeln!(
        out,
        "<text x=\"0\" y=\"{:.0}\" fill=\"#495057\">keys →   {}</text>",
        h + 24.0,
        escape(&legend)
    );
    let _ = writeln!(
        out,
        "<text transform=\"translate(-12 {:.0}) rotate(-90)\" text-anchor=\"middle\" fill=\"#495057\">← queries</text>",
        h / 2.0
    );
    out.push_str("</g>\n</svg>\n");
    out
}

/// Text for XML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
