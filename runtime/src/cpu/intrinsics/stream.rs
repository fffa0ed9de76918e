//! How rows that come from memory are asked for ahead of their use, on the machine at hand.
//!
//! In: the kind of core. Out: a distance in bytes. What holds: it changes times, never bits. Not here: the requests
//! (`direct.rs`), packing (`pack.rs`).

use std::sync::OnceLock;

/// Bytes of a line of every cache.
pub(super) const LINE: usize = 64;

/// Bytes ahead of the row at hand that products with rows in memory ask for; 0 leaves it to the machine's prefetchers.
///
/// Measured on decode steps of 16384 keys: Zen 5 reads 26 GB/s of 48 left alone and 42 with requests 12 KiB ahead;
/// Zen 4 reads 21 GB/s of 20 left alone (plain loops stop at every page) and 15 with requests, which take the few
/// places for misses from its prefetchers.
pub(super) fn ahead() -> isize {
    static AHEAD: OnceLock<isize> = OnceLock::new();
    *AHEAD.get_or_init(|| if is_zen5() { 12 << 10 } else { 0 })
}

#[cfg(target_arch = "x86_64")]
fn is_zen5() -> bool {
    use std::arch::x86_64::__cpuid;
    let vendor = __cpuid(0);
    let amd = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD";
    amd && family(__cpuid(1).eax) == 0x1a
}

#[cfg(not(target_arch = "x86_64"))]
fn is_zen5() -> bool {
    false
}

/// The family in the signature of an x86 processor.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "x86 only"))]
fn family(signature: u32) -> u32 {
    match (signature >> 8) & 0xf {
        0xf => 0xf + ((signature >> 20) & 0xff),
        base => base,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_read() {
        assert_eq!(family(0x00b0_0f21), 0x1a, "Zen 5");
        assert_eq!(family(0x00a1_0f11), 0x19, "Zen 4");
        assert_eq!(family(0x0005_0657), 6, "Cascade Lake");
    }

    #[test]
    fn the_distance_is_whole_lines() {
        assert_eq!(ahead() % LINE as isize, 0);
    }
}
