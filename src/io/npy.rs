//! The `.npy` format: a magic, a version, a Python dictionary, then the elements.
//!
//! Comes in: bytes from a file or from a member of an archive, with their number. Goes out: a [`HostTensor`];
//! Fortran order becomes strides, big-endian elements are swapped. What holds: the header is bounded in length
//! and nesting before it is parsed, and the bytes that the shape needs are exactly those that follow. Not done:
//! object arrays (a pickle is a program), structured and complex types, unsigned integers.

use std::io::{Read, Write};
use std::path::Path;

use attn_compiler::artifact::DType;
use attn_runtime::Tensor;
use ndarray_npy::npy::header::{Header, Layout, ParseHeaderError, ReadHeaderError};
use py_literal::Value as Literal;

use super::error::{IoError, Place};
use super::{HostTensor, Stored};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header that is read; numpy's own limit.
const MAX_HEADER: usize = 10_000;
/// Deepest nesting of brackets in a header; a plain array has one tuple in one dictionary.
const MAX_NESTING: usize = 8;

/// Reads an array from a stream of `len` bytes, no more and no less.
pub(crate) fn read(path: &Path, from: &mut dyn Read, len: u64) -> Result<HostTensor, IoError> {
    let bytes = header_bytes(path, from, len)?;
    let header = Header::from_reader(&mut bytes.as_slice()).map_err(|err| header_error(path, err))?;
    let (dtype, swapped) = element_type(path, &header.type_descriptor)?;
    let fortran = header.layout.is_fortran();
    let mut shape = header.shape;
    if fortran {
        shape.reverse();
    }
    let start = bytes.len() as u64;
    let stored = Stored { path, start: Place::Byte(start), dtype, shape: &shape };
    let (wanted, found) = (stored.n_bytes()?, len - start);
    if wanted != found {
        let why = if wanted > found { "the file is truncated" } else { "something follows the array" };
        let message = format!("shape {shape:?} of {dtype} needs {wanted} bytes, {found} are there; {why}");
        return Err(IoError::byte(path, start, message));
    }
    let mut tensor = stored.read(from)?;
    if swapped {
        tensor = swap_bytes(&tensor).map_err(|err| IoError::byte(path, start, err.to_string()))?;
    }
    Ok(if fortran { HostTensor::reversed(tensor) } else { tensor.into() })
}

/// Everything before the elements, after looking at nothing but lengths, version and nesting.
fn header_bytes(path: &Path, from: &mut dyn Read, len: u64) -> Result<Vec<u8>, IoError> {
    let mut bytes = vec![0; 8];
    let mut fill = |bytes: &mut Vec<u8>, n: usize| {
        let at = bytes.len();
        bytes.resize(at + n, 0);
        from.read_exact(&mut bytes[at..])
            .map_err(|err| IoError::byte(path, at as u64, format!("the header cannot be read: {err}")))
    };
    bytes.clear();
    if len < 10 {
        return Err(IoError::file(path, format!("{len} bytes are no .npy file: its header alone has more")));
    }
    fill(&mut bytes, 8)?;
    if !bytes.starts_with(MAGIC) {
        return Err(IoError::byte(path, 0, "this is no .npy file: it does not begin with \\x93NUMPY"));
    }
    let n_length = match bytes[6] {
        1 => 2,
        2 | 3 => 4,
        other => {
            let message =
                format!("version {other}.{} of the format is unknown; save it again with numpy", bytes[7]);
            return Err(IoError::byte(path, 6, message));
        }
    };
    fill(&mut bytes, n_length)?;
    let length = bytes[8..].iter().rev().fold(0usize, |n, &b| n << 8 | usize::from(b));
    let rest = len.saturating_sub(bytes.len() as u64);
    if length as u64 > rest {
        let message = format!("the header says that it has {length} bytes, {rest} are left in the file");
        return Err(IoError::byte(path, 8, message));
    }
    if length > MAX_HEADER {
        let message =
            format!("the header has {length} bytes, at most {MAX_HEADER} are read (numpy reads no more)");
        return Err(IoError::byte(path, 8, message));
    }
    let start = bytes.len();
    fill(&mut bytes, length)?;
    check_text(path, start, &bytes[start..])?;
    Ok(bytes)
}

/// The dictionary must be plain: printable ASCII without escapes, shallow.
fn check_text(path: &Path, start: usize, text: &[u8]) -> Result<(), IoError> {
    let mut depth = 0usize;
    for (n, &byte) in text.iter().enumerate() {
        let at = (start + n) as u64;
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'\\' => {
                return Err(IoError::byte(path, at, "the header holds a backslash, which no array's has"));
            }
            b' '..=b'~' | b'\n' => {}
            _ => {
                return Err(IoError::byte(
                    path,
                    at,
                    format!("the header holds byte {byte:#04x}, expected ASCII text"),
                ));
            }
        }
        if depth > MAX_NESTING {
            return Err(IoError::byte(
                path,
                at,
                format!("the header nests more than {MAX_NESTING} brackets"),
            ));
        }
    }
    Ok(())
}

fn header_error(path: &Path, err: ReadHeaderError) -> IoError {
    match err {
        ReadHeaderError::Parse(ParseHeaderError::MissingKey(key)) => {
            IoError::field(path, format!("header key `{key}`"), "it is missing")
        }
        ReadHeaderError::Parse(ParseHeaderError::IllegalValue { key, value }) => {
            IoError::field(path, format!("header key `{key}`"), format!("illegal value {value}"))
        }
        other => IoError::byte(path, 10, format!("the header is no array description: {other}")),
    }
}

/// The dtype of a descriptor, and whether its bytes stand in the other order.
fn element_type(path: &Path, descr: &Literal) -> Result<(DType, bool), IoError> {
    let refuse = |why: &str| IoError::field(path, "header key `descr`", format!("{descr}: {why}"));
    let Literal::String(text) = descr else {
        return Err(refuse("structured arrays are not tensors; save each field as its own array"));
    };
    let (order, kind) = match text.strip_prefix(['<', '>', '|', '=']) {
        Some(kind) => (&text[..1], kind),
        None => ("=", text.as_str()),
    };
    let dtype = match kind {
        "f2" => DType::F16,
        "f4" => DType::F32,
        "f8" => DType::F64,
        "i1" => DType::I8,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "b1" => DType::Bit,
        "O" => {
            return Err(refuse(
                "arrays of Python objects are pickles and are never read; save plain numbers",
            ));
        }
        "V2" => return Err(refuse("numpy has no bf16; save it with safetensors")),
        _ if kind.starts_with(['u', 'i']) => return Err(refuse("save it with .astype(numpy.int32)")),
        _ => return Err(refuse("expected f2, f4, f8, i1, i4, i8 or b1; convert it with .astype")),
    };
    if order == "|" && dtype.size() > 1 {
        return Err(refuse("a type of several bytes needs a byte order (`<` or `>`)"));
    }
    Ok((dtype, order == ">" && dtype.size() > 1))
}

fn swap_bytes(tensor: &Tensor) -> Result<Tensor, attn_runtime::RuntimeError> {
    let mut bytes = tensor.bytes().to_vec();
    bytes.chunks_exact_mut(tensor.dtype().size()).for_each(<[u8]>::reverse);
    Tensor::from_bytes(tensor.dtype(), &bytes, tensor.shape())
}

/// The numpy descriptor of a dtype. Errors: numpy has no bf16.
fn descriptor(path: &Path, dtype: DType) -> Result<&'static str, IoError> {
    match dtype {
        DType::F32 => Ok("<f4"),
        DType::F16 => Ok("<f2"),
        DType::F64 => Ok("<f8"),
        DType::I8 => Ok("|i1"),
        DType::I32 => Ok("<i4"),
        DType::I64 => Ok("<i8"),
        DType::Bit => Ok("|b1"),
        DType::F8E4M3 => {
            Err(IoError::file(path, "numpy has no f8e4m3; write to a .safetensors file, or bind f16 or f32"))
        }
        DType::Bf16 => {
            Err(IoError::file(path, "numpy has no bf16; write to a .safetensors file, or bind f16 or f32"))
        }
    }
}

/// Writes an array in C order.
pub(crate) fn write(path: &Path, to: &mut dyn Write, tensor: &Tensor) -> Result<(), IoError> {
    let header = Header {
        type_descriptor: Literal::String(descriptor(path, tensor.dtype())?.to_string()),
        layout: Layout::Standard,
        shape: tensor.shape().to_vec(),
    };
    let bytes = header.to_bytes().map_err(|err| IoError::file(path, err.to_string()))?;
    to.write_all(&bytes)
        .and_then(|()| to.write_all(tensor.bytes()))
        .map_err(|err| IoError::file(path, format!("cannot be written: {err}")))
}
