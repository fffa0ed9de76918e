//! The text of a specification: from a file, or from standard input where the name is `-`.
//!
//! Comes in: a path. Goes out: the name for messages and the text. Not here: what the text means.

use std::io::Read;
use std::path::Path;

use attn_compiler::diagnostic::Severity;
use attn_compiler::pipeline;
use attnc::Kernel;

use super::ui::{Failure, Status, Ui};

/// Whether a path means standard input.
pub fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// The name for messages, and the text. Errors: it cannot be read, or is no UTF-8.
pub fn read(path: &Path) -> Result<(String, String), Failure> {
    let name = if is_stdin(path) { "<stdin>".to_string() } else { path.display().to_string() };
    let mut bytes = Vec::new();
    let read = if is_stdin(path) {
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| ())
    } else {
        std::fs::read(path).map(|found| bytes = found)
    };
    read.map_err(|err| Failure::wrong(format!("cannot read {name}: {err}")))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok((name, text)),
        Err(err) => {
            let at = err.utf8_error().valid_up_to();
            Err(Failure::wrong(format!("{name} is not UTF-8: byte {at} begins no character")))
        }
    }
}

/// The text of a file that `use` names, looked up beside the importing file.
pub fn beside(from: &str, target: &str) -> Result<String, String> {
    let path = Path::new(from).parent().unwrap_or(Path::new("")).join(target);
    std::fs::read_to_string(&path).map_err(|err| format!("cannot read {}: {err}", path.display()))
}

/// The facade's kernel of a text that has been read and has no errors.
pub fn kernel(path: &Path, name: &str, text: &str) -> Result<Kernel, Failure> {
    if is_stdin(path) { Ok(Kernel::from_source(name, text)?) } else { Ok(Kernel::from_file(path)?) }
}

/// Reads and checks, telling the observer. Diagnostics are printed; errors among them are a failure.
pub fn front(
    ui: &Ui,
    path: &Path,
    observer: &mut dyn pipeline::Observer,
) -> Result<(pipeline::Front, String), Failure> {
    let (name, text) = read(path)?;
    let front = pipeline::front(&name, &text, &mut beside, observer);
    front.diagnostics.items().iter().for_each(|d| ui.diagnostic(&front.map, d));
    if front.diagnostics.dropped > 0 {
        ui.note(&format!("{} more diagnostics were left out", front.diagnostics.dropped));
    }
    let broken = front.diagnostics.items().iter().any(|d| d.severity == Severity::Error);
    if broken { Err(Failure::said(Status::Wrong)) } else { Ok((front, text)) }
}
