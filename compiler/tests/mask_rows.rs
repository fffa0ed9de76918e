//! `ensure rows_nonempty`: what is proved for all sizes holds at every size, and the row that is named is empty.

mod mask_common;

use attn_compiler::expr::eval::{Value, eval};
use attn_compiler::expr::print::print;
use attn_compiler::mask::rows::{Lengths, RowsNonempty, first_empty_row, rows_nonempty};
use attn_compiler::mask::{Facts, TensorFacts};
use mask_common::generate::{SMALL, generate};
use mask_common::{Builder, Case, Truth};

fn ask(case: &mut Case) -> (RowsNonempty, Option<i64>) {
    let analysis = case.analyze();
    let (shapes, tensors) = (&case.shapes, &case.values.tensors);
    let lookup = |t: attn_compiler::expr::TensorId| {
        let at = t.0 as usize;
        TensorFacts { fact: tensors[at].fact, shape: shapes[at].clone() }
    };
    let facts = Facts { i: case.i, j: case.j, row: case.row, offset: case.offset, tensors: &lookup };
    let [seq_q, seq_k] = ["Sq", "Sk"].map(|name| {
        let var = case.pool.find_var(name).expect("made by the builder");
        case.pool.var(var)
    });
    let general = rows_nonempty(&mut case.pool, case.mask, &facts, &Lengths { seq_q, seq_k });
    let empty = first_empty_row(&case.pool, case.mask, &analysis, &facts, &case.grid, &case.values);
    (general, empty)
}

fn text(mask: &str, bottom_right: bool) -> String {
    let mut b = Builder::new(40, 60, (16, 16), bottom_right);
    b.values.add(&mut b.pool, "W", Value::Int(7));
    b.values.add(&mut b.pool, "h", Value::Int(1));
    let mask = b.parse(mask);
    let mut case = b.finish(mask);
    match ask(&mut case).0 {
        RowsNonempty::Proved { witness, given } => {
            format!("{witness} if {}", print(&case.pool, given, &|t| format!("t{}", t.0)))
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn witnesses_of_known_masks() {
    assert_eq!(text("j <= i", true), "j = i if Sq <= Sk");
    assert_eq!(text("j <= i", false), "j = 0 if 1 <= Sk");
    assert_eq!(text("i - W < j & j <= i", true), "j = i if Sq <= Sk & 1 <= W");
    assert_eq!(text("j < i", false), "Fails { row: \"row 0\" }");
    assert_eq!(text("false", false), "Fails { row: \"row 0\" }");
}

#[test]
fn proofs_and_rows_agree_with_brute_force() {
    let n_cases = if cfg!(debug_assertions) { 1_000 } else { 5_000 };
    let (mut proved, mut nonempty) = (0, 0);
    for seed in 0..n_cases {
        let mut case = generate(seed, SMALL);
        let truth = Truth::new(&case);
        let expected =
            (0..case.grid.seq_q).find(|&r| truth.count((r as usize, r as usize + 1), (0, truth.n_k)) == 0);
        let (general, empty) = ask(&mut case);
        assert_eq!(empty, expected, "seed {seed}");
        nonempty += usize::from(expected.is_none());
        match general {
            RowsNonempty::Proved { given, .. }
                if eval(&case.pool, given, &case.values) == Value::Bool(true) =>
            {
                proved += 1;
                assert_eq!(expected, None, "seed {seed}: proved, yet empty");
            }
            RowsNonempty::Fails { .. } => assert!(expected.is_some(), "seed {seed}: no row is empty"),
            _ => {}
        }
    }
    println!("{n_cases} masks: {nonempty} without an empty row, {proved} of them proved");
    assert!(proved * 2 > nonempty, "only {proved} of {nonempty} proved");
}
