//! The benchmark kit for GPUs (`benches/gpu`) without a GPU: its Python tests, and its launch plans carried out in the simulator.
//!
//! What holds: sizes, words, tables and the order of launches that the kit reads off a package in Python compute the kit's
//! own references, with no help from attnc's runtime. Not here: torch, whose tests run where it is installed.
//! `ATTN_LLVM` names the worker `attnc-llvm`; `tests/run` builds it and sets it. `python3` must be there.

use std::path::Path;
use std::process::Command;

use attn_ptx_sim::{Arg, Device, LaunchOptions, Module, Shape};
use serde_json::Value;

const ATTNC: &str = env!("CARGO_BIN_EXE_attnc");

fn worker() -> String {
    std::env::var("ATTN_LLVM").expect("ATTN_LLVM names the worker `attnc-llvm`; tests/run sets it")
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/gpu")
}

/// Runs python3 in the kit's folder. Fails with what it said.
fn python(words: &[&str]) -> String {
    let out = Command::new("python3")
        .args(words)
        .current_dir(folder())
        .env("ATTNC", ATTNC)
        .env("ATTN_LLVM", worker())
        .output()
        .expect("python3 is there");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "python3 {words:?}:\n{said}");
    said
}

#[test]
fn python_tests_pass() {
    let said = python(&["-m", "unittest", "discover", "-s", "tests", "-t", "."]);
    assert!(said.contains("OK") && !said.contains("Ran 0 tests"), "{said}");
}

fn number(of: &Value, key: &str) -> u64 {
    of[key].as_u64().unwrap_or_else(|| panic!("`{key}` of {of} is a number"))
}

fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of[key].as_str().unwrap_or_else(|| panic!("`{key}` of {of} is a text"))
}

fn items<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of[key].as_array().unwrap_or_else(|| panic!("`{key}` of {of} is a list"))
}

/// The plan of a check as the kit holds it, launched as `kit/driver.py` launches it. Results by name.
fn launched(at: &Path, plan: &Value) -> Vec<(String, Vec<f64>)> {
    let code = std::fs::read_to_string(at.join("code.ptx")).expect("the PTX");
    let module = Module::parse(&code).unwrap_or_else(|err| panic!("{err}"));
    let mut device = Device::new();
    let mut addresses = Vec::new();
    for (n, tensor) in items(plan, "tensors").iter().enumerate() {
        let (name, bytes) = (text(tensor, "name"), number(tensor, "bytes") as usize);
        let held = std::fs::read(at.join(format!("{n}.bin"))).unwrap_or_default();
        let addr = if bytes == 0 {
            device.upload(name, &[0u8; 16]).addr()
        } else {
            device.alloc::<u8>(name, bytes).addr()
        };
        if !held.is_empty() {
            assert_eq!(held.len(), bytes, "`{name}`");
            device.write_at(addr, &held).unwrap_or_else(|err| panic!("`{name}`: {err}"));
        }
        addresses.push(addr);
    }
    for launch in items(plan, "launches").iter().filter(|l| number(l, "tasks") > 0) {
        let word = |w: &Value| match w.as_array() {
            Some(address) => addresses[address[0].as_u64().expect("a number of a tensor") as usize],
            None => w.as_u64().expect("a word"),
        };
        let args: Vec<Arg> = items(launch, "words").iter().map(|w| Arg::U64(word(w))).collect();
        let (tasks, threads) = (number(launch, "tasks") as u32, number(launch, "threads") as u32);
        let dynamic_smem = number(launch, "shared_bytes") as u32;
        let shape = Shape { dynamic_smem, ..Shape::linear(tasks, threads) };
        let done = device.launch(&module, text(launch, "kernel"), shape, &args, &LaunchOptions::seed(5));
        done.unwrap_or_else(|fault| panic!("{}: {fault}", text(launch, "name")));
    }
    let written = items(plan, "tensors").iter().zip(&addresses);
    let written = written.filter(|(t, _)| ["output", "updated"].contains(&text(t, "role")));
    written
        .map(|(t, &addr)| {
            let bytes = device.read_at(addr, number(t, "bytes") as usize);
            let bytes = bytes.unwrap_or_else(|err| panic!("`{}`: {err}", text(t, "name")));
            (text(t, "name").to_string(), floats(text(t, "dtype"), bytes))
        })
        .collect()
}

fn floats(dtype: &str, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        "bf16" => bytes
            .chunks_exact(2)
            .map(|b| f64::from(f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)))
            .collect(),
        "f32" => {
            bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
        }
        _ => panic!("no outputs of {dtype} are checked here"),
    }
}

#[test]
fn plans_of_the_kit_compute_its_references() {
    // Tables, several launches, an updated cache, axes that are swapped, a run-time parameter.
    let ids = ["rope-bf16", "t5_decoder-bf16", "gqa_decode-bf16", "doc_causal-bf16", "swa_sinks-bf16"];
    let dir = tempfile::tempdir().expect("a folder");
    let kit = dir.path().join("kit");
    let (kit, worker) = (kit.to_str().expect("a path of text"), worker());
    let build = [".", "build", "--attnc", ATTNC, "--worker", &worker, "--out", kit];
    python(&[&build[..], &["--targets", "sm_80", "--only", &ids.join(",")]].concat());
    for id in ids {
        let at = dir.path().join(id);
        std::fs::create_dir(&at).expect("a folder");
        python(&["tests/unpack.py", kit, id, "sm_80", at.to_str().expect("a path of text")]);
        let plan = std::fs::read_to_string(at.join("plan.json")).expect("the plan");
        let plan: Value = serde_json::from_str(&plan).expect("JSON");
        for (name, found) in launched(&at, &plan) {
            let gate = &plan["reference"][&name];
            let (atol, rtol) =
                (gate["atol"].as_f64().expect("a gate"), gate["rtol"].as_f64().expect("a gate"));
            let held = std::fs::read(at.join(format!("{name}.ref"))).expect("the reference");
            let dtype = if held.len() == found.len() * 2 { "bf16" } else { "f32" };
            let wanted = floats(dtype, &held);
            assert_eq!(found.len(), wanted.len(), "{id} {name}");
            for (n, (x, r)) in found.iter().zip(&wanted).enumerate() {
                let near = (x - r).abs() <= atol + rtol * r.abs();
                assert!(near || x == r || x.is_nan() && r.is_nan(), "{id}: {name}[{n}] is {x}, wanted {r}");
            }
        }
    }
}
