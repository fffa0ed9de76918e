//! Meaning: from syntax trees to checked kernels, and from a checked kernel to the attention IR of one plan.
//!
//! Comes in: the sources and the file to check. Goes out: [`Checked`] with every kernel that has no error, and all
//! diagnostics, each with a caret, a reason and the nearest thing that works; then, for each [`PlanKey`], an
//! [`crate::attn_ir::Attention`]. What holds: `check` accepts exactly the language of `docs/language.md`, whatever
//! can be compiled of it; `instantiate` refuses the rest with one `Unsupported`. Not here: targets and tiles.
//!
//! `modules` reads imports and definitions; `kernel` walks a kernel; `declare`, `cache`, `derived`, `clauses`,
//! `body`, `roles`, `rotate`, `select`, `branch`, `recurrence`, `options` read its clauses; `elab`, `ops` and `calls`
//! type expressions into [`hir`]; `lower` and `instantiate` make the attention IR.

mod body;
mod branch;
mod build;
mod cache;
mod caching;
mod calls;
mod choice;
mod choose;
mod clauses;
mod declare;
mod derived;
mod dropout;
mod elab;
pub mod hir;
mod instantiate;
mod kernel;
mod lower;
mod made;
pub mod model;
mod modules;
mod ops;
mod options;
mod parts;
mod recurrence;
mod recurs;
mod relative;
mod report;
mod roles;
mod rotate;
mod rows;
mod select;
pub mod shard;
mod suggest;
mod turn;

pub use instantiate::{CompileError, Instance, MaskClauses, PlanKey, instantiate, instantiate_with_clauses};
pub use model::{Checked, CheckedKernel};
pub use modules::Resolver;

use std::collections::HashSet;

use crate::diagnostic::{Code, Diagnostic, Diagnostics, SourceId, SourceMap};

use self::kernel::check_kernel;
use self::modules::{ModuleId, Modules};

/// Parses and checks a file; `resolver` gives the text of a file that it imports: (importing file's name, target).
///
/// Imported files and modules of the standard library are added to the map, so that diagnostics can point into
/// them. Kernels of imported files are not part of the result.
pub fn check<'r>(
    map: &'r mut SourceMap,
    source: SourceId,
    resolver: &'r mut Resolver<'r>,
) -> (Checked, Diagnostics) {
    let (modules, mut diagnostics) = Modules::load(map, source, resolver);
    let mut checked = Checked::default();
    let mut called = HashSet::new();
    let root = ModuleId(0);
    let mut seen: Vec<(&str, crate::diagnostic::Span)> = Vec::new();
    for kernel in modules.kernels_of(root) {
        let name = kernel.name.node.as_str();
        if let Some((_, first)) = seen.iter().find(|(n, _)| *n == name) {
            let d = Diagnostic::error(
                Code::DuplicateName,
                kernel.name.span,
                format!("two kernels are called `{name}`"),
            )
            .label("the second")
            .context(*first, "the first")
            .help("rename one of them");
            diagnostics.push(d);
        }
        seen.push((name, kernel.name.span));
        let (out, said, defs) = check_kernel(map, &modules, root, kernel);
        diagnostics.extend(said);
        called.extend(defs);
        checked.kernels.extend(out);
    }
    if !diagnostics.has_errors() {
        modules.warn_unused(&called, &mut diagnostics);
    }
    drop_consequences(&mut diagnostics);
    (checked, diagnostics)
}

/// Where text could not be read, a clause that seems to be missing, out of place or unused is a consequence.
fn drop_consequences(diagnostics: &mut Diagnostics) {
    use Code::*;
    let unread = [Syntax, Unclosed, TooLarge, UnknownClause, ForeignOperator, BrokenInterval];
    if diagnostics.items().iter().any(|d| unread.contains(&d.code)) {
        diagnostics.retain(|d| !matches!(d.code, MissingClause | ClauseNotHere | Unused));
    }
}

/// A resolver for texts without files beside them.
pub fn no_files(_: &str, _: &str) -> Result<String, String> {
    Err("there are no files here".into())
}
