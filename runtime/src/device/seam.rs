//! What a run needs of a device, and the one way of running on any.
//!
//! Comes in: a context that `bind` has filled, the call it was filled for. Goes out: outputs in the caller's memory. What
//! holds: everything that the CPU path checks was checked; addresses of the host in the argument block are replaced by
//! those of the device, all other words are the same; launches run in order, those with an empty grid not at all; the
//! caller's memory is written only after the last launch has ended well, and only where elements are.
//! Deliberately not done: keeping memory between runs (see `resident`).

use attn_compiler::artifact::{DeviceLaunch, TensorRole};

use super::maps::{self, MapArgs};
use super::span::{Elements, Span, scatter};
use crate::bind::{Call, RunContext};
use crate::error::{DataFault, RuntimeError};
use crate::signature::Signature;

/// The most blocks that one dimension of a grid can have.
const MAX_BLOCKS: usize = i32::MAX as usize;

/// What one launch on a simulated device did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchReport {
    /// Name of the launch.
    pub launch: String,
    /// Entry in the PTX.
    pub kernel: String,
    /// Blocks.
    pub blocks: u32,
    /// Tasks: as many as blocks, or more where these are persistent.
    pub tasks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Instructions of warps, bank conflicts, shared memory.
    pub counts: attn_ptx_sim::Report,
}

/// A launch whose parameters are known.
pub(crate) struct Launch<'a> {
    pub name: &'a str,
    pub device: &'a DeviceLaunch,
    pub tasks: u32,
    pub words: &'a [u64],
    /// Tensor maps behind the words.
    pub maps: &'a [MapArgs],
    /// It is the form with maps: another entry of the module (the simulator goes by its name).
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub mapped: bool,
}

impl Launch<'_> {
    /// Blocks to launch on a device that holds so many at once.
    pub fn blocks(&self, at_once: u32) -> u32 {
        if self.device.persistent { self.tasks.min(at_once.max(1)) } else { self.tasks }
    }
}

/// What a counter of tasks holds between launches.
pub(super) const COUNTER: [u8; 4] = [0; 4];

/// Does a launch of the artifact count tasks?
pub(super) fn counts_tasks(sig: &Signature) -> bool {
    let forms = sig.artifact.launches.iter().filter_map(|launch| launch.device.as_ref());
    forms.clone().chain(forms.filter_map(|d| d.mapped.as_ref().map(|m| &m.launch))).any(|d| d.persistent)
}

/// Memory of a device for one run; what it allocated is freed with it.
pub(super) trait Memory {
    /// Unwritten bytes, aligned to 256; 0 bytes have an address too.
    fn alloc(&mut self, name: &str, bytes: usize) -> Result<u64, RuntimeError>;
    /// Writes the elements of a tensor to the bytes that it spans.
    fn upload(&mut self, addr: u64, from: &Elements<'_>) -> Result<(), RuntimeError>;
    /// The bytes that a tensor spans, once all launches have ended; anything between its elements.
    fn download(&mut self, name: &str, addr: u64, span: &Span) -> Result<Vec<u8>, RuntimeError>;
    /// Launches the n-th of the artifact, in order with everything before.
    fn launch(&mut self, n: usize, launch: &Launch<'_>) -> Result<Option<LaunchReport>, RuntimeError>;
    /// Waits for all launches. Errors: one of them failed.
    fn finish(&mut self) -> Result<(), RuntimeError>;
}

/// Tasks of the n-th launch. Errors: more than a grid can have blocks.
pub(super) fn tasks(sig: &Signature, ctx: &RunContext, n: usize) -> Result<u32, RuntimeError> {
    let tasks = ctx.n_tasks[n];
    u32::try_from(tasks).ok().filter(|_| tasks <= MAX_BLOCKS).ok_or_else(|| {
        let name = &sig.artifact.launches[n].name;
        let message = format!(
            "launch `{name}` has {tasks} tasks, a grid has {MAX_BLOCKS} blocks at most; use shorter lengths or a smaller batch"
        );
        RuntimeError::data(DataFault::Size, message)
    })
}

/// Runs all launches on a device, for a context that has just been bound for this call.
pub(super) fn run(
    sig: &Signature,
    ctx: &mut RunContext,
    call: &mut Call<'_, '_, '_>,
    memory: &mut dyn Memory,
    observer: Option<&(dyn Fn(&LaunchReport) + Sync)>,
) -> Result<(), RuntimeError> {
    let addresses = upload(sig, ctx, call, memory)?;
    ground_empty(sig, &mut ctx.args);
    if counts_tasks(sig) {
        let counter = memory.alloc("the counter of tasks", COUNTER.len())?;
        memory.upload(counter, &Elements::of_bytes(&COUNTER))?;
        ctx.args[0] = counter;
    }
    let mut words = Vec::new();
    for (n, launch) in sig.artifact.launches.iter().enumerate() {
        let Some(device) = &launch.device else {
            return Err(RuntimeError::internal("launch", format!("`{}` is for a CPU", launch.name)));
        };
        let tasks = tasks(sig, ctx, n)?;
        if tasks == 0 {
            continue;
        }
        let (form, maps) = maps::form(sig, &ctx.args, device);
        words.clear();
        words.extend(form.words.iter().map(|&w| ctx.args[w as usize]));
        let report = memory.launch(
            n,
            &Launch {
                name: &launch.name,
                device: form,
                tasks,
                words: &words,
                maps: &maps,
                mapped: !std::ptr::eq(form, device),
            },
        )?;
        if let (Some(report), Some(observer)) = (report, observer) {
            observer(&report);
        }
    }
    memory.finish()?;
    let mut images = Vec::with_capacity(sig.outputs.len());
    for &t in &sig.outputs {
        let view = &call.outputs[ctx.bound[t]].1;
        let (name, span) = (&sig.artifact.tensors[t].name, Span::of(view.geometry()));
        images.push(if span.bytes == 0 { vec![] } else { memory.download(name, addresses[t], &span)? });
    }
    for (&t, image) in sig.outputs.iter().zip(&images) {
        scatter(image, &mut call.outputs[ctx.bound[t]].1);
    }
    Ok(())
}

/// A kernel that reads a tensor without elements reads the bytes that it has instead, whatever the indices: its strides
/// become 0.
pub(super) fn ground_empty(sig: &Signature, args: &mut [u64]) {
    for (t, spec) in sig.artifact.tensors.iter().enumerate() {
        let dims = 0..spec.shape.len();
        if dims.clone().any(|d| args[sig.layout.size(t, d)] == 0) {
            dims.for_each(|d| args[sig.layout.stride(t, d)] = 0);
        }
    }
}

/// Gives every tensor of the table memory on the device, copies what is read, and writes the addresses into the argument
/// block. The address of the lowest byte of each tensor.
fn upload(
    sig: &Signature,
    ctx: &mut RunContext,
    call: &mut Call<'_, '_, '_>,
    memory: &mut dyn Memory,
) -> Result<Vec<u64>, RuntimeError> {
    let mut addresses = Vec::with_capacity(sig.artifact.tensors.len());
    for (t, spec) in sig.artifact.tensors.iter().enumerate() {
        let elements = match &spec.role {
            TensorRole::Input => Elements::of(&call.inputs[ctx.bound[t]].1),
            TensorRole::Output | TensorRole::Updated => Elements::of_mut(&mut call.outputs[ctx.bound[t]].1),
            TensorRole::Table { .. } => {
                let n = sig.tables.iter().position(|&x| x == t);
                Elements::of_bytes(n.map(|n| ctx.tables[n].buf.bytes()).unwrap_or_default())
            }
            TensorRole::Workspace => {
                let bytes = crate::bind::tensor_bytes(sig, t, &ctx.sizes[t]).unwrap_or(0);
                let addr = memory.alloc(&spec.name, bytes)?;
                addresses.push(addr);
                ctx.args[sig.layout.address(t)] = addr;
                continue;
            }
        };
        let addr = memory.alloc(&spec.name, elements.span.bytes)?;
        if !matches!(spec.role, TensorRole::Output) && elements.span.bytes > 0 {
            memory.upload(addr, &elements)?;
        }
        let first = addr.wrapping_add(elements.span.first as u64);
        addresses.push(addr);
        ctx.args[sig.layout.address(t)] = first;
    }
    Ok(addresses)
}
