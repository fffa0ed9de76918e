//! From a plan to an artifact, by the backend of its target.
//!
//! Comes in: a plan whose tile IR is final. Goes out: an [`Artifact`]. What holds: this is the only place that
//! chooses a backend; Cranelift works in this process, LLVM in its own (`llvm.rs`).

use std::time::Instant;

use attn_compiler::artifact::Artifact;
use attn_compiler::diagnostic::{Internal, SourceMap, Unsupported};
use attn_compiler::pipeline::{self, CompileError, Observer, Plan, Stage};
use attn_compiler::target::{GpuArch, Target};
use attn_compiler_gpu::report::{self, LaunchReport};
use attn_compiler_gpu::simt_ir::text;
use attn_compiler_gpu::{GpuCode, GpuError, Kernels};

use crate::error::Error;
use crate::llvm;

/// Launches of most kernels: more threads than that have nothing to compile, and starting one takes a while.
const MOST_AT_ONCE: usize = 8;

/// Starts what [`emit`] will use, while the plan is being made.
pub fn prepare(target: &Target) {
    match target {
        Target::Cpu(_) => attn_runtime::start_threads(MOST_AT_ONCE),
        Target::Gpu(_) => {}
    }
}

/// Makes the code of a plan. `map` holds the texts that errors point into.
///
/// # Errors
/// An operation that the target has no code for yet, no LLVM worker, or a bug of ours.
pub fn emit(map: &SourceMap, plan: &Plan, observer: &mut dyn Observer) -> Result<Artifact, Error> {
    match &plan.target {
        Target::Cpu(_) => pipeline::emit_each(plan, observer, &attn_runtime::on_threads)
            .map_err(|err| Error::of_compile(map, err)),
        Target::Gpu(arch) => {
            let start = Instant::now();
            let kernels = gpu_kernels(map, plan, *arch)?;
            observer.stage(Stage::Simt, start.elapsed(), &|| text::print_module(&kernels.kernels));
            let start = Instant::now();
            let code = GpuCode::of(kernels);
            observer.stage(Stage::Mlir, start.elapsed(), &|| code.mlir());
            let start = Instant::now();
            let ptx = llvm::to_ptx(&code.modules, *arch)?;
            observer.stage(Stage::Ptx, start.elapsed(), &|| ptx.clone());
            Ok(pipeline::assemble_device(plan, ptx, code.launches))
        }
    }
}

/// The SIMT IR of a plan for a GPU, and how its launches are launched.
///
/// # Errors
/// An operation without code, or a bug of ours.
pub fn gpu_kernels(map: &SourceMap, plan: &Plan, arch: GpuArch) -> Result<Kernels, Error> {
    attn_compiler_gpu::kernels(&plan.program, arch).map_err(|err| Error::of_compile(map, refused(arch, err)))
}

/// The MLIR of a plan for a GPU, and how its launches are launched.
///
/// # Errors
/// Those of [`gpu_kernels`].
pub fn gpu_code(map: &SourceMap, plan: &Plan, arch: GpuArch) -> Result<GpuCode, Error> {
    gpu_kernels(map, plan, arch).map(GpuCode::of)
}

/// Where the tiles of each launch of a plan lie on a GPU, and what its products run on.
///
/// # Errors
/// Those of [`gpu_code`].
pub fn gpu_report(plan: &Plan, arch: GpuArch) -> Result<Vec<LaunchReport>, CompileError> {
    report::launches(&plan.program, arch).map_err(|err| refused(arch, err))
}

fn refused(arch: GpuArch, err: GpuError) -> CompileError {
    match err {
        GpuError::Unsupported { op, why } => CompileError::Unsupported(Box::new(Unsupported {
            clause: op,
            target: arch.name().into(),
            nearest: why,
            span: None,
        })),
        GpuError::Internal { stage, invariant, op } => {
            CompileError::Internal(Box::new(Internal { stage: stage.into(), invariant, op }))
        }
    }
}
