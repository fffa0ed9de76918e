//! Steps that make the small tensors of a `let`.
//!
//! Comes in: the checked facts of `derived.rs`. Goes out: [`Derive`] steps, and where the tensor's rows are. What
//! holds: a tensor is made once, in f32 or i32, at the place of its `let`: of rows as earlier `map` and `rotate` left
//! them. Not here: what may be made of what.

use std::collections::HashMap;

use crate::artifact::DType;
use crate::attn_ir::{Accumulate, Derive, Fact, Step};
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, UnaryOp, VarId};

use super::derived::{Made, MadeFact};
use super::lower::LowerError;
use super::turn::Steps;

type Result<T> = std::result::Result<T, LowerError>;

impl Steps<'_> {
    /// Makes the tensor of a `let`.
    pub fn make(&mut self, fact: &MadeFact) -> Result<()> {
        let sources: Vec<Option<TensorId>> =
            fact.made.sources().into_iter().map(|t| self.lower.rows[t]).collect();
        let known = self.made.iter().find(|(t, of, _)| *t == fact.tensor && *of == sources).map(|m| m.2);
        if let Some(out) = known {
            self.lower.ids[fact.tensor] = Some(out);
            self.lower.rows[fact.tensor] = Some(out);
            let low = self.low_parts.iter().filter(|(hi, _)| *hi == out);
            self.lower.low.extend(low);
            return Ok(());
        }
        self.made_anew(fact)?;
        if let Some(out) = self.lower.ids[fact.tensor] {
            self.low_parts.extend(self.lower.low.iter().filter(|(hi, _)| *hi == out));
            self.made.push((fact.tensor, sources, out));
        }
        Ok(())
    }

    fn made_anew(&mut self, fact: &MadeFact) -> Result<()> {
        match fact.made {
            Made::MeanPool { x, block, stride } => self.mean_pool(fact, x, block, stride),
            Made::Cumsum(x) => self.cumsum(fact, x),
            Made::Segment(cu) => self.segment(fact, cu),
            Made::Concat(x, y) => self.concat(fact, x, y),
        }
    }

    /// The rows of a tensor as earlier operations left them.
    fn source_of(&self, tensor: usize, fact: &MadeFact) -> Result<TensorId> {
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
        // A branch may have made it of other rows.
        let taken = self.tensors.iter().any(|t| t.name == name);
        let out = match taken {
            true => self.declare(&name, dtype, shape, promise),
            false => self.declare_named(&name, dtype, shape, promise),
        };
        self.lower.ids[fact.tensor] = Some(out);
        self.lower.rows[fact.tensor] = Some(out);
        let index = (0..rank).map(|_| self.lower.pool.add_var("at", Ty::Int)).collect();
        (out, index)
    }

    /// Row w is the mean of rows `w * stride + t`, t < block, summed in f32.
    fn mean_pool(&mut self, fact: &MadeFact, x: usize, block: i64, stride: i64) -> Result<()> {
        let source = self.source_of(x, fact)?;
        let mut shape = self.shape(source).to_vec();
        let seq = shape.len() - 2;
        shape[seq] = self.lower.shape(&self.tensors, fact.tensor)?[seq];
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

    /// Two tensors: the sums in f32, and what that leaves. A load of the let adds both.
    fn cumsum(&mut self, fact: &MadeFact, x: usize) -> Result<()> {
        let source = self.source_of(x, fact)?;
        let shape = self.shape(source).to_vec();
        let (hi, _) = self.declare_made(fact, DType::F32, shape.clone(), Fact::None);
        let name = format!("{}_low", self.kernel.tensors[fact.tensor].name);
        let lo = self.declare(&name, DType::F32, shape, Fact::None);
        self.lower.low.push((hi, lo));
        self.steps.push(Step::Accumulate(Accumulate { hi, lo, source }));
        Ok(())
    }

    /// The id of a position is how many of the cumulative lengths are not above it.
    fn segment(&mut self, fact: &MadeFact, cu: usize) -> Result<()> {
        let source = self.source_of(cu, fact)?;
        let extent = self.shape(source)[0];
        let shape = self.lower.shape(&self.tensors, fact.tensor)?;
        let (out, index) = self.declare_made(fact, DType::I32, shape, Fact::Sorted);
        let pool = &mut self.lower.pool;
        let n = pool.add_var("n", Ty::Int);
        let (nth, at) = (pool.var(n), pool.var(index[0]));
        let end = pool.load(source, vec![nth], Ty::Int);
        let ended = pool.le(end, at);
        let (one, zero) = (pool.int(1), pool.int(0));
        let value = pool.select(ended, one, zero);
        let (sum, checks) = (vec![(n, extent)], vec![]);
        self.steps.push(Step::Derive(Derive { out, index, sum, value, at_bind: false, checks }));
        Ok(())
    }

    /// The rows of x, then those of y.
    fn concat(&mut self, fact: &MadeFact, x: usize, y: usize) -> Result<()> {
        let sources = [self.source_of(x, fact)?, self.source_of(y, fact)?];
        let mut shape = self.shape(sources[0]).to_vec();
        let seq = shape.len() - 2;
        let first = shape[seq];
        shape[seq] = self.lower.shape(&self.tensors, fact.tensor)?[seq];
        let (out, index) = self.declare_made(fact, DType::F32, shape, Fact::None);
        let pool = &mut self.lower.pool;
        let at: Vec<ExprId> = index.iter().map(|v| pool.var(*v)).collect();
        let mut behind = at.clone();
        behind[seq] = pool.sub(at[seq], first);
        let within = pool.lt(at[seq], first);
        let (a, b) = (pool.load(sources[0], at, Ty::Float), pool.load(sources[1], behind, Ty::Float));
        let value = pool.select(within, a, b);
        let (sum, checks) = (vec![], vec![]);
        self.steps.push(Step::Derive(Derive { out, index, sum, value, at_bind: false, checks }));
        Ok(())
    }
}

/// Rebuilds an expression so that the running sums added and subtracted in one sum meet: all their f32 parts and
/// all that those leave become one term, wherever they stood.
pub(crate) fn gather_sums(pool: &mut Pool, low: &[(TensorId, TensorId)], root: ExprId) -> ExprId {
    if low.is_empty() {
        return root;
    }
    let mut done = HashMap::new();
    gathered(pool, low, root, &mut done)
}

type Done = HashMap<ExprId, ExprId>;

fn gathered(pool: &mut Pool, low: &[(TensorId, TensorId)], id: ExprId, done: &mut Done) -> ExprId {
    if let Some(&new) = done.get(&id) {
        return new;
    }
    let (mut parts, mut others) = (Vec::new(), Vec::new());
    terms(pool, low, id, false, &mut parts, &mut others);
    let new = if parts.len() < 2 {
        let mut new = HashMap::new();
        for x in pool.operands(id) {
            new.insert(x, gathered(pool, low, x, done));
        }
        pool.remade(id, &|x| new[&x])
    } else {
        let mut sum = None;
        for (term, minus) in others {
            let term = gathered(pool, low, term, done);
            sum = Some(signed(pool, sum, term, minus));
        }
        let mut both: [Option<ExprId>; 2] = [None, None];
        for (pair, minus) in parts {
            for (part, so_far) in pair.into_iter().zip(&mut both) {
                *so_far = Some(signed(pool, *so_far, part, minus));
            }
        }
        let [hi, lo] = both.map(|x| x.unwrap_or(id));
        let term = pool.binary(BinaryOp::Add, hi, lo);
        match sum {
            Some(sum) => pool.binary(BinaryOp::Add, sum, term),
            None => term,
        }
    };
    done.insert(id, new);
    new
}

fn signed(pool: &mut Pool, sum: Option<ExprId>, term: ExprId, minus: bool) -> ExprId {
    match (sum, minus) {
        (None, false) => term,
        (None, true) => pool.unary(UnaryOp::Neg, term),
        (Some(sum), false) => pool.binary(BinaryOp::Add, sum, term),
        (Some(sum), true) => pool.binary(BinaryOp::Sub, sum, term),
    }
}

/// The terms of a sum with their signs, in order: running sums apart from the others.
fn terms(
    pool: &Pool,
    low: &[(TensorId, TensorId)],
    id: ExprId,
    minus: bool,
    parts: &mut Vec<([ExprId; 2], bool)>,
    others: &mut Vec<(ExprId, bool)>,
) {
    match *pool.op(id) {
        Op::Binary(BinaryOp::Add, a, b) if is_running_sum(pool, low, a, b) => parts.push(([a, b], minus)),
        Op::Binary(op @ (BinaryOp::Add | BinaryOp::Sub), a, b) if pool.ty(id) == Ty::Float => {
            terms(pool, low, a, minus, parts, others);
            terms(pool, low, b, minus != (op == BinaryOp::Sub), parts, others);
        }
        Op::Unary(UnaryOp::Neg, x) if pool.ty(id) == Ty::Float => terms(pool, low, x, !minus, parts, others),
        _ => others.push((id, minus)),
    }
}

/// True of both parts of one running sum at one place.
fn is_running_sum(pool: &Pool, low: &[(TensorId, TensorId)], hi: ExprId, lo: ExprId) -> bool {
    match (pool.op(hi), pool.op(lo)) {
        (Op::Load(h, at, _), Op::Load(l, same, _)) => low.contains(&(*h, *l)) && at == same,
        _ => false,
    }
}
