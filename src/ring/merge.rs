//! The algebra of partial results (math.md 2.10): softmax over a union of keys from the parts.
//!
//! Comes in: outputs normalised over their own keys with the natural log of their sums. Goes out: the same over all
//! keys. What holds: `(0, -inf)` is the identity, merging is associative and commutative up to rounding, two empty
//! parts stay empty (no NaN). Partial outputs are f32 whatever the inputs are.

/// Merges part 2 into part 1, row by row: `d` features of `o` belong to each element of `lse`.
pub fn merge_rows(o: &mut [f32], lse: &mut [f32], o2: &[f32], lse2: &[f32], d: usize) {
    for (row, (l, &l2)) in lse.iter_mut().zip(lse2).enumerate() {
        if l2 == f32::NEG_INFINITY {
            continue;
        }
        let span = row * d..(row + 1) * d;
        let (a, b) = (&mut o[span.clone()], &o2[span]);
        if *l == f32::NEG_INFINITY {
            a.copy_from_slice(b);
            *l = l2;
            continue;
        }
        let (first, second) = (f64::from(*l), f64::from(l2));
        let max = if second > first { second } else { first };
        let sum = max + ((first - max).exp() + (second - max).exp()).ln();
        let (w1, w2) = ((first - sum).exp(), (second - sum).exp());
        for (x, &y) in a.iter_mut().zip(b) {
            *x = (w1 * f64::from(*x) + w2 * f64::from(y)) as f32;
        }
        *l = sum as f32;
    }
}

/// Adds parts of weights that are not normalised.
pub fn add_rows(o: &mut [f32], o2: &[f32]) {
    o.iter_mut().zip(o2).for_each(|(x, y)| *x += y);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Softmax over some scores with one feature.
    fn part(scores: &[f32], values: &[f32]) -> ([f32; 1], [f32; 1]) {
        let sum: f64 = scores.iter().map(|s| f64::from(*s).exp()).sum();
        let o: f64 = scores.iter().zip(values).map(|(s, v)| f64::from(*s).exp() * f64::from(*v)).sum();
        if scores.is_empty() { ([0.0], [f32::NEG_INFINITY]) } else { ([(o / sum) as f32], [sum.ln() as f32]) }
    }

    #[test]
    fn every_order_gives_the_whole() {
        let (s, v) = ([0.3f32, -2.0, 5.0, 1.0, 4.5, 0.0], [1.0f32, 2.0, -3.0, 0.5, 7.0, 1.5]);
        let parts =
            [part(&s[..1], &v[..1]), part(&s[1..3], &v[1..3]), part(&[], &[]), part(&s[3..], &v[3..])];
        let (want, want_lse) = part(&s, &v);
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2], [2, 3, 1, 0]] {
            let (mut o, mut lse) = ([0.0f32], [f32::NEG_INFINITY]);
            order.iter().for_each(|&n| merge_rows(&mut o, &mut lse, &parts[n].0, &parts[n].1, 1));
            assert!((o[0] - want[0]).abs() < 1e-6 && (lse[0] - want_lse[0]).abs() < 1e-6, "{o:?} {lse:?}");
        }
    }

    #[test]
    fn empty_parts_stay_empty_and_extremes_do_not_overflow() {
        let (mut o, mut lse) = ([0.0f32], [f32::NEG_INFINITY]);
        merge_rows(&mut o, &mut lse, &[0.0], &[f32::NEG_INFINITY], 1);
        assert_eq!((o[0], lse[0]), (0.0, f32::NEG_INFINITY));
        let (mut o, mut lse) = ([1.0f32], [1e4f32]);
        merge_rows(&mut o, &mut lse, &[2.0], &[-1e4], 1);
        assert_eq!((o[0], lse[0]), (1.0, 1e4));
        merge_rows(&mut o, &mut lse, &[3.0], &[f32::NAN], 1);
        assert!(o[0].is_nan());
    }
}
