//! What `explain` and `view` share: a planned kernel at concrete sizes with the tensors that its mask reads.
//!
//! Comes in: a file, sizes, tensors from files or made up. Goes out: a [`Study`], and from it a
//! [`Ground`] on which masks are evaluated. What holds: `view` asks for a kernel with a mask, `explain` takes any;
//! only tensors that the mask reads are loaded or made; the promises of the text are left to the caller, so that a
//! broken one does not end the plan.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::needed::needed;
use attn_compiler::attn_ir::{Kernel, Origin, Step, evaluate};
use attn_compiler::expr::TensorId;
use attn_compiler::expr::eval::Value;
use attn_compiler::host::{Inputs, View};
use attn_compiler::pipeline::{self, AttendPlan, Plan};
use attn_compiler::sema::CheckedKernel;
use attnc::io::{HostTensor, load};
use attnc::schedules::Picked;

use super::args::{KernelArgs, NamedSource, parse_dtype, parse_named};
use super::data::{self, Scalars};
use super::problem::longest;
use super::random;
use super::session::{self, Chosen};
use super::sizes::{self, Unsettled};
use super::tiles::{Ground, reads};
use super::ui::{Failure, Ui};

/// Most products that are taken to know what a mask reads.
const MOST_WORK: f64 = 2e9;

/// Arguments.
#[derive(clap::Args)]
pub struct StudyArgs {
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// What `float` is: f32, f16, bf16
    #[arg(long, value_name = "DTYPE", value_parser = parse_dtype, default_value = "f32")]
    pub dtype: DType,
    /// The branch to look at, of a kernel that has branches
    #[arg(long, value_name = "NAME")]
    pub branch: Option<String>,
    /// Bind a tensor that the mask reads: doc=doc.npy
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_named)]
    pub bind: Vec<NamedSource>,
    /// Make up the tensors that the mask reads and no file gives
    #[arg(long)]
    pub random: bool,
    /// Seed of the made-up tensors
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// See the head of this file.
pub struct Study {
    /// With parameters and target.
    pub chosen: Chosen,
    /// Everything decided, but for the promises.
    pub plan: Plan,
    /// Where its schedules came from.
    pub picked: Picked,
    /// Every dim that has no fixed size.
    pub dims: BTreeMap<String, i64>,
    params: HashMap<String, Value>,
    views: Vec<Option<View>>,
    /// Which attention is looked at.
    part: Cell<usize>,
}

impl Study {
    /// A kernel that has a mask to look at.
    pub fn new(ui: &Ui, args: &StudyArgs) -> Result<Study, Failure> {
        let study = Study::any(ui, args)?;
        if study.plan.attends.is_empty() {
            let message =
                format!("kernel `{}` has no scores: there is no mask to look at", study.plan.kernel.name);
            return Err(
                Failure::wrong(message).help("`attnc explain`, `attnc run` and `attnc bench` work on it")
            );
        }
        Ok(study)
    }

    /// Settles sizes, plans, gathers the tensors of the masks.
    pub fn any(ui: &Ui, args: &StudyArgs) -> Result<Study, Failure> {
        let chosen = session::choose(ui, &args.kernel)?;
        let spec = chosen.kernel.spec()?;
        let bound = read_bound(spec, args)?;
        let mut at: BTreeMap<String, i64> = args.kernel.at.iter().cloned().collect();
        for fact in spec.inputs() {
            if let Some(tensor) = bound.get(&fact.name) {
                data::read_dims(spec, fact, &tensor.shape(), &mut at);
            }
        }
        let present: BTreeSet<String> = spec
            .inputs()
            .filter(|t| t.optional && (args.random || bound.contains_key(&t.name)))
            .map(|t| t.name.clone())
            .collect();
        let settled =
            sizes::settle(&chosen, &at, args.dtype, present).map_err(|err| err.failure(ui, &chosen))?;
        sizes::check_bounds(&settled)?;
        if !settled.defaulted.is_empty() {
            ui.note(&format!("made up: {}; give lengths with --at", settled.defaulted.join(", ")));
        }
        settled.picked.notes().iter().for_each(|note| ui.note(note));
        let mut silent = spec.clone();
        silent.ensures.clear();
        let plan = pipeline::plan(&silent, &settled.key, &mut ())
            .map_err(|err| Unsettled::Compile(err).failure(ui, &chosen))?;
        let params = chosen.split_params(spec).1.into_iter().collect();
        let part = Cell::new(first_part(&plan, args)?);
        let mut study = Study {
            plan,
            picked: settled.picked,
            dims: settled.dims,
            params,
            views: Vec::new(),
            chosen,
            part,
        };
        study.views = study.gather(args, bound)?;
        Ok(study)
    }

    /// The attention that is looked at: for kernels that have one.
    pub fn attend(&self) -> &AttendPlan {
        &self.plan.attends[self.part.get()]
    }

    /// Looks at each attention of the kernel in turn, or only at the branch that was asked for.
    pub fn each<T>(
        &self,
        args: &StudyArgs,
        mut f: impl FnMut() -> Result<T, Failure>,
    ) -> Result<Vec<T>, Failure> {
        let parts = match args.branch {
            Some(_) => self.part.get()..self.part.get() + 1,
            None => 0..self.plan.attends.len(),
        };
        let mut out = Vec::new();
        for n in parts {
            self.part.set(n);
            out.push(f()?);
        }
        Ok(out)
    }

    /// `light, heavy`: the other attentions of the kernel.
    pub fn others(&self) -> String {
        let names = self.plan.attends.iter().enumerate().filter(|(n, _)| *n != self.part.get());
        names.map(|(_, a)| branch_name(&a.attention.name)).collect::<Vec<_>>().join(", ")
    }

    /// Dims and parameters by name.
    pub fn scalars(&self) -> Result<Scalars, Failure> {
        let dims = self.dims.iter().map(|(name, n)| (name.clone(), *n)).collect();
        let inputs = Inputs { dims, params: self.params.clone(), tensors: HashMap::new() };
        Ok(Scalars::new(&self.plan.kernel, &inputs)?)
    }

    /// The tensors that the mask reads, in their logical order.
    fn gather(
        &self,
        args: &StudyArgs,
        mut bound: HashMap<String, HostTensor>,
    ) -> Result<Vec<Option<View>>, Failure> {
        let kernel = &self.plan.kernel;
        let scalars = self.scalars()?;
        let attends = self.plan.attends.iter().map(|a| &a.attention);
        let read: Vec<TensorId> =
            attends.flat_map(|a| reads(&a.pool, a.mask).into_iter().chain(a.lengths())).collect();
        let (steps, inputs) = needed(kernel, &read);
        let wanted = [&read[..], &inputs[..]].concat();
        let longest = longest(self.chosen.kernel.spec()?, &self.dims);
        let asked = random::Asked { seed: args.seed, longest };
        let mut views = Vec::new();
        for (n, decl) in kernel.tensors.iter().enumerate() {
            let id = TensorId(n as u32);
            let logical = scalars.shape(&kernel.pool, &decl.shape);
            let shape = data::bound_shape(&logical, &decl.layout);
            let tensor = match bound.remove(&decl.name) {
                Some(tensor) if tensor.shape() != shape => {
                    let found = data::describe(tensor.dtype(), &tensor.shape());
                    let expected = data::describe(decl.dtype, &shape);
                    return Err(Failure::wrong(format!(
                        "input `{}` is {found}, expected {expected}",
                        decl.name
                    )));
                }
                Some(tensor) => Some(tensor),
                None if args.random
                    && wanted.contains(&id)
                    && matches!(decl.origin, Origin::Host | Origin::Updated) =>
                {
                    Some(random::tensor(kernel, &scalars, id, &shape, &asked)?.into())
                }
                None => None,
            };
            views.push(match tensor.filter(|_| wanted.contains(&id)) {
                Some(tensor) => Some(data::host_view(&data::logical(&tensor.view()?, &decl.layout)?)?),
                None => None,
            });
        }
        self.make(&steps, &inputs, &mut views)?;
        Ok(views)
    }

    /// Evaluates what steps make, if all that they read is known and they are few enough.
    fn make(&self, steps: &Kernel, inputs: &[TensorId], views: &mut [Option<View>]) -> Result<(), Failure> {
        let known = inputs.iter().all(|t| views[t.0 as usize].is_some());
        if steps.steps.is_empty() || !known || self.work(steps)? > MOST_WORK {
            return Ok(());
        }
        let dims = self.dims.iter().map(|(name, n)| (name.clone(), *n)).collect();
        let named = |t: &TensorId| Some((steps.tensor(*t).name.clone(), views[t.0 as usize].clone()?));
        let tensors = inputs.iter().filter_map(named).collect();
        let made = evaluate::made(steps, Inputs { dims, params: self.params.clone(), tensors })?;
        for (n, t) in steps.tensors.iter().enumerate().filter(|(_, t)| t.origin == Origin::Made) {
            views[n] = made.get(&t.name).cloned();
        }
        Ok(())
    }

    /// Products that steps take, about.
    fn work(&self, steps: &Kernel) -> Result<f64, Failure> {
        let scalars = self.scalars()?;
        let size = |id| scalars.size(&steps.pool, id) as f64;
        let elements = |t: TensorId| steps.tensor(t).shape.iter().map(|&n| size(n)).product::<f64>();
        let dots = |dots: &[attn_compiler::attn_ir::Dot], keys| {
            dots.iter().map(|d| elements(d.x.tensor)).sum::<f64>() * size(keys)
        };
        let of = |step: &Step| match step {
            Step::Derive(d) => elements(d.out) * d.sum.iter().map(|s| size(s.1)).product::<f64>(),
            Step::Accumulate(s) => elements(s.source),
            Step::Top(t) => elements(t.source),
            Step::Count(c) => elements(c.lists),
            Step::Rank(r) => dots(&r.dots, r.windows),
            Step::Attend(a) => dots(&a.dots, a.seq_k),
            // A state matrix at every step is about its reads squared.
            Step::Recur(r) => r.reads.iter().map(|x| elements(x.rows.tensor)).sum::<f64>() * 64.0,
            Step::Write(w) => elements(w.out),
        };
        Ok(steps.steps.iter().map(of).sum())
    }

    /// Where masks are evaluated, with the tiles of the schedule.
    pub fn ground(&self) -> Result<Ground<'_>, Failure> {
        let attend = self.attend();
        let tile = (attend.schedule.tile_q, attend.schedule.tile_kv);
        Ground::new(&attend.attention, self.scalars()?, self.views.clone(), tile)
    }

    /// `B = 2, S = 256`, in the order of the declarations.
    pub fn sizes(&self) -> BTreeMap<String, i64> {
        let a = &self.plan.kernel;
        let size = |d: &attn_compiler::attn_ir::Dim| {
            self.dims.get(&d.name).copied().or_else(|| a.pool.as_int(d.size))
        };
        a.dims.iter().filter_map(|d| Some((d.name.clone(), size(d)?))).collect()
    }
}

/// `light` of `colt5.light`; the kernel's name where it has no branches.
pub fn branch_name(attention: &str) -> &str {
    attention.split_once('.').map_or(attention, |(_, branch)| branch)
}

/// The attention that `--branch` names, or the first.
fn first_part(plan: &Plan, args: &StudyArgs) -> Result<usize, Failure> {
    let Some(wanted) = &args.branch else { return Ok(0) };
    let names = || plan.attends.iter().map(|a| branch_name(&a.attention.name));
    names().position(|n| n == wanted).ok_or_else(|| {
        let known: Vec<&str> = names().collect();
        let known = if known.is_empty() { "no branches".into() } else { known.join(", ") };
        let message = format!("--branch {wanted}: the kernel has no such branch");
        Failure::usage(message).help(format!("it has {known}"))
    })
}

/// Reads the tensors of `--bind`. Errors: a name that is no input, or a file that cannot be read.
fn read_bound(spec: &CheckedKernel, args: &StudyArgs) -> Result<HashMap<String, HostTensor>, Failure> {
    let mut bound = HashMap::new();
    for named in &args.bind {
        if spec.inputs().all(|t| t.name != named.name) {
            let known: Vec<&str> = spec.inputs().map(|t| t.name.as_str()).collect();
            let message = format!("--bind {}: kernel `{}` has no such input", named.name, spec.name);
            return Err(Failure::usage(message).help(format!("it has {}", known.join(", "))));
        }
        bound.insert(named.name.clone(), load(&named.source, &named.name)?);
    }
    Ok(bound)
}
