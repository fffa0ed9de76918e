//! A small builder of tile programs, and the usual ways to get values out of them.

use attn_compiler::artifact::DType;
use attn_compiler::attn_ir::Fact;
use attn_compiler::expr::{BinaryOp, ExprId, Pool, TensorId, Ty, UnaryOp, VarId};
use attn_compiler::tile_ir::{
    BufId, Buffer, Launch, Program, RowsRef, ScalarArg, Stmt, TensorDecl, TensorKind,
};

/// A program without launches.
pub fn program() -> Program {
    Program {
        name: "test".into(),
        pool: Pool::new(),
        dims: vec![],
        params: vec![],
        tensors: vec![],
        requires: vec![],
        launches: vec![],
    }
}

/// Adds a run-time length.
pub fn dim(p: &mut Program, name: &str) -> VarId {
    let var = p.pool.add_var(name, Ty::Int);
    p.dims.push(ScalarArg { name: name.into(), var, default: None });
    var
}

/// Adds a parameter.
pub fn param(p: &mut Program, name: &str, ty: Ty) -> VarId {
    let var = p.pool.add_var(name, ty);
    p.params.push(ScalarArg { name: name.into(), var, default: None });
    var
}

/// Adds a tensor whose shape proves nothing: the backend reads sizes from the argument block.
pub fn tensor(p: &mut Program, name: &str, kind: TensorKind, dtype: DType, rank: usize) -> TensorId {
    let zero = p.pool.int(0);
    let (shape, layout) = (vec![zero; rank], (0..rank).collect());
    p.tensors.push(TensorDecl { name: name.into(), kind, dtype, shape, layout, fact: Fact::None });
    TensorId(p.tensors.len() as u32 - 1)
}

/// A buffer declaration.
pub fn buffer(name: &str, rows: i64, cols: i64) -> Buffer {
    Buffer::new(name, rows, cols)
}

/// Adds a launch without grid coordinates.
pub fn launch(p: &mut Program, buffers: Vec<Buffer>, body: Vec<Stmt>) {
    p.launches.push(Launch { name: "main".into(), grid: vec![], buffers, body });
}

/// Stores the first rows and columns of a buffer at the start of a two-dimensional tensor.
pub fn store(p: &mut Program, src: BufId, dst: TensorId, (rows, d): (i64, i64)) -> Stmt {
    let zero = p.pool.int(0);
    let dst = RowsRef { tensor: dst, index: vec![zero, zero], row_dim: 0, col_dim: 1 };
    Stmt::StoreRows { dst, src: src.into(), rows: p.pool.int(rows), d: p.pool.int(d), row_scale: None }
}

/// Float expressions from which the value of `id` can be put together again ([`join`]): one, or for an int three
/// digits of 21 bits, which f32 holds exactly.
pub fn split(pool: &mut Pool, id: ExprId) -> Vec<ExprId> {
    match pool.ty(id) {
        Ty::Float => vec![id],
        Ty::Bool => {
            let (one, zero) = (pool.float(1.0), pool.float(0.0));
            vec![pool.select(id, one, zero)]
        }
        Ty::Int => {
            let base = pool.int(1 << 21);
            let low = pool.binary(BinaryOp::Mod, id, base);
            let high = pool.binary(BinaryOp::IDiv, id, base);
            let middle = pool.binary(BinaryOp::Mod, high, base);
            let top = pool.binary(BinaryOp::IDiv, high, base);
            [low, middle, top].iter().map(|&digit| pool.unary(UnaryOp::ToFloat, digit)).collect()
        }
    }
}

/// The inverse of [`split`] for an int.
pub fn join(digits: &[f32]) -> i64 {
    digits[0] as i64 + ((digits[1] as i64) << 21) + ((digits[2] as i64) << 42)
}
