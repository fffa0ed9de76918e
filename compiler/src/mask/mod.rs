//! Everything about a mask, derived from its expression: which tiles are empty or full, which keys a tile of
//! queries can see and which queries can see a tile of keys.
//!
//! Comes in: a bool expression over i, j, row, b, h, dims, parameters and tensor elements. Goes out:
//! expressions of the same pool over the four corners of a tile ([`TileBox`]) instead of i, j and row, so that
//! the same result is evaluated by `explain` on the host and emitted into kernels; lengths and parameters stay
//! symbolic. What holds: for a box that is not empty, [`MaskAnalysis::may`] is true if any pair of the box is
//! in the mask, [`MaskAnalysis::must`] is false if any pair is not. The mask's own index arithmetic is taken
//! not to overflow, divisors to be positive (both are checked before launch), and positions to be below 2^40;
//! parameters may be as large as they like (`window` = 2^63 - 1).
//!
//! Method: normal form ([`normal`]), per conjunction difference bounds (Dill 1989, Mine 2001) over i, j and
//! i - j and over their blocks ([`zone`], [`solve`]), bounds of other terms at the ends of the tile
//! ([`bounds`]). A tile is full if the negation of the mask is empty there, so a union that covers it only
//! jointly counts. What tensors decide is known of a tile that meets at most two elements along each dim; where
//! blocks are smaller, [`cuts`] say how to cut a tile into parts that meet one, and both the host and a kernel ask
//! the same predicates of the parts.
//!
//! Not done here: choosing tiles, and solving for keys where only a search in a table could (documents keep the
//! hull that their other clauses give).

mod bounds;
pub mod cuts;
mod forms;
pub mod host;
mod lin;
mod may;
mod normal;
pub mod rows;
mod solve;
mod zone;

use crate::attn_ir::Fact;
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, VarId};
use cuts::Cut;
use forms::Forms;
use lin::Corners;
use may::Parts;
use normal::Normal;

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

/// The result of [`analyze`]: expressions over four corner variables, instantiated for a box by substitution.
#[derive(Clone, Debug)]
pub struct MaskAnalysis {
    corners: [VarId; 4],
    may: ExprId,
    must: ExprId,
    keys: (ExprId, ExprId),
    queries: (ExprId, ExprId),
    clauses: Vec<ExprId>,
    cuts: Vec<Cut>,
}

/// Names of the corner variables; no name of a specification has a dot.
const CORNER_NAMES: [&str; 4] = ["tile.i_lo", "tile.i_hi", "tile.j_lo", "tile.j_hi"];

/// Derives the tile predicates and ranges of a mask.
pub fn analyze(pool: &mut Pool, mask: ExprId, facts: &Facts) -> MaskAnalysis {
    let clauses = clauses_of(pool, mask);
    let (corners, mut f, positions) = prepare(pool, mask, facts);
    let cuts = cuts::of(&mut f, positions);
    let mut normal = Normal::default();
    let inside = normal.of(&mut f, positions, true);
    let outside = normal.of(&mut f, positions, false);
    let mut parts = Parts::new(&mut f, &mut normal);
    let (may, some_outside) = (parts.may(inside), parts.may(outside));
    let (keys, queries) = parts.hulls(inside);
    let must = may::negated(pool, some_outside);
    MaskAnalysis { corners, may, must, keys, queries, clauses, cuts }
}

/// The corner variables, and the mask over i and j alone with its uniform loads guarded.
fn prepare<'a>(pool: &'a mut Pool, mask: ExprId, facts: &'a Facts) -> ([VarId; 4], Forms<'a>, ExprId) {
    let corners = CORNER_NAMES.map(|name| pool.find_var(name).unwrap_or_else(|| pool.add_var(name, Ty::Int)));
    let nodes = corners.map(|v| pool.var(v));
    let i = pool.var(facts.i);
    let row = pool.sub(i, facts.offset);
    let positions = pool.substitute(mask, &[(facts.row, row)]);
    let mut f = Forms::new(pool, facts, Corners(nodes));
    let guarded = bounds::guard_uniform_loads(&mut f, positions);
    (corners, f, guarded)
}

/// [`MaskAnalysis::must`] alone, for one box.
fn must_hold(pool: &mut Pool, mask: ExprId, facts: &Facts, tile: &TileBox) -> ExprId {
    let (corners, mut f, positions) = prepare(pool, mask, facts);
    let mut normal = Normal::default();
    let outside = normal.of(&mut f, positions, false);
    let some_outside = Parts::new(&mut f, &mut normal).may(outside);
    let must = may::negated(pool, some_outside);
    instantiate(pool, corners, must, tile)
}

fn instantiate(pool: &mut Pool, corners: [VarId; 4], root: ExprId, tile: &TileBox) -> ExprId {
    let values = [tile.i_lo, tile.i_hi, tile.j_lo, tile.j_hi];
    let map: Vec<_> = corners.into_iter().zip(values).collect();
    pool.substitute(root, &map)
}

/// The operands of the top-level conjunction or disjunction.
fn clauses_of(pool: &Pool, mask: ExprId) -> Vec<ExprId> {
    let Op::Binary(top @ (BinaryOp::And | BinaryOp::Or), ..) = *pool.op(mask) else { return vec![mask] };
    let mut stack = vec![mask];
    let mut clauses = Vec::new();
    while let Some(id) = stack.pop() {
        match *pool.op(id) {
            Op::Binary(op, a, b) if op == top => stack.extend([b, a]),
            _ => clauses.push(id),
        }
    }
    clauses
}

impl MaskAnalysis {
    fn at(&self, pool: &mut Pool, root: ExprId, tile: &TileBox) -> ExprId {
        instantiate(pool, self.corners, root, tile)
    }

    /// Bool: false only where no pair of the box is in the mask (the tile is empty).
    pub fn may(&self, pool: &mut Pool, tile: &TileBox) -> ExprId {
        self.at(pool, self.may, tile)
    }

    /// Bool: true only where every pair of the box is in the mask (the tile is full).
    pub fn must(&self, pool: &mut Pool, tile: &TileBox) -> ExprId {
        self.at(pool, self.must, tile)
    }

    /// Inclusive hull `(lo, hi)` of the keys within `tile.j_lo..=tile.j_hi` that a query of the box may see;
    /// `lo > hi` where there is none.
    pub fn key_range(&self, pool: &mut Pool, tile: &TileBox) -> (ExprId, ExprId) {
        (self.at(pool, self.keys.0, tile), self.at(pool, self.keys.1, tile))
    }

    /// Inclusive hull `(lo, hi)` of the query positions `i` of the box that may see a key of it; `lo > hi`
    /// where there is none.
    pub fn query_range(&self, pool: &mut Pool, tile: &TileBox) -> (ExprId, ExprId) {
        (self.at(pool, self.queries.0, tile), self.at(pool, self.queries.1, tile))
    }

    /// The top-level operands of the mask's conjunction or disjunction, in the order written.
    pub fn clauses(&self) -> &[ExprId] {
        &self.clauses
    }

    /// Where a tile may be cut for a closer answer; none unless the mask reads tensors by blocks.
    pub fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    /// The variables over which [`MaskAnalysis::symbolic`] is written: `i_lo, i_hi, j_lo, j_hi`.
    pub fn corners(&self) -> [VarId; 4] {
        self.corners
    }

    /// `may` and `must` over the corner variables, for `explain`.
    pub fn symbolic(&self) -> (ExprId, ExprId) {
        (self.may, self.must)
    }

    /// Key and query ranges over the corner variables.
    pub fn symbolic_ranges(&self) -> ((ExprId, ExprId), (ExprId, ExprId)) {
        (self.keys, self.queries)
    }
}
