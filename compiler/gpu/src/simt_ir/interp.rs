//! What a kernel of the SIMT IR computes: every instruction of every thread of a grid, on given global memory.
//!
//! Comes in: a [`Kernel`] (it is verified first), the words and tensor maps of a launch, global memory ([`Global`]). Goes
//! out: what the kernel leaves in that memory, or the first thing that it must not do, with the instruction and the thread
//! ([`Fault`]): an access out of range or not aligned, a read of what nothing has written (shared memory, a slot), a barrier
//! that not all reach or that all reach at different places, an instruction of a warp or a warpgroup that not all its lanes
//! execute together, shapes and descriptors that mean nothing, warps that wait for what never comes.
//!
//! This is the meaning, not a machine. The 32 lanes of a warp go in step through structured control, those for which a
//! condition holds first. A warp runs until it must wait, then the next does: so roles interleave, in one fixed order.
//! What a machine does later is done at once: copies, products of warpgroups. A slot that a product writes can be read
//! after a wait that names it, as the IR says. Floats are rounded once for each operation; products of fragments are summed
//! in f32 in the order of their terms; `ex2` is 2^x in f64, rounded, subnormal operands and results taken for 0: PTX leaves
//! the last bits of both to the machine, `ptx-sim` says the same as this.
//! Deliberately not here, since `ptx-sim` looks for it in the PTX: races, fences that are missing, waits for copies that
//! are missing, other orders of warps. Registers that warpgroups move ([`Inst::Registers`]) compute nothing.

mod copies;
mod fragments;
mod shared;
mod sync;
#[cfg(test)]
mod tests;
mod values;
mod warp;
mod wgmma;

use super::{Async, AtomicInc, Bulk, Inst, Kernel, Mbar, Op, Space, Ty, Val, text, verify};
pub use copies::{MapError, TensorMap};
use shared::Shared;
use sync::Barriers;
use values::{ALL, Lanes, lanes};
use warp::{State, Warp};

/// Instructions of warps after which a launch is given up.
pub const MAX_STEPS: u64 = 200_000_000;
/// Where the dynamic shared memory begins in its window: not at 0, so that a place in it and an address differ.
const WINDOW: u32 = 1024;
/// Lanes of a warp.
const WARP: u32 = 32;

/// Global memory.
pub trait Global {
    /// Bytes from an address on. Errors: they are not all in one allocation, or nothing has written one of them.
    fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), String>;
    /// Writes bytes from an address on. Errors: they are not all in one allocation.
    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), String>;
}

/// What a kernel is launched with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch<'a> {
    /// Blocks.
    pub blocks: u32,
    /// Values of the parameters.
    pub words: &'a [u64],
    /// The tensor maps behind them.
    pub maps: &'a [TensorMap],
    /// Instructions of warps after which the launch is given up.
    pub max_steps: u64,
}

/// What went wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// Kernel.
    pub kernel: String,
    /// Block, if it had begun.
    pub block: Option<u32>,
    /// Thread of the block, if it is one's.
    pub thread: Option<u32>,
    /// The instruction and its line in the kernel's text, if it is one's.
    pub place: Option<String>,
    /// What it did.
    pub why: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "kernel `{}`", self.kernel)?;
        self.block.map_or(Ok(()), |block| write!(f, ", block {block}"))?;
        self.thread.map_or(Ok(()), |thread| write!(f, ", thread {thread}"))?;
        self.place.as_ref().map_or(Ok(()), |place| write!(f, ", {place}"))?;
        write!(f, ": {}", self.why)
    }
}

/// Runs a kernel for every block of a grid.
///
/// # Errors
/// The kernel is refused by the verifier, its arguments do not fit, or the first thing that it must not do.
pub fn run(kernel: &Kernel, launch: &Launch<'_>, global: &mut dyn Global) -> Result<(), Fault> {
    verify::verify(kernel).map_err(|err| of_launch(kernel, err.to_string()))?;
    execute(kernel, launch, global)
}

/// As [`run`], for a kernel that is verified.
fn execute(kernel: &Kernel, launch: &Launch<'_>, global: &mut dyn Global) -> Result<(), Fault> {
    let (words, maps) = (launch.words.len(), launch.maps.len());
    if words != kernel.n_params as usize || maps != kernel.n_maps as usize {
        let why = format!(
            "{words} words and {maps} maps for {} parameters and {} maps",
            kernel.n_params, kernel.n_maps
        );
        return Err(of_launch(kernel, why));
    }
    let mut left = launch.max_steps;
    let mut warps: Vec<Warp<'_>> = (0..kernel.threads / WARP).map(|_| Warp::new(kernel)).collect();
    for id in 0..launch.blocks {
        warps.iter_mut().for_each(|warp| warp.restart(kernel));
        let n_warps = warps.len();
        let mut block = Block {
            kernel,
            launch,
            global: &mut *global,
            id,
            shared: Shared::new(kernel.shared_bytes),
            barriers: Barriers::default(),
            products: vec![Vec::new(); n_warps.div_ceil(4)],
            warps: &mut warps,
            left: &mut left,
        };
        block.run()?;
    }
    Ok(())
}

fn of_launch(kernel: &Kernel, why: String) -> Fault {
    Fault { kernel: kernel.name.clone(), block: None, thread: None, place: None, why }
}

/// What an instruction must not do, and the lane if it is one's.
struct Trouble {
    lane: Option<usize>,
    why: String,
}

type Exec<T> = Result<T, Trouble>;

fn trouble<T>(why: impl Into<String>) -> Exec<T> {
    Err(Trouble { lane: None, why: why.into() })
}

/// Says whose trouble it is.
fn blame<T>(lane: usize, done: Result<T, String>) -> Exec<T> {
    done.map_err(|why| Trouble { lane: Some(lane), why })
}

/// What becomes of a warp after an instruction.
enum Flow {
    /// The next one.
    Next,
    /// It has arrived and waits.
    Wait,
    /// It tries again when others have moved.
    Again,
}

/// A block that runs.
struct Block<'k, 'b> {
    kernel: &'k Kernel,
    launch: &'b Launch<'b>,
    global: &'b mut dyn Global,
    id: u32,
    shared: Shared,
    barriers: Barriers<'k>,
    /// Of each warpgroup, the products in order.
    products: Vec<Vec<&'k Inst>>,
    warps: &'b mut [Warp<'k>],
    /// Instructions until the launch is given up.
    left: &'b mut u64,
}

impl<'k> Block<'k, '_> {
    fn run(&mut self) -> Result<(), Fault> {
        loop {
            let mut moved = false;
            for w in 0..self.warps.len() {
                moved |= self.run_warp(w)?;
            }
            if self.warps.iter().all(|warp| warp.state == State::Ended) {
                return self.check_products();
            }
            if !moved {
                return Err(self.fault(None, None, self.deadlock()));
            }
        }
    }

    /// Runs a warp until it waits or ends; whether it got on.
    fn run_warp(&mut self, w: usize) -> Result<bool, Fault> {
        let mut moved = false;
        if let State::Polls(_) = self.warps[w].state {
            self.warps[w].state = State::Ready;
        }
        while self.warps[w].state == State::Ready {
            let next = self.warps[w].advance(self.left);
            let Some((inst, mask)) = next.map_err(|t| self.blamed(w, self.warps[w].current, t))? else {
                self.warps[w].state = State::Ended;
                return Ok(true);
            };
            let flow = self.exec(w, inst, mask).map_err(|t| self.blamed(w, Some(inst), t))?;
            match flow {
                Flow::Next => moved = true,
                Flow::Wait => {
                    moved = true;
                    self.warps[w].state = State::Waits(inst);
                }
                Flow::Again => {
                    self.warps[w].step_back();
                    self.warps[w].state = State::Polls(inst);
                }
            }
        }
        Ok(moved)
    }

    fn fault(&self, thread: Option<u32>, inst: Option<&Inst>, why: String) -> Fault {
        let place = inst.map(|inst| text::place(self.kernel, inst));
        Fault { kernel: self.kernel.name.clone(), block: Some(self.id), thread, place, why }
    }

    fn blamed(&self, w: usize, inst: Option<&Inst>, trouble: Trouble) -> Fault {
        let lane = trouble.lane.unwrap_or(0);
        self.fault(Some(w as u32 * WARP + lane as u32), inst, trouble.why)
    }

    /// Who waits for what.
    fn deadlock(&self) -> String {
        let each = self.warps.iter().enumerate().map(|(w, warp)| match warp.state {
            State::Ended => format!("warp {w} has ended"),
            State::Waits(inst) => format!("warp {w} waits at {}", text::place(self.kernel, inst)),
            State::Polls(inst) => {
                let what = self.awaited(w, inst).unwrap_or_default();
                format!("warp {w} waits at {}{what}", text::place(self.kernel, inst))
            }
            State::Ready => format!("warp {w} could go on"),
        });
        format!("no warp can go on: {}", each.collect::<Vec<_>>().join("; "))
    }

    /// One arm for each instruction (tidy: long match).
    fn exec(&mut self, w: usize, inst: &'k Inst, mask: u32) -> Exec<Flow> {
        match inst {
            Inst::Def(v, op) => {
                let value = self.op(w, *v, op, mask)?;
                self.warps[w].define(*v, mask, &value);
            }
            Inst::Set(slot, v) => {
                let value = *self.warps[w].val(*v);
                self.warps[w].set(*slot, mask, &value)?;
            }
            Inst::Store(space, addr, v) => self.store(w, *space, *addr, *v, mask)?,
            Inst::Bar => return self.bar(w, inst, mask),
            Inst::WarpBar => whole(mask)?,
            Inst::NamedBar { wait, id, threads } => {
                return self.named_bar(w, (*wait, *id, *threads), mask);
            }
            Inst::Mma(op) => self.mma(w, op, mask)?,
            Inst::LdMatrix(op) => self.ldmatrix(w, op, mask)?,
            Inst::AtomicInc(op) => self.atomic_inc(w, op, mask)?,
            Inst::Async(Async::Copy { dst, src, bytes }) => self.copy16(w, [*dst, *src, *bytes], mask)?,
            Inst::Async(Async::Commit | Async::Wait(_)) => {}
            Inst::Wgmma(op) => self.wgmma(w, inst, op, mask)?,
            Inst::Mbar(Mbar::Copy { dst, map, coords, bar }) => {
                self.tma_load(w, *map, coords, [*dst, *bar], mask)?;
            }
            Inst::Mbar(op) => return self.mbar(w, op, mask),
            Inst::Bulk(Bulk::Store { src, map, coords }) => self.tma_store(w, *map, coords, *src, mask)?,
            Inst::Bulk(Bulk::Commit | Bulk::WaitRead(_)) => {}
            Inst::Registers { count, .. } => {
                whole(mask)?;
                if !count.is_multiple_of(8) || !(24..=256).contains(count) {
                    return trouble("a count of registers is a multiple of 8 from 24 to 256");
                }
            }
            // `Warp::advance` goes through these.
            Inst::If { .. } | Inst::Loop { .. } | Inst::BreakIf(_) => {}
        }
        Ok(Flow::Next)
    }

    /// The value of an operation, in the lanes of `mask`.
    fn op(&mut self, w: usize, v: Val, op: &Op, mask: u32) -> Exec<Lanes> {
        let ty = self.ty(v);
        let warp = &self.warps[w];
        let of = |x: &Val| warp.val(*x);
        Ok(match op {
            Op::Int(x) => [*x as u64 & values::bits_of(ty); 32],
            Op::Float(x) => [values::float_bits(ty, *x); 32],
            Op::Param(n) => [self.launch.words[*n as usize]; 32],
            Op::Tid => std::array::from_fn(|l| w as u64 * u64::from(WARP) + l as u64),
            Op::Ctaid => [u64::from(self.id); 32],
            Op::Nctaid => [u64::from(self.launch.blocks); 32],
            Op::SharedBase => [u64::from(WINDOW); 32],
            Op::Bin(op, a, b) => values::bin(*op, ty, of(a), of(b), mask)?,
            Op::Un(op, a) => values::un(*op, ty, of(a))?,
            Op::Cmp(op, a, b) => values::cmp(*op, self.ty(*a), of(a), of(b)),
            Op::Select(c, a, b) => {
                let (c, a, b) = (of(c), of(a), of(b));
                std::array::from_fn(|l| if c[l] & 1 == 1 { a[l] } else { b[l] })
            }
            Op::Fma(a, b, c) => values::fma(ty, of(a), of(b), of(c)),
            Op::Cast(cast, a) => values::cast(*cast, self.ty(*a), ty, of(a)),
            Op::Load(space, addr) => return self.load(w, *space, ty, *addr, mask),
            Op::Get(slot) => return warp.get(*slot, mask).copied(),
            Op::Pack { bf16, low, high } => values::pack(*bf16, of(low), of(high)),
            Op::Shfl(a, by) => {
                whole(mask)?;
                let a = of(a);
                std::array::from_fn(|l| a[l ^ (*by as usize & 31)])
            }
            Op::Uniform(a) => {
                whole(mask)?;
                [of(a)[0]; 32]
            }
        })
    }

    fn ty(&self, v: Val) -> Ty {
        self.kernel.vals[v.0 as usize]
    }

    fn load(&self, w: usize, space: Space, ty: Ty, addr: Val, mask: u32) -> Exec<Lanes> {
        let (addrs, n) = (self.warps[w].val(addr), ty.bytes() as usize);
        let mut out = [0; 32];
        for l in lanes(mask) {
            let mut bytes = [0; 8];
            let read = match space {
                Space::Global => {
                    aligned(addrs[l], n).and_then(|()| self.global.read(addrs[l], &mut bytes[..n]))
                }
                Space::Shared => self.shared.read(addrs[l] as u32, n as u32, &mut bytes[..n]),
            };
            blame(l, read)?;
            out[l] = u64::from_le_bytes(bytes) & values::bits_of(ty);
        }
        Ok(out)
    }

    /// Lanes come one after another.
    fn atomic_inc(&mut self, w: usize, op: &AtomicInc, mask: u32) -> Exec<()> {
        let (at, most) = (*self.warps[w].val(op.at), *self.warps[w].val(op.most));
        let mut was = [0; 32];
        for l in lanes(mask) {
            let mut bytes = [0; 4];
            let read = aligned(at[l], 4).and_then(|()| self.global.read(at[l], &mut bytes));
            blame(l, read)?;
            let old = u32::from_le_bytes(bytes);
            let new = if old >= most[l] as u32 { 0 } else { old + 1 };
            blame(l, self.global.write(at[l], &new.to_le_bytes()))?;
            was[l] = u64::from(old);
        }
        self.warps[w].define(op.dst, mask, &was);
        Ok(())
    }

    fn store(&mut self, w: usize, space: Space, addr: Val, v: Val, mask: u32) -> Exec<()> {
        let n = self.ty(v).bytes() as usize;
        let (addrs, values) = (*self.warps[w].val(addr), *self.warps[w].val(v));
        for l in lanes(mask) {
            let bytes = &values[l].to_le_bytes()[..n];
            let written = match space {
                Space::Global => aligned(addrs[l], n).and_then(|()| self.global.write(addrs[l], bytes)),
                Space::Shared => self.shared.write(addrs[l] as u32, n as u32, bytes),
            };
            blame(l, written)?;
        }
        Ok(())
    }
}

/// An address in global memory.
fn aligned(addr: u64, to: usize) -> Result<(), String> {
    if addr.is_multiple_of(to as u64) {
        return Ok(());
    }
    Err(format!("global address {addr:#x} is no multiple of {to}"))
}

/// All lanes of the warp are here.
fn whole(mask: u32) -> Exec<()> {
    if mask == ALL {
        return Ok(());
    }
    let missing = lanes(!mask).next().unwrap_or(0);
    Err(Trouble { lane: Some(missing), why: "control diverges: this lane of the warp is not here".into() })
}
