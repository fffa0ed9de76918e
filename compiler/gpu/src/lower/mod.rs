//! Tile IR to SIMT IR: which thread works on what, where tiles lie, where threads wait for each other.
//!
//! Comes in: one launch of a verified program. Goes out: a [`Kernel`] and the words of the argument block that are its
//! parameters. A task is done by a block of threads. What holds: control of statements is uniform for the block; threads wait
//! ([`sync`]) between two statements of which one writes a tile that the other touches.
//!
//! The parts: [`scalar`] and [`math`] expressions, [`memory`] elements of tensors, [`control`] statements that hold others,
//! [`tiles`] and [`steps`] statements on tiles in shared memory, [`gemm`] their products; [`layout`] which launches keep tiles
//! in registers, [`fragments`] statements on those, [`parts`] loops over heads that share a tile, [`halves`] 16-bit rows in
//! shared memory, [`products`] on the tensor cores, [`pipeline`] loops that bring their operands ahead, [`roles`] warps that
//! do so for others, [`tasks`] that a block does, [`overlap`] in which order products follow each other, [`store`] results
//! that leave by maps; [`select`] choosing and summing along vectors.

mod control;
mod fragments;
mod gemm;
mod halves;
pub(crate) mod layout;
mod math;
mod memory;
mod overlap;
mod parts;
mod pipeline;
mod products;
mod roles;
mod scalar;
mod select;
mod steps;
mod store;
mod sync;
mod tasks;
mod tiles;

use rustc_hash::FxHashMap;

use attn_compiler::artifact::{ArgLayout, DType, TensorMapSpec};
use attn_compiler::expr::range::{Range, RangeEnv};
use attn_compiler::expr::{ExprId, Pool, TensorId, VarId, print};
use attn_compiler::target::GpuArch;
use attn_compiler::tile_ir::{BufId, Buffer, Launch, Program, Stmt, TensorDecl};

use crate::GpuError;
use crate::report::LoopOrder;
use crate::simt_ir::{Bin, Builder, Cast, Cmp, Inst, Kernel, Op, Slot, Ty, Val};

use halves::Half;
use layout::{Layouts, Place};
use overlap::Order;
use roles::{Rings, Role};
use sync::Sync;

pub(crate) type Result<T> = std::result::Result<T, GpuError>;

/// Threads of a block that works on tiles in shared memory.
const THREADS: u32 = 128;
/// Lanes of a warp.
const WARP: i64 = 32;
/// Dims and tensor sizes are below this: the runtime refuses larger ones before a launch.
const MAX_LEN: i64 = 1 << 30;

/// What is remembered while a value is in scope.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Expr(ExprId),
    Var(VarId),
    Word(u32),
}

/// Writes one kernel.
struct Lower<'a> {
    program: &'a Program,
    launch: &'a Launch,
    layout: ArgLayout,
    arch: GpuArch,
    /// Threads of a block.
    threads: u32,
    b: Builder,
    memo: FxHashMap<Key, Val>,
    trail: Vec<Key>,
    /// Values that are another one and a constant.
    sums: FxHashMap<Val, (Val, i64)>,
    /// The launch draws random numbers.
    draws: bool,
    ranges: FxHashMap<VarId, Range>,
    /// Argument words that became parameters, in order.
    words: Vec<u32>,
    /// Byte offset of each buffer in shared memory, and behind them all.
    places: Vec<u32>,
    tiles_end: u32,
    shared_bytes: u32,
    sync: Sync,
    /// Where tiles lie, if in registers.
    layouts: Option<Layouts>,
    registers: FxHashMap<BufId, Vec<Slot>>,
    halves: FxHashMap<BufId, Half>,
    /// What this warp does, and the rings between roles.
    role: Role,
    rings: Rings,
    /// The store that goes by a tensor map.
    by_map: Option<store::ByMap<'a>>,
    /// The number of the warpgroup.
    group: Val,
    /// This thread computes in the first of the warpgroups that do.
    first_group: Val,
    /// The loop that is written loads tiles part by part, and waits behind its end.
    in_parts: bool,
    /// How products follow each other in the loop that is written, if it has an order.
    order: Option<Order>,
    /// The orders of all loops that have one.
    orders: Vec<LoopOrder>,
    /// What the next products read, where it was brought ahead.
    queue: Option<pipeline::Queue>,
    n_stages: u32,
    /// First row and first column of this thread in fragments.
    row: Val,
    col: Val,
    tid: Val,
    lane: Val,
    warp: Val,
}

/// Ranges of variables and tensors.
struct Bounds<'a> {
    program: &'a Program,
    ranges: &'a FxHashMap<VarId, Range>,
}

impl RangeEnv for Bounds<'_> {
    fn var(&self, var: VarId) -> Range {
        self.ranges.get(&var).copied().unwrap_or(Range::ALL)
    }

    fn tensor(&self, t: TensorId) -> Range {
        let of = |lo: i64, hi: i64| Range { lo, hi };
        match self.program.tensors.get(t.0 as usize).map(|t| t.dtype) {
            Some(DType::I8) => of(i64::from(i8::MIN), i64::from(i8::MAX)),
            Some(DType::I32) => of(i64::from(i32::MIN), i64::from(i32::MAX)),
            _ => Range::ALL,
        }
    }
}

/// Does every value of a range fit 32 bits?
fn narrow(r: Range) -> bool {
    r.lo >= i64::from(i32::MIN) && r.hi <= i64::from(i32::MAX) && r.lo <= r.hi
}

/// A kernel, the argument words that are its parameters, and the maps behind them.
pub struct Lowered {
    /// The kernel.
    pub kernel: Kernel,
    /// Words of the argument block.
    pub words: Vec<u32>,
    /// Tensor maps.
    pub maps: Vec<TensorMapSpec>,
    /// In which order loops multiply and weigh.
    pub orders: Vec<LoopOrder>,
    /// A block takes one task after another.
    pub persistent: bool,
}

/// The kernel of one launch, for any strides.
pub fn launch(program: &Program, launch: &Launch, arch: GpuArch) -> Result<Lowered> {
    let mut lower = Lower::new(program, launch, arch);
    if let Some(layouts) = &lower.layouts {
        lower.threads = layouts.warps * WARP as u32;
        lower.make_registers();
    }
    lower.place_buffers()?;
    lower.known_ranges();
    lower.only_task()?;
    if lower.layouts.is_some() {
        lower.clear_partial(&launch.body)?;
    } else {
        lower.clear_whole(&launch.body)?;
    }
    lower.block(&launch.body)?;
    let threads = lower.threads;
    lower.finish(&entry_name(&launch.name), threads)
}

/// The kernel of one launch whose tiles come by tensor maps, if it has that form and fits.
pub fn mapped_launch(program: &Program, launch: &Launch, arch: GpuArch) -> Result<Option<Lowered>> {
    if !roles::possible(program, launch, arch) {
        return Ok(None);
    }
    let mut lower = Lower::new(program, launch, arch);
    let Some(layouts) = &lower.layouts else { return Ok(None) };
    lower.threads = layouts.warps * WARP as u32;
    lower.place_buffers()?;
    lower.known_ranges();
    lower.with_roles()?;
    if !lower.fits() {
        return Ok(None);
    }
    let threads = lower.threads + roles::producers(lower.threads);
    lower.finish(&format!("{}_mapped", entry_name(&launch.name)), threads).map(Some)
}

/// Does a statement draw random numbers, at any depth?
fn draws(stmts: &[Stmt]) -> bool {
    stmts.iter().any(|stmt| match stmt {
        Stmt::For { body, .. } => draws(body),
        Stmt::If { then, otherwise, .. } => draws(then) || draws(otherwise),
        Stmt::Random { .. } => true,
        _ => false,
    })
}

/// Entry names are made of letters, digits and `_`.
fn entry_name(launch: &str) -> String {
    let part: String = launch.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("attn_{part}")
}

impl<'a> Lower<'a> {
    /// Nothing written yet.
    fn new(program: &'a Program, launch: &'a Launch, arch: GpuArch) -> Lower<'a> {
        let n_scalars = program.dims.len() + program.params.len();
        let layout = ArgLayout::new(program.tensors.iter().map(|t| t.shape.len()), n_scalars);
        let mut b = Builder::new();
        let tid = b.def(Ty::I32, Op::Tid);
        let (five, seven) = (b.i32(5), b.i32(7));
        let warp = b.bin(Bin::LShr, tid, five);
        let lane = b.bin_int(Bin::And, tid, WARP - 1);
        let group = b.def(Ty::I32, Op::Bin(Bin::LShr, tid, seven));
        Lower {
            program,
            launch,
            layout,
            arch,
            threads: THREADS,
            b,
            memo: FxHashMap::default(),
            trail: Vec::new(),
            sums: FxHashMap::default(),
            draws: draws(&launch.body),
            ranges: FxHashMap::default(),
            words: Vec::new(),
            places: Vec::new(),
            tiles_end: 0,
            shared_bytes: 0,
            sync: Sync::default(),
            layouts: Layouts::of(program, launch, arch).ok(),
            registers: FxHashMap::default(),
            halves: FxHashMap::default(),
            role: Role::All,
            rings: Rings::default(),
            by_map: None,
            group,
            first_group: lane,
            in_parts: false,
            order: None,
            orders: Vec::new(),
            queue: None,
            n_stages: 0,
            row: lane,
            col: lane,
            tid,
            lane,
            warp,
        }
    }

    /// The kernel as it was written.
    fn finish(self, name: &str, threads: u32) -> Result<Lowered> {
        if !self.fits() {
            return Err(self.too_large(self.shared_bytes));
        }
        let mut kernel = self.b.finish(name, self.words.len() as u32, threads, self.shared_bytes);
        kernel.n_maps = self.rings.maps.len() as u32;
        let persistent = self.role != Role::All;
        Ok(Lowered { kernel, words: self.words, maps: self.rings.maps, orders: self.orders, persistent })
    }
}

impl Lower<'_> {
    /// Does the shared memory so far fit a block?
    fn fits(&self) -> bool {
        self.shared_bytes as usize <= self.arch.shared_bytes()
    }

    fn too_large(&self, bytes: u32) -> GpuError {
        let each: Vec<String> =
            self.launch.buffers.iter().map(|b| format!("{} {}", b.name, b.rows * b.cols * 4)).collect();
        GpuError::unsupported(
            format!("launch {}", self.launch.name),
            format!(
                "its tiles need {bytes} bytes of shared memory ({}) and a block of {} has {}; take smaller tiles",
                each.join(", "),
                self.arch.name(),
                self.arch.shared_bytes()
            ),
        )
    }

    /// Puts every buffer into shared memory, one behind the other.
    fn place_buffers(&mut self) -> Result<()> {
        let mut at: u64 = 0;
        let panels = self.arch == GpuArch::Sm90a;
        let unit = if panels { 64 } else { layout::WARP_ROWS };
        for (n, buffer) in self.launch.buffers.iter().enumerate() {
            let id = BufId(n as u32);
            let rows = (buffer.rows + unit - 1) / unit * unit;
            let half = Half::new(rows, buffer.cols, panels, id);
            if matches!(self.place(id), Some(Place::Half(_))) {
                at = at.next_multiple_of(half.align());
            }
            let place = u32::try_from(at).unwrap_or(u32::MAX);
            self.places.push(place);
            let bytes = match self.place(id) {
                None => buffer.rows * buffer.cols * 4,
                Some(Place::Half(_)) => {
                    self.halves.insert(id, Half { at: place, ..half });
                    half.bytes()
                }
                Some(Place::Fragment | Place::State) => 0,
            };
            at += (bytes as u64).next_multiple_of(16);
        }
        match u32::try_from(at) {
            Ok(bytes) => (self.shared_bytes, self.tiles_end) = (bytes, bytes),
            Err(_) => return Err(self.too_large(u32::MAX)),
        }
        Ok(())
    }

    /// Tiles of 16-bit rows for the right operand of one product, one for each of its stages.
    fn new_stage(&mut self, rows: i64, cols: i64, n_stages: i64) -> Half {
        // Products beyond the last bit share it.
        let id = BufId((sync::STAGES + self.n_stages).min(sync::STAGES_END));
        self.n_stages += 1;
        let half = Half::new(rows, cols, self.arch == GpuArch::Sm90a, id);
        let at = u64::from(self.shared_bytes).next_multiple_of(half.align());
        let bytes = (half.bytes() as u64).next_multiple_of(half.align()) * n_stages as u64;
        self.shared_bytes = u32::try_from(at + bytes).unwrap_or(u32::MAX);
        Half { at: u32::try_from(at).unwrap_or(u32::MAX), ..half }
    }

    /// Instructions in this block whose values are forgotten afterwards.
    fn inline_scope(&mut self, f: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let mark = self.trail.len();
        let done = f(self);
        for key in self.trail.drain(mark..) {
            self.memo.remove(&key);
        }
        done
    }

    /// More shared memory for a statement's own use, in bytes; behind the buffers, the same for all statements.
    fn scratch(&mut self, bytes: u32) -> u32 {
        let at = self.tiles_end;
        self.shared_bytes = self.shared_bytes.max(at + bytes);
        at
    }

    fn known_ranges(&mut self) {
        let wide = attn_compiler::tile_ir::wide::wide_params(self.program);
        for dim in &self.program.dims {
            self.ranges.insert(dim.var, Range { lo: 0, hi: MAX_LEN - 1 });
        }
        for param in &self.program.params {
            if !wide.contains(&param.var) {
                let (lo, hi) = (i64::from(i32::MIN), i64::from(i32::MAX));
                self.ranges.insert(param.var, Range { lo, hi });
            }
        }
    }

    fn pool(&self) -> &'_ Pool {
        &self.program.pool
    }

    fn recall(&self, key: Key) -> Option<Val> {
        self.memo.get(&key).copied()
    }

    fn remember(&mut self, key: Key, v: Val) {
        self.memo.insert(key, v);
        self.trail.push(key);
    }

    /// Gives a variable its value for the rest of the scope. An int whose range is narrow is 32 bits wide.
    fn bind(&mut self, var: VarId, value: Val, range: Range) {
        self.ranges.insert(var, range);
        let value = if self.b.ty(value) == Ty::I64 && narrow(range) {
            self.b.cast(Cast::Trunc, Ty::I32, value)
        } else if self.b.ty(value) == Ty::I32 && !narrow(range) {
            self.b.cast(Cast::SExt, Ty::I64, value)
        } else {
            value
        };
        self.remember(Key::Var(var), value);
    }

    /// Runs `f` in a block of its own and forgets what it remembered.
    fn scoped(&mut self, f: impl FnOnce(&mut Self) -> Result<()>) -> Result<Vec<Inst>> {
        let mark = self.trail.len();
        self.b.open();
        let done = f(self);
        let insts = self.b.close();
        for key in self.trail.drain(mark..) {
            self.memo.remove(&key);
        }
        done.map(|()| insts)
    }

    /// `for i in (lo..hi).step_by(step)`, all I32.
    fn count_loop(
        &mut self,
        (lo, hi, step): (Val, Val, i64),
        f: impl FnOnce(&mut Self, Val) -> Result<()>,
    ) -> Result<()> {
        let counter = self.b.slot(lo);
        let body = self.scoped(|l| {
            let i = l.b.get(counter);
            let end = l.b.cmp(Cmp::Sle, hi, i);
            l.b.push(Inst::BreakIf(end));
            f(l, i)?;
            let i = l.b.get(counter);
            let next = l.b.bin_int(Bin::Add, i, step);
            l.b.set(counter, next);
            Ok(())
        })?;
        self.b.push(Inst::Loop { body, afresh: false });
        Ok(())
    }

    /// Instructions where `cond` holds.
    fn when(&mut self, cond: Val, f: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let then = self.scoped(f)?;
        self.b.push(Inst::If { cond, then, otherwise: vec![] });
        Ok(())
    }

    /// Each warp takes rows, each of its lanes sees the row.
    fn warp_rows(&mut self, rows: Val, f: impl FnOnce(&mut Self, Val) -> Result<()>) -> Result<()> {
        self.count_loop((self.warp, rows, i64::from(self.threads) / WARP), f)
    }

    /// Each lane takes columns.
    fn lane_cols(&mut self, cols: Val, f: impl FnOnce(&mut Self, Val) -> Result<()>) -> Result<()> {
        self.count_loop((self.lane, cols, WARP), f)
    }

    /// Each thread takes numbers below `n`.
    fn each_thread(&mut self, n: Val, f: impl FnOnce(&mut Self, Val) -> Result<()>) -> Result<()> {
        self.count_loop((self.tid, n, i64::from(self.threads)), f)
    }

    /// One thread of the block does it.
    fn one_thread(&mut self, f: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let zero = self.b.i32(0);
        let first = self.b.cmp(Cmp::Eq, self.tid, zero);
        self.when(first, f)
    }

    /// One lane of the warp does it.
    fn leading(&mut self, f: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let zero = self.b.i32(0);
        let leads = self.b.cmp(Cmp::Eq, self.lane, zero);
        self.when(leads, f)
    }

    fn range(&self, id: ExprId) -> Range {
        let bounds = Bounds { program: self.program, ranges: &self.ranges };
        attn_compiler::expr::range::range(self.pool(), id, &bounds)
    }

    fn buffer(&self, buf: BufId) -> Result<&Buffer> {
        let missing = || GpuError::internal("buffers", "a buffer is declared", format!("{buf:?}"));
        self.launch.buffers.get(buf.0 as usize).ok_or_else(missing)
    }

    fn tensor(&self, t: TensorId) -> Result<&TensorDecl> {
        let missing = || GpuError::internal("tensors", "a tensor is declared", format!("{t:?}"));
        self.program.tensors.get(t.0 as usize).ok_or_else(missing)
    }

    /// An expression as text, for errors.
    fn print(&self, id: ExprId) -> String {
        let name = |t: TensorId| match self.program.tensors.get(t.0 as usize) {
            Some(decl) => decl.name.clone(),
            None => format!("tensor{}", t.0),
        };
        print::print(self.pool(), id, &name)
    }
}
