//! From text to a syntax tree and back.
//!
//! `parse` reads (pest grammar in `attn.pest`; `clause` and `expr` build the tree, `recover` finds several errors,
//! `explain_syntax` words them, `limits` keeps recursion bounded, on the tokens of `token`), `print` writes a tree as canonical text, `fmt` formats a file and keeps its
//! comments, `stdlib` holds the standard library. Nothing here knows what a name means.

pub mod ast;
mod clause;
mod explain_syntax;
mod expr;
pub mod fmt;
pub mod limits;
mod parse;
pub mod print;
mod recover;
pub mod stdlib;
mod token;
pub mod words;

pub use clause::CLAUSES;
pub use fmt::format;
pub use parse::parse;
