//! The two oracles against each other: an attention evaluated densely, and the tile IR that it lowers to,
//! interpreted: after lowering and after every pass, with tasks in random order, also after a round trip
//! through text.

use std::collections::HashMap;

use attn_compiler::attn_ir::{Attention, dense, text as attn_text};
use attn_compiler::host::{Data, Inputs, SplitMix, View};
use attn_compiler::lower::{Input, lower, tabulate::tabulate};
use attn_compiler::passes::PASSES;
use attn_compiler::schedule::choose;
use attn_compiler::target::{CpuArch, CpuFacts, Target};
use attn_compiler::tile_ir::{Program, interp, text, verify::verify};

/// Lengths of one problem.
#[derive(Clone, Copy)]
struct Sizes {
    b: usize,
    sq: usize,
    sk: usize,
}

/// 4 query heads, 2 key heads, 20 features, 33 value features, tiles of 8 x 32.
fn attention(score: &str, mask: &str, weight: &str) -> Attention {
    let text = format!(
        "attention t {{
  vars b: int, h: int, i: int, j: int, row: int, B: int, Sq: int, Sk: int, w: int, c: float, qk: float, pe: float
  dim B = B dim Sq = Sq dim Sk = Sk
  param w = 7 param c = 0.75
  tensor q: f32[B, 4, Sq, 20] layout [0, 2, 1, 3]
  tensor k: f32[B, 2, Sk, 20]
  tensor v: f32[B, 2, Sk, 33]
  tensor e: f32[Sk, 20]
  tensor doc: i32[B, Sk] sorted
  tensor seen: bit[4, Sk]
  tensor sinks: f32[4]
  index b, h, i, j, row
  batch B heads 4 kv_heads 2 kv_head h div 2 seq_q Sq seq_k Sk offset Sk - Sq
  dot qk = q(batch 0, head 1, seq 2, feature 3) * k(batch 0, head 1, seq 2, feature 3)
  dot pe = q(batch 0, head 1, seq 2, feature 3) * e(seq 0, feature 1)
  score {score}
  mask {mask}
  weight {weight}
  value v(batch 0, head 1, seq 2, feature 3)
  output o: f32 = o
  output lse: f32 = lse
  output top: f32 = max_logit
  tile_q 8 tile_kv 32
}}"
    );
    let text = if score.contains("pe") {
        text
    } else {
        text.replace("  dot pe = q(batch 0, head 1, seq 2, feature 3) * e(seq 0, feature 1)\n", "")
    };
    let text = if weight.contains("softmax") { text } else { text.replace("  output lse: f32 = lse\n", "") };
    attn_text::parse(&text).unwrap_or_else(|e| panic!("{score} / {mask} / {weight}: {e}"))
}

fn inputs(n: Sizes, seed: u64) -> Inputs {
    let mut rng = SplitMix(seed);
    let mut tensors = HashMap::new();
    let shapes: [(&str, &[usize]); 5] = [
        ("q", &[n.b, 4, n.sq, 20]),
        ("k", &[n.b, 2, n.sk, 20]),
        ("v", &[n.b, 2, n.sk, 33]),
        ("e", &[n.sk, 20]),
        ("sinks", &[4]),
    ];
    for (name, shape) in shapes {
        tensors.insert(name.to_string(), View::from_fn(shape, |_| rng.normal()));
    }
    let doc = (0..n.b * n.sk).map(|x| (x % n.sk) as i64 / 13).collect();
    tensors.insert("doc".into(), View::contiguous(vec![n.b, n.sk], Data::Int(doc)).unwrap());
    let seen = (0..4 * n.sk).map(|_| rng.below(4) > 0).collect();
    tensors.insert("seen".into(), View::contiguous(vec![4, n.sk], Data::Bool(seen)).unwrap());
    let dims = [("B", n.b), ("Sq", n.sq), ("Sk", n.sk)].map(|(d, x)| (d.to_string(), x as i64)).into();
    Inputs { dims, params: HashMap::new(), tensors }
}

fn facts() -> CpuFacts {
    let arch = CpuArch::X86_64 { sse41: true, fma: true };
    CpuFacts { arch, l1d: 32 << 10, l2: 1 << 20, l3: 32 << 20, vector_bits: 256, pairs: false }
}

fn compare(found: &View, wanted: &[f64], what: &str) {
    let Data::Float(found) = found.data() else { panic!("{what}: no floats") };
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (n, (a, b)) in found.iter().zip(wanted).enumerate() {
        // Tables are rounded to f32: their entries are off by 6e-8 of themselves.
        let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 2e-6 * b.abs().max(1.0);
        assert!(same, "{what}: element {n} is {a}, not {b}");
    }
}

fn agree(program: &Program, data: &Inputs, wanted: &dense::RowResults, seed: u64, what: &str) {
    verify(program).unwrap_or_else(|e| panic!("{what}: {e}"));
    let found = interp::run(program, data, Some(seed)).unwrap_or_else(|e| panic!("{what}: {e}"));
    compare(&found["o"], &wanted.o, &format!("{what}: o"));
    compare(&found["top"], &wanted.max_logit, &format!("{what}: max_logit"));
    if let Some(lse) = found.get("lse") {
        compare(lse, &wanted.lse, &format!("{what}: lse"));
    }
}

/// Lowers once, runs every pass, and compares after each.
fn check(score: &str, mask: &str, weight: &str, problems: &[(Sizes, Inputs)]) {
    let what = format!("{score} / {mask} / {weight}");
    let attn = attention(score, mask, weight);
    let wanted: Vec<_> = problems.iter().map(|(_, data)| dense::evaluate(&attn, data).unwrap()).collect();
    let mut lowered = attn.clone();
    let tables =
        tabulate(&mut lowered, attn.tensors.len() as u32, 0).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let schedule = choose(&attn, &facts()).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let mut program = lower(&Input::new(&lowered, &tables, &schedule));
    let target = Target::Cpu(facts());
    let compare_all = |program: &Program, stage: &str| {
        for (n, ((_, data), wanted)) in problems.iter().zip(&wanted).enumerate() {
            agree(program, data, wanted, n as u64, &format!("{what}, {stage}, problem {n}"));
        }
    };
    compare_all(&program, "lowered");
    for pass in PASSES.iter().filter(|p| (p.when)(&target)) {
        (pass.run)(&mut program);
        compare_all(&program, pass.name);
    }
    let printed = text::print(&program);
    let again = text::parse(&printed).unwrap_or_else(|e| panic!("{what}: {e}: {}", &printed[..e.at]));
    assert_eq!(text::print(&again), printed);
    compare_all(&again, "read back");
}

fn problems(seed: u64) -> Vec<(Sizes, Inputs)> {
    [(2, 19, 45), (1, 1, 70), (1, 33, 33), (1, 2, 1)]
        .map(|(b, sq, sk)| {
            let n = Sizes { b, sq, sk };
            (n, inputs(n, seed))
        })
        .into()
}

#[test]
fn masks() {
    for mask in [
        "true",
        "false",
        "j <= i",
        "j <= i & (i - w < j | j < 3)",
        "doc[b, i] == doc[b, j] & seen[h, j]",
        "h < 2 ? j <= i : (i - j) mod 3 == 0",
        "j < row * 3 - 4",
        "rand_block(i div 8, j div 8, (Sk + 7) div 8, h, 2, 17) | i div 8 == j div 8",
        "!(abs(i - j) < w)",
    ] {
        check("qk * 0.25", mask, "softmax", &problems(1));
    }
}

#[test]
fn scores_and_weights() {
    for (score, mask, weight) in [
        ("30.0 * tanh(qk / 30.0)", "j <= i", "softmax"),
        ("(qk + pe) / 4.0", "j <= i", "softmax sink = sinks[h]"),
        ("qk * 0.2 - exp2(-2.0 * float(h + 1)) * float(abs(i - j))", "j <= i", "softmax"),
        ("qk * 0.3 - log(float(Sk))", "j <= i", "sigmoid"),
        ("qk", "i - w < j", "relu"),
        ("qk * c + log(float(j mod 3))", "j <= i", "plain"),
        ("qk * 0.5 + (seen[h, j] ? c : -inf)", "true", "softmax sink = c"),
        ("qk * 10000.0", "j <= i", "softmax"),
    ] {
        check(score, mask, weight, &problems(2));
    }
}

/// Keys that no row may see hold NaN or infinity; a second problem has NaN where rows see it.
#[test]
fn nonfinite_values() {
    for weight in ["softmax", "relu"] {
        let poisoned: Vec<_> = [(f64::NAN, true), (f64::INFINITY, false), (f64::NAN, false)]
            .into_iter()
            .map(|(x, keys)| {
                let n = Sizes { b: 1, sq: 12, sk: 40 };
                let mut data = inputs(n, 3);
                for name in if keys { &["v", "k"][..] } else { &["v"][..] } {
                    let old = data.tensors[*name].clone();
                    let new = View::from_fn(old.shape(), |at| {
                        let index: Vec<i64> = at.iter().map(|&n| n as i64).collect();
                        if at[2] % 9 == 5 { x } else { old.get(&index).unwrap().float() }
                    });
                    data.tensors.insert(name.to_string(), new);
                }
                (n, data)
            })
            .collect();
        check("qk * 0.25", "j mod 9 != 5", weight, &poisoned);
        check("qk * 0.25", "j <= i & (j mod 9 != 5 | h == 1 & row == 7)", weight, &poisoned);
    }
}
