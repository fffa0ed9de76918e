//! The schedule: HOW an attention is computed on one target. Data, printable; never changes meaning.
//!
//! Comes in: an [`Attention`] as written (before tables are taken out) and the facts of a CPU. Goes out: a
//! [`Schedule`] whose buffers fit the cache budget, or an error with the numbers. Not here: loops and statements,
//! which `lower` writes from this.
//!
//! The cost model. One tile step multiplies `tile_q x D` by `D x tile_kv` and `tile_q x tile_kv` by
//! `tile_kv x Dv`. The query tile, the scores and the output tile are used in every step and must stay in L2
//! beside one packed tile of K and V that streams through; one panel of K (32 keys) must stay in L1 while the
//! rows of the query tile pass over it. Larger tiles amortise the row steps and the rescaling; smaller ones
//! follow the mask more closely.

pub mod candidates;
pub mod gpu;
pub mod group;
pub mod overrides;
pub mod pairs;
pub mod runs;
pub mod sweep;

use std::fmt;

use crate::artifact::PANEL;
use crate::attn_ir::Attention;
use crate::expr::{BinaryOp, ExprId, Op};
use crate::mask::cuts::{Axis, Cut};
use crate::target::CpuFacts;

use overrides::Override;
use pairs::Pairs;
use runs::Fill;

/// Order in which the query tiles of a head are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryOrder {
    /// From the first.
    Ascending,
    /// From the last: under causal masks the longest rows first, which balances threads.
    Descending,
}

impl QueryOrder {
    /// In texts.
    pub const fn name(self) -> &'static str {
        match self {
            QueryOrder::Ascending => "ascending",
            QueryOrder::Descending => "descending",
        }
    }
}

/// One buffer of the budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageBytes {
    /// What it holds.
    pub name: String,
    /// Bytes.
    pub bytes: usize,
}

/// Decisions for one attention on one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// `cpu` or `gpu`.
    pub target: &'static str,
    /// Query rows of a tile, of each of its heads.
    pub tile_q: i64,
    /// Query heads of a group whose rows share a tile.
    pub heads: i64,
    /// Keys of a tile, a multiple of the panel width.
    pub tile_kv: i64,
    /// Order of query tiles.
    pub order: QueryOrder,
    /// Calls with at most so many query rows read keys and values where they lie, and pack none. The same for every
    /// attention over the same heads, so that branches over the same keys agree, and share what is packed.
    pub direct: i64,
    /// Tiles of keys that such a call works on at once: nothing is packed, so what a step costs beside its products
    /// (the row state, the way back to where memory was left) is all that the size decides.
    pub together: i64,
    /// Products of bf16 in pairs.
    pub pairs: Pairs,
    /// Panels of a tile before the first and after the last that may hold a pair are left out.
    pub clips: bool,
    /// Keys of a task, where partial results over runs of keys are merged; a multiple of `tile_kv`.
    pub split: Option<i64>,
    /// Otherwise: how many runs there are, where there may be more than one.
    pub fill: Option<Fill>,
    /// What a running task keeps in the cache.
    pub sram: Vec<StageBytes>,
    /// Bytes of L2 (of shared memory, on a GPU) that the budget may use.
    pub budget: usize,
}

impl Schedule {
    /// Rows of a tile, those of all its heads.
    pub fn rows(&self) -> i64 {
        self.tile_q * self.heads
    }

    /// Bytes that one task keeps in the cache.
    pub fn sram_bytes(&self) -> usize {
        self.sram.iter().map(|s| s.bytes).sum()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = self.order.name();
        write!(
            f,
            "{} tile = [{}, {}], order = {order}, sram = {}",
            self.target,
            self.tile_q,
            self.tile_kv,
            self.sram_bytes()
        )?;
        if self.heads > 1 {
            write!(f, ", heads = {}", self.heads)?;
        }
        if let Some(products) = self.pairs.words() {
            write!(f, ", bf16 products = {products}")?;
        }
        match (self.split, self.fill) {
            (Some(n), _) => write!(f, ", split = {n} keys"),
            (None, Some(Fill { tasks, keys, .. })) => {
                write!(f, ", runs of {keys} keys or more up to {tasks} tasks")
            }
            (None, None) => Ok(()),
        }
    }
}

/// The largest number of whole panels, at most `tile`, that divides `split`.
fn dividing_split(tile: i64, split: i64) -> i64 {
    let panel = PANEL as i64;
    (1..=tile / panel).rev().map(|n| n * panel).find(|n| split % n == 0).unwrap_or(panel)
}

/// A schedule that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// An override outside the allowed values.
    #[error("{what} = {value}: {rule}")]
    BadTile {
        /// `tile_q`, `tile_kv`, `direct` or `split`.
        what: &'static str,
        /// The value asked for.
        value: i64,
        /// What is allowed.
        rule: &'static str,
    },
    /// Heads that cannot share a tile.
    #[error(
        "heads = {heads}: a divisor of the {most} query heads that read the same keys is possible, and at most \
         {max_rows} rows together ({tile_q} of each head)"
    )]
    BadHeads {
        /// Heads asked for.
        heads: i64,
        /// Heads that may share a tile.
        most: i64,
        /// Query rows of a tile, of each head.
        tile_q: i64,
        /// Most rows of a tile.
        max_rows: i64,
    },
    /// The buffers do not fit.
    #[error(
        "a tile of [{tile_q}, {tile_kv}] needs {needed} bytes of {memory} ({detail}), and {budget} are available: \
         take a smaller tile, such as [{better_q}, {better_kv}]"
    )]
    TooLarge {
        /// `L2` or `shared memory`.
        memory: &'static str,
        /// Query rows.
        tile_q: i64,
        /// Keys.
        tile_kv: i64,
        /// Bytes needed.
        needed: usize,
        /// Bytes available.
        budget: usize,
        /// Bytes of each buffer.
        detail: String,
        /// Query rows of a tile that fits.
        better_q: i64,
        /// Keys of a tile that fits.
        better_kv: i64,
    },
}

/// Most query rows, those of a group of heads together, for which packing keys would cost more than it saves (decode of
/// 4096 and 16384 keys, D = 128, measured at 4 to 32 rows).
const DIRECT_ROWS: i64 = 32;

/// Keys that they work on at once (decode of 16384 keys, D = 128, bf16 on Zen 4: 128 keys 4.6 ms, 256 4.0, 512 3.7).
const DIRECT_KEYS: i64 = 512;

/// Largest override of either tile size.
const MAX_TILE: i64 = 1024;

/// Chooses the schedule: the overrides of the text where it has them, else the cost model.
pub fn choose(attn: &Attention, facts: &CpuFacts) -> Result<Schedule, ScheduleError> {
    choose_with(attn, facts, &Override::default())
}

/// As [`choose`], but for the fields that are decided already.
pub fn choose_with(
    attn: &Attention,
    facts: &CpuFacts,
    decided: &Override,
) -> Result<Schedule, ScheduleError> {
    // A quarter of L2 is left to what streams through: K and V of the next step, scores' tensors, the stack.
    let budget = facts.l2 - facts.l2 / 4;
    let pairs = Pairs::of(attn, facts);
    let (auto_q, auto_kv, auto_heads) = automatic(attn, budget, pairs);
    let most_heads = group::most_heads(attn);
    let given_q = decided.tile_q.or(attn.tiles.tile_q);
    let given_kv = decided.tile_kv.or(attn.tiles.tile_kv);
    let heads = match given_q {
        Some(rows) => group::heads_within(most_heads, PREFERRED[0].0 / rows.max(1)),
        None => auto_heads,
    };
    let heads = decided.heads.unwrap_or(heads);
    let tile_q = given_q.unwrap_or(auto_q);
    let mut tile_kv = given_kv.unwrap_or(auto_kv);
    let split = attn.numerics.split;
    if let Some(n) = split {
        whole_panels("split", n)?;
        if given_kv.is_none() {
            tile_kv = dividing_split(tile_kv, n);
        }
    }
    possible_tile(tile_q, tile_kv, split)?;
    decided.check(most_heads, tile_q, MAX_TILE)?;
    let sram = stages(attn, tile_q * heads, tile_kv, pairs);
    let direct = DIRECT_ROWS / (attn.n_heads / attn.n_kv_heads.max(1)).max(1);
    let (direct, order) = (decided.direct.unwrap_or(direct), decided.order.unwrap_or_else(|| order(attn)));
    let near = near(attn);
    let fill = runs::fill(attn, (tile_q, heads, tile_kv), runs::CPU, near);
    let schedule = Schedule {
        target: "cpu",
        clips: true,
        tile_q,
        heads,
        tile_kv,
        order,
        direct,
        together: if near || attn.tiles.tile_kv.is_some() { 1 } else { (DIRECT_KEYS / tile_kv).max(1) },
        pairs,
        split,
        fill,
        sram,
        budget,
    };
    if schedule.sram_bytes() > budget {
        return Err(too_large("L2", &schedule, (auto_q, auto_kv)));
    }
    Ok(schedule)
}

/// The error of a schedule beyond its budget, and a tile that is not.
fn too_large(memory: &'static str, schedule: &Schedule, (better_q, better_kv): (i64, i64)) -> ScheduleError {
    let detail: Vec<String> = schedule.sram.iter().map(|s| format!("{} {}", s.name, s.bytes)).collect();
    ScheduleError::TooLarge {
        memory,
        tile_q: schedule.tile_q,
        tile_kv: schedule.tile_kv,
        needed: schedule.sram_bytes(),
        budget: schedule.budget,
        detail: detail.join(", "),
        better_q,
        better_kv,
    }
}

/// Runs of keys are whole panels.
fn whole_panels(what: &'static str, n: i64) -> Result<(), ScheduleError> {
    if n % PANEL as i64 != 0 {
        let rule = "a multiple of 32 keys (one packed panel) is possible";
        return Err(ScheduleError::BadTile { what, value: n, rule });
    }
    Ok(())
}

/// A tile that any target can have.
fn possible_tile(tile_q: i64, tile_kv: i64, split: Option<i64>) -> Result<(), ScheduleError> {
    if !(1..=MAX_TILE).contains(&tile_q) {
        let rule = "1 to 1024 query rows are possible";
        return Err(ScheduleError::BadTile { what: "tile_q", value: tile_q, rule });
    }
    if !(PANEL as i64..=MAX_TILE).contains(&tile_kv) || tile_kv % PANEL as i64 != 0 {
        let rule = "a multiple of 32 keys (one packed panel) from 32 to 1024 is possible";
        return Err(ScheduleError::BadTile { what: "tile_kv", value: tile_kv, rule });
    }
    if split.is_some_and(|n| n % tile_kv != 0) {
        let rule = "tiles of keys must divide `numerics split`";
        return Err(ScheduleError::BadTile { what: "tile_kv", value: tile_kv, rule });
    }
    Ok(())
}

/// Bytes per buffer of a task with so many rows, with the packed K and V of one step.
fn stages(attn: &Attention, rows: i64, tile_kv: i64, pairs: Pairs) -> Vec<StageBytes> {
    let pad = |n: i64| (n + 15) / 16 * 16;
    let bytes = |elements: i64| (elements * 4) as usize;
    let operand = |elements: i64, pairs: bool| bytes(elements) / if pairs { 2 } else { 1 };
    let dv = attn.feature_dim(attn.value);
    let mut out = Vec::new();
    for (n, dot) in attn.dots.iter().enumerate() {
        let d = attn.feature_dim(dot.x);
        out.push(StageBytes { name: format!("q{n} tile"), bytes: operand(rows * pad(d), pairs.scores) });
        out.push(StageBytes { name: format!("scores {n}"), bytes: bytes(rows * tile_kv) });
        out.push(StageBytes { name: format!("k{n} panels"), bytes: operand(tile_kv * d, pairs.scores) });
    }
    if pairs.values {
        out.push(StageBytes { name: "weights".into(), bytes: operand(rows * tile_kv, true) });
    }
    let panels = operand(tile_kv * ((dv + 31) / 32 * 32), pairs.values);
    out.push(StageBytes { name: "v panels".into(), bytes: panels });
    out.push(StageBytes { name: "output tile".into(), bytes: bytes(rows * pad(dv)) });
    out.push(StageBytes { name: "row state".into(), bytes: bytes(rows * 5) });
    out
}

/// The largest preferred tile that fits the budget and divides the blocks of the mask: query rows, keys, heads.
fn automatic(attn: &Attention, budget: usize, pairs: Pairs) -> (i64, i64, i64) {
    let (block_q, block_kv) = mask_blocks(attn);
    let fits = |q: i64, kv: i64| stages(attn, q, kv, pairs).iter().map(|s| s.bytes).sum::<usize>() <= budget;
    let (most, most_heads) = (largest(attn), group::most_heads(attn));
    for (q, kv) in PREFERRED.into_iter().filter(|(q, kv)| *q <= most.0 && *kv <= most.1) {
        // A group that falls into no smaller parts (71 heads of one key head) shares a tile as a whole.
        let part = group::heads_within(most_heads, q);
        let heads = if part == 1 && most_heads <= MOST_ROWS { most_heads } else { part };
        let (q, kv) = (dividing((q / heads).max(1), block_q, 8), dividing(kv, block_kv, PANEL as i64));
        if fits(q * heads, kv) {
            return (q, kv, heads);
        }
    }
    (1, PANEL as i64, 1)
}

/// Candidates, best first (measured by `runtime/examples/intrinsics_bench/`).
const PREFERRED: [(i64, i64); 7] = [(64, 128), (64, 64), (32, 64), (32, 32), (16, 32), (8, 32), (4, 32)];

/// Largest tile where both ends of the keys that rows see move with the rows. Every row of a tile runs over the keys
/// of all of them: at a window of 256, tiles of 64 rows work on 1.25 times its pairs and of 32 on 1.125 times, and
/// narrow tiles leave fewer columns to the mask (a window of 256 at S = 8192, D = 64: 40 ms, and 36 ms).
const CLOSE: (i64, i64) = (32, 64);

/// Largest tile where data decide for each row by itself which keys it sees (chosen blocks): one query of a group of
/// 16 heads then reads what it chose and nothing else.
const CLOSEST: (i64, i64) = (16, 64);

/// Largest tile for the mask: does where the keys begin depend on the row, as in windows and documents (under a causal
/// mask it does not), or do data cut it row by row?
fn largest(attn: &Attention) -> (i64, i64) {
    let mut pool = attn.pool.clone();
    let analysis = crate::ensure::analyze_mask(attn, &mut pool);
    let [first_row, ..] = analysis.corners();
    let by_row = |cut: &Cut| cut.axis == Axis::Queries && pool.as_int(cut.by) == Some(1);
    match () {
        () if analysis.cuts().iter().any(by_row) => CLOSEST,
        () if pool.depends_on(analysis.symbolic().0, &[first_row]) => CLOSE,
        () => PREFERRED[0],
    }
}

/// Does each row see keys near it only, or what data choose for it? Then the keys of a tile are few, however many there are.
fn near(attn: &Attention) -> bool {
    largest(attn) != PREFERRED[0]
}

/// Most rows of a tile that one query of all heads of a group may make.
const MOST_ROWS: i64 = 128;

/// `tile`, or the block size if that is smaller, so that tiles do not straddle blocks needlessly.
fn dividing(tile: i64, block: Option<i64>, unit: i64) -> i64 {
    match block {
        Some(block) if block % tile != 0 && block % unit == 0 && block < tile => block,
        _ => tile,
    }
}

/// Smallest constants by which query and key positions are divided in the mask: its block sizes.
fn mask_blocks(attn: &Attention) -> (Option<i64>, Option<i64>) {
    let pool = &attn.pool;
    let divisor_of = |var| {
        pool.reachable(&[attn.mask])
            .into_iter()
            .filter_map(|id| match *pool.op(id) {
                Op::Binary(BinaryOp::IDiv, x, c) if pool.depends_on(x, &[var]) => pool.as_int(c),
                _ => None,
            })
            .filter(|c| *c > 1)
            .min()
    };
    (divisor_of(attn.index.i), divisor_of(attn.index.j))
}

/// Longest first where the last query tile is the longest: whenever the mask compares `j` with `i` at all.
fn order(attn: &Attention) -> QueryOrder {
    let pool = &attn.pool;
    let both = |id: ExprId| pool.depends_on(id, &[attn.index.i]) && pool.depends_on(id, &[attn.index.j]);
    if both(attn.mask) { QueryOrder::Descending } else { QueryOrder::Ascending }
}
