//! The tree of a PTX text, before any meaning.
//!
//! Comes in: nothing. Goes out: the types that [`crate::parse`] fills and [`crate::decode`] reads. What holds: every
//! instruction keeps its line and its text; names are not resolved, opcodes are not known. Not here: types of
//! registers, rows, addresses.

/// An operand as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    /// A register, variable, label or special register.
    Name(String),
    /// A symbol and a byte offset, outside of brackets.
    Sum(String, i64),
    /// An integer literal; negative ones in two's complement.
    Int(i128),
    /// `0f` and eight hexadecimal digits.
    F32(u32),
    /// `0dX...` or a decimal literal.
    F64(f64),
    /// `_`.
    Sink,
    /// `!p`.
    Not(Box<Arg>),
    /// `a|b`.
    Pair(Box<Arg>, Box<Arg>),
    /// `[base+off]`.
    Addr(Box<Arg>, i64),
    /// `[base+off, {coordinates}]`.
    Tensor(Box<Arg>, i64, Vec<Arg>),
    /// `{a, b, ...}`.
    Vector(Vec<Arg>),
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct RawInst {
    pub line: u32,
    /// The guard's predicate and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// The opcode, cut at its dots (`shared::cta` stays one part).
    pub parts: Vec<String>,
    pub args: Vec<Arg>,
    /// As written, white space folded.
    pub text: String,
}

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VarSpace {
    Reg,
    Shared,
    Global,
    Const,
    Local,
    Param,
}

/// A variable or a range of registers.
#[derive(Clone, Debug)]
pub(crate) struct VarDecl {
    pub line: u32,
    pub space: VarSpace,
    pub external: bool,
    pub align: Option<u32>,
    /// The type without its dot: `b8`, `f32`, `pred`, ...
    pub ty: String,
    pub name: String,
    /// `<n>` of a range of registers.
    pub range: Option<u32>,
    /// Elements; `None` for a scalar, `Some(0)` for `[]`.
    pub count: Option<u64>,
    /// Literals of an initialiser, in elements.
    pub init: Vec<Arg>,
}

/// What stands in a body.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Inst(RawInst),
    Label(u32, String),
    Decl(VarDecl),
    Open,
    Close,
}

/// A kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawEntry {
    pub line: u32,
    pub name: String,
    pub params: Vec<VarDecl>,
    pub max_threads: Option<[u32; 3]>,
    pub req_threads: Option<[u32; 3]>,
    pub min_ctas: Option<u32>,
    pub max_regs: Option<u32>,
    pub cluster: Option<[u32; 3]>,
    pub body: Vec<Item>,
}

/// A module.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawModule {
    pub version: (u32, u32),
    pub target: String,
    pub vars: Vec<VarDecl>,
    pub entries: Vec<RawEntry>,
}
