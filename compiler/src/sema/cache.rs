//! Caches and what is appended to them.
//!
//! Comes in: `cache` and `append` clauses. Goes out: tensors in scope, those that are bound beside them (`table`,
//! `len`, `<name>_scale`), dims that only their shapes tell, and a [`CacheFact`] for each cache. What holds
//! (language.md, rule 7): `append x_new` writes to cache `x`; int8 caches have scales; pages have a constant size; the
//! sequence dim of a paged cache is the capacity of its table. Not here: steps (`caching.rs`).

use crate::artifact::DType;
use crate::attn_ir::Fact;
use crate::diagnostic::{Code, Diagnostic, Span};
use crate::expr::eval::Value;
use crate::syntax::ast::{self, Arg, Attr, Spanned, TensorDecl};

use super::elab::{Elab, Entry};
use super::hir::{Kind, Size, Type, Uses};
use super::model::*;
use super::options::word_of;
use super::suggest::nearest;

/// What the attributes of a cache say.
#[derive(Default)]
struct Attributes {
    /// Rows of a page, and the table's name.
    pages: Option<(i64, ast::Name)>,
    len: Option<ast::Name>,
    /// Storage type, per token, per head.
    scale: Option<(DType, bool, bool)>,
    scaled: bool,
}

impl Elab<'_> {
    /// Declares caches.
    pub fn declare_cache(&mut self, decl: &TensorDecl, prefix: &str) {
        let first = self.tensors.len();
        self.declare_inputs(decl, TensorKind::Cache, prefix);
        let last = self.tensors.len();
        let mut said = Attributes::default();
        for attr in &decl.attrs {
            match &attr.node {
                Attr::Paged(args) => self.paged(args, attr.span, &mut said),
                Attr::Len(name) => said.len = Some(name.clone()),
                Attr::Scale { dtype, per } => {
                    said.scaled = true;
                    said.scale = self.scale(dtype, per);
                }
                Attr::Learn | Attr::Sorted | Attr::Monotone | Attr::Optional => {
                    let d =
                        Diagnostic::error(Code::BadCache, attr.span, "a cache does not take this attribute")
                            .label("expected paged, len, scale or layout");
                    self.report.push(d.suggest(attr.span, "", "remove it"));
                }
                Attr::Layout(_) if decl.attrs.iter().any(|a| matches!(a.node, Attr::Paged(_))) => {
                    let d = Diagnostic::error(
                        Code::BadCache,
                        attr.span,
                        "a paged cache has no layout of its own",
                    )
                    .label("its pool is [pages, size, heads, feature], with any strides");
                    self.report.push(d.suggest(attr.span, "", "remove it"));
                }
                Attr::Layout(_) => {}
            }
        }
        for n in first..last {
            let fine = self.cache_elements(n, said.scaled, &decl.attrs, &decl.ty.dtype);
            if fine && let Some(fact) = self.cache_fact(n, &said, prefix) {
                self.caches.push(fact);
            }
        }
    }

    /// Declares what is bound beside the cache, and says how its rows are found.
    fn cache_fact(&mut self, n: usize, said: &Attributes, prefix: &str) -> Option<CacheFact> {
        let (shape, span) = (self.tensors[n].shape.clone(), self.tensors[n].span);
        let (batch, seq) = (shape[0].clone(), shape[shape.len() - 2].clone());
        let len = match &said.len {
            Some(name) => Some(self.bound_tensor(name, vec![batch.clone()])?),
            None => None,
        };
        let mut pages = None;
        if let Some((size, table)) = &said.pages {
            let per_entry = self.hidden_dim(&format!("max_{}", table.node), table.span);
            let count = self.hidden_dim(&format!("n_{}", table.node), table.span);
            self.capacity(&seq, per_entry, *size, table.span)?;
            let entry = self.dim_size(per_entry, table.span);
            let table = self.bound_tensor(table, vec![batch, entry])?;
            let mut pool = vec![self.dim_size(count, span), self.number(*size, span)];
            pool.extend(shape[1..shape.len() - 2].iter().cloned());
            pool.push(shape[shape.len() - 1].clone());
            pages = Some(PagesFact { table, size: *size, per_entry, shape: pool });
        }
        let mut scale = None;
        if let Some((dtype, per_token, per_head)) = said.scale {
            let bound = pages.as_ref().map_or(&shape, |p| &p.shape).clone();
            let has_head = shape.len() == 4;
            let head = if pages.is_some() { 2 } else { 1 };
            let keep = |d: usize| if has_head && d == head { per_head } else { per_token };
            let sizes = (0..bound.len() - 1).filter(|&d| keep(d)).map(|d| bound[d].clone()).collect();
            let plain = self.tensors[n].name.strip_prefix(prefix).unwrap_or_default().to_string();
            let name = Spanned { node: format!("{plain}_scale"), span };
            let tensor = self.side_tensor(&name, prefix, Elem::Of(dtype), sizes)?;
            scale = Some(ScaleFact { tensor, per_token, per_head });
        }
        Some(CacheFact { tensor: n, len, pages, scale, appended: None, span })
    }

    /// The sequence dim of a paged cache is the capacity of its table.
    fn capacity(&mut self, seq: &Size, per_entry: usize, size: i64, span: Span) -> Option<()> {
        let free = seq.dim.is_some_and(|d| matches!(self.dims[d].size, DimSize::Free));
        if !free {
            let message = format!(
                "the sequence dim of a paged cache is read from its table, but `{}` is not free",
                seq.text
            );
            let d = Diagnostic::error(Code::BadCache, seq.expr.span, message)
                .label("its size is the number of pages of the table times their size")
                .help("declare the dim without a size: `dims ..., Sk`");
            self.report.push(d);
            return None;
        }
        let other = self.caches.iter().find(|c| {
            let shape = &self.tensors[c.tensor].shape;
            shape[shape.len() - 2].same(seq)
                && c.pages.as_ref().is_some_and(|p| p.per_entry != per_entry || p.size != size)
        });
        if let Some(other) = other {
            let first = self.tensors[other.tensor].span;
            let d = Diagnostic::error(
                Code::BadCache,
                span,
                format!("`{}` is the capacity of two tables", seq.text),
            )
            .label("another table, or other pages")
            .context(first, "the first cache of this dim")
            .help("give caches of one sequence dim the same `size` and `table`");
            self.report.push(d);
            return None;
        }
        Some(())
    }

    /// A dim that only the shape of a bound tensor tells.
    fn hidden_dim(&mut self, name: &str, span: Span) -> usize {
        if let Some((Entry::Dim(n), _)) = self.names.get(name) {
            return *n;
        }
        let name = (0..).map(|k| if k == 0 { name.to_string() } else { format!("{name}_{k}") });
        let name = name.into_iter().find(|n| !self.names.contains_key(n)).unwrap_or_default();
        let fact = DimFact {
            name: name.clone(),
            size: DimSize::Free,
            text: String::new(),
            bounds: None,
            specialised: false,
            span,
        };
        self.dims.push(fact);
        self.names.insert(name.clone(), (Entry::Dim(self.dims.len() - 1), span));
        self.used.insert(name);
        self.dims.len() - 1
    }

    fn dim_size(&mut self, n: usize, span: Span) -> Size {
        let expr = self.node(Kind::Dim(n), Type::Int, span, Uses::DIM);
        Size { expr, text: self.dims[n].name.clone(), dim: Some(n) }
    }

    fn number(&mut self, n: i64, span: Span) -> Size {
        Size { expr: self.constant(Value::Int(n), span), text: n.to_string(), dim: None }
    }

    /// An int tensor that the host binds; several caches may share it, and expressions may read it.
    fn bound_tensor(&mut self, name: &ast::Name, shape: Vec<Size>) -> Option<usize> {
        let i32s = Elem::Of(DType::I32);
        if let Some((Entry::Tensor(n), at)) = self.names.get(&name.node).copied() {
            let t = &self.tensors[n];
            let same = t.elem == i32s && t.shape.len() == shape.len();
            if same && t.shape.iter().zip(&shape).all(|(a, b)| a.same(b)) {
                self.used.insert(name.node.clone());
                return Some(n);
            }
            let sizes: Vec<&str> = shape.iter().map(|s| s.text.as_str()).collect();
            let d =
                Diagnostic::error(Code::BadCache, name.span, format!("`{}` is another tensor", name.node))
                    .label(format!("expected i32[{}], it is {}", sizes.join(", "), t.type_text()))
                    .context(at, "declared here")
                    .help("choose another name");
            self.report.push(d);
            return None;
        }
        self.side_tensor(name, "", i32s, shape)
    }

    /// A tensor that is bound beside a cache.
    fn side_tensor(&mut self, name: &ast::Name, prefix: &str, elem: Elem, shape: Vec<Size>) -> Option<usize> {
        let n = self.tensors.len();
        if !self.declare(name, Entry::Tensor(n)) {
            return None;
        }
        self.used.insert(name.node.clone());
        self.tensors.push(TensorFact {
            name: format!("{prefix}{}", name.node),
            kind: TensorKind::Input,
            elem,
            layout: (0..shape.len()).collect(),
            shape,
            fact: Fact::None,
            optional: false,
            learn: false,
            span: name.span,
        });
        Some(n)
    }

    fn cache_elements(&mut self, n: usize, scaled: bool, attrs: &[Spanned<Attr>], dtype: &ast::Name) -> bool {
        let before = self.report.n_errors;
        let elem = self.tensors[n].elem;
        let int8 = elem == Elem::Of(DType::I8);
        if !elem.is_float() && !int8 {
            let d =
                Diagnostic::error(Code::BadCache, dtype.span, format!("a cache cannot hold {}", elem.name()))
                    .label("expected float, a float type or i8")
                    .suggest(dtype.span, "i8", "quantised rows are `i8` with a `scale`");
            self.report.push(d);
        } else if int8 && !scaled {
            let d = Diagnostic::error(Code::BadCache, dtype.span, "an int8 cache needs its scales")
                .label("no `scale` is declared")
                .help("add `scale f16 per (token, head)`");
            self.report.push(d);
        } else if !int8 && scaled {
            let at =
                attrs.iter().find(|a| matches!(a.node, Attr::Scale { .. })).map_or(dtype.span, |a| a.span);
            let d = Diagnostic::error(Code::BadCache, at, "only an int8 cache is scaled")
                .label(format!("the cache holds {}", elem.name()))
                .suggest(at, "", "remove it, or declare the cache `i8`");
            self.report.push(d);
        }
        if !(3..=4).contains(&self.tensors[n].shape.len()) {
            let message = format!(
                "a cache is [batch, heads, sequence, feature] or [batch, sequence, feature], not {}",
                self.tensors[n].type_text()
            );
            self.report.error(Code::BadCache, self.tensors[n].span, message, "has 3 or 4 dims");
        }
        self.report.n_errors == before
    }

    fn paged(&mut self, args: &[Arg], span: Span, said: &mut Attributes) {
        let params = ["size", "table", "len"];
        let Some(bound) = self.bind("paged", &params, 3, args, span) else { return };
        let mut page = None;
        if let Some(size) = bound[0] {
            let n = self.expr(size);
            page = n.int().filter(|n| (1..=65536).contains(n));
            if page.is_none() && !n.is_error() {
                let d =
                    Diagnostic::error(Code::BadCache, size.span, "the size of a page is a positive constant")
                        .label("expected for instance 16");
                self.report.push(d.help("`paged (size = 16, table = pages, len = kv_len)`"));
            }
        }
        let mut names = [None, None];
        for ((e, what), name) in [(bound[1], "table"), (bound[2], "len")].into_iter().zip(&mut names) {
            let Some(e) = e else { continue };
            match word_of(e) {
                Some(word) => *name = Some(Spanned { node: word.to_string(), span: e.span }),
                None => {
                    let message = format!("`{what}` is the name of a tensor that the host binds");
                    self.report.error(Code::BadCache, e.span, message, "expected a name");
                }
            }
        }
        let [table, len] = names;
        said.pages = page.zip(table);
        if said.len.is_some() {
            let d = Diagnostic::error(Code::BadCache, span, "`paged` names the length of the cache")
                .label("and `len = ...` stands beside it");
            self.report.push(d.help("leave `len = ...` out"));
        }
        said.len = len;
    }

    fn scale(&mut self, dtype: &ast::Name, per: &[ast::Name]) -> Option<(DType, bool, bool)> {
        let stored =
            DType::from_name(&dtype.node).filter(|d| matches!(d, DType::F16 | DType::Bf16 | DType::F32));
        if stored.is_none() {
            let d = Diagnostic::error(Code::BadCache, dtype.span, format!("scales cannot be {}", dtype.node))
                .label("expected f16, bf16 or f32")
                .suggest(dtype.span, "f16", "write `f16`");
            self.report.push(d);
        }
        for name in per {
            if !matches!(name.node.as_str(), "token" | "head") {
                let near = nearest(&name.node, ["token", "head"]).unwrap_or_else(|| "token".into());
                let d = Diagnostic::error(
                    Code::BadCache,
                    name.span,
                    format!("scales are not per `{}`", name.node),
                )
                .label("expected token, head")
                .suggest(name.span, near.clone(), format!("write `{near}`"));
                self.report.push(d);
            }
        }
        let has = |what: &str| per.iter().any(|n| n.node == what);
        stored.map(|d| (d, has("token"), has("head")))
    }

    /// `append k_new, v_new`
    pub fn append(&mut self, names: &[ast::Name]) {
        for name in names {
            let Some(new) = self.named_tensor(name) else { continue };
            let cache = name.node.strip_suffix("_new").and_then(|c| match self.names.get(c) {
                Some((Entry::Tensor(n), _)) if self.tensors[*n].kind == TensorKind::Cache => {
                    Some((c.to_string(), *n))
                }
                _ => None,
            });
            let Some((cache_name, cache)) = cache else {
                let caches = self.tensors.iter().filter(|t| t.kind == TensorKind::Cache);
                let wanted: Vec<String> = caches.map(|t| format!("{}_new", t.name)).collect();
                let mut d = Diagnostic::error(
                    Code::BadCache,
                    name.span,
                    format!("`{}` has no cache to be appended to", name.node),
                )
                .label("`append x_new` writes to `cache x`");
                d = match nearest(&name.node, wanted.iter().map(String::as_str)) {
                    Some(n) => d.suggest(name.span, n.clone(), format!("did you mean `{n}`?")),
                    None => d.help("declare the cache, or name the input after it"),
                };
                self.report.push(d);
                continue;
            };
            self.used.insert(cache_name);
            self.check_append(new, cache, name.span);
        }
    }

    fn check_append(&mut self, new: usize, cache: usize, span: Span) {
        let (a, b) = (&self.tensors[new], &self.tensors[cache]);
        let rank = a.shape.len();
        let fits = rank == b.shape.len() && (0..rank).all(|d| d + 2 == rank || a.shape[d].same(&b.shape[d]));
        if !fits {
            let d = Diagnostic::error(Code::BadCache, span, format!("`{}` does not fit its cache", a.name))
                .label(format!("{} into {}", a.type_text(), b.type_text()))
                .context(b.span, "the cache")
                .help("all dims but the sequence must be the same");
            self.report.push(d);
            return;
        }
        let Some(fact) = self.caches.iter_mut().find(|c| c.tensor == cache) else { return };
        let twice = fact.appended.replace(new).is_some();
        let coarse = fact.scale.as_ref().is_some_and(|s| !s.per_token || (rank == 4 && !s.per_head));
        let name = self.tensors[cache].name.clone();
        if twice {
            let message = format!("two sets of rows are appended to `{name}`");
            self.report.error(Code::BadCache, span, message, "the second one");
        } else if coarse {
            let message = format!("rows that are appended to `{name}` have no scale of their own");
            let d = Diagnostic::error(Code::BadCache, span, message)
                .label("a scale that is shared would change what is stored already")
                .help("declare the cache `scale f16 per (token, head)`");
            self.report.push(d);
        }
    }

    /// The caches whose rows are keys or values share one length and lead with the batch dim.
    pub fn check_caches(&mut self, body: &Body) {
        let rows: Vec<RowsFact> = body.dots.iter().map(|d| d.y).chain([body.value]).collect();
        let mut first: Option<usize> = None;
        for r in rows {
            let Some(n) = self.caches.iter().position(|c| c.tensor == r.tensor) else { continue };
            let (len, span) = (self.caches[n].len, self.caches[n].span);
            if r.batch != Some(0) {
                let message =
                    format!("the first dim of cache `{}` is not the batch dim", self.tensors[r.tensor].name);
                let d = Diagnostic::error(Code::BadCache, span, message)
                    .label("declared here")
                    .help("declare it [batch, heads, sequence, feature] or [batch, sequence, feature], with the query's batch dim");
                self.report.push(d);
                return;
            }
            let Some(other) = first else {
                first = Some(n);
                continue;
            };
            if self.caches[other].len != len {
                let message = "the caches of one attention have different lengths";
                let d = Diagnostic::error(Code::BadCache, span, message)
                    .label("another `len` than the first")
                    .context(self.caches[other].span, "the first cache")
                    .help("give both the same `len`");
                self.report.push(d);
                return;
            }
        }
    }

    /// The tensor of this name, read by the clause.
    pub fn named_tensor(&mut self, name: &ast::Name) -> Option<usize> {
        let found = self.names.get(&name.node).copied();
        self.used.insert(name.node.clone());
        match found {
            Some((Entry::Tensor(n), _)) => Some(n),
            Some((Entry::Let(n), _)) if self.lets[n].value.is_error() => None,
            _ => {
                let mut d = Diagnostic::error(
                    Code::UnknownName,
                    name.span,
                    format!("`{}` is not a tensor", name.node),
                )
                .label(if found.is_some() {
                    "declared, but not as a tensor"
                } else {
                    "not declared"
                });
                let tensors: Vec<String> = self
                    .names
                    .iter()
                    .filter(|(_, (e, _))| matches!(e, Entry::Tensor(_)))
                    .map(|(n, _)| n.clone())
                    .collect();
                d = match nearest(&name.node, tensors.iter().map(String::as_str)) {
                    Some(n) => d.suggest(name.span, n.clone(), format!("did you mean `{n}`?")),
                    None => d.help("declare it as an `input`"),
                };
                self.report.push(d);
                None
            }
        }
    }
}
