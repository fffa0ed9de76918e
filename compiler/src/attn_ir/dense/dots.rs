//! Rows of a tensor and dot products of one query row with many keys.
//!
//! Comes in: a view and which of its dims are batch, head, sequence and feature. Goes out: rows as f64, and
//! dots computed panel by panel of [`LANES`] keys, so that the inner loop runs over keys with the sums in
//! registers. Each sum runs over features in ascending order. Panels without an active key are skipped.

use crate::attn_ir::Rows;
use crate::host::{Data, View};

/// Keys of a panel.
const LANES: usize = 16;

/// The rows of a tensor for one batch and head.
pub struct RowsAt<'a> {
    data: &'a [f64],
    base: usize,
    stride_seq: usize,
    stride_feature: usize,
    n_features: usize,
}

impl<'a> RowsAt<'a> {
    /// The rows of (b, head); dims that the tensor lacks are ignored, indices beyond a dim take its last.
    pub fn new(view: &'a View, rows: Rows, b: usize, head: usize) -> Self {
        let part = |dim: Option<usize>, x: usize| {
            dim.map_or(0, |d| x.min(view.shape()[d].saturating_sub(1)) * view.strides()[d])
        };
        let data: &[f64] = match view.data() {
            Data::Float(x) => x,
            Data::Int(_) | Data::Bool(_) => &[],
        };
        RowsAt {
            data,
            base: part(rows.batch, b) + part(rows.head, head),
            stride_seq: view.strides()[rows.seq],
            stride_feature: view.strides()[rows.feature],
            n_features: if data.is_empty() { 0 } else { view.shape()[rows.feature] },
        }
    }

    fn at(&self, row: usize, x: usize) -> f64 {
        self.data[self.base + row * self.stride_seq + x * self.stride_feature]
    }

    /// One row.
    pub fn row(&self, row: usize) -> Vec<f64> {
        (0..self.n_features).map(|x| self.at(row, x)).collect()
    }

    /// The first n rows, row-major.
    pub fn gather(&self, n: usize) -> Vec<f64> {
        (0..n).flat_map(|row| (0..self.n_features).map(move |x| self.at(row, x))).collect()
    }
}

/// Keys transposed in panels: feature x of key j is at `(j / LANES * n_features + x) * LANES + j % LANES`.
pub struct KeyPanels {
    packed: Vec<f64>,
    n_features: usize,
}

impl KeyPanels {
    /// Packs the first `n_keys` rows.
    pub fn new(keys: &RowsAt, n_keys: usize) -> Self {
        let n_features = keys.n_features;
        let mut packed = vec![0.0; n_keys.div_ceil(LANES) * n_features * LANES];
        for j in 0..n_keys {
            for x in 0..n_features {
                packed[(j / LANES * n_features + x) * LANES + j % LANES] = keys.at(j, x);
            }
        }
        KeyPanels { packed, n_features }
    }

    /// `out[j] = dot(query, key j)` wherever `active[j]`; other elements may change.
    pub fn dots(&self, query: &[f64], active: &[bool], out: &mut [f64]) {
        let panels = self.packed.chunks_exact((self.n_features * LANES).max(1));
        for ((out, active), panel) in out.chunks_mut(LANES).zip(active.chunks(LANES)).zip(panels) {
            if !active.contains(&true) {
                continue;
            }
            let mut sums = [0.0; LANES];
            for (q, keys) in query.iter().zip(panel.chunks_exact(LANES)) {
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum += q * key;
                }
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}
