//! What a host program can do wrong, through the facade: each mistake is one error in words, and nothing panics,
//! aborts or writes; and what looks wrong but has a meaning (empty axes, empty rows, NaN that no one sees) runs.
//!
//! Deliberately not here: outputs that share memory with inputs (safe Rust cannot express it; `runtime/tests`
//! does it with raw views), and mistakes in the text (`snapshots/diagnostics/`).

use attnc::{
    DType, Error, ErrorKind, Kernel, Plan, RunOptions, Tensor, TensorView, Value, bind, dims, outputs,
};

/// A window; `{extra}`, `{mask}` and `{score}` are replaced.
const TEXT: &str = "
attention a(window: int = 4, step: int = 1) {
  dims B, H, Sq, Sk, D, R
  input q    : float[B, H, Sq, D]
  input k, v : float[B, H, Sk, D]
  input tab  : f32[R]
  {extra}
  align bottom_right
  score  = dot(q, k) / sqrt(D) + tab[{index}]
  mask   = {mask}
  weight = softmax(score)
  return weight @ v, lse
}
";

const WINDOW: &str = "j <= i & j in (i - window, i]";

fn plan_of(extra: &str, index: &str, mask: &str) -> Plan {
    let text = TEXT.replace("{extra}", extra).replace("{index}", index).replace("{mask}", mask);
    let kernel = Kernel::from_source("a.attn", &text).unwrap_or_else(|e| panic!("{e}")).without_cache();
    kernel.plan(&dims! { H: 2, D: 16 }, DType::F32).unwrap_or_else(|e| panic!("{e}"))
}

fn plan() -> Plan {
    plan_of("", "0", WINDOW)
}

/// Arguments of one run.
struct Args {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tab: Tensor,
    o: Tensor,
    lse: Tensor,
}

fn ramp(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|x| ((x * 37 % 101) as f32) / 50.0 - 1.0).collect();
    Tensor::from_slice(&data, shape).unwrap()
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(DType::F32, shape).unwrap()
}

impl Args {
    fn new(b: usize, sq: usize, sk: usize) -> Args {
        Args {
            q: ramp(&[b, 2, sq, 16]),
            k: ramp(&[b, 2, sk, 16]),
            v: ramp(&[b, 2, sk, 16]),
            tab: ramp(&[5]),
            o: zeros(&[b, 2, sq, 16]),
            lse: zeros(&[b, 2, sq]),
        }
    }

    fn run(
        &mut self,
        plan: &Plan,
        more: Option<(&str, &Tensor)>,
        params: &[(&str, Value)],
    ) -> Result<(), Error> {
        let mut inputs = bind! { q: self.q, k: self.k, v: self.v, tab: self.tab }.to_vec();
        inputs.extend(more.map(|(name, t)| (name, t.view())));
        let mut outputs = outputs! { o: self.o, lse: self.lse };
        plan.run_with(&inputs, &mut outputs, params, &RunOptions::threads(1).unwrap())
    }

    fn o(&self) -> &[f32] {
        self.o.as_slice().unwrap()
    }

    fn lse(&self) -> &[f32] {
        self.lse.as_slice().unwrap()
    }
}

#[track_caller]
fn refused<T>(result: Result<T, Error>, kind: ErrorKind, says: &[&str]) {
    let Err(err) = result else { panic!("accepted") };
    assert_eq!(err.kind(), kind, "{err}");
    for text in says {
        assert!(err.to_string().contains(text), "expected `{text}` in: {err}");
    }
}

#[test]
fn wrong_shapes_types_and_names() {
    let plan = plan();
    let run = |change: &dyn Fn(&mut Args), says: &[&str]| {
        let mut args = Args::new(1, 3, 5);
        change(&mut args);
        let before = args.o.bytes().to_vec();
        refused(args.run(&plan, None, &[]), ErrorKind::Data, says);
        assert_eq!(args.o.bytes(), before, "nothing is written by a refused run");
    };
    run(&|a| a.q = ramp(&[2, 3, 16]), &["`q` has 3 dims [2, 3, 16], expected 4"]);
    run(&|a| a.q = ramp(&[1, 3, 3, 16]), &["`q` axis 1 is 3, expected 2"]);
    run(&|a| a.k = ramp(&[1, 2, 5, 15]), &["`k` axis 3 is 15, expected 16"]);
    run(&|a| a.v = ramp(&[1, 2, 6, 16]), &["`v` axis 2 (Sk) is 6", "gave Sk = 5"]);
    run(&|a| a.v = ramp(&[2, 2, 5, 16]), &["`v` axis 0 (B) is 2", "gave B = 1"]);
    run(&|a| a.o = zeros(&[1, 2, 4, 16]), &["`o` axis 2 (Sq) is 4", "gave Sq = 3"]);
    run(&|a| a.lse = zeros(&[1, 2, 3, 1]), &["`lse` has 4 dims"]);
    run(&|a| a.q = Tensor::zeros(DType::F16, &[1, 2, 3, 16]).unwrap(), &["`q` holds f16, expected f32"]);
    run(&|a| a.tab = Tensor::zeros(DType::I32, &[5]).unwrap(), &["`tab` holds i32, expected f32"]);
    run(&|a| a.o = Tensor::zeros(DType::Bf16, &[1, 2, 3, 16]).unwrap(), &["`o` holds bf16, expected f32"]);
    let mut args = Args::new(1, 3, 5);
    let extra = zeros(&[1]);
    refused(
        args.run(&plan, Some(("bias", &extra)), &[]),
        ErrorKind::Data,
        &["no input `bias`", "q, k, v, tab"],
    );
    refused(args.run(&plan, Some(("q", &extra)), &[]), ErrorKind::Data, &["`q` is bound twice"]);
    let Args { q, k, v, mut o, mut lse, tab } = args;
    let missing = plan.run(&bind! { q, k, tab }, &mut outputs! { o, lse });
    refused(missing, ErrorKind::Data, &["input `v`", "is not bound"]);
    let missing = plan.run(&bind! { q, k, v, tab }, &mut outputs! { o });
    refused(missing, ErrorKind::Data, &["output `lse`"]);
}

#[test]
fn empty_axes_run() {
    let plan = plan();
    for (b, sq, sk) in [(0, 3, 5), (1, 0, 5), (2, 3, 0), (1, 0, 0), (0, 0, 0)] {
        let mut args = Args::new(b, sq, sk);
        args.run(&plan, None, &[]).unwrap_or_else(|e| panic!("{b} {sq} {sk}: {e}"));
        assert!(args.o().iter().all(|x| *x == 0.0), "{b} {sq} {sk}");
        let minus_infinity = |x: &f32| *x == f32::NEG_INFINITY;
        assert!(args.lse().iter().all(minus_infinity), "{b} {sq} {sk}: {:?}", args.lse());
    }
}

#[test]
fn parameters_out_of_range_and_windows_that_hold_nothing() {
    let plan = plan();
    let mut args = Args::new(1, 3, 5);
    for beyond in [1i64 << 31, -(1i64 << 31) - 1, i64::MAX, i64::MIN] {
        let result = args.run(&plan, None, &[("window", Value::Int(beyond))]);
        refused(result, ErrorKind::Data, &["`window`", &beyond.to_string()]);
    }
    for none in [0, -1, i64::from(i32::MIN)] {
        args.run(&plan, None, &[("window", Value::Int(none))]).unwrap();
        assert!(args.o().iter().all(|x| *x == 0.0), "window {none}");
        assert!(args.lse().iter().all(|x| *x == f32::NEG_INFINITY), "window {none}");
    }
    args.run(&plan, None, &[("window", Value::Int(i64::from(i32::MAX)))]).unwrap();
    let wide = args.o.bytes().to_vec();
    args.run(&plan, None, &[("window", Value::Int(5))]).unwrap();
    assert_eq!(args.o.bytes(), wide, "a window beyond the length is the whole past");
}

#[test]
fn a_divisor_that_is_not_positive_is_refused() {
    let plan = plan_of("", "0", "j <= i & (i - j) mod step == 0");
    let mut args = Args::new(1, 4, 4);
    args.run(&plan, None, &[("step", Value::Int(2))]).unwrap();
    refused(
        args.run(&plan, None, &[("step", Value::Int(0))]),
        ErrorKind::Data,
        &["(i - j) mod step", "zero"],
    );
    refused(
        args.run(&plan, None, &[("step", Value::Int(-2))]),
        ErrorKind::Data,
        &["(i - j) mod step", "negative"],
    );
}

#[test]
fn a_broken_promise_of_order_is_refused() {
    let plan = plan_of("input doc : i32[Sk] sorted", "0", "doc[i] == doc[j]");
    let mut args = Args::new(1, 4, 4);
    let doc = |ids: &[i32]| Tensor::from_slice(ids, &[4]).unwrap();
    args.run(&plan, Some(("doc", &doc(&[0, 0, 1, 1]))), &[]).unwrap();
    let bad = doc(&[0, 2, 1, 3]);
    refused(
        args.run(&plan, Some(("doc", &bad)), &[]),
        ErrorKind::Data,
        &["doc[2] = 1 follows doc[1] = 2", "sorted"],
    );
}

#[test]
fn an_index_out_of_range_is_refused() {
    let plan = plan_of("input idx : i32[Sk]", "idx[j]", "j <= i");
    let mut args = Args::new(1, 4, 4);
    let idx = |at: &[i32]| Tensor::from_slice(at, &[4]).unwrap();
    args.run(&plan, Some(("idx", &idx(&[0, 4, 2, 1]))), &[]).unwrap();
    for (at, says) in
        [([0, 5, 0, 0], "`idx[1]` is 5"), ([0, 0, 0, -1], "`idx[3]` is -1"), ([i32::MAX; 4], "`tab`")]
    {
        refused(args.run(&plan, Some(("idx", &idx(&at))), &[]), ErrorKind::Data, &[says, "leaves `tab`"]);
    }
}

/// Sets one key row of every head.
fn poison(t: &mut Tensor, n_keys: usize, key: usize, value: f32) {
    let data = t.as_mut_slice::<f32>().unwrap();
    for row in data.chunks_mut(16 * n_keys) {
        row[16 * key..16 * (key + 1)].fill(value);
    }
}

/// With many query rows (keys are packed) and with few (they are read where they lie).
#[test]
fn what_is_masked_does_not_leak_and_what_is_seen_does() {
    const N: usize = 70;
    const KEY: usize = 66;
    let plan = plan();
    let rows = |o: &[f32]| o.chunks(16).map(<[f32]>::to_vec).collect::<Vec<_>>();
    for n_rows in [N, 9, 1] {
        let mut clean = Args::new(1, n_rows, N);
        clean.run(&plan, None, &[]).unwrap();
        let want = rows(clean.o());
        for (value, keys_too) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
            .into_iter()
            .flat_map(|value| [(value, false), (value, true)])
        {
            let mut args = Args::new(1, n_rows, N);
            poison(&mut args.v, N, KEY, value);
            if keys_too {
                poison(&mut args.k, N, KEY, value);
            }
            args.run(&plan, None, &[]).unwrap();
            for (n, (got, want)) in rows(args.o()).iter().zip(&want).enumerate() {
                // Position i sees keys i - 3 to i.
                let i = n % n_rows + N - n_rows;
                if (KEY..KEY + 4).contains(&i) {
                    let changed = got.iter().zip(want).any(|(a, b)| a.to_bits() != b.to_bits());
                    assert!(changed, "{value} at a seen key must show in row {n} of {n_rows}");
                    if !keys_too {
                        assert!(got.iter().all(|x| !x.is_finite()), "row {n} with {value}: {got:?}");
                    }
                } else {
                    assert_eq!(got, want, "{value} leaked into row {n} of {n_rows}, keys too: {keys_too}");
                }
            }
        }
    }
}

/// A score of -inf takes no part, like a masked pair: what stands in the value there is not read.
#[test]
fn what_scores_minus_infinity_does_not_leak() {
    const N: usize = 70;
    const KEY: usize = 33;
    let plan = plan_of("", "j", "j <= i");
    for n_rows in [N, 9, 1] {
        let run = |value: Option<f32>| {
            let mut args = Args::new(1, n_rows, N);
            let mut tab = vec![0.0f32; N];
            tab[KEY] = f32::NEG_INFINITY;
            args.tab = Tensor::from_slice(&tab, &[N]).unwrap();
            value.into_iter().for_each(|value| poison(&mut args.v, N, KEY, value));
            args.run(&plan, None, &[]).unwrap();
            args.o().to_vec()
        };
        let want = run(None);
        for value in [f32::NAN, f32::INFINITY] {
            assert_eq!(run(Some(value)), want, "{value} leaked, {n_rows} rows");
        }
    }
}

/// Weights too small for an f32 count as 0 however large the values are.
#[test]
fn vanishing_weights_meet_huge_values() {
    const N: usize = 70;
    const KEY: usize = 33;
    let plan = plan_of("", "j", "j <= i");
    for n_rows in [N, 9, 1] {
        let run = |value: f32| {
            let mut args = Args::new(1, n_rows, N);
            let mut tab = vec![0.0f32; N];
            tab[KEY] = -1e9;
            args.tab = Tensor::from_slice(&tab, &[N]).unwrap();
            poison(&mut args.v, N, KEY, value);
            args.run(&plan, None, &[]).unwrap();
            args.o().to_vec()
        };
        // Where a row sees that key alone it has all the weight.
        let (want, got) = (run(0.0), run(3e38));
        assert_eq!(got, want, "{n_rows} rows");
    }
}

#[test]
fn files_that_are_no_text() {
    let dir = tempfile::tempdir().unwrap();
    refused(Kernel::from_file(dir.path()), ErrorKind::Io, &["cannot read"]);
    refused(Kernel::from_file(dir.path().join("none.attn")), ErrorKind::Io, &["cannot read", "none.attn"]);
    let binary = dir.path().join("binary.attn");
    std::fs::write(&binary, [0x61, 0xff, 0xfe, 0x00]).unwrap();
    refused(Kernel::from_file(&binary), ErrorKind::Io, &["cannot read", "UTF-8"]);
    std::fs::write(&binary, "").unwrap();
    let empty = Kernel::from_file(&binary).unwrap();
    refused(empty.plan(&[], DType::F32), ErrorKind::Data, &["holds no kernel"]);
}

/// Keys that stand in one row of memory, so that only the workspace is huge: 512 TiB, beyond any address space.
#[test]
fn a_workspace_beyond_memory_is_an_error() {
    let text = TEXT.replace("{extra}", "").replace("{index}", "0").replace("{mask}", "j <= i");
    let kernel = Kernel::from_source("a.attn", &text).unwrap().without_cache();
    let plan = kernel.plan(&dims! { H: 1024, D: 256 }, DType::F32).unwrap();
    let row = vec![0f32; 256];
    let keys = |n: usize| TensorView::strided(&row, 0, &[1, 1024, n, 256], &[0, 0, 0, 1]).unwrap();
    let tab = zeros(&[1]);
    // More rows than keys are read for where they lie: these are packed.
    let n_rows = 40;
    let mut o = zeros(&[1, 1024, n_rows, 256]);
    let mut lse = zeros(&[1, 1024, n_rows]);
    let (q, k, v) = (keys(n_rows), keys((1 << 30) - 1), keys((1 << 30) - 1));
    let Err(err) = plan.run(&bind! { q, k, v, tab }, &mut outputs! { o, lse }) else { panic!("accepted") };
    assert!(matches!(err.kind(), ErrorKind::Unsupported | ErrorKind::Data), "{err}");
    assert!(err.to_string().contains("bytes"), "{err}");
    let (k, v) = (keys(3), keys(3));
    plan.run(&bind! { q, k, v, tab }, &mut outputs! { o, lse }).expect("the plan still works");
}
