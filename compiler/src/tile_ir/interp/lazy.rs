//! Evaluation of expressions while a program runs: as [`crate::expr::eval`] says, but each node at most once
//! for a value of the variables (shared nodes would make plain recursion exponential), and with errors.

use super::memory::Memory;
use crate::expr::eval::{Value, binary, unary};
use crate::expr::{BinaryOp, ExprId, FloatBits, Op, Ty, VarId};
use crate::tile_ir::Program;

/// Variables, memory, and the nodes evaluated since a variable was last set.
pub struct Machine<'a> {
    pub program: &'a Program,
    pub memory: Memory<'a>,
    vars: Vec<Option<Value>>,
    values: Vec<Value>,
    /// The age at which each value was made; it holds if that is the present one.
    made: Vec<u64>,
    age: u64,
}

impl<'a> Machine<'a> {
    /// A machine with these variables.
    pub fn new(program: &'a Program, vars: Vec<Option<Value>>, memory: Memory<'a>) -> Self {
        let n = program.pool.len();
        Machine { program, memory, vars, values: vec![Value::Int(0); n], made: vec![0; n], age: 1 }
    }

    /// Sets a variable.
    pub fn set(&mut self, var: VarId, value: Value) {
        self.vars[var.0 as usize] = Some(value);
        self.age += 1;
    }

    /// Unsets a variable: what leaves its scope is gone.
    pub fn unset(&mut self, var: VarId) {
        self.vars[var.0 as usize] = None;
        self.age += 1;
    }

    /// The value of an expression. Branches not taken are not evaluated.
    pub fn eval(&mut self, id: ExprId) -> Result<Value, String> {
        let n = id.0 as usize;
        if self.made[n] == self.age {
            return Ok(self.values[n]);
        }
        let program = self.program;
        let value = match program.pool.op(id) {
            Op::Int(x) => Value::Int(*x),
            Op::Float(FloatBits(b)) => Value::Float(f64::from_bits(*b)),
            Op::Bool(x) => Value::Bool(*x),
            Op::Var(v) => match self.vars[v.0 as usize] {
                Some(value) => value,
                None => return Err(format!("`{}` has no value", program.pool.var_info(*v).name)),
            },
            Op::Load(t, index, ty) => {
                let index =
                    index.iter().map(|&x| Ok(self.eval(x)?.int())).collect::<Result<Vec<_>, String>>()?;
                self.memory.load(*t, &index)?.unwrap_or(arbitrary(*ty, &index))
            }
            Op::Unary(op, x) => unary(*op, self.eval(*x)?),
            Op::Binary(BinaryOp::And, a, b) => Value::Bool(self.eval(*a)?.bool() && self.eval(*b)?.bool()),
            Op::Binary(BinaryOp::Or, a, b) => Value::Bool(self.eval(*a)?.bool() || self.eval(*b)?.bool()),
            Op::Binary(op, a, b) => binary(*op, self.eval(*a)?, self.eval(*b)?),
            Op::Select(c, a, b) => {
                let branch = if self.eval(*c)?.bool() { *a } else { *b };
                self.eval(branch)?
            }
            Op::RandBlock(args) => {
                let mut x = [0; 6];
                for (x, arg) in x.iter_mut().zip(args.iter()) {
                    *x = self.eval(*arg)?.int();
                }
                Value::Bool(crate::expr::rand::rand_block_contains(x[0], x[1], x[2], x[3], x[4], x[5]))
            }
            Op::RandBlockExcept(args) => self.drawn_except(args)?,
        };
        self.values[n] = value;
        self.made[n] = self.age;
        Ok(value)
    }

    /// `Op::RandBlockExcept`: the condition is evaluated for every column.
    fn drawn_except(&mut self, args: &[ExprId; 7]) -> Result<Value, String> {
        let mut x = [0; 6];
        for (x, arg) in x.iter_mut().zip(args) {
            *x = self.eval(*arg)?.int();
        }
        let Op::Var(var) = *self.program.pool.op(args[1]) else { return Err("no column to vary".into()) };
        let mut excluded = Vec::new();
        for col in 0..x[2] {
            self.vars[var.0 as usize] = Some(Value::Int(col));
            self.age += 1;
            excluded.push(self.eval(args[6])?.bool());
        }
        self.vars[var.0 as usize] = Some(Value::Int(x[1]));
        self.age += 1;
        let columns = crate::expr::rand::rand_block_columns_except(x[0], x[2], x[3], x[4], x[5], |col| {
            excluded[col as usize]
        });
        Ok(Value::Bool(columns.contains(&x[1])))
    }

    /// An int expression.
    pub fn int(&mut self, id: ExprId) -> Result<i64, String> {
        Ok(self.eval(id)?.int())
    }
}

/// What a load out of range gives: something that would show in a result.
fn arbitrary(ty: Ty, index: &[i64]) -> Value {
    match ty {
        Ty::Float => Value::Float(f64::NAN),
        Ty::Int => Value::Int(0x5bad_5bad),
        Ty::Bool => Value::Bool(index.iter().fold(0i64, |a, x| a.wrapping_mul(31).wrapping_add(*x)) % 2 == 0),
    }
}
