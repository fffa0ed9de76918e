//! One option for the linker. In: nothing; out: the symbols of LLVM's and MLIR's archives stay inside the program. They
//! would otherwise be exported and so all be kept, which makes the program larger and its start slower.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,--exclude-libs,ALL");
}
