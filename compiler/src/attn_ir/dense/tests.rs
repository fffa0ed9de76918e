//! The dense evaluator against the plainest nested loop, with [`crate::expr::eval`] for every pair.

use super::{RowResults, evaluate, evaluate_rows};
use crate::attn_ir::{Attention, Rows, Weight, text};
use crate::expr::eval::{Env, Value, eval};
use crate::expr::{TensorId, VarId};
use crate::host::{Data, Inputs, SplitMix, View};

const B: usize = 2;
const HQ: usize = 4;
const SQ: usize = 9;
const SK: usize = 21;
const D: usize = 5;
const DV: usize = 3;

/// An attention over 4 query and 2 key heads with tensors to look things up in.
fn attention(score: &str, mask: &str, weight: &str) -> Attention {
    let text = format!(
        "attention t {{
  vars b: int, h: int, i: int, j: int, row: int, B: int, Sq: int, Sk: int, w: int, c: float, on: bool, qk: float, pe: float
  dim B = B dim Sq = Sq dim Sk = Sk
  param w = 4 param c = 0.75 param on = true
  tensor q: f32[B, 4, Sq, 5]
  tensor k: f32[B, 2, Sk, 5]
  tensor v: f32[B, 2, Sk, 3]
  tensor e: f32[Sk, 5]
  tensor doc: i32[B, Sk]
  tensor seen: bit[4, Sk]
  tensor bias: f32[4, 7]
  tensor none: f32[0]
  index b, h, i, j, row
  batch B heads 4 kv_heads 2 kv_head h mod 2 seq_q Sq seq_k Sk offset Sk - Sq
  dot qk = q(batch 0, head 1, seq 2, feature 3) * k(batch 0, head 1, seq 2, feature 3)
  dot pe = q(batch 0, head 1, seq 2, feature 3) * e(seq 0, feature 1)
  score {score}
  mask {mask}
  weight {weight}
  value v(batch 0, head 1, seq 2, feature 3)
  output o: f32 = o
}}"
    );
    text::parse(&text).unwrap_or_else(|e| panic!("{score} / {mask} / {weight}: {e}"))
}

fn inputs(seed: u64) -> Inputs {
    let mut rng = SplitMix(seed);
    let mut normal = |shape: &[usize]| View::from_fn(shape, |_| rng.normal());
    let mut tensors = std::collections::HashMap::new();
    tensors.insert("q".to_string(), normal(&[B, HQ, SQ, D]));
    tensors.insert("k".into(), normal(&[B, 2, SK, D]));
    tensors.insert("e".into(), normal(&[SK, D]));
    tensors.insert("bias".into(), normal(&[4, 7]));
    tensors.insert("none".into(), normal(&[0]));
    // The values lie transposed in memory.
    let v = (0..B * 2 * DV * SK).map(|_| rng.normal()).collect();
    let strides = vec![2 * DV * SK, DV * SK, 1, SK];
    tensors.insert("v".into(), View::strided(vec![B, 2, SK, DV], strides, Data::Float(v)).unwrap());
    let doc = (0..B * SK).map(|n| (n % SK) as i64 / 6).collect();
    tensors.insert("doc".into(), View::contiguous(vec![B, SK], Data::Int(doc)).unwrap());
    let seen = (0..4 * SK).map(|_| rng.below(3) > 0).collect();
    tensors.insert("seen".into(), View::contiguous(vec![4, SK], Data::Bool(seen)).unwrap());
    let dims = [("B", B), ("Sq", SQ), ("Sk", SK)].map(|(n, x)| (n.to_string(), x as i64)).into();
    Inputs { dims, params: Default::default(), tensors }
}

struct Point<'a> {
    attention: &'a Attention,
    inputs: &'a Inputs,
    vars: Vec<Value>,
}

impl Point<'_> {
    fn view(&self, tensor: TensorId) -> &View {
        &self.inputs.tensors[&self.attention.tensor(tensor).name]
    }

    fn row(&self, rows: Rows, b: usize, head: usize, seq: usize) -> Vec<f64> {
        let view = self.view(rows.tensor);
        let mut index = vec![0; view.shape().len()];
        index[rows.seq] = seq as i64;
        for (dim, x) in [(rows.batch, b), (rows.head, head)] {
            if let Some(dim) = dim {
                index[dim] = x as i64;
            }
        }
        (0..view.shape()[rows.feature])
            .map(|x| {
                index[rows.feature] = x as i64;
                view.get(&index).unwrap().float()
            })
            .collect()
    }
}

impl Env for Point<'_> {
    fn var(&self, var: VarId) -> Value {
        self.vars[var.0 as usize]
    }

    fn load(&self, tensor: TensorId, index: &[i64]) -> Value {
        self.view(tensor).get(index).unwrap_or_else(|| panic!("unguarded load at {index:?}"))
    }
}

/// The nested loop.
fn nested(a: &Attention, inputs: &Inputs) -> RowResults {
    let vars = super::scalars(a, inputs).unwrap();
    let mut p = Point { attention: a, inputs, vars };
    let mut out = RowResults::default();
    for n in 0..B * HQ * SQ {
        let (b, h, row) = (n / SQ / HQ, n / SQ % HQ, n % SQ);
        let i = row + SK - SQ;
        for (var, x) in [(a.index.b, b), (a.index.h, h), (a.index.row, row), (a.index.i, i)] {
            p.vars[var.0 as usize] = Value::Int(x as i64);
        }
        let mut pairs = Vec::new();
        for j in 0..SK {
            p.vars[a.index.j.0 as usize] = Value::Int(j as i64);
            if !eval(&a.pool, a.mask, &p).bool() {
                continue;
            }
            for d in &a.dots {
                let (x, y) = (p.row(d.x, b, h, row), p.row(d.y, b, h % 2, j));
                p.vars[d.var.0 as usize] = Value::Float(x.iter().zip(&y).map(|(x, y)| x * y).sum());
            }
            let s = eval(&a.pool, a.score, &p).float();
            if s != f64::NEG_INFINITY {
                pairs.push((s, p.row(a.value, b, h % 2, j)));
            }
        }
        let sink = match a.weight {
            Weight::Softmax { sink: Some(sink) } => eval(&a.pool, sink, &p).float(),
            _ => f64::NEG_INFINITY,
        };
        let sum = pairs.iter().map(|(s, _)| s.exp()).sum::<f64>() + sink.exp();
        let nan = pairs.iter().any(|(s, _)| s.is_nan());
        out.lse.push(sum.ln());
        out.max_logit
            .push(pairs.iter().fold(f64::NEG_INFINITY, |m, (s, _)| if nan { f64::NAN } else { m.max(*s) }));
        for x in 0..DV {
            let weight = |s: f64| match a.weight {
                Weight::Softmax { .. } => s.exp() / sum,
                Weight::Sigmoid => 1.0 / (1.0 + (-s).exp()),
                Weight::Relu => {
                    if s < 0.0 {
                        0.0
                    } else {
                        s
                    }
                }
                Weight::Plain => s,
            };
            out.o.push(pairs.iter().map(|(s, v)| weight(*s) * v[x]).sum());
        }
        for (s, _) in pairs.iter().filter(|(s, _)| s.is_finite()) {
            out.max_abs_score = out.max_abs_score.max(s.abs());
        }
    }
    out
}

fn same(found: &RowResults, wanted: &RowResults, what: &str) {
    let close = |a: &[f64], b: &[f64]| {
        a.len() == b.len()
            && a.iter().zip(b).all(|(a, b)| {
                a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-12 * b.abs().max(1.0)
            })
    };
    assert!(close(&found.o, &wanted.o), "{what}: o\n{:?}\n{:?}", found.o, wanted.o);
    assert!(close(&found.lse, &wanted.lse), "{what}: lse\n{:?}\n{:?}", found.lse, wanted.lse);
    assert!(close(&found.max_logit, &wanted.max_logit), "{what}: max_logit");
    assert!((found.max_abs_score - wanted.max_abs_score).abs() <= 1e-12, "{what}: max |score|");
}

const MASKS: [&str; 10] = [
    "true",
    "j <= i",
    "j <= i & (i - w < j | j < 2)",
    "doc[b, i] == doc[b, j] & seen[h, j]",
    "on & j < 7 & bias[h, j] < 0.5",
    "j < row * 3 - 4",
    "rand_block(i div 3, j div 3, (Sk + 2) div 3, h, 2, 17 + b) | j mod 5 == 1",
    "false",
    "!(j <= i) & (row mod 2 == 0) != (b == 1)",
    "Sk < i & 0.0 < none[j]",
];

const SCORES: [&str; 8] = [
    "qk * 0.4",
    "[%0 = (qk + pe) / c] %0 < 0.0 ? tanh(%0) * c : min(%0, 1.5)",
    "qk + (j < 7 ? bias[h, j] : bias[h, 6]) * float(abs(i - j))",
    "qk * 0.5 + log(float(j mod 3))",
    "i < 0 ? bias[h, j] : sigmoid(pe) - float((i - j) div 4 * (j mod 4)) / 8.0",
    "float(int(qk * 3.0)) + (seen[h, j] ? pow(abs(pe), c) : -inf)",
    "-(float(max(j, row))) * 0.1",
    "doc[b, j] == doc[b, i] ? rsqrt(abs(qk)) + floor(pe) : exp2(qk) - ceil(pe) - cos(qk) * sin(pe)",
];

const WEIGHTS: [&str; 5] = ["softmax", "softmax sink = bias[h, 0] * c", "sigmoid", "relu", "plain"];

#[test]
fn agrees_with_the_nested_loop() {
    for (n, mask) in MASKS.iter().enumerate() {
        for (m, score) in SCORES.iter().enumerate() {
            let weight = WEIGHTS[(n + m) % WEIGHTS.len()];
            let a = attention(score, mask, weight);
            let data = inputs((n * 10 + m) as u64);
            same(&evaluate(&a, &data).unwrap(), &nested(&a, &data), &format!("{score} / {mask} / {weight}"));
        }
    }
}

#[test]
fn empty_rows_are_zero() {
    let empty = evaluate(&attention("qk", "false", "softmax"), &inputs(1)).unwrap();
    assert!(empty.o.iter().all(|x| *x == 0.0));
    assert!(empty.lse.iter().chain(&empty.max_logit).all(|x| *x == f64::NEG_INFINITY));
    let sink = evaluate(&attention("qk", "false", "softmax sink = c"), &inputs(1)).unwrap();
    assert!(sink.o.iter().all(|x| *x == 0.0) && sink.lse.iter().all(|x| *x == 0.75));
}

/// Puts x into the features of one tensor for keys from `first` on.
fn poison(data: &mut Inputs, tensor: &str, first: usize, x: f64) {
    let view = data.tensors.get_mut(tensor).unwrap();
    let shape = view.shape().to_vec();
    let old = view.clone();
    *view = View::from_fn(&shape, |at| {
        let index: Vec<i64> = at.iter().map(|&n| n as i64).collect();
        if at[2] < first { old.get(&index).unwrap().float() } else { x }
    });
}

#[test]
fn masked_keys_may_hold_anything() {
    for (score, mask) in [("qk * 0.4", "j < 9"), ("qk + log(float(9 - j))", "true")] {
        let a = attention(score, mask, "softmax");
        let clean = nested(&a, &inputs(5));
        for x in [f64::NAN, f64::INFINITY] {
            let mut data = inputs(5);
            poison(&mut data, "v", 9, x);
            if mask != "true" {
                poison(&mut data, "k", 9, x);
            }
            same(&evaluate(&a, &data).unwrap(), &clean, "poisoned");
        }
    }
}

#[test]
fn unmasked_nan_propagates() {
    for (tensor, weight) in [("k", "softmax"), ("v", "softmax"), ("v", "relu"), ("k", "plain")] {
        let a = attention("qk", "j <= i", weight);
        let mut data = inputs(6);
        poison(&mut data, tensor, 16, f64::NAN);
        let found = evaluate(&a, &data).unwrap();
        same(&found, &nested(&a, &data), tensor);
        for (n, o) in found.o.iter().enumerate() {
            assert_eq!(o.is_nan(), n / DV % SQ + SK - SQ >= 16, "{tensor} {weight} {n}");
        }
    }
}

#[test]
fn huge_scores_do_not_overflow() {
    let a = attention("qk * 10000.0", "j <= i", "softmax");
    let found = evaluate(&a, &inputs(7)).unwrap();
    assert!(found.o.iter().chain(&found.lse).all(|x| x.is_finite()));
    assert!(found.max_abs_score > 1e4);
}

#[test]
fn ranges_of_rows_join_to_the_whole() {
    let a = attention(SCORES[1], MASKS[2], "softmax");
    let data = inputs(8);
    let whole = evaluate_rows(&a, &data, 1, 3, 0..SQ).unwrap();
    let parts = [0..4, 4..5, 5..SQ + 100].map(|r| evaluate_rows(&a, &data, 1, 3, r).unwrap());
    assert_eq!(parts.iter().flat_map(|p| p.o.clone()).collect::<Vec<_>>(), whole.o);
    assert_eq!(parts.iter().flat_map(|p| p.lse.clone()).collect::<Vec<_>>(), whole.lse);
    assert!(evaluate_rows(&a, &data, 2, 0, 0..SQ).unwrap().o.is_empty());
}

#[test]
fn wrong_data_is_named() {
    let a = attention("qk", "true", "softmax");
    let message = |change: &dyn Fn(&mut Inputs)| {
        let mut data = inputs(9);
        change(&mut data);
        evaluate(&a, &data).unwrap_err().to_string()
    };
    assert!(
        message(&|d| {
            let _ = d.dims.remove("Sk");
        })
        .contains("`Sk`")
    );
    assert!(
        message(&|d| {
            let _ = d.dims.insert("Sk".into(), -1);
        })
        .contains("-1")
    );
    assert!(
        message(&|d| {
            let _ = d.dims.insert("Sk".into(), 22);
        })
        .contains("expected [2, 2, 22, 5]")
    );
    assert!(
        message(&|d| {
            let _ = d.tensors.remove("bias");
        })
        .contains("`bias`")
    );
    assert!(
        message(&|d| {
            let _ = d.params.insert("w".into(), Value::Bool(true));
        })
        .contains("`w`")
    );
    let bits = View::contiguous(vec![4, 7], Data::Bool(vec![true; 28])).unwrap();
    assert!(
        message(&|d| {
            let _ = d.tensors.insert("bias".into(), bits.clone());
        })
        .contains("expected f32")
    );
}
