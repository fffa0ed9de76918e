//! The inner loop of a map, four columns at a time.
//!
//! Comes in: a map with the row at hand. Goes out: a loop over as many whole vectors of columns as are proved
//! safe for the row; the caller does the rest. Floats are f32x4; ints are i32x4 where interval arithmetic
//! proves that nothing overflows, and four 64-bit scalars otherwise; bools are lane masks. Every lane gives the
//! bits that the scalar code gives. Elementary functions go through memory into `vmath`, four values at a time.

use std::collections::{HashMap, HashSet};

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{ConstantData, InstBuilder, MemFlagsData, Value, types};

use crate::artifact::{Intrinsic, MathFn};
use crate::expr::range::Range;
use crate::expr::{BinaryOp, ExprId, Op, Pool, Ty, UnaryOp, VarId};
use crate::tile_ir::Access;

use super::BackendError;
use super::columns::Threshold;
use super::emitter::{Emitter, Result};
use super::lanes::{Body, LANES, Lanes, lane_order};
use super::map::{Map, RowAt};
use super::scalar::{float_cc, int_cc, math_fn};
use super::scratch::SPILL;
use super::vload::Streams;

impl Emitter<'_, '_> {
    /// Computes columns of a row in vectors; gives the first column that is left, and the streams of the row.
    pub fn map_vectors(
        &mut self,
        map: &Map,
        at: &RowAt,
        cols: Value,
        max_cols: i64,
    ) -> Result<Option<(Value, Streams)>> {
        if !self.isa.simd || max_cols < LANES {
            return Ok(Some((self.int(0), vec![])));
        }
        let (streams, safe) = self.streams(map, cols)?;
        self.note_range(map.col, Range { lo: 0, hi: max_cols - 1 });
        self.note_below(map.col, map.cols);
        let ranges = self.ranges_below(map.value);
        let thresholds = self.thresholds(map, &ranges)?;
        let needed = needed(self.pool(), map, |id| streams.contains_key(&id) || thresholds.contains_key(&id));
        let whole = self.b.ins().band_imm_s(cols, -LANES);
        let zero = self.int(0);
        let exact = self.pool().as_int(map.cols).is_some_and(|n| n <= max_cols && n % LANES == 0);
        let all = exact && safe.is_none();
        let end = match safe {
            Some(safe) => self.b.ins().select(safe, whole, zero),
            None => whole,
        };
        let counted = |id: &ExprId| match thresholds.get(id) {
            Some(threshold) => matches!(threshold, Threshold::Column(..)),
            None => matches!(self.pool().op(*id), Op::Var(v) if *v == map.col),
        };
        let counts = needed.iter().any(counted);
        let left = map.varying.iter().filter_map(|id| Some((*id, *streams.get(id)?))).collect();
        let write = |e: &mut Self, col: Value, cols: Value| {
            let known = HashMap::new();
            let mut body = Body { ranges, streams, thresholds, known, col, cols };
            for id in needed {
                let lanes = e.lanes(map, at, &mut body, id)?;
                body.known.insert(id, lanes);
            }
            let value = e.floats(&body, map.value)?;
            let address = e.element(at.dst, col);
            e.b.ins().store(MemFlagsData::trusted(), value, address, 0);
            Ok(())
        };
        if counts {
            let (iota, step) = (self.i32x4([0, 1, 2, 3]), self.i32x4([LANES as i32; 4]));
            let carried = [(iota, step)];
            self.count_loop((zero, end, LANES), carried, |e, col, [cols]| write(e, col, cols))?;
        } else {
            // Nothing asks which columns these are.
            self.count_loop((zero, end, LANES), [], |e, col, []| write(e, col, col))?;
        }
        Ok((!all).then_some((end, left)))
    }

    fn i32x4(&mut self, x: [i32; 4]) -> Value {
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        let constant = self.b.func.dfg.constants.insert(ConstantData::from(bytes));
        self.b.ins().vconst(types::I32X4, constant)
    }

    /// One node on operands that are known.
    fn lanes(&mut self, map: &Map, at: &RowAt, body: &mut Body, id: ExprId) -> Result<Lanes> {
        let pool = self.pool();
        if let Some(&stream) = body.streams.get(&id) {
            return self.load_stream(body, stream);
        }
        if let Some(&threshold) = body.thresholds.get(&id) {
            return Ok(Lanes::Mask(match threshold {
                Threshold::Column(cc, limit) => self.b.ins().icmp(cc, body.cols, limit),
                Threshold::Same(mask) => mask,
            }));
        }
        if let Op::Load(t, index, ty) = pool.op(id) {
            return self.gather(body, *t, index, *ty);
        }
        let packed = match *pool.op(id) {
            Op::Var(v) if v == map.col => Some(Lanes::Ints(body.cols)),
            Op::Var(v) => Some(self.read_lanes(map, at, body, v)?),
            Op::Unary(op, x) => self.unary_lanes(body, op, x, id)?,
            Op::Binary(op, a, b) => match pool.ty(a) {
                Ty::Bool => self.bool_lanes(body, op, a, b)?,
                Ty::Int => self.int_lanes(body, op, (a, b), id)?,
                Ty::Float => self.float_lanes(body, op, a, b)?,
            },
            Op::Select(c, a, b) => self.select_lanes(body, c, (a, b), id)?,
            _ => None,
        };
        match packed {
            Some(lanes) => Ok(lanes),
            None => self.each_lane(body, id),
        }
    }

    /// Four elements of a buffer.
    fn read_lanes(&mut self, map: &Map, at: &RowAt, body: &Body, var: VarId) -> Result<Lanes> {
        let read = map.reads.iter().position(|(v, _, access)| *v == var && *access != Access::Row);
        let unknown =
            || BackendError::internal("vector", "a variable of the column is read", format!("{var:?}"));
        let address = self.element(at.reads[read.ok_or_else(unknown)?], body.col);
        Ok(Lanes::Floats(self.b.ins().load(types::F32X4, MemFlagsData::trusted(), address, 0)))
    }

    /// The scalar operation, four times.
    fn each_lane(&mut self, body: &mut Body, id: ExprId) -> Result<Lanes> {
        let mut operands = Vec::new();
        for x in self.pool().operands(id) {
            operands.push(self.each(body, x)?);
        }
        let mut out = [self.scratch; 4];
        for (lane, slot) in out.iter_mut().enumerate() {
            let values: Vec<Value> = operands.iter().map(|each| each[lane]).collect();
            *slot = self.apply(id, &values)?;
        }
        Ok(Lanes::Each(out))
    }

    fn unary_lanes(&mut self, body: &Body, op: UnaryOp, x: ExprId, id: ExprId) -> Result<Option<Lanes>> {
        use UnaryOp::*;
        if let Some(f) = math_fn(op) {
            let x = self.floats(body, x)?;
            return self.math_lanes(f, x).map(Some);
        }
        if op == ToFloat {
            if !body.narrow(x) {
                return Ok(None);
            }
            let x = self.ints(body, x)?;
            return Ok(Some(Lanes::Floats(self.b.ins().fcvt_from_sint(types::F32X4, x))));
        }
        match self.pool().ty(x) {
            Ty::Bool => {
                let x = self.mask(body, x)?;
                Ok(Some(Lanes::Mask(self.b.ins().bnot(x))))
            }
            Ty::Int if body.narrow(x) && body.narrow(id) => {
                let x = self.ints(body, x)?;
                let y = if op == Neg { self.b.ins().ineg(x) } else { self.b.ins().iabs(x) };
                Ok(Some(Lanes::Ints(y)))
            }
            Ty::Float if op != ToInt => {
                let x = self.floats(body, x)?;
                Ok(self.float_unary_lanes(op, x).map(Lanes::Floats))
            }
            Ty::Int | Ty::Float => Ok(None),
        }
    }

    /// Operations of floats with an instruction; the others were taken before.
    fn float_unary_lanes(&mut self, op: UnaryOp, x: Value) -> Option<Value> {
        Some(match op {
            // Floats are f32 here.
            UnaryOp::Round32 => x,
            UnaryOp::Sqrt => self.b.ins().sqrt(x),
            UnaryOp::Neg => self.b.ins().fneg(x),
            UnaryOp::Abs => self.b.ins().fabs(x),
            UnaryOp::Floor => self.b.ins().floor(x),
            UnaryOp::Ceil => self.b.ins().ceil(x),
            UnaryOp::Rsqrt => {
                let one = self.float(1.0);
                let one = self.b.ins().splat(types::F32X4, one);
                let root = self.b.ins().sqrt(x);
                self.b.ins().fdiv(one, root)
            }
            _ => return None,
        })
    }

    fn math_lanes(&mut self, f: MathFn, x: Value) -> Result<Lanes> {
        let at = self.b.ins().iadd_imm_s(self.scratch, i64::from(SPILL));
        self.b.ins().store(MemFlagsData::trusted(), x, at, 0);
        let code = self.b.ins().iconst(types::I32, f as i64);
        let (n, one) = (self.int(LANES), self.int(1));
        self.run(Intrinsic::VMath, &[code, at, n, one, n])?;
        Ok(Lanes::Floats(self.b.ins().load(types::F32X4, MemFlagsData::trusted(), at, 0)))
    }

    fn bool_lanes(&mut self, body: &Body, op: BinaryOp, a: ExprId, b: ExprId) -> Result<Option<Lanes>> {
        let (x, y) = (self.mask(body, a)?, self.mask(body, b)?);
        Ok(Some(Lanes::Mask(match op {
            BinaryOp::And => self.b.ins().band(x, y),
            BinaryOp::Or => self.b.ins().bor(x, y),
            BinaryOp::Ne => self.b.ins().bxor(x, y),
            BinaryOp::Eq => {
                let differ = self.b.ins().bxor(x, y);
                self.b.ins().bnot(differ)
            }
            _ => return Err(self.ill_typed(op, a)),
        })))
    }

    fn int_lanes(
        &mut self,
        body: &Body,
        op: BinaryOp,
        (a, b): (ExprId, ExprId),
        id: ExprId,
    ) -> Result<Option<Lanes>> {
        use BinaryOp::*;
        if let Some(cc) = int_cc(op) {
            return self.compare_lanes(body, cc, a, b);
        }
        if !(body.narrow(a) && body.narrow(b) && body.narrow(id)) {
            return Ok(None);
        }
        if matches!(op, IDiv | Mod) {
            let power = self.pool().as_int(b).filter(|c| *c > 0 && c & (c - 1) == 0);
            let Some(c) = power else { return Ok(None) };
            let x = self.ints(body, a)?;
            if op == IDiv {
                return Ok(Some(Lanes::Ints(self.b.ins().sshr_imm_u(x, i64::from(c.trailing_zeros())))));
            }
            let low = self.i32x4([(c - 1) as i32; 4]);
            return Ok(Some(Lanes::Ints(self.b.ins().band(x, low))));
        }
        let (x, y) = (self.ints(body, a)?, self.ints(body, b)?);
        Ok(Some(Lanes::Ints(match op {
            Add => self.b.ins().iadd(x, y),
            Sub => self.b.ins().isub(x, y),
            Mul => self.b.ins().imul(x, y),
            Min => self.b.ins().smin(x, y),
            Max => self.b.ins().smax(x, y),
            _ => return Err(self.ill_typed(op, a)),
        })))
    }

    /// Ints that fit are compared in 32 bits. One that does not depend on the column may be cut to 32 bits
    /// first, if the other can be neither of the values that it is cut to.
    fn compare_lanes(&mut self, body: &Body, cc: IntCC, a: ExprId, b: ExprId) -> Result<Option<Lanes>> {
        let cut = |e: &Self, uniform: ExprId, other: ExprId| {
            !body.known.contains_key(&uniform)
                && e.pool().ty(uniform) == Ty::Int
                && body.strictly_narrow(other)
        };
        let (x, y) = if body.narrow(a) && body.narrow(b) {
            (self.ints(body, a)?, self.ints(body, b)?)
        } else if cut(self, a, b) {
            (self.cut_to_i32(a)?, self.ints(body, b)?)
        } else if cut(self, b, a) {
            (self.ints(body, a)?, self.cut_to_i32(b)?)
        } else {
            return Ok(None);
        };
        Ok(Some(Lanes::Mask(self.b.ins().icmp(cc, x, y))))
    }

    fn cut_to_i32(&mut self, id: ExprId) -> Result<Value> {
        let x = self.scalar(id)?;
        Ok(self.splat_cut(x))
    }

    fn float_lanes(&mut self, body: &Body, op: BinaryOp, a: ExprId, b: ExprId) -> Result<Option<Lanes>> {
        use BinaryOp::*;
        if op == Pow {
            return Ok(None);
        }
        let (x, y) = (self.floats(body, a)?, self.floats(body, b)?);
        if let Some(cc) = float_cc(op) {
            return Ok(Some(Lanes::Mask(self.b.ins().fcmp(cc, x, y))));
        }
        Ok(Some(Lanes::Floats(match op {
            Add => self.b.ins().fadd(x, y),
            Sub => self.b.ins().fsub(x, y),
            Mul => self.b.ins().fmul(x, y),
            Div => self.b.ins().fdiv(x, y),
            Min => self.smaller_first(y, x, false),
            Max => self.smaller_first(x, y, true),
            _ => return Err(self.ill_typed(op, a)),
        })))
    }

    /// `x < y` chooses y if `take_larger`, else x; where it is false the other is chosen. One instruction.
    fn smaller_first(&mut self, x: Value, y: Value, take_larger: bool) -> Value {
        let less = self.b.ins().fcmp(FloatCC::LessThan, x, y);
        let less = self.b.ins().bitcast(types::F32X4, lane_order(), less);
        if take_larger { self.b.ins().bitselect(less, y, x) } else { self.b.ins().bitselect(less, x, y) }
    }

    fn select_lanes(
        &mut self,
        body: &Body,
        c: ExprId,
        (a, b): (ExprId, ExprId),
        id: ExprId,
    ) -> Result<Option<Lanes>> {
        let ty = self.pool().ty(id);
        if ty == Ty::Int && !(body.narrow(a) && body.narrow(b)) {
            return Ok(None);
        }
        let mask = self.mask(body, c)?;
        Ok(Some(match ty {
            Ty::Float => {
                let (x, y) = (self.floats(body, a)?, self.floats(body, b)?);
                Lanes::Floats(self.choose(ty, mask, x, y))
            }
            Ty::Int => {
                let (x, y) = (self.ints(body, a)?, self.ints(body, b)?);
                Lanes::Ints(self.choose(ty, mask, x, y))
            }
            Ty::Bool => {
                let (x, y) = (self.mask(body, a)?, self.mask(body, b)?);
                Lanes::Mask(self.choose(ty, mask, x, y))
            }
        }))
    }
}

/// The varying nodes that the vector body computes: those below the value, but not below a `leaf`.
fn needed(pool: &Pool, map: &Map, leaf: impl Fn(ExprId) -> bool) -> Vec<ExprId> {
    let mut wanted: HashSet<ExprId> = HashSet::from([map.value]);
    for &id in map.varying.iter().rev() {
        if wanted.contains(&id) && !leaf(id) {
            wanted.extend(pool.operands(id));
        }
    }
    map.varying.iter().copied().filter(|id| wanted.contains(id)).collect()
}
