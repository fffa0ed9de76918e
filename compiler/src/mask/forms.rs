//! Linear forms of mask terms: sums are opened, `div` and `mod` brought to one spelling.
//!
//! Comes in: int nodes. Goes out: [`Lin`] over i, j and *terms*: nodes that are not sums. Multiples of the
//! divisor leave a `div` (`(i + 64) div 64` is `i div 64 + 1`) and a `mod`; nested quotients become one. A
//! divisor is a constant or an expression that does not depend on i or j, taken to be positive.

use std::collections::HashMap;
use std::rc::Rc;

use super::lin::{Corners, Lin};
use super::{Facts, TensorFacts};
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, UnaryOp};

/// The pool with what the analysis knows about its nodes.
pub(super) struct Forms<'a> {
    pub pool: &'a mut Pool,
    pub facts: &'a Facts<'a>,
    pub corners: Corners,
    /// The nodes of the variables i and j.
    pub i: ExprId,
    pub j: ExprId,
    /// Nodes that read i or j.
    varying: HashMap<ExprId, bool>,
    forms: HashMap<ExprId, Lin>,
    quotients: HashMap<ExprId, Option<Rc<Quotient>>>,
    positional: HashMap<ExprId, bool>,
    /// Clamped parameters, with what was clamped.
    clamped: HashMap<ExprId, Lin>,
}

/// Beyond every position: positions, and run-time divisors and coefficients, are taken to be smaller.
const FAR: i64 = 1 << 40;

/// `x div by`
pub(super) struct Quotient {
    pub x: Lin,
    pub by: Lin,
}

/// A node of two nodes.
pub(super) type Join = fn(&mut Pool, ExprId, ExprId) -> ExprId;

impl<'a> Forms<'a> {
    pub fn new(pool: &'a mut Pool, facts: &'a Facts<'a>, corners: Corners) -> Self {
        let (i, j) = (pool.var(facts.i), pool.var(facts.j));
        Forms {
            pool,
            facts,
            corners,
            i,
            j,
            varying: HashMap::new(),
            forms: HashMap::new(),
            quotients: HashMap::new(),
            positional: HashMap::new(),
            clamped: HashMap::new(),
        }
    }

    /// True if a node reads neither i nor j.
    pub fn uniform(&mut self, id: ExprId) -> bool {
        if let Some(&known) = self.varying.get(&id) {
            return !known;
        }
        let varying =
            id == self.i || id == self.j || self.pool.operands(id).into_iter().any(|x| !self.uniform(x));
        self.varying.insert(id, varying);
        !varying
    }

    /// The terms that read i or j, and the rest of the form.
    pub fn split(&mut self, lin: &Lin) -> (Vec<(ExprId, i128)>, Lin) {
        let varying: Vec<_> = lin.terms.iter().copied().filter(|t| !self.uniform(t.0)).collect();
        let ids: Vec<ExprId> = varying.iter().map(|t| t.0).collect();
        (varying, lin.without(&ids))
    }

    pub fn tensor(&self, id: TensorId) -> TensorFacts {
        (self.facts.tensors)(id)
    }

    /// The form of an int node.
    pub fn lin(&mut self, id: ExprId) -> Lin {
        if let Some(known) = self.forms.get(&id) {
            return known.clone();
        }
        let made = self.make(id);
        let made = if made.is_wild() { Lin::node(id) } else { made };
        self.forms.insert(id, made.clone());
        made
    }

    fn make(&mut self, id: ExprId) -> Lin {
        match *self.pool.op(id) {
            Op::Int(x) => Lin::int(x.into()),
            Op::Unary(UnaryOp::Neg, x) => self.lin(x).scale(-1),
            Op::Binary(op, a, b) if self.pool.ty(a) == Ty::Int => {
                let (x, y) = (self.lin(a), self.lin(b));
                match op {
                    BinaryOp::Add => x.add(&y),
                    BinaryOp::Sub => x.sub(&y),
                    BinaryOp::Mul if x.as_int().is_some() => y.scale(x.c),
                    BinaryOp::Mul if y.as_int().is_some() => x.scale(y.c),
                    BinaryOp::IDiv if y.as_int().is_some_and(|c| c != 0) => self.div_const(&x, y.c),
                    BinaryOp::Mod if y.as_int().is_some_and(|c| c != 0) => self.mod_const(&x, y.c),
                    // No position is FAR, so a larger divisor gives the same quotient.
                    BinaryOp::IDiv if y.as_int().is_none() && self.uniform(b) && !self.uniform(a) => {
                        let near = self.bounded(&y, true);
                        self.combine(&x, &near, Pool::idiv)
                    }
                    _ => Lin::node(id),
                }
            }
            _ => Lin::node(id),
        }
    }

    /// `x div c`, floored.
    pub fn div_const(&mut self, x: &Lin, c: i128) -> Lin {
        if c < 0 {
            return self.div_const(&x.scale(-1), -c);
        }
        let mut whole = Lin::int(x.c.div_euclid(c));
        let mut rest = Lin::int(x.c.rem_euclid(c));
        for &(id, coef) in &x.terms {
            let part = if coef % c == 0 { &mut whole } else { &mut rest };
            let k = if coef % c == 0 { coef / c } else { coef };
            *part = part.plus(&Lin::node(id), k);
        }
        if x.is_wild() || rest.is_wild() {
            return Lin::int(i128::MAX);
        }
        if rest.terms.is_empty() {
            return whole;
        }
        if let [(inner, 1)] = rest.terms[..]
            && let Op::Binary(BinaryOp::IDiv, y, by) = *self.pool.op(inner)
            && let Some(by) = self.lin(by).as_int().filter(|&by| by > 0)
        {
            let y = self.lin(y).add_int(rest.c * by);
            return whole.add(&self.div_const(&y, by.saturating_mul(c)));
        }
        let node = self.node(&rest).zip(i64::try_from(c).ok()).map(|(rest, c)| {
            let c = self.pool.int(c);
            self.pool.idiv(rest, c)
        });
        whole.add(&node.map_or(Lin::int(i128::MAX), Lin::node))
    }

    /// `x mod c`, with the sign of `c`.
    fn mod_const(&mut self, x: &Lin, c: i128) -> Lin {
        if c < 0 {
            return self.mod_const(&x.scale(-1), -c).scale(-1);
        }
        let mut rest = Lin::int(x.c);
        for &(id, coef) in &x.terms {
            let k = if coef.abs() < c { coef } else { coef % c };
            rest = rest.plus(&Lin::node(id), k);
        }
        let g = rest.gcd();
        if g == 0 {
            return Lin::int(rest.c.rem_euclid(c));
        }
        let (g, by) = if c % g == 0 { (g, c / g) } else { (1, c) };
        let shift = rest.c.rem_euclid(g);
        rest.c = rest.c.div_euclid(g).rem_euclid(by);
        for term in &mut rest.terms {
            term.1 /= g;
        }
        let node = self.node(&rest).zip(i64::try_from(by).ok()).map(|(rest, by)| {
            let by = self.pool.int(by);
            self.pool.modulo(rest, by)
        });
        node.map_or(Lin::int(i128::MAX), |n| Lin::node(n).scale(g).add_int(shift))
    }

    /// A form as a node.
    pub fn node(&mut self, lin: &Lin) -> Option<ExprId> {
        self.corners.expr(self.pool, lin)
    }

    /// `x div by` for a positive form.
    pub fn div(&mut self, x: &Lin, by: &Lin) -> Lin {
        match by.as_int() {
            Some(c) if c != 0 => self.div_const(x, c),
            _ => self.div_symbolic(x, by),
        }
    }

    /// `x div by` for a divisor that is no constant; its multiples leave the quotient.
    fn div_symbolic(&mut self, x: &Lin, by: &Lin) -> Lin {
        let mut whole = Lin::int(0);
        let mut rest = x.clone();
        if let [(divisor, 1)] = by.terms[..]
            && by.c == 0
        {
            for &(t, k) in &x.terms {
                let factor = match *self.pool.op(t) {
                    _ if t == divisor => Lin::int(1),
                    Op::Binary(BinaryOp::Mul, a, b) if b == divisor => self.lin(a),
                    Op::Binary(BinaryOp::Mul, a, b) if a == divisor => self.lin(b),
                    _ => continue,
                };
                whole = whole.plus(&factor, k);
                rest = rest.without(&[t]);
            }
        }
        if rest.as_int() == Some(0) { whole } else { whole.add(&self.combine(&rest, by, Pool::idiv)) }
    }

    /// `x mod by` for a positive form.
    pub fn modulo(&mut self, x: &Lin, by: &Lin) -> Lin {
        match by.as_int() {
            Some(c) if c != 0 => self.mod_const(x, c),
            _ => self.combine(x, by, Pool::modulo),
        }
    }

    /// `x * by`
    pub fn times(&mut self, x: &Lin, by: &Lin) -> Lin {
        match (x.as_int(), by.as_int()) {
            (Some(c), _) => by.scale(c),
            (_, Some(c)) => x.scale(c),
            _ => self.combine(x, by, Pool::mul),
        }
    }

    /// A node of two forms; wild if one is.
    pub fn combine(&mut self, x: &Lin, y: &Lin, op: Join) -> Lin {
        match (self.node(x), self.node(y)) {
            (Some(x), Some(y)) => Lin::node(op(self.pool, x, y)),
            _ => Lin::int(i128::MAX),
        }
    }

    /// The bool node `lin <= 0`.
    pub fn le0(&mut self, lin: &Lin) -> ExprId {
        if self.proves(lin) {
            return self.pool.bool(true);
        }
        if self.proves(&lin.scale(-1).add_int(1)) {
            return self.pool.bool(false);
        }
        let mut lin = lin.tightened();
        let params: Vec<_> = lin.terms.iter().copied().filter(|t| !self.positional(t.0)).collect();
        if let [(t, k)] = params[..]
            && k.abs() == 1
            && let Some(param) = self.clamped.get(&t)
        {
            // Alone on its side a parameter need not be clamped.
            lin = lin.without(&[t]).plus(param, k);
        }
        let positions: Vec<ExprId> = lin.terms.iter().map(|t| t.0).filter(|&t| self.near(t)).collect();
        self.corners.le0(self.pool, &lin, &positions)
    }

    /// True if a node is made of corners and constants alone.
    fn positional(&mut self, id: ExprId) -> bool {
        if let Some(&known) = self.positional.get(&id) {
            return known;
        }
        let made = self.corners.0.contains(&id)
            || match self.pool.op(id) {
                Op::Var(_) | Op::Load(..) => false,
                Op::Int(x) => x.unsigned_abs() <= FAR as u64,
                _ => self.pool.operands(id).into_iter().all(|x| self.positional(x)),
            };
        self.positional.insert(id, made);
        made
    }

    /// True if a node is made of corners, constants and clamped parameters.
    fn near(&self, id: ExprId) -> bool {
        self.clamped.contains_key(&id)
            || self.corners.0.contains(&id)
            || match self.pool.op(id) {
                Op::Var(_) | Op::Load(..) => false,
                Op::Int(x) => x.unsigned_abs() <= FAR as u64,
                _ => self.pool.operands(id).into_iter().all(|x| self.near(x)),
            }
    }

    /// `lo - hi` of two bounds; with the parameters themselves where one is left at most, and that not multiplied.
    pub fn gap(&mut self, lo: &Lin, hi: &Lin) -> Lin {
        let clamped = lo.sub(hi);
        let mut raw = clamped.clone();
        for &(t, k) in &clamped.terms {
            if let Some(param) = self.clamped.get(&t) {
                raw = raw.without(&[t]).plus(param, k);
            }
        }
        let whole = raw.tightened();
        let params: Vec<i128> =
            whole.terms.iter().filter(|t| !self.positional(t.0)).map(|t| t.1.abs()).collect();
        if matches!(params[..], [] | [1]) { raw } else { clamped }
    }

    /// A bound with its parameters clamped to [`FAR`], so that sums with positions cannot overflow. No position
    /// is that far, so the bound says the same; a bound far on the other side leaves no pair and is refused by
    /// the condition that it must meet the box.
    pub fn bounded(&mut self, lin: &Lin, above: bool) -> Lin {
        let params: Vec<ExprId> = lin.terms.iter().map(|t| t.0).filter(|&t| !self.near(t)).collect();
        if params.is_empty() || lin.is_wild() {
            return lin.clone();
        }
        let rest = lin.without(&params);
        let param = lin.sub(&rest);
        let Some(raw) = self.node(&param) else { return Lin::int(i128::MAX) };
        if let Some(x) = self.pool.as_int(raw) {
            return rest.add_int(x.clamp(-FAR, FAR).into());
        }
        let far = self.pool.int(if above { FAR } else { -FAR });
        let near = if above { self.pool.min(raw, far) } else { self.pool.max(raw, far) };
        self.clamped.insert(near, param);
        rest.add(&Lin::node(near))
    }

    /// The argument and the divisor of a quotient by something that reads neither i nor j.
    pub fn quotient(&mut self, term: ExprId) -> Option<Rc<Quotient>> {
        if let Some(known) = self.quotients.get(&term) {
            return known.clone();
        }
        let mut found = None;
        if let Op::Binary(BinaryOp::IDiv, x, by) = *self.pool.op(term)
            && self.uniform(by)
        {
            found = Some(Rc::new(Quotient { x: self.lin(x), by: self.lin(by) }));
        }
        self.quotients.insert(term, found.clone());
        found
    }

    /// True only if `lin <= 0` for every box that is not empty: by the order of the corners, by quotients being
    /// monotone, and by `x - c + 1 <= c * (x div c) <= x`.
    pub fn proves(&mut self, lin: &Lin) -> bool {
        if let Some(known) = self.corners.decide(lin) {
            return known;
        }
        let mut quotients = Vec::new();
        for &(t, k) in &lin.terms {
            if !self.corners.0.contains(&t) {
                let Some(q) = self.quotient(t) else { return false };
                quotients.push((t, k, q));
            }
        }
        if quotients.is_empty() || lin.is_wild() {
            return false;
        }
        let mut rest = lin.clone();
        for (t, _, p) in quotients.iter().filter(|q| q.1 > 0) {
            for (u, _, q) in quotients.iter().filter(|q| q.1 < 0) {
                let common = rest.coef(*t).min(-rest.coef(*u));
                if common > 0 && p.by == q.by && self.proves(&p.x.sub(&q.x)) {
                    rest = rest.plus(&Lin::node(*t), -common).plus(&Lin::node(*u), common);
                }
            }
        }
        for (t, _, q) in &quotients {
            let (k, Some(c)) = (rest.coef(*t), q.by.as_int()) else { continue };
            if k != 0 && c > 0 && k % c == 0 {
                let m = k / c;
                rest =
                    rest.plus(&Lin::node(*t), -k).plus(&q.x, m).add_int(if m < 0 { -m * (c - 1) } else { 0 });
            }
        }
        self.corners.decide(&rest) == Some(true)
    }

    /// The forms without those that another one implies (`a <= 0` follows from `b <= 0` where `a <= b`).
    pub fn without_implied(&mut self, lins: Vec<Lin>) -> Vec<Lin> {
        let mut kept: Vec<Lin> = Vec::new();
        for x in lins {
            if x.is_wild() || self.proves(&x) || kept.iter().any(|k| self.proves(&x.sub(k))) {
                continue;
            }
            kept.retain(|k| !self.proves(&k.sub(&x)));
            kept.push(x);
        }
        kept
    }

    /// The largest of lower bounds (`Pool::max`) or smallest of upper bounds as one form; `None` without a bound.
    pub fn collapse(&mut self, bounds: &[Lin], op: Join) -> Option<Lin> {
        let bounds: Vec<Lin> = bounds.iter().map(|x| self.unclamped(x)).collect();
        let mut it = bounds.iter();
        let first = it.next()?.clone();
        Some(it.fold(first, |acc, x| self.combine(&acc, x, op)))
    }

    /// A bound that is a clamped parameter as the parameter.
    fn unclamped(&self, x: &Lin) -> Lin {
        match (&x.terms[..], x.c) {
            ([(t, 1)], 0) => self.clamped.get(t).unwrap_or(x).clone(),
            _ => x.clone(),
        }
    }
}
