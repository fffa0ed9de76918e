//! A linear state in chunks of 32 steps (Yang et al. 2024, "Gated linear attention"; Qin et al. 2024, "Lightning
//! attention-2").
//!
//! Comes in: one state with its decay, terms and reads. Goes out: one launch with a task for every (b, h) and group of
//! blocks of 32 columns. With g(t) the product of the decays through step t of a chunk and P(t, u) that of the steps
//! behind u through t, a chunk is
//!
//! ```text
//! o  = g (q s) + ((q k^T) P, lower triangle) v
//! s <- g(last) s + k^T (P(last, .) v)
//! ```
//!
//! What holds: the last chunk is as long as it is, so the state is that of the recurrence. Not here: decays
//! (`decay.rs`).

use super::decay::{Decay, prepare};
use super::emit::{Emit, LANES, Product, Tasks, padded};
use super::linear::{Linear, Term};
use super::rows::{Part, Place};
use crate::artifact::MathFn;
use crate::attn_ir::recur::{Recurrence, Shape};
use crate::expr::{ExprId, Ty};
use crate::tile_ir::{Access, BufId, Launch, Program, Stmt};

/// Steps of a chunk: a tile of keys is one panel.
pub const STEPS: i64 = LANES;
/// Most blocks of 32 columns of a task: they share the products of rows.
const MOST_BLOCKS: i64 = 4;

/// A block of columns of the state.
#[derive(Clone, Copy)]
struct Block {
    /// First column.
    x: ExprId,
    /// Columns.
    d: ExprId,
    /// The state.
    s: BufId,
    /// What is read.
    o: BufId,
    /// Values of a term.
    v: BufId,
}

/// The chunk at hand.
#[derive(Clone, Copy)]
struct Chunk {
    /// Which.
    number: ExprId,
    /// First step.
    t0: ExprId,
    /// Steps.
    n: ExprId,
}

struct Chunked<'a> {
    e: Emit<'a>,
    r: &'a Recurrence,
    part: &'a Linear,
    decay: Decay,
    at: Place,
    /// Rows of the state.
    rows: i64,
    /// Columns; none of a row state.
    cols: Option<i64>,
    blocks: Vec<Block>,
    /// Rows of a read, products of rows, decays within the chunk.
    q: BufId,
    a: BufId,
    p: BufId,
    /// Rows of each term, and transposed.
    k: Vec<(BufId, BufId)>,
    /// Products through each step, of the steps behind each, of all.
    through: BufId,
    behind: BufId,
    all: BufId,
    factor: BufId,
    column: BufId,
}

/// Adds the launches of one state.
pub fn state(program: &mut Program, r: &Recurrence, part: &Linear) {
    let s = &r.states[part.state];
    let decay = prepare(program, r, &s.name, part.decay);
    let (rows, cols) = match s.shape {
        Shape::Mat(n, c) => (n, Some(c)),
        other => (other.len() as i64, None),
    };
    let n_blocks = (cols.unwrap_or(1) + LANES - 1) / LANES;
    let most = if r.heads.unwrap_or(1) >= 8 { MOST_BLOCKS } else { MOST_BLOCKS / 2 };
    let n_tasks = (n_blocks + most - 1) / most;
    let per_task = (n_blocks + n_tasks - 1) / n_tasks.max(1);
    let mut e = Emit { program, buffers: vec![] };
    let mut body = Vec::new();
    let Tasks { grid, at, first, .. } = e.tasks(r, n_tasks, per_task, &mut body);
    let mut blocks = Vec::new();
    for u in 0..per_task {
        let (x, d) = e.block(first, u, cols.unwrap_or(1));
        let (s, o, v) =
            (e.buffer("s", rows, LANES), e.buffer("o", STEPS, LANES), e.buffer("v", STEPS, LANES));
        blocks.push(Block { x, d, s, o, v });
    }
    let width = padded(rows);
    let (q, a, p) = (e.buffer("q", STEPS, width), e.buffer("a", STEPS, LANES), e.buffer("p", STEPS, LANES));
    let k = part.terms.iter().map(|_| (e.buffer("k", STEPS, width), e.buffer("kt", rows, LANES))).collect();
    let (through, behind) = (e.buffer("through", STEPS, 1), e.buffer("behind", STEPS, 1));
    let (all, factor) = (e.buffer("all", rows, 1), e.buffer("factor", STEPS, 1));
    let column = e.buffer("column", rows.max(STEPS), 1);
    let mut c = Chunked {
        e,
        r,
        part,
        decay,
        at,
        rows,
        cols,
        blocks,
        q,
        a,
        p,
        k,
        through,
        behind,
        all,
        factor,
        column,
    };
    c.run(&mut body);
    let (mut name, buffers) = (format!("recur_{}", s.name), c.e.buffers);
    name = super::super::fresh(&name, program.launches.iter().map(|l| l.name.as_str()));
    program.launches.push(Launch { name, grid, buffers, body });
}

impl Chunked<'_> {
    fn run(&mut self, body: &mut Vec<Stmt>) {
        let (r, at) = (self.r, self.at);
        let state = &r.states[self.part.state];
        for block in self.blocks.clone() {
            body.extend(self.e.load_state(r, state, block.s, at, (block.x, block.d)));
            if self.cols.is_none() {
                body.push(Stmt::Fill { dst: block.v, value: 0.0 });
            }
        }
        self.fixed_products(body);
        let (counter, chunk) = self.e.counter("chunk");
        let mut inner = Vec::new();
        let lanes = self.e.int(STEPS);
        let t0 = self.e.pool().mul(chunk, lanes);
        let t0 = self.e.define(&mut inner, "t0", t0);
        let left = self.e.pool().sub(r.steps, t0);
        let n = self.e.pool().min(left, lanes);
        let n = self.e.define(&mut inner, "n", n);
        self.chunk(Chunk { number: chunk, t0, n }, &mut inner);
        let (lo, hi) = (self.e.int(0), self.e.pool().ceil_div(r.steps, STEPS));
        body.push(Stmt::For { var: counter, lo, hi, body: inner });
        let Some(last) = state.last else { return };
        for block in self.blocks.clone() {
            if self.cols.is_some() {
                body.push(self.e.store_matrix(r, last, self.rows, block.s, at, (block.x, block.d)));
                continue;
            }
            let (zero, rows) = (self.e.int(0), self.e.int(self.rows));
            body.push(self.e.first_column(self.column, block.s, rows));
            body.push(self.e.store_vector(r, last, self.column, at, (zero, rows)));
        }
    }

    /// Products that are the same for all chunks.
    fn fixed_products(&mut self, body: &mut Vec<Stmt>) {
        let (r, at) = (self.r, self.at);
        let (n, one) = (self.e.int(STEPS), self.e.int(1));
        let Decay::Constant(powers) = self.decay else { return };
        if self.part.reads.is_empty() {
            return;
        }
        body.push(self.e.map(self.p, (n, n), &[], |m| {
            let (zero, none) = (m.pool.int(0), m.pool.float(0.0));
            let between = m.pool.sub(m.r, m.c);
            let k = m.pool.max(between, zero);
            let product = powers.at(r, m.pool, at, k);
            let seen = m.pool.le(m.c, m.r);
            m.pool.select(seen, product, none)
        }));
        body.push(self.e.map(self.through, (n, one), &[], |m| {
            let k = m.pool.add_int(m.r, 1);
            powers.at(r, m.pool, at, k)
        }));
    }

    fn chunk(&mut self, c: Chunk, body: &mut Vec<Stmt>) {
        let (r, at, part) = (self.r, self.at, self.part);
        let (zero, rows) = (self.e.int(0), self.e.int(self.rows));
        let whole = Part { t: c.t0, n: c.n, x: zero, d: rows };
        self.chunk_products(c, body);
        for (term, (k, kt)) in part.terms.iter().zip(self.k.clone()) {
            body.push(self.e.load_rows(r, &r.node(term.x).op, k, at, whole));
            body.push(Stmt::Transpose { dst: kt, src: k, rows: c.n, cols: rows });
        }
        for (read, row) in &part.reads {
            body.push(self.e.load_rows(r, &r.node(*row).op, self.q, at, whole));
            self.read(c, *read, body);
        }
        self.update(c, body);
    }

    /// What depends on the chunk: decays of each step, those behind each step, that of the whole chunk.
    fn chunk_products(&mut self, c: Chunk, body: &mut Vec<Stmt>) {
        let (r, at) = (self.r, self.at);
        let (one, rows) = (self.e.int(1), self.e.int(self.rows));
        let total = match self.decay {
            Decay::One => return,
            Decay::Constant(powers) => {
                body.push(self.e.map(self.behind, (c.n, one), &[], |m| {
                    let after = m.pool.sub(c.n, m.r);
                    let k = m.pool.add_int(after, -1);
                    powers.at(r, m.pool, at, k)
                }));
                powers.total(r, self.e.pool(), at, c.n, c.number)
            }
            Decay::Each(each) => {
                let load = |m: &mut super::emit::Element<'_>, t: ExprId, tensor| {
                    m.pool.load(tensor, vec![at.b, at.h, t], Ty::Float)
                };
                // The decays of the steps stand in `behind` until the products within the chunk are made.
                body.push(self.e.map(self.behind, (c.n, one), &[], |m| {
                    let t = m.pool.add(c.t0, m.r);
                    load(m, t, each.step)
                }));
                self.within(c, each.exp, body);
                body.push(self.e.map(self.through, (c.n, one), &[], |m| {
                    let t = m.pool.add(c.t0, m.r);
                    load(m, t, each.through)
                }));
                body.push(self.e.map(self.behind, (c.n, one), &[], |m| {
                    let after = m.pool.sub(c.n, m.r);
                    let k = m.pool.add_int(after, -1);
                    let t = m.pool.add(c.t0, k);
                    load(m, t, each.last)
                }));
                let end = self.e.pool().add(c.t0, c.n);
                let last = self.e.pool().add_int(end, -1);
                self.e.pool().load(each.through, vec![at.b, at.h, last], Ty::Float)
            }
        };
        let total = self.e.define(body, "total", total);
        body.push(self.e.map(self.all, (rows, one), &[], |_| total));
    }

    /// Products of the steps between two of the chunk, from the decays in `behind`.
    fn within(&mut self, c: Chunk, exp: bool, body: &mut Vec<Stmt>) {
        if self.part.reads.is_empty() {
            return;
        }
        let (p, step) = (self.p, self.behind);
        body.push(self.e.map(p, (c.n, c.n), &[(step, Access::Row)], |m| {
            let (one, none) = (m.pool.float(1.0), m.pool.float(0.0));
            if exp {
                let behind = m.pool.lt(m.c, m.r);
                m.pool.select(behind, m.reads[0], none)
            } else {
                let same = m.pool.eq(m.c, m.r);
                m.pool.select(same, one, none)
            }
        }));
        body.push(Stmt::ScanRows { dst: p, rows: c.n, cols: c.n, decay: (!exp).then_some(step) });
        if exp {
            body.push(Stmt::Math { f: MathFn::Exp, dst: p, rows: c.n, cols: c.n });
        }
    }

    /// One read of the chunk: its rows are in `q`.
    fn read(&mut self, c: Chunk, read: usize, body: &mut Vec<Stmt>) {
        let rows = self.e.int(self.rows);
        for block in self.blocks.clone() {
            let sizes = [c.n, rows, block.d];
            let (c, a, b) = (block.o, self.q, block.s);
            body.push(self.e.product(Product { c, a, b, sizes, add: None, skip_zero: false }));
        }
        let decays = !matches!(self.decay, Decay::One);
        for (n, term) in self.part.terms.iter().enumerate() {
            let (a, q, kt) = (self.a, self.q, self.k[n].1);
            let sizes = [c.n, rows, c.n];
            body.push(self.e.product(Product { c: a, a: q, b: kt, sizes, add: None, skip_zero: false }));
            let p = if decays {
                vec![(a, Access::Tile), (self.p, Access::Tile)]
            } else {
                vec![(a, Access::Tile)]
            };
            body.push(self.e.map(a, (c.n, c.n), &p, |m| {
                let none = m.pool.float(0.0);
                let seen = m.pool.le(m.c, m.r);
                let kept = m.reads.iter().copied().reduce(|x, y| m.pool.mul(x, y)).unwrap_or(none);
                m.pool.select(seen, kept, none)
            }));
            let scale = (decays && n == 0).then_some(self.through);
            for block in self.blocks.clone() {
                self.values(c, term, block, body);
                let sizes = [c.n, c.n, block.d];
                let add = Some(scale);
                body.push(self.e.product(Product { c: block.o, a, b: block.v, sizes, add, skip_zero: true }));
            }
        }
        if self.part.terms.is_empty() && decays {
            for block in self.blocks.clone() {
                let reads = [(block.o, Access::Tile), (self.through, Access::Row)];
                body.push(
                    self.e.map(block.o, (c.n, block.d), &reads, |m| m.pool.mul(m.reads[0], m.reads[1])),
                );
            }
        }
        let rows = self.r.reads[read].rows;
        for block in self.blocks.clone() {
            let w = Part { t: c.t0, n: c.n, x: block.x, d: block.d };
            if self.cols.is_some() {
                body.push(self.e.store_read(rows, block.o, self.at, w));
            } else {
                body.push(self.e.first_column(self.column, block.o, c.n));
                body.push(self.e.store_numbers(rows, self.column, self.at, w));
            }
        }
    }

    /// The values of a term times its factors, in `v`.
    fn values(&mut self, c: Chunk, term: &Term, block: Block, body: &mut Vec<Stmt>) {
        let (r, at) = (self.r, self.at);
        let one = self.e.int(1);
        let plain = self.e.pool().as_const(term.factor).is_some_and(|v| v.float() == 1.0);
        let value = self.e.placed(r, term.factor, at);
        let factor = |m: &mut super::emit::Element<'_>| {
            let t = m.pool.add(c.t0, m.r);
            m.pool.substitute(value, &[(r.vars.t, t)])
        };
        let Some(y) = term.y else {
            body.push(self.e.map(block.v, (c.n, one), &[], factor));
            return;
        };
        let w = Part { t: c.t0, n: c.n, x: block.x, d: block.d };
        body.push(self.e.load_rows(r, &r.node(y).op, block.v, at, w));
        if !plain {
            body.push(self.e.map(self.factor, (c.n, one), &[], factor));
            self.scale(c, block, self.factor, body);
        }
    }

    fn scale(&mut self, c: Chunk, block: Block, by: BufId, body: &mut Vec<Stmt>) {
        let reads = [(block.v, Access::Tile), (by, Access::Row)];
        body.push(self.e.map(block.v, (c.n, block.d), &reads, |m| m.pool.mul(m.reads[0], m.reads[1])));
    }

    /// The state after the chunk.
    fn update(&mut self, c: Chunk, body: &mut Vec<Stmt>) {
        let decays = !matches!(self.decay, Decay::One);
        let rows = self.e.int(self.rows);
        // The last read of a state with one term has left the values where they are wanted.
        let there = self.part.terms.len() == 1 && !self.part.reads.is_empty();
        for block in self.blocks.clone() {
            if self.part.terms.is_empty() && decays {
                let reads = [(block.s, Access::Tile), (self.all, Access::Row)];
                body.push(
                    self.e.map(block.s, (rows, block.d), &reads, |m| m.pool.mul(m.reads[0], m.reads[1])),
                );
            }
            for (n, term) in self.part.terms.iter().enumerate() {
                if !there {
                    self.values(c, term, block, body);
                }
                if decays {
                    self.scale(c, block, self.behind, body);
                }
                let (a, b) = (self.k[n].1, block.v);
                let add = Some((decays && n == 0).then_some(self.all));
                let sizes = [rows, c.n, block.d];
                body.push(self.e.product(Product { c: block.s, a, b, sizes, add, skip_zero: false }));
            }
        }
    }
}
