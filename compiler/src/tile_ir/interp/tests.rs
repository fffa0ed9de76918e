//! Each statement against a direct loop, and each thing that a program must not do.

use std::collections::HashMap;

use super::{InterpError, run};
use crate::artifact::DType;
use crate::expr::eval::Value;
use crate::host::{Data, Inputs, SplitMix, View, round_to};
use crate::tile_ir::text;

/// Runs a program of one launch, given its header and its body, over `x: f32[n, d]` of random numbers.
struct Case {
    header: &'static str,
    launches: &'static str,
    n: usize,
    d: usize,
}

fn x(n: usize, d: usize) -> Vec<f64> {
    let mut rng = SplitMix(3);
    (0..n * d).map(|_| rng.normal()).collect()
}

impl Case {
    fn run(&self, seed: Option<u64>) -> Result<HashMap<String, View>, InterpError> {
        let text = format!("program p {{ dim n: int dim d: int {} {} }}", self.header, self.launches);
        let program = text::parse(&text).unwrap_or_else(|e| panic!("{e}: {}", &text[e.at..]));
        let view = View::contiguous(vec![self.n, self.d], Data::Float(x(self.n, self.d))).unwrap();
        let inputs = Inputs {
            dims: [("n".to_string(), self.n as i64), ("d".to_string(), self.d as i64)].into(),
            params: [("c".to_string(), Value::Float(0.1))].into(),
            tensors: [("x".to_string(), view)].into(),
        };
        run(&program, &inputs, seed)
    }

    /// The output `o` in any order of tasks.
    fn output(&self) -> Vec<f64> {
        let data = |seed| match self.run(seed).unwrap_or_else(|e| panic!("{e}"))["o"].data() {
            Data::Float(x) => x.clone(),
            other => panic!("{other:?}"),
        };
        let first = data(None);
        for seed in 0..3 {
            let again = data(Some(seed));
            assert!(again.iter().zip(&first).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
        first
    }

    fn error(&self) -> String {
        self.run(None).expect_err("a program that must fail").to_string()
    }
}

fn close(found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    for (n, (a, b)) in found.iter().zip(wanted).enumerate() {
        assert!(
            (a - b).abs() <= 1e-12 * b.abs().max(1.0) || (a.is_nan() && b.is_nan()) || a == b,
            "{n}: {a} {b}"
        );
    }
}

const COPY: &str = "input x: f32[n, d] output o: f16[n, d]";

#[test]
fn rows_are_loaded_scaled_rounded_and_stored() {
    let launches = "launch l { grid t < (n + 3) div 4 buffer a[4, 16] buffer f[4, 1]
        let rows = min(n - t * 4, 4)
        load_rows a <- x[t * 4 : r, 0 : x], rows = rows, d = 5
        map f[r < rows, c < 1]: float(t * 4 + r - 2)
        store_rows o[t * 4 : r, 0 : x] <- a, rows = rows, d = 5, row_scale = f }";
    let found = Case { header: COPY, launches, n: 10, d: 5 }.output();
    let wanted: Vec<f64> =
        x(10, 5).iter().enumerate().map(|(n, x)| round_to(DType::F16, x * ((n / 5) as f64 - 2.0))).collect();
    assert_eq!(found, wanted);
}

#[test]
fn maps_read_tiles_rows_columns_tables_and_parameters() {
    let header = "param c: float input x: f32[n, d] output o: f32[n, d]
        table tab: f32[n + d] (t from -(n)) = exp(float(t) * 0.01)
        table odd: bit[d] (at from 0) = at mod 2 == 1";
    let launches = "launch l { buffer a[8, 16] buffer b[8, 1] buffer e[1, 16]
        load_rows a <- x[0 : r, 0 : x], rows = n, d = 5
        map b[r < n, c2 < 1]: float(r * r)
        map e[r2 < 1, c3 < d]: float(c3) * c
        map a[i < n, j < d], s = tile(a), u = row(b), w = col(e):
          odd[j] ? s * u + w : (j < i ? tab[j - i + n] : max(s, c))
        math tanh a, rows = n, cols = d
        store_rows o[0 : r, 0 : x] <- a, rows = n, d = 5 }";
    let found = Case { header, launches, n: 7, d: 5 }.output();
    let c = f64::from(0.1f32);
    let wanted: Vec<f64> = (0..35)
        .map(|n| {
            let (i, j, s) = (n / 5, n % 5, x(7, 5)[n]);
            let table = round_to(DType::F32, ((j as f64 - i as f64) * 0.01).exp());
            let value = match (j % 2 == 1, j < i) {
                (true, _) => s * (i * i) as f64 + j as f64 * c,
                (false, true) => table,
                (false, false) => s.max(c),
            };
            value.tanh()
        })
        .collect();
    close(&found, &wanted);
}

/// `any` finds a point wherever it lies in nested spans, and none in empty ones.
#[test]
fn searches_find_a_point() {
    let header = "input x: f32[n, d] output o: f32[n, d]";
    let launches = "launch l { grid g < n buffer a[1, 16]
        fill a = 0.0
        any found over s in 0..n, t in s + 1..g: s * t == 12
        any none over s2 in 3..3, t2 in 0..9: true
        if found {
          fill a = 1.0
        }
        if none {
          fill a = 2.0
        }
        store_rows o[g : r, 0 : x] <- a, rows = 1, d = 1 }";
    let found = Case { header, launches, n: 8, d: 1 }.output();
    // 3 * 4 needs t = 4 < g, and 2 * 6 needs t = 6 < g.
    assert_eq!(found, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
}

/// Packing in one launch, products in the next; 40 keys make two panels, 20 features one.
const PACKED: &str =
    "input x: f32[n, d] output o: f32[n, n] workspace p: f32[2, 20, 32] workspace v: f32[1, 40, 32]
    workspace bad: i32[1]";

#[test]
fn keys_are_packed_and_multiplied() {
    let launches = "launch pack { grid t < (n + 31) div 32
          pack_k panel(p, t * 640, 640) <- x[t * 32 : r, 0 : x], n = min(n - t * 32, 32), d = 20 }
        launch l { grid g < (n + 7) div 8 buffer a[8, 32] buffer s[8, 64] buffer two[8, 1]
          let rows = min(n - g * 8, 8)
          load_rows a <- x[g * 8 : r, 0 : x], rows = rows, d = 20
          fill two = 2.0
          gemm s = a * panel(p, 0, 640), rows = rows, k = 20, n = n, skip_zero = false
          gemm s += a * panel(p, 0, 640), rows = rows, k = 20, n = n, row_scale = two, skip_zero = false
          for again in 0..2 {
            gemm s += a * panel(p, 0, 640), rows = rows, k = 20, n = n, skip_zero = false
          }
          store_rows o[g * 8 : r, 0 : x] <- s, rows = rows, d = 39 }";
    let found = Case { header: PACKED, launches, n: 39, d: 20 }.output();
    let (x, n, d) = (x(39, 20), 39, 20);
    let dot = |i: usize, j: usize| (0..d).map(|t| x[i * d + t] * x[j * d + t]).sum::<f64>();
    close(&found, &(0..n * n).map(|at| 5.0 * dot(at / n, at % n)).collect::<Vec<_>>());
}

#[test]
fn values_are_packed_and_zero_weights_skipped() {
    let body = |skip: &str, weight: &str| {
        format!(
            "program p {{ dim n: int dim d: int {} output o2: f32[d] launch pack {{
              pack_v panel(v, 0, 1280) <- x[0 : r, 0 : x], n = n, d = 20, flag = bad[0] }}
            launch l {{ buffer w[1, 48] buffer s[1, 32]
              map w[r < 1, c < n]: {weight}
              gemm s = w * panel(v, 0, 1280), rows = 1, k = n, n = 20, skip_zero = {skip}
              store_rows o[0 : x, 0 : r] <- s, rows = 1, d = 20 }} }}",
            PACKED.replace("output o: f32[n, n]", "output o: f32[d, 1]").replace("output o2: f32[d]", "")
        )
        .replace("output o2: f32[d]", "")
    };
    let mut data = x(40, 20);
    data[7 * 20 + 3] = f64::INFINITY;
    let result = |skip: &str, weight: &str| {
        let view = View::contiguous(vec![40, 20], Data::Float(data.clone())).unwrap();
        let inputs = Inputs {
            dims: [("n".to_string(), 40), ("d".to_string(), 20)].into(),
            params: HashMap::new(),
            tensors: [("x".to_string(), view)].into(),
        };
        let found = run(&text::parse(&body(skip, weight)).unwrap(), &inputs, None).unwrap();
        match found["o"].data() {
            Data::Float(x) => x.clone(),
            other => panic!("{other:?}"),
        }
    };
    let weight = |j: usize| if j == 7 { 0.0 } else { j as f64 };
    let wanted = |skip: bool| -> Vec<f64> {
        let keys = || (0..40).filter(move |&j| !skip || weight(j) != 0.0);
        (0..20).map(|c| keys().map(|j| weight(j) * data[j * 20 + c]).sum()).collect()
    };
    let text = "c == 7 ? 0.0 : float(c)";
    close(&result("bad[0] == 1", text), &wanted(true));
    close(&result("bad[0] == 0", text), &wanted(false));
    assert!(result("bad[0] == 0", text)[3].is_nan());
}

#[test]
fn steps_over_tiles_make_softmax_and_weights() {
    let header = "input x: f32[n, d] output o: f32[n, 3]";
    let launches = "launch l { buffer s[8, 16] buffer m[8, 1] buffer l[8, 1] buffer a[8, 1] buffer i[8, 1]
          buffer e[8, 1] buffer m2[8, 1] buffer w[8, 16]
        fill m = -inf fill l = 0.0 fill m2 = -inf
        for t in 0..(d + 9) div 10 {
          let cols = min(d - t * 10, 10)
          load_rows s <- x[0 : r, t * 10 : x], rows = n, d = 10
          map s[r < n, c < cols], v = tile(s): (c + r) mod 3 == 0 ? -inf : v
          softmax_step s, rows = n, cols = cols, scale = 3.0, row_max = m, row_sum = l, alpha = a, floor_unmasked = t == 0
        }
        finish_softmax rows = n, row_max = m, row_sum = l, sink = 0.5, inv_sum = i, lse = e
        load_rows w <- x[0 : r, 0 : x], rows = n, d = 10
        weight_step sigmoid w, rows = n, cols = 10, scale = 2.0, row_max = m2, floor_unmasked = false
        map w[r2 < n, c2 < 3], b = tile(w), c4 = row(e), c5 = row(m2): c2 == 0 ? b : c2 == 1 ? c4 : c5
        store_rows o[0 : r, 0 : x] <- w, rows = n, d = 3 }";
    let found = Case { header, launches, n: 6, d: 30 }.output();
    let x = x(6, 30);
    let wanted: Vec<f64> = (0..6)
        .flat_map(|r| {
            let row = &x[r * 30..r * 30 + 30];
            let seen = row.iter().enumerate().filter(|(c, _)| !(c % 10 + r).is_multiple_of(3));
            let sum = seen.map(|(_, s)| (3.0 * s).exp()).sum::<f64>() + 0.5f64.exp();
            let max = row[..10].iter().fold(f64::NEG_INFINITY, |m, s| m.max(2.0 * s));
            [1.0 / (1.0 + (-2.0 * row[0]).exp()), sum.ln(), max]
        })
        .collect();
    close(&found, &wanted);
}

#[test]
fn vectors_are_stored_along_any_dim_and_branches_are_taken() {
    let header = "input x: f32[n, d] output o: f32[3, n, 2]";
    let launches = "launch l { grid u < 3, w < 2 buffer m[16, 1]
        if u == 1 & w == 0 { map m[r < n, c < 1]: float(r) } else { fill m = 7.0 }
        store_vec o[u, 0 : rx, w] <- m, rows = n }";
    let found = Case { header, launches, n: 5, d: 1 }.output();
    let wanted = |n: usize| if n / 10 == 1 && n.is_multiple_of(2) { (n / 2 % 5) as f64 } else { 7.0 };
    assert_eq!(found, (0..30).map(wanted).collect::<Vec<_>>());
}

#[test]
fn rows_keep_one_run_of_columns() {
    let header = "input x: f32[n, d] output o: f32[n, d]";
    let launches = "launch l { buffer s[8, 16]
        load_rows s <- x[0 : r, 0 : x], rows = n, d = d
        band s, rows = n, cols = d, period = 3, from = -1, from_step = 1, to = 4, to_step = 0
        store_rows o[0 : r, 0 : x] <- s, rows = n, d = d }";
    let found = Case { header, launches, n: 6, d: 5 }.output();
    let x = x(6, 5);
    for (at, found) in found.iter().enumerate() {
        let (p, c) = ((at / 5 % 3) as i64, (at % 5) as i64);
        let seen = -1 + p <= c && c < 4;
        assert_eq!(*found, if seen { x[at] } else { f64::NEG_INFINITY }, "{at}");
    }
}

#[test]
fn tiles_are_scaled_and_added_to_by_column_and_diagonal() {
    let header = "input x: f32[n, d] output o: f32[n, d]";
    let launches = "launch l { buffer s[8, 16] buffer f[1, 16] buffer t[1, 32]
        load_rows s <- x[0 : r, 0 : x], rows = n, d = d
        map f[r < 1, c < d]: float(c)
        map t[r2 < 1, c2 < n - 1 + d]: float(c2) * 100.0
        affine s, rows = n, cols = d, scale = 2.0, factor = f, diagonal = t
        affine s, rows = n, cols = d, scale = 1.0, term = f
        affine s, rows = 1, cols = d, scale = 0.0
        affine s, rows = 1, cols = d, scale = 1.0, term = t, keep_zero
        store_rows o[0 : r, 0 : x] <- s, rows = n, d = d }";
    let found = Case { header, launches, n: 6, d: 5 }.output();
    let x = x(6, 5);
    let wanted = |at: usize| {
        let (r, c) = (at / 5, at % 5);
        let diagonal = (5 - r + c) as f64 * 100.0;
        if r == 0 { 0.0 } else { x[at] * 2.0 * c as f64 + diagonal + c as f64 }
    };
    close(&found, &(0..30).map(wanted).collect::<Vec<_>>());
}

#[test]
fn views_are_parts_of_their_buffers() {
    let header = "input x: f32[n, d] output o: f32[n, d]";
    let launches = "launch l { buffer s[8, 32] buffer m[8, 1] buffer part[2, 16] of s buffer state[2, 1] of m
        fill s = 1.0
        fill m = 3.0
        for u in 0..2 {
          view part at u * 2 + 1, 16
          view state at u * 2 + 1, 0
          map state[r < 2, c < 1]: float(u) + 5.0
          load_rows part <- x[u * 2 : r, 0 : x], rows = 2, d = 5
          map part[r2 < 2, c2 < 5], e = tile(part), f = row(state): e * f
        }
        map s[r3 < n, c3 < d], g = tile(s), h = row(m): g + h
        store_rows o[0 : r, 0 : x] <- s, rows = n, d = d }";
    let found = Case { header, launches, n: 6, d: 21 }.output();
    let x = x(6, 21);
    for (at, found) in found.iter().enumerate() {
        let (r, c) = (at / 21, at % 21);
        let state = if (1..5).contains(&r) { ((r - 1) / 2 + 5) as f64 } else { 3.0 };
        let inside = (1..5).contains(&r) && c >= 16;
        let wanted = if inside { x[(r - 1) * 21 + c - 16] * state } else { 1.0 };
        assert!((found - wanted - state).abs() < 1e-9, "({r}, {c}): {found}");
    }
    let outside = launches.replace("at u * 2 + 1, 16", "at u * 8, 16").leak();
    let err = Case { header, launches: outside, n: 6, d: 21 }.run(None).unwrap_err();
    assert!(err.to_string().contains("a count of 8"), "{err}");
}

#[test]
fn tiles_are_rounded_with_zeros_behind() {
    let launches = "launch l { buffer a[8, 16] buffer half[8, 32]: bf16 buffer p[1, 32] buffer c[8, 32]
        load_rows a <- x[0 : r, 0 : x], rows = n, d = 5
        map a[r < n, c2 < 5], e = tile(a): e + 0.001
        round half <- a, rows = n, cols = 5
        gemm c = half * rows(eye[0 : r, 0 : x]), rows = n, k = 16, n = 16, skip_zero = false
        store_rows o[0 : r, 0 : x] <- c, rows = n, d = 5 }";
    let eye = View::from_fn(&[16, 16], |at| f64::from(u8::from(at[0] == at[1])));
    let text = format!(
        "program p {{ dim n: int dim d: int input x: f32[n, d] input eye: bf16[16, 16] output o: f32[n, d] {launches} }}"
    );
    let view = View::contiguous(vec![6, 5], Data::Float(x(6, 5))).unwrap();
    let inputs = Inputs {
        dims: [("n".to_string(), 6), ("d".to_string(), 5)].into(),
        params: HashMap::new(),
        tensors: [("x".to_string(), view), ("eye".to_string(), eye)].into(),
    };
    let found = run(&text::parse(&text).unwrap(), &inputs, None).unwrap();
    let Data::Float(found) = found["o"].data() else { panic!("floats") };
    let wanted: Vec<f64> = x(6, 5).iter().map(|x| round_to(DType::Bf16, x + 0.001)).collect();
    assert_eq!(*found, wanted);
}

#[test]
fn what_a_program_must_not_do_is_an_error() {
    let store = "store_rows o[0 : r, 0 : x] <- a, rows = n, d = 5 }";
    let case = |body: &str, message: &str| {
        let launches: &'static str = Box::leak(body.replace("STORE", store).into_boxed_str());
        let error = Case { header: COPY, launches, n: 6, d: 5 }.error();
        assert!(error.contains(message), "{error}, expected {message}");
    };
    case("launch l { buffer a[8, 16] STORE", "reads a[0, 0], which nothing has written");
    case(
        "launch l { buffer a[8, 16] load_rows a <- x[1 : r, 0 : x], rows = n, d = 5 STORE",
        "reads the tensor at [6, 0]",
    );
    case("launch l { buffer a[4, 16] load_rows a <- x[0 : r, 0 : x], rows = n, d = 5 STORE", "a count of 6");
    case("launch l { grid t < 2 buffer a[8, 16] fill a = 1.0 STORE", "write one element");
    case(
        "launch l { buffer a[8, 16] fill a = 1.0 store_rows o[0 : r, 0 : x] <- a, rows = n - 1, d = 5 }",
        "[5, 0] is never written",
    );
    case(
        "launch l { buffer a[8, 16] fill a = 1.0 store_rows o[0 : r, 1 : x] <- a, rows = n, d = 5 }",
        "writes at [0, 5]",
    );
    case(
        "launch l { buffer a[8, 16] map a[r < n, c < 16], e = tile(a): e + 1.0 STORE",
        "which nothing has written",
    );
    case(
        "launch l { buffer a[8, 16] store_rows o[0 : r, 0 : x] <- a, rows = n - 7, d = 5 }",
        "a count of -1",
    );
    case("launch l { buffer a[8, 24] STORE", "I7");
}

#[test]
fn what_a_step_must_not_do_is_an_error() {
    let header = "input x: f32[n, d] output o: f32[n, d] workspace w: f32[n, d] workspace at: i32[4]";
    let case = |body: &str, message: &str| {
        let launches: &'static str = Box::leak(format!("launch l {{ {body} }}").into_boxed_str());
        let error = Case { header, launches, n: 6, d: 5 }.error();
        assert!(error.contains(message), "{error}, expected {message}");
    };
    let buffers = "buffer a[8, 16] buffer b[16, 32] buffer c[8, 32] buffer v[8, 1]";
    let with = |body: &str| format!("{buffers} load_rows a <- x[0 : r, 0 : x], rows = n, d = d {body}");
    let unset = "which nothing has written";
    case(&with("load_rows a <- x[0 : r, 0 : x], rows = n, d = n"), "reads the tensor at [0, 5]");
    case(&with("load_rows a <- x[0 : r, 0 : x], rows = n, d = n * 3"), "a count of 18");
    case(
        &with("gemm c = a * b, rows = n, k = d, n = 3, skip_zero = false"),
        &format!("reads b[0, 0], {unset}"),
    );
    case(&with("gemm c = a * b, rows = n, k = n * 3, n = 3, skip_zero = false"), "a count of 18");
    case(&with("transpose b <- a, rows = 7, cols = d"), &format!("reads a[6, 0], {unset}"));
    case(&with("transpose b <- a, rows = n, cols = d * 4"), "a count of 20");
    case(&with("scan_rows a, rows = n + 1, cols = 1"), &format!("reads a[6, 0], {unset}"));
    case(&with("scan_rows a, rows = n, cols = 1, decay = v"), &format!("reads v[1, 0], {unset}"));
    case(&with("reduce_rows sum v <- a, rows = 8, cols = 2"), &format!("reads a[6, 0], {unset}"));
    let random = "row0 = 0, stream = 0, offset = 0, seed = 0, threshold = 0, keep_scale = 1.0";
    let random = |cols: &str, col0: &str| {
        format!(
            "random a, rows = n, cols = {cols}, {}",
            random.replace("stream", &format!("col0 = {col0}, stream"))
        )
    };
    case(&with(&random("d", "d - 6")), "column -1, which is negative");
    case(&with(&random("d * 4", "0")), "a count of 20");
    case("prefix_sum flat(w, 0), flat(w, n * d - 1) <- x[0, 0 : rx], n = d", "writes outside of 30");
    case("prefix_sum flat(w, 0), flat(w, 5) <- x[0, 0 : rx], n = n", "reads the tensor at [0, 5]");
    case("grid t < 2 prefix_sum flat(w, t), flat(w, t + 10) <- x[0, 0 : rx], n = 2", "write one element");
    case("top_k flat(at, 0) <- x[0 : rx, 0], n = n, m = 3, width = 2", "3 positions for a row of 2");
    case("top_k flat(at, 1) <- x[0 : rx, 0], n = n, m = 3, width = 4", "writes outside of 4");
    case(&with("store_map o[0 : r, 1 : x] [i < n, j < d]: 0.0"), "writes at [0, 5]");
    case(
        &with("store_map o[0 : r, 0 : x] [i < n, j < d], e = row(v): e"),
        &format!("reads v[0, 0], {unset}"),
    );
}

#[test]
fn poisoned_workspace_is_an_error() {
    let case = |pack: &str, product: &str, message: &str| {
        let text = format!(
            "launch pack {{ {pack} }} launch l {{ buffer a[8, 32] buffer s[8, 64]
            load_rows a <- x[0 : r, 0 : x], rows = 6, d = 20 {product}
            store_rows o[0 : r, 0 : x] <- s, rows = 6, d = 6 }}"
        );
        let launches: &'static str = Box::leak(text.into_boxed_str());
        let result = Case { header: PACKED, launches, n: 6, d: 20 }.run(None);
        match result {
            Ok(_) => assert_eq!(message, ""),
            Err(error) => assert!(!message.is_empty() && error.to_string().contains(message), "{error}"),
        }
    };
    let pack = "pack_k panel(p, 0, 640) <- x[0 : r, 0 : x], n = n, d = 20
        pack_v panel(v, 0, 1280) <- x[0 : r, 0 : x], n = n, d = 20, flag = bad[0]";
    let gemm = |at: &str, k: &str, skip: &str| {
        format!("gemm s = a * panel({at}), rows = 6, k = {k}, n = 6, skip_zero = {skip}")
    };
    case(pack, &gemm("p, 0, 640", "20", "false"), "");
    case(pack, &gemm("p, 640, 640", "20", "false"), "which nothing has written");
    case(pack, &gemm("p, 1280, 640", "20", "false"), "outside of 1280");
    case(pack, &gemm("v, 0, 1280", "6", "bad[0] == 0"), "");
    case(pack, &gemm("v, 0, 1280", "7", "false"), "which nothing has written");
    case(pack, &gemm("v, 0, 1280", "6", "bad[1] == 0"), "reads at [1]");
    case(&pack.replace("640) <-", "32) <-"), &gemm("p, 0, 640", "20", "false"), "panels of d * 32");
}

#[test]
fn requires_and_data_are_checked() {
    let text = "program p { dim n: int require n < 5: \"at most four\" output o: f32[n]
        launch l { buffer a[8, 1] fill a = 0.0 store_vec o[0 : rx] <- a, rows = n } }";
    let program = text::parse(text).unwrap();
    let with = |n: i64| Inputs { dims: [("n".to_string(), n)].into(), ..Inputs::default() };
    assert_eq!(run(&program, &with(4), None).unwrap()["o"].shape(), [4]);
    assert!(run(&program, &with(0), None).unwrap()["o"].data().is_empty());
    assert_eq!(run(&program, &with(5), None).unwrap_err().message, "at most four");
    assert!(run(&program, &with(-1), None).unwrap_err().message.contains("-1"));
    assert!(run(&program, &Inputs::default(), None).unwrap_err().message.contains("`n`"));
}

#[test]
fn guarded_loads_out_of_range_do_not_matter() {
    let header = "input x: f32[n, d] output o: f32[n]";
    let launches = "launch l { buffer m[8, 1] map m[r < n, c < 1]: r < 3 ? x[r + 100, 0] : x[r, 0]
        map m[r2 < n, c2 < 1], e = tile(m): r2 < 3 ? 1.0 : e store_vec o[0 : rx] <- m, rows = n }";
    let found = Case { header, launches, n: 5, d: 1 }.output();
    assert_eq!(found, [1.0, 1.0, 1.0, x(5, 1)[3], x(5, 1)[4]]);
    let unguarded = launches.replace("? 1.0 : e", "? e : e * 2.0");
    let launches: &'static str = Box::leak(unguarded.into_boxed_str());
    assert!(Case { header, launches, n: 5, d: 1 }.output()[0].is_nan());
}
