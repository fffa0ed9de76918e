//! Printing and parsing of expressions: random typed DAGs read back to the node they were printed from.

use attn_compiler::expr::parse::{Reader, expr};
use attn_compiler::expr::print::print;
use attn_compiler::expr::{BinaryOp, ExprId, Pool, TensorId, Ty, UnaryOp};
use proptest::prelude::*;

const TENSORS: [(&str, Ty, usize); 3] =
    [("bias", Ty::Float, 2), ("k.doc", Ty::Int, 1), ("seen", Ty::Bool, 3)];

fn text(pool: &Pool, id: ExprId) -> String {
    print(pool, id, &|t| TENSORS[t.0 as usize].0.to_string())
}

fn read(pool: &mut Pool, text: &str) -> ExprId {
    let lookup = |name: &str| {
        let n = TENSORS.iter().position(|t| t.0 == name)?;
        Some((TensorId(n as u32), TENSORS[n].1))
    };
    let mut reader = Reader::new(text);
    let id = expr(&mut reader, pool, &lookup).unwrap_or_else(|e| panic!("{text}: {e}"));
    reader.end().unwrap_or_else(|e| panic!("{text}: {e}"));
    id
}

/// Nodes made so far, by type.
struct Nodes {
    pool: Pool,
    made: [Vec<ExprId>; 3],
}

impl Nodes {
    fn new() -> Nodes {
        let mut pool = Pool::new();
        let mut made = [vec![], vec![], vec![]];
        for (name, ty) in [("i", Ty::Int), ("j.1", Ty::Int), ("on", Ty::Bool), ("_x", Ty::Float)] {
            let var = pool.add_var(name, ty);
            made[ty as usize].push(pool.var(var));
        }
        for x in [0, 1, -7, i64::MAX, i64::MIN, i64::MIN + 1] {
            made[Ty::Int as usize].push(pool.int(x));
        }
        for x in [0.0, -0.0, 1.0, 0.1, -2.5e-300, 1e300, 3.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            made[Ty::Float as usize].push(pool.float(x));
        }
        made[Ty::Bool as usize].push(pool.bool(true));
        Nodes { pool, made }
    }

    /// A node of this type, the latest ones being likelier.
    fn pick(&self, ty: Ty, at: u16) -> ExprId {
        let of = &self.made[ty as usize];
        let back = if at.is_multiple_of(3) { usize::from(at) / 3 } else { usize::from(at) % 4 };
        of[of.len() - 1 - back % of.len()]
    }

    fn unary(&mut self, op: u8, x: u16) -> ExprId {
        use UnaryOp::*;
        let ops = [
            Neg, Abs, Floor, Ceil, Sqrt, Rsqrt, Exp, Exp2, Log, Log2, Tanh, Sigmoid, Sin, Cos, ToInt, Not,
            ToFloat,
        ];
        let op = ops[usize::from(op) % ops.len()];
        let ty = match op {
            Not => Ty::Bool,
            ToFloat => Ty::Int,
            Neg | Abs if x.is_multiple_of(2) => Ty::Int,
            _ => Ty::Float,
        };
        let x = self.pick(ty, x);
        self.pool.unary(op, x)
    }

    fn binary(&mut self, op: u8, a: u16, b: u16) -> ExprId {
        use BinaryOp::*;
        let ops = [Add, Sub, Mul, Min, Max, Lt, Le, Eq, Ne, And, Or, Div, Pow, IDiv, Mod];
        let op = ops[usize::from(op) % ops.len()];
        let ty = match op {
            And | Or => Ty::Bool,
            Div | Pow => Ty::Float,
            IDiv | Mod => Ty::Int,
            Eq | Ne => [Ty::Bool, Ty::Int, Ty::Float][usize::from(a % 3)],
            _ => [Ty::Int, Ty::Float][usize::from(b % 2)],
        };
        let (a, b) = (self.pick(ty, a), self.pick(ty, b));
        self.pool.binary(op, a, b)
    }

    fn add(&mut self, (kind, op, a, b, c): (u8, u8, u16, u16, u16)) -> ExprId {
        let id = match kind % 10 {
            0 | 1 => self.unary(op, a),
            2..=6 => self.binary(op, a, b),
            7 | 8 => {
                let ty = [Ty::Bool, Ty::Int, Ty::Float][usize::from(op % 3)];
                let (c, a, b) = (self.pick(Ty::Bool, c), self.pick(ty, a), self.pick(ty, b));
                self.pool.select(c, a, b)
            }
            _ if op.is_multiple_of(4) => {
                let args = [a, b, c, a / 2, b / 2, c / 2].map(|x| self.pick(Ty::Int, x));
                self.pool.rand_block(args)
            }
            _ => {
                let n = usize::from(op % 3);
                let index = [a, b, c][..TENSORS[n].2].iter().map(|&x| self.pick(Ty::Int, x)).collect();
                self.pool.load(TensorId(n as u32), index, TENSORS[n].1)
            }
        };
        self.made[self.pool.ty(id) as usize].push(id);
        id
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn random_dags_read_back_to_the_same_node(steps in prop::collection::vec(any::<(u8, u8, u16, u16, u16)>(), 1..60)) {
        let mut nodes = Nodes::new();
        let mut last = ExprId(0);
        for step in steps {
            last = nodes.add(step);
        }
        let printed = text(&nodes.pool, last);
        let again = read(&mut nodes.pool, &printed);
        prop_assert_eq!(again, last, "{}", printed);
        // In a pool with other numbers, the text is the same.
        let mut other = Pool::new();
        for (_, v) in nodes.pool.vars() {
            other.add_var(&v.name, v.ty);
        }
        let len = nodes.pool.len();
        for n in 0..len {
            // Every node is copied, in an order that mixes independent parts.
            other.import(&nodes.pool, ExprId((n * 7919 % len) as u32), &|v| v);
        }
        let moved = read(&mut other, &printed);
        prop_assert_eq!(text(&other, moved), printed.clone());
        let mut fresh = Pool::new();
        for (_, v) in nodes.pool.vars() {
            fresh.add_var(&v.name, v.ty);
        }
        let moved = read(&mut fresh, &printed);
        prop_assert_eq!(text(&fresh, moved), printed);
    }
}

#[test]
fn the_text_of_a_shared_dag_is_linear() {
    let mut pool = Pool::new();
    let var = pool.add_var("x", Ty::Float);
    let mut x = pool.var(var);
    for n in 0..150 {
        let c = pool.float(f64::from(n) + 0.5);
        let y = pool.mul(x, c);
        x = if n % 2 == 0 { pool.add(y, x) } else { pool.min(x, y) };
    }
    let printed = text(&pool, x);
    assert!(printed.len() < 150 * 60, "{}", printed.len());
    assert_eq!(read(&mut pool, &printed), x);
}

#[test]
fn malformed_text_is_an_error() {
    let mut pool = Pool::new();
    pool.add_var("i", Ty::Int);
    for text in [
        "i +",
        "i < i < i",
        "(i",
        "i ? 1 : 2",
        "1.5 + i",
        "bias[i]",
        "i & i",
        "9999999999999999999",
        "-",
        "%0",
    ] {
        let mut reader = Reader::new(text);
        let bad = expr(&mut reader, &mut pool, &|_| None).and_then(|_| reader.end());
        assert!(bad.is_err(), "{text}");
    }
    let deep = format!("{}i", "(".repeat(1_000_000));
    assert!(expr(&mut Reader::new(&deep), &mut pool, &|_| None).is_err());
    let deep = format!("{}i", "!".repeat(1_000_000));
    assert!(expr(&mut Reader::new(&deep), &mut pool, &|_| None).is_err());
}
