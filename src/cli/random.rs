//! Made-up tensors: language.md, rule 13.
//!
//! Comes in: a kernel, sizes, a seed. Goes out: a tensor for each input, the same on every host: word n of a
//! tensor is word n of Philox4x32-10 with the seed as key and the tensor's place in the counter. Floats are
//! normal (Box and Muller 1958), bits are true in half of the places, ints are uniform over their valid range:
//! what indexes a dim lies in it, ids that are only compared with each other are few, everything else (lengths,
//! bounds, positions) lies in 0..=keys. Tables of pages and lengths are what kernels demand. `sorted` and `monotone`
//! ints are sorted along their last dim. Floats of a recurrence are tamed ([`made_up`]), so that its state stays finite.

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::made_up;
use attn_compiler::attn_ir::{Demand, Fact, Kernel, Step, Weight};
use attn_compiler::expr::rand::philox4x32;
use attn_compiler::expr::{BinaryOp, ExprId, Op, TensorId, UnaryOp};
use attn_runtime::{F8E4M3, RuntimeError, Tensor};
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
    asked: &Asked,
) -> Result<Tensor, RuntimeError> {
    let decl = kernel.tensor(id);
    let seed = asked.seed;
    let words = Words { key: [seed as u32, (seed >> 32) as u32], tensor: id.0 };
    if let Some(made) = demanded(kernel, scalars, id, bound, (&words, asked))? {
        return Ok(made);
    }
    let is_scale = scales_bytes(kernel, id);
    let words = &words;
    let draw = made_up::draw(kernel, id);
    let size = |e: ExprId| scalars.size(&kernel.pool, e) as i64;
    let float =
        |n: u64| if is_scale { words.normal(n).abs() * SCALE } else { draw.of(words.normal(n), &size) };
    let mut tensor = Tensor::zeros(decl.dtype, bound)?;
    macro_rules! fill {
        ($t:ty, $value:expr) => {{
            let elements = tensor.as_mut_slice::<$t>()?;
            elements.par_iter_mut().enumerate().for_each(|(n, x)| *x = $value(n as u64));
        }};
    }
    match decl.dtype {
        DType::F32 => fill!(f32, |n| float(n) as f32),
        DType::F16 => fill!(f16, |n| f16::from_f64(float(n))),
        DType::Bf16 => fill!(bf16, |n| bf16::from_f64(float(n))),
        DType::F64 => fill!(f64, float),
        DType::F8E4M3 => fill!(F8E4M3, |n| F8E4M3::from_f32(float(n) as f32)),
        DType::I8 if scaled_bytes(kernel, id) => fill!(i8, |n| (words.below(n, 255) - 127) as i8),
        DType::Bit => {
            let n_elements: usize = bound.iter().product();
            let bits: Vec<bool> = (0..n_elements as u64).map(|n| words.pair(n).0 & 1 == 1).collect();
            tensor = Tensor::from_bools(&bits, bound)?;
        }
        DType::I8 | DType::I32 | DType::I64 => {
            // Lists end with -1.
            let (limit, least) = match listed(kernel, scalars, id) {
                Some(n) => (n + 1, -1),
                None => (limit(kernel, scalars, id), 0),
            };
            let n_elements = tensor.bytes().len() / decl.dtype.size();
            let mut values: Vec<i64> =
                (0..n_elements).map(|n| words.below(n as u64, limit) + least).collect();
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

/// Made-up scales of bytes: so that rows are about as large as normal values.
const SCALE: f64 = 0.015;

/// What is asked of made-up tensors.
pub struct Asked {
    /// Seed.
    pub seed: u64,
    /// Largest length of a sequence.
    pub longest: Option<i64>,
}

/// Lengths and tables of pages. The first sequence is as long as can be, the others are shorter; tables name
/// pages of their own, in random order.
fn demanded(
    kernel: &Kernel,
    scalars: &Scalars,
    id: TensorId,
    bound: &[usize],
    (words, asked): (&Words, &Asked),
) -> Result<Option<Tensor>, RuntimeError> {
    let n_elements: usize = bound.iter().product();
    let size = |e: ExprId| scalars.size(&kernel.pool, e) as i64;
    for demand in &kernel.demands {
        let values: Vec<i32> = match demand {
            Demand::Within { tensor, lo, hi } if *tensor == id => {
                let lo = size(lo.0);
                let hi = asked.longest.map_or(size(hi.0), |n| n.clamp(0, size(hi.0))).max(lo);
                let length = |n: usize| match n {
                    0 => hi,
                    n => lo + words.below(n as u64, (hi - lo + 1) as u64),
                };
                (0..n_elements).map(|n| length(n) as i32).collect()
            }
            Demand::Pages { table, pool, .. } if *table == id => {
                let n_pages = size(kernel.tensor(*pool).shape[0]).max(1);
                let mut order: Vec<i32> = (0..n_pages as i32).collect();
                for n in (1..order.len()).rev() {
                    order.swap(n, words.below(n as u64, n as u64 + 1) as usize);
                }
                (0..n_elements).map(|n| order[n % order.len()]).collect()
            }
            _ => continue,
        };
        return Ok(Some(Tensor::from_slice(&values, bound)?));
    }
    Ok(None)
}

/// Every expression of the derived tensors.
fn derived(kernel: &Kernel) -> Vec<ExprId> {
    let value = |s: &Step| if let Step::Derive(d) = s { Some(d.value) } else { None };
    kernel.pool.reachable(&kernel.steps.iter().filter_map(value).collect::<Vec<_>>())
}

/// True of a tensor of bytes that are read as numbers.
fn scaled_bytes(kernel: &Kernel, id: TensorId) -> bool {
    derived(kernel).into_iter().any(|n| number_of(kernel, n) == Some(id))
}

fn number_of(kernel: &Kernel, node: ExprId) -> Option<TensorId> {
    let Op::Unary(UnaryOp::ToFloat, x) = kernel.pool.op(node) else { return None };
    match kernel.pool.op(*x) {
        Op::Load(t, ..) if kernel.tensor(*t).dtype == DType::I8 => Some(*t),
        _ => None,
    }
}

/// True of a tensor by whose elements such bytes are multiplied.
fn scales_bytes(kernel: &Kernel, id: TensorId) -> bool {
    let own = |e: ExprId| matches!(kernel.pool.op(e), Op::Load(t, ..) if *t == id);
    derived(kernel).into_iter().any(|n| match *kernel.pool.op(n) {
        Op::Binary(BinaryOp::Mul, a, b) => {
            (own(a) && number_of(kernel, b).is_some()) || (own(b) && number_of(kernel, a).is_some())
        }
        _ => false,
    })
}

fn sort_rows(values: &mut [i64], shape: &[usize], fact: Fact) {
    let row = shape.last().copied().unwrap_or(1);
    if fact != Fact::None && row > 0 {
        values.chunks_mut(row).for_each(<[i64]>::sort_unstable);
    }
}

/// How many numbers there are for the entries of a tensor of lists.
fn listed(kernel: &Kernel, scalars: &Scalars, id: TensorId) -> Option<u64> {
    kernel.steps.iter().find_map(|s| match s {
        Step::Count(c) if c.lists == id => {
            kernel.tensor(c.out).shape.last().map(|&n| scalars.size(&kernel.pool, n) as u64)
        }
        _ => None,
    })
}

/// One more than the largest value that elements of an int tensor may have.
fn limit(kernel: &Kernel, scalars: &Scalars, id: TensorId) -> u64 {
    let pool = &kernel.pool;
    let mut roots: Vec<ExprId> = Vec::new();
    for step in &kernel.steps {
        match step {
            Step::Derive(d) => roots.push(d.value),
            Step::Top(_) | Step::Count(_) => {}
            Step::Rank(r) => roots.extend([r.value, r.seen]),
            Step::Accumulate(_) => {}
            Step::Recur(r) => roots.extend(r.exprs()),
            Step::Write(w) => roots.push(w.value),
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
            let caps = kernel.attentions().map(|a| a.capacity());
            let lengths = caps.chain(kernel.recurrences().map(|r| r.steps));
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
