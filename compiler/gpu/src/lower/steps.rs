//! Row steps: the online softmax, other weights, reductions.
//!
//! A warp takes a row, its lanes the columns, and the row's state is combined by shuffles (Milakov and Gimelshein 2018).

use attn_compiler::expr::ExprId;
use attn_compiler::tile_ir::{BufId, ReduceOp, Stmt, WeightKind};

use super::{Lower, Result};
use crate::simt_ir::{Bin, Cmp, Inst, Slot, Space, Ty, Un, Val};

impl Lower<'_> {
    /// `x * scale`, and -inf where x is.
    pub(super) fn scaled(&mut self, x: Val, scale: Val) -> (Val, Val) {
        let none = self.b.f32(f32::NEG_INFINITY);
        let masked = self.b.cmp(Cmp::FEq, x, none);
        let product = self.b.bin(Bin::FMul, x, scale);
        (self.b.select(masked, none, product), masked)
    }

    /// Combines a value of each lane; all lanes get the result.
    fn across(&mut self, mut v: Val, op: Bin) -> Val {
        for mask in [16, 8, 4, 2, 1] {
            let other = self.b.shfl(v, mask);
            v = self.b.bin(op, v, other);
        }
        v
    }

    /// A weight of an unmasked pair is never exactly zero where `floor` holds.
    fn floored_weight(&mut self, p: Val, floor: Val) -> Val {
        let least = self.b.f32(f32::MIN_POSITIVE);
        let size = self.b.un(Un::FAbs, p);
        let small = self.b.cmp(Cmp::FLt, size, least);
        let lift = self.b.bin(Bin::And, small, floor);
        self.b.select(lift, least, p)
    }

    /// e^(x log2(e)) for what lies near or below 0.
    fn exp_log2(&mut self, x: Val) -> Val {
        let log2e = self.b.f32(std::f32::consts::LOG2_E);
        let t = self.b.bin(Bin::FMul, x, log2e);
        self.b.un(Un::Ex2, t)
    }

    /// The largest scaled score of a row and of what was before.
    fn row_largest(&mut self, start: Val, cols: Val, scale: Val, old: Val) -> Result<Val> {
        let none = self.b.f32(f32::NEG_INFINITY);
        let most = self.b.slot(none);
        self.lane_cols(cols, |l, c| {
            let at = l.tile_col(start, c);
            let x = l.b.load(Space::Shared, Ty::F32, at);
            let (x, _) = l.scaled(x, scale);
            let before = l.b.get(most);
            let larger = l.b.bin(Bin::FMax, before, x);
            l.b.set(most, larger);
            Ok(())
        })?;
        let own = self.b.get(most);
        let all = self.across(own, Bin::FMax);
        Ok(self.b.bin(Bin::FMax, old, all))
    }

    /// Clears columns from `cols` to the next multiple of 16.
    fn clear_padding(&mut self, start: Val, cols: Val, most: i64) -> Result<()> {
        let up = self.b.bin_int(Bin::Add, cols, 15);
        let up = self.b.bin_int(Bin::And, up, -16);
        let most = self.b.i32(most);
        let end = self.b.bin(Bin::SMin, up, most);
        let first = self.b.bin(Bin::Add, cols, self.lane);
        let here = self.b.cmp(Cmp::Slt, first, end);
        self.when(here, |l| {
            let (at, zero) = (l.tile_col(start, first), l.b.f32(0.0));
            l.b.store(Space::Shared, at, zero);
            Ok(())
        })
    }

    /// One lane of the warp does it.
    fn one_lane(&mut self, f: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let zero = self.b.i32(0);
        let first = self.b.cmp(Cmp::Eq, self.lane, zero);
        self.when(first, f)
    }

    pub(super) fn softmax_step(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::SoftmaxStep { s, rows, cols, scale, row_max, row_sum, alpha, floor_unmasked } = stmt else {
            return Ok(());
        };
        self.touch(&[], &[*s, *row_max, *row_sum, *alpha]);
        let width = self.buffer(*s)?.cols;
        let (rows, cols) = self.tile_counts(*s, *rows, *cols)?;
        let (scale, floor) = (self.scalar(*scale)?, self.scalar(*floor_unmasked)?);
        self.warp_rows(rows, |l, r| {
            let start = l.tile_row(*s, r)?;
            let old = l.vec_get(*row_max, r)?;
            let new = l.row_largest(start, cols, scale, old)?;
            let zero = l.b.f32(0.0);
            let sum = l.b.slot(zero);
            l.lane_cols(cols, |l, c| {
                let at = l.tile_col(start, c);
                let x = l.b.load(Space::Shared, Ty::F32, at);
                let (x, masked) = l.scaled(x, scale);
                let below = l.b.bin(Bin::FSub, x, new);
                let p = l.exp_log2(below);
                let p = l.floored_weight(p, floor);
                let p = l.b.select(masked, zero, p);
                l.b.store(Space::Shared, at, p);
                let before = l.b.get(sum);
                let more = l.b.bin(Bin::FAdd, before, p);
                l.b.set(sum, more);
                Ok(())
            })?;
            l.clear_padding(start, cols, width)?;
            l.softmax_state(r, (old, new), sum, (*row_max, *row_sum, *alpha))
        })
    }

    /// The state of a row after a step.
    fn softmax_state(
        &mut self,
        r: Val,
        (old, new): (Val, Val),
        sum: Slot,
        (row_max, row_sum, alpha): (BufId, BufId, BufId),
    ) -> Result<()> {
        let own = self.b.get(sum);
        let sum = self.across(own, Bin::FAdd);
        // The other lanes have read what the first writes.
        self.b.push(Inst::WarpBar);
        self.one_lane(|l| {
            let factor = l.rescaling(old, new);
            let before = l.vec_get(row_sum, r)?;
            let kept = l.b.bin(Bin::FMul, factor, before);
            let total = l.b.bin(Bin::FAdd, kept, sum);
            l.vec_set(row_max, r, new)?;
            l.vec_set(row_sum, r, total)?;
            l.vec_set(alpha, r, factor)
        })
    }

    pub(super) fn weight_step(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::WeightStep { kind, s, rows, cols, scale, row_max, floor_unmasked } = stmt else {
            return Ok(());
        };
        self.touch(&[], &[*s, *row_max]);
        let width = self.buffer(*s)?.cols;
        let (rows, cols) = self.tile_counts(*s, *rows, *cols)?;
        let (scale, floor) = (self.scalar(*scale)?, self.scalar(*floor_unmasked)?);
        self.warp_rows(rows, |l, r| {
            let start = l.tile_row(*s, r)?;
            let old = l.vec_get(*row_max, r)?;
            let new = l.row_largest(start, cols, scale, old)?;
            l.lane_cols(cols, |l, c| {
                let at = l.tile_col(start, c);
                let x = l.b.load(Space::Shared, Ty::F32, at);
                let (x, masked) = l.scaled(x, scale);
                let zero = l.b.f32(0.0);
                let weight = match kind {
                    WeightKind::Sigmoid => l.sigmoid(x),
                    WeightKind::Relu => {
                        let negative = l.b.cmp(Cmp::FLt, x, zero);
                        l.b.select(negative, zero, x)
                    }
                    WeightKind::Plain => x,
                };
                let weight = l.floored_weight(weight, floor);
                let weight = l.b.select(masked, zero, weight);
                l.b.store(Space::Shared, at, weight);
                Ok(())
            })?;
            l.clear_padding(start, cols, width)?;
            l.b.push(Inst::WarpBar);
            l.one_lane(|l| l.vec_set(*row_max, r, new))
        })
    }

    pub(super) fn finish_softmax(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::FinishSoftmax { rows, row_max, row_sum, sink, inv_sum, lse } = stmt else { return Ok(()) };
        self.touch(&[*row_max, *row_sum], &[*inv_sum, *lse]);
        let most = self.buffer(*row_max)?.rows;
        let rows = self.count(*rows, most)?;
        let sink = self.scalar(*sink)?;
        self.each_thread(rows, |l, r| {
            let (max, sum) = (l.vec_get(*row_max, r)?, l.vec_get(*row_sum, r)?);
            let (inverse, log) = l.finished(max, sum, sink);
            l.vec_set(*inv_sum, r, inverse)?;
            l.vec_set(*lse, r, log)
        })
    }

    /// 1 / sum (0 of an empty row) and the log of the sum, with the sink.
    pub(super) fn finished(&mut self, max: Val, sum: Val, sink: Val) -> (Val, Val) {
        let (none, zero, nan) = (self.b.f32(f32::NEG_INFINITY), self.b.f32(0.0), self.b.f32(f32::NAN));
        // NaN of either goes on.
        let m = self.b.bin(Bin::FMax, max, sink);
        let number = self.b.cmp(Cmp::FEq, sink, sink);
        let m = self.b.select(number, m, nan);
        let below = self.b.bin(Bin::FSub, max, m);
        let factor = self.exp(below);
        let of_sink = self.b.bin(Bin::FSub, sink, m);
        let of_sink = self.exp(of_sink);
        let kept = self.b.bin(Bin::FMul, sum, factor);
        let total = self.b.bin(Bin::FAdd, kept, of_sink);
        let inverse = self.b.bin(Bin::FDiv, factor, total);
        let log = self.log(total);
        let log = self.b.bin(Bin::FAdd, m, log);
        let empty = self.b.cmp(Cmp::FEq, total, zero);
        let (inverse, log) = (self.b.select(empty, zero, inverse), self.b.select(empty, none, log));
        // Nothing was seen: 0 and -inf, or NaN if the sum says so.
        let unseen = self.b.cmp(Cmp::FEq, m, none);
        let good = self.b.cmp(Cmp::FEq, sum, sum);
        let (no_weight, no_log) = (self.b.select(good, zero, nan), self.b.select(good, none, nan));
        (self.b.select(unseen, no_weight, inverse), self.b.select(unseen, no_log, log))
    }

    /// Factor of what was accumulated when the maximum was `old`: 0 of nothing, 1 of the same.
    pub(super) fn rescaling(&mut self, old: Val, new: Val) -> Val {
        let (none, zero, one) = (self.b.f32(f32::NEG_INFINITY), self.b.f32(0.0), self.b.f32(1.0));
        let difference = self.b.bin(Bin::FSub, old, new);
        let factor = self.exp_log2(difference);
        let same = self.b.cmp(Cmp::FEq, old, new);
        let factor = self.b.select(same, one, factor);
        let first = self.b.cmp(Cmp::FEq, old, none);
        self.b.select(first, zero, factor)
    }

    pub(super) fn reduce_rows(
        &mut self,
        dst: BufId,
        op: ReduceOp,
        src: BufId,
        (rows, cols): (ExprId, ExprId),
    ) -> Result<()> {
        self.touch(&[src], &[dst]);
        let (to, from) = (self.buffer(dst)?.rows, (self.buffer(src)?.rows, self.buffer(src)?.cols));
        let (rows, cols) = (self.count(rows, from.0.min(to))?, self.count(cols, from.1)?);
        self.warp_rows(rows, |l, r| {
            let start = l.tile_row(src, r)?;
            let first = l.b.f32(if op == ReduceOp::Max { f32::NEG_INFINITY } else { 0.0 });
            let (all, zero) = (l.b.slot(first), l.b.f32(0.0));
            // A sum of x - x for every element is NaN if one is NaN or infinite; a NaN itself is what counts.
            let nan = l.b.slot(zero);
            l.lane_cols(cols, |l, c| {
                let at = l.tile_col(start, c);
                let x = l.b.load(Space::Shared, Ty::F32, at);
                let before = l.b.get(all);
                let after = match op {
                    ReduceOp::Sum => l.b.bin(Bin::FAdd, before, x),
                    ReduceOp::Max => l.b.bin(Bin::FMax, before, x),
                    ReduceOp::MaxAbs => {
                        let size = l.b.un(Un::FAbs, x);
                        l.b.bin(Bin::FMax, before, size)
                    }
                };
                l.b.set(all, after);
                let number = l.b.cmp(Cmp::FEq, x, x);
                let seen = l.b.get(nan);
                let kept = l.b.select(number, seen, x);
                l.b.set(nan, kept);
                Ok(())
            })?;
            let own = l.b.get(all);
            if op == ReduceOp::Sum {
                let sum = l.across(own, Bin::FAdd);
                return l.one_lane(|l| l.vec_set(dst, r, sum));
            }
            let most = l.across(own, Bin::FMax);
            let own = l.b.get(nan);
            let nan = l.across(own, Bin::FAdd);
            let value = l.b.bin(Bin::FAdd, most, nan);
            l.one_lane(|l| l.vec_set(dst, r, value))
        })
    }
}
