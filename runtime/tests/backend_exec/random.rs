//! Random typed expressions over edge values, in maps and in uniform position, against the reference.

use std::collections::HashMap;

use attn_compiler::artifact::DType;
use attn_compiler::expr::eval::Value;
use attn_compiler::expr::{BinaryOp, ExprId, TensorId, Ty, UnaryOp, VarId, print};
use attn_compiler::tile_ir::{Access, BufId, Program, Stmt, TensorKind};
use proptest::prelude::*;

use crate::build;
use crate::exec::{Arg, HostTensor, Loaded};
use crate::{naive, reference};

const ROWS: i64 = 3;
const COLS: i64 = 19;
/// Sizes of the tensors that expressions load from: (first dim, last dim).
const SHAPE: [i64; 2] = [5, 23];

const INTS: [i64; 20] = [
    0,
    1,
    -1,
    2,
    3,
    -3,
    7,
    8,
    -8,
    64,
    100,
    -100,
    1 << 20,
    1 << 30,
    1 << 31,
    -(1 << 31),
    1 << 40,
    i64::MAX,
    i64::MIN,
    i64::MIN + 1,
];
const FLOATS: [f64; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.125,
    -2.5,
    3.75,
    8_388_607.5,
    16_777_216.0,
    1e30,
    -1e30,
    1e-40,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    0.3,
];
const DTYPES: [DType; 8] =
    [DType::F32, DType::F16, DType::Bf16, DType::F64, DType::I8, DType::I32, DType::I64, DType::Bit];

/// Leaves that an expression may use.
struct Leaves {
    ints: Vec<VarId>,
    floats: Vec<VarId>,
    bools: Vec<VarId>,
    /// The first index variable to load with, if any: (row, col).
    place: Option<(VarId, VarId)>,
}

/// Reads choices from a tape, 0 at its end, so that a shorter tape is a simpler expression.
struct Generator<'a> {
    p: &'a mut Program,
    leaves: &'a Leaves,
    tape: std::slice::Iter<'a, u16>,
}

impl Generator<'_> {
    fn pick(&mut self, n: usize) -> usize {
        usize::from(self.tape.next().copied().unwrap_or(0)) % n
    }

    fn expr(&mut self, ty: Ty, depth: usize) -> ExprId {
        if depth == 0 || self.pick(6) == 0 {
            return self.leaf(ty);
        }
        let d = depth - 1;
        if self.pick(6) == 0 {
            let (c, a, b) = (self.expr(Ty::Bool, d), self.expr(ty, d), self.expr(ty, d));
            return self.p.pool.select(c, a, b);
        }
        match ty {
            Ty::Bool => self.bool(d),
            Ty::Int => self.int(d),
            Ty::Float => self.float(d),
        }
    }

    fn leaf(&mut self, ty: Ty) -> ExprId {
        let choice = self.pick(4);
        let leaves = self.leaves;
        let vars = match ty {
            Ty::Bool => &leaves.bools,
            Ty::Int => &leaves.ints,
            Ty::Float => &leaves.floats,
        };
        match (choice, ty) {
            (0, Ty::Bool) => {
                let x = self.pick(2) == 0;
                self.p.pool.bool(x)
            }
            (0, Ty::Int) => {
                let x = INTS[self.pick(INTS.len())];
                self.p.pool.int(x)
            }
            (0, Ty::Float) => {
                let x = FLOATS[self.pick(FLOATS.len())];
                self.p.pool.float(x)
            }
            (1, _) => self.load(ty),
            _ => {
                let v = vars[self.pick(vars.len())];
                self.p.pool.var(v)
            }
        }
    }

    fn load(&mut self, ty: Ty) -> ExprId {
        let choices: &[u32] = match ty {
            Ty::Float => &[0, 1, 2, 3],
            Ty::Int => &[4, 5, 6],
            Ty::Bool => &[7],
        };
        let t = TensorId(choices[self.pick(choices.len())]);
        let index = [self.index(0), self.index(1)];
        self.p.pool.load(t, index.to_vec(), ty)
    }

    fn index(&mut self, dim: usize) -> ExprId {
        let shift = self.pick(7) as i64 - 3;
        match (self.pick(4), self.leaves.place) {
            (0, _) => self.expr(Ty::Int, 1),
            (1, _) => {
                let e = self.expr(Ty::Int, 1);
                let size = self.p.pool.int(SHAPE[dim]);
                self.p.pool.modulo(e, size)
            }
            (which, Some((row, col))) => {
                let (row, col) = (self.p.pool.var(row), self.p.pool.var(col));
                let at = if dim == 1 { col } else { row };
                let at = if which == 2 { at } else { self.p.pool.sub(row, col) };
                self.p.pool.add_int(at, shift)
            }
            (_, None) => self.p.pool.int(shift),
        }
    }

    fn bool(&mut self, d: usize) -> ExprId {
        use BinaryOp::*;
        let (op, ty) = match self.pick(8) {
            0 => (And, Ty::Bool),
            1 => (Or, Ty::Bool),
            2 => {
                let x = self.expr(Ty::Bool, d);
                return self.p.pool.not(x);
            }
            3 => ([Eq, Ne][self.pick(2)], Ty::Bool),
            4 | 5 => ([Lt, Le, Eq, Ne][self.pick(4)], Ty::Float),
            _ => ([Lt, Le, Eq, Ne][self.pick(4)], Ty::Int),
        };
        let (a, b) = (self.expr(ty, d), self.expr(ty, d));
        self.p.pool.binary(op, a, b)
    }

    fn int(&mut self, d: usize) -> ExprId {
        use BinaryOp::*;
        match self.pick(10) {
            0 => {
                let x = self.expr(Ty::Int, d);
                let op = [UnaryOp::Neg, UnaryOp::Abs][self.pick(2)];
                self.p.pool.unary(op, x)
            }
            1 => {
                let x = self.expr(Ty::Float, d);
                self.p.pool.unary(UnaryOp::ToInt, x)
            }
            _ => {
                let op = [Add, Sub, Mul, IDiv, Mod, Min, Max][self.pick(7)];
                let (a, b) = (self.expr(Ty::Int, d), self.expr(Ty::Int, d));
                self.p.pool.binary(op, a, b)
            }
        }
    }

    fn float(&mut self, d: usize) -> ExprId {
        use BinaryOp::*;
        use UnaryOp::*;
        match self.pick(8) {
            0 => {
                let x = self.expr(Ty::Int, d);
                self.p.pool.unary(ToFloat, x)
            }
            1..=3 => {
                let ops = [Neg, Abs, Floor, Ceil, Sqrt, Rsqrt, Exp, Exp2, Log, Log2, Tanh, Sigmoid, Sin, Cos];
                let op = ops[self.pick(ops.len())];
                let x = self.expr(Ty::Float, d);
                self.p.pool.unary(op, x)
            }
            _ => {
                let op = [Add, Sub, Mul, Div, Min, Max, Pow][self.pick(7)];
                let (a, b) = (self.expr(Ty::Float, d), self.expr(Ty::Float, d));
                self.p.pool.binary(op, a, b)
            }
        }
    }
}

/// What a case binds: dims below 2^30, any ints, any floats.
#[derive(Clone, Debug)]
struct Bound {
    dims: [i64; 2],
    ints: [i64; 2],
    float: f32,
    bool: bool,
    floats: Vec<f32>,
    whole: Vec<i64>,
}

fn edge_float() -> impl Strategy<Value = f32> {
    prop_oneof![
        3 => -8.0f32..8.0,
        2 => prop::sample::select(FLOATS.map(|x| x as f32).to_vec()),
        1 => any::<f32>(),
    ]
}

fn bound() -> impl Strategy<Value = Bound> {
    let int = || prop_oneof![prop::sample::select(INTS.to_vec()), -50i64..50];
    (
        [0i64..(1 << 30), 0i64..100],
        [int(), int()],
        edge_float(),
        any::<bool>(),
        prop::collection::vec(edge_float(), 40),
        prop::collection::vec(int(), 40),
    )
        .prop_map(|(dims, ints, float, bool, floats, whole)| Bound {
            dims,
            ints,
            float,
            bool,
            floats,
            whole,
        })
}

/// A program with the tensors that expressions load from (0 to 7), inputs x, y, z (8 to 10) and outputs (11 on).
struct Case {
    p: Program,
    leaves: Leaves,
    scalars: Vec<(VarId, Value)>,
    host: Vec<HostTensor>,
}

fn case(bound: &Bound) -> Case {
    let mut p = build::program();
    let mut host = vec![];
    let floats = || bound.floats.iter().map(|&x| f64::from(x)).cycle();
    let whole = || bound.whole.iter().map(|&x| x as f64).cycle();
    for (n, dtype) in DTYPES.into_iter().enumerate() {
        build::tensor(&mut p, dtype.name(), TensorKind::Input, dtype, 2);
        host.push(if dtype.is_float() {
            HostTensor::new(dtype, &SHAPE, floats().skip(n))
        } else {
            HostTensor::new(dtype, &SHAPE, whole().skip(n))
        });
    }
    for (name, shape, rank) in [("xs", vec![ROWS, COLS], 2), ("ys", vec![ROWS], 1), ("zs", vec![COLS], 1)] {
        build::tensor(&mut p, name, TensorKind::Input, DType::F32, rank);
        host.push(HostTensor::new(DType::F32, &shape, floats().skip(host.len())));
    }
    let dims = [build::dim(&mut p, "n"), build::dim(&mut p, "m")];
    let ints = [build::param(&mut p, "p", Ty::Int), build::param(&mut p, "q", Ty::Int)];
    let (f, g) = (build::param(&mut p, "f", Ty::Float), build::param(&mut p, "g", Ty::Bool));
    let mut scalars: Vec<(VarId, Value)> = dims
        .into_iter()
        .chain(ints)
        .zip(bound.dims.iter().chain(&bound.ints))
        .map(|(v, &x)| (v, Value::Int(x)))
        .collect();
    scalars.push((f, Value::Float(f64::from(bound.float))));
    scalars.push((g, Value::Bool(bound.bool)));
    let leaves = Leaves {
        ints: vec![dims[0], dims[1], ints[0], ints[1]],
        floats: vec![f],
        bools: vec![g],
        place: None,
    };
    Case { p, leaves, scalars, host }
}

impl Case {
    /// Runs `before` and a map of each float expression, and returns the elements of each.
    fn run(&mut self, mut before: Vec<Stmt>, values: &[ExprId], reads: Reads, plain: bool) -> Vec<Vec<f32>> {
        let mut buffers =
            vec![build::buffer("x", ROWS, 32), build::buffer("y", ROWS, 1), build::buffer("z", 1, 32)];
        let mut host = self.host.clone();
        for &value in values {
            let out = build::tensor(&mut self.p, "out", TensorKind::Output, DType::F32, 2);
            host.push(HostTensor::zeros(DType::F32, &[ROWS, COLS]));
            let dst = BufId(buffers.len() as u32);
            buffers.push(build::buffer("out", ROWS, 32));
            before.push(self.map(dst, (ROWS, COLS), reads.place, value, reads.elements.to_vec()));
            before.push(build::store(&mut self.p, dst, out, (ROWS, COLS)));
        }
        self.p.launches.clear();
        build::launch(&mut self.p, buffers, before);
        let loaded = Loaded::new(&self.p, plain);
        let scalars: Vec<Arg> = self.scalars.iter().map(|s| arg(s.1)).collect();
        let args = loaded.args(naive::table(), &mut host, &scalars);
        loaded.run(0, &args, 1);
        self.p.tensors.truncate(self.host.len());
        host[self.host.len()..].iter().map(HostTensor::f32s).collect()
    }

    fn print(&self, root: ExprId) -> String {
        print::print(&self.p.pool, root, &|t| self.p.tensors[t.0 as usize].name.clone())
    }

    fn map(
        &mut self,
        dst: BufId,
        (rows, cols): (i64, i64),
        (row, col): (VarId, VarId),
        value: ExprId,
        reads: Vec<(VarId, BufId, Access)>,
    ) -> Stmt {
        let (rows, cols) = (self.p.pool.int(rows), self.p.pool.int(cols));
        Stmt::Map { dst, rows, cols, row, col, reads, value }
    }
}

/// Variables of the map under test.
#[derive(Clone, Copy)]
struct Reads<'a> {
    place: (VarId, VarId),
    elements: &'a [(VarId, BufId, Access)],
}

fn arg(value: Value) -> Arg {
    match value {
        Value::Int(x) => Arg::Int(x),
        Value::Float(x) => Arg::Float(x as f32),
        Value::Bool(x) => Arg::Bool(x),
    }
}

const TYPES: [Ty; 3] = [Ty::Bool, Ty::Int, Ty::Float];

/// An expression of row, column and elements gives the same in machine code and in the reference.
fn check_map(tape: &[u16], bound: &Bound, plain: bool) -> Result<(), TestCaseError> {
    let mut case = case(bound);
    let place = (case.p.pool.add_var("row", Ty::Int), case.p.pool.add_var("col", Ty::Int));
    let elements = [("x", Access::Tile), ("y", Access::Row), ("z", Access::Col)];
    let mut reads = vec![];
    let mut before = vec![];
    for (n, (name, access)) in elements.into_iter().enumerate() {
        let (buf, (row, col)) = (BufId(n as u32), place);
        let (r, c) = (case.p.pool.var(row), case.p.pool.var(col));
        let (index, size) = match access {
            Access::Tile => (vec![r, c], (ROWS, COLS)),
            Access::Row => (vec![r], (ROWS, 1)),
            Access::Col => (vec![c], (1, COLS)),
        };
        let value = case.p.pool.load(TensorId(8 + n as u32), index, Ty::Float);
        before.push(case.map(buf, size, place, value, vec![]));
        reads.push((case.p.pool.add_var(name, Ty::Float), buf, access));
    }
    case.leaves.ints.extend([place.0, place.1, place.1]);
    case.leaves.floats.extend(reads.iter().map(|r| r.0));
    case.leaves.place = Some(place);
    let ty = TYPES[usize::from(tape[0]) % 3];
    let root = Generator { p: &mut case.p, leaves: &case.leaves, tape: tape[1..].iter() }.expr(ty, 4);
    let digits = build::split(&mut case.p.pool, root);
    let got = case.run(before, &digits, Reads { place, elements: &reads }, plain);
    for row in 0..ROWS {
        for col in 0..COLS {
            let at = (row * COLS + col) as usize;
            let mut vars: HashMap<VarId, Value> = case.scalars.iter().copied().collect();
            vars.extend([(place.0, Value::Int(row)), (place.1, Value::Int(col))]);
            let spots = [at, row as usize, col as usize];
            for (n, (read, spot)) in reads.iter().zip(spots).enumerate() {
                vars.insert(read.0, Value::Float(f64::from(case.host[8 + n].f32s()[spot])));
            }
            let want = reference::value(&case.p.pool, root, &reference::Env { vars, tensors: &case.host });
            let got: Vec<f32> = got.iter().map(|digit| digit[at]).collect();
            compare(want, &got, &format!("({row}, {col}) of {}", case.print(root)))?;
        }
    }
    Ok(())
}

fn compare(want: Value, got: &[f32], place: &str) -> Result<(), TestCaseError> {
    let fits = match want {
        Value::Float(x) => reference::same(got[0], x as f32),
        Value::Bool(x) => got[0] == f32::from(u8::from(x)),
        Value::Int(x) => build::join(got) == x,
    };
    prop_assert!(fits, "at {place}: expected {want:?}, found {got:?}");
    Ok(())
}

/// An expression of arguments only, named by a `let`, gives the same in machine code and in the reference.
fn check_uniform(tape: &[u16], bound: &Bound, plain: bool) -> Result<(), TestCaseError> {
    let mut case = case(bound);
    let place = (case.p.pool.add_var("row", Ty::Int), case.p.pool.add_var("col", Ty::Int));
    let ty = TYPES[usize::from(tape[0]) % 3];
    let root = Generator { p: &mut case.p, leaves: &case.leaves, tape: tape[1..].iter() }.expr(ty, 5);
    let named = case.p.pool.add_var("named", ty);
    let var = case.p.pool.var(named);
    let digits = build::split(&mut case.p.pool, var);
    let before = vec![Stmt::Let { var: named, value: root }];
    let got = case.run(before, &digits, Reads { place, elements: &[] }, plain);
    let vars = case.scalars.iter().copied().collect();
    let want = reference::value(&case.p.pool, root, &reference::Env { vars, tensors: &case.host });
    for at in 0..(ROWS * COLS) as usize {
        let got: Vec<f32> = got.iter().map(|digit| digit[at]).collect();
        compare(want, &got, &format!("{at} of {}", case.print(root)))?;
    }
    Ok(())
}

fn tape() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(any::<u16>(), 2..160)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn maps_agree_with_the_reference(tape in tape(), bound in bound()) {
        check_map(&tape, &bound, false)?;
    }

    #[test]
    fn maps_agree_without_optional_instructions(tape in tape(), bound in bound()) {
        check_map(&tape, &bound, true)?;
    }

    #[test]
    fn uniform_values_agree_with_the_reference(tape in tape(), bound in bound()) {
        check_uniform(&tape, &bound, false)?;
    }

    #[test]
    fn uniform_values_agree_without_optional_instructions(tape in tape(), bound in bound()) {
        check_uniform(&tape, &bound, true)?;
    }
}
