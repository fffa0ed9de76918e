//! Memory aligned to 64 bytes: tensors, tables, workspace, scratch.
//!
//! Comes in: a length in bytes. Goes out: zeroed memory that starts on a cache line, or an error where the
//! host has none left. What holds: no allocation as long as the length asked for fits what is held.
//! Large ones ask the host for huge pages. Deliberately not done: NUMA placement, shrinking.

use std::mem::MaybeUninit;

use crate::error::RuntimeError;

/// One cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes on whole cache lines.
#[derive(Default)]
pub(crate) struct AlignedBuf {
    lines: Vec<Line>,
    len: usize,
}

impl Clone for AlignedBuf {
    /// In huge pages like the original.
    fn clone(&self) -> AlignedBuf {
        let mut lines = Vec::with_capacity(self.lines.len());
        ask_for_huge_pages(lines.spare_capacity_mut());
        lines.extend_from_slice(&self.lines);
        AlignedBuf { lines, len: self.len }
    }
}

impl AlignedBuf {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Result<AlignedBuf, RuntimeError> {
        let mut buf = AlignedBuf::default();
        buf.ensure(len)?;
        Ok(buf)
    }

    /// Makes the buffer exactly `len` bytes long; old contents stay where they fit.
    pub fn ensure(&mut self, len: usize) -> Result<(), RuntimeError> {
        let n_lines = len.div_ceil(64);
        if n_lines > self.lines.len() {
            let more = n_lines - self.lines.len();
            self.lines.try_reserve_exact(more).map_err(|_| {
                RuntimeError::unsupported(format!(
                    "the host has no {len} bytes of memory left for this kernel; use shorter sequences or a smaller batch"
                ))
            })?;
            ask_for_huge_pages(self.lines.spare_capacity_mut());
            self.lines.resize(n_lines, bytemuck::Zeroable::zeroed());
        }
        self.len = len;
        Ok(())
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// A huge page of most hosts.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

/// Asks for huge pages where whole ones fit: reading keys and values goes from page to page, and a plain loop reads 31
/// GB/s of huge pages where it reads 20 of small ones (Zen 4). A host may refuse: nothing depends on it.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(memory: &mut [MaybeUninit<Line>]) {
    let lines = HUGE_PAGE / size_of::<Line>();
    let skip = memory.as_ptr().align_offset(HUGE_PAGE);
    let whole = memory.len().saturating_sub(skip) / lines * lines;
    if whole > 0 {
        let pages = &mut memory[skip..skip + whole];
        let (at, bytes) = (pages.as_mut_ptr().cast(), size_of_val(pages));
        // SAFETY: the pages lie inside memory that the caller holds, and advice changes no contents. Refused advice
        // costs time only.
        let _ = unsafe { rustix::mm::madvise(at, bytes, rustix::mm::Advice::LinuxHugepage) };
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_: &mut [MaybeUninit<Line>]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned_zero_and_kept() {
        let mut buf = AlignedBuf::zeroed(65).unwrap();
        assert_eq!(buf.bytes(), [0; 65]);
        assert_eq!(buf.bytes().as_ptr() as usize % 64, 0);
        buf.bytes_mut()[64] = 7;
        let before = buf.bytes().as_ptr();
        buf.ensure(3).unwrap();
        buf.ensure(100).unwrap();
        assert_eq!(buf.bytes().as_ptr(), before, "what is held is not allocated again");
        assert_eq!(buf.bytes()[64], 7);
    }

    #[test]
    fn too_much_memory_is_an_error() {
        let err = AlignedBuf::zeroed(isize::MAX as usize - 64).err().unwrap();
        assert_eq!(err.kind(), crate::error::ErrorKind::Unsupported);
    }
}
