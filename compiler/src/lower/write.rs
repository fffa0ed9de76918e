//! Lowering of a [`Write`]: rows overwritten in place.
//!
//! Comes in: a write of a kernel. Goes out: a launch that stores the rows; before it, where rows are quantised, one
//! that stores their scales, so that the rows are divided by what is stored. What holds: a task takes the rows along
//! one dim of the tensor (heads) at one point of the others. Places are in range and distinct: demanded at bind.

use crate::attn_ir::Write;
use crate::attn_ir::write::Scale;
use crate::expr::{BinaryOp, ExprId, Op, Pool, Ty, VarId};
use crate::tile_ir::{Access, BufId, Buffer, Launch, Program, ReduceOp, RowsRef, Stmt};

/// Elements of a tile, about.
const ELEMENTS: i64 = 4096;

/// Adds the launches of `w` to the program.
pub fn write(program: &mut Program, w: &Write) {
    let name = program.tensors[w.out.0 as usize].name.clone();
    if let Some(scale) = &w.scale {
        let launch = Lowering::new(program, w).scales(scale, format!("scale_{name}"));
        program.launches.push(launch);
    }
    let launch = Lowering::new(program, w).rows(format!("write_{name}"));
    program.launches.push(launch);
}

struct Lowering<'a> {
    program: &'a mut Program,
    w: &'a Write,
    grid: Vec<(VarId, ExprId)>,
    buffers: Vec<Buffer>,
    /// What stands for the rows' variables at row 0 of the task.
    first: Vec<(VarId, ExprId)>,
    /// The variable that runs along the rows of the tile.
    along: Option<VarId>,
    /// Rows of the tile, and at most.
    count: ExprId,
    most: i64,
}

impl<'a> Lowering<'a> {
    fn new(program: &'a mut Program, w: &'a Write) -> Lowering<'a> {
        let along = w.rows.iter().find(|(var, n)| {
            program.pool.as_int(*n).is_some() && w.place.iter().any(|&x| is_var(&program.pool, x, *var))
        });
        let along = along.map(|a| a.0);
        let (mut grid, mut first) = (Vec::new(), Vec::new());
        let (mut count, mut most) = (program.pool.int(1), 1);
        for &(var, extent) in &w.rows {
            let pool = &mut program.pool;
            let at = pool.add_var("g", Ty::Int);
            let g = pool.var(at);
            if Some(var) != along {
                grid.push((at, extent));
                first.push((var, g));
                continue;
            }
            most = pool.as_int(extent).unwrap_or(1).clamp(1, (ELEMENTS / w.feature.1.max(1)).max(1));
            let size = pool.int(most);
            let start = pool.mul(g, size);
            let left = pool.sub(extent, start);
            count = pool.min(left, size);
            grid.push((at, pool.ceil_div(extent, most)));
            first.push((var, start));
        }
        Lowering { program, w, grid, buffers: vec![], first, along, count, most }
    }

    fn pool(&mut self) -> &mut Pool {
        &mut self.program.pool
    }

    fn buffer(&mut self, name: &str, cols: i64) -> BufId {
        self.buffers.push(Buffer::new(name, self.most, cols));
        BufId(self.buffers.len() as u32 - 1)
    }

    fn launch(self, name: String, body: Vec<Stmt>) -> Launch {
        let taken = |n: &String| self.program.launches.iter().any(|l| l.name == *n);
        let numbered = (2..).map(|k| format!("{name}{k}"));
        let name = std::iter::once(name.clone()).chain(numbered).find(|n| !taken(n)).unwrap_or(name);
        Launch { name, grid: self.grid, buffers: self.buffers, body }
    }

    /// A map into a buffer of `cols` columns; `value` is over the rows' variables and the feature.
    fn map(&mut self, dst: BufId, cols: ExprId, reads: Vec<(VarId, BufId, Access)>, value: ExprId) -> Stmt {
        let pool = self.pool();
        let (row, col) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
        let (r, c) = (pool.var(row), pool.var(col));
        let mut subst = vec![(self.w.feature.0, c)];
        for (var, start) in self.first.clone() {
            let at = if Some(var) == self.along { self.pool().add(start, r) } else { start };
            subst.push((var, at));
        }
        let value = self.pool().substitute(value, &subst);
        Stmt::Map { dst, rows: self.count, cols, row, col, reads, value }
    }

    /// Where row 0 of the task lies, and the dim along which the rows run.
    fn place(&mut self, place: &[ExprId]) -> (Vec<ExprId>, usize) {
        let first = self.first.clone();
        let runs = |l: &Self, x| l.along.is_some_and(|v| is_var(&l.program.pool, x, v));
        let dim = place.iter().position(|&x| runs(self, x)).unwrap_or(0);
        (place.iter().map(|&x| self.pool().substitute(x, &first)).collect(), dim)
    }

    fn width(&mut self) -> ExprId {
        let width = self.w.feature.1;
        self.pool().int(width)
    }

    fn part(&mut self) -> BufId {
        self.buffer("part", (self.w.feature.1 + 15) / 16 * 16)
    }

    fn scales(mut self, scale: &Scale, name: String) -> Launch {
        let (part, top) = (self.part(), self.buffer("top", 1));
        let (width, one, rows) = (self.width(), self.pool().int(1), self.count);
        let value = self.map(part, width, vec![], self.w.value);
        let reduce = Stmt::ReduceRows { dst: top, op: ReduceOp::MaxAbs, src: part, rows, cols: width };
        let pool = self.pool();
        let largest = pool.add_var("largest", Ty::Float);
        let (x, limit) = (pool.var(largest), pool.float(scale.limit as f64));
        let divided = pool.binary(BinaryOp::Div, x, limit);
        let divide = self.map(top, one, vec![(largest, top, Access::Tile)], divided);
        let (index, dim) = self.place(&scale.place);
        let dst = RowsRef { tensor: scale.out, index, row_dim: dim, col_dim: dim };
        let store = Stmt::StoreVec { dst, src: top.into(), rows };
        self.launch(name, vec![value, reduce, divide, store])
    }

    fn rows(mut self, name: String) -> Launch {
        let part = self.part();
        let (width, rows) = (self.width(), self.count);
        let mut value = self.w.value;
        if let Some(scale) = &self.w.scale {
            let pool = self.pool();
            let stored = pool.load(scale.out, scale.place.clone(), Ty::Float);
            let (zero, low, high) =
                (pool.float(0.0), pool.float(-scale.limit as f64), pool.float(scale.limit as f64));
            let quotient = pool.binary(BinaryOp::Div, value, stored);
            let cut = pool.min(quotient, high);
            let cut = pool.max(cut, low);
            let none = pool.eq(stored, zero);
            value = pool.select(none, zero, cut);
        }
        let map = self.map(part, width, vec![], value);
        let (mut index, dim) = self.place(&self.w.place.clone());
        let col_dim = index.len();
        index.push(self.pool().int(0));
        let dst = RowsRef { tensor: self.w.out, index, row_dim: dim, col_dim };
        let store = Stmt::StoreRows { dst, src: part.into(), rows, d: width, row_scale: None };
        self.launch(name, vec![map, store])
    }
}

fn is_var(pool: &Pool, x: ExprId, var: VarId) -> bool {
    matches!(pool.op(x), Op::Var(v) if *v == var)
}
