//! Rows written into a bound tensor, in place, and what the contents of bound tensors must fulfil for that.
//!
//! Comes in from `sema`. Goes out to `lower`, and to [`super::evaluate`], which says what it means. What holds:
//! everything that a [`Write`] needs of the host's data is a [`Demand`], checked before anything is written.

use crate::artifact::DType;
use crate::expr::{ExprId, TensorId, VarId};

/// `out[place, x] = value` for each point of a box of rows and each x below `width`; elements that no point names
/// keep what they held.
///
/// With a scale the row is quantised: `scale[scale_place] = a`, which is `max over x |value| / limit` rounded to the
/// scale's storage type, and `out` holds `value / a` rounded to nearest even and cut to `-limit..=limit`; 0 where a
/// is 0. Without one, values are rounded as `out` stores them. All expressions live in the kernel's pool; no two
/// points name one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Updated in place; its last dim is the width of a row.
    pub out: TensorId,
    /// Index variables of the rows with their extents.
    pub rows: Vec<(VarId, ExprId)>,
    /// Feature variable and width, a constant.
    pub feature: (VarId, i64),
    /// Int expressions of `rows`: the leading indices of `out`.
    pub place: Vec<ExprId>,
    /// Float expression of `rows` and the feature.
    pub value: ExprId,
    /// Quantised with a scale of its own for each row.
    pub scale: Option<Scale>,
}

/// Where the scale of a row goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// Updated in place.
    pub out: TensorId,
    /// Int expressions of the rows.
    pub place: Vec<ExprId>,
    /// Largest magnitude that is stored.
    pub limit: i64,
}

/// Something that the contents of bound tensors must fulfil, checked before anything runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Demand {
    /// Every element of an int tensor lies in `lo..=hi`, int expressions of dims.
    Within {
        /// The tensor.
        tensor: TensorId,
        /// Lowest, and what it is in words.
        lo: (ExprId, String),
        /// Highest, and what it is in words.
        hi: (ExprId, String),
    },
    /// In row b of `table`, the first `ceil(len[b] / size)` entries name pages in `0..shape[0]` of `pool`. With
    /// `written`, no entry that covers the last `written` of `len[b]` places is named a second time by any row.
    Pages {
        /// i32 `[batch, pages]`.
        table: TensorId,
        /// i32 `[batch]`.
        len: TensorId,
        /// Places of a page.
        size: i64,
        /// Tensors of pages.
        pool: TensorId,
        /// Places at the end of each row that are written.
        written: Option<ExprId>,
    },
}

/// The elements of a quantised row, and its scale as stored.
pub fn quantise(row: &[f64], dtype: DType, limit: i64) -> (Vec<i64>, f64) {
    let limit = limit as f64;
    let nan = row.iter().any(|x| x.is_nan());
    let top = row.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    let top = if nan { f64::NAN } else { top };
    let scale = crate::host::round_to(dtype, top / limit);
    let element = |x: &f64| {
        let q = x / scale;
        if scale == 0.0 || q.is_nan() { 0 } else { q.round_ties_even().clamp(-limit, limit) as i64 }
    };
    (row.iter().map(element).collect(), scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_quantised_to_nearest_even() {
        // The scale is 1: halves go to even.
        let (q, scale) = quantise(&[127.0, 0.5, 1.5, -2.5, 0.49, -0.0], DType::F16, 127);
        assert_eq!((q, scale), (vec![127, 0, 2, -2, 0, 0], 1.0));
        assert_eq!(quantise(&[0.0, 0.0], DType::F16, 127), (vec![0, 0], 0.0));
        // 1e-7 / 127 is below half of the smallest f16.
        assert_eq!(quantise(&[1e-7], DType::F16, 127), (vec![0], 0.0));
        // 1e-5 / 127 becomes the smallest subnormal, 2^-24: the quotient does not fit and is cut.
        assert_eq!(quantise(&[1e-5, -1e-5], DType::F16, 127), (vec![127, -127], 2f64.powi(-24)));
        let (q, scale) = quantise(&[f64::NAN, 1.0], DType::F16, 127);
        assert!(scale.is_nan() && q == [0, 0]);
    }
}
