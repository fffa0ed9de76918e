//! Steps that make the small tensors of a `let`.
//!
//! Comes in: the checked facts of `derived.rs`. Goes out: [`Derive`] steps, and where the tensor's rows are. What
//! holds: a tensor is made once, in f32 or i32, at the place of its `let`: of rows as earlier `map` and `rotate` left
//! them. Not here: what may be made of what.

use crate::artifact::DType;
use crate::attn_ir::{Derive, Fact, Step};
use crate::expr::{BinaryOp, ExprId, TensorId, Ty, VarId};

use super::derived::{Made, MadeFact};
use super::lower::LowerError;
use super::turn::Steps;

type Result<T> = std::result::Result<T, LowerError>;

impl Steps<'_> {
    /// Makes the tensor of a `let`.
    pub fn make(&mut self, fact: &MadeFact) -> Result<()> {
        match fact.made {
            Made::MeanPool { x, block, stride } => self.mean_pool(fact, x, block, stride),
            _ => Err(LowerError { span: fact.span, message: "this tensor has no steps yet".into() }),
        }
    }

    /// The rows of a tensor as earlier operations left them.
    fn rows_of(&self, tensor: usize, fact: &MadeFact) -> Result<TensorId> {
        self.lower.rows[tensor].ok_or_else(|| LowerError {
            span: fact.span,
            message: format!("`{}` is not there to make this of", self.kernel.tensors[tensor].name),
        })
    }

    /// Declares the tensor and puts it in place.
    fn declare_made(
        &mut self,
        fact: &MadeFact,
        dtype: DType,
        shape: Vec<ExprId>,
        promise: Fact,
    ) -> (TensorId, Vec<VarId>) {
        let name = self.kernel.tensors[fact.tensor].name.clone();
        let rank = shape.len();
        let out = self.declare_named(&name, dtype, shape, promise);
        self.lower.ids[fact.tensor] = Some(out);
        self.lower.rows[fact.tensor] = Some(out);
        let index = (0..rank).map(|_| self.lower.pool.add_var("at", Ty::Int)).collect();
        (out, index)
    }

    /// Row w is the mean of rows `w * stride + t`, t < block, summed in f32.
    fn mean_pool(&mut self, fact: &MadeFact, x: usize, block: i64, stride: i64) -> Result<()> {
        let source = self.rows_of(x, fact)?;
        let mut shape = self.shape(source).to_vec();
        let seq = shape.len() - 2;
        shape[seq] = self.lower.shape(fact.tensor)?[seq];
        let (out, index) = self.declare_made(fact, DType::F32, shape, Fact::None);
        let pool = &mut self.lower.pool;
        let t = pool.add_var("t", Ty::Int);
        let mut at: Vec<ExprId> = index.iter().map(|v| pool.var(*v)).collect();
        let (step, within) = (pool.int(stride), pool.var(t));
        let first = pool.mul(at[seq], step);
        at[seq] = pool.add(first, within);
        let element = pool.load(source, at, Ty::Float);
        let (share, extent) = (pool.float(1.0 / block as f64), pool.int(block));
        let value = pool.binary(BinaryOp::Mul, element, share);
        self.steps.push(Step::Derive(Derive {
            out,
            index,
            sum: vec![(t, extent)],
            value,
            at_bind: false,
            checks: vec![],
        }));
        Ok(())
    }
}
