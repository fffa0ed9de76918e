//! A machine from outside as a device: whatever runs launches on global memory, such as an interpreter of an IR.
//!
//! Comes in: a [`Machine`] that knows the kernels of an artifact by their names, launches as every device gets them. Goes
//! out: what it leaves in memory. What holds: the artifact's code is not looked at; memory notices what was never written,
//! as in the simulator (`sim.rs`). Deliberately not here: any machine.

use std::sync::Arc;

use super::maps::MapArgs;
use super::seam::{Launch, LaunchReport, Memory};
use super::sim;
use super::span::{Elements, Span};
use crate::error::RuntimeError;

/// Persistent blocks at once.
const AT_ONCE: u32 = 2;

/// Runs launches of kernels.
pub trait Machine: std::fmt::Debug + Send + Sync {
    /// What messages call it.
    fn name(&self) -> &str;

    /// Runs a launch to its end. Errors: what the kernel must not do.
    fn launch(&self, launch: &MachineLaunch<'_>, memory: &mut GlobalMemory) -> Result<(), String>;
}

/// A launch for a [`Machine`].
#[derive(Clone, Debug)]
pub struct MachineLaunch<'a> {
    /// Entry name of the kernel.
    pub kernel: &'a str,
    /// Blocks.
    pub blocks: u32,
    /// Values of the parameters.
    pub words: &'a [u64],
    /// What the tensor maps behind them describe.
    pub maps: &'a [MapArgs],
}

/// Global memory of a run: allocations that nothing lies between.
pub struct GlobalMemory(attn_ptx_sim::Device);

impl GlobalMemory {
    /// Bytes from an address on. Errors: they are not all in one allocation, or nothing has written one of them.
    pub fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), String> {
        into.copy_from_slice(self.0.read_at(addr, into.len())?);
        Ok(())
    }

    /// Writes bytes from an address on. Errors: they are not all in one allocation.
    pub fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), String> {
        self.0.write_at(addr, bytes)
    }
}

/// One run on a machine.
pub(super) struct Run<'a> {
    machine: &'a Arc<dyn Machine>,
    memory: GlobalMemory,
}

impl<'a> Run<'a> {
    pub fn new(machine: &'a Arc<dyn Machine>) -> Run<'a> {
        Run { machine, memory: GlobalMemory(attn_ptx_sim::Device::new()) }
    }
}

impl Memory for Run<'_> {
    fn alloc(&mut self, name: &str, bytes: usize) -> Result<u64, RuntimeError> {
        Ok(sim::alloc(&mut self.memory.0, name, bytes)?.addr())
    }

    fn upload(&mut self, addr: u64, from: &Elements<'_>) -> Result<(), RuntimeError> {
        sim::upload(&mut self.memory.0, addr, from)
    }

    fn download(&mut self, name: &str, addr: u64, span: &Span) -> Result<Vec<u8>, RuntimeError> {
        sim::download(&self.memory.0, addr, span, &|detail| {
            let what = format!("the launches have ended and `{name}` is not written everywhere: {detail}");
            RuntimeError::fault("the kernel", self.machine.name(), what)
        })
    }

    fn launch(&mut self, _: usize, launch: &Launch<'_>) -> Result<Option<LaunchReport>, RuntimeError> {
        let spec = launch.device;
        let asked = MachineLaunch {
            kernel: &spec.kernel,
            blocks: launch.blocks(AT_ONCE),
            words: launch.words,
            maps: launch.maps,
        };
        match self.machine.launch(&asked, &mut self.memory) {
            Ok(()) => Ok(None),
            Err(why) => {
                Err(RuntimeError::fault(&format!("launch `{}`", launch.name), self.machine.name(), why))
            }
        }
    }

    fn finish(&mut self) -> Result<(), RuntimeError> {
        Ok(())
    }
}
