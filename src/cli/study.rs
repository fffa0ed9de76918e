//! What `explain` and `view` share: a planned kernel at concrete sizes with the tensors that its mask reads.
//!
//! Comes in: a file, sizes, tensors from files or made up. Goes out: a [`Study`], and from it a
//! [`Ground`] on which masks are evaluated. What holds: only tensors that the mask reads are loaded or made; the
//! promises of the text are left to the caller, so that a broken one does not end the plan.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use attn_compiler::artifact::DType;
use attn_compiler::expr::TensorId;
use attn_compiler::expr::eval::Value;
use attn_compiler::host::{Inputs, View};
use attn_compiler::pipeline::{self, AttendPlan, Plan};
use attn_compiler::sema::CheckedKernel;
use attnc::io::{HostTensor, load};

use super::args::{KernelArgs, NamedSource, parse_dtype, parse_named};
use super::data::{self, Scalars};
use super::problem::longest;
use super::random;
use super::session::{self, Chosen};
use super::sizes::{self, Unsettled};
use super::tiles::{Ground, reads};
use super::ui::{Failure, Ui};

/// Arguments.
#[derive(clap::Args)]
pub struct StudyArgs {
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// What `float` is: f32, f16, bf16
    #[arg(long, value_name = "DTYPE", value_parser = parse_dtype, default_value = "f32")]
    pub dtype: DType,
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
    /// Every dim that has no fixed size.
    pub dims: BTreeMap<String, i64>,
    params: HashMap<String, Value>,
    views: Vec<Option<View>>,
}

impl Study {
    /// Settles sizes, plans, gathers the tensors of the mask.
    pub fn new(ui: &Ui, args: &StudyArgs) -> Result<Study, Failure> {
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
        let mut silent = spec.clone();
        silent.ensures.clear();
        let plan = pipeline::plan(&silent, &settled.key, &mut ())
            .map_err(|err| Unsettled::Compile(err).failure(ui, &chosen))?;
        if plan.attends.is_empty() {
            let message = format!("kernel `{}` has no scores: there is no mask to look at", spec.name);
            return Err(Failure::wrong(message).help("`attnc run` and `attnc bench` work on it"));
        }
        let params = chosen.split_params(spec).1.into_iter().collect();
        let mut study = Study { plan, dims: settled.dims, params, views: Vec::new(), chosen };
        study.views = study.gather(args, bound)?;
        Ok(study)
    }

    /// The attention that is looked at: the first of the kernel; [`Study::new`] has made sure that there is one.
    pub fn attend(&self) -> &AttendPlan {
        &self.plan.attends[0]
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
        let attention = &self.attend().attention;
        let scalars = self.scalars()?;
        let mut wanted = reads(&attention.pool, attention.mask);
        wanted.extend(attention.lengths());
        let longest = longest(self.chosen.kernel.spec()?, &self.dims);
        let asked = random::Asked { seed: args.seed, longest };
        let mut views = Vec::new();
        for (n, decl) in attention.tensors.iter().enumerate() {
            let id = TensorId(n as u32);
            let logical = scalars.shape(&attention.pool, &decl.shape);
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
                None if args.random && wanted.contains(&id) => {
                    Some(random::tensor(&self.plan.kernel, &scalars, id, &shape, &asked)?.into())
                }
                None => None,
            };
            views.push(match tensor.filter(|_| wanted.contains(&id)) {
                Some(tensor) => Some(data::host_view(&data::logical(&tensor.view()?, &decl.layout)?)?),
                None => None,
            });
        }
        Ok(views)
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
