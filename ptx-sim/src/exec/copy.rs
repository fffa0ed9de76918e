//! cp.async, and copies that an mbarrier tracks.
//!
//! Comes in: copies of threads, their commits and waits. Goes out: bytes in shared memory. What holds: the destination is
//! pending, and touching it a fault, until the issuing thread waited for the copy's group or the mbarrier that tracks it
//! completed; the source is read when the copy is issued or when it ends, as the seed and the launch decide. cp.async
//! belongs to the generic proxy.

use std::collections::VecDeque;

use super::access::{Place, blame, place};
use super::block::Block;
use super::bulk::Source;
use super::clock::{Clock, stamp};
use super::warp::lanes;
use crate::fault::{Exec, FaultKind, lane_trouble};
use crate::host::Lateness;
use crate::isa::*;

/// One cp.async.
#[derive(Clone, Debug)]
pub(crate) struct Cp {
    dst: u32,
    src: u64,
    size: u32,
    /// Bytes that come from the source; the rest is zero.
    len: u32,
    landed: bool,
}

/// The copies of a thread.
#[derive(Default)]
pub(crate) struct Copies {
    open: Vec<Cp>,
    groups: VecDeque<Vec<Cp>>,
}

impl Copies {
    /// All copies that were not waited for.
    pub fn take_all(&mut self) -> Vec<Cp> {
        let mut all: Vec<Cp> = self.groups.iter_mut().flat_map(std::mem::take).collect();
        all.append(&mut self.open);
        all
    }
}

/// What ends by itself.
pub(crate) struct Pending {
    pub pc: u32,
    pub kind: Kind,
}

pub(crate) enum Kind {
    /// A bulk or tensor load.
    Load { dst: u32, len: usize, source: Source, mbar: u32 },
    /// cp.async.mbarrier.arrive.
    CpArrive { thread: usize, mbar: u32, ops: Vec<Cp>, clock: Clock },
}

impl Block<'_> {
    pub fn cp_async(&mut self, w: usize, c: &CpAsync, m: u32) -> Exec<()> {
        let warp = &self.warps[w];
        let (dst, src) = (*warp.get(c.dst.base, m)?, *warp.get(c.src.base, m)?);
        let sizes = match c.src_size {
            Some(row) => *warp.get(row, m)?,
            None => [u64::from(c.size); 32],
        };
        let ignored = match c.ignore {
            Some(p) => warp.pred(p, m)?,
            None => 0,
        };
        let mut banks = [0; 32];
        for l in lanes(m) {
            let thread = w * 32 + l;
            let (Place::Shared(dst), Place::Global(src)) =
                (blame(place(&c.dst, dst[l]), l)?, blame(place(&c.src, src[l]), l)?)
            else {
                return lane_trouble(FaultKind::OutOfBounds, l as u32, "cp.async goes from global to shared");
            };
            let len = if ignored >> l & 1 == 1 { 0 } else { sizes[l] as u32 };
            if len > c.size {
                let detail = format!("src-size {len} is larger than the copy of {}", c.size);
                return lane_trouble(FaultKind::Value, l as u32, detail);
            }
            blame(self.shared.aligned(dst, c.size), l)?;
            if len > 0 {
                blame(self.global.check(src, len as usize, c.size as usize), l)?;
                blame(self.global.read(src, len as usize).map(|_| ()), l)?;
            }
            blame(self.shared.begin(&self.clocks, thread, dst, c.size as usize, false), l)?;
            banks[l] = dst;
            let mut cp = Cp { dst, src, size: c.size, len, landed: false };
            let early = match self.options.lateness {
                Lateness::Late => false,
                Lateness::Early => true,
                Lateness::Random => self.rng.next() & 1 == 1,
            };
            if early {
                self.land(&mut cp)?;
            }
            self.copies[thread].open.push(cp);
        }
        self.count_banks(w, &banks, m, c.size);
        Ok(())
    }

    fn land(&mut self, cp: &mut Cp) -> Exec<()> {
        if !cp.landed {
            let mut bytes = [0; 16];
            if cp.len > 0 {
                bytes[..cp.len as usize].copy_from_slice(self.global.read(cp.src, cp.len as usize)?);
            }
            self.shared.land(cp.dst, &bytes[..cp.size as usize])?;
            cp.landed = true;
        }
        Ok(())
    }

    pub fn cp_commit(&mut self, w: usize, m: u32) {
        for l in lanes(m) {
            let copies = &mut self.copies[w * 32 + l];
            let group = std::mem::take(&mut copies.open);
            copies.groups.push_back(group);
        }
    }

    pub fn cp_wait(&mut self, w: usize, pending: Option<u32>, m: u32) -> Exec<()> {
        if pending.is_none() {
            self.cp_commit(w, m);
        }
        let keep = pending.unwrap_or(0) as usize;
        for l in lanes(m) {
            let thread = w * 32 + l;
            let now = self.clocks.now(thread);
            while self.copies[thread].groups.len() > keep {
                for mut cp in self.copies[thread].groups.pop_front().unwrap_or_default() {
                    blame(self.land(&mut cp), l)?;
                    self.shared.finish(cp.dst, cp.size as usize, now, false)?;
                }
            }
            if keep == 0 {
                self.end_arrivals(thread)?;
            }
        }
        Ok(())
    }

    /// Copies that an mbarrier tracks end too when their thread waits for all.
    fn end_arrivals(&mut self, thread: usize) -> Exec<()> {
        let own = |p: &Pending| matches!(p.kind, Kind::CpArrive { thread: t, .. } if t == thread);
        while let Some(n) = self.pending.iter().position(own) {
            self.complete(n)?;
        }
        Ok(())
    }

    /// Ends one copy in flight.
    pub fn complete(&mut self, n: usize) -> Exec<()> {
        let pending = self.pending.swap_remove(n);
        match pending.kind {
            Kind::Load { dst, len, source, mbar } => {
                let bytes = self.gather(&source, len)?;
                match &source {
                    Source::Tensor(map, _) => {
                        for (n, chunk) in bytes.chunks(16).enumerate() {
                            self.shared.land(map.swizzle.apply(dst + 16 * n as u32), chunk)?;
                        }
                    }
                    Source::Linear(_) => self.shared.land(dst, &bytes)?,
                }
                let (component, epoch) = self.tracked(mbar)?;
                self.shared.finish(dst, len, stamp(component, epoch), true)?;
                self.complete_tx(mbar, len)
            }
            Kind::CpArrive { mbar, ops, clock, .. } => {
                let (component, epoch) = self.tracked(mbar)?;
                for mut cp in ops {
                    self.land(&mut cp)?;
                    self.shared.finish(cp.dst, cp.size as usize, stamp(component, epoch), false)?;
                }
                self.copies_arrive(mbar, &clock)
            }
        }
    }

    /// The bytes that a bulk load brings.
    fn gather(&self, source: &Source, len: usize) -> Exec<Vec<u8>> {
        match source {
            Source::Linear(at) => Ok(self.global.read(*at, len)?.to_vec()),
            Source::Tensor(map, coords) => {
                let each = map.element.bytes() as usize;
                let mut out = vec![0; len];
                for run in map.runs(coords) {
                    if let Some(at) = run.global {
                        let bytes = self.global.read(at, run.elements * each)?;
                        out[run.offset..run.offset + bytes.len()].copy_from_slice(bytes);
                    }
                }
                Ok(out)
            }
        }
    }
}
