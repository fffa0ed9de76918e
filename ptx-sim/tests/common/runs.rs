//! One launch of each kernel of `tests/ptx`, compared with what it should compute, computed here.

use attn_ptx_sim::{Arg, Device, Element, Report, Swizzle, TensorMap};
use half::bf16;

use super::{Failure, Numbers, Run, close, launch, parse};

/// Every kernel that [`check`] knows.
pub const KERNELS: [&str; 9] = [
    "vector_add",
    "reduce",
    "gemm_mma",
    "gemm_cp_async",
    "named_barriers",
    "flash_mma",
    "tma_pipeline",
    "wgmma_gemm",
    "flash_wgmma",
];

/// Runs a kernel, perhaps with an edited text, and compares its results.
pub fn check(name: &str, text: &str, seed: u64) -> Result<Report, Failure> {
    match name {
        "vector_add" => vector_add(text, seed),
        "reduce" => reduce(text, seed),
        "gemm_mma" => gemm("gemm_mma", text, 0, seed),
        "gemm_cp_async" => gemm("gemm_cp_async", text, 32768, seed),
        "named_barriers" => named_barriers(text, seed),
        "flash_mma" => flash_mma(text, (100, 150), seed),
        "tma_pipeline" => tma_pipeline(text, seed),
        "wgmma_gemm" => wgmma_gemm(text, seed),
        "flash_wgmma" => flash_wgmma(text, (100, 300), seed),
        other => panic!("no run for {other}"),
    }
}

fn vector_add(text: &str, seed: u64) -> Result<Report, Failure> {
    let mut numbers = Numbers(7);
    let (a, b) = (numbers.floats(300), numbers.floats(300));
    let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    let mut device = Device::new();
    let (a, b) = (device.upload("a", &a), device.upload("b", &b));
    let c = device.alloc::<f32>("c", 300);
    let run = Run { kernel: "vector_add", grid: [3, 1, 1], block: 128, dynamic: 0 };
    let args = [a.arg(), b.arg(), c.arg(), Arg::U32(300)];
    let report = launch(&mut device, &parse(text), &run, &args, seed)?;
    close(device.download(c), &want, 0.0)?;
    Ok(report)
}

fn reduce(text: &str, seed: u64) -> Result<Report, Failure> {
    let mut numbers = Numbers(3);
    let x: Vec<f32> = (0..1024).map(|_| numbers.coarse()).collect();
    let want: Vec<f32> = x.chunks(256).map(|c| c.iter().sum()).collect();
    let mut device = Device::new();
    let x = device.upload("x", &x);
    let out = device.alloc::<f32>("out", 4);
    let run = Run { kernel: "reduce", grid: [4, 1, 1], block: 256, dynamic: 0 };
    let report = launch(&mut device, &parse(text), &run, &[x.arg(), out.arg()], seed)?;
    close(device.download(out), &want, 0.0)?;
    Ok(report)
}

/// C = A B^T.
fn product(a: &[bf16], b: &[bf16], [m, n, k]: [usize; 3]) -> Vec<f32> {
    let mut c = vec![0f32; m * n];
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k).map(|l| a[i * k + l].to_f32() * b[j * k + l].to_f32()).sum();
        }
    }
    c
}

fn gemm(kernel: &'static str, text: &str, dynamic: u32, seed: u64) -> Result<Report, Failure> {
    let (m, n, k) = (128, 64, 192);
    let mut numbers = Numbers(11);
    let (a, b) = (numbers.bf16s(m * k), numbers.bf16s(n * k));
    let want = product(&a, &b, [m, n, k]);
    let mut device = Device::new();
    let (a, b) = (device.upload("a", &a), device.upload("b", &b));
    let c = device.alloc::<f32>("c", m * n);
    let run = Run { kernel, grid: [n as u32 / 64, m as u32 / 64, 1], block: 128, dynamic };
    let args = [a.arg(), b.arg(), c.arg(), Arg::U32(n as u32), Arg::U32(k as u32)];
    let report = launch(&mut device, &parse(text), &run, &args, seed)?;
    close(device.download(c), &want, 1e-4)?;
    Ok(report)
}

fn named_barriers(text: &str, seed: u64) -> Result<Report, Failure> {
    let x: Vec<f32> = (0..7 * 32).map(|n| n as f32).collect();
    let want: Vec<f32> = (0..7 * 32).map(|n| 3.0 * (n ^ 1) as f32).collect();
    let mut device = Device::new();
    let x = device.upload("x", &x);
    let out = device.alloc::<f32>("out", 7 * 32);
    let run = Run { kernel: "named_barriers", grid: [1, 1, 1], block: 64, dynamic: 0 };
    let report = launch(&mut device, &parse(text), &run, &[x.arg(), out.arg(), Arg::U32(7)], seed)?;
    close(device.download(out), &want, 0.0)?;
    Ok(report)
}

/// Attention of `h` heads with rows of `d`, in f64.
fn attention(q: &[bf16], k: &[bf16], v: &[bf16], [h, sq, sk, d]: [usize; 4]) -> Vec<f32> {
    let mut out = vec![0f32; h * sq * d];
    for head in 0..h {
        let row = |x: &[bf16], n: usize, i: usize, c: usize| x[(head * n + i) * d + c].to_f64();
        for i in 0..sq {
            let score = |j: usize| (0..d).map(|c| row(q, sq, i, c) * row(k, sk, j, c)).sum::<f64>();
            let scores: Vec<f64> = (0..sk).map(|j| score(j) / (d as f64).sqrt()).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            for c in 0..d {
                let sum: f64 = weights.iter().enumerate().map(|(j, w)| w * row(v, sk, j, c)).sum();
                out[(head * sq + i) * d + c] = (sum / total) as f32;
            }
        }
    }
    out
}

/// Queries long enough that the weights of keys differ much.
fn steep(numbers: &mut Numbers, n: usize) -> Vec<bf16> {
    (0..n).map(|_| bf16::from_f32(12.0 * numbers.float())).collect()
}

fn widen(halves: Result<Vec<bf16>, String>) -> Result<Vec<f32>, String> {
    halves.map(|list| list.iter().map(|x| x.to_f32()).collect())
}

/// Two heads of `sq` queries and `sk` keys.
pub fn flash_mma(text: &str, (sq, sk): (usize, usize), seed: u64) -> Result<Report, Failure> {
    let (h, d) = (2, 64);
    let mut numbers = Numbers(23);
    let (q, k) = (steep(&mut numbers, h * sq * d), numbers.bf16s(h * sk * d));
    let v = numbers.bf16s(h * sk * d);
    let want = attention(&q, &k, &v, [h, sq, sk, d]);
    let mut device = Device::new();
    let (q, k) = (device.upload("q", &q), device.upload("k", &k));
    let v = device.upload("v", &v);
    let o = device.alloc::<bf16>("o", h * sq * d);
    let grid = [sq.div_ceil(64) as u32, h as u32, 1];
    let run = Run { kernel: "flash_mma", grid, block: 128, dynamic: 3 * 8192 };
    let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
    let sizes = [Arg::U32(sq as u32), Arg::U32(sk as u32), Arg::F32(scale)];
    let args: Vec<Arg> = [q.arg(), k.arg(), v.arg(), o.arg()].into_iter().chain(sizes).collect();
    let report = launch(&mut device, &parse(text), &run, &args, seed)?;
    close(widen(device.download(o)), &want, 0.006)?;
    Ok(report)
}

fn map(element: Element, base: u64, dims: [usize; 2], tile: [u32; 2], swizzle: Swizzle) -> Arg {
    let stride = dims[0] as u64 * u64::from(element.bytes());
    let dims = [dims[0] as u64, dims[1] as u64];
    Arg::Map(TensorMap::tiled(element, base, &dims, &[stride], &tile, &[1, 1], swizzle).expect("a good map"))
}

fn tma_pipeline(text: &str, seed: u64) -> Result<Report, Failure> {
    // The last tile hangs over the end.
    let rows = 5 * 16 - 3;
    let mut numbers = Numbers(5);
    let x = numbers.floats(rows * 64);
    let want: Vec<f32> = x.iter().map(|x| 2.0 * x).collect();
    let mut device = Device::new();
    let x = device.upload("x", &x);
    let out = device.alloc::<f32>("out", rows * 64);
    let maps =
        [x.addr(), out.addr()].map(|base| map(Element::F32, base, [64, rows], [64, 16], Swizzle::None));
    let run = Run { kernel: "tma_pipeline", grid: [1, 1, 1], block: 64, dynamic: 8192 + 32 };
    let [map_x, map_out] = maps;
    let report = launch(&mut device, &parse(text), &run, &[map_x, map_out, Arg::U32(5)], seed)?;
    close(device.download(out), &want, 0.0)?;
    Ok(report)
}

fn wgmma_gemm(text: &str, seed: u64) -> Result<Report, Failure> {
    let (m, n, k) = (128, 64, 256);
    let mut numbers = Numbers(17);
    let (a, b) = (numbers.bf16s(m * k), numbers.bf16s(n * k));
    let want = product(&a, &b, [m, n, k]);
    let mut device = Device::new();
    let (a, b) = (device.upload("a", &a), device.upload("b", &b));
    let c = device.alloc::<f32>("c", m * n);
    let map_a = map(Element::Bf16, a.addr(), [k, m], [64, 64], Swizzle::B128);
    let map_b = map(Element::Bf16, b.addr(), [k, n], [64, 64], Swizzle::B128);
    let grid = [n as u32 / 64, m as u32 / 64, 1];
    let run = Run { kernel: "wgmma_gemm", grid, block: 256, dynamic: 32768 + 32 };
    let args = [map_a, map_b, c.arg(), Arg::U32(n as u32), Arg::U32(k as u32)];
    let report = launch(&mut device, &parse(text), &run, &args, seed)?;
    close(device.download(c), &want, 1e-4)?;
    Ok(report)
}

/// Two heads of `sq` queries and `sk` keys, D = 64.
pub fn flash_wgmma(text: &str, (sq, sk): (usize, usize), seed: u64) -> Result<Report, Failure> {
    let (h, d) = (2, 64);
    let mut numbers = Numbers(29);
    let (q, k) = (steep(&mut numbers, h * sq * d), numbers.bf16s(h * sk * d));
    let v = numbers.bf16s(h * sk * d);
    let want = attention(&q, &k, &v, [h, sq, sk, d]);
    let mut device = Device::new();
    let (q, k) = (device.upload("q", &q), device.upload("k", &k));
    let v = device.upload("v", &v);
    let o = device.alloc::<bf16>("o", h * sq * d);
    let heads = |base: u64, n: usize| {
        let (dims, strides) = ([d as u64, n as u64, h as u64], [2 * d as u64, 2 * (n * d) as u64]);
        let tile = [64, 64, 1];
        let made = TensorMap::tiled(Element::Bf16, base, &dims, &strides, &tile, &[1; 3], Swizzle::B128);
        Arg::Map(made.expect("a good map"))
    };
    let grid = [sq.div_ceil(128) as u32, h as u32, 1];
    let run = Run { kernel: "flash_wgmma", grid, block: 384, dynamic: 6 * 8192 + 128 };
    let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
    let maps = [heads(q.addr(), sq), heads(k.addr(), sk), heads(v.addr(), sk), heads(o.addr(), sq)];
    let args: Vec<Arg> = maps.into_iter().chain([Arg::U32(sk as u32), Arg::F32(scale)]).collect();
    let report = launch(&mut device, &parse(text), &run, &args, seed)?;
    close(widen(device.download(o)), &want, 0.006)?;
    Ok(report)
}
