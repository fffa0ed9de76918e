//! What this machine can do at most: FMAs per second and bytes read per second.
//!
//! In: an instruction set and a number of threads. Out: the best of several short measurements, so that a
//! busy machine is seen at its quiet moments. Takes some hundreds of milliseconds. Not here: caches.

use super::facts::host_facts;
use super::intrinsics::{Isa, Probe};
use crate::aligned::AlignedBuf;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Measurements, of which the best counts.
const REPEATS: usize = 9;
/// Bytes that each of `threads` threads reads: together four times the last cache, so that little of them is still there
/// from the time before.
fn read_bytes(threads: usize) -> usize {
    let last = host_facts().map_or(0, |facts| facts.l3);
    (4 * last / threads).clamp(64 << 20, 512 << 20) / size_of::<f32>() * size_of::<f32>()
}

/// Runs `work` once per thread, all starting together; returns the time until the last has ended.
fn timed(threads: usize, work: impl Fn(usize) + Sync) -> Duration {
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    work(thread);
                    (start, Instant::now())
                })
            })
            .collect();
        barrier.wait();
        let spans: Vec<_> =
            handles.into_iter().map(|h| h.join().expect("measuring does not panic")).collect();
        let start = spans.iter().map(|s| s.0).min().expect("at least one thread");
        let end = spans.iter().map(|s| s.1).max().expect("at least one thread");
        end - start
    })
}

/// Billions of f32 operations per second (an FMA is two) of register-only FMA loops on `threads` threads
/// (at least one). An instruction set that the machine lacks gives 0.
pub fn fma_peak_gflops(isa: Isa, threads: usize) -> f64 {
    let Some(probe) = Probe::new(isa) else { return 0.0 };
    let threads = threads.max(1);
    let mut iterations = 1 << 8;
    // Long enough to dwarf the clock and the start, short enough to fit between two interruptions.
    while timed(threads, |_| _ = black_box(probe.fma(iterations))) < Duration::from_micros(500) {
        iterations *= 2;
    }
    let best = (0..REPEATS).map(|_| timed(threads, |_| _ = black_box(probe.fma(iterations)))).min();
    let flops = (probe.fma_flops() * iterations * threads) as f64;
    flops / best.expect("REPEATS > 0").as_secs_f64() / 1e9
}

/// Billions of bytes per second that `threads` threads (at least one) read together from memory, from pages like
/// those of tensors. 0 where there is no memory for it.
pub fn read_bandwidth_gbs(threads: usize) -> f64 {
    let probe = Probe::best();
    let threads = threads.max(1);
    let bytes = read_bytes(threads);
    let Ok(mut data) = (0..threads).map(|_| AlignedBuf::zeroed(bytes)).collect::<Result<Vec<_>, _>>() else {
        return 0.0;
    };
    for buf in &mut data {
        bytemuck::cast_slice_mut::<u8, f32>(buf.bytes_mut()).fill(1.0);
    }
    let read = |i: usize| probe.read(bytemuck::cast_slice(data[i].bytes()));
    let best = (0..REPEATS).map(|_| timed(threads, |i| _ = black_box(read(i)))).min();
    let bytes = (threads * bytes) as f64;
    bytes / best.expect("REPEATS > 0").as_secs_f64() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_positive_and_two_registers_beat_none() {
        let isas = Isa::available();
        let best = fma_peak_gflops(isas[0], 1);
        assert!(best > 0.1, "{best} GFLOP/s");
        assert!(read_bandwidth_gbs(1) > 0.1);
    }
}
