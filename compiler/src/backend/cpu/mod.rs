//! The CPU backend: `tile_ir::Program` to position-independent machine code without relocations.
//!
//! Comes in: a program that `tile_ir::verify` has accepted, and the facts of one CPU. Goes out: one blob of code
//! with one function for each launch, `extern "C" fn(args: *const u64, scratch: *mut u8, task: i64)`, where
//! `args` is laid out by [`ArgLayout`] and `scratch` is 64-byte aligned. What holds afterwards: the code refers
//! to nothing outside itself but the table of intrinsics that `args` names, it never traps, and every element
//! of a tensor that an *expression* reads is in range whatever the indices are (they are checked at each
//! access; the runs of rows that intrinsics read and write are the lowering's promise).
//!
//! The line inside: [`isa`] sets Cranelift up, `scratch` places the buffers, `launch` writes one function with
//! `stmt`, `calls` and `map` over `scalar` and `vector` expressions, and Cranelift compiles it.
//!
//! Floats are f32, rounded once per operation: nothing is contracted or reordered. Contract with the runtime:
//! dims and tensor sizes are below 2^30 ([`MAX_LEN`]), or 32-bit index arithmetic in maps could wrap.
//!
//! Not done here: any choice. A map with a transcendental function calls it four columns at a time; splitting
//! such maps into [`crate::tile_ir::Stmt::Math`], and replacing random blocks by tables, is the work of passes.

mod calls;
mod columns;
mod emitter;
mod intdiv;
mod isa;
mod lanes;
mod launch;
mod load;
mod map;
mod proofs;
mod scalar;
mod scratch;
mod stmt;
mod tensors;
mod tiles;
mod vector;
mod vload;

use std::sync::{Mutex, OnceLock, PoisonError};

use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_frontend::FunctionBuilderContext;

use crate::artifact::ArgLayout;
use crate::target::CpuFacts;
use crate::tile_ir::{Launch, Program, Stmt};

use emitter::Known;
use isa::Isa;
use scratch::Scratch;

/// Version of the code generator.
pub use cranelift_codegen::VERSION as CRANELIFT_VERSION;

/// Dims and tensor sizes are below this: the runtime refuses larger ones before a launch.
pub const MAX_LEN: i64 = 1 << 30;

/// Functions start at multiples of this in the blob.
const CODE_ALIGN: usize = 64;

/// Machine code of a whole program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuCode {
    /// All functions and their constants; to be mapped at an address that is a multiple of 64.
    pub code: Vec<u8>,
    /// Byte offset of each launch's function in `code`.
    pub entries: Vec<usize>,
    /// Bytes of 64-byte aligned scratch that a task of each launch needs; never 0.
    pub scratch_bytes: Vec<usize>,
    /// CLIF of all functions as they were built, if asked for.
    pub clif: String,
    /// Cranelift's virtual-register-free listing of all functions, if asked for.
    pub asm: String,
}

/// Which texts [`emit_listing`] makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Fill [`CpuCode::clif`].
    pub clif: bool,
    /// Fill [`CpuCode::asm`].
    pub asm: bool,
}

/// Why there is no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The program is sound, but this backend has no code for something in it.
    #[error("the CPU backend has no code for {op}: {why}")]
    Unsupported {
        /// What, printed.
        op: String,
        /// Why, and what to do instead.
        why: String,
    },
    /// The compiler is wrong: a promise of an earlier stage or of this one does not hold.
    #[error("internal error in the CPU backend ({stage}): {invariant}; at {op}")]
    Internal {
        /// Part of the backend that noticed.
        stage: &'static str,
        /// What should have held.
        invariant: String,
        /// Where, printed.
        op: String,
    },
}

impl BackendError {
    fn unsupported(op: impl Into<String>, why: impl Into<String>) -> Self {
        BackendError::Unsupported { op: op.into(), why: why.into() }
    }

    fn internal(stage: &'static str, invariant: impl Into<String>, op: impl Into<String>) -> Self {
        BackendError::Internal { stage, invariant: invariant.into(), op: op.into() }
    }
}

/// The argument layout of a program: its tensors, then dims, then params.
pub fn arg_layout(program: &Program) -> ArgLayout {
    ArgLayout::new(program.tensors.iter().map(|t| t.shape.len()), program.dims.len() + program.params.len())
}

/// Compiles a verified program.
pub fn emit(program: &Program, facts: &CpuFacts) -> Result<CpuCode, BackendError> {
    emit_listing(program, facts, Listing::default())
}

/// Compiles a verified program and makes the texts that are asked for.
pub fn emit_listing(program: &Program, facts: &CpuFacts, listing: Listing) -> Result<CpuCode, BackendError> {
    emit_each(program, facts, listing, &in_order)
}

/// Calls a body once for each number below the first argument, in any order, also at the same time.
pub type Each<'a> = &'a dyn Fn(usize, &(dyn Fn(usize) + Sync));

/// One after the other.
pub fn in_order(n: usize, body: &(dyn Fn(usize) + Sync)) {
    (0..n).for_each(body);
}

/// As [`emit_listing`], with the launches compiled by `each`. The code does not depend on it.
pub fn emit_each(
    program: &Program,
    facts: &CpuFacts,
    listing: Listing,
    each: Each<'_>,
) -> Result<CpuCode, BackendError> {
    let work = Work {
        program,
        isa: Isa::new(facts)?,
        layout: arg_layout(program),
        known: Known::of(program),
        listing,
        idle: Mutex::default(),
    };
    // The longest first, so that several workers end together.
    let mut order: Vec<usize> = (0..program.launches.len()).collect();
    order.sort_by_key(|&n| std::cmp::Reverse(length(&program.launches[n].body)));
    let pieces: Vec<OnceLock<Result<Piece, BackendError>>> = order.iter().map(|_| OnceLock::new()).collect();
    each(order.len(), &|n| _ = pieces[order[n]].set(work.piece(&program.launches[order[n]])));
    let mut out = CpuCode::default();
    for (piece, launch) in pieces.into_iter().zip(&program.launches) {
        let missed = || Err(BackendError::internal("launches", "each of them is compiled", &launch.name));
        let piece = piece.into_inner().unwrap_or_else(missed)?;
        let entry = out.code.len().next_multiple_of(CODE_ALIGN);
        out.code.resize(entry, 0);
        out.code.extend_from_slice(&piece.code);
        out.entries.push(entry);
        out.scratch_bytes.push(piece.scratch_bytes);
        out.clif.push_str(&piece.clif);
        out.asm.push_str(&piece.asm);
    }
    Ok(out)
}

/// Statements of a block and of the blocks in it.
fn length(block: &[Stmt]) -> usize {
    let of = |stmt: &Stmt| match stmt {
        Stmt::For { body, .. } => 1 + length(body),
        Stmt::If { then, otherwise, .. } => 1 + length(then) + length(otherwise),
        _ => 1,
    };
    block.iter().map(of).sum()
}

/// The function of one launch.
struct Piece {
    code: Vec<u8>,
    scratch_bytes: usize,
    clif: String,
    asm: String,
}

/// What compiling any launch of a program needs.
struct Work<'a> {
    program: &'a Program,
    isa: Isa,
    layout: ArgLayout,
    known: Known,
    listing: Listing,
    /// Memory of compilations that have ended, to be used again.
    idle: Mutex<Vec<(Context, FunctionBuilderContext)>>,
}

impl Work<'_> {
    fn piece(&self, launch: &Launch) -> Result<Piece, BackendError> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (mut context, mut builder) =
            kept.unwrap_or_else(|| (Context::new(), FunctionBuilderContext::new()));
        let piece = self.compile(launch, &mut context, &mut builder);
        context.clear();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((context, builder));
        piece
    }

    fn compile(
        &self,
        launch: &Launch,
        context: &mut Context,
        builder: &mut FunctionBuilderContext,
    ) -> Result<Piece, BackendError> {
        let scratch = Scratch::new(launch)?;
        context.set_disasm(self.listing.asm);
        let known = (&self.isa, &self.known);
        launch::build(&mut context.func, builder, self.program, launch, &self.layout, &scratch, known)?;
        let mut clif = String::new();
        if self.listing.clif {
            clif = format!("; launch {}\n{}\n", launch.name, context.func.display());
        }
        let compiled = match context.compile(&*self.isa.target, &mut ControlPlane::default()) {
            Ok(compiled) => compiled,
            Err(e) => {
                return Err(BackendError::internal("cranelift", format!("{:?}", e.inner), &launch.name));
            }
        };
        if let Some(reloc) = compiled.buffer.relocs().first() {
            let what =
                format!("machine code has no relocations, found {:?} to {:?}", reloc.kind, reloc.target);
            return Err(BackendError::internal("relocations", what, &launch.name));
        }
        let text = compiled.vcode.as_ref();
        Ok(Piece {
            code: compiled.code_buffer().to_vec(),
            scratch_bytes: scratch.bytes,
            clif,
            asm: text.map_or(String::new(), |text| format!("; launch {}\n{text}\n", launch.name)),
        })
    }
}
