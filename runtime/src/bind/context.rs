//! What one run needs and the next can use again: argument block, tables, workspace, scratch.
//!
//! Comes in: the values of all scalars. Goes out: memory of the right sizes, tables filled, task counts. What
//! holds when `ready`: sizes, tables, workspace and task counts belong to the scalars in `prepared`, so a run
//! with the same ones only rewrites addresses. Deliberately not done: shrinking.

use std::sync::PoisonError;

use attn_compiler::expr::eval::{Env, Value, eval};
use attn_compiler::expr::range::Range;
use attn_compiler::expr::{TensorId, VarId};

use super::tables::Table;
use crate::aligned::AlignedBuf;
use crate::cpu::launch::Scratch;
use crate::error::{DataFault, RuntimeError};
use crate::signature::Signature;
use crate::tensor::MAX_RANK;

/// Buffers of one run; a kernel keeps as many as runs were ever in flight at once.
pub(crate) struct RunContext {
    /// For each tensor of the artifact, its place in the call.
    pub bound: Vec<usize>,
    /// The value of each variable of the pool; only scalars matter.
    pub values: Vec<Value>,
    /// The tensor and axis that each dim was read from.
    pub sources: Vec<Option<(usize, usize)>>,
    /// Logical sizes of each tensor.
    pub sizes: Vec<[usize; MAX_RANK]>,
    /// The scalars for which the rest was prepared.
    pub prepared: Vec<Value>,
    /// See the head of this file.
    pub ready: bool,
    /// One for each table of the signature.
    pub tables: Vec<Table>,
    /// All workspace tensors, one after the other.
    pub workspace: AlignedBuf,
    /// Byte offset of each workspace tensor of the signature.
    pub workspace_at: Vec<usize>,
    /// Tasks of each launch.
    pub n_tasks: Vec<usize>,
    /// About how many products the run adds up, from its lengths alone: elements written times the longest length.
    pub work: usize,
    /// Ranges of the scanned tensors in this call.
    pub ranges: Vec<Range>,
    /// Those for which the checks were last proved, if they were for these scalars.
    pub proved_for: Vec<Range>,
    pub proved: bool,
    /// Ranges of the pool's nodes, of which those of `Signature::check_nodes` matter.
    pub node_ranges: Vec<Range>,
    /// For each page of a pool, how often it is named (`demands.rs`).
    pub named: Vec<u32>,
    /// The argument block.
    pub args: Vec<u64>,
    /// One for each thread of the widest run so far.
    pub scratch: Vec<Scratch>,
}

impl RunContext {
    pub fn new(sig: &Signature) -> RunContext {
        let n_tensors = sig.artifact.tensors.len();
        let n_vars = sig.scalar_of.len();
        RunContext {
            bound: vec![0; n_tensors],
            values: vec![Value::Int(0); n_vars],
            sources: vec![None; n_vars],
            sizes: vec![[1; MAX_RANK]; n_tensors],
            prepared: vec![Value::Int(0); n_vars],
            ready: false,
            tables: sig.tables.iter().map(|_| Table::default()).collect(),
            workspace: AlignedBuf::default(),
            workspace_at: vec![0; sig.workspaces.len()],
            n_tasks: vec![0; sig.artifact.launches.len()],
            work: 0,
            ranges: vec![Range::ALL; sig.scanned.len()],
            proved_for: vec![Range::ALL; sig.scanned.len()],
            proved: false,
            node_ranges: vec![
                Range::ALL;
                if sig.check_nodes.is_empty() { 0 } else { sig.artifact.pool.len() }
            ],
            named: Vec::new(),
            args: vec![0; sig.layout.words],
            scratch: Vec::new(),
        }
    }

    /// Makes scratch for `n` threads. Nothing happens when there is enough.
    pub fn ensure_scratch(&mut self, sig: &Signature, n: usize) -> Result<(), RuntimeError> {
        while self.scratch.len() < n {
            self.scratch.push(Scratch::new(AlignedBuf::zeroed(sig.scratch_bytes)?));
        }
        for s in &mut self.scratch {
            // A panic in a host's pool may have poisoned it; scratch holds nothing between tasks.
            s.get_mut().unwrap_or_else(PoisonError::into_inner).ensure(sig.scratch_bytes)?;
            s.clear_poison();
        }
        Ok(())
    }
}

/// Scalars by variable. Expressions evaluated with it were checked to read nothing else.
pub(crate) struct Scalars<'a>(pub &'a [Value]);

impl Env for Scalars<'_> {
    fn var(&self, var: VarId) -> Value {
        self.0[var.0 as usize]
    }

    fn load(&self, _: TensorId, _: &[i64]) -> Value {
        Value::Int(0)
    }
}

/// Fills tables, lays out the workspace, counts tasks, for `ctx.values` and `ctx.sizes`.
pub(super) fn prepare(sig: &Signature, ctx: &mut RunContext) -> Result<(), RuntimeError> {
    for (n, &t) in sig.tables.iter().enumerate() {
        ctx.tables[n].refresh(sig, t, &sig.table_reads[n], &ctx.sizes[t], &ctx.values)?;
    }
    let mut total = 0;
    for (n, &t) in sig.workspaces.iter().enumerate() {
        ctx.workspace_at[n] = total;
        total = add_tensor(sig, t, ctx, total)?;
    }
    if !sig.on_device {
        ctx.workspace.ensure(total)?;
    }
    for (n, launch) in sig.artifact.launches.iter().enumerate() {
        ctx.n_tasks[n] = count_tasks(sig, &launch.grid, &ctx.values).ok_or_else(|| {
            too_large(format!("launch `{}` has more tasks than can be counted", launch.name))
        })?;
    }
    ctx.work = work(sig, ctx);
    ctx.proved = false;
    ctx.prepared.copy_from_slice(&ctx.values);
    ctx.ready = true;
    Ok(())
}

/// See [`RunContext::work`]. Masks make it less; then it is too high, and threads are woken that have little to do.
fn work(sig: &Signature, ctx: &RunContext) -> usize {
    let elements = |&t: &usize| {
        let shape = &ctx.sizes[t][..sig.artifact.tensors[t].shape.len()];
        shape.iter().fold(1usize, |n, &s| n.saturating_mul(s))
    };
    let written = sig.outputs.iter().map(elements).fold(0, usize::saturating_add);
    let lengths = sig.artifact.scalars.iter().filter(|s| s.is_dim);
    let longest = lengths.map(|s| ctx.values[s.var.0 as usize].int()).max().unwrap_or(i64::MAX);
    written.saturating_mul(usize::try_from(longest).unwrap_or(0))
}

/// Bytes of all workspace tensors and tables, from `ctx.sizes`.
pub(super) fn made_bytes(sig: &Signature, ctx: &RunContext) -> Result<usize, RuntimeError> {
    sig.workspaces.iter().chain(&sig.tables).try_fold(0, |total, &t| add_tensor(sig, t, ctx, total))
}

/// `total` and the bytes of tensor `t`, rounded up to whole cache lines.
fn add_tensor(sig: &Signature, t: usize, ctx: &RunContext, total: usize) -> Result<usize, RuntimeError> {
    tensor_bytes(sig, t, &ctx.sizes[t])
        .and_then(|b| b.checked_next_multiple_of(64)?.checked_add(total))
        .filter(|b| isize::try_from(*b).is_ok())
        .ok_or_else(|| too_large("the workspace has more bytes than an address can count"))
}

/// Bytes of a contiguous tensor of these sizes.
pub(crate) fn tensor_bytes(sig: &Signature, t: usize, sizes: &[usize; MAX_RANK]) -> Option<usize> {
    let spec = &sig.artifact.tensors[t];
    sizes[..spec.shape.len()].iter().try_fold(spec.dtype.size(), |n, &s| n.checked_mul(s))
}

/// Product of the extents; a negative extent is an empty grid.
fn count_tasks(sig: &Signature, grid: &[attn_compiler::expr::ExprId], values: &[Value]) -> Option<usize> {
    let mut n = 1i64;
    let mut empty = false;
    for &extent in grid {
        let extent = eval(&sig.artifact.pool, extent, &Scalars(values)).int();
        empty |= extent <= 0;
        n = n.checked_mul(extent.max(1))?;
    }
    if empty { Some(0) } else { usize::try_from(n).ok() }
}

fn too_large(message: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::data(DataFault::Size, format!("{message}; use shorter lengths or a smaller batch"))
}
