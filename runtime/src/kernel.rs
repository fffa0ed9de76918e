//! A loaded kernel: its code in executable memory or on a device, run on checked arguments.
//!
//! Comes in: an [`Artifact`]. Goes out: [`LoadedKernel`], which any number of threads may run at once. What
//! holds: a run either returns an error before anything was launched, or has run every task of every launch; on a device
//! a launch may fail too, and then no output was written.
//! Runs on the CPU with the lengths and parameters of an earlier one allocate nothing: contexts are kept and used again.
//!
//! Trust: an artifact holds machine code. Everything else in it is looked through at load, the code cannot be.
//! Load only what this compiler made, or what you would also run as a program of yours.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use attn_compiler::artifact::Artifact;

use crate::bind::{self, Call, Facts, NamedInput, NamedOutput, NamedParam, RunContext};
use crate::cpu::exec_mem::{EntryFn, ExecCode};
use crate::cpu::intrinsics::{IntrinsicTable, table};
use crate::cpu::pool::{Awake, Pool};
use crate::cpu::threads::{MAX_THREADS, Parallel, default_threads};
use crate::cpu::{facts, launch};
use crate::device::{Device, LaunchReport, Program};
use crate::error::{DataFault, RuntimeError};
use crate::signature::Signature;

/// Products of a run for which sleeping threads are woken: with fewer it is over before they are awake (some 40 us).
const WORTH_WAKING: usize = 1 << 19;

/// How a run is executed. The default: `ATTN_NUM_THREADS` or all threads that the host grants, on a private pool.
#[derive(Clone, Copy, Default)]
pub struct RunOptions<'a> {
    /// Threads; more than there are tasks are not used.
    pub threads: Option<NonZeroUsize>,
    /// The host's own pool.
    pub parallel: Option<&'a dyn Parallel>,
    /// What the simulator decides by: order of warps and blocks, when copies end. Any number is as good as any other.
    pub sim_seed: u64,
    /// Told what each launch did, by devices that count.
    pub on_launch: Option<&'a (dyn Fn(&LaunchReport) + Sync)>,
}

impl std::fmt::Debug for RunOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pool = if self.parallel.is_some() { "the host's pool" } else { "the private pool" };
        write!(f, "RunOptions({:?} threads of {pool})", self.threads)
    }
}

impl RunOptions<'_> {
    /// This many threads of the private pool. Errors: 0, or more than [`MAX_THREADS`].
    pub fn threads(n: usize) -> Result<RunOptions<'static>, RuntimeError> {
        match NonZeroUsize::new(n).filter(|_| n <= MAX_THREADS) {
            Some(n) => Ok(RunOptions { threads: Some(n), ..RunOptions::default() }),
            None => Err(RuntimeError::data(
                DataFault::Value,
                format!("{n} threads were asked for, expected 1 to {MAX_THREADS}"),
            )),
        }
    }
}

/// A kernel ready to run; clones share everything.
#[derive(Clone)]
pub struct LoadedKernel {
    inner: Arc<Inner>,
}

struct Inner {
    sig: Signature,
    code: Code,
    /// Contexts that no run is using.
    idle: Mutex<Vec<RunContext>>,
}

/// What is run.
enum Code {
    /// Machine code in this process.
    Host(HostCode),
    /// Code on a device, or on none.
    Device(Program),
}

struct HostCode {
    intrinsics: &'static IntrinsicTable,
    /// Entry of each launch; the pages live as long as `_code`.
    entries: Vec<EntryFn>,
    _code: ExecCode,
}

impl std::fmt::Debug for LoadedKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LoadedKernel({} for {})", self.inner.sig.artifact.name, self.inner.sig.artifact.target)
    }
}

impl LoadedKernel {
    /// Looks the artifact through and maps its code. See "Trust" at the head of this file.
    ///
    /// Errors: `Unsupported` if it was made for another machine or the host forbids executable memory; `Internal`
    /// if the artifact is not well formed.
    pub fn load(artifact: Artifact) -> Result<LoadedKernel, RuntimeError> {
        LoadedKernel::load_with(artifact, &[])
    }

    /// As [`LoadedKernel::load`], with these values in the place of the parameters' defaults. Errors: also a
    /// parameter that is unknown, of another type, or out of range.
    pub fn load_with(artifact: Artifact, params: &[NamedParam<'_>]) -> Result<LoadedKernel, RuntimeError> {
        facts::check_target(&artifact.target, facts::host_facts()?.arch)?;
        let intrinsics = table(facts::host_isa()?);
        let code = ExecCode::new(&artifact.code)?;
        let mut sig = Signature::new(artifact)?;
        bind::set_defaults(&mut sig, params)?;
        let entries =
            sig.artifact.launches.iter().map(|l| code.entry(l.entry).filter(|_| l.device.is_none()));
        let entries = entries.collect::<Option<Vec<EntryFn>>>();
        let entries =
            entries.ok_or_else(|| RuntimeError::internal("load", "a launch enters past the code"))?;
        Ok(LoadedKernel::of(sig, Code::Host(HostCode { intrinsics, entries, _code: code })))
    }

    /// As [`LoadedKernel::load_with`], on a device. Errors: also code that the device does not take.
    pub fn load_on(
        artifact: Artifact,
        params: &[NamedParam<'_>],
        device: &Device,
    ) -> Result<LoadedKernel, RuntimeError> {
        if let Device::Host = device {
            return LoadedKernel::load_with(artifact, params);
        }
        let mut sig = Signature::new(artifact)?;
        bind::set_defaults(&mut sig, params)?;
        let program = Program::load(&sig, device)?;
        Ok(LoadedKernel::of(sig, Code::Device(program)))
    }

    fn of(sig: Signature, code: Code) -> LoadedKernel {
        LoadedKernel { inner: Arc::new(Inner { sig, code, idle: Mutex::new(Vec::new()) }) }
    }

    pub(crate) fn signature(&self) -> &Signature {
        &self.inner.sig
    }

    /// The code, if it is on a device.
    pub(crate) fn program(&self) -> Option<&Program> {
        match &self.inner.code {
            Code::Host(_) => None,
            Code::Device(program) => Some(program),
        }
    }

    /// What it was loaded from.
    pub fn artifact(&self) -> &Artifact {
        &self.inner.sig.artifact
    }

    /// What a device's own compiler had to say about the code, if it said anything: registers, spills, warnings.
    pub fn device_log(&self) -> Option<&str> {
        self.program().and_then(Program::log)
    }

    /// Bytes of workspace and tables for these dims, and no parameters but the defaults.
    ///
    /// Errors: a dim or parameter that is unknown, missing or out of range.
    pub fn workspace_bytes(
        &self,
        dims: &[(&str, i64)],
        params: &[NamedParam<'_>],
    ) -> Result<usize, RuntimeError> {
        bind::workspace_bytes(&self.inner.sig, dims, params)
    }

    /// Binds and runs. Errors leave the outputs as they were.
    pub fn run(
        &self,
        inputs: &[NamedInput<'_, '_>],
        outputs: &mut [NamedOutput<'_, '_>],
        params: &[NamedParam<'_>],
        options: &RunOptions<'_>,
    ) -> Result<(), RuntimeError> {
        self.run_call(Call { inputs, outputs, params, facts: Facts::Verify }, options)
    }

    /// As [`LoadedKernel::run`], without verifying `sorted` and `monotone`.
    ///
    /// # Safety
    /// Every input declared `sorted` or `monotone` is so; otherwise the kernel may skip work or read out of range.
    pub unsafe fn run_trusting_facts(
        &self,
        inputs: &[NamedInput<'_, '_>],
        outputs: &mut [NamedOutput<'_, '_>],
        params: &[NamedParam<'_>],
        options: &RunOptions<'_>,
    ) -> Result<(), RuntimeError> {
        self.run_call(Call { inputs, outputs, params, facts: Facts::Trust }, options)
    }

    fn run_call(&self, mut call: Call<'_, '_, '_>, options: &RunOptions<'_>) -> Result<(), RuntimeError> {
        let inner = &*self.inner;
        let kept = inner.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut ctx = kept.unwrap_or_else(|| RunContext::new(&inner.sig));
        let result = bind::bind(&inner.sig, &mut ctx, &mut call).and_then(|()| match &inner.code {
            Code::Host(code) => inner.execute(code, &mut ctx, options),
            Code::Device(program) => program.run(&inner.sig, &mut ctx, &mut call, options),
        });
        inner.idle.lock().unwrap_or_else(PoisonError::into_inner).push(ctx);
        result
    }
}

impl Inner {
    /// Runs all launches on a context that has just been bound.
    fn execute(
        &self,
        code: &HostCode,
        ctx: &mut RunContext,
        options: &RunOptions<'_>,
    ) -> Result<(), RuntimeError> {
        let asked = match options.threads {
            Some(n) => n.get().min(MAX_THREADS),
            None => default_threads()?.get(),
        };
        let n_threads = asked.min(ctx.n_tasks.iter().copied().max().unwrap_or(0)).max(1);
        ctx.ensure_scratch(&self.sig, n_threads)?;
        ctx.args[0] = std::ptr::from_ref(code.intrinsics) as u64;
        let (pool, awake);
        let parallel: &dyn Parallel = match options.parallel {
            Some(host) => host,
            None if n_threads == 1 => &crate::cpu::threads::Serial,
            None => {
                pool = Pool::of_at_least(n_threads)?;
                awake = Awake(pool);
                if ctx.work < WORTH_WAKING { &awake } else { pool }
            }
        };
        for (n, &entry) in code.entries.iter().enumerate() {
            let scratch = &ctx.scratch[..n_threads];
            // SAFETY: the artifact promises that its code is right for an argument block of its layout; `bind` has
            // filled the block with addresses, sizes and strides of live memory that covers every index (borrowed by
            // the call, or owned by the context), written memory overlaps nothing, scratch is as large as any
            // launch says, and `n_tasks` is the product of the launch's grid.
            unsafe { launch::launch(entry, ctx.n_tasks[n], &ctx.args, scratch, parallel) };
        }
        Ok(())
    }
}
