//! Loops over elements as functions of their own, apart from the calls around them.
//!
//! A launch is mostly calls of intrinsics: addresses, counts, branches. Compiling those with care takes most of a cold start
//! and gains nothing; loops over the elements of a tile that no intrinsic knows (a mask, a search) take a task's time and
//! are short. So in a launch that is more than such a loop each of them becomes a function of its own, compiled with care,
//! and the rest is compiled quickly ([`Effort`]).
//!
//! Comes in: a statement where it is reached. Goes out: a call, and the [`Part`] that says what the function is given: the
//! arguments and the scratch memory of the task, the variables that its expressions name, the views that it reads or writes.
//! What holds: the part finds the same bounds and facts as it would have inside. [`link`] writes the distances into the calls;
//! the code stays position-independent. Not here: the loops (`map.rs`, `stmt.rs`).

use std::collections::BTreeSet;

use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::entity::EntityRef;
use cranelift_codegen::ir::{
    AbiParam, ExtFuncData, ExternalName, InstBuilder, Signature, Type, UserExternalName, Value, types,
};
use cranelift_codegen::isa::CallConv;
use cranelift_codegen::{FinalizedMachReloc, FinalizedRelocTarget};
use rustc_hash::FxHashMap;

use crate::expr::VarId;
use crate::expr::range::Range;
use crate::tile_ir::{Access, BufId, Launch, Stmt};

use super::BackendError;
use super::emitter::{Emitter, Key, Result, clif_type};
use super::isa::Effort;
use super::proofs::Facts;

/// A launch of fewer statements is compiled as one, loops and all.
const SHORT: usize = 12;

/// A statement in a function of its own.
pub(super) struct Part {
    /// It.
    pub stmt: Stmt,
    /// Variables that it is given, and their types.
    vars: Vec<(VarId, Type)>,
    /// Views whose addresses it is given.
    views: Vec<BufId>,
    /// Bounds of variables, and what is known of them.
    ranges: FxHashMap<VarId, Range>,
    facts: Facts,
}

/// How a launch is compiled, and whether its loops are apart from it.
pub(super) fn effort(launch: &Launch) -> (Effort, bool) {
    match has_loops(&launch.body) {
        false => (Effort::Calls, false),
        true if length(&launch.body) < SHORT => (Effort::Elements, false),
        true => (Effort::Calls, true),
    }
}

/// Statements of a block and of the blocks in it.
pub(super) fn length(block: &[Stmt]) -> usize {
    block.iter().map(|stmt| 1 + blocks(stmt).iter().map(|b| length(b)).sum::<usize>()).sum()
}

/// Is one of these a loop over elements?
fn has_loops(block: &[Stmt]) -> bool {
    block.iter().any(|stmt| element_loop(stmt).is_some() || blocks(stmt).iter().any(|b| has_loops(b)))
}

fn blocks(stmt: &Stmt) -> [&[Stmt]; 2] {
    match stmt {
        Stmt::For { body, .. } => [body, &[]],
        Stmt::If { then, otherwise, .. } => [then, otherwise],
        _ => [&[], &[]],
    }
}

/// Of a statement that goes over elements the variables that it binds itself, and its buffers. A search for a panel
/// (`First`) is soon done.
fn element_loop(stmt: &Stmt) -> Option<(Vec<VarId>, Vec<BufId>)> {
    let elements = |row: VarId, col: VarId, reads: &[(VarId, BufId, Access)]| {
        let own = [row, col].into_iter().chain(reads.iter().map(|r| r.0)).collect();
        (own, reads.iter().map(|r| r.1).collect())
    };
    match stmt {
        Stmt::StoreMap { row, col, reads, .. } => Some(elements(*row, *col, reads)),
        Stmt::Map { dst, row, col, reads, .. } => {
            let (own, mut bufs): (Vec<VarId>, Vec<BufId>) = elements(*row, *col, reads);
            bufs.push(*dst);
            Some((own, bufs))
        }
        Stmt::Any { over, .. } => Some((over.iter().map(|span| span.var).collect(), vec![])),
        _ => None,
    }
}

impl Part {
    /// The signature of the function: the argument block, the scratch memory, variables, views; a search gives a bool.
    pub fn signature(&self, conv: CallConv) -> Signature {
        let mut sig = Signature::new(conv);
        let vars = self.vars.iter().map(|v| v.1);
        let words = self.views.iter().map(|_| types::I64);
        sig.params.extend([types::I64; 2].into_iter().chain(vars).chain(words).map(AbiParam::new));
        if let Stmt::Any { .. } = self.stmt {
            sig.returns.push(AbiParam::new(types::I8));
        }
        sig
    }
}

impl Emitter<'_, '_> {
    /// Calls the function of a loop, if this launch has such; gives whether it did.
    pub fn outlined(&mut self, stmt: &Stmt) -> Result<bool> {
        let Some((own, bufs)) = element_loop(stmt).filter(|_| self.parts.is_some()) else { return Ok(false) };
        let exprs = stmt.exprs();
        let free: BTreeSet<VarId> =
            exprs.iter().flat_map(|&e| self.pool().free_vars(e)).filter(|v| !own.contains(v)).collect();
        let (mut vars, mut args) = (Vec::new(), vec![self.args, self.scratch]);
        for var in free {
            // What is not bound here is an argument of the kernel, which the part finds where this function would.
            if let Some(value) = self.recall(Key::Var(var)) {
                vars.push((var, clif_type(self.pool().var_info(var).ty)));
                args.push(value);
            }
        }
        let mut views = Vec::new();
        for buf in bufs {
            if self.buffer(buf)?.of.is_some() && !views.contains(&buf) {
                views.push(buf);
                args.push(self.buffer_address(buf)?);
            }
        }
        let (ranges, facts) = (self.ranges().clone(), self.facts.clone());
        let part = Part { stmt: stmt.clone(), vars, views, ranges, facts };
        self.call_part(part, &args)?;
        Ok(true)
    }

    fn call_part(&mut self, part: Part, args: &[Value]) -> Result<()> {
        let lost = || BackendError::internal("outline", "the function has parts", format!("{:?}", part.stmt));
        let Some(parts) = &mut self.parts else { return Err(lost()) };
        let index = parts.len() as u32;
        let sig = part.signature(self.isa.conv);
        let found = if let Stmt::Any { var, .. } = part.stmt { Some(var) } else { None };
        parts.push(part);
        let signature = self.b.import_signature(sig);
        // The part's number is that of the name: each is called once, in this order.
        let name = self.b.func.declare_imported_user_function(UserExternalName { namespace: 0, index });
        let name = ExternalName::user(name);
        let data = ExtFuncData { name, signature, colocated: true, patchable: false };
        let function = self.b.import_function(data);
        let call = self.b.ins().call(function, args);
        let result = self.b.inst_results(call).first().copied();
        if let (Some(var), Some(result)) = (found, result) {
            self.bind(var, result, Range::ALL);
        }
        Ok(())
    }

    /// The body of the function of a part, whose parameters are given; what it gives back.
    pub fn part_body(&mut self, part: &Part, params: &[Value]) -> Result<Vec<Value>> {
        self.know(part.ranges.clone(), part.facts.clone());
        let vars = part.vars.iter().map(|v| Key::Var(v.0));
        let views = part.views.iter().map(|view| Key::Buffer(*view));
        for (key, &value) in vars.chain(views).zip(params) {
            self.remember(key, value);
        }
        self.block(std::slice::from_ref(&part.stmt))?;
        match part.stmt {
            Stmt::Any { var, .. } => {
                let lost = || BackendError::internal("outline", "a search gives a bool", format!("{var:?}"));
                Ok(vec![self.recall(Key::Var(var)).ok_or_else(lost)?])
            }
            _ => Ok(vec![]),
        }
    }
}

/// A call of a part: where its distance stands in the code, how, and of which part.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub at: usize,
    pub kind: Reloc,
    pub addend: i64,
    pub part: usize,
}

impl Call {
    /// Of what Cranelift leaves open in a function; nothing else may be.
    pub fn of(reloc: &FinalizedMachReloc, launch: &str) -> Result<Call> {
        let FinalizedMachReloc { offset, kind, target, addend } = reloc;
        match target {
            FinalizedRelocTarget::ExternalName(ExternalName::User(name)) => {
                Ok(Call { at: *offset as usize, kind: *kind, addend: *addend, part: name.index() })
            }
            _ => {
                let what = format!("machine code has no relocations, found {kind:?} to {target:?}");
                Err(BackendError::internal("relocations", what, launch))
            }
        }
    }
}

/// Writes the distance to `target` into a call at `call.at` of `code`; both count from the beginning of `code`.
pub(super) fn link(code: &mut [u8], call: &Call, target: usize) -> Result<()> {
    let bad =
        || BackendError::internal("link", "a call of a part has a known form", format!("{:?}", call.kind));
    let distance = (target as i64 + call.addend) - call.at as i64;
    let place = code.get_mut(call.at..).and_then(<[u8]>::first_chunk_mut::<4>).ok_or_else(bad)?;
    match call.kind {
        Reloc::X86CallPCRel4 => *place = i32::try_from(distance).map_err(|_| bad())?.to_le_bytes(),
        // 26 bits of the instruction count instructions.
        Reloc::Arm64Call if distance % 4 == 0 && (-(1 << 27)..1 << 27).contains(&distance) => {
            let instruction = u32::from_le_bytes(*place) & !0x03ff_ffff;
            *place = (instruction | ((distance / 4) as u32 & 0x03ff_ffff)).to_le_bytes();
        }
        _ => return Err(bad()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linked(code: [u8; 8], call: Call, target: usize) -> Result<[u8; 8]> {
        let mut code = code;
        link(&mut code, &call, target)?;
        Ok(code)
    }

    #[test]
    fn distances() {
        let call = Call { at: 1, kind: Reloc::X86CallPCRel4, addend: -4, part: 0 };
        // call rel32: from the end of the instruction, which begins at 0 and ends at 5.
        let code = [0xe8, 0, 0, 0, 0, 0x90, 0x90, 0x90];
        assert_eq!(linked(code, call, 5).unwrap(), [0xe8, 0, 0, 0, 0, 0x90, 0x90, 0x90]);
        assert_eq!(linked(code, call, 0x1005).unwrap(), [0xe8, 0, 0x10, 0, 0, 0x90, 0x90, 0x90]);
        assert_eq!(linked(code, call, 0).unwrap(), [0xe8, 0xfb, 0xff, 0xff, 0xff, 0x90, 0x90, 0x90]);
        // bl: in instructions, from the instruction itself.
        let call = Call { at: 4, kind: Reloc::Arm64Call, addend: 0, part: 0 };
        let code = [0, 0, 0, 0, 0, 0, 0, 0x94];
        assert_eq!(linked(code, call, 0x404).unwrap(), [0, 0, 0, 0, 0, 1, 0, 0x94]);
        assert_eq!(linked(code, call, 0).unwrap(), [0, 0, 0, 0, 0xff, 0xff, 0xff, 0x97]);
    }

    #[test]
    fn what_cannot_be_reached_is_an_error() {
        let arm = Call { at: 4, kind: Reloc::Arm64Call, addend: 0, part: 0 };
        for (call, target) in [
            (arm, 1 << 28),
            (arm, 6),
            (Call { kind: Reloc::X86CallPCRel4, ..arm }, 1 << 40),
            (Call { at: 6, ..arm }, 0),
            (Call { kind: Reloc::Abs8, ..arm }, 0),
        ] {
            assert!(linked([0; 8], call, target).is_err(), "{target}");
        }
    }
}
