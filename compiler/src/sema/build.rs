//! The steps of an attention kernel: derived rows, the attention, the epilogues of its results.
//!
//! Comes in: the checked body of a kernel, its dims, params and inputs bound in a pool. Goes out: the
//! [`attn_ir::Kernel`] and the clauses of its mask. What holds: where nothing is derived, the kernel is one attention
//! over the inputs. Not here: rows (`turn.rs`), what a target cannot run.

use crate::artifact::DType;
use crate::attn_ir::{
    self, Attention, Derive, Fact, Numerics, Origin, Output, OutputKind, Rows, Side, Step, TileOverride,
    Weight,
};
use crate::diagnostic::Code;
use crate::expr::interval::Between;
use crate::expr::{ExprId, Pool, TensorId, Ty};

use super::caching;
use super::hir::Expr;
use super::instantiate::{CompileError, Instance, MaskClauses, PlanKey, Result, key_cache};
use super::lower::Lower;
use super::model::*;
use super::shard::Shard;
use super::turn::Steps;

/// What was bound before the body is lowered.
pub(crate) struct Bound {
    /// Run-time parameters.
    pub params: Vec<attn_ir::Param>,
    /// Dims.
    pub dims: Vec<attn_ir::Dim>,
    /// Inputs that are present.
    pub tensors: Vec<attn_ir::Tensor>,
}

/// The kernel of one attention body.
pub(crate) fn attention(
    kernel: &CheckedKernel,
    key: &PlanKey,
    body: &Body,
    mut lower: Lower<'_>,
    mut bound: Bound,
) -> Result<Instance> {
    present(kernel, &lower, body)?;
    let shard = Shard::bind(kernel, key, body, &mut lower, &mut bound)?;
    let Bound { params, dims, tensors } = bound;
    let mut steps = start(kernel, lower, tensors, key.target.family());
    steps.shard = shard;
    declare_outputs(&mut steps, key, body)?;
    let x = body.dots[0].x;
    // Before rows are gathered from caches: roles are those of what the host binds.
    let roles = roles(kernel, &steps.lower, body);
    let clauses = attend(&mut steps, body, kernel.name.clone(), &mut |steps| results(steps, x))?;
    Ok(finish(steps, params, dims, roles, vec![(kernel.name.clone(), clauses)]))
}

/// A kernel without steps.
pub(crate) fn start<'k>(
    kernel: &'k CheckedKernel,
    mut lower: Lower<'k>,
    tensors: Vec<attn_ir::Tensor>,
    family: &'static str,
) -> Steps<'k> {
    let axes = ["b", "h", "s", "x", "d"].map(|name| lower.pool.add_var(name, Ty::Int));
    let zero = lower.pool.int(0);
    let (offset, seq_k) = (zero, zero);
    let (steps, hoisted, branches, made) = (vec![], vec![], vec![], vec![]);
    let (shard, low_parts) = (None, vec![]);
    let demands = vec![];
    Steps {
        kernel,
        family,
        lower,
        tensors,
        steps,
        offset,
        seq_k,
        shard,
        axes,
        hoisted,
        branches,
        low_parts,
        made,
        demands,
    }
}

/// The kernel of all steps; attentions get copies of the declarations.
pub(crate) fn finish(
    steps: Steps<'_>,
    params: Vec<attn_ir::Param>,
    dims: Vec<attn_ir::Dim>,
    roles: Vec<(Rows, Side)>,
    mut clauses: Vec<(String, MaskClauses)>,
) -> Instance {
    let Steps { kernel, lower, tensors, mut steps, demands, .. } = steps;
    let (pool, turns) = (lower.pool, lower.turns);
    let mut mask_clauses = Vec::new();
    for step in &mut steps {
        if let Step::Attend(a) = step {
            let own = clauses.iter_mut().find(|(name, _)| *name == a.name);
            mask_clauses.push(own.map(|(_, c)| std::mem::take(c)).unwrap_or_default());
            a.pool = pool.clone();
            a.tensors = tensors.clone();
            a.params = params.clone();
            a.dims = dims.clone();
        }
    }
    let name = kernel.name.clone();
    let kernel = attn_ir::Kernel { name, pool, dims, params, tensors, steps, roles, demands };
    Instance { kernel, mask_clauses, turns }
}

/// Inputs of rows with their roles.
pub(crate) fn roles(kernel: &CheckedKernel, lower: &Lower<'_>, body: &Body) -> Vec<(Rows, Side)> {
    let mut roles: Vec<(Rows, Side)> = Vec::new();
    let sides = body.dots.iter().map(|d| (d.x, Side::Query));
    let sides = sides.chain(body.dots.iter().map(|d| (d.y, Side::Key))).chain([(body.value, Side::Key)]);
    for (fact, side) in
        sides.flat_map(|(fact, side)| sources(kernel, fact).into_iter().map(move |f| (f, side)))
    {
        roles.extend(lower.ids[fact.tensor].map(|id| (rows_of(fact, id), side)));
    }
    roles
}

/// What an attention writes, and the steps after it.
pub(crate) type Given = (Vec<Output>, Vec<Step>);

/// Adds the attention of a body and what it reads; what it gives is said by `results`.
pub(crate) fn attend(
    steps: &mut Steps<'_>,
    body: &Body,
    name: String,
    results: &mut dyn FnMut(&mut Steps<'_>) -> Result<Given>,
) -> Result<MaskClauses> {
    let kernel = steps.kernel;
    let (x, y) = (body.dots[0].x, body.dots[0].y);
    present(kernel, &steps.lower, body)?;
    let one = steps.lower.pool.int(1);
    let Steps { lower, tensors, .. } = &mut *steps;
    let mut size = |rows: RowsFact, dim: Option<usize>| match dim {
        Some(d) => Ok(lower.shape(tensors, rows.tensor)?[d]),
        None => Ok::<_, CompileError>(one),
    };
    let batch = size(x, x.batch)?;
    let (seq_q, all_k) = (size(x, Some(x.seq))?, size(y, Some(y.seq))?);
    let heads = size(x, x.head)?;
    let key_rows = body.dots.iter().map(|d| d.y).chain([body.value]).find(|r| r.head.is_some());
    let key_heads = key_rows.map(|r| size(r, r.head).map(|size| (size, r))).transpose()?;
    let n_heads = constant(kernel, lower, heads, x)?;
    let n_kv_heads = match key_heads {
        Some((size, r)) => constant(kernel, lower, size, r)?,
        None => 1,
    };
    let seq_k = match key_cache(kernel) {
        Some(cache) => caching::length(&mut steps.lower, kernel, cache)?,
        None => all_k,
    };
    let kv_head = kv_head(kernel, &mut steps.lower, n_heads, n_kv_heads)?;
    let pool = &mut steps.lower.pool;
    let aligned = kernel.align.bottom_right && steps.shard.is_none();
    let offset = if aligned { pool.sub(seq_k, seq_q) } else { pool.int(0) };
    (steps.offset, steps.seq_k) = (offset, seq_k);
    steps.row_ops()?;
    let dots = dots(steps, body)?;
    body.relative.iter().try_for_each(|r| steps.relative(r))?;
    let value = match &body.value_row {
        Some(row) => rows_of(body.value, steps.row_tensor("value", row, body.value, false)?),
        None => rows_of(body.value, steps.lower.rows[body.value.tensor].unwrap_or(dots[0].y.tensor)),
    };
    let bounds = bounds(steps, batch, n_heads, (offset, seq_q, seq_k));
    for e in [&body.score].into_iter().chain(&body.mask) {
        steps.block_plans(e, &bounds)?;
    }
    let score = steps.lower.expr(&body.score)?;
    let mut score = super::made::gather_sums(&mut steps.lower.pool, &steps.lower.low, score);
    let mut mask = match &body.mask {
        Some(m) => steps.lower.expr(m)?,
        None => steps.lower.pool.bool(true),
    };
    if let Some(shard) = steps.shard {
        score = shard.localised(&mut steps.lower, score);
        mask = shard.localised(&mut steps.lower, mask);
    }
    let mut weight = weight(body, &mut steps.lower)?;
    let dropped = body.dropout.as_ref().map(|d| super::dropout::lowered(&mut steps.lower, d)).transpose()?;
    if let (Some(shard), Weight::Softmax { sink: Some(sink) }) = (steps.shard, &mut weight) {
        *sink = shard.once(&mut steps.lower, *sink);
    }
    let mut clauses = Vec::new();
    for clause in &kernel.mask_clauses {
        clauses.push((clause.text.clone(), clause.span, steps.lower.expr(&clause.expr)?));
    }
    let mut attention = Attention {
        name,
        pool: Pool::new(),
        index: steps.lower.index,
        batch,
        n_heads,
        n_kv_heads,
        kv_head,
        seq_q,
        seq_k,
        offset,
        dots,
        score,
        mask,
        weight,
        dropout: dropped,
        value,
        outputs: Vec::new(),
        tiles: tiles(kernel, steps.family),
        numerics: Numerics {
            products: kernel.numerics.products,
            split: kernel.numerics.split,
            batch_invariant: kernel.numerics.batch_invariant,
        },
        params: Vec::new(),
        dims: Vec::new(),
        tensors: Vec::new(),
    };
    steps.choose(&mut attention, &mut clauses)?;
    let (outputs, epilogues) = results(steps)?;
    attention.outputs = outputs;
    steps.steps.push(Step::Attend(Box::new(attention)));
    steps.steps.extend(epilogues);
    Ok(clauses)
}

/// First and last value of each index variable.
fn bounds(
    steps: &mut Steps<'_>,
    batch: ExprId,
    n_heads: i64,
    (offset, seq_q, seq_k): (ExprId, ExprId, ExprId),
) -> Vec<Between> {
    let ix = steps.lower.index;
    let pool = &mut steps.lower.pool;
    let zero = pool.int(0);
    let heads = pool.int(n_heads);
    let mut out = Vec::new();
    for (var, first, count) in [
        (ix.b, zero, batch),
        (ix.h, zero, heads),
        (ix.i, offset, seq_q),
        (ix.row, zero, seq_q),
        (ix.j, zero, seq_k),
    ] {
        let end = pool.add(first, count);
        out.push((var, first, pool.add_int(end, -1)));
    }
    out
}

/// The rows, and the rows that they are made of, which have the same roles.
pub(super) fn sources(kernel: &CheckedKernel, rows: RowsFact) -> Vec<RowsFact> {
    let mut out = vec![rows];
    if let Some(fact) = kernel.made.iter().find(|m| m.tensor == rows.tensor) {
        for tensor in fact.made.sources() {
            out.extend(sources(kernel, RowsFact { tensor, ..rows }));
        }
    }
    out
}

pub(crate) fn rows_of(r: RowsFact, tensor: TensorId) -> Rows {
    Rows { tensor, batch: r.batch, head: r.head, seq: r.seq, feature: r.feature }
}

/// Tensors whose rows meet cannot be absent.
fn present(kernel: &CheckedKernel, lower: &Lower<'_>, body: &Body) -> Result<()> {
    let read = body.dots.iter().flat_map(|d| [d.x, d.y]).chain([body.value]);
    let made = kernel.made.iter().flat_map(|m| m.made.sources());
    for n in read.map(|r| r.tensor).chain(made).filter(|&n| lower.ids[n].is_none()) {
        let t = &kernel.tensors[n];
        if t.kind == TensorKind::Derived {
            continue;
        }
        let message = format!("`{}` has no neutral value here and cannot be absent", t.name);
        let help = Some(format!("bind `{}`, or remove `optional`", t.name));
        return Err(CompileError::spec(Code::BadPlanValue, t.span, message, "declared optional", help));
    }
    Ok(())
}

fn dots(steps: &mut Steps<'_>, body: &Body) -> Result<Vec<attn_ir::Dot>> {
    let mut dots = Vec::new();
    for dot in &body.dots {
        let x = steps.row_tensor("query_rows", &dot.x_row, dot.x, true)?;
        let y = steps.row_tensor("key_rows", &dot.y_row, dot.y, false)?;
        let var = steps.lower.pool.add_var("dot", Ty::Float);
        steps.lower.dots.push((dot.clone(), var));
        dots.push(attn_ir::Dot { x: rows_of(dot.x, x), y: rows_of(dot.y, y), var });
    }
    Ok(dots)
}

/// The shape of the rows that a body gives: the query's dims with the value's features.
pub(crate) fn result_shape(steps: &mut Steps<'_>, body: &Body) -> Result<Vec<ExprId>> {
    let (x, value) = (body.dots[0].x, body.value);
    let mut shape = steps.lower.shape(&steps.tensors, x.tensor)?;
    shape[x.feature] = steps.lower.shape(&steps.tensors, value.tensor)?[value.feature];
    Ok(shape)
}

/// Declares what the host gets.
fn declare_outputs(steps: &mut Steps<'_>, key: &PlanKey, body: &Body) -> Result<()> {
    let kernel = steps.kernel;
    let x = body.dots[0].x;
    let query = &kernel.tensors[x.tensor];
    let o_shape = result_shape(steps, body)?;
    let mut vector_shape = o_shape.clone();
    vector_shape.remove(x.feature);
    for fact in &kernel.outputs {
        let (dtype, shape, layout) = match &fact.kind {
            // Parts are merged in f32, and rounded once.
            OutputHir::O { .. } if key.shard.is_some() => (DType::F32, o_shape.clone(), query.layout.clone()),
            OutputHir::O { cast, .. } => {
                (cast.unwrap_or(query.elem.dtype(key.float)), o_shape.clone(), query.layout.clone())
            }
            _ => (DType::F32, vector_shape.clone(), (0..vector_shape.len()).collect()),
        };
        let (name, fact, origin) = (fact.name.clone(), Fact::None, Origin::Output);
        steps.tensors.push(attn_ir::Tensor { name, dtype, shape, layout, fact, origin, rest: None });
    }
    if merged_by_lse(steps) {
        let (name, layout) = ("lse".into(), (0..vector_shape.len()).collect());
        let (dtype, shape, fact, origin) = (DType::F32, vector_shape, Fact::None, Origin::Output);
        steps.tensors.push(attn_ir::Tensor { name, dtype, shape, layout, fact, origin, rest: None });
    }
    Ok(())
}

/// A shard that must return an `lse` which the text does not return.
fn merged_by_lse(steps: &Steps<'_>) -> bool {
    let softmax = steps.kernel.body.as_ref().is_some_and(|b| matches!(b.weight, WeightHir::Softmax(_)));
    let returned = steps.kernel.outputs.iter().any(|o| matches!(o.kind, OutputHir::Lse));
    steps.shard.is_some() && softmax && !returned
}

/// What the attention writes, and the steps that make results of it.
fn results(steps: &mut Steps<'_>, x: RowsFact) -> Result<Given> {
    let kernel = steps.kernel;
    let (mut attended, mut epilogues) = (Vec::new(), Vec::new());
    for fact in &kernel.outputs {
        let Some(n) = steps.tensors.iter().position(|t| t.name == fact.name && t.origin == Origin::Output)
        else {
            continue;
        };
        let (name, dtype) = (fact.name.clone(), steps.tensors[n].dtype);
        match &fact.kind {
            OutputHir::O { epilogue: Some(e), .. } => {
                let shape = steps.tensors[n].shape.clone();
                let raw = steps.declare("attended", DType::F32, shape.clone(), Fact::None);
                let name = steps.tensors[raw.0 as usize].name.clone();
                attended.push(Output { name, kind: OutputKind::O, dtype: DType::F32 });
                let before = steps.steps.len();
                epilogue(steps, e, Some(raw), x, &shape, TensorId(n as u32))?;
                epilogues.extend(steps.steps.drain(before..));
            }
            OutputHir::O { .. } => attended.push(Output { name, kind: OutputKind::O, dtype }),
            OutputHir::Lse => attended.push(Output { name, kind: OutputKind::Lse, dtype }),
            OutputHir::MaxLogit => attended.push(Output { name, kind: OutputKind::MaxLogit, dtype }),
            OutputHir::State(_) | OutputHir::Row(..) | OutputHir::Other | OutputHir::Combined { .. } => {}
        }
    }
    if merged_by_lse(steps) {
        attended.push(Output { name: "lse".into(), kind: OutputKind::Lse, dtype: DType::F32 });
    }
    Ok((attended, epilogues))
}

/// `out = e`, where `weight @ v` is what the attention wrote into `raw`.
pub(crate) fn epilogue(
    steps: &mut Steps<'_>,
    e: &Expr,
    raw: Option<TensorId>,
    x: RowsFact,
    shape: &[ExprId],
    out: TensorId,
) -> Result<()> {
    steps.lower.weighted = raw.map(|raw| (raw, x));
    let vars = steps.vars_of(x, true);
    let feature = steps.lower.pool.var(vars.index[x.feature]);
    let value = steps.result_element(e, &vars, feature, shape)?;
    steps.lower.weighted = None;
    let value = steps.at(value, &vars);
    let index = vars.index;
    let checks = vec![steps.without_scattered(value)];
    steps.steps.push(Step::Derive(Derive { out, index, sum: vec![], value, at_bind: false, checks }));
    Ok(())
}

fn constant(kernel: &CheckedKernel, lower: &Lower<'_>, size: ExprId, rows: RowsFact) -> Result<i64> {
    lower.pool.as_int(size).ok_or_else(|| {
        let t = &kernel.tensors[rows.tensor];
        let message = format!("the head count of `{}` is not a constant of the plan", t.name);
        let help = Some("size it by a dim, a number or a static parameter".into());
        CompileError::spec(Code::MissingDim, t.span, message, "declared here", help)
    })
}

fn kv_head(kernel: &CheckedKernel, lower: &mut Lower<'_>, n_heads: i64, n_kv: i64) -> Result<ExprId> {
    let h = lower.pool.var(lower.index.h);
    let needs_multiple = matches!(kernel.heads.map, HeadMap::Grouped | HeadMap::Interleaved);
    if needs_multiple && n_heads % n_kv != 0 {
        let message = format!("{n_heads} query heads are not a multiple of {n_kv} key heads");
        let help = Some("choose sizes that divide, or say `heads map by <expr in h>`".into());
        let span = kernel.heads.span;
        return Err(CompileError::spec(Code::HeadsDivide, span, message, "maps them", help));
    }
    Ok(match &kernel.heads.map {
        HeadMap::Same => h,
        HeadMap::Mqa => lower.pool.int(0),
        HeadMap::Grouped => {
            let group = lower.pool.int(n_heads / n_kv.max(1));
            let zero = lower.pool.int(0);
            if n_kv == 1 { zero } else { lower.pool.idiv(h, group) }
        }
        HeadMap::Interleaved => {
            let n = lower.pool.int(n_kv);
            if n_kv == n_heads { h } else { lower.pool.modulo(h, n) }
        }
        HeadMap::By(e) => {
            let map = lower.expr(e)?;
            check_head_map(kernel, lower, map, n_heads, n_kv)?;
            map
        }
    })
}

/// Every query head must map to a key head that exists.
fn check_head_map(
    kernel: &CheckedKernel,
    lower: &mut Lower<'_>,
    map: ExprId,
    n_heads: i64,
    n_kv: i64,
) -> Result<()> {
    for head in 0..n_heads.min(1 << 16) {
        let at = lower.pool.int(head);
        let value = lower.pool.substitute(map, &[(lower.index.h, at)]);
        let Some(kv) = lower.pool.as_int(value) else {
            let message = "the head map is not a constant of the plan for each h".to_string();
            let help = Some("use h, dims that the plan fixes, statics and numbers".into());
            let span = kernel.heads.span;
            return Err(CompileError::spec(Code::BadPlanValue, span, message, "this map", help));
        };
        if kv < 0 || kv >= n_kv {
            let message = format!("query head {head} maps to key head {kv}, outside 0..{n_kv}");
            let help = Some("for instance `heads map by h mod Hkv`".into());
            let span = kernel.heads.span;
            return Err(CompileError::spec(Code::BadPlanValue, span, message, "this map", help));
        }
    }
    Ok(())
}

fn weight(body: &Body, lower: &mut Lower<'_>) -> Result<Weight> {
    Ok(match &body.weight {
        WeightHir::Softmax(Some(sink)) if !lower.reads_absent(sink) => {
            Weight::Softmax { sink: Some(lower.expr(sink)?) }
        }
        WeightHir::Softmax(_) => Weight::Softmax { sink: None },
        WeightHir::Sigmoid => Weight::Sigmoid,
        WeightHir::Relu => Weight::Relu,
        WeightHir::Plain => Weight::Plain,
    })
}

/// The tiles that the text decides for the target.
fn tiles(kernel: &CheckedKernel, family: &str) -> TileOverride {
    let tile = kernel.schedules.iter().find(|s| s.target == family).and_then(|s| s.tile);
    TileOverride { tile_q: tile.map(|t| t.0), tile_kv: tile.map(|t| t.1) }
}
