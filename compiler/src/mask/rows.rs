//! `ensure rows_nonempty`: does every query row see a key?
//!
//! Comes in: a mask, its facts and the lengths. Goes out: [`RowsNonempty`] for all sizes at once, found by
//! substituting a *witness* for j (`i`, 0, the last key, the ends of the row's key range) and asking whether the
//! mask then holds for every row; and [`first_empty_row`], which decides for given sizes and values, tile by
//! tile and cell by cell only in tiles that are partial. Not here: whose fault an empty row is.

use super::forms::Forms;
use super::host::{Class, Classifier, Tape, TileGrid};
use super::lin::{Corners, Lin};
use super::{Facts, MaskAnalysis, TileBox, analyze};
use crate::expr::eval::Env;
use crate::expr::{BinaryOp, ExprId, Op, Pool, Ty, UnaryOp};

/// What can be said about the rows of a mask without knowing sizes.
#[derive(Clone, Debug, PartialEq)]
pub enum RowsNonempty {
    /// Every row sees the key `witness` (an expression in `i`; "or" between several), where `given` holds: a bool
    /// expression over dims, parameters, b and h; constant true where the proof needs nothing.
    Proved {
        /// The key that is seen.
        witness: String,
        /// Under which condition.
        given: ExprId,
    },
    /// A row sees no key, whatever the sizes.
    Fails {
        /// Which one.
        row: String,
    },
    /// Neither was found; ask [`first_empty_row`] at given sizes.
    Unknown {
        /// What was tried.
        why: String,
    },
}

/// The lengths of a mask: int expressions over dims.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    /// Query rows.
    pub seq_q: ExprId,
    /// Keys.
    pub seq_k: ExprId,
}

/// Largest witness (in nodes) that is tried: each `min` or choice in it opens every comparison of the mask.
const MAX_WITNESS: usize = 24;

/// Constants beyond this could overflow where a witness is put in for j; no proof is tried then.
const FAR: u64 = 1 << 40;

/// Looks for a key that every row sees.
pub fn rows_nonempty(pool: &mut Pool, mask: ExprId, facts: &Facts, lengths: &Lengths) -> RowsNonempty {
    let far = |id: &ExprId| matches!(pool.op(*id), Op::Int(x) if x.unsigned_abs() > FAR);
    if pool.reachable(&[mask]).iter().any(far) {
        return RowsNonempty::Unknown { why: format!("a constant of the mask is beyond {FAR}") };
    }
    let (i, zero) = (pool.var(facts.i), pool.int(0));
    let last_key = pool.add_int(lengths.seq_k, -1);
    let end = pool.add(facts.offset, lengths.seq_q);
    let rows = (facts.offset, pool.add_int(end, -1));
    let analysis = analyze(pool, mask, facts);
    if let Some(row) = empty_row(pool, &analysis, rows, last_key, facts) {
        return RowsNonempty::Fails { row };
    }
    let (lo, hi) = analysis.key_range(pool, &TileBox { i_lo: i, i_hi: i, j_lo: zero, j_hi: last_key });
    let candidates = [
        (i, "j = i"),
        (zero, "j = 0"),
        (last_key, "j = the last key"),
        (hi, "the last key of its range"),
        (lo, "the first key of its range"),
    ];
    let mut any = pool.bool(false);
    let mut proofs = Vec::new();
    for (witness, text) in candidates {
        if pool.reachable(&[witness]).len() > MAX_WITNESS {
            continue;
        }
        let seen = sees(pool, mask, facts, witness, last_key);
        any = pool.or(any, seen);
        proofs.push((for_all_rows(pool, seen, facts, rows), text));
        if proofs.last().is_some_and(|p| pool.as_bool(p.0) == Some(true)) {
            break;
        }
    }
    let none = proofs.iter().all(|p| pool.as_bool(p.0) != Some(true));
    if none {
        proofs.push((for_all_rows(pool, any, facts, rows), "j = i, 0, the last key or an end of its range"));
    }
    // A proof that needs nothing, or else the one that needs least.
    proofs.retain(|p| pool.as_bool(p.0) != Some(false));
    let best = proofs.into_iter().min_by_key(|p| {
        let needs = pool.free_vars(p.0).len();
        (pool.as_bool(p.0) != Some(true), needs, pool.reachable(&[p.0]).len())
    });
    match best {
        Some((given, witness)) => RowsNonempty::Proved { witness: witness.to_string(), given },
        None => RowsNonempty::Unknown {
            why: "no row was found to see j = i, 0, the last key or an end of its range in general"
                .to_string(),
        },
    }
}

/// The mask at `(i, witness)`, with the witness among the keys.
fn sees(pool: &mut Pool, mask: ExprId, facts: &Facts, witness: ExprId, last_key: ExprId) -> ExprId {
    let here = pool.substitute(mask, &[(facts.j, witness)]);
    let zero = pool.int(0);
    let (above, below) = (pool.le(zero, witness), pool.le(witness, last_key));
    let inside = pool.and(above, below);
    pool.and(inside, here)
}

/// The condition under which `cond` (over i and row) holds for all rows.
fn for_all_rows(pool: &mut Pool, cond: ExprId, facts: &Facts, rows: (ExprId, ExprId)) -> ExprId {
    let zero = pool.int(0);
    let tile = TileBox { i_lo: rows.0, i_hi: rows.1, j_lo: zero, j_hi: zero };
    let must = super::must_hold(pool, cond, facts, &tile);
    canonical(pool, must, facts)
}

/// The name of a row that can see nothing at any size: the first or the last.
fn empty_row(
    pool: &mut Pool,
    analysis: &MaskAnalysis,
    rows: (ExprId, ExprId),
    last_key: ExprId,
    facts: &Facts,
) -> Option<String> {
    let zero = pool.int(0);
    for (row, name) in [(rows.0, "row 0"), (rows.1, "the last row")] {
        let may = analysis.may(pool, &TileBox { i_lo: row, i_hi: row, j_lo: zero, j_hi: last_key });
        let may = canonical(pool, may, facts);
        if pool.as_bool(may) == Some(false) {
            return Some(name.to_string());
        }
    }
    None
}

/// The same condition with every comparison of ints as one linear form, so that what cancels is gone.
fn canonical(pool: &mut Pool, root: ExprId, facts: &Facts) -> ExprId {
    let zero = pool.int(0);
    let mut f = Forms::new(pool, facts, Corners([zero; 4]));
    simplified(&mut f, root)
}

fn simplified(f: &mut Forms, id: ExprId) -> ExprId {
    match *f.pool.op(id) {
        Op::Unary(UnaryOp::Not, x) => {
            let x = simplified(f, x);
            f.pool.not(x)
        }
        Op::Select(c, a, b) => {
            let [c, a, b] = [c, a, b].map(|x| if f.pool.ty(x) == Ty::Bool { simplified(f, x) } else { x });
            f.pool.select(c, a, b)
        }
        Op::Binary(op @ (BinaryOp::And | BinaryOp::Or), a, b) => {
            let (a, b) = (simplified(f, a), simplified(f, b));
            f.pool.binary(op, a, b)
        }
        Op::Binary(op, a, b) if f.pool.ty(a) == Ty::Int => {
            let gap = f.lin(a).sub(&f.lin(b));
            match (op, gap.as_int()) {
                (BinaryOp::Le, _) => comparison(f, &gap, id),
                (BinaryOp::Lt, _) => comparison(f, &gap.add_int(1), id),
                (BinaryOp::Eq, Some(c)) => f.pool.bool(c == 0),
                (BinaryOp::Ne, Some(c)) => f.pool.bool(c != 0),
                _ => id,
            }
        }
        _ => id,
    }
}

fn comparison(f: &mut Forms, gap: &Lin, id: ExprId) -> ExprId {
    if gap.is_wild() { id } else { f.le0(gap) }
}

/// The first row (as a row of the query tensor) that sees no key, for the sizes and values of `grid` and `env`.
///
/// Exact: rows are decided by tiles of `grid.tile_kv` keys, and cell by cell in tiles that are partial.
pub fn first_empty_row(
    pool: &Pool,
    mask: ExprId,
    analysis: &MaskAnalysis,
    facts: &Facts,
    grid: &TileGrid,
    env: &dyn Env,
) -> Option<i64> {
    let keys = grid.key_tiles();
    if keys.is_empty() {
        return (grid.seq_q > 0).then_some(0);
    }
    let coarse = Classifier::new(pool, analysis).map(grid, env);
    let single = TileGrid { tile_q: 1, ..*grid };
    let mut cells = Tape::new(pool, &[mask], &[facts.i, facts.row], &[facts.j]);
    cells.bind(env);
    let mut classifier = Classifier::new(pool, analysis);
    for (q_tile, &(lo, hi)) in grid.query_tiles().iter().enumerate() {
        if (0..keys.len()).any(|k| coarse.at(q_tile, k) == Class::Full) {
            continue;
        }
        for i in lo..=hi {
            let row = TileGrid { seq_q: 1, offset: i, ..single };
            let fine = classifier.map(&row, env);
            let seen = fine.class.contains(&Class::Full)
                || keys.iter().enumerate().filter(|(k, _)| fine.at(0, *k) == Class::Partial).any(|(_, k)| {
                    let lane: Vec<i64> = (k.0..=k.1).collect();
                    cells.run(&[i, i - grid.offset], &[&lane], env);
                    (0..lane.len()).any(|n| cells.get(0, n) != 0)
                });
            if !seen {
                return Some(i - grid.offset);
            }
        }
    }
    None
}
