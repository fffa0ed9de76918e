//! I5 and I6, and of I10 and I12 what concerns loads: expressions.

use super::{Checked, Verifier};
use crate::expr::{BinaryOp, ExprId, Op, Pool, Ty, UnaryOp};
use crate::tile_ir::TensorKind;

impl Verifier<'_> {
    /// An expression of a statement, with the type that its place wants.
    pub(super) fn expr(&self, id: ExprId, ty: Ty) -> Checked {
        self.typed(id, ty)?;
        let pool = &self.program.pool;
        for n in pool.reachable_without(&[id], &mut self.well_scoped.borrow_mut()) {
            match pool.op(n) {
                Op::Var(v) if !self.in_scope[v.0 as usize] => {
                    let name = &pool.var_info(*v).name;
                    return self.fail("I5", format!("`{name}` is not in scope"));
                }
                Op::Load(t, index, ty) => {
                    let decl = self.tensor(*t)?;
                    if decl.shape.len() != index.len() {
                        let (found, wanted) = (index.len(), decl.shape.len());
                        return self
                            .fail("I10", format!("{found} indices, `{}` has {wanted} dims", decl.name));
                    }
                    self.ensure(
                        decl.dtype.value_ty() == *ty,
                        "I6",
                        "a load of another type than the tensor's",
                    )?;
                    self.ensure(decl.kind != TensorKind::Output, "I12", "an output is not read")?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// I6: of this type, and well typed within.
    pub(super) fn typed(&self, id: ExprId, ty: Ty) -> Checked {
        let pool = &self.program.pool;
        if id.0 as usize >= pool.len() {
            return self.fail("I6", format!("expression {} is not of this program", id.0));
        }
        if pool.ty(id) != ty {
            return self
                .fail("I6", format!("expected an expression of type {ty:?}, found {:?}", pool.ty(id)));
        }
        let new = pool.reachable_without(&[id], &mut self.well_typed.borrow_mut());
        match new.into_iter().find(|&n| !well_typed(pool, n)) {
            None => Ok(()),
            Some(n) => self.fail("I6", format!("operands of wrong types: {:?}", pool.op(n))),
        }
    }
}

fn well_typed(pool: &Pool, id: ExprId) -> bool {
    use BinaryOp::*;
    let is = |x: &ExprId, ty: Ty| pool.ty(*x) == ty;
    match pool.op(id) {
        Op::Int(_) | Op::Float(_) | Op::Bool(_) | Op::Var(_) => true,
        Op::Load(_, index, _) => index.iter().all(|x| is(x, Ty::Int)),
        Op::RandBlock(args) => args.iter().all(|x| is(x, Ty::Int)),
        Op::RandBlockExcept(args) => {
            let col = matches!(pool.op(args[1]), Op::Var(_));
            col && args[..6].iter().all(|x| is(x, Ty::Int)) && is(&args[6], Ty::Bool)
        }
        Op::Unary(UnaryOp::Not, x) => is(x, Ty::Bool),
        Op::Unary(UnaryOp::Neg | UnaryOp::Abs, x) => !is(x, Ty::Bool),
        Op::Unary(UnaryOp::ToFloat, x) => is(x, Ty::Int),
        Op::Unary(_, x) => is(x, Ty::Float),
        Op::Select(c, a, b) => is(c, Ty::Bool) && pool.ty(*a) == pool.ty(*b),
        Op::Binary(op, a, b) => {
            pool.ty(*a) == pool.ty(*b)
                && match op {
                    And | Or => is(a, Ty::Bool),
                    IDiv | Mod => is(a, Ty::Int),
                    Div | Pow => is(a, Ty::Float),
                    Eq | Ne => true,
                    Add | Sub | Mul | Min | Max | Lt | Le => !is(a, Ty::Bool),
                }
        }
    }
}
