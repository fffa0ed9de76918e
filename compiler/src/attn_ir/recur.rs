//! A state carried along a sequence: one for each (b, h), updated at every step, read out at every step.
//!
//! Comes in from `sema`. Goes out to `lower`, and to [`evaluate`], which says what it means: for each b and h the
//! states begin at their initial values; for each step t in order the updates are made one after the other (each
//! sees what the ones above it have written), then every read is stored at t; in the end the states are stored.
//! What holds: nodes refer to nodes before them; everything that reads no state is a [`RecurOp::Scalar`], a
//! [`RecurOp::Row`] or made of them. Not here: in which order steps are really computed.

use super::{Kernel, Rows};
use crate::expr::eval::{Env, Value, eval};
use crate::expr::{ExprId, Op, Pool, TensorId, VarId};
use crate::host::{BindError, Data, Inputs, View};

/// A node of a [`Recurrence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(pub u32);

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A number.
    Scalar,
    /// A row of so many numbers.
    Row(i64),
    /// Rows and columns.
    Mat(i64, i64),
}

impl Shape {
    /// How many numbers.
    pub fn len(self) -> usize {
        let n = match self {
            Shape::Scalar => 1,
            Shape::Row(n) => n,
            Shape::Mat(r, c) => r * c,
        };
        n.max(0) as usize
    }

    /// True without numbers.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// How a node is computed.
#[derive(Clone, Debug, PartialEq)]
pub enum RecurOp {
    /// A float expression over b, h and t.
    Scalar(ExprId),
    /// Element x is this float expression over b, h, t and x.
    Row(ExprId),
    /// The state as it is now.
    State(usize),
    /// `x y^T` of two rows.
    Outer(NodeId, NodeId),
    /// Row times matrix.
    VecMat(NodeId, NodeId),
    /// Sum of the products of two rows.
    Dot(NodeId, NodeId),
    /// Element by element: the value over these variables, b, h and t. Numbers stand for every element.
    Map {
        /// Float variables, and the nodes whose elements they are.
        args: Vec<(VarId, NodeId)>,
        /// The element.
        value: ExprId,
    },
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub struct RecurNode {
    /// How it is computed.
    pub op: RecurOp,
    /// What it is.
    pub shape: Shape,
}

/// Where a state begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Every element is this float expression over dims and params.
    Number(ExprId),
    /// An input of the state's shape behind the dims of b and h that the sequences have.
    Tensor(TensorId),
}

/// A state: f32 in kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct RecurState {
    /// Name in the specification.
    pub name: String,
    /// A row or a matrix.
    pub shape: Shape,
    /// Where it begins.
    pub init: Init,
    /// Where it is stored in the end, f32.
    pub last: Option<TensorId>,
}

/// What is stored at every step: a row, or a number (then the tensor has no feature dim, and `rows.feature` counts
/// nothing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecurRead {
    /// Where.
    pub rows: Rows,
    /// What.
    pub node: NodeId,
}

/// Index variables of the expressions, all int.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecurVars {
    /// Batch.
    pub b: VarId,
    /// Head.
    pub h: VarId,
    /// Step.
    pub t: VarId,
    /// Element of a row.
    pub x: VarId,
}

/// See the head of this file. Expressions live in the kernel's pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Recurrence {
    /// Index variables.
    pub vars: RecurVars,
    /// How many b; no dim of state tensors where there is none.
    pub batch: Option<ExprId>,
    /// How many h, a constant; likewise.
    pub heads: Option<i64>,
    /// How many steps.
    pub steps: ExprId,
    /// In order of declaration.
    pub states: Vec<RecurState>,
    /// Operands first.
    pub nodes: Vec<RecurNode>,
    /// State and its new value, in order.
    pub updates: Vec<(usize, NodeId)>,
    /// Stored after the updates of each step.
    pub reads: Vec<RecurRead>,
}

impl Recurrence {
    /// A node.
    pub fn node(&self, id: NodeId) -> &RecurNode {
        &self.nodes[id.0 as usize]
    }

    /// True if the node reads a state.
    pub fn reads_state(&self, id: NodeId) -> bool {
        match &self.node(id).op {
            RecurOp::Scalar(_) | RecurOp::Row(_) => false,
            RecurOp::State(_) => true,
            RecurOp::Outer(a, b) | RecurOp::VecMat(a, b) | RecurOp::Dot(a, b) => {
                self.reads_state(*a) || self.reads_state(*b)
            }
            RecurOp::Map { args, .. } => args.iter().any(|a| self.reads_state(a.1)),
        }
    }

    /// Expressions of every node and initial state.
    pub fn exprs(&self) -> Vec<ExprId> {
        let node = |n: &RecurNode| match n.op {
            RecurOp::Scalar(e) | RecurOp::Row(e) | RecurOp::Map { value: e, .. } => Some(e),
            _ => None,
        };
        let init = |s: &RecurState| if let Init::Number(e) = s.init { Some(e) } else { None };
        self.nodes.iter().filter_map(node).chain(self.states.iter().filter_map(init)).collect()
    }

    /// Expressions of the nodes from which updates are made.
    pub fn update_exprs(&self) -> Vec<ExprId> {
        let mut out = Vec::new();
        let mut open: Vec<NodeId> = self.updates.iter().map(|u| u.1).collect();
        while let Some(id) = open.pop() {
            match &self.node(id).op {
                RecurOp::Scalar(e) | RecurOp::Row(e) => out.push(*e),
                RecurOp::State(_) => {}
                RecurOp::Outer(a, b) | RecurOp::VecMat(a, b) | RecurOp::Dot(a, b) => open.extend([*a, *b]),
                RecurOp::Map { args, value } => {
                    out.push(*value);
                    open.extend(args.iter().map(|a| a.1));
                }
            }
        }
        out
    }

    /// The dims of a state's tensor in front of its own: those of b and h that there are.
    pub fn leading(&self) -> usize {
        usize::from(self.batch.is_some()) + usize::from(self.heads.is_some())
    }
}

/// What a recurrence stores: a view for each read, and for each state that is stored.
pub struct Stored {
    /// In order of [`Recurrence::reads`].
    pub reads: Vec<View>,
    /// In order of the states; none where nobody asks.
    pub last: Vec<Option<View>>,
}

/// Variables and tensors at one step.
struct At<'a> {
    vars: Vec<Value>,
    views: &'a [Option<&'a View>],
    kernel: &'a Kernel,
}

impl Env for At<'_> {
    fn var(&self, var: VarId) -> Value {
        self.vars[var.0 as usize]
    }

    fn load(&self, tensor: TensorId, index: &[i64]) -> Value {
        let zero = match self.kernel.tensor(tensor).dtype.value_ty() {
            crate::expr::Ty::Float => Value::Float(0.0),
            crate::expr::Ty::Int => Value::Int(0),
            crate::expr::Ty::Bool => Value::Bool(false),
        };
        self.views[tensor.0 as usize].and_then(|v| v.get(index)).unwrap_or(zero)
    }
}

/// Evaluates every step in f64; `shape` gives the sizes of a tensor.
///
/// # Errors
/// Tensors that do not fit.
pub fn evaluate(
    kernel: &Kernel,
    r: &Recurrence,
    vars: &[Value],
    inputs: &Inputs,
    shape: &dyn Fn(TensorId) -> Vec<usize>,
) -> Result<Stored, BindError> {
    let views: Vec<Option<&View>> = kernel.tensors.iter().map(|t| inputs.tensors.get(&t.name)).collect();
    let mut run =
        Run { r, pool: &kernel.pool, at: At { vars: vars.to_vec(), views: &views, kernel }, states: vec![] };
    let size = |run: &Run<'_>, e: ExprId| eval(run.pool, e, &run.at).int().max(0);
    let steps = size(&run, r.steps);
    let (batch, heads) = (r.batch.map_or(1, |b| size(&run, b)), r.heads.unwrap_or(1));
    let zeros = |id: TensorId| {
        let sizes = shape(id);
        (sizes.clone(), vec![0.0; sizes.iter().product()])
    };
    let mut reads: Vec<(Vec<usize>, Vec<f64>)> = r.reads.iter().map(|x| zeros(x.rows.tensor)).collect();
    let mut last: Vec<Vec<f64>> = r.states.iter().map(|_| Vec::new()).collect();
    for b in 0..batch {
        for h in 0..heads {
            run.begin(b, h);
            for t in 0..steps {
                run.set(r.vars.t, t);
                for &(state, value) in &r.updates {
                    run.states[state] = run.value(value);
                }
                for (read, (sizes, data)) in r.reads.iter().zip(&mut reads) {
                    store(&read.rows, [b, h, t], &run.value(read.node), r.node(read.node).shape, sizes, data);
                }
            }
            run.states.iter().zip(&mut last).for_each(|(s, all)| all.extend(s));
        }
    }
    let view = |(sizes, data): (Vec<usize>, Vec<f64>)| View::contiguous(sizes, Data::Float(data));
    let states = r.states.iter().zip(last);
    Ok(Stored {
        reads: reads.into_iter().map(view).collect::<Result<_, _>>()?,
        last: states
            .map(|(s, data)| s.last.map(|id| view((shape(id), data))).transpose())
            .collect::<Result<_, _>>()?,
    })
}

fn store(rows: &Rows, [b, h, t]: [i64; 3], value: &[f64], shape: Shape, sizes: &[usize], data: &mut [f64]) {
    let is_row = matches!(shape, Shape::Row(_));
    for (x, v) in value.iter().enumerate() {
        let mut flat = 0;
        for (d, n) in sizes.iter().enumerate() {
            let at = match d {
                d if Some(d) == rows.batch => b as usize,
                d if Some(d) == rows.head => h as usize,
                d if d == rows.seq => t as usize,
                _ if is_row => x,
                _ => 0,
            };
            flat = flat * n + at;
        }
        if let Some(slot) = data.get_mut(flat) {
            *slot = *v;
        }
    }
}

/// Elements of a map: the same for all, or one for each.
enum Elements {
    All(Value),
    Each(Vec<f64>),
}

struct Run<'a> {
    r: &'a Recurrence,
    pool: &'a Pool,
    at: At<'a>,
    states: Vec<Vec<f64>>,
}

impl Run<'_> {
    fn set(&mut self, var: VarId, value: i64) {
        self.at.vars[var.0 as usize] = Value::Int(value);
    }

    fn begin(&mut self, b: i64, h: i64) {
        self.set(self.r.vars.b, b);
        self.set(self.r.vars.h, h);
        self.states = self.r.states.iter().map(|s| self.initial(s, b, h)).collect();
    }

    fn initial(&self, s: &RecurState, b: i64, h: i64) -> Vec<f64> {
        let n = s.shape.len();
        let id = match s.init {
            Init::Number(e) => return vec![eval(self.pool, e, &self.at).float(); n],
            Init::Tensor(id) => id,
        };
        let mut index: Vec<i64> = Vec::new();
        index.extend(self.r.batch.map(|_| b));
        index.extend(self.r.heads.map(|_| h));
        let lead = index.len();
        let element = |k: usize| {
            let mut index = index.clone();
            match s.shape {
                Shape::Mat(_, c) => index.extend([k as i64 / c, k as i64 % c]),
                _ => index.push(k as i64),
            }
            debug_assert!(index.len() > lead);
            self.at.load(id, &index).float()
        };
        (0..n).map(element).collect()
    }

    fn value(&mut self, id: NodeId) -> Vec<f64> {
        let node = &self.r.nodes[id.0 as usize];
        match &node.op {
            RecurOp::Scalar(e) => vec![eval(self.pool, *e, &self.at).float()],
            RecurOp::Row(e) => {
                let mut out = Vec::with_capacity(node.shape.len());
                for x in 0..node.shape.len() {
                    self.set(self.r.vars.x, x as i64);
                    out.push(eval(self.pool, *e, &self.at).float());
                }
                out
            }
            RecurOp::State(n) => self.states[*n].clone(),
            RecurOp::Outer(x, y) => {
                let (x, y) = (self.value(*x), self.value(*y));
                x.iter().flat_map(|a| y.iter().map(move |b| a * b)).collect()
            }
            RecurOp::VecMat(x, m) => {
                let (x, m) = (self.value(*x), self.value(*m));
                let n = node.shape.len();
                let mut out = vec![0.0; n];
                for (row, a) in m.chunks(n.max(1)).zip(&x) {
                    out.iter_mut().zip(row).for_each(|(o, b)| *o += a * b);
                }
                out
            }
            RecurOp::Dot(x, y) => {
                let (x, y) = (self.value(*x), self.value(*y));
                vec![x.iter().zip(&y).map(|(a, b)| a * b).sum()]
            }
            RecurOp::Map { args, value } => {
                let (n, value) = (node.shape.len(), *value);
                let vars: Vec<VarId> = args.iter().map(|a| a.0).collect();
                let of: Vec<Vec<f64>> = args.iter().map(|a| self.value(a.1)).collect();
                match self.elements(value, &vars, &of, n) {
                    Elements::All(v) => vec![v.float(); n],
                    Elements::Each(v) => v,
                }
            }
        }
    }

    /// The elements of an expression of `vars`, whose elements are `of` (one stands for all).
    fn elements(&self, e: ExprId, vars: &[VarId], of: &[Vec<f64>], n: usize) -> Elements {
        use crate::expr::eval::{binary, unary};
        if !self.pool.depends_on(e, vars) {
            return Elements::All(eval(self.pool, e, &self.at));
        }
        let each = |x: &Elements, k: usize| match x {
            Elements::All(v) => *v,
            Elements::Each(v) => Value::Float(v[k]),
        };
        match self.pool.op(e) {
            Op::Var(v) => {
                let at = vars.iter().position(|w| w == v).unwrap_or(0);
                match &of[at][..] {
                    [one] if n != 1 => Elements::All(Value::Float(*one)),
                    all => Elements::Each(all.to_vec()),
                }
            }
            Op::Unary(op, x) => match self.elements(*x, vars, of, n) {
                Elements::All(v) => Elements::All(unary(*op, v)),
                Elements::Each(v) => {
                    Elements::Each(v.into_iter().map(|x| unary(*op, Value::Float(x)).float()).collect())
                }
            },
            Op::Binary(op, a, b) => {
                let (a, b) = (self.elements(*a, vars, of, n), self.elements(*b, vars, of, n));
                if let (Elements::All(a), Elements::All(b)) = (&a, &b) {
                    return Elements::All(binary(*op, *a, *b));
                }
                Elements::Each((0..n).map(|k| binary(*op, each(&a, k), each(&b, k)).float()).collect())
            }
            Op::Select(c, a, b) => match eval(self.pool, *c, &self.at) {
                Value::Bool(true) => self.elements(*a, vars, of, n),
                _ => self.elements(*b, vars, of, n),
            },
            _ => Elements::All(eval(self.pool, e, &self.at)),
        }
    }
}
