//! Statements on bf16 in pairs as calls: the arguments, in the order that `artifact::Intrinsic` documents.

use attn_compiler::artifact::{DType, Intrinsic};
use attn_compiler::expr::{ExprId, TensorId, Ty};
use attn_compiler::tile_ir::{BufId, Buffer, Operand, PanelRef, Program, Rest, RowsRef, Stmt, TensorKind};

use crate::build;
use crate::exec::{Arg, HostTensor, Loaded};
use crate::naive;

/// Tensor 0: q(5, 7, 9) bf16 strided; 1: panels of bf16; 2: flags. Buffer 0: f32; 1: bf16; 2: a value for each row.
struct Setup {
    p: Program,
    rows: ExprId,
    cols: ExprId,
    flag: ExprId,
}

fn setup() -> Setup {
    let mut p = build::program();
    build::tensor(&mut p, "q", TensorKind::Input, DType::Bf16, 3);
    build::tensor(&mut p, "panels", TensorKind::Workspace, DType::Bf16, 1);
    build::tensor(&mut p, "flags", TensorKind::Workspace, DType::I32, 1);
    let (rows, cols) = (build::dim(&mut p, "rows"), build::dim(&mut p, "cols"));
    let flag = build::param(&mut p, "flag", Ty::Bool);
    let [rows, cols, flag] = [rows, cols, flag].map(|v| p.pool.var(v));
    Setup { p, rows, cols, flag }
}

/// What was called after the loads that tell where the buffers are, and where things are.
struct Calls {
    buffers: Vec<u64>,
    q: u64,
    panel: u64,
    flags: Vec<u8>,
    calls: Vec<(Intrinsic, Vec<u64>)>,
}

impl Calls {
    fn assert(&self, f: Intrinsic, args: &[u64]) {
        assert_eq!(self.calls, [(f, args.to_vec())]);
    }
}

impl Setup {
    fn q_rows(&mut self) -> RowsRef {
        let index = [4, 3, 2].map(|x| self.p.pool.int(x)).to_vec();
        RowsRef { tensor: TensorId(0), index, row_dim: 1, col_dim: 2 }
    }

    fn panel(&mut self) -> PanelRef {
        let (offset, panel_stride) = (self.p.pool.int(32), self.p.pool.int(64));
        PanelRef { tensor: TensorId(1), offset, panel_stride }
    }

    fn calls(mut self, stmt: Stmt, flag: bool) -> Calls {
        let mut body = vec![];
        let (zero, one) = (self.p.pool.int(0), self.p.pool.int(1));
        for n in 0..3 {
            let src = self.q_rows();
            body.push(Stmt::LoadRows { dst: BufId(n).into(), src, rows: zero, d: one });
        }
        body.push(stmt);
        let paired = Buffer { dtype: DType::Bf16, ..build::buffer("a", 8, 32) };
        let buffers = vec![build::buffer("s", 8, 48), paired, build::buffer("w", 8, 1)];
        build::launch(&mut self.p, buffers, body);
        let loaded = Loaded::new(&self.p, false);
        let mut host = vec![
            HostTensor::zeros(DType::Bf16, &[5, 7, 9]),
            HostTensor::zeros(DType::Bf16, &[256]),
            HostTensor::zeros(DType::I32, &[4]),
        ];
        host[0].strides = vec![1, 45, 5];
        let scalars = [Arg::Int(6), Arg::Int(40), Arg::Bool(flag)];
        let args = loaded.args(naive::table(), &mut host, &scalars);
        naive::take_calls();
        loaded.run(0, &args, 1);
        let mut calls = naive::take_calls();
        let last = calls.split_off(3);
        assert_eq!(calls[1].0, Intrinsic::LoadPairs, "a buffer of bf16 takes rows as they are stored");
        Calls {
            buffers: calls.iter().map(|(_, args)| args[0]).collect(),
            q: host[0].bytes.as_ptr() as u64 + 2 * (4 + 3 * 45 + 2 * 5),
            panel: host[1].bytes.as_ptr() as u64 + 2 * 32,
            flags: host[2].bytes.clone(),
            calls: last,
        }
    }

    /// `s = a * b`, k features or keys.
    fn product(&mut self, b: Operand, k: i64, scaled: bool, skip_zero: ExprId) -> Stmt {
        let row_scale = scaled.then_some(BufId(2));
        let (rows, n, k) = (self.rows, self.cols, self.p.pool.int(k));
        let (c, a, rest) = (BufId(0), BufId(1), Rest::None);
        Stmt::Gemm { c, a, rest, b, rows, k, n, row_scale, accumulate: scaled, skip_zero }
    }
}

#[test]
fn rows_are_loaded_and_rounded() {
    let mut s = setup();
    let (src, rows, d) = (s.q_rows(), s.rows, s.p.pool.int(9));
    let c = s.calls(Stmt::LoadRows { dst: BufId(1).into(), src, rows, d }, false);
    c.assert(Intrinsic::LoadPairs, &[c.buffers[1], 32, c.q, 6, 9, 45, 5]);

    let mut s = setup();
    let (rows, cols) = (s.rows, s.p.pool.int(17));
    let c = s.calls(Stmt::Round { dst: BufId(1), src: BufId(0), rows, cols }, false);
    c.assert(Intrinsic::RoundPairs, &[c.buffers[1], 32, c.buffers[0], 48, 6, 17]);

    // Columns that one of the two has not are left out.
    let s = setup();
    let (rows, cols) = (s.rows, s.cols);
    let c = s.calls(Stmt::Round { dst: BufId(1), src: BufId(0), rows, cols }, false);
    c.assert(Intrinsic::RoundPairs, &[c.buffers[1], 32, c.buffers[0], 48, 6, 32]);
}

#[test]
fn panels_are_packed() {
    let mut s = setup();
    let (dst, src, n) = (s.panel(), s.q_rows(), s.rows);
    let c = s.calls(Stmt::PackK { dst, src, n, d: 8 }, false);
    c.assert(Intrinsic::PackKPairs, &[c.panel, c.q, 6, 8, 45, 5]);

    let mut s = setup();
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
            let mut s = setup();
            let skip_zero = constant.map_or(s.flag, |x| s.p.pool.bool(x));
            let panel = s.panel();
            let stmt = s.product(Operand::Panels(panel), 32, scaled, skip_zero);
            let c = s.calls(stmt, flag);
            let scale = if scaled { c.buffers[2] } else { 0 };
            let (to, from) = (c.buffers[0], c.buffers[1]);
            c.assert(want, &[to, 48, from, 32, c.panel, 64, 6, 32, 40, scale, u64::from(scaled)]);
        }
    }
}

#[test]
fn products_with_rows_where_they_lie() {
    for flag in [false, true] {
        let mut s = setup();
        let (src, no) = (s.q_rows(), s.p.pool.bool(false));
        let stmt = s.product(Operand::Columns(src), 8, false, no);
        let c = s.calls(stmt, flag);
        let (to, from) = (c.buffers[0], c.buffers[1]);
        c.assert(Intrinsic::ColumnsPairs, &[to, 48, from, 32, c.q, 45, 5, 6, 8, 40, 0]);

        let mut s = setup();
        let (src, skip_zero) = (s.q_rows(), s.flag);
        let stmt = s.product(Operand::Rows(src), 9, true, skip_zero);
        let c = s.calls(stmt, flag);
        let (to, from, scale) = (c.buffers[0], c.buffers[1], c.buffers[2]);
        let want = [to, 48, from, 32, c.q, 45, 5, 6, 9, 40, scale, 1, u64::from(flag)];
        c.assert(Intrinsic::RowsPairs, &want);
    }
}
