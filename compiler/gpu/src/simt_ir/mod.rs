//! The SIMT IR: one kernel as every thread of a block executes it. Shared addresses, barriers and fragments are explicit.
//!
//! Comes in: nothing; `lower` builds it through [`Builder`]. Goes out: a [`Kernel`], which `verify` checks, `mlir` prints for
//! LLVM, `text` writes and reads back, and `interp` executes: what an instruction means stands there. What holds: a value
//! ([`Val`]) is computed once, where it stands, and may be used in what follows and in the blocks inside; what changes in a
//! loop is a [`Slot`]. Ints wrap; floats are rounded once for each operation, nothing is contracted. Deliberately not here:
//! what a tile is, which thread works on what.
//!
//! To add an instruction: its variant, and an arm in each of the five (`text/parse.rs` goes by words; the others do not
//! compile without it).
//!
//! Control is structured. A [`Inst::Bar`], a shuffle and a fragment operation must be reached by all threads (of the
//! block; of the warp) or none: conditions around them are *uniform* ([`verify`]).

pub mod interp;
pub mod mlir;
pub mod text;
pub mod verify;

/// A value: the n-th that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Val(pub u32);

/// A register that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ty {
    /// A truth value.
    I1,
    /// 8 bits.
    I8,
    /// 16 bits.
    I16,
    /// 32 bits; also two 16-bit floats.
    I32,
    /// 64 bits; also an address in global memory.
    I64,
    /// Half precision.
    F16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

impl Ty {
    /// Bytes in memory.
    pub const fn bytes(self) -> u32 {
        match self {
            Ty::I1 | Ty::I8 => 1,
            Ty::I16 | Ty::F16 => 2,
            Ty::I32 | Ty::F32 => 4,
            Ty::I64 | Ty::F64 => 8,
        }
    }
}

/// Two operands of one type, a result of that type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bin {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// Quotient toward zero; the divisor is not 0.
    SDiv,
    /// Bits of both.
    And,
    /// Bits of either.
    Or,
    /// Bits of one of them.
    Xor,
    /// Left; by less than the width.
    Shl,
    /// Right, zeros come in.
    LShr,
    /// Right, the sign comes in.
    AShr,
    /// Smaller, signed.
    SMin,
    /// Larger, signed.
    SMax,
    /// Sum of floats.
    FAdd,
    /// Difference of floats.
    FSub,
    /// Product of floats.
    FMul,
    /// Quotient of floats, rounded correctly.
    FDiv,
    /// Larger float; of a number and NaN the number.
    FMax,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cmp {
    /// Ints `==`
    Eq,
    /// Ints `!=`
    Ne,
    /// Signed `<`
    Slt,
    /// Signed `<=`
    Sle,
    /// Unsigned `<`
    Ult,
    /// Floats `==`, false with NaN.
    FEq,
    /// Floats `!=`, true with NaN.
    FNe,
    /// Floats `<`
    FLt,
    /// Floats `<=`
    FLe,
}

/// One float, a result of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Un {
    /// `-x`
    FNeg,
    /// `|x|`
    FAbs,
    /// Square root, rounded correctly.
    Sqrt,
    /// Down to an integer.
    Floor,
    /// Up to an integer.
    Ceil,
    /// To the nearest integer, ties to even.
    Rint,
    /// 2^x to 2 ulp, subnormal results are 0 (`ex2.approx.ftz.f32`).
    Ex2,
}

/// Changes of type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cast {
    /// Wider int, the sign comes in.
    SExt,
    /// Wider int, zeros come in.
    ZExt,
    /// Narrower int, high bits lost.
    Trunc,
    /// Int to float, to nearest even.
    SiToF,
    /// Float to int, toward zero, saturating; NaN gives 0.
    FToSi,
    /// Wider float.
    FExt,
    /// Narrower float, to nearest even.
    FTrunc,
    /// The same bits.
    Bits,
    /// f32 to the bits of a bf16 in an I16, to nearest even.
    ToBf16,
}

/// Memory that can be read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Address in I64.
    Global,
    /// Byte offset in the dynamic shared memory of the block, in I32.
    Shared,
}

/// What makes a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// An int constant.
    Int(i64),
    /// A float constant of type F32 or F64.
    Float(f64),
    /// A parameter of the kernel: 64 bits.
    Param(u32),
    /// `%tid.x`
    Tid,
    /// `%ctaid.x`
    Ctaid,
    /// `%nctaid.x`
    Nctaid,
    /// The address of the dynamic shared memory in its window, I32.
    SharedBase,
    /// Two operands.
    Bin(Bin, Val, Val),
    /// One float.
    Un(Un, Val),
    /// Comparison, I1.
    Cmp(Cmp, Val, Val),
    /// `c ? a : b`
    Select(Val, Val, Val),
    /// `a * b + c`, rounded once.
    Fma(Val, Val, Val),
    /// Change of type.
    Cast(Cast, Val),
    /// An element of memory, aligned to its size.
    Load(Space, Val),
    /// What a slot holds.
    Get(Slot),
    /// Two F32 rounded to 16 bits (bf16, else f16), to nearest even: the first in the low half of an I32.
    Pack {
        /// bf16, else f16.
        bf16: bool,
        /// Low half.
        low: Val,
        /// High half.
        high: Val,
    },
    /// The value of the lane whose number differs in the bits of the mask; all lanes of the warp (I32 or F32).
    Shfl(Val, u32),
    /// The value (I32) of lane 0; all lanes of the warp. Where they have the same, the machine so knows it, and computes
    /// what follows from it once for the warp.
    Uniform(Val),
}

/// An instruction.
#[derive(Clone, Debug, PartialEq)]
pub enum Inst {
    /// A value.
    Def(Val, Op),
    /// A slot gets a value.
    Set(Slot, Val),
    /// An element of memory gets a value, aligned to its size.
    Store(Space, Val, Val),
    /// All threads of the block wait for each other; what they wrote to shared memory is seen by all.
    Bar,
    /// All lanes of a warp wait for each other; what they wrote to shared memory is seen by all.
    WarpBar,
    /// A choice.
    If {
        /// I1.
        cond: Val,
        /// Where it holds.
        then: Vec<Inst>,
        /// Where not.
        otherwise: Vec<Inst>,
    },
    /// The body again and again until [`Inst::BreakIf`].
    Loop {
        /// The body.
        body: Vec<Inst>,
        /// What is the same in every round is computed in each of them: it takes no registers from one to the next.
        afresh: bool,
    },
    /// Leaves the loop where the value holds.
    BreakIf(Val),
    /// One product of fragments.
    Mma(Mma),
    /// Four 8x8 matrices of 16-bit elements from shared memory to fragments.
    LdMatrix(LdMatrix),
    /// A counter in global memory (`atom.inc`).
    AtomicInc(AtomicInc),
    /// Copies and their waits.
    Async(Async),
    /// Products of a warpgroup.
    Wgmma(Wgmma),
    /// So many threads of the block meet at a barrier of this number: those that execute it here wait, or only arrive.
    NamedBar {
        /// Wait for the others.
        wait: bool,
        /// 1 to 15.
        id: u32,
        /// A multiple of 32.
        threads: u32,
    },
    /// Barriers in shared memory, and copies that arrive at them.
    Mbar(Mbar),
    /// Stores that the machine makes from shared memory.
    Bulk(Bulk),
    /// All four warps of a warpgroup give registers away or take some (`setmaxnreg`).
    Registers {
        /// Registers of a thread afterwards, a multiple of 8.
        count: u32,
        /// More than before.
        more: bool,
    },
}

/// `mma.sync.aligned.m16n8k16.row.col.f32.T.T.f32`: D = A B + D.
#[derive(Clone, Debug, PartialEq)]
pub struct Mma {
    /// Elements are bf16, else f16.
    pub bf16: bool,
    /// Accumulators, F32, read and written.
    pub d: [Slot; 4],
    /// Pairs of elements in I32.
    pub a: [Val; 4],
    /// Pairs of elements in I32.
    pub b: [Val; 2],
}

/// `ldmatrix.sync.aligned.m8n8.x4(.trans).shared.b16`
#[derive(Clone, Debug, PartialEq)]
pub struct LdMatrix {
    /// Results, I32.
    pub dst: [Val; 4],
    /// Byte offset in shared memory of the row that this lane names, a multiple of 16.
    pub addr: Val,
    /// Columns instead of rows.
    pub trans: bool,
}

/// An I32 in global memory becomes one more, or 0 if it was `most`; no other thread comes between.
#[derive(Clone, Debug, PartialEq)]
pub struct AtomicInc {
    /// What it was, I32.
    pub dst: Val,
    /// Global address, a multiple of 4.
    pub at: Val,
    /// I32, without a sign.
    pub most: Val,
}

/// Asynchronous products of sm_90a: `wgmma.mma_async.sync.aligned.m64nNk16.f32.T.T` and what belongs to it. Reached by
/// all four warps of a warpgroup.
#[derive(Clone, Debug, PartialEq)]
pub enum Wgmma {
    /// Registers that were written are seen by the products that follow.
    Fence,
    /// D = A B, or D = A B + D, of 64 rows, N columns, 16 terms.
    Product {
        /// Elements are bf16, else f16.
        bf16: bool,
        /// N / 2 accumulators, F32.
        d: Vec<Slot>,
        /// Left operand.
        a: WgmmaLeft,
        /// Descriptor of the right operand in shared memory (I64).
        b: Val,
        /// The right operand lies with its columns along memory, else with its terms.
        trans_b: bool,
        /// Add to the old D.
        accumulate: bool,
    },
    /// Ends a group.
    Commit,
    /// Waits until at most so many groups are on their way; these slots are good again.
    Wait(u32, Vec<Slot>),
    /// What was written to shared memory is seen by products and copies of the asynchronous proxy.
    ProxyFence,
}

/// Barriers in shared memory (`mbarrier`), 8 bytes each. Places are offsets in I32, multiples of 8.
#[derive(Clone, Debug, PartialEq)]
pub enum Mbar {
    /// A phase ends when so many threads have arrived.
    Init {
        /// Place.
        at: Val,
        /// Arrivals.
        count: u32,
    },
    /// What was initialised is seen by copies; a barrier of the block shows it to its threads.
    FenceInit,
    /// This thread arrives, and the phase also waits for so many bytes of copies.
    ArriveExpect {
        /// Place.
        at: Val,
        /// Bytes.
        bytes: u32,
    },
    /// This thread arrives.
    Arrive {
        /// Place.
        at: Val,
    },
    /// Waits until the phase of this parity (I32) has ended.
    Wait {
        /// Place.
        at: Val,
        /// 0 or 1.
        parity: Val,
    },
    /// A box of a tensor to shared memory (`cp.async.bulk.tensor`); its bytes arrive at `bar`.
    Copy {
        /// Shared offset, a multiple of 1024.
        dst: Val,
        /// Which of the kernel's maps.
        map: u32,
        /// Coordinates in I32, the column first.
        coords: Vec<Val>,
        /// Place of the barrier.
        bar: Val,
    },
}

/// Asynchronous stores of boxes, in groups of a thread's own.
#[derive(Clone, Debug, PartialEq)]
pub enum Bulk {
    /// A box from shared memory to a tensor (`cp.async.bulk.tensor`); what lies out of range is not written.
    Store {
        /// Shared offset, a multiple of 128.
        src: Val,
        /// Which of the kernel's maps.
        map: u32,
        /// Coordinates in I32, the column first.
        coords: Vec<Val>,
    },
    /// Ends a group.
    Commit,
    /// Waits until at most so many groups may still read shared memory.
    WaitRead(u32),
}

/// Left operand of a warpgroup's product.
#[derive(Clone, Debug, PartialEq)]
pub enum WgmmaLeft {
    /// Descriptor in shared memory (I64), terms along memory.
    Shared(Val),
    /// Pairs of elements of this thread (I32).
    Registers([Val; 4]),
}

/// Asynchronous copies of sm_80.
#[derive(Clone, Debug, PartialEq)]
pub enum Async {
    /// 16 bytes from global to shared memory, of which the first `bytes` (I32) are read and the others become 0.
    Copy {
        /// Shared offset, a multiple of 16.
        dst: Val,
        /// Global address, a multiple of 16.
        src: Val,
        /// 0 to 16.
        bytes: Val,
    },
    /// Ends a group.
    Commit,
    /// Waits until at most so many groups of this thread are on their way.
    Wait(u32),
}

/// A kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Entry name in the module.
    pub name: String,
    /// 64-bit parameters.
    pub n_params: u32,
    /// Tensor maps behind them, 128 bytes each.
    pub n_maps: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// Types of values.
    pub vals: Vec<Ty>,
    /// Types of slots.
    pub slots: Vec<Ty>,
    /// What every thread executes.
    pub body: Vec<Inst>,
}

/// Builds the instructions of a kernel, one block inside another.
#[derive(Debug, Default)]
pub struct Builder {
    vals: Vec<Ty>,
    slots: Vec<Ty>,
    open: Vec<Vec<Inst>>,
}

impl Builder {
    /// An empty body.
    pub fn new() -> Builder {
        Builder { vals: Vec::new(), slots: Vec::new(), open: vec![Vec::new()] }
    }

    /// The type of a value.
    pub fn ty(&self, v: Val) -> Ty {
        self.vals[v.0 as usize]
    }

    fn value(&mut self, ty: Ty) -> Val {
        self.vals.push(ty);
        Val(self.vals.len() as u32 - 1)
    }

    /// Adds an instruction.
    pub fn push(&mut self, inst: Inst) {
        if let Some(block) = self.open.last_mut() {
            block.push(inst);
        }
    }

    /// A value of a type.
    pub fn def(&mut self, ty: Ty, op: Op) -> Val {
        let v = self.value(ty);
        self.push(Inst::Def(v, op));
        v
    }

    /// An I32 constant.
    pub fn i32(&mut self, x: i64) -> Val {
        self.def(Ty::I32, Op::Int(x))
    }

    /// An I64 constant.
    pub fn i64(&mut self, x: i64) -> Val {
        self.def(Ty::I64, Op::Int(x))
    }

    /// An F32 constant.
    pub fn f32(&mut self, x: f32) -> Val {
        self.def(Ty::F32, Op::Float(f64::from(x)))
    }

    /// A constant I1.
    pub fn bool(&mut self, x: bool) -> Val {
        self.def(Ty::I1, Op::Int(i64::from(x)))
    }

    /// Two operands of one type.
    pub fn bin(&mut self, op: Bin, a: Val, b: Val) -> Val {
        self.def(self.ty(a), Op::Bin(op, a, b))
    }

    /// An operand and an int constant of its type.
    pub fn bin_int(&mut self, op: Bin, a: Val, b: i64) -> Val {
        let b = self.def(self.ty(a), Op::Int(b));
        self.bin(op, a, b)
    }

    /// One float.
    pub fn un(&mut self, op: Un, a: Val) -> Val {
        self.def(self.ty(a), Op::Un(op, a))
    }

    /// A comparison.
    pub fn cmp(&mut self, op: Cmp, a: Val, b: Val) -> Val {
        self.def(Ty::I1, Op::Cmp(op, a, b))
    }

    /// `c ? a : b`
    pub fn select(&mut self, c: Val, a: Val, b: Val) -> Val {
        self.def(self.ty(a), Op::Select(c, a, b))
    }

    /// `a * b + c`, rounded once.
    pub fn fma(&mut self, a: Val, b: Val, c: Val) -> Val {
        self.def(self.ty(a), Op::Fma(a, b, c))
    }

    /// Another type.
    pub fn cast(&mut self, cast: Cast, ty: Ty, v: Val) -> Val {
        if self.ty(v) == ty && matches!(cast, Cast::SExt | Cast::ZExt | Cast::Trunc | Cast::Bits) {
            return v;
        }
        self.def(ty, Op::Cast(cast, v))
    }

    /// An element of memory.
    pub fn load(&mut self, space: Space, ty: Ty, addr: Val) -> Val {
        self.def(ty, Op::Load(space, addr))
    }

    /// Writes an element of memory.
    pub fn store(&mut self, space: Space, addr: Val, v: Val) {
        self.push(Inst::Store(space, addr, v));
    }

    /// The value of another lane.
    pub fn shfl(&mut self, v: Val, mask: u32) -> Val {
        self.def(self.ty(v), Op::Shfl(v, mask))
    }

    /// A slot that holds `v`.
    pub fn slot(&mut self, v: Val) -> Slot {
        self.slots.push(self.ty(v));
        let slot = Slot(self.slots.len() as u32 - 1);
        self.set(slot, v);
        slot
    }

    /// What a slot holds now.
    pub fn get(&mut self, slot: Slot) -> Val {
        self.def(self.slots[slot.0 as usize], Op::Get(slot))
    }

    /// Changes a slot.
    pub fn set(&mut self, slot: Slot, v: Val) {
        self.push(Inst::Set(slot, v));
    }

    /// Opens a block; what is pushed goes there until [`Builder::close`].
    pub fn open(&mut self) {
        self.open.push(Vec::new());
    }

    /// The instructions since the last [`Builder::open`].
    pub fn close(&mut self) -> Vec<Inst> {
        self.open.pop().unwrap_or_default()
    }

    /// Two F32 as 16-bit floats in an I32.
    pub fn pack(&mut self, bf16: bool, low: Val, high: Val) -> Val {
        self.def(Ty::I32, Op::Pack { bf16, low, high })
    }

    /// A new slot without a value.
    pub fn empty_slot(&mut self, ty: Ty) -> Slot {
        self.slots.push(ty);
        Slot(self.slots.len() as u32 - 1)
    }

    /// Four results of a matrix load.
    pub fn ldmatrix(&mut self, addr: Val, trans: bool) -> [Val; 4] {
        let dst = [(); 4].map(|()| self.value(Ty::I32));
        self.push(Inst::LdMatrix(LdMatrix { dst, addr, trans }));
        dst
    }

    /// What a counter was.
    pub fn atomic_inc(&mut self, at: Val, most: Val) -> Val {
        let dst = self.value(Ty::I32);
        self.push(Inst::AtomicInc(AtomicInc { dst, at, most }));
        dst
    }

    /// The kernel.
    pub fn finish(self, name: &str, n_params: u32, threads: u32, shared_bytes: u32) -> Kernel {
        let body = self.open.into_iter().next().unwrap_or_default();
        Kernel {
            name: name.into(),
            n_params,
            n_maps: 0,
            threads,
            shared_bytes,
            vals: self.vals,
            slots: self.slots,
            body,
        }
    }
}
