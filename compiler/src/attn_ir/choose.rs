//! Steps that choose by data: the largest of a row, blocks that a list names, blocks of largest pooled score.
//!
//! Comes in from `sema`. What holds: what they make are index, count and bit tensors that later steps read like any
//! other; ties go to the lowest index, and NaN counts as -inf, so that a choice is one set. [`super::evaluate`] says
//! what they mean, by sorting. Not here: how anything is searched.

use super::{Dot, IndexVars};
use crate::expr::{ExprId, TensorId};

/// The largest elements of each row (the last dim) of a float tensor.
///
/// `indices[.., 0..min(n, length)]` are their positions, ascending; `ranks[.., x]` is where x stands among them, or -1.
#[derive(Clone, Debug, PartialEq)]
pub struct Top {
    /// f32 or `float`, `[.., length]`.
    pub source: TensorId,
    /// n, an int over dims and params; negative counts as 0.
    pub count: ExprId,
    /// i32 `[.., max(0, min(n, length))]`, made.
    pub indices: TensorId,
    /// i32 `[.., length]`, made.
    pub ranks: TensorId,
}

/// How often each number stands in a list: `out[.., c]` counts the entries of `lists[.., ..]` that are c, up to the
/// first negative one.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    /// i32 or i64 `[.., length]`; an entry beyond the last number is an error at bind.
    pub lists: TensorId,
    /// i32 `[.., numbers]`, made.
    pub out: TensorId,
    /// Bool over dims and params: there is a list for every query.
    pub enough: ExprId,
}

/// Blocks of keys of largest score for each query row.
///
/// Window w begins at key `w * stride` and lies in block `w * stride div size`. The score of a block for one head is
/// the largest (or the sum) of `value` over the windows that lie in it and are `seen`; of a group, the sum over its
/// heads. The blocks for which `keep` holds count as +inf; the `count` largest that are not -inf are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Rank {
    /// Variables of `value`, `seen` and `keep`; `j` is the window, in `keep` the block.
    pub index: IndexVars,
    /// Batch size.
    pub batch: ExprId,
    /// Query heads.
    pub n_heads: i64,
    /// Heads that choose: the query heads, or the key heads of which each chooses for all its query heads.
    pub groups: i64,
    /// The head that chooses for query head h: an int expression of `index.h`.
    pub group: ExprId,
    /// Query rows.
    pub seq_q: ExprId,
    /// `i - row`
    pub offset: ExprId,
    /// Dots of queries and windows.
    pub dots: Vec<Dot>,
    /// Key head of query head h.
    pub kv_head: ExprId,
    /// Windows.
    pub windows: ExprId,
    /// Keys between the starts of windows.
    pub stride: i64,
    /// Keys of a block.
    pub size: i64,
    /// Float over b, h, i, row, j and the dots.
    pub value: ExprId,
    /// Bool over b, h, i, row, j.
    pub seen: ExprId,
    /// The sum over windows instead of the largest.
    pub sum: bool,
    /// Bool over i, row, j.
    pub keep: ExprId,
    /// How many blocks, an int over dims and params.
    pub count: ExprId,
    /// bit `[batch, groups, rows, blocks]`, made: the block was chosen.
    pub out: TensorId,
    /// bit `[batch, groups, tiles, blocks]`, made: some row of the [`RANK_ROWS`] of a tile chose the block.
    pub any: TensorId,
}

/// Query rows that choose together.
pub const RANK_ROWS: i64 = 16;
