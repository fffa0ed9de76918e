//! From text to an LLVM module. In: the text; out: a verified MLIR module, and of it LLVM's. What MLIR says becomes a
//! message with the line of the text that it means. Holds: the module uses builtin, `llvm` and `nvvm` only.

use crate::{Failure, ffi};
use inkwell::context::Context as LlvmContext;
use inkwell::module::Module as LlvmModule;
use inkwell::targets::TargetMachine;
use melior::Context;
use melior::diagnostic::{Diagnostic, DiagnosticSeverity};
use melior::ir::Module;
use melior::ir::attribute::StringAttribute;
use std::cell::RefCell;
use std::fmt::Write;
use std::rc::Rc;

/// Parses and verifies.
pub fn parse<'c>(context: &'c Context, text: &str) -> Result<Module<'c>, Failure> {
    if let Some(at) = text.find('\0') {
        return Err(Failure::Text(format!("the text has a NUL byte, at byte {at}")));
    }
    let (module, said) = listen(context, text, || Module::parse(context, text));
    match module {
        Some(module) if module.as_operation().verify() => Ok(module),
        _ => Err(Failure::Text(format!("the text is no valid module\n{said}"))),
    }
}

/// Writes the target's data layout into the module, where translation looks for the natural alignment of a type: with
/// LLVM's default an `i64` would be aligned to 4 bytes only.
pub fn set_layout<'c>(context: &'c Context, module: &mut Module<'c>, machine: &TargetMachine) {
    let layout = machine.get_target_data().get_data_layout();
    let triple = machine.get_triple();
    for (name, value) in [("llvm.data_layout", layout.as_str()), ("llvm.target_triple", triple.as_str())] {
        let value = StringAttribute::new(context, &value.to_string_lossy());
        module.as_operation_mut().set_attribute(name, value.into());
    }
}

/// Translates to LLVM IR.
pub fn translate<'l>(
    context: &Context,
    module: &Module,
    llvm: &'l LlvmContext,
) -> Result<LlvmModule<'l>, Failure> {
    let (translated, said) = listen(context, "", || ffi::translate(context, module, llvm));
    translated.ok_or_else(|| Failure::Llvm(format!("the module cannot be translated to LLVM IR\n{said}")))
}

/// Runs `work` and gives what it gave and what MLIR said meanwhile, which locations of `text` are quoted for.
fn listen<T>(context: &Context, text: &str, work: impl FnOnce() -> T) -> (T, String) {
    let said: Rc<RefCell<Vec<(String, String)>>> = Rc::default();
    let into = Rc::clone(&said);
    let handler = context.attach_diagnostic_handler(move |diagnostic| {
        keep(&diagnostic, &mut into.borrow_mut());
        true
    });
    let result = work();
    context.detach_diagnostic_handler(handler);
    let mut message = String::new();
    for (what, location) in said.borrow().iter() {
        message.push_str(what);
        quote(&mut message, location, text);
    }
    (result, message)
}

/// Keeps a diagnostic and its notes, each with its location.
fn keep(diagnostic: &Diagnostic, into: &mut Vec<(String, String)>) {
    let severity = match diagnostic.severity() {
        DiagnosticSeverity::Error => "error",
        DiagnosticSeverity::Warning => "warning",
        DiagnosticSeverity::Note | DiagnosticSeverity::Remark => "note",
    };
    into.push((format!("{severity}: {diagnostic}\n"), diagnostic.location().to_string()));
    for note in (0..diagnostic.note_count()).filter_map(|n| diagnostic.note(n).ok()) {
        keep(&note, into);
    }
}

/// Appends the line of `text` that `location`, as MLIR prints it (`loc("-":12:5)`), means, if it means one.
fn quote(message: &mut String, location: &str, text: &str) {
    let mut parts = location.trim_end_matches(')').rsplitn(3, ':');
    let column = parts.next().and_then(|c| c.parse::<usize>().ok());
    let line = parts.next().and_then(|l| l.parse::<usize>().ok());
    let (Some(line), Some(column), Some("loc(\"-\"")) = (line, column, parts.next()) else {
        return;
    };
    let Some(quoted) = line.checked_sub(1).and_then(|n| text.lines().nth(n)) else { return };
    let margin = " ".repeat(line.to_string().len());
    let indent: String =
        quoted.chars().take(column.saturating_sub(1)).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(
        message,
        "{margin}--> line {line}, column {column}\n{line} | {quoted}\n{margin} | {indent}^"
    );
}
