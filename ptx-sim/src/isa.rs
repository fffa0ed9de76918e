//! Instructions as the machine executes them.
//!
//! Comes in: nothing. Goes out: [`Op`] and its parts, [`Inst`], [`Kernel`]. What holds: operands are rows of the register
//! file (immediates and special registers have rows of their own that are filled when a warp starts), branch targets
//! are indices. No strings are looked at while executing. Not here: how they are read or done.

/// A row of the register file: 32 lanes of 64 bits.
pub(crate) type Row = u32;
/// A row of the predicate file: one bit for each lane.
pub(crate) type PRow = u32;

/// The predicate that is always true.
pub(crate) const P_TRUE: PRow = 0;
/// The predicate that is always false.
pub(crate) const P_FALSE: PRow = 1;

/// Types of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ty {
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
    Tf32,
    E4m3x2,
    E5m2x2,
    Pred,
}

impl Ty {
    pub fn parse(word: &str) -> Option<Self> {
        use Ty::*;
        Some(match word {
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => Bf16,
            "bf16x2" => Bf16x2,
            "f32" => F32,
            "f64" => F64,
            "tf32" => Tf32,
            "e4m3x2" => E4m3x2,
            "e5m2x2" => E5m2x2,
            "pred" => Pred,
            _ => return None,
        })
    }

    pub fn bits(self) -> u32 {
        use Ty::*;
        match self {
            B8 | U8 | S8 => 8,
            B16 | U16 | S16 | F16 | Bf16 | E4m3x2 | E5m2x2 => 16,
            B32 | U32 | S32 | F32 | F16x2 | Bf16x2 | Tf32 => 32,
            B64 | U64 | S64 | F64 => 64,
            Pred => 1,
        }
    }

    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    pub fn signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    pub fn integer(self) -> bool {
        use Ty::*;
        matches!(self, B8 | B16 | B32 | B64 | U8 | U16 | U32 | U64 | S8 | S16 | S32 | S64)
    }

    /// All bits of the type.
    pub fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }
}

/// A predicate as a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PSrc {
    pub row: PRow,
    pub negated: bool,
}

/// Values of special registers that are fixed for a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    DynamicSmem,
    TotalSmem,
    Zero,
    One,
}

/// Integer operations of one operand.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Int1 {
    Abs,
    Neg,
    Not,
    Cnot,
    Popc,
    Clz,
    Brev,
    Bfind { shift: bool },
}

/// Integer operations of two operands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Int2 {
    Add { sat: bool },
    Sub { sat: bool },
    MulLo,
    MulHi,
    MulWide,
    Div,
    Rem,
    Min,
    Max,
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

/// Integer operations of three operands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Int3 {
    MadLo,
    MadHi { sat: bool },
    MadWide,
    Sad,
    Bfe,
    ShfL { clamp: bool },
    ShfR { clamp: bool },
    Lop3(u8),
    Prmt(Prmt),
    Dp4a { a_signed: bool, b_signed: bool },
}

/// Modes of prmt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Prmt {
    Generic,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

/// Rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rnd {
    Nearest,
    Zero,
    Down,
    Up,
    /// To nearest, ties away from zero.
    Away,
}

/// Modifiers of a floating-point operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FMode {
    pub rnd: Rnd,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
    pub nan: bool,
    pub abs: bool,
    pub xorsign: bool,
}

/// Floating-point operations of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum F1 {
    Abs,
    Neg,
    Ex2,
    Lg2,
    Rcp,
    Rsqrt,
    Sqrt,
    Tanh,
    Sin,
    Cos,
}

/// Floating-point operations of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum F2 {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    CopySign,
}

/// Comparisons; the `u` ones are also true where an operand is a NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// Combination with a third predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Combine {
    And,
    Or,
    Xor,
}

/// A comparison.
#[derive(Clone, Debug)]
pub(crate) struct Setp {
    pub cmp: Cmp,
    pub combine: Option<(Combine, PSrc)>,
    pub ty: Ty,
    pub ftz: bool,
    pub p: Option<PRow>,
    pub q: Option<PRow>,
    pub a: Row,
    pub b: Row,
    /// `set`: the result as a value of this type.
    pub set: Option<(Ty, Row)>,
}

/// A conversion.
#[derive(Clone, Debug)]
pub(crate) struct Cvt {
    pub to: Ty,
    pub from: Ty,
    /// Rounds to an integral value.
    pub integral: Option<Rnd>,
    pub rnd: Rnd,
    pub ftz: bool,
    pub sat: bool,
    pub satfinite: bool,
    pub relu: bool,
    pub d: Row,
    /// Bits of the destination register.
    pub d_bits: u32,
    pub a: Row,
    /// The low half of a packed conversion from two values.
    pub b: Option<Row>,
}

/// Spaces of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// Ordering of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sem {
    Weak,
    /// volatile or relaxed.
    Relaxed,
    Acquire,
    Release,
    AcqRel,
}

/// An address: a row and a constant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addr {
    pub space: Space,
    pub base: Row,
    pub off: i64,
    /// Bits of the base that count.
    pub bits: u32,
}

/// A load.
#[derive(Clone, Debug)]
pub(crate) struct Ld {
    pub ty: Ty,
    pub sem: Sem,
    pub addr: Addr,
    /// Destinations with the bits of each register; `None` is a sink.
    pub d: Vec<Option<(Row, u32)>>,
}

/// A store.
#[derive(Clone, Debug)]
pub(crate) struct St {
    pub ty: Ty,
    pub sem: Sem,
    pub addr: Addr,
    pub a: Vec<Row>,
}

/// Operations of atom and red.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

/// An atomic operation.
#[derive(Clone, Debug)]
pub(crate) struct Atom {
    pub op: AtomOp,
    pub ty: Ty,
    pub sem: Sem,
    pub addr: Addr,
    pub d: Option<Vec<Row>>,
    pub b: Vec<Row>,
    pub c: Option<Row>,
}

/// Modes of shfl.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shfl {
    Up,
    Down,
    Bfly,
    Idx,
}

/// Modes of vote.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

/// Element types of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MmaTy {
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
    E4m3,
    E5m2,
}

impl MmaTy {
    pub fn bytes(self) -> u32 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::Tf32 => 4,
            _ => 1,
        }
    }
}

/// mma.sync m16n8kK.
#[derive(Clone, Debug)]
pub(crate) struct Mma {
    pub k: u32,
    pub a_ty: MmaTy,
    pub b_ty: MmaTy,
    /// The accumulator is s32, f16x2 or f32.
    pub acc: Ty,
    pub d: Vec<Row>,
    pub a: Vec<Row>,
    pub b: Vec<Row>,
    pub c: Vec<Row>,
}

/// Where the A operand of wgmma lies.
#[derive(Clone, Debug)]
pub(crate) enum WgmmaA {
    Desc(Row),
    Regs(Vec<Row>),
}

/// wgmma.mma_async m64nNkK.
#[derive(Clone, Debug)]
pub(crate) struct Wgmma {
    pub n: u32,
    pub k: u32,
    pub a_ty: MmaTy,
    pub b_ty: MmaTy,
    /// f32 accumulators (else f16x2).
    pub f32_acc: bool,
    pub d: Vec<Row>,
    pub a: WgmmaA,
    pub b: Row,
    pub scale_d: PSrc,
    pub neg_a: bool,
    pub neg_b: bool,
    pub trans_a: bool,
    pub trans_b: bool,
}

/// cp.async.
#[derive(Clone, Debug)]
pub(crate) struct CpAsync {
    pub dst: Addr,
    pub src: Addr,
    pub size: u32,
    pub src_size: Option<Row>,
    pub ignore: Option<PSrc>,
}

/// What an mbarrier instruction does.
#[derive(Clone, Debug)]
pub(crate) enum MbarOp {
    Init { count: Row },
    Inval,
    ExpectTx { bytes: Row },
    CompleteTx { bytes: Row },
    Arrive { state: Option<Row>, count: Option<Row>, expect: Option<Row>, drop: bool, no_complete: bool },
    Wait { p: PRow, parity: Option<Row>, state: Option<Row> },
    CpArrive { no_inc: bool },
    PendingCount { d: Row, state: Row },
}

/// An mbarrier instruction.
#[derive(Clone, Debug)]
pub(crate) struct Mbar {
    pub addr: Addr,
    pub relaxed: bool,
    pub op: MbarOp,
}

/// A bulk or tensor copy.
#[derive(Clone, Debug)]
pub(crate) struct Bulk {
    /// Tensor copies: rank and coordinates; plain copies have none.
    pub coords: Vec<Row>,
    pub tensor: bool,
    /// Shared memory to global memory.
    pub store: bool,
    /// A reduction on the way to global memory.
    pub reduce: Option<(AtomOp, Ty)>,
    pub shared: Addr,
    /// The tensor map, or global memory.
    pub global: Addr,
    pub size: Option<Row>,
    pub mbar: Option<Addr>,
}

/// Kinds of fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// membar, fence.sc, fence.acq_rel.
    Thread,
    Proxy,
    MbarrierInit,
    /// fence.proxy.tensormap and fence.proxy.alias: nothing to order here.
    Other,
}

/// An operation.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Nop,
    Bra { target: u32 },
    Exit,
    Trap,
    Mov { d: Row, a: Row },
    MovPred { d: PRow, a: PSrc },
    PredBin { f: Combine, d: PRow, a: PSrc, b: PSrc },
    Pack { d: Row, parts: Vec<Row>, bits: u32 },
    Unpack { d: Vec<Option<Row>>, a: Row, bits: u32 },
    Clock { d: Row, bits: u32 },
    ActiveMask { d: Row },
    Int1 { f: Int1, ty: Ty, d: Row, a: Row },
    Int2 { f: Int2, ty: Ty, d: Row, a: Row, b: Row },
    Int3 { f: Int3, ty: Ty, d: Row, a: Row, b: Row, c: Row },
    Bfi { ty: Ty, d: Row, a: Row, b: Row, c: Row, e: Row },
    Carry { sub: bool, ty: Ty, use_cc: bool, set_cc: bool, d: Row, a: Row, b: Row },
    F1 { f: F1, ty: Ty, mode: FMode, d: Row, a: Row },
    F2 { f: F2, ty: Ty, mode: FMode, d: Row, a: Row, b: Row },
    Fma { ty: Ty, mode: FMode, d: Row, a: Row, b: Row, c: Row },
    Setp(Box<Setp>),
    Selp { ty: Ty, d: Row, a: Row, b: Row, p: PSrc },
    Slct { ty: Ty, float: bool, d: Row, a: Row, b: Row, c: Row },
    Cvt(Box<Cvt>),
    Cvta { to_generic: bool, space: Space, d: Row, a: Row },
    IsSpace { space: Space, p: PRow, a: Row },
    Ld(Box<Ld>),
    St(Box<St>),
    Atom(Box<Atom>),
    Shfl { mode: Shfl, d: Row, p: Option<PRow>, a: Row, b: Row, c: Row, mask: Row },
    Vote { mode: Vote, d: Row, p: PRow, a: PSrc, mask: Row },
    Match { all: bool, ty: Ty, d: Row, p: Option<PRow>, a: Row, mask: Row },
    Redux { op: AtomOp, ty: Ty, d: Row, a: Row, mask: Row },
    Elect { d: Option<Row>, p: PRow, mask: Row },
    WarpSync { mask: Row },
    Bar { id: Row, count: Option<Row>, arrive: bool, aligned: bool },
    ClusterBar { wait: bool, relaxed: bool },
    Fence(Fence),
    Ldmatrix { addr: Addr, d: Vec<Row>, trans: bool },
    Stmatrix { addr: Addr, a: Vec<Row>, trans: bool },
    Mma(Box<Mma>),
    CpAsync(Box<CpAsync>),
    CpCommit,
    CpWait { pending: Option<u32> },
    Mbar(Box<Mbar>),
    Bulk(Box<Bulk>),
    BulkCommit,
    BulkWait { pending: u32, read: bool },
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait { pending: u32 },
    Wgmma(Box<Wgmma>),
    SetMaxNReg { inc: bool, count: u32 },
    Mapa { d: Row, a: Row, cta: Row },
}

impl Op {
    /// Whether it is executed by all lanes of a warp, or all of a mask, together.
    pub fn wants_company(&self) -> bool {
        use Op::*;
        matches!(
            self,
            Shfl { .. }
                | Vote { .. }
                | Match { .. }
                | Redux { .. }
                | Elect { .. }
                | WarpSync { .. }
                | Bar { .. }
                | ClusterBar { .. }
                | Ldmatrix { .. }
                | Stmatrix { .. }
                | Mma(_)
                | WgmmaFence
                | WgmmaCommit
                | WgmmaWait { .. }
                | Wgmma(_)
                | SetMaxNReg { .. }
        )
    }
}

/// An instruction with its guard and its place in the text.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub op: Op,
    pub guard: PSrc,
    pub line: u32,
    /// Index into [`Kernel::names`], for counting.
    pub name: u32,
    pub text: String,
}

/// A parameter.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub name: String,
    pub offset: u32,
    pub size: u32,
}

/// Bytes that a launch starts with: module variables in global or constant memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub bytes: Vec<u8>,
    /// Which bytes an initialiser gave.
    pub init: bool,
    pub name: String,
}

/// A decoded kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub name: String,
    pub code: Vec<Inst>,
    pub names: Vec<String>,
    pub rows: u32,
    pub preds: u32,
    /// Rows with fixed values.
    pub consts: Vec<(Row, u64)>,
    pub specials: Vec<(Row, Special)>,
    /// Rows that hold addresses of module variables in global memory, resolved at launch.
    pub table_rows: Vec<(Row, usize, i64)>,
    /// Names of rows, for messages.
    pub row_names: Vec<(Row, String)>,
    pub pred_names: Vec<(PRow, String)>,
    pub params: Vec<Param>,
    pub param_bytes: u32,
    /// Static shared memory, from the base of the window.
    pub shared_bytes: u32,
    /// Offset and alignment of `.extern .shared`.
    pub dynamic: Option<(u32, u32)>,
    pub local_bytes: u32,
    pub max_threads: Option<[u32; 3]>,
    pub req_threads: Option<[u32; 3]>,
    pub min_ctas: Option<u32>,
    pub max_regs: Option<u32>,
    pub target: u32,
}

/// Generic addresses of shared memory start here.
pub(crate) const SHARED_WINDOW: u64 = 1 << 52;
/// Generic addresses of local memory start here.
pub(crate) const LOCAL_WINDOW: u64 = 2 << 52;
/// Generic addresses of parameters start here.
pub(crate) const PARAM_WINDOW: u64 = 3 << 52;
/// Shared addresses start here, as on the machine (the system keeps the first KiB).
pub(crate) const SHARED_BASE: u32 = 1024;
