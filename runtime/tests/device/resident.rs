//! Tensors that stay on a device: bound once, run many times, checked all the same.

use attn_compiler::artifact::{BindCheck, DType, TensorRole};
use attn_compiler::expr::TensorId;
use attn_runtime::device::resident::DeviceSpace;
use attn_runtime::{
    DataFault, Device, ErrorKind, LoadedKernel, RunOptions, Tensor, TensorView, TensorViewMut,
};

use crate::kernels::Maker;
use crate::ptx::{self, add_artifact, scale_artifact, scale_rows, through_workspace};

fn load(artifact: attn_compiler::artifact::Artifact) -> LoadedKernel {
    LoadedKernel::load_on(artifact, &[], &Device::Simulator).unwrap()
}

fn space() -> DeviceSpace {
    DeviceSpace::new(&Device::Simulator).unwrap()
}

#[test]
fn a_binding_runs_many_times_on_the_same_memory() {
    let (kernel, space) = (load(through_workspace()), space());
    let x = space.upload("x", &TensorView::new(&[1f32, 2.0, 3.0], &[3]).unwrap()).unwrap();
    let state = space.upload("state", &TensorView::new(&[0f32; 3], &[3]).unwrap()).unwrap();
    let bound = kernel.bind_resident(&space, &[("x", &x)], &[("state", &state)], &[]).unwrap();
    assert_eq!(bound.own_bytes(), 12, "the workspace");
    for seed in 0..4 {
        bound.run(&RunOptions { sim_seed: seed, ..RunOptions::default() }).unwrap();
    }
    space.wait().unwrap();
    assert_eq!(state.to_tensor().unwrap().as_slice::<f32>().unwrap(), [16.0, 12.0, 8.0]);
    // Contents that nothing has checked may change between runs.
    x.write(&TensorView::new(&[0f32; 3], &[3]).unwrap()).unwrap();
    state.write(&TensorView::new(&[0f32; 3], &[3]).unwrap()).unwrap();
    bound.run(&RunOptions::default()).unwrap();
    assert_eq!(state.to_tensor().unwrap().as_slice::<f32>().unwrap(), [1.0; 3]);
}

#[test]
fn host_tensors_of_any_strides_come_and_go() {
    let (kernel, space) = (load(scale_artifact(&scale_rows("scale_rows"))), space());
    let data: Vec<f32> = (0..12).map(|n| n as f32).collect();
    let turned = TensorView::strided(&data, 11, &[3, 4], &[-1, -3]).unwrap();
    let (x, y) = (space.upload("x", &turned).unwrap(), space.empty("y", DType::F32, &[3, 4]).unwrap());
    kernel
        .bind_resident(&space, &[("x", &x)], &[("y", &y)], &[])
        .unwrap()
        .run(&RunOptions::default())
        .unwrap();
    let mut out = [-1f32; 14];
    y.read_into(&mut TensorViewMut::strided(&mut out, 12, &[3, 4], &[-1, -3]).unwrap()).unwrap();
    let expected: Vec<f32> = [-0.5].into_iter().chain(data).chain([-0.5]).map(|n| n * 2.0).collect();
    assert_eq!(out[1..13], expected[1..13]);
    assert_eq!((out[0], out[13]), (-1.0, -1.0));
    let err = y.read_into(&mut Tensor::zeros(DType::F32, &[4, 3]).unwrap().view_mut()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Data(DataFault::Size), "{err}");
    let unwritten = space.empty("z", DType::F32, &[1]).unwrap();
    assert!(unwritten.to_tensor().unwrap_err().to_string().contains("read before it was written"));
    assert_eq!(space.empty("none", DType::F32, &[0, 7]).unwrap().to_tensor().unwrap().shape(), [0, 7]);
}

/// `state[n] += x[N - 1 - n]`, refused at bind unless every `at[n]` names a row of `x`.
fn indexed() -> attn_compiler::artifact::Artifact {
    let mut m = Maker::new();
    let n = m.dim("N");
    let x = m.input("x", DType::F32, &[n]);
    let at = m.input("at", DType::I32, &[n]);
    let s = m.tensor("state", TensorRole::Updated, DType::F32, &[n]).0 as usize;
    let i = m.index("i", n);
    let index = m.pool.load(at, vec![i], attn_compiler::expr::Ty::Int);
    m.checks.push(BindCheck::Index { tensor: x, dim: 0, index, text: "x[at[i]]".to_string() });
    let (l, TensorId(x)) = (m.layout(), x);
    let x = x as usize;
    ptx::launch(
        &mut m,
        "k",
        &[n],
        1,
        &[l.address(x), l.stride(x, 0), l.address(s), l.stride(s, 0), l.size(x, 0)],
    );
    ptx::finish(m, &[ptx::add_reversed("k")])
}

#[test]
fn contents_are_checked_at_bind_and_kept_while_bound() {
    let (kernel, space) = (load(indexed()), space());
    let rows = |v: [f32; 2]| space.upload("x", &TensorView::new(&v, &[2]).unwrap()).unwrap();
    let (x, state) = (rows([1.0, 2.0]), rows([0.0, 0.0]));
    let at = space.upload("at", &TensorView::new(&[0i32, 2], &[2]).unwrap()).unwrap();
    let inputs = [("x", &x), ("at", &at)];
    let err = kernel.bind_resident(&space, &inputs, &[("state", &state)], &[]).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Data(DataFault::Index), "{err}");
    assert!(err.to_string().contains("`at[1]` is 2"), "{err}");
    let good = [1i32, 0];
    let good = TensorView::new(&good, &[2]).unwrap();
    at.write(&good).unwrap();
    let bound = kernel.bind_resident(&space, &inputs, &[("state", &state)], &[]).unwrap();
    let err = at.write(&good).unwrap_err();
    assert!(err.to_string().contains("drop the binding"), "{err}");
    bound.run(&RunOptions::default()).unwrap();
    assert_eq!(state.to_tensor().unwrap().as_slice::<f32>().unwrap(), [2.0, 1.0]);
    drop(bound);
    at.write(&good).unwrap();
}

#[test]
fn wrong_bindings_are_refused() {
    let (kernel, here, elsewhere) = (load(add_artifact()), space(), space());
    let rows =
        |of: &DeviceSpace, n: usize| of.upload("t", &TensorView::new(&vec![0f32; n], &[n]).unwrap()).unwrap();
    let (x, y, far, long) = (rows(&here, 3), rows(&here, 3), rows(&elsewhere, 3), rows(&here, 4));
    let bind = |x, y| kernel.bind_resident(&here, &[("x", x)], &[("y", y)], &[]).map(|_| ());
    bind(&x, &y).unwrap();
    for (result, kind, part) in [
        (bind(&far, &y), DataFault::View, "another space"),
        (bind(&x, &x), DataFault::Overlap, "shares device memory"),
        (bind(&x, &long), DataFault::Size, "gave N = 3"),
        (kernel.bind_resident(&here, &[], &[("y", &y)], &[]).map(|_| ()), DataFault::Missing, "`x`"),
    ] {
        let err = result.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Data(kind), "{err}");
        assert!(err.to_string().contains(part), "{part}: {err}");
    }
    let absent = LoadedKernel::load_on(add_artifact(), &[], &Device::Absent).unwrap();
    let err = absent.bind_resident(&here, &[("x", &x)], &[("y", &y)], &[]).unwrap_err();
    assert!(err.to_string().contains("is not loaded on the device"), "{err}");
    for device in [Device::Host, Device::Absent] {
        assert_eq!(DeviceSpace::new(&device).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn memory_lives_as_long_as_a_binding_needs_it_and_faults_are_told() {
    let space = space();
    let broken = scale_rows("scale_rows").replace("setp.ge.s64", "setp.gt.s64");
    for (text, fails) in [(scale_rows("scale_rows"), false), (broken, true)] {
        let kernel = load(scale_artifact(&text));
        let x = space.upload("x", &TensorView::new(&[3f32; 8], &[1, 8]).unwrap()).unwrap();
        let y = space.empty("y", DType::F32, &[1, 8]).unwrap();
        let bound = kernel.bind_resident(&space, &[("x", &x)], &[("y", &y)], &[]).unwrap();
        drop((kernel, x));
        match bound.run(&RunOptions::default()) {
            Ok(()) => assert!(!fails && y.to_tensor().unwrap().as_slice::<f32>().unwrap() == [6.0; 8]),
            Err(err) => {
                assert!(fails && err.kind() == ErrorKind::Fault, "{err}");
                assert!(err.to_string().contains("scale_rows of the test"), "{err}");
            }
        }
    }
}
