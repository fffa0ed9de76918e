//! Rows that are not bound as they are read: derived tensors for `map`, `rotate`, computed rows and epilogues.
//!
//! Comes in: the checked operations of a kernel. Goes out: [`Derive`] steps and, for each tensor, which tensor holds
//! its rows after them. What holds: elementary functions of positions are tensors of their own, computed once for
//! all heads (`cos` and `sin` of an angle), and those of the pair's index alone are tables made at bind in f64. What
//! depends on a position is formed in f32, operation by operation, from f32 frequencies: declared with `round32`,
//! so that the reference rounds where kernels do (language.md, rule 14). Not here: frequencies (`rows.rs`).

use crate::artifact::DType;
use crate::attn_ir::{self, Derive, Fact, Origin, Step};
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, UnaryOp, VarId};

use super::hir::{Expr, NormOver, Size};
use super::lower::{Lower, LowerError};
use super::model::{CheckedKernel, HeadMap, RowsFact};
use super::rows::{Frequencies, Pairs, RowOp, RowOpKind, Turn, TurnFact};
use super::shard::Shard;

type Result<T> = std::result::Result<T, LowerError>;

/// A kernel being made of steps.
pub(crate) struct Steps<'k> {
    /// The checked kernel.
    pub kernel: &'k CheckedKernel,
    /// The name of the target's `schedule` clause.
    pub family: &'static str,
    /// Expressions and names.
    pub lower: Lower<'k>,
    /// Inputs, then what was made so far.
    pub tensors: Vec<attn_ir::Tensor>,
    /// So far.
    pub steps: Vec<Step>,
    /// `i - row`.
    pub offset: ExprId,
    /// Keys.
    pub seq_k: ExprId,
    /// The shard that is made, if not the whole.
    pub shard: Option<Shard>,
    /// b, h, s and x of derived rows, and the index of a pair.
    pub axes: [VarId; 5],
    /// What was hoisted: value and extents, and the load that stands for it.
    pub hoisted: Vec<(ExprId, Vec<ExprId>, ExprId)>,
    /// What the branches so far have made.
    pub branches: Vec<super::parts::Made>,
    /// Both parts of the running sums made so far.
    pub low_parts: Vec<(TensorId, TensorId)>,
    /// What lets have made so far: position, sources, result. Branches share it.
    pub made: Vec<(usize, Vec<Option<TensorId>>, TensorId)>,
    /// What the contents of caches must fulfil.
    pub demands: Vec<attn_ir::Demand>,
}

/// Index variables of a derived tensor of rows.
pub(crate) struct RowVars {
    /// One for each dim.
    pub index: Vec<VarId>,
    /// Roles.
    pub rows: RowsFact,
    /// Read at (b, h, row); else at (b, head, j).
    pub query: bool,
    /// Appended rows: the position of the first one in the cache.
    pub start: Option<ExprId>,
}

impl<'k> Steps<'k> {
    /// The pool.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.lower.pool
    }

    /// A name that no tensor has yet.
    fn fresh(&self, name: &str) -> String {
        let taken = |n: &str| {
            self.tensors.iter().any(|t| t.name == n) || self.kernel.tensors.iter().any(|t| t.name == n)
        };
        let base = name.replace('.', "_");
        (0..)
            .map(|n| if n == 0 { base.clone() } else { format!("{base}{n}") })
            .find(|n| !taken(n))
            .unwrap_or(base)
    }

    /// Declares a made tensor under a name like this.
    pub fn declare(&mut self, name: &str, dtype: DType, shape: Vec<ExprId>, fact: Fact) -> TensorId {
        let name = self.fresh(name);
        self.declare_named(&name, dtype, shape, fact)
    }

    /// Declares a made tensor under this name, which the kernel's text gave it.
    pub fn declare_named(&mut self, name: &str, dtype: DType, shape: Vec<ExprId>, fact: Fact) -> TensorId {
        let (name, layout) = (name.to_string(), (0..shape.len()).collect());
        self.tensors.push(attn_ir::Tensor {
            name,
            dtype,
            shape,
            layout,
            fact,
            origin: Origin::Made,
            rest: None,
        });
        TensorId(self.tensors.len() as u32 - 1)
    }

    /// The sizes of a tensor.
    pub fn shape(&self, id: TensorId) -> &[ExprId] {
        &self.tensors[id.0 as usize].shape
    }

    /// Writes what is appended, then applies `map` and `rotate` and makes the tensors of lets, in the order of the text.
    pub fn row_ops(&mut self) -> Result<()> {
        let kernel = self.kernel;
        let appended = |op: &&RowOp| kernel.caches.iter().any(|c| c.appended == Some(op.tensor));
        kernel.row_ops.iter().filter(appended).try_for_each(|op| self.row_op(op))?;
        let demands = self.caches()?;
        self.demands.extend(demands);
        let mut made = kernel.made.iter().peekable();
        for op in kernel.row_ops.iter().filter(|op| !appended(op)) {
            while let Some(m) = made.next_if(|m| m.span.start < op.span.start) {
                self.make(m)?;
            }
            self.row_op(op)?;
        }
        made.try_for_each(|m| self.make(m))
    }

    fn row_op(&mut self, op: &RowOp) -> Result<()> {
        if self.lower.rows[op.tensor].is_none() {
            return Ok(());
        }
        let vars = self.row_vars(op.tensor, op)?;
        let turned = match &op.kind {
            RowOpKind::Map(body) => self.map(op, &vars, body)?,
            RowOpKind::Pairs(pairs) => self.pairs(op, &vars, pairs)?,
            RowOpKind::Double { theta, at } => self.double(op, &vars, theta, at)?,
        };
        self.lower.rows[op.tensor] = Some(turned);
        Ok(())
    }

    fn row_vars(&mut self, tensor: usize, op: &RowOp) -> Result<RowVars> {
        let at = match self.lower.row_at[tensor] {
            Some(at) => at,
            None => {
                let message = format!("nothing reads the rows of `{}`", self.kernel.tensors[tensor].name);
                return Err(LowerError { span: op.span, message });
            }
        };
        let mut vars = self.vars_of(at.rows, at.query);
        let kernel = self.kernel;
        if let Some(cache) = kernel.caches.iter().find(|c| c.appended == Some(tensor)) {
            let length = super::caching::length(&mut self.lower, kernel, cache)?;
            let n = self.lower.expr(&kernel.tensors[tensor].shape[at.rows.seq].expr)?;
            vars.start = Some(self.pool().sub(length, n));
        }
        Ok(vars)
    }

    /// Variables for rows of these roles.
    pub fn vars_of(&self, rows: RowsFact, query: bool) -> RowVars {
        let rank = [rows.batch, rows.head, Some(rows.seq), Some(rows.feature)].into_iter().flatten().count();
        let [b, h, s, x, _] = self.axes;
        let axis = |d: usize| match d {
            d if Some(d) == rows.batch => b,
            d if Some(d) == rows.head => h,
            d if d == rows.seq => s,
            _ => x,
        };
        let index = (0..rank).map(axis).collect();
        RowVars { index, rows, query, start: None }
    }

    /// Replaces b, h, i, j and row by the variables of a derived tensor.
    pub fn at(&mut self, e: ExprId, vars: &RowVars) -> ExprId {
        let ix = self.lower.index;
        let offset = self.offset;
        let shifted = self.lower.shifted;
        let pool = self.pool();
        let zero = pool.int(0);
        let of = |pool: &mut Pool, d: Option<usize>| d.map_or(zero, |d| pool.var(vars.index[d]));
        let (b, h) = (of(pool, vars.rows.batch), of(pool, vars.rows.head));
        let s = pool.var(vars.index[vars.rows.seq]);
        // Lengths, and so offsets, may be those of the batch entry.
        let offset = pool.substitute(vars.start.unwrap_or(offset), &[(ix.b, b)]);
        let moved = pool.add(s, offset);
        // Of a key `i` is its own position: `rotate q, k by .. at i`.
        let i = if shifted && vars.query { moved } else { s };
        let mut subst = vec![(ix.b, b), (ix.h, h)];
        match (self.shard, self.lower.local) {
            (Some(shard), Some(local)) => {
                let at = shard.position(&mut self.lower, s, vars.query);
                subst.extend([(ix.row, at), (ix.i, at), (local.query, s), (local.key, s)]);
                subst.extend((!vars.query).then_some((ix.j, at)));
            }
            _ => {
                subst.extend([(ix.row, s), (ix.i, i)]);
                if vars.start.is_some() {
                    subst.push((ix.j, moved));
                } else if !vars.query {
                    subst.push((ix.j, s));
                }
            }
        }
        self.pool().substitute(e, &subst)
    }

    /// A tensor of the shape of the rows (`feature` features) whose element is `value`, over b, h, row and j.
    pub fn derive_rows(
        &mut self,
        name: &str,
        vars: &RowVars,
        shape: Vec<ExprId>,
        value: ExprId,
        checks: Vec<ExprId>,
    ) -> TensorId {
        let value = self.at(value, vars);
        let checks = checks.into_iter().map(|c| self.at(c, vars)).collect();
        let index = vars.index.clone();
        // Branches may ask for the same rows.
        let same = self.steps.iter().find_map(|s| match s {
            Step::Derive(d) if d.value == value && d.index == index && d.sum.is_empty() => Some(d.out),
            _ => None,
        });
        if let Some(out) = same.filter(|&out| self.shape(out) == shape) {
            return out;
        }
        let out = self.declare(name, DType::F32, shape, Fact::None);
        self.steps.push(Step::Derive(Derive { out, index, sum: vec![], value, at_bind: false, checks }));
        out
    }

    /// What head a key row of `h` belongs to is not `h` where heads are shared.
    fn no_query_head(&self, e: &Expr, vars: &RowVars) -> Result<()> {
        let shared = !vars.query && !matches!(self.kernel.heads.map, HeadMap::Same);
        if shared && e.uses.any(super::hir::Uses::H) {
            let message = "`h` is a query head, and the keys have heads of their own".into();
            return Err(LowerError { span: e.span, message });
        }
        Ok(())
    }

    /// The tensor that holds a row: one that is bound or made already, or a new one.
    pub fn row_tensor(&mut self, name: &str, row: &Expr, rows: RowsFact, query: bool) -> Result<TensorId> {
        if let super::hir::Kind::Row(t, index) = &row.kind
            && index.is_empty()
            && let Some(id) = self.lower.rows[*t]
        {
            return Ok(id);
        }
        let vars = self.vars_of(rows, query);
        self.no_query_head(row, &vars)?;
        let x = self.feature(&vars);
        let value = self.lower.element(row, x)?;
        let Some(base) = self.lower.rows[rows.tensor] else {
            let message = format!("`{}` cannot be absent", self.kernel.tensors[rows.tensor].name);
            return Err(LowerError { span: row.span, message });
        };
        let shape = self.shape(base).to_vec();
        Ok(self.derive_rows(name, &vars, shape, value, vec![value]))
    }

    fn feature(&mut self, vars: &RowVars) -> ExprId {
        let x = vars.index[vars.rows.feature];
        self.pool().var(x)
    }

    /// Element `x` of the rows that an operation acts on.
    fn source(&mut self, op: &RowOp, vars: &RowVars, x: ExprId) -> ExprId {
        let index = self.lower.row_index(vars.rows, vars.query, x);
        let id = self.lower.rows[op.tensor].unwrap_or(TensorId(0));
        self.pool().load(id, index, Ty::Float)
    }

    fn source_shape(&self, op: &RowOp) -> Vec<ExprId> {
        self.lower.rows[op.tensor].map_or_else(Vec::new, |id| self.shape(id).to_vec())
    }

    fn map(&mut self, op: &RowOp, vars: &RowVars, body: &Expr) -> Result<TensorId> {
        self.no_query_head(body, vars)?;
        let x = self.feature(vars);
        self.lower.elems = [Some(self.source(op, vars, x)), None, None, None];
        let value = self.lower.expr(body);
        self.lower.elems = [None; 4];
        let name = format!("{}_mapped", self.kernel.tensors[op.tensor].name);
        let shape = self.source_shape(op);
        Ok(self.derive_rows(&name, vars, shape, value?, vec![]))
    }

    fn features(&self, op: &RowOp, vars: &RowVars) -> Result<i64> {
        let shape = self.source_shape(op);
        self.lower.pool.as_int(shape[vars.rows.feature]).ok_or_else(|| LowerError {
            span: op.span,
            message: "the length of these rows is not a constant of the plan".into(),
        })
    }

    fn pairs(&mut self, op: &RowOp, vars: &RowVars, pairs: &Pairs) -> Result<TensorId> {
        let features = self.features(op, vars)?;
        let n = pairs.dims.unwrap_or(features);
        if n % 2 != 0 || n > features || n < 2 {
            let message = format!("{n} of {features} features cannot be turned in pairs");
            return Err(LowerError { span: op.span, message });
        }
        let name = self.kernel.tensors[op.tensor].name.clone();
        let pair = self.axes[4];
        let position = self.position(vars, pairs, pair, n)?;
        let elements = [self.lower.pool.add_var("x0", Ty::Float), self.lower.pool.add_var("x1", Ty::Float)];
        let turned = self.turned(&name, pairs, pair, position, elements, n)?;
        let mut sides = Vec::new();
        for side in turned {
            let side = self.at(side, vars);
            let side = self.formed_in_f32(side, &elements, &vars.index);
            sides.push(self.hoist(&name, side, &elements, vars, Some((pair, n / 2)))?);
        }
        let x = self.feature(vars);
        let value = self.place_pairs(op, vars, pairs, [sides[0], sides[1]], pair, elements, (n, features), x);
        let mut checks = Vec::new();
        for at in &pairs.at {
            checks.push(self.lower.expr(at)?);
        }
        let shape = self.source_shape(op);
        Ok(self.derive_rows(&format!("{name}_rotated"), vars, shape, value, checks))
    }

    /// The position of pair d: one, or that of the section in which the pair lies.
    fn position(&mut self, vars: &RowVars, pairs: &Pairs, pair: VarId, n: i64) -> Result<ExprId> {
        let mut positions = Vec::new();
        for at in &pairs.at {
            self.no_query_head(at, vars)?;
            positions.push(self.lower.expr(at)?);
        }
        let Some(mut value) = positions.pop() else { return Ok(self.pool().int(0)) };
        let mut end: i64 = pairs.sections.iter().take(positions.len()).sum();
        if pairs.sections.iter().sum::<i64>() > n / 2 {
            let message = format!("the sections hold more than the {} pairs that are turned", n / 2);
            return Err(LowerError { span: pairs.at[0].span, message });
        }
        let d = self.pool().var(pair);
        for (k, at) in positions.into_iter().enumerate().rev() {
            let last = self.pool().int(end);
            let before = self.pool().lt(d, last);
            value = self.pool().select(before, at, value);
            end -= pairs.sections[k];
        }
        Ok(value)
    }

    /// The new pair, over x0, x1, d and the position.
    fn turned(
        &mut self,
        name: &str,
        pairs: &Pairs,
        pair: VarId,
        position: ExprId,
        elements: [VarId; 2],
        n: i64,
    ) -> Result<[ExprId; 2]> {
        let d = self.pool().var(pair);
        let [x0, x1] = elements.map(|v| self.lower.pool.var(v));
        match &pairs.turn {
            Turn::User([a, b]) => {
                self.lower.elems = [Some(x0), Some(x1), Some(position), Some(d)];
                let both = (self.lower.expr(a), self.lower.expr(b));
                self.lower.elems = [None; 4];
                Ok([both.0?, both.1?])
            }
            Turn::Rope { theta, scaling } => {
                let seq_k = self.seq_k;
                let mut found = Frequencies { lower: &mut self.lower, d, n, seq_k, tuned: None };
                let (freq, factor) = found.of(theta, scaling)?;
                let tuned = found.tuned;
                let written = self.lower.expr(theta)?;
                let original = scaling.original().map(|e| self.lower.expr(e)).transpose()?;
                self.lower.turns.push(TurnFact {
                    tensor: name.into(),
                    dims: n,
                    theta: written,
                    tuned: tuned.unwrap_or(written),
                    original,
                    factor,
                    scaling: scaling.name(),
                });
                let pool = self.pool();
                let pos = pool.unary(UnaryOp::ToFloat, position);
                let angle = pool.binary(BinaryOp::Mul, pos, freq);
                let mut part = |op| {
                    let f = pool.unary(op, angle);
                    factor.map_or(f, |a| pool.binary(BinaryOp::Mul, f, a))
                };
                let (cos, sin) = (part(UnaryOp::Cos), part(UnaryOp::Sin));
                let mut product = |a, b| pool.binary(BinaryOp::Mul, a, b);
                let (cc, ss, cs, sc) =
                    (product(x0, cos), product(x1, sin), product(x1, cos), product(x0, sin));
                Ok([pool.binary(BinaryOp::Sub, cc, ss), pool.binary(BinaryOp::Add, cs, sc)])
            }
        }
    }

    /// Which side of its pair stands at feature x.
    #[allow(clippy::too_many_arguments)]
    fn place_pairs(
        &mut self,
        op: &RowOp,
        vars: &RowVars,
        pairs: &Pairs,
        sides: [ExprId; 2],
        pair: VarId,
        elements: [VarId; 2],
        (n, features): (i64, i64),
        x: ExprId,
    ) -> ExprId {
        let pool = self.pool();
        let (half, two, one) = (pool.int(n / 2), pool.int(2), pool.int(1));
        // (pair index, feature of x0, feature of x1) at feature x on each side.
        let at = if pairs.interleaved {
            let d = pool.idiv(x, two);
            let first = pool.mul(d, two);
            let second = pool.add(first, one);
            [(d, first, second), (d, first, second)]
        } else {
            let (up, down) = (pool.add(x, half), pool.sub(x, half));
            [(x, x, up), (down, down, x)]
        };
        let mut values = Vec::new();
        for (side, (d, first, second)) in sides.into_iter().zip(at) {
            let (x0, x1) = (self.source(op, vars, first), self.source(op, vars, second));
            let subst = [(pair, d), (elements[0], x0), (elements[1], x1)];
            values.push(self.pool().substitute(side, &subst));
        }
        let same = self.source(op, vars, x);
        let pool = self.pool();
        let first = if pairs.interleaved {
            let side = pool.modulo(x, two);
            let zero = pool.int(0);
            pool.eq(side, zero)
        } else {
            pool.lt(x, half)
        };
        let turned = pool.select(first, values[0], values[1]);
        let all = pool.int(n);
        let inside = pool.lt(x, all);
        if n == features { turned } else { pool.select(inside, turned, same) }
    }

    fn double(&mut self, op: &RowOp, vars: &RowVars, theta: &Expr, at: &Expr) -> Result<TensorId> {
        let features = self.features(op, vars)?;
        self.no_query_head(theta, vars)?;
        self.no_query_head(at, vars)?;
        let name = self.kernel.tensors[op.tensor].name.clone();
        let pair = self.axes[4];
        let d = self.pool().var(pair);
        let (theta, at) = (self.lower.element(theta, d)?, self.lower.expr(at)?);
        let pos = self.pool().unary(UnaryOp::ToFloat, at);
        let angle = self.pool().binary(BinaryOp::Mul, pos, theta);
        let element = self.lower.pool.add_var("x0", Ty::Float);
        let x0 = self.pool().var(element);
        let mut parts = Vec::new();
        for f in [UnaryOp::Cos, UnaryOp::Sin] {
            let factor = self.pool().unary(f, angle);
            let part = self.pool().binary(BinaryOp::Mul, x0, factor);
            let part = self.at(part, vars);
            let part = self.formed_in_f32(part, &[element], &vars.index);
            parts.push(self.hoist(&name, part, &[element], vars, Some((pair, features)))?);
        }
        let x = self.feature(vars);
        let n = self.pool().int(features);
        let down = self.pool().sub(x, n);
        let mut values = Vec::new();
        for (part, from) in parts.into_iter().zip([x, down]) {
            let x0 = self.source(op, vars, from);
            values.push(self.pool().substitute(part, &[(pair, from), (element, x0)]));
        }
        let first = self.pool().lt(x, n);
        let value = self.pool().select(first, values[0], values[1]);
        let mut shape = self.source_shape(op);
        shape[vars.rows.feature] = self.pool().int(2 * features);
        // Every element of the row exists: one stands for all.
        let first = self.pool().int(0);
        let theta = self.pool().substitute(theta, &[(pair, first)]);
        Ok(self.derive_rows(&format!("{name}_rotated"), vars, shape, value, vec![at, theta]))
    }

    /// Declares the roundings of what depends on a position: each operation in f32, from f32 frequencies.
    fn formed_in_f32(&mut self, root: ExprId, elements: &[VarId], positions: &[VarId]) -> ExprId {
        let pool = self.pool();
        let original = pool.clone();
        let moving = |id: ExprId| original.depends_on(id, positions) && !original.depends_on(id, elements);
        let mut still: Vec<ExprId> = Vec::new();
        for id in original.reachable(&[root]) {
            if moving(id) {
                let float = |x: &ExprId| {
                    original.ty(*x) == Ty::Float && !moving(*x) && original.as_const(*x).is_none()
                };
                still.extend(original.operands(id).iter().filter(|x| float(x)));
            }
        }
        let exact = |op: &Op| {
            matches!(op, Op::Unary(UnaryOp::Sin | UnaryOp::Cos | UnaryOp::Exp, _) | Op::Load(..) | Op::Var(_))
        };
        pool_map(pool, root, &mut |pool, id, made| {
            let moves = moving(id) && original.ty(id) == Ty::Float && !exact(original.op(id));
            let product = matches!(original.op(id), Op::Binary(BinaryOp::Pow, ..));
            if still.contains(&id) || (moves && !product) { pool.unary(UnaryOp::Round32, made) } else { made }
        })
    }

    /// Makes tensors of the elementary functions in `root` that do not depend on the elements.
    ///
    /// `pair` is the index of a pair and how many there are: what depends on nothing else is a table made at bind.
    fn hoist(
        &mut self,
        name: &str,
        root: ExprId,
        elements: &[VarId],
        vars: &RowVars,
        pair: Option<(VarId, i64)>,
    ) -> Result<ExprId> {
        let mut axes: Vec<(VarId, ExprId)> = Vec::new();
        let shape = self.lower.rows[vars.rows.tensor].map_or_else(Vec::new, |id| self.shape(id).to_vec());
        for (d, var) in vars.index.iter().enumerate().filter(|(d, _)| *d != vars.rows.feature) {
            axes.push((*var, shape[d]));
        }
        if let Some((var, n)) = pair {
            axes.push((var, self.pool().int(n)));
        }
        let pool = &self.lower.pool;
        let all: Vec<VarId> = axes.iter().map(|a| a.0).collect();
        let wanted = |id: ExprId| {
            pool.ty(id) == Ty::Float
                && !pool.depends_on(id, elements)
                && pool.depends_on(id, &all)
                && pool.reachable(&[id]).iter().any(|n| elementary(pool.op(*n)))
        };
        let mut made = Vec::new();
        for id in outermost(pool, root, &wanted) {
            made.push((id, self.hoisted(name, id, &axes, pair)));
        }
        Ok(self.pool().rewrite(root, &mut |_, id| made.iter().find(|m| m.0 == id).map(|m| m.1)))
    }

    /// A tensor of `value` over those of the axes that it depends on; the load that replaces it.
    fn hoisted(
        &mut self,
        name: &str,
        value: ExprId,
        axes: &[(VarId, ExprId)],
        pair: Option<(VarId, i64)>,
    ) -> ExprId {
        let used: Vec<(VarId, ExprId)> =
            axes.iter().filter(|(v, _)| self.lower.pool.depends_on(value, &[*v])).copied().collect();
        let loads =
            |pool: &Pool, id| pool.reachable(&[id]).iter().any(|n| matches!(pool.op(*n), Op::Load(..)));
        let only_pair = pair.is_some_and(|(p, _)| used.iter().all(|(v, _)| *v == p));
        let at_bind = only_pair && !loads(&self.lower.pool, value);
        let mut inner = value;
        if let (false, Some((p, n))) = (at_bind, pair) {
            let pool = &self.lower.pool;
            let others: Vec<VarId> = axes.iter().map(|a| a.0).filter(|v| *v != p).collect();
            let table = |id: ExprId| {
                pool.ty(id) == Ty::Float
                    && pool.depends_on(id, &[p])
                    && !pool.depends_on(id, &others)
                    && !loads(pool, id)
                    && pool.reachable(&[id]).iter().any(|n| elementary(pool.op(*n)))
            };
            let mut made = Vec::new();
            for id in outermost(pool, value, &table) {
                let extent = self.pool().int(n);
                made.push((id, self.hoisted(name, id, &[(p, extent)], pair)));
            }
            inner = self.pool().rewrite(value, &mut |_, id| made.iter().find(|m| m.0 == id).map(|m| m.1));
        }
        let shape: Vec<ExprId> = used.iter().map(|u| u.1).collect();
        if let Some((.., load)) = self.hoisted.iter().find(|(v, s, _)| *v == value && *s == shape) {
            return *load;
        }
        let what = if at_bind { "frequencies" } else { "turn" };
        let out = self.declare(&format!("{name}_{what}"), DType::F32, shape.clone(), Fact::None);
        let index: Vec<VarId> = used.iter().map(|u| u.0).collect();
        let at = index.iter().map(|v| self.lower.pool.var(*v)).collect();
        self.steps.push(Step::Derive(Derive {
            out,
            index,
            sum: vec![],
            value: inner,
            at_bind,
            checks: vec![],
        }));
        let load = self.pool().load(out, at, Ty::Float);
        self.hoisted.push((value, shape, load));
        load
    }

    /// Element `x` of a result: elementwise arithmetic, with norms over whole rows or heads.
    pub fn result_element(
        &mut self,
        e: &Expr,
        vars: &RowVars,
        x: ExprId,
        shape: &[ExprId],
    ) -> Result<ExprId> {
        use super::hir::Kind;
        match &e.kind {
            Kind::Norm(inner, over) => self.norm(inner, over, vars, x, shape),
            Kind::Binary(op, a, b) => {
                let (a, b) =
                    (self.result_element(a, vars, x, shape)?, self.result_element(b, vars, x, shape)?);
                Ok(self.pool().binary(*op, a, b))
            }
            Kind::Unary(op, a) => {
                let a = self.result_element(a, vars, x, shape)?;
                Ok(self.pool().unary(*op, a))
            }
            Kind::Select(c, a, b) => {
                let c = self.lower.expr(c)?;
                let (a, b) =
                    (self.result_element(a, vars, x, shape)?, self.result_element(b, vars, x, shape)?);
                Ok(self.pool().select(c, a, b))
            }
            Kind::Branch(n) => self.branch_element(*n, e, x),
            Kind::Merge(rows) => self.merged_element(rows, vars, x, shape),
            _ => self.lower.element(e, x),
        }
    }

    /// `x / sqrt(mean(x^2) + eps)` element by element: the tensor of sums of squares, and the element.
    pub fn norm(
        &mut self,
        x_row: &Expr,
        over: &NormOver,
        vars: &RowVars,
        x: ExprId,
        shape: &[ExprId],
    ) -> Result<ExprId> {
        let rows = vars.rows;
        let mut sum = Vec::new();
        let same = |this: &Self, size: &Size, d: usize| {
            let t = &this.kernel.tensors[rows.tensor];
            size.same(&t.shape[d])
        };
        let heads = rows.head.filter(|&d| over.dims.iter().any(|s| same(self, s, d)));
        for dim in heads.into_iter().chain([rows.feature]) {
            sum.push((dim, self.lower.pool.add_var("t", Ty::Int)));
        }
        let inner = self.vars_of(rows, vars.query);
        let feature = self.feature(&inner);
        let element = self.lower.element(x_row, feature)?;
        let element = self.at(element, &inner);
        let square = self.pool().mul(element, element);
        let summed: Vec<(VarId, ExprId)> =
            sum.iter().map(|(d, v)| (inner.index[*d], self.lower.pool.var(*v))).collect();
        let value = self.pool().substitute(square, &summed);
        let kept: Vec<usize> = (0..inner.index.len()).filter(|d| !sum.iter().any(|s| s.0 == *d)).collect();
        let out_shape = kept.iter().map(|&d| shape[d]).collect();
        let out = self.declare("squares", DType::F32, out_shape, Fact::None);
        let index: Vec<VarId> = kept.iter().map(|&d| inner.index[d]).collect();
        let extents = sum.iter().map(|(d, v)| (*v, shape[*d])).collect();
        self.steps.push(Step::Derive(Derive {
            out,
            index,
            sum: extents,
            value,
            at_bind: false,
            checks: vec![],
        }));
        let mut count = self.pool().int(1);
        for (d, _) in &sum {
            count = self.pool().mul(count, shape[*d]);
        }
        let at = kept.iter().map(|&d| self.lower.pool.var(vars.index[d])).collect();
        let total = self.pool().load(out, at, Ty::Float);
        let own = self.lower.element(x_row, x)?;
        let own = self.at(own, vars);
        let pool = self.pool();
        let count = pool.unary(UnaryOp::ToFloat, count);
        let mean = pool.binary(BinaryOp::Div, total, count);
        let eps = pool.float(over.eps);
        let safe = pool.add(mean, eps);
        let scale = pool.unary(UnaryOp::Rsqrt, safe);
        Ok(pool.mul(own, scale))
    }
}

/// Functions that a kernel does not compute with one instruction.
fn elementary(op: &Op) -> bool {
    use UnaryOp::*;
    matches!(
        op,
        Op::Unary(Exp | Exp2 | Log | Log2 | Tanh | Sigmoid | Sin | Cos, _) | Op::Binary(BinaryOp::Pow, _, _)
    )
}

/// The wanted nodes that lie below no other wanted node.
fn outermost(pool: &Pool, root: ExprId, wanted: &dyn Fn(ExprId) -> bool) -> Vec<ExprId> {
    let mut out = Vec::new();
    let mut stack = vec![root];
    while let Some(id) = stack.pop() {
        if wanted(id) {
            if !out.contains(&id) {
                out.push(id);
            }
        } else {
            stack.extend(pool.operands(id));
        }
    }
    out
}

/// Rebuilds an expression; `f` is given each node and what it became, and says what stands for it.
fn pool_map(pool: &mut Pool, root: ExprId, f: &mut dyn FnMut(&mut Pool, ExprId, ExprId) -> ExprId) -> ExprId {
    let mut new = std::collections::HashMap::new();
    for id in pool.reachable(&[root]) {
        let made = pool.remade(id, &|x| new[&x]);
        let made = f(pool, id, made);
        new.insert(id, made);
    }
    new[&root]
}
