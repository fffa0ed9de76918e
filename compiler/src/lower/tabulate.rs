//! Tabulation: what depends on positions alone is computed once, in f64, when arguments are bound.
//!
//! Comes in: an [`Attention`]. Goes out: the same attention with some kinds of expressions replaced by loads
//! of [`Table`]s, which the runtime fills by evaluating `value` for every entry:
//!
//! 1. ints made from floats (`int(floor(log(...)))`, bucket functions), so that their floors are the same on every
//!    target and in the reference (language.md, rule 14);
//! 2. elementary functions of one position, head or length (ALiBi slopes, `log(float(S))`);
//! 3. BigBird's random blocks;
//! 4. the threshold of a dropout whose probability is a run-time parameter.
//!
//! A table runs over one int subexpression through which every position enters: `max(i - j, 0)`, `h`. Its extent
//! is bounded symbolically, so that lengths and parameters stay run-time values. An int made from a float of
//! two independent positions has no such table and is an error; a float of that kind stays in the kernel.

use std::collections::HashMap;

use crate::artifact::DType;
use crate::attn_ir::{Attention, Fact};
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, UnaryOp, VarId};
use crate::tile_ir::{TensorDecl, TensorKind};

/// A table to be made at bind.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Name in text.
    pub name: String,
    /// i32, f32 or bit.
    pub dtype: DType,
    /// One variable for each dim.
    pub vars: Vec<VarId>,
    /// First value of each variable.
    pub origin: Vec<ExprId>,
    /// Entries of each dim.
    pub shape: Vec<ExprId>,
    /// The entry.
    pub value: ExprId,
}

impl Table {
    /// The table as a tensor of the program.
    pub fn declare(&self) -> TensorDecl {
        TensorDecl {
            name: self.name.clone(),
            kind: TensorKind::Table {
                vars: self.vars.clone(),
                origin: self.origin.clone(),
                value: self.value,
            },
            dtype: self.dtype,
            shape: self.shape.clone(),
            layout: (0..self.shape.len()).collect(),
            fact: Fact::None,
        }
    }
}

/// An int made from a float of two independent positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotTabulable {
    /// The expression.
    pub text: String,
}

/// Replaces what can be tabulated in the score, the mask and the sink. The n-th table is tensor `first + n` of the
/// program; `n_before` tables of other attentions have their names already.
pub fn tabulate(attn: &mut Attention, first: u32, n_before: usize) -> Result<Vec<Table>, NotTabulable> {
    let dots = attn.dots.iter().map(|d| d.var).collect();
    let (domain, done) = (Domain::of(attn), HashMap::new());
    let mut t = Tabulator { domain, dots, tables: Vec::new(), first, n_before, done };
    let mut pool = std::mem::take(&mut attn.pool);
    let done = (|| {
        attn.mask = t.rewrite(&mut pool, attn.mask)?;
        attn.score = t.rewrite(&mut pool, attn.score)?;
        if let crate::attn_ir::Weight::Softmax { sink: Some(sink) } = &mut attn.weight {
            *sink = t.rewrite(&mut pool, *sink)?;
        }
        if let Some(d) = &mut attn.dropout
            && pool.as_int(d.threshold).is_none()
        {
            d.threshold = t.wide(&mut pool, d.threshold);
            d.keep_scale = t.add(&mut pool, DType::F32, vec![], vec![], vec![], d.keep_scale, vec![]);
        }
        Ok(())
    })();
    attn.pool = pool;
    done.map(|()| t.tables)
}

/// Index variables and the intervals they run over.
struct Domain {
    bounds: Vec<(VarId, ExprId, ExprId)>,
}

impl Domain {
    fn of(attn: &mut Attention) -> Domain {
        let mut pool = std::mem::take(&mut attn.pool);
        let bounds = super::checks::intervals(attn, &mut pool);
        attn.pool = pool;
        Domain { bounds }
    }

    fn vars(&self) -> Vec<VarId> {
        self.bounds.iter().map(|(v, _, _)| *v).collect()
    }

    /// Symbolic bounds of an int expression made of +, -, min, max, constants and uniform values.
    fn interval(&self, pool: &mut Pool, id: ExprId) -> Option<(ExprId, ExprId)> {
        if !pool.depends_on(id, &self.vars()) {
            return Some((id, id));
        }
        match pool.op(id).clone() {
            Op::Var(v) => self.bounds.iter().find(|(w, _, _)| *w == v).map(|(_, lo, hi)| (*lo, *hi)),
            Op::Unary(UnaryOp::Neg, x) => {
                let (lo, hi) = self.interval(pool, x)?;
                Some((pool.unary(UnaryOp::Neg, hi), pool.unary(UnaryOp::Neg, lo)))
            }
            Op::Unary(UnaryOp::Abs, x) => {
                let (lo, hi) = self.interval(pool, x)?;
                let (zero, low) = (pool.int(0), pool.unary(UnaryOp::Neg, lo));
                Some((zero, pool.max(low, hi)))
            }
            Op::Binary(op, a, b) => self.binary_interval(pool, op, a, b),
            _ => None,
        }
    }

    fn binary_interval(
        &self,
        pool: &mut Pool,
        op: BinaryOp,
        a: ExprId,
        b: ExprId,
    ) -> Option<(ExprId, ExprId)> {
        let (al, ah) = self.interval(pool, a)?;
        let (bl, bh) = self.interval(pool, b)?;
        match op {
            BinaryOp::Add => Some((pool.add(al, bl), pool.add(ah, bh))),
            BinaryOp::Sub => Some((pool.sub(al, bh), pool.sub(ah, bl))),
            BinaryOp::Min => Some((pool.min(al, bl), pool.min(ah, bh))),
            BinaryOp::Max => Some((pool.max(al, bl), pool.max(ah, bh))),
            BinaryOp::IDiv if pool.as_int(b).is_some_and(|c| c > 0) => {
                Some((pool.idiv(al, b), pool.idiv(ah, b)))
            }
            _ => None,
        }
    }
}

struct Tabulator {
    domain: Domain,
    dots: Vec<VarId>,
    tables: Vec<Table>,
    first: u32,
    n_before: usize,
    done: HashMap<ExprId, ExprId>,
}

impl Tabulator {
    /// Top down: the largest expression that can be a table becomes one; the rest is rebuilt.
    fn rewrite(&mut self, pool: &mut Pool, id: ExprId) -> Result<ExprId, NotTabulable> {
        if let Some(&new) = self.done.get(&id) {
            return Ok(new);
        }
        let new = self.rewrite_new(pool, id)?;
        self.done.insert(id, new);
        Ok(new)
    }

    fn rewrite_new(&mut self, pool: &mut Pool, id: ExprId) -> Result<ExprId, NotTabulable> {
        if let Op::RandBlock(args) = pool.op(id).clone() {
            return self.rand_block(pool, *args);
        }
        if self.wanted(pool, id) {
            if let Some(load) = self.table(pool, id) {
                return Ok(load);
            }
            if matches!(pool.op(id), Op::Unary(UnaryOp::ToInt, _)) {
                return Err(NotTabulable {
                    text: crate::expr::print::print(pool, id, &|t| format!("t{}", t.0)),
                });
            }
        }
        let operands = pool.operands(id);
        if operands.is_empty() {
            return Ok(id);
        }
        let mut new = Vec::with_capacity(operands.len());
        for x in operands {
            new.push(self.rewrite(pool, x)?);
        }
        Ok(remake(pool, id, &new))
    }

    /// An int that contains an int made from a float, or a float that contains an elementary function; pure.
    fn wanted(&self, pool: &Pool, id: ExprId) -> bool {
        let nodes = pool.reachable(&[id]);
        let pure = nodes.iter().all(|&n| match pool.op(n) {
            Op::Load(..) | Op::RandBlock(_) => false,
            Op::Var(v) => !self.dots.contains(v),
            _ => true,
        });
        let worth = |n: &ExprId| match pool.ty(id) {
            Ty::Int => matches!(pool.op(*n), Op::Unary(UnaryOp::ToInt, _)),
            Ty::Float => elementary(pool.op(*n)),
            Ty::Bool => false,
        };
        pure && pool.as_const(id).is_none() && nodes.iter().any(worth)
    }

    fn table(&mut self, pool: &mut Pool, id: ExprId) -> Option<ExprId> {
        let axis = self.axis(pool, id)?;
        let dtype = if pool.ty(id) == Ty::Int { DType::I32 } else { DType::F32 };
        let (vars, origin, shape, value, index) = match axis {
            None => (vec![], vec![], vec![], id, vec![]),
            Some((node, lo, hi)) => {
                let var = pool.add_var("at", Ty::Int);
                let at = pool.var(var);
                let value = pool.rewrite(id, &mut |_, n| (n == node).then_some(at));
                let span = pool.sub(hi, lo);
                let size = pool.add_int(span, 1);
                let zero = pool.int(0);
                let size = pool.max(size, zero);
                (vec![var], vec![lo], vec![size], value, vec![pool.sub(node, lo)])
            }
        };
        Some(self.add(pool, dtype, vars, origin, shape, value, index))
    }

    /// The int subexpression through which every position enters `id`: `Some(None)` if none enters at all.
    #[allow(clippy::type_complexity)]
    fn axis(&self, pool: &mut Pool, id: ExprId) -> Option<Option<(ExprId, ExprId, ExprId)>> {
        let vars = self.domain.vars();
        if !pool.depends_on(id, &vars) {
            return Some(None);
        }
        let mut candidates: Vec<ExprId> = pool.reachable(&[id]);
        candidates.retain(|&n| n != id && pool.ty(n) == Ty::Int && pool.depends_on(n, &vars));
        for &node in candidates.iter().rev() {
            let mut probe = pool.clone();
            let cut = probe.int(0);
            let rest = probe.rewrite(id, &mut |_, n| (n == node).then_some(cut));
            if probe.depends_on(rest, &vars) || pool.reachable(&[node]).iter().any(|&n| pool.ty(n) != Ty::Int)
            {
                continue;
            }
            if let Some((lo, hi)) = self.domain.interval(pool, node) {
                return Some(Some((node, lo, hi)));
            }
        }
        None
    }

    /// An int of up to 48 bits that depends on no position: two tables, for its high and its low half.
    fn wide(&mut self, pool: &mut Pool, id: ExprId) -> ExprId {
        let base = pool.int(1 << 16);
        let (high, low) = (pool.idiv(id, base), pool.modulo(id, base));
        let [high, low] =
            [high, low].map(|half| self.add(pool, DType::I32, vec![], vec![], vec![], half, vec![]));
        let high = pool.mul(high, base);
        pool.add(high, low)
    }

    fn rand_block(&mut self, pool: &mut Pool, args: [ExprId; 6]) -> Result<ExprId, NotTabulable> {
        let [row, col, ncols, head, n, seed] = args;
        let mut vars = Vec::new();
        let (mut origin, mut shape, mut index) = (Vec::new(), Vec::new(), Vec::new());
        for (name, x) in [("head", head), ("row", row), ("col", col)] {
            let Some((lo, hi)) = self.domain.interval(pool, x) else {
                return Err(NotTabulable {
                    text: crate::expr::print::print(pool, x, &|t| format!("t{}", t.0)),
                });
            };
            vars.push(pool.add_var(name, Ty::Int));
            let span = pool.sub(hi, lo);
            let size = pool.add_int(span, 1);
            let zero = pool.int(0);
            shape.push(pool.max(size, zero));
            origin.push(lo);
            index.push(pool.sub(x, lo));
        }
        let [h, r, c] = [pool.var(vars[0]), pool.var(vars[1]), pool.var(vars[2])];
        let value = pool.rand_block([r, c, ncols, h, n, seed]);
        Ok(self.add(pool, DType::Bit, vars, origin, shape, value, index))
    }

    #[allow(clippy::too_many_arguments)]
    fn add(
        &mut self,
        pool: &mut Pool,
        dtype: DType,
        vars: Vec<VarId>,
        origin: Vec<ExprId>,
        shape: Vec<ExprId>,
        value: ExprId,
        index: Vec<ExprId>,
    ) -> ExprId {
        let ty = match dtype {
            DType::I32 => Ty::Int,
            DType::Bit => Ty::Bool,
            _ => Ty::Float,
        };
        let at = self.tables.len();
        let name = format!("table{}", self.n_before + at);
        self.tables.push(Table { name, dtype, vars, origin, shape, value });
        pool.load(TensorId(self.first + at as u32), index, ty)
    }
}

fn elementary(op: &Op) -> bool {
    use UnaryOp::*;
    matches!(
        op,
        Op::Unary(Exp | Exp2 | Log | Log2 | Tanh | Sigmoid | Sin | Cos, _) | Op::Binary(BinaryOp::Pow, _, _)
    )
}

/// The same operation on new operands.
fn remake(pool: &mut Pool, id: ExprId, new: &[ExprId]) -> ExprId {
    match pool.op(id).clone() {
        Op::Load(t, _, ty) => pool.load(t, new.to_vec(), ty),
        Op::Unary(op, _) => pool.unary(op, new[0]),
        Op::Binary(op, _, _) => pool.binary(op, new[0], new[1]),
        Op::Select(..) => pool.select(new[0], new[1], new[2]),
        _ => id,
    }
}
