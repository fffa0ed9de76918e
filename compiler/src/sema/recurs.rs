//! The steps of a recurrence kernel: derived rows, the recurrence, the epilogues of what it reads out.
//!
//! Comes in: the checked body of a recurrence, its dims, params and inputs bound in a pool. Goes out: the
//! [`attn_ir::Kernel`]. What holds: of a returned row only the parts that must see a state (`q @ s`, a dot with one)
//! are stored by the recurrence; the arithmetic around them is an epilogue. Dots and norms of what no state changes
//! are tensors of their own, made before. Not here: how a recurrence is computed.

use crate::artifact::DType;
use crate::attn_ir::recur::{
    Init, NodeId, RecurNode, RecurOp, RecurRead, RecurState, RecurVars, Recurrence, Shape,
};
use crate::attn_ir::{self, Derive, Fact, Origin, Rows, Side, Step};
use crate::diagnostic::Code;
use crate::expr::{BinaryOp, ExprId, TensorId, Ty, VarId};

use super::build::Bound;
use super::hir::{Expr, Kind, NormOver, Size, Type, find, operands};
use super::instantiate::{CompileError, Instance, PlanKey, Result};
use super::lower::{Held, Lower, LowerError, same};
use super::model::*;
use super::turn::{RowVars, Steps};

/// The kernel of a recurrence.
pub(crate) fn recurrence(
    kernel: &CheckedKernel,
    key: &PlanKey,
    body: &RecurBody,
    mut lower: Lower<'_>,
    bound: Bound,
) -> Result<Instance> {
    let Bound { params, dims, tensors } = bound;
    let base = body.rows;
    let Some(id) = lower.ids[base.tensor] else {
        let t = &kernel.tensors[base.tensor];
        let message = format!("`{}` gives results their dims and cannot be absent", t.name);
        let help = Some("remove `optional`".into());
        return Err(CompileError::spec(Code::BadPlanValue, t.span, message, "declared optional", help));
    };
    let mut roles: Vec<(Rows, Side)> = Vec::new();
    for n in 0..kernel.tensors.len() {
        let at = lower.row_at[n].map(|at| at.rows);
        roles.extend(at.zip(lower.ids[n]).map(|(r, id)| (rows_of(r, id), Side::Query)));
    }
    roles.sort_by_key(|r| r.0.tensor != id);
    let shape = tensors[id.0 as usize].shape.clone();
    let offset = match body.start {
        Some(n) => lower.params[n],
        None => lower.pool.int(0),
    };
    let mut steps = super::build::start(kernel, lower, tensors, key.target.family());
    let (seq_k, axes) = (shape[base.seq], steps.axes);
    (steps.offset, steps.seq_k) = (offset, seq_k);
    let vars = steps.vars_of(base, true);
    let mut build = Build { steps, vars, base, shape, nodes: Vec::new(), reads: Vec::new() };
    let states = build.states(key, body)?;
    let n_heads = match base.head {
        Some(d) => Some(build.constant(build.shape[d], base.tensor)?),
        None => None,
    };
    build.steps.row_ops()?;
    let mut updates = Vec::new();
    for (state, value) in &body.updates {
        build.prepare(value)?;
        updates.push((*state, build.node(value)?));
    }
    let epilogues = build.results()?;
    let [b, h, t, x, _] = axes;
    let recurrence = Recurrence {
        vars: RecurVars { b, h, t, x },
        batch: base.batch.map(|d| build.shape[d]),
        heads: n_heads,
        steps: seq_k,
        states,
        nodes: build.nodes,
        updates,
        reads: build.reads,
    };
    let mut steps = build.steps;
    steps.steps.push(Step::Recur(Box::new(recurrence)));
    steps.steps.extend(epilogues);
    let Steps { lower, tensors, steps, .. } = steps;
    let (name, pool) = (kernel.name.clone(), lower.pool);
    let kernel = attn_ir::Kernel { name, pool, dims, params, tensors, steps, roles, demands: Vec::new() };
    Ok(Instance { kernel, mask_clauses: vec![], turns: vec![] })
}

fn rows_of(r: RowsFact, tensor: TensorId) -> Rows {
    Rows { tensor, batch: r.batch, head: r.head, seq: r.seq, feature: r.feature }
}

fn reads_state(e: &Expr) -> bool {
    find(e, &mut |n| matches!(n.kind, Kind::State(_)).then_some(())).is_some()
}

struct Build<'k> {
    steps: Steps<'k>,
    /// Index variables of results.
    vars: RowVars,
    base: RowsFact,
    /// Sizes of the base's dims.
    shape: Vec<ExprId>,
    nodes: Vec<RecurNode>,
    reads: Vec<RecurRead>,
}

impl Build<'_> {
    fn constant(&self, size: ExprId, tensor: usize) -> Result<i64> {
        self.steps.lower.pool.as_int(size).ok_or_else(|| {
            let t = &self.steps.kernel.tensors[tensor];
            let message = format!("a size of `{}` is not a constant of the plan", t.name);
            let help = Some("size heads, features and states by dims, numbers or static parameters".into());
            CompileError::spec(Code::MissingDim, t.span, message, "declared here", help)
        })
    }

    fn size(&mut self, size: &Size) -> Result<i64> {
        let e = self.steps.lower.expr(&size.expr)?;
        self.steps.lower.pool.as_int(e).ok_or_else(|| {
            let message = format!("the size `{}` is not a constant of the plan", size.text);
            let help = Some("size heads, features and states by dims, numbers or static parameters".into());
            CompileError::spec(Code::MissingDim, size.expr.span, message, "used here", help)
        })
    }

    fn type_shape(&mut self, ty: &Type) -> Result<Shape> {
        Ok(match ty {
            Type::Row(n) => Shape::Row(self.size(n)?),
            Type::Mat(r, c) => Shape::Mat(self.size(r)?, self.size(c)?),
            _ => Shape::Scalar,
        })
    }

    /// Declares the outputs, in order, and the states.
    fn states(&mut self, key: &PlanKey, body: &RecurBody) -> Result<Vec<RecurState>> {
        let kernel = self.steps.kernel;
        let mut last = vec![None; body.states.len()];
        for fact in &kernel.outputs {
            let (dtype, shape, layout) = match &fact.kind {
                OutputHir::State(n) => {
                    let shape = self.state_dims(&body.states[*n].ty)?;
                    last[*n] = Some(TensorId(self.steps.tensors.len() as u32));
                    (DType::F32, shape.clone(), (0..shape.len()).collect())
                }
                OutputHir::Row(e, cast) => {
                    let base = &kernel.tensors[self.base.tensor];
                    let mut shape = self.shape.clone();
                    if let Type::Row(n) = &e.ty {
                        let n = self.size(n)?;
                        shape[self.base.feature] = self.steps.lower.pool.int(n);
                    }
                    (cast.unwrap_or(base.elem.dtype(key.float)), shape, base.layout.clone())
                }
                _ => continue,
            };
            let (name, fact, origin) = (fact.name.clone(), Fact::None, Origin::Output);
            self.steps.tensors.push(attn_ir::Tensor { name, dtype, shape, layout, fact, origin, rest: None });
        }
        let mut states = Vec::new();
        for (fact, last) in body.states.iter().zip(last) {
            let init = match &fact.init {
                InitHir::Number(e) => Init::Number(self.steps.lower.expr(e)?),
                InitHir::Tensor(t) => match self.steps.lower.ids[*t] {
                    Some(id) => Init::Tensor(id),
                    None => Init::Number(self.steps.lower.pool.float(0.0)),
                },
                InitHir::Zeros => Init::Number(self.steps.lower.pool.float(0.0)),
            };
            let shape = self.type_shape(&fact.ty)?;
            states.push(RecurState { name: fact.name.clone(), shape, init, last });
        }
        Ok(states)
    }

    fn state_dims(&mut self, ty: &Type) -> Result<Vec<ExprId>> {
        let lead = [self.base.batch, self.base.head].into_iter().flatten();
        let mut shape: Vec<ExprId> = lead.map(|d| self.shape[d]).collect();
        let own = match self.type_shape(ty)? {
            Shape::Scalar => vec![],
            Shape::Row(n) => vec![n],
            Shape::Mat(r, c) => vec![r, c],
        };
        shape.extend(own.into_iter().map(|n| self.steps.lower.pool.int(n)));
        Ok(shape)
    }

    /// The shape of results with so many features.
    fn result_shape(&mut self, features: i64) -> Vec<ExprId> {
        let mut shape = self.shape.clone();
        shape[self.base.feature] = self.steps.lower.pool.int(features);
        shape
    }

    /// Over the variables of derived tensors.
    fn placed(&mut self, e: ExprId) -> ExprId {
        self.steps.at(e, &self.vars)
    }

    /// A number that reads no state.
    fn number(&mut self, e: &Expr) -> Result<ExprId> {
        let x = self.steps.lower.expr(e)?;
        Ok(self.placed(x))
    }

    /// Element x of a row that reads no state.
    fn row(&mut self, e: &Expr, n: i64, x: ExprId) -> Result<ExprId> {
        let shape = self.result_shape(n);
        let value = self.steps.result_element(e, &self.vars, x, &shape)?;
        Ok(self.placed(value))
    }

    /// Makes tensors of the dots in an expression that read no state.
    fn prepare(&mut self, e: &Expr) -> Result<()> {
        for x in operands(&e.kind) {
            self.prepare(x)?;
        }
        if let Kind::Dot(x, y) = &e.kind
            && !reads_state(e)
            && !self.steps.lower.held.iter().any(|h| same(&h.expr, e))
        {
            let Type::Row(n) = &x.ty else { return Ok(()) };
            let n = self.size(n)?;
            let feature = self.steps.axes[3];
            let at = self.steps.lower.pool.var(feature);
            let (x, y) = (self.row(x, n, at)?, self.row(y, n, at)?);
            let pool = &mut self.steps.lower.pool;
            let product = pool.binary(BinaryOp::Mul, x, y);
            let summed = pool.add_var("t", Ty::Int);
            let (term, extent) = (pool.var(summed), pool.int(n));
            let value = pool.substitute(product, &[(feature, term)]);
            let (out, index) = self.numbers("dots");
            let (sum, checks) = (vec![(summed, extent)], vec![]);
            self.steps.steps.push(Step::Derive(Derive { out, index, sum, value, at_bind: false, checks }));
            self.steps.lower.held.push(Held { expr: e.clone(), tensor: out, rows: self.base });
        }
        Ok(())
    }

    /// A made tensor of a number for each step, and its index variables.
    fn numbers(&mut self, name: &str) -> (TensorId, Vec<VarId>) {
        let (mut shape, mut index) = (self.shape.clone(), self.vars.index.clone());
        shape.remove(self.base.feature);
        index.remove(self.base.feature);
        (self.steps.declare(name, DType::F32, shape, Fact::None), index)
    }

    fn push(&mut self, op: RecurOp, shape: Shape) -> NodeId {
        let node = RecurNode { op, shape };
        let at = self.nodes.iter().position(|n| *n == node).unwrap_or_else(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        });
        NodeId(at as u32)
    }

    fn node(&mut self, e: &Expr) -> Result<NodeId> {
        let shape = self.type_shape(&e.ty)?;
        if !reads_state(e) && !matches!(shape, Shape::Mat(..)) {
            let op = match shape {
                Shape::Row(n) => {
                    let x = self.steps.lower.pool.var(self.steps.axes[3]);
                    RecurOp::Row(self.row(e, n, x)?)
                }
                _ => RecurOp::Scalar(self.number(e)?),
            };
            return Ok(self.push(op, shape));
        }
        let op = match &e.kind {
            Kind::State(n) => RecurOp::State(*n),
            Kind::Outer(x, y) => RecurOp::Outer(self.node(x)?, self.node(y)?),
            Kind::VecMat(x, m) => RecurOp::VecMat(self.node(x)?, self.node(m)?),
            Kind::Dot(x, y) => RecurOp::Dot(self.node(x)?, self.node(y)?),
            Kind::Norm(x, over) => return self.norm(x, over, shape),
            Kind::Unary(..) | Kind::Binary(..) | Kind::Select(..) => {
                let mut args = Vec::new();
                let value = self.elementwise(e, &mut args)?;
                RecurOp::Map { args, value }
            }
            _ => {
                let message = "this has no place in the update of a state".into();
                return Err(LowerError { span: e.span, message }.into());
            }
        };
        Ok(self.push(op, shape))
    }

    /// The element of elementwise arithmetic, over the elements of other nodes.
    fn elementwise(&mut self, e: &Expr, args: &mut Vec<(VarId, NodeId)>) -> Result<ExprId> {
        if matches!(e.ty, Type::Bool | Type::Int | Type::Float) && !reads_state(e) {
            return self.number(e);
        }
        match &e.kind {
            _ if !reads_state(e) && matches!(e.ty, Type::Row(_)) => {}
            Kind::Unary(op, x) => {
                let x = self.elementwise(x, args)?;
                return Ok(self.steps.lower.pool.unary(*op, x));
            }
            Kind::Binary(op, a, b) => {
                let (a, b) = (self.elementwise(a, args)?, self.elementwise(b, args)?);
                return Ok(self.steps.lower.pool.binary(*op, a, b));
            }
            Kind::Select(c, a, b) if !reads_state(c) => {
                let c = self.number(c)?;
                let (a, b) = (self.elementwise(a, args)?, self.elementwise(b, args)?);
                return Ok(self.steps.lower.pool.select(c, a, b));
            }
            Kind::Select(c, ..) => {
                let message = "a condition cannot depend on a state".into();
                return Err(LowerError { span: c.span, message }.into());
            }
            _ => {}
        }
        let node = self.node(e)?;
        let var = match args.iter().find(|a| a.1 == node) {
            Some((var, _)) => *var,
            None => {
                let var = self.steps.lower.pool.add_var("y", Ty::Float);
                args.push((var, node));
                var
            }
        };
        Ok(self.steps.lower.pool.var(var))
    }

    /// `x / sqrt(mean x^2 + eps)` over the features of a row that reads a state.
    fn norm(&mut self, x: &Expr, over: &NormOver, shape: Shape) -> Result<NodeId> {
        let Type::Row(n) = &x.ty else {
            return Err(LowerError { span: x.span, message: "a norm is of a row".into() }.into());
        };
        if over.dims.iter().any(|d| !d.same(n)) {
            let message = "inside an update a norm runs over the features of its row only".into();
            return Err(LowerError { span: x.span, message }.into());
        }
        let count = self.size(n)?;
        let row = self.node(x)?;
        let squares = self.push(RecurOp::Dot(row, row), Shape::Scalar);
        let pool = &mut self.steps.lower.pool;
        let (own, total) = (pool.add_var("y", Ty::Float), pool.add_var("y", Ty::Float));
        let (y, sum) = (pool.var(own), pool.var(total));
        let (n, eps) = (pool.float(count as f64), pool.float(over.eps));
        let mean = pool.binary(BinaryOp::Div, sum, n);
        let safe = pool.binary(BinaryOp::Add, mean, eps);
        let scale = pool.unary(crate::expr::UnaryOp::Rsqrt, safe);
        let value = pool.binary(BinaryOp::Mul, y, scale);
        Ok(self.push(RecurOp::Map { args: vec![(own, row), (total, squares)], value }, shape))
    }

    /// Reads of the states, and what is made of them afterwards.
    fn results(&mut self) -> Result<Vec<Step>> {
        let kernel = self.steps.kernel;
        let mut epilogues = Vec::new();
        for fact in &kernel.outputs {
            let OutputHir::Row(e, _) = &fact.kind else { continue };
            let Some(out) = self.steps.tensors.iter().position(|t| t.name == fact.name) else { continue };
            let out = TensorId(out as u32);
            self.prepare(e)?;
            if is_read(e) {
                let node = self.node(e)?;
                self.reads.push(RecurRead { rows: rows_of(self.base, out), node });
                continue;
            }
            self.extract(e)?;
            let before = self.steps.steps.len();
            let shape = self.steps.tensors[out.0 as usize].shape.clone();
            let x = self.steps.lower.pool.var(self.steps.axes[3]);
            let value = self.steps.result_element(e, &self.vars, x, &shape)?;
            let value = self.placed(value);
            let (index, checks) = (self.vars.index.clone(), vec![value]);
            self.steps.steps.push(Step::Derive(Derive {
                out,
                index,
                sum: vec![],
                value,
                at_bind: false,
                checks,
            }));
            epilogues.extend(self.steps.steps.drain(before..));
        }
        Ok(epilogues)
    }

    /// Stores what must see a state in tensors, for the arithmetic around it.
    fn extract(&mut self, e: &Expr) -> Result<()> {
        if !reads_state(e) || self.steps.lower.held.iter().any(|h| same(&h.expr, e)) {
            return Ok(());
        }
        if !is_read(e) {
            return operands(&e.kind).into_iter().try_for_each(|x| self.extract(x));
        }
        let node = self.node(e)?;
        let tensor = match &e.ty {
            Type::Row(n) => {
                let n = self.size(n)?;
                let shape = self.result_shape(n);
                self.steps.declare("read", DType::F32, shape, Fact::None)
            }
            _ => self.numbers("read").0,
        };
        self.reads.push(RecurRead { rows: rows_of(self.base, tensor), node });
        self.steps.lower.held.push(Held { expr: e.clone(), tensor, rows: self.base });
        Ok(())
    }
}

/// True of what is not elementwise and sees a state.
fn is_read(e: &Expr) -> bool {
    matches!(e.kind, Kind::VecMat(..) | Kind::Dot(..) | Kind::State(_)) && reads_state(e)
}
