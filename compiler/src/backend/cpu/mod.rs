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
//! `stmt`, `calls` and `map` over `scalar` and `vector` expressions, `outline` takes loops over elements out of it where
//! it is mostly calls, and Cranelift compiles the function, quickly, and those of the loops, with care.
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
mod outline;
mod proofs;
mod scalar;
mod scratch;
mod stmt;
mod tensors;
mod tiles;
mod vector;
mod vload;

use std::sync::{Mutex, MutexGuard, PoisonError};

use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_frontend::FunctionBuilderContext;

use crate::artifact::ArgLayout;
use crate::target::CpuFacts;
use crate::tile_ir::Program;

use emitter::{Known, Setting};
use isa::{Effort, Isa};
use outline::{Call, Part};
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
        for_elements: Isa::new(facts, Effort::Elements)?,
        for_calls: Isa::new(facts, Effort::Calls)?,
        layout: arg_layout(program),
        known: Known::of(program),
        listing,
        idle: Mutex::default(),
        waiting: Mutex::default(),
        done: Mutex::default(),
    };
    // The longest first, so that several workers end together.
    let mut order: Vec<usize> = (0..program.launches.len()).collect();
    order.sort_by_key(|&n| std::cmp::Reverse(outline::length(&program.launches[n].body)));
    each(order.len(), &|n| work.launch(order[n]));
    let mut functions = work.done.into_inner().unwrap_or_else(PoisonError::into_inner);
    functions.sort_by_key(|(name, _)| *name);
    let mut out = CpuCode::default();
    for (n, launch) in program.launches.iter().enumerate() {
        let own: Vec<_> = functions.extract_if(.., |((of, _), _)| *of == n).map(|(_, piece)| piece).collect();
        let pieces = own.into_iter().collect::<Result<Vec<Piece>, BackendError>>()?;
        out.append(&launch.name, &pieces)?;
    }
    Ok(out)
}

impl CpuCode {
    /// Adds the function of a launch, and those of its parts behind it.
    fn append(&mut self, launch: &str, pieces: &[Piece]) -> Result<(), BackendError> {
        let lost = || BackendError::internal("launches", "each of them is compiled, with its parts", launch);
        let first = pieces.first().filter(|first| first.parts + 1 == pieces.len()).ok_or_else(lost)?;
        let mut places = Vec::new();
        for piece in pieces {
            let place = self.code.len().next_multiple_of(CODE_ALIGN);
            self.code.resize(place, 0);
            self.code.extend_from_slice(&piece.code);
            self.clif.push_str(&piece.clif);
            self.asm.push_str(&piece.asm);
            places.push(place);
        }
        for call in &first.calls {
            let target = *places.get(call.part + 1).ok_or_else(lost)?;
            outline::link(&mut self.code, &Call { at: places[0] + call.at, ..*call }, target)?;
        }
        self.entries.push(places[0]);
        self.scratch_bytes.push(first.scratch_bytes);
        Ok(())
    }
}

/// A function: that of a launch, or of one of its parts.
type Name = (usize, Option<usize>);

/// The function of a launch, or of a part of one.
struct Piece {
    code: Vec<u8>,
    scratch_bytes: usize,
    clif: String,
    asm: String,
    /// How many parts it has, and where it calls them: not all, if code that is never reached was left out.
    parts: usize,
    calls: Vec<Call>,
}

/// What compiling any launch of a program needs.
struct Work<'a> {
    program: &'a Program,
    for_elements: Isa,
    for_calls: Isa,
    layout: ArgLayout,
    known: Known,
    listing: Listing,
    /// Memory of compilations that have ended, to be used again.
    idle: Mutex<Vec<(Context, FunctionBuilderContext)>>,
    /// Parts of launches that are compiled, which are not yet.
    waiting: Mutex<Vec<(Name, Part)>>,
    done: Mutex<Vec<(Name, Result<Piece, BackendError>)>>,
}

/// What a lock guards: nothing is left half done where a worker panicked.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work<'_> {
    /// Compiles a launch, and then parts of any as long as there are some.
    fn launch(&self, n: usize) {
        let piece = self.piece((n, None), None);
        locked(&self.done).push(((n, None), piece));
        loop {
            let next = locked(&self.waiting).pop();
            let Some((name, part)) = next else { return };
            let piece = self.piece(name, Some(&part));
            locked(&self.done).push((name, piece));
        }
    }

    fn piece(&self, name: Name, part: Option<&Part>) -> Result<Piece, BackendError> {
        let kept = locked(&self.idle).pop();
        let (mut context, mut builder) =
            kept.unwrap_or_else(|| (Context::new(), FunctionBuilderContext::new()));
        let piece = self.compile((name.0, part), &mut context, &mut builder);
        context.clear();
        locked(&self.idle).push((context, builder));
        piece
    }

    fn compile(
        &self,
        (n, part): (usize, Option<&Part>),
        context: &mut Context,
        builder: &mut FunctionBuilderContext,
    ) -> Result<Piece, BackendError> {
        let launch = &self.program.launches[n];
        let scratch = Scratch::new(launch)?;
        context.set_disasm(self.listing.asm);
        let (effort, apart) = match part {
            Some(_) => (Effort::Elements, false),
            None => outline::effort(launch),
        };
        let isa = match effort {
            Effort::Elements => &self.for_elements,
            Effort::Calls => &self.for_calls,
        };
        let (program, layout, places, known) = (self.program, &self.layout, &scratch, &self.known);
        let setting = Setting { program, launch, layout, places, isa, known };
        let parts = match part {
            Some(part) => launch::build_part(&mut context.func, builder, setting, part).map(|()| vec![])?,
            None => launch::build(&mut context.func, builder, setting, apart)?,
        };
        let n_parts = parts.len();
        locked(&self.waiting).extend(parts.into_iter().enumerate().map(|(k, part)| ((n, Some(k)), part)));
        let title = if part.is_some() { "part of launch" } else { "launch" };
        let mut clif = String::new();
        if self.listing.clif {
            clif = format!("; {title} {}\n{}\n", launch.name, context.func.display());
        }
        let compiled = match context.compile(&*isa.target, &mut ControlPlane::default()) {
            Ok(compiled) => compiled,
            Err(e) => {
                return Err(BackendError::internal("cranelift", format!("{:?}", e.inner), &launch.name));
            }
        };
        let calls = compiled.buffer.relocs().iter().map(|r| Call::of(r, &launch.name));
        let calls = calls.collect::<Result<Vec<Call>, BackendError>>()?;
        let text = compiled.vcode.as_ref();
        Ok(Piece {
            code: compiled.code_buffer().to_vec(),
            scratch_bytes: scratch.bytes,
            clif,
            asm: text.map_or(String::new(), |text| format!("; {title} {}\n{text}\n", launch.name)),
            parts: n_parts,
            calls,
        })
    }
}
