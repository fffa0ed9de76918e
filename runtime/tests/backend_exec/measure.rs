//! Measurements, run by hand: `cargo test --release -p attn-runtime --test backend_exec -- --ignored --nocapture`.

use std::time::Instant;

use attn_compiler::artifact::DType;
use attn_compiler::backend::cpu;
use attn_compiler::expr::{ExprId, TensorId, Ty, UnaryOp};
use attn_compiler::tile_ir::{Access, BufId, Launch, PanelRef, Program, RowsRef, Stmt, TensorKind};

use crate::build;
use crate::exec::{self, Arg, HostTensor, Loaded};
use crate::naive;

/// The row, the column, query and key positions, and the score, as expressions.
struct Score {
    i: ExprId,
    j: ExprId,
    s: ExprId,
    slope: ExprId,
}

/// A map over a 64 x 64 tile of scores, `n` times, at positions that arguments give.
fn tile_map(value: impl FnOnce(&mut Program, &Score) -> ExprId) -> Program {
    let mut p = build::program();
    let [n, i0, j0] = ["n", "i0", "j0"].map(|name| build::dim(&mut p, name));
    let slope = build::param(&mut p, "slope", Ty::Float);
    let [row, col, t] = ["row", "col", "t"].map(|name| p.pool.add_var(name, Ty::Int));
    let x = p.pool.add_var("s", Ty::Float);
    let [n, i0, j0, r, c] = [n, i0, j0, row, col].map(|v| p.pool.var(v));
    let (i, j) = (p.pool.add(i0, r), p.pool.add(j0, c));
    let (s, slope) = (p.pool.var(x), p.pool.var(slope));
    let value = value(&mut p, &Score { i, j, s, slope });
    let (zero, size, dst) = (p.pool.int(0), p.pool.int(64), BufId(0));
    let map = Stmt::Map { dst, rows: size, cols: size, row, col, reads: vec![(x, dst, Access::Tile)], value };
    let body = vec![Stmt::For { var: t, lo: zero, hi: n, body: vec![map] }];
    build::launch(&mut p, vec![build::buffer("s", 64, 64)], body);
    p
}

/// As `tile_map`, with one-dimensional i32 and f16 tensors of 4096 elements (0 and 1) to load from.
fn time_loads(name: &str, value: impl FnOnce(&mut Program, &Score) -> ExprId) {
    let mut p = tile_map(|p, x| {
        build::tensor(p, "ints", TensorKind::Input, DType::I32, 1);
        build::tensor(p, "halves", TensorKind::Input, DType::F16, 1);
        value(p, x)
    });
    p.name = name.into();
    let loaded = Loaded::new(&p, false);
    let ints = HostTensor::new(DType::I32, &[4096], (0..4096).map(|n| f64::from(n / 100)));
    let mut host = vec![ints, HostTensor::zeros(DType::F16, &[4096])];
    let scalars = [Arg::Int(2000), Arg::Int(1064), Arg::Int(1032), Arg::Float(0.25)];
    let args = loaded.args(naive::table(), &mut host, &scalars);
    println!("{name}: {:.3} ns per element", best_of_nine(&loaded, &args));
}

/// Nanoseconds per element of 2000 tiles of 64 x 64.
fn best_of_nine(loaded: &Loaded, args: &[u64]) -> f64 {
    let times = (0..9).map(|_| {
        let start = Instant::now();
        loaded.run(0, args, 1);
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min) * 1e9 / (2000.0 * 4096.0)
}

fn time_map(name: &str, p: &Program) {
    for plain in [true, false] {
        let loaded = Loaded::new(p, plain);
        let args = loaded.args(
            naive::table(),
            &mut [],
            &[Arg::Int(2000), Arg::Int(64), Arg::Int(32), Arg::Float(0.25)],
        );
        let kind = if plain { "scalar" } else { "vector" };
        println!("{name}: {kind} {:.3} ns per element", best_of_nine(&loaded, &args));
    }
}

#[test]
#[ignore = "a measurement"]
fn cost_of_maps() {
    let causal = tile_map(|p, x| {
        let mask = p.pool.le(x.j, x.i);
        let minus_inf = p.pool.float(f64::NEG_INFINITY);
        p.pool.select(mask, x.s, minus_inf)
    });
    time_map("j <= i ? s : -inf", &causal);
    let alibi = tile_map(|p, x| {
        let distance = p.pool.sub(x.i, x.j);
        let distance = p.pool.unary(UnaryOp::ToFloat, distance);
        let bias = p.pool.mul(x.slope, distance);
        let eighth = p.pool.float(0.125);
        let scaled = p.pool.mul(x.s, eighth);
        p.pool.sub(scaled, bias)
    });
    time_map("s * 0.125 - slope * float(i - j)", &alibi);
}

#[test]
#[ignore = "a measurement"]
fn cost_of_loads() {
    let (ints, halves) = (TensorId(0), TensorId(1));
    let masked = |p: &mut Program, mask: ExprId, s: ExprId| {
        let minus_inf = p.pool.float(f64::NEG_INFINITY);
        p.pool.select(mask, s, minus_inf)
    };
    time_loads("doc[i] == doc[j] ? s : -inf", |p, x| {
        let (a, b) = (p.pool.load(ints, vec![x.i], Ty::Int), p.pool.load(ints, vec![x.j], Ty::Int));
        let mask = p.pool.eq(a, b);
        masked(p, mask, x.s)
    });
    time_loads("s + f16[j]", |p, x| {
        let bias = p.pool.load(halves, vec![x.j], Ty::Float);
        p.pool.add(x.s, bias)
    });
    time_loads("s + f16[i - j + 2048]", |p, x| {
        let at = p.pool.sub(x.i, x.j);
        let at = p.pool.add_int(at, 2048);
        let bias = p.pool.load(halves, vec![at], Ty::Float);
        p.pool.add(x.s, bias)
    });
    time_loads("s + f16[min(i - j, 100)]", |p, x| {
        let (at, hundred) = (p.pool.sub(x.i, x.j), p.pool.int(100));
        let at = p.pool.min(at, hundred);
        let bias = p.pool.load(halves, vec![at], Ty::Float);
        p.pool.add(x.s, bias)
    });
    time_loads("s + float(i32[min(i - j, 100)])", |p, x| {
        let (at, hundred) = (p.pool.sub(x.i, x.j), p.pool.int(100));
        let at = p.pool.min(at, hundred);
        let bias = p.pool.load(ints, vec![at], Ty::Int);
        let bias = p.pool.unary(UnaryOp::ToFloat, bias);
        p.pool.add(x.s, bias)
    });
    time_loads("(j mod 3 == 0) ? s : -inf", |p, x| {
        let (three, zero) = (p.pool.int(3), p.pool.int(0));
        let rest = p.pool.modulo(x.j, three);
        let mask = p.pool.eq(rest, zero);
        masked(p, mask, x.s)
    });
    time_loads("tanh(s), naive", |p, x| p.pool.unary(UnaryOp::Tanh, x.s));
}

/// A launch like causal attention's: packed keys, a loop over key tiles with a partial one, an epilogue.
fn causal_like() -> Program {
    let mut p = build::program();
    let q = build::tensor(&mut p, "q", TensorKind::Input, DType::F32, 4);
    let k = build::tensor(&mut p, "k", TensorKind::Input, DType::F32, 4);
    let o = build::tensor(&mut p, "o", TensorKind::Output, DType::F32, 4);
    let ks = build::tensor(&mut p, "ks", TensorKind::Workspace, DType::F32, 1);
    let n_var = build::dim(&mut p, "n");
    let names = ["b", "h", "qt", "kt", "row", "col", "q0", "k0", "rows", "cols"];
    let [b, h, qt, kt, row, col, q0, k0, rows, cols] = names.map(|name| p.pool.add_var(name, Ty::Int));
    let s = p.pool.add_var("s", Ty::Float);
    let e = [b, h, qt, kt, row, col, q0, k0, rows, cols].map(|v| p.pool.var(v));
    let [b_e, h_e, qt_e, kt_e, row_e, col_e, q0_e, k0_e, rows_e, cols_e] = e;
    let (n, tile, zero, one) = (p.pool.var(n_var), p.pool.int(64), p.pool.int(0), p.pool.int(1));
    let size_of = |p: &mut Program, start: ExprId| {
        let left = p.pool.sub(n, start);
        p.pool.min(left, tile)
    };
    let (q_start, k_start) = (p.pool.mul(qt_e, tile), p.pool.mul(kt_e, tile));
    let (q_rows, k_cols) = (size_of(&mut p, q0_e), size_of(&mut p, k0_e));
    let (i, j) = (p.pool.add(q0_e, row_e), p.pool.add(k0_e, col_e));
    let (mask, x, minus_inf) = (p.pool.le(j, i), p.pool.var(s), p.pool.float(f64::NEG_INFINITY));
    let value = p.pool.select(mask, x, minus_inf);
    let at = |tensor, start| RowsRef { tensor, index: vec![b_e, h_e, start, zero], row_dim: 2, col_dim: 3 };
    let bufs: [BufId; 7] = std::array::from_fn(|n| BufId(n as u32));
    let [q_buf, s_buf, acc, row_max, row_sum, alpha, inv] = bufs;
    let panel = |offset| PanelRef { tensor: ks, offset, panel_stride: tile };
    let (no, scale) = (p.pool.bool(false), p.pool.float(0.125));
    let gemm = |c, a, b, k, n, row_scale, accumulate| Stmt::Gemm {
        c,
        a,
        b,
        rows: rows_e,
        k,
        n,
        row_scale,
        accumulate,
        skip_zero: no,
    };
    let step = vec![
        Stmt::Let { var: k0, value: k_start },
        Stmt::Let { var: cols, value: k_cols },
        Stmt::PackK { dst: panel(zero), src: at(k, k0_e), n: cols_e, d: 64 },
        gemm(s_buf, q_buf, panel(zero), tile, cols_e, None, false),
        Stmt::If {
            cond: p.pool.lt(q0_e, k0_e),
            then: vec![Stmt::Map {
                dst: s_buf,
                rows: rows_e,
                cols: cols_e,
                row,
                col,
                reads: vec![(s, s_buf, Access::Tile)],
                value,
            }],
            otherwise: vec![],
        },
        Stmt::SoftmaxStep {
            s: s_buf,
            rows: rows_e,
            cols: cols_e,
            scale,
            row_max,
            row_sum,
            alpha,
            floor_unmasked: no,
        },
        gemm(acc, s_buf, panel(zero), cols_e, tile, Some(alpha), true),
    ];
    let (q_tiles, hi) = (p.pool.ceil_div(n, 64), p.pool.add_int(qt_e, 1));
    let body = vec![
        Stmt::Let { var: q0, value: q_start },
        Stmt::Let { var: rows, value: q_rows },
        Stmt::Fill { dst: acc, value: 0.0 },
        Stmt::Fill { dst: row_max, value: f64::NEG_INFINITY },
        Stmt::Fill { dst: row_sum, value: 0.0 },
        Stmt::LoadRows { dst: q_buf, src: at(q, q0_e), rows: rows_e, d: 64 },
        Stmt::For { var: kt, lo: zero, hi, body: step },
        Stmt::FinishSoftmax { rows: rows_e, row_max, row_sum, sink: minus_inf, inv_sum: inv, lse: alpha },
        Stmt::StoreRows { dst: at(o, q0_e), src: acc, rows: rows_e, d: 64, row_scale: Some(inv) },
    ];
    let mut buffers: Vec<_> = ["q", "s", "acc"].iter().map(|name| build::buffer(name, 64, 64)).collect();
    buffers.extend(["max", "sum", "alpha", "inv"].iter().map(|name| build::buffer(name, 64, 1)));
    p.launches.push(Launch {
        name: "causal".into(),
        grid: vec![(b, one), (h, one), (qt, q_tiles)],
        buffers,
        body,
    });
    p
}

#[test]
#[ignore = "a measurement"]
fn cost_of_compiling() {
    let p = causal_like();
    let facts = exec::facts(false);
    let size = cpu::emit(&p, &facts).expect("code").code.len();
    let mut times: Vec<f64> = (0..50)
        .map(|_| {
            let start = Instant::now();
            cpu::emit(&p, &facts).expect("code");
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("a causal-like launch: {size} bytes, median {:.2} ms, best {:.2} ms", times[25], times[0]);
}

#[test]
fn a_causal_like_launch_runs() {
    let p = causal_like();
    let loaded = Loaded::new(&p, false);
    let shape = [1, 1, 150, 64];
    let mut host: Vec<HostTensor> = (0..3).map(|_| HostTensor::zeros(DType::F32, &shape)).collect();
    host.push(HostTensor::zeros(DType::F32, &[4096]));
    let args = loaded.args(naive::table(), &mut host, &[Arg::Int(150)]);
    naive::take_calls();
    loaded.run(0, &args, 3);
    let steps = naive::take_calls()
        .into_iter()
        .filter(|(f, _)| *f == attn_compiler::artifact::Intrinsic::SoftmaxStep);
    let sizes: Vec<(u64, u64)> = steps.map(|(_, args)| (args[2], args[3])).collect();
    assert_eq!(
        sizes,
        [(64, 64), (64, 64), (64, 64), (22, 64), (22, 64), (22, 22)],
        "rows and columns of each step"
    );
}
