//! One task: its buffers and the execution of its statements.
//!
//! What holds: a buffer element is a number or unset; only a number may be used where the result matters. The
//! columns that a product or an elementary function writes beyond what was asked stay unset unless every
//! operand is a number.

mod tensors;
mod tiles;

use std::cell::RefCell;
use std::rc::Rc;

use super::InterpError;
use super::lazy::Machine;
use super::rows::{finish_softmax, softmax_step, weight_step};
use crate::artifact::{MathFn, PANEL};
use crate::expr::eval::{Value, unary};
use crate::expr::{ExprId, UnaryOp};
use crate::tile_ir::{
    Access, BufId, BufRows, Buffer, Launch, Operand, PanelRef, Rest, RowsRef, Span, Stmt, text,
};

type Done<T = ()> = Result<T, String>;

/// A buffer, or a view of one; `None` is an element that nothing has written.
struct Tile<'a> {
    decl: &'a Buffer,
    data: Rc<RefCell<Vec<Option<f64>>>>,
    /// Where its first element is, and how far its rows are apart.
    first: usize,
    ld: usize,
}

impl<'a> Tile<'a> {
    fn new(decl: &'a Buffer) -> Tile<'a> {
        // A view has no place before it is laid.
        let elements = if decl.of.is_some() { 0 } else { (decl.rows * decl.cols).max(0) as usize };
        let data = Rc::new(RefCell::new(vec![None; elements]));
        Tile { decl, data, first: 0, ld: decl.cols as usize }
    }

    /// The place of an element, if there is one.
    fn at(&self, r: usize, c: usize) -> Option<usize> {
        let inside = (r as i64) < self.decl.rows && (c as i64) < self.decl.cols;
        inside.then_some(self.first + r * self.ld + c)
    }

    fn get(&self, r: usize, c: usize) -> Done<f64> {
        let name = &self.decl.name;
        match self.at(r, c).and_then(|at| self.data.borrow().get(at).copied()) {
            Some(Some(x)) => Ok(x),
            Some(None) => Err(format!("reads {name}[{r}, {c}], which nothing has written")),
            None => Err(format!("reads {name}[{r}, {c}], outside of the buffer")),
        }
    }

    fn set(&mut self, r: usize, c: usize, x: Option<f64>) -> Done {
        match self.at(r, c).and_then(|at| self.data.borrow_mut().get_mut(at).map(|slot| *slot = x)) {
            Some(()) => Ok(()),
            None => Err(format!("writes {}[{r}, {c}], outside of the buffer", self.decl.name)),
        }
    }
}

struct Task<'m, 'a> {
    machine: &'m mut Machine<'a>,
    launch: &'a Launch,
    tiles: Vec<Tile<'a>>,
}

/// Reads an element of a right operand.
type Right<'m, 'a> = Box<dyn Fn(&Task<'m, 'a>, usize, usize) -> Done<f64>>;

/// Runs the task whose grid coordinates are set.
pub fn run<'a>(machine: &mut Machine<'a>, launch: &'a Launch) -> Result<(), InterpError> {
    let tiles = launch.buffers.iter().map(Tile::new).collect();
    Task { machine, launch, tiles }.block(&launch.body)
}

impl<'m, 'a> Task<'m, 'a> {
    fn block(&mut self, body: &'a [Stmt]) -> Result<(), InterpError> {
        for stmt in body {
            self.structured(stmt)?;
        }
        for stmt in body {
            if let Stmt::Let { var, .. } | Stmt::Any { var, .. } | Stmt::First { var, .. } = stmt {
                self.machine.unset(*var);
            }
        }
        Ok(())
    }

    fn structured(&mut self, stmt: &'a Stmt) -> Result<(), InterpError> {
        let (program, launch) = (self.machine.program, self.launch);
        let fail = |message| InterpError { op: text::stmt_head(program, launch, stmt), message };
        match stmt {
            Stmt::For { var, lo, hi, body } => {
                let (lo, hi) = (self.machine.int(*lo).map_err(fail)?, self.machine.int(*hi).map_err(fail)?);
                for n in lo..hi {
                    self.machine.set(*var, Value::Int(n));
                    self.block(body)?;
                }
                self.machine.unset(*var);
                Ok(())
            }
            Stmt::If { cond, then, otherwise } => {
                let taken = self.machine.eval(*cond).map_err(fail)?.bool();
                self.block(if taken { then } else { otherwise })
            }
            _ => self.stmt(stmt).map_err(fail),
        }
    }

    /// One arm for each statement without a block (tidy: long match).
    fn stmt(&mut self, stmt: &Stmt) -> Done {
        match stmt {
            Stmt::For { .. } | Stmt::If { .. } => Ok(()),
            Stmt::Let { var, value } => {
                let value = self.machine.eval(*value)?;
                self.machine.set(*var, value);
                Ok(())
            }
            Stmt::Any { var, over, cond } => {
                let found = self.any(over, *cond)?;
                over.iter().for_each(|span| self.machine.unset(span.var));
                self.machine.set(*var, Value::Bool(found));
                Ok(())
            }
            Stmt::First { var, over, cond } => {
                let (lo, hi) = (self.machine.int(over.lo)?, self.machine.int(over.hi)?);
                let mut found = hi;
                for n in lo..hi {
                    self.machine.set(over.var, Value::Int(n));
                    if self.machine.eval(*cond)?.bool() {
                        found = n;
                        break;
                    }
                }
                self.machine.unset(over.var);
                self.machine.set(*var, Value::Int(found));
                Ok(())
            }
            Stmt::View { view, row, col } => self.lay(*view, (*row, *col)),
            Stmt::Fill { dst, value } => {
                self.tile(*dst).data.borrow_mut().fill(Some(*value));
                Ok(())
            }
            Stmt::LoadRows { dst, src, rows, d } => self.load_rows(dst, src, *rows, *d),
            Stmt::Round { dst, src, rows, cols } => self.round(*dst, *src, (*rows, *cols)),
            Stmt::PackK { dst, src, n, d } => self.pack_k(dst, src, *n, *d),
            Stmt::PackV { dst, src, n, d, flag: (t, index) } => {
                let nonfinite = self.pack_v(dst, src, *n, *d)?;
                let index = self.index(index)?;
                self.machine.memory.write(*t, &index, Value::Int(i64::from(nonfinite)))
            }
            Stmt::Gemm { .. } => self.gemm(stmt),
            Stmt::Map { .. } => self.map(stmt),
            Stmt::Math { f, dst, rows, cols } => {
                let (most, width) = {
                    let decl = &self.tiles[dst.0 as usize].decl;
                    (decl.rows, decl.cols)
                };
                let (rows, cols) = (self.count(*rows, most)?, self.count(*cols, width)?);
                for (r, c) in (0..rows).flat_map(|r| (0..width as usize).map(move |c| (r, c))) {
                    let x = if c < cols { self.get(*dst, r, c).ok() } else { None };
                    let y = x.map(|x| unary(math_op(*f), Value::Float(x)).float());
                    self.tile(*dst).set(r, c, y)?;
                }
                Ok(())
            }
            Stmt::SoftmaxStep { .. } | Stmt::WeightStep { .. } => self.step(stmt),
            Stmt::FinishSoftmax { rows, row_max, row_sum, sink, inv_sum, lse } => {
                let rows = self.count(*rows, i64::MAX)?;
                let sink = self.machine.eval(*sink)?.float();
                for r in 0..rows {
                    let (max, sum) = (self.get(*row_max, r, 0)?, self.get(*row_sum, r, 0)?);
                    let (inv, log) = finish_softmax(max, sum, sink);
                    self.tile(*inv_sum).set(r, 0, Some(inv))?;
                    self.tile(*lse).set(r, 0, Some(log))?;
                }
                Ok(())
            }
            Stmt::Transpose { dst, src, rows, cols } => self.transpose(*dst, *src, (*rows, *cols)),
            Stmt::Affine { .. } => self.affine(stmt),
            Stmt::Band { .. } => self.band(stmt),
            Stmt::ScanRows { dst, rows, cols, decay } => self.scan_rows(*dst, (*rows, *cols), *decay),
            Stmt::ReduceRows { dst, op, src, rows, cols } => {
                self.reduce_rows(*dst, *op, *src, (*rows, *cols))
            }
            Stmt::KeepLargest { .. } => self.keep_largest(stmt),
            Stmt::Mark { dst, at, rows, cols, first } => self.mark(*dst, *at, (*rows, *cols), *first),
            Stmt::Random { .. } => self.random(stmt),
            Stmt::StoreRows { dst, src, rows, d, row_scale } => {
                self.store_rows(dst, src, *rows, *d, *row_scale)
            }
            Stmt::StoreMap { .. } => self.store_map(stmt),
            Stmt::PrefixSum { hi, lo, src, n } => self.prefix_sum(hi, lo, src, *n),
            Stmt::TopK { .. } => self.top_k(stmt),
            Stmt::StoreVec { dst, src, rows } => {
                let (first, rows) = self.part(src, *rows)?;
                let index = self.index(&dst.index)?;
                for r in 0..rows {
                    let x = self.get(src.buf, first + r, 0)?;
                    let at = moved(&index, dst.row_dim, r, dst.row_dim, 0);
                    self.machine.memory.write_number(dst.tensor, &at, x)?;
                }
                Ok(())
            }
        }
    }

    /// Does `cond` hold at a point of the spans?
    fn any(&mut self, over: &[Span], cond: ExprId) -> Done<bool> {
        let Some((span, rest)) = over.split_first() else { return Ok(self.machine.eval(cond)?.bool()) };
        for n in self.machine.int(span.lo)?..self.machine.int(span.hi)? {
            self.machine.set(span.var, Value::Int(n));
            if self.any(rest, cond)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lays a view over its buffer.
    fn lay(&mut self, view: BufId, (row, col): (ExprId, ExprId)) -> Done {
        let decl = self.tile(view).decl;
        let Some(of) = decl.of else { return Err(format!("{} is no view", decl.name)) };
        let whole = self.tile(of).decl;
        let (row, col) = (self.count(row, whole.rows - decl.rows)?, self.count(col, whole.cols - decl.cols)?);
        let (data, ld) = (self.tile(of).data.clone(), self.tile(of).ld);
        let tile = self.tile(view);
        (tile.data, tile.ld, tile.first) = (data, ld, row * ld + col);
        Ok(())
    }

    fn tile(&mut self, id: BufId) -> &mut Tile<'a> {
        &mut self.tiles[id.0 as usize]
    }

    fn get(&self, id: BufId, r: usize, c: usize) -> Done<f64> {
        self.tiles[id.0 as usize].get(r, c)
    }

    /// A count within 0..=limit.
    fn count(&mut self, id: ExprId, limit: i64) -> Done<usize> {
        match self.machine.int(id)? {
            n if (0..=limit).contains(&n) => Ok(n as usize),
            n => Err(format!("a count of {n}, which is not within 0..={limit}")),
        }
    }

    fn index(&mut self, index: &[ExprId]) -> Done<Vec<i64>> {
        index.iter().map(|&x| self.machine.int(x)).collect()
    }

    /// Element (r, x) of rows of a tensor.
    fn source(&self, rows: &RowsRef, index: &[i64], r: usize, x: usize) -> Done<f64> {
        let at = moved(index, rows.row_dim, r, rows.col_dim, x);
        match self.machine.memory.load(rows.tensor, &at)? {
            Some(Value::Float(x)) => Ok(x),
            Some(Value::Int(x)) => Ok(x as f64),
            Some(Value::Bool(x)) => Ok(f64::from(u8::from(x))),
            None => Err(format!("reads the tensor at {at:?}, out of its range")),
        }
    }

    /// The first of some rows of a buffer, and how many.
    fn part(&mut self, part: &BufRows, rows: ExprId) -> Done<(usize, usize)> {
        let limit = self.tile(part.buf).decl.rows;
        let first = part.first.map_or(Ok(0), |first| self.count(first, limit))?;
        Ok((first, self.count(rows, limit - first as i64)?))
    }

    fn load_rows(&mut self, dst: &BufRows, src: &RowsRef, rows: ExprId, d: ExprId) -> Done {
        let ((first, rows), decl) = (self.part(dst, rows)?, self.tile(dst.buf).decl);
        let d = self.count(d, decl.cols)?;
        let cols = decl.cols as usize;
        let index = self.index(&src.index)?;
        for r in 0..rows {
            for x in 0..cols {
                let value = if x < d { self.source(src, &index, r, x)? } else { 0.0 };
                self.tile(dst.buf).set(first + r, x, Some(value))?;
            }
        }
        Ok(())
    }

    fn round(&mut self, dst: BufId, src: BufId, (rows, cols): (ExprId, ExprId)) -> Done {
        let (to, from) = (self.tile(dst).decl, self.tile(src).decl);
        let (rows, cols) =
            (self.count(rows, to.rows.min(from.rows))?, self.count(cols, to.cols.min(from.cols))?);
        for r in 0..rows {
            for c in 0..cols.next_multiple_of(16) {
                let x = if c < cols { self.get(src, r, c)? } else { 0.0 };
                self.tile(dst).set(r, c, Some(crate::host::round_to(to.dtype, x)))?;
            }
        }
        Ok(())
    }

    /// Offset and stride of a panel.
    fn panel(&mut self, p: &PanelRef) -> Done<impl Fn(usize, usize) -> i64 + use<>> {
        let (offset, stride) = (self.machine.int(p.offset)?, self.machine.int(p.panel_stride)?);
        let lanes = PANEL as i64;
        Ok(move |t: usize, x: usize| {
            let (t, x) = (t as i64, x as i64);
            offset.wrapping_add((x / lanes).wrapping_mul(stride)).wrapping_add(t * lanes + x % lanes)
        })
    }

    fn pack_k(&mut self, dst: &PanelRef, src: &RowsRef, n: ExprId, d: i64) -> Done {
        let n = self.count(n, i64::MAX)?;
        let stride = self.machine.int(dst.panel_stride)?;
        if stride != d.saturating_mul(PANEL as i64) {
            return Err(format!("keys are packed in panels of d * {PANEL} elements, not {stride}"));
        }
        let (at, index) = (self.panel(dst)?, self.index(&src.index)?);
        for j in 0..n.next_multiple_of(PANEL) {
            for x in 0..d as usize {
                let value = if j < n { self.source(src, &index, j, x)? } else { 0.0 };
                self.machine.memory.write_flat(dst.tensor, at(x, j), Value::Float(value))?;
            }
        }
        Ok(())
    }

    fn pack_v(&mut self, dst: &PanelRef, src: &RowsRef, n: ExprId, d: i64) -> Done<bool> {
        let n = self.count(n, i64::MAX)?;
        let (at, index) = (self.panel(dst)?, self.index(&src.index)?);
        let mut nonfinite = false;
        for j in 0..n {
            for x in 0..(d as usize).next_multiple_of(PANEL) {
                let value = if (x as i64) < d { self.source(src, &index, j, x)? } else { 0.0 };
                nonfinite |= !value.is_finite();
                self.machine.memory.write_flat(dst.tensor, at(j, x), Value::Float(value))?;
            }
        }
        Ok(nonfinite)
    }

    fn gemm(&mut self, stmt: &Stmt) -> Done {
        let Stmt::Gemm { c, a, rest, b, rows, k, n, row_scale, accumulate, skip_zero, .. } = stmt else {
            return Ok(());
        };
        let rest = if let Rest::Tile(rest) = rest { Some(*rest) } else { None };
        let (to, from) = (self.tile(*c).decl, self.tile(*a).decl);
        let rows = self.count(*rows, to.rows.min(from.rows))?;
        let (most_k, most_n) = match b {
            Operand::Panels(_) | Operand::Columns(_) | Operand::Rows(_) => (from.cols, to.cols),
            Operand::Buffer(b) => (from.cols.min(self.tile(*b).decl.rows), to.cols.min(PANEL as i64)),
        };
        let (k, n) = (self.count(*k, most_k)?, self.count(*n, most_n)?);
        let skip_zero = self.machine.eval(*skip_zero)?.bool();
        let right = self.right_operand(b)?;
        for r in 0..rows {
            let scale = match row_scale {
                Some(v) if *accumulate => self.get(*v, r, 0)?,
                _ => 1.0,
            };
            let written = if matches!(b, Operand::Columns(_)) { n } else { n.next_multiple_of(16) };
            for x in 0..written {
                let sum = self.element((r, x, k), (*a, rest), skip_zero, &right);
                let old = if *accumulate { self.get(*c, r, x) } else { Ok(0.0) };
                let value = sum.and_then(|sum| if *accumulate { Ok(old? * scale + sum) } else { Ok(sum) });
                match value {
                    Err(error) if x < n => return Err(error),
                    value => self.tile(*c).set(r, x, value.ok())?,
                }
            }
        }
        Ok(())
    }

    /// How to read element (t, x) of a right operand.
    fn right_operand(&mut self, b: &Operand) -> Done<Right<'m, 'a>> {
        Ok(match b {
            Operand::Panels(p) => {
                let (tensor, at) = (p.tensor, self.panel(p)?);
                Box::new(move |task, t, x| Ok(task.machine.memory.read_flat(tensor, at(t, x))?.float()))
            }
            Operand::Buffer(b) => {
                let b = *b;
                Box::new(move |task, t, x| task.get(b, t, x))
            }
            Operand::Columns(src) | Operand::Rows(src) => {
                let (src, index, turned) =
                    (src.clone(), self.index(&src.index)?, matches!(b, Operand::Columns(_)));
                Box::new(move |task, t, x| {
                    let (r, e) = if turned { (x, t) } else { (t, x) };
                    task.source(&src, &index, r, e)
                })
            }
        })
    }

    /// One element of a product.
    fn element(
        &self,
        (r, x, k): (usize, usize, usize),
        (a, rest): (BufId, Option<BufId>),
        skip_zero: bool,
        right: &Right<'m, 'a>,
    ) -> Done<f64> {
        let mut sum = 0.0;
        for t in 0..k {
            let left = self.get(a, r, t)? + rest.map_or(Ok(0.0), |rest| self.get(rest, r, t))?;
            if !(skip_zero && left == 0.0) {
                sum += left * right(self, t, x)?;
            }
        }
        Ok(sum)
    }

    fn map(&mut self, stmt: &Stmt) -> Done {
        let Stmt::Map { dst, rows, cols, row, col, reads, value } = stmt else { return Ok(()) };
        let decl = self.tile(*dst).decl;
        let (rows, cols) = (self.count(*rows, decl.rows)?, self.count(*cols, decl.cols)?);
        for r in 0..rows {
            for c in 0..cols {
                self.machine.set(*row, Value::Int(r as i64));
                self.machine.set(*col, Value::Int(c as i64));
                for (var, buf, access) in reads {
                    let (r, c) = match access {
                        Access::Tile => (r, c),
                        Access::Row => (r, 0),
                        Access::Col => (0, c),
                    };
                    self.machine.set(*var, Value::Float(self.get(*buf, r, c)?));
                }
                let value = self.machine.eval(*value)?.float();
                self.tile(*dst).set(r, c, Some(value))?;
            }
        }
        for var in reads.iter().map(|r| r.0).chain([*row, *col]) {
            self.machine.unset(var);
        }
        Ok(())
    }

    /// Row steps of the online softmax and of the other weights.
    fn step(&mut self, stmt: &Stmt) -> Done {
        let (Stmt::SoftmaxStep { s, rows, cols, scale, row_max, floor_unmasked, .. }
        | Stmt::WeightStep { s, rows, cols, scale, row_max, floor_unmasked, .. }) = stmt
        else {
            return Ok(());
        };
        let decl = self.tile(*s).decl;
        let (rows, cols) = (self.count(*rows, decl.rows)?, self.count(*cols, decl.cols)?);
        let scale = self.machine.eval(*scale)?.float();
        let floor = self.machine.eval(*floor_unmasked)?.bool();
        for r in 0..rows {
            let mut row = (0..cols).map(|c| self.get(*s, r, c)).collect::<Done<Vec<f64>>>()?;
            let old_max = self.get(*row_max, r, 0)?;
            let new_max = match stmt {
                Stmt::SoftmaxStep { row_sum, alpha, .. } => {
                    let state = softmax_step(&mut row, scale, floor, old_max, self.get(*row_sum, r, 0)?);
                    self.tile(*row_sum).set(r, 0, Some(state.sum))?;
                    self.tile(*alpha).set(r, 0, Some(state.alpha))?;
                    state.max
                }
                Stmt::WeightStep { kind, .. } => weight_step(*kind, &mut row, scale, floor, old_max),
                _ => old_max,
            };
            self.tile(*row_max).set(r, 0, Some(new_max))?;
            for (c, x) in row.into_iter().enumerate() {
                self.tile(*s).set(r, c, Some(x))?;
            }
        }
        Ok(())
    }

    fn store_rows(
        &mut self,
        dst: &RowsRef,
        src: &BufRows,
        rows: ExprId,
        d: ExprId,
        row_scale: Option<BufId>,
    ) -> Done {
        let ((first, rows), cols) = (self.part(src, rows)?, self.tile(src.buf).decl.cols);
        let d = self.count(d, cols)?;
        let index = self.index(&dst.index)?;
        for r in 0..rows {
            let scale = row_scale.map_or(Ok(1.0), |v| self.get(v, first + r, 0))?;
            for x in 0..d {
                let value = if scale == 0.0 { 0.0 } else { self.get(src.buf, first + r, x)? * scale };
                let at = moved(&index, dst.row_dim, r, dst.col_dim, x);
                self.machine.memory.write_number(dst.tensor, &at, value)?;
            }
        }
        Ok(())
    }
}

/// The index of element (r, x) of rows that start at `index`.
fn moved(index: &[i64], row_dim: usize, r: usize, col_dim: usize, x: usize) -> Vec<i64> {
    let mut at = index.to_vec();
    at[row_dim] = at[row_dim].wrapping_add(r as i64);
    at[col_dim] = at[col_dim].wrapping_add(x as i64);
    at
}

fn math_op(f: MathFn) -> UnaryOp {
    match f {
        MathFn::Exp => UnaryOp::Exp,
        MathFn::Exp2 => UnaryOp::Exp2,
        MathFn::Log => UnaryOp::Log,
        MathFn::Log2 => UnaryOp::Log2,
        MathFn::Tanh => UnaryOp::Tanh,
        MathFn::Sigmoid => UnaryOp::Sigmoid,
        MathFn::Sin => UnaryOp::Sin,
        MathFn::Cos => UnaryOp::Cos,
    }
}
