//! The typed tree of a kernel: what `check` makes of the syntax tree and `instantiate` lowers.
//!
//! Comes in from `elab`: names resolved, definitions and lets inlined, every node typed, ints widened where a
//! float is wanted. What holds: no tree has more than [`MAX_NODES`] nodes (shared nodes counted at each use) or
//! is deeper than [`MAX_DEPTH`], so that walks may recurse. Not here: sizes of dims and values of statics.

use std::sync::Arc;

use crate::diagnostic::Span;
use crate::expr::eval::Value;
use crate::expr::{BinaryOp, UnaryOp};

/// Most nodes that one expression may have after inlining.
pub const MAX_NODES: u32 = 20_000;
/// Deepest nesting that one expression may have after inlining.
pub const MAX_DEPTH: u32 = 200;

/// A shared, immutable typed expression.
pub type Expr = Arc<Node>;

/// The index variables of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexVar {
    /// Batch.
    B,
    /// Query head.
    H,
    /// Logical query position.
    I,
    /// Key position.
    J,
    /// Row of the query tensor.
    Row,
}

impl IndexVar {
    /// All of them with their names.
    pub const ALL: [(&'static str, IndexVar); 5] = [
        ("b", IndexVar::B),
        ("h", IndexVar::H),
        ("i", IndexVar::I),
        ("j", IndexVar::J),
        ("row", IndexVar::Row),
    ];

    /// The variable of this name.
    pub fn from_name(name: &str) -> Option<IndexVar> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, v)| *v == self).map_or("row", |(n, _)| n)
    }
}

/// The size of one dim of a tensor, of a row or of a state.
#[derive(Clone, Debug)]
pub struct Size {
    /// Int expression over dims, statics and run-time parameters.
    pub expr: Expr,
    /// Its canonical text, by which sizes are compared.
    pub text: String,
    /// Set if the size is a dim by name.
    pub dim: Option<usize>,
}

impl Size {
    /// The size, if the text alone fixes it.
    pub fn known(&self) -> Option<i64> {
        match self.expr.value {
            Some(Value::Int(x)) => Some(x),
            _ => None,
        }
    }

    /// True if both are the same dim, the same expression or the same number.
    pub fn same(&self, other: &Size) -> bool {
        self.text == other.text || (self.known().is_some() && self.known() == other.known())
    }
}

/// The type of a node.
#[derive(Clone, Debug)]
pub enum Type {
    /// Already reported; agrees with everything.
    Error,
    /// Truth value.
    Bool,
    /// 64-bit integer.
    Int,
    /// f32 in kernels.
    Float,
    /// A row of floats of this length.
    Row(Size),
    /// A matrix of floats (recurrence states).
    Mat(Size, Size),
}

impl Type {
    /// Words for messages.
    pub fn words(&self) -> String {
        match self {
            Type::Error => "an erroneous expression".into(),
            Type::Bool => "a bool".into(),
            Type::Int => "an int".into(),
            Type::Float => "a float".into(),
            Type::Row(n) => format!("a row of {} numbers", n.text),
            Type::Mat(r, c) => format!("a matrix [{}, {}]", r.text, c.text),
        }
    }

    /// True for `Int` and `Float`.
    pub fn is_number(&self) -> bool {
        matches!(self, Type::Int | Type::Float)
    }
}

/// The values that the body of a feature map or a `position` is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem {
    /// The element (of a map), or the first of the pair.
    X0,
    /// The second of the pair.
    X1,
    /// The position, an int.
    Pos,
    /// The index of the pair, an int.
    Pair,
}

/// What a norm runs over.
#[derive(Clone, Debug)]
pub struct NormOver {
    /// The dims by their sizes; the feature dim without a list.
    pub dims: Vec<Size>,
    /// Added to the mean of squares.
    pub eps: f64,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Already reported.
    Error,
    /// A literal, or a folded constant.
    Const(Value),
    /// `b h i j row`.
    Index(IndexVar),
    /// Kernel parameter, by position.
    Param(usize),
    /// Dim, by position.
    Dim(usize),
    /// Element of a tensor: as many indices as dims.
    Load(usize, Vec<Expr>),
    /// A row of a tensor: the row of the current position without indices, else the one of these leading indices.
    Row(usize, Vec<Expr>),
    /// The value of a tensor over the sequence at the current step (recurrences only).
    AtStep(usize),
    /// A recurrence state.
    State(usize),
    /// What a row operation acts on: the element of a map, or [`Elem`] of a pair.
    Elem(Elem),
    /// One operand; of a row, elementwise.
    Unary(UnaryOp, Expr),
    /// Two operands; of rows and matrices, elementwise with scalars broadcast.
    Binary(BinaryOp, Expr, Expr),
    /// `c ? a : b`.
    Select(Expr, Expr, Expr),
    /// Operands row, col, ncols, head, n, seed.
    RandBlock(Box<[Expr; 6]>),
    /// As `RandBlock`, with the columns to be skipped.
    RandBlockExcept(Box<[Expr; 6]>, Expr),
    /// Dot of a row at the query and a row at the key.
    Dot(Expr, Expr),
    /// `outer(x, y)` of rows.
    Outer(Expr, Expr),
    /// Row times matrix.
    VecMat(Expr, Expr),
    /// `x / sqrt(mean of x^2 over some dims + eps)`.
    Norm(Expr, Arc<NormOver>),
    /// `weight @ v` in a `return`: the row of v's length that the attention gives.
    Weighted(Expr),
    /// The row that a branch gives, in its place.
    Branch(usize),
    /// Rows of branches, merged by their lse.
    Merge(Vec<Expr>),
}

/// What an expression reads: a set of small facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses(pub u16);

impl Uses {
    /// Nothing.
    pub const NONE: Uses = Uses(0);
    /// Reads `b`.
    pub const B: Uses = Uses(1);
    /// Reads `h`.
    pub const H: Uses = Uses(2);
    /// Reads `i`.
    pub const I: Uses = Uses(4);
    /// Reads `j`.
    pub const J: Uses = Uses(8);
    /// Reads `row`.
    pub const ROW: Uses = Uses(16);
    /// Holds a dot.
    pub const DOT: Uses = Uses(32);
    /// Loads an element of a float tensor.
    pub const FLOAT_LOAD: Uses = Uses(64);
    /// Loads an element of an integer or bit tensor.
    pub const INT_LOAD: Uses = Uses(128);
    /// Reads a run-time parameter.
    pub const PARAM: Uses = Uses(256);
    /// Reads a static parameter.
    pub const STATIC: Uses = Uses(512);
    /// Reads a dim.
    pub const DIM: Uses = Uses(1024);
    /// Reads a recurrence state or the current step of a tensor.
    pub const STEP: Uses = Uses(2048);
    /// Reads a row.
    pub const ROWS: Uses = Uses(4096);
    /// Any index variable.
    pub const INDEX: Uses = Uses(31);

    /// Union.
    pub const fn or(self, other: Uses) -> Uses {
        Uses(self.0 | other.0)
    }

    /// True if any of `other` is read.
    pub const fn any(self, other: Uses) -> bool {
        self.0 & other.0 != 0
    }

    /// What an index variable is.
    pub const fn of_index(var: IndexVar) -> Uses {
        match var {
            IndexVar::B => Uses::B,
            IndexVar::H => Uses::H,
            IndexVar::I => Uses::I,
            IndexVar::J => Uses::J,
            IndexVar::Row => Uses::ROW,
        }
    }
}

/// A typed node.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Its type.
    pub ty: Type,
    /// Where it was written.
    pub span: Span,
    /// Its value, where the text alone fixes it.
    pub value: Option<Value>,
    /// What it reads, itself or below.
    pub uses: Uses,
    /// Nodes below and itself, shared ones counted at each use; saturating.
    pub size: u32,
    /// Longest path down.
    pub depth: u32,
}

impl Node {
    /// A node with its facts derived from its operands; `own` is what it reads itself.
    pub fn new(kind: Kind, ty: Type, span: Span, own: Uses) -> Node {
        let (mut uses, mut size, mut depth) = (own, 1u32, 0u32);
        for x in operands(&kind) {
            uses = uses.or(x.uses);
            size = size.saturating_add(x.size);
            depth = depth.max(x.depth);
        }
        let value = if let Kind::Const(v) = &kind { Some(*v) } else { None };
        Node { kind, ty, span, value, uses, size, depth: depth + 1 }
    }

    /// The int, if the text alone fixes it.
    pub fn int(&self) -> Option<i64> {
        if let Some(Value::Int(x)) = self.value { Some(x) } else { None }
    }

    /// True if the node was already reported.
    pub fn is_error(&self) -> bool {
        matches!(self.ty, Type::Error)
    }
}

/// The operands of a node, in order.
pub fn operands(kind: &Kind) -> Vec<&Expr> {
    match kind {
        Kind::Error
        | Kind::Const(_)
        | Kind::Index(_)
        | Kind::Param(_)
        | Kind::Dim(_)
        | Kind::AtStep(_)
        | Kind::State(_)
        | Kind::Elem(_)
        | Kind::Branch(_) => vec![],
        Kind::Load(_, idx) | Kind::Row(_, idx) | Kind::Merge(idx) => idx.iter().collect(),
        Kind::Unary(_, x) | Kind::Norm(x, _) | Kind::Weighted(x) => vec![x],
        Kind::Binary(_, a, b) | Kind::Dot(a, b) | Kind::Outer(a, b) | Kind::VecMat(a, b) => vec![a, b],
        Kind::Select(c, a, b) => vec![c, a, b],
        Kind::RandBlock(args) => args.iter().collect(),
        Kind::RandBlockExcept(args, e) => args.iter().chain([e]).collect(),
    }
}

/// Calls `f` on a node and everything below it, users before operands, until `f` answers `Some`.
pub fn find<'a, T>(root: &'a Expr, f: &mut dyn FnMut(&'a Expr) -> Option<T>) -> Option<T> {
    if let Some(found) = f(root) {
        return Some(found);
    }
    operands(&root.kind).into_iter().find_map(|x| find(x, f))
}

/// The deepest node that itself, not through its operands, reads any of `what`.
pub fn find_use(root: &Expr, what: Uses) -> Option<&Expr> {
    if !root.uses.any(what) {
        return None;
    }
    operands(&root.kind).into_iter().find_map(|x| find_use(x, what)).or(Some(root))
}
