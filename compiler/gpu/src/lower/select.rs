//! Statements that choose the largest or sum along vectors.
//!
//! Simple on purpose: they stand before an attention and touch vectors, not pairs.

use attn_compiler::expr::ExprId;
use attn_compiler::tile_ir::{BufId, FlatRef, RowsRef, Stmt};

use super::memory::Rows;
use super::sync::SCRATCH;
use super::{Lower, Result};
use crate::simt_ir::{Bin, Cast, Cmp, Op, Space, Ty, Un, Val};

impl Lower<'_> {
    pub(super) fn keep_largest(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::KeepLargest { best, at, src, rows, cols, first, m } = stmt else { return Ok(()) };
        self.touch(&[*src], &[*best, *at]);
        let (kept_rows, kept) = (self.buffer(*best)?.rows, self.buffer(*best)?.cols);
        let (from_rows, from_cols) = (self.buffer(*src)?.rows, self.buffer(*src)?.cols);
        let (rows, cols) = (self.count(*rows, from_rows.min(kept_rows))?, self.count(*cols, from_cols)?);
        let (first, m) = (self.int32(*first)?, self.count(*m, kept)?);
        self.each_thread(rows, |l, r| {
            let zero = l.b.i32(0);
            l.count_loop((zero, cols, 1), |l, c| {
                let x = l.tile_get(*src, r, c)?;
                let place = l.b.bin(Bin::Add, first, c);
                let place = l.b.cast(Cast::SiToF, Ty::F32, place);
                l.insert((*best, *at), r, m, (x, place))
            })
        })
    }

    /// Puts an element into a descending list: what is smaller moves on by one, the last falls out.
    fn insert(&mut self, (best, at): (BufId, BufId), r: Val, m: Val, (x, place): (Val, Val)) -> Result<()> {
        let none = self.b.f32(f32::NEG_INFINITY);
        let some = self.b.cmp(Cmp::FLt, none, x);
        self.when(some, |l| {
            let (value, where_) = (l.b.slot(x), l.b.slot(place));
            let zero = l.b.i32(0);
            l.count_loop((zero, m, 1), |l, n| {
                let (old, old_place) = (l.tile_get(best, r, n)?, l.tile_get(at, r, n)?);
                let (new, new_place) = (l.b.get(value), l.b.get(where_));
                let moves = l.b.cmp(Cmp::FLt, old, new);
                let (stay, next) = (l.b.select(moves, new, old), l.b.select(moves, old, new));
                let (stay_at, next_at) =
                    (l.b.select(moves, new_place, old_place), l.b.select(moves, old_place, new_place));
                l.tile_set(best, r, n, stay)?;
                l.tile_set(at, r, n, stay_at)?;
                l.b.set(value, next);
                l.b.set(where_, next_at);
                Ok(())
            })
        })
    }

    pub(super) fn mark(
        &mut self,
        dst: BufId,
        at: BufId,
        (rows, cols): (ExprId, ExprId),
        first: ExprId,
    ) -> Result<()> {
        self.touch(&[at], &[dst]);
        let places = self.buffer(at)?;
        let (most, width) = (places.rows, places.cols);
        let to = (self.buffer(dst)?.rows, self.buffer(dst)?.cols);
        let (rows, cols) = (self.count(rows, to.0.min(most))?, self.count(cols, to.1)?);
        let first = self.int32(first)?;
        let width = self.b.i32(width);
        self.warp_rows(rows, |l, r| {
            l.lane_cols(cols, |l, c| {
                let here = l.b.bin(Bin::Add, first, c);
                let here = l.b.cast(Cast::SiToF, Ty::F32, here);
                let (zero, one, from) = (l.b.f32(0.0), l.b.f32(1.0), l.b.i32(0));
                let found = l.b.slot(zero);
                l.count_loop((from, width, 1), |l, n| {
                    let place = l.tile_get(at, r, n)?;
                    let same = l.b.cmp(Cmp::FEq, place, here);
                    let old = l.b.get(found);
                    let new = l.b.select(same, one, old);
                    l.b.set(found, new);
                    Ok(())
                })?;
                let value = l.b.get(found);
                l.tile_set(dst, r, c, value)
            })
        })
    }

    /// One thread adds up in f64: runs are short beside what reads them.
    pub(super) fn prefix_sum(&mut self, hi: &FlatRef, lo: &FlatRef, src: &RowsRef, n: ExprId) -> Result<()> {
        let n = self.count(n, i64::from(i32::MAX))?;
        let from = self.rows(src)?;
        let ((hi, hi_type), (lo, lo_type)) = (self.flat(hi)?, self.flat(lo)?);
        self.one_thread(|l| {
            let (zero, from_0) = (l.b.def(Ty::F64, Op::Float(0.0)), l.b.i32(0));
            let sum = l.b.slot(zero);
            l.count_loop((from_0, n, 1), |l, t| {
                let at = l.row_start(from, t);
                let x = l.load_number(from.dtype, at);
                let x = l.b.cast(Cast::FExt, Ty::F64, x);
                let before = l.b.get(sum);
                let s = l.b.bin(Bin::FAdd, before, x);
                l.b.set(sum, s);
                let high = l.b.cast(Cast::FTrunc, Ty::F32, s);
                let back = l.b.cast(Cast::FExt, Ty::F64, high);
                let rest = l.b.bin(Bin::FSub, s, back);
                let rest = l.b.cast(Cast::FTrunc, Ty::F32, rest);
                let (none, infinity) = (l.b.f32(0.0), l.b.f32(f32::INFINITY));
                let size = l.b.un(Un::FAbs, high);
                let finite = l.b.cmp(Cmp::FLt, size, infinity);
                let rest = l.b.select(finite, rest, none);
                let (high_at, rest_at) = (l.behind(hi, t, hi_type), l.behind(lo, t, lo_type));
                l.b.store(Space::Global, high_at, high);
                l.b.store(Space::Global, rest_at, rest);
                Ok(())
            })
        })
    }

    /// An element that selections compare: NaN counts as -inf, -0 as 0.
    fn ranked(&mut self, from: Rows, t: Val) -> Val {
        let at = self.row_start(from, t);
        let x = self.load_number(from.dtype, at);
        let (zero, none) = (self.b.f32(0.0), self.b.f32(f32::NEG_INFINITY));
        let number = self.b.cmp(Cmp::FEq, x, x);
        let x = self.b.bin(Bin::FAdd, x, zero);
        self.b.select(number, x, none)
    }

    /// An element is chosen if fewer than m stand before it. Threads take elements in turn, a block's worth at a time, and add
    /// up in shared memory how many were chosen before theirs.
    pub(super) fn top_k(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::TopK { indices, ranks, src, n, m, width } = stmt else { return Ok(()) };
        let threads = i64::from(self.threads);
        let place = self.scratch(self.threads * 4);
        let n = self.count(*n, i64::from(i32::MAX) - threads)?;
        let (m, width) = (self.count(*m, i64::from(i32::MAX))?, self.count(*width, i64::from(i32::MAX))?);
        let m = self.b.bin(Bin::SMin, m, n);
        let m = self.b.bin(Bin::SMin, m, width);
        let from = self.rows(src)?;
        let (out, out_type) = self.flat(indices)?;
        let ranks = ranks.as_ref().map(|r| self.flat(r)).transpose()?;
        let zero = self.b.i32(0);
        let taken = self.b.slot(zero);
        self.touch(&[], &[SCRATCH]);
        self.count_loop((zero, n, threads), |l, start| {
            let t = l.b.bin(Bin::Add, start, l.tid);
            let chosen = l.chosen(from, t, n, m)?;
            let own = l.b.bin_int(Bin::Shl, l.tid, 2);
            let own = l.b.bin_int(Bin::Add, own, i64::from(place));
            l.barrier();
            l.b.store(Space::Shared, own, chosen);
            l.barrier();
            let before = l.b.get(taken);
            let (at, all) = (l.b.slot(before), l.b.slot(before));
            let all_threads = l.b.i32(threads);
            l.count_loop((zero, all_threads, 1), |l, other| {
                let flag = l.b.bin_int(Bin::Shl, other, 2);
                let flag = l.b.bin_int(Bin::Add, flag, i64::from(place));
                let flag = l.b.load(Space::Shared, Ty::I32, flag);
                let (old, earlier) = (l.b.get(all), l.b.cmp(Cmp::Slt, other, l.tid));
                let new = l.b.bin(Bin::Add, old, flag);
                l.b.set(all, new);
                let old = l.b.get(at);
                let more = l.b.bin(Bin::Add, old, flag);
                let new = l.b.select(earlier, more, old);
                l.b.set(at, new);
                Ok(())
            })?;
            let total = l.b.get(all);
            l.b.set(taken, total);
            let inside = l.b.cmp(Cmp::Slt, t, n);
            l.when(inside, |l| {
                let one = l.b.i32(1);
                let is = l.b.cmp(Cmp::Eq, chosen, one);
                let (here, none) = (l.b.get(at), l.b.i32(-1));
                l.when(is, |l| {
                    let addr = l.behind(out, here, out_type);
                    l.store_value(out_type, addr, t)
                })?;
                let Some((ranks, rank_type)) = ranks else { return Ok(()) };
                let rank = l.b.select(is, here, none);
                let addr = l.behind(ranks, t, rank_type);
                l.store_value(rank_type, addr, rank)
            })
        })?;
        self.sync = self.sync.or(super::sync::Sync::of_scratch());
        let first = self.b.bin(Bin::Add, m, self.tid);
        self.count_loop((first, width, threads), |l, t| {
            let (addr, none) = (l.behind(out, t, out_type), l.b.i32(-1));
            l.store_value(out_type, addr, none)
        })
    }

    /// 1 if fewer than m elements stand before the t-th, else 0; 0 behind the last.
    fn chosen(&mut self, from: Rows, t: Val, n: Val, m: Val) -> Result<Val> {
        let zero = self.b.i32(0);
        let flag = self.b.slot(zero);
        let inside = self.b.cmp(Cmp::Slt, t, n);
        self.when(inside, |l| {
            let own = l.ranked(from, t);
            let before = l.b.slot(zero);
            l.count_loop((zero, n, 1), |l, other| {
                let x = l.ranked(from, other);
                let (larger, same) = (l.b.cmp(Cmp::FLt, own, x), l.b.cmp(Cmp::FEq, own, x));
                let earlier = l.b.cmp(Cmp::Slt, other, t);
                let tie = l.b.bin(Bin::And, same, earlier);
                let ahead = l.b.bin(Bin::Or, larger, tie);
                let one = l.b.cast(Cast::ZExt, Ty::I32, ahead);
                let old = l.b.get(before);
                let new = l.b.bin(Bin::Add, old, one);
                l.b.set(before, new);
                Ok(())
            })?;
            let ahead = l.b.get(before);
            let is = l.b.cmp(Cmp::Slt, ahead, m);
            let one = l.b.cast(Cast::ZExt, Ty::I32, is);
            l.b.set(flag, one);
            Ok(())
        })?;
        Ok(self.b.get(flag))
    }
}
