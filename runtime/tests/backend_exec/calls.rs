//! A program of one statement, and what it calls: the fixture of `intrinsics` and `pairs`.

use attn_compiler::artifact::{DType, Intrinsic};
use attn_compiler::expr::{ExprId, TensorId, Ty};
use attn_compiler::tile_ir::{BufId, Buffer, PanelRef, Program, RowsRef, Stmt, TensorKind};

use crate::build;
use crate::exec::{Arg, HostTensor, Loaded};
use crate::naive;

/// Tensor 0: q(5, 7, 9) strided, f16 or in pairs bf16; 1: workspace f32 or bf16; 2: workspace i32 (flags).
pub struct Setup {
    pub p: Program,
    pub rows: ExprId,
    pub cols: ExprId,
    pub bool_arg: ExprId,
    pub float_arg: ExprId,
    /// Tensor 0, tensor 1 and buffer 1.
    pub dtypes: [DType; 3],
}

pub fn setup() -> Setup {
    setup_of([DType::F16, DType::F32, DType::F32])
}

/// All that products in pairs take is bf16.
pub fn paired_setup() -> Setup {
    setup_of([DType::Bf16; 3])
}

fn setup_of(dtypes: [DType; 3]) -> Setup {
    let mut p = build::program();
    build::tensor(&mut p, "q", TensorKind::Input, dtypes[0], 3);
    build::tensor(&mut p, "panels", TensorKind::Workspace, dtypes[1], 1);
    build::tensor(&mut p, "flags", TensorKind::Workspace, DType::I32, 1);
    let (rows, cols) = (build::dim(&mut p, "rows"), build::dim(&mut p, "cols"));
    let (flag, scale) = (build::param(&mut p, "flag", Ty::Bool), build::param(&mut p, "scale", Ty::Float));
    let [rows, cols, bool_arg, float_arg] = [rows, cols, flag, scale].map(|v| p.pool.var(v));
    Setup { p, rows, cols, bool_arg, float_arg, dtypes }
}

impl Setup {
    pub fn q_rows(&mut self) -> RowsRef {
        let index = [4, 3, 2].map(|x| self.p.pool.int(x)).to_vec();
        RowsRef { tensor: TensorId(0), index, row_dim: 1, col_dim: 2 }
    }

    pub fn panel(&mut self) -> PanelRef {
        let (offset, panel_stride) = (self.p.pool.int(32), self.p.pool.int(64));
        PanelRef { tensor: TensorId(1), offset, panel_stride }
    }

    /// Runs `stmt` after one load into each of the five buffers, which tells where they are.
    pub fn calls(mut self, stmt: Stmt, flag: bool) -> Calls {
        let mut body = vec![];
        let (zero, one) = (self.p.pool.int(0), self.p.pool.int(1));
        for n in 0..5 {
            let src = self.q_rows();
            body.push(Stmt::LoadRows { dst: BufId(n).into(), src, rows: zero, d: one });
        }
        body.push(stmt);
        let buffers = vec![
            build::buffer("s", 8, 48),
            Buffer { dtype: self.dtypes[2], ..build::buffer("a", 8, 32) },
            build::buffer("m", 8, 1),
            build::buffer("l", 8, 1),
            build::buffer("w", 8, 1),
        ];
        build::launch(&mut self.p, buffers, body);
        let loaded = Loaded::new(&self.p, false);
        let mut host = vec![
            HostTensor::zeros(self.dtypes[0], &[5, 7, 9]),
            HostTensor::zeros(self.dtypes[1], &[256]),
            HostTensor::zeros(DType::I32, &[4]),
        ];
        host[0].strides = vec![1, 45, 5];
        let scalars = [Arg::Int(6), Arg::Int(40), Arg::Bool(flag), Arg::Float(0.125)];
        let table = naive::table();
        let args = loaded.args(table, &mut host, &scalars);
        naive::take_calls();
        loaded.run(0, &args, 1);
        let mut calls = naive::take_calls();
        let last = calls.split_off(5);
        Calls {
            buffers: calls.iter().map(|(_, args)| args[0]).collect(),
            q: host[0].bytes.as_ptr() as u64 + 2 * (4 + 3 * 45 + 2 * 5),
            panel: host[1].bytes.as_ptr() as u64 + self.dtypes[1].size() as u64 * 32,
            flags: host[2].bytes.clone(),
            calls: last,
        }
    }
}

/// What was called after the first five, and where things are.
pub struct Calls {
    pub buffers: Vec<u64>,
    pub q: u64,
    pub panel: u64,
    pub flags: Vec<u8>,
    pub calls: Vec<(Intrinsic, Vec<u64>)>,
}

impl Calls {
    pub fn assert(&self, f: Intrinsic, args: &[u64]) {
        assert_eq!(self.calls, [(f, args.to_vec())]);
    }
}
