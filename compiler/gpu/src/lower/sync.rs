//! Where the threads of a block wait for each other.
//!
//! Comes in: which tiles a statement reads and writes. Goes out: a barrier before it if another thread may have written
//! what it touches, or read what it writes, since the last one. What holds: the same at every way through the program, as
//! a loop begins with everything touched that its body touches. Deliberately not here: tensors, which no launch both reads
//! and writes.

use attn_compiler::tile_ir::{BufId, Operand, Rest, Stmt};

use super::Lower;

/// Tiles touched since the last barrier, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sync {
    read: u128,
    written: u128,
}

impl Sync {
    fn of(reads: &[BufId], writes: &[BufId]) -> Sync {
        let bits = |bufs: &[BufId]| bufs.iter().fold(0, |all, b| all | bit(*b));
        Sync { read: bits(reads), written: bits(writes) }
    }

    /// The statement's own memory was touched.
    pub(super) fn of_scratch() -> Sync {
        Sync::of(&[SCRATCH], &[SCRATCH])
    }

    /// Either of two ways was taken.
    pub(super) fn or(self, other: Sync) -> Sync {
        Sync { read: self.read | other.read, written: self.written | other.written }
    }

    /// May a statement that touches `next` start without a barrier?
    fn allows(self, next: Sync) -> bool {
        next.read & self.written == 0 && next.written & (self.read | self.written) == 0
    }
}

/// Buffers from the 96th on share a bit.
fn bit(buf: BufId) -> u128 {
    match buf.0 {
        STAGES.. => 1 << buf.0.min(127),
        n => 1 << n.min(STAGES - 1),
    }
}

/// Bits of what products bring in.
pub(super) const STAGES: u32 = 97;
pub(super) const STAGES_END: u32 = 125;

/// The bit of the memory that statements use for themselves.
pub(super) const SCRATCH: BufId = BufId(126);

impl Lower<'_> {
    /// Says what comes next; waits first if it must.
    pub(super) fn touch(&mut self, reads: &[BufId], writes: &[BufId]) {
        let next = Sync::of(reads, writes);
        if !self.sync.allows(next) {
            self.barrier();
        }
        self.sync = self.sync.or(next);
    }

    /// All threads wait.
    pub(super) fn barrier(&mut self) {
        let wait = self.barrier_of_role();
        self.b.push(wait);
        self.sync = Sync::default();
    }
}

/// Does a block of statements touch a tile?
pub(super) fn touches(stmts: &[Stmt], buf: BufId) -> bool {
    let all = touched(stmts);
    (all.read | all.written) & bit(buf) != 0
}

/// All that a block of statements touches.
pub(super) fn touched(stmts: &[Stmt]) -> Sync {
    stmts.iter().fold(Sync::default(), |all, stmt| {
        let own = match stmt {
            Stmt::Gemm { .. } => product(stmt),
            Stmt::For { body, .. } => touched(body),
            Stmt::If { then, otherwise, .. } => touched(then).or(touched(otherwise)),
            _ => {
                let bufs: Vec<BufId> = buffers(stmt);
                Sync::of(&bufs, &bufs)
            }
        };
        all.or(own)
    })
}

/// Every buffer of a statement without a block, and the scratch where it may use it.
fn buffers(stmt: &Stmt) -> Vec<BufId> {
    let with = |first: &[BufId], more: &[Option<BufId>]| -> Vec<BufId> {
        first.iter().copied().chain(more.iter().flatten().copied()).collect()
    };
    match stmt {
        Stmt::Let { .. } | Stmt::Any { .. } | Stmt::First { .. } | Stmt::For { .. } | Stmt::If { .. } => {
            vec![]
        }
        Stmt::View { view, .. } => vec![*view],
        Stmt::PackK { .. } | Stmt::PackV { .. } | Stmt::PrefixSum { .. } | Stmt::TopK { .. } => vec![SCRATCH],
        Stmt::Fill { dst, .. } | Stmt::Math { dst, .. } | Stmt::Random { dst, .. } => vec![*dst],
        Stmt::LoadRows { dst, .. } => vec![dst.buf],
        Stmt::Gemm { c, a, rest, b, row_scale, .. } => {
            let right = if let Operand::Buffer(b) = b { Some(*b) } else { None };
            let rest = if let Rest::Tile(rest) = rest { Some(*rest) } else { None };
            with(&[*c, *a, SCRATCH], &[rest, right, *row_scale])
        }
        Stmt::Map { dst, reads, .. } => std::iter::once(*dst).chain(reads.iter().map(|r| r.1)).collect(),
        Stmt::StoreMap { reads, .. } => reads.iter().map(|r| r.1).collect(),
        Stmt::Band { s, .. } => vec![*s],
        Stmt::Affine { dst, factor, term, .. } => with(&[*dst], &[*factor, *term]),
        Stmt::SoftmaxStep { s, row_max, row_sum, alpha, .. } => vec![*s, *row_max, *row_sum, *alpha],
        Stmt::WeightStep { s, row_max, .. } => vec![*s, *row_max],
        Stmt::FinishSoftmax { row_max, row_sum, inv_sum, lse, .. } => {
            vec![*row_max, *row_sum, *inv_sum, *lse]
        }
        Stmt::Round { dst, src, .. }
        | Stmt::Transpose { dst, src, .. }
        | Stmt::ReduceRows { dst, src, .. } => vec![*dst, *src],
        Stmt::ScanRows { dst, decay, .. } => with(&[*dst], &[*decay]),
        Stmt::KeepLargest { best, at, src, .. } => vec![*best, *at, *src],
        Stmt::Mark { dst, at, .. } => vec![*dst, *at],
        Stmt::StoreRows { src, row_scale, .. } => with(&[src.buf], &[*row_scale]),
        Stmt::StoreVec { src, .. } => vec![src.buf],
    }
}

/// What a product touches: it reads its tiles, writes one, and both what products bring in.
fn product(stmt: &Stmt) -> Sync {
    let Stmt::Gemm { c, .. } = stmt else { return Sync::default() };
    let stages: Vec<BufId> = (STAGES..=STAGES_END).map(BufId).chain([SCRATCH]).collect();
    let read: Vec<BufId> = buffers(stmt).into_iter().chain(stages.iter().copied()).collect();
    Sync::of(&read, &[&[*c], &stages[..]].concat())
}
