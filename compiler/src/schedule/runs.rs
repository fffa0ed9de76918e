//! How many runs the keys fall into, so that few query tiles with many keys still fill a machine (Flash-Decoding: Dao et
//! al. 2023).
//!
//! Comes in: an [`Attention`], its query tiles, what fills a target. Goes out: a rule ([`Fill`]) and the number of runs as an
//! expression of lengths. What holds: it names neither threads nor a device, so a result has the same bits wherever it is
//! computed; there is no rule where the number would always be 1, where the text fixes runs or asks for results that do
//! not depend on the batch, and where the mask lets each row see keys near it only. Not here: where the runs lie and how
//! their results are merged (`lower::merge`).

use crate::attn_ir::{Attention, Dim};
use crate::expr::range::{Range, RangeEnv, range};
use crate::expr::{ExprId, Op, Pool, TensorId, VarId};

/// What fills a target.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Tasks.
    pub tasks: i64,
    /// Fewest keys of a run.
    pub keys: i64,
}

/// Of a CPU: cores enough, and runs beside which starting a task and merging its result weigh nothing. A square attention
/// of 64 rows to a tile fills it as soon as it has keys for two runs.
pub const CPU: Machine = Machine { tasks: 32, keys: 1024 };

/// Of a GPU: a block for each of the 132 multiprocessors of the largest. A prefill that fills those is not cut.
pub const GPU: Machine = Machine { tasks: 132, keys: 256 };

/// The rule: as many runs as make `tasks` tasks, each of at least `keys` keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Tasks that fill the machine.
    pub tasks: i64,
    /// Fewest keys of a run, whole tiles.
    pub keys: i64,
}

/// The lengths of a plan: what the text promises of dims, and what the runtime refuses.
struct Lengths<'a> {
    pool: &'a Pool,
    dims: &'a [Dim],
}

/// Lengths are below this: the runtime refuses larger ones.
const MAX_LEN: i64 = (1 << 30) - 1;

impl RangeEnv for Lengths<'_> {
    fn var(&self, var: VarId) -> Range {
        let of = |d: &&Dim| matches!(self.pool.op(d.size), Op::Var(v) if *v == var);
        let bounds = self.dims.iter().find(of).and_then(|d| d.bounds);
        let (lo, hi) = bounds.unwrap_or((1, MAX_LEN));
        // Where a length is 0 there is nothing to compute, in however many runs.
        Range { lo: lo.max(1), hi: hi.min(MAX_LEN) }
    }

    fn tensor(&self, _: TensorId) -> Range {
        Range::ALL
    }
}

/// Most rows of a query tile that there can be: those that lengths promise.
pub fn most_queries(attn: &Attention) -> i64 {
    queries(attn).hi
}

/// Query rows by what lengths promise; where there are none there is nothing to compute.
pub fn queries(attn: &Attention) -> Range {
    range(&attn.pool, attn.seq_q, &Lengths { pool: &attn.pool, dims: &attn.dims })
}

/// The rule for an attention with these tiles; `near` says that rows see keys near them only.
pub fn fill(
    attn: &Attention,
    (tile_q, heads, tile_kv): (i64, i64, i64),
    machine: Machine,
    near: bool,
) -> Option<Fill> {
    if near || attn.numerics.split.is_some() || attn.numerics.batch_invariant {
        return None;
    }
    let keys = (machine.keys + tile_kv - 1) / tile_kv * tile_kv;
    let fill = Fill { tasks: machine.tasks, keys };
    let mut pool = attn.pool.clone();
    let runs = fill.runs(attn, &mut pool, (tile_q, heads));
    (range(&pool, runs, &Lengths { pool: &pool, dims: &attn.dims }).hi > 1).then_some(fill)
}

impl Fill {
    /// The number of runs, at least 1: an int expression of lengths.
    pub fn runs(&self, attn: &Attention, pool: &mut Pool, (tile_q, heads): (i64, i64)) -> ExprId {
        let (one, full) = (pool.int(1), pool.int(self.tasks));
        // Beyond `full` it does not matter how many there are, and the product stays small.
        let batch = pool.min(attn.batch, full);
        let tiles = pool.ceil_div(attn.seq_q, tile_q);
        let tiles = pool.min(tiles, full);
        let head_tiles = pool.int(attn.n_heads / heads);
        let tasks = pool.mul(batch, head_tiles);
        let tasks = pool.mul(tasks, tiles);
        let tasks = pool.max(tasks, one);
        let wanted = pool.idiv(full, tasks);
        let keys = pool.int(self.keys);
        let possible = pool.idiv(attn.capacity(), keys);
        let runs = pool.min(wanted, possible);
        pool.max(runs, one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::DType;
    use crate::expr::eval::{Env, Value, eval};
    use crate::schedule::{choose, overrides::Override};
    use crate::target::{CpuArch, CpuFacts, GpuArch, Target};
    use crate::{pipeline, sema};

    fn facts() -> CpuFacts {
        let arch = CpuArch::X86_64 { sse41: true, fma: true };
        CpuFacts { arch, l1d: 32 << 10, l2: 1 << 20, l3: 8 << 20, vector_bits: 256, pairs: false }
    }

    fn attention(dims: &str, mask: &str, more: &str) -> Attention {
        let text = format!(
            "attention a {{ dims B, H = 8, G = 2, {dims}, D = 64  input q : float[B, H, Sq, D]
             input k, v : float[B, G, Sk, D]  heads grouped  align bottom_right  score = dot(q, k)  mask = {mask}
             weight = softmax(score)  return weight @ v  {more} }}"
        );
        let front = pipeline::front("a.attn", &text, &mut sema::no_files, &mut ());
        assert!(!front.diagnostics.has_errors(), "{:?}", front.diagnostics);
        let key = sema::PlanKey {
            kernel: "a".into(),
            target: Target::Cpu(facts()),
            float: DType::F32,
            dims: Default::default(),
            statics: Default::default(),
            present: Default::default(),
            shard: None,
            schedules: Default::default(),
        };
        let kernel = sema::instantiate(&front.checked.kernels[0], &key).unwrap();
        kernel.attentions().next().unwrap().clone()
    }

    struct At<'a>(&'a Pool, &'a [(&'a str, i64)]);

    impl Env for At<'_> {
        fn var(&self, var: VarId) -> Value {
            let name = &self.0.var_info(var).name;
            Value::Int(self.1.iter().find(|(n, _)| n == name).expect("a length").1)
        }
        fn load(&self, _: TensorId, _: &[i64]) -> Value {
            unreachable!("the number of runs reads no tensor")
        }
    }

    fn runs(attn: &Attention, fill: &Fill, tiles: (i64, i64), at: &[(&str, i64)]) -> i64 {
        let mut pool = attn.pool.clone();
        let id = fill.runs(attn, &mut pool, tiles);
        eval(&pool, id, &At(&pool, at)).int()
    }

    #[test]
    fn runs_fill_the_machine_and_are_long() {
        let attn = attention("Sq, Sk", "j <= i", "");
        let at = |b, sq, sk| {
            let fill = fill(&attn, (16, 4, 64), CPU, false).unwrap();
            runs(&attn, &fill, (16, 4), &[("B", b), ("Sq", sq), ("Sk", sk)])
        };
        // 2 groups of heads: 16 runs make 32 tasks.
        assert_eq!(at(1, 1, 1 << 20), 16);
        assert_eq!(at(1, 16, 1 << 20), 16);
        assert_eq!(at(1, 17, 1 << 20), 8);
        assert_eq!(at(3, 1, 1 << 20), 5);
        assert_eq!([at(1, 1, 16384), at(1, 1, 16383), at(1, 1, 2048), at(1, 1, 2047)], [16, 15, 2, 1]);
        assert_eq!([at(16, 1, 1 << 20), at(9, 1, 1 << 20), at(1 << 29, 1, 1 << 20)], [1, 1, 1]);
        assert_eq!([at(0, 1, 4096), at(1, 0, 4096), at(1, 1, 0)], [4, 4, 1]);
        let most = MAX_LEN;
        assert_eq!(at(most, most, most), 1, "no overflow");
    }

    #[test]
    fn square_attentions_keep_one_run_on_a_cpu() {
        let attn = attention("Sq, Sk", "j <= i", "");
        let fill = fill(&attn, (64, 1, 128), CPU, false).unwrap();
        for s in [1, 64, 1000, 2047, 2048, 5000, 1 << 20] {
            assert_eq!(runs(&attn, &fill, (64, 1), &[("B", 1), ("Sq", s), ("Sk", s)]), 1, "{s}");
        }
    }

    #[test]
    fn no_rule_where_it_would_never_matter() {
        let rule = |dims: &str, more: &str| fill(&attention(dims, "j <= i", more), (16, 4, 64), CPU, false);
        assert!(rule("Sq, Sk", "").is_some());
        assert!(rule("Sq, Sk", "numerics { batch_invariant = true }").is_none());
        assert!(rule("Sq, Sk", "numerics { split = fixed(64) }").is_none());
        assert!(rule("Sq, Sk = 1..2047", "").is_none());
        assert!(rule("Sq, Sk = 1..2048", "").is_some());
        assert!(rule("Sq = 129..500, Sk", "").is_none());
        assert!(rule("Sq = 1..500, Sk", "").is_some());
        assert!(fill(&attention("Sq, Sk", "j <= i", ""), (16, 4, 64), CPU, true).is_none());
    }

    #[test]
    fn windows_and_blocks_are_near() {
        let near = |mask: &str| {
            let attn = attention("Sq, Sk", mask, "");
            let cpu = choose(&attn, &facts()).unwrap().fill.is_none();
            let gpu = super::super::gpu::choose(&attn, GpuArch::Sm90a, &Override::default()).unwrap();
            assert_eq!(cpu, gpu.fill.is_none(), "{mask}");
            cpu
        };
        assert!(near("j in (i - 256, i]") && near("i div 64 == j div 64"));
        assert!(near("j <= i & (j in (i - 128, i] | j < 4)"));
        assert!(!near("j <= i") && !near("j <= i | j < 100") && !near("true"));
    }
}
