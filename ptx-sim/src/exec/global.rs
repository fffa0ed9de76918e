//! Global memory: allocations that nothing lies between.
//!
//! Comes in: allocations, bytes from the host, accesses of kernels. Goes out: bytes. What holds: an address names its
//! allocation (bits 36 and up), so an access outside of one is always noticed; a byte is read only after it was written.
//! Not here: races between blocks, which are not looked for.

use crate::fault::{Exec, FaultKind, trouble};

const SHIFT: u32 = 36;

struct Alloc {
    data: Vec<u8>,
    /// One flag for each byte; empty when all are written.
    init: Vec<bool>,
    live: bool,
    name: String,
}

/// All allocations.
#[derive(Default)]
pub(crate) struct Global {
    allocs: Vec<Alloc>,
}

impl Global {
    /// A new allocation of unwritten bytes; its address.
    pub fn alloc(&mut self, size: usize, name: &str) -> u64 {
        let name = name.to_string();
        self.allocs.push(Alloc { data: vec![0; size], init: vec![false; size], live: true, name });
        (self.allocs.len() as u64) << SHIFT
    }

    pub fn free(&mut self, addr: u64) {
        if let Some(a) = self.allocs.get_mut(((addr >> SHIFT) as usize).wrapping_sub(1)) {
            *a = Alloc { data: Vec::new(), init: Vec::new(), live: false, name: std::mem::take(&mut a.name) };
        }
    }

    /// Index of the allocation and offset of `len` bytes in it.
    fn find(&self, addr: u64, len: usize) -> Exec<(usize, usize)> {
        let n = ((addr >> SHIFT) as usize).wrapping_sub(1);
        let at = (addr & ((1 << SHIFT) - 1)) as usize;
        match self.allocs.get(n) {
            Some(a) if a.live && at + len <= a.data.len() => Ok((n, at)),
            Some(a) => trouble(
                FaultKind::OutOfBounds,
                format!(
                    "{len} bytes at offset {at} of global `{}`, which has {} bytes",
                    a.name,
                    a.data.len()
                ),
            ),
            None => trouble(FaultKind::OutOfBounds, format!("{addr:#x} is no global address")),
        }
    }

    /// Refuses an address that is outside or not a multiple of `align`.
    pub fn check(&self, addr: u64, len: usize, align: usize) -> Exec<()> {
        if !addr.is_multiple_of(align as u64) {
            let detail = format!("global address {addr:#x} is not a multiple of {align}");
            return trouble(FaultKind::Misaligned, detail);
        }
        self.find(addr, len).map(|_| ())
    }

    pub fn read(&self, addr: u64, len: usize) -> Exec<&[u8]> {
        let (n, at) = self.find(addr, len)?;
        let a = &self.allocs[n];
        // The list is empty once all is written.
        if let Some(bad) = a.init.get(at..at + len).and_then(|i| i.iter().position(|i| !i)) {
            let detail = format!("byte {} of global `{}` is read before it is written", at + bad, a.name);
            return trouble(FaultKind::UninitGlobal, detail);
        }
        Ok(&a.data[at..at + len])
    }

    pub fn write(&mut self, addr: u64, bytes: &[u8]) -> Exec<()> {
        let (n, at) = self.find(addr, bytes.len())?;
        let a = &mut self.allocs[n];
        a.data[at..at + bytes.len()].copy_from_slice(bytes);
        if bytes.len() == a.data.len() {
            a.init = Vec::new();
        } else if !a.init.is_empty() {
            a.init[at..at + bytes.len()].fill(true);
        }
        Ok(())
    }
}
