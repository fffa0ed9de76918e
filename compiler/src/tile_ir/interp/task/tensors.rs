//! Statements that write tensors element by element: maps, prefix sums, selections.
//!
//! What holds: elements are read and written through the machine's memory, which checks each.

use super::{Done, Task, moved};
use crate::expr::ExprId;
use crate::expr::eval::Value;
use crate::tile_ir::{Access, FlatRef, RowsRef, Stmt};

impl Task<'_, '_> {
    pub(super) fn store_map(&mut self, stmt: &Stmt) -> Done {
        let Stmt::StoreMap { dst, rows, cols, row, col, reads, value } = stmt else { return Ok(()) };
        let (rows, cols) = (self.count(*rows, i64::MAX)?, self.count(*cols, i64::MAX)?);
        let index = self.index(&dst.index)?;
        for (r, c) in (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))) {
            self.machine.set(*row, Value::Int(r as i64));
            self.machine.set(*col, Value::Int(c as i64));
            for (var, buf, access) in reads {
                let (r, c) = match access {
                    Access::Tile => (r, c),
                    Access::Row => (r, 0),
                    Access::Col => (0, c),
                };
                self.machine.set(*var, Value::Float(self.get(*buf, r, c)?));
            }
            let value = self.machine.eval(*value)?;
            self.machine.memory.write(dst.tensor, &moved(&index, dst.row_dim, r, dst.col_dim, c), value)?;
        }
        for var in reads.iter().map(|r| r.0).chain([*row, *col]) {
            self.machine.unset(var);
        }
        Ok(())
    }

    /// The elements of a vector.
    fn vector(&mut self, src: &RowsRef, n: ExprId) -> Done<Vec<f64>> {
        let n = self.count(n, i64::MAX)?;
        let index = self.index(&src.index)?;
        (0..n).map(|t| self.source(src, &index, t, 0)).collect()
    }

    fn write_vector(&mut self, dst: &FlatRef, values: impl Iterator<Item = Value>) -> Done {
        let offset = self.machine.int(dst.offset)?;
        for (n, value) in values.enumerate() {
            self.machine.memory.write_flat(dst.tensor, offset.wrapping_add(n as i64), value)?;
        }
        Ok(())
    }

    /// The two parts are rounded to f32, though no float of the interpreter is: their rounding is what they are.
    pub(super) fn prefix_sum(&mut self, hi: &FlatRef, lo: &FlatRef, src: &RowsRef, n: ExprId) -> Done {
        let mut sum = 0.0;
        let parts: Vec<(f64, f64)> = self
            .vector(src, n)?
            .into_iter()
            .map(|x| {
                sum += x;
                let hi = f64::from(sum as f32);
                (hi, if hi.is_finite() { f64::from((sum - hi) as f32) } else { 0.0 })
            })
            .collect();
        self.write_vector(hi, parts.iter().map(|p| Value::Float(p.0)))?;
        self.write_vector(lo, parts.iter().map(|p| Value::Float(p.1)))
    }

    pub(super) fn top_k(&mut self, stmt: &Stmt) -> Done {
        let Stmt::TopK { indices, ranks, src, n, m, width } = stmt else { return Ok(()) };
        let score = |x: f64| if x.is_nan() { f64::NEG_INFINITY } else { x + 0.0 };
        let scores: Vec<f64> = self.vector(src, *n)?.into_iter().map(score).collect();
        let width = self.count(*width, i64::MAX)?;
        let m = self.machine.int(*m)?.clamp(0, scores.len() as i64) as usize;
        if m > width {
            return Err(format!("{m} positions for a row of {width}"));
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        order.truncate(m);
        order.sort_unstable();
        let mut rank = vec![-1; scores.len()];
        for (at, &n) in order.iter().enumerate() {
            rank[n] = at as i64;
        }
        let row = (0..width).map(|at| Value::Int(order.get(at).map_or(-1, |&n| n as i64)));
        self.write_vector(indices, row)?;
        match ranks {
            Some(ranks) => self.write_vector(ranks, rank.into_iter().map(Value::Int)),
            None => Ok(()),
        }
    }
}
