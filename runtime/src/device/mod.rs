//! Devices: what runs the launches of an artifact that is not machine code for this host.
//!
//! Comes in: an artifact whose code is PTX text. Goes out: a [`Program`] that a [`crate::LoadedKernel`] runs after the same checking
//! and binding as on the CPU. What holds: one seam (`seam.rs`) of memory, copies and launches; a device knows nothing
//! of tensors' meaning. Deliberately not done: choosing a device, or running anything on another one silently.

#[cfg(feature = "cuda")]
mod cuda;
pub mod machine;
mod maps;
pub mod resident;
mod seam;
mod sim;
mod span;

use std::sync::Arc;

use attn_ptx_sim::Module;

pub use attn_ptx_sim::{BankConflict, Report};

#[cfg(feature = "cuda")]
pub use cuda::Gpu;
pub use maps::MapArgs;
pub use seam::LaunchReport;

use crate::bind::{Call, RunContext};
use crate::error::RuntimeError;
use crate::kernel::RunOptions;
use crate::signature::Signature;
use machine::Machine;

/// Where the kernels of an artifact run.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Device {
    /// The CPU of this process.
    #[default]
    Host,
    /// The simulator of PTX: slow, and a fault where a GPU would give anything.
    Simulator,
    /// A GPU of this machine.
    #[cfg(feature = "cuda")]
    Cuda(Gpu),
    /// A machine from outside, which knows the kernels.
    Machine(Arc<dyn Machine>),
    /// Nowhere: sizes, workspace and code can be asked for, a run is an error.
    Absent,
}

/// Code of an artifact on a device.
pub(crate) enum Program {
    /// Of the simulator.
    Simulated(Module),
    /// Of a GPU.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Module),
    /// Known to a machine from outside.
    Machine(Arc<dyn Machine>),
    /// Of nothing that is here.
    Absent,
}

impl Program {
    /// Loads the code. Errors: the device does not take it, or it is no code for a device.
    pub fn load(sig: &Signature, device: &Device) -> Result<Program, RuntimeError> {
        if let Device::Absent = device {
            return Ok(Program::Absent);
        }
        let artifact = &sig.artifact;
        if !sig.on_device && !artifact.launches.is_empty() {
            return Err(RuntimeError::unsupported(format!(
                "kernel `{}` was made for `{}`, it is no PTX that a GPU or the simulator runs; compile it for sm_80 or later",
                artifact.name, artifact.target
            )));
        }
        match device {
            Device::Simulator => Ok(Program::Simulated(sim::load(&artifact.code)?)),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => {
                let text = ptx_text(&artifact.code)?;
                Ok(Program::Cuda(cuda::Module::load(gpu, &artifact.target, text, &artifact.launches)?))
            }
            Device::Machine(machine) => Ok(Program::Machine(Arc::clone(machine))),
            Device::Host | Device::Absent => Ok(Program::Absent),
        }
    }

    /// What the device had to say about the code when it was loaded.
    pub fn log(&self) -> Option<&str> {
        match self {
            #[cfg(feature = "cuda")]
            Program::Cuda(module) => Some(module.log.as_str()).filter(|log| !log.is_empty()),
            Program::Simulated(_) | Program::Machine(_) | Program::Absent => None,
        }
    }

    /// Runs a call that has just been bound.
    pub fn run(
        &self,
        sig: &Signature,
        ctx: &mut RunContext,
        call: &mut Call<'_, '_, '_>,
        options: &RunOptions<'_>,
    ) -> Result<(), RuntimeError> {
        match self {
            Program::Simulated(module) => {
                let mut memory = sim::Simulator::new(module, options.sim_seed);
                seam::run(sig, ctx, call, &mut memory, options.on_launch)
            }
            #[cfg(feature = "cuda")]
            Program::Cuda(module) => {
                seam::run(sig, ctx, call, &mut cuda::GpuMemory::new(module)?, options.on_launch)
            }
            Program::Machine(machine) => {
                seam::run(sig, ctx, call, &mut machine::Run::new(machine), options.on_launch)
            }
            Program::Absent => Err(RuntimeError::unsupported(format!(
                "kernel `{0}` was compiled for {1} and not loaded on a device; run it with target `cuda` on a machine \
                 that has such a GPU, or with `sim:{1}` in the simulator",
                sig.artifact.name, sig.artifact.target
            ))),
        }
    }
}

/// The code of an artifact as text. Errors: it is none.
fn ptx_text(code: &[u8]) -> Result<&str, RuntimeError> {
    std::str::from_utf8(code)
        .map_err(|err| RuntimeError::internal("load", format!("the code is no PTX text: {err}")))
}
