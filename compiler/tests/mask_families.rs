//! The mask families of language.md ("What the compiler owes the author", 2) against brute force: N = 1024,
//! tiles of 64 x 64. Also: parameters at the end of the 64-bit range, and the cost of classification.

mod mask_common;

use attn_compiler::attn_ir::Fact;
use attn_compiler::expr::eval::Value;
use attn_compiler::expr::print::print;
use mask_common::{Builder, Case, Tally, Truth, compare};

/// Name, mask, and whether the hulls of keys are expected to be exact (tables need a search, which no closed
/// form has).
const FAMILIES: [(&str, &str, bool); 19] = [
    ("causal", "j <= i", true),
    ("bottom-right causal", "j <= i", true),
    ("window", "i - W < j & j <= i", true),
    ("two-sided window", "abs(i - j) <= W", true),
    ("window + sinks", "j <= i & (i - W < j | j < keep)", true),
    ("prefix", "j <= i | j < prefix[b]", true),
    ("chunked", "i div 192 == j div 192 & j <= i", true),
    ("documents", "doc[i] == doc[j]", false),
    ("documents + causal", "j <= i & doc[i] == doc[j]", false),
    ("documents + window", "j <= i & i - W < j & doc[i] == doc[j]", false),
    ("dilated", "i - W * 4 < j & j <= i & (i - j) mod 4 == 0", true),
    ("strided", "j <= i & (i - j < 32 | (i - j) mod 128 == 0)", true),
    (
        "BigBird",
        "i div 64 - 1 <= j div 64 & j div 64 <= i div 64 + 1 | i < 128 | j < 128 \
         | rand_block(i div 64, j div 64, 16, h, 3, 7)",
        false,
    ),
    ("compressed causal", "(j + 1) * 4 <= i + 1", true),
    ("block diffusion", "j div 96 <= i div 96", true),
    ("block diffusion, run-time block", "j div C <= i div C", true),
    (
        "block diffusion, noisy and clean halves",
        "(i < 512 ? (j < 512 ? i div 96 == j div 96 : (j - 512) div 96 < i div 96) \
         : 512 <= j & (j - 512) div 96 <= (i - 512) div 96)",
        true,
    ),
    ("complement of a window", "!(i - W < j & j <= i)", true),
    (
        "heads: chunks or dilated",
        "j <= i & (h < 2 ? i div 256 == j div 256 : 64 <= abs(i - j) & (i - j) mod 4 == 0 | i - j < 64)",
        true,
    ),
];

fn case(name: &str, mask: &str) -> Case {
    let (seq_q, seq_k) = if name == "bottom-right causal" { (256, 1024) } else { (1024, 1024) };
    let mut b = Builder::new(seq_q, seq_k, (64, 64), seq_q != seq_k);
    for (param, value) in [("W", 200), ("keep", 4), ("C", 96), ("b", 1), ("h", 2)] {
        b.values.add(&mut b.pool, param, Value::Int(value));
    }
    let lengths = [100, 37, 260, 128, 199, 300];
    let doc = lengths.iter().enumerate().flat_map(|(n, &len)| std::iter::repeat_n(n as i64, len)).collect();
    b.tensor("doc", &[1024], false, Fact::Sorted, doc);
    b.tensor("prefix", &[2], false, Fact::None, vec![10, 300]);
    let mask = b.parse(mask);
    b.finish(mask)
}

#[test]
fn families_are_classified_exactly() {
    let mut wrong = Vec::new();
    for (name, mask, hull_expected) in FAMILIES {
        let mut case = case(name, mask);
        let analysis = case.analyze();
        let t: Tally = compare(&case, &analysis, &Truth::new(&case));
        let (may, must) = analysis.symbolic();
        let tensor = |t: attn_compiler::expr::TensorId| case.values.tensors[t.0 as usize].name.clone();
        println!(
            "{name}: {}/{} exact, {} unsound, hulls {}/{} exact, {} wrong; {} nodes\n  may  {}\n  must {}\n  keys {} .. {}",
            t.exact,
            t.tiles,
            t.unsound,
            t.hull_exact,
            t.hulls,
            t.hull_wrong,
            case.pool.reachable(&[may, must]).len(),
            print(&case.pool, may, &tensor),
            print(&case.pool, must, &tensor),
            print(&case.pool, analysis.symbolic_ranges().0.0, &tensor),
            print(&case.pool, analysis.symbolic_ranges().0.1, &tensor),
        );
        let hulls = !hull_expected || t.hull_exact == t.hulls;
        if t.exact != t.tiles || t.unsound + t.hull_wrong > 0 || !hulls {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "not exact: {wrong:?}");
}

/// A parameter as large as an int can be ("no window") meets no sum that overflows.
#[test]
fn the_largest_window_is_no_window() {
    for (mask, same) in [
        ("j <= i & i - j < W & doc[i] == doc[j]", "j <= i & doc[i] == doc[j]"),
        ("abs(i - j) <= W & i div 96 == j div 96", "i div 96 == j div 96"),
        ("i div W == j div W & j < W", "true"),
    ] {
        let [with, without] = [mask, same].map(|mask| {
            let mut case = case("", &mask.replace('W', &i64::MAX.to_string()));
            let analysis = case.analyze();
            let map = case.tile_map(&analysis);
            assert_eq!(compare(&case, &analysis, &Truth::new(&case)).hull_wrong, 0, "{mask}");
            map
        });
        assert_eq!(with, without, "{mask}");
    }
}

/// Run-time parameters, for the same masks.
#[test]
fn the_largest_run_time_window_is_no_window() {
    for mask in [
        "j <= i & i - j < W & doc[i] == doc[j]",
        "abs(i - j) <= W & i div C == j div C",
        "j div W == i div W",
        "j < W & i - j * 4 <= 27 & i < doc[j] * 9999",
    ] {
        let mut case = case("", mask);
        let window = case.pool.find_var("W").expect("made above");
        case.values.vars[window.0 as usize] = Value::Int(i64::MAX);
        let analysis = case.analyze();
        let t = compare(&case, &analysis, &Truth::new(&case));
        assert_eq!((t.exact, t.unsound, t.hull_wrong), (t.tiles, 0, 0), "{mask}");
    }
}

/// Classifies a million tiles of simple masks: prints nanoseconds a tile.
#[test]
fn classification_is_cheap() {
    for (name, mask, _) in [FAMILIES[0], FAMILIES[2], FAMILIES[7], FAMILIES[12]] {
        let mut case = case(name, mask);
        let analysis = case.analyze();
        let mut classifier = attn_compiler::mask::host::Classifier::new(&case.pool, &analysis);
        let started = std::time::Instant::now();
        let n_runs = if cfg!(debug_assertions) { 40 } else { 4_000 };
        let n_tiles: usize = (0..n_runs).map(|_| classifier.map(&case.grid, &case.values).class.len()).sum();
        let ns = started.elapsed().as_nanos() as f64 / n_tiles as f64;
        println!("{name}: {ns:.1} ns a tile");
        assert!(ns < 20_000.0, "{name}: {ns} ns a tile");
    }
}
