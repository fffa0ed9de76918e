//! Launches that are refused before they run, and what reports say.

mod common;

use attn_ptx_sim::{Arg, Device, Element, FaultKind, LaunchOptions, Module, Shape, Swizzle, TensorMap};
use common::{parse, text};

fn refused(module: &Module, kernel: &str, shape: Shape, args: &[Arg], says: &str) {
    let result = Device::new().launch(module, kernel, shape, args, &LaunchOptions::default());
    let fault = result.expect_err("refused");
    assert_eq!(fault.kind(), FaultKind::Launch);
    assert!(fault.to_string().contains(says), "{fault} does not say `{says}`");
}

#[test]
fn arguments_and_shapes_are_checked() {
    let module = parse(&text("gemm_cp_async"));
    let shape = Shape { grid: [1, 1, 1], block: [128, 1, 1], dynamic_smem: 32768 };
    let args = [Arg::U64(0), Arg::U64(0), Arg::U64(0), Arg::U32(64), Arg::U32(64)];
    refused(&module, "gemm", shape, &args, "no such kernel");
    refused(&module, "gemm_cp_async", shape, &args[..4], "4 arguments for 5 parameters");
    let mut wrong = args.clone();
    wrong[3] = Arg::U64(64);
    refused(&module, "gemm_cp_async", shape, &wrong, "parameter `n` has 4 bytes");
    let large = Shape { block: [256, 1, 1], ..shape };
    refused(&module, "gemm_cp_async", large, &args, "exceeds .maxntid [128, 1, 1]");
    let huge = Shape { dynamic_smem: 200 * 1024, ..shape };
    refused(&module, "gemm_cp_async", huge, &args, "sm_80 has 166912 for a block");
    refused(&module, "gemm_cp_async", Shape { grid: [0, 1, 1], ..shape }, &args, "no empty dimension");
    let module = parse(&text("vector_add"));
    let some = Shape { dynamic_smem: 16, ..Shape::linear(1, 32) };
    let args = [Arg::U64(0), Arg::U64(0), Arg::U64(0), Arg::U32(0)];
    refused(&module, "vector_add", some, &args, "dynamic shared memory for a kernel that uses none");
}

#[test]
fn a_tensor_map_is_passed_whole_and_aligned() {
    let kernel = |align: u32| {
        parse(&format!(
            ".version 8.3\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 x, .param .align {align} .b8 m[128]) {{ ret; }}"
        ))
    };
    let map = TensorMap::tiled(Element::F32, 0, &[64], &[], &[64], &[1], Swizzle::None).expect("a good map");
    let args = [Arg::U64(0), Arg::Map(map)];
    refused(&kernel(8), "k", Shape::linear(1, 32), &args, "aligned to 64");
    let good = Device::new().launch(&kernel(64), "k", Shape::linear(1, 32), &args, &LaunchOptions::default());
    assert_eq!(good.expect("runs").steps, 1);
}

#[test]
fn dynamic_shared_memory_lies_as_it_was_declared() {
    // 16 bytes of alignment promise no more: the simulator puts it where 32 would fail.
    let address = |align: u32| {
        let module = parse(&format!(
            ".version 8.3\n.target sm_90a\n.address_size 64\n.extern .shared .align {align} .b8 mem[];\n\
             .visible .entry k(.param .u64 out) {{\n.reg .b32 %r;\n.reg .b64 %to;\nld.param.u64 %to, [out];\nmov.u32 %r, mem;\n\
             st.global.u32 [%to], %r;\nret;\n}}"
        ));
        let mut device = Device::new();
        let out = device.alloc::<u32>("out", 1);
        let shape = Shape { dynamic_smem: 64, ..Shape::linear(1, 1) };
        device.launch(&module, "k", shape, &[out.arg()], &LaunchOptions::default()).expect("runs");
        device.download(out).expect("written")[0]
    };
    for align in [16, 128, 512] {
        assert_eq!(address(align) % (2 * align), align);
    }
    assert_eq!(address(1024), 1024);
}

#[test]
fn freed_memory_is_gone() {
    let module = parse(&text("vector_add"));
    let mut device = Device::new();
    let (a, b) = (device.upload("a", &[1.0f32]), device.upload("b", &[2.0f32]));
    let c = device.alloc::<f32>("c", 1);
    device.free(b);
    let args = [a.arg(), b.arg(), c.arg(), Arg::U32(1)];
    let fault = device.launch(&module, "vector_add", Shape::linear(1, 32), &args, &LaunchOptions::default());
    assert_eq!(fault.expect_err("a fault").kind(), FaultKind::OutOfBounds);
}
