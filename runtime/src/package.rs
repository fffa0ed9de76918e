//! A kernel in a file: an artifact that leaves the machine where it was compiled.
//!
//! Comes in: an [`Artifact`], or the bytes of a file from anywhere. Goes out: the bytes of a file, or a [`Package`] that is
//! whole. What holds: a file that is truncated, altered, lengthened or of another format is an error that says so; the
//! hash tells one package from another, not a good one from a bad one. A package holds code: it is run only after
//! somebody has said that it may be, by [`Package::trust`] or [`Package::trust_hash`]. Deliberately not done: signatures,
//! compression, several kernels in a file.
//!
//! ```text
//! 8 bytes  "attnc\0pk"        4 bytes  version         8 bytes  length of the payload, all little endian
//! 32 bytes BLAKE3 of all the rest of the file          payload: the artifact (postcard)
//! ```

use std::path::Path;

use attn_compiler::artifact::Artifact;

use crate::error::{DataFault, RuntimeError};

const MAGIC: [u8; 8] = *b"attnc\0pk";
/// Changes whenever an old package must not be read: header, payload encoding, or the artifact's fields.
const VERSION: u32 = 5;
/// Magic, version, length.
const HEAD: usize = 8 + 4 + 8;
const HASH: usize = 32;

/// A package that is whole. What it holds may be looked at, and run only when it is trusted.
#[derive(Clone, Debug)]
pub struct Package {
    artifact: Artifact,
    hash: String,
}

impl Package {
    /// The bytes of a package. Errors: none that a well-formed artifact leads to.
    pub fn write(artifact: &Artifact) -> Result<Vec<u8>, RuntimeError> {
        let payload = postcard::to_stdvec(artifact).map_err(|err| {
            RuntimeError::internal("package", format!("the artifact cannot be written: {err}"))
        })?;
        let mut out = Vec::with_capacity(HEAD + HASH + payload.len());
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((payload.len() as u64).to_le_bytes());
        let hash = hash(&out, &payload);
        out.extend(hash.as_bytes());
        out.extend(payload);
        Ok(out)
    }

    /// Reads a file. Errors: it cannot be read, or those of [`Package::read`].
    pub fn open(path: impl AsRef<Path>) -> Result<Package, RuntimeError> {
        let path = path.as_ref();
        let bytes =
            std::fs::read(path).map_err(|err| bad(format!("it cannot be read: {err}"), "check the path"));
        bytes.and_then(|bytes| Package::read(&bytes)).map_err(|err| err.within(&path.display().to_string()))
    }

    /// Reads bytes. Errors: they are no package, of another version, or not what was written.
    pub fn read(bytes: &[u8]) -> Result<Package, RuntimeError> {
        const AGAIN: &str = "copy it again, or build it again with `attnc build ... -o`";
        let Some((magic, rest)) = bytes.split_first_chunk() else {
            return Err(bad(format!("it ends after {} bytes, no package is so short", bytes.len()), AGAIN));
        };
        if *magic != MAGIC {
            return Err(bad(
                "it is no package of a kernel",
                "packages are made by `attnc build ... -o FILE`",
            ));
        }
        let cut = || bad(format!("its head ends after {} of {} bytes", bytes.len(), HEAD + HASH), AGAIN);
        let (version, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            let what = format!("it has format {version}, this version of attnc reads {VERSION}");
            return Err(bad(what, "build it again with this version"));
        }
        let (length, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let (expected, payload) = rest.split_first_chunk::<HASH>().ok_or_else(cut)?;
        let length = u64::from_le_bytes(*length);
        if payload.len() as u64 != length {
            let what = format!("it holds {} bytes after its head, the head says {length}", payload.len());
            return Err(bad(what, AGAIN));
        }
        let found = hash(&bytes[..HEAD], payload);
        if found != blake3::Hash::from_bytes(*expected) {
            return Err(bad("it was altered: its hash does not match", AGAIN));
        }
        match postcard::from_bytes(payload) {
            Ok(artifact) => Ok(Package { artifact, hash: found.to_hex().to_string() }),
            Err(err) => Err(bad(format!("it does not decode: {err}"), "build it again with this version")),
        }
    }

    /// Name of the kernel.
    pub fn name(&self) -> &str {
        &self.artifact.name
    }

    /// What the code was made for.
    pub fn target(&self) -> &str {
        &self.artifact.target
    }

    /// The schedule in words.
    pub fn schedule(&self) -> &str {
        &self.artifact.schedule
    }

    /// BLAKE3 of the contents, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Says that this code may be run here, as one says by starting a program. Everything but the code is checked
    /// when it is loaded.
    pub fn trust(self) -> Artifact {
        self.artifact
    }

    /// As [`Package::trust`], for one that is known by its hash. Errors: it is another one.
    pub fn trust_hash(self, hash: &str) -> Result<Artifact, RuntimeError> {
        if self.hash.eq_ignore_ascii_case(hash) {
            return Ok(self.artifact);
        }
        let what = format!("its hash is {}, expected {hash}", self.hash);
        Err(bad(what, "get the package that was meant, or look at this one and trust its hash"))
    }
}

fn hash(head: &[u8], payload: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize()
}

fn bad(what: impl std::fmt::Display, remedy: &str) -> RuntimeError {
    RuntimeError::data(DataFault::File, format!("the package cannot be used: {what}; {remedy}"))
}
