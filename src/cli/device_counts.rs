//! What a launch executes on a GPU: products, exponentials, and the bytes that its blocks ask for of each tensor.
//!
//! Comes in: a study, a launch, the backend's report of it. Goes out: [`Counts`] from the tile IR, exact at these sizes; or
//! nothing, where loops depend on what tensors hold. What holds: on the tensor cores a tile counts whole, padding and
//! columns behind the mask included, as that is what is executed.

use attn_compiler::artifact::DType;
use attn_compiler::expr::{ExprId, Op, Pool, TensorId, UnaryOp, VarId};
use attn_compiler::target::{GpuArch, Target};
use attn_compiler::tile_ir::{Access, Launch, Operand, Program, Stmt, WeightKind};
use attn_compiler_gpu::report::{LaunchReport, Products};

use super::executed::{self, Term};
use super::study::Study;
use super::ui::Failure;

/// Sums: products, exponentials, then bytes read and bytes written of each tensor.
const PRODUCTS: usize = 0;
const EXPS: usize = 1;
const TENSORS: usize = 2;

/// See the head of this file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// FLOPs of products.
    pub products: f64,
    /// Exponentials and what takes as long.
    pub exps: f64,
    /// Bytes that blocks read, by tensor.
    pub read: Vec<f64>,
    /// Bytes that blocks write, by tensor.
    pub written: Vec<f64>,
}

/// Counts a launch.
pub fn of(study: &Study, launch: &Launch, report: &LaunchReport) -> Result<Option<Counts>, Failure> {
    let program = &study.plan.program;
    let n = program.tensors.len();
    // Warps compute with 16 rows each, on sm_90a four of them together.
    let unit = if study.plan.target == Target::Gpu(GpuArch::Sm90a) { 64 } else { 16 };
    let most = launch.buffers.iter().map(|b| b.rows).max().unwrap_or(0);
    let rows = (most + unit - 1) / unit * unit;
    let whole = matches!(report.products, Products::TensorCores(_)).then_some(rows);
    let measure = |launch: &Launch, stmt: &Stmt| Some(Measure { program, launch, whole, n }.terms(stmt));
    let sums = executed::sums(study, launch, TENSORS + 2 * n, &measure)?;
    Ok(sums.map(|sums| Counts {
        products: sums[PRODUCTS],
        exps: sums[EXPS],
        read: sums[TENSORS..TENSORS + n].to_vec(),
        written: sums[TENSORS + n..].to_vec(),
    }))
}

/// Has products with keys: an attention. What merges its runs has steps of a softmax too.
pub fn weighs(stmts: &[Stmt]) -> bool {
    let is_weight = |stmt: &Stmt| matches!(stmt, Stmt::SoftmaxStep { .. } | Stmt::WeightStep { .. });
    let is_score = |stmt: &Stmt| matches!(stmt, Stmt::Gemm { b: Operand::Columns(_), .. });
    any(stmts, &is_weight) && any(stmts, &is_score)
}

fn any(stmts: &[Stmt], is: &dyn Fn(&Stmt) -> bool) -> bool {
    stmts.iter().any(|stmt| match stmt {
        Stmt::For { body, .. } => any(body, is),
        Stmt::If { then, otherwise, .. } => any(then, is) || any(otherwise, is),
        _ => is(stmt),
    })
}

struct Measure<'a> {
    program: &'a Program,
    launch: &'a Launch,
    /// Tiles count whole, with so many rows.
    whole: Option<i64>,
    n: usize,
}

impl Measure<'_> {
    fn terms(&self, stmt: &Stmt) -> Vec<Term> {
        match stmt {
            Stmt::Gemm { c, a, b, rows, k, n, .. } => {
                let (c, a) = (&self.launch.buffers[c.0 as usize], &self.launch.buffers[a.0 as usize]);
                let product = match self.whole {
                    Some(all) => (PRODUCTS, 2.0 * (all * c.cols * a.cols) as f64, vec![]),
                    None => (PRODUCTS, 2.0, vec![*rows, *k, *n]),
                };
                let from = match b {
                    Operand::Columns(src) | Operand::Rows(src) => Some(self.read(src.tensor, vec![*k, *n])),
                    Operand::Panels(p) => Some(self.read(p.tensor, vec![*k, *n])),
                    Operand::Buffer(_) => None,
                };
                [product].into_iter().chain(from).collect()
            }
            Stmt::SoftmaxStep { s, rows, cols, .. } => vec![self.exps(1.0, s.0, (*rows, *cols))],
            Stmt::WeightStep { kind: WeightKind::Sigmoid, s, rows, cols, .. } => {
                // An exponential and a reciprocal.
                vec![self.exps(2.0, s.0, (*rows, *cols))]
            }
            Stmt::Map { rows, cols, row, col, reads, value, .. } => {
                let by_col = reads.iter().filter(|r| r.2 != Access::Row).map(|r| r.0).chain([*col]).collect();
                let by_row = reads.iter().filter(|r| r.2 == Access::Row).map(|r| r.0).chain([*row]).collect();
                self.map(*value, (*rows, *cols), by_row, by_col)
            }
            Stmt::StoreMap { dst, rows, cols, row, col, reads, value } => {
                let by_col = reads.iter().filter(|r| r.2 != Access::Row).map(|r| r.0).chain([*col]).collect();
                let by_row = reads.iter().filter(|r| r.2 == Access::Row).map(|r| r.0).chain([*row]).collect();
                let mut terms = self.map(*value, (*rows, *cols), by_row, by_col);
                terms.push(self.written(dst.tensor, vec![*rows, *cols]));
                terms
            }
            Stmt::LoadRows { src, rows, d, .. } => vec![self.read(src.tensor, vec![*rows, *d])],
            Stmt::StoreRows { dst, rows, d, .. } => vec![self.written(dst.tensor, vec![*rows, *d])],
            Stmt::StoreVec { dst, rows, .. } => vec![self.written(dst.tensor, vec![*rows])],
            Stmt::PrefixSum { hi, lo, src, n } => {
                let of = |t| self.written(t, vec![*n]);
                vec![self.read(src.tensor, vec![*n]), of(hi.tensor), of(lo.tensor)]
            }
            Stmt::TopK { indices, src, n, width, .. } => {
                vec![self.read(src.tensor, vec![*n]), self.written(indices.tensor, vec![*width])]
            }
            _ => vec![],
        }
    }

    fn size(&self, t: TensorId) -> f64 {
        self.program.tensors.get(t.0 as usize).map_or(DType::F32, |t| t.dtype).size() as f64
    }

    fn read(&self, t: TensorId, sizes: Vec<ExprId>) -> Term {
        (TENSORS + t.0 as usize, self.size(t), sizes)
    }

    fn written(&self, t: TensorId, sizes: Vec<ExprId>) -> Term {
        (TENSORS + self.n + t.0 as usize, self.size(t), sizes)
    }

    fn exps(&self, times: f64, tile: u32, (rows, cols): (ExprId, ExprId)) -> Term {
        let tile = &self.launch.buffers[tile as usize];
        match self.whole {
            Some(all) => (EXPS, times * (all * tile.cols) as f64, vec![]),
            None => (EXPS, times, vec![rows, cols]),
        }
    }

    /// Exponentials and elements of tensors in a value: of each element, of each row, once.
    fn map(
        &self,
        value: ExprId,
        (rows, cols): (ExprId, ExprId),
        by_row: Vec<VarId>,
        by_col: Vec<VarId>,
    ) -> Vec<Term> {
        let pool: &Pool = &self.program.pool;
        let sizes = |id: ExprId| match () {
            () if pool.depends_on(id, &by_col) => vec![rows, cols],
            () if pool.depends_on(id, &by_row) => vec![rows],
            () => vec![],
        };
        let term = |id: ExprId| match pool.op(id) {
            Op::Load(t, ..) => Some(self.read(*t, sizes(id))),
            Op::Unary(UnaryOp::Exp | UnaryOp::Exp2 | UnaryOp::Tanh, _) => Some((EXPS, 1.0, sizes(id))),
            Op::Unary(UnaryOp::Sigmoid, _) => Some((EXPS, 2.0, sizes(id))),
            _ => None,
        };
        pool.reachable(&[value]).into_iter().filter_map(term).collect()
    }
}
