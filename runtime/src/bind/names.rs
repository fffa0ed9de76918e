//! Names: which bound thing is which argument, and parameter values.
//!
//! Comes in: names as the host wrote them. Goes out: for each input and output its place in the call; the value
//! of each parameter. Errors name the nearest known name. Deliberately not done: case folding, prefixes.

use attn_compiler::artifact::ScalarSpec;
use attn_compiler::expr::Ty;
use attn_compiler::expr::eval::Value;

use super::{NamedInput, NamedOutput, NamedParam};
use crate::error::{DataFault, RuntimeError, nearest};
use crate::signature::Signature;

/// For each tensor of the artifact, its place among the bound inputs or outputs.
pub(super) type Places = Vec<usize>;

pub(super) fn match_tensors(
    sig: &Signature,
    inputs: &[NamedInput<'_, '_>],
    outputs: &[NamedOutput<'_, '_>],
    places: &mut Places,
) -> Result<(), RuntimeError> {
    match_side(sig, &sig.inputs, "input", inputs.len(), &|n| inputs[n].0, places)?;
    match_side(sig, &sig.outputs, "output", outputs.len(), &|n| outputs[n].0, places)
}

fn match_side<'a>(
    sig: &Signature,
    wanted: &[usize],
    side: &str,
    n_bound: usize,
    name: &dyn Fn(usize) -> &'a str,
    places: &mut Places,
) -> Result<(), RuntimeError> {
    let spec_name = |t: usize| sig.artifact.tensors[t].name.as_str();
    for n in 0..n_bound {
        if !wanted.iter().any(|&t| spec_name(t) == name(n)) {
            let known: Vec<&str> = wanted.iter().map(|&t| spec_name(t)).collect();
            return Err(unknown(sig, side, name(n), &known));
        }
        if (0..n).any(|m| name(m) == name(n)) {
            let message = format!("{side} `{}` is bound twice; bind it once", name(n));
            return Err(RuntimeError::data(DataFault::Name, message));
        }
    }
    for &t in wanted {
        match (0..n_bound).find(|&n| name(n) == spec_name(t)) {
            Some(n) => places[t] = n,
            None => {
                let spec = &sig.artifact.tensors[t];
                let message = format!(
                    "{side} `{}` ({}, {} dims) is not bound; kernel `{}` needs it",
                    spec.name,
                    spec.dtype,
                    spec.shape.len(),
                    sig.artifact.name
                );
                return Err(RuntimeError::data(DataFault::Missing, message));
            }
        }
    }
    Ok(())
}

fn unknown(sig: &Signature, side: &str, name: &str, known: &[&str]) -> RuntimeError {
    let kernel = &sig.artifact.name;
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("it has no {side}s"),
        None => format!("its {side}s are {}", known.join(", ")),
    };
    RuntimeError::data(DataFault::Name, format!("kernel `{kernel}` has no {side} `{name}`; {hint}"))
}

/// Reads the parameters into `values`, as the kernel will see them (floats rounded to f32).
pub(super) fn read_params(
    sig: &Signature,
    params: &[NamedParam<'_>],
    values: &mut [Value],
) -> Result<(), RuntimeError> {
    check_param_names(sig, params)?;
    for s in sig.artifact.scalars.iter().filter(|s| !s.is_dim) {
        let given = params.iter().find(|(name, _)| *name == s.name).map(|(_, v)| *v).or(s.default);
        let Some(given) = given else {
            let message = format!("parameter `{}` has no default and is not given; give it a value", s.name);
            return Err(RuntimeError::data(DataFault::Missing, message));
        };
        values[s.var.0 as usize] = convert(s, sig.artifact.pool.var_info(s.var).ty, given)?;
    }
    Ok(())
}

/// The parameters given, each with its place among the scalars, converted.
pub(super) fn given_params(
    sig: &Signature,
    params: &[NamedParam<'_>],
) -> Result<Vec<(usize, Value)>, RuntimeError> {
    check_param_names(sig, params)?;
    let scalars = sig.artifact.scalars.iter().enumerate();
    let given = scalars.filter_map(|(n, s)| Some((n, s, params.iter().find(|(name, _)| *name == s.name)?.1)));
    given.map(|(n, s, v)| Ok((n, convert(s, sig.artifact.pool.var_info(s.var).ty, v)?))).collect()
}

fn check_param_names(sig: &Signature, params: &[NamedParam<'_>]) -> Result<(), RuntimeError> {
    let scalars = &sig.artifact.scalars;
    for (n, (name, _)) in params.iter().enumerate() {
        if !scalars.iter().any(|s| !s.is_dim && s.name == *name) {
            if scalars.iter().any(|s| s.name == *name) {
                let message =
                    format!("`{name}` is a dim, read from the bound tensors; do not give it as a parameter");
                return Err(RuntimeError::data(DataFault::Name, message));
            }
            let known: Vec<&str> = scalars.iter().filter(|s| !s.is_dim).map(|s| s.name.as_str()).collect();
            return Err(unknown(sig, "parameter", name, &known));
        }
        if params[..n].iter().any(|(other, _)| other == name) {
            let message = format!("parameter `{name}` is given twice; give it once");
            return Err(RuntimeError::data(DataFault::Name, message));
        }
    }
    Ok(())
}

/// Reads dims given by name, for questions asked before anything is bound. Dims that the kernel has specialised
/// are not among its scalars and are passed over.
pub(super) fn given_dims(
    sig: &Signature,
    dims: &[(&str, i64)],
    values: &mut [Value],
) -> Result<(), RuntimeError> {
    for s in sig.artifact.scalars.iter().filter(|s| s.is_dim) {
        let Some((_, n)) = dims.iter().find(|(name, _)| *name == s.name) else {
            let message = format!("dim `{}` is not given; give it a length", s.name);
            return Err(RuntimeError::data(DataFault::Missing, message));
        };
        if !(0..super::sizes::MAX_LENGTH).contains(n) {
            let message = format!("dim `{}` is {n}, expected 0 to 2^30 - 1", s.name);
            return Err(RuntimeError::data(DataFault::Size, message));
        }
        values[s.var.0 as usize] = Value::Int(*n);
    }
    Ok(())
}

/// The value in the parameter's type and range: ints fit i32 but for keys of random words, floats f32.
fn convert(spec: &ScalarSpec, ty: Ty, given: Value) -> Result<Value, RuntimeError> {
    let name = &spec.name;
    match (ty, given) {
        (Ty::Bool, Value::Bool(_)) => Ok(given),
        (Ty::Int, Value::Int(x)) if spec.wide || i32::try_from(x).is_ok() => Ok(given),
        (Ty::Int, Value::Int(x)) => Err(RuntimeError::data(
            DataFault::Value,
            format!("parameter `{name}` is {x}, expected {} to {}", i32::MIN, i32::MAX),
        )),
        (Ty::Float, Value::Float(x)) => to_f32(name, x),
        (Ty::Float, Value::Int(x)) => to_f32(name, x as f64),
        _ => Err(RuntimeError::data(
            DataFault::DType,
            format!("parameter `{name}` is {}, found {}", type_name(ty), type_name(given.ty())),
        )),
    }
}

fn to_f32(name: &str, x: f64) -> Result<Value, RuntimeError> {
    let rounded = x as f32;
    if x.is_finite() && !rounded.is_finite() {
        let message =
            format!("parameter `{name}` is {x}, beyond the range of f32 (3.4e38); give a smaller one");
        return Err(RuntimeError::data(DataFault::Value, message));
    }
    Ok(Value::Float(f64::from(rounded)))
}

fn type_name(ty: Ty) -> &'static str {
    match ty {
        Ty::Bool => "a bool",
        Ty::Int => "an int",
        Ty::Float => "a float",
    }
}
