//! Rows and states between tensors and buffers.
//!
//! Comes in: rows as expressions over b, h, t and x, states' tensors. Goes out: loads and stores. What holds: rows of
//! a tensor as they stand are loaded as rows; computed ones are computed in the buffer. Not here: products.

use super::emit::{Emit, LANES};
use crate::attn_ir::Rows;
use crate::attn_ir::recur::{Init, RecurOp, RecurState, Recurrence, Shape};
use crate::expr::{ExprId, Op, TensorId, Ty};
use crate::tile_ir::{Access, BufId, RowsRef, Stmt};

/// Where a task stands.
#[derive(Clone, Copy)]
pub struct Place {
    /// Batch.
    pub b: ExprId,
    /// Head.
    pub h: ExprId,
}

/// Steps from `t` on, `n` of them, and columns from `x` on, `d` of them.
#[derive(Clone, Copy)]
pub struct Part {
    /// First step.
    pub t: ExprId,
    /// Steps.
    pub n: ExprId,
    /// First column.
    pub x: ExprId,
    /// Columns.
    pub d: ExprId,
}

impl Emit<'_> {
    /// An expression over b and h at a place.
    pub fn placed(&mut self, r: &Recurrence, e: ExprId, at: Place) -> ExprId {
        self.pool().substitute(e, &[(r.vars.b, at.b), (r.vars.h, at.h)])
    }

    /// `dst[i, j]` = element x + j of the row at step t + i.
    pub fn load_rows(&mut self, r: &Recurrence, row: &RecurOp, dst: BufId, at: Place, w: Part) -> Stmt {
        let RecurOp::Row(value) = row else { return Stmt::Fill { dst, value: 0.0 } };
        let value = self.placed(r, *value, at);
        if let Some(src) = self.plain_rows(r, value, w) {
            return Stmt::LoadRows { dst: dst.into(), src, rows: w.n, d: w.d };
        }
        let vars = r.vars;
        self.map(dst, (w.n, w.d), &[], |m| {
            let (t, x) = (m.pool.add(w.t, m.r), m.pool.add(w.x, m.c));
            m.pool.substitute(value, &[(vars.t, t), (vars.x, x)])
        })
    }

    /// The value as rows of a tensor, if it is an element of one at (.., t, .., x).
    fn plain_rows(&mut self, r: &Recurrence, value: ExprId, w: Part) -> Option<RowsRef> {
        let Op::Load(tensor, index, Ty::Float) = self.program.pool.op(value).clone() else { return None };
        let pool = &self.program.pool;
        let dim = |var| index.iter().position(|e| matches!(pool.op(*e), Op::Var(v) if *v == var));
        let (row_dim, col_dim) = (dim(r.vars.t)?, dim(r.vars.x)?);
        let others = index.iter().enumerate().filter(|(d, _)| *d != row_dim && *d != col_dim);
        if others.into_iter().any(|(_, e)| pool.depends_on(*e, &[r.vars.t, r.vars.x])) {
            return None;
        }
        let mut index = index;
        (index[row_dim], index[col_dim]) = (w.t, w.x);
        Some(RowsRef { tensor, index: index.to_vec(), row_dim, col_dim })
    }

    /// The index of a state's tensor, own dims given.
    fn state_index(r: &Recurrence, at: Place, own: &[ExprId]) -> Vec<ExprId> {
        let lead = r.batch.map(|_| at.b).into_iter().chain(r.heads.map(|_| at.h));
        lead.chain(own.iter().copied()).collect()
    }

    /// Fills columns x.. (d of them) of a state, one column of a row state, into `dst`.
    pub fn load_state(
        &mut self,
        r: &Recurrence,
        s: &RecurState,
        dst: BufId,
        at: Place,
        (x, d): (ExprId, ExprId),
    ) -> Vec<Stmt> {
        let zero = self.int(0);
        match (s.init, s.shape) {
            (Init::Number(e), _) => {
                let (rows, cols) = (self.buffers[dst.0 as usize].rows, self.buffers[dst.0 as usize].cols);
                if let Some(v) = self.pool().as_const(e) {
                    return vec![Stmt::Fill { dst, value: v.float() }];
                }
                let size = (self.int(rows), self.int(cols));
                vec![self.map(dst, size, &[], |_| e)]
            }
            (Init::Tensor(tensor), Shape::Mat(n, _)) => {
                let index = Self::state_index(r, at, &[zero, x]);
                let row_dim = r.leading();
                let src = RowsRef { tensor, index, row_dim, col_dim: row_dim + 1 };
                vec![Stmt::LoadRows { dst: dst.into(), src, rows: self.int(n), d }]
            }
            (Init::Tensor(tensor), shape) => {
                let (n, one) = (self.int(shape.len() as i64), self.int(1));
                let load = self.map(dst, (n, one), &[], |m| {
                    let index = Self::state_index(r, at, &[m.r]);
                    m.pool.load(tensor, index, Ty::Float)
                });
                vec![Stmt::Fill { dst, value: 0.0 }, load]
            }
        }
    }

    /// Stores columns x.. of a matrix state.
    pub fn store_matrix(
        &mut self,
        r: &Recurrence,
        tensor: TensorId,
        n: i64,
        src: BufId,
        at: Place,
        (x, d): (ExprId, ExprId),
    ) -> Stmt {
        let zero = self.int(0);
        let index = Self::state_index(r, at, &[zero, x]);
        let row_dim = r.leading();
        let dst = RowsRef { tensor, index, row_dim, col_dim: row_dim + 1 };
        Stmt::StoreRows { dst, src: src.into(), rows: self.int(n), d, row_scale: None }
    }

    /// Stores a vector as elements x.. of a row state.
    pub fn store_vector(
        &mut self,
        r: &Recurrence,
        tensor: TensorId,
        src: BufId,
        at: Place,
        (x, d): (ExprId, ExprId),
    ) -> Stmt {
        let index = Self::state_index(r, at, &[x]);
        let dim = r.leading();
        Stmt::StoreVec {
            dst: RowsRef { tensor, index, row_dim: dim, col_dim: dim },
            src: src.into(),
            rows: d,
        }
    }

    /// Stores rows of a read.
    pub fn store_read(&mut self, rows: Rows, src: BufId, at: Place, w: Part) -> Stmt {
        let index = self.read_index(rows, at, w);
        let dst = RowsRef { tensor: rows.tensor, index, row_dim: rows.seq, col_dim: rows.feature };
        Stmt::StoreRows { dst, src: src.into(), rows: w.n, d: w.d, row_scale: None }
    }

    /// Stores numbers of a read, a vector.
    pub fn store_numbers(&mut self, rows: Rows, src: BufId, at: Place, w: Part) -> Stmt {
        let mut index = self.read_index(rows, at, w);
        index.remove(rows.feature);
        let seq = rows.seq - usize::from(rows.feature < rows.seq);
        let dst = RowsRef { tensor: rows.tensor, index, row_dim: seq, col_dim: seq };
        Stmt::StoreVec { dst, src: src.into(), rows: w.n }
    }

    fn read_index(&mut self, rows: Rows, at: Place, w: Part) -> Vec<ExprId> {
        let rank = 2 + usize::from(rows.batch.is_some()) + usize::from(rows.head.is_some());
        let mut index = vec![w.x; rank];
        index[rows.seq] = w.t;
        if let Some(d) = rows.batch {
            index[d] = at.b;
        }
        if let Some(d) = rows.head {
            index[d] = at.h;
        }
        index
    }

    /// Column 0 of a tile as a vector.
    pub fn first_column(&mut self, dst: BufId, src: BufId, rows: ExprId) -> Stmt {
        let one = self.int(1);
        self.map(dst, (rows, one), &[(src, Access::Row)], |m| m.reads[0])
    }

    /// The first column of block `u` of this task's blocks, and how many of `cols` there are.
    pub fn block(&mut self, first: ExprId, u: i64, cols: i64) -> (ExprId, ExprId) {
        let (lanes, zero, all) = (self.int(LANES), self.int(0), self.int(cols));
        let pool = self.pool();
        let block = pool.add_int(first, u);
        let x = pool.mul(block, lanes);
        let left = pool.sub(all, x);
        let some = pool.min(left, lanes);
        let d = pool.max(some, zero);
        (x, d)
    }
}
