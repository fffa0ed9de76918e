//! The sink of a check: diagnostics, with the calls that were being inlined when each was found.
//!
//! Comes in: diagnostics. What holds: one place is blamed once for one reason, however often a definition is
//! inlined; an error inside a definition also shows the outermost call.

use std::collections::HashSet;

use crate::diagnostic::{Code, Diagnostic, Diagnostics, Severity, Span};

/// Collects diagnostics.
#[derive(Default)]
pub(crate) struct Report {
    /// What was found.
    pub diagnostics: Diagnostics,
    seen: HashSet<(Code, Span)>,
    /// The calls being inlined: name and place, outermost first.
    pub calls: Vec<(String, Span)>,
    /// How many errors so far.
    pub n_errors: usize,
}

impl Report {
    /// Adds a diagnostic, unless its place was already blamed for the same reason.
    pub fn push(&mut self, mut d: Diagnostic) {
        if !self.seen.insert((d.code, d.span())) {
            return;
        }
        if d.severity == Severity::Error {
            self.n_errors += 1;
        }
        if let Some((name, span)) = self.calls.first() {
            d = d.context(*span, format!("while inlining `{name}`"));
        }
        self.diagnostics.push(d);
    }

    /// An error with the text under its caret.
    pub fn error(&mut self, code: Code, span: Span, message: impl Into<String>, label: impl Into<String>) {
        self.push(Diagnostic::error(code, span, message).label(label));
    }
}
