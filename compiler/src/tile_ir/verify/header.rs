//! I1 to I3: names, tensors, requires; and I7 for the sizes of buffers.

use std::collections::HashSet;

use super::{Checked, Verifier};
use crate::artifact::DType;
use crate::expr::{ExprId, Op, Ty, VarId};
use crate::tile_ir::{Buffer, Launch, TensorDecl, TensorKind};

/// Names that expressions read as constants.
const RESERVED: [&str; 4] = ["true", "false", "inf", "nan"];

impl<'a> Verifier<'a> {
    pub(super) fn header(&mut self) -> Checked {
        let program = self.program;
        self.names("kernel", &[program.name.as_str()])?;
        let scalars = || program.dims.iter().chain(&program.params);
        self.names("dim or param", &scalars().map(|s| s.name.as_str()).collect::<Vec<_>>())?;
        self.names("tensor", &program.tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>())?;
        self.names("launch", &program.launches.iter().map(|l| l.name.as_str()).collect::<Vec<_>>())?;
        self.names("variable", &program.pool.vars().map(|(_, v)| v.name.as_str()).collect::<Vec<_>>())?;
        for (n, arg) in scalars().enumerate() {
            self.place = format!("argument {}", arg.name);
            self.define(arg.var)?;
            let ty = program.pool.var_info(arg.var).ty;
            self.ensure(n >= program.dims.len() || ty == Ty::Int, "I6", "a dim is an int")?;
            let fits = arg.default.is_none_or(|v| v.ty() == ty);
            self.ensure(fits, "I6", "the default has not the type of the parameter")?;
        }
        for decl in &program.tensors {
            self.place = format!("tensor {}", decl.name);
            self.tensor_decl(decl)?;
        }
        for require in &program.requires {
            self.place = format!("require {:?}", require.message);
            self.header_expr(require.cond, Ty::Bool)?;
        }
        Ok(())
    }

    /// I1.
    fn names(&mut self, kind: &str, names: &[&str]) -> Checked {
        let mut taken = HashSet::with_capacity(names.len());
        for name in names {
            self.place = format!("{kind} {name:?}");
            let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
            let word = first && rest && !name.contains("..") && !RESERVED.contains(name);
            self.ensure(word, "I1", "the text form has no such names")?;
            self.ensure(taken.insert(name), "I1", "the name is taken")?;
        }
        Ok(())
    }

    /// I2.
    fn tensor_decl(&mut self, decl: &TensorDecl) -> Checked {
        let rank = decl.shape.len();
        for &size in &decl.shape {
            self.size(size)?;
        }
        let mut seen = decl.layout.clone();
        seen.sort_unstable();
        self.ensure(seen.into_iter().eq(0..rank), "I2", "the layout is no permutation of the dims")?;
        let strided = matches!(decl.kind, TensorKind::Input | TensorKind::Output | TensorKind::Updated);
        let identity = decl.layout.iter().copied().eq(0..rank);
        self.ensure(strided || identity, "I2", "tables and workspace have no layout")?;
        match &decl.kind {
            TensorKind::Input | TensorKind::Output | TensorKind::Updated => Ok(()),
            TensorKind::Workspace => {
                let own = [DType::F32, DType::F16, DType::Bf16, DType::I32, DType::Bit];
                self.ensure(own.contains(&decl.dtype), "I2", "workspace is f32, f16, bf16, i32 or bit")
            }
            TensorKind::Table { vars, origin, value } => self.table(decl, vars, origin, *value),
        }
    }

    fn table(&mut self, decl: &TensorDecl, vars: &[VarId], origin: &[ExprId], value: ExprId) -> Checked {
        let fits = matches!(decl.dtype, DType::F32 | DType::I32 | DType::Bit);
        self.ensure(fits, "I2", "a table is f32, i32 or bit")?;
        let rank = decl.shape.len();
        self.ensure(
            vars.len() == rank && origin.len() == rank,
            "I2",
            "one variable and origin for each dim",
        )?;
        for &x in origin {
            self.size(x)?;
        }
        for &var in vars {
            self.define(var)?;
            self.var_ty(var, Ty::Int)?;
        }
        self.header_expr(value, decl.dtype.value_ty())?;
        self.leave(vars.iter().copied());
        Ok(())
    }

    /// I3 and I6 for an int.
    pub(super) fn size(&self, id: ExprId) -> Checked {
        self.header_expr(id, Ty::Int)
    }

    fn header_expr(&self, id: ExprId, ty: Ty) -> Checked {
        self.typed(id, ty)?;
        let pool = &self.program.pool;
        for n in pool.reachable_without(&[id], &mut self.of_lengths.borrow_mut()) {
            match pool.op(n) {
                Op::Load(..) => return self.fail("I3", "no tensor is read before the launch"),
                Op::Var(v) if !self.in_scope[v.0 as usize] => {
                    let name = &pool.var_info(*v).name;
                    return self.fail("I3", format!("`{name}` is neither dim nor parameter"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn var_ty(&self, var: VarId, ty: Ty) -> Checked {
        let info = self.program.pool.var_info(var);
        if info.ty == ty {
            return Ok(());
        }
        self.fail("I6", format!("`{}` is of type {:?}, not {ty:?}", info.name, info.ty))
    }

    pub(super) fn buffers(&mut self, launch: &'a Launch) -> Checked {
        self.names("buffer", &launch.buffers.iter().map(|b| b.name.as_str()).collect::<Vec<_>>())?;
        for (n, b) in launch.buffers.iter().enumerate() {
            self.place = format!("buffer {}[{}, {}]", b.name, b.rows, b.cols);
            let cols = b.cols == 1 || (b.cols > 0 && b.cols % 16 == 0);
            self.ensure(b.rows > 0 && cols, "I7", "rows at least 1, cols 1 or a multiple of 16")?;
            let known = b.dtype == DType::F32 || (b.dtype == DType::Bf16 && b.cols > 1);
            self.ensure(known, "I21", "a buffer is f32, or a tile of bf16")?;
            let part = |of: &Buffer| {
                let same = of.of.is_none() && of.dtype == b.dtype && (of.cols == 1) == (b.cols == 1);
                same && b.rows <= of.rows && b.cols <= of.cols
            };
            let fits = b.of.is_none_or(|of| launch.buffers[..n].get(of.0 as usize).is_some_and(part));
            self.ensure(fits, "I22", "a view is a part of a buffer before it")?;
        }
        self.place = format!("launch {}", launch.name);
        Ok(())
    }
}
