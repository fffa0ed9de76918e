//! `select`: queries or keys chosen by data.
//!
//! Comes in: `select` clauses. Goes out: which of i and j is selected. What holds: options are known and typed, and
//! each of i and j is selected at most once. Not here: how the chosen rows are found.

use crate::diagnostic::{Code, Diagnostic, Span};
use crate::syntax::ast::{self, Arg, ClauseKind, ExprKind};

use super::clauses::Clauses;
use super::elab::Elab;
use super::hir::{Kind, Type, Uses};
use super::model::UnsupportedClause;
use super::options::word_of;
use super::suggest::nearest;

/// Kinds of selection.
const KINDS: [&str; 3] = ["topk", "topk_blocks", "blocks"];

impl Elab<'_> {
    /// Checks every `select` of a block; true if queries are selected.
    pub fn selects(&mut self, clauses: &Clauses<'_>, out: &mut Vec<UnsupportedClause>) -> bool {
        let mut seen: Vec<(String, Span)> = Vec::new();
        for clause in &clauses.all {
            let ClauseKind::Select { name, by } = &clause.kind else { continue };
            let nearest_word = "mask the pairs that are not selected".into();
            out.push(UnsupportedClause { clause: "select".into(), span: clause.span, nearest: nearest_word });
            if name.node != "i" && name.node != "j" {
                let d = Diagnostic::error(
                    Code::BadSelect,
                    name.span,
                    "a selection chooses queries `i` or keys `j`",
                )
                .label("expected i or j")
                .suggest(name.span, "j", "to choose keys");
                self.report.push(d);
            }
            if let Some((_, first)) = seen.iter().find(|(n, _)| *n == name.node) {
                let d = Diagnostic::error(
                    Code::BadSelect,
                    clause.span,
                    format!("`{}` is selected twice", name.node),
                )
                .label("the second selection")
                .context(*first, "the first one")
                .help("keep one of them");
                self.report.push(d);
            }
            seen.push((name.node.clone(), clause.span));
            self.selection(name, by);
        }
        seen.iter().any(|(n, _)| n == "i")
    }

    fn selection(&mut self, name: &ast::Name, by: &ast::Expr) {
        let ExprKind::Call { name: kind, args } = &by.node else {
            let d = Diagnostic::error(Code::BadSelect, by.span, "a selection is a call")
                .label("expected topk, topk_blocks or blocks");
            self.report
                .push(d.help("for instance `select j = topk_blocks(score = dot(q, kc), size = 64, n = 16)`"));
            return;
        };
        match kind.node.as_str() {
            "topk" => self.topk(args, by.span),
            "topk_blocks" | "blocks" if name.node == "i" => {
                let d =
                    Diagnostic::error(Code::BadSelect, kind.span, format!("`{}` chooses keys", kind.node))
                        .label("not queries")
                        .suggest(name.span, "j", "select keys");
                self.report.push(d);
            }
            "topk_blocks" => self.topk_blocks(args, by.span),
            "blocks" => self.host_blocks(args, by.span),
            other => {
                let mut d =
                    Diagnostic::error(Code::BadSelect, kind.span, format!("there is no selection `{other}`"))
                        .label(format!("expected {}", KINDS.join(", ")));
                d = match nearest(other, KINDS) {
                    Some(n) => d.suggest(kind.span, n.clone(), format!("did you mean `{n}`?")),
                    None => d.help("`topk(x, n)` chooses rows, `topk_blocks(score, size, n)` blocks of keys"),
                };
                self.report.push(d);
            }
        }
    }

    /// A count: an int known when the kernel is launched.
    fn count(&mut self, e: &ast::Expr) {
        let n = self.size_expr(e);
        if n.int().is_some_and(|n| n < 0) {
            self.report.error(Code::BadSelect, e.span, "a count is at least 0", "negative");
        }
    }

    fn topk(&mut self, args: &[Arg], span: Span) {
        let Some(bound) = self.bind("topk", &["x", "n", "gate"], 2, args, span) else { return };
        if let Some(x) = bound[0] {
            self.along_sequence(x);
        }
        if let Some(n) = bound[1] {
            self.count(n);
        }
        if let Some(gate) = bound[2] {
            self.along_sequence(gate);
        }
    }

    /// A tensor over the sequence, or elementwise arithmetic on one.
    fn along_sequence(&mut self, e: &ast::Expr) {
        let x = self.expr(e);
        if !matches!(x.ty, Type::Row(_) | Type::Error) {
            let d = Diagnostic::error(Code::BadSelect, e.span, "this is ranked along the sequence")
                .label(format!("expected a tensor over the sequence, found {}", x.ty.words()));
            self.report.push(d.help("name an input such as `f32[B, S]` without brackets"));
        } else {
            self.want_row(&x);
        }
    }

    fn topk_blocks(&mut self, args: &[Arg], span: Span) {
        let params = ["score", "size", "n", "pool", "share", "keep"];
        let Some(bound) = self.bind("topk_blocks", &params, 3, args, span) else { return };
        if let Some(score) = bound[0] {
            let x = self.expr(score);
            let x = self.widen(&x);
            if !x.is_error() && !x.uses.any(Uses::DOT) {
                let d = Diagnostic::error(
                    Code::BadSelect,
                    score.span,
                    "blocks are ranked by a score of queries and keys",
                )
                .label("no dot in it");
                self.report.push(d.help("for instance `score = dot(q, kc)`"));
            }
        }
        if let Some(size) = bound[1] {
            self.positive(size, "size");
        }
        if let Some(n) = bound[2] {
            self.count(n);
        }
        self.word_option(bound[3], "pool", &["max", "softmax"]);
        self.word_option(bound[4], "share", &["kv_head"]);
        if let Some(keep) = bound[5] {
            match &keep.node {
                ExprKind::List(items) => {
                    for item in items {
                        self.word_option(Some(item), "keep", &["first", "current"]);
                    }
                }
                _ => self.word_option(Some(keep), "keep", &["first", "current"]),
            }
        }
    }

    fn word_option(&mut self, e: Option<&ast::Expr>, option: &str, known: &[&str]) {
        let Some(e) = e else { return };
        let word = word_of(e).unwrap_or("");
        if known.contains(&word) {
            return;
        }
        let mut d =
            Diagnostic::error(Code::BadSelect, e.span, format!("`{option}` does not take this value"))
                .label(format!("expected {}", known.join(", ")));
        d = match nearest(word, known.iter().copied()) {
            Some(n) => d.suggest(e.span, n.clone(), format!("did you mean `{n}`?")),
            None => d.suggest(e.span, known[0], format!("for instance `{}`", known[0])),
        };
        self.report.push(d);
    }

    fn host_blocks(&mut self, args: &[Arg], span: Span) {
        let Some(bound) = self.bind("blocks", &["t", "size"], 2, args, span) else { return };
        if let Some(t) = bound[0] {
            let x = self.expr(t);
            let ints = matches!(&x.kind, Kind::Row(n, index) if index.is_empty() && !self.tensors[*n].elem.is_float());
            if !ints && !x.is_error() {
                let d = Diagnostic::error(Code::BadSelect, t.span, "block indices are an integer tensor")
                    .label(x.ty.words());
                self.report.push(d.help("declare `input t : i32[B, H, NQ, N]` and name it without brackets"));
            }
        }
        if let Some(size) = bound[1] {
            self.positive(size, "size");
        }
    }
}
