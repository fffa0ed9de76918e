//! The `.npz` format: a zip archive of `.npy` members.
//!
//! Comes in: an open file. Goes out: members by name. What holds: a member is read only if its compressed bytes
//! could hold what it claims, so that an archive of a few bytes cannot ask for gigabytes; its checksum is
//! verified. Not done: encryption, compressions other than deflate.

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::path::Path;

use attn_runtime::Tensor;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::error::IoError;
use super::{HostTensor, npy};

/// Deflate cannot shrink data further than this.
const MAX_RATIO: u64 = 1032;
/// Files larger than this need the 64-bit form of zip.
const LARGE: usize = 0xffff_0000;

/// An open archive.
pub(crate) struct Archive {
    zip: ZipArchive<BufReader<File>>,
}

impl Archive {
    pub(crate) fn open(path: &Path, file: File) -> Result<Archive, IoError> {
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|err| zip_error(path, err))?;
        Ok(Archive { zip })
    }

    /// Names of the arrays, without `.npy`, in order of the archive.
    pub(crate) fn names(&self) -> Vec<String> {
        (0..self.zip.len())
            .filter_map(|n| self.zip.name_for_index(n)?.strip_suffix(".npy"))
            .map(str::to_string)
            .collect()
    }

    pub(crate) fn read(&mut self, path: &Path, name: &str) -> Result<HostTensor, IoError> {
        let member = format!("{name}.npy");
        let mut entry = self.zip.by_name(&member).map_err(|err| zip_error(path, err).within(path, name))?;
        let (size, compressed) = (entry.size(), entry.compressed_size());
        if size > compressed.saturating_mul(MAX_RATIO).saturating_add(64) {
            let message = format!("it claims {size} bytes, which {compressed} compressed ones cannot hold");
            return Err(IoError::file(path, message).within(path, name));
        }
        let inner = Path::new(&member);
        let tensor = npy::read(inner, &mut entry, size).map_err(|err| err.within(path, name))?;
        // The checksum is compared when the end is met.
        match entry.read(&mut [0]) {
            Ok(0) => Ok(tensor),
            Ok(_) => Err(IoError::file(path, "it is longer than it claims").within(path, name)),
            Err(err) => Err(IoError::file(path, format!("it is damaged: {err}")).within(path, name)),
        }
    }
}

fn zip_error(path: &Path, err: ZipError) -> IoError {
    match err {
        ZipError::FileNotFound => IoError::file(path, "no array of this name"),
        ZipError::InvalidArchive(why) => IoError::file(path, format!("this is no .npz (zip) file: {why}")),
        ZipError::UnsupportedArchive(why) => {
            IoError::file(path, format!("{why}; save it with numpy.savez or numpy.savez_compressed"))
        }
        other => IoError::file(path, format!("the archive cannot be read: {other}")),
    }
}

/// Writes an archive of stored members, as `numpy.savez` does.
pub(crate) fn write<W: Write + Seek>(
    path: &Path,
    to: W,
    tensors: &[(String, &Tensor)],
) -> Result<W, IoError> {
    let failed = |err: ZipError| IoError::file(path, format!("cannot be written: {err}"));
    let mut zip = ZipWriter::new(to);
    for (name, tensor) in tensors {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(tensor.bytes().len() > LARGE);
        zip.start_file(format!("{name}.npy"), options).map_err(failed)?;
        npy::write(path, &mut zip, tensor)?;
    }
    zip.finish().map_err(failed)
}
