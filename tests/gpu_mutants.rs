//! Faults planted in PTX that the compiler emits: each is caught, by a fault of the simulator or by a result that is outside
//! of its tolerance. A test of the tests of `gpu_sim.rs`.
//!
//! Comes in: kernels of the gallery on sm_80: attention on tensor cores (causal; grouped heads), exact attention, a recurrence,
//! decoding with a cache; on sm_90a causal attention whose warps have roles. What holds: as emitted they pass; a mutant differs in one instruction, is PTX that the simulator takes,
//! and runs at the lengths and orders that the kernel passed with. `MUTANTS_SHOWN=1` says what caught each. `ATTN_LLVM` names the
//! worker, `tests/run` sets it. Deliberately not here: faults of the compiler's own passes.

mod common;

use std::fmt::Write as _;

use attn_compiler::artifact::DType;
use attn_compiler::target::GpuArch;
use attn_runtime::{Device, LoadedKernel};
use common::gpu::{Compiled, subjects};
use common::{Problem, compare};
use rayon::prelude::*;

/// Orders that each mutant is run in.
const SEEDS: u64 = 6;
/// Queries and keys.
const LENGTHS: [(i64, i64); 3] = [(129, 129), (17, 17), (8, 70)];

/// Keys that fall into two runs.
const IN_RUNS: i64 = 600;

/// Predicates for mutants, before the first instruction of each entry.
const PRELUDE: &str = "\t.reg .pred %mut_half, %mut_warp, %mut_first;
\t.reg .b32 %mut_r;
\tmov.u32 %mut_r, %laneid;
\tsetp.lt.u32 %mut_half, %mut_r, 16;
\tmov.u32 %mut_r, %tid.x;
\tsetp.lt.u32 %mut_warp, %mut_r, 32;
\tsetp.eq.u32 %mut_first, %mut_r, 0;
";

/// What a fault does to a line of a module: the lines in its place, or nothing if it is no place for it.
type Change = fn(&[&str], usize) -> Option<String>;

/// A kind of fault.
struct Fault {
    what: &'static str,
    /// Kernels that have a place for it.
    on: &'static [&'static str],
    /// How many places of each kernel are taken, evenly spread.
    places: usize,
    change: Change,
}

const fn fault(what: &'static str, on: &'static [&'static str], places: usize, change: Change) -> Fault {
    Fault { what, on, places, change }
}

/// Kernels: name of the subject, dtype, feature dim.
const CAUSAL: &str = "causal/causal bf16";
const GROUPED: &str = "bidirectional/bidirectional bf16";
const EXACT: &str = "causal/causal f32";
const RECUR: &str = "lightning/lightning f32";
const DECODE: &str = "gqa_decode/gqa_decode bf16";
/// On sm_90a, by tensor maps.
const ROLES: &str = "causal/causal bf16 sm_90a";
const ALL: &[&str] = &[CAUSAL, GROUPED, EXACT, RECUR, DECODE];
const TENSOR: &[&str] = &[CAUSAL, GROUPED, DECODE];

/// The line without its instruction, for lines that have this part.
fn dropped(line: &str, part: &str) -> Option<String> {
    line.contains(part).then(String::new)
}

/// The line with a part replaced, where it has it.
fn replaced(line: &str, from: &str, to: &str) -> Option<String> {
    line.contains(from).then(|| line.replacen(from, to, 1))
}

/// The line under a predicate.
fn under(line: &str, part: &str, predicate: &str) -> Option<String> {
    line.contains(part).then(|| format!("\t@{predicate} {}", line.trim_start()))
}

/// The address of a line's only brackets, `by` bytes further.
fn shifted(line: &str, by: i64) -> Option<String> {
    let end = line.find(']')?;
    let (head, tail) = line.split_at(end);
    if head.contains('+') { None } else { Some(format!("{head}+{by}{tail}")) }
}

/// Whether it copies, asynchronously.
fn is_copy(line: &str) -> bool {
    line.contains("cp.async.cg") || line.contains("cp.async.ca")
}

/// A barrier that something waits for: right after a wait for copies, or, where there are none, not at the end of a loop
/// that has ended with one. Others are there for paths that are never taken together: no result needs them.
fn is_needed(lines: &[&str], n: usize) -> bool {
    let copies = lines.iter().any(|l| is_copy(l));
    lines[n].contains("bar.sync")
        && match copies {
            true => lines[n.saturating_sub(6)..n].iter().any(|l| l.contains("cp.async.wait_group")),
            false => !lines[n - 1].starts_with('$'),
        }
}

/// A wait for copies, or the end of their group, that such a barrier follows.
fn leads_to_needed(lines: &[&str], n: usize) -> bool {
    (n..lines.len().min(n + 9)).any(|m| is_needed(lines, m))
}

/// The operands of an instruction.
fn operands(line: &str) -> Vec<&str> {
    let rest = line.trim().split_once(char::is_whitespace).map_or("", |(_, rest)| rest);
    rest.trim_end_matches(';').split(',').map(str::trim).collect()
}

/// A `setp` of two registers that lies between two kinds of instructions: a mask of pairs.
fn is_mask(lines: &[&str], n: usize) -> bool {
    let ops = operands(lines[n]);
    lines[n].trim().starts_with("setp.gt.s32") && ops.len() == 3 && ops[2].starts_with("%r") && {
        let before = lines[..n].iter().rposition(|l| l.contains("mma.sync"));
        before.is_some_and(|at| !lines[at..n].iter().any(|l| l.contains("shfl") || l.contains("bar.sync")))
    }
}

/// A conditional branch over stores to global memory, no further than 300 lines: the guard of a tile's last rows.
fn guards_stores(lines: &[&str], n: usize) -> bool {
    let Some(target) = lines[n].trim().strip_prefix("@%p").and_then(|l| l.split_once("bra ")) else {
        return false;
    };
    let label = format!("{}:", target.1.trim().trim_end_matches(';'));
    let Some(over) = lines[n..].iter().position(|l| l.starts_with(&label)) else { return false };
    let skipped = &lines[n + 1..n + over];
    // Where 16-bit columns are stored in pairs or singly, both ways are skipped.
    let has = |what: &str| skipped.iter().any(|l| l.contains(what));
    let both = has("st.global.b32") && has("st.global.b16");
    over < 300 && has("st.global") && (both || !skipped.iter().any(|l| l.starts_with('$')))
}

/// A store to global memory that runs with contiguous outputs, of which those of 16 bits leave in pairs.
fn stores_result(lines: &[&str], n: usize) -> bool {
    let pairs = lines.iter().any(|l| l.contains("st.global.b32"));
    lines[n].contains("st.global") && !(pairs && lines[n].contains("st.global.b16"))
}

/// All kinds.
fn faults() -> Vec<Fault> {
    [waits_and_barriers(), addresses(), lanes_and_products(), bounds_and_values(), roles()]
        .into_iter()
        .flatten()
        .collect()
}

fn waits_and_barriers() -> Vec<Fault> {
    vec![
        fault("a barrier is missing", ALL, 99, |l, n| is_needed(l, n).then(String::new)),
        fault("half of each warp goes to a barrier", ALL, 4, |l, n| {
            is_needed(l, n).then(|| "\t@%mut_half bar.sync 0;".to_string())
        }),
        fault("one warp goes to a barrier", ALL, 4, |l, n| {
            is_needed(l, n).then(|| "\t@%mut_warp bar.sync 0;".to_string())
        }),
        fault("two barriers have other numbers", &[CAUSAL, EXACT, RECUR], 2, |l, n| {
            replaced(l[n], "bar.sync \t0", "@%mut_warp bar.sync 1;\n\t@!%mut_warp bar.sync 0")
        }),
        fault("copies are not waited for", TENSOR, 99, |l, n| {
            leads_to_needed(l, n).then(|| dropped(l[n], "cp.async.wait_group"))?
        }),
        fault("one group too many may be on its way", TENSOR, 99, |l, n| {
            leads_to_needed(l, n).then(|| replaced(l[n], "cp.async.wait_group 0", "cp.async.wait_group 1"))?
        }),
        fault("copies are in no group", TENSOR, 99, |l, n| {
            // The first group, of queries, is covered by the wait for the next.
            let later = l[..n].iter().any(|l| l.contains("cp.async.commit_group"));
            later.then(|| dropped(l[n], "cp.async.commit_group"))?
        }),
        fault("half of the lanes copy", TENSOR, 2, |l, n| {
            is_copy(l[n]).then(|| under(l[n], "cp.async", "%mut_half"))?
        }),
    ]
}

fn addresses() -> Vec<Fault> {
    vec![
        fault("a copy lands 16 bytes further", TENSOR, 99, |l, n| {
            if is_copy(l[n]) { shifted(l[n], 16) } else { None }
        }),
        fault("a copy is not aligned", TENSOR, 1, |l, n| if is_copy(l[n]) { shifted(l[n], 8) } else { None }),
        fault("rows beyond the last are copied", &[CAUSAL], 99, |l, n| {
            // Behind the first rows of a tile, which always exist at these lengths.
            let later = l[n.saturating_sub(14)..n].iter().any(|l| is_copy(l));
            let copies = later && l[n..l.len().min(n + 16)].iter().any(|l| is_copy(l));
            if copies { replaced(l[n], "setp.lt.s32", "setp.ne.s32") } else { None }
        }),
        fault("fragments are read 16 bytes further", TENSOR, 4, |l, n| {
            if l[n].contains("ldmatrix") { shifted(l[n], 16) } else { None }
        }),
        fault("a row of shared memory is twice as long when read", &[EXACT, RECUR], 2, |l, n| {
            if l[n].contains("ld.shared.f32") { shifted(l[n], 128) } else { None }
        }),
        fault("an element is stored beside its place", &[EXACT, RECUR], 3, |l, n| {
            if l[n].contains("st.shared.f32") { shifted(l[n], 4) } else { None }
        }),
        fault("a result is stored beside its place", ALL, 2, |l, n| match stores_result(l, n) {
            true => shifted(l[n], if l[n].contains("16") { 2 } else { 4 }),
            false => None,
        }),
        fault("rows of two bytes have a stride of four", TENSOR, 2, |l, n| {
            let wide = l[n].trim().starts_with("shl.b64") && l[n].trim_end().ends_with(", 1;");
            wide.then(|| l[n].replace(", 1;", ", 2;"))
        }),
        fault("every block is the first", ALL, 1, |l, n| replaced(l[n], "%ctaid.x", "0")),
    ]
}

fn lanes_and_products() -> Vec<Fault> {
    vec![
        fault("a transposed fragment is read as it lies", TENSOR, 3, |l, n| {
            replaced(l[n], "m8n8.x4.trans.", "m8n8.x4.")
        }),
        fault("a fragment is transposed", TENSOR, 3, |l, n| {
            replaced(l[n], "m8n8.x4.shared", "m8n8.x4.trans.shared")
        }),
        fault("a product is missing", TENSOR, 4, |l, n| dropped(l[n], "mma.sync")),
        fault("halves of an operand are exchanged", TENSOR, 3, |l, n| {
            let parts: Vec<&str> = l[n].trim().split(", {").filter(|_| l[n].contains("mma.sync")).collect();
            let (b0, b1) = parts.get(2)?.strip_suffix('}')?.split_once(',')?;
            Some(l[n].replace(&format!("{{{b0},{b1}}}"), &format!("{{{b1},{b0}}}")))
        }),
        fault("lanes exchange with others than those of their row", TENSOR, 2, |l, n| {
            match l[n].contains("shfl.sync.bfly") {
                true => replaced(l[n], ", 1, 31", ", 4, 31").or_else(|| replaced(l[n], ", 2, 31", ", 8, 31")),
                false => None,
            }
        }),
        fault("half of the lanes are named in an exchange", TENSOR, 2, |l, n| {
            replaced(l[n], "31, -1;", "31, 65535;")
        }),
        fault("warps do the same", ALL, 1, |l, n| replaced(l[n], "%tid.x", "%laneid")),
        fault("lanes are counted to 16", &[EXACT, RECUR], 1, |l, n| {
            let of_lane = l[n].trim().starts_with("and.b32") && l[n].trim_end().ends_with(", 31;");
            of_lane.then(|| l[n].replace(", 31;", ", 15;"))
        }),
        fault("columns of a fragment are counted to 2", TENSOR, 1, |l, n| {
            let of_lane = l[n].trim().starts_with("and.b32") && l[n].trim_end().ends_with(", 3;");
            of_lane.then(|| l[n].replace(", 3;", ", 1;"))
        }),
    ]
}

fn bounds_and_values() -> Vec<Fault> {
    vec![
        fault("a mask is turned around", &[CAUSAL], 3, |l, n| match is_mask(l, n) {
            true => replaced(l[n], "setp.gt.s32", "setp.le.s32"),
            false => None,
        }),
        fault("rows beyond the last are stored", &[CAUSAL, GROUPED], 2, |l, n| {
            guards_stores(l, n).then(String::new)
        }),
        fault("only the first thread stores", ALL, 1, |l, n| under(l[n], "st.global", "%mut_first")),
        fault("a result is not stored", ALL, 3, |l, n| match stores_result(l, n) {
            true => dropped(l[n], "st.global"),
            false => None,
        }),
        fault("a tile is not stored", &[EXACT, RECUR], 3, |l, n| dropped(l[n], "st.shared.f32")),
        fault("tiles are 63 rows long", &[CAUSAL, GROUPED], 1, |l, n| {
            let of_rows = l[n].trim().starts_with("min.s32") && l[n].trim_end().ends_with(", 64;");
            of_rows.then(|| l[n].replace(", 64;", ", 63;"))
        }),
        fault("the blocks of a length are rounded down", &[CAUSAL, EXACT], 1, |l, n| {
            let up = l[n].trim().starts_with("add.s32") && l[n].trim_end().ends_with(", 63;");
            up.then(|| l[n].replace(", 63;", ", 0;"))
        }),
    ]
}

/// Whether the line stands where warps compute.
fn computes(lines: &[&str], n: usize) -> bool {
    lines[..n].iter().any(|l| l.contains("setmaxnreg.inc"))
}

/// Two coordinates of a copy exchanged.
fn other_box(line: &str) -> Option<String> {
    let (head, rest) = line.split_once('{')?;
    let (coords, tail) = rest.split_once('}')?;
    let mut all: Vec<&str> = coords.split(", ").collect();
    all.swap(0, 1);
    Some(format!("{head}{{{}}}{tail}", all.join(", ")))
}

/// A descriptor's swizzle of 128 bytes turned to one of 64.
fn other_swizzle(line: &str) -> Option<String> {
    let old = *operands(line).last()?;
    let bits = old.parse::<i64>().ok().filter(|bits| bits >> 62 == 1)?;
    Some(line.replace(old, &(bits ^ (3 << 62)).to_string()))
}

/// A parity that a warp which computes waits for, turned to the one of a barrier that is new.
fn other_parity(line: &str) -> Option<String> {
    let at = line.find("try_wait.parity")?;
    let (start, end) = (at + line[at..].find("], ")? + 3, at + line[at..].find("; @p")?);
    Some(format!("{}1{}", &line[..start], &line[end..]))
}

fn roles() -> Vec<Fault> {
    vec![
        fault("a tile is not waited for", &[ROLES], 99, |l, n| {
            computes(l, n).then(|| dropped(l[n], "mbarrier.try_wait"))?
        }),
        fault("a wrong parity is waited for", &[ROLES], 99, |l, n| {
            computes(l, n).then(|| other_parity(l[n]))?
        }),
        fault("fewer bytes are expected", &[ROLES], 99, |l, n| replaced(l[n], ", 16384;", ", 8192;")),
        fault("more bytes are expected", &[ROLES], 1, |l, n| replaced(l[n], ", 16384;", ", 32768;")),
        fault("a barrier waits for one arrival more", &[ROLES], 99, |l, n| {
            l[n].contains("mbarrier.init").then(|| replaced(l[n], "], 1;", "], 2;"))?
        }),
        fault("a box lies elsewhere", &[ROLES], 99, |l, n| {
            l[n].contains("cp.async.bulk.tensor").then(|| other_box(l[n]))?
        }),
        fault("a box is not brought", &[ROLES], 99, |l, n| dropped(l[n], "cp.async.bulk.tensor")),
        fault("a descriptor has another swizzle", &[ROLES], 99, |l, n| other_swizzle(l[n])),
        fault("products or boxes do not see what was written", &[ROLES], 99, |l, n| {
            dropped(l[n], "fence.proxy.async")
        }),
        fault("a box leaves before it is laid", &[ROLES], 99, |l, n| {
            computes(l, n).then(|| dropped(l[n], "bar.warp.sync"))?
        }),
        fault("a block ends while its boxes are read", &[ROLES], 99, |l, n| {
            dropped(l[n], "cp.async.bulk.wait_group")
        }),
        fault("boxes are in no group", &[ROLES], 99, |l, n| dropped(l[n], "cp.async.bulk.commit_group")),
        fault("registers are not fenced", &[ROLES], 99, |l, n| {
            // Behind products that are on their way no register was written: there ptxas alone wants a fence.
            let of_group =
                |l: &&str| ["wgmma.commit_group", "wgmma.wait_group"].iter().any(|g| l.contains(g));
            let covered = l[..n].iter().rev().copied().find(of_group).is_some_and(|l| l.contains("commit"));
            if covered { None } else { dropped(l[n], "wgmma.fence") }
        }),
        fault("the last product is not waited for", &[ROLES], 1, |l, n| {
            let last = l.iter().rposition(|l| l.contains("wgmma.wait_group"));
            if last == Some(n) { dropped(l[n], "wgmma.wait_group") } else { None }
        }),
        fault("a product on its way is not waited for", &[ROLES], 99, |l, n| {
            replaced(l[n], "wgmma.wait_group.sync.aligned 0", "wgmma.wait_group.sync.aligned 1")
        }),
        fault("scores are used while they are computed", &[ROLES], 99, |l, n| {
            replaced(l[n], "wgmma.wait_group.sync.aligned 1", "wgmma.wait_group.sync.aligned 2")
        }),
        fault("products are in no group", &[ROLES], 99, |l, n| dropped(l[n], "wgmma.commit_group")),
        fault("products are not waited for", &[ROLES], 99, |l, n| dropped(l[n], "wgmma.wait_group")),
        fault("a warpgroup waits for the other's turn", &[ROLES], 99, |l, n| {
            replaced(l[n], "bar.sync \t2, 256", "bar.sync \t3, 256")
                .or_else(|| replaced(l[n], "bar.sync 2, 256", "bar.sync 3, 256"))
        }),
        fault("a task is looked up before it is given", &[ROLES], 99, |l, n| {
            computes(l, n).then(|| dropped(l[n], "bar.sync 4,"))?
        }),
        fault("a task is given before the last one was looked up", &[ROLES], 99, |l, n| {
            dropped(l[n], "bar.sync 5,")
        }),
        fault("tasks are counted to another number", &[ROLES], 99, |l, n| {
            replaced(l[n], "atom.global.inc.u32", "atom.global.add.u32")
        }),
        fault("a turn is not given", &[ROLES], 99, |l, n| dropped(l[n], "bar.arrive")),
        fault("more registers are taken than there are", &[ROLES], 1, |l, n| {
            replaced(l[n], "setmaxnreg.inc.sync.aligned.u32 240", "setmaxnreg.inc.sync.aligned.u32 248")
        }),
    ]
}

/// A kernel as it was emitted, with what it is run on.
struct Original {
    name: &'static str,
    compiled: Compiled,
    problems: Vec<Problem>,
}

impl Original {
    fn new(name: &'static str) -> Original {
        let mut parts = name.split(' ');
        let kernel = parts.next().expect("a kernel");
        let float = parts.next().and_then(DType::from_name).expect("a dtype");
        let arch = if parts.next() == Some("sm_90a") { GpuArch::Sm90a } else { GpuArch::Sm80 };
        let features = if float == DType::F32 { 32 } else { 64 };
        let subject = subjects().into_iter().find(|s| s.name == kernel).expect("a kernel of the gallery");
        let compiled = subject.compile(arch, float, features);
        let compiled = compiled.unwrap_or_else(|no| panic!("{name}: {}", no.text));
        let points = LENGTHS.iter().filter_map(|&(q, k)| subject.at(q, k, features));
        let mut problems: Vec<Problem> = points.map(|p| compiled.problem(&p)).collect();
        if compiled.ptx().contains(".entry attn_merge") {
            let (few, many) = (subject.at(17, IN_RUNS, features), subject.at(IN_RUNS, IN_RUNS, features));
            problems.extend(few.or(many).map(|p| compiled.problem(&p)));
        }
        Original { name, compiled, problems }
    }

    /// What catches this text in the place of the kernel's, if anything does.
    fn caught(&self, ptx: &str) -> Option<String> {
        let mut artifact = self.compiled.artifact.clone();
        artifact.code = ptx.as_bytes().to_vec();
        let kernel = LoadedKernel::load_on(artifact, &[], &Device::Simulator)
            .unwrap_or_else(|e| panic!("{}: a mutant is no PTX: {e}", self.name));
        for problem in &self.problems {
            for seed in 0..SEEDS {
                match self.compiled.run(&kernel, problem, seed) {
                    Err(e) => return Some(format!("fault: {e}")),
                    Ok(out) => {
                        let wrong =
                            compare(&self.compiled.plan.kernel, self.compiled.float, problem, &out).err();
                        if let Some(wrong) = wrong {
                            return Some(format!("result: {wrong}"));
                        }
                    }
                }
            }
        }
        None
    }

    /// The module, ready for mutants.
    fn module(&self) -> String {
        self.compiled.ptx().lines().fold(String::new(), |mut out, line| {
            let _ = writeln!(out, "{line}");
            if line == "{" {
                out.push_str(PRELUDE);
            }
            out
        })
    }
}

/// The mutants of a module by one kind of fault: the line and the text.
fn mutants(module: &str, fault: &Fault) -> Vec<(String, String)> {
    let lines: Vec<&str> = module.lines().collect();
    let own = PRELUDE.lines().count();
    // Of two forms the one with maps is launched; it stands last.
    let form = lines.iter().position(|l| l.contains(".entry") && l.contains("_mapped(")).unwrap_or(0);
    let first = form + lines[form..].iter().position(|l| *l == "{").expect("an entry") + own;
    // What stands last merges runs of keys: one row a task, in few instructions of which most are waits that it does not need.
    let end = lines.iter().position(|l| l.contains(".entry attn_merge")).unwrap_or(lines.len());
    let places: Vec<(usize, String)> = (first..end)
        .filter(|&n| !lines[n].contains("%mut_"))
        .filter_map(|n| Some((n, (fault.change)(&lines, n)?)))
        .collect();
    let step = places.len().div_ceil(fault.places).max(1);
    let chosen = places.into_iter().step_by(step);
    chosen
        .map(|(n, new)| {
            let mut mutant = lines.clone();
            mutant[n] = &new;
            (format!("line {n} `{}`", lines[n].trim()), mutant.join("\n") + "\n")
        })
        .collect()
}

#[test]
fn every_planted_fault_is_caught() {
    let names = [ALL, &[ROLES]].concat();
    let originals: Vec<Original> = names.par_iter().map(|name| Original::new(name)).collect();
    let (mut jobs, mut no_place) = (Vec::new(), Vec::new());
    for original in &originals {
        let module = original.module();
        if let Some(wrong) = original.caught(&module) {
            panic!("{} is wrong as it is: {wrong}", original.name);
        }
        for fault in faults().iter().filter(|f| f.on.contains(&original.name)) {
            let made = mutants(&module, fault);
            if made.is_empty() {
                no_place.push(format!("{}: no place for `{}`", original.name, fault.what));
            }
            let named =
                |(place, text)| (original, format!("{}: {}: {place}", original.name, fault.what), text);
            jobs.extend(made.into_iter().map(named));
        }
    }
    let n = jobs.len();
    let tell = std::env::var_os("MUTANTS_SHOWN").is_some();
    let survivors: Vec<String> = jobs
        .into_par_iter()
        .filter_map(|(original, what, text)| {
            let caught = original.caught(&text);
            if tell {
                let first = caught.as_deref().map_or("SURVIVES", |c| c.lines().next().unwrap_or(""));
                println!("{what}\n    {first}");
            }
            caught.is_none().then_some(what)
        })
        .collect();
    println!("{n} mutants, {} survive", survivors.len());
    assert!(no_place.is_empty(), "{}", no_place.join("\n"));
    assert!(n >= 100, "only {n} mutants");
    assert!(survivors.is_empty(), "{} of {n} mutants survive:\n{}", survivors.len(), survivors.join("\n"));
}

#[test]
fn kinds_are_many() {
    let all = faults();
    let mut names: Vec<&str> = all.iter().map(|f| f.what).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len());
    assert!(all.len() >= 30, "{} kinds", all.len());
}
