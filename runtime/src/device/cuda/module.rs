//! PTX in a GPU: compiled by the driver, its entries ready to be launched.
//!
//! Comes in: an artifact's code and launches. Goes out: a [`Module`]. What holds: every launch has its entry, with leave
//! for its shared memory; the module is unloaded when nobody needs it. The driver's log is kept: it tells of spills and
//! serialised products. Deliberately not done: the driver's own cache of compiled PTX, which it looks after itself.

use std::ffi::{CString, c_void};

use attn_compiler::artifact::{DType, DeviceLaunch, LaunchSpec};
use cudarc::driver::DriverError;
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUfunction_attribute_enum, CUjit_option};

use super::memory::fault;
use super::{Gpu, text};
use crate::device::maps::MapArgs;
use crate::device::seam::Launch;
use crate::error::RuntimeError;

/// A kernel has at most 4 KiB of parameters on every GPU.
const MAX_WORDS: usize = 512;
/// Tensor maps of a launch at most.
const MAX_MAPS: usize = 16;
/// Bytes of each of the driver's two logs.
const LOG_BYTES: usize = 16 << 10;

/// Loaded code.
pub(crate) struct Module {
    pub gpu: Gpu,
    handle: sys::CUmodule,
    /// Of each launch, and of its form with maps.
    entries: Vec<(Entry, Option<Entry>)>,
    /// What the driver had to say.
    pub log: String,
}

/// A kernel that can be launched.
#[derive(Clone, Copy)]
struct Entry {
    function: sys::CUfunction,
    /// Blocks that the GPU holds at once; looked up where the kernel is persistent.
    at_once: u32,
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
            let mapped = device.mapped.as_ref().map(|m| module.entry(&m.launch)).transpose()?;
            let entry = module.entry(device)?;
            module.entries.push((entry, mapped));
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
        let n_params = launch.words.len() + launch.maps.len();
        let entries = self.entries.get(n).filter(|_| n_params <= MAX_WORDS);
        let entry = entries.and_then(|(all, mapped)| if launch.mapped { *mapped } else { Some(*all) });
        let Some(entry) = entry else {
            let what = format!("`{}` has no entry or more than {MAX_WORDS} words", launch.name);
            return Err(RuntimeError::internal("launch", what));
        };
        let mut params = [std::ptr::null_mut::<c_void>(); MAX_WORDS];
        for (param, word) in params.iter_mut().zip(launch.words) {
            *param = std::ptr::from_ref(word).cast_mut().cast();
        }
        let mut encoded = [EMPTY_MAP; MAX_MAPS];
        if launch.maps.len() > MAX_MAPS {
            let what = format!("`{}` takes more than {MAX_MAPS} tensor maps", launch.name);
            return Err(RuntimeError::internal("launch", what));
        }
        for (n, (place, map)) in encoded.iter_mut().zip(launch.maps).enumerate() {
            encode(place, map)?;
            params[launch.words.len() + n] = std::ptr::from_mut(place).cast();
        }
        let (grid, block) = ((launch.blocks(entry.at_once), 1, 1), (launch.device.threads, 1, 1));
        let (params, shared) = (&mut params[..n_params], launch.device.shared_bytes);
        // SAFETY: promised by the caller; the entry is of this module, which outlives the launch (whoever launches
        // waits before it lets go of the kernel); the driver reads the parameters before it returns.
        unsafe { result::launch_kernel(entry.function, grid, block, shared, stream, params) }
            .map_err(|e| fault(&self.gpu, &format!("launch `{}`", launch.name), e))
    }

    fn entry(&self, launch: &DeviceLaunch) -> Result<Entry, RuntimeError> {
        let failed = |what: &str, err: DriverError| {
            let message = format!("entry `{}` of the PTX {what}: {}", launch.kernel, text(err));
            RuntimeError::internal("load", message)
        };
        let name = CString::new(launch.kernel.as_str())
            .map_err(|_| RuntimeError::internal("load", "the name of an entry holds a byte of value 0"))?;
        // SAFETY: the module is loaded and lives as long as the entry is used.
        let function = unsafe { result::module::get_function(self.handle, name) }
            .map_err(|e| failed("is not there", e))?;
        if launch.shared_bytes > 0 {
            let what = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(launch.shared_bytes).unwrap_or(i32::MAX);
            // SAFETY: the entry was just found in a loaded module.
            unsafe { result::function::set_function_attribute(function, what, bytes) }.map_err(|e| {
                let gpu = &self.gpu.name;
                failed(&format!("cannot have {bytes} bytes of shared memory on {gpu}"), e)
            })?;
        }
        let at_once = if launch.persistent { self.at_once(function, launch)? } else { 1 };
        Ok(Entry { function, at_once })
    }

    /// Blocks of a kernel that the GPU holds at once.
    fn at_once(&self, function: sys::CUfunction, launch: &DeviceLaunch) -> Result<u32, RuntimeError> {
        let failed = |e| {
            let message = format!("how many blocks of `{}` fit is not known: {}", launch.kernel, text(e));
            RuntimeError::internal("load", message)
        };
        let (threads, shared) = (launch.threads as i32, launch.shared_bytes as usize);
        // SAFETY: the function is one of a loaded module.
        let of_one =
            unsafe { result::occupancy::max_active_block_per_multiprocessor(function, threads, shared) };
        let blocks =
            of_one.map_err(failed)?.max(1).saturating_mul(self.gpu.multiprocessors().map_err(failed)?);
        Ok(u32::try_from(blocks).unwrap_or(1))
    }
}

/// A map's 128 bytes, aligned to 64, before they are written.
const EMPTY_MAP: sys::CUtensorMap = sys::CUtensorMap { opaque: [0; 16] };

/// Writes the driver's form of a tensor map. Errors: the driver refuses it.
fn encode(place: &mut sys::CUtensorMap, map: &MapArgs) -> Result<(), RuntimeError> {
    let dtype = match map.dtype {
        DType::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        _ => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
    };
    let steps = [1u32; 5];
    // SAFETY: the arrays have as many elements as the rank says (one less for strides), at most 5; the driver reads them
    // and writes the 128 bytes before it returns.
    let status = unsafe {
        sys::cuTensorMapEncodeTiled(
            place,
            dtype,
            map.dims.len() as u32,
            map.addr as *mut c_void,
            map.dims.as_ptr(),
            map.strides.as_ptr(),
            map.box_dims.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    status.result().map_err(|e| {
        RuntimeError::internal("launch", format!("the driver refuses a tensor map {map:?}: {}", text(e)))
    })
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
