//! Every instruction and operation in one kernel, there and back; what is no text.

use super::*;
use crate::simt_ir::{Async, Builder, Bulk, Inst, Kernel, Mbar, Mma, Op, Slot, Space, Val, Wgmma, WgmmaLeft};

/// A kernel that holds every instruction; it makes no sense.
fn everything() -> Kernel {
    let mut b = Builder::new();
    let v = b.i32(i64::from(i32::MIN));
    let f = b.f32(-0.0);
    for x in [0.1, f64::INFINITY, f64::NEG_INFINITY, 1e300, 5e-324] {
        b.def(Ty::F64, Op::Float(x));
    }
    for x in [i64::MIN, i64::MAX, 0] {
        b.i64(x);
    }
    let yes = b.bool(true);
    for op in [
        Op::Param(3),
        Op::Tid,
        Op::Ctaid,
        Op::Nctaid,
        Op::SharedBase,
        Op::Get(Slot(0)),
        Op::Shfl(f, 16),
        Op::Uniform(v),
    ] {
        b.def(Ty::I32, op);
    }
    BINS.iter().for_each(|(_, op)| _ = b.bin(*op, v, v));
    CMPS.iter().for_each(|(_, op)| _ = b.cmp(*op, v, v));
    UNS.iter().for_each(|(_, op)| _ = b.un(*op, f));
    CASTS.iter().for_each(|(_, op)| _ = b.def(Ty::I16, Op::Cast(*op, v)));
    for (_, ty) in TYPES {
        b.load(Space::Global, ty, v);
        b.load(Space::Shared, ty, v);
    }
    b.select(yes, f, f);
    b.fma(f, f, f);
    b.pack(true, f, f);
    b.pack(false, f, f);
    instructions(&mut b, v, f, yes);
    // Its instructions are dropped: the value stays without a definition.
    b.open();
    b.i64(5);
    b.close();
    let mut kernel = b.finish("everything", 4, 128, 65536);
    kernel.n_maps = 2;
    kernel
}

/// Every instruction that is no value.
fn instructions(b: &mut Builder, v: Val, f: Val, yes: Val) {
    let slots: Vec<Slot> = (0..8).map(|n| b.empty_slot(if n == 7 { Ty::I64 } else { Ty::F32 })).collect();
    b.set(slots[3], f);
    b.store(Space::Global, v, f);
    b.store(Space::Shared, v, f);
    for inst in [Inst::Bar, Inst::WarpBar, Inst::BreakIf(yes)] {
        b.push(inst);
    }
    let round = |afresh| Inst::Loop { body: vec![Inst::BreakIf(yes)], afresh };
    for (then, otherwise) in
        [(vec![], vec![]), (vec![Inst::Bar], vec![]), (vec![], vec![round(false), round(true)])]
    {
        b.push(Inst::If { cond: yes, then, otherwise });
    }
    let d = [slots[1], slots[0], slots[1], slots[2]];
    b.push(Inst::Mma(Mma { bf16: true, d, a: [v; 4], b: [v, f] }));
    b.ldmatrix(v, true);
    b.ldmatrix(v, false);
    b.atomic_inc(v, f);
    for op in [Async::Copy { dst: v, src: f, bytes: yes }, Async::Commit, Async::Wait(2)] {
        b.push(Inst::Async(op));
    }
    let product = |a: WgmmaLeft, trans_b: bool, accumulate: bool| Wgmma::Product {
        bf16: trans_b,
        d: slots.clone(),
        a,
        b: v,
        trans_b,
        accumulate,
    };
    for op in [
        Wgmma::Fence,
        product(WgmmaLeft::Shared(f), false, true),
        product(WgmmaLeft::Registers([v, f, v, yes]), true, false),
        Wgmma::Commit,
        Wgmma::Wait(0, vec![]),
        Wgmma::Wait(1, slots.clone()),
        Wgmma::ProxyFence,
    ] {
        b.push(Inst::Wgmma(op));
    }
    for op in [
        Mbar::Init { at: v, count: 3 },
        Mbar::FenceInit,
        Mbar::ArriveExpect { at: v, bytes: 4096 },
        Mbar::Arrive { at: v },
        Mbar::Wait { at: v, parity: f },
        Mbar::Copy { dst: v, map: 1, coords: vec![v, f, v], bar: yes },
    ] {
        b.push(Inst::Mbar(op));
    }
    for op in [Bulk::Store { src: v, map: 2, coords: vec![v, f] }, Bulk::Commit, Bulk::WaitRead(0)] {
        b.push(Inst::Bulk(op));
    }
    for (wait, more) in [(true, false), (false, true)] {
        b.push(Inst::NamedBar { wait, id: 3, threads: 96 });
        b.push(Inst::Registers { count: 240, more });
    }
}

#[test]
fn every_instruction_reads_back() {
    let kernel = everything();
    let text = print(&kernel);
    let back = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(back, kernel);
    assert_eq!(print(&back), text);
    assert!(
        text.contains("float -0.0") && text.contains("[s0..s8]") && text.contains("\n  value %"),
        "{text}"
    );
}

#[test]
fn a_module_is_kernels_one_after_the_other() {
    let (a, b) = (everything(), Builder::new().finish("nothing", 0, 32, 0));
    let text = print_module(&[a.clone(), b.clone()]);
    assert_eq!(parse_module(&text).unwrap(), [a, b]);
    assert_eq!(parse_module("// nothing\n").unwrap(), []);
}

#[test]
fn places_are_lines_of_the_text() {
    let kernel = everything();
    let text = print(&kernel);
    let lines: Vec<&str> = text.lines().collect();
    for inst in &kernel.body {
        let place = place(&kernel, inst);
        let (line, head) = place.strip_prefix("line ").unwrap().split_once(": ").unwrap();
        assert_eq!(lines[line.parse::<usize>().unwrap() - 1].trim(), head);
    }
    let Some(Inst::If { otherwise, .. }) = kernel.body.iter().filter(|i| matches!(i, Inst::If { .. })).nth(2)
    else {
        panic!("{text}")
    };
    let place = place(&kernel, &otherwise[0]);
    assert!(place.ends_with(": loop {"), "{place}");
    // An instruction of no kernel is printed without a line.
    assert_eq!(super::place(&kernel, &Inst::Bar), "bar");
}

#[test]
fn an_ill_formed_kernel_prints() {
    let mut kernel = everything();
    kernel.body.push(Inst::Def(Val(9999), Op::Get(Slot(77))));
    assert!(print(&kernel).contains("%9999: ? = get s77"));
}

#[test]
fn what_is_no_text_is_told_with_its_line() {
    let head = "kernel k {\n  params 0\n  maps 0\n  threads 32\n  shared 0\n";
    for (body, line, part) in [
        ("  bra\n}\n", 6, "`bra` is no instruction"),
        ("  %0: i32 = tidd\n}\n", 6, "`tidd` is no operation"),
        ("  %0: i33 = tid\n}\n", 6, "`i33` is no type"),
        ("  %1: i32 = tid\n}\n", 7, "%0 is nowhere defined"),
        ("  %0: i32 = tid\n  %0: i64 = int 3\n}\n", 7, "another type"),
        ("  set %0 = %0\n}\n", 6, "`%0` is not `s` and a number"),
        ("  slots s1..s2: f32\n}\n", 6, "the next slot is s0"),
        ("  slots s0..s999999: f32\n}\n", 6, "no range of slots"),
        ("  bar\n", 6, "expected a name, found the end"),
        ("  bar\n}\nbar\n", 7, "expected the end"),
        ("  store local[%0] = %0\n}\n", 6, "expected `global` or `shared`"),
        ("  copy_async global[%0] <- global[%0], bytes = %0\n}\n", 6, "not in Shared"),
        ("  mma bf16 [s0..s3] += [%0] * [%0]\n}\n", 6, "expected 4 slots, found 3"),
        ("  wait_async -1\n}\n", 6, "no count"),
        ("  %0: f32 = float x\n}\n", 6, "expected a float"),
        ("  %0: i32, %1: i32 = tid\n}\n", 6, "expected 1 result, found 2"),
    ] {
        let err = parse(&format!("{head}{body}")).unwrap_err();
        assert!(err.message.contains(part), "{body}: {err}");
        assert_eq!(err.line, line, "{body}: {err}");
    }
    let deep = format!("{head}{}", "loop {\n".repeat(5000));
    assert!(parse(&deep).unwrap_err().message.contains("nested deeper"));
}
