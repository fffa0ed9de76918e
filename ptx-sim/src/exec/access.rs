//! Loads, stores and atomics.
//!
//! Comes in: an instruction and the lanes that execute it. Goes out: values in registers and memory. What holds: every
//! access is checked for bounds, alignment, initialisation and, in shared memory, order; bank conflicts are counted.

use super::block::Block;
use super::fp;
use super::warp::{Lanes, lanes};
use crate::fault::{Exec, FaultKind, Trouble, lane_trouble, trouble};
use crate::isa::*;

/// An address with its space decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Global(u64),
    Shared(u32),
    Local(u32),
    Param(u32),
}

/// Names the lane of a fault that has none.
pub(crate) fn blame<T>(result: Exec<T>, lane: usize) -> Exec<T> {
    result.map_err(|t| if t.lane.is_some() { t } else { Box::new(Trouble { lane: Some(lane as u32), ..*t }) })
}

/// Decides the space of an address.
pub(crate) fn place(addr: &Addr, base: u64) -> Exec<Place> {
    let base = if addr.bits == 32 { base & 0xFFFF_FFFF } else { base };
    let at = base.wrapping_add_signed(addr.off);
    let narrow = |at: u64, what: &str| match u32::try_from(at) {
        Ok(at) => Ok(at),
        Err(_) => trouble(FaultKind::OutOfBounds, format!("{at:#x} is no {what} address")),
    };
    Ok(match addr.space {
        Space::Global | Space::Const => Place::Global(at),
        Space::Shared => {
            Place::Shared(narrow(if addr.bits == 32 { at & 0xFFFF_FFFF } else { at }, "shared")?)
        }
        Space::Local => Place::Local(narrow(at, "local")?),
        Space::Param => Place::Param(narrow(at, "parameter")?),
        Space::Generic => match at >> 52 {
            0 => Place::Global(at),
            1 => Place::Shared(narrow(at - SHARED_WINDOW, "shared")?),
            2 => Place::Local(narrow(at - LOCAL_WINDOW, "local")?),
            3 => Place::Param(narrow(at - PARAM_WINDOW, "parameter")?),
            _ => return trouble(FaultKind::OutOfBounds, format!("{at:#x} is no address")),
        },
    })
}

/// Local memory of a thread.
#[derive(Clone, Default)]
pub(crate) struct Local {
    data: Vec<u8>,
    init: Vec<bool>,
}

impl Local {
    pub fn new(bytes: usize) -> Self {
        Self { data: vec![0; bytes], init: vec![false; bytes] }
    }

    fn range(&self, at: u32, len: usize) -> Exec<std::ops::Range<usize>> {
        let at = at as usize;
        if at + len <= self.data.len() {
            return Ok(at..at + len);
        }
        let detail = format!("{len} bytes at {at} of {} bytes of local memory", self.data.len());
        trouble(FaultKind::OutOfBounds, detail)
    }
}

/// The value of a register after a load of `ty` into `bits` bits.
fn extend(raw: u64, ty: Ty, bits: u32) -> u64 {
    if ty.signed() && bits > ty.bits() {
        let shift = 64 - ty.bits();
        (((raw << shift) as i64) >> shift) as u64 & (u64::MAX >> (64 - bits))
    } else {
        raw
    }
}

impl Block<'_> {
    /// Where each lane's access goes; counts bank conflicts of shared accesses.
    fn places(&mut self, w: usize, addr: &Addr, m: u32, len: u32) -> Exec<[Place; 32]> {
        let base = *self.warps[w].get(addr.base, m)?;
        let mut out = [Place::Global(0); 32];
        let mut shared = [0; 32];
        let mut shared_mask = 0;
        for l in lanes(m) {
            out[l] = blame(place(addr, base[l]), l)?;
            let at = match out[l] {
                Place::Shared(at) => {
                    shared[l] = at;
                    shared_mask |= 1 << l;
                    u64::from(at)
                }
                Place::Global(at) => at,
                Place::Local(at) | Place::Param(at) => u64::from(at),
            };
            if !at.is_multiple_of(u64::from(len)) {
                let detail = format!("address {at:#x} is not a multiple of the {len} bytes accessed");
                return lane_trouble(FaultKind::Misaligned, l as u32, detail);
            }
        }
        if shared_mask != 0 {
            self.count_banks(w, &shared, shared_mask, len);
        }
        Ok(out)
    }

    /// Counts wavefronts beyond the least possible: 128 bytes of distinct words go at once.
    pub fn count_banks(&mut self, w: usize, addrs: &[u32; 32], m: u32, len: u32) {
        let per = (32 / (len / 4).max(1)) as usize;
        let words = (len / 4).max(1);
        let mut extra = 0;
        for first in (0..32).step_by(per) {
            let mut seen: [(u32, [u32; 8]); 32] = [(0, [0; 8]); 32];
            let mut most = 0;
            for l in (first..first + per).filter(|l| m >> l & 1 == 1) {
                for i in 0..words {
                    let word = addrs[l] / 4 + i;
                    let (n, list) = &mut seen[(word % 32) as usize];
                    if !list[..(*n).min(8) as usize].contains(&word) {
                        list[(*n & 7) as usize] = word;
                        *n += 1;
                        most = most.max(*n);
                    }
                }
            }
            extra += u64::from(most.saturating_sub(1));
        }
        let pc = self.warps[w].splits[self.warps[w].cur].pc;
        self.stats.banks(pc, extra);
    }

    /// Reads bytes for one lane.
    fn read(&mut self, thread: usize, at: Place, strong: bool, out: &mut [u8]) -> Exec<()> {
        match at {
            Place::Global(at) => out.copy_from_slice(self.global.read(at, out.len())?),
            Place::Shared(at) => self.shared.read(&self.clocks, thread, at, strong, out)?,
            Place::Local(at) => {
                let local = &self.locals[thread];
                let range = local.range(at, out.len())?;
                if local.init[range.clone()].contains(&false) {
                    let detail = format!("local memory at {at} is read before it is written");
                    return trouble(FaultKind::UninitLocal, detail);
                }
                out.copy_from_slice(&local.data[range]);
            }
            Place::Param(at) => match self.params.get(at as usize..at as usize + out.len()) {
                Some(bytes) => out.copy_from_slice(bytes),
                None => return trouble(FaultKind::OutOfBounds, format!("{at} is beyond the parameters")),
            },
        }
        Ok(())
    }

    fn write(&mut self, thread: usize, at: Place, strong: bool, bytes: &[u8]) -> Exec<()> {
        match at {
            Place::Global(at) => self.global.write(at, bytes),
            Place::Shared(at) => self.shared.write(&self.clocks, thread, at, strong, bytes),
            Place::Local(at) => {
                let range = self.locals[thread].range(at, bytes.len())?;
                self.locals[thread].data[range.clone()].copy_from_slice(bytes);
                self.locals[thread].init[range].fill(true);
                Ok(())
            }
            Place::Param(_) => trouble(FaultKind::OutOfBounds, "parameters cannot be written"),
        }
    }

    pub fn load(&mut self, w: usize, ld: &Ld, m: u32) -> Exec<()> {
        let each = ld.ty.bytes() as usize;
        let len = each * ld.d.len();
        let places = self.places(w, &ld.addr, m, len as u32)?;
        let strong = ld.sem != Sem::Weak;
        let mut values = vec![[0u64; 32]; ld.d.len()];
        let mut buf = [0u8; 64];
        for l in lanes(m) {
            let thread = w * 32 + l;
            blame(self.read(thread, places[l], strong, &mut buf[..len]), l)?;
            for (n, row) in values.iter_mut().enumerate() {
                let mut raw = [0; 8];
                raw[..each].copy_from_slice(&buf[n * each..(n + 1) * each]);
                row[l] = u64::from_le_bytes(raw);
            }
            self.observe(thread, places[l], ld.sem);
        }
        for (d, values) in ld.d.iter().zip(&mut values) {
            if let Some((row, bits)) = d {
                lanes(m).for_each(|l| values[l] = extend(values[l], ld.ty, *bits));
                self.warps[w].put(*row, m, values)?;
            }
        }
        Ok(())
    }

    pub fn store(&mut self, w: usize, st: &St, m: u32) -> Exec<()> {
        let each = st.ty.bytes() as usize;
        let len = each * st.a.len();
        let places = self.places(w, &st.addr, m, len as u32)?;
        let strong = st.sem != Sem::Weak;
        let mut rows = Vec::with_capacity(st.a.len());
        for row in &st.a {
            rows.push(*self.warps[w].get(*row, m)?);
        }
        let mut buf = [0u8; 64];
        for l in lanes(m) {
            let thread = w * 32 + l;
            for (n, row) in rows.iter().enumerate() {
                buf[n * each..(n + 1) * each].copy_from_slice(&row[l].to_le_bytes()[..each]);
            }
            self.publish(thread, places[l], st.sem);
            blame(self.write(thread, places[l], strong, &buf[..len]), l)?;
        }
        Ok(())
    }

    pub fn atomic(&mut self, w: usize, a: &Atom, m: u32) -> Exec<()> {
        let each = a.ty.bytes() as usize;
        let places = self.places(w, &a.addr, m, (each * a.b.len()) as u32)?;
        let mut b: Vec<Lanes> = Vec::with_capacity(a.b.len());
        for row in &a.b {
            b.push(*self.warps[w].get(*row, m)?);
        }
        let c = match a.c {
            Some(row) => *self.warps[w].get(row, m)?,
            None => [0; 32],
        };
        let mut old = vec![[0u64; 32]; a.b.len()];
        // Lanes take turns in an order that is not theirs to choose.
        let turn = self.rng.below(32) as u32;
        for l in lanes(m.rotate_right(turn)).map(|l| (l + turn as usize) % 32) {
            let thread = w * 32 + l;
            self.publish(thread, places[l], a.sem);
            for n in 0..a.b.len() {
                let at = match places[l] {
                    Place::Global(at) => Place::Global(at + (n * each) as u64),
                    Place::Shared(at) => Place::Shared(at + (n * each) as u32),
                    _ => {
                        return lane_trouble(
                            FaultKind::Value,
                            l as u32,
                            "atomics go to global or shared memory",
                        );
                    }
                };
                let mut raw = [0; 8];
                blame(self.read(thread, at, true, &mut raw[..each]), l)?;
                old[n][l] = u64::from_le_bytes(raw);
                let new = combine(a.op, a.ty, old[n][l], b[n][l], c[l]);
                blame(self.write(thread, at, true, &new.to_le_bytes()[..each]), l)?;
            }
            self.observe(thread, places[l], a.sem);
        }
        for (n, row) in a.d.iter().flatten().enumerate() {
            self.warps[w].put(*row, m, &old[n])?;
        }
        Ok(())
    }
}

/// The new value of an atomic operation; `c` is the new value of cas.
pub(crate) fn combine(op: AtomOp, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    if !ty.integer() {
        return match op {
            AtomOp::Exch => b,
            _ => fp::combine(op, ty, old, b),
        };
    }
    let mask = ty.mask();
    let (old, b) = (old & mask, b & mask);
    let shift = 64 - ty.bits();
    let signed = |v: u64| ((v << shift) as i64) >> shift;
    let less = if ty.signed() { signed(b) < signed(old) } else { b < old };
    let new = match op {
        AtomOp::Add => old.wrapping_add(b),
        AtomOp::Min => {
            if less {
                b
            } else {
                old
            }
        }
        AtomOp::Max => {
            if less {
                old
            } else {
                b
            }
        }
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Exch => b,
        AtomOp::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    };
    new & mask
}
