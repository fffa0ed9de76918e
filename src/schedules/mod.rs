//! Where the schedules of a plan come from: a file, a winner of `attnc tune`, the text, or the compiler.
//!
//! Comes in: a [`Schedules`], the choice of whoever plans, and the plan's key and lengths. Goes out: [`Picked`]: what is decided, as data for
//! the compiler, and where it came from. What holds: results mean the same whatever is picked (tiles change the last
//! bits); a file that does not fit is an error with its line; a stored winner that cannot be used is a note,
//! and the plan goes on without it. Deliberately not done: measuring (`attnc tune`).

mod file;
mod stored;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use attn_compiler::attn_ir;
use attn_compiler::diagnostic::SourceMap;
use attn_compiler::expr::eval::Value;
use attn_compiler::schedule::overrides::{Override, Overrides};
use attn_compiler::schedule::{Schedule, choose, choose_with};
use attn_compiler::sema::{self, CheckedKernel, PlanKey};
use attn_compiler::target::{CpuFacts, Target};
use attn_runtime::cache::Cache;
use attn_runtime::cpu::model::host_model;

use crate::error::{Error, ErrorKind};
use file::{Fault, ScheduleFile};
use stored::Identity;

/// Environment variable: `auto` leaves winners of `attnc tune` alone, `tuned` takes them.
const VARIABLE: &str = "ATTN_SCHEDULE";

/// Longest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Which schedules plans take. By default [`Schedules::tuned`], or what the environment variable `ATTN_SCHEDULE` says:
/// `auto` or `tuned`.
#[derive(Clone, Debug, Default)]
pub struct Schedules(Choice);

#[derive(Clone, Debug, Default)]
enum Choice {
    #[default]
    Stored,
    Tuned,
    Automatic,
    Given(Arc<Given>),
    Data(Overrides),
}

/// A file with its name.
#[derive(Debug)]
struct Given {
    name: String,
    file: ScheduleFile,
}

impl Schedules {
    /// Winners of `attnc tune` on this CPU where there are any, else as [`Schedules::automatic`]. So it is where nothing is
    /// said, unless `ATTN_SCHEDULE=auto`.
    pub fn tuned() -> Schedules {
        Schedules(Choice::Tuned)
    }

    /// What the text fixes, and for the rest the compiler's own choice.
    pub fn automatic() -> Schedules {
        Schedules(Choice::Automatic)
    }

    /// Those of a file. Errors: it cannot be read, or it is no schedule file.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Schedules, Error> {
        let name = path.as_ref().display().to_string();
        let fail = |why: String| Error::new(ErrorKind::Io, format!("cannot read {name}: {why}"));
        let file = std::fs::File::open(&path).map_err(|err| fail(err.to_string()))?;
        let mut text = String::new();
        let n = std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_BYTES + 1), &mut text)
            .map_err(|err| fail(err.to_string()))?;
        if n as u64 > MAX_BYTES {
            return Err(fail(format!("it is longer than {MAX_BYTES} bytes")));
        }
        Schedules::from_text(&name, &text)
    }

    /// Those of a text in the format of a file; `name` stands in messages. Errors: it is no schedule file.
    pub fn from_text(name: &str, text: &str) -> Result<Schedules, Error> {
        match ScheduleFile::parse(text) {
            Ok(file) => Ok(Schedules(Choice::Given(Arc::new(Given { name: name.to_string(), file })))),
            Err(fault) => Err(of_fault(name, &fault)),
        }
    }

    /// These, by the names of attentions: for programs that measure by themselves.
    pub fn given(overrides: Overrides) -> Schedules {
        Schedules(Choice::Data(overrides))
    }
}

/// Where a schedule came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScheduleOrigin {
    /// The compiler's choice.
    #[default]
    Automatic,
    /// `schedule cpu { ... }` in the text.
    Text,
    /// A winner of `attnc tune`; its file.
    Tuned(PathBuf),
    /// A schedule file; its name.
    File(String),
    /// The calling program.
    Program,
}

impl ScheduleOrigin {
    /// One word.
    pub const fn word(&self) -> &'static str {
        match self {
            ScheduleOrigin::Automatic => "automatic",
            ScheduleOrigin::Text => "text",
            ScheduleOrigin::Tuned(_) => "tuned",
            ScheduleOrigin::File(_) => "file",
            ScheduleOrigin::Program => "program",
        }
    }

    /// The file behind it.
    pub fn path(&self) -> Option<String> {
        match self {
            ScheduleOrigin::Tuned(path) => Some(path.display().to_string()),
            ScheduleOrigin::File(name) => Some(name.clone()),
            _ => None,
        }
    }
}

impl fmt::Display for ScheduleOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        self.path().map_or(Ok(()), |path| write!(f, ", {path}"))
    }
}

/// What was picked for a plan.
#[derive(Clone, Debug, Default)]
pub struct Picked {
    overrides: Overrides,
    from: ScheduleOrigin,
    text: bool,
    notes: Vec<String>,
}

impl Picked {
    /// For [`PlanKey::schedules`].
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// Stored winners that were not used, and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where the schedules came from: the first that applies of a file, a winner, the text.
    pub fn origin(&self) -> ScheduleOrigin {
        if self.overrides.is_empty() { self.without() } else { self.from.clone() }
    }

    /// Where the schedule of one attention came from.
    pub fn origin_of(&self, attention: &str) -> ScheduleOrigin {
        if self.overrides.get(attention).is_none() { self.without() } else { self.from.clone() }
    }

    fn without(&self) -> ScheduleOrigin {
        if self.text { ScheduleOrigin::Text } else { ScheduleOrigin::Automatic }
    }

    /// Without what was stored, if that is what was picked; `why` becomes a note.
    pub(crate) fn drop_stored(&self, why: &str) -> Option<Picked> {
        let ScheduleOrigin::Tuned(path) = &self.from else { return None };
        let mut left = Picked { text: self.text, ..Picked::default() };
        left.notes.push(ignored(path, why));
        Some(left)
    }
}

/// What is picked from.
pub(crate) struct Ask<'a> {
    pub choice: &'a Schedules,
    pub map: &'a SourceMap,
    pub spec: &'a CheckedKernel,
    pub key: &'a PlanKey,
    pub dims: &'a [(&'a str, i64)],
    pub params: &'a BTreeMap<String, Value>,
    pub cache: &'a Cache,
}

/// Picks. Errors: a file that is for another kernel or does not fit; a kernel that cannot be planned at all.
pub(crate) fn pick(ask: &Ask<'_>) -> Result<Picked, Error> {
    let text = ask.spec.schedules.iter().any(|s| s.target == "cpu");
    let nothing = Picked { text, ..Picked::default() };
    let Target::Cpu(facts) = &ask.key.target else { return Ok(nothing) };
    match &ask.choice.0 {
        Choice::Automatic => Ok(nothing),
        Choice::Data(overrides) => {
            Ok(Picked { overrides: overrides.clone(), from: ScheduleOrigin::Program, ..nothing })
        }
        Choice::Given(given) => {
            let overrides = given.overrides(ask, facts)?;
            Ok(Picked { overrides, from: ScheduleOrigin::File(given.name.clone()), ..nothing })
        }
        Choice::Stored if switched_off()? => Ok(nothing),
        Choice::Stored | Choice::Tuned if ask.cache.tuned_dir().is_none() => Ok(nothing),
        Choice::Stored | Choice::Tuned => Ok(stored(ask, facts, nothing)),
    }
}

/// What the environment says where nothing else was said.
fn switched_off() -> Result<bool, Error> {
    let Some(found) = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) else { return Ok(false) };
    match found.to_str() {
        Some("auto") => Ok(true),
        Some("tuned") => Ok(false),
        _ => {
            let text = format!("{VARIABLE} is {found:?}, expected auto or tuned; unset it for tuned");
            Err(Error::new(ErrorKind::Data, text))
        }
    }
}

/// The winner, if there is one that can be used.
fn stored(ask: &Ask<'_>, facts: &CpuFacts, mut nothing: Picked) -> Picked {
    // What is wrong with a plan is said by the plan.
    let Ok(ir) = sema::instantiate(ask.spec, ask.key) else { return nothing };
    let found = identity(ask, &ir).and_then(|id| id.find(ask.cache));
    let Some((path, found)) = found else { return nothing };
    let used = found.and_then(|file| match fitting(&file, &ir, facts) {
        Ok(overrides) => Ok(overrides),
        Err(fault) => Err(format!("line {}: {}", fault.line, fault.text)),
    });
    match used {
        Ok(overrides) => Picked { overrides, from: ScheduleOrigin::Tuned(path), ..nothing },
        Err(why) => {
            nothing.notes.push(ignored(&path, &why));
            nothing
        }
    }
}

fn ignored(path: &Path, why: &str) -> String {
    format!(
        "the tuned schedule {} is ignored: {why}; `attnc tune` measures anew, or delete it",
        path.display()
    )
}

fn identity(ask: &Ask<'_>, ir: &attn_ir::Kernel) -> Option<Identity> {
    Identity::new(ask.spec, ir, ask.key, ask.dims, ask.params, host_model().ok()?)
}

impl Given {
    fn overrides(&self, ask: &Ask<'_>, facts: &CpuFacts) -> Result<Overrides, Error> {
        let fail = |line, text| of_fault(&self.name, &Fault { line, text });
        if self.file.kernel != ask.spec.name {
            let text = format!(
                "these schedules are for kernel `{0}`, and this is kernel `{1}`: choose `--kernel {0}`, or make a file \
                 for `{1}` with `attnc tune -o` or `attnc build --emit=schedule-file`",
                self.file.kernel, ask.spec.name
            );
            return Err(fail(self.file.kernel_line, text));
        }
        let ir =
            sema::instantiate(ask.spec, ask.key).map_err(|err| Error::of_compile(ask.map, err.into()))?;
        fitting(&self.file, &ir, facts).map_err(|fault| of_fault(&self.name, &fault))
    }
}

/// The schedules of a file, each of an attention that there is, and each fitting.
fn fitting(file: &ScheduleFile, ir: &attn_ir::Kernel, facts: &CpuFacts) -> Result<Overrides, Fault> {
    let mut all = Overrides::default();
    for entry in &file.entries {
        let Some(attention) = ir.attentions().find(|a| a.name == entry.attention) else {
            let known: Vec<&str> = ir.attentions().map(|a| a.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
            let text = format!(
                "there is no attention `{}` in kernel `{}` (there are {known})",
                entry.attention, ir.name
            );
            return Err(Fault { line: entry.line, text });
        };
        // Where the text's own schedule does not fit, that is said by the plan, with its place.
        if let Err(err) = choose_with(attention, facts, &entry.decided)
            && choose(attention, facts).is_ok()
        {
            let text = format!("attention `{}`: {err}", entry.attention);
            return Err(Fault { line: entry.line_of(&err), text });
        }
        all = all.with(&entry.attention, entry.decided);
    }
    Ok(all)
}

fn of_fault(name: &str, fault: &Fault) -> Error {
    Error::new(ErrorKind::Spec, format!("{name}:{}: {}", fault.line, fault.text))
}

/// The text of a schedule file that pins these schedules, by the names of their attentions.
pub fn schedule_file<'a>(
    kernel: &str,
    attentions: impl IntoIterator<Item = (&'a str, &'a Schedule)>,
) -> String {
    let comment =
        format!("Schedules of kernel {kernel}; `attnc run FILE.attn --schedule-file THIS` pins them.");
    file::print(&comment, kernel, attentions, None)
}

/// What was measured of a winner.
#[derive(Clone, Debug, PartialEq)]
pub struct Winning {
    /// Dims, in words.
    pub dims: String,
    /// Threads.
    pub threads: usize,
    /// Milliseconds of the winner.
    pub median_ms: f64,
    /// Milliseconds of the automatic schedule.
    pub automatic_ms: f64,
}

/// Where the winner of a measurement belongs: [`Kernel::tuning`](crate::Kernel::tuning).
#[derive(Clone, Debug)]
pub struct Tuning {
    pub(crate) identity: Identity,
}

impl Tuning {
    pub(crate) fn of(ask: &Ask<'_>) -> Result<Option<Tuning>, Error> {
        let ir =
            sema::instantiate(ask.spec, ask.key).map_err(|err| Error::of_compile(ask.map, err.into()))?;
        Ok(identity(ask, &ir).map(|identity| Tuning { identity }))
    }

    /// The CPU that it holds for.
    pub fn cpu(&self) -> &str {
        &self.identity.cpu
    }

    /// The lengths and int parameters that it holds for, rounded up to powers of two: `B=1 S=2048`.
    pub fn at(&self) -> &str {
        &self.identity.at
    }

    /// The text of a schedule file that also says what was measured.
    pub fn file<'a>(
        &self,
        attentions: impl IntoIterator<Item = (&'a str, &'a Schedule)>,
        winning: &Winning,
    ) -> String {
        let mut measured = self.identity.measured();
        measured.dims.clone_from(&winning.dims);
        measured.threads = winning.threads as i64;
        (measured.median_ms, measured.automatic_ms) = (winning.median_ms, winning.automatic_ms);
        let comment =
            "Measured by `attnc tune`; `attnc run FILE.attn --schedule-file THIS` pins it anywhere.";
        file::print(comment, &self.identity.kernel, attentions, Some(&measured))
    }

    /// Keeps such a text, so that plans of the same kernel on this CPU find it. Errors: there is no cache, or it
    /// cannot be written.
    pub fn store(&self, cache: &Cache, text: &str) -> Result<PathBuf, Error> {
        cache
            .put_tuned(&self.identity.name(), text)
            .map_err(|why| Error::new(ErrorKind::Io, format!("the winner cannot be kept: {why}")))
    }

    /// Forgets what was kept; whether there was anything.
    pub fn forget(&self, cache: &Cache) -> bool {
        cache.forget_tuned(&self.identity.name())
    }
}

/// Every field of a schedule as decided.
pub fn pinned<'a>(attentions: impl IntoIterator<Item = (&'a str, &'a Schedule)>) -> Overrides {
    Overrides::new(attentions.into_iter().map(|(name, s)| (name.to_string(), Override::of(s))))
}
