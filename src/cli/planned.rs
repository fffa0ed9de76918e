//! What a problem was planned as: one kernel, or the ranks of a ring in this process.
//!
//! Both are run with whole tensors. What stands in reports (schedule, compile time, code) is that of the kernel, which
//! in a ring every rank runs.

use std::num::NonZeroUsize;
use std::ops::Deref;

use attn_compiler::expr::eval::Value;
use attn_runtime::RunOptions;
use attnc::{Input, Output, Plan, RingPlan};

/// Ranks that are simulated where neither the text nor `--ranks` says how many.
const RANKS: usize = 4;

/// A planned problem.
#[derive(Clone)]
pub enum Planned {
    /// One device.
    One(Plan),
    /// `distribute ring(...)`
    Ring(RingPlan),
}

impl Planned {
    /// How many ranks to plan for.
    pub fn ranks(asked: Option<NonZeroUsize>, text: Option<i64>) -> usize {
        let of_text = text.and_then(|n| usize::try_from(n).ok());
        asked.map(NonZeroUsize::get).or(of_text).unwrap_or(RANKS)
    }

    /// Binds and runs.
    pub fn run(
        &self,
        inputs: &[Input<'_>],
        outputs: &mut [Output<'_>],
        params: &[(&str, Value)],
        options: &RunOptions<'_>,
    ) -> Result<(), attnc::Error> {
        match self {
            Planned::One(plan) => plan.run_with(inputs, outputs, params, options),
            Planned::Ring(ring) => ring.run(inputs, outputs, params, options),
        }
    }

    /// The schedule, and the ring around it.
    pub fn words(&self) -> String {
        match self {
            Planned::One(plan) => plan.schedule().to_string(),
            Planned::Ring(ring) => {
                let (ranks, layout) = (ring.ranks(), ring.layout().name());
                format!("{}\nring of {ranks} simulated ranks, {layout}", ring.shard().schedule())
            }
        }
    }
}

/// The kernel that is compiled.
impl Deref for Planned {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        match self {
            Planned::One(plan) => plan,
            Planned::Ring(ring) => ring.shard(),
        }
    }
}
