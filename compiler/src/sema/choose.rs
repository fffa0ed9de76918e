//! The steps of `select`: chosen queries and keys are gathered, chosen blocks become a conjunct of the mask.
//!
//! Comes in: an attention over all queries and keys, and what chooses among them. Goes out: the steps that choose, and
//! the attention over what was chosen. What holds: in the score and the mask `i` and `j` stay the positions that they
//! were; a gate of keys multiplies value rows, one of queries what `scatter` puts back. Not here: branches.

use crate::artifact::DType;
use crate::attn_ir::{
    Attention, Count, Derive, Fact, IndexVars, Output, OutputKind, RANK_ROWS, Rank, Rows, Step, TileOverride,
    Top, Weight,
};
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, UnaryOp, VarId};

use super::build::rows_of;
use super::choice::{KeyChoice, ListFact, RankFact, TopFact, Windows, windows_of};
use super::hir::{Expr, IndexVar, Kind, Type, find};
use super::instantiate::MaskClauses;
use super::lower::{Chosen, LowerError};
use super::turn::Steps;

type Result<T> = std::result::Result<T, LowerError>;

/// Chosen positions of a sequence.
#[derive(Clone, Copy)]
struct Picked {
    /// Ascending positions, i32 `[batch, count]` or `[count]`.
    indices: TensorId,
    /// Where each position stands.
    ranks: TensorId,
    count: ExprId,
    /// There is a choice for each batch entry.
    batched: bool,
}

impl Picked {
    /// The position of the n-th.
    fn at(self, pool: &mut Pool, b: ExprId, n: ExprId) -> ExprId {
        let index = if self.batched { vec![b, n] } else { vec![n] };
        pool.load(self.indices, index, Ty::Int)
    }
}

impl Steps<'_> {
    /// Applies the `select` clauses to an attention.
    pub fn choose(&mut self, a: &mut Attention, clauses: &mut MaskClauses) -> Result<()> {
        let choices = &self.kernel.choices;
        match &choices.keys {
            Some(KeyChoice::Listed(list)) => self.listed(list, a, clauses)?,
            Some(KeyChoice::Ranked(rank)) => self.ranked(rank, a, clauses)?,
            _ => {}
        }
        let ix = a.index;
        let mut subst = Vec::new();
        if let Some(top) = &choices.queries {
            let picked = self.top("chosen_i", top, a.seq_q, a)?;
            for n in 0..a.dots.len() {
                a.dots[n].x = self.gathered(a.dots[n].x, picked, None)?;
            }
            let pool = self.pool();
            let (b, n) = (pool.var(ix.b), pool.var(ix.i));
            let row = picked.at(pool, b, n);
            subst.extend([(ix.row, row), (ix.i, pool.add(row, a.offset))]);
            a.offset = pool.int(0);
            a.seq_q = picked.count;
            self.lower.chosen = Some(Chosen { count: picked.count, ranks: picked.ranks });
        }
        if let Some(KeyChoice::Top(top)) = &choices.keys {
            let picked = self.top("chosen_j", top, a.seq_k, a)?;
            for n in 0..a.dots.len() {
                a.dots[n].y = self.gathered(a.dots[n].y, picked, None)?;
            }
            a.value = self.gathered(a.value, picked, top.gate.as_ref())?;
            let pool = self.pool();
            let (b, n) = (pool.var(ix.b), pool.var(ix.j));
            subst.push((ix.j, picked.at(pool, b, n)));
            a.seq_k = picked.count;
        }
        let pool = self.pool();
        a.score = pool.substitute(a.score, &subst);
        a.mask = pool.substitute(a.mask, &subst);
        for clause in clauses {
            clause.2 = pool.substitute(clause.2, &subst);
        }
        Ok(())
    }

    /// The largest of a row over a sequence.
    fn top(&mut self, name: &str, top: &TopFact, seq: ExprId, a: &Attention) -> Result<Picked> {
        let batch = Some(a.batch).filter(|_| a.dots[0].x.batch.is_some());
        let tensors = &self.kernel.tensors;
        let reads_batch = find(&top.x, &mut |n| match &n.kind {
            Kind::Row(t, at) if at.is_empty() => (tensors[*t].shape.len() > 1).then_some(()),
            Kind::Index(IndexVar::B) => Some(()),
            _ => None,
        });
        let batch = batch.filter(|_| reads_batch.is_some());
        let lead: Vec<ExprId> = batch.into_iter().collect();
        let with = |n: ExprId| lead.iter().copied().chain([n]).collect::<Vec<_>>();
        let [b, _, s, ..] = self.axes;
        let source = match &top.x.kind {
            Kind::Row(t, at) if at.is_empty() => match self.lower.ids[*t] {
                Some(id) => id,
                None => {
                    let message = format!("`{}` is ranked and cannot be absent", tensors[*t].name);
                    return Err(LowerError { span: top.span, message });
                }
            },
            _ => {
                let at = self.lower.pool.var(s);
                let value = self.along(&top.x, at)?;
                let node = self.lower.pool.var(b);
                let value = self.lower.pool.substitute(value, &[(self.lower.index.b, node)]);
                let out = self.declare("ranked", DType::F32, with(seq), Fact::None);
                let index = batch.map(|_| b).into_iter().chain([s]).collect();
                let checks = vec![value];
                self.steps.push(Step::Derive(Derive {
                    out,
                    index,
                    sum: vec![],
                    value,
                    at_bind: false,
                    checks,
                }));
                out
            }
        };
        let wanted = self.lower.expr(&top.n)?;
        let pool = self.pool();
        let zero = pool.int(0);
        let most = pool.min(wanted, seq);
        let count = pool.max(most, zero);
        let indices = self.declare(name, DType::I32, with(count), Fact::Sorted);
        let ranks = self.declare(&format!("{name}_ranks"), DType::I32, with(seq), Fact::None);
        self.steps.push(Step::Top(Top { source, count: wanted, indices, ranks }));
        Ok(Picked { indices, ranks, count, batched: batch.is_some() })
    }

    /// The chosen rows of a tensor, times a gate.
    fn gathered(&mut self, rows: Rows, picked: Picked, gate: Option<&Expr>) -> Result<Rows> {
        let mut shape = self.shape(rows.tensor).to_vec();
        shape[rows.seq] = picked.count;
        let [b, h, s, x, _] = self.axes;
        let axis = |d: usize| match d {
            d if Some(d) == rows.batch => b,
            d if Some(d) == rows.head => h,
            d if d == rows.seq => s,
            _ => x,
        };
        let index: Vec<VarId> = (0..shape.len()).map(axis).collect();
        let batch = self.lower.pool.var(b);
        let pool = self.pool();
        let n = pool.var(s);
        let from = picked.at(pool, batch, n);
        let mut at: Vec<ExprId> = index.iter().map(|v| pool.var(*v)).collect();
        at[rows.seq] = from;
        let mut value = pool.load(rows.tensor, at, Ty::Float);
        if let Some(gate) = gate {
            let gate = self.along(gate, from)?;
            let gate = self.lower.pool.substitute(gate, &[(self.lower.index.b, batch)]);
            value = self.pool().binary(BinaryOp::Mul, value, gate);
        }
        let same = self.steps.iter().find_map(|step| match step {
            Step::Derive(d) if d.value == value && d.index == index && d.sum.is_empty() => Some(d.out),
            _ => None,
        });
        let tensor = match same.filter(|&t| self.shape(t) == shape) {
            Some(tensor) => tensor,
            None => {
                let name = format!("{}_chosen", self.tensors[rows.tensor.0 as usize].name);
                let out = self.declare(&name, DType::F32, shape, Fact::None);
                let checks = vec![];
                self.steps.push(Step::Derive(Derive {
                    out,
                    index,
                    sum: vec![],
                    value,
                    at_bind: false,
                    checks,
                }));
                out
            }
        };
        Ok(Rows { tensor, ..rows })
    }

    /// The number of a row over a sequence that stands at `at`.
    pub fn along(&mut self, e: &Expr, at: ExprId) -> Result<ExprId> {
        match &e.kind {
            _ if !matches!(e.ty, Type::Row(_)) => self.lower.expr(e),
            Kind::Row(t, index) if index.is_empty() => {
                let Some(id) = self.lower.ids[*t] else { return Ok(self.pool().float(0.0)) };
                let b = self.lower.pool.var(self.lower.index.b);
                let at = if self.shape(id).len() > 1 { vec![b, at] } else { vec![at] };
                Ok(self.pool().load(id, at, Ty::Float))
            }
            Kind::Row(..) => self.lower.element(e, at),
            Kind::Unary(op, x) => {
                let x = self.along(x, at)?;
                Ok(self.pool().unary(*op, x))
            }
            Kind::Binary(op, x, y) => {
                let (x, y) = (self.along(x, at)?, self.along(y, at)?);
                Ok(self.pool().binary(*op, x, y))
            }
            Kind::Select(c, x, y) => {
                let c = self.lower.expr(c)?;
                let (x, y) = (self.along(x, at)?, self.along(y, at)?);
                Ok(self.pool().select(c, x, y))
            }
            _ => Err(LowerError { span: e.span, message: "this is not one number for each position".into() }),
        }
    }

    /// Blocks that the host lists: a multiset, so each pair counts as often as its block is named.
    fn listed(&mut self, list: &ListFact, a: &mut Attention, clauses: &mut MaskClauses) -> Result<()> {
        let fact = &self.kernel.tensors[list.tensor];
        let Some(lists) = self.lower.ids[list.tensor] else {
            let message = format!("`{}` says which keys are seen and cannot be absent", fact.name);
            return Err(LowerError { span: list.span, message });
        };
        let name = fact.name.clone();
        let shape = self.shape(lists).to_vec();
        let rank = shape.len();
        let (ix, size) = (a.index, list.size);
        let row = self.lower.query_var();
        let pool = self.pool();
        let (row, j, size_node) = (pool.var(row), pool.var(ix.j), pool.int(size));
        let by_row = shape[rank - 2] == a.seq_q;
        let line = if by_row { row } else { pool.idiv(row, size_node) };
        let needed = if by_row { a.seq_q } else { pool.ceil_div(a.seq_q, size) };
        let enough = pool.le(needed, shape[rank - 2]);
        let mut index = Vec::new();
        if rank == 4 {
            index.push(pool.var(ix.b));
        }
        if rank >= 3 {
            let own = pool.as_int(shape[rank - 3]) == Some(a.n_heads);
            index.push(if own { pool.var(ix.h) } else { a.kv_head });
        }
        index.extend([line, pool.idiv(j, size_node)]);
        let blocks = pool.ceil_div(a.seq_k, size);
        let counts_shape: Vec<ExprId> = shape[..rank - 1].iter().copied().chain([blocks]).collect();
        let out = self.declare(&format!("{name}_counts"), DType::I32, counts_shape.clone(), Fact::None);
        self.steps.push(Step::Count(Count { lists, out, enough }));
        let pool = self.pool();
        let zero = pool.int(0);
        let count = pool.load(out, index.clone(), Ty::Int);
        let named = pool.lt(zero, count);
        a.score = match a.weight {
            Weight::Softmax { .. } => {
                let logs = self.logs_of(out, &name, counts_shape);
                let pool = self.pool();
                let log = pool.load(logs, index, Ty::Float);
                pool.add(a.score, log)
            }
            _ => {
                let times = pool.unary(UnaryOp::ToFloat, count);
                pool.mul(a.score, times)
            }
        };
        a.mask = self.pool().and(a.mask, named);
        clauses.push((list.text.clone(), list.span, named));
        Ok(())
    }

    /// Natural logs of counts, -inf of 0.
    fn logs_of(&mut self, counts: TensorId, name: &str, shape: Vec<ExprId>) -> TensorId {
        let vars: Vec<VarId> = shape.iter().map(|_| self.lower.pool.add_var("at", Ty::Int)).collect();
        let pool = self.pool();
        let at = vars.iter().map(|v| pool.var(*v)).collect();
        let count = pool.load(counts, at, Ty::Int);
        let count = pool.unary(UnaryOp::ToFloat, count);
        let value = pool.unary(UnaryOp::Log, count);
        let out = self.declare(&format!("{name}_logs"), DType::F32, shape, Fact::None);
        let (index, sum, checks) = (vars, vec![], vec![]);
        self.steps.push(Step::Derive(Derive { out, index, sum, value, at_bind: false, checks }));
        out
    }

    /// Blocks of largest pooled score.
    fn ranked(&mut self, rank: &RankFact, a: &mut Attention, clauses: &mut MaskClauses) -> Result<()> {
        let ix = a.index;
        let mut dots = Vec::new();
        for dot in &rank.dots {
            let x = self.row_tensor("ranking_rows", &dot.x_row, dot.x, true)?;
            let y = self.row_tensor("window_rows", &dot.y_row, dot.y, false)?;
            let var = self.lower.pool.add_var("pooled", Ty::Float);
            self.lower.dots.push((dot.clone(), var));
            dots.push(crate::attn_ir::Dot { x: rows_of(dot.x, x), y: rows_of(dot.y, y), var });
        }
        let score = self.lower.expr(&rank.score)?;
        let key = rank.dots[0].y;
        let Some(windows) = windows_of(&self.kernel.made, key.tensor) else {
            return Err(LowerError { span: rank.span, message: "these keys are no windows".into() });
        };
        let n_windows = self.shape(dots[0].y.tensor)[key.seq];
        let count = self.lower.expr(&rank.n)?;
        let seen = seen(self.pool(), a.mask, ix.j, windows).ok_or_else(|| LowerError {
            span: rank.span,
            message: format!("whether {} keys are all visible cannot be written out", windows.block),
        })?;
        let mut value = score;
        if rank.softmax {
            value = self.probability(a, &dots, score, seen, n_windows);
        }
        let (groups, group) =
            if rank.share { (a.n_kv_heads, a.kv_head) } else { (a.n_heads, self.lower.pool.var(ix.h)) };
        let pool = self.pool();
        let blocks = pool.ceil_div(a.seq_k, rank.size);
        let (n_groups, tiles) = (pool.int(groups), pool.ceil_div(a.seq_q, RANK_ROWS));
        let (i, j, size) = (pool.var(ix.i), pool.var(ix.j), pool.int(rank.size));
        let mut keep = pool.bool(false);
        if rank.first {
            let zero = pool.int(0);
            keep = pool.eq(j, zero);
        }
        if rank.current {
            let own = pool.idiv(i, size);
            let own = pool.eq(j, own);
            keep = pool.or(keep, own);
        }
        let out =
            self.declare("chosen_blocks", DType::Bit, vec![a.batch, n_groups, a.seq_q, blocks], Fact::None);
        let any =
            self.declare("chosen_by_tile", DType::Bit, vec![a.batch, n_groups, tiles, blocks], Fact::None);
        self.steps.push(Step::Rank(Box::new(Rank {
            index: ix,
            batch: a.batch,
            n_heads: a.n_heads,
            groups,
            group,
            seq_q: a.seq_q,
            offset: a.offset,
            dots,
            kv_head: a.kv_head,
            windows: n_windows,
            stride: windows.stride,
            size: rank.size,
            value,
            seen,
            sum: rank.softmax,
            keep,
            count,
            out,
            any,
        })));
        let row = self.lower.query_var();
        let pool = self.pool();
        let (b, row, of, by) = (pool.var(ix.b), pool.var(row), pool.idiv(j, size), pool.int(RANK_ROWS));
        let tile = pool.idiv(row, by);
        let some = pool.load(any, vec![b, group, tile, of], Ty::Bool);
        let own = pool.load(out, vec![b, group, row, of], Ty::Bool);
        let chosen = pool.and(some, own);
        a.mask = pool.and(a.mask, chosen);
        clauses.push((rank.text.clone(), rank.span, chosen));
        Ok(())
    }

    /// The probability of a window among all that the query sees.
    fn probability(
        &mut self,
        a: &Attention,
        dots: &[crate::attn_ir::Dot],
        score: ExprId,
        seen: ExprId,
        windows: ExprId,
    ) -> ExprId {
        let query = a.dots[0].x;
        let mut shape = self.shape(query.tensor).to_vec();
        shape.remove(query.feature);
        let out = self.declare("windows_lse", DType::F32, shape, Fact::None);
        let mut own = |name: &str| self.lower.pool.add_var(name, Ty::Int);
        let index = IndexVars { b: own("b"), h: own("h"), i: own("i"), j: own("j"), row: own("row") };
        let pool = self.pool();
        let ix = a.index;
        let pairs = [(ix.b, index.b), (ix.h, index.h), (ix.i, index.i), (ix.j, index.j), (ix.row, index.row)];
        let subst = pairs.map(|(from, to)| (from, pool.var(to)));
        let lse = Attention {
            name: format!("{}.windows", a.name),
            index,
            kv_head: pool.substitute(a.kv_head, &subst),
            seq_k: windows,
            dots: dots.to_vec(),
            score: pool.substitute(score, &subst),
            mask: pool.substitute(seen, &subst),
            weight: Weight::Softmax { sink: None },
            value: dots[0].y,
            outputs: vec![Output {
                name: self.tensors[out.0 as usize].name.clone(),
                kind: OutputKind::Lse,
                dtype: DType::F32,
            }],
            tiles: TileOverride::default(),
            dropout: None,
            ..a.clone()
        };
        self.steps.push(Step::Attend(Box::new(lse)));
        let zero = self.pool().int(0);
        let roles = super::model::RowsFact {
            tensor: 0,
            batch: query.batch,
            head: query.head,
            seq: query.seq,
            feature: query.feature,
        };
        let mut at = self.lower.row_index(roles, true, zero);
        at.remove(query.feature);
        let pool = self.pool();
        let lse = pool.load(out, at, Ty::Float);
        let below = pool.sub(score, lse);
        pool.unary(UnaryOp::Exp, below)
    }
}

/// Most positions that are written out one by one.
const MOST_WRITTEN: i64 = 1024;

/// The mask of window `j`: every key of it is visible. Conjuncts that are intervals of keys are asked at both ends,
/// any other one at every key.
fn seen(pool: &mut Pool, mask: ExprId, j: VarId, windows: Windows) -> Option<ExprId> {
    let (stride, w) = (pool.int(windows.stride), pool.var(j));
    let first = pool.mul(w, stride);
    let mut all = pool.bool(true);
    for clause in conjuncts(pool, mask) {
        let asked = match pool.depends_on(clause, &[j]) {
            false => vec![0],
            true if is_interval(pool, clause, j) => vec![0, windows.block - 1],
            true if windows.block <= MOST_WRITTEN => (0..windows.block).collect(),
            true => return None,
        };
        for t in asked {
            let at = pool.add_int(first, t);
            let here = pool.substitute(clause, &[(j, at)]);
            all = pool.and(all, here);
        }
    }
    Some(all)
}

fn conjuncts(pool: &Pool, mask: ExprId) -> Vec<ExprId> {
    match *pool.op(mask) {
        Op::Binary(BinaryOp::And, a, b) => [conjuncts(pool, a), conjuncts(pool, b)].concat(),
        _ => vec![mask],
    }
}

/// True of comparisons of forms that are linear in j: what satisfies them is an interval.
fn is_interval(pool: &Pool, clause: ExprId, j: VarId) -> bool {
    match *pool.op(clause) {
        Op::Binary(BinaryOp::Lt | BinaryOp::Le | BinaryOp::Eq, a, b) => {
            pool.ty(a) == Ty::Int && is_linear(pool, a, j) && is_linear(pool, b, j)
        }
        _ => false,
    }
}

fn is_linear(pool: &Pool, id: ExprId, j: VarId) -> bool {
    if !pool.depends_on(id, &[j]) {
        return true;
    }
    match *pool.op(id) {
        Op::Var(_) => true,
        Op::Unary(UnaryOp::Neg, x) => is_linear(pool, x, j),
        Op::Binary(BinaryOp::Add | BinaryOp::Sub, a, b) => is_linear(pool, a, j) && is_linear(pool, b, j),
        Op::Binary(BinaryOp::Mul, a, b) => {
            (is_linear(pool, a, j) && !pool.depends_on(b, &[j]))
                || (is_linear(pool, b, j) && !pool.depends_on(a, &[j]))
        }
        _ => false,
    }
}
