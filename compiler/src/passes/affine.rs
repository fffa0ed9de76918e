//! Takes what a map multiplies a tile with or adds to it out of the map, where that depends on the column alone or on
//! the diagonal alone: it is computed once for each column or diagonal, and the tile goes through a vector intrinsic.
//!
//! Before: `map s[r, c] = s * 0.125 - slope * float(i0 + r - (j0 + c))` (ALiBi; a table of a relative bias likewise).
//! After: `map d[0, c] = -(slope * float(i0 - j0 - (c - (rows - 1))))`, one row of rows - 1 + cols elements, and
//! `affine s, scale = 0.125, diagonal = d`.
//!
//! `cond ? that : x` becomes the same followed by `map s = cond ? s : x`, and `s == 0.0 ? 0.0 : that` a step that
//! keeps zeros. Values differ by rounding only: a product and a sum are rounded once. Quotients have become products
//! ([`super::reciprocals`]). Not here: maps that read other tiles, or whose terms follow the row or both
//! positions; those stay maps.

use crate::expr::{BinaryOp, ExprId, Op, Pool, Ty, UnaryOp, VarId};
use crate::tile_ir::{Access, BufId, Buffer, Program, Stmt};

/// Runs the pass.
pub fn run(program: &mut Program) {
    let mut launches = std::mem::take(&mut program.launches);
    for launch in &mut launches {
        let body = std::mem::take(&mut launch.body);
        let mut to = Rewrite { pool: &mut program.pool, buffers: &mut launch.buffers };
        launch.body = to.block(body);
    }
    program.launches = launches;
}

struct Rewrite<'a> {
    pool: &'a mut Pool,
    buffers: &'a mut Vec<Buffer>,
}

/// A map of one tile onto itself.
#[derive(Clone, Copy)]
struct OwnTile {
    dst: BufId,
    rows: ExprId,
    cols: ExprId,
    row: VarId,
    col: VarId,
    x: VarId,
}

impl Rewrite<'_> {
    fn block(&mut self, block: Vec<Stmt>) -> Vec<Stmt> {
        let mut out = Vec::new();
        for stmt in block {
            match stmt {
                Stmt::For { var, lo, hi, body } => {
                    out.push(Stmt::For { var, lo, hi, body: self.block(body) });
                }
                Stmt::If { cond, then, otherwise } => {
                    let (then, otherwise) = (self.block(then), self.block(otherwise));
                    out.push(Stmt::If { cond, then, otherwise });
                }
                Stmt::Map { .. } => match self.map(&stmt) {
                    Some(parts) => out.extend(parts),
                    None => out.push(stmt),
                },
                other => out.push(other),
            }
        }
        out
    }

    fn map(&mut self, stmt: &Stmt) -> Option<Vec<Stmt>> {
        let Stmt::Map { dst, rows, cols, row, col, reads, value } = stmt else { return None };
        let [(x, source, Access::Tile)] = reads[..] else { return None };
        if source != *dst {
            return None;
        }
        let tile = OwnTile { dst: *dst, rows: *rows, cols: *cols, row: *row, col: *col, x };
        let own = self.pool.var(x);
        if let Op::Select(cond, a, b) = *self.pool.op(*value) {
            if self.pool.depends_on(b, &[x]) {
                // `x == 0.0 ? 0.0 : ...`
                let zero = self.pool.float(0.0);
                let is_zero = self.pool.eq(own, zero);
                return if cond == is_zero && a == zero { self.step(tile, b, true) } else { None };
            }
            if self.pool.depends_on(cond, &[x]) || a == own {
                return None;
            }
            let mut out = self.step(tile, a, false)?;
            let y = self.pool.add_var("x", Ty::Float);
            let kept = self.pool.var(y);
            let value = self.pool.select(cond, kept, b);
            let reads = vec![(y, *dst, Access::Tile)];
            out.push(Stmt::Map { dst: *dst, rows: *rows, cols: *cols, row: *row, col: *col, reads, value });
            return Some(out);
        }
        self.step(tile, *value, false)
    }

    /// The statements for `value`, if it is of the form.
    fn step(&mut self, tile: OwnTile, value: ExprId, keep_zero: bool) -> Option<Vec<Stmt>> {
        let (factor, term) = self.parts(value, tile.x)?;
        let factor = factor?;
        let (row, col) = (tile.row, tile.col);
        if self.pool.depends_on(factor, &[row]) || (keep_zero && term.is_some()) {
            return None;
        }
        let mut out = Vec::new();
        let one = self.pool.float(1.0);
        let (scale, by_column) = if self.pool.depends_on(factor, &[col]) {
            self.uniform_part(factor, col)
        } else {
            (factor, None)
        };
        let by_term = match term {
            Some(term) if !self.pool.depends_on(term, &[row]) => Some((term, false)),
            Some(term) => Some((self.along_diagonals(term, tile)?, true)),
            None => None,
        };
        if by_column.is_none() && by_term.is_none() && scale == one {
            return None;
        }
        let factor = by_column.map(|f| self.vector("factor", f, tile, false, &mut out));
        let diagonal = by_term.is_some_and(|t| t.1);
        let term = by_term.map(|(t, diagonal)| self.vector("term", t, tile, diagonal, &mut out));
        let OwnTile { dst, rows, cols, .. } = tile;
        out.push(Stmt::Affine { dst, rows, cols, scale, factor, term, diagonal, keep_zero });
        Some(out)
    }

    /// A product of a uniform factor and one for each column.
    fn uniform_part(&mut self, factor: ExprId, col: VarId) -> (ExprId, Option<ExprId>) {
        match *self.pool.op(factor) {
            Op::Binary(BinaryOp::Mul, a, b) if !self.pool.depends_on(a, &[col]) => (a, Some(b)),
            Op::Binary(BinaryOp::Mul, a, b) if !self.pool.depends_on(b, &[col]) => (b, Some(a)),
            _ => (self.pool.float(1.0), Some(factor)),
        }
    }

    /// A map of one row that makes the vector: over the columns, or over the diagonals.
    fn vector(
        &mut self,
        name: &str,
        value: ExprId,
        tile: OwnTile,
        diagonal: bool,
        out: &mut Vec<Stmt>,
    ) -> BufId {
        let decl = &self.buffers[tile.dst.0 as usize];
        let room = if diagonal { decl.rows - 1 + decl.cols } else { decl.cols };
        let taken = |n: &str| self.buffers.iter().any(|b| b.name == n);
        let mut fresh = name.to_string();
        let mut n = 2;
        while taken(&fresh) {
            fresh = format!("{name}{n}");
            n += 1;
        }
        self.buffers.push(Buffer::new(fresh, 1, (room + 15) / 16 * 16));
        let dst = BufId(self.buffers.len() as u32 - 1);
        let (row, col) = (self.pool.add_var("r", Ty::Int), self.pool.add_var("c", Ty::Int));
        let at = self.pool.var(col);
        let before = self.pool.add_int(tile.rows, -1);
        let (mut cols, mut position) = (tile.cols, at);
        if diagonal {
            cols = self.pool.add(before, tile.cols);
            position = self.pool.sub(at, before);
        }
        let value = self.pool.substitute(value, &[(tile.col, position)]);
        let rows = self.pool.int(1);
        out.push(Stmt::Map { dst, rows, cols, row, col, reads: vec![], value });
        dst
    }

    /// The term with `col` for `col - row`, if that is all that it depends on.
    fn along_diagonals(&mut self, term: ExprId, tile: OwnTile) -> Option<ExprId> {
        let (row, col) = (tile.row, tile.col);
        let replaced = self.pool.rewrite(term, &mut |pool, id| {
            if pool.ty(id) != Ty::Int {
                return None;
            }
            match linear(pool, id, row, col)? {
                (by_row, by_col, rest) if by_col != 0 && by_row == -by_col => {
                    let at = pool.var(col);
                    let n = pool.int(by_col);
                    let moved = pool.mul(n, at);
                    Some(pool.add(rest, moved))
                }
                _ => None,
            }
        });
        (!self.pool.depends_on(replaced, &[row])).then_some(replaced)
    }

    /// `value` as (factor, term) of x, where nothing else of it depends on x; no factor is 0.
    fn parts(&mut self, value: ExprId, x: VarId) -> Option<(Option<ExprId>, Option<ExprId>)> {
        if !self.pool.depends_on(value, &[x]) {
            return Some((None, Some(value)));
        }
        match *self.pool.op(value) {
            Op::Var(_) => Some((Some(self.pool.float(1.0)), None)),
            Op::Unary(UnaryOp::Neg, a) => {
                let (f, t) = self.parts(a, x)?;
                Some((self.negated(f), self.negated(t)))
            }
            Op::Binary(op @ (BinaryOp::Add | BinaryOp::Sub), a, b) => {
                let ((fa, ta), (fb, tb)) = (self.parts(a, x)?, self.parts(b, x)?);
                let (fb, tb) =
                    if op == BinaryOp::Sub { (self.negated(fb), self.negated(tb)) } else { (fb, tb) };
                Some((self.sum(fa, fb), self.sum(ta, tb)))
            }
            Op::Binary(BinaryOp::Mul, a, b) => {
                let (a, b) = if self.pool.depends_on(b, &[x]) { (b, a) } else { (a, b) };
                if self.pool.depends_on(b, &[x]) {
                    return None;
                }
                let (f, t) = self.parts(a, x)?;
                Some((self.times(f, b), self.times(t, b)))
            }
            _ => None,
        }
    }

    fn negated(&mut self, e: Option<ExprId>) -> Option<ExprId> {
        e.map(|e| self.pool.unary(UnaryOp::Neg, e))
    }

    fn sum(&mut self, a: Option<ExprId>, b: Option<ExprId>) -> Option<ExprId> {
        match (a, b) {
            (Some(a), Some(b)) => Some(self.pool.add(a, b)),
            (a, b) => a.or(b),
        }
    }

    fn times(&mut self, a: Option<ExprId>, by: ExprId) -> Option<ExprId> {
        let one = self.pool.float(1.0);
        a.map(|a| if a == one { by } else { self.pool.mul(a, by) })
    }
}

/// An int expression as (k, l, rest) with `k * row + l * col + rest`, the rest free of both.
pub(super) fn linear(pool: &mut Pool, id: ExprId, row: VarId, col: VarId) -> Option<(i64, i64, ExprId)> {
    if !pool.depends_on(id, &[row, col]) {
        return Some((0, 0, id));
    }
    let zero = pool.int(0);
    match *pool.op(id) {
        Op::Var(v) => Some((i64::from(v == row), i64::from(v == col), zero)),
        Op::Unary(UnaryOp::Neg, a) => {
            let (k, l, rest) = linear(pool, a, row, col)?;
            Some((-k, -l, pool.unary(UnaryOp::Neg, rest)))
        }
        Op::Binary(op @ (BinaryOp::Add | BinaryOp::Sub), a, b) => {
            let ((ka, la, ra), (kb, lb, rb)) = (linear(pool, a, row, col)?, linear(pool, b, row, col)?);
            Some(if op == BinaryOp::Add {
                (ka + kb, la + lb, pool.add(ra, rb))
            } else {
                (ka - kb, la - lb, pool.sub(ra, rb))
            })
        }
        Op::Binary(BinaryOp::Mul, a, b) => {
            let (n, e) = match (pool.as_int(a), pool.as_int(b)) {
                (Some(n), _) => (n, b),
                (_, Some(n)) => (n, a),
                _ => return None,
            };
            let (k, l, rest) = linear(pool, e, row, col)?;
            let by = pool.int(n);
            Some((k.checked_mul(n)?, l.checked_mul(n)?, pool.mul(by, rest)))
        }
        _ => None,
    }
}
