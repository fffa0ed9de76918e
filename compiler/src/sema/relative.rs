//! Dots of a query with a row that depends on both positions: `dot(q, rel[clamp(j - i, -w, w) + w])`.
//!
//! Comes in: such dots of a checked score (Shaw, Uszkoreit, Vaswani 2018). Goes out: for each a derived tensor of the
//! dots of every query row with every row of the table, and the load that stands for the dot of a pair. What holds:
//! a product is formed once for each query and each row of the table, not for each pair. Not here: dots of a query
//! row and a key row, which are products of tiles.

use crate::artifact::DType;
use crate::attn_ir::{Derive, Fact, Step};
use crate::expr::{ExprId, TensorId, Ty, VarId};

use super::hir::{Expr, Kind, Uses};
use super::lower::{Lower, LowerError};
use super::model::RowsFact;
use super::turn::Steps;

/// A dot whose right side is a row of a table, chosen by both positions.
#[derive(Clone, Debug)]
pub(crate) struct RelativeFact {
    /// Roles of the query.
    pub rows: RowsFact,
    /// The row at the query, perhaps computed.
    pub x: Expr,
    /// A row of a table with explicit indices.
    pub y: Expr,
}

/// The made products of a relative dot.
#[derive(Clone, Debug)]
pub(crate) struct Products {
    x: Expr,
    y: Expr,
    /// None where the table is absent: the dot is 0.
    tensor: Option<TensorId>,
    rows: RowsFact,
}

/// True of a row with explicit indices that read the query's position.
pub(crate) fn is_relative(y: &Expr) -> bool {
    matches!(&y.kind, Kind::Row(_, index) if !index.is_empty()) && y.uses.any(Uses::I.or(Uses::ROW))
}

/// Is it a dim of the products, or known from the query alone?
fn is_free(index: &Expr) -> bool {
    index.uses.any(Uses::J)
}

impl Steps<'_> {
    /// Makes the products of a relative dot.
    pub fn relative(&mut self, fact: &RelativeFact) -> Result<(), LowerError> {
        let Kind::Row(table, index) = &fact.y.kind else { return Ok(()) };
        let tensor = match self.lower.ids[*table] {
            Some(id) => Some(self.products(fact, id, *table, index)?),
            None => None,
        };
        let (x, y, rows) = (fact.x.clone(), fact.y.clone(), fact.rows);
        self.lower.products.push(Products { x, y, tensor, rows });
        Ok(())
    }

    fn products(
        &mut self,
        fact: &RelativeFact,
        id: TensorId,
        table: usize,
        index: &[Expr],
    ) -> Result<TensorId, LowerError> {
        let queries = self.row_tensor("query_rows", &fact.x, fact.rows, true)?;
        let vars = self.vars_of(fact.rows, true);
        let feature = fact.rows.feature;
        let at_query = self.lower.indices(table, index)?;
        let (query_shape, table_shape) = (self.shape(queries).to_vec(), self.shape(id).to_vec());
        let pool = &mut self.lower.pool;
        let t = pool.add_var("t", Ty::Int);
        let term = pool.var(t);
        let (mut kept, mut shape): (Vec<VarId>, Vec<ExprId>) = (Vec::new(), Vec::new());
        for (d, var) in vars.index.iter().enumerate().filter(|(d, _)| *d != feature) {
            kept.push(*var);
            shape.push(query_shape[d]);
        }
        let mut row = Vec::new();
        for (d, (x, at)) in index.iter().zip(at_query).enumerate() {
            if is_free(x) {
                let var = pool.add_var("r", Ty::Int);
                kept.push(var);
                shape.push(table_shape[d]);
                row.push(pool.var(var));
            } else {
                row.push(at);
            }
        }
        row.push(term);
        let of_query = self.lower.row_index(fact.rows, true, term);
        let pool = &mut self.lower.pool;
        let (a, b) = (pool.load(queries, of_query, Ty::Float), pool.load(id, row, Ty::Float));
        let value = pool.mul(a, b);
        let value = self.at(value, &vars);
        let out = self.declare("products", DType::F32, shape, Fact::None);
        let sum = vec![(t, query_shape[feature])];
        let checks = vec![value];
        self.steps.push(Step::Derive(Derive { out, index: kept, sum, value, at_bind: false, checks }));
        Ok(out)
    }
}

impl Lower<'_> {
    /// The dot of a pair, if it is relative.
    pub fn relative_dot(&mut self, x: &Expr, y: &Expr) -> Result<Option<ExprId>, LowerError> {
        let same = |p: &Products| std::sync::Arc::ptr_eq(&p.x, x) && std::sync::Arc::ptr_eq(&p.y, y);
        let Some(found) = self.products.iter().find(|p| same(p)).cloned() else { return Ok(None) };
        let (Some(tensor), Kind::Row(table, index)) = (found.tensor, &y.kind) else {
            return Ok(Some(self.pool.float(0.0)));
        };
        let none = self.pool.int(0);
        let mut at = self.row_index(found.rows, true, none);
        at.remove(found.rows.feature);
        let chosen = self.indices(*table, index)?;
        at.extend(index.iter().zip(chosen).filter(|(x, _)| is_free(x)).map(|(_, at)| at));
        Ok(Some(self.pool.load(tensor, at, Ty::Float)))
    }
}
