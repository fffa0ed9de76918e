//! Every kernel of the gallery as machine code for every architecture: what NVIDIA's assembler says of the PTX.
//!
//! Comes in: the gallery in bf16 and f32. What is tested: ptxas takes the PTX without a warning; nothing is spilled to local
//! memory, no frame is on a stack, a thread has at most 255 registers and a block no more than its multiprocessor; shared
//! memory is within the architecture's limit; products of 16-bit attention are done by tensor cores; the softmax that runs
//! beside a product is not moved behind the wait for it. `ATTN_LLVM`, `ATTN_PTXAS` and `ATTN_NVDISASM` name the worker,
//! ptxas and its disassembler, `tests/run` sets them. Deliberately not here: results (`gpu_sim.rs`), speed.

mod common;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use attn_compiler::artifact::DType;
use attn_compiler::target::GpuArch;
use common::gpu::{Compiled, Subject, entries, subjects};
use rayon::prelude::*;

/// Registers that a thread can have.
const MAX_REGISTERS: usize = 255;
/// Registers of a multiprocessor.
const REGISTERS: usize = 64 << 10;
/// What ptxas warns of when products of warpgroups are serialised: C7510 to C7517.
const SERIALISED: std::ops::RangeInclusive<u32> = 7510..=7517;

/// Gallery entries whose scores are products of bound rows of 16 bits: these run on tensor cores.
const ON_TENSOR_CORES: [&str; 12] = [
    "alibi/alibi",
    "bidirectional/bidirectional",
    "bigbird/bigbird",
    "causal/causal",
    "chunked/chunked",
    "doc_causal/doc_causal",
    "gqa_decode/gqa_decode",
    "longformer/longformer",
    "minilm/minilm",
    "prefix_lm/prefix_lm",
    "softcap/softcap_window",
    "swa_sinks/swa_sinks",
];

/// The products that count, in PTX.
fn products(arch: GpuArch) -> &'static [&'static str] {
    match arch {
        GpuArch::Sm80 | GpuArch::Sm86 | GpuArch::Sm89 => &["mma.sync"],
        GpuArch::Sm90a => &["wgmma.mma_async"],
    }
}

/// What ptxas says of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resources {
    entry: String,
    stack: usize,
    spill_stores: usize,
    spill_loads: usize,
    registers: usize,
}

/// The number before a phrase, in `8 bytes stack frame, 4 bytes spill stores`.
fn before(line: &str, phrase: &str) -> Option<usize> {
    let at = line.find(phrase)?;
    line[..at].trim_end().rsplit(' ').next()?.parse().ok()
}

/// Entries in what `ptxas -v` writes, and all lines that are neither about them nor known to be harmless.
fn read(said: &str) -> (Vec<Resources>, Vec<String>) {
    let (mut entries, mut others) = (Vec::<Resources>::new(), Vec::new());
    for line in said.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if let Some((_, name)) = line.split_once("Function properties for ") {
            entries.push(Resources { entry: name.trim().into(), ..Resources::default() });
        } else if let (Some(e), Some(stack)) = (entries.last_mut(), before(line, "bytes stack frame")) {
            e.stack = stack;
            e.spill_stores = before(line, "bytes spill stores").expect("a number");
            e.spill_loads = before(line, "bytes spill loads").expect("a number");
        } else if let (Some(e), Some((_, rest))) = (entries.last_mut(), line.split_once("Used ")) {
            e.registers = before(rest, "registers").expect("a number");
        } else if !["Compiling entry function", "gmem", "Compile time"].iter().any(|k| line.contains(k)) {
            others.push(line.to_string());
        }
    }
    (entries, others)
}

/// Runs ptxas. Errors: it refuses the text.
fn assemble(ptx: &str, arch: GpuArch) -> Result<String, String> {
    assemble_to(ptx, arch, Path::new("/dev/null"))
}

/// A tool of NVIDIA's that a variable names.
fn tool(variable: &str) -> Command {
    let tool = std::env::var_os(variable).filter(|n| !n.is_empty());
    Command::new(
        tool.unwrap_or_else(|| panic!("{variable} is not set; tests/run installs the tool and sets it")),
    )
}

fn assemble_to(ptx: &str, arch: GpuArch, cubin: &Path) -> Result<String, String> {
    let mut file = tempfile::NamedTempFile::with_suffix(".ptx").expect("a scratch file");
    file.write_all(ptx.as_bytes()).expect("room for PTX");
    let mut command = tool("ATTN_PTXAS");
    command.args(["-arch", arch.name(), "-v", "-o"]).arg(cubin).arg(file.path());
    let out = command.output().expect("ptxas starts");
    let said = [String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)].concat();
    if out.status.success() { Ok(said) } else { Err(said) }
}

/// Everything that is wrong with one kernel.
fn faults(subject: &Subject, arch: GpuArch, float: DType) -> Vec<String> {
    let what = format!("{} {} {float}", subject.name, arch.name());
    let compiled = match subject.compile(arch, float, 64) {
        Ok(compiled) => compiled,
        Err(no) => return vec![format!("{what}: {}", no.text)],
    };
    let mut wrong = wrong_products(subject, &compiled, arch);
    let (entries, others) = match assemble(compiled.ptx(), arch) {
        Ok(said) => read(&said),
        Err(said) => return vec![format!("ptxas refuses it: {said}")],
    };
    wrong.extend(others.iter().map(|line| {
        let is_serial = SERIALISED.clone().any(|n| line.contains(&format!("C{n}")));
        format!("{}: {line}", if is_serial { "products are serialised" } else { "ptxas says" })
    }));
    // A launch has one form, or also one with tensor maps.
    let general = compiled.artifact.launches.iter().filter_map(|l| l.device.as_ref());
    let launches: Vec<_> =
        general.flat_map(|l| [Some(l), l.mapped.as_ref().map(|m| &m.launch)].into_iter().flatten()).collect();
    if entries.len() != launches.len() {
        wrong.push(format!("{} entries of {} launches", entries.len(), launches.len()));
    }
    for launch in launches {
        let Some(e) = entries.iter().find(|e| e.entry == launch.kernel) else {
            wrong.push(format!("no entry {}", launch.kernel));
            continue;
        };
        let spills = e.stack + e.spill_stores + e.spill_loads;
        let fits = (1..=MAX_REGISTERS).contains(&e.registers)
            && e.registers.next_multiple_of(8) * launch.threads as usize <= REGISTERS;
        if spills > 0 || !fits {
            wrong.push(format!("{e:?}"));
        }
        if launch.shared_bytes as usize > arch.shared_bytes() {
            wrong.push(format!("{}: {} bytes of shared memory", launch.kernel, launch.shared_bytes));
        }
    }
    wrong.into_iter().map(|w| format!("{what}: {w}")).collect()
}

/// Entries of attentions without the products that they should have.
fn wrong_products(subject: &Subject, compiled: &Compiled, arch: GpuArch) -> Vec<String> {
    if compiled.float != DType::Bf16 || !ON_TENSOR_CORES.contains(&subject.name.as_str()) {
        return vec![];
    }
    let attends: Vec<_> = entries(compiled.ptx()).into_iter().filter(|(n, _)| n.contains("attend")).collect();
    let has = |text: &str| products(arch).iter().any(|p| text.contains(p));
    let lacks = attends.iter().filter(|(_, text)| !has(text));
    let mut wrong: Vec<String> =
        lacks.map(|(name, _)| format!("{name} has no {:?}", products(arch))).collect();
    if attends.is_empty() {
        wrong.push("no entry of an attention".into());
    }
    wrong
}

#[test]
fn every_kernel_is_assembled_without_spills() {
    let start = Instant::now();
    let subjects: Vec<Subject> = subjects().into_iter().filter(|s| s.in_gallery).collect();
    for name in ON_TENSOR_CORES {
        assert!(subjects.iter().any(|s| s.name == name), "{name} is gone");
    }
    let mut jobs = Vec::new();
    for arch in GpuArch::ALL {
        for float in [DType::Bf16, DType::F32] {
            jobs.extend(subjects.iter().map(|s| (s, arch, float)));
        }
    }
    let n = jobs.len();
    let wrong: Vec<String> =
        jobs.into_par_iter().flat_map_iter(|(subject, arch, float)| faults(subject, arch, float)).collect();
    println!("{n} modules assembled in {:.1} s", start.elapsed().as_secs_f64());
    assert!(wrong.is_empty(), "{} faults in {n} modules\n{}", wrong.len(), wrong.join("\n"));
}

/// The listing of an entry's machine code.
fn listing(ptx: &str, arch: GpuArch, entry: &str) -> String {
    let cubin = tempfile::NamedTempFile::with_suffix(".cubin").expect("a scratch file");
    assemble_to(ptx, arch, cubin.path()).expect("PTX");
    let out = tool("ATTN_NVDISASM").arg("-c").arg(cubin.path()).output().expect("nvdisasm starts");
    let all = String::from_utf8(out.stdout).expect("text");
    let begin = format!(".section\t.text.{entry},");
    let from = all.find(&begin).unwrap_or_else(|| panic!("no {begin:?} in a listing of {} bytes", all.len()));
    let end = all[from + 1..].find(".section\t.text.").map_or(all.len(), |n| from + 1 + n);
    all[from..end].to_string()
}

/// The softmax of a tile runs beside the product of the tile before: ptxas moves a wait up over arithmetic, and the
/// kernel must not let it.
#[test]
fn exponentials_stand_before_the_wait_for_the_product_beside_them() {
    for features in [64, 128] {
        let subject = subjects().into_iter().find(|s| s.name == "causal/causal").expect("a kernel");
        let compiled = subject.compile(GpuArch::Sm90a, DType::Bf16, features).expect("code");
        let code = listing(compiled.ptx(), GpuArch::Sm90a, "attn_attend_mapped");
        let lines: Vec<&str> = code.lines().collect();
        let waits = |n: u32| format!("WARPGROUP.DEPBAR.LE gsb0, 0x{n}");
        let asked = lines.iter().position(|l| l.contains(&waits(1))).expect("a wait for scores alone");
        // The first of these is that of a tile which nothing waits beside.
        let mut ends = (asked..lines.len()).filter(|n| lines[*n].contains(&waits(0)));
        let end = ends.nth(1).expect("a wait for the product");
        let exponentials = lines[asked..end].iter().filter(|l| l.contains("MUFU.EX2")).count();
        // Of 64 rows and 128 columns each of 128 threads has 64 elements.
        assert!(exponentials >= 64, "D = {features}: {exponentials} before line {end}");
        assert!(lines[asked..end].iter().all(|l| !l.contains("HGMMA")), "D = {features}: another product");
    }
}

#[test]
fn what_ptxas_writes_is_read() {
    let said = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a' for 'sm_90a'
ptxas info    : Function properties for a
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 8 bytes cumulative stack size, 560 bytes cmem[0]
ptxas info    : Compile time = 12.3 ms
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to ...
";
    let (entries, others) = read(said);
    let wanted = Resources { entry: "a".into(), stack: 8, spill_stores: 4, spill_loads: 12, registers: 64 };
    assert_eq!(entries, [wanted]);
    assert_eq!(others.len(), 1, "{others:?}");
    assert!(others[0].contains("C7510"));
}

#[test]
fn ptxas_sees_a_spill() {
    let wide: String = (0..300).map(|n| format!("ld.global.u32 %r{n}, [%rd1+{}];\n", n * 4)).collect();
    let back: String = (0..300).rev().map(|n| format!("st.global.u32 [%rd1+{}], %r{n};\n", n * 8)).collect();
    let ptx = format!(
        ".version 8.3\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n.maxntid 128, 1, 1\n{{\n\
         .reg .b32 %r<300>; .reg .b64 %rd<2>;\nld.param.u64 %rd1, [p];\n{wide}bar.sync 0;\n{back}ret;\n}}\n"
    );
    let (entries, _) = read(&assemble(&ptx, GpuArch::Sm80).expect("PTX"));
    assert!(entries[0].spill_stores > 0 && entries[0].stack > 0, "{entries:?}");
}
