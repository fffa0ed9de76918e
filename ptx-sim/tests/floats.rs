//! Floating-point instructions and conversions against exact results.

mod common;

use common::eval::{f32s, f64s, one, r16, r32, r64};

fn f(snippet: &str, a: f32, b: f32, c: f32) -> f32 {
    f32s(snippet, &[[a, b, c]])[0]
}

const TINY: f32 = f32::from_bits(1);

#[test]
fn rounding_modes() {
    // 1 + 2^-24 lies halfway; 1 + 3 * 2^-25 above.
    let (half, more) = (2f32.powi(-24), 3.0 * 2f32.powi(-25));
    let up = 1.0 + f32::EPSILON;
    assert_eq!(f("add.rn.f32 %f3, %f0, %f1;", 1.0, half, 0.0), 1.0);
    assert_eq!(f("add.rn.f32 %f3, %f0, %f1;", 1.0, more, 0.0), up);
    assert_eq!(f("add.rz.f32 %f3, %f0, %f1;", 1.0, more, 0.0), 1.0);
    assert_eq!(f("add.rp.f32 %f3, %f0, %f1;", 1.0, TINY, 0.0), up);
    assert_eq!(f("add.rm.f32 %f3, %f0, %f1;", 1.0, -TINY, 0.0), 1.0 - f32::EPSILON / 2.0);
    assert_eq!(f("sub.rp.f32 %f3, %f0, %f1;", -1.0, TINY, 0.0), -1.0);
    assert_eq!(f("mul.rp.f32 %f3, %f0, %f1;", up, up, 0.0), 1.0 + 3.0 * f32::EPSILON);
    assert_eq!(f("mul.rz.f32 %f3, %f0, %f1;", up, up, 0.0), 1.0 + 2.0 * f32::EPSILON);
    assert_eq!(f("fma.rn.f32 %f3, %f0, %f1, %f2;", up, up, -1.0), up.mul_add(up, -1.0));
    assert_eq!(f("fma.rm.f32 %f3, %f0, %f1, %f2;", 1.0, 1.0, -TINY), 1.0 - f32::EPSILON / 2.0);
    assert_eq!(f("add.rz.f32 %f3, %f0, %f1;", f32::MAX, f32::MAX, 0.0), f32::MAX);
    assert_eq!(f("div.rn.f32 %f3, %f0, %f1;", 1.0, 3.0, 0.0), 1.0 / 3.0);
    assert_eq!(f("sqrt.rn.f32 %f3, %f0;", 2.0, 0.0, 0.0), 2f32.sqrt());
    assert_eq!(f64s("fma.rn.f64 %d3, %d0, %d1, %d2;", &[[0.1, 10.0, -1.0]])[0], 0.1f64.mul_add(10.0, -1.0));
}

#[test]
fn flushing_and_saturation() {
    assert_eq!(f("add.ftz.f32 %f3, %f0, %f1;", TINY, 0.0, 0.0), 0.0);
    assert_eq!(f("add.f32 %f3, %f0, %f1;", TINY, 0.0, 0.0), TINY);
    let least = f32::MIN_POSITIVE;
    assert_eq!(f("mul.ftz.f32 %f3, %f0, %f1;", -least, 0.5, 0.0).to_bits(), (-0f32).to_bits());
    assert_eq!(f("fma.rn.ftz.f32 %f3, %f0, %f1, %f2;", least, 0.5, TINY), 0.0);
    assert_eq!(f("add.sat.f32 %f3, %f0, %f1;", 0.7, 0.7, 0.0), 1.0);
    assert_eq!(f("add.sat.f32 %f3, %f0, %f1;", -0.7, 0.1, 0.0), 0.0);
    assert_eq!(f("mul.sat.f32 %f3, %f0, %f1;", f32::NAN, 1.0, 0.0), 0.0);
    assert_eq!(f("ex2.approx.ftz.f32 %f3, %f0;", -140.0, 0.0, 0.0), 0.0);
    assert_eq!(f("ex2.approx.f32 %f3, %f0;", -140.0, 0.0, 0.0), 2f32.powi(-140));
}

#[test]
fn minima_and_maxima() {
    let nan = f32::NAN;
    assert_eq!(f("min.f32 %f3, %f0, %f1;", nan, 2.0, 0.0), 2.0);
    assert!(f("min.NaN.f32 %f3, %f0, %f1;", nan, 2.0, 0.0).is_nan());
    assert_eq!(f("max.f32 %f3, %f0, %f1;", 1.0, nan, 0.0), 1.0);
    assert_eq!(f("max.f32 %f3, %f0, %f1;", -0.0, 0.0, 0.0).to_bits(), 0);
    assert_eq!(f("min.f32 %f3, %f0, %f1;", 0.0, -0.0, 0.0).to_bits(), (-0f32).to_bits());
    assert_eq!(f("max.xorsign.abs.f32 %f3, %f0, %f1;", -3.0, 2.0, 0.0), -3.0);
    assert_eq!(f("min.xorsign.abs.f32 %f3, %f0, %f1;", -3.0, -2.0, 0.0), 2.0);
    assert_eq!(f("copysign.f32 %f3, %f0, %f1;", -3.0, 2.0, 0.0), -2.0);
    assert_eq!(f("abs.f32 %f3, %f0;", -3.0, 0.0, 0.0), 3.0);
    assert_eq!(f("neg.f32 %f3, %f0;", -3.0, 0.0, 0.0), 3.0);
}

#[test]
fn functions() {
    let near = |snippet: &str, x: f32, want: f64| {
        let got = f64::from(f(snippet, x, 0.0, 0.0));
        assert!((got - want).abs() <= want.abs() * 1e-6, "{snippet} of {x}: {got}, expected {want}");
    };
    for x in [0.25f32, 0.7, 1.0, 3.5] {
        let d = f64::from(x);
        near("ex2.approx.ftz.f32 %f3, %f0;", x, d.exp2());
        near("lg2.approx.f32 %f3, %f0;", x, d.log2());
        near("rcp.approx.ftz.f32 %f3, %f0;", x, 1.0 / d);
        near("rsqrt.approx.f32 %f3, %f0;", x, 1.0 / d.sqrt());
        near("sqrt.approx.f32 %f3, %f0;", x, d.sqrt());
        near("tanh.approx.f32 %f3, %f0;", x, d.tanh());
        near("sin.approx.f32 %f3, %f0;", x, d.sin());
        near("cos.approx.f32 %f3, %f0;", x, d.cos());
        near("div.approx.f32 %f3, 0f3F800000, %f0;", x, 1.0 / d);
    }
    assert_eq!(f("ex2.approx.f32 %f3, %f0;", f32::NEG_INFINITY, 0.0, 0.0), 0.0);
    assert_eq!(f("lg2.approx.f32 %f3, %f0;", 0.0, 0.0, 0.0), f32::NEG_INFINITY);
}

#[test]
fn halves() {
    // f16: 1 is 0x3C00, 2 is 0x4000; bf16: 1 is 0x3F80, 2 is 0x4000, 3 is 0x4040.
    let h = |line: &str, a: u64, b: u64, c: u64| r16(line, &[[a, b, c]])[0];
    assert_eq!(h("add.rn.f16 %h3, %h0, %h1;", 0x3C00, 0x3C00, 0), 0x4000);
    // 2048 + 1 is a tie in f16: to even.
    assert_eq!(h("add.rn.f16 %h3, %h0, %h1;", 0x6800, 0x3C00, 0), 0x6800);
    assert_eq!(h("fma.rn.bf16 %h3, %h0, %h1, %h2;", 0x3F80, 0x4000, 0x3F80), 0x4040);
    assert_eq!(h("max.bf16 %h3, %h0, %h1;", 0xBF80, 0x3F80, 0), 0x3F80);
    assert_eq!(h("neg.bf16 %h3, %h0;", 0x3F80, 0, 0), 0xBF80);
    let p = |line: &str, a: u32, b: u32| one(line, a, b, 0);
    assert_eq!(p("add.rn.f16x2 %r3, %r0, %r1;", 0x3C00_4000, 0x3C00_3C00), 0x4000_4200);
    assert_eq!(p("mul.rn.bf16x2 %r3, %r0, %r1;", 0x4000_4040, 0x4000_3F80), 0x4080_4040);
    assert_eq!(p("fma.rn.relu.bf16x2 %r3, %r0, %r1, %r0;", 0xBF80_3F80, 0x3F80_3F80), 0x0000_4000);
    assert_eq!(p("max.f16x2 %r3, %r0, %r1;", 0xBC00_3C00, 0x3C00_4000), 0x3C00_4000);
    assert_eq!(p("abs.bf16x2 %r3, %r0;", 0xBF80_BF80, 0), 0x3F80_3F80);
}

#[test]
fn float_conversions() {
    let p = |line: &str, a: f32, b: f32| one(line, a.to_bits(), b.to_bits(), 0);
    // The first operand goes into the upper half.
    assert_eq!(p("cvt.rn.bf16x2.f32 %r3, %f0, %f1;", 1.0, 2.0), 0x3F80_4000);
    assert_eq!(p("cvt.rn.f16x2.f32 %r3, %f0, %f1;", 1.0, 2.0), 0x3C00_4000);
    assert_eq!(p("cvt.rn.relu.bf16x2.f32 %r3, %f0, %f1;", -1.0, 2.0), 0x0000_4000);
    // 1 + 2^-8 is a tie in bf16, 1 + 3 * 2^-8 a tie that goes up.
    let tie = 1.0 + 2f32.powi(-8);
    assert_eq!(p("cvt.rn.bf16x2.f32 %r3, %f0, %f1;", tie, 1.0 + 3.0 * 2f32.powi(-8)), 0x3F80_3F82);
    assert_eq!(p("cvt.rz.bf16x2.f32 %r3, %f0, %f1;", 1.999, -1.999), 0x3FFF_BFFF);
    let bits = |x: f32| u64::from(x.to_bits());
    assert_eq!(r16("cvt.rn.bf16.f32 %h3, %f0;", &[[bits(tie), 0, 0]])[0], 0x3F80);
    assert_eq!(r16("cvt.rn.f16.f32 %h3, %f0;", &[[bits(65520.0), 0, 0]])[0], 0x7C00);
    assert_eq!(r32("cvt.f32.bf16 %f3, %h0; mov.b32 %r3, %f3;", &[[0x4040, 0, 0]])[0], 3f32.to_bits());
    assert_eq!(
        r32("cvt.f32.f16 %f3, %h0; mov.b32 %r3, %f3;", &[[0x0001, 0, 0]])[0],
        2f32.powi(-24).to_bits()
    );
    // tf32 keeps 10 bits of the fraction; .rna rounds ties away.
    assert_eq!(p("cvt.rna.tf32.f32 %r3, %f0;", 1.0 + 2f32.powi(-11), 0.0), (1.0 + 2f32.powi(-10)).to_bits());
    assert_eq!(p("cvt.rni.f32.f32 %f3, %f0; mov.b32 %r3, %f3;", 2.5, 0.0), 2f32.to_bits());
    assert_eq!(p("cvt.rpi.ftz.f32.f32 %f3, %f0; mov.b32 %r3, %f3;", 2.1, 0.0), 3f32.to_bits());
    assert_eq!(p("cvt.sat.f32.f32 %f3, %f0; mov.b32 %r3, %f3;", 2.1, 0.0), 1f32.to_bits());
    // e4m3: 1 is 0x38, 448 is 0x7E (saturated), -0.5 is 0xB0, 2^-9 is the least subnormal.
    assert_eq!(p("cvt.rn.satfinite.e4m3x2.f32 %h3, %f0, %f1; cvt.u32.u16 %r3, %h3;", 1.0, 1000.0), 0x387E);
    assert_eq!(
        p("cvt.rn.satfinite.e4m3x2.f32 %h3, %f0, %f1; cvt.u32.u16 %r3, %h3;", -0.5, 2f32.powi(-9)),
        0xB001
    );
    assert_eq!(r32("cvt.rn.f16x2.e4m3x2 %r3, %h0;", &[[0x38B0, 0, 0]])[0], 0x3C00_B800);
    // e5m2: 1 is 0x3C.
    assert_eq!(p("cvt.rn.satfinite.e5m2x2.f32 %h3, %f0, %f1; cvt.u32.u16 %r3, %h3;", 1.0, 2.0), 0x3C40);
}

#[test]
fn integer_conversions() {
    let p = |line: &str, a: f32| one(line, a.to_bits(), 0, 0);
    assert_eq!(p("cvt.rzi.s32.f32 %r3, %f0;", -2.9), -2i32 as u32);
    assert_eq!(p("cvt.rni.s32.f32 %r3, %f0;", 3.5), 4);
    assert_eq!(p("cvt.rmi.s32.f32 %r3, %f0;", -2.1), -3i32 as u32);
    assert_eq!(p("cvt.rzi.s32.f32 %r3, %f0;", 1e20), i32::MAX as u32);
    assert_eq!(p("cvt.rzi.u32.f32 %r3, %f0;", -5.0), 0);
    assert_eq!(p("cvt.rzi.s32.f32 %r3, %f0;", f32::NAN), 0);
    let i = |line: &str, a: u32| one(line, a, 0, 0);
    assert_eq!(i("cvt.rn.f32.s32 %f3, %r0; mov.b32 %r3, %f3;", -7i32 as u32), (-7f32).to_bits());
    assert_eq!(i("cvt.rn.f32.u32 %f3, %r0; mov.b32 %r3, %f3;", u32::MAX), 4_294_967_296f32.to_bits());
    assert_eq!(i("cvt.rz.f32.u32 %f3, %r0; mov.b32 %r3, %f3;", u32::MAX), 4_294_967_040f32.to_bits());
    assert_eq!(i("cvt.u32.u8 %r3, %r0;", 0x1234_56F8), 0xF8);
    assert_eq!(i("cvt.s32.s8 %r3, %r0;", 0x1234_56F8), 0xFFFF_FFF8);
    assert_eq!(i("cvt.sat.u8.s32 %r3, %r0;", 300), 255);
    assert_eq!(i("cvt.sat.s8.s32 %r3, %r0;", -300i32 as u32), -128i32 as u32);
    assert_eq!(r64("cvt.s64.s32 %rd3, %r0;", &[[0xFFFF_FFFE, 0, 0]])[0], -2i64 as u64);
    assert_eq!(r64("cvt.u64.u32 %rd3, %r0;", &[[0xFFFF_FFFE, 0, 0]])[0], 0xFFFF_FFFE);
    let big = (1u64 << 53) + 1;
    let got = r64("cvt.rn.f64.u64 %d3, %rd0; mov.b64 %rd3, %d3;", &[[big, 0, 0]])[0];
    assert_eq!(f64::from_bits(got), 9_007_199_254_740_992.0);
    assert_eq!(
        f64s("cvt.rn.f32.f64 %f3, %d0; cvt.f64.f32 %d3, %f3;", &[[0.1, 0.0, 0.0]])[0],
        f64::from(0.1f32)
    );
}
