//! Masks that let every row see one run of columns, the ends of which stand still or move with the row, become a step
//! that needs no comparison for each element.
//!
//! Before: `map s[r, c] = j0 + c <= i0 + r & i0 + r < j0 + c + w ? s : -inf`.
//! After: `band s, from = i0 - w + 1 - j0, from_step = 1, to = i0 - j0 + 1, to_step = 1`.
//!
//! Rows of several heads in one tile repeat with a period (`r mod n`). Not here: masks with alternatives, or that read
//! tensors; those stay maps.

use super::affine::linear;
use super::rewrite_blocks;
use crate::expr::{BinaryOp, ExprId, Op, Pool, Ty, VarId};
use crate::tile_ir::{Access, BandEnd, Program, Stmt};

/// Runs the pass.
pub fn run(program: &mut Program) {
    rewrite_blocks(program, &mut |pool, stmt| match bands(pool, &stmt) {
        Some(bands) => bands,
        None => vec![stmt],
    });
}

/// First columns and ends of a row, by how they move: standing still, with the row.
#[derive(Default)]
struct Ends {
    from: [Option<ExprId>; 2],
    to: [Option<ExprId>; 2],
}

fn bands(pool: &mut Pool, stmt: &Stmt) -> Option<Vec<Stmt>> {
    let Stmt::Map { dst, rows, cols, row, col, reads, value } = stmt else { return None };
    let [(x, source, Access::Tile)] = reads[..] else { return None };
    let Op::Select(cond, kept, other) = *pool.op(*value) else { return None };
    let minus_inf = pool.float(f64::NEG_INFINITY);
    if source != *dst || *pool.op(kept) != Op::Var(x) || other != minus_inf || pool.depends_on(cond, &[x]) {
        return None;
    }
    let (period, cond) = repeated(pool, cond, *row, *rows);
    let mut ends = Ends::default();
    ends.add(pool, cond, *row, *col)?;
    let zero = pool.int(0);
    let mut out = Vec::new();
    let mut band = |from: Option<(ExprId, usize)>, to: Option<(ExprId, usize)>| {
        let end = |e: Option<(ExprId, usize)>, none: ExprId| match e {
            Some((at, step)) => BandEnd { at, step: step as i64 },
            None => BandEnd { at: none, step: 0 },
        };
        let (from, to) = (end(from, zero), end(to, *cols));
        out.push(Stmt::Band { s: *dst, rows: *rows, cols: *cols, period, from, to });
    };
    let of = |ends: [Option<ExprId>; 2]| {
        let mut all: Vec<(ExprId, usize)> =
            ends.into_iter().enumerate().filter_map(|(step, e)| e.map(|e| (e, step))).collect();
        all.reverse();
        all
    };
    let (from, to) = (of(ends.from), of(ends.to));
    for n in 0..from.len().max(to.len()) {
        band(from.get(n).copied(), to.get(n).copied());
    }
    Some(out)
}

/// With the row of a head in the place of `row mod n`, n: or all rows and the condition as it is.
fn repeated(pool: &mut Pool, cond: ExprId, row: VarId, rows: ExprId) -> (ExprId, ExprId) {
    let period = pool.reachable(&[cond]).into_iter().find_map(|id| match *pool.op(id) {
        Op::Binary(BinaryOp::Mod, x, n) if *pool.op(x) == Op::Var(row) => Some((id, n)),
        _ => None,
    });
    let Some((modulo, n)) = period else { return (rows, cond) };
    let own = pool.add_var("own_row", Ty::Int);
    let own = pool.var(own);
    let inner = pool.rewrite(cond, &mut |_, id| (id == modulo).then_some(own));
    if pool.depends_on(inner, &[row]) || pool.depends_on(n, &[row]) {
        return (rows, cond);
    }
    let Op::Var(own_var) = *pool.op(own) else { return (rows, cond) };
    let row = pool.var(row);
    (n, pool.substitute(inner, &[(own_var, row)]))
}

impl Ends {
    /// Adds what a condition says; none if it says more.
    fn add(&mut self, pool: &mut Pool, cond: ExprId, row: VarId, col: VarId) -> Option<()> {
        match *pool.op(cond) {
            Op::Binary(BinaryOp::And, a, b) => {
                self.add(pool, a, row, col)?;
                self.add(pool, b, row, col)
            }
            Op::Binary(op @ (BinaryOp::Le | BinaryOp::Lt), a, b) if pool.ty(a) == Ty::Int => {
                let ((ka, la, ra), (kb, lb, rb)) = (linear(pool, a, row, col)?, linear(pool, b, row, col)?);
                let strict = i64::from(op == BinaryOp::Lt);
                // k row + l col + rest + strict <= 0
                let (k, l) = (ka - kb, la - lb);
                let (ends, at, step) = match l {
                    1 => {
                        let rest = pool.sub(rb, ra);
                        (&mut self.to, pool.add_int(rest, 1 - strict), -k)
                    }
                    -1 => {
                        let rest = pool.sub(ra, rb);
                        (&mut self.from, pool.add_int(rest, strict), k)
                    }
                    _ => return None,
                };
                let slot = ends.get_mut(usize::try_from(step).ok()?)?;
                *slot = Some(match *slot {
                    None => at,
                    Some(before) if l == 1 => pool.min(before, at),
                    Some(before) => pool.max(before, at),
                });
                Some(())
            }
            _ => None,
        }
    }
}
