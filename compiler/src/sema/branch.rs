//! `branch`: several attentions in one kernel, and how their results combine.
//!
//! Comes in: the branches of a kernel and its `return`. Goes out: outputs; each branch is checked as an attention of
//! its own whose names end with it. What holds: routed branches are put back by `scatter`, every branch is
//! returned. Not here: how branches run.

use std::collections::HashMap;

use crate::diagnostic::{Code, Diagnostic, Span};
use crate::syntax::ast::{self, ClauseKind, ExprKind, InfixOp};

use super::body::{CheckedBody, check_body};
use super::clauses::{Block, Clauses, collect};
use super::elab::{Elab, Entry};
use super::hir::Type;
use super::model::*;
use super::options::word_of;
use super::suggest::nearest;

/// What is known of a branch.
struct Branch {
    routed: bool,
    returned: bool,
    span: Span,
}

impl Elab<'_> {
    /// Checks a kernel made of branches.
    pub fn branches(
        &mut self,
        clauses: &Clauses<'_>,
        at: Span,
        out: &mut Vec<UnsupportedClause>,
    ) -> CheckedBody {
        let mut branches: HashMap<String, Branch> = HashMap::new();
        for clause in &clauses.all {
            match &clause.kind {
                ClauseKind::Branch { name, clauses: inner } => {
                    let nearest = "write each branch as a kernel of its own".into();
                    out.push(UnsupportedClause { clause: "branch".into(), span: clause.span, nearest });
                    let routed = self.branch(name, inner);
                    if self.declare(name, Entry::Branch) {
                        branches
                            .insert(name.node.clone(), Branch { routed, returned: false, span: name.span });
                    }
                }
                ClauseKind::Score(_)
                | ClauseKind::Mask(_)
                | ClauseKind::Weight(_)
                | ClauseKind::Select { .. } => {
                    let word = clause.kind.keyword().to_string();
                    let d = Diagnostic::error(
                        Code::BadBranch,
                        clause.span,
                        format!("`{word}` stands beside branches"),
                    )
                    .label("of which branch?")
                    .help("move it into a branch: the kernel only combines their results");
                    self.report.push(d);
                }
                _ => {}
            }
        }
        let outputs = self.combined(clauses, at, &mut branches);
        let mut unused: Vec<(&String, &Branch)> = branches.iter().filter(|(_, b)| !b.returned).collect();
        unused.sort_by_key(|(_, b)| b.span.start);
        for (name, b) in unused {
            let d = Diagnostic::warning(Code::Unused, b.span, format!("branch `{name}` is never returned"))
                .label("unused branch")
                .help("return it, or remove it");
            self.report.push(d);
        }
        CheckedBody {
            body: None,
            outputs,
            align: AlignFact::default(),
            heads: HeadsFact { map: HeadMap::Same, span: at, words: String::new() },
            mask_clauses: Vec::new(),
            unsupported: Vec::new(),
        }
    }

    /// Checks one branch in a scope of its own; true if its queries are routed.
    fn branch(&mut self, name: &ast::Name, inner: &[ast::Clause]) -> bool {
        let outside = self.names.clone();
        let inner = collect(self, inner, Block::Branch);
        let mut ignored = Vec::new();
        self.scope(&inner, &format!("{}.", name.node), &mut ignored);
        let routed = self.selects(&inner, &mut ignored);
        let checked = check_body(self, &inner, name.span);
        if let Some(body) = &checked.body {
            self.check_rotations(&body.dots);
        }
        let mut own: Vec<String> = self.names.keys().filter(|n| !outside.contains_key(*n)).cloned().collect();
        own.sort();
        for name in &own {
            let (entry, span) = self.names[name];
            if !self.used.remove(name) && self.report.n_errors == 0 {
                self.warn_unused_name(name, entry, span);
            }
        }
        self.names = outside;
        routed
    }

    fn combined(
        &mut self,
        clauses: &Clauses<'_>,
        at: Span,
        branches: &mut HashMap<String, Branch>,
    ) -> Vec<OutputFact> {
        let mut outputs: Vec<OutputFact> = Vec::new();
        let Some((exprs, _)) = clauses.result else {
            let d = Diagnostic::error(Code::MissingClause, at, "there is no `return`")
                .label("nothing is returned")
                .help("return the branches, or arithmetic on them");
            self.report.push(d);
            return outputs;
        };
        for e in exprs {
            let plain = word_of(e).map(str::to_string);
            if !self.combination(e, branches) {
                let names: Vec<&str> = branches.keys().map(String::as_str).collect();
                let mut d = Diagnostic::error(Code::BadReturn, e.span, "this is not a result of branches")
                    .label("expected a branch, scatter(branch), merge(a, b) or arithmetic on them");
                d = match plain.as_deref().and_then(|w| nearest(w, names)) {
                    Some(n) => d.suggest(e.span, n.clone(), format!("did you mean `{n}`?")),
                    None => d.help("return what the branches return"),
                };
                self.report.push(d);
                continue;
            }
            let name = plain.unwrap_or_else(|| "o".into());
            if outputs.iter().any(|o| o.name == name) {
                let d =
                    Diagnostic::error(Code::BadReturn, e.span, format!("two results are called `{name}`"))
                        .label("the second")
                        .note("a returned expression is called `o`")
                        .help("return it once");
                self.report.push(d);
                continue;
            }
            outputs.push(OutputFact { name, text: self.text(e.span), span: e.span, kind: OutputHir::Other });
        }
        outputs
    }

    /// True if the expression is made of branches; marks those that it returns.
    fn combination(&mut self, e: &ast::Expr, branches: &mut HashMap<String, Branch>) -> bool {
        match &e.node {
            ExprKind::Paren(x) => self.combination(x, branches),
            ExprKind::Name(name) => {
                let Some(b) = branches.get_mut(name) else { return false };
                b.returned = true;
                if b.routed {
                    let d = Diagnostic::error(
                        Code::BadBranch,
                        e.span,
                        format!("the rows of `{name}` are routed"),
                    )
                    .label("not in their places")
                    .context(b.span, "selects its queries")
                    .suggest(e.span, format!("scatter({name})"), "put the rows back");
                    self.report.push(d);
                }
                true
            }
            ExprKind::Call { name, args } if name.node == "scatter" && args.len() == 1 => {
                let branch = word_of(&args[0].value).and_then(|w| branches.get_mut(w));
                let Some(b) = branch else { return false };
                b.returned = true;
                if !b.routed {
                    let inner = word_of(&args[0].value).unwrap_or("").to_string();
                    let d = Diagnostic::error(
                        Code::BadBranch,
                        e.span,
                        format!("the rows of `{inner}` are already in their places"),
                    )
                    .label("nothing to scatter")
                    .suggest(e.span, inner, "return it as it is");
                    self.report.push(d);
                }
                true
            }
            ExprKind::Call { name, args } if name.node == "merge" && args.len() >= 2 => {
                args.iter().all(|a| self.combination(&a.value, branches))
            }
            ExprKind::Infix {
                op: InfixOp::Add | InfixOp::Sub | InfixOp::Mul | InfixOp::Div,
                left,
                right,
            } => {
                let (l, r) = (reads_branch(left, branches), reads_branch(right, branches));
                let ok =
                    |elab: &mut Self, e: &ast::Expr, has: bool, branches: &mut HashMap<String, Branch>| {
                        if has {
                            return elab.combination(e, branches);
                        }
                        let x = elab.expr(e);
                        matches!(x.ty, Type::Int | Type::Float | Type::Row(_) | Type::Error)
                    };
                (l || r) && ok(self, left, l, branches) && ok(self, right, r, branches)
            }
            _ => false,
        }
    }
}

fn reads_branch(e: &ast::Expr, branches: &HashMap<String, Branch>) -> bool {
    let mut found = false;
    super::modules::walk(e, &mut |x| {
        found |= matches!(&x.node, ExprKind::Name(n) if branches.contains_key(n))
    });
    found
}
