//! Values for four columns at once, and the ways from one form to another.
//!
//! Comes in: nodes of a map's value that were computed for four columns, or that do not depend on the column.
//! Goes out: the same as packed floats, packed 32-bit ints, a lane mask, or four scalars. What holds: an int is
//! packed only if interval arithmetic proved that it fits 32 bits, so nothing is lost.

use std::collections::HashMap;

use rustc_hash::FxHashMap;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Endianness, InstBuilder, MemFlagsData, Type, Value, types};

use crate::expr::range::Range;
use crate::expr::{ExprId, Ty};

use super::columns::Threshold;
use super::emitter::{Emitter, Result};
use super::vload::Stream;

/// Columns computed at once.
pub(super) const LANES: i64 = 4;

/// A value for each of four columns.
#[derive(Clone, Copy)]
pub(super) enum Lanes {
    /// f32x4
    Floats(Value),
    /// i32x4, for ints that fit
    Ints(Value),
    /// i32x4, each lane all ones or zero
    Mask(Value),
    /// Scalars in their register type.
    Each([Value; 4]),
}

/// What is known while the vector body of a map is emitted.
pub(super) struct Body {
    /// Of every int node below the value.
    pub ranges: FxHashMap<ExprId, Range>,
    /// Loads of consecutive elements.
    pub streams: HashMap<ExprId, Stream>,
    /// Comparisons that need no arithmetic here.
    pub thresholds: HashMap<ExprId, Threshold>,
    /// Nodes that depend on the column, as far as they are computed.
    pub known: HashMap<ExprId, Lanes>,
    /// The first of the four columns.
    pub col: Value,
    /// All four, i32x4.
    pub cols: Value,
}

impl Body {
    /// Bounds of an int node.
    pub fn range(&self, id: ExprId) -> Range {
        self.ranges.get(&id).copied().unwrap_or(Range::ALL)
    }

    /// Does the int fit 32 bits?
    pub fn narrow(&self, id: ExprId) -> bool {
        let range = self.range(id);
        range.lo >= i64::from(i32::MIN) && range.hi <= i64::from(i32::MAX)
    }

    /// Does the int fit 32 bits with room on both sides?
    pub fn strictly_narrow(&self, id: ExprId) -> bool {
        let range = self.range(id);
        range.lo > i64::from(i32::MIN) && range.hi < i64::from(i32::MAX)
    }
}

/// Flags for moving bits between vector types of equal lanes.
pub(super) fn lane_order() -> MemFlagsData {
    MemFlagsData::new().with_endianness(Endianness::Little)
}

impl Emitter<'_, '_> {
    /// A float node as f32x4.
    pub fn floats(&mut self, body: &Body, id: ExprId) -> Result<Value> {
        match body.known.get(&id) {
            Some(Lanes::Floats(v) | Lanes::Ints(v) | Lanes::Mask(v)) => Ok(*v),
            Some(Lanes::Each(each)) => Ok(self.pack(types::F32X4, *each)),
            None => {
                let x = self.scalar(id)?;
                Ok(self.b.ins().splat(types::F32X4, x))
            }
        }
    }

    /// A narrow int node as i32x4.
    pub fn ints(&mut self, body: &Body, id: ExprId) -> Result<Value> {
        match body.known.get(&id) {
            Some(Lanes::Floats(v) | Lanes::Ints(v) | Lanes::Mask(v)) => Ok(*v),
            Some(Lanes::Each(each)) => {
                let each = each.map(|x| self.b.ins().ireduce(types::I32, x));
                Ok(self.pack(types::I32X4, each))
            }
            None => {
                let x = self.scalar(id)?;
                let x = self.b.ins().ireduce(types::I32, x);
                Ok(self.b.ins().splat(types::I32X4, x))
            }
        }
    }

    /// A bool node as a lane mask.
    pub fn mask(&mut self, body: &Body, id: ExprId) -> Result<Value> {
        match body.known.get(&id) {
            Some(Lanes::Floats(v) | Lanes::Ints(v) | Lanes::Mask(v)) => Ok(*v),
            Some(Lanes::Each(each)) => {
                let each = each.map(|x| self.b.ins().bmask(types::I32, x));
                Ok(self.pack(types::I32X4, each))
            }
            None => {
                let x = self.scalar(id)?;
                let x = self.b.ins().bmask(types::I32, x);
                Ok(self.b.ins().splat(types::I32X4, x))
            }
        }
    }

    /// A node of any type as four scalars in register types.
    pub fn each(&mut self, body: &mut Body, id: ExprId) -> Result<[Value; 4]> {
        let Some(&lanes) = body.known.get(&id) else {
            return Ok([self.scalar(id)?; 4]);
        };
        Ok(match lanes {
            Lanes::Each(each) => each,
            Lanes::Floats(v) => self.unpack(v),
            Lanes::Ints(v) => self.unpack(v).map(|x| self.b.ins().sextend(types::I64, x)),
            Lanes::Mask(v) => self.unpack(v).map(|x| self.b.ins().icmp_imm_s(IntCC::NotEqual, x, 0)),
        })
    }

    fn unpack(&mut self, v: Value) -> [Value; 4] {
        std::array::from_fn(|lane| self.b.ins().extractlane(v, lane as u8))
    }

    /// Four scalars as one vector.
    pub fn pack(&mut self, ty: Type, each: [Value; 4]) -> Value {
        let mut v = self.b.ins().scalar_to_vector(ty, each[0]);
        for (lane, &x) in each.iter().enumerate().skip(1) {
            v = self.b.ins().insertlane(v, x, lane as u8);
        }
        v
    }

    /// `mask ? a : b` lane by lane, for nodes of one type. Selecting as ints lets a comparison be a blend.
    pub fn choose(&mut self, ty: Ty, mask: Value, a: Value, b: Value) -> Value {
        if ty != Ty::Float {
            return self.b.ins().bitselect(mask, a, b);
        }
        let [a, b] = [a, b].map(|v| self.b.ins().bitcast(types::I32X4, lane_order(), v));
        let chosen = self.b.ins().bitselect(mask, a, b);
        self.b.ins().bitcast(types::F32X4, lane_order(), chosen)
    }
}
