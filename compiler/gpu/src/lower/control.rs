//! Statements that name values, search, repeat and choose; and one call for every other statement.
//!
//! What holds: control is the same for all threads of a block, as conditions and bounds are uniform.

use attn_compiler::expr::range::Range;
use attn_compiler::expr::{ExprId, VarId};
use attn_compiler::tile_ir::{Span, Stmt};

use super::roles::Role;
use super::sync::touched;
use super::{Lower, Result, narrow};
use crate::simt_ir::{Bin, Cmp, Inst, Slot, Ty, Val};

impl Lower<'_> {
    /// A block of statements.
    pub(super) fn block(&mut self, stmts: &[Stmt]) -> Result<()> {
        if self.overlapped(stmts)? {
            return Ok(());
        }
        stmts.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    /// One call for each kind of statement (tidy: long match).
    fn stmt(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::Gemm { .. } if self.role == Role::Producer => self.produce(stmt),
            Stmt::Let { var, value } => {
                let range = self.range(*value);
                let value = self.scalar(*value)?;
                self.bind(*var, value, range);
                Ok(())
            }
            Stmt::Any { var, over, cond } => self.any(*var, over, *cond),
            Stmt::First { var, over, cond } => self.first(*var, over, *cond),
            Stmt::For { var, lo, hi, body } => self.repeat(*var, (*lo, *hi), body),
            Stmt::If { cond, then, otherwise } => self.choose(*cond, then, otherwise),
            _ if self.role == Role::Producer => Ok(()),
            Stmt::Fill { dst, value } if self.layouts.is_some() => self.fill_registers(*dst, *value),
            Stmt::Fill { dst, value } => self.fill(*dst, *value),
            Stmt::LoadRows { dst, src, rows, d } if self.layouts.is_some() => {
                self.load_half(dst, src, *rows, *d)
            }
            Stmt::LoadRows { dst, src, rows, d } => self.load_rows(dst, src, *rows, *d),
            // Schedules for GPUs ask for none: layouts say in what type a tile lies.
            Stmt::Round { .. } => {
                Err(crate::GpuError::internal("control", "no tile is rounded", format!("{stmt:?}")))
            }
            // Nor does one read keys of several heads at once.
            Stmt::View { .. } => {
                Err(crate::GpuError::internal("control", "no tile has views", format!("{stmt:?}")))
            }
            Stmt::PackK { dst, src, n, d } => self.pack_k(dst, src, *n, *d),
            Stmt::PackV { dst, src, n, d, flag } => self.pack_v(dst, src, (*n, *d), flag),
            Stmt::Gemm { .. } if self.layouts.is_some() => self.tensor_product(stmt),
            Stmt::Gemm { .. } => self.gemm(stmt),
            Stmt::Map { .. } if self.layouts.is_some() => self.map_registers(stmt),
            Stmt::Map { .. } => self.map(stmt),
            Stmt::Band { .. } => self.band(stmt),
            Stmt::Affine { .. } => self.affine(stmt),
            Stmt::Math { f, dst, rows, .. } => self.math(*f, *dst, *rows),
            Stmt::SoftmaxStep { .. } if self.layouts.is_some() => {
                self.in_turns(|l| l.softmax_registers(stmt))
            }
            Stmt::SoftmaxStep { .. } => self.softmax_step(stmt),
            Stmt::WeightStep { .. } if self.layouts.is_some() => self.in_turns(|l| l.weight_registers(stmt)),
            Stmt::WeightStep { .. } => self.weight_step(stmt),
            Stmt::FinishSoftmax { .. } if self.layouts.is_some() => self.finish_registers(stmt),
            Stmt::FinishSoftmax { .. } => self.finish_softmax(stmt),
            Stmt::Transpose { dst, src, rows, cols } => self.transpose(*dst, *src, (*rows, *cols)),
            Stmt::ScanRows { dst, rows, cols, decay } => self.scan_rows(*dst, (*rows, *cols), *decay),
            Stmt::ReduceRows { dst, op, src, rows, cols } => {
                self.reduce_rows(*dst, *op, *src, (*rows, *cols))
            }
            Stmt::KeepLargest { .. } => self.keep_largest(stmt),
            Stmt::Mark { dst, at, rows, cols, first } => self.mark(*dst, *at, (*rows, *cols), *first),
            Stmt::Random { .. } if self.layouts.is_some() => self.random_registers(stmt),
            Stmt::Random { .. } => self.random(stmt),
            Stmt::StoreRows { .. } if self.by_map.is_some() && self.stored_by_map(stmt)? => Ok(()),
            Stmt::StoreRows { dst, src, rows, d, row_scale } if self.layouts.is_some() => {
                self.store_registers(dst, src, (*rows, *d), *row_scale)
            }
            Stmt::StoreRows { dst, src, rows, d, row_scale } => {
                self.store_rows(dst, src, (*rows, *d), *row_scale)
            }
            Stmt::StoreMap { .. } => self.store_map(stmt),
            Stmt::PrefixSum { hi, lo, src, n } => self.prefix_sum(hi, lo, src, *n),
            Stmt::TopK { .. } => self.top_k(stmt),
            Stmt::StoreVec { dst, src, rows } if self.layouts.is_some() => self.store_state(dst, src, *rows),
            Stmt::StoreVec { dst, src, rows } => self.store_vec(dst, src, *rows),
        }
    }

    pub(super) fn span_range(&self, lo: ExprId, hi: ExprId) -> Range {
        let (lo, hi) = (self.range(lo), self.range(hi));
        Range { lo: lo.lo, hi: hi.hi.saturating_sub(1).max(lo.lo) }
    }

    /// A loop over a span, in the width of its ends.
    pub(super) fn over(
        &mut self,
        (var, lo, hi): (VarId, ExprId, ExprId),
        stop: Option<Slot>,
        f: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let range = self.span_range(lo, hi);
        let (lo, hi) = (self.scalar(lo)?, self.scalar(hi)?);
        let (lo, hi) = self.same_width(lo, hi);
        let counter = self.b.slot(lo);
        let body = self.scoped(|l| {
            let i = l.b.get(counter);
            let mut end = l.b.cmp(Cmp::Sle, hi, i);
            if let Some(stop) = stop {
                let found = l.b.get(stop);
                end = l.b.bin(Bin::Or, end, found);
            }
            l.b.push(Inst::BreakIf(end));
            l.bind(var, i, range);
            f(l)?;
            let i = l.b.get(counter);
            let next = l.b.bin_int(Bin::Add, i, 1);
            l.b.set(counter, next);
            Ok(())
        })?;
        self.b.push(Inst::Loop { body, afresh: false });
        Ok(())
    }

    fn repeat(&mut self, var: VarId, (lo, hi): (ExprId, ExprId), body: &[Stmt]) -> Result<()> {
        if self.role == Role::All && self.pipelined(var, (lo, hi), body)? {
            return Ok(());
        }
        if self.role != Role::Producer && self.parts((var, lo, hi), body)? {
            return Ok(());
        }
        let begun = self.begin_order(body)?;
        let before = self.sync;
        // What the end of the body touched is touched when it begins again.
        self.sync = before.or(touched(body));
        self.over((var, lo, hi), None, |l| l.block(body))?;
        self.sync = self.sync.or(before);
        if begun { self.end_order() } else { Ok(()) }
    }

    fn choose(&mut self, cond: ExprId, then: &[Stmt], otherwise: &[Stmt]) -> Result<()> {
        let cond = self.scalar(cond)?;
        let before = self.sync;
        let then = self.scoped(|l| l.block(then))?;
        let after = std::mem::replace(&mut self.sync, before);
        let otherwise = self.scoped(|l| l.block(otherwise))?;
        self.sync = self.sync.or(after);
        self.b.push(Inst::If { cond, then, otherwise });
        Ok(())
    }

    fn any(&mut self, var: VarId, over: &[Span], cond: ExprId) -> Result<()> {
        let no = self.b.bool(false);
        let found = self.b.slot(no);
        self.any_of(over, cond, found)?;
        let value = self.b.get(found);
        self.bind(var, value, Range::ALL);
        Ok(())
    }

    fn any_of(&mut self, over: &[Span], cond: ExprId, found: Slot) -> Result<()> {
        let Some((span, rest)) = over.split_first() else {
            let here = self.scalar(cond)?;
            let before = self.b.get(found);
            let either = self.b.bin(Bin::Or, before, here);
            self.b.set(found, either);
            return Ok(());
        };
        self.over((span.var, span.lo, span.hi), Some(found), |l| l.any_of(rest, cond, found))
    }

    fn first(&mut self, var: VarId, over: &Span, cond: ExprId) -> Result<()> {
        let range = self.span_range(over.lo, over.hi);
        let range = Range { lo: range.lo.min(self.range(over.hi).lo), hi: range.hi.saturating_add(1) };
        let hi = self.scalar(over.hi)?;
        let hi = if narrow(range) { hi } else { self.int64(over.hi)? };
        let (no, place) = (self.b.bool(false), self.b.slot(hi));
        let found = self.b.slot(no);
        let wide = self.b.ty(hi);
        self.over((over.var, over.lo, over.hi), Some(found), |l| {
            let here = l.scalar(cond)?;
            let at = l.var(over.var)?;
            let at = l.in_width(at, wide);
            let old = l.b.get(place);
            let new = l.b.select(here, at, old);
            l.b.set(place, new);
            l.b.set(found, here);
            Ok(())
        })?;
        let value = self.b.get(place);
        self.bind(var, value, range);
        Ok(())
    }

    fn in_width(&mut self, v: Val, ty: Ty) -> Val {
        use crate::simt_ir::Cast;
        let cast = if self.b.ty(v).bytes() < ty.bytes() { Cast::SExt } else { Cast::Trunc };
        self.b.cast(cast, ty, v)
    }
}
