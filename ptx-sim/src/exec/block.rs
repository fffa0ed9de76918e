//! A block: its state, and the step of a warp.
//!
//! Comes in: a kernel, parameters, memory. Goes out: a stepped warp. What holds: one call of [`Block::step`] executes one
//! instruction for the lanes that stand together. Not here: which warp steps ([`super::sched`]).

use std::collections::BTreeMap;

use super::access::Local;
use super::barrier::Bar;
use super::bulk::BulkGroups;
use super::clock::Clocks;
use super::cluster::ClusterBar;
use super::copy::{Copies, Pending};
use super::global::Global;
use super::mbarrier::MBar;
use super::order::Order;
use super::shared::Shared;
use super::warp::{ALL, Wait, Warp, lanes};
use super::wgmma::Products;
use super::{Rng, alu, convert, float};
use crate::fault::{Exec, FaultKind, lane_trouble, trouble};
use crate::host::LaunchOptions;
use crate::isa::*;
use crate::report::Stats;

/// What a launch gives every block.
pub(crate) struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub meets: &'a [u32],
    pub params: &'a [u8],
    pub options: &'a LaunchOptions,
    /// Addresses of the module's tables.
    pub tables: &'a [u64],
    pub grid: [u32; 3],
    pub dims: [u32; 3],
    pub dynamic: u32,
}

pub(crate) struct Block<'a> {
    pub kernel: &'a Kernel,
    pub meets: &'a [u32],
    pub params: &'a [u8],
    pub options: &'a LaunchOptions,
    pub id: [u32; 3],
    pub dims: [u32; 3],
    pub global: &'a mut Global,
    pub stats: &'a mut Stats,
    pub shared: Shared,
    pub clocks: Clocks,
    pub warps: Vec<Warp>,
    pub locals: Vec<Local>,
    pub order: Order,
    pub cluster: ClusterBar,
    pub bars: Vec<Bar>,
    pub mbars: BTreeMap<u32, MBar>,
    pub copies: Vec<Copies>,
    pub bulks: BTreeMap<usize, BulkGroups>,
    pub pending: Vec<Pending>,
    pub products: Products<'a>,
    pub rng: Rng,
    /// Counts what may let a waiting warp go on.
    pub events: u64,
    /// Rounds of waking everybody without an event.
    pub futile: u32,
    /// Bursts since a copy ended.
    pub patience: u32,
    /// Registers that setmaxnreg.dec gave back; `None` without a cap.
    pub register_pool: Option<u32>,
}

/// What a step did.
pub(crate) enum Flow {
    /// Done, go on.
    Next,
    /// Done and the pc is set.
    Jumped,
    /// Not done: the same instruction again later.
    Stay(Wait),
    /// Done, but the warp now waits.
    Sleep(Wait),
    /// The warp stands at a barrier that will advance it.
    Parked(u32),
}

impl<'a> Block<'a> {
    pub fn new(l: &Launch<'a>, id: [u32; 3], rng: Rng, global: &'a mut Global, stats: &'a mut Stats) -> Self {
        let kernel = l.kernel;
        let threads = l.dims.iter().product::<u32>() as usize;
        let n_warps = threads.div_ceil(32);
        let size = match kernel.dynamic {
            Some((start, _)) => start + l.dynamic,
            None => kernel.shared_bytes,
        };
        let regs = start_registers(kernel, threads as u32);
        let mut block = Self {
            kernel,
            meets: l.meets,
            params: l.params,
            options: l.options,
            id,
            dims: l.dims,
            global,
            stats,
            shared: Shared::new(size as usize),
            clocks: Clocks::new(n_warps * 32),
            warps: Vec::new(),
            locals: vec![Local::new(kernel.local_bytes as usize); n_warps * 32],
            order: Order::default(),
            cluster: ClusterBar::default(),
            bars: (0..16).map(|_| Bar::default()).collect(),
            mbars: BTreeMap::new(),
            copies: (0..n_warps * 32).map(|_| Copies::default()).collect(),
            bulks: BTreeMap::new(),
            pending: Vec::new(),
            products: Products::new(n_warps),
            rng,
            events: 0,
            futile: 0,
            patience: 0,
            register_pool: regs.map(|_| 0),
        };
        for w in 0..n_warps {
            let present = if threads - w * 32 >= 32 { ALL } else { (1 << (threads - w * 32)) - 1 };
            let mut warp = Warp::new(kernel, w, present);
            warp.max_regs = regs.unwrap_or(0);
            for (row, what) in &kernel.specials {
                let mut values = [0; 32];
                for (lane, value) in values.iter_mut().enumerate() {
                    *value = special(*what, l, id, w, lane);
                }
                warp.fill(*row, &values);
            }
            for (row, table, off) in &kernel.table_rows {
                warp.fill(*row, &[l.tables[*table].wrapping_add_signed(*off); 32]);
            }
            block.warps.push(warp);
        }
        block
    }

    /// Index of a thread in the block.
    pub fn thread_id(&self, thread: usize) -> [u32; 3] {
        let [x, y, _] = self.dims;
        let t = thread as u32;
        [t % x, t / x % y, t / (x * y)]
    }

    /// Something happened that others may wait for.
    pub fn event(&mut self) {
        self.events += 1;
        self.futile = 0;
    }

    /// Executes one instruction of a warp.
    pub fn step(&mut self, w: usize) -> Exec<Flow> {
        let kernel = self.kernel;
        let warp = &mut self.warps[w];
        let (pc, mask) = (warp.splits[warp.cur].pc, warp.splits[warp.cur].mask);
        let inst = &kernel.code[pc as usize];
        let m = warp.pred(inst.guard, mask)?;
        self.stats.count(inst.name);
        match &inst.op {
            Op::Bra { target } => {
                let back = warp.branch(m, *target, self.meets[pc as usize]);
                if back && warp.splits.len() > 1 {
                    warp.rotate();
                }
                Ok(Flow::Jumped)
            }
            _ if m == 0 => {
                warp.advance();
                Ok(Flow::Jumped)
            }
            Op::Exit => {
                self.exit(w, m)?;
                Ok(Flow::Jumped)
            }
            op => {
                if op.wants_company() && self.warps[w].hold() {
                    return Ok(Flow::Jumped);
                }
                let flow = self.execute(w, op, m)?;
                if matches!(flow, Flow::Next | Flow::Sleep(_)) {
                    self.warps[w].advance();
                }
                Ok(flow)
            }
        }
    }

    fn exit(&mut self, w: usize, m: u32) -> Exec<()> {
        for l in lanes(m) {
            let open = self.bulks.get(&(w * 32 + l)).is_some_and(BulkGroups::reads_open);
            if open {
                let detail = "the thread ends while a bulk store may still read shared memory";
                return lane_trouble(FaultKind::PendingAtExit, l as u32, detail);
            }
        }
        if self.warps[w].live == m && self.products.in_flight(w) {
            return trouble(FaultKind::PendingAtExit, "the warp ends while wgmma is in flight");
        }
        self.warps[w].exit(m);
        self.event();
        self.complete_cluster();
        self.barriers_after_exit()
    }

    /// tidy: long match (one call for each operation).
    fn execute(&mut self, w: usize, op: &'a Op, m: u32) -> Exec<Flow> {
        let warp = &mut self.warps[w];
        match op {
            Op::Nop | Op::Bra { .. } | Op::Exit => {}
            Op::Trap => return lane_trouble(FaultKind::Trap, m.trailing_zeros(), "the kernel trapped"),
            Op::Mov { d, a } => warp.copy(*d, *a, m)?,
            Op::MovPred { d, a } => {
                let bits = warp.pred(*a, m)?;
                warp.set_pred(*d, m, bits);
            }
            Op::PredBin { f, d, a, b } => {
                let (a, b) = (warp.pred(*a, m)?, warp.pred(*b, m)?);
                let bits = match f {
                    Combine::And => a & b,
                    Combine::Or => a | b,
                    Combine::Xor => a ^ b,
                };
                warp.set_pred(*d, m, bits);
            }
            Op::Pack { d, parts, bits } => alu::pack(warp, *d, parts, *bits, m)?,
            Op::Unpack { d, a, bits } => alu::unpack(warp, d, *a, *bits, m)?,
            Op::Clock { d, bits } => {
                let now = self.stats.steps & (u64::MAX >> (64 - bits));
                warp.put(*d, m, &[now; 32])?;
            }
            Op::ActiveMask { d } => warp.put(*d, m, &[u64::from(m); 32])?,
            Op::Int1 { f, ty, d, a } => alu::int1(warp, *f, *ty, *d, *a, m)?,
            Op::Int2 { f, ty, d, a, b } => alu::int2(warp, *f, *ty, [*d, *a, *b], m)?,
            Op::Int3 { f, ty, d, a, b, c } => alu::int3(warp, *f, *ty, [*d, *a, *b, *c], m)?,
            Op::Bfi { ty, d, a, b, c, e } => alu::bfi(warp, *ty, [*d, *a, *b, *c, *e], m)?,
            Op::Carry { sub, ty, use_cc, set_cc, d, a, b } => {
                alu::carry(warp, [*sub, *use_cc, *set_cc], *ty, [*d, *a, *b], m)?;
            }
            Op::F1 { f, ty, mode, d, a } => float::one(warp, *f, *ty, *mode, [*d, *a], m)?,
            Op::F2 { f, ty, mode, d, a, b } => float::two(warp, *f, *ty, *mode, [*d, *a, *b], m)?,
            Op::Fma { ty, mode, d, a, b, c } => float::fma(warp, *ty, *mode, [*d, *a, *b, *c], m)?,
            Op::Setp(s) => alu::compare(warp, s, m)?,
            Op::Selp { ty, d, a, b, p } => alu::selp(warp, *ty, [*d, *a, *b], *p, m)?,
            Op::Slct { ty, float, d, a, b, c } => alu::slct(warp, *ty, *float, [*d, *a, *b, *c], m)?,
            Op::Cvt(c) => convert::cvt(warp, c, m)?,
            Op::Cvta { to_generic, space, d, a } => self.cvta(w, *to_generic, *space, [*d, *a], m)?,
            Op::IsSpace { space, p, a } => self.is_space(w, *space, *p, *a, m)?,
            Op::Ld(ld) => self.load(w, ld, m)?,
            Op::St(st) => self.store(w, st, m)?,
            Op::Atom(a) => self.atomic(w, a, m)?,
            Op::Shfl { mode, d, p, a, b, c, mask } => {
                self.shuffle(w, *mode, [*d, *a, *b, *c, *mask], *p, m)?
            }
            Op::Vote { mode, d, p, a, mask } => self.vote(w, *mode, (*d, *p), *a, *mask, m)?,
            Op::Match { all, ty, d, p, a, mask } => self.matching(w, (*all, *ty), [*d, *a, *mask], *p, m)?,
            Op::Redux { op, ty, d, a, mask } => self.redux(w, (*op, *ty), [*d, *a, *mask], m)?,
            Op::Elect { d, p, mask } => self.elect(w, *d, *p, *mask, m)?,
            Op::WarpSync { mask } => self.warp_sync(w, *mask, m)?,
            Op::Bar { id, count, arrive, aligned } => {
                return self.bar(w, *id, *count, [*arrive, *aligned], m);
            }
            Op::ClusterBar { wait, relaxed } => return self.cluster_bar(w, *wait, *relaxed, m),
            Op::Fence(kind) => self.fence(w, *kind, m),
            Op::Ldmatrix { addr, d, trans } => self.ldmatrix(w, addr, d, *trans, m)?,
            Op::Stmatrix { addr, a, trans } => self.stmatrix(w, addr, a, *trans, m)?,
            Op::Mma(mma) => self.mma(w, mma, m)?,
            Op::CpAsync(c) => self.cp_async(w, c, m)?,
            Op::CpCommit => self.cp_commit(w, m),
            Op::CpWait { pending } => self.cp_wait(w, *pending, m)?,
            Op::Mbar(mbar) => return self.mbarrier(w, mbar, m),
            Op::Bulk(b) => self.bulk(w, b, m)?,
            Op::BulkCommit => self.bulk_commit(w, m),
            Op::BulkWait { pending, read } => self.bulk_wait(w, *pending, *read, m)?,
            Op::WgmmaFence => self.wgmma_fence(w, m)?,
            Op::WgmmaCommit => self.wgmma_commit(w, m)?,
            Op::WgmmaWait { pending } => return self.wgmma_wait(w, *pending, m),
            Op::Wgmma(p) => self.wgmma(w, p, m)?,
            Op::SetMaxNReg { inc, count } => return self.set_max_registers(w, *inc, *count, m),
            Op::Mapa { d, a, cta } => self.mapa(w, [*d, *a, *cta], m)?,
        }
        Ok(Flow::Next)
    }

    fn cvta(&mut self, w: usize, to_generic: bool, space: Space, [d, a]: [Row; 2], m: u32) -> Exec<()> {
        let window = match space {
            Space::Shared => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            Space::Param => PARAM_WINDOW,
            _ => 0,
        };
        if to_generic {
            self.warps[w].map1(d, a, m, |x| x.wrapping_add(window))
        } else {
            self.warps[w].map1(d, a, m, |x| x.wrapping_sub(window))
        }
    }

    fn is_space(&mut self, w: usize, space: Space, p: PRow, a: Row, m: u32) -> Exec<()> {
        let want = match space {
            Space::Shared => 1,
            Space::Local => 2,
            Space::Param => 3,
            _ => 0,
        };
        let values = *self.warps[w].get(a, m)?;
        let bits = lanes(m).filter(|l| values[*l] >> 52 == want).fold(0, |bits, l| bits | 1 << l);
        self.warps[w].set_pred(p, m, bits);
        Ok(())
    }

    fn mapa(&mut self, w: usize, [d, a, cta]: [Row; 3], m: u32) -> Exec<()> {
        let ranks = *self.warps[w].get(cta, m)?;
        match lanes(m).find(|l| ranks[*l] != 0) {
            Some(l) => lane_trouble(FaultKind::Value, l as u32, "a cluster holds one block, of rank 0"),
            None => self.warps[w].map1(d, a, m, |x| x),
        }
    }

    fn set_max_registers(&mut self, w: usize, inc: bool, count: u32, m: u32) -> Exec<Flow> {
        let warp = &mut self.warps[w];
        warp.together(m, "setmaxnreg")?;
        let Some(pool) = &mut self.register_pool else {
            let detail = "setmaxnreg in a kernel without a register cap may have no effect";
            return trouble(FaultKind::Registers, detail);
        };
        if !(24..=256).contains(&count) || !count.is_multiple_of(8) {
            return trouble(FaultKind::Registers, format!("{count} is no multiple of 8 from 24 to 256"));
        }
        let old = warp.max_regs;
        if inc && old > count || !inc && old < count {
            let to = if inc { "up" } else { "down" };
            return trouble(
                FaultKind::Registers,
                format!("the warp has {old} registers a thread, {count} is not {to}"),
            );
        }
        if inc {
            let need = (count - old) * 32;
            if *pool < need {
                return Ok(Flow::Stay(Wait::Registers(need)));
            }
            *pool -= need;
        } else {
            *pool += (old - count) * 32;
        }
        warp.max_regs = count;
        self.event();
        Ok(Flow::Next)
    }
}

/// Registers a thread at launch, where the kernel caps them.
fn start_registers(kernel: &Kernel, threads: u32) -> Option<u32> {
    if let Some(n) = kernel.max_regs {
        return Some(n);
    }
    let ctas = kernel.min_ctas?;
    let max = kernel.max_threads.or(kernel.req_threads)?.iter().product::<u32>().max(threads);
    Some((65536 / (ctas.max(1) * max) / 8 * 8).min(256))
}

fn special(what: Special, l: &Launch, id: [u32; 3], w: usize, lane: usize) -> u64 {
    let [x, y, _] = l.dims;
    let t = (w * 32 + lane) as u32;
    let tid = [t % x, t / x % y, t / (x * y)];
    let bit = 1u32 << lane;
    let value = match what {
        Special::Tid(n) => tid[n as usize],
        Special::Ntid(n) => l.dims[n as usize],
        Special::Ctaid(n) => id[n as usize],
        Special::Nctaid(n) => l.grid[n as usize],
        Special::LaneId => lane as u32,
        Special::WarpId => w as u32,
        Special::NWarpId => l.dims.iter().product::<u32>().div_ceil(32),
        Special::SmId | Special::GridId | Special::Zero => 0,
        Special::NSmId => 132,
        Special::LaneMaskEq => bit,
        Special::LaneMaskLt => bit - 1,
        Special::LaneMaskLe => bit | (bit - 1),
        Special::LaneMaskGe => !(bit - 1),
        Special::LaneMaskGt => !(bit | (bit - 1)),
        Special::DynamicSmem => l.dynamic,
        Special::TotalSmem => l.kernel.shared_bytes + l.dynamic,
        Special::One => 1,
    };
    u64::from(value)
}
