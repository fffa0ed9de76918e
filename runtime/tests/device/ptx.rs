//! PTX by hand: kernels that walk strided tensors, and artifacts that launch them.

use attn_compiler::artifact::{Artifact, DType, DeviceLaunch, LaunchSpec, TensorRole};
use attn_compiler::expr::eval::Value;
use attn_compiler::expr::{ExprId, Ty};

use crate::kernels::Maker;

/// A module with these entries.
pub fn module(entries: &[String]) -> Vec<u8> {
    format!(".version 8.3\n.target sm_80\n.address_size 64\n{}", entries.join("\n")).into_bytes()
}

/// `y[task, n] = x[task, n] * c` on f32, n < N, by 32 threads. Parameters: x, its two strides, y, its two, N, c.
pub fn scale_rows(name: &str) -> String {
    let params: Vec<String> = (0..8).map(|n| format!(".param .u64 p{n}")).collect();
    format!(
        ".visible .entry {name}({}) {{
    .reg .pred %p; .reg .b32 %r<2>; .reg .b64 %n<2>; .reg .b64 %a<4>; .reg .b64 %s<6>; .reg .b64 %c; .reg .f32 %f<2>;
    mov.u32 %r0, %tid.x; cvt.u64.u32 %n0, %r0;
    mov.u32 %r1, %ctaid.x; cvt.u64.u32 %n1, %r1;
    ld.param.u64 %a0, [p0]; ld.param.u64 %s0, [p1]; ld.param.u64 %s1, [p2];
    ld.param.u64 %a1, [p3]; ld.param.u64 %s2, [p4]; ld.param.u64 %s3, [p5];
    ld.param.u64 %s4, [p6]; ld.param.u64 %c, [p7];
    cvt.u32.u64 %r1, %c; mov.b32 %f1, %r1;
    mul.lo.s64 %s0, %s0, %n1; shl.b64 %s0, %s0, 2; add.s64 %a0, %a0, %s0;
    mul.lo.s64 %s2, %s2, %n1; shl.b64 %s2, %s2, 2; add.s64 %a1, %a1, %s2;
more:
    setp.ge.s64 %p, %n0, %s4;
    @%p bra done;
    mul.lo.s64 %a2, %s1, %n0; shl.b64 %a2, %a2, 2; add.s64 %a2, %a0, %a2;
    mul.lo.s64 %a3, %s3, %n0; shl.b64 %a3, %a3, 2; add.s64 %a3, %a1, %a3;
    ld.global.f32 %f0, [%a2];
    mul.f32 %f0, %f0, %f1;
    st.global.f32 [%a3], %f0;
    add.s64 %n0, %n0, 32;
    bra more;
done:
    ret;
}}",
        params.join(", ")
    )
}

/// `y[task] = x[task] + a` on f32, by one thread. Parameters: x, its stride, y, its stride, a (32 bits of a word).
pub fn add_word(name: &str) -> String {
    format!(
        ".visible .entry {name}(.param .u64 p0, .param .u64 p1, .param .u64 p2, .param .u64 p3, .param .u64 p4) {{
    .reg .b32 %r<2>; .reg .b64 %a<5>; .reg .b64 %n; .reg .f32 %f<2>;
    mov.u32 %r0, %ctaid.x; cvt.u64.u32 %n, %r0;
    ld.param.u64 %a0, [p0]; ld.param.u64 %a1, [p1]; ld.param.u64 %a2, [p2]; ld.param.u64 %a3, [p3]; ld.param.u64 %a4, [p4];
    mul.lo.s64 %a1, %a1, %n; shl.b64 %a1, %a1, 2; add.s64 %a0, %a0, %a1;
    mul.lo.s64 %a3, %a3, %n; shl.b64 %a3, %a3, 2; add.s64 %a2, %a2, %a3;
    cvt.u32.u64 %r1, %a4; mov.b32 %f1, %r1;
    ld.global.f32 %f0, [%a0];
    add.f32 %f0, %f0, %f1;
    st.global.f32 [%a2], %f0;
    ret;
}}"
    )
}

/// `y[task] += x[S - 1 - task]` on f32, by one thread. Parameters: x, its stride, y, its stride, S.
pub fn add_reversed(name: &str) -> String {
    format!(
        ".visible .entry {name}(.param .u64 p0, .param .u64 p1, .param .u64 p2, .param .u64 p3, .param .u64 p4) {{
    .reg .b32 %r0; .reg .b64 %a<5>; .reg .b64 %n; .reg .f32 %f<2>;
    mov.u32 %r0, %ctaid.x; cvt.u64.u32 %n, %r0;
    ld.param.u64 %a0, [p0]; ld.param.u64 %a1, [p1]; ld.param.u64 %a2, [p2]; ld.param.u64 %a3, [p3]; ld.param.u64 %a4, [p4];
    mul.lo.s64 %a3, %a3, %n; shl.b64 %a3, %a3, 2; add.s64 %a2, %a2, %a3;
    sub.s64 %a4, %a4, %n; sub.s64 %a4, %a4, 1;
    mul.lo.s64 %a1, %a1, %a4; shl.b64 %a1, %a1, 2; add.s64 %a0, %a0, %a1;
    ld.global.f32 %f0, [%a0]; ld.global.f32 %f1, [%a2];
    add.f32 %f0, %f0, %f1;
    st.global.f32 [%a2], %f0;
    ret;
}}"
    )
}

/// A launch on a device.
pub fn launch(m: &mut Maker, kernel: &str, grid: &[ExprId], threads: u32, words: &[usize]) {
    m.launches.push(LaunchSpec {
        name: format!("{kernel} of the test"),
        grid: grid.to_vec(),
        scratch_bytes: 0,
        entry: 0,
        device: Some(DeviceLaunch {
            kernel: kernel.to_string(),
            threads,
            shared_bytes: 0,
            words: words.iter().map(|&w| w as u32).collect(),
            persistent: false,
            mapped: None,
        }),
    });
}

/// The artifact, for `sm_80`.
pub fn finish(m: Maker, entries: &[String]) -> Artifact {
    Artifact { target: "sm_80".to_string(), code: module(entries), ..m.finish() }
}

/// `y[b, n] = x[b, n] * c` over `f32[B, N]`, one block for each row; `rows` writes the PTX.
pub fn scale_artifact(ptx: &str) -> Artifact {
    let mut m = Maker::new();
    let (b, n) = (m.dim("B"), m.dim("N"));
    m.param("c", Ty::Float, Some(Value::Float(2.0)));
    let x = m.input("x", DType::F32, &[b, n]).0 as usize;
    let y = m.output("y", DType::F32, &[b, n]).0 as usize;
    let l = m.layout();
    let rows = |t| [l.address(t), l.stride(t, 0), l.stride(t, 1)];
    let words = [&rows(x)[..], &rows(y), &[l.size(x, 1), l.scalars[2]]].concat();
    launch(&mut m, "scale_rows", &[b], 32, &words);
    finish(m, &[ptx.to_string()])
}

/// `y[n] = x[n] + c`, as `kernels::add_kernel` does it on the CPU.
pub fn add_artifact() -> Artifact {
    let mut m = Maker::new();
    let n = m.dim("N");
    m.param("c", Ty::Float, Some(Value::Float(1.0)));
    let x = m.input("x", DType::F32, &[n]).0 as usize;
    let y = m.output("y", DType::F32, &[n]).0 as usize;
    let l = m.layout();
    let words = [l.address(x), l.stride(x, 0), l.address(y), l.stride(y, 0), l.scalars[1]];
    launch(&mut m, "add_word", &[n], 1, &words);
    finish(m, &[add_word("add_word")])
}

/// `w = x + c` in the workspace, then `state[n] += w[N - 1 - n]` in place, then a launch of no block.
pub fn through_workspace() -> Artifact {
    let mut m = Maker::new();
    let n = m.dim("N");
    m.param("c", Ty::Float, Some(Value::Float(1.0)));
    let x = m.input("x", DType::F32, &[n]).0 as usize;
    let w = m.tensor("w", TensorRole::Workspace, DType::F32, &[n]).0 as usize;
    let s = m.tensor("state", TensorRole::Updated, DType::F32, &[n]).0 as usize;
    let l = m.layout();
    let zero = m.pool.int(0);
    launch(
        &mut m,
        "first",
        &[n],
        1,
        &[l.address(x), l.stride(x, 0), l.address(w), l.stride(w, 0), l.scalars[1]],
    );
    launch(
        &mut m,
        "second",
        &[n],
        1,
        &[l.address(w), l.stride(w, 0), l.address(s), l.stride(s, 0), l.size(w, 0)],
    );
    launch(&mut m, "absent", &[n, zero], 1, &[l.address(w)]);
    finish(m, &[add_word("first"), add_reversed("second")])
}
