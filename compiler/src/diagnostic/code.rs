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
    ForeignOperator = "E0007", "an operator that is written otherwise here";
    BrokenInterval = "E0008", "an interval is incomplete";
    UnknownName = "E0101", "nothing has this name";
    DuplicateName = "E0102", "a name is declared twice";
    Recursion = "E0103", "a definition is recursive";
    WrongArguments = "E0104", "a call has the wrong arguments";
    UnknownFunction = "E0105", "no function has this name";
    ImportNotFound = "E0106", "an import cannot be found";
    ImportCycle = "E0107", "files import each other";
    InlineLimit = "E0108", "an expression is too large after inlining";
    ReservedName = "E0109", "a name is reserved";
    MissingStatic = "E0110", "a static parameter has no value";
    BadParam = "E0111", "a parameter's type or default is wrong";
    BadDim = "E0201", "a dim's size is wrong";
    RuntimeFeatureDim = "E0202", "a run-time parameter sizes a feature dim";
    MissingDim = "E0203", "a plan lacks the size of a dim";
    BadPlanValue = "E0204", "a plan gives a value that the text refuses";
    BadTensorType = "E0205", "a tensor's type is wrong";
    BadAttribute = "E0206", "an attribute does not fit its tensor";
    BadLayout = "E0207", "a layout is not an order of the dims";
    WrongIndex = "E0208", "a tensor is indexed wrongly";
    IndexRange = "E0209", "an index is out of range";
    BadRoles = "E0210", "the dims of queries, keys and values do not fit together";
    TypeMismatch = "E0301", "an expression has the wrong type";
    Narrowing = "E0302", "a float stands where an int is wanted";
    RowMismatch = "E0303", "rows or matrices of different lengths meet";
    Overflow = "E0304", "a constant does not fit 64 bits";
    DivisionByZero = "E0305", "a divisor is zero";
    WrongPlace = "E0306", "an expression has no meaning in this place";
    DuplicateClause = "E0401", "a clause stands twice";
    MissingClause = "E0402", "a clause is missing";
    ClauseNotHere = "E0403", "a clause has no place in this block";
    BadWeight = "E0404", "the weight is not a function of the score";
    BadReturn = "E0405", "a result cannot be returned";
    BadMask = "E0406", "a mask reads what a mask cannot read";
    BadScore = "E0407", "a score has no dot, or one in the wrong place";
    BadSelect = "E0408", "a selection is wrong";
    BadRotate = "E0409", "a rotation or feature map is wrong";
    BadCache = "E0410", "a cache or append is wrong";
    BadState = "E0411", "a state or update of a recurrence is wrong";
    BadOption = "E0412", "an option or its value is unknown";
    BadDistribute = "E0413", "a distribution is wrong";
    BadDropout = "E0414", "a dropout is wrong";
    BadBranch = "E0415", "branches do not fit together";
    BadDerived = "E0416", "a derived tensor is wrong";
    AlignRequired = "E0501", "it is not said where `i` stands against `j`";
    HeadsRequired = "E0502", "it is not said which key head a query head reads";
    HeadsDivide = "E0503", "query heads are not a multiple of key heads";
    BadConvention = "E0504", "a convention is unknown or does not fit";
    BadEnsure = "E0601", "a promise cannot be checked";
    BadTest = "E0602", "a test grid is wrong";
    Unused = "W0901", "something is never used";
    MixedAndOr = "W0902", "`&` and `|` are mixed without parentheses";
    EmptyInterval = "W0903", "an interval or mask is always empty";
    BrokenPromise = "E0603", "a promise does not hold";
    UnprovablePromise = "E0604", "a promise cannot be proved";
    BadSchedule = "E0701", "a schedule does not fit";
    Unsupported = "E0801", "a clause that the target cannot run yet";
}

impl Code {
    /// The code with this id, in either case.
    pub fn from_id(id: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|c| c.id().eq_ignore_ascii_case(id))
    }
}
