//! The attnc compiler: `.attn` text to an [`artifact::Artifact`].
//!
//! Pure: no I/O but the sources it is given, no threads, no device. The stages stand in `pipeline.rs`, in order.

pub mod artifact;
pub mod attn_ir;
pub mod backend;
pub mod diagnostic;
pub mod ensure;
pub mod expr;
pub mod f8;
pub mod host;
pub mod lower;
pub mod mask;
pub mod passes;
pub mod pipeline;
pub mod schedule;
pub mod sema;
pub mod syntax;
pub mod target;
pub mod tile_ir;
pub mod tolerance;
