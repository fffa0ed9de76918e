//! What a checked file holds: the facts of each kernel that tools and `instantiate` need.
//!
//! Comes in from `check`. What holds: every name is resolved, every clause rule of the language was applied,
//! and a kernel in [`Checked::kernels`] had no error. Not here: sizes of run-time dims, values of statics.

use crate::artifact::DType;
use crate::diagnostic::Span;
use crate::expr::Ty;
use crate::expr::eval::Value;

use super::choice::{BranchFact, Choices};
use super::derived::MadeFact;
use super::hir::{Expr, Kind, Size};
use super::relative::RelativeFact;
use super::rows::RowOp;

/// The kernels of a file, in order, that have no errors.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// In order of the text.
    pub kernels: Vec<CheckedKernel>,
}

impl Checked {
    /// The kernel of this name; without a name, the only one.
    pub fn kernel(&self, name: Option<&str>) -> Option<&CheckedKernel> {
        match name {
            Some(name) => self.kernels.iter().find(|k| k.name == name),
            None if self.kernels.len() == 1 => self.kernels.first(),
            None => None,
        }
    }
}

/// `attention` or `recurrence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelKind {
    /// Scores over pairs.
    Attention,
    /// A state carried along the sequence.
    Recurrence,
}

/// A kernel without errors.
#[derive(Clone, Debug)]
pub struct CheckedKernel {
    /// Name.
    pub name: String,
    /// Where the name stands.
    pub span: Span,
    /// Kind.
    pub kind: KernelKind,
    /// Parameters in order.
    pub params: Vec<ParamFact>,
    /// Dims in order.
    pub dims: Vec<DimFact>,
    /// All tensors: inputs, caches, appended rows and derived tensors, in order of declaration.
    pub tensors: Vec<TensorFact>,
    /// Outputs in order of `return`.
    pub outputs: Vec<OutputFact>,
    /// Caches among the tensors, in order of declaration.
    pub caches: Vec<CacheFact>,
    /// `test` grids.
    pub tests: Vec<TestGrid>,
    /// `ensure` promises.
    pub ensures: Vec<Ensure>,
    /// `schedule` overrides.
    pub schedules: Vec<ScheduleFact>,
    /// `numerics` options.
    pub numerics: NumericsFact,
    /// How `i` and `j` are aligned.
    pub align: AlignFact,
    /// How query heads map to key heads.
    pub heads: HeadsFact,
    /// `mode decode`: few query rows are expected.
    pub decode: bool,
    /// Top-level conjuncts of the mask, for `explain`.
    pub mask_clauses: Vec<MaskClause>,
    /// Clauses that the attention IR cannot express yet, in order of the text.
    pub(crate) unsupported: Vec<UnsupportedClause>,
    /// `distribute ring(...)`
    pub ring: Option<RingFact>,
    /// What `map` and `rotate` do to rows, in order of the text.
    pub(crate) row_ops: Vec<RowOp>,
    /// Tensors that lets make, in order of the text.
    pub(crate) made: Vec<MadeFact>,
    /// The typed body; absent for recurrences and for kernels made of branches.
    pub(crate) body: Option<Body>,
    /// The typed body of a recurrence.
    pub(crate) recurrence: Option<RecurBody>,
    /// The branches, in order.
    pub(crate) branches: Vec<BranchFact>,
    /// How keys are chosen outside branches.
    pub(crate) choices: Choices,
}

impl CheckedKernel {
    /// The inputs that the host binds, in order.
    pub fn inputs(&self) -> impl Iterator<Item = &TensorFact> {
        self.tensors.iter().filter(|t| t.kind != TensorKind::Derived)
    }

    /// The sizes of a tensor as it is bound: pages for a paged cache, else its logical dims.
    pub fn bound_shape(&self, fact: &TensorFact) -> Vec<Size> {
        let cache = self.caches.iter().find(|c| self.tensors[c.tensor].name == fact.name);
        match cache.and_then(|c| c.pages.as_ref()) {
            Some(pages) => pages.shape.clone(),
            None => fact.shape.clone(),
        }
    }

    /// The tensors that a run updates in place, in order of declaration.
    pub fn updated(&self) -> impl Iterator<Item = &TensorFact> {
        let changed = |n: usize| {
            let of = |c: &CacheFact| c.tensor == n || c.scale.as_ref().is_some_and(|s| s.tensor == n);
            self.caches.iter().any(|c| c.appended.is_some() && of(c))
        };
        self.tensors.iter().enumerate().filter(move |(n, _)| changed(*n)).map(|(_, t)| t)
    }

    /// The dims that must be given to plan: feature dims and head counts that the text does not fix.
    pub fn specialised_dims(&self) -> impl Iterator<Item = &DimFact> {
        self.dims.iter().filter(|d| d.specialised && d.fixed().is_none())
    }

    /// The conventions in force, one line each, for `explain`.
    pub fn conventions(&self) -> Vec<String> {
        let mut lines = vec![self.align.words.clone(), self.heads.words.clone()];
        if self.decode {
            lines.push("mode decode: few query rows are expected".into());
        }
        for b in &self.branches {
            let own = [&b.align.words, &b.heads.words].into_iter().filter(|l| !l.is_empty());
            lines.extend(own.map(|l| format!("{}: {l}", b.name)));
        }
        lines.retain(|l| !l.is_empty());
        lines
    }
}

/// A kernel parameter.
#[derive(Clone, Debug)]
pub struct ParamFact {
    /// Name.
    pub name: String,
    /// Compile-time constant: each value is its own kernel.
    pub is_static: bool,
    /// Type.
    pub ty: Ty,
    /// Value when none is given.
    pub default: Option<Value>,
    /// Where the name stands.
    pub span: Span,
}

/// How the text sizes a dim.
#[derive(Clone, Debug)]
pub enum DimSize {
    /// Read from the bound tensors.
    Free,
    /// `= expr`: a constant, or derived from other dims, statics and parameters.
    Given(Expr),
}

/// A dim.
#[derive(Clone, Debug)]
pub struct DimFact {
    /// Name.
    pub name: String,
    /// Its size.
    pub size: DimSize,
    /// Text of the size, empty for a free dim.
    pub text: String,
    /// `lo..hi`, both included.
    pub bounds: Option<(i64, i64)>,
    /// A feature dim or head count: a constant of the plan.
    pub specialised: bool,
    /// Where the name stands.
    pub span: Span,
}

impl DimFact {
    /// The size, if the text fixes it.
    pub fn fixed(&self) -> Option<i64> {
        match &self.size {
            DimSize::Given(e) => e.int(),
            DimSize::Free => None,
        }
    }

    /// True for a size that follows from other dims or statics.
    pub fn derived(&self) -> bool {
        matches!(&self.size, DimSize::Given(e) if e.int().is_none())
    }
}

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem {
    /// `float`: what the host binds.
    Float,
    /// A fixed type.
    Of(DType),
}

impl Elem {
    /// True for `float` and the float types.
    pub fn is_float(self) -> bool {
        match self {
            Elem::Float => true,
            Elem::Of(d) => d.is_float(),
        }
    }

    /// Name in the text.
    pub fn name(self) -> &'static str {
        match self {
            Elem::Float => "float",
            Elem::Of(d) => d.name(),
        }
    }

    /// Storage type when `float` is bound to `float`.
    pub fn dtype(self, float: DType) -> DType {
        match self {
            Elem::Float => float,
            Elem::Of(d) => d,
        }
    }
}

/// Where a tensor comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// Bound by the host.
    Input,
    /// A cache, bound by the host and updated in place.
    Cache,
    /// Made by a `let` (`cumsum`, `mean_pool`, `segment`, `concat`).
    Derived,
}

/// A tensor.
#[derive(Clone, Debug)]
pub struct TensorFact {
    /// Name as the host binds it; `branch.name` inside a branch.
    pub name: String,
    /// Where it comes from.
    pub kind: TensorKind,
    /// Element type.
    pub elem: Elem,
    /// Sizes of the logical dims.
    pub shape: Vec<Size>,
    /// The logical dim at each axis of the bound tensor.
    pub layout: Vec<usize>,
    /// `sorted` or `monotone`.
    pub fact: crate::attn_ir::Fact,
    /// `optional`
    pub optional: bool,
    /// `learn`
    pub learn: bool,
    /// Where the name stands.
    pub span: Span,
}

impl TensorFact {
    /// `float[B, H, Sq, D]`
    pub fn type_text(&self) -> String {
        let dims: Vec<&str> = self.shape.iter().map(|s| s.text.as_str()).collect();
        format!("{}[{}]", self.elem.name(), dims.join(", "))
    }
}

/// A cache: where its rows lie, how many there are, what is appended.
///
/// Its dims are `[batch, heads, sequence, feature]` or `[batch, sequence, feature]`.
#[derive(Clone, Debug)]
pub struct CacheFact {
    /// Position in [`CheckedKernel::tensors`].
    pub tensor: usize,
    /// Position of `len`, i32 `[batch]`; without one every batch entry fills the sequence dim.
    pub len: Option<usize>,
    /// Where the rows lie, unless the tensor is bound as it is declared.
    pub pages: Option<PagesFact>,
    /// Factors of the rows.
    pub scale: Option<ScaleFact>,
    /// Position of the rows that are appended.
    pub appended: Option<usize>,
    /// The declaration.
    pub span: Span,
}

impl CacheFact {
    /// True if rows are not read from the bound tensor as they lie there.
    pub fn indirect(&self) -> bool {
        self.pages.is_some() || self.scale.is_some()
    }
}

/// Pages of a cache.
#[derive(Clone, Debug)]
pub struct PagesFact {
    /// Position of the table, i32 `[batch, pages of an entry]`.
    pub table: usize,
    /// Rows of a page.
    pub size: i64,
    /// The dim: pages of a batch entry. The sequence dim of the cache is this many times `size`.
    pub per_entry: usize,
    /// Sizes of the pool: `[pages, size, heads, feature]` or `[pages, size, feature]`.
    pub shape: Vec<Size>,
}

/// Scales of a cache.
#[derive(Clone, Debug)]
pub struct ScaleFact {
    /// Position of the tensor of scales: the leading dims of the bound cache, as far as scales differ along them.
    pub tensor: usize,
    /// Each token has its own.
    pub per_token: bool,
    /// Each head has its own.
    pub per_head: bool,
}

/// A returned tensor.
#[derive(Clone, Debug)]
pub struct OutputFact {
    /// Name that the host binds.
    pub name: String,
    /// The text that was returned.
    pub text: String,
    /// Where it was returned.
    pub span: Span,
    /// What the attention IR can say of it.
    pub(crate) kind: OutputHir,
}

/// What a returned expression is.
#[derive(Clone, Debug)]
pub(crate) enum OutputHir {
    /// `weight @ v`, perhaps in an expression, perhaps cast.
    O {
        /// Target of a `cast`.
        cast: Option<DType>,
        /// The row that is returned where it is more than `weight @ v`.
        epilogue: Option<Expr>,
    },
    /// `lse`
    Lse,
    /// `max_logit`
    MaxLogit,
    /// A state, after the last step.
    State(usize),
    /// A row of a recurrence at every step, perhaps cast.
    Row(Expr, Option<DType>),
    /// Rows combined from those of branches.
    Combined {
        /// Target of a `cast`.
        cast: Option<DType>,
        /// The row.
        value: Expr,
        /// The branch whose query, heads and alignment give the row its place.
        of: usize,
    },
    /// Something that the attention IR cannot express; an [`UnsupportedClause`] says what.
    Other,
}

/// One entry of a `test` clause.
#[derive(Clone, Debug, PartialEq)]
pub struct TestAxis {
    /// A dim or a parameter.
    pub name: String,
    /// Values to run, at least one.
    pub values: Vec<Value>,
}

/// A `test` clause: the product of its axes.
#[derive(Clone, Debug)]
pub struct TestGrid {
    /// Axes in order.
    pub axes: Vec<TestAxis>,
    /// `grad = true`: gradients are asked for (reported as unsupported by the test verb).
    pub grad: bool,
    /// The clause.
    pub span: Span,
}

/// What is promised.
#[derive(Clone, Debug, PartialEq)]
pub enum Promise {
    /// Every row sees a key.
    RowsNonempty,
    /// Executed tile area over Sq * Sk is at most this.
    Work(f64),
    /// Peak scratch bytes are at most this.
    Sram(i64),
}

/// An `ensure` clause.
#[derive(Clone, Debug)]
pub struct Ensure {
    /// What.
    pub promise: Promise,
    /// `at (S = 4096)`: sizes and parameters at which it must hold.
    pub at: Vec<(String, Value)>,
    /// The clause.
    pub span: Span,
}

/// A `schedule` clause.
#[derive(Clone, Debug)]
pub struct ScheduleFact {
    /// `cpu` or `gpu`.
    pub target: String,
    /// `tile = [q, kv]`
    pub tile: Option<(i64, i64)>,
    /// Other options by name.
    pub options: Vec<(String, i64)>,
    /// The clause.
    pub span: Span,
}

/// `numerics { ... }`
#[derive(Clone, Debug, Default)]
pub struct NumericsFact {
    /// `dot = ...`
    pub products: crate::attn_ir::Products,
    /// `grad = deterministic`
    pub deterministic_grad: bool,
    /// `split = fixed(n)`: keys of a partial result.
    pub split: Option<i64>,
    /// `batch_invariant = true`: what a batch entry gives does not depend on the others.
    pub batch_invariant: bool,
    /// `guard = nonfinite`
    pub guard_nonfinite: Option<Span>,
}

/// The alignment in force.
#[derive(Clone, Debug, Default)]
pub struct AlignFact {
    /// `i = row + seq_k - seq_q` instead of `i = row`.
    pub bottom_right: bool,
    /// In words, for `explain`.
    pub words: String,
}

/// The head mapping in force.
#[derive(Clone, Debug)]
pub struct HeadsFact {
    /// The map.
    pub(crate) map: HeadMap,
    /// The clause, or the kernel's name where there is none.
    pub span: Span,
    /// In words, for `explain`.
    pub words: String,
}

/// Key head of query head h.
#[derive(Clone, Debug)]
pub(crate) enum HeadMap {
    /// The same head.
    Same,
    /// `h div (Hq div Hkv)`
    Grouped,
    /// `h mod Hkv`
    Interleaved,
    /// 0
    Mqa,
    /// An int expression of h.
    By(Expr),
}

/// Which positions a rank of a ring holds: n positions over P ranks, chunks differing by at most one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingLayout {
    /// Rank r holds the r-th of P chunks.
    Contiguous,
    /// Rank r holds positions r, r + P, r + 2 P, ...
    Striped,
    /// Rank r holds chunks r and 2 P - 1 - r of 2 P.
    Zigzag,
}

impl RingLayout {
    /// Names in the text.
    pub const ALL: [(&'static str, RingLayout); 3] = [
        ("contiguous", RingLayout::Contiguous),
        ("striped", RingLayout::Striped),
        ("zigzag", RingLayout::Zigzag),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|l| l.1 == self).map_or("contiguous", |l| l.0)
    }
}

/// `distribute ring(axis, ranks, layout)`
#[derive(Clone, Copy, Debug)]
pub struct RingFact {
    /// The distributed dim, by position.
    pub dim: usize,
    /// Ranks that the text asks for; the transport's number otherwise.
    pub ranks: Option<i64>,
    /// Who holds which positions.
    pub layout: RingLayout,
    /// The clause.
    pub span: Span,
}

/// A top-level conjunct of the mask.
#[derive(Clone, Debug)]
pub struct MaskClause {
    /// Its text.
    pub text: String,
    /// Where it was written.
    pub span: Span,
    /// The typed conjunct.
    pub(crate) expr: Expr,
}

/// A clause that the attention IR cannot express.
#[derive(Clone, Debug)]
pub(crate) struct UnsupportedClause {
    /// The clause in words, `rotate`.
    pub clause: String,
    /// Where it stands.
    pub span: Span,
    /// The closest thing that works.
    pub nearest: String,
}

/// A tensor of rows with the role of each dim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowsFact {
    /// Position in [`CheckedKernel::tensors`].
    pub tensor: usize,
    /// The batch dim.
    pub batch: Option<usize>,
    /// The head dim.
    pub head: Option<usize>,
    /// The sequence dim.
    pub seq: usize,
    /// The feature dim.
    pub feature: usize,
}

/// A dot of the score: the rows that meet, and the roles of the dims of the first tensor in each.
#[derive(Clone, Debug)]
pub(crate) struct DotFact {
    /// Query side.
    pub x: RowsFact,
    /// Key side.
    pub y: RowsFact,
    /// The row at the query, perhaps computed.
    pub x_row: Expr,
    /// The row at the key.
    pub y_row: Expr,
}

impl DotFact {
    /// True of the dot of these rows: the same tensors, or the same computed rows.
    pub fn is(&self, x: &Expr, y: &Expr) -> bool {
        same_row(&self.x_row, x) && same_row(&self.y_row, y)
    }
}

fn same_row(a: &Expr, b: &Expr) -> bool {
    match (&a.kind, &b.kind) {
        (Kind::Row(s, i), Kind::Row(t, j)) if i.is_empty() && j.is_empty() => s == t,
        _ => std::sync::Arc::ptr_eq(a, b),
    }
}

/// How scores become weights.
#[derive(Clone, Debug)]
pub(crate) enum WeightHir {
    /// Normalised over j, with an extra logit.
    Softmax(Option<Expr>),
    /// Logistic.
    Sigmoid,
    /// Positive part.
    Relu,
    /// The score.
    Plain,
}

/// The typed body of an attention.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    /// Float.
    pub score: Expr,
    /// Bool; none sees everything.
    pub mask: Option<Expr>,
    /// Score to weight.
    pub weight: WeightHir,
    /// Share, seed and offset of what is dropped.
    pub dropout: Option<[Expr; 3]>,
    /// The dots of the score, in order of first appearance.
    pub dots: Vec<DotFact>,
    /// Dots of a query with a row that both positions choose.
    pub relative: Vec<RelativeFact>,
    /// Roles of the values; the keys of the first dot where nothing returns `weight @ v`.
    pub value: RowsFact,
    /// The row of values: a tensor's, or computed from one.
    pub value_row: Option<Expr>,
}

/// The typed body of a recurrence.
#[derive(Clone, Debug)]
pub(crate) struct RecurBody {
    /// In order of declaration.
    pub states: Vec<StateFact>,
    /// State and new value, in order of the text.
    pub updates: Vec<(usize, Expr)>,
    /// Rows over the sequence with the most of batch and head dims; results have their dims.
    pub rows: RowsFact,
    /// The run-time parameter that is added to the step, if the text reads `i`.
    pub start: Option<usize>,
}

/// A state of a recurrence.
#[derive(Clone, Debug)]
pub(crate) struct StateFact {
    /// Name.
    pub name: String,
    /// A row or a matrix.
    pub ty: super::hir::Type,
    /// Where it begins.
    pub init: InitHir,
}

/// Where a state begins.
#[derive(Clone, Debug)]
pub(crate) enum InitHir {
    /// With zeros.
    Zeros,
    /// With this number everywhere.
    Number(Expr),
    /// With what the host binds, by position in [`CheckedKernel::tensors`]; zeros where it is absent.
    Tensor(usize),
}
