//! Statements on tiles in registers ([`super::layout`]).
//!
//! Every thread holds two rows (g and g + 8 of its warp's sixteen) of each tile and walks its own elements, written out
//! one after the other. Rows behind the last hold whatever; no row looks at another. A row's four lanes combine by two
//! shuffles.

use attn_compiler::artifact::DType;
use attn_compiler::expr::eval::Value;
use attn_compiler::expr::range::Range;
use attn_compiler::expr::{ExprId, VarId};
use attn_compiler::tile_ir::{Access, BufId, BufRows, RowsRef, Stmt, WeightKind};

use super::layout::{Place, WARP_ROWS};
use super::memory::Rows;
use super::{Lower, Result};
use crate::GpuError;
use crate::simt_ir::{Bin, Cmp, Inst, Slot, Space, Ty, Un, Val};

/// Where rows of a fragment go.
pub(super) struct RowStore {
    slots: Vec<Slot>,
    to: Rows,
    d: Val,
    /// The factor of each of the two rows.
    scale: Option<[Slot; 2]>,
    /// Whether two columns can be stored together, and are bf16.
    pairs: Option<(Val, bool)>,
}

/// The column of a register behind the first of its thread.
const fn column_of(n: usize) -> i64 {
    (n / 4 * 8 + n % 2) as i64
}

impl Lower<'_> {
    /// Where a tile lies, if this launch has fragments.
    pub(super) fn place(&self, b: BufId) -> Option<Place> {
        self.layouts.as_ref().and_then(|l| l.places.get(&b)).copied()
    }

    /// Registers for every tile that lies in them.
    pub(super) fn make_registers(&mut self) {
        for n in 0..self.launch.buffers.len() {
            let (b, cols) = (BufId(n as u32), self.launch.buffers[n].cols);
            let count = match self.place(b) {
                Some(Place::Fragment) => cols / 8 * 4,
                Some(Place::State) => 2,
                Some(Place::Half(_)) | None => continue,
            };
            let slots = (0..count).map(|_| self.b.empty_slot(Ty::F32)).collect();
            self.registers.insert(b, slots);
        }
        let lane_row = self.b.bin_int(Bin::LShr, self.lane, 2);
        let first = self.b.bin_int(Bin::Mul, self.warp, WARP_ROWS);
        self.row = self.b.bin(Bin::Add, first, lane_row);
        let quad = self.b.bin_int(Bin::And, self.lane, 3);
        self.col = self.b.bin_int(Bin::Shl, quad, 1);
    }

    /// The registers of a fragment.
    pub(super) fn fragment(&self, b: BufId) -> Result<Vec<Slot>> {
        let missing = || GpuError::internal("fragments", "a tile in registers", format!("{b:?}"));
        self.registers.get(&b).cloned().ok_or_else(missing)
    }

    /// The two registers of a state.
    pub(super) fn state(&self, b: BufId) -> Result<[Slot; 2]> {
        match self.fragment(b)?.as_slice() {
            &[low, high] => Ok([low, high]),
            _ => Err(GpuError::internal("fragments", "a value for each row", format!("{b:?}"))),
        }
    }

    /// The two rows of this thread.
    pub(super) fn own_rows(&mut self) -> [Val; 2] {
        [self.row, self.b.bin_int(Bin::Add, self.row, 8)]
    }

    /// The column of a register. One that does not change in a loop would take a register all through it: its constant is
    /// added last ([`Lower::constants_last`]).
    fn column(&mut self, n: usize) -> Val {
        // Numbers that are drawn for columns keep those in registers anyway.
        match self.draws {
            true => self.b.bin_int(Bin::Add, self.col, column_of(n)),
            false => self.and_constant(self.col, column_of(n)),
        }
    }

    pub(super) fn fill_registers(&mut self, dst: BufId, value: f64) -> Result<()> {
        let x = self.b.f32(value as f32);
        self.fragment(dst)?.into_iter().for_each(|s| self.b.set(s, x));
        Ok(())
    }

    pub(super) fn map_registers(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::Map { dst, row, col, reads, value, .. } = stmt else { return Ok(()) };
        let (slots, rows) = (self.fragment(*dst)?, self.own_rows());
        let most_cols = self.buffer(*dst)?.cols;
        let varying: Vec<VarId> = reads.iter().map(|r| r.0).chain([*row, *col]).collect();
        self.hoist(*value, &varying)?;
        // Rows behind the last are rows of the last warps.
        let row_range = Range { lo: 0, hi: i64::from(self.threads) / 2 - 1 };
        let vector = most_cols == 1;
        for (half, own_row) in rows.into_iter().enumerate() {
            self.inline_scope(|l| {
                l.bind(*row, own_row, row_range);
                let within: Vec<VarId> = reads.iter().map(|r| r.0).chain([*col]).collect();
                l.hoist(*value, &within)?;
                for (n, slot) in slots.iter().enumerate() {
                    let own = if vector { n == half } else { n / 2 % 2 == half };
                    if own {
                        l.map_element(stmt, (n, half, vector), *slot)?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn map_element(
        &mut self,
        stmt: &Stmt,
        (n, half, vector): (usize, usize, bool),
        slot: Slot,
    ) -> Result<()> {
        let Stmt::Map { dst, col, reads, value, .. } = stmt else { return Ok(()) };
        let most_cols = self.buffer(*dst)?.cols;
        self.inline_scope(|l| {
            for &(var, buf, access) in reads {
                let from = l.fragment(buf)?;
                let at = if access == Access::Row || vector { half } else { n };
                let x = l.b.get(from[at]);
                l.bind(var, x, Range::ALL);
            }
            let c = if vector { l.b.i32(0) } else { l.column(n) };
            l.bind(*col, c, Range { lo: 0, hi: most_cols - 1 });
            let x = l.scalar(*value)?;
            l.b.set(slot, x);
            Ok(())
        })
    }

    /// Combines a value of the four lanes that share a row; all get the result.
    fn across_row(&mut self, v: Val, op: Bin) -> Val {
        let other = self.b.shfl(v, 1);
        let v = self.b.bin(op, v, other);
        let other = self.b.shfl(v, 2);
        self.b.bin(op, v, other)
    }

    /// Columns behind the last become -inf; nothing is done with a whole tile.
    fn mask_behind(&mut self, s: BufId, cols: ExprId) -> Result<()> {
        let (slots, width) = (self.fragment(s)?, self.buffer(s)?.cols);
        let cols = self.count(cols, width)?;
        let all = self.b.i32(width);
        let partial = self.b.cmp(Cmp::Slt, cols, all);
        self.when(partial, |l| {
            let none = l.b.f32(f32::NEG_INFINITY);
            // Against constants, as in `column`.
            let left = l.b.bin(Bin::Sub, cols, l.col);
            for (n, slot) in slots.iter().enumerate() {
                let x = l.b.get(*slot);
                let (c, end) = if l.draws { (l.column(n), cols) } else { (l.b.i32(column_of(n)), left) };
                let inside = l.b.cmp(Cmp::Slt, c, end);
                let x = l.b.select(inside, x, none);
                l.b.set(*slot, x);
            }
            Ok(())
        })
    }

    /// The largest scaled score of both rows and of what was before, and the factor that scores still need: that of a
    /// known positive scale is left to the exponential; others are multiplied into the registers.
    fn largest(&mut self, s: BufId, cols: ExprId, scale: ExprId, row_max: BufId) -> Result<([Val; 2], Val)> {
        self.mask_behind(s, cols)?;
        let positive =
            matches!(self.program.pool.as_const(scale), Some(Value::Float(x)) if x > 0.0 && x.is_finite());
        let (scale, one, none) = (self.scalar(scale)?, self.b.f32(1.0), self.b.f32(f32::NEG_INFINITY));
        let mut most = [none; 2];
        for (n, slot) in self.fragment(s)?.into_iter().enumerate() {
            let mut x = self.b.get(slot);
            if !positive {
                x = self.scaled(x, scale).0;
                self.b.set(slot, x);
            }
            let half = n / 2 % 2;
            most[half] = self.b.bin(Bin::FMax, most[half], x);
        }
        let old = self.state(row_max)?.map(|s| self.b.get(s));
        let mut new = most.map(|m| self.across_row(m, Bin::FMax));
        for (m, old) in new.iter_mut().zip(old) {
            if positive {
                *m = self.b.bin(Bin::FMul, *m, scale);
            }
            *m = self.b.bin(Bin::FMax, old, *m);
        }
        Ok((new, if positive { scale } else { one }))
    }

    /// Weights are not kept above zero: products on the tensor cores leave no term out.
    pub(super) fn softmax_registers(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::SoftmaxStep { s, cols, scale, row_max, row_sum, alpha, .. } = stmt else { return Ok(()) };
        let old = self.state(*row_max)?.map(|s| self.b.get(s));
        let (new, factor) = self.largest(*s, *cols, *scale, *row_max)?;
        let (none, zero, log2e) =
            (self.b.f32(f32::NEG_INFINITY), self.b.f32(0.0), self.b.f32(std::f32::consts::LOG2_E));
        let by = self.b.bin(Bin::FMul, factor, log2e);
        // What is subtracted is finite, so that a row that has seen nothing gives 0 and not NaN.
        let below = new.map(|m| {
            let empty = self.b.cmp(Cmp::FEq, m, none);
            let m = self.b.select(empty, zero, m);
            let m = self.b.bin(Bin::FMul, m, log2e);
            self.b.un(Un::FNeg, m)
        });
        let mut sums = [zero; 2];
        for (n, slot) in self.fragment(*s)?.into_iter().enumerate() {
            let half = n / 2 % 2;
            let x = self.b.get(slot);
            let t = self.b.fma(x, by, below[half]);
            let p = self.b.un(Un::Ex2, t);
            self.b.set(slot, p);
            sums[half] = self.b.bin(Bin::FAdd, sums[half], p);
        }
        let (maxes, totals, factors) = (self.state(*row_max)?, self.state(*row_sum)?, self.state(*alpha)?);
        for half in 0..2 {
            let sum = self.across_row(sums[half], Bin::FAdd);
            let factor = self.rescaling(old[half], new[half]);
            let before = self.b.get(totals[half]);
            let total = self.b.fma(before, factor, sum);
            self.b.set(totals[half], total);
            self.b.set(maxes[half], new[half]);
            self.b.set(factors[half], factor);
        }
        Ok(())
    }

    pub(super) fn weight_registers(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::WeightStep { kind, s, cols, scale, row_max, .. } = stmt else { return Ok(()) };
        let (new, factor) = self.largest(*s, *cols, *scale, *row_max)?;
        let (none, zero) = (self.b.f32(f32::NEG_INFINITY), self.b.f32(0.0));
        for slot in self.fragment(*s)? {
            let x = self.b.get(slot);
            let (x, masked) = (self.b.bin(Bin::FMul, x, factor), self.b.cmp(Cmp::FEq, x, none));
            let weight = match kind {
                WeightKind::Sigmoid => self.sigmoid(x),
                WeightKind::Relu => {
                    let negative = self.b.cmp(Cmp::FLt, x, zero);
                    self.b.select(negative, zero, x)
                }
                WeightKind::Plain => x,
            };
            let weight = self.b.select(masked, zero, weight);
            self.b.set(slot, weight);
        }
        for (slot, m) in self.state(*row_max)?.into_iter().zip(new) {
            self.b.set(slot, m);
        }
        Ok(())
    }

    pub(super) fn finish_registers(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::FinishSoftmax { row_max, row_sum, sink, inv_sum, lse, .. } = stmt else { return Ok(()) };
        let sink = self.scalar(*sink)?;
        let (maxes, sums) = (self.state(*row_max)?, self.state(*row_sum)?);
        let (inverses, logs) = (self.state(*inv_sum)?, self.state(*lse)?);
        for half in 0..2 {
            let (max, sum) = (self.b.get(maxes[half]), self.b.get(sums[half]));
            let (inverse, log) = self.finished(max, sum, sink);
            self.b.set(inverses[half], inverse);
            self.b.set(logs[half], log);
        }
        Ok(())
    }

    pub(super) fn random_registers(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::Random { dst, .. } = stmt else { return Ok(()) };
        let draw = self.draw(stmt)?;
        let rows = self.own_rows();
        for (n, slot) in self.fragment(*dst)?.into_iter().enumerate() {
            let (c, x) = (self.column(n), self.b.get(slot));
            let x = self.dropped(&draw, rows[n / 2 % 2], c, x);
            self.b.set(slot, x);
        }
        Ok(())
    }

    /// Which of this thread's rows lie in first..first + rows, and where each lies behind `first`.
    fn stored_rows(&mut self, src: &BufRows, rows: ExprId) -> Result<[(Val, Val); 2]> {
        let most = self.buffer(src.buf)?.rows;
        let rows = self.count(rows, most)?;
        let first = match src.first {
            Some(first) => self.count(first, most)?,
            None => self.b.i32(0),
        };
        let zero = self.b.i32(0);
        Ok(self.own_rows().map(|r| {
            let at = self.b.bin(Bin::Sub, r, first);
            let (from, before) = (self.b.cmp(Cmp::Sle, zero, at), self.b.cmp(Cmp::Slt, at, rows));
            (self.b.bin(Bin::And, from, before), at)
        }))
    }

    pub(super) fn store_registers(
        &mut self,
        dst: &RowsRef,
        src: &BufRows,
        (rows, d): (ExprId, ExprId),
        row_scale: Option<BufId>,
    ) -> Result<()> {
        let own = self.stored_rows(src, rows)?;
        let to = self.row_store(dst, src.buf, d, row_scale)?;
        for (half, (inside, at)) in own.into_iter().enumerate() {
            self.when(inside, |l| l.store_row(&to, half, at))?;
        }
        Ok(())
    }

    /// Where rows of a fragment go.
    pub(super) fn row_store(
        &mut self,
        dst: &RowsRef,
        buf: BufId,
        d: ExprId,
        row_scale: Option<BufId>,
    ) -> Result<RowStore> {
        let (slots, width) = (self.fragment(buf)?, self.buffer(buf)?.cols);
        let (d, to) = (self.count(d, width)?, self.rows(dst)?);
        let scale = row_scale.map(|v| self.state(v)).transpose()?;
        let pairs = self.pairs_fit(to, d);
        Ok(RowStore { slots, to, d, scale, pairs })
    }

    /// Stores one of this thread's two rows as row `at`.
    pub(super) fn store_row(&mut self, store: &RowStore, half: usize, at: Val) -> Result<()> {
        let (to, d) = (store.to, store.d);
        let start = self.row_start(to, at);
        let scale = store.scale.map(|s| self.b.get(s[half]));
        let mut values = Vec::new();
        for (n, slot) in store.slots.iter().enumerate().filter(|(n, _)| n / 2 % 2 == half) {
            let x = self.b.get(*slot);
            values.push((n, scale.map_or(x, |s| self.times_scale(x, s))));
        }
        let Some((cond, bf16)) = store.pairs else { return self.store_each(to, start, d, &values) };
        let otherwise = self.scoped(|l| l.store_each(to, start, d, &values))?;
        let then = self.scoped(|l| l.store_pairs(to, start, d, (&values, bf16)))?;
        self.b.push(Inst::If { cond, then, otherwise });
        Ok(())
    }

    /// Can two 16-bit columns be stored together: do columns lie without gaps, rows at multiples of 4 bytes, is their count
    /// even? And are they bf16? Nothing for other types.
    fn pairs_fit(&mut self, to: Rows, d: Val) -> Option<(Val, bool)> {
        let bf16 = match to.dtype {
            DType::Bf16 => true,
            DType::F16 => false,
            _ => return None,
        };
        let (two, zero) = (self.b.i64(2), self.b.i64(0));
        let dense = self.b.cmp(Cmp::Eq, to.by_col, two);
        let starts = self.b.bin(Bin::Or, to.base, to.by_row);
        let off = self.b.bin_int(Bin::And, starts, 3);
        let aligned = self.b.cmp(Cmp::Eq, off, zero);
        let odd = self.b.bin_int(Bin::And, d, 1);
        let none = self.b.i32(0);
        let even = self.b.cmp(Cmp::Eq, odd, none);
        let both = self.b.bin(Bin::And, dense, aligned);
        Some((self.b.bin(Bin::And, both, even), bf16))
    }

    fn store_each(&mut self, to: Rows, start: Val, d: Val, values: &[(usize, Val)]) -> Result<()> {
        for (n, x) in values {
            let c = self.column(*n);
            let has = self.b.cmp(Cmp::Slt, c, d);
            self.when(has, |l| {
                let addr = l.along(to, start, c);
                l.store_number(to.dtype, addr, *x)
            })?;
        }
        Ok(())
    }

    fn store_pairs(
        &mut self,
        to: Rows,
        start: Val,
        d: Val,
        (values, bf16): (&[(usize, Val)], bool),
    ) -> Result<()> {
        for pair in values.chunks_exact(2) {
            let c = self.column(pair[0].0);
            let has = self.b.cmp(Cmp::Slt, c, d);
            self.when(has, |l| {
                let addr = l.along(to, start, c);
                let both = l.b.pack(bf16, pair[0].1, pair[1].1);
                l.b.store(Space::Global, addr, both);
                Ok(())
            })?;
        }
        Ok(())
    }

    pub(super) fn store_state(&mut self, dst: &RowsRef, src: &BufRows, rows: ExprId) -> Result<()> {
        let slots = self.state(src.buf)?;
        let own = self.stored_rows(src, rows)?;
        let to = self.rows(dst)?;
        for (slot, (inside, at)) in slots.into_iter().zip(own) {
            self.store_state_of(to, (inside, at), slot)?;
        }
        Ok(())
    }

    /// Stores the value of a row, which four lanes have, as row `at` if that is there.
    pub(super) fn store_state_of(&mut self, to: Rows, (inside, at): (Val, Val), slot: Slot) -> Result<()> {
        let (zero, quad) = (self.b.i32(0), self.b.bin_int(Bin::And, self.lane, 3));
        let leads = self.b.cmp(Cmp::Eq, quad, zero);
        let own = self.b.bin(Bin::And, leads, inside);
        self.when(own, |l| {
            let (addr, x) = (l.row_start(to, at), l.b.get(slot));
            l.store_number(to.dtype, addr, x)
        })
    }
}
