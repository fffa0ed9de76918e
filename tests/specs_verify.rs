//! Specifications that CPU kernels must run, against the dense f64 reference, over lengths, feature dims and dtypes.

mod common;

use attn_compiler::artifact::DType;
use attn_compiler::pipeline;
use attn_runtime::LoadedKernel;
use common::*;

#[test]
fn causal() {
    let front = front("01_causal.attn", &spec("01_causal.attn"));
    for d in [32, 64, 80, 128] {
        let key = key("causal", DType::F32, &[("D", d), ("H", 2)]);
        let plan = plan(&front, &key);
        let artifact = pipeline::emit(&plan, &mut ()).expect("code");
        let kernel = LoadedKernel::load(artifact).expect("a kernel");
        for (sq, sk) in [(1, 1), (17, 17), (64, 129), (129, 64), (1, 1000), (300, 300)] {
            let problem = problem(&plan.attention, &[("B", 2), ("Sq", sq), ("Sk", sk)], &|_| (0, 3), 7);
            let out = run(&kernel, &plan.attention, &problem, 2);
            verify(&plan.attention, &problem, &out, &format!("causal D={d} Sq={sq} Sk={sk}"));
        }
    }
}
