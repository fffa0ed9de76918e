//! `affine` and `band`.

use super::{Noise, same_bits};

#[test]
fn columns_and_diagonals_over_odd_sizes() {
    for (rows, cols) in [(1, 1), (3, 16), (5, 37), (9, 64), (0, 5)] {
        let lds = usize::next_multiple_of(cols, 16) + 16;
        let s = Noise(1).vec((rows * lds).max(1), 1.0);
        let (factor, term) = (Noise(2).vec(cols, 1.0), Noise(3).vec(rows + cols, 1.0));
        for (with_factor, step, keep_zero) in
            [(false, Some(0), false), (true, Some(-1), false), (true, None, true), (false, Some(-1), true)]
        {
            let mut s = s.clone();
            s.iter_mut().step_by(7).for_each(|x| *x = 0.0);
            let got = same_bits("affine", |t| {
                let mut out = s.clone();
                let first = if step == Some(-1) { rows.max(1) - 1 } else { 0 };
                let f = if with_factor { factor.as_ptr() } else { std::ptr::null() };
                let at = step.map_or(std::ptr::null(), |_| term[first..].as_ptr());
                let ([lds, rows, cols], step) = ([lds, rows, cols].map(|x| x as i64), step.unwrap_or(0));
                // SAFETY: the tile and the vectors have the sizes that the arguments say.
                unsafe {
                    (t.affine())(out.as_mut_ptr(), lds, rows, cols, 0.75, f, at, step, i32::from(keep_zero));
                }
                out
            });
            let mut expected = s.clone();
            for (r, c) in (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))) {
                let x = &mut expected[r * lds + c];
                let by = if with_factor { 0.75 * factor[c] } else { 0.75 };
                let y = match step {
                    None => *x * by,
                    Some(0) => x.mul_add(by, term[c]),
                    Some(_) => x.mul_add(by, term[rows - 1 - r + c]),
                };
                *x = if keep_zero && *x == 0.0 { 0.0 } else { y };
            }
            assert_eq!(super::bits(&got), super::bits(&expected), "{rows} x {cols} {step:?}");
        }
    }
}

#[test]
fn bands_that_stand_and_move() {
    for (rows, cols, period, from, to) in [
        (5, 37, 5, (-2, 1), (3, 1)),
        (6, 16, 2, (0, 0), (9, 1)),
        (7, 33, 0, (20, 0), (4, 0)),
        (3, 5, 3, (i64::MIN, 1), (i64::MAX, 1)),
        (0, 8, 1, (0, 0), (8, 0)),
    ] {
        let lds: usize = cols + 16;
        let s = Noise(1).vec(rows * lds, 1.0);
        let got = same_bits("band", |t| {
            let mut out = s.clone();
            let [lds, rows, cols] = [lds, rows, cols].map(|x| x as i64);
            // SAFETY: the tile has the size that the arguments say.
            unsafe { (t.band())(out.as_mut_ptr(), lds, rows, cols, period, from.0, from.1, to.0, to.1) };
            out
        });
        for (at, (&got, &x)) in got.iter().zip(&s).enumerate() {
            let (r, c) = ((at / lds) as i64, (at % lds) as i64);
            let p = if period > 0 { r % period } else { r };
            let end = |(at, step): (i64, i64)| i128::from(at) + i128::from(p * step);
            let off = c < cols as i64 && !(end(from)..end(to)).contains(&i128::from(c));
            assert_eq!(got.to_bits(), if off { f32::NEG_INFINITY } else { x }.to_bits(), "{r} {c}");
        }
    }
}
