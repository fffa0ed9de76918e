//! Every kernel of `tests/ptx` is PTX: ptxas takes it. `ATTN_PTXAS` must be the path of one, as `tests/run` sets it.

use std::process::Command;

#[test]
fn ptxas_takes_every_kernel() {
    let ptxas = std::env::var("ATTN_PTXAS").expect(
        "ATTN_PTXAS must be the path of ptxas: run tests/run, or eval \"$(tests/run --setup-only)\" first",
    );
    let folder = format!("{}/tests/ptx", env!("CARGO_MANIFEST_DIR"));
    let mut taken = 0;
    for file in std::fs::read_dir(folder).expect("the folder") {
        let path = file.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let target = text.lines().find_map(|l| l.strip_prefix(".target ")).expect("a target");
        let out = Command::new(&ptxas)
            .args(["-arch", target, "-o", "/dev/null"])
            .arg(&path)
            .output()
            .unwrap_or_else(|e| panic!("{ptxas}: {e}"));
        assert!(out.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&out.stderr));
        taken += 1;
    }
    assert!(taken > 0, "the folder has kernels");
}
