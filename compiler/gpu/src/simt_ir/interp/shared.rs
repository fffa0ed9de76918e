//! The dynamic shared memory of a block.
//!
//! Comes in: offsets, bytes. Goes out: bytes. What holds: only what was written is read; every access is in range and
//! aligned; a barrier's eight bytes are nothing but a barrier.

use std::collections::BTreeMap;

use super::sync::MBar;

/// What a byte is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unwritten,
    Written,
    Barrier,
}

/// See the head of this file.
pub(super) struct Shared {
    bytes: Vec<u8>,
    states: Vec<State>,
    mbars: BTreeMap<u32, MBar>,
}

/// Bytes of a barrier.
const MBAR_BYTES: u32 = 8;

impl Shared {
    pub fn new(bytes: u32) -> Shared {
        let n = bytes as usize;
        Shared { bytes: vec![0; n], states: vec![State::Unwritten; n], mbars: BTreeMap::new() }
    }

    /// The range of `len` bytes at a multiple of `align`.
    fn range(&self, at: u32, len: usize, align: u32) -> Result<std::ops::Range<usize>, String> {
        if !at.is_multiple_of(align) {
            return Err(format!("shared offset {at} is no multiple of {align}"));
        }
        let start = at as usize;
        if start + len > self.bytes.len() {
            return Err(format!("{len} bytes at shared offset {at} of {}", self.bytes.len()));
        }
        Ok(start..start + len)
    }

    pub fn read(&self, at: u32, align: u32, into: &mut [u8]) -> Result<(), String> {
        let range = self.range(at, into.len(), align)?;
        if let Some(n) = self.states[range.clone()].iter().position(|s| *s != State::Written) {
            let offset = range.start + n;
            return Err(match self.states[offset] {
                State::Barrier => format!("the byte at shared offset {offset} belongs to a barrier"),
                _ => format!("the byte at shared offset {offset} is read and was never written"),
            });
        }
        into.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    pub fn write(&mut self, at: u32, align: u32, bytes: &[u8]) -> Result<(), String> {
        let range = self.range(at, bytes.len(), align)?;
        if let Some(n) = self.states[range.clone()].iter().position(|s| *s == State::Barrier) {
            return Err(format!("the byte at shared offset {} belongs to a barrier", range.start + n));
        }
        self.states[range.clone()].fill(State::Written);
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }

    /// A new barrier. Errors: there is one, or no arrivals are counted.
    pub fn init_mbar(&mut self, at: u32, count: u32) -> Result<(), String> {
        let range = self.range(at, MBAR_BYTES as usize, MBAR_BYTES)?;
        if count == 0 || self.states[range.clone()].contains(&State::Barrier) {
            return Err(format!(
                "a barrier at {at} for {count} arrivals: there is one already, or they are none"
            ));
        }
        self.states[range].fill(State::Barrier);
        self.mbars.insert(at, MBar::new(count));
        Ok(())
    }

    /// The barrier at a place.
    pub fn mbar(&mut self, at: u32) -> Result<&mut MBar, String> {
        self.mbars.get_mut(&at).ok_or_else(|| format!("no barrier was initialised at shared offset {at}"))
    }

    pub fn known_mbar(&self, at: u32) -> Option<&MBar> {
        self.mbars.get(&at)
    }
}
