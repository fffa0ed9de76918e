//! The invariants of the tile IR, each with its number. [`verify`] runs after lowering and after every pass; a
//! backend may rely on all of them and checks none.
//!
//! - I1 Kernel, dims, params, tensors, launches and buffers have names that the text form can carry, unique in
//!   their kind (params and dims share one, buffers are a launch's own).
//! - I2 A tensor's layout is a permutation of its dims, the identity for tables and workspace; a table has one
//!   int variable and origin for each dim and is f32, i32 or bit; workspace is f32, f16, bf16, i32 or bit.
//! - I3 Shapes, origins, requires, table entries and grid extents are expressions over dims and params (and, in
//!   an entry, the table's variables) without loads.
//! - I4 A variable is defined at one place in the whole program.
//! - I5 An expression reads variables that are in scope: dims, params, the launch's grid, and what is defined
//!   before in this block or one around it; the variables of a map in its value only.
//! - I6 Every node has operands of the types that it takes, and every expression the type that its place wants.
//! - I7 Buffer ids are of the launch; a buffer has at least one row, and one column or a multiple of 16.
//! - I8 Row states, scales and stored vectors have one column; tiles have more.
//! - I9 A search runs over one span or more. Constants fit: constant rows, cols, d, k and n lie within the buffers;
//!   what is packed has a feature.
//! - I10 Tensor ids are of the table, there is an index for each dim, rows run along two different dims of the
//!   tensor and a vector along one; what a map stores along one dim has one column.
//! - I11 Panels lie in f32 or bf16 workspace, prefix sums in f32 workspace, flags, indices and ranks in i32 workspace.
//! - I12 Inputs and tables are never written, outputs never read.
//! - I13 No tensor is both read and written by one launch: tasks are independent.
//! - I14 Workspace that a launch reads is written by an earlier launch.
//! - I15 A map reads what it writes as `tile` only.
//! - I16 What a product, row step, transposition, scan or reduction writes is another buffer than what it reads.
//! - I17 A product without `+=` has no row_scale.
//! - I18 A right operand that lies in a buffer has exactly 32 columns.
//! - I19 A product with columns of a tensor has no row_scale and skips nothing.
//! - I20 Both parts of a left operand have one size, and neither is the result.
//! - I21 A buffer is f32 or bf16. One of bf16 is a tile that rows of bf16 or rounding fill and that a product without a
//!   rest reads on the left, whose right operand is bf16 in panels or in a tensor; panels of bf16 take rows of bf16, of
//!   keys with an even number of features, and meet nothing else. Such a product with columns has an even k.
//! - I22 A view is a part of a buffer before it that is none, of its type, no larger, a vector of a vector; it is used
//!   where it has been laid, once at a time, and not filled.
//!
//! Not decided here, but by [`super::interp`] on data: that run-time counts fit, that no two tasks write one
//! element, that nothing uninitialised is read.

mod expr;
mod header;
mod stmt;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::{BufId, Launch, Program, Stmt, text};
use crate::expr::{Seen, TensorId, VarId};

/// A broken invariant: a bug of the compiler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {message}: {op}")]
pub struct VerifyError {
    /// Number of the invariant in the list of this file.
    pub invariant: &'static str,
    /// The statement or declaration, printed.
    pub op: String,
    /// What is wrong with it.
    pub message: String,
}

/// Checks every invariant; the first that is broken is returned.
pub fn verify(program: &Program) -> Result<(), VerifyError> {
    let n_vars = program.pool.vars().count();
    let mut v = Verifier {
        program,
        launch: None,
        stmt: None,
        place: program.name.clone(),
        in_scope: vec![false; n_vars],
        defined: vec![false; n_vars],
        written: vec![false; program.tensors.len()],
        laid: BTreeSet::new(),
        well_typed: RefCell::default(),
        well_scoped: RefCell::default(),
        of_lengths: RefCell::default(),
    };
    v.header()?;
    for launch in &program.launches {
        v.launch(launch)?;
    }
    Ok(())
}

type Checked<T = ()> = Result<T, VerifyError>;

struct Verifier<'a> {
    program: &'a Program,
    launch: Option<&'a Launch>,
    stmt: Option<&'a Stmt>,
    /// What is being checked where there is no statement.
    place: String,
    in_scope: Vec<bool>,
    defined: Vec<bool>,
    /// Tensors written by the launches before.
    written: Vec<bool>,
    /// Views that lie over their buffers.
    laid: BTreeSet<BufId>,
    /// Nodes that have passed I6.
    well_typed: RefCell<Seen>,
    /// Nodes that have passed I5, I10 and I12 since a variable went out of scope.
    well_scoped: RefCell<Seen>,
    /// Nodes that have passed I3 since then.
    of_lengths: RefCell<Seen>,
}

impl<'a> Verifier<'a> {
    fn fail<T>(&self, invariant: &'static str, message: impl Into<String>) -> Checked<T> {
        let op = match (self.launch, self.stmt) {
            (Some(launch), Some(stmt)) => text::stmt_head(self.program, launch, stmt),
            _ => self.place.clone(),
        };
        Err(VerifyError { invariant, op, message: message.into() })
    }

    fn ensure(&self, holds: bool, invariant: &'static str, message: &str) -> Checked {
        if holds { Ok(()) } else { self.fail(invariant, message) }
    }

    /// I4, and from now on in scope.
    fn define(&mut self, var: VarId) -> Checked {
        let n = var.0 as usize;
        if n >= self.defined.len() {
            return self.fail("I4", format!("variable {n} is not of this program"));
        }
        if self.defined[n] {
            let name = &self.program.pool.var_info(var).name;
            return self.fail("I4", format!("`{name}` is defined a second time"));
        }
        self.defined[n] = true;
        self.in_scope[n] = true;
        Ok(())
    }

    fn leave(&mut self, vars: impl IntoIterator<Item = VarId>) {
        for var in vars {
            self.in_scope[var.0 as usize] = false;
        }
        self.well_scoped.take();
        self.of_lengths.take();
    }

    fn launch(&mut self, launch: &'a Launch) -> Checked {
        self.place = format!("launch {}", launch.name);
        self.launch = Some(launch);
        for (_, extent) in &launch.grid {
            self.size(*extent)?;
        }
        for (var, _) in &launch.grid {
            self.define(*var)?;
            self.var_ty(*var, crate::expr::Ty::Int)?;
        }
        self.buffers(launch)?;
        let written = stmt::Touched::of(self.program, launch);
        self.block(&launch.body)?;
        self.independent(&written)?;
        for tensor in written.writes {
            self.written[tensor.0 as usize] = true;
        }
        self.leave(launch.grid.iter().map(|(v, _)| *v));
        self.launch = None;
        Ok(())
    }

    /// I13 and I14.
    fn independent(&self, touched: &stmt::Touched) -> Checked {
        for &t in &touched.reads {
            let decl = &self.program.tensors[t.0 as usize];
            if touched.writes.contains(&t) {
                return self.fail("I13", format!("`{}` is read and written by one launch", decl.name));
            }
            if decl.kind == super::TensorKind::Workspace && !self.written[t.0 as usize] {
                return self.fail("I14", format!("`{}` is read before any launch has written it", decl.name));
            }
        }
        Ok(())
    }

    /// I10: the id is of the table.
    fn tensor(&self, id: TensorId) -> Checked<&'a super::TensorDecl> {
        match self.program.tensors.get(id.0 as usize) {
            Some(decl) => Ok(decl),
            None => self.fail("I10", format!("tensor {} is not of the table", id.0)),
        }
    }
}
