//! What guards prove about the indices behind them (language.md, rule 3: `&`, `|`, `? :` guard loads).
//!
//! Comes in: expressions, conditions that hold wherever they are evaluated. Goes out: for each load that can be
//! reached, its indices cut to what the guards on the way prove: `max(index, 0)` where they say that it is not
//! negative, `min(index, size - 1)` where they say that it is below the size. A bind check of a cut index asks only
//! for what no guard says. What holds: a guard is used as linear inequalities of ints, `p <= q + c`, and proves one
//! that differs from it by a constant only; a load that is reached on several ways is cut by what all of them say.
//! Not here: conclusions from several inequalities, contents of tensors.

use std::collections::{BTreeMap, HashMap};

use crate::expr::{BinaryOp, ExprId, Op, Pool, UnaryOp};

/// `sum of coefficient * node + constant`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Linear {
    terms: BTreeMap<ExprId, i128>,
    constant: i128,
}

impl Linear {
    fn of(pool: &Pool, id: ExprId) -> Linear {
        let mut out = Linear::default();
        out.add(pool, id, 1, 0);
        out.terms.retain(|_, k| *k != 0);
        out
    }

    fn add(&mut self, pool: &Pool, id: ExprId, k: i128, depth: usize) {
        match *pool.op(id) {
            Op::Int(x) => self.constant += k * i128::from(x),
            Op::Unary(UnaryOp::Neg, x) if depth < 32 => self.add(pool, x, -k, depth + 1),
            Op::Binary(BinaryOp::Add, a, b) if depth < 32 => {
                self.add(pool, a, k, depth + 1);
                self.add(pool, b, k, depth + 1);
            }
            Op::Binary(BinaryOp::Sub, a, b) if depth < 32 => {
                self.add(pool, a, k, depth + 1);
                self.add(pool, b, -k, depth + 1);
            }
            _ => *self.terms.entry(id).or_default() += k,
        }
    }

    /// `self - other`
    fn minus(&self, other: &Linear) -> Linear {
        let mut out = self.clone();
        for (id, k) in &other.terms {
            *out.terms.entry(*id).or_default() -= k;
        }
        out.terms.retain(|_, k| *k != 0);
        out.constant -= other.constant;
        out
    }
}

/// Known inequalities: each form is not negative.
type Known = Vec<Linear>;

/// Adds what follows from `cond` being `holds`.
fn learn(pool: &Pool, cond: ExprId, holds: bool, known: &mut Known, depth: usize) {
    let int = |x: ExprId| pool.ty(x) == crate::expr::Ty::Int;
    match *pool.op(cond) {
        Op::Unary(UnaryOp::Not, x) if depth < 64 => learn(pool, x, !holds, known, depth + 1),
        Op::Binary(BinaryOp::And, a, b) if holds && depth < 64 => {
            learn(pool, a, true, known, depth + 1);
            learn(pool, b, true, known, depth + 1);
        }
        Op::Binary(BinaryOp::Or, a, b) if !holds && depth < 64 => {
            learn(pool, a, false, known, depth + 1);
            learn(pool, b, false, known, depth + 1);
        }
        Op::Binary(op @ (BinaryOp::Lt | BinaryOp::Le | BinaryOp::Eq), a, b) if int(a) => {
            let (a, b) = (Linear::of(pool, a), Linear::of(pool, b));
            let mut at_least = |x: &Linear, y: &Linear, less: i128| {
                let mut form = x.minus(y);
                form.constant -= less;
                known.push(form);
            };
            match (op, holds) {
                (BinaryOp::Lt, true) => at_least(&b, &a, 1),
                (BinaryOp::Lt, false) => at_least(&a, &b, 0),
                (BinaryOp::Le, true) => at_least(&b, &a, 0),
                (BinaryOp::Le, false) => at_least(&a, &b, 1),
                (BinaryOp::Eq, true) => {
                    at_least(&a, &b, 0);
                    at_least(&b, &a, 0);
                }
                _ => {}
            }
        }
        _ => {}
    }
}

/// Not negative, by one of the known inequalities.
fn proved(known: &Known, form: &Linear) -> bool {
    (form.terms.is_empty() && form.constant >= 0)
        || known.iter().any(|k| k.terms == form.terms && form.constant >= k.constant)
}

/// For each index of each load: is it proved not negative, and below the size?
pub(super) type Proofs = HashMap<ExprId, Vec<(bool, bool)>>;

/// Most steps of the walk; beyond them nothing is proved.
const MAX_STEPS: usize = 20_000;

/// Walks every way to every load of the roots; `sizes` gives the sizes of the dims of a tensor.
pub(super) fn prove(
    pool: &Pool,
    roots: &[(ExprId, Option<ExprId>)],
    sizes: &dyn Fn(crate::expr::TensorId) -> Vec<ExprId>,
) -> Proofs {
    let mut walk = Walk { pool, sizes, proofs: Proofs::new(), steps: 0 };
    for (root, given) in roots {
        let mut known = Known::new();
        if let Some(given) = given {
            learn(pool, *given, true, &mut known, 0);
        }
        walk.visit(*root, &mut known, 0);
    }
    if walk.steps >= MAX_STEPS { Proofs::new() } else { walk.proofs }
}

struct Walk<'a> {
    pool: &'a Pool,
    sizes: &'a dyn Fn(crate::expr::TensorId) -> Vec<ExprId>,
    proofs: Proofs,
    steps: usize,
}

impl Walk<'_> {
    fn visit(&mut self, id: ExprId, known: &mut Known, depth: usize) {
        self.steps += 1;
        if self.steps >= MAX_STEPS || depth > 400 {
            self.steps = MAX_STEPS;
            return;
        }
        let pool = self.pool;
        match pool.op(id) {
            Op::Binary(BinaryOp::And, a, b) => {
                self.visit(*a, known, depth + 1);
                self.guarded(*b, (*a, true), known, depth);
            }
            Op::Binary(BinaryOp::Or, a, b) => {
                self.visit(*a, known, depth + 1);
                self.guarded(*b, (*a, false), known, depth);
            }
            Op::Select(c, a, b) => {
                self.visit(*c, known, depth + 1);
                self.guarded(*a, (*c, true), known, depth);
                self.guarded(*b, (*c, false), known, depth);
            }
            Op::Load(t, index, _) => {
                let sizes = (self.sizes)(*t);
                let found: Vec<(bool, bool)> = index
                    .iter()
                    .zip(&sizes)
                    .map(|(&x, &n)| {
                        let at = Linear::of(pool, x);
                        let mut above = Linear::of(pool, n).minus(&at);
                        above.constant -= 1;
                        (proved(known, &at), proved(known, &above))
                    })
                    .collect();
                let before = self.proofs.entry(id).or_insert_with(|| found.clone());
                for (b, f) in before.iter_mut().zip(&found) {
                    *b = (b.0 && f.0, b.1 && f.1);
                }
                for &x in index.iter() {
                    self.visit(x, known, depth + 1);
                }
            }
            _ => {
                for x in pool.operands(id) {
                    self.visit(x, known, depth + 1);
                }
            }
        }
    }

    fn guarded(&mut self, id: ExprId, (cond, holds): (ExprId, bool), known: &mut Known, depth: usize) {
        let before = known.len();
        learn(self.pool, cond, holds, known, 0);
        self.visit(id, known, depth + 1);
        known.truncate(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{TensorId, Ty};

    /// `known` guards for `t[x]` with size n: (lower end proved, upper end proved).
    fn proofs(make: impl Fn(&mut Pool, ExprId, ExprId, ExprId) -> ExprId) -> Vec<(bool, bool)> {
        let mut pool = Pool::new();
        let vars = ["x", "c", "n"].map(|name| pool.add_var(name, Ty::Int));
        let [x, c, n] = vars.map(|v| pool.var(v));
        let at = pool.sub(x, c);
        let load = pool.load(TensorId(0), vec![at], Ty::Bool);
        let root = make(&mut pool, x, c, load);
        let found = prove(&pool, &[(root, None)], &|_| vec![n]);
        found[&load].clone()
    }

    #[test]
    fn guards_cut_what_they_prove() {
        let both = proofs(|p, x, c, load| {
            let n = p.find_var("n").map(|v| p.var(v)).unwrap();
            let (end, low) = (p.add(c, n), p.le(c, x));
            let high = p.lt(x, end);
            let inside = p.and(low, high);
            p.and(inside, load)
        });
        assert_eq!(both, [(true, true)]);
        let low = proofs(|p, x, c, load| {
            let below = p.lt(x, c);
            p.or(below, load)
        });
        assert_eq!(low, [(true, false)]);
        // One key too many: not proved.
        let weak = proofs(|p, x, c, load| {
            let n = p.find_var("n").map(|v| p.var(v)).unwrap();
            let end = p.add(c, n);
            let high = p.le(x, end);
            p.and(high, load)
        });
        assert_eq!(weak, [(false, false)]);
        // The guard comes after the load.
        let late = proofs(|p, x, c, load| {
            let low = p.le(c, x);
            p.and(load, low)
        });
        assert_eq!(late, [(false, false)]);
        // Reached on two ways, guarded on one.
        let two = proofs(|p, x, c, load| {
            let low = p.le(c, x);
            let guarded = p.and(low, load);
            p.or(load, guarded)
        });
        assert_eq!(two, [(false, false)]);
        let branch = proofs(|p, x, c, load| {
            let (below, no) = (p.lt(x, c), p.bool(false));
            p.select(below, no, load)
        });
        assert_eq!(branch, [(true, false)]);
    }
}
