//! Loads from tensors: strides of every kind, unaligned storage, empty tensors, indices out of range.

use attn_compiler::artifact::DType;
use attn_compiler::expr::{ExprId, Ty, UnaryOp, VarId};
use attn_compiler::tile_ir::{BufId, Launch, Program, RowsRef, Stmt, TensorKind};

use crate::build;
use crate::exec::{Arg, HostTensor, Loaded};
use crate::naive;

const ROWS: i64 = 6;
const COLS: i64 = 21;

/// Maps `value(row, col)`, which may load from tensor 0, over 6 x 21 elements.
fn elements(
    kind: TensorKind,
    tensor: HostTensor,
    value: impl FnOnce(&mut Program, ExprId, ExprId) -> ExprId,
) -> Vec<f32> {
    let mut p = build::program();
    build::tensor(&mut p, "t", kind, tensor.dtype, tensor.shape.len());
    let out = build::tensor(&mut p, "out", TensorKind::Output, DType::F32, 2);
    let place: [VarId; 2] = [p.pool.add_var("row", Ty::Int), p.pool.add_var("col", Ty::Int)];
    let [row, col] = place.map(|v| p.pool.var(v));
    let value = value(&mut p, row, col);
    let (rows, cols) = (p.pool.int(ROWS), p.pool.int(COLS));
    let dst = BufId(0);
    let map = Stmt::Map { dst, rows, cols, row: place[0], col: place[1], reads: vec![], value };
    let store = build::store(&mut p, dst, out, (ROWS, COLS));
    build::launch(&mut p, vec![build::buffer("acc", ROWS, 32)], vec![map, store]);
    let loaded = Loaded::new(&p, false);
    let mut host = vec![tensor, HostTensor::zeros(DType::F32, &[ROWS, COLS])];
    let args = loaded.args(naive::table(), &mut host, &[]);
    loaded.run(0, &args, 1);
    host[1].f32s()
}

fn load(p: &mut Program, index: Vec<ExprId>, ty: Ty) -> ExprId {
    let loaded = p.pool.load(attn_compiler::expr::TensorId(0), index, ty);
    match ty {
        Ty::Float => loaded,
        Ty::Int => p.pool.unary(UnaryOp::ToFloat, loaded),
        Ty::Bool => {
            let (one, zero) = (p.pool.float(1.0), p.pool.float(0.0));
            p.pool.select(loaded, one, zero)
        }
    }
}

const ALL: [(DType, Ty); 9] = [
    (DType::F32, Ty::Float),
    (DType::F16, Ty::Float),
    (DType::Bf16, Ty::Float),
    (DType::F64, Ty::Float),
    (DType::I8, Ty::Int),
    (DType::I32, Ty::Int),
    (DType::I64, Ty::Int),
    (DType::Bit, Ty::Bool),
    (DType::F8E4M3, Ty::Float),
];

/// Element (row, col) of a ROWS x COLS tensor; small, so that every type holds it.
fn entry(dtype: DType, row: i64, col: i64) -> f64 {
    let x = row * COLS + col - 60;
    match dtype {
        DType::Bit => f64::from(u8::from(x % 3 == 0)),
        DType::F8E4M3 => attn_compiler::host::round_to(dtype, x as f64),
        _ => x as f64,
    }
}

fn want(dtype: DType) -> Vec<f32> {
    (0..ROWS * COLS).map(|n| entry(dtype, n / COLS, n % COLS) as f32).collect()
}

#[test]
fn every_dtype_contiguous_and_transposed() {
    for (dtype, ty) in ALL {
        for kind in [TensorKind::Input, TensorKind::Workspace] {
            let values = (0..ROWS * COLS).map(|n| entry(dtype, n / COLS, n % COLS));
            let tensor = HostTensor::new(dtype, &[ROWS, COLS], values);
            let got = elements(kind, tensor, |p, row, col| load(p, vec![row, col], ty));
            assert_eq!(got, want(dtype), "{dtype}");
        }
        let values = (0..ROWS * COLS).map(|n| entry(dtype, n % ROWS, n / ROWS));
        let mut tensor = HostTensor::new(dtype, &[COLS, ROWS], values);
        tensor.shape.reverse();
        tensor.strides.reverse();
        let got = elements(TensorKind::Input, tensor, |p, row, col| load(p, vec![row, col], ty));
        assert_eq!(got, want(dtype), "{dtype}, transposed");
    }
}

#[test]
fn storage_need_not_be_aligned() {
    for (dtype, ty) in ALL {
        let values = (0..ROWS * COLS).map(|n| entry(dtype, n / COLS, n % COLS));
        let mut tensor = HostTensor::new(dtype, &[ROWS, COLS], values);
        // A byte in front, and a host tensor that starts after it.
        tensor.bytes.insert(0, 0x55);
        let shifted = Shifted(tensor);
        let got = shifted.elements(|p, row, col| load(p, vec![row, col], ty));
        assert_eq!(got, want(dtype), "{dtype}");
    }
}

/// A tensor whose storage starts one byte into its memory.
struct Shifted(HostTensor);

impl Shifted {
    fn elements(mut self, value: impl FnOnce(&mut Program, ExprId, ExprId) -> ExprId) -> Vec<f32> {
        let mut p = build::program();
        build::tensor(&mut p, "t", TensorKind::Input, self.0.dtype, 2);
        let out = build::tensor(&mut p, "out", TensorKind::Output, DType::F32, 2);
        let place: [VarId; 2] = [p.pool.add_var("row", Ty::Int), p.pool.add_var("col", Ty::Int)];
        let [row, col] = place.map(|v| p.pool.var(v));
        let value = value(&mut p, row, col);
        let (rows, cols) = (p.pool.int(ROWS), p.pool.int(COLS));
        let dst = BufId(0);
        let map = Stmt::Map { dst, rows, cols, row: place[0], col: place[1], reads: vec![], value };
        let store = build::store(&mut p, dst, out, (ROWS, COLS));
        build::launch(&mut p, vec![build::buffer("acc", ROWS, 32)], vec![map, store]);
        let loaded = Loaded::new(&p, false);
        let bytes = self.0.bytes.as_mut_ptr() as u64 + 1;
        let mut host = vec![self.0, HostTensor::zeros(DType::F32, &[ROWS, COLS])];
        let table = naive::table();
        let mut args = loaded.args(table, &mut host, &[]);
        args[1] = bytes;
        loaded.run(0, &args, 1);
        host[1].f32s()
    }
}

#[test]
fn an_index_out_of_range_reads_index_zero() {
    for (dtype, ty) in ALL {
        for shift in [-30, -3, -1, 1, 4, 30, i64::MAX, i64::MIN] {
            let values = (0..ROWS * COLS).map(|n| entry(dtype, n / COLS, n % COLS));
            let tensor = HostTensor::new(dtype, &[ROWS, COLS], values);
            let got = elements(TensorKind::Input, tensor, |p, row, col| {
                let by = p.pool.int(shift);
                let (row, col) = (p.pool.add(row, by), p.pool.add(col, by));
                load(p, vec![row, col], ty)
            });
            for (n, got) in got.into_iter().enumerate() {
                let fit = |x: i64, size: i64| {
                    Some(x.wrapping_add(shift)).filter(|x| (0..size).contains(x)).unwrap_or(0)
                };
                let (row, col) = (fit(n as i64 / COLS, ROWS), fit(n as i64 % COLS, COLS));
                assert_eq!(got, entry(dtype, row, col) as f32, "{dtype} shifted by {shift}, element {n}");
            }
        }
    }
}

#[test]
fn empty_tensors_are_not_read() {
    for (dtype, ty) in ALL {
        for shape in [[0, COLS], [ROWS, 0], [0, 0]] {
            let tensor = HostTensor::zeros(dtype, &shape);
            let got = elements(TensorKind::Input, tensor, |p, row, col| {
                let (element, zero, limit) =
                    (load(p, vec![row, col], ty), p.pool.float(0.0), p.pool.int(ROWS));
                let never = p.pool.le(limit, row);
                p.pool.select(never, element, zero)
            });
            assert!(got.iter().all(|&x| x == 0.0), "{dtype} {shape:?}");
        }
    }
}

#[test]
fn halves_widen_exactly() {
    for (dtype, words) in [(DType::F16, 1usize << 16), (DType::Bf16, 1 << 16)] {
        for first in (0..words).step_by((ROWS * COLS) as usize) {
            let mut tensor = HostTensor::zeros(dtype, &[ROWS, COLS]);
            for (n, pair) in tensor.bytes.chunks_exact_mut(2).enumerate() {
                pair.copy_from_slice(&(((first + n) & 0xffff) as u16).to_le_bytes());
            }
            let want: Vec<f32> = (0..(ROWS * COLS) as usize)
                .map(|n| {
                    let word = ((first + n) & 0xffff) as u16;
                    match dtype {
                        DType::F16 => half::f16::from_bits(word).to_f32(),
                        _ => half::bf16::from_bits(word).to_f32(),
                    }
                })
                .collect();
            let got =
                elements(TensorKind::Workspace, tensor, |p, row, col| load(p, vec![row, col], Ty::Float));
            for (got, want) in got.iter().zip(&want) {
                assert!(crate::reference::same(*got, *want), "{dtype}: expected {want}, found {got}");
            }
        }
    }
}

#[test]
fn eight_bit_floats_widen_exactly() {
    let mut tensor = HostTensor::zeros(DType::F8E4M3, &[ROWS, COLS]);
    tensor.bytes.iter_mut().enumerate().for_each(|(n, byte)| *byte = n as u8);
    let want: Vec<f32> = tensor.bytes.iter().map(|&b| attn_compiler::f8::decode(b)).collect();
    let got = elements(TensorKind::Input, tensor.clone(), |p, row, col| load(p, vec![row, col], Ty::Float));
    let each = elements(TensorKind::Input, tensor, |p, row, col| {
        // Two columns share an element: no stream, each lane by itself.
        let two = p.pool.int(2);
        let half = p.pool.idiv(col, two);
        load(p, vec![row, half], Ty::Float)
    });
    for (n, want) in want.iter().enumerate() {
        assert!(crate::reference::same(got[n], *want), "{n}: expected {want}, found {}", got[n]);
        let (row, col) = (n as i64 / COLS, n as i64 % COLS);
        if 2 * col < COLS {
            let found = each[(row * COLS + 2 * col) as usize];
            assert!(crate::reference::same(found, *want), "{n}: expected {want}, found {found}");
        }
    }
}

#[test]
fn streams_end_exactly_at_the_tensor() {
    for shift in -25i64..=25 {
        for backward in [false, true] {
            let values = (0..ROWS * COLS).map(|n| entry(DType::F32, n / COLS, n % COLS));
            let tensor = HostTensor::new(DType::F32, &[ROWS, COLS], values);
            let got = elements(TensorKind::Input, tensor, |p, row, col| {
                let by = p.pool.int(shift);
                let at = if backward { p.pool.sub(by, col) } else { p.pool.add(col, by) };
                load(p, vec![row, at], Ty::Float)
            });
            for (n, got) in got.into_iter().enumerate() {
                let (row, col) = (n as i64 / COLS, n as i64 % COLS);
                let at = if backward { shift - col } else { col + shift };
                let at = if (0..COLS).contains(&at) { at } else { 0 };
                assert_eq!(got, entry(DType::F32, row, at) as f32, "{shift} {backward} ({row}, {col})");
            }
        }
    }
}

/// Columns of a row that goes in vectors as a whole.
const WHOLE: i64 = 24;

/// Copies an n x 24 tensor in tiles of four rows. Without `shapes` nothing is known of the sizes but at run time.
fn copy_in_tiles(kind: TensorKind, shapes: bool) -> Loaded {
    let mut p = build::program();
    let n = build::dim(&mut p, "n");
    build::tensor(&mut p, "t", kind, DType::F32, 2);
    let out = build::tensor(&mut p, "out", TensorKind::Output, DType::F32, 2);
    let (n, cols, zero, four) = (p.pool.var(n), p.pool.int(WHOLE), p.pool.int(0), p.pool.int(4));
    if shapes {
        p.tensors.iter_mut().for_each(|t| t.shape = vec![n, cols]);
    }
    let [tile, row0, rows, row, col] =
        ["tile", "row0", "rows", "row", "col"].map(|name| p.pool.add_var(name, Ty::Int));
    let [at, first, count, r, c] = [tile, row0, rows, row, col].map(|v| p.pool.var(v));
    let (begin, left) = (p.pool.mul(at, four), p.pool.sub(n, first));
    let some = p.pool.min(left, four);
    let index = p.pool.add(first, r);
    let value = load(&mut p, vec![index, c], Ty::Float);
    let dst = RowsRef { tensor: out, index: vec![first, zero], row_dim: 0, col_dim: 1 };
    let body = vec![
        Stmt::Let { var: row0, value: begin },
        Stmt::Let { var: rows, value: some },
        Stmt::Map { dst: BufId(0), rows: count, cols, row, col, reads: vec![], value },
        Stmt::StoreRows { dst, src: BufId(0).into(), rows: count, d: cols, row_scale: None },
    ];
    let grid = vec![(tile, p.pool.ceil_div(n, 4))];
    p.launches.push(Launch { name: "main".into(), grid, buffers: vec![build::buffer("acc", 4, 32)], body });
    Loaded::new(&p, false)
}

#[test]
fn what_shapes_prove_is_not_checked_and_is_right() {
    for kind in [TensorKind::Input, TensorKind::Workspace] {
        let (proved, checked) = (copy_in_tiles(kind.clone(), true), copy_in_tiles(kind, false));
        assert!(proved.code.code.len() < checked.code.code.len(), "checks are left out");
        for n in 0..=9 {
            let values = || (0..n * WHOLE).map(|x| x as f64);
            for loaded in [&proved, &checked] {
                let (t, out) = (HostTensor::new(DType::F32, &[n, WHOLE], values()), &[n, WHOLE]);
                let mut host = vec![t, HostTensor::zeros(DType::F32, out)];
                let args = loaded.args(naive::table(), &mut host, &[Arg::Int(n)]);
                loaded.run(0, &args, (n + 3) / 4);
                let want: Vec<f32> = values().map(|x| x as f32).collect();
                assert_eq!(host[1].f32s(), want, "{n} rows");
            }
        }
    }
}

#[test]
fn an_index_from_memory_is_checked_whatever_its_type_says() {
    // Bytes reach from -128 to 127: the shape of 128 rows leaves the negative ones out.
    let mut p = build::program();
    let t = build::tensor(&mut p, "t", TensorKind::Input, DType::F32, 2);
    let at = build::tensor(&mut p, "at", TensorKind::Input, DType::I8, 1);
    let out = build::tensor(&mut p, "out", TensorKind::Output, DType::F32, 2);
    let (n, cols, five) = (p.pool.int(128), p.pool.int(WHOLE), p.pool.int(5));
    p.tensors[0].shape = vec![n, cols];
    p.tensors[1].shape = vec![five];
    let [row, col] = ["row", "col"].map(|name| p.pool.add_var(name, Ty::Int));
    let [r, c] = [row, col].map(|v| p.pool.var(v));
    let index = p.pool.load(at, vec![r], Ty::Int);
    let value = p.pool.load(t, vec![index, c], Ty::Float);
    let map = Stmt::Map { dst: BufId(0), rows: five, cols, row, col, reads: vec![], value };
    let store = build::store(&mut p, BufId(0), out, (5, WHOLE));
    build::launch(&mut p, vec![build::buffer("acc", 5, 32)], vec![map, store]);
    let loaded = Loaded::new(&p, false);
    let indices = [0i64, 127, -1, -128, 3];
    let mut host = vec![
        HostTensor::new(DType::F32, &[128, WHOLE], (0..128 * WHOLE).map(|x| x as f64)),
        HostTensor::new(DType::I8, &[5], indices.iter().map(|&i| i as f64)),
        HostTensor::zeros(DType::F32, &[5, WHOLE]),
    ];
    let args = loaded.args(naive::table(), &mut host, &[]);
    loaded.run(0, &args, 1);
    for (r, &i) in indices.iter().enumerate() {
        let want = if i < 0 { 0 } else { i * WHOLE };
        assert_eq!(host[2].f32s()[r * WHOLE as usize], want as f32, "row {r} reads {i}");
    }
}
