//! The SIMT IR of every kernel of the gallery as text, there and back; and of kernels of every kind in its interpreter,
//! against the f64 reference and, bit for bit, against their PTX in the simulator.
//!
//! Comes in: the gallery, with few heads. What is tested: both forms of every launch for sm_80 and sm_90a; results at the
//! tolerances of math.md. Results are equal in every bit, as both say what PTX leaves open in the same words (`ex2` in f64,
//! sums of products in the order of their terms), and LLVM neither contracts nor reorders floats. Texts that are
//! altered at random end in an error or a result, never in a panic. `ATTN_LLVM` names the worker, `tests/run` sets it.
//! Deliberately not here: what is said of wrong kernels (units of `compiler/gpu/src/simt_ir/interp/`).

mod common;

use std::time::Instant;

use attn_compiler::artifact::{Artifact, DType};
use attn_compiler::pipeline::{self, CompileError};
use attn_compiler::target::GpuArch;
use attn_compiler_gpu::simt_ir::interp::MAX_STEPS;
use attn_compiler_gpu::simt_ir::text;
use attn_compiler_gpu::{Kernels, kernels};
use attn_runtime::{Device, LoadedKernel, Tensor};
use attnc::simt;
use common::gpu::{Compiled, Subject, subjects};
use common::{Rng, compare};
use rayon::prelude::*;

/// The portable target and the one with instructions of its own.
const ARCHS: [GpuArch; 2] = [GpuArch::Sm80, GpuArch::Sm90a];
/// Queries and keys.
const LENGTHS: [(i64, i64); 3] = [(17, 17), (129, 129), (17, 129)];

/// What is executed: products on tensor cores with masks and scores of several kinds, exact f32, decoding, caches, states,
/// chosen rows, made rows.
const EXECUTED: [(&str, DType); 20] = [
    ("causal/causal", DType::Bf16),
    ("causal/causal", DType::F16),
    ("causal/causal", DType::F32),
    ("bidirectional/bidirectional", DType::Bf16),
    ("swa_sinks/swa_sinks", DType::Bf16),
    ("softcap/softcap_window", DType::Bf16),
    ("sigmoid/sigmoid_attn", DType::Bf16),
    ("bigbird/bigbird", DType::Bf16),
    ("block_mask/block_mask", DType::F16),
    ("dropout/dropout", DType::Bf16),
    ("t5/t5_decoder", DType::Bf16),
    ("gqa_decode/gqa_decode", DType::Bf16),
    ("gqa_decode_int8/gqa_decode_int8", DType::F32),
    ("chunked_prefill/chunked_prefill", DType::Bf16),
    ("rope/rope", DType::Bf16),
    ("gated_delta/gated_delta", DType::F32),
    ("linear_normalised/linear_normalised", DType::Bf16),
    ("colt5/colt5", DType::Bf16),
    ("moba/moba", DType::Bf16),
    ("nsa/nsa", DType::Bf16),
];

/// Feature dims where the text leaves them open: exact products are slow to execute.
fn features(float: DType) -> i64 {
    if float == DType::F32 { 24 } else { 64 }
}

/// The kernels of a subject; none if a target has no code.
fn simt_ir(subject: &Subject, arch: GpuArch, float: DType) -> Option<Kernels> {
    let plan = match pipeline::plan(&subject.spec, &subject.key(arch, float, 64), &mut ()) {
        Err(CompileError::Unsupported(_)) => return None,
        other => other.unwrap_or_else(|e| panic!("{}: {e}", subject.name)),
    };
    Some(kernels(&plan.program, arch).unwrap_or_else(|e| panic!("{}: {e}", subject.name)))
}

#[test]
fn every_kernel_of_the_gallery_reads_back() {
    let subjects: Vec<Subject> = subjects().into_iter().filter(|s| s.in_gallery).collect();
    let each = |subject: &Subject| {
        let mut n = (0, 0);
        for (arch, float) in ARCHS.into_iter().flat_map(|a| [DType::Bf16, DType::F32].map(|f| (a, f))) {
            let Some(made) = simt_ir(subject, arch, float) else { continue };
            let module = text::print_module(&made.kernels);
            let read = text::parse_module(&module).unwrap_or_else(|e| panic!("{}: {e}", subject.name));
            assert_eq!(read.len(), made.kernels.len(), "{}", subject.name);
            for (read, kernel) in read.iter().zip(&made.kernels) {
                let printed = text::print(kernel);
                // NaN is not equal to itself, and -0 to 0: neither holds of what they are written as.
                let same = format!("{read:?}") == format!("{kernel:?}");
                assert!(same, "{} {}: {} reads back otherwise", subject.name, arch.name(), kernel.name);
                assert_eq!(text::print(read), printed, "{}", subject.name);
                n.0 += 1;
                n.1 += usize::from(kernel.n_maps > 0);
            }
        }
        n
    };
    let (n, mapped) = subjects.par_iter().map(each).reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    println!("{n} kernels, {mapped} of them with tensor maps");
    assert!(n > 4 * subjects.len() && mapped > 20, "{n} kernels, {mapped} with maps");
}

/// A kernel in both machines.
struct Pair {
    what: String,
    simulator: LoadedKernel,
    interpreter: LoadedKernel,
}

impl Pair {
    /// Of one form: `mapped` is that with tensor maps where there is one.
    fn new(compiled: &Compiled, simt: &Artifact, mapped: bool) -> Pair {
        let form = |artifact: &Artifact| {
            let mut artifact = artifact.clone();
            for device in artifact.launches.iter_mut().filter_map(|l| l.device.as_mut()) {
                device.mapped = device.mapped.take().filter(|_| mapped);
            }
            artifact
        };
        let what = format!("{}{}", compiled.what, if mapped { ", with tensor maps" } else { "" });
        let simulator = LoadedKernel::load_on(form(&compiled.artifact), &[], &Device::Simulator);
        Pair {
            simulator: simulator.unwrap_or_else(|e| panic!("{what}: {e}")),
            interpreter: simt::load(form(simt), MAX_STEPS).unwrap_or_else(|e| panic!("{what}: {e}")),
            what,
        }
    }
}

/// What is wrong with one kernel on one architecture; how many runs there were, and how many with tensor maps.
fn check(subject: &Subject, arch: GpuArch, float: DType) -> (usize, usize, Vec<String>) {
    let features = features(float);
    let compiled = match subject.compile(arch, float, features) {
        Ok(compiled) => compiled,
        Err(no) => return (0, 0, vec![format!("{} {}: {}", subject.name, arch.name(), no.text)]),
    };
    let made = kernels(&compiled.plan.program, arch).unwrap_or_else(|e| panic!("{}: {e}", compiled.what));
    let artifact = simt::artifact(&compiled.plan, made);
    let has_maps = artifact.launches.iter().any(|l| l.device.as_ref().is_some_and(|d| d.mapped.is_some()));
    let mut pairs = vec![Pair::new(&compiled, &artifact, false)];
    if has_maps {
        pairs.push(Pair::new(&compiled, &artifact, true));
    }
    let mut wrong = Vec::new();
    let points: Vec<_> = LENGTHS.iter().filter_map(|&(q, k)| subject.at(q, k, features)).collect();
    for point in &points {
        let problem = compiled.problem(point);
        for pair in &pairs {
            let place = format!("{} {:?}", pair.what, point.dims);
            let found = match compiled.run(&pair.interpreter, &problem, 0) {
                Ok(found) => found,
                Err(e) => {
                    wrong.push(format!("{place}: {e}"));
                    continue;
                }
            };
            if let Err(e) = compare(&compiled.plan.kernel, float, &problem, &found) {
                wrong.push(format!("{place}: {e}"));
            }
            match compiled.run(&pair.simulator, &problem, 0) {
                Ok(simulated) => {
                    wrong.extend(other_bits(&found, &simulated).map(|e| format!("{place}: {e}")))
                }
                Err(e) => wrong.push(format!("{place}: {e}")),
            }
        }
    }
    (points.len() * pairs.len(), if has_maps { points.len() } else { 0 }, wrong)
}

/// The first output whose bits differ, and how many bytes of it.
fn other_bits(found: &[Tensor], simulated: &[Tensor]) -> Option<String> {
    found.iter().zip(simulated).enumerate().find_map(|(n, (a, b))| {
        let differ = a.bytes().iter().zip(b.bytes()).filter(|(a, b)| a != b).count();
        (differ > 0).then(|| format!("output {n} differs from the simulator's in {differ} bytes"))
    })
}

#[test]
fn the_interpreter_agrees_with_the_reference_and_the_simulator() {
    let start = Instant::now();
    let subjects = subjects();
    let mut jobs = Vec::new();
    for (name, float) in EXECUTED {
        let subject = subjects.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{name} is gone"));
        jobs.extend(ARCHS.map(|arch| (subject, arch, float)));
    }
    let n = jobs.len();
    let found: Vec<_> =
        jobs.into_par_iter().map(|(subject, arch, float)| check(subject, arch, float)).collect();
    let (runs, mapped) = found.iter().fold((0, 0), |sum, f| (sum.0 + f.0, sum.1 + f.1));
    let wrong: Vec<String> = found.into_iter().flat_map(|f| f.2).collect();
    println!(
        "{n} kernels, {runs} runs, {mapped} with tensor maps, in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    assert!(wrong.is_empty(), "{} of {runs} runs\n{}", wrong.len(), wrong.join("\n"));
    assert!(runs >= 2 * n && mapped >= 10, "{runs} runs of {n} kernels, {mapped} with tensor maps");
}

#[test]
fn a_text_that_is_altered_is_not_loaded() {
    let subjects = subjects();
    let subject = subjects.iter().find(|s| s.name == "causal/causal").expect("an example");
    let plan = pipeline::plan(&subject.spec, &subject.key(GpuArch::Sm80, DType::Bf16, 64), &mut ());
    let plan = plan.unwrap_or_else(|e| panic!("{e}"));
    let made = kernels(&plan.program, GpuArch::Sm80).unwrap_or_else(|e| panic!("{e}"));
    let good = simt::artifact(&plan, made);
    assert!(simt::load(good.clone(), MAX_STEPS).is_ok());
    let mut broken = good.clone();
    broken.code = String::from_utf8(good.code).expect("a text").replacen("tid", "tip", 1).into_bytes();
    let err = simt::load(broken, MAX_STEPS).expect_err("no such operation").to_string();
    assert!(err.contains("`tip` is no operation") && err.contains("line"), "{err}");
}

/// Kernels whose texts are altered, with tensor cores of both kinds and without.
const ALTERED: [(&str, GpuArch, DType); 3] = [
    ("causal/causal", GpuArch::Sm80, DType::Bf16),
    ("causal/causal", GpuArch::Sm90a, DType::Bf16),
    ("gated_delta/gated_delta", GpuArch::Sm80, DType::F32),
];
/// Texts of each.
const TEXTS: u64 = 150;
/// Instructions for one that may never end.
const FEW_STEPS: u64 = 400_000;

/// What notices that a text was altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Noticed {
    Unread,
    Refused,
    Result,
    Nowhere,
}

/// The text with one instruction dropped or doubled, one value in the place of another, or another number, in the last
/// kernel that does not merge runs of keys: so few keys are one run. Of two forms of a launch the one with maps is
/// executed; it stands last.
fn altered(text: &str, rng: &mut Rng) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let attends = |l: &&str| l.starts_with("kernel ") && !l.starts_with("kernel attn_merge ");
    let first = lines.iter().rposition(attends).expect("a kernel");
    let end = lines[first + 1..]
        .iter()
        .position(|l| l.starts_with("kernel "))
        .map_or(lines.len(), |n| first + 1 + n);
    let mut pick = |n: usize| rng.int(0, n as i64 - 1) as usize;
    loop {
        let n = first + pick(end - first);
        let line = lines[n];
        let changed = match pick(4) {
            0 => String::new(),
            1 => format!("{line}\n{line}"),
            2 => match line.rsplit_once('%').filter(|(before, _)| before.contains('=')) {
                Some((before, after)) => {
                    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
                    let value: i64 = after[..end].parse().expect("a number");
                    format!("{before}%{}{}", (value - 1 - pick(9) as i64).max(0), &after[end..])
                }
                None => continue,
            },
            _ => match line.split_once(" = int ") {
                Some((before, value)) => {
                    let value: i64 = value.parse().expect("an int");
                    format!("{before} = int {}", value.wrapping_add(1 << pick(8)))
                }
                None => continue,
            },
        };
        if !line.is_empty() {
            let all = lines.iter().enumerate().map(|(k, l)| if k == n { changed.as_str() } else { l });
            return all.collect::<Vec<_>>().join("\n");
        }
    }
}

#[test]
fn whatever_a_text_says_is_an_error_or_a_result() {
    let subjects = subjects();
    for (name, arch, float) in ALTERED {
        let subject = subjects.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{name} is gone"));
        let features = features(float);
        let plan = pipeline::plan(&subject.spec, &subject.key(arch, float, features), &mut ());
        let plan = plan.unwrap_or_else(|e| panic!("{name}: {e}"));
        let artifact = simt::artifact(&plan, kernels(&plan.program, arch).unwrap_or_else(|e| panic!("{e}")));
        let code = String::from_utf8(artifact.code.clone()).expect("a text");
        let compiled = Compiled { what: name.into(), plan, artifact, float };
        let point = subject.at(17, 17, features).expect("such sizes");
        let problem = compiled.problem(&point);
        let noticed = |seed: u64| {
            let code = altered(&code, &mut Rng(seed)).into_bytes();
            let artifact = Artifact { code, ..compiled.artifact.clone() };
            let Ok(kernel) = simt::load(artifact, FEW_STEPS) else { return Noticed::Unread };
            match compiled.run(&kernel, &problem, 0) {
                Err(_) => Noticed::Refused,
                Ok(out) => match compare(&compiled.plan.kernel, float, &problem, &out) {
                    Err(_) => Noticed::Result,
                    Ok(()) => Noticed::Nowhere,
                },
            }
        };
        let all: Vec<Noticed> = (0..TEXTS).into_par_iter().map(noticed).collect();
        let count = |kind| all.iter().filter(|n| **n == kind).count();
        let counts =
            [Noticed::Unread, Noticed::Refused, Noticed::Result, Noticed::Nowhere].map(|n| (n, count(n)));
        println!("{name} {}: {counts:?}", arch.name());
        assert!(counts.iter().take(3).all(|(_, n)| *n > 0), "{name}: every kind of notice: {counts:?}");
        assert!(count(Noticed::Nowhere) < all.len() / 2, "{name}: half of it does not matter: {counts:?}");
    }
}
