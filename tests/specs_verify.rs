//! Specifications that CPU kernels must run, against the dense f64 reference: every listed specification of the
//! shared folder, for f32, f16 and bf16, feature dims 32, 64, 80 and 128, lengths 1 to 2304, Sq != Sk.
//!
//! Specifications that fix large head counts run with few heads here (the text is changed), and once as written.

mod common;

use attn_compiler::artifact::DType;
use attn_compiler::pipeline;
use attn_runtime::LoadedKernel;
use common::*;

/// A specification and how to bind it.
struct Case {
    name: &'static str,
    text: String,
    kernel: &'static str,
    /// Head counts to give.
    heads: &'static [(&'static str, i64)],
    /// Names of the dims that take the query length and the key length (equal: one length).
    lengths: (&'static str, &'static str),
    /// Whether there is a batch dim.
    batch: bool,
}

impl Case {
    fn new(name: &'static str, kernel: &'static str, heads: &'static [(&'static str, i64)]) -> Case {
        Case { name, text: spec(name), kernel, heads, lengths: ("S", "S"), batch: true }
    }

    /// Changes the text; the part to change must be there.
    fn with(mut self, from: &str, to: &str) -> Case {
        assert!(self.text.contains(from), "{}: `{from}` is no longer in the specification", self.name);
        self.text = self.text.replace(from, to);
        self
    }

    fn dims(&self, q: i64, k: i64) -> Vec<(&'static str, i64)> {
        let mut dims = vec![(self.lengths.0, q)];
        if self.lengths.1 != self.lengths.0 {
            dims.push((self.lengths.1, k));
        }
        if self.batch {
            dims.push(("B", 1));
        }
        dims
    }

    /// Plans for one dtype and feature dim, then runs every pair of lengths.
    fn check(&self, dtype: DType, d: i64, lengths: &[(i64, i64)]) {
        let front = front(self.name, &self.text);
        let mut dims = self.heads.to_vec();
        dims.push(("D", d));
        let key = key(self.kernel, dtype, &dims);
        let plan = plan(&front, &key);
        let artifact = pipeline::emit(&plan, &mut ()).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let kernel = LoadedKernel::load(artifact).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        for &(q, k) in lengths {
            if self.lengths.0 == self.lengths.1 && q != k {
                continue;
            }
            let ints = |name: &str| match name {
                "prefix" => (0, q),
                "pos" => (0, 5000),
                "lo" | "hi" => (0, k),
                "doc" => (0, q / 50),
                _ => (0, 2),
            };
            let problem = problem(&plan.kernel, &self.dims(q, k), &ints, (q * 31 + k + d) as u64);
            let out = run(&kernel, &plan.kernel, &problem, 2);
            verify(
                &plan.kernel,
                dtype,
                &problem,
                &out,
                &format!("{} {dtype} D={d} Sq={q} Sk={k}", self.name),
            );
        }
    }

    /// The whole grid: every dtype, feature dim and length (the long lengths once for each dtype in debug builds).
    fn grid(&self) {
        let short = [(1, 1), (17, 17), (64, 64), (129, 129), (1, 129), (129, 64), (17, 300), (300, 17)];
        let long = [(1000, 1000), (2304, 2304), (500, 2304), (1000, 129)];
        for (dtype, thorough) in [(DType::F32, 128), (DType::F16, 64), (DType::Bf16, 80)] {
            for d in [32, 64, 80, 128] {
                self.check(dtype, d, &short);
                if !cfg!(debug_assertions) || d == thorough {
                    self.check(dtype, d, &long);
                }
            }
        }
    }
}

#[test]
fn s01_causal() {
    Case { lengths: ("Sq", "Sk"), ..Case::new("01_causal.attn", "causal", &[("H", 2)]) }.grid();
}

#[test]
fn odd_feature_dims() {
    let case = Case { lengths: ("Sq", "Sk"), ..Case::new("01_causal.attn", "causal", &[("H", 2)]) };
    for d in [1, 2, 3, 17, 33, 256] {
        case.check(DType::F32, d, &[(1, 1), (70, 70), (65, 200)]);
    }
}

#[test]
fn s02_alibi() {
    Case::new("02_alibi.attn", "alibi", &[("H", 3)]).grid();
}

#[test]
fn s03_swa_sinks() {
    let case = Case { lengths: ("Sq", "Sk"), ..Case::new("03_swa_sinks.attn", "swa_sinks", &[]) };
    case.with("Hq = 64, Hkv = 8", "Hq = 4, Hkv = 2").with("D = 64", "D").grid();
}

#[test]
fn s03_swa_sinks_as_written() {
    let case = Case { lengths: ("Sq", "Sk"), ..Case::new("03_swa_sinks.attn", "swa_sinks", &[]) };
    case.check(DType::F32, 64, &[(129, 129), (1, 300), (200, 330)]);
}

#[test]
fn s05_t5() {
    Case::new("05_t5.attn", "t5_decoder_self", &[("H", 2)]).grid();
}

#[test]
fn s06_bigbird() {
    Case::new("06_bigbird.attn", "bigbird", &[("H", 2)]).grid();
}

#[test]
fn s06b_bigbird_plan() {
    Case::new("06b_bigbird_plan.attn", "bigbird_plan", &[("H", 2)]).grid();
}

#[test]
fn s04_gemma2() {
    let case = Case { lengths: ("Sq", "Sk"), ..Case::new("04_gemma2.attn", "gemma2", &[]) };
    let case = case.with("Hq = 16, Hkv = 8", "Hq = 4, Hkv = 2").with("D = 256", "D");
    case.with("window: int = 4096", "window: int = 100").grid();
}

#[test]
fn s07_doc_causal() {
    let case = Case {
        lengths: ("T", "T"),
        batch: false,
        ..Case::new("07_doc_causal.attn", "doc_causal", &[("Hq", 4), ("Hkv", 2)])
    };
    case.grid();
}

#[test]
fn s14_yarn() {
    let case = Case { lengths: ("Sq", "Sk"), ..Case::new("14_yarn.attn", "yarn_gqa", &[]) };
    let case = case.with("Hq = 40, Hkv = 8", "Hq = 4, Hkv = 2").with("D = 128", "D");
    for (dtype, d) in [(DType::F32, 128), (DType::F16, 96), (DType::Bf16, 128)] {
        case.check(dtype, d, &[(1, 1), (17, 17), (129, 129), (1, 300), (1000, 1000)]);
    }
}

#[test]
fn s17_fox() {
    let case = Case::new("17_sigmoid_fox.attn", "fox", &[("H", 2)]);
    for (dtype, d) in [(DType::F32, 64), (DType::F16, 128), (DType::Bf16, 80)] {
        case.check(dtype, d, &[(1, 1), (17, 17), (64, 64), (129, 129), (1000, 1000)]);
    }
}

/// Eight queries of a thousand keys. The tile of the text is kept.
#[test]
fn s19_misc() {
    let case = Case { lengths: ("Sq", "Sk"), ..Case::new("19_misc.attn", "misc", &[("H", 4), ("Hkv", 2)]) };
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        case.check(dtype, 128, &[(1, 1), (1, 17), (8, 64), (8, 129), (7, 1000)]);
    }
}

#[test]
fn s07_doc_causal_without_rotations() {
    let case = Case {
        lengths: ("T", "T"),
        batch: false,
        ..Case::new("07_doc_causal.attn", "doc_causal", &[("Hq", 4), ("Hkv", 2)])
    };
    case.with("  rotate q by rope(theta = 500K) at pos[i]\n", "")
        .with("  rotate k by rope(theta = 500K) at pos[j]\n", "")
        .grid();
}

#[test]
fn s08_prefix_lm() {
    Case::new("08_prefix_lm.attn", "prefix_lm", &[("H", 2)]).grid();
}

#[test]
fn s12_colt5() {
    let case = Case::new("12_colt5.attn", "colt5", &[("Hl", 1), ("Hh", 3)]);
    let case = case.with("Hl = 4, Hh = 12, D = 64", "Hl, Hh, D");
    case.grid();
}

/// Rows of f16 and bf16 are the same numbers for the reference, so the same blocks are chosen in every type.
#[test]
fn s16_nsa() {
    let case = Case::new("16_nsa.attn", "nsa", &[("Hq", 4), ("Hkv", 2)]);
    let case = case.with("Hq = 64, Hkv = 4, S, D = 128", "Hq, Hkv, S, D");
    for (dtype, d) in [(DType::F32, 64), (DType::F16, 128), (DType::Bf16, 32)] {
        case.check(dtype, d, &[(1, 1), (17, 17), (64, 64), (129, 129), (1000, 1000)]);
    }
    // Few blocks of many.
    let case = case
        .with("n = 16", "n = 3")
        .with("size = 64", "size = 16")
        .with("block = 32, stride = 16", "block = 8, stride = 8");
    case.check(DType::F32, 64, &[(129, 129), (700, 700)]);
}

/// Specifications of caches: query rows, keys that fit into the pages, dtypes.
fn cached(
    name: &str,
    kernel: &str,
    heads: &[(&'static str, i64)],
    q: &'static str,
    page: i64,
    with_q: &[i64],
) {
    let text = spec(name);
    let front = front(name, &text);
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let plan = plan(&front, &key(kernel, dtype, heads));
        let artifact = pipeline::emit(&plan, &mut ()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let loaded = LoadedKernel::load(artifact).unwrap_or_else(|e| panic!("{name}: {e}"));
        for &n in with_q {
            for keys in [1, 17, 64, 129, 1000] {
                let pages = (i64::max(keys, n) + page - 1) / page;
                let dims = [("B", 3), (q, n), ("max_pages", pages), ("n_pages", 3 * pages + 1)];
                let ints = |name: &str| match name {
                    "ctx" => (0, keys),
                    _ => (-127, 127),
                };
                let problem = problem(&plan.kernel, &dims, &ints, (n * 31 + keys) as u64);
                let out = run(&loaded, &plan.kernel, &problem, 2);
                verify(&plan.kernel, dtype, &problem, &out, &format!("{name} {dtype} {n} {keys}"));
            }
        }
    }
}

#[test]
fn s09_gqa_decode_int8() {
    cached("09_gqa_decode_int8.attn", "gqa_decode_int8", &[], "Sq", 16, &[1, 5, 8]);
}

#[test]
fn s10_mla() {
    cached("10_mla.attn", "mla_decode", &[], "Sq", 64, &[1, 3]);
}

#[test]
fn s15_tree() {
    cached("15_tree.attn", "tree_verify", &[("Hq", 4), ("Hkv", 2), ("D", 64)], "T", 16, &[1, 7, 64]);
}

#[test]
fn s17_sigmoid() {
    Case::new("17_sigmoid_fox.attn", "sigmoid_attn", &[("H", 2)]).grid();
}

#[test]
fn s18_dilated_heads() {
    Case::new("18_delta_dilated.attn", "dilated_heads", &[("H", 4)]).grid();
}
