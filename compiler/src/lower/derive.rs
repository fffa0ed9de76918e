//! Lowering of a [`Derive`]: a table made at bind, or one launch that computes the tensor tile by tile.
//!
//! Comes in: a derived tensor of a kernel. Goes out: a launch whose tasks each compute a run of rows of the last two
//! dims, or a run of elements of the last dim where its length is only known at run time. What holds: where the value compares the column with constants, the columns are divided there, so that
//! each part is a plain formula with contiguous loads; sums run over loops in a fixed order, in f32. Not here:
//! elementary functions, which a pass takes out of the maps.

use crate::attn_ir::Derive;
use crate::expr::{BinaryOp, ExprId, Op, Pool, Ty, VarId};
use crate::tile_ir::{Access, BufId, Buffer, Launch, Program, RowsRef, Stmt, TensorKind};

/// Elements of a tile, about.
const ELEMENTS: i64 = 4096;

/// Adds the launch of `d` to the program, or makes its tensor a table.
pub fn derive(program: &mut Program, d: &Derive) {
    if d.at_bind {
        return table(program, d);
    }
    if let Some(launch) = super::pages::launch(program, d) {
        program.launches.push(launch);
        return;
    }
    let mut l =
        Lowering { out: d, name: program.tensors[d.out.0 as usize].name.clone(), program, buffers: vec![] };
    let launch = l.launch();
    program.launches.push(launch);
}

/// The tensor is made by the runtime, in f64, before the launches.
fn table(program: &mut Program, d: &Derive) {
    let pool = &mut program.pool;
    let zero = pool.int(0);
    let vars: Vec<VarId> = d.index.iter().map(|_| pool.add_var("at", Ty::Int)).collect();
    let subst: Vec<(VarId, ExprId)> = d.index.iter().zip(&vars).map(|(i, v)| (*i, pool.var(*v))).collect();
    let value = pool.substitute(d.value, &subst);
    let origin = vec![zero; vars.len()];
    program.tensors[d.out.0 as usize].kind = TensorKind::Table { vars, origin, value };
}

/// One axis of a tile: the first index of the task, how many there are, and the most there can be.
#[derive(Clone, Copy)]
struct Run {
    first: ExprId,
    count: ExprId,
    most: i64,
}

struct Lowering<'a> {
    program: &'a mut Program,
    out: &'a Derive,
    name: String,
    buffers: Vec<Buffer>,
}

impl Lowering<'_> {
    fn pool(&mut self) -> &mut Pool {
        &mut self.program.pool
    }

    fn launch(&mut self) -> Launch {
        let d = self.out;
        let shape = self.program.tensors[d.out.0 as usize].shape.clone();
        let rank = shape.len();
        let mut grid = Vec::new();
        let mut at = Vec::new();
        let n_cols = shape.last().filter(|_| rank > 1).and_then(|&n| self.pool().as_int(n));
        for &extent in &shape[..rank.saturating_sub(1 + usize::from(n_cols.is_some()))] {
            let var = self.pool().add_var("g", Ty::Int);
            grid.push((var, extent));
            at.push(self.pool().var(var));
        }
        let one = Run { first: self.pool().int(0), count: self.pool().int(1), most: 1 };
        let mut body = Vec::new();
        match (n_cols, rank) {
            (_, 0) => self.vector(&at, one, &mut body),
            (None, _) => {
                let run = self.run(shape[rank - 1], ELEMENTS, &mut grid);
                self.vector(&at, run, &mut body);
            }
            (Some(n), _) => {
                let rows = self.run(shape[rank - 2], (ELEMENTS / n.max(1)).max(1), &mut grid);
                for (lo, hi) in self.segments(n) {
                    self.part(&at, rows, lo, hi, &mut body);
                }
            }
        }
        let name = format!("derive_{}", self.name);
        Launch { name, grid, buffers: std::mem::take(&mut self.buffers), body }
    }

    /// Tiles of at most `most` along an axis.
    fn run(&mut self, extent: ExprId, most: i64, grid: &mut Vec<(VarId, ExprId)>) -> Run {
        let most = self.pool().as_int(extent).map_or(most, |n| n.clamp(1, most));
        let pool = self.pool();
        let tiles = pool.ceil_div(extent, most);
        let var = pool.add_var("t", Ty::Int);
        let (t, size) = (pool.var(var), pool.int(most));
        let first = pool.mul(t, size);
        let left = pool.sub(extent, first);
        let count = pool.min(left, size);
        grid.push((var, tiles));
        Run { first, count, most }
    }

    /// Runs of the n columns between the constants with which the value compares the column.
    fn segments(&self, n: i64) -> Vec<(i64, i64)> {
        let Some(&col) = self.out.index.last() else { return vec![(0, n)] };
        let pool = &self.program.pool;
        let cuts = pool.reachable(&[self.out.value]).into_iter().filter_map(|id| comparison(pool, id, col));
        let mut cuts: Vec<i64> = cuts.map(|(cut, _)| cut.clamp(0, n)).chain([0, n]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        cuts.windows(2).map(|w| (w[0], w[1])).collect()
    }

    fn buffer(&mut self, rows: i64, cols: i64) -> BufId {
        let name = format!("part{}", self.buffers.len());
        self.buffers.push(Buffer::new(name, rows, cols));
        BufId(self.buffers.len() as u32 - 1)
    }

    /// Computes and stores columns lo..hi of a tile of rows.
    fn part(&mut self, at: &[ExprId], rows: Run, lo: i64, hi: i64, body: &mut Vec<Stmt>) {
        let buf = self.buffer(rows.most, (hi - lo + 15) / 16 * 16);
        let (first, count) = (self.pool().int(lo), self.pool().int(hi - lo));
        let (value, col) = (self.out.value, self.out.index.last().copied());
        let value = decided(self.pool(), value, col, lo, hi);
        let (row, col) = (self.pool().add_var("r", Ty::Int), self.pool().add_var("c", Ty::Int));
        let (r, c) = (self.pool().var(row), self.pool().var(col));
        let places = [self.pool().add(rows.first, r), self.pool().add(first, c)];
        self.sum(buf, (rows.count, row), (count, col), &[at, &places].concat(), value, body);
        let rank = at.len() + 2;
        let dst = RowsRef {
            tensor: self.out.out,
            index: [at, &[rows.first, first]].concat(),
            row_dim: rank - 2,
            col_dim: rank - 1,
        };
        body.push(Stmt::StoreRows { dst, src: buf.into(), rows: rows.count, d: count, row_scale: None });
    }

    /// Computes and stores a run of elements along the last dim.
    fn vector(&mut self, at: &[ExprId], run: Run, body: &mut Vec<Stmt>) {
        let buf = self.buffer(run.most, 1);
        let (row, col) = (self.pool().add_var("r", Ty::Int), self.pool().add_var("c", Ty::Int));
        let (r, one) = (self.pool().var(row), self.pool().int(1));
        let place = self.pool().add(run.first, r);
        let rank = self.out.index.len();
        let places = if rank == 0 { vec![] } else { [at, &[place]].concat() };
        let value = self.out.value;
        self.sum(buf, (run.count, row), (one, col), &places, value, body);
        let index = if rank == 0 { vec![] } else { [at, &[run.first]].concat() };
        let dim = rank.saturating_sub(1);
        let dst = RowsRef { tensor: self.out.out, index, row_dim: dim, col_dim: dim };
        body.push(Stmt::StoreVec { dst, src: buf.into(), rows: run.count });
    }

    /// The value, or its sum over the summed variables.
    fn sum(
        &mut self,
        buf: BufId,
        (rows, row): (ExprId, VarId),
        (cols, col): (ExprId, VarId),
        places: &[ExprId],
        value: ExprId,
        body: &mut Vec<Stmt>,
    ) {
        let d = self.out;
        let mut subst: Vec<(VarId, ExprId)> = d.index.iter().copied().zip(places.iter().copied()).collect();
        let mut loops = Vec::new();
        for (var, extent) in &d.sum {
            let counter = self.pool().add_var("n", Ty::Int);
            subst.push((*var, self.program.pool.var(counter)));
            loops.push((counter, *extent));
        }
        let pool = self.pool();
        let value = pool.substitute(value, &subst);
        let value = as_float(pool, value);
        let map = |reads, value| Stmt::Map { dst: buf, rows, cols, row, col, reads, value };
        if loops.is_empty() {
            body.push(map(vec![], value));
            return;
        }
        body.push(Stmt::Fill { dst: buf, value: 0.0 });
        let sum = pool.add_var("sum", Ty::Float);
        let old = pool.var(sum);
        let value = pool.add(old, value);
        let mut inner = map(vec![(sum, buf, Access::Tile)], value);
        let zero = pool.int(0);
        for (var, extent) in loops.into_iter().rev() {
            inner = Stmt::For { var, lo: zero, hi: extent, body: vec![inner] };
        }
        body.push(inner);
    }
}

/// Buffers hold floats.
fn as_float(pool: &mut Pool, value: ExprId) -> ExprId {
    match pool.ty(value) {
        Ty::Float => value,
        Ty::Int => pool.unary(crate::expr::UnaryOp::ToFloat, value),
        Ty::Bool => {
            let (one, zero) = (pool.float(1.0), pool.float(0.0));
            pool.select(value, one, zero)
        }
    }
}

/// `col < cut`, or its negation: the cut, and whether the comparison holds below it.
fn comparison(pool: &Pool, id: ExprId, col: VarId) -> Option<(i64, bool)> {
    let Op::Binary(op, a, b) = *pool.op(id) else { return None };
    let is_col = |x: ExprId| matches!(pool.op(x), Op::Var(v) if *v == col);
    match (op, pool.as_int(a), pool.as_int(b)) {
        (BinaryOp::Lt, _, Some(c)) if is_col(a) => Some((c, true)),
        (BinaryOp::Le, _, Some(c)) if is_col(a) => Some((c.checked_add(1)?, true)),
        (BinaryOp::Lt, Some(c), _) if is_col(b) => Some((c.checked_add(1)?, false)),
        (BinaryOp::Le, Some(c), _) if is_col(b) => Some((c, false)),
        _ => None,
    }
}

/// The value for columns lo..hi, which no comparison with a constant divides.
fn decided(pool: &mut Pool, value: ExprId, col: Option<VarId>, lo: i64, hi: i64) -> ExprId {
    let Some(col) = col else { return value };
    let original = pool.clone();
    pool.rewrite(value, &mut |pool, id| {
        let (cut, below) = comparison(&original, id, col)?;
        if hi <= cut {
            Some(pool.bool(below))
        } else if lo >= cut {
            Some(pool.bool(!below))
        } else {
            None
        }
    })
}
