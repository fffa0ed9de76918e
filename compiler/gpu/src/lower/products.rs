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
        let Stmt::Gemm { row_scale, accumulate, .. } = stmt else { return Ok(()) };
        let right = self.right_operand(stmt)?;
        self.touch_left(stmt)?;
        let (half, empty) = match (self.role, self.next_staged()) {
            (Role::Consumer, _) => {
                let ring = self.next_ring()?;
                let stage = self.awaited(&ring);
                (stage.half, Some(stage.empty))
            }
            (_, Some(half)) => (half, None),
            _ => (self.stage(&right)?, None),
        };
        let product = self.product(stmt, half)?;
        if *accumulate {
            self.rescale(&product.sums, *row_scale)?;
        }
        match half.panels {
            true => self.wgmma_product(&product)?,
            false => self.mma_product(&product)?,
        }
        empty.map_or(Ok(()), |empty| self.release(empty))
    }

    /// A product reads its left operand: says so where that lies in shared memory.
    pub(super) fn touch_left(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::Gemm { a, rest, .. } = stmt else { return Ok(()) };
        for tile in tiles_of(*a, *rest) {
            if matches!(self.place(tile), Some(Place::Half(_))) {
                let id = self.half_of(tile)?.id;
                self.touch(&[id], &[]);
            }
        }
        Ok(())
    }

    /// What a product needs to run, once its right operand lies in `half`.
    pub(super) fn product(&mut self, stmt: &Stmt, half: Half) -> Result<Product> {
        let Stmt::Gemm { c, a, rest, accumulate, .. } = stmt else {
            return Err(GpuError::internal("products", "a product", format!("{stmt:?}")));
        };
        let right = self.right_operand(stmt)?;
        Ok(Product {
            sums: self.fragment(*c)?,
            lefts: self.left_parts(*a, *rest)?,
            half,
            columns: right.columns,
            bf16: self.tensor(right.src.tensor)?.dtype == DType::Bf16,
            adds: *accumulate,
            steps: self.buffer(*a)?.cols / 16,
        })
    }

    /// Multiplies the rows of sums with a factor for each.
    pub(super) fn rescale(&mut self, sums: &[Slot], row_scale: Option<BufId>) -> Result<()> {
        let Some(scale) = row_scale else { return Ok(()) };
        let scale = self.state(scale)?.map(|s| self.b.get(s));
        for (n, slot) in sums.iter().enumerate() {
            let old = self.b.get(*slot);
            let new = self.b.bin(Bin::FMul, old, scale[n / 2 % 2]);
            self.b.set(*slot, new);
        }
        Ok(())
    }

    /// What is multiplied on the left, part by part.
    fn left_parts(&mut self, a: BufId, rest: Rest) -> Result<Vec<Left>> {
        let mut lefts = Vec::new();
        for tile in tiles_of(a, rest) {
            lefts.push(match self.place(tile) {
                Some(Place::Half(_)) => Left::Shared(self.half_of(tile)?),
                _ => Left::Sums(self.fragment(tile)?),
            });
        }
        if rest == Rest::Rounding {
            lefts.push(Left::Rest(self.fragment(a)?));
        }
        Ok(lefts)
    }

    fn mma_product(&mut self, p: &Product) -> Result<()> {
        if !p.adds {
            let zero = self.b.f32(0.0);
            p.sums.iter().for_each(|s| self.b.set(*s, zero));
        }
        for step in 0..p.steps {
            let lefts: Vec<[Val; 4]> = p.lefts.iter().map(|l| self.left_fragment(l, p.bf16, step)).collect();
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
    fn left_fragment(&mut self, left: &Left, bf16: bool, step: i64) -> [Val; 4] {
        let (first, pairs) = (step as usize * 8, step as usize * 4);
        match left {
            Left::Shared(half) => self.left_shared(*half, step),
            Left::Sums(sums) => [0, 2, 4, 6].map(|n| self.rounded(sums, first + n, bf16)),
            Left::Rest(sums) => [0, 2, 4, 6].map(|n| self.left_by_rounding(sums, first + n, bf16)),
            Left::Pairs(from) => [0, 1, 2, 3].map(|n| self.b.get(from[pairs + n])),
        }
    }

    /// Sums `n` and `n + 1`, rounded.
    pub(super) fn rounded(&mut self, from: &[Slot], n: usize, bf16: bool) -> Val {
        let (low, high) = (self.b.get(from[n]), self.b.get(from[n + 1]));
        self.b.pack(bf16, low, high)
    }

    /// What rounding sums `n` and `n + 1` leaves, rounded.
    fn left_by_rounding(&mut self, from: &[Slot], n: usize, bf16: bool) -> Val {
        let both = self.rounded(from, n, bf16);
        let [low, high] = [(from[n], 0), (from[n + 1], 16)].map(|(slot, bit)| {
            let half = self.b.bin_int(Bin::LShr, both, bit);
            let half = self.b.cast(Cast::Trunc, Ty::I16, half);
            let half = if bf16 { half } else { self.b.cast(Cast::Bits, Ty::F16, half) };
            let rounded = self.widen(if bf16 { DType::Bf16 } else { DType::F16 }, half);
            let x = self.b.get(slot);
            self.b.bin(Bin::FSub, x, rounded)
        });
        self.b.pack(bf16, low, high)
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

    /// Products of a warpgroup, waited for.
    fn wgmma_product(&mut self, p: &Product) -> Result<()> {
        self.issue(&[p]);
        self.b.push(Inst::Wgmma(Wgmma::Wait(0, p.sums.clone())));
        Ok(())
    }

    /// Starts products of a warpgroup, in a group of their own. Their sums belong to them until a wait for the group.
    pub(super) fn issue(&mut self, products: &[&Product]) {
        // Registers are written before the fence.
        let operands: Vec<(Vec<WgmmaLeft>, Val)> =
            products.iter().map(|p| (self.left_operands(p), self.descriptor(p.half))).collect();
        self.b.push(Inst::Wgmma(Wgmma::Fence));
        for (p, (left, start)) in products.iter().zip(operands) {
            for (k, a) in left.into_iter().enumerate() {
                let step = k as i64 % p.steps;
                for (n, d) in p.sums.chunks(MOST_COLUMNS / 2).enumerate() {
                    let b = self.right_descriptor(start, p, step, n as i64);
                    self.b.push(Inst::Wgmma(Wgmma::Product {
                        bf16: p.bf16,
                        d: d.to_vec(),
                        a: a.clone(),
                        b,
                        trans_b: !p.columns,
                        accumulate: p.adds || k > 0,
                    }));
                }
            }
        }
        self.b.push(Inst::Wgmma(Wgmma::Commit));
    }

    /// The left operand of a warpgroup's product, for 16 terms each, part by part.
    fn left_operands(&mut self, p: &Product) -> Vec<WgmmaLeft> {
        let mut out = Vec::new();
        for left in &p.lefts {
            let start =
                if let Left::Shared(half) = left { Some((*half, self.rows_of_group(*half))) } else { None };
            for step in 0..p.steps {
                out.push(match start {
                    Some((half, start)) => WgmmaLeft::Shared(self.along_terms(start, half, step)),
                    None => WgmmaLeft::Registers(self.left_fragment(left, p.bf16, step)),
                });
            }
        }
        out
    }

    /// The descriptor of the rows of this warpgroup in a tile of queries: 64 of 128 bytes for each number of it.
    fn rows_of_group(&mut self, half: Half) -> Val {
        let start = self.descriptor(half);
        let skipped = self.b.bin_int(Bin::Mul, self.group, (PANEL * 128) >> 4);
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

/// The tiles of a left operand.
fn tiles_of(a: BufId, rest: Rest) -> impl Iterator<Item = BufId> {
    let rest = if let Rest::Tile(rest) = rest { Some(rest) } else { None };
    std::iter::once(a).chain(rest)
}

/// A product that is ready to run.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub sums: Vec<Slot>,
    /// The left operand is the sum of these.
    pub lefts: Vec<Left>,
    pub half: Half,
    pub columns: bool,
    pub bf16: bool,
    /// The sums hold something.
    pub adds: bool,
    /// Terms, 16 each.
    pub steps: i64,
}

/// Where the left operand of a product lies.
#[derive(Clone, Debug)]
pub(super) enum Left {
    /// 16-bit rows in shared memory.
    Shared(Half),
    /// Sums in registers, to be rounded.
    Sums(Vec<Slot>),
    /// What rounding them leaves.
    Rest(Vec<Slot>),
    /// Pairs of rounded sums in registers.
    Pairs(Vec<Slot>),
}
