//! Shared memory of a block, and for each byte who touched it.
//!
//! Comes in: reads and writes of threads and of the asynchronous proxy. Goes out: bytes, or the fault. What holds: a byte is
//! read only if it was written, its write is ordered before the read, and no copy is on its way to it; a byte is written
//! only if every earlier access to it is ordered before. The last four readers that nothing orders among themselves are
//! remembered; with more, a race with a forgotten one is found only by another seed. Two unordered writes of the same
//! value are let pass.

use super::clock::{Clocks, Stamp, component};
use crate::fault::{Exec, FaultKind, trouble};
use crate::isa::SHARED_BASE;

const UNWRITTEN: u8 = 0;
const WRITTEN: u8 = 1;
/// Written by the asynchronous proxy.
const ARRIVED: u8 = 2;
/// A copy is on its way.
const PENDING: u8 = 3;
const MBARRIER: u8 = 4;
/// Written by an atomic or volatile access.
const ATOMIC: u8 = 5;

pub(crate) struct Shared {
    data: Vec<u8>,
    state: Vec<u8>,
    writes: Vec<Stamp>,
    reads: Vec<[Stamp; 4]>,
    /// Where the next forgotten reader stands.
    victim: usize,
}

fn who(s: Stamp, clocks: &Clocks) -> String {
    match component(s) {
        t if t < clocks.count() => format!("thread {t}"),
        c if c < clocks.count() + clocks.count().div_ceil(128) => {
            format!("wgmma of warpgroup {}", c - clocks.count())
        }
        _ => "an asynchronous copy".to_string(),
    }
}

impl Shared {
    pub fn new(size: usize) -> Self {
        Self {
            data: vec![0xA5; size],
            state: vec![UNWRITTEN; size],
            writes: vec![0; size],
            reads: vec![[0; 4]; size],
            victim: 0,
        }
    }

    /// The offset of `len` bytes at a shared address.
    pub fn place(&self, addr: u32, len: usize) -> Exec<usize> {
        let at = addr.wrapping_sub(SHARED_BASE) as usize;
        if addr < SHARED_BASE || at + len > self.data.len() {
            let end = SHARED_BASE as usize + self.data.len();
            let detail = format!(
                "{len} bytes at shared address {addr:#x}; the block has {SHARED_BASE:#x} to {end:#x}"
            );
            return trouble(FaultKind::OutOfBounds, detail);
        }
        Ok(at)
    }

    pub fn aligned(&self, addr: u32, align: u32) -> Exec<()> {
        if addr.is_multiple_of(align) {
            return Ok(());
        }
        trouble(FaultKind::Misaligned, format!("shared address {addr:#x} is not a multiple of {align}"))
    }

    #[cold]
    fn refuse_state(&self, at: usize) -> Exec<()> {
        let addr = at + SHARED_BASE as usize;
        match self.state[at] {
            UNWRITTEN => trouble(
                FaultKind::UninitShared,
                format!("shared byte {addr:#x} is read before it is written"),
            ),
            PENDING => trouble(
                FaultKind::AsyncNotWaited,
                format!("shared byte {addr:#x} is touched while a copy to it is on its way"),
            ),
            _ => trouble(FaultKind::Mbarrier, format!("shared byte {addr:#x} belongs to an mbarrier")),
        }
    }

    #[cold]
    fn race(&self, at: usize, s: Stamp, clocks: &Clocks, what: &str) -> Exec<()> {
        let addr = at + SHARED_BASE as usize;
        let other = who(s, clocks);
        trouble(
            FaultKind::Race,
            format!("shared byte {addr:#x}: {what} by {other} is not ordered before this access"),
        )
    }

    fn remember(&mut self, clocks: &Clocks, thread: usize, at: usize, s: Stamp) {
        let list = &mut self.reads[at];
        if list[0] == s {
            return;
        }
        let own = component(s);
        let free = list.iter().position(|r| *r == 0 || component(*r) == own);
        let free = free.or_else(|| list.iter().position(|r| clocks.knows(thread, *r)));
        self.victim = self.victim.wrapping_add(1);
        list[free.unwrap_or(self.victim & 3)] = s;
    }

    /// A read of an ordinary or strong access.
    pub fn read(
        &mut self,
        clocks: &Clocks,
        thread: usize,
        addr: u32,
        strong: bool,
        out: &mut [u8],
    ) -> Exec<()> {
        let at = self.place(addr, out.len())?;
        let now = clocks.now(thread);
        for (n, byte) in out.iter_mut().enumerate() {
            let b = at + n;
            let state = self.state[b];
            if !matches!(state, WRITTEN | ARRIVED | ATOMIC) {
                self.refuse_state(b)?;
            }
            let excused = strong && state == ATOMIC;
            if !excused && !clocks.knows(thread, self.writes[b]) {
                self.race(b, self.writes[b], clocks, "a write")?;
            }
            if !strong {
                self.remember(clocks, thread, b, now);
            }
            *byte = self.data[b];
        }
        Ok(())
    }

    /// A write of an ordinary or strong access.
    pub fn write(
        &mut self,
        clocks: &Clocks,
        thread: usize,
        addr: u32,
        strong: bool,
        bytes: &[u8],
    ) -> Exec<()> {
        let at = self.place(addr, bytes.len())?;
        let now = clocks.now(thread);
        for (n, byte) in bytes.iter().enumerate() {
            let b = at + n;
            let state = self.state[b];
            if matches!(state, PENDING | MBARRIER) {
                self.refuse_state(b)?;
            }
            let excused = (strong && state == ATOMIC) || (state == WRITTEN && self.data[b] == *byte);
            if !clocks.knows(thread, self.writes[b]) && !excused {
                self.race(b, self.writes[b], clocks, "a write")?;
            }
            self.check_reads(clocks, thread, b)?;
            self.data[b] = *byte;
            self.state[b] = if strong { ATOMIC } else { WRITTEN };
            self.writes[b] = now;
        }
        Ok(())
    }

    /// Refuses if a read of the byte is not ordered before; forgets the reads.
    fn check_reads(&mut self, clocks: &Clocks, thread: usize, b: usize) -> Exec<()> {
        let reads = self.reads[b];
        if reads != [0; 4] {
            if let Some(r) = reads.iter().find(|r| !clocks.knows(thread, **r)) {
                self.race(b, *r, clocks, "a read")?;
            }
            self.reads[b] = [0; 4];
        }
        Ok(())
    }

    /// A read by the asynchronous proxy on behalf of `thread`, remembered as `reader`.
    pub fn async_read(
        &mut self,
        clocks: &Clocks,
        thread: usize,
        addr: u32,
        reader: Stamp,
        out: &mut [u8],
    ) -> Exec<()> {
        let at = self.place(addr, out.len())?;
        for (n, byte) in out.iter_mut().enumerate() {
            let b = at + n;
            let state = self.state[b];
            if !matches!(state, WRITTEN | ARRIVED | ATOMIC) {
                self.refuse_state(b)?;
            }
            let s = self.writes[b];
            if !clocks.knows(thread, s) {
                self.race(b, s, clocks, "a write")?;
            }
            if state != ARRIVED && !clocks.fenced(thread, s) {
                self.unfenced(b, s, clocks)?;
            }
            self.remember(clocks, thread, b, reader);
            *byte = self.data[b];
        }
        Ok(())
    }

    #[cold]
    fn unfenced(&self, b: usize, s: Stamp, clocks: &Clocks) -> Exec<()> {
        let addr = b + SHARED_BASE as usize;
        let detail = format!(
            "shared byte {addr:#x}: an ordinary write by {} reaches the asynchronous proxy without a proxy fence",
            who(s, clocks)
        );
        trouble(FaultKind::MissingProxyFence, detail)
    }

    /// A copy to `len` bytes begins on behalf of `thread`; `bulk` copies belong to the asynchronous proxy.
    pub fn begin(&mut self, clocks: &Clocks, thread: usize, addr: u32, len: usize, bulk: bool) -> Exec<()> {
        let at = self.place(addr, len)?;
        for b in at..at + len {
            let state = self.state[b];
            if matches!(state, PENDING | MBARRIER) {
                self.refuse_state(b)?;
            }
            let s = self.writes[b];
            if !clocks.knows(thread, s) {
                self.race(b, s, clocks, "a write")?;
            }
            if bulk && matches!(state, WRITTEN | ATOMIC) && !clocks.fenced(thread, s) {
                self.unfenced(b, s, clocks)?;
            }
            self.check_reads(clocks, thread, b)?;
            self.state[b] = PENDING;
            self.data[b] = 0xA5;
        }
        Ok(())
    }

    /// Bytes of a copy land; they may not be read yet.
    pub fn land(&mut self, addr: u32, bytes: &[u8]) -> Exec<()> {
        let at = self.place(addr, bytes.len())?;
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// A copy was waited for: its bytes count as written by `s`.
    pub fn finish(&mut self, addr: u32, len: usize, s: Stamp, bulk: bool) -> Exec<()> {
        let at = self.place(addr, len)?;
        self.state[at..at + len].fill(if bulk { ARRIVED } else { WRITTEN });
        self.writes[at..at + len].fill(s);
        Ok(())
    }

    /// Makes 8 bytes an mbarrier.
    pub fn claim(&mut self, clocks: &Clocks, thread: usize, addr: u32) -> Exec<()> {
        self.write(clocks, thread, addr, false, &[0; 8])?;
        let at = self.place(addr, 8)?;
        self.state[at..at + 8].fill(MBARRIER);
        Ok(())
    }

    /// Makes an mbarrier 8 unwritten bytes.
    pub fn disclaim(&mut self, clocks: &Clocks, thread: usize, addr: u32) -> Exec<()> {
        let at = self.place(addr, 8)?;
        self.state[at..at + 8].fill(UNWRITTEN);
        self.writes[at..at + 8].fill(clocks.now(thread));
        Ok(())
    }

    /// Whether the mbarrier's initialisation is ordered before what `thread` does.
    pub fn claimed(&self, clocks: &Clocks, thread: usize, addr: u32) -> Exec<()> {
        let at = self.place(addr, 8)?;
        if clocks.knows(thread, self.writes[at]) {
            return Ok(());
        }
        self.race(at, self.writes[at], clocks, "mbarrier.init")
    }
}
