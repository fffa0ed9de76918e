//! Few query rows over keys that are read where they lie, in the order in which they lie.
//!
//! A cache often keeps the heads of a token side by side: every paged one does, and tensors in the layout (B, Sk, Hkv, D).
//! One head's keys are then short pieces far apart, which memory gives at a third of its speed (16384 keys of 8 heads,
//! D = 128, f32 on Zen 4: 12 GB/s of 33). So one task takes several key heads, and a few keys of all of them at a time; the
//! pieces of a token follow each other. Pages bound how many keys one product may read.
//!
//! Comes in: an [`Attention`], its [`Schedule`], where its rows lie ([`Lies`]). Goes out: a [`Sweep`], if that is how calls
//! of few rows are to be computed. What holds: it changes no result beyond rounding. Not here: the statements
//! (`lower::attend::sweep`), what is packed.

use crate::attn_ir::Attention;
use crate::expr::Op;

use super::runs::{self, Fill, Machine, queries};
use super::{Schedule, group, near};

/// Fewest keys of all heads that one round of products takes, which bound the sizes of pages. Left alone, memory prefers
/// few (f32: 16 keys 22 GB/s, 32 keys 15); where products ask for what is read next it does not matter, and fewer products
/// cost less (16384 keys of 8 heads, D = 128, bf16: 16 keys 4.6 ms, 32 keys 4.0).
pub const KEYS: i64 = 16;

/// How keys and values lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lies {
    /// The heads of a token lie side by side.
    pub side_by_side: bool,
    /// Rows lie in pages of so many, a multiple of [`KEYS`].
    pub page: Option<i64>,
}

/// Decisions for calls of few query rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Query rows of a tile, of each of its heads.
    pub tile_q: i64,
    /// Key heads of a task.
    pub key_heads: i64,
    /// Query heads of each key head whose rows lie together.
    pub group: i64,
    /// Keys of one product, of one head.
    pub keys: i64,
    /// Tiles of keys that are worked on at once.
    pub together: i64,
    /// How many runs the keys fall into.
    pub fill: Option<Fill>,
}

impl Sweep {
    /// The sweep, if keys are not better read one head after the other.
    pub fn of(attn: &Attention, base: &Schedule, lies: Lies) -> Option<Sweep> {
        if queries(attn).lo > base.direct {
            return None;
        }
        let together = lies.side_by_side && attn.n_kv_heads > 1 && takes_heads_together(attn);
        let wide = together.then(|| Sweep::of_heads(attn, base, lies)).flatten();
        let of_pages = || Sweep {
            tile_q: base.tile_q,
            key_heads: 1,
            group: base.heads,
            keys: at_once(lies),
            together: base.together,
            fill: base.fill,
        };
        wide.or_else(|| lies.page.map(|_| of_pages()))
    }

    /// The sweep of as many key heads, rows and keys, in this order, as fit.
    fn of_heads(attn: &Attention, base: &Schedule, lies: Lies) -> Option<Sweep> {
        let group = attn.n_heads / attn.n_kv_heads;
        let most = base.direct.min(queries(attn).hi).min(attn.tiles.tile_q.unwrap_or(i64::MAX)).max(1);
        let halves = |n: i64| std::iter::successors(Some(n), |n| (*n > 1).then_some(n / 2));
        let divisors = (2..=attn.n_kv_heads).rev().filter(|n| attn.n_kv_heads % n == 0);
        let sizes = divisors.flat_map(|heads| halves(most).map(move |tile_q| (heads, tile_q)));
        let mut all = sizes.flat_map(|(heads, q)| halves(base.together).map(move |t| (heads, q, t)));
        let fits = |&(heads, q, together): &(i64, i64, i64)| {
            bytes(attn, base, q * group * heads, together * base.tile_kv) <= base.budget as i64
        };
        let (key_heads, tile_q, together) = all.find(fits)?;
        let keys = (runs::CPU.keys / key_heads).max(base.tile_kv);
        let machine = Machine { keys, ..runs::CPU };
        let fill = runs::fill(attn, (tile_q, group * key_heads, base.tile_kv), machine, false);
        Some(Sweep { tile_q, key_heads, group, keys: at_once(lies), together, fill })
    }

    /// The schedule of such calls: nothing is packed.
    pub fn schedule(&self, base: &Schedule) -> Schedule {
        Schedule {
            tile_q: self.tile_q,
            heads: self.group * self.key_heads,
            direct: i64::MAX,
            together: self.together,
            fill: self.fill,
            ..base.clone()
        }
    }

    /// In words, for reports.
    pub fn words(&self, base: &Schedule) -> String {
        let (rows, keys, heads) = (base.direct, self.keys, self.key_heads);
        match heads {
            1 => format!("up to {rows} rows: {keys} keys at a time"),
            _ => format!("up to {rows} rows: {keys} keys of {heads} heads at a time"),
        }
    }
}

/// Keys of one product, which lie in one page.
fn at_once(lies: Lies) -> i64 {
    if lies.page.is_none_or(|page| page % (2 * KEYS) == 0) { 2 * KEYS } else { KEYS }
}

/// May the rows of several key heads be taken through the same keys by one task?
fn takes_heads_together(attn: &Attention) -> bool {
    let (pool, h) = (&attn.pool, attn.index.h);
    let group = attn.n_heads / attn.n_kv_heads;
    let own = *pool.op(attn.kv_head) == Op::Var(h);
    let shared = if group == 1 { own } else { group::most_heads(attn) == group };
    // Heads are all that fills a machine where there are no runs of keys.
    let runs = attn.numerics.split.is_some() || !(near(attn) || attn.numerics.batch_invariant);
    shared && runs && !pool.depends_on(attn.mask, &[h])
}

/// Bytes that a task keeps in the cache.
fn bytes(attn: &Attention, base: &Schedule, rows: i64, keys: i64) -> i64 {
    let pad = |n: i64| (n + 15) / 16 * 16;
    let queries: i64 = attn.dots.iter().map(|d| pad(attn.feature_dim(d.x))).sum();
    let weights = if base.pairs.values { keys / 2 } else { 0 };
    rows * 4 * (queries + pad(attn.feature_dim(attn.value)) + attn.dots.len() as i64 * keys + weights)
}
