//! Statements whose intrinsics compute: machine code on every instruction set, the interpreter, and a direct loop.

use attn_compiler::artifact::DType;
use attn_compiler::backend::cpu::{Listing, emit_listing};
use attn_compiler::expr::rand::philox4x32;
use attn_compiler::host::SplitMix;
use attn_compiler::tile_ir::text;

use crate::agree::Case;
use crate::exec::{Arg, HostTensor, facts};
use crate::reference;

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

/// Products into parts of a tile, row states in part of a vector, with what is read next asked for.
#[test]
fn views_are_parts_of_their_buffers() {
    let text = "program p { dim n: int dim k: int input x: f32[n, k] input y: f32[n, k] output o: f32[n, 48]
        output top: f32[n] output sum: f32[n]
        launch l { buffer a[8, 128] buffer s[8, 48] buffer m[8, 1] buffer z[8, 1] buffer al[8, 1]
          buffer a_part[2, 128] of a buffer s_part[2, 16] of s buffer s_rows[2, 48] of s
          buffer m_part[2, 1] of m buffer z_part[2, 1] of z buffer al_part[2, 1] of al
          fill s = 0.0
          fill m = -inf
          fill z = 0.0
          for u in 0..(n + 1) div 2 {
            view a_part at u * 2, 0
            load_rows a_part <- x[u * 2 : r, 0 : x], rows = min(n - u * 2, 2), d = k
            for w in 0..3 {
              view s_part at u * 2, w * 16
              gemm s_part = a_part * columns(y[0 : r, 0 : x]), rows = min(n - u * 2, 2), k = k, n = min(n, 16), skip_zero = false, next = y[w : r, 0 : x]
            }
            view s_rows at u * 2, 0
            view m_part at u * 2, 0
            view z_part at u * 2, 0
            view al_part at u * 2, 0
            map s_rows[r < 2, c < 48], e = tile(s_rows): e * 0.01 + float(c div 16)
            softmax_step s_rows, rows = min(n - u * 2, 2), cols = 48, scale = 1.0, row_max = m_part, row_sum = z_part, alpha = al_part, floor_unmasked = false
          }
          store_rows o[0 : r, 0 : x] <- s, rows = n, d = 48
          store_vec top[0 : rx] <- m, rows = n
          store_vec sum[0 : rx] <- z, rows = n } }";
    for (n, k) in [(8usize, 128usize), (7, 64), (3, 50), (1, 1)] {
        let (x, y) = (noise(5, n * k), noise(6, n * k));
        let case = Case {
            text,
            scalars: &[("n", Arg::Int(n as i64)), ("k", Arg::Int(k as i64))],
            inputs: vec![("x", tensor(&[n as i64, k as i64], &x)), ("y", tensor(&[n as i64, k as i64], &y))],
            tolerance: 1e-5,
        };
        let found = case.outputs();
        for r in 0..n {
            let score = |c: usize| {
                let dot = |j: usize| (0..k).map(|t| x[r * k + t] * y[j * k + t]).sum::<f64>();
                let product = if c % 16 < n { dot(c % 16) } else { 0.0 };
                product * 0.01 + (c / 16) as f64
            };
            let scores: Vec<f64> = (0..48).map(score).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert!((found["top"][r].float() - top).abs() < 1e-4, "row {r}");
            for (c, score) in scores.iter().enumerate() {
                let weight = found["o"][r * 48 + c].float();
                assert!((weight - (score - top).exp()).abs() < 1e-4, "({r}, {c}): {weight}");
            }
        }
    }
}

/// Loops of a long launch are functions of their own: they find counters, values of every type, arguments of the kernel
/// and views. One of them is never reached.
#[test]
fn loops_of_a_long_launch_are_given_what_they_name() {
    let text = "program p { dim n: int dim k: int param gain: float input x: f32[n, k] output o: f32[n, 32] output w: f32[n, k]
        launch l { grid g < n buffer a[4, 32] buffer part[1, 32] of a buffer v[4, 1]
          fill a = 1.0
          fill v = 2.0
          let half = gain * 0.5
          let odd = g mod 2 == 1
          let far = g + 3
          any some over p in 0..k, q in 0..2: gain < x[g, p] & q == 1
          any none over p2 in 0..k: gain < x[g, p2] & far < 3
          store_map w[g : r, 0 : x] [ra < 1, ca < k]: float(far) + (odd ? half : x[g, ca])
          for u in 0..4 {
            view part at u, 0
            map part[rb < 1, cb < 32], e = tile(part): e + (some ? half : 0.0) + (none ? 100.0 : 0.0) + float(u * 10 + cb)
            if u mod 2 == 0 {
              map part[rc < 1, cc < 32], f = tile(part), h = row(v): odd ? f * h : f
            }
          }
          if 1 == 2 {
            map a[re < 1, ce < 32]: 1000.0
          }
          map a[rd < 1, cd < 32], i = tile(a): i + x[g, min(cd, k - 1)]
          store_rows o[g : r, 0 : x] <- a, rows = 1, d = 32 } }";
    let program = text::parse(text).expect("a program");
    let listing = Listing { clif: true, asm: false };
    let code = emit_listing(&program, &facts(false), listing).expect("code");
    assert_eq!(code.clif.matches("; part of launch l").count(), 7);
    for (n, k, gain) in [(5usize, 9usize, 0.5), (2, 1, -3.0), (3, 40, 9.0)] {
        let x = noise(11, n * k);
        let case = Case {
            text,
            scalars: &[("n", Arg::Int(n as i64)), ("k", Arg::Int(k as i64)), ("gain", Arg::Float(gain))],
            inputs: vec![("x", tensor(&[n as i64, k as i64], &x))],
            tolerance: 1e-5,
        };
        let found = case.outputs();
        for g in 0..n {
            let (odd, some) = (g % 2 == 1, (0..k).any(|p| x[g * k + p] > f64::from(gain)));
            let half = f64::from(gain) * 0.5;
            for c in 0..k {
                let wanted = (g + 3) as f64 + if odd { half } else { x[g * k + c] };
                assert!((found["w"][g * k + c].float() - wanted).abs() < 1e-5, "({g}, {c})");
            }
            for c in 0..32 {
                let first = 1.0 + if some { half } else { 0.0 } + c as f64;
                let wanted = first * if odd { 2.0 } else { 1.0 } + x[g * k + c.min(k - 1)];
                let found = found["o"][g * 32 + c].float();
                assert!((found - wanted).abs() < 1e-4, "({g}, {c}): {found} {wanted}");
            }
        }
    }
}

#[test]
fn tiles_are_transposed_with_zeros_beyond() {
    let text = "program p { dim n: int dim k: int input x: f32[n, k] output o: f32[k, 48]
        output w: f32[1, n] output u: f32[n]
        launch l { buffer a[40, 32] buffer b[32, 48] buffer v[40, 1] buffer row[1, 48] buffer back[40, 1]
          fill b = 7.0
          load_rows a <- x[0 : r, 0 : x], rows = n, d = 20
          transpose b <- a, rows = n, cols = k
          store_rows o[0 : r, 0 : x] <- b, rows = k, d = 48
          map v[r < n, c < 1]: float(r) * 0.5
          transpose row <- v, rows = n, cols = 1
          store_rows w[0 : r, 0 : x] <- row, rows = 1, d = 40
          transpose back <- row, rows = 1, cols = n
          store_vec u[0 : rx] <- back, rows = n } }";
    let x = noise(3, 40 * 20);
    let case = Case {
        text,
        scalars: &[("n", Arg::Int(40)), ("k", Arg::Int(20))],
        inputs: vec![("x", tensor(&[40, 20], &x))],
        tolerance: 0.0,
    };
    let found = case.outputs();
    let at = |name: &str, n: usize| found[name][n].float();
    for (c, r) in (0..20).flat_map(|c| (0..48).map(move |r| (c, r))) {
        assert_eq!(at("o", c * 48 + r), if r < 40 { x[r * 20 + c] } else { 0.0 }, "({c}, {r})");
    }
    assert!((0..40).all(|r| at("w", r) == r as f64 / 2.0 && at("u", r) == r as f64 / 2.0));
}

#[test]
fn rows_are_scanned_and_reduced() {
    let text = "program p { dim n: int dim k: int input x: f32[n, k] output plain: f32[n, k] output decayed: f32[n, k]
        output cum: f32[n] output most: f32[n] output sum: f32[n] output size: f32[n]
        launch l { buffer a[33, 160] buffer b[33, 160] buffer f[33, 1] buffer v[33, 1] buffer w[33, 1]
          load_rows a <- x[0 : r, 0 : x], rows = n, d = COLS
          load_rows b <- x[0 : r, 0 : x], rows = n, d = COLS
          map f[r < n, c < 1]: 1.0 / float(r + 1)
          fill v = 0.25
          scan_rows a, rows = n, cols = k
          scan_rows b, rows = n, cols = k, decay = f
          scan_rows v, rows = n, cols = 1
          store_rows plain[0 : r, 0 : x] <- a, rows = n, d = COLS
          store_rows decayed[0 : r, 0 : x] <- b, rows = n, d = COLS
          store_vec cum[0 : rx] <- v, rows = n
          load_rows a <- x[0 : r, 0 : x], rows = n, d = COLS
          reduce_rows max w <- a, rows = n, cols = k
          store_vec most[0 : rx] <- w, rows = n
          reduce_rows sum w <- a, rows = n, cols = k
          store_vec sum[0 : rx] <- w, rows = n
          reduce_rows max_abs w <- a, rows = n, cols = k
          store_vec size[0 : rx] <- w, rows = n } }";
    for (n, k) in [(1, 1), (33, 160), (17, 65), (2, 16), (33, 99)] {
        let mut x = noise(4, n * k);
        if n > 2 {
            x[2 * k + 1] = f64::NAN;
            x[k] = f64::NEG_INFINITY;
        }
        let scalars = [("n", Arg::Int(n as i64)), ("k", Arg::Int(k as i64))];
        let inputs = vec![("x", tensor(&[n as i64, k as i64], &x))];
        let text = &text.replace("COLS", &k.to_string());
        let found = Case { text, scalars: &scalars, inputs, tolerance: 1e-5 }.outputs();
        for r in 0..n {
            let row = &x[r * k..(r + 1) * k];
            assert_eq!(found["cum"][r].float(), 0.25 * (r + 1) as f64);
            let [most, sum, size] = ["most", "sum", "size"].map(|name| found[name][r].float());
            if row.iter().any(|x| x.is_nan()) {
                assert!(most.is_nan() && sum.is_nan() && size.is_nan());
                continue;
            }
            assert_eq!(most, row.iter().copied().fold(f64::NEG_INFINITY, f64::max));
            assert_eq!(size, row.iter().fold(0.0, |m, x| f64::max(m, x.abs())));
            assert!(sum == row.iter().sum::<f64>() || (sum - row.iter().sum::<f64>()).abs() < 1e-4);
        }
        let mut wanted = 0.0;
        for r in 0..n {
            wanted = wanted / (r + 1) as f64 + x[r * k];
            let found = found["decayed"][r * k].float();
            assert!(found == wanted || (found - wanted).abs() < 1e-5, "{found} {wanted}");
        }
    }
}

#[test]
fn columns_of_run_time_number_are_loaded_and_stored_along_any_dim() {
    let text =
        "program p { dim n: int dim d: int input x: f16[n, d] output o: f32[n, d] output back: f16[d, n]
        launch l { grid t < (n + 31) div 32 buffer a[40, 32] buffer b[32, 48]
          let cols = min(n - t * 32, 32)
          load_rows a <- x[t * 32 : x, 0 : r], rows = d, d = cols
          store_rows back[0 : r, t * 32 : x] <- a, rows = d, d = cols
          transpose b <- a, rows = d, cols = 32
          store_rows o[t * 32 : r, 0 : x] <- b, rows = cols, d = d } }";
    for (n, d) in [(1, 1), (70, 40), (64, 17), (33, 16), (0, 3)] {
        let shape = [n as i64, d as i64];
        let x = HostTensor::new(DType::F16, &shape, noise(6, n * d).into_iter());
        let scalars = [("n", Arg::Int(shape[0])), ("d", Arg::Int(shape[1]))];
        let found =
            Case { text, scalars: &scalars, inputs: vec![("x", x.clone())], tolerance: 0.0 }.outputs();
        for (i, c) in (0..n).flat_map(|i| (0..d).map(move |c| (i, c))) {
            let wanted = reference::decode(DType::F16, x.element(&[i as i64, c as i64]));
            assert_eq!((found["o"][i * d + c], found["back"][c * n + i]), (wanted, wanted), "({i}, {c})");
        }
    }
}

#[test]
fn random_words_depend_on_positions_alone() {
    // Whole, and in tiles of 5 x 70 that start anywhere.
    let text = "program p { dim n: int dim m: int param seed: int param threshold: int input x: f32[n, m]
        output o: f32[n, m] output tiled: f32[n, m]
        launch whole { buffer a[32, 160]
          load_rows a <- x[0 : r, 0 : x], rows = n, d = m
          random a, rows = n, cols = m, row0 = 1000000, col0 = 0, stream = 5, offset = 4294967298, seed = seed, threshold = threshold, keep_scale = 1.25
          store_rows o[0 : r, 0 : x] <- a, rows = n, d = m }
        launch tiles { grid t < (n + 4) div 5, u < (m + 69) div 70 buffer a[5, 80]
          let rows = min(n - t * 5, 5)
          let cols = min(m - u * 70, 70)
          load_rows a <- x[t * 5 : r, u * 70 : x], rows = rows, d = cols
          random a, rows = rows, cols = cols, row0 = 1000000 + t * 5, col0 = u * 70, stream = 5, offset = 2, seed = seed, threshold = threshold, keep_scale = 1.25
          store_rows tiled[t * 5 : r, u * 70 : x] <- a, rows = rows, d = cols } }";
    for (n, m, seed, threshold) in [
        (32, 160, 7, 1 << 30),
        (3, 5, -1, 1 << 31),
        (20, 150, 1 << 40, 0),
        (9, 66, 3, 1i64 << 32),
        (1, 1, 0, 1),
    ] {
        let mut x = noise(8, n * m);
        x[0] = f64::NAN;
        x[n * m - 1] = f64::INFINITY;
        let shape = [n as i64, m as i64];
        let scalars = [
            ("n", Arg::Int(shape[0])),
            ("m", Arg::Int(shape[1])),
            ("seed", Arg::Int(seed)),
            ("threshold", Arg::Int(threshold)),
        ];
        let inputs = vec![("x", tensor(&shape, &x))];
        let found = Case { text, scalars: &scalars, inputs, tolerance: 1e-6 }.outputs();
        let mut kept = 0;
        for (i, j) in (0..n).flat_map(|i| (0..m).map(move |j| (i, j))) {
            let block =
                philox4x32([j as u32 / 4, 1_000_000 + i as u32, 5, 2], [seed as u32, (seed >> 32) as u32]);
            let keep = i64::from(block[j % 4]) >= threshold;
            let wanted = if keep { f64::from(x[i * m + j] as f32 * 1.25) } else { 0.0 };
            for name in ["o", "tiled"] {
                let found = found[name][i * m + j].float();
                let same = found.to_bits() == wanted.to_bits() || (keep && found.is_nan() && wanted.is_nan());
                assert!(same, "{name} ({i}, {j}): {found} {wanted}");
            }
            kept += usize::from(keep);
        }
        let expected = (n * m) as f64 * (1.0 - threshold as f64 / 4_294_967_296.0);
        assert!((kept as f64 - expected).abs() <= 4.0 * expected.sqrt().max(1.0), "{kept} of {}", n * m);
    }
}
