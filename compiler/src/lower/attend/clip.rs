//! Which panels of a tile of keys are worked on.
//!
//! Comes in: a tile that may hold a pair. Goes out: the panels from the first to the last that may, and the statements that
//! find them. What holds: pairs are left out only where the mask leaves them out. Not here: whole tiles (`key_loop`).

use super::Attend;
use crate::artifact::PANEL;
use crate::expr::{ExprId, Pool, Ty};
use crate::lower::search;
use crate::mask::{MaskAnalysis, TileBox};
use crate::tile_ir::{Span, Stmt};

/// The part of a tile that is worked on.
pub(super) struct Clipped {
    /// What finds it.
    pub body: Vec<Stmt>,
    /// Bool: there is one; none if the tile is taken as it is.
    pub some: Option<ExprId>,
    pub at: TileBox,
    pub cols: ExprId,
}

impl Attend<'_> {
    /// Leaves out the panels of a tile before the first and after the last that may hold a pair: what is worked on
    /// begins and ends at a panel, and sums and maxima over it are the same bit for bit.
    pub(super) fn clip(&mut self, analysis: &MaskAnalysis, at: &TileBox, cols: ExprId) -> Clipped {
        let pool = self.builder.pool();
        let panel = PANEL as i64;
        let mut out = Clipped { body: Vec::new(), some: None, at: *at, cols };
        let (p, back) = (pool.add_var("p", Ty::Int), pool.add_var("p_back", Ty::Int));
        let n_panels = pool.ceil_div(cols, panel);
        let may = |pool: &mut Pool, n: ExprId| {
            let size = pool.int(panel);
            let skipped = pool.mul(n, size);
            let j_lo = pool.add(at.j_lo, skipped);
            let last = pool.add_int(j_lo, panel - 1);
            let j_hi = pool.min(last, at.j_hi);
            analysis.may(pool, &TileBox { j_lo, j_hi, ..*at })
        };
        let forward = pool.var(p);
        let from_front = may(pool, forward);
        if !self.input.schedule.clips
            || self.input.schedule.tile_kv <= panel
            || !pool.depends_on(from_front, &[p])
        {
            return out;
        }
        let zero = pool.int(0);
        let first = pool.add_var("p_first", Ty::Int);
        let over = Span { var: p, lo: zero, hi: n_panels };
        out.body.push(search::first(pool, first, over, from_front));
        let skipped = pool.var(first);
        let left = pool.sub(n_panels, skipped);
        let backward = pool.var(back);
        let from_back = pool.add_int(n_panels, -1);
        let from_back = pool.sub(from_back, backward);
        let from_back = may(pool, from_back);
        let last = pool.add_var("p_last", Ty::Int);
        let over = Span { var: back, lo: zero, hi: left };
        out.body.push(search::first(pool, last, over, from_back));
        out.some = Some(pool.lt(skipped, n_panels));
        let size = pool.int(panel);
        let before = pool.mul(skipped, size);
        let j_lo = pool.add(at.j_lo, before);
        let behind = pool.var(last);
        let kept = pool.sub(left, behind);
        let kept = pool.mul(kept, size);
        let rest = pool.sub(cols, before);
        let kept = pool.min(kept, rest);
        out.at.j_lo = self.define(&mut out.body, "j0", j_lo);
        out.cols = self.define(&mut out.body, "cols", kept);
        let pool = self.builder.pool();
        let end = pool.add(out.at.j_lo, out.cols);
        let j_hi = pool.add_int(end, -1);
        out.at.j_hi = self.define(&mut out.body, "j_hi", j_hi);
        out
    }
}
