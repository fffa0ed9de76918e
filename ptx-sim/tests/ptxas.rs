//! Every kernel of `tests/ptx` is PTX: ptxas takes it. `ATTN_PTXAS=path` says where ptxas is; without it this checks nothing.

use std::process::Command;

#[test]
fn ptxas_takes_every_kernel() {
    let Ok(ptxas) = std::env::var("ATTN_PTXAS") else {
        println!("ATTN_PTXAS is not set: nothing was assembled");
        return;
    };
    let folder = format!("{}/tests/ptx", env!("CARGO_MANIFEST_DIR"));
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
    }
}
