//! Loads of consecutive elements along the columns of a map.
//!
//! Comes in: the loads of a map's value. Goes out: for each whose index moves by one element per column, forward
//! or backward, a [`Stream`]: an address for column 0 that is computed once for each row, and a condition under
//! which every column of the row is in range. Where the condition fails, the row is computed one column at a
//! time, with every index checked. Not here: loads with any other index; they check each lane.

use std::collections::HashMap;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{ConstantData, InstBuilder, MemFlagsData, Type, Value, types};

use crate::artifact::DType;
use crate::expr::range::Range;
use crate::expr::{ExprId, Op, Pool, TensorId, Ty, VarId};

use super::columns::{slope, slopes};
use super::emitter::{Emitter, Key, Result};
use super::lanes::{Body, LANES, Lanes, lane_order};
use super::map::Map;

/// Consecutive elements of one row of a map.
#[derive(Clone, Copy)]
pub(super) struct Stream {
    tensor: TensorId,
    /// Address of the element of column 0.
    start: Value,
    /// The next column's element comes before this one's.
    backward: bool,
    /// The dim along which the columns lie.
    dim: usize,
    /// Every column of the row is proved to be in range.
    inside: bool,
}

/// Streams and the loads that they are.
pub(super) type Streams = Vec<(ExprId, Stream)>;

/// A load that can be a stream: the dim that moves, and which way.
struct Shape<'a> {
    tensor: TensorId,
    index: &'a [ExprId],
    dim: usize,
    backward: bool,
}

fn shape<'a>(pool: &'a Pool, map: &Map, slopes: &HashMap<ExprId, i64>, id: ExprId) -> Option<Shape<'a>> {
    let Op::Load(tensor, index, _) = pool.op(id) else { return None };
    let mut moving = None;
    for (dim, &at) in index.iter().enumerate() {
        match slope(map, slopes, at)? {
            0 => {}
            by @ (1 | -1) if moving.is_none() => moving = Some((dim, by < 0)),
            _ => return None,
        }
    }
    moving.map(|(dim, backward)| Shape { tensor: *tensor, index, dim, backward })
}

impl Emitter<'_, '_> {
    /// The streams of a map for the row at hand, and whether all stay in range for columns 0..cols.
    pub fn streams(&mut self, map: &Map, cols: Value) -> Result<(HashMap<ExprId, Stream>, Option<Value>)> {
        let columns = Range { lo: 0, hi: self.range(map.cols).hi.max(1) - 1 };
        let pool = self.pool();
        let slopes = slopes(pool, map, |_| true);
        let mut streams = HashMap::new();
        let mut safe = None;
        for &id in &map.varying {
            let Some(shape) = shape(pool, map, &slopes, id) else { continue };
            // For what is proved of the moving index: the column is any of the row's.
            self.note_range(map.col, columns);
            self.note_below(map.col, map.cols);
            let (stream, inside) = self.stream(&shape, map.col, cols)?;
            streams.insert(id, stream);
            safe = match (safe, inside) {
                (Some(before), Some(inside)) => Some(self.b.ins().band(before, inside)),
                (before, inside) => before.or(inside),
            };
        }
        Ok((streams, safe))
    }

    /// A stream, and what must hold for it, unless that is proved.
    fn stream(&mut self, shape: &Shape, col: VarId, cols: Value) -> Result<(Stream, Option<Value>)> {
        let &Shape { tensor, index, dim, backward } = shape;
        let inside = self.lies_in(index[dim], tensor, dim);
        let first = self.at_first_column(index[dim], col)?;
        let mut offset = Some(first);
        for (other, &id) in index.iter().enumerate().filter(|(d, _)| *d != dim) {
            let at = self.scalar(id)?;
            let at = if self.lies_in(id, tensor, other) { at } else { self.clamped(tensor, other, at) };
            offset = Some(self.add_dim(tensor, other, at, offset)?);
        }
        let start = self.at_offset(tensor, offset)?;
        let stream = Stream { tensor, start, backward, dim, inside };
        let dense = if self.is_dense(tensor, dim) {
            None
        } else {
            let stride = self.stride(tensor, dim);
            Some(self.b.ins().icmp_imm_s(IntCC::Equal, stride, 1))
        };
        if inside {
            return Ok((stream, dense));
        }
        let size = self.size(tensor, dim);
        let room = self.b.ins().isub(size, cols);
        let lowest = if backward {
            let above = self.b.ins().isub(first, cols);
            self.b.ins().iadd_imm_s(above, 1)
        } else {
            first
        };
        let fits = self.b.ins().icmp_imm_s(IntCC::SignedGreaterThanOrEqual, room, 0);
        let inside = self.b.ins().icmp(IntCC::UnsignedLessThanOrEqual, lowest, room);
        let safe = self.b.ins().band(fits, inside);
        let safe = match dense {
            Some(dense) => self.b.ins().band(safe, dense),
            None => safe,
        };
        Ok((stream, Some(safe)))
    }

    /// Four elements of a stream.
    pub fn load_stream(&mut self, body: &Body, stream: Stream) -> Result<Lanes> {
        let dtype = self.tensor(stream.tensor)?.dtype;
        let flags = self.load_flags(stream.tensor)?;
        let shift = i64::from(dtype.size().trailing_zeros());
        let first = if stream.backward {
            let last = self.b.ins().iadd_imm_s(body.col, LANES - 1);
            self.b.ins().ineg(last)
        } else {
            body.col
        };
        let bytes = self.shifted(first, shift);
        let address = self.b.ins().iadd(stream.start, bytes);
        let lanes = self.load_four(dtype, address, flags);
        Ok(if stream.backward { self.reverse(lanes) } else { lanes })
    }

    /// Loads one column of streams that are in range, so that nothing works out where they lie a second time.
    pub fn load_along(&mut self, streams: &[(ExprId, Stream)], col: Value) -> Result<()> {
        for &(id, stream) in streams.iter().filter(|(_, stream)| stream.inside) {
            let dtype = self.tensor(stream.tensor)?.dtype;
            let flags = self.load_flags(stream.tensor)?;
            let stride = self.load_stride(stream.tensor, stream.dim)?;
            let elements = self.b.ins().imul(col, stride);
            let bytes = match dtype.size() {
                1 => elements,
                size => self.shifted(elements, i64::from(size.trailing_zeros())),
            };
            let address = if stream.backward {
                self.b.ins().isub(stream.start, bytes)
            } else {
                self.b.ins().iadd(stream.start, bytes)
            };
            let value = self.widen(dtype, address, flags);
            self.remember(Key::Expr(id), value);
        }
        Ok(())
    }

    /// Elements anywhere, every index checked. Halves are widened four at a time.
    pub fn gather(&mut self, body: &mut Body, t: TensorId, ids: &[ExprId], ty: Ty) -> Result<Lanes> {
        let mut lanes = vec![Vec::new(); LANES as usize];
        for &at in ids {
            for (lane, at) in lanes.iter_mut().zip(self.each(body, at)?) {
                lane.push(at);
            }
        }
        let dtype = self.tensor(t)?.dtype;
        let half = matches!(dtype, DType::F16 | DType::Bf16);
        let mut each = [self.scratch; 4];
        for (slot, index) in each.iter_mut().zip(&lanes) {
            *slot =
                if half { self.load_bits(t, (ids, index))? } else { self.load_element(t, (ids, index), ty)? };
        }
        if half {
            let bits = self.pack(types::I32X4, each);
            return Ok(Lanes::Floats(self.widen_half(dtype, bits)));
        }
        Ok(Lanes::Each(each))
    }

    /// The bits of an element of 16 bits, as i32.
    fn load_bits(&mut self, t: TensorId, index: (&[ExprId], &[Value])) -> Result<Value> {
        let (address, flags) = (self.element_address(t, index)?, self.load_flags(t)?);
        let bits = self.b.ins().load(types::I16, flags, address, 0);
        Ok(self.b.ins().uextend(types::I32, bits))
    }

    /// Four elements at an address, in ascending order.
    fn load_four(&mut self, dtype: DType, address: Value, flags: MemFlagsData) -> Lanes {
        match dtype {
            DType::F32 => Lanes::Floats(self.b.ins().load(types::F32X4, flags, address, 0)),
            DType::I32 => Lanes::Ints(self.b.ins().load(types::I32X4, flags, address, 0)),
            DType::F16 | DType::Bf16 => {
                let bits = self.b.ins().uload16x4(flags, address, 0);
                Lanes::Floats(self.widen_half(dtype, bits))
            }
            DType::I8 => Lanes::Ints(self.four_bytes(address, flags)),
            DType::F8E4M3 => {
                let bytes = self.four_bytes(address, flags);
                let low = self.b.ins().iconst(types::I32, 0xff);
                let low = self.b.ins().splat(types::I32X4, low);
                let bits = self.b.ins().band(bytes, low);
                Lanes::Floats(self.widen_f8(bits))
            }
            DType::Bit => {
                let bytes = self.four_bytes(address, flags);
                let zero = self.b.ins().iconst(types::I32, 0);
                let zero = self.b.ins().splat(types::I32X4, zero);
                Lanes::Mask(self.b.ins().icmp(IntCC::NotEqual, bytes, zero))
            }
            DType::F64 | DType::I64 => Lanes::Each(std::array::from_fn(|lane| {
                let at = self.b.ins().iadd_imm_s(address, lane as i64 * 8);
                self.widen(dtype, at, flags)
            })),
        }
    }

    /// Four signed bytes as i32x4.
    fn four_bytes(&mut self, address: Value, flags: MemFlagsData) -> Value {
        let word = self.b.ins().load(types::I32, flags, address, 0);
        let bytes = self.b.ins().scalar_to_vector(types::I32X4, word);
        let bytes = self.b.ins().bitcast(types::I8X16, lane_order(), bytes);
        let halves = self.b.ins().swiden_low(bytes);
        self.b.ins().swiden_low(halves)
    }

    fn reverse(&mut self, lanes: Lanes) -> Lanes {
        match lanes {
            Lanes::Floats(v) => Lanes::Floats(self.reverse_vector(types::F32X4, v)),
            Lanes::Ints(v) => Lanes::Ints(self.reverse_vector(types::I32X4, v)),
            Lanes::Mask(v) => Lanes::Mask(self.reverse_vector(types::I32X4, v)),
            Lanes::Each([a, b, c, d]) => Lanes::Each([d, c, b, a]),
        }
    }

    fn reverse_vector(&mut self, ty: Type, v: Value) -> Value {
        let order: Vec<u8> =
            (0..LANES as u8).rev().flat_map(|lane| (0..4).map(move |b| lane * 4 + b)).collect();
        let order = self.b.func.dfg.immediates.push(ConstantData::from(order));
        let bytes = self.b.ins().bitcast(types::I8X16, lane_order(), v);
        let turned = self.b.ins().shuffle(bytes, bytes, order);
        self.b.ins().bitcast(ty, lane_order(), turned)
    }
}
