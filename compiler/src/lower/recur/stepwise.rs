//! A recurrence of any form, one step after the other.
//!
//! Comes in: a recurrence. Goes out: one launch with a task for every (b, h) and group of blocks of 32 columns of the
//! matrix states, or a reason why the columns cannot be taken apart. What holds: a row runs along the rows of the
//! states (`[1, R]`, the same in all tasks) or along their columns (`[1, 32]` for each block); `x @ s` turns the one
//! kind into the other, and nothing turns it back: that would need all columns at once. Sums over columns (a dot of
//! such rows) are formed where one task has all of them. Not here: chunks.

use std::collections::HashMap;

use super::emit::{Emit, LANES, Product, Tasks, padded};
use super::rows::{Part, Place};
use crate::attn_ir::recur::{NodeId, RecurOp, Recurrence, Shape};
use crate::expr::{ExprId, VarId};
use crate::tile_ir::{Access, BufId, Launch, Program, ReduceOp, Stmt};

/// Most blocks of a task that does not need all.
const MOST_BLOCKS: i64 = 2;

/// Which way a row runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Along {
    /// The rows of the states.
    Rows,
    /// Block `.0` of their columns.
    Cols(usize),
}

type Done<T> = Result<T, String>;

/// Adds the launch.
///
/// # Errors
/// Rows along columns where rows along rows are needed; states with different columns.
pub fn steps(program: &mut Program, r: &Recurrence) -> Done<()> {
    let cols = columns(r)?;
    let by_cols = kinds(r)?;
    let n_blocks = (cols.unwrap_or(0) + LANES - 1) / LANES;
    let whole = r.nodes.iter().any(|n| match n.op {
        RecurOp::Dot(x, y) => along_cols(r, &by_cols, x) || along_cols(r, &by_cols, y),
        _ => false,
    });
    let per_task = if whole { n_blocks } else { n_blocks.min(MOST_BLOCKS) };
    let n_tasks = if per_task == 0 { 1 } else { (n_blocks + per_task - 1) / per_task };
    let mut e = Emit { program, buffers: vec![] };
    let mut body = Vec::new();
    let Tasks { grid, at, group, first } = e.tasks(r, n_tasks, per_task, &mut body);
    let blocks = (0..per_task).map(|u| e.block(first, u, cols.unwrap_or(0))).collect();
    let zero = e.int(0);
    let leads = e.pool().eq(group, zero);
    let mut s =
        Stepwise { e, r, at, blocks, leads, by_cols, states: HashMap::new(), given: HashMap::new(), t: zero };
    s.run(&mut body)?;
    let buffers = s.e.buffers;
    let name = super::super::fresh("recur_steps", program.launches.iter().map(|l| l.name.as_str()));
    program.launches.push(Launch { name, grid, buffers, body });
    Ok(())
}

/// The columns of the matrix states.
fn columns(r: &Recurrence) -> Done<Option<i64>> {
    let mut cols = None;
    for s in &r.states {
        let Shape::Mat(_, c) = s.shape else { continue };
        if cols.is_some_and(|have| have != c) {
            return Err(format!("state `{}` has other columns than the states before it", s.name));
        }
        cols = Some(c);
    }
    Ok(cols)
}

/// True for a row that runs along columns.
fn along_cols(r: &Recurrence, by_cols: &[bool], id: NodeId) -> bool {
    match &r.node(id).op {
        RecurOp::VecMat(..) => true,
        RecurOp::State(n) => by_cols[*n],
        RecurOp::Map { args, .. } => {
            args.iter().any(|a| matches!(r.node(a.1).shape, Shape::Row(_)) && along_cols(r, by_cols, a.1))
        }
        _ => false,
    }
}

/// For each state, whether it is a row along columns.
fn kinds(r: &Recurrence) -> Done<Vec<bool>> {
    let mut by_cols = vec![false; r.states.len()];
    let is_row_state = |id: NodeId| match r.node(id).op {
        RecurOp::State(n) if matches!(r.states[n].shape, Shape::Row(_)) => Some(n),
        _ => None,
    };
    loop {
        let before = by_cols.clone();
        for (state, value) in &r.updates {
            if matches!(r.states[*state].shape, Shape::Row(_)) && along_cols(r, &by_cols, *value) {
                by_cols[*state] = true;
            }
        }
        for node in &r.nodes {
            if let RecurOp::Outer(_, y) = node.op
                && let Some(n) = is_row_state(y)
            {
                by_cols[n] = true;
            }
        }
        if before == by_cols {
            break;
        }
    }
    for node in &r.nodes {
        let left = match node.op {
            RecurOp::Outer(x, _) | RecurOp::VecMat(x, _) => x,
            _ => continue,
        };
        if along_cols(r, &by_cols, left) {
            return Err("the left side of an `outer` or `@` needs all columns of a state at once".into());
        }
    }
    Ok(by_cols)
}

/// A row or number of a map.
struct Reads {
    vars: Vec<(VarId, ExprId)>,
    reads: Vec<(BufId, Access)>,
}

struct Stepwise<'a> {
    e: Emit<'a>,
    r: &'a Recurrence,
    at: Place,
    /// First column and columns of each block.
    blocks: Vec<(ExprId, ExprId)>,
    /// True of the one task of (b, h) that stores what all have.
    leads: ExprId,
    by_cols: Vec<bool>,
    /// Buffer of a state; of a matrix or of a row along columns, for each block.
    states: HashMap<(usize, usize), BufId>,
    /// Rows of this step that no state changes.
    given: HashMap<(NodeId, Along), BufId>,
    /// The step.
    t: ExprId,
}

impl Stepwise<'_> {
    fn run(&mut self, body: &mut Vec<Stmt>) -> Done<()> {
        let (r, at) = (self.r, self.at);
        for (n, s) in r.states.iter().enumerate() {
            for u in 0..self.n_buffers(n) {
                let buf = match s.shape {
                    Shape::Mat(rows, _) => self.e.buffer("s", rows, LANES),
                    _ if self.by_cols[n] => self.e.buffer("row", 1, LANES),
                    other => self.e.buffer("row", 1, padded(other.len() as i64)),
                };
                self.states.insert((n, u), buf);
                if let Shape::Mat(..) = s.shape {
                    body.extend(self.e.load_state(r, s, buf, at, self.blocks[u]));
                } else {
                    self.load_row_state(n, u, buf, body);
                }
            }
        }
        let (counter, t) = self.e.counter("step");
        self.t = t;
        let mut inner = Vec::new();
        for (state, value) in &r.updates {
            self.update(*state, *value, &mut inner)?;
        }
        for n in 0..r.reads.len() {
            self.read(n, &mut inner)?;
        }
        let lo = self.e.int(0);
        body.push(Stmt::For { var: counter, lo, hi: r.steps, body: inner });
        for (n, s) in r.states.iter().enumerate() {
            let Some(last) = s.last else { continue };
            for u in 0..self.n_buffers(n) {
                let buf = self.states[&(n, u)];
                if let Shape::Mat(rows, _) = s.shape {
                    body.push(self.e.store_matrix(r, last, rows, buf, at, self.blocks[u]));
                    continue;
                }
                let (x, d, most) = self.extent(n, u);
                let column = self.e.buffer("column", most, 1);
                let one = self.e.int(1);
                let turned = Stmt::Transpose { dst: column, src: buf, rows: one, cols: d };
                let stored = self.e.store_vector(r, last, column, at, (x, d));
                if self.by_cols[n] {
                    body.extend([turned, stored]);
                } else {
                    body.push(Stmt::If { cond: self.leads, then: vec![turned, stored], otherwise: vec![] });
                }
            }
        }
        Ok(())
    }

    /// Buffers of a state: one for each block, or one.
    fn n_buffers(&self, state: usize) -> usize {
        match self.r.states[state].shape {
            Shape::Mat(..) => self.blocks.len(),
            _ if self.by_cols[state] => self.blocks.len(),
            _ => 1,
        }
    }

    /// First element, elements and most elements of a buffer of a row state.
    fn extent(&mut self, state: usize, u: usize) -> (ExprId, ExprId, i64) {
        if self.by_cols[state] {
            let (x, d) = self.blocks[u];
            return (x, d, LANES);
        }
        let n = self.r.states[state].shape.len() as i64;
        (self.e.int(0), self.e.int(n), n)
    }

    fn load_row_state(&mut self, state: usize, u: usize, buf: BufId, body: &mut Vec<Stmt>) {
        use crate::attn_ir::recur::Init;
        let (r, at) = (self.r, self.at);
        let (x, d, _) = self.extent(state, u);
        body.push(Stmt::Fill { dst: buf, value: 0.0 });
        let one = self.e.int(1);
        let init = r.states[state].init;
        body.push(self.e.map(buf, (one, d), &[], |m| match init {
            Init::Number(e) => e,
            Init::Tensor(tensor) => {
                let at_x = m.pool.add(x, m.c);
                let lead = r.batch.map(|_| at.b).into_iter().chain(r.heads.map(|_| at.h));
                let index = lead.chain([at_x]).collect();
                m.pool.load(tensor, index, crate::expr::Ty::Float)
            }
        }));
    }

    /// A number at this step.
    fn number(&mut self, e: ExprId) -> ExprId {
        let e = self.e.placed(self.r, e, self.at);
        let (var, t) = (self.r.vars.t, self.t);
        self.e.pool().substitute(e, &[(var, t)])
    }

    /// A row that no state changes, loaded once a step.
    fn given(&mut self, id: NodeId, along: Along, body: &mut Vec<Stmt>) -> BufId {
        if let Some(buf) = self.given.get(&(id, along)) {
            return *buf;
        }
        let r = self.r;
        let node = r.node(id);
        let (zero, one, n) = (self.e.int(0), self.e.int(1), self.e.int(node.shape.len() as i64));
        let (x, d, width) = match along {
            Along::Rows => (zero, n, padded(node.shape.len() as i64)),
            Along::Cols(u) => (self.blocks[u].0, self.blocks[u].1, LANES),
        };
        let buf = self.e.buffer("x", 1, width);
        let w = Part { t: self.t, n: one, x, d };
        body.push(self.e.load_rows(r, &node.op, buf, self.at, w));
        self.given.insert((id, along), buf);
        buf
    }

    /// How many elements a row has.
    fn count(&mut self, id: NodeId, along: Along) -> ExprId {
        match along {
            Along::Rows => self.e.int(self.r.node(id).shape.len() as i64),
            Along::Cols(u) => self.blocks[u].1,
        }
    }

    /// A row, `[1, n]`.
    fn row(&mut self, id: NodeId, along: Along, body: &mut Vec<Stmt>) -> Done<BufId> {
        let (r, one) = (self.r, self.e.int(1));
        match &r.node(id).op {
            RecurOp::Row(_) => Ok(self.given(id, along, body)),
            RecurOp::State(n) => match (along, self.by_cols[*n]) {
                (Along::Rows, false) => Ok(self.states[&(*n, 0)]),
                (Along::Cols(u), true) => Ok(self.states[&(*n, u)]),
                _ => Err(format!("state `{}` is needed along rows and along columns", r.states[*n].name)),
            },
            RecurOp::VecMat(x, m) => {
                let Along::Cols(u) = along else {
                    return Err("a row times a state is needed with all its columns at once".into());
                };
                let a = self.row(*x, Along::Rows, body)?;
                let b = self.matrix(*m, u, body)?;
                let c = self.e.buffer("y", 1, LANES);
                let (k, n) = (self.count(*x, Along::Rows), self.blocks[u].1);
                let product = Product { c, a, b, sizes: [one, k, n], add: None, skip_zero: false };
                body.push(self.e.product(product));
                Ok(c)
            }
            RecurOp::Map { args, value } => {
                let width = match along {
                    Along::Rows => padded(r.node(id).shape.len() as i64),
                    Along::Cols(_) => LANES,
                };
                let cols = self.count(id, along);
                let mut reads = Reads { vars: vec![], reads: vec![] };
                for (var, arg) in args {
                    let read = match r.node(*arg).shape {
                        Shape::Scalar => (self.scalar(*arg, body)?, Access::Row),
                        _ => (self.row(*arg, along, body)?, Access::Tile),
                    };
                    self.add(&mut reads, *var, read);
                }
                let dst = self.e.buffer("y", 1, width);
                self.mapped(dst, (one, cols), *value, reads, body);
                Ok(dst)
            }
            _ => Err("this is not a row".into()),
        }
    }

    fn add(&mut self, to: &mut Reads, var: VarId, read: (BufId, Access)) {
        let at = self.e.pool().var(var);
        to.vars.push((var, at));
        to.reads.push(read);
    }

    /// `dst = value`, over the elements of the reads.
    fn mapped(
        &mut self,
        dst: BufId,
        size: (ExprId, ExprId),
        value: ExprId,
        reads: Reads,
        body: &mut Vec<Stmt>,
    ) {
        let value = self.number(value);
        body.push(self.e.map(dst, size, &reads.reads, |m| {
            let subst: Vec<(VarId, ExprId)> =
                reads.vars.iter().zip(&m.reads).map(|((v, _), x)| (*v, *x)).collect();
            m.pool.substitute(value, &subst)
        }));
    }

    /// A number, `[1, 1]`.
    fn scalar(&mut self, id: NodeId, body: &mut Vec<Stmt>) -> Done<BufId> {
        let (r, one) = (self.r, self.e.int(1));
        match &r.node(id).op {
            RecurOp::Scalar(e) => {
                let dst = self.e.buffer("number", 1, 1);
                self.mapped(dst, (one, one), *e, Reads { vars: vec![], reads: vec![] }, body);
                Ok(dst)
            }
            RecurOp::Map { args, value } => {
                let mut reads = Reads { vars: vec![], reads: vec![] };
                for (var, arg) in args {
                    let read = (self.scalar(*arg, body)?, Access::Tile);
                    self.add(&mut reads, *var, read);
                }
                let dst = self.e.buffer("number", 1, 1);
                self.mapped(dst, (one, one), *value, reads, body);
                Ok(dst)
            }
            RecurOp::Dot(x, y) => {
                let by_cols = along_cols(r, &self.by_cols, *x) || along_cols(r, &self.by_cols, *y);
                let parts: Vec<Along> = if by_cols {
                    (0..self.blocks.len()).map(Along::Cols).collect()
                } else {
                    vec![Along::Rows]
                };
                let mut total: Option<BufId> = None;
                for along in parts {
                    let part = self.dot(*x, *y, along, body)?;
                    if let Some(total) = total {
                        let reads = [(total, Access::Tile), (part, Access::Tile)];
                        let sum =
                            self.e.map(total, (one, one), &reads, |m| m.pool.add(m.reads[0], m.reads[1]));
                        body.push(sum);
                    }
                    total = total.or(Some(part));
                }
                total.ok_or_else(|| "a dot of no columns".into())
            }
            _ => Err("this is not a number".into()),
        }
    }

    fn dot(&mut self, x: NodeId, y: NodeId, along: Along, body: &mut Vec<Stmt>) -> Done<BufId> {
        let (one, n) = (self.e.int(1), self.count(x, along));
        let (a, b) = (self.row(x, along, body)?, self.row(y, along, body)?);
        let width = self.e.buffers[a.0 as usize].cols;
        let product = self.e.buffer("product", 1, width);
        let reads = [(a, Access::Tile), (b, Access::Tile)];
        body.push(self.e.map(product, (one, n), &reads, |m| m.pool.mul(m.reads[0], m.reads[1])));
        let dst = self.e.buffer("number", 1, 1);
        body.push(Stmt::ReduceRows { dst, op: ReduceOp::Sum, src: product, rows: one, cols: n });
        Ok(dst)
    }

    /// A number as a row of 32 that are the same, to be read by a tile.
    fn spread(&mut self, number: BufId, body: &mut Vec<Stmt>) -> BufId {
        let (one, lanes) = (self.e.int(1), self.e.int(LANES));
        let dst = self.e.buffer("spread", 1, LANES);
        body.push(self.e.map(dst, (one, lanes), &[(number, Access::Row)], |m| m.reads[0]));
        dst
    }

    /// Reads of a matrix's element: buffers, and the element in terms of them.
    fn element(&mut self, id: NodeId, u: usize, reads: &mut Reads, body: &mut Vec<Stmt>) -> Done<ExprId> {
        let r = self.r;
        let mut fresh = |this: &mut Self, read| {
            let var = this.e.pool().add_var("y", crate::expr::Ty::Float);
            this.add(reads, var, read);
            this.e.pool().var(var)
        };
        match &r.node(id).op {
            RecurOp::State(n) => {
                let buf = self.states[&(*n, u)];
                Ok(fresh(self, (buf, Access::Tile)))
            }
            RecurOp::Outer(x, y) => {
                let (row, col) = (self.row(*x, Along::Rows, body)?, self.row(*y, Along::Cols(u), body)?);
                let n = r.node(*x).shape.len() as i64;
                let column = self.e.buffer("column", n, 1);
                let (one, n) = (self.e.int(1), self.e.int(n));
                body.push(Stmt::Transpose { dst: column, src: row, rows: one, cols: n });
                let (a, b) = (fresh(self, (column, Access::Row)), fresh(self, (col, Access::Col)));
                Ok(self.e.pool().mul(a, b))
            }
            RecurOp::Map { args, value } => {
                let mut subst = Vec::new();
                for (var, arg) in args {
                    let element = match r.node(*arg).shape {
                        Shape::Scalar => {
                            let number = self.scalar(*arg, body)?;
                            let spread = self.spread(number, body);
                            let own = self.e.pool().add_var("y", crate::expr::Ty::Float);
                            self.add(reads, own, (spread, Access::Col));
                            self.e.pool().var(own)
                        }
                        _ => self.element(*arg, u, reads, body)?,
                    };
                    subst.push((*var, element));
                }
                Ok(self.e.pool().substitute(*value, &subst))
            }
            _ => Err("this is not a matrix".into()),
        }
    }

    /// Block u of a matrix in a buffer.
    fn matrix(&mut self, id: NodeId, u: usize, body: &mut Vec<Stmt>) -> Done<BufId> {
        if let RecurOp::State(n) = self.r.node(id).op {
            return Ok(self.states[&(n, u)]);
        }
        let Shape::Mat(rows, _) = self.r.node(id).shape else { return Err("this is not a matrix".into()) };
        let mut reads = Reads { vars: vec![], reads: vec![] };
        let value = self.element(id, u, &mut reads, body)?;
        let dst = self.e.buffer("m", rows, LANES);
        let size = (self.e.int(rows), self.blocks[u].1);
        self.mapped(dst, size, value, reads, body);
        Ok(dst)
    }

    fn update(&mut self, state: usize, value: NodeId, body: &mut Vec<Stmt>) -> Done<()> {
        let shape = self.r.states[state].shape;
        if let Shape::Mat(rows, _) = shape {
            // What the elements are made of is computed for all blocks before any block changes.
            let mut ready = Vec::new();
            for u in 0..self.blocks.len() {
                let mut reads = Reads { vars: vec![], reads: vec![] };
                let element = self.element(value, u, &mut reads, body)?;
                ready.push((element, reads));
            }
            for (u, (element, reads)) in ready.into_iter().enumerate() {
                let size = (self.e.int(rows), self.blocks[u].1);
                self.mapped(self.states[&(state, u)], size, element, reads, body);
            }
            return Ok(());
        }
        let alongs: Vec<Along> = if self.by_cols[state] {
            (0..self.blocks.len()).map(Along::Cols).collect()
        } else {
            vec![Along::Rows]
        };
        let mut ready = Vec::new();
        for along in alongs {
            ready.push((along, self.row(value, along, body)?));
        }
        for (u, (along, row)) in ready.into_iter().enumerate() {
            let (one, n) = (self.e.int(1), self.count(value, along));
            let dst = self.states[&(state, u)];
            if dst != row {
                body.push(self.e.map(dst, (one, n), &[(row, Access::Tile)], |m| m.reads[0]));
            }
        }
        Ok(())
    }

    fn read(&mut self, n: usize, body: &mut Vec<Stmt>) -> Done<()> {
        let (r, at) = (self.r, self.at);
        let read = r.reads[n];
        let (zero, one) = (self.e.int(0), self.e.int(1));
        let mut own = Vec::new();
        match r.node(read.node).shape {
            Shape::Scalar => {
                let number = self.scalar(read.node, &mut own)?;
                let w = Part { t: self.t, n: one, x: zero, d: one };
                own.push(self.e.store_numbers(read.rows, number, at, w));
            }
            _ if along_cols(r, &self.by_cols, read.node) => {
                for u in 0..self.blocks.len() {
                    let row = self.row(read.node, Along::Cols(u), body)?;
                    let (x, d) = self.blocks[u];
                    let w = Part { t: self.t, n: one, x, d };
                    body.push(self.e.store_read(read.rows, row, at, w));
                }
                return Ok(());
            }
            shape => {
                let row = self.row(read.node, Along::Rows, &mut own)?;
                let w = Part { t: self.t, n: one, x: zero, d: self.e.int(shape.len() as i64) };
                own.push(self.e.store_read(read.rows, row, at, w));
            }
        }
        // Every task of (b, h) has it: one stores it. What it loaded for itself the others do not have.
        self.given.retain(|_, _| false);
        body.push(Stmt::If { cond: self.leads, then: own, otherwise: vec![] });
        Ok(())
    }
}
