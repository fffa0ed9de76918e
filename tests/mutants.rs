//! Every clause of every example does something that its own `test` grid can see: deleting any one operand of its
//! mask, term or factor of its score or result, the sink of its weight, a `map`, a `rotate` or an argument of its
//! rotation but the base, its `dropout`, an operand of an update, or where a state begins changes an output by more
//! than the f32 gate, or does not compile.
//!
//! Comes in: `dsl-examples/`. Deliberately not done: bodies of `let` and `fn`, what stands inside indices, and
//! numbers that only keep a divisor from 0.

mod common;

use std::collections::HashMap;

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::Kernel as Ir;
use attn_compiler::attn_ir::evaluate::{Results, evaluate};
use attn_compiler::diagnostic::SourceMap;
use attn_compiler::host::Inputs;
use attn_compiler::pipeline;
use attn_compiler::sema::{self, CheckedKernel, PlanKey};
use attn_compiler::syntax::ast::*;
use attn_compiler::syntax::{parse, print};
use attn_compiler::tolerance;
use common::examples::{Point, example_key, examples, grid};
use common::{front, problem};
use rayon::prelude::*;

/// What was deleted, and the expression without it.
type Mutant = (String, Expr);

fn deleted(part: &Expr, rest: &Expr) -> Mutant {
    (print::expr(part), rest.clone())
}

/// Mutants of a part, put back into their place in the whole.
fn within(part: Vec<Mutant>, place: impl Fn(Box<Expr>) -> ExprKind, whole: &Expr) -> Vec<Mutant> {
    let put = |e: Expr| Spanned { node: place(Box::new(e)), span: whole.span };
    part.into_iter().map(|(what, e)| (what, put(e))).collect()
}

/// A small number beside a sum, there to keep a divisor from 0.
fn is_guard(e: &Expr) -> bool {
    let text = print::expr(e);
    text.parse::<f64>().is_ok_and(|x| x > 0.0 && x <= 1e-5)
}

/// Both ways to leave out an operand, and every way to mutate one.
fn infix(e: &Expr, op: InfixOp, [l, r]: [&Expr; 2], of: impl Fn(&Expr) -> Vec<Mutant>) -> Vec<Mutant> {
    let place = |left, right| ExprKind::Infix { op, left, right };
    let mut out = vec![deleted(l, r)];
    out.extend((!is_guard(r)).then(|| deleted(r, l)));
    out.extend(within(of(l), |l| place(l, Box::new(r.clone())), e));
    out.extend(within(of(r), |r| place(Box::new(l.clone()), r), e));
    out
}

/// Operands of `&`, `|` and `? :`.
fn of_mask(e: &Expr) -> Vec<Mutant> {
    match &e.node {
        ExprKind::Infix { op: op @ (InfixOp::And | InfixOp::Or), left, right } => {
            infix(e, *op, [left, right], of_mask)
        }
        ExprKind::Ternary { cond, then, otherwise } => {
            let place = |cond, then, otherwise| ExprKind::Ternary { cond, then, otherwise };
            let mut out = vec![deleted(otherwise, then), deleted(then, otherwise)];
            out.extend(within(of_mask(cond), |c| place(c, then.clone(), otherwise.clone()), e));
            out.extend(within(of_mask(then), |t| place(cond.clone(), t, otherwise.clone()), e));
            out.extend(within(of_mask(otherwise), |o| place(cond.clone(), then.clone(), o), e));
            out
        }
        ExprKind::Paren(inner) => within(of_mask(inner), ExprKind::Paren, e),
        ExprKind::Prefix { op: PrefixOp::Not, operand } => {
            let mut out = vec![(format!("! before {}", print::expr(operand)), (**operand).clone())];
            out.extend(within(
                of_mask(operand),
                |operand| ExprKind::Prefix { op: PrefixOp::Not, operand },
                e,
            ));
            out
        }
        _ => vec![],
    }
}

/// Terms of the score, and the factors and calls that they are made of.
fn of_score(e: &Expr) -> Vec<Mutant> {
    match &e.node {
        ExprKind::Infix { op: op @ (InfixOp::Add | InfixOp::Sub), left, right } => {
            infix(e, *op, [left, right], of_score)
        }
        ExprKind::Paren(inner) => within(of_score(inner), ExprKind::Paren, e),
        _ => of_term(e),
    }
}

/// Factors, and calls that wrap something (conversions are not clauses).
fn of_term(e: &Expr) -> Vec<Mutant> {
    match &e.node {
        ExprKind::Infix { op: op @ (InfixOp::Mul | InfixOp::Div), left, right } => {
            infix(e, *op, [left, right], of_term)
        }
        ExprKind::Call { name, args } if !["dot", "float", "int"].contains(&name.node.as_str()) => {
            args.first().map(|a| (format!("call of {}", name.node), a.value.clone())).into_iter().collect()
        }
        _ => vec![],
    }
}

/// `softmax(score, sink = ..)` without its sink.
fn of_weight(e: &Expr) -> Vec<Mutant> {
    let ExprKind::Call { name, args } = &e.node else { return vec![] };
    let without = |n: usize| {
        let mut args = args.clone();
        args.remove(n);
        Spanned { node: ExprKind::Call { name: name.clone(), args }, span: e.span }
    };
    let kept = |n: &usize| !is_guard(&args[*n].value);
    (1..args.len()).filter(kept).map(|n| (print::expr(&args[n].value), without(n))).collect()
}

/// A result without one of its factors or terms, without a call around it, without an argument of a norm.
fn of_result(e: &Expr) -> Vec<Mutant> {
    match &e.node {
        ExprKind::Infix {
            op: op @ (InfixOp::Mul | InfixOp::Div | InfixOp::Add | InfixOp::Sub),
            left,
            right,
        } => infix(e, *op, [left, right], of_result),
        ExprKind::Paren(inner) => within(of_result(inner), ExprKind::Paren, e),
        ExprKind::Call { name, args } => {
            let bare = args.first().map(|a| (format!("call of {}", name.node), a.value.clone()));
            bare.into_iter().chain(of_weight(e)).collect()
        }
        _ => vec![],
    }
}

/// Operands of an update: terms, factors, both sides of a call.
fn of_value(e: &Expr) -> Vec<Mutant> {
    match &e.node {
        ExprKind::Infix {
            op: op @ (InfixOp::Add | InfixOp::Sub | InfixOp::Mul | InfixOp::Div),
            left,
            right,
        } => infix(e, *op, [left, right], of_value),
        ExprKind::Prefix { op: PrefixOp::Neg, operand } => {
            let place = |operand| ExprKind::Prefix { op: PrefixOp::Neg, operand };
            let mut out = vec![(format!("- before {}", print::expr(operand)), (**operand).clone())];
            out.extend(within(of_value(operand), place, e));
            out
        }
        ExprKind::Paren(inner) => within(of_value(inner), ExprKind::Paren, e),
        ExprKind::Call { name, args } => {
            let put = |n: usize, value: Expr| {
                let mut args = args.clone();
                args[n].value = value;
                Spanned { node: ExprKind::Call { name: name.clone(), args }, span: e.span }
            };
            let mut out = Vec::new();
            if name.node != "outer" && name.node != "dot" {
                let inner = args.first().map(|a| a.value.clone());
                out.extend(inner.map(|x| (format!("call of {}", name.node), x)));
            }
            for (n, arg) in args.iter().enumerate().filter(|(_, a)| a.name.is_none()) {
                out.extend(of_value(&arg.value).into_iter().map(|(what, x)| (what, put(n, x))));
            }
            out
        }
        _ => vec![],
    }
}

/// A rotation without one of its arguments or of its scaling's. The base stays: leaving it out takes another.
fn of_rotation(e: &Expr) -> Vec<Mutant> {
    let ExprKind::Call { name, args } = &e.node else { return vec![] };
    let mut out = Vec::new();
    for (n, arg) in args.iter().enumerate() {
        let with =
            |args: Vec<Arg>| Spanned { node: ExprKind::Call { name: name.clone(), args }, span: e.span };
        let Some(word) = arg.name.as_ref().filter(|w| w.node != "theta") else { continue };
        let mut rest = args.clone();
        rest.remove(n);
        out.push((format!("{} of {}", word.node, name.node), with(rest)));
        for (what, inner) in of_rotation(&arg.value) {
            let mut changed = args.clone();
            changed[n].value = inner;
            out.push((what, with(changed)));
        }
    }
    out
}

/// A clause about rows without one of its tensors.
fn without_names(kind: &ClauseKind) -> Vec<(String, ClauseKind)> {
    let mut out = Vec::new();
    let (ClauseKind::Map { names, .. } | ClauseKind::Rotate { names, .. }) = kind else { return out };
    for n in (0..names.len()).filter(|_| names.len() > 1) {
        let mut kind = kind.clone();
        if let ClauseKind::Map { names, .. } | ClauseKind::Rotate { names, .. } = &mut kind {
            names.remove(n);
        }
        out.push((names[n].node.clone(), kind));
    }
    out
}

/// Every mutant of a file: what was deleted where, and the text.
fn mutants(file: &File) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (n, item) in file.items.iter().enumerate() {
        let mut push = |place: &str, what: String, item: Item| {
            let mut mutant = file.clone();
            mutant.items[n] = item;
            out.push((format!("`{what}` of {place}"), print::file(&mutant)));
        };
        match item {
            Item::Def(def) => {
                let bodies = match def.kind {
                    DefKind::Mask => of_mask(&def.body),
                    DefKind::Score => of_score(&def.body),
                    DefKind::Fn | DefKind::Position => vec![],
                };
                for (what, body) in bodies {
                    push(&def.name.node, what, Item::Def(Def { body, ..def.clone() }));
                }
            }
            Item::Kernel(kernel) => {
                for (place, what, kernel) in of_kernel(kernel) {
                    push(&place, what, Item::Kernel(kernel));
                }
            }
            Item::Use(_) => {}
        }
    }
    out
}

/// A selection without one of its options.
fn of_selection(e: &Expr) -> Vec<Mutant> {
    let ExprKind::Call { name, args } = &e.node else { return vec![] };
    let required = if name.node == "topk_blocks" { 3 } else { 2 };
    let without = |n: usize| {
        let mut args = args.clone();
        args.remove(n);
        Spanned { node: ExprKind::Call { name: name.clone(), args }, span: e.span }
    };
    (required..args.len()).map(|n| (print::expr(&args[n].value), without(n))).collect()
}

/// Mutants of the clauses of a kernel: the clause, what was deleted, the kernel.
fn of_kernel(kernel: &Kernel) -> Vec<(String, String, Kernel)> {
    let of = of_clauses(&kernel.clauses, &kernel.name.node);
    of.into_iter().map(|(place, what, clauses)| (place, what, Kernel { clauses, ..kernel.clone() })).collect()
}

/// Mutants of the clauses of a kernel or branch.
fn of_clauses(clauses: &[Clause], name: &str) -> Vec<(String, String, Vec<Clause>)> {
    let mut out = Vec::new();
    for (n, clause) in clauses.iter().enumerate() {
        let place = format!("{} in {name}", clause.kind.keyword());
        let with = |kind: ClauseKind| {
            let mut all = clauses.to_vec();
            all[n].kind = kind;
            all
        };
        if let ClauseKind::Branch { name: branch, clauses: inner } = &clause.kind {
            let of = of_clauses(inner, &format!("{name}.{}", branch.node));
            out.extend(of.into_iter().map(|(place, what, inner)| {
                (place, what, with(ClauseKind::Branch { name: branch.clone(), clauses: inner }))
            }));
            continue;
        }
        let found: Vec<(String, ClauseKind)> = match &clause.kind {
            ClauseKind::Mask(e) => of_mask(e).into_iter().map(|(w, e)| (w, ClauseKind::Mask(e))).collect(),
            ClauseKind::Score(e) => of_score(e).into_iter().map(|(w, e)| (w, ClauseKind::Score(e))).collect(),
            ClauseKind::Weight(e) => {
                of_weight(e).into_iter().map(|(w, e)| (w, ClauseKind::Weight(e))).collect()
            }
            ClauseKind::Select { name, by } => {
                let select = |by| ClauseKind::Select { name: name.clone(), by };
                of_selection(by).into_iter().map(|(w, e)| (w, select(e))).collect()
            }
            ClauseKind::Update { name, value } => {
                let update = |value| ClauseKind::Update { name: name.clone(), value };
                of_value(value).into_iter().map(|(w, e)| (w, update(e))).collect()
            }
            ClauseKind::State { name, ty, init: Some(init) } => {
                let state = ClauseKind::State { name: name.clone(), ty: ty.clone(), init: None };
                vec![(print::expr(init), state)]
            }
            ClauseKind::Return(all) => {
                let one = |(k, e): (usize, &Expr)| {
                    let with = |changed| {
                        let mut results = all.clone();
                        results[k] = changed;
                        ClauseKind::Return(results)
                    };
                    of_result(e).into_iter().map(|(w, e)| (w, with(e))).collect::<Vec<_>>()
                };
                all.iter().enumerate().flat_map(one).collect()
            }
            kind @ (ClauseKind::Map { .. } | ClauseKind::Rotate { .. } | ClauseKind::Dropout(_)) => {
                let mut kinds = without_names(kind);
                if let ClauseKind::Rotate { names, by, at } = kind {
                    let rotate = |by| ClauseKind::Rotate { names: names.clone(), by, at: at.clone() };
                    kinds.extend(of_rotation(by).into_iter().map(|(what, by)| (what, rotate(by))));
                }
                let mut fewer = clauses.to_vec();
                fewer.remove(n);
                out.push((place.clone(), "the clause".into(), fewer));
                kinds
            }
            _ => continue,
        };
        out.extend(found.into_iter().map(|(what, kind)| (place.clone(), what, with(kind))));
        if let ClauseKind::Mask(e) | ClauseKind::Select { by: e, .. } = &clause.kind {
            let mut fewer = clauses.to_vec();
            fewer.remove(n);
            out.push((place, print::expr(e), fewer));
        }
    }
    out
}

/// The kernel of a text; none if it does not compile.
fn instance(text: &str, key: &PlanKey) -> Option<Ir> {
    let front = pipeline::front("mutant.attn", text, &mut sema::no_files, &mut ());
    let kernel = front.checked.kernel(Some(&key.kernel)).filter(|_| !front.diagnostics.has_errors())?;
    sema::instantiate(kernel, key).ok()
}

/// A grid point with its data and the right answer.
struct Reference {
    key: PlanKey,
    inputs: Inputs,
    right: Results,
    /// Outputs in order.
    names: Vec<String>,
}

/// The largest value of an int input: counts and the like are small, lists of blocks of 32 end with -1, everything
/// else lies in 0..=length.
fn range(name: &str, point: &Point) -> (i64, i64) {
    let longest = point.longest();
    match name {
        "count" => (0, 2),
        "doc" => (0, 7),
        // Lengths of sequences in a cache of Sk: with the rows of this call, and all.
        "kv_len" | "ctx" => {
            let of = |dims: &[&str]| dims.iter().find_map(|d| point.dims.get(*d)).copied().unwrap_or(1);
            (of(&["Sq", "T"]).min(of(&["Sk"])), of(&["Sk"]))
        }
        "list" => (-1, (point.dims.get("S").copied().unwrap_or(1) - 1) / 32),
        _ => (0, longest),
    }
}

fn reference(kernel: &CheckedKernel, original: &str, point: &Point) -> Reference {
    let mut key = example_key(kernel, 64);
    let is_static = |name: &str| kernel.params.iter().any(|p| p.is_static && p.name == name);
    let mut params = HashMap::new();
    for (name, value) in &point.params {
        if is_static(name) {
            key.statics.insert(name.clone(), *value);
        } else {
            params.insert(name.clone(), *value);
        }
    }
    let ir = instance(original, &key).expect("the example compiles");
    let dims: Vec<(&str, i64)> = point.dims.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let ints = |name: &str| range(name, point);
    let mut inputs = problem(&ir, &dims, &ints, 7).inputs;
    inputs.params = params;
    let right = evaluate(&ir, inputs.clone()).unwrap_or_else(|e| panic!("{}: {e:?}", kernel.name));
    let names = ir.outputs().map(|(_, t)| t.name.clone()).collect();
    Reference { key, inputs, right, names }
}

/// Whether some output of the mutant is outside the gate at this point, or cannot be evaluated.
fn differs(text: &str, at: &Reference) -> bool {
    let Some(mutant) = instance(text, &at.key) else { return true };
    let Ok(wrong) = evaluate(&mutant, at.inputs.clone()) else { return true };
    let max = at.right.max_abs_score;
    // Without its factors a result may have another name: the n-th is compared with the n-th.
    mutant.outputs().zip(&at.names).any(|((_, out), name)| {
        let (found, right) = (&wrong.outputs[&out.name], &at.right.outputs[name]);
        if found.shape() != right.shape() {
            return true;
        }
        let (found, right) = (found.to_f64_vec(), right.to_f64_vec());
        let gate = tolerance::gate(mutant.measure(&out.name), DType::F32, DType::F32, max, &right);
        !tolerance::check_gate(&found, &right, gate).ok
    })
}

/// Mutants of one example that no point of any kernel's grid tells from the original.
fn survivors(name: &str, text: &str) -> Vec<String> {
    let mut map = SourceMap::default();
    let source = map.add(name, text);
    let (file, _) = parse(&map, source);
    let checked = front(name, text).checked;
    let mut alive = mutants(&file);
    for kernel in &checked.kernels {
        for point in grid(kernel, 64) {
            if alive.is_empty() {
                break;
            }
            let at = reference(kernel, text, &point);
            alive = alive.into_par_iter().filter(|(_, mutant)| !differs(mutant, &at)).collect();
        }
    }
    alive
        .into_iter()
        .map(|(what, mutant)| format!("{name}: without {what} nothing changes:\n{mutant}"))
        .collect()
}

#[test]
fn every_clause_is_needed_at_the_grid() {
    let all: Vec<String> = examples().par_iter().flat_map(|(name, text)| survivors(name, text)).collect();
    assert!(all.is_empty(), "{} mutants survive\n{}", all.len(), all.join("\n"));
}

#[test]
fn mutants_are_made_of_every_kind() {
    let text = "\
mask near(w) = j > i - w & j <= i
attention a {
  dims B, H, S, D
  input q, k, v : float[B, H, S, D]
  map q by relu
  rotate q, k by rope(style = interleaved, scaling = yarn(4, 64, fast = 8)) at i
  score  = softcap(dot(q, k) / sqrt(D), 5) + i
  mask   = h < 2 ? near(4) : j < 3 | j == i
  weight = softmax(score, sink = 1)
  dropout (0.1, 1, 2)
  return 2 * (weight @ v)
}
";
    let mut map = SourceMap::default();
    let source = map.add("a.attn", text);
    let (file, said) = parse(&map, source);
    assert!(!said.has_errors());
    let found: Vec<String> = mutants(&file).into_iter().map(|(what, _)| what).collect();
    let expected = [
        "`j <= i` of near",
        "`i` of score in a",
        "`call of softcap` of score in a",
        "`near(4)` of mask in a",
        "`j == i` of mask in a",
        "`1` of weight in a",
        "`the clause` of map in a",
        "`the clause` of rotate in a",
        "`k` of rotate in a",
        "`style of rope` of rotate in a",
        "`fast of yarn` of rotate in a",
        "`the clause` of dropout in a",
        "`2` of return in a",
        "`h < 2 ? near(4) : j < 3 | j == i` of mask in a",
    ];
    for what in expected {
        assert!(found.iter().any(|f| f == what), "{what} is not among {found:#?}");
    }
}
