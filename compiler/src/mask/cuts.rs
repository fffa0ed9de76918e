//! Where a tile may be cut so that every part meets one element of the tensors that the mask reads.
//!
//! Comes in: the mask over i and j. Goes out: [`Cut`]s, for every element (or random block) that is read by blocks
//! of i or of j. What holds: a mask without such reads has no cut. The classes of the parts give that of the tile:
//! it is empty if all of them are, full if all of them are. Sorted tables need no cuts: their bounds stand at the
//! ends of a tile. Not cut here: what is read pair by pair (both axes, one by one), which only the pairs themselves
//! can tell.

use super::forms::Forms;
use super::lin::Lin;
use crate::attn_ir::Fact;
use crate::expr::{ExprId, Op};

/// What is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Logical query positions, i.
    Queries,
    /// Keys, j.
    Keys,
}

/// Positions x of a part share `(x + shift) div by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The axis.
    pub axis: Axis,
    /// Int expression that reads neither i nor j.
    pub shift: ExprId,
    /// Positive int expression that reads neither i nor j.
    pub by: ExprId,
    /// `x + shift` for the first query row or the first key, if it is a constant.
    pub start: Option<i64>,
}

/// Most parts of a tile; a tile of more is judged as a whole.
pub const MAX_PARTS: i64 = 256;

/// The cuts of a mask, in the order of its nodes, each once.
pub(super) fn of(f: &mut Forms, mask: ExprId) -> Vec<Cut> {
    let mut cuts: Vec<Cut> = Vec::new();
    for id in f.pool.reachable(&[mask]) {
        if f.uniform(id) {
            continue;
        }
        let index = match f.pool.op(id).clone() {
            Op::Load(t, index, _) => {
                let in_order = f.tensor(t).fact != Fact::None;
                let last_alone =
                    index.split_last().is_some_and(|(_, rest)| rest.iter().all(|&x| f.uniform(x)));
                if in_order && last_alone {
                    continue;
                }
                index.to_vec()
            }
            Op::RandBlock(args) => args.to_vec(),
            _ => continue,
        };
        let mut own: Vec<Cut> = Vec::new();
        index.into_iter().for_each(|x| of_index(f, x, &mut own));
        let single = |axis| own.iter().any(|c| c.axis == axis && f.pool.as_int(c.by) == Some(1));
        if !(single(Axis::Queries) && single(Axis::Keys)) {
            own.retain(|cut| !cuts.contains(cut));
            cuts.append(&mut own);
        }
    }
    cuts
}

/// The cuts at which an index changes.
fn of_index(f: &mut Forms, index: ExprId, out: &mut Vec<Cut>) {
    let lin = f.lin(index);
    for (term, _) in f.split(&lin).0 {
        let axis = |f: &Forms, x: ExprId| match x {
            x if x == f.i => Some(Axis::Queries),
            x if x == f.j => Some(Axis::Keys),
            _ => None,
        };
        let (zero, one) = (f.pool.int(0), f.pool.int(1));
        if let Some(axis) = axis(f, term) {
            out.push(Cut { axis, shift: zero, by: one, start: Some(0) });
            continue;
        }
        let Some(q) = f.quotient(term) else { continue };
        let (varying, rest) = f.split(&q.x);
        if let [(x, 1)] = varying[..]
            && let Some(axis) = axis(f, x)
            && let (Some(shift), Some(by)) = (f.node(&rest), f.node(&q.by))
        {
            let first = if axis == Axis::Queries { f.lin(f.facts.offset) } else { Lin::int(0) };
            let start = first.add(&rest).as_int().and_then(|x| i64::try_from(x).ok());
            out.push(Cut { axis, shift, by, start });
        }
    }
}
