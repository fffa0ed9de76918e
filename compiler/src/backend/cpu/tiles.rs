//! Statements between buffers whose counts are bounded by several of them.
//!
//! Comes in: a statement of a verified block. Goes out: one call, its counts cut to what every buffer has.

use cranelift_codegen::ir::{InstBuilder, Value};

use crate::artifact::Intrinsic;
use crate::expr::ExprId;
use crate::tile_ir::BufId;

use super::emitter::{Emitter, Result};

impl Emitter<'_, '_> {
    /// A count of rows, cut to those of further buffers.
    pub fn within(&mut self, mut rows: Value, bufs: &[BufId]) -> Result<Value> {
        for &buf in bufs {
            let most = self.buffer(buf)?.rows;
            let most = self.int(most);
            rows = self.b.ins().smin(rows, most);
        }
        Ok(rows)
    }

    pub fn transpose(&mut self, dst: BufId, src: BufId, (rows, cols): (ExprId, ExprId)) -> Result<()> {
        let (to, from) = (self.buffer(dst)?, self.buffer(src)?);
        let rows = self.count(rows, from.rows.min(to.cols))?;
        let cols = self.count(cols, from.cols.min(to.rows))?;
        let (ldd, lds) = (self.int(self.ld(dst)?), self.int(self.ld(src)?));
        let [to, from] = self.addresses([dst, src])?;
        self.run(Intrinsic::Transpose, &[to, ldd, from, lds, rows, cols])
    }
}
