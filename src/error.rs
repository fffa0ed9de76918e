//! The facade's error: one type, one kind, a text that can be shown as it is.
//!
//! Comes in: diagnostics of the compiler, errors of the runtime, files that cannot be read. Goes out: [`Error`].
//! What holds: what the author or caller must mend, what cannot be done here yet, and our own bugs are never
//! mixed. Deliberately not done: colours (the command line renders diagnostics itself).

use std::fmt;

use attn_compiler::diagnostic::render::{Style, human};
use attn_compiler::diagnostic::{Diagnostic, SourceMap};
use attn_compiler::pipeline::CompileError;
use attn_runtime::RuntimeError;

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The specification, or the plan asked of it, is wrong.
    Spec,
    /// The arguments of a call are wrong: names, types, sizes, contents.
    Data,
    /// A clause that the target cannot run yet, or something that this host cannot do.
    Unsupported,
    /// A file cannot be read.
    Io,
    /// A bug of attnc.
    Internal,
}

/// Why there is no kernel, no plan, or no result.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    diagnostics: Vec<Diagnostic>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), diagnostics: Vec::new() }
    }

    /// Whose turn it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The diagnostics behind it, if it is about the text; spans are in [`crate::Kernel::sources`].
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// An error made of diagnostics, with carets.
    pub(crate) fn of_diagnostics(kind: ErrorKind, map: &SourceMap, diagnostics: Vec<Diagnostic>) -> Error {
        let style = Style { color: false, ascii: true };
        let texts: Vec<String> = diagnostics.iter().map(|d| human(map, d, style)).collect();
        Error { kind, message: texts.join("\n").trim_end().to_string(), diagnostics }
    }

    /// An error of the pipeline, with carets where it has a place.
    pub(crate) fn of_compile(map: &SourceMap, err: CompileError) -> Error {
        match err {
            CompileError::Spec(d) => Error::of_diagnostics(ErrorKind::Spec, map, vec![*d]),
            CompileError::Unsupported(u) => match u.diagnostic() {
                Some(d) => Error::of_diagnostics(ErrorKind::Unsupported, map, vec![d]),
                None => Error::new(ErrorKind::Unsupported, u.to_string()),
            },
            CompileError::Internal(bug) => Error::new(ErrorKind::Internal, bug.to_string()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<RuntimeError> for Error {
    fn from(err: RuntimeError) -> Error {
        let kind = match err.kind() {
            attn_runtime::ErrorKind::Data(_) => ErrorKind::Data,
            attn_runtime::ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, err.to_string())
    }
}
