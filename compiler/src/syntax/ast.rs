//! The syntax tree of a `.attn` file: what was written, with spans, nothing resolved.
//!
//! Comes in from `parse`; `print` writes it back, `sema` gives it meaning. Every node that a message may point at
//! carries a [`Span`]. Equality ignores spans ([`Spanned`]), so that `parse(print(x)) == x` can be asked.

use crate::diagnostic::Span;

/// A node with its place; equality looks at the node only.
#[derive(Clone, Debug)]
pub struct Spanned<T> {
    /// The node.
    pub node: T,
    /// Its place.
    pub span: Span,
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
    }
}

/// A name where it was written.
pub type Name = Spanned<String>;

/// An expression where it was written.
pub type Expr = Spanned<ExprKind>;

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// In order.
    pub items: Vec<Item>,
}

/// A top-level item.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// `use ...`
    Use(Use),
    /// A named mask, score, function or position.
    Def(Def),
    /// `attention` or `recurrence`.
    Kernel(Kernel),
}

/// `use std.mask` or `use "other.attn"`.
#[derive(Clone, Debug, PartialEq)]
pub struct Use {
    /// What.
    pub target: Spanned<UseTarget>,
}

/// What is imported.
#[derive(Clone, Debug, PartialEq)]
pub enum UseTarget {
    /// Dotted words.
    Path(Vec<String>),
    /// A file beside this one.
    File(String),
}

/// What a definition defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DefKind {
    /// `mask f(..) = bool`
    Mask,
    /// `score f(..) = float`
    Score,
    /// `fn f(..) = value`
    Fn,
    /// `position f(..) = [pair]`
    Position,
}

impl DefKind {
    /// The keyword.
    pub const fn keyword(self) -> &'static str {
        match self {
            DefKind::Mask => "mask",
            DefKind::Score => "score",
            DefKind::Fn => "fn",
            DefKind::Position => "position",
        }
    }
}

/// `mask window(W) = j in (i - W, i]`
#[derive(Clone, Debug, PartialEq)]
pub struct Def {
    /// Kind.
    pub kind: DefKind,
    /// Name.
    pub name: Name,
    /// Parameters.
    pub params: Vec<Param>,
    /// Body.
    pub body: Expr,
    /// The whole definition.
    pub span: Place,
}

/// A span that takes no part in equality.
#[derive(Clone, Copy, Debug)]
pub struct Place(pub Span);

impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// A parameter of a definition or a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// A compile-time constant.
    pub is_static: bool,
    /// Name.
    pub name: Name,
    /// `: int`
    pub ty: Option<Name>,
    /// `= expr`
    pub default: Option<Expr>,
}

/// What kind of kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelKind {
    /// `attention`
    Attention,
    /// `recurrence`
    Recurrence,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Kind.
    pub kind: KernelKind,
    /// Name.
    pub name: Name,
    /// Parameters.
    pub params: Vec<Param>,
    /// Clauses in order.
    pub clauses: Vec<Clause>,
    /// The whole kernel.
    pub span: Place,
}

/// A clause with the place of all of it.
#[derive(Clone, Debug)]
pub struct Clause {
    /// What it says.
    pub kind: ClauseKind,
    /// Its place, keyword included.
    pub span: Span,
}

impl PartialEq for Clause {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

/// What a clause says.
#[derive(Clone, Debug, PartialEq)]
pub enum ClauseKind {
    /// `dims B, H = 8, Sq = 1..8`
    Dims(Vec<DimDecl>),
    /// `heads grouped` or `heads map by h mod 2`
    Heads {
        /// grouped, interleaved, mqa, map
        scheme: Name,
        /// After `by`.
        by: Option<Expr>,
    },
    /// `align bottom_right`
    Align(Name),
    /// `mode decode`
    Mode(Name),
    /// `input q, k : float[B, H, S, D] attrs`
    Input(TensorDecl),
    /// `cache k, v : i8[...] attrs`
    Cache(TensorDecl),
    /// `append k_new, v_new`
    Append(Vec<Name>),
    /// `map q, k by silu`
    Map {
        /// Tensors.
        names: Vec<Name>,
        /// Feature map.
        by: Name,
    },
    /// `rotate q by rope(...) at i`
    Rotate {
        /// Tensors.
        names: Vec<Name>,
        /// Position scheme: a call.
        by: Expr,
        /// Position.
        at: Expr,
    },
    /// `let x = expr`
    Let {
        /// Name.
        name: Name,
        /// Value.
        value: Expr,
    },
    /// `select i = topk(...)`
    Select {
        /// i or j.
        name: Name,
        /// A call.
        by: Expr,
    },
    /// `branch name { ... }`
    Branch {
        /// Name.
        name: Name,
        /// Clauses.
        clauses: Vec<Clause>,
    },
    /// `state s : f32[D, Dv] = s0`
    State {
        /// Name.
        name: Name,
        /// Type.
        ty: TensorType,
        /// Initial value.
        init: Option<Expr>,
    },
    /// `s = expr` in a recurrence.
    Update {
        /// State.
        name: Name,
        /// New value.
        value: Expr,
    },
    /// `score = expr`
    Score(Expr),
    /// `mask = expr`
    Mask(Expr),
    /// `weight = expr`
    Weight(Expr),
    /// `dropout(p, seed, offset)`
    Dropout(Vec<Arg>),
    /// `numerics { dot = exact }`
    Numerics(Vec<OptionDecl>),
    /// `distribute ring(...)`
    Distribute(Expr),
    /// `schedule cpu { tile = [64, 64] }`
    Schedule {
        /// cpu, gpu
        target: Name,
        /// Arguments after the target.
        args: Vec<Arg>,
        /// Options.
        options: Vec<OptionDecl>,
    },
    /// `ensure work <= 0.16 at (S = 4096)`
    Ensure {
        /// Promise.
        promise: Expr,
        /// Where.
        at: Vec<Arg>,
    },
    /// `test (Sq = [1, 17])`
    Test(Vec<Arg>),
    /// `return weight @ v, lse`
    Return(Vec<Expr>),
}

impl ClauseKind {
    /// The keyword that starts the clause (the state's name for an update).
    pub fn keyword(&self) -> &str {
        use ClauseKind::*;
        match self {
            Dims(_) => "dims",
            Heads { .. } => "heads",
            Align(_) => "align",
            Mode(_) => "mode",
            Input(_) => "input",
            Cache(_) => "cache",
            Append(_) => "append",
            Map { .. } => "map",
            Rotate { .. } => "rotate",
            Let { .. } => "let",
            Select { .. } => "select",
            Branch { .. } => "branch",
            State { .. } => "state",
            Update { name, .. } => &name.node,
            Score(_) => "score",
            Mask(_) => "mask",
            Weight(_) => "weight",
            Dropout(_) => "dropout",
            Numerics(_) => "numerics",
            Distribute(_) => "distribute",
            Schedule { .. } => "schedule",
            Ensure { .. } => "ensure",
            Test(_) => "test",
            Return(_) => "return",
        }
    }
}

/// `D`, `D = 128`, `Sq = 1..8`
#[derive(Clone, Debug, PartialEq)]
pub struct DimDecl {
    /// Name.
    pub name: Name,
    /// Value, or lower bound.
    pub value: Option<Expr>,
    /// Upper bound, included.
    pub upto: Option<Expr>,
}

/// `q, k : float[B, H, S, D] attrs`
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDecl {
    /// Names.
    pub names: Vec<Name>,
    /// Type.
    pub ty: TensorType,
    /// Attributes in order.
    pub attrs: Vec<Spanned<Attr>>,
}

/// `float[B, H, S, D]`
#[derive(Clone, Debug, PartialEq)]
pub struct TensorType {
    /// Element type.
    pub dtype: Name,
    /// Sizes.
    pub dims: Vec<Expr>,
}

/// An attribute of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// A gradient is wanted.
    Learn,
    /// Non-decreasing.
    Sorted,
    /// Non-decreasing or non-increasing.
    Monotone,
    /// May be absent.
    Optional,
    /// `paged(size = 16, table = pages, len = kv_len)`
    Paged(Vec<Arg>),
    /// `len = kv_len`: a contiguous cache with a length for each batch.
    Len(Name),
    /// `scale f16 per (token, head)`
    Scale {
        /// Storage type.
        dtype: Name,
        /// Dims.
        per: Vec<Name>,
    },
    /// `layout (T, Hq, D)`
    Layout(Vec<Name>),
}

/// `name` or `name = expr` in braces.
#[derive(Clone, Debug, PartialEq)]
pub struct OptionDecl {
    /// Name.
    pub name: Name,
    /// Value.
    pub value: Option<Expr>,
}

/// `expr` or `name = expr` in a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    /// Name, if given.
    pub name: Option<Name>,
    /// Value.
    pub value: Expr,
}

/// A literal number: its exact value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Written without point or exponent (suffixes allowed).
    Int(i64),
    /// Written with a point or an exponent.
    Float(f64),
}

/// Infix operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InfixOp {
    /// `|`
    Or,
    /// `&`
    And,
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `div`
    IDiv,
    /// `mod`
    Mod,
    /// `@`
    MatMul,
    /// `^`
    Pow,
}

impl InfixOp {
    /// As written.
    pub const fn symbol(self) -> &'static str {
        use InfixOp::*;
        match self {
            Or => "|",
            And => "&",
            Eq => "==",
            Ne => "!=",
            Lt => "<",
            Le => "<=",
            Gt => ">",
            Ge => ">=",
            Add => "+",
            Sub => "-",
            Mul => "*",
            Div => "/",
            IDiv => "div",
            Mod => "mod",
            MatMul => "@",
            Pow => "^",
        }
    }

    /// True for the six comparisons.
    pub const fn is_comparison(self) -> bool {
        use InfixOp::*;
        matches!(self, Eq | Ne | Lt | Le | Gt | Ge)
    }
}

/// Prefix operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrefixOp {
    /// `-`
    Neg,
    /// `!`
    Not,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// A number.
    Number(Number),
    /// A string.
    Str(String),
    /// A name.
    Name(String),
    /// `f(x, n = 3)`
    Call {
        /// Function.
        name: Name,
        /// Arguments.
        args: Vec<Arg>,
    },
    /// `t[i, j]`
    Index {
        /// Tensor.
        base: Box<Expr>,
        /// Indices.
        index: Vec<Expr>,
    },
    /// `[a, b, c]`
    List(Vec<Expr>),
    /// `-x`, `!x`
    Prefix {
        /// Operator.
        op: PrefixOp,
        /// Operand.
        operand: Box<Expr>,
    },
    /// `a + b`
    Infix {
        /// Operator.
        op: InfixOp,
        /// Left.
        left: Box<Expr>,
        /// Right.
        right: Box<Expr>,
    },
    /// `x in (lo, hi]`
    In {
        /// Value.
        value: Box<Expr>,
        /// Interval.
        interval: Box<Interval>,
    },
    /// `c ? a : b`
    Ternary {
        /// Condition.
        cond: Box<Expr>,
        /// When true.
        then: Box<Expr>,
        /// When false.
        otherwise: Box<Expr>,
    },
    /// `(x)`: kept, so that `&` mixed with `|` without parentheses can be told from with.
    Paren(Box<Expr>),
}

/// `(lo, hi]`
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    /// `[`
    pub lo_included: bool,
    /// Lower end.
    pub lo: Expr,
    /// Upper end.
    pub hi: Expr,
    /// `]`
    pub hi_included: bool,
}
