//! A tile of results from registers to a tensor of 16 bits by its map, where warps have roles.
//!
//! Comes in: a launch. Goes out: the `store_rows` that can be written so, and its instructions: every warp lays its sixteen
//! rows, rounded, where a tile of queries was, in the order that the map wants (the 128-byte swizzle), and one lane sends
//! them off as boxes of 64 columns. What holds: rows behind the last are not written, for a map writes nothing out of range
//! and the rows of the tile are what is left of the tensor; nobody reads the queries any more; a block ends after its boxes
//! were read. Other stores, as of rows of several heads in one tile, go from registers (`fragments.rs`).

use attn_compiler::artifact::TensorMapSpec;
use attn_compiler::tile_ir::{BufId, BufRows, Program, Stmt};

use super::halves::{Half, PANEL};
use super::layout::{WARP_ROWS, is_half};
use super::roles::{Named, rows_left};
use super::{Lower, Result};
use crate::simt_ir::{Bin, Bulk, Inst, Space, Val, Wgmma};

/// A store that goes by a map.
#[derive(Clone, Copy)]
pub(super) struct ByMap<'a> {
    stmt: &'a Stmt,
    /// Where its rows are laid.
    half: Half,
    map: u32,
}

/// The rows of a statement that stores a whole tile of 16-bit rows, what is left of a tensor: its tile.
fn whole_tile(program: &Program, stmt: &Stmt, tile_rows: impl Fn(BufId) -> i64) -> Option<BufId> {
    let Stmt::StoreRows { dst, src: BufRows { buf, first: None }, d, .. } = stmt else { return None };
    let tensor = &program.tensors[dst.tensor.0 as usize];
    let whole = program.pool.as_int(dst.index[dst.col_dim]) == Some(0) && *d == tensor.shape[dst.col_dim];
    // Rows behind the tile's last are another block's.
    let full = tile_rows(*buf) % 64 == 0;
    (is_half(tensor.dtype) && dst.row_dim != dst.col_dim && whole && full).then_some(*buf)
}

/// Does a statement multiply or load, at any depth?
fn is_product_or_load(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::For { body, .. } => body.iter().any(is_product_or_load),
        Stmt::If { then, otherwise, .. } => then.iter().chain(otherwise).any(is_product_or_load),
        Stmt::Gemm { .. } | Stmt::LoadRows { .. } => true,
        _ => false,
    }
}

impl<'a> Lower<'a> {
    /// Finds the store of a launch that goes by a map, and names the map.
    pub(super) fn plan_store(&mut self) -> Result<()> {
        self.plan_store_in(&self.launch.body, &mut Vec::new())
    }

    /// In a block, or one that is chosen at its end.
    fn plan_store_in(&mut self, body: &'a [Stmt], names: &mut Named) -> Result<()> {
        for (n, stmt) in body.iter().enumerate() {
            match stmt {
                Stmt::Let { var, value } => names.push((*var, *value)),
                Stmt::If { then, otherwise, .. } if !body[n..].iter().any(is_product_or_load) => {
                    self.plan_store_in(then, names)?;
                    self.plan_store_in(otherwise, names)?;
                }
                _ => {}
            }
            if self.by_map.is_some() {
                return Ok(());
            }
            let rows_of = |b: BufId| self.launch.buffers[b.0 as usize].rows;
            let Some(buf) = whole_tile(self.program, stmt, rows_of) else { continue };
            let Stmt::StoreRows { dst, rows, .. } = stmt else { continue };
            let left = rows_left(self.program, dst, *rows, names);
            let most = left.and_then(|most| self.program.pool.as_int(most));
            if most != Some(rows_of(buf)) || body[n + 1..].iter().any(is_product_or_load) {
                continue;
            }
            let wanted = (self.buffer(buf)?.cols + PANEL - 1) / PANEL * PANEL;
            let fits = |half: &&Half| half.rows == rows_of(buf) && half.cols >= wanted;
            let mut free: Vec<&Half> = self.halves.values().filter(fits).collect();
            free.sort_unstable_by_key(|half| half.at);
            let Some(half) = free.first().map(|half| **half) else { continue };
            let map = self.rings.map_of(TensorMapSpec {
                tensor: dst.tensor.0,
                row_dim: dst.row_dim as u32,
                col_dim: dst.col_dim as u32,
                box_rows: WARP_ROWS as u32,
                box_cols: PANEL as u32,
            });
            self.by_map = Some(ByMap { stmt, half, map });
            return Ok(());
        }
        Ok(())
    }

    /// Writes a store by its map. False if it has none.
    pub(super) fn stored_by_map(&mut self, stmt: &Stmt) -> Result<bool> {
        let Some(by_map) = self.by_map.filter(|by_map| std::ptr::eq(by_map.stmt, stmt)) else {
            return Ok(false);
        };
        let Stmt::StoreRows { dst, src, row_scale, .. } = by_map.stmt else { return Ok(false) };
        let (slots, half) = (self.fragment(src.buf)?, by_map.half);
        let scale = row_scale.map(|v| self.state(v)).transpose()?;
        let bf16 = self.tensor(dst.tensor)?.dtype == attn_compiler::artifact::DType::Bf16;
        // Row r lies at 128 r of each panel; the pieces of rows g and g + 8 at c ^ g.
        let low_row = self.b.bin_int(Bin::LShr, self.lane, 2);
        let quad = self.b.bin_int(Bin::And, self.lane, 3);
        let within = self.b.bin_int(Bin::Shl, quad, 2);
        let row = self.b.bin_int(Bin::Mul, self.row, PANEL * 2);
        let start = self.b.bin_int(Bin::Add, row, i64::from(half.at));
        let start = self.b.bin(Bin::Add, start, within);
        for pair in 0..slots.len() / 2 {
            let (run, lower) = ((pair / 2) as i64, pair % 2);
            let mut both = [slots[2 * pair], slots[2 * pair + 1]].map(|s| self.b.get(s));
            if let Some(scale) = scale {
                let by = self.b.get(scale[lower]);
                both = both.map(|x| self.times_scale(x, by));
            }
            let mixed = self.b.bin_int(Bin::Xor, low_row, run % 8);
            let piece = self.b.bin_int(Bin::Shl, mixed, 4);
            let at = self.b.bin(Bin::Add, start, piece);
            let at =
                self.b.bin_int(Bin::Add, at, run / 8 * half.panel_bytes() + lower as i64 * 8 * PANEL * 2);
            let value = self.b.pack(bf16, both[0], both[1]);
            self.b.store(Space::Shared, at, value);
        }
        self.b.push(Inst::Wgmma(Wgmma::ProxyFence));
        self.b.push(Inst::WarpBar);
        let panels = (slots.len() as i64 * 2 + PANEL - 1) / PANEL;
        let coords = self.box_of_warp(stmt)?;
        let first = self.b.bin_int(Bin::Mul, self.warp, WARP_ROWS * PANEL * 2);
        let first = self.b.bin_int(Bin::Add, first, i64::from(half.at));
        self.leading(|l| {
            for panel in 0..panels {
                let src = l.b.bin_int(Bin::Add, first, panel * half.panel_bytes());
                let column = l.b.i32(panel * PANEL);
                let coords = [&[column], &coords[..]].concat();
                l.b.push(Inst::Bulk(Bulk::Store { src, map: by_map.map, coords }));
            }
            l.b.push(Inst::Bulk(Bulk::Commit));
            Ok(())
        })?;
        Ok(true)
    }

    /// Coordinates behind the column of the rows that this warp stores.
    fn box_of_warp(&mut self, stmt: &Stmt) -> Result<Vec<Val>> {
        let Stmt::StoreRows { dst, .. } = stmt else { return Ok(Vec::new()) };
        let mut coords = Vec::new();
        for dim in (0..dst.index.len()).rev().filter(|d| *d != dst.col_dim) {
            let at = self.int32(dst.index[dim])?;
            coords.push(if dim == dst.row_dim {
                let own = self.b.bin_int(Bin::Mul, self.warp, WARP_ROWS);
                self.b.bin(Bin::Add, at, own)
            } else {
                at
            });
        }
        Ok(coords)
    }

    /// What was sent off has been read: the block may end, or lay other rows there.
    pub(super) fn end_store(&mut self) -> Result<()> {
        if self.by_map.is_none() {
            return Ok(());
        }
        self.leading(|l| {
            l.b.push(Inst::Bulk(Bulk::WaitRead(0)));
            Ok(())
        })
    }
}
