//! Concrete data for the two reference executors: `attn_ir::dense` and `tile_ir::interp`.
//!
//! Comes in: sizes, parameters and tensors by name, elements as f64, i64 or bool. Goes out: the values of
//! variables, and views that answer for any index. Floats of tensors are taken as they are: rounding them to
//! their storage type is the caller's ([`round_to`]); float parameters are rounded to f32 here, since that is
//! what a kernel receives. Not here: bytes, pointers, devices.

use std::collections::HashMap;

use crate::artifact::DType;
use crate::expr::Ty;
use crate::expr::eval::Value;

/// What is wrong with the data: names the thing, what was expected, what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BindError(pub String);

/// Elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Of a float storage type.
    Float(Vec<f64>),
    /// Of an integer storage type.
    Int(Vec<i64>),
    /// Of a `bit` tensor.
    Bool(Vec<bool>),
}

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::Float(x) => x.len(),
            Data::Int(x) => x.len(),
            Data::Bool(x) => x.len(),
        }
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Type of an element in an expression.
    pub fn ty(&self) -> Ty {
        match self {
            Data::Float(_) => Ty::Float,
            Data::Int(_) => Ty::Int,
            Data::Bool(_) => Ty::Bool,
        }
    }

    /// Element `at`, which must exist.
    pub fn value(&self, at: usize) -> Value {
        match self {
            Data::Float(x) => Value::Float(x[at]),
            Data::Int(x) => Value::Int(x[at]),
            Data::Bool(x) => Value::Bool(x[at]),
        }
    }
}

/// A tensor in its logical order of dims: element at `index` is `data[sum(index[d] * strides[d])]`.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    data: Data,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl View {
    /// Row-major data. Fails if the number of elements is not the product of the shape.
    pub fn contiguous(shape: Vec<usize>, data: Data) -> Result<View, BindError> {
        let mut strides = vec![1; shape.len()];
        for d in (1..shape.len()).rev() {
            strides[d - 1] = strides[d] * shape[d].max(1);
        }
        let len: usize = shape.iter().product();
        if len != data.len() {
            return Err(BindError(format!(
                "{} elements for the shape {shape:?}, which has {len}",
                data.len()
            )));
        }
        Ok(View { data, shape, strides })
    }

    /// Data with any strides (elements). Fails if an element would lie outside of the data.
    pub fn strided(shape: Vec<usize>, strides: Vec<usize>, data: Data) -> Result<View, BindError> {
        if shape.len() != strides.len() {
            return Err(BindError(format!("{} strides for {} dims", strides.len(), shape.len())));
        }
        let last: usize = shape.iter().zip(&strides).map(|(n, s)| n.saturating_sub(1) * s).sum();
        if !shape.contains(&0) && last >= data.len() {
            return Err(BindError(format!(
                "the last element lies at {last}, the data end at {}",
                data.len()
            )));
        }
        Ok(View { data, shape, strides })
    }

    /// Row-major data computed from the index of each element.
    pub fn from_fn(shape: &[usize], mut f: impl FnMut(&[usize]) -> f64) -> View {
        let len: usize = shape.iter().product();
        let data = (0..len).map(|n| f(&unflatten(n, shape))).collect();
        let strides = (0..shape.len()).map(|d| shape[d + 1..].iter().product()).collect();
        View { data: Data::Float(data), shape: shape.to_vec(), strides }
    }

    /// Sizes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Strides in elements.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// The elements, in memory order.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Position in [`View::data`], or `None` if the index is out of range.
    pub fn position(&self, index: &[i64]) -> Option<usize> {
        let mut at = 0;
        for (d, &x) in index.iter().enumerate() {
            let x = usize::try_from(x).ok().filter(|x| *x < self.shape[d])?;
            at += x * self.strides[d];
        }
        Some(at)
    }

    /// All elements as f64, in row-major order of the logical dims.
    pub fn to_f64_vec(&self) -> Vec<f64> {
        let n: usize = self.shape.iter().product();
        let position = |at: usize| -> usize {
            unflatten(at, &self.shape).iter().zip(&self.strides).map(|(x, s)| x * s).sum()
        };
        let element = |at: usize| match self.data.value(position(at)) {
            Value::Float(x) => x,
            Value::Int(x) => x as f64,
            Value::Bool(x) => f64::from(u8::from(x)),
        };
        (0..n).map(element).collect()
    }

    /// Replaces an element by a value of its type. Errors: the index is out of range, or the type another.
    pub fn set(&mut self, index: &[i64], value: Value) -> Result<(), BindError> {
        let Some(at) = self.position(index) else {
            return Err(BindError(format!("{index:?} is outside of {:?}", self.shape)));
        };
        match (&mut self.data, value) {
            (Data::Float(x), Value::Float(value)) => x[at] = value,
            (Data::Int(x), Value::Int(value)) => x[at] = value,
            (Data::Bool(x), Value::Bool(value)) => x[at] = value,
            (data, value) => {
                return Err(BindError(format!("a {:?} cannot hold {value:?}", data.ty())));
            }
        }
        Ok(())
    }

    /// The element, or `None` if the index is out of range.
    pub fn get(&self, index: &[i64]) -> Option<Value> {
        self.position(index).map(|at| self.data.value(at))
    }
}

/// The index of the n-th element in row-major order.
pub fn unflatten(mut n: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for d in (0..shape.len()).rev() {
        index[d] = n % shape[d];
        n /= shape[d];
    }
    index
}

/// Everything that the host binds, by name.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Run-time lengths.
    pub dims: HashMap<String, i64>,
    /// Parameters; those left out take their default.
    pub params: HashMap<String, Value>,
    /// Input tensors.
    pub tensors: HashMap<String, View>,
}

impl Inputs {
    /// The value of a run-time length: at least 0.
    pub fn dim(&self, name: &str) -> Result<Value, BindError> {
        match self.dims.get(name) {
            Some(&n) if n >= 0 => Ok(Value::Int(n)),
            Some(n) => Err(BindError(format!("dim `{name}` is {n}; sizes are at least 0"))),
            None => Err(BindError(format!("dim `{name}` has no value; bind it"))),
        }
    }

    /// The value of a parameter of this type; a float is rounded to f32.
    pub fn param(&self, name: &str, ty: Ty, default: Option<Value>) -> Result<Value, BindError> {
        let Some(value) = self.params.get(name).copied().or(default) else {
            return Err(BindError(format!("parameter `{name}` has no value and no default; bind it")));
        };
        match (value, ty) {
            (Value::Float(x), Ty::Float) => Ok(Value::Float(f64::from(x as f32))),
            (value, ty) if value.ty() == ty => Ok(value),
            (value, ty) => Err(BindError(format!("parameter `{name}` is {value:?}, expected {ty:?}"))),
        }
    }

    /// The tensor of this name, with the sizes and the element type that it must have.
    pub fn tensor(&self, name: &str, shape: &[usize], dtype: DType) -> Result<&View, BindError> {
        let Some(view) = self.tensors.get(name) else {
            return Err(BindError(format!("tensor `{name}` is not bound")));
        };
        if view.shape != shape {
            return Err(BindError(format!("tensor `{name}` has shape {:?}, expected {shape:?}", view.shape)));
        }
        if view.data.ty() != dtype.value_ty() {
            let found = view.data.ty();
            return Err(BindError(format!("tensor `{name}` holds {found:?} elements, expected {dtype}")));
        }
        Ok(view)
    }
}

/// The value nearest to x that the storage type can hold, ties to even. Integer types saturate.
pub fn round_to(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F64 => x,
        DType::F32 => f64::from(x as f32),
        DType::F16 => round_float(f64::from(x as f32), 11, -14, 65504.0),
        DType::Bf16 => round_float(f64::from(x as f32), 8, -126, f64::from(f32::from_bits(0x7f7f_0000))),
        DType::F8E4M3 => f64::from(crate::f8::decode(crate::f8::encode(x as f32))),
        DType::I8 => x.round_ties_even().clamp(-128.0, 127.0),
        DType::I32 => x.round_ties_even().clamp(f64::from(i32::MIN), f64::from(i32::MAX)),
        DType::I64 => x.round_ties_even(),
        DType::Bit => f64::from(u8::from(x != 0.0)),
    }
}

/// Rounds to `digits` binary digits with smallest normal exponent `min_exp` and largest finite value `max`.
fn round_float(x: f64, digits: i32, min_exp: i32, max: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(min_exp);
    let ulp = 2f64.powi(exponent - digits + 1);
    let rounded = (x / ulp).round_ties_even() * ulp;
    if rounded.abs() > max { f64::INFINITY.copysign(x) } else { rounded }
}

/// A small generator of pseudo-random numbers (SplitMix64, Steele, Lea and Flood 2014) for orders and test data.
#[derive(Clone, Debug)]
pub struct SplitMix(pub u64);

impl SplitMix {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in 0..n; 0 if n is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n.max(1)
    }

    /// Uniform in -1..1.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// Approximately normal, mean 0, variance 1: a sum of uniform numbers.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_half_types() {
        for (x, f16, bf16) in [
            (1.0, 1.0, 1.0),
            (1.0 + 2f64.powi(-11), 1.0, 1.0),
            (1.0 + 3.0 * 2f64.powi(-11), 1.0 + 2f64.powi(-9), 1.0),
            (1.0 + 3.0 * 2f64.powi(-8), 1.0 + 3.0 * 2f64.powi(-8), 1.0 + 2f64.powi(-6)),
            (65519.0, 65504.0, 65536.0),
            (65520.0, f64::INFINITY, 65536.0),
            (2f64.powi(-25), 0.0, 2f64.powi(-25)),
            (-3.0 * 2f64.powi(-25), -2f64.powi(-23), -3.0 * 2f64.powi(-25)),
            (f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY),
        ] {
            assert_eq!(round_to(DType::F16, x), f16, "f16 of {x}");
            assert_eq!(round_to(DType::Bf16, x), bf16, "bf16 of {x}");
        }
        assert!(round_to(DType::F16, f64::NAN).is_nan());
    }

    #[test]
    fn views_answer_for_every_index() {
        let v = View::strided(vec![2, 3], vec![1, 2], Data::Int((0..6).collect())).unwrap();
        assert_eq!(v.get(&[1, 2]), Some(Value::Int(5)));
        assert_eq!((v.get(&[2, 0]), v.get(&[0, -1])), (None, None));
        assert!(View::strided(vec![2, 3], vec![1, 3], Data::Int((0..6).collect())).is_err());
        assert!(View::contiguous(vec![4], Data::Bool(vec![true])).is_err());
    }
}
