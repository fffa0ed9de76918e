//! `gemm_columns` and `gemm_rows`.

use super::{Noise, bits, same_bits};
use crate::cpu::intrinsics::IntrinsicTable;
use attn_compiler::artifact::DType;

/// A product with a tensor of which rows lie `stride` elements apart, elements `step`.
struct Case {
    rows: usize,
    k: usize,
    n: usize,
    dtype: DType,
    step: usize,
    accumulate: bool,
    a: Vec<f32>,
    c: Vec<f32>,
    row_scale: Vec<f32>,
    /// Row-major values of the tensor, exact in every type.
    b: Vec<f32>,
    /// Rows and elements of the tensor.
    shape: (usize, usize),
}

impl Case {
    /// `columns`: the tensor has a row for each column of B, else one for each row.
    fn new((rows, k, n): (usize, usize, usize), columns: bool, dtype: DType, step: usize) -> Case {
        let mut noise = Noise((rows * 65_536 + k * 256 + n) as u32);
        let shape = if columns { (n, k) } else { (k, n) };
        Case {
            rows,
            k,
            n,
            dtype,
            step,
            accumulate: (rows + k) % 2 == 1,
            a: noise.vec(rows * k, 1.0),
            c: noise.vec(rows * n, 1.0),
            row_scale: noise.vec(rows, 2.0),
            b: noise.vec(k * n, 8.0).iter().map(|x| x.round()).collect(),
            shape,
        }
    }

    /// The tensor as it is stored, elements that are not of it NaN (or 77).
    fn stored(&self) -> (Vec<u8>, usize) {
        let (rows, len) = self.shape;
        let stride = len * self.step + 3;
        let size = self.dtype.size();
        let mut bytes = vec![0u8; ((rows.max(1) - 1) * stride + len.max(1) * self.step) * size];
        let code = |x: f32| -> Vec<u8> {
            match self.dtype {
                DType::F32 => x.to_le_bytes().to_vec(),
                DType::Bf16 => ((x.to_bits() >> 16) as u16).to_le_bytes().to_vec(),
                DType::F16 => super::super::convert::f32_to_f16(x).to_le_bytes().to_vec(),
                DType::I8 if x.is_nan() => vec![77],
                DType::I8 => vec![x as i8 as u8],
                DType::F8E4M3 => vec![attn_compiler::f8::encode(x)],
                other => panic!("{other} is not tested"),
            }
        };
        for chunk in bytes.chunks_mut(size) {
            chunk.copy_from_slice(&code(f32::NAN));
        }
        for r in 0..rows {
            for e in 0..len {
                let at = (r * stride + e * self.step) * size;
                bytes[at..at + size].copy_from_slice(&code(self.b[r * len + e]));
            }
        }
        (bytes, stride)
    }

    /// Element (t, x) of B.
    fn right(&self, t: usize, x: usize) -> f32 {
        if self.shape == (self.n, self.k) { self.b[x * self.k + t] } else { self.b[t * self.n + x] }
    }

    /// Left operand and C with padded leading dimensions; what lies behind must survive or not be read.
    fn tiles(&self) -> (Vec<f32>, usize, Vec<f32>, usize) {
        let (lda, ldc) = (self.k.next_multiple_of(16) + 16, self.n.next_multiple_of(16) + 16);
        let (mut a, mut c) = (vec![f32::NAN; self.rows * lda], vec![7.0; self.rows * ldc]);
        for r in 0..self.rows {
            a[r * lda..][..self.k].copy_from_slice(&self.a[r * self.k..][..self.k]);
            c[r * ldc..][..self.n].copy_from_slice(&self.c[r * self.n..][..self.n]);
        }
        (a, lda, c, ldc)
    }

    fn run(&self, t: &IntrinsicTable, columns: bool, skip: bool) -> Vec<f32> {
        let ((bytes, stride), (a, lda, mut c, ldc)) = (self.stored(), self.tiles());
        let [ldc_, lda_, rows, k, n] = [ldc, lda, self.rows, self.k, self.n].map(|x| x as i64);
        let (by_row, by_element) = (stride as i64, self.step as i64);
        let (pa, pb, dtype) = (a.as_ptr(), bytes.as_ptr(), self.dtype as u32);
        let (add, skip) = (i32::from(self.accumulate), i32::from(skip));
        let scale = if self.accumulate { self.row_scale.as_ptr() } else { std::ptr::null() };
        let product = |pc: *mut f32, next: *const u8| {
            // SAFETY: the buffers have the sizes that the arguments say; what is asked for need not be there.
            unsafe {
                if columns {
                    t.gemm_columns()(
                        pc, ldc_, pa, lda_, pb, dtype, by_row, by_element, rows, k, n, add, next,
                    );
                } else {
                    let f = t.gemm_rows();
                    f(pc, ldc_, pa, lda_, pb, dtype, by_row, by_element, rows, k, n, scale, add, skip, next);
                }
            }
        };
        let mut asking = c.clone();
        product(c.as_mut_ptr(), std::ptr::null());
        product(asking.as_mut_ptr(), pb.wrapping_add(1 << 20));
        assert_eq!(bits(&c), bits(&asking), "asking for what is read next changes no bit");
        let used = if columns { self.n } else { self.n.next_multiple_of(16) };
        for r in 0..self.rows {
            assert!(c[r * ldc + used..(r + 1) * ldc].iter().all(|&x| x == 7.0), "wrote beyond column {used}");
        }
        (0..self.rows).flat_map(|r| c[r * ldc..][..self.n].to_vec()).collect()
    }

    fn check(&self, columns: bool, skip: bool) {
        let what = format!("{} x {} x {} {} {}", self.rows, self.k, self.n, self.dtype, self.step);
        let got = same_bits(&what, |t| self.run(t, columns, skip));
        for (at, got) in got.iter().enumerate() {
            let (r, x) = (at / self.n, at % self.n);
            let scale = if columns { 1.0 } else { f64::from(self.row_scale[r]) };
            let old = if self.accumulate { f64::from(self.c[at]) * scale } else { 0.0 };
            let (mut sum, mut size) = (old, old.abs());
            for t in 0..self.k {
                let p = f64::from(self.a[r * self.k + t]) * f64::from(self.right(t, x));
                (sum, size) = (sum + p, size + p.abs());
            }
            let bound = size * (self.k + 2) as f64 * 2f64.powi(-24) + 1e-30;
            assert!((f64::from(*got) - sum).abs() <= bound, "{what}: element {at} is {got}, exact {sum}");
        }
    }
}

const TYPES: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::I8, DType::F8E4M3];

/// AVX-512 loads rows of 64 and 128 elements whole, others meet them part by part.
#[test]
fn products_over_odd_sizes_types_and_strides() {
    for rows in [0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 32] {
        for (k, n) in [(0, 5), (1, 1), (15, 17), (16, 4), (33, 40), (64, 3), (64, 37), (128, 130), (2, 100)] {
            for (m, dtype) in TYPES.into_iter().enumerate() {
                let step = 1 + usize::from((rows + m) % 3 == 0);
                Case::new((rows, k, n), true, dtype, step).check(true, false);
                for skip in [false, true] {
                    Case::new((rows, k, n), false, dtype, step).check(false, skip);
                }
            }
        }
    }
}

/// Values where they lie give the bits that packed ones give, as long as the first level holds them.
#[test]
fn rows_give_the_bits_of_packed_panels() {
    for (rows, k, n) in [(1, 16, 64), (4, 7, 130), (9, 20, 48)] {
        let case = Case { accumulate: true, ..Case::new((rows, k, n), false, DType::F32, 1) };
        let direct = same_bits("rows", |t| case.run(t, false, false));
        let packed = same_bits("panels", |t| {
            let ((bytes, stride), (a, lda, mut c, ldc)) = (case.stored(), case.tiles());
            let panel_stride = k * 32;
            let mut b = vec![0f32; n.div_ceil(32) * panel_stride];
            let [ldc_, lda_, ps, r, k_, n_] = [ldc, lda, panel_stride, rows, k, n].map(|x| x as i64);
            // SAFETY: the buffers have the sizes that the arguments say.
            unsafe {
                t.pack_v()(b.as_mut_ptr(), ps, bytes.as_ptr(), DType::F32 as u32, k_, n_, stride as i64, 1);
                let scale = case.row_scale.as_ptr();
                t.gemm()(c.as_mut_ptr(), ldc_, a.as_ptr(), lda_, b.as_ptr(), ps, r, k_, n_, scale, 1);
            }
            (0..rows).flat_map(|r| c[r * ldc..][..n].to_vec()).collect()
        });
        assert_eq!(bits(&direct), bits(&packed), "{rows} x {k} x {n}");
    }
}

#[test]
fn skipped_weights_hide_what_they_meet() {
    for rows in [1, 2, 4, 9] {
        let (k, n) = (12, 50);
        let mut case = Case::new((rows, k, n), false, DType::F32, 1);
        for r in 0..rows {
            case.a[r * k + 5] = 0.0;
            case.a[r * k + 7] = -0.0;
        }
        case.b[5 * n..6 * n].fill(f32::NAN);
        case.b[7 * n..8 * n].fill(f32::INFINITY);
        let got = same_bits("skip", |t| case.run(t, false, true));
        assert!(got.iter().all(|x| x.is_finite()));
        let plain = same_bits("plain", |t| case.run(t, false, false));
        assert!(plain.iter().all(|x| x.is_nan()));
    }
}
