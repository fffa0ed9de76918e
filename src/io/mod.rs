//! Tensors in files: `.npy`, `.npz` and `.safetensors`, read into and written from host memory.
//!
//! Comes in: paths as the command line writes them (`x.npz:q`). Goes out: [`HostTensor`]s, or files that are
//! complete or absent. What holds: a malformed, truncated or hostile file is an [`IoError`] that names the file
//! and the byte or field; reading allocates no more than a small multiple of what the file really holds; a file
//! is written beside its target and renamed, so that nobody sees half of it. Deliberately not done: mapping
//! files into memory (one that shrinks meanwhile would end the process), pickles, conversion of dtypes.

mod error;
mod npy;
mod npz;
mod safetensors;
mod save;
mod source;

use std::io::Read;
use std::path::Path;

use attn_compiler::artifact::DType;
use attn_runtime::{F8E4M3, RuntimeError, Tensor, TensorView};
use half::{bf16, f16};

pub use error::{IoError, Place};
pub use save::save;
pub use source::{Source, TensorFile, load};

/// A tensor in host memory, perhaps stored with its axes in another order (`fortran_order` of numpy).
#[derive(Clone, Debug)]
pub struct HostTensor {
    memory: Tensor,
    /// Axis a of the tensor is axis `order[a]` of `memory`.
    order: Vec<usize>,
}

impl From<Tensor> for HostTensor {
    fn from(memory: Tensor) -> HostTensor {
        let order = (0..memory.shape().len()).collect();
        HostTensor { memory, order }
    }
}

impl HostTensor {
    /// A tensor whose first axis is the fastest: `memory` has its axes in reverse.
    fn reversed(memory: Tensor) -> HostTensor {
        let order = (0..memory.shape().len()).rev().collect();
        HostTensor { memory, order }
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        self.memory.dtype()
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        self.order.iter().map(|&axis| self.memory.shape()[axis]).collect()
    }

    /// A row-major copy. Errors: none in practice, as for [`HostTensor::view`].
    pub fn copy(&self) -> Result<Tensor, RuntimeError> {
        let in_place = self.order.iter().copied().eq(0..self.order.len());
        if in_place { Ok(self.memory.clone()) } else { self.view()?.to_tensor() }
    }

    /// The elements in place. Errors: none in practice, the order is a permutation by construction.
    pub fn view(&self) -> Result<TensorView<'_>, RuntimeError> {
        self.memory.view().permuted(&self.order)
    }
}

/// What kind of file a path names, by its extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Npy,
    Npz,
    Safetensors,
}

impl Format {
    pub(crate) fn of(path: &Path) -> Result<Format, IoError> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
        match extension.as_str() {
            "npy" => Ok(Format::Npy),
            "npz" => Ok(Format::Npz),
            "safetensors" => Ok(Format::Safetensors),
            _ => Err(IoError::file(
                path,
                "the extension says no format; expected .npy, .npz or .safetensors (torch: \
                 safetensors.torch.save_file)",
            )),
        }
    }
}

/// Where an array begins and how much there is of it.
pub(crate) struct Stored<'a> {
    pub path: &'a Path,
    /// In messages: where the first element stands.
    pub start: Place,
    pub dtype: DType,
    pub shape: &'a [usize],
}

impl Stored<'_> {
    /// Bytes of the elements. Errors: more than can be addressed.
    pub(crate) fn n_bytes(&self) -> Result<u64, IoError> {
        if self.shape.contains(&0) {
            return Ok(0);
        }
        let sizes = self.shape.iter().map(|&n| n as u64);
        sizes.chain([self.dtype.size() as u64]).try_fold(1u64, u64::checked_mul).ok_or_else(|| {
            let message =
                format!("shape {:?} of {} has more bytes than can be counted", self.shape, self.dtype);
            IoError::at(self.path, self.start.clone(), message)
        })
    }

    /// Reads the elements, little-endian. The caller has compared [`Stored::n_bytes`] with what there is.
    pub(crate) fn read(&self, from: &mut dyn Read) -> Result<Tensor, IoError> {
        let refused = |err: RuntimeError| IoError::at(self.path, self.start.clone(), err.to_string());
        let broken = |err: std::io::Error| {
            let message = match err.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    format!(
                        "the data end before {:?} of {} is complete; the file is truncated",
                        self.shape, self.dtype
                    )
                }
                _ => format!("cannot be read: {err}"),
            };
            IoError::at(self.path, self.start.clone(), message)
        };
        let mut tensor = Tensor::zeros(self.dtype, self.shape).map_err(refused)?;
        macro_rules! fill {
            ($t:ty) => {{
                let elements = tensor.as_mut_slice::<$t>().map_err(refused)?;
                from.read_exact(bytemuck::cast_slice_mut(elements)).map_err(broken)?
            }};
        }
        match self.dtype {
            DType::F32 => fill!(f32),
            DType::F16 => fill!(f16),
            DType::Bf16 => fill!(bf16),
            DType::F8E4M3 => fill!(F8E4M3),
            DType::F64 => fill!(f64),
            DType::I8 => fill!(i8),
            DType::I32 => fill!(i32),
            DType::I64 => fill!(i64),
            DType::Bit => {
                let mut bytes = vec![0; tensor.bytes().len()];
                from.read_exact(&mut bytes).map_err(broken)?;
                tensor = Tensor::from_bytes(DType::Bit, &bytes, self.shape).map_err(refused)?;
            }
        }
        Ok(tensor)
    }
}
