//! Steps between tiles and of vectors: edges, sentinels, and what the compiler's own tests do not reach.

use super::{Noise, bits, same_bits, tables};
use attn_compiler::artifact::DType;
use attn_compiler::expr::rand::word;

/// Sizes below, at and above a vector, and none.
const SIZES: [(usize, usize); 9] =
    [(1, 1), (16, 16), (17, 15), (3, 64), (64, 3), (33, 130), (5, 80), (0, 4), (4, 0)];

#[test]
fn filled_vectors() {
    for n in [0usize, 16, 64, 4096] {
        for value in [0.0f32, -1.5, f32::NEG_INFINITY] {
            let got = same_bits("fill", |t| {
                let mut dst = vec![9.0f32; n + 16];
                // SAFETY: there is room.
                unsafe { (t.fill())(dst.as_mut_ptr(), n as i64, value) };
                dst
            });
            let kept = |(at, x): (usize, &f32)| *x == if at < n { value } else { 9.0 };
            assert!(got.iter().enumerate().all(kept), "{n} of {value}");
        }
    }
}

#[test]
fn transposed_tiles() {
    for (rows, cols) in SIZES {
        let (lds, ldd) = (cols.next_multiple_of(16).max(16), rows.next_multiple_of(16) + 16);
        let mut src = Noise(1).vec(rows * lds, 2.0);
        if rows * cols > 0 {
            // A signalling NaN keeps its bits.
            src[0] = f32::from_bits(0x7f80_0001);
        }
        for (isa, t) in tables() {
            let mut dst = vec![9.0f32; (cols + 1) * ldd];
            let (r, c) = (rows as i64, cols as i64);
            // SAFETY: the tiles have the sizes that the arguments say.
            unsafe { (t.transpose())(dst.as_mut_ptr(), ldd as i64, src.as_ptr(), lds as i64, r, c) };
            for (at, got) in dst.iter().enumerate() {
                let (c, x) = (at / ldd, at % ldd);
                let inside = c < cols && x < rows;
                let expected = if inside { src[x * lds + c] } else { f32::from(u8::from(c == cols)) * 9.0 };
                assert_eq!(got.to_bits(), expected.to_bits(), "{isa} {rows} x {cols} ({c}, {x})");
            }
        }
    }
}

#[test]
fn scanned_rows_leave_other_columns_alone() {
    for (rows, cols) in SIZES.into_iter().chain([(9, 16 * 9 + 5)]) {
        for lds in [cols.next_multiple_of(16) + 16, 1] {
            if lds == 1 && cols != 1 {
                continue;
            }
            let src = Noise(2).vec(rows * lds, 1.0);
            let mut decay = Noise(3).vec(rows, 1.0);
            decay.iter_mut().take(1).for_each(|d| *d = f32::NAN);
            for decay in [Some(&decay), None] {
                let got = same_bits("scan_rows", |t| {
                    let mut s = src.clone();
                    let d = decay.map_or(std::ptr::null(), |d| d.as_ptr());
                    // SAFETY: the tile and the vector have the sizes that the arguments say.
                    unsafe { (t.scan_rows())(s.as_mut_ptr(), lds as i64, rows as i64, cols as i64, d) };
                    s
                });
                let mut expected = src.clone();
                for (r, c) in (1..rows).flat_map(|r| (0..cols).map(move |c| (r, c))) {
                    let d = decay.map_or(1.0, |d| d[r]);
                    expected[r * lds + c] = d.mul_add(expected[(r - 1) * lds + c], expected[r * lds + c]);
                }
                assert_eq!(bits(&got), bits(&expected), "{rows} x {cols}, lds {lds}");
            }
        }
    }
}

#[test]
fn reduced_rows_have_edges() {
    let reduce = |op: u32, row: &[f32]| {
        let got = same_bits("reduce_rows", |t| {
            let mut dst = [9.0f32; 2];
            let mut src = row.to_vec();
            src.resize(row.len().next_multiple_of(16).max(16), f32::NAN);
            let lds = src.len() as i64;
            // SAFETY: one row, one result.
            unsafe { (t.reduce_rows())(op, dst.as_mut_ptr(), src.as_ptr(), lds, 1, row.len() as i64) };
            dst.to_vec()
        });
        assert_eq!(got[1], 9.0);
        got[0]
    };
    let inf = f32::INFINITY;
    assert_eq!([0, 1, 2].map(|op| reduce(op, &[])), [-inf, 0.0, 0.0]);
    assert_eq!([0, 1, 2].map(|op| reduce(op, &[-3.0, -1.5])), [-1.5, -4.5, 3.0]);
    assert_eq!([0, 1, 2].map(|op| reduce(op, &[-inf; 20])), [-inf, -inf, inf]);
    assert_eq!([0, 1, 2].map(|op| reduce(op, &[-0.0; 3]).to_bits()), [0, 0, 0]);
    for at in [0, 5, 15, 16, 18] {
        let mut row = [1.0f32; 19];
        row[at] = f32::NAN;
        assert!([0, 1, 2].iter().all(|&op| reduce(op, &row).is_nan()), "{at}");
    }
    let many = Noise(4).vec(1000, 1.0);
    let exact: f64 = many.iter().map(|&x| f64::from(x)).sum();
    assert!((f64::from(reduce(1, &many)) - exact).abs() < 1e-4);
    assert_eq!(reduce(9, &many), 9.0, "an unknown code writes nothing");
}

#[test]
fn dropped_elements() {
    for (rows, cols) in SIZES {
        for (row0, col0, stream, offset, seed) in
            [(0, 0, 0, 0, 0), (5, 3, 1 << 33 | 7, -1, i64::MIN), (i64::from(u32::MAX), 1 << 34, 2, 3, -5)]
        {
            let lds = cols.next_multiple_of(16).max(16);
            let src = Noise(5).vec(rows * lds, 1.0);
            for threshold in [-1, 0, 1 << 31, i64::from(u32::MAX), 1 << 32, i64::MAX] {
                let got = same_bits("random", |t| {
                    let mut s = src.clone();
                    let (p, ld, r, c) = (s.as_mut_ptr(), lds as i64, rows as i64, cols as i64);
                    // SAFETY: the tile has the sizes that the arguments say.
                    unsafe { (t.random())(p, ld, r, c, row0, col0, stream, offset, seed, threshold, 1.5) };
                    s
                });
                for (at, (&got, &old)) in got.iter().zip(&src).enumerate() {
                    let (r, c) = ((at / lds) as i64, (at % lds) as i64);
                    let keep = i64::from(word(col0 + c, row0 + r, stream, offset, seed)) >= threshold;
                    let expected = if c >= cols as i64 { old } else { old * 1.5 * f32::from(u8::from(keep)) };
                    assert_eq!(got.abs().to_bits(), expected.abs().to_bits(), "{rows} x {cols} ({r}, {c})");
                }
            }
        }
    }
}

#[test]
fn selections_stay_inside_their_rows() {
    for (_, t) in tables() {
        let src = [1.0f32, 3.0, 2.0, 3.0];
        let mut indices = [77; 6];
        let mut ranks = [77; 5];
        let p = src.as_ptr().cast();
        // SAFETY: four elements, rows of five and four.
        unsafe { (t.top_k())(indices.as_mut_ptr(), ranks.as_mut_ptr(), p, DType::F32 as u32, 4, 1, 2, 5) };
        assert_eq!((indices, ranks), ([1, 3, -1, -1, -1, 77], [-1, 0, -1, 1, 77]));
        // SAFETY: as above; a width below m cuts m.
        unsafe { (t.top_k())(indices.as_mut_ptr(), ranks.as_mut_ptr(), p, DType::F32 as u32, 4, 1, 9, 1) };
        assert_eq!((indices[..2].to_vec(), ranks), (vec![1, 3], [-1, 0, -1, -1, 77]));
        let (mut hi, mut lo) = ([9.0f32; 3], [9.0f32; 3]);
        let x = [1e8f64, 1.0];
        // SAFETY: two elements on each side.
        unsafe {
            (t.prefix_sum())(hi.as_mut_ptr(), lo.as_mut_ptr(), x.as_ptr().cast(), DType::F64 as u32, 2, 1)
        };
        assert_eq!((hi, lo), ([1e8, 1e8, 9.0], [0.0, 1.0, 9.0]));
    }
}
