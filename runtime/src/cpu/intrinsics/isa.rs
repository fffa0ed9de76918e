//! Which instruction set the intrinsics use.
//!
//! In: the processor, and the environment variable `ATTN_ISA`. Out: an [`Isa`] that this machine has.
//! Not here: the kernels (`table.rs` binds them).

use std::fmt;

/// Environment variable that overrides the choice: `avx512bf16`, `avx512`, `avx2`, `neon` or
/// `portable`.
pub const ISA_VARIABLE: &str = "ATTN_ISA";

/// An instruction set that the intrinsics are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX-512 F, BW, DQ, VL and BF16.
    Avx512Bf16,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AArch64 NEON.
    Neon,
    /// Plain Rust.
    Portable,
}

/// `ATTN_ISA` asks for what cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsaError {
    asked: String,
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
        write!(
            f,
            "{ISA_VARIABLE}={} names no instruction set that this machine has: expected one of {}; \
             unset {ISA_VARIABLE} to take the best",
            self.asked,
            names.join(", ")
        )
    }
}

impl std::error::Error for IsaError {}

impl Isa {
    /// All, best first.
    pub const ALL: [Isa; 5] = [Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable];

    /// The name used in `ATTN_ISA` and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }

    /// The instruction sets of this machine, best first; never empty.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512.is_available() && std::is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                std::is_x86_feature_detected!("avx512f")
                    && std::is_x86_feature_detected!("avx512bw")
                    && std::is_x86_feature_detected!("avx512dq")
                    && std::is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                std::is_x86_feature_detected!("avx2")
                    && std::is_x86_feature_detected!("fma")
                    && std::is_x86_feature_detected!("f16c")
            }
            Isa::Portable => true,
            other => other == Isa::Neon && cfg!(target_arch = "aarch64"),
        }
    }

    /// The best instruction set of this machine, or the one that `ATTN_ISA` names.
    ///
    /// # Errors
    /// [`IsaError`] where `ATTN_ISA` names one that does not exist or that this machine lacks.
    pub fn detect() -> Result<Isa, IsaError> {
        Isa::choose(std::env::var_os(ISA_VARIABLE).as_deref().map(|v| v.to_string_lossy()).as_deref())
    }

    /// [`Isa::detect`] with the value of the variable given.
    pub(crate) fn choose(asked: Option<&str>) -> Result<Isa, IsaError> {
        let available = Isa::available();
        match asked {
            None | Some("") => Ok(available[0]),
            Some(name) => available
                .into_iter()
                .find(|isa| isa.name() == name)
                .ok_or_else(|| IsaError { asked: name.to_owned() }),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
