//! Tiles judged by their parts: where the mask reads tensors by blocks smaller than a tile, a tile is cut at the
//! blocks (`mask::cuts`), and is empty or full if all of its parts are.
//!
//! Comes in: the cuts of a mask and the tile sizes. Goes out: searches (`Stmt::Any`) over the parts. What holds: a
//! mask without cuts, or whose blocks are whole tiles, gets no code. Not here: what a part may hold (`mask`).

use super::Builder;
use crate::expr::{ExprId, Pool, Ty};
use crate::mask::cuts::{Axis, Cut, MAX_PARTS};
use crate::mask::{MaskAnalysis, TileBox};
use crate::tile_ir::{Span, Stmt};

/// The cuts that matter for the tiles of a launch.
pub struct Parts {
    cuts: Vec<Cut>,
    /// Bool, over the ends of the tile: there are few enough parts to be looked at.
    few: ExprId,
}

impl Parts {
    /// Of tiles of `tile_q` x `tile_kv` that begin at multiples of these from the first row and key. None if no
    /// tile is cut.
    pub fn of(
        pool: &mut Pool,
        analysis: &MaskAnalysis,
        tile: &TileBox,
        (tile_q, tile_kv): (i64, i64),
    ) -> Option<Parts> {
        let size = |axis| if axis == Axis::Queries { tile_q } else { tile_kv };
        let whole_tiles = |pool: &Pool, cut: &Cut| {
            let tiles = |n: Option<i64>| n.is_some_and(|n| n % size(cut.axis) == 0);
            tiles(pool.as_int(cut.by)) && tiles(cut.start)
        };
        let mut cuts = analysis.cuts().to_vec();
        cuts.retain(|cut| !whole_tiles(pool, cut));
        if cuts.is_empty() {
            return None;
        }
        let most = |axis| {
            let of_axis = cuts.iter().filter(|c| c.axis == axis);
            let lines = of_axis.map(|c| lines_at_most(size(axis), pool.as_int(c.by)?));
            lines.sum::<Option<i64>>().map(|n| n + 1)
        };
        let most = most(Axis::Queries).zip(most(Axis::Keys)).map(|(q, k)| q.saturating_mul(k));
        let few = match most {
            Some(n) if n <= MAX_PARTS => pool.bool(true),
            _ => {
                let n_queries = n_parts(pool, &cuts, Axis::Queries, (tile.i_lo, tile.i_hi));
                let n_keys = n_parts(pool, &cuts, Axis::Keys, (tile.j_lo, tile.j_hi));
                let (n, max) = (pool.mul(n_queries, n_keys), pool.int(MAX_PARTS));
                pool.le(n, max)
            }
        };
        Some(Parts { cuts, few })
    }

    /// Adds a search, and gives the bool that says whether any part may hold a pair.
    pub fn some(
        &self,
        builder: &mut Builder,
        analysis: &MaskAnalysis,
        tile: &TileBox,
        body: &mut Vec<Stmt>,
    ) -> ExprId {
        let (over, part) = self.spans(builder.pool(), tile, self.few);
        let cond = analysis.may(builder.pool(), &part);
        let found = search(builder.pool(), "some", over, cond, body);
        let pool = builder.pool();
        let many = pool.not(self.few);
        pool.or(found, many)
    }

    /// Adds a search, and gives the bool that says whether every pair is in the mask; `must` says it of the tile
    /// as a whole.
    pub fn full(
        &self,
        builder: &mut Builder,
        analysis: &MaskAnalysis,
        (tile, must): (&TileBox, ExprId),
        body: &mut Vec<Stmt>,
    ) -> ExprId {
        let pool = builder.pool();
        let open = pool.not(must);
        let look = pool.and(self.few, open);
        let (over, part) = self.spans(pool, tile, look);
        let inside = analysis.must(pool, &part);
        let cond = pool.not(inside);
        let gap = search(pool, "gap", over, cond, body);
        let none = pool.not(gap);
        let by_parts = pool.and(self.few, none);
        pool.or(must, by_parts)
    }

    /// Counters over the parts of a tile, none where `look` does not hold, and the part at which they stand.
    fn spans(&self, pool: &mut Pool, tile: &TileBox, look: ExprId) -> (Vec<Span>, TileBox) {
        let mut part = *tile;
        let mut over: Vec<Span> = Vec::new();
        for cut in &self.cuts {
            let (name, lo, hi) = match cut.axis {
                Axis::Queries => ("p", &mut part.i_lo, &mut part.i_hi),
                Axis::Keys => ("p_j", &mut part.j_lo, &mut part.j_hi),
            };
            let (first, last) = (block(pool, *lo, cut), block(pool, *hi, cut));
            let mut end = pool.add_int(last, 1);
            if over.is_empty() {
                end = pool.select(look, end, first);
            }
            let counter = pool.add_var(name, Ty::Int);
            over.push(Span { var: counter, lo: first, hi: end });
            let at = pool.var(counter);
            let start = pool.mul(at, cut.by);
            let start = pool.sub(start, cut.shift);
            if pool.as_int(cut.by) == Some(1) {
                (*lo, *hi) = (start, start);
                continue;
            }
            let next = pool.add(start, cut.by);
            let last = pool.add_int(next, -1);
            (*lo, *hi) = (pool.max(*lo, start), pool.min(*hi, last));
        }
        (over, part)
    }
}

/// Adds `any name over ...: cond`.
fn search(pool: &mut Pool, name: &str, over: Vec<Span>, cond: ExprId, body: &mut Vec<Stmt>) -> ExprId {
    let var = pool.add_var(name, Ty::Bool);
    body.push(Stmt::Any { var, over, cond });
    pool.var(var)
}

/// The block in which a position lies.
fn block(pool: &mut Pool, at: ExprId, cut: &Cut) -> ExprId {
    let x = pool.add(at, cut.shift);
    pool.idiv(x, cut.by)
}

/// Most lines between `size` positions when every `by` positions there is one.
fn lines_at_most(size: i64, by: i64) -> Option<i64> {
    (by > 0).then(|| (size - 1 + by - 1) / by)
}

/// At most how many parts the positions `lo..=hi` have.
fn n_parts(pool: &mut Pool, cuts: &[Cut], axis: Axis, (lo, hi): (ExprId, ExprId)) -> ExprId {
    let mut n = pool.int(1);
    for cut in cuts.iter().filter(|c| c.axis == axis) {
        let (first, last) = (block(pool, lo, cut), block(pool, hi, cut));
        let lines = pool.sub(last, first);
        n = pool.add(n, lines);
    }
    n
}
