//! ldmatrix, stmatrix, mma.sync.
//!
//! Comes in: fragments in rows, addresses of matrix rows. Goes out: fragments, shared memory. What holds: with g = lane / 4
//! and q = lane % 4, register r of an A fragment of 16 rows holds row g + 8 (r % 2), bytes 4q + 16 (r / 2) of that row;
//! register r of a B fragment of 8 columns holds column g, bytes 4q + 16 r of that column; accumulators 0, 1 hold
//! row g, columns 2q and 2q + 1, accumulators 2, 3 the same of row g + 8. Products of f16, bf16, tf32 and fp8 are exact,
//! sums are f32 in the order of k: the machine's order is not specified.

use half::f16;

use super::access::{Place, blame, place};
use super::block::Block;
use super::fp;
use super::warp::{ALL, Lanes, lanes};
use crate::fault::{Exec, FaultKind, lane_trouble};
use crate::isa::*;

/// The elements of a word as f32.
#[inline]
pub(crate) fn elements(word: u32, ty: MmaTy, out: &mut [f32]) {
    match ty {
        MmaTy::F16 => {
            out[0] = f16::from_bits(word as u16).to_f32();
            out[1] = f16::from_bits((word >> 16) as u16).to_f32();
        }
        MmaTy::Bf16 => {
            out[0] = f32::from_bits(word << 16);
            out[1] = f32::from_bits(word & 0xFFFF_0000);
        }
        MmaTy::Tf32 => out[0] = f32::from_bits(word & 0xFFFF_E000),
        MmaTy::E4m3 | MmaTy::E5m2 => {
            for (n, o) in out.iter_mut().enumerate().take(4) {
                *o = fp::decode8((word >> (8 * n)) as u8, ty == MmaTy::E4m3) as f32;
            }
        }
        MmaTy::S8 => {
            for (n, o) in out.iter_mut().enumerate().take(4) {
                *o = f32::from((word >> (8 * n)) as u8 as i8);
            }
        }
        MmaTy::U8 => {
            for (n, o) in out.iter_mut().enumerate().take(4) {
                *o = f32::from((word >> (8 * n)) as u8);
            }
        }
    }
}

/// 16 rows of up to 32 elements of k.
pub(crate) type RowsA = [[f32; 32]; 16];

/// An A fragment as a matrix.
pub(crate) fn fragment_a(regs: &[Lanes], ty: MmaTy) -> RowsA {
    let mut out = [[0.0; 32]; 16];
    let per = (4 / ty.bytes()) as usize;
    for (r, reg) in regs.iter().enumerate() {
        for (l, word) in reg.iter().enumerate() {
            let row = l / 4 + 8 * (r % 2);
            let k = (l % 4 + 4 * (r / 2)) * per;
            elements(*word as u32, ty, &mut out[row][k..k + per]);
        }
    }
    out
}

impl Block<'_> {
    /// The shared addresses of the rows that lanes supply.
    fn row_addrs(&mut self, w: usize, addr: &Addr, count: usize) -> Exec<[u32; 32]> {
        let suppliers = if count == 4 { ALL } else { (1u32 << (8 * count)) - 1 };
        let base = *self.warps[w].get(addr.base, suppliers)?;
        let mut out = [0; 32];
        for l in lanes(suppliers) {
            let Place::Shared(at) = blame(place(addr, base[l]), l)? else {
                return lane_trouble(FaultKind::OutOfBounds, l as u32, "a matrix row lies in shared memory");
            };
            blame(self.shared.aligned(at, 16), l)?;
            out[l] = at;
        }
        self.count_banks(w, &out, suppliers, 16);
        Ok(out)
    }

    pub fn ldmatrix(&mut self, w: usize, addr: &Addr, d: &[Row], trans: bool, m: u32) -> Exec<()> {
        self.warps[w].together(m, "ldmatrix")?;
        let addrs = self.row_addrs(w, addr, d.len())?;
        for (n, row) in d.iter().enumerate() {
            let mut matrix = [[0u8; 16]; 8];
            for (r, bytes) in matrix.iter_mut().enumerate() {
                let l = 8 * n + r;
                blame(self.shared.read(&self.clocks, w * 32 + l, addrs[l], false, bytes), l)?;
            }
            let half =
                |r: usize, c: usize| u64::from(u16::from_le_bytes([matrix[r][2 * c], matrix[r][2 * c + 1]]));
            let mut out = [0; 32];
            for (l, word) in out.iter_mut().enumerate() {
                let (g, q) = (l / 4, l % 4);
                *word = if trans {
                    half(2 * q, g) | half(2 * q + 1, g) << 16
                } else {
                    half(g, 2 * q) | half(g, 2 * q + 1) << 16
                };
            }
            self.warps[w].put(*row, m, &out)?;
        }
        Ok(())
    }

    pub fn stmatrix(&mut self, w: usize, addr: &Addr, a: &[Row], trans: bool, m: u32) -> Exec<()> {
        self.warps[w].together(m, "stmatrix")?;
        let addrs = self.row_addrs(w, addr, a.len())?;
        for (n, row) in a.iter().enumerate() {
            let values = *self.warps[w].get(*row, m)?;
            let mut matrix = [[0u8; 16]; 8];
            for (l, word) in values.iter().enumerate() {
                let (g, q) = (l / 4, l % 4);
                for i in 0..2 {
                    let half = ((*word >> (16 * i)) as u16).to_le_bytes();
                    let (r, c) = if trans { (2 * q + i, g) } else { (g, 2 * q + i) };
                    matrix[r][2 * c..2 * c + 2].copy_from_slice(&half);
                }
            }
            for (r, bytes) in matrix.iter().enumerate() {
                let l = 8 * n + r;
                blame(self.shared.write(&self.clocks, w * 32 + l, addrs[l], false, bytes), l)?;
            }
        }
        Ok(())
    }

    fn rows(&self, w: usize, list: &[Row], m: u32) -> Exec<Vec<Lanes>> {
        list.iter().map(|r| self.warps[w].get(*r, m).copied()).collect()
    }

    pub fn mma(&mut self, w: usize, op: &Mma, m: u32) -> Exec<()> {
        self.warps[w].together(m, "mma.sync")?;
        if m != ALL {
            return lane_trouble(FaultKind::Divergence, 0, "mma.sync needs a whole warp");
        }
        let a = fragment_a(&self.rows(w, &op.a, m)?, op.a_ty);
        let b_regs = self.rows(w, &op.b, m)?;
        let c = self.rows(w, &op.c, m)?;
        let per = (4 / op.b_ty.bytes()) as usize;
        let mut b = [[0f32; 8]; 32];
        let mut word = [0f32; 4];
        for (r, reg) in b_regs.iter().enumerate() {
            for (l, bits) in reg.iter().enumerate() {
                elements(*bits as u32, op.b_ty, &mut word);
                for (i, v) in word[..per].iter().enumerate() {
                    b[(l % 4 + 4 * r) * per + i][l / 4] = *v;
                }
            }
        }
        let k = op.k as usize;
        let d = match op.acc {
            Ty::S32 => integers(&a, &b, &c, k),
            Ty::F16 => halves(&a, &b, &c, k),
            _ => floats(&a, &b, &c, k),
        };
        for (row, values) in op.d.iter().zip(&d) {
            self.warps[w].put(*row, m, values)?;
        }
        Ok(())
    }
}

fn sum(a: &RowsA, b: &[[f32; 8]; 32], acc: &mut [[f32; 8]; 16], k: usize) {
    for (row, acc) in a.iter().zip(acc) {
        for (x, column) in row[..k].iter().zip(b) {
            for n in 0..8 {
                acc[n] += x * column[n];
            }
        }
    }
}

fn floats(a: &RowsA, b: &[[f32; 8]; 32], c: &[Lanes], k: usize) -> Vec<Lanes> {
    let mut acc = [[0f32; 8]; 16];
    let mut d = vec![[0; 32]; 4];
    for (r, reg) in c.iter().enumerate() {
        for l in 0..32 {
            acc[l / 4 + 8 * (r / 2)][2 * (l % 4) + r % 2] = f32::from_bits(reg[l] as u32);
        }
    }
    sum(a, b, &mut acc, k);
    for (r, reg) in d.iter_mut().enumerate() {
        for l in 0..32 {
            reg[l] = u64::from(acc[l / 4 + 8 * (r / 2)][2 * (l % 4) + r % 2].to_bits());
        }
    }
    d
}

fn halves(a: &RowsA, b: &[[f32; 8]; 32], c: &[Lanes], k: usize) -> Vec<Lanes> {
    let mut acc = [[0f32; 8]; 16];
    let mut d = vec![[0; 32]; 2];
    for (r, reg) in c.iter().enumerate() {
        for l in 0..32 {
            elements(reg[l] as u32, MmaTy::F16, &mut acc[l / 4 + 8 * r][2 * (l % 4)..2 * (l % 4) + 2]);
        }
    }
    sum(a, b, &mut acc, k);
    for (r, reg) in d.iter_mut().enumerate() {
        for l in 0..32 {
            let pair = &acc[l / 4 + 8 * r][2 * (l % 4)..2 * (l % 4) + 2];
            let bits = |x: f32| u64::from(f16::from_f32(x).to_bits());
            reg[l] = bits(pair[0]) | bits(pair[1]) << 16;
        }
    }
    d
}

fn integers(a: &RowsA, b: &[[f32; 8]; 32], c: &[Lanes], k: usize) -> Vec<Lanes> {
    let mut acc = [[0f32; 8]; 16];
    // 32 products of bytes stay below 2^24: exact.
    sum(a, b, &mut acc, k);
    let mut d = vec![[0; 32]; 4];
    for (r, reg) in d.iter_mut().enumerate() {
        for l in 0..32 {
            let dot = acc[l / 4 + 8 * (r / 2)][2 * (l % 4) + r % 2] as i32;
            reg[l] = u64::from((c[r][l] as u32).wrapping_add(dot as u32));
        }
    }
    d
}
