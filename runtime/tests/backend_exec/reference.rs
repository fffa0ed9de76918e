//! What an expression must give: `expr::eval`, node by node, with every float rounded to f32.
//!
//! Rounding the f64 result of one operation on f32 values is the f32 operation (53 >= 2 * 24 + 2) for sums,
//! products, quotients and roots. Two operations are not of that kind and are written out.

use std::collections::HashMap;

use attn_compiler::artifact::DType;
use attn_compiler::expr::eval::{Value, binary, unary};
use attn_compiler::expr::{ExprId, Op, Pool, UnaryOp, VarId};
use half::{bf16, f16};

use crate::exec::HostTensor;

/// Values of variables and tensors.
pub struct Env<'a> {
    pub vars: HashMap<VarId, Value>,
    pub tensors: &'a [HostTensor],
}

/// The value of `root`.
pub fn value(pool: &Pool, root: ExprId, env: &Env) -> Value {
    let mut known: HashMap<ExprId, Value> = HashMap::new();
    for id in pool.reachable(&[root]) {
        let value = match pool.op(id) {
            Op::Var(v) => env.vars[v],
            Op::Load(t, index, _) => {
                let at: Vec<i64> = index.iter().map(|x| known[x].int()).collect();
                element(&env.tensors[t.0 as usize], &at)
            }
            Op::Unary(UnaryOp::Rsqrt, x) => Value::Float(f64::from(1.0 / (known[x].float() as f32).sqrt())),
            Op::Unary(UnaryOp::ToFloat, x) => Value::Float(f64::from(known[x].int() as f32)),
            Op::Unary(op, x) => unary(*op, known[x]),
            Op::Binary(op, a, b) => binary(*op, known[a], known[b]),
            Op::Select(c, a, b) => {
                if known[c].bool() {
                    known[a]
                } else {
                    known[b]
                }
            }
            _ => pool.as_const(id).expect("a constant"),
        };
        let rounded = match value {
            Value::Float(x) => Value::Float(f64::from(x as f32)),
            other => other,
        };
        known.insert(id, rounded);
    }
    known[&root]
}

/// The element, at index 0 of every dim whose index is out of range.
fn element(tensor: &HostTensor, index: &[i64]) -> Value {
    let at: Vec<i64> =
        index.iter().zip(&tensor.shape).map(|(&i, n)| if (0..*n).contains(&i) { i } else { 0 }).collect();
    decode(tensor.dtype, tensor.element(&at))
}

/// The value of a stored element.
pub fn decode(dtype: DType, b: &[u8]) -> Value {
    let four = || [b[0], b[1], b[2], b[3]];
    let eight = || [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]];
    match dtype {
        DType::F32 => Value::Float(f64::from(f32::from_le_bytes(four()))),
        DType::F16 => Value::Float(f16::from_le_bytes([b[0], b[1]]).to_f64()),
        DType::Bf16 => Value::Float(bf16::from_le_bytes([b[0], b[1]]).to_f64()),
        DType::F64 => Value::Float(f64::from_le_bytes(eight())),
        DType::I8 => Value::Int(i64::from(b[0] as i8)),
        DType::I32 => Value::Int(i64::from(i32::from_le_bytes(four()))),
        DType::I64 => Value::Int(i64::from_le_bytes(eight())),
        DType::Bit => Value::Bool(b[0] != 0),
        DType::F8E4M3 => Value::Float(f64::from(attn_compiler::f8::decode(b[0]))),
    }
}

/// Equal bits, or both NaN.
pub fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}
