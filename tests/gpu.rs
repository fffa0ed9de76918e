//! Kernels for GPUs without a GPU: every kernel of the gallery and of the shared specifications becomes MLIR, PTX and,
//! where `ATTN_PTXAS` names ptxas, machine code.
//!
//! `ATTN_LLVM` names the worker `attnc-llvm`; `tests/run` builds it and sets both.

mod common;

use std::io::Write as _;
use std::process::{Command, Stdio};

use attn_compiler::pipeline;
use attn_compiler::target::{GpuArch, Target};
use common::examples::{example_key, gallery_and_specs};
use common::front;

/// PTX of a module, or what the worker said.
fn ptx(mlir: &str, arch: GpuArch) -> Result<String, String> {
    let worker =
        std::env::var("ATTN_LLVM").expect("ATTN_LLVM names the worker `attnc-llvm`; tests/run sets it");
    let mut child = Command::new(worker)
        .args(["--target", arch.name(), "--emit", "ptx"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the worker starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let text = mlir.to_string();
    let writer = std::thread::spawn(move || _ = stdin.write_all(text.as_bytes()));
    let out = child.wait_with_output().expect("the worker ends");
    writer.join().expect("the writer ends");
    match out.status.success() {
        true => Ok(String::from_utf8(out.stdout).expect("PTX is text")),
        false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
    }
}

#[test]
fn every_kernel_has_ptx() {
    let (mut faults, mut n) = (Vec::new(), 0);
    for (path, text) in gallery_and_specs() {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let front = front(&name, &text);
        for spec in &front.checked.kernels {
            let mut key = example_key(spec, 64);
            key.target = Target::Gpu(GpuArch::Sm80);
            let what = format!("{name}/{}", spec.name);
            let plan = match pipeline::plan(spec, &key, &mut ()) {
                Ok(plan) => plan,
                Err(err) => {
                    faults.push(format!("{what}: {err}"));
                    continue;
                }
            };
            n += 1;
            let made = attn_compiler_gpu::emit(&plan.program, GpuArch::Sm80).map_err(|e| e.to_string());
            let made = made.and_then(|code| ptx(&code.mlir, GpuArch::Sm80));
            let made = made.and_then(|ptx| match attn_ptx_sim::Module::parse(&ptx) {
                Ok(_) => Ok(()),
                Err(e) => Err(format!("ptx-sim: {e}")),
            });
            if let Err(e) = made {
                let first: Vec<&str> = e.lines().take(3).collect();
                faults.push(format!("{what}: {}", first.join(" | ")));
            }
        }
    }
    assert!(faults.is_empty(), "{} of {n} kernels:\n{}", faults.len(), faults.join("\n"));
}
