//! Statements that move, map and store tiles in shared memory.
//!
//! Each warp takes rows, its lanes take columns; vectors are spread over the threads of the block.

use attn_compiler::artifact::{MathFn, PANEL};
use attn_compiler::expr::range::Range;
use attn_compiler::expr::{ExprId, Op as E, TensorId, VarId};
use attn_compiler::tile_ir::{Access, BufId, BufRows, PanelRef, RowsRef, Stmt};

use super::sync::SCRATCH;
use super::{Lower, Result};
use crate::GpuError;
use crate::simt_ir::{Bin, Cast, Cmp, Space, Ty, Val};

/// The reads of a map.
type Reads<'a> = &'a [(VarId, BufId, Access)];

/// What all elements of a random statement share.
pub(super) struct Draw {
    row0: Val,
    col0: Val,
    stream: Val,
    offset: Val,
    key: [Val; 2],
    threshold: Val,
    scale: Val,
}

impl Lower<'_> {
    pub(super) fn fill(&mut self, dst: BufId, value: f64) -> Result<()> {
        self.touch(&[], &[dst]);
        let (rows, cols) = (self.buffer(dst)?.rows, self.buffer(dst)?.cols);
        let (n, x) = (self.b.i32(rows * cols), self.b.f32(value as f32));
        let place = i64::from(self.places[dst.0 as usize]);
        self.each_thread(n, |l, i| {
            let at = l.b.bin_int(Bin::Shl, i, 2);
            let at = l.b.bin_int(Bin::Add, at, place);
            l.b.store(Space::Shared, at, x);
            Ok(())
        })
    }

    /// The first of some rows of a buffer, and how many.
    fn part(&mut self, part: &BufRows, rows: ExprId) -> Result<(Val, Val)> {
        let most = self.buffer(part.buf)?.rows;
        let first = match part.first {
            Some(first) => self.count(first, most)?,
            None => self.b.i32(0),
        };
        let rows = self.count(rows, most)?;
        if part.first.is_none() {
            return Ok((first, rows));
        }
        let most = self.b.i32(most);
        let left = self.b.bin(Bin::Sub, most, first);
        Ok((first, self.b.bin(Bin::SMin, rows, left)))
    }

    pub(super) fn load_rows(&mut self, dst: &BufRows, src: &RowsRef, rows: ExprId, d: ExprId) -> Result<()> {
        self.touch(&[], &[dst.buf]);
        let cols = self.buffer(dst.buf)?.cols;
        let (first, rows) = self.part(dst, rows)?;
        let d = self.count(d, cols)?;
        let from = self.rows(src)?;
        let all = self.b.i32(cols);
        self.warp_rows(rows, |l, r| {
            let at = l.b.bin(Bin::Add, first, r);
            let (to, start) = (l.tile_row(dst.buf, at)?, l.row_start(from, r));
            l.lane_cols(all, |l, x| {
                let zero = l.b.f32(0.0);
                let slot = l.b.slot(zero);
                let inside = l.b.cmp(Cmp::Slt, x, d);
                l.when(inside, |l| {
                    let addr = l.along(from, start, x);
                    let value = l.load_number(from.dtype, addr);
                    l.b.set(slot, value);
                    Ok(())
                })?;
                let (at, value) = (l.tile_col(to, x), l.b.get(slot));
                l.b.store(Space::Shared, at, value);
                Ok(())
            })
        })
    }

    /// Address of element (t, x) of a panel.
    pub(super) fn panel(&mut self, p: &PanelRef) -> Result<(Val, Val)> {
        let base = self.flat_at(p.tensor, p.offset)?;
        let stride = self.int64(p.panel_stride)?;
        Ok((base, self.b.bin_int(Bin::Shl, stride, 2)))
    }

    /// Address of element (t, x), both I32, of a panel.
    pub(super) fn panel_element(&mut self, (base, stride): (Val, Val), t: Val, x: Val) -> Val {
        let panel = self.b.bin_int(Bin::AShr, x, 5);
        let panel = self.b.cast(Cast::SExt, Ty::I64, panel);
        let start = self.b.bin(Bin::Mul, panel, stride);
        let lane = self.b.bin_int(Bin::And, x, PANEL as i64 - 1);
        let row = self.b.bin_int(Bin::Shl, t, 5);
        let within = self.b.bin(Bin::Add, row, lane);
        let within = self.b.bin_int(Bin::Shl, within, 2);
        let within = self.b.cast(Cast::SExt, Ty::I64, within);
        let at = self.b.bin(Bin::Add, base, start);
        self.b.bin(Bin::Add, at, within)
    }

    /// `n` rounded up to whole panels.
    fn padded(&mut self, n: Val) -> Val {
        let up = self.b.bin_int(Bin::Add, n, PANEL as i64 - 1);
        self.b.bin_int(Bin::And, up, -(PANEL as i64))
    }

    pub(super) fn pack_k(&mut self, dst: &PanelRef, src: &RowsRef, n: ExprId, d: i64) -> Result<()> {
        let n = self.count(n, i64::from(i32::MAX) - PANEL as i64)?;
        let (from, to) = (self.rows(src)?, self.panel(dst)?);
        let (all, d) = (self.padded(n), self.b.i32(d));
        self.warp_rows(d, |l, x| {
            l.lane_cols(all, |l, j| {
                let value = l.number_or_zero(from, (j, x), (j, n))?;
                let at = l.panel_element(to, x, j);
                l.b.store(Space::Global, at, value);
                Ok(())
            })
        })
    }

    /// Element (r, x) of rows, 0 unless `at < end`.
    pub(super) fn number_or_zero(
        &mut self,
        from: super::memory::Rows,
        (r, x): (Val, Val),
        (at, end): (Val, Val),
    ) -> Result<Val> {
        let zero = self.b.f32(0.0);
        let slot = self.b.slot(zero);
        let inside = self.b.cmp(Cmp::Slt, at, end);
        self.when(inside, |l| {
            let addr = l.row_element(from, r, x);
            let value = l.load_number(from.dtype, addr);
            l.b.set(slot, value);
            Ok(())
        })?;
        Ok(self.b.get(slot))
    }

    pub(super) fn pack_v(
        &mut self,
        dst: &PanelRef,
        src: &RowsRef,
        (n, d): (ExprId, i64),
        flag: &(TensorId, Vec<ExprId>),
    ) -> Result<()> {
        let n = self.count(n, i64::from(i32::MAX))?;
        let (from, to) = (self.rows(src)?, self.panel(dst)?);
        let features = self.b.i32(d);
        let all = self.padded(features);
        let zero = self.b.i32(0);
        let bad = self.b.slot(zero);
        self.warp_rows(n, |l, j| {
            l.lane_cols(all, |l, x| {
                let value = l.number_or_zero(from, (j, x), (x, features))?;
                let at = l.panel_element(to, j, x);
                l.b.store(Space::Global, at, value);
                // x - x is 0 of finite numbers only.
                let (difference, none) = (l.b.bin(Bin::FSub, value, value), l.b.f32(0.0));
                let infinite = l.b.cmp(Cmp::FNe, difference, none);
                let (one, old) = (l.b.i32(1), l.b.get(bad));
                let new = l.b.select(infinite, one, old);
                l.b.set(bad, new);
                Ok(())
            })
        })?;
        let own = self.b.get(bad);
        let any = self.block_or(own)?;
        let index = flag.1.iter().map(|x| self.scalar(*x)).collect::<Result<Vec<_>>>()?;
        let dtype = self.tensor(flag.0)?.dtype;
        self.one_thread(|l| {
            let mut offset = l.b.i64(0);
            for (dim, at) in index.iter().enumerate() {
                let at = l.b.cast(Cast::SExt, Ty::I64, *at);
                let stride = l.word(l.layout.stride(flag.0.0 as usize, dim));
                let part = l.b.bin(Bin::Mul, at, stride);
                offset = l.b.bin(Bin::Add, offset, part);
            }
            let base = l.word(l.layout.address(flag.0.0 as usize));
            let bytes = l.b.bin_int(Bin::Shl, offset, 2);
            let at = l.b.bin(Bin::Add, base, bytes);
            l.store_value(dtype, at, any)
        })
    }

    /// Bits of the I32 values of all threads of the block.
    fn block_or(&mut self, v: Val) -> Result<Val> {
        let at = self.scratch(self.threads / 8);
        self.touch(&[], &[SCRATCH]);
        let mut v = v;
        for mask in [16, 8, 4, 2, 1] {
            let other = self.b.shfl(v, mask);
            v = self.b.bin(Bin::Or, v, other);
        }
        let zero = self.b.i32(0);
        let leader = self.b.cmp(Cmp::Eq, self.lane, zero);
        self.when(leader, |l| {
            let place = l.b.bin_int(Bin::Shl, l.warp, 2);
            let place = l.b.bin_int(Bin::Add, place, i64::from(at));
            l.b.store(Space::Shared, place, v);
            Ok(())
        })?;
        self.touch(&[SCRATCH], &[]);
        let mut all = zero;
        for warp in 0..self.threads / 32 {
            let place = self.b.i32(i64::from(at + warp * 4));
            let part = self.b.load(Space::Shared, Ty::I32, place);
            all = self.b.bin(Bin::Or, all, part);
        }
        Ok(all)
    }

    /// Computes, before a loop, the parts of an expression that depend on none of the variables.
    pub(super) fn hoist(&mut self, value: ExprId, varying: &[VarId]) -> Result<()> {
        let program = self.program;
        let pool = &program.pool;
        let order = pool.reachable(&[value]);
        let mut depends = rustc_hash::FxHashMap::default();
        for &id in &order {
            let own = matches!(pool.op(id), E::Var(v) if varying.contains(v));
            let any = own || pool.operands(id).iter().any(|x| depends[x]);
            depends.insert(id, any);
        }
        for &id in order.iter().filter(|id| depends[id]) {
            for x in pool.operands(id) {
                if !depends[&x] {
                    self.scalar(x)?;
                }
            }
        }
        if !depends[&value] {
            self.scalar(value)?;
        }
        Ok(())
    }

    /// Fewest rows and columns of the buffers of a map.
    fn limits(&self, dst: Option<BufId>, reads: Reads<'_>) -> Result<(i64, i64)> {
        let most = i64::from(i32::MAX);
        let (mut rows, mut cols) = match dst {
            Some(dst) => (self.buffer(dst)?.rows, self.buffer(dst)?.cols),
            None => (most, most),
        };
        for &(_, buf, access) in reads {
            let b = self.buffer(buf)?;
            rows = if access == Access::Col { rows } else { rows.min(b.rows) };
            cols = if access == Access::Row { cols } else { cols.min(b.cols) };
        }
        Ok((rows, cols))
    }

    /// Every element of a map: `f` gets row, column and the value.
    fn elements(
        &mut self,
        (dst, reads, value): (Option<BufId>, Reads<'_>, ExprId),
        (rows, cols): (ExprId, ExprId),
        (row, col): (VarId, VarId),
        f: impl Fn(&mut Self, Val, Val, Val) -> Result<()>,
    ) -> Result<()> {
        let (most_rows, most_cols) = self.limits(dst, reads)?;
        let (rows, cols) = (self.count(rows, most_rows)?, self.count(cols, most_cols)?);
        let varying: Vec<VarId> = reads.iter().map(|r| r.0).chain([row, col]).collect();
        self.hoist(value, &varying)?;
        let (row_range, col_range) = (Range { lo: 0, hi: most_rows - 1 }, Range { lo: 0, hi: most_cols - 1 });
        let element = |l: &mut Self, r: Val, c: Val| -> Result<()> {
            for &(var, buf, access) in reads {
                let zero = l.b.i32(0);
                let x = match access {
                    Access::Tile => l.tile_get(buf, r, c)?,
                    Access::Row => l.vec_get(buf, r)?,
                    Access::Col => l.tile_get(buf, zero, c)?,
                };
                l.bind(var, x, Range::ALL);
            }
            l.bind(col, c, col_range);
            let x = l.scalar(value)?;
            f(l, r, c, x)
        };
        if most_cols == 1 {
            return self.each_thread(rows, |l, r| {
                let zero = l.b.i32(0);
                l.bind(row, r, row_range);
                let one = l.b.cmp(Cmp::Slt, zero, cols);
                l.when(one, |l| element(l, r, zero))
            });
        }
        self.warp_rows(rows, |l, r| {
            l.bind(row, r, row_range);
            let row_varying: Vec<VarId> = reads.iter().map(|r| r.0).chain([col]).collect();
            l.hoist(value, &row_varying)?;
            l.lane_cols(cols, |l, c| element(l, r, c))
        })
    }

    pub(super) fn map(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::Map { dst, rows, cols, row, col, reads, value } = stmt else { return Ok(()) };
        // An element is read and written by one thread; what is read as a row or a column is not written.
        let read: Vec<BufId> = reads.iter().map(|r| r.1).filter(|b| b != dst).collect();
        self.touch(&read, &[*dst]);
        self.elements((Some(*dst), reads, *value), (*rows, *cols), (*row, *col), |l, r, c, x| {
            l.tile_set(*dst, r, c, x)
        })
    }

    pub(super) fn store_map(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::StoreMap { dst, rows, cols, row, col, reads, value } = stmt else { return Ok(()) };
        let read: Vec<BufId> = reads.iter().map(|r| r.1).collect();
        self.touch(&read, &[]);
        let to = self.rows(dst)?;
        let one_dim = dst.row_dim == dst.col_dim;
        self.elements((None, reads, *value), (*rows, *cols), (*row, *col), |l, r, c, x| {
            let at = if one_dim { l.row_start(to, r) } else { l.row_element(to, r, c) };
            l.store_value(to.dtype, at, x)
        })
    }

    /// Changes every element of a tile in place: `f` gets row, column and the element.
    pub(super) fn in_place(
        &mut self,
        s: BufId,
        (rows, cols): (Val, Val),
        f: impl FnOnce(&mut Self, Val, Val, Val) -> Result<Val>,
    ) -> Result<()> {
        self.warp_rows(rows, |l, r| {
            let start = l.tile_row(s, r)?;
            l.lane_cols(cols, |l, c| {
                let at = l.tile_col(start, c);
                let x = l.b.load(Space::Shared, Ty::F32, at);
                let y = f(l, r, c, x)?;
                l.b.store(Space::Shared, at, y);
                Ok(())
            })
        })
    }

    /// Counts of a tile, cut to its size.
    pub(super) fn tile_counts(&mut self, s: BufId, rows: ExprId, cols: ExprId) -> Result<(Val, Val)> {
        let (most_rows, most_cols) = (self.buffer(s)?.rows, self.buffer(s)?.cols);
        Ok((self.count(rows, most_rows)?, self.count(cols, most_cols)?))
    }

    pub(super) fn band(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::Band { s, rows, cols, period, from, to } = stmt else { return Ok(()) };
        self.touch(&[], &[*s]);
        let (rows, cols) = self.tile_counts(*s, *rows, *cols)?;
        let period = self.int64(*period)?;
        let (first, end) = (self.int64(from.at)?, self.int64(to.at)?);
        let (from_step, to_step) = (from.step, to.step);
        self.in_place(*s, (rows, cols), |l, r, c, x| {
            let (r, c) = (l.b.cast(Cast::SExt, Ty::I64, r), l.b.cast(Cast::SExt, Ty::I64, c));
            let (zero, one) = (l.b.i64(0), l.b.i64(1));
            let some = l.b.cmp(Cmp::Slt, zero, period);
            let by = l.b.select(some, period, one);
            let whole = l.b.bin(Bin::SDiv, r, by);
            let back = l.b.bin(Bin::Mul, whole, by);
            let within = l.b.bin(Bin::Sub, r, back);
            let p = l.b.select(some, within, r);
            let by_first = l.b.bin_int(Bin::Mul, p, from_step);
            let by_end = l.b.bin_int(Bin::Mul, p, to_step);
            let (first, end) = (l.b.bin(Bin::Add, first, by_first), l.b.bin(Bin::Add, end, by_end));
            let (after, before) = (l.b.cmp(Cmp::Sle, first, c), l.b.cmp(Cmp::Slt, c, end));
            let seen = l.b.bin(Bin::And, after, before);
            let none = l.b.f32(f32::NEG_INFINITY);
            Ok(l.b.select(seen, x, none))
        })
    }

    pub(super) fn affine(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::Affine { dst, rows, cols, scale, factor, term, diagonal, keep_zero } = stmt else {
            return Ok(());
        };
        let read: Vec<BufId> = factor.iter().chain(term).copied().collect();
        self.touch(&read, &[*dst]);
        let (rows, cols) = self.tile_counts(*dst, *rows, *cols)?;
        let scale = self.scalar(*scale)?;
        self.in_place(*dst, (rows, cols), |l, r, c, x| {
            let zero = l.b.i32(0);
            let mut by = scale;
            if let Some(factor) = factor {
                let f = l.tile_get(*factor, zero, c)?;
                by = l.b.bin(Bin::FMul, by, f);
            }
            let mut y = l.b.bin(Bin::FMul, x, by);
            if let Some(term) = term {
                let mut at = c;
                if *diagonal {
                    let last = l.b.bin_int(Bin::Sub, rows, 1);
                    let back = l.b.bin(Bin::Sub, last, r);
                    at = l.b.bin(Bin::Add, back, c);
                }
                let t = l.tile_get(*term, zero, at)?;
                y = l.b.bin(Bin::FAdd, y, t);
            }
            if *keep_zero {
                let none = l.b.f32(0.0);
                let is_zero = l.b.cmp(Cmp::FEq, x, none);
                y = l.b.select(is_zero, none, y);
            }
            Ok(y)
        })
    }

    pub(super) fn math(&mut self, f: MathFn, dst: BufId, rows: ExprId) -> Result<()> {
        self.touch(&[], &[dst]);
        let (most, cols) = (self.buffer(dst)?.rows, self.buffer(dst)?.cols);
        let (rows, cols) = (self.count(rows, most)?, self.b.i32(cols));
        self.in_place(dst, (rows, cols), |l, _, _, x| {
            Ok(match f {
                MathFn::Exp => l.exp(x),
                MathFn::Exp2 => l.exp2(x),
                MathFn::Log => l.log(x),
                MathFn::Log2 => l.log2(x),
                MathFn::Tanh => l.tanh(x),
                MathFn::Sigmoid => l.sigmoid(x),
                MathFn::Sin => l.trig(x, 0),
                MathFn::Cos => l.trig(x, 1),
            })
        })
    }

    /// Clears tiles of which functions are taken over all columns, written or not.
    pub(super) fn clear_whole(&mut self, stmts: &[Stmt]) -> Result<()> {
        stmts.iter().try_for_each(|stmt| match stmt {
            Stmt::For { body, .. } => self.clear_whole(body),
            Stmt::If { then, otherwise, .. } => {
                self.clear_whole(then)?;
                self.clear_whole(otherwise)
            }
            Stmt::Math { dst, .. } => self.fill(*dst, 0.0),
            _ => Ok(()),
        })
    }

    pub(super) fn transpose(&mut self, dst: BufId, src: BufId, (rows, cols): (ExprId, ExprId)) -> Result<()> {
        self.touch(&[src], &[dst]);
        let (to_rows, to_cols) = (self.buffer(dst)?.rows, self.buffer(dst)?.cols);
        let (from_rows, from_cols) = (self.buffer(src)?.rows, self.buffer(src)?.cols);
        let rows = self.count(rows, from_rows.min(to_cols))?;
        let cols = self.count(cols, from_cols.min(to_rows))?;
        let width = self.b.i32(to_cols);
        self.warp_rows(cols, |l, c| {
            let start = l.tile_row(dst, c)?;
            l.lane_cols(width, |l, x| {
                let zero = l.b.f32(0.0);
                let slot = l.b.slot(zero);
                let inside = l.b.cmp(Cmp::Slt, x, rows);
                l.when(inside, |l| {
                    let value = l.tile_get(src, x, c)?;
                    l.b.set(slot, value);
                    Ok(())
                })?;
                let (at, value) = (l.tile_col(start, x), l.b.get(slot));
                l.b.store(Space::Shared, at, value);
                Ok(())
            })
        })
    }

    pub(super) fn scan_rows(
        &mut self,
        dst: BufId,
        (rows, cols): (ExprId, ExprId),
        decay: Option<BufId>,
    ) -> Result<()> {
        self.touch(decay.as_slice(), &[dst]);
        let (rows, cols) = self.tile_counts(dst, rows, cols)?;
        let one = self.b.i32(1);
        self.each_thread(cols, |l, c| {
            let zero = l.b.i32(0);
            let none = l.b.f32(0.0);
            let sum = l.b.slot(none);
            let some = l.b.cmp(Cmp::Slt, one, rows);
            l.when(some, |l| {
                let first = l.tile_get(dst, zero, c)?;
                l.b.set(sum, first);
                Ok(())
            })?;
            l.count_loop((one, rows, 1), |l, r| {
                let x = l.tile_get(dst, r, c)?;
                let by = match decay {
                    Some(decay) => l.vec_get(decay, r)?,
                    None => l.b.f32(1.0),
                };
                let before = l.b.get(sum);
                let y = l.b.fma(by, before, x);
                l.b.set(sum, y);
                l.tile_set(dst, r, c, y)
            })
        })
    }

    pub(super) fn store_rows(
        &mut self,
        dst: &RowsRef,
        src: &BufRows,
        (rows, d): (ExprId, ExprId),
        row_scale: Option<BufId>,
    ) -> Result<()> {
        let read: Vec<BufId> = [src.buf].into_iter().chain(row_scale).collect();
        self.touch(&read, &[]);
        let cols = self.buffer(src.buf)?.cols;
        let (first, rows) = self.part(src, rows)?;
        let d = self.count(d, cols)?;
        let to = self.rows(dst)?;
        self.warp_rows(rows, |l, r| {
            let at = l.b.bin(Bin::Add, first, r);
            let (from, start) = (l.tile_row(src.buf, at)?, l.row_start(to, r));
            let scale = row_scale.map(|v| l.vec_get(v, at)).transpose()?;
            l.lane_cols(d, |l, x| {
                let place = l.tile_col(from, x);
                let mut value = l.b.load(Space::Shared, Ty::F32, place);
                if let Some(scale) = scale {
                    value = l.times_scale(value, scale);
                }
                let addr = l.along(to, start, x);
                l.store_number(to.dtype, addr, value)
            })
        })
    }

    pub(super) fn store_vec(&mut self, dst: &RowsRef, src: &BufRows, rows: ExprId) -> Result<()> {
        self.touch(&[src.buf], &[]);
        let (first, rows) = self.part(src, rows)?;
        let to = self.rows(dst)?;
        self.each_thread(rows, |l, r| {
            let at = l.b.bin(Bin::Add, first, r);
            let (value, addr) = (l.vec_get(src.buf, at)?, l.row_start(to, r));
            l.store_number(to.dtype, addr, value)
        })
    }

    /// `value * scale`, 0 where the scale is 0 whatever the value.
    pub(super) fn times_scale(&mut self, value: Val, scale: Val) -> Val {
        let zero = self.b.f32(0.0);
        let product = self.b.bin(Bin::FMul, value, scale);
        let none = self.b.cmp(Cmp::FEq, scale, zero);
        self.b.select(none, zero, product)
    }

    pub(super) fn random(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::Random { dst, rows, cols, .. } = stmt else { return Ok(()) };
        self.touch(&[], &[*dst]);
        let (rows, cols) = self.tile_counts(*dst, *rows, *cols)?;
        let draw = self.draw(stmt)?;
        self.in_place(*dst, (rows, cols), |l, r, c, x| Ok(l.dropped(&draw, r, c, x)))
    }

    /// What all elements of a random statement share.
    pub(super) fn draw(&mut self, stmt: &Stmt) -> Result<Draw> {
        let Stmt::Random { row0, col0, stream, offset, seed, threshold, keep_scale, .. } = stmt else {
            return Err(GpuError::internal("random", "only a Random comes here", format!("{stmt:?}")));
        };
        let (row0, col0, threshold) = (self.int64(*row0)?, self.int64(*col0)?, self.int64(*threshold)?);
        let (stream, offset, seed) = (self.int64(*stream)?, self.int64(*offset)?, self.int64(*seed)?);
        let scale = self.scalar(*keep_scale)?;
        let high = self.b.bin_int(Bin::LShr, seed, 32);
        let [stream, offset, low, high] =
            [stream, offset, seed, high].map(|v| self.b.cast(Cast::Trunc, Ty::I32, v));
        Ok(Draw { row0, col0, stream, offset, key: [low, high], threshold, scale })
    }

    /// `x` times the scale if it is kept, else 0.
    pub(super) fn dropped(&mut self, draw: &Draw, r: Val, c: Val, x: Val) -> Val {
        let (r, c) = (self.b.cast(Cast::SExt, Ty::I64, r), self.b.cast(Cast::SExt, Ty::I64, c));
        let (i, j) = (self.b.bin(Bin::Add, draw.row0, r), self.b.bin(Bin::Add, draw.col0, c));
        let block = self.b.bin_int(Bin::AShr, j, 2);
        let (block, row) = (self.b.cast(Cast::Trunc, Ty::I32, block), self.b.cast(Cast::Trunc, Ty::I32, i));
        let words = self.philox([block, row, draw.stream, draw.offset], draw.key);
        let lane = self.b.bin_int(Bin::And, j, 3);
        let mut word = words[0];
        for (n, w) in words.iter().enumerate().skip(1) {
            let n = self.b.i64(n as i64);
            let here = self.b.cmp(Cmp::Eq, lane, n);
            word = self.b.select(here, *w, word);
        }
        let word = self.b.cast(Cast::ZExt, Ty::I64, word);
        let keep = self.b.cmp(Cmp::Sle, draw.threshold, word);
        let (kept, zero) = (self.b.bin(Bin::FMul, x, draw.scale), self.b.f32(0.0));
        self.b.select(keep, kept, zero)
    }

    /// One block of Philox4x32-10 (`attn_compiler::expr::rand::philox4x32`).
    fn philox(&mut self, mut counter: [Val; 4], mut key: [Val; 2]) -> [Val; 4] {
        use attn_compiler::expr::rand::{PHILOX_M, PHILOX_ROUNDS, PHILOX_W};
        for _ in 0..PHILOX_ROUNDS {
            let product = |l: &mut Self, m: u32, x: Val| {
                let (x, m) = (l.b.cast(Cast::ZExt, Ty::I64, x), l.b.i64(i64::from(m)));
                let p = l.b.bin(Bin::Mul, x, m);
                let high = l.b.bin_int(Bin::LShr, p, 32);
                (l.b.cast(Cast::Trunc, Ty::I32, high), l.b.cast(Cast::Trunc, Ty::I32, p))
            };
            let (high0, low0) = product(self, PHILOX_M[0], counter[0]);
            let (high1, low1) = product(self, PHILOX_M[1], counter[2]);
            let first = self.b.bin(Bin::Xor, high1, counter[1]);
            let third = self.b.bin(Bin::Xor, high0, counter[3]);
            counter = [self.b.bin(Bin::Xor, first, key[0]), low1, self.b.bin(Bin::Xor, third, key[1]), low0];
            key = [
                self.b.bin_int(Bin::Add, key[0], i64::from(PHILOX_W[0])),
                self.b.bin_int(Bin::Add, key[1], i64::from(PHILOX_W[1])),
            ];
        }
        counter
    }

    /// The value of a bound variable.
    pub(super) fn var(&self, var: VarId) -> Result<Val> {
        let lost = || GpuError::internal("lower", "a bound variable has a value", format!("{var:?}"));
        self.recall(super::Key::Var(var)).ok_or_else(lost)
    }
}
