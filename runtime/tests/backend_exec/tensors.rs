//! Statements that write tensors: maps of any type, prefix sums, selections.

use attn_compiler::artifact::DType;
use attn_compiler::expr::eval::Value;
use attn_compiler::host::SplitMix;

use crate::agree::Case;
use crate::exec::{Arg, HostTensor};

#[test]
fn maps_store_every_type() {
    let text = "program p { dim n: int dim m: int param big: int input x: f32[n, m]
        output wide: i64[n, m] output int: i32[m, n] output byte: i8[n, m] output bit: bit[n, m]
        output half: f16[n, m] output brain: bf16[n, m] output single: f32[n, m] output double: f64[n, m]
        output line: i64[2, n]
        launch l { grid t < (n + 3) div 4 buffer a[4, 48] buffer v[4, 1] buffer w[1, 48]
          let rows = min(n - t * 4, 4)
          load_rows a <- x[t * 4 : r, 0 : x], rows = rows, d = m
          map v[r < rows, c < 1]: float(t * 4 + r)
          map w[r0 < 1, c0 < m]: float(c0) * 0.5
          store_map wide[t * 4 : r, 0 : x][r1 < rows, c1 < m]: (t * 4 + r1 - c1) * big
          store_map int[0 : x, t * 4 : r][r2 < rows, c2 < m], e = tile(a): int(e * 1000.0) * big
          store_map byte[t * 4 : r, 0 : x][r3 < rows, c3 < m], e3 = tile(a), f3 = col(w): int(e3 * f3 * 10.0)
          store_map bit[t * 4 : r, 0 : x][r4 < rows, c4 < m], e4 = tile(a), f4 = row(v): e4 * f4 < float(c4 - 7)
          store_map half[t * 4 : r, 0 : x][r5 < rows, c5 < m], e5 = tile(a): e5 * 3.0
          store_map brain[t * 4 : r, 0 : x][r6 < rows, c6 < m], e6 = tile(a): e6 * 3.0
          store_map single[t * 4 : r, 0 : x][r7 < rows, c7 < m], e7 = tile(a), f7 = row(v), g7 = col(w): e7 + f7 + g7
          store_map double[t * 4 : r, 0 : x][r8 < rows, c8 < m], e8 = tile(a): e8 - 1.0
          store_map line[1, t * 4 : rx][r9 < rows, c9 < 1], e9 = row(v): int(e9) + big
          store_map line[0, t * 4 : rx][r10 < rows, c10 < 1]: r10 * 3 + t } }";
    let mut rng = SplitMix(1);
    for (n, m, big) in [(1, 1, 1), (10, 40, 1i64 << 40), (4, 17, -(1 << 22))] {
        // Of few digits, so that f32 and f64 agree but for the last rounding.
        let x: Vec<f64> = (0..n * m).map(|_| (rng.normal() * 256.0).round() / 64.0).collect();
        let inputs = vec![("x", HostTensor::new(DType::F32, &[n, m], x.iter().copied()))];
        let scalars = [("n", Arg::Int(n)), ("m", Arg::Int(m)), ("big", Arg::Int(big))];
        let found = Case { text, scalars: &scalars, inputs, tolerance: 0.0 }.outputs();
        for (r, c) in (0..n).flat_map(|r| (0..m).map(move |c| (r, c))) {
            let at = (r * m + c) as usize;
            let int = |x: i64, limit: i64| Value::Int(x.clamp(-limit - 1, limit));
            assert_eq!(found["wide"][at], Value::Int((r - c) * big));
            let scaled = (x[at] * 1000.0) as i64;
            assert_eq!(
                found["int"][(c * n + r) as usize],
                int(scaled.wrapping_mul(big), i64::from(i32::MAX))
            );
            assert_eq!(found["byte"][at], int((x[at] * c as f64 * 5.0) as i64, 127));
            assert_eq!(found["bit"][at], Value::Bool(x[at] * (r as f64) < (c - 7) as f64));
            assert_eq!(found["double"][at], Value::Float(x[at] - 1.0));
        }
        assert!((0..n).all(|r| found["line"][(n + r) as usize] == Value::Int(r + big)));
    }
}

#[test]
fn sums_of_prefixes_keep_their_differences() {
    let text = "program p { dim b: int dim n: int input x: f16[b, n] input y: f64[n, b] workspace hi: f32[2, b, n]
        workspace lo: f32[2, b, n] output o: f32[b, n] output rest: f32[b, n] output span: f32[b, n]
        launch sums { grid t < b
          prefix_sum flat(hi, t * n), flat(lo, t * n) <- x[t, 0 : rx], n = n
          prefix_sum flat(hi, (b + t) * n), flat(lo, (b + t) * n) <- y[0 : rx, t], n = n }
        launch out { grid u < b
          store_map o[u, 0 : rx][r < n, c < 1]: hi[0, u, r]
          store_map rest[u, 0 : rx][r2 < n, c2 < 1]: lo[0, u, r2]
          store_map span[u, 0 : rx][r3 < n, c3 < 1]: hi[1, u, r3] - hi[1, u, max(r3 - 10, 0)] + (lo[1, u, r3] - lo[1, u, max(r3 - 10, 0)]) } }";
    let mut rng = SplitMix(2);
    let (b, n) = (3usize, 5000usize);
    let halves = HostTensor::new(DType::F16, &[3, 5000], (0..b * n).map(|_| 100.0 + rng.normal()));
    let mut doubles: Vec<f64> = (0..b * n).map(|_| -1000.0 + rng.normal()).collect();
    doubles[4000 * b + 2] = f64::INFINITY;
    let inputs =
        vec![("x", halves.clone()), ("y", HostTensor::new(DType::F64, &[5000, 3], doubles.iter().copied()))];
    let scalars = [("b", Arg::Int(3)), ("n", Arg::Int(5000))];
    // The interpreter adds the parts of a span in f64: what is near 1e4 there is rounded here.
    let found = Case { text, scalars: &scalars, inputs, tolerance: 1e-6 }.outputs();
    for u in 0..b {
        let mut sum = 0.0;
        for i in 0..n {
            sum += crate::reference::decode(DType::F16, halves.element(&[u as i64, i as i64])).float();
            let (hi, lo) = (found["o"][u * n + i].float(), found["rest"][u * n + i].float());
            assert_eq!(hi, f64::from(sum as f32));
            assert!((hi + lo - sum).abs() <= sum * 1e-14);
            let wanted: f64 = (i.saturating_sub(10) + 1..=i).map(|t| doubles[t * b + u]).sum();
            let span = found["span"][u * n + i].float();
            if u == 2 && i >= 4000 {
                assert!(!span.is_finite());
            } else {
                assert!((span - wanted).abs() <= 2e-3, "{i}: {span} {wanted}");
            }
        }
    }
}

/// Indices and ranks by sorting.
fn select(scores: &[f32], m: usize, width: usize) -> (Vec<i64>, Vec<i64>) {
    let score = |n: usize| if scores[n].is_nan() { f32::NEG_INFINITY } else { scores[n] };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| score(b).partial_cmp(&score(a)).unwrap());
    order.truncate(m);
    order.sort_unstable();
    let mut ranks = vec![-1; scores.len()];
    order.iter().enumerate().for_each(|(k, &n)| ranks[n] = k as i64);
    let mut indices: Vec<i64> = order.iter().map(|&n| n as i64).collect();
    indices.resize(width, -1);
    (indices, ranks)
}

#[test]
fn the_largest_are_selected_first_of_equals_first() {
    let text = "program p { dim b: int dim n: int dim width: int param m: int input x: TYPE[n, b] workspace at: i32[b, width]
        workspace rank: i32[b, n] workspace only: i32[b * width] output o: i64[b, width] output ranks: i32[b, n]
        output again: i32[b, width]
        launch select { grid t < b
          top_k flat(at, t * width) <- x[0 : rx, t], n = n, m = m, width = width, ranks = flat(rank, t * n)
          top_k flat(only, t * width) <- x[0 : rx, t], n = n, m = m, width = width }
        launch out { grid u < b
          store_map o[u, 0 : rx][r < width, c < 1]: at[u, r]
          store_map again[u, 0 : rx][r1 < width, c1 < 1]: only[u * width + r1]
          store_map ranks[u, 0 : rx][r2 < n, c2 < 1]: rank[u, r2] } }";
    let mut rng = SplitMix(3);
    for (n, width, m, kind) in [
        (1, 1, 1, 0),
        (300, 20, 17, 0),
        (300, 20, 20, 1),
        (40, 64, 50, 2),
        (257, 8, 0, 1),
        (100, 4, -3, 0),
        (1000, 300, 300, 3),
        (0, 4, 4, 0),
    ] {
        let b = 2usize;
        let mut draw = |at: usize| match kind {
            0 => rng.normal() as f32,
            1 => (rng.normal() * 2.0).round() as f32,
            2 => [f32::NAN, f32::NEG_INFINITY, 0.0, -0.0, f32::INFINITY, -1.0][at * 7 % 6],
            _ => (rng.normal() as f32) * 1e-3 + 1.0,
        };
        let x: Vec<f32> = (0..n * b).map(&mut draw).collect();
        for dtype in [DType::F32, DType::Bf16, DType::F64] {
            let shape = [n as i64, b as i64];
            let tensor = HostTensor::new(dtype, &shape, x.iter().map(|&x| f64::from(x)));
            let scalars = [
                ("b", Arg::Int(2)),
                ("n", Arg::Int(n as i64)),
                ("width", Arg::Int(width as i64)),
                ("m", Arg::Int(m)),
            ];
            let inputs = vec![("x", tensor.clone())];
            let text = &text.replace("TYPE", dtype.name());
            let found = Case { text, scalars: &scalars, inputs, tolerance: 0.0 }.outputs();
            for t in 0..b {
                let stored = |i: usize| {
                    crate::reference::decode(dtype, tensor.element(&[i as i64, t as i64])).float() as f32
                };
                let column: Vec<f32> = (0..n).map(stored).collect();
                let (indices, ranks) = select(&column, m.max(0) as usize, width);
                let ints = |name: &str, row: usize| -> Vec<i64> {
                    found[name][t * row..(t + 1) * row].iter().map(|v| v.int()).collect()
                };
                assert_eq!(ints("o", width), indices);
                assert_eq!(ints("again", width), indices);
                assert_eq!(ints("ranks", n), ranks);
            }
        }
    }
}

#[test]
fn rows_of_ints_and_bits_are_numbers() {
    let text = "program p { dim n: int dim m: int input x: i8[n, m] input bits: bit[m, n] input y: i32[m]
        workspace k: f32[1, m, 32] workspace v: f32[2, n, 32] workspace bad: i32[1] workspace at: i32[m]
        output o: i8[n, m] output flags: bit[n, m] output wide: i32[n] output best: i32[m]
        launch pack {
          pack_k panel(k, 0, m * 32) <- x[0 : r, 0 : x], n = n, d = 40
          pack_v panel(v, 0, n * 32) <- x[0 : r, 0 : x], n = n, d = 40, flag = bad[0]
          top_k flat(at, 0) <- y[0 : rx], n = m, m = 3, width = m }
        launch l { buffer a[32, 48] buffer b[32, 48] buffer s[32, 32] buffer w[32, 1]
          load_rows a <- x[0 : r, 0 : x], rows = n, d = m
          load_rows b <- bits[0 : x, 0 : r], rows = n, d = m
          gemm s = a * panel(k, 0, m * 32), rows = n, k = m, n = n, skip_zero = false
          gemm b += s * panel(v, 0, n * 32), rows = n, k = n, n = m, skip_zero = bad[0] == 1
          reduce_rows max_abs w <- b, rows = n, cols = m
          store_vec wide[0 : rx] <- w, rows = n
          load_rows b <- bits[0 : x, 0 : r], rows = n, d = m
          store_rows flags[0 : r, 0 : x] <- b, rows = n, d = m
          map a[r1 < n, c1 < m], e = tile(a): e * 2.5 - 0.5
          store_rows o[0 : r, 0 : x] <- a, rows = n, d = m
          store_map best[0 : rx][r2 < m, c2 < 1]: at[r2] } }";
    let (n, m) = (20usize, 40usize);
    let mut rng = SplitMix(9);
    let x: Vec<f64> = (0..n * m).map(|_| (rng.normal() * 30.0).round().clamp(-128.0, 127.0)).collect();
    let bits: Vec<f64> = (0..n * m).map(|_| rng.below(2) as f64).collect();
    let y: Vec<f64> = (0..m).map(|c| ((c * 7) % m) as f64 - 5.0).collect();
    let inputs = vec![
        ("x", HostTensor::new(DType::I8, &[20, 40], x.iter().copied())),
        ("bits", HostTensor::new(DType::Bit, &[40, 20], bits.iter().copied())),
        ("y", HostTensor::new(DType::I32, &[40], y.iter().copied())),
    ];
    let scalars = [("n", Arg::Int(20)), ("m", Arg::Int(40))];
    let found = Case { text, scalars: &scalars, inputs, tolerance: 0.0 }.outputs();
    for (r, c) in (0..n).flat_map(|r| (0..m).map(move |c| (r, c))) {
        let value = (x[r * m + c] * 2.5 - 0.5).round_ties_even().clamp(-128.0, 127.0);
        assert_eq!(found["o"][r * m + c], Value::Int(value as i64));
        assert_eq!(found["flags"][r * m + c], Value::Bool(bits[c * n + r] == 1.0));
    }
    assert_eq!(found["best"][3], Value::Int(-1));
}
