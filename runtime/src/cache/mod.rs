//! The kernel cache on disk: machine code that was compiled before, private to the user.
//!
//! Comes in: two keys, both hashes of everything that matters. The *index key* (sources, standard library, plan
//! key, compiler version, target) leads to a *kernel key* (printed scheduled tile IR, target, compiler version),
//! and that to the [`Artifact`]: a hit skips the front end, and two texts of one kernel share its code.
//!
//! What holds: an entry is read whole and right, or not at all (it is published by a rename, and its hash,
//! which also covers its key, is verified). What is damaged is deleted, reported as a [`CacheWarning`] and a
//! miss. A cache that cannot be used is no cache and one warning, never an error. Cached code is code: the
//! directory is created 0700, and one that others own or may write is refused.
//! Deliberately not done: sharing between users or hosts, compression, files of other formats.

mod entry;
mod evict;
mod tuned;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use attn_compiler::artifact::Artifact;
use etcetera::BaseStrategy;

use entry::Kind;
pub use evict::CacheStat;

/// Bytes that the cache may take unless `ATTN_CACHE_MAX` says otherwise.
pub const DEFAULT_MAX_BYTES: u64 = 512 << 20;

/// A hash of everything that an entry depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl Key {
    /// Hashes the parts with their lengths, so that no two lists of parts collide. `domain` keeps keys of
    /// different purposes apart.
    pub fn of(domain: &str, parts: &[&[u8]]) -> Key {
        let mut hasher = blake3::Hasher::new();
        for part in std::iter::once(domain.as_bytes()).chain(parts.iter().copied()) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Key(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Why the cache did less than asked. Nothing is wrong with the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheWarning(String);

impl fmt::Display for CacheWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a look-up found.
#[derive(Debug, Default)]
pub struct Lookup {
    /// The hit.
    pub artifact: Option<Artifact>,
    /// A damaged entry that was removed.
    pub warning: Option<CacheWarning>,
}

/// One entry of [`Cache::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// File name: the key in hexadecimal and the kind, `.kernel` or `.index`.
    pub name: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// Held while one process compiles, so that others wait for its result instead of compiling too.
#[derive(Debug)]
pub struct CompileLock {
    _file: Option<File>,
}

/// The cache. Look-ups take no lock.
#[derive(Debug)]
pub struct Cache {
    /// `None`: no cache.
    dir: Option<PathBuf>,
    max_bytes: u64,
    /// Set by the first failed write, after which nothing is written and no more is said.
    gave_up: AtomicBool,
}

impl Cache {
    /// No cache: every look-up misses, nothing is written.
    pub fn disabled() -> Cache {
        Cache { dir: None, max_bytes: 0, gave_up: AtomicBool::new(false) }
    }

    /// The user's cache: `ATTN_CACHE_DIR`, else `attnc` in the XDG cache directory; at most `ATTN_CACHE_MAX`
    /// bytes (suffixes K, M, G, Ki, Mi, Gi; 0 for no cache).
    pub fn open() -> (Cache, Option<CacheWarning>) {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let dir = match set("ATTN_CACHE_DIR") {
            Some(dir) => Some(PathBuf::from(dir)),
            None => etcetera::choose_base_strategy().ok().map(|base| base.cache_dir().join("attnc")),
        };
        let Some(dir) = dir else {
            let text = "kernels are not cached: there is no home directory; set ATTN_CACHE_DIR";
            return (Cache::disabled(), Some(CacheWarning(text.to_string())));
        };
        let Some(text) = set("ATTN_CACHE_MAX") else { return Cache::at(&dir, DEFAULT_MAX_BYTES) };
        match evict::parse_bytes(&text.to_string_lossy()) {
            Some(max) => Cache::at(&dir, max),
            None => {
                let (cache, warning) = Cache::at(&dir, DEFAULT_MAX_BYTES);
                let text =
                    format!("ATTN_CACHE_MAX is {text:?}, expected bytes such as 512Mi; 512 MiB is used");
                (cache, warning.or(Some(CacheWarning(text))))
            }
        }
    }

    /// A cache in this directory, created if it is not there.
    pub fn at(dir: &Path, max_bytes: u64) -> (Cache, Option<CacheWarning>) {
        if max_bytes == 0 {
            return (Cache::disabled(), None);
        }
        match create_private(dir) {
            Ok(()) => {
                let dir = Some(dir.to_path_buf());
                (Cache { dir, max_bytes, gave_up: AtomicBool::new(false) }, None)
            }
            Err(why) => {
                let text = format!("kernels are not cached: {}: {why}; set ATTN_CACHE_DIR", dir.display());
                (Cache::disabled(), Some(CacheWarning(text)))
            }
        }
    }

    /// The directory, if there is a cache.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// The kernel of an index key.
    pub fn lookup(&self, index: &Key) -> Lookup {
        match self.read(Kind::Index, index) {
            Ok(Some(payload)) => match <[u8; 32]>::try_from(payload.as_slice()) {
                Ok(kernel) => self.lookup_kernel(&Key(kernel)),
                Err(_) => self.discard(Kind::Index, index, "it holds no kernel key"),
            },
            Ok(None) => Lookup::default(),
            Err(why) => self.discard(Kind::Index, index, &why),
        }
    }

    /// The kernel of a kernel key.
    pub fn lookup_kernel(&self, kernel: &Key) -> Lookup {
        match self.read(Kind::Kernel, kernel) {
            Ok(Some(payload)) => match postcard::from_bytes::<Artifact>(&payload) {
                Ok(artifact) => Lookup { artifact: Some(artifact), warning: None },
                Err(err) => self.discard(Kind::Kernel, kernel, &format!("it does not decode: {err}")),
            },
            Ok(None) => Lookup::default(),
            Err(why) => self.discard(Kind::Kernel, kernel, &why),
        }
    }

    /// Publishes a kernel under its key and the index key that led to it. The first failure gives a warning;
    /// from then on nothing is written.
    pub fn publish(&self, index: &Key, kernel: &Key, artifact: &Artifact) -> Option<CacheWarning> {
        let dir = self.dir.as_deref().filter(|_| !self.gave_up.load(Ordering::Relaxed))?;
        let written = postcard::to_stdvec(artifact)
            .map_err(|err| err.to_string())
            .and_then(|payload| self.write(dir, Kind::Kernel, kernel, &payload))
            .and_then(|()| self.write(dir, Kind::Index, index, &kernel.0));
        if let Err(why) = written {
            let first = !self.gave_up.swap(true, Ordering::Relaxed);
            let text = format!("kernels are not cached: {}: {why}", dir.display());
            return first.then_some(CacheWarning(text));
        }
        evict::shrink(dir, self.max_bytes);
        None
    }

    /// Waits for whoever is compiling for this index key. Look up again once it is held. Without a cache, or
    /// where files cannot be locked, nobody waits.
    pub fn lock(&self, index: &Key) -> CompileLock {
        let file = self.dir.as_deref().and_then(|dir| {
            // A few files for all keys: they stay, so there must not be one for each kernel.
            let name = format!("compile-{:x}.lock", index.0[0] >> 4);
            let file = private_file(&dir.join(name)).ok()?;
            file.lock().ok().map(|()| file)
        });
        CompileLock { _file: file }
    }

    /// Every entry, most recently used first.
    pub fn list(&self) -> Vec<CacheEntry> {
        self.dir.as_deref().map(evict::list).unwrap_or_default()
    }

    /// Counts and sizes.
    pub fn stat(&self) -> CacheStat {
        evict::stat(&self.list(), self.max_bytes)
    }

    /// Deletes every entry; the number of bytes freed. Errors of the file system are returned as they are.
    pub fn clear(&self) -> std::io::Result<u64> {
        self.dir.as_deref().map_or(Ok(0), evict::clear)
    }

    /// The verified payload, nothing if there is no entry, or what is wrong with it.
    fn read(&self, kind: Kind, key: &Key) -> Result<Option<Vec<u8>>, String> {
        let Some(dir) = &self.dir else { return Ok(None) };
        let Ok(mut file) = File::open(dir.join(kind.file_name(key))) else { return Ok(None) };
        let payload = entry::read(&mut file, kind, key)?;
        // For the order of eviction; a cache that cannot be written is still read.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(payload))
    }

    fn discard(&self, kind: Kind, key: &Key, why: &str) -> Lookup {
        let name = kind.file_name(key);
        let removed = self.dir.as_ref().is_some_and(|dir| fs::remove_file(dir.join(&name)).is_ok());
        let done = if removed { "removed" } else { "ignored" };
        let text =
            format!("cache entry {name} is damaged and was {done}: {why}; the kernel is compiled again");
        Lookup { artifact: None, warning: Some(CacheWarning(text)) }
    }

    /// Writes beside and renames: readers see the old entry or the new one.
    fn write(&self, dir: &Path, kind: Kind, key: &Key, payload: &[u8]) -> Result<(), String> {
        let header = entry::header(kind, key, payload);
        publish(dir, &dir.join(kind.file_name(key)), &[header.as_slice(), payload])
            .map_err(|err| err.to_string())
    }
}

/// Writes a file in `dir` and renames it.
fn publish(dir: &Path, path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(evict::TEMP_PREFIX).tempfile_in(dir)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.flush()?;
    file.persist(path).map_err(|err| err.error)?;
    Ok(())
}

/// Opens or creates a file that only the user may read.
fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Creates the directory 0700 and refuses one that somebody else owns or may write.
fn create_private(dir: &Path) -> Result<(), String> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|err| err.to_string())?;
    let meta = fs::metadata(dir).map_err(|err| err.to_string())?;
    if !meta.is_dir() {
        return Err("it is not a directory".to_string());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let me = rustix::process::geteuid().as_raw();
        if meta.uid() != me {
            return Err(format!("it belongs to user {}, not to you ({me})", meta.uid()));
        }
        if meta.mode() & 0o022 != 0 {
            return Err(format!("others may write to it (mode {:o}); chmod 700 it", meta.mode() & 0o777));
        }
    }
    Ok(())
}
