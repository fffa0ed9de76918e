//! `softmax_step`, `weight_step`, `finish_softmax`.

use super::{Noise, bits, same_bits};
use crate::cpu::intrinsics::{IntrinsicTable, WeightStepFn};

const INF: f32 = f32::INFINITY;

/// A tile of scores with the statistics of its rows.
#[derive(Clone)]
struct Rows {
    rows: usize,
    cols: usize,
    scale: f32,
    floor: bool,
    s: Vec<f32>,
    max: Vec<f32>,
    sum: Vec<f32>,
}

/// What a step left: weights (rows x cols), max, sum, alpha.
struct Stepped {
    p: Vec<f32>,
    max: Vec<f32>,
    sum: Vec<f32>,
    alpha: Vec<f32>,
}

impl Rows {
    fn fresh(rows: usize, cols: usize, scale: f32, s: Vec<f32>) -> Rows {
        assert_eq!(s.len(), rows * cols);
        Rows { rows, cols, scale, floor: false, s, max: vec![-INF; rows], sum: vec![0.0; rows] }
    }

    /// One row.
    fn row(scale: f32, s: &[f32]) -> Rows {
        Rows::fresh(1, s.len(), scale, s.to_vec())
    }

    /// The tile with padding that holds NaN.
    fn padded(&self) -> (Vec<f32>, usize) {
        let lds = self.cols.next_multiple_of(16) + 16;
        let mut s = vec![f32::NAN; self.rows * lds];
        for r in 0..self.rows {
            s[r * lds..][..self.cols].copy_from_slice(&self.s[r * self.cols..][..self.cols]);
        }
        (s, lds)
    }

    fn unpad(&self, s: &[f32], lds: usize) -> Vec<f32> {
        let used = self.cols.next_multiple_of(16);
        for r in 0..self.rows {
            assert!(s[r * lds + self.cols..r * lds + used].iter().all(|&x| x == 0.0), "padding is zeroed");
            assert!(s[r * lds + used..][..16].iter().all(|x| x.is_nan()), "wrote beyond column {used}");
        }
        (0..self.rows).flat_map(|r| s[r * lds..][..self.cols].to_vec()).collect()
    }

    fn run(&self, t: &IntrinsicTable) -> Vec<f32> {
        let (mut s, lds) = self.padded();
        let (mut max, mut sum, mut alpha) = (self.max.clone(), self.sum.clone(), vec![-1.0; self.rows]);
        let (m, l, a) = (max.as_mut_ptr(), sum.as_mut_ptr(), alpha.as_mut_ptr());
        let (rows, cols, floor) = (self.rows as i64, self.cols as i64, i32::from(self.floor));
        // SAFETY: the tile and the vectors have the sizes that the arguments say.
        unsafe { (t.softmax_step())(s.as_mut_ptr(), lds as i64, rows, cols, self.scale, m, l, a, floor) };
        [self.unpad(&s, lds), max, sum, alpha].concat()
    }

    /// The step on every instruction set, all alike.
    fn step(&self) -> Stepped {
        let all = same_bits(&format!("{} x {}", self.rows, self.cols), |t| self.run(t));
        let (p, stats) = all.split_at(self.rows * self.cols);
        let part = |i: usize| stats[i * self.rows..][..self.rows].to_vec();
        Stepped { p: p.to_vec(), max: part(0), sum: part(1), alpha: part(2) }
    }

    /// Checks against f64, relative to the rounding that f32 scores of this size have.
    fn check(&self) {
        let got = self.step();
        for r in 0..self.rows {
            let scores: Vec<f64> = self.s[r * self.cols..][..self.cols]
                .iter()
                .map(|&s| if s == -INF { f64::NEG_INFINITY } else { f64::from(s) * f64::from(self.scale) })
                .collect();
            let old = f64::from(self.max[r]);
            let max = scores.iter().fold(old, |m, &s| m.max(s));
            close(f64::from(got.max[r]), max, 1e-7);
            let origin = if max == f64::NEG_INFINITY { 0.0 } else { max };
            let tolerance = 4e-7 + 4e-7 * origin.abs();
            let mut sum = f64::from(self.sum[r]) * if old == max { 1.0 } else { (old - origin).exp() };
            for (c, s) in scores.iter().enumerate() {
                let p = (s - origin).exp();
                sum += p;
                let slack = tolerance + 3e-7 * (s - origin).abs().min(200.0);
                close(f64::from(got.p[r * self.cols + c]), p, slack);
            }
            close(f64::from(got.sum[r]), sum, tolerance + 1e-5);
            let alpha = if old == f64::NEG_INFINITY { 0.0 } else { (old - origin).exp() };
            close(f64::from(got.alpha[r]), alpha, tolerance + 3e-7 * (old - origin).abs().min(200.0));
        }
    }
}

/// Relative difference; values below 2^-126 may have become 0.
fn close(got: f64, exact: f64, relative: f64) {
    let fine = (got - exact).abs() <= relative * exact.abs() + 1.2e-38 || got == exact;
    assert!(fine, "{got:e} is not {exact:e} to {relative:e}");
}

#[test]
fn softmax_over_odd_sizes() {
    for rows in [0, 1, 3, 15, 16, 17, 40, 64] {
        for cols in [0, 1, 5, 15, 16, 17, 31, 48, 100, 128] {
            let mut noise = Noise((rows * 1000 + cols) as u32);
            let mut tile = Rows::fresh(rows, cols, 0.37, noise.vec(rows * cols, 40.0));
            tile.check();
            tile.s.iter_mut().step_by(3).for_each(|s| *s = -INF);
            tile.max = noise.vec(rows, 20.0);
            tile.sum = noise.vec(rows, 1.0).iter().map(|x| x + 2.0).collect();
            tile.check();
            tile.floor = true;
            tile.check();
            tile.scale = -0.5;
            tile.check();
        }
    }
}

#[test]
fn a_sequence_of_steps_is_one_softmax() {
    let mut noise = Noise(5);
    let scores = noise.vec(512, 30.0);
    let whole = Rows::row(1.0, &scores).step();
    let mut part = Rows::row(1.0, &scores[..100]);
    let mut weights: Vec<f64> = Vec::new();
    for range in [0..100, 100..228, 228..229, 229..512] {
        part = Rows { cols: range.len(), s: scores[range].to_vec(), ..part };
        let step = part.step();
        weights.iter_mut().for_each(|w| *w *= f64::from(step.alpha[0]));
        weights.extend(step.p.iter().map(|&p| f64::from(p)));
        (part.max, part.sum) = (step.max, step.sum);
    }
    assert_eq!(part.max, whole.max);
    close(f64::from(part.sum[0]), f64::from(whole.sum[0]), 1e-6);
    // An exponent of size t in f32 carries an error of t * 2^-24.
    weights.iter().zip(&whole.p).for_each(|(&w, &p)| close(w, f64::from(p), 1e-6 + 2e-7 * w.ln().abs()));
}

#[test]
fn empty_rows_stay_empty() {
    for s in [vec![], vec![-INF; 20]] {
        let got = Rows::row(0.5, &s).step();
        assert!(got.p.iter().all(|&p| p == 0.0));
        assert_eq!((got.max[0], got.sum[0], got.alpha[0]), (-INF, 0.0, 0.0));
        // A row that has seen scores is not touched by a masked tile.
        let seen = Rows { max: vec![3.0], sum: vec![2.5], ..Rows::row(0.5, &s) }.step();
        assert!(seen.p.iter().all(|&p| p == 0.0));
        assert_eq!((seen.max[0], seen.sum[0], seen.alpha[0]), (3.0, 2.5, 1.0));
    }
    for scale in [0.0, -1.0] {
        let got = Rows::row(scale, &[-INF, 2.0, -INF]).step();
        assert_eq!(got.p, [0.0, 1.0, 0.0], "scale {scale}");
    }
}

#[test]
fn nan_scores_end_as_nan() {
    for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7fc0_0001), f32::from_bits(0xffc1_2345)] {
        for floor in [false, true] {
            for scale in [0.7, -0.7] {
                for others in [1.0, -INF] {
                    let mut s = vec![others; 40];
                    s[33] = nan;
                    let got = Rows { floor, ..Rows::row(scale, &s) }.step();
                    assert!(got.p[33].is_nan() && got.sum[0].is_nan());
                    assert!(!got.p[0].is_nan());
                    // Once NaN, for ever NaN.
                    let next = Rows { max: got.max, sum: got.sum, ..Rows::row(scale, &[0.0]) }.step();
                    assert!(next.sum[0].is_nan());
                }
            }
        }
    }
}

#[test]
fn infinite_scores_are_nan_as_in_the_formula() {
    let got = Rows::row(1.0, &[1.0, INF, -INF]).step();
    assert!(got.p[1].is_nan() && got.sum[0].is_nan());
    assert_eq!((got.p[0], got.p[2], got.max[0]), (0.0, 0.0, INF));
}

#[test]
fn the_floor_marks_what_is_not_masked() {
    let s = [0.0, -50.0, -500.0, -1e30, f32::MIN, -INF];
    let got = Rows { floor: true, ..Rows::row(1.0, &s) }.step();
    assert_eq!(got.p[2..], [f32::MIN_POSITIVE, f32::MIN_POSITIVE, f32::MIN_POSITIVE, 0.0]);
    let plain = Rows::row(1.0, &s).step();
    assert_eq!(plain.p[2..], [0.0; 4]);
}

#[test]
fn huge_scores_keep_their_frame() {
    for size in [1e6, 3e6, 1e9, 1e20, 1e30, f32::MAX] {
        for sign in [1.0, -1.0] {
            let got = Rows::row(1.0, &[sign * size; 24]).step();
            assert!(got.p.iter().all(|&p| (p - 1.0).abs() < 0.5), "{size}: {:?}", got.p[0]);
            assert!(got.p.iter().all(|&p| p == got.p[0]));
            assert_eq!(got.max[0], sign * size);
        }
    }
    // Ten against minus a million: one group with both kinds of rows.
    let mut s = vec![10.0; 34];
    s[17..].fill(-1e9);
    let got = Rows::fresh(2, 17, 1.0, s).step();
    assert!(got.p.iter().all(|&p| (p - 1.0).abs() < 1e-5), "{:?}", got.p);
    let next = Rows { max: got.max, sum: got.sum, ..Rows::fresh(2, 1, 1.0, vec![10.0, 10.0]) }.step();
    assert_eq!(next.alpha, [1.0, 0.0]);
}

fn weights(kind: u32, tile: &Rows) -> Vec<f32> {
    same_bits(&format!("weight {kind}"), |t| {
        let f: WeightStepFn = t.weight_step();
        let (mut s, lds) = tile.padded();
        let mut max = tile.max.clone();
        let (rows, cols) = (tile.rows as i64, tile.cols as i64);
        // SAFETY: the tile and the vector have the sizes that the arguments say.
        unsafe {
            f(
                kind,
                s.as_mut_ptr(),
                lds as i64,
                rows,
                cols,
                tile.scale,
                max.as_mut_ptr(),
                i32::from(tile.floor),
            )
        };
        [tile.unpad(&s, lds), max].concat()
    })
}

#[test]
fn unnormalised_weights() {
    for (rows, cols) in [(1, 1), (3, 17), (18, 33), (16, 16), (2, 0)] {
        let mut noise = Noise(cols as u32);
        let mut tile = Rows::fresh(rows, cols, -0.3, noise.vec(rows * cols, 90.0));
        tile.s.iter_mut().step_by(4).for_each(|s| *s = -INF);
        for kind in 0..3 {
            let got = weights(kind, &tile);
            for (i, &s) in tile.s.iter().enumerate() {
                let x = f64::from(s * tile.scale);
                let exact = match kind {
                    _ if s == -INF => 0.0,
                    0 => 1.0 / (1.0 + (-x).exp()),
                    1 => x.max(0.0),
                    _ => x,
                };
                close(f64::from(got[i]), exact, 3e-7);
            }
            for r in 0..rows {
                let row = tile.s[r * cols..][..cols].iter().filter(|&&s| s != -INF).map(|s| s * tile.scale);
                assert_eq!(got[rows * cols + r], row.fold(-INF, f32::max));
            }
        }
    }
}

#[test]
fn edges_of_unnormalised_weights() {
    let s = [f32::NAN, -INF, -1000.0, 0.0, 2.0];
    let tile = Rows { floor: true, ..Rows::row(1.0, &s) };
    for kind in 0..3 {
        let got = weights(kind, &tile);
        assert!(got[0].is_nan() && got[1] == 0.0 && got[5] == 2.0);
        assert!(got[2..5].iter().all(|&w| w != 0.0), "{got:?}");
        let plain = weights(kind, &Rows { floor: false, ..tile.clone() });
        assert_eq!(plain[3], if kind == 0 { 0.5 } else { 0.0 });
    }
}

/// inv_sum then lse.
fn finish(max: &[f32], sum: &[f32], sink: f32) -> Vec<f32> {
    same_bits("finish", |t| {
        let n = max.len();
        let mut out = vec![-7.0; 2 * n + 1];
        let (inv, lse) = (out.as_mut_ptr(), out.as_mut_ptr().wrapping_add(n));
        // SAFETY: n values behind each pointer.
        unsafe { (t.finish_softmax())(n as i64, max.as_ptr(), sum.as_ptr(), sink, inv, lse) };
        assert_eq!(out.pop(), Some(-7.0));
        out
    })
}

#[test]
fn finishing_with_and_without_a_sink() {
    let mut noise = Noise(9);
    for n in [0, 1, 7, 16, 33] {
        let max = noise.vec(n, 30.0);
        let sum: Vec<f32> = noise.vec(n, 1.0).iter().map(|x| 1.5 + x * 100.0 + 100.0).collect();
        for sink in [-INF, -60.0, 0.0, 25.0, 100.0] {
            let got = finish(&max, &sum, sink);
            for r in 0..n {
                let (m, l, z) = (f64::from(max[r]), f64::from(sum[r]), f64::from(sink));
                let top = m.max(z);
                let total = l * (m - top).exp() + (z - top).exp();
                close(f64::from(got[r]), (m - top).exp() / total, 5e-7 + 2e-7 * (m - top).abs());
                let lse = top + total.ln();
                let size = top.abs() + total.ln().abs();
                assert!(
                    (f64::from(got[n + r]) - lse).abs() <= 2e-7 * (size + 1.0),
                    "{} is not {lse}",
                    got[n + r]
                );
            }
        }
    }
}

#[test]
fn finishing_empty_and_nan_rows() {
    let max = [-INF, -INF, 1.0, 2.0];
    let sum = [0.0, f32::NAN, f32::NAN, 0.0];
    let got = finish(&max, &sum, -INF);
    assert_eq!((got[0], got[4]), (0.0, -INF));
    assert!(got[1].is_nan() && got[5].is_nan() && got[2].is_nan() && got[6].is_nan());
    assert_eq!((got[3], got[7]), (0.0, -INF));
    let sunk = finish(&max, &sum, 3.0);
    assert_eq!(bits(&[sunk[0], sunk[4]]), bits(&[0.0, 3.0]));
    assert!(sunk[1].is_nan() && sunk[5].is_nan());
}
