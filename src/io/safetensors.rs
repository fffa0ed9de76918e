//! The `.safetensors` format: a length, a JSON header, then the elements of all tensors without a gap.
//!
//! Comes in: an open file. Goes out: tensors by name, read one by one. What holds: header length, offsets and
//! shapes were compared with the file before anything was read. Not done: dtypes that kernels cannot bind (fp8,
//! unsigned, complex): they may stand in the file, and are refused when asked for.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use ::safetensors::tensor::{Dtype, Metadata, TensorInfo};
use attn_compiler::artifact::DType;
use attn_runtime::Tensor;

use super::error::{IoError, Place};
use super::{HostTensor, Stored};

/// Bytes of the length at the start.
const N_LEN: u64 = 8;
/// Longest header that is read; the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// An open file.
pub(crate) struct Checkpoint {
    file: File,
    header: Metadata,
    data_start: u64,
}

impl Checkpoint {
    pub(crate) fn open(path: &Path, mut file: File, len: u64) -> Result<Checkpoint, IoError> {
        if len < N_LEN {
            return Err(IoError::file(
                path,
                format!("{len} bytes are no .safetensors file: it begins with 8"),
            ));
        }
        let unreadable = |err: std::io::Error| IoError::file(path, format!("cannot be read: {err}"));
        let mut length = [0; N_LEN as usize];
        file.read_exact(&mut length).map_err(unreadable)?;
        let n = u64::from_le_bytes(length);
        if n > len - N_LEN {
            let message = format!(
                "the header says that it has {n} bytes, {} are left; the file is truncated or no .safetensors file",
                len - N_LEN
            );
            return Err(IoError::byte(path, 0, message));
        }
        if n > MAX_HEADER {
            return Err(IoError::byte(
                path,
                0,
                format!("the header has {n} bytes, at most {MAX_HEADER} are read"),
            ));
        }
        let mut text = vec![0; n as usize];
        file.read_exact(&mut text).map_err(unreadable)?;
        let header: Metadata = serde_json::from_slice(&text)
            .map_err(|err| IoError::field(path, "header", format!("it describes no tensors: {err}")))?;
        let (data, found) = (header.data_len() as u64, len - N_LEN - n);
        if data != found {
            let message =
                format!("the header describes {data} bytes of tensors, {found} are there; is it truncated?");
            return Err(IoError::byte(path, N_LEN + n, message));
        }
        Ok(Checkpoint { file, header, data_start: N_LEN + n })
    }

    /// Names of the tensors in alphabetical order.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.header.tensors().into_keys().collect();
        names.sort_unstable();
        names
    }

    /// The text that the writer attached.
    pub(crate) fn metadata(&self) -> HashMap<String, String> {
        self.header.metadata().clone().unwrap_or_default()
    }

    pub(crate) fn read(&mut self, path: &Path, name: &str) -> Result<HostTensor, IoError> {
        let field = || format!("tensor `{name}`");
        let info =
            self.header.info(name).ok_or_else(|| IoError::field(path, field(), "it is not in the file"))?;
        let dtype = element_type(info.dtype).ok_or_else(|| {
            let message =
                format!("dtype {} cannot be bound; convert it to F32, F16, BF16, I32 or BOOL", info.dtype);
            IoError::field(path, field(), message)
        })?;
        let stored = Stored { path, start: Place::Field(field()), dtype, shape: &info.shape };
        let (from, to) = info.data_offsets;
        if stored.n_bytes()? != (to - from) as u64 {
            return Err(IoError::field(
                path,
                field(),
                format!("shape {:?} does not fill bytes {from}..{to}", info.shape),
            ));
        }
        self.file
            .seek(SeekFrom::Start(self.data_start + from as u64))
            .map_err(|err| IoError::field(path, field(), format!("cannot be read: {err}")))?;
        stored.read(&mut self.file).map(HostTensor::from)
    }
}

fn element_type(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::Bf16,
        Dtype::F64 => DType::F64,
        Dtype::I8 => DType::I8,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::BOOL => DType::Bit,
        Dtype::F8_E4M3 => DType::F8E4M3,
        _ => return None,
    })
}

fn stored_type(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::F64 => Dtype::F64,
        DType::I8 => Dtype::I8,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::Bit => Dtype::BOOL,
        DType::F8E4M3 => Dtype::F8_E4M3,
    }
}

/// Writes tensors, wide dtypes first so that each is aligned to its element.
pub(crate) fn write(path: &Path, to: &mut dyn Write, tensors: &[(String, &Tensor)]) -> Result<(), IoError> {
    let mut order: Vec<&(String, &Tensor)> = tensors.iter().collect();
    order.sort_by_key(|(name, t)| (std::cmp::Reverse(t.dtype().size()), name.clone()));
    let mut infos = Vec::new();
    let mut end = 0usize;
    for (name, tensor) in &order {
        let data_offsets = (end, end + tensor.bytes().len());
        end = data_offsets.1;
        let info =
            TensorInfo { dtype: stored_type(tensor.dtype()), shape: tensor.shape().to_vec(), data_offsets };
        infos.push((name.clone(), info));
    }
    let failed = |err: &dyn std::fmt::Display| IoError::file(path, format!("cannot be written: {err}"));
    let header = Metadata::new(None, infos).map_err(|err| failed(&err))?;
    let mut text = serde_json::to_vec(&header).map_err(|err| failed(&err))?;
    text.resize(text.len().next_multiple_of(N_LEN as usize), b' ');
    let mut put = |bytes: &[u8]| to.write_all(bytes).map_err(|err| failed(&err));
    put(&(text.len() as u64).to_le_bytes())?;
    put(&text)?;
    order.iter().try_for_each(|(_, tensor)| put(tensor.bytes()))
}
