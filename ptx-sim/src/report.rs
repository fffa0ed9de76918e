//! What a launch did: counts for each opcode, bank conflicts for each line.
//!
//! Comes in: what the machine counts while it runs. Goes out: [`Report`]. What holds: counts are of warps, not threads.

use crate::isa::Kernel;

/// Counters of a launch.
#[derive(Default)]
pub(crate) struct Stats {
    pub steps: u64,
    counts: Vec<u64>,
    /// Accesses and extra wavefronts for each instruction.
    banks: Vec<(u64, u64)>,
}

impl Stats {
    pub fn new(kernel: &Kernel) -> Self {
        Self { steps: 0, counts: vec![0; kernel.names.len()], banks: vec![(0, 0); kernel.code.len()] }
    }

    #[inline]
    pub fn count(&mut self, name: u32) {
        self.counts[name as usize] += 1;
    }

    pub fn banks(&mut self, pc: u32, extra: u64) {
        let (accesses, total) = &mut self.banks[pc as usize];
        *accesses += 1;
        *total += extra;
    }

    pub fn report(self, kernel: &Kernel, shared_bytes: u32) -> Report {
        let named = kernel.names.iter().cloned().zip(self.counts).filter(|(_, n)| *n > 0);
        let mut opcodes: Vec<(String, u64)> = named.collect();
        opcodes.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        let conflict = |(pc, (accesses, extra)): (usize, (u64, u64))| {
            let inst = &kernel.code[pc];
            (extra > 0).then(|| BankConflict {
                line: inst.line,
                text: inst.text.clone(),
                accesses,
                extra_wavefronts: extra,
            })
        };
        let bank_conflicts = self.banks.into_iter().enumerate().filter_map(conflict).collect();
        Report { steps: self.steps, opcodes, bank_conflicts, shared_bytes }
    }
}

/// A line whose accesses to shared memory collide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BankConflict {
    /// Line of the PTX text.
    pub line: u32,
    /// The instruction.
    pub text: String,
    /// How often a warp executed it.
    pub accesses: u64,
    /// Wavefronts beyond one for each 128 bytes.
    pub extra_wavefronts: u64,
}

/// What a launch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Instructions that warps executed.
    pub steps: u64,
    /// Executions for each opcode with its modifiers, most frequent first.
    pub opcodes: Vec<(String, u64)>,
    /// Lines with bank conflicts.
    pub bank_conflicts: Vec<BankConflict>,
    /// Shared memory of a block.
    pub shared_bytes: u32,
}

impl Report {
    /// Executions of opcodes that begin with `prefix`.
    pub fn count(&self, prefix: &str) -> u64 {
        self.opcodes.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, n)| n).sum()
    }

    /// Extra wavefronts of all lines.
    pub fn extra_wavefronts(&self) -> u64 {
        self.bank_conflicts.iter().map(|b| b.extra_wavefronts).sum()
    }
}
