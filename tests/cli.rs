//! The command line from outside: transcripts (`tests/cmd`), statuses, files.
//!
//! To renew the transcripts: `TRYCMD=overwrite cargo test --test cli`, then read the difference.

use std::path::Path;
use std::process::{Command, Output};

use attnc::io::{Source, load, save};
use attnc::{DType, Tensor};
use tempfile::TempDir;

/// A kernel with a window, a parameter and an lse.
const WINDOW: &str = "
attention swa(window: int = 4) {
  dims B, Hq, Hkv, Sq, Sk, D
  input q    : float[B, Hq, Sq, D]
  input k, v : float[B, Hkv, Sk, D]
  heads grouped
  align bottom_right
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i & j in (i - window, i]
  weight = softmax(score)
  return weight @ v, lse
  test (Sq = [1, 17], Sk = 33, window = [1, 40], grad = true)
}
";

struct Shell {
    dir: TempDir,
}

impl Shell {
    fn new() -> Shell {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("swa.attn"), WINDOW).unwrap();
        Shell { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `attnc` in the folder; arguments are divided at blanks.
    fn run(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_attnc"))
            .args(line.split_whitespace())
            .current_dir(self.dir.path())
            .env("ATTN_CACHE_DIR", self.path("cache"))
            .env("NO_COLOR", "1")
            .output()
            .unwrap()
    }

    /// Runs with `--json` and reads the result.
    fn json(&self, line: &str) -> serde_json::Value {
        let output = self.run(&format!("{line} --json"));
        assert_eq!(output.status.code(), Some(0), "{line}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn save(&self, file: &str, name: &str, tensor: &Tensor) {
        save(&self.path(file), &[(name.to_string(), tensor)]).unwrap();
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn transcripts() {
    let cache = tempfile::tempdir().unwrap();
    trycmd::TestCases::new()
        .env("ATTN_CACHE_DIR", cache.path().to_str().unwrap())
        .env("NO_COLOR", "1")
        // Registers in the transcripts are those that are guessed without ptxas.
        .env("ATTN_PTXAS", "no-ptxas")
        .case("tests/cmd/*.md");
}

#[test]
fn a_random_run_is_verified_and_comes_from_the_cache_next_time() {
    let shell = Shell::new();
    let line = "run swa.attn --random --at Sq=33,Sk=65 --param window=7 --verify";
    let first = shell.json(line);
    assert_eq!(first["dims"], serde_json::json!({ "B": 2, "D": 64, "Hkv": 2, "Hq": 4, "Sk": 65, "Sq": 33 }));
    assert_eq!(first["cache_hit"], false);
    // Every row sees 7 keys: 33 rows, 4 heads, 2 sequences.
    assert_eq!(first["pairs"], 33 * 7 * 4 * 2);
    let checks = first["checks"].as_array().unwrap();
    assert!(checks.len() == 2 && checks.iter().all(|c| c["ok"] == true), "{checks:?}");
    let second = shell.json(line);
    assert_eq!(second["cache_hit"], true);
    assert_eq!(first["checks"], second["checks"], "the same seed makes the same data");
    assert_ne!(first["checks"], shell.json(&format!("{line} --seed 1"))["checks"]);
    assert_eq!(shell.json("cache stats")["kernels"], 1);
    shell.json("cache clear");
    assert_eq!(shell.json("cache stats")["kernels"], 0);
}

#[test]
fn outputs_are_saved_and_compared() {
    let shell = Shell::new();
    let q = Tensor::from_slice(&[1f32, 0.0, 0.0, 1.0], &[1, 1, 2, 2]).unwrap();
    for name in ["q", "k", "v"] {
        shell.save(&format!("{name}.npy"), name, &q);
    }
    let bind = "run swa.attn --bind q=q.npy --bind k=k.npy --bind v=v.npy";
    let out = shell.run(&format!("{bind} -o o=out.safetensors -o lse=out.safetensors:l"));
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    let o = load(&Source::parse(shell.path("out.safetensors:o").to_str().unwrap()), "o").unwrap();
    let o = o.view().unwrap().to_f64_vec();
    // Row 0 sees itself. Row 1 weighs (1, 0) by e^0 and (0, 1) by e^(1/sqrt 2).
    let w = 1.0 / (1.0 + (0.5f64.sqrt()).exp());
    for (x, wanted) in o.iter().zip([1.0, 0.0, w, 1.0 - w]) {
        assert!((x - wanted).abs() < 1e-6, "{o:?}");
    }
    let against = shell.run(&format!("{bind} --against o=out.safetensors:o --against lse=out.safetensors:l"));
    assert_eq!(against.status.code(), Some(0), "{}", stderr(&against));
    let wrong = Tensor::from_slice(&[1f32, 0.0, 0.3, 0.7], &[1, 1, 2, 2]).unwrap();
    shell.save("wrong.npy", "o", &wrong);
    let failed = shell.run(&format!("{bind} --against o=wrong.npy"));
    assert_eq!(failed.status.code(), Some(3), "a comparison that fails");
    assert!(String::from_utf8_lossy(&failed.stdout).contains("FAILED at element"));
    let shape = shell.run(&format!("{bind} --against o=lse.npy"));
    assert_eq!(shape.status.code(), Some(1), "a file that is not there");
}

#[test]
fn a_whole_file_binds_by_name() {
    let shell = Shell::new();
    let x = Tensor::zeros(DType::F16, &[1, 2, 3, 8]).unwrap();
    let named = ["q", "k", "v", "other"].map(|name| (name.to_string(), &x));
    save(&shell.path("all.npz"), &named).unwrap();
    let report = shell.json("run swa.attn --bind all.npz --verify");
    assert_eq!(report["dtype"], "f16");
    let none = [("x".to_string(), &x)];
    save(&shell.path("none.npz"), &none).unwrap();
    let output = shell.run("run swa.attn --bind none.npz");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("holds no input"), "{}", stderr(&output));
}

#[test]
fn grids_are_run_and_gradients_are_not_passed() {
    let shell = Shell::new();
    let report = shell.json("test swa.attn");
    let cases = report["cases"].as_array().unwrap();
    let count = |verdict: &str| cases.iter().filter(|c| c["verdict"] == verdict).count();
    assert_eq!((count("ok"), count("unsupported"), cases.len()), (12, 1, 13), "{report}");
}

#[test]
fn bench_prints_one_object() {
    let shell = Shell::new();
    let report = shell.json("bench swa.attn --at B=1,Hq=1,Hkv=1,Sq=8,Sk=8,D=16 --threads 1");
    for key in ["median_ms", "min_ms", "iqr_ms", "gflops", "fraction_of_peak", "compile_ms"] {
        assert!(report[key].as_f64().is_some_and(|x| x >= 0.0), "{key}: {report}");
    }
    assert!(report["runs"].as_u64().unwrap() >= 10 && report["threads"] == 1);
    // Rows 0, 1, 2 see 1, 2, 3 keys, the other five 4.
    assert_eq!(report["pairs"], 1 + 2 + 3 + 5 * 4);
    assert!(!report["schedule"].as_str().unwrap().is_empty());
}

#[test]
fn wrong_text_has_a_caret_and_wrong_data_a_name() {
    let shell = Shell::new();
    std::fs::write(shell.path("bad.attn"), WINDOW.replace("softmax", "sotfmax")).unwrap();
    let output = shell.run("run bad.attn --random");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("^^^") && stderr(&output).contains("bad.attn"), "{}", stderr(&output));
    let output = shell.run("run bad.attn --random --error-format json");
    for line in stderr(&output).lines() {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(message["level"], "error");
    }
    std::fs::write(shell.path("needs.attn"), WINDOW.replace("int = 4", "int")).unwrap();
    for (line, code, text) in [
        ("run swa.attn", 1, "input `q` is not bound"),
        ("run swa.attn --random --param window=big", 2, "expected an int"),
        ("run swa.attn --random --param windw=3", 2, "no such parameter"),
        ("run swa.attn --random --target sm_42", 2, "no target"),
        ("run swa.attn --random --target sm_90a", 1, "sm_90a"),
        ("run swa.attn --random --threads 5000", 2, "5000 threads"),
        ("run swa.attn --random -o p=p.npy", 2, "no such output"),
        ("run swa.attn --random -o o=p.txt", 1, "expected .npy"),
        ("run swa.attn --random --kernel other", 2, "no kernel `other`"),
        ("run swa.attn --random --at Z=3", 1, "no dim `Z`"),
        ("run swa.attn --random --at Hq=3,Hkv=2", 1, "3 query heads"),
        ("run swa.attn --bind x=q.npy", 1, "q.npy"),
        ("run needs.attn --random", 1, "`window` has no value"),
        ("run swa.attn --random --at Sq=1000000000000,Sk=1", 1, "q"),
        ("run swa.attn --random --at Sq=4611686018427387904,Sk=1", 1, "4611686018427387904"),
    ] {
        let output = shell.run(line);
        assert_eq!(output.status.code(), Some(code), "{line}: {}", stderr(&output));
        assert!(stderr(&output).contains(text), "{line}: {}", stderr(&output));
    }
    assert!(!Path::new(&shell.path("p.npy")).exists());
}
