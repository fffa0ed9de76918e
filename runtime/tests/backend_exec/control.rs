//! Grids, loops, branches, fills, and loads of what a launch writes itself.

use attn_compiler::artifact::DType;
use attn_compiler::backend::cpu::{self, BackendError};
use attn_compiler::expr::{ExprId, Ty, UnaryOp, VarId};
use attn_compiler::tile_ir::{BufId, Launch, PanelRef, Program, RowsRef, Span, Stmt, TensorKind};

use crate::build;
use crate::exec::{self, Arg, HostTensor, Loaded};
use crate::naive;

/// A map without reads over the first columns of the first rows.
fn map(p: &mut Program, dst: u32, (rows, cols): (i64, i64), value: ExprId) -> Stmt {
    let (row, col) = (p.pool.add_var("r", Ty::Int), p.pool.add_var("c", Ty::Int));
    let (rows, cols) = (p.pool.int(rows), p.pool.int(cols));
    Stmt::Map { dst: BufId(dst), rows, cols, row, col, reads: vec![], value }
}

/// `out[0, 0] += value` for a buffer of one row.
fn add(p: &mut Program, value: ExprId) -> Stmt {
    let old = p.pool.add_var("old", Ty::Float);
    let sum = p.pool.var(old);
    let sum = p.pool.add(sum, value);
    let mut stmt = map(p, 0, (1, 1), sum);
    if let Stmt::Map { reads, .. } = &mut stmt {
        reads.push((old, BufId(0), attn_compiler::tile_ir::Access::Tile));
    }
    stmt
}

fn float_of(p: &mut Program, var: VarId) -> ExprId {
    let var = p.pool.var(var);
    p.pool.unary(UnaryOp::ToFloat, var)
}

/// Runs `body`, which leaves its result in element (0, 0) of buffer 0, with these dims.
fn result(mut p: Program, body: Vec<Stmt>, dims: &[i64]) -> f32 {
    let out = build::tensor(&mut p, "out", TensorKind::Output, DType::F32, 2);
    let mut all = vec![Stmt::Fill { dst: BufId(0), value: 0.0 }];
    all.extend(body);
    all.push(build::store(&mut p, BufId(0), out, (1, 1)));
    build::launch(&mut p, vec![build::buffer("acc", 1, 16)], all);
    let mut host = vec![HostTensor::zeros(DType::F32, &[1, 1])];
    let loaded = Loaded::new(&p, false);
    let scalars: Vec<Arg> = dims.iter().map(|&d| Arg::Int(d)).collect();
    let args = loaded.args(naive::table(), &mut host, &scalars);
    loaded.run(0, &args, 1);
    host[0].f32s()[0]
}

/// sum over i in lo..hi, j in i..hi of i * 10 + j
fn nested(lo: i64, hi: i64) -> f32 {
    let mut p = build::program();
    let (lo_var, hi_var) = (build::dim(&mut p, "lo"), build::dim(&mut p, "hi"));
    let (i, j) = (p.pool.add_var("i", Ty::Int), p.pool.add_var("j", Ty::Int));
    let (lo_e, hi_e, i_e) = (p.pool.var(lo_var), p.pool.var(hi_var), p.pool.var(i));
    let (fi, fj, ten) = (float_of(&mut p, i), float_of(&mut p, j), p.pool.float(10.0));
    let tens = p.pool.mul(fi, ten);
    let term = p.pool.add(tens, fj);
    let inner = Stmt::For { var: j, lo: i_e, hi: hi_e, body: vec![add(&mut p, term)] };
    let outer = Stmt::For { var: i, lo: lo_e, hi: hi_e, body: vec![inner] };
    result(p, vec![outer], &[lo, hi])
}

#[test]
fn loops_nest_and_may_be_empty() {
    for (lo, hi) in [(0, 5), (3, 4), (2, 2), (5, 1), (0, 0)] {
        let want: i64 = (lo..hi).flat_map(|i| (i..hi).map(move |j| i * 10 + j)).sum();
        assert_eq!(nested(lo, hi), want as f32, "{lo}..{hi}");
    }
}

/// 1 if there are i in lo..hi and j in i..hi with i * j == 12, +2 if a second search, over nothing, finds a point.
fn searched(lo: i64, hi: i64) -> f32 {
    let mut p = build::program();
    let (lo_var, hi_var) = (build::dim(&mut p, "lo"), build::dim(&mut p, "hi"));
    let mut body = Vec::new();
    for (weight, empty) in [(1.0, false), (2.0, true)] {
        let (i, j) = (p.pool.add_var("i", Ty::Int), p.pool.add_var("j", Ty::Int));
        let found = p.pool.add_var("found", Ty::Bool);
        let (lo_e, hi_e, i_e, j_e) = (p.pool.var(lo_var), p.pool.var(hi_var), p.pool.var(i), p.pool.var(j));
        let (product, twelve) = (p.pool.mul(i_e, j_e), p.pool.int(12));
        let cond = if empty { p.pool.bool(true) } else { p.pool.eq(product, twelve) };
        let inner = Span { var: j, lo: i_e, hi: if empty { i_e } else { hi_e } };
        body.push(Stmt::Any { var: found, over: vec![Span { var: i, lo: lo_e, hi: hi_e }, inner], cond });
        let (found, weight, zero) = (p.pool.var(found), p.pool.float(weight), p.pool.float(0.0));
        let term = p.pool.select(found, weight, zero);
        body.push(add(&mut p, term));
    }
    result(p, body, &[lo, hi])
}

#[test]
fn searches_find_what_is_there() {
    for (lo, hi) in [(0, 5), (0, 4), (3, 5), (4, 5), (1, 13), (4, 12), (5, 5), (7, 2), (0, 0), (0, 1)] {
        let want = (lo..hi).any(|i| (i..hi).any(|j| i * j == 12));
        assert_eq!(searched(lo, hi), f32::from(u8::from(want)), "{lo}..{hi}");
    }
}

#[test]
fn branches_take_one_side_and_their_lets_stay_inside() {
    for n in [0, 3, 4, 100] {
        let mut p = build::program();
        let n_var = build::dim(&mut p, "n");
        let n_e = p.pool.var(n_var);
        let limit = p.pool.int(4);
        let cond = p.pool.lt(n_e, limit);
        let sides: Vec<Vec<Stmt>> = [100, 7]
            .into_iter()
            .map(|by| {
                let var = p.pool.add_var("twice", Ty::Int);
                let by = p.pool.int(by);
                let value = p.pool.mul(n_e, by);
                let term = float_of(&mut p, var);
                vec![Stmt::Let { var, value }, add(&mut p, term)]
            })
            .collect();
        let branch = Stmt::If { cond, then: sides[0].clone(), otherwise: sides[1].clone() };
        // The same product again, after the branch that computed it.
        let hundred = p.pool.int(100);
        let again = p.pool.mul(n_e, hundred);
        let again = p.pool.unary(UnaryOp::ToFloat, again);
        let last = add(&mut p, again);
        let want = n * if n < 4 { 100 } else { 7 } + n * 100;
        assert_eq!(result(p, vec![branch, last], &[n]), want as f32, "{n}");
    }
}

#[test]
fn tasks_are_split_with_the_last_coordinate_fastest() {
    let mut p = build::program();
    let (a_size, c_size) = (build::dim(&mut p, "a_size"), build::dim(&mut p, "c_size"));
    let grid: Vec<VarId> = ["a", "one", "b", "c"].iter().map(|name| p.pool.add_var(name, Ty::Int)).collect();
    let extents = [p.pool.var(a_size), p.pool.int(1), p.pool.int(4), p.pool.var(c_size)];
    let out = build::tensor(&mut p, "out", TensorKind::Output, DType::F32, 4);
    let mut value = p.pool.float(0.0);
    for &var in &grid {
        let (coordinate, hundred) = (float_of(&mut p, var), p.pool.float(100.0));
        value = p.pool.mul(value, hundred);
        value = p.pool.add(value, coordinate);
    }
    let (zero, one) = (p.pool.int(0), p.pool.int(1));
    let index = vec![p.pool.var(grid[0]), p.pool.var(grid[2]), p.pool.var(grid[3]), zero];
    let dst = RowsRef { tensor: out, index, row_dim: 2, col_dim: 3 };
    let body = vec![
        map(&mut p, 0, (1, 1), value),
        Stmt::StoreRows { dst, src: BufId(0).into(), rows: one, d: one, row_scale: None },
    ];
    let grid = grid.into_iter().zip(extents).collect();
    p.launches.push(Launch { name: "grid".into(), grid, buffers: vec![build::buffer("acc", 1, 16)], body });
    let loaded = Loaded::new(&p, false);
    let mut host = vec![HostTensor::new(DType::F32, &[3, 4, 5, 1], std::iter::repeat(-1.0))];
    let args = loaded.args(naive::table(), &mut host, &[Arg::Int(3), Arg::Int(5)]);
    loaded.run(0, &args, 60);
    let want: Vec<f32> = (0..60i64).map(|t| (t / 20 * 1_000_000 + t / 5 % 4 * 100 + t % 5) as f32).collect();
    assert_eq!(host[0].f32s(), want);
    let empty = loaded.args(naive::table(), &mut host, &[Arg::Int(0), Arg::Int(0)]);
    loaded.run(0, &empty, 1);
}

#[test]
fn fill_sets_every_element_and_nothing_else() {
    for (rows, cols) in [(1, 1), (5, 1), (16, 1), (3, 16), (64, 64), (1, 32)] {
        let mut p = build::program();
        let buffers =
            vec![build::buffer("a", 2, 16), build::buffer("b", rows, cols), build::buffer("c", 2, 16)];
        let body = vec![
            Stmt::Fill { dst: BufId(0), value: 1.0 },
            Stmt::Fill { dst: BufId(2), value: 3.0 },
            Stmt::Fill { dst: BufId(1), value: f64::NEG_INFINITY },
        ];
        build::launch(&mut p, buffers, body);
        let loaded = Loaded::new(&p, false);
        let args = loaded.args(naive::table(), &mut [], &[]);
        let scratch = loaded.run(0, &args, 1);
        let count =
            |x: f32| (0..loaded.code.scratch_bytes[0] / 4).filter(|n| scratch.f32_at(n * 4) == x).count();
        let line = (rows * cols) as usize;
        assert_eq!((count(1.0), count(3.0)), (32, 32), "neighbours of {rows}x{cols} are whole");
        assert_eq!(count(f32::NEG_INFINITY), line.next_multiple_of(16), "{rows}x{cols}");
    }
}

#[test]
fn a_value_read_from_workspace_is_read_again_after_it_was_written() {
    let mut p = build::program();
    let flags = build::tensor(&mut p, "flags", TensorKind::Workspace, DType::I32, 1);
    let panels = build::tensor(&mut p, "panels", TensorKind::Workspace, DType::F32, 1);
    let v = build::tensor(&mut p, "v", TensorKind::Input, DType::F32, 2);
    let out = build::tensor(&mut p, "out", TensorKind::Output, DType::F32, 2);
    let (zero, one, two, stride) = (p.pool.int(0), p.pool.int(1), p.pool.int(2), p.pool.int(64));
    let flag = p.pool.load(flags, vec![one], Ty::Int);
    let value = p.pool.unary(UnaryOp::ToFloat, flag);
    let src = RowsRef { tensor: v, index: vec![zero, zero], row_dim: 0, col_dim: 1 };
    let dst = PanelRef { tensor: panels, offset: zero, panel_stride: stride };
    let i = p.pool.add_var("i", Ty::Int);
    let pack = Stmt::PackV { dst, src, n: one, d: 1, flag: (flags, vec![one]) };
    let body = vec![
        add(&mut p, value),
        Stmt::For { var: i, lo: zero, hi: two, body: vec![add(&mut p, value), pack] },
        add(&mut p, value),
    ];
    let mut all = vec![Stmt::Fill { dst: BufId(0), value: 0.0 }];
    all.extend(body);
    all.push(build::store(&mut p, BufId(0), out, (1, 1)));
    build::launch(&mut p, vec![build::buffer("acc", 1, 16)], all);
    let loaded = Loaded::new(&p, false);
    let mut host = vec![
        HostTensor::new(DType::I32, &[2], [7.0, 100.0].into_iter()),
        HostTensor::zeros(DType::F32, &[64]),
        HostTensor::zeros(DType::F32, &[1, 1]),
        HostTensor::zeros(DType::F32, &[1, 1]),
    ];
    let args = loaded.args(naive::table(), &mut host, &[]);
    loaded.run(0, &args, 1);
    assert_eq!(host[3].f32s()[0], 100.0 + 100.0 + 1.0 + 1.0, "the naive pack_v says 1");
    assert_eq!(host[0].bytes, [7, 0, 0, 0, 1, 0, 0, 0], "the other flag is as it was");
}

#[test]
fn what_has_no_code_is_an_error_that_names_it() {
    let mut p = build::program();
    let n = build::dim(&mut p, "n");
    let n = p.pool.var(n);
    let (one, zero) = (p.pool.float(1.0), p.pool.float(0.0));
    let random = p.pool.rand_block([n; 6]);
    let value = p.pool.select(random, one, zero);
    let body = vec![map(&mut p, 0, (1, 1), value)];
    build::launch(&mut p, vec![build::buffer("acc", 1, 16)], body);
    let error = cpu::emit(&p, &exec::facts(false)).expect_err("random blocks have no code");
    assert!(matches!(&error, BackendError::Unsupported { why, .. } if why.contains("table")), "{error}");

    let mut p = build::program();
    let nobody = p.pool.add_var("nobody", Ty::Float);
    let value = p.pool.var(nobody);
    let body = vec![map(&mut p, 0, (1, 1), value)];
    build::launch(&mut p, vec![build::buffer("acc", 1, 16)], body);
    let error = cpu::emit(&p, &exec::facts(false)).expect_err("the variable has no value");
    assert!(matches!(&error, BackendError::Internal { op, .. } if op.contains("nobody")), "{error}");
}

#[test]
fn texts_are_made_when_asked_for() {
    let mut p = build::program();
    let half = p.pool.float(0.5);
    let body = vec![map(&mut p, 0, (1, 1), half)];
    build::launch(&mut p, vec![build::buffer("acc", 1, 16)], body);
    let listing = cpu::Listing { clif: true, asm: true };
    let code = cpu::emit_listing(&p, &exec::facts(false), listing).expect("code");
    assert!(code.clif.contains("launch main") && code.clif.contains("store"), "{}", code.clif);
    assert!(code.asm.contains("launch main") && code.asm.len() > 100, "{}", code.asm);
    let plain = cpu::emit(&p, &exec::facts(false)).expect("code");
    assert_eq!((plain.code, plain.clif, plain.asm), (code.code, String::new(), String::new()));
}
