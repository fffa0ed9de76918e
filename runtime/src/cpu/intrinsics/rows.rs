//! Row-major tiles and vectors: `load_rows`, `store_rows`, `store_vec`.
//!
//! In: strided elements of a storage type, or f32 tiles. Out: the other. Afterwards: exactly the elements
//! of the tile were touched; rounding is to nearest even. Not here: panels (`pack.rs`).

use super::convert::{read, write};
use super::element::{Bf16, Element, F8E4M3, F16, F32, I8, load_first, store_first};
use super::simd::{LANES, Simd};
use super::stream::LINE;
use attn_compiler::artifact::DType;

/// Rows that begin so many bytes apart are more than the machine follows by itself, and are asked for so many rows ahead.
const FAR: isize = 1 << 10;
const AHEAD: usize = 8;

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
    // SAFETY: the caller's promise; d <= ldd.
    unsafe {
        let size = shape.dtype.size() as isize;
        if shape.stride_row == 1 && shape.stride_d != 1 && ldd.is_multiple_of(LANES) {
            match shape.dtype {
                DType::F32 => return load_columns::<S, F32>(dst, ldd, src, shape),
                DType::F16 => return load_columns::<S, F16>(dst, ldd, src, shape),
                DType::Bf16 => return load_columns::<S, Bf16>(dst, ldd, src, shape),
                DType::I8 => return load_columns::<S, I8>(dst, ldd, src, shape),
                _ => {}
            }
        }
        for r in 0..shape.rows {
            let (from, to) = (src.offset(r as isize * shape.stride_row * size), dst.add(r * ldd));
            if shape.stride_d == 1 && shape.stride_row * size >= FAR && r + AHEAD < shape.rows {
                let next = from.wrapping_offset(AHEAD as isize * shape.stride_row * size);
                (0..shape.d * size as usize).step_by(LINE).for_each(|at| S::prefetch(next.wrapping_add(at)));
            }
            match shape.dtype {
                DType::F32 if shape.stride_d == 1 => load_row::<S, F32>(to, from, shape.d),
                DType::F16 if shape.stride_d == 1 => load_row::<S, F16>(to, from, shape.d),
                DType::Bf16 if shape.stride_d == 1 => load_row::<S, Bf16>(to, from, shape.d),
                DType::I8 if shape.stride_d == 1 => load_row::<S, I8>(to, from, shape.d),
                DType::F8E4M3 if shape.stride_d == 1 => load_row::<S, F8E4M3>(to, from, shape.d),
                dtype => {
                    (0..shape.d).for_each(|x| *to.add(x) = read(from, dtype, x as isize * shape.stride_d))
                }
            }
            to.add(shape.d).write_bytes(0, ldd.saturating_sub(shape.d));
        }
    }
}

/// Rows whose columns are contiguous: read along the rows and transposed, 16 x 16 at a time.
#[inline(always)]
unsafe fn load_columns<S: Simd, E: Element>(dst: *mut f32, ldd: usize, src: *const u8, shape: Strided) {
    // SAFETY: as for `load_rows`; blocks are cut to the rows and columns that there are, and ldd is whole blocks.
    unsafe {
        for x in (0..ldd).step_by(LANES) {
            let width = shape.d.saturating_sub(x).min(LANES);
            for r in (0..shape.rows).step_by(LANES) {
                let height = (shape.rows - r).min(LANES);
                let mut block = [S::splat(0.0); LANES];
                for (i, column) in block.iter_mut().enumerate().take(width) {
                    let at = (x + i) as isize * shape.stride_d + r as isize;
                    *column = load_first::<S, E>(src.offset(at * E::SIZE), height);
                }
                S::transpose(&mut block);
                for (i, &row) in block.iter().enumerate().take(height) {
                    S::store(dst.add((r + i) * ldd + x), row);
                }
            }
        }
    }
}

/// `d` contiguous elements as f32.
#[inline(always)]
unsafe fn load_row<S: Simd, E: Element>(to: *mut f32, from: *const u8, d: usize) {
    // SAFETY: as for `load_rows`.
    unsafe {
        let full = d / LANES * LANES;
        let mut x = 0;
        while x < full {
            S::store(to.add(x), E::load::<S>(from.offset(x as isize * E::SIZE)));
            x += LANES;
        }
        if full < d {
            let v = load_first::<S, E>(from.offset(full as isize * E::SIZE), d - full);
            S::store_first(to.add(full), v, d - full);
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
    // SAFETY: the caller's promise; d <= lds.
    unsafe {
        let size = shape.dtype.size() as isize;
        for r in 0..shape.rows {
            let (from, to) = (src.add(r * lds), dst.offset(r as isize * shape.stride_row * size));
            let scale = if row_scale.is_null() { 1.0 } else { *row_scale.add(r) };
            match shape.dtype {
                DType::F32 if shape.stride_d == 1 => store_row::<S, F32>(to, from, shape.d, scale),
                DType::F16 if shape.stride_d == 1 => store_row::<S, F16>(to, from, shape.d, scale),
                DType::Bf16 if shape.stride_d == 1 => store_row::<S, Bf16>(to, from, shape.d, scale),
                DType::I8 if shape.stride_d == 1 => store_row::<S, I8>(to, from, shape.d, scale),
                DType::F8E4M3 if shape.stride_d == 1 => store_row::<S, F8E4M3>(to, from, shape.d, scale),
                dtype => (0..shape.d).for_each(|x| {
                    let value = if scale == 0.0 { 0.0 } else { *from.add(x) * scale };
                    write(to, dtype, x as isize * shape.stride_d, value);
                }),
            }
        }
    }
}

/// `d` values times `scale` to contiguous elements.
#[inline(always)]
unsafe fn store_row<S: Simd, E: Element>(to: *mut u8, from: *const f32, d: usize, scale: f32) {
    // SAFETY: as for `store_rows`.
    unsafe {
        let (zero, factor) = (S::splat(0.0), S::splat(scale));
        let blank = S::eq(factor, zero);
        let full = d / LANES * LANES;
        let mut x = 0;
        while x < full {
            let v = S::select(blank, zero, S::mul(S::load(from.add(x)), factor));
            E::store::<S>(to.offset(x as isize * E::SIZE), v);
            x += LANES;
        }
        if full < d {
            let v = S::select(blank, zero, S::mul(S::load_first(from.add(full), d - full), factor));
            store_first::<S, E>(to.offset(full as isize * E::SIZE), v, d - full);
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
