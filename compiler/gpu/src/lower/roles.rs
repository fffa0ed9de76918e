//! Blocks whose warps have roles (sm_90a): one warp brings tiles by tensor maps, the others compute.
//!
//! Comes in: a launch whose products all read tensors that maps can describe. Goes out: a kernel in which a warpgroup of its
//! own goes through the same control as the others and, for each product, brings the right operand into one of two stages as
//! soon as that is free; the others wait for what they read and say when they have read it (FlashAttention 3, Shah et al.
//! 2024). What holds: both go through the same products in the same order, as all conditions are uniform; a stage is
//! overwritten only after every warp that reads it has arrived at its `empty` barrier. Not here: in which order the others
//! multiply ([`super::overlap`]).
//!
//! The tile's rows behind the last that exists are 0, since maps give 0 out of range: so a product is only taken if its
//! count of rows is what is left of the tensor, cut to the tile.

use attn_compiler::artifact::TensorMapSpec;
use attn_compiler::expr::{BinaryOp, ExprId, Op as E};
use attn_compiler::target::GpuArch;
use attn_compiler::tile_ir::{Launch, Operand, Program, RowsRef, Stmt};

use super::halves::{Half, PANEL};
use super::layout::Layouts;
use super::{Lower, Result, WARP};
use crate::GpuError;
use crate::simt_ir::{Bin, Cmp, Inst, Mbar, Op, Slot, Ty, Val};

/// Stages of each product's right operand.
const STAGES: u32 = 2;
/// Warpgroups that compute, at most.
const MOST_GROUPS: usize = 3;
/// The barrier of the warps that compute.
const CONSUMERS_BARRIER: u32 = 1;
/// The barrier at which the first of two warpgroups waits for its turn; the second's is the next. Behind them those of
/// [`super::tasks`].
const TURN_BARRIER: u32 = 2;

/// What a warp does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Everything.
    All,
    /// Brings tiles.
    Producer,
    /// Computes.
    Consumer,
}

/// The ring of one product's right operand.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    half: Half,
    /// Shared offsets of the first `full` and the first `empty` barrier.
    full: u32,
    empty: u32,
    map: u32,
    /// How often the product has been gone through.
    count: Slot,
}

/// The stage that a ring has for one tile, and the places of its barriers.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingStage {
    pub half: Half,
    full: Val,
    pub empty: Val,
    parity: Val,
}

/// Rings and maps of a launch, by the order of its products in the text.
#[derive(Clone, Debug, Default)]
pub(super) struct Rings {
    rings: Vec<Ring>,
    pub maps: Vec<TensorMapSpec>,
    next: usize,
}

/// Threads that bring tiles. Beside one warpgroup that computes a warp does, so that several blocks fit a multiprocessor;
/// else a whole warpgroup, whose registers the others get.
pub(super) const fn producers(threads: u32) -> u32 {
    if threads == 128 { 32 } else { 128 }
}

/// Registers of a thread that brings tiles, and of one that computes, where they are moved: together they are what 65536
/// give to all threads in equal parts.
const fn registers(groups: u32) -> Option<(u32, u32)> {
    match groups {
        2 => Some((24, 240)),
        3 => Some((32, 160)),
        _ => None,
    }
}

/// Values that were named so far.
pub(super) type Named = Vec<(attn_compiler::expr::VarId, ExprId)>;

/// Can a launch be written with roles?
pub(super) fn possible(program: &Program, launch: &Launch, arch: GpuArch) -> bool {
    let layouts = Layouts::of(program, launch, arch).ok();
    let groups = layouts.map_or(0, |l| l.warps as usize / 4);
    let mut lets = Vec::new();
    arch == GpuArch::Sm90a && (1..=MOST_GROUPS).contains(&groups) && mapped(program, &launch.body, &mut lets)
}

/// Does every product read rows that a map can describe?
fn mapped(program: &Program, stmts: &[Stmt], lets: &mut Named) -> bool {
    stmts.iter().all(|stmt| match stmt {
        Stmt::Let { var, value } => {
            lets.push((*var, *value));
            true
        }
        Stmt::For { body, .. } => mapped(program, body, lets),
        Stmt::If { then, otherwise, .. } => mapped(program, then, lets) && mapped(program, otherwise, lets),
        Stmt::Gemm { b: Operand::Columns(src), n, .. } => whole_rows(program, src, *n, lets),
        Stmt::Gemm { b: Operand::Rows(src), k, .. } => whole_rows(program, src, *k, lets),
        _ => true,
    })
}

/// Is the count `min(size - first, tile)` of the tensor's own rows?
fn whole_rows(program: &Program, src: &RowsRef, count: ExprId, lets: &Named) -> bool {
    rows_left(program, src, count, lets).is_some()
}

/// The tile of a count `min(size - first, tile)` of a tensor's own rows.
pub(super) fn rows_left(program: &Program, src: &RowsRef, count: ExprId, lets: &Named) -> Option<ExprId> {
    let pool = &program.pool;
    let named = |id: ExprId| match pool.op(id) {
        E::Var(v) => lets.iter().rev().find(|(w, _)| w == v).map_or(id, |(_, value)| *value),
        _ => id,
    };
    let tensor = &program.tensors[src.tensor.0 as usize];
    let (size, first) = (tensor.shape[src.row_dim], src.index[src.row_dim]);
    let is_left = |id: ExprId| match *pool.op(named(id)) {
        E::Binary(BinaryOp::Sub, a, b) => a == size && (b == first || named(b) == named(first)),
        _ => false,
    };
    let rank = tensor.shape.len();
    match *pool.op(named(count)) {
        E::Binary(BinaryOp::Min, a, b) if (2..=5).contains(&rank) => match (is_left(a), is_left(b)) {
            (true, _) => Some(b),
            (_, true) => Some(a),
            _ => None,
        },
        _ => None,
    }
}

impl Rings {
    /// The number of a map.
    pub fn map_of(&mut self, spec: TensorMapSpec) -> u32 {
        let known = self.maps.iter().position(|m| *m == spec);
        known.unwrap_or_else(|| {
            self.maps.push(spec);
            self.maps.len() - 1
        }) as u32
    }
}

impl Lower<'_> {
    /// Makes the rings of all products of a block, in order.
    fn make_rings(&mut self, stmts: &[Stmt]) -> Result<()> {
        for stmt in stmts {
            match stmt {
                Stmt::For { body, .. } => self.make_rings(body)?,
                Stmt::If { then, otherwise, .. } => {
                    self.make_rings(then)?;
                    self.make_rings(otherwise)?;
                }
                Stmt::Gemm { .. } => {
                    let right = self.right_operand(stmt)?;
                    let half = self.new_stage(right.rows, right.cols, i64::from(STAGES));
                    let spec = TensorMapSpec {
                        tensor: right.src.tensor.0,
                        row_dim: right.src.row_dim as u32,
                        col_dim: right.src.col_dim as u32,
                        box_rows: right.rows as u32,
                        box_cols: PANEL as u32,
                    };
                    let map = self.rings.map_of(spec);
                    let zero = self.b.i32(0);
                    let count = self.b.slot(zero);
                    self.rings.rings.push(Ring { half, full: 0, empty: 0, map, count });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Places and initialises the barriers of the rings.
    fn make_barriers(&mut self) -> Result<()> {
        let at = self.shared_bytes.next_multiple_of(8);
        let n = self.rings.rings.len() as u32;
        self.shared_bytes = at + n * STAGES * 2 * 8;
        let consumers = self.threads / WARP as u32;
        for (k, ring) in self.rings.rings.iter_mut().enumerate() {
            ring.full = at + k as u32 * STAGES * 16;
            ring.empty = ring.full + STAGES * 8;
        }
        let places: Vec<(u32, u32)> = self.rings.rings.iter().map(|r| (r.full, r.empty)).collect();
        let zero = self.b.i32(0);
        let first = self.b.cmp(Cmp::Eq, self.tid, zero);
        self.when(first, |l| {
            let rings = places.iter().flat_map(|(full, empty)| {
                (0..STAGES).flat_map(move |n| [(full + n * 8, 1), (empty + n * 8, consumers)])
            });
            for (at, count) in rings {
                let at = l.b.i32(i64::from(at));
                l.b.push(Inst::Mbar(Mbar::Init { at, count }));
            }
            l.b.push(Inst::Mbar(Mbar::FenceInit));
            Ok(())
        })?;
        self.barrier();
        Ok(())
    }

    /// Writes the launch with roles: the warps that compute come first.
    pub(super) fn with_roles(&mut self) -> Result<()> {
        let body = &self.launch.body;
        self.make_rings(body)?;
        self.plan_store()?;
        let handover = self.make_handover();
        self.make_barriers()?;
        let groups = self.threads / 128;
        let registers = registers(groups);
        // Descriptors are made from it: known to be the same for a warp, they take no register of each lane. Beside random
        // numbers ptxas spills more with it than without.
        if !self.draws {
            self.group = self.b.def(Ty::I32, Op::Uniform(self.group));
        }
        let group = self.group;
        let last = self.b.i32(i64::from(groups));
        let brings = self.b.cmp(Cmp::Eq, group, last);
        let producer = self.scoped(|l| {
            if let Some((count, _)) = registers {
                l.b.push(Inst::Registers { count, more: false });
            }
            l.role = Role::Producer;
            let own = l.b.i32(i64::from(l.threads) / WARP);
            let first = l.b.cmp(Cmp::Eq, l.warp, own);
            l.when(first, |l| l.give_tasks(handover, |l| l.block(body)))
        })?;
        self.rings.next = 0;
        let consumer = self.scoped(|l| {
            if let Some((_, count)) = registers {
                l.b.push(Inst::Registers { count, more: true });
            }
            l.role = Role::Consumer;
            let zero = l.b.i32(0);
            l.first_group = l.b.cmp(Cmp::Eq, group, zero);
            l.take_tasks(handover, body, |l| {
                l.make_registers();
                l.clear_partial(body)?;
                l.block(body)?;
                l.end_store()
            })
        })?;
        self.b.push(Inst::If { cond: brings, then: producer, otherwise: consumer });
        Ok(())
    }

    /// The ring of the next product in the text.
    pub(super) fn next_ring(&mut self) -> Result<Ring> {
        let missing = || GpuError::internal("roles", "every product has a ring", "gemm");
        let ring = self.rings.rings.get(self.rings.next).cloned().ok_or_else(missing)?;
        self.rings.next += 1;
        Ok(ring)
    }

    /// The stage of the `n`-th tile of a ring.
    fn stage_of(&mut self, ring: &Ring, n: Val) -> RingStage {
        let stage = self.b.bin_int(Bin::And, n, 1);
        let round = self.b.bin_int(Bin::LShr, n, 1);
        let parity = self.b.bin_int(Bin::And, round, 1);
        let skipped = self.b.bin_int(Bin::Mul, stage, ring.half.bytes());
        let bar = self.b.bin_int(Bin::Shl, stage, 3);
        let full = self.b.bin_int(Bin::Add, bar, i64::from(ring.full));
        let empty = self.b.bin_int(Bin::Add, bar, i64::from(ring.empty));
        RingStage { half: Half { stage: Some(skipped), ..ring.half }, full, empty, parity }
    }

    /// The stage of a ring's next tile, and moves it on.
    fn next_stage(&mut self, ring: &Ring) -> RingStage {
        let n = self.b.get(ring.count);
        let stage = self.stage_of(ring, n);
        let next = self.b.bin_int(Bin::Add, n, 1);
        self.b.set(ring.count, next);
        stage
    }

    /// The stage of the last tile that a ring was moved on by.
    pub(super) fn last_stage(&mut self, ring: &Ring) -> RingStage {
        let n = self.b.get(ring.count);
        let last = self.b.bin_int(Bin::Sub, n, 1);
        self.stage_of(ring, last)
    }

    /// Brings the right operand of a product as soon as its stage is free.
    pub(super) fn produce(&mut self, stmt: &Stmt) -> Result<()> {
        let ring = self.next_ring()?;
        let right = self.right_operand(stmt)?;
        let RingStage { half, full, empty, parity } = self.next_stage(&ring);
        let other = self.b.bin_int(Bin::Xor, parity, 1);
        self.b.push(Inst::Mbar(Mbar::Wait { at: empty, parity: other }));
        let (rank, col, src) = (right.src.index.len(), right.src.col_dim, right.src);
        let mut coords = vec![self.int32(src.index[col])?];
        for dim in (0..rank).rev().filter(|d| *d != col) {
            coords.push(self.int32(src.index[dim])?);
        }
        self.leading(|l| {
            l.b.push(Inst::Mbar(Mbar::ArriveExpect { at: full, bytes: half.bytes() as u32 }));
            for panel in 0..half.cols / PANEL {
                let start = l.b.i32(i64::from(half.at) + panel * half.panel_bytes());
                let dst = half.stage.map_or(start, |stage| l.b.bin(Bin::Add, start, stage));
                let first = l.b.bin_int(Bin::Add, coords[0], panel * PANEL);
                let coords = [&[first], &coords[1..]].concat();
                l.b.push(Inst::Mbar(Mbar::Copy { dst, map: ring.map, coords, bar: full }));
            }
            Ok(())
        })
    }

    /// Waits for the right operand of a product.
    pub(super) fn awaited(&mut self, ring: &Ring) -> RingStage {
        let stage = self.next_stage(ring);
        self.b.push(Inst::Mbar(Mbar::Wait { at: stage.full, parity: stage.parity }));
        stage
    }

    /// This warp has read a stage.
    pub(super) fn release(&mut self, empty: Val) -> Result<()> {
        self.leading(|l| {
            l.b.push(Inst::Mbar(Mbar::Arrive { at: empty }));
            Ok(())
        })
    }

    /// This warpgroup's turn begins.
    pub(super) fn begin_turn(&mut self) -> Result<()> {
        self.of_group(|l, own| {
            l.b.push(Inst::NamedBar { wait: true, id: TURN_BARRIER + own, threads: 256 });
        })
    }

    /// The other warpgroup's turn begins.
    pub(super) fn end_turn(&mut self) -> Result<()> {
        self.of_group(|l, own| {
            l.b.push(Inst::NamedBar { wait: false, id: TURN_BARRIER + 1 - own, threads: 256 });
        })
    }

    /// The first warpgroup has the first turn.
    pub(super) fn first_turn(&mut self) -> Result<()> {
        self.of_group(|l, own| {
            if own == 1 {
                l.b.push(Inst::NamedBar { wait: false, id: TURN_BARRIER, threads: 256 });
            }
        })
    }

    /// The second warpgroup gives its last turn to nobody.
    pub(super) fn last_turn(&mut self) -> Result<()> {
        self.of_group(|l, own| {
            if own == 0 {
                l.b.push(Inst::NamedBar { wait: false, id: TURN_BARRIER + 1, threads: 256 });
            }
        })
    }

    /// Instructions of each of the two warpgroups that compute.
    fn of_group(&mut self, f: impl Fn(&mut Self, u32)) -> Result<()> {
        let first = self.first_group;
        let then = self.scoped(|l| {
            f(l, 0);
            Ok(())
        })?;
        let otherwise = self.scoped(|l| {
            f(l, 1);
            Ok(())
        })?;
        self.b.push(Inst::If { cond: first, then, otherwise });
        Ok(())
    }

    /// All threads that work on this warp's tiles wait.
    pub(super) fn barrier_of_role(&mut self) -> Inst {
        match self.role {
            Role::Consumer => Inst::NamedBar { wait: true, id: CONSUMERS_BARRIER, threads: self.threads },
            Role::All | Role::Producer => Inst::Bar,
        }
    }
}
