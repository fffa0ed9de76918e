//! Score and mask compiled to a tape: every node of the DAG once, evaluated for all keys of a row at a time.
//!
//! Comes in: the expressions, and which variables are rows, keys and dots. Goes out: mask bits and scores of a
//! row. Nodes are split by what they depend on: uniform nodes and nodes of the key alone are evaluated once,
//! nodes of the row alone once a row, the rest for each pair, the mask for all keys and the score for the span
//! of keys that the mask lets through. Evaluation is eager: both branches of `?:` are evaluated and guards do
//! not guard, so a load out of range gives the nearest element, which by the guard's meaning is not used.
//! Every operation gives the bits of [`crate::expr::eval`].

use std::ops::Range;

use super::Scalars;
use crate::expr::eval::{Env, Value};
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, UnaryOp, VarId};
use crate::host::View;

mod lanes;
use lanes::{Arg, Lane};

/// Variables that differ inside of one (b, h).
pub struct Vars {
    /// Those of the query row.
    pub row: Vec<VarId>,
    /// The key position.
    pub key: VarId,
    /// Those of the dots.
    pub dots: Vec<VarId>,
}

/// An operation whose operands are positions on the tape.
enum Step {
    Const(Value),
    Scalar(VarId),
    Key,
    Dot,
    Load(TensorId, Vec<usize>),
    Unary(UnaryOp, usize),
    Binary(BinaryOp, usize, usize),
    Select(usize, usize, usize),
    RandBlock([usize; 6]),
}

/// What a node depends on; ordered so that the larger of two operands' levels is a lower bound, but for a row
/// and a key, which make a pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Uniform,
    Row,
    Key,
    Pair,
}

impl Level {
    fn join(self, other: Level) -> Level {
        match (self.min(other), self.max(other)) {
            (Level::Row, Level::Key) => Level::Pair,
            (_, high) => high,
        }
    }
}

/// The compiled expressions.
pub struct Tape {
    steps: Vec<Step>,
    levels: Vec<Level>,
    /// Steps of each level, in order; pairs of the mask and pairs of the score alone.
    uniform: Vec<usize>,
    row: Vec<usize>,
    key: Vec<usize>,
    mask_pairs: Vec<usize>,
    score_pairs: Vec<usize>,
    score: usize,
    mask: usize,
    sink: Option<usize>,
    dots: Vec<Option<usize>>,
}

impl Tape {
    /// Compiles a float score, a bool mask and a float sink that depends on neither row nor key.
    pub fn compile(pool: &Pool, score: ExprId, mask: ExprId, sink: Option<ExprId>, vars: Vars) -> Tape {
        let roots: Vec<ExprId> = [score, mask].into_iter().chain(sink).collect();
        let order = pool.reachable(&roots);
        let at = |id: &ExprId| order.partition_point(|x| x < id);
        let in_mask = pool.reachable(&[mask]);
        let mut tape = Tape {
            steps: Vec::new(),
            levels: Vec::new(),
            uniform: vec![],
            row: vec![],
            key: vec![],
            mask_pairs: vec![],
            score_pairs: vec![],
            score: at(&score),
            mask: at(&mask),
            sink: sink.as_ref().map(at),
            dots: vec![None; vars.dots.len()],
        };
        for (n, &id) in order.iter().enumerate() {
            let level = match pool.op(id) {
                Op::Var(v) if vars.row.contains(v) => Level::Row,
                Op::Var(v) if *v == vars.key => Level::Key,
                Op::Var(v) if vars.dots.contains(v) => Level::Pair,
                _ => pool.operands(id).iter().fold(Level::Uniform, |l, x| l.join(tape.levels[at(x)])),
            };
            match level {
                Level::Uniform => tape.uniform.push(n),
                Level::Row => tape.row.push(n),
                Level::Key => tape.key.push(n),
                Level::Pair if in_mask.binary_search(&id).is_ok() => tape.mask_pairs.push(n),
                Level::Pair => tape.score_pairs.push(n),
            }
            tape.levels.push(level);
            let step = step(pool, id, &at, &vars);
            if let (Step::Dot, Op::Var(v)) = (&step, pool.op(id)) {
                for (dot, _) in vars.dots.iter().enumerate().filter(|(_, w)| *w == v) {
                    tape.dots[dot] = Some(n);
                }
            }
            tape.steps.push(step);
        }
        tape
    }

    /// Registers for one (b, h), with everything evaluated that no row changes.
    pub fn start<'a>(&'a self, vars: &[Value], views: &'a [&'a View], n_keys: usize) -> State<'a> {
        let regs = self.levels.iter().map(|_| Reg::Scalar(Value::Int(0))).collect();
        let mut state = State {
            tape: self,
            views,
            vars: vars.to_vec(),
            regs,
            n_keys,
            mask: vec![],
            scores: vec![],
            at: vec![],
        };
        for &n in self.uniform.iter().chain(&self.key) {
            state.run(n, 0..n_keys);
        }
        for n in self.dots.iter().flatten() {
            state.regs[*n] = Reg::Float(vec![0.0; n_keys]);
        }
        state
    }
}

fn step(pool: &Pool, id: ExprId, at: &dyn Fn(&ExprId) -> usize, vars: &Vars) -> Step {
    match pool.op(id) {
        Op::Var(v) if *v == vars.key => Step::Key,
        Op::Var(v) if vars.dots.contains(v) => Step::Dot,
        Op::Var(v) => Step::Scalar(*v),
        Op::Load(t, idx, _) => Step::Load(*t, idx.iter().map(at).collect()),
        Op::Unary(op, x) => Step::Unary(*op, at(x)),
        Op::Binary(op, a, b) => Step::Binary(*op, at(a), at(b)),
        Op::Select(c, a, b) => Step::Select(at(c), at(a), at(b)),
        Op::RandBlock(args) => Step::RandBlock(std::array::from_fn(|n| at(&args[n]))),
        Op::Int(x) => Step::Const(Value::Int(*x)),
        Op::Float(x) => Step::Const(Value::Float(f64::from_bits(x.0))),
        Op::Bool(x) => Step::Const(Value::Bool(*x)),
    }
}

/// The value of a node: one for all keys, or one for each.
pub(super) enum Reg {
    Scalar(Value),
    Float(Vec<f64>),
    Int(Vec<i64>),
    Bool(Vec<bool>),
}

/// The registers of one (b, h) at one row.
pub struct State<'a> {
    tape: &'a Tape,
    views: &'a [&'a View],
    vars: Vec<Value>,
    regs: Vec<Reg>,
    n_keys: usize,
    mask: Vec<bool>,
    scores: Vec<f64>,
    /// Scratch: positions of a load.
    at: Vec<usize>,
}

impl State<'_> {
    /// The sink logit, if there is one.
    pub fn sink(&self) -> Option<f64> {
        self.tape.sink.map(|n| f64::lane(&self.regs[n], 0..0).get(0))
    }

    /// Moves to a row and evaluates the mask for all of its keys.
    pub fn begin_row(&mut self, row: &[(VarId, i64)]) {
        for (var, x) in row {
            self.vars[var.0 as usize] = Value::Int(*x);
        }
        for &n in &self.tape.row {
            self.run(n, 0..0);
        }
        for &n in &self.tape.mask_pairs {
            self.run(n, 0..self.n_keys);
        }
        self.mask.clear();
        match bool::lane(&self.regs[self.tape.mask], 0..self.n_keys) {
            Arg::One(x) => self.mask.resize(self.n_keys, x),
            Arg::Each(x) => self.mask.extend_from_slice(x),
        }
    }

    /// Lets `f` write the values of dot n, given which keys matter.
    pub fn dot(&mut self, n: usize, f: impl FnOnce(&[bool], &mut [f64])) {
        if let Some(Reg::Float(out)) = self.tape.dots[n].map(|n| &mut self.regs[n]) {
            f(&self.mask, out);
        }
    }

    /// The first unmasked key, and from it to the last unmasked one the mask and the scores.
    pub fn score(&mut self) -> (usize, &[bool], &[f64]) {
        let first = self.mask.iter().position(|x| *x).unwrap_or(0);
        let end = self.mask.iter().rposition(|x| *x).map_or(0, |n| n + 1);
        let span = first..end;
        for &n in &self.tape.score_pairs {
            self.run(n, span.clone());
        }
        self.scores.clear();
        match f64::lane(&self.regs[self.tape.score], span.clone()) {
            Arg::One(x) => self.scores.resize(span.len(), x),
            Arg::Each(x) => self.scores.extend_from_slice(x),
        }
        (first, &self.mask[span], &self.scores)
    }

    /// Evaluates one step for these keys; a step that does not depend on the key gives one value.
    fn run(&mut self, n: usize, keys: Range<usize>) {
        let tape = self.tape;
        if matches!(tape.steps[n], Step::Dot) {
            return;
        }
        if tape.levels[n] < Level::Key {
            self.regs[n] = Reg::Scalar(self.scalar(&tape.steps[n]));
            return;
        }
        let out = std::mem::replace(&mut self.regs[n], Reg::Scalar(Value::Int(0)));
        let mut at = std::mem::take(&mut self.at);
        let regs = &self.regs;
        self.regs[n] = match &tape.steps[n] {
            Step::Key => Reg::Int((0..self.n_keys as i64).collect()),
            Step::Load(t, index) => {
                lanes::positions(regs, self.views[t.0 as usize], index, keys.clone(), &mut at);
                lanes::load(out, self.n_keys, keys, self.views[t.0 as usize], &at)
            }
            Step::Unary(op, x) => lanes::unary(out, self.n_keys, keys, *op, &regs[*x]),
            Step::Binary(op, a, b) => lanes::binary(out, self.n_keys, keys, *op, &regs[*a], &regs[*b]),
            Step::Select(c, a, b) => lanes::select(out, self.n_keys, keys, &regs[*c], &regs[*a], &regs[*b]),
            Step::RandBlock(args) => {
                let args = std::array::from_fn(|k| i64::lane(&regs[args[k]], keys.clone()));
                lanes::rand_block(out, self.n_keys, keys, args)
            }
            Step::Const(_) | Step::Scalar(_) | Step::Dot => out,
        };
        self.at = at;
    }

    fn scalar(&self, step: &Step) -> Value {
        let reg = |n: &usize| match &self.regs[*n] {
            Reg::Scalar(x) => *x,
            Reg::Float(_) | Reg::Int(_) | Reg::Bool(_) => Value::Int(0),
        };
        match step {
            Step::Const(x) => *x,
            Step::Scalar(v) => Scalars(&self.vars, &[]).var(*v),
            Step::Load(t, index) => {
                let index: Vec<i64> = index.iter().map(|n| reg(n).int()).collect();
                let view = self.views[t.0 as usize];
                lanes::nearest(view, &index)
            }
            Step::Unary(op, x) => crate::expr::eval::unary(*op, reg(x)),
            Step::Binary(op, a, b) => crate::expr::eval::binary(*op, reg(a), reg(b)),
            Step::Select(c, a, b) => {
                if reg(c).bool() {
                    reg(a)
                } else {
                    reg(b)
                }
            }
            Step::RandBlock(args) => {
                let [row, col, ncols, head, n, seed] = std::array::from_fn(|k| reg(&args[k]).int());
                Value::Bool(crate::expr::rand::rand_block_contains(row, col, ncols, head, n, seed))
            }
            Step::Key | Step::Dot => Value::Int(0),
        }
    }
}
