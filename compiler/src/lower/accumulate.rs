//! Lowering of an [`Accumulate`]: one launch, a task for each row of the source.
//!
//! Comes in: the tensors. Goes out: a launch of prefix sums, each added up in order by one task, so that the result
//! does not depend on threads.

use crate::attn_ir::Accumulate;
use crate::expr::Ty;
use crate::tile_ir::{FlatRef, Launch, Program, RowsRef, Stmt};

/// Adds the launch.
pub fn accumulate(program: &mut Program, s: &Accumulate) {
    let decl = &program.tensors[s.source.0 as usize];
    let (shape, name) = (decl.shape.clone(), format!("accumulate_{}", decl.name));
    let Some((&n, leading)) = shape.split_last() else { return };
    let pool = &mut program.pool;
    let (mut grid, mut index, mut row) = (Vec::new(), Vec::new(), pool.int(0));
    for &extent in leading {
        let var = pool.add_var("g", Ty::Int);
        grid.push((var, extent));
        let at = pool.var(var);
        index.push(at);
        let before = pool.mul(row, extent);
        row = pool.add(before, at);
    }
    if grid.is_empty() {
        grid.push((pool.add_var("g", Ty::Int), pool.int(1)));
    }
    index.push(pool.int(0));
    let offset = pool.mul(row, n);
    let dim = leading.len();
    let src = RowsRef { tensor: s.source, index, row_dim: dim, col_dim: dim };
    let (hi, lo) = (FlatRef { tensor: s.hi, offset }, FlatRef { tensor: s.lo, offset });
    let body = vec![Stmt::PrefixSum { hi, lo, src, n }];
    program.launches.push(Launch { name, grid, buffers: vec![], body });
}
