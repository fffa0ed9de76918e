//! Tensors of 2^31 elements: addresses, counts and strides beyond 32 bits.

mod common;

use attn_compiler::artifact::DType;
use attn_compiler::pipeline;
use attn_runtime::{LoadedKernel, NamedInput, NamedOutput, RunOptions, Tensor, TensorView};
use common::*;

/// One key, so that every output row is the value row; 2^25 query rows of 64 features read one row in memory, and
/// the output alone takes 4 GiB.
#[test]
fn an_output_of_two_to_the_31_elements() {
    let text = "attention wide {\n  dims Sq, Sk, D\n  input q : float[Sq, D]\n  input k, v : float[Sk, D]\n  \
                align none\n  score = dot(q, k)\n  weight = softmax(score)\n  return weight @ v\n}\n";
    let front = front("wide.attn", text);
    let plan = plan(&front, &key("wide", DType::Bf16, &[("D", 64)]));
    let artifact = pipeline::emit(&plan, &mut ()).expect("code");
    let kernel = LoadedKernel::load(artifact).expect("a kernel");
    let rows = 1usize << 25;
    let row: Vec<half::bf16> = (0..64).map(|x| half::bf16::from_f32(x as f32 - 31.5)).collect();
    let q = TensorView::strided(&row, 0, &[rows, 64], &[0, 1]).expect("a broadcast row");
    let k = TensorView::new(&row, &[1, 64]).expect("one key");
    let mut o = Tensor::zeros(DType::Bf16, &[rows, 64]).expect("4 GiB for the output");
    let inputs: Vec<NamedInput> = vec![("q", q), ("k", k), ("v", k)];
    let mut outputs: Vec<NamedOutput> = vec![("o", o.view_mut())];
    kernel.run(&inputs, &mut outputs, &[], &RunOptions::threads(2).expect("threads")).expect("a run");
    drop(outputs);
    let o = o.as_slice::<half::bf16>().expect("bf16");
    assert_eq!(o.len(), 1 << 31);
    for at in [0, 1, rows / 2, rows - 65, rows - 1] {
        assert_eq!(&o[at * 64..at * 64 + 64], row.as_slice(), "row {at}");
    }
    let wrong = o.chunks_exact(64).position(|r| r != row.as_slice());
    assert_eq!(wrong, None);
}
