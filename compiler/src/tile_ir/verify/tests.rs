//! Every invariant broken on its own, and caught under its number.

use super::verify;
use crate::expr::{ExprId, TensorId, VarId};
use crate::tile_ir::{BufId, Program, Stmt, text};

/// A program that keeps every invariant.
const GOOD: &str = r#"program good {
  dim n: int
  param c: float = 2.0
  input x: f32[n, 16]
  input ids: i32[n]
  table tab: f32[n] (t from 0) = float(t) * c
  workspace kp: f32[n * 32]
  workspace vp: f32[n * 32]
  workspace bad: i32[n]
  input half: bf16[n, 16]
  workspace kh: bf16[n * 32]
  output o: f16[n, 16]
  output l: f32[n]
  output chosen: i32[n, 16]
  workspace hi: f32[n]
  workspace lo: f32[n]
  workspace at: i32[n]
  workspace rank: i32[n]
  require 0 < n: "no rows"
  launch pack {
    grid p < n
    pack_k panel(kp, p * 512, 512) <- x[p : r, 0 : x], n = 1, d = 16
    pack_v panel(vp, p * 32, 512) <- x[p : r, 0 : x], n = 1, d = 16, flag = bad[p]
  }
  launch pack_pairs {
    grid ph < n
    pack_k panel(kh, ph * 512, 512) <- half[ph : r, 0 : x], n = 1, d = 16
  }
  launch pairs {
    grid gh < n
    buffer ah[4, 16]: bf16
    buffer sh[4, 32]
    buffer wh[4, 32]: bf16
    buffer oh[4, 16]
    load_rows ah <- half[gh : r, 0 : x], rows = 1, d = 16
    gemm sh = ah * panel(kh, 0, 512), rows = 1, k = 16, n = 32, skip_zero = false
    gemm sh = ah * columns(half[0 : r, 0 : x]), rows = 1, k = 16, n = 4, skip_zero = false
    round wh <- sh, rows = 4, cols = 32
    gemm oh = wh * rows(half[0 : r, 0 : x]), rows = 1, k = 4, n = 16, skip_zero = false
  }
  launch main {
    grid g < n
    buffer a[4, 16]
    buffer a_rest[4, 16]
    buffer s[4, 32]
    buffer m[4, 1]
    buffer sum[4, 1]
    buffer al[4, 1]
    buffer lse[4, 1]
    let rows = min(n - g, 4)
    fill m = 0.0
    fill a_rest = 0.0
    any near over y in 0..rows, z in y..rows: ids[y] == z
    load_rows a <- x[g : r, 0 : x], rows = rows, d = 16
    for u in 0..2 {
      let j = u + ids[g]
      gemm s = (a + a_rest) * panel(kp, 0, 512), rows = rows, k = 16, n = 32, skip_zero = bad[g] == 1
      if near & j < 3 {
        map s[r < rows, k < 32], e = tile(s), f = row(m): k <= r + j ? e * f : tab[k]
      }
    }
    math exp s, rows = 4, cols = 32
    softmax_step s, rows = rows, cols = 32, scale = c, row_max = m, row_sum = sum, alpha = al, floor_unmasked = false
    weight_step relu s, rows = rows, cols = 32, scale = 1.0, row_max = m, floor_unmasked = true
    gemm a += s * panel(vp, 0, 512), rows = rows, k = 32, n = 16, row_scale = al, skip_zero = true
    finish_softmax rows = rows, row_max = m, row_sum = sum, sink = c, inv_sum = al, lse = lse
    store_rows o[g : r, 0 : x] <- a, rows = rows, d = 16, row_scale = al
    store_vec l[g : rx] <- lse, rows = rows
  }
  launch more {
    buffer v[4, 32]
    buffer w[20, 32]
    buffer z[4, 32]
    buffer twin[20, 32]
    buffer one[4, 1]
    buffer q[2, 16] of z
    view q at n - n, 16
    math exp2 q, rows = 2, cols = 16
    gemm z = v * w, rows = 4, k = 20, n = 32, skip_zero = false
    transpose w <- z, rows = 4, cols = 20
    band v, rows = 4, cols = 30, period = n, from = n, from_step = 1, to = 30, to_step = 0
    affine v, rows = 4, cols = 31, scale = c, factor = z, diagonal = w
    scan_rows w, rows = 4, cols = 31, decay = one
    reduce_rows sum one <- z, rows = 4, cols = 32
    keep_largest w, twin <- z, rows = 4, cols = 32, first = n, m = 7
    mark z <- twin, rows = 4, cols = 20, first = n
    random z, rows = 4, cols = 32, row0 = 0, col0 = n, stream = 1, offset = n, seed = 5, threshold = 9, keep_scale = c
    prefix_sum flat(hi, 0), flat(lo, 0) <- x[0 : rx, 3], n = n
    top_k flat(at, 0) <- x[0 : rx, 3], n = n, m = 3, width = 4, ranks = flat(rank, 0)
    store_map chosen[0 : r, 0 : x][r2 < 4, c2 < 16], e2 = tile(z), f2 = row(one): int(e2 + f2) + ids[c2]
  }
}
"#;

fn good() -> Program {
    text::parse(GOOD).unwrap()
}

#[test]
fn the_good_program_is_accepted() {
    verify(&good()).unwrap();
}

/// The invariants that text can break: (number, what is replaced, by what).
const BROKEN: &[(&str, &str, &str)] = &[
    ("I1", "program good", "program nan"),
    ("I1", "output l: f32[n]", "output l: f32[n] input x: f32[n]"),
    ("I1", "launch main", "launch pack"),
    ("I1", "buffer lse[4, 1]", "buffer lse[4, 1] buffer a[4, 16]"),
    ("I2", "input x: f32[n, 16]", "input x: f32[n, 16] layout [0, 0]"),
    ("I2", "workspace kp: f32[n * 32]", "workspace kp: f32[n, 32] layout [1, 0]"),
    ("I2", "workspace vp: f32", "workspace vp: i8"),
    ("I2", "table tab: f32", "table tab: f64"),
    ("I2", "(t from 0) = float(t)", "(t from 0, w from 0) = float(t)"),
    ("I3", "workspace vp: f32[n * 32]", "workspace vp: f32[ids[0]]"),
    ("I3", "grid g < n", "grid g < ids[0]"),
    ("I3", "grid g < n", "grid g < p"),
    ("I3", "require 0 < n", "require 0 < ids[0]"),
    ("I3", "require 0 < n", "require t < n"),
    ("I4", "grid g < n", "grid g < n, g < n"),
    ("I4", "grid g < n", "grid p < n, g < n"),
    ("I4", "for u in 0..2 {", "for g in 0..2 { let u = 0"),
    ("I4", "math exp s, rows = 4, cols = 32", "let rows = 3"),
    ("I4", "f = row(m)", "f = row(m), e = tile(s)"),
    ("I4", "map s[r < rows", "let k = 0 map s[r < rows"),
    ("I5", "math exp s, rows = 4", "math exp s, rows = j"),
    ("I5", "math exp s, rows = 4", "math exp s, rows = k"),
    ("I5", "math exp s, rows = 4, cols = 32", "fill m = 0.0 let q = p"),
    ("I4", "z in y..rows", "z in y..rows, z in 0..rows"),
    ("I5", "math exp s, rows = 4", "math exp s, rows = y"),
    ("I6", "ids[y] == z", "ids[y]"),
    ("I6", "skip_zero = bad[g] == 1", "skip_zero = g"),
    ("I6", "let rows = min(n - g, 4)", "let rows = float(min(n - g, 4))"),
    ("I6", "sink = c", "sink = n"),
    ("I6", "(t from 0) = float(t) * c", "(t from 0) = t"),
    ("I7", "buffer s[4, 32]", "buffer s[4, 24]"),
    ("I7", "buffer s[4, 32]", "buffer s[0, 32]"),
    ("I8", "buffer lse[4, 1]", "buffer lse[4, 16]"),
    ("I8", "buffer a[4, 16]", "buffer a[4, 1]"),
    ("I9", "rows = rows, d = 16\n    for", "rows = rows, d = 17\n    for"),
    ("I9", "n = 1, d = 16, flag", "n = 1, d = 0, flag"),
    ("I9", "math exp s, rows = 4", "math exp s, rows = 5"),
    ("I9", "math exp s, rows = 4, cols = 32", "math exp s, rows = 4, cols = 33"),
    ("I9", "k = 16, n = 32", "k = 17, n = 32"),
    ("I9", "k = 32, n = 16", "k = 32, n = 17"),
    ("I9", "k < 32], e = tile(s)", "k < 32], e = tile(a)"),
    ("I10", "let j = u + ids[g]", "let j = u + ids[g, 0]"),
    ("I10", "load_rows a <- x[g : r, 0 : x]", "load_rows a <- x[g : rx, 0]"),
    ("I10", "flag = bad[p]", "flag = bad[p, p]"),
    ("I10", "store_vec l[g : rx]", "store_vec o[g : r, 0 : x]"),
    ("I11", "pack_k panel(kp", "pack_k panel(x"),
    ("I11", "flag = bad[p]", "flag = vp[p]"),
    ("I12", "store_rows o[g", "store_rows x[g"),
    ("I12", "let j = u + ids[g]", "let j = u + int(l[g])"),
    ("I13", "store_vec l[g : rx]", "store_vec kp[g : rx]"),
    ("I15", "e = tile(s), f = row(m)", "e = row(s), f = row(m)"),
    ("I16", "inv_sum = al, lse = lse", "inv_sum = al, lse = al"),
    ("I9", "k = 20, n = 32", "k = 21, n = 32"),
    ("I16", "gemm z = v * w", "gemm w = v * w"),
    ("I9", "transpose w <- z, rows = 4, cols = 20", "transpose w <- z, rows = 4, cols = 21"),
    ("I9", "transpose w <- z, rows = 4, cols = 20", "transpose w <- z, rows = 5, cols = 20"),
    ("I16", "transpose w <- z", "transpose w <- w"),
    ("I9", "band v, rows = 4, cols = 30", "band v, rows = 4, cols = 33"),
    ("I6", "period = n, from = n", "period = n, from = c"),
    ("I9", "affine v, rows = 4, cols = 31", "affine v, rows = 4, cols = 33"),
    ("I9", "affine v, rows = 4", "affine v, rows = 5"),
    ("I9", "factor = z", "factor = one"),
    ("I16", "diagonal = w", "diagonal = v"),
    ("I9", "scan_rows w, rows = 4, cols = 31", "scan_rows w, rows = 4, cols = 33"),
    ("I9", "scan_rows w, rows = 4", "scan_rows w, rows = 5"),
    ("I8", "decay = one", "decay = z"),
    ("I16", "scan_rows w, rows = 4, cols = 31", "scan_rows one, rows = 4, cols = 1"),
    ("I6", "scan_rows w, rows = 4, cols = 31", "scan_rows w, rows = 4, cols = c"),
    ("I8", "reduce_rows sum one <- z", "reduce_rows sum v <- z"),
    ("I9", "reduce_rows sum one <- z, rows = 4, cols = 32", "reduce_rows sum one <- z, rows = 4, cols = 33"),
    (
        "I16",
        "reduce_rows sum one <- z, rows = 4, cols = 32",
        "reduce_rows sum one <- one, rows = 4, cols = 1",
    ),
    ("I9", "keep_largest w, twin", "keep_largest w, v"),
    ("I9", "twin <- z, rows = 4, cols = 32", "twin <- z, rows = 5, cols = 32"),
    ("I9", "twin <- z, rows = 4, cols = 32", "twin <- z, rows = 4, cols = 33"),
    ("I6", "first = n, m = 7", "first = n, m = c"),
    ("I6", "first = n, m = 7", "first = c, m = 7"),
    ("I16", "keep_largest w, twin <- z", "keep_largest w, w <- z"),
    ("I16", "mark z <- twin", "mark twin <- twin"),
    ("I9", "mark z <- twin, rows = 4, cols = 20", "mark z <- twin, rows = 4, cols = 40"),
    ("I9", "random z, rows = 4", "random z, rows = 5"),
    ("I9", "random z, rows = 4, cols = 32", "random z, rows = 4, cols = 33"),
    ("I6", "threshold = 9", "threshold = c"),
    ("I6", "keep_scale = c", "keep_scale = 1"),
    ("I11", "flat(lo, 0)", "flat(at, 0)"),
    ("I11", "flat(at, 0)", "flat(lo, 0)"),
    ("I11", "flat(rank, 0)", "flat(chosen, 0)"),
    ("I6", "flat(at, 0)", "flat(at, c)"),
    (
        "I10",
        "prefix_sum flat(hi, 0), flat(lo, 0) <- x[0 : rx, 3]",
        "prefix_sum flat(hi, 0), flat(lo, 0) <- x[0 : r, 3 : x]",
    ),
    ("I10", "top_k flat(at, 0) <- x[0 : rx, 3]", "top_k flat(at, 0) <- x[0 : r, 3 : x]"),
    ("I13", "top_k flat(at, 0) <- x[0 : rx, 3]", "top_k flat(at, 0) <- hi[0 : rx]"),
    ("I14", "flat(hi, 0), flat(lo, 0) <- x[0 : rx, 3]", "flat(lo, 0), flat(lo, 0) <- hi[0 : rx]"),
    ("I6", "width = 4", "width = c"),
    ("I6", "int(e2 + f2) + ids[c2]", "e2 + f2"),
    ("I9", "r2 < 4, c2 < 16", "r2 < 5, c2 < 16"),
    ("I10", "store_map chosen[0 : r, 0 : x]", "store_map chosen[0 : rx, 0]"),
    ("I12", "store_map chosen[0 : r, 0 : x]", "store_map x[0 : r, 0 : x]"),
    ("I13", "int(e2 + f2) + ids[c2]", "int(e2 + f2) + at[c2]"),
    ("I4", "f2 = row(one)", "f2 = row(one), e2 = tile(z)"),
    ("I18", "buffer w[20, 32]", "buffer w[20, 48]"),
    ("I20", "buffer a_rest[4, 16]", "buffer a_rest[4, 32]"),
    ("I21", "buffer oh[4, 16]", "buffer oh[4, 16]: bf16"),
    ("I21", "buffer wh[4, 32]: bf16", "buffer wh[4, 32]"),
    ("I21", "buffer sh[4, 32]", "buffer sh[4, 32]: f16"),
    ("I21", "load_rows ah <- half", "load_rows ah <- x"),
    ("I21", "n = 1, d = 16\n  }\n  launch pairs", "n = 1, d = 15\n  }\n  launch pairs"),
    ("I21", "panel(kh, ph * 512, 512) <- half", "panel(kh, ph * 512, 512) <- x"),
    ("I21", "gemm sh = ah * panel(kh", "gemm sh = ah * panel(kp"),
    ("I21", "gemm s = (a + a_rest) * panel(kp", "gemm s = (a + a_rest) * panel(kh"),
    ("I21", "gemm sh = ah * columns(half", "gemm sh = ah * columns(x"),
    ("I21", "columns(half[0 : r, 0 : x]), rows = 1, k = 16", "columns(half[0 : r, 0 : x]), rows = 1, k = 15"),
    ("I21", "gemm oh = wh * rows(half", "gemm oh = wh * rows(x"),
    ("I9", "round wh <- sh, rows = 4", "round wh <- sh, rows = 5"),
    ("I22", "buffer q[2, 16] of z", "buffer q[2, 48] of z"),
    ("I22", "buffer q[2, 16] of z", "buffer q[5, 16] of z"),
    ("I22", "buffer q[2, 16] of z", "buffer q[2, 16] of one"),
    ("I22", "buffer q[2, 16] of z", "buffer q[2, 16]"),
    ("I22", "buffer q[2, 16] of z", "buffer q[2, 16] of z buffer q2[2, 16] of q"),
    ("I22", "view q at n - n, 16", "fill z = 0.0"),
    ("I22", "view q at n - n, 16", "view q at 0, 0 view q at 0, 16"),
    ("I22", "math exp2 q, rows = 2, cols = 16", "fill q = 0.0"),
    ("I9", "view q at n - n, 16", "view q at 3, 16"),
    ("I9", "view q at n - n, 16", "view q at 0, 32"),
    ("I6", "view q at n - n, 16", "view q at c, 16"),
    ("I9", "math exp2 q, rows = 2", "math exp2 q, rows = 3"),
    ("I16", "math exp2 q, rows = 2, cols = 16", "transpose q <- z, rows = 2, cols = 2"),
];

#[test]
fn every_broken_invariant_is_caught_under_its_number() {
    let mut wrong = Vec::new();
    for &(invariant, from, to) in BROKEN {
        assert!(GOOD.contains(from), "{from}");
        match text::parse(&GOOD.replacen(from, to, 1)).map(|p| verify(&p)) {
            Ok(Err(e)) if e.invariant == invariant && !e.op.is_empty() => {}
            other => wrong.push(format!("{invariant}: {to}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_error_prints_the_statement() {
    let program = text::parse(&GOOD.replace("sink = c", "sink = 1")).unwrap();
    let error = verify(&program).unwrap_err();
    assert!(error.op.starts_with("finish_softmax rows = rows, row_max = m"), "{error}");
}

#[test]
fn workspace_is_written_before_it_is_read() {
    let first = GOOD.find("  launch pack").unwrap();
    let second = GOOD.find("  launch main").unwrap();
    let text = format!("{}{}", &GOOD[..first], &GOOD[second..]);
    assert_eq!(verify(&text::parse(&text).unwrap()).unwrap_err().invariant, "I14");
}

#[test]
fn a_product_that_overwrites_scales_nothing() {
    let text = GOOD.replace("gemm a += s", "gemm a = s");
    assert_eq!(verify(&text::parse(&text).unwrap()).unwrap_err().invariant, "I17");
}

/// What no text can say.
#[test]
fn ids_out_of_range_are_errors() {
    let invariant = |change: &dyn Fn(&mut Program)| {
        let mut program = good();
        change(&mut program);
        let text = text::print(&program);
        assert!(!text.is_empty());
        verify(&program).unwrap_err().invariant
    };
    let body = |p: &mut Program, stmt: Stmt| p.launches[1].body.push(stmt);
    assert_eq!(invariant(&|p| body(p, Stmt::Fill { dst: BufId(99), value: 0.0 })), "I7");
    assert_eq!(
        invariant(&|p| {
            let at = p.pool.int(0);
            let x = p.pool.load(TensorId(99), vec![at], crate::expr::Ty::Float);
            let var = p.pool.add_var("y", crate::expr::Ty::Float);
            body(p, Stmt::Let { var, value: x });
        }),
        "I10"
    );
    assert_eq!(invariant(&|p| p.dims[0].name = "not a word".into()), "I1");
    assert_eq!(invariant(&|p| p.params[0].default = Some(crate::expr::eval::Value::Int(1))), "I6");
    assert_eq!(
        invariant(&|p| {
            let wrong =
                p.pool.intern(crate::expr::Op::Binary(crate::expr::BinaryOp::And, ExprId(0), ExprId(0)));
            let var = p.pool.add_var("y", crate::expr::Ty::Bool);
            body(p, Stmt::Let { var, value: wrong });
        }),
        "I6"
    );
    assert_eq!(
        invariant(&|p| {
            let (var, cond) = (p.pool.add_var("y", crate::expr::Ty::Bool), p.pool.bool(true));
            body(p, Stmt::Any { var, over: vec![], cond });
        }),
        "I9"
    );
    assert_eq!(
        invariant(&|p| {
            let extent = p.launches[0].grid[0].1;
            p.launches[0].grid.push((VarId(0), extent));
        }),
        "I4"
    );
}
