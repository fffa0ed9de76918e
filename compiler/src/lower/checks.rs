//! What must be proved when arguments are bound: every index in range, every divisor not zero.
//!
//! Comes in: an attention after tabulation, or a derived tensor. Goes out: one [`BindCheck`] for each indexed dim of an input and each
//! divisor that is not a constant, over the attention's own index variables with their intervals. The runtime
//! proves them by interval arithmetic from the actual lengths, parameters and table contents.

use crate::artifact::{BindCheck, ContentDemand};
use crate::attn_ir::recur::{RecurOp, Recurrence};
use crate::attn_ir::{Attention, Count, Demand, Derive, Rank, Top, Weight};
use crate::expr::print::print;
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, VarId};
use crate::tile_ir::{Program, TensorDecl, TensorKind};

use super::guards;

/// Checks, and the interval of each index variable.
#[derive(Clone, Debug)]
pub struct Checks {
    /// In order of first occurrence.
    pub checks: Vec<BindCheck>,
    /// (variable, lowest, highest)
    pub vars: Vec<(VarId, ExprId, ExprId)>,
    /// What the elements of made tensors are, each as a variable.
    made: Vec<(TensorId, VarId)>,
    /// What contents must fulfil.
    pub demands: Vec<ContentDemand>,
}

impl Checks {
    /// Nothing to be proved.
    pub fn none() -> Checks {
        Checks { checks: Vec::new(), vars: Vec::new(), made: Vec::new(), demands: Vec::new() }
    }

    /// Adds what a kernel demands of the contents of its tensors.
    pub fn add_demands(&mut self, demands: &[Demand]) {
        self.demands.extend(demands.iter().cloned().map(|d| match d {
            Demand::Within { tensor, lo, hi } => ContentDemand::Within { tensor, lo, hi },
            Demand::Pages { table, len, size, pool, written } => {
                ContentDemand::Pages { table, len, size, pool, written }
            }
        }));
    }

    /// Adds the checks of the score, the mask and the sink.
    pub fn add_attention(&mut self, attn: &Attention, pool: &mut Pool, tensors: &[TensorDecl]) {
        // A masked pair loads nothing for the score.
        let mut roots = vec![(attn.score, Some(attn.mask)), (attn.mask, None)];
        if let Weight::Softmax { sink: Some(sink) } = attn.weight {
            roots.push((sink, None));
        }
        let roots = self.with_made(pool, &roots);
        self.checks.extend(of(pool, &roots, tensors));
        self.vars.extend(intervals(attn, pool));
    }

    /// Adds the checks of the rows and numbers of a recurrence.
    pub fn add_recurrence(&mut self, r: &Recurrence, pool: &mut Pool, tensors: &[TensorDecl]) {
        let zero = pool.int(0);
        let n_heads = pool.int(r.heads.unwrap_or(1));
        let one = pool.int(1);
        for node in &r.nodes {
            let (value, length) = match node.op {
                RecurOp::Scalar(e) | RecurOp::Map { value: e, .. } => (e, 1),
                RecurOp::Row(e) => (e, node.shape.len() as i64),
                _ => continue,
            };
            if of(pool, &[(value, None)], tensors).is_empty() {
                continue;
            }
            let length = pool.int(length);
            let extents = [r.batch.unwrap_or(one), n_heads, r.steps, length];
            let mut own = Vec::new();
            for (var, extent) in [r.vars.b, r.vars.h, r.vars.t, r.vars.x].into_iter().zip(extents) {
                let fresh = pool.add_var("at", Ty::Int);
                own.push((var, pool.var(fresh)));
                self.vars.push((fresh, zero, pool.add_int(extent, -1)));
            }
            let root = pool.substitute(value, &own);
            self.checks.extend(of(pool, &[(root, None)], tensors));
        }
    }

    /// Loads of made index tensors as variables of known intervals.
    fn with_made(&self, pool: &mut Pool, roots: &[Guarded]) -> Vec<Guarded> {
        let known = |pool: &mut Pool, id: ExprId| {
            let Op::Load(t, ..) = pool.op(id) else { return None };
            let var = self.made.iter().find(|(made, _)| made == t)?.1;
            Some(pool.var(var))
        };
        let mut seen = |r: ExprId| pool.rewrite(r, &mut |pool, id| known(pool, id));
        roots.iter().map(|&(r, guard)| (seen(r), guard.map(&mut seen))).collect()
    }

    /// Says that the elements of a made tensor lie in `lo..=hi`.
    fn made_within(&mut self, tensor: TensorId, lo: ExprId, hi: ExprId, program: &mut Program) {
        let name = format!("{}.element", program.tensors[tensor.0 as usize].name);
        let var = program.pool.add_var(&name, Ty::Int);
        self.vars.push((var, lo, hi));
        self.made.push((tensor, var));
    }

    /// What a choice of the largest gives.
    pub fn add_top(&mut self, top: &Top, program: &mut Program) {
        let last = |program: &mut Program, t: TensorId| {
            let n = program.tensors[t.0 as usize].shape.last().copied();
            n.map(|n| program.pool.add_int(n, -1))
        };
        let (zero, none) = (program.pool.int(0), program.pool.int(-1));
        let (last_source, last_chosen) = (last(program, top.source), last(program, top.indices));
        if let (Some(source), Some(chosen)) = (last_source, last_chosen) {
            self.made_within(top.indices, zero, source, program);
            self.made_within(top.ranks, none, chosen, program);
        }
    }

    /// What lists name exists.
    pub fn add_count(&mut self, count: &Count, program: &mut Program) {
        let shape = program.tensors[count.lists.0 as usize].shape.clone();
        let name = program.tensors[count.lists.0 as usize].name.clone();
        let zero = program.pool.int(0);
        let mut index = Vec::new();
        for &n in &shape {
            let var = program.pool.add_var("at", Ty::Int);
            self.vars.push((var, zero, program.pool.add_int(n, -1)));
            index.push(program.pool.var(var));
        }
        let entry = program.pool.load(count.lists, index, Ty::Int);
        let index = program.pool.max(entry, zero);
        let dim = shape.len() - 1;
        self.checks.push(BindCheck::Index { tensor: count.out, dim, index, text: name });
    }

    /// Adds the checks of the value and of what is seen.
    pub fn add_rank(&mut self, rank: &Rank, program: &mut Program) {
        let pool = &mut program.pool;
        let zero = pool.int(0);
        let ix = rank.index;
        let most = [
            (ix.b, pool.add_int(rank.batch, -1)),
            (ix.h, pool.int(rank.n_heads - 1)),
            (ix.row, pool.add_int(rank.seq_q, -1)),
            (ix.j, pool.add_int(rank.windows, -1)),
        ];
        let mut own = Vec::new();
        for (var, hi) in most {
            let fresh = pool.add_var("at", Ty::Int);
            self.vars.push((fresh, zero, hi));
            own.push((var, pool.var(fresh)));
        }
        let row = own[2].1;
        own.push((ix.i, pool.add(row, rank.offset)));
        let roots = [rank.value, rank.seen].map(|e| (pool.substitute(e, &own), None));
        let roots = self.with_made(pool, &roots);
        self.checks.extend(of(pool, &roots, &program.tensors));
    }

    /// Adds the checks of a derived tensor of this shape.
    pub fn add_derived(&mut self, d: &Derive, shape: &[ExprId], pool: &mut Pool, tensors: &[TensorDecl]) {
        let unguarded = |x: &ExprId| (*x, None);
        if of(pool, &d.checks.iter().map(unguarded).collect::<Vec<_>>(), tensors).is_empty() {
            return;
        }
        // Derived tensors share their variables: here each has its own interval.
        let zero = pool.int(0);
        let mut own = Vec::new();
        let summed = d.sum.iter().copied();
        for (var, extent) in d.index.iter().copied().zip(shape.iter().copied()).chain(summed) {
            let fresh = pool.add_var("at", Ty::Int);
            own.push((var, pool.var(fresh)));
            self.vars.push((fresh, zero, pool.add_int(extent, -1)));
        }
        let roots: Vec<_> = d.checks.iter().map(|&c| (pool.substitute(c, &own), None)).collect();
        let roots = self.with_made(pool, &roots);
        self.checks.extend(of(pool, &roots, tensors));
    }
}

/// An expression, and the condition under which alone it is evaluated.
type Guarded = (ExprId, Option<ExprId>);

/// The checks of some expressions, each evaluated only where a condition holds: loads of bound tensors, divisors.
fn of(pool: &mut Pool, roots: &[Guarded], tensors: &[TensorDecl]) -> Vec<BindCheck> {
    let name = |t: TensorId| tensors[t.0 as usize].name.clone();
    let bound = |t: TensorId| {
        // Tables are as large as what indexes them; everything else is checked.
        matches!(tensors[t.0 as usize].kind, TensorKind::Input | TensorKind::Updated | TensorKind::Workspace)
    };
    let proofs = guards::prove(pool, roots, &|t| tensors[t.0 as usize].shape.clone());
    let mut checks = Vec::new();
    for id in pool.reachable(&roots.iter().map(|r| r.0).collect::<Vec<_>>()) {
        match pool.op(id).clone() {
            Op::Load(tensor, index, _) if bound(tensor) => {
                let text = print(pool, id, &name);
                for (dim, &at) in index.iter().enumerate() {
                    let (low, high) = proofs.get(&id).map_or((false, false), |p| p[dim]);
                    if low && high {
                        continue;
                    }
                    let index = cut(pool, at, (low, high), tensors[tensor.0 as usize].shape[dim]);
                    checks.push(BindCheck::Index { tensor, dim, index, text: text.clone() });
                }
            }
            Op::Binary(BinaryOp::IDiv | BinaryOp::Mod, _, divisor)
                if pool.as_int(divisor).is_none_or(|c| c == 0) =>
            {
                checks.push(BindCheck::Divisor { divisor, text: print(pool, id, &name) });
            }
            _ => {}
        }
    }
    checks
}

/// The index where it is not proved by guards: cut at the ends at which it is.
fn cut(pool: &mut Pool, index: ExprId, (low, high): (bool, bool), size: ExprId) -> ExprId {
    let zero = pool.int(0);
    if low {
        return pool.max(index, zero);
    }
    if high {
        let last = pool.add_int(size, -1);
        return pool.min(index, last);
    }
    index
}

/// The interval of each index variable of an attention.
pub fn intervals(attn: &Attention, pool: &mut Pool) -> Vec<(VarId, ExprId, ExprId)> {
    let zero = pool.int(0);
    let b_hi = pool.add_int(attn.batch, -1);
    let h_hi = pool.int(attn.n_heads - 1);
    let row_hi = pool.add_int(attn.seq_q, -1);
    let i_hi = pool.add(attn.offset, row_hi);
    let j_hi = pool.add_int(attn.seq_k, -1);
    let ix = attn.index;
    vec![
        (ix.b, zero, b_hi),
        (ix.h, zero, h_hi),
        (ix.i, attn.offset, i_hi),
        (ix.j, zero, j_hi),
        (ix.row, zero, row_hi),
    ]
}
