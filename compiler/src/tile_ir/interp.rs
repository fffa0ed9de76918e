//! What a tile IR program computes: every statement executed in f64 over concrete data.
//!
//! Comes in: a [`Program`] (it is verified first), data by name, and a seed for the order of tasks. Goes out: the outputs, or
//! the first thing that a program must not do, with the statement that does it. What a machine would let pass
//! is an error here: reading what nothing has written (in a buffer, in workspace), an index out of a tensor's
//! range where rows are loaded, packed or stored, a count beyond a buffer, one element written by two tasks of
//! a launch, an output left unwritten. A load inside of an expression may be out of range in an input or a
//! table (see [`super::Stmt::Map`]): it gives a value that is unlikely to pass for a right one.
//!
//! Floats are not rounded but where they are stored in f16 or bf16, so results agree with `attn_ir::dense` to
//! f64 rounding. Not here: time, vector lanes, asynchronous copies (the CPU has none).

mod lazy;
mod memory;
mod rows;
mod task;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use super::{Program, TensorKind};
use crate::artifact::DType;
use crate::expr::eval::Value;
use crate::expr::{ExprId, Ty, VarId};
use crate::host::{BindError, Data, Inputs, SplitMix, View, unflatten};
use memory::{Memory, Scratch, Store};

/// What went wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {op}")]
pub struct InterpError {
    /// The statement or declaration, printed.
    pub op: String,
    /// What it did.
    pub message: String,
}

/// Runs a program. `order_seed` picks the order of the tasks of each launch; ascending without one.
pub fn run(
    program: &Program,
    inputs: &Inputs,
    order_seed: Option<u64>,
) -> Result<HashMap<String, View>, InterpError> {
    super::verify::verify(program).map_err(|e| InterpError { message: e.to_string(), op: e.op })?;
    let header = |e: BindError| InterpError { op: format!("program {}", program.name), message: e.0 };
    let vars = scalars(program, inputs).map_err(header)?;
    let mut memory = Memory { stores: Vec::new(), launch: 0, task: 0 };
    for decl in &program.tensors {
        let store = allocate(program, decl, inputs, &vars).map_err(header)?;
        memory.stores.push(store);
    }
    let mut machine = lazy::Machine::new(program, vars, memory);
    for require in &program.requires {
        if !machine.eval(require.cond).map_err(|e| header(BindError(e)))?.bool() {
            return Err(InterpError { op: "require".into(), message: require.message.clone() });
        }
    }
    let mut rng = order_seed.map(SplitMix);
    for launch in &program.launches {
        let mut extents = Vec::new();
        for (_, extent) in &launch.grid {
            let n = machine.eval(*extent).map_err(|e| header(BindError(e)))?.int();
            extents.push(usize::try_from(n).map_err(|_| header(BindError(format!("a grid of {n} tasks"))))?);
        }
        let mut order: Vec<usize> = (0..extents.iter().product()).collect();
        if let Some(rng) = &mut rng {
            for n in (1..order.len()).rev() {
                order.swap(n, rng.below(n as u64 + 1) as usize);
            }
        }
        machine.memory.launch += 1;
        for n in order {
            machine.memory.task = n as u64;
            for ((var, _), at) in launch.grid.iter().zip(unflatten(n, &extents)) {
                machine.set(*var, Value::Int(at as i64));
            }
            task::run(&mut machine, launch)?;
        }
    }
    outputs(program, machine.memory)
}

/// Values of dims and params; every other variable has none.
fn scalars(program: &Program, inputs: &Inputs) -> Result<Vec<Option<Value>>, BindError> {
    let mut vars = vec![None; program.pool.vars().count()];
    for d in &program.dims {
        vars[d.var.0 as usize] = Some(inputs.dim(&d.name)?);
    }
    for p in &program.params {
        let ty = program.pool.var_info(p.var).ty;
        vars[p.var.0 as usize] = Some(inputs.param(&p.name, ty, p.default)?);
    }
    Ok(vars)
}

/// The value of an expression without loads.
struct Sizes<'a>(&'a [Option<Value>]);

impl crate::expr::eval::Env for Sizes<'_> {
    fn var(&self, var: VarId) -> Value {
        self.0[var.0 as usize].unwrap_or(Value::Int(0))
    }

    fn load(&self, _: crate::expr::TensorId, _: &[i64]) -> Value {
        Value::Int(0)
    }
}

fn allocate<'a>(
    program: &Program,
    decl: &super::TensorDecl,
    inputs: &'a Inputs,
    vars: &[Option<Value>],
) -> Result<Store<'a>, BindError> {
    let mut shape = Vec::new();
    for &size in &decl.shape {
        let n = crate::expr::eval::eval(&program.pool, size, &Sizes(vars)).int();
        shape.push(usize::try_from(n).map_err(|_| BindError(format!("tensor `{}`: size {n}", decl.name)))?);
    }
    Ok(match &decl.kind {
        TensorKind::Input => Store::Bound(inputs.tensor(&decl.name, &shape, decl.dtype)?),
        TensorKind::Updated => {
            Store::Scratch(Scratch::holding(inputs.tensor(&decl.name, &shape, decl.dtype)?, decl.dtype))
        }
        TensorKind::Output | TensorKind::Workspace => Store::Scratch(Scratch::new(shape, decl.dtype)),
        TensorKind::Table { vars: index, origin, value } => {
            Store::Table(table(program, decl.dtype, &shape, vars, index, origin, *value)?)
        }
    })
}

/// A table as the runtime makes it: evaluated in f64, then rounded to its storage type.
fn table(
    program: &Program,
    dtype: DType,
    shape: &[usize],
    vars: &[Option<Value>],
    index: &[VarId],
    origin: &[ExprId],
    value: ExprId,
) -> Result<View, BindError> {
    let mut vars = vars.to_vec();
    let len: usize = shape.iter().product();
    let first: Vec<i64> =
        origin.iter().map(|&x| crate::expr::eval::eval(&program.pool, x, &Sizes(&vars)).int()).collect();
    let mut entries = Vec::with_capacity(len);
    for n in 0..len {
        for (d, at) in unflatten(n, shape).into_iter().enumerate() {
            vars[index[d].0 as usize] = Some(Value::Int(first[d].wrapping_add(at as i64)));
        }
        entries.push(crate::expr::eval::eval(&program.pool, value, &Sizes(&vars)));
    }
    let data = match dtype.value_ty() {
        Ty::Float => Data::Float(entries.iter().map(|v| crate::host::round_to(dtype, v.float())).collect()),
        Ty::Int => {
            let clamp = |x: i64| x.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
            Data::Int(entries.iter().map(|v| clamp(v.int())).collect())
        }
        Ty::Bool => Data::Bool(entries.iter().map(|v| v.bool()).collect()),
    };
    View::contiguous(shape.to_vec(), data)
}

fn outputs(program: &Program, memory: Memory) -> Result<HashMap<String, View>, InterpError> {
    let mut out = HashMap::new();
    for (decl, store) in program.tensors.iter().zip(memory.stores) {
        let (TensorKind::Output | TensorKind::Updated, Store::Scratch(s)) = (&decl.kind, store) else {
            continue;
        };
        let fail = |message: String| InterpError { op: format!("output {}", decl.name), message };
        if let Some(n) = s.first_unwritten() {
            return Err(fail(format!("element {:?} is never written", unflatten(n, &s.shape))));
        }
        let data = match s.dtype.value_ty() {
            Ty::Float => Data::Float(s.data.iter().map(|x| x.float()).collect()),
            Ty::Int => Data::Int(s.data.iter().map(|x| x.int()).collect()),
            Ty::Bool => Data::Bool(s.data.iter().map(|x| x.bool()).collect()),
        };
        let view = View::contiguous(s.shape, data).map_err(|e| fail(e.0))?;
        out.insert(decl.name.clone(), view);
    }
    Ok(out)
}
