//! Bytes that a kernel must move at least: each input read once, each output written once, packed panels and other
//! workspace written once and read once.
//!
//! Comes in: a study. Goes out: bytes by tensor. Not here: what caches make of it.

use attn_compiler::expr::VarId;
use attn_compiler::expr::eval::{Env, Value, eval};
use attn_compiler::tile_ir::TensorKind;

use super::study::Study;
use super::ui::Failure;

/// What a tensor is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Read.
    Input,
    /// Written.
    Output,
    /// Written and read.
    Workspace,
}

impl Use {
    /// In tables.
    pub fn name(self) -> &'static str {
        match self {
            Use::Input => "read",
            Use::Output => "written",
            Use::Workspace => "packed",
        }
    }
}

/// Bytes of one tensor.
#[derive(Clone, Debug)]
pub struct Moved {
    /// Name.
    pub name: String,
    /// What for.
    pub used: Use,
    /// Bytes moved.
    pub bytes: f64,
}

/// Sizes of a program, whose variables have the names of the kernel's.
pub struct Named<'a> {
    study: &'a Study,
    outer: super::data::Scalars,
}

impl Named<'_> {
    /// Those of the study.
    pub fn new(study: &Study) -> Result<Named<'_>, Failure> {
        Ok(Named { study, outer: study.scalars()? })
    }
}

impl Env for Named<'_> {
    fn var(&self, var: VarId) -> Value {
        let name = &self.study.plan.program.pool.var_info(var).name;
        match self.study.plan.kernel.pool.find_var(name) {
            Some(var) => self.outer.var(var),
            None => Value::Int(0),
        }
    }

    fn load(&self, _: attn_compiler::expr::TensorId, _: &[i64]) -> Value {
        Value::Int(0)
    }
}

/// Bytes of every tensor, in order: inputs, outputs, workspace.
pub fn of(study: &Study) -> Result<Vec<Moved>, Failure> {
    let k = &study.plan.kernel;
    let env = Named::new(study)?;
    let elements = |shape: &[usize]| shape.iter().map(|&n| n as f64).product::<f64>();
    let mut out = Vec::new();
    for (used, tensors) in
        [(Use::Input, k.inputs().collect::<Vec<_>>()), (Use::Output, k.outputs().collect())]
    {
        for (_, t) in tensors {
            let bytes = elements(&env.outer.shape(&k.pool, &t.shape)) * t.dtype.size() as f64;
            out.push(Moved { name: t.name.clone(), used, bytes });
        }
    }
    let program = &study.plan.program;
    for t in program.tensors.iter().filter(|t| t.kind == TensorKind::Workspace) {
        let n: f64 = t.shape.iter().map(|&id| eval(&program.pool, id, &env).int().max(0) as f64).product();
        let bytes = 2.0 * n * t.dtype.size() as f64;
        out.push(Moved { name: t.name.clone(), used: Use::Workspace, bytes });
    }
    Ok(out)
}
