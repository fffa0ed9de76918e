//! The one error of this folder: which file, where in it, what is wrong, what would mend it.

use std::fmt;
use std::path::{Path, PathBuf};

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File,
    /// A byte offset.
    Byte(u64),
    /// A field of a header, or a member of an archive.
    Field(String),
}

/// Why a file was not read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoError {
    path: PathBuf,
    place: Place,
    message: String,
}

impl IoError {
    pub(crate) fn at(path: &Path, place: Place, message: impl Into<String>) -> IoError {
        IoError { path: path.to_path_buf(), place, message: message.into() }
    }

    pub(crate) fn file(path: &Path, message: impl Into<String>) -> IoError {
        IoError::at(path, Place::File, message)
    }

    pub(crate) fn byte(path: &Path, at: u64, message: impl Into<String>) -> IoError {
        IoError::at(path, Place::Byte(at), message)
    }

    pub(crate) fn field(path: &Path, name: impl Into<String>, message: impl Into<String>) -> IoError {
        IoError::at(path, Place::Field(name.into()), message)
    }

    /// The same error seen from the archive that the file is a member of.
    pub(crate) fn within(self, archive: &Path, member: &str) -> IoError {
        let place = match self.place {
            Place::File => format!("member `{member}`"),
            Place::Byte(at) => format!("member `{member}`, byte {at}"),
            Place::Field(name) => format!("member `{member}`, {name}"),
        };
        IoError { path: archive.to_path_buf(), place: Place::Field(place), message: self.message }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where in the file.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match &self.place {
            Place::File => {}
            Place::Byte(at) => write!(f, "byte {at}: ")?,
            Place::Field(name) => write!(f, "{name}: ")?,
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for IoError {}
