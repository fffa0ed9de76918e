//! Bulk and tensor copies, mbarriers, memory spaces, atomics.

mod common;

use attn_ptx_sim::{Arg, Device, Element, FaultKind, LaunchOptions, Shape, Swizzle, TensorMap};
use common::parse;

/// A kernel of one warp: `mem` of shared memory, parameters map, x, out, and a lane's word of shared memory at the end.
fn kernel(lines: &str) -> String {
    format!(
        ".version 8.3\n.target sm_90a\n.address_size 64\n.global .align 4 .u32 table[4] = {{3, 1, 4, 1}};\n\
         .const .align 4 .f32 half = 0f3F000000;\n.visible .entry k(.param .align 64 .b8 map[128], .param .u64 x, .param .u64 out) {{\n\
         .reg .pred %p<8>;\n.reg .b32 %r<16>;\n.reg .b64 %rd<16>;\n.reg .f32 %f<8>;\n.shared .align 1024 .b8 mem[4096];\n\
         .shared .align 8 .b8 bar[16];\n.local .align 8 .b8 stack[16];\nmov.u32 %r0, %tid.x;\nmov.u32 %r1, mem;\nmov.u32 %r2, bar;\n\
         mov.b64 %rd0, map;\ncvta.param.u64 %rd0, %rd0;\nld.param.u64 %rd1, [x];\nld.param.u64 %rd2, [out];\nsetp.eq.u32 %p0, %r0, 0;\n\
         {lines}\nret;\n}}\n"
    )
}

const INIT: &str =
    "@%p0 mbarrier.init.shared.b64 [%r2], 1;\nfence.mbarrier_init.release.cluster;\nbar.warp.sync -1;\n";
const WAIT: &str = "W: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0;\n@!%p1 bra W;\n";
/// Copies `n` words of shared memory to out.
fn dump(n: usize) -> String {
    format!(
        "mov.u32 %r3, %r0;\nD: shl.b32 %r4, %r3, 2; add.s32 %r5, %r1, %r4; ld.shared.u32 %r6, [%r5];\nmad.wide.u32 %rd3, %r3, 4, %rd2;\n\
         st.global.u32 [%rd3], %r6;\nadd.s32 %r3, %r3, 32;\nsetp.lt.u32 %p2, %r3, {n};\n@%p2 bra D;\n"
    )
}

/// Runs lines over a device that holds `x`; the words of out.
fn run(
    lines: &str,
    map: &dyn Fn(u64) -> TensorMap,
    x: &[u32],
    words: usize,
    seed: u64,
) -> Result<Vec<u32>, FaultKind> {
    let module = parse(&kernel(lines));
    let mut device = Device::new();
    let x = device.upload("x", x);
    let out = device.upload("out", &vec![0u32; words]);
    let args = [Arg::Map(map(x.addr())), x.arg(), out.arg()];
    let options = LaunchOptions { max_steps: 100_000, ..LaunchOptions::seed(seed) };
    match device.launch(&module, "k", Shape::linear(1, 32), &args, &options) {
        Ok(_) => Ok(device.download(out).expect("written")),
        Err(fault) => {
            println!("{fault}");
            Err(fault.kind())
        }
    }
}

fn words(n: u32) -> Vec<u32> {
    (1..=n).collect()
}

/// A map over rows of 64 words with a box of `w` x `h`.
fn rows(w: u32, h: u32, swizzle: Swizzle) -> impl Fn(u64) -> TensorMap {
    move |base| {
        TensorMap::tiled(Element::U32, base, &[64, 16], &[256], &[w, h], &[1, 1], swizzle)
            .expect("a good map")
    }
}

fn load(coords: &str, rank: u32, bytes: u32) -> String {
    format!(
        "{INIT}@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r2], {bytes};\n\
         @%p0 cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd0, {{{coords}}}], [%r2];\n{WAIT}"
    )
}

#[test]
fn swizzles_as_in_the_tables() {
    // The tables of PTX ISA 5.5.7: which chunk of 16 bytes stands where in each 128 bytes.
    let b128 = [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [1, 0, 3, 2, 5, 4, 7, 6],
        [2, 3, 0, 1, 6, 7, 4, 5],
        [3, 2, 1, 0, 7, 6, 5, 4],
        [4, 5, 6, 7, 0, 1, 2, 3],
        [5, 4, 7, 6, 1, 0, 3, 2],
        [6, 7, 4, 5, 2, 3, 0, 1],
        [7, 6, 5, 4, 3, 2, 1, 0],
    ];
    for (swizzle, span, pattern) in
        [(Swizzle::None, 128, 1), (Swizzle::B32, 32, 2), (Swizzle::B64, 64, 4), (Swizzle::B128, 128, 8)]
    {
        let width = span / 4;
        let bytes = span * 16;
        let lines = load("0, 0", 2, bytes) + &dump(bytes as usize / 4);
        let got =
            run(&lines, &rows(width, 16, swizzle), &words(1024), bytes as usize / 4, 0).expect("no fault");
        for (place, chunk) in got.chunks(4).enumerate() {
            let (line, at) = (place / 8, place % 8);
            // The chunk of the unswizzled box that stands here.
            let source = line * 8 + b128[line % pattern][at];
            let (row, col) = (source * 4 / width as usize, source * 4 % width as usize);
            let want: Vec<u32> = (0..4).map(|i| (row * 64 + col + i) as u32 + 1).collect();
            assert_eq!(chunk, want, "{swizzle:?}: line {line}, place {at}");
        }
    }
}

#[test]
fn boxes_that_hang_over_the_edges() {
    for (c0, c1) in [(-2i32, -1i32), (60, 14), (0, 0), (64, 3), (5, 16)] {
        let lines = load(&format!("{c0}, {c1}"), 2, 8 * 4 * 4) + &dump(32);
        let got = run(&lines, &rows(8, 4, Swizzle::None), &words(1024), 32, 1).expect("no fault");
        for (n, value) in got.iter().enumerate() {
            let (col, row) = (c0 + n as i32 % 8, c1 + n as i32 / 8);
            let inside = (0..64).contains(&col) && (0..16).contains(&row);
            assert_eq!(
                *value,
                if inside { (row * 64 + col) as u32 + 1 } else { 0 },
                "box at {c0}, {c1}: word {n}"
            );
        }
    }
}

#[test]
fn ranks_and_element_strides() {
    // 4 x 2 x 2 x 2 x 2 words, every second index of dimension 1 of size 4.
    let dims = [4u64, 4, 2, 2, 2];
    let map = |base: u64| {
        let strides = [16u64, 64, 128, 256];
        TensorMap::tiled(
            Element::U32,
            base,
            &dims,
            &strides,
            &[4, 4, 2, 2, 1],
            &[1, 2, 1, 1, 1],
            Swizzle::None,
        )
        .expect("a good map")
    };
    let lines = load("0, 0, 0, 0, 1", 5, 4 * 2 * 2 * 2 * 4) + &dump(32);
    let got = run(&lines, &map, &words(128), 32, 2);
    let mut want = Vec::new();
    for d3 in 0..2 {
        for (d2, d1) in [(0, 0), (0, 2), (1, 0), (1, 2)] {
            want.extend((0..4).map(|d0| d0 + 4 * d1 + 16 * d2 + 32 * d3 + 64 + 1));
        }
    }
    assert_eq!(got, Ok(want));
    let one = |base: u64| {
        TensorMap::tiled(Element::U32, base, &[128], &[], &[32], &[1], Swizzle::None).expect("a good map")
    };
    assert_eq!(run(&(load("96", 1, 128) + &dump(32)), &one, &words(128), 32, 2), Ok((97..=128).collect()));
}

#[test]
fn maps_that_the_driver_refuses() {
    let made = |base, dims: &[u64], strides: &[u64], tile: &[u32], swizzle| {
        TensorMap::tiled(Element::Bf16, base, dims, strides, tile, &vec![1; dims.len()], swizzle)
    };
    let says = |r: Result<TensorMap, attn_ptx_sim::TensorMapError>, what: &str| {
        let told = r.expect_err("refused").to_string();
        assert!(told.contains(what), "{told}");
    };
    says(made(8, &[64, 64], &[128], &[64, 64], Swizzle::B128), "multiple of 16");
    says(made(0, &[64, 64], &[130], &[64, 64], Swizzle::B128), "stride of 130");
    says(made(0, &[64, 64], &[128], &[64, 257], Swizzle::B128), "box size of 257");
    says(made(0, &[64, 64], &[128], &[128, 8], Swizzle::B128), "256 bytes and the swizzle spans 128");
    says(made(0, &[64, 64], &[128], &[4, 8], Swizzle::None), "8 bytes, no multiple of 16");
    says(made(0, &[64, 64], &[], &[64, 8], Swizzle::None), "0 strides");
    let map =
        made(1 << 36, &[64, 1000, 7], &[128, 128_000], &[64, 100, 3], Swizzle::B128).expect("a good map");
    assert_eq!(TensorMap::from_bytes(&map.to_bytes()), Some(map.clone()));
    assert_eq!(map.box_bytes(), 64 * 100 * 3 * 2);
}

#[test]
fn linear_bulk_copies_and_reductions() {
    let lines = format!(
        "{INIT}@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r2], 256;\n\
         @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 256, [%r2];\n{WAIT}\
         @!%p0 bra E;\n\
         cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd2], [%r1], 256;\ncp.async.bulk.commit_group;\n\
         cp.async.bulk.wait_group 0;\ncp.async.bulk.global.shared::cta.bulk_group [%rd2+256], [%r1], 128;\n\
         cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;\nE:"
    );
    let mut want: Vec<u32> = (1..=64).collect();
    want.extend(1..=32);
    for seed in 0..3 {
        assert_eq!(run(&lines, &rows(8, 4, Swizzle::None), &words(64), 96, seed).as_ref(), Ok(&want));
    }
    let short = lines.replace("[%rd1], 256,", "[%rd1], 250,");
    assert_eq!(run(&short, &rows(8, 4, Swizzle::None), &words(64), 96, 0), Err(FaultKind::Value));
    let beyond = lines.replace("[%rd1], 256,", "[%rd1+16], 256,");
    assert_eq!(run(&beyond, &rows(8, 4, Swizzle::None), &words(64), 96, 0), Err(FaultKind::OutOfBounds));
}

#[test]
fn a_loop_that_keeps_a_warp_busy_sees_the_copy_end() {
    // Half of the lanes test the barrier in a loop, the others count for themselves until it is over.
    let lines = format!(
        "{INIT}@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r2], 128;\n\
         @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 128, [%r2];\n\
         and.b32 %r3, %r0, 1; setp.eq.u32 %p3, %r3, 0; mov.u32 %r4, 0;\n@%p3 bra W;\n\
         C: add.s32 %r4, %r4, 1; mbarrier.test_wait.parity.shared.b64 %p4, [%r2], 0;\n@!%p4 bra C;\nbra J;\n{WAIT}J: {}",
        dump(32)
    );
    for seed in 0..3 {
        assert_eq!(run(&lines, &rows(8, 4, Swizzle::None), &words(32), 32, seed), Ok(words(32)));
    }
}

#[test]
fn reductions_into_a_tensor() {
    // Boxes of 8 x 4 ones are added at the edge: what hangs over is dropped.
    let lines = "mov.u32 %r3, 1; shl.b32 %r4, %r0, 2; add.s32 %r4, %r4, %r1; st.shared.u32 [%r4], %r3;\nfence.proxy.async;\nbar.warp.sync -1;\n\
                 @!%p0 bra E;\ncp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%rd0, {60, 14}], [%r1];\n\
                 cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\nld.global.u32 %r5, [%rd1+3840]; st.global.u32 [%rd2], %r5;\n\
                 ld.global.u32 %r5, [%rd1+3824]; st.global.u32 [%rd2+4], %r5;\nld.global.u32 %r5, [%rd1+3568]; st.global.u32 [%rd2+8], %r5;\nE:";
    let got = run(lines, &rows(8, 4, Swizzle::None), &words(1024), 3, 1);
    // Row 15 begins at word 960; (60, 14) is word 956; (60, 13) is word 892.
    assert_eq!(got, Ok(vec![961, 957 + 1, 893]));
}

#[test]
fn stores_into_a_tensor() {
    // A box of 8 x 4 words at the corner of a tensor of 64 x 16: what hangs over is not written, nor does it wrap around.
    let lay =
        "add.u32 %r3, %r0, 2000; shl.b32 %r4, %r0, 2; add.s32 %r4, %r4, %r1; st.shared.u32 [%r4], %r3;\n";
    let fence = "fence.proxy.async;\n";
    let sync = "bar.warp.sync -1;\n";
    let store = "@!%p0 bra E;\ncp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd0, {60, 14}], [%r1];\n\
                 cp.async.bulk.commit_group;\n";
    let wait = "cp.async.bulk.wait_group 0;\n";
    let dump: String = [956, 959, 960, 1020, 892]
        .iter()
        .enumerate()
        .map(|(n, word)| {
            format!("ld.global.u32 %r5, [%rd1+{}]; st.global.u32 [%rd2+{}], %r5;\n", word * 4, n * 4)
        })
        .collect();
    let got = |lines: &[&str], words_out: usize| {
        run(&(lines.concat() + "E:"), &rows(8, 4, Swizzle::None), &words(1024), words_out, 1)
    };
    // (60, 14) and (63, 14), the word behind them in memory, (60, 15), (60, 13).
    assert_eq!(got(&[lay, fence, sync, store, wait, &dump], 5), Ok(vec![2000, 2003, 961, 2008, 893]));
    let fault = |lines: &[&str]| got(lines, 0).expect_err("a fault");
    assert_eq!(fault(&[lay, sync, store, wait]), FaultKind::MissingProxyFence);
    assert_eq!(fault(&[lay, fence, store, wait]), FaultKind::Race);
    assert_eq!(fault(&[lay, fence, sync, store]), FaultKind::PendingAtExit);
    // The place of a box is free once it was read, not before.
    let again = "st.shared.u32 [%r1], %r3;\n";
    assert_eq!(got(&[lay, fence, sync, store, "cp.async.bulk.wait_group.read 0;\n", again], 0), Ok(vec![]));
    assert_eq!(fault(&[lay, fence, sync, store, again, wait]), FaultKind::Race);
}

#[test]
fn phases_and_parities() {
    // Lane 0 drives a barrier of two arrivals and writes down what tests say.
    let test = |parity: u32, n: u32| {
        format!(
            "mbarrier.test_wait.parity.shared.b64 %p1, [%r2], {parity}; selp.u32 %r4, 1, 0, %p1; st.global.u32 [%rd2+{}], %r4;\n",
            4 * n
        )
    };
    let arrive = "mbarrier.arrive.shared.b64 %rd4, [%r2];\n";
    let lines = [
        "@!%p0 bra E;\nmbarrier.init.shared.b64 [%r2], 2;\n".to_string(),
        test(0, 0),
        // The phase before the first has parity 1 and counts as complete.
        test(1, 1),
        arrive.to_string(),
        test(0, 2),
        arrive.to_string(),
        test(0, 3),
        test(1, 4),
        arrive.repeat(2),
        test(1, 5),
        test(0, 6),
        "mbarrier.pending_count.b64 %r4, %rd4; st.global.u32 [%rd2+28], %r4;\nE:".to_string(),
    ];
    let got = run(&lines.concat(), &rows(8, 4, Swizzle::None), &words(64), 8, 0);
    assert_eq!(got, Ok(vec![0, 1, 0, 1, 0, 1, 0, 1]));
}

#[test]
fn misuse_of_mbarriers() {
    let map = rows(8, 4, Swizzle::None);
    let alone = |lines: &str| {
        run(&format!("@!%p0 bra E;\n{lines}\nE:"), &map, &words(64), 8, 0).expect_err("a fault")
    };
    let init = "mbarrier.init.shared.b64 [%r2], 1;\n";
    assert_eq!(alone("mbarrier.arrive.shared.b64 _, [%r2];"), FaultKind::Mbarrier);
    assert_eq!(alone(&format!("{init}{init}")), FaultKind::Mbarrier);
    assert_eq!(alone("mbarrier.init.shared.b64 [%r2+4], 1;"), FaultKind::Misaligned);
    assert_eq!(alone(&format!("{init}ld.shared.u32 %r3, [%r2];")), FaultKind::Mbarrier);
    assert_eq!(
        alone(&format!("{init}mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r2], 1048576;")),
        FaultKind::Mbarrier
    );
    // Nobody saw phase 0 complete before the arrival in phase 1.
    let arrive = "mbarrier.arrive.shared.b64 _, [%r2];\n";
    assert_eq!(alone(&format!("{init}{arrive}{arrive}")), FaultKind::Mbarrier);
    let deadlock = format!("{init}W: mbarrier.try_wait.parity.shared.b64 %p1, [%r2], 0;\n@!%p1 bra W;");
    assert_eq!(alone(&deadlock), FaultKind::Deadlock);
}

#[test]
fn cp_async_that_an_mbarrier_tracks() {
    // Every lane copies 16 bytes; .noinc: the barrier expects one arrival of each lane.
    let lines = format!(
        "@%p0 mbarrier.init.shared.b64 [%r2], 32;\nbar.warp.sync -1;\nmad.wide.u32 %rd3, %r0, 16, %rd1;\nshl.b32 %r3, %r0, 4;\n\
         add.s32 %r3, %r3, %r1;\ncp.async.cg.shared.global [%r3], [%rd3], 16;\n\
         cp.async.mbarrier.arrive.noinc.shared.b64 [%r2];\n{WAIT}{}",
        dump(128)
    );
    for seed in 0..3 {
        assert_eq!(run(&lines, &rows(8, 4, Swizzle::None), &words(128), 128, seed), Ok(words(128)));
        let unwaited = lines.replace(WAIT, "");
        let kind = run(&unwaited, &rows(8, 4, Swizzle::None), &words(128), 128, seed).expect_err("a fault");
        assert!(matches!(kind, FaultKind::AsyncNotWaited | FaultKind::Race), "{kind:?}");
    }
    let zeros = format!(
        "mad.wide.u32 %rd3, %r0, 8, %rd1;\nshl.b32 %r3, %r0, 3;\nadd.s32 %r3, %r3, %r1;\n\
         cp.async.ca.shared.global [%r3], [%rd3], 8, 4;\ncp.async.wait_all;\nbar.warp.sync -1;\n{}",
        dump(64)
    );
    let want = (0..64).map(|n| if n % 2 == 0 { n + 1 } else { 0 }).collect();
    assert_eq!(run(&zeros, &rows(8, 4, Swizzle::None), &words(64), 64, 1), Ok(want));
}

#[test]
fn spaces_and_tables() {
    let lines = "@!%p0 bra E;\nmov.u64 %rd3, stack;\ncvta.local.u64 %rd4, %rd3;\nst.u32 [%rd4], 11;\nld.local.u32 %r3, [stack];\n\
                 st.global.u32 [%rd2], %r3;\ncvta.shared.u64 %rd5, %rd3;\nmov.u64 %rd5, mem;\ncvta.shared.u64 %rd5, %rd5;\nst.u32 [%rd5+8], 12;\n\
                 ld.shared.u32 %r4, [mem+8];\nst.global.u32 [%rd2+4], %r4;\nld.global.u32 %r5, [table+8];\nst.global.u32 [%rd2+8], %r5;\n\
                 ld.const.f32 %f0, [half];\nadd.f32 %f0, %f0, %f0;\ncvt.rzi.u32.f32 %r6, %f0;\nst.global.u32 [%rd2+12], %r6;\n\
                 ld.param.u64 %rd6, [x];\nld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%rd6+16];\nst.global.v2.u32 [%rd2+16], {%r5, %r6};\n\
                 isspacep.shared %p1, %rd5; selp.u32 %r3, 1, 0, %p1; st.global.u32 [%rd2+24], %r3;\n\
                 ld.global.u8 %r3, [%rd6+1]; st.global.u32 [%rd2+28], %r3;\nE:";
    assert_eq!(run(lines, &rows(8, 4, Swizzle::None), &words(64), 8, 0), Ok(vec![11, 12, 4, 1, 7, 8, 1, 0]));
}

#[test]
fn atomics() {
    let lines = "atom.global.add.u32 %r3, [%rd2], 1;\natom.global.max.u32 %r3, [%rd2+4], %r0;\nred.global.add.f32 [%rd2+8], 0f3F800000;\n\
                 atom.global.cas.b32 %r3, [%rd2+12], 0, %r0;\nred.global.or.b32 [%rd2+16], %r0;\natom.global.inc.u32 %r3, [%rd2+20], 4;\n\
                 @%p0 atom.global.exch.b32 %r3, [%rd2+24], 9;";
    let got = run(lines, &rows(8, 4, Swizzle::None), &words(64), 7, 3).expect("no fault");
    assert_eq!((got[0], got[1], f32::from_bits(got[2])), (32, 31, 32.0));
    assert_eq!((got[4], got[5], got[6]), (31, 32 % 5, 9));
}

#[test]
fn memory_that_nobody_wrote() {
    let map = rows(8, 4, Swizzle::None);
    assert_eq!(run("ld.local.u32 %r3, [stack];", &map, &words(4), 1, 0), Err(FaultKind::UninitLocal));
    assert_eq!(run("ld.shared.u32 %r3, [%r1];", &map, &words(4), 1, 0), Err(FaultKind::UninitShared));
    assert_eq!(
        run("mov.u64 %rd5, 64; ld.global.u32 %r3, [%rd5];", &map, &words(4), 1, 0),
        Err(FaultKind::OutOfBounds)
    );
    assert_eq!(run("ld.global.u32 %r3, [%rd1+2];", &map, &words(4), 1, 0), Err(FaultKind::Misaligned));
    let mut device = Device::new();
    let fresh = device.alloc::<u32>("fresh", 4);
    assert!(device.download(fresh).expect_err("unwritten").contains("global `fresh`"));
}
