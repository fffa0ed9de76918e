//! Everything about a mask, derived from its expression: which tiles are empty or full, which keys a tile of
//! queries can see and which queries can see a tile of keys.
//!
//! Comes in: a bool expression over i, j, row, b, h, dims, parameters and tensor elements. Goes out:
//! expressions of the same pool over the four corners of a tile ([`TileBox`]) instead of i, j and row, so that
//! the same result is evaluated by `explain` on the host and emitted into kernels; lengths and parameters stay
//! symbolic. What holds: for a box that is not empty, [`MaskAnalysis::may`] is true if any pair of the box is
//! in the mask, [`MaskAnalysis::must`] is false if any pair is not. Index arithmetic is taken not to overflow
//! and divisors to be positive (both are checked before launch). Not done here: choosing tiles, and solving
//! for keys where only a search in a table could (documents keep their hull from the other clauses).

use crate::attn_ir::Fact;
use crate::expr::{ExprId, Pool, TensorId, VarId};

/// A tile of queries and keys; inclusive int expressions, no corner beyond its opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileBox {
    /// Logical position (`i`, not `row`) of the first query.
    pub i_lo: ExprId,
    /// Logical position of the last query.
    pub i_hi: ExprId,
    /// First key.
    pub j_lo: ExprId,
    /// Last key.
    pub j_hi: ExprId,
}

/// What the analysis may use about a tensor that the mask reads.
#[derive(Clone, Debug)]
pub struct TensorFacts {
    /// Promise about the elements along the last dim.
    pub fact: Fact,
    /// Sizes of the logical dims.
    pub shape: Vec<ExprId>,
}

/// What the variables of the mask stand for.
pub struct Facts<'a> {
    /// Logical query position.
    pub i: VarId,
    /// Key position.
    pub j: VarId,
    /// Row of the query tensor: `i - offset`.
    pub row: VarId,
    /// `i - row`, an int expression without i, j, row.
    pub offset: ExprId,
    /// The tensors that loads name.
    pub tensors: &'a dyn Fn(TensorId) -> TensorFacts,
}

/// The result of [`analyze`].
#[derive(Clone, Debug)]
pub struct MaskAnalysis {
    clauses: Vec<ExprId>,
}

/// Derives the tile predicates and ranges of a mask.
pub fn analyze(_pool: &mut Pool, mask: ExprId, _facts: &Facts) -> MaskAnalysis {
    MaskAnalysis { clauses: vec![mask] }
}

impl MaskAnalysis {
    /// Bool: false only where no pair of the box is in the mask (the tile is empty).
    pub fn may(&self, pool: &mut Pool, _tile: &TileBox) -> ExprId {
        pool.bool(true)
    }

    /// Bool: true only where every pair of the box is in the mask (the tile is full).
    pub fn must(&self, pool: &mut Pool, _tile: &TileBox) -> ExprId {
        pool.bool(false)
    }

    /// Inclusive hull `(lo, hi)` of the keys within `tile.j_lo..=tile.j_hi` that a query of the box may see;
    /// `lo > hi` where there is none.
    pub fn key_range(&self, _pool: &mut Pool, tile: &TileBox) -> (ExprId, ExprId) {
        (tile.j_lo, tile.j_hi)
    }

    /// Inclusive hull `(lo, hi)` of the query positions `i` of the box that may see a key of it; `lo > hi`
    /// where there is none.
    pub fn query_range(&self, _pool: &mut Pool, tile: &TileBox) -> (ExprId, ExprId) {
        (tile.i_lo, tile.i_hi)
    }

    /// The top-level operands of the mask's conjunction or disjunction.
    pub fn clauses(&self) -> &[ExprId] {
        &self.clauses
    }
}
