//! Tile programs from text: maps as attention has them, where vector code must give the bits of scalar code, and
//! a launch like causal attention's.
//!
//! Both print what they measure. `ATTNC_TILES=2000` makes the times of maps mean something:
//! `ATTNC_TILES=2000 cargo test --release -p attn-runtime --test backend_exec tiles -- --nocapture --test-threads 1`.

use std::time::Instant;

use attn_compiler::artifact::{DType, Intrinsic};
use attn_compiler::backend::cpu;
use attn_compiler::tile_ir::{Program, text};

use crate::exec::{self, Arg, HostTensor, Loaded};
use crate::naive;

/// Score expressions; every one is followed by its value at query `i0 + row` and key `j0 + col`.
const MAPS: [(&str, &str); 9] = [
    ("causal", "j0 + col <= i0 + row ? s : -inf"),
    ("window", "i0 + row - (j0 + col) < 24 & j0 + col <= i0 + row ? s : -inf"),
    ("alibi", "s * 0.125 - slope * float(i0 + row - (j0 + col))"),
    ("documents", "ints[i0 + row] == ints[j0 + col] ? s : -inf"),
    ("bias", "s + halves[j0 + col]"),
    ("relative", "s + halves[i0 + row - (j0 + col) + 2048]"),
    ("clamped", "s + halves[min(i0 + row - (j0 + col), 100)]"),
    ("strided", "(j0 + col) mod 3 == 0 ? s : -inf"),
    ("softcap", "tanh(s + float(j0 + col - (i0 + row)) * 0.03125) * 2.0"),
];

fn parse(source: &str) -> Program {
    text::parse(source).unwrap_or_else(|e| panic!("{e}\n{source}"))
}

/// The expression over a 64 x 64 tile that starts at 0.5, `n` times in place.
fn tile_map(value: &str) -> Program {
    parse(&format!(
        "program maps {{
  dim n: int
  dim i0: int
  dim j0: int
  param slope: float
  input ints: i32[4096]
  input halves: f16[4096]
  launch main {{
    grid one < 1
    buffer s[64, 64]
    fill s = 0.5
    for t in 0..n {{
      map s[row < 64, col < 64], s = tile(s): {value}
    }}
  }}
}}
"
    ))
}

/// The tile afterwards and nanoseconds per element.
fn run_map(p: &Program, plain: bool, tiles: i64) -> (Vec<u32>, f64) {
    let loaded = Loaded::new(p, plain);
    let ints = HostTensor::new(DType::I32, &[4096], (0..4096).map(|n| f64::from(n / 100)));
    let halves = HostTensor::new(DType::F16, &[4096], (0..4096).map(|n| f64::from(n % 37) / 8.0));
    let mut host = [ints, halves];
    let scalars = [Arg::Int(tiles), Arg::Int(1064), Arg::Int(1032), Arg::Float(0.25)];
    let args = loaded.args(naive::table(), &mut host, &scalars);
    let start = Instant::now();
    let scratch = loaded.run(0, &args, 1);
    let elapsed = start.elapsed().as_secs_f64();
    naive::take_calls();
    // The tile is the only buffer, so it ends one line before the scratch does.
    let first = loaded.code.scratch_bytes[0] - 64 - 4 * 4096;
    let bits = (0..4096).map(|n| scratch.f32_at(first + 4 * n).to_bits()).collect();
    (bits, elapsed * 1e9 / (tiles * 4096) as f64)
}

#[test]
fn vector_code_gives_the_bits_of_scalar_code() {
    let tiles = std::env::var("ATTNC_TILES").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    for (name, value) in MAPS {
        let p = tile_map(value);
        let ((want, scalar), (got, vector)) = (run_map(&p, true, tiles), run_map(&p, false, tiles));
        println!("{name}: scalar {scalar:.3}, vector {vector:.3} ns per element");
        assert!(got == want, "{name}: {value}");
        assert!(want.iter().any(|&bits| bits != want[0]), "{name} tells elements apart");
    }
}

const CAUSAL: &str = "program causal {
  dim n: int
  input q: f32[1, 1, n, 64]
  input k: f32[1, 1, n, 64]
  output o: f32[1, 1, n, 64]
  workspace ks: f32[4096]
  launch causal {
    grid b < 1, h < 1, qt < (n + 63) div 64
    buffer q[64, 64]
    buffer s[64, 64]
    buffer acc[64, 64]
    buffer max[64, 1]
    buffer sum[64, 1]
    buffer alpha[64, 1]
    buffer inv[64, 1]
    let q0 = qt * 64
    let rows = min(n - q0, 64)
    fill acc = 0.0
    fill max = -inf
    fill sum = 0.0
    load_rows q <- q[b, h, q0 : r, 0 : x], rows = rows, d = 64
    for kt in 0..qt + 1 {
      let k0 = kt * 64
      let cols = min(n - k0, 64)
      pack_k panel(ks, 0, 64) <- k[b, h, k0 : r, 0 : x], n = cols, d = 64
      gemm s = q * panel(ks, 0, 64), rows = rows, k = 64, n = cols, skip_zero = false
      if q0 <= k0 {
        map s[row < rows, col < cols], s = tile(s): k0 + col <= q0 + row ? s : -inf
      }
      softmax_step s, rows = rows, cols = cols, scale = 0.125, row_max = max, row_sum = sum, alpha = alpha, floor_unmasked = false
      gemm acc += s * panel(ks, 0, 64), rows = rows, k = cols, n = 64, row_scale = alpha, skip_zero = false
    }
    finish_softmax rows = rows, row_max = max, row_sum = sum, sink = -inf, inv_sum = inv, lse = alpha
    store_rows o[b, h, q0 : r, 0 : x] <- acc, rows = rows, d = 64, row_scale = inv
  }
}
";

#[test]
fn a_launch_like_causal_attention_takes_the_right_steps() {
    let p = parse(CAUSAL);
    let loaded = Loaded::new(&p, false);
    let shape = [1, 1, 150, 64];
    let mut host: Vec<HostTensor> = (0..3).map(|_| HostTensor::zeros(DType::F32, &shape)).collect();
    host.push(HostTensor::zeros(DType::F32, &[4096]));
    let args = loaded.args(naive::table(), &mut host, &[Arg::Int(150)]);
    naive::take_calls();
    loaded.run(0, &args, 3);
    let steps = naive::take_calls().into_iter().filter(|(f, _)| *f == Intrinsic::SoftmaxStep);
    let sizes: Vec<(u64, u64)> = steps.map(|(_, args)| (args[2], args[3])).collect();
    let want = [(64, 64), (64, 64), (64, 64), (22, 64), (22, 64), (22, 22)];
    assert_eq!(sizes, want, "rows and columns of each step");
}

#[test]
fn the_same_program_gives_the_same_code() {
    let p = parse(CAUSAL);
    let facts = exec::facts(false);
    let first = cpu::emit(&p, &facts).expect("code");
    let mut times = vec![];
    for _ in 0..9 {
        let start = Instant::now();
        assert_eq!(cpu::emit(&p, &facts).expect("code"), first);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "{} bytes, compiled in {:.2} ms (median), {:.2} ms (best)",
        first.code.len(),
        times[4],
        times[0]
    );
}
