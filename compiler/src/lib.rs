//! attn-compiler
