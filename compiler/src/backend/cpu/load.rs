//! Elements of tensors, whatever the indices are.
//!
//! Comes in: a tensor and a value for each index. Goes out: the address or the value of an element that exists:
//! an index out of range becomes 0 and an empty tensor is replaced by scratch, so that no access leaves the
//! tensor. f16, bf16 and e4m3 are widened by bit arithmetic, f64 is rounded to f32. Storage need not be aligned.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value, types};

use crate::artifact::DType;
use crate::expr::{ExprId, TensorId, Ty};
use crate::tile_ir::TensorKind;

use super::BackendError;
use super::emitter::{Emitter, Key, Result};
use super::scratch::DUMMY;

/// 2^112, which moves the exponent of a widened f16 to its place.
const F16_EXPONENT: f64 = 5_192_296_858_534_827_628_530_496_329_220_096.0;

/// 2^120, which moves the exponent of a widened e4m3 to its place.
const F8_EXPONENT: f64 = 1_329_227_995_784_915_872_903_807_060_280_344_576.0;

impl Emitter<'_, '_> {
    /// The element as a value of type `ty`.
    pub fn load_element(&mut self, t: TensorId, index: (&[ExprId], &[Value]), ty: Ty) -> Result<Value> {
        let decl = self.tensor(t)?;
        if index.1.len() != decl.shape.len() || ty != decl.dtype.value_ty() {
            let what = format!("{} indices and the type of a {} element", decl.shape.len(), decl.dtype);
            return Err(BackendError::internal("load", what, &decl.name));
        }
        let address = self.element_address(t, index)?;
        let flags = self.load_flags(t)?;
        Ok(self.widen(decl.dtype, address, flags))
    }

    /// Tables do not change; nothing is promised about alignment of what the host binds.
    pub fn load_flags(&self, t: TensorId) -> Result<MemFlagsData> {
        let flags = MemFlagsData::new().with_notrap();
        let table = matches!(self.tensor(t)?.kind, TensorKind::Table { .. });
        Ok(if table { flags.with_readonly().with_can_move() } else { flags })
    }

    /// Address of an element that may be read (or, of a tensor of ours, written) whatever `index` is, as expressions and
    /// as their values.
    pub fn element_address(&mut self, t: TensorId, (ids, index): (&[ExprId], &[Value])) -> Result<Value> {
        let mut offset = None;
        for (dim, (&id, &at)) in ids.iter().zip(index).enumerate() {
            let key = Key::Offset(t, dim, at, offset);
            let with = match self.recall(key) {
                Some(known) => known,
                None => {
                    let at = if self.lies_in(id, t, dim) { at } else { self.clamped(t, dim, at) };
                    let with = self.add_dim(t, dim, at, offset)?;
                    self.remember(key, with);
                    with
                }
            };
            offset = Some(with);
        }
        self.at_offset(t, offset)
    }

    /// `index` if it is in range, else 0.
    pub fn clamped(&mut self, t: TensorId, dim: usize, index: Value) -> Value {
        if self.constant(index) == Some(0) {
            return index;
        }
        let size = self.size(t, dim);
        let inside = self.b.ins().icmp(IntCC::UnsignedLessThan, index, size);
        let zero = self.int(0);
        self.b.ins().select(inside, index, zero)
    }

    fn constant(&self, value: Value) -> Option<i64> {
        use cranelift_codegen::ir::{InstructionData, Opcode};
        let inst = self.b.func.dfg.value_def(value).inst()?;
        match self.b.func.dfg.insts[inst] {
            InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } => Some(imm.bits()),
            _ => None,
        }
    }

    /// `offset + index * stride`, in elements.
    pub fn add_dim(&mut self, t: TensorId, dim: usize, index: Value, offset: Option<Value>) -> Result<Value> {
        let stride = self.load_stride(t, dim)?;
        let part = self.b.ins().imul(index, stride);
        Ok(match offset {
            Some(offset) => self.b.ins().iadd(offset, part),
            None => part,
        })
    }

    /// Address of the element at an offset in elements from where loads start.
    pub fn at_offset(&mut self, t: TensorId, offset: Option<Value>) -> Result<Value> {
        let base = self.load_base(t)?;
        let size = self.tensor(t)?.dtype.size();
        Ok(match offset {
            Some(offset) => {
                let bytes = match size {
                    1 => offset,
                    _ => self.b.ins().ishl_imm_u(offset, i64::from(size.trailing_zeros())),
                };
                self.b.ins().iadd(base, bytes)
            }
            None => base,
        })
    }

    /// Does the tensor have elements? As i8.
    fn filled(&mut self, t: TensorId) -> Result<Value> {
        if let Some(known) = self.recall(Key::Filled(t)) {
            return Ok(known);
        }
        let mut all = self.b.ins().iconst(types::I8, 1);
        for dim in 0..self.tensor(t)?.shape.len() {
            let size = self.size(t, dim);
            let zero = self.int(0);
            let some = self.b.ins().icmp(IntCC::SignedGreaterThan, size, zero);
            all = if dim == 0 { some } else { self.b.ins().band(all, some) };
        }
        self.remember(Key::Filled(t), all);
        Ok(all)
    }

    fn load_base(&mut self, t: TensorId) -> Result<Value> {
        if let Some(known) = self.recall(Key::LoadBase(t)) {
            return Ok(known);
        }
        if self.has_elements(t) {
            return Ok(self.address(t));
        }
        let filled = self.filled(t)?;
        let address = self.address(t);
        let dummy = self.b.ins().iadd_imm_s(self.scratch, i64::from(DUMMY));
        let base = self.b.ins().select(filled, address, dummy);
        self.remember(Key::LoadBase(t), base);
        Ok(base)
    }

    /// Stride for loads, 0 of an empty tensor, whose elements all are the dummy.
    pub fn load_stride(&mut self, t: TensorId, dim: usize) -> Result<Value> {
        if let Some(known) = self.recall(Key::LoadStride(t, dim)) {
            return Ok(known);
        }
        if self.has_elements(t) {
            return Ok(self.stride(t, dim));
        }
        let filled = self.filled(t)?;
        let (stride, zero) = (self.stride(t, dim), self.int(0));
        let stride = self.b.ins().select(filled, stride, zero);
        self.remember(Key::LoadStride(t, dim), stride);
        Ok(stride)
    }

    /// The stored element at an address, in its register type.
    pub fn widen(&mut self, dtype: DType, address: Value, flags: MemFlagsData) -> Value {
        let load = |e: &mut Self, ty: Type| e.b.ins().load(ty, flags, address, 0);
        match dtype {
            DType::F32 => load(self, types::F32),
            DType::F64 => {
                let wide = load(self, types::F64);
                self.b.ins().fdemote(types::F32, wide)
            }
            DType::F16 | DType::Bf16 => {
                let narrow = load(self, types::I16);
                let bits = self.b.ins().uextend(types::I32, narrow);
                self.widen_half(dtype, bits)
            }
            DType::F8E4M3 => {
                let narrow = load(self, types::I8);
                let bits = self.b.ins().uextend(types::I32, narrow);
                self.widen_f8(bits)
            }
            DType::I8 | DType::I32 => {
                let narrow = load(self, if dtype == DType::I8 { types::I8 } else { types::I32 });
                self.b.ins().sextend(types::I64, narrow)
            }
            DType::I64 => load(self, types::I64),
            DType::Bit => {
                let byte = load(self, types::I8);
                self.b.ins().icmp_imm_u(IntCC::NotEqual, byte, 0)
            }
        }
    }

    /// f16 or bf16 bits, zero-extended in i32 or i32x4, as f32 or f32x4. Exact.
    pub fn widen_half(&mut self, dtype: DType, bits: Value) -> Value {
        let ints = self.b.func.dfg.value_type(bits);
        let floats = if ints == types::I32 { types::F32 } else { types::F32X4 };
        let lanes = MemFlagsData::new().with_endianness(cranelift_codegen::ir::Endianness::Little);
        if dtype == DType::Bf16 {
            let high = self.b.ins().ishl_imm_u(bits, 16);
            return self.b.ins().bitcast(floats, lanes, high);
        }
        let (size_mask, inf) = (self.splat_i32(ints, 0x7fff), self.splat_i32(ints, 0x7c00));
        let size = self.b.ins().band(bits, size_mask);
        let moved = self.b.ins().ishl_imm_u(size, 13);
        let moved = self.b.ins().bitcast(floats, lanes, moved);
        let factor = self.float(F16_EXPONENT);
        let factor = if floats == types::F32 { factor } else { self.b.ins().splat(floats, factor) };
        let scaled = self.b.ins().fmul(moved, factor);
        let scaled = self.b.ins().bitcast(ints, lanes, scaled);
        let infinite = self.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, size, inf);
        let (f32_inf, zero) = (self.splat_i32(ints, 0x7f80_0000), self.splat_i32(ints, 0));
        let exponent = if ints == types::I32 {
            self.b.ins().select(infinite, f32_inf, zero)
        } else {
            self.b.ins().band(infinite, f32_inf)
        };
        let above = self.b.ins().bor(scaled, exponent);
        let sign_mask = self.splat_i32(ints, 0x8000);
        let sign = self.b.ins().band(bits, sign_mask);
        let sign = self.b.ins().ishl_imm_u(sign, 16);
        let result = self.b.ins().bor(above, sign);
        self.b.ins().bitcast(floats, lanes, result)
    }

    /// e4m3 bits, zero-extended in i32 or i32x4, as f32 or f32x4. Exact.
    pub fn widen_f8(&mut self, bits: Value) -> Value {
        let ints = self.b.func.dfg.value_type(bits);
        let floats = if ints == types::I32 { types::F32 } else { types::F32X4 };
        let lanes = MemFlagsData::new().with_endianness(cranelift_codegen::ir::Endianness::Little);
        let (size_mask, nan) = (self.splat_i32(ints, 0x7f), self.splat_i32(ints, 0x7f));
        let size = self.b.ins().band(bits, size_mask);
        // Exponent and significand in their places, the exponent 120 too small; subnormals are subnormal.
        let moved = self.b.ins().ishl_imm_u(size, 20);
        let moved = self.b.ins().bitcast(floats, lanes, moved);
        let factor = self.float(F8_EXPONENT);
        let factor = if floats == types::F32 { factor } else { self.b.ins().splat(floats, factor) };
        let scaled = self.b.ins().fmul(moved, factor);
        let scaled = self.b.ins().bitcast(ints, lanes, scaled);
        let is_nan = self.b.ins().icmp(IntCC::Equal, size, nan);
        let (f32_nan, zero) = (self.splat_i32(ints, 0x7fc0_0000), self.splat_i32(ints, 0));
        let quiet = if ints == types::I32 {
            self.b.ins().select(is_nan, f32_nan, zero)
        } else {
            self.b.ins().band(is_nan, f32_nan)
        };
        let value = self.b.ins().bor(scaled, quiet);
        let sign_mask = self.splat_i32(ints, 0x80);
        let sign = self.b.ins().band(bits, sign_mask);
        let sign = self.b.ins().ishl_imm_u(sign, 24);
        let result = self.b.ins().bor(value, sign);
        self.b.ins().bitcast(floats, lanes, result)
    }

    fn splat_i32(&mut self, ty: Type, x: i64) -> Value {
        let scalar = self.b.ins().iconst(types::I32, x);
        if ty == types::I32 { scalar } else { self.b.ins().splat(ty, scalar) }
    }
}
