//! What the lanes of a warp do together: shuffles, votes, matches, reductions, elections, syncs.
//!
//! Comes in: an instruction with its mask. Goes out: rows and predicates. What holds: the lanes of the mask that have not
//! ended are exactly those that execute (lanes that come later, from another branch, are not waited for: a fault).

use super::access::combine;
use super::block::Block;
use super::warp::lanes;
use crate::fault::{Exec, FaultKind, lane_trouble};
use crate::isa::*;

impl Block<'_> {
    /// Checks the mask of a `.sync` instruction.
    fn members(&self, w: usize, mask: Row, m: u32) -> Exec<()> {
        let warp = &self.warps[w];
        let masks = warp.get(mask, m)?;
        for l in lanes(m) {
            let mask = masks[l] as u32;
            if mask >> l & 1 == 0 {
                let detail = format!("the mask {mask:#010x} leaves out the lane that executes");
                return lane_trouble(FaultKind::SyncMask, l as u32, detail);
            }
            let missing = mask & warp.live & !m;
            if missing != 0 {
                let detail =
                    format!("the mask {mask:#010x} names lanes {missing:#010x}, which are elsewhere");
                return lane_trouble(FaultKind::SyncMask, l as u32, detail);
            }
        }
        Ok(())
    }

    pub fn shuffle(
        &mut self,
        w: usize,
        mode: Shfl,
        [d, a, b, c, mask]: [Row; 5],
        p: Option<PRow>,
        m: u32,
    ) -> Exec<()> {
        self.members(w, mask, m)?;
        let warp = &mut self.warps[w];
        let (source, lane_or_delta) = (*warp.get(a, m)?, *warp.get(b, m)?);
        let clamp = *warp.get(c, m)?;
        let (mut out, mut valid) = ([0; 32], 0);
        for l in lanes(m) {
            let lane = l as u32;
            let (bval, cval) = (lane_or_delta[l] as u32 & 31, clamp[l] as u32 & 31);
            let seg = clamp[l] as u32 >> 8 & 31;
            let max = lane & seg | cval & !seg;
            let min = lane & seg;
            let (j, ok) = match mode {
                Shfl::Up => {
                    let j = lane as i32 - bval as i32;
                    (j as u32, j >= max as i32)
                }
                Shfl::Down => (lane + bval, lane + bval <= max),
                Shfl::Bfly => (lane ^ bval, lane ^ bval <= max),
                Shfl::Idx => {
                    let j = min | bval & !seg;
                    (j, j <= max)
                }
            };
            let j = if ok { j } else { lane };
            if m >> j & 1 == 0 {
                let detail = format!("shfl reads lane {j}, which does not execute it");
                return lane_trouble(FaultKind::SyncMask, lane, detail);
            }
            out[l] = source[j as usize] & 0xFFFF_FFFF;
            valid |= u32::from(ok) << l;
        }
        warp.put(d, m, &out)?;
        if let Some(p) = p {
            warp.set_pred(p, m, valid);
        }
        Ok(())
    }

    pub fn vote(
        &mut self,
        w: usize,
        mode: Vote,
        (d, p): (Row, PRow),
        a: PSrc,
        mask: Row,
        m: u32,
    ) -> Exec<()> {
        self.members(w, mask, m)?;
        let warp = &mut self.warps[w];
        let bits = warp.pred(a, m)?;
        let truth = match mode {
            Vote::All => bits == m,
            Vote::Any => bits != 0,
            Vote::Uni => bits == 0 || bits == m,
            Vote::Ballot => return warp.put(d, m, &[u64::from(bits); 32]),
        };
        warp.set_pred(p, m, if truth { m } else { 0 });
        Ok(())
    }

    pub fn matching(
        &mut self,
        w: usize,
        (all, ty): (bool, Ty),
        [d, a, mask]: [Row; 3],
        p: Option<PRow>,
        m: u32,
    ) -> Exec<()> {
        self.members(w, mask, m)?;
        let warp = &mut self.warps[w];
        let values = warp.get(a, m)?.map(|v| v & ty.mask());
        let mut out = [0; 32];
        for l in lanes(m) {
            let same = lanes(m).filter(|k| values[*k] == values[l]).fold(0u32, |s, k| s | 1 << k);
            out[l] = u64::from(if all && same != m { 0 } else { same });
        }
        let agree = lanes(m).all(|l| out[l] as u32 == m);
        warp.put(d, m, &out)?;
        if let Some(p) = p {
            warp.set_pred(p, m, if agree { m } else { 0 });
        }
        Ok(())
    }

    pub fn redux(&mut self, w: usize, (op, ty): (AtomOp, Ty), [d, a, mask]: [Row; 3], m: u32) -> Exec<()> {
        self.members(w, mask, m)?;
        let warp = &mut self.warps[w];
        let values = *warp.get(a, m)?;
        let mut all = lanes(m).map(|l| values[l] & ty.mask());
        let first = all.next().unwrap_or(0);
        let total = all.fold(first, |acc, v| combine(op, ty, acc, v, 0));
        warp.put(d, m, &[total; 32])
    }

    /// The leader of a mask is the same every time, but which one is left to the seed.
    pub fn elect(&mut self, w: usize, d: Option<Row>, p: PRow, mask: Row, m: u32) -> Exec<()> {
        self.members(w, mask, m)?;
        let nth = self.options.seed.wrapping_mul(0x9E37_79B9).wrapping_add(7) as u32 % m.count_ones();
        let leader = lanes(m).nth(nth as usize).unwrap_or(0);
        let warp = &mut self.warps[w];
        if let Some(d) = d {
            warp.put(d, m, &[leader as u64; 32])?;
        }
        warp.set_pred(p, m, 1 << leader);
        Ok(())
    }

    pub fn warp_sync(&mut self, w: usize, mask: Row, m: u32) -> Exec<()> {
        self.members(w, mask, m)?;
        let threads: Vec<usize> = lanes(m).map(|l| w * 32 + l).collect();
        self.clocks.sync(&threads);
        Ok(())
    }
}
