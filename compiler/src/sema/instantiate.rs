//! One kernel for one plan: statics folded, feature dims and head counts fixed, `float` chosen.
//!
//! Comes in: a [`CheckedKernel`] and a [`PlanKey`]. Goes out: the [`attn_ir::Kernel`] of the plan, or one
//! diagnostic: a size or static that is missing or wrong, or the first clause that the attention IR cannot
//! express. What holds: run-time dims and parameters are variables of the pool named as in the text, dots are
//! variables `dot`, `dot_2`... in order of first appearance. Not here: what a target's code generator refuses.

use std::collections::{BTreeMap, BTreeSet};

use crate::artifact::DType;
use crate::attn_ir::{self, IndexVars, Origin};
use crate::diagnostic::{Code, Diagnostic, Span, Unsupported};
use crate::expr::eval::Value;
use crate::expr::print::ty_name;
use crate::expr::{ExprId, Pool, TensorId, Ty};
use crate::schedule::overrides::Overrides;
use crate::target::Target;

use super::hir::{Expr, Uses};
use super::lower::{Lower, LowerError, RowAt};
use super::model::*;
use super::rows::TurnFact;
use super::suggest::nearest;

/// What a plan is fixed by, besides the text.
#[derive(Clone, Debug)]
pub struct PlanKey {
    /// Kernel name.
    pub kernel: String,
    /// What code is made for.
    pub target: Target,
    /// What `float` is.
    pub float: DType,
    /// Sizes given; feature dims and head counts must be among them or fixed in the text.
    pub dims: BTreeMap<String, i64>,
    /// Values of static parameters; defaults are taken for the others.
    pub statics: BTreeMap<String, Value>,
    /// Optional inputs that will be bound.
    pub present: BTreeSet<String>,
    /// One shard of a `distribute`d kernel instead of the whole: positions of its rows lie this far apart.
    pub shard: Option<i64>,
    /// Schedules that are decided already. They change no meaning and nothing of the attention IR.
    pub schedules: Overrides,
}

/// Why a kernel cannot be compiled for a plan.
#[derive(Clone, Debug)]
pub enum CompileError {
    /// The text or the plan is wrong.
    Spec(Box<Diagnostic>),
    /// A clause that cannot be compiled yet.
    Unsupported(Box<Unsupported>),
}

impl CompileError {
    /// The diagnostic to print.
    pub fn diagnostic(&self) -> Option<Diagnostic> {
        match self {
            CompileError::Spec(d) => Some((**d).clone()),
            CompileError::Unsupported(u) => u.diagnostic(),
        }
    }

    pub(super) fn spec(
        code: Code,
        span: Span,
        message: String,
        label: &str,
        help: Option<String>,
    ) -> CompileError {
        let mut d = Diagnostic::error(code, span, message).label(label);
        if let Some(help) = help {
            d = d.help(help);
        }
        CompileError::Spec(Box::new(d))
    }
}

impl std::fmt::Display for CompileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CompileError::Spec(d) => f.write_str(&d.message),
            CompileError::Unsupported(u) => u.fmt(f),
        }
    }
}

impl std::error::Error for CompileError {}

impl From<LowerError> for CompileError {
    fn from(e: LowerError) -> CompileError {
        let label = "found when the plan's sizes and statics were put in";
        CompileError::spec(Code::BadPlanValue, e.span, e.message, label, None)
    }
}

pub(super) type Result<T> = std::result::Result<T, CompileError>;

/// The attention IR of one plan and the clauses of its masks.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The kernel.
    pub kernel: attn_ir::Kernel,
    /// For each attention, each top-level conjunct of its mask: text, span, node of its pool.
    pub mask_clauses: Vec<MaskClauses>,
    /// Tensors that `rope` turns, in order.
    pub turns: Vec<TurnFact>,
}

/// Text, place and node of each top-level conjunct of a mask.
pub type MaskClauses = Vec<(String, Span, ExprId)>;

/// The attention IR of a kernel for one plan.
///
/// # Errors
/// [`CompileError::Spec`] for a missing or wrong size, static or optional input; [`CompileError::Unsupported`]
/// for the first clause that the attention IR cannot express.
pub fn instantiate(kernel: &CheckedKernel, key: &PlanKey) -> Result<attn_ir::Kernel> {
    instantiate_with_clauses(kernel, key).map(|i| i.kernel)
}

/// As [`instantiate`], with the clauses of the masks for `explain`.
///
/// # Errors
/// As [`instantiate`].
pub fn instantiate_with_clauses(kernel: &CheckedKernel, key: &PlanKey) -> Result<Instance> {
    refuse_unsupported(kernel, key)?;
    if kernel.body.is_none() && kernel.recurrence.is_none() && kernel.branches.is_empty() {
        return Err(unsupported(key, kernel.span, "a kernel without a body", "an `attention` kernel"));
    }
    check_key(kernel, key)?;
    let mut lower = prepare(kernel)?;
    let params = bind_params(kernel, key, &mut lower)?;
    let dims = bind_dims(kernel, key, &mut lower)?;
    let tensors = bind_tensors(kernel, key, &mut lower)?;
    check_capacities(kernel, &lower)?;
    let bound = super::build::Bound { params, dims, tensors };
    match (&kernel.body, &kernel.recurrence) {
        (Some(body), _) => super::build::attention(kernel, key, body, lower, bound),
        (None, Some(body)) => super::recurs::recurrence(kernel, key, body, lower, bound),
        (None, None) => super::parts::branches(kernel, key, lower, bound),
    }
}

pub(super) fn unsupported(key: &PlanKey, span: Span, clause: &str, nearest: &str) -> CompileError {
    CompileError::Unsupported(Box::new(Unsupported {
        clause: clause.into(),
        target: match key.target {
            Target::Cpu(_) => "cpu".into(),
            Target::Gpu(arch) => arch.name().into(),
        },
        nearest: nearest.into(),
        span: Some(span),
    }))
}

fn refuse_unsupported(kernel: &CheckedKernel, key: &PlanKey) -> Result<()> {
    if let Some(u) = kernel.unsupported.first() {
        return Err(unsupported(key, u.span, &u.clause, &u.nearest));
    }
    match (kernel.numerics.guard_nonfinite, &key.target) {
        (Some(span), Target::Gpu(_)) => {
            Err(unsupported(key, span, "numerics guard = nonfinite", "the CPU target, which always guards"))
        }
        _ => Ok(()),
    }
}

/// Names in the key that the kernel does not have.
fn check_key(kernel: &CheckedKernel, key: &PlanKey) -> Result<()> {
    let known = |what: &str, name: &str, names: Vec<&str>| {
        if names.contains(&name) {
            return Ok(());
        }
        let help = nearest(name, names.iter().copied()).map_or_else(
            || format!("`{}` has: {}", kernel.name, names.join(", ")),
            |n| format!("did you mean `{n}`?"),
        );
        let message = format!("`{}` has no {what} `{name}`", kernel.name);
        Err(CompileError::spec(Code::BadPlanValue, kernel.span, message, "of this kernel", Some(help)))
    };
    for name in key.dims.keys() {
        known("dim", name, kernel.dims.iter().map(|d| d.name.as_str()).collect())?;
    }
    for name in key.statics.keys() {
        let statics = kernel.params.iter().filter(|p| p.is_static).map(|p| p.name.as_str()).collect();
        known("static parameter", name, statics)?;
    }
    for name in &key.present {
        known("input", name, kernel.inputs().map(|t| t.name.as_str()).collect())?;
    }
    if !key.float.may_be_float() {
        let message = format!("`float` cannot be {}", key.float);
        let help = Some("bind f32, f16 or bf16".into());
        return Err(CompileError::spec(Code::BadPlanValue, kernel.span, message, "planned here", help));
    }
    Ok(())
}

fn prepare(kernel: &CheckedKernel) -> Result<Lower<'_>> {
    Ok(prepare_in(kernel, Pool::new()))
}

/// Names of a kernel over a pool that may hold more; dims, params and tensors are bound later.
pub(super) fn prepare_in(kernel: &CheckedKernel, mut pool: Pool) -> Lower<'_> {
    let mut var = |name| pool.add_var(name, Ty::Int);
    let index = IndexVars { b: var("b"), h: var("h"), i: var("i"), j: var("j"), row: var("row") };
    Lower {
        pool,
        index,
        dims: Vec::new(),
        params: Vec::new(),
        tensors: &kernel.tensors,
        ids: vec![None; kernel.tensors.len()],
        shifted: shifted(kernel),
        query_side: query_side(kernel),
        dots: Vec::new(),
        rows: vec![None; kernel.tensors.len()],
        row_at: row_at(kernel),
        elems: [None; 4],
        chosen: None,
        low: Vec::new(),
        turns: Vec::new(),
        plans: Vec::new(),
        products: Vec::new(),
        local: None,
        weighted: None,
        held: Vec::new(),
        batched: batched(kernel),
    }
}

/// Where the rows of each tensor are read.
pub(super) fn row_at(kernel: &CheckedKernel) -> Vec<Option<RowAt>> {
    let mut out: Vec<Option<RowAt>> = vec![None; kernel.tensors.len()];
    if let Some(r) = &kernel.recurrence {
        for (n, at) in out.iter_mut().enumerate() {
            *at = step_rows(kernel, r, n).map(|rows| RowAt { rows, query: true });
        }
    }
    for new in kernel.caches.iter().filter_map(|c| c.appended) {
        out[new] = Some(RowAt { rows: super::caching::new_rows(kernel, new), query: true });
    }
    let Some(body) = &kernel.body else { return out };
    let query = body.dots.first().map(|d| d.x);
    for dot in &body.dots {
        for (rows, query) in [(dot.x, true), (dot.y, false)] {
            for rows in super::build::sources(kernel, rows) {
                out[rows.tensor].get_or_insert(RowAt { rows, query });
            }
        }
    }
    for fact in &body.relative {
        out[fact.rows.tensor].get_or_insert(RowAt { rows: fact.rows, query: true });
    }
    for rows in super::build::sources(kernel, body.value) {
        out[rows.tensor].get_or_insert(RowAt { rows, query: false });
    }
    if let Some(super::choice::KeyChoice::Ranked(rank)) = &kernel.choices.keys {
        for dot in &rank.dots {
            for (rows, query) in [(dot.x, true), (dot.y, false)] {
                for rows in super::build::sources(kernel, rows) {
                    out[rows.tensor].get_or_insert(RowAt { rows, query });
                }
            }
        }
    }
    // Gates and other rows over the query's dims are read where the query is.
    if let Some(q) = query {
        let shape = &kernel.tensors[q.tensor].shape;
        for (n, t) in kernel.tensors.iter().enumerate().filter(|(_, t)| t.shape.len() == shape.len()) {
            let same = (0..shape.len()).all(|d| d == q.feature || t.shape[d].same(&shape[d]));
            if same && t.elem.is_float() {
                out[n].get_or_insert(RowAt { rows: RowsFact { tensor: n, ..q }, query: true });
            }
        }
    }
    out
}

/// Roles of a tensor of rows over the sequence of a recurrence.
fn step_rows(kernel: &CheckedKernel, r: &RecurBody, tensor: usize) -> Option<RowsFact> {
    let shape = &kernel.tensors[tensor].shape;
    let steps = &kernel.tensors[r.rows.tensor].shape[r.rows.seq];
    let rank = shape.len();
    let fits = (2..=4).contains(&rank) && shape[rank - 2].same(steps) && !shape[rank - 1].same(steps);
    let (batch, head) = match rank {
        4 => (Some(0), Some(1)),
        3 if leads_with_batch(kernel, shape) => (Some(0), None),
        3 => (None, Some(0)),
        _ => (None, None),
    };
    fits.then_some(RowsFact { tensor, batch, head, seq: rank - 2, feature: rank - 1 })
}

/// True if the first dim is that of a tensor with batch and heads, or its name begins with B.
fn leads_with_batch(kernel: &CheckedKernel, shape: &[super::hir::Size]) -> bool {
    let both = |t: &TensorFact| t.shape.len() == 4 && t.shape[0].same(&shape[0]);
    shape[0].text.starts_with('B') || kernel.tensors.iter().any(both)
}

fn batched(kernel: &CheckedKernel) -> Vec<bool> {
    let first = |t: &TensorFact| !t.shape.is_empty() && leads_with_batch(kernel, &t.shape);
    kernel.tensors.iter().map(first).collect()
}

/// True if `i` is not the row: `align bottom_right` with lengths of different dims.
fn shifted(kernel: &CheckedKernel) -> bool {
    if let Some(r) = &kernel.recurrence {
        return r.start.is_some();
    }
    let Some(DotFact { x, y, .. }) = kernel.body.as_ref().and_then(|b| b.dots.first()) else { return false };
    let (seq_q, seq_k) = (&kernel.tensors[x.tensor].shape[x.seq], &kernel.tensors[y.tensor].shape[y.seq]);
    kernel.align.bottom_right && (!seq_q.same(seq_k) || key_cache(kernel).is_some_and(|c| c.len.is_some()))
}

/// The cache that holds keys or values, whose length is the number of keys.
pub(super) fn key_cache(kernel: &CheckedKernel) -> Option<&CacheFact> {
    let body = kernel.body.as_ref()?;
    let mut rows = body.dots.iter().map(|d| d.y).chain([body.value]);
    rows.find_map(|r| kernel.caches.iter().find(|c| c.tensor == r.tensor))
}

/// For each tensor and dim: `i` in its brackets means the row. True of the query's sequence dim and of dims
/// derived from it and not from the key's.
fn query_side(kernel: &CheckedKernel) -> Vec<Vec<bool>> {
    if let Some(r) = &kernel.recurrence {
        let steps = &kernel.tensors[r.rows.tensor].shape[r.rows.seq];
        return kernel.tensors.iter().map(|t| t.shape.iter().map(|s| s.same(steps)).collect()).collect();
    }
    let Some(body) = &kernel.body else { return Vec::new() };
    let Some(DotFact { x, y, .. }) = body.dots.first() else { return Vec::new() };
    let seq_q = &kernel.tensors[x.tensor].shape[x.seq];
    let seq_k = &kernel.tensors[y.tensor].shape[y.seq];
    let reads = |e: &Expr, dim: Option<usize>| dim.is_some_and(|d| reads_dim(kernel, e, d));
    let side =
        |s: &super::hir::Size| s.same(seq_q) || (reads(&s.expr, seq_q.dim) && !reads(&s.expr, seq_k.dim));
    kernel.tensors.iter().map(|t| t.shape.iter().map(side).collect()).collect()
}

fn reads_dim(kernel: &CheckedKernel, e: &Expr, dim: usize) -> bool {
    if !e.uses.any(Uses::DIM) {
        return false;
    }
    super::hir::find(e, &mut |x| match &x.kind {
        super::hir::Kind::Dim(n) if *n == dim => Some(()),
        super::hir::Kind::Dim(n) => match &kernel.dims[*n].size {
            DimSize::Given(inner) if *n > dim => reads_dim(kernel, inner, dim).then_some(()),
            _ => None,
        },
        _ => None,
    })
    .is_some()
}

fn bind_params(kernel: &CheckedKernel, key: &PlanKey, lower: &mut Lower<'_>) -> Result<Vec<attn_ir::Param>> {
    let mut params = Vec::new();
    for p in &kernel.params {
        let node = if p.is_static {
            let value = static_value(p, key)?;
            lower.pool.constant(value)
        } else {
            let var = lower.pool.add_var(&p.name, p.ty);
            params.push(attn_ir::Param { name: p.name.clone(), var, default: p.default });
            lower.pool.var(var)
        };
        lower.params.push(node);
    }
    Ok(params)
}

fn static_value(p: &ParamFact, key: &PlanKey) -> Result<Value> {
    let Some(value) = key.statics.get(&p.name).copied().or(p.default) else {
        let message = format!("the static parameter `{}` has no value", p.name);
        let help = Some(format!("give it when planning (`--param {}=...`) or write a default", p.name));
        let label = "needed to plan";
        return Err(CompileError::spec(Code::MissingStatic, p.span, message, label, help));
    };
    match (p.ty, value) {
        (Ty::Float, Value::Int(x)) => Ok(Value::Float(x as f64)),
        (ty, v) if v.ty() == ty => Ok(v),
        (ty, v) => {
            let message = format!("`{}` is {}, but the plan gives {}", p.name, ty_name(ty), ty_name(v.ty()));
            Err(CompileError::spec(Code::BadPlanValue, p.span, message, "declared here", None))
        }
    }
}

fn bind_dims(kernel: &CheckedKernel, key: &PlanKey, lower: &mut Lower<'_>) -> Result<Vec<attn_ir::Dim>> {
    let mut dims = Vec::new();
    let mut told = BTreeMap::new();
    for (n, d) in kernel.dims.iter().enumerate() {
        let given = key.dims.get(&d.name).copied();
        let size = match &d.size {
            DimSize::Given(e) => lower.expr(e)?,
            DimSize::Free if told.contains_key(&n) => told[&n],
            DimSize::Free if capacity(kernel, n).is_some() => {
                // The sequence dim of a paged cache: what its table, bound later, has room for.
                let (per_entry, page) = capacity(kernel, n).unwrap_or((n, 1));
                let var = lower.pool.add_var(&kernel.dims[per_entry].name, Ty::Int);
                let pages = *told.entry(per_entry).or_insert(lower.pool.var(var));
                let page = lower.pool.int(page);
                lower.pool.mul(pages, page)
            }
            DimSize::Free if d.specialised => match given {
                Some(n) => lower.pool.int(n),
                None => return Err(missing_dim(kernel, d)),
            },
            DimSize::Free => {
                let var = lower.pool.add_var(&d.name, Ty::Int);
                lower.pool.var(var)
            }
        };
        check_size(d, given, lower.pool.as_int(size))?;
        lower.dims.push(size);
        dims.push(attn_ir::Dim { name: d.name.clone(), size, bounds: d.bounds });
    }
    Ok(dims)
}

/// The dim that counts the pages of a batch entry, and the rows of a page, if dim n is the rows of a paged cache.
fn capacity(kernel: &CheckedKernel, n: usize) -> Option<(usize, i64)> {
    kernel.caches.iter().find_map(|c| {
        let shape = &kernel.tensors[c.tensor].shape;
        let pages = c.pages.as_ref()?;
        (shape[shape.len() - 2].dim == Some(n)).then_some((pages.per_entry, pages.size))
    })
}

/// A dim that is the rows of two tables has one size.
fn check_capacities(kernel: &CheckedKernel, lower: &Lower<'_>) -> Result<()> {
    for c in &kernel.caches {
        let shape = &kernel.tensors[c.tensor].shape;
        let (Some(pages), Some(dim)) = (&c.pages, shape[shape.len() - 2].dim) else { continue };
        if lower.pool.as_int(lower.dims[dim]).is_some() || kernel.dims[dim].specialised {
            let message = format!(
                "`{}` is fixed by the plan, and the table of `{}` tells it",
                kernel.dims[dim].name, kernel.tensors[c.tensor].name
            );
            let help = Some(format!("use another dim for pages of {} rows", pages.size));
            return Err(CompileError::spec(Code::BadPlanValue, c.span, message, "this cache", help));
        }
    }
    Ok(())
}

fn missing_dim(kernel: &CheckedKernel, d: &DimFact) -> CompileError {
    let missing: Vec<&str> = kernel.specialised_dims().map(|d| d.name.as_str()).collect();
    let message = format!("the size of dim `{}` is needed to plan", d.name);
    let label = "a feature dim or head count: specialised when the kernel is planned";
    let help = format!(
        "give it (`--at {}=64`), or fix it in the text (`{} = 64`); to be given in all: {}",
        d.name,
        d.name,
        missing.join(", ")
    );
    CompileError::spec(Code::MissingDim, d.span, message, label, Some(help))
}

/// The size against what the plan gives, its bounds, and 1.
fn check_size(d: &DimFact, given: Option<i64>, size: Option<i64>) -> Result<()> {
    let bad = |message: String, help: &str| {
        Err(CompileError::spec(Code::BadPlanValue, d.span, message, "declared here", Some(help.into())))
    };
    if let (Some(n), Some(size)) = (given, size)
        && n != size
    {
        let message = format!("dim `{}` is {size} in the text, but the plan gives {n}", d.name);
        return bad(message, "leave it out of the plan, or make the dim free in the text");
    }
    let Some(n) = size.or(given) else { return Ok(()) };
    if size.is_some() && n < 1 {
        return bad(format!("dim `{}` is {n}", d.name), "sizes that a plan fixes are at least 1");
    }
    if !(0..=1 << 40).contains(&n) {
        return bad(format!("dim `{}` is {n}", d.name), "sizes lie in 0..2^40");
    }
    match d.bounds {
        Some((lo, hi)) if n < lo || n > hi => bad(
            format!("dim `{}` is {n}, outside {lo}..{hi}", d.name),
            "stay inside the bounds, or widen them in the text",
        ),
        _ => Ok(()),
    }
}

fn bind_tensors(
    kernel: &CheckedKernel,
    key: &PlanKey,
    lower: &mut Lower<'_>,
) -> Result<Vec<attn_ir::Tensor>> {
    let mut tensors = Vec::new();
    for (n, t) in kernel.tensors.iter().enumerate() {
        if t.kind == TensorKind::Derived || (t.optional && !key.present.contains(&t.name)) {
            continue;
        }
        lower.ids[n] = Some(TensorId(tensors.len() as u32));
        lower.rows[n] = lower.ids[n];
        let mut shape = Vec::new();
        for size in kernel.bound_shape(t) {
            shape.push(lower.expr(&size.expr)?);
        }
        let updated = kernel.updated().any(|u| u.name == t.name);
        tensors.push(attn_ir::Tensor {
            name: t.name.clone(),
            dtype: t.elem.dtype(key.float),
            shape,
            layout: t.layout.clone(),
            fact: t.fact,
            origin: if updated { Origin::Updated } else { Origin::Host },
            rest: None,
        });
    }
    Ok(tensors)
}
