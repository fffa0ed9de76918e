//! Tensor maps: what `cuTensorMapEncodeTiled` makes on the host, in an encoding of our own.
//!
//! Comes in: base address, sizes, strides, box, swizzle. Goes out: [`TensorMap`], 128 bytes to pass as a parameter or to lay
//! into global memory, and the runs of elements that a box covers. What holds: a map that [`TensorMap::tiled`] accepts
//! obeys the rules of the driver. Not here: im2col, interleave, filling with NaN, maps whose box is narrower than their
//! swizzle (refused).

/// Bytes of an encoded map.
pub const TENSOR_MAP_BYTES: usize = 128;
const MAGIC: u32 = 0x5054_4D41;

/// Element types of a tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 8 bits.
    U8,
    /// 16 bits without a meaning.
    U16,
    /// 32 bits without a meaning.
    U32,
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Single precision.
    F32,
}

impl Element {
    /// Bytes of one element.
    pub fn bytes(self) -> u32 {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::F32 => 4,
        }
    }

    const ALL: [Self; 6] = [Self::U8, Self::U16, Self::U32, Self::F16, Self::Bf16, Self::F32];
}

/// Swizzles of 16-byte chunks in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    /// As in global memory.
    None,
    /// Over 32 bytes.
    B32,
    /// Over 64 bytes.
    B64,
    /// Over 128 bytes.
    B128,
}

impl Swizzle {
    const ALL: [Self; 4] = [Self::None, Self::B32, Self::B64, Self::B128];

    /// Bytes of a row that the swizzle permutes.
    pub fn span(self) -> u32 {
        match self {
            Self::None => 16,
            Self::B32 => 32,
            Self::B64 => 64,
            Self::B128 => 128,
        }
    }

    /// Where the byte at a shared address lies: address bits from 4 up are xored with those from 7 up.
    pub fn apply(self, addr: u32) -> u32 {
        addr ^ ((addr >> 7 & (self.span() / 16 - 1)) << 4)
    }
}

/// A tensor map that no driver would make.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tensor map: {0}")]
pub struct TensorMapError(String);

/// A tiled tensor map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    pub(crate) element: Element,
    pub(crate) base: u64,
    dims: Vec<u64>,
    strides: Vec<u64>,
    box_dims: Vec<u32>,
    steps: Vec<u32>,
    pub(crate) swizzle: Swizzle,
}

/// Elements of a box that lie side by side.
pub(crate) struct Run {
    /// Bytes from the start of the box, before the swizzle.
    pub offset: usize,
    pub elements: usize,
    /// Where they lie in global memory; `None` outside of the tensor.
    pub global: Option<u64>,
}

impl TensorMap {
    /// A map over `dims` (innermost first) at `base`; `strides` are bytes of dimensions 1 and up; `steps` are the element
    /// strides of the box. Outside of the tensor loads give zeros and stores are dropped.
    pub fn tiled(
        element: Element,
        base: u64,
        dims: &[u64],
        strides: &[u64],
        box_dims: &[u32],
        steps: &[u32],
        swizzle: Swizzle,
    ) -> Result<Self, TensorMapError> {
        let rank = dims.len();
        let refuse = |why: String| Err(TensorMapError(why));
        if !(1..=5).contains(&rank) || box_dims.len() != rank || steps.len() != rank {
            return refuse(format!(
                "rank {rank} with {} box sizes and {} steps",
                box_dims.len(),
                steps.len()
            ));
        }
        if strides.len() + 1 != rank {
            return refuse(format!(
                "{} strides for rank {rank}: expected one less than the rank",
                strides.len()
            ));
        }
        if !base.is_multiple_of(16) {
            return refuse(format!("the base {base:#x} is not a multiple of 16"));
        }
        if let Some(d) = dims.iter().find(|d| **d == 0 || **d > 1 << 32) {
            return refuse(format!("a dimension of {d}"));
        }
        if let Some(s) = strides.iter().find(|s| !s.is_multiple_of(16) || **s >= 1 << 40) {
            return refuse(format!("a stride of {s} bytes is no multiple of 16 below 2^40"));
        }
        if let Some(b) = box_dims.iter().find(|b| !(1..=256).contains(*b)) {
            return refuse(format!("a box size of {b} is not in 1 to 256"));
        }
        if steps[0] != 1 || steps.iter().any(|s| !(1..=8).contains(s)) {
            return refuse("element strides are 1 to 8, and 1 innermost".into());
        }
        let inner = box_dims[0] * element.bytes();
        if !inner.is_multiple_of(16) {
            return refuse(format!("the innermost box size is {inner} bytes, no multiple of 16"));
        }
        if swizzle != Swizzle::None && inner != swizzle.span() {
            let span = swizzle.span();
            return refuse(format!("the innermost box size is {inner} bytes and the swizzle spans {span}"));
        }
        Ok(Self {
            element,
            base,
            dims: dims.to_vec(),
            strides: strides.to_vec(),
            box_dims: box_dims.to_vec(),
            steps: steps.to_vec(),
            swizzle,
        })
    }

    /// Dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Elements of the box along a dimension.
    fn count(&self, dim: usize) -> usize {
        self.box_dims[dim].div_ceil(self.steps[dim]) as usize
    }

    /// Bytes of the box in shared memory.
    pub fn box_bytes(&self) -> usize {
        (0..self.rank()).map(|d| self.count(d)).product::<usize>() * self.element.bytes() as usize
    }

    /// The runs of the box at `coords`, in the order of shared memory.
    pub(crate) fn runs(&self, coords: &[i32]) -> Vec<Run> {
        let each = self.element.bytes() as usize;
        let width = self.count(0);
        let rows: usize = (1..self.rank()).map(|d| self.count(d)).product();
        let first = i64::from(coords[0]);
        let lo = first.clamp(0, self.dims[0] as i64);
        let hi = (first + width as i64).clamp(lo, self.dims[0] as i64);
        let mut out = Vec::with_capacity(rows);
        for row in 0..rows {
            let mut rest = row;
            let mut at = Some(self.base);
            for (d, start) in coords.iter().enumerate().skip(1) {
                let n = rest % self.count(d);
                rest /= self.count(d);
                let index = i64::from(*start) + n as i64 * i64::from(self.steps[d]);
                let inside = (0..self.dims[d] as i64).contains(&index);
                at = at.filter(|_| inside).map(|a| a.wrapping_add(index as u64 * self.strides[d - 1]));
            }
            let offset = row * width * each;
            let Some(at) = at.filter(|_| hi > lo) else {
                out.push(Run { offset, elements: width, global: None });
                continue;
            };
            out.push(Run {
                offset: offset + (lo - first) as usize * each,
                elements: (hi - lo) as usize,
                global: Some(at + lo as u64 * each as u64),
            });
        }
        out
    }

    /// The encoded map.
    pub fn to_bytes(&self) -> [u8; TENSOR_MAP_BYTES] {
        let mut out = Vec::with_capacity(TENSOR_MAP_BYTES);
        out.extend(MAGIC.to_le_bytes());
        let element = Element::ALL.iter().position(|e| *e == self.element).unwrap_or(0);
        let swizzle = Swizzle::ALL.iter().position(|s| *s == self.swizzle).unwrap_or(0);
        out.extend([self.rank() as u8, element as u8, swizzle as u8, 0]);
        out.extend(self.base.to_le_bytes());
        for d in 0..5 {
            out.extend(((self.dims.get(d).copied().unwrap_or(1) - 1) as u32).to_le_bytes());
            out.extend((self.box_dims.get(d).copied().unwrap_or(1) as u16).to_le_bytes());
            out.extend((self.steps.get(d).copied().unwrap_or(1) as u16).to_le_bytes());
        }
        for d in 0..4 {
            out.extend(self.strides.get(d).copied().unwrap_or(0).to_le_bytes());
        }
        let mut bytes = [0; TENSOR_MAP_BYTES];
        bytes[..out.len()].copy_from_slice(&out);
        bytes
    }

    /// Reads an encoded map; `None` if the bytes are none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let u16_at = |n: usize| Some(u16::from_le_bytes(bytes.get(n..n + 2)?.try_into().ok()?));
        let u32_at = |n: usize| Some(u32::from_le_bytes(bytes.get(n..n + 4)?.try_into().ok()?));
        let u64_at = |n: usize| Some(u64::from_le_bytes(bytes.get(n..n + 8)?.try_into().ok()?));
        if u32_at(0)? != MAGIC {
            return None;
        }
        let rank = *bytes.get(4)? as usize;
        if !(1..=5).contains(&rank) {
            return None;
        }
        let mut map = Self {
            element: *Element::ALL.get(*bytes.get(5)? as usize)?,
            base: u64_at(8)?,
            dims: Vec::new(),
            strides: Vec::new(),
            box_dims: Vec::new(),
            steps: Vec::new(),
            swizzle: *Swizzle::ALL.get(*bytes.get(6)? as usize)?,
        };
        for d in 0..rank {
            map.dims.push(u64::from(u32_at(16 + 8 * d)?) + 1);
            map.box_dims.push(u32::from(u16_at(20 + 8 * d)?));
            map.steps.push(u32::from(u16_at(22 + 8 * d)?));
        }
        for d in 1..rank {
            map.strides.push(u64_at(56 + 8 * (d - 1))?);
        }
        Some(map)
    }
}
