//! Memory of a GPU, copies and launches, all on one stream.
//!
//! Comes in: bytes of the host, launches whose parameters are known. Goes out: bytes; an error where a kernel failed. What
//! holds: whatever a copy reads or writes lives until the stream has been waited for, also where a run fails half way;
//! memory is freed after that. A kernel fault ends the context of the process: the error says so.
//! Deliberately not done: pinned memory, several streams.

use cudarc::driver::{DriverError, result, sys};

use super::{Gpu, Module, broken, text};
use crate::device::seam::{Launch, LaunchReport, Memory};
use crate::device::span::{Elements, Span, zeroed};
use crate::error::RuntimeError;

/// A stream of its own, in order, independent of every other.
pub(crate) struct Stream {
    pub gpu: Gpu,
    pub handle: sys::CUstream,
}

// SAFETY: a stream may be used from every thread that the context is current on.
unsafe impl Send for Stream {}
// SAFETY: as for Send.
unsafe impl Sync for Stream {}

impl Stream {
    pub fn new(gpu: &Gpu) -> Result<Stream, RuntimeError> {
        gpu.bind()?;
        let handle = result::stream::create(result::stream::StreamKind::NonBlocking);
        Ok(Stream { gpu: gpu.clone(), handle: handle.map_err(|e| broken("a stream", e))? })
    }

    /// Waits for everything.
    pub fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.handle) }
    }

    /// As [`Stream::wait`], for launches of this name. Errors: one of them failed.
    pub fn wait_for(&self, launches: &str) -> Result<(), RuntimeError> {
        self.gpu.bind()?;
        self.wait().map_err(|e| fault(&self.gpu, launches, e))
    }

    /// Writes elements to the bytes that they span, after everything before; they are there when it returns.
    pub fn upload(&self, addr: u64, from: &Elements<'_>) -> Result<(), RuntimeError> {
        self.gpu.bind()?;
        let image = from.image()?;
        // SAFETY: the memory at `addr` has as many bytes as the span; the image lives until the wait.
        let copied = unsafe { result::memcpy_htod_async(addr, &image, self.handle) };
        let waited = self.wait();
        copied.and(waited).map_err(|e| broken("a copy to the GPU", e))
    }

    /// The bytes that a tensor spans, after everything before.
    pub fn download(&self, addr: u64, span: &Span) -> Result<Vec<u8>, RuntimeError> {
        let mut image = zeroed(span.bytes)?;
        self.wait_for("a run before")?;
        // SAFETY: the memory at `addr` has as many bytes as the span; the image is not touched before the wait.
        let copied = unsafe { result::memcpy_dtoh_async(&mut image, addr, self.handle) };
        let waited = self.wait();
        copied.and(waited).map_err(|e| broken("a copy from the GPU", e))?;
        Ok(image)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: the handle is given up here; what is still in flight ends by itself.
            let _ = unsafe { result::stream::destroy(self.handle) };
        }
    }
}

/// An allocation, freed with it. Nothing on the GPU may use it then.
pub(crate) struct Buffer {
    gpu: Gpu,
    /// 0 for no bytes.
    pub addr: sys::CUdeviceptr,
}

impl Buffer {
    /// Unwritten bytes.
    pub fn new(gpu: &Gpu, name: &str, bytes: usize) -> Result<Buffer, RuntimeError> {
        gpu.bind()?;
        // Kernels read element 0 of a tensor without elements.
        let bytes = bytes.max(16);
        // SAFETY: the bytes are raw memory until something writes them.
        let addr = unsafe { result::malloc_sync(bytes) };
        let addr = addr.map_err(|e| broken(&format!("the {bytes} bytes of `{name}`"), e))?;
        Ok(Buffer { gpu: gpu.clone(), addr })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.addr != 0 && self.gpu.bind().is_ok() {
            // SAFETY: it was allocated by `new` and is given up here.
            let _ = unsafe { result::free_sync(self.addr) };
        }
    }
}

/// Memory of one run.
pub(crate) struct GpuMemory<'a> {
    module: &'a Module,
    stream: Stream,
    buffers: Vec<Buffer>,
    /// Images that copies read.
    staged: Vec<Vec<u8>>,
    /// Entries launched so far, for the text of a fault.
    launched: Vec<String>,
}

impl<'a> GpuMemory<'a> {
    pub fn new(module: &'a Module) -> Result<GpuMemory<'a>, RuntimeError> {
        let stream = Stream::new(&module.gpu)?;
        Ok(GpuMemory { module, stream, buffers: vec![], staged: vec![], launched: vec![] })
    }
}

impl Drop for GpuMemory<'_> {
    fn drop(&mut self) {
        // Copies may still read what is staged and launches use the buffers, after an error; fields are dropped next.
        let _ = self.stream.wait();
    }
}

/// A launch that the driver refuses, or that failed.
pub(crate) fn fault(gpu: &Gpu, launches: &str, err: DriverError) -> RuntimeError {
    let detail = format!(
        "{}\nCUDA_LAUNCH_BLOCKING=1 names the launch that failed, the simulator (target `sim:...`) the instruction; after \
         a fault the GPU cannot be used by this process any more",
        text(err)
    );
    RuntimeError::fault(launches, gpu.name(), detail)
}

impl Memory for GpuMemory<'_> {
    fn alloc(&mut self, name: &str, bytes: usize) -> Result<u64, RuntimeError> {
        let buffer = Buffer::new(&self.module.gpu, name, bytes)?;
        let addr = buffer.addr;
        self.buffers.push(buffer);
        Ok(addr)
    }

    fn upload(&mut self, addr: u64, from: &Elements<'_>) -> Result<(), RuntimeError> {
        if from.span.is_one_run() {
            return from.for_each_run(&mut |at, run| {
                // SAFETY: the buffer at `addr` has as many bytes as the span; the bytes are borrowed by the call, which
                // outlives `self`, and so the wait for the stream.
                let copied = unsafe { result::memcpy_htod_async(addr + at as u64, run, self.stream.handle) };
                copied.map_err(|e| broken("a copy to the GPU", e))
            });
        }
        let image = from.image()?;
        // SAFETY: the buffer at `addr` has as many bytes as the span, the image is kept until the stream was waited for.
        let copied = unsafe { result::memcpy_htod_async(addr, &image, self.stream.handle) };
        self.staged.push(image);
        copied.map_err(|e| broken("a copy to the GPU", e))
    }

    fn download(&mut self, name: &str, addr: u64, span: &Span) -> Result<Vec<u8>, RuntimeError> {
        let mut image = zeroed(span.bytes)?;
        // SAFETY: the buffer at `addr` has as many bytes as the span; the image is not touched before the wait, which
        // is also reached where the copy is refused.
        let copied = unsafe { result::memcpy_dtoh_async(&mut image, addr, self.stream.handle) };
        let waited = self.stream.wait();
        copied.and(waited).map_err(|e| broken(&format!("the copy of `{name}` from the GPU"), e))?;
        Ok(image)
    }

    fn launch(&mut self, n: usize, launch: &Launch<'_>) -> Result<Option<LaunchReport>, RuntimeError> {
        // SAFETY: `bind` has checked what the words describe, addresses are those of buffers that live in `self` and are
        // as large as the tensors; the artifact promises that its code is right for such words.
        unsafe { self.module.enqueue(n, launch, self.stream.handle) }?;
        self.launched.push(launch.name.to_string());
        Ok(None)
    }

    fn finish(&mut self) -> Result<(), RuntimeError> {
        self.stream
            .wait()
            .map_err(|e| fault(&self.module.gpu, &format!("launch `{}`", self.launched.join("` or `")), e))
    }
}
