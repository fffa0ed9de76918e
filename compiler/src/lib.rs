//! attn-compiler
pub mod artifact;
