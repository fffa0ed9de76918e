//! A whole kernel: steps in order over the tensors that they share.
//!
//! Comes in from `sema`. Goes out to `lower`, which turns each step into launches, and to [`super::evaluate`],
//! which says what it means. What holds: a step reads inputs and what earlier steps made; every made tensor and
//! every output is written by exactly one step, an updated one by any; expressions of all steps are over one set of
//! dims, params and tensors. Attentions carry a copy of these declarations with a pool of their own, which extends the kernel's.
//! Not here: how a step is tiled, what is fused with what.

use super::recur::Recurrence;
use super::{
    Attention, Count, Demand, Dim, Origin, OutputKind, Param, Products, Rank, Rows, Tensor, Top, Weight,
    Write,
};
use crate::expr::{ExprId, Pool, TensorId, VarId};

/// Steps over shared tensors.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Kernel name.
    pub name: String,
    /// Sizes, params and the expressions of derived tensors.
    pub pool: Pool,
    /// All dims in order of declaration.
    pub dims: Vec<Dim>,
    /// Run-time scalars in order of declaration.
    pub params: Vec<Param>,
    /// Inputs in order of declaration, outputs in order of `return`, then made tensors.
    pub tensors: Vec<Tensor>,
    /// In order.
    pub steps: Vec<Step>,
    /// Row tensors among the inputs with the roles of their dims: queries first, then keys and values.
    pub roles: Vec<(Rows, Side)>,
    /// What the contents of bound tensors must fulfil.
    pub demands: Vec<Demand>,
}

/// Who reads the rows of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Read at (b, h, row).
    Query,
    /// Read at (b, key head of h, j).
    Key,
}

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// A tensor computed element by element.
    Derive(Derive),
    /// Running sums.
    Accumulate(Accumulate),
    /// Scores, weights, and their sum with the values.
    Attend(Box<Attention>),
    /// A state carried along a sequence; its expressions live in the kernel's pool.
    Recur(Box<Recurrence>),
    /// The largest elements of rows.
    Top(Top),
    /// How often lists name a number.
    Count(Count),
    /// The blocks of largest score.
    Rank(Box<Rank>),
    /// Rows of a bound tensor are overwritten.
    Write(Box<Write>),
}

/// `out[index] = sum over the summed variables of value`; without summed variables just `value`.
///
/// Loads are of inputs and of what earlier steps made. An index out of range is an error at bind, or excluded by
/// the condition of a `select`. Expressions live in the kernel's pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Derive {
    /// Written.
    pub out: TensorId,
    /// One int variable for each dim of `out`.
    pub index: Vec<VarId>,
    /// Summed variables, each over 0..extent.
    pub sum: Vec<(VarId, ExprId)>,
    /// The element: float, int or bool as `out` holds.
    pub value: ExprId,
    /// Made when arguments are bound, in f64, and rounded once: reads dims and params only.
    pub at_bind: bool,
    /// Expressions over `index` whose loads and divisors the host's data decide: checked at bind.
    pub checks: Vec<ExprId>,
}

/// `hi + lo` is the sum of the elements of `source` up to and with each one, along the last dim: `hi` holds it in
/// f32 and `lo` what that leaves (0 where hi is not finite), so that differences keep f32 accuracy at any length.
/// A sum that met -inf stays -inf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accumulate {
    /// Written, f32, of the source's shape.
    pub hi: TensorId,
    /// Written, likewise.
    pub lo: TensorId,
    /// Floats.
    pub source: TensorId,
}

/// What bounds the elements of an output, by which errors are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Weighted by at most 1 in all: as large as the values.
    Average,
    /// A sum of weights of at most 1 each, with nothing that bounds how many, or something made of averages: the
    /// absolute part for f32 follows the largest element.
    Share,
    /// A sum of weights that nothing bounds (linear attention without a denominator): as a recurrence's.
    Sum,
    /// Likewise, with no absolute part at all: what a recurrence gives may be of any size.
    Recurred,
    /// Logarithms of sums, or scores.
    Logarithm,
}

impl Kernel {
    /// How errors of an output are measured.
    pub fn measure(&self, output: &str) -> Measure {
        for a in self.attentions() {
            let kind = a.outputs.iter().find(|o| o.name == output).map(|o| o.kind);
            match (kind, a.weight) {
                (Some(OutputKind::O), Weight::Softmax { .. }) => return Measure::Average,
                (Some(OutputKind::O), Weight::Sigmoid) => return Measure::Share,
                (Some(OutputKind::O), Weight::Relu | Weight::Plain) => return Measure::Sum,
                (Some(OutputKind::Lse | OutputKind::MaxLogit), _) => return Measure::Logarithm,
                (None, _) => {}
            }
        }
        let unbounded = |a: &Attention| matches!(a.weight, Weight::Relu | Weight::Plain);
        match self.recurrences().next() {
            Some(_) => Measure::Recurred,
            None if self.attentions().any(unbounded) => Measure::Sum,
            None => Measure::Share,
        }
    }

    /// How the products of its attentions may round: as the one that allows most.
    pub fn products(&self) -> Products {
        let tf32 = self.attentions().any(|a| a.numerics.products == Products::Tf32);
        if tf32 { Products::Tf32 } else { Products::ByType }
    }

    /// How many runs of elements of an output of this shape have an error of their own: one for each (b, h) of a
    /// recurrence, since nothing says how large another's state is; else 1.
    pub fn groups(&self, shape: &[usize]) -> usize {
        self.recurrences().next().map_or(1, |r| shape.iter().take(r.leading()).product())
    }

    /// The declaration of a tensor.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0 as usize]
    }

    /// The tensor of this name.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        self.tensors.iter().position(|t| t.name == name).map(|n| TensorId(n as u32))
    }

    /// What the host binds with contents, in order: what is only read, and what is updated in place.
    pub fn inputs(&self) -> impl Iterator<Item = (TensorId, &Tensor)> {
        let all = self.tensors.iter().enumerate().map(|(n, t)| (TensorId(n as u32), t));
        all.filter(|(_, t)| matches!(t.origin, Origin::Host | Origin::Updated))
    }

    /// What steps update in place, in order.
    pub fn updated(&self) -> impl Iterator<Item = (TensorId, &Tensor)> {
        self.of(Origin::Updated)
    }

    /// What the host gets, in order of `return`.
    pub fn outputs(&self) -> impl Iterator<Item = (TensorId, &Tensor)> {
        self.of(Origin::Output)
    }

    fn of(&self, origin: Origin) -> impl Iterator<Item = (TensorId, &Tensor)> {
        let all = self.tensors.iter().enumerate().map(|(n, t)| (TensorId(n as u32), t));
        all.filter(move |(_, t)| t.origin == origin)
    }

    /// The attentions among the steps, in order.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.steps.iter().filter_map(|s| match s {
            Step::Attend(a) => Some(&**a),
            _ => None,
        })
    }

    /// The recurrences among the steps, in order.
    pub fn recurrences(&self) -> impl Iterator<Item = &Recurrence> {
        self.steps.iter().filter_map(|s| if let Step::Recur(r) = s { Some(&**r) } else { None })
    }

    /// The dims whose sizes are only known at launch: (name, variable).
    pub fn runtime_dims(&self) -> Vec<(String, VarId)> {
        super::runtime_dims(&self.pool, &self.dims)
    }
}
