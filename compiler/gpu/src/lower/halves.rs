//! 16-bit rows in shared memory: where their elements lie, and how they come there.
//!
//! Comes in: rows of a tensor of f16 or bf16. Goes out: tiles in shared memory in one of two forms. For ldmatrix, rows
//! lie `PAD` bytes further apart than they are long, so that the eight rows of a matrix lie in different banks. For
//! wgmma, a tile is made of panels of 64 columns, [rows][128 bytes], in each of which the 16-byte piece c of row r lies at
//! c ^ (r mod 8): the 128-byte swizzle. What holds: rows and columns behind the last are 0. Rows that lie at multiples of
//! 16 bytes without gaps are copied asynchronously, 16 bytes at a time; others element by element.

use attn_compiler::expr::ExprId;
use attn_compiler::tile_ir::{BufId, BufRows, RowsRef, Stmt};

use super::memory::Rows;
use super::{Lower, Result};
use crate::GpuError;
use crate::simt_ir::{Async, Bin, Cast, Cmp, Inst, Op, Space, Ty, Val, Wgmma};

/// Bytes between rows beyond their length, for ldmatrix.
const PAD: i64 = 16;
/// Elements of an asynchronous copy.
const CHUNK: i64 = 8;
/// Columns of a panel, for wgmma.
pub(super) const PANEL: i64 = 64;
/// Bytes of a row of a panel.
const PANEL_ROW: i64 = PANEL * 2;

/// A tile of 16-bit rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half {
    /// Shared offset, a multiple of 16; of 1024 for panels.
    pub at: u32,
    /// Bytes behind `at`, an I32: which stage of several.
    pub stage: Option<Val>,
    /// Rows, a multiple of 16; of 8 for panels.
    pub rows: i64,
    /// Columns, a multiple of 16; of 64 for panels.
    pub cols: i64,
    /// Panels for wgmma, else rows for ldmatrix.
    pub panels: bool,
    /// What says that it is touched ([`super::sync`]).
    pub id: BufId,
}

impl Half {
    /// A tile for so many rows and columns, at a place that is given later.
    pub fn new(rows: i64, cols: i64, panels: bool, id: BufId) -> Half {
        let cols = if panels { (cols + PANEL - 1) / PANEL * PANEL } else { cols };
        Half { at: 0, stage: None, rows, cols, panels, id }
    }

    /// Bytes in all.
    pub fn bytes(self) -> i64 {
        if self.panels { self.rows * self.cols * 2 } else { self.rows * (self.cols * 2 + PAD) }
    }

    /// Its place is a multiple of this.
    pub fn align(self) -> u64 {
        if self.panels { 1024 } else { 16 }
    }

    /// Bytes from panel to panel.
    pub fn panel_bytes(self) -> i64 {
        self.rows * PANEL_ROW
    }
}

/// What part of a tile is filled.
pub(super) struct Filled {
    pub first: Val,
    pub rows: Val,
    pub d: Val,
    /// Rows up to this are written, with 0 behind the last.
    pub all: i64,
}

impl Lower<'_> {
    /// The place of element (r, c) of a tile, both I32.
    pub(super) fn half_element(&mut self, half: Half, r: Val, c: Val) -> Val {
        let within = if half.panels {
            let panel = self.b.bin_int(Bin::AShr, c, 6);
            let start = self.b.bin_int(Bin::Mul, panel, half.panel_bytes());
            let row = self.b.bin_int(Bin::Mul, r, PANEL_ROW);
            let piece = self.b.bin_int(Bin::AShr, c, 3);
            let mixed = self.b.bin(Bin::Xor, piece, r);
            let mixed = self.b.bin_int(Bin::And, mixed, 7);
            let mixed = self.b.bin_int(Bin::Shl, mixed, 4);
            let low = self.b.bin_int(Bin::And, c, CHUNK - 1);
            let low = self.b.bin_int(Bin::Shl, low, 1);
            let at = self.b.bin(Bin::Add, start, row);
            let piece = self.b.bin(Bin::Or, mixed, low);
            self.b.bin(Bin::Add, at, piece)
        } else {
            let row = self.b.bin_int(Bin::Mul, r, half.cols * 2 + PAD);
            let col = self.b.bin_int(Bin::Shl, c, 1);
            self.b.bin(Bin::Add, row, col)
        };
        let at = self.b.bin_int(Bin::Add, within, i64::from(half.at));
        match half.stage {
            Some(stage) => self.b.bin(Bin::Add, at, stage),
            None => at,
        }
    }

    /// The descriptor of a tile's first element for wgmma: 128-byte swizzle, 1024 bytes from 8 rows to the next 8, a
    /// panel's bytes from panel to panel.
    pub(super) fn descriptor(&mut self, half: Half) -> Val {
        let base = self.b.def(Ty::I32, Op::SharedBase);
        let at = self.b.bin_int(Bin::Add, base, i64::from(half.at));
        let at = match half.stage {
            Some(stage) => self.b.bin(Bin::Add, at, stage),
            None => at,
        };
        let low = self.b.bin_int(Bin::LShr, at, 4);
        let low = self.b.bin_int(Bin::And, low, 0x3fff);
        let low = self.b.cast(Cast::ZExt, Ty::I64, low);
        let fixed = (half.panel_bytes() >> 4) << 16 | (1024 >> 4) << 32 | 1 << 62;
        self.b.bin_int(Bin::Or, low, fixed)
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
        if !self.in_parts {
            self.touch(&[], &[half.id]);
        }
        // Rows that are not loaded are not looked at, but for those of a whole tile, which start at 0.
        let all = if dst.first.is_none() { half.rows } else { 0 };
        self.copy_rows(half, from, &Filled { first, rows, d, all })?;
        if !self.in_parts {
            self.arrived(half, 0);
        }
        Ok(())
    }

    /// Ends a group of copies and waits until at most `pending` groups are on their way. A barrier then shows what came.
    pub(super) fn arrived(&mut self, half: Half, pending: u32) {
        self.b.push(Inst::Async(Async::Commit));
        self.wait_copies(half.panels, pending);
    }

    /// Waits until at most `pending` groups are on their way.
    pub(super) fn wait_copies(&mut self, panels: bool, pending: u32) {
        self.b.push(Inst::Async(Async::Wait(pending)));
        if panels {
            self.b.push(Inst::Wgmma(Wgmma::ProxyFence));
        }
    }

    /// The tile of 16-bit rows of a buffer.
    pub(super) fn half_of(&self, b: BufId) -> Result<Half> {
        let missing = || GpuError::internal("halves", "a tile of 16-bit rows", format!("{b:?}"));
        self.halves.get(&b).copied().ok_or_else(missing)
    }

    /// Copies rows: in one way where they lie well, in the other where not.
    pub(super) fn copy_rows(&mut self, half: Half, from: Rows, filled: &Filled) -> Result<()> {
        let two = self.b.i64(2);
        let dense = self.b.cmp(Cmp::Eq, from.by_col, two);
        let starts = self.b.bin(Bin::Or, from.base, from.by_row);
        let off = self.b.bin_int(Bin::And, starts, 15);
        let zero = self.b.i64(0);
        let aligned = self.b.cmp(Cmp::Eq, off, zero);
        let well = self.b.bin(Bin::And, dense, aligned);
        let per_row = half.cols / CHUNK;
        let threads = i64::from(self.threads);
        let even = filled.all > 0 && threads % per_row == 0 && filled.all % (threads / per_row) == 0;
        let then = self.scoped(|l| match even {
            true => l.copy_evenly(half, from, filled),
            false => l.copy_chunks(half, from, filled),
        })?;
        let otherwise = self.scoped(|l| l.copy_elements(half, from, filled))?;
        self.b.push(Inst::If { cond: well, then, otherwise });
        Ok(())
    }

    /// How many rows are written, with those behind the last.
    fn rows_to_write(&mut self, filled: &Filled) -> Val {
        if filled.all > 0 { self.b.i32(filled.all) } else { filled.rows }
    }

    /// Bytes that exist of the 16 from column x on.
    fn bytes_of_chunk(&mut self, d: Val, x: Val) -> Val {
        let left = self.b.bin(Bin::Sub, d, x);
        let left = self.b.bin_int(Bin::Shl, left, 1);
        let (zero, all) = (self.b.i32(0), self.b.i32(CHUNK * 2));
        let left = self.b.bin(Bin::SMin, left, all);
        self.b.bin(Bin::SMax, left, zero)
    }

    /// Every thread copies one piece of rows that lie evenly apart, written out.
    fn copy_evenly(&mut self, half: Half, from: Rows, filled: &Filled) -> Result<()> {
        let per_row = half.cols / CHUNK;
        let apart = i64::from(self.threads) / per_row;
        let by = self.b.i32(per_row);
        let row = self.b.bin(Bin::SDiv, self.tid, by);
        let back = self.b.bin(Bin::Mul, row, by);
        let chunk = self.b.bin(Bin::Sub, self.tid, back);
        let x = self.b.bin_int(Bin::Mul, chunk, CHUNK);
        let left = self.bytes_of_chunk(filled.d, x);
        let zero = self.b.i32(0);
        let mut src = self.row_element(from, row, x);
        let step = self.b.bin_int(Bin::Mul, from.by_row, apart);
        for n in 0..filled.all / apart {
            let r = self.b.bin_int(Bin::Add, row, n * apart);
            let exists = self.b.cmp(Cmp::Slt, r, filled.rows);
            let bytes = self.b.select(exists, left, zero);
            let some = self.b.cmp(Cmp::Slt, zero, bytes);
            let at = self.b.select(some, src, from.base);
            let to = self.b.bin(Bin::Add, filled.first, r);
            let dst = self.half_element(half, to, x);
            self.b.push(Inst::Async(Async::Copy { dst, src: at, bytes }));
            src = self.b.bin(Bin::Add, src, step);
        }
        Ok(())
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
            let (left, zero) = (l.bytes_of_chunk(filled.d, x), l.b.i32(0));
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
                    let (n, zero) = (self.b.i32(half.bytes() / 4), self.b.i32(0));
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
