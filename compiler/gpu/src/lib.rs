//! The GPU backend: a verified tile IR program to the MLIR text of its kernels.
//!
//! Comes in: `tile_ir::Program` and an architecture. Goes out: [`Kernels`] of the SIMT IR, and [`GpuCode`]: modules in MLIR's
//! `llvm` and `nvvm` dialects; with either how each launch is launched. What holds: every element of a tensor that an
//! expression reads is in range whatever the indices are; barriers are reached by whole blocks. Deliberately not here: LLVM, which runs in a process of its own
//! (`compiler/gpu/worker`), and any knowledge of attention.
//!
//! The line: [`lower`] writes a [`simt_ir::Kernel`] for each launch, [`simt_ir::verify`] checks it, [`simt_ir::mlir`] prints it.
//! Beside it [`simt_ir::text`] writes and reads kernels, and [`simt_ir::interp`] executes them: what they mean.
//! [`report`] says of each launch where tiles lie and what products run on.

pub mod lower;
pub mod report;
pub mod simt_ir;

use attn_compiler::artifact::{DeviceLaunch, MappedLaunch};
use attn_compiler::target::GpuArch;
use attn_compiler::tile_ir::Program;

/// Version that is part of every cache key of a GPU kernel: a hash of this backend's sources (see `build.rs`).
pub const VERSION: &str = env!("ATTN_GPU_SOURCES");

/// The kernels of a program, verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernels {
    /// Of every launch one, or two: for any strides, then that with tensor maps.
    pub kernels: Vec<simt_ir::Kernel>,
    /// How to launch each, in order.
    pub launches: Vec<DeviceLaunch>,
}

/// The code of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuCode {
    /// A module for each kernel: they are compiled beside each other.
    pub modules: Vec<String>,
    /// How to launch each, in order.
    pub launches: Vec<DeviceLaunch>,
}

/// Why there is no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// The program is sound, but this backend has no code for something in it.
    #[error("the GPU backend has no code for {op}: {why}")]
    Unsupported {
        /// What, printed.
        op: String,
        /// Why, and what to do instead.
        why: String,
    },
    /// The compiler is wrong.
    #[error("internal error in the GPU backend ({stage}): {invariant}; at {op}")]
    Internal {
        /// Part of the backend that noticed.
        stage: &'static str,
        /// What should have held.
        invariant: String,
        /// Where, printed.
        op: String,
    },
}

impl GpuError {
    pub(crate) fn unsupported(op: impl Into<String>, why: impl Into<String>) -> Self {
        GpuError::Unsupported { op: op.into(), why: why.into() }
    }

    pub(crate) fn internal(stage: &'static str, invariant: impl Into<String>, op: impl Into<String>) -> Self {
        GpuError::Internal { stage, invariant: invariant.into(), op: op.into() }
    }
}

/// The MLIR text of a verified program's kernels.
///
/// # Errors
/// As [`kernels`].
pub fn emit(program: &Program, arch: GpuArch) -> Result<GpuCode, GpuError> {
    Ok(GpuCode::of(kernels(program, arch)?))
}

impl GpuCode {
    /// The MLIR text of kernels.
    pub fn of(kernels: Kernels) -> GpuCode {
        let modules = kernels.kernels.iter().map(simt_ir::mlir::module).collect();
        GpuCode { modules, launches: kernels.launches }
    }

    /// All modules, one behind the other.
    pub fn mlir(&self) -> String {
        self.modules.concat()
    }
}

/// The kernels of a verified program.
///
/// # Errors
/// An operation without code, a tile that does not fit shared memory, or an invariant of ours that broke.
pub fn kernels(program: &Program, arch: GpuArch) -> Result<Kernels, GpuError> {
    let mut kernels = Vec::new();
    let mut launches = Vec::new();
    for launch in &program.launches {
        let general = lower::launch(program, launch, arch)?;
        let mapped = lower::mapped_launch(program, launch, arch)?;
        let mut device = device_launch(&general);
        for lowered in [Some(&general), mapped.as_ref()].into_iter().flatten() {
            simt_ir::verify::verify(&lowered.kernel)?;
        }
        kernels.push(general.kernel);
        if let Some(mapped) = mapped {
            let launch = device_launch(&mapped);
            device.mapped = Some(Box::new(MappedLaunch { launch, maps: mapped.maps }));
            kernels.push(mapped.kernel);
        }
        launches.push(device);
    }
    Ok(Kernels { kernels, launches })
}

fn device_launch(lowered: &lower::Lowered) -> DeviceLaunch {
    let kernel = &lowered.kernel;
    DeviceLaunch {
        kernel: kernel.name.clone(),
        threads: kernel.threads,
        shared_bytes: kernel.shared_bytes,
        words: lowered.words.clone(),
        persistent: lowered.persistent,
        mapped: None,
    }
}
