//! The CPU: facts of the host, executable memory, launching over threads, the tile intrinsics.
//!
//! Comes in: machine code and argument blocks made elsewhere in this crate. Goes out: results in the caller's
//! memory. Deliberately not here: what the arguments mean (`crate::bind`).

pub(crate) mod exec_mem;
pub mod facts;
pub mod intrinsics;
pub(crate) mod launch;
pub mod model;
pub mod peak;
pub(crate) mod placement;
pub(crate) mod pool;
pub mod threads;
