//! Schedules from outside: candidates of `attnc tune`, winners beside the cache, schedule files.
//!
//! What holds: every candidate gives the results of the reference; what is stored is found again for its CPU, kernel and
//! lengths only; whatever is wrong with a stored file is a warning and the automatic schedule. Nothing here depends on
//! how long anything takes.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use attn_compiler::artifact::DType;
use attn_compiler::pipeline;
use attn_compiler::schedule::candidates::{Knob, Lengths, candidates};
use attn_compiler::schedule::overrides::{Override, Overrides};
use attn_compiler::schedule::{Schedule, choose};
use attn_compiler::target::{CpuFacts, Target};
use attn_runtime::LoadedKernel;
use attn_runtime::cache::{Cache, DEFAULT_MAX_BYTES};
use attnc::schedules::{Tuning, Winning};
use attnc::{ErrorKind, Kernel, Origin, Plan, ScheduleOrigin, Schedules};
use common::{front, host, key, problem, run, verify};

const WINDOW: &str = "
attention swa(window: int = 60) {
  dims B, Hq, Hkv, Sq, Sk, D
  input q    : float[B, Hq, Sq, D]
  input k, v : float[B, Hkv, Sk, D]
  heads grouped
  align bottom_right
  score  = dot(q, k) / sqrt(D)
  mask   = j <= i & j in (i - window, i]
  weight = softmax(score)
  return weight @ v, lse
  test (Sq = [1, 17], Sk = 33)
}
";

const FIXED: [(&str, i64); 3] = [("Hq", 8), ("Hkv", 2), ("D", 32)];

fn facts() -> CpuFacts {
    let Target::Cpu(facts) = host() else { panic!("the host is a CPU") };
    facts
}

/// Every candidate of every knob around the automatic schedule of an attention, for long and for short calls.
fn all_candidates(attention: &attn_compiler::attn_ir::Attention) -> Vec<Schedule> {
    let from = choose(attention, &facts()).expect("a schedule");
    let mut all = Vec::new();
    for (knob, seq_q) in Knob::ALL.into_iter().flat_map(|k| [(k, 2048), (k, 40), (k, 1)]) {
        let lengths = Lengths { seq_q, seq_k: 2048 };
        for c in candidates(attention, &facts(), &from, lengths, knob) {
            if !all.contains(&c) {
                all.push(c);
            }
        }
    }
    all
}

fn check_candidates(name: &str, text: &str, fixed: &[(&str, i64)], lengths: &[&[(&str, i64)]]) {
    let front = front(name, text);
    let kernel = front.checked.kernels[0].name.clone();
    let key = key(&kernel, DType::F32, fixed);
    let ir = common::plan(&front, &key).kernel;
    let mut n_checked = 0;
    for attention in ir.attentions() {
        for schedule in all_candidates(attention) {
            let mut key = key.clone();
            key.schedules = Overrides::default().with(&attention.name, Override::of(&schedule));
            let plan = common::plan(&front, &key);
            let used = plan.attends.iter().find(|a| a.attention.name == attention.name);
            assert_eq!(used.map(|a| &a.schedule), Some(&schedule));
            let artifact = pipeline::emit(&plan, &mut ()).unwrap_or_else(|e| panic!("{schedule}: {e}"));
            let loaded = LoadedKernel::load(artifact).expect("it loads");
            for dims in lengths {
                let problem = problem(&plan.kernel, dims, &|_| (0, 2), 7);
                let out = run(&loaded, &plan.kernel, &problem, 2);
                let what = format!("{}: {schedule}, {dims:?}", attention.name);
                verify(&plan.kernel, DType::F32, &problem, &out, &what);
                n_checked += 1;
            }
        }
    }
    assert!(n_checked > 20, "{name}: only {n_checked} candidates were run");
}

#[test]
fn every_candidate_gives_the_results_of_the_reference() {
    let lengths: [&[(&str, i64)]; 3] = [
        &[("B", 1), ("Sq", 1), ("Sk", 130)],
        &[("B", 2), ("Sq", 40), ("Sk", 200)],
        &[("B", 1), ("Sq", 150), ("Sk", 150)],
    ];
    check_candidates("swa.attn", WINDOW, &FIXED, &lengths);
    let split = WINDOW.replace("  align", "  numerics { split = fixed(128) }\n  align");
    check_candidates("split.attn", &split, &FIXED, &lengths[..2]);
    let example = |name: &str| {
        let path = common::root().join("dsl-examples").join(name);
        std::fs::read_to_string(path).expect("an example")
    };
    let prefix: [&[(&str, i64)]; 1] = [&[("B", 2), ("Sq", 9), ("Sp", 70), ("Sk", 40)]];
    check_candidates("shared_prefix.attn", &example("shared_prefix.attn"), &FIXED, &prefix);
    // Its branches read the same keys: where one of them packs and the other does not, too.
    let nsa: [&[(&str, i64)]; 1] = [&[("B", 1), ("S", 130)]];
    check_candidates("nsa.attn", &example("nsa.attn"), &FIXED, &nsa);
}

/// A kernel with a cache of its own.
struct Bench {
    dir: tempfile::TempDir,
    cache: Arc<Cache>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let (cache, warning) = Cache::at(&dir.path().join("cache"), DEFAULT_MAX_BYTES);
        assert_eq!(warning, None);
        std::fs::write(dir.path().join("swa.attn"), WINDOW).unwrap();
        Bench { dir, cache: Arc::new(cache) }
    }

    fn kernel(&self, text: &str) -> Kernel {
        Kernel::from_source("swa.attn", text)
            .unwrap()
            .with_cache(self.cache.clone())
            .schedules(Schedules::tuned())
    }

    fn tuning(&self, kernel: &Kernel, dims: &[(&str, i64)]) -> Tuning {
        let key = key("swa", DType::F32, &FIXED);
        kernel.tuning(&key, dims).unwrap().expect("every length is given")
    }

    /// Another schedule than the automatic one.
    fn other(&self) -> Schedule {
        let front = front("swa.attn", WINDOW);
        let ir = common::plan(&front, &key("swa", DType::F32, &FIXED)).kernel;
        let attention = ir.attentions().next().unwrap();
        let from = choose(attention, &facts()).unwrap();
        let lengths = Lengths { seq_q: 2048, seq_k: 2048 };
        candidates(attention, &facts(), &from, lengths, Knob::Tile).pop().expect("a candidate")
    }

    /// Stores a made-up winner; the file and its text.
    fn store(&self, kernel: &Kernel, dims: &[(&str, i64)]) -> (PathBuf, String, Schedule) {
        let (tuning, schedule) = (self.tuning(kernel, dims), self.other());
        let winning = Winning { dims: "made up".into(), threads: 1, median_ms: 1.0, automatic_ms: 2.0 };
        let text = tuning.file([("swa", &schedule)], &winning);
        let path = tuning.store(&self.cache, &text).unwrap();
        (path, text, schedule)
    }

    fn attnc(&self, line: &str, env: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_attnc"))
            .args(line.split_whitespace())
            .current_dir(self.dir.path())
            .env("ATTN_CACHE_DIR", self.dir.path().join("cache"))
            .env_remove("ATTN_SCHEDULE")
            .envs(env.iter().copied())
            .output()
            .unwrap()
    }

    fn json(&self, line: &str) -> serde_json::Value {
        let out = self.attnc(line, &[]);
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }
}

fn lengths(b: i64, sq: i64, sk: i64) -> Vec<(&'static str, i64)> {
    FIXED.into_iter().chain([("B", b), ("Sq", sq), ("Sk", sk)]).collect()
}

fn planned(kernel: &Kernel, dims: &[(&str, i64)]) -> Plan {
    kernel.plan(dims, DType::F32).unwrap()
}

#[test]
fn a_stored_winner_is_found_for_its_kernel_and_lengths_only() {
    let bench = Bench::new();
    let kernel = bench.kernel(WINDOW);
    let dims = lengths(1, 1000, 1000);
    let before = planned(&kernel, &dims);
    assert_eq!(*before.schedule_origin(), ScheduleOrigin::Automatic);
    let (path, _, schedule) = bench.store(&kernel, &dims);
    let words = schedule.to_string();
    assert_ne!(before.schedule(), words);
    // The index of the cache leads to the automatic kernel for the same text: the schedule is in its key.
    let tuned = planned(&kernel, &dims);
    assert_eq!((tuned.schedule(), tuned.stats().origin), (words.as_str(), Origin::Compiled));
    assert_eq!(*tuned.schedule_origin(), ScheduleOrigin::Tuned(path));
    let again = planned(&kernel, &lengths(1, 1024, 513));
    assert_eq!((again.schedule(), again.stats().origin), (words.as_str(), Origin::IndexHit));

    let automatic = |kernel: &Kernel, dims: &[(&str, i64)], dtype| {
        let plan = kernel.plan(dims, dtype).unwrap();
        assert!(plan.warnings().is_empty(), "{:?}", plan.warnings());
        assert_eq!(*plan.schedule_origin(), ScheduleOrigin::Automatic, "{dims:?}");
    };
    automatic(&kernel, &lengths(1, 1025, 1000), DType::F32);
    automatic(&kernel, &lengths(2, 1000, 1000), DType::F32);
    automatic(&kernel, &FIXED, DType::F32);
    automatic(&kernel, &dims, DType::F16);
    automatic(&kernel.clone().param("window", 65), &dims, DType::F32);
    automatic(&kernel.clone().schedules(Schedules::automatic()), &dims, DType::F32);
    automatic(&bench.kernel(&WINDOW.replace("j <= i &", "j <= i - 1 &")), &dims, DType::F32);
    let same = planned(&kernel.clone().param("window", 40), &dims);
    assert_eq!(same.schedule(), words, "40 and 60 are rounded to 64");
    let comment = bench.kernel(&format!("// The same kernel.\n{WINDOW}"));
    assert_eq!(planned(&comment, &dims).schedule(), words, "the meaning counts, not the text");
    assert!(bench.tuning(&kernel, &dims).forget(&bench.cache));
    automatic(&kernel, &dims, DType::F32);
}

#[test]
fn what_is_wrong_with_a_stored_file_is_a_warning_and_no_more() {
    let bench = Bench::new();
    let kernel = bench.kernel(WINDOW);
    let dims = lengths(1, 512, 512);
    let (path, good, schedule) = bench.store(&kernel, &dims);
    let tile_q = format!("tile_q = {}", schedule.tile_q);
    let line = |name: &str| good.lines().find(|l| l.starts_with(name)).expect(name).to_string();
    let cases: Vec<(String, &str)> = vec![
        (String::new(), "`schema` is missing"),
        (good[..good.len() / 2].to_string(), "line "),
        ("\u{0}\u{1}nonsense".to_string(), "no TOML"),
        (good.replace("schema = 1", "schema = 9"), "schema = 9"),
        (good.replace("schema = 1", "schema = 1\ncolour = 3"), "no field `colour`"),
        (good.replace(&line("cpu"), "cpu = \"another CPU\""), "its cpu is `another CPU`"),
        (good.replace(&line("compiler"), "compiler = \"0.0.1\""), "its compiler is `0.0.1`"),
        (good.replace(&line("meaning"), "meaning = \"00\""), "its meaning is `00`"),
        (good.replace(&line("at"), "at = \"B=7\""), "its at is `B=7`"),
        (good.replace("kernel = \"swa\"", "kernel = \"other\""), "its kernel is `other`"),
        (good.replace("name = \"swa\"", "name = \"far\""), "no attention `far`"),
        (good.replace(&tile_q, "tile_q = 100000"), "tile_q = 100000: 1 to 1024 query rows"),
        (good.replace(&tile_q, "tile_q = -9223372036854775808"), "query rows are possible"),
        (good.split("\n[measured]").next().unwrap().to_string(), "does not say what it was measured on"),
    ];
    for (text, why) in cases {
        assert_ne!(text, good, "{why}");
        std::fs::write(&path, &text).unwrap();
        ignored(&kernel, &dims, &path, why);
    }
    std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    ignored(&kernel, &dims, &path, "cannot be read");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    ignored(&kernel, &dims, &path, "cannot be read");
}

fn ignored(kernel: &Kernel, dims: &[(&str, i64)], path: &Path, why: &str) {
    let plan = planned(kernel, dims);
    assert_eq!(*plan.schedule_origin(), ScheduleOrigin::Automatic, "{why}");
    let said = plan.warnings().join("\n");
    let named = said.contains(&path.display().to_string()) && said.contains("is ignored");
    assert!(named && said.contains(why) && said.contains("attnc tune"), "{why}: {said}");
}

#[test]
fn a_winner_that_breaks_a_promise_stops_no_plan() {
    let bench = Bench::new();
    let promised = WINDOW.replace("  test", "  ensure sram <= 200000\n  test");
    let kernel = bench.kernel(&promised);
    let dims = lengths(1, 512, 512);
    let (path, good, schedule) = bench.store(&kernel, &dims);
    let large = good
        .replace(&format!("tile_q = {}", schedule.tile_q), "tile_q = 128")
        .replace(&format!("tile_kv = {}", schedule.tile_kv), "tile_kv = 256")
        .replace(&format!("heads = {}", schedule.heads), "heads = 1");
    std::fs::write(&path, large).unwrap();
    ignored(&kernel, &dims, &path, "more than 200000");
}

#[test]
fn files_pin_schedules_and_say_where_they_are_wrong() {
    let bench = Bench::new();
    let kernel = bench.kernel(WINDOW);
    let dims = lengths(1, 100, 100);
    bench.store(&kernel, &dims);
    let pin = |text: &str| {
        let schedules = Schedules::from_text("pin.toml", text)?;
        kernel.clone().schedules(schedules).plan(&dims, DType::F32)
    };
    let file =
        |fields: &str| format!("schema = 1\nkernel = \"swa\"\n\n[[attention]]\nname = \"swa\"\n{fields}\n");
    let plan = pin(&file("tile_q = 4\ntile_kv = 32\nheads = 2\norder = \"ascending\"")).unwrap();
    assert_eq!(*plan.schedule_origin(), ScheduleOrigin::File("pin.toml".into()));
    for part in ["tile = [4, 32]", "order = ascending", "heads = 2"] {
        assert!(plan.schedule().contains(part), "{part}: {}", plan.schedule());
    }
    let wrong = [
        (
            file("tile_q = 4").replace("kernel = \"swa\"", "kernel = \"b\""),
            "pin.toml:2: ",
            "choose `--kernel b`",
        ),
        (file("tile_q = 4").replace("name = \"swa\"", "name = \"b\""), "pin.toml:4: ", "there are swa"),
        (file("tile_q = 4\ntile_kv = 33"), "pin.toml:7: ", "multiple of 32 keys"),
        (file("heads = 3"), "pin.toml:6: ", "divisor of the 4 query heads"),
        (file("tile_q = 1024\ntile_kv = 1024"), "pin.toml:6: ", "take a smaller tile, such as ["),
        (file("direct = 5000"), "pin.toml:6: ", "0 to 1024 query rows"),
        (file("tileq = 5"), "pin.toml:6: ", "did you mean `tile_q`?"),
        ("nonsense".to_string(), "pin.toml:1: ", "no TOML"),
    ];
    for (text, place, part) in wrong {
        let err = pin(&text).unwrap_err();
        let said = err.to_string();
        assert_eq!(err.kind(), ErrorKind::Spec, "{said}");
        assert!(said.starts_with(place) && said.contains(part), "{text}\n{said}");
    }
    let missing = Schedules::from_file(bench.dir.path().join("none.toml")).unwrap_err();
    assert!(missing.kind() == ErrorKind::Io && missing.to_string().contains("none.toml"), "{missing}");
}

/// Writers of winners and of kernels, and readers, at once: every plan is a whole one.
#[test]
fn winners_are_written_while_kernels_are() {
    let bench = Bench::new();
    let kernel = bench.kernel(WINDOW);
    std::thread::scope(|scope| {
        for thread in 0..4i64 {
            let (bench, kernel) = (&bench, &kernel);
            scope.spawn(move || {
                for n in 0..12i64 {
                    let dims = lengths(1, 1 << (n % 3 + 4), 64);
                    match (thread + n) % 3 {
                        0 => drop(bench.store(kernel, &dims)),
                        1 => drop(bench.tuning(kernel, &dims).forget(&bench.cache)),
                        _ => {}
                    }
                    let plan = planned(kernel, &dims);
                    assert!(plan.warnings().is_empty(), "{:?}", plan.warnings());
                }
            });
        }
    });
}

#[test]
fn the_command_line_tunes_pins_and_tells() {
    let bench = Bench::new();
    let at = "--at B=1,Hq=8,Hkv=2,Sq=48,Sk=64,D=32";
    let tuned = bench.json(&format!("tune swa.attn {at} --seconds 0 --threads 1 --json -o pin.toml"));
    let tried = tuned["candidates"].as_array().unwrap();
    assert!(tried.len() > 5 && tried.iter().all(|c| c["refused"].is_null()), "{tuned}");
    assert_eq!(
        (tuned["kernel"].as_str(), tuned["at"].as_str()),
        (Some("swa"), Some("B=1 Sq=64 Sk=64 window=64"))
    );
    assert_eq!(tuned["stored"].is_null(), tuned["winner"]["automatic"] == true, "{tuned}");
    let winner = &tuned["winner"]["schedules"][0];
    let text = std::fs::read_to_string(bench.dir.path().join("pin.toml")).unwrap();
    for field in ["tile_q", "tile_kv", "heads", "direct"] {
        assert!(text.contains(&format!("\n{field} = {}\n", winner[field])), "{field}: {text}");
    }
    let run = bench.json(&format!("run swa.attn {at} --random --verify --schedule-file pin.toml --json"));
    assert_eq!(
        (run["schedule_origin"].as_str(), run["schedule_file"].as_str()),
        (Some("file"), Some("pin.toml"))
    );
    let tile = format!("tile = [{}, {}]", winner["tile_q"], winner["tile_kv"]);
    assert!(run["schedule"].as_str().unwrap().contains(&tile), "{run}");
    let test = bench.json("test swa.attn --at Hq=8,Hkv=2,D=32 --dtype f32 --schedule-file pin.toml --json");
    assert!(test["cases"].as_array().unwrap().iter().all(|c| c["verdict"] == "ok"), "{test}");
    let explained = bench.json(&format!("explain swa.attn {at} --schedule-file pin.toml --json"));
    assert_eq!(explained["schedule"]["origin"], "file");
    let built = bench
        .attnc(&format!("build swa.attn {at} --emit=schedule-file=again.toml --schedule-file pin.toml"), &[]);
    assert!(built.status.success());
    let again = bench.json(&format!("explain swa.attn {at} --schedule-file again.toml --json"));
    assert_eq!(again["schedule"]["text"], explained["schedule"]["text"]);
}

#[test]
fn the_command_line_uses_a_stored_winner_unless_told_otherwise() {
    let bench = Bench::new();
    let (path, _, schedule) = bench.store(&bench.kernel(WINDOW), &lengths(1, 48, 64));
    let run = "run swa.attn --random --at B=1,Hq=8,Hkv=2,Sq=48,Sk=64,D=32 --verify --json";
    let tuned = bench.json(run);
    assert_eq!(tuned["schedule_origin"], "tuned");
    assert_eq!(tuned["schedule_file"].as_str(), path.to_str());
    assert_eq!(tuned["schedule"].as_str(), Some(schedule.to_string().as_str()));
    assert_eq!(bench.json(&format!("{run} --schedule auto"))["schedule_origin"], "automatic");
    let env = |value: &str, line: &str| bench.attnc(line, &[("ATTN_SCHEDULE", value)]);
    let origin = |out: Output| -> String {
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        json["schedule_origin"].as_str().unwrap().to_string()
    };
    assert_eq!(origin(env("auto", run)), "automatic");
    assert_eq!(origin(env("auto", &format!("{run} --schedule tuned"))), "tuned");
    let junk = env("fast", run);
    assert_eq!(junk.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&junk.stderr).contains("ATTN_SCHEDULE is \"fast\", expected auto or tuned")
    );
    let built = bench.attnc("build swa.attn --at B=1,Hq=8,Hkv=2,Sq=48,Sk=64,D=32 --emit=schedule", &[]);
    let said = String::from_utf8_lossy(&built.stdout).into_owned();
    assert!(said.contains(&format!("from           tuned, {}", path.display())), "{said}");
    std::fs::write(&path, "junk").unwrap();
    let out = bench.attnc(run, &[]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.contains("is ignored"), "{said}");
    let list = bench.json("cache stats --json");
    assert_eq!(list["tuned"], 1);
    bench.json("cache clear --json");
    assert!(path.exists(), "measurements outlive the kernels");
    bench.json("cache clear --tuned --json");
    assert!(!path.exists());
}
