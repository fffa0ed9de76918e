//! Elements of tensors and tiles.
//!
//! Comes in: a tensor and a value for each index, or rows of a tensor. Goes out: the address or the value of an element.
//! What holds: what an *expression* loads exists: an index out of range becomes 0, and the runtime gives every tensor at
//! least 16 bytes that are set. Rows are the lowering's promise. Storage is aligned to its elements.

use attn_compiler::artifact::DType;
use attn_compiler::expr::{ExprId, TensorId, Ty as ExprTy};
use attn_compiler::tile_ir::{BufId, FlatRef, RowsRef};

use super::{Lower, Result};
use crate::GpuError;
use crate::simt_ir::{Bin, Cast, Cmp, Op, Space, Ty, Un, Val};

/// Rows of a tensor: the address of element (0, 0) and the bytes from row to row and column to column, all I64.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub base: Val,
    pub by_row: Val,
    pub by_col: Val,
    pub dtype: DType,
}

/// The type of an element in memory.
pub(super) const fn stored(dtype: DType) -> Ty {
    match dtype {
        DType::F32 => Ty::F32,
        DType::F64 => Ty::F64,
        DType::F16 => Ty::F16,
        DType::Bf16 => Ty::I16,
        DType::I8 | DType::Bit | DType::F8E4M3 => Ty::I8,
        DType::I32 => Ty::I32,
        DType::I64 => Ty::I64,
    }
}

impl Lower<'_> {
    fn stride(&mut self, t: TensorId, dim: usize) -> Val {
        self.word(self.layout.stride(t.0 as usize, dim))
    }

    /// Bytes of so many elements.
    fn bytes(&mut self, elements: Val, dtype: DType) -> Val {
        match dtype.size() {
            1 => elements,
            n => self.b.bin_int(Bin::Shl, elements, i64::from(n.trailing_zeros())),
        }
    }

    /// The element of a tensor as a value of an expression, whatever the indices are.
    pub(super) fn load_element(&mut self, t: TensorId, index: &[Val], ty: ExprTy) -> Result<Val> {
        let (dtype, rank) = (self.tensor(t)?.dtype, self.tensor(t)?.shape.len());
        if index.len() != rank || ty != dtype.value_ty() {
            let what = format!("{rank} indices and the type of a {dtype} element");
            return Err(GpuError::internal("load", what, self.tensor(t)?.name.clone()));
        }
        let mut offset = self.b.i64(0);
        for (dim, &at) in index.iter().enumerate() {
            let at = self.b.cast(Cast::SExt, Ty::I64, at);
            let (size, zero) = (self.word(self.layout.size(t.0 as usize, dim)), self.b.i64(0));
            let inside = self.b.cmp(Cmp::Ult, at, size);
            let at = self.b.select(inside, at, zero);
            let stride = self.stride(t, dim);
            let part = self.b.bin(Bin::Mul, at, stride);
            offset = self.b.bin(Bin::Add, offset, part);
        }
        let base = self.word(self.layout.address(t.0 as usize));
        let offset = self.bytes(offset, dtype);
        let addr = self.b.bin(Bin::Add, base, offset);
        let raw = self.b.load(Space::Global, stored(dtype), addr);
        Ok(self.widen(dtype, raw))
    }

    /// A stored element in its type for expressions.
    pub(super) fn widen(&mut self, dtype: DType, raw: Val) -> Val {
        match dtype {
            DType::F32 | DType::I32 | DType::I64 => raw,
            DType::F64 => self.b.cast(Cast::FTrunc, Ty::F32, raw),
            DType::F16 => self.b.cast(Cast::FExt, Ty::F32, raw),
            DType::Bf16 => {
                let bits = self.b.cast(Cast::ZExt, Ty::I32, raw);
                let high = self.b.bin_int(Bin::Shl, bits, 16);
                self.b.cast(Cast::Bits, Ty::F32, high)
            }
            DType::I8 => self.b.cast(Cast::SExt, Ty::I32, raw),
            DType::Bit => {
                let zero = self.b.def(Ty::I8, Op::Int(0));
                self.b.cmp(Cmp::Ne, raw, zero)
            }
            DType::F8E4M3 => self.widen_f8(raw),
        }
    }

    /// e4m3 to f32, exact.
    fn widen_f8(&mut self, raw: Val) -> Val {
        let bits = self.b.cast(Cast::ZExt, Ty::I32, raw);
        let size = self.b.bin_int(Bin::And, bits, 0x7f);
        // Exponent and significand in their places, the exponent 120 too small.
        let moved = self.b.bin_int(Bin::Shl, size, 20);
        let moved = self.b.cast(Cast::Bits, Ty::F32, moved);
        let factor = self.b.f32(f32::from_bits(247 << 23));
        let scaled = self.b.bin(Bin::FMul, moved, factor);
        let (all, nan) = (self.b.i32(0x7f), self.b.f32(f32::NAN));
        let is_nan = self.b.cmp(Cmp::Eq, size, all);
        let value = self.b.select(is_nan, nan, scaled);
        let value = self.b.cast(Cast::Bits, Ty::I32, value);
        let sign = self.b.bin_int(Bin::And, bits, 0x80);
        let sign = self.b.bin_int(Bin::Shl, sign, 24);
        let value = self.b.bin(Bin::Or, value, sign);
        self.b.cast(Cast::Bits, Ty::F32, value)
    }

    /// A stored element as a number: what reads rows takes ints and bits as numbers.
    pub(super) fn load_number(&mut self, dtype: DType, addr: Val) -> Val {
        let raw = self.b.load(Space::Global, stored(dtype), addr);
        let value = self.widen(dtype, raw);
        match dtype.value_ty() {
            ExprTy::Float => value,
            ExprTy::Int => self.b.cast(Cast::SiToF, Ty::F32, value),
            ExprTy::Bool => {
                let (one, zero) = (self.b.f32(1.0), self.b.f32(0.0));
                self.b.select(value, one, zero)
            }
        }
    }

    /// Stores a number: rounded to nearest even; ints saturate, NaN gives 0; bits ask `!= 0`.
    pub(super) fn store_number(&mut self, dtype: DType, addr: Val, x: Val) -> Result<()> {
        let raw = match dtype {
            DType::F32 => x,
            DType::F64 => self.b.cast(Cast::FExt, Ty::F64, x),
            DType::F16 => self.b.cast(Cast::FTrunc, Ty::F16, x),
            DType::Bf16 => self.b.cast(Cast::ToBf16, Ty::I16, x),
            DType::I8 | DType::I32 | DType::I64 => {
                let whole = self.b.un(Un::Rint, x);
                let ty = if dtype == DType::I64 { Ty::I64 } else { Ty::I32 };
                let int = self.b.cast(Cast::FToSi, ty, whole);
                return self.store_int(dtype, addr, int);
            }
            DType::Bit => {
                let zero = self.b.f32(0.0);
                let some = self.b.cmp(Cmp::FNe, x, zero);
                self.b.cast(Cast::ZExt, Ty::I8, some)
            }
            DType::F8E4M3 => self.narrow_f8(x),
        };
        self.b.store(Space::Global, addr, raw);
        Ok(())
    }

    /// f32 to e4m3, to nearest even; beyond 448 is NaN, as is NaN.
    fn narrow_f8(&mut self, x: Val) -> Val {
        let bits = self.b.cast(Cast::Bits, Ty::I32, x);
        let sign = self.b.bin_int(Bin::LShr, bits, 24);
        let sign = self.b.bin_int(Bin::And, sign, 0x80);
        let size = self.b.bin_int(Bin::And, bits, 0x7fff_ffff);
        // Normal results (from 2^-6 on): drop 20 bits of the significand with ties to even, move the exponent by 120.
        let low = self.b.bin_int(Bin::LShr, size, 20);
        let low = self.b.bin_int(Bin::And, low, 1);
        let up = self.b.bin_int(Bin::Add, low, 0x7_ffff);
        let rounded = self.b.bin(Bin::Add, size, up);
        let rounded = self.b.bin_int(Bin::LShr, rounded, 20);
        let normal = self.b.bin_int(Bin::Sub, rounded, 120 << 3);
        // Below: the value is a multiple of 2^-9.
        let (units, magnitude) = (self.b.f32(512.0), self.b.cast(Cast::Bits, Ty::F32, size));
        let count = self.b.bin(Bin::FMul, magnitude, units);
        let count = self.b.un(Un::Rint, count);
        let small = self.b.cast(Cast::FToSi, Ty::I32, count);
        let (least, most, nan) = (self.b.f32(0.015_625), self.b.i32(0x7e), self.b.i32(0x7f));
        let tiny = self.b.cmp(Cmp::FLt, magnitude, least);
        let fits = self.b.cmp(Cmp::Sle, normal, most);
        let large = self.b.select(fits, normal, nan);
        let code = self.b.select(tiny, small, large);
        let code = self.b.bin(Bin::Or, code, sign);
        self.b.cast(Cast::Trunc, Ty::I8, code)
    }

    /// Stores an int, cut to what the storage type holds.
    fn store_int(&mut self, dtype: DType, addr: Val, int: Val) -> Result<()> {
        let bounds = match dtype {
            DType::I8 => Some((i64::from(i8::MIN), i64::from(i8::MAX))),
            DType::I32 if self.b.ty(int) == Ty::I64 => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
            DType::I32 | DType::I64 => None,
            _ => return Err(GpuError::internal("store", "ints are stored as ints", format!("{dtype}"))),
        };
        let mut v = int;
        if let Some((lo, hi)) = bounds {
            let ty = self.b.ty(v);
            let (lo, hi) = (self.b.def(ty, Op::Int(lo)), self.b.def(ty, Op::Int(hi)));
            v = self.b.bin(Bin::SMax, v, lo);
            v = self.b.bin(Bin::SMin, v, hi);
        }
        let to = stored(dtype);
        let cast = if self.b.ty(v).bytes() < to.bytes() { Cast::SExt } else { Cast::Trunc };
        let v = self.b.cast(cast, to, v);
        self.b.store(Space::Global, addr, v);
        Ok(())
    }

    /// Stores the value of an expression.
    pub(super) fn store_value(&mut self, dtype: DType, addr: Val, x: Val) -> Result<()> {
        match dtype.value_ty() {
            ExprTy::Float => self.store_number(dtype, addr, x),
            ExprTy::Int => self.store_int(dtype, addr, x),
            ExprTy::Bool => {
                let byte = self.b.cast(Cast::ZExt, Ty::I8, x);
                self.b.store(Space::Global, addr, byte);
                Ok(())
            }
        }
    }

    /// Where rows of a tensor begin.
    pub(super) fn rows(&mut self, src: &RowsRef) -> Result<Rows> {
        let dtype = self.tensor(src.tensor)?.dtype;
        let mut offset = self.b.i64(0);
        for (dim, &at) in src.index.iter().enumerate() {
            let at = self.int64(at)?;
            let stride = self.stride(src.tensor, dim);
            let part = self.b.bin(Bin::Mul, at, stride);
            offset = self.b.bin(Bin::Add, offset, part);
        }
        let offset = self.bytes(offset, dtype);
        let address = self.word(self.layout.address(src.tensor.0 as usize));
        let base = self.b.bin(Bin::Add, address, offset);
        let (by_row, by_col) = (self.stride(src.tensor, src.row_dim), self.stride(src.tensor, src.col_dim));
        let (by_row, by_col) = (self.bytes(by_row, dtype), self.bytes(by_col, dtype));
        Ok(Rows { base, by_row, by_col, dtype })
    }

    /// Address of element (r, x) of rows; both I32.
    pub(super) fn row_element(&mut self, rows: Rows, r: Val, x: Val) -> Val {
        let start = self.row_start(rows, r);
        self.along(rows, start, x)
    }

    /// Address of element (r, 0) of rows.
    pub(super) fn row_start(&mut self, rows: Rows, r: Val) -> Val {
        let r = self.b.cast(Cast::SExt, Ty::I64, r);
        let part = self.b.bin(Bin::Mul, r, rows.by_row);
        self.b.bin(Bin::Add, rows.base, part)
    }

    /// Address x columns behind an element.
    pub(super) fn along(&mut self, rows: Rows, start: Val, x: Val) -> Val {
        let x = self.b.cast(Cast::SExt, Ty::I64, x);
        let part = self.b.bin(Bin::Mul, x, rows.by_col);
        self.b.bin(Bin::Add, start, part)
    }

    /// Address of the first of some consecutive elements of a workspace tensor, and their type.
    pub(super) fn flat(&mut self, at: &FlatRef) -> Result<(Val, DType)> {
        Ok((self.flat_at(at.tensor, at.offset)?, self.tensor(at.tensor)?.dtype))
    }

    /// Address of an element of a workspace tensor by its position.
    pub(super) fn flat_at(&mut self, t: TensorId, offset: ExprId) -> Result<Val> {
        let dtype = self.tensor(t)?.dtype;
        let offset = self.int64(offset)?;
        let offset = self.bytes(offset, dtype);
        let base = self.word(self.layout.address(t.0 as usize));
        Ok(self.b.bin(Bin::Add, base, offset))
    }

    /// Address `n` elements of a type behind another; `n` is I32.
    pub(super) fn behind(&mut self, addr: Val, n: Val, dtype: DType) -> Val {
        let n = self.b.cast(Cast::SExt, Ty::I64, n);
        let bytes = self.bytes(n, dtype);
        self.b.bin(Bin::Add, addr, bytes)
    }

    /// Shared offset of row `r` (I32) of a buffer.
    pub(super) fn tile_row(&mut self, buf: BufId, r: Val) -> Result<Val> {
        let cols = self.buffer(buf)?.cols;
        let row = self.b.bin_int(Bin::Mul, r, cols * 4);
        Ok(self.b.bin_int(Bin::Add, row, i64::from(self.places[buf.0 as usize])))
    }

    /// Shared offset of a column `c` (I32) of a row.
    pub(super) fn tile_col(&mut self, row: Val, c: Val) -> Val {
        let bytes = self.b.bin_int(Bin::Shl, c, 2);
        self.b.bin(Bin::Add, row, bytes)
    }

    /// Element (r, c) of a buffer.
    pub(super) fn tile_get(&mut self, buf: BufId, r: Val, c: Val) -> Result<Val> {
        let row = self.tile_row(buf, r)?;
        let at = self.tile_col(row, c);
        Ok(self.b.load(Space::Shared, Ty::F32, at))
    }

    /// Writes element (r, c) of a buffer.
    pub(super) fn tile_set(&mut self, buf: BufId, r: Val, c: Val, x: Val) -> Result<()> {
        let row = self.tile_row(buf, r)?;
        let at = self.tile_col(row, c);
        self.b.store(Space::Shared, at, x);
        Ok(())
    }

    /// Element r of a vector buffer.
    pub(super) fn vec_get(&mut self, buf: BufId, r: Val) -> Result<Val> {
        let at = self.tile_row(buf, r)?;
        Ok(self.b.load(Space::Shared, Ty::F32, at))
    }

    /// Writes element r of a vector buffer.
    pub(super) fn vec_set(&mut self, buf: BufId, r: Val, x: Val) -> Result<()> {
        let at = self.tile_row(buf, r)?;
        self.b.store(Space::Shared, at, x);
        Ok(())
    }
}
