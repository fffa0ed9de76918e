//! Products on the tensor cores: mma.sync m16n8k16 by every warp, or wgmma m64nNk16 by four warps together.
//!
//! Comes in: a product whose left operand is a tile of 16-bit rows or sums in registers, and whose right one is rows of a
//! tensor. Goes out: sums in registers; the right operand is brought into shared memory here, or was by
//! [`super::pipeline`]. What holds: sums are f32; a left operand from registers is rounded to the type of the right one.

use attn_compiler::artifact::DType;
use attn_compiler::expr::ExprId;
use attn_compiler::tile_ir::{BufId, Operand, Rest, RowsRef, Stmt};

use super::halves::{Filled, Half, PANEL};
use super::layout::Place;
use super::roles::Role;
use super::{Lower, Result};
use crate::GpuError;
use crate::simt_ir::{Bin, Cast, Inst, Mma, Slot, Ty, Val, Wgmma, WgmmaLeft};

/// Most columns of one wgmma.
const MOST_COLUMNS: usize = 256;

/// The right operand of a product: where it comes from and its size as a tile.
pub(super) struct Right<'a> {
    pub src: &'a RowsRef,
    /// Rows and columns that exist.
    pub keys: ExprId,
    pub d: ExprId,
    /// Rows and columns of the tile.
    pub rows: i64,
    pub cols: i64,
    /// Its rows are the columns of the product.
    pub columns: bool,
}

impl Lower<'_> {
    /// The right operand of a product of this launch.
    pub(super) fn right_operand<'a>(&self, stmt: &'a Stmt) -> Result<Right<'a>> {
        if let Stmt::Gemm { c, a, b, k, n, .. } = stmt {
            let (cols, depth) = (self.buffer(*c)?.cols, self.buffer(*a)?.cols);
            match b {
                Operand::Columns(src) => {
                    return Ok(Right { src, keys: *n, d: *k, rows: cols, cols: depth, columns: true });
                }
                Operand::Rows(src) => {
                    return Ok(Right { src, keys: *k, d: *n, rows: depth, cols, columns: false });
                }
                Operand::Panels(_) | Operand::Buffer(_) => {}
            }
        }
        Err(GpuError::internal("products", "the right operand is rows of a tensor", format!("{stmt:?}")))
    }

    /// Copies the right operand of a product into a tile; the copies are not waited for.
    pub(super) fn bring(&mut self, right: &Right<'_>, half: Half) -> Result<()> {
        let (keys, d) = (self.count(right.keys, right.rows)?, self.count(right.d, half.cols)?);
        let from = self.rows(right.src)?;
        let first = self.b.i32(0);
        self.copy_rows(half, from, &Filled { first, rows: keys, d, all: half.rows })
    }

    /// Brings the right operand of a product into shared memory, and waits.
    fn stage(&mut self, right: &Right<'_>) -> Result<Half> {
        let half = self.new_stage(right.rows, right.cols, 1);
        self.touch(&[], &[half.id]);
        self.bring(right, half)?;
        self.arrived(half, 0);
        self.touch(&[half.id], &[]);
        Ok(half)
    }

    /// A product on the tensor cores.
    pub(super) fn tensor_product(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::Gemm { c, a, rest, row_scale, accumulate, .. } = stmt else { return Ok(()) };
        let right = self.right_operand(stmt)?;
        let lefts = self.left_parts(*a, *rest)?;
        let (half, empty) = match (self.role, self.next_staged()) {
            (Role::Consumer, _) => self.awaited().map(|(half, empty)| (half, Some(empty)))?,
            (_, Some(half)) => (half, None),
            _ => (self.stage(&right)?, None),
        };
        let bf16 = self.tensor(right.src.tensor)?.dtype == DType::Bf16;
        let sums = self.fragment(*c)?;
        let adds = self.rescale(&sums, *row_scale, *accumulate)?;
        let product = Product { sums, lefts, half, columns: right.columns, bf16, adds };
        let depth = self.buffer(*a)?.cols;
        match half.panels {
            true => self.wgmma_product(&product, depth)?,
            false => self.mma_product(&product, depth)?,
        }
        empty.map_or(Ok(()), |empty| self.release(empty))
    }

    /// What the sums hold before the product, if it adds to them.
    fn rescale(&mut self, sums: &[Slot], row_scale: Option<BufId>, accumulate: bool) -> Result<bool> {
        let Some(scale) = row_scale.filter(|_| accumulate) else { return Ok(accumulate) };
        let scale = self.state(scale)?.map(|s| self.b.get(s));
        for (n, slot) in sums.iter().enumerate() {
            let old = self.b.get(*slot);
            let new = self.b.bin(Bin::FMul, old, scale[n / 2 % 2]);
            self.b.set(*slot, new);
        }
        Ok(true)
    }

    /// What is multiplied on the left, part by part.
    fn left_parts(&mut self, a: BufId, rest: Rest) -> Result<Vec<Left>> {
        let mut lefts = Vec::new();
        for tile in std::iter::once(a).chain(if let Rest::Tile(rest) = rest { Some(rest) } else { None }) {
            if matches!(self.place(tile), Some(Place::Half(_))) {
                let half = self.half_of(tile)?;
                self.touch(&[half.id], &[]);
                lefts.push(Left::Shared(half));
            } else {
                lefts.push(Left::Sums(self.fragment(tile)?));
            }
        }
        if rest == Rest::Rounding {
            lefts.push(Left::Rest(self.fragment(a)?));
        }
        Ok(lefts)
    }

    fn mma_product(&mut self, p: &Product, depth: i64) -> Result<()> {
        if !p.adds {
            let zero = self.b.f32(0.0);
            p.sums.iter().for_each(|s| self.b.set(*s, zero));
        }
        for step in 0..depth / 16 {
            let lefts: Vec<[Val; 4]> = p.lefts.iter().map(|left| self.left_fragment(left, p, step)).collect();
            for pair in 0..p.sums.len() as i64 / 8 {
                let right = self.right_fragments(p.half, p.columns, step, pair);
                for (m, b) in right.into_iter().enumerate() {
                    let at = (pair as usize * 2 + m) * 4;
                    let d = [p.sums[at], p.sums[at + 1], p.sums[at + 2], p.sums[at + 3]];
                    for &a in &lefts {
                        self.b.push(Inst::Mma(Mma { bf16: p.bf16, d, a, b }));
                    }
                }
            }
        }
        Ok(())
    }

    /// The left operand of 16 rows of this warp and columns 16 `step`.. from shared memory.
    fn left_shared(&mut self, half: Half, step: i64) -> [Val; 4] {
        let row = self.b.bin_int(Bin::And, self.lane, 15);
        let first = self.b.bin_int(Bin::Shl, self.warp, 4);
        let row = self.b.bin(Bin::Add, first, row);
        let right = self.b.bin_int(Bin::LShr, self.lane, 4);
        let col = self.b.bin_int(Bin::Shl, right, 3);
        let col = self.b.bin_int(Bin::Add, col, step * 16);
        let at = self.half_element(half, row, col);
        self.b.ldmatrix(at, false)
    }

    /// The left operand for 16 terms in registers.
    fn left_fragment(&mut self, left: &Left, p: &Product, step: i64) -> [Val; 4] {
        match left {
            Left::Shared(half) => self.left_shared(*half, step),
            Left::Sums(sums) => self.left_registers(sums, p.bf16, step, false),
            Left::Rest(sums) => self.left_registers(sums, p.bf16, step, true),
        }
    }

    /// The left operand from sums of this warp, rounded; or what rounding them leaves, rounded.
    fn left_registers(&mut self, from: &[Slot], bf16: bool, step: i64, rest: bool) -> [Val; 4] {
        let first = step as usize * 8;
        [0, 2, 4, 6].map(|n| {
            let (low, high) = (self.b.get(from[first + n]), self.b.get(from[first + n + 1]));
            let both = self.b.pack(bf16, low, high);
            if !rest {
                return both;
            }
            let [low, high] = [(low, 0), (high, 16)].map(|(x, bit)| {
                let half = self.b.bin_int(Bin::LShr, both, bit);
                let half = self.b.cast(Cast::Trunc, Ty::I16, half);
                let half = if bf16 { half } else { self.b.cast(Cast::Bits, Ty::F16, half) };
                let rounded = self.widen(if bf16 { DType::Bf16 } else { DType::F16 }, half);
                self.b.bin(Bin::FSub, x, rounded)
            });
            self.b.pack(bf16, low, high)
        })
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

    /// One group of products of a warpgroup, waited for.
    fn wgmma_product(&mut self, p: &Product, depth: i64) -> Result<()> {
        // Registers are written before the fence.
        let mut lefts = Vec::new();
        for left in &p.lefts {
            let start = if let Left::Shared(half) = left { Some(self.rows_of_group(*half)) } else { None };
            for step in 0..depth / 16 {
                lefts.push(match (left, start) {
                    (Left::Shared(half), Some(start)) => {
                        WgmmaLeft::Shared(self.along_terms(start, *half, step))
                    }
                    _ => WgmmaLeft::Registers(self.left_fragment(left, p, step)),
                });
            }
        }
        let start = self.descriptor(p.half);
        self.b.push(Inst::Wgmma(Wgmma::Fence));
        for (n_step, a) in lefts.into_iter().enumerate() {
            let step = n_step as i64 % (depth / 16);
            for (n, d) in p.sums.chunks(MOST_COLUMNS / 2).enumerate() {
                let b = self.right_descriptor(start, p, step, n as i64);
                let accumulate = p.adds || n_step > 0;
                self.b.push(Inst::Wgmma(Wgmma::Product {
                    bf16: p.bf16,
                    d: d.to_vec(),
                    a: a.clone(),
                    b,
                    trans_b: !p.columns,
                    accumulate,
                }));
            }
        }
        self.b.push(Inst::Wgmma(Wgmma::Commit));
        self.b.push(Inst::Wgmma(Wgmma::Wait(0, p.sums.clone())));
        Ok(())
    }

    /// The descriptor of the rows of this warpgroup in a tile of queries: 64 of 128 bytes for each number of it.
    fn rows_of_group(&mut self, half: Half) -> Val {
        let start = self.descriptor(half);
        let group = self.b.bin_int(Bin::LShr, self.warp, 2);
        let skipped = self.b.bin_int(Bin::Mul, group, (PANEL * 128) >> 4);
        let skipped = self.b.cast(Cast::ZExt, Ty::I64, skipped);
        self.b.bin(Bin::Add, start, skipped)
    }

    /// A descriptor moved to the terms 16 `step`.. of a tile with its terms along memory: 32 bytes each within a panel.
    fn along_terms(&mut self, start: Val, half: Half, step: i64) -> Val {
        let bytes = step / 4 * half.panel_bytes() + step % 4 * 32;
        self.b.bin_int(Bin::Add, start, bytes >> 4)
    }

    /// The descriptor of the right operand for 16 terms and the n-th run of 256 columns.
    fn right_descriptor(&mut self, start: Val, p: &Product, step: i64, n: i64) -> Val {
        let most = MOST_COLUMNS as i64;
        if p.columns {
            // Columns are rows of the tile, 128 bytes each.
            let start = self.b.bin_int(Bin::Add, start, (n * most * 128) >> 4);
            return self.along_terms(start, p.half, step);
        }
        // Terms are rows of the tile; columns lie along memory in panels.
        let bytes = step * 16 * 128 + n * most / PANEL * p.half.panel_bytes();
        self.b.bin_int(Bin::Add, start, bytes >> 4)
    }
}

/// A left operand.
enum Left {
    /// 16-bit rows in shared memory.
    Shared(Half),
    /// Sums in registers, to be rounded.
    Sums(Vec<Slot>),
    /// What rounding them leaves.
    Rest(Vec<Slot>),
}

/// A product that is ready to run.
struct Product {
    sums: Vec<Slot>,
    /// The left operand is the sum of these.
    lefts: Vec<Left>,
    half: Half,
    columns: bool,
    bf16: bool,
    /// The sums hold something.
    adds: bool,
}
