//! Measures the tile intrinsics: GFLOP/s and fraction of the FMA peak, per instruction set, and a fused
//! causal attention loop made of them as generated code calls them.
//!
//! In: optionally `kernels` or `fused` on the command line (both by default). Out: a table on standard
//! output; medians, and the best in brackets, since other work on the machine only ever adds time.
//! Run with `cargo run --release -p attn-runtime --example intrinsics_bench`.

use attn_compiler::artifact::{DType, MathFn};
use attn_runtime::cpu::intrinsics::{
    FinishSoftmaxFn, GemmFn, Isa, LoadRowsFn, PackKFn, PackVFn, SoftmaxStepFn, StoreRowsFn, VMathFn, table,
};
use attn_runtime::cpu::peak::{fma_peak_gflops, read_bandwidth_gbs};
use std::time::{Duration, Instant};

/// The entries of a table under their types.
#[derive(Clone, Copy)]
struct Ops {
    gemm: GemmFn,
    gemm_skip_zero: GemmFn,
    softmax_step: SoftmaxStepFn,
    pack_k: PackKFn,
    pack_v: PackVFn,
    load_rows: LoadRowsFn,
    store_rows: StoreRowsFn,
    finish_softmax: FinishSoftmaxFn,
    vmath: VMathFn,
}

impl Ops {
    fn new(isa: Isa) -> Ops {
        let t = table(isa);
        Ops {
            gemm: t.gemm(),
            gemm_skip_zero: t.gemm_skip_zero(),
            softmax_step: t.softmax_step(),
            pack_k: t.pack_k(),
            pack_v: t.pack_v(),
            load_rows: t.load_rows(),
            store_rows: t.store_rows(),
            finish_softmax: t.finish_softmax(),
            vmath: t.vmath(),
        }
    }
}

/// f32 values on a cache line boundary.
struct Tile {
    data: Vec<f32>,
    offset: usize,
    len: usize,
}

impl Tile {
    fn zeroed(len: usize) -> Tile {
        let data = vec![0f32; len + 16];
        let offset = data.as_ptr().align_offset(64);
        Tile { data, offset, len }
    }

    /// Values spread over [-1, 1), the same at every run.
    fn noise(len: usize) -> Tile {
        let mut tile = Tile::zeroed(len);
        let mut state = 0x2545_f491_u32;
        for x in tile.slice() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *x = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
        }
        tile
    }

    fn slice(&mut self) -> &mut [f32] {
        &mut self.data[self.offset..self.offset + self.len]
    }

    fn ptr(&mut self) -> *mut f32 {
        self.slice().as_mut_ptr()
    }
}

/// Seconds of one call: median and best of many samples, each of about 200 us.
fn measure(mut f: impl FnMut()) -> (f64, f64) {
    let mut calls = 1usize;
    loop {
        let start = Instant::now();
        (0..calls).for_each(|_| f());
        if start.elapsed() > Duration::from_micros(150) {
            break;
        }
        calls *= 2;
    }
    let mut samples: Vec<f64> = (0..61)
        .map(|_| {
            let start = Instant::now();
            (0..calls).for_each(|_| f());
            start.elapsed().as_secs_f64() / calls as f64
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    (samples[samples.len() / 2], samples[0])
}

fn gemm_line(name: &str, gemm: GemmFn, peak: f64, rows: i64, k: i64, n: i64) {
    let panels = (n as usize).div_ceil(32);
    let (mut a, mut b) = (Tile::noise(rows as usize * k as usize), Tile::noise(panels * 32 * k as usize));
    let ldc = (n + 15) / 16 * 16;
    let mut c = Tile::zeroed((rows * ldc) as usize);
    let scale = vec![0.5f32; rows as usize];
    let (a, b, c) = (a.ptr(), b.ptr(), c.ptr());
    // SAFETY: the tiles have the sizes that the arguments say.
    let (median, best) = measure(|| unsafe { gemm(c, ldc, a, k, b, k * 32, rows, k, n, scale.as_ptr(), 1) });
    let flops = (2 * rows * k * n) as f64 / 1e9;
    let (m, b) = (flops / median, flops / best);
    println!(
        "  {name} {rows:>3} x {k:>3} x {n:>3}   {m:7.1} GFLOP/s  {:5.1} %   (best {b:7.1}, {:5.1} %)",
        m / peak * 100.0,
        b / peak * 100.0
    );
}

fn element_line(name: &str, count: usize, f: impl FnMut()) {
    let (median, best) = measure(f);
    let g = count as f64 / 1e9;
    println!("  {name:<24} {:7.2} Gelem/s   (best {:7.2})", g / median, g / best);
}

fn kernels(isa: Isa) {
    let ops = Ops::new(isa);
    let peak = fma_peak_gflops(isa, 1);
    println!("{isa}: FMA peak {peak:.1} GFLOP/s on one thread");
    for (rows, k, n) in [
        (64, 64, 128),
        (64, 128, 128),
        (64, 128, 64),
        (64, 256, 64),
        (128, 64, 128),
        (64, 64, 256),
        (61, 80, 112),
        (64, 128, 16),
        (1, 128, 128),
        (2, 128, 128),
        (4, 128, 128),
        (7, 128, 128),
        (8, 128, 128),
    ] {
        gemm_line("gemm", ops.gemm, peak, rows, k, n);
    }
    gemm_line("skip", ops.gemm_skip_zero, peak, 64, 128, 64);
    let (rows, cols) = (64, 128);
    let mut scores = Tile::noise(rows * cols);
    let (mut max, mut sum, mut alpha) = (vec![0f32; rows], vec![0f32; rows], vec![0f32; rows]);
    let (s, m, l, al) = (scores.ptr(), max.as_mut_ptr(), sum.as_mut_ptr(), alpha.as_mut_ptr());
    let count = rows * cols;
    let fill: Vec<f32> = scores.slice().to_vec();
    for floor in [0, 1] {
        // SAFETY: the tile and the vectors have the sizes that the arguments say.
        element_line(&format!("softmax_step floor={floor}"), count, || unsafe {
            (ops.softmax_step)(s, cols as i64, rows as i64, cols as i64, 0.125, m, l, al, floor)
        });
    }
    let (mut dst, mut src) = (Tile::zeroed(count), Tile::noise(count));
    src.slice().copy_from_slice(&fill);
    let (d, x) = (dst.ptr(), src.ptr());
    for f in [MathFn::Exp, MathFn::Log, MathFn::Tanh, MathFn::Sigmoid, MathFn::Sin] {
        // SAFETY: both tiles hold `count` values.
        element_line(&format!("vmath {f:?}"), count, || unsafe { (ops.vmath)(f as u32, d, x, count as i64) });
    }
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let mut bytes = vec![0u8; count * dtype.size()];
        let p = bytes.as_mut_ptr();
        // SAFETY: 128 keys (or 64 rows) of 64 (128) elements are `count` elements.
        unsafe {
            element_line(&format!("pack_k {dtype}"), count, || {
                (ops.pack_k)(d, p, dtype as u32, 128, 64, 64, 1)
            });
            element_line(&format!("pack_v {dtype}"), count, || {
                (ops.pack_v)(d, 128 * 32, p, dtype as u32, 128, 64, 64, 1);
            });
            element_line(&format!("load_rows {dtype}"), count, || {
                (ops.load_rows)(d, 64, p, dtype as u32, 128, 64, 64, 1)
            });
            element_line(&format!("store_rows {dtype}"), count, || {
                (ops.store_rows)(x, 64, p, dtype as u32, 128, 64, 64, 1, std::ptr::null())
            });
        }
    }
}

/// One causal attention problem: `heads` heads of `seq` queries and keys, `d` features, f32.
#[derive(Clone, Copy)]
struct Problem {
    heads: usize,
    seq: usize,
    d: usize,
    tile_q: usize,
    tile_kv: usize,
}

/// What one thread works in.
struct Workspace {
    k: Tile,
    v: Tile,
    q: Tile,
    s: Tile,
    o: Tile,
    stats: [Vec<f32>; 5],
}

impl Workspace {
    fn new(p: Problem) -> Workspace {
        Workspace {
            k: Tile::zeroed(p.seq * p.d),
            v: Tile::zeroed(p.seq * p.d),
            q: Tile::zeroed(p.tile_q * p.d),
            s: Tile::zeroed(p.tile_q * p.tile_kv),
            o: Tile::zeroed(p.tile_q * p.d),
            stats: std::array::from_fn(|_| vec![0f32; p.tile_q]),
        }
    }
}

/// Packs K and V of one head.
///
/// # Safety
/// `k` and `v` hold seq x d values.
unsafe fn pack_head(ops: Ops, p: Problem, w: &mut Workspace, k: *const f32, v: *const f32) {
    let (seq, d, f32_code) = (p.seq as i64, p.d as i64, DType::F32 as u32);
    // SAFETY: the workspace has room for seq x d values; the rest is the caller's promise.
    unsafe {
        (ops.pack_k)(w.k.ptr(), k.cast(), f32_code, seq, d, d, 1);
        (ops.pack_v)(w.v.ptr(), seq * 32, v.cast(), f32_code, seq, d, d, 1);
    }
}

/// One query tile of one head.
///
/// # Safety
/// `q` and `out` hold seq x d values, the workspace the packed head.
unsafe fn query_tile(ops: Ops, p: Problem, w: &mut Workspace, q: *const f32, out: *mut f32, first: usize) {
    let (d, tq, tk) = (p.d as i64, p.tile_q as i64, p.tile_kv as i64);
    let [max, sum, alpha, inv, lse] = &mut w.stats;
    max.fill(f32::NEG_INFINITY);
    sum.fill(0.0);
    let scale = 1.0 / (p.d as f32).sqrt();
    // SAFETY: every offset is inside seq x d or inside a tile.
    unsafe {
        (ops.load_rows)(w.q.ptr(), d, q.add(first * p.d).cast(), DType::F32 as u32, tq, d, d, 1);
        let end = first + p.tile_q;
        let mut key = 0;
        while key < end {
            let cols = p.tile_kv.min(end - key) as i64;
            let k = w.k.ptr().add(key * p.d);
            (ops.gemm)(w.s.ptr(), tk, w.q.ptr(), d, k, d * 32, tq, d, cols, std::ptr::null(), 0);
            if key + cols as usize > first + 1 {
                mask_diagonal(p, w.s.ptr(), first, key, cols as usize);
            }
            let (m, l, a) = (max.as_mut_ptr(), sum.as_mut_ptr(), alpha.as_mut_ptr());
            (ops.softmax_step)(w.s.ptr(), tk, tq, cols, scale, m, l, a, 0);
            let v = w.v.ptr().add(key * 32);
            let accumulate = i32::from(key > 0);
            (ops.gemm)(w.o.ptr(), d, w.s.ptr(), tk, v, p.seq as i64 * 32, tq, cols, d, a, accumulate);
            key += p.tile_kv;
        }
        (ops.finish_softmax)(
            tq,
            max.as_ptr(),
            sum.as_ptr(),
            f32::NEG_INFINITY,
            inv.as_mut_ptr(),
            lse.as_mut_ptr(),
        );
        let to = out.add(first * p.d).cast();
        (ops.store_rows)(w.o.ptr(), d, to, DType::F32 as u32, tq, d, d, 1, inv.as_ptr());
    }
}

/// Sets scores of keys after the query to -inf.
///
/// # Safety
/// `s` is the tile of queries from `first` and keys from `key` on.
unsafe fn mask_diagonal(p: Problem, s: *mut f32, first: usize, key: usize, cols: usize) {
    for r in 0..p.tile_q {
        let live = (first + r + 1).saturating_sub(key).min(cols);
        // SAFETY: live <= cols <= tile_kv.
        unsafe { std::slice::from_raw_parts_mut(s.add(r * p.tile_kv + live), cols - live) }
            .fill(f32::NEG_INFINITY);
    }
}

/// Pointers that threads share.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: threads write disjoint tiles of the output and only read the inputs.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// The whole problem; query tiles are dealt out in turn, from the longest to the shortest.
fn fused(ops: Ops, p: Problem, threads: usize, io: [Shared; 4], work: &mut [Workspace]) {
    let [q, k, v, out] = io;
    let one = |thread: usize, w: &mut Workspace| {
        let (q, k, v, out) = (q, k, v, out);
        for head in 0..p.heads {
            let at = head * p.seq * p.d;
            // SAFETY: the inputs hold heads x seq x d values.
            unsafe {
                pack_head(ops, p, w, k.0.add(at), v.0.add(at));
                for tile in (0..p.seq / p.tile_q).rev().filter(|t| (t + t / threads) % threads == thread) {
                    query_tile(ops, p, w, q.0.add(at), out.0.add(at), tile * p.tile_q);
                }
            }
        }
    };
    if threads == 1 {
        return one(0, &mut work[0]);
    }
    std::thread::scope(|scope| {
        for (thread, w) in work.iter_mut().enumerate().take(threads) {
            let one = &one;
            scope.spawn(move || one(thread, w));
        }
    });
}

/// Largest difference to a naive f64 evaluation of a few rows.
fn error(p: Problem, q: &mut Tile, k: &mut Tile, v: &mut Tile, out: &mut Tile) -> f64 {
    let (q, k, v, out) = (q.slice(), k.slice(), v.slice(), out.slice());
    let mut worst = 0f64;
    for row in [0, 1, p.seq / 2 + 3, p.seq - 1] {
        let dot =
            |j: usize| (0..p.d).map(|x| f64::from(q[row * p.d + x]) * f64::from(k[j * p.d + x])).sum::<f64>();
        let w: Vec<f64> = (0..=row).map(|j| (dot(j) / (p.d as f64).sqrt()).exp()).collect();
        let total: f64 = w.iter().sum();
        for x in 0..p.d {
            let o: f64 =
                w.iter().enumerate().map(|(j, w)| w * f64::from(v[j * p.d + x])).sum::<f64>() / total;
            worst = worst.max((o - f64::from(out[row * p.d + x])).abs());
        }
    }
    worst
}

fn fused_lines(isa: Isa, tiles: &[(usize, usize)]) {
    let ops = Ops::new(isa);
    for d in [64, 128] {
        for &(tile_q, tile_kv) in tiles {
            let p = Problem { heads: 8, seq: 2048, d, tile_q, tile_kv };
            let len = p.heads * p.seq * d;
            let (mut q, mut k, mut v, mut out) =
                (Tile::noise(len), Tile::noise(len), Tile::noise(len), Tile::zeroed(len));
            let io = [&mut q, &mut k, &mut v, &mut out].map(|t| Shared(t.ptr()));
            let mut work: Vec<_> = (0..2).map(|_| Workspace::new(p)).collect();
            let useful = 4.0 * (p.heads * d) as f64 * (p.seq * (p.seq + 1) / 2) as f64 / 1e9;
            for threads in [1, 2] {
                let mut peaks = Vec::new();
                let mut times = Vec::new();
                for _ in 0..7 {
                    peaks.push(fma_peak_gflops(isa, threads));
                    let start = Instant::now();
                    fused(ops, p, threads, io, &mut work);
                    times.push(start.elapsed().as_secs_f64());
                }
                peaks.sort_by(f64::total_cmp);
                times.sort_by(f64::total_cmp);
                let (peak, median, best) = (peaks[peaks.len() - 1], times[times.len() / 2], times[0]);
                println!(
                    "{isa} D={d:<3} tile {tile_q:>3} x {tile_kv:<3} threads {threads}: {:7.2} ms {:6.1} GFLOP/s {:5.1} % of {peak:.0}  (best {:7.2} ms, {:5.1} %)",
                    median * 1e3,
                    useful / median,
                    useful / median / peak * 100.0,
                    best * 1e3,
                    useful / best / peak * 100.0
                );
            }
            let e = error(p, &mut q, &mut k, &mut v, &mut out);
            assert!(e < 2e-6, "wrong by {e}");
        }
    }
}

fn main() {
    let what: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| what.is_empty() || what.iter().any(|w| w == name);
    if wants("kernels") {
        println!(
            "memory: read {:.1} GB/s on one thread, {:.1} on two",
            read_bandwidth_gbs(1),
            read_bandwidth_gbs(2)
        );
        Isa::available().into_iter().filter(|&isa| isa != Isa::Portable).for_each(kernels);
    }
    if wants("fused") {
        fused_lines(
            Isa::available()[0],
            &[
                (64, 128),
                (64, 64),
                (64, 256),
                (128, 128),
                (32, 128),
                (48, 128),
                (96, 96),
                (128, 64),
                (128, 256),
            ],
        );
    }
}
