//! The LLVM worker: MLIR text in, PTX text out, in a process of its own.
//!
//! Comes in: modules as MLIR text, an architecture. Goes out: PTX, or an [`Error`] that says whose turn it is. What holds:
//! LLVM is never linked into this process, so its crash is an error like any other; the worker cannot block us
//! by dying before it has read its input. Found by `ATTN_LLVM`, else beside the running program, else in `PATH`.
//! Deliberately not done: keeping a worker between kernels, a limit of time.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use attn_compiler::target::GpuArch;
use rayon::prelude::*;

use crate::error::{Error, ErrorKind};

/// The variable that names the worker.
const VARIABLE: &str = "ATTN_LLVM";
/// Its file name.
const WORKER: &str = "attnc-llvm";

/// Compiles modules of MLIR to one module of PTX, beside each other: a worker for each, as many at once as there are cores.
///
/// # Errors
/// `Unsupported` if there is no worker; `Io` if it cannot be started; `Internal` if it refuses a text or dies, with all
/// that it said.
pub fn to_ptx(modules: &[String], arch: GpuArch) -> Result<String, Error> {
    Ok(one_module(&each(modules, arch, Wanted::Ptx)?))
}

/// Modules of MLIR as LLVM's own text, after the passes.
///
/// # Errors
/// As [`to_ptx`].
pub fn to_llvm_ir(modules: &[String], arch: GpuArch) -> Result<String, Error> {
    Ok(each(modules, arch, Wanted::LlvmIr)?.join("\n"))
}

fn each(modules: &[String], arch: GpuArch, wanted: Wanted) -> Result<Vec<String>, Error> {
    let worker = worker()?;
    modules.par_iter().map(|mlir| by(&worker, mlir, arch, wanted)).collect()
}

/// Modules of PTX for one target as one: what stands before the first entry stands in it once.
fn one_module(modules: &[String]) -> String {
    const LAST_OF_HEAD: &str = ".address_size 64\n";
    let mut out = String::new();
    for ptx in modules {
        let body = match ptx.split_once(LAST_OF_HEAD) {
            Some((_, body)) if !out.is_empty() => body,
            _ => ptx,
        };
        for line in body.split_inclusive('\n') {
            if !(line.starts_with(".extern .shared") && out.contains(line)) {
                out.push_str(line);
            }
        }
    }
    out
}

/// What the worker writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Ptx,
    LlvmIr,
}

impl Wanted {
    /// As `--emit` takes it, the name in messages, and what every such text holds.
    fn facts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Wanted::Ptx => ("ptx", "PTX", ".version"),
            Wanted::LlvmIr => ("llvm-ir", "text of LLVM", "target triple"),
        }
    }
}

/// The worker's file. Errors: there is none.
fn worker() -> Result<PathBuf, Error> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_path_buf()));
    find(std::env::var_os(VARIABLE), beside.as_deref(), std::env::var_os("PATH"))
}

fn find(named: Option<OsString>, beside: Option<&Path>, path: Option<OsString>) -> Result<PathBuf, Error> {
    const REMEDY: &str = "build it with `cargo build --release -p attn-llvm-worker` (it needs LLVM 19), and put \
                          `attnc-llvm` beside attnc or into PATH, or name it in ATTN_LLVM";
    if let Some(named) = named.filter(|n| !n.is_empty()) {
        let file = PathBuf::from(named);
        if file.is_file() {
            return Ok(file);
        }
        let message = format!("{VARIABLE} names {}, which is no file; {REMEDY}", file.display());
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let file = format!("{WORKER}{}", std::env::consts::EXE_SUFFIX);
    let path = path.unwrap_or_default();
    let dirs = beside.map(Path::to_path_buf).into_iter().chain(std::env::split_paths(&path));
    let found = dirs.map(|dir| dir.join(&file)).find(|file| file.is_file());
    found.ok_or_else(|| {
        let message =
            format!("code for GPUs is made by the LLVM worker `{WORKER}`, which is not found; {REMEDY}");
        Error::new(ErrorKind::Unsupported, message)
    })
}

fn by(worker: &Path, mlir: &str, arch: GpuArch, wanted: Wanted) -> Result<String, Error> {
    let (emit, name, part) = wanted.facts();
    let mut command = Command::new(worker);
    command.args(["--target", arch.name(), "--emit", emit]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let not_started = |err: std::io::Error| {
        let message =
            format!("the LLVM worker {} cannot be started: {err}; check {VARIABLE}", worker.display());
        Error::new(ErrorKind::Io, message)
    };
    let mut child = command.spawn().map_err(not_started)?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let (out, said, status) = std::thread::scope(|scope| {
        // A worker that dies early leaves a broken pipe behind, which is an error of the write (SIGPIPE is ignored by
        // Rust programs); what it died of is told by its status.
        scope.spawn(move || stdin.is_some_and(|mut pipe| pipe.write_all(mlir.as_bytes()).is_ok()));
        let said = scope.spawn(move || read(stderr));
        let out = read(child.stdout.take());
        (out, said.join().unwrap_or_default(), child.wait())
    });
    let status = status.map_err(not_started)?;
    if !status.success() {
        return Err(failed(worker, arch, status, &said));
    }
    match String::from_utf8(out) {
        Ok(text) if text.contains(part) => Ok(text),
        _ => Err(bug(worker, arch, &format!("ended well, but what it wrote is no {name}"), &said)),
    }
}

/// Everything from a pipe, as far as it can be read.
fn read(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    bytes
}

fn failed(worker: &Path, arch: GpuArch, status: ExitStatus, said: &[u8]) -> Error {
    let how = match status.code() {
        Some(1) => "does not take its arguments".to_string(),
        Some(2) => "refuses the module".to_string(),
        Some(3) => "has failed inside LLVM".to_string(),
        Some(code) => format!("ended with status {code}"),
        None => killed(status),
    };
    bug(worker, arch, &how, said)
}

#[cfg(unix)]
fn killed(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    let core = if status.core_dumped() { ", and left a core" } else { "" };
    status.signal().map_or("was ended".into(), |n| format!("was ended by signal {n}{core}"))
}

#[cfg(not(unix))]
fn killed(_: ExitStatus) -> String {
    "was ended".to_string()
}

fn bug(worker: &Path, arch: GpuArch, how: &str, said: &[u8]) -> Error {
    let said = String::from_utf8_lossy(said);
    let said = match said.trim() {
        "" => "it said nothing".to_string(),
        said => format!("it said:\n{said}"),
    };
    let message = format!(
        "internal error in emit: the LLVM worker {} {how} (for {}); {said}\nthis is a bug in attnc, please report it",
        worker.display(),
        arch.name()
    );
    Error::new(ErrorKind::Internal, message)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A worker that is a shell script.
    fn worker(dir: &tempfile::TempDir, script: &str) -> PathBuf {
        let file = dir.path().join(WORKER);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    fn run(script: &str, mlir: &str) -> Result<String, Error> {
        let dir = tempfile::tempdir().unwrap();
        let worker = worker(&dir, script);
        // A file that another thread's fork still holds open for writing cannot be executed: try again.
        loop {
            match by(&worker, mlir, GpuArch::Sm90a, Wanted::Ptx) {
                Err(err) if err.to_string().contains("busy") => std::thread::yield_now(),
                result => return result,
            }
        }
    }

    #[test]
    fn modules_become_one() {
        let shared = ".extern .shared .align 1024 .b8 attn_shared[];\n";
        let part = |what: &str| format!("//\n.version 8.3\n.target sm_80\n.address_size 64\n\n{what}");
        let [a, b, c] =
            ["a\n".into(), format!("{shared}b\n"), format!("{shared}c\n")].map(|x: String| part(&x));
        let head = part("");
        assert_eq!(one_module(&[a.clone(), b.clone(), c]), format!("{head}a\n\n{shared}b\n\nc\n"));
        assert_eq!(one_module(std::slice::from_ref(&a)), a);
        assert_eq!(one_module(&[b, a]), format!("{head}{shared}b\n\na\n"));
    }

    #[test]
    fn text_goes_in_and_ptx_comes_out() {
        let ptx = run("echo \"// $*\"; echo .version 8.3; cat", "module {}\n").unwrap();
        assert_eq!(ptx, "// --target sm_90a --emit ptx\n.version 8.3\nmodule {}\n");
        let long = "x".repeat(1 << 20);
        let ptx = run("echo .version 8.3; cat; echo much >&2", &long).unwrap();
        assert_eq!(ptx.len(), (1 << 20) + 13, "pipes fill up on both sides");
    }

    #[test]
    fn a_worker_that_fails_is_an_internal_error_with_all_it_said() {
        let long = "x".repeat(1 << 20);
        for (script, part) in [
            ("echo 'bad op' >&2; exit 2", "refuses the module"),
            ("echo 'bad op' >&2; exit 3", "failed inside LLVM"),
            ("echo 'bad op' >&2; exit 1", "does not take its arguments"),
            ("echo 'bad op' >&2; exit 77", "status 77"),
            ("echo 'bad op' >&2; kill -SEGV $$", "signal 11"),
            ("echo 'bad op' >&2; exit 0", "no PTX"),
        ] {
            // More text than a pipe holds: nobody reads it.
            let err = run(script, &long).unwrap_err();
            let text = err.to_string();
            assert_eq!(err.kind(), ErrorKind::Internal, "{text}");
            assert!(
                text.contains(part) && text.contains("bad op") && text.contains("sm_90a"),
                "{part}: {text}"
            );
        }
        let err = run("exec 0<&-; exit 3", &long).unwrap_err();
        assert!(err.to_string().contains("it said nothing"), "{err}");
    }

    #[test]
    fn the_worker_is_looked_for_in_order() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (beside, in_path) = (worker(&a, ""), worker(&b, ""));
        let path = |dir: &Path| Some(OsString::from(dir));
        let found =
            |named: Option<OsString>, next: Option<&Path>, in_path| find(named, next, in_path).unwrap();
        assert_eq!(found(None, Some(a.path()), path(b.path())), beside);
        assert_eq!(found(None, Some(Path::new("/nowhere")), path(b.path())), in_path);
        assert_eq!(found(Some(in_path.clone().into()), Some(a.path()), None), in_path);
        assert_eq!(found(Some("".into()), Some(a.path()), None), beside);
        for (named, part) in
            [(None, "cargo build --release -p attn-llvm-worker"), (Some("/none".into()), "/none")]
        {
            let err = find(named, None, path(Path::new("/nowhere"))).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unsupported);
            assert!(err.to_string().contains(part) && err.to_string().contains("LLVM 19"), "{err}");
        }
        let err = by(Path::new("/nowhere/attnc-llvm"), "", GpuArch::Sm80, Wanted::Ptx).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Io, "{err}");
    }
}
