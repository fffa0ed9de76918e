//! One shard of a distributed attention: some queries against some keys, positions staying global.
//!
//! Comes in: a kernel with `distribute ring(...)`, bound as a whole. Goes out: the same bindings with the sequence dim
//! of queries and keys replaced by local lengths `S.q` and `S.k`, the whole length a parameter, and two parameters
//! `ring.q_first`, `ring.k_first`: row r of a shard stands at position `first + step * r`, and so does key c. What
//! holds: `i`, `j` and `row` in scores, masks and positions are global; only the rows of queries, keys and values are
//! local. A shard returns f32 partial results and their `lse`, to be merged (math.md 2.10, 2.11). Not here: who holds
//! which shard, and how keys travel.

use crate::attn_ir;
use crate::diagnostic::Code;
use crate::expr::{ExprId, Ty, VarId};

use super::build::Bound;
use super::instantiate::{CompileError, PlanKey, Result, unsupported};
use super::lower::{Local, Lower};
use super::model::{Body, CheckedKernel, OutputHir};

/// Name of the parameter that holds the position of a shard's first query.
pub const Q_FIRST: &str = "ring.q_first";
/// Name of the parameter that holds the position of a shard's first key.
pub const K_FIRST: &str = "ring.k_first";

/// Positions of a shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shard {
    /// Positions of neighbours lie this far apart.
    pub step: i64,
    q_first: VarId,
    k_first: VarId,
}

impl Shard {
    /// Turns the bindings of a whole kernel into those of a shard.
    pub fn bind(
        kernel: &CheckedKernel,
        key: &PlanKey,
        body: &Body,
        lower: &mut Lower<'_>,
        bound: &mut Bound,
    ) -> Result<Option<Shard>> {
        let Some(step) = key.shard else { return Ok(None) };
        let Some(ring) = kernel.ring else {
            let message = format!("`{}` is not distributed", kernel.name);
            let help = Some("add for instance `distribute ring(axis = S)`".into());
            let label = "planned as a shard";
            return Err(CompileError::spec(Code::BadDistribute, kernel.span, message, label, help));
        };
        refuse(kernel, key)?;
        let axis = &kernel.dims[ring.dim].name;
        let whole = lower.dims[ring.dim];
        let mut local = Vec::new();
        for (name, first) in [(format!("{axis}.q"), Q_FIRST), (format!("{axis}.k"), K_FIRST)] {
            let var = lower.pool.add_var(&name, Ty::Int);
            let size = lower.pool.var(var);
            let first_var = lower.pool.add_var(first, Ty::Int);
            bound.params.push(attn_ir::Param { name: first.into(), var: first_var, default: None });
            local.push((size, first_var));
            bound.dims.push(attn_ir::Dim { name, size, bounds: None });
        }
        let facts = body.dots.iter().map(|d| (d.x, 0)).chain(body.dots.iter().map(|d| (d.y, 1)));
        for (fact, side) in facts.chain([(body.value, 1)]) {
            let Some(id) = lower.ids[fact.tensor] else { continue };
            let size = &mut bound.tensors[id.0 as usize].shape[fact.seq];
            if *size != whole && *size != local[side].0 {
                let t = &kernel.tensors[fact.tensor];
                let message = format!("the sequence dim of `{}` is not `{axis}`", t.name);
                let help = Some("a ring divides the sequence dim of queries, keys and values".into());
                return Err(CompileError::spec(Code::BadDistribute, ring.span, message, "this ring", help));
            }
            *size = local[side].0;
        }
        whole_is_a_parameter(axis, bound, lower, whole);
        lower.local = Some(Local {
            query: lower.pool.add_var("q_row", Ty::Int),
            key: lower.pool.add_var("k_row", Ty::Int),
        });
        Ok(Some(Shard { step, q_first: local[0].1, k_first: local[1].1 }))
    }

    /// The position of local row `row` of the queries (or keys).
    pub fn position(&self, lower: &mut Lower<'_>, row: ExprId, query: bool) -> ExprId {
        let first = if query { self.q_first } else { self.k_first };
        let (step, first) = (lower.pool.int(self.step), lower.pool.var(first));
        let along = lower.pool.mul(row, step);
        lower.pool.add(first, along)
    }

    /// A sink that takes part where the first keys do: once for every query, whatever the number of shards.
    pub fn once(&self, lower: &mut Lower<'_>, sink: ExprId) -> ExprId {
        let pool = &mut lower.pool;
        let (first, zero, none) = (pool.var(self.k_first), pool.int(0), pool.float(f64::NEG_INFINITY));
        let here = pool.eq(first, zero);
        pool.select(here, sink, none)
    }

    /// An expression over global positions as one over local rows, which `index.i` and `index.j` then are.
    pub fn localised(&self, lower: &mut Lower<'_>, e: ExprId) -> ExprId {
        let ix = lower.index;
        let (i, j) = (lower.pool.var(ix.i), lower.pool.var(ix.j));
        let (at_i, at_j) = (self.position(lower, i, true), self.position(lower, j, false));
        lower.pool.substitute(e, &[(ix.i, at_i), (ix.row, at_i), (ix.j, at_j)])
    }
}

/// The length of the whole sequence is not that of any tensor of rows: the host gives it.
fn whole_is_a_parameter(axis: &str, bound: &mut Bound, lower: &Lower<'_>, whole: ExprId) {
    bound.dims.retain(|d| d.name != axis);
    if let crate::expr::Op::Var(var) = lower.pool.op(whole) {
        bound.params.push(attn_ir::Param { name: axis.into(), var: *var, default: None });
    }
}

/// What cannot be divided yet.
fn refuse(kernel: &CheckedKernel, key: &PlanKey) -> Result<()> {
    // Sums, pools and ids run over the whole sequence, and dropped weights are numbered along rows.
    let nearest = "a kernel without it, or one device";
    if let Some(fact) = kernel.made.first() {
        return Err(unsupported(key, fact.span, "a tensor made by `let` over a ring", nearest));
    }
    if let Some([p, ..]) = kernel.body.as_ref().and_then(|b| b.dropout.as_ref()) {
        return Err(unsupported(key, p.span, "dropout over a ring", nearest));
    }
    for out in &kernel.outputs {
        if let OutputHir::O { epilogue: Some(_), .. } | OutputHir::Other = &out.kind {
            let clause = format!("return {} over a ring", out.text);
            return Err(unsupported(
                key,
                out.span,
                &clause,
                "return `weight @ v`, and apply the epilogue after",
            ));
        }
    }
    if kernel.choices.keys.is_some() {
        let nearest = "run it on one device, or mask the pairs that are not selected";
        return Err(unsupported(key, kernel.span, "select over a ring", nearest));
    }
    Ok(())
}
