//! Layouts of fragments, as the PTX ISA writes them (9.7.14.5.8, 9.7.14.5.15): ldmatrix, stmatrix, mma.sync.
//!
//! The formulas here are those of the ISA's text, element by element, and know nothing of the simulator's.

mod common;

use attn_ptx_sim::{Device, Module};
use common::{Numbers, Run, good, launch, parse};
use half::{bf16, f16};

/// Runs a one-warp kernel whose lanes read `words_in` words and write `words_out`.
fn run(module: &Module, input: &[u32], words_out: usize) -> Vec<u32> {
    let mut device = Device::new();
    let (x, out) = (device.upload("in", input), device.alloc::<u32>("out", 32 * words_out));
    let run = Run { kernel: "k", grid: [1, 1, 1], block: 32, dynamic: 0 };
    good(launch(&mut device, module, &run, &[x.arg(), out.arg()], 3));
    device.download(out).expect("every lane writes")
}

/// A kernel that loads words 0.. of its lane into %r0.., does `lines` and stores `stored`.
fn kernel(words_in: usize, lines: &str, stored: &[String]) -> Module {
    let load: String = (0..words_in).map(|n| format!("ld.global.b32 %r{n}, [%in+{}];\n", 4 * n)).collect();
    let store: String =
        stored.iter().enumerate().map(|(n, r)| format!("st.global.b32 [%to+{}], {r};\n", 4 * n)).collect();
    parse(&format!(
        ".version 8.3\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 x, .param .u64 out) {{\n\
         .reg .b32 %r<24>;\n.reg .f32 %f<8>;\n.reg .b32 %t<8>;\n.reg .b64 %in;\n.reg .b64 %to;\n\
         .shared .align 16 .b8 mem[512];\nld.param.u64 %in, [x];\nld.param.u64 %to, [out];\nmov.u32 %t0, %tid.x;\n\
         mad.wide.u32 %in, %t0, {}, %in;\nmad.wide.u32 %to, %t0, {}, %to;\n{load}{lines}\n{store}ret;\n}}\n",
        4 * words_in,
        4 * stored.len()
    ))
}

fn regs(first: usize, n: usize) -> Vec<String> {
    (first..first + n).map(|i| format!("%r{i}")).collect()
}

/// Element `e` of 16 bits of a list of words.
fn half_at(words: &[u32], e: usize) -> u16 {
    (words[e / 2] >> (16 * (e % 2))) as u16
}

#[test]
fn ldmatrix_hands_out_pairs_of_a_row() {
    // Lane l writes 16 bytes: row l of memory. Matrix j is rows 8j to 8j + 7.
    let input: Vec<u32> = (0..128u32).map(|n| (2 * n) | ((2 * n + 1) << 16)).collect();
    for trans in [false, true] {
        let mode = if trans { ".trans" } else { "" };
        let lines = format!(
            "shl.b32 %t1, %t0, 4; mov.u32 %t2, mem; add.s32 %t1, %t1, %t2;\n\
             st.shared.v4.b32 [%t1], {{%r0, %r1, %r2, %r3}};\nbar.warp.sync -1;\n\
             ldmatrix.sync.aligned.m8n8.x4{mode}.shared.b16 {{%r4, %r5, %r6, %r7}}, [%t1];"
        );
        let got = run(&kernel(4, &lines, &regs(4, 4)), &input, 4);
        for lane in 0..32 {
            for j in 0..4 {
                for i in 0..2 {
                    let (mut row, mut col) = (lane / 4, 2 * (lane % 4) + i);
                    if trans {
                        (row, col) = (col, row);
                    }
                    let want = ((8 * j + row) * 8 + col) as u16;
                    assert_eq!(
                        half_at(&got[4 * lane..], 2 * j + i),
                        want,
                        "lane {lane} matrix {j} element {i}"
                    );
                }
            }
        }
    }
}

#[test]
fn stmatrix_undoes_ldmatrix() {
    let input: Vec<u32> = (0..128).map(|n| n * 0x0101_0101).collect();
    for trans in ["", ".trans"] {
        let lines = format!(
            "shl.b32 %t1, %t0, 4; mov.u32 %t2, mem; add.s32 %t1, %t1, %t2;\n\
             stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%t1], {{%r0, %r1, %r2, %r3}};\nbar.warp.sync -1;\n\
             ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r4, %r5, %r6, %r7}}, [%t1];"
        );
        assert_eq!(run(&kernel(4, &lines, &regs(4, 4)), &input, 4), input);
    }
}

/// What an instruction multiplies: how many elements a lane holds of A, B and how they are spread.
struct Shape {
    name: &'static str,
    k: usize,
    /// Bits of an element.
    bits: usize,
    /// Row and column of element i of lane l in A.
    a: fn(usize, usize) -> (usize, usize),
    /// Row and column of element i of lane l in B.
    b: fn(usize, usize) -> (usize, usize),
    encode: fn(f32) -> u32,
    integer: bool,
}

/// Accumulators of m16n8: row and column.
fn c_at(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

fn a_16(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
    (row, thread * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
}

fn b_16(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }, lane >> 2)
}

fn a_8_of_16_bits(lane: usize, i: usize) -> (usize, usize) {
    (if i < 2 { lane >> 2 } else { (lane >> 2) + 8 }, lane % 4 * 2 + (i & 1))
}

fn b_8_of_16_bits(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 2 + i, lane >> 2)
}

fn a_tf32(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { thread } else { thread + 4 })
}

fn b_tf32(lane: usize, i: usize) -> (usize, usize) {
    (if i == 0 { lane % 4 } else { lane % 4 + 4 }, lane >> 2)
}

fn a_bytes(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = if i < 4 || (8..12).contains(&i) { group } else { group + 8 };
    (row, thread * 4 + (i & 3) + if i >= 8 { 16 } else { 0 })
}

fn b_bytes(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 4 + (i & 3) + if i >= 4 { 16 } else { 0 }, lane >> 2)
}

fn in_f16(x: f32) -> u32 {
    u32::from(f16::from_f32(x).to_bits())
}

fn in_bf16(x: f32) -> u32 {
    u32::from(bf16::from_f32(x).to_bits())
}

fn in_s8(x: f32) -> u32 {
    u32::from((x * 128.0) as i8 as u8)
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "m16n8k16.row.col.f32.f16.f16.f32",
        k: 16,
        bits: 16,
        a: a_16,
        b: b_16,
        encode: in_f16,
        integer: false,
    },
    Shape {
        name: "m16n8k16.row.col.f32.bf16.bf16.f32",
        k: 16,
        bits: 16,
        a: a_16,
        b: b_16,
        encode: in_bf16,
        integer: false,
    },
    Shape {
        name: "m16n8k8.row.col.f32.bf16.bf16.f32",
        k: 8,
        bits: 16,
        a: a_8_of_16_bits,
        b: b_8_of_16_bits,
        encode: in_bf16,
        integer: false,
    },
    Shape {
        name: "m16n8k8.row.col.f32.tf32.tf32.f32",
        k: 8,
        bits: 32,
        a: a_tf32,
        b: b_tf32,
        encode: f32::to_bits,
        integer: false,
    },
    Shape {
        name: "m16n8k32.row.col.s32.s8.s8.s32",
        k: 32,
        bits: 8,
        a: a_bytes,
        b: b_bytes,
        encode: in_s8,
        integer: true,
    },
];

/// Packs elements of a lane into words.
fn pack(elements: &[u32], bits: usize) -> Vec<u32> {
    let per = 32 / bits;
    elements.chunks(per).map(|c| c.iter().enumerate().fold(0, |w, (n, e)| w | e << (n * bits))).collect()
}

fn check(s: &Shape) {
    let mut numbers = Numbers(99);
    // Coarse values are exact in every type here.
    let a: Vec<Vec<f32>> = (0..16).map(|_| (0..s.k).map(|_| numbers.coarse()).collect()).collect();
    let b: Vec<Vec<f32>> = (0..s.k).map(|_| (0..8).map(|_| numbers.coarse()).collect()).collect();
    let c: Vec<Vec<f32>> =
        (0..16).map(|_| (0..8).map(|_| (128.0 * numbers.coarse()).trunc()).collect()).collect();
    let per_lane = |n: usize| n * s.k / 32;
    let (na, nb) = (per_lane(16) * s.bits / 32, per_lane(8) * s.bits / 32);
    let mut input = Vec::new();
    for lane in 0..32 {
        let of = |(r, k): (usize, usize), m: &[Vec<f32>]| (s.encode)(m[r][k]);
        input.extend(pack(&(0..per_lane(16)).map(|i| of((s.a)(lane, i), &a)).collect::<Vec<_>>(), s.bits));
        input.extend(pack(&(0..per_lane(8)).map(|i| of((s.b)(lane, i), &b)).collect::<Vec<_>>(), s.bits));
        for i in 0..4 {
            let (r, col) = c_at(lane, i);
            input.push(if s.integer { c[r][col] as i32 as u32 } else { c[r][col].to_bits() });
        }
    }
    let list = |first: usize, n: usize| regs(first, n).join(", ");
    let (fa, fb, fc) = (list(0, na), list(na, nb), list(na + nb, 4));
    let lines =
        format!("mma.sync.aligned.{} {{%r16, %r17, %r18, %r19}}, {{{fa}}}, {{{fb}}}, {{{fc}}};", s.name);
    let got = run(&kernel(na + nb + 4, &lines, &regs(16, 4)), &input, 4);
    for lane in 0..32 {
        for i in 0..4 {
            let (r, col) = c_at(lane, i);
            let scale = if s.integer { 128.0 * 128.0 } else { 1.0 };
            let dot: f32 = (0..s.k).map(|k| a[r][k] * b[k][col]).sum();
            let want = dot * scale + c[r][col];
            let word = got[4 * lane + i];
            let value = if s.integer { word as i32 as f32 } else { f32::from_bits(word) };
            assert!(
                (value - want).abs() < 1e-3,
                "{} lane {lane} element {i}: {value}, expected {want}",
                s.name
            );
        }
    }
}

#[test]
fn mma_fragments() {
    SHAPES.iter().for_each(check);
}
