//! The operations of the tape on whole rows: each writes `keys` of its register and leaves the rest.
//!
//! An operand is one value for all keys or a slice of them. The common operations have their own loops, which
//! the compiler turns into vector code; the others call [`crate::expr::eval`] for each key.

use std::ops::Range;

use super::Reg;
use crate::expr::eval::{self, Value, floor_div};
use crate::expr::rand::rand_block_columns;
use crate::expr::{BinaryOp, Ty, UnaryOp};
use crate::host::{Data, View};

/// An operand.
#[derive(Clone, Copy)]
pub enum Arg<'a, T> {
    /// The same for every key.
    One(T),
    /// One for each key.
    Each(&'a [T]),
}

impl<T: Copy> Arg<'_, T> {
    /// The value for the k-th key.
    pub fn get(&self, k: usize) -> T {
        match self {
            Arg::One(x) => *x,
            Arg::Each(x) => x[k],
        }
    }
}

/// An element type of registers.
pub trait Lane: Copy + Default {
    /// The operand for these keys.
    fn lane(reg: &Reg, keys: Range<usize>) -> Arg<'_, Self>;
    /// The register's vector of n elements, made if it was not there.
    fn vector(reg: Reg, n: usize) -> Vec<Self>;
    /// The vector as a register.
    fn reg(vector: Vec<Self>) -> Reg;
}

macro_rules! lane {
    ($ty:ty, $reg:ident, $value:ident) => {
        impl Lane for $ty {
            fn lane(reg: &Reg, keys: Range<usize>) -> Arg<'_, Self> {
                match reg {
                    Reg::$reg(x) => Arg::Each(&x[keys]),
                    Reg::Scalar(Value::$value(x)) => Arg::One(*x),
                    _ => Arg::One(Self::default()),
                }
            }

            fn vector(reg: Reg, n: usize) -> Vec<Self> {
                match reg {
                    Reg::$reg(x) if x.len() == n => x,
                    _ => vec![Self::default(); n],
                }
            }

            fn reg(vector: Vec<Self>) -> Reg {
                Reg::$reg(vector)
            }
        }
    };
}

lane!(f64, Float, Float);
lane!(i64, Int, Int);
lane!(bool, Bool, Bool);

fn reg_ty(reg: &Reg) -> Ty {
    match reg {
        Reg::Scalar(x) => x.ty(),
        Reg::Float(_) => Ty::Float,
        Reg::Int(_) => Ty::Int,
        Reg::Bool(_) => Ty::Bool,
    }
}

/// Where the result goes.
struct Out {
    reg: Reg,
    n: usize,
    keys: Range<usize>,
}

impl Out {
    fn each<R: Lane>(self, f: impl Fn(usize) -> R) -> Reg {
        let mut out = R::vector(self.reg, self.n);
        for (k, out) in out[self.keys].iter_mut().enumerate() {
            *out = f(k);
        }
        R::reg(out)
    }

    fn map<A: Lane, R: Lane>(self, a: &Reg, f: impl Fn(A) -> R) -> Reg {
        let a = A::lane(a, self.keys.clone());
        match a {
            Arg::Each(a) => {
                let mut out = R::vector(self.reg, self.n);
                for (out, a) in out[self.keys].iter_mut().zip(a) {
                    *out = f(*a);
                }
                R::reg(out)
            }
            Arg::One(a) => self.each(|_| f(a)),
        }
    }

    fn zip<A: Lane, R: Lane>(self, a: &Reg, b: &Reg, f: impl Fn(A, A) -> R) -> Reg {
        let (x, y) = (A::lane(a, self.keys.clone()), A::lane(b, self.keys.clone()));
        match (x, y) {
            (Arg::Each(x), Arg::Each(y)) => {
                let mut out = R::vector(self.reg, self.n);
                for ((out, x), y) in out[self.keys].iter_mut().zip(x).zip(y) {
                    *out = f(*x, *y);
                }
                R::reg(out)
            }
            (Arg::One(x), _) => self.map(b, |y| f(x, y)),
            (_, Arg::One(y)) => self.map(a, |x| f(x, y)),
        }
    }
}

/// `op x`
pub fn unary(reg: Reg, n: usize, keys: Range<usize>, op: UnaryOp, x: &Reg) -> Reg {
    let out = Out { reg, n, keys };
    match (op, reg_ty(x)) {
        (UnaryOp::Not, _) => out.map(x, |x: bool| !x),
        (UnaryOp::ToFloat, _) => out.map(x, |x: i64| x as f64),
        (UnaryOp::ToInt, _) => out.map(x, |x: f64| eval::unary(op, Value::Float(x)).int()),
        (_, Ty::Int) => out.map(x, |x: i64| eval::unary(op, Value::Int(x)).int()),
        _ => out.map(x, |x: f64| eval::unary(op, Value::Float(x)).float()),
    }
}

/// `a op b`
pub fn binary(reg: Reg, n: usize, keys: Range<usize>, op: BinaryOp, a: &Reg, b: &Reg) -> Reg {
    let out = Out { reg, n, keys };
    match reg_ty(a) {
        Ty::Bool => out.zip(a, b, |x: bool, y: bool| eval::binary(op, Value::Bool(x), Value::Bool(y)).bool()),
        Ty::Int => int_binary(out, op, a, b),
        Ty::Float => float_binary(out, op, a, b),
    }
}

fn int_binary(out: Out, op: BinaryOp, a: &Reg, b: &Reg) -> Reg {
    use BinaryOp::*;
    match op {
        Add => out.zip(a, b, i64::wrapping_add),
        Sub => out.zip(a, b, i64::wrapping_sub),
        Mul => out.zip(a, b, i64::wrapping_mul),
        IDiv => out.zip(a, b, floor_div),
        Lt => out.zip(a, b, |x: i64, y: i64| x < y),
        Le => out.zip(a, b, |x: i64, y: i64| x <= y),
        Eq => out.zip(a, b, |x: i64, y: i64| x == y),
        Ne => out.zip(a, b, |x: i64, y: i64| x != y),
        _ => out.zip(a, b, |x: i64, y: i64| eval::binary(op, Value::Int(x), Value::Int(y)).int()),
    }
}

fn float_binary(out: Out, op: BinaryOp, a: &Reg, b: &Reg) -> Reg {
    use BinaryOp::*;
    match op {
        Add => out.zip(a, b, |x: f64, y: f64| x + y),
        Sub => out.zip(a, b, |x: f64, y: f64| x - y),
        Mul => out.zip(a, b, |x: f64, y: f64| x * y),
        Div => out.zip(a, b, |x: f64, y: f64| x / y),
        Lt => out.zip(a, b, |x: f64, y: f64| x < y),
        Le => out.zip(a, b, |x: f64, y: f64| x <= y),
        Eq => out.zip(a, b, |x: f64, y: f64| x == y),
        Ne => out.zip(a, b, |x: f64, y: f64| x != y),
        _ => out.zip(a, b, |x: f64, y: f64| eval::binary(op, Value::Float(x), Value::Float(y)).float()),
    }
}

/// `c ? a : b`
pub fn select(reg: Reg, n: usize, keys: Range<usize>, c: &Reg, a: &Reg, b: &Reg) -> Reg {
    fn pick<T: Lane>(out: Out, c: &Reg, a: &Reg, b: &Reg) -> Reg {
        let c = bool::lane(c, out.keys.clone());
        let (a, b) = (T::lane(a, out.keys.clone()), T::lane(b, out.keys.clone()));
        out.each(|k| if c.get(k) { a.get(k) } else { b.get(k) })
    }
    let ty = reg_ty(a);
    let out = Out { reg, n, keys };
    match ty {
        Ty::Bool => pick::<bool>(out, c, a, b),
        Ty::Int => pick::<i64>(out, c, a, b),
        Ty::Float => pick::<f64>(out, c, a, b),
    }
}

/// Random blocks: operands row, col, ncols, head, n, seed. Columns are drawn again only when one of the others
/// changes from one key to the next.
pub fn rand_block(reg: Reg, n: usize, keys: Range<usize>, args: [Arg<i64>; 6]) -> Reg {
    let mut drawn_for = None;
    let mut columns = Vec::new();
    let mut out = bool::vector(reg, n);
    for (k, out) in out[keys].iter_mut().enumerate() {
        let [row, col, ncols, head, n, seed] = std::array::from_fn(|d| args[d].get(k));
        if drawn_for != Some([row, ncols, head, n, seed]) {
            drawn_for = Some([row, ncols, head, n, seed]);
            columns = rand_block_columns(row, ncols, head, n, seed);
        }
        *out = columns.contains(&col);
    }
    bool::reg(out)
}

/// The element nearest to the index; a zero of the element type if there is none at all.
pub fn nearest(view: &View, index: &[i64]) -> Value {
    if view.shape().contains(&0) {
        return match view.data() {
            Data::Float(_) => Value::Float(0.0),
            Data::Int(_) => Value::Int(0),
            Data::Bool(_) => Value::Bool(false),
        };
    }
    let at = index.iter().enumerate().map(|(d, &x)| clamp(x, view.shape()[d]) * view.strides()[d]).sum();
    view.data().value(at)
}

fn clamp(x: i64, n: usize) -> usize {
    x.clamp(0, n as i64 - 1) as usize
}

/// Positions of the nearest elements, for each of the keys. Nothing for a tensor without elements.
pub fn positions(regs: &[Reg], view: &View, index: &[usize], keys: Range<usize>, at: &mut Vec<usize>) {
    at.clear();
    if view.shape().contains(&0) {
        return;
    }
    at.resize(keys.len(), 0);
    for (d, &n) in index.iter().enumerate() {
        let (size, stride) = (view.shape()[d], view.strides()[d]);
        match i64::lane(&regs[n], keys.clone()) {
            Arg::One(x) => at.iter_mut().for_each(|at| *at += clamp(x, size) * stride),
            Arg::Each(x) => at.iter_mut().zip(x).for_each(|(at, x)| *at += clamp(*x, size) * stride),
        }
    }
}

/// The elements at these positions, one for each key; zeros if there are no positions.
pub fn load(reg: Reg, n: usize, keys: Range<usize>, view: &View, at: &[usize]) -> Reg {
    fn gather<T: Lane>(reg: Reg, n: usize, keys: Range<usize>, data: &[T], at: &[usize]) -> Reg {
        let mut out = T::vector(reg, n);
        if at.is_empty() {
            out[keys].fill(T::default());
        } else {
            out[keys].iter_mut().zip(at).for_each(|(out, &at)| *out = data[at]);
        }
        T::reg(out)
    }
    match view.data() {
        Data::Float(x) => gather(reg, n, keys, x, at),
        Data::Int(x) => gather(reg, n, keys, x, at),
        Data::Bool(x) => gather(reg, n, keys, x, at),
    }
}
