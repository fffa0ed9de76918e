//! What the tests of the simulator share: kernels by name, numbers, launches over seeds.
#![allow(dead_code)]

pub mod eval;
pub mod runs;

use attn_ptx_sim::{Arg, Device, Fault, LaunchOptions, Module, Report, Shape};

/// The text of a kernel in `tests/ptx`.
pub fn text(name: &str) -> String {
    let path = format!("{}/tests/ptx/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub fn parse(text: &str) -> Module {
    match Module::parse(text) {
        Ok(module) => module,
        Err(e) => panic!("{e}"),
    }
}

/// Pseudo-random numbers of a fixed sequence (xorshift).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// In [-1, 1) in steps of 1/128: exact in every format.
    pub fn coarse(&mut self) -> f32 {
        ((self.bits() >> 40) % 256) as f32 / 128.0 - 1.0
    }

    /// In [-1, 1).
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    pub fn bf16s(&mut self, n: usize) -> Vec<half::bf16> {
        (0..n).map(|_| half::bf16::from_f32(self.float())).collect()
    }
}

pub struct Run {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub block: u32,
    pub dynamic: u32,
}

pub fn launch(
    device: &mut Device,
    module: &Module,
    run: &Run,
    args: &[Arg],
    seed: u64,
) -> Result<Report, Fault> {
    let mut options = LaunchOptions::seed(seed);
    options.max_steps = 60_000;
    let shape = Shape { grid: run.grid, block: [run.block, 1, 1], dynamic_smem: run.dynamic };
    device.launch(module, run.kernel, shape, args, &options)
}

/// The report of a launch that must go well.
pub fn good(result: Result<Report, Fault>) -> Report {
    match result {
        Ok(report) => report,
        Err(fault) => panic!("{fault}"),
    }
}

/// Why a kernel is not right.
#[derive(Debug)]
pub enum Failure {
    Fault(Fault),
    Wrong(String),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Wrong(what) => write!(f, "wrong result: {what}"),
        }
    }
}

/// Fails unless every value is there and within `tol` of what is wanted.
pub fn close(got: Result<Vec<f32>, String>, want: &[f32], tol: f32) -> Result<(), Failure> {
    let got = got.map_err(Failure::Wrong)?;
    assert_eq!(got.len(), want.len());
    for (n, (g, w)) in got.iter().zip(want).enumerate() {
        let near = (g - w).abs() <= tol * w.abs().max(1.0);
        if !near {
            return Err(Failure::Wrong(format!("element {n}: {g}, expected {w}")));
        }
    }
    Ok(())
}
