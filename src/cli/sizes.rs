//! Every dim with a size, and the attention at these sizes, where no tensors are bound.
//!
//! Comes in: a chosen kernel, the sizes of `--at`. Goes out: a plan key and all dims; what is not given is made up
//! by rule 13 of the language and listed. What holds: sizes lie in the bounds that the text declares.

use std::collections::{BTreeMap, BTreeSet};

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::Kernel;
use attn_compiler::pipeline::CompileError;
use attn_compiler::sema::{self, PlanKey};
use attnc::schedules::Picked;

use super::problem::{guessed, make_up_dims, specialised, with_unknown};
use super::session::Chosen;
use super::ui::{Failure, Ui};

/// See the head of this file.
pub struct Settled {
    /// What the kernel computes.
    pub ir: Kernel,
    /// How to plan it.
    pub key: PlanKey,
    /// Every dim that has no fixed size.
    pub dims: BTreeMap<String, i64>,
    /// Run-time lengths that were made up, `S = 256`.
    pub defaulted: Vec<String>,
    /// Schedules that are decided already; they stand in the key.
    pub picked: Picked,
}

/// Why there are no sizes.
pub enum Unsettled {
    /// The text, the plan, or a clause that cannot be run.
    Compile(CompileError),
    /// The target, or the choice of a kernel.
    Facade(attnc::Error),
}

impl From<sema::CompileError> for Unsettled {
    fn from(err: sema::CompileError) -> Unsettled {
        Unsettled::Compile(err.into())
    }
}

impl Unsettled {
    /// Says it.
    pub fn failure(self, ui: &Ui, chosen: &Chosen) -> Failure {
        match self {
            Unsettled::Compile(err) => refused(ui, chosen, err),
            Unsettled::Facade(err) => err.into(),
        }
    }
}

/// Prints an error of the compiler, with carets where it has a place.
pub fn refused(ui: &Ui, chosen: &Chosen, err: CompileError) -> Failure {
    let diagnostic = match &err {
        CompileError::Spec(d) => Some((**d).clone()),
        CompileError::Unsupported(u) => u.diagnostic(),
        CompileError::Internal(_) => None,
    };
    match (diagnostic, &err) {
        (Some(d), _) => {
            ui.diagnostic(chosen.kernel.sources(), &d);
            Failure::said(super::Status::Wrong)
        }
        (None, CompileError::Internal(_)) => Failure::bug(err.to_string()),
        (None, _) => Failure::wrong(err.to_string()),
    }
}

/// Settles the sizes. `present` names the optional inputs that count as bound.
pub fn settle(
    chosen: &Chosen,
    at: &BTreeMap<String, i64>,
    float: DType,
    present: BTreeSet<String>,
) -> Result<Settled, Unsettled> {
    let spec = chosen.kernel.spec().map_err(Unsettled::Facade)?;
    let (statics, _) = chosen.split_params(spec);
    let target = chosen.target.resolve().map_err(Unsettled::Facade)?;
    let dims = BTreeMap::new();
    let mut key = PlanKey {
        kernel: spec.name.clone(),
        target,
        float,
        dims,
        statics,
        present,
        shard: None,
        schedules: Default::default(),
    };
    let mut dims = at.clone();
    let ir = sema::instantiate(spec, &guessed(spec, &key, &dims))
        .or_else(|_| sema::instantiate(spec, &with_unknown(spec, &key, &dims, 1)))?;
    let defaulted = make_up_dims(spec, &ir, &mut dims);
    key.dims = specialised(spec, &dims);
    let ir = sema::instantiate(spec, &key)?;
    let lengths: Vec<(&str, i64)> = dims.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let picked = chosen.kernel.pick_schedules(&key, &lengths).map_err(Unsettled::Facade)?;
    key.schedules = picked.overrides().clone();
    Ok(Settled { ir, key, dims, defaulted, picked })
}

/// Sizes within the bounds of the text. Errors: one lies outside.
pub fn check_bounds(settled: &Settled) -> Result<(), Failure> {
    for dim in &settled.ir.dims {
        let (Some(&size), Some((lo, hi))) = (settled.dims.get(&dim.name), dim.bounds) else { continue };
        if !(lo..=hi).contains(&size) {
            let name = &dim.name;
            return Err(Failure::usage(format!(
                "--at {name}={size}: the text bounds it, {name} = {lo}..{hi}"
            )));
        }
    }
    Ok(())
}
