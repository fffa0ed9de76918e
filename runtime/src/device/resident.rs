//! Tensors that stay on a device, and calls that are bound once and run many times.
//!
//! Comes in: host tensors to be copied once, or addresses of a host program's own device memory. Goes out: a
//! [`DeviceTensor`], and from several of them a [`BoundRun`]. What holds: a call is checked as every other when it is
//! bound; contents that a check has read cannot change while it is bound; memory lives as long as something bound
//! needs it. A run allocates nothing, waits for nothing and copies nothing, so that a CUDA graph can capture it.
//! Deliberately not done: contents of other tensors (nobody looks at them), resizing, moving between devices.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use attn_compiler::artifact::{ContentDemand, DType, TensorRole};

use super::maps::{self, MapArgs};
use super::seam::{self, Launch};
use super::span::{Elements, Span, scatter};
use super::{Device, Program, sim};
use crate::bind::{self, Call, Facts, NamedInput, NamedOutput, NamedParam, RunContext};
use crate::error::{DataFault, RuntimeError};
use crate::geometry::Geometry;
use crate::kernel::{LoadedKernel, RunOptions};
use crate::signature::Signature;
use crate::tensor::{Tensor, TensorView, TensorViewMut};

/// Memory of one device. Clones are the same.
#[derive(Clone)]
pub struct DeviceSpace(Arc<Place>);

enum Place {
    Simulator(Mutex<attn_ptx_sim::Device>),
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::Stream),
}

impl std::fmt::Debug for DeviceSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &*self.0 {
            Place::Simulator(_) => "DeviceSpace(simulator)",
            #[cfg(feature = "cuda")]
            Place::Cuda(_) => "DeviceSpace(GPU)",
        })
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DeviceSpace {
    /// Memory of this device; on a GPU with a stream of its own. Errors: the host and no device at all have none.
    pub fn new(device: &Device) -> Result<DeviceSpace, RuntimeError> {
        let place = match device {
            Device::Simulator => Place::Simulator(Mutex::default()),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => Place::Cuda(super::cuda::Stream::new(gpu)?),
            Device::Host | Device::Machine(_) | Device::Absent => {
                return Err(RuntimeError::unsupported(
                    "tensors stay on a GPU or in the simulator; kernels for the CPU read the host's memory as it is",
                ));
            }
        };
        Ok(DeviceSpace(Arc::new(place)))
    }

    /// A contiguous tensor that nothing has written. `name` stands in messages. Errors: the device has no such memory.
    pub fn empty(&self, name: &str, dtype: DType, shape: &[usize]) -> Result<DeviceTensor, RuntimeError> {
        let geometry = Geometry::contiguous(dtype, shape)?;
        let memory = self.alloc(name, Span::of(&geometry).bytes)?;
        let first = memory.addr();
        let uses = Mutex::default();
        Ok(DeviceTensor { held: Arc::new(Held { space: self.clone(), memory, uses }), geometry, first })
    }

    /// A contiguous copy of a host tensor. Errors: as [`DeviceSpace::empty`].
    pub fn upload(&self, name: &str, view: &TensorView<'_>) -> Result<DeviceTensor, RuntimeError> {
        let tensor = self.empty(name, view.dtype(), view.shape())?;
        tensor.write(view)?;
        Ok(tensor)
    }

    /// Waits for all runs so far. Errors: one of them failed.
    pub fn wait(&self) -> Result<(), RuntimeError> {
        match &*self.0 {
            Place::Simulator(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Place::Cuda(stream) => stream.wait_for("a run before"),
        }
    }

    fn alloc(&self, name: &str, bytes: usize) -> Result<Memory, RuntimeError> {
        match &*self.0 {
            Place::Simulator(device) => Ok(Memory::Simulated(sim::alloc(&mut locked(device), name, bytes)?)),
            #[cfg(feature = "cuda")]
            Place::Cuda(stream) => Ok(Memory::Cuda(super::cuda::Buffer::new(&stream.gpu, name, bytes)?)),
        }
    }

    fn write(&self, addr: u64, from: &Elements<'_>) -> Result<(), RuntimeError> {
        match &*self.0 {
            Place::Simulator(device) => sim::upload(&mut locked(device), addr, from),
            #[cfg(feature = "cuda")]
            Place::Cuda(stream) => stream.upload(addr, from),
        }
    }

    fn read(&self, addr: u64, span: &Span) -> Result<Vec<u8>, RuntimeError> {
        match &*self.0 {
            Place::Simulator(device) => sim::download(&locked(device), addr, span, &|detail| {
                let message = format!(
                    "a tensor on the device is read before it was written: {detail}; upload or run first"
                );
                RuntimeError::data(DataFault::Missing, message)
            }),
            #[cfg(feature = "cuda")]
            Place::Cuda(stream) => stream.download(addr, span),
        }
    }

    fn is(&self, other: &DeviceSpace) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Memory behind tensors.
enum Memory {
    Simulated(attn_ptx_sim::Buffer<u8>),
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::Buffer),
    /// The host program's own; the address of its lowest byte.
    #[cfg(feature = "cuda")]
    Foreign(u64),
}

impl Memory {
    fn addr(&self) -> u64 {
        match self {
            Memory::Simulated(buffer) => buffer.addr(),
            #[cfg(feature = "cuda")]
            Memory::Cuda(buffer) => buffer.addr,
            #[cfg(feature = "cuda")]
            Memory::Foreign(addr) => *addr,
        }
    }
}

struct Held {
    space: DeviceSpace,
    memory: Memory,
    uses: Mutex<Uses>,
}

/// How many live bindings have checked the contents, and how many write them.
#[derive(Default)]
struct Uses {
    checked: usize,
    written: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        match (&*self.space.0, &self.memory) {
            (Place::Simulator(device), Memory::Simulated(buffer)) => locked(device).free(*buffer),
            // A buffer of a GPU frees itself.
            #[cfg(feature = "cuda")]
            _ => {}
        }
    }
}

/// A tensor in the memory of a device.
pub struct DeviceTensor {
    held: Arc<Held>,
    geometry: Geometry,
    /// Address of the element at index 0.
    first: u64,
}

impl std::fmt::Debug for DeviceTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceTensor({}{:?})", self.dtype(), self.shape())
    }
}

impl DeviceTensor {
    /// A tensor in device memory of the host program: of another library, say. Strides count elements.
    ///
    /// Errors: an address that is not aligned to the elements; a rank or size that is too large.
    ///
    /// # Safety
    /// All elements from index 0 at `first` lie in memory of the space's GPU that lives as long as the tensor and
    /// what is bound to it; nobody writes contents that a check has read, or touches what a run is using.
    #[cfg(feature = "cuda")]
    pub unsafe fn from_raw(
        space: &DeviceSpace,
        first: u64,
        dtype: DType,
        shape: &[usize],
        strides: &[isize],
    ) -> Result<DeviceTensor, RuntimeError> {
        let geometry = Geometry::strided(dtype, shape, strides)?;
        let span = Span::of(&geometry);
        if !first.is_multiple_of(dtype.size() as u64) {
            let message = format!("device address {first:#x} is not aligned to {dtype}; copy the tensor");
            return Err(RuntimeError::data(DataFault::View, message));
        }
        let memory = Memory::Foreign(first.wrapping_sub(span.first as u64));
        let held = Held { space: space.clone(), memory, uses: Mutex::default() };
        Ok(DeviceTensor { held: Arc::new(held), geometry, first })
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        self.geometry.dtype()
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.geometry.shape()
    }

    /// Device address of the element at index 0.
    pub fn address(&self) -> u64 {
        self.first
    }

    /// Overwrites it with a host tensor of the same type and shape; waits for runs so far. Errors: another type or shape;
    /// a live binding has checked the contents.
    pub fn write(&self, view: &TensorView<'_>) -> Result<(), RuntimeError> {
        self.same(view.geometry())?;
        // Held until the end: nobody begins to check what is being written.
        let uses = locked(&self.held.uses);
        if uses.checked > 0 {
            return Err(RuntimeError::data(
                DataFault::Fact,
                "the contents of the tensor were checked when it was bound and must not change; drop the binding, write, \
                 and bind again",
            ));
        }
        let copy;
        let view = if view.geometry() == &self.geometry {
            view
        } else {
            copy = view.to_tensor()?;
            &copy.view()
        };
        self.held.space.write(self.held.memory.addr(), &Elements::of(view))
    }

    /// Copies it to a host tensor of the same type and shape, once runs so far have ended. Errors: another type or shape; a
    /// run that failed; in the simulator: an element that nothing has written.
    pub fn read_into(&self, view: &mut TensorViewMut<'_>) -> Result<(), RuntimeError> {
        self.same(view.geometry())?;
        let image = self.held.space.read(self.held.memory.addr(), &Span::of(&self.geometry))?;
        if view.geometry() == &self.geometry {
            scatter(&image, view);
            return Ok(());
        }
        // Both have their elements in the same order of index, at different places.
        let size = self.dtype().size() as isize;
        let (from, to) = (Span::of(&self.geometry).first as isize, *view.geometry());
        let mut moved = super::span::zeroed(Span::of(&to).bytes)?;
        let low = Span::of(&to).first as isize;
        to.for_each_index(&mut |index| {
            let (Some(a), Some(b)) = (self.geometry.offset_of(index), to.offset_of(index)) else { return };
            let (a, b, n) = ((from + a * size) as usize, (low + b * size) as usize, size as usize);
            moved[b..b + n].copy_from_slice(&image[a..a + n]);
        });
        scatter(&moved, view);
        Ok(())
    }

    /// A host copy. Errors: as [`DeviceTensor::read_into`].
    pub fn to_tensor(&self) -> Result<Tensor, RuntimeError> {
        let mut tensor = Tensor::zeros(self.dtype(), self.shape())?;
        self.read_into(&mut tensor.view_mut())?;
        Ok(tensor)
    }

    fn same(&self, other: &Geometry) -> Result<(), RuntimeError> {
        if other.dtype() == self.dtype() && other.shape() == self.shape() {
            return Ok(());
        }
        let message = format!(
            "the tensor on the device is {}{:?}, the host's {}{:?}; make them agree",
            self.dtype(),
            self.shape(),
            other.dtype(),
            other.shape()
        );
        Err(RuntimeError::data(DataFault::Size, message))
    }

    fn range(&self) -> (usize, usize) {
        self.geometry.byte_range(self.first as usize)
    }
}

/// A tensor on a device, by name.
pub type NamedDeviceTensor<'a> = (&'a str, &'a DeviceTensor);

/// A use of a tensor by a binding; ends with it.
struct Use {
    held: Arc<Held>,
    checked: bool,
    written: bool,
}

impl Use {
    fn begin(tensor: &DeviceTensor, name: &str, checked: bool, written: bool) -> Result<Use, RuntimeError> {
        let mut uses = locked(&tensor.held.uses);
        if (written && uses.checked > 0) || (checked && uses.written > 0) {
            let message = format!(
                "the contents of `{name}` are checked by one binding and written by another; give them tensors of their own"
            );
            return Err(RuntimeError::data(DataFault::Overlap, message));
        }
        uses.checked += usize::from(checked);
        uses.written += usize::from(written);
        Ok(Use { held: tensor.held.clone(), checked, written })
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut uses = locked(&self.held.uses);
        uses.checked -= usize::from(self.checked);
        uses.written -= usize::from(self.written);
    }
}

/// A call that was checked and whose memory stands: to be run any number of times.
pub struct BoundRun {
    kernel: LoadedKernel,
    space: DeviceSpace,
    launches: Vec<BoundLaunch>,
    /// Bytes of workspace and tables that the binding holds.
    own_bytes: usize,
    _uses: Vec<Use>,
    _own: Vec<Held>,
}

impl std::fmt::Debug for BoundRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BoundRun({:?}, {} launches)", self.kernel, self.launches.len())
    }
}

impl Drop for BoundRun {
    fn drop(&mut self) {
        // Launches may still use the memory that is freed next; who wants their errors has waited already.
        let _ = self.space.wait();
    }
}

impl LoadedKernel {
    /// Binds tensors on a device, with all checks of a run; workspace and tables are allocated now.
    ///
    /// Errors: those of [`LoadedKernel::run`]; tensors of another space; a kernel that is not loaded on a device.
    pub fn bind_resident(
        &self,
        space: &DeviceSpace,
        inputs: &[NamedDeviceTensor<'_>],
        outputs: &[NamedDeviceTensor<'_>],
        params: &[NamedParam<'_>],
    ) -> Result<BoundRun, RuntimeError> {
        let sig = self.signature();
        space.fits(self)?;
        let mut uses = Vec::new();
        for (named, written) in inputs.iter().map(|n| (n, false)).chain(outputs.iter().map(|n| (n, true))) {
            let (name, tensor) = *named;
            if !tensor.held.space.is(space) {
                let message =
                    format!("`{name}` lies in another space of device memory; upload it to this one");
                return Err(RuntimeError::data(DataFault::View, message));
            }
            uses.push(Use::begin(tensor, name, is_checked(sig, name), written)?);
        }
        check_apart(inputs, outputs)?;
        let mut ctx = RunContext::new(sig);
        check(sig, &mut ctx, inputs, outputs, params)?;
        let own = place(sig, &mut ctx, space)?;
        seam::ground_empty(sig, &mut ctx.args);
        let own_bytes = own.iter().map(|(bytes, _)| bytes).sum();
        let mut launches = Vec::new();
        for (n, launch) in sig.artifact.launches.iter().enumerate() {
            let tasks = seam::tasks(sig, &ctx, n)?;
            let Some(device) = launch.device.as_ref().filter(|_| tasks > 0) else { continue };
            let (form, maps) = maps::form(sig, &ctx.args, device);
            let words = form.words.iter().map(|&w| ctx.args[w as usize]).collect();
            launches.push(BoundLaunch { n, tasks, words, maps, mapped: !std::ptr::eq(form, device) });
        }
        let _own = own.into_iter().map(|(_, held)| held).collect();
        Ok(BoundRun { kernel: self.clone(), space: space.clone(), launches, own_bytes, _uses: uses, _own })
    }
}

/// One launch, ready to be made again and again.
struct BoundLaunch {
    /// Its number in the artifact.
    n: usize,
    tasks: u32,
    words: Vec<u64>,
    maps: Vec<MapArgs>,
    /// It is the form with maps.
    mapped: bool,
}

impl BoundRun {
    /// Bytes of workspace and tables that it holds on the device.
    pub fn own_bytes(&self) -> usize {
        self.own_bytes
    }

    /// Puts all launches on the stream of the space: no allocation, no copy, no wait on a GPU. In the simulator they have
    /// ended when it returns.
    ///
    /// Errors: in the simulator a fault, after which outputs are what the launches so far have made of them; on a GPU a
    /// launch that is refused. Faults of kernels on a GPU are told by [`DeviceSpace::wait`].
    pub fn run(&self, options: &RunOptions<'_>) -> Result<(), RuntimeError> {
        match (&*self.space.0, self.kernel.program()) {
            (Place::Simulator(device), Some(Program::Simulated(module))) => {
                let mut device = locked(device);
                self.each(&mut |_, launch| {
                    let report = sim::launch(&mut device, module, options.sim_seed, launch)?;
                    if let Some(observer) = options.on_launch {
                        observer(&report);
                    }
                    Ok(())
                })
            }
            #[cfg(feature = "cuda")]
            // SAFETY: the stream is alive, and ordered with everything that this binding has launched there.
            (Place::Cuda(stream), _) => unsafe { self.run_on(stream.handle.cast()) },
            _ => Err(RuntimeError::internal("launch", "a binding on a device that its kernel is not on")),
        }
    }

    /// As [`BoundRun::run`], on a CUDA stream (`CUstream`) of the host program, which may be capturing a graph.
    ///
    /// # Safety
    /// The stream is one of the space's GPU and alive. Runs of one binding do not overlap: they share its workspace.
    /// The binding lives until the runs, those of a captured graph too, have ended.
    #[cfg(feature = "cuda")]
    pub unsafe fn run_on(&self, stream: *mut std::ffi::c_void) -> Result<(), RuntimeError> {
        let Some(Program::Cuda(module)) = self.kernel.program() else {
            return Err(RuntimeError::internal("launch", "a binding on a device that its kernel is not on"));
        };
        module.gpu.bind()?;
        self.each(&mut |n, launch| {
            // SAFETY: the words were made by `bind_resident`, which has checked what they describe; the binding holds the
            // memory. The rest is promised by the caller.
            unsafe { module.enqueue(n, launch, stream.cast()) }
        })
    }

    fn each(
        &self,
        f: &mut dyn FnMut(usize, &Launch<'_>) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        let specs = &self.kernel.artifact().launches;
        for BoundLaunch { n, tasks, words, maps, mapped } in &self.launches {
            let Some(general) = &specs[*n].device else { continue };
            let form = general.mapped.as_ref().filter(|_| *mapped).map(|m| &m.launch);
            let (device, mapped) = (form.unwrap_or(general), *mapped);
            f(*n, &Launch { name: &specs[*n].name, device, tasks: *tasks, words, maps, mapped })?;
        }
        Ok(())
    }
}

impl DeviceSpace {
    /// The kernel is loaded on the device of this space.
    fn fits(&self, kernel: &LoadedKernel) -> Result<(), RuntimeError> {
        let fits = match (&*self.0, kernel.program()) {
            (Place::Simulator(_), Some(Program::Simulated(_))) => true,
            #[cfg(feature = "cuda")]
            (Place::Cuda(stream), Some(Program::Cuda(module))) => stream.gpu.is(&module.gpu),
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let name = &kernel.artifact().name;
        let message =
            format!("kernel `{name}` is not loaded on the device of this memory; load it with `load_on`");
        Err(RuntimeError::data(DataFault::View, message))
    }
}

/// What is written on the device shares no byte with anything else.
fn check_apart(
    inputs: &[NamedDeviceTensor<'_>],
    outputs: &[NamedDeviceTensor<'_>],
) -> Result<(), RuntimeError> {
    for (n, (name, output)) in outputs.iter().enumerate() {
        for (other_name, other) in inputs.iter().chain(&outputs[..n]) {
            let (a, b) = (output.range(), other.range());
            if a.0 < a.1 && b.0 < b.1 && a.0 < b.1 && b.0 < a.1 {
                let message = format!(
                    "output `{name}` shares device memory with `{other_name}`; give the output memory of its own"
                );
                return Err(RuntimeError::data(DataFault::Overlap, message));
            }
        }
    }
    Ok(())
}

/// Does binding look at the contents of the tensor of this name?
fn is_checked(sig: &Signature, name: &str) -> bool {
    let demanded = |t: usize| {
        sig.artifact.demands.iter().any(|d| match d {
            ContentDemand::Within { tensor, .. } => tensor.0 as usize == t,
            ContentDemand::Pages { table, len, .. } => [table, len].iter().any(|x| x.0 as usize == t),
        })
    };
    let of_name = sig.artifact.tensors.iter().enumerate().filter(|(_, spec)| spec.name == name);
    of_name.into_iter().any(|(t, spec)| {
        let input = matches!(spec.role, TensorRole::Input);
        input && (spec.order != 0 || sig.scanned.contains(&t) || demanded(t))
    })
}

/// Makes all checks of a call and fills the argument block with device addresses of what is bound.
fn check(
    sig: &Signature,
    ctx: &mut RunContext,
    inputs: &[NamedDeviceTensor<'_>],
    outputs: &[NamedDeviceTensor<'_>],
    params: &[NamedParam<'_>],
) -> Result<(), RuntimeError> {
    let mut copies = Vec::new();
    for (name, tensor) in inputs.iter().filter(|(name, _)| is_checked(sig, name)) {
        copies.push((*name, tensor.to_tensor()?));
    }
    let view = |(name, tensor): &NamedDeviceTensor<'_>| {
        let copy = copies.iter().find(|(n, _)| n == name);
        // SAFETY: binding reads the contents of no tensor but those that `is_checked` names, of which there are copies.
        copy.map_or_else(|| unsafe { TensorView::detached(tensor.first, tensor.geometry) }, |(_, t)| t.view())
    };
    let host_inputs: Vec<NamedInput<'_, '_>> = inputs.iter().map(|n| (n.0, view(n))).collect();
    let mut host_outputs: Vec<NamedOutput<'_, '_>> = Vec::new();
    for (name, tensor) in outputs {
        tensor.geometry.check_distinct()?;
        // SAFETY: binding neither reads nor writes the elements of an output.
        host_outputs.push((name, unsafe { TensorViewMut::detached(tensor.first, tensor.geometry) }));
    }
    let mut call = Call { inputs: &host_inputs, outputs: &mut host_outputs, params, facts: Facts::Verify };
    bind::check(sig, ctx, &call)?;
    bind::fill(sig, ctx, &mut call);
    // Of copies the sizes are the same; addresses and strides are those of the tensor on the device.
    for &t in &sig.inputs {
        let tensor = inputs[ctx.bound[t]].1;
        bind::fill_bound(sig, &mut ctx.args, t, tensor.first, &tensor.geometry);
    }
    Ok(())
}

/// Allocates workspace, tables and a counter, fills the latter two, and writes the addresses into the argument block.
fn place(
    sig: &Signature,
    ctx: &mut RunContext,
    space: &DeviceSpace,
) -> Result<Vec<(usize, Held)>, RuntimeError> {
    let mut own = Vec::new();
    for &t in sig.tables.iter().chain(&sig.workspaces) {
        let bytes = bind::tensor_bytes(sig, t, &ctx.sizes[t]).unwrap_or(0);
        let memory = space.alloc(&sig.artifact.tensors[t].name, bytes)?;
        let held = Held { space: space.clone(), memory, uses: Mutex::default() };
        if let Some(n) = sig.tables.iter().position(|&x| x == t).filter(|_| bytes > 0) {
            space.write(held.memory.addr(), &Elements::of_bytes(ctx.tables[n].buf.bytes()))?;
        }
        ctx.args[sig.layout.address(t)] = held.memory.addr();
        own.push((bytes, held));
    }
    if seam::counts_tasks(sig) {
        let memory = space.alloc("the counter of tasks", seam::COUNTER.len())?;
        space.write(memory.addr(), &Elements::of_bytes(&seam::COUNTER))?;
        ctx.args[0] = memory.addr();
        let held = Held { space: space.clone(), memory, uses: Mutex::default() };
        own.push((seam::COUNTER.len(), held));
    }
    Ok(own)
}
