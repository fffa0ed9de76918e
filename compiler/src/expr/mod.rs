//! Scalar expressions: the one language in which scores, masks, sizes, bounds and addresses are written.
//!
//! A [`Pool`] holds a hash-consed DAG of typed nodes over named variables; `attn_ir` and `tile_ir` each own
//! one. A node is pure: it reads variables and tensor elements and nothing else, and it has one meaning on
//! every target. What a variable stands for (a query position, a dim, a parameter, an element of a tile) is
//! said by the owner of the pool, never here.
//!
//! Types are `bool`, `int` (64-bit, wrapping) and `float` (f64 in the reference, f32 in kernels).
//! Building a node folds constants and applies the identities of [`fold`]; it never reorders float arithmetic.

pub mod eval;
pub mod fold;
pub mod interval;
pub mod parse;
pub mod print;
pub mod rand;
pub mod range;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

/// Index of a node in its [`Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExprId(pub u32);

/// Index of a variable in its [`Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VarId(pub u32);

/// Index of a tensor in the table of the IR that owns the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TensorId(pub u32);

/// Type of a scalar expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ty {
    /// Truth value.
    Bool,
    /// 64-bit integer.
    Int,
    /// f32 in kernels, f64 in the reference.
    Float,
}

/// Operations of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UnaryOp {
    /// `-x`, int or float.
    Neg,
    /// `!x`, bool.
    Not,
    /// Absolute value, int or float.
    Abs,
    /// Largest integer not above, float.
    Floor,
    /// Smallest integer not below, float.
    Ceil,
    /// Square root.
    Sqrt,
    /// 1 / square root.
    Rsqrt,
    /// e^x
    Exp,
    /// 2^x
    Exp2,
    /// Natural logarithm; -inf for x <= 0.
    Log,
    /// Base-2 logarithm; -inf for x <= 0.
    Log2,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// Sine, radians.
    Sin,
    /// Cosine, radians.
    Cos,
    /// int to float.
    ToFloat,
    /// float to int, toward zero, saturating; NaN gives 0.
    ToInt,
    /// The nearest f32, as a float: a declared rounding. The identity in kernels, whose floats are f32.
    Round32,
}

/// Operations of two operands of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BinaryOp {
    /// Sum, int or float.
    Add,
    /// Difference, int or float.
    Sub,
    /// Product, int or float.
    Mul,
    /// Quotient of floats.
    Div,
    /// Floored quotient of ints; 0 where the divisor is 0 (a launch checks divisors before).
    IDiv,
    /// `x - y * (x div y)`; 0 where the divisor is 0.
    Mod,
    /// Smaller, int or float.
    Min,
    /// Larger, int or float.
    Max,
    /// Power of floats.
    Pow,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `==`, also of bools.
    Eq,
    /// `!=`, also of bools.
    Ne,
    /// Conjunction.
    And,
    /// Disjunction.
    Or,
}

/// A float constant with total equality: equal bits are equal constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FloatBits(pub u64);

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Op {
    /// Integer constant.
    Int(i64),
    /// Float constant.
    Float(FloatBits),
    /// Bool constant.
    Bool(bool),
    /// A variable.
    Var(VarId),
    /// The element of a tensor at integer indices, one for each dim. A `bit` tensor gives a bool.
    Load(TensorId, Box<[ExprId]>, Ty),
    /// One operand.
    Unary(UnaryOp, ExprId),
    /// Two operands.
    Binary(BinaryOp, ExprId, ExprId),
    /// `c ? a : b`: the branch not taken has no effect.
    Select(ExprId, ExprId, ExprId),
    /// BigBird's random blocks (language.md, rule 6): is `col` among `n` distinct columns of `0..ncols` drawn
    /// for (seed, head, row)? Operands: row, col, ncols, head, n, seed.
    RandBlock(Box<[ExprId; 6]>),
    /// As `RandBlock`, drawing only from columns for which the seventh operand, a bool, does not hold. `col` is a
    /// variable: the condition is evaluated for each of its values. Stands in tables only.
    RandBlockExcept(Box<[ExprId; 7]>),
}

/// A variable: its printed name, unique in the pool, and its type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VarInfo {
    /// Printed name, unique in the pool.
    pub name: String,
    /// Type of its value.
    pub ty: Ty,
}

/// A set of nodes.
#[derive(Clone, Debug, Default)]
pub struct Seen(Vec<u64>);

impl Seen {
    /// Puts a node in; false if it was there.
    pub fn add(&mut self, id: ExprId) -> bool {
        let (word, bit) = (id.0 as usize / 64, 1u64 << (id.0 % 64));
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }
}

/// A hash-consed store of expressions: equal expressions have equal ids.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "StoredPool", into = "StoredPool")]
pub struct Pool {
    nodes: Vec<(Op, Ty)>,
    index: FxHashMap<Op, ExprId>,
    vars: Vec<VarInfo>,
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a variable. A name already taken gets a numeric suffix, so that printed text stays unambiguous.
    pub fn add_var(&mut self, name: &str, ty: Ty) -> VarId {
        let mut unique = name.to_string();
        let mut n = 1;
        while self.vars.iter().any(|v| v.name == unique) {
            n += 1;
            unique = format!("{name}_{n}");
        }
        self.vars.push(VarInfo { name: unique, ty });
        VarId(self.vars.len() as u32 - 1)
    }

    /// The variable's name and type.
    pub fn var_info(&self, var: VarId) -> &VarInfo {
        &self.vars[var.0 as usize]
    }

    /// All variables in order of creation.
    pub fn vars(&self) -> impl Iterator<Item = (VarId, &VarInfo)> {
        self.vars.iter().enumerate().map(|(n, v)| (VarId(n as u32), v))
    }

    /// The variable of this printed name.
    pub fn find_var(&self, name: &str) -> Option<VarId> {
        self.vars.iter().position(|v| v.name == name).map(|n| VarId(n as u32))
    }

    /// The node's operation.
    pub fn op(&self, id: ExprId) -> &Op {
        &self.nodes[id.0 as usize].0
    }

    /// The node's type.
    pub fn ty(&self, id: ExprId) -> Ty {
        self.nodes[id.0 as usize].1
    }

    /// Number of nodes made so far. Operands have smaller ids than their users.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True before the first node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Interns an operation as it stands, without folding.
    pub fn intern(&mut self, op: Op) -> ExprId {
        if let Some(&id) = self.index.get(&op) {
            return id;
        }
        let ty = self.type_of(&op);
        let id = ExprId(self.nodes.len() as u32);
        self.nodes.push((op.clone(), ty));
        self.index.insert(op, id);
        id
    }

    fn type_of(&self, op: &Op) -> Ty {
        use BinaryOp::*;
        match op {
            Op::Int(_) => Ty::Int,
            Op::Float(_) => Ty::Float,
            Op::Bool(_) | Op::RandBlock(_) | Op::RandBlockExcept(_) => Ty::Bool,
            Op::Var(v) => self.var_info(*v).ty,
            Op::Load(_, _, ty) => *ty,
            Op::Unary(UnaryOp::Not, _) => Ty::Bool,
            Op::Unary(UnaryOp::ToInt, _) => Ty::Int,
            Op::Unary(UnaryOp::Neg | UnaryOp::Abs, x) => self.ty(*x),
            Op::Unary(_, _) => Ty::Float,
            Op::Binary(Lt | Le | Eq | Ne | And | Or, _, _) => Ty::Bool,
            Op::Binary(_, a, _) => self.ty(*a),
            Op::Select(_, a, _) => self.ty(*a),
        }
    }

    /// The operands of a node, in order.
    pub fn operands(&self, id: ExprId) -> Vec<ExprId> {
        let mut out = Vec::new();
        self.each_operand(id, |x| out.push(x));
        out
    }

    /// Calls `f` with each operand of a node, in order.
    pub fn each_operand(&self, id: ExprId, mut f: impl FnMut(ExprId)) {
        match self.op(id) {
            Op::Int(_) | Op::Float(_) | Op::Bool(_) | Op::Var(_) => {}
            Op::Load(_, idx, _) => idx.iter().copied().for_each(f),
            Op::Unary(_, x) => f(*x),
            Op::Binary(_, a, b) => [*a, *b].into_iter().for_each(f),
            Op::Select(c, a, b) => [*c, *a, *b].into_iter().for_each(f),
            Op::RandBlock(args) => args.iter().copied().for_each(f),
            Op::RandBlockExcept(args) => args.iter().copied().for_each(f),
        }
    }

    /// Every node reachable from `roots`, operands before users.
    pub fn reachable(&self, roots: &[ExprId]) -> Vec<ExprId> {
        self.reachable_without(roots, &mut Seen::default())
    }

    /// Every node reachable from `roots` that was not yet seen, operands before users; afterwards they are.
    pub fn reachable_without(&self, roots: &[ExprId], seen: &mut Seen) -> Vec<ExprId> {
        let mut stack = roots.to_vec();
        let mut found = Vec::new();
        while let Some(id) = stack.pop() {
            if seen.add(id) {
                found.push(id);
                self.each_operand(id, |x| stack.push(x));
            }
        }
        found.sort_unstable();
        found
    }

    /// The variables that an expression reads, in order of creation.
    pub fn free_vars(&self, id: ExprId) -> Vec<VarId> {
        let mut vars: Vec<VarId> = self
            .reachable(&[id])
            .into_iter()
            .filter_map(|n| if let Op::Var(v) = self.op(n) { Some(*v) } else { None })
            .collect();
        vars.sort_unstable();
        vars
    }

    /// True if the expression reads any of `vars`.
    pub fn depends_on(&self, id: ExprId, vars: &[VarId]) -> bool {
        self.reachable(&[id]).into_iter().any(|n| matches!(self.op(n), Op::Var(v) if vars.contains(v)))
    }

    /// Rebuilds `root` with each node for which `replace` gives a substitute replaced by it.
    pub fn rewrite(
        &mut self,
        root: ExprId,
        replace: &mut dyn FnMut(&mut Pool, ExprId) -> Option<ExprId>,
    ) -> ExprId {
        let order = self.reachable(&[root]);
        let mut new: FxHashMap<ExprId, ExprId> = FxHashMap::default();
        for id in order {
            let made = match replace(self, id) {
                Some(sub) => sub,
                None => self.remade(id, &|x| new[&x]),
            };
            new.insert(id, made);
        }
        new[&root]
    }

    /// Replaces variables by expressions.
    pub fn substitute(&mut self, root: ExprId, map: &[(VarId, ExprId)]) -> ExprId {
        self.rewrite(root, &mut |pool, id| match pool.op(id) {
            Op::Var(v) => map.iter().find(|(w, _)| w == v).map(|(_, e)| *e),
            _ => None,
        })
    }

    /// The operation of `id` on other operands.
    pub fn remade(&mut self, id: ExprId, new: &dyn Fn(ExprId) -> ExprId) -> ExprId {
        match self.op(id).clone() {
            op @ (Op::Int(_) | Op::Float(_) | Op::Bool(_) | Op::Var(_)) => self.intern(op),
            Op::Load(t, idx, ty) => self.load(t, idx.iter().map(|&x| new(x)).collect(), ty),
            Op::Unary(op, x) => self.unary(op, new(x)),
            Op::Binary(op, a, b) => self.binary(op, new(a), new(b)),
            Op::Select(c, a, b) => self.select(new(c), new(a), new(b)),
            Op::RandBlock(args) => self.rand_block(args.map(new)),
            Op::RandBlockExcept(args) => self.intern(Op::RandBlockExcept(Box::new(args.map(new)))),
        }
    }

    /// Copies an expression of another pool into this one; `var` maps its variables.
    pub fn import(&mut self, from: &Pool, root: ExprId, var: &dyn Fn(VarId) -> VarId) -> ExprId {
        let mut new: FxHashMap<ExprId, ExprId> = FxHashMap::default();
        for id in from.reachable(&[root]) {
            let made = match from.op(id).clone() {
                Op::Var(v) => self.var(var(v)),
                Op::Load(t, idx, ty) => self.load(t, idx.iter().map(|x| new[x]).collect(), ty),
                Op::Unary(op, x) => self.unary(op, new[&x]),
                Op::Binary(op, a, b) => self.binary(op, new[&a], new[&b]),
                Op::Select(c, a, b) => self.select(new[&c], new[&a], new[&b]),
                Op::RandBlock(args) => self.rand_block(args.map(|x| new[&x])),
                Op::RandBlockExcept(args) => {
                    self.intern(Op::RandBlockExcept(Box::new(args.map(|x| new[&x]))))
                }
                leaf => self.intern(leaf),
            };
            new.insert(id, made);
        }
        new[&root]
    }
}

/// A pool as it is written to disk: the index is derived again when it is read.
#[derive(Serialize, Deserialize)]
struct StoredPool {
    nodes: Vec<(Op, Ty)>,
    vars: Vec<VarInfo>,
}

impl From<StoredPool> for Pool {
    fn from(stored: StoredPool) -> Pool {
        let index =
            stored.nodes.iter().enumerate().map(|(n, (op, _))| (op.clone(), ExprId(n as u32))).collect();
        Pool { nodes: stored.nodes, index, vars: stored.vars }
    }
}

impl From<Pool> for StoredPool {
    fn from(pool: Pool) -> StoredPool {
        StoredPool { nodes: pool.nodes, vars: pool.vars }
    }
}

/// A fixed-size array mapped element by element: `Box<[T; 6]>` has no `map`.
trait MapSix {
    fn map(&self, f: impl Fn(ExprId) -> ExprId) -> [ExprId; 6];
}

impl MapSix for Box<[ExprId; 6]> {
    fn map(&self, f: impl Fn(ExprId) -> ExprId) -> [ExprId; 6] {
        std::array::from_fn(|n| f(self[n]))
    }
}
