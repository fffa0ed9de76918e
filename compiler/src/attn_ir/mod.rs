//! The attention IR: WHAT is computed. No tiles, no targets, no loops.
//!
//! Comes in from `sema`: a checked kernel with its statics folded, its feature dims and head counts fixed and
//! its dtypes chosen. Goes out to `mask`, `schedule` and `lower`. What holds: every name is resolved, every
//! expression is typed, every tensor axis has a role. Not here: how anything is tiled, packed or launched.
//!
//! Meaning of an [`Attention`], for each batch b, query head h and query row:
//! `i = row + offset`; over all keys j in 0..seq_k (of batch b), `score(b, h, i, j)` with each dot variable standing for the
//! dot product of the query row of (b, h, row) and the key row of (b, kv_head(h), j); pairs where `mask` is
//! false or the score is -inf take no part; the weights follow [`Weight`]; `o = sum_j w_j v_j`.
//! [`dense`] evaluates exactly this in f64.
//!
//! A [`Kernel`] is one or more such steps: tensors derived from others ([`Derive`]: rotated rows, feature maps,
//! gates), attentions between them, recurrences ([`recur`]). [`evaluate`] evaluates all of it.

pub mod choose;
pub mod dense;
pub mod evaluate;
pub mod kernel;
pub mod made_up;
pub mod needed;
pub mod recur;
pub mod text;
pub mod write;

pub use choose::{Count, RANK_ROWS, Rank, Top};
pub use kernel::{Accumulate, Derive, Kernel, Measure, Side, Step};
pub use write::{Demand, Write};

use crate::artifact::DType;
use crate::expr::eval::Value;
use crate::expr::{ExprId, Pool, TensorId, VarId};

/// A named size.
#[derive(Clone, Debug, PartialEq)]
pub struct Dim {
    /// Name in the specification.
    pub name: String,
    /// A constant (specialised or fixed), the variable of a run-time length, or an expression of other dims.
    pub size: ExprId,
    /// Inclusive bounds declared with `lo..hi`.
    pub bounds: Option<(i64, i64)>,
}

/// A run-time scalar argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Name in the specification; also the printed name of `var`.
    pub name: String,
    /// Its variable in the pool; the type is the variable's.
    pub var: VarId,
    /// Value when the host gives none.
    pub default: Option<Value>,
}

/// A fact about the contents of a one-dimensional-per-row integer tensor, verified at every bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Nothing is promised.
    None,
    /// Non-decreasing along its last dim.
    Sorted,
    /// Non-decreasing or non-increasing along its last dim.
    Monotone,
}

/// Who writes a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The host binds it; read only.
    #[default]
    Host,
    /// A step makes it for later ones; f32, i32 or bit, never seen by the host.
    Made,
    /// A step makes it for the host.
    Output,
    /// The host binds it, steps write some of it in place and read what it holds then.
    Updated,
}

/// A tensor: an input, or what a step makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name in the specification.
    pub name: String,
    /// Storage type (`float` already resolved).
    pub dtype: DType,
    /// Sizes of the logical dims, in the order of the declaration. Int expressions over dims.
    pub shape: Vec<ExprId>,
    /// The logical dim at each axis of the bound tensor: `[1, 0, 2]` for `float[Hq, T, D] layout (T, Hq, D)`.
    pub layout: Vec<usize>,
    /// Promise about the contents.
    pub fact: Fact,
    /// Who writes it.
    pub origin: Origin,
    /// The tensor of what rounding to `dtype` left: an element is the sum of both. Only rows of attentions are kept so.
    pub rest: Option<TensorId>,
}

/// A tensor of rows: which logical dim plays which role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The tensor.
    pub tensor: TensorId,
    /// The batch dim, if there is one.
    pub batch: Option<usize>,
    /// The head dim, if there is one.
    pub head: Option<usize>,
    /// The sequence dim.
    pub seq: usize,
    /// The feature dim.
    pub feature: usize,
}

impl Rows {
    /// What stands for the variables of a derived tensor with these rows, one for each dim, at a batch entry, a head and a
    /// place along the sequence. The feature is left.
    pub fn place(&self, index: &[VarId], (b, head, at): (ExprId, ExprId, ExprId)) -> Vec<(VarId, ExprId)> {
        let own = [(self.batch, b), (self.head, head), (Some(self.seq), at)];
        own.into_iter().filter_map(|(dim, e)| Some((index[dim?], e))).collect()
    }
}

/// A dot product over a feature dim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dot {
    /// Read at (b, h, row).
    pub x: Rows,
    /// Read at (b, kv_head(h), j).
    pub y: Rows,
    /// The float variable that stands for it in the score.
    pub var: VarId,
}

/// How scores become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// `exp(s) / (sum_j exp(s_j) + exp(sink))`; the sink is a float expression of b and h.
    Softmax {
        /// Extra logit that takes weight and gives no value.
        sink: Option<ExprId>,
    },
    /// `1 / (1 + exp(-s))`
    Sigmoid,
    /// `max(s, 0)`
    Relu,
    /// `s`
    Plain,
}

/// Weights dropped at random, after normalisation: the weight of (b, h, i, j) becomes 0 where
/// `expr::rand::word(j, i, b * n_heads + h, offset, seed)` is below the threshold, else it grows by the scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropout {
    /// Float, 0 to below 1: the share that is dropped.
    pub p: ExprId,
    /// Int: `round(p * 2^32)`, formed in f64.
    pub threshold: ExprId,
    /// Float: `1 / (1 - p)`.
    pub keep_scale: ExprId,
    /// Int: the key.
    pub seed: ExprId,
    /// Int: the draw.
    pub offset: ExprId,
}

/// What an output holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// `weight @ v`: the query's dims with the value's feature dim, in the query's layout.
    O,
    /// Natural log of the sum of exp of the scores, f32 `[B, H, Sq]`.
    Lse,
    /// Largest score of the row, -inf where no key is seen, f32 `[B, H, Sq]`.
    MaxLogit,
}

/// A returned tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Name that the host binds.
    pub name: String,
    /// What it holds.
    pub kind: OutputKind,
    /// Storage type.
    pub dtype: DType,
}

/// The index variables of an attention, all int.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexVars {
    /// Batch.
    pub b: VarId,
    /// Query head.
    pub h: VarId,
    /// Logical query position.
    pub i: VarId,
    /// Key position.
    pub j: VarId,
    /// Row of the query tensor.
    pub row: VarId,
}

/// How products may round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// As the types of the inputs and results allow.
    #[default]
    ByType,
    /// `dot = exact`: as f32.
    Exact,
    /// `dot = tf32`: factors may be rounded to 11 bits, where that makes products faster.
    Tf32,
}

/// How rounding and reproducibility are asked for (`numerics { ... }`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numerics {
    /// `dot = ...`
    pub products: Products,
    /// `split = fixed(n)`: results over keys 0..n, n..2n and so on, each by itself, merged in this order by their lse.
    pub split: Option<i64>,
    /// `batch_invariant = true`: what a batch entry gives does not depend on the others, nor on how many they are.
    pub batch_invariant: bool,
}

/// Tile overrides from `schedule cpu { ... }`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileOverride {
    /// Query rows of a tile.
    pub tile_q: Option<i64>,
    /// Keys of a tile.
    pub tile_kv: Option<i64>,
}

/// One attention kernel.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Kernel name.
    pub name: String,
    /// Every expression below lives here.
    pub pool: Pool,
    /// All dims in order of declaration.
    pub dims: Vec<Dim>,
    /// Run-time scalars in order of declaration.
    pub params: Vec<Param>,
    /// Those of the kernel, in its order; `TensorId(n)` is the n-th.
    pub tensors: Vec<Tensor>,
    /// Index variables.
    pub index: IndexVars,
    /// Batch size (constant 1 without a batch dim).
    pub batch: ExprId,
    /// Query heads, a constant.
    pub n_heads: i64,
    /// Key heads, a constant.
    pub n_kv_heads: i64,
    /// Key head of query head h: an int expression of `index.h`.
    pub kv_head: ExprId,
    /// Query rows.
    pub seq_q: ExprId,
    /// Keys, of which the first key tensor holds at least as many ([`Attention::capacity`]): an int expression of
    /// dims and params, or of b through loads of bound tensors where each batch entry has a length of its own.
    pub seq_k: ExprId,
    /// `i - row`: 0, or `seq_k - seq_q` for `align bottom_right`. Reads what `seq_k` may read.
    pub offset: ExprId,
    /// The dots of the score, at least one. `dots[0].x` is "the query".
    pub dots: Vec<Dot>,
    /// Float expression of b, h, i, j, row, dots, dims, params, tensors.
    pub score: ExprId,
    /// Bool expression of the same without dots; constant true when there is no mask.
    pub mask: ExprId,
    /// Score to weight.
    pub weight: Weight,
    /// Which weights are dropped.
    pub dropout: Option<Dropout>,
    /// The values, read at (b, kv_head(h), j).
    pub value: Rows,
    /// Outputs in order of `return`.
    pub outputs: Vec<Output>,
    /// Overrides of the CPU schedule.
    pub tiles: TileOverride,
    /// Rounding.
    pub numerics: Numerics,
}

impl Attention {
    /// The tensor's declaration.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0 as usize]
    }

    /// The constant size of a feature dim.
    pub fn feature_dim(&self, rows: Rows) -> i64 {
        self.pool.as_int(self.tensor(rows.tensor).shape[rows.feature]).unwrap_or(0)
    }

    /// A key's place: batch entry, key head, key.
    pub fn key_place(&self, pool: &mut Pool) -> (ExprId, ExprId, ExprId) {
        (pool.var(self.index.b), self.kv_head, pool.var(self.index.j))
    }

    /// Do the keys end where the rows of a derived tensor over `index` do, of which those from `len` on are zero? Its last
    /// two dims have to be those along which keys and features run.
    pub fn ends_with(&self, rows: Rows, index: &[VarId], len: Option<ExprId>) -> bool {
        let in_order = rows.seq + 2 == index.len() && rows.feature + 1 == index.len();
        let mut pool = self.pool.clone();
        let place = self.key_place(&mut pool);
        in_order && len.is_none_or(|len| pool.substitute(len, &rows.place(index, place)) == self.seq_k)
    }

    /// Rows that the first key tensor holds: the most that `seq_k` can be. Reads no tensor.
    pub fn capacity(&self) -> ExprId {
        let keys = self.dots[0].y;
        self.tensor(keys.tensor).shape[keys.seq]
    }

    /// The tensors that hold the lengths of batch entries: what `seq_k` and `offset` read.
    pub fn lengths(&self) -> Vec<TensorId> {
        let nodes = self.pool.reachable(&[self.seq_k, self.offset]);
        let load = |id: &ExprId| match self.pool.op(*id) {
            crate::expr::Op::Load(t, ..) => Some(*t),
            _ => None,
        };
        nodes.iter().filter_map(load).collect()
    }

    /// The dims whose sizes are only known at launch: (name, variable).
    pub fn runtime_dims(&self) -> Vec<(String, VarId)> {
        runtime_dims(&self.pool, &self.dims)
    }
}

fn runtime_dims(pool: &Pool, dims: &[Dim]) -> Vec<(String, VarId)> {
    let variable = |d: &Dim| match pool.op(d.size) {
        crate::expr::Op::Var(v) => Some((d.name.clone(), *v)),
        _ => None,
    };
    dims.iter().filter_map(variable).collect()
}
