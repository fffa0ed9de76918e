//! Operands of tensor cores: the rows that attentions multiply, kept as one or two 16-bit parts.
//!
//! Tensor cores multiply 16-bit floats and sum in f32. Rows that are exactly of such a type (a cache read through a page
//! table, stored integers of 8 bits) are kept in it; others (rotated rows, feature maps, pooled keys) as two bf16 parts,
//! `x = hi + rest`, of which `hi` holds the first 8 bits of the significand and `rest` the next 8: their products
//! `hi hi + rest hi + hi rest` are off by about 2^-17, far below what 16-bit inputs and results round.
//!
//! Comes in: a kernel for a target that multiplies so, with 16-bit outputs or `dot = tf32`. Goes out: the kernel that is
//! lowered: what makes such rows makes their parts, and rows that something else reads as well are copied. What holds: it
//! means the same up to that error for finite rows; an infinity may give NaN (0 times it is among the products). Not here:
//! other kernels of f32 and `dot = exact` (they stay exact), rows of recurrences. What CPUs keep in 16 bits says [`narrowed`].

use std::collections::{BTreeMap, BTreeSet};

use super::scale;
use super::stored::Stored;
use crate::artifact::DType;
use crate::attn_ir::needed::reads;
use crate::attn_ir::{
    Attention, Derive, Dot, Kernel, Origin, Output, OutputKind, Products, Rows, Step, Tensor,
};
use crate::expr::eval::Value;
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, UnaryOp, VarId};
use crate::target::CpuFacts;

/// A kernel whose attentions multiply 16-bit rows.
pub struct Prepared {
    /// It.
    pub kernel: Kernel,
    /// For each attention what its weights are multiplied by ([`Stored::read`] has been done).
    pub factors: Vec<Option<ExprId>>,
}

/// What the elements of a tensor are exactly.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Floats of this 16-bit type.
    Half(DType),
    /// Numbers that every 16-bit type holds.
    Few,
    /// Anything.
    Any,
}

/// How the rows of a tensor are kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    F16,
    Bf16,
    /// bf16 and a rest in bf16.
    Parts,
}

impl Kept {
    fn whole(dtype: DType) -> Kept {
        if dtype == DType::F16 { Kept::F16 } else { Kept::Bf16 }
    }

    fn dtype(self) -> DType {
        if self == Kept::F16 { DType::F16 } else { DType::Bf16 }
    }
}

impl Holds {
    fn and(self, other: Holds) -> Holds {
        match (self, other) {
            (Holds::Few, x) | (x, Holds::Few) => x,
            (a, b) if a == b => a,
            _ => Holds::Any,
        }
    }

    fn of(pool: &Pool, holds: &[Holds], id: ExprId) -> Holds {
        match *pool.op(id) {
            Op::Load(t, ..) => holds[t.0 as usize],
            Op::Unary(UnaryOp::ToFloat | UnaryOp::Neg, x) => Holds::of(pool, holds, x),
            Op::Select(_, a, b) => Holds::of(pool, holds, a).and(Holds::of(pool, holds, b)),
            _ => match pool.as_const(id) {
                Some(Value::Float(x)) if x == 0.0 || x.abs() == 1.0 => Holds::Few,
                _ => Holds::Any,
            },
        }
    }
}

/// What every tensor of a kernel holds.
fn contents(kernel: &Kernel) -> Vec<Holds> {
    let of = |t: &Tensor| match t.dtype {
        DType::F16 | DType::Bf16 => Holds::Half(t.dtype),
        DType::I8 => Holds::Few,
        _ => Holds::Any,
    };
    let mut holds: Vec<Holds> = kernel.tensors.iter().map(of).collect();
    for step in &kernel.steps {
        if let Step::Derive(d) = step
            && kernel.tensor(d.out).dtype == DType::F32
            && d.sum.is_empty()
        {
            holds[d.out.0 as usize] = Holds::of(&kernel.pool, &holds, d.value);
        }
    }
    holds
}

/// How the rows of an attention are to be kept: both of each dot, then the values.
fn wanted(a: &Attention, holds: &[Holds], float: DType) -> Vec<Kept> {
    let of = |rows: Rows| holds[rows.tensor.0 as usize];
    let in_bf16 = |h: Holds| match h {
        Holds::Half(DType::Bf16) | Holds::Few => Kept::Bf16,
        _ => Kept::Parts,
    };
    let mut out = Vec::new();
    for dot in &a.dots {
        let (x, y) = (of(dot.x), of(dot.y));
        out.extend(match x.and(y) {
            Holds::Half(dtype) => [Kept::whole(dtype); 2],
            Holds::Few => [Kept::whole(float); 2],
            Holds::Any => [in_bf16(x), in_bf16(y)],
        });
    }
    out.push(match of(a.value) {
        Holds::Half(dtype) => Kept::whole(dtype),
        Holds::Few => Kept::whole(float),
        Holds::Any => Kept::Parts,
    });
    out
}

/// The rows of an attention, as [`wanted`] orders them.
fn operands(a: &Attention) -> Vec<TensorId> {
    let dots = a.dots.iter().flat_map(|d| [d.x.tensor, d.y.tensor]);
    dots.chain([a.value.tensor]).collect()
}

/// The 16-bit type of a kernel's results; bf16 where its products may round f32; none where they are exact.
fn float_of(kernel: &Kernel) -> Option<DType> {
    if kernel.attentions().any(|a| a.numerics.products == Products::Exact) {
        return None;
    }
    let half = |t: &Tensor| matches!(t.dtype, DType::F16 | DType::Bf16);
    let stored = kernel.outputs().map(|(_, t)| t).find(|t| half(t)).map(|t| t.dtype);
    stored.or((kernel.products() == Products::Tf32).then_some(DType::Bf16))
}

/// The kernel with the rows of its attentions in 16-bit parts; none where they stay as they are.
pub fn prepare(kernel: &Kernel, stored: &Stored) -> Option<Prepared> {
    let float = float_of(kernel)?;
    let mut kernel = kernel.clone();
    let factors = read_stored(&mut kernel, stored);
    let holds = contents(&kernel);
    let keeping = Keeping::of(&kernel, &holds, float, stored);
    if keeping.as_they_are(&kernel) {
        return None;
    }
    let steps = std::mem::take(&mut kernel.steps);
    let mut p = Preparing { kernel, copies: BTreeMap::new(), keeping: &keeping };
    for step in steps {
        match step {
            Step::Derive(d) => p.derive(d),
            Step::Attend(a) => p.attend(a, &holds, float),
            other => p.kernel.steps.push(other),
        }
    }
    let mut kernel = p.kernel;
    for step in &mut kernel.steps {
        if let Step::Attend(a) = step {
            a.tensors.clone_from(&kernel.tensors);
            a.pool.clone_from(&kernel.pool);
        }
    }
    Some(Prepared { kernel, factors })
}

/// The kernel for a CPU, where made rows are kept in 16 bits: those that are copied as they are (read through a page table,
/// joined) in their type, and where the machine multiplies pairs of bf16 those that are made of rows of bf16 (turned by
/// `rope`), which are rounded to it once, as frameworks do. None where there are no such rows.
pub fn narrowed(kernel: &Kernel, stored: &Stored, facts: &CpuFacts) -> Option<Kernel> {
    let holds = contents(kernel);
    let mut elsewhere = BTreeSet::new();
    for step in &kernel.steps {
        let all = reads(kernel, step);
        let rows = if let Step::Attend(a) = step { operands(a).len() } else { 0 };
        elsewhere.extend(all.into_iter().skip(rows));
    }
    let mut kept = BTreeMap::new();
    for step in &kernel.steps {
        let Step::Derive(d) = step else { continue };
        let tensor = kernel.tensor(d.out);
        let made = tensor.origin == Origin::Made && tensor.dtype == DType::F32;
        if !made || d.at_bind || !d.sum.is_empty() || stored.replaces(d.out) || elsewhere.contains(&d.out) {
            continue;
        }
        match holds[d.out.0 as usize] {
            Holds::Half(dtype) => kept.insert(d.out, dtype),
            _ if facts.pairs && made_of_bf16(kernel, d) => kept.insert(d.out, DType::Bf16),
            _ => None,
        };
    }
    let may_round = |t: TensorId| matches!(holds[t.0 as usize], Holds::Any);
    while let Some(exact) = kernel.attentions().find_map(|a| stays_f32(a, &kept, &may_round)) {
        kept.remove(&exact);
    }
    if kept.is_empty() {
        return None;
    }
    let mut out = kernel.clone();
    for (t, dtype) in kept {
        out.tensors[t.0 as usize].dtype = dtype;
    }
    for step in &mut out.steps {
        if let Step::Attend(a) = step {
            a.tensors.clone_from(&out.tensors);
        }
    }
    Some(out)
}

/// Are rows made of rows of bf16, and about as large: turned, weighed by a table, moved? Tables beside them may be f32; what
/// is stored with fewer bits has a scale, and stays.
fn made_of_bf16(kernel: &Kernel, d: &Derive) -> bool {
    let pool = &kernel.pool;
    let (mut some, mut other) = (false, false);
    for id in pool.reachable(&[d.value]) {
        if pool.ty(id) != Ty::Float {
            continue;
        }
        match *pool.op(id) {
            Op::Load(t, ref at, _) if at.len() == d.index.len() => {
                let dtype = kernel.tensor(t).dtype;
                some |= dtype == DType::Bf16;
                other |= dtype.size() == 1;
            }
            Op::Load(..) | Op::Select(..) | Op::Unary(UnaryOp::Neg | UnaryOp::ToFloat, _) => {}
            Op::Binary(BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul, ..) => {}
            _ => other |= !matches!(pool.as_const(id), Some(Value::Float(c)) if c.abs() <= 1.0),
        }
    }
    some && !other
}

/// A tensor whose rounding would gain an attention nothing, or lose more than its results do. A dot takes pairs only if all
/// of them do; a dot that nothing scales down brings its errors to the weights at full size; and results that are not
/// stored as bf16, `lse` and `max_logit` among them, are f32 whatever the inputs are.
fn stays_f32(
    a: &Attention,
    kept: &BTreeMap<TensorId, DType>,
    may_round: &dyn Fn(TensorId) -> bool,
) -> Option<TensorId> {
    let coarse = |o: &Output| o.kind == OutputKind::O && o.dtype == DType::Bf16;
    let rounds = a.numerics.products != Products::Exact && a.outputs.iter().all(coarse);
    let in_bf16 = |rows: Rows| {
        let dtype = kept.get(&rows.tensor).copied().unwrap_or(a.tensor(rows.tensor).dtype);
        dtype == DType::Bf16 && a.feature_dim(rows) % 2 == 0
    };
    let pairs = a.dots.iter().all(|d| in_bf16(d.x) && in_bf16(d.y));
    let scaled = |d: &Dot| scale::is_scaled(&a.pool, a.score, d.var, a.feature_dim(d.x));
    let of_dots = a.dots.iter().filter(|d| !rounds || !pairs || !scaled(d)).flat_map(|d| [d.x, d.y]);
    let of_values = [a.value].into_iter().filter(|_| !rounds);
    let mut rows = of_dots.chain(of_values).map(|rows| rows.tensor);
    rows.find(|t| kept.contains_key(t) && may_round(*t))
}

/// Stored integers are read in the place of what is made of them.
fn read_stored(kernel: &mut Kernel, stored: &Stored) -> Vec<Option<ExprId>> {
    let mut factors = Vec::new();
    for step in &mut kernel.steps {
        if let Step::Attend(a) = step {
            a.pool.clone_from(&kernel.pool);
            factors.push(stored.read(a));
            kernel.pool.clone_from(&a.pool);
        }
    }
    factors
}

/// How tensors are kept that are made in their form at once.
struct Keeping(BTreeMap<TensorId, Kept>);

impl Keeping {
    /// Tensors that a step derives, that attentions alone read as rows, and all in one form.
    fn of(kernel: &Kernel, holds: &[Holds], float: DType, stored: &Stored) -> Keeping {
        let mut forms: BTreeMap<TensorId, BTreeSet<Kept>> = BTreeMap::new();
        let mut elsewhere = BTreeSet::new();
        for step in &kernel.steps {
            let all = reads(kernel, step);
            let Step::Attend(a) = step else {
                elsewhere.extend(all);
                continue;
            };
            let rows = operands(a);
            elsewhere.extend(&all[rows.len()..]);
            for (t, kept) in rows.into_iter().zip(wanted(a, holds, float)) {
                forms.entry(t).or_default().insert(kept);
            }
        }
        let derived = |t: TensorId, kept: Kept| {
            kernel.steps.iter().any(|s| match s {
                Step::Derive(d) => {
                    d.out == t
                        && !d.at_bind
                        && !stored.replaces(t)
                        && (kept != Kept::Parts || d.sum.is_empty())
                }
                _ => false,
            })
        };
        let made = |t: TensorId| {
            let decl = kernel.tensor(t);
            decl.origin == Origin::Made && decl.dtype == DType::F32 && !elsewhere.contains(&t)
        };
        let one = forms.into_iter().filter(|(_, f)| f.len() == 1).filter_map(|(t, f)| Some((t, *f.first()?)));
        Keeping(one.filter(|(t, kept)| made(*t) && derived(*t, *kept)).collect())
    }

    /// Do all attentions read rows of 16 bits already?
    fn as_they_are(&self, kernel: &Kernel) -> bool {
        let half = |t: TensorId| matches!(kernel.tensor(t).dtype, DType::F16 | DType::Bf16);
        kernel.attentions().all(|a| operands(a).into_iter().all(half))
    }
}

struct Preparing<'a> {
    kernel: Kernel,
    /// Copies of tensors in a form.
    copies: BTreeMap<(TensorId, Kept), TensorId>,
    keeping: &'a Keeping,
}

impl Preparing<'_> {
    fn derive(&mut self, d: Derive) {
        match self.keeping.0.get(&d.out) {
            Some(&kept) => self.in_form(d, kept),
            None => self.kernel.steps.push(Step::Derive(d)),
        }
    }

    /// Makes a tensor in a form: rounded, and what that leaves.
    fn in_form(&mut self, d: Derive, kept: Kept) {
        let out = d.out;
        self.kernel.tensors[out.0 as usize].dtype = kept.dtype();
        self.kernel.steps.push(Step::Derive(d.clone()));
        if kept != Kept::Parts {
            return;
        }
        let rest = self.declare(out, "rest", DType::Bf16);
        self.kernel.tensors[out.0 as usize].rest = Some(rest);
        let pool = &mut self.kernel.pool;
        let at = d.index.iter().map(|v| pool.var(*v)).collect();
        let rounded = pool.load(out, at, Ty::Float);
        let left = pool.sub(d.value, rounded);
        // Neither an infinity nor a NaN leaves a rest, nor what rounds to an infinity.
        let (size, infinity, zero) =
            (pool.unary(UnaryOp::Abs, left), pool.float(f64::INFINITY), pool.float(0.0));
        let finite = pool.lt(size, infinity);
        let value = pool.select(finite, left, zero);
        self.kernel.steps.push(Step::Derive(Derive { out: rest, value, checks: vec![], ..d }));
    }

    /// A made tensor of the shape of another.
    fn declare(&mut self, like: TensorId, what: &str, dtype: DType) -> TensorId {
        let like = self.kernel.tensor(like);
        let base = format!("{}_{what}", like.name);
        let taken = |name: &String| self.kernel.tensors.iter().any(|t| t.name == *name);
        let numbered = (2..).map(|n| format!("{base}{n}"));
        let name = std::iter::once(base.clone()).chain(numbered).find(|n| !taken(n)).unwrap_or(base);
        let layout = (0..like.shape.len()).collect();
        let tensor = Tensor {
            name,
            dtype,
            layout,
            origin: Origin::Made,
            rest: None,
            shape: like.shape.clone(),
            ..*like
        };
        self.kernel.tensors.push(tensor);
        TensorId(self.kernel.tensors.len() as u32 - 1)
    }

    fn attend(&mut self, mut a: Box<Attention>, holds: &[Holds], float: DType) {
        let kept = wanted(&a, holds, float);
        let rows = a.dots.iter_mut().flat_map(|d| [&mut d.x, &mut d.y]).chain([&mut a.value]);
        for (rows, kept) in rows.zip(kept) {
            rows.tensor = self.kept(rows.tensor, kept);
        }
        self.kernel.steps.push(Step::Attend(a));
    }

    /// The tensor that holds the rows of another in a form.
    fn kept(&mut self, t: TensorId, kept: Kept) -> TensorId {
        let own = self.kernel.tensor(t).dtype == kept.dtype() && kept != Kept::Parts;
        if own || self.keeping.0.contains_key(&t) {
            return t;
        }
        if let Some(copy) = self.copies.get(&(t, kept)) {
            return *copy;
        }
        let copy = self.declare(t, "rows", kept.dtype());
        let pool = &mut self.kernel.pool;
        let index: Vec<VarId> =
            self.kernel.tensors[t.0 as usize].shape.iter().map(|_| pool.add_var("at", Ty::Int)).collect();
        let at = index.iter().map(|v| pool.var(*v)).collect();
        let ty = self.kernel.tensors[t.0 as usize].dtype.value_ty();
        let value = pool.load(t, at, ty);
        let value = if ty == Ty::Int { pool.unary(UnaryOp::ToFloat, value) } else { value };
        self.in_form(Derive { out: copy, index, sum: vec![], value, at_bind: false, checks: vec![] }, kept);
        self.copies.insert((t, kept), copy);
        copy
    }
}
