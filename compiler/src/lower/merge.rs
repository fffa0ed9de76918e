//! Partial results over runs of keys, and the launch that merges them.
//!
//! Comes in: an attention whose schedule splits the keys. Goes out: workspace for the partial results, which the
//! attend launch writes, and a launch whose tasks each merge the rows of one query tile. What holds: partial results
//! (o, lse) are merged in ascending order of their keys, `lse = ln sum exp lse_p`, `o = sum exp(lse_p - lse) o_p`, a
//! run without a key adds nothing; where the runs lie depends on the positions of the keys alone, so neither the
//! other batch entries nor the number of threads changes a result.

use super::{Builder, Input, rows_index};
use crate::artifact::DType;
use crate::attn_ir::{OutputKind, Weight};
use crate::expr::{ExprId, Pool, TensorId, Ty, UnaryOp, VarId};
use crate::tile_ir::{Access, BufId, Buffer, Launch, RowsRef, Stmt, TensorKind};

/// Where partial results lie.
pub struct Parts {
    /// Keys of a run.
    pub keys: i64,
    /// How many there can be.
    pub count: ExprId,
    /// f32 `[B, H, runs, Sq, Dv]`: normalised where weights are.
    pub o: TensorId,
    /// f32 `[B, H, runs, Sq]`, of a softmax.
    pub lse: Option<TensorId>,
    /// f32 `[B, H, runs, Sq]`, where the largest score is asked for.
    pub max: Option<TensorId>,
}

/// Declares the workspace.
pub fn declare(builder: &mut Builder, input: &Input, keys: i64) -> Parts {
    let attn = input.attn;
    let count = builder.pool().ceil_div(attn.capacity(), keys);
    let heads = builder.pool().int(attn.n_heads);
    let d = builder.pool().int(attn.feature_dim(attn.value));
    let vector = vec![attn.batch, heads, count, attn.seq_q];
    let rows = [&vector[..], &[d]].concat();
    let mut made = |name: &str, shape| builder.tensor(name, TensorKind::Workspace, DType::F32, shape);
    let o = made("part_o", rows);
    let softmax = matches!(attn.weight, Weight::Softmax { .. });
    let lse = softmax.then(|| made("part_lse", vector.clone()));
    let largest = attn.outputs.iter().any(|o| o.kind == OutputKind::MaxLogit);
    let max = largest.then(|| made("part_max", vector));
    Parts { keys, count, o, lse, max }
}

struct Merge<'a> {
    builder: &'a mut Builder,
    buffers: Vec<Buffer>,
    tile: i64,
    at: [ExprId; 3],
    row0: ExprId,
    rows: ExprId,
}

/// The launch.
pub fn merge(builder: &mut Builder, input: &Input, parts: &Parts) -> Launch {
    let (attn, tile) = (input.attn, input.schedule.tile_q);
    let pool = builder.pool();
    let vars = ["mb", "mh", "mt"].map(|name| pool.add_var(name, Ty::Int));
    let [b, h, t] = vars.map(|v| pool.var(v));
    let (heads, tiles, size) = (pool.int(attn.n_heads), pool.ceil_div(attn.seq_q, tile), pool.int(tile));
    let row0 = pool.mul(t, size);
    let left = pool.sub(attn.seq_q, row0);
    let rows = pool.min(left, size);
    let grid = vec![(vars[0], attn.batch), (vars[1], heads), (vars[2], tiles)];
    let mut m = Merge { builder, buffers: vec![], tile, at: [b, h, t], row0, rows };
    let d = attn.feature_dim(attn.value);
    let acc = m.buffer("acc", (d + 15) / 16 * 16);
    let mut body = vec![Stmt::Fill { dst: acc, value: 0.0 }];
    let mut row_scale = None;
    let lse = m.buffer("lse_row", 1);
    match (attn.weight, parts.lse) {
        (Weight::Softmax { sink }, Some(parts_lse)) => {
            let (top, sum, inv) = (m.buffer("top", 1), m.buffer("sum", 1), m.buffer("inv_sum", 1));
            m.largest(top, parts_lse, parts.count, &mut body);
            m.weighted(acc, (top, sum), (parts, parts_lse), d, &mut body);
            let sink = match sink {
                Some(s) => m.builder.pool().substitute(s, &[(attn.index.b, b), (attn.index.h, h)]),
                None => m.builder.pool().float(f64::NEG_INFINITY),
            };
            body.push(Stmt::FinishSoftmax { rows, row_max: top, row_sum: sum, sink, inv_sum: inv, lse });
            row_scale = Some(inv);
        }
        _ => m.sum(acc, parts, d, &mut body),
    }
    let max = parts.max.map(|tensor| {
        let max = m.buffer("largest", 1);
        m.largest(max, tensor, parts.count, &mut body);
        max
    });
    let outputs = m.builder.outputs.clone();
    let query = attn.dots[0].x;
    for (out, tensor) in attn.outputs.iter().zip(outputs) {
        let mut index = rows_index(m.builder.pool(), attn, query, b, h, row0);
        if out.kind == OutputKind::O {
            let dst = RowsRef { tensor, index, row_dim: query.seq, col_dim: query.feature };
            let d = m.builder.pool().int(d);
            body.push(Stmt::StoreRows { dst, src: acc.into(), rows, d, row_scale });
            continue;
        }
        index.remove(query.feature);
        let seq = query.seq - usize::from(query.feature < query.seq);
        let dst = RowsRef { tensor, index, row_dim: seq, col_dim: seq };
        let src = if out.kind == OutputKind::Lse { lse } else { max.unwrap_or(lse) };
        body.push(Stmt::StoreVec { dst, src: src.into(), rows });
    }
    Launch { name: "merge".into(), grid, buffers: m.buffers, body }
}

impl Merge<'_> {
    fn pool(&mut self) -> &mut Pool {
        self.builder.pool()
    }

    fn buffer(&mut self, name: &str, cols: i64) -> BufId {
        self.buffers.push(Buffer { name: name.into(), rows: self.tile, cols });
        BufId(self.buffers.len() as u32 - 1)
    }

    /// `dst = f(element of the partial result, what is read)` for `cols` columns of every row.
    fn map(
        &mut self,
        dst: BufId,
        cols: i64,
        (tensor, part): (TensorId, ExprId),
        reads: &[(BufId, Access)],
        f: impl FnOnce(&mut Pool, ExprId, &[ExprId]) -> ExprId,
    ) -> Stmt {
        let ([b, h, _], row0, rows) = (self.at, self.row0, self.rows);
        let tensor_has_columns = self.builder.program.tensors[tensor.0 as usize].shape.len() == 5;
        let pool = self.pool();
        let (row, col) = (pool.add_var("r", Ty::Int), pool.add_var("c", Ty::Int));
        let (r, c) = (pool.var(row), pool.var(col));
        let at = pool.add(row0, r);
        let mut index = vec![b, h, part, at];
        if tensor_has_columns {
            index.push(c);
        }
        let element = pool.load(tensor, index, Ty::Float);
        let vars: Vec<VarId> = reads.iter().map(|_| pool.add_var("x", Ty::Float)).collect();
        let values: Vec<ExprId> = vars.iter().map(|v| pool.var(*v)).collect();
        let value = f(pool, element, &values);
        let cols = pool.int(cols);
        let reads = vars.into_iter().zip(reads).map(|(v, (buf, access))| (v, *buf, *access)).collect();
        Stmt::Map { dst, rows, cols, row, col, reads, value }
    }

    fn over(&mut self, count: ExprId, body: impl FnOnce(&mut Self, ExprId) -> Vec<Stmt>) -> Stmt {
        let var = self.pool().add_var("p", Ty::Int);
        let (part, lo) = (self.pool().var(var), self.pool().int(0));
        Stmt::For { var, lo, hi: count, body: body(self, part) }
    }

    /// The largest of the partial values of each row, -inf of none.
    fn largest(&mut self, dst: BufId, tensor: TensorId, count: ExprId, body: &mut Vec<Stmt>) {
        body.push(Stmt::Fill { dst, value: f64::NEG_INFINITY });
        let step = self.over(count, |m, part| {
            vec![m.map(dst, 1, (tensor, part), &[(dst, Access::Tile)], |pool, x, old| pool.max(old[0], x))]
        });
        body.push(step);
    }

    /// `sum = sum_p w_p`, `acc = sum_p w_p o_p` with `w_p = exp(lse_p - top)`, 0 of a run without a key.
    fn weighted(
        &mut self,
        acc: BufId,
        (top, sum): (BufId, BufId),
        (parts, lse): (&Parts, TensorId),
        d: i64,
        body: &mut Vec<Stmt>,
    ) {
        let factor = self.buffer("factor", 1);
        body.push(Stmt::Fill { dst: sum, value: 0.0 });
        let step = self.over(parts.count, |m, part| {
            let weigh = m.map(factor, 1, (lse, part), &[(top, Access::Tile)], |pool, x, top| {
                let (none, zero) = (pool.float(f64::NEG_INFINITY), pool.float(0.0));
                let below = pool.sub(x, top[0]);
                let weight = pool.unary(UnaryOp::Exp, below);
                let empty = pool.eq(x, none);
                pool.select(empty, zero, weight)
            });
            let reads = [(sum, Access::Tile), (factor, Access::Tile)];
            let add = m.map(sum, 1, (lse, part), &reads, |pool, _, x| pool.add(x[0], x[1]));
            let reads = [(acc, Access::Tile), (factor, Access::Row)];
            let rows = m.map(acc, d, (parts.o, part), &reads, |pool, o, x| {
                let share = pool.mul(x[1], o);
                pool.add(x[0], share)
            });
            vec![weigh, add, rows]
        });
        body.push(step);
    }

    /// `acc = sum_p o_p`
    fn sum(&mut self, acc: BufId, parts: &Parts, d: i64, body: &mut Vec<Stmt>) {
        let step = self.over(parts.count, |m, part| {
            vec![m.map(acc, d, (parts.o, part), &[(acc, Access::Tile)], |pool, o, old| pool.add(old[0], o))]
        });
        body.push(step);
    }
}
