//! A simulator for the PTX that attnc emits, made to find faults.
//!
//! Comes in: PTX text, arguments, a seed. Goes out: what the kernel computes, counts of instructions and bank conflicts, or
//! a [`Fault`] that names the line, the block, the thread and the remedy. What holds: an opcode or modifier that is not
//! known is an error; what the PTX ISA leaves undefined (reading what was not waited for, races, missing fences,
//! divergent aligned instructions, bad addresses) is a fault and never a value. Not here: time, clusters of more than
//! one block, races between blocks. See the crate's README for what is modelled.
//!
//! ```
//! use attn_ptx_sim::{Arg, Device, LaunchOptions, Module, Shape};
//!
//! let ptx = "
//! .version 8.3
//! .target sm_80
//! .address_size 64
//! .visible .entry twice(.param .u64 x, .param .u32 n) {
//!     .reg .pred %p; .reg .b32 %r<4>; .reg .b64 %rd<3>; .reg .f32 %f<2>;
//!     mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.x;
//!     mad.lo.s32 %r0, %r0, %r1, %r2;
//!     ld.param.u32 %r3, [n];
//!     setp.ge.u32 %p, %r0, %r3;
//!     @%p ret;
//!     ld.param.u64 %rd0, [x];
//!     cvta.to.global.u64 %rd0, %rd0;
//!     mul.wide.u32 %rd1, %r0, 4;
//!     add.s64 %rd1, %rd0, %rd1;
//!     ld.global.f32 %f0, [%rd1];
//!     add.f32 %f0, %f0, %f0;
//!     st.global.f32 [%rd1], %f0;
//!     ret;
//! }";
//! let module = Module::parse(ptx)?;
//! let mut device = Device::new();
//! let x = device.upload("x", &[1.0f32, 2.0, 3.0]);
//! let args = [x.arg(), Arg::U32(3)];
//! let report = device.launch(&module, "twice", Shape::linear(1, 32), &args, &LaunchOptions::default())?;
//! assert_eq!(device.download(x)?, [2.0, 4.0, 6.0]);
//! assert_eq!(report.count("add.f32"), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ast;
mod cfg;
mod cursor;
mod decode;
mod exec;
mod fault;
mod host;
mod isa;
mod parse;
mod report;
mod tensor_map;

pub use fault::{Fault, FaultKind, ParseError, Site, Waiting};
pub use host::{Arg, Buffer, Device, Lateness, LaunchOptions, Module, Scalar, Shape};
pub use report::{BankConflict, Report};
pub use tensor_map::{Element, Swizzle, TENSOR_MAP_BYTES, TensorMap, TensorMapError};
