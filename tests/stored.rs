//! Caches of bytes with a scale for each row, read as they are stored: with a length of their own and without, few
//! query rows and many, several heads, against the dense f64 reference.

mod common;

use attn_compiler::artifact::DType;
use attn_compiler::pipeline;
use attn_runtime::LoadedKernel;
use common::*;

const LENGTHS: [(i64, i64); 6] = [(1, 1), (1, 130), (3, 70), (9, 65), (33, 200), (70, 70)];

#[test]
fn bytes_are_read_as_stored() {
    for len in ["len = kv_len", ""] {
        for scale in ["f16", "f32"] {
            let text = format!(
                "attention stored {{
  mode decode
  dims B, Hq, Hkv, Sq, Sk, D
  heads grouped
  align bottom_right
  input q    : float[B, Hq, Sq, D]
  cache k, v : i8[B, Hkv, Sk, D] {len} scale {scale} per (token, head)
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i
  weight = softmax(score)
  return weight @ v, lse
}}"
            );
            check(&text);
        }
    }
}

fn check(text: &str) {
    let front = front("stored.attn", text);
    for (hq, hkv, d) in [(4, 2, 40), (8, 1, 128), (2, 2, 64)] {
        let key = key("stored", DType::F32, &[("Hq", hq), ("Hkv", hkv), ("D", d)]);
        let plan = plan(&front, &key);
        let made = plan.program.launches.iter().find(|l| l.name.starts_with("derive"));
        assert!(made.is_none(), "rows are written anew by {:?}\n{text}", made.map(|l| &l.name));
        let artifact = pipeline::emit(&plan, &mut ()).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let kernel = LoadedKernel::load(artifact).unwrap_or_else(|e| panic!("{e}\n{text}"));
        for (sq, sk) in LENGTHS {
            let dims = [("B", 2), ("Sq", sq), ("Sk", sk)];
            let ints = |name: &str| if name == "kv_len" { (sq, sk) } else { (-127, 127) };
            let problem = problem(&plan.kernel, &dims, &ints, (hq * 1000 + sq * 31 + sk) as u64);
            let out = run(&kernel, &plan.kernel, &problem, 2);
            verify(&plan.kernel, DType::F32, &problem, &out, &format!("{hq}, {sq}, {sk}\n{text}"));
        }
    }
}
