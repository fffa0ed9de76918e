//! Statements: control flow, fills, and one intrinsic call for each tile operation.
//!
//! Comes in: statements of a verified block. Goes out: code in the current block and those that it opens. Row and
//! column counts are cut to the size of the buffer, so that a wrong count cannot leave it. Each arm of the
//! statement match writes the arguments in the order of `artifact::Intrinsic`.

use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, MemFlagsData, Value, types};

use crate::artifact::{DType, Intrinsic, PANEL};
use crate::expr::range::Range;
use crate::expr::{ExprId, TensorId, VarId};
use crate::tile_ir::{BufId, BufRows, Operand, PanelRef, RowsRef, Span, Stmt};

use super::BackendError;
use super::emitter::{Emitter, Key, Result};
use super::scratch;

/// Largest fill, in vectors of four, that is written out without a loop.
const FLAT_FILL: i64 = 8;

impl Emitter<'_, '_> {
    /// A block of statements.
    pub fn block(&mut self, stmts: &[Stmt]) -> Result<()> {
        for stmt in stmts {
            self.forget_volatile();
            if !self.outlined(stmt)? {
                self.stmt(stmt)?;
            }
        }
        self.forget_volatile();
        Ok(())
    }

    /// One call for each kind of statement (tidy: long match).
    fn stmt(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::Let { var, value } => {
                let (id, range) = (*value, self.range(*value));
                let value = self.scalar(id)?;
                self.bind(*var, value, range);
                self.note_value(*var, id);
                Ok(())
            }
            Stmt::Any { var, over, cond } => self.any(*var, over, *cond),
            Stmt::First { var, over, cond } => self.first(*var, over, *cond),
            Stmt::For { var, lo, hi, body } => {
                let range = self.span_range(*lo, *hi);
                let first = *lo;
                let (lo, end) = (self.scalar(first)?, self.scalar(*hi)?);
                self.forget_volatile();
                self.count_loop((lo, end, 1), [], |e, i, []| {
                    e.bind(*var, i, range);
                    e.note_between(*var, first, *hi);
                    e.block(body)
                })
            }
            Stmt::If { cond, then, otherwise } => self.branch(*cond, then, otherwise),
            Stmt::View { view, row, col } => self.view(*view, (*row, *col)),
            Stmt::Fill { dst, value } => self.fill(*dst, *value),
            Stmt::LoadRows { dst, src, rows, d } => self.load_rows(dst, src, *rows, *d),
            Stmt::Round { dst, src, rows, cols } => {
                let (to, ldd) = (self.buffer_address(*dst)?, self.int(self.ld(*dst)?));
                let most = (self.buffer(*dst)?.rows, self.buffer(*dst)?.cols);
                let [from, lds, rows, cols] = self.tile(*src, *rows, *cols)?;
                let (most_rows, most_cols) = (self.int(most.0), self.int(most.1));
                let (rows, cols) = (self.b.ins().smin(rows, most_rows), self.b.ins().smin(cols, most_cols));
                self.run(Intrinsic::RoundPairs, &[to, ldd, from, lds, rows, cols])
            }
            Stmt::PackK { dst, src, n, d } => self.pack_k(dst, src, *n, *d),
            Stmt::PackV { dst, src, n, d, flag } => self.pack_v(dst, src, (*n, *d), flag),
            Stmt::Gemm { .. } => self.gemm(stmt),
            Stmt::Map { .. } => self.map(stmt),
            Stmt::Math { f, dst, rows, cols } => {
                let code = self.b.ins().iconst(types::I32, *f as i64);
                let [at, ld, rows, cols] = self.tile(*dst, *rows, *cols)?;
                self.run(Intrinsic::VMath, &[code, at, ld, rows, cols])
            }
            Stmt::SoftmaxStep { s, rows, cols, scale, row_max, row_sum, alpha, floor_unmasked } => {
                let [s, ld, rows, cols] = self.tile(*s, *rows, *cols)?;
                let scale = self.scalar(*scale)?;
                let [max, sum, alpha] = self.addresses([*row_max, *row_sum, *alpha])?;
                let floor = self.flag(*floor_unmasked)?;
                self.run(Intrinsic::SoftmaxStep, &[s, ld, rows, cols, scale, max, sum, alpha, floor])
            }
            Stmt::WeightStep { kind, s, rows, cols, scale, row_max, floor_unmasked } => {
                let kind = self.b.ins().iconst(types::I32, *kind as i64);
                let [s, ld, rows, cols] = self.tile(*s, *rows, *cols)?;
                let scale = self.scalar(*scale)?;
                let [max] = self.addresses([*row_max])?;
                let floor = self.flag(*floor_unmasked)?;
                self.run(Intrinsic::WeightStep, &[kind, s, ld, rows, cols, scale, max, floor])
            }
            Stmt::FinishSoftmax { rows, row_max, row_sum, sink, inv_sum, lse } => {
                let rows = self.count(*rows, self.buffer(*row_max)?.rows)?;
                let [max, sum, inv, lse] = self.addresses([*row_max, *row_sum, *inv_sum, *lse])?;
                let sink = self.scalar(*sink)?;
                self.run(Intrinsic::FinishSoftmax, &[rows, max, sum, sink, inv, lse])
            }
            Stmt::Transpose { dst, src, rows, cols } => self.transpose(*dst, *src, (*rows, *cols)),
            Stmt::Affine { .. } => self.affine(stmt),
            Stmt::Band { s, rows, cols, period, from, to } => {
                let [s, ld, rows, cols] = self.tile(*s, *rows, *cols)?;
                let period = self.scalar(*period)?;
                let (first, end) = (self.scalar(from.at)?, self.scalar(to.at)?);
                let (by_first, by_end) = (self.int(from.step), self.int(to.step));
                self.run(Intrinsic::Band, &[s, ld, rows, cols, period, first, by_first, end, by_end])
            }
            Stmt::ScanRows { dst, rows, cols, decay } => {
                let [s, ld, rows, cols] = self.tile(*dst, *rows, *cols)?;
                let rows = self.within(rows, decay.as_slice())?;
                let decay = self.address_or_null(*decay)?;
                self.run(Intrinsic::ScanRows, &[s, ld, rows, cols, decay])
            }
            Stmt::ReduceRows { dst, op, src, rows, cols } => {
                let op = self.b.ins().iconst(types::I32, *op as i64);
                let [from, ld, rows, cols] = self.tile(*src, *rows, *cols)?;
                let rows = self.within(rows, &[*dst])?;
                let [to] = self.addresses([*dst])?;
                self.run(Intrinsic::ReduceRows, &[op, to, from, ld, rows, cols])
            }
            Stmt::KeepLargest { best, at, src, rows, cols, first, m } => {
                let [from, lds, rows, cols] = self.tile(*src, *rows, *cols)?;
                let rows = self.within(rows, &[*best, *at])?;
                let [best_at, at] = self.addresses([*best, *at])?;
                let most = self.buffer(*best)?.cols;
                let (first, m) = (self.scalar(*first)?, self.count(*m, most)?);
                let ldb = self.int(self.ld(*best)?);
                self.run(Intrinsic::KeepLargest, &[best_at, at, ldb, from, lds, rows, cols, first, m])
            }
            Stmt::Mark { dst, at, rows, cols, first } => {
                let [to, ldd, rows, cols] = self.tile(*dst, *rows, *cols)?;
                let rows = self.within(rows, &[*at])?;
                let [places] = self.addresses([*at])?;
                let (lda, first) = (self.int(self.ld(*at)?), self.scalar(*first)?);
                self.run(Intrinsic::Mark, &[to, ldd, places, lda, rows, cols, first])
            }
            Stmt::Random { dst, rows, cols, row0, col0, stream, offset, seed, threshold, keep_scale } => {
                let mut args = self.tile(*dst, *rows, *cols)?.to_vec();
                for x in [row0, col0, stream, offset, seed, threshold, keep_scale] {
                    args.push(self.scalar(*x)?);
                }
                self.run(Intrinsic::Random, &args)
            }
            Stmt::StoreRows { dst, src, rows, d, row_scale } => {
                self.store_rows(dst, src, (*rows, *d), *row_scale)
            }
            Stmt::StoreMap { .. } => self.store_map(stmt),
            Stmt::PrefixSum { hi, lo, src, n } => {
                let n = self.count(*n, i64::MAX)?;
                let (hi, lo) = (self.flat(hi)?, self.flat(lo)?);
                let (dtype, from) = (self.dtype(src.tensor)?, self.rows_address(src)?);
                let stride = self.stride(src.tensor, src.row_dim);
                self.run(Intrinsic::PrefixSum, &[hi, lo, from, dtype, n, stride])
            }
            Stmt::TopK { .. } => self.top_k(stmt),
            Stmt::StoreVec { dst, src, rows } => {
                let (from, n, _) = self.part(src, *rows)?;
                let (dtype, to) = (self.dtype(dst.tensor)?, self.rows_address(dst)?);
                let stride = self.stride(dst.tensor, dst.row_dim);
                self.run(Intrinsic::StoreVec, &[from, to, dtype, n, stride])
            }
        }
    }

    fn span_range(&self, lo: ExprId, hi: ExprId) -> Range {
        Range { lo: self.range(lo).lo, hi: self.range(hi).hi.saturating_sub(1) }
    }

    /// A search that leaves its loops at the first point found.
    fn any(&mut self, var: VarId, over: &[Span], cond: ExprId) -> Result<()> {
        let done = self.b.create_block();
        let found = self.b.append_block_param(done, types::I8);
        self.scoped(|e| e.search(over, cond, done))?;
        let no = self.b.ins().iconst(types::I8, 0);
        self.b.ins().jump(done, &[BlockArg::Value(no)]);
        self.b.switch_to_block(done);
        self.bind(var, found, Range::ALL);
        Ok(())
    }

    /// A search that gives the counter at which it ended.
    fn first(&mut self, var: VarId, over: &Span, cond: ExprId) -> Result<()> {
        let range = self.span_range(over.lo, over.hi);
        let (lo, hi) = (self.scalar(over.lo)?, self.scalar(over.hi)?);
        let done = self.b.create_block();
        let found = self.b.append_block_param(done, types::I64);
        self.forget_volatile();
        self.count_loop((lo, hi, 1), [], |e, i, []| {
            e.bind(over.var, i, range);
            let holds = e.scalar(cond)?;
            let next = e.b.create_block();
            e.b.ins().brif(holds, done, &[BlockArg::Value(i)], next, &[]);
            e.b.switch_to_block(next);
            Ok(())
        })?;
        self.b.ins().jump(done, &[BlockArg::Value(hi)]);
        self.b.switch_to_block(done);
        let (first, end) = (self.range(over.lo), self.range(over.hi));
        self.bind(var, found, Range { lo: first.lo.min(end.lo), hi: end.hi });
        Ok(())
    }

    /// Jumps to `done` with true from the first point at which `cond` holds; else goes on behind the loops.
    fn search(&mut self, over: &[Span], cond: ExprId, done: Block) -> Result<()> {
        let Some((span, rest)) = over.split_first() else {
            let holds = self.scalar(cond)?;
            let next = self.b.create_block();
            let yes = self.b.ins().iconst(types::I8, 1);
            self.b.ins().brif(holds, done, &[BlockArg::Value(yes)], next, &[]);
            self.b.switch_to_block(next);
            return Ok(());
        };
        let range = self.span_range(span.lo, span.hi);
        let (lo, hi) = (self.scalar(span.lo)?, self.scalar(span.hi)?);
        self.forget_volatile();
        self.count_loop((lo, hi, 1), [], |e, i, []| {
            e.bind(span.var, i, range);
            e.search(rest, cond, done)
        })
    }

    fn branch(&mut self, cond: ExprId, then: &[Stmt], otherwise: &[Stmt]) -> Result<()> {
        let cond = self.scalar(cond)?;
        let [yes, no, join] = std::array::from_fn(|_| self.b.create_block());
        self.b.ins().brif(cond, yes, &[], no, &[]);
        for (block, stmts) in [(yes, then), (no, otherwise)] {
            self.b.switch_to_block(block);
            self.scoped(|e| e.block(stmts))?;
            self.b.ins().jump(join, &[]);
        }
        self.b.switch_to_block(join);
        Ok(())
    }

    /// Fills whole cache lines: the padding after a short vector belongs to the buffer.
    fn fill(&mut self, dst: BufId, value: f64) -> Result<()> {
        let buffer = self.buffer(dst)?;
        let too_large = || BackendError::internal("fill", "a placed buffer has a size", &buffer.name);
        let vectors = scratch::bytes(buffer).ok_or_else(too_large)? / 16;
        let at = self.buffer_address(dst)?;
        let scalar = self.float(value);
        let x = self.b.ins().splat(types::F32X4, scalar);
        let store = |e: &mut Self, at: Value, n: i64| {
            for v in 0..n {
                e.b.ins().store(MemFlagsData::trusted(), x, at, (v * 16) as i32);
            }
        };
        if vectors <= FLAT_FILL {
            store(self, at, vectors);
            return Ok(());
        }
        let n = self.int(vectors * 4);
        self.run(Intrinsic::Fill, &[at, n, scalar])
    }

    /// Address and count of some rows of a buffer, within it whatever the expressions give, and the first.
    fn part(&mut self, part: &BufRows, rows: ExprId) -> Result<(Value, Value, Option<Value>)> {
        let buffer = self.buffer(part.buf)?;
        let (at, n) = (self.buffer_address(part.buf)?, self.count(rows, buffer.rows)?);
        let Some(first) = part.first else { return Ok((at, n, None)) };
        let (first, all) = (self.count(first, buffer.rows)?, self.int(buffer.rows));
        let left = self.b.ins().isub(all, first);
        let n = self.b.ins().smin(n, left);
        let by_row = self.ld(part.buf)? * buffer.dtype.size() as i64;
        let skipped = self.b.ins().imul_imm_s(first, by_row);
        Ok((self.b.ins().iadd(at, skipped), n, Some(first)))
    }

    fn affine(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::Affine { dst, rows, cols, scale, factor, term, diagonal, keep_zero } = stmt else {
            return Err(BackendError::internal("stmt", "only an Affine comes here", format!("{stmt:?}")));
        };
        let [s, ld, mut rows, mut cols] = self.tile(*dst, *rows, *cols)?;
        for buf in factor.iter().chain(term) {
            let room = self.int(self.buffer(*buf)?.cols);
            cols = self.b.ins().smin(cols, room);
        }
        let scale = self.scalar(*scale)?;
        let factor = self.address_or_null(*factor)?;
        let mut at = self.address_or_null(*term)?;
        let mut step = self.int(0);
        if let (Some(term), true) = (term, *diagonal) {
            // The first row begins at the last diagonal, each other one before the one above; all lie in the buffer.
            let (room, one, none) = (self.int(self.buffer(*term)?.cols), self.int(1), self.int(0));
            let left = self.b.ins().isub(room, cols);
            let most = self.b.ins().iadd(left, one);
            rows = self.b.ins().smin(rows, most);
            let first = self.b.ins().isub(rows, one);
            let first = self.b.ins().smax(first, none);
            at = self.element(at, first);
            step = self.int(-1);
        }
        let keep = self.b.ins().iconst(types::I32, i64::from(*keep_zero));
        self.run(Intrinsic::Affine, &[s, ld, rows, cols, scale, factor, at, step, keep])
    }

    fn load_rows(&mut self, dst: &BufRows, src: &RowsRef, rows: ExprId, d: ExprId) -> Result<()> {
        let buffer = self.buffer(dst.buf)?;
        let ((to, rows, _), d) = (self.part(dst, rows)?, self.count(d, buffer.cols)?);
        let (dtype, from) = (self.dtype(src.tensor)?, self.rows_address(src)?);
        let ld = self.int(self.ld(dst.buf)?);
        let [by_row, by_col] = self.strides(src);
        if buffer.dtype == DType::Bf16 {
            return self.run(Intrinsic::LoadPairs, &[to, ld, from, rows, d, by_row, by_col]);
        }
        self.run(Intrinsic::LoadRows, &[to, ld, from, dtype, rows, d, by_row, by_col])
    }

    fn store_rows(
        &mut self,
        dst: &RowsRef,
        src: &BufRows,
        (rows, d): (ExprId, ExprId),
        row_scale: Option<BufId>,
    ) -> Result<()> {
        let buffer = self.buffer(src.buf)?;
        let ((from, rows, first), d) = (self.part(src, rows)?, self.count(d, buffer.cols)?);
        let (dtype, to) = (self.dtype(dst.tensor)?, self.rows_address(dst)?);
        let ld = self.int(self.ld(src.buf)?);
        let [by_row, by_col] = self.strides(dst);
        let mut scale = self.address_or_null(row_scale)?;
        let mut rows = rows;
        if let (Some(first), Some(buf)) = (first, row_scale) {
            let (all, zero) = (self.int(self.buffer(buf)?.rows), self.int(0));
            let left = self.b.ins().isub(all, first);
            let left = self.b.ins().smax(left, zero);
            rows = self.b.ins().smin(rows, left);
            let skipped = self.b.ins().imul_imm_s(first, 4);
            scale = self.b.ins().iadd(scale, skipped);
        }
        self.run(Intrinsic::StoreRows, &[from, ld, to, dtype, rows, d, by_row, by_col, scale])
    }

    fn pack_k(&mut self, dst: &PanelRef, src: &RowsRef, n: ExprId, d: i64) -> Result<()> {
        let n = self.count(n, i64::MAX)?;
        let (to, _) = self.panel(dst)?;
        let (dtype, from, d) = (self.dtype(src.tensor)?, self.rows_address(src)?, self.int(d));
        let [by_row, by_col] = self.strides(src);
        if self.tensor(dst.tensor)?.dtype == DType::Bf16 {
            return self.run(Intrinsic::PackKPairs, &[to, from, n, d, by_row, by_col]);
        }
        self.run(Intrinsic::PackK, &[to, from, dtype, n, d, by_row, by_col])
    }

    fn pack_v(
        &mut self,
        dst: &PanelRef,
        src: &RowsRef,
        (n, d): (ExprId, i64),
        flag: &(TensorId, Vec<ExprId>),
    ) -> Result<()> {
        let n = self.count(n, i64::MAX)?;
        let (to, panel_stride) = self.panel(dst)?;
        let (dtype, from, d) = (self.dtype(src.tensor)?, self.rows_address(src)?, self.int(d));
        let [by_row, by_col] = self.strides(src);
        let mut index = Vec::new();
        for &at in &flag.1 {
            index.push(self.scalar(at)?);
        }
        let flag_address = self.element_address(flag.0, (&flag.1, &index))?;
        let bad = if self.tensor(dst.tensor)?.dtype == DType::Bf16 {
            self.call(Intrinsic::PackVPairs, &[to, panel_stride, from, n, d, by_row, by_col])?
        } else {
            self.call(Intrinsic::PackV, &[to, panel_stride, from, dtype, n, d, by_row, by_col])?
        };
        let bad = self.b.ins().ireduce(types::I32, bad);
        self.b.ins().store(MemFlagsData::new().with_notrap(), bad, flag_address, 0);
        Ok(())
    }

    fn gemm(&mut self, stmt: &Stmt) -> Result<()> {
        if let Some(parts) = stmt.parts_of_product() {
            return parts.iter().try_for_each(|part| self.gemm(part));
        }
        let Stmt::Gemm { c, a, b, rows, k, n, row_scale, accumulate, skip_zero, .. } = stmt else {
            return Err(BackendError::internal("stmt", "only a Gemm comes here", format!("{stmt:?}")));
        };
        if let Operand::Columns(src) | Operand::Rows(src) = b {
            return self.direct(stmt, src, matches!(b, Operand::Columns(_)));
        }
        let (to, from) = (self.buffer(*c)?, self.buffer(*a)?);
        let rows = self.count(*rows, to.rows.min(from.rows))?;
        let (most_k, most_n) = match b {
            Operand::Panels(_) | Operand::Columns(_) | Operand::Rows(_) => (from.cols, to.cols),
            Operand::Buffer(b) => (from.cols.min(self.buffer(*b)?.rows), to.cols.min(PANEL as i64)),
        };
        let (k, n) = (self.count(*k, most_k)?, self.count(*n, most_n)?);
        let (ldc, lda) = (self.int(self.ld(*c)?), self.int(self.ld(*a)?));
        let (all, skipping) = match from.dtype {
            DType::Bf16 => (Intrinsic::GemmPairs, Intrinsic::GemmPairsSkipZero),
            _ => (Intrinsic::Gemm, Intrinsic::GemmSkipZero),
        };
        let [c, a] = self.addresses([*c, *a])?;
        let (panel, panel_stride) = match b {
            Operand::Panels(p) => self.panel(p)?,
            // There is one panel, so the stride is not used.
            Operand::Buffer(b) => (self.buffer_address(*b)?, self.int(0)),
            Operand::Columns(_) | Operand::Rows(_) => return Ok(()),
        };
        let scale = self.address_or_null(*row_scale)?;
        let add = self.b.ins().iconst(types::I32, i64::from(*accumulate));
        let args = [c, ldc, a, lda, panel, panel_stride, rows, k, n, scale, add];
        match self.pool().as_bool(*skip_zero) {
            Some(false) => self.run(all, &args),
            Some(true) => self.run(skipping, &args),
            None => {
                let skip = self.scalar(*skip_zero)?;
                let (skipping, plain) = (self.function(skipping), self.function(all));
                let chosen = self.b.ins().select(skip, skipping, plain);
                self.call_at(all, chosen, &args).map(|_| ())
            }
        }
    }

    /// A product with rows of a tensor where they lie.
    fn direct(&mut self, stmt: &Stmt, src: &RowsRef, columns: bool) -> Result<()> {
        let Stmt::Gemm { c, a, rows, k, n, row_scale, accumulate, skip_zero, next, .. } = stmt else {
            return Ok(());
        };
        let next = match next {
            Some(rows) => self.rows_address(rows)?,
            None => self.int(0),
        };
        let (to, from) = (self.buffer(*c)?, self.buffer(*a)?);
        let rows = self.count(*rows, to.rows.min(from.rows))?;
        let (k, n) = (self.count(*k, from.cols)?, self.count(*n, to.cols)?);
        let (ldc, lda) = (self.int(self.ld(*c)?), self.int(self.ld(*a)?));
        let [c, a] = self.addresses([*c, *a])?;
        let (dtype, b) = (self.dtype(src.tensor)?, self.rows_address(src)?);
        let [by_row, by_element] = self.strides(src);
        let add = self.b.ins().iconst(types::I32, i64::from(*accumulate));
        let pairs = from.dtype == DType::Bf16;
        if columns && pairs {
            let args = [c, ldc, a, lda, b, by_row, by_element, rows, k, n, add, next];
            return self.run(Intrinsic::ColumnsPairs, &args);
        }
        if columns {
            let args = [c, ldc, a, lda, b, dtype, by_row, by_element, rows, k, n, add, next];
            return self.run(Intrinsic::GemmColumns, &args);
        }
        let scale = self.address_or_null(*row_scale)?;
        let skip = self.flag(*skip_zero)?;
        if pairs {
            let args = [c, ldc, a, lda, b, by_row, by_element, rows, k, n, scale, add, skip, next];
            return self.run(Intrinsic::RowsPairs, &args);
        }
        let args = [c, ldc, a, lda, b, dtype, by_row, by_element, rows, k, n, scale, add, skip, next];
        self.run(Intrinsic::GemmRows, &args)
    }

    /// A row or column count, cut to 0..=max.
    pub fn count(&mut self, id: ExprId, max: i64) -> Result<Value> {
        let key = Key::Count(id, max);
        if let Some(known) = self.recall(key) {
            return Ok(known);
        }
        let range = self.range(id);
        let mut n = self.scalar(id)?;
        if range.lo < 0 {
            let zero = self.int(0);
            n = self.b.ins().smax(n, zero);
        }
        if range.hi > max {
            let max = self.int(max);
            n = self.b.ins().smin(n, max);
        }
        self.remember(key, n);
        Ok(n)
    }

    /// Address, leading dimension, rows, columns.
    pub fn tile(&mut self, buf: BufId, rows: ExprId, cols: ExprId) -> Result<[Value; 4]> {
        let buffer = self.buffer(buf)?;
        let (at, ld) = (self.buffer_address(buf)?, self.int(self.ld(buf)?));
        Ok([at, ld, self.count(rows, buffer.rows)?, self.count(cols, buffer.cols)?])
    }

    pub fn addresses<const N: usize>(&mut self, bufs: [BufId; N]) -> Result<[Value; N]> {
        let mut out = [self.scratch; N];
        for (slot, buf) in out.iter_mut().zip(bufs) {
            *slot = self.buffer_address(buf)?;
        }
        Ok(out)
    }

    pub fn address_or_null(&mut self, buf: Option<BufId>) -> Result<Value> {
        match buf {
            Some(buf) => self.buffer_address(buf),
            None => Ok(self.int(0)),
        }
    }

    /// A bool as a 32-bit flag.
    fn flag(&mut self, id: ExprId) -> Result<Value> {
        let value = self.scalar(id)?;
        Ok(self.b.ins().uextend(types::I32, value))
    }

    pub fn dtype(&mut self, t: TensorId) -> Result<Value> {
        let code = self.tensor(t)?.dtype as i64;
        Ok(self.b.ins().iconst(types::I32, code))
    }

    pub fn strides(&mut self, rows: &RowsRef) -> [Value; 2] {
        [self.stride(rows.tensor, rows.row_dim), self.stride(rows.tensor, rows.col_dim)]
    }

    /// Address of the first element of a run of rows.
    pub fn rows_address(&mut self, rows: &RowsRef) -> Result<Value> {
        let size = self.tensor(rows.tensor)?.dtype.size();
        let pool = self.pool();
        let mut offset = None;
        for (dim, &at) in rows.index.iter().enumerate().filter(|(_, at)| pool.as_int(**at) != Some(0)) {
            let (at, stride) = (self.scalar(at)?, self.stride(rows.tensor, dim));
            let part = self.b.ins().imul(at, stride);
            offset = Some(match offset {
                Some(offset) => self.b.ins().iadd(offset, part),
                None => part,
            });
        }
        let base = self.address(rows.tensor);
        let Some(offset) = offset else { return Ok(base) };
        let bytes = self.b.ins().ishl_imm_u(offset, i64::from(size.trailing_zeros()));
        Ok(self.b.ins().iadd(base, bytes))
    }

    /// Address and panel stride of a packed matrix.
    fn panel(&mut self, panel: &PanelRef) -> Result<(Value, Value)> {
        let (offset, stride) = (self.scalar(panel.offset)?, self.scalar(panel.panel_stride)?);
        let size = self.tensor(panel.tensor)?.dtype.size();
        let bytes = self.b.ins().ishl_imm_u(offset, i64::from(size.trailing_zeros()));
        let base = self.address(panel.tensor);
        Ok((self.b.ins().iadd(base, bytes), stride))
    }
}
