//! One kernel: its clauses checked in the order in which names come into scope.
//!
//! Comes in: a kernel of the syntax tree. Goes out: its facts, and diagnostics. What holds: parameters, dims and
//! tensors are in scope everywhere, lets after their clause, whatever the order of the text otherwise; a kernel
//! with an error gives no [`CheckedKernel`]. Not here: what each clause says.

use std::collections::HashSet;

use crate::diagnostic::{Code, Diagnostic, Diagnostics, SourceMap, Span};
use crate::syntax::ast::{self, ClauseKind};

use super::body::{CheckedBody, check_body};
use super::clauses::{Clauses, block_of, collect};
use super::declare::end_of;
use super::elab::{Elab, Entry, Let};
use super::model::*;
use super::modules::{DefId, ModuleId, Modules};

/// Checks one kernel of a module.
pub(crate) fn check_kernel(
    map: &SourceMap,
    modules: &Modules,
    module: ModuleId,
    kernel: &ast::Kernel,
) -> (Option<CheckedKernel>, Diagnostics, HashSet<DefId>) {
    let kind = match kernel.kind {
        ast::KernelKind::Attention => KernelKind::Attention,
        ast::KernelKind::Recurrence => KernelKind::Recurrence,
    };
    let mut elab = Elab::new(map, modules, module, kind);
    for p in &kernel.params {
        elab.declare_param(p);
    }
    let clauses = collect(&mut elab, &kernel.clauses, block_of(kind));
    let mut unsupported = Vec::new();
    elab.scope(&clauses, "", &mut unsupported);
    let checked = match kind {
        KernelKind::Attention => elab.attention(kernel, &clauses, &mut unsupported),
        KernelKind::Recurrence => elab.recurrence(kernel, &clauses),
    };
    let facts = elab.facts(&clauses, &mut unsupported);
    elab.unused();
    let body = checked.body.filter(|_| kind == KernelKind::Attention);
    unsupported.extend(checked.unsupported);
    unsupported.sort_by_key(|u| u.span.start);
    let errors = elab.report.n_errors > 0;
    let out = CheckedKernel {
        name: kernel.name.node.clone(),
        span: kernel.name.span,
        kind,
        params: elab.params,
        dims: elab.dims,
        tensors: elab.tensors,
        outputs: checked.outputs,
        caches: elab.caches,
        tests: facts.tests,
        ensures: facts.ensures,
        schedules: facts.schedules,
        numerics: facts.numerics,
        align: checked.align,
        heads: checked.heads,
        decode: facts.decode,
        mask_clauses: checked.mask_clauses,
        unsupported,
        ring: elab.ring,
        row_ops: elab.row_ops,
        made: elab.made,
        body,
        recurrence: elab.recurrence,
        branches: checked.branches,
        choices: checked.choices,
    };
    ((!errors).then_some(out), elab.report.diagnostics, elab.used_defs)
}

/// Facts of clauses that no expression reads.
#[derive(Default)]
struct Facts {
    tests: Vec<TestGrid>,
    ensures: Vec<Ensure>,
    schedules: Vec<ScheduleFact>,
    numerics: NumericsFact,
    decode: bool,
}

impl Elab<'_> {
    /// Brings dims, tensors, states and lets of a block into scope.
    pub fn scope(&mut self, clauses: &Clauses<'_>, prefix: &str, unsupported: &mut Vec<UnsupportedClause>) {
        for clause in &clauses.all {
            if let ClauseKind::Dims(dims) = &clause.kind {
                dims.iter().for_each(|d| self.declare_dim(d));
            }
        }
        for clause in &clauses.all {
            match &clause.kind {
                ClauseKind::Input(decl) => self.declare_inputs(decl, TensorKind::Input, prefix),
                ClauseKind::Cache(decl) => self.declare_cache(decl, prefix),
                _ => {}
            }
        }
        if self.kind == KernelKind::Recurrence {
            self.declare_states(clauses);
        }
        for clause in &clauses.all {
            if let ClauseKind::Let { name, value } = &clause.kind {
                self.declare_let(name, value, unsupported);
            }
        }
        self.row_clauses(clauses);
    }

    fn declare_let(&mut self, name: &ast::Name, value: &ast::Expr, unsupported: &mut Vec<UnsupportedClause>) {
        if self.derived_tensor(name, value, unsupported) {
            return;
        }
        let value = self.expr(value);
        let n = self.lets.len();
        self.lets.push(Let { value });
        self.declare(name, Entry::Let(n));
    }

    fn attention(
        &mut self,
        kernel: &ast::Kernel,
        clauses: &Clauses<'_>,
        unsupported: &mut Vec<UnsupportedClause>,
    ) -> CheckedBody {
        let at = kernel.name.span;
        if clauses.any(|k| matches!(k, ClauseKind::Branch { .. })) {
            for clause in clauses.all.iter().filter(|c| matches!(c.kind, ClauseKind::Dropout(_))) {
                let nearest = "write `dropout` inside each branch whose weights it drops".into();
                unsupported.push(UnsupportedClause { clause: "dropout".into(), span: clause.span, nearest });
            }
            return self.branches(clauses, at, unsupported);
        }
        let choices = self.selects(clauses);
        let mut checked = check_body(self, clauses, at);
        if let Some(body) = &checked.body {
            self.check_rotations(&body.dots);
            self.check_choices(&choices, body);
            self.choices_unsupported(&choices, body, unsupported);
            self.check_caches(body);
        }
        self.routed_outside(&choices);
        checked.choices = choices;
        checked
    }

    fn facts(&mut self, clauses: &Clauses<'_>, unsupported: &mut Vec<UnsupportedClause>) -> Facts {
        let mut facts = Facts::default();
        if let Some((options, _)) = clauses.numerics {
            facts.numerics = self.numerics(options, unsupported);
        }
        for clause in &clauses.all {
            match &clause.kind {
                ClauseKind::Mode(name) => facts.decode = self.mode(name),
                ClauseKind::Test(args) => facts.tests.push(self.test(args, clause.span)),
                ClauseKind::Ensure { promise, at } => {
                    facts.ensures.extend(self.ensure(promise, at, clause.span))
                }
                ClauseKind::Schedule { target, args, options } => {
                    let Some(fact) = self.schedule(target, args, options, clause.span) else { continue };
                    if let Some(first) =
                        facts.schedules.iter().find(|s: &&ScheduleFact| s.target == fact.target)
                    {
                        let d = Diagnostic::error(
                            Code::DuplicateClause,
                            clause.span,
                            format!("`schedule {}` stands twice", fact.target),
                        )
                        .label("the second one")
                        .context(first.span, "the first one")
                        .help("join them");
                        self.report.push(d);
                    }
                    facts.schedules.push(fact);
                }
                _ => {}
            }
        }
        facts
    }

    fn mode(&mut self, name: &ast::Name) -> bool {
        if name.node != "decode" {
            let d = Diagnostic::error(
                Code::BadConvention,
                name.span,
                format!("there is no mode `{}`", name.node),
            )
            .label("expected decode")
            .suggest(
                name.span,
                "decode",
                "few query rows are expected; leave the clause out otherwise",
            );
            self.report.push(d);
        }
        name.node == "decode"
    }

    /// Names that nothing reads, and dims that no tensor tells.
    fn unused(&mut self) {
        let mut names: Vec<(String, (Entry, Span))> =
            self.names.iter().map(|(n, e)| (n.clone(), *e)).collect();
        names.sort_by_key(|(_, (_, span))| span.start);
        // After an error parts of the text were not read: what they use is not known.
        let complete = self.report.n_errors == 0;
        for (name, (entry, span)) in names {
            if complete && !self.used.contains(&name) {
                self.warn_unused_name(&name, entry, span);
            }
        }
        let told = |n: usize| {
            let bound = self.tensors.iter().filter(|t| t.kind != TensorKind::Derived);
            bound.flat_map(|t| &t.shape).any(|s| s.dim == Some(n))
        };
        let pooled = |n: usize| {
            let pages = self.caches.iter().filter_map(|c| c.pages.as_ref());
            pages.flat_map(|p| &p.shape).any(|s| s.dim == Some(n))
        };
        let untold: Vec<DimFact> = self
            .dims
            .iter()
            .enumerate()
            .filter(|(n, d)| {
                matches!(d.size, DimSize::Free) && !told(*n) && !pooled(*n) && self.used.contains(&d.name)
            })
            .map(|(_, d)| d.clone())
            .collect();
        for d in untold {
            let message = format!("no input tells the size of dim `{}`", d.name);
            let said = Diagnostic::error(Code::BadDim, d.span, message)
                .label("a free dim is read from the bound tensors")
                .suggest(end_of(d.span), " = 64", "fix it, or use it alone as a dim of an input");
            self.report.push(said);
        }
    }

    /// Warns of a name that nothing reads.
    pub fn warn_unused_name(&mut self, name: &str, entry: Entry, span: Span) {
        let what = match entry {
            Entry::Param(_) => "parameter",
            Entry::Tensor(_) => "input",
            Entry::Let(_) => "let",
            Entry::Dim(_) => "dim",
            Entry::State(_) | Entry::Branch(_) | Entry::Bound => return,
        };
        let d = Diagnostic::warning(Code::Unused, span, format!("`{name}` is never read"))
            .label(format!("unused {what}"))
            .help("remove it");
        self.report.push(d);
    }
}
