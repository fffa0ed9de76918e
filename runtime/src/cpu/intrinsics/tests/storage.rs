//! Conversions, packing, loading and storing rows.

use super::{Noise, bits, same_bits, tables};
use crate::cpu::intrinsics::convert::{read, write};
use attn_compiler::artifact::DType;
use half::{bf16, f16};

const DTYPES: [DType; 9] = [
    DType::F32,
    DType::F16,
    DType::Bf16,
    DType::F64,
    DType::I8,
    DType::I32,
    DType::I64,
    DType::Bit,
    DType::F8E4M3,
];

/// Elements of a storage type, exactly as many bytes as there are elements.
struct Stored {
    dtype: DType,
    bytes: Vec<u8>,
}

impl Stored {
    fn new(dtype: DType, n: usize) -> Stored {
        Stored { dtype, bytes: vec![0; n * dtype.size()] }
    }

    fn noise(dtype: DType, n: usize, seed: u32) -> Stored {
        let mut stored = Stored::new(dtype, n);
        let mut noise = Noise(seed);
        for i in 0..n {
            // SAFETY: i < n.
            unsafe { write(stored.bytes.as_mut_ptr(), dtype, i as isize, noise.next() * 100.0) }
        }
        stored
    }

    fn get(&self, i: usize) -> f32 {
        assert!((i + 1) * self.dtype.size() <= self.bytes.len());
        // SAFETY: just checked.
        unsafe { read(self.bytes.as_ptr(), self.dtype, i as isize) }
    }
}

/// A strided tile: sizes, strides, elements that it spans.
#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: usize,
    d: usize,
    stride_row: usize,
    stride_d: usize,
}

impl Shape {
    /// Row-major, transposed, and with gaps, in odd sizes.
    fn all() -> Vec<Shape> {
        let mut shapes = Vec::new();
        for (rows, d) in
            [(1, 1), (3, 16), (16, 3), (17, 31), (33, 64), (40, 80), (64, 48), (5, 130), (0, 4), (4, 0)]
        {
            shapes.push(Shape { rows, d, stride_row: d, stride_d: 1 });
            shapes.push(Shape { rows, d, stride_row: 1, stride_d: rows });
            shapes.push(Shape { rows, d, stride_row: 3 * d + 1, stride_d: 1 });
            shapes.push(Shape { rows, d, stride_row: 2 * d, stride_d: 2 });
            shapes.push(Shape { rows, d, stride_row: 0, stride_d: 1 });
        }
        shapes
    }

    fn span(self) -> usize {
        if self.rows == 0 || self.d == 0 { 0 } else { self.at(self.rows - 1, self.d - 1) + 1 }
    }

    fn at(self, row: usize, x: usize) -> usize {
        row * self.stride_row + x * self.stride_d
    }
}

#[test]
fn packed_keys() {
    for (dtype, shape) in DTYPES.into_iter().flat_map(|t| Shape::all().into_iter().map(move |s| (t, s))) {
        let src = Stored::noise(dtype, shape.span(), 3);
        let panels = shape.rows.div_ceil(32);
        let got = same_bits(&format!("pack_k {dtype} {shape:?}"), |t| {
            let mut dst = vec![9.0; panels * shape.d * 32 + 1];
            let (n, d, sk, sd) =
                (shape.rows as i64, shape.d as i64, shape.stride_row as i64, shape.stride_d as i64);
            // SAFETY: the source spans the tile, the destination the panels.
            unsafe { (t.pack_k())(dst.as_mut_ptr(), src.bytes.as_ptr(), dtype as u32, n, d, sk, sd) };
            assert_eq!(dst.pop(), Some(9.0));
            dst
        });
        for j in 0..panels * 32 {
            for x in 0..shape.d {
                let expected = if j < shape.rows { src.get(shape.at(j, x)) } else { 0.0 };
                assert_eq!(
                    got[j / 32 * shape.d * 32 + x * 32 + j % 32],
                    expected,
                    "{dtype} {shape:?} ({j}, {x})"
                );
            }
        }
    }
}

#[test]
fn packed_values() {
    for (dtype, shape) in DTYPES.into_iter().flat_map(|t| Shape::all().into_iter().map(move |s| (t, s))) {
        let src = Stored::noise(dtype, shape.span(), 4);
        let (panels, stride) = (shape.d.div_ceil(32), shape.rows * 32 + 64);
        let got = same_bits(&format!("pack_v {dtype} {shape:?}"), |t| {
            let mut dst = vec![9.0; panels * stride];
            let (n, d, sk, sd) =
                (shape.rows as i64, shape.d as i64, shape.stride_row as i64, shape.stride_d as i64);
            let (to, from) = (dst.as_mut_ptr(), src.bytes.as_ptr());
            // SAFETY: the source spans the tile, the destination the panels.
            let bad = unsafe { (t.pack_v())(to, stride as i64, from, dtype as u32, n, d, sk, sd) };
            assert_eq!(bad, 0);
            dst
        });
        for x in 0..panels * 32 {
            for j in 0..shape.rows {
                let expected = if x < shape.d { src.get(shape.at(j, x)) } else { 0.0 };
                assert_eq!(got[x / 32 * stride + j * 32 + x % 32], expected, "{dtype} {shape:?} ({j}, {x})");
            }
            assert!(got[x / 32 * stride + shape.rows * 32..][..64].iter().all(|&g| g == 9.0));
        }
    }
}

#[test]
fn packed_values_report_what_is_not_finite() {
    for (dtype, bad) in [DType::F32, DType::F16, DType::Bf16, DType::F64]
        .into_iter()
        .flat_map(|t| [f32::NAN, f32::INFINITY, -f32::INFINITY].map(|x| (t, x)))
    {
        for shape in Shape::all().into_iter().filter(|s| s.span() > 0) {
            for (row, x) in [(0, 0), (shape.rows - 1, shape.d - 1), (shape.rows / 2, shape.d / 2)] {
                let mut src = Stored::noise(dtype, shape.span(), 5);
                // SAFETY: inside the span.
                unsafe { write(src.bytes.as_mut_ptr(), dtype, shape.at(row, x) as isize, bad) };
                let mut dst = vec![0.0; shape.d.div_ceil(32) * shape.rows * 32];
                let (n, d, sk, sd) =
                    (shape.rows as i64, shape.d as i64, shape.stride_row as i64, shape.stride_d as i64);
                for (isa, t) in tables() {
                    let (to, from) = (dst.as_mut_ptr(), src.bytes.as_ptr());
                    // SAFETY: the source spans the tile, the destination the panels.
                    let flag = unsafe { (t.pack_v())(to, n * 32, from, dtype as u32, n, d, sk, sd) };
                    assert_eq!(flag, 1, "{isa} {dtype} {bad} {shape:?} ({row}, {x})");
                }
            }
        }
    }
}

#[test]
fn largest_finite_values_are_finite() {
    let src = [f32::MAX, f32::MIN, f32::MAX, f32::from_bits(1)];
    for (isa, t) in tables() {
        let mut dst = vec![0.0; 4 * 32];
        // SAFETY: two keys of two features.
        let flag = unsafe { (t.pack_v())(dst.as_mut_ptr(), 64, src.as_ptr().cast(), 0, 2, 2, 2, 1) };
        assert_eq!(flag, 0, "{isa}");
    }
}

#[test]
fn loaded_rows() {
    for (dtype, shape) in DTYPES.into_iter().flat_map(|t| Shape::all().into_iter().map(move |s| (t, s))) {
        let src = Stored::noise(dtype, shape.span(), 6);
        let ldd = shape.d.next_multiple_of(16) + 16;
        let got = same_bits(&format!("load_rows {dtype} {shape:?}"), |t| {
            let mut dst = vec![9.0; shape.rows * ldd + 1];
            let (n, d, sr, sd) =
                (shape.rows as i64, shape.d as i64, shape.stride_row as i64, shape.stride_d as i64);
            let (to, from) = (dst.as_mut_ptr(), src.bytes.as_ptr());
            // SAFETY: the source spans the tile, the destination rows x ldd.
            unsafe { (t.load_rows())(to, ldd as i64, from, dtype as u32, n, d, sr, sd) };
            assert_eq!(dst.pop(), Some(9.0));
            dst
        });
        for (i, &got) in got.iter().enumerate() {
            let (row, x) = (i / ldd, i % ldd);
            let expected = if x < shape.d { src.get(shape.at(row, x)) } else { 0.0 };
            assert_eq!(got, expected, "{dtype} {shape:?} ({row}, {x})");
        }
    }
}

#[test]
fn stored_rows_round_and_scale() {
    for (dtype, shape) in DTYPES.into_iter().flat_map(|t| Shape::all().into_iter().map(move |s| (t, s))) {
        if shape.stride_row == 0 {
            continue; // rows would overwrite each other
        }
        let lds = shape.d.next_multiple_of(16);
        let mut noise = Noise(7);
        let mut src = noise.vec(shape.rows * lds, 100.0);
        let scale: Vec<f32> = (0..shape.rows).map(|r| [0.37, 0.0, -2.5][r % 3]).collect();
        if shape.rows > 1 {
            src[lds..2 * lds].fill(f32::NAN);
        }
        for scaled in [true, false] {
            for (isa, t) in tables() {
                let mut dst = Stored::new(dtype, shape.span());
                let (n, d, sr, sd) =
                    (shape.rows as i64, shape.d as i64, shape.stride_row as i64, shape.stride_d as i64);
                let factor = if scaled { scale.as_ptr() } else { std::ptr::null() };
                let to = dst.bytes.as_mut_ptr();
                // SAFETY: the source has rows x lds values, the destination spans the tile.
                unsafe { (t.store_rows())(src.as_ptr(), lds as i64, to, dtype as u32, n, d, sr, sd, factor) };
                for (row, x) in (0..shape.rows).flat_map(|r| (0..shape.d).map(move |x| (r, x))) {
                    let factor = if scaled { scale[row] } else { 1.0 };
                    let value = if factor == 0.0 { 0.0 } else { src[row * lds + x] * factor };
                    let mut one = Stored::new(dtype, 1);
                    // SAFETY: one element.
                    unsafe { write(one.bytes.as_mut_ptr(), dtype, 0, value) };
                    let (got, expected) = (dst.get(shape.at(row, x)), one.get(0));
                    assert_eq!(bits(&[got]), bits(&[expected]), "{isa} {dtype} {shape:?} ({row}, {x})");
                }
            }
        }
    }
}

#[test]
fn stored_vectors() {
    let src = [1.5f32, -2.0, 3.0];
    for (_, t) in tables() {
        let mut dst = Stored::new(DType::F16, 7);
        // SAFETY: three elements, three apart.
        unsafe { (t.store_vec())(src.as_ptr(), dst.bytes.as_mut_ptr(), DType::F16 as u32, 3, 3) };
        assert_eq!((0..7).map(|i| dst.get(i)).collect::<Vec<_>>(), [1.5, 0.0, 0.0, -2.0, 0.0, 0.0, 3.0]);
    }
}

/// All 65536 half values, scalar and vector, against the crate that the world uses.
#[test]
fn every_half_value_loads_exactly() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    for (dtype, exact) in [
        (DType::F16, all.iter().map(|&b| f16::from_bits(b).to_f32()).collect::<Vec<_>>()),
        (DType::Bf16, all.iter().map(|&b| bf16::from_bits(b).to_f32()).collect()),
    ] {
        let got = same_bits("load", |t| {
            let mut dst = vec![0.0; 65_536];
            let from = all.as_ptr().cast();
            // SAFETY: 65536 values on both sides.
            unsafe { (t.load_rows())(dst.as_mut_ptr(), 65_536, from, dtype as u32, 1, 65_536, 65_536, 1) };
            dst
        });
        assert_eq!(bits(&got), bits(&exact), "{dtype}");
    }
    for (_, t) in tables() {
        // SAFETY: no pointers.
        let one = |b: u16| unsafe { (t.half_to_f32())(i32::from(b) | 0x5a5a_0000) };
        assert!(all.iter().all(|&b| bits(&[one(b)]) == bits(&[f16::from_bits(b).to_f32()])));
    }
}

/// Every e4m3 value is loaded exactly, and stored again as it was; what lies between is rounded.
#[test]
fn eight_bit_floats_load_and_store() {
    let all: Vec<u8> = (0..=255).collect();
    let exact: Vec<f32> = all.iter().map(|&b| attn_compiler::f8::decode(b)).collect();
    let between: Vec<f32> = (0..256).map(|n| exact[n] * (1.0 + n as f32 / 2000.0)).collect();
    for (isa, t) in tables() {
        let (mut wide, mut back, mut near) = (vec![0.0f32; 256], vec![0u8; 256], vec![0u8; 256]);
        let code = DType::F8E4M3 as u32;
        // SAFETY: 256 values everywhere.
        unsafe {
            (t.load_rows())(wide.as_mut_ptr(), 256, all.as_ptr(), code, 1, 256, 256, 1);
            let null = std::ptr::null();
            (t.store_rows())(wide.as_ptr(), 256, back.as_mut_ptr(), code, 1, 256, 256, 1, null);
            (t.store_rows())(between.as_ptr(), 256, near.as_mut_ptr(), code, 1, 256, 256, 1, null);
        }
        assert_eq!(bits(&wide), bits(&exact), "{isa}");
        assert_eq!(back, all, "{isa}");
        let wanted: Vec<u8> = between.iter().map(|&x| attn_compiler::f8::encode(x)).collect();
        assert_eq!(near, wanted, "{isa}");
    }
}

/// Ties, subnormals, overflow, NaN and a sweep, against the crate that the world uses.
#[test]
fn halves_round_to_nearest_even() {
    let mut values: Vec<f32> = (0..=u16::MAX)
        .flat_map(|b| {
            let (x, next) = (f16::from_bits(b).to_f32(), f16::from_bits(b.wrapping_add(1)).to_f32());
            let middle = x / 2.0 + next / 2.0;
            let (y, after) = (bf16::from_bits(b).to_f32(), bf16::from_bits(b.wrapping_add(1)).to_f32());
            [x, middle, f32::from_bits(middle.to_bits() ^ 1), y, y / 2.0 + after / 2.0]
        })
        .collect();
    values.extend((0..1u32 << 16).map(|i| f32::from_bits(i.wrapping_mul(0x0001_000f))));
    values.extend([65_504.0, 65_519.99, 65_520.0, 1e30, f32::MAX, 2f32.powi(-25), 2f32.powi(-24), 5.97e-8]);
    let n = values.len();
    for (dtype, exact) in [
        (DType::F16, values.iter().map(|&x| f16::from_f32(x).to_bits()).collect::<Vec<_>>()),
        (DType::Bf16, values.iter().map(|&x| bf16::from_f32(x).to_bits()).collect()),
    ] {
        for (isa, t) in tables() {
            let mut got = vec![0u16; n];
            let (to, len) = (got.as_mut_ptr().cast(), n as i64);
            // SAFETY: n values on both sides.
            unsafe {
                (t.store_rows())(values.as_ptr(), len, to, dtype as u32, 1, len, len, 1, std::ptr::null())
            };
            for (i, (&got, &exact)) in got.iter().zip(&exact).enumerate() {
                let nan =
                    values[i].is_nan() && got & 0x7fff > if dtype == DType::F16 { 0x7c00 } else { 0x7f80 };
                assert!(
                    got == exact || nan,
                    "{isa} {dtype}: {:e} became {got:#x}, not {exact:#x}",
                    values[i]
                );
            }
        }
    }
}

#[test]
fn integers_saturate_and_round() {
    let values = [0.5f32, 1.5, -1.5, 127.4, 300.0, -300.0, f32::NAN, 1e20];
    let mut dst = Stored::new(DType::I8, 8);
    for (_, t) in tables() {
        let to = dst.bytes.as_mut_ptr();
        // SAFETY: eight values on both sides.
        unsafe { (t.store_rows())(values.as_ptr(), 8, to, DType::I8 as u32, 1, 8, 8, 1, std::ptr::null()) };
        assert_eq!(
            (0..8).map(|i| dst.get(i)).collect::<Vec<_>>(),
            [0.0, 2.0, -2.0, 127.0, 127.0, -128.0, 0.0, 127.0]
        );
    }
}

#[test]
fn unknown_codes_write_nothing() {
    let src = [1.0f32; 16];
    for (_, t) in tables() {
        let mut dst = [5.0f32; 64];
        // SAFETY: an unknown code touches nothing.
        unsafe {
            (t.load_rows())(dst.as_mut_ptr(), 16, src.as_ptr().cast(), 99, 1, 16, 16, 1);
            (t.pack_k())(dst.as_mut_ptr(), src.as_ptr().cast(), 99, 1, 1, 1, 1);
            (t.store_rows())(src.as_ptr(), 16, dst.as_mut_ptr().cast(), 99, 1, 16, 16, 1, std::ptr::null());
        }
        assert_eq!(dst, [5.0; 64]);
    }
}
