//! What goes to the user: statuses, failures, diagnostics, progress.
//!
//! Comes in: messages. Goes out: standard error, as text or one JSON object a line. What holds: results go to
//! standard output only through [`print`]. A reader that has gone away ends the output, not the process.

use std::io::{IsTerminal, Write};

use attn_compiler::diagnostic::render::{self, Style};
use attn_compiler::diagnostic::{Diagnostic, SourceMap};
use attn_runtime::RuntimeError;
use attnc::io::IoError;
use attnc::{Error, ErrorKind};
use clap::ValueEnum;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Fine = 0,
    /// The specification or the data is wrong.
    Wrong = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A check or comparison failed.
    Failed = 3,
    /// Our bug.
    Bug = 70,
}

/// `--color`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// If standard error is a terminal and NO_COLOR is not set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// `--error-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ErrorFormat {
    /// Text with carets
    Human,
    /// One JSON object a line, shaped as rustc's
    Json,
}

/// Why a verb did not do what it was asked. Without a message, it has been said already.
#[derive(Debug)]
pub struct Failure {
    status: Status,
    message: Option<String>,
    help: Option<String>,
    unsupported: bool,
}

impl Failure {
    fn new(status: Status, message: impl Into<String>) -> Failure {
        Failure { status, message: Some(message.into()), help: None, unsupported: false }
    }

    /// The specification or the data is wrong.
    pub fn wrong(message: impl Into<String>) -> Failure {
        Failure::new(Status::Wrong, message)
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Status::Usage, message)
    }

    /// Our bug.
    pub fn bug(message: impl Into<String>) -> Failure {
        Failure::new(Status::Bug, message)
    }

    /// Everything was said; only the status is left.
    pub fn said(status: Status) -> Failure {
        Failure { status, message: None, help: None, unsupported: false }
    }

    /// A clause that the target cannot run yet; its diagnostic was printed.
    pub fn unsupported() -> Failure {
        Failure { unsupported: true, ..Failure::said(Status::Wrong) }
    }

    /// True of [`Failure::unsupported`].
    pub fn is_unsupported(&self) -> bool {
        self.unsupported
    }

    /// What went wrong, if it has not been said yet.
    pub fn text(&self) -> &str {
        self.message.as_deref().unwrap_or("see above")
    }

    /// Whether a diagnostic has said it.
    pub fn was_said(&self) -> bool {
        self.message.is_none()
    }

    /// Whose turn it is.
    pub fn status(&self) -> Status {
        self.status
    }

    /// What would mend it.
    pub fn help(mut self, help: impl Into<String>) -> Failure {
        self.help = Some(help.into());
        self
    }
}

impl From<IoError> for Failure {
    fn from(err: IoError) -> Failure {
        Failure::wrong(err.to_string())
    }
}

impl From<RuntimeError> for Failure {
    fn from(err: RuntimeError) -> Failure {
        Failure::from(Error::from(err))
    }
}

impl From<Error> for Failure {
    fn from(err: Error) -> Failure {
        let status = if err.kind() == ErrorKind::Internal { Status::Bug } else { Status::Wrong };
        Failure::new(status, err.to_string())
    }
}

impl From<attn_compiler::host::BindError> for Failure {
    fn from(err: attn_compiler::host::BindError) -> Failure {
        Failure::wrong(err.to_string())
    }
}

/// Writes to standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(end.as_bytes()))
        .and_then(|()| out.flush())
    {
        Err(err) if err.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::wrong(format!("standard output cannot be written: {err}")))
        }
        _ => Ok(()),
    }
}

/// Writes bytes to standard output as they are.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(err) if err.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::wrong(format!("standard output cannot be written: {err}")))
        }
        _ => Ok(()),
    }
}

/// Standard error, as the user wants it.
pub struct Ui {
    style: Style,
    format: ErrorFormat,
}

impl Ui {
    /// Whether colours are wanted.
    pub fn colored(&self) -> bool {
        self.style.color
    }

    pub fn new(color: ColorChoice, format: ErrorFormat) -> Ui {
        match color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        }
        .write_global();
        let wanted = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
        Ui { style: Style { color: wanted, ascii: !std::io::stderr().is_terminal() }, format }
    }

    /// Whether progress may be drawn.
    pub fn draws_progress(&self) -> bool {
        self.format == ErrorFormat::Human && std::io::stderr().is_terminal()
    }

    /// Says something about the author's text.
    pub fn diagnostic(&self, map: &SourceMap, d: &Diagnostic) {
        match self.format {
            ErrorFormat::Human => self.write(&render::human(map, d, self.style)),
            ErrorFormat::Json => self.write(&render::json(map, d)),
        }
    }

    /// Says something that has no place in a text.
    pub fn note(&self, message: &str) {
        self.say("note", message, None);
    }

    /// Says that less was done than asked.
    pub fn warn(&self, message: &str) {
        self.say("warning", message, None);
    }

    /// Says that something is wrong, where the verb goes on.
    pub fn say_error(&self, message: &str) {
        self.say("error", message, None);
    }

    /// Writes a text as it is to standard error.
    pub fn text(&self, text: &str) {
        if !text.is_empty() {
            self.write(text);
        }
    }

    /// An error of the facade: with carets where it has places.
    pub fn error(&self, map: &SourceMap, err: Error) -> Failure {
        if err.diagnostics().is_empty() {
            return err.into();
        }
        err.diagnostics().iter().for_each(|d| self.diagnostic(map, d));
        match err.kind() {
            ErrorKind::Unsupported => Failure::unsupported(),
            ErrorKind::Internal => Failure::said(Status::Bug),
            _ => Failure::said(Status::Wrong),
        }
    }

    /// Says why a verb failed.
    pub fn failed(&self, failure: &Failure) -> Status {
        if let Some(message) = &failure.message {
            self.say("error", message, failure.help.as_deref());
        }
        failure.status
    }

    fn say(&self, level: &str, message: &str, help: Option<&str>) {
        let human = || {
            let (on, off) = match (self.style.color, level) {
                (false, _) => ("", ""),
                (true, "error") => ("\u{1b}[1;31m", "\u{1b}[0m"),
                (true, "warning") => ("\u{1b}[1;33m", "\u{1b}[0m"),
                (true, _) => ("\u{1b}[1;32m", "\u{1b}[0m"),
            };
            let help = help.map_or(String::new(), |help| format!("\n  = help: {help}"));
            format!("{on}{level}{off}: {message}{help}")
        };
        match self.format {
            ErrorFormat::Human => self.write(&human()),
            ErrorFormat::Json => {
                let child = |help| serde_json::json!({ "message": help, "code": null, "level": "help", "spans": [], "children": [] });
                let children: Vec<_> = help.map(child).into_iter().collect();
                self.write(
                    &serde_json::json!({
                        "$message_type": "diagnostic", "message": message, "code": null, "level": level,
                        "spans": [], "children": children, "rendered": human(),
                    })
                    .to_string(),
                );
            }
        }
    }

    fn write(&self, text: &str) {
        let mut err = std::io::stderr().lock();
        // Nobody is left to be told if this fails.
        let _ = writeln!(err, "{}", text.trim_end());
    }
}
