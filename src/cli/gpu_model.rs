//! The arithmetic of the performance model for GPUs: how long a launch takes at least, and what limits it.
//!
//! Comes in: facts of a machine, the work of a launch, what a block takes. Goes out: bounds in milliseconds, blocks that run
//! at the same time, waves. What holds: no figure is measured here; a bound is work divided by a peak, and the time is the
//! largest bound. Not modelled: latency, the L2's and the shared memory's own bandwidth, clocks that sink under load.

use attn_compiler::target::GpuArch;

/// A GPU that stands for its architecture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Name.
    pub name: &'static str,
    /// Multiprocessors.
    pub sms: f64,
    /// Boost clock, GHz.
    pub ghz: f64,
    /// Dense f16 or bf16 products with f32 sums, TFLOP/s.
    pub tensor_tflops: f64,
    /// f32 lanes of a multiprocessor: one multiply-add each in a clock.
    pub lanes: f64,
    /// Memory, TB/s.
    pub tbs: f64,
    /// Bytes of L2.
    pub l2: f64,
    /// Threads that a multiprocessor holds.
    pub threads: u32,
    /// Blocks that it holds.
    pub blocks: u32,
    /// Bytes of shared memory that it has, 1024 of which each block takes for itself.
    pub shared: u32,
}

/// Bytes that a multiprocessor takes from the L2 in a clock.
const FROM_L2: f64 = 64.0;
/// ex2 that a multiprocessor does in a clock.
const EX2: f64 = 16.0;
/// Registers of a multiprocessor.
const REGISTERS: u32 = 65536;
/// Bytes of shared memory that the system takes of each block.
const SYSTEM_SHARED: u32 = 1024;
/// Lanes of a warp.
const WARP: u32 = 32;

const MI: f64 = 1048576.0;

/// A100 SXM of 80 GB.
const A100: Machine = Machine {
    name: "A100",
    sms: 108.0,
    ghz: 1.41,
    tensor_tflops: 312.0,
    lanes: 64.0,
    tbs: 2.0,
    l2: 40.0 * MI,
    threads: 2048,
    blocks: 32,
    shared: 164 * 1024,
};

impl Machine {
    /// The machine for which figures are given.
    pub fn of(arch: GpuArch) -> Machine {
        match arch {
            GpuArch::Sm80 => A100,
            GpuArch::Sm86 => Machine {
                name: "GeForce RTX 3090",
                sms: 82.0,
                ghz: 1.695,
                tensor_tflops: 71.0,
                lanes: 128.0,
                tbs: 0.936,
                l2: 6.0 * MI,
                threads: 1536,
                blocks: 16,
                shared: 100 * 1024,
            },
            GpuArch::Sm89 => Machine {
                name: "GeForce RTX 4090",
                sms: 128.0,
                ghz: 2.52,
                tensor_tflops: 165.2,
                lanes: 128.0,
                tbs: 1.008,
                l2: 72.0 * MI,
                threads: 1536,
                blocks: 24,
                shared: 100 * 1024,
            },
            GpuArch::Sm90a => Machine {
                name: "H200",
                sms: 132.0,
                ghz: 1.83,
                tensor_tflops: 989.0,
                lanes: 128.0,
                tbs: 4.8,
                l2: 50.0 * MI,
                shared: 228 * 1024,
                ..A100
            },
        }
    }

    /// f32 multiply-adds, TFLOP/s.
    pub fn f32_tflops(&self) -> f64 {
        self.sms * self.lanes * 2.0 * self.ghz / 1e3
    }

    /// ex2 of the whole machine, T/s.
    pub fn ex2_tera(&self) -> f64 {
        self.sms * EX2 * self.ghz / 1e3
    }
}

/// What a block takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Threads.
    pub threads: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of shared memory.
    pub shared: u32,
}

/// How many blocks a multiprocessor runs at the same time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Residence {
    /// Blocks.
    pub blocks: u32,
    /// What there is no more of.
    pub limit: &'static str,
    /// Warps of those that it can hold.
    pub occupancy: f64,
}

/// Blocks of a multiprocessor, by threads, registers (allocated 8 a thread) and shared memory (128 bytes a piece).
pub fn residence(machine: &Machine, block: &Block) -> Residence {
    let warps = block.threads.div_ceil(WARP).max(1);
    let registers = block.registers.clamp(1, 255).next_multiple_of(8) * WARP * warps;
    let shared = (block.shared.saturating_add(SYSTEM_SHARED)).next_multiple_of(128);
    let limits = [
        (machine.threads / (warps * WARP), "threads"),
        (REGISTERS / registers, "registers"),
        (machine.shared / shared, "shared memory"),
        (machine.blocks, "blocks"),
    ];
    let (blocks, limit) = limits.into_iter().min_by_key(|(n, _)| *n).unwrap_or((0, "threads"));
    Residence { blocks, limit, occupancy: f64::from(blocks * warps * WARP) / f64::from(machine.threads) }
}

/// Bytes that come from memory of a tensor of which blocks ask for `asked` in all. Assumed: blocks that run at the same
/// time (`together`) and read the same rows bring them in once; a tensor that fits half of the L2 comes once.
pub fn from_memory(machine: &Machine, asked: f64, whole: f64, together: f64) -> f64 {
    if whole <= 0.0 || asked <= whole {
        return asked;
    }
    let times = if whole <= machine.l2 / 2.0 { 1.0 } else { (asked / whole / together.max(1.0)).max(1.0) };
    asked.min(whole * times)
}

/// The work of a launch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// FLOPs of products, as executed.
    pub products: f64,
    /// They run on the tensor cores.
    pub tensor_cores: bool,
    /// Exponentials.
    pub exps: f64,
    /// Bytes from and to memory.
    pub bytes: f64,
    /// Blocks.
    pub blocks: f64,
}

/// Bounds, in ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Products.
    pub products: f64,
    /// Exponentials.
    pub exps: f64,
    /// Memory.
    pub memory: f64,
    /// The largest of them.
    pub ms: f64,
    /// Which one it is.
    pub limiter: &'static str,
}

/// The bounds of a launch. Multiprocessors without a block do not count.
pub fn bounds(machine: &Machine, work: &Work) -> Bounds {
    let busy = (work.blocks / machine.sms).clamp(1.0 / machine.sms, 1.0);
    let tflops = if work.tensor_cores { machine.tensor_tflops } else { machine.f32_tflops() };
    let products = work.products / (tflops * busy * 1e9);
    let exps = work.exps / (machine.ex2_tera() * busy * 1e9);
    // Few multiprocessors cannot take all that memory gives.
    let tbs = machine.tbs.min(machine.sms * busy * FROM_L2 * machine.ghz / 1e3);
    let memory = work.bytes / (tbs * 1e9);
    let name = if work.tensor_cores { "tensor cores" } else { "FFMA" };
    let all = [(memory, "memory"), (products, name), (exps, "exp")];
    let (ms, limiter) = all.into_iter().fold((0.0, "nothing"), |a, b| if b.0 > a.0 { b } else { a });
    Bounds { products, exps, memory, ms, limiter }
}

/// How often the machine is filled with blocks.
pub fn waves(machine: &Machine, blocks: f64, resident: u32) -> f64 {
    blocks / (machine.sms * f64::from(resident.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-3 * b.abs(), "{a} is not {b}");
    }

    #[test]
    fn peaks_are_those_of_the_data_sheets() {
        near(Machine::of(GpuArch::Sm80).f32_tflops(), 19.49);
        near(Machine::of(GpuArch::Sm86).f32_tflops(), 35.58);
        near(Machine::of(GpuArch::Sm89).f32_tflops(), 82.58);
        near(Machine::of(GpuArch::Sm90a).f32_tflops(), 61.84);
        // 132 * 16 * 1.83e9
        near(Machine::of(GpuArch::Sm90a).ex2_tera(), 3.865);
    }

    /// Causal, bf16, B = 2, H = 16, S = 8192, D = 128: 4 B H S^2 D / 2 = 5.498e11 FLOPs, 0.556 ms at 989 TFLOP/s; half
    /// of B H S^2 exponentials, 1.074e9, 0.278 ms; q, k, v, o once are 268 MB, 0.056 ms at 4.8 TB/s.
    #[test]
    fn causal_on_hopper_is_bound_by_its_tensor_cores() {
        let (b, h, s, d) = (2.0, 16.0, 8192.0f64, 128.0);
        let work = Work {
            products: 4.0 * b * h * s * s * d / 2.0,
            tensor_cores: true,
            exps: b * h * s * s / 2.0,
            bytes: 4.0 * b * h * s * d * 2.0,
            blocks: b * h * s / 64.0,
        };
        near(work.products, 5.4976e11);
        let all = bounds(&Machine::of(GpuArch::Sm90a), &work);
        near(all.products, 0.55587);
        near(all.exps, 0.27782);
        near(all.memory, 0.05592);
        assert_eq!((all.ms, all.limiter), (all.products, "tensor cores"));
    }

    /// A tile of 128 x 128 at D = 64 takes 1024 clocks of products and 1024 of ex2 (gpu.md 1.0): within a percent, as the
    /// peak is 4095 FLOPs a clock here.
    #[test]
    fn exponentials_weigh_as_much_as_products_at_64_features() {
        let work = Work {
            products: 4.0 * 128.0 * 128.0 * 64.0,
            tensor_cores: true,
            exps: 128.0 * 128.0,
            bytes: 0.0,
            blocks: 132.0,
        };
        let all = bounds(&Machine::of(GpuArch::Sm90a), &work);
        assert!((all.products / all.exps - 1.0).abs() < 0.01, "{all:?}");
        let exact = bounds(&Machine::of(GpuArch::Sm90a), &Work { tensor_cores: false, ..work });
        assert_eq!(exact.limiter, "FFMA");
        near(exact.products / all.products, 989.0 / 61.84);
    }

    #[test]
    fn few_blocks_leave_multiprocessors_idle() {
        let machine = Machine::of(GpuArch::Sm80);
        let work = Work { products: 312e9, tensor_cores: true, blocks: 27.0, ..Work::default() };
        near(bounds(&machine, &work).ms, 4.0);
        near(bounds(&machine, &Work { blocks: 108.0, ..work }).ms, 1.0);
        assert_eq!(bounds(&machine, &Work::default()).limiter, "nothing");
        // 64 bytes a clock at 1.41 GHz: 23 multiprocessors take the 2 TB/s that there are, one 0.09.
        let read = |blocks| bounds(&machine, &Work { bytes: 2e9, blocks, ..Work::default() }).ms;
        near(read(108.0), 1.0);
        near(read(23.0), 1.0);
        near(read(1.0), 2000.0 / 90.24);
        near(waves(&machine, 432.0, 2), 2.0);
    }

    /// 128 threads of 168 registers: 65536 / (4 * 32 * 168) = 3; of 40 KB and 1 KB of the system's: 164 / 41 = 4.
    #[test]
    fn blocks_of_a_multiprocessor() {
        let machine = Machine::of(GpuArch::Sm80);
        let block = Block { threads: 128, registers: 168, shared: 40 * 1024 };
        let found = residence(&machine, &block);
        assert_eq!((found.blocks, found.limit), (3, "registers"));
        near(found.occupancy, 12.0 / 64.0);
        let found = residence(&machine, &Block { registers: 64, ..block });
        assert_eq!((found.blocks, found.limit), (4, "shared memory"));
        let found = residence(&machine, &Block { registers: 16, shared: 0, threads: 512 });
        assert_eq!((found.blocks, found.limit), (4, "threads"));
        near(found.occupancy, 1.0);
        let found = residence(&machine, &Block { threads: 32, registers: 32, shared: 0 });
        assert_eq!((found.blocks, found.limit), (32, "blocks"));
    }

    #[test]
    fn rows_that_many_blocks_read() {
        let machine = Machine::of(GpuArch::Sm80);
        let (mb, gb) = (1e6, 1e9);
        assert_eq!(from_memory(&machine, 1.0 * mb, 10.0 * mb, 216.0), 1.0 * mb, "a part is read");
        assert_eq!(from_memory(&machine, 1.0 * gb, 10.0 * mb, 216.0), 10.0 * mb, "it stays in the L2");
        assert_eq!(from_memory(&machine, 100.0 * gb, gb, 200.0), gb, "all that read a row run together");
        assert_eq!(from_memory(&machine, 1000.0 * gb, gb, 200.0), 5.0 * gb, "five waves read a row");
        assert_eq!(from_memory(&machine, 0.0, 0.0, 200.0), 0.0);
    }
}
