//! Targets and their facts: all that a schedule or a backend may know about a machine.
//!
//! The compiler is pure, so facts come in from the caller (`attn_runtime` measures the host). [`Target`] prints
//! to a stable text that is part of every cache key.

use std::fmt;

/// What code is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Cranelift, this instruction set and these caches.
    Cpu(CpuFacts),
    /// An NVIDIA GPU.
    Gpu(GpuArch),
}

impl Target {
    /// The name of the `schedule` clause that is for it.
    pub const fn family(&self) -> &'static str {
        match self {
            Target::Cpu(_) => "cpu",
            Target::Gpu(_) => "gpu",
        }
    }
}

/// NVIDIA architectures that can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuArch {
    /// Ampere A100.
    Sm80,
    /// Ampere consumer.
    Sm86,
    /// Ada.
    Sm89,
    /// Hopper with architecture-specific instructions.
    Sm90a,
}

impl GpuArch {
    /// Name as `--target` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            GpuArch::Sm80 => "sm_80",
            GpuArch::Sm86 => "sm_86",
            GpuArch::Sm89 => "sm_89",
            GpuArch::Sm90a => "sm_90a",
        }
    }

    /// Bytes of shared memory that a block of threads may have.
    pub const fn shared_bytes(self) -> usize {
        match self {
            GpuArch::Sm80 => 163 * 1024,
            GpuArch::Sm86 | GpuArch::Sm89 => 99 * 1024,
            GpuArch::Sm90a => 227 * 1024,
        }
    }

    /// All of them.
    pub const ALL: [GpuArch; 4] = [GpuArch::Sm80, GpuArch::Sm86, GpuArch::Sm89, GpuArch::Sm90a];
}

/// Instruction set for which Cranelift makes code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuArch {
    /// x86-64; without SSE4.1 and FMA, floor and fma become intrinsic calls.
    X86_64 {
        /// roundss, pmulld and friends.
        sse41: bool,
        /// vfmadd and AVX.
        fma: bool,
    },
    /// AArch64.
    Aarch64,
}

/// Facts of one CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuFacts {
    /// Instruction set.
    pub arch: CpuArch,
    /// Bytes of data L1 of a core.
    pub l1d: usize,
    /// Bytes of L2 of a core.
    pub l2: usize,
    /// Bytes of the last-level cache.
    pub l3: usize,
    /// Bits of the widest vector that the tile intrinsics use.
    pub vector_bits: usize,
    /// The tile intrinsics multiply pairs of bf16 in one instruction (AVX-512 BF16).
    pub pairs: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Gpu(arch) => f.write_str(arch.name()),
            Target::Cpu(cpu) => {
                match cpu.arch {
                    CpuArch::X86_64 { sse41, fma } => {
                        write!(
                            f,
                            "cpu x86_64{}{}",
                            if sse41 { "+sse4.1" } else { "" },
                            if fma { "+fma" } else { "" }
                        )?;
                    }
                    CpuArch::Aarch64 => f.write_str("cpu aarch64")?,
                }
                let k = |bytes: usize| bytes / 1024;
                let (simd, pairs) = (cpu.vector_bits, if cpu.pairs { "+bf16" } else { "" });
                write!(f, " simd{simd}{pairs} l1d={}K l2={}K l3={}K", k(cpu.l1d), k(cpu.l2), k(cpu.l3))
            }
        }
    }
}
