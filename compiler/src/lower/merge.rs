//! Partial results over runs of keys, and the launch that merges them.
//!
//! Comes in: an attention whose schedule lets the keys fall into runs. Goes out: workspace for the partial results, which the
//! attend launch writes, and a launch whose tasks each merge one row: an online softmax over the runs, whose scores are
//! their lse and whose values are their o. What holds: partial results are merged in ascending order of their keys,
//! `lse = ln sum exp lse_p`, `o = sum exp(lse_p - lse) o_p`, a run without a key adds nothing; where the runs lie depends on
//! positions and lengths alone (with runs of so many keys, on positions alone), so the number of threads changes no result.
//! Where lengths give one run, there is no workspace, no task of the merge, and the attend launch writes the results.

use super::{Builder, Input, attend, rows_index};
use crate::artifact::DType;
use crate::attn_ir::{Attention, OutputKind, Weight};
use crate::expr::{ExprId, Pool, TensorId, Ty};
use crate::tile_ir::{Access, BufId, Buffer, Launch, Operand, ReduceOp, Rest, RowsRef, Stmt, TensorKind};

/// Where runs lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// Run p holds the keys p n to (p + 1) n.
    Keys(i64),
    /// The key tiles that a query tile can see, in equal parts of at least so many tiles.
    Tiles(i64),
}

/// Runs, and where partial results lie.
pub struct Parts {
    /// Where they lie.
    pub runs: Runs,
    /// How many there can be, at least 1 of [`Runs::Tiles`].
    pub count: ExprId,
    /// Bool over lengths: there is one run, and nothing to merge. None where partial results are always made.
    pub whole: Option<ExprId>,
    /// f32 `[B, H, runs, Sq, Dv]`: normalised where weights are; where values are weighed.
    pub o: Option<TensorId>,
    /// f32 `[B, H, runs, Sq]`, of a softmax.
    pub lse: Option<TensorId>,
    /// f32 `[B, H, runs, Sq]`, where the largest score is asked for.
    pub max: Option<TensorId>,
}

/// Runs that are merged in one step.
const STEP: i64 = 64;

/// The runs of the schedule, if it has any, and their workspace.
pub fn declare(builder: &mut Builder, input: &Input) -> Option<Parts> {
    let (attn, schedule) = (input.attn, input.schedule);
    let pool = builder.pool();
    let (runs, count, whole) = match (schedule.split, schedule.fill) {
        (Some(n), _) => (Runs::Keys(n), pool.ceil_div(attn.capacity(), n), None),
        (None, Some(fill)) => {
            let count = fill.runs(attn, pool, (schedule.tile_q, schedule.heads));
            let one = pool.int(1);
            (Runs::Tiles(fill.keys / schedule.tile_kv), count, Some(pool.le(count, one)))
        }
        (None, None) => return None,
    };
    let stored = if_split(pool, whole, count);
    let stored = if_computed(pool, input, stored);
    let heads = pool.int(attn.n_heads);
    let d = pool.int(attn.feature_dim(attn.value));
    let vector = vec![attn.batch, heads, stored, attn.seq_q];
    let rows = [&vector[..], &[d]].concat();
    let mut made = |name: &str, shape| builder.tensor(name, TensorKind::Workspace, DType::F32, shape);
    let o = attend::weighs_values(attn).then(|| made("part_o", rows));
    let softmax = matches!(attn.weight, Weight::Softmax { .. });
    let lse = softmax.then(|| made("part_lse", vector.clone()));
    let largest = attn.outputs.iter().any(|o| o.kind == OutputKind::MaxLogit);
    let max = largest.then(|| made("part_max", vector));
    Some(Parts { runs, count, whole, o, lse, max })
}

struct Merge<'a> {
    builder: &'a mut Builder,
    buffers: Vec<Buffer>,
    /// Batch entry, head, row.
    at: [ExprId; 3],
    count: ExprId,
    one: ExprId,
}

/// A merged row.
struct Merged {
    acc: Option<BufId>,
    row_scale: Option<BufId>,
    lse: Option<BufId>,
    max: Option<BufId>,
}

/// The launch.
pub fn merge(builder: &mut Builder, input: &Input, parts: &Parts) -> Launch {
    let attn = input.attn;
    let pool = builder.pool();
    let vars = ["mb", "mh", "mr"].map(|name| pool.add_var(name, Ty::Int));
    let at = vars.map(|v| pool.var(v));
    let (heads, rows, one) = (pool.int(attn.n_heads), if_split(pool, parts.whole, attn.seq_q), pool.int(1));
    let rows = if_computed(pool, input, rows);
    let grid = vec![(vars[0], attn.batch), (vars[1], heads), (vars[2], rows)];
    let mut body = Vec::new();
    let count = parts.whole.map_or(parts.count, |_| named(builder, &mut body, "runs", parts.count));
    let mut m = Merge { builder, buffers: vec![], at, count, one };
    let mut merged = match parts.lse {
        Some(lse) => m.weighted(attn, parts.o, lse, &mut body),
        None => m.summed(attn, parts.o, &mut body),
    };
    merged.max = parts.max.map(|tensor| m.largest(tensor, &mut body));
    m.store(attn, &merged, &mut body);
    Launch { name: "merge".into(), grid, buffers: m.buffers, body }
}

/// A value with a name.
fn named(builder: &mut Builder, body: &mut Vec<Stmt>, name: &str, value: ExprId) -> ExprId {
    let pool = builder.pool();
    let var = pool.add_var(name, pool.ty(value));
    body.push(Stmt::Let { var, value });
    builder.pool().var(var)
}

/// `n`, or 0 where there is one run.
fn if_split(pool: &mut Pool, whole: Option<ExprId>, n: ExprId) -> ExprId {
    let Some(whole) = whole else { return n };
    let none = pool.int(0);
    pool.select(whole, none, n)
}

/// `n`, or 0 where the call is computed in another way.
fn if_computed(pool: &mut Pool, input: &Input, n: ExprId) -> ExprId {
    let Some(when) = input.when else { return n };
    let none = pool.int(0);
    pool.select(when, n, none)
}

impl Merge<'_> {
    fn pool(&mut self) -> &mut Pool {
        self.builder.pool()
    }

    fn buffer(&mut self, name: &str, cols: i64) -> BufId {
        self.buffers.push(Buffer::new(name, 1, cols));
        BufId(self.buffers.len() as u32 - 1)
    }

    /// A buffer that begins with a value.
    fn begun(&mut self, name: &str, cols: i64, value: f64, body: &mut Vec<Stmt>) -> BufId {
        let dst = self.buffer(name, cols);
        body.push(Stmt::Fill { dst, value });
        dst
    }

    /// Room for the merged row.
    fn accumulator(&mut self, attn: &Attention, body: &mut Vec<Stmt>) -> BufId {
        self.begun("acc", (attn.feature_dim(attn.value) + 15) / 16 * 16, 0.0, body)
    }

    /// A loop over the runs, some in a step: `f` gets the first and how many.
    fn steps(&mut self, body: &mut Vec<Stmt>, f: impl FnOnce(&mut Self, ExprId, ExprId) -> Vec<Stmt>) {
        let count = self.count;
        let pool = self.pool();
        let var = pool.add_var("p", Ty::Int);
        let (step, size, lo) = (pool.var(var), pool.int(STEP), pool.int(0));
        let (hi, first) = (pool.ceil_div(count, STEP), pool.mul(step, size));
        let left = pool.sub(count, first);
        let n = pool.min(left, size);
        let body_of_step = f(self, first, n);
        body.push(Stmt::For { var, lo, hi, body: body_of_step });
    }

    /// `dst[0, c]` = the value of run `first + c`.
    fn values(&self, dst: BufId, tensor: TensorId, first: ExprId, cols: ExprId) -> Stmt {
        let [b, h, at] = self.at;
        let src = RowsRef { tensor, index: vec![b, h, first, at], row_dim: 3, col_dim: 2 };
        Stmt::LoadRows { dst: dst.into(), src, rows: self.one, d: cols }
    }

    /// `acc += sum of a[c] times the row of run first + c`
    fn product(
        &mut self,
        (c, a): (BufId, BufId),
        o: TensorId,
        (first, k): (ExprId, ExprId),
        (d, row_scale): (i64, Option<BufId>),
    ) -> Stmt {
        let ([b, h, at], rows) = (self.at, self.one);
        let pool = self.pool();
        let (zero, n, skip_zero) = (pool.int(0), pool.int(d), pool.bool(false));
        let src = RowsRef { tensor: o, index: vec![b, h, first, at, zero], row_dim: 2, col_dim: 4 };
        Stmt::Gemm {
            c,
            a,
            rest: Rest::None,
            b: Operand::Rows(src),
            rows,
            k,
            n,
            row_scale,
            accumulate: true,
            skip_zero,
            next: None,
        }
    }

    /// An online softmax over the runs.
    fn weighted(
        &mut self,
        attn: &Attention,
        o: Option<TensorId>,
        lse: TensorId,
        body: &mut Vec<Stmt>,
    ) -> Merged {
        let d = attn.feature_dim(attn.value);
        let acc = o.map(|_| self.accumulator(attn, body));
        let (s, alpha) = (self.buffer("w", STEP), self.buffer("alpha", 1));
        let row_max = self.begun("top", 1, f64::NEG_INFINITY, body);
        let row_sum = self.begun("sum", 1, 0.0, body);
        let (inv_sum, merged) = (self.buffer("inv_sum", 1), self.buffer("lse_row", 1));
        let rows = self.one;
        self.steps(body, |m, first, cols| {
            let load = m.values(s, lse, first, cols);
            // A weight of 0 times what is not finite is not finite, so that nothing seen is hidden.
            let (scale, floor_unmasked) = (m.pool().float(1.0), m.pool().bool(false));
            let step = Stmt::SoftmaxStep { s, rows, cols, scale, row_max, row_sum, alpha, floor_unmasked };
            let product = o.zip(acc).map(|(o, acc)| m.product((acc, s), o, (first, cols), (d, Some(alpha))));
            [load, step].into_iter().chain(product).collect()
        });
        let [b, h, _] = self.at;
        let sink = match attn.weight {
            Weight::Softmax { sink: Some(s) } => {
                self.pool().substitute(s, &[(attn.index.b, b), (attn.index.h, h)])
            }
            _ => self.pool().float(f64::NEG_INFINITY),
        };
        body.push(Stmt::FinishSoftmax { rows, row_max, row_sum, sink, inv_sum, lse: merged });
        Merged { acc, row_scale: Some(inv_sum), lse: Some(merged), max: None }
    }

    /// Weights that are not normalised: the sum of the runs.
    fn summed(&mut self, attn: &Attention, o: Option<TensorId>, body: &mut Vec<Stmt>) -> Merged {
        let acc = o.map(|o| {
            let acc = self.accumulator(attn, body);
            let ones = self.begun("w", STEP, 1.0, body);
            let d = attn.feature_dim(attn.value);
            self.steps(body, |m, first, n| vec![m.product((acc, ones), o, (first, n), (d, None))]);
            acc
        });
        Merged { acc, row_scale: None, lse: None, max: None }
    }

    /// The largest of the partial values, -inf of none.
    fn largest(&mut self, tensor: TensorId, body: &mut Vec<Stmt>) -> BufId {
        let (all, most) = (self.buffer("values", STEP), self.buffer("most", 1));
        let dst = self.begun("largest", 1, f64::NEG_INFINITY, body);
        let rows = self.one;
        self.steps(body, |m, first, cols| {
            let load = m.values(all, tensor, first, cols);
            let of_step = Stmt::ReduceRows { op: ReduceOp::Max, dst: most, src: all, rows, cols };
            let pool = m.pool();
            let (row, col) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
            let (old, new) = (pool.add_var("x", Ty::Float), pool.add_var("y", Ty::Float));
            let (x, y) = (pool.var(old), pool.var(new));
            let value = pool.max(x, y);
            let reads = vec![(old, dst, Access::Tile), (new, most, Access::Tile)];
            vec![load, of_step, Stmt::Map { dst, rows, cols: rows, row, col, reads, value }]
        });
        dst
    }

    fn store(&mut self, attn: &Attention, merged: &Merged, body: &mut Vec<Stmt>) {
        let ([b, h, row], rows) = (self.at, self.one);
        let query = attn.dots[0].x;
        for (out, tensor) in attn.outputs.iter().zip(self.builder.outputs.clone()) {
            let mut index = rows_index(self.pool(), attn, query, b, h, row);
            let src = match out.kind {
                OutputKind::O => merged.acc,
                OutputKind::Lse => merged.lse,
                OutputKind::MaxLogit => merged.max,
            };
            let Some(src) = src else { continue };
            if out.kind == OutputKind::O {
                let dst = RowsRef { tensor, index, row_dim: query.seq, col_dim: query.feature };
                let d = self.pool().int(attn.feature_dim(attn.value));
                body.push(Stmt::StoreRows { dst, src: src.into(), rows, d, row_scale: merged.row_scale });
                continue;
            }
            index.remove(query.feature);
            let seq = query.seq - usize::from(query.feature < query.seq);
            let dst = RowsRef { tensor, index, row_dim: seq, col_dim: seq };
            body.push(Stmt::StoreVec { dst, src: src.into(), rows });
        }
    }
}
