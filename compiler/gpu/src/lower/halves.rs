//! 16-bit rows in shared memory, and products of them on the tensor cores (mma.sync m16n8k16).
//!
//! Comes in: rows of a tensor of f16 or bf16. Goes out: tiles in shared memory whose rows lie `PAD` bytes further apart than
//! they are long, so that the eight rows of a matrix lie in different banks; fragments of sums. What holds: rows and columns
//! behind the last are 0. Rows that lie at multiples of 16 bytes without gaps are copied asynchronously, 16 bytes at a
//! time; others element by element.

use attn_compiler::artifact::DType;
use attn_compiler::expr::ExprId;
use attn_compiler::tile_ir::{BufId, BufRows, Operand, RowsRef, Stmt};

use super::layout::Place;
use super::memory::Rows;
use super::{Lower, Result};
use crate::GpuError;
use crate::simt_ir::{Async, Bin, Cmp, Inst, Mma, Op, Slot, Space, Ty, Val};

/// Bytes between rows beyond their length.
const PAD: i64 = 16;
/// Elements of an asynchronous copy.
const CHUNK: i64 = 8;

/// A tile of 16-bit rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half {
    /// Shared offset.
    pub at: u32,
    /// Rows, a multiple of 16.
    pub rows: i64,
    /// Columns, a multiple of 16.
    pub cols: i64,
    /// What says that it is touched ([`super::sync`]).
    pub id: BufId,
}

impl Half {
    /// Bytes from row to row.
    fn stride(self) -> i64 {
        self.cols * 2 + PAD
    }

    /// Bytes in all.
    pub fn bytes(rows: i64, cols: i64) -> i64 {
        rows * (cols * 2 + PAD)
    }
}

/// What part of a tile is filled.
struct Filled {
    first: Val,
    rows: Val,
    d: Val,
    /// Rows up to this are written, with 0 behind the last.
    all: i64,
}

impl Lower<'_> {
    /// The address of element (r, c) of a tile, both I32.
    fn half_element(&mut self, half: Half, r: Val, c: Val) -> Val {
        let row = self.b.bin_int(Bin::Mul, r, half.stride());
        let col = self.b.bin_int(Bin::Shl, c, 1);
        let at = self.b.bin(Bin::Add, row, col);
        self.b.bin_int(Bin::Add, at, i64::from(half.at))
    }

    /// Rows of a tensor into a tile of queries.
    pub(super) fn load_half(&mut self, dst: &BufRows, src: &RowsRef, rows: ExprId, d: ExprId) -> Result<()> {
        let half = self.half_of(dst.buf)?;
        let most = self.buffer(dst.buf)?.rows;
        let rows = self.count(rows, most)?;
        let d = self.count(d, half.cols)?;
        let first = match dst.first {
            Some(first) => self.count(first, most)?,
            None => self.b.i32(0),
        };
        let from = self.rows(src)?;
        self.touch(&[], &[half.id]);
        // Rows that are not loaded are not looked at, but for those of a whole tile, which start at 0.
        let all = if dst.first.is_none() { half.rows } else { 0 };
        self.copy_rows(half, from, &Filled { first, rows, d, all })?;
        self.b.push(Inst::Async(Async::Commit));
        self.b.push(Inst::Async(Async::Wait(0)));
        Ok(())
    }

    /// The tile of 16-bit rows of a buffer.
    fn half_of(&self, b: BufId) -> Result<Half> {
        let missing = || GpuError::internal("halves", "a tile of 16-bit rows", format!("{b:?}"));
        self.halves.get(&b).copied().ok_or_else(missing)
    }

    /// Copies rows: in one way where they lie well, in the other where not.
    fn copy_rows(&mut self, half: Half, from: Rows, filled: &Filled) -> Result<()> {
        let two = self.b.i64(2);
        let dense = self.b.cmp(Cmp::Eq, from.by_col, two);
        let starts = self.b.bin(Bin::Or, from.base, from.by_row);
        let off = self.b.bin_int(Bin::And, starts, 15);
        let zero = self.b.i64(0);
        let aligned = self.b.cmp(Cmp::Eq, off, zero);
        let well = self.b.bin(Bin::And, dense, aligned);
        let then = self.scoped(|l| l.copy_chunks(half, from, filled))?;
        let otherwise = self.scoped(|l| l.copy_elements(half, from, filled))?;
        self.b.push(Inst::If { cond: well, then, otherwise });
        Ok(())
    }

    /// How many rows are written, with those behind the last.
    fn rows_to_write(&mut self, filled: &Filled) -> Val {
        if filled.all > 0 { self.b.i32(filled.all) } else { filled.rows }
    }

    fn copy_chunks(&mut self, half: Half, from: Rows, filled: &Filled) -> Result<()> {
        let per_row = half.cols / CHUNK;
        let rows = self.rows_to_write(filled);
        let n = self.b.bin_int(Bin::Mul, rows, per_row);
        self.each_thread(n, |l, i| {
            let by = l.b.i32(per_row);
            let r = l.b.bin(Bin::SDiv, i, by);
            let back = l.b.bin(Bin::Mul, r, by);
            let chunk = l.b.bin(Bin::Sub, i, back);
            let x = l.b.bin_int(Bin::Mul, chunk, CHUNK);
            // Bytes that exist of this chunk.
            let left = l.b.bin(Bin::Sub, filled.d, x);
            let left = l.b.bin_int(Bin::Shl, left, 1);
            let (zero, all) = (l.b.i32(0), l.b.i32(CHUNK * 2));
            let left = l.b.bin(Bin::SMin, left, all);
            let left = l.b.bin(Bin::SMax, left, zero);
            let exists = l.b.cmp(Cmp::Slt, r, filled.rows);
            let bytes = l.b.select(exists, left, zero);
            let some = l.b.cmp(Cmp::Slt, zero, bytes);
            let src = l.row_element(from, r, x);
            let src = l.b.select(some, src, from.base);
            let at = l.b.bin(Bin::Add, filled.first, r);
            let dst = l.half_element(half, at, x);
            l.b.push(Inst::Async(Async::Copy { dst, src, bytes }));
            Ok(())
        })
    }

    fn copy_elements(&mut self, half: Half, from: Rows, filled: &Filled) -> Result<()> {
        let rows = self.rows_to_write(filled);
        let n = self.b.bin_int(Bin::Mul, rows, half.cols);
        self.each_thread(n, |l, i| {
            let by = l.b.i32(half.cols);
            let r = l.b.bin(Bin::SDiv, i, by);
            let back = l.b.bin(Bin::Mul, r, by);
            let x = l.b.bin(Bin::Sub, i, back);
            let (has_row, has_col) = (l.b.cmp(Cmp::Slt, r, filled.rows), l.b.cmp(Cmp::Slt, x, filled.d));
            let exists = l.b.bin(Bin::And, has_row, has_col);
            let none = l.b.def(Ty::I16, Op::Int(0));
            let slot = l.b.slot(none);
            l.when(exists, |l| {
                let addr = l.row_element(from, r, x);
                let raw = l.b.load(Space::Global, Ty::I16, addr);
                l.b.set(slot, raw);
                Ok(())
            })?;
            let at = l.b.bin(Bin::Add, filled.first, r);
            let (dst, raw) = (l.half_element(half, at, x), l.b.get(slot));
            l.b.store(Space::Shared, dst, raw);
            Ok(())
        })
    }

    /// Brings the right operand of a product into shared memory.
    fn stage(&mut self, src: &RowsRef, keys: ExprId, d: ExprId, (rows, cols): (i64, i64)) -> Result<Half> {
        let half = self.new_stage(rows, cols);
        let (keys, d) = (self.count(keys, rows)?, self.count(d, cols)?);
        let from = self.rows(src)?;
        let first = self.b.i32(0);
        self.touch(&[], &[half.id]);
        self.copy_rows(half, from, &Filled { first, rows: keys, d, all: rows })?;
        self.b.push(Inst::Async(Async::Commit));
        self.b.push(Inst::Async(Async::Wait(0)));
        self.touch(&[half.id], &[]);
        Ok(half)
    }

    /// A product on the tensor cores.
    pub(super) fn mma_gemm(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::Gemm { c, a, b, k, n, row_scale, accumulate, .. } = stmt else { return Ok(()) };
        let (cols, depth) = (self.buffer(*c)?.cols, self.buffer(*a)?.cols);
        let (src, half) = match b {
            Operand::Columns(src) => (src, self.stage(src, *n, *k, (cols, depth))?),
            Operand::Rows(src) => (src, self.stage(src, *k, *n, (depth, cols))?),
            Operand::Panels(_) | Operand::Buffer(_) => {
                return Err(GpuError::internal("halves", "operands are rows of tensors", format!("{b:?}")));
            }
        };
        let columns = matches!(b, Operand::Columns(_));
        let sums = self.fragment(*c)?;
        self.rescale(&sums, *row_scale, *accumulate)?;
        let bf16 = self.tensor(src.tensor)?.dtype == DType::Bf16;
        let from_shared = matches!(self.layouts.as_ref().map(|l| l.places[a]), Some(Place::Half(_)));
        if from_shared {
            let id = self.half_of(*a)?.id;
            self.touch(&[id], &[]);
        }
        for step in 0..depth / 16 {
            let left =
                if from_shared { self.left_shared(*a, step)? } else { self.left_registers(*a, step, bf16)? };
            for pair in 0..cols / 16 {
                let right = self.right_fragments(half, columns, step, pair);
                for (m, b) in right.into_iter().enumerate() {
                    let at = (pair as usize * 2 + m) * 4;
                    let d = [sums[at], sums[at + 1], sums[at + 2], sums[at + 3]];
                    self.b.push(Inst::Mma(Mma { bf16, d, a: left, b }));
                }
            }
        }
        Ok(())
    }

    /// What the sums hold before the product.
    fn rescale(&mut self, sums: &[Slot], row_scale: Option<BufId>, accumulate: bool) -> Result<()> {
        if !accumulate {
            let zero = self.b.f32(0.0);
            sums.iter().for_each(|s| self.b.set(*s, zero));
            return Ok(());
        }
        let Some(scale) = row_scale else { return Ok(()) };
        let scale = self.state(scale)?.map(|s| self.b.get(s));
        for (n, slot) in sums.iter().enumerate() {
            let old = self.b.get(*slot);
            let new = self.b.bin(Bin::FMul, old, scale[n / 2 % 2]);
            self.b.set(*slot, new);
        }
        Ok(())
    }

    /// The left operand of 16 rows of this warp and columns 16 `step`.. from shared memory.
    fn left_shared(&mut self, a: BufId, step: i64) -> Result<[Val; 4]> {
        let half = self.half_of(a)?;
        let row = self.b.bin_int(Bin::And, self.lane, 15);
        let first = self.b.bin_int(Bin::Shl, self.warp, 4);
        let row = self.b.bin(Bin::Add, first, row);
        let right = self.b.bin_int(Bin::LShr, self.lane, 4);
        let col = self.b.bin_int(Bin::Shl, right, 3);
        let col = self.b.bin_int(Bin::Add, col, step * 16);
        let at = self.half_element(half, row, col);
        Ok(self.b.ldmatrix(at, false))
    }

    /// The left operand from sums of this warp, rounded.
    fn left_registers(&mut self, a: BufId, step: i64, bf16: bool) -> Result<[Val; 4]> {
        let from = self.fragment(a)?;
        let first = step as usize * 8;
        let mut pair = |n: usize| {
            let (low, high) = (self.b.get(from[first + n]), self.b.get(from[first + n + 1]));
            self.b.pack(bf16, low, high)
        };
        Ok([pair(0), pair(2), pair(4), pair(6)])
    }

    /// The right operand for 16 terms and two runs of 8 columns.
    fn right_fragments(&mut self, half: Half, columns: bool, step: i64, pair: i64) -> [[Val; 2]; 2] {
        let low = self.b.bin_int(Bin::And, self.lane, if columns { 7 } else { 15 });
        let high = self.b.bin_int(Bin::LShr, self.lane, 4);
        let (row, col) = if columns {
            // Matrices: keys 0-7 and 8-15 by bit 4 of the lane, features 0-7 and 8-15 by bit 3.
            let far = self.b.bin_int(Bin::Shl, high, 3);
            let row = self.b.bin(Bin::Add, low, far);
            let part = self.b.bin_int(Bin::And, self.lane, 8);
            (self.b.bin_int(Bin::Add, row, pair * 16), self.b.bin_int(Bin::Add, part, step * 16))
        } else {
            let part = self.b.bin_int(Bin::Shl, high, 3);
            (self.b.bin_int(Bin::Add, low, step * 16), self.b.bin_int(Bin::Add, part, pair * 16))
        };
        let at = self.half_element(half, row, col);
        let [a, b, c, d] = self.b.ldmatrix(at, !columns);
        [[a, b], [c, d]]
    }

    /// Clears tiles whose rows are loaded part by part: rows that no part loads are looked at by products.
    pub(super) fn clear_partial(&mut self, stmts: &[Stmt]) -> Result<()> {
        for stmt in stmts {
            match stmt {
                Stmt::For { body, .. } => self.clear_partial(body)?,
                Stmt::If { then, otherwise, .. } => {
                    self.clear_partial(then)?;
                    self.clear_partial(otherwise)?;
                }
                Stmt::LoadRows { dst: BufRows { buf, first: Some(_) }, .. } => {
                    let half = self.half_of(*buf)?;
                    self.touch(&[], &[half.id]);
                    let (n, zero) = (self.b.i32(Half::bytes(half.rows, half.cols) / 4), self.b.i32(0));
                    self.each_thread(n, |l, i| {
                        let at = l.b.bin_int(Bin::Shl, i, 2);
                        let at = l.b.bin_int(Bin::Add, at, i64::from(half.at));
                        l.b.store(Space::Shared, at, zero);
                        Ok(())
                    })?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
