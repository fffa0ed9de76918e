//! A launch under construction: its buffers, and short ways to write statements.
//!
//! Comes in: a program. Goes out: statements in a body that the caller holds. What holds: every variable is made
//! anew, so that it is defined at one place. Not here: what is computed.

use super::rows::Place;
use crate::artifact::PANEL;
use crate::attn_ir::recur::Recurrence;
use crate::expr::{ExprId, Pool, Ty, VarId};
use crate::tile_ir::{Access, BufId, Buffer, Operand, Program, Rest, Stmt};

/// Columns of a block of a state, steps of a chunk.
pub const LANES: i64 = PANEL as i64;

/// Columns of a tile rounded up to what a product reads.
pub fn padded(cols: i64) -> i64 {
    (cols + 15) / 16 * 16
}

/// A launch under construction.
pub struct Emit<'a> {
    /// The program.
    pub program: &'a mut Program,
    /// Buffers so far.
    pub buffers: Vec<Buffer>,
}

/// The element of a map: its row, its column, the elements that it reads.
pub struct Element<'a> {
    /// Where expressions go.
    pub pool: &'a mut Pool,
    /// Row.
    pub r: ExprId,
    /// Column.
    pub c: ExprId,
    /// In the order of the reads.
    pub reads: Vec<ExprId>,
}

/// A product `c = a b`, see [`Stmt::Gemm`].
pub struct Product {
    /// Result.
    pub c: BufId,
    /// Left.
    pub a: BufId,
    /// Right, of 32 columns.
    pub b: BufId,
    /// Rows of the result, length of the sum, columns of the result.
    pub sizes: [ExprId; 3],
    /// Added to the old result times these (if given).
    pub add: Option<Option<BufId>>,
    /// Terms with a zero on the left are left out.
    pub skip_zero: bool,
}

/// The tasks of a launch: one for every (b, h) and group of blocks of columns.
pub struct Tasks {
    /// Axes of the grid.
    pub grid: Vec<(VarId, ExprId)>,
    /// The (b, h) of a task.
    pub at: Place,
    /// Its group.
    pub group: ExprId,
    /// The first block of the group.
    pub first: ExprId,
}

impl Emit<'_> {
    /// The tasks for `n_groups` groups of `per_group` blocks; the first block is defined in the body.
    pub fn tasks(&mut self, r: &Recurrence, n_groups: i64, per_group: i64, body: &mut Vec<Stmt>) -> Tasks {
        let extents = super::decay::leading(self.pool(), r);
        let ((vb, b), (vh, h), (vg, group)) = (self.counter("b"), self.counter("h"), self.counter("g"));
        let grid = vec![(vb, extents[0]), (vh, extents[1]), (vg, self.int(n_groups))];
        let count = self.int(per_group);
        let first = self.pool().mul(group, count);
        let first = self.define(body, "block", first);
        Tasks { grid, at: Place { b, h }, group, first }
    }

    /// The pool.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.program.pool
    }

    /// An int.
    pub fn int(&mut self, n: i64) -> ExprId {
        self.program.pool.int(n)
    }

    /// A buffer; one column is a vector.
    pub fn buffer(&mut self, name: &str, rows: i64, cols: i64) -> BufId {
        let taken = self.buffers.iter().filter(|b| b.name.starts_with(name)).count();
        let name = if taken == 0 { name.to_string() } else { format!("{name}_{taken}") };
        self.buffers.push(Buffer::new(name, rows, cols));
        BufId(self.buffers.len() as u32 - 1)
    }

    /// `let name = value`
    pub fn define(&mut self, body: &mut Vec<Stmt>, name: &str, value: ExprId) -> ExprId {
        let ty = self.program.pool.ty(value);
        let var = self.program.pool.add_var(name, ty);
        body.push(Stmt::Let { var, value });
        self.program.pool.var(var)
    }

    /// `for name in 0..hi`: the loop's variable and its expression.
    pub fn counter(&mut self, name: &str) -> (VarId, ExprId) {
        let var = self.program.pool.add_var(name, Ty::Int);
        (var, self.program.pool.var(var))
    }

    /// `dst[r, c] = element`
    pub fn map(
        &mut self,
        dst: BufId,
        (rows, cols): (ExprId, ExprId),
        reads: &[(BufId, Access)],
        element: impl FnOnce(&mut Element<'_>) -> ExprId,
    ) -> Stmt {
        let pool = &mut self.program.pool;
        let (row, col) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
        let vars: Vec<VarId> = reads.iter().map(|_| pool.add_var("y", Ty::Float)).collect();
        let (r, c) = (pool.var(row), pool.var(col));
        let own = vars.iter().map(|v| pool.var(*v)).collect();
        let value = element(&mut Element { pool, r, c, reads: own });
        let used = self.program.pool.free_vars(value);
        let all = vars.into_iter().zip(reads).map(|(v, (b, a))| (v, *b, *a));
        let reads = all.filter(|x| used.contains(&x.0)).collect();
        Stmt::Map { dst, rows, cols, row, col, reads, value }
    }

    /// A product.
    pub fn product(&mut self, p: Product) -> Stmt {
        let [rows, k, n] = p.sizes;
        Stmt::Gemm {
            c: p.c,
            a: p.a,
            rest: Rest::None,
            b: Operand::Buffer(p.b),
            rows,
            k,
            n,
            row_scale: p.add.flatten(),
            accumulate: p.add.is_some(),
            skip_zero: self.program.pool.bool(p.skip_zero),
            next: None,
        }
    }
}
