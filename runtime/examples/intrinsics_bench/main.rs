//! Measures the tile intrinsics: GFLOP/s and fraction of the FMA peak, per instruction set, and a fused
//! causal attention loop made of them as generated code calls them.
//!
//! In: optionally `every`, `kernels`, `tiles` or `fused` on the command line (all by default). Out: a table on standard
//! output; medians, and the best in brackets, since other work on the machine only ever adds time.
//! Run with `cargo run --release -p attn-runtime --example intrinsics_bench`.

mod every;

use attn_compiler::artifact::{DType, MathFn};
use attn_runtime::cpu::intrinsics::{
    FinishSoftmaxFn, GemmFn, Isa, LoadRowsFn, PackKFn, PackVFn, SoftmaxStepFn, StoreRowsFn, VMathFn, table,
};
use attn_runtime::cpu::peak::{fma_peak_gflops, read_bandwidth_gbs};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
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

fn softmax_lines(ops: Ops, rows: usize, cols: usize) {
    let mut scores = Tile::noise(rows * cols);
    let (mut max, mut sum, mut alpha) = (vec![0f32; rows], vec![0f32; rows], vec![0f32; rows]);
    let (s, m, l, a) = (scores.ptr(), max.as_mut_ptr(), sum.as_mut_ptr(), alpha.as_mut_ptr());
    for floor in [0, 1] {
        // SAFETY: the tile and the vectors have the sizes that the arguments say.
        element_line(&format!("softmax {rows} x {cols} floor {floor}"), rows * cols, || unsafe {
            (ops.softmax_step)(s, cols as i64, rows as i64, cols as i64, 0.125, m, l, a, floor)
        });
    }
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
    for (rows, cols) in [(64, 128), (32, 128), (64, 64), (64, 256)] {
        softmax_lines(ops, rows, cols);
    }
    stream_lines(ops);
    let count = 64 * 128;
    let (mut dst, mut src) = (Tile::zeroed(count), Tile::noise(count));
    let (d, x) = (dst.ptr(), src.ptr());
    let n = count as i64;
    for f in [MathFn::Exp, MathFn::Log, MathFn::Tanh, MathFn::Sigmoid, MathFn::Sin] {
        // SAFETY: the tile holds `count` values.
        element_line(&format!("vmath {f:?}"), count, || unsafe { (ops.vmath)(f as u32, d, n, 1, n) });
    }
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::I8] {
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

/// Steps between tiles of 64 x 128, and of vectors of as many elements.
fn tile_lines(isa: Isa) {
    let t = table(isa);
    let (rows, cols) = (64i64, 128i64);
    let count = (rows * cols) as usize;
    println!("{isa}: tiles of {rows} x {cols}");
    let (mut dst, mut src) = (Tile::zeroed(count), Tile::noise(count));
    let (d, s) = (dst.ptr(), src.ptr());
    let decay = vec![0.5f32; rows as usize];
    let from = s.cast::<u8>().cast_const();
    let mut sums = vec![0f32; count];
    let (sums, none) = (sums.as_mut_ptr(), std::ptr::null_mut());
    let mut indices = vec![0i32; 64];
    let chosen = indices.as_mut_ptr();
    // SAFETY: both tiles hold `count` values, the vectors what the arguments say.
    unsafe {
        element_line("transpose", count, || (t.transpose())(d, rows, s, cols, rows, cols));
        element_line("load_rows f32 transposed", count, || {
            (t.load_rows())(d, cols, from, DType::F32 as u32, rows, cols, 1, rows)
        });
        element_line("scan_rows", count, || (t.scan_rows())(d, cols, rows, cols, decay.as_ptr()));
        for (op, name) in [(0, "max"), (1, "sum"), (2, "max_abs")] {
            element_line(&format!("reduce_rows {name}"), count, || {
                (t.reduce_rows())(op, sums, s, cols, rows, cols)
            });
        }
        element_line("random", count, || (t.random())(d, cols, rows, cols, 7, 3, 1, 2, 5, 1 << 29, 1.125));
        let n = count as i64;
        element_line("prefix_sum", count, || (t.prefix_sum())(sums, d, from, DType::F32 as u32, n, 1));
        element_line("top_k 64", count, || (t.top_k())(chosen, none, from, DType::F32 as u32, n, 1, 64, 64));
    }
}

/// Packing of keys and values that come from memory (decode), 128 keys of 128 features at a time.
fn stream_lines(ops: Ops) {
    let (keys, d) = (1 << 17, 128usize);
    for dtype in [DType::F32, DType::F16] {
        let mut bytes = vec![1u8; keys * d * dtype.size()];
        let mut dst = Tile::zeroed(128 * d);
        let (from, to, code) = (bytes.as_mut_ptr(), dst.ptr(), dtype as u32);
        for values in [false, true] {
            let mut shortest = vec![f64::INFINITY; keys / 128];
            for _ in 0..7 {
                for (tile, shortest) in shortest.iter_mut().enumerate() {
                    let start = Instant::now();
                    // SAFETY: 128 keys from 128 * tile on are inside, the destination holds them packed.
                    unsafe {
                        let from = from.add(tile * 128 * d * dtype.size());
                        if values {
                            (ops.pack_v)(to, 128 * 32, from, code, 128, d as i64, d as i64, 1);
                        } else {
                            (ops.pack_k)(to, from, code, 128, d as i64, d as i64, 1);
                        }
                    }
                    *shortest = shortest.min(start.elapsed().as_secs_f64());
                }
            }
            let name = if values { "pack_v" } else { "pack_k" };
            let rate = bytes.len() as f64 / shortest.iter().sum::<f64>() / 1e9;
            println!("  {name} {dtype} from memory, undisturbed {rate:.1} GB/s");
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
    q: Tile,
    s: Tile,
    o: Tile,
    stats: [Vec<f32>; 5],
    /// Shortest seconds seen of each query tile and, last, of the packing of a head.
    shortest: Vec<f64>,
}

impl Workspace {
    fn new(p: Problem) -> Workspace {
        Workspace {
            q: Tile::zeroed(p.tile_q * p.d),
            s: Tile::zeroed(p.tile_q * p.tile_kv),
            o: Tile::zeroed(p.tile_q * p.d),
            stats: std::array::from_fn(|_| vec![0f32; p.tile_q]),
            shortest: vec![f64::INFINITY; p.seq.div_ceil(p.tile_q) + 1],
        }
    }

    /// Runs `f` and notes how long it took if that is the shortest so far.
    fn note(&mut self, span: usize, f: impl FnOnce(&mut Workspace)) {
        let start = Instant::now();
        f(self);
        self.shortest[span] = self.shortest[span].min(start.elapsed().as_secs_f64());
    }
}

/// One head: its queries, keys and values, room for the packed keys and values, and its output.
#[derive(Clone, Copy)]
struct Head {
    q: *const f32,
    k: *const f32,
    v: *const f32,
    out: *mut f32,
    packed_k: *mut f32,
    packed_v: *mut f32,
}

/// Packs keys and values first..last of a head; both are multiples of 32.
///
/// # Safety
/// All of the head's pointers hold seq x d values.
unsafe fn pack(ops: Ops, p: Problem, h: Head, first: usize, last: usize) {
    let (n, d, code) = ((last - first) as i64, p.d as i64, DType::F32 as u32);
    // SAFETY: the range is inside the head; the rest is the caller's promise.
    unsafe {
        let (k, v) = (h.k.add(first * p.d), h.v.add(first * p.d));
        (ops.pack_k)(h.packed_k.add(first * p.d), k.cast(), code, n, d, d, 1);
        (ops.pack_v)(h.packed_v.add(first * 32), p.seq as i64 * 32, v.cast(), code, n, d, d, 1);
    }
}

/// One query tile of one head.
///
/// # Safety
/// The head is packed, its pointers hold seq x d values.
unsafe fn query_tile(ops: Ops, p: Problem, w: &mut Workspace, h: Head, first: usize) {
    let rows = p.tile_q.min(p.seq - first);
    let (d, tq, tk) = (p.d as i64, rows as i64, p.tile_kv as i64);
    let [max, sum, alpha, inv, lse] = &mut w.stats;
    max.fill(f32::NEG_INFINITY);
    sum.fill(0.0);
    let scale = 1.0 / (p.d as f32).sqrt();
    // SAFETY: every offset is inside seq x d or inside a tile.
    unsafe {
        (ops.load_rows)(w.q.ptr(), d, h.q.add(first * p.d).cast(), DType::F32 as u32, tq, d, d, 1);
        let end = first + rows;
        let mut key = 0;
        while key < end {
            let cols = p.tile_kv.min(end - key) as i64;
            let k = h.packed_k.add(key * p.d);
            (ops.gemm)(w.s.ptr(), tk, w.q.ptr(), d, k, d * 32, tq, d, cols, std::ptr::null(), 0);
            if key + cols as usize > first + 1 {
                mask_diagonal(p, w.s.ptr(), rows, first, key, cols as usize);
            }
            let (m, l, a) = (max.as_mut_ptr(), sum.as_mut_ptr(), alpha.as_mut_ptr());
            (ops.softmax_step)(w.s.ptr(), tk, tq, cols, scale, m, l, a, 0);
            let v = h.packed_v.add(key * 32);
            let accumulate = i32::from(key > 0);
            (ops.gemm)(w.o.ptr(), d, w.s.ptr(), tk, v, p.seq as i64 * 32, tq, cols, d, a, accumulate);
            key += p.tile_kv;
        }
        let (m, l, sink) = (max.as_ptr(), sum.as_ptr(), f32::NEG_INFINITY);
        (ops.finish_softmax)(tq, m, l, sink, inv.as_mut_ptr(), lse.as_mut_ptr());
        let to = h.out.add(first * p.d).cast();
        (ops.store_rows)(w.o.ptr(), d, to, DType::F32 as u32, tq, d, d, 1, inv.as_ptr());
    }
}

/// Sets scores of keys after the query to -inf.
///
/// # Safety
/// `s` is the tile of queries from `first` and keys from `key` on.
unsafe fn mask_diagonal(p: Problem, s: *mut f32, rows: usize, first: usize, key: usize, cols: usize) {
    for r in 0..rows {
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

/// q, k, v, out; then packed keys and values of two heads in turn.
type Io = [Shared; 6];

/// The whole problem: for each head the threads share the packing, then take query tiles, the longest first.
fn fused(ops: Ops, p: Problem, threads: usize, io: Io, work: &mut [Workspace]) {
    let barrier = Barrier::new(threads);
    let taken: Vec<AtomicUsize> = (0..p.heads).map(|_| AtomicUsize::new(0)).collect();
    let one = |thread: usize, w: &mut Workspace, io: Io| {
        let tiles = p.seq.div_ceil(p.tile_q);
        let share = (p.seq / threads).next_multiple_of(32);
        for (head, taken) in taken.iter().enumerate() {
            let size = p.seq * p.d;
            // SAFETY: the inputs hold heads x seq x d values, the packed buffers two heads.
            let [q, k, v, out] = std::array::from_fn(|i| unsafe { io[i].0.add(head * size) });
            // SAFETY: as above.
            let [packed_k, packed_v] = [4, 5].map(|i| unsafe { io[i].0.add(head % 2 * size) });
            let h = Head { q, k, v, out, packed_k, packed_v };
            // SAFETY: as above; a thread can be at most one head ahead, which is packed elsewhere.
            w.note(tiles, |_| unsafe {
                pack(ops, p, h, (thread * share).min(p.seq), ((thread + 1) * share).min(p.seq))
            });
            barrier.wait();
            loop {
                let tile = taken.fetch_add(1, Ordering::Relaxed);
                if tile >= tiles {
                    break;
                }
                // SAFETY: the head is packed once all threads have passed the barrier.
                w.note(tile, |w| unsafe { query_tile(ops, p, w, h, (tiles - 1 - tile) * p.tile_q) });
            }
        }
    };
    std::thread::scope(|scope| {
        let (first, rest) = work[..threads].split_first_mut().expect("at least one thread");
        for (i, w) in rest.iter_mut().enumerate() {
            let one = &one;
            scope.spawn(move || one(i + 1, w, io));
        }
        one(0, first, io);
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

/// Times one problem on some threads beside the peak; prints median, best and, for one thread, the sum of the
/// shortest times of the parts, which a busy machine disturbs least.
fn fused_line(isa: Isa, p: Problem, threads: usize, io: Io, work: &mut [Workspace]) {
    let (mut peak, mut times) = (0f64, Vec::new());
    for _ in 0..9 {
        peak = peak.max(fma_peak_gflops(isa, threads));
        let start = Instant::now();
        fused(Ops::new(isa), p, threads, io, work);
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let useful = 4.0 * (p.heads * p.d) as f64 * (p.seq * (p.seq + 1) / 2) as f64 / 1e9;
    let shortest = &work[0].shortest;
    let quiet = (shortest.iter().sum::<f64>()) * p.heads as f64;
    let quiet = if threads == 1 { quiet } else { f64::NAN };
    print!("{isa} D={:<3} tile {:>3} x {:<3} threads {threads}", p.d, p.tile_q, p.tile_kv);
    for (name, time) in [("median", times[times.len() / 2]), ("best", times[0]), ("undisturbed", quiet)] {
        if time.is_finite() {
            let rate = useful / time;
            print!("   {name} {:.2} ms {rate:.1} GFLOP/s {:.1} %", time * 1e3, rate / peak * 100.0);
        }
    }
    println!(" of {peak:.0}");
}

fn fused_lines(isa: Isa, tiles: &[(usize, usize)]) {
    for d in [64, 128] {
        for &(tile_q, tile_kv) in tiles {
            let p = Problem { heads: 8, seq: 2048, d, tile_q, tile_kv };
            let len = p.heads * p.seq * d;
            let mut data = [len, len, len, len, 2 * p.seq * d, 2 * p.seq * d].map(Tile::noise);
            let io = data.each_mut().map(|t| Shared(t.ptr()));
            let mut work: Vec<_> = (0..2).map(|_| Workspace::new(p)).collect();
            for threads in [1, 2] {
                fused_line(isa, p, threads, io, &mut work);
            }
            let [q, k, v, out, ..] = &mut data;
            let e = error(p, q, k, v, out);
            assert!(e < 2e-6, "wrong by {e}");
        }
    }
}

fn main() {
    let what: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| what.is_empty() || what.iter().any(|w| w == name);
    if wants("every") {
        Isa::available().into_iter().for_each(every::lines);
    }
    if wants("kernels") {
        println!(
            "memory: read {:.1} GB/s on one thread, {:.1} on two",
            read_bandwidth_gbs(1),
            read_bandwidth_gbs(2)
        );
        Isa::available().into_iter().filter(|&isa| isa != Isa::Portable).for_each(kernels);
    }
    if wants("tiles") {
        Isa::available().into_iter().for_each(tile_lines);
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
