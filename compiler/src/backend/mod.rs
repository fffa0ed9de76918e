//! Backends: a verified `tile_ir` program and target facts in, machine code out.
//!
//! A backend imports `tile_ir`, `target`, `expr` and `artifact` and nothing above: it knows loops, buffers and
//! scalar expressions, never masks or heads. Each is dull on purpose: what could be decided was decided by the
//! schedule and the passes before.

pub mod cpu;
