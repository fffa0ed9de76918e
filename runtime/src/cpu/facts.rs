//! Facts of the host CPU, for schedules and cache keys.
//!
//! Comes in: /sys and the CPU's feature bits. Goes out: [`CpuFacts`]. Where the host hides its caches the
//! smallest sizes of current cores are taken: a tile that is too small costs little, one too large much.
//! Deliberately not measured: bandwidth and peak (see `peak.rs`).

use std::path::Path;
use std::sync::OnceLock;

use attn_compiler::target::{CpuArch, CpuFacts, Target};

use super::intrinsics::Isa;
use crate::error::{DataFault, RuntimeError};

const FALLBACK_L1D: usize = 32 << 10;
const FALLBACK_L2: usize = 512 << 10;
const FALLBACK_L3: usize = 8 << 20;

/// The CPU that this process runs on. Errors: an architecture for which no code can be made.
pub fn host_facts() -> Result<CpuFacts, RuntimeError> {
    static HOST: OnceLock<Result<CpuFacts, RuntimeError>> = OnceLock::new();
    HOST.get_or_init(|| {
        let caches = Caches::read(Path::new("/sys/devices/system/cpu/cpu0/cache"));
        Ok(CpuFacts {
            arch: host_arch()?,
            l1d: caches.l1d,
            l2: caches.l2,
            l3: caches.l3,
            vector_bits: vector_bits(host_isa()?),
            pairs: host_isa()? == Isa::Avx512Bf16,
        })
    })
    .clone()
}

/// The instruction set of the tile intrinsics on this host. Errors: `ATTN_ISA` names one that is not there.
pub fn host_isa() -> Result<Isa, RuntimeError> {
    Isa::detect().map_err(|err| RuntimeError::data(DataFault::Value, err))
}

/// Bits of the widest vector of an instruction set; a plain f32 is 32.
const fn vector_bits(isa: Isa) -> usize {
    match isa {
        Isa::Avx512Bf16 | Isa::Avx512 => 512,
        Isa::Avx2 => 256,
        Isa::Neon => 128,
        Isa::Portable => 32,
    }
}

/// The host as a target.
pub fn host_target() -> Result<Target, RuntimeError> {
    host_facts().map(Target::Cpu)
}

#[cfg(target_arch = "x86_64")]
fn host_arch() -> Result<CpuArch, RuntimeError> {
    Ok(CpuArch::X86_64 {
        sse41: std::arch::is_x86_feature_detected!("sse4.1"),
        fma: std::arch::is_x86_feature_detected!("fma") && std::arch::is_x86_feature_detected!("avx"),
    })
}

#[cfg(target_arch = "aarch64")]
fn host_arch() -> Result<CpuArch, RuntimeError> {
    Ok(CpuArch::Aarch64)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn host_arch() -> Result<CpuArch, RuntimeError> {
    Err(RuntimeError::unsupported(format!(
        "no code can be made for {}; attnc runs on x86-64 and AArch64",
        std::env::consts::ARCH
    )))
}

/// Refuses an artifact whose target this host is not. `target` is what [`Target`] prints.
pub(crate) fn check_target(target: &str, host: CpuArch) -> Result<(), RuntimeError> {
    let arch = target.strip_prefix("cpu ").and_then(|rest| rest.split(' ').next()).unwrap_or(target);
    let mut parts = arch.split('+');
    let name = parts.next().unwrap_or_default();
    let (host_name, features): (&str, &[(&str, bool)]) = match host {
        CpuArch::X86_64 { sse41, fma } => ("x86_64", &[("sse4.1", sse41), ("fma", fma)]),
        CpuArch::Aarch64 => ("aarch64", &[]),
    };
    let missing = parts.find(|f| !features.contains(&(f, true)));
    if name == host_name && missing.is_none() {
        return Ok(());
    }
    let reason = missing.filter(|_| name == host_name).map_or(String::new(), |f| format!(" without {f}"));
    Err(RuntimeError::unsupported(format!(
        "the kernel was made for `{target}`, this host is {host_name}{reason}; compile it for this host"
    )))
}

/// Data cache sizes in bytes.
struct Caches {
    l1d: usize,
    l2: usize,
    l3: usize,
}

impl Caches {
    /// Reads `index*/{{level,type,size}}`; a level that is not there keeps its fallback.
    fn read(dir: &Path) -> Caches {
        let mut caches = Caches { l1d: FALLBACK_L1D, l2: FALLBACK_L2, l3: FALLBACK_L3 };
        for n in 0..16 {
            let text = |file: &str| std::fs::read_to_string(dir.join(format!("index{n}/{file}"))).ok();
            let (Some(level), Some(kind), Some(size)) = (text("level"), text("type"), text("size")) else {
                continue;
            };
            let Some(size) = parse_size(size.trim()) else { continue };
            match (level.trim(), kind.trim()) {
                ("1", "Data" | "Unified") => caches.l1d = size,
                ("2", "Data" | "Unified") => caches.l2 = size,
                ("3", "Data" | "Unified") => caches.l3 = size,
                _ => {}
            }
        }
        caches
    }
}

/// `48K`, `2M`, `512`. Nothing for zero.
fn parse_size(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift).filter(|&n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_has_plausible_caches() {
        let host = host_facts().unwrap();
        assert!(host.l1d >= 8 << 10 && host.l1d <= 1 << 20, "{host:?}");
        assert!(host.l2 >= host.l1d && host.vector_bits >= 32, "{host:?}");
        check_target(&Target::Cpu(host.clone()).to_string(), host.arch).unwrap();
    }

    #[test]
    fn caches_are_read_from_files_and_default_without() {
        let dir = tempfile::tempdir().unwrap();
        let write = |n: usize, level: &str, kind: &str, size: &str| {
            let index = dir.path().join(format!("index{n}"));
            std::fs::create_dir(&index).unwrap();
            for (file, text) in [("level", level), ("type", kind), ("size", size)] {
                std::fs::write(index.join(file), format!("{text}\n")).unwrap();
            }
        };
        write(0, "1", "Data", "48K");
        write(1, "1", "Instruction", "64K");
        write(2, "2", "Unified", "2M");
        write(3, "3", "Unified", "nonsense");
        let caches = Caches::read(dir.path());
        assert_eq!((caches.l1d, caches.l2, caches.l3), (48 << 10, 2 << 20, FALLBACK_L3));
    }

    #[test]
    fn foreign_targets_are_refused() {
        let old = CpuArch::X86_64 { sse41: true, fma: false };
        assert!(check_target("cpu x86_64+sse4.1 simd128", old).is_ok());
        let err = check_target("cpu x86_64+sse4.1+fma simd256", old).unwrap_err();
        assert!(err.to_string().contains("without fma"), "{err}");
        assert!(check_target("cpu aarch64 simd128", old).is_err());
        assert!(check_target("sm_80", old).is_err());
    }
}
