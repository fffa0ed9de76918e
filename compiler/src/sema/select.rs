//! `select`: queries or keys chosen by data.
//!
//! Comes in: `select` clauses. Goes out: [`Choices`]. What holds: options are known and typed, each of i and j is
//! selected at most once, what is ranked runs along the sequence that is selected. Not here: how the chosen rows are
//! found.

use crate::diagnostic::{Code, Diagnostic, Span};
use crate::syntax::ast::{self, Arg, ClauseKind, ExprKind};

use super::body;
use super::choice::{Choices, KeyChoice, ListFact, RankFact, TopFact, windows_of};
use super::clauses::Clauses;
use super::elab::Elab;
use super::hir::{Expr, Kind, Size, Type, Uses, find};
use super::model::{Body, RowsFact, UnsupportedClause, WeightHir};
use super::options::word_of;
use super::suggest::nearest;

/// Kinds of selection.
const KINDS: [&str; 3] = ["topk", "topk_blocks", "blocks"];

impl Elab<'_> {
    /// Checks every `select` of a block.
    pub fn selects(&mut self, clauses: &Clauses<'_>) -> Choices {
        let mut out = Choices::default();
        let mut seen: Vec<(String, Span)> = Vec::new();
        for clause in &clauses.all {
            let ClauseKind::Select { name, by } = &clause.kind else { continue };
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
            match (name.node.as_str(), self.selection(name, by)) {
                ("i", Some(KeyChoice::Top(top))) => out.queries = Some(top),
                (_, Some(choice)) => out.keys = Some(choice),
                (_, None) => {}
            }
        }
        out
    }

    fn selection(&mut self, name: &ast::Name, by: &ast::Expr) -> Option<KeyChoice> {
        let ExprKind::Call { name: kind, args } = &by.node else {
            let d = Diagnostic::error(Code::BadSelect, by.span, "a selection is a call")
                .label("expected topk, topk_blocks or blocks");
            self.report
                .push(d.help("for instance `select j = topk_blocks(score = dot(q, kc), size = 64, n = 16)`"));
            return None;
        };
        match kind.node.as_str() {
            "topk" => self.topk(args, by.span).map(KeyChoice::Top),
            "topk_blocks" | "blocks" if name.node == "i" => {
                let d =
                    Diagnostic::error(Code::BadSelect, kind.span, format!("`{}` chooses keys", kind.node))
                        .label("not queries")
                        .suggest(name.span, "j", "select keys");
                self.report.push(d);
                None
            }
            "topk_blocks" => self.topk_blocks(args, by.span).map(|r| KeyChoice::Ranked(Box::new(r))),
            "blocks" => self.host_blocks(args, by.span).map(KeyChoice::Listed),
            other => {
                let mut d =
                    Diagnostic::error(Code::BadSelect, kind.span, format!("there is no selection `{other}`"))
                        .label(format!("expected {}", KINDS.join(", ")));
                d = match nearest(other, KINDS) {
                    Some(n) => d.suggest(kind.span, n.clone(), format!("did you mean `{n}`?")),
                    None => d.help("`topk(x, n)` chooses rows, `topk_blocks(score, size, n)` blocks of keys"),
                };
                self.report.push(d);
                None
            }
        }
    }

    /// A count: an int known when the kernel is launched.
    fn count(&mut self, e: &ast::Expr) -> Expr {
        let n = self.size_expr(e);
        if n.int().is_some_and(|n| n < 0) {
            self.report.error(Code::BadSelect, e.span, "a count is at least 0", "negative");
        }
        n
    }

    fn topk(&mut self, args: &[Arg], span: Span) -> Option<TopFact> {
        let bound = self.bind("topk", &["x", "n", "gate"], 2, args, span)?;
        let x = self.along_sequence(bound[0]?);
        let n = self.count(bound[1]?);
        let gate = bound[2].map(|gate| self.along_sequence(gate));
        let wrong = x.is_error() || n.is_error() || gate.as_ref().is_some_and(|g| g.is_error());
        (!wrong).then_some(TopFact { x, n, gate, span })
    }

    /// A tensor over the sequence, or elementwise arithmetic on one.
    fn along_sequence(&mut self, e: &ast::Expr) -> Expr {
        let x = self.expr(e);
        if !matches!(x.ty, Type::Row(_) | Type::Error) {
            let d = Diagnostic::error(Code::BadSelect, e.span, "this is ranked along the sequence")
                .label(format!("expected a tensor over the sequence, found {}", x.ty.words()));
            self.report.push(d.help("name an input such as `f32[B, S]` without brackets"));
            return self.err(e.span);
        }
        self.want_row(&x)
    }

    fn topk_blocks(&mut self, args: &[Arg], span: Span) -> Option<RankFact> {
        let params = ["score", "size", "n", "pool", "share", "keep"];
        let bound = self.bind("topk_blocks", &params, 3, args, span)?;
        let (score, dots) = self.pooled_score(bound[0]?);
        let size = self.positive(bound[1]?, "size");
        let n = self.count(bound[2]?);
        let softmax = self.word_option(bound[3], "pool", &["max", "softmax"]) == Some("softmax");
        let share = self.word_option(bound[4], "share", &["kv_head"]).is_some();
        let (mut first, mut current) = (false, false);
        if let Some(keep) = bound[5] {
            let items = match &keep.node {
                ExprKind::List(items) => items.iter().collect(),
                _ => vec![keep],
            };
            for item in items {
                match self.word_option(Some(item), "keep", &["first", "current"]) {
                    Some("first") => first = true,
                    Some(_) => current = true,
                    None => {}
                }
            }
        }
        let size = size.filter(|_| !score.is_error() && !n.is_error() && !dots.is_empty())?;
        let text = format!("select j = {}", self.text(span));
        Some(RankFact { score, dots, size, n, softmax, share, first, current, text, span })
    }

    /// A score of queries and pooled keys, with its dots.
    fn pooled_score(&mut self, e: &ast::Expr) -> (Expr, Vec<super::model::DotFact>) {
        let x = self.expr(e);
        let x = self.widen(&x);
        if x.is_error() {
            return (x, vec![]);
        }
        if !x.uses.any(Uses::DOT) {
            let d = Diagnostic::error(
                Code::BadSelect,
                e.span,
                "blocks are ranked by a score of queries and keys",
            )
            .label("no dot in it");
            self.report.push(d.help("for instance `score = dot(q, kc)`"));
            return (self.err(e.span), vec![]);
        }
        let roles = self.roles(&x);
        let dots = body::dots(&x, &roles);
        let windows = |t: usize| windows_of(&self.made, t).map(|w| (w.block, w.stride));
        let all: Vec<_> = dots.iter().map(|d| windows(d.y.tensor)).collect();
        let plain = dots.iter().all(|d| matches!(&d.y_row.kind, Kind::Row(_, at) if at.is_empty()));
        if !dots.is_empty() && (all[0].is_none() || all.iter().any(|w| *w != all[0]) || !plain) {
            let d = Diagnostic::error(Code::BadSelect, e.span, "blocks are ranked by windows of keys")
                .label("these keys are no windows of others, or not the same windows")
                .help("pool them: `let kc = mean_pool(k, block = 32, stride = 16)`, then `dot(q, kc)`");
            self.report.push(d);
            return (self.err(e.span), vec![]);
        }
        (x, dots)
    }

    fn word_option(
        &mut self,
        e: Option<&ast::Expr>,
        option: &str,
        known: &[&'static str],
    ) -> Option<&'static str> {
        let e = e?;
        let word = word_of(e).unwrap_or("");
        if let Some(known) = known.iter().find(|k| **k == word) {
            return Some(known);
        }
        let mut d =
            Diagnostic::error(Code::BadSelect, e.span, format!("`{option}` does not take this value"))
                .label(format!("expected {}", known.join(", ")));
        d = match nearest(word, known.iter().copied()) {
            Some(n) => d.suggest(e.span, n.clone(), format!("did you mean `{n}`?")),
            None => d.suggest(e.span, known[0], format!("for instance `{}`", known[0])),
        };
        self.report.push(d);
        None
    }

    fn host_blocks(&mut self, args: &[Arg], span: Span) -> Option<ListFact> {
        let bound = self.bind("blocks", &["t", "size"], 2, args, span)?;
        let t = bound[0]?;
        let x = self.expr(t);
        let tensor = match &x.kind {
            Kind::Row(n, index) if index.is_empty() && !self.tensors[*n].elem.is_float() => Some(*n),
            _ => None,
        };
        if tensor.is_none() && !x.is_error() {
            let d = Diagnostic::error(Code::BadSelect, t.span, "block indices are an integer tensor")
                .label(x.ty.words());
            self.report.push(d.help("declare `input t : i32[B, H, NQ, N]` and name it without brackets"));
        }
        let size = self.positive(bound[1]?, "size")?;
        let text = format!("select j = {}", self.text(span));
        Some(ListFact { tensor: tensor?, size, text, span })
    }
}

impl Elab<'_> {
    /// What is chosen against who reads it.
    pub fn check_choices(&mut self, choices: &Choices, body: &Body) {
        let Some(dot) = body.dots.first() else { return };
        let size = |elab: &Self, r: RowsFact| elab.tensors[r.tensor].shape[r.seq].clone();
        let batch = |elab: &Self, r: RowsFact| r.batch.map(|d| elab.tensors[r.tensor].shape[d].clone());
        let (seq_q, seq_k, of) = (size(self, dot.x), size(self, dot.y), batch(self, dot.x));
        if let Some(top) = &choices.queries {
            self.check_top(top, &seq_q, of.as_ref(), "query");
        }
        match &choices.keys {
            Some(KeyChoice::Top(top)) => self.check_top(top, &seq_k, of.as_ref(), "key"),
            Some(KeyChoice::Listed(list)) => self.check_list(list, body),
            Some(KeyChoice::Ranked(rank)) => self.check_rank(rank, body),
            None => {}
        }
        let both = choices.queries.is_some()
            && matches!(choices.keys, Some(KeyChoice::Listed(_) | KeyChoice::Ranked(_)));
        if both {
            let span = choices.queries.as_ref().map_or(dot.x_row.span, |q| q.span);
            let d = Diagnostic::error(Code::BadSelect, span, "blocks of keys are chosen for every query")
                .label("and here queries are chosen")
                .help("choose queries together with `select j = topk(...)`, or with all keys");
            self.report.push(d);
        }
    }

    /// What no target computes yet of an attention over chosen rows.
    pub fn choices_unsupported(&self, choices: &Choices, body: &Body, out: &mut Vec<UnsupportedClause>) {
        let top = match (&choices.queries, &choices.keys) {
            (Some(top), _) | (None, Some(KeyChoice::Top(top))) => top,
            _ => return,
        };
        if body.dropout.is_some() {
            let nearest = "drop weights in attentions whose rows are not chosen by `topk`".into();
            out.push(UnsupportedClause { clause: "dropout beside topk".into(), span: top.span, nearest });
        }
    }

    /// What is ranked is a number for each position of the sequence, for all or for each batch entry.
    fn check_top(&mut self, top: &TopFact, seq: &Size, batch: Option<&Size>, what: &str) {
        for x in [Some(&top.x), top.gate.as_ref()].into_iter().flatten() {
            let fits = matches!(&x.ty, Type::Row(n) if n.same(seq));
            let ranked = find(x, &mut |n| match &n.kind {
                Kind::Row(t, at) if at.is_empty() => match &self.tensors[*t].shape[..] {
                    [_] => None,
                    [b, _] if batch.is_some_and(|s| s.same(b)) => None,
                    _ => Some(n.span),
                },
                Kind::Row(..) => None,
                Kind::Index(super::hir::IndexVar::B) => None,
                Kind::Index(_) => Some(n.span),
                _ => None,
            });
            if fits && ranked.is_none() {
                continue;
            }
            let d = Diagnostic::error(
                Code::BadSelect,
                ranked.unwrap_or(x.span),
                format!("this is not one number for each {what}"),
            )
            .label(format!("found {}", x.ty.words()))
            .help(format!("rank an input such as `f32[B, {}]`", seq.text));
            self.report.push(d);
        }
    }

    /// `t` is `[B, heads, rows or blocks of queries, N]`, leading dims optional.
    fn check_list(&mut self, list: &ListFact, body: &Body) {
        if matches!(body.weight, WeightHir::Sigmoid) {
            let message = "a block named twice counts twice, and a sigmoid has no such weight";
            let d = Diagnostic::error(Code::BadSelect, list.span, message)
                .label("with `weight = sigmoid(score)`")
                .help("use softmax, relu or the plain score, or a mask tensor of blocks");
            self.report.push(d);
        }
        let x = body.dots[0].x;
        let t = &self.tensors[list.tensor];
        let same = |d: Option<usize>, with: RowsFact, at: Option<usize>| match (d, at) {
            (Some(d), Some(at)) => t.shape[d].same(&self.tensors[with.tensor].shape[at]),
            _ => false,
        };
        let rank = t.shape.len();
        let keys = body.dots.iter().map(|d| d.y).chain([body.value]).find(|r| r.head.is_some());
        let head = rank.checked_sub(3);
        let head_fits = rank < 3 || same(head, x, x.head) || keys.is_some_and(|k| same(head, k, k.head));
        let batch_fits = rank < 4 || same(Some(0), x, x.batch);
        if !(2..=4).contains(&rank) || !head_fits || !batch_fits {
            let label = format!("`{}` is {}", t.name, t.type_text());
            let d = Diagnostic::error(Code::BadSelect, list.span, "these lists of blocks fit no queries")
                .label(label)
                .context(t.span, "declared here")
                .help("declare them `i32[B, H, NQ, N]`: batch, query or key heads, blocks of queries or queries, list");
            self.report.push(d);
        }
    }

    /// Pooled scores are of the attention's queries and of windows of its keys.
    fn check_rank(&mut self, rank: &RankFact, body: &Body) {
        let (x, y) = (body.dots[0].x, body.dots[0].y);
        let shape = |r: RowsFact, d: Option<usize>| d.map(|d| self.tensors[r.tensor].shape[d].clone());
        let alike = |a: Option<Size>, b: Option<Size>| match (a, b) {
            (Some(a), Some(b)) => a.same(&b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let fits = rank.dots.iter().all(|d| {
            let source = windows_of(&self.made, d.y.tensor).map(|w| w.source);
            let windows = source.is_some_and(|s| {
                let of = RowsFact { tensor: s, ..d.y };
                alike(shape(of, Some(d.y.seq)), shape(y, Some(y.seq)))
            });
            windows
                && alike(shape(d.x, Some(d.x.seq)), shape(x, Some(x.seq)))
                && alike(shape(d.x, d.x.head), shape(x, x.head))
                && alike(shape(d.x, d.x.batch), shape(x, x.batch))
                && (d.y.head.is_none() || alike(shape(d.y, d.y.head), shape(y, y.head)))
        });
        if !fits {
            let d = Diagnostic::error(
                Code::BadSelect,
                rank.span,
                "blocks are ranked by the queries that read them and by windows of their keys",
            )
            .label("other queries, or windows of other keys")
            .help("use the queries of `score`, and `mean_pool` of its keys");
            self.report.push(d);
        }
    }

    /// Routed queries have no place outside a branch.
    pub fn routed_outside(&mut self, choices: &Choices) {
        if let Some(top) = &choices.queries {
            let d = Diagnostic::error(Code::BadSelect, top.span, "queries are selected outside a branch")
                .label("nothing puts their rows back")
                .help("move the attention into a `branch`, and return `scatter` of it");
            self.report.push(d);
        }
    }
}
