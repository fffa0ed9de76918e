//! attnc: attention as written in a paper, as machine code. The facade: compile a `.attn` specification and run it
//! in a host program.
//!
//! ```no_run
//! use attnc::{DType, Kernel, Target, Tensor, bind, dims, outputs};
//!
//! # fn main() -> Result<(), attnc::Error> {
//! let kernel = Kernel::from_file("swa.attn")?.param("window", 512).target(Target::host())?;
//! let plan = kernel.plan(&dims! { B: 4, Hq: 32, Hkv: 8, Sq: 1, Sk: 8192, D: 64 }, DType::F32)?;
//! let q = Tensor::zeros(DType::F32, &[4, 32, 1, 64])?;
//! let k = Tensor::zeros(DType::F32, &[4, 8, 8192, 64])?;
//! let v = k.clone();
//! let mut o = Tensor::zeros(DType::F32, &[4, 32, 1, 64])?;
//! let mut lse = Tensor::zeros(DType::F32, &[4, 32, 1])?;
//! plan.run(&bind! { q, k, v }, &mut outputs! { o, lse })?; // no compilation, no allocation
//! # Ok(())
//! # }
//! ```
//!
//! Comes in: a specification, sizes, tensors. Goes out: results in the caller's memory. What holds: bad text and
//! bad data are errors ([`Error`]), never panics; one plan serves every batch and sequence length. Deliberately not
//! here: the language (crate `attn-compiler`), launching and the disk cache (crate `attn-runtime`).

/// The examples of README.md are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod bind;
pub mod emit;
mod error;
pub mod io;
mod kernel;
pub mod llvm;
mod merge;
pub mod nvidia;
mod plan;
pub mod ring;
pub mod schedules;
pub mod simt;
mod target;

pub use attn_compiler as compiler;
pub use attn_compiler::artifact::DType;
pub use attn_compiler::expr::eval::Value;
pub use attn_runtime as runtime;
pub use attn_runtime::package::Package;
pub use attn_runtime::{
    Device, F8E4M3, LaunchReport, Parallel, RunOptions, Tensor, TensorView, TensorViewMut,
};

pub use bind::{AsInput, AsOutput, Input, Output};
pub use error::{Error, ErrorKind};
pub use kernel::{Kernel, ParamValue};
pub use merge::merge;
pub use plan::{CompileStats, Origin, Plan};
pub use ring::RingPlan;
pub use schedules::{ScheduleOrigin, Schedules};
pub use target::Target;
