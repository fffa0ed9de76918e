//! The largest elements of rows that come tile by tile: machine code on every instruction set, the interpreter, and
//! sorting.

use attn_compiler::artifact::DType;
use attn_compiler::host::SplitMix;

use crate::agree::Case;
use crate::exec::{Arg, HostTensor};

/// Positions of the largest, descending, of equal ones the first; -inf and NaN are none.
fn sorted(row: &[f32], m: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).filter(|&x| row[x] > f32::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap().then(a.cmp(&b)));
    order.truncate(m);
    order
}

#[test]
fn the_largest_of_several_tiles_are_kept_and_marked() {
    let text = "program p { dim n: int dim k: int param m: int input x: f32[n, k] output best: f32[n, 32]
        output at: f32[n, 32] output bits: bit[n, k]
        launch l { buffer s[16, 16] buffer list[16, 32] buffer place[16, 32] buffer marks[16, 16]
          fill list = -inf
          fill place = -1.0
          for t in 0..(k + 15) div 16 {
            let w = min(k - t * 16, 16)
            load_rows s <- x[0 : r, t * 16 : x], rows = n, d = w
            keep_largest list, place <- s, rows = n, cols = w, first = t * 16, m = m
          }
          store_rows best[0 : r, 0 : x] <- list, rows = n, d = 32
          store_rows at[0 : r, 0 : x] <- place, rows = n, d = 32
          for u in 0..(k + 15) div 16 {
            let v = min(k - u * 16, 16)
            mark marks <- place, rows = n, cols = v, first = u * 16
            store_map bits[0 : r, u * 16 : x][r1 < n, c1 < v], e = tile(marks): 0.5 < e
          } } }";
    let mut rng = SplitMix(8);
    for (n, k, m, kind) in
        [(16, 100, 5, 0), (3, 40, 32, 1), (1, 7, 32, 0), (16, 64, 0, 1), (5, 50, -2, 0), (9, 80, 99, 2)]
    {
        let mut draw = |at: usize| match kind {
            0 => rng.normal() as f32,
            1 => (rng.normal() * 2.0).round() as f32,
            _ => [f32::NAN, f32::NEG_INFINITY, 0.0, -0.0, f32::INFINITY, -1.0][at * 7 % 6],
        };
        let x: Vec<f32> = (0..n * k).map(&mut draw).collect();
        let shape = [n as i64, k as i64];
        let inputs = vec![("x", HostTensor::new(DType::F32, &shape, x.iter().map(|&x| f64::from(x))))];
        let scalars = [("n", Arg::Int(n as i64)), ("k", Arg::Int(k as i64)), ("m", Arg::Int(m))];
        let found = Case { text, scalars: &scalars, inputs, tolerance: 0.0 }.outputs();
        for r in 0..n {
            let row = &x[r * k..(r + 1) * k];
            let wanted = sorted(row, m.clamp(0, 32) as usize);
            for c in 0..32 {
                let (best, at) = (found["best"][r * 32 + c].float(), found["at"][r * 32 + c].float());
                let right = match wanted.get(c) {
                    Some(&place) => (f64::from(row[place]), place as f64),
                    None => (f64::NEG_INFINITY, -1.0),
                };
                assert_eq!((best, at), right, "row {r}, place {c}");
            }
            for c in 0..k {
                assert_eq!(found["bits"][r * k + c].bool(), wanted.contains(&c), "({r}, {c})");
            }
        }
    }
}
