//! Text form of the attention IR: [`print`] writes an [`super::Attention`], [`parse`] reads it back.
//!
//! What holds, as for the tile IR: printing is total and depends on the attention alone; the text reads back to
//! an attention of the same text. All variables that occur are declared first, in order of creation; pool nodes
//! may be numbered differently after reading. Not here: judging what the text says, which is `sema`'s.
//!
//! ```text
//! attention causal {
//!   vars b: int, h: int, i: int, j: int, row: int, S: int, qk: float
//!   dim S = S
//!   tensor q: f32[2, S, 64]
//!   tensor k: f32[2, S, 64]
//!   tensor v: f32[2, S, 64]
//!   index b, h, i, j, row
//!   batch 1
//!   heads 2
//!   kv_heads 2
//!   kv_head h
//!   seq_q S
//!   seq_k S
//!   offset 0
//!   dot qk = q(head 0, seq 1, feature 2) * k(head 0, seq 1, feature 2)
//!   score qk * 0.125
//!   mask j <= i
//!   weight softmax
//!   value v(head 0, seq 1, feature 2)
//!   output o: f32 = o
//! }
//! ```

mod parse;
mod print;
mod recur;
#[cfg(test)]
mod tests;

pub use parse::parse;
pub use print::{print, print_kernel};

use super::OutputKind;

/// Names of the kinds of output in text.
const OUTPUTS: [(&str, OutputKind); 3] =
    [("o", OutputKind::O), ("lse", OutputKind::Lse), ("max_logit", OutputKind::MaxLogit)];
