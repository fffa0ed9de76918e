//! Names of tensors in files, `x.npz:q`, and the files behind them.
//!
//! Comes in: text of the command line. Goes out: [`TensorFile`]s that answer for names. What holds: an archive
//! with one tensor, or with one of the wanted name, needs no `:name`.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::error::IoError;
use super::npz::Archive;
use super::safetensors::Checkpoint;
use super::{Format, HostTensor, npy};

/// A file and perhaps one tensor in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// After the colon.
    pub member: Option<String>,
}

impl Source {
    /// Reads `FILE` or `FILE:NAME`. The colon counts only after an extension of an archive, so that paths with
    /// colons stay paths.
    pub fn parse(text: &str) -> Source {
        for extension in [".npz:", ".safetensors:"] {
            if let Some(at) = text.to_ascii_lowercase().find(extension) {
                let path = &text[..at + extension.len() - 1];
                let member = &text[at + extension.len()..];
                return Source { path: path.into(), member: Some(member.to_string()) };
            }
        }
        Source { path: text.into(), member: None }
    }

    /// The extension, if it is one of a tensor file.
    pub fn check_extension(&self) -> Result<(), IoError> {
        Format::of(&self.path).map(|_| ())
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.member {
            Some(member) => write!(f, "{}:{member}", self.path.display()),
            None => write!(f, "{}", self.path.display()),
        }
    }
}

enum Kind {
    Array(File, u64),
    Archive(Box<Archive>),
    Checkpoint(Checkpoint),
}

/// An open tensor file.
pub struct TensorFile {
    path: PathBuf,
    kind: Kind,
}

impl TensorFile {
    /// Opens a file and reads its table of contents. Errors: no such file, no known extension, malformed.
    pub fn open(path: &Path) -> Result<TensorFile, IoError> {
        let format = Format::of(path)?;
        let unopened = |err: std::io::Error| IoError::file(path, format!("cannot be opened: {err}"));
        let file = File::open(path).map_err(unopened)?;
        let meta = file.metadata().map_err(unopened)?;
        if !meta.is_file() {
            return Err(IoError::file(path, "this is no regular file"));
        }
        let kind = match format {
            Format::Npy => Kind::Array(file, meta.len()),
            Format::Npz => Kind::Archive(Box::new(Archive::open(path, file)?)),
            Format::Safetensors => Kind::Checkpoint(Checkpoint::open(path, file, meta.len())?),
        };
        Ok(TensorFile { path: path.to_path_buf(), kind })
    }

    /// Names of the tensors; none for an `.npy`, which holds one without a name.
    pub fn names(&self) -> Vec<String> {
        match &self.kind {
            Kind::Array(..) => Vec::new(),
            Kind::Archive(archive) => archive.names(),
            Kind::Checkpoint(checkpoint) => checkpoint.names(),
        }
    }

    /// The text that the writer attached (`.safetensors` only).
    pub fn metadata(&self) -> HashMap<String, String> {
        match &self.kind {
            Kind::Checkpoint(checkpoint) => checkpoint.metadata(),
            _ => HashMap::new(),
        }
    }

    /// Reads one tensor. An `.npy` ignores the name.
    pub fn read(&mut self, name: &str) -> Result<HostTensor, IoError> {
        match &mut self.kind {
            Kind::Array(file, len) => npy::read(&self.path, &mut BufReader::new(&*file), *len),
            Kind::Archive(archive) => archive.read(&self.path, name),
            Kind::Checkpoint(checkpoint) => checkpoint.read(&self.path, name),
        }
    }

    /// The name to read when `wanted` is to be bound: the member if one was given, else `wanted` itself, else
    /// the only tensor there is.
    fn resolve(&self, member: Option<&str>, wanted: &str) -> Result<String, IoError> {
        let names = self.names();
        let asked = member.unwrap_or(wanted);
        if matches!(self.kind, Kind::Array(..)) || names.iter().any(|n| n == asked) {
            return Ok(asked.to_string());
        }
        match (&names[..], member) {
            ([only], None) => Ok(only.clone()),
            ([], _) => Err(IoError::file(&self.path, "it holds no tensor")),
            _ => {
                let message = format!("no tensor `{asked}`; it holds {}", list(&names));
                Err(IoError::file(&self.path, message))
            }
        }
    }
}

/// The first names, and how many more there are.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

/// Reads the tensor of a source that is to be bound to `wanted`.
pub fn load(source: &Source, wanted: &str) -> Result<HostTensor, IoError> {
    let mut file = TensorFile::open(&source.path)?;
    let name = file.resolve(source.member.as_deref(), wanted)?;
    file.read(&name)
}
