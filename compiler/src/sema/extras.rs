//! Clauses that are checked but not compiled yet.

use crate::diagnostic::Span;
use crate::syntax::ast::{self, ClauseKind, TensorDecl};

use super::body::CheckedBody;
use super::clauses::Clauses;
use super::elab::Elab;
use super::model::*;

impl Elab<'_> {
    pub fn declare_cache(
        &mut self,
        decl: &TensorDecl,
        span: Span,
        prefix: &str,
        out: &mut Vec<UnsupportedClause>,
    ) {
        self.declare_inputs(decl, TensorKind::Cache, prefix);
        out.push(UnsupportedClause {
            clause: "cache".into(),
            span,
            nearest: "bind k and v as inputs".into(),
        });
    }
    pub fn declare_states(&mut self, _clauses: &Clauses<'_>) {}
    pub fn derived_tensor(
        &mut self,
        _name: &ast::Name,
        _value: &ast::Expr,
        _out: &mut Vec<UnsupportedClause>,
    ) -> bool {
        false
    }
    pub fn row_clauses(&mut self, clauses: &Clauses<'_>, out: &mut Vec<UnsupportedClause>) {
        for c in &clauses.all {
            if matches!(
                c.kind,
                ClauseKind::Rotate { .. }
                    | ClauseKind::Map { .. }
                    | ClauseKind::Select { .. }
                    | ClauseKind::Dropout(_)
                    | ClauseKind::Distribute(_)
                    | ClauseKind::Append(_)
            ) {
                out.push(UnsupportedClause {
                    clause: c.kind.keyword().into(),
                    span: c.span,
                    nearest: "leave it out".into(),
                });
            }
        }
    }
    pub fn branches(
        &mut self,
        clauses: &Clauses<'_>,
        at: Span,
        _out: &mut Vec<UnsupportedClause>,
    ) -> CheckedBody {
        super::body::check_body(self, clauses, at)
    }
    pub fn recurrence(
        &mut self,
        kernel: &ast::Kernel,
        clauses: &Clauses<'_>,
        _out: &mut Vec<UnsupportedClause>,
    ) -> CheckedBody {
        super::body::check_body(self, clauses, kernel.name.span)
    }
}
