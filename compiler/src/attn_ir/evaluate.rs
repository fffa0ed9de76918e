//! The meaning of a whole [`Kernel`]: its steps in f64, one after the other.
//!
//! Comes in: a kernel and concrete inputs. Goes out: every output in the logical order of its dims, and the largest
//! |score| of all attentions. What holds: made tensors are kept in f64, whatever their storage type; only what the
//! language declares is rounded (`round32`, tables). Loads out of range give 0: the conditions around them exclude
//! their use. Not here: threads; [`evaluate_with`] takes the evaluation of one attention from the caller.

mod choose;

use std::collections::HashMap;

use super::dense::{self, RowResults};
use super::write::quantise;
use super::{Accumulate, Attention, Derive, Kernel, Origin, OutputKind, Step, Tensor, Write};
use crate::artifact::DType;
use crate::expr::eval::{Env, Value, eval};
use crate::expr::{ExprId, TensorId, Ty, VarId};
use crate::host::{BindError, Data, Inputs, View, unflatten};

/// What a kernel returns.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Outputs, and tensors that were updated in place, by name; dims in logical order.
    pub outputs: HashMap<String, View>,
    /// Largest finite |score|, 0 without any.
    pub max_abs_score: f64,
}

/// Evaluates one attention.
pub type Attend<'a> = dyn FnMut(&Attention, &Inputs) -> Result<RowResults, BindError> + 'a;

/// Stands in for what a write leaves in a tensor, for all later steps: another execution's result of the same
/// write, so that what follows is compared apart from where a rounding fell.
pub type Given = HashMap<String, View>;

/// Evaluates all steps on one thread.
///
/// # Errors
/// Data that do not fit the declarations.
pub fn evaluate(kernel: &Kernel, inputs: Inputs) -> Result<Results, BindError> {
    evaluate_with(kernel, inputs, &Given::new(), &mut |a, data| dense::evaluate(a, data))
}

/// As [`evaluate`]; attentions are evaluated by `attend`. The results hold what writes leave by themselves, whatever
/// is `given` to later steps.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_with(
    kernel: &Kernel,
    mut inputs: Inputs,
    given: &Given,
    attend: &mut Attend<'_>,
) -> Result<Results, BindError> {
    let vars = scalars(kernel, &inputs)?;
    let mut results = Results::default();
    for (_, t) in kernel.inputs() {
        inputs.tensor(&t.name, &shape(kernel, &vars, t), t.dtype)?;
    }
    steps(kernel, &vars, &mut inputs, given, attend, &mut results)?;
    Ok(results)
}

/// What steps of a kernel make of those inputs that they read; `kernel` holds these steps alone (see
/// [`super::needed::needed`]). Inputs that they do not read may be missing.
///
/// # Errors
/// As [`evaluate`].
pub fn made(kernel: &Kernel, mut inputs: Inputs) -> Result<HashMap<String, View>, BindError> {
    let vars = scalars(kernel, &inputs)?;
    let mut attend = |a: &Attention, data: &Inputs| dense::evaluate(a, data);
    steps(kernel, &vars, &mut inputs, &Given::new(), &mut attend, &mut Results::default())?;
    Ok(inputs.tensors)
}

fn steps(
    kernel: &Kernel,
    vars: &[Value],
    inputs: &mut Inputs,
    given: &Given,
    attend: &mut Attend<'_>,
    results: &mut Results,
) -> Result<(), BindError> {
    for step in &kernel.steps {
        match step {
            Step::Write(w) => {
                for (id, view) in write(kernel, w, vars, inputs)? {
                    let name = &kernel.tensor(id).name;
                    let seen = given.get(name).unwrap_or(&view).clone();
                    inputs.tensors.insert(name.clone(), seen);
                    results.outputs.insert(name.clone(), view);
                }
            }
            Step::Derive(d) => {
                let view = derive(kernel, d, vars, inputs)?;
                let t = kernel.tensor(d.out);
                keep(t, view, inputs, results);
            }
            Step::Top(top) => {
                let made = choose::top(kernel, top, &At::new(kernel, vars, inputs))?;
                keep_all(kernel, made, inputs, results);
            }
            Step::Count(count) => {
                let made = choose::count(kernel, count, &At::new(kernel, vars, inputs))?;
                keep_all(kernel, made, inputs, results);
            }
            Step::Rank(rank) => {
                let made = choose::rank(kernel, rank, At::new(kernel, vars, inputs))?;
                keep_all(kernel, made, inputs, results);
            }
            Step::Accumulate(s) => {
                let [hi, lo] = accumulate(kernel, s, inputs)?;
                keep(kernel.tensor(s.hi), hi, inputs, results);
                keep(kernel.tensor(s.lo), lo, inputs, results);
            }
            Step::Recur(r) => {
                let sizes = |id: TensorId| shape(kernel, vars, kernel.tensor(id));
                let stored = super::recur::evaluate(kernel, r, vars, inputs, &sizes)?;
                for (read, view) in r.reads.iter().zip(stored.reads) {
                    keep(kernel.tensor(read.rows.tensor), view, inputs, results);
                }
                for (state, view) in r.states.iter().zip(stored.last) {
                    if let (Some(id), Some(view)) = (state.last, view) {
                        keep(kernel.tensor(id), view, inputs, results);
                    }
                }
            }
            Step::Attend(a) => {
                let found = attend(a, inputs)?;
                results.max_abs_score = results.max_abs_score.max(found.max_abs_score);
                for out in &a.outputs {
                    let Some(id) = kernel.find(&out.name) else { continue };
                    let t = kernel.tensor(id);
                    let view = placed(a, out.kind, &shape(kernel, vars, t), &found)?;
                    keep(t, view, inputs, results);
                }
            }
        }
    }
    Ok(())
}

fn keep(t: &Tensor, view: View, inputs: &mut Inputs, results: &mut Results) {
    if t.origin == Origin::Output {
        results.outputs.insert(t.name.clone(), view);
    } else {
        inputs.tensors.insert(t.name.clone(), view);
    }
}

fn keep_all<const N: usize>(
    kernel: &Kernel,
    made: [(TensorId, View); N],
    inputs: &mut Inputs,
    results: &mut Results,
) {
    for (id, view) in made {
        keep(kernel.tensor(id), view, inputs, results);
    }
}

/// Values of dims and params by variable; every other variable holds a 0 of its type.
///
/// # Errors
/// A dim or parameter without a value.
pub fn scalars(kernel: &Kernel, inputs: &Inputs) -> Result<Vec<Value>, BindError> {
    let zero = |ty| match ty {
        Ty::Bool => Value::Bool(false),
        Ty::Int => Value::Int(0),
        Ty::Float => Value::Float(0.0),
    };
    let mut vars: Vec<Value> = kernel.pool.vars().map(|(_, v)| zero(v.ty)).collect();
    for (name, var) in kernel.runtime_dims() {
        vars[var.0 as usize] = inputs.dim(&name)?;
    }
    for p in &kernel.params {
        vars[p.var.0 as usize] = inputs.param(&p.name, kernel.pool.var_info(p.var).ty, p.default)?;
    }
    Ok(vars)
}

/// Variables and views of a derivation.
struct At<'a> {
    vars: Vec<Value>,
    views: Vec<Option<&'a View>>,
    /// Type of the elements of each tensor.
    types: Vec<Ty>,
}

impl<'a> At<'a> {
    fn new(kernel: &Kernel, vars: &[Value], inputs: &'a Inputs) -> At<'a> {
        let views = kernel.tensors.iter().map(|t| inputs.tensors.get(&t.name)).collect();
        let types = kernel.tensors.iter().map(|t| t.dtype.value_ty()).collect();
        At { vars: vars.to_vec(), views, types }
    }

    fn element(&self, tensor: TensorId, index: &[i64]) -> Value {
        self.load(tensor, index)
    }
}

impl Env for At<'_> {
    fn var(&self, var: VarId) -> Value {
        self.vars[var.0 as usize]
    }

    fn load(&self, tensor: TensorId, index: &[i64]) -> Value {
        let n = tensor.0 as usize;
        let zero = match self.types[n] {
            Ty::Float => Value::Float(0.0),
            Ty::Int => Value::Int(0),
            Ty::Bool => Value::Bool(false),
        };
        self.views[n].and_then(|v| v.get(index)).unwrap_or(zero)
    }
}

fn shape(kernel: &Kernel, vars: &[Value], t: &Tensor) -> Vec<usize> {
    let at = At { vars: vars.to_vec(), views: Vec::new(), types: Vec::new() };
    let size = |&id: &ExprId| usize::try_from(eval(&kernel.pool, id, &at).int()).unwrap_or(0);
    t.shape.iter().map(size).collect()
}

fn derive(kernel: &Kernel, d: &Derive, vars: &[Value], inputs: &Inputs) -> Result<View, BindError> {
    let out = kernel.tensor(d.out);
    let mut at = At::new(kernel, vars, inputs);
    let shape = shape(kernel, vars, out);
    let extents: Vec<i64> = d.sum.iter().map(|(_, n)| eval(&kernel.pool, *n, &at).int().max(0)).collect();
    let n_terms: i64 = extents.iter().product();
    let mut values = Vec::new();
    for n in 0..shape.iter().product() {
        for (var, x) in d.index.iter().zip(unflatten(n, &shape)) {
            at.vars[var.0 as usize] = Value::Int(x as i64);
        }
        let mut sum: Option<Value> = None;
        for term in 0..n_terms {
            let mut rest = term;
            for ((var, _), extent) in d.sum.iter().zip(&extents).rev() {
                at.vars[var.0 as usize] = Value::Int(rest % extent);
                rest /= extent;
            }
            let value = eval(&kernel.pool, d.value, &at);
            sum = Some(sum.map_or(value, |s| add(s, value)));
        }
        values.push(sum.unwrap_or(Value::Float(0.0)));
    }
    let data = match out.dtype.value_ty() {
        Ty::Float => Data::Float(values.iter().map(|v| rounded(d, out.dtype, v.float())).collect()),
        Ty::Int => Data::Int(values.iter().map(|v| v.int()).collect()),
        Ty::Bool => Data::Bool(values.iter().map(|v| v.bool()).collect()),
    };
    View::contiguous(shape, data)
}

/// Running sums in f64: their f32 parts, and what those leave.
fn accumulate(kernel: &Kernel, s: &Accumulate, inputs: &Inputs) -> Result<[View; 2], BindError> {
    let name = &kernel.tensor(s.source).name;
    let Some(source) = inputs.tensors.get(name) else {
        return Err(BindError(format!("tensor `{name}` is missing")));
    };
    let shape = source.shape().to_vec();
    let n = shape.last().copied().unwrap_or(1);
    let (mut hi, mut lo, mut sum) = (Vec::new(), Vec::new(), 0.0);
    for at in 0..shape.iter().product::<usize>() {
        let index: Vec<i64> = unflatten(at, &shape).into_iter().map(|x| x as i64).collect();
        let x = source.get(&index).map_or(0.0, |v| v.float());
        sum = if at % n == 0 { x } else { sum + x };
        let part = f64::from(sum as f32);
        hi.push(part);
        lo.push(if part.is_finite() { sum - part } else { 0.0 });
    }
    Ok([View::contiguous(shape.clone(), Data::Float(hi))?, View::contiguous(shape, Data::Float(lo))?])
}

/// What a write leaves in the tensors that it writes.
fn write(
    kernel: &Kernel,
    w: &Write,
    vars: &[Value],
    inputs: &Inputs,
) -> Result<Vec<(TensorId, View)>, BindError> {
    let views = kernel.tensors.iter().map(|t| inputs.tensors.get(&t.name)).collect();
    let types = kernel.tensors.iter().map(|t| t.dtype.value_ty()).collect();
    let mut at = At { vars: vars.to_vec(), views, types };
    let mut held = Vec::new();
    for id in [Some(w.out), w.scale.as_ref().map(|s| s.out)].into_iter().flatten() {
        let t = kernel.tensor(id);
        held.push((id, inputs.tensor(&t.name, &shape(kernel, vars, t), t.dtype)?.clone()));
    }
    let extents: Vec<usize> =
        w.rows.iter().map(|(_, n)| usize::try_from(eval(&kernel.pool, *n, &at).int()).unwrap_or(0)).collect();
    for n in 0..extents.iter().product() {
        for ((var, _), x) in w.rows.iter().zip(unflatten(n, &extents)) {
            at.vars[var.0 as usize] = Value::Int(x as i64);
        }
        let mut row = Vec::new();
        for x in 0..w.feature.1 {
            at.vars[w.feature.0.0 as usize] = Value::Int(x);
            row.push(eval(&kernel.pool, w.value, &at).float());
        }
        let place = |place: &[ExprId]| -> Vec<i64> {
            place.iter().map(|x| eval(&kernel.pool, *x, &at).int()).collect()
        };
        let mut to = place(&w.place);
        let dtype = kernel.tensor(w.out).dtype;
        let stored: Vec<Value> = match &w.scale {
            Some(s) => {
                let (q, a) = quantise(&row, kernel.tensor(s.out).dtype, s.limit);
                held[1].1.set(&place(&s.place), Value::Float(a))?;
                q.into_iter().map(Value::Int).collect()
            }
            None => row.into_iter().map(|x| Value::Float(crate::host::round_to(dtype, x))).collect(),
        };
        to.push(0);
        for (x, value) in stored.into_iter().enumerate() {
            if let Some(last) = to.last_mut() {
                *last = x as i64;
            }
            held[0].1.set(&to, value)?;
        }
    }
    Ok(held)
}

/// A table is what every target reads: rounded as it is stored.
fn rounded(d: &Derive, dtype: DType, x: f64) -> f64 {
    if d.at_bind { crate::host::round_to(dtype, x) } else { x }
}

fn add(a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.wrapping_add(b)),
        (Value::Bool(a), Value::Bool(b)) => Value::Bool(a || b),
        (a, b) => Value::Float(a.float() + b.float()),
    }
}

/// Results of an attention, `[batch, heads, rows, ...]`, as a tensor whose dims stand as the query's do.
fn placed(a: &Attention, kind: OutputKind, shape: &[usize], found: &RowResults) -> Result<View, BindError> {
    let query = a.dots[0].x;
    let data = match kind {
        OutputKind::O => &found.o,
        OutputKind::Lse => &found.lse,
        OutputKind::MaxLogit => &found.max_logit,
    };
    let mut order: Vec<usize> = [query.batch, query.head, Some(query.seq)].into_iter().flatten().collect();
    match kind {
        OutputKind::O => order.push(query.feature),
        _ => order.iter_mut().for_each(|d| *d -= usize::from(*d > query.feature)),
    }
    let mut strides = vec![0; shape.len()];
    let mut step = 1;
    for &d in order.iter().rev() {
        strides[d] = step;
        step *= shape[d];
    }
    View::strided(shape.to_vec(), strides, Data::Float(data.clone()))
}
