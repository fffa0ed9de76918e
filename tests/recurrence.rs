//! Recurrences on CPU: chunks of steps and single steps against the f64 reference, which goes step by step.
//!
//! Comes in: specifications written here and in the shared folder. Checked at lengths around the chunk of 32 and at
//! 1000: machine code against the reference for each (b, h), a sequence in pieces with the state carried against the
//! whole, decays of 0, close to 1 and above 1, states of every form. Deliberately not done: speed.

mod common;

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::recur::Init;
use attn_compiler::host::{Data, View};
use attn_compiler::lower::recur::Form;
use attn_compiler::pipeline::{self, Plan};
use attn_compiler::sema::PlanKey;
use attn_runtime::{LoadedKernel, Tensor};
use common::*;

const LENGTHS: [i64; 8] = [1, 17, 31, 32, 33, 64, 129, 1000];

const HEAD: &str = "
  dims B, H, S, D, Dv
  input q, k : float[B, H, S, D]
  input v    : float[B, H, S, Dv]
";

/// The key of a kernel with the optional inputs of these names.
fn keyed(kernel: &str, dtype: DType, dims: &[(&str, i64)], present: &[&str]) -> PlanKey {
    let mut key = key(kernel, dtype, dims);
    key.present = present.iter().map(|n| (*n).to_string()).collect();
    key
}

struct Case {
    plan: Plan,
    kernel: LoadedKernel,
    dtype: DType,
}

impl Case {
    fn of(text: &str, name: &str, dtype: DType, dims: &[(&str, i64)], present: &[&str]) -> Case {
        let front = front("recurrence.attn", text);
        let plan = plan(&front, &keyed(name, dtype, dims, present));
        let artifact = pipeline::emit(&plan, &mut ()).unwrap_or_else(|e| panic!("{text}: {e}"));
        let kernel = LoadedKernel::load(artifact).unwrap_or_else(|e| panic!("{text}: {e}"));
        Case { plan, kernel, dtype }
    }

    /// A kernel around this text, in f32 with D = 48 and Dv = 40.
    fn small(clauses: &str, present: &[&str]) -> Case {
        let text = format!("recurrence r {{{HEAD}{clauses}\n}}");
        Case::of(&text, "r", DType::F32, &[("H", 3), ("D", 48), ("Dv", 40)], present)
    }

    fn problem(&self, batch: i64, steps: i64) -> Problem {
        problem(&self.plan.kernel, &[("B", batch), ("S", steps)], &|_| (0, steps), (steps * 7 + batch) as u64)
    }

    fn check(&self, problem: &Problem, what: &str) {
        let out = run(&self.kernel, &self.plan.kernel, problem, 2);
        verify(&self.plan.kernel, self.dtype, problem, &out, what);
    }

    fn lengths(&self, what: &str) {
        for steps in LENGTHS {
            let batch = if steps > 100 { 1 } else { 2 };
            self.check(&self.problem(batch, steps), &format!("{what} S = {steps}"));
        }
    }

    fn form(&self) -> Form {
        self.plan.recurs[0].form
    }

    /// Sets an input everywhere.
    fn set(&self, problem: &mut Problem, name: &str, value: &dyn Fn(usize) -> f64) {
        let shape = problem.inputs.tensors[name].shape().to_vec();
        let n = shape.iter().product();
        let data: Vec<f64> = (0..n).map(|k| f64::from(value(k) as f32)).collect();
        let at = problem.tensors.iter().position(|t| t.0 == name).expect("an input");
        let layout: Vec<usize> = (0..shape.len()).collect();
        problem.tensors[at].1 = bound(DType::F32, &Data::Float(data.clone()), &shape, &layout);
        problem.inputs.tensors.insert(name.into(), View::contiguous(shape, Data::Float(data)).expect("fits"));
    }
}

#[test]
fn linear_forms_run_in_chunks() {
    for (what, clauses, present) in [
        ("linear", "state s : f32[D, Dv]\n s = s + outer(k, v)\n return q @ s, s", &[][..]),
        ("s0", "state s : f32[D, Dv] = s0\n s = s + outer(k, v)\n return q @ s, s", &["s0"]),
        ("number", "state s : f32[D, Dv] = 0.5\n s = 0.9 * s + outer(k, v)\n return q @ s", &[]),
        (
            "head",
            "state s : f32[D, Dv] = s0\n s = (1 - 2 ^ (-5 - h)) * s + outer(k, v)\n return q @ s, s",
            &["s0"],
        ),
        (
            "input",
            "input lam : f32[H]\n state s : f32[D, Dv] = s0\n s = lam[h] * s + outer(k, v)\n return q @ s, s",
            &["s0"],
        ),
        (
            "token",
            "input g : f32[B, H, S]\n state s : f32[D, Dv] = s0\n s = exp(g) * s + outer(k, v)\n return q @ s, s",
            &["s0"],
        ),
        (
            "share",
            "input g : f32[H, S]\n state s : f32[D, Dv] = s0\n s = g * s + (1 - g) * outer(k, v)\n return q @ s, s",
            &["s0"],
        ),
        (
            "two terms, two reads",
            "input g : f32[S]\n state s : f32[D, Dv] = s0\n s = -(g * (outer(k, v) - s)) - outer(q, 2 * v)\n \
             return q @ s + 0.5 * (k @ s), s",
            &["s0"],
        ),
        (
            "normalised",
            "input g : f32[B, H, S]\n state s : f32[D, Dv] = s0\n state z : f32[D] = z0\n s = exp(g) * s + outer(k, v)\n \
             z = exp(g) * z + k\n return (q @ s) / max(abs(dot(q, z)), 1), s, z",
            &["s0", "z0"],
        ),
        ("forgets", "state s : f32[D, Dv] = s0\n s = outer(k, v)\n return q @ s, s", &["s0"]),
        ("only decays", "state s : f32[D, Dv] = s0\n s = 0.99 * s\n return q @ s, s", &["s0"]),
        (
            "computed rows",
            "state s : f32[D, Dv]\n s = s + outer(k * 0.5 + q, -v)\n return (q + k) @ s, s",
            &[],
        ),
        (
            "of one dot",
            "state s : f32[D, Dv]\n s = sigmoid(dot(q, k)) * s + outer(k, v)\n return q @ s, s",
            &[],
        ),
    ] {
        let case = Case::small(clauses, present);
        assert_eq!(case.form(), Form::Chunked(32), "{what}");
        case.lengths(what);
    }
}

#[test]
fn other_forms_run_step_by_step() {
    for (what, clauses, present) in [
        (
            "delta",
            "input beta : f32[B, H, S]\n state s : f32[D, Dv] = s0\n \
             s = s - beta * outer(k, k @ s) + beta * outer(k, v)\n return q @ s, s",
            &["s0"][..],
        ),
        (
            "momentum",
            "input eta : f32[H]\n state m : f32[D, Dv] = m0\n state s : f32[D, Dv] = s0\n \
             m = eta[h] * m - 0.1 * outer(k, k @ s - v)\n s = 0.984375 * s + m\n return q @ s, s, m",
            &["s0", "m0"],
        ),
        (
            "row states along both",
            "state s : f32[D, Dv] = s0\n state z : f32[D] = z0\n state n : f32[Dv] = n0\n \
             s = tanh(0.5 * s + outer(k * tanh(z), v))\n z = 0.5 * z + k * q\n n = 0.5 * n + 0.1 * (q @ s)\n \
             return (q @ s) * n + v / (1 + dot(z, z)) + dot(n, v), s, z, n",
            &["s0", "z0", "n0"],
        ),
        ("nonlinear", "state s : f32[D, Dv]\n s = s / (1 + abs(s)) + outer(k, v)\n return q @ s", &[]),
        (
            "norm inside",
            "state s : f32[D, Dv]\n s = 0.9 * s + outer(k, srms_norm(k @ s + v))\n return q @ s, s",
            &[],
        ),
    ] {
        let case = Case::small(clauses, present);
        assert_eq!(case.form(), Form::Stepwise, "{what}");
        case.lengths(what);
    }
}

#[test]
fn a_row_state_needs_no_matrix() {
    let text = "recurrence ema { dims B, S, D  input x : float[B, S, D]  input a : f32[D]
      state m : f32[D] = m0   m = a * m + (1 - a) * x   return m, m }";
    let front = front("ema.attn", &text.replace("return m, m", "return m * 1, m"));
    let plan = plan(&front, &keyed("ema", DType::F32, &[("D", 70)], &["m0"]));
    let kernel = LoadedKernel::load(pipeline::emit(&plan, &mut ()).expect("code")).expect("loads");
    let case = Case { plan, kernel, dtype: DType::F32 };
    case.lengths("ema");
}

#[test]
fn every_type_and_width() {
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        for (d, dv) in [(1, 1), (16, 200), (33, 64), (128, 128), (256, 96)] {
            let text = format!(
                "recurrence r {{{HEAD}  input g : f32[B, H, S]
                 state s : f32[D, Dv] = s0   s = exp(g) * s + outer(k, v)   return q @ s, s }}"
            );
            let case = Case::of(&text, "r", dtype, &[("H", 2), ("D", d), ("Dv", dv)], &["s0"]);
            for steps in [1, 33, 100] {
                case.check(&case.problem(2, steps), &format!("{dtype} D = {d} Dv = {dv} S = {steps}"));
            }
        }
    }
}

#[test]
fn decays_of_any_size_are_exact_and_do_not_overflow() {
    let by_head = "input slope : f32[H]\n state s : f32[D, Dv] = s0\n s = exp(-slope[h]) * s + outer(k, v)\n return q @ s, s";
    let product =
        "input lam : f32[H]\n state s : f32[D, Dv] = s0\n s = lam[h] * s + outer(k, v)\n return q @ s, s";
    let token =
        "input g : f32[B, H, S]\n state s : f32[D, Dv] = s0\n s = exp(g) * s + outer(k, v)\n return q @ s, s";
    let factor =
        "input g : f32[B, H, S]\n state s : f32[D, Dv] = s0\n s = g * s + outer(k, v)\n return q @ s, s";
    let slopes = [0.0, 0.84, 5e-6];
    for (name, text, value) in [
        ("slope", by_head, (&|k: usize| slopes[k % 3]) as &dyn Fn(usize) -> f64),
        ("slope", by_head, &|_| f64::INFINITY),
        ("slope", by_head, &|k| [1e-3, 200.0, 1e30][k % 3]),
        ("lam", product, &|k| [0.0, 0.84, -0.5][k % 3]),
        ("lam", product, &|k| [1.0, 0.999, 1.001][k % 3]),
        ("g", token, &|k| [-1e-5, 0.0, -0.84, f64::NEG_INFINITY][k % 4]),
        ("g", token, &|k| if k % 40 < 30 { -80.0 } else { 0.1 }),
        ("g", factor, &|k| [0.0, 1.0, 0.5, -1.0, 0.84][k % 5]),
        ("g", factor, &|_| 0.0),
    ] {
        let case = Case::small(text, &["s0"]);
        for steps in [1, 33, 129, 1000] {
            let mut problem = case.problem(1, steps);
            case.set(&mut problem, name, value);
            case.check(&problem, &format!("{name} from {}, S = {steps}, {text}", value(0)));
        }
    }
}

#[test]
fn what_is_not_finite_stays_where_it_is() {
    let clauses =
        "input g : f32[B, H, S]\n state s : f32[D, Dv]\n s = exp(g) * s + outer(k, v)\n return q @ s, s";
    let case = Case::small(clauses, &[]);
    let mut problem = case.problem(1, 50);
    let nan = |x: &View, at: usize| {
        let Data::Float(mut data) = x.data().clone() else { panic!("floats") };
        data[at] = f64::NAN;
        data
    };
    // Step 20 of head 0, feature 3.
    let data = nan(&problem.inputs.tensors["v"], 20 * 40 + 3);
    case.set(&mut problem, "v", &|k| data[k]);
    let out = run(&case.kernel, &case.plan.kernel, &problem, 1);
    let truth = reference(&case.plan.kernel, &problem.inputs).outputs["o"].to_f64_vec();
    let found = out[0].view().to_f64_vec();
    assert!(truth[..20 * 40].iter().all(|x| x.is_finite()));
    let same = found.iter().zip(&truth).all(|(a, b)| a.is_nan() == b.is_nan());
    assert!(same, "NaN spreads to other steps or columns");
}

/// Part of every tensor over the sequence.
fn piece(problem: &Problem, case: &Case, from: usize, to: usize) -> Problem {
    let mut part = case.problem(1, (to - from) as i64);
    for (name, view) in &problem.inputs.tensors {
        let Some(own) = part.inputs.tensors.get(name) else { continue };
        let (shape, wanted) = (view.shape().to_vec(), own.shape().to_vec());
        let Some(axis) = (0..shape.len()).find(|&d| shape[d] != wanted[d]) else {
            let data = view.to_f64_vec();
            case.set(&mut part, name, &|k| data[k]);
            continue;
        };
        let inner: usize = shape[axis + 1..].iter().product();
        let (whole, kept) = (shape[axis] * inner, wanted[axis] * inner);
        let data = view.to_f64_vec();
        let first = from * inner;
        case.set(&mut part, name, &|k| data[k / kept * whole + first + k % kept]);
    }
    part
}

#[test]
fn a_sequence_in_pieces_with_the_state_carried_is_the_whole() {
    let texts = [
        "input g : f32[B, H, S]\n state s : f32[D, Dv] = s0\n s = exp(g) * s + outer(k, v)\n return q @ s, s",
        "state s : f32[D, Dv] = s0\n s = (1 - 2 ^ (-5 - h)) * s + outer(k, v)\n return q @ s, s",
        "input beta : f32[B, H, S]\n state s : f32[D, Dv] = s0\n s = s - beta * outer(k, k @ s - v)\n return q @ s, s",
    ];
    for text in texts {
        let case = Case::small(text, &["s0"]);
        let whole = case.problem(1, 100);
        let truth = reference(&case.plan.kernel, &whole.inputs);
        let (o, s) = (truth.outputs["o"].to_f64_vec(), truth.outputs["s"].to_f64_vec());
        let mut state: Option<Vec<f64>> = None;
        for (from, to) in [(0, 1), (1, 2), (2, 40), (40, 73), (73, 100)] {
            let mut part = piece(&whole, &case, from, to);
            if let Some(state) = &state {
                case.set(&mut part, "s0", &|k| state[k]);
            }
            let out = run(&case.kernel, &case.plan.kernel, &part, 1);
            close(&out[0], &rows(&o, 3, 100, 40, from, to), text);
            state = Some(out[1].view().to_f64_vec());
        }
        let last = state.expect("five pieces");
        let scale = s.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        assert!(last.iter().zip(&s).all(|(a, b)| (a - b).abs() < 2e-6 * scale), "{text}");
    }
}

/// Steps from..to of `[heads, steps, width]`.
fn rows(all: &[f64], heads: usize, steps: usize, width: usize, from: usize, to: usize) -> Vec<f64> {
    let head = |h: usize| all[(h * steps + from) * width..(h * steps + to) * width].to_vec();
    (0..heads).flat_map(head).collect()
}

fn close(found: &Tensor, wanted: &[f64], what: &str) {
    let found = found.view().to_f64_vec();
    assert_eq!(found.len(), wanted.len(), "{what}");
    let scale = wanted.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let off = found.iter().zip(wanted).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
    assert!(off < 2e-6 * scale, "{what}: off by {off:e} of {scale:e}");
}

#[test]
fn shared_specifications_run() {
    let cases = [
        ("11_lightning.attn", "lightning", &[("H", 4), ("D", 64), ("Dv", 64)][..]),
        ("11b_transnormer.attn", "transnormer", &[("H", 3), ("D", 32)]),
        ("18_delta_dilated.attn", "gated_delta", &[("H", 3), ("D", 32), ("Dv", 48)]),
    ];
    for (file, kernel, dims) in cases {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            for present in [&[][..], &["s0"]] {
                let case = Case::of(&spec(file), kernel, dtype, dims, present);
                for steps in [1, 17, 64, 129, 1000] {
                    case.check(&case.problem(1, steps), &format!("{file} {dtype} S = {steps}"));
                }
            }
        }
    }
}

#[test]
fn the_start_is_a_run_time_int() {
    let case =
        Case::of(&spec("11b_transnormer.attn"), "transnormer", DType::F32, &[("H", 2), ("D", 16)], &[]);
    let start = case.plan.kernel.params.iter().find(|p| p.name == "start").expect("a parameter");
    assert_eq!(start.default.map(|v| v.int()), Some(0));
    let lightning = Case::of(
        &spec("11_lightning.attn"),
        "lightning",
        DType::F32,
        &[("H", 2), ("D", 16), ("Dv", 16)],
        &[],
    );
    assert!(lightning.plan.kernel.params.iter().all(|p| p.name != "start"), "nothing reads `i`");
    assert!(matches!(
        lightning.plan.kernel.recurrences().next().expect("one").states[0].init,
        Init::Number(_)
    ));
}

/// What is said of a recurrence around these clauses.
fn complaint(clauses: &str) -> String {
    let text = format!("recurrence r {{{HEAD}{clauses}\n}}");
    let front = pipeline::front("r.attn", &text, &mut attn_compiler::sema::no_files, &mut ());
    said(&front)
}

#[test]
fn wrong_states_are_errors_that_name_the_remedy() {
    let update = "s = s + outer(k, v)\n return q @ s";
    for (clauses, expected) in [
        (
            format!("input t0 : f32[B, H, D]\n state s : f32[D, Dv] = t0\n {update}"),
            "a state begins with an `f32[B, H, D, Dv]`",
        ),
        (format!("state s : f32[D, Dv] = 2 * h\n {update}"), "a state begins with one number"),
        (
            "dims G\n input w : f32[B, G, S]\n state s : f32[D, Dv]\n s = w * s + outer(k, v)\n return q @ s"
                .into(),
            "other batch or head dims than the state",
        ),
        (
            "let start = 2\n state s : f32[D, Dv]\n s = i * s + outer(k, v)\n return start * (q @ s)".into(),
            "`start` is the position of the first step",
        ),
    ] {
        let said = complaint(&clauses);
        assert!(said.contains(expected), "{clauses}: {said}");
    }
}

#[test]
fn what_needs_all_columns_at_once_is_one_unsupported() {
    let text = "recurrence r { dims B, H, S, D  input q, k, v : float[B, H, S, D]
      state s : f32[D, D]   s = s + outer(k @ s, v)   return q @ s }";
    let front = front("r.attn", text);
    let kernel = front.checked.kernel(None).expect("the kernel exists");
    let key = keyed("r", DType::F32, &[("H", 2), ("D", 64)], &[]);
    let said = match pipeline::plan(kernel, &key, &mut ()) {
        Err(pipeline::CompileError::Unsupported(u)) => u.to_string(),
        other => panic!("{:?}", other.map(|_| ())),
    };
    assert!(said.contains("recurrence") && said.contains("all columns"), "{said}");
}
