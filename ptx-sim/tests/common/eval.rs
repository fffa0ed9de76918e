//! A few instructions for each of a list of operands.
//!
//! The snippet finds three operands in `%rd0..2` (whole), `%r0..2` and `%f0..2` (low 32 bits), `%h0..2` (low 16 bits) and
//! `%d0..2` (as f64) and leaves its result in register 3 of one of these files.

use attn_ptx_sim::{Arg, Device};

use super::{Run, good, parse};

fn kernel(snippet: &str, collect: &str) -> String {
    let mut load = String::new();
    for n in 0..3 {
        load += &format!("ld.global.u64 %rd{n}, [%in+{}];\ncvt.u32.u64 %r{n}, %rd{n};\n", 8 * n);
        load += &format!("cvt.u16.u64 %h{n}, %rd{n};\nmov.b32 %f{n}, %r{n};\nmov.b64 %d{n}, %rd{n};\n");
    }
    format!(
        ".version 8.3\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 x, .param .u64 out) {{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<8>;\n.reg .b64 %rd<8>;\n.reg .f32 %f<8>;\n.reg .f64 %d<8>;\n\
         .reg .b64 %in;\n.reg .b64 %to;\n.reg .b32 %t;\nld.param.u64 %in, [x];\nld.param.u64 %to, [out];\n\
         mov.u32 %t, %tid.x;\nmad.wide.u32 %in, %t, 24, %in;\nmad.wide.u32 %to, %t, 8, %to;\n\
         {load}{snippet}\n{collect}\nst.global.u64 [%to], %rd3;\nret;\n}}\n"
    )
}

/// The results of a snippet for each row of operands.
fn eval(snippet: &str, collect: &str, operands: &[[u64; 3]]) -> Vec<u64> {
    let module = parse(&kernel(snippet, collect));
    let flat: Vec<u64> = operands.iter().flatten().copied().collect();
    let mut device = Device::new();
    let (x, out) = (device.upload("x", &flat), device.alloc::<u64>("out", operands.len()));
    let block = operands.len() as u32;
    let run = Run { kernel: "k", grid: [1, 1, 1], block, dynamic: 0 };
    good(super::launch(&mut device, &module, &run, &[x.arg(), Arg::U64(out.addr())], 1));
    device.download(out).expect("every lane writes")
}

pub fn r64(snippet: &str, operands: &[[u64; 3]]) -> Vec<u64> {
    eval(snippet, "", operands)
}

pub fn r32(snippet: &str, operands: &[[u64; 3]]) -> Vec<u32> {
    eval(snippet, "cvt.u64.u32 %rd3, %r3;", operands).into_iter().map(|v| v as u32).collect()
}

pub fn r16(snippet: &str, operands: &[[u64; 3]]) -> Vec<u16> {
    eval(snippet, "cvt.u64.u16 %rd3, %h3;", operands).into_iter().map(|v| v as u16).collect()
}

pub fn f32s(snippet: &str, operands: &[[f32; 3]]) -> Vec<f32> {
    let bits: Vec<[u64; 3]> = operands.iter().map(|o| o.map(|x| u64::from(x.to_bits()))).collect();
    r32(&format!("{snippet}\nmov.b32 %r3, %f3;"), &bits).into_iter().map(f32::from_bits).collect()
}

pub fn f64s(snippet: &str, operands: &[[f64; 3]]) -> Vec<f64> {
    let bits: Vec<[u64; 3]> = operands.iter().map(|o| o.map(f64::to_bits)).collect();
    r64(&format!("{snippet}\nmov.b64 %rd3, %d3;"), &bits).into_iter().map(f64::from_bits).collect()
}

/// One 32-bit result.
pub fn one(snippet: &str, a: u32, b: u32, c: u32) -> u32 {
    r32(snippet, &[[u64::from(a), u64::from(b), u64::from(c)]])[0]
}
