//! Merging of partial results: attention over some keys, and over others, is attention over both.
//!
//! Comes in: `o` and `lse` of two runs over disjoint sets of keys, for the same queries. Goes out: those of the union,
//! in place of the first. What holds: the algebra of Milakov and Gimelshein (2018): commutative, associative up to
//! rounding, with (0, -inf), a run that saw no key, as identity, exactly. So a shared prefix, chunks of a prompt, the
//! keys of several devices are attended apart and merged in any order. Rows where either lse is NaN become NaN.
//! Deliberately not here: sinks, which belong into one of the runs; unnormalised weights, whose results are added.

use attn_compiler::artifact::DType;
use attn_runtime::Tensor;

use crate::error::{Error, ErrorKind};

/// `(o, lse)` becomes that of the keys of both runs: `lse' = ln(e^lse + e^lse2)`,
/// `o' = e^(lse - lse') o + e^(lse2 - lse') o2`.
///
/// `o` and `o2` are f32 `[..., D]`, `lse` and `lse2` f32 `[...]`, natural logarithms: as kernels return them, with the
/// rows of `o` in the order of those of `lse` (no `layout` between them).
///
/// # Errors
/// Shapes that differ, or another storage type; nothing was changed then.
pub fn merge(o: &mut Tensor, lse: &mut Tensor, o2: &Tensor, lse2: &Tensor) -> Result<(), Error> {
    for (name, t) in [("o", &*o), ("lse", &*lse), ("o2", o2), ("lse2", lse2)] {
        if t.dtype() != DType::F32 {
            let found = t.dtype();
            return Err(wrong(format!(
                "`{name}` holds {found}, expected f32: return partial results as `cast(..., f32)`"
            )));
        }
    }
    let rows = o.shape().split_last().map(|(_, rows)| rows.to_vec());
    if rows.as_deref() != Some(lse.shape()) {
        let (o, lse) = (o.shape(), lse.shape());
        return Err(wrong(format!(
            "`o` is {o:?} and `lse` {lse:?}; expected the shape of `o` without its last dim"
        )));
    }
    if o2.shape() != o.shape() || lse2.shape() != lse.shape() {
        let (o, o2, lse2) = (o.shape(), o2.shape(), lse2.shape());
        return Err(wrong(format!(
            "`o2` is {o2:?} and `lse2` {lse2:?}; expected the shapes of `o` {o:?} and its `lse`"
        )));
    }
    let width = o.shape().last().copied().unwrap_or(0);
    let (o, lse) = (o.as_mut_slice::<f32>()?, lse.as_mut_slice::<f32>()?);
    merge_rows(o, lse, o2.as_slice::<f32>()?, lse2.as_slice::<f32>()?, width);
    Ok(())
}

/// As [`merge`], on slices: `width` elements of `o` belong to each of `lse`.
pub(crate) fn merge_rows(o: &mut [f32], lse: &mut [f32], o2: &[f32], lse2: &[f32], width: usize) {
    for (n, (a, &b)) in lse.iter_mut().zip(lse2).enumerate() {
        let at = n * width..(n + 1) * width;
        let (first, second) = weights(*a, b);
        *a = joined(*a, b);
        for (x, &y) in o[at.clone()].iter_mut().zip(&o2[at]) {
            // What has no weight counts for nothing, whatever it holds.
            *x = match (first == 0.0, second == 0.0) {
                (true, true) => 0.0,
                (_, true) => first * *x,
                (true, _) => second * y,
                _ => first * *x + second * y,
            };
        }
    }
}

/// `ln(e^a + e^b)`
fn joined(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        return f32::NAN;
    }
    let (high, low) = if a >= b { (a, b) } else { (b, a) };
    if low == f32::NEG_INFINITY || high == f32::INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// `e^a / (e^a + e^b)` and `e^b / (e^a + e^b)`; both 0 where there is no key at all.
fn weights(a: f32, b: f32) -> (f32, f32) {
    if a == b {
        return if a == f32::NEG_INFINITY { (0.0, 0.0) } else { (0.5, 0.5) };
    }
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    let e = (low - high).exp();
    let (more, less) = (1.0 / (1.0 + e), e / (1.0 + e));
    if a > b { (more, less) } else { (less, more) }
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Data, format!("merge: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: f32 = f32::NEG_INFINITY;

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_slice(values, shape).unwrap()
    }

    /// Merges rows of two features in the order given.
    fn merged(parts: &[([f32; 2], f32)]) -> ([f32; 2], f32) {
        let (mut o, mut lse) = (tensor(&[0.0, 0.0], &[1, 2]), tensor(&[NONE], &[1]));
        for (row, l) in parts {
            merge(&mut o, &mut lse, &tensor(row, &[1, 2]), &tensor(&[*l], &[1])).unwrap();
        }
        let o = o.as_slice::<f32>().unwrap();
        ([o[0], o[1]], lse.as_slice::<f32>().unwrap()[0])
    }

    #[test]
    fn every_order_gives_the_softmax_of_all() {
        let parts = [([1.0, -2.0], 3.0), ([0.5, 4.0], -1.0), ([0.0, 0.0], NONE), ([-3.0, 0.25], 2.5)];
        let total: f64 = parts.iter().map(|p| f64::from(p.1).exp()).sum();
        let wanted = |x: usize| -> f64 {
            parts.iter().map(|p| f64::from(p.1).exp() * f64::from(p.0[x])).sum::<f64>() / total
        };
        let mut n_orders = 0;
        for a in 0..4 {
            for b in (0..4).filter(|b| *b != a) {
                for c in (0..4).filter(|c| *c != a && *c != b) {
                    let d = 6 - a - b - c;
                    let (o, lse) = merged(&[parts[a], parts[b], parts[c], parts[d]]);
                    n_orders += 1;
                    assert!((f64::from(lse) - total.ln()).abs() < 1e-6, "{a}{b}{c}{d}: {lse}");
                    for x in 0..2 {
                        assert!((f64::from(o[x]) - wanted(x)).abs() < 1e-6, "{a}{b}{c}{d}: {o:?}");
                    }
                }
            }
        }
        assert_eq!(n_orders, 24);
    }

    #[test]
    fn no_key_is_the_identity_and_two_of_them_are_no_key() {
        assert_eq!(merged(&[([0.1, 0.2], 5.0)]), ([0.1, 0.2], 5.0));
        assert_eq!(merged(&[([0.1, 0.2], 5.0), ([f32::NAN, 7.0], NONE)]), ([0.1, 0.2], 5.0));
        assert_eq!(merged(&[([0.0, 0.0], NONE)]), ([0.0, 0.0], NONE));
        assert_eq!(merged(&[([1.0, 2.0], 1e4), ([3.0, 4.0], -1e4)]), ([1.0, 2.0], 1e4));
        let (o, lse) = merged(&[([1.0, 2.0], 800.0), ([3.0, 4.0], 800.0)]);
        assert!(o == [2.0, 3.0] && (lse - 800.0 - 2f32.ln()).abs() < 1e-4);
        let (o, lse) = merged(&[([1.0, 2.0], f32::NAN), ([3.0, 4.0], 0.0)]);
        assert!(lse.is_nan() && o[0].is_nan());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (mut o, mut lse) = (tensor(&[0.0; 6], &[3, 2]), tensor(&[0.0; 3], &[3]));
        let err = merge(&mut o, &mut lse, &tensor(&[0.0; 6], &[2, 3]), &tensor(&[0.0; 3], &[3])).unwrap_err();
        assert!(err.to_string().contains("`o2` is [2, 3]"), "{err}");
        let mut wide = tensor(&[0.0; 6], &[6]);
        let err =
            merge(&mut o, &mut wide, &tensor(&[0.0; 6], &[3, 2]), &tensor(&[0.0; 6], &[6])).unwrap_err();
        assert!(err.to_string().contains("without its last dim"), "{err}");
        let half = Tensor::zeros(DType::F16, &[3, 2]).unwrap();
        let err = merge(&mut o, &mut lse, &half, &tensor(&[0.0; 3], &[3])).unwrap_err();
        assert!(err.to_string().contains("`o2` holds f16"), "{err}");
    }
}
