//! Keys and values that are stored as integers with a scale for each row: read where they are stored, with the scale
//! taken out of the sums over features and keys.
//!
//! `dot(q, s_j k_j) = s_j dot(q, k_j)` and `sum_j w_j (s_j v_j) = sum_j (w_j s_j) v_j`: the score is multiplied by the
//! scale of its key, the weight by that of its value, and no row is written anew.
//!
//! Comes in: a kernel, and an attention of it about to be lowered. Goes out: the attention over the stored tensors, and
//! the factor of its weights. What holds: what is computed is the same up to rounding. Not here: rows that are found
//! through a page table (`in_pages.rs`), or made in any other way; those are derived first.

use std::collections::BTreeSet;

use crate::attn_ir::needed::reads;
use crate::attn_ir::{Attention, Derive, Kernel, Rows, Step};
use crate::expr::eval::Value;
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, UnaryOp, VarId};

/// A derived tensor that is a stored one times a factor for each row.
struct Scaled {
    made: TensorId,
    /// The stored tensor, and where each dim of the made one stands in it.
    stored: TensorId,
    dims: Vec<usize>,
    /// Float expression of the made tensor's index without its last.
    factor: ExprId,
    index: Vec<VarId>,
    /// Rows from here on are zero: an int expression of the made tensor's index.
    len: Option<ExprId>,
}

impl Scaled {
    fn of(kernel: &Kernel, d: &Derive) -> Option<Scaled> {
        let pool = &kernel.pool;
        if d.at_bind || !d.sum.is_empty() {
            return None;
        }
        let (value, len) = match *pool.op(d.value) {
            Op::Select(cond, value, none) if pool.as_const(none) == Some(Value::Float(0.0)) => {
                let Op::Binary(BinaryOp::Lt, row, len) = *pool.op(cond) else { return None };
                let seq = *d.index.get(d.index.len().checked_sub(2)?)?;
                if *pool.op(row) != Op::Var(seq) || pool.depends_on(len, &[seq]) {
                    return None;
                }
                (value, Some(len))
            }
            _ => (d.value, None),
        };
        let Op::Binary(BinaryOp::Mul, a, b) = *pool.op(value) else { return None };
        let (stored, at, factor) = match (integer_load(pool, a), integer_load(pool, b)) {
            (Some((t, at)), None) => (t, at, b),
            (None, Some((t, at))) => (t, at, a),
            _ => return None,
        };
        let dims: Option<Vec<usize>> = d
            .index
            .iter()
            .map(|v| at.iter().position(|&i| matches!(pool.op(i), Op::Var(w) if w == v)))
            .collect();
        let dims = dims.filter(|dims| dims.len() == at.len())?;
        let feature = *d.index.last()?;
        let free = !pool.depends_on(factor, &[feature]);
        free.then_some(Scaled { made: d.out, stored, dims, factor, index: d.index.clone(), len })
    }

    /// The rows of the stored tensor.
    fn rows(&self, made: Rows) -> Rows {
        let dim = |d: usize| self.dims[d];
        Rows {
            tensor: self.stored,
            batch: made.batch.map(dim),
            head: made.head.map(dim),
            seq: dim(made.seq),
            feature: dim(made.feature),
        }
    }

    /// Does an attention that reads these rows stop where they end?
    fn ends_with(&self, attn: &Attention, made: Rows) -> bool {
        self.len.is_none() || attn.ends_with(made, &self.index, self.len)
    }

    /// The factor of the key at (b, kv_head(h), j).
    fn factor(&self, attn: &mut Attention, made: Rows) -> ExprId {
        let mut pool = std::mem::take(&mut attn.pool);
        let place = attn.key_place(&mut pool);
        let factor = pool.substitute(self.factor, &made.place(&self.index, place));
        attn.pool = pool;
        factor
    }
}

/// `float(load)` of a tensor of integers.
fn integer_load(pool: &Pool, id: ExprId) -> Option<(TensorId, Box<[ExprId]>)> {
    let Op::Unary(UnaryOp::ToFloat, x) = *pool.op(id) else { return None };
    match pool.op(x) {
        Op::Load(t, at, _) => Some((*t, at.clone())),
        _ => None,
    }
}

/// What a kernel stores with scales.
pub struct Stored {
    scaled: Vec<Scaled>,
}

impl Stored {
    /// Finds it.
    pub fn of(kernel: &Kernel) -> Stored {
        let derived =
            kernel.steps.iter().filter_map(|s| if let Step::Derive(d) = s { Some(d) } else { None });
        let mut scaled: Vec<Scaled> = derived.filter_map(|d| Scaled::of(kernel, d)).collect();
        if scaled.is_empty() {
            return Stored { scaled };
        }
        // Whatever reads the rows in another way needs them made.
        let mut elsewhere = BTreeSet::new();
        for step in &kernel.steps {
            let of_step = reads(kernel, step);
            match step {
                Step::Attend(a) => {
                    let queries: Vec<TensorId> = a.dots.iter().map(|d| d.x.tensor).collect();
                    let keys: Vec<TensorId> =
                        a.dots.iter().map(|d| d.y.tensor).chain([a.value.tensor]).collect();
                    let in_exprs = of_step[a.dots.len() * 2 + 1..].iter().copied();
                    let first = keys[0];
                    elsewhere.extend(queries.into_iter().chain(in_exprs));
                    // The first key tensor says how many keys there may be: it has the same shape when stored.
                    let rows: Vec<Rows> = a.dots.iter().map(|d| d.y).chain([a.value]).collect();
                    scaled.retain(|s| {
                        let mut own = rows.iter().filter(|r| r.tensor == s.made);
                        (s.made != first || shape_is_kept(kernel, s)) && own.all(|r| s.ends_with(a, *r))
                    });
                }
                _ => elsewhere.extend(of_step),
            }
        }
        scaled.retain(|s| !elsewhere.contains(&s.made));
        Stored { scaled }
    }

    /// True of a tensor that no step has to make.
    pub fn replaces(&self, made: TensorId) -> bool {
        self.scaled.iter().any(|s| s.made == made)
    }

    /// The rows that are read in the place of some.
    pub fn rows(&self, made: Rows) -> Rows {
        let scaled = self.scaled.iter().find(|s| s.made == made.tensor);
        scaled.map_or(made, |s| s.rows(made))
    }

    /// Reads what is stored in the place of what is made; gives the factor of the weights, a float expression of
    /// (b, h, j) in the attention's pool, if the values have one.
    pub fn read(&self, attn: &mut Attention) -> Option<ExprId> {
        let find = |t: TensorId| self.scaled.iter().find(|s| s.made == t);
        for n in 0..attn.dots.len() {
            let made = attn.dots[n].y;
            let Some(scaled) = find(made.tensor) else { continue };
            let factor = scaled.factor(attn, made);
            let var = attn.dots[n].var;
            let dot = attn.pool.var(var);
            let product = attn.pool.mul(dot, factor);
            attn.score = attn.pool.substitute(attn.score, &[(var, product)]);
            attn.dots[n].y = scaled.rows(made);
        }
        let made = attn.value;
        let scaled = find(made.tensor)?;
        attn.value = scaled.rows(made);
        Some(scaled.factor(attn, made))
    }
}

/// Does the stored tensor hold as many rows as the made one, in the same terms?
fn shape_is_kept(kernel: &Kernel, s: &Scaled) -> bool {
    let (made, stored) = (&kernel.tensor(s.made).shape, &kernel.tensor(s.stored).shape);
    s.dims.iter().enumerate().all(|(n, &d)| made[n] == stored[d])
}
