//! The clauses of a block, sorted: which stand there, each at most as often as it may.
//!
//! Comes in: the clauses of a kernel or branch. Goes out: [`Clauses`]. What holds: no clause stands twice that may
//! stand once, and none stands where its kind of block has no use for it. Not here: what the clauses say.

use crate::diagnostic::{Code, Diagnostic, Span};
use crate::syntax::ast::{self, Clause, ClauseKind, OptionDecl};

use super::elab::Elab;
use super::model::KernelKind;

/// Where clauses stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// `attention`
    Attention,
    /// `recurrence`
    Recurrence,
    /// `branch` of an attention.
    Branch,
}

impl Block {
    /// Words for messages.
    pub fn words(self) -> &'static str {
        match self {
            Block::Attention => "an `attention`",
            Block::Recurrence => "a `recurrence`",
            Block::Branch => "a `branch`",
        }
    }
}

/// The clauses of one block; those that may repeat in order of the text.
#[derive(Default)]
pub(crate) struct Clauses<'c> {
    /// Every clause that was accepted, in order.
    pub all: Vec<&'c Clause>,
    /// `score`
    pub score: Option<(&'c ast::Expr, Span)>,
    /// `mask`
    pub mask: Option<(&'c ast::Expr, Span)>,
    /// `weight`
    pub weight: Option<(&'c ast::Expr, Span)>,
    /// `return`
    pub result: Option<(&'c [ast::Expr], Span)>,
    /// `heads`
    pub heads: Option<(&'c ast::Name, Option<&'c ast::Expr>, Span)>,
    /// `align`
    pub align: Option<(&'c ast::Name, Span)>,
    /// `numerics`
    pub numerics: Option<(&'c [OptionDecl], Span)>,
}

/// Sorts the clauses of a block and reports those that stand twice or have no place.
pub(crate) fn collect<'c>(elab: &mut Elab<'_>, clauses: &'c [Clause], block: Block) -> Clauses<'c> {
    let mut out = Clauses::default();
    for clause in clauses {
        let word = clause.kind.keyword().to_string();
        if !allowed(&clause.kind, block) {
            let d = Diagnostic::error(
                Code::ClauseNotHere,
                clause.span,
                format!("`{word}` has no place in {}", block.words()),
            )
            .label("not here")
            .help(instead(&clause.kind, block));
            elab.report.push(d);
            continue;
        }
        if once(&clause.kind) {
            let same = |c: &&&Clause| std::mem::discriminant(&c.kind) == std::mem::discriminant(&clause.kind);
            if let Some(first) = out.all.iter().find(same) {
                let d =
                    Diagnostic::error(Code::DuplicateClause, clause.span, format!("`{word}` stands twice"))
                        .label("the second one")
                        .context(first.span, "the first one")
                        .help(joined(&clause.kind));
                elab.report.push(d);
                continue;
            }
        }
        out.all.push(clause);
        out.file(clause);
    }
    out
}

impl<'c> Clauses<'c> {
    fn file(&mut self, clause: &'c Clause) {
        let span = clause.span;
        match &clause.kind {
            ClauseKind::Score(e) => self.score = Some((e, span)),
            ClauseKind::Mask(e) => self.mask = Some((e, span)),
            ClauseKind::Weight(e) => self.weight = Some((e, span)),
            ClauseKind::Return(e) => self.result = Some((e, span)),
            ClauseKind::Heads { scheme, by } => self.heads = Some((scheme, by.as_ref(), span)),
            ClauseKind::Align(name) => self.align = Some((name, span)),
            ClauseKind::Numerics(options) => self.numerics = Some((options, span)),
            _ => {}
        }
    }

    /// True if any clause satisfies `f`.
    pub fn any(&self, f: impl Fn(&ClauseKind) -> bool) -> bool {
        self.all.iter().any(|c| f(&c.kind))
    }
}

/// The kind of block that a kernel opens.
pub(crate) fn block_of(kind: KernelKind) -> Block {
    match kind {
        KernelKind::Attention => Block::Attention,
        KernelKind::Recurrence => Block::Recurrence,
    }
}

fn once(kind: &ClauseKind) -> bool {
    use ClauseKind::*;
    matches!(
        kind,
        Heads { .. }
            | Align(_)
            | Mode(_)
            | Score(_)
            | Mask(_)
            | Weight(_)
            | Dropout(_)
            | Numerics(_)
            | Distribute(_)
            | Return(_)
    )
}

fn allowed(kind: &ClauseKind, block: Block) -> bool {
    use ClauseKind::*;
    match kind {
        Input(_) | Let { .. } | Map { .. } | Rotate { .. } | Return(_) => true,
        Dims(_) | Numerics(_) | Schedule { .. } | Ensure { .. } | Test(_) => block != Block::Branch,
        Branch { .. } | Mode(_) | Distribute(_) => block == Block::Attention,
        State { .. } | Update { .. } => block == Block::Recurrence,
        Heads { .. }
        | Align(_)
        | Cache(_)
        | Append(_)
        | Select { .. }
        | Score(_)
        | Mask(_)
        | Weight(_)
        | Dropout(_) => block != Block::Recurrence,
    }
}

fn instead(kind: &ClauseKind, block: Block) -> String {
    use ClauseKind::*;
    match (kind, block) {
        (State { .. } | Update { .. }, _) => "states and their updates stand in a `recurrence`".into(),
        (Branch { .. }, Block::Branch) => "branches do not nest: write them side by side".into(),
        (_, Block::Branch) => "move it out of the branch, to the kernel".into(),
        (Score(_) | Mask(_) | Weight(_), _) => {
            "a recurrence is its `state`, updates and `return`; write an `attention` for scores".into()
        }
        _ => "write an `attention` to use it".into(),
    }
}

fn joined(kind: &ClauseKind) -> &'static str {
    match kind {
        ClauseKind::Mask(_) => "join them in one clause with `&`",
        ClauseKind::Return(_) => "return all results in one clause, separated by commas",
        ClauseKind::Score(_) => "join them in one clause",
        _ => "remove one of them",
    }
}
