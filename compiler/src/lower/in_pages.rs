//! Rows of paged caches that attentions read where they lie.
//!
//! Comes in: a kernel, whose derived tensors join the rows of pages, integers times a factor for each row perhaps. Goes
//! out: of each which pool it reads and how a page is found ([`PagedRows`]); for an attention how its rows lie, and the
//! attention with the factors in its score. What holds: the numbers are those of the joined rows up to rounding; a page
//! that the table names wrongly is never read beyond the pool. Not here: joining them (`pages.rs`), which calls still want
//! that (packed keys: `lower::attention`), stored integers without pages (`stored.rs`).

use std::collections::BTreeSet;

use super::pages::{PageRows, Paged};
use super::stored::Stored;
use crate::attn_ir::needed::reads;
use crate::attn_ir::{Attention, Derive, Kernel, Rows, Step};
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, UnaryOp, VarId};
use crate::schedule::sweep::{KEYS, Lies};
use crate::tile_ir::{Program, RowsRef};

/// A derived tensor that joins the rows of pages.
pub struct PagedRows {
    made: TensorId,
    /// Rows of a page.
    size: i64,
    load: PageRows,
    /// Variables of the made tensor.
    index: Vec<VarId>,
    /// Float: what a row is multiplied by.
    factor: Option<ExprId>,
    /// Int: rows from here on are zero.
    len: Option<ExprId>,
}

impl PagedRows {
    fn of(program: &Program, d: &Derive) -> Option<PagedRows> {
        let pool = &program.pool;
        let Paged { size, bound: len, value, mut loads, .. } = Paged::of(program, d)?;
        let load = loads.pop().filter(|_| loads.is_empty())?;
        let feature = *d.index.last()?;
        let element = |id: ExprId| id == load.id;
        // Only integers: they are finite, which floats need not be (language.md, rule 4).
        let is_int = matches!(pool.op(load.id), Op::Unary(UnaryOp::ToFloat, _));
        let is_row = |id: ExprId| is_int && !pool.depends_on(id, &[feature]);
        let factor = match *pool.op(value) {
            _ if element(value) => None,
            Op::Binary(BinaryOp::Mul, a, b) if element(a) && is_row(b) => Some(b),
            Op::Binary(BinaryOp::Mul, a, b) if element(b) && is_row(a) => Some(a),
            _ => return None,
        };
        let fits = size % KEYS == 0 && !d.at_bind;
        fits.then(|| PagedRows { made: d.out, size, load, index: d.index.clone(), factor, len })
    }

    /// The rows from key `j` on in its page.
    pub fn rows(&self, program: &mut Program, made: Rows, place: (ExprId, ExprId, ExprId)) -> RowsRef {
        let Program { pool, tensors, .. } = program;
        let zero = pool.int(0);
        let shape = &tensors[self.load.tensor.0 as usize].shape;
        let mut index = Vec::new();
        for (dim, &id) in self.load.index.iter().enumerate() {
            if dim == self.load.col_dim {
                index.push(zero);
                continue;
            }
            let here = pool.substitute(id, &made.place(&self.index, place));
            let chosen = self.load.chosen.contains(&dim);
            index.push(if chosen { within(pool, here, shape[dim]) } else { here });
        }
        let PageRows { tensor, row_dim, col_dim, .. } = self.load;
        RowsRef { tensor, index, row_dim, col_dim }
    }

    /// Is a token's next head nearer than the next token?
    fn side_by_side(&self, program: &Program, made: Rows) -> bool {
        let Some(head) = made.head.map(|d| self.index[d]) else { return false };
        let is_head = |&id: &ExprId| *program.pool.op(id) == Op::Var(head);
        let Some(dim) = self.load.index.iter().position(is_head) else { return false };
        nearer(&program.tensors[self.load.tensor.0 as usize].layout, dim, self.load.row_dim)
    }
}

/// The index that is brought into a dim of `length` elements.
fn within(pool: &mut Pool, index: ExprId, length: ExprId) -> ExprId {
    let (last, zero) = (pool.add_int(length, -1), pool.int(0));
    let index = pool.min(index, last);
    pool.max(index, zero)
}

/// Does dim `a` lie behind dim `b` in memory?
fn nearer(layout: &[usize], a: usize, b: usize) -> bool {
    let axis = |dim: usize| layout.iter().position(|&d| d == dim);
    axis(a) > axis(b)
}

/// The rows of a kernel that lie in pages.
#[derive(Default)]
pub struct InPages {
    found: Vec<PagedRows>,
}

impl InPages {
    /// Finds those that one attention reads as keys or values, and nothing else.
    pub fn of(program: &Program, kernel: &Kernel, stored: &Stored) -> InPages {
        let derived =
            kernel.steps.iter().filter_map(|s| if let Step::Derive(d) = s { Some(d) } else { None });
        let own = derived.filter(|d| !stored.replaces(d.out));
        let mut found: Vec<PagedRows> = own.filter_map(|d| PagedRows::of(program, d)).collect();
        if found.is_empty() {
            return InPages { found };
        }
        let (mut once, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
        for step in &kernel.steps {
            let all = reads(kernel, step);
            let Step::Attend(a) = step else {
                elsewhere.extend(all);
                continue;
            };
            let rows: Vec<Rows> = keys_and_values(a);
            let of_rows: BTreeSet<TensorId> = rows.iter().map(|r| r.tensor).collect();
            elsewhere.extend(a.dots.iter().map(|d| d.x.tensor));
            elsewhere.extend(&all[a.dots.len() * 2 + 1..]);
            elsewhere.extend(of_rows.into_iter().filter(|t| !once.insert(*t)));
            found.retain(|p| {
                rows.iter().filter(|r| r.tensor == p.made).all(|r| a.ends_with(*r, &p.index, p.len))
            });
        }
        found.retain(|p| !elsewhere.contains(&p.made));
        InPages { found }
    }

    /// How the rows of a made tensor are found.
    pub fn of_made(&self, made: TensorId) -> Option<&PagedRows> {
        self.found.iter().find(|p| p.made == made)
    }

    /// How the keys and values of an attention lie.
    pub fn lies(&self, program: &Program, attn: &Attention, stored: &Stored) -> Lies {
        let mut lies = Lies::default();
        for rows in keys_and_values(attn) {
            if let Some(paged) = self.of_made(rows.tensor) {
                lies.side_by_side |= paged.side_by_side(program, rows);
                lies.page = Some(lies.page.map_or(paged.size, |page| gcd(page, paged.size)));
                continue;
            }
            let rows = stored.rows(rows);
            let layout = &attn.tensor(rows.tensor).layout;
            lies.side_by_side |= rows.head.is_some_and(|head| nearer(layout, head, rows.seq));
        }
        lies
    }

    /// Puts the factors of rows into the score of an attention; the factor of its weights.
    pub fn read(&self, pool: &mut Pool, attn: &mut Attention, of_values: Option<ExprId>) -> Option<ExprId> {
        let place = attn.key_place(pool);
        for dot in &attn.dots {
            let Some((paged, factor)) = self.factor_of(dot.y) else { continue };
            let factor = pool.substitute(factor, &dot.y.place(&paged.index, place));
            let var = pool.var(dot.var);
            let product = pool.mul(var, factor);
            attn.score = pool.substitute(attn.score, &[(dot.var, product)]);
        }
        let Some((paged, factor)) = self.factor_of(attn.value) else { return of_values };
        Some(pool.substitute(factor, &attn.value.place(&paged.index, place)))
    }

    /// Do the rows of an attention have factors?
    pub fn are_scaled(&self, attn: &Attention) -> bool {
        keys_and_values(attn).into_iter().any(|rows| self.factor_of(rows).is_some())
    }

    fn factor_of(&self, made: Rows) -> Option<(&PagedRows, ExprId)> {
        let paged = self.of_made(made.tensor)?;
        Some((paged, paged.factor?))
    }

    /// `n`, or 0 where a pool has no page.
    pub fn readable(&self, program: &mut Program, n: ExprId) -> ExprId {
        let Program { pool, tensors, .. } = program;
        let mut lengths: Vec<ExprId> = Vec::new();
        for paged in &self.found {
            let shape = &tensors[paged.load.tensor.0 as usize].shape;
            lengths.extend(paged.load.chosen.iter().map(|&dim| shape[dim]));
        }
        lengths.sort_unstable();
        lengths.dedup();
        lengths.into_iter().fold(n, |n, length| {
            let zero = pool.int(0);
            let any = pool.lt(zero, length);
            pool.select(any, n, zero)
        })
    }
}

fn keys_and_values(attn: &Attention) -> Vec<Rows> {
    attn.dots.iter().map(|d| d.y).chain([attn.value]).collect()
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
