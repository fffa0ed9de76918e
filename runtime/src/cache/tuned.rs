//! Small texts beside the kernels: what was measured on this host and would have to be measured again.
//!
//! Comes in: a name, a text. Goes out: the text. What holds: they stand in `tuned/` inside the cache, private as it is;
//! a text is published by a rename, so it is read whole or not at all; they are not evicted (each is a few hundred bytes)
//! and [`Cache::clear`] leaves them. Deliberately not here: what they say, and whether it is right.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use super::{Cache, CacheEntry, create_private, evict, publish};

/// Longer texts are not ours.
const MAX_BYTES: u64 = 1 << 16;
/// How their names end.
const EXTENSION: &str = ".toml";

impl Cache {
    /// Where they are, if there are any.
    pub fn tuned_dir(&self) -> Option<PathBuf> {
        self.dir().map(|dir| dir.join("tuned")).filter(|dir| dir.is_dir())
    }

    /// The file of a name, and its text or why it cannot be read; none if there is no such file.
    pub fn tuned(&self, name: &str) -> Option<(PathBuf, Result<String, String>)> {
        let path = self.tuned_dir()?.join(format!("{name}{EXTENSION}"));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return None,
            Err(err) => return Some((path, Err(format!("it cannot be read: {err}")))),
        };
        let mut text = String::new();
        let read = match file.take(MAX_BYTES + 1).read_to_string(&mut text) {
            Ok(n) if n as u64 > MAX_BYTES => Err(format!("it is longer than {MAX_BYTES} bytes")),
            Ok(_) => Ok(text),
            Err(err) => Err(format!("it cannot be read: {err}")),
        };
        Some((path, read))
    }

    /// Publishes a text under a name of letters, digits, `_` and `-`. Errors: there is no cache, or it cannot be written.
    pub fn put_tuned(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let Some(dir) = self.dir() else { return Err("there is no cache".to_string()) };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return Err(format!("{name:?} is no name of a file"));
        }
        let dir = dir.join("tuned");
        create_private(&dir)?;
        let path = dir.join(format!("{name}{EXTENSION}"));
        publish(&dir, &path, &[text.as_bytes()]).map_err(|err| err.to_string())?;
        Ok(path)
    }

    /// Deletes a text; whether it was there.
    pub fn forget_tuned(&self, name: &str) -> bool {
        self.tuned_dir().is_some_and(|dir| fs::remove_file(dir.join(format!("{name}{EXTENSION}"))).is_ok())
    }

    /// All of them, most recently written first.
    pub fn list_tuned(&self) -> Vec<CacheEntry> {
        let all = self.tuned_dir().map(|dir| evict::files(&dir).collect::<Vec<_>>()).unwrap_or_default();
        let mut all: Vec<CacheEntry> = all.into_iter().filter(|e| e.name.ends_with(EXTENSION)).collect();
        all.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.name.cmp(&b.name)));
        all
    }

    /// Deletes all of them; the number of bytes freed. Errors of the file system are returned as they are.
    pub fn clear_tuned(&self) -> std::io::Result<u64> {
        let Some(dir) = self.tuned_dir() else { return Ok(0) };
        let ours = |e: &CacheEntry| e.name.ends_with(EXTENSION) || e.name.starts_with(evict::TEMP_PREFIX);
        let mut freed = 0;
        for e in evict::files(&dir).filter(ours).collect::<Vec<_>>() {
            match fs::remove_file(dir.join(&e.name)) {
                Ok(()) => freed += e.bytes,
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
                Err(err) => return Err(err),
            }
        }
        Ok(freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::DEFAULT_MAX_BYTES;

    #[test]
    fn texts_come_back_and_outlive_the_kernels() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, _) = Cache::at(&dir.path().join("c"), DEFAULT_MAX_BYTES);
        assert!(cache.tuned("a-1").is_none() && cache.tuned_dir().is_none());
        let path = cache.put_tuned("a-1", "one\n").unwrap();
        cache.put_tuned("a-1", "two\n").unwrap();
        assert_eq!(cache.tuned("a-1"), Some((path, Ok("two\n".to_string()))));
        cache.clear().unwrap();
        assert_eq!(cache.list_tuned().iter().map(|e| e.bytes).collect::<Vec<_>>(), [4]);
        assert!(cache.forget_tuned("a-1") && !cache.forget_tuned("a-1"));
        cache.put_tuned("b", "x").unwrap();
        assert_eq!((cache.clear_tuned().unwrap(), cache.list_tuned().len()), (1, 0));
    }

    #[test]
    fn bad_names_long_texts_and_no_cache_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, _) = Cache::at(&dir.path().join("c"), DEFAULT_MAX_BYTES);
        for bad in ["", "../x", "a.b", "a/b"] {
            assert!(cache.put_tuned(bad, "").is_err(), "{bad}");
        }
        let path = cache.put_tuned("long", "").unwrap();
        fs::write(&path, vec![b'x'; 1 << 17]).unwrap();
        assert!(cache.tuned("long").unwrap().1.unwrap_err().contains("longer than"));
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(cache.tuned("long").unwrap().1.unwrap_err().contains("cannot be read"));
        assert!(Cache::disabled().put_tuned("a", "").is_err());
    }
}
