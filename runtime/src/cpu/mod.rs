//! The CPU target: tile intrinsics and measures of the machine.

pub mod intrinsics;
pub mod peak;
