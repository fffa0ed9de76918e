//! Row-major tiles and vectors: `load_rows`, `store_rows`, `store_vec`.
//!
//! In: strided elements of a storage type, or f32 tiles. Out: the other. Afterwards: exactly the elements
//! of the tile were touched; rounding is to nearest even. Not here: panels (`pack.rs`).

use super::convert::{read, write};
use super::simd::{LANES, Simd};
use attn_compiler::artifact::DType;

/// `n <= 16` contiguous elements as f32, zero beyond.
///
/// # Safety
/// The features of `S`; the elements are readable.
#[inline(always)]
pub(super) unsafe fn load_span<S: Simd>(src: *const u8, dtype: DType, n: usize) -> S::V {
    // SAFETY: the caller's promise; only `n` elements are touched.
    unsafe {
        match dtype {
            DType::F32 if n == LANES => S::load(src.cast()),
            DType::F16 if n == LANES => S::load_f16(src.cast()),
            DType::Bf16 if n == LANES => S::load_bf16(src.cast()),
            DType::F32 => S::load_first(src.cast(), n),
            _ => {
                let mut lanes = [0f32; LANES];
                for (i, lane) in lanes.iter_mut().enumerate().take(n) {
                    *lane = read(src, dtype, i as isize);
                }
                S::load(lanes.as_ptr())
            }
        }
    }
}

/// Writes lanes 0..n as contiguous elements.
///
/// # Safety
/// The features of `S`; the elements are writable.
#[inline(always)]
unsafe fn store_span<S: Simd>(dst: *mut u8, dtype: DType, v: S::V, n: usize) {
    // SAFETY: the caller's promise; only `n` elements are touched.
    unsafe {
        match dtype {
            DType::F32 if n == LANES => S::store(dst.cast(), v),
            DType::F16 if n == LANES => S::store_f16(dst.cast(), v),
            DType::Bf16 if n == LANES => S::store_bf16(dst.cast(), v),
            DType::F32 => S::store_first(dst.cast(), v, n),
            _ => {
                let mut lanes = [0f32; LANES];
                S::store(lanes.as_mut_ptr(), v);
                for (i, &lane) in lanes.iter().enumerate().take(n) {
                    write(dst, dtype, i as isize, lane);
                }
            }
        }
    }
}

/// A strided tile of `rows` by `d` elements.
#[derive(Clone, Copy)]
pub(super) struct Strided {
    pub dtype: DType,
    pub rows: usize,
    pub d: usize,
    pub stride_row: isize,
    pub stride_d: isize,
}

/// Converts rows to f32; zero in columns d..ldd.
///
/// # Safety
/// The features of `S`; the elements are readable, `dst` holds rows x ldd values.
#[inline(always)]
pub(super) unsafe fn load_rows<S: Simd>(dst: *mut f32, ldd: usize, src: *const u8, shape: Strided) {
    // SAFETY: the caller's promise; `x + n <= d <= ldd`.
    unsafe {
        let size = shape.dtype.size() as isize;
        for r in 0..shape.rows {
            let (from, to) = (src.offset(r as isize * shape.stride_row * size), dst.add(r * ldd));
            let mut x = 0;
            while x < shape.d {
                let n = (shape.d - x).min(LANES);
                if shape.stride_d == 1 {
                    S::store_first(
                        to.add(x),
                        load_span::<S>(from.offset(x as isize * size), shape.dtype, n),
                        n,
                    );
                } else {
                    for i in x..x + n {
                        *to.add(i) = read(from, shape.dtype, i as isize * shape.stride_d);
                    }
                }
                x += n;
            }
            to.add(x).write_bytes(0, ldd.saturating_sub(x));
        }
    }
}

/// Scales and rounds rows into storage; a row whose scale is 0 becomes 0.
///
/// # Safety
/// The features of `S`; `src` holds rows x lds values, the elements are writable, `row_scale` is null or
/// holds `rows` values.
#[inline(always)]
pub(super) unsafe fn store_rows<S: Simd>(
    src: *const f32,
    lds: usize,
    dst: *mut u8,
    shape: Strided,
    row_scale: *const f32,
) {
    // SAFETY: the caller's promise; `x + n <= d <= lds`.
    unsafe {
        let size = shape.dtype.size() as isize;
        for r in 0..shape.rows {
            let (from, to) = (src.add(r * lds), dst.offset(r as isize * shape.stride_row * size));
            let scale = if row_scale.is_null() { 1.0 } else { *row_scale.add(r) };
            let mut x = 0;
            while x < shape.d {
                let n = (shape.d - x).min(LANES);
                let v = S::mul(S::load_first(from.add(x), n), S::splat(scale));
                let v = if scale == 0.0 { S::splat(0.0) } else { v };
                if shape.stride_d == 1 {
                    store_span::<S>(to.offset(x as isize * size), shape.dtype, v, n);
                } else {
                    let mut lanes = [0f32; LANES];
                    S::store(lanes.as_mut_ptr(), v);
                    for (i, &lane) in lanes.iter().enumerate().take(n) {
                        write(to, shape.dtype, (x + i) as isize * shape.stride_d, lane);
                    }
                }
                x += n;
            }
        }
    }
}

/// `n` values to a strided vector.
///
/// # Safety
/// `src` holds n values; the elements are writable.
pub(super) unsafe fn store_vec(src: *const f32, dst: *mut u8, dtype: DType, n: usize, stride: isize) {
    for i in 0..n {
        // SAFETY: the caller's promise.
        unsafe { write(dst, dtype, i as isize * stride, *src.add(i)) }
    }
}
