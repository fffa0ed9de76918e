//! A distributed attention: every rank holds some positions, keys and values go round (math.md 2.11).
//!
//! Comes in: a kernel with `distribute ring(...)`, a number of ranks. Goes out: a [`RingPlan`]. Each rank runs one
//! compiled kernel, a *shard*, on its queries against the keys that are with it, merges the partial results in f32,
//! and passes the keys on. What holds: positions stay global, so that every mask and every score means what it
//! means on one device; the order of merging depends on the rank and the layout alone; with one rank the result has
//! the bits of the undistributed kernel. [`RingPlan::run`] simulates all ranks in one process over [`Local`];
//! [`RingPlan::run_rank`] is what a process of a real ring calls. Deliberately not done: gradients, skipping of
//! messages that no rank needs.

mod layout;
mod transport;

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::{self, Measure, Side};
use attn_compiler::expr::eval::Value;
use attn_compiler::sema::model::RingLayout;
use attn_compiler::sema::shard::{K_FIRST, Q_FIRST};
use attn_compiler::sema::{self, CheckedKernel, PlanKey};
use attn_runtime::{RunOptions, Tensor, TensorView};

use crate::bind::{Input, Output};
use crate::error::{Error, ErrorKind};
use crate::merge::merge_rows;
use crate::plan::Plan;

pub use layout::{Run, runs};
pub use transport::{Local, Transport};

/// A tensor whose rows are divided.
#[derive(Clone, Debug)]
struct Held {
    name: String,
    /// Axis of the bound tensor along which positions run.
    axis: usize,
    query: bool,
}

/// An output of the shard.
#[derive(Clone, Debug)]
struct Returned {
    name: String,
    measure: Measure,
    /// Logical dim along which rows run.
    seq: usize,
    /// The logical dim at each axis of the bound tensor.
    layout: Vec<usize>,
    /// Wanted by the host, and not only for merging.
    returned: bool,
    /// Features of a row; none where a row is one number.
    features: Option<usize>,
}

/// The queries, whose dims the results have.
#[derive(Clone, Debug)]
struct Query {
    name: String,
    /// The logical dim at each axis of the bound tensor.
    layout: Vec<usize>,
    /// The logical feature dim.
    feature: usize,
}

/// A distributed kernel, planned for a number of ranks.
#[derive(Clone, Debug)]
pub struct RingPlan {
    shard: Plan,
    ranks: usize,
    layout: RingLayout,
    /// Name of the divided dim: a parameter of the shard.
    axis: String,
    held: Vec<Held>,
    query: Query,
    results: Vec<Returned>,
}

/// Rows that one rank holds: for each run of positions, tensors by name, axes as bound.
pub type Rows = Vec<(Run, Vec<(String, Tensor)>)>;

/// Results of one rank: for each run of its queries, outputs by name, f32, dims in logical order.
pub type RankResults = Vec<(Run, Vec<(String, Tensor)>)>;

/// Name, type and bound shape of each divided key and value tensor; the length of the divided axis does not matter.
pub type KeyTypes = Vec<(String, DType, Vec<usize>)>;

/// What a rank is given.
pub struct RankInputs<'a> {
    /// Queries of this rank.
    pub queries: Rows,
    /// Keys and values of this rank.
    pub keys: Rows,
    /// What the keys of other ranks look like.
    pub key_types: KeyTypes,
    /// Length of the whole sequence.
    pub length: usize,
    /// Every other input, whole.
    pub whole: &'a [Input<'a>],
    /// Parameters.
    pub params: &'a [(&'a str, Value)],
}

pub(crate) fn step_of(layout: RingLayout, ranks: usize) -> i64 {
    layout::step(layout, ranks) as i64
}

impl RingPlan {
    /// Joins the plan of a shard with what is divided how.
    pub(crate) fn new(
        spec: &CheckedKernel,
        key: &PlanKey,
        shard: Plan,
        ranks: usize,
        layout: RingLayout,
    ) -> Result<RingPlan, Error> {
        let ir = sema::instantiate(spec, key)
            .map_err(|err| Error::new(ErrorKind::Internal, format!("a shard was planned, and: {err}")))?;
        let Some(fact) = spec.ring else {
            return Err(Error::new(ErrorKind::Internal, "a shard of a kernel that is not distributed"));
        };
        let mut held: Vec<Held> = Vec::new();
        for (rows, side) in &ir.roles {
            let t = ir.tensor(rows.tensor);
            let axis = t.layout.iter().position(|&d| d == rows.seq).unwrap_or(rows.seq);
            if held.iter().all(|h| h.name != t.name) {
                held.push(Held { name: t.name.clone(), axis, query: *side == Side::Query });
            }
        }
        let axis = spec.dims[fact.dim].name.clone();
        let Some((rows, _)) = ir.roles.first() else {
            return Err(Error::new(ErrorKind::Internal, "a shard without rows"));
        };
        let t = ir.tensor(rows.tensor);
        let query = Query { name: t.name.clone(), layout: t.layout.clone(), feature: rows.feature };
        let results = results(&ir, spec);
        Ok(RingPlan { shard, ranks, layout, axis, held, query, results })
    }

    /// Ranks.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Who holds which positions.
    pub fn layout(&self) -> RingLayout {
        self.layout
    }

    /// The kernel that each rank runs for each pair of runs.
    pub fn shard(&self) -> &Plan {
        &self.shard
    }

    /// Simulates every rank in this process, each on a thread of its own. Inputs and outputs are whole.
    ///
    /// # Errors
    /// What [`Plan::run`] says of wrong arguments; nothing was written then.
    pub fn run(
        &self,
        inputs: &[Input<'_>],
        outputs: &mut [Output<'_>],
        params: &[(&str, Value)],
        options: &RunOptions<'_>,
    ) -> Result<(), Error> {
        let length = self.length(inputs)?;
        self.check_outputs(outputs)?;
        let whole: Vec<Input<'_>> =
            inputs.iter().filter(|(n, _)| self.held.iter().all(|h| h.name != *n)).copied().collect();
        let divided = |n: &str| self.held.iter().any(|h| !h.query && h.name == n);
        let types = inputs.iter().filter(|(n, _)| divided(n));
        let key_types: KeyTypes =
            types.map(|(n, v)| ((*n).to_string(), v.dtype(), v.shape().to_vec())).collect();
        let mut ranks = Vec::new();
        for (rank, end) in Local::ring(self.ranks).into_iter().enumerate() {
            let (queries, keys) =
                (self.cut(inputs, length, rank, true)?, self.cut(inputs, length, rank, false)?);
            let key_types = key_types.clone();
            ranks.push((end, RankInputs { queries, keys, key_types, length, whole: &whole, params }));
        }
        let found: Vec<Result<RankResults, Error>> = std::thread::scope(|scope| {
            let mut running = Vec::new();
            for (mut end, data) in ranks {
                running.push(scope.spawn(move || self.run_rank(&mut end, data, options)));
            }
            let ended = |handle: std::thread::ScopedJoinHandle<'_, Result<RankResults, Error>>| {
                let died = |_| Err(Error::new(ErrorKind::Internal, "a rank of the ring panicked"));
                handle.join().unwrap_or_else(died)
            };
            running.into_iter().map(ended).collect()
        });
        let mut all = Vec::new();
        for part in found {
            all.extend(part?);
        }
        self.gather(&all, outputs)
    }

    /// The work of one rank of a ring: `ranks` steps of computing and passing on.
    ///
    /// # Errors
    /// Wrong arguments, a transport that fails, or a ring of another size than planned.
    pub fn run_rank(
        &self,
        transport: &mut dyn Transport,
        data: RankInputs<'_>,
        options: &RunOptions<'_>,
    ) -> Result<RankResults, Error> {
        let (rank, ranks) = (transport.rank(), transport.ranks());
        if ranks != self.ranks || rank >= ranks {
            let message = format!("rank {rank} of {ranks}: this kernel was planned for {} ranks", self.ranks);
            return Err(Error::new(ErrorKind::Data, message));
        }
        let mut sums: Vec<Option<Vec<(String, Tensor)>>> = vec![None; data.queries.len()];
        let mut keys = data.keys;
        for step in 0..ranks {
            if step + 1 < ranks {
                transport.send_next(self.packed(&keys))?;
            }
            for (n, (run, rows)) in data.queries.iter().enumerate() {
                for (key_run, key_rows) in &keys {
                    let bound = Pair { query: *run, rows, key: *key_run, key_rows };
                    let part = self.pair(&bound, data.length, data.whole, data.params, options)?;
                    match &mut sums[n] {
                        None => sums[n] = Some(part),
                        Some(sum) => self.merge(sum, &part)?,
                    }
                }
            }
            if step + 1 < ranks {
                let source = (rank + ranks - step - 1) % ranks;
                let runs = runs(self.layout, data.length, ranks, source);
                keys = self.unpacked(&transport.receive_previous()?, &runs, &data.key_types)?;
            }
        }
        let runs = data.queries.iter().map(|(run, _)| *run);
        Ok(runs.zip(sums).filter_map(|(run, sum)| Some((run, sum?))).collect())
    }

    /// One run of queries against one run of keys.
    fn pair(
        &self,
        pair: &Pair<'_>,
        length: usize,
        whole: &[Input<'_>],
        params: &[(&str, Value)],
        options: &RunOptions<'_>,
    ) -> Result<Vec<(String, Tensor)>, Error> {
        let mut inputs: Vec<Input<'_>> = whole.to_vec();
        inputs.extend(pair.rows.iter().chain(pair.key_rows).map(|(n, t)| (n.as_str(), t.view())));
        let own = [
            (self.axis.as_str(), Value::Int(length as i64)),
            (Q_FIRST, Value::Int(pair.query.first as i64)),
            (K_FIRST, Value::Int(pair.key.first as i64)),
        ];
        let params: Vec<(&str, Value)> = params.iter().copied().chain(own).collect();
        let mut out = Vec::new();
        for r in &self.results {
            out.push((r.name.clone(), Tensor::zeros(DType::F32, &self.shape(r, pair))?));
        }
        let mut views: Vec<Output<'_>> = Vec::new();
        for ((name, tensor), r) in out.iter_mut().zip(&self.results) {
            views.push((name.as_str(), tensor.view_mut().into_permuted(&r.layout)?));
        }
        self.shard.run_with(&inputs, &mut views, &params, options)?;
        drop(views);
        Ok(out)
    }

    /// Logical shape of a result for a pair: the query's, with the features of the values for `o`.
    fn shape(&self, r: &Returned, pair: &Pair<'_>) -> Vec<usize> {
        let rows = pair.rows.iter().find(|(n, _)| *n == self.query.name).map(|(_, t)| t.shape());
        let bound = rows.unwrap_or(&[]);
        let mut shape = vec![0; bound.len()];
        bound.iter().zip(&self.query.layout).for_each(|(n, &d)| shape[d] = *n);
        match r.features {
            Some(n) => shape[self.query.feature] = n,
            None => drop(shape.remove(self.query.feature)),
        }
        shape
    }

    /// Keys and values in the order of the specification, which is that of a message, whatever that of inputs.
    fn carried(&self) -> impl Iterator<Item = &Held> {
        self.held.iter().filter(|h| !h.query)
    }

    /// For each run its tensors one after the other.
    fn packed(&self, keys: &Rows) -> Vec<u8> {
        let find = |rows: &[(String, Tensor)], name: &str| rows.iter().position(|(n, _)| n == name);
        let mut message = Vec::new();
        for (_, rows) in keys {
            let named = self.carried().filter_map(|held| find(rows, &held.name));
            named.for_each(|n| message.extend_from_slice(rows[n].1.bytes()));
        }
        message
    }

    /// The rows of a message that holds these runs.
    fn unpacked(&self, message: &[u8], runs: &[Run], types: &KeyTypes) -> Result<Rows, Error> {
        let mut rest = message;
        let mut out = Vec::new();
        for run in runs {
            let mut rows = Vec::new();
            for held in self.carried() {
                let name = &held.name;
                let Some((_, dtype, shape)) = types.iter().find(|(n, ..)| n == name) else {
                    let message = format!("nothing is said of what other ranks hold of `{name}`");
                    return Err(Error::new(ErrorKind::Data, message));
                };
                let mut shape = shape.clone();
                shape[held.axis] = run.len;
                let bytes = shape.iter().product::<usize>() * dtype.size();
                let Some((head, tail)) = rest.split_at_checked(bytes) else {
                    let message = format!("a message of {} bytes ends inside `{name}`", message.len());
                    return Err(Error::new(ErrorKind::Data, message));
                };
                rest = tail;
                rows.push((name.clone(), Tensor::from_bytes(*dtype, head, &shape)?));
            }
            out.push((*run, rows));
        }
        if rest.is_empty() {
            return Ok(out);
        }
        let message = format!("a message of {} bytes, {} too many", message.len(), rest.len());
        Err(Error::new(ErrorKind::Data, message))
    }

    fn merge(&self, sum: &mut [(String, Tensor)], part: &[(String, Tensor)]) -> Result<(), Error> {
        let lse = self.results.iter().position(|r| r.measure == Measure::Logarithm && r.name == "lse");
        let old_lse = match lse {
            Some(n) => Some(sum[n].1.as_slice::<f32>()?.to_vec()),
            None => None,
        };
        for (n, r) in self.results.iter().enumerate() {
            let new = part[n].1.as_slice::<f32>()?;
            match (r.measure, lse, &old_lse) {
                (Measure::Logarithm, Some(l), _) if n == l => {}
                // The largest score of both.
                (Measure::Logarithm, ..) => {
                    let old = sum[n].1.as_mut_slice::<f32>()?;
                    old.iter_mut().zip(new).for_each(|(x, y)| *x = if *y > *x { *y } else { *x });
                }
                (_, Some(l), Some(before)) => {
                    let mut both = before.clone();
                    let new_lse = part[l].1.as_slice::<f32>()?;
                    let d = features(new.len(), new_lse.len());
                    merge_rows(sum[n].1.as_mut_slice::<f32>()?, &mut both, new, new_lse, d);
                    sum[l].1.as_mut_slice::<f32>()?.copy_from_slice(&both);
                }
                // Weights that are not normalised.
                _ => sum[n].1.as_mut_slice::<f32>()?.iter_mut().zip(new).for_each(|(x, y)| *x += y),
            }
        }
        Ok(())
    }

    /// Positions in all: what every divided tensor agrees on.
    fn length(&self, inputs: &[Input<'_>]) -> Result<usize, Error> {
        let mut length = None;
        for held in &self.held {
            let Some((_, view)) = inputs.iter().find(|(n, _)| *n == held.name) else {
                return Err(Error::new(ErrorKind::Data, format!("input `{}` is not bound", held.name)));
            };
            let n = view.shape().get(held.axis).copied().unwrap_or(0);
            if let Some((first, other)) = length.replace((n, &held.name))
                && first != n
            {
                let message = format!(
                    "`{}` holds {n} positions and `{other}` {first}; dim `{}` is one length",
                    held.name, self.axis
                );
                return Err(Error::new(ErrorKind::Data, message));
            }
        }
        Ok(length.map_or(0, |(n, _)| n))
    }

    fn check_outputs(&self, outputs: &[Output<'_>]) -> Result<(), Error> {
        for (name, _) in outputs {
            if !self.results.iter().any(|r| r.returned && r.name == *name) {
                return Err(Error::new(ErrorKind::Data, format!("the kernel has no output `{name}`")));
            }
        }
        for r in self.results.iter().filter(|r| r.returned) {
            if outputs.iter().all(|(name, _)| *name != r.name) {
                return Err(Error::new(ErrorKind::Data, format!("output `{}` is not bound", r.name)));
            }
        }
        Ok(())
    }

    /// The rows of one rank, copied as that rank would hold them.
    fn cut(&self, inputs: &[Input<'_>], length: usize, rank: usize, query: bool) -> Result<Rows, Error> {
        let mut out = Vec::new();
        for run in runs(self.layout, length, self.ranks, rank) {
            let mut tensors = Vec::new();
            for held in self.held.iter().filter(|h| h.query == query) {
                let found = inputs.iter().find(|(n, _)| *n == held.name);
                let Some((_, view)) = found else { continue };
                let part: TensorView<'_> = view.every(held.axis, run.first, run.step, run.len)?;
                tensors.push((held.name.clone(), part.to_tensor()?));
            }
            out.push((run, tensors));
        }
        Ok(out)
    }

    /// Writes the results of all ranks into the host's tensors.
    fn gather(&self, all: &RankResults, outputs: &mut [Output<'_>]) -> Result<(), Error> {
        for (name, view) in outputs {
            let Some(r) = self.results.iter().find(|r| r.name == *name) else { continue };
            let inverse: Vec<usize> =
                (0..r.layout.len()).map(|d| r.layout.iter().position(|&x| x == d).unwrap_or(d)).collect();
            for (run, tensors) in all {
                let Some((_, part)) = tensors.iter().find(|(n, _)| n == name) else { continue };
                let mut logical = view.permuted(&inverse)?;
                let mut rows = logical.every(r.seq, run.first, run.step, run.len)?;
                if rows.shape() != part.shape() {
                    let message = format!(
                        "output `{name}` has rows of shape {:?}, expected {:?}",
                        rows.shape(),
                        part.shape()
                    );
                    return Err(Error::new(ErrorKind::Data, message));
                }
                rows.assign(part.as_slice::<f32>()?)?;
            }
        }
        Ok(())
    }
}

/// One run of queries and one of keys.
struct Pair<'a> {
    query: Run,
    rows: &'a [(String, Tensor)],
    key: Run,
    key_rows: &'a [(String, Tensor)],
}

fn features(n: usize, rows: usize) -> usize {
    n.checked_div(rows).unwrap_or(0)
}

fn results(ir: &attn_ir::Kernel, spec: &CheckedKernel) -> Vec<Returned> {
    let Some(a) = ir.attentions().next() else { return Vec::new() };
    let query = a.dots[0].x;
    let make = |t: &attn_ir::Tensor| {
        let measure = ir.measure(&t.name);
        let vector = measure == Measure::Logarithm;
        let seq = query.seq - usize::from(vector && query.feature < query.seq);
        let returned = spec.outputs.iter().any(|o| o.name == t.name);
        let width = || ir.pool.as_int(t.shape[query.feature]).and_then(|n| usize::try_from(n).ok());
        let features = if vector { None } else { width() };
        Returned { name: t.name.clone(), measure, seq, layout: t.layout.clone(), returned, features }
    };
    ir.outputs().map(|(_, t)| make(t)).collect()
}
