//! Blocks that take one task after another: how many are launched, what the counter is between launches.

use std::collections::BTreeSet;
use std::sync::Mutex;

use attn_compiler::artifact::{Artifact, DType};
use attn_runtime::device::resident::DeviceSpace;
use attn_runtime::{Device, ErrorKind, LaunchReport, LoadedKernel, RunOptions, TensorView, TensorViewMut};

use crate::kernels::Maker;
use crate::ptx;

/// How a block asks for its next task: the counter starts again by itself.
const COUNTS: &str = "atom.global.inc.u32 %r3, [%a0], %r2;";

/// `y[task] = x[task] + 1` on f32, by one thread. Parameters: the counter, x, y, how many there are.
fn add_one(count: &str) -> String {
    format!(
        ".visible .entry add_one(.param .u64 p0, .param .u64 p1, .param .u64 p2, .param .u64 p3) {{
    .reg .pred %p; .reg .b32 %r<4>; .reg .b64 %a<6>; .reg .f32 %f;
    mov.u32 %r0, %ctaid.x; mov.u32 %r1, %nctaid.x;
    ld.param.u64 %a0, [p0]; ld.param.u64 %a1, [p1]; ld.param.u64 %a2, [p2]; ld.param.u64 %a3, [p3];
    cvt.u32.u64 %r2, %a3; sub.u32 %r2, %r2, 1;
more:
    setp.gt.u32 %p, %r0, %r2;
    @%p bra done;
    mul.wide.u32 %a3, %r0, 4;
    add.s64 %a4, %a1, %a3; add.s64 %a5, %a2, %a3;
    ld.global.f32 %f, [%a4]; add.f32 %f, %f, 0f3F800000; st.global.f32 [%a5], %f;
    {count}
    add.u32 %r0, %r3, %r1;
    bra more;
done:
    ret;
}}"
    )
}

fn artifact(count: &str) -> Artifact {
    let mut m = Maker::new();
    let n = m.dim("N");
    let x = m.input("x", DType::F32, &[n]).0 as usize;
    let y = m.output("y", DType::F32, &[n]).0 as usize;
    let l = m.layout();
    ptx::launch(&mut m, "add_one", &[n], 1, &[0, l.address(x), l.address(y), l.size(x, 0)]);
    m.launches[0].device.as_mut().unwrap().persistent = true;
    ptx::finish(m, &[add_one(count)])
}

fn load(count: &str) -> LoadedKernel {
    LoadedKernel::load_on(artifact(count), &[], &Device::Simulator).unwrap()
}

#[test]
fn every_task_is_done_by_however_many_blocks_there_are() {
    let kernel = load(COUNTS);
    for n in [1usize, 2, 5, 40] {
        let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let wanted: Vec<f32> = x.iter().map(|x| x + 1.0).collect();
        let blocks = Mutex::new(BTreeSet::new());
        for sim_seed in 0..8 {
            let keep = |r: &LaunchReport| {
                assert_eq!(r.tasks as usize, n);
                blocks.lock().unwrap().insert(r.blocks as usize);
            };
            let options = RunOptions { sim_seed, on_launch: Some(&keep), ..RunOptions::default() };
            let mut y = vec![f32::NAN; n];
            let mut outputs = [("y", TensorViewMut::new(&mut y, &[n]).unwrap())];
            kernel.run(&[("x", TensorView::new(&x, &[n]).unwrap())], &mut outputs, &[], &options).unwrap();
            assert_eq!(y, wanted, "{n} tasks, seed {sim_seed}");
        }
        let blocks = blocks.into_inner().unwrap();
        assert!(blocks.iter().all(|b| (1..=n).contains(b)), "{n} tasks: {blocks:?}");
        assert!(n < 5 || blocks.len() > 2, "{n} tasks: {blocks:?}");
    }
}

#[test]
fn a_binding_counts_again_in_every_run() {
    let space = DeviceSpace::new(&Device::Simulator).unwrap();
    let kernel = load(COUNTS);
    let x: Vec<f32> = (0..9).map(|i| i as f32).collect();
    let held = space.upload("x", &TensorView::new(&x, &[9]).unwrap()).unwrap();
    let y = space.empty("y", DType::F32, &[9]).unwrap();
    let bound = kernel.bind_resident(&space, &[("x", &held)], &[("y", &y)], &[]).unwrap();
    assert_eq!(bound.own_bytes(), 4, "the counter");
    for sim_seed in 0..6 {
        bound.run(&RunOptions { sim_seed, ..RunOptions::default() }).unwrap();
        let found = y.to_tensor().unwrap();
        assert_eq!(found.as_slice::<f32>().unwrap(), x.iter().map(|x| x + 1.0).collect::<Vec<_>>());
    }
}

#[test]
fn a_counter_that_is_left_at_a_number_is_a_fault() {
    let kernel = load("atom.global.add.u32 %r3, [%a0], 1;");
    let (x, mut y) = ([0f32; 3], [0f32; 3]);
    let mut outputs = [("y", TensorViewMut::new(&mut y, &[3]).unwrap())];
    let inputs = [("x", TensorView::new(&x, &[3]).unwrap())];
    let err = kernel.run(&inputs, &mut outputs, &[], &RunOptions::default()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Fault);
    assert!(err.to_string().contains("the counter of tasks is not 0"), "{err}");
}
