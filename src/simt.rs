//! The SIMT IR of a plan for a GPU, executed by its interpreter after the same checking and binding as on any device.
//!
//! Comes in: a plan and its kernels. Goes out: an artifact whose code is their text, and a loaded kernel that executes it.
//! What holds: what is executed is read back from the text, so that a wrong text is found too. Deliberately not here: what
//! instructions mean (`attn_compiler_gpu::simt_ir::interp`).

use std::sync::Arc;

use attn_compiler::artifact::Artifact;
use attn_compiler::pipeline::{self, Plan};
use attn_compiler_gpu::Kernels;
use attn_compiler_gpu::simt_ir::interp::{self, Global, Launch, TensorMap};
use attn_compiler_gpu::simt_ir::{Kernel, text};
use attn_runtime::device::machine::{GlobalMemory, Machine, MachineLaunch};
use attn_runtime::{Device, LoadedKernel};

use crate::error::{Error, ErrorKind};

/// All that the runtime is told of a plan; the code is the text of its kernels.
pub fn artifact(plan: &Plan, kernels: Kernels) -> Artifact {
    pipeline::assemble_device(plan, text::print_module(&kernels.kernels), kernels.launches)
}

/// Loads what [`artifact`] made for the interpreter, which gives a launch up after so many instructions of warps.
///
/// # Errors
/// The code is no text of the SIMT IR, or the artifact is not well formed.
pub fn load(artifact: Artifact, max_steps: u64) -> Result<LoadedKernel, Error> {
    let kernels = std::str::from_utf8(&artifact.code)
        .map_err(|err| err.to_string())
        .and_then(|code| text::parse_module(code).map_err(|err| err.to_string()))
        .map_err(|why| Error::new(ErrorKind::Internal, format!("the text cannot be read back: {why}")))?;
    Ok(LoadedKernel::load_on(artifact, &[], &Device::Machine(Arc::new(Interpreter { kernels, max_steps })))?)
}

#[derive(Debug)]
struct Interpreter {
    kernels: Vec<Kernel>,
    max_steps: u64,
}

impl Machine for Interpreter {
    fn name(&self) -> &str {
        "the interpreter of the SIMT IR"
    }

    fn launch(&self, launch: &MachineLaunch<'_>, memory: &mut GlobalMemory) -> Result<(), String> {
        let kernel = self.kernels.iter().find(|k| k.name == launch.kernel);
        let kernel = kernel.ok_or_else(|| format!("there is no kernel `{}`", launch.kernel))?;
        let maps = launch.maps.iter().map(|m| TensorMap::new(m.addr, &m.dims, &m.strides, &m.box_dims));
        let maps = maps.collect::<Result<Vec<_>, _>>().map_err(|err| err.to_string())?;
        let (blocks, words) = (launch.blocks, launch.words);
        let launch = Launch { blocks, words, maps: &maps, max_steps: self.max_steps };
        interp::run(kernel, &launch, &mut Memory(memory)).map_err(|fault| fault.to_string())
    }
}

struct Memory<'a>(&'a mut GlobalMemory);

impl Global for Memory<'_> {
    fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), String> {
        self.0.read(addr, into)
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), String> {
        self.0.write(addr, bytes)
    }
}
