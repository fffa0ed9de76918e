//! A plan: machine code for one specification, its feature dims, dtypes and target, ready to run.
//!
//! Comes in: a checked kernel and a plan key. Goes out: a [`Plan`] that any number of threads may run at once.
//! The way: index key -> disk cache; else everything up to the scheduled tile IR, whose text is the kernel key
//! -> disk cache; else machine code, published under both. One process at a time compiles for an index key.
//! What holds: a run compiles nothing, and with the lengths and parameters of an earlier one allocates nothing.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use attn_compiler::artifact::{Artifact, TensorRole};
use attn_compiler::diagnostic::SourceMap;
use attn_compiler::expr::eval::Value;
use attn_compiler::pipeline::{self, COMPILER_VERSION, Front, Observer, Stage};
use attn_compiler::sema::{CheckedKernel, PlanKey};
use attn_runtime::cache::{Cache, CacheWarning, Key};
use attn_runtime::package::Package;
use attn_runtime::{LoadedKernel, RunOptions};

use crate::bind::{Input, Output};
use crate::error::Error;
use crate::schedules::{Picked, ScheduleOrigin};
use crate::target::Target;

/// Where the code of a plan came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The disk cache, by sources and plan: nothing was compiled.
    IndexHit,
    /// The disk cache, by the scheduled tile IR: the front half was compiled.
    KernelHit,
    /// A package.
    Package,
    /// Compiled now.
    Compiled,
}

/// What making a plan took.
#[derive(Clone, Debug)]
pub struct CompileStats {
    /// Where the code came from.
    pub origin: Origin,
    /// Wall time of all of it, loading included.
    pub total: Duration,
    /// The stages that ran, in order.
    pub stages: Vec<(Stage, Duration)>,
    /// Bytes of machine code, or of PTX text.
    pub code_bytes: usize,
}

/// A kernel ready to run. Clones share everything.
#[derive(Clone, Debug)]
pub struct Plan {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    kernel: LoadedKernel,
    workspace: Option<usize>,
    stats: CompileStats,
    warnings: Vec<String>,
    schedule_origin: ScheduleOrigin,
}

impl Plan {
    /// The schedule in words.
    pub fn schedule(&self) -> &str {
        &self.inner.kernel.artifact().schedule
    }

    /// Where the schedule came from.
    pub fn schedule_origin(&self) -> &ScheduleOrigin {
        &self.inner.schedule_origin
    }

    /// Bytes of workspace and tables at the lengths given to `plan`; `None` if some length was not given.
    pub fn workspace_bytes(&self) -> Option<usize> {
        self.inner.workspace
    }

    /// Bytes of workspace and tables at these lengths. Errors: a length is missing or out of range.
    pub fn workspace_bytes_at(&self, dims: &[(&str, i64)]) -> Result<usize, Error> {
        Ok(self.inner.kernel.workspace_bytes(dims, &[])?)
    }

    /// What making it took.
    pub fn stats(&self) -> &CompileStats {
        &self.inner.stats
    }

    /// What the cache had to say, if anything.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// Names, types and sizes of everything that is bound, and the code.
    pub fn artifact(&self) -> &Artifact {
        self.inner.kernel.artifact()
    }

    /// The plan as the bytes of a file, its parameters' values included; [`Package`] reads them. Errors: none that a plan
    /// leads to.
    pub fn to_package(&self) -> Result<Vec<u8>, Error> {
        Ok(Package::write(self.artifact())?)
    }

    /// Loads a package for a target, without a specification and without compiling anything.
    ///
    /// A package holds code, of which nothing is checked: to call this is to say that it may be run here. Errors: the
    /// code is not for this target, or the target is not there.
    pub fn trust_package(package: Package, target: &Target) -> Result<Plan, Error> {
        let start = Instant::now();
        let kernel = LoadedKernel::load_on(package.trust(), &[], &target.device()?)?;
        let stats = CompileStats {
            origin: Origin::Package,
            total: start.elapsed(),
            stages: vec![],
            code_bytes: kernel.artifact().code.len(),
        };
        let schedule_origin = ScheduleOrigin::Program;
        Ok(Plan {
            inner: Arc::new(Inner { kernel, workspace: None, stats, warnings: vec![], schedule_origin }),
        })
    }

    /// What a device's own compiler had to say about the code, if it said anything: registers, spills, warnings.
    pub fn device_log(&self) -> Option<&str> {
        self.inner.kernel.device_log()
    }

    /// Names of what is bound among the outputs, in order of declaration: what a run updates in place, and outputs.
    pub fn output_names(&self) -> impl Iterator<Item = &str> {
        self.artifact()
            .tensors
            .iter()
            .filter(|t| matches!(t.role, TensorRole::Output | TensorRole::Updated))
            .map(|t| t.name.as_str())
    }

    /// Runs with the parameters of the plan. Errors: something bound is wrong; nothing was written then.
    pub fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> Result<(), Error> {
        self.run_with(inputs, outputs, &[], &RunOptions::default())
    }

    /// Runs with other values for some parameters, and on chosen threads. Errors: as [`Plan::run`].
    pub fn run_with(
        &self,
        inputs: &[Input<'_>],
        outputs: &mut [Output<'_>],
        params: &[(&str, Value)],
        options: &RunOptions<'_>,
    ) -> Result<(), Error> {
        Ok(self.inner.kernel.run(inputs, outputs, params, options)?)
    }
}

/// Which cache a kernel's plans use.
#[derive(Clone, Debug)]
pub(crate) enum CacheChoice {
    /// The user's.
    User,
    /// This one.
    Given(Arc<Cache>),
}

/// What a plan is made of.
pub(crate) struct Request<'a> {
    pub front: &'a Front,
    pub spec: &'a CheckedKernel,
    pub key: PlanKey,
    pub dims: &'a [(&'a str, i64)],
    pub params: Vec<(String, Value)>,
    pub cache: &'a CacheChoice,
    pub picked: Picked,
    pub target: &'a Target,
}

/// Compiles or finds the code, loads it, and asks for its workspace.
pub(crate) fn make(request: &Request<'_>) -> Result<Plan, Error> {
    let start = Instant::now();
    let mut made = Making { warnings: Vec::new(), stages: Stages(Vec::new()), origin: Origin::Compiled };
    let cache = match request.cache {
        CacheChoice::Given(cache) => cache,
        CacheChoice::User => {
            let (cache, warning) = user_cache();
            made.warn(warning.clone());
            cache
        }
    };
    let mut picked = request.picked.clone();
    let artifact = match made.through(cache, request, &request.key) {
        Ok(artifact) => artifact,
        // Whatever is kept of a measurement stops no plan.
        Err(err) => {
            let why = err.to_string();
            picked = picked.drop_stored(&why).ok_or(err)?;
            let key = PlanKey { schedules: picked.overrides().clone(), ..request.key.clone() };
            made.through(cache, request, &key)?
        }
    };
    made.warnings.extend(picked.notes().iter().cloned());
    let code_bytes = artifact.code.len();
    let params: Vec<(&str, Value)> = request.params.iter().map(|(name, v)| (name.as_str(), *v)).collect();
    let kernel = LoadedKernel::load_on(artifact, &params, &request.target.device()?)?;
    let workspace = workspace(&kernel, request.dims)?;
    let stats =
        CompileStats { origin: made.origin, total: start.elapsed(), stages: made.stages.0, code_bytes };
    let (warnings, schedule_origin) = (made.warnings, picked.origin());
    Ok(Plan { inner: Arc::new(Inner { kernel, workspace, stats, warnings, schedule_origin }) })
}

/// The user's cache, opened once.
pub(crate) fn user_cache() -> &'static (Cache, Option<CacheWarning>) {
    static CACHE: OnceLock<(Cache, Option<CacheWarning>)> = OnceLock::new();
    CACHE.get_or_init(Cache::open)
}

/// Workspace bytes, if every run-time length is among `dims` and every parameter has a value.
fn workspace(kernel: &LoadedKernel, dims: &[(&str, i64)]) -> Result<Option<usize>, Error> {
    let known =
        kernel.artifact().scalars.iter().all(|s| {
            if s.is_dim { dims.iter().any(|(name, _)| *name == s.name) } else { s.default.is_some() }
        });
    if known { Ok(Some(kernel.workspace_bytes(dims, &[])?)) } else { Ok(None) }
}

/// The stages that ran.
struct Stages(Vec<(Stage, Duration)>);

impl Observer for Stages {
    fn stage(&mut self, stage: Stage, took: Duration, _: &dyn Fn() -> String) {
        self.0.push((stage, took));
    }
}

/// A plan being made.
struct Making {
    warnings: Vec<String>,
    stages: Stages,
    origin: Origin,
}

impl Making {
    fn warn(&mut self, warning: Option<CacheWarning>) {
        self.warnings.extend(warning.map(|w| w.to_string()));
    }

    /// From the cache if it is there, else compiled and published.
    fn through(&mut self, cache: &Cache, request: &Request<'_>, key: &PlanKey) -> Result<Artifact, Error> {
        let index = index_key(&request.front.map, key);
        if let Some(hit) = self.look(|| cache.lookup(&index)) {
            self.origin = Origin::IndexHit;
            return Ok(hit);
        }
        let _compiling = cache.lock(&index);
        if let Some(hit) = self.look(|| cache.lookup(&index)) {
            self.origin = Origin::IndexHit;
            return Ok(hit);
        }
        crate::emit::prepare(&key.target);
        let failed = |err| Error::of_compile(&request.front.map, err);
        let plan = pipeline::plan(request.spec, key, &mut self.stages).map_err(failed)?;
        let kernel = Key::of("kernel", &[plan.key_text().as_bytes(), backend(&key.target).as_bytes()]);
        let artifact = match self.look(|| cache.lookup_kernel(&kernel)) {
            Some(hit) => {
                self.origin = Origin::KernelHit;
                hit
            }
            None => crate::emit::emit(&request.front.map, &plan, &mut self.stages)?,
        };
        let warning = cache.publish(&index, &kernel, &artifact);
        self.warn(warning);
        Ok(artifact)
    }

    fn look(&mut self, lookup: impl FnOnce() -> attn_runtime::cache::Lookup) -> Option<Artifact> {
        let found = lookup();
        self.warn(found.warning);
        found.artifact
    }
}

/// The version of the backend where it is not the compiler's.
fn backend(target: &attn_compiler::target::Target) -> &'static str {
    match target {
        attn_compiler::target::Target::Cpu(_) => "",
        attn_compiler::target::Target::Gpu(_) => attn_compiler_gpu::VERSION,
    }
}

/// Hash of everything that the compiler is given: texts (the standard library's too), plan (and the schedules decided
/// in it), target, compiler.
fn index_key(map: &SourceMap, key: &PlanKey) -> Key {
    let backend = backend(&key.target);
    let key = format!("{key:?}");
    let mut parts: Vec<&[u8]> = vec![COMPILER_VERSION.as_bytes(), backend.as_bytes(), key.as_bytes()];
    parts.extend(map.files().iter().map(|f| f.text.as_bytes()));
    Key::of("index", &parts)
}
