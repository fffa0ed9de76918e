//! Broken specifications: each is refused with its code, a caret at the right text, and a fix where there is one.

mod sema_common;

use attn_compiler::diagnostic::{Diagnostic, Severity};
use sema_common::{check_text, rendered};

/// What a broken text must lead to.
struct Case {
    /// The text.
    source: String,
    /// Code of the first diagnostic of it.
    code: &'static str,
    /// Text under the caret.
    caret: &'static str,
    /// The replacement offered, if one is.
    fix: Option<&'static str>,
}

const HEAD: &str = "dims B, H, S, D\ninput q, k, v : float[B, H, S, D]\n";
const LONG: &str = "dims B, H, Sq, Sk, D\ninput q : float[B, H, Sq, D]\ninput k, v : float[B, H, Sk, D]\n";
const CACHED: &str = "dims B, H, Sq, Sk, D\nalign bottom_right\ninput q, k_new : float[B, H, Sq, D]\n";

fn case(source: String, code: &'static str, caret: &'static str, fix: Option<&'static str>) -> Case {
    Case { source, code, caret, fix }
}

/// A kernel with these clauses before its score, and this score and mask.
fn kernel(clauses: &str, score: &str, mask: &str) -> String {
    format!(
        "attention a {{\n{HEAD}{clauses}\nscore = {score}\nmask = {mask}\nweight = softmax(score)\nreturn weight @ v\n}}"
    )
}

fn mask(mask: &str) -> String {
    kernel("", "dot(q, k)", mask)
}

fn score(score: &str) -> String {
    kernel("", score, "j <= i")
}

fn clauses(clauses: &str) -> String {
    kernel(clauses, "dot(q, k)", "j <= i")
}

fn params(params: &str, mask: &str) -> String {
    format!(
        "attention a({params}) {{\n{HEAD}score = dot(q, k)\nmask = {mask}\nweight = softmax(score)\nreturn weight @ v\n}}"
    )
}

fn dims(head: &str, extra: &str) -> String {
    format!(
        "attention a {{\n{head}{extra}\nscore = dot(q, k)\nmask = j <= i\nweight = softmax(score)\nreturn weight @ v\n}}"
    )
}

fn weight(weight: &str, result: &str) -> String {
    format!(
        "attention a {{\n{HEAD}input sink : f32[H]\nscore = dot(q, k) + sink[h]\nmask = j <= i\nweight = {weight}\nreturn {result}\n}}"
    )
}

fn recurrence(clauses: &str) -> String {
    format!(
        "recurrence r {{\ndims B, H, S, D, Dv\ninput q, k : float[B, H, S, D]\ninput v : float[B, H, S, Dv]\n{clauses}\n}}"
    )
}

fn with_defs(defs: &str, mask: &str) -> String {
    format!("{defs}\n{}", self::mask(mask))
}

/// Runs every case; all that fail are listed together.
fn run(cases: &[Case]) {
    let mut wrong = String::new();
    for c in cases {
        let (map, _, diagnostics) = check_text(&c.source);
        let found: Vec<&Diagnostic> = diagnostics.items().iter().filter(|d| d.code.id() == c.code).collect();
        let caret = |d: &&&Diagnostic| map.text(d.span()) == c.caret;
        let Some(d) = found.iter().find(caret) else {
            let said = rendered(&map, &diagnostics);
            wrong += &format!("--- expected {} at {:?}\n{}\n{said}\n", c.code, c.caret, c.source);
            continue;
        };
        let fixes: Vec<&str> = d.suggestions.iter().map(|s| s.replacement.as_str()).collect();
        let offered = match c.fix {
            Some(fix) => fixes.contains(&fix),
            None => {
                fixes.is_empty() && !(d.helps.is_empty() && d.notes.is_empty() && d.labels[0].text.is_empty())
            }
        };
        if !offered || d.labels[0].text.is_empty() {
            wrong += &format!(
                "--- {} at {:?}: fix {:?}, offered {fixes:?}\n{}\n",
                c.code, c.caret, c.fix, c.source
            );
        }
        let error = c.code.starts_with('E');
        if error != (d.severity == Severity::Error) || (error && !diagnostics.has_errors()) {
            wrong += &format!("--- {} has the wrong severity\n", c.code);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn names_and_definitions() {
    run(&[
        case(mask("j <= i & j < windwo"), "E0101", "windwo", None),
        case(params("window: int = 4", "j > i - windwo"), "E0101", "windwo", Some("window")),
        case(with_defs("mask far(W) = j < i - w", "far(3)"), "E0101", "w", Some("W")),
        case(with_defs("mask far(W) = j < i - W + D", "far(3)"), "E0101", "D", None),
        case(clauses("append z_new"), "E0101", "z_new", None),
        case(score("dot(q, k) + lse"), "E0101", "lse", None),
        case(clauses("let m = 1\nlet m = 2"), "E0102", "m", None),
        case(clauses("input k : f32[H]"), "E0102", "k", None),
        case(with_defs("fn f(x) = x\nfn f(y) = y", "j < f(3)"), "E0102", "f", None),
        case(with_defs("fn f(x, x) = x", "j < f(3, 4)"), "E0102", "x", None),
        case(format!("{}\n{}", mask("j <= i"), mask("j < i")), "E0102", "a", None),
        case(with_defs("fn f(x) = f(x)", "j < f(3)"), "E0103", "f", None),
        case(with_defs("fn f(x) = g(x)\nfn g(x) = h2(x)\nfn h2(x) = f(x)", "j < f(3)"), "E0103", "f", None),
        case(score("softcap(dot(q, k))"), "E0104", "softcap(dot(q, k))", None),
        case(score("softcap(dot(q, k), 3, 4)"), "E0104", "4", None),
        case(score("softcap(dot(q, k), cc = 3)"), "E0104", "cc", None),
        case(score("softcap(dot(q, k), x = 3)"), "E0104", "3", None),
        case(score("dot(q, k) + min(3)"), "E0104", "min(3)", None),
        case(with_defs("mask near(W) = j > i - W", "near()"), "E0104", "near()", None),
        case(score("squareroot(dot(q, k))"), "E0105", "squareroot", None),
        case(score("sqr(dot(q, k))"), "E0105", "sqr", Some("sqrt")),
        case(
            with_defs("mask windw(W) = j > i - W", "windw(3) & window(3)"),
            "E0105",
            "window",
            Some("windw"),
        ),
        case(with_defs("use std.masks", "j <= i"), "E0106", "std.masks", Some("std.mask")),
        case(with_defs("use \"other.attn\"", "j <= i"), "E0106", "\"other.attn\"", None),
        case(clauses("let i = 3"), "E0109", "i", None),
        case(clauses("let true = 3"), "E0109", "true", None),
        case(with_defs("mask m(j) = j < 3", "m(3)"), "E0109", "j", None),
        case(params("w", "j > i - w"), "E0111", "w", Some(": int")),
        case(params("w: integer = 2", "j > i - w"), "E0111", "integer", Some("int")),
        case(params("w: int = i", "j > i - w"), "E0111", "i", None),
        case(params("w: int = 2.5", "j > i - w"), "E0302", "2.5", Some("int(2.5)")),
    ]);
}

#[test]
fn dims_and_tensors() {
    let head = |d: &str, q: &str| format!("dims {d}\ninput q, k, v : {q}\n");
    run(&[
        case(dims(&head("B, H, S = 8..1, D", "float[B, H, S, D]"), ""), "E0201", "8..1", Some("1..8")),
        case(dims(&head("B, H, S, D = 0", "float[B, H, S, D]"), ""), "E0201", "0", None),
        case(dims(&head("B, H, S, D = 2 * i", "float[B, H, S, D]"), ""), "E0201", "i", None),
        case(
            dims(&head("B, H, S, D, N", "float[B, H, S, D]"), "let n = N\n")
                .replace("dot(q, k)", "dot(q, k) + n"),
            "E0201",
            "N",
            Some(" = 64"),
        ),
        case(
            params("d: int = 4", "j <= i").replace("dims B, H, S, D", "dims B, H, S, D = d"),
            "E0202",
            "d",
            Some("static "),
        ),
        case(clauses("input m : bool[S]"), "E0205", "bool", Some("bit")),
        case(clauses("input m : f33[S]"), "E0205", "f33", Some("f32")),
        case(clauses("input m : f32[B, B, B, B, B, B, B, B, B]"), "E0205", "f32", None),
        case(clauses("input m : f32[S] sorted"), "E0206", "sorted", None),
        case(clauses("input m : i32[S] learn"), "E0206", "learn", None),
        case(clauses("input m : i32[S] sorted sorted"), "E0206", "sorted", Some("")),
        case(
            clauses("input m : i32[S] paged (size = 16, table = t, len = l)"),
            "E0206",
            "paged (size = 16, table = t, len = l)",
            None,
        ),
        case(
            dims(&head("S, H, D", "float[H, S, D] layout (S, H)"), ""),
            "E0207",
            "layout (S, H)",
            Some("layout (H, S, D)"),
        ),
        case(
            dims(&head("S, H, D", "float[H, S, D] layout (S, S, D)"), ""),
            "E0207",
            "layout (S, S, D)",
            Some("layout (H, S, D)"),
        ),
        case(
            kernel("input m : f32[H, S, S]", "dot(q, k) + m[h]", "j <= i"),
            "E0208",
            "m[h]",
            Some("m[h, i, i]"),
        ),
        case(kernel("input m : f32[H]", "dot(q, k) + m[h, i]", "j <= i"), "E0208", "m[h, i]", Some("m[h]")),
        case(score("dot(q, k) + h[2]"), "E0208", "h", None),
        case(kernel("input m : f32[3]", "dot(q, k) + m[3]", "j <= i"), "E0209", "3", None),
        case(kernel("input m : f32[H]", "dot(q, k) + m[0 - 1]", "j <= i"), "E0209", "0 - 1", None),
        case(
            dims("dims B, C, H, S, D\ninput q : float[B, H, S, D]\ninput k, v : float[C, H, S, D]\n", ""),
            "E0210",
            "dot(q, k)",
            None,
        ),
        case(
            dims(
                "dims B, H, S, T, D\ninput q : float[B, H, S, D]\ninput k : float[B, H, S, D]\ninput v : float[B, H, T, D]\n",
                "",
            ),
            "E0210",
            "v",
            None,
        ),
        case(kernel("input e : float[D]", "dot(e, k)", "j <= i"), "E0210", "dot(e, k)", None),
    ]);
}

#[test]
fn types() {
    run(&[
        case(mask("i - j"), "E0301", "i - j", Some("i - j != 0")),
        case(score("dot(q, k) + (i < j)"), "E0301", "i < j", Some("(i < j ? 1 : 0)")),
        case(score("dot(q, k) + q"), "E0301", "dot(q, k) + q", None),
        case(
            kernel("input s2 : f32[H]", "dot(q, k) + abs(s2)", "j <= i"),
            "E0301",
            "dot(q, k) + abs(s2)",
            None,
        ),
        case(score("dot(q, h)"), "E0301", "h", None),
        case(score("dot(q, k) + (i < j ? 1 : true)"), "E0301", "i < j ? 1 : true", None),
        case(mask("!i"), "E0301", "i", Some("i != 0")),
        case(mask("(i < j) < (j < i)"), "E0301", "j < i", Some("(j < i ? 1 : 0)")),
        case(kernel("input ids : i32[B, H, S, D]", "dot(q, ids)", "j <= i"), "E0301", "ids", None),
        case(mask("j in (i - 2.5 * 2, i] & j mod 2.0 == 0"), "E0302", "2.0", Some("int(2.0)")),
        case(
            kernel("input t : f32[H, 9]", "dot(q, k) + t[h, i / 2]", "j <= i"),
            "E0302",
            "i / 2",
            Some("int(i / 2)"),
        ),
        case(
            dims("dims B, H, S, D, E\ninput q : float[B, H, S, D]\ninput k, v : float[B, H, S, E]\n", ""),
            "E0303",
            "dot(q, k)",
            None,
        ),
        case(mask("j < 9223372036854775807 + 1"), "E0304", "9223372036854775807 + 1", None),
        case(mask("j < 3037000500 ^ 2"), "E0304", "3037000500 ^ 2", None),
        case(mask("j < int(1e30)"), "E0304", "int(1e30)", None),
        case(mask("j < int(0.0 / 0)"), "E0304", "int(0.0 / 0)", None),
        case(mask("j div 0 == i"), "E0305", "0", None),
        case(clauses("let z = 2 - 2\nlet w = 3 mod z"), "E0305", "2 - 2", None),
        case(score("q @ k"), "E0306", "q @ k", None),
        case(score("softmax(dot(q, k))"), "E0306", "softmax(dot(q, k))", None),
        case(score("dot(q, k) + [1, 2]"), "E0306", "[1, 2]", None),
        case(score("dot(q, k) + \"x\""), "E0306", "\"x\"", None),
        case(score("dot(q, k) + dot(outer(q, k), k)"), "E0306", "outer(q, k)", None),
    ]);
}

#[test]
fn clauses_of_attentions() {
    run(&[
        case(clauses("mask = j < 3"), "E0401", "mask = j <= i", None),
        case(clauses("align none\nalign none"), "E0401", "align none", None),
        case(
            clauses("schedule cpu { tile = [8, 8] }\nschedule cpu { tile = [9, 9] }"),
            "E0401",
            "schedule cpu { tile = [9, 9] }",
            None,
        ),
        case(
            format!("attention a {{\n{HEAD}mask = j <= i\nweight = softmax(score)\nreturn weight @ v\n}}"),
            "E0402",
            "a",
            Some("\n  score  = dot(q, k) / sqrt(D)"),
        ),
        case(
            format!("attention a {{\n{HEAD}score = dot(q, k)\nreturn weight @ v\n}}"),
            "E0402",
            "a",
            Some("\n  weight = softmax(score)"),
        ),
        case(
            format!("attention a {{\n{HEAD}score = dot(q, k)\nweight = softmax(score)\n}}"),
            "E0402",
            "a",
            Some("\n  return weight @ v"),
        ),
        case(clauses("state s : f32[D, D] = s0"), "E0403", "state s : f32[D, D] = s0", None),
        case(weight("softmx(score)", "weight @ v"), "E0404", "softmx", Some("softmax")),
        case(weight("softmax(score * 2)", "weight @ v"), "E0404", "score * 2", Some("score")),
        case(weight("softmax(score, sink = sink[i])", "weight @ v"), "E0404", "i", None),
        case(weight("score * 2", "weight @ v"), "E0404", "score * 2", None),
        case(weight("sigmoid(score)", "weight @ v, lse"), "E0405", "lse", None),
        case(weight("softmax(score)", "weight @ v, weight @ v"), "E0405", "weight @ v", None),
        case(weight("softmax(score)", "v"), "E0405", "v", Some("weight @ v")),
        case(weight("softmax(score)", "weight @ v, lsee"), "E0405", "lsee", Some("lse")),
        case(weight("softmax(score)", "cast(weight @ v, i8)"), "E0405", "i8", None),
        case(weight("softmax(score)", "sink[h] * 2"), "E0405", "sink[h] * 2", None),
        case(
            clauses("input lse : f32[B]").replace("return weight @ v", "return weight @ v, lse"),
            "E0405",
            "lse",
            None,
        ),
        case(mask("dot(q, k) > 0"), "E0406", "dot(q, k)", None),
        case(kernel("input g : f32[S]", "dot(q, k)", "g[j] > 0"), "E0406", "g[j]", None),
        case(score("-abs(i - j)"), "E0407", "-abs(i - j)", None),
        case(
            kernel("input t : f32[H, S]", "dot(q, k) + t[h, int(dot(q, k))]", "j <= i"),
            "E0407",
            "dot(q, k)",
            None,
        ),
    ]);
}

#[test]
fn clauses_that_only_check() {
    let cached = |c: &str| dims(CACHED, c);
    run(&[
        case(clauses("select x = topk(q, 3)"), "E0408", "x", Some("j")),
        case(clauses("input r : f32[B, S]\nselect j = topl(r, 3)"), "E0408", "topl", Some("topk")),
        case(
            clauses("input r : f32[B, S]\nselect j = topk(r, 3)\nselect j = topk(r, 4)"),
            "E0408",
            "select j = topk(r, 4)",
            None,
        ),
        case(clauses("select i = topk_blocks(dot(q, k), 64, 4)"), "E0408", "topk_blocks", Some("j")),
        case(
            clauses("let kc = mean_pool(k, 2, 2)\nselect j = topk_blocks(dot(q, kc), 64, 4, pool = maxx)"),
            "E0408",
            "maxx",
            Some("max"),
        ),
        case(clauses("select j = topk_blocks(i - j, 64, 4)"), "E0408", "i - j", None),
        case(clauses("rotate k by rope(theta = 10K) at i"), "E0409", "i", Some("j")),
        case(clauses("rotate q by rope(theta = 10K) at 2 * j"), "E0409", "2 * j", Some("2 * i")),
        case(clauses("rotate q by rop(theta = 10K) at i"), "E0409", "rop", Some("rope")),
        case(clauses("rotate q by rope(style = halve) at i"), "E0409", "halve", Some("half")),
        case(clauses("rotate q by rope(dims = 3) at i"), "E0409", "3", None),
        case(clauses("rotate q by rope(scaling = yarm(2, 3)) at i"), "E0409", "yarm(2, 3)", Some("yarn")),
        case(clauses("rotate q by rope(sections = [1, 2]) at [i, i, i]"), "E0409", "[i, i, i]", None),
        case(clauses("rotate q by rope(thta = 3) at i"), "E0104", "thta", Some("theta")),
        case(
            with_defs("fn p(f) = f", "j <= i").replace("score =", "rotate q by p(3) at i\nscore ="),
            "E0409",
            "p",
            None,
        ),
        case(with_defs("position p(f) = x0 * f", "j <= i"), "E0409", "x0 * f", None),
        case(clauses("map q, k by silo"), "E0409", "silo", Some("silu")),
        case(
            with_defs("fn f(x, y) = x", "j <= i").replace("score =", "map q by f\nscore ="),
            "E0409",
            "f",
            None,
        ),
        case(cached("cache k, v : i8[B, H, Sk, D]"), "E0410", "i8", None),
        case(cached("cache k, v : i32[B, H, Sk, D]"), "E0410", "i32", Some("i8")),
        case(
            cached("cache k, v : float[B, H, Sk, D] scale f16 per (token, head)"),
            "E0410",
            "scale f16 per (token, head)",
            Some(""),
        ),
        case(cached("cache k, v : i8[B, H, Sk, D] scale f16 per (tokens)"), "E0410", "tokens", Some("token")),
        case(
            cached("cache k, v : float[B, H, Sk, D] paged (size = 0, table = t, len = l)"),
            "E0410",
            "0",
            None,
        ),
        case(cached("cache kk, v : float[B, H, Sk, D]\nappend k_new"), "E0410", "k_new", Some("kk_new")),
        case(cached("cache k, v : float[H, B, Sk, D]\nappend k_new"), "E0410", "k_new", None),
        case(clauses("dropout (1.5, 0, 0)"), "E0414", "1.5", None),
        case(clauses("dropout (0.5, i, 0)"), "E0414", "i", None),
        case(clauses("distribute rings(axis = S)"), "E0413", "rings", Some("ring")),
        case(clauses("distribute ring(axis = S, layout = zigzags)"), "E0413", "zigzags", Some("zigzag")),
        case(clauses("distribute ring(axis = 4)"), "E0413", "4", None),
        case(clauses("input n : i32[S]\nlet f = cumsum(n)"), "E0416", "n", None),
        case(clauses("let f = mean_pool(k, block = 0, stride = 1)"), "E0416", "0", None),
        case(clauses("let f = segment(q)"), "E0416", "q", None),
        case(clauses("input e : float[B, H, S]\nlet f = concat(k, e)"), "E0416", "concat(k, e)", None),
    ]);
}

#[test]
fn selections() {
    run(&[
        case(clauses("select j = topk_blocks(dot(q, k), 64, 4)"), "E0408", "dot(q, k)", None),
        case(
            clauses(
                "input p : float[B, H, S, D]\nlet pc = mean_pool(p, 2, 2)\nselect j = topk_blocks(dot(p, pc), 64, 4)\nselect i = topk(p, 3)",
            ),
            "E0408",
            "p",
            None,
        ),
        case(clauses("input r : f32[B, S]\nselect i = topk(r, 3)"), "E0408", "topk(r, 3)", None),
        case(clauses("input r : f32[B, D]\nselect j = topk(r, 3)"), "E0408", "r", None),
        case(clauses("input r : f32[H, S]\nselect j = topk(r, 3)"), "E0408", "r", None),
        case(clauses("input t : i32[D, S, S]\nselect j = blocks(t, 64)"), "E0408", "blocks(t, 64)", None),
        case(
            clauses("input t : i32[B, H, S, S]\nselect j = blocks(t, 64)").replace("softmax", "sigmoid"),
            "E0408",
            "blocks(t, 64)",
            None,
        ),
    ]);
}

#[test]
fn branches_and_recurrences() {
    let branch = "branch x {\ninput q, k, v : float[B, H, S, D]\nscore = dot(q, k)\nweight = softmax(score)\nreturn weight @ v\n}";
    let routed = branch.replace("score =", "select i = topk(r, 3)\nscore =");
    let both = |b: &str, ret: &str| {
        format!("attention a {{\ndims B, H, S, D\ninput r : f32[B, S]\n{b}\nreturn {ret}\n}}")
    };
    let state = "state s : f32[D, Dv] = s0";
    run(&[
        case(both(&routed, "x"), "E0415", "x", Some("scatter(x)")),
        case(both(branch, "scatter(x)"), "E0415", "scatter(x)", Some("x")),
        case(both(&format!("{branch}\nmask = j <= i"), "x"), "E0415", "mask = j <= i", None),
        case(both(branch, "y"), "E0405", "y", None),
        case(both(branch, "x * 2, x + 1"), "E0405", "x + 1", None),
        case(both(branch, "merge(x, 2)"), "E0405", "merge(x, 2)", None),
        case(both(&branch.replace("weight @ v", "weight @ v, lse"), "x"), "E0415", "lse", None),
        case(both(&branch.replace("softmax", "relu"), "merge(x, x)"), "E0415", "x", None),
        case(
            both(
                &branch.replace("return weight", "return 2.0 * (weight").replace("@ v", "@ v)"),
                "merge(x, x)",
            ),
            "E0415",
            "x",
            None,
        ),
        case(
            both(
                &format!(
                    "{branch}\n{}",
                    branch.replace("branch x", "branch y").replace("B, H, S, D", "H, S, D")
                ),
                "x + y",
            ),
            "E0405",
            "x + y",
            None,
        ),
        case(both(&branch.replace("score =", "mode decode\nscore ="), "x"), "E0403", "mode decode", None),
        case(recurrence("return q"), "E0402", "r", None),
        case(recurrence(&format!("{state}\ns = s + outer(k, v)")), "E0402", "r", Some("\n  return q @ s")),
        case(recurrence(&format!("{state}\nreturn q @ s")), "E0411", "s", Some("\n  s = s + outer(k, v)")),
        case(recurrence(&format!("{state}\ns = outer(v, k)\nreturn q @ s")), "E0411", "outer(v, k)", None),
        case(recurrence(&format!("{state}\nt = s\ns = outer(k, v)\nreturn q @ s")), "E0411", "t", None),
        case(recurrence(&format!("{state}\ns = outer(k, v)\ns = s\nreturn q @ s")), "E0411", "s = s", None),
        case(recurrence("state s : f16[D, Dv]\ns = outer(k, v)\nreturn q @ s"), "E0411", "f16", Some("f32")),
        case(recurrence("state s : f32[D, D, D]\ns = outer(k, v)\nreturn q @ s"), "E0411", "s", None),
        case(recurrence(&format!("{state}\ns = outer(k, v) * j\nreturn q @ s")), "E0306", "j", None),
        case(recurrence(&format!("{state}\ns = outer(k, v)\nreturn q @ s, lse")), "E0405", "lse", None),
        case(recurrence(&format!("{state}\ns = outer(k, v)\nreturn v @ s")), "E0303", "v @ s", None),
        case(
            recurrence(&format!("{state}\ns = outer(k, v) + q\nreturn q @ s")),
            "E0303",
            "outer(k, v) + q",
            None,
        ),
        case(
            recurrence(&format!("{state}\ns = outer(k, v)\nmask = j <= i\nreturn q @ s")),
            "E0403",
            "mask = j <= i",
            None,
        ),
    ]);
}

#[test]
fn conventions_promises_and_options() {
    let gqa = "dims B, Hq, Hkv, S, D\ninput q : float[B, Hq, S, D]\ninput k, v : float[B, Hkv, S, D]\n";
    let fixed = gqa.replace("Hq, Hkv,", "Hq = 6, Hkv = 4,");
    run(&[
        case(dims(LONG, ""), "E0501", "j <= i", Some("align bottom_right\n  ")),
        case(
            dims(LONG, "").replace("mask = j <= i", "mask = (i - j) mod 2 == 0"),
            "E0501",
            "i - j",
            Some("align top_left\n  "),
        ),
        case(
            dims(LONG, "input d : i32[Sk]").replace("mask = j <= i", "mask = d[i] == d[j]"),
            "E0501",
            "d[i]",
            Some("align bottom_right\n  "),
        ),
        case(dims(gqa, ""), "E0502", "score = dot(q, k)", Some("heads grouped\n  ")),
        case(dims(&fixed, "heads grouped"), "E0503", "heads grouped", None),
        case(dims(&fixed, "heads interleaved"), "E0503", "heads interleaved", None),
        case(dims(LONG, "align bottom_left"), "E0504", "bottom_left", None),
        case(dims(LONG, "align bottom_rigth"), "E0504", "bottom_rigth", Some("bottom_right")),
        case(dims(gqa, "heads groupd"), "E0504", "groupd", Some("grouped")),
        case(dims(gqa, "heads mqa"), "E0504", "heads mqa", None),
        case(dims(gqa, "heads map"), "E0504", "map", None),
        case(dims(gqa, "heads map by h + b"), "E0504", "b", None),
        case(clauses("mode decoding"), "E0504", "decoding", Some("decode")),
        case(clauses("ensure rows_not_empty"), "E0601", "rows_not_empty", Some("rows_nonempty")),
        case(clauses("ensure works <= 0.5"), "E0601", "works", Some("work")),
        case(clauses("ensure sram <= 0.5"), "E0601", "0.5", None),
        case(clauses("ensure work <= 0.5 at (T = 64)"), "E0601", "T", None),
        case(clauses("test (T = [1])"), "E0602", "T", None),
        case(clauses("test (S = [1, i])"), "E0602", "i", None),
        case(clauses("test (S = [])"), "E0602", "[]", None),
        case(clauses("test (grad = 3)"), "E0602", "3", None),
        case(clauses("numerics { dott = exact }"), "E0412", "dott", Some("dot")),
        case(clauses("numerics { dot = exactly }"), "E0412", "exactly", Some("exact")),
        case(clauses("numerics { split = 512 }"), "E0412", "512", None),
        case(clauses("schedule cpu { tiles = [8, 8] }"), "E0412", "tiles", Some("tile")),
        case(clauses("schedule cpu { tile = [8] }"), "E0412", "[8]", None),
        case(clauses("schedule cpu { stages = 2 }"), "E0412", "stages", None),
        case(clauses("schedule gpus { tile = [8, 8] }"), "E0412", "gpus", Some("gpu")),
    ]);
}

#[test]
fn warnings() {
    run(&[
        case(clauses("let m = 3"), "W0901", "m", None),
        case(clauses("input m : f32[H]"), "W0901", "m", None),
        case(params("w: int = 3", "j <= i"), "W0901", "w", None),
        case(with_defs("fn f(x) = x", "j <= i"), "W0901", "f", None),
        case(
            mask("j <= i & j > i - 4 | j < 4"),
            "W0902",
            "j <= i & j > i - 4 | j < 4",
            Some("(j <= i & j > i - 4)"),
        ),
        case(mask("j in (4, 4]"), "W0903", "4, 4", None),
        case(mask("false"), "W0903", "false", None),
    ]);
}

#[test]
fn several_errors_of_one_text_are_all_reported() {
    let text = kernel(
        "let m = unknown_1\nalign nowhere\nschedule cpu { tiels = [8, 8] }",
        "dot(q, k) + q2",
        "i - j",
    );
    let (_, checked, diagnostics) = check_text(&text);
    let codes: Vec<&str> = diagnostics.items().iter().map(|d| d.code.id()).collect();
    for code in ["E0101", "E0504", "E0412", "E0301"] {
        assert!(codes.contains(&code), "{codes:?}");
    }
    assert!(codes.iter().filter(|c| **c == "E0101").count() == 2, "{codes:?}");
    assert!(checked.kernels.is_empty());
}

#[test]
fn both_readings_of_a_missing_align_are_shown() {
    let (map, _, diagnostics) = check_text(&dims(LONG, ""));
    let text = rendered(&map, &diagnostics);
    assert!(text.contains("i = row + Sk - Sq") && text.contains("i = row,"), "{text}");
}

#[test]
fn a_cycle_of_definitions_is_shown() {
    let (map, _, diagnostics) = check_text(&with_defs("fn f(x) = g(x)\nfn g(x) = f(x)", "j < f(3)"));
    let text = rendered(&map, &diagnostics);
    assert!(text.contains("f -> g -> f"), "{text}");
}
