//! Files, their imports and their definitions.
//!
//! Comes in: a file, and a resolver for the files beside it. Goes out: every module reached, every definition, and
//! which are recursive. What holds: names in the bodies of definitions resolve, and no import cycle is left. A
//! module sees its own definitions first, then those of its imports; imports are not passed on. Not here: types.

use std::collections::{HashMap, HashSet};

use crate::diagnostic::{Code, Diagnostic, Diagnostics, SourceId, SourceMap, Span};
use crate::syntax::ast::{self, DefKind, ExprKind, Item, UseTarget};

use super::calls::{is_builtin, unknown_function};
use super::hir::IndexVar;
use super::suggest::nearest;

/// Index of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ModuleId(pub usize);

/// Index of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DefId(pub usize);

/// A file.
pub(crate) struct Module {
    /// What was parsed.
    pub file: ast::File,
    defs: HashMap<String, DefId>,
    imported: HashMap<String, DefId>,
    /// Each `use` of a file with the definitions that it brings; the standard library may be imported freely.
    uses: Vec<(Span, Vec<DefId>)>,
}

/// Everything reached from the file that is checked.
#[derive(Default)]
pub(crate) struct Modules {
    modules: Vec<Module>,
    defs: Vec<(ModuleId, ast::Def)>,
    recursive: HashSet<DefId>,
}

/// Gives the text of a file named in `use "..."`, or why there is none: (importing file's name, target).
pub type Resolver<'r> = dyn FnMut(&str, &str) -> Result<String, String> + 'r;

struct Loader<'l> {
    map: &'l mut SourceMap,
    resolver: &'l mut Resolver<'l>,
    out: Modules,
    by_source: HashMap<SourceId, ModuleId>,
    /// Files being loaded, outermost first.
    stack: Vec<(SourceId, String)>,
    diagnostics: Diagnostics,
}

impl Modules {
    /// Loads a file and everything that it imports; the file itself is module 0.
    pub fn load<'l>(
        map: &'l mut SourceMap,
        root: SourceId,
        resolver: &'l mut Resolver<'l>,
    ) -> (Modules, Diagnostics) {
        let mut loader = Loader {
            map,
            resolver,
            out: Modules::default(),
            by_source: HashMap::new(),
            stack: Vec::new(),
            diagnostics: Diagnostics::default(),
        };
        let name = loader.map.file(root).name.clone();
        loader.load(root, name);
        let (mut out, mut diagnostics) = (loader.out, loader.diagnostics);
        out.find_recursion(&mut diagnostics);
        out.check_names(&mut diagnostics);
        (out, diagnostics)
    }

    /// The definition and the module that it stands in.
    pub fn def(&self, id: DefId) -> (ModuleId, &ast::Def) {
        let (module, def) = &self.defs[id.0];
        (*module, def)
    }

    /// The definition of this name as a module sees it.
    pub fn find_def(&self, module: ModuleId, name: &str) -> Option<DefId> {
        let m = &self.modules[module.0];
        m.defs.get(name).or_else(|| m.imported.get(name)).copied()
    }

    /// Names of all definitions that a module sees.
    pub fn visible_defs(&self, module: ModuleId) -> Vec<String> {
        let m = &self.modules[module.0];
        m.defs.keys().chain(m.imported.keys()).cloned().collect()
    }

    /// True if the definition takes part in a cycle (already reported).
    pub fn is_recursive(&self, def: DefId) -> bool {
        self.recursive.contains(&def)
    }

    /// Definitions of the checked file that nothing calls, and imports that bring nothing that is called.
    pub fn warn_unused(&self, called: &HashSet<DefId>, diagnostics: &mut Diagnostics) {
        let mut live: HashSet<DefId> = called.clone();
        let mut todo: Vec<DefId> = called.iter().copied().collect();
        while let Some(def) = todo.pop() {
            for next in self.callees(def) {
                if live.insert(next) {
                    todo.push(next);
                }
            }
        }
        for (n, (module, def)) in self.defs.iter().enumerate() {
            if *module == ModuleId(0) && !live.contains(&DefId(n)) && !self.kernels_of(ModuleId(0)).is_empty()
            {
                let d = Diagnostic::warning(
                    Code::Unused,
                    def.name.span,
                    format!("`{}` is never called", def.name.node),
                )
                .label("unused definition")
                .help("remove it, or call it");
                diagnostics.push(d);
            }
        }
        let Some(root) = self.modules.first() else { return };
        for (span, brought) in &root.uses {
            if !brought.is_empty() && !brought.iter().any(|d| live.contains(d)) {
                let d = Diagnostic::warning(Code::Unused, *span, "nothing of this import is called")
                    .label("unused import")
                    .help("remove it");
                diagnostics.push(d);
            }
        }
    }

    /// The kernels of a module.
    pub fn kernels_of(&self, module: ModuleId) -> Vec<&ast::Kernel> {
        let items = self.modules[module.0].file.items.iter();
        items.filter_map(|i| if let Item::Kernel(k) = i { Some(k) } else { None }).collect()
    }

    fn callees(&self, def: DefId) -> Vec<DefId> {
        let (module, ast) = self.def(def);
        let mut out = Vec::new();
        walk(&ast.body, &mut |e| {
            if let ExprKind::Call { name, .. } = &e.node {
                out.extend(self.find_def(module, &name.node));
            }
        });
        out
    }

    fn find_recursion(&mut self, diagnostics: &mut Diagnostics) {
        let mut state = vec![0u8; self.defs.len()];
        for start in 0..self.defs.len() {
            // Iterative depth-first search: (definition, its callees, next of them).
            let mut path: Vec<(DefId, Vec<DefId>, usize)> = Vec::new();
            if state[start] == 0 {
                state[start] = 1;
                path.push((DefId(start), self.callees(DefId(start)), 0));
            }
            while let Some((def, callees, next)) = path.last_mut() {
                let def = *def;
                let Some(&callee) = callees.get(*next) else {
                    state[def.0] = 2;
                    path.pop();
                    continue;
                };
                *next += 1;
                match state[callee.0] {
                    0 => {
                        state[callee.0] = 1;
                        let below = self.callees(callee);
                        path.push((callee, below, 0));
                    }
                    1 => {
                        let from = path.iter().position(|(d, _, _)| *d == callee).unwrap_or(0);
                        let cycle: Vec<DefId> = path[from..].iter().map(|(d, _, _)| *d).collect();
                        self.report_cycle(&cycle, diagnostics);
                    }
                    _ => {}
                }
            }
        }
    }

    fn report_cycle(&mut self, cycle: &[DefId], diagnostics: &mut Diagnostics) {
        if cycle.iter().all(|d| self.recursive.contains(d)) {
            return;
        }
        self.recursive.extend(cycle.iter().copied());
        let names: Vec<String> = cycle.iter().map(|d| self.defs[d.0].1.name.node.clone()).collect();
        let Some((first, _)) = names.split_first() else { return };
        let shown: Vec<&str> = names.iter().take(8).map(String::as_str).collect();
        let tail = if names.len() > 8 { " -> ..." } else { "" };
        let span = self.defs[cycle[0].0].1.name.span;
        let d = Diagnostic::error(Code::Recursion, span, format!("`{first}` is defined in terms of itself"))
            .label(format!("{}{tail} -> {first}", shown.join(" -> ")))
            .note("definitions are inlined, so they cannot be recursive")
            .help("write the closed form, or pass the values as an input");
        diagnostics.push(d);
    }

    /// Names in the bodies of definitions, called or not.
    fn check_names(&self, diagnostics: &mut Diagnostics) {
        for (module, def) in &self.defs {
            let mut params: Vec<&str> = def.params.iter().map(|p| p.name.node.as_str()).collect();
            for p in &def.params {
                if IndexVar::from_name(&p.name.node).is_some() {
                    let message = format!("`{}` is an index variable and cannot be a parameter", p.name.node);
                    let d = Diagnostic::error(Code::ReservedName, p.name.span, message)
                        .label("choose another name");
                    diagnostics.push(d.help("a definition sees b h i j without taking them"));
                }
                if params.iter().filter(|n| **n == p.name.node).count() > 1 {
                    let message = format!("`{}` is declared twice", p.name.node);
                    let d = Diagnostic::error(Code::DuplicateName, p.name.span, message);
                    diagnostics.push(d.label("declared again").help("rename one of them"));
                }
            }
            if def.kind == DefKind::Position {
                params.extend(["x0", "x1", "pos", "d"]);
                check_pair(def, diagnostics);
            }
            walk(&def.body, &mut |e| self.check_name(*module, &params, e, diagnostics));
        }
    }

    fn check_name(&self, module: ModuleId, params: &[&str], e: &ast::Expr, diagnostics: &mut Diagnostics) {
        match &e.node {
            ExprKind::Name(n) => {
                let known = params.contains(&n.as_str())
                    || IndexVar::from_name(n).is_some()
                    || matches!(n.as_str(), "true" | "false" | "none");
                if !known {
                    let message = format!("nothing is called `{n}` in this definition");
                    let mut d = Diagnostic::error(Code::UnknownName, e.span, message)
                        .label("not a parameter of it")
                        .note("a definition sees its parameters and b h i j, never the names of a kernel");
                    d = match nearest(n, params.iter().copied()) {
                        Some(n) => d.suggest(e.span, n.clone(), format!("did you mean `{n}`?")),
                        None => d.help(format!("make `{n}` a parameter and pass it")),
                    };
                    diagnostics.push(d);
                }
            }
            ExprKind::Call { name, .. }
                if self.find_def(module, &name.node).is_none() && !is_builtin(&name.node) =>
            {
                diagnostics.push(unknown_function(name, self.visible_defs(module)));
            }
            _ => {}
        }
    }
}

fn check_pair(def: &ast::Def, diagnostics: &mut Diagnostics) {
    if !matches!(&def.body.node, ExprKind::List(items) if items.len() == 2) {
        let d = Diagnostic::error(Code::BadRotate, def.body.span, "a `position` gives a new pair")
            .label("not a list of two")
            .help("`position p(f) = [x0 * cos(pos * f) - x1 * sin(pos * f), x1 * cos(pos * f) + x0 * sin(pos * f)]`");
        diagnostics.push(d);
    }
}

/// Calls `f` on an expression and everything below it; iterative, since nothing bounds its depth here.
pub(crate) fn walk<'e>(root: &'e ast::Expr, f: &mut dyn FnMut(&'e ast::Expr)) {
    let mut stack = vec![root];
    while let Some(e) = stack.pop() {
        f(e);
        match &e.node {
            ExprKind::Number(_) | ExprKind::Str(_) | ExprKind::Name(_) => {}
            ExprKind::Call { args, .. } => stack.extend(args.iter().map(|a| &a.value)),
            ExprKind::Index { base, index } => {
                stack.push(base);
                stack.extend(index);
            }
            ExprKind::List(items) => stack.extend(items),
            ExprKind::Prefix { operand, .. } => stack.push(operand),
            ExprKind::Infix { left, right, .. } => stack.extend([&**left, &**right]),
            ExprKind::In { value, interval } => stack.extend([&**value, &interval.lo, &interval.hi]),
            ExprKind::Ternary { cond, then, otherwise } => stack.extend([&**cond, &**then, &**otherwise]),
            ExprKind::Paren(inner) => stack.push(inner),
        }
    }
}

impl Loader<'_> {
    fn load(&mut self, source: SourceId, key: String) -> ModuleId {
        let (file, diagnostics) = crate::syntax::parse(self.map, source);
        self.diagnostics.extend(diagnostics);
        let id = ModuleId(self.out.modules.len());
        let (defs, imported) = (HashMap::new(), HashMap::new());
        self.out.modules.push(Module { file: file.clone(), defs, imported, uses: Vec::new() });
        self.by_source.insert(source, id);
        self.stack.push((source, key));
        for item in &file.items {
            match item {
                Item::Use(u) => self.import(id, u),
                Item::Def(d) => self.define(id, d),
                Item::Kernel(_) => {}
            }
        }
        self.stack.pop();
        id
    }

    fn define(&mut self, module: ModuleId, def: &ast::Def) {
        let id = DefId(self.out.defs.len());
        let name = def.name.node.clone();
        if let Some(first) = self.out.modules[module.0].defs.get(&name) {
            let first = self.out.defs[first.0].1.name.span;
            let d =
                Diagnostic::error(Code::DuplicateName, def.name.span, format!("`{name}` is defined twice"))
                    .label("defined again here")
                    .context(first, "first defined here")
                    .help("rename one of them");
            self.diagnostics.push(d);
            return;
        }
        self.out.defs.push((module, def.clone()));
        self.out.modules[module.0].defs.insert(name, id);
    }

    fn import(&mut self, into: ModuleId, u: &ast::Use) {
        let span = u.target.span;
        let found = match &u.target.node {
            UseTarget::Path(words) => self.import_std(words, span),
            UseTarget::File(path) => self.import_file(path, span),
        };
        let Some(from) = found else { return };
        let of_file = matches!(u.target.node, UseTarget::File(_));
        let brought: Vec<(String, DefId)> =
            self.out.modules[from.0].defs.iter().map(|(n, d)| (n.clone(), *d)).collect();
        if of_file {
            self.out.modules[into.0].uses.push((span, brought.iter().map(|b| b.1).collect()));
        }
        for (name, def) in brought {
            let known = self.out.modules[into.0].imported.get(&name).copied();
            if known.is_some_and(|k| k != def) {
                let d = Diagnostic::error(Code::DuplicateName, span, format!("two imports define `{name}`"))
                    .label("the second of them")
                    .help("define it in this file, which wins over both, or drop one import");
                self.diagnostics.push(d);
                continue;
            }
            self.out.modules[into.0].imported.insert(name, def);
        }
    }

    fn import_std(&mut self, words: &[String], span: Span) -> Option<ModuleId> {
        let name = words.join(".");
        let key = format!("<{name}>");
        let Some(text) = crate::syntax::stdlib::source(&name) else {
            let known = crate::syntax::stdlib::NAMES;
            let mut d = Diagnostic::error(Code::ImportNotFound, span, format!("there is no module `{name}`"))
                .label("not part of the standard library")
                .help(format!(
                    "there are {}; a file beside this one is imported with quotes",
                    known.join(", ")
                ));
            if let Some(n) = nearest(&name, known.iter().copied()) {
                d = d.suggest(span, n.clone(), format!("did you mean `{n}`?"));
            }
            self.diagnostics.push(d);
            return None;
        };
        self.enter(key, text.to_string(), span)
    }

    fn import_file(&mut self, path: &str, span: Span) -> Option<ModuleId> {
        let importer = self.stack.last().map(|(_, name)| name.clone()).unwrap_or_default();
        match (self.resolver)(&importer, path) {
            Ok(text) => self.enter(path.to_string(), text, span),
            Err(why) => {
                let d = Diagnostic::error(Code::ImportNotFound, span, format!("`{path}` cannot be imported"))
                    .label(why)
                    .help("files are looked for beside the importing file");
                self.diagnostics.push(d);
                None
            }
        }
    }

    fn enter(&mut self, key: String, text: String, span: Span) -> Option<ModuleId> {
        let in_progress = self.stack.iter().position(|(s, name)| {
            *name == key || (self.map.file(*s).name.ends_with(&key) && self.map.file(*s).text == text)
        });
        if let Some(at) = in_progress {
            let mut cycle: Vec<String> = self.stack[at..].iter().map(|(_, n)| n.clone()).collect();
            cycle.push(key);
            let d = Diagnostic::error(Code::ImportCycle, span, "this import leads back to its own file")
                .label(cycle.join(" -> "))
                .help("move what both need into a third file");
            self.diagnostics.push(d);
            return None;
        }
        if self.out.modules.len() >= 256 {
            let d =
                Diagnostic::error(Code::ImportCycle, span, "over 256 files are imported").label("too many");
            self.diagnostics.push(d.help("merge files"));
            return None;
        }
        let known = self.map.find(&key).filter(|s| self.map.file(*s).text == text);
        if let Some(id) = known.and_then(|s| self.by_source.get(&s)) {
            return Some(*id);
        }
        let source = known.unwrap_or_else(|| self.map.add(key.clone(), text));
        if self.stack.len() >= 64 {
            let d = Diagnostic::error(Code::ImportCycle, span, "imports are nested over 64 files deep");
            self.diagnostics.push(d.label("too deep").help("import the files directly"));
            return None;
        }
        Some(self.load(source, key))
    }
}
