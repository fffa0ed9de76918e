//! The attend launch: one task takes one query tile of one head, or of several, through the key tiles that it can see.
//!
//! The body, in order: load the query tile; clear the accumulator and the row state; for each key tile in the
//! range that the mask allows, if the tile is not empty: scores, score expression and mask (the mask only where
//! the tile is not full; `parts.rs` looks closer at tiles that data decide), one step of the weights, product with the values; then normalise and store.

mod clip;
mod finish;
mod start;
mod sweep;

use std::borrow::Cow;

use clip::Clipped;
use sweep::Phase;
pub use sweep::own;

use super::merge::{self, Runs};
use super::pack::{self, PackedKeys, PackedValues};
use super::parts::Parts;
use super::{Builder, Input, scale};
use crate::artifact::{DType, PANEL};
use crate::attn_ir::{Attention, Output, OutputKind, Rows, Weight};
use crate::expr::{ExprId, TensorId, Ty, VarId};
use crate::mask::{self, MaskAnalysis, TileBox};
use crate::schedule::QueryOrder;
use crate::schedule::group::with_key_head;
use crate::tile_ir::{Access, BufId, Buffer, Launch, Operand, PanelRef, Rest, RowsRef, Stmt, WeightKind};

/// Buffers of a task.
#[derive(Clone)]
struct Tiles {
    /// Of each dot, the query tile in chains of features.
    q: Vec<Vec<Chain>>,
    s: Vec<BufId>,
    /// Weights as they meet the values, where that is in pairs of bf16.
    p: Option<BufId>,
    o: BufId,
    row_max: BufId,
    row_sum: BufId,
    alpha: BufId,
    inv_sum: BufId,
    lse: BufId,
}

/// A run of features that is summed in one chain.
#[derive(Clone, Copy)]
struct Chain {
    first: i64,
    len: i64,
    buf: BufId,
    /// What is added to it.
    rest: Option<BufId>,
}

/// The task's coordinates.
#[derive(Clone)]
struct Task {
    b: ExprId,
    /// The head, or the first of those that share the tile.
    h: ExprId,
    g: ExprId,
    row0: ExprId,
    /// Query rows, and those of all heads: a head's rows lie together.
    queries: ExprId,
    rows: ExprId,
    /// Which of the key heads of the task.
    kh: ExprId,
    i_lo: ExprId,
    i_hi: ExprId,
    /// Which run of keys, and how many there are where lengths say.
    part: Option<ExprId>,
    runs: Option<ExprId>,
    /// First and last key of all, or of the run where keys say where it lies.
    j_lo: ExprId,
    j_hi: ExprId,
}

struct Attend<'a> {
    builder: &'a mut Builder,
    input: &'a Input<'a>,
    keys: &'a [PackedKeys],
    values: &'a PackedValues,
    parts: Option<&'a merge::Parts>,
    buffers: Vec<Buffer>,
    /// Query heads that read the same keys and whose rows lie together.
    heads: i64,
    /// Views of the buffers, where a product takes a few keys of one head.
    views: Option<sweep::Views>,
}

/// Builds the launch.
pub fn attend(
    builder: &mut Builder,
    input: &Input,
    keys: &[PackedKeys],
    values: &PackedValues,
    parts: Option<&merge::Parts>,
) -> Launch {
    let g = builder.pool().add_var("g", Ty::Int);
    let heads = input.sweep.map_or(input.schedule.heads, |s| s.sweep.group);
    let (attn, value_factor) = by_key_head(builder, input, g);
    let input = &Input { attn: &attn, value_factor, ..*input };
    let mut a = Attend { builder, input, keys, values, parts, buffers: Vec::new(), heads, views: None };
    let tiles = a.declare();
    let (grid, task, mut body) = a.coordinates(g);
    a.start(&tiles, &task, &mut body);
    a.key_loop(&tiles, &task, &mut body);
    a.finish(&tiles, &task, &mut body);
    Launch { name: "attend".into(), grid, buffers: a.buffers, body }
}

/// The attention with a variable for the key head where heads share a tile.
fn by_key_head<'a>(
    builder: &mut Builder,
    input: &Input<'a>,
    g: VarId,
) -> (Cow<'a, Attention>, Option<ExprId>) {
    // Where a task takes several key heads, each has a variable of its own.
    if input.schedule.heads == 1 || input.key_heads() > 1 {
        return (Cow::Borrowed(input.attn), input.value_factor);
    }
    let pool = builder.pool();
    let g = pool.var(g);
    let mut attn = input.attn.clone();
    attn.mask = with_key_head(pool, input.attn, attn.mask, g);
    attn.score = with_key_head(pool, input.attn, attn.score, g);
    let value_factor = input.value_factor.map(|f| with_key_head(pool, input.attn, f, g));
    attn.pool = pool.clone();
    (Cow::Owned(attn), value_factor)
}

/// True if some output is the weighted sum of the values.
pub fn weighs_values(attn: &Attention) -> bool {
    attn.outputs.iter().any(|o| o.kind == OutputKind::O)
}

fn analyze_mask(builder: &mut Builder, attn: &Attention) -> MaskAnalysis {
    let decls = builder.program.tensors.clone();
    let tensors = |id: TensorId| {
        let decl = &decls[id.0 as usize];
        mask::TensorFacts { fact: decl.fact, shape: decl.shape.clone() }
    };
    let ix = attn.index;
    let facts = mask::Facts { i: ix.i, j: ix.j, row: ix.row, offset: attn.offset, tensors: &tensors };
    mask::analyze(&mut builder.program.pool, attn.mask, &facts)
}

impl Attend<'_> {
    /// A tile with room for `cols` columns.
    fn buffer(&mut self, name: &str, rows: i64, cols: i64) -> BufId {
        self.declare_buffer(name, rows, (cols + 15) / 16 * 16)
    }

    /// A value for each row.
    fn vector(&mut self, name: &str, rows: i64) -> BufId {
        self.declare_buffer(name, rows, 1)
    }

    fn declare_buffer(&mut self, name: &str, rows: i64, cols: i64) -> BufId {
        self.buffers.push(Buffer::new(name, rows, cols));
        BufId(self.buffers.len() as u32 - 1)
    }

    /// A tile of bf16 with room for `cols` columns if products take pairs, else of f32.
    fn operand(&mut self, name: &str, (rows, cols): (i64, i64), pairs: bool) -> BufId {
        let buf = self.buffer(name, rows, cols);
        if pairs {
            self.buffers[buf.0 as usize].dtype = DType::Bf16;
        }
        buf
    }

    fn declare(&mut self) -> Tiles {
        let (tq, tk) = (self.input.schedule.rows(), self.input.schedule.tile_kv);
        let attn = self.input.attn;
        let n_dots = attn.dots.len();
        let q = (0..n_dots).map(|n| self.chains(n)).collect();
        // Rows a line further apart than the keys take: at a power of two they would share the places of a cache.
        let wide = match self.input.schedule.together {
            1 => tk,
            n => n * tk + 16,
        };
        let s = (0..n_dots).map(|n| self.buffer(&format!("s{n}"), tq, wide)).collect();
        let weighs = self.input.schedule.pairs.values && weighs_values(attn);
        let p = weighs.then(|| self.operand("p", (tq, wide), true));
        let tiles = Tiles {
            q,
            s,
            p,
            o: self.buffer("acc", tq, self.values.d),
            row_max: self.vector("row_max", tq),
            row_sum: self.vector("row_sum", tq),
            alpha: self.vector("alpha", tq),
            inv_sum: self.vector("inv_sum", tq),
            lse: self.vector("lse_row", tq),
        };
        self.declare_views(&tiles);
        tiles
    }

    /// The query tile of a dot: one buffer, or one for each chain of features.
    fn chains(&mut self, n: usize) -> Vec<Chain> {
        let attn = self.input.attn;
        let dot = &attn.dots[n];
        let d = attn.feature_dim(dot.x);
        let step = scale::chain(&attn.pool, attn.score, dot.var, d).max(1);
        let starts: Vec<i64> = (0..d).step_by(step as usize).collect();
        let split = starts.len() > 1;
        let chain = |first: i64| {
            let len = step.min(d - first);
            let name = if split { format!("q{n}_{first}") } else { format!("q{n}") };
            let rows = self.input.schedule.rows();
            let buf = self.operand(&name, (rows, len), self.input.schedule.pairs.scores);
            let rest = attn.tensor(dot.x.tensor).rest;
            let rest = rest.map(|_| self.buffer(&format!("{name}_rest"), rows, len));
            Chain { first, len, buf, rest }
        };
        starts.into_iter().map(chain).collect()
    }

    fn define(&mut self, body: &mut Vec<Stmt>, name: &str, value: ExprId) -> ExprId {
        let pool = self.builder.pool();
        let var = pool.add_var(name, pool.ty(value));
        body.push(Stmt::Let { var, value });
        self.builder.pool().var(var)
    }

    fn coordinates(&mut self, g: VarId) -> (Vec<(VarId, ExprId)>, Task, Vec<Stmt>) {
        let attn = self.input.attn;
        let (tile, heads) = (self.input.schedule.tile_q, self.input.schedule.heads);
        let sweeps = self.input.key_heads() > 1;
        let pool = self.builder.pool();
        let vt = pool.add_var("qt", Ty::Int);
        let vh = if heads == 1 { attn.index.h } else { pool.add_var("hg", Ty::Int) };
        let (b, mut h, t) = (pool.var(attn.index.b), pool.var(vh), pool.var(vt));
        let n_tiles = pool.ceil_div(attn.seq_q, tile);
        let n_heads = pool.int(attn.n_heads / heads);
        let batch = self.input.when.map_or(attn.batch, |when| {
            let none = pool.int(0);
            pool.select(when, attn.batch, none)
        });
        let mut grid = vec![(attn.index.b, batch), (vh, n_heads), (vt, n_tiles)];
        let (mut part, mut j_lo, mut j_hi) = (None, pool.int(0), pool.add_int(attn.seq_k, -1));
        if let Some(parts) = self.parts {
            let var = pool.add_var("part", Ty::Int);
            grid.push((var, parts.count));
            let p = pool.var(var);
            if let Runs::Keys(keys) = parts.runs {
                let n = pool.int(keys);
                j_lo = pool.mul(p, n);
                let last = pool.add_int(j_lo, keys - 1);
                j_hi = pool.min(j_hi, last);
            }
            part = Some(p);
        }
        let at = match self.input.schedule.order {
            QueryOrder::Ascending => t,
            QueryOrder::Descending => {
                let last = pool.add_int(n_tiles, -1);
                pool.sub(last, t)
            }
        };
        let tile_expr = pool.int(tile);
        let first = pool.mul(at, tile_expr);
        let mut body = Vec::new();
        let row0 = self.define(&mut body, "row0", first);
        let pool = self.builder.pool();
        let left = pool.sub(attn.seq_q, row0);
        let some = pool.min(left, tile_expr);
        let queries = self.define(&mut body, if heads == 1 { "rows" } else { "queries" }, some);
        let mut rows = queries;
        if heads > 1 && !sweeps {
            let pool = self.builder.pool();
            let n = pool.int(heads);
            let (first, all) = (pool.mul(h, n), pool.mul(queries, n));
            h = self.define(&mut body, "h0", first);
            rows = self.define(&mut body, "rows", all);
        }
        let pool = self.builder.pool();
        if !sweeps {
            let value = pool.substitute(attn.kv_head, &[(attn.index.h, h)]);
            body.push(Stmt::Let { var: g, value });
        }
        let g = pool.var(g);
        let low = pool.add(row0, attn.offset);
        let i_lo = self.define(&mut body, "i_lo", low);
        let pool = self.builder.pool();
        let end = pool.add(i_lo, queries);
        let high = pool.add_int(end, -1);
        let i_hi = self.define(&mut body, "i_hi", high);
        let fills = self.parts.filter(|parts| parts.whole.is_some());
        let runs = fills.map(|parts| self.define(&mut body, "runs", parts.count));
        let kh = self.builder.pool().int(0);
        (grid, Task { b, h, g, row0, queries, rows, kh, i_lo, i_hi, part, runs, j_lo, j_hi }, body)
    }

    /// Statements for each head of the tile: what `f` makes of the head and its first row (none for the only head).
    fn each_head(
        &mut self,
        task: &Task,
        body: &mut Vec<Stmt>,
        mut f: impl FnMut(&mut Self, ExprId, Option<ExprId>, &mut Vec<Stmt>),
    ) {
        let heads = self.heads;
        if heads == 1 {
            return f(self, task.h, None, body);
        }
        let pool = self.builder.pool();
        let var = pool.add_var("hh", Ty::Int);
        let (hh, lo, hi) = (pool.var(var), pool.int(0), pool.int(heads));
        let (head, first) = (pool.add(task.h, hh), pool.mul(hh, task.queries));
        let mut inner = Vec::new();
        f(self, head, Some(first), &mut inner);
        body.push(Stmt::For { var, lo, hi, body: inner });
    }

    fn key_loop(&mut self, tiles: &Tiles, task: &Task, body: &mut Vec<Stmt>) {
        let attn = self.input.attn;
        let tile = self.input.schedule.tile_kv;
        let analysis = analyze_mask(self.builder, attn);
        let pool = self.builder.pool();
        let all = TileBox { i_lo: task.i_lo, i_hi: task.i_hi, j_lo: task.j_lo, j_hi: task.j_hi };
        let (lo, hi) = analysis.key_range(pool, &all);
        let tile_expr = pool.int(tile);
        let first = pool.idiv(lo, tile_expr);
        let end = pool.idiv(hi, tile_expr);
        let end = pool.add_int(end, 1);
        let mut some = pool.le(lo, hi);
        if matches!(self.parts, Some(merge::Parts { runs: Runs::Keys(_), .. })) {
            // A run may begin behind the last key.
            let any = pool.le(task.j_lo, task.j_hi);
            some = pool.and(any, some);
        }
        let end = pool.select(some, end, first);
        let first = self.define(body, "kt_first", first);
        let end = self.define(body, "kt_end", end);
        let (first, end) = self.run_of(task, (first, end), body);
        let pool = self.builder.pool();
        let counter = pool.add_var("kt", Ty::Int);
        let kt = pool.var(counter);
        match self.together(&analysis) {
            None => {
                let most = self.builder.pool().int(tile);
                let inner = self.key_tile(tiles, task, &analysis, (kt, most));
                body.push(Stmt::For { var: counter, lo: first, hi: end, body: inner });
            }
            Some(direct) => {
                let pool = self.builder.pool();
                let (one, most) = (pool.int(1), pool.int(self.input.schedule.together));
                let together = pool.select(direct, most, one);
                let n = pool.sub(end, first);
                let fewer = pool.ceil_div(n, self.input.schedule.together);
                let (zero, n) = (pool.int(0), pool.select(direct, fewer, n));
                let step = pool.add_var("step", Ty::Int);
                let at = pool.var(step);
                let at = pool.mul(at, together);
                let at = pool.add(first, at);
                let left = pool.sub(end, at);
                let most = pool.min(left, together);
                let most = pool.mul(most, tile_expr);
                let mut inner = vec![Stmt::Let { var: counter, value: at }];
                inner.extend(self.key_tile(tiles, task, &analysis, (kt, most)));
                body.push(Stmt::For { var: step, lo: zero, hi: n, body: inner });
            }
        }
    }

    /// Bool over the sizes: a step takes as many tiles of keys as the schedule says, and not one. None where it never
    /// does: a mask whose blocks tiles must not straddle takes one after the other.
    fn together(&mut self, analysis: &MaskAnalysis) -> Option<ExprId> {
        if self.input.schedule.together == 1 || !analysis.cuts().is_empty() {
            return None;
        }
        pack::direct(self.builder, self.input)
    }

    /// The key tiles of the task's run: those that the query tile can see fall into `count` runs of as many tiles each, the
    /// last ones perhaps of fewer or none.
    fn run_of(
        &mut self,
        task: &Task,
        (first, end): (ExprId, ExprId),
        body: &mut Vec<Stmt>,
    ) -> (ExprId, ExprId) {
        let (Some(parts), Some(part), Some(runs)) = (self.parts, task.part, task.runs) else {
            return (first, end);
        };
        let Runs::Tiles(least) = parts.runs else { return (first, end) };
        let pool = self.builder.pool();
        let (seen, none, up) = (pool.sub(end, first), pool.int(0), pool.add_int(runs, -1));
        // It is not negative; this says so to whoever divides it.
        let seen = pool.max(seen, none);
        let seen = pool.add(seen, up);
        let (each, least) = (pool.idiv(seen, runs), pool.int(least));
        let each = pool.max(each, least);
        let each = self.define(body, "run_tiles", each);
        let pool = self.builder.pool();
        let skipped = pool.mul(part, each);
        let from = pool.add(first, skipped);
        let from = pool.min(from, end);
        // It is never before the first: this says so to whoever asks for the range of keys.
        let from = pool.max(from, first);
        let from = self.define(body, "run_first", from);
        let pool = self.builder.pool();
        let to = pool.add(from, each);
        let to = pool.min(to, end);
        (from, self.define(body, "run_end", to))
    }

    /// One step: `most` keys from tile `kt` on, as far as there are keys.
    fn key_tile(
        &mut self,
        tiles: &Tiles,
        task: &Task,
        analysis: &MaskAnalysis,
        (kt, most): (ExprId, ExprId),
    ) -> Vec<Stmt> {
        let mut body = Vec::new();
        let tile = self.input.schedule.tile_kv;
        let pool = self.builder.pool();
        let tile_expr = pool.int(tile);
        let first = pool.mul(kt, tile_expr);
        let j0 = self.define(&mut body, "j0", first);
        let pool = self.builder.pool();
        let left = pool.sub(self.input.attn.seq_k, j0);
        let some = pool.min(left, most);
        let cols = self.define(&mut body, "cols", some);
        let pool = self.builder.pool();
        let end = pool.add(j0, cols);
        let last = pool.add_int(end, -1);
        let j_hi = self.define(&mut body, "j_hi", last);
        let at = TileBox { i_lo: task.i_lo, i_hi: task.i_hi, j_lo: j0, j_hi };
        let sizes = (self.input.schedule.tile_q, tile);
        let parts = Parts::of(self.builder.pool(), analysis, &at, sizes);
        let may = analysis.may(self.builder.pool(), &at);
        let mut seen = Vec::new();
        let some = parts.as_ref().map(|p| p.some(self.builder, analysis, &at, &mut seen));
        let Clipped { body: mut step, some: any_panel, at, cols } = self.clip(analysis, &at, cols);
        let work = match self.input.key_heads() {
            1 => self.tile_step(tiles, task, (analysis, parts.as_ref()), &at, kt, cols),
            _ => self.sweep_step(tiles, task, (analysis, parts.as_ref()), &at, cols),
        };
        match any_panel {
            Some(cond) => step.push(Stmt::If { cond, then: work, otherwise: vec![] }),
            None => step = work,
        }
        match some {
            Some(cond) => seen.push(Stmt::If { cond, then: step, otherwise: vec![] }),
            None => seen = step,
        }
        body.push(Stmt::If { cond: may, then: seen, otherwise: vec![] });
        body
    }

    /// What is done with a tile that is not empty.
    fn tile_step(
        &mut self,
        tiles: &Tiles,
        task: &Task,
        (analysis, parts): (&MaskAnalysis, Option<&Parts>),
        at: &TileBox,
        kt: ExprId,
        cols: ExprId,
    ) -> Vec<Stmt> {
        let mut step = Vec::new();
        let direct = pack::direct(self.builder, self.input);
        let (whole, keys) = ((tiles, task), (at.j_lo, cols));
        self.by_source(&mut step, direct, |a, direct, step| match direct {
            true => a.each_few_keys(Phase::Scores, whole, keys, step, |a, tiles, task, (j, n), body| {
                a.scores(tiles, task, &TileBox { j_lo: j, ..*at }, n, true, body);
            }),
            false => a.scores(tiles, task, at, cols, false, step),
        });
        let mut must = analysis.must(self.builder.pool(), at);
        if let Some(parts) = parts {
            must = parts.full(self.builder, analysis, (at, must), &mut step);
        }
        let factor = self.score_maps(tiles, task, (at.j_lo, cols), must, &mut step);
        let scale = self.builder.pool().float(factor);
        // Where no output weighs the values, the row state is all that is wanted.
        if !weighs_values(self.input.attn) {
            let no = self.builder.pool().bool(false);
            step.push(self.weights(tiles, task, cols, scale, no));
            return step;
        }
        self.by_source(&mut step, direct, |a, direct, step| {
            let skip = if a.input.value_factor.is_some() {
                // Stored integers are finite.
                a.builder.pool().bool(false)
            } else if direct {
                // What a pair that takes no part would read is not known to be finite.
                a.builder.pool().bool(true)
            } else {
                let flag = a.values.nonfinite(a.builder, a.input, task.b, task.g, kt);
                a.define(step, "nonfinite", flag)
            };
            step.push(a.weights(tiles, task, cols, scale, skip));
            step.extend(a.dropped(tiles, task, at, cols));
            step.extend(a.scaled(tiles, task, at.j_lo, cols));
            step.extend(Self::rounded(tiles, task, cols));
            if !direct {
                return a.weighed(tiles, task, keys, (false, skip), step);
            }
            step.extend(a.input.sweep.and_then(|_| a.rescaled(tiles, task)));
            a.each_few_keys(Phase::Values, whole, keys, step, |a, tiles, task, keys, body| {
                a.weighed(tiles, task, keys, (true, skip), body);
            });
        });
        step
    }

    /// The score of each element, masked where not all pairs are seen; the scale that is left to the weights.
    fn score_maps(
        &mut self,
        tiles: &Tiles,
        task: &Task,
        (j0, cols): (ExprId, ExprId),
        must: ExprId,
        step: &mut Vec<Stmt>,
    ) -> f64 {
        let (core, factor) = scale::split(self.builder.pool(), self.input.attn.score);
        let minus_inf = self.builder.pool().float(f64::NEG_INFINITY);
        let masked = self.builder.pool().select(self.input.attn.mask, core, minus_inf);
        let full = self.map(tiles, task, j0, cols, core);
        let partial = self.map(tiles, task, j0, cols, masked);
        step.push(Stmt::If { cond: must, then: vec![full], otherwise: vec![partial] });
        factor
    }

    /// Statements for keys and values that are read where they lie, and for packed ones, whichever there may be.
    fn by_source(
        &mut self,
        body: &mut Vec<Stmt>,
        direct: Option<ExprId>,
        mut f: impl FnMut(&mut Self, bool, &mut Vec<Stmt>),
    ) {
        let Some(cond) = direct else { return f(self, false, body) };
        if self.builder.pool().as_bool(cond) == Some(true) {
            return f(self, true, body);
        }
        let (mut then, mut otherwise) = (Vec::new(), Vec::new());
        f(self, true, &mut then);
        f(self, false, &mut otherwise);
        body.push(Stmt::If { cond, then, otherwise });
    }

    /// The dots of a tile.
    fn scores(
        &mut self,
        tiles: &Tiles,
        task: &Task,
        at: &TileBox,
        cols: ExprId,
        direct: bool,
        step: &mut Vec<Stmt>,
    ) {
        let (b, g, j0) = (task.b, task.g, at.j_lo);
        for (n, keys) in self.keys.iter().enumerate() {
            let also = if direct { self.rest_of(self.input.attn.dots[n].y) } else { None };
            for chain in &tiles.q[n] {
                let (mut more, mut next) = (None, None);
                let right = if direct {
                    if chain.first == 0 {
                        next = self.next(task, j0, |b, input, at| keys.rows_at(b, input, at.0, at.1, at.2));
                    }
                    let mut src = keys.rows_at(self.builder, self.input, b, g, j0);
                    src.index[src.col_dim] = self.builder.pool().int(chain.first);
                    more = also.map(|tensor| Operand::Columns(RowsRef { tensor, ..src.clone() }));
                    Operand::Columns(src)
                } else {
                    let panels = keys.panels(self.builder, self.input, b, g, j0);
                    let pool = self.builder.pool();
                    let skipped = pool.int(chain.first * PANEL as i64);
                    let offset = pool.add(panels.offset, skipped);
                    Operand::Panels(PanelRef { offset, ..panels })
                };
                let pool = self.builder.pool();
                let (k, no) = (pool.int(chain.len), pool.bool(false));
                let product = |rest, b, accumulate| Stmt::Gemm {
                    c: tiles.s[n],
                    a: chain.buf,
                    rest,
                    b,
                    rows: task.rows,
                    k,
                    n: cols,
                    row_scale: None,
                    accumulate,
                    skip_zero: no,
                    next: next.clone(),
                };
                step.push(product(chain.rest.map_or(Rest::None, Rest::Tile), right, chain.first > 0));
                // The product of both rests is below what the sum of two parts holds.
                step.extend(more.map(|more| product(Rest::None, more, true)));
            }
        }
    }

    /// The tensor with the rests of rows, where a target keeps them in two parts.
    fn rest_of(&self, rows: Rows) -> Option<TensorId> {
        self.input.attn.tensor(rows.tensor).rest
    }

    /// The weights times the scales of the values; no weight takes part in no product.
    fn scaled(&mut self, tiles: &Tiles, task: &Task, j0: ExprId, cols: ExprId) -> Option<Stmt> {
        let factor = self.input.value_factor?;
        let pool = self.builder.pool();
        let (weight, zero) = (pool.var(self.input.attn.dots[0].var), pool.float(0.0));
        let (none, product) = (pool.eq(weight, zero), pool.mul(weight, factor));
        let value = pool.select(none, zero, product);
        Some(self.map(tiles, task, j0, cols, value))
    }

    /// The product of the weights with the values.
    fn weighed(
        &mut self,
        tiles: &Tiles,
        task: &Task,
        (j0, cols): (ExprId, ExprId),
        (direct, skip_zero): (bool, ExprId),
        step: &mut Vec<Stmt>,
    ) {
        let (b, g, value) = (task.b, task.g, self.input.attn.value);
        let (mut rest, mut more, mut next) = (Rest::None, None, None);
        let right = if direct {
            let values = self.values;
            next = self.next(task, j0, |b, input, at| values.rows_at(b, input, at.0, at.1, at.2));
            let src = self.values.rows_at(self.builder, self.input, b, g, j0);
            more = self.rest_of(value).map(|tensor| Operand::Rows(RowsRef { tensor, ..src.clone() }));
            // Weights as exact as the result is stored.
            let coarse = |o: &Output| o.kind == OutputKind::O && o.dtype == DType::Bf16;
            if more.is_some() && !self.input.attn.outputs.iter().any(coarse) {
                rest = Rest::Rounding;
            }
            Operand::Rows(src)
        } else {
            Operand::Panels(self.values.panels(self.builder, self.input, b, g, j0))
        };
        let softmax = matches!(self.input.attn.weight, Weight::Softmax { .. });
        let n = self.builder.pool().int(self.values.d);
        let product = |rest, b, row_scale| Stmt::Gemm {
            c: tiles.o,
            a: tiles.p.unwrap_or(tiles.s[0]),
            rest,
            b,
            rows: task.rows,
            k: cols,
            n,
            row_scale,
            accumulate: true,
            skip_zero,
            next: next.clone(),
        };
        // Several products of one step follow one scaling.
        let scaled = softmax && !(direct && self.input.sweep.is_some());
        step.push(product(rest, right, scaled.then_some(tiles.alpha)));
        step.extend(more.map(|more| product(Rest::None, more, None)));
    }

    /// The weights as they meet the values.
    fn rounded(tiles: &Tiles, task: &Task, cols: ExprId) -> Option<Stmt> {
        tiles.p.map(|dst| Stmt::Round { dst, src: tiles.s[0], rows: task.rows, cols })
    }

    /// `s[r, c] = value` with the attention's variables replaced by those of the tile.
    fn map(&mut self, tiles: &Tiles, task: &Task, j0: ExprId, cols: ExprId, value: ExprId) -> Stmt {
        let attn = self.input.attn;
        let pool = self.builder.pool();
        let (row, col) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
        let (r, c) = (pool.var(row), pool.var(col));
        let shared = self.heads > 1;
        let mut value = value;
        if self.views.is_some() {
            value = with_key_head(pool, attn, value, task.g);
        }
        let query = if shared { pool.modulo(r, task.queries) } else { r };
        let at_row = pool.add(task.row0, query);
        let at_i = pool.add(task.i_lo, query);
        let at_j = pool.add(j0, c);
        let mut subst = vec![(attn.index.row, at_row), (attn.index.i, at_i), (attn.index.j, at_j)];
        if shared {
            let head = pool.idiv(r, task.queries);
            subst.push((attn.index.h, pool.add(task.h, head)));
        } else if self.views.is_some() {
            subst.push((attn.index.h, task.h));
        }
        let mut reads = Vec::new();
        for (n, dot) in attn.dots.iter().enumerate() {
            let element = pool.add_var(&format!("x{n}"), Ty::Float);
            subst.push((dot.var, pool.var(element)));
            reads.push((element, tiles.s[n], Access::Tile));
        }
        let value = pool.substitute(value, &subst);
        let used = pool.free_vars(value);
        reads.retain(|(var, _, _)| used.contains(var));
        Stmt::Map { dst: tiles.s[0], rows: task.rows, cols, row, col, reads, value }
    }

    fn weights(
        &mut self,
        tiles: &Tiles,
        task: &Task,
        cols: ExprId,
        scale: ExprId,
        floor_unmasked: ExprId,
    ) -> Stmt {
        let (s, rows, row_max) = (tiles.s[0], task.rows, tiles.row_max);
        let kind = match self.input.attn.weight {
            Weight::Softmax { .. } => {
                let (row_sum, alpha) = (tiles.row_sum, tiles.alpha);
                return Stmt::SoftmaxStep { s, rows, cols, scale, row_max, row_sum, alpha, floor_unmasked };
            }
            Weight::Sigmoid => WeightKind::Sigmoid,
            Weight::Relu => WeightKind::Relu,
            Weight::Plain => WeightKind::Plain,
        };
        Stmt::WeightStep { kind, s, rows, cols, scale, row_max, floor_unmasked }
    }

    /// Drops some of the weights of a tile.
    fn dropped(&mut self, tiles: &Tiles, task: &Task, at: &TileBox, cols: ExprId) -> Option<Stmt> {
        let d = self.input.attn.dropout?;
        let n_heads = self.input.attn.n_heads;
        let pool = self.builder.pool();
        let heads = pool.int(n_heads);
        let before = pool.mul(task.b, heads);
        Some(Stmt::Random {
            dst: tiles.s[0],
            rows: task.rows,
            cols,
            row0: at.i_lo,
            col0: at.j_lo,
            stream: pool.add(before, task.h),
            offset: d.offset,
            seed: d.seed,
            threshold: d.threshold,
            keep_scale: d.keep_scale,
        })
    }
}
