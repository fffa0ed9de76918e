//! Made-up tensors: language.md, rule 13.
//!
//! Comes in: a kernel, sizes, a seed. Goes out: a tensor for each input, the same on every host: word n of a
//! tensor is word n of Philox4x32-10 with the seed as key and the tensor's place in the counter. Floats are
//! normal (Box and Muller 1958), bits are true in half of the places, ints are uniform over their valid range:
//! what indexes a dim lies in it, ids that are only compared with each other are few, everything else (lengths,
//! bounds, positions) lies in 0..=keys. `sorted` and `monotone` ints are sorted along their last dim. Floats of a
//! recurrence are tamed ([`made_up`]), so that its state stays finite.

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::made_up;
use attn_compiler::attn_ir::{Fact, Kernel, Step, Weight};
use attn_compiler::expr::rand::philox4x32;
use attn_compiler::expr::{BinaryOp, ExprId, Op, TensorId};
use attn_runtime::{RuntimeError, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use super::data::Scalars;

/// Ids that are only compared for equality: few, so that equal ones occur.
const N_IDS: u64 = 8;
/// Keeps these draws apart from dropout (0..) and random blocks (1) of the same seed.
const STREAM: u32 = 2;

/// Words of one tensor.
struct Words {
    key: [u32; 2],
    tensor: u32,
}

impl Words {
    /// Two words of element n.
    fn pair(&self, n: u64) -> (u32, u32) {
        let block = philox4x32([(n / 2) as u32, ((n / 2) >> 32) as u32, self.tensor, STREAM], self.key);
        let at = (n % 2) as usize * 2;
        (block[at], block[at + 1])
    }

    fn normal(&self, n: u64) -> f64 {
        let (a, b) = self.pair(n);
        let open = (f64::from(a) + 1.0) / 4_294_967_297.0;
        (-2.0 * open.ln()).sqrt() * (std::f64::consts::TAU * f64::from(b) / 4_294_967_296.0).cos()
    }

    fn below(&self, n: u64, limit: u64) -> i64 {
        let (a, b) = self.pair(n);
        ((u64::from(a) << 32 | u64::from(b)) % limit.max(1)) as i64
    }
}

/// A tensor of `bound` sizes (in memory order) for input `id`.
pub fn tensor(
    kernel: &Kernel,
    scalars: &Scalars,
    id: TensorId,
    bound: &[usize],
    seed: u64,
) -> Result<Tensor, RuntimeError> {
    let decl = kernel.tensor(id);
    let words = Words { key: [seed as u32, (seed >> 32) as u32], tensor: id.0 };
    let draw = made_up::draw(kernel, id);
    let size = |e: ExprId| scalars.size(&kernel.pool, e) as i64;
    let normal = |n: u64| draw.of(words.normal(n), &size);
    let mut tensor = Tensor::zeros(decl.dtype, bound)?;
    macro_rules! fill {
        ($t:ty, $value:expr) => {{
            let elements = tensor.as_mut_slice::<$t>()?;
            elements.par_iter_mut().enumerate().for_each(|(n, x)| *x = $value(n as u64));
        }};
    }
    match decl.dtype {
        DType::F32 => fill!(f32, |n| normal(n) as f32),
        DType::F16 => fill!(f16, |n| f16::from_f64(normal(n))),
        DType::Bf16 => fill!(bf16, |n| bf16::from_f64(normal(n))),
        DType::F64 => fill!(f64, normal),
        DType::Bit => {
            let n_elements: usize = bound.iter().product();
            let bits: Vec<bool> = (0..n_elements as u64).map(|n| words.pair(n).0 & 1 == 1).collect();
            tensor = Tensor::from_bools(&bits, bound)?;
        }
        DType::I8 | DType::I32 | DType::I64 => {
            let limit = limit(kernel, scalars, id);
            let mut values: Vec<i64> =
                (0..tensor.bytes().len() / decl.dtype.size()).map(|n| words.below(n as u64, limit)).collect();
            sort_rows(&mut values, bound, decl.fact);
            match decl.dtype {
                DType::I8 => fill!(i8, |n| values[n as usize].min(127) as i8),
                DType::I32 => fill!(i32, |n| values[n as usize] as i32),
                _ => fill!(i64, |n| values[n as usize]),
            }
        }
    }
    Ok(tensor)
}

fn sort_rows(values: &mut [i64], shape: &[usize], fact: Fact) {
    let row = shape.last().copied().unwrap_or(1);
    if fact != Fact::None && row > 0 {
        values.chunks_mut(row).for_each(<[i64]>::sort_unstable);
    }
}

/// One more than the largest value that elements of an int tensor may have.
fn limit(kernel: &Kernel, scalars: &Scalars, id: TensorId) -> u64 {
    let pool = &kernel.pool;
    let mut roots: Vec<ExprId> = Vec::new();
    for step in &kernel.steps {
        match step {
            Step::Derive(d) => roots.push(d.value),
            Step::Accumulate(_) => {}
            Step::Recur(r) => roots.extend(r.exprs()),
            Step::Attend(a) => {
                let sink = if let Weight::Softmax { sink } = a.weight { sink } else { None };
                roots.extend([a.score, a.mask].into_iter().chain(sink));
            }
        }
    }
    let is_own = |e: ExprId| matches!(pool.op(e), Op::Load(t, ..) if *t == id);
    let mut as_index: Option<usize> = None;
    let mut as_id = false;
    for node in pool.reachable(&roots) {
        match pool.op(node) {
            Op::Load(t, index, _) => {
                for (dim, _) in index.iter().enumerate().filter(|(_, e)| is_own(**e)) {
                    let size = scalars.size(pool, kernel.tensor(*t).shape[dim]);
                    as_index = Some(as_index.map_or(size, |n| n.min(size)));
                }
            }
            Op::Binary(BinaryOp::Eq | BinaryOp::Ne, a, b) => as_id |= is_own(*a) && is_own(*b),
            _ => {}
        }
    }
    match (as_index, as_id) {
        (Some(size), _) => size as u64,
        (None, true) => N_IDS,
        (None, false) => {
            let lengths = kernel.attentions().map(|a| a.seq_k).chain(kernel.recurrences().map(|r| r.steps));
            let longest = lengths.map(|n| scalars.size(pool, n)).max();
            longest.unwrap_or(0) as u64 + 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_values_have_mean_0_and_variance_1() {
        let words = Words { key: [7, 0], tensor: 3 };
        let x: Vec<f64> = (0..20_000).map(|n| words.normal(n)).collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        assert_ne!(words.normal(0), Words { key: [8, 0], tensor: 3 }.normal(0));
    }

    #[test]
    fn rows_are_sorted_only_where_promised() {
        let mut values = vec![3, 1, 2, 0];
        sort_rows(&mut values, &[2, 2], Fact::None);
        assert_eq!(values, [3, 1, 2, 0]);
        sort_rows(&mut values, &[2, 2], Fact::Sorted);
        assert_eq!(values, [1, 3, 0, 2]);
    }
}
