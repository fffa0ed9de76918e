//! What the contents of int tensors must fulfil: bounds, and tables of pages.
//!
//! Comes in: a call whose sizes agree. Goes out: nothing, or an error that names the tensor, the element and the
//! limit. What holds: every place that a kernel finds through such a table exists, and what it writes there is
//! written once and read by no other batch entry. Scanned at every bind, in time linear in the tensors. Deliberately
//! not done: judging entries behind the length of a row; they may hold anything.

use attn_compiler::artifact::ContentDemand;
use attn_compiler::expr::TensorId;
use attn_compiler::expr::eval::eval;

use super::Call;
use super::context::{RunContext, Scalars};
use super::facts::logical;
use crate::error::{DataFault, RuntimeError};
use crate::signature::Signature;
use crate::tensor::TensorView;

/// Checks every demand.
pub(super) fn check(
    sig: &Signature,
    call: &Call<'_, '_, '_>,
    ctx: &mut RunContext,
) -> Result<(), RuntimeError> {
    for demand in &sig.artifact.demands {
        match demand {
            ContentDemand::Within { tensor, lo, hi } => {
                let limit = |e| eval(&sig.artifact.pool, e, &Scalars(&ctx.values)).int();
                let (lo, hi) = ((limit(lo.0), &lo.1[..]), (limit(hi.0), &hi.1[..]));
                within(
                    &sig.artifact.tensors[tensor.0 as usize].name,
                    &view(sig, call, ctx, *tensor)?,
                    lo,
                    hi,
                )?;
            }
            ContentDemand::Pages { table, len, size, pool, written } => {
                let written =
                    written.map_or(0, |n| eval(&sig.artifact.pool, n, &Scalars(&ctx.values)).int().max(0));
                let (tables, lengths) = (view(sig, call, ctx, *table)?, view(sig, call, ctx, *len)?);
                let name = |t: TensorId| &sig.artifact.tensors[t.0 as usize].name[..];
                let n_pages = ctx.sizes[pool.0 as usize][0];
                let rows = Rows {
                    table: &tables,
                    lengths: &lengths,
                    size: *size as usize,
                    written: written as usize,
                };
                let names = [name(*table), name(*pool)];
                rows.in_range(names, n_pages)?;
                if written > 0 {
                    rows.written_once(names, n_pages, &mut ctx.named)?;
                }
            }
        }
    }
    Ok(())
}

fn view<'v>(
    sig: &Signature,
    call: &Call<'v, '_, '_>,
    ctx: &RunContext,
    t: TensorId,
) -> Result<TensorView<'v>, RuntimeError> {
    logical(sig, &call.inputs[ctx.bound[t.0 as usize]].1, t.0 as usize)
}

fn int(view: &TensorView<'_>, index: &[usize]) -> i64 {
    view.get(index).unwrap_or(0.0) as i64
}

fn within(name: &str, view: &TensorView<'_>, lo: (i64, &str), hi: (i64, &str)) -> Result<(), RuntimeError> {
    let mut bad = None;
    view.geometry().for_each_index(&mut |index| {
        if bad.is_none() {
            let x = int(view, index);
            bad = (x < lo.0 || x > hi.0).then(|| (index.to_vec(), x));
        }
    });
    let Some((index, x)) = bad else { return Ok(()) };
    let limit = if x < lo.0 {
        format!("it is at least {}, {}", lo.0, lo.1)
    } else {
        format!("it is at most {}, {}", hi.0, hi.1)
    };
    let message = format!("`{name}{index:?}` is {x}; {limit}");
    Err(RuntimeError::data(DataFault::Value, message))
}

/// The used entries of a table.
struct Rows<'a> {
    table: &'a TensorView<'a>,
    lengths: &'a TensorView<'a>,
    size: usize,
    written: usize,
}

impl Rows<'_> {
    fn batch(&self) -> usize {
        self.lengths.shape()[0]
    }

    /// Used entries of row b, and the first of those that are written.
    fn used(&self, b: usize) -> (usize, usize) {
        let len = int(self.lengths, &[b]).max(0) as usize;
        let used = len.div_ceil(self.size).min(self.table.shape()[1]);
        let first = if self.written == 0 { used } else { len.saturating_sub(self.written) / self.size };
        (used, first)
    }

    fn page(&self, b: usize, n: usize) -> i64 {
        int(self.table, &[b, n])
    }

    fn in_range(&self, [table, pool]: [&str; 2], n_pages: usize) -> Result<(), RuntimeError> {
        for b in 0..self.batch() {
            for n in 0..self.used(b).0 {
                let page = self.page(b, n);
                if page < 0 || page >= n_pages as i64 {
                    let message = format!(
                        "`{table}[{b}, {n}]` is {page}, but `{pool}` has {n_pages} pages, from 0; \
                         its row holds {} places",
                        int(self.lengths, &[b])
                    );
                    return Err(RuntimeError::data(DataFault::Index, message));
                }
            }
        }
        Ok(())
    }

    /// Pages that are written are named once; rows that are written name no page twice.
    fn written_once(
        &self,
        [table, pool]: [&str; 2],
        n_pages: usize,
        named: &mut Vec<u32>,
    ) -> Result<(), RuntimeError> {
        let twice = |page: i64, b: usize, n: usize| {
            let (c, m) = self.other(page, (b, n));
            let message = format!(
                "`{table}[{b}, {n}]` and `{table}[{c}, {m}]` both name page {page} of `{pool}`, to which rows are \
                 appended; give each sequence pages of its own to append to"
            );
            RuntimeError::data(DataFault::Value, message)
        };
        // A page is marked with the row that named it last; then counted over all rows.
        named.clear();
        named.resize(n_pages, u32::MAX);
        for b in 0..self.batch() {
            for n in 0..self.used(b).0 {
                let page = self.page(b, n);
                if std::mem::replace(&mut named[page as usize], b as u32) == b as u32 {
                    return Err(twice(page, b, n));
                }
            }
        }
        named.fill(0);
        for b in 0..self.batch() {
            for n in 0..self.used(b).0 {
                named[self.page(b, n) as usize] += 1;
            }
        }
        for b in 0..self.batch() {
            let (used, first) = self.used(b);
            for n in first..used {
                let page = self.page(b, n);
                if named[page as usize] > 1 {
                    return Err(twice(page, b, n));
                }
            }
        }
        Ok(())
    }

    /// Another entry that names this page.
    fn other(&self, page: i64, but: (usize, usize)) -> (usize, usize) {
        let entries = (0..self.batch()).flat_map(|b| (0..self.used(b).0).map(move |n| (b, n)));
        entries.into_iter().find(|&(b, n)| (b, n) != but && self.page(b, n) == page).unwrap_or(but)
    }
}
