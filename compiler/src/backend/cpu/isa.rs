//! Sets Cranelift up for one CPU.
//!
//! Comes in: [`CpuFacts`]. Goes out: Cranelift's ISA with exactly the features that the facts name (never those
//! of the machine that compiles), the C calling convention of the platform, and what must be written out by
//! hand because an instruction is missing. Not here: whether the host can run the code.

use std::sync::Arc;

use cranelift_codegen::isa::{CallConv, LookupError, TargetIsa, lookup_by_name};
use cranelift_codegen::settings::{self, Configurable};

use crate::target::{CpuArch, CpuFacts};

use super::BackendError;

/// How much work goes into the code of a launch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// Loops over elements are in it: what can be shared is shared, and registers are allocated with care.
    Elements,
    /// Calls of intrinsics take its time: it is compiled in half as long.
    Calls,
}

/// Cranelift for one CPU.
pub(super) struct Isa {
    pub target: Arc<dyn TargetIsa>,
    /// Of the emitted functions and of the intrinsics.
    pub conv: CallConv,
    /// Floor and ceil are instructions. Where they are not, Cranelift would call a library.
    pub rounds: bool,
    /// Packed 32-bit arithmetic is complete, so that maps are worth vectorising.
    pub simd: bool,
}

impl Isa {
    pub fn new(facts: &CpuFacts, effort: Effort) -> Result<Isa, BackendError> {
        let fail = |e: &dyn std::fmt::Display| {
            BackendError::internal("isa", "Cranelift knows the settings that it is given", e.to_string())
        };
        let mut flags = settings::builder();
        let verifier = if cfg!(debug_assertions) { "true" } else { "false" };
        let (level, registers) = match effort {
            Effort::Elements => ("speed", "backtracking"),
            Effort::Calls => ("none", "single_pass"),
        };
        let of_effort = [("opt_level", level), ("regalloc_algorithm", registers)];
        for (name, value) in
            [("enable_probestack", "false"), ("enable_verifier", verifier)].into_iter().chain(of_effort)
        {
            flags.set(name, value).map_err(|e| fail(&e))?;
        }
        let mut builder = lookup_by_name(triple(facts.arch)).map_err(|e| no_backend(facts.arch, e))?;
        let mut rounds = true;
        if let CpuArch::X86_64 { sse41, fma } = facts.arch {
            rounds = sse41;
            let implied = [
                (sse41, &["has_sse3", "has_ssse3", "has_sse41"][..]),
                (fma, &["has_sse42", "has_avx", "has_fma"]),
            ];
            for name in implied.iter().filter(|(on, _)| *on).flat_map(|(_, names)| *names) {
                builder.enable(name).map_err(|e| fail(&e))?;
            }
        }
        let target = builder.finish(settings::Flags::new(flags)).map_err(|e| fail(&e))?;
        let conv = target.default_call_conv();
        Ok(Isa { target, conv, rounds, simd: rounds })
    }
}

/// The triple that names the platform's C calling convention.
fn triple(arch: CpuArch) -> &'static str {
    let windows = cfg!(target_os = "windows");
    let apple = cfg!(target_vendor = "apple");
    match arch {
        CpuArch::X86_64 { .. } if windows => "x86_64-pc-windows-msvc",
        CpuArch::X86_64 { .. } if apple => "x86_64-apple-darwin",
        CpuArch::X86_64 { .. } => "x86_64-unknown-linux-gnu",
        CpuArch::Aarch64 if windows => "aarch64-pc-windows-msvc",
        CpuArch::Aarch64 if apple => "aarch64-apple-darwin",
        CpuArch::Aarch64 => "aarch64-unknown-linux-gnu",
    }
}

fn no_backend(arch: CpuArch, e: LookupError) -> BackendError {
    BackendError::unsupported(
        format!("target {}", triple(arch)),
        format!(
            "this attnc was built with the Cranelift backend of its own host only ({e}); build on that machine"
        ),
    )
}
