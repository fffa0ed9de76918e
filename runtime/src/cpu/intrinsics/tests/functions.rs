//! `vmath`, `math1`, `pow` against f64.

use super::{bits, same_bits, tables};
use attn_compiler::artifact::MathFn;

const ALL: [MathFn; 8] = [
    MathFn::Exp,
    MathFn::Exp2,
    MathFn::Log,
    MathFn::Log2,
    MathFn::Tanh,
    MathFn::Sigmoid,
    MathFn::Sin,
    MathFn::Cos,
];

fn exact(f: MathFn, x: f64) -> f64 {
    match f {
        MathFn::Exp => x.exp(),
        MathFn::Exp2 => x.exp2(),
        MathFn::Log if x <= 0.0 => f64::NEG_INFINITY,
        MathFn::Log2 if x <= 0.0 => f64::NEG_INFINITY,
        MathFn::Log => x.ln(),
        MathFn::Log2 => x.log2(),
        MathFn::Tanh => x.tanh(),
        MathFn::Sigmoid if x < 0.0 => x.exp() / (1.0 + x.exp()),
        MathFn::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        MathFn::Sin => x.sin(),
        MathFn::Cos => x.cos(),
    }
}

/// The distance of `got` from `exact` in units of the last place of an f32 of that size.
fn ulps(got: f32, exact: f64) -> f64 {
    if exact.is_nan() || got.is_nan() {
        return if exact.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    let rounded = exact as f32;
    if got == rounded {
        return 0.0;
    }
    if rounded.is_infinite() || got.is_infinite() {
        return f64::INFINITY;
    }
    let exponent = exact.abs().log2().floor().max(-126.0) as i32;
    (f64::from(got) - exact).abs() / 2f64.powi(exponent - 23)
}

/// All magnitudes, in steps of 509 units in the last place, both signs; more densely around 0 and 1.
fn sweep() -> Vec<f32> {
    let coarse = (0..0x7f80_0000u32).step_by(509).map(f32::from_bits);
    let mut xs: Vec<f32> = coarse.flat_map(|x| [x, -x]).collect();
    xs.extend((0..200_000u32).map(|i| f32::from_bits(0x3f70_0000 + 11 * i)));
    xs.extend((-100_000..100_000).map(|i| i as f32 * 1.1e-3));
    xs.extend([f32::INFINITY, -f32::INFINITY, f32::NAN, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 0.0, -0.0]);
    // Multiples of pi/2 and their neighbours.
    xs.extend((1..100_000).map(|i| (f64::from(i) * std::f64::consts::FRAC_PI_2) as f32));
    xs
}

#[test]
fn functions_are_within_two_ulps_and_agree_everywhere() {
    let xs = sweep();
    for f in ALL {
        let got = same_bits(&format!("{f:?}"), |t| {
            let (mut ys, n) = (xs.clone(), xs.len() as i64);
            // SAFETY: a row of that length.
            unsafe { (t.vmath())(f as u32, ys.as_mut_ptr(), n, 1, n) };
            ys
        });
        let (mut worst, mut at) = (0.0, 0.0);
        for (&x, &y) in xs.iter().zip(&got) {
            let e = ulps(y, exact(f, f64::from(x)));
            if e > worst {
                (worst, at) = (e, x);
            }
        }
        println!("{f:?}: {worst:.3} ulp at {at:e}");
        assert!(worst <= 2.0, "{f:?}: {worst} ulp at {at:e}");
    }
}

#[test]
fn one_value_has_the_bits_of_many() {
    let xs: Vec<f32> = sweep().into_iter().step_by(1009).collect();
    for (isa, t) in tables() {
        for f in ALL {
            let mut ys = xs.clone();
            let n = ys.len() as i64;
            // SAFETY: a row of that length.
            unsafe { (t.vmath())(f as u32, ys.as_mut_ptr(), n, 1, n) };
            // SAFETY: no pointers.
            let alone: Vec<f32> = xs.iter().map(|&x| unsafe { (t.math1())(f as u32, x) }).collect();
            assert_eq!(bits(&ys), bits(&alone), "{isa} {f:?}");
        }
    }
}

#[test]
fn rows_end_where_they_should() {
    for cols in 0..40 {
        for (isa, t) in tables() {
            for (rows, lds) in [(1, cols + 1), (3, cols + 5), (3, cols)] {
                let mut tile = vec![1.0f32; rows * lds + 1];
                // SAFETY: the rows are there.
                unsafe {
                    (t.vmath())(MathFn::Exp2 as u32, tile.as_mut_ptr(), lds as i64, rows as i64, cols as i64)
                };
                for (at, &y) in tile.iter().enumerate() {
                    let inside = at < rows * lds && at % lds < cols;
                    assert_eq!(y, if inside { 2.0 } else { 1.0 }, "{isa}, {rows} x {cols} of {lds}: {at}");
                }
            }
        }
    }
}

#[test]
fn unknown_functions_are_nan() {
    for (_, t) in tables() {
        let mut y = [0.0f32; 3];
        // SAFETY: three values.
        unsafe {
            (t.vmath())(77, y.as_mut_ptr(), 3, 1, 3);
            assert!((t.math1())(77, 1.0).is_nan());
        }
        assert!(y.iter().all(|y| y.is_nan()));
    }
}

#[test]
fn powers() {
    for (_, t) in tables() {
        // SAFETY: no pointers.
        let pow = |x: f32, y: f32| unsafe { (t.pow())(x, y) };
        for (x, y) in [(2.0, 10.0), (10_000.0, -0.37), (0.5, 140.0), (3.0, 0.0), (1.1, 333.0), (-2.0, 3.0)] {
            let exact = f64::from(x).powf(f64::from(y));
            assert!(ulps(pow(x, y), exact) <= 0.51, "{x} ^ {y}");
        }
        assert!(pow(-2.0, 0.5).is_nan());
        assert_eq!(pow(0.0, -1.0), f32::INFINITY);
    }
}
