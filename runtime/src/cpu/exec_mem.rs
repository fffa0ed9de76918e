//! Machine code in memory, writable or executable, never both.
//!
//! Comes in: position-independent code without relocations. Goes out: entry points that live as long as the
//! [`ExecCode`] (shared by clones). Deliberately not done: relocations, unwind tables (kernels never unwind),
//! freeing parts.

use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

use crate::error::RuntimeError;

/// The one signature of kernel code: argument block, scratch, task index.
pub(crate) type EntryFn = unsafe extern "C" fn(args: *const u64, scratch: *mut u8, task: i64);

/// Executable pages that hold one artifact's code.
#[derive(Clone, Debug)]
pub(crate) struct ExecCode {
    pages: Option<Arc<Mmap>>,
}

impl ExecCode {
    /// Copies the code into fresh pages and makes them executable. Empty code has no pages.
    pub fn new(code: &[u8]) -> Result<ExecCode, RuntimeError> {
        if code.is_empty() {
            return Ok(ExecCode { pages: None });
        }
        let refused = |what: &str, err: std::io::Error| {
            RuntimeError::unsupported(format!(
                "the host refuses {what} for {} bytes of machine code: {err}; executable memory may be forbidden \
                 here (SELinux, a seccomp filter)",
                code.len()
            ))
        };
        let mut pages = MmapOptions::new().len(code.len()).map_anon().map_err(|e| refused("memory", e))?;
        pages.copy_from_slice(code);
        let pages = pages.make_exec().map_err(|e| refused("execution", e))?;
        sync_instruction_cache(&pages);
        Ok(ExecCode { pages: Some(Arc::new(pages)) })
    }

    /// The function at a byte offset, if it lies in the code. Calling it is as safe as the code is right.
    pub fn entry(&self, offset: usize) -> Option<EntryFn> {
        let byte: *const u8 = self.pages.as_ref()?.get(offset)?;
        // SAFETY: the address is non-null and inside executable pages; whether a function of this signature starts
        // there is the promise of the artifact, which the caller of the returned unsafe fn relies on.
        Some(unsafe { std::mem::transmute::<*const u8, EntryFn>(byte) })
    }
}

/// x86-64 keeps its instruction cache coherent with stores.
#[cfg(not(target_arch = "aarch64"))]
fn sync_instruction_cache(_code: &[u8]) {}

/// AArch64: clean the data cache to the point of unification, drop stale instructions, synchronise.
#[cfg(target_arch = "aarch64")]
fn sync_instruction_cache(code: &[u8]) {
    use std::arch::asm;
    // 16 bytes divides every line size that the architecture allows.
    const LINE: usize = 16;
    let start = code.as_ptr() as usize & !(LINE - 1);
    let end = code.as_ptr() as usize + code.len();
    for line in (start..end).step_by(LINE) {
        // SAFETY: cache maintenance by address on mapped, readable pages changes no data.
        unsafe { asm!("dc cvau, {0}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    for line in (start..end).step_by(LINE) {
        // SAFETY: as above.
        unsafe { asm!("ic ivau, {0}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_outside_the_code_do_not_exist() {
        let code = ExecCode::new(&[0xc3; 5]).unwrap();
        assert!(code.entry(4).is_some());
        assert!(code.entry(5).is_none());
        assert!(ExecCode::new(&[]).unwrap().entry(0).is_none());
    }

    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn pages_are_executable_and_not_writable() {
        let code = ExecCode::new(&[0xc3]).unwrap();
        let entry = code.entry(0).unwrap();
        let address = entry as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| {
            let (lo, rest) = line.split_once('-').unwrap();
            let hi = rest.split(' ').next().unwrap();
            let parse = |s| usize::from_str_radix(s, 16).unwrap();
            (parse(lo)..parse(hi)).contains(&address)
        });
        assert_eq!(line.unwrap().split(' ').nth(1).unwrap(), "r-xp");
        // SAFETY: the code is a single `ret`.
        unsafe { entry(std::ptr::null(), std::ptr::null_mut(), 0) };
    }
}
