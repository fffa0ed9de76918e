//! The numbers of row steps and weights, for one row at a time (`crate::artifact::Intrinsic`).

use crate::tile_ir::WeightKind;

/// A weight of an unmasked pair is never exactly zero where `floor` holds.
fn floored(weight: f64, floor: bool) -> f64 {
    let least = f64::from(f32::MIN_POSITIVE);
    if floor && weight.abs() < least { least.copysign(weight) } else { weight }
}

fn scaled(s: f64, scale: f64) -> f64 {
    if s == f64::NEG_INFINITY { s } else { s * scale }
}

/// Larger of two, NaN if either is.
fn max(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

/// State of a row of the online softmax.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowState {
    /// Running maximum.
    pub max: f64,
    /// Running sum.
    pub sum: f64,
    /// Factor for what was accumulated before.
    pub alpha: f64,
}

/// One step of the online softmax over a row of scores, in place.
pub fn softmax_step(s: &mut [f64], scale: f64, floor: bool, old_max: f64, old_sum: f64) -> RowState {
    let new_max = s.iter().fold(old_max, |m, &x| max(m, scaled(x, scale)));
    let mut sum = 0.0;
    for x in s.iter_mut() {
        let score = scaled(*x, scale);
        let masked = score == f64::NEG_INFINITY;
        *x = if masked { 0.0 } else { floored((score - new_max).exp(), floor) };
        sum += *x;
    }
    let alpha = match old_max {
        f64::NEG_INFINITY => 0.0,
        _ if old_max == new_max => 1.0,
        _ => (old_max - new_max).exp(),
    };
    RowState { max: new_max, sum: alpha * old_sum + sum, alpha }
}

/// Unnormalised weights of a row of scores, in place; the running maximum.
pub fn weight_step(kind: WeightKind, s: &mut [f64], scale: f64, floor: bool, old_max: f64) -> f64 {
    let mut new_max = old_max;
    for x in s.iter_mut() {
        let score = scaled(*x, scale);
        new_max = max(new_max, score);
        let weight = match kind {
            WeightKind::Sigmoid => 1.0 / (1.0 + (-score).exp()),
            WeightKind::Relu if score < 0.0 => 0.0,
            WeightKind::Relu | WeightKind::Plain => score,
        };
        *x = if score == f64::NEG_INFINITY { 0.0 } else { floored(weight, floor) };
    }
    new_max
}

/// `inv_sum` and `lse` of a finished row.
pub fn finish_softmax(row_max: f64, row_sum: f64, sink: f64) -> (f64, f64) {
    let m = max(row_max, sink);
    if m == f64::NEG_INFINITY {
        return if row_sum.is_nan() { (f64::NAN, f64::NAN) } else { (0.0, f64::NEG_INFINITY) };
    }
    let factor = (row_max - m).exp();
    let sum = row_sum * factor + (sink - m).exp();
    if sum == 0.0 { (0.0, f64::NEG_INFINITY) } else { (factor / sum, m + sum.ln()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f64 = f64::INFINITY;

    #[test]
    fn steps_make_the_softmax_of_the_whole() {
        let scores: Vec<f64> =
            (0..40).map(|n| if n % 7 == 3 { -INF } else { f64::from(n * n % 31) / 4.0 }).collect();
        let (mut state, mut acc) = (RowState { max: -INF, sum: 0.0, alpha: 0.0 }, 0.0);
        for (n, part) in scores.chunks(9).enumerate() {
            let mut p = part.to_vec();
            state = softmax_step(&mut p, 2.0, false, state.max, state.sum);
            acc = acc * state.alpha + p.iter().enumerate().map(|(k, p)| p * (n * 9 + k) as f64).sum::<f64>();
        }
        let (inv, lse) = finish_softmax(state.max, state.sum, 1.0);
        let total: f64 = scores.iter().map(|s| (2.0 * s).exp()).sum::<f64>() + 1f64.exp();
        let wanted: f64 = scores.iter().enumerate().map(|(k, s)| (2.0 * s).exp() * k as f64).sum();
        assert!((lse - total.ln()).abs() < 1e-12 && (acc * inv - wanted / total).abs() < 1e-10);
    }

    #[test]
    fn masked_rows_and_nan() {
        let mut s = [-INF, -INF];
        let state = softmax_step(&mut s, 1.0, true, -INF, 0.0);
        assert_eq!((s, state), ([0.0, 0.0], RowState { max: -INF, sum: 0.0, alpha: 0.0 }));
        assert_eq!(finish_softmax(-INF, 0.0, -INF), (0.0, -INF));
        assert_eq!(finish_softmax(-INF, 0.0, 3.0), (0.0, 3.0));
        let mut s = [1.0, f64::NAN, -INF];
        let state = softmax_step(&mut s, 1.0, false, 0.0, 1.0);
        assert!(s[0].is_nan() && s[2] == 0.0 && state.sum.is_nan());
        assert!(finish_softmax(state.max, state.sum, 0.0).1.is_nan());
    }

    #[test]
    fn unmasked_weights_are_floored() {
        let mut s = [-2000.0, 0.0, -INF];
        softmax_step(&mut s, 1.0, true, -INF, 0.0);
        assert_eq!(s, [f64::from(f32::MIN_POSITIVE), 1.0, 0.0]);
        let mut s = [-2.0, -INF, 3.0];
        assert_eq!(weight_step(WeightKind::Relu, &mut s, 0.5, true, 0.25), 1.5);
        assert_eq!(s, [f64::from(f32::MIN_POSITIVE), 0.0, 1.5]);
        let mut s = [-2.0, 0.0];
        assert_eq!(weight_step(WeightKind::Plain, &mut s, 1.0, false, -INF), 0.0);
        assert_eq!(s, [-2.0, 0.0]);
    }
}
