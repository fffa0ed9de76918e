//! `map`, `rotate`, `dropout` and `distribute`.
//!
//! Comes in: their clauses. Goes out: checks, and the length of rows that a rotation changes (`lrpe` doubles it).
//! What holds: schemes and their options are known, positions are ints at which the tensor can be read, the body
//! of a `position` types. Not here: angles.

use std::sync::Arc;

use crate::diagnostic::{Code, Diagnostic, Span};
use crate::expr::BinaryOp;
use crate::expr::eval::Value;
use crate::syntax::ast::{self, Arg, ClauseKind, DefKind, ExprKind};

use super::clauses::Clauses;
use super::elab::{Elab, Frame};
use super::hir::{Expr, Kind, Node, Size, Type, Uses};
use super::model::{KernelKind, RowsFact, UnsupportedClause};
use super::modules::DefId;
use super::options::word_of;
use super::suggest::nearest;

/// Feature maps with a name.
const MAPS: [&str; 4] = ["silu", "relu", "elu1", "exp"];

/// Scalings of `rope` with their arguments.
const SCALINGS: [(&str, &[&str]); 6] = [
    ("pi", &["f"]),
    ("ntk", &["f"]),
    ("dyn_ntk", &["f", "original", "len"]),
    ("yarn", &["factor", "original", "fast", "slow", "attn_factor"]),
    ("llama3", &["factor", "low", "high", "original"]),
    ("longrope", &["short", "long", "original"]),
];

/// A rotation, kept until it is known who reads the tensor.
pub(crate) struct Rotation {
    tensor: usize,
    uses: Uses,
    at: Span,
}

impl Elab<'_> {
    /// Every clause that acts on rows, in order.
    pub fn row_clauses(&mut self, clauses: &Clauses<'_>, out: &mut Vec<UnsupportedClause>) {
        for clause in &clauses.all {
            let mut refuse = |nearest: &str| {
                let clause = UnsupportedClause {
                    clause: clause.kind.keyword().into(),
                    span: clause.span,
                    nearest: nearest.into(),
                };
                out.push(clause);
            };
            match &clause.kind {
                ClauseKind::Map { names, by } => {
                    refuse("map the rows on the host and bind the result");
                    self.map_rows(names, by);
                }
                ClauseKind::Rotate { names, by, at } => {
                    refuse("rotate q and k on the host and bind the result");
                    self.rotate(names, by, at);
                }
                ClauseKind::Dropout(args) => {
                    refuse("leave it out, as at inference");
                    self.dropout(args, clause.span);
                }
                ClauseKind::Distribute(e) => {
                    refuse("run on one device: leave the clause out");
                    self.distribute(e);
                }
                ClauseKind::Append(names) => self.append(names, clause.span, out),
                _ => {}
            }
        }
    }

    fn map_rows(&mut self, names: &[ast::Name], by: &ast::Name) {
        self.row_tensors(names);
        if let Some(def) = self.modules.find_def(self.module, &by.node) {
            let opaque = self.opaque(Type::Float, by.span);
            let modules = self.modules;
            let (_, ast) = modules.def(def);
            if ast.kind != DefKind::Fn || ast.params.len() != 1 {
                let d = Diagnostic::error(
                    Code::BadRotate,
                    by.span,
                    format!("`{}` is not a feature map", by.node),
                )
                .label("expected a `fn` of one argument")
                .help(format!("there are {}", MAPS.join(", ")));
                self.report.push(d);
                self.used_defs.insert(def);
                return;
            }
            let body = self.inline_values(def, vec![opaque], by.span);
            self.widen(&body);
            return;
        }
        if !MAPS.contains(&by.node.as_str()) {
            let mut d =
                Diagnostic::error(Code::BadRotate, by.span, format!("there is no feature map `{}`", by.node))
                    .label("expected silu, relu, elu1, exp or a `fn` of one argument");
            d = match nearest(&by.node, MAPS) {
                Some(n) => d.suggest(by.span, n.clone(), format!("did you mean `{n}`?")),
                None => d.help(format!("define it: `fn {}(x) = ...`", by.node)),
            };
            self.report.push(d);
        }
    }

    /// A float or int of which nothing is known.
    fn opaque(&self, ty: Type, span: Span) -> Expr {
        Arc::new(Node::new(Kind::Error, ty, span, Uses::NONE))
    }

    /// The named tensors of float rows.
    fn row_tensors(&mut self, names: &[ast::Name]) -> Vec<usize> {
        let mut out = Vec::new();
        for name in names {
            let Some(n) = self.named_tensor(name) else { continue };
            let t = &self.tensors[n];
            if !t.elem.is_float() || t.shape.len() < 2 {
                let d = Diagnostic::error(
                    Code::BadRotate,
                    name.span,
                    format!("`{}` has no rows of floats", name.node),
                )
                .label(format!("it is {}", t.type_text()))
                .help("map and rotate act on the last dim of q, k or appended rows");
                self.report.push(d);
                continue;
            }
            out.push(n);
        }
        out
    }

    fn rotate(&mut self, names: &[ast::Name], by: &ast::Expr, at: &ast::Expr) {
        let tensors = self.row_tensors(names);
        let ExprKind::Call { name, args } = &by.node else {
            let text = self.text(by.span);
            let d = Diagnostic::error(Code::BadRotate, by.span, "a rotation is a call")
                .label("expected for instance rope(theta = 10K)")
                .suggest(by.span, format!("{text}()"), "call it");
            self.report.push(d);
            return;
        };
        let mut sections = None;
        if let Some(def) = self.modules.find_def(self.module, &name.node) {
            self.user_position(def, name, args, by.span);
        } else {
            match name.node.as_str() {
                "rope" => sections = self.rope(args, by.span, &tensors),
                "lrpe" => self.lrpe(args, by.span, &tensors),
                _ => self.unknown_rotation(name),
            }
        }
        self.position(at, sections, &tensors);
    }

    fn unknown_rotation(&mut self, name: &ast::Name) {
        let mut known = self.modules.visible_defs(self.module);
        known.extend(["rope".into(), "lrpe".into()]);
        let mut d =
            Diagnostic::error(Code::BadRotate, name.span, format!("there is no rotation `{}`", name.node))
                .label("expected rope, lrpe or a `position`");
        d = match nearest(&name.node, known.iter().map(String::as_str)) {
            Some(n) => d.suggest(name.span, n.clone(), format!("did you mean `{n}`?")),
            None => d.help("define it with `position`, or import `std.position`"),
        };
        self.report.push(d);
    }

    /// The position: an int, or with sections a list of as many ints.
    fn position(&mut self, at: &ast::Expr, sections: Option<usize>, tensors: &[usize]) {
        let items: Vec<&ast::Expr> = match (&at.node, sections) {
            (ExprKind::List(items), Some(n)) if items.len() == n => items.iter().collect(),
            (ExprKind::List(items), n) => {
                let d = Diagnostic::error(
                    Code::BadRotate,
                    at.span,
                    format!("{} positions for {} sections", items.len(), n.unwrap_or(1)),
                )
                .label("one position for each section")
                .help("give `rope` as many `sections` as there are positions");
                self.report.push(d);
                return;
            }
            _ => vec![at],
        };
        let mut uses = Uses::NONE;
        for e in items {
            let x = self.expr(e);
            let x = self.want_int(&x, "a position");
            uses = uses.or(x.uses);
        }
        for &tensor in tensors {
            self.rotations.push(Rotation { tensor, uses, at: at.span });
        }
    }

    /// A query is read at i, a key at j: a rotation must not use the other.
    pub fn check_rotations(&mut self, dots: &[(RowsFact, RowsFact)]) {
        for r in std::mem::take(&mut self.rotations) {
            let query = dots.iter().any(|d| d.0.tensor == r.tensor);
            let key = dots.iter().any(|d| d.1.tensor == r.tensor);
            let (wrong, side, right) = match (query, key) {
                (true, false) if r.uses.any(Uses::J) => ("j", "query", "i"),
                (false, true) if r.uses.any(Uses::I.or(Uses::ROW)) => ("i", "key", "j"),
                _ => continue,
            };
            let text = self.text(r.at);
            let name = self.tensors[r.tensor].name.clone();
            let d = Diagnostic::error(
                Code::BadRotate,
                r.at,
                format!("`{name}` is a {side}, and a {side} has no `{wrong}`"),
            )
            .label(format!("a {side} is rotated at a position of `{right}`"))
            .suggest(r.at, replace_word(&text, wrong, right), "rotate it at its own position");
            self.report.push(d);
        }
    }

    /// `rope(...)`: the number of sections, if any.
    fn rope(&mut self, args: &[Arg], span: Span, tensors: &[usize]) -> Option<usize> {
        let params = ["theta", "dims", "style", "sections", "scaling"];
        let bound = self.bind("rope", &params, 0, args, span)?;
        if let Some(e) = bound[0] {
            let theta = self.expr(e);
            self.widen(&theta);
        }
        let dims = bound[1].and_then(|e| self.rope_dims(e, tensors));
        if let Some(e) = bound[2] {
            let known = ["half", "interleaved"];
            if !word_of(e).is_some_and(|w| known.contains(&w)) {
                self.bad_rope(e, "style", &known);
            }
        }
        if let Some(e) = bound[4] {
            self.scaling(e);
        }
        self.sections(bound[3]?, dims)
    }

    fn rope_dims(&mut self, e: &ast::Expr, tensors: &[usize]) -> Option<i64> {
        let n = self.positive(e, "dims")?;
        let feature =
            tensors.iter().filter_map(|t| self.tensors[*t].shape.last().and_then(Size::known)).min();
        if n % 2 != 0 || feature.is_some_and(|f| n > f) {
            let d =
                Diagnostic::error(Code::BadRotate, e.span, format!("{n} dims cannot be rotated in pairs"))
                    .label(feature.map_or("expected an even number".into(), |f| {
                        format!("expected an even number up to {f}")
                    }))
                    .help("leave `dims` out to rotate the whole row");
            self.report.push(d);
            return None;
        }
        Some(n)
    }

    fn sections(&mut self, e: &ast::Expr, dims: Option<i64>) -> Option<usize> {
        let ExprKind::List(items) = &e.node else {
            self.report.error(
                Code::BadRotate,
                e.span,
                "`sections` is a list of pair counts",
                "for instance [16, 24, 24]",
            );
            return None;
        };
        let mut sum = 0i64;
        for item in items {
            sum += self.positive(item, "sections")?;
        }
        if dims.is_some_and(|d| sum > d / 2) {
            let message = format!("the sections hold {sum} pairs, more than are rotated");
            self.report.error(Code::BadRotate, e.span, message, "one pair is two dims");
        }
        Some(items.len())
    }

    fn bad_rope(&mut self, e: &ast::Expr, what: &str, known: &[&str]) {
        let word = match &e.node {
            ExprKind::Call { name, .. } => name.node.clone(),
            _ => word_of(e).unwrap_or("").to_string(),
        };
        let mut d = Diagnostic::error(Code::BadRotate, e.span, format!("`rope` has no such {what}"))
            .label(format!("expected {}", known.join(", ")));
        d = match nearest(&word, known.iter().copied()) {
            Some(n) if n != word => {
                let span = match &e.node {
                    ExprKind::Call { name, .. } => name.span,
                    _ => e.span,
                };
                d.suggest(span, n.clone(), format!("did you mean `{n}`?"))
            }
            _ => d.help(format!("for instance `{what} = {}`", known[0])),
        };
        self.report.push(d);
    }

    fn scaling(&mut self, e: &ast::Expr) {
        if word_of(e) == Some("none") {
            return;
        }
        let found = match &e.node {
            ExprKind::Call { name, args } => {
                SCALINGS.iter().find(|(n, _)| *n == name.node).map(|(n, params)| (*n, *params, args))
            }
            _ => None,
        };
        let Some((name, params, args)) = found else {
            let known: Vec<&str> = SCALINGS.iter().map(|s| s.0).collect();
            self.bad_rope(e, "scaling", &known);
            return;
        };
        let required = if name == "yarn" { 2 } else { params.len() };
        let Some(bound) = self.bind(name, params, required, args, e.span) else { return };
        for x in bound.into_iter().flatten() {
            if let ExprKind::List(items) = &x.node {
                for item in items {
                    let item = self.expr(item);
                    self.widen(&item);
                }
                continue;
            }
            let x = self.expr(x);
            if !matches!(x.ty, Type::Row(_)) {
                self.widen(&x);
            }
        }
    }

    /// `lrpe(theta)`: rows become [x cos, x sin], twice as long.
    fn lrpe(&mut self, args: &[Arg], span: Span, tensors: &[usize]) {
        let Some(bound) = self.bind("lrpe", &["theta"], 1, args, span) else { return };
        if let Some(e) = bound[0] {
            let theta = self.expr(e);
            let theta = self.want_row(&theta);
            for &t in tensors {
                let Some(feature) = self.tensors[t].shape.last().cloned() else { continue };
                if let Type::Row(n) = &theta.ty
                    && !n.same(&feature)
                {
                    self.length_mismatch(&n.clone(), &feature, e.span);
                }
            }
        }
        for &t in tensors {
            let Some(old) = self.tensors[t].shape.last().cloned() else { continue };
            let two = self.constant(Value::Int(2), span);
            let expr = self.arith(BinaryOp::Mul, &two, &old.expr, span);
            self.row_sizes.insert(t, Size { expr, text: format!("2 * {}", old.text), dim: None });
        }
    }

    /// A `position` of the author: its body types with x0, x1, pos and d.
    fn user_position(&mut self, def: DefId, name: &ast::Name, args: &[Arg], span: Span) {
        self.used_defs.insert(def);
        let modules = self.modules;
        let (home, ast) = modules.def(def);
        if ast.kind != DefKind::Position {
            let d = Diagnostic::error(
                Code::BadRotate,
                name.span,
                format!("`{}` is a `{}`, not a `position`", name.node, ast.kind.keyword()),
            )
            .label("cannot rotate")
            .context(ast.name.span, "defined here")
            .help("define it with `position f(...) = [.., ..]`");
            self.report.push(d);
            return;
        }
        if modules.is_recursive(def) {
            return;
        }
        let Some(mut values) = self.bind_definition(def, args, span) else { return };
        for (var, ty) in [("x0", Type::Float), ("x1", Type::Float), ("pos", Type::Int), ("d", Type::Int)] {
            values.insert(var.into(), self.opaque(ty, span));
        }
        let ExprKind::List(pair) = &ast.body.node else { return };
        self.report.calls.push((ast.name.node.clone(), span));
        self.frames.push(Frame { module: home, args: values });
        for e in pair {
            let x = self.expr(e);
            self.widen(&x);
        }
        self.frames.pop();
        self.report.calls.pop();
    }

    fn dropout(&mut self, args: &[Arg], span: Span) {
        let Some(bound) = self.bind("dropout", &["p", "seed", "offset"], 3, args, span) else { return };
        let (Some(p), Some(seed), Some(offset)) = (bound[0], bound[1], bound[2]) else { return };
        let x = self.expr(p);
        let x = self.widen(&x);
        let outside = matches!(x.value, Some(Value::Float(v)) if !(0.0..1.0).contains(&v));
        if outside || x.uses.any(Uses::INDEX.or(Uses::FLOAT_LOAD).or(Uses::INT_LOAD)) {
            let d = Diagnostic::error(
                Code::BadDropout,
                p.span,
                "the probability of dropping is one number from 0 to below 1",
            )
            .label("not such a number")
            .help("for instance `dropout (0.1, seed, offset)`");
            self.report.push(d);
        }
        for (e, what) in [(seed, "the seed"), (offset, "the offset")] {
            let x = self.expr(e);
            let x = self.want_int(&x, what);
            if x.uses.any(Uses::INDEX) {
                let d =
                    Diagnostic::error(Code::BadDropout, e.span, format!("{what} is one int for the launch"))
                        .label("depends on the position")
                        .help("make it a run-time parameter");
                self.report.push(d);
            }
        }
    }

    fn distribute(&mut self, e: &ast::Expr) {
        let ExprKind::Call { name, args } = &e.node else {
            self.report.error(
                Code::BadDistribute,
                e.span,
                "a distribution is a call",
                "for instance ring(axis = S)",
            );
            return;
        };
        if name.node != "ring" {
            let d = Diagnostic::error(
                Code::BadDistribute,
                name.span,
                format!("there is no distribution `{}`", name.node),
            )
            .label("expected ring")
            .suggest(name.span, "ring", "write `ring`");
            self.report.push(d);
            return;
        }
        let Some(bound) = self.bind("ring", &["axis", "ranks", "layout"], 1, args, e.span) else { return };
        if let Some(axis) = bound[0] {
            let x = self.expr(axis);
            if !matches!(x.kind, Kind::Dim(_)) && !x.is_error() {
                self.report.error(
                    Code::BadDistribute,
                    axis.span,
                    "the axis of a ring is a dim",
                    "expected the sequence dim",
                );
            }
        }
        if let Some(ranks) = bound[1] {
            let x = self.expr(ranks);
            self.want_int(&x, "the number of ranks");
        }
        if let Some(layout) = bound[2] {
            let known = ["contiguous", "striped", "zigzag"];
            let word = word_of(layout).unwrap_or("");
            if !known.contains(&word) {
                let mut d = Diagnostic::error(Code::BadDistribute, layout.span, "a ring has no such layout")
                    .label(format!("expected {}", known.join(", ")));
                d = match nearest(word, known) {
                    Some(n) => d.suggest(layout.span, n.clone(), format!("did you mean `{n}`?")),
                    None => d.help("`zigzag` balances causal masks"),
                };
                self.report.push(d);
            }
        }
    }

    /// True in a kernel that carries a state.
    pub fn is_recurrence(&self) -> bool {
        self.kind == KernelKind::Recurrence
    }
}

/// A text with a whole word replaced.
fn replace_word(text: &str, from: &str, to: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut token = String::new();
    for c in text.chars().chain(['\0']) {
        if word(c) {
            token.push(c);
            continue;
        }
        out.push_str(if token == from { to } else { &token });
        token.clear();
        if c != '\0' {
            out.push(c);
        }
    }
    out
}
