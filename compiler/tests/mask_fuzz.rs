//! Random compositions of masks against brute force: nothing unsound, nearly all tiles exact.
//!
//! In release mode 100,000 compositions up to 160 x 160 and 1,000 at 1024 x 1024; in debug mode 3,000 and 20:
//! `cargo test --release -p attn-compiler --test mask_fuzz -- --nocapture`. `MASK_FUZZ_CASES`
//! sets another count, `MASK_FUZZ_FIRST` the first seed.

mod mask_common;

use attn_compiler::expr::print::print;
use mask_common::generate::{LARGE, SMALL, Sizes, generate};
use mask_common::{Tally, Truth, compare};

fn run(label: &str, n_cases: u64, sizes: Sizes) -> Tally {
    let mut total = Tally::default();
    let mut worst: Vec<(usize, u64)> = Vec::new();
    let mut n_nodes = 0;
    let started = std::time::Instant::now();
    let first = number("MASK_FUZZ_FIRST").unwrap_or(0);
    for seed in first..first + n_cases {
        let mut case = generate(seed, sizes);
        let analysis = case.analyze();
        let tally = compare(&case, &analysis, &Truth::new(&case));
        let (may, must) = analysis.symbolic();
        n_nodes += case.pool.reachable(&[may, must]).len();
        if tally.unsound + tally.hull_wrong > 0 {
            let tensor = |t: attn_compiler::expr::TensorId| format!("t{}", t.0);
            panic!(
                "{label} seed {seed}: {tally:?}\n{:?}\nmask {}\nmay  {}\nmust {}\nkeys {}",
                case.grid,
                print(&case.pool, case.mask, &tensor),
                print(&case.pool, may, &tensor),
                print(&case.pool, must, &tensor),
                print(&case.pool, analysis.symbolic_ranges().0.0, &tensor),
            );
        }
        total.add(&tally);
        worst.push((tally.tiles - tally.exact, seed));
    }
    worst.sort_unstable_by(|a, b| b.cmp(a));
    println!(
        "{label}: {n_cases} compositions, {} tiles: {:.3} % exact, {} unsound; missed {} of {} empty and {} of {} \
         full; hulls {} wrong, {:.2} % exact; {} nodes on average; {:.1} s; least exact seeds {:?}",
        total.tiles,
        total.percent(),
        total.unsound,
        total.missed_empty,
        total.empty,
        total.missed_full,
        total.full,
        total.hull_wrong,
        100.0 * total.hull_exact as f64 / total.hulls.max(1) as f64,
        n_nodes as u64 / n_cases.max(1),
        started.elapsed().as_secs_f64(),
        &worst[..worst.len().min(12)],
    );
    total
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn count(release: u64, debug: u64) -> u64 {
    number("MASK_FUZZ_CASES").unwrap_or(if cfg!(debug_assertions) { debug } else { release })
}

#[test]
fn small_compositions() {
    let total = run("up to 160", count(100_000, 3_000), SMALL);
    assert!(total.percent() >= 98.0, "{:.3} % exact", total.percent());
}

#[test]
fn large_compositions() {
    let total = run("1024", count(1_000, 20), LARGE);
    assert!(total.percent() >= 98.0, "{:.3} % exact", total.percent());
}
