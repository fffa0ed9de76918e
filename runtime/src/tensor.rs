//! Tensors: owned ones, and views of slices with any strides. Data that is safe to hand to machine code.
//!
//! Comes in: slices, shapes, strides in elements (0 and negative ones too). Goes out: [`TensorView`],
//! [`TensorViewMut`], [`Tensor`]. What holds for every value of these types: each element lies inside the
//! memory that was borrowed, is aligned to its size, and is a valid value of its dtype (a `bit` is 0 or 1);
//! distinct indices of a mutable view name distinct elements. Deliberately not done: arithmetic, broadcasting
//! rules, devices. This is not a tensor library.

use std::marker::PhantomData;

use attn_compiler::artifact::DType;
use attn_compiler::f8;
use half::{bf16, f16};

use crate::aligned::AlignedBuf;
use crate::error::{DataFault, RuntimeError};
use crate::geometry::Geometry;
pub use crate::geometry::MAX_RANK;

mod sections;

mod sealed {
    pub trait Sealed {}
}

/// An eight-bit float e4m3 by its bits: no infinities, the largest magnitude is 448 (Micikevicius et al. 2022).
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct F8E4M3(pub u8);

impl F8E4M3 {
    /// The nearest value, ties to even; saturates at 448, NaN stays NaN.
    pub fn from_f32(x: f32) -> F8E4M3 {
        F8E4M3(f8::encode(x))
    }

    /// The value.
    pub fn to_f32(self) -> f32 {
        f8::decode(self.0)
    }
}

impl PartialEq for F8E4M3 {
    fn eq(&self, other: &F8E4M3) -> bool {
        self.to_f32() == other.to_f32()
    }
}

impl PartialOrd for F8E4M3 {
    fn partial_cmp(&self, other: &F8E4M3) -> Option<std::cmp::Ordering> {
        self.to_f32().partial_cmp(&other.to_f32())
    }
}

/// A Rust type that tensors hold. Sealed: the list is the list of dtypes, `bit` excepted (see
/// [`TensorView::from_bools`]).
pub trait Element: bytemuck::Pod + PartialOrd + sealed::Sealed {
    /// Its storage type.
    const DTYPE: DType;
    /// The value as f64 (i64 values beyond 2^53 are rounded).
    fn to_f64(self) -> f64;
}

macro_rules! elements {
    ($($t:ty => $dtype:ident, $x:ident => $to:expr;)*) => {$(
        impl sealed::Sealed for $t {}
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
            fn to_f64(self) -> f64 {
                let $x = self;
                $to
            }
        }
    )*};
}

elements! {
    f32 => F32, x => f64::from(x);
    f16 => F16, x => x.to_f64();
    bf16 => Bf16, x => x.to_f64();
    f64 => F64, x => x;
    i8 => I8, x => f64::from(x);
    i32 => I32, x => f64::from(x);
    i64 => I64, x => x as f64;
    F8E4M3 => F8E4M3, x => f64::from(x.to_f32());
}

/// A tensor that is read: borrowed memory, a shape, strides in elements.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    first: *const u8,
    geometry: Geometry,
    life: PhantomData<&'a [u8]>,
}

// SAFETY: a view only reads memory that is borrowed for 'a as `&[T]` with T: Send + Sync (numbers and bool), or
// that the caller of `from_raw` promised to keep unwritten; reading it from several threads is fine.
unsafe impl Send for TensorView<'_> {}
// SAFETY: as for Send.
unsafe impl Sync for TensorView<'_> {}

impl<'a> TensorView<'a> {
    /// A row-major tensor over all of `data`. Errors: the slice has another number of elements than `shape`.
    pub fn new<T: Element>(data: &'a [T], shape: &[usize]) -> Result<TensorView<'a>, RuntimeError> {
        let geometry = Geometry::contiguous(T::DTYPE, shape)?;
        geometry.check_count(data.len())?;
        Ok(TensorView { first: data.as_ptr().cast(), geometry, life: PhantomData })
    }

    /// The element at index 0 is `data[offset]`; a step along dim d moves `strides[d]` elements, which may be 0
    /// or negative. Errors: an element would lie outside `data`; ranks differ; rank above [`MAX_RANK`].
    pub fn strided<T: Element>(
        data: &'a [T],
        offset: usize,
        shape: &[usize],
        strides: &[isize],
    ) -> Result<TensorView<'a>, RuntimeError> {
        let geometry = Geometry::strided(T::DTYPE, shape, strides)?;
        geometry.check_inside(offset, data.len())?;
        Ok(TensorView { first: address(data.as_ptr().cast(), offset, geometry), geometry, life: PhantomData })
    }

    /// A row-major `bit` tensor over truth values.
    pub fn from_bools(data: &'a [bool], shape: &[usize]) -> Result<TensorView<'a>, RuntimeError> {
        let geometry = Geometry::contiguous(DType::Bit, shape)?;
        geometry.check_count(data.len())?;
        Ok(TensorView { first: data.as_ptr().cast(), geometry, life: PhantomData })
    }

    /// A row-major `bit` tensor over bytes. Errors: a byte other than 0 and 1, named by its position.
    pub fn from_bits(data: &'a [u8], shape: &[usize]) -> Result<TensorView<'a>, RuntimeError> {
        TensorView::strided_bits(data, 0, shape, Geometry::contiguous(DType::Bit, shape)?.strides())
            .and_then(|view| view.geometry.check_count(data.len()).map(|()| view))
    }

    /// A strided `bit` tensor over bytes, see [`TensorView::strided`]. All of `data` must be 0 or 1.
    pub fn strided_bits(
        data: &'a [u8],
        offset: usize,
        shape: &[usize],
        strides: &[isize],
    ) -> Result<TensorView<'a>, RuntimeError> {
        check_bits(data)?;
        let geometry = Geometry::strided(DType::Bit, shape, strides)?;
        geometry.check_inside(offset, data.len())?;
        Ok(TensorView { first: address(data.as_ptr(), offset, geometry), geometry, life: PhantomData })
    }

    /// A view of foreign memory. Errors: what [`TensorView::strided`] refuses, and a misaligned address.
    ///
    /// # Safety
    /// For all of `'a`: `len` elements of `dtype` from `base` on are readable, initialised and not written except
    /// through a [`TensorViewMut`] given to the same run (which then refuses the overlap); `bit` bytes are 0 or 1.
    pub unsafe fn from_raw(
        base: *const u8,
        len: usize,
        dtype: DType,
        offset: usize,
        shape: &[usize],
        strides: &[isize],
    ) -> Result<TensorView<'a>, RuntimeError> {
        let geometry = Geometry::strided(dtype, shape, strides)?;
        geometry.check_inside(offset, len)?;
        check_aligned(base, dtype)?;
        Ok(TensorView { first: address(base, offset, geometry), geometry, life: PhantomData })
    }

    /// A view of memory that is not the host's.
    ///
    /// # Safety
    /// No element is read while the view exists.
    pub(crate) unsafe fn detached(first: u64, geometry: Geometry) -> TensorView<'a> {
        TensorView { first: std::ptr::without_provenance(first as usize), geometry, life: PhantomData }
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        self.geometry.dtype()
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.geometry.shape()
    }

    /// Steps in elements. Dims that are never stepped along (size 0 or 1, or an empty tensor) say 1.
    pub fn strides(&self) -> &[isize] {
        self.geometry.strides()
    }

    /// The same elements with the axes in another order: axis a of the result is axis `order[a]` of this one.
    /// Errors: `order` is not a permutation of the axes.
    pub fn permuted(&self, order: &[usize]) -> Result<TensorView<'a>, RuntimeError> {
        Ok(TensorView { geometry: self.geometry.permuted(order)?, ..*self })
    }

    /// The element at a multi-index as f64 (`bit`: 0 or 1). `None` out of range.
    pub fn get(&self, index: &[usize]) -> Option<f64> {
        let at = self.geometry.offset_of(index)?;
        Some(match self.dtype() {
            DType::F32 => self.read::<f32>(at).to_f64(),
            DType::F16 => Element::to_f64(self.read::<f16>(at)),
            DType::Bf16 => Element::to_f64(self.read::<bf16>(at)),
            DType::F64 => self.read::<f64>(at),
            DType::I8 => self.read::<i8>(at).to_f64(),
            DType::I32 => self.read::<i32>(at).to_f64(),
            DType::I64 => self.read::<i64>(at).to_f64(),
            DType::Bit => f64::from(self.read::<u8>(at)),
            DType::F8E4M3 => self.read::<F8E4M3>(at).to_f64(),
        })
    }

    /// All elements in row-major order of the logical index, as f64.
    pub fn to_f64_vec(&self) -> Vec<f64> {
        let mut out = Vec::with_capacity(self.geometry.count());
        self.geometry.for_each_index(&mut |index| out.extend(self.get(index)));
        out
    }

    /// A row-major copy. Errors: the memory cannot be had.
    pub fn to_tensor(&self) -> Result<Tensor, RuntimeError> {
        let mut copy = Tensor::zeros(self.dtype(), self.shape())?;
        let size = self.dtype().size();
        let mut to = copy.buf.bytes_mut().chunks_exact_mut(size);
        self.geometry.for_each_index(&mut |index| {
            let (Some(at), Some(to)) = (self.geometry.offset_of(index), to.next()) else { return };
            match size {
                1 => to.copy_from_slice(&self.read::<u8>(at).to_ne_bytes()),
                2 => to.copy_from_slice(&self.read::<u16>(at).to_ne_bytes()),
                4 => to.copy_from_slice(&self.read::<u32>(at).to_ne_bytes()),
                _ => to.copy_from_slice(&self.read::<u64>(at).to_ne_bytes()),
            }
        });
        Ok(copy)
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Address of the element at index 0.
    pub(crate) fn first(&self) -> *const u8 {
        self.first
    }

    /// The element `at` elements from the first; `at` must be the offset of an index that is in range.
    pub(crate) fn read<T: bytemuck::AnyBitPattern>(&self, at: isize) -> T {
        debug_assert!(size_of::<T>() == self.dtype().size() && self.geometry.spans(at));
        // SAFETY: construction checked that every element lies in the borrowed memory and is aligned; callers pass
        // offsets of such elements and a T of the dtype's size, for which every bit pattern is valid.
        unsafe { self.first.cast::<T>().offset(at).read() }
    }
}

/// A tensor that is written. Distinct indices are distinct elements. Only kernels write through it, and an artifact
/// whose output is `bit` is not loaded, so the bytes of a `bit` tensor stay 0 and 1.
#[derive(Debug)]
pub struct TensorViewMut<'a> {
    first: *mut u8,
    geometry: Geometry,
    life: PhantomData<&'a mut [u8]>,
}

// SAFETY: the view is the only access to memory borrowed for 'a as `&mut [T]` with T: Send (numbers).
unsafe impl Send for TensorViewMut<'_> {}
// SAFETY: a shared reference to the view gives only the shape.
unsafe impl Sync for TensorViewMut<'_> {}

impl<'a> TensorViewMut<'a> {
    /// A row-major tensor over all of `data`. Errors: the slice has another number of elements than `shape`.
    pub fn new<T: Element>(data: &'a mut [T], shape: &[usize]) -> Result<TensorViewMut<'a>, RuntimeError> {
        let geometry = Geometry::contiguous(T::DTYPE, shape)?;
        geometry.check_count(data.len())?;
        Ok(TensorViewMut { first: data.as_mut_ptr().cast(), geometry, life: PhantomData })
    }

    /// As [`TensorView::strided`]; strides under which two indices could name one element are refused.
    pub fn strided<T: Element>(
        data: &'a mut [T],
        offset: usize,
        shape: &[usize],
        strides: &[isize],
    ) -> Result<TensorViewMut<'a>, RuntimeError> {
        let geometry = Geometry::strided(T::DTYPE, shape, strides)?;
        geometry.check_inside(offset, data.len())?;
        geometry.check_distinct()?;
        let first = address(data.as_mut_ptr().cast(), offset, geometry).cast_mut();
        Ok(TensorViewMut { first, geometry, life: PhantomData })
    }

    /// A view of foreign memory. Errors: what [`TensorViewMut::strided`] refuses, a misaligned address.
    ///
    /// # Safety
    /// For all of `'a`: `len` elements of `dtype` from `base` on are writable and touched by nobody else during a
    /// run, except that other views given to the same run may name them: the run refuses such an overlap.
    pub unsafe fn from_raw(
        base: *mut u8,
        len: usize,
        dtype: DType,
        offset: usize,
        shape: &[usize],
        strides: &[isize],
    ) -> Result<TensorViewMut<'a>, RuntimeError> {
        let geometry = Geometry::strided(dtype, shape, strides)?;
        geometry.check_inside(offset, len)?;
        geometry.check_distinct()?;
        check_aligned(base, dtype)?;
        let first = address(base, offset, geometry).cast_mut();
        Ok(TensorViewMut { first, geometry, life: PhantomData })
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        self.geometry.dtype()
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.geometry.shape()
    }

    /// Steps in elements, as [`TensorView::strides`].
    pub fn strides(&self) -> &[isize] {
        self.geometry.strides()
    }

    /// A view of memory that is not the host's.
    ///
    /// # Safety
    /// No element is read or written while the view exists.
    pub(crate) unsafe fn detached(first: u64, geometry: Geometry) -> TensorViewMut<'a> {
        TensorViewMut { first: std::ptr::without_provenance_mut(first as usize), geometry, life: PhantomData }
    }

    /// A shorter borrow of the same elements.
    pub fn reborrow(&mut self) -> TensorViewMut<'_> {
        TensorViewMut { first: self.first, geometry: self.geometry, life: PhantomData }
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Address of the element at index 0; writing through it needs the exclusive borrow that gives it.
    pub(crate) fn first_mut(&mut self) -> *mut u8 {
        self.first
    }

    /// Address of the element at index 0, to be compared only.
    pub(crate) fn first(&self) -> *const u8 {
        self.first
    }
}

/// An owned row-major tensor, 64-byte aligned.
#[derive(Clone)]
pub struct Tensor {
    buf: AlignedBuf,
    geometry: Geometry,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({}{:?})", self.dtype(), self.shape())
    }
}

impl Tensor {
    /// Zeros. Errors: more bytes than can be addressed or had; rank above [`MAX_RANK`].
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Tensor, RuntimeError> {
        let geometry = Geometry::contiguous(dtype, shape)?;
        Ok(Tensor { buf: AlignedBuf::zeroed(geometry.count() * dtype.size())?, geometry })
    }

    /// A copy of `data`. Errors: as [`TensorView::new`].
    pub fn from_slice<T: Element>(data: &[T], shape: &[usize]) -> Result<Tensor, RuntimeError> {
        Tensor::from_bytes(T::DTYPE, bytemuck::cast_slice(data), shape)
    }

    /// A `bit` tensor of truth values.
    pub fn from_bools(data: &[bool], shape: &[usize]) -> Result<Tensor, RuntimeError> {
        Tensor::from_bytes(DType::Bit, bytemuck::cast_slice(data), shape)
    }

    /// A copy of little-endian bytes, as files hold them. Errors: another number of bytes than `shape` needs; a
    /// `bit` other than 0 and 1.
    pub fn from_bytes(dtype: DType, bytes: &[u8], shape: &[usize]) -> Result<Tensor, RuntimeError> {
        let geometry = Geometry::contiguous(dtype, shape)?;
        if !bytes.len().is_multiple_of(dtype.size()) {
            let message = format!(
                "{} bytes are not a whole number of {dtype} elements; is the dtype right?",
                bytes.len()
            );
            return Err(RuntimeError::data(DataFault::Size, message));
        }
        geometry.check_count(bytes.len() / dtype.size())?;
        if dtype == DType::Bit {
            check_bits(bytes)?;
        }
        let mut buf = AlignedBuf::zeroed(bytes.len())?;
        buf.bytes_mut().copy_from_slice(bytes);
        Ok(Tensor { buf, geometry })
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        self.geometry.dtype()
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.geometry.shape()
    }

    /// The memory, row-major, in the host's byte order.
    pub fn bytes(&self) -> &[u8] {
        self.buf.bytes()
    }

    /// The elements, row-major. Errors: T is not the tensor's dtype.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], RuntimeError> {
        self.expect_dtype(T::DTYPE)?;
        Ok(bytemuck::cast_slice(self.buf.bytes()))
    }

    /// The elements, row-major, to be written. Errors: T is not the tensor's dtype.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], RuntimeError> {
        self.expect_dtype(T::DTYPE)?;
        Ok(bytemuck::cast_slice_mut(self.buf.bytes_mut()))
    }

    fn expect_dtype(&self, wanted: DType) -> Result<(), RuntimeError> {
        if self.dtype() == wanted {
            return Ok(());
        }
        let message = format!("the tensor holds {}, not {wanted}; read it as {0}", self.dtype());
        Err(RuntimeError::data(DataFault::DType, message))
    }

    /// The whole tensor, to be read.
    pub fn view(&self) -> TensorView<'_> {
        TensorView { first: self.buf.bytes().as_ptr(), geometry: self.geometry, life: PhantomData }
    }

    /// The whole tensor, to be written. No kernel writes a `bit` tensor: binding one as an output is refused.
    pub fn view_mut(&mut self) -> TensorViewMut<'_> {
        let first = self.buf.bytes_mut().as_mut_ptr();
        TensorViewMut { first, geometry: self.geometry, life: PhantomData }
    }
}

/// Address of element `offset`; the base itself for an empty tensor, whose offset need not be inside.
fn address(base: *const u8, offset: usize, geometry: Geometry) -> *const u8 {
    if geometry.count() == 0 { base } else { base.wrapping_add(offset * geometry.dtype().size()) }
}

fn check_bits(data: &[u8]) -> Result<(), RuntimeError> {
    match data.iter().position(|&b| b > 1) {
        None => Ok(()),
        Some(n) => Err(RuntimeError::data(
            DataFault::Fact,
            format!("bit tensor: byte {n} is {}, expected 0 or 1; write `x != 0` into it", data[n]),
        )),
    }
}

fn check_aligned(base: *const u8, dtype: DType) -> Result<(), RuntimeError> {
    if (base as usize).is_multiple_of(dtype.size()) && !base.is_null() {
        return Ok(());
    }
    let message =
        format!("address {base:p} is not aligned to the {} bytes of {dtype}; copy the tensor", dtype.size());
    Err(RuntimeError::data(DataFault::View, message))
}

#[cfg(test)]
mod tests;
