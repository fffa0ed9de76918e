//! One conjunction of atoms over a box: the conditions under which some pair of the box satisfies it, and the
//! bounds of i and j that follow.
//!
//! Comes in: atoms. Goes out: bool nodes ([`conditions`]) and a closed zone ([`bounds_of`]). Atoms over i, j, i - j and their quotients bound a [`Zone`]; quotients
//! of i and j by the same divisor form a second zone over blocks, with bounds passed between the two; all other
//! atoms are judged by the bounds of their terms in the closed zone ([`super::bounds`]). Every condition is
//! necessary, so a conjunction judged impossible is impossible; they are also sufficient for one atom beside a
//! zone, and for zone and blocks in the common cases (the fuzz test counts the rest).

use super::bounds;
use super::forms::Forms;
use super::lin::Lin;
use super::normal::Lit;
use super::zone::{Range, Zone, gaps};
use crate::expr::{BinaryOp, ExprId, Op, Pool, Ty};

/// Quotients `x div by` (x reads i) and `y div by` (y reads j), and bounds of their difference.
struct Blocks {
    by: Lin,
    x: Lin,
    y: Lin,
    d: Range,
}

/// Bounds asked of one `x mod by`.
struct Residue {
    x: Lin,
    by: Lin,
    range: Range,
    not: Vec<Lin>,
}

struct Solver<'a, 'f> {
    f: &'a mut Forms<'f>,
    zone: Zone,
    blocks: Vec<Blocks>,
    residues: Vec<Residue>,
    others: Vec<Lit>,
    /// Conditions as forms that must be 0 or less, and as nodes.
    forms: Vec<Lin>,
    nodes: Vec<ExprId>,
}

/// The conditions, all necessary, under which some pair of the box satisfies a conjunction.
pub(super) fn conditions(f: &mut Forms, lits: &[Lit]) -> Vec<ExprId> {
    let mut s = Solver::new(f, lits);
    s.propagate(false);
    s.conditions()
}

/// Bounds of i, j and i - j over the pairs of the box that satisfy a conjunction; closed.
pub(super) fn bounds_of(f: &mut Forms, lits: &[Lit]) -> Zone {
    let mut s = Solver::new(f, lits);
    s.propagate(true);
    s.zone.closed(s.f)
}

impl<'a, 'f> Solver<'a, 'f> {
    fn new(f: &'a mut Forms<'f>, lits: &[Lit]) -> Self {
        let [i_lo, i_hi, j_lo, j_hi] = f.corners.0.map(Lin::node);
        let zone = Zone {
            x: Range { lo: vec![i_lo], hi: vec![i_hi] },
            y: Range { lo: vec![j_lo], hi: vec![j_hi] },
            d: Range::default(),
        };
        let mut s = Solver {
            f,
            zone,
            blocks: vec![],
            residues: vec![],
            others: vec![],
            forms: vec![],
            nodes: vec![],
        };
        for lit in lits {
            s.route(lit);
        }
        s
    }

    /// Sends an atom to what can use it.
    fn route(&mut self, lit: &Lit) {
        match lit {
            Lit::Le(lin) => self.less(lin, lit),
            Lit::Eq(lin) => {
                let varying = self.f.split(lin).0;
                match varying[..] {
                    [] => self.uniform_equal(lin, true),
                    [(t, k)] if self.residue(t, k, lin, Some(true)) => {}
                    _ if self.bounds_zone(&varying) => {
                        self.less(lin, lit);
                        self.less(&lin.scale(-1), lit);
                    }
                    _ => self.others.push(lit.clone()),
                }
            }
            Lit::Ne(lin) => {
                let varying = self.f.split(lin).0;
                match varying[..] {
                    [] => self.uniform_equal(lin, false),
                    [(t, k)] if self.residue(t, k, lin, Some(false)) => {}
                    _ => self.others.push(lit.clone()),
                }
            }
            Lit::Cond(id, positive) if self.f.uniform(*id) => {
                let cond = if *positive { *id } else { self.f.pool.not(*id) };
                self.nodes.push(cond);
            }
            Lit::Cond(..) => self.others.push(lit.clone()),
        }
    }

    fn uniform_equal(&mut self, lin: &Lin, equal: bool) {
        let (mut left, mut right) = (lin.clone(), lin.scale(-1));
        left.terms.retain(|t| t.1 > 0);
        right.terms.retain(|t| t.1 > 0);
        left.c = 0;
        if left.terms.is_empty() {
            left.terms = std::mem::take(&mut right.terms);
            right.c = lin.c;
        }
        if let (Some(a), Some(b)) = (self.f.node(&left), self.f.node(&right)) {
            let cond = if equal { self.f.pool.eq(a, b) } else { self.f.pool.ne(a, b) };
            self.nodes.push(cond);
        }
    }

    /// True if `lin <= 0` over these terms bounds a zone.
    fn bounds_zone(&mut self, varying: &[(ExprId, i128)]) -> bool {
        match *varying {
            [(t, _)] => t == self.f.i || t == self.f.j || self.f.quotient(t).is_some(),
            [(a, k), (b, l)] if k == -l => {
                (a == self.f.i && b == self.f.j)
                    || (a == self.f.j && b == self.f.i)
                    || self.pair(a, b).is_some()
            }
            _ => false,
        }
    }

    /// Two quotients of `i + u` and `j + v` by the same divisor, that of i first; true if they were given so.
    fn pair(&mut self, a: ExprId, b: ExprId) -> Option<(Lin, Lin, Lin, bool)> {
        let (p, q) = (self.f.quotient(a)?, self.f.quotient(b)?);
        let (x, y) = (&p.x, &q.x);
        let (i, j) = (self.f.i, self.f.j);
        let reads = |f: &mut Forms, l: &Lin, v: ExprId, other: ExprId| {
            l.coef(v) == 1 && f.split(l).0.len() == 1 && l.coef(other) == 0
        };
        if p.by != q.by {
            return None;
        }
        if reads(self.f, x, i, j) && reads(self.f, y, j, i) {
            return Some((x.clone(), y.clone(), p.by.clone(), true));
        }
        (reads(self.f, x, j, i) && reads(self.f, y, i, j))
            .then(|| (y.clone(), x.clone(), p.by.clone(), false))
    }

    /// `lin <= 0`
    fn less(&mut self, lin: &Lin, lit: &Lit) {
        let (varying, rest) = self.f.split(lin);
        match varying[..] {
            [] => self.forms.push(lin.clone()),
            [(t, k)] => {
                if self.residue(t, k, lin, None) {
                    return;
                }
                let (over, under) = self.quotients_of(&rest, k);
                if t == self.f.i || t == self.f.j {
                    let range = if t == self.f.i { &mut self.zone.x } else { &mut self.zone.y };
                    range.add(self.f, k > 0, if k > 0 { over } else { under });
                } else if let Some(q) = self.f.quotient(t) {
                    let (x, by) = (&q.x, &q.by);
                    let bound = if k > 0 {
                        let last = self.f.times(&over, by).add(by).add_int(-1);
                        x.sub(&last)
                    } else {
                        self.f.times(&under, by).sub(x)
                    };
                    self.less(&bound, &Lit::Le(bound.clone()));
                } else {
                    self.others.push(lit.clone());
                }
            }
            [(a, k), (b, l)] if k == -l => self.difference((a, k), b, &rest, lit),
            _ => self.others.push(lit.clone()),
        }
    }

    /// From `k * t + rest <= 0`: the upper bound of t (k > 0) and the lower one (k < 0); one is meant.
    fn quotients_of(&mut self, rest: &Lin, k: i128) -> (Lin, Lin) {
        let over = self.f.div_const(&rest.scale(-1), k.abs());
        let under = self.f.div_const(&rest.scale(-1), k.abs()).scale(-1);
        (self.f.bounded(&over, true), self.f.bounded(&under, false))
    }

    /// `k * (a - b) + rest <= 0`
    fn difference(&mut self, (a, k): (ExprId, i128), b: ExprId, rest: &Lin, lit: &Lit) {
        let (i, j) = (self.f.i, self.f.j);
        let straight = if (a, b) == (i, j) || (a, b) == (j, i) {
            Some((a == i, None))
        } else {
            self.pair(a, b).map(|(x, y, by, straight)| (straight, Some((x, y, by))))
        };
        let Some((straight, blocks)) = straight else {
            self.others.push(lit.clone());
            return;
        };
        let k = if straight { k } else { -k };
        let (over, under) = self.quotients_of(rest, k);
        let range = match blocks {
            None => &mut self.zone.d,
            Some((x, y, by)) => {
                let at = self.blocks.iter().position(|g| (&g.x, &g.y, &g.by) == (&x, &y, &by));
                let at = at.unwrap_or_else(|| {
                    self.blocks.push(Blocks { by, x, y, d: Range::default() });
                    self.blocks.len() - 1
                });
                &mut self.blocks[at].d
            }
        };
        range.add(self.f, k > 0, if k > 0 { over } else { under });
    }

    /// Takes `k * (x mod by) + rest` compared with 0 (`equal`: `==`, `!=`, or `<=`); false if `term` is no
    /// such remainder.
    fn residue(&mut self, term: ExprId, k: i128, lin: &Lin, equal: Option<bool>) -> bool {
        let Op::Binary(BinaryOp::Mod, x, by) = *self.f.pool.op(term) else { return false };
        if !self.f.uniform(by) || (equal.is_some() && k.abs() != 1) {
            return false;
        }
        let (x, by) = (self.f.lin(x), self.f.lin(by));
        let (over, under) = self.quotients_of(&lin.without(&[term]), k);
        let at = self.residues.iter().position(|r| (&r.x, &r.by) == (&x, &by)).unwrap_or_else(|| {
            let range = Range { lo: vec![Lin::int(0)], hi: vec![by.add_int(-1)] };
            self.residues.push(Residue { x, by, range, not: vec![] });
            self.residues.len() - 1
        });
        let r = &mut self.residues[at];
        let value = if k > 0 { over.clone() } else { under.clone() };
        match equal {
            Some(true) => {
                r.range.add_lo(self.f, value.clone());
                r.range.add_hi(self.f, value);
            }
            Some(false) => r.not.push(value),
            None => r.range.add(self.f, k > 0, if k > 0 { over } else { under }),
        }
        true
    }

    /// Passes bounds between the parts, as far as they can matter for each other.
    fn propagate(&mut self, tight: bool) {
        // A block relation beside one side of the diagonal is decided by each alone.
        let zero = |v: &[Lin]| v.iter().all(|x| x.as_int() == Some(0));
        let d = &self.zone.d;
        let diagonal = d.lo.len() + d.hi.len() <= 1 && zero(&d.lo) && zero(&d.hi);
        let band = usize::from(!d.lo.is_empty() || !d.hi.is_empty());
        let linear = self.others.iter().filter(|l| matches!(l, Lit::Le(_) | Lit::Eq(_))).count();
        let parts = self.blocks.len() + self.residues.len() + linear;
        let closed = self.zone.closed(self.f);
        if tight || parts > 1 || !diagonal {
            (0..self.blocks.len()).for_each(|at| self.pass_blocks(&closed, at));
        }
        if tight || parts + band > 1 {
            for lit in self.others.clone() {
                match lit {
                    Lit::Le(lin) => self.pass_linear(&closed, &lin),
                    Lit::Eq(lin) => {
                        self.pass_linear(&closed, &lin);
                        self.pass_linear(&closed, &lin.scale(-1));
                    }
                    _ => {}
                }
            }
        }
        if tight || parts > 1 {
            (0..self.residues.len()).for_each(|at| self.pass_residue(at));
        }
    }

    fn pass_blocks(&mut self, closed: &Zone, at: usize) {
        let zone = self.block_zone(closed, at);
        let zone = zone.closed(self.f);
        let Blocks { by, x, y, d } = &self.blocks[at];
        let (by, x, y, d) = (by.clone(), x.clone(), y.clone(), d.clone());
        let (u, v) = (x.without(&[self.f.i]), y.without(&[self.f.j]));
        let f = &mut *self.f;
        let last = by.add_int(-1);
        // Blocks lo..=hi begin at by * lo and end at by * hi + by - 1; differences are off by at most by - 1.
        let mut spread = |blocks: &Range, shift: &Lin, early: &Lin| Range {
            lo: blocks.lo.iter().map(|q| f.times(q, &by).sub(early).sub(shift)).collect(),
            hi: blocks.hi.iter().map(|q| f.times(q, &by).add(&last).sub(shift)).collect(),
        };
        let none = Lin::int(0);
        let (of_x, of_y) = (spread(&zone.x, &u, &none), spread(&zone.y, &v, &none));
        let of_d = spread(&d, &u.sub(&v), &last);
        self.zone.x.join(self.f, of_x);
        self.zone.y.join(self.f, of_y);
        self.zone.d.join(self.f, of_d);
    }

    /// `lin <= 0` with the rest at its least bounds i and j.
    fn pass_linear(&mut self, closed: &Zone, lin: &Lin) {
        for (var, is_i) in [(self.f.i, true), (self.f.j, false)] {
            let k = lin.coef(var);
            if k == 0 {
                continue;
            }
            let rest = bounds::of(self.f, closed, &lin.without(&[var]));
            if self.f.pool.as_bool(rest.known) != Some(true) {
                continue;
            }
            for least in rest.lo {
                let least = self.f.bounded(&least, false);
                let (over, under) = self.quotients_of(&least, k);
                let range = if is_i { &mut self.zone.x } else { &mut self.zone.y };
                range.add(self.f, k > 0, if k > 0 { over } else { under });
            }
        }
    }

    /// `(±v + u) mod by == c` moves the bounds of v (i, j or i - j) to the next value with that remainder.
    fn pass_residue(&mut self, at: usize) {
        let Residue { x, by, range, .. } = &self.residues[at];
        let ([value], [same]) = (&range.lo[..], &range.hi[..]) else { return };
        if value != same {
            return;
        }
        let (x, by, value) = (x.clone(), by.clone(), value.clone());
        let (varying, rest) = self.f.split(&x);
        let (i, j) = (self.f.i, self.f.j);
        let (which, sign) = match varying[..] {
            [(t, k)] if t == i && k.abs() == 1 => (0, k),
            [(t, k)] if t == j && k.abs() == 1 => (1, k),
            [(a, k), (b, l)] if a == i && b == j && k == -l && k.abs() == 1 => (2, k),
            [(a, k), (b, l)] if a == j && b == i && k == -l && k.abs() == 1 => (2, l),
            _ => return,
        };
        // v = sign * (value - rest) modulo by
        let target = value.sub(&rest).scale(sign);
        let closed = self.zone.closed(self.f);
        let current = [&closed.x, &closed.y, &closed.d][which].clone();
        let mut next = Range::default();
        for lo in &current.lo {
            let gap = self.f.modulo(&target.sub(lo), &by);
            next.add_lo(self.f, lo.add(&gap));
        }
        for hi in &current.hi {
            let gap = self.f.modulo(&hi.sub(&target), &by);
            next.add_hi(self.f, hi.sub(&gap));
        }
        let zone = &mut self.zone;
        match which {
            0 => zone.x = next,
            1 => zone.y = next,
            _ => zone.d = next,
        }
    }

    /// The zone over the two quotients of a block relation, from the bounds of i, j and i - j.
    fn block_zone(&mut self, closed: &Zone, at: usize) -> Zone {
        let Blocks { by, x, y, d } = &self.blocks[at];
        let (by, x, y, mut d) = (by.clone(), x.clone(), y.clone(), d.clone());
        let (u, v) = (x.without(&[self.f.i]), y.without(&[self.f.j]));
        let f = &mut *self.f;
        let mut map =
            |list: &[Lin], shift: &Lin| list.iter().map(|b| f.div(&b.add(shift), &by)).collect::<Vec<_>>();
        let px = Range { lo: map(&closed.x.lo, &u), hi: map(&closed.x.hi, &u) };
        let py = Range { lo: map(&closed.y.lo, &v), hi: map(&closed.y.hi, &v) };
        // by * (p - q) lies within by - 1 of x - y.
        let shift = u.sub(&v);
        let d_hi = map(&self.zone.d.hi, &shift.add(&by).add_int(-1));
        let d_lo = map(&self.zone.d.lo, &shift);
        d.join(self.f, Range { lo: d_lo, hi: d_hi });
        Zone { x: px, y: py, d }
    }

    /// Every condition on the atoms, as nodes; one `false` if one of them is.
    fn conditions(&mut self) -> Vec<ExprId> {
        let closed = self.zone.closed(self.f);
        let mut forms = std::mem::take(&mut self.forms);
        self.zone.conditions(self.f, &mut forms);
        for at in 0..self.blocks.len() {
            // Those of the blocks alone follow from those of i and j.
            let zone = self.block_zone(&closed, at);
            zone.relation_conditions(self.f, &mut forms);
        }
        for at in 0..self.residues.len() {
            self.residue_conditions(&closed, at, &mut forms);
        }
        for lit in self.others.clone() {
            let cond = self.judge(&closed, &lit, &mut forms);
            self.nodes.push(cond);
        }
        let forms = self.f.without_implied(forms);
        let mut all: Vec<ExprId> = forms.iter().map(|x| self.f.le0(x)).collect();
        all.append(&mut self.nodes);
        let mut seen = std::collections::HashSet::new();
        all.retain(|&c| self.f.pool.as_bool(c) != Some(true) && seen.insert(c));
        if all.iter().any(|&c| self.f.pool.as_bool(c) == Some(false)) {
            all = vec![self.f.pool.bool(false)];
        }
        all
    }

    /// Some x in its bounds has a remainder in the range asked for.
    fn residue_conditions(&mut self, closed: &Zone, at: usize, out: &mut Vec<Lin>) {
        let Residue { x, by, range, not } = &self.residues[at];
        let (x, by, range, not) = (x.clone(), by.clone(), range.clone(), not.clone());
        let f = &mut *self.f;
        gaps(f, &range.lo, &range.hi, out);
        let Some((lo, hi, known)) = bounds::ends(f, closed, &x) else { return };
        let asked = range.lo != [Lin::int(0)] || range.hi != [by.add_int(-1)];
        let (Some(m_lo), Some(m_hi)) = (f.collapse(&range.lo, Pool::max), f.collapse(&range.hi, Pool::min))
        else {
            return;
        };
        if asked {
            // The last period that begins at or before hi ends at or after lo.
            let period = f.div(&hi.sub(&m_lo), &by);
            let start = f.times(&period, &by);
            let gap = lo.sub(&start.add(&m_hi));
            if f.pool.as_bool(known) == Some(true) {
                out.push(gap);
            } else {
                let cond = f.le0(&gap);
                self.nodes.push(when(f.pool, known, cond));
            }
        }
        for value in not {
            let only = f.modulo(&lo, &by);
            let (Some(only), Some(value)) = (f.node(&only), f.node(&value)) else { continue };
            let other_value = f.pool.ne(only, value);
            let several = f.le0(&lo.sub(&hi).add_int(1));
            let two_remainders = f.le0(&Lin::int(2).sub(&by));
            let several = f.pool.and(several, two_remainders);
            let cond = f.pool.or(other_value, several);
            self.nodes.push(when(f.pool, known, cond));
        }
    }

    /// The condition of an atom judged by the bounds of its terms.
    fn judge(&mut self, closed: &Zone, lit: &Lit, out: &mut Vec<Lin>) -> ExprId {
        let f = &mut *self.f;
        match lit {
            Lit::Le(lin) => {
                let b = bounds::of(f, closed, lin);
                all_le0(f, b.known, b.lo, out)
            }
            Lit::Eq(lin) => {
                let b = bounds::of(f, closed, lin);
                let both = b.lo.into_iter().chain(b.hi.iter().map(|x| x.scale(-1))).collect();
                all_le0(f, b.known, both, out)
            }
            Lit::Ne(lin) => {
                let b = bounds::of(f, closed, lin);
                let (mut below, mut above) = (f.pool.bool(true), f.pool.bool(true));
                for x in &b.lo {
                    let c = f.le0(&x.add_int(1));
                    below = f.pool.and(below, c);
                }
                for x in &b.hi {
                    let c = f.le0(&x.scale(-1).add_int(1));
                    above = f.pool.and(above, c);
                }
                let cond = f.pool.or(below, above);
                when(f.pool, b.known, cond)
            }
            Lit::Cond(id, positive) => cond(f, closed, *id, *positive),
        }
    }
}

/// `known` implies `cond`.
fn when(pool: &mut Pool, known: ExprId, cond: ExprId) -> ExprId {
    let unknown = pool.not(known);
    pool.or(unknown, cond)
}

/// All forms 0 or less where `known` holds: as forms if it always does, else as a node.
fn all_le0(f: &mut Forms, known: ExprId, lins: Vec<Lin>, out: &mut Vec<Lin>) -> ExprId {
    let mut all = f.pool.bool(true);
    if f.pool.as_bool(known) == Some(true) {
        out.extend(lins);
        return all;
    }
    for lin in lins {
        let c = f.le0(&lin);
        all = f.pool.and(all, c);
    }
    when(f.pool, known, all)
}

/// A varying bool node: elements and random blocks where the tile meets few of them, otherwise unknown.
fn cond(f: &mut Forms, closed: &Zone, id: ExprId, positive: bool) -> ExprId {
    let found = match f.pool.op(id).clone() {
        Op::Load(t, index, Ty::Bool) => bounds::corner_elements(f, closed, t, &index, Ty::Bool),
        Op::RandBlock(args) => bounds::random(f, closed, &args),
        _ => None,
    };
    let Some((nodes, known)) = found else { return f.pool.bool(true) };
    let mut any = f.pool.bool(false);
    for node in nodes {
        let value = if positive { node } else { f.pool.not(node) };
        any = f.pool.or(any, value);
    }
    when(f.pool, known, any)
}
