//! Tables made when arguments are bound: one entry for each point of a box of indices.
//!
//! Comes in: the entry's expression, the box, the scalars. Goes out: a contiguous tensor, evaluated in f64 and
//! i64 and then rounded to the storage type. Rebuilt only when a scalar that it reads has changed. The columns
//! that a `rand_block` draws for a row are drawn once, not once for each column asked about.
//! Deliberately not done: evaluation in parallel, or by generated code.

use attn_compiler::artifact::{DType, TensorRole};
use attn_compiler::expr::eval::{Value, binary, eval, unary};
use attn_compiler::expr::rand::{rand_block_columns, rand_block_columns_except};
use attn_compiler::expr::{BinaryOp, ExprId, FloatBits, Op, Pool, VarId};
use half::{bf16, f16};

use super::context::{Scalars, tensor_bytes};
use crate::aligned::AlignedBuf;
use crate::error::{DataFault, RuntimeError};
use crate::signature::Signature;
use crate::tensor::MAX_RANK;

/// One table's memory and what it was made for.
#[derive(Default)]
pub(crate) struct Table {
    pub buf: AlignedBuf,
    /// Values of the scalars that it reads; `None` before it is first made.
    made_for: Option<Vec<Value>>,
}

impl Table {
    /// Makes the table for these scalars unless it already is.
    pub fn refresh(
        &mut self,
        sig: &Signature,
        t: usize,
        reads: &[VarId],
        sizes: &[usize; MAX_RANK],
        values: &[Value],
    ) -> Result<(), RuntimeError> {
        let current = || reads.iter().map(|v| values[v.0 as usize]);
        if self.made_for.as_ref().is_some_and(|old| old.iter().copied().eq(current())) {
            return Ok(());
        }
        self.made_for = None;
        self.fill(sig, t, sizes, values)?;
        self.made_for = Some(current().collect());
        Ok(())
    }

    fn fill(
        &mut self,
        sig: &Signature,
        t: usize,
        sizes: &[usize; MAX_RANK],
        values: &[Value],
    ) -> Result<(), RuntimeError> {
        let spec = &sig.artifact.tensors[t];
        let TensorRole::Table { vars, origin, value } = &spec.role else {
            return Err(RuntimeError::internal("bind", format!("`{}` is no table", spec.name)));
        };
        let pool = &sig.artifact.pool;
        let bytes = tensor_bytes(sig, t, sizes).unwrap_or(0);
        self.buf.ensure(bytes)?;
        let first: Vec<i64> = origin.iter().map(|&o| eval(pool, o, &Scalars(values)).int()).collect();
        let mut maker = Maker { pool, values: values.to_vec(), drawn: Vec::new() };
        let mut index = [0usize; MAX_RANK];
        for entry in self.buf.bytes_mut().chunks_exact_mut(spec.dtype.size()) {
            for (d, v) in vars.iter().enumerate() {
                maker.values[v.0 as usize] = Value::Int(first[d].wrapping_add(index[d] as i64));
            }
            let made = maker.eval(*value);
            if store(spec.dtype, made, entry).is_none() {
                let at = &index[..vars.len()];
                let message = format!(
                    "entry {at:?} of table `{}` would be {}, which {} cannot hold; use smaller parameters or lengths",
                    spec.name,
                    made.int(),
                    spec.dtype
                );
                return Err(RuntimeError::data(DataFault::Value, message));
            }
            step(&mut index, &sizes[..vars.len()]);
        }
        Ok(())
    }
}

/// The next index in row-major order.
fn step(index: &mut [usize; MAX_RANK], sizes: &[usize]) {
    for d in (0..sizes.len()).rev() {
        index[d] += 1;
        if index[d] < sizes[d] {
            return;
        }
        index[d] = 0;
    }
}

/// Rounds the value into an entry; `None` if an int does not fit.
fn store(dtype: DType, value: Value, entry: &mut [u8]) -> Option<()> {
    match dtype {
        DType::F32 => entry.copy_from_slice(&(value.float() as f32).to_ne_bytes()),
        DType::F64 => entry.copy_from_slice(&value.float().to_ne_bytes()),
        DType::F16 => entry.copy_from_slice(&f16::from_f64(value.float()).to_ne_bytes()),
        DType::Bf16 => entry.copy_from_slice(&bf16::from_f64(value.float()).to_ne_bytes()),
        DType::I8 => entry.copy_from_slice(&i8::try_from(value.int()).ok()?.to_ne_bytes()),
        DType::I32 => entry.copy_from_slice(&i32::try_from(value.int()).ok()?.to_ne_bytes()),
        DType::I64 => entry.copy_from_slice(&value.int().to_ne_bytes()),
        DType::Bit => entry[0] = u8::from(value.bool()),
        DType::F8E4M3 => entry[0] = attn_compiler::f8::encode(value.float() as f32),
    }
    Some(())
}

/// The last draw of one `rand_block` node.
struct Drawn {
    node: ExprId,
    /// row, ncols, head, n, seed
    key: [i64; 5],
    /// Ascending.
    columns: Vec<i64>,
}

/// `attn_compiler::expr::eval::eval` over scalars and indices, with draws remembered.
struct Maker<'a> {
    pool: &'a Pool,
    values: Vec<Value>,
    drawn: Vec<Drawn>,
}

impl Maker<'_> {
    fn eval(&mut self, id: ExprId) -> Value {
        let pool = self.pool;
        match pool.op(id) {
            Op::Int(x) => Value::Int(*x),
            Op::Float(FloatBits(b)) => Value::Float(f64::from_bits(*b)),
            Op::Bool(x) => Value::Bool(*x),
            Op::Var(v) => self.values[v.0 as usize],
            // Looking through the artifact has refused tables that load.
            Op::Load(..) => Value::Int(0),
            Op::Unary(op, x) => unary(*op, self.eval(*x)),
            Op::Binary(BinaryOp::And, a, b) => Value::Bool(self.eval(*a).bool() && self.eval(*b).bool()),
            Op::Binary(BinaryOp::Or, a, b) => Value::Bool(self.eval(*a).bool() || self.eval(*b).bool()),
            Op::Binary(op, a, b) => {
                let a = self.eval(*a);
                binary(*op, a, self.eval(*b))
            }
            Op::Select(c, a, b) => {
                let taken = if self.eval(*c).bool() { *a } else { *b };
                self.eval(taken)
            }
            Op::RandBlock(args) => {
                let [row, col, ncols, head, n, seed] = std::array::from_fn(|k| self.eval(args[k]).int());
                Value::Bool(self.columns(id, [row, ncols, head, n, seed], None).binary_search(&col).is_ok())
            }
            Op::RandBlockExcept(args) => {
                let [row, col, ncols, head, n, seed] = std::array::from_fn(|k| self.eval(args[k]).int());
                // Looking through the artifact has seen that the column is a variable.
                let Op::Var(var) = *pool.op(args[1]) else { return Value::Bool(false) };
                let key = [row, ncols, head, n, seed];
                Value::Bool(self.columns(id, key, Some((var, args[6]))).binary_search(&col).is_ok())
            }
        }
    }

    /// The columns drawn by `node` for this row, ascending.
    ///
    /// The condition that excludes columns may depend on the row, the head and what is the same for the whole table.
    fn columns(&mut self, node: ExprId, key: [i64; 5], except: Option<(VarId, ExprId)>) -> &[i64] {
        let at = match self.drawn.iter().position(|d| d.node == node) {
            Some(at) if self.drawn[at].key == key => return &self.drawn[at].columns,
            Some(at) => at,
            None => {
                self.drawn.push(Drawn { node, key, columns: Vec::new() });
                self.drawn.len() - 1
            }
        };
        let columns = self.draw(key, except);
        self.drawn[at].key = key;
        self.drawn[at].columns = columns;
        &self.drawn[at].columns
    }

    fn draw(&mut self, [row, ncols, head, n, seed]: [i64; 5], except: Option<(VarId, ExprId)>) -> Vec<i64> {
        let mut columns = match except {
            None => rand_block_columns(row, ncols, head, n, seed),
            Some((var, cond)) => {
                let slot = var.0 as usize;
                let before = self.values[slot];
                let excluded = |col| {
                    self.values[slot] = Value::Int(col);
                    self.eval(cond).bool()
                };
                let columns = rand_block_columns_except(row, ncols, head, n, seed, excluded);
                self.values[slot] = before;
                columns
            }
        };
        columns.sort_unstable();
        columns
    }
}
