//! From checked kernels to the attention IR: what each specification becomes at several head dims.

mod sema_common;

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::{Attention, Fact, Kernel, Origin, OutputKind, Weight};
use attn_compiler::diagnostic::Code;
use attn_compiler::expr::eval::Value;
use attn_compiler::sema::{CompileError, PlanKey, instantiate, instantiate_with_clauses};
use sema_common::{check_text, key, rendered, spec, specs, text};

const HEAD_DIMS: [i64; 4] = [32, 64, 80, 128];

fn plan(source: &str, key: &PlanKey) -> Result<Attention, CompileError> {
    let (map, checked, diagnostics) = check_text(source);
    assert!(!diagnostics.has_errors(), "{}", rendered(&map, &diagnostics));
    let kernel = checked.kernel(Some(&key.kernel)).expect("the kernel must exist");
    instantiate(kernel, key).map(|k| only(&k))
}

/// The attention of a kernel that is nothing else.
fn only(kernel: &Kernel) -> Attention {
    let mut all = kernel.attentions();
    let first = all.next().expect("an attention").clone();
    assert!(all.next().is_none());
    first
}

fn planned(source: &str, key: &PlanKey) -> Attention {
    plan(source, key).unwrap_or_else(|e| panic!("{}: {e}", key.kernel))
}

fn refused(source: &str, key: &PlanKey) -> (Code, String) {
    match plan(source, key) {
        Ok(_) => panic!("{} must be refused", key.kernel),
        Err(e) => {
            let d = e.diagnostic().expect("a diagnostic with a place");
            (d.code, format!("{}\n{}", d.message, d.helps.join("\n")))
        }
    }
}

/// `dot / sqrt(D)` with the root folded.
fn scaled(d: i64) -> String {
    format!("dot / {:?}", (d as f64).sqrt())
}

#[test]
fn every_specification_checks_without_a_diagnostic() {
    for (stem, source) in specs() {
        let (map, checked, diagnostics) = check_text(&source);
        assert!(diagnostics.is_empty(), "{stem}: {}", rendered(&map, &diagnostics));
        assert!(!checked.kernels.is_empty(), "{stem} holds no kernel");
    }
}

#[test]
fn specifications_become_the_expected_expressions() {
    for d in HEAD_DIMS {
        let given = [("H", 8), ("D", d)];
        let s = scaled(d);
        let cases: [(&str, &str, String, &str); 7] = [
            ("01_causal", "causal", s.clone(), "j <= i"),
            (
                "02_alibi",
                "alibi",
                format!("{s} - pow(2.0, float(-8 * (h + 1)) / 8.0) * float(i - j)"),
                "j <= i",
            ),
            (
                "05_t5",
                "t5_decoder_self",
                "[%0 = max(i - j, 0)] dot + rel[h, %0 < 16 ? %0 : min(int(floor(log(float(%0) / 16.0) / \
                 2.0794415416798357 * 16.0)) + 16, 31)]"
                    .into(),
                "j <= i",
            ),
            (
                "06_bigbird",
                "bigbird",
                s.clone(),
                "i div 64 + -1 <= j div 64 & j div 64 <= i div 64 + 1 | i < 128 | j < 128 | rand_block(i div 64, \
                 j div 64, (S + 63) div 64, h, 3, 17)",
            ),
            (
                "06b_bigbird_plan",
                "bigbird_plan",
                format!("{s} + log(float(count[h, i div 64, j div 64]))"),
                "0 < count[h, i div 64, j div 64]",
            ),
            ("08_prefix_lm", "prefix_lm", s.clone(), "j <= i | j < prefix[b]"),
            ("17_sigmoid_fox", "sigmoid_attn", format!("{s} - log(float(S))"), "j <= i"),
        ];
        for (stem, kernel, score, mask) in cases {
            let a = planned(&spec(stem), &key(kernel, &given));
            assert_eq!(text(&a, a.score), score, "{stem} at D = {d}");
            assert_eq!(text(&a, a.mask), mask, "{stem} at D = {d}");
            assert_eq!((a.n_heads, a.n_kv_heads, text(&a, a.kv_head).as_str()), (8, 8, "h"), "{stem}");
            assert_eq!(a.feature_dim(a.dots[0].x), d);
            assert_eq!(a.feature_dim(a.value), d);
        }
    }
}

#[test]
fn causal_has_its_offset_outputs_and_runtime_lengths() {
    let a = planned(&spec("01_causal"), &key("causal", &[("H", 8), ("D", 64)]));
    assert_eq!(text(&a, a.offset), "Sk - Sq");
    let names: Vec<String> = a.runtime_dims().into_iter().map(|d| d.0).collect();
    assert_eq!(names, ["B", "Sq", "Sk"]);
    let outputs: Vec<(&str, OutputKind, DType)> =
        a.outputs.iter().map(|o| (o.name.as_str(), o.kind, o.dtype)).collect();
    assert_eq!(outputs, [("o", OutputKind::O, DType::F32), ("lse", OutputKind::Lse, DType::F32)]);
    assert_eq!(text(&a, a.batch), "B");
    let half = PlanKey { float: DType::Bf16, ..key("causal", &[("H", 8), ("D", 64)]) };
    let a = planned(&spec("01_causal"), &half);
    assert_eq!(
        (a.tensors[0].dtype, a.outputs[0].dtype, a.outputs[1].dtype),
        (DType::Bf16, DType::Bf16, DType::F32)
    );
}

#[test]
fn sinks_are_grouped_and_keep_their_parameters() {
    let a = planned(&spec("03_swa_sinks"), &key("swa_sinks", &[]));
    assert_eq!(text(&a, a.mask), "j <= i & (i - window < j & j <= i | j < keep)");
    assert_eq!(text(&a, a.kv_head), "h div 8");
    assert_eq!((a.n_heads, a.n_kv_heads), (64, 8));
    let Weight::Softmax { sink: Some(sink) } = a.weight else { panic!("a softmax with a sink") };
    assert_eq!(text(&a, sink), "sink[h]");
    let params: Vec<(&str, Option<Value>)> = a.params.iter().map(|p| (p.name.as_str(), p.default)).collect();
    assert_eq!(params, [("window", Some(Value::Int(128))), ("keep", Some(Value::Int(4)))]);
}

#[test]
fn documents_keep_their_layout_and_promise() {
    let source: String =
        spec("07_doc_causal").lines().filter(|l| !l.contains("rotate")).map(|l| format!("{l}\n")).collect();
    let a = planned(&source, &key("doc_causal", &[("Hq", 8), ("Hkv", 2), ("D", 80)]));
    assert_eq!(text(&a, a.mask), "j <= i & doc[i] == doc[j]");
    assert_eq!(a.tensors[0].layout, [1, 0, 2]);
    assert_eq!(a.tensors[3].fact, Fact::Sorted);
    assert_eq!(text(&a, a.batch), "1");
    assert_eq!((a.dots[0].x.batch, a.dots[0].x.head, a.value.head), (None, Some(0), Some(0)));
}

#[test]
fn dilated_heads_choose_by_head() {
    let a = planned(&spec("18_delta_dilated"), &key("dilated_heads", &[("H", 8), ("D", 64)]));
    let mask = "[%0 = i + -64 < j & j <= i] j <= i & (h < 4 ? i div 8192 == j div 8192 : !%0 & (i + -1024 < j & j <= i & \
                (i - j) mod 4 == 0) | %0)";
    assert_eq!(text(&a, a.mask), mask);
}

#[test]
fn clauses_of_a_mask_are_its_conjuncts() {
    let (_, checked, _) = check_text(&spec("03_swa_sinks"));
    let i = instantiate_with_clauses(&checked.kernels[0], &key("swa_sinks", &[])).expect("a plan");
    let clauses: Vec<(&str, String)> =
        i.mask_clauses[0].iter().map(|(t, _, e)| (t.as_str(), text(&only(&i.kernel), *e))).collect();
    assert_eq!(
        clauses,
        [
            ("j <= i", "j <= i".to_string()),
            ("j in (i - window, i] | j < keep", "i - window < j & j <= i | j < keep".to_string())
        ]
    );
}

#[test]
fn statics_fold_and_must_be_given() {
    let source: String =
        spec("04_gemma2").lines().filter(|l| !l.contains("rotate")).map(|l| format!("{l}\n")).collect();
    let mut k = key("gemma2", &[]);
    let local = planned(&source, &k);
    assert_eq!(text(&local, local.mask), "i - window < j & j <= i");
    assert_eq!(text(&local, local.score), "50.0 * tanh(dot * 0.0625 / 50.0)");
    k.statics.insert("local".into(), Value::Bool(false));
    let global = planned(&source, &k);
    assert_eq!(text(&global, global.mask), "j <= i");
    k.statics.insert("local".into(), Value::Int(1));
    assert_eq!(refused(&source, &k).0, Code::BadPlanValue);
    k.statics.clear();
    k.statics.insert("locla".into(), Value::Bool(true));
    assert!(refused(&source, &k).1.contains("did you mean `local`?"));
    let bare = source.replace("static local: bool = true", "static local: bool");
    assert_eq!(refused(&bare, &key("gemma2", &[])).0, Code::MissingStatic);
}

#[test]
fn sizes_that_a_plan_needs_are_asked_for_by_name() {
    let (code, said) = refused(&spec("01_causal"), &key("causal", &[("H", 8)]));
    assert_eq!(code, Code::MissingDim);
    assert!(said.contains("`D`"), "{said}");
    assert_eq!(
        refused(&spec("01_causal"), &key("causal", &[("H", 8), ("D", 64), ("E", 1)])).0,
        Code::BadPlanValue
    );
    assert_eq!(refused(&spec("01_causal"), &key("causal", &[("H", 0), ("D", 64)])).0, Code::BadPlanValue);
    assert_eq!(refused(&spec("03_swa_sinks"), &key("swa_sinks", &[("D", 80)])).0, Code::BadPlanValue);
    let (code, _) = refused(
        &spec("13_ring").replace("distribute ring(axis = S, layout = zigzag)", ""),
        &key("ring_causal", &[("Hq", 6), ("Hkv", 4), ("D", 64)]),
    );
    assert_eq!(code, Code::HeadsDivide);
    let float = PlanKey { float: DType::I8, ..key("causal", &[("H", 8), ("D", 64)]) };
    assert_eq!(refused(&spec("01_causal"), &float).0, Code::BadPlanValue);
}

const OPTIONAL: &str = "attention a {
  dims B, H, Sq, Sk, D
  align bottom_right
  input q    : float[B, H, Sq, D]
  input k, v : float[B, H, Sk, D]
  input bias : float[1, H, Sq, Sk] optional
  input keep : bit[B, Sk] optional
  input hide : bit[B, Sk] optional
  input lo   : i32[Sq] optional
  input sink : f32[H] optional
  score  = dot(q, k) + bias[0, h, i, j]
  mask   = keep[b, j] & !hide[b, j] & lo[i] <= j
  weight = softmax(score, sink = sink[h])
  return weight @ v
  schedule cpu { tile = [8, 128] }
  numerics { dot = exact, grad = deterministic, guard = nonfinite }
}";

#[test]
fn absent_optional_inputs_are_neutral() {
    let mut k = key("a", &[("H", 2), ("D", 64)]);
    let a = planned(OPTIONAL, &k);
    assert_eq!((text(&a, a.score).as_str(), text(&a, a.mask).as_str()), ("dot + 0.0", "true"));
    assert_eq!(a.weight, Weight::Softmax { sink: None });
    assert_eq!(a.tensors.iter().filter(|t| t.origin == Origin::Host).count(), 3);
    assert_eq!((a.tiles.tile_q, a.tiles.tile_kv), (Some(8), Some(128)));
    assert_eq!(a.numerics.products, attn_compiler::attn_ir::Products::Exact);
    k.present = ["bias", "keep", "hide", "lo", "sink"].map(String::from).into();
    let a = planned(OPTIONAL, &k);
    assert_eq!(text(&a, a.score), "dot + bias[0, h, row, j]", "`i` means the row in a dim of the queries");
    assert_eq!(text(&a, a.mask), "keep[b, j] & !hide[b, j] & lo[row] <= j");
    assert!(matches!(a.weight, Weight::Softmax { sink: Some(_) }));
    k.present = ["biass"].map(String::from).into();
    assert!(refused(OPTIONAL, &k).1.contains("did you mean `bias`?"));
}

#[test]
fn sums_of_dots_have_a_variable_each() {
    let source = "attention mla { dims B, Hq = 8, S, R = 32, Dr = 16
      input qc : float[B, Hq, S, R]
      input qr : float[B, Hq, S, Dr]
      input c  : float[B, S, R]
      input kr : float[B, S, Dr]
      score = (dot(qc, c) + dot(qr, kr)) * 0.5 + dot(qc, c)
      mask = j <= i  weight = softmax(score)  return cast(weight @ c, f16), max_logit }";
    let a = planned(source, &key("mla", &[]));
    assert_eq!(text(&a, a.score), "(dot + dot_2) * 0.5 + dot");
    assert_eq!(a.dots.len(), 2);
    assert_eq!((a.n_kv_heads, text(&a, a.kv_head).as_str()), (1, "0"));
    assert_eq!((a.dots[0].y.batch, a.dots[0].y.head, a.value.seq), (Some(0), None, 1));
    assert_eq!(a.outputs[0].dtype, DType::F16);
    assert_eq!(a.outputs[1].kind, OutputKind::MaxLogit);
}

#[test]
fn other_numerics_are_unsupported() {
    let base = |score: &str, ret: &str, extra: &str| {
        format!(
            "attention a {{ dims B, H, S, D
             input q, k, v : float[B, H, S, D]
             input g : float[B, S, H]
             input pe : float[S, D]
             score = {score} + 0 * g[b, i, h] * pe[i, 0]
             weight = softmax(score)
             return {ret}
             {extra} }}"
        )
    };
    for (source, clause) in
        [(base("dot(q, k)", "weight @ v", "numerics { dot = fp8 }"), "numerics dot = fp8")]
    {
        match plan(&source, &key("a", &[("H", 2), ("D", 64)])) {
            Err(CompileError::Unsupported(u)) => assert_eq!(u.clause, clause),
            other => panic!("{clause}: {:?}", other.map(|_| ())),
        }
    }
}

#[test]
fn head_maps_are_checked_for_every_head() {
    let source = |map: &str| {
        spec("13_ring")
            .replace("distribute ring(axis = S, layout = zigzag)", "")
            .replace("heads grouped", map)
    };
    let k = key("ring_causal", &[("Hq", 6), ("Hkv", 3), ("D", 64)]);
    let a = planned(&source("heads interleaved"), &k);
    assert_eq!(text(&a, a.kv_head), "h mod 3");
    let a = planned(&source("heads map by 2 - h div 2"), &k);
    assert_eq!(text(&a, a.kv_head), "2 - h div 2");
    assert_eq!(refused(&source("heads map by h div 2 - 1"), &k).0, Code::BadPlanValue);
}

#[test]
fn overflow_that_a_static_causes_is_found_when_planning() {
    let source = "attention a(static n: int) { dims B, H, S, D input q, k, v : float[B, H, S, D] score = dot(q, k) \
                  mask = j < n + 1 weight = softmax(score) return weight @ v }";
    let mut k = key("a", &[("H", 2), ("D", 64)]);
    k.statics.insert("n".into(), Value::Int(i64::MAX));
    let (code, said) = refused(source, &k);
    assert!(code == Code::BadPlanValue && said.contains("overflows"), "{said}");
    k.statics.insert("n".into(), Value::Int(4));
    let a = planned(source, &k);
    assert_eq!(text(&a, a.mask), "j < 5");
}

#[test]
fn examples_check_without_a_diagnostic() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../dsl-examples");
    for file in std::fs::read_dir(dir).expect("the examples must be readable") {
        let path = file.expect("a directory entry").path();
        if path.extension().is_some_and(|e| e == "attn") {
            let source = std::fs::read_to_string(&path).expect("a readable file");
            let (map, _, diagnostics) = check_text(&source);
            assert!(diagnostics.is_empty(), "{}: {}", path.display(), rendered(&map, &diagnostics));
        }
    }
}

#[test]
fn the_standard_library_inlines() {
    let plan_mask = |mask: &str| {
        let source = format!(
            "use std.mask use std.score attention a {{ dims B, H, S, D input q, k, v : float[B, H, S, D] \
             input doc : i32[S] sorted input len : i32[B] input rel : f32[H, 32] \
             score = dot(q, k) + alibi(alibi_slope(H)) + t5_bias(rel, 32, 128) + 0 * doc[i] * len[b] \
             mask = {mask} weight = softmax(score) return weight @ v }}"
        );
        let a = planned(&source, &key("a", &[("H", 8), ("D", 64)]));
        text(&a, a.mask)
    };
    for (mask, expected) in [
        ("causal() & window(W = 8)", "j <= i & (i + -8 < j & j <= i)"),
        ("document(doc)", "doc[i] == doc[j]"),
        ("padding(len) & prefix(4)", "j < len[b] & j < 4"),
        ("block_window(16, 2)", "i div 16 + -2 <= j div 16 & j div 16 <= i div 16"),
        (
            "bigbird(64, 1, 2, 3, (S + 63) div 64, 17) & causal()",
            "(i div 64 + -1 <= j div 64 & j div 64 <= i div 64 + 1 | (i < 128 | j < 128) | rand_block(i div 64, j div 64, \
             (S + 63) div 64, h, 3, 17)) & j <= i",
        ),
    ] {
        let found = plan_mask(mask);
        let plain = |s: &str| s.replace(['(', ')'], "");
        assert_eq!(plain(&found), plain(expected), "{mask}");
    }
}

#[test]
fn files_beside_are_found_and_shared() {
    use attn_compiler::diagnostic::SourceMap;
    let main = "use \"lib/masks.attn\" use \"more.attn\" attention a { dims B, H, S, D input q, k, v : float[B, H, S, D] \
                score = dot(q, k) mask = near(4) & far(9) weight = softmax(score) return weight @ v }";
    let mut asked = Vec::new();
    let mut resolver = |from: &str, path: &str| {
        asked.push((from.to_string(), path.to_string()));
        match path {
            "lib/masks.attn" => Ok("mask near(W) = j in (i - W, i]".to_string()),
            "more.attn" => Ok("use \"lib/masks.attn\" mask far(W) = !near(W) | j < 2".to_string()),
            _ => Err("no such file".to_string()),
        }
    };
    let mut map = SourceMap::default();
    let id = map.add("main.attn", main);
    let (checked, diagnostics) = attn_compiler::sema::check(&mut map, id, &mut resolver);
    assert!(diagnostics.is_empty(), "{}", rendered(&map, &diagnostics));
    let a = only(&instantiate(&checked.kernels[0], &key("a", &[("H", 2), ("D", 64)])).expect("a plan"));
    assert_eq!(text(&a, a.mask), "i + -4 < j & j <= i & (!(i + -9 < j & j <= i) | j < 2)");
    assert_eq!(asked[0], ("main.attn".to_string(), "lib/masks.attn".to_string()));
}

#[test]
fn positions_of_the_standard_library_type() {
    for by in ["rotary(10K, 64)", "rotary_pi(10K, 64, 8)", "rotary_ntk(10K, 64, 8)", "xpos_q(10K, 64, 512)"] {
        let source = format!(
            "use std.position attention a {{ dims B, H, S, D input q, k, v : float[B, H, S, D] rotate q by {by} at i \
             score = dot(q, k) weight = softmax(score) return weight @ v }}"
        );
        let (map, checked, diagnostics) = check_text(&source);
        assert!(diagnostics.is_empty() && checked.kernels.len() == 1, "{}", rendered(&map, &diagnostics));
    }
}
