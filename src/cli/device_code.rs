//! What `attnc build` writes of a kernel for a GPU below the tile IR: SIMT IR, MLIR, LLVM IR, PTX, machine code, its listing, and
//! what each launch takes of a GPU.
//!
//! Comes in: a plan, an artifact. Goes out: texts and bytes. What holds: ptxas runs at most once; a text for another target
//! is an error that names the option.

use std::cell::OnceCell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use attn_compiler::artifact::Artifact;
use attn_compiler::diagnostic::SourceMap;
use attn_compiler::pipeline::Plan;
use attn_compiler::target::{GpuArch, Target};
use attn_compiler_gpu::simt_ir::text;
use attnc::nvidia::{self, Assembled};
use attnc::{ErrorKind, emit, llvm};

use super::table::Table;
use super::ui::Failure;

/// Machine code of one artifact, made when it is first asked for.
#[derive(Default)]
pub struct Machine {
    made: OnceCell<Result<(Assembled, Duration), attnc::Error>>,
}

impl Machine {
    fn of(&self, artifact: &Artifact, arch: GpuArch) -> &Result<(Assembled, Duration), attnc::Error> {
        self.made.get_or_init(|| {
            let start = Instant::now();
            let made = nvidia::assemble(&String::from_utf8_lossy(&artifact.code), arch)?;
            Ok((made, start.elapsed()))
        })
    }

    /// Machine code. Errors: the target is no GPU, there is no ptxas, or it refuses the PTX.
    pub fn cubin(&self, artifact: &Artifact, target: &Target, kind: &str) -> Result<&[u8], Failure> {
        match self.of(artifact, arch(target, kind)?) {
            Ok((made, _)) => Ok(&made.cubin),
            Err(err) => Err(err.clone().into()),
        }
    }

    /// The listing of the machine code. Errors: as [`Machine::cubin`], or there is no disassembler.
    pub fn sass(&self, artifact: &Artifact, target: &Target) -> Result<String, Failure> {
        Ok(nvidia::disassemble(self.cubin(artifact, target, "sass")?)?)
    }

    /// How long ptxas took; nothing where there is none. Errors: it refuses the PTX.
    pub fn time(&self, artifact: &Artifact, arch: GpuArch) -> Result<Option<Duration>, Failure> {
        match self.of(artifact, arch) {
            Ok((_, took)) => Ok(Some(*took)),
            Err(err) if err.kind() == ErrorKind::Unsupported => Ok(None),
            Err(err) => Err(err.clone().into()),
        }
    }

    /// What each launch takes of a GPU, as a table; without ptxas, one line that says so. Errors: it refuses the PTX.
    pub fn figures(&self, artifact: &Artifact, arch: GpuArch) -> Result<String, Failure> {
        let made = match self.of(artifact, arch) {
            Ok((made, _)) => made,
            Err(err) if err.kind() == ErrorKind::Unsupported => {
                return Ok(format!("registers and spills are not known: {err}"));
            }
            Err(err) => return Err(err.clone().into()),
        };
        let mut table =
            Table::new(&["kernel", "threads", "registers", "spilled bytes", "shared bytes", "stack bytes"]);
        let launches = artifact.launches.iter().filter_map(|l| l.device.as_ref());
        // The form with tensor maps is taken where strides allow it.
        for launch in launches.flat_map(|l| [Some(l), l.mapped.as_ref().map(|m| &m.launch)]).flatten() {
            let figures = made.figures.iter().find(|f| f.entry == launch.kernel).cloned().unwrap_or_default();
            table.row([
                launch.kernel.clone(),
                launch.threads.to_string(),
                figures.registers.to_string(),
                (figures.spill_stores + figures.spill_loads).to_string(),
                (figures.shared_bytes + launch.shared_bytes).to_string(),
                figures.stack.to_string(),
            ]);
        }
        let warnings: String = made.warnings.iter().map(|w| format!("{w}\n")).collect();
        Ok(format!("{table}{warnings}"))
    }
}

/// The GPU of a target. Errors: it is none; `kind` is what was asked for.
pub fn arch(target: &Target, kind: &str) -> Result<GpuArch, Failure> {
    match target {
        Target::Gpu(arch) => Ok(*arch),
        Target::Cpu(_) => {
            let message = format!("--emit={kind} is a stage for a GPU, and the target is {target}");
            let names = GpuArch::ALL.map(GpuArch::name).join(", ");
            Err(Failure::usage(message).help(format!("name one with --target: {names}")))
        }
    }
}

/// PTX of an artifact. Errors: its target is no GPU.
pub fn ptx(artifact: &Artifact, target: &Target) -> Result<String, Failure> {
    arch(target, "ptx")?;
    Ok(String::from_utf8_lossy(&artifact.code).into_owned())
}

/// The SIMT IR of a plan for a GPU. Errors: the target is none, or something has no code.
pub fn simt(plan: &Plan, map: &SourceMap) -> Result<String, Failure> {
    Ok(text::print_module(&emit::gpu_kernels(map, plan, arch(&plan.target, "simt")?)?.kernels))
}

/// The module of a plan for a GPU. Errors: the target is none, or something has no code.
pub fn mlir(plan: &Plan, map: &SourceMap) -> Result<String, Failure> {
    Ok(emit::gpu_code(map, plan, arch(&plan.target, "mlir")?)?.mlir())
}

/// What LLVM makes of the module, after its passes. Errors: as [`mlir`], or there is no worker.
pub fn llvm_ir(plan: &Plan, map: &SourceMap) -> Result<String, Failure> {
    let arch = arch(&plan.target, "llvm-ir")?;
    Ok(llvm::to_llvm_ir(&emit::gpu_code(map, plan, arch)?.modules, arch)?)
}

/// Binary results go to standard output alone, and never to a terminal. `alone`: nothing else goes there.
///
/// Errors: one of both does not hold.
pub fn binary_to_stdout(kind: &str, alone: bool) -> Result<(), Failure> {
    let problem = match alone {
        true if !std::io::stdout().is_terminal() => return Ok(()),
        true => "standard output is a terminal",
        false => "something else goes to standard output too",
    };
    let message = format!("--emit={kind} is binary, and {problem}");
    Err(Failure::usage(message).help(format!("name a file: --emit={kind}=kernel.{kind}")))
}
