//! Hostile and random texts: diagnostics, never a panic, never an endless run.

mod sema_common;

use std::fmt::Write;

use attn_compiler::diagnostic::Diagnostics;
use attn_compiler::expr::eval::Value;
use attn_compiler::sema::instantiate;
use proptest::prelude::*;
use sema_common::{check_text, key, rendered, specs};

fn kernel(defs: &str, lets: &str, score: &str) -> String {
    format!(
        "{defs}\nattention a {{\ndims B, H, S, D\ninput q, k, v : float[B, H, S, D]\n{lets}\nscore = {score}\nmask = j <= i\nweight = softmax(score)\nreturn weight @ v\n}}"
    )
}

fn codes(text: &str) -> (Vec<&'static str>, Diagnostics) {
    let (map, _, diagnostics) = check_text(text);
    let _ = rendered(&map, &diagnostics);
    (diagnostics.items().iter().map(|d| d.code.id()).collect(), diagnostics)
}

#[test]
fn doubling_sixty_times_meets_the_limit() {
    let nested = format!("{}1.0{}", "f(".repeat(60), ")".repeat(60));
    let (found, _) = codes(&kernel("fn f(x) = x + x", "", &format!("dot(q, k) + {nested}")));
    assert_eq!(found, ["E0108"]);
    let mut defs = "fn f0(x) = x + x\n".to_string();
    for n in 1..60 {
        let _ = writeln!(defs, "fn f{n}(x) = f{}(x) + f{}(x)", n - 1, n - 1);
    }
    let (found, _) = codes(&kernel(&defs, "", "dot(q, k) + f59(1.0)"));
    assert!(found.contains(&"E0108"), "{found:?}");
    let mut lets = "let a0 = i\n".to_string();
    for n in 1..60 {
        let _ = writeln!(lets, "let a{n} = a{} + a{}", n - 1, n - 1);
    }
    let (found, _) = codes(&kernel("", &lets, "dot(q, k) + a59"));
    assert!(found.contains(&"E0108"), "{found:?}");
}

#[test]
fn long_chains_of_definitions_and_lets_meet_the_limit() {
    let mut defs = "fn g0(x) = x\n".to_string();
    for n in 1..3000 {
        let _ = writeln!(defs, "fn g{n}(x) = g{}(x)", n - 1);
    }
    let (found, _) = codes(&kernel(&defs, "", "dot(q, k) + g2999(1.0)"));
    assert!(found.contains(&"E0108"), "{found:?}");
    let mut lets = "let a0 = i\n".to_string();
    for n in 1..3000 {
        let _ = writeln!(lets, "let a{n} = a{} + 1", n - 1);
    }
    let (found, _) = codes(&kernel("", &lets, "dot(q, k) + a2999"));
    assert!(found.contains(&"E0108"), "{found:?}");
    let mut ring = String::new();
    for n in 0..500 {
        let _ = writeln!(ring, "fn c{n}(x) = c{}(x)", (n + 1) % 500);
    }
    let (found, _) = codes(&kernel(&ring, "", "dot(q, k) + c0(1.0)"));
    assert!(found.contains(&"E0103"), "{found:?}");
}

#[test]
fn deep_and_wide_expressions_end_in_diagnostics_or_nodes() {
    for n in [50, 120, 500, 2000] {
        let deep = format!("{}i{}", "(".repeat(n), ")".repeat(n));
        codes(&kernel("", "", &format!("dot(q, k) + {deep}")));
        codes(&kernel("", "", &format!("dot(q, k) {}", "+ i ".repeat(n))));
        codes(&kernel("", "", &format!("dot(q, k) + {}i", "-".repeat(n))));
        codes(&kernel("", "", &format!("dot(q, k) + 2 {}", "^ 2 ".repeat(n))));
        codes(&kernel("", "", &format!("dot(q, k) + {}i{}", "min(1, ".repeat(n), ")".repeat(n))));
    }
}

#[test]
fn numbers_out_of_range_are_diagnostics() {
    for text in [
        kernel("", "", "dot(q, k) + 99999999999999999999999"),
        kernel("", "", "dot(q, k) + 9223372036854775807 * 2"),
        kernel("", "", "dot(q, k) + (-9223372036854775807 - 2)"),
        kernel("", "", "dot(q, k) + 9223372036854775807Mi"),
        kernel("", "", "dot(q, k) + 3 ^ 62"),
        kernel("", "", "dot(q, k) + abs(-9223372036854775807 - 1)"),
        kernel("", "", "dot(q, k) + (-9223372036854775807 - 1) div -1"),
        kernel("", "", "dot(q, k) + int(1e300)"),
        kernel("", "", "dot(q, k)").replace("dims B, H, S, D", "dims B, H, S = 1..9223372036854775807, D"),
    ] {
        let (found, diagnostics) = codes(&text);
        assert!(diagnostics.has_errors(), "{text}\n{found:?}");
    }
}

#[test]
fn odd_files_are_diagnostics_or_nothing() {
    for text in [
        "",
        "// only a comment",
        "attention",
        "attention a {}",
        "use std.mask",
        "\u{0}",
        "attention é {}",
        "fn f() = f",
    ] {
        codes(text);
    }
}

/// Words, numbers, blanks and single symbols of a text.
fn tokens(text: &str) -> Vec<String> {
    let class = |c: char| {
        if c.is_alphanumeric() || c == '_' {
            0
        } else if c.is_whitespace() {
            1
        } else {
            2
        }
    };
    let mut out: Vec<String> = Vec::new();
    let mut last = 3;
    for c in text.chars() {
        let now = class(c);
        match out.last_mut() {
            Some(t) if now == last && now != 2 => t.push(c),
            _ => out.push(c.to_string()),
        }
        last = now;
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// Deletes, doubles, swaps and replaces tokens of a specification, then parses, checks and plans it.
    #[test]
    fn mutated_specifications_never_panic(
        which in 0usize..64,
        edits in prop::collection::vec((0u8..4, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
    ) {
        let specs = specs();
        let mut tokens = tokens(&specs[which % specs.len()].1);
        for (kind, a, b) in edits {
            if tokens.is_empty() {
                break;
            }
            let (a, b) = (a.index(tokens.len()), b.index(tokens.len()));
            match kind {
                0 => { tokens.remove(a); }
                1 => { let t = tokens[a].clone(); tokens.insert(b, t); }
                2 => tokens.swap(a, b),
                _ => tokens[a] = tokens[b].clone(),
            }
        }
        let text = tokens.concat();
        let (map, checked, diagnostics) = check_text(&text);
        let _ = rendered(&map, &diagnostics);
        for k in &checked.kernels {
            let dims: Vec<(&str, i64)> = k.specialised_dims().map(|d| (d.name.as_str(), 8)).collect();
            let mut key = key(&k.name, &dims);
            key.statics = k.params.iter().filter(|p| p.is_static && p.default.is_none()).map(|p| (p.name.clone(), Value::Int(2))).collect();
            if let Err(e) = instantiate(k, &key) {
                prop_assert!(e.diagnostic().is_some());
            }
        }
        let errors = diagnostics.has_errors();
        prop_assert!(errors || !checked.kernels.is_empty() || !text.contains("attention") && !text.contains("recurrence"));
    }
}
