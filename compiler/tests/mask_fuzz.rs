//! Random masks against brute force: nothing unsound, every single leaf exact, nearly all tiles of compositions exact.
//!
//! In release mode 100,000 compositions up to 160 x 160 and 1,000 at 1024 x 1024 with every choice drawn evenly, and a
//! fifth of that drawn as masks in use are (`generate.rs`); in debug mode 3,000 and 20:
//! `cargo test --release -p attn-compiler --test mask_fuzz -- --nocapture`. `MASK_FUZZ_CASES` sets another count,
//! `MASK_FUZZ_FIRST` the first seed.
//!
//! Drawn evenly: 99.932 % of 5,345,205 tiles exact (99.870 % of 256,000 at 1024); 98.07 % before tiles were cut at
//! blocks of data (`mask/cuts.rs`). As in use: 99.884 % (99.973 %). What is left are mostly conjunctions of
//! remainders by two divisors (`j mod 8 == p & j mod 3 == q`) or of one with a bound that only data give: each atom is
//! judged alone within the bounds of the others.

mod mask_common;

use std::collections::BTreeMap;

use attn_compiler::expr::print::print;
use mask_common::generate::{
    LARGE, LARGE_WEIGHTED, SMALL, SMALL_WEIGHTED, Sizes, families, generate_leaf, generate_named,
};
use mask_common::{Case, Tally, Truth, compare};

/// The tally of one case; a wrong answer ends the test.
fn judge(label: &str, seed: u64, case: &mut Case, nodes: &mut usize) -> Tally {
    let analysis = case.analyze();
    let tally = compare(case, &analysis, &Truth::new(case));
    let (may, must) = analysis.symbolic();
    *nodes += case.pool.reachable(&[may, must]).len();
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
    tally
}

fn run(label: &str, n_cases: u64, sizes: Sizes) -> Tally {
    let mut total = Tally::default();
    let mut worst: Vec<(usize, u64)> = Vec::new();
    let mut with: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut n_nodes = 0;
    let started = std::time::Instant::now();
    let first = number("MASK_FUZZ_FIRST").unwrap_or(0);
    for seed in first..first + n_cases {
        let (mut case, mut leaves) = generate_named(seed, sizes);
        let tally = judge(label, seed, &mut case, &mut n_nodes);
        total.add(&tally);
        worst.push((tally.tiles - tally.exact, seed));
        leaves.sort_unstable();
        leaves.dedup();
        leaves.into_iter().for_each(|leaf| with.entry(leaf).or_default().add(&tally));
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
    for (leaf, tally) in with {
        println!("  with {leaf}: {} tiles, {:.3} % exact", tally.tiles, tally.percent());
    }
    total
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn count(release: u64, debug: u64) -> u64 {
    number("MASK_FUZZ_CASES").unwrap_or(if cfg!(debug_assertions) { debug } else { release })
}

/// Each family alone, every choice drawn evenly.
#[test]
fn single_leaves() {
    let n_cases = count(5_000, 100);
    for (n, family) in families().enumerate() {
        let (mut total, mut nodes) = (Tally::default(), 0);
        for seed in 0..n_cases {
            let mut case = generate_leaf(seed, SMALL, n);
            total.add(&judge(family, seed, &mut case, &mut nodes));
        }
        println!(
            "{family}: {} tiles: {:.3} % exact; missed {} of {} empty and {} of {} full; {} nodes on average",
            total.tiles,
            total.percent(),
            total.missed_empty,
            total.empty,
            total.missed_full,
            total.full,
            nodes as u64 / n_cases.max(1),
        );
        assert_eq!(total.exact, total.tiles, "{family}");
    }
}

/// What language.md promises; the figures above are what is reached.
fn assert_exact(total: &Tally) {
    assert!(total.percent() >= 98.0, "{:.3} % exact", total.percent());
}

#[test]
fn small_compositions() {
    assert_exact(&run("up to 160", count(100_000, 3_000), SMALL));
}

#[test]
fn large_compositions() {
    assert_exact(&run("1024", count(1_000, 20), LARGE));
}

#[test]
fn small_compositions_as_in_use() {
    assert_exact(&run("up to 160, weighted", count(20_000, 3_000), SMALL_WEIGHTED));
}

#[test]
fn large_compositions_as_in_use() {
    assert_exact(&run("1024, weighted", count(200, 20), LARGE_WEIGHTED));
}
