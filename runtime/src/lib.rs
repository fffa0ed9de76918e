//! attn-runtime
pub mod cpu;
