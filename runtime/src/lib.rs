//! The attnc runtime: loads and launches the kernels that attn-compiler makes.
//!
//! Comes in: an [`attn_compiler::artifact::Artifact`] and named tensors. Goes out: results in the caller's
//! memory, or a [`RuntimeError`] before anything was launched. All `unsafe` of the project lives in this crate;
//! its public functions are safe for every argument, bad data included, except those marked `unsafe`.
//!
//! ```text
//! Artifact --load--> LoadedKernel --bind (names, sizes, facts, indices)--> argument block --launch--> tasks
//!                                                                                 --device/--> copies, launches, copies
//! ```
//!
//! Deliberately not here: anything about attention. The runtime knows sizes, strides, tables and code.

mod aligned;
mod bind;
pub mod cache;
pub mod cpu;
pub mod device;
mod error;
mod geometry;
mod kernel;
pub mod package;
mod signature;
pub mod tensor;

pub use bind::{NamedInput, NamedOutput, NamedParam};
pub use cpu::threads::{MAX_THREADS, Parallel, Serial, default_threads, on_threads, start_threads};
pub use device::{Device, LaunchReport};
pub use error::{DataFault, ErrorKind, RuntimeError};
pub use kernel::{LoadedKernel, RunOptions};
pub use tensor::{Element, F8E4M3, MAX_RANK, Tensor, TensorView, TensorViewMut};
