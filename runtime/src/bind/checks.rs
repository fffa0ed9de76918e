//! Conditions, indices and divisors, proved before anything runs.
//!
//! Comes in: the scalars, and the ranges of the integer tensors that occur in indices. Goes out: nothing, or an
//! error that names the first bad element. The proof is by interval arithmetic over the boxes of the index
//! variables: sound, so an accepted call never indexes out of range; not tight, so the compiler guards what it
//! cannot expect to be proved here. A proof is kept as long as scalars and ranges stay what they were.

use attn_compiler::artifact::{BindCheck, TensorRole};
use attn_compiler::expr::eval::{Value, eval};
use attn_compiler::expr::range::{self, Range, RangeEnv};
use attn_compiler::expr::{ExprId, TensorId, VarId};

use super::Call;
use super::context::{RunContext, Scalars};
use super::facts::{logical, min_max};
use crate::error::{DataFault, RuntimeError};
use crate::geometry::Geometry;
use crate::signature::{Signature, checked_expr};
use crate::tensor::TensorView;

/// Evaluates the launch conditions.
pub(super) fn requirements(sig: &Signature, ctx: &RunContext) -> Result<(), RuntimeError> {
    for r in &sig.artifact.requires {
        if !eval(&sig.artifact.pool, r.cond, &Scalars(&ctx.values)).bool() {
            let message = format!(
                "kernel `{}`: {}; here {}",
                sig.artifact.name,
                r.message,
                scalars_read(sig, ctx, r.cond)
            );
            return Err(RuntimeError::data(DataFault::Condition, message));
        }
    }
    Ok(())
}

/// `Sq = 3, Sk = 5`: the scalars that an expression reads.
fn scalars_read(sig: &Signature, ctx: &RunContext, id: ExprId) -> String {
    let pool = &sig.artifact.pool;
    let known = pool.free_vars(id).into_iter().filter(|v| sig.scalar_of[v.0 as usize].is_some());
    let text: Vec<String> = known
        .map(|v| {
            let name = &pool.var_info(v).name;
            match ctx.values[v.0 as usize] {
                Value::Int(x) => format!("{name} = {x}"),
                Value::Float(x) => format!("{name} = {x}"),
                Value::Bool(x) => format!("{name} = {x}"),
            }
        })
        .collect();
    if text.is_empty() { "it never holds".to_string() } else { text.join(", ") }
}

/// Proves every index and divisor, scanning the integer tensors that occur in them.
pub(super) fn proofs(
    sig: &Signature,
    call: &Call<'_, '_, '_>,
    ctx: &mut RunContext,
) -> Result<(), RuntimeError> {
    for (n, &t) in sig.scanned.iter().enumerate() {
        let bounds = min_max(&scanned_view(sig, call, ctx, t)?);
        // An empty tensor is read by nobody; if the proof says otherwise, nothing is known about it.
        ctx.ranges[n] = bounds.map_or(Range::ALL, |(lo, hi)| Range { lo, hi });
    }
    if ctx.proved && ctx.proved_for == ctx.ranges {
        return Ok(());
    }
    ctx.proved = false;
    let mut nodes = std::mem::take(&mut ctx.node_ranges);
    let failed = first_failed(sig, ctx, None, &mut nodes, 0..sig.artifact.checks.len());
    let refused = failed.map(|n| refuse(sig, call, ctx, n, &mut nodes));
    ctx.node_ranges = nodes;
    if let Some(refused) = refused {
        return Err(refused);
    }
    ctx.proved_for.copy_from_slice(&ctx.ranges);
    ctx.proved = true;
    Ok(())
}

/// The contents of a scanned tensor, axes in logical order.
fn scanned_view<'v>(
    sig: &Signature,
    call: &Call<'v, '_, '_>,
    ctx: &'v RunContext,
    t: usize,
) -> Result<TensorView<'v>, RuntimeError> {
    if matches!(sig.artifact.tensors[t].role, TensorRole::Input) {
        return logical(sig, &call.inputs[ctx.bound[t]].1, t);
    }
    let spec = &sig.artifact.tensors[t];
    let n = sig.tables.iter().position(|&x| x == t);
    let table = n.map(|n| ctx.tables[n].buf.bytes()).unwrap_or_default();
    let shape = &ctx.sizes[t][..spec.shape.len()];
    let contiguous = Geometry::contiguous(spec.dtype, shape)?;
    let (count, strides) = (table.len() / spec.dtype.size(), contiguous.strides());
    // SAFETY: the table's buffer is borrowed from the context, aligned, initialised, and not written meanwhile.
    unsafe { TensorView::from_raw(table.as_ptr(), count, spec.dtype, 0, shape, strides) }
}

/// What is known when a check is judged: scalars, contents, and the ranges of the nodes found so far.
struct Known<'a> {
    sig: &'a Signature,
    ctx: &'a RunContext,
    /// A scanned tensor that is taken to hold one value only.
    pinned: Option<(usize, i64)>,
    /// By node of the pool.
    nodes: &'a [Range],
}

impl Known<'_> {
    fn proves(&self, n: usize) -> bool {
        let check = &self.sig.artifact.checks[n];
        // An index variable without any value: the expression is never evaluated.
        let vacuous = self.sig.check_vars[n].iter().any(|&v| {
            let r = self.var(v);
            r.lo > r.hi
        });
        let r = self.nodes[checked_expr(check).0 as usize];
        vacuous
            || match check {
                BindCheck::Index { tensor, dim, .. } => {
                    r.within(self.ctx.sizes[tensor.0 as usize][*dim] as i64)
                }
                BindCheck::Divisor { .. } => r.lo > 0,
            }
    }
}

impl RangeEnv for Known<'_> {
    fn var(&self, var: VarId) -> Range {
        if self.sig.scalar_of[var.0 as usize].is_some() {
            return match self.ctx.values[var.0 as usize] {
                Value::Int(x) => Range::point(x),
                _ => Range::ALL,
            };
        }
        let at = |e: ExprId| self.nodes[e.0 as usize];
        match self.sig.artifact.check_vars.iter().find(|(v, ..)| *v == var) {
            Some((_, lo, hi)) if self.sig.scanned.is_empty() => {
                let (pool, values) = (&self.sig.artifact.pool, Scalars(&self.ctx.values));
                Range { lo: eval(pool, *lo, &values).int(), hi: eval(pool, *hi, &values).int() }
            }
            // The ends may read other index variables and int tensors. Where a box is empty at its lowest ends,
            // there may still be elements at others, so a range is not taken to be empty unless it is for sure.
            Some((_, lo, hi)) => Range { lo: at(*lo).lo, hi: at(*hi).hi },
            None => Range::ALL,
        }
    }

    fn tensor(&self, tensor: TensorId) -> Range {
        let t = tensor.0 as usize;
        match self.pinned {
            Some((pinned, value)) if pinned == t => Range::point(value),
            _ => self.sig.scanned.iter().position(|&x| x == t).map_or(Range::ALL, |n| self.ctx.ranges[n]),
        }
    }
}

/// Finds the range of every node that the checks are made of, then the first of some checks that does not hold.
fn first_failed(
    sig: &Signature,
    ctx: &RunContext,
    pinned: Option<(usize, i64)>,
    nodes: &mut [Range],
    checks: std::ops::Range<usize>,
) -> Option<usize> {
    for &id in &sig.check_nodes {
        let known = Known { sig, ctx, pinned, nodes };
        nodes[id.0 as usize] = range::node(&sig.artifact.pool, id, &known, &|x| known.nodes[x.0 as usize]);
    }
    let known = Known { sig, ctx, pinned, nodes };
    checks.into_iter().find(|&n| !known.proves(n))
}

/// The error for the n-th check, which failed: the first element to blame, or else the whole range.
fn refuse(
    sig: &Signature,
    call: &Call<'_, '_, '_>,
    ctx: &RunContext,
    n: usize,
    nodes: &mut [Range],
) -> RuntimeError {
    let check = &sig.artifact.checks[n];
    let r = nodes[checked_expr(check).0 as usize];
    let (fault, what) = match check {
        BindCheck::Index { tensor, dim, text, .. } => {
            let t = tensor.0 as usize;
            let (name, size) = (&sig.artifact.tensors[t].name, ctx.sizes[t][*dim]);
            let valid = match size {
                0 => "is empty".to_string(),
                n => format!("has indices 0 to {}", n - 1),
            };
            (DataFault::Index, format!("the index of `{text}` leaves `{name}`, whose dim {dim} {valid}"))
        }
        BindCheck::Divisor { text, .. } => {
            (DataFault::Divisor, format!("the divisor of `{text}` may be zero or negative"))
        }
    };
    let blame = sig.check_reads[n].iter().find_map(|&t| first_bad_element(sig, call, ctx, (n, t), nodes));
    let detail = blame.unwrap_or_else(|| match (r.lo, r.hi) {
        (i64::MIN, _) | (_, i64::MAX) => "its range is not known".to_string(),
        (lo, hi) => format!("it runs from {lo} to {hi}"),
    });
    RuntimeError::data(fault, format!("{what}; {detail}; mend the bound tensor, length or parameter"))
}

/// `table[2, 7] = 99`: the first element of tensor `t` for which the n-th check fails whatever the others are.
fn first_bad_element(
    sig: &Signature,
    call: &Call<'_, '_, '_>,
    ctx: &RunContext,
    (n, t): (usize, usize),
    nodes: &mut [Range],
) -> Option<String> {
    let view = scanned_view(sig, call, ctx, t).ok()?;
    let mut good: Option<i64> = None;
    let mut found = None;
    view.geometry().for_each_index(&mut |index| {
        let Some(at) = view.geometry().offset_of(index).filter(|_| found.is_none()) else { return };
        let value = read_int(&view, at);
        if good == Some(value) {
            return;
        }
        match first_failed(sig, ctx, Some((t, value)), nodes, n..n + 1) {
            None => good = Some(value),
            Some(_) => found = Some(format!("`{}{index:?}` is {value}", sig.artifact.tensors[t].name)),
        }
    });
    found
}

fn read_int(view: &TensorView<'_>, at: isize) -> i64 {
    match view.dtype().size() {
        1 => i64::from(view.read::<i8>(at)),
        4 => i64::from(view.read::<i32>(at)),
        _ => view.read::<i64>(at),
    }
}
