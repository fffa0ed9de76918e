//! Files of tensors: what is written is read again, and hostile files are errors.
//!
//! The mutation tests take valid files of each format, change bytes, cut and splice them, and ask for every
//! tensor: whatever comes back, nothing panics and the process has not grown by more than a bound.

use std::fs;
use std::path::{Path, PathBuf};

use attn_compiler::artifact::DType;
use attn_runtime::Tensor;
use attnc::io::{Source, TensorFile, load, save};
use half::{bf16, f16};
use proptest::prelude::*;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn samples() -> Vec<(String, Tensor)> {
    let f: Vec<f32> = (0..24).map(|n| n as f32 / 7.0 - 1.0).collect();
    let half: Vec<f16> = f.iter().map(|&x| f16::from_f32(x)).collect();
    let bytes: Vec<i8> = (0..5).map(|n| n - 2).collect();
    let bits = [true, false, true, true];
    vec![
        ("q".to_string(), Tensor::from_slice(&f, &[2, 3, 4]).unwrap()),
        ("k".to_string(), Tensor::from_slice(&half, &[24]).unwrap()),
        ("len".to_string(), Tensor::from_slice(&[3i32, -1], &[2]).unwrap()),
        ("id".to_string(), Tensor::from_slice(&[i64::MAX, 7], &[1, 2]).unwrap()),
        ("b".to_string(), Tensor::from_slice(&bytes, &[5]).unwrap()),
        ("x".to_string(), Tensor::from_slice(&[0.5f64], &[]).unwrap()),
        ("m".to_string(), Tensor::from_bools(&bits, &[2, 2]).unwrap()),
        ("none".to_string(), Tensor::zeros(DType::F32, &[3, 0, 2]).unwrap()),
    ]
}

fn refs(tensors: &[(String, Tensor)]) -> Vec<(String, &Tensor)> {
    tensors.iter().map(|(name, t)| (name.clone(), t)).collect()
}

fn assert_same(path: &Path, name: &str, tensor: &Tensor) {
    let read = load(&Source { path: path.into(), member: Some(name.into()) }, name).unwrap();
    assert_eq!((read.dtype(), read.shape()), (tensor.dtype(), tensor.shape().to_vec()), "{name}");
    assert_eq!(read.view().unwrap().to_f64_vec(), tensor.view().to_f64_vec(), "{name}");
}

#[test]
fn what_is_written_is_read_again() {
    let dir = folder();
    let mut tensors = samples();
    for file in ["all.npz", "all.safetensors"] {
        let path = dir.path().join(file);
        if file.ends_with("safetensors") {
            tensors.push(("w".into(), Tensor::from_slice(&[bf16::from_f32(1.5)], &[1]).unwrap()));
        }
        save(&path, &refs(&tensors)).unwrap();
        tensors.iter().for_each(|(name, t)| assert_same(&path, name, t));
    }
    for (name, tensor) in samples() {
        let path = dir.path().join(format!("{name}.npy"));
        save(&path, &[(name.clone(), &tensor)]).unwrap();
        assert_same(&path, &name, &tensor);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2 + samples().len(), "no temporary file is left");
}

#[test]
fn bf16_is_refused_by_numpy_formats_and_the_old_file_stays() {
    let dir = folder();
    let path = dir.path().join("o.npy");
    fs::write(&path, b"old").unwrap();
    let tensor = Tensor::zeros(DType::Bf16, &[2]).unwrap();
    let message = save(&path, &[("o".into(), &tensor)]).unwrap_err().to_string();
    assert!(message.contains("o.npy") && message.contains(".safetensors"), "{message}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn sources() {
    let member = |text: &str| Source::parse(text).member;
    assert_eq!(member("a/x.npz:q").as_deref(), Some("q"));
    assert_eq!(member("C:/x.safetensors:layer.0:q").as_deref(), Some("layer.0:q"));
    assert_eq!((member("q.npy"), member("x:y.npy"), member("x.npz")), (None, None, None));
    assert_eq!(Source::parse("x.npz:q").to_string(), "x.npz:q");
}

#[test]
fn a_bare_archive_gives_the_wanted_name_or_the_only_one() {
    let dir = folder();
    let (many, one) = (dir.path().join("many.npz"), dir.path().join("one.safetensors"));
    let tensors = samples();
    save(&many, &refs(&tensors)).unwrap();
    save(&one, &refs(&tensors[1..2])).unwrap();
    let bare = |path: &PathBuf, wanted: &str| load(&Source { path: path.clone(), member: None }, wanted);
    assert_eq!(bare(&many, "len").unwrap().shape(), [2]);
    assert_eq!(bare(&one, "q").unwrap().shape(), [24]);
    let message = bare(&many, "v").unwrap_err().to_string();
    assert!(message.contains("`v`") && message.contains("`len`"), "{message}");
}

/// An npy file of version 1 with this dictionary.
fn npy(dict: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(((dict.len() + 1) as u16).to_le_bytes());
    bytes.extend(dict.as_bytes());
    bytes.push(b'\n');
    bytes.extend(data);
    bytes
}

fn error_of(dir: &TempDir, name: &str, bytes: &[u8]) -> String {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let message = load(&Source { path, member: None }, "q").expect_err("a bad file").to_string();
    assert!(message.contains(name), "the file is not named: {message}");
    message
}

#[test]
fn fortran_order_and_foreign_bytes() {
    let dir = folder();
    let path = dir.path().join("f.npy");
    let data: Vec<u8> = (0..6u16).flat_map(|n| f32::from(n).to_be_bytes()).collect();
    fs::write(&path, npy("{'descr': '>f4', 'fortran_order': True, 'shape': (2, 3), }", &data)).unwrap();
    let read = load(&Source { path, member: None }, "q").unwrap();
    assert_eq!(read.shape(), [2, 3]);
    assert_eq!(read.view().unwrap().strides(), [1, 2]);
    assert_eq!(read.view().unwrap().to_f64_vec(), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
}

#[test]
fn hostile_npy_headers() {
    let dir = folder();
    let plain = |descr: &str, shape: &str| {
        format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}")
    };
    let max = "9223372036854775807";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "0 bytes"),
        ("magic", b"not a numpy file".to_vec(), "byte 0"),
        ("version", b"\x93NUMPY\x09\x00aaaaaaaa".to_vec(), "version 9"),
        ("length", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}".to_vec(), "4294967295 bytes"),
        ("dict", npy("[1, 2]", &[]), "no array description"),
        ("nesting", npy(&"(".repeat(5000), &[]), "nests"),
        ("escape", npy("{'descr': '\\U00110000'}", &[]), "backslash"),
        ("missing", npy("{'descr': '<f4', 'shape': (1,), }", &[0; 4]), "`fortran_order`"),
        ("object", npy(&plain("'|O'", "(1,)"), &[0; 8]), "pickles"),
        ("fields", npy(&plain("[('a', '<f4')]", "(1,)"), &[0; 4]), "structured"),
        ("unsigned", npy(&plain("'<u4'", "(1,)"), &[0; 4]), "int32"),
        ("complex", npy(&plain("'<c8'", "(1,)"), &[0; 8]), "c8"),
        ("order", npy(&plain("'|f4'", "(1,)"), &[0; 4]), "byte order"),
        ("negative", npy(&plain("'<f4'", "(-1,)"), &[]), "`shape`"),
        ("overflow", npy(&plain("'<f4'", &format!("({max}, {max})")), &[]), "more bytes than can be counted"),
        ("huge", npy(&plain("'<f4'", "(1000000000000,)"), &[0; 4]), "truncated"),
        ("short", npy(&plain("'<f4'", "(2, 3)"), &[0; 20]), "needs 24 bytes, 20 are there"),
        ("long", npy(&plain("'<f4'", "(2, 3)"), &[0; 25]), "something follows"),
        ("rank", npy(&plain("'<f4'", "(1, 1, 1, 1, 1, 1, 1, 1, 1)"), &[0; 4]), "at most 8"),
        ("bits", npy(&plain("'|b1'", "(2,)"), &[0, 2]), "expected 0 or 1"),
    ];
    for (name, bytes, expected) in cases {
        let message = error_of(&dir, &format!("{name}.npy"), &bytes);
        assert!(message.contains(expected), "{name}: {message}");
    }
}

fn checkpoint(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn hostile_safetensors_headers() {
    let dir = folder();
    let tensor = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"q":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("short", vec![1, 2, 3], "3 bytes"),
        ("beyond", u64::MAX.to_le_bytes().to_vec(), "18446744073709551615 bytes"),
        ("json", checkpoint("{", &[]), "header"),
        ("deep", checkpoint(&"[".repeat(100_000), &[]), "header"),
        ("offsets", checkpoint(&tensor("F32", "[1]", 8, 4), &[0; 8]), "header"),
        ("outside", checkpoint(&tensor("F32", "[4]", 0, 16), &[0; 8]), "8 are there"),
        ("gap", checkpoint(&tensor("F32", "[1]", 4, 8), &[0; 8]), "header"),
        ("overflow", checkpoint(&tensor("F32", "[9223372036854775807,9]", 0, 4), &[0; 4]), "header"),
        ("size", checkpoint(&tensor("F32", "[3]", 0, 4), &[0; 4]), "header"),
        ("dtype", checkpoint(&tensor("F8_E5M2", "[4]", 0, 4), &[0; 4]), "F8_E5M2 cannot be bound"),
        ("bits", checkpoint(&tensor("BOOL", "[2]", 0, 2), &[1, 9]), "expected 0 or 1"),
        ("nothing", checkpoint("{}", &[]), "no tensor"),
    ];
    for (name, bytes, expected) in cases {
        let message = error_of(&dir, &format!("{name}.safetensors"), &bytes);
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn files_that_are_not_there_or_not_tensors() {
    let dir = folder();
    let error = |name: &str| {
        load(&Source::parse(dir.path().join(name).to_str().unwrap()), "q").unwrap_err().to_string()
    };
    assert!(error("gone.npy").contains("cannot be opened"));
    assert!(error("x.pt").contains("expected .npy, .npz or .safetensors"));
    fs::create_dir(dir.path().join("d.npz")).unwrap();
    assert!(error("d.npz").contains("no regular file"));
    fs::write(dir.path().join("text.npz"), "no zip").unwrap();
    assert!(error("text.npz").contains("no .npz (zip) file"));
}

#[derive(Clone, Debug)]
enum Mutation {
    Byte(usize, u8),
    Word(usize, u32),
    Cut(usize),
    Splice(usize, usize, usize),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let one = prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, b)| Mutation::Byte(at, b)),
        2 => (any::<usize>(), prop_oneof![Just(u32::MAX), Just(0), Just(1 << 31), any::<u32>()])
            .prop_map(|(at, w)| Mutation::Word(at, w)),
        1 => any::<usize>().prop_map(Mutation::Cut),
        1 => (any::<usize>(), any::<usize>(), 1..64usize).prop_map(|(a, b, n)| Mutation::Splice(a, b, n)),
    ];
    prop::collection::vec(one, 1..6)
}

fn apply(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let len = bytes.len();
    if len < 8 {
        return;
    }
    match *mutation {
        Mutation::Byte(at, b) => bytes[at % len] = b,
        Mutation::Word(at, w) => bytes[at % (len - 4)..][..4].copy_from_slice(&w.to_le_bytes()),
        Mutation::Cut(at) => bytes.truncate(at % len),
        Mutation::Splice(from, to, n) => {
            let piece: Vec<u8> = bytes[from % len..].iter().take(n).copied().collect();
            let at = to % len;
            bytes.splice(at..at, piece);
        }
    }
}

/// Most bytes of address space that the process has had.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmPeak:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[test]
fn mutated_files_never_panic_nor_ask_for_much() {
    let dir = folder();
    let tensors = samples();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for name in ["a.npz", "a.safetensors"] {
        save(&dir.path().join(name), &refs(&tensors)).unwrap();
        files.push((name.into(), fs::read(dir.path().join(name)).unwrap()));
    }
    save(&dir.path().join("a.npy"), &[("q".into(), &tensors[0].1)]).unwrap();
    files.push(("a.npy".into(), fs::read(dir.path().join("a.npy")).unwrap()));

    let before = peak();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(3000));
    runner
        .run(&(0..files.len(), mutations()), |(n, list)| {
            let (name, valid) = &files[n];
            let mut bytes = valid.clone();
            list.iter().for_each(|m| apply(&mut bytes, m));
            let path = dir.path().join(name);
            fs::write(&path, &bytes).unwrap();
            if let Ok(mut file) = TensorFile::open(&path) {
                let mut names = file.names();
                names.push("q".into());
                for name in names {
                    if let Ok(tensor) = file.read(&name) {
                        let elements: usize = tensor.shape().iter().product();
                        prop_assert!(
                            elements <= bytes.len() * 1032,
                            "{elements} elements of {} bytes",
                            bytes.len()
                        );
                    }
                }
            }
            Ok(())
        })
        .unwrap();
    let grown = peak() - before;
    assert!(grown < 200 << 20, "hostile files made the process grow by {grown} bytes");
}
