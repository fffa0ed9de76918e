//! Which tasks a block does.
//!
//! Comes in: the grid of a launch. Goes out: its coordinates for the task of a block; or, where warps have roles, loops in
//! which a block takes one task after another, so that the next one's tiles come in while the last one's results leave.
//! What holds: at most as many blocks are launched as there are tasks, any number from 1; a block begins with the task of
//! its number, and a counter in global memory gives out the others in ascending order, which is that of falling work; it
//! is 0 before a launch and again after it. The warp that brings tiles takes a task and hands it over in shared memory; one
//! that does not exist is the end (numbers have no sign, so that none is lost behind the last). All warps go through the
//! same tasks.
//!
//! Every task that a block does asks for one more: that makes as many questions as tasks, and the last one, whoever asks
//! it, leaves the counter at 0 again.

use attn_compiler::expr::range::Range;
use attn_compiler::tile_ir::Stmt;

use super::sync::touched;
use super::{Lower, Result, WARP};
use crate::simt_ir::{Bin, Cmp, Inst, Op, Space, Ty, Val};

/// The word of the argument block that holds the counter's address.
const COUNTER_WORD: usize = 0;

/// The barrier at which warps that compute wait for a task, and the one where the warp that hands them over waits until the
/// last one has been read. No mbarriers: their parity would take a register all through a task.
const GIVEN: u32 = 4;
const READ: u32 = 5;

impl Lower<'_> {
    /// The one task of a block, whose number the block has.
    pub(super) fn only_task(&mut self) -> Result<()> {
        let task = self.b.def(Ty::I32, Op::Ctaid);
        self.coordinates(task)
    }

    /// The grid coordinates of a task.
    fn coordinates(&mut self, task: Val) -> Result<()> {
        let mut rest = task;
        for (n, (var, extent)) in self.launch.grid.iter().enumerate().rev() {
            let range = self.range(*extent);
            let hi = range.hi.saturating_sub(1).clamp(0, i64::from(i32::MAX));
            let value = if n == 0 {
                rest
            } else {
                // The product of the extents is the number of tasks, which fits 32 bits; no extent is 0 here.
                let extent = self.int32(*extent)?;
                let next = self.b.bin(Bin::SDiv, rest, extent);
                let back = self.b.bin(Bin::Mul, next, extent);
                let value = self.b.bin(Bin::Sub, rest, back);
                rest = next;
                value
            };
            self.bind(*var, value, Range { lo: 0, hi });
        }
        Ok(())
    }

    /// All threads that hand over or take tasks meet, or only arrive.
    fn meet(&mut self, id: u32, wait: bool) {
        self.b.push(Inst::NamedBar { wait, id, threads: self.threads + WARP as u32 });
    }

    /// Where a task's number is handed over, in shared memory.
    pub(super) fn make_handover(&mut self) -> u32 {
        let at = self.shared_bytes.next_multiple_of(4);
        self.shared_bytes = at + 4;
        at
    }

    /// The number of the last task. There is one.
    fn last_task(&mut self) -> Result<Val> {
        let mut n = self.b.i32(1);
        for (_, extent) in &self.launch.grid {
            let extent = self.int32(*extent)?;
            n = self.b.bin(Bin::Mul, n, extent);
        }
        Ok(self.b.bin_int(Bin::Sub, n, 1))
    }

    /// `f` for one task after another, by the warp that hands them over.
    pub(super) fn give_tasks(
        &mut self,
        handover: u32,
        f: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let (most, counter) = (self.last_task()?, self.word(COUNTER_WORD));
        let first = self.b.def(Ty::I32, Op::Ctaid);
        let zero = self.b.i32(0);
        let (task, taken) = (self.b.slot(first), self.b.slot(zero));
        let body = self.scoped(|l| {
            let this = l.b.get(task);
            l.meet(READ, true);
            l.leading(|l| {
                let at = l.b.i32(i64::from(handover));
                l.b.store(Space::Shared, at, this);
                Ok(())
            })?;
            l.meet(GIVEN, false);
            let end = l.b.cmp(Cmp::Ult, most, this);
            l.b.push(Inst::BreakIf(end));
            // Asked for before this task's tiles, so that the answer is there behind them.
            l.leading(|l| {
                let n = l.b.atomic_inc(counter, most);
                l.b.set(taken, n);
                Ok(())
            })?;
            l.coordinates(this)?;
            f(l)?;
            let n = l.b.get(taken);
            let n = l.b.def(Ty::I32, Op::Uniform(n));
            let blocks = l.b.def(Ty::I32, Op::Nctaid);
            let next = l.b.bin(Bin::Add, n, blocks);
            l.b.set(task, next);
            Ok(())
        })?;
        self.b.push(Inst::Loop { body, afresh: true });
        Ok(())
    }

    /// `f` for each task that is handed over.
    pub(super) fn take_tasks(
        &mut self,
        handover: u32,
        stmts: &[Stmt],
        f: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let before = self.sync;
        // What a task touched is touched when the next one begins.
        self.sync = before.or(touched(stmts));
        self.meet(READ, false);
        let body = self.scoped(|l| {
            l.meet(GIVEN, true);
            let at = l.b.i32(i64::from(handover));
            let mut this = l.b.load(Space::Shared, Ty::I32, at);
            if !l.draws {
                this = l.b.def(Ty::I32, Op::Uniform(this));
            }
            let most = l.last_task()?;
            let end = l.b.cmp(Cmp::Ult, most, this);
            l.b.push(Inst::BreakIf(end));
            l.meet(READ, false);
            l.coordinates(this)?;
            f(l)
        })?;
        self.b.push(Inst::Loop { body, afresh: true });
        self.sync = self.sync.or(before);
        Ok(())
    }
}
