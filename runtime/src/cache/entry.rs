//! The format of one cache file: a header that vouches for the payload.
//!
//! Comes in: bytes from disk. Goes out: the payload, if magic, version, kind, length and hash agree and nothing
//! follows. The hash covers key and kind too, so an intact entry under another name is refused. Deliberately not
//! here: what the payload means.

use std::io::Read;

use super::Key;

/// Changes whenever an old entry must not be read: header, payload encoding, or the artifact's fields.
const FORMAT_VERSION: u32 = 6;
const MAGIC: [u8; 8] = *b"attnc\0ce";
/// Magic, version, kind, length, hash.
const HEADER: usize = 8 + 4 + 4 + 8 + 32;
/// Longer payloads are not written, and a header that claims one is wrong.
const MAX_PAYLOAD: u64 = 1 << 30;

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A kernel key.
    Index = 1,
    /// An artifact.
    Kernel = 2,
}

impl Kind {
    /// Name of the file of this key.
    pub fn file_name(self, key: &Key) -> String {
        format!("{key}.{}", self.extension())
    }

    pub const fn extension(self) -> &'static str {
        match self {
            Kind::Index => "index",
            Kind::Kernel => "kernel",
        }
    }
}

fn hash(kind: Kind, key: &Key, payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(kind as u32).to_le_bytes());
    hasher.update(&key.0);
    hasher.update(payload);
    *hasher.finalize().as_bytes()
}

/// The header of a payload.
pub(super) fn header(kind: Kind, key: &Key, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    out.extend(MAGIC);
    out.extend(FORMAT_VERSION.to_le_bytes());
    out.extend((kind as u32).to_le_bytes());
    out.extend((payload.len() as u64).to_le_bytes());
    out.extend(hash(kind, key, payload));
    out
}

/// Reads and verifies an entry; `Err` says what is wrong with it.
pub(super) fn read(file: &mut impl Read, kind: Kind, key: &Key) -> Result<Vec<u8>, String> {
    let mut head = [0; HEADER];
    file.read_exact(&mut head).map_err(|err| format!("its header cannot be read: {err}"))?;
    let len = u64::from_le_bytes(std::array::from_fn(|n| head[16 + n]));
    if head[..8] != MAGIC || len > MAX_PAYLOAD {
        return Err("it is no cache entry".to_string());
    }
    if head[8..12] != FORMAT_VERSION.to_le_bytes() || head[12..16] != (kind as u32).to_le_bytes() {
        return Err("it has another format".to_string());
    }
    let mut payload = Vec::new();
    file.take(len + 1).read_to_end(&mut payload).map_err(|err| format!("it cannot be read: {err}"))?;
    if payload.len() as u64 != len {
        return Err(format!("its length is not the {len} bytes of its header"));
    }
    if head[24..] != hash(kind, key, &payload) {
        return Err("its hash does not match".to_string());
    }
    Ok(payload)
}
