//! Facts of branches and selections: what `branch.rs` and `select.rs` hand to `parts.rs`.
//!
//! What holds: names are resolved, expressions typed, options known. Not here: how anything of it is computed.

use crate::diagnostic::Span;

use super::derived::{Made, MadeFact};
use super::hir::Expr;
use super::model::{AlignFact, Body, DotFact, HeadsFact, MaskClause, OutputFact};
use super::rows::RowOp;

/// Windows of a pooled tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    /// Position of what is pooled.
    pub source: usize,
    /// Rows of a window.
    pub block: i64,
    /// Rows between the starts of windows.
    pub stride: i64,
}

/// The windows of a tensor that `mean_pool` makes.
pub(crate) fn windows_of(made: &[MadeFact], tensor: usize) -> Option<Windows> {
    made.iter().find(|m| m.tensor == tensor).and_then(|m| match m.made {
        Made::MeanPool { x, block, stride } => Some(Windows { source: x, block, stride }),
        _ => None,
    })
}

/// One branch: an attention of its own over the kernel's tensors.
#[derive(Clone, Debug)]
pub(crate) struct BranchFact {
    /// Name.
    pub name: String,
    /// Where it stands.
    pub span: Span,
    /// The typed body.
    pub body: Option<Body>,
    /// Its alignment.
    pub align: AlignFact,
    /// Its heads.
    pub heads: HeadsFact,
    /// Conjuncts of its mask.
    pub mask_clauses: Vec<MaskClause>,
    /// What `map` and `rotate` do to rows: the kernel's, then its own.
    pub row_ops: Vec<RowOp>,
    /// Tensors that lets make: the kernel's, then its own.
    pub made: Vec<MadeFact>,
    /// How its queries and keys are chosen.
    pub choices: Choices,
    /// What it returns.
    pub outputs: Vec<OutputFact>,
}

/// The `select` clauses of a block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choices {
    /// `select i = topk(...)`
    pub queries: Option<TopFact>,
    /// `select j = ...`
    pub keys: Option<KeyChoice>,
}

/// `topk(x, n, gate)`
#[derive(Clone, Debug)]
pub(crate) struct TopFact {
    /// What is ranked: a row over the sequence.
    pub x: Expr,
    /// How many.
    pub n: Expr,
    /// Factor of what is chosen: a row over the sequence.
    pub gate: Option<Expr>,
    /// The call.
    pub span: Span,
}

/// How keys are chosen.
#[derive(Clone, Debug)]
pub(crate) enum KeyChoice {
    /// The largest of a row over the sequence.
    Top(TopFact),
    /// Blocks that the host lists.
    Listed(ListFact),
    /// Blocks of largest pooled score.
    Ranked(Box<RankFact>),
}

/// `blocks(t, size)`
#[derive(Clone, Debug)]
pub(crate) struct ListFact {
    /// Position of `t` in the kernel's tensors.
    pub tensor: usize,
    /// Keys of a block.
    pub size: i64,
    /// The clause as written.
    pub text: String,
    /// The call.
    pub span: Span,
}

/// `topk_blocks(score, size, n, pool, share, keep)`
#[derive(Clone, Debug)]
pub(crate) struct RankFact {
    /// Pooled score of a query and a window.
    pub score: Expr,
    /// Its dots; every key row is pooled.
    pub dots: Vec<DotFact>,
    /// Keys of a block.
    pub size: i64,
    /// How many blocks.
    pub n: Expr,
    /// `pool = softmax`
    pub softmax: bool,
    /// `share = kv_head`
    pub share: bool,
    /// `keep = first`
    pub first: bool,
    /// `keep = current`
    pub current: bool,
    /// The clause as written.
    pub text: String,
    /// The call.
    pub span: Span,
}
