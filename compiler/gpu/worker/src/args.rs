//! The command line. In: the arguments; out: a [`Command`] or a message that says what is accepted. Targets are checked
//! here, against our own table: LLVM 19 takes names that it does not know, and then ends the process.

use crate::Failure;
use std::ffi::OsString;

/// What `--help` prints.
pub const HELP: &str = "\
attnc-llvm --target TARGET [--emit KIND] [--ftz] < module.mlir

Compiles one MLIR module of the `llvm` and `nvvm` dialects, read from stdin, and writes to stdout.

  --target sm_80|sm_86|sm_89|sm_90a   the GPU that the code is for (not needed for `--emit mlir`)
  --emit ptx|llvm-ir|mlir             what to write [ptx]: PTX; LLVM IR after all passes; the module, parsed and verified
  --ftz                               f32 arithmetic takes and gives zero in place of subnormal numbers
  --version, --help

Exit code: 0 good, 1 bad usage, 2 the text does not parse or verify, 3 LLVM refused.
";

/// The targets there are.
pub const TARGETS: [&str; 4] = ["sm_80", "sm_86", "sm_89", "sm_90a"];

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Compile stdin.
    Compile(Job),
}

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// PTX.
    Ptx,
    /// LLVM IR, after the passes.
    LlvmIr,
    /// The module as it was read.
    Mlir,
}

/// How to compile.
#[derive(Debug, PartialEq, Eq)]
pub struct Job {
    /// One of [`TARGETS`].
    pub target: &'static str,
    /// What to write.
    pub emit: Emit,
    /// Subnormal f32 numbers are zero.
    pub ftz: bool,
}

/// Reads the arguments that follow the program's name. An option's value follows it, after a space or `=`.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, Failure> {
    let (mut target, mut emit, mut ftz) = (None, Emit::Ptx, false);
    let mut args = args.map(|a| a.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        let (name, attached) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (arg.as_str(), None),
        };
        let mut value = || {
            attached.clone().or_else(|| args.next()).ok_or_else(|| usage(&format!("{name} needs a value")))
        };
        match name {
            "--target" => target = Some(known_target(&value()?)?),
            "--emit" => emit = known_emit(&value()?)?,
            "--ftz" if attached.is_none() => ftz = true,
            "--help" | "-h" if attached.is_none() => return Ok(Command::Help),
            "--version" | "-V" if attached.is_none() => return Ok(Command::Version),
            _ => return Err(usage(&format!("unknown argument `{arg}`"))),
        }
    }
    match target {
        Some(target) => Ok(Command::Compile(Job { target, emit, ftz })),
        None if emit == Emit::Mlir => Ok(Command::Compile(Job { target: TARGETS[0], emit, ftz })),
        None => Err(usage(&format!("--target is missing; the targets are {}", TARGETS.join(", ")))),
    }
}

fn known_target(name: &str) -> Result<&'static str, Failure> {
    TARGETS.into_iter().find(|t| *t == name).ok_or_else(|| {
        usage(&format!("unknown target `{name}`; LLVM 19 and this program know {}", TARGETS.join(", ")))
    })
}

fn known_emit(name: &str) -> Result<Emit, Failure> {
    match name {
        "ptx" => Ok(Emit::Ptx),
        "llvm-ir" => Ok(Emit::LlvmIr),
        "mlir" => Ok(Emit::Mlir),
        _ => Err(usage(&format!("cannot emit `{name}`; there are ptx, llvm-ir and mlir"))),
    }
}

fn usage(message: &str) -> Failure {
    Failure::Usage(format!("{message} (`attnc-llvm --help` tells more)"))
}
