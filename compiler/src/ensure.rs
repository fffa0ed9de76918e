//! The promises of `ensure`, checked when a kernel is planned.
//!
//! Comes in: a plan and the promises of its kernel. Goes out: one diagnostic for each promise that does not hold
//! or cannot be proved. `work` is the area of the executed tiles over Sq * Sk, the mean over heads, counted by the
//! tile classes of `mask` at the sizes given with `at`; `sram` is what one task keeps in the cache. A `work` that
//! depends on the contents of a tensor is not provable and says so: a worst case over all contents would be 1.

use std::collections::HashMap;

use crate::artifact::PANEL;
use crate::attn_ir::Attention;
use crate::diagnostic::{Code, Diagnostic};
use crate::expr::eval::{Env, Value, eval};
use crate::expr::print::print;
use crate::expr::{ExprId, Op, Pool, TensorId, Ty, VarId};
use crate::mask::host::{Classifier, TileGrid, TileMap};
use crate::mask::rows::{Lengths, RowsNonempty};
use crate::mask::{self, MaskAnalysis};
use crate::pipeline::{AttendPlan, Plan};
use crate::sema::CheckedKernel;
use crate::sema::model::{Ensure, Promise};
use crate::tile_ir::Require;

/// Values of variables; tensors have none.
#[derive(Clone, Debug, Default)]
pub struct Scalars {
    /// By variable.
    pub values: HashMap<VarId, Value>,
}

impl Env for Scalars {
    fn var(&self, var: VarId) -> Value {
        self.values.get(&var).copied().unwrap_or(Value::Int(0))
    }

    fn load(&self, _: TensorId, _: &[i64]) -> Value {
        Value::Int(0)
    }
}

/// Analyses the mask of an attention (as written, before tabulation); new nodes go into `pool`, a copy of its pool.
pub fn analyze_mask(attn: &Attention, pool: &mut Pool) -> MaskAnalysis {
    with_facts(attn, |facts| mask::analyze(pool, attn.mask, facts))
}

/// Calls `f` with the facts that the mask analysis may use about an attention.
fn with_facts<T>(attn: &Attention, f: impl FnOnce(&mask::Facts) -> T) -> T {
    let tensors = |id: TensorId| {
        let t = attn.tensor(id);
        mask::TensorFacts { fact: t.fact, shape: t.shape.clone() }
    };
    let ix = attn.index;
    f(&mask::Facts { i: ix.i, j: ix.j, row: ix.row, offset: attn.offset, tensors: &tensors })
}

/// Checks every promise of a kernel, for each of its attentions. What a promise needs of run-time sizes becomes a
/// launch condition of the plan.
pub fn check(plan: &mut Plan, kernel: &CheckedKernel) -> Vec<Diagnostic> {
    let mut broken = Vec::new();
    for ensure in &kernel.ensures {
        for attend in plan.attends.clone() {
            let (found, require) = check_one(&attend, ensure, &mut plan.program.pool);
            broken.extend(found);
            plan.program.requires.extend(require);
        }
    }
    broken
}

type Checked = (Option<Diagnostic>, Option<Require>);

fn check_one(plan: &AttendPlan, ensure: &Ensure, program: &mut Pool) -> Checked {
    match ensure.promise {
        Promise::Sram(limit) => {
            let used = plan.schedule.sram_bytes() as i64;
            let broken = (used > limit).then(|| {
                let parts: Vec<String> =
                    plan.schedule.sram.iter().map(|s| format!("{} {}", s.name, s.bytes)).collect();
                Diagnostic::error(
                    Code::BrokenPromise,
                    ensure.span,
                    format!("a task needs {used} bytes, more than {limit}"),
                )
                .label("this promise does not hold")
                .note(parts.join(", "))
                .help("take a smaller tile with `schedule cpu { tile = [..] }`")
            });
            (broken, None)
        }
        Promise::Work(limit) => (check_work(plan, ensure, limit), None),
        Promise::RowsNonempty => check_rows(plan, ensure, program),
    }
}

fn check_rows(plan: &AttendPlan, ensure: &Ensure, program: &mut Pool) -> Checked {
    let mut pool = plan.attention.pool.clone();
    let unprovable = |why: String| {
        let d =
            Diagnostic::error(Code::UnprovablePromise, ensure.span, "cannot prove that every row sees a key");
        d.label("not provable")
            .note(why)
            .help("make a key that every row sees visible in the mask, such as `j == i`, or drop the promise")
    };
    match rows_nonempty(&plan.attention, &mut pool) {
        RowsNonempty::Proved { given, .. } if pool.as_bool(given) == Some(true) => (None, None),
        RowsNonempty::Proved { given, witness } => {
            let ix = plan.attention.index;
            let text = print(&pool, given, &|t| plan.attention.tensor(t).name.clone());
            if pool.depends_on(given, &[ix.b, ix.h]) {
                return (Some(unprovable(format!("every row sees {witness}, but only where {text}"))), None);
            }
            let cond = program.import(&pool, given, &|v| v);
            let message = format!(
                "`ensure rows_nonempty` holds only where {text}: these sizes leave a row without a key"
            );
            (None, Some(Require { cond, message }))
        }
        RowsNonempty::Fails { row } => {
            let d = Diagnostic::error(Code::BrokenPromise, ensure.span, "a row sees no key")
                .label("this promise does not hold")
                .note(format!("row: {row}"))
                .help("such a row returns 0 and its lse is -inf; widen the mask, or drop the promise");
            (Some(d), None)
        }
        RowsNonempty::Unknown { why } => (Some(unprovable(why)), None),
    }
}

/// Asks `mask` about the rows of an attention.
fn rows_nonempty(attn: &Attention, pool: &mut Pool) -> RowsNonempty {
    let lengths = Lengths { seq_q: attn.seq_q, seq_k: attn.seq_k };
    with_facts(attn, |facts| mask::rows::rows_nonempty(pool, attn.mask, facts, &lengths))
}

fn check_work(plan: &AttendPlan, ensure: &Ensure, limit: f64) -> Option<Diagnostic> {
    match work(plan, &ensure.at) {
        Ok(work) if work <= limit => None,
        Ok(work) => Some(
            Diagnostic::error(
                Code::BrokenPromise,
                ensure.span,
                format!("the executed tiles are {work:.4} of Sq * Sk, more than {limit}"),
            )
            .label("this promise does not hold")
            .note(format!("with tiles of [{}, {}]", plan.schedule.tile_q, plan.schedule.tile_kv))
            .help("`attnc explain` shows which clause keeps which tiles; a smaller tile follows the mask more closely"),
        ),
        Err(why) => Some(
            Diagnostic::error(Code::UnprovablePromise, ensure.span, "cannot prove how many tiles are executed")
                .label("not provable")
                .note(why),
        ),
    }
}

/// Executed tile area over Sq * Sk, the mean over heads.
fn work(plan: &AttendPlan, at: &[(String, Value)]) -> Result<f64, String> {
    let attn = &plan.attention;
    let mut pool = attn.pool.clone();
    let analysis = analyze_mask(attn, &mut pool);
    let (may, _) = analysis.symbolic();
    for id in pool.reachable(&[may]) {
        if let Op::Load(t, _, _) = pool.op(id) {
            return Err(format!("it depends on the contents of `{}`", attn.tensor(*t).name));
        }
    }
    if let Some(t) = attn.lengths().first() {
        return Err(format!("how many keys there are stands in `{}`", attn.tensor(*t).name));
    }
    let mut env = scalars(attn, at)?;
    let mut classifier = Classifier::new(&pool, &analysis);
    let mut executed = 0.0;
    let grid = tile_grid(attn, &pool, &env, plan.schedule.tile_q, plan.schedule.tile_kv);
    for h in 0..attn.n_heads {
        env.values.insert(attn.index.h, Value::Int(h));
        executed += area(&classifier.map(&grid, &env), &grid);
    }
    Ok(executed / (attn.n_heads as f64 * grid.seq_q as f64 * grid.seq_k as f64).max(1.0))
}

/// The tile grid of an attention at concrete sizes.
pub fn tile_grid(attn: &Attention, pool: &Pool, env: &dyn Env, tile_q: i64, tile_kv: i64) -> TileGrid {
    let size = |id: ExprId| eval(pool, id, env).int();
    let (seq_q, seq_k, offset) = (size(attn.seq_q), size(attn.seq_k), size(attn.offset));
    TileGrid { seq_q, seq_k, offset, tile_q, tile_kv, panel: PANEL as i64 }
}

/// Pairs that are worked on: the panels of the tiles that are not empty.
pub fn area(map: &TileMap, grid: &TileGrid) -> f64 {
    let rows = grid.query_tiles().into_iter().map(|(lo, hi)| hi - lo + 1);
    let of_row = map.n_keys.chunks(map.n_k_tiles.max(1)).map(|keys| keys.iter().sum::<i64>());
    rows.zip(of_row).map(|(rows, keys)| (rows * keys) as f64).sum()
}

/// Values for every dim and parameter: those of `at`, then defaults, then batch 1; a length without either is an error.
fn scalars(attn: &Attention, at: &[(String, Value)]) -> Result<Scalars, String> {
    let mut env = Scalars::default();
    let given = |name: &str| at.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
    for (name, var) in attn.runtime_dims() {
        let batch = matches!(attn.pool.op(attn.batch), Op::Var(v) if *v == var);
        let value = given(&name).or(batch.then_some(Value::Int(1)));
        let value =
            value.ok_or_else(|| format!("no size is given for dim {name}: write `at ({name} = ...)`"))?;
        env.values.insert(var, value);
    }
    for p in &attn.params {
        let value = given(&p.name).or(p.default);
        let value = value.ok_or_else(|| format!("no value is given for parameter {}", p.name))?;
        let value = match (attn.pool.var_info(p.var).ty, value) {
            (Ty::Float, Value::Int(x)) => Value::Float(x as f64),
            _ => value,
        };
        env.values.insert(p.var, value);
    }
    Ok(env)
}
