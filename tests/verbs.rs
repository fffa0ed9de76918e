//! The verbs that look at a specification without running it: check, explain, view, build, fmt.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn attnc(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_attnc"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(args)
        .output()
        .expect("the binary runs")
}

fn ok(args: &[&str]) -> String {
    let out = attnc(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

fn specs() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = std::env::var("ATTN_SHARED").map_or_else(|_| root.join("../shared"), PathBuf::from);
    let dir = shared.join("specs");
    let list = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{} must be readable: {e}", dir.display()));
    let mut files: Vec<PathBuf> = list.map(|f| f.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() >= 20, "only {} specifications", files.len());
    files
}

#[test]
fn every_shared_specification_checks() {
    for file in specs() {
        let said = ok(&["check", file.to_str().expect("a plain path")]);
        assert!(said.starts_with("ok: "), "{}: {said}", file.display());
    }
}

/// Every kernel of every specification of the project can be planned for CPU.
#[test]
fn every_shared_specification_is_planned_for_the_cpu() {
    for file in specs() {
        let said = ok(&["check", file.to_str().expect("a plain path"), "--target", "cpu"]);
        assert!(said.starts_with("ok: "), "{}: {said}", file.display());
    }
}

/// What no target can run yet: clauses put into a text that runs, and what the diagnostic names.
#[test]
fn what_the_cpu_cannot_run_is_one_diagnostic() {
    let causal = std::fs::read_to_string("dsl-examples/causal.attn").expect("an example");
    let dir = tempfile::tempdir().expect("a folder");
    for (clause, named) in
        [("numerics { dot = fp8 }", "numerics dot = fp8"), ("numerics { dot = int8 }", "numerics dot = int8")]
    {
        let file = dir.path().join("refused.attn");
        let end = causal.trim_end().strip_suffix('}').expect("a kernel");
        std::fs::write(&file, format!("{end}  {clause}\n}}\n")).expect("a file");
        let out = attnc(&["check", file.to_str().expect("a plain path"), "--target", "cpu"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{clause}: {said}");
        assert_eq!(said.matches("error[E0801]").count(), 1, "{clause}: {said}");
        assert!(said.contains(named) && said.contains("cpu"), "{clause}: {said}");
    }
}

#[test]
fn a_gpu_target_says_what_runs_each_launch() {
    for target in ["sm_80", "sm_86", "sm_89", "sm_90a"] {
        let causal = ["check", "dsl-examples/causal.attn", "--target", target];
        let said = ok(&causal);
        let why = "attend  exact f32: `q` holds f32, and tensor cores take f16 and bf16";
        assert!(said.contains(&format!("causal for {target}")) && said.contains(why), "{said}");
        let said = ok(&[&causal[..], &["--dtype", "bf16"]].concat());
        assert!(said.contains("attend  tensor cores, bf16"), "{said}");
        let said = ok(&[&causal[..], &["--dtype", "f16", "--json"]].concat());
        let json: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        let launch = &json["kernels"][0]["launches"][0];
        assert_eq!(
            (&launch["products"], &launch["dtype"]),
            (&"tensor cores".into(), &"f16".into()),
            "{json}"
        );
        assert!(launch["tile_registers"].as_i64() > Some(32) && launch["why"].is_null(), "{json}");
    }
    let out = attnc(&["check", "dsl-examples/causal.attn", "--target", "sm_123"]);
    assert_eq!(out.status.code(), Some(2), "an unknown target is a usage error");
}

/// B = 2, H = 16, S = 8192, D = 128: 4 B H D for each of S (S + 1) / 2 pairs; 989 TFLOP/s take 0.56 ms for the tiles that
/// hold them: of 128 by 128 there are 64 * 65 / 2 a head.
#[test]
fn explain_models_a_gpu() {
    let causal =
        ["explain", "dsl-examples/causal.attn", "--at", "B=2,H=16,Sq=8Ki,Sk=8Ki,D=128", "--json", "--target"];
    let of = |more: &[&str]| -> serde_json::Value {
        let json: serde_json::Value = serde_json::from_str(&ok(&[&causal[..], more].concat())).expect("JSON");
        assert_eq!(
            json["schedule"]["tile_q"], json["schedule"]["tile_kv"],
            "the counts below are for square tiles"
        );
        let mut launch = json["gpu"]["launches"][0].clone();
        launch["tile"] = json["schedule"]["tile_q"].clone();
        launch
    };
    let near = |a: &serde_json::Value, b: f64| {
        let a = a.as_f64().unwrap_or_else(|| panic!("{a} is no number"));
        assert!((a - b).abs() <= 1e-3 * b, "{a} is not {b}");
    };
    let bf16 = of(&["sm_90a", "--dtype", "bf16"]);
    let tile = bf16["tile"].as_f64().expect("a number");
    let pairs = 32.0 * (8192.0 / tile) * (8192.0 / tile + 1.0) / 2.0 * tile * tile;
    near(&bf16["flops_useful"], 4.0 * 32.0 * 128.0 * 8192.0 * 8193.0 / 2.0);
    near(&bf16["flops_executed"], pairs * 4.0 * 128.0);
    near(&bf16["exps"], pairs);
    near(&bf16["products_ms"], pairs * 4.0 * 128.0 / 989e9);
    // Each of q, k, v and o once, and lse: 32 heads of 8192 rows.
    near(&bf16["bytes_memory"], 32.0 * 8192.0 * (4.0 * 128.0 * 2.0 + 4.0));
    assert_eq!((&bf16["limiter"], &bf16["upper_bound"]), (&"tensor cores".into(), &false.into()), "{bf16}");
    let f32 = of(&["sm_80"]);
    assert_eq!((&f32["limiter"], &f32["products"]), (&"FFMA".into(), &"exact f32".into()), "{f32}");
}

#[test]
fn build_writes_every_stage() {
    for kind in ["ast", "attnir", "schedule", "tile", "clif", "asm"] {
        let text = ok(&["build", "dsl-examples/alibi.attn", "--at", "D=32", &format!("--emit={kind}")]);
        assert!(text.len() > 40, "{kind}: {text}");
    }
    let timed =
        attnc(&["build", "dsl-examples/causal.attn", "--at", "D=64", "--time-passes", "--emit=schedule"]);
    let said = String::from_utf8_lossy(&timed.stderr).into_owned();
    for row in ["front", "lower", "emit", "text to callable machine code", "loading it from the disk cache"] {
        assert!(said.contains(row), "{row}: {said}");
    }
    let wrong = attnc(&["build", "dsl-examples/causal.attn", "--emit=tyle"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("tile"), "did-you-mean");
}

/// S = 1024 with tiles of 64 x 128: row t of tiles holds t div 2 full tiles, one partial, and the rest is skipped.
#[test]
fn explain_counts_causal_tiles() {
    let text = ok(&["explain", "dsl-examples/causal.attn", "--at", "B=1,H=1,Sq=1024,Sk=1024,D=64", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["schema"], 1);
    let text = report.to_string();
    let (full, partial) = ((0..16).map(|t| t / 2).sum::<i32>(), 16);
    for (name, n) in [("full", full), ("partial", partial), ("empty", 128 - full - partial)] {
        assert!(text.contains(&format!("\"{name}\":{n}")), "{name} = {n}: {text}");
    }
    assert!(text.contains(&format!("{}", 1024 * 1025 / 2)), "pairs in the mask: {text}");
}

fn explained(name: &str, at: &str) -> serde_json::Value {
    let text = ok(&["explain", &format!("dsl-examples/{name}.attn"), "--at", at, "--json"]);
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn explain_counts_a_recurrence_in_chunks() {
    // The read, the products of rows and their products with values, the update.
    let chunk = |n: i64| 2 * (n * 16 * 24 + n * n * 16 + n * n * 24 + n * 16 * 24);
    let executed = 6 * (chunk(32) + chunk(8));
    // outer, q @ s and the decay, for each element of the state at each step.
    let useful = 6 * 40 * 5 * (16 * 24);
    let report = explained("linear", "B=2,H=3,S=40,D=16,Dv=24");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["flops_executed"].as_f64(), Some(executed as f64));
    assert_eq!(report["flops_useful"].as_f64(), Some(useful as f64));
    let bytes = 4 * 6 * (40 * (2 * 16 + 2 * 24) + 16 * 24);
    assert_eq!(report["bytes"].as_f64(), Some(bytes as f64));
    assert_eq!(report["intensity"].as_f64(), Some(useful as f64 / bytes as f64));
    let recurrence = &report["recurrences"][0];
    assert_eq!(recurrence["form"], serde_json::json!({ "kind": "chunked", "steps": 32 }));
    assert_eq!(recurrence["steps"], 40);
    let state = serde_json::json!({ "name": "s", "shape": [16, 24], "bytes": f64::from(4 * 6 * 16 * 24) });
    assert_eq!(recurrence["states"], serde_json::json!([state]));
}

#[test]
fn explain_counts_a_recurrence_step_by_step() {
    // Two products with the state; 7 operations for each element of the update (5 products, a sum, a difference), and
    // the exponential of the decay.
    let report = explained("gated_delta", "B=2,H=1,S=40,D=16,Dv=16");
    assert_eq!(report["flops_executed"].as_f64(), Some(f64::from(2 * 40 * (2 * 2 * 256 + 7 * 256 + 1))));
    // k @ s, q @ s and two outer products, and the decay.
    assert_eq!(report["flops_useful"].as_f64(), Some(f64::from(2 * 40 * 9 * 256)));
    assert_eq!(report["recurrences"][0]["form"], serde_json::json!({ "kind": "stepwise" }));
    // Each block of 32 columns makes the exponential for itself.
    let report = explained("gated_delta", "B=2,H=1,S=40,D=16,Dv=64");
    assert_eq!(report["flops_executed"].as_f64(), Some(f64::from(2 * 40 * (11 * 16 * 64 + 2))));
}

#[test]
fn explain_counts_long_recurrences() {
    let names = "lightning linear linear_normalised gated_delta retention simple_gla minimax transnormer";
    for name in names.split(' ') {
        let report = explained(name, "S=100K");
        let count = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{name}: no {key}"));
        let ratio = count("flops_executed") / count("flops_useful");
        assert!((1.0..2.0).contains(&ratio), "{name}: {ratio}");
    }
    let out = attnc(&["view", "dsl-examples/linear.attn", "--at", "S=64"]);
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && text.contains("there is no mask to look at"), "{text}");
}

#[test]
fn view_draws() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).to_str().expect("a plain path").to_string();
    let (html, png, svg) = (path("v.html"), path("v.png"), path("v.svg"));
    let args =
        ["view", "dsl-examples/dilated_heads.attn", "--at", "S=512", "--head", "3", "--color", "never"];
    let text = ok(&[&args[..], &["--html", &html, "--png", &png, "--svg", &svg]].concat());
    assert!(text.contains("▒▒") && text.contains("··") && text.contains("head 3 of 4"), "{text}");
    let page = std::fs::read_to_string(&html).expect("the page");
    let start = page.find("application/json\">").expect("data") + "application/json\">".len();
    let data = &page[start..start + page[start..].find("</script>").expect("an end")];
    let data: serde_json::Value = serde_json::from_str(data).expect("JSON in the page");
    assert_eq!(data["n_heads"], 4);
    assert_eq!(data["layers"][0]["heads"].as_array().map(Vec::len), Some(4), "heads differ");
    assert!(data["layers"].as_array().is_some_and(|l| l.len() > 1), "the mask has clauses");
    assert!(!page.contains("http://") && !page.contains("https://"), "nothing is fetched");
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&png).expect("the PNG")));
    let reader = decoder.read_info().expect("a PNG");
    assert_eq!(reader.info().width, reader.info().height, "a square mask is drawn square");
    let svg = std::fs::read_to_string(&svg).expect("the SVG");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("keys"));
    let out = attnc(&["view", "dsl-examples/causal.attn", "--head", "9"]);
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn fmt_checks_and_reads_stdin() {
    let examples: Vec<String> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("dsl-examples"))
        .expect("examples")
        .map(|f| f.expect("an entry").path().display().to_string())
        .collect();
    let mut args = vec!["fmt", "--check"];
    args.extend(examples.iter().map(String::as_str));
    ok(&args);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("a.attn");
    std::fs::write(&file, "fn f( x )=x*2 // twice\n").expect("a file");
    let name = file.to_str().expect("a plain path");
    assert_eq!(attnc(&["fmt", "--check", name]).status.code(), Some(1));
    ok(&["fmt", name]);
    assert_eq!(std::fs::read_to_string(&file).expect("formatted"), "fn f(x) = x * 2  // twice\n");
}
