//! The mask in normal form: negation at the atoms, then conjunctions of atoms.
//!
//! Comes in: a bool node. Goes out: a tree of atoms ([`Lit`]) under `and`, `or` and uniform choices, and its
//! disjunctive form where that stays small. `min`, `max`, `abs` and `? :` inside a comparison of ints become
//! `and` and `or` of comparisons, `a != b` becomes `a < b | a > b` where bounds can use it, bools compared
//! become cases. Nothing is approximated here.

use std::collections::HashMap;

use super::forms::Forms;
use super::lin::Lin;
use crate::expr::{BinaryOp, ExprId, Op, Ty, UnaryOp};

/// An atom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lit {
    /// `lin <= 0`
    Le(Lin),
    /// `lin == 0`
    Eq(Lin),
    /// `lin != 0`
    Ne(Lin),
    /// A bool node (false: its negation).
    Cond(ExprId, bool),
}

/// Index of an atom in its [`Normal`].
pub(super) type LitId = u32;
/// Index of a node in its [`Normal`].
pub(super) type NodeId = u32;
/// Atoms that hold together, ascending.
pub(super) type Conj = Vec<LitId>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    True,
    False,
    Lit(LitId),
    And(Vec<NodeId>),
    Or(Vec<NodeId>),
    /// A condition that reads neither i nor j, and the two cases.
    Choice(ExprId, NodeId, NodeId),
}

/// Interned atoms and nodes.
#[derive(Default)]
pub(super) struct Normal {
    pub lits: Vec<Lit>,
    pub nodes: Vec<Node>,
    lit_index: HashMap<Lit, LitId>,
    node_index: HashMap<Node, NodeId>,
    seen: HashMap<(ExprId, bool), NodeId>,
}

impl Normal {
    fn node(&mut self, node: Node) -> NodeId {
        if let Some(&id) = self.node_index.get(&node) {
            return id;
        }
        self.nodes.push(node.clone());
        let id = self.nodes.len() as NodeId - 1;
        self.node_index.insert(node, id);
        id
    }

    fn lit_id(&mut self, lit: Lit) -> LitId {
        if let Some(&id) = self.lit_index.get(&lit) {
            return id;
        }
        self.lits.push(lit.clone());
        let id = self.lits.len() as LitId - 1;
        self.lit_index.insert(lit, id);
        id
    }

    fn lit(&mut self, lit: Lit) -> NodeId {
        let id = self.lit_id(lit);
        self.node(Node::Lit(id))
    }

    fn constant(&mut self, x: bool) -> NodeId {
        self.node(if x { Node::True } else { Node::False })
    }

    /// Conjunction (`and`) or disjunction, flattened, with constants removed.
    fn join(&mut self, and: bool, items: &[NodeId]) -> NodeId {
        let mut flat: Vec<NodeId> = Vec::new();
        for &item in items {
            match (&self.nodes[item as usize], and) {
                (Node::True, true) | (Node::False, false) => {}
                (Node::True, false) | (Node::False, true) => return item,
                (Node::And(x), true) | (Node::Or(x), false) => flat.extend(x),
                _ => flat.push(item),
            }
        }
        flat.sort_unstable();
        flat.dedup();
        match flat[..] {
            [] => self.constant(and),
            [one] => one,
            _ => self.node(if and { Node::And(flat) } else { Node::Or(flat) }),
        }
    }

    /// The normal form of a bool node, or of its negation.
    pub fn of(&mut self, f: &mut Forms, id: ExprId, positive: bool) -> NodeId {
        if let Some(&known) = self.seen.get(&(id, positive)) {
            return known;
        }
        let made = self.make(f, id, positive);
        self.seen.insert((id, positive), made);
        made
    }

    fn make(&mut self, f: &mut Forms, id: ExprId, positive: bool) -> NodeId {
        match f.pool.op(id).clone() {
            Op::Bool(x) => self.constant(x == positive),
            Op::Unary(UnaryOp::Not, x) => self.of(f, x, !positive),
            Op::Binary(op @ (BinaryOp::And | BinaryOp::Or), a, b) => {
                let (a, b) = (self.of(f, a, positive), self.of(f, b, positive));
                self.join((op == BinaryOp::And) == positive, &[a, b])
            }
            Op::Binary(op @ (BinaryOp::Eq | BinaryOp::Ne), a, b) if f.pool.ty(a) == Ty::Bool => {
                let same = (op == BinaryOp::Eq) == positive;
                let (then, other) = (self.of(f, b, same), self.of(f, b, !same));
                self.choice(f, a, then, other)
            }
            Op::Select(c, a, b) => {
                let (a, b) = (self.of(f, a, positive), self.of(f, b, positive));
                self.choice(f, c, a, b)
            }
            Op::Binary(op, a, b) if f.pool.ty(a) == Ty::Int => {
                let diff = f.lin(a).sub(&f.lin(b));
                if diff.is_wild() {
                    return self.lit(Lit::Cond(id, positive));
                }
                let lit = match (op, positive) {
                    (BinaryOp::Lt, true) => Lit::Le(diff.add_int(1)),
                    (BinaryOp::Lt, false) => Lit::Le(diff.scale(-1)),
                    (BinaryOp::Le, true) => Lit::Le(diff),
                    (BinaryOp::Le, false) => Lit::Le(diff.scale(-1).add_int(1)),
                    (BinaryOp::Eq, true) | (BinaryOp::Ne, false) => Lit::Eq(diff),
                    _ => Lit::Ne(diff),
                };
                self.compare(f, lit)
            }
            _ => self.lit(Lit::Cond(id, positive)),
        }
    }

    fn choice(&mut self, f: &mut Forms, c: ExprId, a: NodeId, b: NodeId) -> NodeId {
        if a == b {
            return a;
        }
        if f.uniform(c) {
            return match f.pool.as_bool(c) {
                Some(true) => a,
                Some(false) => b,
                None => self.node(Node::Choice(c, a, b)),
            };
        }
        let (yes, no) = (self.of(f, c, true), self.of(f, c, false));
        let (a, b) = (self.join(true, &[yes, a]), self.join(true, &[no, b]));
        self.join(false, &[a, b])
    }

    /// An atom that compares ints, opened at its first `min`, `max`, `abs` or `? :` that varies.
    fn compare(&mut self, f: &mut Forms, lit: Lit) -> NodeId {
        let (Lit::Le(lin) | Lit::Eq(lin) | Lit::Ne(lin)) = &lit else { return self.lit(lit) };
        let (varying, _) = f.split(lin);
        let opened = varying.iter().find_map(|&(t, k)| match *f.pool.op(t) {
            Op::Binary(BinaryOp::Min, a, b) => Some((t, k, Open::Least(a, b))),
            Op::Binary(BinaryOp::Max, a, b) => Some((t, -k, Open::Least(a, b))),
            Op::Unary(UnaryOp::Abs, a) => Some((t, -k, Open::Abs(a))),
            Op::Select(c, a, b) => Some((t, k, Open::Cases(c, a, b))),
            _ => None,
        });
        match opened {
            Some((term, k, open)) => self.open(f, &lit, term, k > 0, open),
            None => self.plain(f, lit),
        }
    }

    fn open(&mut self, f: &mut Forms, lit: &Lit, term: ExprId, least: bool, open: Open) -> NodeId {
        let replaced = |lin: &Lin, by: &Lin| lin.without(&[term]).plus(by, lin.coef(term));
        if let Open::Cases(c, a, b) = open {
            let cases = [a, b].map(|x| {
                let by = f.lin(x);
                self.compare(f, lit.map(|lin| replaced(lin, &by)))
            });
            return self.choice(f, c, cases[0], cases[1]);
        }
        let (a, b) = match open {
            Open::Least(a, b) | Open::Cases(_, a, b) => (f.lin(a), f.lin(b)),
            Open::Abs(a) => (f.lin(a), f.lin(a).scale(-1)),
        };
        match lit {
            // least: `lin <= 0` with the smaller of two holds if it holds with one of them.
            Lit::Le(lin) => {
                let items = [a, b].map(|by| self.compare(f, Lit::Le(replaced(lin, &by))));
                self.join(!least, &items)
            }
            Lit::Eq(lin) => {
                let items = [lin.clone(), lin.scale(-1)].map(|x| self.compare(f, Lit::Le(x)));
                self.join(true, &items)
            }
            Lit::Ne(lin) => {
                let items = [lin.add_int(1), lin.scale(-1).add_int(1)].map(|x| self.compare(f, Lit::Le(x)));
                self.join(false, &items)
            }
            Lit::Cond(..) => self.lit(lit.clone()),
        }
    }

    /// An atom without anything to open: constants decided, signs and divisors normal.
    fn plain(&mut self, f: &mut Forms, lit: Lit) -> NodeId {
        match lit {
            Lit::Le(lin) => {
                let lin = lin.tightened();
                match lin.as_int() {
                    Some(c) => self.constant(c <= 0),
                    None => self.lit(Lit::Le(lin)),
                }
            }
            Lit::Eq(lin) | Lit::Ne(lin) if lin.is_wild() => self.lit(Lit::Le(lin)),
            Lit::Eq(ref lin) | Lit::Ne(ref lin) => {
                let equal = matches!(lit, Lit::Eq(_));
                let g = lin.gcd();
                if g == 0 || lin.c % g != 0 {
                    return self.constant((g == 0 && lin.c == 0) == equal);
                }
                let sign = if lin.terms[0].1 < 0 { -1 } else { 1 };
                let mut lin = lin.scale(sign);
                lin.c /= g;
                lin.terms.iter_mut().for_each(|t| t.1 /= g);
                let (varying, _) = f.split(&lin);
                let bounds = |t: &(ExprId, i128)| {
                    t.0 == f.i || t.0 == f.j || matches!(f.pool.op(t.0), Op::Binary(BinaryOp::IDiv, ..))
                };
                if equal {
                    self.lit(Lit::Eq(lin))
                } else if !varying.is_empty() && varying.iter().all(bounds) {
                    let less = self.lit(Lit::Le(lin.add_int(1)));
                    let more = self.lit(Lit::Le(lin.scale(-1).add_int(1)));
                    self.join(false, &[less, more])
                } else {
                    self.lit(Lit::Ne(lin))
                }
            }
            Lit::Cond(..) => self.lit(lit),
        }
    }

    /// Two atoms that cannot both hold.
    fn contradict(&self, a: LitId, b: LitId) -> bool {
        match (&self.lits[a as usize], &self.lits[b as usize]) {
            (Lit::Cond(x, p), Lit::Cond(y, q)) => x == y && p != q,
            (Lit::Eq(x), Lit::Ne(y)) | (Lit::Ne(x), Lit::Eq(y)) => x == y,
            (Lit::Le(x), Lit::Le(y)) => x.add(y).as_int().is_some_and(|c| c > 0),
            (Lit::Eq(x), Lit::Eq(y)) => x.sub(y).as_int().is_some_and(|c| c != 0),
            _ => false,
        }
    }

    fn merge(&self, a: &[LitId], b: &[LitId]) -> Option<Conj> {
        let mut out = a.to_vec();
        for &lit in b {
            if !a.contains(&lit) {
                if a.iter().any(|&x| self.contradict(x, lit)) {
                    return None;
                }
                out.push(lit);
            }
        }
        out.sort_unstable();
        Some(out)
    }

    /// The disjunctive form; `None` where it has more than `limit` conjunctions.
    pub fn dnf(&mut self, node: NodeId, limit: usize) -> Option<Vec<Conj>> {
        match self.nodes[node as usize].clone() {
            Node::True => Some(vec![vec![]]),
            Node::False => Some(vec![]),
            Node::Lit(lit) => Some(vec![vec![lit]]),
            Node::Or(items) => {
                let mut all = Vec::new();
                for item in items {
                    all.extend(self.dnf(item, limit)?);
                }
                absorb(all, limit)
            }
            Node::And(items) => {
                let mut all = vec![vec![]];
                for item in items {
                    let with = self.dnf(item, limit)?;
                    all = self.product(&all, &with, limit)?;
                }
                Some(all)
            }
            Node::Choice(c, a, b) => {
                let mut all = Vec::new();
                for (case, positive) in [(a, true), (b, false)] {
                    let lit = self.lit_id(Lit::Cond(c, positive));
                    let case = self.dnf(case, limit)?;
                    all.extend(case.iter().filter_map(|conj| self.merge(conj, &[lit])));
                }
                absorb(all, limit)
            }
        }
    }

    /// Every pair of conjunctions joined.
    pub fn product(&self, a: &[Conj], b: &[Conj], limit: usize) -> Option<Vec<Conj>> {
        let pairs = a.iter().flat_map(|x| b.iter().filter_map(|y| self.merge(x, y))).collect();
        absorb(pairs, limit)
    }
}

/// How a term inside a comparison is opened.
enum Open {
    /// The smaller of two (`max` and `abs` are the smaller of the negated, with the sign turned).
    Least(ExprId, ExprId),
    /// Of `x` and `-x`.
    Abs(ExprId),
    /// By cases.
    Cases(ExprId, ExprId, ExprId),
}

impl Lit {
    fn map(&self, change: impl Fn(&Lin) -> Lin) -> Lit {
        match self {
            Lit::Le(x) => Lit::Le(change(x)),
            Lit::Eq(x) => Lit::Eq(change(x)),
            Lit::Ne(x) => Lit::Ne(change(x)),
            Lit::Cond(..) => self.clone(),
        }
    }
}

/// Drops every conjunction that another one implies; `None` if more than `limit` are left.
fn absorb(mut all: Vec<Conj>, limit: usize) -> Option<Vec<Conj>> {
    if all.len() > limit * limit {
        return None;
    }
    all.sort_by_key(Vec::len);
    let mut kept: Vec<Conj> = Vec::new();
    for conj in all {
        if !kept.iter().any(|k| k.iter().all(|lit| conj.binary_search(lit).is_ok())) {
            kept.push(conj);
        }
    }
    (kept.len() <= limit).then_some(kept)
}
