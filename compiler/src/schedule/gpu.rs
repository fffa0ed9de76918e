//! The schedule for a GPU: tiles that fit the shared memory of a block of threads.
//!
//! Comes in: an [`Attention`] and an architecture. Goes out: a [`Schedule`] whose tiles fit, or an error with the numbers.
//! Keys and values are read where they lie and never packed: every block brings its own tiles in. Not here: which thread
//! works on what (crate `attn-compiler-gpu`).

use super::overrides::Override;
use super::{MAX_TILE, Schedule, ScheduleError, StageBytes, dividing, group, mask_blocks, near, order, runs};
use crate::artifact::{DType, PANEL};
use crate::attn_ir::{Attention, Rows};
use crate::expr::{BinaryOp, Op};
use crate::target::GpuArch;

/// Candidates, best first: 64 rows are 16 for each of four warps.
const PREFERRED: [(i64, i64); 6] = [(64, 64), (64, 32), (32, 32), (16, 32), (8, 32), (4, 32)];

/// The same where 16-bit products run on warpgroups of 64 rows: two of them, that share what is brought.
const PREFERRED_GROUPS: [(i64, i64); 4] = [(128, 128), (128, 64), (64, 64), (64, 32)];

/// The same where there are never more rows than one warpgroup takes, those of a group of heads together (decoding). Tiles of
/// 128 keys leave too few registers for the rows of several heads.
const PREFERRED_FEW: [(i64, i64); 2] = [(64, 64), (64, 32)];

/// Rows of a warpgroup's product.
const GROUP_ROWS: i64 = 64;

/// Rows that a block of warps holds in fragments at most.
const MOST_ROWS: i64 = 128;
/// Registers of a thread for tiles in fragments, at most; fewer where a score is made of several fragments.
const MOST_REGISTERS: i64 = 200;
const MOST_REGISTERS_OF_SEVERAL: i64 = 140;

/// Are all rows that are multiplied 16-bit floats, in whole fragments?
fn halves(attn: &Attention) -> bool {
    let half = |rows: Rows| {
        let half = matches!(attn.tensor(rows.tensor).dtype, DType::F16 | DType::Bf16);
        half && attn.feature_dim(rows) % 16 == 0
    };
    half(attn.value) && attn.dots.iter().all(|dot| half(dot.x) && half(dot.y))
}

/// Do a task's scores and sums fit the registers of its threads?
fn in_fragments(attn: &Attention, rows: i64, tile_kv: i64) -> bool {
    let columns = attn.feature_dim(attn.value) + attn.dots.len() as i64 * tile_kv;
    // Half a register for each column and row state of two rows.
    let most = if attn.dots.len() > 1 { MOST_REGISTERS_OF_SEVERAL } else { MOST_REGISTERS };
    halves(attn) && rows <= MOST_ROWS && columns / 2 + 5 * 2 <= most
}

/// Candidates for an attention on an architecture.
fn preferred(attn: &Attention, arch: GpuArch) -> Vec<(i64, i64)> {
    let few = runs::most_queries(attn).saturating_mul(group::most_heads(attn)) <= GROUP_ROWS;
    let groups = match arch == GpuArch::Sm90a && halves(attn) {
        true if few => &PREFERRED_FEW[..],
        true => &PREFERRED_GROUPS[..],
        false => &[],
    };
    groups.iter().chain(&PREFERRED).copied().collect()
}

/// Chooses the schedule: what is decided, then what the text says, else the largest preferred tile that fits.
///
/// # Errors
/// A tile that cannot be, or does not fit.
pub fn choose(attn: &Attention, arch: GpuArch, decided: &Override) -> Result<Schedule, ScheduleError> {
    let budget = arch.shared_bytes() - RESERVED;
    let (auto_q, auto_kv, auto_heads) = automatic(attn, arch, budget);
    let most_heads = group::most_heads(attn);
    let given_q = decided.tile_q.or(attn.tiles.tile_q);
    let heads = decided.heads.unwrap_or_else(|| match given_q {
        Some(rows) => group::heads_within(most_heads, PREFERRED[0].0 / rows.max(1)),
        None => auto_heads,
    });
    let tile_q = given_q.unwrap_or(auto_q);
    let mut tile_kv = decided.tile_kv.or(attn.tiles.tile_kv).unwrap_or(auto_kv);
    let split = attn.numerics.split;
    if let Some(n) = split {
        super::whole_panels("split", n)?;
        if decided.tile_kv.or(attn.tiles.tile_kv).is_none() {
            tile_kv = super::dividing_split(tile_kv, n);
        }
    }
    super::possible_tile(tile_q, tile_kv, split)?;
    decided.check(most_heads, tile_q, MAX_TILE)?;
    let sram = tiles(attn, arch, tile_q * heads, tile_kv);
    let order = decided.order.unwrap_or_else(|| order(attn));
    let schedule = Schedule {
        target: "gpu",
        clips: false,
        tile_q,
        heads,
        tile_kv,
        order,
        direct: i64::MAX,
        together: 1,
        pairs: super::pairs::Pairs::NONE,
        split,
        fill: runs::fill(attn, (tile_q, heads, tile_kv), runs::GPU, near(attn)),
        sram,
        budget,
    };
    if schedule.sram_bytes() > budget {
        return Err(super::too_large("shared memory", &schedule, (auto_q, auto_kv)));
    }
    Ok(schedule)
}

/// Bytes that statements use beside the tiles.
const RESERVED: usize = 1024;

/// Bytes of each buffer of a task with so many rows.
fn tiles(attn: &Attention, arch: GpuArch, rows: i64, tile_kv: i64) -> Vec<StageBytes> {
    if !in_fragments(attn, rows, tile_kv) {
        return exact(attn, rows, tile_kv);
    }
    let ahead = operands(attn, arch, rows, tile_kv, true);
    if bytes(&ahead) <= arch.shared_bytes() - RESERVED {
        ahead
    } else {
        operands(attn, arch, rows, tile_kv, false)
    }
}

fn bytes(tiles: &[StageBytes]) -> usize {
    tiles.iter().map(|s| s.bytes).sum()
}

/// 16-bit operands in shared memory; scores, sums and row state are in registers. Where they are brought ahead, keys have
/// two stages, and on sm_90a values too.
fn operands(attn: &Attention, arch: GpuArch, rows: i64, tile_kv: i64, ahead: bool) -> Vec<StageBytes> {
    let (unit_rows, unit_cols) = if arch == GpuArch::Sm90a { (64, 64) } else { (16, 8) };
    // Rows for ldmatrix lie 16 bytes further apart.
    let apart = if arch == GpuArch::Sm90a { 0 } else { 8 };
    let up = |n: i64, unit: i64| (n + unit - 1) / unit * unit;
    let tile = |rows: i64, of: Rows, stages: i64| {
        let parts = 1 + i64::from(attn.tensor(of.tensor).rest.is_some());
        (parts * stages * rows * (up(attn.feature_dim(of), unit_cols) + apart) * 2) as usize
    };
    let mut out = Vec::new();
    for (n, dot) in attn.dots.iter().enumerate() {
        out.push(StageBytes { name: format!("q{n} tile"), bytes: tile(up(rows, unit_rows), dot.x, 1) });
        out.push(StageBytes {
            name: format!("k{n} stages"),
            bytes: tile(tile_kv, dot.y, if ahead { 2 } else { 1 }),
        });
    }
    let stages = if ahead && arch == GpuArch::Sm90a { 2 } else { 1 };
    out.push(StageBytes { name: "v stages".into(), bytes: tile(tile_kv, attn.value, stages) });
    out
}

/// Everything as f32 in shared memory; keys and values are read where they lie.
fn exact(attn: &Attention, rows: i64, tile_kv: i64) -> Vec<StageBytes> {
    let pad = |n: i64| (n + 15) / 16 * 16;
    let bytes = |elements: i64| (elements * 4) as usize;
    let dv = attn.feature_dim(attn.value);
    let mut out = Vec::new();
    for (n, dot) in attn.dots.iter().enumerate() {
        let d = attn.feature_dim(dot.x);
        out.push(StageBytes { name: format!("q{n} tile"), bytes: bytes(rows * pad(d)) });
        out.push(StageBytes { name: format!("scores {n}"), bytes: bytes(rows * tile_kv) });
    }
    out.push(StageBytes { name: "output tile".into(), bytes: bytes(rows * pad(dv)) });
    out.push(StageBytes { name: "row state".into(), bytes: bytes(rows * 5) + 5 * 16 });
    out
}

/// Does a pair take loads that follow its key, or a division by what is known at run time only? A thread's pairs are written
/// out one after the other, so that each takes registers for addresses; fewer pairs leave room for them.
fn heavy(attn: &Attention) -> bool {
    let (pool, j) = (&attn.pool, attn.index.j);
    pool.reachable(&[attn.score, attn.mask]).into_iter().any(|id| match pool.op(id) {
        Op::Load(..) => pool.depends_on(id, &[j]),
        Op::Binary(BinaryOp::IDiv | BinaryOp::Mod, _, by) => {
            pool.as_int(*by).is_none() && pool.depends_on(id, &[j])
        }
        _ => false,
    })
}

/// The largest preferred tile that fits and divides the blocks of the mask: query rows, keys, heads.
fn automatic(attn: &Attention, arch: GpuArch, budget: usize) -> (i64, i64, i64) {
    let (block_q, block_kv) = mask_blocks(attn);
    let ahead = |q: i64, kv: i64| {
        let known = !in_fragments(attn, q, kv);
        bytes(&if known { exact(attn, q, kv) } else { operands(attn, arch, q, kv, true) }) <= budget
    };
    let alone = |q: i64, kv: i64| bytes(&tiles(attn, arch, q, kv)) <= budget;
    let fits: [&dyn Fn(i64, i64) -> bool; 2] = [&ahead, &alone];
    let most_heads = group::most_heads(attn);
    // The CPU's limits for masks that follow the rows closely: here a tile of 64 rows is the smallest that fills a block.
    let (widest, heavy) = (if near(attn) { 64 } else { i64::MAX }, heavy(attn));
    // Numbers that are drawn take registers beside the weights that they drop.
    let draws = attn.dropout.is_some();
    let within = |(q, kv): &(i64, i64)| {
        (*q).max(*kv) <= widest && !(heavy && (*q > 64 || *kv > 32)) && !(draws && *kv > 64)
    };
    for fits in fits {
        for (q, kv) in preferred(attn, arch).into_iter().filter(within) {
            let heads = group::heads_within(most_heads, q);
            let (q, kv) = (dividing((q / heads).max(1), block_q, 8), dividing(kv, block_kv, PANEL as i64));
            if fits(q * heads, kv) {
                return (q, kv, heads);
            }
        }
    }
    (1, PANEL as i64, 1)
}
