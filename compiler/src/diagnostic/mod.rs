//! What the compiler says to people: diagnostics with spans, and the three kinds of error that never mix.
//!
//! A [`Diagnostic`] is about the author's text and points into it. [`Unsupported`] is about a clause that a target
//! cannot run yet. [`Internal`] is our bug. [`render`] prints them for people and machines; nothing here decides
//! when something is wrong.

pub mod code;
pub mod render;

pub use code::Code;

/// Index of a file in a [`SourceMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u32);

/// A range of bytes in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// File.
    pub source: SourceId,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The smallest span that holds both.
    pub fn to(self, other: Span) -> Span {
        Span { source: self.source, start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// A file: its name for messages, and its text.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Path as the user gave it, or `<std.mask>`.
    pub name: String,
    /// UTF-8 text.
    pub text: String,
}

/// Every file of one compilation.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    files: Vec<SourceFile>,
}

impl SourceMap {
    /// Adds a file.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> SourceId {
        self.files.push(SourceFile { name: name.into(), text: text.into() });
        SourceId(self.files.len() as u32 - 1)
    }

    /// The file.
    pub fn file(&self, id: SourceId) -> &SourceFile {
        &self.files[id.0 as usize]
    }

    /// The id of the file of this name.
    pub fn find(&self, name: &str) -> Option<SourceId> {
        self.files.iter().position(|f| f.name == name).map(|n| SourceId(n as u32))
    }

    /// The text of a span.
    pub fn text(&self, span: Span) -> &str {
        self.file(span.source).text.get(span.start..span.end).unwrap_or("")
    }

    /// All files in order.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth a look; the program is meaningful.
    Warning,
    /// The program has no meaning.
    Error,
}

/// A place and what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What.
    pub text: String,
    /// The place itself, or context for it.
    pub primary: bool,
}

/// A change of the text that would mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// What to replace.
    pub span: Span,
    /// By what.
    pub replacement: String,
    /// Why, in a few words.
    pub message: String,
}

/// One message about the author's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable code.
    pub code: Code,
    /// Error or warning.
    pub severity: Severity,
    /// One sentence.
    pub message: String,
    /// Places, the primary one first.
    pub labels: Vec<Label>,
    /// Background.
    pub notes: Vec<String>,
    /// What to do.
    pub helps: Vec<String>,
    /// Changes that would mend it.
    pub suggestions: Vec<Suggestion>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(code: Code, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(Severity::Error, code, span, message.into())
    }

    /// A warning at a place.
    pub fn warning(code: Code, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(Severity::Warning, code, span, message.into())
    }

    fn new(severity: Severity, code: Code, span: Span, message: String) -> Diagnostic {
        let labels = vec![Label { span, text: String::new(), primary: true }];
        Diagnostic { code, severity, message, labels, notes: vec![], helps: vec![], suggestions: vec![] }
    }

    /// Text under the caret.
    pub fn label(mut self, text: impl Into<String>) -> Diagnostic {
        self.labels[0].text = text.into();
        self
    }

    /// A further place.
    pub fn context(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        self.labels.push(Label { span, text: text.into(), primary: false });
        self
    }

    /// Background.
    pub fn note(mut self, text: impl Into<String>) -> Diagnostic {
        self.notes.push(text.into());
        self
    }

    /// What to do.
    pub fn help(mut self, text: impl Into<String>) -> Diagnostic {
        self.helps.push(text.into());
        self
    }

    /// A change that would mend it.
    pub fn suggest(
        mut self,
        span: Span,
        replacement: impl Into<String>,
        message: impl Into<String>,
    ) -> Diagnostic {
        self.suggestions.push(Suggestion { span, replacement: replacement.into(), message: message.into() });
        self
    }

    /// The primary span.
    pub fn span(&self) -> Span {
        self.labels[0].span
    }
}

/// The most diagnostics of one run; later ones are counted only.
pub const MAX_DIAGNOSTICS: usize = 50;

/// A sink of diagnostics.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    items: Vec<Diagnostic>,
    /// How many were dropped because there were too many.
    pub dropped: usize,
}

impl Diagnostics {
    /// Adds one; equal ones are kept once.
    pub fn push(&mut self, d: Diagnostic) {
        if self.items.contains(&d) {
            return;
        }
        if self.items.len() >= MAX_DIAGNOSTICS {
            self.dropped += 1;
        } else {
            self.items.push(d);
        }
    }

    /// Adds all of another sink.
    pub fn extend(&mut self, other: Diagnostics) {
        self.dropped += other.dropped;
        for d in other.items {
            self.push(d);
        }
    }

    /// Puts them in the order of the text, file by file.
    pub fn sort(&mut self) {
        self.items.sort_by_key(|d| (d.span().source, d.span().start));
    }

    /// Keeps those for which `keep` holds.
    pub fn retain(&mut self, keep: impl FnMut(&Diagnostic) -> bool) {
        self.items.retain(keep);
    }

    /// All of them, in order of discovery.
    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    /// True if the program has no meaning.
    pub fn has_errors(&self) -> bool {
        self.dropped > 0 || self.items.iter().any(|d| d.severity == Severity::Error)
    }

    /// True if nothing was said.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// A clause that a target cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The clause or operation, as the author wrote it.
    pub clause: String,
    /// The target.
    pub target: String,
    /// The closest thing that works.
    pub nearest: String,
    /// Where, if it stands in the text.
    pub span: Option<Span>,
}

impl Unsupported {
    /// As a diagnostic, if it has a place.
    pub fn diagnostic(&self) -> Option<Diagnostic> {
        let span = self.span?;
        let message = format!("`{}` cannot be run on {} yet", self.clause, self.target);
        Some(
            Diagnostic::error(Code::Unsupported, span, message)
                .label("this clause")
                .help(self.nearest.clone()),
        )
    }
}

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` cannot be run on {} yet: {}", self.clause, self.target, self.nearest)
    }
}

/// Our bug: an invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "internal error in {stage}: {invariant} does not hold at `{op}`; this is a bug in attnc, please report it"
)]
pub struct Internal {
    /// Stage of the pipeline.
    pub stage: String,
    /// The invariant.
    pub invariant: String,
    /// The offending operation, printed.
    pub op: String,
}
