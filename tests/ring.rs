//! Distributed attention in one process: every layout and number of ranks gives what one device gives, positions stay
//! global, a sink counts once, one rank gives the same bits.

use std::collections::HashMap;

use attnc::ring::{Local, RankInputs, Transport};
use attnc::{DType, Input, Kernel, Output, RingPlan, RunOptions, Tensor, Value};

const LAYOUTS: [&str; 3] = ["contiguous", "striped", "zigzag"];

/// A ring of this score, mask and weight; `more` stands before the score.
fn text(more: &str, score: &str, mask: &str, weight: &str, layout: &str) -> String {
    let lse = if weight.starts_with("softmax") { ", lse, max_logit" } else { "" };
    format!(
        "attention a(window: int = 9) {{
  dims B, Hq = 4, Hkv = 2, S, D
  input q    : float[B, Hq, S, D]
  input k, v : float[B, Hkv, S, D]
  input doc  : i32[S] sorted
  input sink : f32[Hq]
  heads grouped
  {more}
  score  = {score} + 0 * float(doc[i])
  mask   = {mask}
  weight = {weight}
  return weight @ v{lse}
  {layout}
}}"
    )
}

fn noise(shape: &[usize], seed: u32) -> Tensor {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    let data: Vec<f32> = (0..shape.iter().product()).map(|_| 2.0 * next()).collect();
    Tensor::from_slice(&data, shape).unwrap()
}

struct Data {
    tensors: HashMap<&'static str, Tensor>,
    s: usize,
}

fn data(s: usize) -> Data {
    let doc: Vec<i32> = (0..s).map(|n| (n / 13) as i32).collect();
    let tensors = HashMap::from([
        ("q", noise(&[2, 4, s, 16], 1)),
        ("k", noise(&[2, 2, s, 16], 2)),
        ("v", noise(&[2, 2, s, 16], 3)),
        ("doc", Tensor::from_slice(&doc, &[s]).unwrap()),
        ("sink", noise(&[4], 4)),
    ]);
    Data { tensors, s }
}

impl Data {
    /// In an order of its own each time: it must not matter.
    fn inputs(&self) -> Vec<Input<'_>> {
        self.tensors.iter().map(|(n, t)| (*n, t.view())).collect()
    }

    /// Runs something on fresh outputs of these names.
    fn outputs(&self, names: &[&str], run: impl FnOnce(&mut [Output<'_>])) -> Vec<Vec<f32>> {
        let shape = |n: &str| if n == "o" { vec![2, 4, self.s, 16] } else { vec![2, 4, self.s] };
        let mut out: Vec<Tensor> =
            names.iter().map(|n| Tensor::zeros(DType::F32, &shape(n)).unwrap()).collect();
        let mut views: Vec<Output<'_>> =
            names.iter().zip(&mut out).map(|(n, t)| (*n, t.view_mut())).collect();
        run(&mut views);
        drop(views);
        out.iter().map(|t| t.as_slice::<f32>().unwrap().to_vec()).collect()
    }
}

fn ring(text: &str, ranks: usize) -> RingPlan {
    let kernel = Kernel::from_source("ring.attn", text).unwrap().without_cache();
    kernel.plan_ring(&[("D", 16)], DType::F32, ranks).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// One device and every ring agree; with one rank to the bit.
fn check(more: &str, score: &str, mask: &str, weight: &str) {
    let names: &[&str] = if weight.starts_with("softmax") { &["o", "lse", "max_logit"] } else { &["o"] };
    let options = RunOptions::threads(1).unwrap();
    let one = Kernel::from_source("one.attn", &text(more, score, mask, weight, "")).unwrap().without_cache();
    let one = one.plan(&[("D", 16)], DType::F32).unwrap_or_else(|e| panic!("{e}"));
    for s in [1, 5, 64, 129] {
        let data = data(s);
        let params = [("window", Value::Int(7))];
        let want = data.outputs(names, |out| one.run_with(&data.inputs(), out, &params, &options).unwrap());
        for layout in LAYOUTS {
            let distributed =
                text(more, score, mask, weight, &format!("distribute ring(axis = S, layout = {layout})"));
            for ranks in [1, 2, 3, 8] {
                let plan = ring(&distributed, ranks);
                let got =
                    data.outputs(names, |out| plan.run(&data.inputs(), out, &params, &options).unwrap());
                for ((name, got), want) in names.iter().zip(&got).zip(&want) {
                    let what =
                        format!("{name}: {score} / {mask} / {weight}, {layout}, {ranks} ranks, S = {s}");
                    if ranks == 1 {
                        assert!(got.iter().zip(want).all(|(x, y)| x.to_bits() == y.to_bits()), "{what}");
                    }
                    // Sums of weights that are not normalised are as exact as their largest element.
                    let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    let sum = if weight == "score" { 8.0 * f32::EPSILON * largest } else { 0.0 };
                    for (n, (x, y)) in got.iter().zip(want).enumerate() {
                        let near = x == y || (x - y).abs() <= (3e-6 * y.abs().max(1.0)).max(sum);
                        assert!(near, "{what}: element {n} is {x}, expected {y}");
                    }
                }
            }
        }
    }
}

#[test]
fn causal_and_windows() {
    check("", "dot(q, k) / sqrt(D)", "j <= i", "softmax(score)");
    check("", "dot(q, k) / sqrt(D)", "j in (i - window, i]", "softmax(score)");
    check("", "dot(q, k) / sqrt(D)", "i < 3 | j > i + 2", "softmax(score)");
}

/// Keys and values go round in the order of the specification, whatever order a rank was given them in.
#[test]
fn the_order_of_inputs_does_not_matter() {
    let text = text("", "dot(q, k)", "j <= i", "softmax(score)", "distribute ring(axis = S)");
    let (plan, data, options) = (ring(&text, 3), data(20), RunOptions::threads(1).unwrap());
    let mut inputs = data.inputs();
    inputs.sort_by_key(|(n, _)| *n);
    let names = ["o", "lse", "max_logit"];
    let run = |inputs: &[Input<'_>]| {
        data.outputs(&names, |out| plan.run(inputs, out, &[("window", Value::Int(7))], &options).unwrap())
    };
    let forward = run(&inputs);
    inputs.reverse();
    assert_eq!(forward, run(&inputs));
}

#[test]
fn documents_biases_and_rotations_keep_their_positions() {
    check("", "dot(q, k) / sqrt(D)", "doc[i] == doc[j] & j <= i", "softmax(score)");
    check("", "dot(q, k) / sqrt(D) - (h + 1) * abs(i - j) / 8", "j <= i + 4", "softmax(score)");
    let turn = "rotate q by rope(theta = 100) at i\n  rotate k by rope(theta = 100) at j";
    check(turn, "dot(q, k) / sqrt(D)", "j <= i", "softmax(score)");
}

#[test]
fn sinks_count_once_and_sums_add_up() {
    check("", "dot(q, k) / sqrt(D)", "j < i", "softmax(score, sink = sink[h])");
    check("", "dot(q, k) / sqrt(D) - log(float(S))", "j <= i", "sigmoid(score)");
    check("", "dot(q, k)", "j <= i", "score");
}

#[test]
fn wrong_rings_are_refused() {
    let distribute = "distribute ring(axis = S, ranks = 4)";
    let text = text("", "dot(q, k)", "j <= i", "softmax(score)", distribute);
    let kernel = Kernel::from_source("ring.attn", &text).unwrap().without_cache();
    let said = kernel.plan_ring(&[("D", 16)], DType::F32, 3).unwrap_err().to_string();
    assert!(said.contains("the text says 4"), "{said}");
    let plan = ring(&text, 4);
    let options = RunOptions::threads(1).unwrap();
    let mut data = data(8);
    data.tensors.insert("k", noise(&[2, 2, 9, 16], 2));
    let mut o = Tensor::zeros(DType::F32, &[2, 4, 8, 16]).unwrap();
    let mut lse = Tensor::zeros(DType::F32, &[2, 4, 8]).unwrap();
    let mut top = lse.clone();
    let mut outputs = [("o", o.view_mut()), ("lse", lse.view_mut()), ("max_logit", top.view_mut())];
    let said = plan.run(&data.inputs(), &mut outputs, &[], &options).unwrap_err().to_string();
    assert!(said.contains("`k`") || said.contains("`v`") || said.contains("`q`"), "{said}");
    let mut end = Local::ring(3).remove(0);
    let empty =
        RankInputs { queries: vec![], keys: vec![], key_types: vec![], length: 0, whole: &[], params: &[] };
    let said = plan.run_rank(&mut end, empty, &options).unwrap_err().to_string();
    assert!(said.contains("planned for 4 ranks") && end.ranks() == 3, "{said}");
    let plain = Kernel::from_source("one.attn", &text.replace(distribute, "")).unwrap();
    assert!(
        plain.plan_ring(&[("D", 16)], DType::F32, 2).unwrap_err().to_string().contains("not distributed")
    );
}
