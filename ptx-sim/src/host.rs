//! The host's side: modules, device memory, launches.
//!
//! Comes in: PTX text, data, arguments. Goes out: a [`Report`] or a [`Fault`]. What holds: a launch is refused before it runs
//! if arguments, sizes or limits do not fit the kernel; blocks run one after another in random order.

use std::marker::PhantomData;

use crate::decode;
use crate::exec::Rng;
use crate::exec::block::{Block, Launch};
use crate::exec::global::Global;
use crate::fault::{Fault, ParseError};
use crate::isa::{Kernel, Table};
use crate::report::{Report, Stats};
use crate::tensor_map::{TENSOR_MAP_BYTES, TensorMap};
use crate::{cfg, parse};

/// When copies in flight end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lateness {
    /// As late as their waits allow.
    Late,
    /// As soon as something else happens.
    Early,
    /// Each as the seed decides.
    Random,
}

/// How many blocks of how many threads, with how much dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub dynamic_smem: u32,
}

impl Shape {
    /// `grid` blocks of `block` threads in one dimension, without dynamic shared memory.
    pub fn linear(grid: u32, block: u32) -> Self {
        Self { grid: [grid, 1, 1], block: [block, 1, 1], dynamic_smem: 0 }
    }
}

/// How to run a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchOptions {
    /// Decides the order of warps and blocks and what else the machine leaves open.
    pub seed: u64,
    /// When copies in flight end.
    pub lateness: Lateness,
    /// Instructions of warps after which the launch is given up.
    pub max_steps: u64,
}

impl Default for LaunchOptions {
    fn default() -> Self {
        Self { seed: 0, lateness: Lateness::Random, max_steps: 200_000_000 }
    }
}

impl LaunchOptions {
    /// Options of a seed; every third seed is all late, every third all early, the others mixed.
    pub fn seed(seed: u64) -> Self {
        let lateness = [Lateness::Late, Lateness::Random, Lateness::Early][(seed % 3) as usize];
        Self { seed, lateness, ..Self::default() }
    }
}

/// A parsed module.
pub struct Module {
    pub(crate) kernels: Vec<Kernel>,
    meets: Vec<Vec<u32>>,
    tables: Vec<Table>,
}

impl Module {
    /// Parses and decodes PTX text.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let (kernels, tables) = decode::module(&parse::module(text)?)?;
        let meets = kernels.iter().map(|k| cfg::postdominators(&k.code)).collect();
        Ok(Self { kernels, meets, tables })
    }

    /// Names of the kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(|k| k.name.as_str())
    }
}

mod sealed {
    pub trait Plain: Copy {
        const BYTES: usize;
        fn put(self, out: &mut Vec<u8>);
        fn take(bytes: &[u8]) -> Self;
    }
}

/// Types that device memory holds.
pub trait Scalar: sealed::Plain {}

macro_rules! scalars {
    ($($ty:ty: $bytes:expr),*) => {$(
        impl sealed::Plain for $ty {
            const BYTES: usize = $bytes;
            fn put(self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
            fn take(bytes: &[u8]) -> Self {
                let mut raw = [0; $bytes];
                raw.copy_from_slice(bytes);
                <$ty>::from_le_bytes(raw)
            }
        }
        impl Scalar for $ty {}
    )*};
}

scalars!(u8: 1, i8: 1, u16: 2, i16: 2, u32: 4, i32: 4, u64: 8, i64: 8, f32: 4, f64: 8, half::f16: 2, half::bf16: 2);

/// An allocation of `len` elements in device memory.
#[derive(Debug)]
pub struct Buffer<T> {
    addr: u64,
    len: usize,
    of: PhantomData<T>,
}

impl<T> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Buffer<T> {}

impl<T: Scalar> Buffer<T> {
    /// The device address.
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address as an argument.
    pub fn arg(&self) -> Arg {
        Arg::U64(self.addr)
    }
}

/// An argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// 16 bits.
    U16(u16),
    /// 32 bits.
    U32(u32),
    /// 64 bits, or an address.
    U64(u64),
    /// Signed 32 bits.
    I32(i32),
    /// Signed 64 bits.
    I64(i64),
    /// Single precision.
    F32(f32),
    /// Double precision.
    F64(f64),
    /// A tensor map by value.
    Map(TensorMap),
    /// Any bytes by value.
    Bytes(Vec<u8>),
}

impl Arg {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::U16(v) => v.to_le_bytes().to_vec(),
            Self::U32(v) => v.to_le_bytes().to_vec(),
            Self::U64(v) => v.to_le_bytes().to_vec(),
            Self::I32(v) => v.to_le_bytes().to_vec(),
            Self::I64(v) => v.to_le_bytes().to_vec(),
            Self::F32(v) => v.to_le_bytes().to_vec(),
            Self::F64(v) => v.to_le_bytes().to_vec(),
            Self::Map(map) => map.to_bytes().to_vec(),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// Device memory.
#[derive(Default)]
pub struct Device {
    global: Global,
}

impl Device {
    /// An empty device.
    pub fn new() -> Self {
        Self::default()
    }

    /// Unwritten memory of `len` elements; `name` stands in faults.
    pub fn alloc<T: Scalar>(&mut self, name: &str, len: usize) -> Buffer<T> {
        Buffer { addr: self.global.alloc(len * T::BYTES, name), len, of: PhantomData }
    }

    /// Memory that holds `data`.
    pub fn upload<T: Scalar>(&mut self, name: &str, data: &[T]) -> Buffer<T> {
        let buffer = self.alloc(name, data.len());
        self.write(buffer, data);
        buffer
    }

    /// Overwrites the first elements of a buffer. More data than the buffer holds is cut off.
    pub fn write<T: Scalar>(&mut self, buffer: Buffer<T>, data: &[T]) {
        let mut bytes = Vec::with_capacity(data.len() * T::BYTES);
        data.iter().take(buffer.len).for_each(|v| v.put(&mut bytes));
        // A buffer of this device always has room for this many bytes; one that was freed takes nothing.
        let _freed = self.global.write(buffer.addr, &bytes).is_err();
    }

    /// The elements of a buffer, or which of them nothing has written.
    pub fn download<T: Scalar>(&self, buffer: Buffer<T>) -> Result<Vec<T>, String> {
        let bytes = self.global.read(buffer.addr, buffer.len * T::BYTES).map_err(|t| t.detail)?;
        Ok(bytes.chunks(T::BYTES).map(T::take).collect())
    }

    /// Overwrites bytes from an address on. Errors: they are not all in one allocation.
    pub fn write_at(&mut self, addr: u64, bytes: &[u8]) -> Result<(), String> {
        self.global.write(addr, bytes).map_err(|t| t.detail)
    }

    /// Bytes from an address on. Errors: they are not all in one allocation, or nothing has written one of them.
    pub fn read_at(&self, addr: u64, len: usize) -> Result<&[u8], String> {
        self.global.read(addr, len).map_err(|t| t.detail)
    }

    /// Ends an allocation: later accesses are faults.
    pub fn free<T: Scalar>(&mut self, buffer: Buffer<T>) {
        self.global.free(buffer.addr);
    }

    /// Runs a kernel over the blocks of a shape.
    ///
    /// Module variables in global memory start anew at every launch.
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &str,
        shape: Shape,
        args: &[Arg],
        options: &LaunchOptions,
    ) -> Result<Report, Fault> {
        let refuse = |detail: String| Fault::Launch { kernel: kernel.to_string(), detail };
        let Some(n) = module.kernels.iter().position(|k| k.name == kernel) else {
            return Err(refuse("no such kernel in the module".into()));
        };
        let k = &module.kernels[n];
        check_shape(k, shape).map_err(refuse)?;
        let params = parameters(k, args).map_err(refuse)?;
        let mut tables = Vec::new();
        for table in &module.tables {
            let addr = self.global.alloc(table.bytes.len(), &table.name);
            if table.init {
                self.global.write(addr, &table.bytes).map_err(|t| refuse(t.detail))?;
            }
            tables.push(addr);
        }
        let launch = Launch {
            kernel: k,
            meets: &module.meets[n],
            params: &params,
            options,
            tables: &tables,
            grid: shape.grid,
            dims: shape.block,
            dynamic: shape.dynamic_smem,
        };
        let mut stats = Stats::new(k);
        let result = run_blocks(&launch, &mut self.global, &mut stats);
        tables.iter().for_each(|t| self.global.free(*t));
        result.map(|()| stats.report(k, k.shared_bytes + shape.dynamic_smem))
    }
}

fn run_blocks(launch: &Launch, global: &mut Global, stats: &mut Stats) -> Result<(), Fault> {
    let [x, y, z] = launch.grid;
    let mut ids: Vec<[u32; 3]> = Vec::with_capacity((x * y * z) as usize);
    for k in 0..z {
        for j in 0..y {
            ids.extend((0..x).map(|i| [i, j, k]));
        }
    }
    let mut rng = Rng(launch.options.seed.wrapping_mul(0x2545_F491_4F6C_DD1D).wrapping_add(1));
    for n in (1..ids.len()).rev() {
        ids.swap(n, rng.below(n + 1));
    }
    for id in ids {
        let own = Rng(rng.next());
        Block::new(launch, id, own, global, stats).run()?;
    }
    Ok(())
}

/// Shared memory that a block may have on a target.
fn shared_limit(target: u32) -> u32 {
    match target {
        80 | 87 => 163 * 1024,
        86 | 89 => 99 * 1024,
        90 => 227 * 1024,
        _ => 96 * 1024,
    }
}

fn check_shape(k: &Kernel, shape: Shape) -> Result<(), String> {
    let Shape { grid, block, dynamic_smem: dynamic } = shape;
    let threads: u64 = block.iter().map(|n| u64::from(*n)).product();
    if grid.contains(&0) || threads == 0 || threads > 1024 {
        return Err(format!("grid {grid:?}, block {block:?}: 1 to 1024 threads, no empty dimension"));
    }
    if grid.iter().map(|n| u64::from(*n)).product::<u64>() > 1 << 24 {
        return Err(format!("grid {grid:?} is too large to simulate"));
    }
    let most = |max: [u32; 3]| max.iter().map(|n| u64::from(*n)).product::<u64>();
    if let Some(max) = k.max_threads.filter(|max| threads > most(*max)) {
        return Err(format!("block {block:?} exceeds .maxntid {max:?}"));
    }
    if k.req_threads.is_some_and(|r| r != block) {
        return Err(format!("block {block:?} is not the .reqntid {:?}", k.req_threads));
    }
    let total = k.shared_bytes.saturating_add(dynamic);
    let limit = shared_limit(k.target);
    if total > limit {
        return Err(format!("{total} bytes of shared memory; sm_{} has {limit} for a block", k.target));
    }
    if dynamic > 0 && k.dynamic.is_none() {
        return Err("dynamic shared memory for a kernel that uses none".into());
    }
    Ok(())
}

fn parameters(k: &Kernel, args: &[Arg]) -> Result<Vec<u8>, String> {
    if args.len() != k.params.len() {
        return Err(format!("{} arguments for {} parameters", args.len(), k.params.len()));
    }
    let mut out = vec![0; k.param_bytes as usize];
    for (arg, param) in args.iter().zip(&k.params) {
        let bytes = arg.bytes();
        let map = matches!(arg, Arg::Map(_));
        if bytes.len() != param.size as usize || (map && !param.offset.is_multiple_of(64)) {
            return Err(format!(
                "parameter `{}` has {} bytes at offset {}, the argument {} (a tensor map is {TENSOR_MAP_BYTES}, aligned to 64)",
                param.name,
                param.size,
                param.offset,
                bytes.len()
            ));
        }
        out[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    Ok(out)
}
