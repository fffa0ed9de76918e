//! Caches and what is appended to them.
//!
//! Comes in: `cache` and `append` clauses. Goes out: tensors in scope, and the names that the host binds with them
//! (`table`, `len`). What holds (language.md, rule 7): `append x_new` writes to cache `x`; int8 caches have scales;
//! pages have a constant size. Not here: how a cache is laid out in memory.

use crate::artifact::DType;
use crate::diagnostic::{Code, Diagnostic, Span};
use crate::syntax::ast::{self, Arg, Attr, Spanned, TensorDecl};

use super::elab::{Elab, Entry};
use super::model::{Elem, TensorKind, UnsupportedClause};
use super::options::word_of;
use super::suggest::nearest;

impl Elab<'_> {
    /// Declares caches.
    pub fn declare_cache(
        &mut self,
        decl: &TensorDecl,
        span: Span,
        prefix: &str,
        out: &mut Vec<UnsupportedClause>,
    ) {
        let first = self.tensors.len();
        self.declare_inputs(decl, TensorKind::Cache, prefix);
        let mut scaled = false;
        for attr in &decl.attrs {
            match &attr.node {
                Attr::Paged(args) => self.paged(args, attr.span),
                Attr::Len(name) => self.bound_name(name),
                Attr::Scale { dtype, per } => {
                    scaled = true;
                    self.scale(dtype, per);
                }
                Attr::Learn | Attr::Sorted | Attr::Monotone | Attr::Optional => {
                    let d =
                        Diagnostic::error(Code::BadCache, attr.span, "a cache does not take this attribute")
                            .label("expected paged, len, scale or layout");
                    self.report.push(d.suggest(attr.span, "", "remove it"));
                }
                Attr::Layout(_) => {}
            }
        }
        for n in first..self.tensors.len() {
            self.cache_elements(n, scaled, &decl.attrs, &decl.ty.dtype);
        }
        let nearest = "bind the keys and values as `input`s".into();
        out.push(UnsupportedClause { clause: "cache".into(), span, nearest });
    }

    fn cache_elements(&mut self, n: usize, scaled: bool, attrs: &[Spanned<Attr>], dtype: &ast::Name) {
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
    }

    fn paged(&mut self, args: &[Arg], span: Span) {
        let params = ["size", "table", "len"];
        let Some(bound) = self.bind("paged", &params, 3, args, span) else { return };
        if let Some(size) = bound[0] {
            let n = self.expr(size);
            if !n.int().is_some_and(|n| (1..=65536).contains(&n)) && !n.is_error() {
                let d =
                    Diagnostic::error(Code::BadCache, size.span, "the size of a page is a positive constant")
                        .label("expected for instance 16");
                self.report.push(d.help("`paged (size = 16, table = pages, len = kv_len)`"));
            }
        }
        for (e, what) in [(bound[1], "table"), (bound[2], "len")] {
            let Some(e) = e else { continue };
            match word_of(e) {
                Some(word) => self.bound_name(&Spanned { node: word.to_string(), span: e.span }),
                None => {
                    let message = format!("`{what}` is the name of a tensor that the host binds");
                    self.report.error(Code::BadCache, e.span, message, "expected a name");
                }
            }
        }
    }

    /// A name that the host binds and no expression reads; several caches may share it.
    fn bound_name(&mut self, name: &ast::Name) {
        match self.names.get(&name.node) {
            Some((Entry::Bound, _)) => {}
            _ => {
                self.declare(name, Entry::Bound);
            }
        }
    }

    fn scale(&mut self, dtype: &ast::Name, per: &[ast::Name]) {
        if !DType::from_name(&dtype.node).is_some_and(DType::is_float) {
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
    }

    /// `append k_new, v_new`
    pub fn append(&mut self, names: &[ast::Name], span: Span, out: &mut Vec<UnsupportedClause>) {
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
        let nearest = "append on the host and bind the whole keys and values".into();
        out.push(UnsupportedClause { clause: "append".into(), span, nearest });
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
