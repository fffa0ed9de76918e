//! How the attentions of a kernel are computed, decided before any step is lowered: a derived tensor that an attention
//! reads where it was stored is not made.
//!
//! Comes in: the kernel that is lowered, its target, what the host decided. Goes out: a schedule and perhaps a sweep for
//! each attention, and which derived tensors which calls need. Not here: the decisions themselves (`schedule`).

use super::{CompileError, bad_schedule};
use crate::attn_ir::{Derive, Kernel};
use crate::expr::{ExprId, TensorId};
use crate::lower::in_pages::InPages;
use crate::lower::stored::Stored;
use crate::lower::{self, Sweeping};
use crate::schedule::sweep::Sweep;
use crate::schedule::{self, Schedule};
use crate::sema::{CheckedKernel, PlanKey};
use crate::target::Target;
use crate::tile_ir::Program;

/// The way of one attention.
pub(super) struct Way {
    pub schedule: Schedule,
    pub sweep: Option<Sweep>,
}

/// The ways of all attentions, in order.
pub(super) struct Ways {
    pages: InPages,
    of: Vec<Way>,
}

impl Ways {
    /// Decides; `program` has the declarations of the kernel and no launches.
    pub fn of(
        program: &Program,
        lowered: &Kernel,
        stored: &Stored,
        (kernel, key): (&CheckedKernel, &PlanKey),
    ) -> Result<Ways, CompileError> {
        let pages = match &key.target {
            Target::Cpu(_) => InPages::of(program, lowered, stored),
            Target::Gpu(_) => InPages::default(),
        };
        let mut of = Vec::new();
        for attention in lowered.attentions() {
            let decided = key.schedules.of(&attention.name);
            let schedule = match &key.target {
                Target::Cpu(facts) => schedule::choose_with(attention, facts, &decided),
                Target::Gpu(arch) => schedule::gpu::choose(attention, *arch, &decided),
            }
            .map_err(|e| bad_schedule(kernel, key, &e))?;
            let sweep = match &key.target {
                Target::Cpu(_) => Sweep::of(attention, &schedule, pages.lies(program, attention, stored)),
                Target::Gpu(_) => None,
            };
            of.push(Way { schedule, sweep });
        }
        Ok(Ways { pages, of })
    }

    /// That of the n-th attention.
    pub fn get(&self, n: usize) -> Option<(&Schedule, Option<Sweeping<'_>>)> {
        let way = self.of.get(n)?;
        let sweeping = way.sweep.as_ref().map(|sweep| Sweeping { sweep, pages: &self.pages });
        Some((&way.schedule, sweeping))
    }

    /// Makes a derived tensor for the calls that need it.
    pub fn derive(&self, program: &mut Program, lowered: &Kernel, d: &Derive) {
        let Some(in_place) = self.read_in_place(program, lowered, d.out) else {
            return lower::derive::derive(program, d);
        };
        let none = program.pool.int(0);
        if program.pool.as_bool(in_place) == Some(true) {
            program.tensors[d.out.0 as usize].shape.fill(none);
            return;
        }
        let before = program.launches.len();
        lower::derive::derive(program, d);
        let Program { pool, tensors, launches, .. } = program;
        let shape = tensors[d.out.0 as usize].shape.first_mut();
        let grids =
            launches[before..].iter_mut().filter_map(|l| l.grid.first_mut()).map(|(_, extent)| extent);
        for extent in grids.chain(shape) {
            *extent = pool.select(in_place, none, *extent);
        }
    }

    /// Bool over the sizes: the only attention that reads a tensor does not want it made. None where it always does.
    fn read_in_place(&self, program: &mut Program, lowered: &Kernel, made: TensorId) -> Option<ExprId> {
        self.pages.of_made(made)?;
        let reads = |a: &crate::attn_ir::Attention| {
            a.value.tensor == made || a.dots.iter().any(|d| d.y.tensor == made)
        };
        let (n, attention) = lowered.attentions().enumerate().find(|(_, a)| reads(a))?;
        let way = self.of.get(n).filter(|way| way.sweep.is_some())?;
        lower::in_place(&mut program.pool, attention, &way.schedule)
    }
}
