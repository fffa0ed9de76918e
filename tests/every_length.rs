//! `attnc run --random --verify` on every kernel of the gallery and of the shared specifications, at lengths 1 to 1000
//! and at one at which its mechanism bites, within the tolerances of math.md.
//!
//! f32 here; `EVERY_DTYPE=1 cargo test --release --test every_length` adds f16 and bf16. Deliberately not here: other
//! feature sizes and Sq != Sk (`specs_verify.rs`), other people's results (`goldens.rs`).

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use common::examples::{gallery_and_specs, kernels};

const LENGTHS: [i64; 5] = [1, 17, 64, 129, 1000];

/// Specifications whose mechanisms need more than 1000 tokens: windows, chunks and original contexts of thousands.
const LONG: [(&str, &str, &str); 5] = [
    ("04_gemma2", "gemma2", "Sq=17,Sk=4300"),
    ("09_gqa_decode_int8", "gqa_decode_int8", "Sq=8,Sk=9000,B=1"),
    ("14_yarn", "yarn_gqa", "Sq=17,Sk=4300"),
    ("18_delta_dilated", "dilated_heads", "S=8300,B=1"),
    ("19_misc", "misc", "Sq=8,Sk=4200"),
];

/// One command.
struct Run {
    file: PathBuf,
    kernel: String,
    args: Vec<String>,
}

/// `S=17`, `Sq=17,Sk=17`...: the lengths that a kernel has, none beyond the bound of a dim (`Sq = 1..8`).
fn at(body: &str, length: i64) -> String {
    let line = body.lines().find_map(|l| l.trim().strip_prefix("dims ")).unwrap_or("");
    let mut out = Vec::new();
    for dim in line.split(", ") {
        let (name, size) = dim.split_once(" = ").map_or((dim, None), |(n, s)| (n, Some(s)));
        let most = match size {
            None => length,
            Some(bounds) => match bounds.split_once("..").and_then(|(_, most)| most.trim().parse().ok()) {
                Some(most) => length.min(most),
                None => continue,
            },
        };
        if ["S", "T", "Sq", "Sk", "Tq", "Tk"].contains(&name.trim()) {
            out.push(format!("{}={most}", name.trim()));
        }
    }
    out.join(",")
}

fn runs() -> Vec<Run> {
    let mut out = Vec::new();
    for (file, text) in gallery_and_specs() {
        let stem = file.file_stem().expect("a name").to_string_lossy().into_owned();
        for (_, kernel, body) in kernels(&text) {
            let mut lengths: Vec<String> = LENGTHS.iter().map(|&n| at(&body, n)).collect();
            let long = LONG.iter().find(|(s, k, _)| *s == stem && *k == kernel);
            lengths.extend(long.map(|(_, _, at)| at.to_string()));
            lengths.dedup();
            for at in lengths {
                let mut args = if at.is_empty() { vec![] } else { vec!["--at".to_string(), at] };
                if body.contains("(seen: int)") {
                    args.extend(["--param".to_string(), "seen=65".to_string()]);
                }
                out.push(Run { file: file.clone(), kernel: kernel.clone(), args });
            }
        }
    }
    out
}

impl Run {
    /// What went wrong.
    fn check(&self, dtype: &str, cache: &Path) -> Option<String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_attnc"));
        command.env("ATTN_CACHE_DIR", cache).arg("run").arg(&self.file).args(["--kernel", &self.kernel]);
        command.args(["--random", "--verify", "--dtype", dtype]).args(&self.args);
        let out = command.output().expect("attnc runs");
        let said = [String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)].concat();
        let verified = said.contains("f64 reference");
        let what = format!("{} {} {:?} {dtype}", self.file.display(), self.kernel, self.args);
        (!out.status.success() || !verified).then(|| format!("{what}\n{said}"))
    }
}

#[test]
fn every_kernel_verifies_at_every_length() {
    let dtypes: &[&str] = match std::env::var_os("EVERY_DTYPE") {
        Some(_) => &["f32", "f16", "bf16"],
        None => &["f32"],
    };
    let cache = tempfile::tempdir().expect("a scratch folder");
    let mut left: Vec<(Run, &str)> = Vec::new();
    for dtype in dtypes {
        left.extend(runs().into_iter().map(|run| (run, *dtype)));
    }
    let n_runs = left.len();
    assert!(n_runs > 400 * dtypes.len(), "{n_runs} runs");
    for (stem, kernel, at) in LONG {
        let listed = |r: &Run| {
            r.file.to_string_lossy().contains(stem) && r.kernel == kernel && r.args.contains(&at.into())
        };
        assert!(left.iter().any(|(r, _)| listed(r)), "{stem} {kernel} is gone");
    }
    let (left, wrong) = (Mutex::new(left), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some((run, dtype)) = left.lock().expect("no panic").pop() else { return };
                    let found = run.check(dtype, cache.path());
                    wrong.lock().expect("no panic").extend(found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic");
    println!("{n_runs} runs, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{} of {n_runs}\n{}", wrong.len(), wrong.join("\n"));
}
