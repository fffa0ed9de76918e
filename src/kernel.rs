//! A specification in memory: read, checked, ready to be planned.
//!
//! Comes in: a file or a text. Goes out: a [`Kernel`], and from it a [`Plan`] for feature dims, dtypes and a
//! target. What holds: a `Kernel` has no errors in its text; plans of the same key come from the disk cache.
//! Deliberately not done: compiling anything before `plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use attn_compiler::artifact::DType;
use attn_compiler::diagnostic::{Diagnostic, Severity, SourceMap};
use attn_compiler::expr::eval::Value;
use attn_compiler::pipeline::{self, Front};
use attn_compiler::sema::{CheckedKernel, PlanKey};
use attn_runtime::cache::Cache;

use crate::error::{Error, ErrorKind};
use crate::plan::{self, CacheChoice, Plan};
use crate::ring::{self, RingPlan};
use crate::schedules::{self, Picked, Schedules, Tuning};
use crate::target::Target;

/// A value for a parameter.
pub trait ParamValue {
    /// As the compiler and the runtime take it.
    fn value(self) -> Value;
}

macro_rules! param_values {
    ($($t:ty => $variant:ident;)*) => {$(
        impl ParamValue for $t {
            fn value(self) -> Value {
                Value::$variant(self.into())
            }
        }
    )*};
}

param_values! {
    bool => Bool;
    i32 => Int;
    u32 => Int;
    i64 => Int;
    f32 => Float;
    f64 => Float;
}

impl ParamValue for Value {
    fn value(self) -> Value {
        self
    }
}

/// A checked specification and the choices made so far. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Kernel {
    front: Arc<Front>,
    selected: Option<usize>,
    params: BTreeMap<String, Value>,
    present: BTreeSet<String>,
    target: Target,
    cache: CacheChoice,
    schedules: Schedules,
}

impl Kernel {
    /// Reads and checks a file; `use "other.attn"` is looked up beside it. Errors: unreadable, or not a correct
    /// specification (every mistake is reported, with its place).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Kernel, Error> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|err| Error::new(ErrorKind::Io, format!("cannot read {name}: {err}")))?;
        Kernel::checked(&name, &text, &mut |from, target| {
            let beside = Path::new(from).parent().unwrap_or(Path::new("")).join(target);
            std::fs::read_to_string(&beside).map_err(|err| format!("cannot read {}: {err}", beside.display()))
        })
    }

    /// Checks a text; `name` stands in messages. It can import the standard library, not files.
    pub fn from_source(name: &str, text: &str) -> Result<Kernel, Error> {
        Kernel::checked(name, text, &mut |_, target| {
            Err(format!("`{target}` cannot be imported: this text is not a file; use Kernel::from_file"))
        })
    }

    fn checked(name: &str, text: &str, resolver: &mut pipeline::Resolver<'_>) -> Result<Kernel, Error> {
        let front = pipeline::front(name, text, resolver, &mut ());
        if front.diagnostics.has_errors() {
            let errors = front.diagnostics.items().iter().filter(|d| d.severity == Severity::Error).cloned();
            return Err(Error::of_diagnostics(ErrorKind::Spec, &front.map, errors.collect()));
        }
        Ok(Kernel {
            front: Arc::new(front),
            selected: None,
            params: BTreeMap::new(),
            present: BTreeSet::new(),
            target: Target::Host,
            cache: CacheChoice::User,
            schedules: Schedules::default(),
        })
    }

    /// Chooses one kernel of a file that holds several. Errors: there is none of this name.
    pub fn select(mut self, name: &str) -> Result<Kernel, Error> {
        let kernels = &self.front.checked.kernels;
        self.selected = kernels.iter().position(|k| k.name == name);
        if self.selected.is_none() {
            let message = format!("there is no kernel `{name}`; {}", self.kernel_list());
            return Err(Error::new(ErrorKind::Data, message));
        }
        Ok(self)
    }

    /// Gives a parameter its value. A run-time one becomes the default of the plan's runs, a static one is
    /// compiled in. Names and types are checked by [`Kernel::plan`].
    pub fn param(mut self, name: &str, value: impl ParamValue) -> Kernel {
        self.params.insert(name.to_string(), value.value());
        self
    }

    /// Says that an `optional` input will be bound; without it, it is absent and neutral.
    pub fn with_input(mut self, name: &str) -> Kernel {
        self.present.insert(name.to_string());
        self
    }

    /// Chooses what to compile for; the host if this is never called. Errors: the host cannot be compiled for.
    pub fn target(mut self, target: Target) -> Result<Kernel, Error> {
        target.resolve()?;
        self.target = target;
        Ok(self)
    }

    /// Neither reads nor writes the disk cache.
    pub fn without_cache(mut self) -> Kernel {
        self.cache = CacheChoice::Given(Arc::new(Cache::disabled()));
        self
    }

    /// Uses this cache instead of the user's.
    pub fn with_cache(mut self, cache: Arc<Cache>) -> Kernel {
        self.cache = CacheChoice::Given(cache);
        self
    }

    /// Chooses where schedules come from; winners of `attnc tune` are used if this is never called.
    pub fn schedules(mut self, schedules: Schedules) -> Kernel {
        self.schedules = schedules;
        self
    }

    /// The checked kernel: parameters, dims, inputs, outputs. Errors: the file holds several, none is selected.
    pub fn spec(&self) -> Result<&CheckedKernel, Error> {
        let kernels = &self.front.checked.kernels;
        match (self.selected, kernels.as_slice()) {
            (Some(n), all) => Ok(&all[n]),
            (None, [only]) => Ok(only),
            (None, _) => {
                let message = format!("choose a kernel with `select`: {}", self.kernel_list());
                Err(Error::new(ErrorKind::Data, message))
            }
        }
    }

    /// All kernels of the file, in order; [`Kernel::select`] takes their names.
    pub fn specs(&self) -> &[CheckedKernel] {
        &self.front.checked.kernels
    }

    fn kernel_list(&self) -> String {
        let names: Vec<&str> = self.front.checked.kernels.iter().map(|k| k.name.as_str()).collect();
        match names.as_slice() {
            [] => format!("{} holds no kernel", self.front.map.file(self.front.source).name),
            names => format!("{} holds {}", self.front.map.file(self.front.source).name, names.join(", ")),
        }
    }

    /// The texts that were read; spans of diagnostics point into them.
    pub fn sources(&self) -> &SourceMap {
        &self.front.map
    }

    /// What is worth a look in the text.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.front.diagnostics.items().iter().filter(|d| d.severity == Severity::Warning)
    }

    /// Compiles, or finds in the cache, the kernel for these sizes; `float` is what the `float` inputs hold.
    ///
    /// Feature dims and head counts must be given (or fixed in the text); batch and sequence lengths may be, to
    /// know the workspace now: they compile nothing and may differ at every run.
    ///
    /// # Errors
    /// A wrong dim or parameter, a clause that the target cannot run, or a bug of ours.
    pub fn plan(&self, dims: &[(&str, i64)], float: DType) -> Result<Plan, Error> {
        let spec = self.spec()?;
        let (mut key, params) = self.key(spec, dims, float)?;
        let picked = self.pick_schedules(&key, dims)?;
        key.schedules = picked.overrides().clone();
        let (front, cache, target) = (&self.front, &self.cache, &self.target);
        plan::make(&plan::Request { front, spec, key, dims, params, cache, picked, target })
    }

    /// The schedules that a plan of this key at these lengths takes, and where they come from. Errors: a schedule file
    /// that is for another kernel or does not fit.
    pub fn pick_schedules(&self, key: &PlanKey, dims: &[(&str, i64)]) -> Result<Picked, Error> {
        self.asking(key, dims, schedules::pick)
    }

    /// Where a measurement of schedules at these lengths belongs; none where a length or an int parameter has no
    /// value. Errors: the kernel cannot be planned.
    pub fn tuning(&self, key: &PlanKey, dims: &[(&str, i64)]) -> Result<Option<Tuning>, Error> {
        self.asking(key, dims, Tuning::of)
    }

    fn asking<T>(
        &self,
        key: &PlanKey,
        dims: &[(&str, i64)],
        ask: impl FnOnce(&schedules::Ask<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (choice, map, params) = (&self.schedules, &self.front.map, &self.params);
        ask(&schedules::Ask { choice, map, spec: self.spec()?, key, dims, params, cache: self.cache() })
    }

    /// The cache that this kernel's plans use.
    pub fn cache(&self) -> &Cache {
        match &self.cache {
            CacheChoice::Given(cache) => cache,
            CacheChoice::User => &plan::user_cache().0,
        }
    }

    /// The key of a plan, and the values of run-time parameters.
    #[allow(clippy::type_complexity)]
    fn key(
        &self,
        spec: &CheckedKernel,
        dims: &[(&str, i64)],
        float: DType,
    ) -> Result<(PlanKey, Vec<(String, Value)>), Error> {
        let (statics, params) = self.split_params(spec)?;
        let key = PlanKey {
            kernel: spec.name.clone(),
            target: self.target.resolve()?,
            float,
            // Lengths are left out, so that no length can be compiled in; unknown names stay in, to be reported.
            dims: dims
                .iter()
                .filter(|(name, _)| spec.dims.iter().all(|d| d.name != *name || d.specialised))
                .map(|(name, size)| ((*name).to_string(), *size))
                .collect(),
            statics,
            present: self.present.clone(),
            shard: None,
            schedules: Default::default(),
        };
        Ok((key, params))
    }

    /// Plans a kernel with `distribute ring(...)` for a number of ranks: that of the text if it gives one.
    ///
    /// # Errors
    /// As [`Kernel::plan`]; also a kernel that is not distributed, no ranks, or another number than the text's.
    pub fn plan_ring(&self, dims: &[(&str, i64)], float: DType, ranks: usize) -> Result<RingPlan, Error> {
        let spec = self.spec()?;
        let Some(ring) = spec.ring else {
            let message =
                format!("kernel `{}` is not distributed; add `distribute ring(axis = S)`", spec.name);
            return Err(Error::new(ErrorKind::Spec, message));
        };
        if ranks == 0 || ring.ranks.is_some_and(|n| n != ranks as i64) {
            let message = format!(
                "{ranks} ranks: the text says {}",
                ring.ranks.map_or("at least 1".into(), |n| n.to_string())
            );
            return Err(Error::new(ErrorKind::Data, message));
        }
        let (mut key, params) = self.key(spec, dims, float)?;
        key.shard = Some(ring::step_of(ring.layout, ranks));
        let picked = self.pick_schedules(&key, &[])?;
        key.schedules = picked.overrides().clone();
        let cache = &self.cache;
        let shard = plan::make(&plan::Request {
            front: &self.front,
            spec,
            key: key.clone(),
            dims: &[],
            params,
            cache,
            picked,
            target: &self.target,
        })?;
        RingPlan::new(spec, &key, shard, ranks, ring.layout)
    }

    /// Static parameters, run-time parameters. Errors: a name that the kernel does not have.
    #[allow(clippy::type_complexity)]
    fn split_params(
        &self,
        spec: &CheckedKernel,
    ) -> Result<(BTreeMap<String, Value>, Vec<(String, Value)>), Error> {
        let mut statics = BTreeMap::new();
        let mut params = Vec::new();
        for (name, value) in &self.params {
            match spec.params.iter().find(|p| p.name == *name) {
                Some(p) if p.is_static => {
                    statics.insert(name.clone(), *value);
                }
                Some(_) => params.push((name.clone(), *value)),
                None => {
                    let known: Vec<&str> = spec.params.iter().map(|p| p.name.as_str()).collect();
                    let has = if known.is_empty() { "none".to_string() } else { known.join(", ") };
                    let message = format!("kernel `{}` has no parameter `{name}`; it has {has}", spec.name);
                    return Err(Error::new(ErrorKind::Data, message));
                }
            }
        }
        Ok((statics, params))
    }
}
