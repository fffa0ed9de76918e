//! Machine code, with the runtime's own intrinsics, against the interpreter of the tile IR.
//!
//! Comes in: a program as text, its scalars, and its inputs in host memory. Goes out: the outputs, after it was
//! checked that every instruction set of this machine gives the same bits, and the interpreter the same values
//! up to rounding (ints and bools exactly). Workspace is made here, filled with NaN. Not here: tables.

use std::collections::HashMap;

use attn_compiler::artifact::DType;
use attn_compiler::expr::eval::{Env, Value, eval};
use attn_compiler::expr::{ExprId, TensorId, Ty, VarId};
use attn_compiler::host::{Data, Inputs, View};
use attn_compiler::tile_ir::{Program, TensorKind, interp, text, verify::verify};
use attn_runtime::cpu::intrinsics::{Isa, table};

use crate::exec::{Arg, HostTensor, Loaded};
use crate::reference;

/// One program with its arguments.
pub struct Case<'a> {
    pub text: &'a str,
    pub scalars: &'a [(&'a str, Arg)],
    pub inputs: Vec<(&'a str, HostTensor)>,
    /// Largest difference between machine and interpreter, relative where the value is above 1.
    pub tolerance: f64,
}

/// The values of dims and params.
struct Sizes(HashMap<VarId, Value>);

impl Env for Sizes {
    fn var(&self, var: VarId) -> Value {
        self.0[&var]
    }

    fn load(&self, _: TensorId, _: &[i64]) -> Value {
        Value::Int(0)
    }
}

fn value(arg: Arg) -> Value {
    match arg {
        Arg::Int(x) => Value::Int(x),
        Arg::Float(x) => Value::Float(f64::from(x)),
        Arg::Bool(x) => Value::Bool(x),
    }
}

/// Every element in memory order, gaps included.
fn decoded(tensor: &HostTensor) -> Vec<Value> {
    tensor.bytes.chunks_exact(tensor.dtype.size()).map(|b| reference::decode(tensor.dtype, b)).collect()
}

fn view(tensor: &HostTensor) -> View {
    let values = decoded(tensor);
    let data = match tensor.dtype.value_ty() {
        Ty::Float => Data::Float(values.iter().map(|v| v.float()).collect()),
        Ty::Int => Data::Int(values.iter().map(|v| v.int()).collect()),
        Ty::Bool => Data::Bool(values.iter().map(|v| v.bool()).collect()),
    };
    let sizes = |x: &[i64]| x.iter().map(|&n| n as usize).collect();
    View::strided(sizes(&tensor.shape), sizes(&tensor.strides), data).expect("a tensor in its memory")
}

impl Case<'_> {
    /// The outputs of the best instruction set, checked.
    pub fn outputs(&self) -> HashMap<String, Vec<Value>> {
        let program = text::parse(self.text).unwrap_or_else(|e| panic!("{e}\n{}", &self.text[e.at..]));
        verify(&program).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(text::print(&text::parse(&text::print(&program)).unwrap()), text::print(&program));
        let wanted = self.interpreted(&program);
        let loaded = Loaded::new(&program, false);
        let mut first: Option<HashMap<String, HostTensor>> = None;
        for isa in Isa::available() {
            let found = self.executed(&program, &loaded, table(isa).as_ptr() as u64);
            for (name, tensor) in &found {
                self.compare(name, &decoded(tensor), &wanted[name], isa);
                if let Some(first) = &first {
                    assert!(same_bits(&first[name], tensor), "{name}: other bits on {isa}");
                }
            }
            first.get_or_insert(found);
        }
        first.into_iter().flatten().map(|(name, tensor)| (name, decoded(&tensor))).collect()
    }

    /// The float output of this name.
    pub fn floats(&self, name: &str) -> Vec<f64> {
        self.outputs()[name].iter().map(|v| v.float()).collect()
    }

    fn interpreted(&self, program: &Program) -> HashMap<String, View> {
        let mut inputs = Inputs::default();
        for (name, arg) in self.scalars {
            match (program.dims.iter().any(|d| d.name == *name), value(*arg)) {
                (true, Value::Int(n)) => drop(inputs.dims.insert((*name).into(), n)),
                (_, value) => drop(inputs.params.insert((*name).into(), value)),
            }
        }
        inputs.tensors = self.inputs.iter().map(|(name, t)| ((*name).to_string(), view(t))).collect();
        interp::run(program, &inputs, Some(5)).unwrap_or_else(|e| panic!("{e}"))
    }

    fn executed(&self, program: &Program, loaded: &Loaded, table: u64) -> HashMap<String, HostTensor> {
        let args = program.dims.iter().chain(&program.params);
        let bound = |name: &str| self.scalars.iter().find(|s| s.0 == name).expect("a bound scalar").1;
        let scalars: Vec<Arg> = args.clone().map(|a| bound(&a.name)).collect();
        let sizes = Sizes(args.map(|a| (a.var, value(bound(&a.name)))).collect());
        let size = |e: &ExprId| eval(&program.pool, *e, &sizes).int();
        let mut host: Vec<HostTensor> = Vec::new();
        for decl in &program.tensors {
            let shape: Vec<i64> = decl.shape.iter().map(size).collect();
            host.push(match decl.kind {
                TensorKind::Input => {
                    self.inputs.iter().find(|t| t.0 == decl.name).expect("a bound input").1.clone()
                }
                _ if decl.dtype == DType::F32 => {
                    HostTensor::new(decl.dtype, &shape, std::iter::repeat(f64::NAN))
                }
                _ => HostTensor::new(decl.dtype, &shape, std::iter::repeat(77.0)),
            });
        }
        let words = loaded.args_at(table, &mut host, &scalars);
        for (n, launch) in program.launches.iter().enumerate() {
            loaded.run(n, &words, launch.grid.iter().map(|(_, e)| size(e)).product());
        }
        let outputs = program.tensors.iter().zip(host).filter(|(d, _)| d.kind == TensorKind::Output);
        outputs.map(|(d, t)| (d.name.clone(), t)).collect()
    }

    fn compare(&self, name: &str, found: &[Value], wanted: &View, isa: Isa) {
        assert_eq!(found.len(), wanted.data().len());
        for (n, &found) in found.iter().enumerate() {
            let wanted = wanted.data().value(n);
            let close = match (found, wanted) {
                (Value::Float(a), Value::Float(b)) => {
                    a == b || (a - b).abs() <= self.tolerance * b.abs().max(1.0) || (a.is_nan() && b.is_nan())
                }
                (a, b) => a == b,
            };
            assert!(close, "{name}[{n}] on {isa}: {found:?}, the interpreter says {wanted:?}");
        }
    }
}

/// The same bits, every NaN being the same.
fn same_bits(a: &HostTensor, b: &HostTensor) -> bool {
    let nan = |v: &Value| matches!(v, Value::Float(x) if x.is_nan());
    let both = || decoded(a).into_iter().zip(decoded(b));
    a.bytes == b.bytes
        || both().all(|(a, b)| match (a, b) {
            (Value::Float(x), Value::Float(y)) => x.to_bits() == y.to_bits() || (nan(&a) && nan(&b)),
            (a, b) => a == b,
        })
}
