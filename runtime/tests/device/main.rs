//! Devices from outside: hand-written PTX in artifacts, run in the simulator after the same checks as on the CPU.

#[path = "../runtime/kernels.rs"]
#[allow(dead_code)]
mod kernels;
mod packages;
mod persistent;
mod ptx;
mod resident;
mod simulated;
