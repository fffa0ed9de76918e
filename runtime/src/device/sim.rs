//! The simulator of PTX as a device: memory that notices what was never written, launches that look for faults.
//!
//! Comes in: the PTX of an artifact, bytes, launches. Goes out: bytes, counts, or the whole text of a fault. What holds:
//! every run has memory of its own; bytes between strided rows and workspace are unwritten, so that a kernel which
//! reads them is found out. Deliberately not done: time.

use attn_ptx_sim::{Arg, Buffer, Device, Element, LaunchOptions, Module, Shape, Swizzle, TensorMap};

use super::maps::MapArgs;
use super::seam::{COUNTER, Launch, LaunchReport, Memory};
use super::span::{Elements, Span, zeroed};
use crate::error::RuntimeError;
use attn_compiler::artifact::DType;

/// Larger tensors are not simulated: the simulator keeps a flag for each byte.
const MAX_BYTES: usize = 1 << 32;
/// Persistent blocks at once, by the seed: no kernel may depend on it.
const AT_ONCE: [u32; 4] = [3, 1, 2, 5];

/// Parses the PTX. Errors: the simulator does not know something in it.
pub(super) fn load(code: &[u8]) -> Result<Module, RuntimeError> {
    let text = super::ptx_text(code)?;
    Module::parse(text)
        .map_err(|err| RuntimeError::internal("load", format!("the simulator refuses the PTX: {err}")))
}

/// Memory of one run.
pub(super) struct Simulator<'a> {
    memory: Device,
    module: &'a Module,
    seed: u64,
}

impl<'a> Simulator<'a> {
    pub fn new(module: &'a Module, seed: u64) -> Simulator<'a> {
        Simulator { memory: Device::new(), module, seed }
    }
}

impl Memory for Simulator<'_> {
    fn alloc(&mut self, name: &str, bytes: usize) -> Result<u64, RuntimeError> {
        Ok(alloc(&mut self.memory, name, bytes)?.addr())
    }

    fn upload(&mut self, addr: u64, from: &Elements<'_>) -> Result<(), RuntimeError> {
        upload(&mut self.memory, addr, from)
    }

    fn download(&mut self, name: &str, addr: u64, span: &Span) -> Result<Vec<u8>, RuntimeError> {
        download(&self.memory, addr, span, &|detail| {
            let what = format!("the launches have ended and `{name}` is not written everywhere: {detail}");
            RuntimeError::fault("the kernel", &format!("the simulator (seed {})", self.seed), what)
        })
    }

    fn launch(&mut self, _: usize, launch: &Launch<'_>) -> Result<Option<LaunchReport>, RuntimeError> {
        self::launch(&mut self.memory, self.module, self.seed, launch).map(Some)
    }

    fn finish(&mut self) -> Result<(), RuntimeError> {
        Ok(())
    }
}

/// Unwritten bytes; of none 16 zeros, since kernels read element 0 of a tensor without elements. Errors: too many.
pub(super) fn alloc(memory: &mut Device, name: &str, bytes: usize) -> Result<Buffer<u8>, RuntimeError> {
    if bytes > MAX_BYTES {
        return Err(RuntimeError::unsupported(format!(
            "`{name}` has {bytes} bytes, the simulator takes tensors of 4 GiB at most; use shorter sequences"
        )));
    }
    if bytes == 0 {
        return Ok(memory.upload(name, &[0u8; 16]));
    }
    Ok(memory.alloc(name, bytes))
}

/// Writes the elements to the bytes that they span.
pub(super) fn upload(memory: &mut Device, addr: u64, from: &Elements<'_>) -> Result<(), RuntimeError> {
    from.for_each_run(&mut |at, run| {
        memory.write_at(addr + at as u64, run).map_err(|e| RuntimeError::internal("upload", e))
    })
}

/// The bytes that a tensor spans. Errors: nothing has written one of its elements, in the words of `unwritten`.
pub(super) fn download(
    memory: &Device,
    addr: u64,
    span: &Span,
    unwritten: &dyn Fn(String) -> RuntimeError,
) -> Result<Vec<u8>, RuntimeError> {
    let mut image = zeroed(span.bytes)?;
    span.for_each_run(&mut |at| {
        let bytes = memory.read_at(addr + at as u64, span.run).map_err(unwritten)?;
        image[at..at + span.run].copy_from_slice(bytes);
        Ok(())
    })?;
    Ok(image)
}

/// A tensor map as the simulator takes it. Errors: one that no driver would make, which is a bug.
fn encode(map: &MapArgs) -> Result<TensorMap, RuntimeError> {
    let element = if map.dtype == DType::Bf16 { Element::Bf16 } else { Element::F16 };
    let steps = vec![1; map.dims.len()];
    TensorMap::tiled(element, map.addr, &map.dims, &map.strides, &map.box_dims, &steps, Swizzle::B128)
        .map_err(|e| RuntimeError::internal("launch", e.to_string()))
}

/// Runs a launch to its end.
pub(super) fn launch(
    memory: &mut Device,
    module: &Module,
    seed: u64,
    launch: &Launch<'_>,
) -> Result<LaunchReport, RuntimeError> {
    let spec = launch.device;
    let blocks = launch.blocks(AT_ONCE[seed as usize % AT_ONCE.len()]);
    let shape = Shape { dynamic_smem: spec.shared_bytes, ..Shape::linear(blocks, spec.threads) };
    let at = spec.words.iter().position(|&w| w == 0).filter(|_| spec.persistent);
    let counter = at.map(|n| launch.words[n]);
    if let Some(at) = counter {
        // A launch that ended in a fault may have left it at any number.
        memory.write_at(at, &COUNTER).map_err(|e| RuntimeError::internal("launch", e))?;
    }
    let mut args: Vec<Arg> = launch.words.iter().map(|&w| Arg::U64(w)).collect();
    for map in launch.maps {
        args.push(Arg::Map(encode(map)?));
    }
    let options = LaunchOptions::seed(seed);
    let counts = memory.launch(module, &spec.kernel, shape, &args, &options).map_err(|fault| {
        RuntimeError::fault(
            &format!("launch `{}`", launch.name),
            &format!("the simulator (seed {seed})"),
            fault,
        )
    })?;
    let left = counter.map(|at| memory.read_at(at, COUNTER.len())).transpose();
    if left.map_err(|e| RuntimeError::internal("launch", e))?.is_some_and(|left| left != COUNTER) {
        let what = "the counter of tasks is not 0 after the launch";
        return Err(RuntimeError::fault(&format!("launch `{}`", launch.name), "the simulator", what));
    }
    let (kernel, launch_name) = (spec.kernel.clone(), launch.name.to_string());
    Ok(LaunchReport {
        launch: launch_name,
        kernel,
        blocks,
        tasks: launch.tasks,
        threads: spec.threads,
        counts,
    })
}
