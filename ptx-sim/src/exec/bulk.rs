//! Bulk and tensor copies (TMA).
//!
//! Comes in: a bulk instruction. Goes out: copies in flight, bytes in global memory. What holds: sizes, alignment, bounds and
//! order are checked when the copy is issued; a load ends later ([`super::copy`]) and counts its whole box in bytes, also
//! what lies outside of the tensor; a store reads shared memory at once, but the bytes count as being read until its
//! group was waited for, and reach global memory at that wait or at the end of the block.

use std::collections::VecDeque;

use super::access::{Place, blame, combine, place};
use super::block::Block;
use super::clock::stamp;
use super::copy::{Kind, Pending};
use super::warp::lanes;
use crate::fault::{Exec, FaultKind, trouble};
use crate::isa::*;
use crate::tensor_map::{Element, Swizzle, TENSOR_MAP_BYTES, TensorMap};

/// Where bulk data lies in global memory.
#[derive(Clone)]
pub(crate) enum Source {
    Linear(u64),
    Tensor(Box<TensorMap>, Vec<i32>),
}

/// A store on its way.
struct Store {
    bytes: Vec<u8>,
    to: Source,
    reduce: Option<(AtomOp, Ty)>,
}

/// The bulk groups of a thread.
pub(crate) struct BulkGroups {
    /// The pseudo thread that reads shared memory.
    component: usize,
    open: Vec<Store>,
    groups: VecDeque<(u32, Vec<Store>)>,
    /// Groups committed so far.
    committed: u32,
    /// Groups whose reads were waited for.
    read: u32,
    /// The last group that holds a store.
    last: u32,
}

impl BulkGroups {
    /// Whether a store may still read shared memory.
    pub fn reads_open(&self) -> bool {
        self.last > self.read
    }
}

/// The type of reductions into a tensor.
fn element_ty(element: Element) -> Ty {
    match element {
        Element::F16 => Ty::F16,
        Element::Bf16 => Ty::Bf16,
        Element::F32 => Ty::F32,
        Element::U32 => Ty::U32,
        Element::U16 => Ty::U16,
        Element::U8 => Ty::U8,
    }
}

impl Block<'_> {
    pub fn bulk(&mut self, w: usize, b: &Bulk, m: u32) -> Exec<()> {
        for l in lanes(m) {
            blame(self.bulk_lane(w, l, b), l)?;
        }
        Ok(())
    }

    fn lane_value(&self, w: usize, l: usize, row: Row) -> Exec<u64> {
        Ok(self.warps[w].get(row, 1 << l)?[l])
    }

    fn bulk_lane(&mut self, w: usize, l: usize, b: &Bulk) -> Exec<()> {
        let thread = w * 32 + l;
        let Place::Shared(shared) = place(&b.shared, self.lane_value(w, l, b.shared.base)?)? else {
            return trouble(FaultKind::OutOfBounds, "bulk copies use shared memory of the block");
        };
        let outer = place(&b.global, self.lane_value(w, l, b.global.base)?)?;
        let (len, remote) = if b.tensor {
            let map = self.tensor_map(outer)?;
            if map.rank() != b.coords.len() {
                let detail = format!("{} coordinates for a map of rank {}", b.coords.len(), map.rank());
                return trouble(FaultKind::Descriptor, detail);
            }
            let coords: Exec<Vec<i32>> =
                b.coords.iter().map(|row| Ok(self.lane_value(w, l, *row)? as u32 as i32)).collect();
            self.shared.aligned(shared, 128)?;
            (map.box_bytes(), Source::Tensor(Box::new(map), coords?))
        } else {
            let size = match b.size {
                Some(row) => self.lane_value(w, l, row)? as u32 as usize,
                None => 0,
            };
            let Place::Global(at) = outer else {
                return trouble(FaultKind::OutOfBounds, "the other side of a bulk copy is global memory");
            };
            if !size.is_multiple_of(16) || size == 0 {
                return trouble(
                    FaultKind::Value,
                    format!("a bulk copy of {size} bytes: a multiple of 16 is needed"),
                );
            }
            self.shared.aligned(shared, 16)?;
            self.global.check(at, size, 16)?;
            (size, Source::Linear(at))
        };
        if b.store {
            return self.bulk_store(thread, shared, len, remote, b.reduce);
        }
        let Some(mbar) = &b.mbar else {
            return trouble(FaultKind::Mbarrier, "a bulk load needs an mbarrier");
        };
        let base = self.lane_value(w, l, mbar.base)?;
        let mbar = self.mbar_addr(mbar, base)?;
        self.tracked(mbar)?;
        self.shared.claimed(&self.clocks, thread, mbar)?;
        self.shared.begin(&self.clocks, thread, shared, len, true)?;
        let warp = &self.warps[w];
        let pc = warp.splits[warp.cur].pc;
        self.pending.push(Pending { pc, kind: Kind::Load { dst: shared, len, source: remote, mbar } });
        Ok(())
    }

    fn tensor_map(&self, at: Place) -> Exec<TensorMap> {
        let bytes = match at {
            Place::Param(at) => self.params.get(at as usize..at as usize + TENSOR_MAP_BYTES),
            Place::Global(at) => {
                self.global.check(at, TENSOR_MAP_BYTES, 64)?;
                Some(self.global.read(at, TENSOR_MAP_BYTES)?)
            }
            _ => None,
        };
        match bytes.and_then(TensorMap::from_bytes) {
            Some(map) => Ok(map),
            None => trouble(
                FaultKind::Descriptor,
                "no tensor map lies here: pass one as a .param .align 64 .b8 [128] and take its generic address",
            ),
        }
    }

    fn bulk_store(
        &mut self,
        thread: usize,
        shared: u32,
        len: usize,
        to: Source,
        reduce: Option<(AtomOp, Ty)>,
    ) -> Exec<()> {
        let clocks = &mut self.clocks;
        let groups = self.bulks.entry(thread).or_insert_with(|| BulkGroups {
            component: clocks.component(),
            open: Vec::new(),
            groups: VecDeque::new(),
            committed: 0,
            read: 0,
            last: 0,
        });
        let epoch = groups.committed + 1;
        groups.last = epoch;
        let reader = stamp(groups.component, epoch);
        let swizzle = match &to {
            Source::Tensor(map, _) => map.swizzle,
            Source::Linear(_) => Swizzle::None,
        };
        let mut bytes = vec![0; len];
        for (n, chunk) in bytes.chunks_mut(16).enumerate() {
            let at = swizzle.apply(shared + 16 * n as u32);
            self.shared.async_read(&self.clocks, thread, at, reader, chunk)?;
        }
        let reduce = match (&to, reduce) {
            (Source::Tensor(map, _), Some((op, _))) => Some((op, element_ty(map.element))),
            (_, r) => r,
        };
        if let Some(groups) = self.bulks.get_mut(&thread) {
            groups.open.push(Store { bytes, to, reduce });
        }
        Ok(())
    }

    pub fn bulk_commit(&mut self, w: usize, m: u32) {
        for l in lanes(m) {
            if let Some(groups) = self.bulks.get_mut(&(w * 32 + l)) {
                groups.committed += 1;
                let open = std::mem::take(&mut groups.open);
                groups.groups.push_back((groups.committed, open));
            }
        }
    }

    pub fn bulk_wait(&mut self, w: usize, keep: u32, read: bool, m: u32) -> Exec<()> {
        for l in lanes(m) {
            let thread = w * 32 + l;
            let Some(groups) = self.bulks.get_mut(&thread) else { continue };
            let done = groups.committed.saturating_sub(keep);
            groups.read = groups.read.max(done);
            let component = groups.component;
            let mut stores = Vec::new();
            while !read && groups.groups.front().is_some_and(|(epoch, _)| *epoch <= done) {
                stores.extend(groups.groups.pop_front().map(|(_, s)| s).unwrap_or_default());
            }
            self.clocks.note(thread, component, done);
            for store in stores {
                blame(self.write_back(&store), l)?;
            }
        }
        Ok(())
    }

    /// All stores reach global memory at the end of the block.
    pub fn finish_bulk(&mut self) -> Exec<()> {
        for (_, groups) in std::mem::take(&mut self.bulks) {
            let committed = groups.groups.into_iter().flat_map(|(_, stores)| stores);
            for store in committed.chain(groups.open) {
                self.write_back(&store)?;
            }
        }
        Ok(())
    }

    fn write_back(&mut self, store: &Store) -> Exec<()> {
        match &store.to {
            Source::Linear(at) => self.write_run(*at, &store.bytes, store.reduce),
            Source::Tensor(map, coords) => {
                let each = map.element.bytes() as usize;
                for run in map.runs(coords) {
                    if let Some(at) = run.global {
                        let bytes = &store.bytes[run.offset..run.offset + run.elements * each];
                        self.write_run(at, bytes, store.reduce)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn write_run(&mut self, at: u64, bytes: &[u8], reduce: Option<(AtomOp, Ty)>) -> Exec<()> {
        let Some((op, ty)) = reduce else {
            return self.global.write(at, bytes);
        };
        let each = ty.bytes() as usize;
        let value = |b: &[u8]| {
            let mut raw = [0; 8];
            raw[..each].copy_from_slice(b);
            u64::from_le_bytes(raw)
        };
        let old = self.global.read(at, bytes.len())?;
        let mut new = Vec::with_capacity(bytes.len());
        for (o, b) in old.chunks(each).zip(bytes.chunks(each)) {
            new.extend_from_slice(&combine(op, ty, value(o), value(b), 0).to_le_bytes()[..each]);
        }
        self.global.write(at, &new)
    }
}
