//! The stable codes of diagnostics, each with a title and a long explanation (`attnc --explain E0101`).
//!
//! E00xx syntax, E01xx names and definitions, E02xx dims and tensors, E03xx types and expressions, E04xx clauses,
//! E05xx conventions, E06xx promises, E08xx unsupported, W09xx warnings. To add one: a line here and a page in
//! `compiler/src/codes/`.

macro_rules! codes {
    ($($name:ident = $code:literal, $title:literal;)*) => {
        /// A stable code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum Code { $($name),* }

        impl Code {
            /// Every code.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// `E0101`
            pub const fn id(self) -> &'static str {
                match self { $(Code::$name => $code),* }
            }

            /// What it is about, in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Code::$name => $title),* }
            }

            /// The long explanation, Markdown.
            pub const fn explanation(self) -> &'static str {
                match self { $(Code::$name => include_str!(concat!("../codes/", $code, ".md"))),* }
            }
        }
    };
}

codes! {
    Syntax = "E0001", "the text does not follow the grammar";
    Unclosed = "E0002", "a bracket or string is never closed";
    TooLarge = "E0003", "the text is too large or nested too deeply";
    ComparisonChain = "E0004", "comparisons cannot be chained";
    BadNumber = "E0005", "a number that cannot be represented";
    UnknownClause = "E0006", "no clause begins with this word";
    Unsupported = "E0801", "a clause that the target cannot run yet";
}

impl Code {
    /// The code with this id, in either case.
    pub fn from_id(id: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|c| c.id().eq_ignore_ascii_case(id))
    }
}
