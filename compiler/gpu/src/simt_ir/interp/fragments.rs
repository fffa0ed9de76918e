//! Products of fragments by one warp, and matrices from shared memory to fragments.
//!
//! Comes in: fragments in lanes. Goes out: fragments. What holds: with g = lane / 4 and q = lane % 4, word r of a left
//! fragment holds row g + 8 (r % 2), terms 2 q and 2 q + 1, with 8 more for r = 2 and 3; word r of a right fragment holds
//! column g, terms 2 q + 8 r and the next; sums 0 and 1 are of row g, columns 2 q and 2 q + 1, sums 2 and 3 of row g + 8.
//! Products of 16-bit floats are exact in f32; they are added in f32 in the order of the terms.

use half::f16;

use super::values::{ALL, Lanes};
use super::{Block, Exec, blame, whole};
use crate::simt_ir::{LdMatrix, Mma};

/// Terms of a product.
pub(super) const TERMS: usize = 16;
/// Rows of a warp's left operand, each with its terms.
pub(super) type Left = [[f32; TERMS]; 16];

/// The two floats of a word.
pub(super) fn floats_of(word: u32, bf16: bool) -> [f32; 2] {
    if bf16 {
        return [f32::from_bits(word << 16), f32::from_bits(word & 0xFFFF_0000)];
    }
    [f16::from_bits(word as u16).to_f32(), f16::from_bits((word >> 16) as u16).to_f32()]
}

/// A left fragment as rows.
pub(super) fn left_rows(words: [&Lanes; 4], bf16: bool) -> Left {
    let mut out = [[0.0; TERMS]; 16];
    for (r, word) in words.into_iter().enumerate() {
        for (l, word) in word.iter().enumerate() {
            let (row, term) = (l / 4 + 8 * (r % 2), l % 4 * 2 + 8 * (r / 2));
            out[row][term..term + 2].copy_from_slice(&floats_of(*word as u32, bf16));
        }
    }
    out
}

/// Adds products of the terms of a row to its sums, one column after the other.
pub(super) fn add_products<const N: usize>(row: &[f32; TERMS], right: &[[f32; N]], sums: &mut [f32]) {
    for (x, terms) in row.iter().zip(right) {
        for (sum, y) in sums.iter_mut().zip(terms) {
            *sum += x * y;
        }
    }
}

impl Block<'_, '_> {
    /// D = A B + D of 16 rows, 8 columns, 16 terms.
    pub fn mma(&mut self, w: usize, op: &Mma, mask: u32) -> Exec<()> {
        whole(mask)?;
        let warp = &mut self.warps[w];
        let left = left_rows(op.a.map(|v| warp.val(v)), op.bf16);
        let mut right = [[0f32; 8]; TERMS];
        for (r, v) in op.b.into_iter().enumerate() {
            for (l, word) in warp.val(v).iter().enumerate() {
                for (n, x) in floats_of(*word as u32, op.bf16).into_iter().enumerate() {
                    right[l % 4 * 2 + 8 * r + n][l / 4] = x;
                }
            }
        }
        let mut sums = [[0f32; 8]; 16];
        let home = |r: usize, l: usize| (l / 4 + 8 * (r / 2), l % 4 * 2 + r % 2);
        for (r, slot) in op.d.into_iter().enumerate() {
            for (l, x) in warp.get(slot, ALL)?.iter().enumerate() {
                let (row, col) = home(r, l);
                sums[row][col] = f32::from_bits(*x as u32);
            }
        }
        left.iter().zip(&mut sums).for_each(|(row, sums)| add_products(row, &right, sums));
        for (r, slot) in op.d.into_iter().enumerate() {
            let value: Lanes = std::array::from_fn(|l| {
                let (row, col) = home(r, l);
                u64::from(sums[row][col].to_bits())
            });
            warp.set(slot, ALL, &value)?;
        }
        Ok(())
    }

    /// Four matrices of 8 rows of 16 bytes; lane 8 n + r names row r of the n-th.
    pub fn ldmatrix(&mut self, w: usize, op: &LdMatrix, mask: u32) -> Exec<()> {
        whole(mask)?;
        let addrs = *self.warps[w].val(op.addr);
        for (n, dst) in op.dst.into_iter().enumerate() {
            let mut rows = [[0u8; 16]; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                let l = 8 * n + r;
                blame(l, self.shared.read(addrs[l] as u32, 16, row))?;
            }
            let element =
                |r: usize, c: usize| u64::from(u16::from_le_bytes([rows[r][2 * c], rows[r][2 * c + 1]]));
            let value: Lanes = std::array::from_fn(|l| {
                let (g, q) = (l / 4, l % 4 * 2);
                match op.trans {
                    true => element(q, g) | element(q + 1, g) << 16,
                    false => element(g, q) | element(g, q + 1) << 16,
                }
            });
            self.warps[w].define(dst, ALL, &value);
        }
        Ok(())
    }
}
