//! Calls of few query rows that read keys in the order in which they lie (`schedule::sweep`).
//!
//! Comes in: a [`Sweep`](crate::schedule::sweep::Sweep). Goes out: the parts of the attend launch that differ. The rows of
//! several key heads stand in one tile, below each other; [`Views`] are the rows of one of them. A step goes over a few
//! keys of all heads at a time for the scores, takes one step of the weights for each head, and goes over the keys once
//! more for the values. What holds: each head's numbers are those that a task of its own would find, up to rounding. Not
//! here: which keys are seen, what a score is.

use super::{Attend, Task, Tiles, weighs_values};
use crate::attn_ir::{Attention, Weight};
use crate::expr::{ExprId, Ty};
use crate::lower::parts::Parts;
use crate::lower::{Builder, Input};
use crate::mask::{MaskAnalysis, TileBox};
use crate::tile_ir::{Access, BufId, Buffer, RowsRef, Stmt};

/// Parts of the tiles.
pub(super) struct Views {
    /// The rows of one key head.
    rows: Tiles,
    /// Of these the columns of a few keys: scores, and weights as they meet the values.
    scores: Vec<BufId>,
    weights: Option<BufId>,
}

/// What the statements for one key head need of its rows.
#[derive(Clone, Copy)]
pub(super) enum Phase {
    Queries,
    Scores,
    Weights,
    Values,
    State,
}

/// The attention with the factors of stored rows, and with variables of its own for the batch entry and the head: there
/// is a launch with the attention's.
pub fn own(builder: &mut Builder, input: &Input) -> (Attention, Option<ExprId>) {
    let mut attn = input.attn.clone();
    let pool = builder.pool();
    let factor = match input.sweep {
        Some(s) => s.pages.read(pool, &mut attn, input.value_factor),
        None => input.value_factor,
    };
    let own = ["b", "h"].map(|name| pool.add_var(name, Ty::Int));
    let subst = [(attn.index.b, pool.var(own[0])), (attn.index.h, pool.var(own[1]))];
    let sink = if let Weight::Softmax { sink } = &mut attn.weight { sink.as_mut() } else { None };
    let read = [&mut attn.mask, &mut attn.score, &mut attn.seq_k, &mut attn.offset, &mut attn.kv_head];
    for e in read.into_iter().chain(sink) {
        *e = pool.substitute(*e, &subst);
    }
    let factor = factor.map(|f| pool.substitute(f, &subst));
    [attn.index.b, attn.index.h] = own;
    attn.pool = pool.clone();
    (attn, factor)
}

impl Attend<'_> {
    /// A view of a buffer with so many rows and columns.
    fn view_of(&mut self, of: BufId, name: &str, (rows, cols): (i64, Option<i64>)) -> BufId {
        let whole = self.buffers[of.0 as usize].clone();
        let cols = cols.unwrap_or(whole.cols);
        self.buffers.push(Buffer {
            name: format!("{}_{name}", whole.name),
            rows,
            cols,
            of: Some(of),
            ..whole
        });
        BufId(self.buffers.len() as u32 - 1)
    }

    /// Declares the views that a sweep needs.
    pub(super) fn declare_views(&mut self, tiles: &Tiles) {
        let Some(sweeping) = self.input.sweep else { return };
        let (n, keys) = (self.input.schedule.tile_q * self.heads, sweeping.sweep.keys);
        let mut rows = tiles.clone();
        if sweeping.sweep.key_heads > 1 {
            let mut own = |of: BufId| self.view_of(of, "rows", (n, None));
            for chain in rows.q.iter_mut().flatten() {
                chain.buf = own(chain.buf);
                chain.rest = chain.rest.map(&mut own);
            }
            rows.s.iter_mut().for_each(|s| *s = own(*s));
            rows.p = rows.p.map(&mut own);
            let state = [&mut rows.row_max, &mut rows.row_sum, &mut rows.alpha];
            for buf in state.into_iter().chain([&mut rows.o, &mut rows.inv_sum, &mut rows.lse]) {
                *buf = own(*buf);
            }
        }
        let scores = tiles.s.iter().map(|&s| self.view_of(s, "keys", (n, Some(keys)))).collect();
        let weights = tiles.p.map(|p| self.view_of(p, "keys", (n, Some(keys))));
        self.views = Some(Views { rows, scores, weights });
    }

    /// Statements for each key head of the task: what `f` makes of its rows.
    pub(super) fn each_key_head(
        &mut self,
        phase: Phase,
        tiles: &Tiles,
        task: &Task,
        body: &mut Vec<Stmt>,
        f: impl FnOnce(&mut Self, &Tiles, &Task, &mut Vec<Stmt>),
    ) {
        let key_heads = self.input.key_heads();
        let Some(views) = self.views.as_ref().filter(|_| key_heads > 1) else {
            return f(self, tiles, task, body);
        };
        let rows = views.rows.clone();
        let (heads, tile_q) = (self.heads, self.input.schedule.tile_q);
        let pool = self.builder.pool();
        let var = pool.add_var("kh", Ty::Int);
        let (kh, lo, hi) = (pool.var(var), pool.int(0), pool.int(key_heads));
        let before = pool.mul(task.h, hi);
        let g = pool.add(before, kh);
        let group = pool.int(heads);
        let n = pool.int(tile_q * heads);
        let (first, all, row) = (pool.mul(g, group), pool.mul(task.queries, group), pool.mul(kh, n));
        let mut inner = Vec::new();
        let g = self.define(&mut inner, "g", g);
        let h = self.define(&mut inner, "h0", first);
        let of_rows = self.define(&mut inner, "rows", all);
        let own = Task { g, h, rows: of_rows, kh, ..task.clone() };
        let col = self.builder.pool().int(0);
        for view in rows.of(phase) {
            inner.push(Stmt::View { view, row, col });
        }
        f(self, &rows, &own, &mut inner);
        body.push(Stmt::For { var, lo, hi, body: inner });
    }

    /// Statements for a few keys at a time of each key head: what `f` makes of them, their first and how many. All at once
    /// without a sweep.
    pub(super) fn each_few_keys(
        &mut self,
        phase: Phase,
        (tiles, task): (&Tiles, &Task),
        (j0, cols): (ExprId, ExprId),
        body: &mut Vec<Stmt>,
        f: impl FnOnce(&mut Self, &Tiles, &Task, (ExprId, ExprId), &mut Vec<Stmt>),
    ) {
        let Some(sweeping) = self.input.sweep else { return f(self, tiles, task, (j0, cols), body) };
        let keys = sweeping.sweep.keys;
        let pool = self.builder.pool();
        let var = pool.add_var("few", Ty::Int);
        let (few, size, lo, hi) = (pool.var(var), pool.int(keys), pool.int(0), pool.ceil_div(cols, keys));
        let (before, n) = (pool.mul(few, size), pool.int(self.input.schedule.tile_q * self.heads));
        let left = pool.sub(cols, before);
        let (j, some) = (pool.add(j0, before), pool.min(left, size));
        let some = sweeping.pages.readable(&mut self.builder.program, some);
        let mut inner = Vec::new();
        let j = self.define(&mut inner, "j", j);
        let some = self.define(&mut inner, "some", some);
        self.each_key_head(phase, tiles, task, &mut inner, |a, rows, own, body| {
            let (mut part, row) = (rows.clone(), a.builder.pool().mul(own.kh, n));
            for view in a.columns_of(phase, &mut part) {
                body.push(Stmt::View { view, row, col: before });
            }
            f(a, &part, own, (j, some), body);
        });
        body.push(Stmt::For { var, lo, hi, body: inner });
    }

    /// What is read when the keys at hand have been, of all key heads in the order in which it lies: each product asks for
    /// as much as it reads itself.
    pub(super) fn next(
        &mut self,
        task: &Task,
        j: ExprId,
        at: impl FnOnce(&mut Builder, &Input, (ExprId, ExprId, ExprId)) -> RowsRef,
    ) -> Option<Box<RowsRef>> {
        let sweep = self.input.sweep?.sweep;
        if sweep.key_heads != self.input.attn.n_kv_heads {
            return None;
        }
        let pool = self.builder.pool();
        let (keys, heads) = (pool.int(sweep.keys), pool.int(sweep.key_heads));
        let pieces = pool.mul(task.kh, keys);
        let (tokens, head) = (pool.idiv(pieces, heads), pool.modulo(pieces, heads));
        let end = pool.add(j, keys);
        let j = pool.add(end, tokens);
        let first = pool.sub(task.g, task.kh);
        let g = pool.add(first, head);
        Some(Box::new(at(self.builder, self.input, (task.b, g, j))))
    }

    /// Puts the views of a few columns into the tiles; which they are.
    fn columns_of(&self, phase: Phase, tiles: &mut Tiles) -> Vec<BufId> {
        let Some(views) = &self.views else { return vec![] };
        match (phase, views.weights) {
            (Phase::Values, Some(p)) => {
                tiles.p = Some(p);
                vec![p]
            }
            (Phase::Values, None) => {
                tiles.s[0] = views.scores[0];
                vec![views.scores[0]]
            }
            _ => {
                tiles.s.clone_from(&views.scores);
                views.scores.clone()
            }
        }
    }

    /// What is done with a tile that is not empty, of several key heads.
    pub(super) fn sweep_step(
        &mut self,
        tiles: &Tiles,
        task: &Task,
        (analysis, parts): (&MaskAnalysis, Option<&Parts>),
        at: &TileBox,
        cols: ExprId,
    ) -> Vec<Stmt> {
        let mut step = Vec::new();
        let whole = (tiles, task);
        self.each_few_keys(
            Phase::Scores,
            whole,
            (at.j_lo, cols),
            &mut step,
            |a, tiles, task, (j, n), body| {
                a.scores(tiles, task, &TileBox { j_lo: j, ..*at }, n, true, body);
            },
        );
        let mut must = analysis.must(self.builder.pool(), at);
        if let Some(parts) = parts {
            must = parts.full(self.builder, analysis, (at, must), &mut step);
        }
        self.each_key_head(Phase::Weights, tiles, task, &mut step, |a, tiles, task, body| {
            a.sweep_weights(tiles, task, (at, cols), must, body);
        });
        if !weighs_values(self.input.attn) {
            return step;
        }
        // What a pair that takes no part would read is not known to be finite; stored integers are.
        let skip = self.builder.pool().bool(self.input.value_factor.is_none());
        self.each_few_keys(Phase::Values, whole, (at.j_lo, cols), &mut step, |a, tiles, task, keys, body| {
            a.weighed(tiles, task, keys, (true, skip), body);
        });
        step
    }

    /// Scores to weights of one key head, and what was summed before to their scale.
    fn sweep_weights(
        &mut self,
        tiles: &Tiles,
        task: &Task,
        (at, cols): (&TileBox, ExprId),
        must: ExprId,
        body: &mut Vec<Stmt>,
    ) {
        let factor = self.score_maps(tiles, task, (at.j_lo, cols), must, body);
        let weighs = weighs_values(self.input.attn);
        let pool = self.builder.pool();
        let scale = pool.float(factor);
        let floor = pool.bool(weighs && self.input.value_factor.is_none());
        body.push(self.weights(tiles, task, cols, scale, floor));
        if !weighs {
            return;
        }
        body.extend(self.dropped(tiles, task, at, cols));
        body.extend(self.scaled(tiles, task, at.j_lo, cols));
        body.extend(Self::rounded(tiles, task, cols));
        body.extend(self.rescaled(tiles, task));
    }

    /// `o = 0`, of the rows of one key head that there are.
    pub(super) fn cleared(&mut self, tiles: &Tiles, task: &Task) -> Option<Stmt> {
        self.views.as_ref().filter(|_| self.input.key_heads() > 1)?;
        let d = self.values.d;
        let pool = self.builder.pool();
        let [row, col] = ["r", "c"].map(|name| pool.add_var(name, Ty::Int));
        let (value, cols) = (pool.float(0.0), pool.int((d + 15) / 16 * 16));
        Some(Stmt::Map { dst: tiles.o, rows: task.rows, cols, row, col, reads: vec![], value })
    }

    /// `o = o * alpha`, once for all products of a step.
    pub(super) fn rescaled(&mut self, tiles: &Tiles, task: &Task) -> Option<Stmt> {
        let Weight::Softmax { .. } = self.input.attn.weight else { return None };
        let d = self.values.d;
        let pool = self.builder.pool();
        let [row, col] = ["r", "c"].map(|name| pool.add_var(name, Ty::Int));
        let [x, alpha] = ["x", "y"].map(|name| pool.add_var(name, Ty::Float));
        let (old, by) = (pool.var(x), pool.var(alpha));
        let (value, cols) = (pool.mul(old, by), pool.int(d));
        let reads = vec![(x, tiles.o, Access::Tile), (alpha, tiles.alpha, Access::Row)];
        Some(Stmt::Map { dst: tiles.o, rows: task.rows, cols, row, col, reads, value })
    }
}

impl Tiles {
    /// The buffers that a phase needs.
    fn of(&self, phase: Phase) -> Vec<BufId> {
        let queries = || self.q.iter().flatten().flat_map(|c| [Some(c.buf), c.rest]).flatten();
        match phase {
            Phase::Queries => queries().chain([self.o]).collect(),
            Phase::Scores => queries().collect(),
            Phase::Weights => {
                let state = [self.row_max, self.row_sum, self.alpha, self.o];
                self.s.iter().copied().chain(self.p).chain(state).collect()
            }
            Phase::Values => vec![self.o],
            Phase::State => vec![self.o, self.row_max, self.row_sum, self.inv_sum, self.lse],
        }
    }
}
