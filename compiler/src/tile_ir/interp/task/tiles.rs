//! Statements between buffers: scaling and adding, transposition, scan, reduction, random dropping.
//!
//! What holds: exactly the elements that the statement names are read; in f64, in ascending order.

use super::{Done, Task};
use crate::expr::{ExprId, rand};
use crate::tile_ir::{BufId, ReduceOp, Stmt};

impl Task<'_, '_> {
    pub(super) fn transpose(&mut self, dst: BufId, src: BufId, (rows, cols): (ExprId, ExprId)) -> Done {
        let (to, from) = (self.tile(dst).decl, self.tile(src).decl);
        let rows = self.count(rows, from.rows.min(to.cols))?;
        let cols = self.count(cols, from.cols.min(to.rows))?;
        for c in 0..cols {
            for x in 0..to.cols as usize {
                let value = if x < rows { self.get(src, x, c)? } else { 0.0 };
                self.tile(dst).set(c, x, Some(value))?;
            }
        }
        Ok(())
    }

    pub(super) fn band(&mut self, stmt: &Stmt) -> Done {
        let Stmt::Band { s, rows, cols, period, from, to } = stmt else { return Ok(()) };
        let decl = self.tile(*s).decl;
        let (rows, cols) = (self.count(*rows, decl.rows)?, self.count(*cols, decl.cols)?);
        let [period, first, end] = [*period, from.at, to.at].map(|e| self.machine.eval(e).map(|v| v.int()));
        let (period, first, end) = (period?, first?, end?);
        for r in 0..rows {
            let p = if period > 0 { r as i64 % period } else { r as i64 };
            let seen = first + p * from.step..end + p * to.step;
            for c in 0..cols {
                let x = self.get(*s, r, c)?;
                let x = if seen.contains(&(c as i64)) { x } else { f64::NEG_INFINITY };
                self.tile(*s).set(r, c, Some(x))?;
            }
        }
        Ok(())
    }

    pub(super) fn affine(&mut self, stmt: &Stmt) -> Done {
        let Stmt::Affine { dst, rows, cols, scale, factor, term, diagonal, keep_zero } = stmt else {
            return Ok(());
        };
        let decl = self.tile(*dst).decl;
        let (rows, cols) = (self.count(*rows, decl.rows)?, self.count(*cols, decl.cols)?);
        let scale = self.machine.eval(*scale)?.float();
        for r in 0..rows {
            for c in 0..cols {
                let x = self.get(*dst, r, c)?;
                let factor = factor.map_or(Ok(1.0), |v| self.get(v, 0, c))?;
                let at = if *diagonal { rows - 1 - r + c } else { c };
                let mut y = x * (scale * factor);
                if let Some(term) = term {
                    y += self.get(*term, 0, at)?;
                }
                let y = if *keep_zero && x == 0.0 { 0.0 } else { y };
                self.tile(*dst).set(r, c, Some(y))?;
            }
        }
        Ok(())
    }

    pub(super) fn scan_rows(
        &mut self,
        dst: BufId,
        (rows, cols): (ExprId, ExprId),
        decay: Option<BufId>,
    ) -> Done {
        let decl = self.tile(dst).decl;
        let (rows, cols) = (self.count(rows, decl.rows)?, self.count(cols, decl.cols)?);
        for r in 1..rows {
            let decay = decay.map_or(Ok(1.0), |v| self.get(v, r, 0))?;
            for c in 0..cols {
                let value = decay.mul_add(self.get(dst, r - 1, c)?, self.get(dst, r, c)?);
                self.tile(dst).set(r, c, Some(value))?;
            }
        }
        Ok(())
    }

    pub(super) fn reduce_rows(
        &mut self,
        dst: BufId,
        op: ReduceOp,
        src: BufId,
        (rows, cols): (ExprId, ExprId),
    ) -> Done {
        let (to, from) = (self.tile(dst).decl, self.tile(src).decl);
        let (rows, cols) = (self.count(rows, from.rows.min(to.rows))?, self.count(cols, from.cols)?);
        for r in 0..rows {
            let row = (0..cols).map(|c| self.get(src, r, c)).collect::<Done<Vec<f64>>>()?;
            self.tile(dst).set(r, 0, Some(reduce(op, &row)))?;
        }
        Ok(())
    }

    pub(super) fn keep_largest(&mut self, stmt: &Stmt) -> Done {
        let Stmt::KeepLargest { best, at, src, rows, cols, first, m } = stmt else { return Ok(()) };
        let (kept, from) = (self.tile(*best).decl, self.tile(*src).decl);
        let rows = self.count(*rows, from.rows.min(kept.rows))?;
        let cols = self.count(*cols, from.cols)?;
        let first = self.machine.eval(*first)?.int();
        let m = usize::try_from(self.machine.eval(*m)?.int().min(kept.cols)).unwrap_or(0);
        for r in 0..rows {
            let mut list = Vec::new();
            for n in 0..m {
                let (x, place) = (self.get(*best, r, n)?, self.get(*at, r, n)?);
                if x > f64::NEG_INFINITY {
                    list.push((x, place));
                }
            }
            for c in 0..cols {
                let x = self.get(*src, r, c)?;
                if x > f64::NEG_INFINITY {
                    let after = list.iter().position(|(y, _)| *y < x).unwrap_or(list.len());
                    list.insert(after, (x, (first + c as i64) as f64));
                    list.truncate(m);
                }
            }
            for n in 0..m {
                let (x, place) = list.get(n).copied().unwrap_or((f64::NEG_INFINITY, -1.0));
                self.tile(*best).set(r, n, Some(x))?;
                self.tile(*at).set(r, n, Some(place))?;
            }
        }
        Ok(())
    }

    pub(super) fn mark(
        &mut self,
        dst: BufId,
        at: BufId,
        (rows, cols): (ExprId, ExprId),
        first: ExprId,
    ) -> Done {
        let (to, places) = (self.tile(dst).decl, self.tile(at).decl);
        let rows = self.count(rows, to.rows.min(places.rows))?;
        let cols = self.count(cols, to.cols)?;
        let first = self.machine.eval(first)?.int();
        for r in 0..rows {
            let list = (0..places.cols as usize).map(|n| self.get(at, r, n)).collect::<Done<Vec<f64>>>()?;
            for c in 0..cols {
                let found = list.contains(&((first + c as i64) as f64));
                self.tile(dst).set(r, c, Some(f64::from(u8::from(found))))?;
            }
        }
        Ok(())
    }

    pub(super) fn random(&mut self, stmt: &Stmt) -> Done {
        let Stmt::Random { dst, rows, cols, row0, col0, stream, offset, seed, threshold, keep_scale } = stmt
        else {
            return Ok(());
        };
        let decl = self.tile(*dst).decl;
        let (rows, cols) = (self.count(*rows, decl.rows)?, self.count(*cols, decl.cols)?);
        let (row0, col0) = (self.machine.int(*row0)?, self.machine.int(*col0)?);
        let [stream, offset, seed, threshold] = [
            self.machine.int(*stream)?,
            self.machine.int(*offset)?,
            self.machine.int(*seed)?,
            self.machine.int(*threshold)?,
        ];
        let scale = self.machine.eval(*keep_scale)?.float();
        if col0 < 0 {
            return Err(format!("column {col0}, which is negative"));
        }
        for (r, c) in (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))) {
            let (i, j) = (row0.wrapping_add(r as i64), col0.wrapping_add(c as i64));
            let keep = i64::from(rand::word(j, i, stream, offset, seed)) >= threshold;
            let value = self.get(*dst, r, c)?;
            self.tile(*dst).set(r, c, Some(if keep { value * scale } else { 0.0 }))?;
        }
        Ok(())
    }
}

/// A maximum is NaN if any element is.
fn reduce(op: ReduceOp, row: &[f64]) -> f64 {
    let nan = row.iter().any(|x| x.is_nan());
    match op {
        ReduceOp::Sum => row.iter().sum(),
        _ if nan => f64::NAN,
        ReduceOp::Max => row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x)) + 0.0,
        ReduceOp::MaxAbs => row.iter().fold(0.0, |m: f64, x| m.max(x.abs())),
    }
}
