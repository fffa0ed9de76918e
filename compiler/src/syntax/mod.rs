//! From text to a syntax tree and back.
//!
//! `parse` reads (pest grammar in `attn.pest`), `print` writes a tree as canonical text, `fmt` formats a file and
//! keeps its comments. Nothing here knows what a name means.

pub mod ast;
pub mod print;
