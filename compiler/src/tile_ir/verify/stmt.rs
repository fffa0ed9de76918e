//! I4 to I22 for statements.

use std::collections::BTreeSet;

use super::{Checked, Verifier};
use crate::artifact::{DType, PANEL};
use crate::expr::{ExprId, Op, Seen, TensorId, Ty, VarId};
use crate::tile_ir::{
    Access, BufId, BufRows, Buffer, FlatRef, Launch, Operand, PanelRef, Program, Rest, RowsRef, Span, Stmt,
    TensorDecl, TensorKind,
};

/// A product writes columns rounded up to this.
const GEMM_COLS: i64 = 16;

impl<'a> Verifier<'a> {
    pub(super) fn block(&mut self, body: &'a [Stmt]) -> Checked {
        let mut defined = Vec::new();
        for stmt in body {
            self.stmt = Some(stmt);
            self.stmt(stmt)?;
            if let Stmt::Let { var, .. } | Stmt::Any { var, .. } | Stmt::First { var, .. } = stmt {
                defined.push(*var);
            }
        }
        self.stmt = None;
        let laid = |stmt: &Stmt| if let Stmt::View { view, .. } = stmt { Some(*view) } else { None };
        for view in body.iter().filter_map(laid) {
            self.laid.remove(&view);
        }
        self.leave(defined);
        Ok(())
    }

    /// One arm for each statement (tidy: long match).
    fn stmt(&mut self, stmt: &'a Stmt) -> Checked {
        match stmt {
            Stmt::Let { var, value } => {
                self.expr(*value, self.program.pool.var_info(*var).ty)?;
                self.define(*var)
            }
            Stmt::Any { var, over, cond } => self.search((*var, Ty::Bool), over, *cond),
            Stmt::First { var, over, cond } => {
                self.search((*var, Ty::Int), std::slice::from_ref(over), *cond)
            }
            Stmt::For { var, lo, hi, body } => {
                self.expr(*lo, Ty::Int)?;
                self.expr(*hi, Ty::Int)?;
                self.define(*var)?;
                self.var_ty(*var, Ty::Int)?;
                self.block(body)?;
                self.leave([*var]);
                Ok(())
            }
            Stmt::If { cond, then, otherwise } => {
                self.expr(*cond, Ty::Bool)?;
                self.block(then)?;
                self.block(otherwise)
            }
            Stmt::View { view, row, col } => self.view(*view, (*row, *col)),
            Stmt::Fill { dst, .. } => {
                let whole = self.buffer(*dst)?.of.is_none();
                self.ensure(whole, "I22", "a view is not filled")
            }
            Stmt::LoadRows { dst, src, rows, d } => {
                let b = self.left(dst.buf)?;
                self.part(dst, *rows)?;
                self.count(*d, b.cols)?;
                self.read_rows(src)?;
                let fits = b.dtype == DType::F32 || self.tensor(src.tensor)?.dtype == DType::Bf16;
                self.ensure(fits, "I21", "a buffer of bf16 takes rows of bf16")
            }
            Stmt::Round { dst, src, rows, cols } => {
                let (to, from) = (self.left(*dst)?, self.tile(*src)?);
                self.ensure(to.dtype == DType::Bf16, "I21", "rounding fills a buffer of bf16")?;
                self.count(*rows, to.rows.min(from.rows))?;
                self.count(*cols, to.cols.min(from.cols))
            }
            Stmt::PackK { dst, src, n, d } => {
                let odd = self.panel_type(dst)? == DType::Bf16 && d % 2 != 0;
                self.ensure(!odd, "I21", "keys in panels of bf16 have an even number of features")?;
                self.pack(dst, src, *n, *d)
            }
            Stmt::PackV { dst, src, n, d, flag: (t, index) } => {
                self.pack(dst, src, *n, *d)?;
                let decl = self.workspace(*t, DType::I32)?;
                self.indices(decl, index)
            }
            Stmt::Gemm { .. } => self.gemm(stmt),
            Stmt::Map { .. } => self.map(stmt),
            Stmt::Band { s, rows, cols, period, from, to } => {
                let b = self.buffer(*s)?;
                self.count(*rows, b.rows)?;
                self.count(*cols, b.cols)?;
                [*period, from.at, to.at].into_iter().try_for_each(|e| self.expr(e, Ty::Int))
            }
            Stmt::Affine { dst, rows, cols, scale, factor, term, .. } => {
                let b = self.buffer(*dst)?;
                self.count(*rows, b.rows)?;
                self.count(*cols, b.cols)?;
                self.expr(*scale, Ty::Float)?;
                for vector in [factor, term].into_iter().flatten() {
                    let v = self.buffer(*vector)?;
                    self.count(*cols, v.cols)?;
                    self.distinct(&[*dst, *vector])?;
                }
                Ok(())
            }
            Stmt::Math { dst, rows, cols, .. } => {
                let b = self.buffer(*dst)?;
                self.count(*rows, b.rows)?;
                self.count(*cols, b.cols)
            }
            Stmt::SoftmaxStep { s, rows, cols, scale, row_max, row_sum, alpha, floor_unmasked } => {
                self.step(*s, *rows, *cols, *scale, *floor_unmasked)?;
                for vector in [row_max, row_sum, alpha] {
                    self.vector(*vector, *rows)?;
                }
                self.distinct(&[*s, *row_max, *row_sum, *alpha])
            }
            Stmt::WeightStep { s, rows, cols, scale, row_max, floor_unmasked, .. } => {
                self.step(*s, *rows, *cols, *scale, *floor_unmasked)?;
                self.vector(*row_max, *rows)
            }
            Stmt::FinishSoftmax { rows, row_max, row_sum, sink, inv_sum, lse } => {
                self.expr(*sink, Ty::Float)?;
                let vectors = [*row_max, *row_sum, *inv_sum, *lse];
                vectors.iter().try_for_each(|v| self.vector(*v, *rows))?;
                self.distinct(&vectors)
            }
            Stmt::Transpose { dst, src, rows, cols } => {
                let (to, from) = (self.buffer(*dst)?, self.buffer(*src)?);
                self.count(*rows, from.rows.min(to.cols))?;
                self.count(*cols, from.cols.min(to.rows))?;
                self.distinct(&[*dst, *src])
            }
            Stmt::ScanRows { dst, rows, cols, decay } => {
                let b = self.buffer(*dst)?;
                self.count(*rows, b.rows)?;
                self.count(*cols, b.cols)?;
                decay.iter().try_for_each(|v| self.vector(*v, *rows))?;
                self.ensure(*decay != Some(*dst), "I16", "one buffer in two places")
            }
            Stmt::ReduceRows { dst, src, rows, cols, .. } => {
                let from = self.buffer(*src)?;
                self.vector(*dst, *rows)?;
                self.count(*rows, from.rows)?;
                self.count(*cols, from.cols)?;
                self.distinct(&[*dst, *src])
            }
            Stmt::KeepLargest { best, at, src, rows, cols, first, m } => {
                let (kept, places, from) = (self.buffer(*best)?, self.buffer(*at)?, self.buffer(*src)?);
                let same = (kept.rows, kept.cols) == (places.rows, places.cols);
                self.ensure(same, "I9", "elements and positions are of one size")?;
                self.count(*rows, from.rows.min(kept.rows))?;
                self.count(*cols, from.cols)?;
                self.expr(*first, Ty::Int)?;
                self.expr(*m, Ty::Int)?;
                self.distinct(&[*best, *at, *src])
            }
            Stmt::Mark { dst, at, rows, cols, first } => {
                let (to, places) = (self.buffer(*dst)?, self.buffer(*at)?);
                self.count(*rows, to.rows.min(places.rows))?;
                self.count(*cols, to.cols)?;
                self.expr(*first, Ty::Int)?;
                self.distinct(&[*dst, *at])
            }
            Stmt::Random { dst, rows, cols, row0, col0, stream, offset, seed, threshold, keep_scale } => {
                let b = self.buffer(*dst)?;
                self.count(*rows, b.rows)?;
                self.count(*cols, b.cols)?;
                for x in [row0, col0, stream, offset, seed, threshold] {
                    self.expr(*x, Ty::Int)?;
                }
                self.expr(*keep_scale, Ty::Float)
            }
            Stmt::StoreRows { dst, src, rows, d, row_scale } => {
                let b = self.tile(src.buf)?;
                self.part(src, *rows)?;
                self.count(*d, b.cols)?;
                if let Some(buf) = *row_scale {
                    self.vector(buf, *rows)?;
                    self.part(&BufRows { buf, first: src.first }, *rows)?;
                }
                self.ensure(dst.row_dim != dst.col_dim, "I10", "rows run along two different dims")?;
                self.written_rows(dst)
            }
            Stmt::StoreMap { .. } => self.store_map(stmt),
            Stmt::PrefixSum { hi, lo, src, n } => {
                self.flat(hi, DType::F32)?;
                self.flat(lo, DType::F32)?;
                self.read_vector(src, *n)
            }
            Stmt::TopK { indices, ranks, src, n, m, width } => {
                self.flat(indices, DType::I32)?;
                ranks.iter().try_for_each(|r| self.flat(r, DType::I32))?;
                self.read_vector(src, *n)?;
                self.expr(*m, Ty::Int)?;
                self.expr(*width, Ty::Int)
            }
            Stmt::StoreVec { dst, src, rows } => {
                self.vector(src.buf, *rows)?;
                self.part(src, *rows)?;
                self.ensure(dst.row_dim == dst.col_dim, "I10", "a vector runs along one dim")?;
                self.written_rows(dst)
            }
        }
    }

    /// I22.
    fn view(&mut self, view: BufId, (row, col): (ExprId, ExprId)) -> Checked {
        let buffers = self.launch.map_or(&[][..], |l| &l.buffers);
        let Some(decl) = buffers.get(view.0 as usize) else { return self.any_buffer(view).map(drop) };
        let Some(of) = decl.of else { return self.fail("I22", format!("`{}` is no view", decl.name)) };
        let whole = self.any_buffer(of)?;
        self.count(row, whole.rows - decl.rows)?;
        self.count(col, whole.cols - decl.cols)?;
        let first = self.laid.insert(view);
        self.ensure(first, "I22", "a view is laid a second time while it lies")
    }

    fn search(&mut self, (var, ty): (VarId, Ty), over: &[Span], cond: ExprId) -> Checked {
        self.ensure(!over.is_empty(), "I9", "a search runs over one span or more")?;
        for span in over {
            self.expr(span.lo, Ty::Int)?;
            self.expr(span.hi, Ty::Int)?;
            self.define(span.var)?;
            self.var_ty(span.var, Ty::Int)?;
        }
        self.expr(cond, Ty::Bool)?;
        self.leave(over.iter().map(|span| span.var));
        self.define(var)?;
        self.var_ty(var, ty)
    }

    fn gemm(&self, stmt: &Stmt) -> Checked {
        let Stmt::Gemm { c, a, rest, b, rows, k, n, row_scale, accumulate, skip_zero, next } = stmt else {
            return Ok(());
        };
        let (to, from) = (self.tile(*c)?, self.left(*a)?);
        let mut right = DType::F32;
        if let Rest::Tile(rest) = rest {
            let same = *self.tile(*rest)? == Buffer { name: self.tile(*rest)?.name.clone(), ..from.clone() };
            self.ensure(same, "I20", "both parts of a left operand have one size")?;
            self.ensure(from.dtype == DType::F32, "I21", "a left operand with a rest is f32")?;
            self.distinct(&[*c, *a, *rest])?;
        }
        let (mut most_k, mut most_n) = (from.cols, to.cols);
        match b {
            Operand::Panels(panels) => {
                right = self.panel_type(panels)?;
                self.read(panels.tensor)?;
            }
            Operand::Buffer(buf) => {
                let right = self.tile(*buf)?;
                let panel = PANEL as i64;
                self.ensure(right.cols == panel, "I18", "a right operand in a buffer has 32 columns")?;
                self.distinct(&[*c, *buf])?;
                (most_k, most_n) = (most_k.min(right.rows), most_n.min(panel));
            }
            Operand::Columns(src) => {
                self.read_rows(src)?;
                let plain = row_scale.is_none() && self.program.pool.as_bool(*skip_zero) == Some(false);
                self.ensure(plain, "I19", "a product with columns is neither scaled nor skips")?;
                right = self.type_beside(from, src)?;
                let odd =
                    from.dtype == DType::Bf16 && self.program.pool.as_int(*k).is_some_and(|k| k % 2 != 0);
                self.ensure(!odd, "I21", "a product with columns of bf16 has an even k")?;
            }
            Operand::Rows(src) => {
                self.read_rows(src)?;
                right = self.type_beside(from, src)?;
            }
        }
        self.ensure(
            right == from.dtype,
            "I21",
            "a left operand of bf16 meets bf16, and panels of bf16 meet it",
        )?;
        self.count(*rows, to.rows.min(from.rows))?;
        self.count(*k, most_k)?;
        self.count(*n, most_n)?;
        self.expr(*skip_zero, Ty::Bool)?;
        next.iter().try_for_each(|rows| self.rows(rows).map(drop))?;
        row_scale.iter().try_for_each(|v| self.vector(*v, *rows))?;
        self.ensure(*accumulate || row_scale.is_none(), "I17", "row_scale scales what is added to")?;
        let rounded = self.program.pool.as_int(*n).map_or(0, |n| (n + GEMM_COLS - 1) / GEMM_COLS * GEMM_COLS);
        self.ensure(rounded <= to.cols, "I9", "columns are written up to a multiple of 16")?;
        self.distinct(&[*c, *a])
    }

    fn map(&mut self, stmt: &Stmt) -> Checked {
        let Stmt::Map { dst, rows, cols, row, col, reads, value } = stmt else { return Ok(()) };
        let b = self.buffer(*dst)?;
        self.count(*rows, b.rows)?;
        self.count(*cols, b.cols)?;
        let other = reads.iter().any(|(_, buf, access)| buf == dst && *access != Access::Tile);
        self.ensure(!other, "I15", "a map reads what it writes as a tile")?;
        self.elements((*row, *col), (*rows, *cols), reads, (*value, Ty::Float))
    }

    fn store_map(&mut self, stmt: &Stmt) -> Checked {
        let Stmt::StoreMap { dst, rows, cols, row, col, reads, value } = stmt else { return Ok(()) };
        let decl = self.rows(dst)?;
        self.writable(decl)?;
        let one = self.program.pool.as_int(*cols) == Some(1);
        self.ensure(dst.row_dim != dst.col_dim || one, "I10", "along one dim there is one column")?;
        self.count(*rows, i64::MAX)?;
        self.count(*cols, i64::MAX)?;
        self.elements((*row, *col), (*rows, *cols), reads, (*value, decl.dtype.value_ty()))
    }

    /// The variables, reads and value of a map.
    fn elements(
        &mut self,
        (row, col): (VarId, VarId),
        (rows, cols): (ExprId, ExprId),
        reads: &[(VarId, BufId, Access)],
        (value, ty): (ExprId, Ty),
    ) -> Checked {
        for var in [row, col] {
            self.define(var)?;
            self.var_ty(var, Ty::Int)?;
        }
        for (var, buf, access) in reads {
            self.define(*var)?;
            self.var_ty(*var, Ty::Float)?;
            let read = self.buffer(*buf)?;
            if *access != Access::Col {
                self.count(rows, read.rows)?;
            }
            if *access != Access::Row {
                self.count(cols, read.cols)?;
            }
        }
        self.expr(value, ty)?;
        self.leave(reads.iter().map(|r| r.0).chain([row, col]));
        Ok(())
    }

    fn step(&self, s: BufId, rows: ExprId, cols: ExprId, scale: ExprId, floor: ExprId) -> Checked {
        let b = self.tile(s)?;
        self.count(rows, b.rows)?;
        self.count(cols, b.cols)?;
        self.expr(scale, Ty::Float)?;
        self.expr(floor, Ty::Bool)
    }

    fn pack(&self, dst: &PanelRef, src: &RowsRef, n: ExprId, d: i64) -> Checked {
        let fits = self.panel_type(dst)? == DType::F32 || self.tensor(src.tensor)?.dtype == DType::Bf16;
        self.ensure(fits, "I21", "panels of bf16 take rows of bf16")?;
        self.expr(n, Ty::Int)?;
        self.ensure(d > 0, "I9", "at least one feature")?;
        self.ensure(self.program.pool.as_int(n).is_none_or(|n| n >= 0), "I9", "a negative count")?;
        self.read_rows(src)
    }

    /// I7.
    fn any_buffer(&self, id: BufId) -> Checked<&'a Buffer> {
        match self.launch.and_then(|l| l.buffers.get(id.0 as usize)) {
            Some(b) if b.of.is_some() && !self.laid.contains(&id) => {
                self.fail("I22", format!("the view `{}` has not been laid", b.name))
            }
            Some(b) => Ok(b),
            None => self.fail("I7", format!("buffer {} is not of this launch", id.0)),
        }
    }

    /// I7, of f32.
    fn buffer(&self, id: BufId) -> Checked<&'a Buffer> {
        let b = self.any_buffer(id)?;
        if b.dtype == DType::F32 { Ok(b) } else { self.fail("I21", format!("`{}` is {}", b.name, b.dtype)) }
    }

    /// A tile that may be a left operand of bf16.
    fn left(&self, id: BufId) -> Checked<&'a Buffer> {
        let b = self.any_buffer(id)?;
        if b.cols > 1 { Ok(b) } else { self.fail("I8", format!("`{}` is a vector", b.name)) }
    }

    /// What rows of a tensor count as beside a left operand: bf16 beside bf16 if they are, f32 beside f32 whatever they are.
    fn type_beside(&self, left: &Buffer, rows: &RowsRef) -> Checked<DType> {
        let bf16 = left.dtype == DType::Bf16 && self.tensor(rows.tensor)?.dtype == DType::Bf16;
        Ok(if bf16 { DType::Bf16 } else { DType::F32 })
    }

    /// I8.
    fn tile(&self, id: BufId) -> Checked<&'a Buffer> {
        let b = self.buffer(id)?;
        if b.cols > 1 { Ok(b) } else { self.fail("I8", format!("`{}` is a vector", b.name)) }
    }

    /// I8 and the count of I9.
    fn vector(&self, id: BufId, rows: ExprId) -> Checked {
        let b = self.buffer(id)?;
        if b.cols != 1 {
            return self.fail("I8", format!("`{}` is no vector", b.name));
        }
        self.count(rows, b.rows)
    }

    /// I9 where the count is constant.
    fn count(&self, n: ExprId, limit: i64) -> Checked {
        self.expr(n, Ty::Int)?;
        match self.program.pool.as_int(n) {
            Some(n) if !(0..=limit).contains(&n) => self.fail("I9", format!("{n} is not within 0..={limit}")),
            _ => Ok(()),
        }
    }

    /// Some rows of a buffer: I9 where their ends are constant.
    fn part(&self, part: &BufRows, rows: ExprId) -> Checked {
        let limit = self.any_buffer(part.buf)?.rows;
        part.first.iter().try_for_each(|first| self.count(*first, limit))?;
        let first = part.first.and_then(|first| self.program.pool.as_int(first)).unwrap_or(0);
        self.count(rows, limit - first)
    }

    /// I16.
    fn distinct(&self, bufs: &[BufId]) -> Checked {
        let buffers = self.launch.map_or(&[][..], |l| &l.buffers);
        let whole = |b: &BufId| buffers.get(b.0 as usize).and_then(|decl| decl.of).unwrap_or(*b);
        let bufs: Vec<BufId> = bufs.iter().map(whole).collect();
        let twice = bufs.iter().enumerate().any(|(n, b)| bufs[..n].contains(b));
        self.ensure(!twice, "I16", "one buffer in two places")
    }

    /// The type of the elements of a panel.
    fn panel_type(&self, p: &PanelRef) -> Checked<DType> {
        let dtype = self.tensor(p.tensor)?.dtype;
        self.workspace(p.tensor, if dtype == DType::Bf16 { dtype } else { DType::F32 })?;
        self.expr(p.offset, Ty::Int)?;
        self.expr(p.panel_stride, Ty::Int)?;
        Ok(dtype)
    }

    /// I11.
    fn workspace(&self, t: TensorId, dtype: DType) -> Checked<&'a TensorDecl> {
        let decl = self.tensor(t)?;
        let fits = decl.kind == TensorKind::Workspace && decl.dtype == dtype;
        if fits { Ok(decl) } else { self.fail("I11", format!("`{}` is no {dtype} workspace", decl.name)) }
    }

    fn indices(&self, decl: &TensorDecl, index: &[ExprId]) -> Checked {
        if index.len() != decl.shape.len() {
            let (found, wanted) = (index.len(), decl.shape.len());
            return self.fail("I10", format!("{found} indices, `{}` has {wanted} dims", decl.name));
        }
        index.iter().try_for_each(|x| self.expr(*x, Ty::Int))
    }

    fn flat(&self, flat: &FlatRef, dtype: DType) -> Checked {
        self.workspace(flat.tensor, dtype)?;
        self.expr(flat.offset, Ty::Int)
    }

    fn rows(&self, rows: &RowsRef) -> Checked<&'a TensorDecl> {
        let decl = self.tensor(rows.tensor)?;
        self.indices(decl, &rows.index)?;
        let rank = decl.shape.len();
        self.ensure(rows.row_dim < rank && rows.col_dim < rank, "I10", "rows run along dims of the tensor")?;
        Ok(decl)
    }

    fn read(&self, t: TensorId) -> Checked {
        let output = self.tensor(t)?.kind == TensorKind::Output;
        self.ensure(!output, "I12", "an output is not read")
    }

    fn read_rows(&self, rows: &RowsRef) -> Checked {
        self.rows(rows)?;
        self.ensure(rows.row_dim != rows.col_dim, "I10", "rows run along two different dims")?;
        self.read(rows.tensor)
    }

    fn read_vector(&self, rows: &RowsRef, n: ExprId) -> Checked {
        self.rows(rows)?;
        self.ensure(rows.row_dim == rows.col_dim, "I10", "a vector runs along one dim")?;
        self.count(n, i64::MAX)?;
        self.read(rows.tensor)
    }

    fn written_rows(&self, rows: &RowsRef) -> Checked {
        let decl = self.rows(rows)?;
        self.writable(decl)
    }

    fn writable(&self, decl: &TensorDecl) -> Checked {
        let writable = matches!(decl.kind, TensorKind::Output | TensorKind::Updated | TensorKind::Workspace);
        self.ensure(writable, "I12", "inputs and tables are not written")
    }
}

/// The tensors that a launch reads and writes.
#[derive(Default)]
pub(super) struct Touched {
    pub reads: BTreeSet<TensorId>,
    pub writes: BTreeSet<TensorId>,
}

impl Touched {
    pub fn of(program: &Program, launch: &Launch) -> Touched {
        let mut touched = Touched::default();
        touched.block(program, &launch.body, &mut Seen::default());
        let n = program.tensors.len() as u32;
        touched.reads.retain(|t| t.0 < n);
        touched.writes.retain(|t| t.0 < n);
        touched
    }

    fn block(&mut self, program: &Program, body: &[Stmt], seen: &mut Seen) {
        for stmt in body {
            for id in program.pool.reachable_without(&stmt.exprs(), seen) {
                if let Op::Load(t, ..) = program.pool.op(id) {
                    self.reads.insert(*t);
                }
            }
            match stmt {
                Stmt::For { body, .. } => self.block(program, body, seen),
                Stmt::If { then, otherwise, .. } => {
                    self.block(program, then, seen);
                    self.block(program, otherwise, seen);
                }
                Stmt::LoadRows { src, .. } => {
                    self.reads.insert(src.tensor);
                }
                Stmt::Gemm { b: Operand::Columns(src) | Operand::Rows(src), .. } => {
                    self.reads.insert(src.tensor);
                }
                Stmt::Gemm { b: Operand::Panels(b), .. } => {
                    self.reads.insert(b.tensor);
                }
                Stmt::PackK { dst, src, .. } => {
                    self.reads.insert(src.tensor);
                    self.writes.insert(dst.tensor);
                }
                Stmt::PackV { dst, src, flag, .. } => {
                    self.reads.insert(src.tensor);
                    self.writes.extend([dst.tensor, flag.0]);
                }
                Stmt::PrefixSum { hi, lo, src, .. } => {
                    self.reads.insert(src.tensor);
                    self.writes.extend([hi.tensor, lo.tensor]);
                }
                Stmt::TopK { indices, ranks, src, .. } => {
                    self.reads.insert(src.tensor);
                    self.writes.insert(indices.tensor);
                    self.writes.extend(ranks.iter().map(|r| r.tensor));
                }
                Stmt::StoreRows { dst, .. } | Stmt::StoreVec { dst, .. } | Stmt::StoreMap { dst, .. } => {
                    self.writes.insert(dst.tensor);
                }
                Stmt::Let { .. }
                | Stmt::Any { .. }
                | Stmt::First { .. }
                | Stmt::View { .. }
                | Stmt::Fill { .. }
                | Stmt::Gemm { .. }
                | Stmt::Map { .. }
                | Stmt::Affine { .. }
                | Stmt::Band { .. }
                | Stmt::Math { .. }
                | Stmt::Transpose { .. }
                | Stmt::Round { .. }
                | Stmt::ScanRows { .. }
                | Stmt::ReduceRows { .. }
                | Stmt::KeepLargest { .. }
                | Stmt::Mark { .. }
                | Stmt::Random { .. }
                | Stmt::SoftmaxStep { .. }
                | Stmt::WeightStep { .. }
                | Stmt::FinishSoftmax { .. } => {}
            }
        }
    }
}
