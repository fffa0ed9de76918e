//! A warp: its registers with their shadows, its lanes and where each stands.
//!
//! Comes in: rows and masks. Goes out: values of lanes. What holds: a value is handed out only if it was written in every
//! lane that reads it and no product in flight owns it; a move copies the state of being unwritten, every other read of
//! it is a fault. Lanes that diverge meet at the immediate postdominator of the branch. Not here: what instructions do.

use crate::cfg::NEVER;
use crate::fault::{Exec, FaultKind, Trouble, lane_trouble, trouble};
use crate::isa::{Kernel, P_FALSE, P_TRUE, PRow, PSrc, Row};

/// Values of all lanes.
pub(crate) type Lanes = [u64; 32];
/// Every lane.
pub(crate) const ALL: u32 = u32::MAX;

/// Lanes of a mask.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros();
        rest &= rest - 1;
        Some(lane as usize)
    })
}

/// Lanes that stand together.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    pub pc: u32,
    pub mask: u32,
    /// Where these lanes meet others, as an index into the groups.
    group: Option<usize>,
    /// They stand at the meeting point.
    arrived: bool,
    /// They stand at an instruction that wants more lanes, and let others go first.
    held: bool,
}

impl Split {
    fn runs(&self) -> bool {
        !self.arrived && !self.held
    }
}

#[derive(Clone, Debug)]
struct Group {
    at: u32,
    mask: u32,
    parent: Option<usize>,
}

/// A product in flight that owns a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lock {
    /// Its number in the warp, from 1; 0 for none.
    pub seq: u32,
    /// It writes the row (else it reads it).
    pub writes: bool,
    /// Its shape: chains of one shape need no fence between them.
    pub shape: u32,
}

/// What a warp waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    No,
    Bar(u32),
    /// Until the other warps of the group have issued this many products.
    Wgmma(u32),
    /// Until this many phases of barrier.cluster are complete.
    Cluster(u32),
    /// Until the pool holds enough registers.
    Registers(u32),
    /// A failed test of an mbarrier; woken by events.
    Doze {
        events: u64,
        addr: u32,
    },
}

pub(crate) struct Warp {
    pub id: usize,
    regs: Vec<Lanes>,
    init: Vec<u32>,
    locks: Vec<Lock>,
    /// The fence epoch of the last ordinary write to a row.
    touched: Vec<u32>,
    preds: Vec<u32>,
    pinit: Vec<u32>,
    pub splits: Vec<Split>,
    /// The split that runs.
    pub cur: usize,
    groups: Vec<Group>,
    /// Lanes that have not ended.
    pub live: u32,
    pub wait: Wait,
    pub fence_epoch: u32,
    pub carry: u32,
    pub max_regs: u32,
}

impl Warp {
    pub fn new(kernel: &Kernel, id: usize, present: u32) -> Self {
        let rows = kernel.rows as usize;
        let preds = kernel.preds as usize;
        let mut warp = Self {
            id,
            regs: vec![[0; 32]; rows],
            init: vec![0; rows],
            locks: vec![Lock::default(); rows],
            touched: vec![0; rows],
            preds: vec![0; preds],
            pinit: vec![0; preds],
            splits: vec![Split { pc: 0, mask: present, group: None, arrived: false, held: false }],
            cur: 0,
            groups: Vec::new(),
            live: present,
            wait: Wait::No,
            fence_epoch: 0,
            carry: 0,
            max_regs: 0,
        };
        warp.preds[P_TRUE as usize] = ALL;
        warp.pinit[P_TRUE as usize] = ALL;
        warp.pinit[P_FALSE as usize] = ALL;
        for (row, value) in &kernel.consts {
            warp.fill(*row, &[*value; 32]);
        }
        warp
    }

    /// Sets a row that holds a constant or a special register.
    pub fn fill(&mut self, row: Row, values: &Lanes) {
        self.regs[row as usize] = *values;
        self.init[row as usize] = ALL;
    }

    /// The values of `row`, written in all lanes of `mask`.
    #[inline]
    pub fn get(&self, row: Row, mask: u32) -> Exec<&Lanes> {
        if self.init[row as usize] & mask == mask {
            Ok(&self.regs[row as usize])
        } else {
            self.unwritten(row, mask)
        }
    }

    #[cold]
    fn unwritten(&self, row: Row, mask: u32) -> Exec<&Lanes> {
        let lock = self.locks[row as usize];
        if lock.seq != 0 && lock.writes {
            return trouble(
                FaultKind::WgmmaNotWaited,
                format!("a register is read while wgmma number {} of warp {} writes it", lock.seq, self.id),
            );
        }
        let lane = (mask & !self.init[row as usize]).trailing_zeros();
        Err(Box::new(Trouble {
            kind: FaultKind::UninitRegister,
            lane: Some(lane),
            detail: "a register is read before it is written".into(),
            row: Some(row),
        }))
    }

    /// The row, to be written in `mask`.
    #[inline]
    pub fn slot(&mut self, row: Row, mask: u32) -> Exec<&mut Lanes> {
        let n = row as usize;
        if self.locks[n].seq != 0 {
            let what = if self.locks[n].writes { "writes" } else { "reads" };
            return trouble(
                FaultKind::WgmmaNotWaited,
                format!(
                    "a register is written while wgmma number {} of warp {} {what} it",
                    self.locks[n].seq, self.id
                ),
            );
        }
        self.init[n] |= mask;
        self.touched[n] = self.fence_epoch;
        Ok(&mut self.regs[n])
    }

    pub fn put(&mut self, row: Row, mask: u32, values: &Lanes) -> Exec<()> {
        let slot = self.slot(row, mask)?;
        if mask == ALL {
            *slot = *values;
        } else {
            lanes(mask).for_each(|l| slot[l] = values[l]);
        }
        Ok(())
    }

    /// A move: unwritten lanes stay unwritten.
    pub fn copy(&mut self, d: Row, a: Row, mask: u32) -> Exec<()> {
        let lock = self.locks[a as usize];
        if lock.seq != 0 && lock.writes {
            return self.unwritten(a, mask).map(|_| ());
        }
        let (values, known) = (self.regs[a as usize], self.init[a as usize]);
        self.put(d, mask, &values)?;
        self.init[d as usize] &= known | !mask;
        Ok(())
    }

    pub fn map1(&mut self, d: Row, a: Row, mask: u32, f: impl Fn(u64) -> u64) -> Exec<()> {
        let x = *self.get(a, mask)?;
        let out = self.slot(d, mask)?;
        if mask == ALL {
            for l in 0..32 {
                out[l] = f(x[l]);
            }
        } else {
            lanes(mask).for_each(|l| out[l] = f(x[l]));
        }
        Ok(())
    }

    pub fn map2(&mut self, d: Row, a: Row, b: Row, mask: u32, f: impl Fn(u64, u64) -> u64) -> Exec<()> {
        let (x, y) = (*self.get(a, mask)?, *self.get(b, mask)?);
        let out = self.slot(d, mask)?;
        if mask == ALL {
            for l in 0..32 {
                out[l] = f(x[l], y[l]);
            }
        } else {
            lanes(mask).for_each(|l| out[l] = f(x[l], y[l]));
        }
        Ok(())
    }

    pub fn map3(&mut self, [d, a, b, c]: [Row; 4], mask: u32, f: impl Fn(u64, u64, u64) -> u64) -> Exec<()> {
        let (x, y, z) = (*self.get(a, mask)?, *self.get(b, mask)?, *self.get(c, mask)?);
        let out = self.slot(d, mask)?;
        if mask == ALL {
            for l in 0..32 {
                out[l] = f(x[l], y[l], z[l]);
            }
        } else {
            lanes(mask).for_each(|l| out[l] = f(x[l], y[l], z[l]));
        }
        Ok(())
    }

    /// The lanes of `mask` where a predicate holds.
    #[inline]
    pub fn pred(&self, p: PSrc, mask: u32) -> Exec<u32> {
        let n = p.row as usize;
        if self.pinit[n] & mask != mask {
            let lane = (mask & !self.pinit[n]).trailing_zeros();
            return lane_trouble(FaultKind::UninitRegister, lane, "a predicate is read before it is written");
        }
        Ok(if p.negated { !self.preds[n] & mask } else { self.preds[n] & mask })
    }

    pub fn set_pred(&mut self, row: PRow, mask: u32, bits: u32) {
        let n = row as usize;
        self.preds[n] = (self.preds[n] & !mask) | (bits & mask);
        self.pinit[n] |= mask;
    }

    /// A value that all lanes of `mask` share.
    pub fn uniform(&self, row: Row, mask: u32, what: &str) -> Exec<u64> {
        let values = self.get(row, mask)?;
        let first = values[mask.trailing_zeros() as usize & 31];
        match lanes(mask).find(|l| values[*l] != first) {
            None => Ok(first),
            Some(l) => lane_trouble(FaultKind::Divergence, l as u32, format!("{what} differs between lanes")),
        }
    }

    /// The rows of a product for reading its registers; ordered by a fence or by a chain of one shape.
    pub fn check_fenced(&self, row: Row, shape: u32, accumulator: bool) -> Exec<()> {
        let n = row as usize;
        let lock = self.locks[n];
        if lock.seq != 0 && lock.writes && !(accumulator && lock.shape == shape) {
            let detail = "a register of a wgmma in flight is used by one of another shape or as A";
            return trouble(FaultKind::WgmmaNotWaited, detail);
        }
        if lock.seq != 0 && !lock.writes && accumulator {
            return trouble(
                FaultKind::WgmmaNotWaited,
                "the A registers of a wgmma in flight are overwritten",
            );
        }
        if lock.seq == 0 && self.touched[n] >= self.fence_epoch {
            let detail = "a register of wgmma changed since the last wgmma.fence of the warp";
            return trouble(FaultKind::MissingWgmmaFence, detail);
        }
        Ok(())
    }

    /// The raw values of a row that may be owned by products.
    pub fn raw(&self, row: Row) -> &Lanes {
        &self.regs[row as usize]
    }

    pub fn raw_mut(&mut self, row: Row) -> &mut Lanes {
        &mut self.regs[row as usize]
    }

    /// Whether every lane of a row holds a value, or will.
    pub fn settled(&self, row: Row) -> bool {
        self.init[row as usize] == ALL || self.locks[row as usize].writes
    }

    /// Gives a row to a product.
    pub fn lock(&mut self, row: Row, lock: Lock) {
        let n = row as usize;
        self.locks[n] = lock;
        if lock.writes {
            self.init[n] = 0;
        }
    }

    /// Takes back the row if its product is done.
    pub fn unlock(&mut self, row: Row, done: u32) {
        let n = row as usize;
        if self.locks[n].seq != 0 && self.locks[n].seq <= done {
            if self.locks[n].writes {
                self.init[n] = ALL;
            }
            self.locks[n] = Lock::default();
        }
    }

    /// Branches of the current split; returns whether the warp goes backwards.
    pub fn branch(&mut self, taken: u32, target: u32, meet: u32) -> bool {
        let cur = self.cur;
        let pc = self.splits[cur].pc;
        let mask = self.splits[cur].mask;
        if taken == mask {
            self.splits[cur].pc = target;
        } else if taken == 0 {
            self.splits[cur].pc = pc + 1;
        } else {
            let group = self.splits[cur].group;
            let top = group.map(|g| self.groups[g].at);
            let group = if meet == NEVER || top == Some(meet) {
                group
            } else {
                self.groups.push(Group { at: meet, mask, parent: group });
                Some(self.groups.len() - 1)
            };
            self.splits[cur] = Split { pc: pc + 1, mask: mask & !taken, group, arrived: false, held: false };
            self.splits.push(Split { pc: target, mask: taken, group, arrived: false, held: false });
        }
        self.settle();
        taken != 0 && target <= pc
    }

    /// The current split goes on to the next instruction.
    #[inline]
    pub fn advance(&mut self) {
        self.splits[self.cur].pc += 1;
        if self.splits.len() > 1 || self.splits[self.cur].group.is_some() {
            self.settle();
        }
    }

    /// Lanes of the current split end.
    pub fn exit(&mut self, mask: u32) {
        self.live &= !mask;
        let split = &mut self.splits[self.cur];
        split.mask &= !mask;
        split.pc += 1;
        self.splits.retain(|s| s.mask != 0);
        self.settle();
    }

    /// Lets lanes that stand at their meeting point meet.
    fn settle(&mut self) {
        loop {
            for s in &mut self.splits {
                s.arrived = s.group.is_some_and(|g| self.groups[g].at == s.pc);
            }
            let complete = self.splits.iter().filter(|s| s.arrived).find_map(|s| {
                let here = |t: &&Split| t.arrived && t.group == s.group;
                let mask = self.splits.iter().filter(here).fold(0, |m, t| m | t.mask);
                let g = s.group?;
                (mask == self.groups[g].mask & self.live).then_some((g, mask))
            });
            let Some((g, mask)) = complete else { break };
            self.splits.retain(|s| !(s.arrived && s.group == Some(g)));
            let parent = self.groups[g].parent;
            self.splits.push(Split {
                pc: self.groups[g].at,
                mask,
                group: parent,
                arrived: false,
                held: false,
            });
        }
        if self.splits.iter().all(|s| s.group.is_none()) {
            self.groups.clear();
            if self.splits.len() > 1 {
                self.merge();
            }
        }
        let run = self.splits.iter().position(Split::runs);
        self.cur = run.or_else(|| self.splits.iter().position(|s| !s.arrived)).unwrap_or(0);
    }

    /// Before an instruction that wants all lanes: lets lanes go first that could still come or end; whether there are any.
    pub fn hold(&mut self) -> bool {
        let cur = self.cur;
        self.splits[cur].held = true;
        if self.splits[cur].mask != self.live {
            self.rotate();
        }
        let others = self.cur != cur;
        self.splits[cur].held = others;
        others
    }

    /// Lanes that meet without having been promised to.
    fn merge(&mut self) {
        self.splits.sort_by_key(|s| s.pc);
        let mut out: Vec<Split> = Vec::new();
        for s in self.splits.drain(..) {
            match out.last_mut() {
                Some(last) if last.pc == s.pc => last.mask |= s.mask,
                _ => out.push(s),
            }
        }
        self.splits = out;
    }

    /// Whether no other lanes could run instead of the current ones.
    pub fn alone(&self) -> bool {
        self.splits.iter().filter(|s| s.runs()).count() <= 1
    }

    /// Another split gets its turn.
    pub fn rotate(&mut self) {
        let n = self.splits.len();
        if let Some(next) = (1..n).map(|i| (self.cur + i) % n).find(|i| self.splits[*i].runs()) {
            self.cur = next;
        }
    }

    /// Refuses unless every live lane of the warp executes.
    pub fn together(&self, mask: u32, what: &str) -> Exec<()> {
        if mask == self.live {
            return Ok(());
        }
        let detail = format!(
            "{what} needs all lanes of the warp: lanes {:#010x} execute it, lanes {:#010x} do not",
            mask,
            self.live & !mask
        );
        lane_trouble(FaultKind::Divergence, mask.trailing_zeros() & 31, detail)
    }
}
