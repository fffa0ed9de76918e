//! Statements whose intrinsics compute: machine code on every instruction set, the interpreter, and a direct loop.

use attn_compiler::artifact::DType;
use attn_compiler::host::SplitMix;

use crate::agree::Case;
use crate::exec::{Arg, HostTensor};

/// Normal numbers, the same in every storage type that holds them.
fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut rng = SplitMix(seed);
    (0..n).map(|_| f64::from(rng.normal() as f32)).collect()
}

fn tensor(shape: &[i64], values: &[f64]) -> HostTensor {
    HostTensor::new(DType::F32, shape, values.iter().copied())
}

#[test]
fn a_right_operand_may_be_a_buffer() {
    let text = "program p { dim n: int dim k: int dim m: int input x: f32[n, 48] input y: f32[k, 32]
        output o: f32[n, m]
        launch l { buffer a[20, 48] buffer b[40, 32] buffer c[20, 32] buffer w[20, 1]
          load_rows a <- x[0 : r, 0 : x], rows = n, d = 48
          load_rows b <- y[0 : r, 0 : x], rows = k, d = 32
          fill w = 0.5
          gemm c = a * b, rows = n, k = k, n = m, skip_zero = false
          gemm c += a * b, rows = n, k = k, n = m, row_scale = w, skip_zero = true
          store_rows o[0 : r, 0 : x] <- c, rows = n, d = 21 } }";
    for (n, k) in [(1, 40), (2, 1), (20, 39), (7, 0)] {
        let (x, y) = (noise(1, 48 * n), noise(2, 32 * k));
        let case = Case {
            text,
            scalars: &[("n", Arg::Int(n as i64)), ("k", Arg::Int(k as i64)), ("m", Arg::Int(21))],
            inputs: vec![("x", tensor(&[n as i64, 48], &x)), ("y", tensor(&[k as i64, 32], &y))],
            tolerance: 1e-5,
        };
        let found = case.floats("o");
        for (at, found) in found.iter().enumerate() {
            let (r, c) = (at / 21, at % 21);
            let wanted: f64 = (0..k).map(|t| 1.5 * x[r * 48 + t] * y[t * 32 + c]).sum();
            assert!((found - wanted).abs() < 1e-4, "({r}, {c}): {found} {wanted}");
        }
    }
}
