//! Maps where the vector code is most easily wrong: the ends of 32 bits, ragged columns, elements in place.

use attn_compiler::artifact::DType;
use attn_compiler::expr::{BinaryOp, ExprId, TensorId, Ty, UnaryOp, VarId};
use attn_compiler::tile_ir::{Access, BufId, Program, Stmt, TensorKind};

use crate::build;
use crate::exec::{Arg, HostTensor, Loaded};
use crate::naive;

fn place(p: &mut Program) -> (VarId, VarId) {
    (p.pool.add_var("row", Ty::Int), p.pool.add_var("col", Ty::Int))
}

fn as_float(p: &mut Program, cond: ExprId) -> ExprId {
    let (one, zero) = (p.pool.float(1.0), p.pool.float(0.0));
    p.pool.select(cond, one, zero)
}

/// `element op u` and `u op element` for elements of an i32 tensor along the columns.
fn compare_all(elements: &[i64], op: BinaryOp, swap: bool, u: i64) -> Vec<f32> {
    let n = elements.len() as i64;
    let mut p = build::program();
    let t = build::tensor(&mut p, "t", TensorKind::Input, DType::I32, 1);
    let out = build::tensor(&mut p, "out", TensorKind::Output, DType::F32, 2);
    let u_var = build::param(&mut p, "u", Ty::Int);
    let (row, col) = place(&mut p);
    let (col_e, u_e) = (p.pool.var(col), p.pool.var(u_var));
    let element = p.pool.load(t, vec![col_e], Ty::Int);
    let cond = if swap { p.pool.binary(op, u_e, element) } else { p.pool.binary(op, element, u_e) };
    let value = as_float(&mut p, cond);
    let (rows, cols, dst) = (p.pool.int(1), p.pool.int(n), BufId(0));
    let map = Stmt::Map { dst, rows, cols, row, col, reads: vec![], value };
    let store = build::store(&mut p, dst, out, (1, n));
    build::launch(&mut p, vec![build::buffer("acc", 1, 16)], vec![map, store]);
    let values = elements.iter().map(|&x| x as f64);
    let mut host = vec![HostTensor::new(DType::I32, &[n], values), HostTensor::zeros(DType::F32, &[1, n])];
    let loaded = Loaded::new(&p, false);
    let args = loaded.args(naive::table(), &mut host, &[Arg::Int(u)]);
    loaded.run(0, &args, 1);
    host[1].f32s()
}

#[test]
fn comparisons_at_the_ends_of_32_bits() {
    let (lo, hi) = (i64::from(i32::MIN), i64::from(i32::MAX));
    let elements = [lo, lo + 1, -1, 0, 1, hi - 1, hi, 5];
    for u in [i64::MIN, lo - 1, lo, lo + 1, -1, 0, hi - 1, hi, hi + 1, i64::MAX] {
        for op in [BinaryOp::Lt, BinaryOp::Le, BinaryOp::Eq, BinaryOp::Ne] {
            for swap in [false, true] {
                let want = elements.map(|x| {
                    let (a, b) = if swap { (u, x) } else { (x, u) };
                    f32::from(u8::from(match op {
                        BinaryOp::Lt => a < b,
                        BinaryOp::Le => a <= b,
                        BinaryOp::Eq => a == b,
                        _ => a != b,
                    }))
                });
                assert_eq!(compare_all(&elements, op, swap, u), want, "{op:?} {u} {swap}");
            }
        }
    }
}

#[test]
fn only_the_asked_columns_of_the_asked_rows_change() {
    for (rows, cols) in
        [(0, 0), (1, 0), (0, 7), (1, 1), (2, 3), (3, 4), (4, 5), (5, 8), (5, 31), (5, 32), (9, 99)]
    {
        let mut p = build::program();
        let out = build::tensor(&mut p, "out", TensorKind::Output, DType::F32, 2);
        let (rows_var, cols_var) = (build::dim(&mut p, "rows"), build::dim(&mut p, "cols"));
        let (row, col) = place(&mut p);
        let x = p.pool.add_var("x", Ty::Float);
        let (x_e, half) = (p.pool.var(x), p.pool.float(0.5));
        let value = p.pool.add(x_e, half);
        let reads = vec![(x, BufId(0), Access::Tile)];
        let (rows_e, cols_e, dst) = (p.pool.var(rows_var), p.pool.var(cols_var), BufId(0));
        let map = Stmt::Map { dst, rows: rows_e, cols: cols_e, row, col, reads, value };
        let store = build::store(&mut p, dst, out, (5, 32));
        let body = vec![Stmt::Fill { dst, value: 1.0 }, map, store];
        build::launch(&mut p, vec![build::buffer("acc", 5, 32)], body);
        let loaded = Loaded::new(&p, false);
        let mut host = vec![HostTensor::zeros(DType::F32, &[5, 32])];
        let args = loaded.args(naive::table(), &mut host, &[Arg::Int(rows), Arg::Int(cols)]);
        loaded.run(0, &args, 1);
        for (n, got) in host[0].f32s().into_iter().enumerate() {
            let inside = (n as i64 / 32) < rows && (n as i64 % 32) < cols;
            assert_eq!(got, if inside { 1.5 } else { 1.0 }, "{rows}x{cols}, element {n}");
        }
    }
}

#[test]
fn vectors_of_one_column_are_maps_too() {
    let mut p = build::program();
    let t = build::tensor(&mut p, "t", TensorKind::Input, DType::F32, 1);
    let out = build::tensor(&mut p, "out", TensorKind::Output, DType::F32, 2);
    let (row, col) = place(&mut p);
    let row_e = p.pool.var(row);
    let element = p.pool.load(t, vec![row_e], Ty::Float);
    let value = p.pool.unary(UnaryOp::Neg, element);
    let (rows, one, dst) = (p.pool.int(5), p.pool.int(1), BufId(0));
    let y = p.pool.add_var("y", Ty::Float);
    let y_e = p.pool.var(y);
    let spread = vec![(y, dst, Access::Row)];
    let (wide, tile) = (p.pool.int(18), BufId(1));
    let body = vec![
        Stmt::Map { dst, rows, cols: one, row, col, reads: vec![], value },
        Stmt::Map { dst: tile, rows, cols: wide, row, col, reads: spread, value: y_e },
        build::store(&mut p, tile, out, (5, 18)),
    ];
    build::launch(&mut p, vec![build::buffer("v", 5, 1), build::buffer("tile", 5, 32)], body);
    let loaded = Loaded::new(&p, false);
    let values = [1.0, -2.0, 3.0, f64::NEG_INFINITY, 5.0];
    let mut host =
        vec![HostTensor::new(DType::F32, &[5], values.into_iter()), HostTensor::zeros(DType::F32, &[5, 18])];
    let args = loaded.args(naive::table(), &mut host, &[]);
    loaded.run(0, &args, 1);
    let want: Vec<f32> = values.iter().flat_map(|&x| std::iter::repeat_n(-x as f32, 18)).collect();
    assert_eq!(host[1].f32s(), want);
    assert_eq!(t, TensorId(0));
}

/// `i0 + row - (j0 + col)`, or with `rising` its negative, compared with an argument of any size.
fn compare_distance(op: BinaryOp, swap: bool, rising: bool, w: i64) -> Vec<f32> {
    let mut p = build::program();
    let out = build::tensor(&mut p, "out", TensorKind::Output, DType::F32, 2);
    let [i0, j0] = ["i0", "j0"].map(|name| build::dim(&mut p, name));
    let w_var = build::param(&mut p, "w", Ty::Int);
    let (row, col) = place(&mut p);
    let [i0, j0, w_e, row_e, col_e] = [i0, j0, w_var, row, col].map(|v| p.pool.var(v));
    let (i, j) = (p.pool.add(i0, row_e), p.pool.add(j0, col_e));
    let distance = if rising { p.pool.sub(j, i) } else { p.pool.sub(i, j) };
    let cond = if swap { p.pool.binary(op, w_e, distance) } else { p.pool.binary(op, distance, w_e) };
    let value = as_float(&mut p, cond);
    let (rows, cols, dst) = (p.pool.int(3), p.pool.int(20), BufId(0));
    let map = Stmt::Map { dst, rows, cols, row, col, reads: vec![], value };
    let store = build::store(&mut p, dst, out, (3, 20));
    build::launch(&mut p, vec![build::buffer("acc", 3, 32)], vec![map, store]);
    let loaded = Loaded::new(&p, false);
    let mut host = vec![HostTensor::zeros(DType::F32, &[3, 20])];
    let args = loaded.args(naive::table(), &mut host, &[Arg::Int(10), Arg::Int(2), Arg::Int(w)]);
    loaded.run(0, &args, 1);
    host[0].f32s()
}

#[test]
fn thresholds_of_any_size() {
    let quarter = 1 << 62;
    for w in [i64::MIN, i64::MIN + 1, -quarter, -9, -1, 0, 1, 8, quarter, i64::MAX - 1, i64::MAX] {
        for op in [BinaryOp::Lt, BinaryOp::Le, BinaryOp::Eq, BinaryOp::Ne] {
            for (swap, rising) in [(false, false), (false, true), (true, false), (true, true)] {
                let holds = |n: i64| {
                    let distance = (10 + n / 20) - (2 + n % 20);
                    let distance = if rising { -distance } else { distance };
                    let (a, b) = if swap { (w, distance) } else { (distance, w) };
                    match op {
                        BinaryOp::Lt => a < b,
                        BinaryOp::Le => a <= b,
                        BinaryOp::Eq => a == b,
                        _ => a != b,
                    }
                };
                let want: Vec<f32> = (0..60).map(|n| f32::from(u8::from(holds(n)))).collect();
                assert_eq!(compare_distance(op, swap, rising, w), want, "{op:?} {w} {swap} {rising}");
            }
        }
    }
}
