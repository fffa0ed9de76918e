//! What warps do together, how lanes diverge and meet, barriers of warps, determinism.

mod common;

use attn_ptx_sim::{Arg, Device, Fault, FaultKind, LaunchOptions, Report, Shape};
use common::parse;

/// Runs lines that leave a word in %r9 for each of 32 lanes; %r0 is the lane, %r1 the value 100 + lane.
fn lanes(lines: &str, seed: u64) -> Result<(Vec<u32>, Report), Fault> {
    threads(32, lines, seed)
}

fn threads(n: u32, lines: &str, seed: u64) -> Result<(Vec<u32>, Report), Fault> {
    let module = parse(&format!(
        ".version 8.3\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 out) {{\n.reg .pred %p<8>;\n\
         .reg .b32 %r<16>;\n.reg .b64 %to;\n.shared .align 8 .b8 mem[1024];\nmov.u32 %r0, %tid.x;\nadd.s32 %r1, %r0, 100;\n\
         {lines}\nld.param.u64 %to, [out];\nmad.wide.u32 %to, %r0, 4, %to;\nst.global.u32 [%to], %r9;\nret;\n}}\n"
    ));
    let mut device = Device::new();
    let out = device.alloc::<u32>("out", n as usize);
    let options = LaunchOptions { max_steps: 100_000, ..LaunchOptions::seed(seed) };
    let report = device.launch(&module, "k", Shape::linear(1, n), &[Arg::U64(out.addr())], &options)?;
    Ok((device.download(out).expect("every lane writes"), report))
}

fn good(lines: &str) -> Vec<u32> {
    match lanes(lines, 0) {
        Ok((got, _)) => got,
        Err(fault) => panic!("{fault}"),
    }
}

fn kind(lines: &str) -> FaultKind {
    match lanes(lines, 0) {
        Ok(_) => panic!("no fault: {lines}"),
        Err(fault) => fault.kind(),
    }
}

fn each(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}

#[test]
fn shuffles() {
    assert_eq!(good("shfl.sync.bfly.b32 %r9, %r1, 5, 31, -1;"), each(|l| 100 + (l ^ 5)));
    assert_eq!(good("shfl.sync.idx.b32 %r9, %r1, 7, 31, -1;"), each(|_| 107));
    assert_eq!(good("shfl.sync.up.b32 %r9, %r1, 3, 0, -1;"), each(|l| 100 + if l < 3 { l } else { l - 3 }));
    assert_eq!(
        good("shfl.sync.down.b32 %r9, %r1, 4, 31, -1;"),
        each(|l| 100 + if l > 27 { l } else { l + 4 })
    );
    // Segments of 8: the mask 0x18 lies in bits 8 to 12, the clamp is 7 or 0.
    assert_eq!(good("shfl.sync.idx.b32 %r9, %r1, 2, 0x1807, -1;"), each(|l| 100 + (l & 24) + 2));
    let down = good("shfl.sync.down.b32 %r9, %r1, 1, 0x1807, -1;");
    assert_eq!(down, each(|l| 100 + if l % 8 == 7 { l } else { l + 1 }));
    let valid = good("shfl.sync.down.b32 %r2|%p1, %r1, 4, 31, -1; selp.u32 %r9, 1, 0, %p1;");
    assert_eq!(valid, each(|l| u32::from(l < 28)));
}

#[test]
fn votes_and_matches() {
    let odd = "and.b32 %r2, %r0, 1; setp.ne.u32 %p1, %r2, 0;\n";
    assert_eq!(good(&format!("{odd}vote.sync.ballot.b32 %r9, %p1, -1;")), each(|_| 0xAAAA_AAAA));
    let vote =
        |mode: &str| good(&format!("{odd}vote.sync.{mode}.pred %p2, %p1, -1; selp.u32 %r9, 1, 0, %p2;"))[0];
    assert_eq!((vote("any"), vote("all"), vote("uni")), (1, 0, 0));
    assert_eq!(
        good("and.b32 %r2, %r0, 3; match.any.sync.b32 %r9, %r2, -1;"),
        each(|l| 0x1111_1111 << (l % 4))
    );
    assert_eq!(good("mov.u32 %r2, 5; match.all.sync.b32 %r9|%p1, %r2, -1;"), each(|_| u32::MAX));
    assert_eq!(good("redux.sync.add.u32 %r9, %r0, -1;"), each(|_| 496));
    assert_eq!(good("redux.sync.max.s32 %r9, %r1, -1;"), each(|_| 131));
}

#[test]
fn one_lane_is_elected_and_which_is_left_open() {
    let mut leaders = std::collections::BTreeSet::new();
    for seed in 0..8 {
        let (got, _) = lanes("elect.sync %r2|%p1, -1; selp.u32 %r9, 1, 0, %p1;", seed).expect("no fault");
        assert_eq!(got.iter().sum::<u32>(), 1);
        leaders.insert(got.iter().position(|x| *x == 1));
    }
    assert!(leaders.len() > 1, "the seed decides: {leaders:?}");
}

#[test]
fn lanes_meet_where_the_branch_ends() {
    // A loop of as many turns as the lane says, a branch out of line, then a full shuffle.
    let lines = "mov.u32 %r2, 0;\nL: setp.ge.u32 %p1, %r2, %r0;\n@%p1 bra E;\nadd.s32 %r2, %r2, 1;\nbra L;\nE:\n\
                 and.b32 %r3, %r0, 1; setp.eq.u32 %p2, %r3, 0;\n@%p2 bra FAR;\nJOIN: shfl.sync.bfly.b32 %r9, %r2, 1, 31, -1;\n\
                 bra DONE;\nFAR: add.s32 %r2, %r2, 1000;\nbra JOIN;\nDONE:";
    assert_eq!(good(lines), each(|l| if l % 2 == 0 { l + 1 } else { l - 1 + 1000 }));
}

#[test]
fn a_lane_may_wait_for_another_of_its_warp() {
    // Lane 0 sets a flag that the others wait for in a loop: both sides make progress.
    let lines = "mov.u32 %r8, mem;\nsetp.eq.u32 %p1, %r0, 0;\n@%p1 mbarrier.init.shared.b64 [%r8], 1;\nbar.warp.sync -1;\n\
                 @%p1 bra SET;\nW: mbarrier.test_wait.parity.shared.b64 %p2, [%r8], 0;\n@!%p2 bra W;\nbra E;\n\
                 SET: mbarrier.arrive.shared.b64 _, [%r8];\nE: mov.u32 %r9, 3;";
    assert_eq!(good(lines), each(|_| 3));
}

#[test]
fn exited_lanes_are_not_waited_for() {
    let lines = "mov.u32 %r9, 1; setp.lt.u32 %p1, %r0, 8;\nld.param.u64 %to, [out];\nmad.wide.u32 %to, %r0, 4, %to;\n\
                 st.global.u32 [%to], %r9;\n@%p1 exit;\nshfl.sync.idx.b32 %r9, %r1, 8, 31, -1;";
    assert_eq!(good(lines), each(|l| if l < 8 { 1 } else { 108 }));
}

#[test]
fn lanes_that_branch_to_the_end_have_ended() {
    let module = parse(
        ".version 8.3\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out) {\n.reg .pred %p;\n.reg .b32 %r<4>;\n\
         .reg .b64 %to;\nmov.u32 %r0, %tid.x;\nsetp.lt.u32 %p, %r0, 8;\n@%p bra END;\nbar.sync 0;\n\
         shfl.sync.idx.b32 %r1, %r0, 9, 31, -1;\nld.param.u64 %to, [out];\nmad.wide.u32 %to, %r0, 4, %to;\n\
         st.global.u32 [%to], %r1;\nEND: ret;\n}\n",
    );
    let mut device = Device::new();
    let out = device.upload("out", &[0u32; 64]);
    let args = [out.arg()];
    let result = device.launch(&module, "k", Shape::linear(1, 64), &args, &LaunchOptions::seed(1));
    result.unwrap_or_else(|f| panic!("{f}"));
    let got = device.download(out).expect("uploaded");
    assert_eq!((got[7], got[8], got[40]), (0, 9, 41));
}

#[test]
fn misuse_of_masks() {
    assert_eq!(
        kind(
            "setp.lt.u32 %p1, %r0, 8;\n@%p1 bra S;\nbra J;\nS: shfl.sync.idx.b32 %r9, %r1, 0, 31, -1;\nJ: mov.u32 %r9, 0;"
        ),
        FaultKind::SyncMask
    );
    assert_eq!(kind("bar.warp.sync 0xFF;\nmov.u32 %r9, 0;"), FaultKind::SyncMask);
    // A read from a lane that the mask leaves out.
    let lines = "setp.lt.u32 %p1, %r0, 8;\nmov.u32 %r9, 0;\n@!%p1 bra J;\nshfl.sync.idx.b32 %r9, %r1, 9, 31, 0xFF;\nJ:";
    assert_eq!(kind(lines), FaultKind::SyncMask);
}

#[test]
fn active_lanes_of_a_branch() {
    let lines = "mov.u32 %r9, 0;\nsetp.lt.u32 %p1, %r0, 8;\n@!%p1 bra J;\nactivemask.b32 %r9;\nJ:";
    assert_eq!(good(lines), each(|l| if l < 8 { 0xFF } else { 0 }));
}

#[test]
fn neighbours_in_shared_memory_need_a_sync() {
    let store = "shl.b32 %r2, %r0, 2; mov.u32 %r3, mem; add.s32 %r3, %r3, %r2; st.shared.u32 [%r3], %r1;\n";
    let load = "xor.b32 %r4, %r3, 4; ld.shared.u32 %r9, [%r4];";
    assert_eq!(kind(&format!("{store}{load}")), FaultKind::Race);
    assert_eq!(good(&format!("{store}bar.warp.sync -1;\n{load}")), each(|l| 100 + (l ^ 1)));
    // Lanes of one store may agree on a value, not differ.
    assert_eq!(kind("mov.u32 %r3, mem; st.shared.u32 [%r3], %r1; mov.u32 %r9, 0;"), FaultKind::Race);
    assert_eq!(
        good("mov.u32 %r3, mem; st.shared.u32 [%r3], 5; bar.warp.sync -1; ld.shared.u32 %r9, [%r3];"),
        each(|_| 5)
    );
    // A read, then a write of another lane.
    let back = format!("{store}bar.warp.sync -1;\n{load}\nst.shared.u32 [%r3], %r0;");
    assert_eq!(kind(&back), FaultKind::Race);
}

#[test]
fn release_and_acquire_order_shared_memory() {
    let lines = "mov.u32 %r8, mem; setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [%r8], 0;\n@%p1 st.shared.u32 [%r8+4], 7;\nbar.sync 0;\n\
                 setp.eq.u32 %p1, %r0, 32;\n@%p1 st.shared.u32 [%r8+4], 9;\n@%p1 atom.shared.release.cta.exch.b32 %r2, [%r8], 1;\n\
                 mov.u32 %r9, 0; setp.ne.u32 %p2, %r0, 0;\n@%p2 bra E;\nW: atom.shared.acquire.cta.add.u32 %r3, [%r8], 0;\n\
                 setp.eq.u32 %p3, %r3, 0;\n@%p3 bra W;\nld.shared.u32 %r9, [%r8+4];\nE:";
    let (got, _) = threads(64, lines, 2).expect("no fault");
    assert_eq!(got[0], 9);
    let relaxed = lines.replace("release.cta.", "").replace("acquire.cta.", "");
    assert_eq!(threads(64, &relaxed, 2).expect_err("unordered").kind(), FaultKind::Race);
    // Fences before the relaxed write and after the relaxed read order them too; one alone does not.
    let write = "@%p1 atom.shared.exch.b32";
    let read = "ld.shared.u32 %r9, [%r8+4];";
    let first = relaxed.replace(write, &format!("fence.acq_rel.cta;\n{write}"));
    assert_eq!(threads(64, &first, 2).expect_err("unordered").kind(), FaultKind::Race);
    let both = first.replace(read, &format!("membar.cta;\n{read}"));
    assert_eq!(threads(64, &both, 2).expect("ordered").0[0], 9);
}

#[test]
fn the_barrier_of_a_cluster_of_one() {
    let lines = "shl.b32 %r2, %r0, 2; mov.u32 %r3, mem; add.s32 %r3, %r3, %r2; st.shared.u32 [%r3], %r1;\n\
                 barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n\
                 xor.b32 %r4, %r2, 128; mov.u32 %r3, mem; add.s32 %r4, %r4, %r3; ld.shared.u32 %r9, [%r4];";
    for seed in 0..4 {
        let want: Vec<u32> = (0..64).map(|t| 100 + (t ^ 32)).collect();
        assert_eq!(threads(64, lines, seed).expect("no fault").0, want);
        let relaxed = lines.replace("arrive.release", "arrive.relaxed");
        assert_eq!(threads(64, &relaxed, seed).expect_err("unordered").kind(), FaultKind::Race);
        let alone = lines.replace("barrier.cluster.arrive.release.aligned;", "");
        assert_eq!(threads(64, &alone, seed).expect_err("no arrival").kind(), FaultKind::BarrierMismatch);
    }
}

#[test]
fn bank_conflicts_are_counted() {
    let access = |stride: u32| {
        let lines = format!(
            "mul.lo.s32 %r2, %r0, {stride}; and.b32 %r2, %r2, 1023; mov.u32 %r3, mem; add.s32 %r3, %r3, %r2;\nst.shared.u32 [%r3], 0; mov.u32 %r9, 0;"
        );
        lanes(&lines, 0).expect("no fault").1.extra_wavefronts()
    };
    assert_eq!((access(4), access(8), access(16), access(32)), (0, 1, 3, 7));
}

#[test]
fn a_seed_repeats_itself() {
    let lines = "mov.u32 %r8, mem; setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [%r8], 0;\nbar.sync 0;\n\
                 atom.shared.add.u32 %r9, [%r8], 1;";
    let run = |seed| threads(256, lines, seed).expect("no fault").0;
    assert_eq!(run(4), run(4));
    assert_ne!(run(4), run(5));
}
