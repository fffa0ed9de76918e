//! Whole kernels, written by hand, against results computed here, over seeds.

mod common;

use attn_ptx_sim::{Arg, Device, Fault, Report};
use common::{Numbers, Run, close, good, launch, parse, text};

const SEEDS: u64 = 6;

#[test]
fn vector_add() {
    let module = parse(&text("vector_add"));
    let mut numbers = Numbers(7);
    let a: Vec<f32> = (0..300).map(|_| numbers.float()).collect();
    let b: Vec<f32> = (0..300).map(|_| numbers.float()).collect();
    let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    let mut device = Device::new();
    let (a, b) = (device.upload("a", &a), device.upload("b", &b));
    for seed in 0..SEEDS {
        let c = device.alloc::<f32>("c", 300);
        let run = Run { kernel: "vector_add", grid: [3, 1, 1], block: 128, dynamic: 0 };
        let report = good(launch(&mut device, &module, &run, &[a.arg(), b.arg(), c.arg(), Arg::U32(300)], seed));
        assert_eq!(device.download(c).expect("every element written"), want);
        assert_eq!(report.count("add.rn.f32"), 10);
    }
}

#[test]
fn reduce() {
    let module = parse(&text("reduce"));
    let mut numbers = Numbers(3);
    let x: Vec<f32> = (0..1024).map(|_| numbers.coarse()).collect();
    let want: Vec<f32> = x.chunks(256).map(|c| c.iter().sum()).collect();
    let mut device = Device::new();
    let x = device.upload("x", &x);
    for seed in 0..SEEDS {
        let out = device.alloc::<f32>("out", 4);
        let run = Run { kernel: "reduce", grid: [4, 1, 1], block: 256, dynamic: 0 };
        good(launch(&mut device, &module, &run, &[x.arg(), out.arg()], seed));
        close(&device.download(out).expect("every element written"), &want, 1e-6);
    }
}

/// Runs a kernel that computes C = A B^T in tiles of 64 x 64.
fn gemm(name: &'static str, dynamic: u32) -> Report {
    let (m, n, k) = (128, 64, 192);
    let mut numbers = Numbers(11);
    let (a, b) = (numbers.bf16s(m * k), numbers.bf16s(n * k));
    let mut want = vec![0f32; m * n];
    for i in 0..m {
        for j in 0..n {
            want[i * n + j] = (0..k).map(|l| a[i * k + l].to_f32() * b[j * k + l].to_f32()).sum();
        }
    }
    let module = parse(&text(name));
    let mut device = Device::new();
    let (a, b) = (device.upload("a", &a), device.upload("b", &b));
    let mut last = Report::default();
    for seed in 0..SEEDS {
        let c = device.alloc::<f32>("c", m * n);
        let run = Run { kernel: name, grid: [n as u32 / 64, m as u32 / 64, 1], block: 128, dynamic };
        let args = [a.arg(), b.arg(), c.arg(), Arg::U32(n as u32), Arg::U32(k as u32)];
        last = good(launch(&mut device, &module, &run, &args, seed));
        close(&device.download(c).expect("every element written"), &want, 1e-4);
    }
    last
}

#[test]
fn gemm_mma() {
    let report = gemm("gemm_mma", 0);
    assert_eq!(report.count("mma.sync"), 2 * 3 * 4 * 32);
    assert_eq!(report.extra_wavefronts(), 0, "the swizzle leaves no conflict: {:?}", report.bank_conflicts);
}

#[test]
fn gemm_cp_async() {
    let report = gemm("gemm_cp_async", 32768);
    assert_eq!(report.count("cp.async.cg"), 2 * 4 * 3 * 8);
    assert_eq!(report.extra_wavefronts(), 0, "{:?}", report.bank_conflicts);
}

fn named_barriers_over(text: &str, seed: u64) -> Result<Vec<f32>, Fault> {
    let module = parse(text);
    let x: Vec<f32> = (0..7 * 32).map(|n| n as f32).collect();
    let mut device = Device::new();
    let x = device.upload("x", &x);
    let out = device.alloc::<f32>("out", 7 * 32);
    let run = Run { kernel: "named_barriers", grid: [1, 1, 1], block: 64, dynamic: 0 };
    launch(&mut device, &module, &run, &[x.arg(), out.arg(), Arg::U32(7)], seed)?;
    Ok(device.download(out).expect("every element written"))
}

#[test]
fn named_barriers() {
    let want: Vec<f32> = (0..7 * 32).map(|n| 3.0 * (n ^ 1) as f32).collect();
    for seed in 0..SEEDS {
        match named_barriers_over(&text("named_barriers"), seed) {
            Ok(got) => close(&got, &want, 0.0),
            Err(fault) => panic!("{fault}"),
        }
    }
}
