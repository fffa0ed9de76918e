//! Executes what `attn_compiler::backend::cpu` emits.
//!
//! Comes in: tile programs built in code. Goes out: machine code run on this host, compared with `expr::eval`
//! (every float rounded to f32) and with what each statement is documented to do. Tile intrinsics are the plain
//! Rust of `naive`, so that nothing depends on the runtime's own; but `statements` and `tensors` run those, on every
//! instruction set, against the interpreter (`agree`).
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

mod agree;
mod build;
mod calls;
mod control;
mod exec;
mod intrinsics;
mod largest;
mod loads;
mod maps;
mod naive;
mod pairs;
mod random;
mod reference;
mod statements;
mod tensors;
mod tiles;
