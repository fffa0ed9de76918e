//! Which int parameters may hold any 64 bits: those that only key or number random words.
//!
//! Comes in: a program. Goes out: variables. What holds: every other int parameter takes part in arithmetic of
//! indices, which counts on 32 bits. Not here: the check of the values, which is the runtime's.

use std::collections::HashSet;

use super::{Program, Stmt, TensorKind};
use crate::expr::{ExprId, Op, Pool, VarId};

/// The int parameters whose every use is the seed or the offset of random words.
pub fn wide_params(program: &Program) -> HashSet<VarId> {
    let mut uses = Uses { pool: &program.pool, keys: HashSet::new(), others: HashSet::new() };
    for t in &program.tensors {
        uses.read(&t.shape);
        if let TensorKind::Table { origin, value, .. } = &t.kind {
            uses.read(origin);
            uses.read(&[*value]);
        }
    }
    uses.read(&program.requires.iter().map(|r| r.cond).collect::<Vec<_>>());
    for launch in &program.launches {
        uses.read(&launch.grid.iter().map(|g| g.1).collect::<Vec<_>>());
        uses.block(&launch.body);
    }
    let params: HashSet<VarId> = program.params.iter().map(|p| p.var).collect();
    uses.keys.into_iter().filter(|v| params.contains(v) && !uses.others.contains(v)).collect()
}

struct Uses<'a> {
    pool: &'a Pool,
    keys: HashSet<VarId>,
    others: HashSet<VarId>,
}

impl Uses<'_> {
    fn block(&mut self, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::For { body, .. } => self.block(body),
                Stmt::If { then, otherwise, .. } => {
                    self.block(then);
                    self.block(otherwise);
                }
                _ => {}
            }
            let mut exprs = stmt.exprs();
            if let Stmt::Random { seed, offset, .. } = stmt {
                exprs.retain(|x| !(x == seed || x == offset));
                self.key(*seed);
                self.key(*offset);
            }
            self.read(&exprs);
        }
    }

    /// An expression in the place of a key.
    fn key(&mut self, id: ExprId) {
        match self.pool.op(id) {
            Op::Var(v) => {
                self.keys.insert(*v);
            }
            _ => self.read(&[id]),
        }
    }

    fn read(&mut self, roots: &[ExprId]) {
        let mut seen: HashSet<ExprId> = HashSet::new();
        let mut stack = roots.to_vec();
        while let Some(id) = stack.pop() {
            if !seen.insert(id) {
                continue;
            }
            match self.pool.op(id) {
                Op::Var(v) => {
                    self.others.insert(*v);
                }
                Op::RandBlock(args) => {
                    stack.extend(&args[..5]);
                    self.key(args[5]);
                }
                _ => stack.extend(self.pool.operands(id)),
            }
        }
    }
}
