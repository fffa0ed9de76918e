//! Runs in the simulator: results, strides, workspace, updates, empty grids, faults.

use std::sync::Mutex;

use attn_compiler::artifact::{DType, DeviceLaunch, MappedLaunch, TensorRole};
use attn_compiler::expr::BinaryOp;
use attn_compiler::expr::eval::Value;
use attn_runtime::{
    DataFault, Device, ErrorKind, LaunchReport, LoadedKernel, RunOptions, Tensor, TensorView, TensorViewMut,
};

use crate::kernels::Maker;
use crate::ptx::{self, add_artifact, scale_artifact, scale_rows, through_workspace};

fn load(artifact: attn_compiler::artifact::Artifact) -> LoadedKernel {
    LoadedKernel::load_on(artifact, &[], &Device::Simulator).unwrap()
}

fn seeded(sim_seed: u64) -> RunOptions<'static> {
    RunOptions { sim_seed, ..RunOptions::default() }
}

#[test]
fn strided_rows_come_back_and_gaps_are_left_alone() {
    let kernel = load(scale_artifact(&scale_rows("scale_rows")));
    let data: Vec<f32> = (0..3 * 50).map(|n| n as f32).collect();
    for seed in 0..6 {
        let mut out = vec![-1f32; 3 * 50];
        // Rows of 40 of 50, last row first; written to rows of 40 of 50 from the 7th on.
        let x = TensorView::strided(&data, 100, &[3, 40], &[-50, 1]).unwrap();
        let mut outputs = [("y", TensorViewMut::strided(&mut out, 7, &[3, 40], &[50, 1]).unwrap())];
        kernel.run(&[("x", x)], &mut outputs, &[("c", Value::Float(0.5))], &seeded(seed)).unwrap();
        for (at, &y) in out.iter().enumerate() {
            let (row, n) = (at / 50, at % 50);
            let expected = if (7..47).contains(&n) { ((2 - row) * 50 + n - 7) as f32 * 0.5 } else { -1.0 };
            assert_eq!(y, expected, "seed {seed}, element {at}");
        }
    }
}

#[test]
fn broadcast_and_transposed_inputs() {
    let kernel = load(scale_artifact(&scale_rows("scale_rows")));
    let data: Vec<f32> = (0..12).map(|n| n as f32).collect();
    let mut out = [0f32; 12];
    let row = TensorView::strided(&data, 4, &[3, 4], &[0, 1]).unwrap();
    let mut outputs = [("y", TensorViewMut::strided(&mut out, 11, &[3, 4], &[-1, -3]).unwrap())];
    kernel.run(&[("x", row)], &mut outputs, &[], &seeded(0)).unwrap();
    assert_eq!(out, [14.0, 14.0, 14.0, 12.0, 12.0, 12.0, 10.0, 10.0, 10.0, 8.0, 8.0, 8.0]);
}

#[test]
fn the_simulator_computes_what_the_cpu_computes() {
    if !cfg!(all(target_arch = "x86_64", unix)) {
        return;
    }
    let cpu = LoadedKernel::load(crate::kernels::add_kernel().finish()).unwrap();
    let sim = load(add_artifact());
    let data: Vec<f32> = (0..60).map(|n| (n as f32).sin()).collect();
    let mut results = [vec![9f32; 80], vec![9f32; 80]];
    for (kernel, out) in [cpu, sim].iter().zip(&mut results) {
        let x = TensorView::strided(&data, 58, &[20], &[-3]).unwrap();
        let mut outputs = [("y", TensorViewMut::strided(out, 1, &[20], &[4]).unwrap())];
        kernel.run(&[("x", x)], &mut outputs, &[("c", Value::Float(0.3))], &seeded(1)).unwrap();
    }
    assert_eq!(results[0], results[1]);
}

#[test]
fn launches_run_in_order_through_the_workspace_and_update_in_place() {
    let kernel = load(through_workspace());
    let x = [1f32, 2.0, 3.0];
    for seed in 0..6 {
        let reports = Mutex::new(Vec::new());
        let keep = |r: &LaunchReport| reports.lock().unwrap().push(r.clone());
        let options = RunOptions { on_launch: Some(&keep), ..seeded(seed) };
        let mut state = [10f32, -1.0, 20.0, -1.0, 30.0];
        let mut outputs = [("state", TensorViewMut::strided(&mut state, 0, &[3], &[2]).unwrap())];
        kernel.run(&[("x", TensorView::new(&x, &[3]).unwrap())], &mut outputs, &[], &options).unwrap();
        assert_eq!(state, [14.0, -1.0, 23.0, -1.0, 32.0]);
        let reports = reports.into_inner().unwrap();
        let kernels: Vec<&str> = reports.iter().map(|r| r.kernel.as_str()).collect();
        assert_eq!(kernels, ["first", "second"], "a launch without blocks is left out");
        assert_eq!((reports[0].blocks, reports[0].counts.count("st.global.f32")), (3, 3));
    }
}

#[test]
fn tables_made_at_bind_lie_on_the_device() {
    let mut m = Maker::new();
    let n = m.dim("N");
    let var = m.pool.add_var("i", attn_compiler::expr::Ty::Int);
    let (i, zero, ten) = (m.pool.var(var), m.pool.int(0), m.pool.int(10));
    let value = m.pool.binary(BinaryOp::Mul, i, ten);
    let value = m.pool.unary(attn_compiler::expr::UnaryOp::ToFloat, value);
    let role = TensorRole::Table { vars: vec![var], origin: vec![zero], value };
    let t = m.tensor("t", role, DType::F32, &[n]).0 as usize;
    let s = m.tensor("state", TensorRole::Updated, DType::F32, &[n]).0 as usize;
    let l = m.layout();
    let words = [l.address(t), l.stride(t, 0), l.address(s), l.stride(s, 0), l.size(t, 0)];
    ptx::launch(&mut m, "k", &[n], 1, &words);
    let kernel = load(ptx::finish(m, &[ptx::add_reversed("k")]));
    let mut state = [0f32; 4];
    let mut outputs = [("state", TensorViewMut::new(&mut state, &[4]).unwrap())];
    kernel.run(&[], &mut outputs, &[], &seeded(0)).unwrap();
    assert_eq!(state, [30.0, 20.0, 10.0, 0.0]);
}

#[test]
fn empty_grids_and_empty_tensors() {
    let kernel = load(scale_artifact(&scale_rows("scale_rows")));
    for shape in [[0, 5], [3, 0], [0, 0]] {
        let (x, mut y) =
            (Tensor::zeros(DType::F32, &shape).unwrap(), Tensor::zeros(DType::F32, &shape).unwrap());
        kernel.run(&[("x", x.view())], &mut [("y", y.view_mut())], &[], &seeded(2)).unwrap();
    }
}

#[test]
fn a_planted_fault_is_an_error_and_writes_nothing() {
    let broken = scale_rows("scale_rows").replace("setp.ge.s64", "setp.gt.s64");
    let kernel = load(scale_artifact(&broken));
    let x = vec![1f32; 2 * 40];
    let mut y = vec![7f32; 2 * 40];
    let mut outputs = [("y", TensorViewMut::new(&mut y, &[2, 40]).unwrap())];
    let inputs = [("x", TensorView::new(&x, &[2, 40]).unwrap())];
    for seed in 0..3 {
        let err = kernel.run(&inputs, &mut outputs, &[], &seeded(seed)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Fault);
        let text = err.to_string();
        for part in [
            "scale_rows of the test",
            "kernel `scale_rows` line",
            "global `x`",
            "thread",
            "no output was written",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains(&format!("seed {seed}")), "{text}");
    }
    assert_eq!(y, vec![7f32; 80]);
}

#[test]
fn what_a_kernel_must_not_read_or_leave_out_is_found() {
    // Between the rows of the input lies nothing that was copied.
    let beyond = scale_rows("scale_rows").replace("setp.ge.s64", "setp.gt.s64");
    let kernel = load(scale_artifact(&beyond));
    let (x, mut y) = ([1f32; 100], [0f32; 100]);
    let inputs = [("x", TensorView::strided(&x, 0, &[2, 40], &[50, 1]).unwrap())];
    let mut outputs = [("y", TensorViewMut::strided(&mut y, 0, &[2, 40], &[50, 1]).unwrap())];
    let err = kernel.run(&inputs, &mut outputs, &[], &seeded(0)).unwrap_err();
    assert!(
        err.to_string().contains("before it is written") || err.to_string().contains("which has"),
        "{err}"
    );
    // An element that no launch writes is not passed off as a result.
    let short = scale_rows("scale_rows").replace("add.s64 %n0, %n0, 32;", "add.s64 %n0, %n0, 64;");
    let kernel = load(scale_artifact(&short));
    let err = kernel.run(&inputs, &mut outputs, &[], &seeded(0)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Fault);
    assert!(err.to_string().contains("`y` is not written everywhere"), "{err}");
    assert_eq!(y, [0f32; 100]);
}

#[test]
fn everything_is_checked_as_on_the_cpu() {
    let kernel = load(scale_artifact(&scale_rows("scale_rows")));
    let (x, mut y) = ([1f32; 12], [0f32; 12]);
    let mut outputs = [("y", TensorViewMut::new(&mut y, &[4, 3]).unwrap())];
    let inputs = [("x", TensorView::new(&x, &[3, 4]).unwrap())];
    let err = kernel.run(&inputs, &mut outputs, &[], &seeded(0)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Data(DataFault::Size), "{err}");
    assert_eq!(kernel.workspace_bytes(&[("B", 3), ("N", 5)], &[]).unwrap(), 0);
    let err = kernel.run(&[], &mut outputs, &[], &seeded(0)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Data(DataFault::Missing), "{err}");
}

#[test]
fn an_absent_device_answers_questions_and_runs_nothing() {
    let kernel = LoadedKernel::load_on(through_workspace(), &[], &Device::Absent).unwrap();
    assert_eq!(kernel.workspace_bytes(&[("N", 17)], &[]).unwrap(), 128);
    let x = [1f32; 3];
    let mut state = [0f32; 3];
    let mut outputs = [("state", TensorViewMut::new(&mut state, &[3]).unwrap())];
    let err = kernel.run(&[("x", TensorView::new(&x, &[3]).unwrap())], &mut outputs, &[], &seeded(0));
    let err = err.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    assert!(err.to_string().contains("sim:sm_80"), "{err}");
}

#[test]
fn artifacts_that_cannot_be_launched_are_refused() {
    let refused = |change: &dyn Fn(&mut attn_compiler::artifact::Artifact), part: &str| {
        let mut artifact = through_workspace();
        change(&mut artifact);
        let err = LoadedKernel::load_on(artifact, &[], &Device::Simulator).unwrap_err();
        assert!(err.to_string().contains(part), "{part}: {err}");
    };
    fn device(a: &mut attn_compiler::artifact::Artifact) -> &mut DeviceLaunch {
        a.launches[1].device.as_mut().unwrap()
    }
    refused(&|a| device(a).words.push(0), "takes word 0");
    refused(&|a| device(a).words.push(1000), "takes word 1000");
    fn mapped(a: &mut attn_compiler::artifact::Artifact) -> &mut DeviceLaunch {
        let launch = device(a).clone();
        &mut device(a).mapped.insert(Box::new(MappedLaunch { launch, maps: vec![] })).launch
    }
    refused(&|a| mapped(a).words.push(0), "takes word 0");
    refused(&|a| mapped(a).threads = 0, "blocks of 0 threads");
    let twice = |a: &mut attn_compiler::artifact::Artifact| {
        let other = MappedLaunch { launch: device(a).clone(), maps: vec![] };
        mapped(a).mapped = Some(Box::new(other));
    };
    refused(&twice, "that has another one");
    refused(&|a| device(a).threads = 0, "blocks of 0 threads");
    refused(&|a| device(a).threads = 1025, "blocks of 1025 threads");
    refused(&|a| a.launches[0].device = None, "is for a CPU");
    refused(&|a| a.code = b".version 8.3\nnonsense".to_vec(), "the simulator refuses the PTX");
    refused(&|a| a.code = vec![0xff; 4], "no PTX text");
    let err = LoadedKernel::load(through_workspace()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported, "{err}");
    let cpu = Maker::new();
    let mut cpu = cpu;
    cpu.launch(&[], 0, &crate::kernels::RET);
    let err = LoadedKernel::load_on(cpu.finish(), &[], &Device::Simulator).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported, "{err}");
}
