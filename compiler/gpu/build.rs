//! Gives the GPU backend a name for itself: a hash of its own sources, so that a kernel in a disk cache is never
//! taken for one that a changed compiler would make.
//!
//! Comes in: `src/` and the worker's. Goes out: the environment variable `ATTN_GPU_SOURCES`, which
//! is [`VERSION`](attn_compiler_gpu::VERSION). Deliberately not hashed: dependencies (their versions are locked).

use std::path::{Path, PathBuf};

fn main() {
    let mut files = Vec::new();
    for dir in ["src", "worker/src"] {
        println!("cargo::rerun-if-changed={dir}");
        walk(Path::new(dir), &mut files);
    }
    files.sort();
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    for file in files {
        let text = std::fs::read(&file).expect("a source file that can be read");
        hash.add(file.to_string_lossy().as_bytes());
        hash.add(&(text.len() as u64).to_le_bytes());
        hash.add(&text);
    }
    println!("cargo::rustc-env=ATTN_GPU_SOURCES={:016x}", hash.0);
}

fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { walk(&path, out) } else { out.push(path) }
    }
}

/// FNV-1a, 64 bits: tells versions of one honest source apart, nothing more.
struct Fnv(u64);

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
