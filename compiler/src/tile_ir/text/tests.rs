//! Every kind of declaration and statement is written and read back; texts that mean nothing are refused.

use super::{parse, print};

const EVERYTHING: &str = r#"program everything {
  dim B: int
  dim Sq(Sq_2): int
  param window: int = -3
  param c: float = 0.1
  param on: bool = true
  param free: float
  input q: f16[B, 4, Sq_2, 8] layout [0, 2, 1, 3]
  input heavy.k: f32[B, Sq_2, 8]
  input doc: i32[Sq_2] sorted
  input seen: bit[B, Sq_2] monotone
  table bias: f32[Sq_2 * 2 + -1] (d from -(Sq_2) + 1) = d < 0 ? -inf : exp(float(d) * c)
  workspace kp: f32[B * Sq_2 * 8]
  workspace vp: f32[B * Sq_2 * 8]
  workspace bad: i32[B]
  output o: bf16[B, Sq_2, 8]
  output lse: f32[B, Sq_2]
  require 0 < B & Sq_2 != 7: "a \"quoted\" \\ message\nof two lines // no comment"
  require on | window <= 3: ""
  launch pack {
    grid b < B
    pack_k panel(kp, b * Sq_2 * 8, 256) <- heavy.k[b, 0 : r, 0 : x], n = Sq_2, d = 8
    pack_v panel(vp, 0, 256) <- heavy.k[b, 0 : r, 0 : x], n = Sq_2, d = 8, flag = bad[b]
  }
  launch main {
    grid b_2 < B, t < (Sq_2 + 15) div 16
    buffer qb[16, 16]
    buffer qh[16, 16]: bf16
    buffer s[16, 32]
    buffer ob[16, 16]
    buffer m[16, 1]
    buffer l[16, 1]
    buffer a[16, 1]
    let n = min(Sq_2 - t * 16, 16)
    fill m = -inf
    fill l = 0.0
    load_rows qb <- q[b_2, 0, t * 16 : r, 0 : x], rows = n, d = 8
    round qh <- qb, rows = n, cols = 8
    any some over p in 0..n, x_2 in p + 1..on ? n : 3: doc[p] == x_2 | on
    for u in 0..(Sq_2 + 31) div 32 {
      let left = min(Sq_2 - u * 32, 32)
      if [%0 = seen[b_2, t] & u < 3] %0 != on | %0 {
        gemm s = qb * panel(kp, u * 256, 256), rows = n, k = 8, n = left, skip_zero = false
        map s[r < n, x < left], e = tile(s), mm = row(m), k = col(s): x <= r ? tanh(e + mm * k) : -inf
        math exp2 s, rows = n, cols = 16
      } else {
        weight_step relu s, rows = n, cols = left, scale = c, row_max = m, floor_unmasked = on
      }
      softmax_step s, rows = n, cols = left, scale = 1.5, row_max = m, row_sum = l, alpha = a, floor_unmasked = bad[b_2] == 1
      gemm ob += s * panel(vp, 0, 256), rows = n, k = left, n = 8, row_scale = a, skip_zero = bad[b_2] == 1
      if on {
      }
    }
    finish_softmax rows = n, row_max = m, row_sum = l, sink = -inf, inv_sum = a, lse = m
    store_rows o[b_2, t * 16 : r, 0 : x] <- ob, rows = n, d = 8, row_scale = a
    store_rows o[b_2, t * 16 : r, 0 : x] <- ob, rows = n, d = 8
    store_vec lse[b_2, t * 16 : rx] <- m, rows = n
  }
  launch more {
    buffer a[16, 32]
    buffer panel[32, 32]
    buffer c[16, 32]
    buffer v[16, 1]
    buffer corner[4, 16] of c
    view corner at B, 16
    gemm corner = a * columns(q[0, 0, 0 : r, 0 : x]), rows = 4, k = 8, n = 16, skip_zero = false, next = q[0, 1, 0 : r, 0 : x]
    gemm c = a * panel, rows = 16, k = 32, n = 20, skip_zero = false
    transpose panel <- a, rows = 16, cols = B
    band c, rows = B, cols = 20, period = 4, from = B + -3, from_step = 1, to = 20, to_step = 0
    affine c, rows = B, cols = 20, scale = 0.5
    affine c, rows = 16, cols = 20, scale = c, factor = panel, diagonal = a, keep_zero
    affine c, rows = 16, cols = 20, scale = 1.0, term = a
    scan_rows c, rows = B, cols = 20
    scan_rows c, rows = B, cols = 20, decay = v
    reduce_rows max v <- c, rows = B, cols = 20
    reduce_rows sum v <- c, rows = 16, cols = B
    reduce_rows max_abs v <- c, rows = 16, cols = 32
    random c, rows = 16, cols = B, row0 = 3, col0 = B * 4, stream = B, offset = 7, seed = window, threshold = 429496730, keep_scale = c
    keep_largest a, c <- panel, rows = B, cols = 20, first = B * 32, m = window
    mark panel <- a, rows = 16, cols = B, first = -3
    prefix_sum flat(kp, 0), flat(vp, B * 3) <- heavy.k[0, 0 : rx, 3], n = Sq_2
    top_k flat(bad, 5) <- q[0, 1, 0 : rx, 2], n = Sq_2, m = 7, width = 8
    top_k flat(bad, 5) <- q[0, 1, 2, 0 : rx], n = 8, m = B, width = B, ranks = flat(bad, 20)
    store_map bad[0 : rx] [ra < B, xa < 1]: ra + xa
    store_map o[0, 0 : r, 0 : x] [rb < 16, xb < 8], eb = tile(a), mb = row(v): eb * mb
  }
  launch alone {
  }
}
"#;

#[test]
fn everything_prints_as_it_was_read() {
    let program = parse(EVERYTHING).unwrap();
    assert_eq!(print(&program), EVERYTHING);
    assert_eq!(program.launches[1].buffers.len(), 7);
    assert_eq!(program.requires[0].message, "a \"quoted\" \\ message\nof two lines // no comment");
}

#[test]
fn numbering_of_nodes_does_not_show() {
    let first = "param free: float\n  require window * window != 12345 & free < sin(c) * c: \"\"";
    let mut program = parse(&EVERYTHING.replace("param free: float", first)).unwrap();
    assert_ne!(program.requires[1].cond, parse(EVERYTHING).unwrap().requires[0].cond);
    program.requires.remove(0);
    assert_eq!(print(&program), EVERYTHING);
}

#[test]
fn text_that_means_nothing_is_an_error() {
    for (text, message) in [
        ("program p { launch l { fill x = 0.0 } }", "no buffer `x`"),
        ("program p { launch l { leap } }", "no statement"),
        ("program p { launch l { any x: true } }", "over"),
        ("program p { dim n: float = 3 }", "constant"),
        ("program p { input q: f31[] }", "no storage type"),
        ("program p { require true: \"never ends }", "without an end"),
        ("program p { output o: f32[4] launch l { buffer b[1, 1] store_vec o[0] <- b, rows = 1 } }", ": r"),
        ("program p {", "a name"),
        ("program p { dim n: int param n: float }", "another type"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.message.contains(message), "{text}: {error}");
        assert!(error.at <= text.len());
    }
    let deep = format!("program p {{ launch l {{ {}", "if true { ".repeat(100_000));
    assert!(parse(&deep).unwrap_err().message.contains("deeply"));
}
