//! Copies between global and shared memory: 16 bytes, and boxes of tensors. They are performed at once.
//!
//! Comes in: places, tensor maps. Goes out: bytes in memory, bytes that have come to a barrier. What holds: what lies
//! outside of a tensor comes as 0 and is not written; a box that comes counts as a whole.

use super::values::lanes;
use super::{Block, Exec, Val, aligned, blame, trouble};

/// Bytes of a row of a box, over which its 16-byte chunks are swizzled.
const ROW: u32 = 128;
/// Bytes of an element.
const ELEMENT: u64 = 2;
/// Boxes begin at multiples of this.
const BOX_ALIGN: u32 = 1024;

/// A map of a tensor of 16-bit elements, as `docs/abi.md` has it: boxes with rows of 128 bytes, swizzled over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    base: u64,
    dims: Vec<u64>,
    strides: Vec<u64>,
    box_dims: Vec<u32>,
}

/// What no tensor map describes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tensor map: {0}")]
pub struct MapError(String);

impl TensorMap {
    /// Sizes, innermost first; bytes from element to element of every dim but that; sizes of a box.
    ///
    /// # Errors
    /// No driver makes such a map, or its boxes have other rows than 128 bytes.
    pub fn new(base: u64, dims: &[u64], strides: &[u64], box_dims: &[u32]) -> Result<TensorMap, MapError> {
        let refuse = |why: String| Err(MapError(why));
        let rank = dims.len();
        if !(1..=5).contains(&rank) || strides.len() + 1 != rank || box_dims.len() != rank {
            return refuse(format!("{rank} dims, {} strides, {} box sizes", strides.len(), box_dims.len()));
        }
        if !base.is_multiple_of(16) {
            return refuse(format!("the base {base:#x} is no multiple of 16"));
        }
        if let Some(size) = dims.iter().find(|d| **d == 0 || **d > 1 << 32) {
            return refuse(format!("a dim of {size}"));
        }
        if let Some(stride) = strides.iter().find(|s| !s.is_multiple_of(16) || **s >= 1 << 40) {
            return refuse(format!("a stride of {stride} bytes is no multiple of 16 below 2^40"));
        }
        if let Some(size) = box_dims.iter().find(|b| !(1..=256).contains(*b)) {
            return refuse(format!("a box size of {size} is not in 1 to 256"));
        }
        let row = u64::from(box_dims[0]) * ELEMENT;
        if row != u64::from(ROW) {
            return refuse(format!("rows of a box have {row} bytes, not the {ROW} that are swizzled"));
        }
        Ok(TensorMap { base, dims: dims.to_vec(), strides: strides.to_vec(), box_dims: box_dims.to_vec() })
    }

    /// The first column of a box that the tensor has, and the bytes of a row from there on that it has.
    fn columns(&self, first: i64) -> (u64, std::ops::Range<usize>) {
        let size = self.dims[0] as i64;
        let (lo, hi) = (first.clamp(0, size), (first + i64::from(self.box_dims[0])).clamp(0, size));
        let byte = |column: i64| (column - first) as usize * ELEMENT as usize;
        // Outside of the tensor both ends are one.
        (lo as u64, if lo < hi { byte(lo)..byte(hi) } else { 0..0 })
    }

    /// The address of the row at these coordinates of the outer dims; none outside of the tensor.
    fn row(&self, mut n: u32, coords: &[i64]) -> Option<u64> {
        let mut at = self.base;
        for (d, first) in coords.iter().enumerate().skip(1) {
            let index = first + i64::from(n % self.box_dims[d]);
            n /= self.box_dims[d];
            if !(0..self.dims[d] as i64).contains(&index) {
                return None;
            }
            at = at.wrapping_add((index as u64).wrapping_mul(self.strides[d - 1]));
        }
        Some(at)
    }
}

/// Where the byte at a shared offset lies: bits 4 to 6 are xored with bits 7 to 9.
pub(super) const fn swizzle(at: u32) -> u32 {
    at ^ ((at >> 7 & 7) << 4)
}

impl<'b> Block<'_, 'b> {
    /// 16 bytes, of which the first are read and the others become 0.
    pub fn copy16(&mut self, w: usize, [dst, src, bytes]: [Val; 3], mask: u32) -> Exec<()> {
        let [dst, src, n] = [dst, src, bytes].map(|v| *self.warps[w].val(v));
        for l in lanes(mask) {
            let mut chunk = [0; 16];
            let copied = match n[l] as usize {
                0 => aligned(src[l], 16),
                n @ 1..=16 => aligned(src[l], 16).and_then(|()| self.global.read(src[l], &mut chunk[..n])),
                n => Err(format!("{n} of 16 bytes")),
            };
            blame(l, copied.and_then(|()| self.shared.write(dst[l] as u32, 16, &chunk)))?;
        }
        Ok(())
    }

    /// A box of a tensor, and its bytes to a barrier; for each lane that executes it.
    pub fn tma_load(
        &mut self,
        w: usize,
        map: u32,
        coords: &[Val],
        [dst, bar]: [Val; 2],
        mask: u32,
    ) -> Exec<()> {
        let map = self.map_of(map, coords)?;
        let [dst, bar] = [dst, bar].map(|v| *self.warps[w].val(v));
        for l in lanes(mask) {
            let coords = self.coords(w, coords, l);
            let loaded = self.load_box(map, &coords, dst[l] as u32).and_then(|bytes| {
                self.shared.mbar(bar[l] as u32)?.expect(-i64::from(bytes));
                Ok(())
            });
            blame(l, loaded)?;
        }
        Ok(())
    }

    /// A box of shared memory to a tensor, for each lane that executes it.
    pub fn tma_store(&mut self, w: usize, map: u32, coords: &[Val], src: Val, mask: u32) -> Exec<()> {
        let map = self.map_of(map, coords)?;
        let src = *self.warps[w].val(src);
        for l in lanes(mask) {
            let coords = self.coords(w, coords, l);
            blame(l, self.store_box(map, &coords, src[l] as u32))?;
        }
        Ok(())
    }

    /// A map of the launch, of as many dims as there are coordinates.
    fn map_of(&self, map: u32, coords: &[Val]) -> Exec<&'b TensorMap> {
        let launch = self.launch;
        let Some(map) = launch.maps.get(map as usize) else { return trouble("the launch has no such map") };
        if map.dims.len() != coords.len() {
            return trouble(format!("{} coordinates for a map of {} dims", coords.len(), map.dims.len()));
        }
        Ok(map)
    }

    /// The coordinates of a lane.
    fn coords(&self, w: usize, coords: &[Val], l: usize) -> Vec<i64> {
        coords.iter().map(|v| i64::from(self.warps[w].val(*v)[l] as u32 as i32)).collect()
    }

    /// Rows of a box in shared memory, if it lies well.
    fn box_rows(&self, map: &TensorMap, at: u32) -> Result<u32, String> {
        if !at.is_multiple_of(BOX_ALIGN) {
            return Err(format!("a box at shared offset {at}, which is no multiple of {BOX_ALIGN}"));
        }
        // At most four dims of at most 256.
        let n_rows: u64 = map.box_dims[1..].iter().map(|n| u64::from(*n)).product();
        let (bytes, room) = (n_rows * u64::from(ROW), u64::from(self.kernel.shared_bytes));
        if u64::from(at) + bytes > room {
            return Err(format!("a box of {bytes} bytes at shared offset {at} of {room}"));
        }
        Ok(n_rows as u32)
    }

    fn store_box(&mut self, map: &TensorMap, coords: &[i64], src: u32) -> Result<(), String> {
        let (lo, bytes) = map.columns(coords[0]);
        for n in 0..self.box_rows(map, src)? {
            let Some(at) = map.row(n, coords).filter(|_| !bytes.is_empty()) else { continue };
            let mut row = [0; ROW as usize];
            // Pieces of which nothing is written need not hold anything.
            for k in bytes.start as u32 / 16..(bytes.end as u32).div_ceil(16) {
                let place = (k * 16) as usize;
                self.shared.read(swizzle(src + n * ROW + k * 16), 16, &mut row[place..place + 16])?;
            }
            self.global.write(at.wrapping_add(lo * ELEMENT), &row[bytes.clone()])?;
        }
        Ok(())
    }

    /// Bytes of the box.
    fn load_box(&mut self, map: &TensorMap, coords: &[i64], dst: u32) -> Result<u32, String> {
        let (lo, bytes) = map.columns(coords[0]);
        let n_rows = self.box_rows(map, dst)?;
        for n in 0..n_rows {
            let mut row = [0; ROW as usize];
            if let Some(at) = map.row(n, coords).filter(|_| !bytes.is_empty()) {
                self.global.read(at.wrapping_add(lo * ELEMENT), &mut row[bytes.clone()])?;
            }
            for (k, chunk) in (0..).zip(row.chunks(16)) {
                self.shared.write(swizzle(dst + n * ROW + k * 16), 16, chunk)?;
            }
        }
        Ok(n_rows * ROW)
    }
}
