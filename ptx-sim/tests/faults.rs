//! Planted faults: an edit of a kernel that is right must be caught under every seed, as the kind that it is.
//!
//! Where a fault only shows in the result (the machine is used as it may be), the test says so.

mod common;

use attn_ptx_sim::FaultKind;
use common::runs::check;
use common::{Failure, text};

const SEEDS: u64 = 6;

/// What catches a fault.
enum Caught {
    /// One of these kinds.
    As(&'static [FaultKind]),
    /// A wrong result, or one of these kinds.
    Result(&'static [FaultKind]),
}

/// Replaces the `nth` occurrence (from 0) of `old`; every one where there is no `nth`.
fn edit(text: &str, old: &str, nth: Option<usize>, new: &str) -> String {
    let Some(nth) = nth else {
        assert!(text.contains(old), "`{old}` does not occur");
        return text.replace(old, new);
    };
    let at =
        text.match_indices(old).nth(nth).unwrap_or_else(|| panic!("`{old}` number {nth} does not occur")).0;
    format!("{}{new}{}", &text[..at], &text[at + old.len()..])
}

fn planted(kernel: &str, edits: &[(&str, Option<usize>, &str)], caught: &Caught) {
    let mut broken = text(kernel);
    for (old, nth, new) in edits {
        broken = edit(&broken, old, *nth, new);
    }
    for seed in 0..SEEDS {
        let failure = match check(kernel, &broken, seed) {
            Ok(_) => panic!("{kernel} {edits:?}: seed {seed} finds nothing"),
            Err(failure) => failure,
        };
        let kinds = match caught {
            Caught::As(kinds) | Caught::Result(kinds) => kinds,
        };
        match &failure {
            Failure::Fault(fault) => {
                assert!(
                    kinds.contains(&fault.kind()),
                    "{kernel} {edits:?}, seed {seed}: {:?}: {fault}",
                    fault.kind()
                );
                let told = fault.to_string();
                assert!(told.contains(kernel), "the fault names the kernel: {told}");
            }
            Failure::Wrong(what) => {
                assert!(matches!(caught, Caught::Result(_)), "{kernel} {edits:?}, seed {seed}: {what}");
            }
        }
    }
}

use FaultKind::*;

#[test]
fn a_dropped_wait_of_cp_async() {
    planted("gemm_cp_async", &[("cp.async.wait_group 1;", Some(0), "")], &Caught::As(&[AsyncNotWaited]));
}

#[test]
fn a_wait_that_leaves_too_many_groups() {
    planted(
        "gemm_cp_async",
        &[("cp.async.wait_group 1;", Some(0), "cp.async.wait_group 2;")],
        &Caught::As(&[AsyncNotWaited]),
    );
    planted(
        "flash_mma",
        &[("cp.async.wait_group 0;", Some(0), "cp.async.wait_group 1;")],
        &Caught::As(&[AsyncNotWaited]),
    );
}

#[test]
fn a_missing_commit() {
    planted("gemm_cp_async", &[("cp.async.commit_group;", Some(1), "")], &Caught::As(&[AsyncNotWaited]));
}

#[test]
fn a_missing_barrier_before_reading() {
    planted(
        "gemm_cp_async",
        &[("bar.sync 0;", Some(0), "")],
        &Caught::As(&[Race, AsyncNotWaited, UninitShared]),
    );
    planted("gemm_mma", &[("bar.sync 0;", Some(0), "")], &Caught::As(&[Race, UninitShared]));
    planted("reduce", &[("bar.sync 0;", Some(0), "")], &Caught::As(&[Race, UninitShared]));
}

#[test]
fn a_missing_barrier_before_overwriting() {
    planted("gemm_mma", &[("bar.sync 0;", Some(1), "")], &Caught::As(&[Race]));
    planted("gemm_cp_async", &[("bar.sync 0;", Some(1), "")], &Caught::As(&[Race, AsyncNotWaited]));
    planted("flash_mma", &[("bar.sync 0;", Some(2), "")], &Caught::As(&[Race, AsyncNotWaited]));
}

#[test]
fn a_read_of_shared_memory_that_nobody_wrote() {
    let line = "    st.shared.v4.b32 [%r23+6144], {%v0, %v1, %v2, %v3};\n";
    planted("gemm_mma", &[(line, Some(0), "")], &Caught::As(&[UninitShared]));
}

#[test]
fn an_address_beyond_global_memory() {
    planted("vector_add", &[("@%p1 bra $L_end;", Some(0), "")], &Caught::As(&[OutOfBounds]));
    planted(
        "flash_mma",
        &[("selp.b32 %r29, 16, 0, %p1;", Some(2), "mov.b32 %r29, 16;")],
        &Caught::As(&[OutOfBounds]),
    );
}

#[test]
fn an_address_beyond_shared_memory() {
    planted(
        "gemm_cp_async",
        &[("xor.b32 %r28, %r26, 16384;", Some(0), "xor.b32 %r28, %r26, 32768;")],
        &Caught::As(&[OutOfBounds]),
    );
}

#[test]
fn a_misaligned_access() {
    planted("gemm_mma", &[("[%rd10];", Some(0), "[%rd10+4];")], &Caught::As(&[Misaligned]));
}

#[test]
fn a_shuffle_mask_that_leaves_lanes_out() {
    planted("reduce", &[("4, 31, -1;", Some(0), "4, 31, 65535;")], &Caught::As(&[SyncMask]));
}

#[test]
fn a_shuffle_in_a_divergent_branch() {
    let edits =
        [("@%p1 bra $L_wrote;", Some(0), "@%p1 bra $L_wrote;\n    shfl.sync.bfly.b32 %r5, %r4, 1, 31, -1;")];
    planted("reduce", &edits, &Caught::As(&[SyncMask]));
}

#[test]
fn a_barrier_in_a_divergent_branch() {
    let edits = [("@%p1 bra $L_wrote;", Some(0), "@%p1 bra $L_wrote;\n    bar.sync 0;")];
    planted("reduce", &edits, &Caught::As(&[Divergence]));
}

#[test]
fn a_wrong_row_for_ldmatrix() {
    // Row 16 too far: another warp's rows, which are there. Only the result is wrong.
    planted(
        "gemm_mma",
        &[("shl.b32 %r13, %r11, 4;", Some(0), "shl.b32 %r13, %r11, 3;")],
        &Caught::Result(&[]),
    );
    // An odd row of 8 bytes is no row.
    planted(
        "gemm_mma",
        &[("shl.b32 %r15, %r15, 4;", Some(0), "shl.b32 %r15, %r15, 3;")],
        &Caught::As(&[Misaligned]),
    );
}

#[test]
fn a_register_that_nobody_wrote() {
    planted("reduce", &[("mov.b32 %r4, %f1;", Some(0), "mov.b32 %r4, %f7;")], &Caught::As(&[UninitRegister]));
}

#[test]
fn a_swapped_barrier_number() {
    let edits = [("add.s32 %r8, %r7, 3;", Some(0), "xor.b32 %r8, %r7, 1;\n    add.s32 %r8, %r8, 3;")];
    planted("named_barriers", &edits, &Caught::As(&[Race, Deadlock, BarrierMismatch]));
    let edits = [("add.s32 %r10, %r7, 1;", Some(0), "xor.b32 %r10, %r7, 1;\n    add.s32 %r10, %r10, 1;")];
    planted("named_barriers", &edits, &Caught::As(&[Race, Deadlock, UninitShared, BarrierMismatch]));
}

#[test]
fn a_wrong_thread_count_of_a_barrier() {
    planted(
        "named_barriers",
        &[("bar.arrive %r10, 64;", Some(0), "bar.arrive %r10, 32;")],
        &Caught::As(&[BarrierMismatch, Race, UninitShared]),
    );
    planted(
        "named_barriers",
        &[("bar.arrive %r10, 64;", Some(0), "bar.arrive %r10, 48;")],
        &Caught::As(&[BarrierMismatch]),
    );
}

#[test]
fn a_forgotten_arrival() {
    planted("named_barriers", &[("bar.arrive 4, 64;", Some(0), "")], &Caught::As(&[Deadlock]));
    let line = "    mbarrier.arrive.shared.b64 _, [%r9+16];\n";
    planted("tma_pipeline", &[(line, Some(0), "")], &Caught::As(&[Deadlock]));
    planted(
        "flash_wgmma",
        &[("@%p7 mbarrier.arrive.shared.b64 _, [%r38+56];", Some(0), "")],
        &Caught::As(&[Deadlock]),
    );
}

#[test]
fn a_wrong_parity() {
    let kinds = &[AsyncNotWaited, UninitShared, Deadlock, Race];
    planted(
        "tma_pipeline",
        &[
            ("[%r9], %r7;", Some(0), "[%r9], %r10;"),
            ("mov.u32 %r7, 0;", Some(0), "mov.u32 %r7, 0;\n    mov.u32 %r10, 1;"),
        ],
        &Caught::As(kinds),
    );
    planted(
        "wgmma_gemm",
        &[("xor.b32 %r10, %r7, 1;", Some(0), "mov.b32 %r10, %r7;")],
        &Caught::As(&[Deadlock]),
    );
    planted(
        "flash_wgmma",
        &[("and.b32 %r32, %r32, 1;", Some(0), "and.b32 %r32, %r32, 0;")],
        &Caught::As(&[AsyncNotWaited, Race, Deadlock]),
    );
}

#[test]
fn a_missing_wait_for_an_empty_stage() {
    planted(
        "tma_pipeline",
        &[("@!%p4 bra $L_wait_empty;", Some(0), "")],
        &Caught::As(&[Race, AsyncNotWaited, Mbarrier]),
    );
    planted(
        "flash_wgmma",
        &[("@!%p6 bra $L_wait_v_empty;", Some(0), "")],
        &Caught::As(&[Race, AsyncNotWaited, Mbarrier]),
    );
}

#[test]
fn missing_expected_bytes() {
    let edits = [(
        "mbarrier.arrive.expect_tx.shared.b64 _, [%r9], 4096;",
        Some(0),
        "mbarrier.arrive.shared.b64 _, [%r9];",
    )];
    planted("tma_pipeline", &edits, &Caught::As(&[AsyncNotWaited, UninitShared, Deadlock, Race, Mbarrier]));
    let edits = [("[%r9], 16384;", Some(0), "[%r9], 8192;")];
    planted("wgmma_gemm", &edits, &Caught::As(&[AsyncNotWaited, Deadlock, Race, Mbarrier, PendingAtExit]));
}

#[test]
fn a_missing_proxy_fence() {
    planted(
        "tma_pipeline",
        &[("fence.proxy.async.shared::cta;", Some(0), "")],
        &Caught::As(&[MissingProxyFence]),
    );
    planted(
        "flash_wgmma",
        &[("fence.proxy.async.shared::cta;", Some(0), "")],
        &Caught::As(&[MissingProxyFence]),
    );
}

#[test]
fn a_missing_sync_of_the_warp_before_a_store() {
    planted("tma_pipeline", &[("bar.warp.sync -1;", Some(0), "")], &Caught::As(&[Race]));
    planted("flash_wgmma", &[("bar.sync %t0, 128;", Some(0), "")], &Caught::As(&[Race, UninitShared]));
}

#[test]
fn a_stage_given_back_before_the_store_has_read_it() {
    planted(
        "tma_pipeline",
        &[("cp.async.bulk.wait_group.read 0;", Some(0), "")],
        &Caught::As(&[Race, PendingAtExit]),
    );
    planted(
        "tma_pipeline",
        &[("cp.async.bulk.commit_group;", Some(0), "")],
        &Caught::As(&[Race, PendingAtExit]),
    );
    planted(
        "flash_wgmma",
        &[("cp.async.bulk.wait_group.read 0;", Some(0), "")],
        &Caught::As(&[PendingAtExit]),
    );
}

#[test]
fn a_missing_wgmma_fence() {
    planted("wgmma_gemm", &[("wgmma.fence.sync.aligned;", Some(0), "")], &Caught::As(&[MissingWgmmaFence]));
    planted("flash_wgmma", &[("wgmma.fence.sync.aligned;", Some(1), "")], &Caught::As(&[MissingWgmmaFence]));
}

#[test]
fn accumulators_read_too_early() {
    planted(
        "wgmma_gemm",
        &[("wgmma.wait_group.sync.aligned 0;", Some(0), "")],
        &Caught::As(&[WgmmaNotWaited, Race, AsyncNotWaited]),
    );
    planted(
        "wgmma_gemm",
        &[("wgmma.commit_group.sync.aligned;", Some(0), "")],
        &Caught::As(&[WgmmaNotWaited, Race, AsyncNotWaited]),
    );
    planted(
        "flash_wgmma",
        &[("wgmma.wait_group.sync.aligned 1;", Some(0), "")],
        &Caught::As(&[WgmmaNotWaited, Race, AsyncNotWaited]),
    );
    planted(
        "flash_wgmma",
        &[("wgmma.wait_group.sync.aligned 0;", Some(1), "")],
        &Caught::As(&[WgmmaNotWaited, Race, AsyncNotWaited]),
    );
}

#[test]
fn a_wrong_stride_or_swizzle_of_a_descriptor() {
    // 64-byte swizzle instead of 128: other bytes, but bytes that are there.
    let good = (1u64 << 62 | 64 << 32 | 1 << 16).to_string();
    let other = (2u64 << 62 | 64 << 32 | 1 << 16).to_string();
    planted("wgmma_gemm", &[(&good, None, &other)], &Caught::Result(&[]));
    let far = (1u64 << 62 | 4096 << 32 | 1 << 16).to_string();
    planted("wgmma_gemm", &[(&good, None, &far)], &Caught::As(&[OutOfBounds, UninitShared]));
    let offset = (1u64 << 62 | 1 << 49 | 64 << 32 | 1 << 16).to_string();
    planted("wgmma_gemm", &[(&good, None, &offset)], &Caught::As(&[Descriptor]));
}

#[test]
fn a_wrong_step_along_k() {
    planted(
        "flash_wgmma",
        &[("add.s64 %rd10, %rd9, 128;", Some(0), "add.s64 %rd10, %rd9, 64;")],
        &Caught::Result(&[]),
    );
}

#[test]
fn an_off_by_one_coordinate() {
    planted(
        "tma_pipeline",
        &[("shl.b32 %r12, %r5, 4;", Some(0), "shl.b32 %r12, %r5, 4;\n    add.s32 %r12, %r12, 1;")],
        &Caught::Result(&[]),
    );
}

#[test]
fn a_box_that_does_not_fit_its_stage() {
    // Stages of 2 KiB for boxes of 4.
    let edits = [("shl.b32 %r11, %r6, 12;", Some(0), "shl.b32 %r11, %r6, 11;")];
    planted("tma_pipeline", &edits, &Caught::As(&[AsyncNotWaited, Race, UninitShared, Mbarrier]));
}

#[test]
fn too_many_registers() {
    planted(
        "wgmma_gemm",
        &[("setmaxnreg.inc.sync.aligned.u32 208;", Some(0), "setmaxnreg.inc.sync.aligned.u32 224;")],
        &Caught::As(&[Deadlock]),
    );
    planted("wgmma_gemm", &[("aligned.u32 208;", Some(0), "aligned.u32 204;")], &Caught::As(&[Registers]));
    planted("wgmma_gemm", &[(".minnctapersm 2", Some(0), "")], &Caught::As(&[Registers]));
}

#[test]
fn an_mbarrier_used_before_it_is_ready() {
    planted("tma_pipeline", &[("bar.sync 0;", Some(0), "")], &Caught::As(&[Mbarrier, Race]));
    planted(
        "tma_pipeline",
        &[("mbarrier.init.shared.b64 [%r4+8], 1;", Some(0), "")],
        &Caught::As(&[Mbarrier, OutOfBounds]),
    );
    planted(
        "flash_wgmma",
        &[("mbarrier.init.shared.b64 [%r5+40], 2;", Some(0), "mbarrier.init.shared.b64 [%r5+40], 1;")],
        &Caught::As(&[Mbarrier, Race, AsyncNotWaited]),
    );
}

#[test]
fn a_missing_turn() {
    planted("flash_wgmma", &[("bar.arrive 4, 256;", Some(0), "")], &Caught::As(&[Deadlock]));
}

#[test]
fn a_loop_without_end() {
    planted(
        "gemm_mma",
        &[
            ("add.s32 %r25, %r25, 64;", Some(0), ""),
            ("add.s64 %rd1, %rd1, 128;", Some(0), ""),
            ("add.s64 %rd2, %rd2, 128;", Some(0), ""),
        ],
        &Caught::As(&[StepBudget]),
    );
}

#[test]
fn faults_say_where_and_how_to_mend() {
    let broken = edit(&text("gemm_cp_async"), "cp.async.wait_group 1;", Some(0), "");
    let Err(Failure::Fault(fault)) = check("gemm_cp_async", &broken, 0) else { panic!("no fault") };
    let told = fault.to_string();
    for part in
        ["kernel `gemm_cp_async` line", "ldmatrix.sync.aligned", "block [", "thread [", "remedy: wait first"]
    {
        assert!(told.contains(part), "no `{part}` in {told}");
    }
    let broken = edit(&text("named_barriers"), "bar.arrive 4, 64;", Some(0), "");
    let Err(Failure::Fault(fault)) = check("named_barriers", &broken, 0) else { panic!("no fault") };
    let told = fault.to_string();
    for part in ["deadlock", "warp 0 at line", "barrier 4: 32 of 64 threads have arrived"] {
        assert!(told.contains(part), "no `{part}` in {told}");
    }
}
