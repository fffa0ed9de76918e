//! What can be wrong: texts that do not parse, kernels that do what the machine leaves undefined.
//!
//! Comes in: what the parser, the decoder and the machine found. Goes out: [`ParseError`] and [`Fault`], whose texts name the
//! kernel, the line, the instruction, the block, the thread and, where there is one, the remedy. Not here: finding them.

/// A text that is not a module that the simulator can run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}\n  {text}")]
pub struct ParseError {
    /// Line of the text, from 1.
    pub line: u32,
    /// The statement, or what follows on the line.
    pub text: String,
    /// What is wrong.
    pub message: String,
}

/// What kind of thing a kernel did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// A register was read that nothing has written.
    UninitRegister,
    /// Shared memory was read that nothing has written.
    UninitShared,
    /// Global memory was read that neither the host nor a kernel has written.
    UninitGlobal,
    /// Local memory was read that nothing has written.
    UninitLocal,
    /// An address outside of every allocation, or across the end of one.
    OutOfBounds,
    /// An address that is not a multiple of the size of the access.
    Misaligned,
    /// The destination of an asynchronous copy was touched before the copy was waited for.
    AsyncNotWaited,
    /// An accumulator or a register operand of wgmma was touched before its group was waited for.
    WgmmaNotWaited,
    /// wgmma reads registers that changed since the last wgmma.fence.
    MissingWgmmaFence,
    /// Two threads touch the same byte of shared memory, one writes, and nothing orders them.
    Race,
    /// Bytes written by ordinary stores are read by the asynchronous proxy without fence.proxy.async.
    MissingProxyFence,
    /// An mbarrier was used without or against its life cycle, or its counts overflow.
    Mbarrier,
    /// Threads that must execute an instruction together are elsewhere.
    Divergence,
    /// A .sync mask leaves out the thread that executes, or names lanes that will not come.
    SyncMask,
    /// Warps meet at a barrier with different thread counts, or a bad barrier number or count.
    BarrierMismatch,
    /// A matrix descriptor or tensor map that the machine cannot use.
    Descriptor,
    /// setmaxnreg outside of what the kernel's registers allow.
    Registers,
    /// A thread ended while asynchronous work that it must wait for was pending.
    PendingAtExit,
    /// `trap`.
    Trap,
    /// Every warp waits for something that will not happen.
    Deadlock,
    /// More steps than the budget allows.
    StepBudget,
    /// The launch itself is wrong: arguments, sizes, limits.
    Launch,
    /// A value that an instruction cannot take.
    Value,
}

impl FaultKind {
    /// What usually mends it; empty where there is no usual remedy.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::UninitRegister => "initialise the register on every path that reaches this line",
            Self::UninitShared => "write every byte that is read, or wait for the copy that writes it",
            Self::AsyncNotWaited => {
                "wait first: cp.async.wait_group after commit_group, or mbarrier.try_wait of the phase"
            }
            Self::WgmmaNotWaited => "wgmma.commit_group and wgmma.wait_group before touching the registers",
            Self::MissingWgmmaFence => "wgmma.fence.sync.aligned between the register access and wgmma",
            Self::Race => "a barrier between the two accesses: bar.sync, bar.warp.sync or an mbarrier",
            Self::MissingProxyFence => {
                "fence.proxy.async in the writing thread, then a barrier, before the asynchronous access"
            }
            Self::Divergence => "make the branch uniform, or move the instruction out of it",
            Self::SyncMask => "name exactly the lanes that execute the instruction",
            Self::PendingAtExit => "wait for the group before the thread ends",
            Self::Registers => "give the kernel .maxntid with .minnctapersm (or .maxnreg) and keep the sum",
            _ => "",
        }
    }
}

/// Where a fault happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The kernel.
    pub kernel: String,
    /// Line of the PTX text.
    pub line: u32,
    /// The instruction as written.
    pub text: String,
    /// Index of the block.
    pub block: [u32; 3],
    /// Index of the thread in the block, where one thread is to blame.
    pub thread: Option<[u32; 3]>,
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "kernel `{}` line {}: {}\n  block {:?}", self.kernel, self.line, self.text, self.block)?;
        if let Some(thread) = self.thread {
            write!(f, " thread {thread:?}")?;
        }
        Ok(())
    }
}

/// A warp of a deadlock and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Index of the warp in its block.
    pub warp: usize,
    /// Line where it stands.
    pub line: u32,
    /// What it waits for.
    pub reason: String,
}

/// Why a launch did not end well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An instruction did what the machine leaves undefined.
    #[error("{detail}\n  {site}{}", remedy_line(*kind))]
    Execution {
        /// The kind.
        kind: FaultKind,
        /// Where.
        site: Site,
        /// What exactly.
        detail: String,
    },
    /// No warp of a block can go on.
    #[error("deadlock in kernel `{kernel}`, block {block:?}{}", waiting_lines(waiting))]
    Deadlock {
        /// The kernel.
        kernel: String,
        /// Index of the block.
        block: [u32; 3],
        /// Every warp that has not ended.
        waiting: Vec<Waiting>,
    },
    /// The step budget is spent.
    #[error("kernel `{kernel}`, block {block:?}: more than {steps} steps{}", waiting_lines(waiting))]
    StepBudget {
        /// The kernel.
        kernel: String,
        /// Index of the block.
        block: [u32; 3],
        /// The budget.
        steps: u64,
        /// Every warp that has not ended.
        waiting: Vec<Waiting>,
    },
    /// The launch is refused.
    #[error("launch of `{kernel}`: {detail}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// Why.
        detail: String,
    },
}

impl Fault {
    /// The kind of fault.
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Execution { kind, .. } => *kind,
            Self::Deadlock { .. } => FaultKind::Deadlock,
            Self::StepBudget { .. } => FaultKind::StepBudget,
            Self::Launch { .. } => FaultKind::Launch,
        }
    }
}

fn remedy_line(kind: FaultKind) -> String {
    match kind.remedy() {
        "" => String::new(),
        remedy => format!("\n  remedy: {remedy}"),
    }
}

fn waiting_lines(waiting: &[Waiting]) -> String {
    waiting.iter().map(|w| format!("\n  warp {} at line {}: {}", w.warp, w.line, w.reason)).collect()
}

/// A fault before its place is known.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub kind: FaultKind,
    /// The lane to blame.
    pub lane: Option<u32>,
    pub detail: String,
    /// The register that is meant.
    pub row: Option<u32>,
}

pub(crate) type Exec<T> = Result<T, Box<Trouble>>;

/// A fault of no particular lane.
pub(crate) fn trouble<T>(kind: FaultKind, detail: impl Into<String>) -> Exec<T> {
    Err(Box::new(Trouble { kind, lane: None, detail: detail.into(), row: None }))
}

/// A fault of one lane.
pub(crate) fn lane_trouble<T>(kind: FaultKind, lane: u32, detail: impl Into<String>) -> Exec<T> {
    Err(Box::new(Trouble { kind, lane: Some(lane), detail: detail.into(), row: None }))
}
