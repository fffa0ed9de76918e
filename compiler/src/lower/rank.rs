//! Lowering of [`Rank`]: windows packed by their place in a block, then one task for each tile of queries that choose.
//!
//! Comes in: pooled scores as an expression of dots. Goes out: for each dot a launch that packs its windows so that
//! column c of the t-th group of panels is the t-th window of block c, and a launch that goes through the blocks tile by
//! tile: products, the score of each block, the largest so far; then the bits. What holds: no score is stored; bits take
//! a byte for each (group, row, block), and a 16th of that for tiles. Not here: what a score means.

use super::choose::{grid_over, push, tiled};
use crate::artifact::{DType, PANEL};
use crate::attn_ir::{Dot, Fact, RANK_ROWS, Rank, Rows};
use crate::expr::{ExprId, Pool, TensorId, Ty, VarId};
use crate::mask::{self, TileBox};
use crate::tile_ir::{
    Access, BufId, Buffer, Launch, Operand, PanelRef, Program, ReduceOp, Require, Rest, RowsRef, Stmt,
    TensorDecl, TensorKind,
};

const LANES: i64 = PANEL as i64;
/// Blocks of a tile.
const BLOCKS: i64 = 64;
/// Most blocks that a row can choose where the count is only known at launch, and where it is a constant.
const MOST: (i64, i64) = (256, 4096);

/// Windows of a dot in panels.
struct Packed {
    tensor: TensorId,
    rows: Rows,
    d: i64,
}

/// Adds the launches of a choice of blocks.
pub fn rank(program: &mut Program, step: &Rank) {
    let packed: Vec<Packed> = step.dots.iter().map(|dot| pack(program, step, dot)).collect();
    let (most, bounded) = match program.pool.as_int(step.count) {
        Some(n) => (n.clamp(1, MOST.1), n <= MOST.1),
        None => (MOST.0, false),
    };
    if !bounded {
        let limit = program.pool.int(most);
        let cond = program.pool.le(step.count, limit);
        let message = format!("at most {most} blocks are chosen for a query");
        program.requires.push(Require { cond, message });
    }
    let mut l = Lowering { program, step, packed: &packed, buffers: vec![], most };
    let launch = l.launch();
    push(program, launch);
}

/// Windows of a block, at most.
fn windows_of_block(step: &Rank) -> i64 {
    (step.size + step.stride - 1) / step.stride
}

/// The t-th window of a block.
fn nth_of_block(pool: &mut Pool, step: &Rank, block: ExprId, t: ExprId) -> ExprId {
    let size = pool.int(step.size);
    let start = pool.mul(block, size);
    let first = pool.ceil_div(start, step.stride);
    pool.add(first, t)
}

/// True if the window exists and begins in the block.
fn exists(pool: &mut Pool, step: &Rank, block: ExprId, w: ExprId) -> ExprId {
    let (size, stride) = (pool.int(step.size), pool.int(step.stride));
    let after = pool.add_int(block, 1);
    let (end, start) = (pool.mul(after, size), pool.mul(w, stride));
    let (inside, there) = (pool.lt(start, end), pool.lt(w, step.windows));
    pool.and(inside, there)
}

/// Declares and fills the panels of a dot's windows: `[batch, heads, place in a block, panels of blocks, features, 32]`.
fn pack(program: &mut Program, step: &Rank, dot: &Dot) -> Packed {
    let rows = dot.y;
    let decl = &program.tensors[rows.tensor.0 as usize];
    let (shape, name) = (decl.shape.clone(), decl.name.clone());
    let blocks = program.tensors[step.out.0 as usize].shape[3];
    let pool = &mut program.pool;
    let (one, zero) = (pool.int(1), pool.int(0));
    let d = pool.as_int(shape[rows.feature]).unwrap_or(1);
    let extent = |dim: Option<usize>| dim.map_or(one, |d| shape[d]);
    let (features, lanes) = (pool.int(d), pool.int(LANES));
    let places = pool.int(windows_of_block(step));
    let panels = pool.ceil_div(blocks, LANES);
    let sizes = vec![extent(rows.batch), extent(rows.head), places, panels, features, lanes];
    let tensor = TensorId(program.tensors.len() as u32);
    let taken = program.tensors.iter().map(|t| t.name.as_str());
    let packed_name = super::fresh(&format!("{name}_by_block"), taken);
    program.tensors.push(TensorDecl {
        name: packed_name.clone(),
        kind: TensorKind::Workspace,
        dtype: DType::F32,
        shape: sizes.clone(),
        layout: (0..sizes.len()).collect(),
        fact: Fact::None,
    });
    let pool = &mut program.pool;
    let (grid, at) = grid_over(pool, &sizes[..4]);
    let (row, col) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
    let (r, c) = (pool.var(row), pool.var(col));
    let first = pool.mul(at[3], lanes);
    let block = pool.add(first, c);
    let w = nth_of_block(pool, step, block, at[2]);
    let mut index = vec![zero; shape.len()];
    if let Some(d) = rows.batch {
        index[d] = at[0];
    }
    if let Some(d) = rows.head {
        index[d] = at[1];
    }
    (index[rows.seq], index[rows.feature]) = (w, r);
    let element = pool.load(rows.tensor, index, Ty::Float);
    let (there, none) = (pool.lt(w, step.windows), pool.float(0.0));
    let value = pool.select(there, element, none);
    let dst = RowsRef { tensor, index: [&at[..], &[zero, zero]].concat(), row_dim: 4, col_dim: 5 };
    let body = vec![Stmt::StoreMap { dst, rows: features, cols: lanes, row, col, reads: vec![], value }];
    push(program, Launch { name: format!("pack_{packed_name}"), grid, buffers: vec![], body });
    Packed { tensor, rows, d }
}

struct Lowering<'a> {
    program: &'a mut Program,
    step: &'a Rank,
    packed: &'a [Packed],
    buffers: Vec<Buffer>,
    most: i64,
}

/// Coordinates of a task.
struct Task {
    b: ExprId,
    g: ExprId,
    row0: ExprId,
    rows: ExprId,
    i_lo: ExprId,
}

/// Buffers of a task.
struct Tiles {
    q: Vec<BufId>,
    s: Vec<BufId>,
    block: BufId,
    total: BufId,
    best: BufId,
    at: BufId,
}

impl Lowering<'_> {
    fn pool(&mut self) -> &mut Pool {
        &mut self.program.pool
    }

    fn buffer(&mut self, name: &str, rows: i64, cols: i64) -> BufId {
        let cols = if cols == 1 { 1 } else { (cols + 15) / 16 * 16 };
        self.buffers.push(Buffer::new(name, rows, cols));
        BufId(self.buffers.len() as u32 - 1)
    }

    fn launch(&mut self) -> Launch {
        let step = self.step;
        let groups = self.pool().int(step.groups);
        let (mut grid, at) = grid_over(self.pool(), &[step.batch, groups]);
        let (tile, row0, rows) = tiled(self.pool(), step.seq_q, RANK_ROWS, &mut grid);
        let i_lo = self.pool().add(row0, step.offset);
        let task = Task { b: at[0], g: at[1], row0, rows, i_lo };
        let tiles = Tiles {
            q: (0..self.packed.len())
                .map(|n| self.buffer(&format!("q{n}"), RANK_ROWS, self.packed[n].d))
                .collect(),
            s: (0..self.packed.len()).map(|n| self.buffer(&format!("s{n}"), RANK_ROWS, BLOCKS)).collect(),
            block: self.buffer("block", RANK_ROWS, BLOCKS),
            total: self.buffer("total", RANK_ROWS, BLOCKS),
            best: self.buffer("best", RANK_ROWS, self.most.max(2)),
            at: self.buffer("at", RANK_ROWS, self.most.max(2)),
        };
        let mut body = vec![
            Stmt::Fill { dst: tiles.best, value: f64::NEG_INFINITY },
            Stmt::Fill { dst: tiles.at, value: -1.0 },
        ];
        let blocks = self.program.tensors[step.out.0 as usize].shape[3];
        let (zero, n_tiles) = (self.pool().int(0), self.pool().ceil_div(blocks, BLOCKS));
        let end = self.last_tile(&task, blocks);
        let counter = self.pool().add_var("kt", Ty::Int);
        let inner = self.score_tile(&tiles, &task, counter, blocks);
        body.push(Stmt::For { var: counter, lo: zero, hi: end, body: inner });
        let counter = self.pool().add_var("kt", Ty::Int);
        let inner = self.bits(&tiles, &task, tile, counter, blocks);
        body.push(Stmt::For { var: counter, lo: zero, hi: n_tiles, body: inner });
        let name = format!("rank_{}", self.program.tensors[step.out.0 as usize].name);
        Launch { name, grid, buffers: std::mem::take(&mut self.buffers), body }
    }

    /// One past the last tile that holds a block with a visible window, or a block that may be kept.
    fn last_tile(&mut self, task: &Task, blocks: ExprId) -> ExprId {
        let step = self.step;
        let decls = self.program.tensors.clone();
        let tensors = |id: TensorId| {
            let decl = &decls[id.0 as usize];
            mask::TensorFacts { fact: decl.fact, shape: decl.shape.clone() }
        };
        let ix = step.index;
        let facts = mask::Facts { i: ix.i, j: ix.j, row: ix.row, offset: step.offset, tensors: &tensors };
        let pool = &mut self.program.pool;
        let subst = [(ix.b, task.b)];
        let seen = pool.substitute(step.seen, &subst);
        let n_tiles = pool.ceil_div(blocks, BLOCKS);
        if pool.depends_on(seen, &[ix.h]) {
            return n_tiles;
        }
        let analysis = mask::analyze(pool, seen, &facts);
        let end = pool.add(task.i_lo, task.rows);
        let (i_hi, zero, last) = (pool.add_int(end, -1), pool.int(0), pool.add_int(step.windows, -1));
        let (_, hi) = analysis.key_range(pool, &TileBox { i_lo: task.i_lo, i_hi, j_lo: zero, j_hi: last });
        let (stride, size) = (pool.int(step.stride), pool.int(step.size));
        let start = pool.mul(hi, stride);
        let key = pool.max(start, i_hi);
        let key = pool.max(key, zero);
        let block = pool.idiv(key, size);
        let width = pool.int(BLOCKS);
        let tile = pool.idiv(block, width);
        let after = pool.add_int(tile, 1);
        pool.min(after, n_tiles)
    }

    /// Scores of a tile of blocks go into the lists of the rows.
    fn score_tile(&mut self, tiles: &Tiles, task: &Task, counter: VarId, blocks: ExprId) -> Vec<Stmt> {
        let step = self.step;
        let pool = self.pool();
        let (kt, width) = (pool.var(counter), pool.int(BLOCKS));
        let block0 = pool.mul(kt, width);
        let left = pool.sub(blocks, block0);
        let cols = pool.min(left, width);
        let mut body = vec![Stmt::Fill { dst: tiles.total, value: f64::NEG_INFINITY }];
        let head = self.pool().add_var("h", Ty::Int);
        let h = self.pool().var(head);
        let own = self.pool().substitute(step.group, &[(step.index.h, h)]);
        let chooses = self.pool().eq(own, task.g);
        let inner = self.head(tiles, task, h, (kt, block0, cols));
        let (zero, n_heads) = (self.pool().int(0), self.pool().int(step.n_heads));
        let then = vec![Stmt::If { cond: chooses, then: inner, otherwise: vec![] }];
        body.push(Stmt::For { var: head, lo: zero, hi: n_heads, body: then });
        let kept = self.kept(tiles, task, block0, cols);
        body.extend(kept);
        body.push(Stmt::KeepLargest {
            best: tiles.best,
            at: tiles.at,
            src: tiles.total,
            rows: task.rows,
            cols,
            first: block0,
            m: step.count,
        });
        body
    }

    /// Scores of a tile of blocks for one head, added to the total.
    fn head(
        &mut self,
        tiles: &Tiles,
        task: &Task,
        h: ExprId,
        (kt, block0, cols): (ExprId, ExprId, ExprId),
    ) -> Vec<Stmt> {
        let step = self.step;
        let g = self.pool().substitute(step.kv_head, &[(step.index.h, h)]);
        let mut body = Vec::new();
        for (n, dot) in step.dots.iter().enumerate() {
            let rank = self.program.tensors[dot.x.tensor.0 as usize].shape.len();
            let mut index = vec![self.pool().int(0); rank];
            if let Some(d) = dot.x.batch {
                index[d] = task.b;
            }
            if let Some(d) = dot.x.head {
                index[d] = h;
            }
            index[dot.x.seq] = task.row0;
            let src = RowsRef { tensor: dot.x.tensor, index, row_dim: dot.x.seq, col_dim: dot.x.feature };
            let d = self.packed[n].d;
            let d = self.pool().int(d);
            body.push(Stmt::LoadRows { dst: tiles.q[n].into(), src, rows: task.rows, d });
        }
        body.push(Stmt::Fill { dst: tiles.block, value: f64::NEG_INFINITY });
        let place = self.pool().add_var("place", Ty::Int);
        let t = self.pool().var(place);
        let mut inner = Vec::new();
        let no = self.pool().bool(false);
        for n in 0..self.packed.len() {
            let panels = self.panels(n, task.b, g, t, kt);
            let d = self.packed[n].d;
            let k = self.pool().int(d);
            inner.push(Stmt::Gemm {
                c: tiles.s[n],
                a: tiles.q[n],
                rest: Rest::None,
                b: Operand::Panels(panels),
                rows: task.rows,
                k,
                n: cols,
                row_scale: None,
                accumulate: false,
                skip_zero: no,
                next: None,
            });
        }
        inner.push(self.best_of_block(tiles, task, h, t, (block0, cols)));
        let (zero, places) = (self.pool().int(0), self.pool().int(windows_of_block(step)));
        body.push(Stmt::For { var: place, lo: zero, hi: places, body: inner });
        let (old, new) = (self.pool().add_var("old", Ty::Float), self.pool().add_var("new", Ty::Float));
        let (a, b) = (self.pool().var(old), self.pool().var(new));
        let value = joined(self.pool(), a, b);
        let reads = vec![(old, tiles.total, Access::Tile), (new, tiles.block, Access::Tile)];
        body.push(self.map(tiles.total, task.rows, cols, reads, value));
        body
    }

    fn panels(&mut self, n: usize, b: ExprId, g: ExprId, t: ExprId, kt: ExprId) -> PanelRef {
        let packed = &self.packed[n];
        let shape = self.program.tensors[packed.tensor.0 as usize].shape.clone();
        let pool = &mut self.program.pool;
        let zero = pool.int(0);
        let (b, g) = (packed.rows.batch.map_or(zero, |_| b), packed.rows.head.map_or(zero, |_| g));
        let per_tile = pool.int(BLOCKS / LANES);
        let first = pool.mul(kt, per_tile);
        let mut flat = b;
        for (at, size) in [(g, shape[1]), (t, shape[2]), (first, shape[3])] {
            let above = pool.mul(flat, size);
            flat = pool.add(above, at);
        }
        let panel_stride = pool.int(packed.d * LANES);
        let offset = pool.mul(flat, panel_stride);
        PanelRef { tensor: packed.tensor, offset, panel_stride }
    }

    /// Takes the score of the t-th window of each block into the block's.
    fn best_of_block(
        &mut self,
        tiles: &Tiles,
        task: &Task,
        h: ExprId,
        t: ExprId,
        (block0, cols): (ExprId, ExprId),
    ) -> Stmt {
        let step = self.step;
        let ix = step.index;
        let pool = self.pool();
        let (row, col) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
        let (r, c) = (pool.var(row), pool.var(col));
        let block = pool.add(block0, c);
        let w = nth_of_block(pool, step, block, t);
        let there = exists(pool, step, block, w);
        let mut subst = vec![(ix.b, task.b), (ix.h, h), (ix.j, w)];
        subst.extend([(ix.row, pool.add(task.row0, r)), (ix.i, pool.add(task.i_lo, r))]);
        let mut reads = Vec::new();
        for (n, dot) in step.dots.iter().enumerate() {
            let element = pool.add_var(&format!("x{n}"), Ty::Float);
            subst.push((dot.var, pool.var(element)));
            reads.push((element, tiles.s[n], Access::Tile));
        }
        let (value, seen) = (pool.substitute(step.value, &subst), pool.substitute(step.seen, &subst));
        let seen = pool.and(there, seen);
        let old_var = pool.add_var("old", Ty::Float);
        let old = pool.var(old_var);
        let next = if step.sum {
            joined(pool, old, value)
        } else {
            let larger = pool.lt(old, value);
            pool.select(larger, value, old)
        };
        let value = pool.select(seen, next, old);
        reads.push((old_var, tiles.block, Access::Tile));
        Stmt::Map { dst: tiles.block, rows: task.rows, cols, row, col, reads, value }
    }

    /// +inf for the blocks that are kept.
    fn kept(&mut self, tiles: &Tiles, task: &Task, block0: ExprId, cols: ExprId) -> Option<Stmt> {
        let step = self.step;
        let ix = step.index;
        let pool = self.pool();
        if pool.as_bool(step.keep) == Some(false) {
            return None;
        }
        let (row, col) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
        let (r, c) = (pool.var(row), pool.var(col));
        let subst =
            [(ix.j, pool.add(block0, c)), (ix.row, pool.add(task.row0, r)), (ix.i, pool.add(task.i_lo, r))];
        let keep = pool.substitute(step.keep, &subst);
        let old_var = pool.add_var("old", Ty::Float);
        let (old, most) = (pool.var(old_var), pool.float(f64::INFINITY));
        let value = pool.select(keep, most, old);
        let reads = vec![(old_var, tiles.total, Access::Tile)];
        Some(Stmt::Map { dst: tiles.total, rows: task.rows, cols, row, col, reads, value })
    }

    fn map(
        &mut self,
        dst: BufId,
        rows: ExprId,
        cols: ExprId,
        reads: Vec<(VarId, BufId, Access)>,
        value: ExprId,
    ) -> Stmt {
        let (row, col) = (self.pool().add_var("r", Ty::Int), self.pool().add_var("c", Ty::Int));
        Stmt::Map { dst, rows, cols, row, col, reads, value }
    }

    /// The bits of a tile of blocks, for each row and for all rows together.
    fn bits(
        &mut self,
        tiles: &Tiles,
        task: &Task,
        tile: ExprId,
        counter: VarId,
        blocks: ExprId,
    ) -> Vec<Stmt> {
        let marks = tiles.total;
        let turned = self.buffer("turned", BLOCKS, RANK_ROWS);
        let some = self.buffer("some", BLOCKS, 1);
        let pool = self.pool();
        let (kt, width) = (pool.var(counter), pool.int(BLOCKS));
        let block0 = pool.mul(kt, width);
        let left = pool.sub(blocks, block0);
        let cols = pool.min(left, width);
        let (one, half) = (pool.int(1), pool.float(0.5));
        let store = |pool: &mut Pool, dst, rows, cols, buf, access| {
            let (row, col) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
            let mark = pool.add_var("mark", Ty::Float);
            let x = pool.var(mark);
            let value = pool.lt(half, x);
            Stmt::StoreMap { dst, rows, cols, row, col, reads: vec![(mark, buf, access)], value }
        };
        let own = RowsRef {
            tensor: self.step.out,
            index: vec![task.b, task.g, task.row0, block0],
            row_dim: 2,
            col_dim: 3,
        };
        let all = RowsRef {
            tensor: self.step.any,
            index: vec![task.b, task.g, tile, block0],
            row_dim: 3,
            col_dim: 3,
        };
        let pool = &mut self.program.pool;
        vec![
            Stmt::Mark { dst: marks, at: tiles.at, rows: task.rows, cols, first: block0 },
            store(pool, own, task.rows, cols, marks, Access::Tile),
            Stmt::Transpose { dst: turned, src: marks, rows: task.rows, cols },
            Stmt::ReduceRows { dst: some, op: ReduceOp::Max, src: turned, rows: cols, cols: task.rows },
            store(pool, all, cols, one, some, Access::Row),
        ]
    }
}

/// The sum of two scores of which -inf is none.
fn joined(pool: &mut Pool, a: ExprId, b: ExprId) -> ExprId {
    let none = pool.float(f64::NEG_INFINITY);
    let (no_a, no_b) = (pool.eq(a, none), pool.eq(b, none));
    let sum = pool.add(a, b);
    let either = pool.select(no_b, a, sum);
    pool.select(no_a, b, either)
}
