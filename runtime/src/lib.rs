//! attn-runtime
