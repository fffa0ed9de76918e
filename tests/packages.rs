//! Packages from outside: `attnc build -o` and a host program that loads the file.

use std::process::Command;

use attnc::compiler::artifact::{DeviceLaunch, LaunchSpec};
use attnc::{DType, ErrorKind, Kernel, Origin, Package, Plan, Target, Tensor, bind, dims, outputs};

const SWA: &str = "
attention swa(window: int = 4) {
  dims B, H = 2, S, D = 16
  input q, k, v : float[B, H, S, D]
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i & j > i - window
  weight = softmax(score)
  return weight @ v
}
";

fn rows(seed: u32) -> Tensor {
    let data: Vec<f32> = (0..2 * 9 * 16).map(|n| ((n * 37 + seed * 11) % 64) as f32 / 32.0 - 1.0).collect();
    Tensor::from_slice(&data, &[1, 2, 9, 16]).unwrap()
}

fn result(plan: &Plan) -> Vec<f32> {
    let (q, k, v) = (rows(1), rows(2), rows(3));
    let mut o = Tensor::zeros(DType::F32, &[1, 2, 9, 16]).unwrap();
    plan.run(&bind! { q, k, v }, &mut outputs! { o }).unwrap();
    o.as_slice::<f32>().unwrap().to_vec()
}

fn build(dir: &std::path::Path, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnc"));
    command.current_dir(dir).arg("build").args(args).env("ATTN_CACHE_MAX", "0").output().unwrap()
}

#[test]
fn a_package_that_build_writes_runs_in_a_host_program() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("swa.attn"), SWA).unwrap();
    let out = build(dir.path(), &["swa.attn", "--param", "window=3", "-o", "swa.attnk"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let package = Package::open(dir.path().join("swa.attnk")).unwrap();
    assert!(said.contains("ok: swa for cpu") && said.contains(package.hash()), "{said}");
    assert_eq!(package.name(), "swa");
    let plan = Plan::trust_package(package, &Target::host()).unwrap();
    assert_eq!(plan.stats().origin, Origin::Package);
    let kernel = Kernel::from_source("swa.attn", SWA).unwrap().without_cache();
    let planned = |window: i32| kernel.clone().param("window", window).plan(&dims! {}, DType::F32).unwrap();
    assert_eq!(result(&plan), result(&planned(3)));
    assert_ne!(result(&plan), result(&planned(4)), "the parameter is packed too");
    // The same kernel, packed by the program: the same bytes.
    let bytes = std::fs::read(dir.path().join("swa.attnk")).unwrap();
    assert_eq!(planned(3).to_package().unwrap(), bytes);
    let err = Plan::trust_package(Package::read(&bytes).unwrap(), &Target::named("sim:sm_80").unwrap())
        .unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported, "machine code is nothing for a GPU: {err}");
}

#[test]
fn bad_packages_and_bad_paths_are_said() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("swa.attn"), SWA).unwrap();
    let out = build(dir.path(), &["swa.attn", "-o", "nowhere/swa.attnk"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("cannot write nowhere/swa.attnk"));
    let out = build(dir.path(), &["swa.attn", "--emit=ptx"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("--emit=ptx"));
    let err = Package::open(dir.path().join("swa.attn")).unwrap_err();
    assert!(err.to_string().contains("no package of a kernel"), "{err}");
}

/// A GPU's artifact, by hand: the kernel copies nothing and says so to the simulator.
#[test]
fn a_package_for_a_gpu_runs_in_the_simulator() {
    let kernel = Kernel::from_source("swa.attn", SWA).unwrap().without_cache();
    let mut artifact = kernel.plan(&dims! {}, DType::F32).unwrap().artifact().clone();
    let (n, out) = artifact.tensors.iter().enumerate().find(|(_, t)| t.name == "o").unwrap();
    let grid = out.shape.clone();
    let layout = attnc::compiler::artifact::ArgLayout::new(
        artifact.tensors.iter().map(|t| t.shape.len()),
        artifact.scalars.len(),
    );
    let words = vec![layout.address(n) as u32];
    artifact.launches = vec![LaunchSpec {
        name: "ones".into(),
        grid,
        scratch_bytes: 0,
        entry: 0,
        device: Some(DeviceLaunch {
            kernel: "ones".into(),
            threads: 1,
            shared_bytes: 0,
            words,
            persistent: false,
            mapped: None,
        }),
    }];
    artifact.target = "sm_80".into();
    artifact.code = b".version 8.3\n.target sm_80\n.address_size 64\n.visible .entry ones(.param .u64 o) {\n\
        .reg .b32 %r; .reg .b64 %a<2>; mov.u32 %r, %ctaid.x; ld.param.u64 %a0, [o]; mul.wide.u32 %a1, %r, 4;\n\
        add.s64 %a0, %a0, %a1; mov.b32 %r, 0f3F800000; st.global.b32 [%a0], %r; ret; }"
        .to_vec();
    let package = || Package::read(&attnc::runtime::package::Package::write(&artifact).unwrap()).unwrap();
    let plan = Plan::trust_package(package(), &Target::named("sim:sm_80").unwrap()).unwrap();
    assert_eq!(result(&plan), vec![1.0; 2 * 9 * 16]);
    let built = Plan::trust_package(package(), &Target::named("sm_80").unwrap()).unwrap();
    let (q, k, v) = (rows(1), rows(2), rows(3));
    let mut o = Tensor::zeros(DType::F32, &[1, 2, 9, 16]).unwrap();
    let err = built.run(&bind! { q, k, v }, &mut outputs! { o }).unwrap_err();
    assert!(err.kind() == ErrorKind::Unsupported && err.to_string().contains("sim:sm_80"), "{err}");
}
