//! `attnc fmt`: files in the one style.
//!
//! Comes in: files, or standard input for `-`. Goes out: the formatted text in the same file (in one step: a
//! reader sees the old text or the new one), or on standard output. With `--check` nothing is written. What
//! holds: a text that does not parse is left alone and reported, the others are still formatted.

use std::io::Write;
use std::path::{Path, PathBuf};

use attn_compiler::diagnostic::SourceMap;
use attn_compiler::syntax;

use super::source;
use super::ui::{self, Failure, Status, Ui};

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    /// Specifications; - formats standard input to standard output
    #[arg(value_name = "FILE.attn", required = true)]
    files: Vec<PathBuf>,
    /// Only list the files that would change; exit code 1 if there are any
    #[arg(long)]
    check: bool,
}

/// Does it.
pub fn run(ui: &Ui, args: &Args) -> Result<(), Failure> {
    let (mut failed, mut changed) = (false, Vec::new());
    for path in &args.files {
        match one(ui, path, args.check) {
            Ok(true) => changed.push(path.display().to_string()),
            Ok(false) => {}
            Err(failure) => {
                ui.failed(&failure);
                failed = true;
            }
        }
    }
    if args.check && !changed.is_empty() {
        ui::print(&changed.join("\n"))?;
        ui.note(&format!("{} of {} files would change; run `attnc fmt`", changed.len(), args.files.len()));
    }
    if failed || (args.check && !changed.is_empty()) { Err(Failure::said(Status::Wrong)) } else { Ok(()) }
}

/// Formats one file; whether its text changes.
fn one(ui: &Ui, path: &Path, check: bool) -> Result<bool, Failure> {
    let (name, text) = source::read(path)?;
    let formatted = syntax::format(&text).map_err(|found| {
        let mut map = SourceMap::default();
        map.add(&name, &text);
        found.items().iter().for_each(|d| ui.diagnostic(&map, d));
        Failure::said(Status::Wrong)
    })?;
    let changes = formatted != text;
    if source::is_stdin(path) && !check {
        ui::print(&formatted)?;
    } else if changes && !check {
        write_whole(path, formatted.as_bytes())?;
    }
    Ok(changes)
}

/// Writes a file in one step: a temporary file beside it takes its place, with its permissions.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let fail = |err: std::io::Error| Failure::wrong(format!("cannot write {}: {err}", path.display()));
    // A link is written through, so that it stays a link.
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let dir = real.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".attnc-").tempfile_in(dir).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    let permissions = match std::fs::metadata(&real) {
        Ok(old) => old.permissions(),
        Err(_) => default_permissions(file.as_file()).map_err(fail)?,
    };
    file.as_file().set_permissions(permissions).map_err(fail)?;
    file.persist(&real).map_err(|err| fail(err.error))?;
    Ok(())
}

/// Those of a new file: readable by all. (Temporary files are readable by their owner only.)
fn default_permissions(file: &std::fs::File) -> std::io::Result<std::fs::Permissions> {
    #[allow(unused_mut)]
    let mut permissions = file.metadata()?.permissions();
    #[cfg(unix)]
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    Ok(permissions)
}
