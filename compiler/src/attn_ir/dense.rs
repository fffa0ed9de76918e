//! The meaning of an [`Attention`]: every (b, h, row, j) evaluated in f64, without tiles.
//!
//! Comes in: an attention and concrete data. Goes out, row by row: `o`, `lse`, `max_logit` and the largest
//! |score| (by which the f32 gates of [`crate::tolerance`] are scaled). What holds: a pair that the mask
//! excludes contributes exactly 0 whatever its key, value or loads would be; so does one whose score is -inf;
//! an unmasked NaN or infinity propagates, even where the weight is 0 or underflows; an empty row gives o = 0, lse = the sink or -inf, max_logit = -inf. The softmax
//! subtracts the row's maximum, so no score overflows. Not here: speed beyond what tests need (masked tails of
//! a row are skipped, nothing else), threads ([`Dense`] is `Sync`: callers divide the rows).

mod dots;
mod tape;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::LazyLock;

use crate::attn_ir::{Attention, Origin, Rows, Weight};
use crate::expr::eval::{Env, Value, eval};
use crate::expr::{ExprId, TensorId, VarId, rand};
use crate::host::{BindError, Inputs, View};
use dots::{KeyPanels, RowsAt};
use tape::{Tape, Vars};

/// Stands for a tensor that is not read.
static NOTHING: LazyLock<View> = LazyLock::new(|| View::from_fn(&[0], |_| 0.0));

/// Results for some rows of one (b, h).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowResults {
    /// `weight @ v`, row-major `[rows, value_dim]`.
    pub o: Vec<f64>,
    /// Natural log of the sum of exp of the scores (with the sink, if there is one).
    pub lse: Vec<f64>,
    /// Largest score.
    pub max_logit: Vec<f64>,
    /// Largest finite |score| of all rows, 0 without any.
    pub max_abs_score: f64,
}

/// An attention with its data: ready to evaluate any rows.
pub struct Dense<'a> {
    attention: &'a Attention,
    vars: Vec<Value>,
    views: Vec<&'a View>,
    tape: Tape,
    sizes: Sizes,
}

/// Sizes of a bound attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Batch.
    pub batch: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Query rows.
    pub seq_q: usize,
    /// Keys, at most.
    pub seq_k: usize,
    /// Features of a value.
    pub value_dim: usize,
}

/// Which weights of a row are dropped.
struct Drop {
    threshold: i64,
    keep_scale: f64,
    /// Stream, offset, seed.
    words: (i64, i64, i64),
    /// `i - row`.
    shift: i64,
    row: i64,
    /// Key of the first weight.
    first: i64,
}

impl Drop {
    /// True of the weight `at` places behind the first.
    fn drops(&self, at: usize) -> bool {
        let (stream, offset, seed) = self.words;
        let word = rand::word(self.first + at as i64, self.row + self.shift, stream, offset, seed);
        i64::from(word) < self.threshold
    }
}

/// Dims, params and the index variables that are set; tensors as far as they are known (lengths of batch entries).
struct Scalars<'a>(&'a [Value], &'a [&'a View]);

impl Env for Scalars<'_> {
    fn var(&self, var: VarId) -> Value {
        self.0[var.0 as usize]
    }

    fn load(&self, t: TensorId, index: &[i64]) -> Value {
        self.1.get(t.0 as usize).and_then(|view| view.get(index)).unwrap_or(Value::Int(0))
    }
}

impl<'a> Dense<'a> {
    /// Checks the data against the declarations and compiles score and mask.
    pub fn new(attention: &'a Attention, inputs: &'a Inputs) -> Result<Dense<'a>, BindError> {
        let vars = scalars(attention, inputs)?;
        let size =
            |id: ExprId| usize::try_from(eval(&attention.pool, id, &Scalars(&vars, &[])).int()).unwrap_or(0);
        let mut views = Vec::new();
        for t in &attention.tensors {
            // What other steps make may not be there yet; what this one reads is.
            let made = matches!(t.origin, Origin::Made | Origin::Output);
            if made && !inputs.tensors.contains_key(&t.name) {
                views.push(&*NOTHING);
                continue;
            }
            let shape: Vec<usize> = t.shape.iter().map(|&n| size(n)).collect();
            views.push(inputs.tensor(&t.name, &shape, t.dtype)?);
        }
        let value = &attention.tensors[attention.value.tensor.0 as usize];
        let sizes = Sizes {
            batch: size(attention.batch),
            n_heads: attention.n_heads.max(0) as usize,
            seq_q: size(attention.seq_q),
            seq_k: size(attention.capacity()),
            value_dim: size(value.shape[attention.value.feature]),
        };
        let dense = Dense { attention, vars, views, tape: compile(attention), sizes };
        for rows in attention.dots.iter().map(|d| d.y).chain([attention.value]) {
            dense.check_keys(rows)?;
        }
        Ok(dense)
    }

    fn check_keys(&self, rows: Rows) -> Result<(), BindError> {
        let found = self.views[rows.tensor.0 as usize].shape()[rows.seq];
        if found >= self.sizes.seq_k {
            return Ok(());
        }
        let name = &self.attention.tensor(rows.tensor).name;
        Err(BindError(format!("tensor `{name}` has {found} keys, the attention reads {}", self.sizes.seq_k)))
    }

    /// Sizes of the problem.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The rows of tensor `at` for batch b and this head.
    fn rows_at(&self, at: Rows, b: usize, head: usize) -> RowsAt<'a> {
        RowsAt::new(self.views[at.tensor.0 as usize], at, b, head)
    }

    /// What is dropped of the rows of (b, h), whose variables are set.
    fn drop(&self, vars: &[Value], offset: i64) -> Option<Drop> {
        let (a, d) = (self.attention, self.attention.dropout?);
        let value = |id| eval(&a.pool, id, &Scalars(vars, &self.views));
        let stream = vars[a.index.b.0 as usize].int() * a.n_heads + vars[a.index.h.0 as usize].int();
        Some(Drop {
            threshold: value(d.threshold).int(),
            keep_scale: value(d.keep_scale).float(),
            words: (stream, value(d.offset).int(), value(d.seed).int()),
            shift: offset,
            row: 0,
            first: 0,
        })
    }

    /// Evaluates some rows of (b, h). Indices beyond the sizes give no rows.
    pub fn rows(&self, b: usize, h: usize, rows: Range<usize>) -> RowResults {
        let mut out = RowResults::default();
        if b >= self.sizes.batch || h >= self.sizes.n_heads {
            return out;
        }
        let a = self.attention;
        let mut vars = self.vars.clone();
        vars[a.index.b.0 as usize] = Value::Int(b as i64);
        vars[a.index.h.0 as usize] = Value::Int(h as i64);
        let env = Scalars(&vars, &self.views);
        let kv_head = eval(&a.pool, a.kv_head, &env).int().max(0) as usize;
        let offset = eval(&a.pool, a.offset, &env).int();
        let seq_k = usize::try_from(eval(&a.pool, a.seq_k, &env).int()).unwrap_or(0).min(self.sizes.seq_k);
        let keys: Vec<KeyPanels> =
            a.dots.iter().map(|d| KeyPanels::new(&self.rows_at(d.y, b, kv_head), seq_k)).collect();
        let queries: Vec<RowsAt> = a.dots.iter().map(|d| self.rows_at(d.x, b, h)).collect();
        let values = self.rows_at(a.value, b, kv_head).gather(seq_k);

        let mut state = self.tape.start(&vars, &self.views, seq_k);
        let sink = state.sink();
        let mut drop = self.drop(&vars, offset);
        for row in rows.start..rows.end.min(self.sizes.seq_q) {
            state.begin_row(&[(a.index.row, row as i64), (a.index.i, row as i64 + offset)]);
            for (n, (x, k)) in queries.iter().zip(&keys).enumerate() {
                state.dot(n, |active, out| k.dots(&x.row(row), active, out));
            }
            let (first, mask, scores) = state.score();
            if let Some(drop) = &mut drop {
                drop.row = row as i64;
                drop.first = first as i64;
            }
            let values = &values[first * self.sizes.value_dim..];
            self.finish_row(mask, scores, sink, drop.as_ref(), values, &mut out);
        }
        out
    }

    /// Weights and their sum with the values, for a span of keys of one row.
    fn finish_row(
        &self,
        mask: &[bool],
        scores: &[f64],
        sink: Option<f64>,
        drop: Option<&Drop>,
        values: &[f64],
        out: &mut RowResults,
    ) {
        let active = || scores.iter().enumerate().filter(|(j, s)| mask[*j] && **s != f64::NEG_INFINITY);
        let mut max = f64::NEG_INFINITY;
        for (_, &s) in active() {
            max = if s > max || s.is_nan() { s } else { max };
            out.max_abs_score = out.max_abs_score.max(if s.is_finite() { s.abs() } else { 0.0 });
        }
        if active().any(|(_, s)| s.is_nan()) {
            max = f64::NAN;
        }
        let sink = sink.unwrap_or(f64::NEG_INFINITY);
        let shift = if sink > max || sink.is_nan() { sink } else { max };
        let shift = if shift == f64::NEG_INFINITY { 0.0 } else { shift };
        let start = out.o.len();
        out.o.resize(start + self.sizes.value_dim, 0.0);
        let o = &mut out.o[start..];
        let mut sum = (sink - shift).exp();
        for (j, &s) in active() {
            let exp = (s - shift).exp();
            sum += exp;
            let weight = match self.attention.weight {
                Weight::Softmax { .. } => exp,
                Weight::Sigmoid => 1.0 / (1.0 + (-s).exp()),
                Weight::Relu if s < 0.0 => 0.0,
                Weight::Relu | Weight::Plain => s,
            };
            let mut weight = positive(weight);
            if let Some(drop) = drop {
                if drop.drops(j) {
                    continue;
                }
                weight *= drop.keep_scale;
            }
            let v = &values[j * self.sizes.value_dim..][..self.sizes.value_dim];
            o.iter_mut().zip(v).for_each(|(o, v)| *o += weight * v);
        }
        if matches!(self.attention.weight, Weight::Softmax { .. }) && sum != 0.0 {
            o.iter_mut().for_each(|o| *o /= sum);
        }
        out.lse.push(if sum == 0.0 { f64::NEG_INFINITY } else { shift + sum.ln() });
        out.max_logit.push(max);
    }
}

/// The weight of an unmasked pair is never 0: where a value is infinite, so is the sum, not NaN.
fn positive(weight: f64) -> f64 {
    if weight.abs() < f64::MIN_POSITIVE { f64::MIN_POSITIVE.copysign(weight) } else { weight }
}

/// Values of dims and params; index variables and dots hold a 0 of their type.
fn scalars(a: &Attention, inputs: &Inputs) -> Result<Vec<Value>, BindError> {
    let zero = |ty| match ty {
        crate::expr::Ty::Bool => Value::Bool(false),
        crate::expr::Ty::Int => Value::Int(0),
        crate::expr::Ty::Float => Value::Float(0.0),
    };
    let mut vars: Vec<Value> = a.pool.vars().map(|(_, v)| zero(v.ty)).collect();
    for (name, var) in a.runtime_dims() {
        vars[var.0 as usize] = inputs.dim(&name)?;
    }
    for p in &a.params {
        vars[p.var.0 as usize] = inputs.param(&p.name, a.pool.var_info(p.var).ty, p.default)?;
    }
    Ok(vars)
}

fn compile(a: &Attention) -> Tape {
    let sink = match a.weight {
        Weight::Softmax { sink } => sink,
        _ => None,
    };
    let vars = Vars {
        row: vec![a.index.row, a.index.i],
        key: a.index.j,
        dots: a.dots.iter().map(|d| d.var).collect(),
    };
    Tape::compile(&a.pool, a.score, a.mask, sink, vars)
}

/// Rows of one (b, h), prepared anew at every call: for several calls make one [`Dense`].
pub fn evaluate_rows(
    attention: &Attention,
    inputs: &Inputs,
    b: usize,
    h: usize,
    rows: Range<usize>,
) -> Result<RowResults, BindError> {
    Ok(Dense::new(attention, inputs)?.rows(b, h, rows))
}

/// Everything: o is `[B, H, Sq, value_dim]`, lse and max_logit are `[B, H, Sq]`, row-major.
pub fn evaluate(attention: &Attention, inputs: &Inputs) -> Result<RowResults, BindError> {
    let dense = Dense::new(attention, inputs)?;
    let mut out = RowResults::default();
    for b in 0..dense.sizes.batch {
        for h in 0..dense.sizes.n_heads {
            let part = dense.rows(b, h, 0..dense.sizes.seq_q);
            out.o.extend(part.o);
            out.lse.extend(part.lse);
            out.max_logit.extend(part.max_logit);
            out.max_abs_score = out.max_abs_score.max(part.max_abs_score);
        }
    }
    Ok(out)
}
