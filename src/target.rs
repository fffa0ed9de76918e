//! Targets by name: what `--target` and [`Kernel::target`](crate::Kernel::target) take.
//!
//! Comes in: `cpu`, `sm_80`, `sim:sm_80`, `cuda`... Goes out: the compiler's
//! [`Target`](attn_compiler::target::Target) with the facts of this host, and the device that runs its code.
//! Deliberately not done: naming other CPUs than the host's.

use attn_compiler::target::GpuArch;
use attn_runtime::Device;
use attn_runtime::cpu::facts::host_target;

use crate::error::{Error, ErrorKind};

/// What a kernel is made for, and what runs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The CPU that this process runs on.
    #[default]
    Host,
    /// A GPU architecture, to be built only: the plan is not run here.
    Gpu(GpuArch),
    /// A GPU architecture, run in the simulator of PTX.
    Sim(GpuArch),
    /// The first GPU of this machine.
    Cuda,
}

impl Target {
    /// The CPU that this process runs on.
    pub fn host() -> Target {
        Target::Host
    }

    /// `cpu`, `cuda`, the name of a GPU architecture, or that with `sim:` before it. Errors: another name; the error
    /// lists them all.
    pub fn named(name: &str) -> Result<Target, Error> {
        let arch = |name: &str| GpuArch::ALL.into_iter().find(|arch| arch.name() == name);
        let found = match (name, name.strip_prefix("sim:")) {
            ("cpu", _) => Some(Target::Host),
            ("cuda", _) => Some(Target::Cuda),
            (_, Some(simulated)) => arch(simulated).map(Target::Sim),
            (name, None) => arch(name).map(Target::Gpu),
        };
        found.ok_or_else(|| {
            let gpus = GpuArch::ALL.map(GpuArch::name).join(", ");
            let message = format!(
                "there is no target `{name}`; targets are cpu, {gpus}, cuda (the GPU of this machine), and sim:sm_80 and \
                 so on (the simulator)"
            );
            Error::new(ErrorKind::Data, message)
        })
    }

    /// With the facts of this host. Errors: no code can be made for this host, or there is no GPU that is asked about.
    pub fn resolve(&self) -> Result<attn_compiler::target::Target, Error> {
        use attn_compiler::target::Target as Compiled;
        match self {
            Target::Host => Ok(host_target()?),
            Target::Gpu(arch) | Target::Sim(arch) => Ok(Compiled::Gpu(*arch)),
            Target::Cuda => Ok(Compiled::Gpu(gpu_arch()?)),
        }
    }

    /// What runs the code. Errors: the GPU that is asked for is not there.
    pub fn device(&self) -> Result<Device, Error> {
        match self {
            Target::Host => Ok(Device::Host),
            Target::Gpu(_) => Ok(Device::Absent),
            Target::Sim(_) => Ok(Device::Simulator),
            Target::Cuda => gpu_device(),
        }
    }
}

#[cfg(feature = "cuda")]
fn gpu() -> Result<attn_runtime::device::Gpu, Error> {
    static GPU: std::sync::OnceLock<Result<attn_runtime::device::Gpu, attn_runtime::RuntimeError>> =
        std::sync::OnceLock::new();
    Ok(GPU.get_or_init(|| attn_runtime::device::Gpu::open(0)).clone()?)
}

#[cfg(feature = "cuda")]
fn gpu_arch() -> Result<GpuArch, Error> {
    Ok(gpu()?.arch()?)
}

#[cfg(feature = "cuda")]
fn gpu_device() -> Result<Device, Error> {
    Ok(Device::Cuda(gpu()?))
}

#[cfg(not(feature = "cuda"))]
fn no_cuda<T>() -> Result<T, Error> {
    let message = "this build knows no GPU driver; build attnc with `--features cuda`, or run with target `sim:sm_80` in \
                   the simulator";
    Err(Error::new(ErrorKind::Unsupported, message))
}

#[cfg(not(feature = "cuda"))]
fn gpu_arch() -> Result<GpuArch, Error> {
    no_cuda()
}

#[cfg(not(feature = "cuda"))]
fn gpu_device() -> Result<Device, Error> {
    no_cuda()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_targets() {
        assert_eq!(Target::named("sm_90a").unwrap(), Target::Gpu(GpuArch::Sm90a));
        assert_eq!(Target::named("sim:sm_80").unwrap(), Target::Sim(GpuArch::Sm80));
        assert_eq!(Target::named("cuda").unwrap(), Target::Cuda);
        for name in ["sim:", "sim:cpu", "sim", "sm_75", "CUDA", ""] {
            let err = Target::named(name).unwrap_err();
            assert!(err.to_string().contains("sm_90a") && err.to_string().contains("sim:sm_80"), "{err}");
        }
    }

    #[test]
    fn where_they_run() {
        assert!(matches!(Target::Sim(GpuArch::Sm86).device(), Ok(Device::Simulator)));
        assert!(matches!(Target::Gpu(GpuArch::Sm86).device(), Ok(Device::Absent)));
        // Without a driver, or without the feature, the remedy is named; with a GPU it is opened.
        if let Err(err) = Target::Cuda.device() {
            assert_eq!(err.kind(), ErrorKind::Unsupported);
            assert!(err.to_string().contains("sim:sm_80") || err.to_string().contains("nvidia-smi"), "{err}");
        }
    }
}
