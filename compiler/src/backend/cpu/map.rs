//! Maps: an expression for every element of a tile.
//!
//! Comes in: a [`Stmt::Map`]. Goes out: a loop over rows around a loop over columns. What depends on neither is
//! computed before both, what depends on the row only before the inner loop. The inner loop is `vector`'s, four
//! columns at a time, as far as that is worth it and proved safe for the row; one column at a time for the rest.

use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value};

use crate::expr::range::Range;
use crate::expr::{ExprId, Op, Pool, VarId};
use crate::tile_ir::{Access, BufId, Stmt};

use super::BackendError;
use super::emitter::{Emitter, Result};

/// A map taken apart.
pub(super) struct Map {
    pub dst: BufId,
    pub rows: ExprId,
    pub cols: ExprId,
    pub row: VarId,
    pub col: VarId,
    /// The elements that `value` needs.
    pub reads: Vec<(VarId, BufId, Access)>,
    pub value: ExprId,
    /// Operands first: nodes that depend on the column.
    pub varying: Vec<ExprId>,
    /// Operands of varying nodes (or the value itself) that depend on the row only.
    pub per_row: Vec<ExprId>,
    /// The same that depend on neither.
    pub uniform: Vec<ExprId>,
}

impl Map {
    fn new(pool: &Pool, stmt: &Stmt) -> Result<Map> {
        let Stmt::Map { dst, rows, cols, row, col, reads, value } = stmt else {
            return Err(BackendError::internal("map", "only a Map comes here", format!("{stmt:?}")));
        };
        let order = pool.reachable(&[*value]);
        // (depends on the row, depends on the column)
        let mut depends = std::collections::HashMap::new();
        for &id in &order {
            let own = match pool.op(id) {
                Op::Var(v) if v == row => (true, false),
                Op::Var(v) if v == col => (false, true),
                Op::Var(v) => match reads.iter().find(|r| r.0 == *v) {
                    Some((_, _, access)) => (*access != Access::Col, *access != Access::Row),
                    None => (false, false),
                },
                _ => (false, false),
            };
            let all = pool.operands(id).iter().fold(own, |(r, c), x| {
                let (xr, xc): (bool, bool) = depends[x];
                (r | xr, c | xc)
            });
            depends.insert(id, all);
        }
        let varying: Vec<ExprId> = order.iter().copied().filter(|id| depends[id].1).collect();
        let mut needed: Vec<ExprId> = varying.iter().flat_map(|&id| pool.operands(id)).collect();
        needed.push(*value);
        needed.sort_unstable();
        needed.dedup();
        let of = |want: (bool, bool)| needed.iter().copied().filter(|id| depends[id] == want).collect();
        let used = |v: VarId| order.iter().any(|&id| matches!(pool.op(id), Op::Var(w) if *w == v));
        let reads = reads.iter().copied().filter(|r| used(r.0)).collect();
        let (per_row, uniform) = (of((true, false)), of((false, false)));
        Ok(Map {
            dst: *dst,
            rows: *rows,
            cols: *cols,
            row: *row,
            col: *col,
            reads,
            value: *value,
            varying,
            per_row,
            uniform,
        })
    }
}

/// Addresses that hold for one row.
pub(super) struct RowAt {
    /// First element of the destination's row.
    pub dst: Value,
    /// Address of column 0 of each read, or of the row's value.
    pub reads: Vec<Value>,
}

impl Emitter<'_, '_> {
    /// A map.
    pub fn map(&mut self, stmt: &Stmt) -> Result<()> {
        let map = Map::new(self.pool(), stmt)?;
        let (max_rows, max_cols) = self.map_limits(&map)?;
        let (rows, cols) = (self.count(map.rows, max_rows)?, self.count(map.cols, max_cols)?);
        for &id in &map.uniform {
            self.scalar(id)?;
        }
        let zero = self.int(0);
        let limit = Range { lo: 0, hi: max_rows - 1 };
        self.count_loop((zero, rows, 1), [], |e, row, []| {
            e.bind(map.row, row, limit);
            e.note_below(map.row, map.rows);
            e.map_row(&map, row, (cols, max_cols))
        })
    }

    /// The most rows and columns that every buffer of the map has.
    fn map_limits(&self, map: &Map) -> Result<(i64, i64)> {
        let dst = self.buffer(map.dst)?;
        let (mut rows, mut cols) = (dst.rows, dst.cols);
        for &(_, buf, access) in &map.reads {
            let buffer = self.buffer(buf)?;
            rows = if access == Access::Col { rows } else { rows.min(buffer.rows) };
            cols = if access == Access::Row { cols } else { cols.min(buffer.cols) };
        }
        Ok((rows, cols))
    }

    fn map_row(&mut self, map: &Map, row: Value, (cols, max_cols): (Value, i64)) -> Result<()> {
        let at = self.row_addresses(map, row)?;
        for (read, &address) in map.reads.iter().zip(&at.reads) {
            if read.2 == Access::Row {
                let value = self.load_float(address);
                self.bind(read.0, value, Range::ALL);
            }
        }
        for &id in &map.per_row {
            self.scalar(id)?;
        }
        let Some((first, streams)) = self.map_vectors(map, &at, cols, max_cols)? else { return Ok(()) };
        let limit = Range { lo: 0, hi: max_cols - 1 };
        self.count_loop((first, cols, 1), [], |e, col, []| {
            e.bind(map.col, col, limit);
            e.note_below(map.col, map.cols);
            for (read, &row_start) in map.reads.iter().zip(&at.reads) {
                if read.2 != Access::Row {
                    let address = e.element(row_start, col);
                    let value = e.load_float(address);
                    e.bind(read.0, value, Range::ALL);
                }
            }
            e.load_along(&streams, col)?;
            let value = e.scalar(map.value)?;
            let address = e.element(at.dst, col);
            e.b.ins().store(MemFlagsData::trusted(), value, address, 0);
            Ok(())
        })
    }

    fn row_addresses(&mut self, map: &Map, row: Value) -> Result<RowAt> {
        let dst = self.row_start(map.dst, row)?;
        let mut reads = Vec::new();
        for &(_, buf, access) in &map.reads {
            reads.push(match access {
                Access::Tile | Access::Row => self.row_start(buf, row)?,
                Access::Col => self.buffer_address(buf)?,
            });
        }
        Ok(RowAt { dst, reads })
    }

    /// Address of element (row, 0).
    fn row_start(&mut self, buf: BufId, row: Value) -> Result<Value> {
        let ld = self.ld(buf)?;
        let base = self.buffer_address(buf)?;
        let bytes = self.b.ins().imul_imm_s(row, ld * 4);
        Ok(self.b.ins().iadd(base, bytes))
    }

    /// Address of a column of a row.
    pub fn element(&mut self, row_start: Value, col: Value) -> Value {
        let bytes = self.shifted(col, 2);
        self.b.ins().iadd(row_start, bytes)
    }
}
