//! `attnc view`: the mask as tiles, in the terminal and as HTML, PNG or SVG.
//!
//! Comes in: a kernel at sizes, as `explain` takes it. Goes out: a tile map of one head on standard output, and the
//! pictures asked for. What holds: every class comes from the same analysis that the kernel runs. Not here: drawing
//! (`picture`, `page`).

use std::path::PathBuf;

use attn_compiler::expr::ExprId;
use attn_compiler::mask::host::{Class, TileMap};

use super::fmt::write_whole;
use super::study::{self, Study};
use super::tiles::Ground;
use super::ui::{self, Failure, Ui};
use super::{page, picture};

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    study: study::StudyArgs,
    /// Head to draw in the terminal, the PNG and the SVG
    #[arg(long, value_name = "H", default_value_t = 0)]
    head: i64,
    /// Batch entry to draw
    #[arg(long, value_name = "B", default_value_t = 0)]
    batch: i64,
    /// Write a self-contained interactive page: zoom to single pairs, a head slider, clauses to switch
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a PNG, one square a tile
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Write an SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Columns of the terminal picture
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(8..=400))]
    width: u16,
}

/// A mask or a clause of it, over the heads.
pub struct LayerMaps {
    /// As written; `mask` for all of it.
    pub text: String,
    /// One map for each head, or a single one if the heads agree.
    pub heads: Vec<TileMap>,
    /// Cells of partial tiles for each map, hexadecimal rows of bits; empty if there are too many or they are unknown.
    pub cells: Vec<Vec<(usize, usize, String)>>,
}

/// What is drawn.
pub struct Scene {
    /// Kernel name.
    pub kernel: String,
    /// `B = 2, S = 256`
    pub sizes: String,
    /// Query rows, keys, offset, tile_q, tile_kv.
    pub grid: attn_compiler::mask::host::TileGrid,
    /// Heads.
    pub n_heads: i64,
    /// The mask first, then its clauses.
    pub layers: Vec<LayerMaps>,
    /// Tensors that are not known.
    pub unknown: Vec<String>,
}

/// Most cells that a page carries.
const MAX_PAGE_CELLS: usize = 4 << 20;

/// Does it.
pub fn run(ui: &Ui, args: &Args) -> Result<(), Failure> {
    let study = Study::new(ui, &args.study)?;
    let others = study.others();
    if args.study.branch.is_none() && !others.is_empty() {
        ui.note(&format!("the kernel also has {others}: draw one with --branch NAME"));
    }
    let attention = &study.attend().attention;
    let mut ground = study.ground()?;
    if !(0..attention.n_heads).contains(&args.head) {
        let message = format!("--head {}: the kernel has heads 0 to {}", args.head, attention.n_heads - 1);
        return Err(Failure::usage(message));
    }
    if !(0..ground.batch.max(1)).contains(&args.batch) {
        let message = format!("--batch {}: there are batch entries 0 to {}", args.batch, ground.batch - 1);
        return Err(Failure::usage(message));
    }
    let scene = scene(&study, &mut ground, args);
    if !scene.unknown.is_empty() {
        let names = scene.unknown.join(", ");
        ui.note(&format!(
            "the mask reads {names}: bind it or give --random to see its tiles; unknown tiles show as partial"
        ));
    }
    let mask = &scene.layers[0];
    let map = &mask.heads[(args.head as usize).min(mask.heads.len() - 1)];
    if let Some(path) = &args.html {
        write_whole(path, page::html(&scene, args.head).as_bytes())?;
    }
    if let Some(path) = &args.png {
        write_whole(path, &picture::png(&scene, map)?)?;
    }
    if let Some(path) = &args.svg {
        write_whole(path, picture::svg(&scene, map, args.head).as_bytes())?;
    }
    ui::print(&picture::terminal(&scene, map, args.head, usize::from(args.width), ui.colored()))
}

fn scene(study: &Study, ground: &mut Ground<'_>, args: &Args) -> Scene {
    let attention = &study.attend().attention;
    let sizes: Vec<String> = study.sizes().iter().map(|(name, n)| format!("{name} = {n}")).collect();
    let mut left = if args.html.is_some() { MAX_PAGE_CELLS } else { 0 };
    let mut layers = vec![layer(ground, attention.mask, "mask", args.batch, &mut left)];
    if study.attend().mask_clauses.len() > 1 {
        for (text, _, clause) in &study.attend().mask_clauses {
            layers.push(layer(ground, *clause, text, args.batch, &mut left));
        }
    }
    Scene {
        kernel: attention.name.clone(),
        sizes: sizes.join(", "),
        grid: ground.grid,
        n_heads: attention.n_heads,
        unknown: ground.unknown(attention.mask).into_iter().map(String::from).collect(),
        layers,
    }
}

fn layer(ground: &mut Ground<'_>, mask: ExprId, text: &str, batch: i64, left: &mut usize) -> LayerMaps {
    let mut layer = ground.layer(mask);
    let (_, n_h, _) = ground.distinct(mask);
    let mut out = LayerMaps { text: text.to_string(), heads: Vec::new(), cells: Vec::new() };
    for h in 0..n_h.max(1) {
        ground.choose(batch, h);
        let map = ground.map(&mut layer);
        ground.bind(&mut layer);
        out.cells.push(partial_cells(ground, &mut layer, &map, left).unwrap_or_default());
        out.heads.push(map);
    }
    out
}

/// The cells of every partial tile, four to a hexadecimal digit, row by row; `None` if too many or unknown.
fn partial_cells(
    ground: &Ground<'_>,
    layer: &mut super::tiles::Layer,
    map: &TileMap,
    left: &mut usize,
) -> Option<Vec<(usize, usize, String)>> {
    let (queries, keys) = (ground.grid.query_tiles(), ground.grid.key_tiles());
    let area = (ground.grid.tile_q * ground.grid.tile_kv) as usize;
    *left = left.checked_sub(map.count(Class::Partial) * area)?;
    let mut out = Vec::new();
    for (q, (i_lo, i_hi)) in queries.iter().enumerate() {
        for (k, (j_lo, j_hi)) in keys.iter().enumerate().filter(|(k, _)| map.at(q, *k) == Class::Partial) {
            let columns: Vec<i64> = (*j_lo..=*j_hi).collect();
            let mut hex = String::with_capacity(area / 4);
            for row in i_lo - ground.grid.offset..=i_hi - ground.grid.offset {
                let inside = ground.cells(layer, row, &columns)?;
                for digit in (0..columns.len()).step_by(4) {
                    let bit = |n: usize| u32::from(digit + n < columns.len() && inside(digit + n));
                    let value = bit(0) << 3 | bit(1) << 2 | bit(2) << 1 | bit(3);
                    hex.extend(char::from_digit(value, 16));
                }
            }
            out.push((q, k, hex));
        }
    }
    Some(out)
}
