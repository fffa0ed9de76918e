//! What a launch is made of on a GPU: where its tiles lie, what its products run on, and why not on the tensor cores.
//!
//! Comes in: a verified program and an architecture. Goes out: a [`LaunchReport`] for each launch, in order. What holds: all
//! that is said comes from the lowering that makes the code. Not here: time (see `attnc explain`), text for people.

use std::fmt;

use attn_compiler::artifact::DType;
use attn_compiler::expr::TensorId;
use attn_compiler::target::GpuArch;
use attn_compiler::tile_ir::{BufId, Launch, Program, Stmt};

use crate::lower::layout::{Layouts, Place};
use crate::{GpuError, lower};

/// Why tiles of a launch do not lie in registers, and its products are exact f32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has no products.
    NoProduct,
    /// A tensor that is multiplied is not of 16-bit floats.
    Type {
        /// Its name.
        tensor: String,
        /// What it holds.
        dtype: DType,
    },
    /// A statement that has no form on registers, by its keyword.
    Statement(&'static str),
    /// A map reads this tile as one value for each column.
    Column(String),
    /// The right operand of the product into this tile is no run of rows of a tensor.
    Operand(String),
    /// This tile is both loaded from a tensor and computed with, or loaded from tensors of two types.
    Loaded(String),
    /// This tile would have to lie in two places.
    Places(String),
    /// A tile's columns are no multiple of 16.
    Width(String, i64),
    /// Tiles have different numbers of rows, or more than eight warps have.
    Rows {
        /// Most rows of a tile.
        rows: i64,
        /// All tiles have them.
        same: bool,
    },
    /// Tiles take more registers of a thread than may hold them.
    Registers {
        /// What they take.
        needed: i64,
        /// What they may take.
        most: i64,
    },
    /// No statement says where this tile lies.
    Unused(String),
}

impl Why {
    pub(crate) fn dtype(program: &Program, tensor: TensorId) -> Why {
        let decl = &program.tensors[tensor.0 as usize];
        Why::Type { tensor: decl.name.clone(), dtype: decl.dtype }
    }

    pub(crate) fn statement(stmt: &Stmt) -> Why {
        Why::Statement(keyword(stmt))
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NoProduct => f.write_str("it has no products"),
            Why::Type { tensor, dtype } => {
                write!(f, "`{tensor}` holds {}, and tensor cores take f16 and bf16", dtype.name())
            }
            Why::Statement(name) => write!(f, "`{name}` has no form on registers yet"),
            Why::Column(tile) => write!(f, "a map reads tile `{tile}` by column"),
            Why::Operand(tile) => {
                write!(f, "the right operand of the product into `{tile}` is no run of rows of a tensor")
            }
            Why::Loaded(tile) => write!(f, "tile `{tile}` is loaded from a tensor and computed with"),
            Why::Places(tile) => write!(f, "tile `{tile}` is used as a vector and as a matrix"),
            Why::Width(tile, cols) => write!(f, "tile `{tile}` has {cols} columns, no multiple of 16"),
            Why::Rows { rows, same: true } => {
                write!(f, "{rows} rows are more than the warps of a block have")
            }
            Why::Registers { needed, most } => {
                write!(
                    f,
                    "its tiles take {needed} registers of a thread, and {most} may hold them; take smaller tiles"
                )
            }
            Why::Unused(tile) => write!(f, "nothing is computed in tile `{tile}`"),
            Why::Rows { same: false, .. } => f.write_str("its tiles have different numbers of rows"),
        }
    }
}

/// Of statements, as the text of the tile IR has it (tidy: long match).
fn keyword(stmt: &Stmt) -> &'static str {
    match stmt {
        Stmt::Let { .. } => "let",
        Stmt::Any { .. } => "any",
        Stmt::First { .. } => "first",
        Stmt::For { .. } => "for",
        Stmt::If { .. } => "if",
        Stmt::View { .. } => "view",
        Stmt::Fill { .. } => "fill",
        Stmt::LoadRows { .. } => "load_rows",
        Stmt::Round { .. } => "round",
        Stmt::PackK { .. } => "pack_k",
        Stmt::PackV { .. } => "pack_v",
        Stmt::Gemm { .. } => "gemm",
        Stmt::Map { .. } => "map",
        Stmt::Band { .. } => "band",
        Stmt::Affine { .. } => "affine",
        Stmt::Math { .. } => "math",
        Stmt::SoftmaxStep { .. } => "softmax_step",
        Stmt::WeightStep { .. } => "weight_step",
        Stmt::FinishSoftmax { .. } => "finish_softmax",
        Stmt::Transpose { .. } => "transpose",
        Stmt::ScanRows { .. } => "scan_rows",
        Stmt::ReduceRows { .. } => "reduce_rows",
        Stmt::KeepLargest { .. } => "keep_largest",
        Stmt::Mark { .. } => "mark",
        Stmt::Random { .. } => "random",
        Stmt::StoreRows { .. } => "store_rows",
        Stmt::StoreMap { .. } => "store_map",
        Stmt::StoreVec { .. } => "store_vec",
        Stmt::PrefixSum { .. } => "prefix_sum",
        Stmt::TopK { .. } => "top_k",
    }
}

/// What products run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Products {
    /// There are none.
    None,
    /// Tensor cores, f32 sums.
    TensorCores(DType),
    /// f32 multiply-adds, one by one.
    Exact(Why),
}

/// How the products of a loop over tiles follow each other, where warps have roles and it is not one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopOrder {
    /// Two warpgroups take turns at the tensor cores.
    pub turns: bool,
    /// The softmax of a tile runs beside the product of the tile before with its values.
    pub overlaps: bool,
}

impl fmt::Display for LoopOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.overlaps, self.turns) {
            (true, true) => "weighs a tile beside the product of the one before, two warpgroups in turns",
            (true, false) => "weighs a tile beside the product of the one before",
            (false, true) => "multiplies with two warpgroups in turns",
            (false, false) => "multiplies and weighs one after the other",
        })
    }
}

/// One tile of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Name in the tile IR.
    pub name: String,
    /// Rows and columns.
    pub shape: (i64, i64),
    /// Registers of a thread that hold it; 0 if it lies in shared memory.
    pub registers: i64,
    /// Bytes of shared memory that its elements take; 0 if it lies in registers.
    pub shared_bytes: i64,
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchReport {
    /// Name in the tile IR.
    pub name: String,
    /// Name of the entry in the PTX.
    pub entry: String,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory of a block: tiles, right operands, gaps between rows, exchange.
    pub shared_bytes: u32,
    /// Tiles in order.
    pub tiles: Vec<Tile>,
    /// What its products run on.
    pub products: Products,
    /// The orders of its loops that have one.
    pub orders: Vec<LoopOrder>,
    /// Blocks take one task after another.
    pub persistent: bool,
}

impl LaunchReport {
    /// Registers of a thread that hold tiles.
    pub fn tile_registers(&self) -> i64 {
        self.tiles.iter().map(|t| t.registers).sum()
    }

    /// Bytes of shared memory that hold something else than a tile.
    pub fn other_bytes(&self) -> i64 {
        i64::from(self.shared_bytes) - self.tiles.iter().map(|t| t.shared_bytes).sum::<i64>()
    }
}

/// All launches of a program.
///
/// # Errors
/// As [`crate::emit`].
pub fn launches(program: &Program, arch: GpuArch) -> Result<Vec<LaunchReport>, GpuError> {
    program.launches.iter().map(|launch| of(program, launch, arch)).collect()
}

fn of(program: &Program, launch: &Launch, arch: GpuArch) -> Result<LaunchReport, GpuError> {
    // The form that runs where strides allow it.
    let lowered = match lower::mapped_launch(program, launch, arch)? {
        Some(mapped) => mapped,
        None => lower::launch(program, launch, arch)?,
    };
    let kernel = lowered.kernel;
    let layouts = Layouts::of(program, launch, arch);
    let tile = |n: usize| {
        let (b, place) = (&launch.buffers[n], layouts.as_ref().ok().map(|l| l.places[&BufId(n as u32)]));
        let (registers, shared_bytes) = match place {
            None => (0, b.rows * b.cols * 4),
            Some(Place::Fragment) => (b.cols / 2, 0),
            Some(Place::State) => (2, 0),
            Some(Place::Half(_)) => (0, b.rows * b.cols * 2),
        };
        Tile { name: b.name.clone(), shape: (b.rows, b.cols), registers, shared_bytes }
    };
    Ok(LaunchReport {
        name: launch.name.clone(),
        entry: kernel.name.clone(),
        threads: kernel.threads,
        shared_bytes: kernel.shared_bytes,
        tiles: (0..launch.buffers.len()).map(tile).collect(),
        products: match &layouts {
            _ if !multiplies(&launch.body) => Products::None,
            Ok(_) => Products::TensorCores(multiplied(program, &launch.body).unwrap_or(DType::F16)),
            Err(why) => Products::Exact(why.clone()),
        },
        orders: lowered.orders,
        persistent: lowered.persistent,
    })
}

fn multiplies(stmts: &[Stmt]) -> bool {
    stmts.iter().any(|stmt| match stmt {
        Stmt::Gemm { .. } => true,
        Stmt::For { body, .. } => multiplies(body),
        Stmt::If { then, otherwise, .. } => multiplies(then) || multiplies(otherwise),
        _ => false,
    })
}

/// The type of the first rows that a product reads where they lie.
fn multiplied(program: &Program, stmts: &[Stmt]) -> Option<DType> {
    use attn_compiler::tile_ir::Operand::{Columns, Rows};
    stmts.iter().find_map(|stmt| match stmt {
        Stmt::Gemm { b: Columns(src) | Rows(src), .. } => {
            program.tensors.get(src.tensor.0 as usize).map(|t| t.dtype)
        }
        Stmt::For { body, .. } => multiplied(program, body),
        Stmt::If { then, otherwise, .. } => {
            multiplied(program, then).or_else(|| multiplied(program, otherwise))
        }
        _ => None,
    })
}
