//! Derived tensors, dropout and rotations: what must hold beyond one comparison with the reference.
//!
//! Comes in: kernels written here. What is tested: dropped pairs are the same for every tile size and number of threads
//! and those of Philox's words; running sums keep f32 accuracy where they are large; ids of sequences and joined keys
//! are what host loops make of them; positions beyond a table are refused when bound. Deliberately not done: one
//! kernel for each mechanism (`dsl-examples`), other people's numbers (`goldens.rs`).

mod common;

use attn_compiler::artifact::DType;
use attn_compiler::expr::eval::Value;
use attn_compiler::expr::rand::{rand_block_columns, word};
use attn_compiler::host::{Data, View};
use attn_compiler::pipeline;
use attn_runtime::{LoadedKernel, NamedInput, NamedOutput, RunOptions, Tensor};
use common::*;

/// A planned kernel.
struct Ready {
    plan: pipeline::Plan,
    kernel: LoadedKernel,
}

fn ready(text: &str, name: &str, dims: &[(&str, i64)]) -> Ready {
    let front = front(name, text);
    let plan = plan(&front, &key(name, DType::F32, dims));
    let artifact = pipeline::emit(&plan, &mut ()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let kernel = LoadedKernel::load(artifact).unwrap_or_else(|e| panic!("{name}: {e}"));
    Ready { plan, kernel }
}

/// Puts these values into an input.
fn put(p: &mut Problem, name: &str, data: Data) {
    let shape = p.inputs.tensors[name].shape().to_vec();
    let layout: Vec<usize> = (0..shape.len()).collect();
    let slot = p.tensors.iter_mut().find(|(n, _)| n == name).expect("an input");
    slot.1 = bound(slot.1.dtype(), &data, &shape, &layout);
    p.inputs.tensors.insert(name.into(), View::contiguous(shape, data).expect("the right count"));
}

/// Runs with parameters.
fn run_with(r: &Ready, p: &Problem, params: &[(&str, Value)], threads: usize) -> Result<Vec<Tensor>, String> {
    let mut out: Vec<Tensor> =
        p.outputs.iter().map(|(_, dtype, shape)| Tensor::zeros(*dtype, shape).expect("an output")).collect();
    let inputs: Vec<NamedInput> = p.tensors.iter().map(|(n, t)| (n.as_str(), t.view())).collect();
    let mut outputs: Vec<NamedOutput> =
        p.outputs.iter().zip(&mut out).map(|((n, ..), t)| (n.as_str(), t.view_mut())).collect();
    let options = RunOptions::threads(threads).expect("threads");
    r.kernel.run(&inputs, &mut outputs, params, &options).map_err(|e| e.to_string())?;
    drop(outputs);
    Ok(out)
}

fn dropout_text(tile: &str) -> String {
    format!(
        "attention dropped(p: float = 0.5, seed: int = 9, offset: int = 0) {{
  dims B, H, S, D
  input q, k, v : float[B, H, S, D]
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i
  weight = softmax(score)
  dropout (p, seed, offset)
  return weight @ v, lse
  {tile}
}}"
    )
}

/// Which pairs stay, read off the result: with zero scores and unit values, o[i, x] of key x is 2 / (i + 1) or 0.
fn kept(tile: &str, s: usize, threads: usize, params: &[(&str, Value)]) -> Vec<bool> {
    let r = ready(&dropout_text(tile), "dropped", &[("H", 2), ("D", s as i64)]);
    let mut p = problem(&r.plan.kernel, &[("B", 2), ("S", s as i64)], &|_| (0, 0), 1);
    put(&mut p, "q", Data::Float(vec![0.0; 4 * s * s]));
    let unit = (0..4 * s * s).map(|n| f64::from(u8::from(n / s % s == n % s))).collect();
    put(&mut p, "v", Data::Float(unit));
    let out = run_with(&r, &p, params, threads).unwrap_or_else(|e| panic!("{e}"));
    out[0].view().to_f64_vec().iter().map(|x| *x > 0.0).collect()
}

#[test]
fn dropped_pairs_are_those_of_the_words_whatever_the_tiles() {
    let s = 150;
    let seed = 0x1234_5678_9abc_i64;
    let params = [("seed", Value::Int(seed)), ("offset", Value::Int(3))];
    let wanted: Vec<bool> = (0..4 * s * s)
        .map(|n| (n / s / s, n / s % s, n % s))
        .map(|(bh, i, j)| j <= i && word(j as i64, i as i64, bh as i64, 3, seed) >= 1 << 31)
        .collect();
    let tiles = ["", "schedule cpu { tile = [8, 32] }", "schedule cpu { tile = [64, 128] }"];
    for (tile, threads) in tiles.into_iter().zip([1, 2, 3]) {
        assert!(kept(tile, s, threads, &params) == wanted, "{tile} on {threads} threads");
    }
    let share = wanted.iter().filter(|k| **k).count() as f64 / (4 * s * (s + 1) / 2) as f64;
    assert!((share - 0.5).abs() < 0.01, "{share} stay");
}

#[test]
fn dropout_is_what_the_reference_says() {
    for (p_drop, s) in [(0.1, 1), (0.1, 17), (0.9, 64), (0.0, 129), (0.25, 300)] {
        let text = dropout_text("").replace("p: float = 0.5", &format!("p: float = {p_drop:?}"));
        let r = ready(&text, "dropped", &[("H", 2), ("D", 64)]);
        let p = problem(&r.plan.kernel, &[("B", 2), ("S", s)], &|_| (0, 0), 5);
        let out = run_with(&r, &p, &[], 2).unwrap_or_else(|e| panic!("{e}"));
        verify(&r.plan.kernel, DType::F32, &p, &out, &format!("p = {p_drop}, S = {s}"));
    }
}

#[test]
fn a_probability_beyond_one_is_refused() {
    let r = ready(&dropout_text(""), "dropped", &[("H", 1), ("D", 32)]);
    let p = problem(&r.plan.kernel, &[("B", 1), ("S", 3)], &|_| (0, 0), 5);
    let said = run_with(&r, &p, &[("p", Value::Float(1.0))], 1).expect_err("p = 1 drops everything");
    assert!(said.contains("probability"), "{said}");
}

const FOX: &str = "attention fox {
  dims B, H, S, D
  input q, k, v : float[B, H, S, D]
  input logf    : f32[B, H, S]
  let F = cumsum(logf)
  score  = F[b, h, i] + dot(q, k) / sqrt(D) - F[b, h, j]
  mask   = j <= i
  weight = softmax(score)
  return weight @ v, lse
}";

/// Near the diagonal, where the weights are, F is about 4000 and differences about 1: sums in one f32 would miss by
/// 2^-12 there. The gate is that of scores of 8.
#[test]
fn running_sums_keep_their_accuracy_at_4096() {
    let r = ready(FOX, "fox", &[("H", 2), ("D", 32)]);
    let s = 4096;
    let mut p = problem(&r.plan.kernel, &[("B", 1), ("S", s)], &|_| (0, 0), 3);
    let gates =
        (0..2 * s).map(|n| f64::from((-0.6 - 0.7 * ((n * 37 % 101) as f64 / 101.0)) as f32)).collect();
    put(&mut p, "logf", Data::Float(gates));
    let out = run_with(&r, &p, &[], 2).unwrap_or_else(|e| panic!("{e}"));
    let truth = reference(&r.plan.kernel, &p.inputs);
    assert!(truth.max_abs_score > 3500.0, "F reaches {}", truth.max_abs_score);
    for (n, name) in ["o", "lse"].into_iter().enumerate() {
        let (got, want) = (out[n].view().to_f64_vec(), truth.outputs[name].to_f64_vec());
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 2e-5, "{name} misses by {worst:e}");
    }
}

/// A sum that met -inf stays -inf: keys before take no part, and among later ones differences have no value.
#[test]
fn minus_infinity_in_a_running_sum_parts_the_sequence() {
    let r = ready(FOX, "fox", &[("H", 1), ("D", 32)]);
    let mut p = problem(&r.plan.kernel, &[("B", 1), ("S", 4)], &|_| (0, 0), 3);
    put(&mut p, "logf", Data::Float(vec![-0.5, -0.25, f64::NEG_INFINITY, -1.0]));
    let out = run_with(&r, &p, &[], 1).unwrap_or_else(|e| panic!("{e}"));
    verify(&r.plan.kernel, DType::F32, &p, &out, "-inf in logf");
    let o = out[0].view().to_f64_vec();
    assert!(o[..64].iter().all(|x| x.is_finite()) && o[64..].iter().all(|x| x.is_nan()), "{o:?}");
}

/// Documents by cumulative lengths, with and without the leading 0, and a tail beyond the last one.
#[test]
fn segments_number_the_sequences() {
    let text = "attention packed {
  dims T, H, D, N
  input q, k, v : float[H, T, D]
  input cu      : i32[N]
  let doc = segment(cu)
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i & doc[i] == doc[j]
  weight = softmax(score)
  return weight @ v, max_logit
}";
    let r = ready(text, "packed", &[("H", 1), ("D", 150)]);
    for cu in [vec![0, 40, 40, 111, 150], vec![40, 40, 111, 150], vec![0, 40, 111]] {
        let dims = [("T", 150), ("N", cu.len() as i64)];
        let mut p = problem(&r.plan.kernel, &dims, &|_| (0, 0), 1);
        put(&mut p, "q", Data::Float(vec![0.0; 150 * 150]));
        put(
            &mut p,
            "v",
            Data::Float((0..150 * 150).map(|n| f64::from(u8::from(n / 150 == n % 150))).collect()),
        );
        put(&mut p, "cu", Data::Int(cu.clone()));
        let out = run_with(&r, &p, &[], 2).unwrap_or_else(|e| panic!("{e}"));
        verify(&r.plan.kernel, DType::F32, &p, &out, &format!("{cu:?}"));
        let id = |at: usize| cu.iter().filter(|c| **c <= at as i64).count();
        for (n, x) in out[0].view().to_f64_vec().into_iter().enumerate() {
            let (i, j) = (n / 150, n % 150);
            assert_eq!(x > 0.0, j <= i && id(i) == id(j), "{cu:?}: ({i}, {j}) is {x}");
        }
    }
    let mut p = problem(&r.plan.kernel, &[("T", 150), ("N", 3)], &|_| (0, 0), 1);
    put(&mut p, "cu", Data::Int(vec![0, 90, 40]));
    let said = run_with(&r, &p, &[], 1).expect_err("lengths that fall");
    assert!(said.contains("cu") && said.contains("sorted"), "{said}");
}

/// Keys of two tensors are those of one that the host joined.
#[test]
fn joined_keys_are_one_tensor() {
    let text = "attention joined {
  dims B, Hq, Hkv, Sq, G, S, D
  align top_left
  heads grouped
  input q        : float[B, Hq, Sq, D]
  input k1, v1   : float[B, Hkv, G, D]
  input k2, v2   : float[B, Hkv, S, D]
  rotate k1 by rope() at j
  let k = concat(k1, k2)
  let v = concat(v1, v2)
  rotate q, k by rope(theta = 500) at i
  score  = dot(q, k) / sqrt(D)
  mask   = j < G | j - G <= i
  weight = softmax(score)
  return weight @ v, lse
}";
    let r = ready(text, "joined", &[("Hq", 4), ("Hkv", 2), ("D", 32)]);
    for (sq, g, s) in [(1, 1, 1), (17, 5, 17), (129, 70, 129), (33, 0, 33), (33, 40, 0)] {
        let dims = [("B", 2), ("Sq", sq), ("G", g), ("S", s)];
        let p = problem(&r.plan.kernel, &dims, &|_| (0, 0), 8);
        let out = run_with(&r, &p, &[], 2).unwrap_or_else(|e| panic!("{e}"));
        verify(&r.plan.kernel, DType::F32, &p, &out, &format!("Sq = {sq}, G = {g}, S = {s}"));
    }
}

/// Excluded columns are never drawn, and what is left is drawn from as if there were nothing else.
#[test]
fn excluded_blocks_are_not_drawn() {
    let text = "attention blocks(seed: int = 5) {
  dims B, H, S, D
  input q, k, v : float[B, H, S, D]
  score  = dot(q, k)
  mask   = rand_block(i div 16, j div 16, (S + 15) div 16, h, 2, seed, exclude = j div 16 == 0 | abs(i div 16 - j div 16) < 2)
  weight = relu(score)
  return weight @ v
}";
    for s in [1usize, 40, 150] {
        let r = ready(text, "blocks", &[("H", 2), ("D", s as i64)]);
        let mut p = problem(&r.plan.kernel, &[("B", 1), ("S", s as i64)], &|_| (0, 0), 8);
        for name in ["q", "k"] {
            put(&mut p, name, Data::Float(vec![1.0; 2 * s * s]));
        }
        let unit = (0..2 * s * s).map(|n| f64::from(u8::from(n / s % s == n % s))).collect();
        put(&mut p, "v", Data::Float(unit));
        let out = run_with(&r, &p, &[], 2).unwrap_or_else(|e| panic!("{e}"));
        verify(&r.plan.kernel, DType::F32, &p, &out, &format!("S = {s}"));
        let n_blocks = s.div_ceil(16) as i64;
        for (n, x) in out[0].view().to_f64_vec().into_iter().enumerate() {
            let (h, row, col) = ((n / s / s) as i64, (n / s % s / 16) as i64, (n % s / 16) as i64);
            let left: Vec<i64> = (1..n_blocks).filter(|c| (c - row).abs() >= 2).collect();
            let drawn = rand_block_columns(row, left.len() as i64, h, 2, 5);
            let wanted = drawn.iter().any(|nth| left[*nth as usize] == col);
            assert_eq!(x > 0.0, wanted, "S = {s}: head {h}, block ({row}, {col})");
        }
    }
}

/// Windows of a pool lie wholly inside: none where the sequence is shorter.
#[test]
fn pools_are_means_of_whole_windows() {
    let text = "attention pooled {
  dims B, H, S, D
  align none
  input q, k, v : float[B, H, S, D]
  let kc = mean_pool(k, block = 6, stride = 4)
  let vc = mean_pool(v, block = 6, stride = 4)
  score  = dot(q, kc) / sqrt(D)
  mask   = j * 4 + 5 <= i
  weight = softmax(score)
  return weight @ vc
}";
    let r = ready(text, "pooled", &[("H", 2), ("D", 32)]);
    for s in [1, 5, 6, 9, 10, 65, 300] {
        let p = problem(&r.plan.kernel, &[("B", 2), ("S", s)], &|_| (0, 0), 8);
        let out = run_with(&r, &p, &[], 2).unwrap_or_else(|e| panic!("{e}"));
        verify(&r.plan.kernel, DType::F32, &p, &out, &format!("S = {s}"));
    }
}

#[test]
fn a_position_beyond_the_table_is_refused_at_bind() {
    let text = "attention learned {
  dims B, H, S, D, L
  input q, k, v : float[B, H, S, D]
  input pe      : f32[L, D]
  input pos     : i32[B, S]
  score  = dot(q + pe[pos[b, i]], k + pe[pos[b, j]])
  mask   = j <= i
  weight = softmax(score)
  return weight @ v
}";
    let r = ready(text, "learned", &[("H", 1), ("D", 32)]);
    let dims = [("B", 1), ("S", 5), ("L", 8)];
    let mut p = problem(&r.plan.kernel, &dims, &|_| (0, 7), 8);
    let out = run_with(&r, &p, &[], 1).unwrap_or_else(|e| panic!("{e}"));
    verify(&r.plan.kernel, DType::F32, &p, &out, "inside");
    put(&mut p, "pos", Data::Int(vec![0, 1, 8, 2, 3]));
    let said = run_with(&r, &p, &[], 1).expect_err("position 8 of 8");
    assert!(said.contains("pos[0, 2]") && said.contains("is 8"), "{said}");
}

/// A row that both positions choose must be one of the table.
#[test]
fn relative_rows_stay_inside_their_table() {
    let text = "attention shaw(left: int, right: int) {
  dims B, H, S, D, R
  input q, k, v : float[B, H, S, D]
  input rel     : f32[H, R, D]
  score  = dot(q, k) + dot(q + q, rel[h, clamp(j - i, -left, right) + left])
  weight = softmax(score)
  return weight @ v
}";
    let r = ready(text, "shaw", &[("H", 2), ("D", 32)]);
    for s in [1, 17, 130] {
        let mut p = problem(&r.plan.kernel, &[("B", 2), ("S", s), ("R", 9)], &|_| (0, 0), 8);
        for (name, value) in [("left", 5), ("right", 3)] {
            p.inputs.params.insert(name.into(), Value::Int(value));
        }
        let params = [("left", Value::Int(5)), ("right", Value::Int(3))];
        let out = run_with(&r, &p, &params, 2).unwrap_or_else(|e| panic!("{e}"));
        verify(&r.plan.kernel, DType::F32, &p, &out, &format!("S = {s}"));
    }
    let p = problem(&r.plan.kernel, &[("B", 1), ("S", 40), ("R", 9)], &|_| (0, 0), 8);
    let said = run_with(&r, &p, &[("left", Value::Int(5)), ("right", Value::Int(4))], 1);
    assert!(said.expect_err("10 rows of 9").contains("leaves"));
}

/// Positions of an optional tensor that is absent are 0: nothing turns.
#[test]
fn absent_positions_turn_nothing() {
    let text = "attention turned {
  dims B, H, S, D
  input q, k, v : float[B, H, S, D]
  input pos     : i32[B, S] optional
  ROTATE
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i
  weight = softmax(score)
  return weight @ v
}";
    let with = ready(
        &text.replace("ROTATE", "rotate q, k by rope() at pos[b, i]"),
        "turned",
        &[("H", 1), ("D", 32)],
    );
    let without = ready(
        &text.replace("ROTATE", "").replace("  input pos     : i32[B, S] optional\n", ""),
        "turned",
        &[("H", 1), ("D", 32)],
    );
    let outputs: Vec<Vec<f64>> = [&with, &without]
        .into_iter()
        .map(|r| {
            let p = problem(&r.plan.kernel, &[("B", 1), ("S", 40)], &|_| (0, 0), 8);
            run_with(r, &p, &[], 1).unwrap_or_else(|e| panic!("{e}"))[0].view().to_f64_vec()
        })
        .collect();
    assert_eq!(outputs[0], outputs[1]);
}
