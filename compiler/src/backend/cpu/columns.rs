//! How ints change from column to column, and comparisons that need no arithmetic in the inner loop.
//!
//! Comes in: the nodes of a map's value. Goes out: the slope of a node along the columns, and for each comparison
//! of ints that are straight lines along the columns a [`Threshold`]: `j0 + col <= i` becomes `col <= i - j0`,
//! where the right side is computed once for each row. What holds: the comparison is the same for every column,
//! because it is done only where interval arithmetic shows that no sum wraps.

use std::collections::HashMap;

use rustc_hash::FxHashMap;

use cranelift_codegen::ir::condcodes::{CondCode, IntCC};
use cranelift_codegen::ir::{InstBuilder, Value, types};

use crate::expr::range::Range;
use crate::expr::{BinaryOp, ExprId, Op, Pool, Ty, UnaryOp, VarId};

use super::emitter::{Emitter, Result};
use super::map::Map;
use super::scalar::int_cc;

/// Differences of two ints of at most this size do not wrap.
const HALF: i64 = 1 << 62;

/// A comparison along the columns.
#[derive(Clone, Copy)]
pub(super) enum Threshold {
    /// The column is compared with an i32x4 of equal lanes.
    Column(IntCC, Value),
    /// The same for every column: a lane mask.
    Same(Value),
}

/// By how much each varying int grows from column to column, if that is the same everywhere; only for nodes that
/// `may` admits, with all below them.
pub(super) fn slopes(pool: &Pool, map: &Map, may: impl Fn(ExprId) -> bool) -> HashMap<ExprId, i64> {
    let mut known: HashMap<ExprId, i64> = HashMap::new();
    for &id in map.varying.iter().filter(|&&id| may(id)) {
        let of = |x: ExprId| slope(map, &known, x);
        let slope = match *pool.op(id) {
            Op::Var(v) if v == map.col => Some(1),
            Op::Unary(UnaryOp::Neg, x) => of(x).and_then(i64::checked_neg),
            Op::Binary(BinaryOp::Add, a, b) => of(a).zip(of(b)).and_then(|(a, b)| a.checked_add(b)),
            Op::Binary(BinaryOp::Sub, a, b) => of(a).zip(of(b)).and_then(|(a, b)| a.checked_sub(b)),
            _ => None,
        };
        known.extend(slope.map(|by| (id, by)));
    }
    known
}

/// The slope of any node: 0 if it does not depend on the column.
pub(super) fn slope(map: &Map, slopes: &HashMap<ExprId, i64>, id: ExprId) -> Option<i64> {
    if map.varying.binary_search(&id).is_err() { Some(0) } else { slopes.get(&id).copied() }
}

impl Emitter<'_, '_> {
    /// The value of an int at column 0 of the row at hand.
    pub fn at_first_column(&mut self, id: ExprId, col: VarId) -> Result<Value> {
        let everywhere = self.var_range(col);
        let value = self.scoped(|e| {
            let zero = e.int(0);
            e.bind(col, zero, Range::point(0));
            e.scalar(id)
        });
        self.note_range(col, everywhere);
        value
    }

    /// Every comparison of a map that can be made against a threshold.
    pub fn thresholds(
        &mut self,
        map: &Map,
        ranges: &FxHashMap<ExprId, Range>,
    ) -> Result<HashMap<ExprId, Threshold>> {
        let pool = self.pool();
        let small = |id: ExprId| ranges.get(&id).is_some_and(|r| r.lo > -HALF && r.hi < HALF);
        let slopes = slopes(pool, map, small);
        let mut found = HashMap::new();
        for &id in &map.varying {
            let Op::Binary(op, a, b) = *pool.op(id) else { continue };
            let Some(cc) = int_cc(op).filter(|_| pool.ty(a) == Ty::Int) else { continue };
            let sides = slope(map, &slopes, a).zip(slope(map, &slopes, b));
            let Some(by) = sides.and_then(|(x, y)| x.checked_sub(y)) else { continue };
            if !(-1..=1).contains(&by) {
                continue;
            }
            let x = self.small_at_first_column(a, map.col, small(a))?;
            let y = self.small_at_first_column(b, map.col, small(b))?;
            found.insert(id, self.threshold(cc, by, x, y));
        }
        Ok(found)
    }

    /// A side of a comparison, cut to where differences do not wrap. The other side is smaller than that.
    fn small_at_first_column(&mut self, id: ExprId, col: VarId, small: bool) -> Result<Value> {
        let x = self.at_first_column(id, col)?;
        if small {
            return Ok(x);
        }
        let (lo, hi) = (self.int(-HALF), self.int(HALF));
        let x = self.b.ins().smax(x, lo);
        Ok(self.b.ins().smin(x, hi))
    }

    /// `x + by * col cc y` for by in -1..=1.
    fn threshold(&mut self, cc: IntCC, by: i64, x: Value, y: Value) -> Threshold {
        if by == 0 {
            let same = self.b.ins().icmp(cc, x, y);
            let same = self.b.ins().bmask(types::I32, same);
            return Threshold::Same(self.b.ins().splat(types::I32X4, same));
        }
        let limit = if by > 0 { self.b.ins().isub(y, x) } else { self.b.ins().isub(x, y) };
        let cc = if by > 0 { cc } else { cc.swap_args() };
        Threshold::Column(cc, self.splat_cut(limit))
    }

    /// An int cut to 32 bits, in four lanes.
    pub fn splat_cut(&mut self, x: Value) -> Value {
        let (lo, hi) = (self.int(i64::from(i32::MIN)), self.int(i64::from(i32::MAX)));
        let x = self.b.ins().smax(x, lo);
        let x = self.b.ins().smin(x, hi);
        let x = self.b.ins().ireduce(types::I32, x);
        self.b.ins().splat(types::I32X4, x)
    }
}
