//! `map`, `rotate` and `distribute`.
//!
//! Comes in: their clauses. Goes out: checks, and the length of rows that a rotation changes (`lrpe` doubles it).
//! What holds: schemes and their options are known, positions are ints at which the tensor can be read, the body
//! of a `position` types. Not here: angles.

use std::collections::HashSet;
use std::sync::Arc;

use crate::diagnostic::{Code, Diagnostic, Span};
use crate::expr::eval::Value;
use crate::expr::{BinaryOp, UnaryOp};
use crate::syntax::ast::{self, Arg, ClauseKind, DefKind, ExprKind};

use super::clauses::Clauses;
use super::elab::{Elab, Frame};
use super::hir::{Elem, Expr, Kind, Node, Size, Type, Uses};
use super::model::{DotFact, KernelKind, RingFact, RingLayout};
use super::modules::DefId;
use super::options::word_of;
use super::rows::{Pairs, RowOp, RowOpKind, Scaling, Turn};
use super::suggest::nearest;

/// Feature maps with a name.
const MAPS: [&str; 4] = ["silu", "relu", "elu1", "exp"];

/// Scalings of `rope` with their arguments.
const SCALINGS: [(&str, &[&str]); 6] = [
    ("pi", &["f"]),
    ("ntk", &["f"]),
    ("dyn_ntk", &["f", "original", "len"]),
    ("yarn", &["factor", "original", "fast", "slow", "attn_factor", "truncate"]),
    ("llama3", &["factor", "low", "high", "original"]),
    ("longrope", &["short", "long", "original", "len", "factor", "attn_factor"]),
];

/// A rotation, kept until it is known who reads the tensor.
pub(crate) struct Rotation {
    tensor: usize,
    uses: Uses,
    at: Span,
}

impl Elab<'_> {
    /// Every clause that acts on rows, in order.
    pub fn row_clauses(&mut self, clauses: &Clauses<'_>) {
        for clause in &clauses.all {
            match &clause.kind {
                ClauseKind::Map { names, by } => self.map_rows(names, by),
                ClauseKind::Rotate { names, by, at } => self.rotate(names, by, at),
                ClauseKind::Distribute(e) => self.ring = self.distribute(e, clause.span),
                ClauseKind::Append(names) => self.append(names),
                _ => {}
            }
        }
    }

    fn map_rows(&mut self, names: &[ast::Name], by: &ast::Name) {
        let tensors = self.row_tensors(names);
        if let Some(body) = self.feature_map(by) {
            self.add_row_op(&tensors, RowOpKind::Map(body), by.span);
        }
    }

    fn add_row_op(&mut self, tensors: &[usize], kind: RowOpKind, span: Span) {
        self.row_ops.extend(tensors.iter().map(|&tensor| RowOp { tensor, kind: kind.clone(), span }));
    }

    /// The value of a feature map of the element.
    fn feature_map(&mut self, by: &ast::Name) -> Option<Expr> {
        let x = self.elem(Elem::X0, Type::Float, by.span);
        if let Some(def) = self.modules.find_def(self.module, &by.node) {
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
                return None;
            }
            let body = self.inline_values(def, vec![x], by.span);
            return Some(self.widen(&body)).filter(|b| !b.is_error());
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
            return None;
        }
        Some(self.named_map(&by.node, &x, by.span))
    }

    /// `silu(x) = x sigmoid(x)`, `relu(x) = max(x, 0)`, `elu1(x) = x + 1 above 0, e^x below`, `exp(x)`.
    fn named_map(&mut self, name: &str, x: &Expr, span: Span) -> Expr {
        let mut unary = |op| self.node(Kind::Unary(op, x.clone()), Type::Float, span, Uses::NONE);
        let zero = |elab: &mut Self| elab.constant(Value::Float(0.0), span);
        match name {
            "exp" => unary(UnaryOp::Exp),
            "silu" => {
                let gate = unary(UnaryOp::Sigmoid);
                self.arith(BinaryOp::Mul, x, &gate, span)
            }
            "relu" => {
                let zero = zero(self);
                self.arith(BinaryOp::Max, x, &zero, span)
            }
            _ => {
                // e^min(x, 0): the branch not taken must not overflow.
                let zero = zero(self);
                let low = self.arith(BinaryOp::Min, x, &zero, span);
                let below = self.node(Kind::Unary(UnaryOp::Exp, low), Type::Float, span, Uses::NONE);
                let high = self.arith(BinaryOp::Max, x, &zero, span);
                self.arith(BinaryOp::Add, &high, &below, span)
            }
        }
    }

    /// What stands for an element, a position or the index of a pair.
    fn elem(&self, elem: Elem, ty: Type, span: Span) -> Expr {
        Arc::new(Node::new(Kind::Elem(elem), ty, span, Uses::NONE))
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
        let mut pairs = None;
        let mut theta = None;
        if let Some(def) = self.modules.find_def(self.module, &name.node) {
            pairs = self.user_position(def, name, args, by.span).map(Pairs::of_user);
        } else {
            match name.node.as_str() {
                "rope" => pairs = self.rope(args, by.span, &tensors),
                "lrpe" => theta = self.lrpe(args, by.span, &tensors),
                _ => self.unknown_rotation(name),
            }
        }
        let sections = pairs.as_ref().filter(|p| !p.sections.is_empty()).map(|p| p.sections.len());
        let Some(at) = self.position(at, sections, &tensors) else { return };
        match (pairs, theta) {
            (Some(pairs), _) => {
                self.add_row_op(&tensors, RowOpKind::Pairs(Arc::new(Pairs { at, ..pairs })), by.span);
            }
            (None, Some(theta)) => {
                let double = RowOpKind::Double { theta, at: at[0].clone() };
                self.add_row_op(&tensors, double, by.span);
            }
            (None, None) => {}
        }
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
    fn position(&mut self, at: &ast::Expr, sections: Option<usize>, tensors: &[usize]) -> Option<Vec<Expr>> {
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
                return None;
            }
            _ => vec![at],
        };
        let mut uses = Uses::NONE;
        let mut positions = Vec::new();
        for e in items {
            let x = self.expr(e);
            let x = self.want_int(&x, "a position");
            uses = uses.or(x.uses);
            positions.push(x);
        }
        for &tensor in tensors {
            self.rotations.push(Rotation { tensor, uses, at: at.span });
        }
        positions.iter().all(|x| !x.is_error()).then_some(positions)
    }

    /// A query is read at i, a key at j: a rotation must not use the other. One clause for both may say `i`.
    pub fn check_rotations(&mut self, dots: &[DotFact]) {
        let elsewhere = |r: &Rotation| !dots.iter().any(|d| d.x.tensor == r.tensor || d.y.tensor == r.tensor);
        let (others, own): (Vec<Rotation>, Vec<Rotation>) =
            std::mem::take(&mut self.rotations).into_iter().partition(elsewhere);
        self.rotations = others;
        let of_query = |r: &&Rotation| dots.iter().any(|d| d.x.tensor == r.tensor);
        let queries: HashSet<Span> = own.iter().filter(of_query).map(|r| r.at).collect();
        for r in own {
            let query = dots.iter().any(|d| d.x.tensor == r.tensor);
            let key = dots.iter().any(|d| d.y.tensor == r.tensor);
            // Beside a query in one clause `i` is each row's own position.
            let shared = queries.contains(&r.at);
            let (wrong, side, right) = match (query, key) {
                (true, false) if r.uses.any(Uses::J) => ("j", "query", "i"),
                (false, true) if !shared && r.uses.any(Uses::I.or(Uses::ROW)) => ("i", "key", "j"),
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

    /// `rope(...)`, without its positions.
    fn rope(&mut self, args: &[Arg], span: Span, tensors: &[usize]) -> Option<Pairs> {
        let params = ["theta", "dims", "style", "sections", "scaling"];
        let bound = self.bind("rope", &params, 0, args, span)?;
        let theta = match bound[0] {
            Some(e) => {
                let theta = self.expr(e);
                self.widen(&theta)
            }
            None => self.constant(Value::Float(10_000.0), span),
        };
        let dims = bound[1].and_then(|e| self.rope_dims(e, tensors));
        let mut interleaved = false;
        if let Some(e) = bound[2] {
            let known = ["half", "interleaved"];
            interleaved = word_of(e) == Some("interleaved");
            if !word_of(e).is_some_and(|w| known.contains(&w)) {
                self.bad_rope(e, "style", &known);
            }
        }
        let scaling = bound[4].map_or(Some(Scaling::None), |e| self.scaling(e));
        let sections = bound[3].map_or(Some(Vec::new()), |e| self.sections(e, dims));
        let turn = Turn::Rope { theta, scaling: scaling? };
        Some(Pairs { dims, interleaved, sections: sections?, at: Vec::new(), turn })
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

    fn sections(&mut self, e: &ast::Expr, dims: Option<i64>) -> Option<Vec<i64>> {
        let ExprKind::List(items) = &e.node else {
            self.report.error(
                Code::BadRotate,
                e.span,
                "`sections` is a list of pair counts",
                "for instance [16, 24, 24]",
            );
            return None;
        };
        let mut sections = Vec::new();
        for item in items {
            sections.push(self.positive(item, "sections")?);
        }
        let sum: i64 = sections.iter().sum();
        if dims.is_some_and(|d| sum > d / 2) {
            let message = format!("the sections hold {sum} pairs, more than are rotated");
            self.report.error(Code::BadRotate, e.span, message, "one pair is two dims");
        }
        Some(sections)
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

    fn scaling(&mut self, e: &ast::Expr) -> Option<Scaling> {
        if word_of(e) == Some("none") {
            return Some(Scaling::None);
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
            return None;
        };
        let required = match name {
            "yarn" => 2,
            "longrope" => 3,
            _ => params.len(),
        };
        let bound = self.bind(name, params, required, args, e.span)?;
        let mut values = Vec::new();
        for (x, param) in bound.into_iter().zip(params) {
            values.push(match x {
                None => Vec::new(),
                Some(x) if *param == "truncate" => {
                    let x = self.expr(x);
                    vec![self.want_bool(&x)]
                }
                Some(x) => self.scaling_argument(x),
            });
        }
        if values.iter().flatten().any(|x| x.is_error()) { None } else { Some(Scaling::of(name, values)) }
    }

    /// A number, the numbers of a list, or a row.
    fn scaling_argument(&mut self, x: &ast::Expr) -> Vec<Expr> {
        if let ExprKind::List(items) = &x.node {
            let mut list = Vec::new();
            for item in items {
                let item = self.expr(item);
                list.push(self.widen(&item));
            }
            return list;
        }
        let x = self.expr(x);
        vec![if matches!(x.ty, Type::Row(_)) { x } else { self.widen(&x) }]
    }

    /// `lrpe(theta)`: rows become [x cos, x sin], twice as long.
    fn lrpe(&mut self, args: &[Arg], span: Span, tensors: &[usize]) -> Option<Expr> {
        let bound = self.bind("lrpe", &["theta"], 1, args, span)?;
        let mut row = None;
        if let Some(e) = bound[0] {
            let theta = self.expr(e);
            let theta = self.want_row(&theta);
            row = Some(theta.clone()).filter(|t| !t.is_error());
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
        row
    }

    /// A `position` of the author: its body types with x0, x1, pos and d.
    fn user_position(&mut self, def: DefId, name: &ast::Name, args: &[Arg], span: Span) -> Option<[Expr; 2]> {
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
            return None;
        }
        if modules.is_recursive(def) {
            return None;
        }
        let mut values = self.bind_definition(def, args, span)?;
        for (var, elem, ty) in [
            ("x0", Elem::X0, Type::Float),
            ("x1", Elem::X1, Type::Float),
            ("pos", Elem::Pos, Type::Int),
            ("d", Elem::Pair, Type::Int),
        ] {
            values.insert(var.into(), self.elem(elem, ty, span));
        }
        let ExprKind::List(pair) = &ast.body.node else { return None };
        self.report.calls.push((ast.name.node.clone(), span));
        self.frames.push(Frame { module: home, args: values });
        let mut out = Vec::new();
        for e in pair {
            let x = self.expr(e);
            out.push(self.widen(&x));
        }
        self.frames.pop();
        self.report.calls.pop();
        <[Expr; 2]>::try_from(out).ok().filter(|pair| pair.iter().all(|x| !x.is_error()))
    }

    /// `ring(axis, ranks, layout)`
    fn distribute(&mut self, e: &ast::Expr, clause: Span) -> Option<RingFact> {
        let ExprKind::Call { name, args } = &e.node else {
            self.report.error(
                Code::BadDistribute,
                e.span,
                "a distribution is a call",
                "for instance ring(axis = S)",
            );
            return None;
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
            return None;
        }
        let bound = self.bind("ring", &["axis", "ranks", "layout"], 1, args, e.span)?;
        let mut dim = None;
        if let Some(axis) = bound[0] {
            let x = self.expr(axis);
            if let Kind::Dim(n) = x.kind {
                dim = Some(n);
            } else if !x.is_error() {
                self.report.error(
                    Code::BadDistribute,
                    axis.span,
                    "the axis of a ring is a dim",
                    "expected the sequence dim",
                );
            }
        }
        let mut ranks = None;
        if let Some(e) = bound[1] {
            let x = self.expr(e);
            ranks = self.want_int(&x, "the number of ranks").int();
        }
        let mut ring_layout = RingLayout::Contiguous;
        if let Some(layout) = bound[2] {
            let known = RingLayout::ALL.map(|l| l.0);
            let word = word_of(layout).unwrap_or("");
            if let Some((_, found)) = RingLayout::ALL.iter().find(|l| l.0 == word) {
                ring_layout = *found;
            } else {
                let mut d = Diagnostic::error(Code::BadDistribute, layout.span, "a ring has no such layout")
                    .label(format!("expected {}", known.join(", ")));
                d = match nearest(word, known) {
                    Some(n) => d.suggest(layout.span, n.clone(), format!("did you mean `{n}`?")),
                    None => d.help("`zigzag` balances causal masks"),
                };
                self.report.push(d);
            }
        }
        Some(RingFact { dim: dim?, ranks, layout: ring_layout, span: clause })
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
