//! `attnc-llvm`: the text of one MLIR module on stdin, PTX on stdout.
//!
//! In: builtin `module` with operations of the `llvm` and `nvvm` dialects alone; `--help` lists the options. Out: what
//! `--emit` asks for, whole or not at all, and an exit code: 0 good; 1 bad usage, or stdin or stdout failed; 2 the text
//! does not parse or verify (MLIR's messages on stderr, each with the line it means); 3 LLVM refused.
//!
//! Holds: this is the only program of the project that links LLVM. LLVM ends the process on what it calls a fatal error;
//! that is why it is a process of its own, and even then the exit code is 3 and the message on stderr. A crash inside
//! LLVM ends it by a signal. Bad input never panics.
//!
//! Not done: files, caches, ptxas, anything about attention. The text is a kernel already; see `optimise` for what is
//! done to it.

mod args;
mod ffi;
mod input;
mod mark;
mod optimise;

use args::{Command, Emit, HELP, Job};
use inkwell::context::Context as LlvmContext;
use std::io::{Read, Write};
use std::process::ExitCode;

/// Why there is no output, with the whole message.
#[derive(Debug)]
enum Failure {
    /// Bad usage, or a pipe that failed.
    Usage(String),
    /// The text does not parse or verify.
    Text(String),
    /// LLVM refused what MLIR took.
    Llvm(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 1,
            Failure::Text(_) => 2,
            Failure::Llvm(_) => ffi::LLVM_REFUSED,
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (Failure::Usage(message) | Failure::Text(message) | Failure::Llvm(message)) = &failure;
            eprintln!("attnc-llvm: {}", message.trim_end());
            ExitCode::from(failure.code())
        }
    }
}

fn run() -> Result<(), Failure> {
    match args::parse(std::env::args_os().skip(1))? {
        Command::Help => write_out(HELP.as_bytes()),
        Command::Version => write_out(version().as_bytes()),
        Command::Compile(job) => {
            let mut text = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut text)
                .map_err(|e| Failure::Usage(format!("stdin cannot be read: {e}")))?;
            let text = String::from_utf8(text)
                .map_err(|e| Failure::Text(format!("the text is not UTF-8: {}", e.utf8_error())))?;
            write_out(&compile(&text, &job)?)
        }
    }
}

fn version() -> String {
    let (major, minor, patch) = inkwell::support::get_llvm_version();
    format!("attnc-llvm {} (LLVM {major}.{minor}.{patch})\n", env!("CARGO_PKG_VERSION"))
}

fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|e| Failure::Usage(format!("stdout cannot be written: {e}")))
}

/// The whole line: parse, verify, translate, mark, optimise, print.
fn compile(text: &str, job: &Job) -> Result<Vec<u8>, Failure> {
    let context = ffi::mlir_context();
    let mut module = input::parse(&context, text)?;
    if job.emit == Emit::Mlir {
        return Ok(module.as_operation().to_string().into_bytes());
    }
    ffi::catch_fatal_errors();
    let machine = optimise::machine(job.target)?;
    input::set_layout(&context, &mut module, &machine);
    let llvm = LlvmContext::create();
    let messages = ffi::collect_messages(&llvm);
    let module = input::translate(&context, &module, &llvm)?;
    module.verify().map_err(|e| Failure::Llvm(format!("the translated module does not verify: {e}")))?;
    mark::mark(&llvm, &module, job.ftz);
    optimise::optimise(&module, &machine)?;
    let out = match job.emit {
        Emit::LlvmIr => module.print_to_string().to_bytes().to_vec(),
        _ => optimise::ptx(&module, &machine)?,
    };
    match messages.errors() {
        errors if errors.is_empty() => Ok(out),
        errors => Err(Failure::Llvm(errors.join("\n"))),
    }
}
