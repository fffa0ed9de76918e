//! Winners of `attnc tune`, kept beside the compiled kernels.
//!
//! Comes in: what identifies a measurement (kernel, CPU, meaning, lengths). Goes out: the schedules that won there. What holds:
//! a file is used only if it says of itself that it is for this CPU, this meaning, these lengths and this compiler;
//! anything else is a note with its path, never an error. Not here: whether a schedule still fits.
//!
//! Identity. The *CPU*: model, instruction set, cache sizes. The *meaning*: the attention IR as text (so every
//! compile-time constant), dtypes, optional inputs, the promises of the text (a candidate that breaks one is no winner).
//! The *lengths*: every run-time dim and int parameter, each rounded up to a power of two, so that a winner serves its
//! neighbourhood; flags as they are; float parameters not at all. A plan that is not told every length has no winner.

use std::collections::BTreeMap;
use std::path::PathBuf;

use attn_compiler::attn_ir;
use attn_compiler::expr::Ty;
use attn_compiler::expr::eval::Value;
use attn_compiler::pipeline::COMPILER_VERSION;
use attn_compiler::sema::{CheckedKernel, PlanKey};
use attn_runtime::cache::{Cache, Key};

use super::file::{Measured, ScheduleFile};

/// What a measurement holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub kernel: String,
    pub cpu: String,
    pub meaning: String,
    pub at: String,
}

impl Identity {
    /// None where a length or an int parameter has no value.
    pub fn new(
        spec: &CheckedKernel,
        ir: &attn_ir::Kernel,
        key: &PlanKey,
        dims: &[(&str, i64)],
        params: &BTreeMap<String, Value>,
        cpu: String,
    ) -> Option<Identity> {
        let promises: Vec<_> = spec.ensures.iter().map(|e| (&e.promise, &e.at)).collect();
        let sizes: Vec<_> = ir.dims.iter().map(|d| (&d.name, ir.pool.as_int(d.size))).collect();
        let fixed = format!("{:?} {:?} {:?} {sizes:?} {promises:?}", key.float, key.present, key.shard);
        let ir = attn_ir::text::print_kernel(ir);
        let meaning = Key::of("meaning", &[ir.as_bytes(), fixed.as_bytes()]).to_string()[..32].to_string();
        Some(Identity { kernel: spec.name.clone(), cpu, meaning, at: neighbourhood(spec, dims, params)? })
    }

    /// Name of its file.
    pub fn name(&self) -> String {
        let parts = [&self.cpu, &self.meaning, &self.at].map(|part| part.as_bytes());
        let key = Key::of("tuned", &parts).to_string();
        let kernel: String =
            self.kernel.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(48).collect();
        format!("{kernel}-{}", &key[..24])
    }

    /// What a file must say of itself.
    pub fn measured(&self) -> Measured {
        Measured {
            compiler: COMPILER_VERSION.to_string(),
            cpu: self.cpu.clone(),
            meaning: self.meaning.clone(),
            at: self.at.clone(),
            ..Measured::default()
        }
    }

    /// The winner, if there is one; or a file that is in its place, and why it is not used.
    pub fn find(&self, cache: &Cache) -> Option<(PathBuf, Result<ScheduleFile, String>)> {
        let (path, text) = cache.tuned(&self.name())?;
        Some((path, text.and_then(|text| self.read(&text))))
    }

    fn read(&self, text: &str) -> Result<ScheduleFile, String> {
        let file = ScheduleFile::parse(text).map_err(|f| format!("line {}: {}", f.line, f.text))?;
        let Some(found) = &file.measured else {
            return Err("it does not say what it was measured on ([measured])".to_string());
        };
        let wanted = self.measured();
        let facts = [
            ("kernel", &file.kernel, &self.kernel),
            ("cpu", &found.cpu, &wanted.cpu),
            ("meaning", &found.meaning, &wanted.meaning),
            ("at", &found.at, &wanted.at),
            ("compiler", &found.compiler, &wanted.compiler),
        ];
        let wrong = facts.into_iter().find(|(_, found, wanted)| found != wanted);
        let wrong =
            wrong.map(|(what, found, wanted)| format!("its {what} is `{found}`, expected `{wanted}`"));
        wrong.map_or(Ok(file), Err)
    }
}

/// `B=1 S=2048 window=512`: lengths and int parameters, rounded up to powers of two.
fn neighbourhood(
    spec: &CheckedKernel,
    dims: &[(&str, i64)],
    params: &BTreeMap<String, Value>,
) -> Option<String> {
    let mut out = Vec::new();
    for dim in spec.dims.iter().filter(|d| !d.specialised && !d.derived() && d.fixed().is_none()) {
        let size = dims.iter().find(|(name, _)| *name == dim.name)?.1;
        out.push(format!("{}={}", dim.name, rounded(size)));
    }
    for p in spec.params.iter().filter(|p| !p.is_static && p.ty != Ty::Float) {
        let value = match params.get(&p.name).copied().or(p.default)? {
            Value::Bool(x) => x.to_string(),
            Value::Int(n) => rounded(n).to_string(),
            // Of a wrong type: the plan will say so.
            Value::Float(_) => return None,
        };
        out.push(format!("{}={value}", p.name));
    }
    Some(out.join(" "))
}

/// The next power of two; 0 for 0 and less.
fn rounded(n: i64) -> i64 {
    match n {
        ..=0 => 0,
        n => (n as u64).next_power_of_two().min(1 << 62) as i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_rounded_up() {
        let cases =
            [(i64::MIN, 0), (0, 0), (1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048), (i64::MAX, 1 << 62)];
        for (n, wanted) in cases {
            assert_eq!(rounded(n), wanted, "{n}");
        }
    }
}
