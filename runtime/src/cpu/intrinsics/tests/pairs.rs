//! Products of bf16 in pairs, and what makes their operands.

use super::{Noise, bits, same_bits};
use crate::cpu::intrinsics::IntrinsicTable;
use crate::cpu::intrinsics::convert::{bf16_to_f32, f32_to_bf16};

const SIZES: [(usize, usize); 9] =
    [(0, 16), (1, 1), (2, 17), (15, 33), (16, 32), (33, 48), (64, 100), (128, 130), (6, 300)];
const ROWS: [usize; 9] = [0, 1, 2, 3, 4, 5, 8, 9, 23];
/// What stands where nothing is to be written.
const UNTOUCHED: u16 = 0x4321;

/// A product of which everything is bf16.
struct Case {
    rows: usize,
    k: usize,
    n: usize,
    /// Rows x k, and k x n, values of bf16.
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    row_scale: Vec<f32>,
    accumulate: bool,
}

impl Case {
    fn new(rows: usize, (k, n): (usize, usize)) -> Case {
        let mut noise = Noise((rows * 65_536 + k * 256 + n) as u32);
        let mut half = |n| noise.vec(n, 4.0).into_iter().map(|x| bf16_to_f32(f32_to_bf16(x))).collect();
        let (a, b) = (half(rows * k), half(k * n));
        let (c, row_scale) = (noise.vec(rows * n, 1.0), noise.vec(rows, 2.0));
        Case { rows, k, n, a, b, c, row_scale, accumulate: (rows + k) % 2 == 1 }
    }

    /// A with rows of whole pairs, a zero at k where that is odd, NaN behind; and its leading dimension.
    fn left(&self) -> (Vec<u16>, usize) {
        let lda = self.k.next_multiple_of(16) + 16;
        let mut a = vec![f32_to_bf16(f32::NAN); self.rows * lda];
        for r in 0..self.rows {
            for t in 0..self.k.next_multiple_of(2) {
                let x = if t < self.k { self.a[r * self.k + t] } else { 0.0 };
                a[r * lda + t] = f32_to_bf16(x);
            }
        }
        (a, lda)
    }

    fn result(&self) -> (Vec<f32>, usize) {
        let ldc = self.n.next_multiple_of(16) + 16;
        let mut c = vec![7.0; self.rows * ldc];
        for r in 0..self.rows {
            c[r * ldc..][..self.n].copy_from_slice(&self.c[r * self.n..][..self.n]);
        }
        (c, ldc)
    }

    /// B as a tensor with a row for each t (or x), its elements `step` apart, and its stride.
    fn tensor(&self, by_column: bool, step: usize) -> (Vec<u16>, usize) {
        let (rows, len) = if by_column { (self.n, self.k) } else { (self.k, self.n) };
        let stride = len * step + 3;
        let mut out = vec![f32_to_bf16(f32::NAN); (rows.max(1) - 1) * stride + len.max(1) * step];
        for (r, e) in (0..rows).flat_map(|r| (0..len).map(move |e| (r, e))) {
            let (t, x) = if by_column { (e, r) } else { (r, e) };
            out[r * stride + e * step] = f32_to_bf16(self.b[t * self.n + x]);
        }
        (out, stride)
    }

    fn part(&self, c: &[f32], ldc: usize, used: usize) -> Vec<f32> {
        for r in 0..self.rows {
            assert!(c[r * ldc + used..(r + 1) * ldc].iter().all(|&x| x == 7.0), "wrote beyond column {used}");
        }
        (0..self.rows).flat_map(|r| c[r * ldc..][..self.n].to_vec()).collect()
    }

    /// The product with panels that the table packs itself: as keys with an even k, else as values.
    fn panels(&self, t: &IntrinsicTable, keys: bool, skip: bool) -> Vec<f32> {
        let ((a, lda), (mut c, ldc)) = (self.left(), self.result());
        let (b, stride) = self.tensor(keys, 1);
        let panel = self.k.next_multiple_of(2) * 32;
        let mut packed = vec![UNTOUCHED; (self.n.div_ceil(32) * panel).max(1)];
        let [lda, ldc_, panel, rows, k, n, s] =
            [lda, ldc, panel, self.rows, self.k, self.n, stride].map(|x| x as i64);
        let (to, from) = (packed.as_mut_ptr().cast::<f32>(), b.as_ptr().cast::<u8>());
        let scale = if self.accumulate { self.row_scale.as_ptr() } else { std::ptr::null() };
        let gemm = if skip { t.gemm_pairs_skip_zero() } else { t.gemm_pairs() };
        let (pc, pa, add) = (c.as_mut_ptr(), a.as_ptr().cast::<f32>(), i32::from(self.accumulate));
        // SAFETY: the buffers have the sizes that the arguments say.
        unsafe {
            if keys {
                t.pack_k_pairs()(to, from, n, k, s, 1);
            } else {
                t.pack_v_pairs()(to, panel, from, k, n, s, 1);
            }
            gemm(pc, ldc_, pa, lda, to, panel, rows, k, n, scale, add);
        }
        self.part(&c, ldc, self.n.next_multiple_of(16))
    }

    /// The product with rows where they lie.
    fn direct(&self, t: &IntrinsicTable, by_column: bool, step: usize, skip: bool) -> Vec<f32> {
        let ((a, lda), (mut c, ldc)) = (self.left(), self.result());
        let (b, stride) = self.tensor(by_column, step);
        let [lda, ldc_, rows, k, n, s, e] =
            [lda, ldc, self.rows, self.k, self.n, stride, step].map(|x| x as i64);
        let (pa, pb) = (a.as_ptr().cast::<f32>(), b.as_ptr().cast::<u8>());
        let (add, skip) = (i32::from(self.accumulate), i32::from(skip));
        let scale = if self.accumulate { self.row_scale.as_ptr() } else { std::ptr::null() };
        let product = |pc: *mut f32, next: *const u8| {
            // SAFETY: the buffers have the sizes that the arguments say; what is asked for need not be there.
            unsafe {
                if by_column {
                    t.columns_pairs()(pc, ldc_, pa, lda, pb, s, e, rows, k, n, add, next);
                } else {
                    t.rows_pairs()(pc, ldc_, pa, lda, pb, s, e, rows, k, n, scale, add, skip, next);
                }
            }
        };
        let mut asking = c.clone();
        product(c.as_mut_ptr(), std::ptr::null());
        product(asking.as_mut_ptr(), pb.wrapping_add(1 << 20));
        assert_eq!(bits(&c), bits(&asking), "asking for what is read next changes no bit");
        self.part(&c, ldc, if by_column { self.n } else { self.n.next_multiple_of(16) })
    }

    /// Compares with sums in f64; `scaled`: the old C was scaled by row.
    fn compare(&self, got: &[f32], scaled: bool, what: &str) {
        for (at, got) in got.iter().enumerate() {
            let (r, x) = (at / self.n, at % self.n);
            let scale = if scaled { f64::from(self.row_scale[r]) } else { 1.0 };
            let old = if self.accumulate { f64::from(self.c[at]) * scale } else { 0.0 };
            let (mut sum, mut size) = (old, old.abs());
            for t in 0..self.k {
                let p = f64::from(self.a[r * self.k + t]) * f64::from(self.b[t * self.n + x]);
                (sum, size) = (sum + p, size + p.abs());
            }
            let bound = size * (self.k + 2) as f64 * 2f64.powi(-24) + 1e-30;
            assert!((f64::from(*got) - sum).abs() <= bound, "{what}: element {at} is {got}, exact {sum}");
        }
    }
}

#[test]
fn products_with_panels_over_odd_sizes() {
    for (rows, size) in ROWS.into_iter().flat_map(|r| SIZES.map(|s| (r, s))) {
        let case = Case::new(rows, size);
        for (keys, skip) in [(false, false), (false, true), (true, false)] {
            if keys && !case.k.is_multiple_of(2) {
                continue;
            }
            let what = format!("{rows} x {size:?}, keys {keys}, skip {skip}");
            case.compare(&same_bits(&what, |t| case.panels(t, keys, skip)), true, &what);
        }
    }
}

#[test]
fn products_with_rows_where_they_lie() {
    for (rows, size) in ROWS.into_iter().flat_map(|r| SIZES.map(|s| (r, s))) {
        let case = Case::new(rows, size);
        for step in [1, 2] {
            let what = format!("{rows} x {size:?}, step {step}");
            if case.k.is_multiple_of(2) {
                let columns = same_bits(&what, |t| case.direct(t, true, step, false));
                case.compare(&columns, false, &what);
            }
            for skip in [false, true] {
                case.compare(&same_bits(&what, |t| case.direct(t, false, step, skip)), true, &what);
            }
        }
    }
}

/// As long as the first level holds the rows, they give the bits of packed ones.
#[test]
fn rows_give_the_bits_of_panels() {
    for (rows, size) in [(1, (32, 64)), (4, (15, 130)), (9, (40, 48))] {
        let case = Case { accumulate: true, ..Case::new(rows, size) };
        let direct = same_bits("rows", |t| case.direct(t, false, 1, false));
        let packed = same_bits("panels", |t| case.panels(t, false, false));
        assert_eq!(bits(&direct), bits(&packed), "{rows} x {size:?}");
    }
}

/// Weights of zero hide what they meet; those that stand for what is too small count only beside what is not finite.
#[test]
fn skipped_weights_hide_what_they_meet() {
    for rows in [1, 2, 4, 9] {
        let (k, n) = (13, 50);
        let mut case = Case::new(rows, (k, n));
        for r in 0..rows {
            case.a[r * k + 5] = 0.0;
            case.a[r * k + 8] = -0.0;
        }
        case.b[5 * n..6 * n].fill(f32::NAN);
        case.b[8 * n..9 * n].fill(f32::INFINITY);
        for f in
            [Case::panels, |c: &Case, t: &IntrinsicTable, _: bool, skip: bool| c.direct(t, false, 1, skip)]
        {
            assert!(same_bits("skip", |t| f(&case, t, false, true)).iter().all(|x| x.is_finite()));
            assert!(same_bits("plain", |t| f(&case, t, false, false)).iter().all(|x| x.is_nan()));
        }
        let mut floored = Case::new(rows, (k, n));
        (0..rows).for_each(|r| floored.a[r * k + 5] = f32::MIN_POSITIVE);
        floored.b[5 * n..6 * n].fill(2f32.powi(127));
        let mut without = Case::new(rows, (k, n));
        (0..rows).for_each(|r| without.a[r * k + 5] = 0.0);
        let [got, wanted] = [&floored, &without].map(|c| same_bits("floor", |t| c.direct(t, false, 1, true)));
        assert_eq!(bits(&got), bits(&wanted));
        floored.b[5 * n..6 * n].fill(f32::NAN);
        assert!(same_bits("floor", |t| floored.direct(t, false, 1, true)).iter().all(|x| x.is_nan()));
    }
}

/// A matrix of bf16 by strides, and element (r, e).
fn matrix(
    rows: usize,
    len: usize,
    (by_row, by_element): (usize, usize),
) -> (Vec<u16>, impl Fn(usize, usize) -> u16) {
    let mut noise = Noise((rows * 977 + len) as u32);
    let all = rows.max(1) * by_row.max(1) + len.max(1) * by_element;
    let data: Vec<u16> = noise.vec(all, 3.0).into_iter().map(f32_to_bf16).collect();
    let of = data.clone();
    (data, move |r, e| of[r * by_row + e * by_element])
}

fn as_f32(words: &[u16]) -> Vec<f32> {
    words.iter().map(|&x| bf16_to_f32(x)).collect()
}

#[test]
fn panels_hold_pairs_and_zeros() {
    for (keys, d) in [(1usize, 2usize), (31, 16), (32, 40), (45, 34), (64, 128), (70, 6)] {
        for strides in [(d, 1), (d + 1, 1), (2 * d + 5, 2), (1, keys)] {
            let (data, at) = matrix(keys, d, strides);
            let (by_key, by_d) = (strides.0 as i64, strides.1 as i64);
            let (from, what) = (data.as_ptr().cast::<u8>(), format!("{keys} keys of {d}, {strides:?}"));
            let packed = same_bits(&what, |t| {
                let mut out = vec![UNTOUCHED; keys.div_ceil(32) * 32 * d];
                let to = out.as_mut_ptr().cast();
                // SAFETY: the buffers have the sizes that the arguments say.
                unsafe { t.pack_k_pairs()(to, from, keys as i64, d as i64, by_key, by_d) };
                as_f32(&out)
            });
            for (j, x) in (0..keys.next_multiple_of(32)).flat_map(|j| (0..d).map(move |x| (j, x))) {
                let wanted = if j < keys { bf16_to_f32(at(j, x)) } else { 0.0 };
                assert_eq!(
                    packed[j / 32 * 32 * d + x / 2 * 64 + j % 32 * 2 + x % 2],
                    wanted,
                    "{what}: {j}, {x}"
                );
            }
            let panel = keys.next_multiple_of(2) * 32;
            let packed = same_bits(&what, |t| {
                let mut out = vec![UNTOUCHED; d.div_ceil(32) * panel];
                let to = out.as_mut_ptr().cast();
                let (keys, d) = (keys as i64, d as i64);
                // SAFETY: the buffers have the sizes that the arguments say.
                assert_eq!(unsafe { t.pack_v_pairs()(to, panel as i64, from, keys, d, by_key, by_d) }, 0);
                as_f32(&out)
            });
            let all =
                (0..keys.next_multiple_of(2)).flat_map(|j| (0..d.next_multiple_of(32)).map(move |x| (j, x)));
            for (j, x) in all {
                let wanted = if j < keys && x < d { bf16_to_f32(at(j, x)) } else { 0.0 };
                assert_eq!(
                    packed[x / 32 * panel + j / 2 * 64 + x % 32 * 2 + j % 2],
                    wanted,
                    "{what}: {j}, {x}"
                );
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_are_noted() {
    for (keys, d, bad) in [(5, 3, (4, 2)), (8, 64, (3, 40)), (33, 33, (32, 32)), (2, 32, (0, 0))] {
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (mut data, _) = matrix(keys, d, (d, 1));
            data[bad.0 * d + bad.1] = f32_to_bf16(x);
            same_bits("flag", |t| {
                let panel = keys.next_multiple_of(2) * 32;
                let mut out = vec![0u16; d.div_ceil(32) * panel];
                let (to, from) = (out.as_mut_ptr().cast(), data.as_ptr().cast());
                // SAFETY: the buffers have the sizes that the arguments say.
                let flag =
                    unsafe { t.pack_v_pairs()(to, panel as i64, from, keys as i64, d as i64, d as i64, 1) };
                assert_eq!(flag, 1, "{keys} x {d}: {x} at {bad:?}");
                vec![]
            });
        }
    }
}

#[test]
fn rows_are_copied_and_weights_rounded() {
    for (rows, d, ldd) in [(1usize, 1usize, 16usize), (3, 16, 16), (5, 33, 48), (4, 64, 80)] {
        for strides in [(d, 1), (2 * d + 3, 2), (1, rows)] {
            let (data, at) = matrix(rows, d, strides);
            let got = same_bits("load", |t| {
                let mut out = vec![UNTOUCHED; rows * ldd + 16];
                let (to, from) = (out.as_mut_ptr(), data.as_ptr().cast());
                let [ldd_, r, d, a, b] = [ldd, rows, d, strides.0, strides.1].map(|x| x as i64);
                // SAFETY: the buffers have the sizes that the arguments say.
                unsafe { t.load_pairs()(to, ldd_, from, r, d, a, b) };
                assert!(out[rows * ldd..].iter().all(|&x| x == UNTOUCHED));
                as_f32(&out[..rows * ldd])
            });
            for (n, got) in got.iter().enumerate() {
                let (r, x) = (n / ldd, n % ldd);
                assert_eq!(*got, if x < d { bf16_to_f32(at(r, x)) } else { 0.0 });
            }
        }
        let lds = d.next_multiple_of(16) + 16;
        let mut weights = Noise(9).vec(rows * lds, 1.0);
        weights[0] = f32::NAN;
        weights[d - 1] = f32::MIN_POSITIVE;
        let got = same_bits("round", |t| {
            let mut out = vec![UNTOUCHED; rows * ldd];
            let [ldd_, lds, r, d] = [ldd, lds, rows, d].map(|x| x as i64);
            // SAFETY: the buffers have the sizes that the arguments say.
            unsafe { t.round_pairs()(out.as_mut_ptr(), ldd_, weights.as_ptr(), lds, r, d) };
            as_f32(&out)
        });
        for (n, got) in got.iter().enumerate() {
            let (r, c) = (n / ldd, n % ldd);
            let wanted = match c {
                c if c < d => bf16_to_f32(f32_to_bf16(weights[r * lds + c])),
                c if c < d.next_multiple_of(16) => 0.0,
                _ => bf16_to_f32(UNTOUCHED),
            };
            assert!(got.to_bits() == wanted.to_bits() || got.is_nan() && wanted.is_nan(), "{r}, {c}: {got}");
        }
    }
}
