//! The standard library: every definition passes the checks in a kernel, and has the values that its sources give.

use std::collections::HashMap;

use attn_compiler::diagnostic::SourceMap;
use attn_compiler::diagnostic::render::{Style, human};
use attn_compiler::sema::{check, no_files};
use attn_compiler::syntax::ast::*;
use attn_compiler::syntax::{parse, stdlib};

fn defs(module: &str) -> Vec<Def> {
    let mut map = SourceMap::default();
    let id = map.add(module, stdlib::source(module).expect("a module"));
    let (file, diagnostics) = parse(&map, id);
    assert!(diagnostics.is_empty(), "{:?}", diagnostics.items());
    let def = |item| if let Item::Def(def) = item { Some(def) } else { None };
    file.items.into_iter().filter_map(def).collect()
}

/// A kernel that calls a definition with arguments of the right kind.
fn kernel_with(module: &str, def: &Def) -> String {
    let arg = |p: &Param| match p.name.node.as_str() {
        "ids" if def.name.node.ends_with("batch") => "ids2",
        "ids" => "ids1",
        "len" => "lens",
        "rel" => "rel",
        "F" => "decay",
        "theta" => "10000.0",
        "factor" | "gamma" | "m" | "a" | "p" | "r1" | "r2" | "c" => "2.0",
        "n" => "32",
        "far" => "128",
        _ => "4",
    };
    let call = format!("{}({})", def.name.node, def.params.iter().map(arg).collect::<Vec<_>>().join(", "));
    let mut parts =
        HashMap::from([("mask", "j <= i".to_string()), ("bias", "0.0".into()), ("rotate", String::new())]);
    match def.kind {
        DefKind::Mask => drop(parts.insert("mask", call)),
        DefKind::Score => drop(parts.insert("bias", call)),
        DefKind::Fn if module == "std.position" => {
            let call = format!("{}({})", def.name.node, vec!["2.0"; def.params.len()].join(", "));
            parts.insert("bias", call);
        }
        DefKind::Fn => drop(parts.insert("bias", format!("float({call})"))),
        DefKind::Position => drop(parts.insert("rotate", format!("rotate q by {call} at i"))),
    }
    format!(
        "use {module}\nattention a {{\n  dims B, H, S, D = 64\n  input q, k, v : float[B, H, S, D]\n  input ids1 : i32[S]\n  \
input ids2 : i32[B, S]\n  input lens : i32[B]\n  input rel : f32[H, 32]\n  input decay : f32[B, H, S]\n  {}\n  \
score = dot(q, k) + {}\n  mask = {}\n  weight = softmax(score)\n  return weight @ v\n}}\n",
        parts["rotate"], parts["bias"], parts["mask"]
    )
}

#[test]
fn every_definition_passes_the_checks() {
    let mut n_checked = 0;
    for module in stdlib::NAMES {
        for def in defs(module) {
            let text = kernel_with(module, &def);
            let mut map = SourceMap::default();
            let id = map.add("a.attn", text.clone());
            let (_, diagnostics) = check(&mut map, id, &mut no_files);
            let style = Style { color: false, ascii: true };
            let said: String = diagnostics.items().iter().map(|d| human(&map, d, style)).collect();
            assert!(!diagnostics.has_errors(), "{module} {}:\n{said}\n{text}", def.name.node);
            n_checked += 1;
        }
    }
    assert!(n_checked > 40, "only {n_checked} definitions were found");
}

/// A plain interpreter of definitions over f64; true is 1.
struct Values {
    defs: Vec<Def>,
}

impl Values {
    fn of(module: &str) -> Values {
        Values { defs: defs(module) }
    }

    /// `name(args)` at h, i, j.
    fn call(&self, name: &str, args: &[f64], at: (i64, i64, i64)) -> f64 {
        let def = self.defs.iter().find(|d| d.name.node == name).unwrap_or_else(|| panic!("no {name}"));
        let mut env: HashMap<&str, f64> =
            HashMap::from([("h", at.0 as f64), ("i", at.1 as f64), ("j", at.2 as f64)]);
        env.extend(def.params.iter().map(|p| p.name.node.as_str()).zip(args.iter().copied()));
        self.eval(&def.body, &env, at)
    }

    fn holds(&self, name: &str, args: &[f64], i: i64, j: i64) -> bool {
        self.call(name, args, (0, i, j)) != 0.0
    }

    fn eval(&self, e: &Expr, env: &HashMap<&str, f64>, at: (i64, i64, i64)) -> f64 {
        let ev = |e: &Expr| self.eval(e, env, at);
        match &e.node {
            ExprKind::Number(Number::Int(n)) => *n as f64,
            ExprKind::Number(Number::Float(x)) => *x,
            ExprKind::Name(n) => env[n.as_str()],
            ExprKind::Paren(x) => ev(x),
            ExprKind::Prefix { op: PrefixOp::Neg, operand } => -ev(operand),
            ExprKind::Prefix { op: PrefixOp::Not, operand } => 1.0 - ev(operand),
            ExprKind::Ternary { cond, then, otherwise } => ev(if ev(cond) != 0.0 { then } else { otherwise }),
            ExprKind::In { value, interval: x } => {
                let (v, lo, hi) = (ev(value), ev(&x.lo), ev(&x.hi));
                let above = if x.lo_included { v >= lo } else { v > lo };
                let below = if x.hi_included { v <= hi } else { v < hi };
                f64::from(u8::from(above && below))
            }
            ExprKind::Infix { op, left, right } => infix(*op, ev(left), ev(right)),
            ExprKind::Call { name, args } => {
                let args: Vec<f64> = args.iter().map(|a| ev(&a.value)).collect();
                self.builtin(&name.node, &args).unwrap_or_else(|| self.call(&name.node, &args, at))
            }
            other => panic!("the interpreter of this test does not know {other:?}"),
        }
    }

    fn builtin(&self, name: &str, args: &[f64]) -> Option<f64> {
        Some(match name {
            "floor" => args[0].floor(),
            "log" => args[0].ln(),
            "abs" => args[0].abs(),
            "int" | "float" => args[0],
            "min" => args[0].min(args[1]),
            "max" => args[0].max(args[1]),
            "clamp" => args[0].clamp(args[1], args[2]),
            _ => return None,
        })
    }
}

fn infix(op: InfixOp, a: f64, b: f64) -> f64 {
    use InfixOp::*;
    let truth = |x: bool| f64::from(u8::from(x));
    match op {
        Or => truth(a != 0.0 || b != 0.0),
        And => truth(a != 0.0 && b != 0.0),
        Eq => truth(a == b),
        Ne => truth(a != b),
        Lt => truth(a < b),
        Le => truth(a <= b),
        Gt => truth(a > b),
        Ge => truth(a >= b),
        Add => a + b,
        Sub => a - b,
        Mul => a * b,
        Div => a / b,
        IDiv => (a / b).floor(),
        Mod => a.rem_euclid(b),
        Pow => a.powf(b),
        MatMul => panic!("no definition of the library multiplies matrices"),
    }
}

/// Slopes as the authors' own program makes them: those of the power of two below, then every other of twice it.
fn published_slopes(n: usize) -> Vec<f64> {
    let geometric = |n: usize| -> Vec<f64> {
        let start = 2f64.powf(-8.0 / n as f64);
        (1..=n).map(|k| start.powi(k as i32)).collect()
    };
    if n.is_power_of_two() {
        return geometric(n);
    }
    let below = n.next_power_of_two() / 2;
    let more = geometric(2 * below).into_iter().step_by(2).take(n - below);
    geometric(below).into_iter().chain(more).collect()
}

#[test]
fn alibi_slopes_are_the_published_ones_for_every_head_count() {
    let values = Values::of("std.score");
    for n in 1..=129 {
        for (h, want) in published_slopes(n).into_iter().enumerate() {
            let got = values.call("alibi_slope", &[n as f64], (h as i64, 0, 0));
            assert!((got - want).abs() <= 1e-12 * want, "head {h} of {n}: {got} against {want}");
        }
    }
    assert_eq!(values.call("alibi", &[0.5], (0, 9, 3)), -3.0);
    assert_eq!(values.call("alibi_bidi", &[0.5], (0, 3, 9)), -3.0);
}

#[test]
fn t5_buckets_begin_at_the_exact_thresholds() {
    let values = Values::of("std.score");
    let starts = |bucket: &dyn Fn(i64) -> f64, n: usize| -> Vec<i64> {
        (0..n).map(|b| (0..200).find(|r| bucket(*r) >= b as f64).expect("a distance")).collect()
    };
    let causal = starts(&|r| values.call("t5_causal", &[32.0, 128.0], (0, r, 0)), 32);
    let want: Vec<i64> =
        (0..=16).chain([19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]).collect();
    assert_eq!(causal, want);
    let past = starts(&|r| values.call("t5_bidi", &[32.0, 128.0], (0, r, 0)), 16);
    let want: Vec<i64> = (0..=8).chain([12, 16, 23, 32, 46, 64, 91]).collect();
    assert_eq!(past, want);
    assert_eq!(
        values.call("t5_bidi", &[32.0, 128.0], (0, 0, 1)),
        17.0,
        "keys after the query are 16 further"
    );
    assert_eq!(values.call("t5_causal", &[32.0, 128.0], (0, 3, 9)), 0.0);
}

#[test]
fn masks_let_through_what_their_sources_say() {
    type Seen = fn(i64, i64) -> bool;
    let cases: [(&str, &[f64], Seen); 16] = [
        ("causal", &[], |i, j| j <= i),
        ("strictly_causal", &[], |i, j| j < i),
        ("window", &[5.0], |i, j| j <= i && i - j < 5),
        ("window_bidi", &[3.0, 2.0], |i, j| j >= i - 3 && j <= i + 2),
        ("prefix", &[4.0], |_, j| j < 4),
        ("prefix_lm", &[4.0], |i, j| j < 4 || j <= i),
        ("sink_window", &[2.0, 5.0], |i, j| j <= i && (i - j < 5 || j < 2)),
        ("chunk", &[8.0], |i, j| i / 8 == j / 8),
        ("block_causal", &[4.0], |i, j| j / 4 <= i / 4),
        ("block_window", &[4.0, 2.0], |i, j| (0..=2).contains(&(i / 4 - j / 4))),
        ("dilated", &[3.0, 4.0], |i, j| [0, 4, 8].contains(&(i - j))),
        ("dilated_bidi", &[2.0, 3.0], |i, j| [0, 3, 6].contains(&(i - j).abs())),
        ("strided", &[4.0], |i, j| j <= i && (i - j < 4 || (i - j) % 4 == 0)),
        ("fixed", &[4.0, 1.0], |i, j| j <= i && (i / 4 == j / 4 || j % 4 == 3)),
        ("longformer", &[3.0, 2.0], |i, j| (i - j).abs() <= 3 || i < 2 || j < 2),
        ("bigbird_fixed", &[4.0, 1.0, 1.0], |i, j| (i / 4 - j / 4).abs() <= 1 || i < 4 || j < 4),
    ];
    let values = Values::of("std.mask");
    for (name, args, seen) in cases {
        for (i, j) in (0..40).flat_map(|i| (0..40).map(move |j| (i, j))) {
            assert_eq!(values.holds(name, args, i, j), seen(i, j), "{name} at ({i}, {j})");
        }
    }
}
