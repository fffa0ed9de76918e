//! The beginning of a task: its query rows are loaded, its row state is that of a row that has seen nothing, or its sink.
//!
//! Comes in: the tiles, the task. Goes out: statements. What holds: a sink takes part once. Not here: keys (`key_loop`).

use super::sweep::Phase;
use super::{Attend, Task, Tiles};
use crate::attn_ir::Weight;
use crate::expr::{ExprId, Ty};
use crate::lower::rows_index;
use crate::tile_ir::{BufRows, RowsRef, Stmt};

impl Attend<'_> {
    pub(super) fn start(&mut self, tiles: &Tiles, task: &Task, body: &mut Vec<Stmt>) {
        self.each_key_head(Phase::Queries, tiles, task, body, |a, tiles, task, body| {
            a.load_queries(tiles, task, body);
            body.extend(a.cleared(tiles, task));
        });
        if self.input.key_heads() == 1 {
            body.push(Stmt::Fill { dst: tiles.o, value: 0.0 });
        }
        body.push(Stmt::Fill { dst: tiles.row_max, value: f64::NEG_INFINITY });
        body.push(Stmt::Fill { dst: tiles.row_sum, value: 0.0 });
        let Some(sink) = self.own_sink() else { return };
        self.each_key_head(Phase::State, tiles, task, body, |a, tiles, task, body| {
            let mut begin = Vec::new();
            a.begin_with_sink(tiles, task, sink, &mut begin);
            match a.whole(task) {
                Some(cond) => body.push(Stmt::If { cond, then: begin, otherwise: vec![] }),
                None => body.extend(begin),
            }
        });
    }

    fn load_queries(&mut self, tiles: &Tiles, task: &Task, body: &mut Vec<Stmt>) {
        let attn = self.input.attn;
        self.each_head(task, body, |a, head, first, body| {
            for (n, dot) in attn.dots.iter().enumerate() {
                for chain in &tiles.q[n] {
                    let mut index = rows_index(a.builder.pool(), attn, dot.x, task.b, head, task.row0);
                    index[dot.x.feature] = a.builder.pool().int(chain.first);
                    let (row_dim, col_dim) = (dot.x.seq, dot.x.feature);
                    let d = a.builder.pool().int(chain.len);
                    let tensors = [Some(dot.x.tensor), attn.tensor(dot.x.tensor).rest];
                    let tiles = [Some(chain.buf), chain.rest];
                    for (tensor, buf) in tensors.into_iter().zip(tiles) {
                        let (Some(tensor), Some(buf)) = (tensor, buf) else { continue };
                        let src = RowsRef { tensor, index: index.clone(), row_dim, col_dim };
                        let dst = BufRows { buf, first };
                        body.push(Stmt::LoadRows { dst, src, rows: task.queries, d });
                    }
                }
            }
        });
    }

    /// The sink, where heads that share a tile have sinks of their own: their rows begin with it, since one number
    /// will not do at the end.
    pub(super) fn own_sink(&self) -> Option<ExprId> {
        let attn = self.input.attn;
        let Weight::Softmax { sink: Some(sink) } = attn.weight else { return None };
        let own = self.heads > 1 && attn.pool.depends_on(sink, &[attn.index.h]);
        (own && self.parts.is_none_or(|parts| parts.whole.is_some())).then_some(sink)
    }

    /// Bool: the task's run is all of the keys. None where that is always so, or never known.
    pub(super) fn whole(&mut self, task: &Task) -> Option<ExprId> {
        let pool = self.builder.pool();
        let one = pool.int(1);
        task.runs.map(|runs| pool.le(runs, one))
    }

    /// The state of a row that has seen its sink: `m = sink`, `l = exp(sink - m)`; a NaN goes to the sum, which keeps it.
    fn begin_with_sink(&mut self, tiles: &Tiles, task: &Task, sink: ExprId, body: &mut Vec<Stmt>) {
        let h = self.input.attn.index.h;
        for (dst, is_max) in [(tiles.row_max, true), (tiles.row_sum, false)] {
            let pool = self.builder.pool();
            let (row, col) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
            let r = pool.var(row);
            let head = pool.idiv(r, task.queries);
            let head = pool.add(task.h, head);
            let s = pool.substitute(sink, &[(h, head)]);
            let (none, zero, one) = (pool.float(f64::NEG_INFINITY), pool.float(0.0), pool.float(1.0));
            let (some, off) = (pool.lt(none, s), pool.le(s, none));
            let sum = pool.select(off, zero, s);
            let value = if is_max { pool.select(some, s, none) } else { pool.select(some, one, sum) };
            let cols = pool.int(1);
            body.push(Stmt::Map { dst, rows: task.rows, cols, row, col, reads: vec![], value });
        }
    }
}
