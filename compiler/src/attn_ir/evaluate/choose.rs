//! The meaning of the steps that choose: sorted whole rows in f64.
//!
//! Comes in: a step, values of dims and params, views of what earlier steps made. Goes out: the made tensors. What
//! holds: ties to the lowest index, NaN as -inf, -0 as 0. Not here: speed.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::{At, shape};
use crate::attn_ir::{Count, Kernel, RANK_ROWS, Rank, Rows, Top};
use crate::expr::eval::{Value, eval};
use crate::expr::{ExprId, TensorId};
use crate::host::{BindError, Data, View, unflatten};

/// Positions of the largest scores that are above -inf, or of any if `all`; ascending.
fn largest(scores: &[f64], n: usize, all: bool) -> Vec<usize> {
    let clean = |x: f64| if x.is_nan() { f64::NEG_INFINITY } else { x };
    let mut order: Vec<usize> =
        (0..scores.len()).filter(|&x| all || clean(scores[x]) > f64::NEG_INFINITY).collect();
    let descending = |&a: &usize, &b: &usize| {
        clean(scores[b]).partial_cmp(&clean(scores[a])).unwrap_or(Ordering::Equal).then(a.cmp(&b))
    };
    order.sort_by(descending);
    order.truncate(n);
    order.sort_unstable();
    order
}

fn size(kernel: &Kernel, at: &At<'_>, id: ExprId) -> usize {
    usize::try_from(eval(&kernel.pool, id, at).int()).unwrap_or(0)
}

/// Positions and ranks.
pub(super) fn top(kernel: &Kernel, step: &Top, at: &At<'_>) -> Result<[(TensorId, View); 2], BindError> {
    let whole = shape(kernel, &at.vars, kernel.tensor(step.source));
    let chosen = shape(kernel, &at.vars, kernel.tensor(step.indices));
    let (Some((&length, lead)), Some(&width)) = (whole.split_last(), chosen.last()) else {
        return Err(BindError("a number has no largest elements".into()));
    };
    let (mut indices, mut ranks) = (Vec::new(), Vec::new());
    for row in 0..lead.iter().product() {
        let index: Vec<i64> = unflatten(row, lead).iter().map(|&x| x as i64).collect();
        let element = |x: usize| {
            let at_x: Vec<i64> = index.iter().copied().chain([x as i64]).collect();
            at.element(step.source, &at_x).float()
        };
        let scores: Vec<f64> = (0..length).map(element).collect();
        let found = largest(&scores, width, true);
        ranks.extend((0..length).map(|x| found.binary_search(&x).map_or(-1, |n| n as i64)));
        indices.extend(found.iter().map(|&x| x as i64));
    }
    Ok([
        (step.indices, View::contiguous(chosen, Data::Int(indices))?),
        (step.ranks, View::contiguous(whole, Data::Int(ranks))?),
    ])
}

/// Counts.
pub(super) fn count(kernel: &Kernel, step: &Count, at: &At<'_>) -> Result<[(TensorId, View); 1], BindError> {
    let lists = shape(kernel, &at.vars, kernel.tensor(step.lists));
    let counts = shape(kernel, &at.vars, kernel.tensor(step.out));
    let (Some((&length, lead)), Some(&numbers)) = (lists.split_last(), counts.last()) else {
        return Err(BindError("a number is no list".into()));
    };
    let mut out = vec![0i64; lead.iter().product::<usize>() * numbers];
    for row in 0..lead.iter().product() {
        for n in 0..length {
            let index: Vec<i64> = unflatten(row, lead).iter().map(|&x| x as i64).chain([n as i64]).collect();
            let entry = at.element(step.lists, &index).int();
            let Ok(entry) = usize::try_from(entry) else { break };
            if entry >= numbers {
                return Err(BindError(format!("block {entry} does not exist: there are {numbers}")));
            }
            out[row * numbers + entry] += 1;
        }
    }
    Ok([(step.out, View::contiguous(counts, Data::Int(out))?)])
}

/// One query row that chooses.
struct Chooser<'a, 'v> {
    kernel: &'a Kernel,
    step: &'a Rank,
    at: At<'v>,
    /// Rows of the windows of a dot, for (dot, b, key head).
    keys: HashMap<(usize, i64, i64), Vec<Vec<f64>>>,
}

impl Chooser<'_, '_> {
    fn set(&mut self, var: crate::expr::VarId, x: i64) {
        self.at.vars[var.0 as usize] = Value::Int(x);
    }

    fn row(&self, rows: Rows, (b, head, s): (i64, i64, i64)) -> Vec<f64> {
        let decl = self.kernel.tensor(rows.tensor);
        let features = size(self.kernel, &self.at, decl.shape[rows.feature]);
        let mut index = vec![0i64; decl.shape.len()];
        if let Some(d) = rows.batch {
            index[d] = b;
        }
        if let Some(d) = rows.head {
            index[d] = head;
        }
        index[rows.seq] = s;
        let mut out = Vec::with_capacity(features);
        for x in 0..features {
            index[rows.feature] = x as i64;
            out.push(self.at.element(rows.tensor, &index).float());
        }
        out
    }

    /// Scores of the blocks for one head.
    fn scores(&mut self, (b, h, row): (i64, i64, i64), blocks: usize, windows: usize) -> Vec<f64> {
        let (step, pool) = (self.step, &self.kernel.pool);
        let ix = step.index;
        self.set(ix.b, b);
        self.set(ix.h, h);
        self.set(ix.row, row);
        let offset = eval(pool, step.offset, &self.at).int();
        self.set(ix.i, row + offset);
        let g = eval(pool, step.kv_head, &self.at).int();
        let queries: Vec<Vec<f64>> = step.dots.iter().map(|d| self.row(d.x, (b, h, row))).collect();
        for (n, dot) in step.dots.iter().enumerate() {
            if !self.keys.contains_key(&(n, b, g)) {
                let rows = (0..windows as i64).map(|w| self.row(dot.y, (b, g, w))).collect();
                self.keys.insert((n, b, g), rows);
            }
        }
        let mut scores = vec![f64::NEG_INFINITY; blocks];
        for w in 0..windows {
            self.set(ix.j, w as i64);
            if !eval(pool, step.seen, &self.at).bool() {
                continue;
            }
            for (n, (dot, q)) in step.dots.iter().zip(&queries).enumerate() {
                let k = &self.keys[&(n, b, g)][w];
                let sum: f64 = q.iter().zip(k).map(|(a, b)| a * b).sum();
                self.at.vars[dot.var.0 as usize] = Value::Float(sum);
            }
            let x = eval(pool, step.value, &self.at).float();
            let block = (w as i64 * step.stride / step.size) as usize;
            let Some(old) = scores.get_mut(block) else { continue };
            *old = if step.sum {
                joined(*old, x)
            } else if x > *old {
                x
            } else {
                *old
            };
        }
        scores
    }
}

/// The sum of two scores of which -inf is none.
fn joined(a: f64, b: f64) -> f64 {
    if a == f64::NEG_INFINITY {
        b
    } else if b == f64::NEG_INFINITY {
        a
    } else {
        a + b
    }
}

/// The chosen blocks of each row, and of each tile of rows.
pub(super) fn rank<'v>(kernel: &Kernel, step: &Rank, at: At<'v>) -> Result<[(TensorId, View); 2], BindError> {
    let out = shape(kernel, &at.vars, kernel.tensor(step.out));
    let any_shape = shape(kernel, &at.vars, kernel.tensor(step.any));
    let [n_b, n_g, n_rows, blocks] = out[..] else {
        return Err(BindError("chosen blocks are [batch, heads, rows, blocks]".into()));
    };
    let windows = size(kernel, &at, step.windows);
    let n = size(kernel, &at, step.count);
    let mut bits = vec![false; out.iter().product()];
    let mut any = vec![false; any_shape.iter().product()];
    let tiles = any_shape[2];
    let mut c = Chooser { kernel, step, at, keys: HashMap::new() };
    for (b, g, row) in (0..n_b * n_g * n_rows).map(|x| (x / n_rows / n_g, x / n_rows % n_g, x % n_rows)) {
        let mut total = vec![f64::NEG_INFINITY; blocks];
        for h in 0..step.n_heads {
            c.set(step.index.h, h);
            if eval(&kernel.pool, step.group, &c.at).int() != g as i64 {
                continue;
            }
            let own = c.scores((b as i64, h, row as i64), blocks, windows);
            total.iter_mut().zip(own).for_each(|(t, x)| *t = joined(*t, x));
        }
        for (block, score) in total.iter_mut().enumerate() {
            c.set(step.index.j, block as i64);
            if eval(&kernel.pool, step.keep, &c.at).bool() {
                *score = f64::INFINITY;
            }
        }
        for block in largest(&total, n, false) {
            bits[((b * n_g + g) * n_rows + row) * blocks + block] = true;
            any[((b * n_g + g) * tiles + row / RANK_ROWS as usize) * blocks + block] = true;
        }
    }
    Ok([
        (step.out, View::contiguous(out, Data::Bool(bits))?),
        (step.any, View::contiguous(any_shape, Data::Bool(any))?),
    ])
}
