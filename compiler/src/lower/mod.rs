//! Lowering: an [`Attention`] and its [`CpuSchedule`] become a tile IR [`Program`].
//!
//! What holds afterwards: every loop, buffer, product and launch of the program is explicit, and nothing in it
//! says which attention it came from. The algorithm is the tiled online softmax (Milakov and Gimelshein 2018;
//! FlashAttention 2, Dao 2023): K and V are packed once into panels, then each task takes one query tile
//! through the key tiles that its mask can reach.
//!
//! Not done here: simplification (constant branches, identity maps), splitting of elementary functions; those
//! are `passes`.

mod attend;
pub mod checks;
mod pack;
mod parts;
mod scale;
pub mod tabulate;

use crate::artifact::DType;
use crate::attn_ir::{Attention, Fact, OutputKind, Rows};
use crate::expr::{ExprId, Op, Pool, TensorId};
use crate::schedule::CpuSchedule;
use crate::tile_ir::{Launch, Program, Require, ScalarArg, TensorDecl, TensorKind};

pub use tabulate::Table;

/// What lowering is asked to lower.
pub struct Input<'a> {
    /// The attention, after [`tabulate::tabulate`].
    pub attn: &'a Attention,
    /// Its tables; their tensor ids follow those of the inputs.
    pub tables: &'a [Table],
    /// Decisions.
    pub schedule: &'a CpuSchedule,
}

/// Lowers to the CPU form of the tile IR.
pub fn lower(input: &Input) -> Program {
    let attn = input.attn;
    let mut builder = Builder { program: header(input), outputs: Vec::new() };
    builder.declare_outputs(attn);
    let keys: Vec<pack::PackedKeys> =
        attn.dots.iter().map(|dot| pack::declare_keys(&mut builder, input, dot.y)).collect();
    let values = pack::declare_values(&mut builder, input);
    let mut launches: Vec<Launch> = keys
        .iter()
        .enumerate()
        .filter(|(n, k)| keys[..*n].iter().all(|earlier| earlier.tensor != k.tensor))
        .map(|(_, k)| pack::pack_keys(&mut builder, input, k))
        .collect();
    launches.push(pack::pack_values(&mut builder, input, &values));
    launches.push(attend::attend(&mut builder, input, &keys, &values));
    builder.program.launches = launches;
    builder.program
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
        self.program.tensors.push(TensorDecl {
            name: name.into(),
            kind,
            dtype,
            shape,
            layout,
            fact: Fact::None,
        });
        TensorId(self.program.tensors.len() as u32 - 1)
    }

    fn declare_outputs(&mut self, attn: &Attention) {
        for out in &attn.outputs {
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

fn header(input: &Input) -> Program {
    let attn = input.attn;
    let pool = attn.pool.clone();
    let dims =
        attn.runtime_dims().into_iter().map(|(name, var)| ScalarArg { name, var, default: None }).collect();
    let params = attn
        .params
        .iter()
        .map(|p| ScalarArg { name: p.name.clone(), var: p.var, default: p.default })
        .collect();
    let mut tensors: Vec<TensorDecl> = attn
        .tensors
        .iter()
        .map(|t| TensorDecl {
            name: t.name.clone(),
            kind: TensorKind::Input,
            dtype: t.dtype,
            shape: t.shape.clone(),
            layout: t.layout.clone(),
            fact: t.fact,
        })
        .collect();
    tensors.extend(input.tables.iter().map(Table::declare));
    let mut program = Program {
        name: attn.name.clone(),
        pool,
        dims,
        params,
        tensors,
        requires: Vec::new(),
        launches: Vec::new(),
    };
    program.requires = requires(attn, &mut program.pool);
    program
}

/// Declared bounds of run-time dims, and `Hq` divisible where it was only known now.
fn requires(attn: &Attention, pool: &mut Pool) -> Vec<Require> {
    let mut out = Vec::new();
    for dim in &attn.dims {
        let (Some((lo, hi)), Op::Var(_)) = (dim.bounds, pool.op(dim.size)) else { continue };
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
