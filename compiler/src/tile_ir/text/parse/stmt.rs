//! Reads statements: one keyword each, operands in the fixed order in which they are printed.

use super::super::print::{ACCESSES, MATH_FNS, REDUCTIONS, WEIGHTS};
use super::{Parser, Result};
use crate::expr::{ExprId, Ty, VarId};
use crate::tile_ir::{Access, BandEnd, BufId, BufRows, FlatRef, Operand, Rest, Span, Stmt};

/// What a map says of its elements.
struct Elements {
    row: VarId,
    rows: ExprId,
    col: VarId,
    cols: ExprId,
    reads: Vec<(VarId, BufId, Access)>,
    value: ExprId,
}

impl Parser<'_> {
    /// Statements up to the closing brace, which is taken.
    pub(super) fn block(&mut self, depth: usize) -> Result<Vec<Stmt>> {
        if depth == 0 {
            return self.r.error("blocks are nested too deeply");
        }
        let mut body = Vec::new();
        while !self.r.eat("}")? {
            body.push(self.stmt(depth)?);
        }
        Ok(body)
    }

    /// One arm for each keyword (tidy: long match).
    fn stmt(&mut self, depth: usize) -> Result<Stmt> {
        match self.r.word()?.as_str() {
            "let" => self.let_(),
            "any" => self.any(),
            "first" => self.first(),
            "for" => self.for_(depth),
            "if" => self.if_(depth),
            "view" => {
                let view = self.buf()?;
                self.r.expect_word("at")?;
                let row = self.expr()?;
                self.r.expect(",")?;
                Ok(Stmt::View { view, row, col: self.expr()? })
            }
            "fill" => {
                let dst = self.buf()?;
                self.r.expect("=")?;
                Ok(Stmt::Fill { dst, value: self.float()? })
            }
            "load_rows" => self.load_rows(),
            "round" => {
                let dst = self.buf()?;
                self.r.expect("<-")?;
                Ok(Stmt::Round { dst, src: self.buf()?, rows: self.key("rows")?, cols: self.key("cols")? })
            }
            "pack_k" => self.pack_k(),
            "pack_v" => self.pack_v(),
            "gemm" => self.gemm(),
            "map" => self.map(),
            "math" => {
                let f = self.named("a function", &MATH_FNS)?;
                let dst = self.buf()?;
                Ok(Stmt::Math { f, dst, rows: self.key("rows")?, cols: self.key("cols")? })
            }
            "transpose" => {
                let dst = self.buf()?;
                self.r.expect("<-")?;
                Ok(Stmt::Transpose {
                    dst,
                    src: self.buf()?,
                    rows: self.key("rows")?,
                    cols: self.key("cols")?,
                })
            }
            "affine" => self.affine(),
            "band" => self.band(),
            "scan_rows" => {
                let (dst, rows, cols) = (self.buf()?, self.key("rows")?, self.key("cols")?);
                let decay = if self.r.eat(",")? { Some(self.buf_after("decay")?) } else { None };
                Ok(Stmt::ScanRows { dst, rows, cols, decay })
            }
            "reduce_rows" => {
                let op = self.named("a reduction", &REDUCTIONS)?;
                let dst = self.buf()?;
                self.r.expect("<-")?;
                let src = self.buf()?;
                Ok(Stmt::ReduceRows { dst, op, src, rows: self.key("rows")?, cols: self.key("cols")? })
            }
            "keep_largest" => {
                let best = self.buf()?;
                self.r.expect(",")?;
                let at = self.buf()?;
                self.r.expect("<-")?;
                let src = self.buf()?;
                let (rows, cols) = (self.key("rows")?, self.key("cols")?);
                Ok(Stmt::KeepLargest {
                    best,
                    at,
                    src,
                    rows,
                    cols,
                    first: self.key("first")?,
                    m: self.key("m")?,
                })
            }
            "mark" => {
                let dst = self.buf()?;
                self.r.expect("<-")?;
                let at = self.buf()?;
                let (rows, cols) = (self.key("rows")?, self.key("cols")?);
                Ok(Stmt::Mark { dst, at, rows, cols, first: self.key("first")? })
            }
            "random" => Ok(Stmt::Random {
                dst: self.buf()?,
                rows: self.key("rows")?,
                cols: self.key("cols")?,
                row0: self.key("row0")?,
                col0: self.key("col0")?,
                stream: self.key("stream")?,
                offset: self.key("offset")?,
                seed: self.key("seed")?,
                threshold: self.key("threshold")?,
                keep_scale: self.key("keep_scale")?,
            }),
            "softmax_step" => self.softmax_step(),
            "weight_step" => self.weight_step(),
            "finish_softmax" => self.finish_softmax(),
            "store_rows" => self.store_rows(),
            "store_map" => {
                let dst = self.rows()?;
                let Elements { row, rows, col, cols, reads, value } = self.elements()?;
                Ok(Stmt::StoreMap { dst, rows, cols, row, col, reads, value })
            }
            "prefix_sum" => {
                let hi = self.flat()?;
                self.r.expect(",")?;
                let lo = self.flat()?;
                self.r.expect("<-")?;
                Ok(Stmt::PrefixSum { hi, lo, src: self.rows()?, n: self.key("n")? })
            }
            "top_k" => self.top_k(),
            "store_vec" => {
                let dst = self.rows()?;
                self.r.expect("<-")?;
                let src = self.part()?;
                Ok(Stmt::StoreVec { dst, src, rows: self.key("rows")? })
            }
            other => self.r.error(format!("`{other}` is no statement")),
        }
    }

    fn let_(&mut self) -> Result<Stmt> {
        let name = self.r.word()?;
        self.r.expect("=")?;
        let value = self.expr()?;
        let var = self.variable(&name, self.pool.ty(value))?;
        Ok(Stmt::Let { var, value })
    }

    fn any(&mut self) -> Result<Stmt> {
        let name = self.r.word()?;
        self.r.expect_word("over")?;
        let mut over = vec![self.span()?];
        while self.r.eat(",")? {
            over.push(self.span()?);
        }
        self.r.expect(":")?;
        let cond = self.expr()?;
        Ok(Stmt::Any { var: self.variable(&name, Ty::Bool)?, over, cond })
    }

    fn first(&mut self) -> Result<Stmt> {
        let name = self.r.word()?;
        self.r.expect_word("over")?;
        let over = self.span()?;
        self.r.expect(":")?;
        let cond = self.expr()?;
        Ok(Stmt::First { var: self.variable(&name, Ty::Int)?, over, cond })
    }

    /// `x in lo..hi`
    fn span(&mut self) -> Result<Span> {
        let name = self.r.word()?;
        self.r.expect_word("in")?;
        let lo = self.expr()?;
        self.r.expect("..")?;
        let hi = self.expr()?;
        Ok(Span { var: self.variable(&name, Ty::Int)?, lo, hi })
    }

    fn for_(&mut self, depth: usize) -> Result<Stmt> {
        let Span { var, lo, hi } = self.span()?;
        self.r.expect("{")?;
        Ok(Stmt::For { var, lo, hi, body: self.block(depth - 1)? })
    }

    fn if_(&mut self, depth: usize) -> Result<Stmt> {
        let cond = self.expr()?;
        self.r.expect("{")?;
        let then = self.block(depth - 1)?;
        let otherwise = if self.r.eat_word("else")? {
            self.r.expect("{")?;
            self.block(depth - 1)?
        } else {
            Vec::new()
        };
        Ok(Stmt::If { cond, then, otherwise })
    }

    /// `acc`, or `acc from first`
    fn part(&mut self) -> Result<BufRows> {
        let buf = self.buf()?;
        let first = if self.r.eat_word("from")? { Some(self.expr()?) } else { None };
        Ok(BufRows { buf, first })
    }

    fn load_rows(&mut self) -> Result<Stmt> {
        let dst = self.part()?;
        self.r.expect("<-")?;
        let src = self.rows()?;
        Ok(Stmt::LoadRows { dst, src, rows: self.key("rows")?, d: self.key("d")? })
    }

    fn pack_k(&mut self) -> Result<Stmt> {
        let dst = self.panel()?;
        self.r.expect("<-")?;
        let src = self.rows()?;
        Ok(Stmt::PackK { dst, src, n: self.key("n")?, d: self.constant_key("d")? })
    }

    fn pack_v(&mut self) -> Result<Stmt> {
        let dst = self.panel()?;
        self.r.expect("<-")?;
        let src = self.rows()?;
        let (n, d) = (self.key("n")?, self.constant_key("d")?);
        self.key_name("flag")?;
        let tensor = self.tensor()?;
        self.r.expect("[")?;
        Ok(Stmt::PackV { dst, src, n, d, flag: (tensor, self.exprs("]")?) })
    }

    /// `a`, `(a + rest)` or `unrounded(a)`
    fn left_operand(&mut self) -> Result<(BufId, Rest)> {
        let unrounded = self.r.eat_word("unrounded")?;
        if !self.r.eat("(")? {
            return Ok((self.buf()?, Rest::None));
        }
        let a = self.buf()?;
        let rest = if unrounded {
            Rest::Rounding
        } else {
            self.r.expect("+")?;
            Rest::Tile(self.buf()?)
        };
        self.r.expect(")")?;
        Ok((a, rest))
    }

    fn gemm(&mut self) -> Result<Stmt> {
        let c = self.buf()?;
        let accumulate = self.r.eat("+=")?;
        if !accumulate {
            self.r.expect("=")?;
        }
        let (a, rest) = self.left_operand()?;
        self.r.expect("*")?;
        let b = self.operand()?;
        let (rows, k, n) = (self.key("rows")?, self.key("k")?, self.key("n")?);
        self.r.expect(",")?;
        let row_scale = self.optional_row_scale()?;
        if row_scale.is_some() {
            self.r.expect(",")?;
        }
        self.r.expect_word("skip_zero")?;
        self.r.expect("=")?;
        let skip_zero = self.expr()?;
        let mut next = None;
        if self.r.eat(",")? {
            self.r.expect_word("next")?;
            self.r.expect("=")?;
            next = Some(Box::new(self.rows()?));
        }
        Ok(Stmt::Gemm { c, a, rest, b, rows, k, n, row_scale, accumulate, skip_zero, next })
    }

    /// `panel(..)`, `columns(..)`, `rows(..)`, or the name of a buffer, which may be one of these.
    fn operand(&mut self) -> Result<Operand> {
        let name = self.r.word()?;
        if ["panel", "columns", "rows"].contains(&name.as_str()) && self.r.eat("(")? {
            if name == "panel" {
                return Ok(Operand::Panels(self.panel_body()?));
            }
            let src = self.rows()?;
            self.r.expect(")")?;
            return Ok(if name == "rows" { Operand::Rows(src) } else { Operand::Columns(src) });
        }
        Ok(Operand::Buffer(self.buf_named(&name)?))
    }

    fn map(&mut self) -> Result<Stmt> {
        let dst = self.buf()?;
        let Elements { row, rows, col, cols, reads, value } = self.elements()?;
        Ok(Stmt::Map { dst, rows, cols, row, col, reads, value })
    }

    fn elements(&mut self) -> Result<Elements> {
        self.r.expect("[")?;
        let row = self.define(Ty::Int)?;
        self.r.expect("<")?;
        let rows = self.expr()?;
        self.r.expect(",")?;
        let col = self.define(Ty::Int)?;
        self.r.expect("<")?;
        let cols = self.expr()?;
        self.r.expect("]")?;
        let mut reads = Vec::new();
        while self.r.eat(",")? {
            let var = self.define(Ty::Float)?;
            self.r.expect("=")?;
            let access = self.named("`tile`, `row` or `col`", &ACCESSES)?;
            self.r.expect("(")?;
            reads.push((var, self.buf()?, access));
            self.r.expect(")")?;
        }
        self.r.expect(":")?;
        Ok(Elements { row, rows, col, cols, reads, value: self.expr()? })
    }

    fn top_k(&mut self) -> Result<Stmt> {
        let indices = self.flat()?;
        self.r.expect("<-")?;
        let src = self.rows()?;
        let (n, m, width) = (self.key("n")?, self.key("m")?, self.key("width")?);
        let mut ranks = None;
        if self.r.eat(",")? {
            self.r.expect_word("ranks")?;
            self.r.expect("=")?;
            ranks = Some(self.flat()?);
        }
        Ok(Stmt::TopK { indices, ranks, src, n, m, width })
    }

    /// `flat(tensor, offset)`
    fn flat(&mut self) -> Result<FlatRef> {
        self.r.expect_word("flat")?;
        self.r.expect("(")?;
        let tensor = self.tensor()?;
        self.r.expect(",")?;
        let offset = self.expr()?;
        self.r.expect(")")?;
        Ok(FlatRef { tensor, offset })
    }

    fn softmax_step(&mut self) -> Result<Stmt> {
        let s = self.buf()?;
        let (rows, cols, scale) = (self.key("rows")?, self.key("cols")?, self.key("scale")?);
        let (row_max, row_sum) = (self.buf_key("row_max")?, self.buf_key("row_sum")?);
        let alpha = self.buf_key("alpha")?;
        let floor_unmasked = self.key("floor_unmasked")?;
        Ok(Stmt::SoftmaxStep { s, rows, cols, scale, row_max, row_sum, alpha, floor_unmasked })
    }

    fn band(&mut self) -> Result<Stmt> {
        let (s, rows, cols) = (self.buf()?, self.key("rows")?, self.key("cols")?);
        let (period, from) = (self.key("period")?, self.key("from")?);
        let from_step = self.constant_key("from_step")?;
        let to = self.key("to")?;
        let to_step = self.constant_key("to_step")?;
        let (from, to) = (BandEnd { at: from, step: from_step }, BandEnd { at: to, step: to_step });
        Ok(Stmt::Band { s, rows, cols, period, from, to })
    }

    fn affine(&mut self) -> Result<Stmt> {
        let (dst, rows, cols, scale) =
            (self.buf()?, self.key("rows")?, self.key("cols")?, self.key("scale")?);
        let (mut factor, mut term, mut diagonal, mut keep_zero) = (None, None, false, false);
        while self.r.eat(",")? {
            if self.r.eat_word("keep_zero")? {
                keep_zero = true;
            } else if self.r.eat_word("factor")? {
                self.r.expect("=")?;
                factor = Some(self.buf()?);
            } else if self.r.eat_word("diagonal")? {
                self.r.expect("=")?;
                (term, diagonal) = (Some(self.buf()?), true);
            } else {
                term = Some(self.buf_after("term")?);
            }
        }
        Ok(Stmt::Affine { dst, rows, cols, scale, factor, term, diagonal, keep_zero })
    }

    fn weight_step(&mut self) -> Result<Stmt> {
        let kind = self.named("a weight", &WEIGHTS)?;
        let s = self.buf()?;
        let (rows, cols, scale) = (self.key("rows")?, self.key("cols")?, self.key("scale")?);
        let row_max = self.buf_key("row_max")?;
        Ok(Stmt::WeightStep {
            kind,
            s,
            rows,
            cols,
            scale,
            row_max,
            floor_unmasked: self.key("floor_unmasked")?,
        })
    }

    fn finish_softmax(&mut self) -> Result<Stmt> {
        self.r.expect_word("rows")?;
        self.r.expect("=")?;
        let rows = self.expr()?;
        let (row_max, row_sum) = (self.buf_key("row_max")?, self.buf_key("row_sum")?);
        let sink = self.key("sink")?;
        let (inv_sum, lse) = (self.buf_key("inv_sum")?, self.buf_key("lse")?);
        Ok(Stmt::FinishSoftmax { rows, row_max, row_sum, sink, inv_sum, lse })
    }

    fn store_rows(&mut self) -> Result<Stmt> {
        let dst = self.rows()?;
        self.r.expect("<-")?;
        let src = self.part()?;
        let (rows, d) = (self.key("rows")?, self.key("d")?);
        let row_scale = if self.r.eat(",")? { self.optional_row_scale()? } else { None };
        Ok(Stmt::StoreRows { dst, src, rows, d, row_scale })
    }

    fn optional_row_scale(&mut self) -> Result<Option<BufId>> {
        if !self.r.eat_word("row_scale")? {
            return Ok(None);
        }
        self.r.expect("=")?;
        Ok(Some(self.buf()?))
    }

    pub(super) fn buf(&mut self) -> Result<BufId> {
        let name = self.r.word()?;
        self.buf_named(&name)
    }

    fn buf_named(&mut self, name: &str) -> Result<BufId> {
        match self.buffers.iter().position(|b| b.name == name) {
            Some(n) => Ok(BufId(n as u32)),
            None => self.r.error(format!("no buffer `{name}` in this launch")),
        }
    }

    fn named<T: Copy>(&mut self, what: &str, table: &[(&str, T)]) -> Result<T> {
        let name = self.r.word()?;
        match table.iter().find(|(n, _)| *n == name) {
            Some((_, x)) => Ok(*x),
            None => self.r.error(format!("expected {what}, found `{name}`")),
        }
    }

    /// `, name =`
    fn key_name(&mut self, name: &str) -> Result<()> {
        self.r.expect(",")?;
        self.r.expect_word(name)?;
        self.r.expect("=")
    }

    fn key(&mut self, name: &str) -> Result<ExprId> {
        self.key_name(name)?;
        self.expr()
    }

    fn constant_key(&mut self, name: &str) -> Result<i64> {
        self.key_name(name)?;
        self.r.integer()
    }

    /// `name = buffer`
    fn buf_after(&mut self, name: &str) -> Result<BufId> {
        self.r.expect_word(name)?;
        self.r.expect("=")?;
        self.buf()
    }

    fn buf_key(&mut self, name: &str) -> Result<BufId> {
        self.key_name(name)?;
        self.buf()
    }
}
