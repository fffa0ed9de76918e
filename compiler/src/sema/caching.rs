//! Steps of caches: appended rows are written in place, then rows are gathered from pages and multiplied by their
//! scales.
//!
//! Comes in: the caches of a checked kernel, bound in a pool. Goes out: for each cache with appended rows a
//! [`Write`], for each that does not lie as it is read a derived tensor of its rows, and what the contents of the
//! bound tensors must fulfil. What holds: appended rows are written after every `map` and `rotate` of them, and
//! before anything reads the cache; rows behind the length of a batch entry are 0 and nothing is loaded for them.
//! Not here: what is copied where (`lower`).

use crate::artifact::DType;
use crate::attn_ir::write::Scale;
use crate::attn_ir::{Demand, Derive, Fact, Step, Write};
use crate::expr::{ExprId, TensorId, Ty, UnaryOp};

use super::lower::{Lower, LowerError};
use super::model::{CacheFact, CheckedKernel, Elem, RowsFact};
use super::turn::Steps;

type Result<T> = std::result::Result<T, LowerError>;

/// Largest magnitude of a quantised element.
const INT8_LIMIT: i64 = 127;

/// The roles of a cache's dims, from its rank.
pub(crate) fn cache_rows(kernel: &CheckedKernel, cache: &CacheFact) -> RowsFact {
    rows(cache.tensor, kernel.tensors[cache.tensor].shape.len())
}

/// The roles of appended rows.
pub(crate) fn new_rows(kernel: &CheckedKernel, tensor: usize) -> RowsFact {
    rows(tensor, kernel.tensors[tensor].shape.len())
}

fn rows(tensor: usize, rank: usize) -> RowsFact {
    RowsFact { tensor, batch: Some(0), head: (rank == 4).then_some(1), seq: rank - 2, feature: rank - 1 }
}

/// The number of rows of a cache at batch entry b: what `len` says, else its sequence dim.
pub(crate) fn length(lower: &mut Lower<'_>, kernel: &CheckedKernel, cache: &CacheFact) -> Result<ExprId> {
    match cache.len.and_then(|n| lower.ids[n]) {
        Some(len) => {
            let b = lower.pool.var(lower.index.b);
            Ok(lower.pool.load(len, vec![b], Ty::Int))
        }
        None => {
            let rows = cache_rows(kernel, cache);
            lower.expr(&kernel.tensors[cache.tensor].shape[rows.seq].expr)
        }
    }
}

/// Where row `s` of a batch entry and head lies in a bound cache and in its scales.
struct Place {
    cache: Vec<ExprId>,
    scale: Vec<ExprId>,
}

impl Steps<'_> {
    /// Writes what is appended, then makes the rows of every cache that does not lie as it is read.
    pub fn caches(&mut self) -> Result<Vec<Demand>> {
        let kernel = self.kernel;
        let mut demands = Vec::new();
        for cache in &kernel.caches {
            self.demands(cache, &mut demands)?;
            if let Some(new) = cache.appended {
                self.append(cache, new)?;
            }
        }
        for cache in kernel.caches.iter().filter(|c| c.indirect()) {
            let made = self.gather(cache)?;
            self.lower.ids[cache.tensor] = Some(made);
            self.lower.rows[cache.tensor] = Some(made);
        }
        Ok(demands)
    }

    fn id(&self, tensor: usize) -> TensorId {
        self.lower.ids[tensor].unwrap_or(TensorId(0))
    }

    /// Rows that are appended, if any.
    fn appended(&mut self, cache: &CacheFact) -> Result<Option<ExprId>> {
        let Some(new) = cache.appended else { return Ok(None) };
        let rows = new_rows(self.kernel, new);
        self.lower.expr(&self.kernel.tensors[new].shape[rows.seq].expr).map(Some)
    }

    fn demands(&mut self, cache: &CacheFact, out: &mut Vec<Demand>) -> Result<()> {
        let rows = cache_rows(self.kernel, cache);
        let seq = &self.kernel.tensors[cache.tensor].shape[rows.seq];
        let (name, dim) = (&self.kernel.tensors[cache.tensor].name, &seq.text);
        let capacity = self.lower.expr(&seq.expr)?;
        let written = self.appended(cache)?;
        if let Some(len) = cache.len {
            let zero = self.lower.pool.int(0);
            let lo = match (written, cache.appended) {
                (Some(n), Some(new)) => {
                    (n, format!("the rows of `{}`, which it counts", self.kernel.tensors[new].name))
                }
                _ => (zero, "an empty sequence".to_string()),
            };
            let what = match &cache.pages {
                Some(p) => {
                    let table = &self.kernel.tensors[p.table].name;
                    format!("the pages of a row of `{table}` times {} rows", p.size)
                }
                None => format!("{dim}, the rows of `{name}`"),
            };
            let demand = Demand::Within { tensor: self.id(len), lo, hi: (capacity, what) };
            if !out.contains(&demand) {
                out.push(demand);
            }
        }
        if let (Some(p), Some(len)) = (&cache.pages, cache.len) {
            let (table, len, pool) = (self.id(p.table), self.id(len), self.id(cache.tensor));
            out.push(Demand::Pages { table, len, size: p.size, pool, written });
        }
        Ok(())
    }

    /// Indices of row `at` of batch entry and head of the axes.
    fn place(&mut self, cache: &CacheFact, at: ExprId) -> Place {
        let [b, h, ..] = self.axes.map(|v| self.lower.pool.var(v));
        let has_head = self.kernel.tensors[cache.tensor].shape.len() == 4;
        let head = has_head.then_some(h);
        let leading: Vec<(ExprId, bool)> = match &cache.pages {
            Some(p) => {
                let table = self.id(p.table);
                let size = self.pool().int(p.size);
                let (page, slot) = (self.pool().idiv(at, size), self.pool().modulo(at, size));
                let page = self.pool().load(table, vec![b, page], Ty::Int);
                [(page, false), (slot, false)].into_iter().chain(head.map(|h| (h, true))).collect()
            }
            None => {
                let before = [(b, false)].into_iter().chain(head.map(|h| (h, true)));
                before.chain([(at, false)]).collect()
            }
        };
        let (per_token, per_head) = cache.scale.as_ref().map_or((true, true), |s| (s.per_token, s.per_head));
        let scale = leading.iter().filter(|l| if l.1 { per_head } else { per_token }).map(|l| l.0).collect();
        Place { cache: leading.iter().map(|l| l.0).collect(), scale }
    }

    fn append(&mut self, cache: &CacheFact, new: usize) -> Result<()> {
        let rows = new_rows(self.kernel, new);
        let Some(source) = self.lower.rows[new] else { return Ok(()) };
        let width = self.width(source, rows.feature, cache)?;
        let mut length = length(&mut self.lower, self.kernel, cache)?;
        let (b, h, s, x) = (self.axes[0], self.axes[1], self.axes[2], self.axes[3]);
        let [bv, _, sv, xv, _] = self.axes.map(|v| self.lower.pool.var(v));
        let index_b = self.lower.index.b;
        length = self.pool().substitute(length, &[(index_b, bv)]);
        let shape = self.tensors[source.0 as usize].shape.clone();
        let start = self.pool().sub(length, shape[rows.seq]);
        let at = self.pool().add(start, sv);
        let place = self.place(cache, at);
        let mut index = vec![bv, sv, xv];
        let mut extents = vec![(b, shape[0])];
        if let Some(d) = rows.head {
            index.insert(1, self.lower.pool.var(h));
            extents.push((h, shape[d]));
        }
        extents.push((s, shape[rows.seq]));
        let value = self.pool().load(source, index, Ty::Float);
        let scale = cache.scale.as_ref().map(|sc| Scale {
            out: self.id(sc.tensor),
            place: place.scale.clone(),
            limit: INT8_LIMIT,
        });
        let out = self.id(cache.tensor);
        let write = Write { out, rows: extents, feature: (x, width), place: place.cache, value, scale };
        self.steps.push(Step::Write(Box::new(write)));
        Ok(())
    }

    /// The features of appended rows, which are those of the cache.
    fn width(&mut self, source: TensorId, feature: usize, cache: &CacheFact) -> Result<i64> {
        let found = self.lower.pool.as_int(self.tensors[source.0 as usize].shape[feature]);
        let rows = cache_rows(self.kernel, cache);
        let fact = &self.kernel.tensors[cache.tensor];
        let wanted = self.lower.expr(&fact.shape[rows.feature].expr)?;
        match (found, self.lower.pool.as_int(wanted)) {
            (Some(found), Some(wanted)) if found == wanted => Ok(found),
            (found, wanted) => {
                let words = |n: Option<i64>| n.map_or("an unknown number of".to_string(), |n| n.to_string());
                let (found, wanted) = (words(found), words(wanted));
                let message = format!(
                    "rows of {found} features are appended to `{}`, whose rows have {wanted}",
                    fact.name
                );
                Err(LowerError { span: cache.span, message })
            }
        }
    }

    /// The rows of a cache as they are read: `[batch, heads, sequence, feature]`.
    fn gather(&mut self, cache: &CacheFact) -> Result<TensorId> {
        let kernel = self.kernel;
        let rows = cache_rows(kernel, cache);
        let fact = &kernel.tensors[cache.tensor];
        let mut shape = Vec::new();
        for size in &fact.shape {
            shape.push(self.lower.expr(&size.expr)?);
        }
        let vars = self.vars_of(rows, false);
        let length = length(&mut self.lower, kernel, cache)?;
        let length = self.at(length, &vars);
        let [_, _, s, x, _] = self.axes.map(|v| self.lower.pool.var(v));
        let mut place = self.place(cache, s);
        place.cache.push(x);
        let ty = if fact.elem == Elem::Of(DType::I8) { Ty::Int } else { Ty::Float };
        let bound = self.id(cache.tensor);
        let mut value = self.pool().load(bound, place.cache, ty);
        if ty == Ty::Int {
            value = self.pool().unary(UnaryOp::ToFloat, value);
        }
        if let Some(sc) = &cache.scale {
            let scales = self.id(sc.tensor);
            let factor = self.pool().load(scales, place.scale, Ty::Float);
            value = self.pool().mul(value, factor);
        }
        if cache.len.is_some() {
            let inside = self.pool().lt(s, length);
            let zero = self.pool().float(0.0);
            value = self.pool().select(inside, value, zero);
        }
        let out = self.declare(&format!("{}_rows", fact.name), DType::F32, shape, Fact::None);
        let index = vars.index;
        self.steps.push(Step::Derive(Derive {
            out,
            index,
            sum: vec![],
            value,
            at_bind: false,
            checks: vec![],
        }));
        Ok(out)
    }
}
