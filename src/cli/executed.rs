//! The arithmetic that launches execute, counted from the tile IR.
//!
//! Comes in: a study and some launches of its program; or what else is to be counted of each statement ([`sums`]). Goes
//! out: floating-point operations, exact at these sizes; or nothing, where loops depend on what tensors hold or are too many. A product counts two for each term, an fma two, an
//! element of a map each operation once; what a map does for a row, or once, counts so (as in the CPU backend).
//! What holds: a coordinate of the grid or a counter on which no size and no condition depends is not walked: its tasks
//! are alike and counted by their number. Not here: columns that vectors fill up, the steps of masks and softmax.

use std::collections::BTreeSet;
use std::ops::Range;

use attn_compiler::expr::eval::{Env, Value, eval};
use attn_compiler::expr::{ExprId, Op, Pool, TensorId, Ty, UnaryOp, VarId};
use attn_compiler::tile_ir::{Access, BufId, Launch, Program, Span, Stmt};

use super::study::Study;
use super::traffic::Named;
use super::ui::Failure;

/// Most nodes that are walked.
const MOST: u64 = 1 << 24;

/// Operations of the launches at the sizes of the study.
pub fn flops(study: &Study, launches: Range<usize>) -> Result<Option<f64>, Failure> {
    let program = &study.plan.program;
    let measure = |_: &Launch, stmt: &Stmt| {
        let work = work(&program.pool, stmt)?;
        Some(work.into_iter().map(|(n, of)| (0, n, of)).collect())
    };
    let mut total = Some(0.0);
    for launch in &program.launches[launches] {
        let sums = sums(study, launch, 1, &measure)?;
        total = total.and_then(|total| Some(total + sums?[0]));
    }
    Ok(total)
}

/// What a statement adds to which sum: a factor times sizes.
pub type Term = (usize, f64, Vec<ExprId>);

/// The terms of a statement without blocks; none where they cannot be told.
pub type Measure<'a> = &'a dyn Fn(&Launch, &Stmt) -> Option<Vec<Term>>;

/// So many sums over all that a launch executes at the sizes of the study.
pub fn sums(
    study: &Study,
    launch: &Launch,
    n: usize,
    measure: Measure<'_>,
) -> Result<Option<Vec<f64>>, Failure> {
    let program = &study.plan.program;
    let sizes = Named::new(study)?;
    let mut vars = vec![None; program.pool.vars().count()];
    for arg in program.dims.iter().chain(&program.params) {
        vars[arg.var.0 as usize] = Some(sizes.var(arg.var));
    }
    let mut walk = Walk { pool: &program.pool, vars, left: MOST, sums: vec![0.0; n] };
    let counted = Outline::of(program, launch, measure).and_then(|nodes| walk.block(&nodes, 1.0));
    Ok(counted.map(|()| walk.sums))
}

/// How many tasks a launch has.
pub fn tasks(study: &Study, launch: &Launch) -> Result<f64, Failure> {
    let sizes = Named::new(study)?;
    let of = |e: ExprId| eval(&study.plan.program.pool, e, &sizes).int().max(0) as f64;
    Ok(launch.grid.iter().map(|(_, extent)| of(*extent)).product())
}

/// What is left of a statement for the count.
enum Node {
    /// A value that sizes or conditions depend on.
    Let(VarId, ExprId),
    /// A search: the counter itself if it is an int's, else whether there is a point.
    Search { var: VarId, over: Vec<Span>, cond: ExprId, first: bool },
    /// A loop; from 0 without `lo`. `alike`: its turns all do the same.
    For { var: VarId, lo: Option<ExprId>, hi: ExprId, body: Vec<Node>, alike: bool },
    /// A branch.
    If { cond: ExprId, then: Vec<Node>, otherwise: Vec<Node> },
    /// What is added to the sums.
    Work(Vec<Term>),
}

/// Makes the nodes of a launch, last statement first, so that it is known which values still matter.
struct Outline<'a> {
    pool: &'a Pool,
    launch: &'a Launch,
    measure: Measure<'a>,
    /// Variables that sizes and conditions depend on.
    deciding: BTreeSet<VarId>,
}

impl<'a> Outline<'a> {
    /// The grid as loops around the body; none where the contents of tensors decide.
    fn of(program: &'a Program, launch: &'a Launch, measure: Measure<'a>) -> Option<Vec<Node>> {
        let mut outline = Outline { pool: &program.pool, launch, measure, deciding: BTreeSet::new() };
        let mut body = outline.block(&launch.body)?;
        for &(var, hi) in launch.grid.iter().rev() {
            body = vec![outline.repeated(var, None, hi, body)?];
        }
        Some(body)
    }

    fn block(&mut self, body: &[Stmt]) -> Option<Vec<Node>> {
        let mut nodes = Vec::new();
        for stmt in body.iter().rev() {
            nodes.extend(self.node(stmt)?);
        }
        nodes.reverse();
        Some(nodes)
    }

    fn repeated(&mut self, var: VarId, lo: Option<ExprId>, hi: ExprId, body: Vec<Node>) -> Option<Node> {
        let alike = !self.deciding.contains(&var);
        lo.into_iter().chain([hi]).try_for_each(|e| self.decide(e))?;
        Some(Node::For { var, lo, hi, body, alike })
    }

    /// What is searched decides as well.
    fn search(&mut self, var: VarId, over: &[Span], cond: ExprId, first: bool) -> Option<Node> {
        over.iter().flat_map(|s| [s.lo, s.hi]).chain([cond]).try_for_each(|e| self.decide(e))?;
        Some(Node::Search { var, over: over.to_vec(), cond, first })
    }

    /// Outer none: it cannot be told. Inner none: nothing to count.
    fn node(&mut self, stmt: &Stmt) -> Option<Option<Node>> {
        Some(match stmt {
            Stmt::Let { var, value } if self.deciding.contains(var) => {
                self.decide(*value)?;
                Some(Node::Let(*var, *value))
            }
            Stmt::Let { .. } => None,
            Stmt::Any { var, over, cond } if self.deciding.contains(var) => {
                Some(self.search(*var, over, *cond, false)?)
            }
            Stmt::First { var, over, cond } if self.deciding.contains(var) => {
                Some(self.search(*var, std::slice::from_ref(over), *cond, true)?)
            }
            Stmt::Any { .. } | Stmt::First { .. } => None,
            Stmt::For { var, lo, hi, body } => {
                let body = self.block(body)?;
                Some(self.repeated(*var, Some(*lo), *hi, body)?)
            }
            Stmt::If { cond, then, otherwise } => {
                let (then, otherwise) = (self.block(then)?, self.block(otherwise)?);
                self.decide(*cond)?;
                Some(Node::If { cond: *cond, then, otherwise })
            }
            _ => {
                let work = (self.measure)(self.launch, stmt)?;
                work.iter().flat_map(|w| &w.2).try_for_each(|&e| self.decide(e))?;
                (!work.is_empty()).then_some(Node::Work(work))
            }
        })
    }

    /// Notes what an expression depends on; none if that is an element of a tensor.
    fn decide(&mut self, e: ExprId) -> Option<()> {
        for id in self.pool.reachable(&[e]) {
            match self.pool.op(id) {
                Op::Var(var) => {
                    self.deciding.insert(*var);
                }
                Op::Load(..) => return None,
                _ => {}
            }
        }
        Some(())
    }
}

/// Operations of a statement without blocks; none for those of masks and softmax.
fn work(pool: &Pool, stmt: &Stmt) -> Option<Vec<(f64, Vec<ExprId>)>> {
    Some(match stmt {
        Stmt::Gemm { rows, k, n, row_scale, .. } => {
            let scaled = row_scale.map(|_| (1.0, vec![*rows, *n]));
            [(2.0, vec![*rows, *k, *n])].into_iter().chain(scaled).collect()
        }
        Stmt::Map { rows, cols, row, col, reads, value, .. }
        | Stmt::StoreMap { rows, cols, row, col, reads, value, .. } => {
            let [each, by_row, once] = operations(pool, *value, (*row, *col), reads);
            let all = [(each, vec![*rows, *cols]), (by_row, vec![*rows]), (once, vec![])];
            all.into_iter().filter(|w| w.0 > 0.0).collect()
        }
        Stmt::Affine { rows, cols, factor, term, .. } => {
            let each = 1.0 + f64::from(u8::from(factor.is_some())) + f64::from(u8::from(term.is_some()));
            vec![(each, vec![*rows, *cols])]
        }
        // The first row is left as it is.
        Stmt::ScanRows { rows, cols, decay, .. } => {
            let each = if decay.is_some() { 2.0 } else { 1.0 };
            vec![(each, vec![*rows, *cols]), (-each, vec![*cols])]
        }
        Stmt::Math { rows, cols, .. } | Stmt::ReduceRows { rows, cols, .. } => {
            vec![(1.0, vec![*rows, *cols])]
        }
        Stmt::StoreRows { rows, d, row_scale: Some(_), .. } => vec![(1.0, vec![*rows, *d])],
        Stmt::PrefixSum { n, .. } => vec![(1.0, vec![*n])],
        Stmt::StoreRows { .. }
        | Stmt::StoreVec { .. }
        | Stmt::LoadRows { .. }
        | Stmt::PackK { .. }
        | Stmt::PackV { .. }
        | Stmt::Transpose { .. }
        | Stmt::View { .. }
        | Stmt::Fill { .. }
        | Stmt::Band { .. }
        | Stmt::Any { .. }
        | Stmt::First { .. } => vec![],
        _ => return None,
    })
}

/// Float operations of an expression: those of each element, of each row, of the whole tile.
fn operations(
    pool: &Pool,
    value: ExprId,
    (row, col): (VarId, VarId),
    reads: &[(VarId, BufId, Access)],
) -> [f64; 3] {
    let of = |wanted: Access| reads.iter().filter(move |r| r.2 == wanted).map(|r| r.0);
    let by_col: Vec<VarId> = of(Access::Tile).chain(of(Access::Col)).chain([col]).collect();
    let by_row: Vec<VarId> = of(Access::Row).chain([row]).collect();
    let mut count = [0.0; 3];
    for id in pool.reachable(&[value]).into_iter().filter(|&id| is_operation(pool, id)) {
        let at = match () {
            () if pool.depends_on(id, &by_col) => 0,
            () if pool.depends_on(id, &by_row) => 1,
            () => 2,
        };
        count[at] += 1.0;
    }
    count
}

/// A float operation; conversions, comparisons and selections are none.
fn is_operation(pool: &Pool, id: ExprId) -> bool {
    let operation = match pool.op(id) {
        Op::Unary(op, _) => !matches!(op, UnaryOp::ToFloat | UnaryOp::Round32),
        Op::Binary(..) => true,
        _ => false,
    };
    operation && pool.ty(id) == Ty::Float
}

/// Goes through the nodes with the values of the variables.
struct Walk<'a> {
    pool: &'a Pool,
    vars: Vec<Option<Value>>,
    /// Nodes that may still be visited.
    left: u64,
    sums: Vec<f64>,
}

impl Env for Walk<'_> {
    fn var(&self, var: VarId) -> Value {
        self.vars[var.0 as usize].unwrap_or(Value::Int(0))
    }

    fn load(&self, _: TensorId, _: &[i64]) -> Value {
        Value::Int(0)
    }
}

impl Walk<'_> {
    fn int(&self, e: ExprId) -> i64 {
        eval(self.pool, e, self).int()
    }

    fn set(&mut self, var: VarId, value: Value) {
        self.vars[var.0 as usize] = Some(value);
    }

    /// Adds what nodes do so many times. None when too many nodes were visited.
    fn block(&mut self, nodes: &[Node], times: f64) -> Option<()> {
        for node in nodes {
            self.left = self.left.checked_sub(1)?;
            match node {
                Node::Let(var, value) => {
                    let value = eval(self.pool, *value, self);
                    self.set(*var, value);
                }
                Node::Search { var, over, cond, first } => {
                    let found = self.search(over, *cond)?;
                    let value = match (first, over.first()) {
                        (false, _) => Value::Bool(found.is_some()),
                        (true, Some(span)) => Value::Int(found.unwrap_or(self.int(span.hi))),
                        (true, None) => return None,
                    };
                    self.set(*var, value);
                }
                Node::For { var, lo, hi, body, alike } => {
                    let (lo, hi) = (lo.map_or(0, |lo| self.int(lo)), self.int(*hi));
                    self.repeat(*var, lo..hi, body, (*alike, times))?;
                }
                Node::If { cond, then, otherwise } => {
                    let taken = if eval(self.pool, *cond, self).bool() { then } else { otherwise };
                    self.block(taken, times)?;
                }
                Node::Work(work) => {
                    for same in work.chunk_by(|a, b| a.0 == b.0) {
                        let size = |e: &ExprId| self.int(*e).max(0) as f64;
                        let of = |(_, n, of): &Term| n * of.iter().map(size).product::<f64>();
                        let sum: f64 = same.iter().map(of).sum();
                        self.sums[same[0].0] += times * sum.max(0.0);
                    }
                }
            }
        }
        Some(())
    }

    /// The outermost counter at the first point where a condition holds. Outer none: too many were looked at.
    fn search(&mut self, over: &[Span], cond: ExprId) -> Option<Option<i64>> {
        let Some((span, inner)) = over.split_first() else {
            return Some(eval(self.pool, cond, self).bool().then_some(0));
        };
        for at in self.int(span.lo)..self.int(span.hi) {
            self.left = self.left.checked_sub(1)?;
            self.set(span.var, Value::Int(at));
            if self.search(inner, cond)?.is_some() {
                return Some(Some(at));
            }
        }
        Some(None)
    }

    fn repeat(
        &mut self,
        var: VarId,
        turns: Range<i64>,
        body: &[Node],
        (alike, times): (bool, f64),
    ) -> Option<()> {
        if turns.is_empty() {
            return Some(());
        }
        if alike {
            return self.block(body, times * (turns.end - turns.start) as f64);
        }
        for at in turns {
            self.set(var, Value::Int(at));
            self.block(body, times)?;
        }
        Some(())
    }
}
