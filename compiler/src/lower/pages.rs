//! Lowering of a [`Derive`] that reads rows through a table of pages: a page at a time.
//!
//! Comes in: a derived tensor whose elements are `seen ? f(t[.., table[.., s div P], s mod P, x], ..) : 0`, such as the rows of
//! a paged cache. Goes out: a launch with a task for each page, which loads the rows of the page that are seen as they lie
//! together, applies `f` where there is one, and stores them. What holds: the values are those of the formula; a page
//! that the table names wrongly is never read beyond the tensor. Not here: other formulas (`derive.rs`), which look
//! up the page of every element.

use crate::attn_ir::Derive;
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, UnaryOp, VarId};
use crate::tile_ir::{Access, BufId, Buffer, Launch, Program, RowsRef, Stmt, TensorDecl};

/// Largest page, in rows, and most elements of a tile.
const MOST_ROWS: i64 = 256;
const MOST_ELEMENTS: i64 = 1 << 16;

/// A launch by pages, if the formula is of that kind.
pub fn launch(program: &mut Program, d: &Derive) -> Option<Launch> {
    let paged = Paged::of(program, d)?;
    let pool = &mut program.pool;
    let name = format!("derive_{}", program.tensors[d.out.0 as usize].name);
    let shape = &program.tensors[d.out.0 as usize].shape;
    let (outer, rest) = d.index.split_at(d.index.len() - 2);
    let mut grid = Vec::new();
    let mut subst = Vec::new();
    for (&index, &extent) in outer.iter().zip(shape) {
        let var = pool.add_var("g", Ty::Int);
        grid.push((var, extent));
        subst.push((index, pool.var(var)));
    }
    let (page, size) = (pool.add_var("t", Ty::Int), pool.int(paged.size));
    let length = shape[outer.len()];
    // All heads of a page one after the other: their rows lie side by side.
    grid.insert(outer.len().min(1), (page, pool.ceil_div(length, paged.size)));
    let (row, col) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
    let at = Place {
        page: pool.var(page),
        row: pool.var(row),
        col: pool.var(col),
        index: [rest[0], rest[1]],
        subst,
    };
    let first = pool.mul(at.page, size);
    let (left, zero) = (pool.sub(length, first), pool.int(0));
    let rows = pool.min(left, size);
    let mut seen = rows;
    if let Some(bound) = paged.bound {
        let bound = pool.substitute(bound, &at.subst);
        let left = pool.sub(bound, first);
        let some = pool.min(left, rows);
        seen = pool.max(some, zero);
    }
    let cols = pool.int(paged.cols);
    let padded = (paged.cols + 15) / 16 * 16;
    let mut buffers = Vec::new();
    let mut body = Vec::new();
    let mut reads = Vec::new();
    for (n, load) in paged.loads.iter().enumerate() {
        let (src, some) = load.rows(pool, &program.tensors, &at, paged.size, seen);
        buffers.push(Buffer::new(format!("part{n}"), paged.size, padded));
        let dst = BufId(n as u32);
        body.push(Stmt::LoadRows { dst: dst.into(), src, rows: some, d: cols });
        reads.push((pool.add_var("x", Ty::Float), dst, Access::Tile));
    }
    let elements: Vec<(ExprId, VarId)> = paged.loads.iter().zip(&reads).map(|(l, r)| (l.id, r.0)).collect();
    let value = at.rewrite(pool, paged.value, paged.size, &elements);
    let dst = BufId(0);
    if !matches!(pool.op(value), Op::Var(v) if *v == reads[0].0) {
        body.push(Stmt::Map { dst, rows: seen, cols, row, col, reads, value });
    }
    if paged.bound.is_some() {
        // Rows behind what is seen are zero; whole tiles need none.
        let some = pool.lt(seen, rows);
        let clear = vec![Stmt::Fill { dst, value: 0.0 }];
        body.insert(0, Stmt::If { cond: some, then: clear, otherwise: vec![] });
    }
    let index: Vec<ExprId> = at.subst.iter().map(|s| s.1).chain([first, zero]).collect();
    let rank = index.len();
    let dst_rows = RowsRef { tensor: d.out, index, row_dim: rank - 2, col_dim: rank - 1 };
    body.push(Stmt::StoreRows { dst: dst_rows, src: dst.into(), rows, d: cols, row_scale: None });
    Some(Launch { name, grid, buffers, body })
}

/// Where a task of the launch is.
struct Place {
    page: ExprId,
    row: ExprId,
    col: ExprId,
    /// The formula's row and column.
    index: [VarId; 2],
    /// The formula's other variables.
    subst: Vec<(VarId, ExprId)>,
}

impl Place {
    /// An expression of the formula here, where `elements` are read from buffers.
    fn rewrite(&self, pool: &mut Pool, root: ExprId, size: i64, elements: &[(ExprId, VarId)]) -> ExprId {
        let [s, x] = self.index;
        let whole = pool.int(size);
        let before = pool.mul(self.page, whole);
        let at = pool.add(before, self.row);
        pool.rewrite(root, &mut |pool, id| {
            if let Some((_, var)) = elements.iter().find(|(load, _)| *load == id) {
                return Some(pool.var(*var));
            }
            match *pool.op(id) {
                Op::Var(v) if v == s => Some(at),
                Op::Var(v) if v == x => Some(self.col),
                Op::Var(v) => self.subst.iter().find(|(w, _)| *w == v).map(|(_, e)| *e),
                _ => match part_of(pool, id, s)? {
                    (BinaryOp::IDiv, by) if by == size => Some(self.page),
                    (BinaryOp::Mod, by) if by == size => Some(self.row),
                    _ => None,
                },
            }
        })
    }
}

/// `s div c` or `s mod c`.
fn part_of(pool: &Pool, id: ExprId, s: VarId) -> Option<(BinaryOp, i64)> {
    match *pool.op(id) {
        Op::Binary(op @ (BinaryOp::IDiv | BinaryOp::Mod), a, c) if matches!(pool.op(a), Op::Var(v) if *v == s) => {
            Some((op, pool.as_int(c)?))
        }
        _ => None,
    }
}

/// A formula over rows of pages.
pub struct Paged {
    /// Rows of a page, and features of a row.
    pub size: i64,
    pub cols: i64,
    /// Rows from here on are zero.
    pub bound: Option<ExprId>,
    /// The formula of the others.
    pub value: ExprId,
    /// What it reads along the columns.
    pub loads: Vec<PageRows>,
}

impl Paged {
    pub fn of(program: &Program, d: &Derive) -> Option<Paged> {
        let pool = &program.pool;
        let [.., s, x] = d.index[..] else { return None };
        let cols = pool.as_int(*program.tensors[d.out.0 as usize].shape.last()?)?;
        if !d.sum.is_empty() || pool.ty(d.value) != Ty::Float {
            return None;
        }
        let (bound, value) = seen(pool, d.value, [s, x]).map_or((None, d.value), |(b, v)| (Some(b), v));
        let elements = |id: &ExprId| element(pool, *id).is_some_and(|load| pool.depends_on(load, &[x]));
        let along: Vec<ExprId> = pool.reachable(&[value]).into_iter().filter(elements).collect();
        let size = along.iter().find_map(|&id| page_size(pool, id, s))?;
        let fits = (1..=MOST_ROWS).contains(&size) && cols > 0 && size * cols <= MOST_ELEMENTS;
        let loads = along
            .into_iter()
            .map(|id| PageRows::of(program, d, id, (size, cols)))
            .collect::<Option<Vec<_>>>()?;
        fits.then_some(Paged { size, cols, bound, value, loads })
    }
}

/// `s < bound ? value : 0.0` with a bound that is the same for all rows.
fn seen(pool: &Pool, id: ExprId, own: [VarId; 2]) -> Option<(ExprId, ExprId)> {
    let Op::Select(cond, value, none) = *pool.op(id) else { return None };
    let Op::Binary(BinaryOp::Lt, at, bound) = *pool.op(cond) else { return None };
    let zero = pool.as_const(none).is_some_and(|c| c.float() == 0.0);
    let is_row = matches!(pool.op(at), Op::Var(v) if *v == own[0]);
    (zero && is_row && !pool.depends_on(bound, &own)).then_some((bound, value))
}

/// The load that gives a float, itself or as a number.
fn element(pool: &Pool, id: ExprId) -> Option<ExprId> {
    match *pool.op(id) {
        Op::Load(..) if pool.ty(id) == Ty::Float => Some(id),
        Op::Unary(UnaryOp::ToFloat, x) if matches!(pool.op(x), Op::Load(..)) => Some(x),
        _ => None,
    }
}

/// The c of an index `s mod c`.
fn page_size(pool: &Pool, id: ExprId, s: VarId) -> Option<i64> {
    let Op::Load(_, index, _) = pool.op(element(pool, id)?) else { return None };
    index.iter().find_map(|&at| part_of(pool, at, s).filter(|p| p.0 == BinaryOp::Mod).map(|p| p.1))
}

/// A load of rows of pages along the columns.
pub struct PageRows {
    pub id: ExprId,
    pub tensor: TensorId,
    pub index: Vec<ExprId>,
    pub row_dim: usize,
    pub col_dim: usize,
    /// Dims whose index is only known when the kernel runs.
    pub chosen: Vec<usize>,
}

impl PageRows {
    /// None unless rows and columns of a page lie along two dims and every other index is known to be in range, or can
    /// be brought there for a whole page.
    fn of(program: &Program, d: &Derive, id: ExprId, (size, cols): (i64, i64)) -> Option<PageRows> {
        let pool = &program.pool;
        let [.., s, x] = d.index[..] else { return None };
        let Op::Load(tensor, index, _) = pool.op(element(pool, id)?) else { return None };
        let shape = &program.tensors[tensor.0 as usize].shape;
        let extent = |v: VarId| {
            let dim = d.index.iter().position(|w| *w == v)?;
            Some(program.tensors[d.out.0 as usize].shape[dim])
        };
        let (mut row_dim, mut col_dim, mut chosen) = (None, None, Vec::new());
        for (dim, &at) in index.iter().enumerate() {
            let length = pool.as_int(shape[dim]);
            match *pool.op(at) {
                Op::Var(v) if v == x && length == Some(cols) && col_dim.is_none() => col_dim = Some(dim),
                Op::Var(v) if v != s && v != x && extent(v) == Some(shape[dim]) => {}
                _ if part_of(pool, at, s) == Some((BinaryOp::Mod, size))
                    && length == Some(size)
                    && row_dim.is_none() =>
                {
                    row_dim = Some(dim);
                }
                _ if by_page(pool, at, s, size) && !pool.depends_on(at, &[x]) => chosen.push(dim),
                _ => return None,
            }
        }
        Some(PageRows {
            id,
            tensor: *tensor,
            index: index.to_vec(),
            row_dim: row_dim?,
            col_dim: col_dim?,
            chosen,
        })
    }

    /// The rows of the page of a task, and how many of them there are.
    fn rows(
        &self,
        pool: &mut Pool,
        tensors: &[TensorDecl],
        at: &Place,
        size: i64,
        seen: ExprId,
    ) -> (RowsRef, ExprId) {
        let zero = pool.int(0);
        let (mut index, mut some) = (Vec::new(), seen);
        for (dim, &id) in self.index.iter().enumerate() {
            if dim == self.row_dim || dim == self.col_dim {
                index.push(zero);
                continue;
            }
            let mut here = at.rewrite(pool, id, size, &[]);
            if self.chosen.contains(&dim) {
                // The program has checked the pages that count; the others only have to stay within the tensor.
                let length = tensors[self.tensor.0 as usize].shape[dim];
                let last = pool.add_int(length, -1);
                here = pool.min(here, last);
                here = pool.max(here, zero);
                let any = pool.lt(zero, length);
                some = pool.select(any, some, zero);
            }
            index.push(here);
        }
        (RowsRef { tensor: self.tensor, index, row_dim: self.row_dim, col_dim: self.col_dim }, some)
    }
}

/// Is an expression the same for all rows of a page?
fn by_page(pool: &Pool, id: ExprId, s: VarId, size: i64) -> bool {
    if part_of(pool, id, s) == Some((BinaryOp::IDiv, size)) {
        return true;
    }
    !matches!(pool.op(id), Op::Var(v) if *v == s)
        && pool.operands(id).iter().all(|&x| by_page(pool, x, s, size))
}
