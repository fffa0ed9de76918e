//! wgmma: products of a warpgroup.
//!
//! Comes in: descriptors and rows. Goes out: accumulators. What holds: the product is computed when a warp issues it, from
//! shared memory whose writes are ordered before and fenced for the asynchronous proxy; its accumulators (and A
//! registers) belong to it until a wait of the warp covers its group, and the bytes it reads count as being read until
//! then. A wait ends only after all warps of the group have issued the products that it covers: the product belongs to
//! the whole warpgroup. Warps must issue the same sequence. Descriptors with a base offset are refused.

use std::collections::VecDeque;

use super::block::{Block, Flow};
use super::clock::{Clock, Stamp, stamp};
use super::matrix::{RowsA, elements, fragment_a};
use super::warp::{ALL, Lanes, Lock, Wait};
use crate::fault::{Exec, FaultKind, trouble};
use crate::isa::*;
use crate::tensor_map::Swizzle;

/// Products of a warp.
#[derive(Default)]
struct Issued<'a> {
    /// Number of the last one.
    seq: u32,
    in_flight: VecDeque<(u32, &'a Wgmma)>,
    /// The last number of each committed group that was not waited for.
    groups: VecDeque<u32>,
    committed: u32,
}

/// Products of a block.
pub(crate) struct Products<'a> {
    warps: Vec<Issued<'a>>,
    /// For each warpgroup the pc of each product.
    logs: Vec<Vec<u32>>,
}

impl Products<'_> {
    pub fn new(warps: usize) -> Self {
        Self {
            warps: (0..warps).map(|_| Issued::default()).collect(),
            logs: vec![Vec::new(); warps.div_ceil(4)],
        }
    }

    /// Whether every warp of the group of `w` has issued product number `seq`.
    pub fn all_issued(&self, w: usize, seq: u32) -> bool {
        let first = w / 4 * 4;
        self.warps[first..(first + 4).min(self.warps.len())].iter().all(|i| i.seq >= seq)
    }

    pub fn in_flight(&self, w: usize) -> bool {
        !self.warps[w].in_flight.is_empty()
    }
}

/// A decoded matrix descriptor.
#[derive(Clone, Copy, Debug)]
struct Desc {
    start: u32,
    lbo: u32,
    sbo: u32,
    swizzle: Swizzle,
}

impl Desc {
    fn decode(bits: u64) -> Exec<Self> {
        let field = |at: u32| ((bits >> at & 0x3FFF) as u32) << 4;
        let swizzle = match bits >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::B128,
            2 => Swizzle::B64,
            _ => Swizzle::B32,
        };
        if bits >> 49 & 7 != 0 {
            let detail =
                format!("descriptor {bits:#018x} has a base offset: align tiles to the swizzle's pattern");
            return trouble(FaultKind::Descriptor, detail);
        }
        // Bits 14, 15, 30, 31, 46 to 48 and 52 to 61 are not used.
        let unused = 0x3FF << 52 | 7 << 46 | 3 << 30 | 3 << 14;
        if bits & unused != 0 {
            let detail = format!("descriptor {bits:#018x} has bits set that mean nothing");
            return trouble(FaultKind::Descriptor, detail);
        }
        Ok(Self { start: field(0), lbo: field(16), sbo: field(32), swizzle })
    }

    /// The address of the 16 bytes `chunk` of `line`: along k for K-major (line = row of mn), along mn for MN-major
    /// (line = k).
    fn chunk(&self, line: u32, chunk: u32, mn_major: bool) -> u32 {
        let span = self.swizzle.span();
        let per = span / 16;
        let off = match (mn_major, self.swizzle) {
            (false, Swizzle::None) => line % 8 * 16 + line / 8 * self.sbo + chunk * self.lbo,
            (false, _) => line % 8 * span + line / 8 * self.sbo + chunk * 16,
            (true, Swizzle::None) => line % 8 * 16 + line / 8 * self.lbo + chunk * self.sbo,
            (true, _) => line % 8 * span + line / 8 * self.sbo + chunk % per * 16 + chunk / per * self.lbo,
        };
        let at = self.start.wrapping_add(off);
        if self.swizzle == Swizzle::None { at } else { self.swizzle.apply(at) }
    }
}

impl<'a> Block<'a> {
    pub fn wgmma_fence(&mut self, w: usize, m: u32) -> Exec<()> {
        self.warps[w].together(m, "wgmma.fence")?;
        self.warps[w].fence_epoch += 1;
        Ok(())
    }

    pub fn wgmma_commit(&mut self, w: usize, m: u32) -> Exec<()> {
        self.warps[w].together(m, "wgmma.commit_group")?;
        let issued = &mut self.products.warps[w];
        issued.committed = issued.seq;
        issued.groups.push_back(issued.seq);
        Ok(())
    }

    pub fn wgmma_wait(&mut self, w: usize, keep: u32, m: u32) -> Exec<Flow> {
        self.warps[w].together(m, "wgmma.wait_group")?;
        let issued = &self.products.warps[w];
        let Some(n) = issued.groups.len().checked_sub(keep as usize).filter(|n| *n > 0) else {
            return Ok(Flow::Next);
        };
        let seq = issued.groups[n - 1];
        if !self.products.all_issued(w, seq) {
            return Ok(Flow::Stay(Wait::Wgmma(seq)));
        }
        let issued = &mut self.products.warps[w];
        issued.groups.drain(..n);
        let mut done = Vec::new();
        while issued.in_flight.front().is_some_and(|(s, _)| *s <= seq) {
            done.extend(issued.in_flight.pop_front().map(|(_, op)| op));
        }
        for op in done {
            let a: &[Row] = match &op.a {
                WgmmaA::Regs(rows) => rows,
                WgmmaA::Desc(_) => &[],
            };
            op.d.iter().chain(a).for_each(|row| self.warps[w].unlock(*row, seq));
        }
        let mut clock = Clock::default();
        clock.note(self.clocks.warpgroup(w / 4), seq, true);
        self.clocks.acquire_all(w * 32..w * 32 + 32, &clock);
        Ok(Flow::Next)
    }

    pub fn wgmma(&mut self, w: usize, op: &'a Wgmma, m: u32) -> Exec<()> {
        self.warps[w].together(m, "wgmma.mma_async")?;
        if m != ALL || self.warps.len() < w / 4 * 4 + 4 {
            return trouble(FaultKind::Divergence, "wgmma needs a warpgroup: four whole warps");
        }
        if self.warps[w].fence_epoch == 0 {
            return trouble(FaultKind::MissingWgmmaFence, "wgmma before the first wgmma.fence of the warp");
        }
        let seq = self.issue(w, op)?;
        let shape = op.n << 8 | op.k;
        let accumulate = self.warps[w].pred(op.scale_d, m)?;
        if accumulate != 0 && accumulate != m {
            return trouble(FaultKind::Divergence, "scale-d differs between lanes");
        }
        for row in &op.d {
            self.warps[w].check_fenced(*row, shape, true)?;
            if accumulate != 0 && !self.warps[w].settled(*row) {
                self.warps[w].get(*row, m)?;
            }
        }
        let reader = stamp(self.clocks.warpgroup(w / 4), seq);
        let a = self.operand_a(w, op, shape, reader)?;
        let b = self.operand_b(w, op, reader)?;
        self.multiply(w, op, &a, &b, accumulate != 0);
        for row in &op.d {
            self.warps[w].lock(*row, Lock { seq, writes: true, shape });
        }
        if let WgmmaA::Regs(rows) = &op.a {
            rows.iter().for_each(|row| self.warps[w].lock(*row, Lock { seq, writes: false, shape }));
        }
        self.products.warps[w].in_flight.push_back((seq, op));
        self.event();
        Ok(())
    }

    /// Numbers the product and compares it with what the other warps of the group issued.
    fn issue(&mut self, w: usize, op: &Wgmma) -> Exec<u32> {
        let warp = &self.warps[w];
        let pc = warp.splits[warp.cur].pc;
        let issued = &mut self.products.warps[w];
        issued.seq += 1;
        let seq = issued.seq;
        let log = &mut self.products.logs[w / 4];
        match log.get(seq as usize - 1) {
            None => log.push(pc),
            Some(other) if *other == pc => {}
            Some(other) => {
                let line = self.kernel.code[*other as usize].line;
                let detail = format!(
                    "m64n{} number {seq} of this warp stands here, that of another warp of the group at line {line}",
                    op.n
                );
                return trouble(FaultKind::Divergence, detail);
            }
        }
        Ok(seq)
    }

    /// The 16 rows of A of this warp.
    fn operand_a(&mut self, w: usize, op: &Wgmma, shape: u32, reader: Stamp) -> Exec<RowsA> {
        let mut out = match &op.a {
            WgmmaA::Regs(rows) => {
                let mut regs: Vec<Lanes> = Vec::with_capacity(4);
                for row in rows {
                    self.warps[w].check_fenced(*row, shape, false)?;
                    regs.push(*self.warps[w].get(*row, ALL)?);
                }
                fragment_a(&regs, op.a_ty)
            }
            WgmmaA::Desc(row) => {
                let desc = Desc::decode(self.warps[w].uniform(*row, ALL, "the descriptor of A")?)?;
                let first = (w % 4 * 16) as u32;
                let mut out = [[0.0; 32]; 16];
                self.shared_operand(
                    w,
                    desc,
                    (first, 16),
                    op.k,
                    (op.a_ty, op.trans_a),
                    reader,
                    &mut |mn, k, v| {
                        out[(mn - first) as usize][k as usize] = v;
                    },
                )?;
                out
            }
        };
        if op.neg_a {
            out.iter_mut().flatten().for_each(|x| *x = -*x);
        }
        Ok(out)
    }

    /// B as k rows of n.
    fn operand_b(&mut self, w: usize, op: &Wgmma, reader: Stamp) -> Exec<Vec<[f32; 256]>> {
        let desc = Desc::decode(self.warps[w].uniform(op.b, ALL, "the descriptor of B")?)?;
        let mut out = vec![[0.0; 256]; op.k as usize];
        self.shared_operand(w, desc, (0, op.n), op.k, (op.b_ty, op.trans_b), reader, &mut |n, k, v| {
            out[k as usize][n as usize] = v;
        })?;
        if op.neg_b {
            out.iter_mut().flatten().for_each(|x| *x = -*x);
        }
        Ok(out)
    }

    /// Reads `count` lines of mn from `first` and `k` elements of k through a descriptor.
    #[expect(clippy::too_many_arguments)]
    fn shared_operand(
        &mut self,
        w: usize,
        desc: Desc,
        (first, count): (u32, u32),
        k: u32,
        (ty, mn_major): (MmaTy, bool),
        reader: Stamp,
        out: &mut dyn FnMut(u32, u32, f32),
    ) -> Exec<()> {
        let per = 16 / ty.bytes();
        let mut values = [0f32; 16];
        // Lines and the chunks of 16 bytes of each.
        let (lines, chunks) = if mn_major {
            (0..k, first / per..(first + count) / per)
        } else {
            (first..first + count, 0..k / per)
        };
        for line in lines {
            for chunk in chunks.clone() {
                let at = desc.chunk(line, chunk, mn_major);
                let mut bytes = [0; 16];
                let lane = w * 32 + (line % 32) as usize;
                self.shared.async_read(&self.clocks, lane, at, reader, &mut bytes)?;
                let words = bytes.chunks(4);
                let each = (4 / ty.bytes()) as usize;
                for (n, word) in words.enumerate() {
                    let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                    elements(word, ty, &mut values[n * each..(n + 1) * each]);
                }
                for (n, v) in values[..per as usize].iter().enumerate() {
                    let along = chunk * per + n as u32;
                    if mn_major { out(along, line, *v) } else { out(line, along, *v) }
                }
            }
        }
        Ok(())
    }

    /// D = A B (+ D).
    fn multiply(&mut self, w: usize, op: &Wgmma, a: &RowsA, b: &[[f32; 256]], accumulate: bool) {
        let n = op.n as usize;
        for (row, a) in a.iter().enumerate() {
            let mut acc = [0f32; 256];
            let home = |c: usize| {
                let lane = row % 8 * 4 + c % 8 / 2;
                let pair = c / 8 * 2 + row / 8;
                (lane, pair)
            };
            if accumulate {
                for (c, v) in acc[..n].iter_mut().enumerate() {
                    let (lane, pair) = home(c);
                    *v = if op.f32_acc {
                        f32::from_bits(self.warps[w].raw(op.d[pair * 2 + c % 2])[lane] as u32)
                    } else {
                        let word = self.warps[w].raw(op.d[pair])[lane] as u32;
                        let mut halves = [0.0; 2];
                        elements(word, MmaTy::F16, &mut halves);
                        halves[c % 2]
                    };
                }
            }
            for (x, column) in a[..op.k as usize].iter().zip(b) {
                for (v, y) in acc[..n].iter_mut().zip(column) {
                    *v += x * y;
                }
            }
            for (c, sum) in acc[..n].iter().enumerate() {
                let (lane, pair) = home(c);
                if op.f32_acc {
                    self.warps[w].raw_mut(op.d[pair * 2 + c % 2])[lane] = u64::from(sum.to_bits());
                } else {
                    let bits = u64::from(half::f16::from_f32(*sum).to_bits());
                    let word = &mut self.warps[w].raw_mut(op.d[pair])[lane];
                    let shift = 16 * (c % 2) as u32;
                    *word = *word & !(0xFFFF << shift) | bits << shift;
                }
            }
        }
    }
}
