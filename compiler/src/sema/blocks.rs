//! Random blocks with excluded columns: a table of bits that is made at bind.
//!
//! Comes in: `rand_block(row, col, ncols, head, n, seed, exclude = ...)` of a checked kernel. Goes out: a tensor over
//! head, row and column, and a load of it. What holds: the condition is a function of the row, the column and the
//! head as they are written in the other arguments; a column outside `0..ncols` is never drawn. Not here: drawing.

use std::sync::Arc;

use crate::artifact::DType;
use crate::attn_ir::{Derive, Fact, Step};
use crate::expr::interval::{Between, interval};
use crate::expr::{ExprId, Op, Ty, VarId};

use super::hir::{Expr, Kind, find};
use super::lower::{Lower, LowerError};
use super::turn::Steps;

/// The load that stands for a node.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    node: Expr,
    load: ExprId,
}

impl Steps<'_> {
    /// Makes the table of every such node of an expression. `bounds` are the intervals of index variables.
    pub fn block_plans(&mut self, root: &Expr, bounds: &[Between]) -> Result<(), LowerError> {
        let mut nodes: Vec<Expr> = Vec::new();
        let _: Option<()> = find(root, &mut |n| {
            if matches!(n.kind, Kind::RandBlockExcept(..)) && !nodes.iter().any(|m| Arc::ptr_eq(m, n)) {
                nodes.push(n.clone());
            }
            None
        });
        for node in nodes {
            let load = self.block_plan(&node, bounds)?;
            self.lower.plans.push(Plan { node, load });
        }
        Ok(())
    }

    fn block_plan(&mut self, node: &Expr, bounds: &[Between]) -> Result<ExprId, LowerError> {
        let Kind::RandBlockExcept(args, cond) = &node.kind else { return Ok(self.lower.pool.bool(false)) };
        if self.shard.is_some() {
            let message = "random blocks with excluded columns over a ring have no table".into();
            return Err(LowerError { span: node.span, message });
        }
        let mut ids = Vec::new();
        for x in args.iter() {
            ids.push(self.lower.expr(x)?);
        }
        let cond = self.lower.expr(cond)?;
        let [row, col, ncols, head, n, seed] = ids[..] else { return Ok(cond) };
        let fail = |message: &str| LowerError { span: node.span, message: message.into() };
        let pool = &mut self.lower.pool;
        let known = |pool: &mut _, x| {
            interval(pool, bounds, x)
                .ok_or_else(|| fail("the row and the head are sums of positions and heads"))
        };
        let (heads, rows) = (known(pool, head)?, known(pool, row)?);
        let vars = ["head", "row", "col"].map(|name| pool.add_var(name, Ty::Int));
        let [h, r, c] = vars.map(|v| pool.var(v));
        let (at_head, at_row) = (pool.add(h, heads.0), pool.add(r, rows.0));
        let cond = pool.rewrite(cond, &mut |_, id| match id {
            id if id == col => Some(c),
            id if id == row => Some(at_row),
            id if id == head => Some(at_head),
            _ => None,
        });
        let ix: Vec<VarId> = bounds.iter().map(|b| b.0).collect();
        let loads = pool.reachable(&[cond]).into_iter().any(|id| matches!(pool.op(id), Op::Load(..)));
        if loads || pool.depends_on(cond, &ix) || [ncols, n, seed].iter().any(|x| pool.depends_on(*x, &ix)) {
            let message = "`exclude` is a condition on the row, the column and the head as written in the other \
                           arguments; `ncols`, `n` and `seed` are the same everywhere";
            return Err(fail(message));
        }
        let value = pool.intern(Op::RandBlockExcept(Box::new([at_row, c, ncols, at_head, n, seed, cond])));
        let (zero, mut shape) = (pool.int(0), Vec::new());
        for (lo, hi) in [heads, rows] {
            let span = pool.sub(hi, lo);
            let size = pool.add_int(span, 1);
            shape.push(pool.max(size, zero));
        }
        shape.push(pool.max(ncols, zero));
        let of_data = pool.reachable(&shape).into_iter().any(|id| matches!(pool.op(id), Op::Load(..)));
        if of_data {
            return Err(fail(
                "the number of rows must follow from dims and parameters, not from a cache's lengths",
            ));
        }
        let at = vec![pool.sub(head, heads.0), pool.sub(row, rows.0), col];
        let out = self.declare("blocks", DType::Bit, shape, Fact::None);
        let (index, sum, checks) = (vars.to_vec(), vec![], vec![]);
        self.steps.push(Step::Derive(Derive { out, index, sum, value, at_bind: true, checks }));
        let pool = &mut self.lower.pool;
        let load = pool.load(out, at, Ty::Bool);
        let (low, high) = (pool.le(zero, col), pool.lt(col, ncols));
        let inside = pool.and(low, high);
        Ok(pool.and(inside, load))
    }
}

impl Lower<'_> {
    /// What stands for such a node.
    pub fn planned(&self, e: &Expr) -> Option<ExprId> {
        self.plans.iter().find(|p| Arc::ptr_eq(&p.node, e)).map(|p| p.load)
    }
}
