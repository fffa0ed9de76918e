//! Products in f32: every operand exact, one fused multiply-add for each term, ascending.
//!
//! A warp takes four rows, a lane a column of each: four elements of the left operand are broadcast to all lanes, one of
//! the right is used four times.

use attn_compiler::expr::ExprId;
use attn_compiler::tile_ir::{BufId, Operand, Stmt};

use super::memory::Rows;
use super::{Lower, Result, WARP};
use crate::simt_ir::{Bin, Cmp, Slot, Space, Ty, Val};

/// Rows that a warp works on at once.
const ROWS: i64 = 4;

/// Where a right operand is read.
#[derive(Clone, Copy)]
enum Right {
    Panels((Val, Val)),
    Buffer(BufId),
    /// Element (t, x) is row x, column t.
    Columns(Rows),
    /// Element (t, x) is row t, column x.
    Rows(Rows),
}

/// What all elements of a product share.
struct Product {
    c: BufId,
    a: BufId,
    right: Right,
    rows: Val,
    k: Val,
    skip_zero: ExprId,
    row_scale: Option<BufId>,
    accumulate: bool,
}

impl Lower<'_> {
    pub(super) fn gemm(&mut self, stmt: &Stmt) -> Result<()> {
        if let Some(parts) = stmt.parts_of_product() {
            return parts.iter().try_for_each(|part| self.gemm(part));
        }
        let Stmt::Gemm { c, a, b, rows, k, n, row_scale, accumulate, skip_zero, .. } = stmt else {
            return Ok(());
        };
        let of = if let Operand::Buffer(b) = b { Some(*b) } else { None };
        let read: Vec<BufId> = [Some(*a), of, *row_scale].into_iter().flatten().collect();
        self.touch(&read, &[*c]);
        let (to_rows, to_cols) = (self.buffer(*c)?.rows, self.buffer(*c)?.cols);
        let (from_rows, from_cols) = (self.buffer(*a)?.rows, self.buffer(*a)?.cols);
        let most_k = match of {
            Some(b) => from_cols.min(self.buffer(b)?.rows),
            None => from_cols,
        };
        let rows = self.count(*rows, to_rows.min(from_rows))?;
        let (k, mut n) = (self.count(*k, most_k)?, self.count(*n, to_cols)?);
        if matches!(b, Operand::Panels(_) | Operand::Buffer(_)) {
            // Columns up to the next multiple of 16 are written, of what the operand holds there.
            let up = self.b.bin_int(Bin::Add, n, 15);
            let (up, most) = (self.b.bin_int(Bin::And, up, -16), self.b.i32(to_cols));
            n = self.b.bin(Bin::SMin, up, most);
        }
        let right = match b {
            Operand::Panels(p) => Right::Panels(self.panel(p)?),
            Operand::Buffer(b) => Right::Buffer(*b),
            Operand::Columns(src) => Right::Columns(self.rows(src)?),
            Operand::Rows(src) => Right::Rows(self.rows(src)?),
        };
        self.scalar(*skip_zero)?;
        let (row_scale, skip_zero) = (row_scale.filter(|_| *accumulate), *skip_zero);
        let product = Product { c: *c, a: *a, right, rows, k, skip_zero, row_scale, accumulate: *accumulate };
        let first = self.b.bin_int(Bin::Mul, self.warp, ROWS);
        let step = ROWS * i64::from(self.threads) / WARP;
        self.count_loop((first, rows, step), |l, r| l.lane_cols(n, |l, x| l.strip(&product, r, x)))
    }

    /// The elements of rows r.. of one column.
    fn strip(&mut self, p: &Product, r: Val, x: Val) -> Result<()> {
        let last = self.b.bin_int(Bin::Sub, p.rows, 1);
        let row = |l: &mut Self, n: i64| l.b.bin_int(Bin::Add, r, n);
        let rows: Vec<Val> = (0..ROWS).map(|n| row(self, n)).collect();
        let mut left = Vec::new();
        for &r in &rows {
            // Rows behind the last read the last.
            let r = self.b.bin(Bin::SMin, r, last);
            left.push(self.tile_row(p.a, r)?);
        }
        let zero = self.b.f32(0.0);
        let sums: Vec<Slot> = rows.iter().map(|_| self.b.slot(zero)).collect();
        let from = self.b.i32(0);
        let column = self.column_start(p.right, x)?;
        self.count_loop((from, p.k, 1), |l, t| {
            let b = l.right(p.right, column, t, x)?;
            for (start, sum) in left.iter().zip(&sums) {
                let at = l.tile_col(*start, t);
                let a = l.b.load(Space::Shared, Ty::F32, at);
                let before = l.b.get(*sum);
                let mut after = l.b.fma(a, b, before);
                if l.program.pool.as_bool(p.skip_zero) != Some(false) {
                    let skip = l.scalar(p.skip_zero)?;
                    let none = l.b.cmp(Cmp::FEq, a, zero);
                    let skip = l.b.bin(Bin::And, skip, none);
                    after = l.b.select(skip, before, after);
                }
                l.b.set(*sum, after);
            }
            Ok(())
        })?;
        for (r, sum) in rows.iter().zip(&sums) {
            let inside = self.b.cmp(Cmp::Slt, *r, p.rows);
            self.when(inside, |l| l.put(p, *r, x, *sum))?;
        }
        Ok(())
    }

    fn put(&mut self, p: &Product, r: Val, x: Val, sum: Slot) -> Result<()> {
        let mut value = self.b.get(sum);
        if p.accumulate {
            let old = self.tile_get(p.c, r, x)?;
            value = match p.row_scale {
                Some(v) => {
                    let scale = self.vec_get(v, r)?;
                    self.b.fma(old, scale, value)
                }
                None => self.b.bin(Bin::FAdd, old, value),
            };
        }
        self.tile_set(p.c, r, x, value)
    }

    /// What the elements of a column share.
    fn column_start(&mut self, right: Right, x: Val) -> Result<Option<Val>> {
        Ok(match right {
            Right::Columns(rows) => Some(self.row_start(rows, x)),
            Right::Rows(rows) => Some(self.along(rows, rows.base, x)),
            Right::Panels(_) | Right::Buffer(_) => None,
        })
    }

    /// Element (t, x) of a right operand.
    fn right(&mut self, right: Right, column: Option<Val>, t: Val, x: Val) -> Result<Val> {
        Ok(match (right, column) {
            (Right::Panels(p), _) => {
                let at = self.panel_element(p, t, x);
                self.b.load(Space::Global, Ty::F32, at)
            }
            (Right::Buffer(b), _) => self.tile_get(b, t, x)?,
            (Right::Columns(rows), start) => {
                let at = self.along(rows, start.unwrap_or(rows.base), t);
                self.load_number(rows.dtype, at)
            }
            (Right::Rows(rows), start) => {
                let from = Rows { base: start.unwrap_or(rows.base), ..rows };
                let at = self.row_start(from, t);
                self.load_number(rows.dtype, at)
            }
        })
    }
}
