//! An NVIDIA GPU as a device, through the driver's library, which is looked for at run time.
//!
//! Comes in: a device number; the PTX of an artifact. Goes out: a [`Gpu`], and code in it. What holds: no driver is an
//! error that says so, never a panic; what the driver's compiler has to say about the PTX stands in the error, or in
//! the log where it took it. Deliberately not done: several GPUs for one kernel, choosing one, the runtime API.

mod memory;
mod module;

use std::sync::Arc;

use attn_compiler::target::GpuArch;
use cudarc::driver::{CudaContext, DriverError};

pub(crate) use memory::{Buffer, GpuMemory, Stream};
pub(crate) use module::Module;

use crate::error::RuntimeError;

/// One GPU of this machine, with its context. Clones share it.
#[derive(Clone)]
pub struct Gpu {
    context: Arc<CudaContext>,
    name: String,
    capability: (i32, i32),
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({} of {}.{})", self.name, self.capability.0, self.capability.1)
    }
}

impl Gpu {
    /// The GPU of this number, from 0. Errors: no driver, no such GPU, or one that the driver cannot use.
    pub fn open(ordinal: usize) -> Result<Gpu, RuntimeError> {
        // SAFETY: loads the driver's library, whose initialisers are those of every CUDA program, and lets go of it.
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            return Err(RuntimeError::unsupported(
                "there is no CUDA driver: libcuda.so.1 is not found; install NVIDIA's driver, put the directory of \
                 libcuda.so.1 into LD_LIBRARY_PATH, or run with target `sim:sm_80` in the simulator",
            ));
        }
        let failed = |err: DriverError| {
            let why = text(err);
            RuntimeError::unsupported(format!(
                "GPU {ordinal} cannot be used: {why}; see what `nvidia-smi` lists, and CUDA_VISIBLE_DEVICES"
            ))
        };
        let context = CudaContext::new(ordinal).map_err(failed)?;
        let capability = context.compute_capability().map_err(failed)?;
        let name = context.name().map_err(failed)?;
        Ok(Gpu { context, name, capability })
    }

    /// What the vendor calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compute capability, major and minor.
    pub fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// How many multiprocessors it has.
    fn multiprocessors(&self) -> Result<i32, DriverError> {
        use cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        self.context.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
    }

    /// The architecture to compile for. Errors: the GPU is older than all that code is made for.
    pub fn arch(&self) -> Result<GpuArch, RuntimeError> {
        nearest(self.capability).ok_or_else(|| {
            let (major, minor) = self.capability;
            RuntimeError::unsupported(format!(
                "{} has compute capability {major}.{minor}; code is made for 8.0 and later",
                self.name
            ))
        })
    }

    /// Refuses code for an architecture that this GPU is not.
    fn check_arch(&self, target: &str) -> Result<(), RuntimeError> {
        let arch = GpuArch::ALL.into_iter().find(|a| a.name() == target);
        if arch.is_some_and(|a| runs(a, self.capability)) {
            return Ok(());
        }
        let (major, minor) = self.capability;
        let nearest = nearest(self.capability).map_or("none that is known", GpuArch::name);
        Err(RuntimeError::unsupported(format!(
            "the kernel was made for `{target}`, {} has compute capability {major}.{minor}; compile it for {nearest}",
            self.name
        )))
    }

    /// The same GPU.
    pub(crate) fn is(&self, other: &Gpu) -> bool {
        self.context == other.context
    }

    /// Makes the context the one of this thread.
    pub(crate) fn bind(&self) -> Result<(), RuntimeError> {
        self.context.bind_to_thread().map_err(|err| broken("the context", err))
    }
}

/// The compute capability that an architecture is of.
const fn capability(arch: GpuArch) -> (i32, i32) {
    match arch {
        GpuArch::Sm80 => (8, 0),
        GpuArch::Sm86 => (8, 6),
        GpuArch::Sm89 => (8, 9),
        GpuArch::Sm90a => (9, 0),
    }
}

/// PTX runs on what is later too, unless it uses what is of one architecture only.
fn runs(arch: GpuArch, on: (i32, i32)) -> bool {
    match arch {
        GpuArch::Sm90a => on == capability(arch),
        _ => on >= capability(arch),
    }
}

/// The latest architecture whose code runs on this capability.
fn nearest(on: (i32, i32)) -> Option<GpuArch> {
    GpuArch::ALL.into_iter().filter(|&a| runs(a, on)).max_by_key(|&a| capability(a))
}

/// What the driver says, in words and by name.
fn text(err: DriverError) -> String {
    let name = err.error_name().map(|s| s.to_string_lossy().into_owned());
    let words = err.error_string().map(|s| s.to_string_lossy().into_owned());
    match (name, words) {
        (Ok(name), Ok(words)) => format!("{words} ({name})"),
        _ => format!("{:?}", err.0),
    }
}

/// The driver refuses something that is not the kernel's doing.
fn broken(what: &str, err: DriverError) -> RuntimeError {
    use cudarc::driver::sys::CUresult;
    let why = text(err);
    match err.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => RuntimeError::unsupported(format!(
            "the GPU has no memory left for {what}: {why}; use shorter sequences or a smaller batch"
        )),
        _ => RuntimeError::unsupported(format!("the CUDA driver refuses {what}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn architectures_of_capabilities() {
        let name = |on| nearest(on).map(GpuArch::name);
        assert_eq!(name((7, 5)), None);
        assert_eq!(name((8, 0)), Some("sm_80"));
        assert_eq!((name((8, 6)), name((8, 7))), (Some("sm_86"), Some("sm_86")));
        assert_eq!((name((8, 9)), name((9, 0))), (Some("sm_89"), Some("sm_90a")));
        assert_eq!((name((10, 0)), name((12, 0))), (Some("sm_89"), Some("sm_89")));
    }

    #[test]
    fn no_driver_is_an_error_with_a_remedy() {
        match Gpu::open(0) {
            // A machine with a GPU: another number is refused instead.
            Ok(gpu) => {
                assert!(gpu.capability().0 > 0 && !gpu.name().is_empty());
                let err = Gpu::open(4096).unwrap_err();
                assert!(err.to_string().contains("GPU 4096 cannot be used"), "{err}");
            }
            Err(err) => {
                assert_eq!(err.kind(), ErrorKind::Unsupported);
                let text = err.to_string();
                assert!(
                    text.contains("libcuda") && text.contains("sim:sm_80") || text.contains("nvidia-smi"),
                    "{text}"
                );
            }
        }
    }
}
