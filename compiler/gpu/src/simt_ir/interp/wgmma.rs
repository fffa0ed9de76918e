//! Products of a warpgroup: 64 rows, 16 of each of its four warps.
//!
//! Comes in: descriptors of tiles in shared memory, fragments. Goes out: sums in slots. What holds: all warps of a group
//! issue the same products; a product is computed when a warp issues it, and its sums can be read after a wait that names
//! them. Tiles have rows of 128 bytes, swizzled over them. Not here: fences, whose absence `ptx-sim` notices.

use super::copies::swizzle;
use super::fragments::{Left, TERMS, add_products, floats_of, left_rows};
use super::values::{ALL, Lanes};
use super::{Block, Exec, Fault, Inst, Val, WINDOW, blame, trouble, whole};
use crate::simt_ir::{Slot, Wgmma, WgmmaLeft};

/// Columns of the widest product.
const MOST_COLUMNS: usize = 256;
/// 16-bit elements of 16 bytes.
const PER_CHUNK: u32 = 8;
/// 16-byte chunks of a row that is swizzled.
const CHUNKS: u32 = 8;

/// A decoded descriptor: addresses and distances in bytes.
#[derive(Clone, Copy)]
struct Tile {
    start: u32,
    /// From a panel of 128 bytes to the next.
    panel: u32,
    /// From eight rows to the next eight.
    rows: u32,
}

impl Tile {
    /// Errors: another swizzle, or bits that mean nothing.
    fn of(bits: u64) -> Exec<Tile> {
        let field = |at: u32| ((bits >> at & 0x3FFF) as u32) << 4;
        // Bits 14, 15, 30, 31, 46 to 48 and 52 to 61 mean nothing, 49 to 51 are 0 where tiles lie at multiples of 1024.
        let unused = 0x3FF << 52 | 7 << 49 | 7 << 46 | 3 << 30 | 3 << 14;
        if bits >> 62 != 1 || bits & unused != 0 {
            return trouble(format!(
                "the descriptor {bits:#018x} is of no tile that is swizzled over 128 bytes"
            ));
        }
        Ok(Tile { start: field(0), panel: field(16), rows: field(32) })
    }

    /// The shared offset of 16 bytes of a row. Terms lie along rows, or (`trans`) columns do.
    fn chunk(self, row: u32, chunk: u32, trans: bool) -> Result<u32, String> {
        let along = if trans { chunk % CHUNKS * 16 + chunk / CHUNKS * self.panel } else { chunk * 16 };
        let at = swizzle(self.start + row % 8 * 128 + row / 8 * self.rows + along);
        at.checked_sub(WINDOW).ok_or_else(|| {
            format!("address {at} of a tile is below the block's shared memory, which begins at {WINDOW}")
        })
    }
}

impl<'k> Block<'k, '_> {
    pub fn wgmma(&mut self, w: usize, inst: &'k Inst, op: &'k Wgmma, mask: u32) -> Exec<()> {
        if let Wgmma::ProxyFence = op {
            return Ok(());
        }
        whole(mask)?;
        if self.warps.len() < w / 4 * 4 + 4 {
            return trouble("a warpgroup has four warps, this block has no four here");
        }
        match op {
            Wgmma::Fence | Wgmma::ProxyFence => {}
            Wgmma::Commit => self.warps[w].groups += 1,
            Wgmma::Wait(n, slots) => {
                let done = self.warps[w].groups.saturating_sub(*n);
                slots.iter().for_each(|slot| self.warps[w].await_product(*slot, done));
            }
            Wgmma::Product { bf16, d, a, b, trans_b, accumulate } => {
                self.issue(w, inst)?;
                let left = self.left(w, a, *bf16)?;
                let right = self.right(w, *b, d.len() * 2, (*trans_b, *bf16))?;
                self.multiply(w, d, &left, &right, *accumulate)?;
            }
        }
        Ok(())
    }

    /// Compares a product with what other warps of the group have issued in its place.
    fn issue(&mut self, w: usize, inst: &'k Inst) -> Exec<()> {
        let (warp, issued) = (&mut self.warps[w], &mut self.products[w / 4]);
        let n = warp.products;
        warp.products += 1;
        match issued.get(n) {
            None => issued.push(inst),
            Some(other) if std::ptr::eq(*other, inst) => {}
            Some(_) => {
                return trouble(format!("warps of a group issue different products as their number {n}"));
            }
        }
        Ok(())
    }

    /// At the end of a block every warp of a group has issued the group's products.
    pub fn check_products(&self) -> Result<(), Fault> {
        let fewer = (0..self.warps.len()).find(|w| self.warps[*w].products < self.products[w / 4].len());
        let Some(w) = fewer else { return Ok(()) };
        let inst = self.products[w / 4][self.warps[w].products];
        Err(self.fault(Some(w as u32 * super::WARP), Some(inst), "this warp never issues the product".into()))
    }

    /// A value that is the same in all lanes.
    fn uniform(&self, w: usize, v: Val) -> Exec<u64> {
        let value = self.warps[w].val(v);
        match value.iter().all(|x| *x == value[0]) {
            true => Ok(value[0]),
            false => trouble(format!("the descriptor %{} differs between lanes", v.0)),
        }
    }

    /// The 16 rows of this warp.
    fn left(&self, w: usize, a: &WgmmaLeft, bf16: bool) -> Exec<Left> {
        match a {
            WgmmaLeft::Registers(all) => Ok(left_rows(all.map(|v| self.warps[w].val(v)), bf16)),
            WgmmaLeft::Shared(v) => {
                let tile = Tile::of(self.uniform(w, *v)?)?;
                let mut out = [[0.0; TERMS]; 16];
                let first = (w % 4 * 16) as u32;
                for (row, terms) in (first..).zip(&mut out) {
                    for (chunk, eight) in (0..).zip(terms.chunks_mut(PER_CHUNK as usize)) {
                        eight.copy_from_slice(&self.eight(tile.chunk(row, chunk, false), bf16)?);
                    }
                }
                Ok(out)
            }
        }
    }

    /// For each term, the columns.
    fn right(
        &self,
        w: usize,
        b: Val,
        n: usize,
        (trans, bf16): (bool, bool),
    ) -> Exec<Box<[[f32; MOST_COLUMNS]; TERMS]>> {
        let tile = Tile::of(self.uniform(w, b)?)?;
        let mut out = Box::new([[0.0; MOST_COLUMNS]; TERMS]);
        let (rows, chunks) = if trans { (TERMS, n) } else { (n, TERMS) };
        for row in 0..rows {
            for chunk in 0..chunks as u32 / PER_CHUNK {
                let eight = self.eight(tile.chunk(row as u32, chunk, trans), bf16)?;
                let first = (chunk * PER_CHUNK) as usize;
                for (k, x) in (first..).zip(eight) {
                    let (term, column) = if trans { (row, k) } else { (k, row) };
                    out[term][column] = x;
                }
            }
        }
        Ok(out)
    }

    /// Eight elements at a shared offset.
    fn eight(&self, at: Result<u32, String>, bf16: bool) -> Exec<[f32; PER_CHUNK as usize]> {
        let mut bytes = [0; 16];
        blame(0, at.and_then(|at| self.shared.read(at, 16, &mut bytes)))?;
        let mut out = [0.0; PER_CHUNK as usize];
        for (two, word) in out.chunks_mut(2).zip(bytes.chunks(4)) {
            two.copy_from_slice(&floats_of(u32::from_le_bytes([word[0], word[1], word[2], word[3]]), bf16));
        }
        Ok(out)
    }

    /// D = A B, or D = A B + D.
    fn multiply(
        &mut self,
        w: usize,
        d: &[Slot],
        left: &Left,
        right: &[[f32; MOST_COLUMNS]; TERMS],
        accumulate: bool,
    ) -> Exec<()> {
        let warp = &mut self.warps[w];
        let columns = d.len() * 2;
        // Sum n of a lane is of row lane / 4, with 8 more for odd pairs, and column 8 (n / 4) + 2 (lane % 4) + n % 2.
        let home = |n: usize, l: usize| (l / 4 + n / 2 % 2 * 8, n / 4 * 8 + l % 4 * 2 + n % 2);
        let mut sums = [[0f32; MOST_COLUMNS]; 16];
        if accumulate {
            for (n, slot) in d.iter().enumerate() {
                for (l, x) in warp.sum(*slot)?.iter().enumerate() {
                    let (row, column) = home(n, l);
                    sums[row][column] = f32::from_bits(*x as u32);
                }
            }
        }
        for (row, sums) in left.iter().zip(&mut sums) {
            add_products(row, right, &mut sums[..columns]);
        }
        let group = warp.groups;
        for (n, slot) in d.iter().enumerate() {
            let value: Lanes = std::array::from_fn(|l| {
                let (row, column) = home(n, l);
                u64::from(sums[row][column].to_bits())
            });
            warp.put_product(*slot, ALL, &value, Some(group));
        }
        Ok(())
    }
}
