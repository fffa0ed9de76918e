//! Lowering of [`Top`] and [`Count`]: one launch each.
//!
//! Comes in: what is ranked or listed. Goes out: a task for each row that is ranked; a task for each tile of lists and
//! numbers, which goes through the lists entry by entry. What holds: sizes that are only known at launch stay
//! expressions; nothing is sorted. Not here: blocks of largest pooled score (`rank.rs`).

use crate::attn_ir::{Count, Top};
use crate::expr::{ExprId, Pool, Ty, UnaryOp, VarId};
use crate::tile_ir::{Access, BufId, Buffer, FlatRef, Launch, Program, Require, RowsRef, Stmt};

/// Coordinates over leading dims.
pub(super) fn grid_over(pool: &mut Pool, lead: &[ExprId]) -> (Vec<(VarId, ExprId)>, Vec<ExprId>) {
    let grid: Vec<(VarId, ExprId)> = lead.iter().map(|&n| (pool.add_var("g", Ty::Int), n)).collect();
    let at = grid.iter().map(|(v, _)| pool.var(*v)).collect();
    (grid, at)
}

/// Flat position of the row `at` of rows of `width` elements.
fn row_start(pool: &mut Pool, lead: &[ExprId], at: &[ExprId], width: ExprId) -> ExprId {
    let zero = pool.int(0);
    let row = lead.iter().zip(at).fold(zero, |flat, (&n, &x)| {
        let above = pool.mul(flat, n);
        pool.add(above, x)
    });
    pool.mul(row, width)
}

/// Adds the launch of a choice of the largest.
pub fn top(program: &mut Program, step: &Top) {
    let shape_of = |program: &Program, t: crate::expr::TensorId| program.tensors[t.0 as usize].shape.clone();
    let (source, chosen) = (shape_of(program, step.source), shape_of(program, step.indices));
    let rank = source.len();
    let name = format!("top_{}", program.tensors[step.indices.0 as usize].name);
    let pool = &mut program.pool;
    let (lead, n, width) = (&source[..rank - 1], source[rank - 1], chosen[rank - 1]);
    let (grid, at) = grid_over(pool, lead);
    let indices = FlatRef { tensor: step.indices, offset: row_start(pool, lead, &at, width) };
    let ranks = Some(FlatRef { tensor: step.ranks, offset: row_start(pool, lead, &at, n) });
    let index = at.into_iter().chain([pool.int(0)]).collect();
    let src = RowsRef { tensor: step.source, index, row_dim: rank - 1, col_dim: rank - 1 };
    let body = vec![Stmt::TopK { indices, ranks, src, n, m: step.count, width }];
    push(program, Launch { name, grid, buffers: vec![], body });
}

pub(super) fn push(program: &mut Program, mut launch: Launch) {
    launch.name = super::fresh(&launch.name, program.launches.iter().map(|l| l.name.as_str()));
    program.launches.push(launch);
}

/// Lists and numbers of a tile.
const COUNT_TILE: (i64, i64) = (16, 64);

/// Tiles of `most` along an axis: coordinate, first, count.
pub(super) fn tiled(
    pool: &mut Pool,
    extent: ExprId,
    most: i64,
    grid: &mut Vec<(VarId, ExprId)>,
) -> (ExprId, ExprId, ExprId) {
    let var = pool.add_var("t", Ty::Int);
    let (t, size) = (pool.var(var), pool.int(most));
    let first = pool.mul(t, size);
    let left = pool.sub(extent, first);
    grid.push((var, pool.ceil_div(extent, most)));
    (t, first, pool.min(left, size))
}

/// Adds the launch that counts the entries of lists.
pub fn count(program: &mut Program, step: &Count) {
    let lists = program.tensors[step.lists.0 as usize].shape.clone();
    let counts = program.tensors[step.out.0 as usize].shape.clone();
    let name = format!("count_{}", program.tensors[step.lists.0 as usize].name);
    let message = format!(
        "`{}` has no list for some queries: give one to each block of them",
        program.tensors[step.lists.0 as usize].name
    );
    program.requires.push(Require { cond: step.enough, message });
    let rank = lists.len();
    let pool = &mut program.pool;
    let (mut grid, at) = grid_over(pool, &lists[..rank - 2]);
    let (_, row0, rows) = tiled(pool, lists[rank - 2], COUNT_TILE.0, &mut grid);
    let (_, col0, cols) = tiled(pool, counts[rank - 1], COUNT_TILE.1, &mut grid);
    let (alive, sums) = (BufId(0), BufId(1));
    let buffers =
        vec![Buffer::new("alive", COUNT_TILE.0, 1), Buffer::new("counts", COUNT_TILE.0, COUNT_TILE.1)];
    let entry_var = pool.add_var("n", Ty::Int);
    let n = pool.var(entry_var);
    let (zero, one) = (pool.int(0), pool.int(1));
    let mut inner = Vec::new();
    for (dst, width) in [(alive, one), (sums, cols)] {
        let (row, col) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
        let (old_var, alive_var) = (pool.add_var("old", Ty::Float), pool.add_var("alive", Ty::Float));
        let (r, c) = (pool.var(row), pool.var(col));
        let line = pool.add(row0, r);
        let index = at.iter().copied().chain([line, n]).collect();
        let entry = pool.load(step.lists, index, Ty::Int);
        let old = pool.var(old_var);
        let mut reads = vec![(old_var, dst, Access::Tile)];
        let value = if dst == alive {
            let (ended, none) = (pool.lt(entry, zero), pool.float(0.0));
            pool.select(ended, none, old)
        } else {
            reads.push((alive_var, alive, Access::Row));
            let (number, alive) = (pool.add(col0, c), pool.var(alive_var));
            let (same, more) = (pool.eq(entry, number), pool.add(old, alive));
            pool.select(same, more, old)
        };
        inner.push(Stmt::Map { dst, rows, cols: width, row, col, reads, value });
    }
    let mut body = vec![Stmt::Fill { dst: alive, value: 1.0 }, Stmt::Fill { dst: sums, value: 0.0 }];
    body.push(Stmt::For { var: entry_var, lo: zero, hi: lists[rank - 1], body: inner });
    let (row, col) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
    let sum = pool.add_var("sum", Ty::Float);
    let value = pool.var(sum);
    let value = pool.unary(UnaryOp::ToInt, value);
    let index = at.into_iter().chain([row0, col0]).collect();
    let dst = RowsRef { tensor: step.out, index, row_dim: rank - 2, col_dim: rank - 1 };
    body.push(Stmt::StoreMap { dst, rows, cols, row, col, reads: vec![(sum, sums, Access::Tile)], value });
    push(program, Launch { name, grid, buffers, body });
}
