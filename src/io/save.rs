//! Writing: the whole file beside its target, then a rename.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use attn_runtime::Tensor;
use tempfile::NamedTempFile;

use super::error::IoError;
use super::{Format, npy, npz, safetensors};

/// Writes tensors to one file, in the format of its extension. An `.npy` takes one tensor and no name.
///
/// Errors: an unknown extension, several tensors for an `.npy`, bf16 in numpy's formats, the file system. The
/// target is then as it was.
pub fn save(path: &Path, tensors: &[(String, &Tensor)]) -> Result<(), IoError> {
    let format = Format::of(path)?;
    let failed = |err: std::io::Error| IoError::file(path, format!("cannot be written: {err}"));
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    if fs::metadata(&target).is_ok_and(|m| !m.is_file()) {
        return Err(IoError::file(path, "this is no regular file; name a file to be written"));
    }
    let mut file = beside(&target).map_err(failed)?;
    let mut to = BufWriter::new(&mut file);
    match (format, tensors) {
        (Format::Npy, [(_, tensor)]) => npy::write(path, &mut to, tensor)?,
        (Format::Npy, _) => {
            let message = format!("an .npy file holds one array, not {}; write an .npz", tensors.len());
            return Err(IoError::file(path, message));
        }
        (Format::Npz, _) => to = npz::write(path, to, tensors)?,
        (Format::Safetensors, _) => safetensors::write(path, &mut to, tensors)?,
    }
    to.flush().map_err(failed)?;
    drop(to);
    file.persist(&target).map_err(|err| failed(err.error))?;
    Ok(())
}

/// A temporary file in the folder of the target, with the permissions that a new file gets.
fn beside(target: &Path) -> std::io::Result<NamedTempFile> {
    let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".attnc-");
    #[cfg(unix)]
    let builder = builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}
