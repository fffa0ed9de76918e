//! Statements on bf16 in pairs as calls: the arguments, in the order that `artifact::Intrinsic` documents.

use attn_compiler::artifact::Intrinsic;
use attn_compiler::expr::{ExprId, TensorId};
use attn_compiler::tile_ir::{BufId, Operand, Rest, Stmt};

use crate::calls::{Setup, paired_setup};

/// `s = a * b`, k features or keys.
fn product(s: &mut Setup, b: Operand, k: i64, scaled: bool, skip_zero: ExprId) -> Stmt {
    let row_scale = scaled.then_some(BufId(4));
    let (rows, n, k) = (s.rows, s.cols, s.p.pool.int(k));
    let (c, a, rest) = (BufId(0), BufId(1), Rest::None);
    Stmt::Gemm { c, a, rest, b, rows, k, n, row_scale, accumulate: scaled, skip_zero, next: None }
}

#[test]
fn rows_are_loaded_and_rounded() {
    let mut s = paired_setup();
    let (src, rows, d) = (s.q_rows(), s.rows, s.p.pool.int(9));
    let c = s.calls(Stmt::LoadRows { dst: BufId(1).into(), src, rows, d }, false);
    c.assert(Intrinsic::LoadPairs, &[c.buffers[1], 32, c.q, 6, 9, 45, 5]);

    let mut s = paired_setup();
    let (rows, cols) = (s.rows, s.p.pool.int(17));
    let c = s.calls(Stmt::Round { dst: BufId(1), src: BufId(0), rows, cols }, false);
    c.assert(Intrinsic::RoundPairs, &[c.buffers[1], 32, c.buffers[0], 48, 6, 17]);

    // Columns that one of the two has not are left out.
    let s = paired_setup();
    let (rows, cols) = (s.rows, s.cols);
    let c = s.calls(Stmt::Round { dst: BufId(1), src: BufId(0), rows, cols }, false);
    c.assert(Intrinsic::RoundPairs, &[c.buffers[1], 32, c.buffers[0], 48, 6, 32]);
}

#[test]
fn panels_are_packed() {
    let mut s = paired_setup();
    let (dst, src, n) = (s.panel(), s.q_rows(), s.rows);
    let c = s.calls(Stmt::PackK { dst, src, n, d: 8 }, false);
    c.assert(Intrinsic::PackKPairs, &[c.panel, c.q, 6, 8, 45, 5]);

    let mut s = paired_setup();
    let (dst, src, n, at) = (s.panel(), s.q_rows(), s.rows, s.p.pool.int(2));
    let c = s.calls(Stmt::PackV { dst, src, n, d: 9, flag: (TensorId(2), vec![at]) }, false);
    c.assert(Intrinsic::PackVPairs, &[c.panel, 64, c.q, 6, 9, 45, 5]);
    assert_eq!(c.flags, [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn products_with_panels_choose_by_skip_zero() {
    for (constant, flag, want) in [
        (Some(false), true, Intrinsic::GemmPairs),
        (Some(true), false, Intrinsic::GemmPairsSkipZero),
        (None, false, Intrinsic::GemmPairs),
        (None, true, Intrinsic::GemmPairsSkipZero),
    ] {
        for scaled in [false, true] {
            let mut s = paired_setup();
            let skip_zero = constant.map_or(s.bool_arg, |x| s.p.pool.bool(x));
            let panel = s.panel();
            let stmt = product(&mut s, Operand::Panels(panel), 32, scaled, skip_zero);
            let c = s.calls(stmt, flag);
            let scale = if scaled { c.buffers[4] } else { 0 };
            let (to, from) = (c.buffers[0], c.buffers[1]);
            c.assert(want, &[to, 48, from, 32, c.panel, 64, 6, 32, 40, scale, u64::from(scaled)]);
        }
    }
}

#[test]
fn products_with_rows_where_they_lie() {
    for flag in [false, true] {
        let mut s = paired_setup();
        let (src, no) = (s.q_rows(), s.p.pool.bool(false));
        let stmt = product(&mut s, Operand::Columns(src), 8, false, no);
        let c = s.calls(stmt, flag);
        let (to, from) = (c.buffers[0], c.buffers[1]);
        c.assert(Intrinsic::ColumnsPairs, &[to, 48, from, 32, c.q, 45, 5, 6, 8, 40, 0, 0]);

        let mut s = paired_setup();
        let (src, skip_zero) = (s.q_rows(), s.bool_arg);
        let stmt = product(&mut s, Operand::Rows(src), 9, true, skip_zero);
        let c = s.calls(stmt, flag);
        let (to, from, scale) = (c.buffers[0], c.buffers[1], c.buffers[4]);
        let want = [to, 48, from, 32, c.q, 45, 5, 6, 9, 40, scale, 1, u64::from(flag), 0];
        c.assert(Intrinsic::RowsPairs, &want);
    }
}
