//! Keeping the cache within its size: the least recently used entries go first.
//!
//! Comes in: the directory. Goes out: its entries, fewer of them. What holds: files that are not ours are
//! neither counted nor touched; of two processes only one evicts. A reader that has opened an entry keeps it.
//! Deliberately not done: exact accounting while others write (a cache may exceed its limit for a moment).

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::entry::Kind;
use super::{CacheEntry, private_file};

/// Files being written begin with this; a writer that was killed leaves one behind.
pub(super) const TEMP_PREFIX: &str = ".attnc-new-";
/// A file still being written after this long belongs to nobody.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Counts and sizes of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStat {
    /// Kernels.
    pub kernels: usize,
    /// Texts and plans that lead to a kernel.
    pub indices: usize,
    /// Bytes of all entries.
    pub bytes: u64,
    /// Most bytes that are kept.
    pub max_bytes: u64,
}

pub(super) fn stat(entries: &[CacheEntry], max_bytes: u64) -> CacheStat {
    let count = |kind: Kind| entries.iter().filter(|e| is_kind(&e.name, kind)).count();
    CacheStat {
        kernels: count(Kind::Kernel),
        indices: count(Kind::Index),
        bytes: entries.iter().map(|e| e.bytes).sum(),
        max_bytes,
    }
}

/// `<64 hex digits>.<kind>`
fn is_kind(name: &str, kind: Kind) -> bool {
    name.split_once('.').is_some_and(|(key, extension)| {
        key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit()) && extension == kind.extension()
    })
}

/// Entries, most recently used first. What cannot be read is not listed.
pub(super) fn list(dir: &Path) -> Vec<CacheEntry> {
    let mut entries: Vec<CacheEntry> =
        files(dir).filter(|e| is_kind(&e.name, Kind::Kernel) || is_kind(&e.name, Kind::Index)).collect();
    entries.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.name.cmp(&b.name)));
    entries
}

pub(super) fn files(dir: &Path) -> impl Iterator<Item = CacheEntry> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|file| {
        let file = file.ok()?;
        let meta = file.metadata().ok().filter(|m| m.is_file())?;
        let name = file.file_name().into_string().ok()?;
        Some(CacheEntry { name, bytes: meta.len(), used: meta.modified().ok()? })
    })
}

/// Deletes the least recently used entries until the rest fits. Failures leave the cache as it is.
pub(super) fn shrink(dir: &Path, max_bytes: u64) {
    let entries = list(dir);
    let mut total: u64 = entries.iter().map(|e| e.bytes).sum();
    if total <= max_bytes {
        return;
    }
    let Ok(lock) = private_file(&dir.join("evict.lock")) else { return };
    // Somebody else is at it.
    if lock.try_lock().is_err() {
        return;
    }
    for e in entries.iter().rev() {
        if total <= max_bytes {
            break;
        }
        if fs::remove_file(dir.join(&e.name)).is_ok() {
            total = total.saturating_sub(e.bytes);
        }
    }
    remove_abandoned(dir);
}

fn remove_abandoned(dir: &Path) {
    let now = SystemTime::now();
    for e in files(dir).filter(|e| e.name.starts_with(TEMP_PREFIX)) {
        if now.duration_since(e.used).is_ok_and(|age| age > ABANDONED) {
            let _ = fs::remove_file(dir.join(&e.name));
        }
    }
}

/// Deletes every entry and everything half written.
pub(super) fn clear(dir: &Path) -> std::io::Result<u64> {
    let mut freed = 0;
    let half_written = files(dir).filter(|e| e.name.starts_with(TEMP_PREFIX));
    for e in list(dir).into_iter().chain(half_written.collect::<Vec<_>>()) {
        match fs::remove_file(dir.join(&e.name)) {
            Ok(()) => freed += e.bytes,
            // Another process was quicker.
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
    }
    Ok(freed)
}

/// `1000`, `512M`, `2Gi`.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "K" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("1000"), Some(1000));
        assert_eq!(parse_bytes(" 512Mi "), Some(512 << 20));
        assert_eq!(parse_bytes("2G"), Some(2_000_000_000));
        for bad in ["", "Mi", "-1", "1.5G", "5x", "99999999999999999999", "99999999999999999Gi"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }
}
