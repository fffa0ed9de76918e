//! The first point at which a condition holds: by arithmetic where that is a run of the counter, else by a search.
//!
//! Comes in: a counter, its span, a condition such as `j0 + p * 32 <= i_hi & i_lo <= j0 + p * 32 + 31`. Goes out: a `let` of
//! the smallest counter within both bounds, the end of the span if that is beyond one of them; or a `first`.
//!
//! What holds: the value is that of the search, whatever the uniform variables are, as long as sums do not overflow. Taken
//! are conjunctions of comparisons of what is linear in the counter (also with `min` and `max` where they are
//! conjunctions). Deliberately not done: disjunctions, equalities, what memory holds, which may be so large that sums
//! overflow; those are still searched.

use crate::expr::{BinaryOp, ExprId, Op, Pool, Ty, VarId};
use crate::tile_ir::{Span, Stmt};

/// Names the first counter of a span at which a condition holds, the end of the span if there is none.
pub fn first(pool: &mut Pool, var: VarId, over: Span, cond: ExprId) -> Stmt {
    let mut run = Run::default();
    if run.take(pool, over.var, cond) {
        Stmt::Let { var, value: run.first(pool, &over) }
    } else {
        Stmt::First { var, over, cond }
    }
}

/// The counters at which a condition holds.
#[derive(Default)]
struct Run {
    /// At least all of these.
    lowest: Vec<ExprId>,
    /// At most all of these.
    highest: Vec<ExprId>,
    /// And only if all of these hold.
    also: Vec<ExprId>,
}

/// `slope * counter + rest`
struct Linear {
    slope: i64,
    rest: ExprId,
}

impl Run {
    /// Adds a condition; false where it is none that a run can have.
    fn take(&mut self, pool: &mut Pool, counter: VarId, cond: ExprId) -> bool {
        if !pool.depends_on(cond, &[counter]) {
            self.also.push(cond);
            return true;
        }
        match *pool.op(cond) {
            Op::Binary(BinaryOp::And, a, b) => self.take(pool, counter, a) && self.take(pool, counter, b),
            Op::Binary(BinaryOp::Le, a, b) => self.at_most(pool, counter, (a, b), 0),
            Op::Binary(BinaryOp::Lt, a, b) => self.at_most(pool, counter, (a, b), 1),
            _ => false,
        }
    }

    /// `a + apart <= b`
    fn at_most(&mut self, pool: &mut Pool, counter: VarId, (a, b): (ExprId, ExprId), apart: i64) -> bool {
        let loads =
            |pool: &Pool, id| pool.reachable(&[id]).into_iter().any(|n| matches!(pool.op(n), Op::Load(..)));
        if pool.ty(a) != Ty::Int || loads(pool, a) || loads(pool, b) {
            return false;
        }
        if let Op::Binary(BinaryOp::Max, x, y) = *pool.op(a) {
            return self.at_most(pool, counter, (x, b), apart) && self.at_most(pool, counter, (y, b), apart);
        }
        if let Op::Binary(BinaryOp::Min, x, y) = *pool.op(b) {
            return self.at_most(pool, counter, (a, x), apart) && self.at_most(pool, counter, (a, y), apart);
        }
        // a - min(x, y) is the larger of a - x and a - y.
        if let Op::Binary(BinaryOp::Sub, from, less) = *pool.op(a)
            && let Op::Binary(BinaryOp::Min, x, y) = *pool.op(less)
        {
            let sides = [x, y].map(|side| pool.sub(from, side));
            return sides.into_iter().all(|side| self.at_most(pool, counter, (side, b), apart));
        }
        let (Some(left), Some(right)) = (linear(pool, counter, a), linear(pool, counter, b)) else {
            return false;
        };
        // slope * counter <= room
        let slope = left.slope - right.slope;
        let room = pool.sub(right.rest, left.rest);
        let room = pool.add_int(room, -apart);
        match slope {
            0 => {
                let zero = pool.int(0);
                self.also.push(pool.le(zero, room));
            }
            1.. => {
                let by = pool.int(slope);
                self.highest.push(pool.idiv(room, by));
            }
            _ => {
                let zero = pool.int(0);
                let least = pool.sub(zero, room);
                self.lowest.push(pool.ceil_div(least, -slope));
            }
        }
        true
    }

    /// The first counter of a span at which all hold, the end of the span without one.
    fn first(self, pool: &mut Pool, over: &Span) -> ExprId {
        let first = self.lowest.into_iter().fold(over.lo, |first, x| pool.max(first, x));
        let mut some = pool.lt(first, over.hi);
        for last in self.highest {
            let within = pool.le(first, last);
            some = pool.and(some, within);
        }
        for also in self.also {
            some = pool.and(some, also);
        }
        pool.select(some, first, over.hi)
    }
}

/// An int as a multiple of the counter and what does not depend on it.
fn linear(pool: &mut Pool, counter: VarId, id: ExprId) -> Option<Linear> {
    if !pool.depends_on(id, &[counter]) {
        return Some(Linear { slope: 0, rest: id });
    }
    match *pool.op(id) {
        Op::Var(_) => Some(Linear { slope: 1, rest: pool.int(0) }),
        Op::Binary(op @ (BinaryOp::Add | BinaryOp::Sub), a, b) => {
            let (a, b) = (linear(pool, counter, a)?, linear(pool, counter, b)?);
            Some(match op {
                BinaryOp::Add => {
                    Linear { slope: a.slope.checked_add(b.slope)?, rest: pool.add(a.rest, b.rest) }
                }
                _ => Linear { slope: a.slope.checked_sub(b.slope)?, rest: pool.sub(a.rest, b.rest) },
            })
        }
        Op::Binary(BinaryOp::Mul, a, b) => {
            let (x, by) = if let Some(by) = pool.as_int(b) { (a, by) } else { (b, pool.as_int(a)?) };
            let x = linear(pool, counter, x)?;
            let factor = pool.int(by);
            Some(Linear { slope: x.slope.checked_mul(by)?, rest: pool.mul(x.rest, factor) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile_ir::text;

    /// A search over `lo..hi`, by itself and by arithmetic, for many uniform values.
    fn check(cond: &str, taken: bool) {
        let source = format!(
            "program p {{ dim lo: int dim hi: int dim a: int dim b: int output o: i32[4] launch l {{
               first p over c in lo - 8..hi - 8: {cond}
               store_map o[0 : rx] [r < 1, x < 1]: p }} }}"
        );
        let mut program = text::parse(&source).unwrap_or_else(|e| panic!("{cond}: {e}"));
        let before = program.clone();
        let Stmt::First { var, ref over, cond: holds } = before.launches[0].body[0] else { panic!("{cond}") };
        let value = match first(&mut program.pool, var, over.clone(), holds) {
            Stmt::Let { value, .. } if taken => value,
            Stmt::First { .. } if !taken => return,
            other => panic!("{cond}: {other:?}"),
        };
        for n in 0..7i64.pow(4) {
            let at = [n % 7, n / 7 % 7, n / 49 % 7, n / 343].map(|x| x * 3);
            let value_at = |pool: &Pool, id, c: i64| {
                let env =
                    Env { dims: before.dims.iter().map(|d| d.var).zip(at).collect(), counter: (over.var, c) };
                crate::expr::eval::eval(pool, id, &env)
            };
            let (lo, hi) = (at[0] - 8, at[1] - 8);
            let wanted = (lo..hi).find(|&c| value_at(&before.pool, holds, c).bool()).unwrap_or(hi);
            assert_eq!(value_at(&program.pool, value, 0).int(), wanted, "{cond} at {at:?}");
        }
    }

    struct Env {
        dims: Vec<(VarId, i64)>,
        counter: (VarId, i64),
    }

    impl crate::expr::eval::Env for Env {
        fn var(&self, var: VarId) -> crate::expr::eval::Value {
            let known = self.dims.iter().chain([&self.counter]).find(|x| x.0 == var);
            crate::expr::eval::Value::Int(known.expect("a variable of the search").1)
        }

        fn load(&self, _: crate::expr::TensorId, _: &[i64]) -> crate::expr::eval::Value {
            crate::expr::eval::Value::Int(0)
        }
    }

    #[test]
    fn runs_are_found_by_arithmetic() {
        check("a + c * 3 <= b", true);
        check("a - c * 3 < b", true);
        check("a + (hi - 1 - c) * 5 <= b & a <= b + 4", true);
        check("a <= c * 4 + 3 & c * 4 - b <= 9", true);
        check("a <= min(c * 2 + 7, b) & max(c - a, 3) <= b", true);
        check("a - min(c * 2 + 3, b) < 5 & c <= b", true);
        check("2 * c + a < b + 2 * c", true);
        check("c < 5 & true", true);
    }

    #[test]
    fn others_are_left() {
        check("c == a", false);
        check("c < a | c < b", false);
        check("min(c, a) <= b", false);
        check("c mod 3 <= a", false);
        check("c * c <= a", false);
    }
}
