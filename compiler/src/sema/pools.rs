//! Pooled keys: tensors of means over windows of rows.
//!
//! Comes in: the pooled tensors that a body reads. Goes out: one sum over each window (Yuan et al. 2025, with the mean
//! as compression). What holds: what is pooled are the rows after `map` and `rotate`; windows that would run beyond
//! the sequence do not exist. Not here: `topk_blocks`, which ranks them.

use crate::artifact::DType;
use crate::attn_ir::{Derive, Fact, Step};
use crate::expr::{BinaryOp, Ty};

use super::choice::{KeyChoice, PoolFact};
use super::lower::LowerError;
use super::model::Body;
use super::turn::Steps;

type Result<T> = std::result::Result<T, LowerError>;

impl Steps<'_> {
    /// The pooled tensors that the body and its selection read.
    fn pools_of(&self, body: &Body) -> Vec<PoolFact> {
        let mut read: Vec<usize> = body.dots.iter().flat_map(|d| [d.x.tensor, d.y.tensor]).collect();
        read.push(body.value.tensor);
        if let Some(KeyChoice::Ranked(rank)) = &self.kernel.choices.keys {
            read.extend(rank.dots.iter().map(|d| d.y.tensor));
        }
        let all = &self.kernel.pools;
        all.iter().filter(|p| read.contains(&p.tensor)).copied().collect()
    }

    /// Declares them; [`Steps::make_pools`] says what they hold, when the rows are there.
    pub fn declare_pools(&mut self, body: &Body) -> Result<()> {
        for p in self.pools_of(body) {
            let kernel = self.kernel;
            let plain = kernel.row_ops.iter().all(|op| op.tensor != p.source);
            let known = self.pooled.iter().find(|(pooled, _)| plain && *pooled == p.tensor).map(|k| k.1);
            if let Some(id) = known {
                self.lower.ids[p.tensor] = Some(id);
                self.lower.rows[p.tensor] = Some(id);
                continue;
            }
            let mut shape = Vec::new();
            for size in &kernel.tensors[p.tensor].shape {
                shape.push(self.lower.expr(&size.expr)?);
            }
            let id = self.declare(&kernel.tensors[p.tensor].name.clone(), DType::F32, shape, Fact::None);
            self.lower.ids[p.tensor] = Some(id);
            self.lower.rows[p.tensor] = Some(id);
            if plain {
                self.pooled.push((p.tensor, id));
            }
        }
        Ok(())
    }

    /// Makes the tensors that were declared.
    pub fn make_pools(&mut self) -> Result<()> {
        for p in self.kernel.pools.clone() {
            let (Some(out), Some(source)) = (self.lower.ids[p.tensor], self.lower.rows[p.source]) else {
                continue;
            };
            let Some(at) = self.lower.row_at[p.tensor] else { continue };
            if self.steps.iter().any(|s| matches!(s, Step::Derive(d) if d.out == out)) {
                continue;
            }
            let vars = self.vars_of(at.rows, false);
            let inside = self.lower.pool.add_var("t", Ty::Int);
            let pool = self.pool();
            let (extent, stride) = (pool.int(p.block), pool.int(p.stride));
            let mut index: Vec<_> = vars.index.iter().map(|v| pool.var(*v)).collect();
            let first = pool.mul(index[at.rows.seq], stride);
            let t = pool.var(inside);
            index[at.rows.seq] = pool.add(first, t);
            let element = pool.load(source, index, Ty::Float);
            let n = pool.float(p.block as f64);
            let value = pool.binary(BinaryOp::Div, element, n);
            self.steps.push(Step::Derive(Derive {
                out,
                index: vars.index,
                sum: vec![(inside, extent)],
                value,
                at_bind: false,
                checks: vec![],
            }));
        }
        Ok(())
    }
}
