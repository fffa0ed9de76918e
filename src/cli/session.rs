//! From a file name to a checked kernel, with everything there is to say about the text said.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use attn_compiler::expr::eval::Value;
use attn_compiler::pipeline;
use attn_compiler::sema::CheckedKernel;
use attnc::{Kernel, Target};

use super::args::{KernelArgs, parse_value};
use super::ui::{Failure, Ui};

/// Reads and checks a file. Diagnostics are printed; errors among them are a failure.
pub fn open(ui: &Ui, path: &Path) -> Result<Kernel, Failure> {
    let name = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|err| Failure::wrong(format!("cannot read {name}: {err}")))?;
    let front = pipeline::front(&name, &text, &mut beside, &mut ());
    front.diagnostics.items().iter().for_each(|d| ui.diagnostic(&front.map, d));
    if front.diagnostics.has_errors() {
        if front.diagnostics.dropped > 0 {
            ui.note(&format!("{} more diagnostics were left out", front.diagnostics.dropped));
        }
        return Err(Failure::said(super::Status::Wrong));
    }
    Ok(Kernel::from_file(path)?)
}

/// The text of a file that `use` names, looked up beside the importing file.
fn beside(from: &str, target: &str) -> Result<String, String> {
    let path = Path::new(from).parent().unwrap_or(Path::new("")).join(target);
    std::fs::read_to_string(&path).map_err(|err| format!("cannot read {}: {err}", path.display()))
}

/// One kernel of a file, with its parameters and target.
pub struct Chosen {
    /// Selected; knows its parameters and target.
    pub kernel: Kernel,
    /// What it is compiled for.
    pub target: Target,
    /// Values that were given.
    pub params: BTreeMap<String, Value>,
    /// Ranks that were asked for.
    pub ranks: Option<NonZeroUsize>,
}

impl Chosen {
    /// Static parameters and run-time parameters.
    pub fn split_params(&self, spec: &CheckedKernel) -> (BTreeMap<String, Value>, BTreeMap<String, Value>) {
        let is_static = |name: &str| spec.params.iter().any(|p| p.name == name && p.is_static);
        self.params.iter().map(|(name, v)| (name.clone(), *v)).partition(|(name, _)| is_static(name))
    }

    /// With these values of parameters.
    pub fn with_params(&self, params: &[(String, Value)]) -> Chosen {
        let mut kernel = self.kernel.clone();
        let mut all = self.params.clone();
        for (name, value) in params {
            kernel = kernel.param(name, *value);
            all.insert(name.clone(), *value);
        }
        Chosen { kernel, target: self.target.clone(), params: all, ranks: self.ranks }
    }
}

/// The kernel that the arguments choose, with their parameters and target.
pub fn choose(ui: &Ui, args: &KernelArgs) -> Result<Chosen, Failure> {
    target(args)?;
    select(open(ui, &args.file)?, args)
}

/// As [`choose`], from a file that has been read.
pub fn select(mut kernel: Kernel, args: &KernelArgs) -> Result<Chosen, Failure> {
    let target = target(args)?;
    if let Some(name) = &args.kernel {
        kernel = kernel.select(name).map_err(|err| Failure::usage(err.to_string()))?;
    }
    if kernel.spec().is_err() {
        let names: Vec<&str> = kernel.specs().iter().map(|k| k.name.as_str()).collect();
        return Err(Failure::usage(format!("{} holds {} kernels", args.file.display(), names.len()))
            .help(format!("choose with --kernel: {}", names.join(", "))));
    }
    if let Some(schedules) = args.schedules.schedules()? {
        kernel = kernel.schedules(schedules);
    }
    let (kernel, params) = (kernel.target(target.clone())?, BTreeMap::new());
    let chosen = Chosen { kernel, target, params, ranks: args.ranks };
    let params = given_params(chosen.kernel.spec()?, args)?;
    Ok(chosen.with_params(&params))
}

/// `--target`
pub fn target(args: &KernelArgs) -> Result<Target, Failure> {
    Target::named(&args.target).map_err(|err| Failure::usage(err.to_string()))
}

/// `--param`, in the declared types.
pub fn given_params(spec: &CheckedKernel, args: &KernelArgs) -> Result<Vec<(String, Value)>, Failure> {
    let mut params = Vec::new();
    for (name, text) in &args.param {
        let Some(declared) = spec.params.iter().find(|p| p.name == *name) else {
            let known: Vec<&str> = spec.params.iter().map(|p| p.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
            let message =
                format!("--param {name}: kernel `{}` has no such parameter; it has {known}", spec.name);
            return Err(Failure::usage(message));
        };
        params.push((name.clone(), parse_value(name, text, declared.ty)?));
    }
    Ok(params)
}
