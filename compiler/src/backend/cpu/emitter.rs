//! The state of one function under construction, shared by the files that write parts of it.
//!
//! [`Emitter`] holds Cranelift's builder, where arguments and buffers lie, and a memo of values already
//! computed. What holds: a remembered value dominates the place where it is found again, because the code is
//! structured and what a scope (loop body, branch) remembered is forgotten at its end. Loads from tensors that
//! a launch writes are forgotten at every statement. A value may be computed where it is first needed: where loops go
//! over elements, Cranelift moves what is invariant out of them (`isa::Effort`).

use rustc_hash::FxHashMap;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{BlockArg, InstBuilder, MemFlagsData, SigRef, Type, Value, types};
use cranelift_frontend::FunctionBuilder;

use crate::artifact::{ArgLayout, DType, Intrinsic};
use crate::expr::range::{self, Range, RangeEnv};
use crate::expr::{ExprId, Op, Pool, TensorId, Ty, VarId, print};
use crate::tile_ir::{BufId, Buffer, Launch, Program, TensorDecl, TensorKind};

use super::isa::Isa;
use super::outline::Part;
use super::proofs::Facts;
use super::scratch::Scratch;
use super::{BackendError, MAX_LEN};

pub(super) type Result<T> = std::result::Result<T, BackendError>;

/// What a remembered value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Var(VarId),
    Expr(ExprId),
    /// A count, cut to at most so many.
    Count(ExprId, i64),
    /// A word of the argument block.
    Word(usize),
    /// Is there any element in the tensor?
    Filled(TensorId),
    /// Address for loads: scratch if the tensor is empty.
    LoadBase(TensorId),
    /// Stride for loads: 0 if the tensor is empty.
    LoadStride(TensorId, usize),
    /// The offset of an element for loads, up to and with a dim: index, offset up to the dim before.
    Offset(TensorId, usize, Value, Option<Value>),
    /// A value shifted left by so many bits.
    Shifted(Value, i64),
    /// A constant of 64 bits.
    Int(i64),
    /// Address of the first element of a buffer.
    Buffer(BufId),
    Function(Intrinsic),
}

/// One function under construction.
pub(super) struct Emitter<'a, 'f> {
    pub b: FunctionBuilder<'f>,
    pub program: &'a Program,
    pub launch: &'a Launch,
    pub layout: &'a ArgLayout,
    pub places: &'a Scratch,
    pub isa: &'a Isa,
    /// Address of the argument block.
    pub args: Value,
    /// Address of the scratch memory.
    pub scratch: Value,
    pub sigs: FxHashMap<Intrinsic, SigRef>,
    ranges: FxHashMap<VarId, Range>,
    tables: &'a [Range],
    memo: FxHashMap<Key, Value>,
    trail: Vec<Key>,
    volatile: &'a [bool],
    pub facts: Facts,
    perishable: Vec<Key>,
    /// Loops that are functions of their own, where this function has such.
    pub parts: Option<Vec<Part>>,
}

/// What a function is built from.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub program: &'a Program,
    pub launch: &'a Launch,
    pub layout: &'a ArgLayout,
    pub places: &'a Scratch,
    pub isa: &'a Isa,
    pub known: &'a Known,
}

/// What is known of a whole program, the same for every function.
pub(super) struct Known {
    /// For each node: does it read a tensor that launches write?
    volatile: Vec<bool>,
    /// Bounds of the elements of each tensor.
    tables: Vec<Range>,
}

impl Known {
    pub fn of(program: &Program) -> Known {
        Known { volatile: volatile_nodes(program), tables: element_ranges(program) }
    }
}

impl<'a, 'f> Emitter<'a, 'f> {
    /// Begins with nothing remembered; `args` and `scratch` are the function's parameters.
    pub fn new(b: FunctionBuilder<'f>, setting: Setting<'a>, (args, scratch): (Value, Value)) -> Self {
        let Setting { program, launch, layout, places, isa, known } = setting;
        let Known { volatile, tables } = known;
        let ranges = program.dims.iter().map(|d| (d.var, Range { lo: 0, hi: MAX_LEN - 1 })).collect();
        let (memo, trail, perishable, sigs) = (FxHashMap::default(), vec![], vec![], FxHashMap::default());
        Emitter {
            b,
            program,
            launch,
            layout,
            places,
            isa,
            args,
            scratch,
            sigs,
            ranges,
            tables,
            memo,
            trail,
            volatile,
            facts: Facts::default(),
            perishable,
            parts: None,
        }
    }

    pub fn pool(&self) -> &'a Pool {
        &self.program.pool
    }

    pub fn recall(&self, key: Key) -> Option<Value> {
        self.memo.get(&key).copied()
    }

    pub fn remember(&mut self, key: Key, value: Value) {
        self.memo.insert(key, value);
        self.trail.push(key);
        if matches!(key, Key::Expr(id) | Key::Count(id, _) if self.volatile[id.0 as usize]) {
            self.perishable.push(key);
        }
    }

    /// Forgets what read memory that the launch may have written since.
    pub fn forget_volatile(&mut self) {
        for key in std::mem::take(&mut self.perishable) {
            self.memo.remove(&key);
        }
    }

    /// Runs `f` and forgets what it remembered.
    pub fn scoped<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let mark = self.trail.len();
        let result = f(self);
        for key in self.trail.drain(mark..) {
            self.memo.remove(&key);
        }
        result
    }

    /// Bounds of all variables that are bound.
    pub fn ranges(&self) -> &FxHashMap<VarId, Range> {
        &self.ranges
    }

    /// Takes over what another function knows.
    pub fn know(&mut self, ranges: FxHashMap<VarId, Range>, facts: Facts) {
        (self.ranges, self.facts) = (ranges, facts);
    }

    /// Bounds of a variable.
    pub fn var_range(&self, var: VarId) -> Range {
        self.ranges.get(&var).copied().unwrap_or(Range::ALL)
    }

    /// Bounds of a variable that is bound later.
    pub fn note_range(&mut self, var: VarId, range: Range) {
        self.ranges.insert(var, range);
    }

    /// Gives a variable its value for the rest of the scope.
    pub fn bind(&mut self, var: VarId, value: Value, range: Range) {
        self.ranges.insert(var, range);
        self.facts.forget(var);
        self.remember(Key::Var(var), value);
    }

    /// Bounds of an int expression.
    pub fn range(&self, id: ExprId) -> Range {
        range::range(self.pool(), id, &Bounds(self.tables, &self.ranges))
    }

    /// Bounds of every node below `id`.
    pub fn ranges_below(&self, id: ExprId) -> FxHashMap<ExprId, Range> {
        range::ranges(self.pool(), &[id], &Bounds(self.tables, &self.ranges))
    }

    pub fn int(&mut self, x: i64) -> Value {
        if let Some(known) = self.recall(Key::Int(x)) {
            return known;
        }
        let value = self.b.ins().iconst(types::I64, x);
        self.remember(Key::Int(x), value);
        value
    }

    /// `x << by`: an index in bytes, which many loads share.
    pub fn shifted(&mut self, x: Value, by: i64) -> Value {
        if let Some(known) = self.recall(Key::Shifted(x, by)) {
            return known;
        }
        let value = self.b.ins().ishl_imm_u(x, by);
        self.remember(Key::Shifted(x, by), value);
        value
    }

    pub fn float(&mut self, x: f64) -> Value {
        self.b.ins().f32const(x as f32)
    }

    /// A word of the argument block.
    pub fn word(&mut self, word: usize) -> Value {
        self.word_as(word, types::I64)
    }

    /// The low bytes of a word of the argument block.
    fn word_as(&mut self, word: usize, ty: Type) -> Value {
        if let Some(known) = self.recall(Key::Word(word)) {
            return known;
        }
        let flags = MemFlagsData::trusted().with_readonly().with_can_move();
        let value = self.b.ins().load(ty, flags, self.args, (word * 8) as i32);
        self.remember(Key::Word(word), value);
        value
    }

    pub fn size(&mut self, t: TensorId, dim: usize) -> Value {
        self.word(self.layout.size(t.0 as usize, dim))
    }

    pub fn stride(&mut self, t: TensorId, dim: usize) -> Value {
        self.word(self.layout.stride(t.0 as usize, dim))
    }

    pub fn address(&mut self, t: TensorId) -> Value {
        self.word(self.layout.address(t.0 as usize))
    }

    /// A scalar argument, if `var` is one.
    pub fn scalar_arg(&mut self, var: VarId) -> Option<Value> {
        let args = self.program.dims.iter().chain(&self.program.params);
        let nth = args.into_iter().position(|a| a.var == var)?;
        let ty = clif_type(self.pool().var_info(var).ty);
        Some(self.word_as(self.layout.scalars[nth], ty))
    }

    pub fn buffer(&self, buf: BufId) -> Result<&'a Buffer> {
        let missing = || BackendError::internal("buffers", "a buffer is declared", format!("{buf:?}"));
        self.launch.buffers.get(buf.0 as usize).ok_or_else(missing)
    }

    /// How many elements the rows of a buffer are apart.
    pub fn ld(&self, buf: BufId) -> Result<i64> {
        let buffer = self.buffer(buf)?;
        buffer.of.map_or(Ok(buffer.cols), |of| self.ld(of))
    }

    /// Lays a view over its buffer, within it whatever the expressions give.
    pub fn view(&mut self, view: BufId, (row, col): (ExprId, ExprId)) -> Result<()> {
        let part = self.buffer(view)?;
        let missing = || BackendError::internal("buffers", "a view has a buffer", format!("{view:?}"));
        let of = part.of.ok_or_else(missing)?;
        let whole = self.buffer(of)?;
        let size = whole.dtype.size() as i64;
        let (base, ld) = (self.buffer_address(of)?, self.ld(of)?);
        let (row, col) = (self.count(row, whole.rows - part.rows)?, self.count(col, whole.cols - part.cols)?);
        let (above, before) = (self.b.ins().imul_imm_s(row, ld * size), self.b.ins().imul_imm_s(col, size));
        let address = self.b.ins().iadd(base, above);
        let address = self.b.ins().iadd(address, before);
        self.remember(Key::Buffer(view), address);
        Ok(())
    }

    /// Address of the first element of a buffer.
    pub fn buffer_address(&mut self, buf: BufId) -> Result<Value> {
        if let Some(known) = self.recall(Key::Buffer(buf)) {
            return Ok(known);
        }
        let missing = || BackendError::internal("buffers", "a buffer is declared", format!("{buf:?}"));
        let offset = self.places.offset(buf).ok_or_else(missing)?;
        let address = self.b.ins().iadd_imm_s(self.scratch, i64::from(offset));
        self.remember(Key::Buffer(buf), address);
        Ok(address)
    }

    pub fn tensor(&self, t: TensorId) -> Result<&'a TensorDecl> {
        let missing = || BackendError::internal("tensors", "a tensor is declared", format!("{t:?}"));
        self.program.tensors.get(t.0 as usize).ok_or_else(missing)
    }

    /// An expression as text, for errors.
    pub fn print(&self, id: ExprId) -> String {
        let name = |t: TensorId| match self.program.tensors.get(t.0 as usize) {
            Some(decl) => decl.name.clone(),
            None => format!("tensor{}", t.0),
        };
        print::print(self.pool(), id, &name)
    }

    /// `for i in (lo..hi).step_by(step)`. Each of `carried` starts as its first part and grows by its second.
    pub fn count_loop<const N: usize>(
        &mut self,
        (lo, hi, step): (Value, Value, i64),
        carried: [(Value, Value); N],
        body: impl FnOnce(&mut Self, Value, [Value; N]) -> Result<()>,
    ) -> Result<()> {
        let (head, exit) = (self.b.create_block(), self.b.create_block());
        let i = self.b.append_block_param(head, types::I64);
        let state = carried.map(|(first, _)| {
            let ty = self.b.func.dfg.value_type(first);
            self.b.append_block_param(head, ty)
        });
        let args = |i: Value, state: [Value; N]| -> Vec<BlockArg> {
            std::iter::once(i).chain(state).map(BlockArg::Value).collect()
        };
        let enter = self.b.ins().icmp(IntCC::SignedLessThan, lo, hi);
        self.b.ins().brif(enter, head, &args(lo, carried.map(|c| c.0)), exit, &[]);
        self.b.switch_to_block(head);
        self.scoped(|e| body(e, i, state))?;
        let next = self.b.ins().iadd_imm_s(i, step);
        let mut grown = state;
        for (value, (_, by)) in grown.iter_mut().zip(carried) {
            *value = self.b.ins().iadd(*value, by);
        }
        let again = self.b.ins().icmp(IntCC::SignedLessThan, next, hi);
        self.b.ins().brif(again, head, &args(next, grown), exit, &[]);
        self.b.switch_to_block(exit);
        Ok(())
    }
}

/// The register type of a scalar.
pub(super) fn clif_type(ty: Ty) -> Type {
    match ty {
        Ty::Bool => types::I8,
        Ty::Int => types::I64,
        Ty::Float => types::F32,
    }
}

/// Which nodes read a tensor that launches write.
fn volatile_nodes(program: &Program) -> Vec<bool> {
    let pool = &program.pool;
    let written = |t: &TensorId| {
        let kind = program.tensors.get(t.0 as usize).map(|t| &t.kind);
        matches!(kind, Some(TensorKind::Output | TensorKind::Updated | TensorKind::Workspace))
    };
    let mut volatile: Vec<bool> = Vec::with_capacity(pool.len());
    for n in 0..pool.len() as u32 {
        let reads = matches!(pool.op(ExprId(n)), Op::Load(t, _, _) if written(t));
        let mut below = false;
        pool.each_operand(ExprId(n), |x| below |= volatile[x.0 as usize]);
        volatile.push(reads || below);
    }
    volatile
}

/// Bounds of the elements of each int tensor: by its storage type, and for a table by what fills it.
fn element_ranges(program: &Program) -> Vec<Range> {
    let dims: FxHashMap<VarId, Range> =
        program.dims.iter().map(|d| (d.var, Range { lo: 0, hi: MAX_LEN - 1 })).collect();
    let of = |id: ExprId, vars: &FxHashMap<VarId, Range>| range::range(&program.pool, id, &Bounds(&[], vars));
    let mut out = Vec::new();
    for tensor in &program.tensors {
        let stored = match tensor.dtype {
            DType::I8 => Range { lo: i64::from(i8::MIN), hi: i64::from(i8::MAX) },
            DType::I32 => Range { lo: i64::from(i32::MIN), hi: i64::from(i32::MAX) },
            _ => Range::ALL,
        };
        let filled = match &tensor.kind {
            TensorKind::Table { vars, origin, value } if program.pool.ty(*value) == Ty::Int => {
                let mut known = dims.clone();
                for ((&var, &first), &size) in vars.iter().zip(origin).zip(&tensor.shape) {
                    let (first, size) = (of(first, &dims), of(size, &dims));
                    let hi = first.hi.saturating_add(size.hi.saturating_sub(1));
                    known.insert(var, Range { lo: first.lo, hi: hi.max(first.lo) });
                }
                of(*value, &known)
            }
            _ => Range::ALL,
        };
        // A value that does not fit its storage is cut: then only the storage bounds it.
        let fits = filled.lo >= stored.lo && filled.hi <= stored.hi;
        out.push(if fits { filled } else { stored });
    }
    out
}

/// What is known of leaves: variables by where they are bound, tensors by their elements.
struct Bounds<'a>(&'a [Range], &'a FxHashMap<VarId, Range>);

impl RangeEnv for Bounds<'_> {
    fn var(&self, var: VarId) -> Range {
        self.1.get(&var).copied().unwrap_or(Range::ALL)
    }

    fn tensor(&self, t: TensorId) -> Range {
        self.0.get(t.0 as usize).copied().unwrap_or(Range::ALL)
    }
}
