//! Targets by name: what `--target` and [`Kernel::target`](crate::Kernel::target) take.
//!
//! Comes in: `cpu`, `sm_80`... Goes out: the compiler's [`Target`](attn_compiler::target::Target) with the facts of
//! this host. Deliberately not done: naming other CPUs than the host's.

use attn_compiler::target::GpuArch;
use attn_runtime::cpu::facts::host_target;

use crate::error::{Error, ErrorKind};

/// What a kernel is made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The CPU that this process runs on.
    #[default]
    Host,
    /// A GPU architecture. Kernels for it can be planned as far as the build allows, never run here.
    Gpu(GpuArch),
}

impl Target {
    /// The CPU that this process runs on.
    pub fn host() -> Target {
        Target::Host
    }

    /// `cpu`, or the name of a GPU architecture. Errors: another name; the error lists them all.
    pub fn named(name: &str) -> Result<Target, Error> {
        if name == "cpu" {
            return Ok(Target::Host);
        }
        match GpuArch::ALL.into_iter().find(|arch| arch.name() == name) {
            Some(arch) => Ok(Target::Gpu(arch)),
            None => {
                let known: Vec<&str> =
                    std::iter::once("cpu").chain(GpuArch::ALL.map(GpuArch::name)).collect();
                let message = format!("there is no target `{name}`; targets are {}", known.join(", "));
                Err(Error::new(ErrorKind::Data, message))
            }
        }
    }

    /// With the facts of this host. Errors: no code can be made for this host.
    pub fn resolve(&self) -> Result<attn_compiler::target::Target, Error> {
        match self {
            Target::Host => Ok(host_target()?),
            Target::Gpu(arch) => Ok(attn_compiler::target::Target::Gpu(*arch)),
        }
    }
}
