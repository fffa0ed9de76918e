//! Roles: which dim of which tensor is batch, head, sequence, feature; alignment and the map of heads.
//!
//! Comes in: the typed score and mask, the value tensors, and the `heads` and `align` clauses. Goes out: a
//! [`RowsFact`] for each plain row, the conventions in force, and which dims a plan specialises. What holds
//! (language.md, rule 1): all queries share batch, head and sequence dims, all keys share theirs; the canonical
//! order is [batch, heads, sequence, feature] with leading ones optional. Not here: sizes.

use crate::diagnostic::{Code, Diagnostic, Span};
use crate::expr::BinaryOp;
use crate::syntax::ast;

use super::declare::start_of;
use super::elab::Elab;
use super::hir::{Expr, Kind, Size, Uses, find, find_use, operands};
use super::model::{AlignFact, DimSize, HeadMap, HeadsFact, RowsFact};
use super::relative::is_relative;
use super::suggest::nearest;

/// Who reads the rows of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Read at (b, h, row).
    Query,
    /// Read at (b, kv head of h, j).
    Key,
}

/// The roles of an attention's rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roles {
    /// Each plain dot, in order of first appearance.
    pub dots: Vec<(RowsFact, RowsFact)>,
    /// Every key or value tensor that has roles.
    pub keys: Vec<RowsFact>,
}

impl Elab<'_> {
    fn role_size(&self, rows: RowsFact, dim: Option<usize>) -> Option<&Size> {
        dim.map(|d| &self.tensors[rows.tensor].shape[d])
    }

    /// Roles of a tensor's dims on the query side.
    fn query_rows(&mut self, tensor: usize, span: Span) -> Option<RowsFact> {
        let rank = self.tensors[tensor].shape.len();
        if !(2..=4).contains(&rank) {
            self.bad_rank(tensor, span, "a query", "[batch, heads, sequence, feature]");
            return None;
        }
        let (head, batch) = ((rank >= 3).then(|| rank - 3), (rank == 4).then_some(0));
        Some(RowsFact { tensor, batch, head, seq: rank - 2, feature: rank - 1 })
    }

    /// Roles of a tensor's dims on the key side, given the query's.
    fn key_rows(&mut self, tensor: usize, query: RowsFact, span: Span) -> Option<RowsFact> {
        let shape = &self.tensors[tensor].shape;
        let rank = shape.len();
        if !(2..=4).contains(&rank) {
            self.bad_rank(tensor, span, "a key or value", "[batch, heads, sequence, feature]");
            return None;
        }
        let rows = RowsFact { tensor, batch: None, head: None, seq: rank - 2, feature: rank - 1 };
        let query_batch = self.role_size(query, query.batch);
        let leads_with_batch = query_batch.is_some_and(|b| b.same(&shape[0]));
        let rows = match rank {
            4 => RowsFact { batch: Some(0), head: Some(1), ..rows },
            3 if leads_with_batch => RowsFact { batch: Some(0), ..rows },
            3 => RowsFact { head: Some(0), ..rows },
            _ => rows,
        };
        if rows.batch.is_some() && !leads_with_batch {
            let lead = shape[0].text.clone();
            let of_query = query_batch.map_or("none".to_string(), |b| format!("`{}`", b.text));
            let name = self.tensors[tensor].name.clone();
            let d = Diagnostic::error(
                Code::BadRoles,
                span,
                format!("the batch dim of `{name}` is not the query's"),
            )
            .label(format!("its first dim is `{lead}`, the query's batch dim is {of_query}"))
            .context(self.tensors[tensor].span, "declared here")
            .help("give both tensors the same batch dim");
            self.report.push(d);
            return None;
        }
        Some(rows)
    }

    fn bad_rank(&mut self, tensor: usize, span: Span, what: &str, order: &str) {
        let t = &self.tensors[tensor];
        let d = Diagnostic::error(
            Code::BadRoles,
            span,
            format!("`{}` cannot be {what}: it is {}", t.name, t.type_text()),
        )
        .label("has 2, 3 or 4 dims")
        .context(t.span, "declared here")
        .note(format!("the order of dims is {order}, leading ones optional"))
        .help("declare it with its sequence and feature dims last");
        self.report.push(d);
    }

    /// Roles of every dot of the score.
    pub fn roles(&mut self, score: &Expr) -> Roles {
        let mut plain: Vec<(usize, usize, Span)> = Vec::new();
        let mut relative: Vec<(usize, Span)> = Vec::new();
        let mut stack = vec![score];
        while let Some(e) = stack.pop() {
            if let Kind::Dot(x, y) = &e.kind {
                if is_relative(y) {
                    relative.extend(first_tensor(x).map(|x| (x, e.span)));
                } else if let (Some(x), Some(y)) = (first_tensor(x), first_tensor(y))
                    && !plain.iter().any(|p| (p.0, p.1) == (x, y))
                {
                    plain.push((x, y, e.span));
                }
                continue;
            }
            stack.extend(operands(&e.kind).into_iter().rev());
        }
        let mut roles = Roles::default();
        for (x, y, span) in plain {
            let Some(x) = self.query_rows(x, span) else { continue };
            let first = roles.dots.first().map_or(x, |d| d.0);
            if !self.same_roles(first, x, Side::Query, span) {
                continue;
            }
            if let Some(y) = self.key(&mut roles, y, first, span) {
                roles.dots.push((x, y));
            }
        }
        for (x, span) in relative {
            let Some(&(first, _)) = roles.dots.first() else {
                let d = Diagnostic::error(Code::BadScore, span, "no key row meets the query")
                    .label("a row that `i` and `j` choose together is no key")
                    .help("the score also needs a dot with the keys: `dot(q, k)`");
                self.report.push(d);
                break;
            };
            if let Some(x) = self.query_rows(x, span) {
                self.same_roles(first, x, Side::Query, span);
            }
        }
        roles
    }

    /// Adds a key or value tensor to the roles.
    pub fn key(&mut self, roles: &mut Roles, tensor: usize, query: RowsFact, span: Span) -> Option<RowsFact> {
        let rows = self.key_rows(tensor, query, span)?;
        if let Some(&first) = roles.keys.first()
            && !self.same_roles(first, rows, Side::Key, span)
        {
            return None;
        }
        roles.keys.push(rows);
        // A tensor with a head dim speaks for all: it goes first.
        if rows.head.is_some() && roles.keys[0].head.is_none() {
            let last = roles.keys.len() - 1;
            roles.keys.swap(0, last);
        }
        Some(rows)
    }

    fn same_roles(&mut self, a: RowsFact, b: RowsFact, side: Side, span: Span) -> bool {
        let mut pairs = vec![("sequence", Some(a.seq), Some(b.seq)), ("head", a.head, b.head)];
        if side == Side::Query {
            pairs.push(("batch", a.batch, b.batch));
        }
        for (what, da, db) in pairs {
            let (sa, sb) = (self.role_size(a, da), self.role_size(b, db));
            let same = match (sa, sb) {
                (Some(x), Some(y)) => x.same(y),
                (None, None) => true,
                // A key tensor without heads is shared by all.
                _ => side == Side::Key,
            };
            if !same {
                let text = |s: Option<&Size>| s.map_or("none".to_string(), |s| format!("`{}`", s.text));
                let (ta, tb) = (text(sa), text(sb));
                let (na, nb) = (self.tensors[a.tensor].name.clone(), self.tensors[b.tensor].name.clone());
                let d = Diagnostic::error(
                    Code::BadRoles,
                    span,
                    format!("`{na}` and `{nb}` have different {what} dims"),
                )
                .label(format!("{ta} and {tb}"))
                .context(self.tensors[b.tensor].span, format!("`{nb}` is declared here"))
                .help(format!("give both the same {what} dim"));
                self.report.push(d);
                return false;
            }
        }
        true
    }

    /// The map of heads in force.
    pub fn heads(
        &mut self,
        clause: Option<(&ast::Name, Option<&ast::Expr>, Span)>,
        roles: &Roles,
        fallback: Span,
    ) -> HeadsFact {
        let query = roles.dots.first().map(|d| d.0);
        let q = query.and_then(|r| self.role_size(r, r.head)).cloned();
        let key = roles.keys.iter().find(|r| r.head.is_some()).copied();
        let k = key.and_then(|r| self.role_size(r, r.head)).cloned();
        let span = clause.map_or(fallback, |c| c.2);
        let map = clause.and_then(|(scheme, by, _)| self.head_map(scheme, by));
        let map = match (q, k, map) {
            (_, None, None) => HeadMap::Mqa,
            (_, None, Some(HeadMap::By(e))) => HeadMap::By(e),
            (_, None, Some(_)) => HeadMap::Mqa,
            (Some(q), Some(k), map) if q.same(&k) => match map {
                Some(HeadMap::Mqa) if k.known() != Some(1) => {
                    self.not_mqa(&k, span);
                    HeadMap::Same
                }
                Some(HeadMap::By(e)) => HeadMap::By(e),
                _ => HeadMap::Same,
            },
            (Some(q), Some(k), Some(map)) => {
                self.check_head_map(&q, &k, &map, span);
                map
            }
            (Some(q), Some(k), None) => {
                if clause.is_none() {
                    self.heads_required(
                        &q,
                        &k,
                        key.map_or(fallback, |r| self.tensors[r.tensor].span),
                        fallback,
                    );
                }
                HeadMap::Same
            }
            (None, Some(k), _) => {
                let span = key.map_or(fallback, |r| self.tensors[r.tensor].span);
                let message = format!("the keys have a head dim `{}`, the query has none", k.text);
                let d = Diagnostic::error(Code::BadRoles, span, message)
                    .label("declared here")
                    .help("give the query a head dim, or the keys none");
                self.report.push(d);
                HeadMap::Same
            }
        };
        let words = self.head_words(&map, roles);
        HeadsFact { map, span, words }
    }

    fn head_map(&mut self, scheme: &ast::Name, by: Option<&ast::Expr>) -> Option<HeadMap> {
        match (scheme.node.as_str(), by) {
            ("grouped", None) => Some(HeadMap::Grouped),
            ("interleaved", None) => Some(HeadMap::Interleaved),
            ("mqa", None) => Some(HeadMap::Mqa),
            ("map", Some(e)) => {
                let x = self.expr(e);
                let x = self.want_int(&x, "a head");
                let others = Uses(Uses::INDEX.0 & !Uses::H.0).or(Uses::INT_LOAD).or(Uses::PARAM);
                if let Some(at) = find_use(&x, others) {
                    let d = Diagnostic::error(
                        Code::BadConvention,
                        at.span,
                        "a head map depends on `h`, dims and statics only",
                    )
                    .label("not a constant of the plan")
                    .help("for instance `heads map by h mod Hkv`");
                    self.report.push(d);
                    return None;
                }
                if x.is_error() { None } else { Some(HeadMap::By(x)) }
            }
            ("map", None) => {
                let d =
                    Diagnostic::error(Code::BadConvention, scheme.span, "`heads map` lacks its expression")
                        .label("map by what?")
                        .help("for instance `heads map by h mod Hkv`");
                self.report.push(d);
                None
            }
            (name, by) => {
                let known = ["grouped", "interleaved", "mqa", "map"];
                let mut d = Diagnostic::error(
                    Code::BadConvention,
                    scheme.span,
                    format!("`heads {name}` is not a convention"),
                )
                .label("expected grouped, interleaved, mqa, or map by <expr in h>");
                match nearest(name, known) {
                    Some(n) if n != name => {
                        d = d.suggest(scheme.span, n.clone(), format!("did you mean `{n}`?"))
                    }
                    _ if by.is_some() => d = d.suggest(scheme.span, "map", "only `map` takes `by`"),
                    _ => d = d.help("`heads grouped` is what most models use: kv head = h div (Hq div Hkv)"),
                }
                self.report.push(d);
                None
            }
        }
    }

    fn check_head_map(&mut self, q: &Size, k: &Size, map: &HeadMap, span: Span) {
        match (map, q.known(), k.known()) {
            (HeadMap::Mqa, _, k_known) if k_known != Some(1) => self.not_mqa(k, span),
            (HeadMap::Grouped | HeadMap::Interleaved, Some(n), Some(m)) if n % m != 0 => {
                let d = Diagnostic::error(
                    Code::HeadsDivide,
                    span,
                    format!("{n} query heads are not a multiple of {m} key heads"),
                )
                .label(format!("`{}` = {n}, `{}` = {m}", q.text, k.text))
                .help("choose sizes that divide, or say `heads map by <expr in h>`");
                self.report.push(d);
            }
            _ => {}
        }
    }

    fn not_mqa(&mut self, k: &Size, span: Span) {
        let d = Diagnostic::error(
            Code::BadConvention,
            span,
            format!("`heads mqa` reads one key head, but the keys have `{}`", k.text),
        )
        .label("not one key head")
        .help("declare the keys without a head dim, or say `heads grouped`");
        self.report.push(d);
    }

    fn heads_required(&mut self, q: &Size, k: &Size, keys: Span, at: Span) {
        let d = Diagnostic::error(Code::HeadsRequired, at, "which key head does a query head read?")
            .label(format!("queries have `{}` heads, keys have `{}`", q.text, k.text))
            .context(keys, format!("`{}` heads here", k.text))
            .note(format!(
                "`heads grouped`: h div ({} div {}), as transformers, PyTorch and FlashAttention do",
                q.text, k.text
            ))
            .note(format!("`heads interleaved`: h mod {}", k.text))
            .suggest(start_of(at), "heads grouped\n  ", "say which");
        self.report.push(d);
    }

    fn head_words(&self, map: &HeadMap, roles: &Roles) -> String {
        let name = |r: Option<RowsFact>| {
            r.and_then(|r| self.role_size(r, r.head)).map_or("1".to_string(), |s| s.text.clone())
        };
        let q = name(roles.dots.first().map(|d| d.0));
        let k = name(roles.keys.iter().find(|r| r.head.is_some()).copied());
        match map {
            HeadMap::Same => "heads: key head = h".into(),
            HeadMap::Mqa => "heads: one key head, read by every query head".into(),
            HeadMap::Grouped => format!("heads grouped: key head = h div ({q} div {k})"),
            HeadMap::Interleaved => format!("heads interleaved: key head = h mod {k}"),
            HeadMap::By(e) => format!("heads map: key head = {}", self.text(e.span)),
        }
    }

    /// The alignment in force; asked for where `i` and `j` meet and the lengths are different dims.
    pub fn align(
        &mut self,
        clause: Option<(&ast::Name, Span)>,
        roles: &Roles,
        exprs: &[(&Expr, Span)],
        fallback: Span,
    ) -> AlignFact {
        let (Some(&(x, y)), word) = (roles.dots.first(), clause.and_then(|c| self.align_word(c.0))) else {
            return AlignFact::default();
        };
        let (sq, sk) =
            (self.tensors[x.tensor].shape[x.seq].clone(), self.tensors[y.tensor].shape[y.seq].clone());
        let bottom_right = word == Some("bottom_right");
        if sq.same(&sk) {
            return AlignFact {
                bottom_right,
                words: format!("align: i = row, queries and keys both have `{}`", sq.text),
            };
        }
        let words = match word {
            Some("bottom_right") => {
                format!("align bottom_right: i = row + {} - {} (last query on last key)", sk.text, sq.text)
            }
            Some("top_left") => "align top_left: i = row (first query on first key)".into(),
            Some(_) => "align none: i = row".into(),
            None => {
                let meet = exprs.iter().find_map(|(e, at)| self.meeting(e, &sk).map(|m| (m, *at)));
                if let (Some((m, at)), true) = (meet, clause.is_none()) {
                    self.align_required(m, at, &sq, &sk, fallback);
                }
                "align: i = row; i and j never meet".into()
            }
        };
        AlignFact { bottom_right, words }
    }

    fn align_word(&mut self, name: &ast::Name) -> Option<&'static str> {
        let known = ["bottom_right", "top_left", "none"];
        if let Some(word) = known.into_iter().find(|w| *w == name.node) {
            return Some(word);
        }
        let mut d = Diagnostic::error(
            Code::BadConvention,
            name.span,
            format!("`align {}` is not a convention", name.node),
        )
        .label("expected bottom_right, top_left or none");
        match nearest(&name.node, known) {
            Some(n) => d = d.suggest(name.span, n.clone(), format!("did you mean `{n}`?")),
            None => d = d.help("`align bottom_right` puts the last query on the last key"),
        }
        self.report.push(d);
        None
    }

    /// The first node where `i` and `j` are compared or subtracted, or where `i` indexes a dim of the keys.
    fn meeting(&self, e: &Expr, keys: &Size) -> Option<Span> {
        let on_keys = |t: usize, index: &[Expr]| {
            let dims = self.tensors[t].shape.iter().zip(index);
            dims.filter(|(s, _)| s.same(keys)).any(|(_, x)| bare_uses(x).any(Uses::I))
        };
        find(e, &mut |n| match &n.kind {
            Kind::Binary(op, a, b) if meets(*op) => {
                let (a, b) = (bare_uses(a), bare_uses(b));
                let crossed = (a.any(Uses::I) && b.any(Uses::J)) || (a.any(Uses::J) && b.any(Uses::I));
                crossed.then_some(n.span)
            }
            Kind::Load(t, index) if on_keys(*t, index) => Some(n.span),
            _ => None,
        })
    }

    fn align_required(&mut self, at: Span, clause: Span, sq: &Size, sk: &Size, fallback: Span) {
        let at = if at.source == clause.source { at } else { clause };
        let (q, k) = (&sq.text, &sk.text);
        let insert = start_of(fallback);
        let d = Diagnostic::error(Code::AlignRequired, at, "where does `i` stand against `j`?")
            .label(format!("`i` meets `j` here, and `{q}` and `{k}` are different lengths"))
            .note(format!("`align bottom_right`: i = row + {k} - {q}, the last query on the last key (decode, chunked prefill)"))
            .note("`align top_left`: i = row, the first query on the first key")
            .suggest(insert, "align bottom_right\n  ", "for decoding and chunked prefill")
            .suggest(insert, "align top_left\n  ", "to start both at 0");
        self.report.push(d);
    }

    /// Marks the dims that a plan specialises, and refuses run-time parameters in them.
    pub fn specialise(&mut self, roles: &Roles) {
        let mut sizes: Vec<Size> = Vec::new();
        for rows in roles.dots.iter().map(|d| d.0).chain(roles.keys.iter().copied()) {
            sizes.extend(self.role_size(rows, Some(rows.feature)).cloned());
            sizes.extend(self.role_size(rows, rows.head).cloned());
        }
        for size in sizes {
            self.specialise_expr(&size.expr, 0);
        }
    }

    /// Marks the dims of a size that a plan fixes.
    pub fn specialise_expr(&mut self, e: &Expr, depth: usize) {
        let mut dims = Vec::new();
        let mut param = None;
        find(e, &mut |n| {
            match &n.kind {
                Kind::Dim(d) => dims.push(*d),
                Kind::Param(p) if !self.params[*p].is_static => param = Some((*p, n.span)),
                _ => {}
            }
            None::<()>
        });
        if let Some((p, at)) = param {
            let p = &self.params[p];
            let d = Diagnostic::error(
                Code::RuntimeFeatureDim,
                at,
                format!("`{}` is a run-time parameter, and this size is fixed when planning", p.name),
            )
            .label("a feature dim or head count")
            .context(p.span, "declared here")
            .suggest(start_of(p.span), "static ", "make it a compile-time constant");
            self.report.push(d);
        }
        for d in dims {
            if !self.dims[d].specialised && depth < 64 {
                self.dims[d].specialised = true;
                if let DimSize::Given(inner) = self.dims[d].size.clone() {
                    self.specialise_expr(&inner, depth + 1);
                }
            }
        }
    }
}

/// The tensor of a row, or of the first row in an expression of rows.
pub(crate) fn first_tensor(e: &Expr) -> Option<usize> {
    let bare = find(e, &mut |n| match &n.kind {
        Kind::Row(t, index) if index.is_empty() => Some(*t),
        _ => None,
    });
    bare.or_else(|| {
        find(e, &mut |n| match &n.kind {
            Kind::Row(t, _) => Some(*t),
            _ => None,
        })
    })
}

fn meets(op: BinaryOp) -> bool {
    use BinaryOp::*;
    matches!(op, Lt | Le | Eq | Ne | Sub)
}

/// What an expression reads outside the brackets of tensors.
fn bare_uses(e: &Expr) -> Uses {
    match &e.kind {
        Kind::Load(..) | Kind::Row(..) => Uses::NONE,
        Kind::Index(v) => Uses::of_index(*v),
        kind => operands(kind).into_iter().fold(Uses::NONE, |u, x| u.or(bare_uses(x))),
    }
}
