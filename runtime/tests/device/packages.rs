//! Packages: there and back, every truncation, every altered byte, trust.

use attn_runtime::package::Package;
use attn_runtime::{DataFault, Device, ErrorKind, LoadedKernel, RunOptions, TensorView, TensorViewMut};

use crate::ptx::{scale_artifact, scale_rows, through_workspace};

#[test]
fn a_package_runs_as_the_artifact_did() {
    let artifact = through_workspace();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernel.attnk");
    std::fs::write(&path, Package::write(&artifact).unwrap()).unwrap();
    let package = Package::open(&path).unwrap();
    assert_eq!((package.name(), package.target(), package.hash().len()), ("by_hand", "sm_80", 64));
    let hash = package.hash().to_string();
    let again = package.clone().trust_hash(&hash.to_uppercase()).unwrap();
    assert_eq!(again.launches, artifact.launches);
    let kernel = LoadedKernel::load_on(package.trust(), &[], &Device::Simulator).unwrap();
    let x = [1f32, 2.0, 3.0];
    let mut state = [0f32; 3];
    let mut outputs = [("state", TensorViewMut::new(&mut state, &[3]).unwrap())];
    let inputs = [("x", TensorView::new(&x, &[3]).unwrap())];
    kernel.run(&inputs, &mut outputs, &[], &RunOptions::default()).unwrap();
    assert_eq!(state, [4.0, 3.0, 2.0]);
}

#[test]
fn every_truncation_and_every_altered_byte_is_refused() {
    let whole = Package::write(&scale_artifact(&scale_rows("scale_rows"))).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        let err = Package::read(bytes).expect_err(what);
        assert_eq!(err.kind(), ErrorKind::Data(DataFault::File), "{what}");
        assert!(err.to_string().contains("the package cannot be used"), "{what}: {err}");
        err.to_string()
    };
    for len in 0..whole.len() {
        let text = refused(&whole[..len], &format!("cut to {len} bytes"));
        let part = match len {
            0..8 => "no package is so short",
            8..52 => "its head ends after",
            _ => "the head says",
        };
        assert!(text.contains(part), "cut to {len} bytes: {text}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let text = refused(&bytes, &format!("byte {at} altered"));
        let part = match at {
            0..8 => "no package of a kernel",
            8..12 => "it has format",
            12..20 => "the head says",
            _ => "its hash does not match",
        };
        assert!(text.contains(part), "byte {at} altered: {text}");
    }
    refused(&[whole.as_slice(), &[0]].concat(), "one byte more");
}

#[test]
fn files_are_named_and_other_hashes_are_refused() {
    let err = Package::open("/nowhere/kernel.attnk").unwrap_err();
    assert!(
        err.to_string().contains("/nowhere/kernel.attnk") && err.to_string().contains("cannot be read"),
        "{err}"
    );
    let package = Package::read(&Package::write(&through_workspace()).unwrap()).unwrap();
    let err = package.trust_hash("00").unwrap_err();
    assert!(err.to_string().contains("expected 00"), "{err}");
}
