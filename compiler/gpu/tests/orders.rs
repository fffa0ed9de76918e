//! In which order loops over tiles multiply and weigh on sm_90a, decided from IR text.
//!
//! Comes in: one attention in tile IR and changes to it. What is tested: its softmax runs beside the product of the tile
//! before wherever a tile that is skipped, a choice or a nested condition stands; where the sums are touched between, where
//! there are two products of weights, or no registers for weights that wait, warpgroups only take turns; one warpgroup
//! takes none. Deliberately not here: what such code computes (`tests/gpu_sim.rs`).

use attn_compiler::target::GpuArch;
use attn_compiler::tile_ir::text::parse;
use attn_compiler_gpu::report::{LoopOrder, launches};

const TEXT: &str = "program causal {
  dim B: int
  dim Sq: int
  dim Sk: int
  input q: bf16[B, 4, Sq, 64]
  input k: bf16[B, 4, Sk, 64]
  input v: bf16[B, 4, Sk, 64]
  output o: bf16[B, 4, Sq, 64]
  launch attend {
    grid b < B, h < 4, qt < (Sq + 127) div 128
    buffer q0[128, 64]
    buffer s0[128, 128]
    buffer acc[128, 64]
    buffer row_max[128, 1]
    buffer row_sum[128, 1]
    buffer alpha[128, 1]
    buffer inv_sum[128, 1]
    buffer lse_row[128, 1]
    let row0 = qt * 128
    let rows = min(Sq - row0, 128)
    let i_lo = row0 + (Sk - Sq)
    let i_hi = i_lo + rows + -1
    load_rows q0 <- q[b, h, row0 : r, 0 : x], rows = rows, d = 64
    fill acc = 0.0
    fill row_max = -inf
    fill row_sum = 0.0
    for kt in 0..(Sk + 127) div 128 {
      let j0 = kt * 128
      let cols = min(Sk - j0, 128)
      let j_hi = j0 + cols + -1
      if j0 <= i_hi {
        gemm s0 = q0 * columns(k[b, h, j0 : r, 0 : x]), rows = rows, k = 64, n = cols, skip_zero = false
        if !(j_hi <= i_lo) {
          map s0[r_2 < rows, c_2 < cols], x0_2 = tile(s0): j0 + c_2 <= i_lo + r_2 ? x0_2 : -inf
        }
        softmax_step s0, rows = rows, cols = cols, scale = 0.125, row_max = row_max, row_sum = row_sum, alpha = alpha, floor_unmasked = true
        gemm acc += s0 * rows(v[b, h, j0 : r, 0 : x]), rows = rows, k = cols, n = 64, row_scale = alpha, skip_zero = true
      }
    }
    finish_softmax rows = rows, row_max = row_max, row_sum = row_sum, sink = -inf, inv_sum = inv_sum, lse = lse_row
    store_rows o[b, h, row0 : r, 0 : x] <- acc, rows = rows, d = 64, row_scale = inv_sum
  }
}
";

const BOTH: LoopOrder = LoopOrder { turns: true, overlaps: true };
const TURNS: LoopOrder = LoopOrder { turns: true, overlaps: false };

/// The orders of the attention with each of some parts replaced, wherever it stands.
fn orders(changes: &[(&str, &str)], arch: GpuArch) -> Vec<LoopOrder> {
    let mut text = TEXT.to_string();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let program = parse(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    launches(&program, arch).expect("a kernel").remove(0).orders
}

fn on_hopper(changes: &[(&str, &str)]) -> Vec<LoopOrder> {
    orders(changes, GpuArch::Sm90a)
}

#[test]
fn an_attention_overlaps() {
    assert_eq!(on_hopper(&[]), [BOTH]);
    assert_eq!(orders(&[], GpuArch::Sm80), []);
}

#[test]
fn conditions_around_a_tile_are_no_obstacle() {
    // None, and one more, with a value named between.
    assert_eq!(on_hopper(&[("if j0 <= i_hi {", "if true {")]), [BOTH]);
    let deeper = [
        ("if j0 <= i_hi {", "if j0 <= i_hi {\n let odd = j0 mod 3\n if odd != 1 {"),
        ("row_scale = alpha, skip_zero = true\n", "row_scale = alpha, skip_zero = true\n }\n"),
    ];
    assert_eq!(on_hopper(&deeper), [BOTH]);
}

#[test]
fn sums_that_are_touched_between_do_not_wait() {
    let gemm = "        gemm acc += s0";
    let halved = "        map acc[r_3 < rows, c_3 < 64], x3 = tile(acc): x3 * 0.5\n        gemm acc += s0";
    assert_eq!(on_hopper(&[(gemm, halved)]), [TURNS]);
}

#[test]
fn two_products_of_weights_do_not_wait() {
    let one = "row_scale = alpha, skip_zero = true\n";
    let more = "row_scale = alpha, skip_zero = true\n        gemm acc += s0 * rows(k[b, h, j0 : r, 0 : x]), rows = rows, k = cols, n = 64, skip_zero = true\n";
    assert_eq!(on_hopper(&[(one, more)]), [TURNS]);
}

#[test]
fn weights_wait_where_registers_are_left() {
    // 96 for sums, 64 for scores, 10 for vectors, 32 for weights: two too many.
    let wide = [
        ("input v: bf16[B, 4, Sk, 64]", "input v: bf16[B, 4, Sk, 192]"),
        ("output o: bf16[B, 4, Sq, 64]", "output o: bf16[B, 4, Sq, 192]"),
        ("acc[128, 64]", "acc[128, 192]"),
        ("n = 64, row_scale", "n = 192, row_scale"),
        ("rows = rows, d = 64, row_scale", "rows = rows, d = 192, row_scale"),
    ];
    assert_eq!(on_hopper(&wide), [TURNS]);
    let narrow: Vec<(&str, String)> =
        wide.iter().map(|(from, to)| (*from, to.replace("192", "160"))).collect();
    let narrow: Vec<(&str, &str)> = narrow.iter().map(|(from, to)| (*from, to.as_str())).collect();
    assert_eq!(on_hopper(&narrow), [BOTH]);
}

#[test]
fn one_warpgroup_takes_no_turns() {
    let small = [
        ("[128, ", "[64, "),
        ("qt * 128", "qt * 64"),
        ("min(Sq - row0, 128)", "min(Sq - row0, 64)"),
        ("(Sq + 127) div 128", "(Sq + 63) div 64"),
    ];
    assert_eq!(on_hopper(&small), [LoopOrder { turns: false, overlaps: true }]);
}
