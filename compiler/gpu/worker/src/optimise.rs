//! Passes and code generation. In: a marked module; out: the module as the kernel's author meant it, and its PTX.
//!
//! Holds: no loop is unrolled or peeled and no block duplicated, for no pass that does so is run; a kernel says its own
//! unrolling. `sroa` comes first and turns the `alloca`s of virtual registers into values.
//!
//! Not done: inlining; a kernel is one function.
//!
//! Rejected: LLVM's `-O3`, which unrolls loops of `wgmma` by four, peels iterations off loops that test their index, and
//! threads jumps.

use crate::Failure;
use inkwell::OptimizationLevel;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple,
};

/// What is run over every function, in this order.
const PASSES: &str = "function(\
    sroa,\
    early-cse<memssa>,\
    instcombine<no-verify-fixpoint>,\
    simplifycfg,\
    gvn<no-pre;no-load-pre>,\
    loop-mssa(licm),\
    instcombine<no-verify-fixpoint>,\
    early-cse<memssa>,\
    simplifycfg,\
    adce)";

/// Which PTX is written: 8.3 has everything for `sm_90a` and needs a driver of CUDA 12.3 or later.
const PTX_VERSION: &str = "+ptx83";

/// The machine that code for `target` (one of `args::TARGETS`) is made by.
pub fn machine(target: &str) -> Result<TargetMachine, Failure> {
    Target::initialize_nvptx(&InitializationConfig::default());
    let triple = TargetTriple::create("nvptx64-nvidia-cuda");
    let refused = |why: &str| Failure::Llvm(format!("this LLVM has no target {target}: {why}"));
    let nvptx = Target::from_triple(&triple).map_err(|e| refused(&e.to_string()))?;
    let (level, reloc, code) = (OptimizationLevel::Aggressive, RelocMode::Default, CodeModel::Default);
    nvptx
        .create_target_machine(&triple, target, PTX_VERSION, level, reloc, code)
        .ok_or_else(|| refused("it makes no machine"))
}

/// Runs the passes.
pub fn optimise(module: &Module, machine: &TargetMachine) -> Result<(), Failure> {
    module
        .run_passes(PASSES, machine, PassBuilderOptions::create())
        .map_err(|e| Failure::Llvm(format!("a pass failed: {e}")))
}

/// PTX of the module.
pub fn ptx(module: &Module, machine: &TargetMachine) -> Result<Vec<u8>, Failure> {
    let buffer = machine
        .write_to_memory_buffer(module, FileType::Assembly)
        .map_err(|e| Failure::Llvm(format!("no code could be made: {e}")))?;
    // LLVM puts a NUL behind the text.
    Ok(buffer.as_slice().iter().copied().take_while(|b| *b != 0).collect())
}
