//! Caches through the facade: what is appended and seen, sequences of different lengths, what nobody reads, and what
//! a host can do wrong with lengths and tables.
//!
//! Deliberately not here: other people's results (`goldens.rs`), the specifications (`specs_verify.rs`).

mod common;

use attnc::{DType, F8E4M3, Kernel, Plan, RunOptions, Tensor, Value, bind, dims, merge, outputs};
use common::*;

const PAGED: &str = "
attention paged {
  dims B, Hq, Hkv, Sq, Sk, D
  heads grouped
  align bottom_right
  input q            : float[B, Hq, Sq, D]
  input k_new, v_new : float[B, Hkv, Sq, D]
  cache k, v         : {elem}[B, Hkv, Sk, D] paged (size = 4, table = pages, len = kv_len) {scale}
  append k_new, v_new
  rotate q, k_new by rope(theta = 10K) at i
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i
  weight = softmax(score)
  return weight @ v, lse
  {more}
}
";

fn planned(text: &str) -> Plan {
    let kernel = Kernel::from_source("a.attn", text).unwrap_or_else(|e| panic!("{e}")).without_cache();
    kernel.plan(&dims! { Hq: 4, Hkv: 2, D: 16 }, DType::F32).unwrap_or_else(|e| panic!("{e}"))
}

fn paged(more: &str) -> Plan {
    planned(&PAGED.replace("{elem}", "float").replace("{scale}", "").replace("{more}", more))
}

fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = Rng(seed);
    let data: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal() as f32).collect();
    Tensor::from_slice(&data, shape).unwrap()
}

fn filled(shape: &[usize], x: f32) -> Tensor {
    Tensor::from_slice(&vec![x; shape.iter().product()], shape).unwrap()
}

fn ints(x: &[i32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(x, shape).unwrap()
}

/// Rows `at..at + n` of `[B, H, S, D]`, for one batch entry or all.
fn rows(t: &Tensor, entry: Option<usize>, at: usize, n: usize) -> Tensor {
    let [b, h, s, d] = *t.shape() else { panic!("rank 4") };
    let x = t.as_slice::<f32>().unwrap();
    let mut out = Vec::new();
    let entries = entry.map_or(0..b, |e| e..e + 1);
    let count = entries.len();
    for b in entries {
        for h in 0..h {
            out.extend_from_slice(&x[((b * h_of(t) + h) * s + at) * d..][..n * d]);
        }
    }
    Tensor::from_slice(&out, &[count, h, n, d]).unwrap()
}

fn h_of(t: &Tensor) -> usize {
    t.shape()[1]
}

#[test]
fn a_prompt_in_any_chunks_gives_the_same_rows() {
    let plan = paged("");
    let (n, batch) = (11usize, 2usize);
    let (q, k, v) =
        (noise(&[batch, 4, n, 16], 1), noise(&[batch, 2, n, 16], 2), noise(&[batch, 2, n, 16], 3));
    let table = ints(&[5, 0, 3, 1, 6, 2], &[2, 3]);
    let go = |chunks: &[usize]| {
        // Nothing but what was appended may be read: the rest is NaN.
        let (mut kc, mut vc) = (filled(&[8, 4, 2, 16], f32::NAN), filled(&[8, 4, 2, 16], f32::NAN));
        let (mut at, mut last) = (0, (vec![], vec![]));
        for &c in chunks {
            let (q, k_new, v_new) = (rows(&q, None, at, c), rows(&k, None, at, c), rows(&v, None, at, c));
            at += c;
            let len = ints(&[at as i32; 2], &[2]);
            let (mut o, mut lse) = (filled(&[batch, 4, c, 16], 0.0), filled(&[batch, 4, c], 0.0));
            plan.run(
                &bind! { q, k_new, v_new, pages: table, kv_len: len },
                &mut outputs! { o, lse, k: kc, v: vc },
            )
            .unwrap();
            let o = rows(&o, None, c - 1, 1).as_slice::<f32>().unwrap().to_vec();
            let lse: Vec<f32> = lse.as_slice::<f32>().unwrap().chunks(c).map(|x| x[c - 1]).collect();
            last = (o, lse);
        }
        (last, kc, vc)
    };
    let ((o, lse), k_all, _) = go(&[n]);
    assert!(o.iter().chain(&lse).all(|x| x.is_finite()));
    for chunks in [vec![n - 1, 1], vec![1; n], vec![4, 4, 3], vec![3, 7, 1]] {
        let ((o2, lse2), k2, _) = go(&chunks);
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(x, y)| (x - y).abs() < 2e-6);
        assert!(near(&o, &o2) && near(&lse, &lse2), "{chunks:?}");
        assert_eq!(k_all.bytes(), k2.bytes(), "{chunks:?}: the same rows lie in the cache");
    }
    // Rows 0..11 of entry 0 lie in pages 5, 0, 3; the last place of page 3 and pages 4, 7 are as they were.
    let held = k_all.as_slice::<f32>().unwrap();
    let page = 4 * 2 * 16;
    assert!(held[4 * page..5 * page].iter().chain(&held[7 * page..]).all(|x| x.is_nan()));
    assert!(held[3 * page + 3 * 32..4 * page].iter().all(|x| x.is_nan()));
    assert!(held[3 * page..3 * page + 3 * 32].iter().all(|x| x.is_finite()));
}

#[test]
fn every_sequence_has_its_own_length() {
    let text = "
attention read {
  dims B, Hq, Hkv, Sq, Sk, D
  heads grouped
  align bottom_right
  input q    : float[B, Hq, Sq, D]
  cache k, v : float[B, Hkv, Sk, D] {how}
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i
  weight = softmax(score)
  return weight @ v, lse
}";
    for (how, more) in [
        ("paged (size = 16, table = pages, len = kv_len)", ""),
        ("len = kv_len", ""),
        ("paged (size = 16, table = pages, len = kv_len)", "  numerics { split = fixed(32) }\n}"),
    ] {
        let mut text = text.replace("{how}", how);
        if !more.is_empty() {
            text = text.trim_end_matches('}').to_string() + more;
        }
        let front = front("read.attn", &text);
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let plan = plan(&front, &key("read", dtype, &[("Hq", 4), ("Hkv", 2), ("D", 32)]));
            let artifact = attn_compiler::pipeline::emit(&plan, &mut ()).unwrap();
            let kernel = attn_runtime::LoadedKernel::load(artifact).unwrap();
            for sq in [1, 3] {
                let sizes = [("B", 5), ("Sq", sq), ("Sk", 144), ("max_pages", 9), ("n_pages", 50)];
                let mut p = problem(&plan.kernel, &sizes, &|_| (0, 0), 7);
                let lengths = [0, 1, 144, 100, 16];
                let at = p.tensors.iter().position(|(n, _)| n == "kv_len").unwrap();
                p.tensors[at].1 = ints(&lengths, &[5]);
                let data = attn_compiler::host::Data::Int(lengths.map(i64::from).to_vec());
                let view = attn_compiler::host::View::contiguous(vec![5], data).unwrap();
                p.inputs.tensors.insert("kv_len".into(), view);
                let out = run(&kernel, &plan.kernel, &p, 2);
                verify(&plan.kernel, dtype, &p, &out, &format!("{how} {dtype} {sq}"));
                assert!(out[0].view().to_f64_vec()[..4 * sq as usize * 32].iter().all(|x| *x == 0.0));
                assert!(out[1].view().get(&[0, 0, 0]) == Some(f64::NEG_INFINITY));
            }
        }
    }
}

/// Everything that one call of the paged kernel binds.
struct Call {
    q: Tensor,
    k_new: Tensor,
    v_new: Tensor,
    pages: Tensor,
    kv_len: Tensor,
    k: Tensor,
    v: Tensor,
}

impl Call {
    fn new(table: &[i32], lengths: &[i32]) -> Call {
        let b = lengths.len();
        Call {
            q: noise(&[b, 4, 2, 16], 1),
            k_new: noise(&[b, 2, 2, 16], 2),
            v_new: noise(&[b, 2, 2, 16], 3),
            pages: ints(table, &[b, table.len().checked_div(b).unwrap_or(0)]),
            kv_len: ints(lengths, &[b]),
            k: noise(&[6, 4, 2, 16], 4),
            v: noise(&[6, 4, 2, 16], 5),
        }
    }

    fn run(&mut self, plan: &Plan) -> Result<(Vec<f32>, Vec<f32>), attnc::Error> {
        let b = self.q.shape()[0];
        let (mut o, mut lse) = (filled(&[b, 4, 2, 16], 7.0), filled(&[b, 4, 2], 7.0));
        let Call { q, k_new, v_new, pages, kv_len, k, v } = self;
        plan.run(&bind! { q, k_new, v_new, pages, kv_len }, &mut outputs! { o, lse, k, v })?;
        Ok((o.as_slice::<f32>().unwrap().to_vec(), lse.as_slice::<f32>().unwrap().to_vec()))
    }
}

#[test]
fn wrong_lengths_and_tables_are_refused_before_anything_is_written() {
    let plan = paged("");
    let cases: [(&[i32], &[i32], &[&str]); 9] = [
        (&[0, 1, 2, 3], &[9, 4], &["`kv_len[0]` is 9", "at most 8", "`pages`"]),
        (&[0, 1, 2, 3], &[8, 1], &["`kv_len[1]` is 1", "at least 2", "`k_new`"]),
        (&[0, 1, 2, 3], &[8, -1], &["`kv_len[1]` is -1", "at least 2"]),
        (&[0, 6, 2, 3], &[5, 4], &["`pages[0, 1]` is 6", "`k` has 6 pages"]),
        (&[0, -1, 2, 3], &[8, 4], &["`pages[0, 1]` is -1", "`k` has 6 pages"]),
        (&[1, 1, 2, 3], &[8, 4], &["`pages[0, 1]` and `pages[0, 0]`", "page 1"]),
        (&[0, 1, 2, 1], &[8, 8], &["page 1", "`pages[0, 1]` and `pages[1, 1]`"]),
        (&[0, 1, 1, 3], &[8, 4], &["page 1"]),
        (&[0, 1, 0, 2], &[3, 7], &["page 0"]),
    ];
    for (table, lengths, words) in cases {
        let mut call = Call::new(table, lengths);
        let (before_k, before_v) = (call.k.clone(), call.v.clone());
        let err = call.run(&plan).expect_err(&format!("{table:?} {lengths:?}")).to_string();
        for word in words {
            assert!(err.contains(word), "{table:?} {lengths:?}: {word} is not in: {err}");
        }
        assert!(
            call.k.bytes() == before_k.bytes() && call.v.bytes() == before_v.bytes(),
            "nothing is written"
        );
    }
    // A shared prefix is no mistake: page 0 is read by both and written by none. What is not used may be anything.
    Call::new(&[0, 1, 0, 2], &[8, 7]).run(&plan).unwrap();
    Call::new(&[0, i32::MAX, 2, -5], &[4, 2]).run(&plan).unwrap();
    let mut other = Call::new(&[0, 1, 2, 3], &[8, 4]);
    other.v = noise(&[5, 4, 2, 16], 5);
    let err = other.run(&plan).unwrap_err().to_string();
    assert!(err.contains("`v` axis 0 (n_pages) is 5") && err.contains("`k` axis 0"), "{err}");
    let mut none = Call::new(&[], &[]);
    none.pages = ints(&[], &[0, 2]);
    assert!(none.run(&plan).unwrap().0.is_empty());
}

#[test]
fn what_a_sequence_gives_does_not_depend_on_the_batch_or_the_threads() {
    let plan = paged("numerics { split = fixed(32), batch_invariant = true }");
    assert!(plan.schedule().contains("split = 32"), "{}", plan.schedule());
    let mut both = Call::new(&[0, 1, 2, 3], &[8, 6]);
    let (o, lse) = both.run(&plan).unwrap();
    for b in 0..2 {
        let mut one = Call::new(&[2 * b as i32, 2 * b as i32 + 1], &[[8, 6][b]]);
        one.q = rows(&both.q, Some(b), 0, 2);
        one.k_new = rows(&both.k_new, Some(b), 0, 2);
        one.v_new = rows(&both.v_new, Some(b), 0, 2);
        let (o1, lse1) = one.run(&plan).unwrap();
        assert_eq!(&o[b * 128..][..128], o1, "entry {b}");
        assert_eq!(&lse[b * 8..][..8], lse1, "entry {b}");
    }
    let Call { q, k_new, v_new, pages, kv_len, k, v } = &mut both;
    for threads in [1, 2, 5] {
        let (mut o2, mut lse2) = (filled(&[2, 4, 2, 16], 7.0), filled(&[2, 4, 2], 7.0));
        let options = RunOptions::threads(threads).unwrap();
        let params: [(&str, Value); 0] = [];
        plan.run_with(
            &bind! { q, k_new, v_new, pages, kv_len },
            &mut outputs! { o: o2, lse: lse2, k, v },
            &params,
            &options,
        )
        .unwrap();
        assert_eq!(o2.as_slice::<f32>().unwrap(), o, "{threads} threads");
    }
}

#[test]
fn promises_about_lengths_that_only_a_run_knows_are_refused() {
    for (promise, words) in [
        ("ensure rows_nonempty", "every row sees a key"),
        ("ensure work <= 0.9 at (Sq = 64, max_pages = 64)", "`kv_len`"),
    ] {
        let text = PAGED.replace("{elem}", "float").replace("{scale}", "").replace("{more}", promise);
        let kernel = Kernel::from_source("a.attn", &text).unwrap().without_cache();
        let err = kernel.plan(&dims! { Hq: 4, Hkv: 2, D: 16 }, DType::F32).unwrap_err().to_string();
        assert!(err.contains("prove") && err.contains(words), "{promise}: {err}");
    }
}

#[test]
fn int8_rows_are_seen_as_they_are_stored() {
    let text =
        PAGED.replace("{elem}", "i8").replace("{scale}", "scale f16 per (token, head)").replace("{more}", "");
    let plan = planned(&text);
    let call = Call::new(&[0, 1, 2, 3], &[8, 4]);
    let Call { q, k_new, pages, kv_len, .. } = &call;
    let v_new = filled(&[2, 2, 2, 16], 0.0);
    let mut k = Tensor::zeros(DType::I8, &[6, 4, 2, 16]).unwrap();
    let mut v = k.clone();
    let mut k_scale = Tensor::zeros(DType::F16, &[6, 4, 2]).unwrap();
    let mut v_scale = k_scale.clone();
    let (mut o, mut lse) = (filled(&[2, 4, 2, 16], 7.0), filled(&[2, 4, 2], 7.0));
    plan.run(&bind! { q, k_new, v_new, pages, kv_len }, &mut outputs! { o, lse, k, v, k_scale, v_scale })
        .unwrap();
    // Rows of zeros: scale 0, stored 0, read 0.
    assert!(v.as_slice::<i8>().unwrap().iter().all(|x| *x == 0));
    assert!(v_scale.view().to_f64_vec().iter().all(|x| *x == 0.0));
    assert!(o.as_slice::<f32>().unwrap().iter().all(|x| *x == 0.0));
    // The largest element of every stored row is 127 in magnitude; nothing else is touched.
    for (n, row) in k.as_slice::<i8>().unwrap().chunks(16).enumerate() {
        let top = row.iter().map(|x| x.unsigned_abs()).max();
        let (page, slot) = (n / 8, n / 2 % 4);
        let stored = slot >= 2 && (page == 1 || page == 2);
        assert_eq!(top, Some(if stored { 127 } else { 0 }), "page {page}, slot {slot}");
    }
}

#[test]
fn eight_bit_floats_are_stored_rounded_and_seen_so() {
    let text = PAGED.replace("{elem}", "f8e4m3").replace("{scale}", "").replace("{more}", "");
    let plan = planned(&text);
    let call = Call::new(&[0, 1, 2, 3], &[2, 2]);
    let Call { q, k_new, v_new, pages, kv_len, .. } = &call;
    let mut k = Tensor::zeros(DType::F8E4M3, &[6, 4, 2, 16]).unwrap();
    let mut v = k.clone();
    let (mut o, mut lse) = (filled(&[2, 4, 2, 16], 7.0), filled(&[2, 4, 2], 7.0));
    plan.run(&bind! { q, k_new, v_new, pages, kv_len }, &mut outputs! { o, lse, k, v }).unwrap();
    let stored = v.as_slice::<F8E4M3>().unwrap();
    for b in 0..2 {
        for (h, t, x) in (0..2).flat_map(|h| (0..2).flat_map(move |t| (0..16).map(move |x| (h, t, x)))) {
            let new = v_new.view().get(&[b, h, t, x]).unwrap() as f32;
            assert_eq!(stored[((2 * b * 4 + t) * 2 + h) * 16 + x].0, F8E4M3::from_f32(new).0);
        }
        // The first row sees one key alone.
        for h in 0..4 {
            for x in 0..16 {
                let seen = stored[(2 * b * 8 + h / 2) * 16 + x].to_f32();
                assert!((o.view().get(&[b, h, 0, x]).unwrap() as f32 - seen).abs() < 1e-6);
            }
        }
    }
    let front = front("a.attn", &text);
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let plan = common::plan(&front, &key("paged", dtype, &[("Hq", 4), ("Hkv", 2), ("D", 32)]));
        let artifact = attn_compiler::pipeline::emit(&plan, &mut ()).unwrap();
        let kernel = attn_runtime::LoadedKernel::load(artifact).unwrap();
        let sizes = [("B", 3), ("Sq", 3), ("Sk", 76), ("max_pages", 19), ("n_pages", 60)];
        let p = problem(&plan.kernel, &sizes, &|_| (0, 0), 9);
        let out = run(&kernel, &plan.kernel, &p, 2);
        verify(&plan.kernel, dtype, &p, &out, &format!("f8 {dtype}"));
    }
}

#[test]
fn an_index_that_no_guard_covers_is_refused() {
    let tree = |mask: &str| {
        let text = format!(
            "attention tree {{ dims B, H, T, Sk, D  align none
               input q : float[B, H, T, D]  input k, v : float[B, H, Sk, D]
               input ctx : i32[B]  input anc : bit[B, T, T]
               score = dot(q, k) / sqrt(D)  mask = {mask}  weight = softmax(score)  return weight @ v }}"
        );
        let kernel = Kernel::from_source("a.attn", &text).unwrap().without_cache();
        let plan = kernel.plan(&dims! { H: 1, D: 16 }, DType::F32).unwrap();
        let (q, k) = (noise(&[1, 1, 3, 16], 1), noise(&[1, 1, 12, 16], 2));
        let v = k.clone();
        let (ctx, anc) = (ints(&[6], &[1]), Tensor::from_bools(&[true; 9], &[1, 3, 3]).unwrap());
        let mut o = filled(&[1, 1, 3, 16], 0.0);
        plan.run(&bind! { q, k, v, ctx, anc }, &mut outputs! { o }).map_err(|e| e.to_string())
    };
    tree("j < ctx[b] | (j in [ctx[b], ctx[b] + T) & anc[b, i, j - ctx[b]])").unwrap();
    tree("j < ctx[b] | (j < ctx[b] + T & anc[b, i, j - ctx[b]])").unwrap();
    tree("j in [ctx[b], ctx[b] + T) ? anc[b, i, j - ctx[b]] : j < ctx[b]").unwrap();
    for mask in [
        "anc[b, i, j - ctx[b]]",
        "j < ctx[b] | anc[b, i, j - ctx[b]]",
        "j in [ctx[b], ctx[b] + T] & anc[b, i, j - ctx[b]]",
        "anc[b, i, j - ctx[b]] & j in [ctx[b], ctx[b] + T)",
    ] {
        let err = tree(mask).expect_err(mask);
        assert!(err.contains("anc[b, i, j - ctx[b]]") && err.contains("dim 2"), "{mask}: {err}");
    }
}

#[test]
fn runs_over_parts_of_the_keys_merge_to_the_whole() {
    let text = "
attention part {
  dims B, H, Sq, Sk, D
  input q    : float[B, H, Sq, D]
  input k, v : float[B, H, Sk, D]
  align none
  score  = dot(q, k) / sqrt(D)
  weight = softmax(score)
  return weight @ v, lse
}";
    let kernel = Kernel::from_source("a.attn", text).unwrap().without_cache();
    let plan = kernel.plan(&dims! { H: 2, D: 16 }, DType::F32).unwrap();
    let (q, k, v) = (noise(&[2, 2, 5, 16], 1), noise(&[2, 2, 70, 16], 2), noise(&[2, 2, 70, 16], 3));
    let part = |from: usize, n: usize| {
        let (k, v) = (rows(&k, None, from, n), rows(&v, None, from, n));
        let (mut o, mut lse) = (filled(&[2, 2, 5, 16], 0.0), filled(&[2, 2, 5], 0.0));
        plan.run(&bind! { q, k, v }, &mut outputs! { o, lse }).unwrap();
        (o, lse)
    };
    let (whole, whole_lse) = part(0, 70);
    let parts = [part(0, 1), part(1, 40), part(41, 0), part(41, 29)];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let (mut o, mut lse) = (parts[order[0]].0.clone(), parts[order[0]].1.clone());
        for n in &order[1..] {
            merge(&mut o, &mut lse, &parts[*n].0, &parts[*n].1).unwrap();
        }
        let near = |a: &Tensor, b: &Tensor| {
            a.view().to_f64_vec().iter().zip(b.view().to_f64_vec()).all(|(x, y)| (x - y).abs() < 2e-6)
        };
        assert!(near(&o, &whole) && near(&lse, &whole_lse), "{order:?}");
    }
}

/// A page is loaded as its rows lie, and rows of 16 bits stay so on their way to the products.
#[test]
fn pages_are_read_whole() {
    let text = |elem: &str, scale: &str| {
        PAGED.replace("{elem}", elem).replace("{scale}", scale).replace("{more}", "")
    };
    let cases = [
        (text("float", ""), DType::F32, "f32"),
        (text("float", ""), DType::F16, "f16"),
        (text("float", ""), DType::Bf16, "bf16"),
        (text("i8", "scale f16 per (token, head)"), DType::Bf16, "f32"),
    ];
    for (text, dtype, rows) in cases {
        let front = front("paged.attn", &text);
        let plan = plan(&front, &key("paged", dtype, &[("Hq", 4), ("Hkv", 2), ("D", 16)]));
        let printed = attn_compiler::tile_ir::text::print(&plan.program);
        assert!(printed.contains(&format!("workspace k_rows: {rows}[")), "{dtype}: {printed}");
        let launch = printed.split("launch derive_k_rows").nth(1).and_then(|l| l.split("launch ").next());
        let launch = launch.expect("the rows are made");
        assert!(launch.contains("load_rows part0 <- k[max(min(pages["), "{dtype}: {launch}");
        assert_eq!(launch.contains("map "), rows == "f32" && dtype != DType::F32, "{dtype}: {launch}");
    }
}
