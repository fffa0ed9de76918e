//! Useful work: how many pairs the mask lets through, and the arithmetic that they need.
//!
//! Comes in: a problem, or for recurrences a kernel and its sizes. Goes out: an exact count, or nothing where it would
//! cost too much. For each row the mask analysis gives the hull of its keys; where every key of the hull is in the mask the row is
//! counted by its length, else the hull is evaluated key by key. A mask that does not depend on b or h is
//! counted once.

use attn_compiler::attn_ir::recur::RecurOp;
use attn_compiler::attn_ir::{Attention, Kernel, Origin};
use attn_compiler::ensure::analyze_mask;
use attn_compiler::expr::eval::{Env, Value};
use attn_compiler::expr::{ExprId, Op, Pool, TensorId, Ty, VarId};
use attn_compiler::host::View;
use attn_compiler::mask::TileBox;
use attn_compiler::mask::host::Tape;

use super::data::Scalars;
use super::problem::Problem;
use super::ui::Failure;

/// Most (row, key) cells that are evaluated one by one.
pub const MAX_CELLS: u64 = 1 << 29;

/// Scalars, the index variables of the current (b, h), and the tensors.
struct Bound<'a> {
    scalars: &'a Scalars,
    /// Those that the mask reads.
    views: Vec<Option<&'a View>>,
    zeros: Vec<Value>,
    fixed: [(VarId, i64); 2],
}

impl Env for Bound<'_> {
    fn var(&self, var: VarId) -> Value {
        match self.fixed.iter().find(|(v, _)| *v == var) {
            Some((_, value)) => Value::Int(*value),
            None => self.scalars.var(var),
        }
    }

    fn load(&self, tensor: TensorId, index: &[i64]) -> Value {
        let at = tensor.0 as usize;
        self.views[at].and_then(|view| view.get(index)).unwrap_or(self.zeros[at])
    }
}

/// Pairs (b, h, i, j) in the mask; `None` if counting them would take more than `max_cells` evaluations.
pub fn pairs(problem: &Problem, max_cells: u64) -> Result<Option<u64>, Failure> {
    let Some(attention) = problem.ir.attentions().next() else { return Ok(None) };
    let mut loads = tensors_read(&attention.pool, attention.mask);
    loads.extend(attention.lengths());
    if loads.iter().any(|&t| attention.tensor(t).origin != Origin::Host) {
        return Ok(None);
    }
    let inputs = problem.inputs_where(&|id| loads.contains(&id))?;
    let scalars = Scalars::new(&problem.ir, &inputs)?;
    let size = |id: ExprId| scalars.size(&attention.pool, id) as u64;
    let (batch, heads) = (size(attention.batch), attention.n_heads.max(0) as u64);
    let (seq_q, seq_k) = (size(attention.seq_q), size(attention.capacity()));
    let same = attention.lengths().is_empty();
    if let (Some(all), true) = (attention.pool.as_bool(attention.mask), same) {
        return Ok(Some(u64::from(all) * batch * heads * seq_q * seq_k));
    }
    if seq_q == 0 || seq_k == 0 {
        return Ok(Some(0));
    }
    let ix = attention.index;
    let pool = &attention.pool;
    let varies = |var: VarId| {
        [attention.mask, attention.seq_k, attention.offset].iter().any(|id| pool.depends_on(*id, &[var]))
    };
    let each = |var: VarId, n: u64| if varies(var) { (n, 1) } else { (1, n) };
    let ((n_b, times_b), (n_h, times_h)) = (each(ix.b, batch), each(ix.h, heads));
    let mut counter = Counter::new(attention, seq_q, seq_k);
    let mut views = Vec::new();
    for (n, t) in attention.tensors.iter().enumerate() {
        views.push(match loads.contains(&TensorId(n as u32)) {
            true => Some(inputs.tensor(&t.name, &scalars.shape(&attention.pool, &t.shape), t.dtype)?),
            false => None,
        });
    }
    let zeros = attention.tensors.iter().map(|t| zero(t.dtype.value_ty())).collect();
    let mut env = Bound { scalars: &scalars, views, zeros, fixed: [(ix.b, 0), (ix.h, 0)] };
    let (mut total, mut left) = (0, max_cells);
    for b in 0..n_b {
        for h in 0..n_h {
            env.fixed = [(ix.b, b as i64), (ix.h, h as i64)];
            let of = |id| attn_compiler::expr::eval::eval(pool, id, &env).int();
            let (keys, offset) = (of(attention.seq_k).clamp(0, seq_k as i64), of(attention.offset));
            match counter.count(&env, (keys, offset), &mut left) {
                Some(n) => total += n,
                None => return Ok(None),
            }
        }
    }
    Ok(Some(total * times_b * times_h))
}

/// The tensors whose elements an expression reads.
fn tensors_read(pool: &Pool, root: ExprId) -> Vec<TensorId> {
    let load = |id| if let Op::Load(t, ..) = pool.op(id) { Some(*t) } else { None };
    pool.reachable(&[root]).into_iter().filter_map(load).collect()
}

fn zero(ty: Ty) -> Value {
    match ty {
        Ty::Bool => Value::Bool(false),
        Ty::Int => Value::Int(0),
        Ty::Float => Value::Float(0.0),
    }
}

/// The tapes of one mask.
struct Counter {
    /// Lanes are rows: lowest key, highest key, whether all between are in the mask.
    rows: Tape,
    /// Lanes are keys: whether the pair is in the mask.
    cells: Tape,
    seq_q: u64,
    keys: Vec<i64>,
}

impl Counter {
    fn new(attention: &Attention, seq_q: u64, seq_k: u64) -> Counter {
        let ix = attention.index;
        let mut pool: Pool = attention.pool.clone();
        let analysis = analyze_mask(attention, &mut pool);
        let (i, first) = (pool.var(ix.i), pool.int(0));
        let last = pool.int(seq_k as i64 - 1);
        let whole = TileBox { i_lo: i, i_hi: i, j_lo: first, j_hi: last };
        let (lo, hi) = analysis.key_range(&mut pool, &whole);
        let full = analysis.must(&mut pool, &TileBox { j_lo: lo, j_hi: hi, ..whole });
        let cells = Tape::new(&pool, &[attention.mask], &[ix.i, ix.row], &[ix.j]);
        let rows = Tape::new(&pool, &[lo, hi, full], &[], &[ix.i, ix.row]);
        Counter { rows, cells, seq_q, keys: (0..seq_k as i64).collect() }
    }

    /// Pairs of one (b, h).
    fn count(&mut self, env: &Bound<'_>, (keys, offset): (i64, i64), left: &mut u64) -> Option<u64> {
        let row: Vec<i64> = (0..self.seq_q as i64).collect();
        let i: Vec<i64> = row.iter().map(|r| r + offset).collect();
        self.rows.bind(env);
        self.cells.bind(env);
        self.rows.run(&[], &[&i, &row], env);
        let mut total = 0;
        for lane in 0..row.len() {
            let (lo, hi) = (self.rows.get(0, lane).max(0), self.rows.get(1, lane).min(keys - 1));
            if lo > hi {
                continue;
            }
            let n = (hi - lo + 1) as u64;
            if self.rows.get(2, lane) != 0 {
                total += n;
                continue;
            }
            *left = left.checked_sub(n)?;
            self.cells.run(&[i[lane], row[lane]], &[&self.keys[lo as usize..=hi as usize]], env);
            total += (0..n as usize).filter(|&k| self.cells.get(0, k) != 0).count() as u64;
        }
        Some(total)
    }
}

/// Floating-point operations that the recurrences of a kernel need, step by step: for each state that is a matrix
/// 2 R C for each read and for each `outer` that is added to it, 2 R C for each product with it inside an update,
/// and R C for its decay; a row state counts R for each. Nothing without recurrences.
pub fn recurrence_flops(kernel: &Kernel, scalars: &Scalars) -> Option<f64> {
    let size = |id: ExprId| scalars.size(&kernel.pool, id) as f64;
    let mut total = None;
    for r in kernel.recurrences() {
        let times = r.batch.map_or(1.0, size) * r.heads.unwrap_or(1) as f64 * size(r.steps);
        let products = r.nodes.iter().map(|n| match n.op {
            RecurOp::Outer(..) => 2.0 * n.shape.len() as f64,
            RecurOp::VecMat(_, m) => 2.0 * r.node(m).shape.len() as f64,
            RecurOp::Dot(x, _) => 2.0 * r.node(x).shape.len() as f64,
            _ => 0.0,
        });
        let decays = r.states.iter().map(|s| s.shape.len() as f64);
        *total.get_or_insert(0.0) += times * (products.sum::<f64>() + decays.sum::<f64>());
    }
    total
}

/// Floating-point operations of the two products: 2 (D + Dv) for each pair, D summed over the dots.
pub fn flops(attention: &Attention, pairs: u64) -> f64 {
    let d: i64 = attention.dots.iter().map(|dot| attention.feature_dim(dot.x)).sum();
    pairs as f64 * 2.0 * (d + attention.feature_dim(attention.value)) as f64
}
