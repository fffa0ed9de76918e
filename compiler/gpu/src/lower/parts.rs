//! Loops over the parts of a tile, one for each head that shares it.
//!
//! Comes in: a loop that does nothing but load rows into tiles of 16-bit rows, or store rows of tiles in registers, each time
//! those from `var * rows` on. Goes out: loads that are all on their way before the first is waited for; stores by which every
//! thread writes its own rows once, whatever part they are of. What holds: parts do not overlap, so no barrier stands between
//! them. Not here: loops of another form (`control.rs`).

use attn_compiler::expr::{BinaryOp, ExprId, Op as E, VarId};
use attn_compiler::tile_ir::{BufId, Stmt};

use super::{Lower, Result};
use crate::simt_ir::{Bin, Cmp};

impl Lower<'_> {
    /// Is `first` where part `var` of so many rows begins?
    fn begins_part(&self, var: VarId, first: Option<ExprId>, rows: ExprId) -> bool {
        let pool = self.pool();
        let is_var = |id: ExprId| *pool.op(id) == E::Var(var);
        first.is_some_and(|first| match *pool.op(first) {
            E::Binary(BinaryOp::Mul, a, b) => (b == rows && is_var(a)) || (a == rows && is_var(b)),
            _ => false,
        })
    }

    /// Writes a loop over parts. False if it is none.
    pub(super) fn parts(&mut self, over: (VarId, ExprId, ExprId), body: &[Stmt]) -> Result<bool> {
        if self.layouts.is_none() {
            return Ok(false);
        }
        let loads = |stmt: &Stmt| match stmt {
            Stmt::LoadRows { dst, rows, .. } => self.begins_part(over.0, dst.first, *rows),
            _ => false,
        };
        let stored = |stmt: &Stmt| match stmt {
            Stmt::StoreRows { src, rows, .. } | Stmt::StoreVec { src, rows, .. } => {
                Some(*rows).filter(|rows| self.begins_part(over.0, src.first, *rows))
            }
            _ => None,
        };
        if body.iter().all(loads) {
            self.load_parts(over, body)?;
            return Ok(true);
        }
        let Some(rows) = body.first().and_then(stored) else { return Ok(false) };
        if body.iter().any(|stmt| stored(stmt) != Some(rows)) {
            return Ok(false);
        }
        self.store_parts(over, rows, body)?;
        Ok(true)
    }

    fn load_parts(&mut self, over: (VarId, ExprId, ExprId), body: &[Stmt]) -> Result<()> {
        let mut tiles = Vec::new();
        for stmt in body {
            if let Stmt::LoadRows { dst, .. } = stmt {
                tiles.push(self.half_of(dst.buf)?);
            }
        }
        let Some(&last) = tiles.last() else { return Ok(()) };
        let ids: Vec<BufId> = tiles.iter().map(|half| half.id).collect();
        self.touch(&[], &ids);
        self.in_parts = true;
        self.over(over, None, |l| l.block(body))?;
        self.in_parts = false;
        self.arrived(last, 0);
        Ok(())
    }

    /// The part of a row is its number by the rows of a part: the same for both of a thread only by chance.
    fn store_parts(
        &mut self,
        (var, lo, hi): (VarId, ExprId, ExprId),
        rows: ExprId,
        body: &[Stmt],
    ) -> Result<()> {
        let range = self.span_range(lo, hi);
        let (rows, one) = (self.int32(rows)?, self.b.i32(1));
        let rows = self.b.bin(Bin::SMax, rows, one);
        let (lo, hi) = (self.int32(lo)?, self.int32(hi)?);
        for (half, row) in self.own_rows().into_iter().enumerate() {
            let part = self.b.bin(Bin::SDiv, row, rows);
            let (from, before) = (self.b.cmp(Cmp::Sle, lo, part), self.b.cmp(Cmp::Slt, part, hi));
            let inside = self.b.bin(Bin::And, from, before);
            self.when(inside, |l| {
                l.bind(var, part, range);
                let first = l.b.bin(Bin::Mul, part, rows);
                let at = l.b.bin(Bin::Sub, row, first);
                body.iter().try_for_each(|stmt| match stmt {
                    Stmt::StoreRows { dst, src, d, row_scale, .. } => {
                        let to = l.row_store(dst, src.buf, *d, *row_scale)?;
                        l.store_row(&to, half, at)
                    }
                    Stmt::StoreVec { dst, src, .. } => {
                        let (to, slot) = (l.rows(dst)?, l.state(src.buf)?[half]);
                        l.store_state_of(to, (inside, at), slot)
                    }
                    _ => Ok(()),
                })
            })?;
        }
        Ok(())
    }
}
