//! Integer, logic and shift instructions against values worked out from the PTX ISA.

mod common;

use common::eval::{one, r32, r64};

/// Operand pairs with every kind of edge.
fn edges() -> Vec<[u64; 3]> {
    let list = [0u32, 1, 2, 7, 31, 32, 33, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x1234_5678];
    let mut out = Vec::new();
    for a in list {
        for b in [0u32, 1, 5, 31, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF] {
            out.push([u64::from(a), u64::from(b), 0x0F0F_0F0F]);
        }
    }
    out
}

/// Compares an instruction on all edges with a function.
fn same(snippet: &str, f: impl Fn(u32, u32, u32) -> u32) {
    for chunk in edges().chunks(64) {
        for (o, got) in chunk.iter().zip(r32(snippet, chunk)) {
            let want = f(o[0] as u32, o[1] as u32, o[2] as u32);
            assert_eq!(got, want, "{snippet} of {:#x}, {:#x}, {:#x}", o[0], o[1], o[2]);
        }
    }
}

#[test]
fn arithmetic() {
    same("add.s32 %r3, %r0, %r1;", |a, b, _| a.wrapping_add(b));
    same("add.sat.s32 %r3, %r0, %r1;", |a, b, _| (a as i32).saturating_add(b as i32) as u32);
    same("sub.u32 %r3, %r0, %r1;", |a, b, _| a.wrapping_sub(b));
    same("mul.lo.s32 %r3, %r0, %r1;", |a, b, _| a.wrapping_mul(b));
    same("mul.hi.s32 %r3, %r0, %r1;", |a, b, _| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
    same("mul.hi.u32 %r3, %r0, %r1;", |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    same("mad.lo.u32 %r3, %r0, %r1, %r2;", |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    same("min.s32 %r3, %r0, %r1;", |a, b, _| (a as i32).min(b as i32) as u32);
    same("max.u32 %r3, %r0, %r1;", |a, b, _| a.max(b));
    same("abs.s32 %r3, %r0;", |a, _, _| (a as i32).wrapping_abs() as u32);
    same("neg.s32 %r3, %r0;", |a, _, _| a.wrapping_neg());
    same("sad.u32 %r3, %r0, %r1, %r2;", |a, b, c| a.abs_diff(b).wrapping_add(c));
    same("or.b32 %r4, %r1, 1; div.s32 %r3, %r0, %r4;", |a, b, _| {
        (a as i32).wrapping_div((b | 1) as i32) as u32
    });
    same("or.b32 %r4, %r1, 1; rem.u32 %r3, %r0, %r4;", |a, b, _| a % (b | 1));
    same("add.cc.u32 %r4, %r0, %r1; addc.u32 %r3, 0, 0;", |a, b, _| u32::from(a.checked_add(b).is_none()));
    same("sub.cc.u32 %r4, %r0, %r1; subc.u32 %r3, %r2, 0;", |a, b, c| c.wrapping_sub(u32::from(a < b)));
}

#[test]
fn wide() {
    let got = r64("mul.wide.s32 %rd3, %r0, %r1;", &[[0xFFFF_FFFF, 5, 0], [0x8000_0000, 0x8000_0000, 0]]);
    assert_eq!(got, [-5i64 as u64, 1 << 62]);
    let got = r64("mad.wide.u32 %rd3, %r0, %r1, %rd2;", &[[0xFFFF_FFFF, 0xFFFF_FFFF, 7]]);
    assert_eq!(got, [0xFFFF_FFFEu64 << 32 | 8]);
    let got = r64("mul.hi.s64 %rd3, %rd0, %rd1;", &[[u64::MAX, 2, 0], [1 << 63, 1 << 63, 0]]);
    assert_eq!(got, [u64::MAX, 1 << 62]);
    let got = r64("shl.b64 %rd3, %rd0, %r1;", &[[3, 40, 0], [3, 64, 0]]);
    assert_eq!(got, [3 << 40, 0]);
}

#[test]
fn logic_and_shifts() {
    same("and.b32 %r3, %r0, %r1;", |a, b, _| a & b);
    same("xor.b32 %r3, %r0, %r1;", |a, b, _| a ^ b);
    same("not.b32 %r3, %r0;", |a, _, _| !a);
    same("cnot.b32 %r3, %r0;", |a, _, _| u32::from(a == 0));
    same("shl.b32 %r3, %r1, %r0;", |a, b, _| b.checked_shl(a).unwrap_or(0));
    same("shr.u32 %r3, %r1, %r0;", |a, b, _| b.checked_shr(a).unwrap_or(0));
    same("shr.s32 %r3, %r1, %r0;", |a, b, _| ((b as i32) >> a.min(31)) as u32);
    same("popc.b32 %r3, %r0;", |a, _, _| a.count_ones());
    same("clz.b32 %r3, %r0;", |a, _, _| a.leading_zeros());
    same("brev.b32 %r3, %r0;", |a, _, _| a.reverse_bits());
    same("bfind.u32 %r3, %r0;", |a, _, _| if a == 0 { u32::MAX } else { 31 - a.leading_zeros() });
    // 0x96 is the parity, 0xE8 the majority of three bits.
    same("lop3.b32 %r3, %r0, %r1, %r2, 0x96;", |a, b, c| a ^ b ^ c);
    same("lop3.b32 %r3, %r0, %r1, %r2, 0xE8;", |a, b, c| a & b | a & c | b & c);
    same("lop3.b32 %r3, %r0, %r1, %r2, 0xF0;", |a, _, _| a);
}

#[test]
fn fields_and_bytes() {
    assert_eq!(one("bfe.u32 %r3, %r0, 4, 8;", 0xABCD_1234, 0, 0), 0x23);
    assert_eq!(one("bfe.s32 %r3, %r0, 8, 4;", 0x0000_0F00, 0, 0), 0xFFFF_FFFF);
    assert_eq!(one("bfe.s32 %r3, %r0, 24, 16;", 0x8000_0000, 0, 0), 0xFFFF_FF80);
    assert_eq!(one("bfe.u32 %r3, %r0, 3, 0;", 0xFFFF_FFFF, 0, 0), 0);
    assert_eq!(one("bfi.b32 %r3, %r0, %r1, 8, 8;", 0xFFAB, 0x1111_1111, 0), 0x1111_AB11);
    assert_eq!(one("prmt.b32 %r3, %r0, %r1, 0x5410;", 0xAAAA_1234, 0xBBBB_5678, 0), 0x5678_1234);
    assert_eq!(one("prmt.b32 %r3, %r0, %r1, 0x7632;", 0x1234_AAAA, 0x5678_BBBB, 0), 0x5678_1234);
    // 8 replicates the sign of byte 0.
    assert_eq!(one("prmt.b32 %r3, %r0, %r1, 0x8880;", 0x0000_0080, 0, 0), 0xFFFF_FF80);
    assert_eq!(one("prmt.b32.rc8 %r3, %r0, %r1, %r2;", 0x4433_2211, 0, 2), 0x3333_3333);
    assert_eq!(one("prmt.b32.f4e %r3, %r0, %r1, %r2;", 0x4433_2211, 0x8877_6655, 1), 0x5544_3322);
    assert_eq!(one("prmt.b32.b4e %r3, %r0, %r1, %r2;", 0x4433_2211, 0x8877_6655, 1), 0x7788_1122);
    assert_eq!(one("shf.l.wrap.b32 %r3, %r0, %r1, %r2;", 0x8000_0001, 0x0000_0001, 33), 0x0000_0003);
    assert_eq!(one("shf.l.clamp.b32 %r3, %r0, %r1, %r2;", 0x8000_0001, 0x0000_0001, 33), 0x8000_0001);
    assert_eq!(one("shf.r.clamp.b32 %r3, %r0, %r1, %r2;", 0x8000_0001, 0x0000_0001, 4), 0x1800_0000);
    assert_eq!(one("dp4a.s32.s32 %r3, %r0, %r1, %r2;", 0x01FF_0203, 0x0102_0304, 10), 10 + 1 - 2 + 6 + 12);
}

#[test]
fn comparison_and_selection() {
    let pick = |line: &str, a: u32, b: u32| one(&format!("{line}\nselp.b32 %r3, 1, 0, %p1;"), a, b, 0);
    let minus = 0xFFFF_FFFF;
    assert_eq!(pick("setp.lt.s32 %p1, %r0, %r1;", minus, 1), 1);
    assert_eq!(pick("setp.lt.u32 %p1, %r0, %r1;", minus, 1), 0);
    assert_eq!(pick("setp.hi.u32 %p1, %r0, %r1;", minus, 1), 1);
    assert_eq!(pick("setp.ls.u32 %p1, %r0, %r1;", 1, 1), 1);
    // A second destination is the complement; the third predicate combines.
    assert_eq!(pick("setp.eq.u32 %p2|%p1, %r0, %r1;", 1, 1), 0);
    assert_eq!(pick("setp.eq.u32 %p2, 0, 0; setp.eq.and.u32 %p1, %r0, %r1, !%p2;", 1, 1), 0);
    assert_eq!(pick("setp.eq.u32 %p2, 0, 0; setp.ne.xor.u32 %p1, %r0, %r1, %p2;", 1, 1), 1);
    let nan = f32::NAN.to_bits();
    let one_f = 1f32.to_bits();
    assert_eq!(pick("setp.lt.f32 %p1, %f0, %f1;", nan, one_f), 0);
    assert_eq!(pick("setp.ltu.f32 %p1, %f0, %f1;", nan, one_f), 1);
    assert_eq!(pick("setp.ne.f32 %p1, %f0, %f1;", nan, one_f), 0);
    assert_eq!(pick("setp.neu.f32 %p1, %f0, %f1;", nan, one_f), 1);
    assert_eq!(pick("setp.num.f32 %p1, %f0, %f1;", one_f, one_f), 1);
    assert_eq!(pick("setp.nan.f32 %p1, %f0, %f1;", one_f, nan), 1);
    assert_eq!(one("set.lt.u32.s32 %r3, %r0, %r1;", minus, 1, 0), u32::MAX);
    assert_eq!(one("set.lt.f32.s32 %f3, %r0, %r1; mov.b32 %r3, %f3;", minus, 1, 0), one_f);
    assert_eq!(one("slct.u32.s32 %r3, %r0, %r1, %r2;", 5, 6, 0), 5);
    assert_eq!(one("slct.u32.s32 %r3, %r0, %r1, %r2;", 5, 6, minus), 6);
    assert_eq!(one("setp.ne.u32 %p1, %r0, 0; not.pred %p1, %p1; selp.u32 %r3, 7, 8, %p1;", 1, 0, 0), 8);
}

#[test]
fn moves() {
    assert_eq!(r64("mov.b64 %rd3, {%r0, %r1};", &[[1, 2, 0]]), [2 << 32 | 1]);
    assert_eq!(one("mov.b64 %rd3, {%r0, %r1}; mov.b64 {%r4, %r3}, %rd3;", 1, 2, 0), 2);
    assert_eq!(one("mov.b32 %r3, {%h0, %h1};", 0xAAAA_1234, 0xBBBB_5678, 0), 0x5678_1234);
    assert_eq!(one("mov.b32 {%h3, %h4}, %r0; mov.b32 %r3, {%h4, %h3};", 0x1111_2222, 0, 0), 0x2222_1111);
}
