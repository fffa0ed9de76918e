//! The steps of a kernel made of branches: the attention of each branch, then what `return` makes of their rows.
//!
//! Comes in: a checked kernel of branches, its dims, params and inputs bound in a pool. Goes out: the
//! [`attn_ir::Kernel`]. What holds: each branch has index variables of its own; a branch that is returned alone writes
//! the output itself, any other one a made tensor in f32; `merge` weighs rows by `exp(lse - max lse)`, so that a
//! partial result without keys counts nothing and rows without keys are 0 (math.md 2.10). Not here: the attention
//! (`build.rs`), selections (`choose.rs`).

use crate::artifact::DType;
use crate::attn_ir::{self, Derive, Fact, Origin, Output, OutputKind, Step};
use crate::diagnostic::Code;
use crate::expr::{BinaryOp, ExprId, Op, TensorId, Ty, UnaryOp};

use super::build::{self, Bound};
use super::choice::BranchFact;
use super::hir::{Expr, Kind, find};
use super::instantiate::{CompileError, Instance, PlanKey, Result, prepare_in, row_at, unsupported};
use super::lower::{Lower, LowerError};
use super::model::*;
use super::turn::{RowVars, Steps};

/// What a branch has made.
#[derive(Clone)]
pub(crate) struct Made {
    /// Its rows; those of the chosen queries where queries are chosen.
    pub rows: TensorId,
    /// Roles of the rows' dims.
    pub roles: RowsFact,
    /// Their lse, if it is merged.
    pub lse: Option<TensorId>,
    /// Where each query stands among the chosen ones.
    pub ranks: Option<TensorId>,
    /// Factor of a chosen query's row.
    pub gate: Option<Expr>,
}

/// The kernel as one of its branches sees it.
fn seen_by(kernel: &CheckedKernel, branch: &BranchFact) -> CheckedKernel {
    CheckedKernel {
        body: branch.body.clone(),
        align: branch.align.clone(),
        heads: branch.heads.clone(),
        mask_clauses: branch.mask_clauses.clone(),
        row_ops: branch.row_ops.clone(),
        made: branch.made.clone(),
        choices: branch.choices.clone(),
        outputs: branch.outputs.clone(),
        branches: Vec::new(),
        ..kernel.clone()
    }
}

/// Leaves each branch the operations on rows that it reads.
fn own_row_ops(kernel: &CheckedKernel, views: &mut [CheckedKernel]) -> Result<()> {
    let mut read = std::collections::HashSet::new();
    for view in views.iter_mut() {
        let at = row_at(view);
        view.row_ops.retain(|op| at[op.tensor].is_some());
        read.extend(view.row_ops.iter().map(|op| op.tensor));
    }
    let all = kernel.branches.iter().flat_map(|b| &b.row_ops);
    match all.into_iter().find(|op| !read.contains(&op.tensor)) {
        Some(op) => {
            let message = format!("nothing reads the rows of `{}`", kernel.tensors[op.tensor].name);
            Err(LowerError { span: op.span, message }.into())
        }
        None => Ok(()),
    }
}

/// The kernel of several branches.
pub(crate) fn branches(
    kernel: &CheckedKernel,
    key: &PlanKey,
    lower: Lower<'_>,
    bound: Bound,
) -> Result<Instance> {
    if key.shard.is_some() {
        let nearest = "distribute each branch as a kernel of its own";
        return Err(unsupported(key, kernel.span, "branches over a ring", nearest));
    }
    if let Some(cache) = kernel.caches.first() {
        return Err(unsupported(
            key,
            cache.span,
            "a cache beside branches",
            "one attention without branches",
        ));
    }
    let mut views: Vec<CheckedKernel> = kernel.branches.iter().map(|b| seen_by(kernel, b)).collect();
    own_row_ops(kernel, &mut views)?;
    let bodies: Vec<&Body> = views.iter().filter_map(|v| v.body.as_ref()).collect();
    let Bound { params, dims, tensors } = bound;
    let ids = lower.ids.clone();
    let mut steps = build::start(kernel, lower, tensors, key.target.family());
    for output in &kernel.outputs {
        same_heads(&mut steps, kernel, &bodies, output)?;
        declare_output(&mut steps, key, &bodies, output)?;
    }
    let (mut roles, mut clauses) = (Vec::new(), Vec::new());
    for (n, view) in views.iter().enumerate() {
        let fact = &kernel.branches[n];
        enter(&mut steps, view, &ids);
        let name = format!("{}.{}", kernel.name, fact.name);
        let (alone, merged) = (returned_alone(kernel, n), is_merged(kernel, n));
        let mut made = None;
        let own = build::attend(&mut steps, bodies[n], name.clone(), &mut |steps| {
            let (made_here, outputs, epilogues) = results(steps, fact, bodies[n], alone.as_deref(), merged)?;
            made = Some(made_here);
            Ok((outputs, epilogues))
        })?;
        steps.branches.extend(made);
        roles.extend(build::roles(view, &steps.lower, bodies[n]));
        clauses.push((name, own));
    }
    for output in &kernel.outputs {
        let OutputHir::Combined { value, of, .. } = &output.kind else { continue };
        let n = steps.tensors.iter().position(|t| t.name == output.name && t.origin == Origin::Output);
        let (Some(n), None) = (n, alone_of(kernel, output)) else { continue };
        enter(&mut steps, &views[*of], &ids);
        place(&mut steps, bodies[*of])?;
        let shape = steps.tensors[n].shape.clone();
        build::epilogue(&mut steps, value, None, bodies[*of].dots[0].x, &shape, TensorId(n as u32))?;
    }
    steps.kernel = kernel;
    Ok(build::finish(steps, params, dims, roles, clauses))
}

/// Names of a branch over the pool so far.
fn enter<'k>(steps: &mut Steps<'k>, view: &'k CheckedKernel, ids: &[Option<TensorId>]) {
    let pool = std::mem::take(&mut steps.lower.pool);
    let mut lower = prepare_in(view, pool);
    lower.dims = std::mem::take(&mut steps.lower.dims);
    lower.params = std::mem::take(&mut steps.lower.params);
    lower.ids = ids.to_vec();
    lower.rows = ids.to_vec();
    steps.lower = lower;
    steps.kernel = view;
}

/// `i - row` of a branch whose results are combined.
fn place(steps: &mut Steps<'_>, body: &Body) -> Result<()> {
    let (x, y) = (body.dots[0].x, body.dots[0].y);
    let tensors = &steps.kernel.tensors;
    let seq_q = steps.lower.expr(&tensors[x.tensor].shape[x.seq].expr)?;
    let seq_k = steps.lower.expr(&tensors[y.tensor].shape[y.seq].expr)?;
    let pool = &mut steps.lower.pool;
    steps.offset = if steps.kernel.align.bottom_right { pool.sub(seq_k, seq_q) } else { pool.int(0) };
    steps.seq_k = seq_k;
    Ok(())
}

fn reads(output: &OutputFact, branch: usize) -> bool {
    let OutputHir::Combined { value, .. } = &output.kind else { return false };
    find(value, &mut |n| matches!(n.kind, Kind::Branch(b) if b == branch).then_some(())).is_some()
}

/// The branch that an output returns as it is, if nothing else returns it.
fn alone_of(kernel: &CheckedKernel, output: &OutputFact) -> Option<usize> {
    let OutputHir::Combined { value, .. } = &output.kind else { return None };
    let Kind::Branch(n) = value.kind else { return None };
    let routed = kernel.branches[n].choices.queries.is_some();
    let times = kernel.outputs.iter().filter(|o| reads(o, n)).count();
    (!routed && times == 1).then_some(n)
}

/// The output that a branch writes itself.
fn returned_alone(kernel: &CheckedKernel, branch: usize) -> Option<String> {
    kernel.outputs.iter().find(|o| alone_of(kernel, o) == Some(branch)).map(|o| o.name.clone())
}

fn is_merged(kernel: &CheckedKernel, branch: usize) -> bool {
    let merges = |e: &Expr| {
        let Kind::Merge(rows) = &e.kind else { return None };
        rows.iter().any(|r| matches!(r.kind, Kind::Branch(b) if b == branch)).then_some(())
    };
    kernel.outputs.iter().any(|o| match &o.kind {
        OutputHir::Combined { value, .. } => find(value, &mut |n| merges(n)).is_some(),
        _ => false,
    })
}

/// Rows that meet have the same number of heads.
fn same_heads(
    steps: &mut Steps<'_>,
    kernel: &CheckedKernel,
    bodies: &[&Body],
    output: &OutputFact,
) -> Result<()> {
    let mut first: Option<(usize, ExprId)> = None;
    for n in (0..bodies.len()).filter(|&n| reads(output, n)) {
        let x = bodies[n].dots[0].x;
        let Some(head) = x.head else { continue };
        let size = steps.lower.expr(&kernel.tensors[x.tensor].shape[head].expr)?;
        match first {
            Some((m, other)) if other != size => {
                let (a, b) = (&kernel.branches[m].name, &kernel.branches[n].name);
                let message = format!("the rows of `{a}` and `{b}` have different heads");
                let help = Some("combine branches of as many heads, or return them by themselves".into());
                return Err(CompileError::spec(
                    Code::BadPlanValue,
                    output.span,
                    message,
                    "combined here",
                    help,
                ));
            }
            _ => first = first.or(Some((n, size))),
        }
    }
    Ok(())
}

/// Declares an output with the shape and layout of the rows of its branch.
fn declare_output(steps: &mut Steps<'_>, key: &PlanKey, bodies: &[&Body], output: &OutputFact) -> Result<()> {
    let OutputHir::Combined { cast, of, .. } = &output.kind else { return Ok(()) };
    let body = bodies[*of];
    let query = &steps.kernel.tensors[body.dots[0].x.tensor];
    let dtype = cast.unwrap_or(query.elem.dtype(key.float));
    let layout = query.layout.clone();
    let shape = build::result_shape(steps, body)?;
    let (name, fact, origin) = (output.name.clone(), Fact::None, Origin::Output);
    steps.tensors.push(attn_ir::Tensor { name, dtype, shape, layout, fact, origin, rest: None });
    Ok(())
}

/// What the attention of a branch writes, the steps after it, and what of it later steps read.
fn results(
    steps: &mut Steps<'_>,
    fact: &BranchFact,
    body: &Body,
    alone: Option<&str>,
    merged: bool,
) -> Result<(Made, Vec<Output>, Vec<Step>)> {
    let roles = body.dots[0].x;
    let mut shape = build::result_shape(steps, body)?;
    let chosen = steps.lower.chosen;
    if let Some(chosen) = chosen {
        shape[roles.seq] = chosen.count;
    }
    let rows = match alone.and_then(|name| steps.tensors.iter().position(|t| t.name == name)) {
        Some(n) => TensorId(n as u32),
        None => steps.declare(&fact.name, DType::F32, shape.clone(), Fact::None),
    };
    let lse = merged.then(|| {
        let mut shape = shape.clone();
        shape.remove(roles.feature);
        steps.declare(&format!("{}_lse", fact.name), DType::F32, shape, Fact::None)
    });
    let of_tensor = |steps: &Steps<'_>, id: TensorId, kind| {
        let t = &steps.tensors[id.0 as usize];
        Output { name: t.name.clone(), kind, dtype: t.dtype }
    };
    let mut epilogues = Vec::new();
    let epilogue = fact.outputs.iter().find_map(|o| match &o.kind {
        OutputHir::O { epilogue, .. } => epilogue.as_ref(),
        _ => None,
    });
    let mut outputs = Vec::new();
    match epilogue {
        Some(e) if chosen.is_none() => {
            let raw = steps.declare("attended", DType::F32, shape.clone(), Fact::None);
            outputs.push(of_tensor(steps, raw, OutputKind::O));
            let before = steps.steps.len();
            build::epilogue(steps, e, Some(raw), roles, &shape, rows)?;
            epilogues.extend(steps.steps.drain(before..));
        }
        Some(e) => {
            let message =
                "a branch of chosen queries returns `weight @ v`; scale it where it is put back".into();
            return Err(LowerError { span: e.span, message }.into());
        }
        None => outputs.push(of_tensor(steps, rows, OutputKind::O)),
    }
    outputs.extend(lse.map(|id| of_tensor(steps, id, OutputKind::Lse)));
    let gate = fact.choices.queries.as_ref().and_then(|q| q.gate.clone());
    Ok((Made { rows, roles, lse, ranks: chosen.map(|c| c.ranks), gate }, outputs, epilogues))
}

impl Steps<'_> {
    /// Element `x` of a branch's row at (b, h, row); 0 where the query was not chosen.
    pub fn branch_element(
        &mut self,
        n: usize,
        e: &Expr,
        x: ExprId,
    ) -> std::result::Result<ExprId, LowerError> {
        let Some(made) = self.branches.get(n).cloned() else {
            return Err(LowerError { span: e.span, message: "this branch has no rows".into() });
        };
        let at = self.lower.row_index(made.roles, true, x);
        let zero = self.pool().float(0.0);
        let Some((rank, chosen)) = self.rank(&made, &at) else {
            return Ok(self.pool().load(made.rows, at, Ty::Float));
        };
        let mut index = at.clone();
        index[made.roles.seq] = rank;
        let mut value = self.pool().load(made.rows, index, Ty::Float);
        if let Some(gate) = &made.gate {
            let gate = self.along(gate, at[made.roles.seq])?;
            value = self.pool().binary(BinaryOp::Mul, gate, value);
        }
        Ok(self.pool().select(chosen, value, zero))
    }

    /// The expression without the rows that a condition on their rank guards: nothing is to be proved of them.
    pub fn without_scattered(&mut self, value: ExprId) -> ExprId {
        let routed: Vec<TensorId> =
            self.branches.iter().filter(|b| b.ranks.is_some()).map(|b| b.rows).collect();
        self.pool().rewrite(value, &mut |pool, id| match pool.op(id) {
            Op::Load(t, ..) if routed.contains(t) => Some(pool.float(0.0)),
            _ => None,
        })
    }

    /// Where the query of a row stands among the chosen ones, and whether it does.
    fn rank(&mut self, made: &Made, at: &[ExprId]) -> Option<(ExprId, ExprId)> {
        let ranks = made.ranks?;
        let n = self.shape(ranks).len();
        let lead = made.roles.batch.filter(|_| n > 1).map(|d| at[d]);
        let index = lead.into_iter().chain([at[made.roles.seq]]).collect();
        let pool = self.pool();
        let rank = pool.load(ranks, index, Ty::Int);
        let zero = pool.int(0);
        let chosen = pool.le(zero, rank);
        Some((rank, chosen))
    }

    /// Element `x` of rows merged by their lse.
    pub fn merged_element(
        &mut self,
        rows: &[Expr],
        vars: &RowVars,
        x: ExprId,
        shape: &[ExprId],
    ) -> std::result::Result<ExprId, LowerError> {
        let mut logs = Vec::new();
        for row in rows {
            let Kind::Branch(n) = row.kind else { continue };
            let made = self.branches[n].clone();
            let Some(lse) = made.lse else { continue };
            let zero = self.pool().int(0);
            let mut at = self.lower.row_index(made.roles, true, zero);
            let rank = self.rank(&made, &at);
            if let Some((rank, _)) = rank {
                at[made.roles.seq] = rank;
            }
            at.remove(made.roles.feature);
            let log = self.pool().load(lse, at, Ty::Float);
            let none = self.pool().float(f64::NEG_INFINITY);
            logs.push(rank.map_or(log, |(_, chosen)| self.pool().select(chosen, log, none)));
        }
        let pool = self.pool();
        let none = pool.float(f64::NEG_INFINITY);
        let most = logs.iter().copied().reduce(|a, b| pool.max(a, b)).unwrap_or(none);
        let empty = pool.eq(most, none);
        let shares: Vec<ExprId> = logs
            .iter()
            .map(|&log| {
                let below = pool.sub(log, most);
                pool.unary(UnaryOp::Exp, below)
            })
            .collect();
        let zero = pool.float(0.0);
        let total = shares.iter().copied().reduce(|a, b| pool.add(a, b)).unwrap_or(zero);
        let mut sum = None;
        for (row, share) in rows.iter().zip(shares) {
            let pool = self.pool();
            let share = pool.binary(BinaryOp::Div, share, total);
            let share = pool.select(empty, zero, share);
            let share = self.per_row("share", vars, shape, share);
            let element = self.result_element(row, vars, x, shape)?;
            let pool = self.pool();
            let term = pool.binary(BinaryOp::Mul, share, element);
            sum = Some(sum.map_or(term, |s| pool.add(s, term)));
        }
        Ok(sum.unwrap_or(zero))
    }

    /// A tensor of a value that is the same for the whole row; the load that stands for it.
    fn per_row(&mut self, name: &str, vars: &RowVars, shape: &[ExprId], value: ExprId) -> ExprId {
        let value = self.at(value, vars);
        let feature = vars.rows.feature;
        let mut index = vars.index.clone();
        index.remove(feature);
        let mut own = shape.to_vec();
        own.remove(feature);
        let out = self.declare(name, DType::F32, own, Fact::None);
        let at = index.iter().map(|v| self.lower.pool.var(*v)).collect();
        self.steps.push(Step::Derive(Derive {
            out,
            index,
            sum: vec![],
            value,
            at_bind: false,
            checks: vec![],
        }));
        self.pool().load(out, at, Ty::Float)
    }
}
