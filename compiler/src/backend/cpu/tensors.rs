//! Statements that write tensors element by element, and those of whole vectors in workspace.
//!
//! Comes in: a statement of a verified block. Goes out: two loops around an expression, one column at a time, each
//! element stored in its type; or one call. Rows and columns are cut to the buffers that are read; that they fit
//! the tensor is the lowering's promise, as for every run of rows.

use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};

use crate::artifact::{DType, Intrinsic};
use crate::expr::range::Range;
use crate::tile_ir::{Access, BufId, FlatRef, Stmt};

use super::emitter::{Emitter, Result};
use super::scratch::SPILL;
use super::{BackendError, MAX_LEN};

impl Emitter<'_, '_> {
    /// A map into a tensor.
    pub fn store_map(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::StoreMap { dst, rows, cols, row, col, reads, value } = stmt else {
            return Err(BackendError::internal("tensors", "only a StoreMap comes here", format!("{stmt:?}")));
        };
        let (mut most_rows, mut most_cols) = (MAX_LEN, MAX_LEN);
        for &(_, buf, access) in reads {
            let buffer = self.buffer(buf)?;
            most_rows = if access == Access::Col { most_rows } else { most_rows.min(buffer.rows) };
            most_cols = if access == Access::Row { most_cols } else { most_cols.min(buffer.cols) };
        }
        let (row_end, col_end) = (*rows, *cols);
        let (rows, cols) = (self.count(row_end, most_rows)?, self.count(col_end, most_cols)?);
        let dtype = self.tensor(dst.tensor)?.dtype;
        let start = self.rows_address(dst)?;
        let [by_row, by_col] = self.strides(dst).map(|s| self.b.ins().imul_imm_s(s, dtype.size() as i64));
        let zero = self.int(0);
        self.count_loop((zero, rows, 1), [(start, by_row)], |e, r, [start]| {
            e.bind(*row, r, Range { lo: 0, hi: most_rows - 1 });
            e.note_below(*row, row_end);
            e.count_loop((zero, cols, 1), [(start, by_col)], |e, c, [address]| {
                e.bind(*col, c, Range { lo: 0, hi: most_cols - 1 });
                e.note_below(*col, col_end);
                for &(var, buf, access) in reads {
                    let at = e.read_address((buf, access), r, c)?;
                    let element = e.load_float(at);
                    e.bind(var, element, Range::ALL);
                }
                let value = e.scalar(*value)?;
                e.store_element(dtype, value, address)
            })
        })
    }

    /// Where a map finds an element of a buffer.
    fn read_address(&mut self, (buf, access): (BufId, Access), r: Value, c: Value) -> Result<Value> {
        let ld = self.ld(buf)?;
        let base = self.buffer_address(buf)?;
        let row_start = if access == Access::Col {
            base
        } else {
            let bytes = self.b.ins().imul_imm_s(r, ld * 4);
            self.b.ins().iadd(base, bytes)
        };
        Ok(if access == Access::Row { row_start } else { self.element(row_start, c) })
    }

    /// Stores a value of the type that the storage type stands for. Halves are rounded by an intrinsic.
    fn store_element(&mut self, dtype: DType, value: Value, address: Value) -> Result<()> {
        let value = match dtype {
            DType::F16 | DType::Bf16 | DType::F8E4M3 => {
                let from = self.b.ins().iadd_imm_s(self.scratch, i64::from(SPILL));
                self.b.ins().store(MemFlagsData::trusted(), value, from, 0);
                let (code, one) = (self.b.ins().iconst(types::I32, dtype as i64), self.int(1));
                return self.run(Intrinsic::StoreVec, &[from, address, code, one, one]);
            }
            DType::F64 => self.b.ins().fpromote(types::F64, value),
            DType::I8 => self.cut_int(value, i64::from(i8::MIN), i64::from(i8::MAX), types::I8),
            DType::I32 => self.cut_int(value, i64::from(i32::MIN), i64::from(i32::MAX), types::I32),
            DType::F32 | DType::I64 | DType::Bit => value,
        };
        self.b.ins().store(MemFlagsData::new().with_notrap(), value, address, 0);
        Ok(())
    }

    fn cut_int(&mut self, x: Value, lo: i64, hi: i64, ty: types::Type) -> Value {
        let (lo, hi) = (self.int(lo), self.int(hi));
        let x = self.b.ins().smax(x, lo);
        let x = self.b.ins().smin(x, hi);
        self.b.ins().ireduce(ty, x)
    }

    /// A selection of the largest elements of a vector.
    pub fn top_k(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::TopK { indices, ranks, src, n, m, width } = stmt else {
            return Err(BackendError::internal("tensors", "only a TopK comes here", format!("{stmt:?}")));
        };
        let (n, m, width) = (self.count(*n, i64::MAX)?, self.scalar(*m)?, self.scalar(*width)?);
        let indices = self.flat(indices)?;
        let ranks = match ranks {
            Some(ranks) => self.flat(ranks)?,
            None => self.int(0),
        };
        let (dtype, from) = (self.dtype(src.tensor)?, self.rows_address(src)?);
        let stride = self.stride(src.tensor, src.row_dim);
        self.run(Intrinsic::TopK, &[indices, ranks, from, dtype, n, stride, m, width])
    }

    /// Address of the first of consecutive elements of workspace, which are of four bytes.
    pub fn flat(&mut self, flat: &FlatRef) -> Result<Value> {
        let offset = self.scalar(flat.offset)?;
        let bytes = self.b.ins().ishl_imm_u(offset, 2);
        let base = self.address(flat.tensor);
        Ok(self.b.ins().iadd(base, bytes))
    }
}
