//! Places the tile buffers of a launch in the scratch memory of a task.
//!
//! Comes in: the buffers. Goes out: a byte offset for each that is no view, 64-byte aligned, and the total. Between two
//! buffers lies an unused cache line, so that tiles of a power of two bytes do not start at the same set of L1. The
//! first two lines belong to the backend. Not here: reuse of memory between buffers that are never live together (a
//! pass may merge buffers instead).

use crate::tile_ir::{BufId, Buffer, Launch};

use super::BackendError;

const LINE: i64 = 64;
/// Where loads from empty tensors go; any contents.
pub(super) const DUMMY: i32 = 0;
/// Sixteen floats for vectors that go through memory into an intrinsic.
pub(super) const SPILL: i32 = 64;

/// Byte offsets of the buffers of one launch.
pub(super) struct Scratch {
    offsets: Vec<Option<i32>>,
    pub bytes: usize,
}

impl Scratch {
    pub fn new(launch: &Launch) -> Result<Scratch, BackendError> {
        let mut next = 2 * LINE;
        let mut offsets = Vec::new();
        for buffer in &launch.buffers {
            if buffer.of.is_some() {
                offsets.push(None);
                continue;
            }
            let offset = i32::try_from(next).map_err(|_| too_large(launch))?;
            offsets.push(Some(offset));
            let bytes = bytes(buffer).ok_or_else(|| too_large(launch))?;
            next += bytes + LINE;
        }
        Ok(Scratch { offsets, bytes: usize::try_from(next).map_err(|_| too_large(launch))? })
    }

    pub fn offset(&self, buf: BufId) -> Option<i32> {
        self.offsets.get(buf.0 as usize).copied().flatten()
    }
}

/// Bytes of a buffer in whole cache lines; `None` if nobody could want that much.
pub(super) fn bytes(buffer: &Buffer) -> Option<i64> {
    let elements = buffer.rows.checked_mul(buffer.cols)?;
    let bytes = elements.checked_mul(buffer.dtype.size() as i64)?;
    (0..=i64::from(i32::MAX)).contains(&bytes).then(|| (bytes as u64).next_multiple_of(LINE as u64) as i64)
}

fn too_large(launch: &Launch) -> BackendError {
    BackendError::unsupported(
        format!("the buffers of launch {}", launch.name),
        "they need more than 2 GiB of scratch for each task; choose smaller tiles",
    )
}
