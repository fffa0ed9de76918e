//! Chosen queries, keys and blocks, branches and merges: machine code against the f64 reference, against attentions with
//! a mask tensor that holds what the choice must be, worked out here by loops, and against the goldens of others.
//!
//! The loops share nothing with the compiler: they sort, count and pool by the words of docs/language.md. What is
//! compared is f32 on small sizes, so that every choice is clear; ties are made on purpose, of equal numbers.

mod common;

use attn_compiler::artifact::DType;
use attn_compiler::host::{Data, View};
use attn_compiler::pipeline;
use attn_runtime::{LoadedKernel, RunOptions};
use common::*;

/// A planned kernel.
struct Ready {
    plan: pipeline::Plan,
    kernel: LoadedKernel,
}

fn ready(text: &str, name: &str, heads: &[(&str, i64)]) -> Ready {
    let front = front(name, text);
    let plan = plan(&front, &key(name, DType::F32, heads));
    let artifact = pipeline::emit(&plan, &mut ()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let kernel = LoadedKernel::load(artifact).unwrap_or_else(|e| panic!("{name}: {e}"));
    Ready { plan, kernel }
}

impl Ready {
    fn problem(&self, dims: &[(&str, i64)]) -> Problem {
        problem(&self.plan.kernel, dims, &|_| (0, 0), 11)
    }

    /// Runs, and compares with the reference.
    fn outputs(&self, problem: &Problem, what: &str) -> Vec<Vec<f64>> {
        let out = run(&self.kernel, &self.plan.kernel, problem, 2);
        verify(&self.plan.kernel, DType::F32, problem, &out, what);
        out.iter().map(|t| t.view().to_f64_vec()).collect()
    }
}

/// Binds other data.
fn set(p: &mut Problem, name: &str, dtype: DType, shape: &[usize], data: Data) {
    let layout: Vec<usize> = (0..shape.len()).collect();
    let at = p.tensors.iter().position(|t| t.0 == name).unwrap_or_else(|| panic!("no input {name}"));
    p.tensors[at].1 = bound(dtype, &data, shape, &layout);
    p.inputs.tensors.insert(name.into(), View::contiguous(shape.to_vec(), data).unwrap());
}

/// Copies the inputs that both have.
fn same_inputs(from: &Problem, to: &mut Problem) {
    for (name, tensor) in &mut to.tensors {
        let Some((_, known)) = from.tensors.iter().find(|t| t.0 == *name) else { continue };
        *tensor = attn_runtime::Tensor::from_bytes(known.dtype(), known.bytes(), known.shape()).unwrap();
        to.inputs.tensors.insert(name.clone(), from.inputs.tensors[name.as_str()].clone());
    }
}

fn close(found: &[f64], wanted: &[f64], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (n, (x, y)) in found.iter().zip(wanted).enumerate() {
        let same = (x - y).abs() <= 3e-5 * (1.0 + y.abs()) || x == y;
        assert!(same, "{what}: element {n} is {x}, wanted {y}");
    }
}

/// Positions of the n largest: NaN as -inf, of equal ones the first.
fn largest(x: &[f64], n: i64) -> Vec<usize> {
    let clean = |v: f64| if v.is_nan() { f64::NEG_INFINITY } else { v };
    let mut left: Vec<usize> = (0..x.len()).collect();
    let mut out = Vec::new();
    while (out.len() as i64) < n && !left.is_empty() {
        let mut best = 0;
        for k in 1..left.len() {
            if clean(x[left[k]]) > clean(x[left[best]]) {
                best = k;
            }
        }
        out.push(left.remove(best));
    }
    out
}

const ROUTED: &str = "attention routed(n: int = 5) {
  dims B, Hq, Hkv, S, D
  input q    : float[B, Hq, S, D]
  input k, v : float[B, Hkv, S, D]
  input r    : f32[B, S]
  heads grouped
  select j = topk(r, n = n)
  score  = dot(q, k) / sqrt(D) - 0.1 * (i - j)
  mask   = j <= i + 2
  weight = softmax(score)
  return weight @ v, lse
}";

const MASKED: &str = "attention masked {
  dims B, Hq, Hkv, S, D
  input q    : float[B, Hq, S, D]
  input k, v : float[B, Hkv, S, D]
  input seen : bit[B, S]
  heads grouped
  score  = dot(q, k) / sqrt(D) - 0.1 * (i - j)
  mask   = j <= i + 2 & seen[b, j]
  weight = softmax(score)
  return weight @ v, lse
}";

/// As [`Ready::outputs`] with a parameter.
fn with_n(ready: &Ready, p: &mut Problem, n: i64, what: &str) -> Vec<Vec<f64>> {
    use attn_compiler::expr::eval::Value;
    p.inputs.params.insert("n".into(), Value::Int(n));
    let inputs: Vec<_> = p.tensors.iter().map(|(n, t)| (n.as_str(), t.view())).collect();
    let mut out: Vec<attn_runtime::Tensor> =
        p.outputs.iter().map(|(_, d, s)| attn_runtime::Tensor::zeros(*d, s).unwrap()).collect();
    let mut views: Vec<_> =
        p.outputs.iter().zip(&mut out).map(|((n, ..), t)| (n.as_str(), t.view_mut())).collect();
    let options = RunOptions::threads(2).unwrap();
    ready
        .kernel
        .run(&inputs, &mut views, &[("n", Value::Int(n))], &options)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    drop(views);
    verify(&ready.plan.kernel, DType::F32, p, &out, what);
    out.iter().map(|t| t.view().to_f64_vec()).collect()
}

#[test]
fn chosen_keys_are_the_largest_whatever_there_is() {
    let heads = [("Hq", 4), ("Hkv", 2), ("D", 16)];
    let (routed, masked) = (ready(ROUTED, "routed", &heads), ready(MASKED, "masked", &heads));
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    for s in [1usize, 7, 70] {
        let dims = [("B", 2), ("S", s as i64)];
        let base = routed.problem(&dims);
        let rows: Vec<(&str, Vec<f64>)> = vec![
            ("normal", base.inputs.tensors["r"].to_f64_vec()),
            ("equal", vec![1.0; 2 * s]),
            ("few levels", (0..2 * s).map(|x| (x % 3) as f64).collect()),
            ("all -inf", vec![-inf; 2 * s]),
            ("NaN", (0..2 * s).map(|x| if x % 2 == 0 { nan } else { x as f64 }).collect()),
            ("only NaN", vec![nan; 2 * s]),
            ("signed zeros", (0..2 * s).map(|x| if x % 2 == 0 { -0.0 } else { 0.0 }).collect()),
            ("infinite", (0..2 * s).map(|x| if x % 5 == 0 { inf } else { -inf }).collect()),
        ];
        for (what, r) in rows {
            for n in [0, 1, 5, s as i64, s as i64 + 9, -3] {
                let what = format!("S = {s}, {what}, n = {n}");
                let mut p = routed.problem(&dims);
                set(&mut p, "r", DType::F32, &[2, s], Data::Float(r.clone()));
                let found = with_n(&routed, &mut p, n, &what);
                let mut seen = vec![false; 2 * s];
                for b in 0..2 {
                    largest(&r[b * s..(b + 1) * s], n).into_iter().for_each(|j| seen[b * s + j] = true);
                }
                let mut q = masked.problem(&dims);
                same_inputs(&p, &mut q);
                set(&mut q, "seen", DType::Bit, &[2, s], Data::Bool(seen));
                let wanted = masked.outputs(&q, &what);
                close(&found[0], &wanted[0], &what);
                close(&found[1], &wanted[1], &what);
            }
        }
    }
}

#[test]
fn routed_queries_go_back_to_their_places_times_their_gate() {
    let routed = "attention routed(n: int = 5) {
      dims B, H, S, D
      input r : f32[B, S]
      branch some {
        input q, k, v : float[B, H, S, D]
        select i = topk(r, n = n, gate = sigmoid(r))
        score  = dot(q, k) / sqrt(D)
        mask   = j <= i
        weight = softmax(score)
        return weight @ v
      }
      return scatter(some)
    }";
    let whole = "attention whole {
      dims B, H, S, D
      branch some {
        input q, k, v : float[B, H, S, D]
        score  = dot(q, k) / sqrt(D)
        mask   = j <= i
        weight = softmax(score)
        return weight @ v
      }
      return some
    }";
    let heads = [("H", 2), ("D", 16)];
    let (routed, whole) = (ready(routed, "routed", &heads), ready(whole, "whole", &heads));
    let (s, d) = (33usize, 16usize);
    let dims = [("B", 2), ("S", s as i64)];
    for n in [0, 1, 6, 33, 50] {
        let mut p = routed.problem(&dims);
        // Of equal numbers the first.
        let r: Vec<f64> = (0..2 * s).map(|x| ((x * 7) % 5) as f64 - 2.0).collect();
        set(&mut p, "r", DType::F32, &[2, s], Data::Float(r.clone()));
        let found = with_n(&routed, &mut p, n, &format!("n = {n}")).remove(0);
        let mut q = whole.problem(&dims);
        same_inputs(&p, &mut q);
        let mut wanted = whole.outputs(&q, "whole").remove(0);
        for b in 0..2 {
            let chosen = largest(&r[b * s..(b + 1) * s], n);
            for h in 0..2 {
                for i in 0..s {
                    let gate = if chosen.contains(&i) { 1.0 / (1.0 + (-r[b * s + i]).exp()) } else { 0.0 };
                    let at = ((b * 2 + h) * s + i) * d;
                    wanted[at..at + d].iter_mut().for_each(|x| *x *= gate);
                }
            }
        }
        close(&found, &wanted, &format!("n = {n}"));
    }
}

#[test]
fn an_unchosen_query_returns_zero_whatever_it_holds() {
    let text = "attention routed {
      dims B, H, S, D
      input r : f32[B, S]
      branch some {
        input q, k, v : float[B, H, S, D]
        select i = topk(r, n = 1)
        score  = dot(q, k) / sqrt(D)
        weight = softmax(score)
        return weight @ v
      }
      return scatter(some)
    }";
    let routed = ready(text, "routed", &[("H", 1), ("D", 16)]);
    let mut p = routed.problem(&[("B", 1), ("S", 4)]);
    set(&mut p, "r", DType::F32, &[1, 4], Data::Float(vec![0.0, 3.0, f64::NAN, 1.0]));
    let mut q = p.inputs.tensors["some.q"].to_f64_vec();
    q[..16].fill(f64::NAN);
    set(&mut p, "some.q", DType::F32, &[1, 1, 4, 16], Data::Float(q));
    let found = routed.outputs(&p, "NaN query").remove(0);
    for (row, values) in found.chunks(16).enumerate() {
        assert_eq!(values.iter().all(|x| *x == 0.0), row != 1, "row {row}: {values:?}");
    }
}

const LISTED: &str = "attention listed {
  dims B, Hq, Hkv, S, D, N, NQ = (S + 15) div 16
  input q    : float[B, Hq, S, D]
  input k, v : float[B, Hkv, S, D]
  input t    : i32[B, Hkv, NQ, N]
  heads grouped
  select j = blocks(t, size = 16)
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i + 20
  weight = softmax(score)
  return weight @ v, lse
}";

/// Adds the logarithm of how often a pair counts.
const TIMES: &str = "attention times {
  dims B, Hq, Hkv, S, D
  input q    : float[B, Hq, S, D]
  input k, v : float[B, Hkv, S, D]
  input n    : f32[B, Hkv, S, S]
  heads grouped
  score  = dot(q, k) / sqrt(D) + log(n[b, h div 2, i, j])
  mask   = j <= i + 20
  weight = softmax(score)
  return weight @ v, lse
}";

#[test]
fn listed_blocks_count_as_often_as_they_are_named() {
    let heads = [("Hq", 4), ("Hkv", 2), ("D", 16)];
    let (listed, times) = (ready(LISTED, "listed", &heads), ready(TIMES, "times", &heads));
    for (s, n) in [(1usize, 1usize), (33, 4), (100, 5), (64, 0)] {
        let (nq, nk) = (s.div_ceil(16), s.div_ceil(16));
        let mut p = problem(
            &listed.plan.kernel,
            &[("B", 1), ("S", s as i64), ("N", n as i64)],
            &|_| (-1, nk as i64 - 1),
            5,
        );
        let t: Vec<i64> = (0..2 * nq * n).map(|x| (x as i64 * 5) % (nk as i64 + 1) - 1).collect();
        set(&mut p, "t", DType::I32, &[1, 2, nq, n], Data::Int(t.clone()));
        let found = listed.outputs(&p, &format!("S = {s}"));
        let mut count = vec![0.0; 2 * s * s];
        for g in 0..2 {
            for i in 0..s {
                for e in 0..n {
                    let block = t[(g * nq + i / 16) * n + e];
                    if block < 0 {
                        break;
                    }
                    let keys = block as usize * 16..(block as usize * 16 + 16).min(s);
                    keys.for_each(|j| count[(g * s + i) * s + j] += 1.0);
                }
            }
        }
        let mut q = times.problem(&[("B", 1), ("S", s as i64)]);
        same_inputs(&p, &mut q);
        set(&mut q, "n", DType::F32, &[1, 2, s, s], Data::Float(count));
        let wanted = times.outputs(&q, &format!("S = {s}"));
        close(&found[0], &wanted[0], "o");
        close(&found[1], &wanted[1], "lse");
    }
}

#[test]
fn a_block_that_does_not_exist_is_refused() {
    let listed = ready(LISTED, "listed", &[("Hq", 4), ("Hkv", 2), ("D", 16)]);
    let refused = |t: Vec<i64>, nq: usize| {
        let mut p = problem(&listed.plan.kernel, &[("B", 1), ("S", 40), ("N", 2)], &|_| (0, 0), 5);
        set(&mut p, "t", DType::I32, &[1, 2, nq, 2], Data::Int(t));
        let inputs: Vec<_> = p.tensors.iter().map(|(n, t)| (n.as_str(), t.view())).collect();
        let mut out: Vec<attn_runtime::Tensor> =
            p.outputs.iter().map(|(_, d, s)| attn_runtime::Tensor::zeros(*d, s).unwrap()).collect();
        let mut views: Vec<_> =
            p.outputs.iter().zip(&mut out).map(|((n, ..), t)| (n.as_str(), t.view_mut())).collect();
        let run = listed.kernel.run(&inputs, &mut views, &[], &RunOptions::threads(1).unwrap());
        run.err().map(|e| e.to_string())
    };
    assert_eq!(refused(vec![0, 2, 1, -1, -1, -1, 2, 2, 0, 0, 1, 1], 3), None);
    let said = refused(vec![0, 2, 1, -1, -1, -1, 2, 3, 0, 0, 1, 1], 3).expect("block 3 of 3 is refused");
    assert!(said.contains("is 3") && said.contains("t"), "{said}");
    assert!(refused(vec![0; 8], 2).is_some(), "two lists for three blocks of queries");
}

/// Options of `topk_blocks`.
#[derive(Clone, Copy, Debug)]
struct Ranking {
    block: usize,
    stride: usize,
    size: usize,
    n: usize,
    softmax: bool,
    share: bool,
    /// first, current
    keep: [bool; 2],
}

const RANK_HEADS: (usize, usize, usize) = (4, 2, 16);
const RANK_SCALE: f64 = 0.5;

impl Ranking {
    fn text(self) -> String {
        let Ranking { block, stride, size, n, softmax, share, keep } = self;
        let names = keep.iter().zip(["first", "current"]).filter(|k| *k.0).map(|k| k.1);
        let keep: Vec<&str> = names.collect();
        let mut options = String::new();
        if softmax {
            options += ", pool = softmax";
        }
        if share {
            options += ", share = kv_head";
        }
        if !keep.is_empty() {
            options += &format!(", keep = [{}]", keep.join(", "));
        }
        format!(
            "attention ranked {{
              dims B, Hq, Hkv, S, D
              input q    : float[B, Hq, S, D]
              input k, v : float[B, Hkv, S, D]
              heads grouped
              let kc = mean_pool(k, block = {block}, stride = {stride})
              select j = topk_blocks(score = dot(q, kc) * {RANK_SCALE}, size = {size}, n = {n}{options})
              score  = dot(q, k) / sqrt(D)
              mask   = j <= i
              weight = softmax(score)
              return weight @ v, lse
            }}"
        )
    }

    /// Pooled scores of a head and query for the windows that it sees: (window, score).
    fn scores(self, q: &[f64], k: &[f64], s: usize, h: usize, i: usize) -> Vec<(usize, f64)> {
        let (hq, hkv, d) = RANK_HEADS;
        let windows = if s >= self.block { (s - self.block) / self.stride + 1 } else { 0 };
        let seen = (0..windows).filter(|w| w * self.stride + self.block - 1 <= i);
        let score = |w: usize| {
            let mut sum = 0.0;
            for x in 0..d {
                let first = h / (hq / hkv) * s + w * self.stride;
                let mean = (0..self.block).map(|t| k[(first + t) * d + x]).sum::<f64>() / self.block as f64;
                sum += q[(h * s + i) * d + x] * mean;
            }
            sum * RANK_SCALE
        };
        seen.map(|w| (w, score(w))).collect()
    }

    /// What must be chosen for a query by one group of heads.
    fn chosen(self, q: &[f64], k: &[f64], s: usize, heads: &[usize], i: usize) -> Vec<usize> {
        let blocks = s.div_ceil(self.size);
        let mut total = vec![None; blocks];
        for &h in heads {
            let scores = self.scores(q, k, s, h, i);
            let most = scores.iter().map(|x| x.1).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|x| (x.1 - most).exp()).sum();
            let mut own: Vec<Option<f64>> = vec![None; blocks];
            for (w, x) in scores {
                let slot = &mut own[w * self.stride / self.size];
                *slot = Some(match (*slot, self.softmax) {
                    (old, true) => old.unwrap_or(0.0) + (x - most).exp() / sum,
                    (None, false) => x,
                    (Some(old), false) => old.max(x),
                });
            }
            for (t, x) in total.iter_mut().zip(own) {
                if let Some(x) = x {
                    *t = Some(t.unwrap_or(0.0) + x);
                }
            }
        }
        let is_kept = |c: &usize| (self.keep[0] && *c == 0) || (self.keep[1] && *c == i / self.size);
        let mut out: Vec<usize> = (0..blocks).filter(is_kept).take(self.n).collect();
        let mut rest: Vec<usize> = (0..blocks).filter(|c| total[*c].is_some() && !is_kept(c)).collect();
        rest.sort_by(|a, b| total[*b].partial_cmp(&total[*a]).unwrap().then(a.cmp(b)));
        out.extend(rest.into_iter().take(self.n - out.len()));
        out
    }

    /// Which pairs are chosen, `[Hq, S, S]`.
    fn pairs(self, q: &[f64], k: &[f64], s: usize) -> Vec<bool> {
        let (hq, hkv, _) = RANK_HEADS;
        let of = if self.share { hq / hkv } else { 1 };
        let mut seen = vec![false; hq * s * s];
        for (h, i) in (0..hq).flat_map(|h| (0..s).map(move |i| (h, i))) {
            let heads: Vec<usize> = (h / of * of..(h / of + 1) * of).collect();
            for c in self.chosen(q, k, s, &heads, i) {
                let keys = c * self.size..((c + 1) * self.size).min(s);
                keys.for_each(|j| seen[(h * s + i) * s + j] = true);
            }
        }
        seen
    }
}

#[test]
fn ranked_blocks_are_those_that_loops_find() {
    let (hq, hkv, d) = RANK_HEADS;
    let heads = [("Hq", hq as i64), ("Hkv", hkv as i64), ("D", d as i64)];
    let masked = "attention masked {
      dims B, Hq, Hkv, S, D
      input q    : float[B, Hq, S, D]
      input k, v : float[B, Hkv, S, D]
      input seen : bit[Hq, S, S]
      heads grouped
      score  = dot(q, k) / sqrt(D)
      mask   = j <= i & seen[h, i, j]
      weight = softmax(score)
      return weight @ v, lse
    }";
    let masked = ready(masked, "masked", &heads);
    // block, stride, size, n, softmax, share, keep first and current
    let cases = [
        (8, 4, 16, 3, false, true, [true, true]),
        (8, 4, 16, 3, true, true, [true, true]),
        (16, 16, 16, 2, false, false, [false, true]),
        (16, 16, 16, 1, false, true, [true, false]),
        (4, 3, 8, 4, false, true, [false, false]),
        (5, 20, 8, 2, true, false, [false, false]),
        (8, 4, 16, 0, false, true, [true, true]),
        (8, 4, 16, 99, false, true, [false, true]),
        (40, 8, 16, 2, false, false, [true, true]),
    ];
    for (block, stride, size, n, softmax, share, keep) in cases {
        let ranking = Ranking { block, stride, size, n, softmax, share, keep };
        let ranked = ready(&ranking.text(), "ranked", &heads);
        for s in [1usize, 17, 77, 150] {
            let what = format!("{ranking:?}, S = {s}");
            let dims = [("B", 1), ("S", s as i64)];
            let p = ranked.problem(&dims);
            let found = ranked.outputs(&p, &what);
            let (q, k) = (p.inputs.tensors["q"].to_f64_vec(), p.inputs.tensors["k"].to_f64_vec());
            let mut m = masked.problem(&dims);
            same_inputs(&p, &mut m);
            set(&mut m, "seen", DType::Bit, &[hq, s, s], Data::Bool(ranking.pairs(&q, &k, s)));
            let wanted = masked.outputs(&m, &what);
            close(&found[0], &wanted[0], &what);
            close(&found[1], &wanted[1], &what);
        }
    }
}

#[test]
fn equal_blocks_are_chosen_from_the_first() {
    let text = "attention ranked {
      dims B, H, S, D
      input q, k, v : float[B, H, S, D]
      let kc = mean_pool(k, block = 4, stride = 4)
      select j = topk_blocks(score = dot(q, kc), size = 4, n = 2)
      score  = dot(q, k)
      weight = softmax(score)
      return weight @ v
    }";
    let ranked = ready(text, "ranked", &[("H", 1), ("D", 16)]);
    let mut p = ranked.problem(&[("B", 1), ("S", 20)]);
    set(&mut p, "k", DType::F32, &[1, 1, 20, 16], Data::Float(vec![0.25; 320]));
    let found = ranked.outputs(&p, "equal keys").remove(0);
    let v = p.inputs.tensors["v"].to_f64_vec();
    let mean: Vec<f64> = (0..16).map(|x| (0..8).map(|j| v[j * 16 + x]).sum::<f64>() / 8.0).collect();
    found.chunks(16).for_each(|row| close(row, &mean, "mean of blocks 0 and 1"));
    // A NaN key makes its window worth nothing, and the block is not seen.
    let mut k = vec![0.25; 320];
    k[16..32].fill(f64::NAN);
    set(&mut p, "k", DType::F32, &[1, 1, 20, 16], Data::Float(k));
    let found = ranked.outputs(&p, "a NaN key").remove(0);
    let mean: Vec<f64> = (0..16).map(|x| (4..12).map(|j| v[j * 16 + x]).sum::<f64>() / 8.0).collect();
    found.chunks(16).for_each(|row| close(row, &mean, "mean of blocks 1 and 2"));
}

#[test]
fn merged_branches_are_the_attention_over_all_their_keys() {
    let parts = "attention parts {
      dims B, H, S, D
      input q, k, v : float[B, H, S, D]
      branch a { score = dot(q, k) / sqrt(D)  mask = j <= i & j mod 3 == 0  weight = softmax(score)  return weight @ v }
      branch c { score = dot(q, k) / sqrt(D)  mask = j <= i & j mod 3 == 1  weight = softmax(score)  return weight @ v }
      branch e { score = dot(q, k) / sqrt(D)  mask = j <= i & j mod 3 == 2 & i > 4  weight = softmax(score)
        return weight @ v }
      branch nothing { score = dot(q, k)  mask = j < 0  weight = softmax(score)  return weight @ v }
      return merge(a, c, e, nothing)
    }";
    let whole = "attention whole {
      dims B, H, S, D
      input q, k, v : float[B, H, S, D]
      score  = dot(q, k) / sqrt(D)
      mask   = j <= i & (j mod 3 != 2 | i > 4)
      weight = softmax(score)
      return weight @ v
    }";
    let empty = "attention empty {
      dims B, H, S, D
      input q, k, v : float[B, H, S, D]
      branch a { score = dot(q, k)  mask = j < i - 3  weight = softmax(score)  return weight @ v }
      branch c { score = dot(q, k)  mask = j < i - 5  weight = softmax(score)  return weight @ v }
      return merge(a, c)
    }";
    let heads = [("H", 2), ("D", 16)];
    let (parts, whole) = (ready(parts, "parts", &heads), ready(whole, "whole", &heads));
    for s in [1, 40, 100] {
        let dims = [("B", 2), ("S", s)];
        let p = parts.problem(&dims);
        let found = parts.outputs(&p, "parts").remove(0);
        let mut q = whole.problem(&dims);
        same_inputs(&p, &mut q);
        close(&found, &whole.outputs(&q, "whole").remove(0), &format!("S = {s}"));
    }
    let empty = ready(empty, "empty", &heads);
    let p = empty.problem(&[("B", 1), ("S", 12)]);
    let found = empty.outputs(&p, "empty").remove(0);
    let first_rows = found.chunks(16).enumerate().filter(|(r, _)| r % 12 < 4);
    first_rows.for_each(|(r, row)| assert!(row.iter().all(|x| *x == 0.0), "row {r}: {row:?}"));
}

#[test]
fn branches_combine_with_gates_rows_and_conditions() {
    let text = "attention combined(edge: int = 5) {
      dims B, H, S, D
      input q, k, v : float[B, H, S, D]
      input g       : float[B, S, H, 2]
      input bias    : float[D]
      input r       : f32[S]
      rotate q by rope(theta = 100) at i
      rotate k by rope(theta = 100) at j
      branch a { score = dot(q, k) / sqrt(D)  mask = j <= i  weight = softmax(score)  return weight @ v }
      branch c { score = dot(q, k) / sqrt(D)  mask = j >= i  weight = sigmoid(score)  return 2.0 * (weight @ v) }
      branch e {
        select i = topk(r, n = 4)
        score = dot(q, k) / sqrt(D)  weight = softmax(score)  return weight @ v
      }
      return (i < edge ? a : c) * g[b, i, h, 0] - scatter(e) * g[b, i, h, 1] + bias, c
    }";
    let ready = ready(text, "combined", &[("H", 2), ("D", 16)]);
    for s in [1, 30, 90] {
        let p = ready.problem(&[("B", 2), ("S", s)]);
        ready.outputs(&p, &format!("S = {s}"));
    }
}
