//! Tensors while a program runs: bound ones, tables, and what the program writes.
//!
//! What holds: an element of workspace or of an output knows which task of which launch wrote it; reading one
//! that nothing wrote, or that a task running at the same time wrote, is refused, as is writing one a second
//! time from another task of the launch.

use crate::artifact::DType;
use crate::expr::eval::Value;
use crate::expr::{TensorId, Ty};
use crate::host::{View, round_to, unflatten};

/// The tensor table.
pub struct Memory<'a> {
    pub stores: Vec<Store<'a>>,
    /// Launches begun.
    pub launch: u64,
    /// Linear index of the running task.
    pub task: u64,
}

/// A tensor.
pub enum Store<'a> {
    Bound(&'a View),
    Table(View),
    Scratch(Scratch),
}

/// The launch that has written what the host bound.
const BEFORE: u64 = u64::MAX;

/// Row-major elements that the program writes.
pub struct Scratch {
    pub data: Vec<Value>,
    pub shape: Vec<usize>,
    pub dtype: DType,
    /// (launch, task) of the last write; launch 0 has not begun.
    writer: Vec<(u64, u64)>,
}

impl Scratch {
    /// Nothing written.
    pub fn new(shape: Vec<usize>, dtype: DType) -> Self {
        let len = shape.iter().product();
        let nothing = match dtype.value_ty() {
            Ty::Float => Value::Float(f64::NAN),
            Ty::Int => Value::Int(0),
            Ty::Bool => Value::Bool(false),
        };
        Scratch { data: vec![nothing; len], shape, dtype, writer: vec![(0, 0); len] }
    }

    /// The elements of a view, written before any launch.
    pub fn holding(view: &View, dtype: DType) -> Self {
        let shape = view.shape().to_vec();
        let nothing = Value::Int(0);
        let element = |n| {
            let index: Vec<i64> = unflatten(n, &shape).into_iter().map(|x| x as i64).collect();
            view.get(&index).unwrap_or(nothing)
        };
        let data: Vec<Value> = (0..shape.iter().product()).map(element).collect();
        let writer = vec![(BEFORE, 0); data.len()];
        Scratch { data, shape, dtype, writer }
    }

    /// The first element that nothing wrote.
    pub fn first_unwritten(&self) -> Option<usize> {
        self.writer.iter().position(|w| w.0 == 0)
    }

    fn position(&self, index: &[i64]) -> Option<usize> {
        let mut at = 0;
        for (&x, &n) in index.iter().zip(&self.shape) {
            at = at * n + usize::try_from(x).ok().filter(|x| *x < n)?;
        }
        Some(at)
    }
}

type Done<T = ()> = Result<T, String>;

impl Memory<'_> {
    fn scratch(&mut self, t: TensorId) -> Done<&mut Scratch> {
        match &mut self.stores[t.0 as usize] {
            Store::Scratch(s) => Ok(s),
            Store::Bound(_) | Store::Table(_) => Err("writes an input or a table".into()),
        }
    }

    /// Writes an element at a flat position: a float rounded if the storage type is narrower than f32, an int cut
    /// to what the storage type holds.
    pub fn write_flat(&mut self, t: TensorId, at: i64, x: Value) -> Done {
        let now = (self.launch, self.task);
        let s = self.scratch(t)?;
        let at = usize::try_from(at).ok().filter(|n| *n < s.data.len());
        let Some(at) = at else { return Err(format!("writes outside of {} elements", s.data.len())) };
        if s.writer[at].0 == now.0 && s.writer[at].1 != now.1 {
            return Err(format!("tasks {} and {} write one element, {at}", s.writer[at].1, now.1));
        }
        s.writer[at] = now;
        s.data[at] = stored(s.dtype, x)?;
        Ok(())
    }

    /// Writes the element at an index.
    pub fn write(&mut self, t: TensorId, index: &[i64], x: Value) -> Done {
        let s = self.scratch(t)?;
        match s.position(index) {
            Some(at) => self.write_flat(t, at as i64, x),
            None => Err(format!("writes at {index:?} of {:?}", s.shape)),
        }
    }

    /// Writes a number to an element of any storage type.
    pub fn write_number(&mut self, t: TensorId, index: &[i64], x: f64) -> Done {
        let value = match self.scratch(t)?.dtype.value_ty() {
            Ty::Float => Value::Float(x),
            Ty::Int => Value::Int(x.round_ties_even() as i64),
            Ty::Bool => Value::Bool(x != 0.0),
        };
        self.write(t, index, value)
    }

    /// Reads an element of workspace at a flat position.
    pub fn read_flat(&self, t: TensorId, at: i64) -> Done<Value> {
        let Store::Scratch(s) = &self.stores[t.0 as usize] else { return Err("no workspace".into()) };
        let at = usize::try_from(at).ok().filter(|n| *n < s.data.len());
        let Some(at) = at else { return Err(format!("reads outside of {} elements", s.data.len())) };
        match s.writer[at] {
            (0, _) => Err(format!("reads element {at}, which nothing has written")),
            (launch, task) if launch == self.launch && task != self.task => {
                Err(format!("reads element {at}, which task {task} of this launch writes"))
            }
            _ => Ok(s.data[at]),
        }
    }

    /// The element at an index of any tensor; `None` if the index is out of range of a bound tensor or a table.
    pub fn load(&self, t: TensorId, index: &[i64]) -> Done<Option<Value>> {
        match &self.stores[t.0 as usize] {
            Store::Bound(view) => Ok(view.get(index)),
            Store::Table(view) => Ok(view.get(index)),
            Store::Scratch(s) => {
                let Some(at) = s.position(index) else {
                    return Err(format!("reads at {index:?} of {:?}", s.shape));
                };
                self.read_flat(t, at as i64).map(Some)
            }
        }
    }
}

/// A value as the storage type holds it.
fn stored(dtype: DType, x: Value) -> Done<Value> {
    let cut = |x: i64, lo: i64, hi: i64| Value::Int(x.clamp(lo, hi));
    Ok(match (dtype, x) {
        (DType::F32 | DType::F64, Value::Float(_)) => x,
        (DType::F16 | DType::Bf16 | DType::F8E4M3, Value::Float(x)) => Value::Float(round_to(dtype, x)),
        (DType::I8, Value::Float(x)) => Value::Int(if x.is_nan() { 0 } else { round_to(dtype, x) as i64 }),
        (DType::I8, Value::Int(x)) => cut(x, i64::from(i8::MIN), i64::from(i8::MAX)),
        (DType::I32, Value::Int(x)) => cut(x, i64::from(i32::MIN), i64::from(i32::MAX)),
        (DType::I64, Value::Int(_)) | (DType::Bit, Value::Bool(_)) => x,
        _ => return Err(format!("writes a {:?} to {dtype}", x.ty())),
    })
}
