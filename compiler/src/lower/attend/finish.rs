//! The end of a task: rows are normalised and stored, as results or as partial results over a run of keys.
//!
//! Comes in: what the loop over key tiles left. Goes out: statements. What holds: a sink takes part once, here or where partial
//! results are merged; lengths alone decide which of the two is stored, so it is the same for every task of a launch. Not
//! here: merging (`merge.rs`).

use super::sweep::Phase;
use super::{Attend, Task, Tiles};
use crate::attn_ir::{OutputKind, Weight};
use crate::expr::ExprId;
use crate::lower::{merge, rows_index};
use crate::tile_ir::{BufId, BufRows, RowsRef, Stmt};

impl Attend<'_> {
    pub(super) fn finish(&mut self, tiles: &Tiles, task: &Task, body: &mut Vec<Stmt>) {
        self.each_key_head(Phase::State, tiles, task, body, |a, tiles, task, body| {
            a.finish_rows(tiles, task, body);
        });
    }

    fn finish_rows(&mut self, tiles: &Tiles, task: &Task, body: &mut Vec<Stmt>) {
        let attn = self.input.attn;
        let mut row_scale = None;
        if let Weight::Softmax { sink } = attn.weight {
            let none = self.builder.pool().float(f64::NEG_INFINITY);
            let (rows, row_max, row_sum) = (task.rows, tiles.row_max, tiles.row_sum);
            let (inv_sum, lse) = (tiles.inv_sum, tiles.lse);
            // A sink takes part once: where partial results are merged.
            let sink = match (sink.filter(|_| self.own_sink().is_none()), self.whole(task)) {
                (Some(sink), Some(whole)) => self.builder.pool().select(whole, sink, none),
                (Some(sink), None) if self.parts.is_none() => sink,
                _ => none,
            };
            let sink = self.builder.pool().substitute(sink, &[(attn.index.h, task.h)]);
            body.push(Stmt::FinishSoftmax { rows, row_max, row_sum, sink, inv_sum, lse });
            row_scale = Some(inv_sum);
        }
        let (Some(parts), Some(part)) = (self.parts, task.part) else {
            return self.store(tiles, task, row_scale, body);
        };
        let Some(cond) = self.whole(task) else {
            return self.store_part(tiles, task, (parts, part, row_scale), body);
        };
        let (mut then, mut otherwise) = (Vec::new(), Vec::new());
        self.store(tiles, task, row_scale, &mut then);
        self.store_part(tiles, task, (parts, part, row_scale), &mut otherwise);
        body.push(Stmt::If { cond, then, otherwise });
    }

    /// Partial results over a run of keys.
    fn store_part(
        &mut self,
        tiles: &Tiles,
        task: &Task,
        (parts, part, row_scale): (&merge::Parts, ExprId, Option<BufId>),
        body: &mut Vec<Stmt>,
    ) {
        let rows = task.queries;
        self.each_head(task, body, |a, head, first, body| {
            if let Some(tensor) = parts.o {
                let zero = a.builder.pool().int(0);
                let d = a.builder.pool().int(a.values.d);
                let index = vec![task.b, head, part, task.row0, zero];
                let dst = RowsRef { tensor, index, row_dim: 3, col_dim: 4 };
                body.push(Stmt::StoreRows { dst, src: BufRows { buf: tiles.o, first }, rows, d, row_scale });
            }
            for (tensor, buf) in [(parts.lse, tiles.lse), (parts.max, tiles.row_max)] {
                let Some(tensor) = tensor else { continue };
                let index = vec![task.b, head, part, task.row0];
                let dst = RowsRef { tensor, index, row_dim: 3, col_dim: 3 };
                body.push(Stmt::StoreVec { dst, src: BufRows { buf, first }, rows });
            }
        });
    }

    fn store(&mut self, tiles: &Tiles, task: &Task, row_scale: Option<BufId>, body: &mut Vec<Stmt>) {
        let (attn, rows) = (self.input.attn, task.queries);
        let query = attn.dots[0].x;
        self.each_head(task, body, |a, head, first, body| {
            for (n, out) in attn.outputs.iter().enumerate() {
                let tensor = a.builder.outputs[n];
                let mut index = rows_index(a.builder.pool(), attn, query, task.b, head, task.row0);
                if out.kind == OutputKind::O {
                    let dst = RowsRef { tensor, index, row_dim: query.seq, col_dim: query.feature };
                    let d = a.builder.pool().int(a.values.d);
                    body.push(Stmt::StoreRows {
                        dst,
                        src: BufRows { buf: tiles.o, first },
                        rows,
                        d,
                        row_scale,
                    });
                    continue;
                }
                index.remove(query.feature);
                let seq = query.seq - usize::from(query.feature < query.seq);
                let dst = RowsRef { tensor, index, row_dim: seq, col_dim: seq };
                let buf = if out.kind == OutputKind::Lse { tiles.lse } else { tiles.row_max };
                body.push(Stmt::StoreVec { dst, src: BufRows { buf, first }, rows });
            }
        });
    }
}
