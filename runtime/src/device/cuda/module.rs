//! PTX in a GPU: compiled by the driver, its entries ready to be launched.
//!
//! Comes in: an artifact's code and launches. Goes out: a [`Module`]. What holds: every launch has its entry, with leave
//! for its shared memory; the module is unloaded when nobody needs it. The driver's log is kept: it tells of spills and
//! serialised products. Deliberately not done: the driver's own cache of compiled PTX, which it looks after itself.

use std::ffi::{CString, c_void};

use attn_compiler::artifact::{DeviceLaunch, LaunchSpec};
use cudarc::driver::DriverError;
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUfunction_attribute_enum, CUjit_option};

use super::memory::fault;
use super::{Gpu, text};
use crate::device::seam::Launch;
use crate::error::RuntimeError;

/// A kernel has at most 4 KiB of parameters on every GPU.
const MAX_WORDS: usize = 512;
/// Bytes of each of the driver's two logs.
const LOG_BYTES: usize = 16 << 10;

/// Loaded code.
pub(crate) struct Module {
    pub gpu: Gpu,
    handle: sys::CUmodule,
    /// Entry of each launch.
    entries: Vec<sys::CUfunction>,
    /// What the driver had to say.
    pub log: String,
}

// SAFETY: handles of modules and functions may be used from every thread that the context is current on; the driver
// locks what it must.
unsafe impl Send for Module {}
// SAFETY: as for Send.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: the handle came from a load that went well and is given up here; runs have ended, since each of
            // them borrows the module and waits for its stream.
            let _ = unsafe { result::module::unload(self.handle) };
        }
    }
}

impl Module {
    /// Compiles the PTX for this GPU. Errors: it is for another architecture, or the driver refuses it; then with its
    /// log.
    pub fn load(gpu: &Gpu, target: &str, ptx: &str, launches: &[LaunchSpec]) -> Result<Module, RuntimeError> {
        gpu.check_arch(target)?;
        gpu.bind()?;
        let image = CString::new(ptx)
            .map_err(|_| RuntimeError::internal("load", "the PTX text holds a byte of value 0"))?;
        let (handle, log) = jit(&image)?;
        let mut module = Module { gpu: gpu.clone(), handle, entries: Vec::new(), log };
        for launch in launches {
            let Some(device) = &launch.device else {
                return Err(RuntimeError::internal("load", format!("launch `{}` is for a CPU", launch.name)));
            };
            let entry = module.entry(device)?;
            module.entries.push(entry);
        }
        Ok(module)
    }

    /// Puts the n-th launch on a stream. Nothing is allocated and nothing is waited for. Errors: the driver refuses it.
    ///
    /// # Safety
    /// The words are what the kernel takes, addresses among them those of live memory that is large enough, until the
    /// launch has ended; the stream is one of this GPU.
    pub unsafe fn enqueue(
        &self,
        n: usize,
        launch: &Launch<'_>,
        stream: sys::CUstream,
    ) -> Result<(), RuntimeError> {
        let entry = self.entries.get(n).filter(|_| launch.words.len() <= MAX_WORDS);
        let Some(&entry) = entry else {
            let what = format!("`{}` has no entry or more than {MAX_WORDS} words", launch.name);
            return Err(RuntimeError::internal("launch", what));
        };
        let mut params = [std::ptr::null_mut::<c_void>(); MAX_WORDS];
        for (param, word) in params.iter_mut().zip(launch.words) {
            *param = std::ptr::from_ref(word).cast_mut().cast();
        }
        let (grid, block) = ((launch.blocks, 1, 1), (launch.device.threads, 1, 1));
        let (params, shared) = (&mut params[..launch.words.len()], launch.device.shared_bytes);
        // SAFETY: promised by the caller; the entry is of this module, which outlives the launch (whoever launches
        // waits before it lets go of the kernel); the driver reads the parameters before it returns.
        unsafe { result::launch_kernel(entry, grid, block, shared, stream, params) }
            .map_err(|e| fault(&self.gpu, &format!("launch `{}`", launch.name), e))
    }

    fn entry(&self, launch: &DeviceLaunch) -> Result<sys::CUfunction, RuntimeError> {
        let failed = |what: &str, err: DriverError| {
            let message = format!("entry `{}` of the PTX {what}: {}", launch.kernel, text(err));
            RuntimeError::internal("load", message)
        };
        let name = CString::new(launch.kernel.as_str())
            .map_err(|_| RuntimeError::internal("load", "the name of an entry holds a byte of value 0"))?;
        // SAFETY: the module is loaded and lives as long as the entry is used.
        let entry = unsafe { result::module::get_function(self.handle, name) }
            .map_err(|e| failed("is not there", e))?;
        if launch.shared_bytes > 0 {
            let what = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(launch.shared_bytes).unwrap_or(i32::MAX);
            // SAFETY: the entry was just found in a loaded module.
            unsafe { result::function::set_function_attribute(entry, what, bytes) }.map_err(|e| {
                let gpu = &self.gpu.name;
                failed(&format!("cannot have {bytes} bytes of shared memory on {gpu}"), e)
            })?;
        }
        Ok(entry)
    }
}

/// Has the driver compile the text. The module and the log, or an error with the logs in it.
fn jit(image: &CString) -> Result<(sys::CUmodule, String), RuntimeError> {
    let (mut info, mut errors) = (vec![0u8; LOG_BYTES], vec![0u8; LOG_BYTES]);
    let mut options = [
        CUjit_option::CU_JIT_INFO_LOG_BUFFER,
        CUjit_option::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        CUjit_option::CU_JIT_LOG_VERBOSE,
    ];
    // Numbers stand in the place of pointers; the sizes are overwritten with what was used.
    let number = |n: usize| std::ptr::without_provenance_mut::<c_void>(n);
    let mut values = [
        info.as_mut_ptr().cast(),
        number(LOG_BYTES),
        errors.as_mut_ptr().cast(),
        number(LOG_BYTES),
        number(1),
    ];
    let mut module = std::ptr::null_mut();
    // SAFETY: the context is current; the image ends with 0; there are as many values as options, and both buffers are as
    // long as said and outlive the call.
    let result = unsafe {
        sys::cuModuleLoadDataEx(
            &mut module,
            image.as_ptr().cast(),
            options.len() as u32,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    match result.result() {
        Ok(()) => Ok((module, log(&info))),
        Err(err) => {
            let (why, said) = (text(err), [log(&errors), log(&info)].join("\n"));
            let message = format!("the CUDA driver refuses the PTX: {why}\n{}", said.trim());
            Err(RuntimeError::internal("load", message))
        }
    }
}

/// The text before the first 0.
fn log(buffer: &[u8]) -> String {
    let end = buffer.iter().position(|b| *b == 0).unwrap_or(buffer.len());
    String::from_utf8_lossy(&buffer[..end]).trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_end_at_the_first_zero() {
        assert_eq!(log(b"ptxas info : 3 bytes spill\n\0rest"), "ptxas info : 3 bytes spill");
        assert_eq!(log(b"full"), "full");
        assert_eq!(log(&[]), "");
    }
}
