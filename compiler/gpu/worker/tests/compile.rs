//! `attnc-llvm` as a process: text in; PTX, messages and exit codes out. What is PTX ptxas says: `ATTN_PTXAS` must be the
//! path of one, as `tests/run` sets it.

use std::io::Write;
use std::process::{Command, Output, Stdio};

const TARGETS: [&str; 4] = ["sm_80", "sm_86", "sm_89", "sm_90a"];
const ADD: &str = include_str!("mlir/add.mlir");
const MMA: &str = include_str!("mlir/mma.mlir");

fn run(args: &[&str], text: &str) -> Output {
    feed(Command::new(env!("CARGO_BIN_EXE_attnc-llvm")).args(args), text)
}

fn feed(command: &mut Command, text: &str) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    // A program that refuses its arguments does not read: then the pipe is closed, and this fails, rightly.
    let _ = child.stdin.take().expect("a pipe").write_all(text.as_bytes());
    child.wait_with_output().expect("the program ends")
}

/// What is written, given that all is well.
fn good(args: &[&str], text: &str) -> String {
    let out = run(args, text);
    assert_eq!(out.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stderr.is_empty(), "{args:?} says: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

/// What is said, given that the exit code is `code` and nothing is written.
fn bad(code: i32, args: &[&str], text: &str) -> String {
    let out = run(args, text);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
    assert!(out.stdout.is_empty(), "{args:?}: nothing is written");
    assert!(said.starts_with("attnc-llvm: "), "{said}");
    said
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

/// ptxas takes `ptx`; gives what it says about registers and spills.
fn assemble(target: &str, ptx: &str) -> String {
    let ptxas = std::env::var("ATTN_PTXAS").expect(
        "ATTN_PTXAS must be the path of ptxas: run tests/run, or eval \"$(tests/run --setup-only)\" first",
    );
    let arch = format!("-arch={target}");
    let mut command = Command::new(&ptxas);
    let out = feed(command.args([arch.as_str(), "-v", "-o", "/dev/null", "/dev/stdin"]), ptx);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{target}: {said}\n{ptx}");
    said
}

#[test]
fn a_vector_sum_is_ptx_for_every_target() {
    for target in TARGETS {
        let ptx = good(&["--target", target], ADD);
        assert!(ptx.contains(&format!("\n.target {target}\n")) && ptx.contains("\n.version 8.3\n"), "{ptx}");
        assert!(ptx.contains(".visible .entry add(") && ptx.contains(".maxntid 128"), "{ptx}");
        assert_eq!(count(&ptx, "ld.global.f32"), 2, "{ptx}");
        assert_eq!(count(&ptx, "st.global.f32"), 1, "{ptx}");
        assert!(!ptx.contains(".local"), "the register lives in memory:\n{ptx}");
        assert!(assemble(target, &ptx).contains("0 bytes stack frame"));
    }
}

#[test]
fn a_loop_stays_a_loop() {
    for target in TARGETS {
        let ptx = good(&["--target", target], MMA);
        assert_eq!(count(&ptx, "mma.sync"), 1, "{ptx}");
        // One of inline assembly, one of an intrinsic.
        assert_eq!(count(&ptx, "bar.sync 0;"), 1, "{ptx}");
        assert_eq!(count(&ptx, "bar.sync \t0;"), 1, "{ptx}");
        assert!(ptx.contains(".extern .shared .align 1024 .b8 smem[];"), "{ptx}");
        assert!(!ptx.contains(".local"), "the registers live in memory:\n{ptx}");
        assert!(assemble(target, &ptx).contains("0 bytes stack frame"));
    }
}

/// A barrier before a branch on what an earlier branch decided. Unmarked, `simplifycfg` threads the jump and there are two
/// barriers, one in each arm.
#[test]
fn a_barrier_between_two_branches_stays_one() {
    let text = r#"
        llvm.func @k(%out: i64, %n: i32) attributes {nvvm.kernel} {
          %yes = llvm.mlir.constant(1 : i1) : i1
          %no = llvm.mlir.constant(0 : i1) : i1
          %p = llvm.inttoptr %out : i64 to !llvm.ptr<1>
          %t = nvvm.read.ptx.sreg.tid.x : i32
          %low = llvm.icmp "slt" %t, %n : i32
          llvm.cond_br %low, ^a, ^b(%no : i1)
        ^a:
          llvm.store volatile %t, %p : i32, !llvm.ptr<1>
          llvm.br ^b(%yes : i1)
        ^b(%was: i1):
          llvm.inline_asm has_side_effects "bar.sync 7;", "" : () -> ()
          llvm.cond_br %was, ^c, ^d
        ^c:
          llvm.store volatile %n, %p : i32, !llvm.ptr<1>
          llvm.br ^d
        ^d:
          llvm.return
        }"#;
    let ptx = good(&["--target", "sm_90a"], text);
    assert_eq!(count(&ptx, "bar.sync 7;"), 1, "{ptx}");
}

#[test]
fn every_call_of_assembly_and_of_a_barrier_is_convergent() {
    let ir = good(&["--target", "sm_90a", "--emit", "llvm-ir"], MMA);
    let mut seen = 0;
    for line in ir.lines().filter(|l| l.contains(" asm ") || l.contains("call void @llvm.nvvm.barrier0")) {
        let group = line.rsplit(' ').next().expect("a word");
        let attributes = ir.lines().find(|l| l.starts_with(&format!("attributes {group} = ")));
        assert!(attributes.is_some_and(|a| a.contains("convergent") && a.contains("nounwind")), "{line}");
        seen += 1;
    }
    assert_eq!(seen, 3, "{ir}");
    assert!(!ir.contains("alloca"), "{ir}");
}

#[test]
fn subnormal_numbers_are_kept_unless_asked() {
    assert!(good(&["--target", "sm_80"], ADD).contains("add.rn.f32"));
    let ptx = good(&["--target", "sm_80", "--ftz"], ADD);
    assert!(ptx.contains("add.rn.ftz.f32"), "{ptx}");
}

/// MLIR leaves natural alignments to the data layout; without the target's, an i64 is loaded in two halves.
#[test]
fn wide_elements_are_loaded_whole() {
    let text = "llvm.func @k(%p: !llvm.ptr<1>) attributes {nvvm.kernel} {
        %v = llvm.load %p : !llvm.ptr<1> -> i64
        %w = llvm.add %v, %v : i64
        llvm.store %w, %p : i64, !llvm.ptr<1>
        llvm.return }";
    let ptx = good(&["--target", "sm_80"], text);
    assert_eq!((count(&ptx, "ld.global.u64"), count(&ptx, "st.global.u64")), (1, 1), "{ptx}");
}

#[test]
fn a_module_comes_back_as_it_was_read() {
    let once = good(&["--emit", "mlir"], MMA);
    assert!(once.starts_with("module {"), "{once}");
    assert_eq!(good(&["--emit=mlir", "--target=sm_80"], &once), once);
}

#[test]
fn the_version_names_llvm() {
    let version = good(&["--version"], "");
    assert!(version.starts_with("attnc-llvm ") && version.contains("(LLVM 19."), "{version}");
    assert!(good(&["--help"], "").contains("--target sm_80|sm_86|sm_89|sm_90a"));
}

#[test]
fn bad_usage_is_told() {
    let known = "sm_80, sm_86, sm_89, sm_90a";
    for target in ["sm_100a", "sm_90", "sm_75", "", "SM_80"] {
        let said = bad(1, &["--target", target], ADD);
        assert!(said.contains(&format!("unknown target `{target}`")) && said.contains(known), "{said}");
    }
    assert!(bad(1, &[], ADD).contains(known));
    assert!(bad(1, &["--target"], ADD).contains("--target needs a value"));
    assert!(bad(1, &["--target", "sm_80", "--emit", "cubin"], ADD).contains("ptx, llvm-ir and mlir"));
    assert!(bad(1, &["--target", "sm_80", "kernel.mlir"], ADD).contains("unknown argument `kernel.mlir`"));
    assert!(bad(1, &["--target", "sm_80", "--ftz=1"], ADD).contains("unknown argument `--ftz=1`"));
}

#[test]
fn text_that_does_not_parse_is_quoted() {
    let text = ADD.replace("%first, %thread", "%first, %nowhere");
    let said = bad(2, &["--target", "sm_80"], &text);
    assert!(said.contains("error: use of undeclared SSA value name"), "{said}");
    assert!(said.contains("9 |   %i = llvm.add %first, %nowhere : i32\n"), "{said}");
    assert!(said.contains("|                         ^"), "{said}");
    let said = bad(2, &["--target", "sm_80"], "llvm.func @f() {");
    assert!(said.contains("1 | llvm.func @f() {"), "{said}");
    assert!(bad(2, &["--target", "sm_80"], "module {}\0").contains("NUL"));
}

#[test]
fn text_that_does_not_verify_is_quoted() {
    let said = bad(2, &["--target", "sm_80"], &ADD.replace("llvm.fadd", "llvm.add"));
    assert!(said.contains("error: 'llvm.add' op operand #0 must be signless integer"), "{said}");
    assert!(said.contains("23 |   %sum = llvm.add %va, %vb : f32\n"), "{said}");
}

#[test]
fn other_dialects_are_refused() {
    for op in ["arith.addf %va, %vb : f32", "\"gpu.thread_id\"() : () -> f32", "\"ours.op\"() : () -> f32"] {
        let said = bad(2, &["--target", "sm_80"], &ADD.replace("llvm.fadd %va, %vb : f32", op));
        assert!(said.contains(&format!("23 |   %sum = {op}\n")), "{said}");
    }
}

#[test]
fn what_llvm_refuses_is_told() {
    // Found by code generation.
    let said = bad(3, &["--target", "sm_80"], &MMA.replace("\"=f,=f,=f,=f,r", "\"=f,=f,=f,=f,Z"));
    assert!(said.contains("unknown asm constraint 'Z'"), "{said}");
    let said = bad(
        3,
        &["--target", "sm_80"],
        "llvm.func @f(%v: f32) -> f32 {
        %r = llvm.intr.exp(%v) : (f32) -> f32
        llvm.return %r : f32 }",
    );
    assert!(said.contains("no libcall available for fexp"), "{said}");
    // A fatal error, of which LLVM ends the process: an instruction of sm_90 for sm_80.
    let said = bad(3, &["--target", "sm_80"], "llvm.func @f() { nvvm.cluster.arrive\n llvm.return }");
    assert!(said.contains("LLVM ended on a fatal error: Cannot select"), "{said}");
}

/// Broken text of many kinds ends with an exit code, never a signal or a panic.
#[test]
fn cut_text_ends_with_a_code() {
    for at in (0..MMA.len()).step_by(97) {
        let out = run(&["--target", "sm_80"], &MMA[..at]);
        let code = out.status.code();
        assert!(matches!(code, Some(0 | 2)), "cut at {at}: {}", String::from_utf8_lossy(&out.stderr));
    }
}
