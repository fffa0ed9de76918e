//! `gemm` and `gemm_skip_zero`.

use super::{Noise, same_bits};
use crate::cpu::intrinsics::{GemmFn, IntrinsicTable};

/// A product to compute.
#[derive(Clone)]
struct Case {
    rows: usize,
    k: usize,
    n: usize,
    a: Vec<f32>,
    /// Row-major, k x n.
    b: Vec<f32>,
    c: Vec<f32>,
    row_scale: Option<Vec<f32>>,
    accumulate: bool,
}

impl Case {
    fn new(rows: usize, k: usize, n: usize, accumulate: bool) -> Case {
        let mut noise = Noise((rows * 65_536 + k * 256 + n) as u32);
        let (a, b) = (noise.vec(rows * k, 1.0), noise.vec(k * n, 1.0));
        let c = noise.vec(rows * n, 1.0);
        let row_scale = (rows % 2 == 1).then(|| noise.vec(rows, 2.0));
        Case { rows, k, n, a, b, c, row_scale, accumulate }
    }

    /// Runs `gemm` with padded leading dimensions; the result without padding. Columns beyond round_up(n, 16)
    /// and values after the tile must survive.
    fn run(&self, gemm: GemmFn) -> Vec<f32> {
        let (lda, used) = (self.k.next_multiple_of(16) + 16, self.n.next_multiple_of(16));
        let ldc = used + 16;
        let panel_stride = self.k * 32 + 32;
        let mut a = vec![f32::NAN; self.rows * lda];
        let mut c = vec![7.0; self.rows * ldc];
        let mut b = vec![0.0; self.n.div_ceil(32) * panel_stride];
        for r in 0..self.rows {
            a[r * lda..][..self.k].copy_from_slice(&self.a[r * self.k..][..self.k]);
            c[r * ldc..][..self.n].copy_from_slice(&self.c[r * self.n..][..self.n]);
        }
        for t in 0..self.k {
            for x in 0..self.n {
                b[x / 32 * panel_stride + t * 32 + x % 32] = self.b[t * self.n + x];
            }
        }
        let (rows, k, n) = (self.rows as i64, self.k as i64, self.n as i64);
        let scale = self.row_scale.as_ref().map_or(std::ptr::null(), |s| s.as_ptr());
        let (a, b, p) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        let accumulate = i32::from(self.accumulate);
        // SAFETY: the buffers have the sizes that the arguments say.
        unsafe { gemm(p, ldc as i64, a, lda as i64, b, panel_stride as i64, rows, k, n, scale, accumulate) };
        for r in 0..self.rows {
            assert!(c[r * ldc + used..][..16].iter().all(|&x| x == 7.0), "wrote beyond column {used}");
        }
        (0..self.rows).flat_map(|r| c[r * ldc..][..self.n].to_vec()).collect()
    }

    /// The value of each element and the sum of the magnitudes that went into it.
    fn naive(&self, skip_zero: bool) -> Vec<(f64, f64)> {
        let one = |r: usize, x: usize| {
            let terms = (0..self.k).filter(|t| !skip_zero || self.a[r * self.k + t] != 0.0);
            let products =
                terms.map(|t| f64::from(self.a[r * self.k + t]) * f64::from(self.b[t * self.n + x]));
            let scale = self.row_scale.as_ref().map_or(1.0, |s| f64::from(s[r]));
            let old = if self.accumulate { f64::from(self.c[r * self.n + x]) * scale } else { 0.0 };
            products.fold((old, old.abs()), |(sum, size), p| (sum + p, size + p.abs()))
        };
        (0..self.rows).flat_map(|r| (0..self.n).map(move |x| one(r, x))).collect()
    }

    fn check(&self, pick: fn(&IntrinsicTable) -> GemmFn, skip_zero: bool) {
        let what = format!("{} x {} x {}", self.rows, self.k, self.n);
        let got = same_bits(&what, |t| self.run(pick(t)));
        for (i, (got, (exact, size))) in got.iter().zip(self.naive(skip_zero)).enumerate() {
            if exact.is_nan() {
                assert!(got.is_nan(), "{what}: element {i} is {got}, expected NaN");
                continue;
            }
            let bound = size * (self.k + 2) as f64 * 2f64.powi(-24) + 1e-30;
            assert!((f64::from(*got) - exact).abs() <= bound, "{what}: element {i} is {got}, exact {exact}");
        }
    }
}

#[test]
fn gemm_over_odd_sizes() {
    for rows in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 23, 64] {
        for (k, n) in [(0, 16), (1, 1), (3, 17), (16, 32), (33, 48), (64, 100), (5, 128), (65, 144), (2, 300)]
        {
            for accumulate in [false, true] {
                let case = Case::new(rows, k, n, accumulate);
                case.check(IntrinsicTable::gemm, false);
                case.check(IntrinsicTable::gemm_skip_zero, true);
            }
        }
    }
}

/// The bits of an element do not depend on the tile that it is computed in.
#[test]
fn gemm_bits_do_not_depend_on_the_shape_of_the_tile() {
    let big = Case { row_scale: None, ..Case::new(19, 40, 80, true) };
    let whole = same_bits("whole", |t| big.run(t.gemm()));
    for r in 0..big.rows {
        let row = Case {
            rows: 1,
            a: big.a[r * 40..][..40].to_vec(),
            c: big.c[r * 80..][..80].to_vec(),
            ..big.clone()
        };
        let alone = same_bits("one row", |t| row.run(t.gemm()));
        assert_eq!(super::bits(&alone), super::bits(&whole[r * 80..][..80]), "row {r}");
    }
}

#[test]
fn skip_zero_hides_what_zero_weights_meet() {
    for rows in [1, 2, 5, 8, 11] {
        let mut case = Case::new(rows, 12, 50, true);
        for r in 0..rows {
            case.a[r * 12 + 5] = 0.0;
            case.a[r * 12 + 7] = -0.0;
        }
        case.b[5 * 50..6 * 50].fill(f32::NAN);
        case.b[7 * 50..8 * 50].fill(f32::INFINITY);
        case.check(IntrinsicTable::gemm_skip_zero, true);
        let got = same_bits("skip", |t| case.run(t.gemm_skip_zero()));
        assert!(got.iter().all(|x| x.is_finite()));
        let plain = same_bits("plain", |t| case.run(t.gemm()));
        assert!(plain.iter().all(|x| x.is_nan()));
    }
}

#[test]
fn nan_weights_are_not_skipped() {
    let mut case = Case::new(4, 6, 20, false);
    case.a[6 + 2] = f32::NAN;
    for pick in [IntrinsicTable::gemm, IntrinsicTable::gemm_skip_zero] {
        let got = same_bits("nan", |t| case.run(pick(t)));
        assert!(got[20..40].iter().all(|x| x.is_nan()) && got[..20].iter().all(|x| x.is_finite()));
    }
}
