//! The tile IR: EVERYTHING DECIDED. Loops over tiles, buffers in memory spaces, products, maps, row steps,
//! launch geometry. Backends read this and nothing above it; nothing here knows what attention is.
//!
//! A [`Program`] is an ordered list of launches over the tensors of one table: arguments, outputs, tables made
//! at bind time and workspace. Each launch runs its body once per point of its grid, in any order and on any
//! number of threads; what two points write never overlaps ([`verify`] checks what can be checked).
//!
//! Semantics, op by op, stand with [`Stmt`]; [`interp`] executes them in f64, [`verify`] holds the numbered
//! invariants, [`text`] prints and parses.
//!
//! Scalars are expressions of `crate::expr` over *uniform* variables: dims, params, grid coordinates, loop
//! counters and `let`s; inside a [`Stmt::Map`] also its row and column and the elements that it reads.

pub mod interp;
pub mod text;
pub mod verify;
pub mod wide;

use crate::artifact::{DType, MathFn};
use crate::expr::eval::Value;
use crate::expr::{ExprId, Pool, TensorId, VarId};

/// Index of a tile buffer in its launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufId(pub u32);

/// Rows of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufRows {
    /// Which.
    pub buf: BufId,
    /// The first of them, an int expression; 0 without.
    pub first: Option<ExprId>,
}

impl From<BufId> for BufRows {
    fn from(buf: BufId) -> BufRows {
        BufRows { buf, first: None }
    }
}

/// What a tensor of the table is.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorKind {
    /// Bound by the host, read only. Strided.
    Input,
    /// Bound by the host, written. Strided.
    Output,
    /// Bound by the host with contents, read and written in place, by different launches. Strided.
    Updated,
    /// Made by the runtime when arguments are bound: contiguous; the element at `vars` (one int variable for
    /// each dim, starting at `origin[d]`) is the value of `value` (int, float or bool expression over `vars`,
    /// dims, params).
    Table {
        /// One variable for each dim.
        vars: Vec<VarId>,
        /// Smallest value of each variable; the dim's size counts from here. Int expressions of dims and params.
        origin: Vec<ExprId>,
        /// The entry.
        value: ExprId,
    },
    /// Scratch memory shared by the launches, contiguous, uninitialised.
    Workspace,
}

/// A tensor of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDecl {
    /// Name for the host, text and errors.
    pub name: String,
    /// Kind.
    pub kind: TensorKind,
    /// Storage type. Workspace and tables are f32, i32 or bit.
    pub dtype: DType,
    /// Logical sizes: int expressions over dims and params.
    pub shape: Vec<ExprId>,
    /// The logical dim at each axis of the bound tensor (identity but for `layout` of what the host binds).
    pub layout: Vec<usize>,
    /// Elements along the last dim never decrease (1), never decrease or never increase (2), or nothing (0).
    pub fact: crate::attn_ir::Fact,
}

/// A run-time scalar argument.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalarArg {
    /// Name for the host; the printed name of `var`.
    pub name: String,
    /// Its variable; the type says int, float or bool.
    pub var: VarId,
    /// Default of a parameter; `None` for dims and for parameters without one.
    pub default: Option<Value>,
}

/// A whole kernel.
#[derive(Clone, Debug)]
pub struct Program {
    /// Kernel name.
    pub name: String,
    /// All expressions.
    pub pool: Pool,
    /// Run-time lengths (all int).
    pub dims: Vec<ScalarArg>,
    /// Run-time parameters.
    pub params: Vec<ScalarArg>,
    /// Tensor table; `TensorId(n)` is the n-th.
    pub tensors: Vec<TensorDecl>,
    /// Conditions on dims, params that must hold at launch, with what to say if not.
    pub requires: Vec<Require>,
    /// In order; each starts when the one before has ended.
    pub launches: Vec<Launch>,
}

/// A condition checked before anything is launched.
#[derive(Clone, Debug, PartialEq)]
pub struct Require {
    /// Bool expression over dims and params.
    pub cond: ExprId,
    /// What is wrong and how to mend it when it is false.
    pub message: String,
}

/// One grid of independent tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Name in text, traces and symbols.
    pub name: String,
    /// Coordinates, outermost first, with their extents. Tasks are handed out in ascending linear order.
    pub grid: Vec<(VarId, ExprId)>,
    /// Tile buffers, private to a task.
    pub buffers: Vec<Buffer>,
    /// The task.
    pub body: Vec<Stmt>,
}

/// A tile buffer in SRAM (L1/L2 of a core, shared memory of a thread block): `rows` x `cols`, row-major, leading
/// dimension `cols`. A vector has one column.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Name in text.
    pub name: String,
    /// Rows, a constant.
    pub rows: i64,
    /// Columns and leading dimension, a constant: 1 or a multiple of 16.
    pub cols: i64,
    /// f32, or bf16 for left operands of products with operands of bf16.
    pub dtype: DType,
    /// The buffer of which it is a part, if it is a view; [`Stmt::View`] says which part.
    pub of: Option<BufId>,
}

impl Buffer {
    /// A buffer of f32.
    pub fn new(name: impl Into<String>, rows: i64, cols: i64) -> Buffer {
        Buffer { name: name.into(), rows, cols, dtype: DType::F32, of: None }
    }
}

/// A run of rows of a tensor: element (r, x) is at `index` with `index[row_dim] + r` and `index[col_dim] + x`.
/// The elements may be of any storage type. What reads rows takes ints and bits as numbers, which are exact below
/// 2^24; what stores f32 rounds half to even and saturates for ints (NaN gives 0) and asks `!= 0` for bits.
#[derive(Clone, Debug, PartialEq)]
pub struct RowsRef {
    /// The tensor.
    pub tensor: TensorId,
    /// Start, one int expression for each logical dim.
    pub index: Vec<ExprId>,
    /// Dim along which rows run.
    pub row_dim: usize,
    /// Dim along which columns run.
    pub col_dim: usize,
}

/// A matrix packed in panels of 32 columns in a workspace tensor: element (t, x) is at flat position
/// `offset + (x / 32) * panel_stride + t * 32 + x % 32`.
#[derive(Clone, Debug, PartialEq)]
pub struct PanelRef {
    /// Workspace tensor of f32, or of bf16 (of which a machine may interleave each two rows t).
    pub tensor: TensorId,
    /// Flat element offset.
    pub offset: ExprId,
    /// Elements between panels.
    pub panel_stride: ExprId,
}

/// Consecutive elements of a workspace tensor, from a flat position on.
#[derive(Clone, Debug, PartialEq)]
pub struct FlatRef {
    /// Workspace tensor.
    pub tensor: TensorId,
    /// Flat element offset.
    pub offset: ExprId,
}

/// What is added to the left operand of a product before it is multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rest {
    /// Nothing.
    #[default]
    None,
    /// A tile of the same size.
    Tile(BufId),
    /// Nothing; but where a target rounds the left operand to the type of the right one, what rounding leaves is
    /// multiplied too.
    Rounding,
}

/// The right operand of a product.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A packed matrix.
    Panels(PanelRef),
    /// A buffer of exactly 32 columns, which is one panel: element (t, x) is `buffer[t, x]`, x < 32.
    Buffer(BufId),
    /// Rows of a tensor where they lie, for few rows on the left: element (t, x) is `src(x, t)`.
    Columns(RowsRef),
    /// Rows of a tensor where they lie, for few rows on the left: element (t, x) is `src(t, x)`.
    Rows(RowsRef),
}

impl Operand {
    /// The expressions of it.
    pub fn exprs(&self) -> Vec<ExprId> {
        match self {
            Operand::Panels(p) => vec![p.offset, p.panel_stride],
            Operand::Buffer(_) => vec![],
            Operand::Columns(src) | Operand::Rows(src) => src.index.clone(),
        }
    }
}

/// How a [`Stmt::Map`] reads a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Element (row, col).
    Tile,
    /// Element (row, 0): a value for the row.
    Row,
    /// Element (0, col): a value for the column.
    Col,
}

/// The three weights that are not normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum WeightKind {
    /// `1 / (1 + exp(-x))`
    Sigmoid = 0,
    /// `max(x, 0)`
    Relu = 1,
    /// `x`
    Plain = 2,
}

/// What [`Stmt::ReduceRows`] computes of the columns of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ReduceOp {
    /// Largest element, -inf of none.
    Max = 0,
    /// Sum, 0 of none.
    Sum = 1,
    /// Largest magnitude, 0 of none.
    MaxAbs = 2,
}

/// A counter and the values that it takes: ascending, `hi` excluded.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Counter.
    pub var: VarId,
    /// First.
    pub lo: ExprId,
    /// One past the last.
    pub hi: ExprId,
}

/// Where a run of columns of a row begins or ends: at `at + step * r`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BandEnd {
    /// Of row 0, an int expression.
    pub at: ExprId,
    /// 0 or 1.
    pub step: i64,
}

/// A statement. Row and column counts are int expressions, at most the buffer's size.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// Names a uniform value for what follows in this block.
    Let {
        /// Defined once.
        var: VarId,
        /// Its value.
        value: ExprId,
    },
    /// Names a uniform bool for what follows in this block: is there a point at which `cond` holds? The spans are
    /// nested, later ones may read earlier counters; the search ends at the first point found.
    Any {
        /// Defined once.
        var: VarId,
        /// At least one.
        over: Vec<Span>,
        /// Bool over the counters and uniform variables.
        cond: ExprId,
    },
    /// Names a uniform int for what follows in this block: the first value of the counter at which `cond` holds,
    /// `over.hi` if there is none.
    First {
        /// Defined once.
        var: VarId,
        /// Where to look.
        over: Span,
        /// Bool over the counter and uniform variables.
        cond: ExprId,
    },
    /// `for var in lo..hi { body }`, ascending, `hi` excluded.
    For {
        /// Counter.
        var: VarId,
        /// First.
        lo: ExprId,
        /// One past the last.
        hi: ExprId,
        /// Body.
        body: Vec<Stmt>,
    },
    /// `if cond { then } else { otherwise }`
    If {
        /// Uniform bool.
        cond: ExprId,
        /// Taken when true.
        then: Vec<Stmt>,
        /// Taken when false.
        otherwise: Vec<Stmt>,
    },
    /// Lays a view over its buffer for what follows in this block: element (r, c) is that at (row + r, col + c).
    View {
        /// A buffer with [`Buffer::of`].
        view: BufId,
        /// First row.
        row: ExprId,
        /// First column.
        col: ExprId,
    },
    /// Every element of the buffer, which is no view, becomes `value`.
    Fill {
        /// Buffer.
        dst: BufId,
        /// Constant.
        value: f64,
    },
    /// `dst[r, x] = src(r, x)` for r < rows, x < d; zero for d <= x < cols of the buffer. A buffer of bf16 takes rows of
    /// bf16.
    LoadRows {
        /// Rows of a buffer.
        dst: BufRows,
        /// Tensor rows.
        src: RowsRef,
        /// Rows.
        rows: ExprId,
        /// Columns.
        d: ExprId,
    },
    /// Packs `n` rows of d features (keys) with keys along the columns of the panels: element (x, r) of `dst`
    /// is `src(r, x)`; missing keys of the last panel are zero. n may be 0.
    PackK {
        /// Destination; one panel holds d * 32 elements.
        dst: PanelRef,
        /// Tensor rows.
        src: RowsRef,
        /// Rows.
        n: ExprId,
        /// Features, a constant.
        d: i64,
    },
    /// Packs `n` rows of d features with features along the columns of the panels: element (r, x) of `dst` is
    /// `src(r, x)`; missing features of the last panel are zero. `flag` becomes 1 if any element is NaN or
    /// infinite, else 0.
    PackV {
        /// Destination.
        dst: PanelRef,
        /// Tensor rows.
        src: RowsRef,
        /// Rows.
        n: ExprId,
        /// Features, a constant.
        d: i64,
        /// An i32 workspace tensor and an index into it.
        flag: (TensorId, Vec<ExprId>),
    },
    /// `dst[r, c] = src[r, c]` rounded to bf16 for r < rows, c < cols; zero up to the next multiple of 16.
    Round {
        /// A buffer of bf16.
        dst: BufId,
        /// A buffer of f32.
        src: BufId,
        /// Rows.
        rows: ExprId,
        /// Columns.
        cols: ExprId,
    },
    /// `c[r, x] = sum_{t<k} (a[r, t] + rest[r, t]) * b(t, x)` for r < rows, x < n (n rounded up to 16 is written); with
    /// `accumulate` added to `c[r, x] * row_scale[r]` (1 without `row_scale`). Where `skip_zero` holds, terms
    /// with `a[r, t] == 0` are left out, so that NaN and infinity in b do not leak through a zero weight.
    Gemm {
        /// Result.
        c: BufId,
        /// Left operand.
        a: BufId,
        /// What is added to it.
        rest: Rest,
        /// Right operand; with a buffer n <= 32 and k <= its rows.
        b: Operand,
        /// Rows of c.
        rows: ExprId,
        /// Length of the sum.
        k: ExprId,
        /// Columns of c.
        n: ExprId,
        /// Factor of the old c, a vector buffer.
        row_scale: Option<BufId>,
        /// Add to the old c.
        accumulate: bool,
        /// Uniform bool.
        skip_zero: ExprId,
        /// Rows that are read soon after, and that a machine may ask for meanwhile: nothing else follows from it.
        next: Option<Box<RowsRef>>,
    },
    /// `dst[r, c] = value` for r < rows, c < cols. `reads` name elements of buffers; `dst` may be among them
    /// only as [`Access::Tile`]. Loads of tensors in `value` with an index out of range give an arbitrary value,
    /// never a fault: the compiler has proved that it is not used, or a `require` excludes it.
    Map {
        /// Buffer.
        dst: BufId,
        /// Rows.
        rows: ExprId,
        /// Columns.
        cols: ExprId,
        /// Int variable of the row.
        row: VarId,
        /// Int variable of the column.
        col: VarId,
        /// Float variables that stand for elements.
        reads: Vec<(VarId, BufId, Access)>,
        /// Float expression.
        value: ExprId,
    },
    /// `s[r, c] = -inf` for r < rows, c < cols unless `from.at + from.step * p <= c < to.at + to.step * p`, where
    /// p is `r mod period` (r if the period is not positive).
    Band {
        /// Scores.
        s: BufId,
        /// Rows.
        rows: ExprId,
        /// Columns.
        cols: ExprId,
        /// Rows after which the ends repeat.
        period: ExprId,
        /// First column of a row.
        from: BandEnd,
        /// One past the last.
        to: BandEnd,
    },
    /// `dst[r, c] = dst[r, c] * (scale * factor[0, c]) + term` for r < rows, c < cols, where the term is
    /// `term[0, c]`, or on diagonals `term[0, rows - 1 - r + c]`; without a factor 1, without a term nothing is added.
    /// With `keep_zero` a zero stays +0.
    Affine {
        /// Buffer.
        dst: BufId,
        /// Rows.
        rows: ExprId,
        /// Columns.
        cols: ExprId,
        /// Uniform float.
        scale: ExprId,
        /// A value for each column.
        factor: Option<BufId>,
        /// A value for each column or diagonal.
        term: Option<BufId>,
        /// The term is one for each diagonal.
        diagonal: bool,
        /// Zeros stay.
        keep_zero: bool,
    },
    /// `dst[r, c] = f(dst[r, c])` for r < rows, c < cols; what other columns of these rows held is lost.
    Math {
        /// Function.
        f: MathFn,
        /// Buffer.
        dst: BufId,
        /// Rows.
        rows: ExprId,
        /// Columns.
        cols: ExprId,
    },
    /// One step of the online softmax over columns 0..cols of `s`, in place
    /// (`crate::artifact::Intrinsic::SoftmaxStep`).
    SoftmaxStep {
        /// Scores in, unnormalised weights out.
        s: BufId,
        /// Rows.
        rows: ExprId,
        /// Columns.
        cols: ExprId,
        /// Float constant or uniform: factor of the scores.
        scale: ExprId,
        /// Running maximum, a vector.
        row_max: BufId,
        /// Running sum, a vector.
        row_sum: BufId,
        /// Factor for what was accumulated before, a vector, written.
        alpha: BufId,
        /// Uniform bool: weights of unmasked pairs are never exactly zero.
        floor_unmasked: ExprId,
    },
    /// Unnormalised weights in place, and the running maximum of the scaled scores.
    WeightStep {
        /// Which weight.
        kind: WeightKind,
        /// Scores in, weights out.
        s: BufId,
        /// Rows.
        rows: ExprId,
        /// Columns.
        cols: ExprId,
        /// Float: factor of the scores.
        scale: ExprId,
        /// Running maximum, a vector.
        row_max: BufId,
        /// Uniform bool, as in `SoftmaxStep`.
        floor_unmasked: ExprId,
    },
    /// `inv_sum` and `lse` of finished rows (`crate::artifact::Intrinsic::FinishSoftmax`).
    FinishSoftmax {
        /// Rows.
        rows: ExprId,
        /// Maximum, a vector.
        row_max: BufId,
        /// Sum, a vector.
        row_sum: BufId,
        /// Float: the sink logit, -inf for none.
        sink: ExprId,
        /// 1 / sum or 0, a vector, written.
        inv_sum: BufId,
        /// Natural log of the sum, a vector, written.
        lse: BufId,
    },
    /// `dst[c, x] = src[x, c]` for c < cols, x < rows, and `dst[c, x] = 0` for c < cols and rows <= x < cols of
    /// `dst`: rows 0..cols of `dst` are written over their whole width, the others are left alone.
    Transpose {
        /// Buffer.
        dst: BufId,
        /// Another buffer.
        src: BufId,
        /// Rows of `src`, at most the columns of `dst`.
        rows: ExprId,
        /// Columns of `src`, at most the rows of `dst`.
        cols: ExprId,
    },
    /// `dst[r, c] = dst[r, c] + decay[r] * dst[r - 1, c]` in place for r = 1, 2, .. below rows, c < cols, one
    /// fused multiply-add each; `decay[0]` is not read.
    ScanRows {
        /// Buffer.
        dst: BufId,
        /// Rows.
        rows: ExprId,
        /// Columns; the others are left alone.
        cols: ExprId,
        /// Factors, a vector; 1 without.
        decay: Option<BufId>,
    },
    /// `dst[r] = op over c < cols of src[r, c]` for r < rows. A maximum is NaN if any element is, and a maximum
    /// of zero is +0. A sum adds up sixteen partial sums (c mod 16, c ascending, from 0) and then those as a
    /// tree: at distance 8, 4, 2, 1.
    ReduceRows {
        /// A vector.
        dst: BufId,
        /// Which reduction.
        op: ReduceOp,
        /// Another buffer.
        src: BufId,
        /// Rows.
        rows: ExprId,
        /// Columns.
        cols: ExprId,
    },
    /// Keeps the largest elements of each row that were seen so far, over several tiles: `best[r, ..]` holds at most
    /// m of them, descending, and `at[r, ..]` their positions; what is free holds -inf and -1, as both must before
    /// the first tile. Column c < cols of `src` is at position `first + c`, after every position seen before, so that
    /// of equal elements the first stay. -inf and NaN are never kept.
    KeepLargest {
        /// A tile: elements.
        best: BufId,
        /// A tile of the same size: positions.
        at: BufId,
        /// Another tile.
        src: BufId,
        /// Rows.
        rows: ExprId,
        /// Columns of `src`.
        cols: ExprId,
        /// Int: position of column 0, below 2^24.
        first: ExprId,
        /// Int: how many, cut to the columns of `best`; none if negative.
        m: ExprId,
    },
    /// `dst[r, c] = 1` if `first + c` is among `at[r, ..]` (all columns of `at`), else 0, for r < rows, c < cols.
    Mark {
        /// A tile.
        dst: BufId,
        /// Another tile: positions.
        at: BufId,
        /// Rows.
        rows: ExprId,
        /// Columns of `dst`.
        cols: ExprId,
        /// Int: position of column 0.
        first: ExprId,
    },
    /// `dst[r, c] = keep ? dst[r, c] * keep_scale : +0` in place for r < rows, c < cols, where keep says
    /// `crate::expr::rand::word(col0 + c, row0 + r, stream, offset, seed) >= threshold`: the same for a position
    /// whatever the tile is.
    Random {
        /// Buffer.
        dst: BufId,
        /// Rows.
        rows: ExprId,
        /// Columns; the others are left alone.
        cols: ExprId,
        /// Int: position of row 0.
        row0: ExprId,
        /// Int: position of column 0, not negative.
        col0: ExprId,
        /// Int: which of the matrices of random words; its low 32 bits count.
        stream: ExprId,
        /// Int: the draw; its low 32 bits count.
        offset: ExprId,
        /// Int: the key, 64 bits.
        seed: ExprId,
        /// Int, cut to 0..=2^32: how many of the 2^32 words are dropped.
        threshold: ExprId,
        /// Float: factor of what is kept.
        keep_scale: ExprId,
    },
    /// `dst(r, x) = src[r, x] * row_scale[r]` for r < rows (counted from the first row of `src` in both), x < d, rounded to the storage type (to nearest even and
    /// cut to its range, NaN as 0, where that is i8); 0 where `row_scale[r]` is 0.
    StoreRows {
        /// Output rows.
        dst: RowsRef,
        /// Rows of a buffer.
        src: BufRows,
        /// Rows.
        rows: ExprId,
        /// Columns.
        d: ExprId,
        /// Factor, a vector; 1 without.
        row_scale: Option<BufId>,
    },
    /// `dst(r, c) = value` for r < rows, c < cols, for a value of the type of the tensor's elements: floats are
    /// rounded to nearest even, ints cut to what the storage type holds. As in `Map`, but nothing may be read
    /// that the launch writes. `dst` may run along one dim (`row_dim` = `col_dim`) if `cols` is the constant 1.
    StoreMap {
        /// Output or workspace.
        dst: RowsRef,
        /// Rows.
        rows: ExprId,
        /// Columns.
        cols: ExprId,
        /// Int variable of the row.
        row: VarId,
        /// Int variable of the column.
        col: VarId,
        /// Float variables that stand for elements.
        reads: Vec<(VarId, BufId, Access)>,
        /// Expression of the type of `dst`.
        value: ExprId,
    },
    /// Sums of the first elements of a vector: with `s = sum of src(t) over t <= i`, added up in f64 in ascending
    /// order, `hi(i) = f32(s)` and `lo(i) = f32(s - hi(i))` (0 where hi is not finite) for i < n. So
    /// `(hi(i) - hi(j)) + (lo(i) - lo(j))` is the sum of j+1..=i to f32 accuracy wherever it stands.
    PrefixSum {
        /// f32, n elements.
        hi: FlatRef,
        /// f32, n elements.
        lo: FlatRef,
        /// Floats along one dim (`row_dim` = `col_dim`).
        src: RowsRef,
        /// Count.
        n: ExprId,
    },
    /// The `min(m, n)` largest of n elements: their positions, ascending, in `indices`, which is filled up to
    /// `width` with -1. Of equal elements the first ones are taken; NaN counts as -inf, -0 as 0.
    TopK {
        /// i32, `width` elements, at least `min(m, n)`.
        indices: FlatRef,
        /// i32, n elements: where each position stands in `indices`, or -1.
        ranks: Option<FlatRef>,
        /// Floats along one dim (`row_dim` = `col_dim`).
        src: RowsRef,
        /// Count.
        n: ExprId,
        /// How many; none if negative.
        m: ExprId,
        /// Elements of `indices`.
        width: ExprId,
    },
    /// `dst(r) = src[r]` for r < rows: `dst` runs along its `row_dim`; `col_dim` is the same.
    StoreVec {
        /// Output.
        dst: RowsRef,
        /// Rows of a vector buffer.
        src: BufRows,
        /// Count.
        rows: ExprId,
    },
}

impl Stmt {
    /// A product with a sum on the left as two products, for targets that multiply one tile at a time.
    pub fn parts_of_product(&self) -> Option<[Stmt; 2]> {
        let Stmt::Gemm { rest: Rest::Tile(rest), .. } = *self else { return None };
        let mut parts = [self.clone(), self.clone()];
        for (n, part) in parts.iter_mut().enumerate() {
            let Stmt::Gemm { a, rest: none, row_scale, accumulate, .. } = part else { return None };
            *none = Rest::None;
            if n == 1 {
                (*a, *row_scale, *accumulate) = (rest, None, true);
            }
        }
        Some(parts)
    }

    /// The expressions of the statement itself, without those of its blocks.
    pub fn exprs(&self) -> Vec<ExprId> {
        let panel = |p: &PanelRef| [p.offset, p.panel_stride];
        match self {
            Stmt::Let { value, .. } => vec![*value],
            Stmt::Any { over, cond, .. } => over.iter().flat_map(|s| [s.lo, s.hi]).chain([*cond]).collect(),
            Stmt::First { over, cond, .. } => vec![over.lo, over.hi, *cond],
            Stmt::For { lo, hi, .. } => vec![*lo, *hi],
            Stmt::If { cond, .. } => vec![*cond],
            Stmt::View { row, col, .. } => vec![*row, *col],
            Stmt::Fill { .. } => vec![],
            Stmt::LoadRows { dst, src, rows, d } => {
                [&src.index[..], &[*rows, *d], dst.first.as_slice()].concat()
            }
            Stmt::PackK { dst, src, n, .. } => [&src.index[..], &panel(dst), &[*n]].concat(),
            Stmt::PackV { dst, src, n, flag, .. } => {
                [&src.index[..], &panel(dst), &[*n], &flag.1[..]].concat()
            }
            Stmt::Gemm { b, rows, k, n, skip_zero, next, .. } => {
                let next = next.as_ref().map_or(&[][..], |rows| &rows.index);
                [&b.exprs()[..], &[*rows, *k, *n, *skip_zero], next].concat()
            }
            Stmt::Map { rows, cols, value, .. } => vec![*rows, *cols, *value],
            Stmt::Band { rows, cols, period, from, to, .. } => vec![*rows, *cols, *period, from.at, to.at],
            Stmt::Affine { rows, cols, scale, .. } => vec![*rows, *cols, *scale],
            Stmt::KeepLargest { rows, cols, first, m, .. } => vec![*rows, *cols, *first, *m],
            Stmt::Mark { rows, cols, first, .. } => vec![*rows, *cols, *first],
            Stmt::Random { rows, cols, row0, col0, stream, offset, seed, threshold, keep_scale, .. } => {
                vec![*rows, *cols, *row0, *col0, *stream, *offset, *seed, *threshold, *keep_scale]
            }
            Stmt::Math { rows, cols, .. }
            | Stmt::Transpose { rows, cols, .. }
            | Stmt::Round { rows, cols, .. }
            | Stmt::ScanRows { rows, cols, .. }
            | Stmt::ReduceRows { rows, cols, .. } => vec![*rows, *cols],
            Stmt::SoftmaxStep { rows, cols, scale, floor_unmasked, .. }
            | Stmt::WeightStep { rows, cols, scale, floor_unmasked, .. } => {
                vec![*rows, *cols, *scale, *floor_unmasked]
            }
            Stmt::FinishSoftmax { rows, sink, .. } => vec![*rows, *sink],
            Stmt::StoreRows { dst, src, rows, d, .. } => {
                [&dst.index[..], &[*rows, *d], src.first.as_slice()].concat()
            }
            Stmt::StoreMap { dst, rows, cols, value, .. } => {
                [&dst.index[..], &[*rows, *cols, *value]].concat()
            }
            Stmt::PrefixSum { hi, lo, src, n } => [&src.index[..], &[hi.offset, lo.offset, *n]].concat(),
            Stmt::TopK { indices, ranks, src, n, m, width } => {
                let ranks: Vec<ExprId> = ranks.iter().map(|r| r.offset).collect();
                [&src.index[..], &[indices.offset, *n, *m, *width], &ranks].concat()
            }
            Stmt::StoreVec { dst, src, rows } => [&dst.index[..], &[*rows], src.first.as_slice()].concat(),
        }
    }
}
