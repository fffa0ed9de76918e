//! Which products take bf16 as it is stored, two at a time, where a machine multiplies such pairs in one instruction.
//!
//! Comes in: an [`Attention`] and the facts of a CPU. Goes out: [`Pairs`]. What holds: an operand that is a tensor loses
//! nothing, since it is bf16 already; weights are rounded to bf16 before they meet values of bf16, as on every GPU, while
//! their sums are those of the unrounded ones. Not here: which rows that a kernel makes (turned by `rope`) are kept as
//! bf16 (`lower/operands.rs`).

use crate::artifact::DType;
use crate::attn_ir::{Attention, Origin, Output, OutputKind, Products, Rows};
use crate::target::CpuFacts;

/// Products of bf16 in pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Of queries and keys, all dots of the score.
    pub scores: bool,
    /// Of weights and values.
    pub values: bool,
}

impl Pairs {
    /// None.
    pub const NONE: Pairs = Pairs { scores: false, values: false };

    /// Those of an attention on a CPU.
    pub fn of(attn: &Attention, facts: &CpuFacts) -> Pairs {
        if !facts.pairs || attn.numerics.products == Products::Exact {
            return Pairs::NONE;
        }
        let stored = |rows: Rows| {
            let tensor = attn.tensor(rows.tensor);
            tensor.dtype == DType::Bf16 && tensor.rest.is_none()
        };
        let dots = attn.dots.iter().all(|d| stored(d.x) && stored(d.y) && attn.feature_dim(d.x) % 2 == 0);
        // What the host is given in more bits than bf16 has is not made of weights of bf16.
        let exact = |o: &Output| {
            let tensor = attn.tensors.iter().find(|t| t.name == o.name);
            o.kind == OutputKind::O
                && o.dtype != DType::Bf16
                && tensor.is_some_and(|t| t.origin == Origin::Output)
        };
        let values = stored(attn.value) && !attn.outputs.iter().any(exact);
        Pairs { scores: dots, values }
    }

    /// In words: `scores and values`; none where there are none.
    pub const fn words(self) -> Option<&'static str> {
        match (self.scores, self.values) {
            (true, true) => Some("scores and values"),
            (true, false) => Some("scores"),
            (false, true) => Some("values"),
            (false, false) => None,
        }
    }
}
