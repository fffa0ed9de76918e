//! Shape and strides of a tensor without its memory, and the checks that make a view safe.
//!
//! Comes in: shapes and strides as a caller wrote them. Goes out: a [`Geometry`] whose element count and byte
//! size are known not to overflow, and answers to "is every element inside", "are all elements distinct", "which
//! bytes are touched". What holds: strides of dims that are never stepped along are 1, so that no later address
//! arithmetic meets a wild one. Deliberately not here: memory.

use attn_compiler::artifact::DType;

use crate::error::{DataFault, RuntimeError};

/// Most dims a tensor may have.
pub const MAX_RANK: usize = 8;

/// Shape, strides, dtype; inline, so that views never allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    dtype: DType,
    rank: usize,
    shape: [usize; MAX_RANK],
    strides: [isize; MAX_RANK],
    count: usize,
}

impl Geometry {
    /// Row-major.
    pub fn contiguous(dtype: DType, shape: &[usize]) -> Result<Geometry, RuntimeError> {
        let mut g = Geometry::unit_strided(dtype, shape)?;
        // Broadcast views may have more elements than memory; a contiguous tensor must fit the address space.
        let bytes = g.count.checked_mul(dtype.size()).filter(|b| isize::try_from(*b).is_ok());
        if bytes.is_none() {
            return Err(size_error(format!(
                "shape {shape:?} of {dtype} needs more bytes than an address can count"
            )));
        }
        let mut step = 1isize;
        for d in (0..g.rank).rev() {
            if g.steps_along(d) {
                g.strides[d] = step;
                step *= g.shape[d] as isize;
            }
        }
        Ok(g)
    }

    /// With the given strides.
    pub fn strided(dtype: DType, shape: &[usize], strides: &[isize]) -> Result<Geometry, RuntimeError> {
        let mut g = Geometry::unit_strided(dtype, shape)?;
        if strides.len() != shape.len() {
            let message = format!(
                "shape {shape:?} has {} dims, strides {strides:?} have {}",
                shape.len(),
                strides.len()
            );
            return Err(RuntimeError::data(DataFault::Rank, message));
        }
        for (d, &stride) in strides.iter().enumerate() {
            if g.steps_along(d) {
                g.strides[d] = stride;
            }
        }
        Ok(g)
    }

    fn unit_strided(dtype: DType, shape: &[usize]) -> Result<Geometry, RuntimeError> {
        if shape.len() > MAX_RANK {
            let message = format!("{} dims, at most {MAX_RANK} are supported; merge some", shape.len());
            return Err(RuntimeError::data(DataFault::Rank, message));
        }
        let count = if shape.contains(&0) {
            Some(0)
        } else {
            shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s))
        };
        let count =
            count.ok_or_else(|| size_error(format!("the element count of shape {shape:?} overflows")))?;
        let mut sizes = [1; MAX_RANK];
        sizes[..shape.len()].copy_from_slice(shape);
        Ok(Geometry { dtype, rank: shape.len(), shape: sizes, strides: [1; MAX_RANK], count })
    }

    /// True where two indices along `d` exist.
    fn steps_along(&self, d: usize) -> bool {
        self.count > 0 && self.shape[d] > 1
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape[..self.rank]
    }

    pub fn strides(&self) -> &[isize] {
        &self.strides[..self.rank]
    }

    /// Elements, counting a broadcast one once for each index.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The slice has exactly as many elements as the shape.
    pub fn check_count(&self, len: usize) -> Result<(), RuntimeError> {
        if self.count == len {
            return Ok(());
        }
        Err(size_error(format!(
            "shape {:?} needs {} elements, the slice has {len}",
            self.shape(),
            self.count
        )))
    }

    /// Lowest and highest element offset from the first element; `None` if it overflows. (0, 0) when empty.
    fn extent(&self) -> Option<(isize, isize)> {
        let (mut lo, mut hi) = (0isize, 0isize);
        for d in (0..self.rank).filter(|&d| self.steps_along(d)) {
            let reach = isize::try_from(self.shape[d] - 1).ok()?.checked_mul(self.strides[d])?;
            lo = lo.checked_add(reach.min(0))?;
            hi = hi.checked_add(reach.max(0))?;
        }
        Some((lo, hi))
    }

    /// Every element lies in a slice of `len` elements when the first is at `offset`.
    pub fn check_inside(&self, offset: usize, len: usize) -> Result<(), RuntimeError> {
        if self.count == 0 {
            return Ok(());
        }
        let inside = self.extent().and_then(|(lo, hi)| {
            let offset = isize::try_from(offset).ok()?;
            Some(offset.checked_add(lo)? >= 0 && offset.checked_add(hi)? < isize::try_from(len).ok()?)
        });
        if inside == Some(true) {
            return Ok(());
        }
        let message = format!(
            "shape {:?} with strides {:?} from element {offset} leaves the slice of {len} elements; \
             strides count elements, not bytes",
            self.shape(),
            self.strides()
        );
        Err(RuntimeError::data(DataFault::View, message))
    }

    /// No two indices name one element. Sufficient, not necessary: with the dims sorted by stride, each stride
    /// must exceed the reach of all smaller ones, as in every permuted or sliced row-major tensor.
    pub fn check_distinct(&self) -> Result<(), RuntimeError> {
        let mut dims: [(usize, usize); MAX_RANK] = [(0, 0); MAX_RANK];
        let mut n = 0;
        for d in (0..self.rank).filter(|&d| self.steps_along(d)) {
            dims[n] = (self.strides[d].unsigned_abs(), self.shape[d]);
            n += 1;
        }
        dims[..n].sort_unstable();
        let mut reach = 0usize;
        for &(stride, size) in &dims[..n] {
            if stride <= reach {
                let message = format!(
                    "a tensor that is written has shape {:?} and strides {:?}, under which two indices can name one \
                     element; write to a contiguous tensor",
                    self.shape(),
                    self.strides()
                );
                return Err(RuntimeError::data(DataFault::View, message));
            }
            reach = reach.saturating_add(stride.saturating_mul(size - 1));
        }
        Ok(())
    }

    /// The axes in another order.
    pub fn permuted(&self, order: &[usize]) -> Result<Geometry, RuntimeError> {
        let is_permutation = order.len() == self.rank && (0..self.rank).all(|d| order.contains(&d));
        if !is_permutation {
            let message = format!("{order:?} is not an order of the {} axes", self.rank);
            return Err(RuntimeError::data(DataFault::Rank, message));
        }
        let mut out = *self;
        for (a, &d) in order.iter().enumerate() {
            out.shape[a] = self.shape[d];
            out.strides[a] = self.strides[d];
        }
        Ok(out)
    }

    /// `len` indices of one axis, `step` apart from `first` on, and the offset in bytes of the new first element (0 for
    /// an empty part). `None` if an index or the axis is not there.
    pub fn every(&self, axis: usize, first: usize, step: usize, len: usize) -> Option<(Geometry, isize)> {
        let size = *self.shape().get(axis)?;
        let last = first.checked_add(step.checked_mul(len.saturating_sub(1))?)?;
        if (len > 0 && last >= size) || first > size {
            return None;
        }
        let mut out = *self;
        out.shape[axis] = len;
        let stride = self.strides[axis];
        out.strides[axis] = stride.checked_mul(isize::try_from(step).ok()?)?;
        out.count = out.shape().iter().product();
        let offset = if out.shape().contains(&0) { 0 } else { stride * first as isize };
        Some((out, offset * self.dtype.size() as isize))
    }

    /// Offset in elements of an index, `None` out of range.
    pub fn offset_of(&self, index: &[usize]) -> Option<isize> {
        if index.len() != self.rank || index.iter().zip(self.shape()).any(|(i, s)| i >= s) {
            return None;
        }
        Some(index.iter().zip(self.strides()).map(|(&i, &s)| i as isize * s).sum())
    }

    /// True if some element may lie at this offset.
    pub fn spans(&self, at: isize) -> bool {
        self.count > 0 && self.extent().is_some_and(|(lo, hi)| (lo..=hi).contains(&at))
    }

    /// First byte and one past the last byte that elements occupy, when the first element is at `first`.
    pub fn byte_range(&self, first: usize) -> (usize, usize) {
        match self.extent() {
            Some((lo, hi)) if self.count > 0 => {
                let size = self.dtype.size() as isize;
                (first.wrapping_add_signed(lo * size), first.wrapping_add_signed((hi + 1) * size))
            }
            _ => (first, first),
        }
    }

    /// Calls `f` with every index in row-major order.
    pub fn for_each_index(&self, f: &mut dyn FnMut(&[usize])) {
        if self.count == 0 {
            return;
        }
        let mut index = [0; MAX_RANK];
        loop {
            f(&index[..self.rank]);
            let Some(d) = (0..self.rank).rev().find(|&d| index[d] + 1 < self.shape[d]) else { return };
            index[d] += 1;
            index[d + 1..].fill(0);
        }
    }

    /// Calls `f` with the leading index and the offset of the first element of every run along the last axis,
    /// until it breaks.
    pub fn for_each_row<B>(
        &self,
        f: &mut dyn FnMut(&[usize], isize) -> std::ops::ControlFlow<B>,
    ) -> std::ops::ControlFlow<B> {
        if self.count == 0 {
            return std::ops::ControlFlow::Continue(());
        }
        let outer = self.rank.saturating_sub(1);
        let mut index = [0; MAX_RANK];
        loop {
            let at = (0..outer).map(|d| index[d] as isize * self.strides[d]).sum();
            f(&index[..outer], at)?;
            let Some(d) = (0..outer).rev().find(|&d| index[d] + 1 < self.shape[d]) else {
                return std::ops::ControlFlow::Continue(());
            };
            index[d] += 1;
            index[d + 1..].fill(0);
        }
    }

    /// Length and step of a run along the last axis; a scalar is a run of one.
    pub fn last_run(&self) -> (usize, isize) {
        match self.rank {
            0 => (1, 1),
            rank => (self.shape[rank - 1], self.strides[rank - 1]),
        }
    }
}

fn size_error(message: String) -> RuntimeError {
    RuntimeError::data(DataFault::Size, message)
}
