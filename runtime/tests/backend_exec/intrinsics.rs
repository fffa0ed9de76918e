//! Each statement that is an intrinsic call: the arguments, in the order that `artifact::Intrinsic` documents.

use attn_compiler::artifact::{DType, Intrinsic, MathFn};
use attn_compiler::expr::{ExprId, TensorId};
use attn_compiler::tile_ir::{BufId, Operand, Rest, RowsRef, Stmt, WeightKind};

use crate::calls::{Setup, setup};

const F16: u64 = DType::F16 as u64;
const EIGHTH: u64 = 0x3e00_0000;

#[test]
fn buffers_are_aligned_and_apart() {
    let setup = setup();
    let calls =
        setup.calls(Stmt::Math { f: MathFn::Exp, dst: BufId(0), rows: ExprId(0), cols: ExprId(0) }, false);
    assert!(calls.buffers.iter().all(|at| at % 64 == 0));
    let bytes = [8 * 48 * 4, 8 * 32 * 4, 64, 64, 64];
    for n in 1..5 {
        assert_eq!(calls.buffers[n], calls.buffers[n - 1] + bytes[n - 1] + 64, "a line between buffers");
    }
}

#[test]
fn load_rows_and_store_rows() {
    let mut s = setup();
    let (src, rows, d) = (s.q_rows(), s.rows, s.p.pool.int(9));
    let c = s.calls(Stmt::LoadRows { dst: BufId(1).into(), src, rows, d }, false);
    c.assert(Intrinsic::LoadRows, &[c.buffers[1], 32, c.q, F16, 6, 9, 45, 5]);

    // The naive store writes f32, so the output is the workspace seen as one row.
    let mut s = setup();
    let (at, rows, d) = (s.p.pool.int(32), s.p.pool.int(0), s.p.pool.int(17));
    for (scale, address) in [(None, None), (Some(BufId(2)), Some(2))] {
        let dst = RowsRef { tensor: TensorId(1), index: vec![at], row_dim: 0, col_dim: 0 };
        let stmt = Stmt::StoreRows { dst, src: BufId(0).into(), rows, d, row_scale: scale };
        let setup = Setup { p: s.p.clone(), ..s };
        let c = setup.calls(stmt, false);
        let scale = address.map_or(0, |n: usize| c.buffers[n]);
        c.assert(Intrinsic::StoreRows, &[c.buffers[0], 48, c.panel, 0, 0, 17, 1, 1, scale]);
    }
}

#[test]
fn store_vec() {
    let mut s = setup();
    let (dst, rows) = (s.q_rows(), s.rows);
    let c = s.calls(Stmt::StoreVec { dst, src: BufId(3).into(), rows }, false);
    c.assert(Intrinsic::StoreVec, &[c.buffers[3], c.q, F16, 6, 45]);
}

#[test]
fn packs() {
    let mut s = setup();
    let (dst, src, n) = (s.panel(), s.q_rows(), s.rows);
    let c = s.calls(Stmt::PackK { dst, src, n, d: 9 }, false);
    c.assert(Intrinsic::PackK, &[c.panel, c.q, F16, 6, 9, 45, 5]);

    let mut s = setup();
    let (dst, src, n, at) = (s.panel(), s.q_rows(), s.rows, s.p.pool.int(2));
    let c = s.calls(Stmt::PackV { dst, src, n, d: 9, flag: (TensorId(2), vec![at]) }, false);
    c.assert(Intrinsic::PackV, &[c.panel, 64, c.q, F16, 6, 9, 45, 5]);
    assert_eq!(c.flags, [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn products_choose_by_skip_zero() {
    for (constant, flag, want) in [
        (Some(false), true, Intrinsic::Gemm),
        (Some(true), false, Intrinsic::GemmSkipZero),
        (None, false, Intrinsic::Gemm),
        (None, true, Intrinsic::GemmSkipZero),
    ] {
        for (row_scale, accumulate) in [(None, false), (Some(BufId(4)), true)] {
            let mut s = setup();
            let (b, rows, n) = (Operand::Panels(s.panel()), s.rows, s.cols);
            let k = s.p.pool.int(32);
            let skip_zero = constant.map_or(s.bool_arg, |x| s.p.pool.bool(x));
            let (c, a) = (BufId(0), BufId(1));
            let c = s.calls(
                Stmt::Gemm {
                    c,
                    a,
                    rest: Rest::None,
                    b,
                    rows,
                    k,
                    n,
                    row_scale,
                    accumulate,
                    skip_zero,
                    next: None,
                },
                flag,
            );
            let scale = row_scale.map_or(0, |_| c.buffers[4]);
            let (to, from) = (c.buffers[0], c.buffers[1]);
            c.assert(want, &[to, 48, from, 32, c.panel, 64, 6, 32, 40, scale, u64::from(accumulate)]);
        }
    }
}

/// The CPU multiplies one tile at a time: the second adds to what the first gave, which is not scaled again.
#[test]
fn a_sum_on_the_left_is_two_products() {
    let mut s = setup();
    let (b, rows, n) = (Operand::Panels(s.panel()), s.rows, s.cols);
    let (k, skip_zero) = (s.p.pool.int(32), s.p.pool.bool(false));
    let (c, a, rest, row_scale) = (BufId(0), BufId(1), Rest::Tile(BufId(2)), Some(BufId(4)));
    let stmt = Stmt::Gemm { c, a, rest, b, rows, k, n, row_scale, accumulate: true, skip_zero, next: None };
    let [first, second] = stmt.parts_of_product().expect("two products");
    let of = |stmt: &Stmt| match stmt {
        Stmt::Gemm { a, rest, row_scale, accumulate, .. } => (a.0, *rest, *row_scale, *accumulate),
        _ => panic!("{stmt:?}"),
    };
    assert_eq!(of(&first), (1, Rest::None, row_scale, true));
    assert_eq!(of(&second), (2, Rest::None, None, true));
    assert!(first.parts_of_product().is_none());
}

#[test]
fn products_with_rows_of_a_tensor() {
    for flag in [false, true] {
        let mut s = setup();
        let (src, rows, n) = (s.q_rows(), s.rows, s.cols);
        let (k, no) = (s.p.pool.int(9), s.p.pool.bool(false));
        let (c, a) = (BufId(0), BufId(1));
        let next = flag.then(|| Box::new(src.clone()));
        let b = Operand::Columns(src);
        let stmt = Stmt::Gemm {
            c,
            a,
            rest: Rest::None,
            b,
            rows,
            k,
            n,
            row_scale: None,
            accumulate: flag,
            skip_zero: no,
            next,
        };
        let c = s.calls(stmt, flag);
        let (to, from, next) = (c.buffers[0], c.buffers[1], if flag { c.q } else { 0 });
        let want = [to, 48, from, 32, c.q, F16, 45, 5, 6, 9, 40, u64::from(flag), next];
        c.assert(Intrinsic::GemmColumns, &want);

        let mut s = setup();
        let (src, rows, n, skip_zero) = (s.q_rows(), s.rows, s.cols, s.bool_arg);
        let k = s.p.pool.int(9);
        let (c, a, row_scale) = (BufId(0), BufId(1), Some(BufId(4)));
        let next = flag.then(|| Box::new(src.clone()));
        let b = Operand::Rows(src);
        let c = s.calls(
            Stmt::Gemm {
                c,
                a,
                rest: Rest::None,
                b,
                rows,
                k,
                n,
                row_scale,
                accumulate: true,
                skip_zero,
                next,
            },
            flag,
        );
        let (to, from, scale) = (c.buffers[0], c.buffers[1], c.buffers[4]);
        let next = if flag { c.q } else { 0 };
        let want = [to, 48, from, 32, c.q, F16, 45, 5, 6, 9, 40, scale, 1, u64::from(flag), next];
        c.assert(Intrinsic::GemmRows, &want);
    }
}

#[test]
fn steps() {
    for flag in [false, true] {
        let s = setup();
        let (rows, cols, scale, floor_unmasked) = (s.rows, s.cols, s.float_arg, s.bool_arg);
        let [buf, row_max, row_sum, alpha] = [BufId(0), BufId(2), BufId(3), BufId(4)];
        let stmt = Stmt::SoftmaxStep { s: buf, rows, cols, scale, row_max, row_sum, alpha, floor_unmasked };
        let c = s.calls(stmt, flag);
        let [at, m, l, w] = [0, 2, 3, 4].map(|n: usize| c.buffers[n]);
        c.assert(Intrinsic::SoftmaxStep, &[at, 48, 6, 40, EIGHTH, m, l, w, u64::from(flag)]);

        let s = setup();
        let kind = WeightKind::Relu;
        let stmt = Stmt::WeightStep { kind, s: buf, rows, cols, scale, row_max, floor_unmasked };
        let c = s.calls(stmt, flag);
        let [at, m] = [0, 2].map(|n: usize| c.buffers[n]);
        c.assert(Intrinsic::WeightStep, &[1, at, 48, 6, 40, EIGHTH, m, u64::from(flag)]);
    }
}

#[test]
fn finish_softmax() {
    let s = setup();
    let (rows, sink) = (s.rows, s.float_arg);
    let (row_max, row_sum, inv_sum, lse) = (BufId(2), BufId(3), BufId(4), BufId(0));
    let c = s.calls(Stmt::FinishSoftmax { rows, row_max, row_sum, sink, inv_sum, lse }, false);
    let [m, l, w, lse] = [2, 3, 4, 0].map(|n: usize| c.buffers[n]);
    c.assert(Intrinsic::FinishSoftmax, &[6, m, l, EIGHTH, w, lse]);
}

#[test]
fn math_takes_the_columns_that_there_are() {
    let mut s = setup();
    let (rows, cols) = (s.rows, s.p.pool.int(17));
    let c = s.calls(Stmt::Math { f: MathFn::Tanh, dst: BufId(1), rows, cols }, false);
    c.assert(Intrinsic::VMath, &[MathFn::Tanh as u64, c.buffers[1], 32, 6, 17]);
}

#[test]
fn counts_stay_inside_buffers() {
    let mut s = setup();
    let (wide, negative, d) = (s.p.pool.int(1000), s.p.pool.int(-5), s.p.pool.int(9));
    let src = s.q_rows();
    let setup = Setup { p: s.p.clone(), ..s };
    let c = setup.calls(Stmt::LoadRows { dst: BufId(1).into(), src: src.clone(), rows: wide, d }, false);
    c.assert(Intrinsic::LoadRows, &[c.buffers[1], 32, c.q, F16, 8, 9, 45, 5]);
    let setup = Setup { p: s.p.clone(), ..s };
    let c = setup.calls(Stmt::LoadRows { dst: BufId(1).into(), src: src.clone(), rows: negative, d }, false);
    c.assert(Intrinsic::LoadRows, &[c.buffers[1], 32, c.q, F16, 0, 9, 45, 5]);
    let (rows, cols) = (s.rows, s.cols);
    let c = s.calls(Stmt::LoadRows { dst: BufId(1).into(), src, rows, d: cols }, false);
    c.assert(Intrinsic::LoadRows, &[c.buffers[1], 32, c.q, F16, 6, 32, 45, 5]);
}
