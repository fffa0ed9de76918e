//! Lowering: an [`Attention`] and its [`Schedule`] become a tile IR [`Program`].
//!
//! What holds afterwards: every loop, buffer, product and launch of the program is explicit, and nothing in it
//! says which attention it came from. The algorithm is the tiled online softmax (Milakov and Gimelshein 2018;
//! FlashAttention 2, Dao 2023): K and V are packed once into panels, then each task takes one query tile
//! through the key tiles that its mask can reach. Where the schedule splits the keys, a task takes one run of them, and a
//! last launch merges what they give.
//!
//! Not done here: simplification (constant branches, identity maps), splitting of elementary functions; those
//! are `passes`.

pub mod accumulate;
mod attend;
pub mod checks;
pub mod choose;
pub mod derive;
mod guards;
pub mod in_pages;
mod merge;
pub mod operands;
mod pack;
mod pages;
mod parts;
pub mod rank;
pub mod recur;
mod scale;
mod search;
pub mod stored;
pub mod tabulate;
pub mod write;

use crate::artifact::DType;
use crate::attn_ir::{Attention, Dim, Fact, Origin, OutputKind, Param, Rows, Tensor};
use crate::expr::{ExprId, Op, Pool, TensorId};
use crate::schedule::Schedule;
use crate::schedule::sweep::Sweep;
use crate::tile_ir::{Launch, Program, Require, ScalarArg, Stmt, TensorDecl, TensorKind};

use in_pages::InPages;
pub use pack::in_place;
pub use tabulate::Table;

/// What lowering is asked to lower.
pub struct Input<'a> {
    /// The attention, after [`tabulate::tabulate`].
    pub attn: &'a Attention,
    /// Its tables; their tensor ids follow those of the inputs.
    pub tables: &'a [Table],
    /// Decisions.
    pub schedule: &'a Schedule,
    /// What each weight is multiplied by before the values: a float expression of (b, h, j) ([`stored`]).
    pub value_factor: Option<ExprId>,
    /// How calls of few rows are computed, where that is in another way.
    pub sweep: Option<Sweeping<'a>>,
    /// Bool over the sizes: this is how the call at hand is computed; none where it always is.
    pub when: Option<ExprId>,
}

/// Calls of few rows as a launch of their own.
#[derive(Clone, Copy)]
pub struct Sweeping<'a> {
    /// Decisions.
    pub sweep: &'a Sweep,
    /// Rows that lie in pages.
    pub pages: &'a InPages,
}

impl Sweeping<'_> {
    /// Do such calls have a launch of their own? Else they differ in where products find their keys.
    fn is_apart(&self, attn: &Attention) -> bool {
        self.sweep.key_heads > 1 || self.pages.are_scaled(attn)
    }
}

impl<'a> Input<'a> {
    /// Every call in the way of the schedule.
    pub fn new(attn: &'a Attention, tables: &'a [Table], schedule: &'a Schedule) -> Input<'a> {
        Input { attn, tables, schedule, value_factor: None, sweep: None, when: None }
    }

    /// Key heads that a task takes.
    fn key_heads(&self) -> i64 {
        self.sweep.map_or(1, |s| s.sweep.key_heads)
    }
}

/// Lowers one attention on its own to the CPU form of the tile IR.
pub fn lower(input: &Input) -> Program {
    let a = input.attn;
    let names = Names { name: &a.name, pool: &a.pool, dims: &a.dims, params: &a.params, tensors: &a.tensors };
    let mut program = declare(&names);
    program.tensors.extend(input.tables.iter().map(Table::declare));
    attention(&mut program, input);
    program
}

/// Adds the launches of one attention to a program that declares its tensors and tables, and whose pool is a copy
/// of the attention's.
pub fn attention(program: &mut Program, input: &Input) {
    let (attn, whole) = (input.attn, input);
    let input = &Input { sweep: None, ..*whole };
    let mut builder = Builder { program: std::mem::replace(program, empty()), outputs: Vec::new() };
    builder.declare_outputs(attn);
    builder.program.requires.extend(probability(attn, &mut builder.program.pool));
    let keys: Vec<pack::PackedKeys> =
        attn.dots.iter().map(|dot| pack::declare_keys(&mut builder, input, dot.y)).collect();
    let values = pack::declare_values(&mut builder, input);
    // An attention before this one may have packed the same keys.
    let packed_by = |s: &Stmt| if let Stmt::PackK { dst, .. } = s { Some(dst.tensor) } else { None };
    let before: Vec<TensorId> =
        builder.program.launches.iter().flat_map(|l| l.body.iter().filter_map(packed_by)).collect();
    let mut launches: Vec<Launch> = Vec::new();
    let packs = pack::direct(&mut builder, input).is_none_or(|d| builder.program.pool.as_bool(d).is_none());
    for (n, k) in keys.iter().enumerate().filter(|_| packs) {
        if keys[..n].iter().all(|earlier| earlier.packed != k.packed) && !before.contains(&k.packed) {
            launches.push(pack::pack_keys(&mut builder, input, k));
        }
    }
    if packs && attend::weighs_values(attn) {
        launches.push(pack::pack_values(&mut builder, input, &values));
    }
    launches.extend(attends(&mut builder, whole, packs, (&keys, &values)));
    for mut launch in launches {
        launch.name = fresh(&launch.name, builder.program.launches.iter().map(|l| l.name.as_str()));
        builder.program.launches.push(launch);
    }
    *program = builder.program;
}

/// The launches that attend: one way, or one for calls of few rows and one for the others, of which one has tasks.
fn attends(
    builder: &mut Builder,
    input: &Input,
    packs: bool,
    packed: (&[pack::PackedKeys], &pack::PackedValues),
) -> Vec<Launch> {
    let Some(sweeping) = input.sweep.filter(|s| s.is_apart(input.attn)) else {
        return way(builder, input, packed);
    };
    let Some(few) = pack::direct(builder, input) else {
        return way(builder, &Input { sweep: None, ..*input }, packed);
    };
    let mut out = Vec::new();
    if packs {
        let schedule = Schedule { direct: 0, ..input.schedule.clone() };
        let many = Some(builder.pool().not(few));
        let input = Input { schedule: &schedule, sweep: None, when: many, ..*input };
        out.extend(way(builder, &input, packed));
    }
    let schedule = sweeping.sweep.schedule(input.schedule);
    let (attn, value_factor) = attend::own(builder, input);
    let when = packs.then_some(few);
    let input = Input { attn: &attn, value_factor, schedule: &schedule, when, ..*input };
    let mut launches = way(builder, &input, packed);
    if let Some(attend) = launches.first_mut() {
        attend.name = "attend_few".into();
    }
    out.extend(launches);
    out
}

/// The launches of one way.
fn way(
    builder: &mut Builder,
    input: &Input,
    (keys, values): (&[pack::PackedKeys], &pack::PackedValues),
) -> Vec<Launch> {
    let parts = merge::declare(builder, input);
    let attend = attend::attend(builder, input, keys, values, parts.as_ref());
    let merge = parts.map(|parts| merge::merge(builder, input, &parts));
    [attend].into_iter().chain(merge).collect()
}

/// A share that is dropped is a probability, and something is kept.
fn probability(attn: &Attention, pool: &mut Pool) -> Option<Require> {
    let p = attn.dropout.map(|d| d.p).filter(|p| pool.as_const(*p).is_none())?;
    let (zero, one) = (pool.float(0.0), pool.float(1.0));
    let (low, high) = (pool.le(zero, p), pool.lt(p, one));
    let message = "the probability of dropping lies in 0 to below 1".into();
    Some(Require { cond: pool.and(low, high), message })
}

/// A name that is not taken yet.
fn fresh<'a>(name: &str, taken: impl Iterator<Item = &'a str> + Clone) -> String {
    let free = |n: &String| taken.clone().all(|t| t != n);
    let numbered = (2..).map(|k| format!("{name}{k}"));
    std::iter::once(name.to_string()).chain(numbered).find(free).unwrap_or_default()
}

fn empty() -> Program {
    Program {
        name: String::new(),
        pool: Pool::new(),
        dims: vec![],
        params: vec![],
        tensors: vec![],
        requires: vec![],
        launches: vec![],
    }
}

/// A program under construction.
pub(crate) struct Builder {
    /// What has been made.
    pub program: Program,
    /// Tensor of each output of the attention, in its order.
    pub outputs: Vec<TensorId>,
}

impl Builder {
    /// The pool.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.program.pool
    }

    /// Adds a tensor to the table.
    pub fn tensor(&mut self, name: &str, kind: TensorKind, dtype: DType, shape: Vec<ExprId>) -> TensorId {
        let layout = (0..shape.len()).collect();
        let name = fresh(name, self.program.tensors.iter().map(|t| t.name.as_str()));
        self.program.tensors.push(TensorDecl { name, kind, dtype, shape, layout, fact: Fact::None });
        TensorId(self.program.tensors.len() as u32 - 1)
    }

    /// Finds the tensors that the attention writes; an attention on its own has not declared them.
    fn declare_outputs(&mut self, attn: &Attention) {
        for out in &attn.outputs {
            if let Some(n) = self.program.tensors.iter().position(|t| t.name == out.name) {
                self.outputs.push(TensorId(n as u32));
                continue;
            }
            let query = attn.dots[0].x;
            let mut decl = TensorDecl {
                name: out.name.clone(),
                kind: TensorKind::Output,
                dtype: out.dtype,
                shape: output_shape(attn, out.kind),
                layout: Vec::new(),
                fact: Fact::None,
            };
            decl.layout = match out.kind {
                OutputKind::O => attn.tensor(query.tensor).layout.clone(),
                _ => (0..decl.shape.len()).collect(),
            };
            self.program.tensors.push(decl);
            self.outputs.push(TensorId(self.program.tensors.len() as u32 - 1));
        }
    }
}

/// Logical shape of an output: the query's dims, with the value's features for `o` and without features else.
pub fn output_shape(attn: &Attention, kind: OutputKind) -> Vec<ExprId> {
    let query = attn.dots[0].x;
    let mut shape = attn.tensor(query.tensor).shape.clone();
    match kind {
        OutputKind::O => shape[query.feature] = attn.tensor(attn.value.tensor).shape[attn.value.feature],
        OutputKind::Lse | OutputKind::MaxLogit => {
            shape.remove(query.feature);
        }
    }
    shape
}

/// What a program declares before its launches.
pub struct Names<'a> {
    /// Kernel name.
    pub name: &'a str,
    /// Expressions of the declarations, and more.
    pub pool: &'a Pool,
    /// Dims.
    pub dims: &'a [Dim],
    /// Parameters.
    pub params: &'a [Param],
    /// Tensors.
    pub tensors: &'a [Tensor],
}

/// A program with the declarations of a kernel and no launches.
pub fn declare(names: &Names) -> Program {
    let mut pool = names.pool.clone();
    let dim = |d: &Dim| match pool.op(d.size) {
        Op::Var(var) => Some(ScalarArg { name: d.name.clone(), var: *var, default: None }),
        _ => None,
    };
    let dims = names.dims.iter().filter_map(dim).collect();
    let param = |p: &Param| ScalarArg { name: p.name.clone(), var: p.var, default: p.default };
    let tensor = |t: &Tensor| TensorDecl {
        name: t.name.clone(),
        kind: match t.origin {
            Origin::Host => TensorKind::Input,
            Origin::Output => TensorKind::Output,
            Origin::Updated => TensorKind::Updated,
            Origin::Made => TensorKind::Workspace,
        },
        dtype: t.dtype,
        shape: t.shape.clone(),
        layout: t.layout.clone(),
        fact: t.fact,
    };
    let requires = requires(names.dims, &mut pool);
    Program {
        name: names.name.into(),
        pool,
        dims,
        params: names.params.iter().map(param).collect(),
        tensors: names.tensors.iter().map(tensor).collect(),
        requires,
        launches: Vec::new(),
    }
}

/// Declared bounds of run-time dims, and `Hq` divisible where it was only known now.
fn requires(dims: &[Dim], pool: &mut Pool) -> Vec<Require> {
    let mut out = Vec::new();
    for dim in dims {
        let (Some((lo, hi)), None) = (dim.bounds, pool.as_int(dim.size)) else { continue };
        let (low, high) = (pool.int(lo), pool.int(hi));
        let (above, below) = (pool.le(low, dim.size), pool.le(dim.size, high));
        let cond = pool.and(above, below);
        let message = format!("dim {} is declared {lo}..{hi}: bind tensors of such a length", dim.name);
        out.push(Require { cond, message });
    }
    out
}

/// Where a row tensor is read: one index for each logical dim, 0 in the row and feature dims unless given.
pub(crate) fn rows_index(
    pool: &mut Pool,
    attn: &Attention,
    rows: Rows,
    b: ExprId,
    head: ExprId,
    first: ExprId,
) -> Vec<ExprId> {
    let rank = attn.tensor(rows.tensor).shape.len();
    let zero = pool.int(0);
    let mut index = vec![zero; rank];
    if let Some(d) = rows.batch {
        index[d] = b;
    }
    if let Some(d) = rows.head {
        index[d] = head;
    }
    index[rows.seq] = first;
    index
}
