//! Layouts of wgmma's operands, as the PTX ISA writes them (9.7.15.5.1): accumulators, A in registers, matrices in shared
//! memory for every swizzle and both major-nesses.
//!
//! Here the bytes of shared memory are laid out from the ISA's canonical layouts and swizzle tables; the simulator reads
//! them through descriptors.

mod common;

use attn_ptx_sim::{Arg, Device, Module};
use common::{Numbers, Run, good, launch, parse};
use half::bf16;

const A_AT: usize = 1024;
const B_AT: usize = 16 * 1024;
const IMAGE: usize = 48 * 1024;

#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Bytes that the swizzle spans, 16 for none.
    span: usize,
    mn_major: bool,
}

/// Distances in bytes: leading, stride.
struct Strides(usize, usize);

/// Where a 16-byte chunk of a line of `span` bytes lies, `line` lines from the start of the pattern: the tables of 5.5.7
/// show, for each 128 bytes, which chunk stands where.
fn swizzled(line: usize, chunk: usize, span: usize) -> usize {
    let row_of_table = line * span / 128;
    match span {
        128 => chunk ^ (row_of_table % 8),
        64 => chunk ^ (row_of_table % 4),
        32 => chunk ^ (row_of_table % 2),
        _ => chunk,
    }
}

impl Layout {
    fn strides(self, mn: usize) -> Strides {
        match (self.mn_major, self.span) {
            // Core matrices of 8 x 16 bytes: next along k, then next 8 rows.
            (false, 16) => Strides(128, 256),
            (false, span) => Strides(16, 8 * span),
            // Core matrices: leading is the next 8 of k, stride the next 8 of mn.
            (true, 16) => Strides(mn / 8 * 128, 128),
            // Panels of span bytes: leading is the next panel, stride the next 8 of k.
            (true, span) => Strides(16 * span, 8 * span),
        }
    }

    /// The byte of element (mn, k) of two bytes.
    fn at(self, mn: usize, k: usize, total: usize) -> usize {
        let Strides(leading, stride) = self.strides(total);
        match (self.mn_major, self.span) {
            (false, 16) => mn % 8 * 16 + mn / 8 * stride + k / 8 * leading + k % 8 * 2,
            (false, span) => mn / 8 * stride + mn % 8 * span + swizzled(mn % 8, k / 8, span) * 16 + k % 8 * 2,
            (true, 16) => k % 8 * 16 + k / 8 * leading + mn / 8 * stride + mn % 8 * 2,
            (true, span) => {
                let per = span / 2;
                let chunk = mn % per / 8;
                mn / per * leading
                    + k / 8 * stride
                    + k % 8 * span
                    + swizzled(k % 8, chunk, span) * 16
                    + mn % 8 * 2
            }
        }
    }

    fn descriptor(self, address: usize, total: usize) -> u64 {
        let Strides(leading, stride) = self.strides(total);
        let mode = match self.span {
            128 => 1u64,
            64 => 2,
            32 => 3,
            _ => 0,
        };
        (address >> 4) as u64 | ((leading >> 4) as u64) << 16 | ((stride >> 4) as u64) << 32 | mode << 62
    }
}

/// A kernel of one warpgroup: shared memory from an image, one product, accumulators to memory. `a` is written before the
/// descriptor of B.
fn kernel(n: usize, a: &str, tail: &str) -> Module {
    kernel_of(&format!("m64n{n}k16.f32.bf16.bf16"), n, a, tail)
}

fn kernel_of(shape: &str, n: usize, a: &str, tail: &str) -> Module {
    let d: Vec<String> = (0..n / 2).map(|i| format!("%d{i}")).collect();
    let store: String = (0..n / 2).map(|i| format!("st.global.f32 [%to+{}], %d{i};\n", 4 * i)).collect();
    parse(&format!(
        ".version 8.3\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 mem[];\n\
         .visible .entry k(.param .u64 image, .param .u64 regs, .param .u64 out, .param .u64 da, .param .u64 db)\n\
         .maxntid 128, 1, 1\n{{\n.reg .pred %p<2>;\n.reg .b32 %r<8>;\n.reg .b32 %a<4>;\n.reg .b64 %rd<8>;\n.reg .b64 %to;\n\
         .reg .f32 %d<{}>;\nmov.u32 %r0, %tid.x;\nshl.b32 %r1, %r0, 4;\nld.param.u64 %rd0, [image];\n\
         cvt.u64.u32 %rd1, %r1;\nadd.s64 %rd0, %rd0, %rd1;\nmov.u32 %r2, mem;\nadd.s32 %r2, %r2, %r1;\nmov.u32 %r3, 0;\n\
         L:\nld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%rd0];\nst.shared.v4.b32 [%r2], {{%r4, %r5, %r6, %r7}};\n\
         add.s64 %rd0, %rd0, 2048;\nadd.s32 %r2, %r2, 2048;\nadd.s32 %r3, %r3, 2048;\nsetp.lt.u32 %p0, %r3, {IMAGE};\n\
         @%p0 bra L;\nfence.proxy.async;\nbar.sync 0;\nld.param.u64 %rd2, [regs];\nmad.wide.u32 %rd2, %r0, 16, %rd2;\n\
         ld.global.v4.b32 {{%a0, %a1, %a2, %a3}}, [%rd2];\nld.param.u64 %rd3, [da];\nld.param.u64 %rd4, [db];\n\
         wgmma.fence.sync.aligned;\n\
         wgmma.mma_async.sync.aligned.{shape} {{{}}}, {a}, %rd4, 0, {tail};\n\
         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\nld.param.u64 %to, [out];\n\
         mad.wide.u32 %to, %r0, {}, %to;\n{store}ret;\n}}\n",
        n / 2,
        d.join(", "),
        2 * n
    ))
}

fn check(n: usize, a_layout: Option<Layout>, b_layout: Layout) {
    let mut numbers = Numbers(41);
    let mut matrix = |rows: usize| -> Vec<Vec<f32>> {
        (0..rows).map(|_| (0..16).map(|_| numbers.coarse()).collect()).collect()
    };
    // A as rows of k, B as columns of k.
    let (a, b) = (matrix(64), matrix(n));
    let mut image = vec![0u8; IMAGE];
    let mut put = |at: usize, x: f32| image[at..at + 2].copy_from_slice(&bf16::from_f32(x).to_le_bytes());
    for k in 0..16 {
        (0..n).for_each(|c| put(B_AT + b_layout.at(c, k, n), b[c][k]));
        if let Some(layout) = a_layout {
            (0..64).for_each(|r| put(A_AT + layout.at(r, k, 64), a[r][k]));
        }
    }
    // A in registers: warp w holds rows 16w to 16w + 15, spread as for mma.m16n8k16.
    let mut words = Vec::new();
    for thread in 0..128 {
        let (warp, group, t) = (thread / 32, thread % 32 / 4, thread % 4);
        for i in 0..4 {
            let row = 16 * warp + group + if i % 2 == 1 { 8 } else { 0 };
            let k = 2 * t + if i >= 2 { 8 } else { 0 };
            let bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
            words.push(bits(a[row][k]) | bits(a[row][k + 1]) << 16);
        }
    }
    let trans = |l: Layout| u32::from(l.mn_major);
    let tail = match a_layout {
        Some(layout) => format!("1, 1, {}, {}", trans(layout), trans(b_layout)),
        None => format!("-1, 1, {}", trans(b_layout)),
    };
    let module = kernel(n, if a_layout.is_some() { "%rd3" } else { "{%a0, %a1, %a2, %a3}" }, &tail);
    let mut device = Device::new();
    let (image, words) = (device.upload("image", &image), device.upload("regs", &words));
    let out = device.alloc::<f32>("out", 64 * n);
    // Dynamic shared memory begins at 1024, the first multiple of its alignment.
    let da = a_layout.map_or(0, |l| l.descriptor(1024 + A_AT, 64));
    let db = b_layout.descriptor(1024 + B_AT, n);
    let run = Run { kernel: "k", grid: [1, 1, 1], block: 128, dynamic: IMAGE as u32 };
    let args = [image.arg(), words.arg(), out.arg(), Arg::U64(da), Arg::U64(db)];
    good(launch(&mut device, &module, &run, &args, 5));
    let got = device.download(out).expect("every thread writes");
    let sign = if a_layout.is_some() { 1.0 } else { -1.0 };
    for thread in 0..128 {
        let (warp, group, t) = (thread / 32, thread % 32 / 4, thread % 4);
        for i in 0..n / 2 {
            let row = 16 * warp + group + if i % 4 >= 2 { 8 } else { 0 };
            let col = 8 * (i / 4) + 2 * t + i % 2;
            let want: f32 = sign * (0..16).map(|k| a[row][k] * b[col][k]).sum::<f32>();
            let value = got[thread * n / 2 + i];
            assert!(
                (value - want).abs() < 1e-4,
                "n {n} {a_layout:?} {b_layout:?}: thread {thread} d{i} is {value}, expected {want}"
            );
        }
    }
}

#[test]
fn every_layout_of_b() {
    for span in [16, 32, 64, 128] {
        for mn_major in [false, true] {
            let b = Layout { span, mn_major };
            // A panel must be whole for MN-major.
            for n in [8, 64, 128].into_iter().filter(|n| !mn_major || 2 * n >= span) {
                check(n, None, b);
            }
        }
    }
}

#[test]
fn every_layout_of_a() {
    for span in [16, 32, 64, 128] {
        for mn_major in [false, true] {
            let b = Layout { span: 128, mn_major: !mn_major };
            check(64, Some(Layout { span, mn_major }), b);
        }
    }
}

#[test]
fn the_widest_product() {
    check(256, None, Layout { span: 128, mn_major: true });
}

/// K-major operands of other types: only the bytes of an element change. `k` elements are 32 bytes.
fn other_type(name: &str, bytes: usize, decode: fn(u32) -> f32) {
    let (n, k) = (16, 32 / bytes);
    let mut numbers = Numbers(77);
    // Bits of small magnitude in every type: zeros, ones, twos, halves and their negatives.
    let codes: Vec<u32> = match bytes {
        4 => [0.0f32, 1.0, -2.0, 0.5].iter().map(|x| x.to_bits()).collect(),
        _ => vec![0x00, 0x38, 0xC0, 0x30],
    };
    let mut matrix = |rows: usize| -> Vec<Vec<u32>> {
        (0..rows).map(|_| (0..k).map(|_| codes[(numbers.bits() % 4) as usize]).collect()).collect()
    };
    let (a, b) = (matrix(64), matrix(n));
    let mut image = vec![0u8; IMAGE];
    let mut put = |base: usize, mn: usize, k: usize, code: u32| {
        let byte = k * bytes;
        let at = base + mn / 8 * 1024 + mn % 8 * 128 + swizzled(mn % 8, byte / 16, 128) * 16 + byte % 16;
        image[at..at + bytes].copy_from_slice(&code.to_le_bytes()[..bytes]);
    };
    for c in 0..k {
        (0..64).for_each(|r| put(A_AT, r, c, a[r][c]));
        (0..n).for_each(|r| put(B_AT, r, c, b[r][c]));
    }
    let module = kernel_of(&format!("m64n{n}k{k}.f32.{name}.{name}"), n, "%rd3", "1, 1");
    let mut device = Device::new();
    let (image, words) = (device.upload("image", &image), device.upload("regs", &[0u32; 512]));
    let out = device.alloc::<f32>("out", 64 * n);
    let layout = Layout { span: 128, mn_major: false };
    let (da, db) = (layout.descriptor(1024 + A_AT, 64), layout.descriptor(1024 + B_AT, n));
    let run = Run { kernel: "k", grid: [1, 1, 1], block: 128, dynamic: IMAGE as u32 };
    let args = [image.arg(), words.arg(), out.arg(), Arg::U64(da), Arg::U64(db)];
    good(launch(&mut device, &module, &run, &args, 5));
    let got = device.download(out).expect("every thread writes");
    for thread in 0..128 {
        let (warp, group, t) = (thread / 32, thread % 32 / 4, thread % 4);
        for i in 0..n / 2 {
            let row = 16 * warp + group + if i % 4 >= 2 { 8 } else { 0 };
            let col = 8 * (i / 4) + 2 * t + i % 2;
            let want: f32 = (0..k).map(|c| decode(a[row][c]) * decode(b[col][c])).sum();
            assert_eq!(got[thread * n / 2 + i], want, "{name}: thread {thread} d{i}");
        }
    }
}

#[test]
fn tf32_and_fp8() {
    other_type("tf32", 4, f32::from_bits);
    // e4m3: 0x38 is 1, 0xC0 is -2, 0x30 is 1/2.
    other_type("e4m3", 1, |code| match code {
        0x38 => 1.0,
        0xC0 => -2.0,
        0x30 => 0.5,
        _ => 0.0,
    });
}
