//! Typed expressions to the expressions of an attention's pool.
//!
//! Comes in: a typed tree and what stands for its dims, parameters, tensors and dots. Goes out: a pool node that
//! computes the same in the order written; statics and specialised dims are constants by then. `i` inside the
//! brackets of a dim on the query's side becomes `row` (language.md, rule 2); loads of absent optional inputs
//! become neutral (0 in a sum, true in a mask). Not here: rows, matrices and whatever `check` marked unsupported.

use crate::attn_ir::{self, IndexVars};
use crate::diagnostic::Span;
use crate::expr::eval::Value;
use crate::expr::{BinaryOp, ExprId, Pool, TensorId, Ty, UnaryOp, VarId};

use super::hir::{Expr, IndexVar, Kind, Type, Uses, find};
use super::model::{DotFact, RowsFact, TensorFact, TensorKind};
use super::relative::Products;

/// Why an expression could not be lowered: the span to blame and a reason.
#[derive(Clone, Debug)]
pub(crate) struct LowerError {
    /// Where.
    pub span: Span,
    /// Why, in words.
    pub message: String,
}

/// What names stand for.
pub(crate) struct Lower<'k> {
    /// Where nodes go.
    pub pool: Pool,
    /// Index variables.
    pub index: IndexVars,
    /// A node for each dim declared so far.
    pub dims: Vec<ExprId>,
    /// A node for each parameter.
    pub params: Vec<ExprId>,
    /// The kernel's tensors.
    pub tensors: &'k [TensorFact],
    /// Of each tensor, whether its only leading dim is the batch (recurrences).
    pub batched: Vec<bool>,
    /// Their ids; `None` where an optional input is absent.
    pub ids: Vec<Option<TensorId>>,
    /// `i` and the row are not the same: the first query is not at 0.
    pub shifted: bool,
    /// For each tensor and dim: does `i` mean the row there?
    pub query_side: Vec<Vec<bool>>,
    /// Dots of the score with their variables.
    pub dots: Vec<(DotFact, VarId)>,
    /// The tensor that holds each tensor's rows after `map` and `rotate`.
    pub rows: Vec<Option<TensorId>>,
    /// Where an unindexed row of each tensor is read; `None` for tensors whose rows nobody reads.
    pub row_at: Vec<Option<RowAt>>,
    /// What stands for `Elem::X0`, `X1`, `Pos`, `Pair` in the body at hand.
    pub elems: [Option<ExprId>; 4],
    /// How queries were chosen.
    pub chosen: Option<Chosen>,
    /// Running sums: the tensor of each, and of what f32 leaves of it.
    pub low: Vec<(TensorId, TensorId)>,
    /// Variables of local rows, where they are not the positions: one shard of a distributed kernel.
    pub local: Option<Local>,
    /// Made products of dots with rows that both positions choose.
    pub products: Vec<Products>,
    /// What `weight @ v` gives at a feature, in a `return`.
    pub weighted: Option<(TensorId, RowsFact)>,
    /// Expressions that a tensor holds already.
    pub held: Vec<Held>,
}

/// A row or number over the dims of some rows that a step has made.
pub(crate) struct Held {
    /// What it is.
    pub expr: Expr,
    /// Where it stands.
    pub tensor: TensorId,
    /// Roles; for a number there is no feature dim, which is the last of the roles'.
    pub rows: RowsFact,
}

/// Chosen queries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen {
    /// How many.
    pub count: ExprId,
    /// Where each query stands among them, or -1.
    pub ranks: TensorId,
}

/// Where a row of a tensor is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowAt {
    /// Roles of its dims.
    pub rows: RowsFact,
    /// At (b, h, row); else at (b, head, j).
    pub query: bool,
}

/// Rows of a shard's queries and keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local {
    /// Of the queries.
    pub query: VarId,
    /// Of the keys.
    pub key: VarId,
}

/// Where an expression stands.
#[derive(Clone, Copy)]
struct Place {
    /// `i` means the row.
    row: bool,
    /// The value of a bool that hangs on an absent input: true, or false below a `!`.
    neutral: bool,
}

impl Lower<'_> {
    /// Lowers an expression that stands outside brackets.
    pub fn expr(&mut self, e: &Expr) -> Result<ExprId, LowerError> {
        self.at(e, Place { row: false, neutral: true })
    }

    /// True if the expression loads an optional input that is not bound.
    pub fn reads_absent(&self, e: &Expr) -> bool {
        if !e.uses.any(Uses::FLOAT_LOAD.or(Uses::INT_LOAD)) {
            return false;
        }
        let absent = |x: &Expr| matches!(&x.kind, Kind::Load(t, _) if self.ids[*t].is_none()).then_some(());
        find(e, &mut |x| absent(x)).is_some()
    }

    fn at(&mut self, e: &Expr, place: Place) -> Result<ExprId, LowerError> {
        if let Some(x) = self.held(e, None) {
            return Ok(x);
        }
        match &e.kind {
            Kind::AtStep(t) => self.at_step(e, *t, place),
            Kind::Const(v) => Ok(self.pool.constant(*v)),
            Kind::Index(var) => {
                let var = self.index_var(*var, place);
                Ok(self.pool.var(var))
            }
            Kind::Param(n) => Ok(self.params[*n]),
            Kind::Dim(n) => match self.dims.get(*n) {
                Some(&x) => Ok(x),
                None => fail(e, "this dim is sized by one declared later"),
            },
            Kind::Load(t, index) => self.load(e, *t, index, place),
            Kind::Unary(op, x) => self.unary(e, *op, x, place),
            Kind::Binary(op, a, b) => self.binary(e, *op, a, b, place),
            Kind::Select(c, a, b) => {
                let c = self.at(c, place)?;
                match self.pool.as_bool(c) {
                    Some(true) => self.at(a, place),
                    Some(false) => self.at(b, place),
                    None => {
                        let (a, b) = (self.at(a, place)?, self.at(b, place)?);
                        Ok(self.pool.select(c, a, b))
                    }
                }
            }
            Kind::RandBlock(args) => self.rand_block(e, args, place),
            Kind::Dot(x, y) => self.dot(e, x, y),
            Kind::Elem(x) => match self.elems[*x as usize] {
                Some(x) => Ok(x),
                None => fail(e, "this stands for an element, and there is none here"),
            },
            _ => fail(e, "rows, states and matrices have no place in a score yet"),
        }
    }

    /// The sizes of a tensor of the kernel: as bound, or, for a cache or what is still to be made, as declared.
    pub fn shape(&mut self, bound: &[attn_ir::Tensor], tensor: usize) -> Result<Vec<ExprId>, LowerError> {
        let cache = self.tensors[tensor].kind == TensorKind::Cache;
        if let Some(id) = self.ids[tensor].filter(|_| !cache) {
            return Ok(bound[id.0 as usize].shape.clone());
        }
        let tensors = self.tensors;
        tensors[tensor].shape.iter().map(|size| self.expr(&size.expr)).collect()
    }

    fn index_var(&self, var: IndexVar, place: Place) -> VarId {
        match var {
            IndexVar::B => self.index.b,
            IndexVar::H => self.index.h,
            IndexVar::I if place.row && self.shifted => self.index.row,
            IndexVar::Row if self.shifted => self.index.row,
            // Where both are the same there is one name for them, which analyses know best.
            IndexVar::I | IndexVar::Row => self.index.i,
            IndexVar::J => self.index.j,
        }
    }

    fn load(&mut self, e: &Expr, t: usize, index: &[Expr], place: Place) -> Result<ExprId, LowerError> {
        let ty = match e.ty {
            Type::Bool => Ty::Bool,
            Type::Int => Ty::Int,
            _ => Ty::Float,
        };
        let Some(id) = self.ids[t] else {
            let neutral = match ty {
                Ty::Bool => Value::Bool(place.neutral),
                Ty::Int => Value::Int(0),
                Ty::Float => Value::Float(0.0),
            };
            return Ok(self.pool.constant(neutral));
        };
        if ty == Ty::Bool && index.iter().any(|x| self.reads_absent(x)) {
            return Ok(self.pool.bool(place.neutral));
        }
        let mut at = Vec::with_capacity(index.len());
        for (d, x) in index.iter().enumerate() {
            let row = self.query_side[t].get(d).copied().unwrap_or(false);
            at.push(self.at(x, Place { row, neutral: place.neutral })?);
        }
        self.check_constant_index(e, t, &at)?;
        let load = self.pool.load(id, at.clone(), ty);
        Ok(match self.low.iter().find(|(hi, _)| *hi == id) {
            Some(&(_, lo)) => {
                let rest = self.pool.load(lo, at, ty);
                self.pool.binary(BinaryOp::Add, load, rest)
            }
            None => load,
        })
    }

    fn check_constant_index(&self, e: &Expr, t: usize, at: &[ExprId]) -> Result<(), LowerError> {
        for (d, &x) in at.iter().enumerate() {
            let Some(x) = self.pool.as_int(x) else { continue };
            let size = self.tensors[t].shape[d].known();
            if x < 0 || size.is_some_and(|n| x >= n) {
                let name = &self.tensors[t].name;
                let n = size.map_or_else(|| "the size".into(), |n| n.to_string());
                return fail(e, &format!("index {x} of dim {d} of `{name}` is not in 0..{n}"));
            }
        }
        Ok(())
    }

    fn unary(&mut self, e: &Expr, op: UnaryOp, x: &Expr, place: Place) -> Result<ExprId, LowerError> {
        let inner = if op == UnaryOp::Not { Place { neutral: !place.neutral, ..place } } else { place };
        let x = self.at(x, inner)?;
        if let (UnaryOp::ToInt, Some(Value::Float(v))) = (op, self.pool.as_const(x))
            && (v.is_nan() || v >= 9.3e18 || v <= -9.3e18)
        {
            return fail(e, &format!("`int` of {v} has no value"));
        }
        if let (UnaryOp::Neg | UnaryOp::Abs, Some(i64::MIN)) = (op, self.pool.as_int(x)) {
            return fail(e, "this overflows 64 bits");
        }
        Ok(self.pool.unary(op, x))
    }

    fn binary(
        &mut self,
        e: &Expr,
        op: BinaryOp,
        a: &Expr,
        b: &Expr,
        place: Place,
    ) -> Result<ExprId, LowerError> {
        use BinaryOp::*;
        if matches!(op, Lt | Le | Eq | Ne) && (self.reads_absent(a) || self.reads_absent(b)) {
            return Ok(self.pool.bool(place.neutral));
        }
        let (a, b) = (self.at(a, place)?, self.at(b, place)?);
        if let (Some(x), Some(y)) = (self.pool.as_int(a), self.pool.as_int(b)) {
            checked_int(op, x, y).map_err(|message| LowerError { span: e.span, message })?;
        }
        if matches!(op, IDiv | Mod) && self.pool.as_int(b) == Some(0) {
            return fail(e, "the divisor is 0");
        }
        Ok(self.pool.binary(op, a, b))
    }

    fn rand_block(&mut self, e: &Expr, args: &[Expr; 6], place: Place) -> Result<ExprId, LowerError> {
        if args.iter().any(|x| self.reads_absent(x)) {
            return Ok(self.pool.bool(place.neutral));
        }
        let mut ids = Vec::with_capacity(6);
        for x in args {
            ids.push(self.at(x, place)?);
        }
        match <[ExprId; 6]>::try_from(ids) {
            Ok(ids) => Ok(self.pool.rand_block(ids)),
            Err(_) => fail(e, "rand_block takes six operands"),
        }
    }

    fn dot(&mut self, e: &Expr, x: &Expr, y: &Expr) -> Result<ExprId, LowerError> {
        if let Some(load) = self.relative_dot(x, y)? {
            return Ok(load);
        }
        let var = self.dots.iter().find(|(d, _)| d.is(x, y)).map(|(_, v)| *v);
        match var {
            Some(var) => Ok(self.pool.var(var)),
            None => fail(e, "this dot has no roles"),
        }
    }
}

impl Lower<'_> {
    /// Element `x` of a row, which may be computed from rows.
    pub fn element(&mut self, e: &Expr, x: ExprId) -> Result<ExprId, LowerError> {
        if let Some(held) = self.held(e, Some(x)) {
            return Ok(held);
        }
        match &e.kind {
            _ if !matches!(e.ty, Type::Row(_)) => self.expr(e),
            Kind::Row(t, index) if index.is_empty() => self.current(e, *t, x),
            Kind::Row(t, index) => {
                let mut at = self.indices(*t, index)?;
                at.push(x);
                self.loaded(e, *t, at)
            }
            Kind::Unary(op, a) => {
                let a = self.element(a, x)?;
                Ok(self.pool.unary(*op, a))
            }
            Kind::Binary(op, a, b) => {
                let (a, b) = (self.element(a, x)?, self.element(b, x)?);
                Ok(self.pool.binary(*op, a, b))
            }
            Kind::Select(c, a, b) => {
                let c = self.expr(c)?;
                let (a, b) = (self.element(a, x)?, self.element(b, x)?);
                Ok(self.pool.select(c, a, b))
            }
            Kind::Weighted(_) => match self.weighted {
                Some((tensor, rows)) => {
                    let at = self.row_index(rows, true, x);
                    Ok(self.pool.load(tensor, at, Ty::Float))
                }
                None => fail(e, "`weight @ v` has no place here"),
            },
            _ => fail(e, "this row cannot be computed element by element"),
        }
    }

    /// Element `x` of the tensor's row at the position at hand, after `map` and `rotate`.
    fn current(&mut self, e: &Expr, t: usize, x: ExprId) -> Result<ExprId, LowerError> {
        if let [n] = &self.tensors[t].shape[..]
            && n.known() != Some(0)
        {
            return self.loaded(e, t, vec![x]);
        }
        let (Some(at), Some(id)) = (self.row_at[t], self.rows[t]) else {
            return if self.ids[t].is_none() {
                Ok(self.pool.float(0.0))
            } else {
                fail(e, "nothing says at which position this row is read; index it")
            };
        };
        let index = self.row_index(at.rows, at.query, x);
        Ok(self.pool.load(id, index, Ty::Float))
    }

    /// The variable of the query's row.
    pub fn query_var(&self) -> VarId {
        if self.shifted { self.index.row } else { self.index.i }
    }

    /// The index of feature `x` of the row at hand, over `b`, `h` and `row` or `j`.
    pub fn row_index(&mut self, rows: RowsFact, query: bool, x: ExprId) -> Vec<ExprId> {
        let rank = [rows.batch, rows.head, Some(rows.seq), Some(rows.feature)].into_iter().flatten().count();
        let mut at = vec![x; rank];
        let seq = match (query, self.shifted, self.local) {
            (true, _, Some(local)) => local.query,
            (false, _, Some(local)) => local.key,
            (false, ..) => self.index.j,
            (true, true, _) => self.index.row,
            (true, false, _) => self.index.i,
        };
        at[rows.seq] = self.pool.var(seq);
        if let Some(d) = rows.head {
            at[d] = self.pool.var(self.index.h);
        }
        if let Some(d) = rows.batch {
            at[d] = self.pool.var(self.index.b);
        }
        at
    }

    /// The element of what a tensor holds already; of a row at x.
    fn held(&mut self, e: &Expr, x: Option<ExprId>) -> Option<ExprId> {
        let held = self.held.iter().find(|h| same(&h.expr, e))?;
        let (tensor, rows) = (held.tensor, held.rows);
        let row = matches!(e.ty, Type::Row(_));
        let feature = if row { x? } else { self.pool.int(0) };
        let mut at = self.row_index(rows, true, feature);
        if !row {
            at.remove(rows.feature);
        }
        Some(self.pool.load(tensor, at, Ty::Float))
    }

    /// The value of a tensor over the sequence at the current step.
    fn at_step(&mut self, e: &Expr, t: usize, place: Place) -> Result<ExprId, LowerError> {
        let rank = self.tensors[t].shape.len();
        let own: Vec<IndexVar> = match (rank, self.batched.get(t)) {
            (1, _) => vec![IndexVar::I],
            (2, Some(true)) => vec![IndexVar::B, IndexVar::I],
            (2, _) => vec![IndexVar::H, IndexVar::I],
            (3, _) => vec![IndexVar::B, IndexVar::H, IndexVar::I],
            _ => return fail(e, "a tensor over the sequence has batch and head dims at most"),
        };
        let index = |v: &IndexVar| {
            Expr::new(super::hir::Node::new(Kind::Index(*v), Type::Int, e.span, Uses::of_index(*v)))
        };
        let index: Vec<Expr> = own.iter().map(index).collect();
        self.load(e, t, &index, place)
    }

    fn loaded(&mut self, e: &Expr, t: usize, at: Vec<ExprId>) -> Result<ExprId, LowerError> {
        match self.ids[t] {
            None => Ok(self.pool.float(0.0)),
            Some(id) if at.len() == self.tensors[t].shape.len() => Ok(self.pool.load(id, at, Ty::Float)),
            Some(_) => fail(e, "this is not one row"),
        }
    }

    /// Leading indices of a row, as in brackets.
    pub fn indices(&mut self, t: usize, index: &[Expr]) -> Result<Vec<ExprId>, LowerError> {
        let mut at = Vec::with_capacity(index.len() + 1);
        for (d, x) in index.iter().enumerate() {
            let row = self.query_side[t].get(d).copied().unwrap_or(false);
            at.push(self.at(x, Place { row, neutral: true })?);
        }
        Ok(at)
    }
}

/// The same expression, or one that is written the same.
pub(crate) fn same(a: &Expr, b: &Expr) -> bool {
    if std::sync::Arc::ptr_eq(a, b) {
        return true;
    }
    match (&a.kind, &b.kind) {
        (Kind::State(m), Kind::State(n)) => m == n,
        (Kind::Row(s, i), Kind::Row(t, j)) => s == t && i.is_empty() && j.is_empty(),
        (Kind::VecMat(x, y), Kind::VecMat(z, w)) | (Kind::Dot(x, y), Kind::Dot(z, w)) => {
            same(x, z) && same(y, w)
        }
        _ => false,
    }
}

fn fail<T>(e: &Expr, message: &str) -> Result<T, LowerError> {
    Err(LowerError { span: e.span, message: message.into() })
}

/// The value of an int operation on constants, or why it has none.
pub(crate) fn checked_int(op: BinaryOp, x: i64, y: i64) -> Result<Option<i64>, String> {
    use BinaryOp::*;
    let (value, sign) = match op {
        Add => (x.checked_add(y), "+"),
        Sub => (x.checked_sub(y), "-"),
        Mul => (x.checked_mul(y), "*"),
        IDiv | Mod if y == 0 => return Err(format!("the divisor of {x} is 0")),
        IDiv if x == i64::MIN && y == -1 => (None, "div"),
        _ => return Ok(None),
    };
    value.map(Some).ok_or_else(|| format!("{x} {sign} {y} overflows a 64-bit int"))
}
